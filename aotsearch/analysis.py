"""Records -> what a study says: its contrasts, outcomes, the noise floor, and the answer in a sentence.

analyse(records, study) -> Analysis;  answer(analysis) -> one sentence
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from aotsearch.contrast import Contrast, View, contrast, simple_effects, with_p
from aotsearch.declaration import History
from aotsearch.design import REFERENCE, Changes, Comparison, spell
from aotsearch.errors import InputError
from aotsearch.inference import (
    VERDICTS,
    NoiseFloor,
    interval,
    noise_floor,
    quantile,
    too_few,
    wilson,
)
from aotsearch.rates import Rate, chosen, used
from aotsearch.study import Study
from aotsearch.tables import arms_met, arms_of, cells, left_out, measured, searched, unconfirmed

Record = Mapping[str, Any]
SAME = ("device", "precision", "steps", "tokens")  # what trials must share to be compared


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
        noise: What seeds alone do to the reference (A/A): its standard deviation, and how far two single runs of it differ.
        smallest_effect: Half width of a simultaneous interval at the median paired standard deviation.
        finished, expected: Trials that ended, and that the design asks for (None for a search, which decides as it goes).
        outcomes: Per arm of the judged phase, then of the search.
        seeds: The seeds of the study.
        family: How many contrasts share the error rate (K).
        rates: Arm -> what tuning found for it, where the study tunes learning rates.
        declaration: What decides verdicts and was changed after trials had ended, in words.
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
    aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @property
    def noise_floor(self) -> float | None:
        """Standard deviation of the reference over its seeds."""
        return self.noise.sd if self.noise else None

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
            "answer": answer(self),
            "declaration": list(self.declaration),
            "notes": list(self.notes),
            "contrasts": [c.to_dict() for c in self.contrasts],
            "outcomes": [o.to_dict() for o in self.outcomes],
            "learning_rates": {
                arm: {"chosen": r.value, "edge": r.edge, "tried": [[rate, v if math.isfinite(v) else None] for rate, v in r.tried.items()]}
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
    views = [View(mode, cells(phase, met, rates, mode)) for mode in (("shared", "tuned") if rates else ("shared",))]
    judged = list({r["key"]: r for view in views for r in view.records}.values())
    _refuse_mixtures(judged)
    simple = [c for c in declared if c.kind == "simple"]
    declared = tuple(c for c in declared if c.kind != "simple")
    family = max(1, len(declared), len(study.comparisons) + settings.search.confirm if search else 0) * len(views)
    seeds = sorted({r["seed"] for r in judged} | (set() if search else set(settings.first_seeds)))
    contrasts = [contrast(c, view, study, family, seeds) for view in views for c in declared]
    values = [y for y in (measured(r, study) for r in views[0].cells.get(REFERENCE, {}).values()) if y is not None]
    mean, low, high = _reference(values, settings.confidence)
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
        contrasts=with_p(contrasts, views, declared, study) + simple_effects(contrasts, simple, views, study, seeds),
        noise=noise_floor(values, settings.confidence),
        smallest_effect=_smallest_effect(contrasts, settings.confidence, family),
        method=_method(study, family, len(simple) * len(views), bool(declaration)),
        outcomes=_outcomes(judged, everything, study),
        notes=(),
        finished=len(judged) + sum(r["phase"] == "tune" for r in everything),
        expected=None if search or settings.adaptive else expected(everything, study),
        seeds=tuple(seeds),
        family=family,
        rates=rates,
        declaration=declaration,
        aliases=() if search else study.base_design.aliases,
    )
    notes = (*_notes(analysis, len(values), search, settings.adaptive is None), *(_search_notes(everything, study) if search else ()))
    return dataclasses.replace(analysis, notes=(*notes, *study.notes))


def judge(records: Iterable[Record], history: History) -> Analysis:
    """The analysis of a run folder as it is declared now, each verdict beside that of the first declaration where this was changed.

    Raises:
        InputError: the trials are not comparable.
    """
    everything = list(records)
    found = analyse(history.place(everything), history.study, history.changes)
    found = dataclasses.replace(found, declaration=(*history.changes, *filter(None, [history.edited])))
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


def expected(records: Sequence[Record], study: Study) -> int:
    """How many trials the study asks for, as far as it is known: tuning may add rates, and open verdicts seeds.

    An arm whose own rate is the shared one, or which is the same model at equal size, is trained once for both.
    """
    s, measure = study.settings, study.task.measure
    models = {arm: r["digest"] for r in records for arm in arms_of(r)}  # an arm that has not run yet counts as a model of its own
    names = {name: models.get(name, name) for name in study.arm_names}
    if s.tuning is None:
        return max(len(set(names.values())) * len(s.first_seeds), len([r for r in records if r["phase"] == "design"]))
    tuned = len([r for r in records if r["phase"] == "tune"])
    rates = {name: chosen(records, name, measure) for name in names}
    trained = {(model, used(rates, name, REFERENCE, mode)) for name, model in names.items() for mode in ("shared", "tuned")}
    return max(tuned, len(set(names.values())) * len(s.tuning.tune) * s.tuning.seeds) + len(trained) * len(s.first_seeds)


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


def _reference(values: list[float], confidence: float) -> tuple[float | None, float | None, float | None]:
    if len(values) < 2:
        return (values[0] if values else None), None, None
    return interval(values, confidence, 1)


def _smallest_effect(contrasts: Sequence[Contrast], confidence: float, family: int) -> float | None:
    known = [(c.sd_paired, c.seeds) for c in contrasts if c.sd_paired is not None and c.seeds > 1]
    if not known:
        return None
    n = int(np.median([n for _, n in known]))
    return quantile(n, confidence, family) * float(np.median([sd for sd, _ in known])) / math.sqrt(n)


def _notes(analysis: Analysis, seeds: int, search: bool, again: bool) -> tuple[str, ...]:
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
    elif seeds < 5:
        reach = quantile(seeds, analysis.confidence, analysis.family) / math.sqrt(seeds)
        notes.append(
            f"only {seeds} seeds for {analysis.family} contrasts: an interval reaches {reach:.3g} standard deviations of the difference to "
            "each side; every further seed narrows it fast"
        )
    if seeds > 1 and too_few(seeds, analysis.confidence, analysis.family):
        notes.append(too_few(seeds, analysis.confidence, analysis.family))
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
    return tuple(notes)


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
    return (
        "Every arm is trained under the same seeds as the reference: a seed fixes the initial values of all parameters that both have, the "
        "batches and their order. The whole validation split is evaluated. The unit of evidence is the difference within a seed. "
        f"Intervals are paired Student t intervals of its mean, {100 * s.confidence:g} % for {at_once} by "
        f"Bonferroni's correction ({each:.4g} % for each contrast): exact where differences are normal, valid "
        "under any dependence between arms. With the margin "
        f"{s.margin:g} {study.task.unit}, {when}, a part is redundant where the interval lies within the margin to both "
        "sides (equivalence, two one-sided tests), else necessary where it lies above zero, else harmful where it lies below zero, else "
        "undecided. A trial that diverged is counted, never dropped: if an arm diverges where the reference does not, its surviving seeds "
        "can not show that the part is not needed."
    )


# ---- the answer


def answer(analysis: Analysis) -> str:
    """One sentence: which of the reference's choices are necessary, redundant, harmful, undecided, and which act together."""
    heads = {"redundant": f"redundant within {analysis.margin:g} {analysis.unit}", "present": "acting together"}
    parts = []
    for word in (*VERDICTS[:-1], "present", "absent", VERDICTS[-1]):
        names = [_choice(c) for c in analysis.contrasts if c.verdict == word and word != "absent"]
        if names:
            parts.append(f"{heads.get(word, word)}: {', '.join(names)}")
    text = "; ".join(parts) or "nothing to judge yet"
    return f"{text[0].upper()}{text[1:]}."


def _choice(c: Contrast) -> str:
    """What the verdict speaks of: the reference's choice, and what it was compared with."""
    if len(c.changes) != 1:
        return c.label
    ((address, here, there),) = c.changes
    said = c.label.removeprefix(c.change).strip().strip("()") if c.kind == "change" else ""
    against = ", ".join(filter(None, [f"against {spell(there)}", c.where, said]))
    return f"{address} {spell(here)} ({against})"
