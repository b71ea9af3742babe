"""Records -> what a study says: its contrasts, outcomes, the noise floor, and the answer in a sentence.

analyse(records, study) -> Analysis;  answer(analysis) -> one sentence
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aotsearch.errors import InputError
from aotsearch.evidence.contrast import Contrast, View, contrast, looks, mixture, pairs, said_of, simple_effects, with_p
from aotsearch.evidence.declaration import History
from aotsearch.evidence.statistics import (
    VERDICTS,
    Looks,
    NoiseFloor,
    noise_floor,
    reach,
    span,
    too_few,
    wilson,
)
from aotsearch.evidence.tables import arms_met, arms_of, cells, left_out, measured, searched, unconfirmed
from aotsearch.study.design import REFERENCE, Changes, Comparison, equal_terms, spell
from aotsearch.study.rates import TUNE_SEED, Rate, chosen, used
from aotsearch.study.study import Study

Record = Mapping[str, Any]
SAME = ("device", "precision", "steps", "tokens")  # what trials must share to be compared
NAMED = 4  # trials that a note names; the ledger has all


@dataclass(frozen=True)
class Outcome:
    """How the trials of one arm ended; `rate` is the share that diverged among those that could, with its Wilson interval."""

    arm: str
    counts: Mapping[str, int]
    rate: float | None
    low: float | None
    high: float | None

    @property
    def trials(self) -> int:
        return sum(self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        return {"arm": self.arm, "counts": dict(self.counts), "diverged_rate": self.rate, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Analysis:
    """What the records say.

    Attributes:
        value, low, high: Mean of the reference over its seeds, with its own (not simultaneous) interval.
        warnings: What makes the verdicts say little, to be read before anything else; in `to_dict` they lead the notes.
        noise: What seeds alone do to the reference (A/A): its standard deviation, and how far two single runs of it differ.
        smallest_effect: Half width of a simultaneous interval at the median paired standard deviation.
        finished, expected: Trials that ended, and that the design asks for (None for a search, which decides as it goes).
        outcomes: Per arm of the judged phase, then of the search.
        seeds: The seeds of the study.
        family: How many contrasts share the error rate (K).
        rates: Arm -> what tuning found for it, where the study tunes learning rates.
        declaration: What decides verdicts and was changed after trials had ended, in words.
        rate_noise: What seeds alone do to the measure by which a rate is chosen; None where nothing is tuned, or not known.
        looks: Between which numbers of seeds they were chosen by looking; None where their number was fixed.
        aliases: Effect of a fraction -> the effects that it can not be told from.
    """

    name: str
    question: str
    measure: str
    unit: str
    margin: float
    confidence: float
    reference: str
    value: float | None
    low: float | None
    high: float | None
    contrasts: tuple[Contrast, ...]
    noise: NoiseFloor | None
    smallest_effect: float | None
    method: str
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]
    finished: int
    expected: int | None
    seeds: tuple[int, ...]
    family: int
    rates: Mapping[str, Rate] = field(default_factory=dict)
    declaration: tuple[str, ...] = ()
    rate_noise: float | None = None
    looks: Looks | None = None
    warnings: tuple[str, ...] = ()
    aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def noise_floor(self) -> float | None:
        """Standard deviation of the reference over its seeds."""
        return self.noise.sd if self.noise else None

    @property
    def rate(self) -> str:
        """The learning rates that the study asks for: `tuned`, each arm's own, or one that is `shared`."""
        return "tuned" if self.rates else "shared"

    @property
    def interval(self) -> str:
        """The kind of interval, in words."""
        return "Student t" if self.looks is None else f"repeated looks from {self.looks[0]} to {self.looks[1]} seeds"

    def by_noise(self, arm: str) -> bool:
        """Whether the best learning rate of an arm beats the next by no more than seeds alone could make it."""
        lead = self.rates[arm].lead if arm in self.rates else None
        return lead is not None and self.rate_noise is not None and lead < self.rate_noise

    @property
    def partial(self) -> bool:
        return self.expected is not None and self.finished < self.expected

    @property
    def digits(self) -> int:
        """Decimals that show a tenth of the margin."""
        return max(3, math.ceil(-math.log10(self.margin)) + 1)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `aotsearch report --json`."""
        names = ("measure", "unit", "margin", "confidence", "reference", "noise_floor", "smallest_effect", "method", "finished", "expected")
        return {
            **{name: getattr(self, name) for name in names},
            "noise": dataclasses.asdict(self.noise) if self.noise else None,
            "reference_value": {"mean": self.value, "low": self.low, "high": self.high},
            "partial": self.partial,
            "seeds": list(self.seeds),
            "interval": self.interval,
            "learning_rate": self.rate,
            "answer": answer(self),
            "declaration": list(self.declaration),
            "warnings": list(self.warnings),
            "notes": [*self.warnings, *self.notes],
            "contrasts": [c.to_dict() for c in self.contrasts],
            "outcomes": [o.to_dict() for o in self.outcomes],
            "learning_rates": {
                arm: {
                    "chosen": r.value,
                    "edge": r.edge,
                    "by_noise": self.by_noise(arm),
                    "tried": [[rate, v if math.isfinite(v) else None] for rate, v in r.tried.items()],
                }
                for arm, r in self.rates.items()
            },
            "aliases": {effect: list(others) for effect, others in self.aliases},
        }


# ---- records -> analysis


def analyse(records: Iterable[Record], study: Study, declaration: tuple[str, ...] = ()) -> Analysis:
    """Every comparison of the study, from the trials of the design, or of the confirmation where the study is a search.

    Args:
        declaration: What decides verdicts and was changed after trials had ended.

    Raises:
        InputError: the trials are not comparable.
    """
    everything, settings = list(records), study.settings
    search = settings.design == "search"
    phase = [r for r in everything if r["phase"] == ("confirm" if search else "design")]
    declared = _candidates(everything, phase, study) if search else study.comparisons
    met = {REFERENCE, *(arm for c in declared for arm in c.weights)}
    rates = {arm: chosen(everything, arm, study.task.measure) for arm in sorted(met)} if settings.tuning else {}
    views = [View(mode, cells(phase, met, rates, mode)) for mode in (("tuned", "shared") if rates else ("shared",))]
    judged = list({r["key"]: r for view in views for r in view.records}.values())
    _refuse_mixtures(judged)
    simple = [c for c in declared if c.kind == "simple"]
    declared = tuple(c for c in declared if c.kind != "simple")
    family = max(1, len(declared), len(study.comparisons) + settings.search.confirm if search else 0) * len(views)
    seeds = sorted({r["seed"] for r in judged} | (set() if search else set(settings.first_seeds)))
    contrasts = [contrast(c, view, study, family, seeds) for view in views for c in declared]
    values = [y for y in (measured(r, study) for r in views[0].cells.get(REFERENCE, {}).values()) if y is not None]
    mean, low, high = span(values, settings.confidence, 1, looks(study)) if values else (None, None, None)
    noise = noise_floor(values, settings.confidence)
    analysis = Analysis(
        name=study.name,
        question=study.question,
        measure=study.task.measure,
        unit=study.task.unit,
        margin=settings.margin,
        confidence=settings.confidence,
        reference=REFERENCE,
        value=mean,
        low=low,
        high=high,
        contrasts=with_p(contrasts, views, declared, study, family) + simple_effects(contrasts, simple, views, study, seeds),
        noise=noise,
        smallest_effect=_smallest_effect(contrasts, settings.confidence, family, looks(study)),
        method=_method(study, family, len(simple) * len(views), bool(declaration)),
        outcomes=_outcomes(judged, everything, study),
        notes=(),
        finished=len(phase) + sum(r["phase"] == "tune" for r in everything),
        expected=None if search or settings.adaptive else expected(everything, study),
        seeds=tuple(seeds),
        family=family,
        rates=rates,
        rate_noise=noise.difference / math.sqrt(settings.tuning.seeds) if noise and settings.tuning else None,
        looks=looks(study),
        declaration=declaration,
        aliases=() if search else study.base_design.aliases,
    )
    notes = _notes(analysis, len(values), search, settings.adaptive is None) + _rate_notes(analysis, study) + _lost(everything)
    notes += _mixtures(declared, views, study) + (_search_notes(everything, study) if search else [])
    return dataclasses.replace(analysis, notes=(*notes, *study.notes))


def judge(records: Iterable[Record], history: History) -> Analysis:
    """The analysis of a run folder as it is declared now, each verdict beside that of the first declaration where this was changed.

    Raises:
        InputError: the trials are not comparable.
    """
    everything = list(records)
    found = analyse(history.place(everything), history.study, history.changes)
    found = dataclasses.replace(found, declaration=(*filter(None, [history.lost]), *history.changes, *filter(None, [history.edited])))
    if not history.changes:
        return found
    first, last = history.first, history.last
    verdicts = {
        (first.identity(c.kind, c.arm, c.equalise), c.rate): c.verdict
        for c in analyse(history.place_first(everything), history.original).contrasts
    }

    def beside(c: Contrast) -> Contrast:
        said = verdicts.get((last.identity(c.kind, c.arm, c.equalise), c.rate), "not declared")
        return dataclasses.replace(c, declared=said, remark="; ".join(filter(None, [c.remark, f"as first declared: {said}"])))

    return dataclasses.replace(found, contrasts=tuple(map(beside, found.contrasts)))


def expected(records: Sequence[Record], study: Study, models: Mapping[str, str] | None = None) -> int:
    """How many trials the arms of a study ask for, as far as it is known: tuning may add rates, and open verdicts seeds.

    Those that have ended count, whether they are still asked for or not; so does once what two arms share, because an own rate is the
    shared one, or a model of equal size the same model.

    Args:
        models: Arm -> digest, or any name of its own where the model is not known yet; by default of the arms of the study.
    """
    s, measure = study.settings, study.task.measure
    if models is None:
        known = {arm: r["digest"] for r in records for arm in arms_of(r)}
        models = {name: known.get(name, name) for name in study.arm_names}
    judged = {(r["digest"], r["learning_rate"], r["seed"]) for r in records if r["phase"] in ("design", "confirm")}
    if s.tuning is None:
        return len({(model, seed) for model, _, seed in judged} | set(itertools.product(models.values(), s.first_seeds)))
    tuned = {(r["digest"], r["learning_rate"], r["seed"]) for r in records if r["phase"] == "tune"}
    tuned |= set(itertools.product(models.values(), s.tuning.tune, range(TUNE_SEED, TUNE_SEED + s.tuning.seeds)))
    rates = {name: chosen(records, name, measure) for name in models}
    trained = {(model, used(rates, name, REFERENCE, mode)) for name, model in models.items() for mode in ("shared", "tuned")}
    return len(tuned) + len(judged | {(*pair, seed) for pair in trained for seed in s.first_seeds})


def unsettled(records: Sequence[Record], study: Study) -> set[str]:
    """The arms of every comparison that is still undecided and may have more seeds."""
    names: set[str] = set()
    for c in analyse(records, study).contrasts:
        if c.verdict == "undecided" and c.kind != "simple" and "diverged" not in c.remark:
            names |= study.weights(c.arm, c.equalise).keys()
    return names


def _candidates(records: list[Record], confirmed: list[Record], study: Study) -> tuple[Comparison, ...]:
    """What a study with a search compares: its arms as declared, then candidates against the reference, the most promising first."""
    scores = {r["digest"]: measured(r, study) for r in records if r["phase"] == "search"}
    found = {r["arm"]: r for r in confirmed if r["arm"] not in study.arm_names}

    def rank(name: str) -> tuple[float, str]:
        score = scores.get(found[name]["digest"])
        return (math.inf if score is None else score, name)

    def changes(name: str) -> Changes:
        return tuple((k, a, b) for k, (a, b) in found[name]["changes"].items())

    return (*study.comparisons, *(Comparison(n, "change", changes(n), {n: 1.0, REFERENCE: -1.0}) for n in sorted(found, key=rank)))


def _refuse_mixtures(judged: list[Record]) -> None:
    done = [r for r in judged if r["outcome"] == "done"]
    for name in SAME:
        kinds = Counter(str(r.get(name)) for r in done)
        if len(kinds) > 1:
            shares = ", ".join(f"{kind} in {count} trials" for kind, count in sorted(kinds.items()))
            raise InputError(f"trials are compared only if alike, but {name} is {shares}; run the study in a new --out folder")
    digests: dict[str, str] = {}
    for r in done:
        if digests.setdefault(r["arm"], r["digest"]) != r["digest"]:
            raise InputError(f"arm {r['arm']!r} is two different models in this ledger; run the study in a new --out folder")


def _smallest_effect(contrasts: Sequence[Contrast], confidence: float, family: int, looks: Looks | None) -> float | None:
    known = [(c.sd_paired, c.seeds) for c in contrasts if c.sd_paired is not None and c.seeds >= (looks[0] if looks else 2)]
    if not known:
        return None
    n = int(np.median([n for _, n in known]))
    return reach(n, confidence, family, looks) * float(np.median([sd for sd, _ in known])) / math.sqrt(n)


def _notes(analysis: Analysis, seeds: int, search: bool, again: bool) -> list[str]:
    """What a reader must know before trusting the table.

    Args:
        seeds: How many the reference has.
        again: Whether further seeds would be a look that was not declared.
    """
    notes, smallest = [], analysis.smallest_effect
    if analysis.partial:
        ended = f"{analysis.finished} of {analysis.expected} trials have ended"
        notes.append(f"partial: {ended}; intervals hold for a complete run, so read this as a preview")
    if search and not any(c.seeds for c in analysis.contrasts):
        notes.append("the search is not confirmed: its ranking rests on one seed each and proves nothing")
    if search and analysis.contrasts:
        notes.append("verdicts speak of the reference: harmful means that the candidate is better, necessary that it is worse")
    if seeds < 2:
        notes.append(f"the reference has {seeds} finished seed{'s' * (seeds != 1)}: an interval needs two at least, five are a sound start")
    elif seeds < (analysis.looks[0] if analysis.looks else 5):
        notes.append(_few(seeds, analysis))
    paired = seeds if analysis.looks is None else min([seeds, *(c.seeds for c in analysis.contrasts if c.low is not None)])
    if seeds > 1 and too_few(paired, analysis.confidence, analysis.family):
        hidden = ", and no p-value is shown" if analysis.looks is None and all(c.p is None for c in analysis.contrasts) else ""
        notes.append(too_few(paired, analysis.confidence, analysis.family) + hidden)
    if again and any(c.seeds_needed for c in analysis.contrasts):
        notes.append(
            "seeds that are added now are a further look, and intervals widen to allow for it; a study that may look again declares "
            f"seeds: {{min: {max(2, len(analysis.seeds))}, max: {3 * max(2, len(analysis.seeds))}}} before it runs"
        )
    if smallest is not None and smallest > analysis.margin:
        notes.append(
            f"at this noise an interval reaches {smallest:.3g} {analysis.unit} to each side, more than the margin of {analysis.margin:g}: "
            "a typical contrast can not be found redundant; add seeds, or declare a wider margin before the next run"
        )
    return notes


def _few(seeds: int, analysis: Analysis) -> str:
    if analysis.looks is not None:
        return f"{seeds} seeds so far: the first look, and with it any interval, is at {analysis.looks[0]}"
    half = reach(seeds, analysis.confidence, analysis.family, None) / math.sqrt(seeds)
    return (
        f"only {seeds} seeds for {analysis.family} contrasts: an interval reaches {half:.3g} standard deviations of the difference to "
        "each side; every further seed narrows it fast"
    )


def _rate_notes(analysis: Analysis, study: Study) -> list[str]:
    """Whose own learning rate may not be its best."""
    first: dict[Any, str] = {}  # arms that are the same model were tuned by the same trials
    for arm, rate in analysis.rates.items():
        first.setdefault(tuple(rate.tried.items()) or arm, arm)
    edges = [arm for arm in first.values() if analysis.rates[arm].edge]
    near = [arm for arm in first.values() if analysis.by_noise(arm)]
    notes = []
    if edges:
        notes.append(f"the best learning rate lies at the end of those tried for {', '.join(edges)}: a better one may lie beyond")
    if near:
        tuning = study.settings.tuning
        assert tuning is not None
        by = f"{tuning.seeds} tuning seed{'s' * (tuning.seeds > 1)}"
        notes.append(
            f"the best learning rate beats the next by less than {analysis.rate_noise:.3g} {analysis.unit}, which seeds alone make of "
            f"{by}, for {', '.join(near)}: under other seeds another may be chosen; more seeds for tuning tell them apart"
        )
    return notes


PARTS = {"test": "the test split", "diagnostics": "the diagnostics", "knock_out": "the knock-out"}


def _lost(records: Iterable[Record]) -> list[str]:
    """What could not be measured of trials that trained well, and values that are no numbers."""
    reasons: dict[str, list[str]] = {}
    values = []
    for r in records:
        for part, reason in (r.get("unmeasured") or {}).items():
            reasons.setdefault(part, []).append(f"{_trial(r)}: {reason}")
        odd = r.get("not_finite") or {}
        if odd:
            path, value = next(iter(odd.items()))
            values.append(f"{_trial(r)}: {path} is {value}" + f" and {len(odd) - 1} more" * (len(odd) > 1))
    notes = [
        f"{PARTS.get(part, part)} could not be measured in {_trials(len(said))}, trained as planned and judged by the validation split "
        f"({_few_of(said)}); aotsearch run --retry-failed trains them again"
        for part, said in reasons.items()
    ]
    return notes + ([f"{_trials(len(values))} gave values that are not finite, which are left out ({_few_of(values)})"] if values else [])


def _trial(r: Record) -> str:
    return f"{r['arm']} seed {r['seed']}"


def _trials(n: int) -> str:
    return f"{n} trial{'s' * (n != 1)}"


def _few_of(said: Sequence[str]) -> str:
    return "; ".join([*said[:NAMED], *([f"and {len(said) - NAMED} more"] if len(said) > NAMED else [])])


def _mixtures(declared: Iterable[Comparison], views: Iterable[View], study: Study) -> list[str]:
    """Which pairs are of trials that were not made alike, by what they do not share; the verdicts rest on them all the same."""
    made: dict[frozenset[str], tuple[str, dict[str, tuple[str, ...]]]] = {}  # a pair that stands under several terms counts once
    for view in views:
        for c in declared:
            for seed, trials in pairs(c, view, study).items():
                made.setdefault(frozenset(r["key"] for r in trials), (f"{c.name} seed {seed}", mixture(trials)))
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for label, unlike in made.values():
        for name, values in unlike.items():
            found.setdefault(name, []).append((label, values))
    moves = {"data": "their difference is not of the arms alone"}
    usual = "such a change moves losses in the last digits, and after hundreds of steps in the second"
    return [
        f"{len(rows)} of {len(made)} pairs mix {said_of(name)} {' and '.join(sorted({v for _, values in rows for v in values}))} "
        f"({_few_of([label for label, _ in rows])}): {moves.get(name, usual)}"
        for name, rows in found.items()
    ]


def _search_notes(everything: Sequence[Record], study: Study) -> list[str]:
    tried = searched(everything, study)
    ended = len(tried) >= study.settings.search.trials or any(r["phase"] == "confirm" for r in everything)
    return left_out(everything, study) + (unconfirmed(tried, study) if ended else [])


def _outcomes(judged: list[Record], everything: list[Record], study: Study) -> tuple[Outcome, ...]:
    arms = [_outcome(arm, [r for r in judged if arm in arms_of(r)], study) for arm in arms_met(judged, study)]
    searched = [r for r in everything if r["phase"] == "search"]
    return tuple(arms + ([_outcome("search", searched, study)] if searched else []))


def _outcome(arm: str, records: list[Record], study: Study) -> Outcome:
    counts = Counter(r["outcome"] for r in records)
    told = counts["done"] + counts["diverged"] + counts["stopped"]
    if not told:
        return Outcome(arm, dict(sorted(counts.items())), None, None, None)
    low, high = wilson(counts["diverged"], told, study.settings.confidence)
    return Outcome(arm, dict(sorted((k, v) for k, v in counts.items() if v)), counts["diverged"] / told, low, high)


def _method(study: Study, family: int, simple: int, changed: bool) -> str:
    """How the verdicts were come to; `simple` is how many simple effects the design has."""
    s = study.settings
    when = "as it is declared now (see the first lines)" if changed else "declared before the run"
    at_once = f"all {family} contrasts at once"
    if simple:
        at_once += f", and again for all {simple} simple effects, of which those are shown whose changes interact,"
    each = 100 * (1 - (1 - s.confidence) / family)
    corrected = f"{100 * s.confidence:g} % for {at_once} by Bonferroni's correction ({each:.4g} % for each contrast)"
    at = looks(study)
    if at is None:
        intervals = (
            f"Intervals are paired Student t intervals of its mean, {corrected}: exact where differences are normal, valid under any "
            "dependence between arms."
        )
    else:
        needed = (
            f"Seeds were added as needed: from {at[0]} to at most {at[1]}, an arm got one more while a comparison with it was undecided. "
        )
        moved = f"The number of seeds was declared anew after results could be seen, so each of {at[0]} to {at[1]} seeds counts as a look. "
        intervals = (moved if study.looked else needed) + (
            f"Intervals are repeated confidence intervals of its mean (Jennison and Turnbull 1989), {corrected}, at every look from "
            f"{at[0]} to {at[1]} seeds at once: so wide that choosing the number of seeds by the results does not harm them, exact where "
            "differences are normal, valid under any dependence between arms. Those on the test split, of diagnostics and of removed "
            "layers hold at every look too, since their seeds were chosen with the others."
        )
    rates = "Each arm is judged at its own learning rate, and beside it at the one that is best for the reference. " if s.tuning else ""
    return (
        "Every arm is trained under the same seeds as the reference: a seed fixes the initial values of all parameters that both have, the "
        "batches and their order. The whole validation split is evaluated. The unit of evidence is the difference within a seed. "
        f"{rates}{intervals} With the margin "
        f"{s.margin:g} {study.task.unit}, {when}, a part is redundant where the interval lies within the margin to both "
        "sides (equivalence, two one-sided tests), else necessary where it lies above zero, else harmful where it lies below zero, else "
        "undecided. A trial that diverged is counted, never dropped: if an arm diverges where the reference does not, its surviving seeds "
        "can not show that the part is not needed."
    )


# ---- the answer


def answer(analysis: Analysis) -> str:
    """One sentence: which of the reference's choices are necessary, redundant, harmful, undecided, and which act together, at the learning
    rates that the study asks for; then what the shared rate says where that is another."""
    text = _said([(c.verdict, _choice(c)) for c in analysis.contrasts if c.asked], analysis) or "nothing to judge yet"
    if analysis.rate == "tuned":
        other = _said([(two.verdict, _choice(two)) for one, two in beside(analysis.contrasts) if one.verdict != two.verdict], analysis)
        text += " (each arm at its own learning rate" + (f"; at the shared one {other})" if other else ")")
    return f"{text[0].upper()}{text[1:]}."


def _said(choices: Sequence[tuple[str, str]], analysis: Analysis) -> str:
    """Verdicts and what they are of, the same verdicts together."""
    heads = {"redundant": f"redundant within {analysis.margin:g} {analysis.unit}", "present": "acting together"}
    parts = []
    for word in (*VERDICTS[:-1], "present", VERDICTS[-1]):
        names = [choice for verdict, choice in choices if verdict == word]
        if names:
            parts.append(f"{heads.get(word, word)}: {', '.join(names)}")
    return "; ".join(parts)


def beside(contrasts: Iterable[Contrast]) -> list[tuple[Contrast, Contrast]]:
    """Each comparison at the learning rates asked for with the same one at the shared rate, where there are both."""
    everything = list(contrasts)
    asked = {(c.kind, c.arm, c.equalise): c for c in everything if c.asked}
    others = [((c.kind, c.arm, c.equalise), c) for c in everything if not c.asked]
    return [(asked[key], c) for key, c in others if key in asked]


def _choice(c: Contrast) -> str:
    """What the verdict speaks of: the reference's choice, and what it was compared with."""
    terms = list(filter(None, [c.where if c.alone else "", *equal_terms(c.equalise)]))
    if not c.alone:
        return f"{c.title} ({', '.join(terms)})" if terms else c.title
    ((address, here, there),) = c.changes
    return f"{address} {spell(here)} ({', '.join([f'against {spell(there)}', *terms])})"
