"""How much further an interval must reach on the side on which differences have their long tail; numbers alone.

A Student t interval fails where a change makes a few runs much worse and leaves the others alone: until a bad run is seen, mean and spread
both look small. One contrast of a few seeds cannot show that; the contrasts of a study together can, since their noise is of one kind.
What this buys, what it costs, and what else was tried: benchmarks/verdicts.md.

Symbols: d differences of one contrast, n their number, s their standard deviation, A contrasts of a study.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

WIDER = 8.0  # per unit of skewness and of 1 / n: what t of gamma variables asks for is 5 to 8
FEWEST = 5  # values from which on a tail is worth its width: the skewness of fewer is mostly chance


def widening(n: Any, tail: Any, rate: float | None = None) -> tuple[Any, Any]:
    """By how much the two halves of an interval of n values, below and above their mean, are longer for a `long_tail`; never below 1.

    exp(8 max(0, -tail) / m),  exp(8 max(0, tail) / m),  m = max(n, 5)

    Numbers or arrays of them.

    So an interval is never shorter than the t interval, and holds at least as often: where noise is normal it is exact or safer, whatever
    the tail was estimated from, and at every look. The rate was fitted to the quantiles of t of skewed (gamma) variables, 4 to 32 values.
    """
    each = (WIDER if rate is None else rate) / np.maximum(n, FEWEST)
    return np.exp(each * np.maximum(0.0, -tail)), np.exp(each * np.maximum(0.0, tail))


def long_tail(samples: Iterable[Sequence[float]]) -> float:
    """The mean skewness of samples of one kind of noise, less one standard error of what normal noise shows; 0 where it is below that.

    sign(g) max(0, |g| - e),  g = mean of G over the A samples,  e = sqrt(sum of var(G)) / A

    Above 0 where bad runs are rare and far, below 0 where good ones are. Each sample counts alike, whatever its scale. Samples that are
    equal, as of two arms that are one model, count once; those of fewer than three values or of equal values have no shape.
    """
    found = [(g, _chance(len(d))) for d in sorted({tuple(d) for d in samples}) if (g := skewness(d)) is not None]
    if not found:
        return 0.0
    g = math.fsum(g for g, _ in found) / len(found)
    return math.copysign(max(0.0, abs(g) - math.sqrt(math.fsum(v for _, v in found)) / len(found)), g)


def skewness(d: Sequence[float]) -> float | None:
    """G = k3 / s^3 with the unbiased k3 = n sum (d - mean)^3 / ((n - 1) (n - 2)) (Fisher 1930); None where that is not defined."""
    n = len(d)
    if n < 3 or min(d) == max(d):
        return None
    apart = np.asarray(d, dtype=float) - np.mean(d)
    apart /= np.abs(apart).max()  # so that no power is too small for a number
    s = math.sqrt(float((apart**2).sum()) / (n - 1))
    return n * float((apart**3).sum()) / ((n - 1) * (n - 2)) / s**3


def _chance(n: int) -> float:
    """The variance of G of n normal values: 6 n (n - 1) / ((n - 2) (n + 1) (n + 3)), exact (Fisher 1930)."""
    return 6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3))
