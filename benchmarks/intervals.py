"""Intervals for the mean of lopsided differences: what was tried, on the differences that verdicts.py simulates.

Each way says how far an interval reaches below and above the mean, in standard errors, for (studies, contrasts) at once. Symbols: n values
of a contrast, c the critical value of t that it has without help, g its skewness (`tails.skewness`), a = g / (3 sqrt(n)).
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from aotsearch.evidence import statistics, tails
from aotsearch.evidence.boundary import boundary

Array = NDArray[np.float64]
Halves = tuple[Array, Array]  # below and above the mean, in standard errors
Judge = Callable[[Array, Array], tuple[NDArray[np.bool_], NDArray[np.bool_]]]  # ends -> decided, false


# ---- the shape of differences, as `tails` has it


def skewness(d: Array) -> Array:
    """`tails.skewness` of n values each, along the last axis; 0 where that is not defined."""
    n = d.shape[-1]
    apart = d - d.mean(-1, keepdims=True)
    s = d.std(-1, ddof=1)
    return np.where(s > 0, n / (n - 1) * n / (n - 2) * (apart**3).mean(-1) / np.where(s > 0, s, 1) ** 3, 0.0)


def chance(n: Array) -> Array:
    """The variance of the skewness of n normal values."""
    return 6 * n * (n - 1) / ((n - 2) * (n + 1) * (n + 3))


def long_tail(g: Array, n: Array, errors: float = 1.0) -> Array:
    """`tails.long_tail` over the contrasts of each study, with so many standard errors taken off: (studies, 1)."""
    mean, error = g.mean(1, keepdims=True), np.sqrt(chance(n).sum(1, keepdims=True)) / g.shape[1]
    return np.copysign(np.maximum(0, np.abs(mean) - errors * error), mean)


# ---- ways


@dataclass(frozen=True)
class Shape:
    """What a way may look at, of each contrast of each study: (studies, contrasts)."""

    n: Array
    c: Array
    g: Array
    s: Array


def as_before(x: Shape) -> Halves:
    return x.c, x.c


def longer(x: Shape) -> Halves:
    return 1.05 * x.c, 1.05 * x.c


def johnson(x: Shape) -> Halves:
    """Where t + a / 2 + a t^2 reaches -c and c (Johnson 1978); endless where it never does."""

    def end(a: Array) -> Array:
        a = np.where(a == 0, 1e-9, a)
        inside = 1 - 4 * a * (a / 2 + x.c)
        return np.where(inside < 0, math.inf, (1 - np.sqrt(np.maximum(0, inside))) / (2 * a))

    a = x.g / (3 * np.sqrt(x.n))
    return end(-a), end(a)


def _hall(g: Array, x: Shape) -> Halves:
    def end(a: Array) -> Array:
        a = np.where(np.abs(a) < 1e-6, 1e-6, a)
        return (1 - np.cbrt(1 - 3 * a * (x.c + a / 2))) / a

    a = g / (3 * np.sqrt(x.n))
    return end(-a), end(a)


def hall(x: Shape) -> Halves:
    """Where t + a / 2 + a t^2 + a^2 t^3 / 3 reaches -c and c (Hall 1992)."""
    return _hall(x.g, x)


def hall_pooled(x: Shape) -> Halves:
    return _hall(np.broadcast_to(x.g.mean(1, keepdims=True), x.g.shape), x)


def floor(x: Shape) -> Halves:
    """No spread is believed below 0.7 of what the contrasts have together."""
    least = 0.7 * np.sqrt((x.s**2).mean(1, keepdims=True))
    half = x.c * np.maximum(1, least / np.where(x.s > 0, x.s, 1))
    return half, half


def own(x: Shape) -> Halves:
    """The rule of `tails`, each contrast by its own skewness."""
    tail = np.copysign(np.maximum(0, np.abs(x.g) - np.sqrt(chance(x.n))), x.g)
    below, above = tails.widening(x.n, tail)
    return x.c * below, x.c * above


def pooled(rate: float, errors: float) -> Callable[[Shape], Halves]:
    def way(x: Shape) -> Halves:
        below, above = tails.widening(x.n, long_tail(x.g, x.n, errors), rate)
        return x.c * below, x.c * above

    return way


BEFORE, OURS = "Student's t (until now)", "pooled skewness less 1 error, rate 8 (ours)"
WAYS: dict[str, Callable[[Shape], Halves]] = {
    BEFORE: as_before,
    "5 % longer to both sides": longer,
    "Johnson's t, own skewness": johnson,
    "Hall's t, own skewness": hall,
    "Hall's t, pooled skewness": hall_pooled,
    "spread at least 0.7 of the pooled": floor,
    "own skewness less 1 error, rate 8": own,
    "pooled skewness, rate 4": pooled(4, 0),
    "pooled skewness, rate 6": pooled(6, 0),
    "pooled skewness less 1 error, rate 6": pooled(6, 1),
    OURS: pooled(8, 1),
    "pooled skewness less 1 error, rate 10": pooled(10, 1),
    "pooled skewness less 2 errors, rate 10": pooled(10, 2),
}
BOOTSTRAP = "bootstrap-t, pooled residuals"


def bootstrap(d: Array, family: int, confidence: float, draws: int, rng: np.random.Generator) -> Halves:
    """Quantiles of t of samples drawn from the standardised residuals of all contrasts of a study (Efron 1981, pooled)."""
    studies, _, n = d.shape
    residuals = ((d - d.mean(-1, keepdims=True)) / d.std(-1, ddof=1, keepdims=True)).reshape(studies, -1)
    ends = np.empty((2, studies, 1))
    for i, values in enumerate(residuals):
        x = values[rng.integers(0, len(values), (draws, n))]
        t = x.mean(1) / np.maximum(x.std(1, ddof=1), 1e-12) * math.sqrt(n)
        level = (1 - confidence) / family / 2
        ends[:, i, 0] = np.quantile(t, 1 - level), -np.quantile(t, level)
    return ends[0], ends[1]


# ---- studies


@dataclass(frozen=True)
class Studies:
    """Differences of simulated studies: effects + scale * noise, with noise (studies, contrasts, seeds) of unit scale."""

    effects: Array
    scales: Sequence[float]
    noise: Mapping[str, Array]
    judge: Judge
    confidence: float


@dataclass(frozen=True)
class Worth:
    """Of one way under one kind of noise; the shares are means over the scales but for `wrong`, each scale's."""

    wrong: Sequence[float]  # studies with a false verdict
    decided: float
    covered: float  # studies in which every interval holds
    runs: float = 0.0  # with the reference, where seeds were added


def fixed(studies: Studies, noise: str, n: int, way: Callable[[Shape], Halves] | Halves) -> Worth:
    e = studies.noise[noise][..., :n]
    c = statistics.quantile(n, studies.confidence, e.shape[1])
    mean, s, size = e.mean(-1), e.std(-1, ddof=1), np.full(e.shape[:2], float(n))
    below, above = way if isinstance(way, tuple) else way(Shape(size, np.full(size.shape, c), skewness(e), s))
    low, high = mean - below * s / math.sqrt(n), mean + above * s / math.sqrt(n)
    found = [studies.judge(studies.effects + scale * low, studies.effects + scale * high) for scale in studies.scales]
    held = ((low <= 0) & (high >= 0)).all(1).mean()
    return Worth([float(bad.any(1).mean()) for _, bad in found], float(np.mean([done.mean() for done, _ in found])), float(held))


def running(e: Array) -> tuple[Array, Array, Array]:
    """Mean, standard deviation and skewness of the first n values, n = 1 .. all."""
    found = [(e[..., :n].mean(-1), e[..., :n].std(-1, ddof=1), skewness(e[..., :n])) for n in range(3, e.shape[-1] + 1)]
    empty = np.full(e.shape[:2], np.nan)
    return tuple(np.stack([empty, empty, *values], -1) for values in zip(*found, strict=True))  # type: ignore[return-value]


def adaptive(studies: Studies, noise: str, way: Callable[[Shape], Halves], first: int, last: int) -> Worth:
    """Every contrast that is open gets one more seed, until none is, or at most `last`; what others add may open one again."""
    e = studies.noise[noise][..., :last]
    critical = np.array([0.0] * first + list(boundary(first, last, (1 - studies.confidence) / e.shape[1])))
    known, found = running(e), []
    for scale in studies.scales:
        n = np.full(e.shape[:2], first)
        while True:
            mean, s, g = (np.take_along_axis(values, n[..., None] - 1, -1)[..., 0] for values in known)
            below, above = way(Shape(n.astype(float), critical[n], g, s))
            low, high = mean - below * s / np.sqrt(n), mean + above * s / np.sqrt(n)
            done, bad = studies.judge(studies.effects + scale * low, studies.effects + scale * high)
            more = ~done & (n < last)
            if not more.any():
                break
            n = n + more
        held = ((low <= 0) & (high >= 0)).all(1).mean()
        found.append((bad.any(1).mean(), done.mean(), held, (n.sum(1) + n.max(1)).mean()))
    wrong, decided, held, runs = zip(*found, strict=True)
    return Worth([float(w) for w in wrong], float(np.mean(decided)), float(np.mean(held)), float(np.mean(runs)))


# ---- Bonferroni against the distribution of the largest t


def largest(draw: Callable[[int], Array], confidence: float, batches: int) -> float:
    """The critical value for the largest |t| of a study's contrasts, with their correlation known: no valid one is shorter."""
    tops = []
    for _ in range(batches):
        d = draw(5000)
        tops.append((np.abs(d.mean(-1)) / (d.std(-1, ddof=1) / math.sqrt(d.shape[-1]))).max(1))
    return float(np.quantile(np.concatenate(tops), confidence))


def factorial(y: Array) -> Array:
    """30 of the 31 effects of five factors of two levels, from (studies, 32 cells, seeds)."""
    signs = np.array([[(-1) ** ((cell & effect).bit_count()) for cell in range(32)] for effect in range(1, 31)]) / 16
    contrasts: Array = np.einsum("kc,rcs->rks", signs, y)
    return contrasts
