"""A declared comparison, judged: differences within a seed -> interval, verdict, seeds still needed.

    contrast(comparison, view, study, family, seeds) -> Contrast

Symbols: y measure (lower is better), s seed, d_s = y(arm, s) - y(reference, s), n paired seeds, m margin, K contrasts of the study.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

from aotsearch.evidence.contrast import Contrast, Sealed
from aotsearch.evidence.pairs import View, differences, looks, mixture, pairs, said_of
from aotsearch.evidence.statistics import (
    MOST_SEEDS,
    Looks,
    deviation,
    holm,
    seeds_needed,
    sequential_seeds_needed,
    sign_flip,
    size,
    smallest_p,
    span,
    verdict,
    with_divergence,
)
from aotsearch.evidence.tables import Record, measured
from aotsearch.study.design import REFERENCE, Comparison, spell
from aotsearch.study.study import Study


def contrast(comparison: Comparison, view: View, study: Study, family: int, seeds: Sequence[int]) -> Contrast:
    settings, at = study.settings, looks(study)
    trials = pairs(comparison, view, study)
    by_seed = differences(comparison, trials, study)
    n = len(by_seed)
    tail = view.tail(comparison.kind)
    mean, low, high = span(list(by_seed.values()), settings.confidence, family, at, tail) if n else (None, None, None)
    sd, apart = (deviation(list(by_seed.values())), _unpaired(comparison, trials, study)) if n > 1 else (None, None)
    said, far = "undecided", "open"
    if low is not None and high is not None:
        said, far = verdict(low, high, settings.margin), size(low, high, settings.margin)
    needed = _needed(mean, sd, n, study, family, tail) if said == "undecided" and mean is not None and sd is not None else None
    said, based, remark = _diverged(comparison, view, said)
    if based:
        far = "beyond"  # every number
    if remark:
        needed = None  # more seeds of the same kind do not answer why it diverges
    elif said == "undecided":
        remark = _remark(n, needed, at)
    wanted = len(seeds) if settings.adaptive is None else n
    few = f"{n} of {wanted} pairs" if 1 < n < wanted and not based else ""
    coarse = f"the difference is equal in all {n} seeds: the measure is too coarse to show its spread" if sd == 0 and mean else ""
    mixed: dict[str, dict[int, tuple[str, ...]]] = {}
    for seed, found in trials.items():
        for name, values in mixture(found).items():
            mixed.setdefault(name, {})[seed] = values
    mixtures = [f"{len(s)} of {n} pairs mix {said_of(name)}" for name, s in mixed.items()]
    return Contrast(
        comparison.name,
        comparison.changes,
        comparison.equalise,
        mean,
        low,
        high,
        based or n,
        max(0, wanted - (based or n)),
        said,
        needed,
        sd,
        apart,
        "; ".join(filter(None, [remark, few, coarse, *mixtures])),
        comparison.kind,
        view.mode,
        asked=(view.mode == "tuned") == (settings.tuning is not None),
        test=_sealed(comparison, view, study, family),
        mixed=mixed,
        margin=settings.margin,
        size="open" if said == "undecided" else far,
        weights=comparison.weights,
    )


def _sealed(comparison: Comparison, view: View, study: Study, family: int) -> Sealed | None:
    """By the same rule as on the validation split: how many seeds there are was chosen by that split of the same trials, so the looks
    count here too."""
    d = list(differences(comparison, pairs(comparison, view, study, "test"), study, "test").values())
    tail = view.tail(comparison.kind)
    mean, low, high = span(d, study.settings.confidence, family, looks(study), tail) if len(d) > 1 else (0.0, None, None)
    if low is None or high is None:
        return None
    return Sealed(mean, low, high, verdict(low, high, study.settings.margin))


def simple_effects(
    contrasts: Sequence[Contrast], declared: Sequence[Comparison], views: Sequence[View], study: Study, seeds: Sequence[int]
) -> tuple[Contrast, ...]:
    """The effects at one value of another factor, for the changes that interact with it; at once over all that the design has.

    A main effect is their mean, and says of none of them what it is where the two interact.
    """
    acting = set()
    for c in contrasts:
        if c.kind == "interaction" and c.verdict in ("worse", "better"):
            for (a, _, v), (b, *values) in itertools.permutations(c.changes):
                acting |= {(c.rate, c.equalise, a, spell(v), b, spell(x)) for x in values}
    found = []
    for view, comparison in itertools.product(views, declared):
        assert comparison.held is not None, comparison
        ((address, _, to),), (other, value) = comparison.changes, comparison.held
        if (view.mode, comparison.equalise, address, spell(to), other, spell(value)) in acting:
            found.append(contrast(comparison, view, study, len(declared) * len(views), seeds))
    return tuple(found)


def _needed(mean: float, sd: float, n: int, study: Study, family: int, tail: float) -> int | None:
    s, at = study.settings, looks(study)
    if at is None:
        return seeds_needed(mean, sd, n, s.margin, s.confidence, family, tail=tail)
    if study.looked and n >= at[1]:  # the seeds that are declared now are all there
        return seeds_needed(mean, sd, n, s.margin, s.confidence, family, at[0], tail)
    return sequential_seeds_needed(mean, sd, min(n, at[1]), s.margin, s.confidence, family, *at, tail)


def _unpaired(comparison: Comparison, trials: Mapping[int, Sequence[Record]], study: Study) -> float:
    variance = 0.0
    for weight, column in zip(comparison.weights.values(), zip(*trials.values(), strict=True), strict=True):
        variance += (weight * deviation([v for r in column if (v := measured(r, study)) is not None])) ** 2
    return math.sqrt(variance)


def with_p(
    contrasts: Sequence[Contrast], views: Sequence[View], declared: Sequence[Comparison], study: Study, family: int
) -> tuple[Contrast, ...]:
    """The contrasts with the p-values of a test that assumes nothing of the noise but symmetry, where such a value could have been small:
    if every contrast had the smallest that its seeds can give, Holm's rule would still leave some above 1 - confidence."""
    if looks(study):  # it tests one number of seeds, not one that the differences themselves have chosen
        return tuple(contrasts)
    samples = [list(differences(c, pairs(c, view, study), study).values()) for view in views for c in declared]
    ps = {i: p for i, d in enumerate(samples) if len(d) > 1 and (p := sign_flip(d)) is not None}
    least = holm([smallest_p(len(samples[i])) for i in ps], family)
    level = (1 - study.settings.confidence) * (1 + 1e-9)
    adjusted = {i: p for i, p, best in zip(ps, holm(list(ps.values()), family), least, strict=True) if best <= level}
    return tuple(dataclasses.replace(c, p=adjusted.get(i)) for i, c in enumerate(contrasts))


def _diverged(comparison: Comparison, view: View, said: str) -> tuple[str, int, str]:
    """`_divergence` for two arms; a sum of more arms in which any diverged is undecided."""
    plus = [arm for arm, w in comparison.weights.items() if w > 0]
    minus = [arm for arm, w in comparison.weights.items() if w < 0]
    if len(plus) == len(minus) == 1:
        other = "the reference" if minus[0] == REFERENCE else minus[0]
        return _divergence(view.cells.get(plus[0], {}), view.cells.get(minus[0], {}), said, other)
    lost = {arm: sum(r["outcome"] == "diverged" for r in view.cells.get(arm, {}).values()) for arm in comparison.weights}
    remark = "; ".join(f"{arm} diverged in {k} seeds" for arm, k in lost.items() if k)
    return ("undecided" if remark else said), 0, remark


def _divergence(here: Mapping[int, Record], there: Mapping[int, Record], said: str, other: str) -> tuple[str, int, str]:
    """The verdict once divergence is counted, the seeds it rests on if these are not the pairs, and a remark.

    A diverged trial has no loss, so its pair is missing, and missing for a reason that bears on the answer: see `with_divergence`.
    """
    judged = [s for s in here.keys() & there.keys() if {here[s]["outcome"], there[s]["outcome"]} <= {"done", "diverged"}]
    arm = sum(here[s]["outcome"] == "diverged" for s in judged)
    reference = sum(there[s]["outcome"] == "diverged" for s in judged)
    count = len(judged)
    said, always = with_divergence(said, (arm, count), (reference, count))
    if always:
        return said, count, f"{'' if arm else f'{other} '}diverged in every seed ({count})"
    remarks = [f"{name} diverged in {k} of {count} seeds" for name, k in (("it", arm), (other, reference)) if k]
    return said, 0, "; ".join(remarks)


def _remark(n: int, needed: int | None, looks: Looks | None) -> str:
    if n < 2:
        return "no pair of seeds yet" if not n else "one seed gives no interval"
    if needed is not None:
        return f"about {needed} more seed{'s' * (needed > 1)}"
    if looks is None:
        return f"more than {MOST_SEEDS} seeds"
    return f"not within the at most {looks[1]} seeds" if n < looks[1] else f"open after the at most {looks[1]} seeds"
