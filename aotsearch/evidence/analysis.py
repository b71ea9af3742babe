"""Records -> what a study says: every comparison judged, with what a reader must know beside it.

analyse(records, study) -> Analysis;  judge(records, history) -> Analysis
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from aotsearch.errors import InputError
from aotsearch.evidence import front
from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.declaration import History
from aotsearch.evidence.hints import hints
from aotsearch.evidence.notes import method, notes, warnings
from aotsearch.evidence.outcome import outcomes
from aotsearch.evidence.pairs import View, looks, widest, with_tails
from aotsearch.evidence.path import steps
from aotsearch.evidence.speed import speeds
from aotsearch.evidence.statistics import Looks, noise_floor, reach, span
from aotsearch.evidence.tables import Record, arms_met, arms_of, cells, measured, searched
from aotsearch.evidence.verdicts import contrast, simple_effects, with_p
from aotsearch.grammar.architecture import Architecture
from aotsearch.study.design import REFERENCE, Changes, Comparison
from aotsearch.study.rates import TUNE_SEED, chosen, used
from aotsearch.study.study import Study

SAME = ("device", "precision", "steps", "tokens")  # what trials must share to be compared


def analyse(records: Iterable[Record], study: Study, declaration: tuple[str, ...] = (), timed: Sequence[Record] = ()) -> Analysis:
    """Every comparison of the study, from the trials of the design, or of the confirmation where the study is a search.

    Args:
        declaration: What decides verdicts and was changed after trials had ended.
        timed: The `timed` events, the latest last.

    Raises:
        InputError: the trials are not comparable.
    """
    everything, settings = list(records), study.settings
    search = settings.design == "search"
    phase = [r for r in everything if r["phase"] == ("confirm" if search else "design")]
    tried = searched(everything, study) if search else []
    declared = _candidates(everything, tried, phase, study) if search else study.comparisons
    met = {REFERENCE, *(arm for c in declared for arm in c.weights)}
    rates = {arm: chosen(everything, arm, study.task.measure) for arm in sorted(met)} if settings.tuning else {}
    views = [View(mode, cells(phase, met, rates, mode)) for mode in (("tuned", "shared") if rates else ("shared",))]
    judged = list({r["key"]: r for view in views for r in view.records}.values())
    _refuse_mixtures(judged)
    simple = [c for c in declared if c.kind == "simple"]
    declared = tuple(c for c in declared if c.kind != "simple")
    views = [with_tails(view, declared, study) for view in views]
    family = max(1, len(declared), len(study.comparisons) + (settings.search.confirmed or 0) if search else 0) * len(views)
    seeds = sorted({r["seed"] for r in judged} | (set() if search else set(settings.first_seeds)))
    contrasts = [contrast(c, view, study, family, seeds) for view in views for c in declared]
    arms = [arm for arm in arms_met(judged, study) if arm in met]
    at_once = max(family, (len(arms) - 1) * len(views))
    speed = [s for v in views for s in speeds({arm: v.cells[arm] for arm in arms}, v.mode, timed, study, at_once, v.tail("change"))]
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
        smallest_effect=_smallest_effect(contrasts, settings.confidence, family, looks(study), widest(views)),
        method=method(study, family, len(simple) * len(views), bool(declaration)),
        outcomes=outcomes(judged, everything, study),
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
        speed=tuple(speed),
        front=front.found(study, tried, views[0].cells),
        hints=hints(tried, study) if search else (),
    )
    said = notes(analysis, study, everything, len(values), declared, views)
    return dataclasses.replace(analysis, notes=said, warnings=warnings(analysis, study, len(values)))


def judge(records: Iterable[Record], history: History, timed: Sequence[Record] = ()) -> Analysis:
    """The analysis of a run folder as it is declared now, each verdict beside that of the first declaration where this was changed.

    Args:
        timed: The `timed` events, the latest last.

    Raises:
        InputError: the trials are not comparable.
    """
    everything = list(records)
    found = analyse(history.place(everything), history.study, history.changes, timed)
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
            names |= c.weights.keys()
    return names


def _candidates(
    records: list[Record], tried: Sequence[tuple[Record, Architecture]], confirmed: list[Record], study: Study
) -> tuple[Comparison, ...]:
    """What a study with a search compares: its arms as declared, then candidates against the reference, the most promising first, then
    the steps of the path to the best."""
    scores = {r["digest"]: measured(r, study) for r in records if r["phase"] == "search"}
    found = {r["arm"]: r for r in confirmed if r["arm"] not in study.arm_names and not r.get("passed")}

    def rank(name: str) -> tuple[float, str]:
        score = scores.get(found[name]["digest"])
        return (math.inf if score is None else score, name)

    def changes(name: str) -> Changes:
        return tuple((k, a, b) for k, (a, b) in found[name]["changes"].items())

    new = [Comparison(n, "change", changes(n), {n: 1.0, REFERENCE: -1.0}) for n in sorted(found, key=rank)]
    return (*study.comparisons, *new, *(steps(tried, study) if confirmed else ()))


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


def _smallest_effect(contrasts: Sequence[Contrast], confidence: float, family: int, looks: Looks | None, tail: float) -> float | None:
    known = [(c.sd_paired, c.seeds) for c in contrasts if c.sd_paired is not None and c.seeds >= (looks[0] if looks else 2)]
    if not known:
        return None
    n = int(np.median([n for _, n in known]))
    return reach(n, confidence, family, looks, tail) * float(np.median([sd for sd, _ in known])) / math.sqrt(n)
