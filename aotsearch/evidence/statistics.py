"""The statistics of paired differences, as pure functions of numbers.

Symbols: d paired differences (lower is better), n their number, m margin, K size of the family of intervals, alpha = 1 - confidence.

Two intervals for the mean of d: `interval` where the number of seeds was fixed before the run, `sequential_interval` where seeds were added
until the contrast was settled; `span` is the one that a study's seeds ask for. Both reach further on the side of the long tail that the
contrasts of a study share (`tail`, of `tails.long_tail`; none where it is 0). Beside them, as a second opinion that assumes no normal
distribution, `sign_flip` and `holm`; and `median_interval` for ratios of times. How well the verdicts hold is measured in
benchmarks/verdicts.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aotsearch.evidence.boundary import Vector, boundary
from aotsearch.evidence.tails import widening

VERDICTS = ("worse", "equivalent", "better", "undecided")
MOST_SEEDS = 1000  # further seeds beyond this are not forecast
MOST_FLIPPED = 40  # signs of more values than this are not enumerated

Looks = tuple[int, int]  # the first and the last number of seeds at which results are looked at and more seeds may be asked for


# ---- whichever way the number of seeds came about


def span(
    values: Sequence[float], confidence: float, family: int, looks: Looks | None, tail: float = 0.0
) -> tuple[float, float | None, float | None]:
    """Mean and interval of values of seeds in their order; no ends where nothing may be said yet.

    Args:
        tail: The `long_tail` of the study's contrasts; for values that are no differences there is none.
        looks: Where the number of seeds was chosen by looking: between which numbers. Whatever was looked at, these values or others of the
            same trials: the interval holds at all looks at once, so also at the one at which it was stopped.
    """
    if len(values) < (looks[0] if looks else 2):
        return float(np.mean(values)), None, None
    if looks is None:
        return interval(values, confidence, family, tail)
    return sequential_interval(values[: looks[1]], confidence, family, *looks, tail)


def reach(n: int, confidence: float, family: int, looks: Looks | None, tail: float = 0.0) -> float:
    """The longer half of the `span` of n values, in standard deviations of their mean."""
    n = n if looks is None else min(n, looks[1])
    critical = quantile(n, confidence, family) if looks is None else sequential_quantile(n, confidence, family, *looks)
    return critical * float(max(widening(n, tail)))


# ---- a number of seeds fixed before the run


def quantile(n: int, confidence: float, family: int) -> float:
    """Student's t quantile of a two-sided interval over n values, Bonferroni-corrected for a family of intervals.

    t_{1 - alpha / (2 K)},  alpha = 1 - confidence,  n - 1 degrees of freedom
    """
    assert n >= 2 and family >= 1
    from scipy import special

    return float(special.stdtrit(n - 1, 1 - (1 - confidence) / (2 * family)))


def interval(differences: Sequence[float], confidence: float, family: int, tail: float = 0.0) -> tuple[float, float, float]:
    """Mean and interval of paired differences: mean(d) -+ w t sd(d) / sqrt(n), w of `widening` for each side; exact for w = 1, d normal."""
    return _around(differences, quantile(len(differences), confidence, family), tail)


def _around(differences: Sequence[float], reach: float, tail: float) -> tuple[float, float, float]:
    mean = float(np.mean(differences))
    half = reach * deviation(differences) / math.sqrt(len(differences))
    below, above = widening(len(differences), tail)
    return mean, mean - float(below) * half, mean + float(above) * half


def deviation(values: Sequence[float]) -> float:
    """Sample standard deviation; exactly 0 for equal values, whatever rounding would make of their mean."""
    return float(np.std(values, ddof=1)) if min(values) < max(values) else 0.0


def verdict(low: float, high: float, margin: float) -> str:
    """What the change does: `equivalent` inside the margin, else `worse` above 0, else `better` below 0, else `undecided`.

    Holding the whole 1 - alpha interval inside [-m, m] is two one-sided tests (TOST; Schuirmann 1987) at level alpha / 2 each.
    """
    if -margin <= low and high <= margin:
        return "equivalent"
    return "worse" if low > 0 else "better" if high < 0 else "undecided"


def size(low: float, high: float, margin: float) -> str:
    """How large the change's effect is: `within` the margin, `beyond` it to one side, or `open`, where the interval holds an end of it."""
    if -margin <= low and high <= margin:
        return "within"
    return "beyond" if low > margin or high < -margin else "open"


def with_divergence(said: str, here: tuple[int, int], there: tuple[int, int]) -> tuple[str, bool]:
    """The verdict once divergence is counted, and whether it rests on that alone.

    An arm that always diverges (twice at least) where the reference never does is worse, without a difference; the mirror image is better.
    Where it diverges more often than the reference, the values that are left flatter it: only a verdict against it stands.

    Args:
        here: How many trials of the arm diverged, and of how many.
        there: The same of the reference.
    """
    (arm, n), (reference, m) = here, there
    if arm == n > 1 and not reference:
        return "worse", True
    if reference == m > 1 and not arm:
        return "better", True
    flattered = {"equivalent", "better"} if arm * m > reference * n else {"equivalent", "worse"} if reference * n > arm * m else set()
    return ("undecided" if said in flattered else said), False


def seeds_needed(
    mean: float, sd: float, n: int, margin: float, confidence: float, family: int, first: int | None = None, tail: float = 0.0
) -> int | None:
    """Further seeds until the interval would settle if mean and sd of d stayed as they are; None above MOST_SEEDS in all.

    To add them is to look again, so the interval then is the sequential one of looks from `first` (n, if this is the first) to their
    total: its last quantile is taken as t_{1 - a / 2} with a = (alpha / K) / (1 + log2(total / first)), from which `boundary` starts.
    """
    from scipy import special

    total = np.arange(max(n + 1, 2), MOST_SEEDS + 1)
    level = (1 - confidence) / family / (1 + np.log2(total / max(2, first or n)))
    return _wait(mean, sd, n, margin, total, special.stdtrit(total - 1, 1 - level / 2), tail)


def _wait(mean: float, sd: float, n: int, margin: float, total: NDArray[np.int64], reach: Vector, tail: float) -> int | None:
    half = reach * sd / np.sqrt(total)
    below, above = widening(total, tail)
    low, high = mean - below * half, mean + above * half
    settled = total[((low >= -margin) & (high <= margin)) | (low > 0) | (high < 0)]
    return int(settled[0]) - n if len(settled) else None


# ---- seeds added until the contrast is settled


def sequential_interval(
    differences: Sequence[float], confidence: float, family: int, first: int, last: int, tail: float = 0.0
) -> tuple[float, float, float]:
    """Mean and repeated confidence interval of paired differences that may be looked at after every seed from `first` to `last`.

    mean(d) -+ w c_n sd(d) / sqrt(n),  P(the true mean is outside at any of the looks n = first .. last) = alpha / K where w = 1

    with c_n of `boundary`, and w >= 1 of `widening` for each side. Exact where d is normal, under any rule that stops or that chooses which
    contrast gets the next seed, even one that reads the other contrasts; looks that are left out only make it safer. The interval of the
    last look is the answer. Cutting it with those of earlier looks would be valid too, but saves less than 0.5 % of the seeds and can leave
    the mean outside its own interval.
    With fewer values than `first` nothing may be said yet: the interval is the whole line.
    Source: repeated confidence intervals (Jennison and Turnbull 1989), for t statistics as in their "Exact calculations for sequential t,
    chi-squared and F tests" (1991).
    """
    if len(differences) < first:
        return float(np.mean(differences)), -math.inf, math.inf
    return _around(differences, sequential_quantile(len(differences), confidence, family, first, last), tail)


def sequential_quantile(n: int, confidence: float, family: int, first: int, last: int) -> float:
    """c_n, which takes the place of Student's quantile at the look after n seeds; infinite before the first look."""
    assert n <= last and family >= 1
    return boundary(first, last, (1 - confidence) / family)[n - first] if n >= first else math.inf


def sequential_seeds_needed(
    mean: float, sd: float, n: int, margin: float, confidence: float, family: int, first: int, last: int, tail: float = 0.0
) -> int | None:
    """Further seeds until the look that would settle if mean and sd of d stayed as they are; None if the last look would not."""
    total = np.arange(max(n + 1, first), last + 1)
    reach = np.array(boundary(first, last, (1 - confidence) / family))[total - first]
    return _wait(mean, sd, n, margin, total, reach, tail)


# ---- a second opinion: randomisation


def sign_flip(differences: Sequence[float]) -> float | None:
    """Two-sided p-value of the sign-flip test of a fixed number of paired differences; None for more than 40.

    p = share of the 2^n choices of signs for which |sum +-d| >= |sum d|

    Exact, not sampled, whatever the distribution, if under the null hypothesis d is symmetric about 0: so it is where a seed's two runs
    could be exchanged. It tests one number of seeds; after repeated looks it is too small.
    The two halves of the values are enumerated apart and their sums matched by sorting. Source: Fisher 1935; Pitman 1937.
    """
    n, d = len(differences), np.asarray(differences, dtype=float)
    assert n >= 1
    if n > MOST_FLIPPED:
        return None
    here, there = _sums(d[: n // 2]), np.sort(_sums(d[n // 2 :]))
    least = abs(d.sum()) - 1e-9 * np.abs(d).sum()  # sums equal but for rounding are ties, and ties count
    if least <= 0:
        return 1.0
    above = np.searchsorted(there, least - here, side="left")  # sums of signs come in pairs +-: twice those above
    return float(2 * (len(there) - above).sum() / 2**n)


def _sums(values: Vector) -> Vector:
    """The sums of values under every choice of signs."""
    sums = np.zeros(1)
    for value in values:
        sums = np.concatenate([sums - value, sums + value])
    return sums


def smallest_p(n: int) -> float:
    """The least p-value that `sign_flip` of n values can give: 2^(1 - n), all of one sign."""
    assert n >= 1
    return float(2.0 ** (1 - n))


def fewest(confidence: float, family: int) -> int:
    """The number of values from which on `smallest_p` is small enough for a family of intervals."""
    level = (1 - confidence) / family * (1 + 1e-9)  # 1 - 0.95 is more than 0.05 by rounding, 1 - 0.75 is not
    return next(n for n in range(1, MOST_SEEDS) if smallest_p(n) <= level)


def too_few(n: int, confidence: float, family: int) -> str:
    """In words, why n seeds cannot show any difference without trusting the normal distribution; empty if they can.

    The first step of `holm` asks for p <= alpha / K, so n >= 1 + log2(K / alpha).
    """
    enough = fewest(confidence, family)
    if n >= enough:
        return ""
    seeds = f"{n} seed{'s' * (n != 1)}"
    most = f"the smallest p-value of an exact randomisation test of {seeds} is {smallest_p(n):.3g}" if n else "there is no seed yet"
    for_what = f"{family} contrasts at once" if family > 1 else "one contrast"
    return (
        f"{most}, and {100 * confidence:g} % for {for_what} takes {(1 - confidence) / family:.2g}: "
        f"verdicts rest on differences being normal until there are {enough} seeds"
    )


def holm(ps: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's adjusted p-values, in the order given: at most alpha of them fall to alpha by chance, whatever their dependence.

    adjusted_(i) = max over j <= i of min(1, (K - j + 1) p_(j)),  p_(1) <= p_(2) <= ..

    The family may hold tests that have no p-value yet; they count as p = 1. Source: Holm 1979.
    """
    size = len(ps) if family is None else family
    assert size >= len(ps)
    adjusted, highest = [1.0] * len(ps), 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        highest = max(highest, min(1.0, (size - rank) * ps[index]))
        adjusted[index] = highest
    return adjusted


# ---- ratios of times


def median_interval(values: Sequence[float], confidence: float, family: int) -> tuple[float, float | None, float | None]:
    """Median of independent values, and the interval of the distribution's; no ends for fewer values than `fewest`.

    [x_(k), x_(n + 1 - k)],  k the largest with 2 P(B < k) <= alpha / K,  B binomial (n, 1/2)

    Whatever the distribution, and exact but for the steps of B: the median lies below x_(k) only if fewer than k values lie below it.
    Source: the interval of the sign test (Thompson 1936).
    """
    n, ordered = len(values), sorted(values)
    level, below, k = (1 - confidence) / family * (1 + 1e-9), 0.0, 0  # as in `fewest`
    while (below := below + 2.0 ** (1 - n) * math.comb(n, k)) <= level:
        k += 1
    ends = (ordered[k - 1], ordered[n - k]) if k else (None, None)
    return (float(np.median(ordered)), *ends)


# ---- noise and rates


@dataclass(frozen=True)
class NoiseFloor:
    """What seeds alone do to the reference (A/A): `difference` is the figure to quote, the rest is what it rests on."""

    seeds: int
    sd: float  # of one run
    difference: float  # two single runs under different seeds differ by less with the confidence asked for
    median: float  # of |y_s - y_t| over the pairs of seeds seen
    largest: float  # of the same


def noise_floor(values: Sequence[float], confidence: float = 0.95) -> NoiseFloor | None:
    """How far two single runs of the same model differ by their seeds; None for fewer than two values.

    difference = t_{1 - alpha/2} sqrt(2) sd(y),  n - 1 degrees of freedom

    y_s - y_t of two new runs has the standard deviation sqrt(2) sigma, and over sqrt(2) sd(y) it is Student's t: exact where y is normal,
    with the uncertainty of sd(y) counted (1.96 in the place of t for many seeds). Any single-run difference below it may be noise.
    """
    n = len(values)
    if n < 2:
        return None
    i, j = np.triu_indices(n, 1)
    apart = np.abs(np.asarray(values, dtype=float)[i] - np.asarray(values, dtype=float)[j])
    sd = deviation(values)
    return NoiseFloor(n, sd, quantile(n, confidence, 1) * math.sqrt(2) * sd, float(np.median(apart)), float(apart.max()))


def wilson(count: int, total: int, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a rate (Wilson 1927)."""
    from scipy import special

    z = float(special.ndtri((1 + confidence) / 2))
    rate, scale = count / total, 1 + z * z / total
    centre = (rate + z * z / (2 * total)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / total + z * z / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)
