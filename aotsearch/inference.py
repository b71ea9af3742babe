"""The statistics of paired differences, as pure functions of numbers.

Symbols: d paired differences (lower is better), n their number, m margin, K size of the family of intervals.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import special

VERDICTS = ("necessary", "redundant", "harmful", "undecided")
MOST_SEEDS = 1000  # further seeds beyond this are not forecast


def quantile(n: int, confidence: float, family: int) -> float:
    """Student's t quantile of a two-sided interval over n values, Bonferroni-corrected for a family of intervals.

    t_{1 - alpha / (2 K)},  alpha = 1 - confidence,  n - 1 degrees of freedom
    """
    assert n >= 2 and family >= 1
    return float(special.stdtrit(n - 1, 1 - (1 - confidence) / (2 * family)))


def interval(differences: Sequence[float], confidence: float, family: int) -> tuple[float, float, float]:
    """Mean and interval of paired differences: mean(d) -+ t sd(d) / sqrt(n); exact where d is normal."""
    n = len(differences)
    mean = float(np.mean(differences))
    half = quantile(n, confidence, family) * deviation(differences) / math.sqrt(n)
    return mean, mean - half, mean + half


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; exactly 0 for equal values, whatever rounding would make of their mean."""
    return float(np.std(values, ddof=1)) if min(values) < max(values) else 0.0


def verdict(low: float, high: float, margin: float) -> str:
    """`redundant` inside the margin, else `necessary` above 0, else `harmful` below 0, else `undecided`.

    Holding the whole 1 - alpha interval inside [-m, m] is two one-sided tests (TOST; Schuirmann 1987) at level alpha / 2 each.
    """
    if -margin <= low and high <= margin:
        return "redundant"
    return "necessary" if low > 0 else "harmful" if high < 0 else "undecided"


def seeds_needed(mean: float, sd: float, n: int, margin: float, confidence: float, family: int) -> int | None:
    """Further seeds until the interval would settle if mean and sd of d stayed as they are; None above MOST_SEEDS in all."""
    total = np.arange(max(n + 1, 2), MOST_SEEDS + 1)
    half = special.stdtrit(total - 1, 1 - (1 - confidence) / (2 * family)) * sd / np.sqrt(total)
    settled = total[(abs(mean) + half <= margin) | (abs(mean) > half)]
    return int(settled[0]) - n if len(settled) else None


def wilson(count: int, total: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927)."""
    z = float(special.ndtri((1 + confidence) / 2))
    rate, scale = count / total, 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)
