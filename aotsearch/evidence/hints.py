"""Records of a search -> how well what is known of a model before its training ends foretells how that ends."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from aotsearch.evidence.tables import Record, curve_of, finished
from aotsearch.grammar.architecture import Architecture
from aotsearch.study.sampling import SIZES, rungs
from aotsearch.study.study import Study

FEWEST = 8  # trials below which no rank correlation is told


@dataclass(frozen=True)
class Hint:
    """Spearman's rank correlation of something known early with the measure, over the trials of a search that trained to the end.

    Attributes:
        name: One of `SIZES`; of what was measured before training; or the measure at an evaluation where the search prunes, a rung.
        correlation: From -1 (the larger the lower the measure, the better) to 1; of a rung that foretells the end, near 1.
        low, high: Its interval at the study's confidence.
        trials: How many.
    """

    name: str
    correlation: float
    low: float
    high: float
    trials: int


def hints(tried: Sequence[tuple[Record, Architecture]], study: Study) -> tuple[Hint, ...]:
    """What each size foretells in this space, each hint from before training, and each rung; of what does not vary, and below eight trials,
    nothing. It describes the trials that the search chose to make and did not prune, one seed each.
    """
    known = [(r, y) for r, _, y in finished(tried, study)]
    measure, evaluations = study.task.measure, study.settings.budget.evaluations
    early = {name: [(float(r[name]), y) for r, y in known if r.get(name) is not None] for name in SIZES}
    for name in study.settings.search.hinted:
        early[name] = [(float(x), y) for r, y in known if (x := (r.get("hints") or {}).get(name)) is not None]
    for at in rungs(evaluations, study.settings.search.reduction):
        curves = [(curve_of(r, measure), y) for r, y in known]
        early[f"{measure} at evaluation {at} of {evaluations}"] = [(c[at - 1], y) for c, y in curves if len(c) >= at]
    found = {name: rank_correlation(pairs, study.settings.confidence) for name, pairs in early.items()}
    return tuple(Hint(name, *f, len(early[name])) for name, f in found.items() if f is not None)


def rank_correlation(pairs: Sequence[tuple[float, float]], confidence: float) -> tuple[float, float, float] | None:
    """Spearman's rank correlation and the ends of its interval; None where one of both does not vary, and below eight pairs.

    tanh(atanh r -+ z sqrt((1 + r^2 / 2) / (n - 3)))

    Source of the interval: Bonett and Wright 2000 (doi:10.1007/BF02294183).
    """
    from scipy.stats import spearmanr  # here, so that what needs no ranks does not wait for it

    if len(pairs) < FEWEST or len({x for x, _ in pairs}) < 2 or len({y for _, y in pairs}) < 2:
        return None
    r = max(-1 + 1e-12, min(1 - 1e-12, float(spearmanr(*zip(*pairs, strict=True)).statistic)))
    half = statistics.NormalDist().inv_cdf((1 + confidence) / 2) * math.sqrt((1 + r * r / 2) / (len(pairs) - 3))
    return r, math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)
