"""The interval of a difference of two means whose runs are not paired: Welch's, for unequal variances and numbers of runs.

Symbols: x values of the arm, y of the reference, n their numbers, v = var / n, K size of the family of intervals, alpha = 1 - confidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from aotsearch.evidence.statistics import MOST_SEEDS, deviation


def welch(here: Sequence[float], there: Sequence[float], confidence: float, family: int) -> tuple[float, float | None, float | None]:
    """mean(x) - mean(y) and its interval; no ends where either has fewer than two values.

    mean(x) - mean(y) -+ t_{1 - alpha / (2 K)} sqrt(v_x + v_y),  f = (v_x + v_y)^2 / (v_x^2 / (n_x - 1) + v_y^2 / (n_y - 1)) degrees

    Simultaneous by Bonferroni's correction, so valid under any dependence, such as through a reference that all share.
    Sources: Welch 1947; Satterthwaite 1946 for the degrees of freedom.
    """
    from scipy import special

    mean = float(np.mean(here) - np.mean(there))
    if min(len(here), len(there)) < 2:
        return mean, None, None
    v, w = _variances(here, there)
    if not v + w:
        return mean, mean, mean
    level = 1 - (1 - confidence) / (2 * family)
    half = float(special.stdtrit(_degrees(v, len(here), w, len(there)), level)) * math.sqrt(v + w)
    return mean, mean - half, mean + half


def welch_seeds_needed(here: Sequence[float], there: Sequence[float], margin: float, confidence: float, family: int) -> int | None:
    """Further seeds of both arms until the interval would settle if means and deviations stayed as they are; None above MOST_SEEDS.

    To add them is to look again: as in `statistics.seeds_needed`, alpha / K is shared by 1 + log2(total / n) looks, n that of fewer seeds.
    """
    from scipy import special

    n, m = len(here), len(there)
    if min(n, m) < 2:
        return None
    v, w = _variances(here, there)
    more = np.arange(1, MOST_SEEDS + 1 - min(n, m))
    a, b = v * n / (n + more), w * m / (m + more)
    total = a + b
    with np.errstate(invalid="ignore", divide="ignore"):
        degrees = np.where(total > 0, total**2 / (a**2 / (n + more - 1) + b**2 / (m + more - 1)), 1.0)
    least = min(n, m)
    level = (1 - confidence) / family / (1 + np.log2((least + more) / least))
    half = special.stdtrit(degrees, 1 - level / 2) * np.sqrt(total)
    mean = abs(float(np.mean(here) - np.mean(there)))
    settled = more[(mean + half <= margin) | (mean > half)]
    return int(settled[0]) if len(settled) else None


def _variances(here: Sequence[float], there: Sequence[float]) -> tuple[float, float]:
    """Of the two means."""
    return deviation(here) ** 2 / len(here), deviation(there) ** 2 / len(there)


def _degrees(v: float, n: int, w: float, m: int) -> float:
    """Welch and Satterthwaite's degrees of freedom: between those of the smaller sample and those of both."""
    return (v + w) ** 2 / (v**2 / (n - 1) + w**2 / (m - 1))
