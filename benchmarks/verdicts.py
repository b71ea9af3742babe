"""Do the verdicts hold? Simulated studies of which the truth is known; writes benchmarks/verdicts.md.

    python benchmarks/verdicts.py [--quick] [--reps 10000]

A study has a reference and eleven arms. Arm k under seed s measures

    y_ks = effect_k + sigma (sqrt(r) common_s + sqrt(1 - r) own_ks),    reference: the same with effect 0 and an own part of its own

so sigma is the seed noise of one run and r the correlation of two runs under one seed. A verdict is false if it contradicts the effect:
`worse` where the effect is not above 0, `better` where it is not below 0, `equivalent` where it is more than the margin to either
side. `undecided` is never false. --quick is small, and prints instead of writing.
"""

from __future__ import annotations

import argparse
import math
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import special

sys.path.insert(0, str(Path(__file__).parent.parent))
sys.path.insert(0, str(Path(__file__).parent))

import intervals

from aotsearch.evidence import boundary as boundaries
from aotsearch.evidence import statistics, tails

Array = NDArray[np.float64]
Verdicts = NDArray[np.int8]  # places in statistics.VERDICTS

NECESSARY, REDUNDANT, HARMFUL, UNDECIDED = range(4)
MARGIN, CONFIDENCE = 0.01, 0.95
MARGINS = (0, 0, 0, 0, 0, 0.5, 1, 1.5, 3, -1.5, -3)  # effects of the eleven arms, in margins
EFFECTS = MARGIN * np.array(MARGINS)
FAMILY = len(EFFECTS)
SIGMAS, CORRELATIONS, SEEDS = (0.002, 0.005, 0.01, 0.02), (0.0, 0.5, 0.95), (3, 5, 8, 16)
REGIMES = [(sigma, r) for sigma in SIGMAS for r in CORRELATIONS]
FIRST, LAST = 4, 16
TRIED = 2_000  # studies of each kind in which ways to an interval are compared, at most

NOISES = {
    "normal": "every part is normal",
    "heavy": "every part is Student's t with 3 degrees of freedom",
    "skewed": "every part is exponential, so some runs are much worse; the difference of two such runs is symmetric again",
    "mixed": "the arm's own part is exponential, all else normal: the difference has skewness 0.7",
    "lopsided": "the arm's own part is exponential, the reference has none: the difference has skewness 2, like an exponential variable",
}
SOME = (0, 3, 7, 9)  # the arms that are lopsided where some are: effects 0, 0, 1.5 m, -1.5 m


# ---- simulated studies


def draw(noise: str, reps: int, seeds: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Common part, the reference's own, the arms' own, of unit variance: (reps, 1, seeds), the same, (reps, arms, seeds)."""

    def part(kind: str, arms: int) -> Array:
        shape = (reps, arms, seeds)
        if kind == "heavy":
            return rng.standard_t(3, shape) / math.sqrt(3)
        return rng.standard_normal(shape) if kind == "normal" else rng.exponential(size=shape) - 1

    common, reference, own = part(noise, 1), part(noise, 1), part(noise, FAMILY)
    if noise == "mixed":
        return part("normal", 1), part("normal", 1), own
    # the same standard deviation of the difference, so that only its shape differs
    return (common, 0 * reference, own * math.sqrt(2)) if noise == "lopsided" else (common, reference, own)


def runs(parts: tuple[Array, Array, Array], sigma: float, r: float) -> tuple[Array, Array]:
    """The measures of the reference and of the arms."""
    common, reference, own = parts
    a, b = sigma * math.sqrt(r), sigma * math.sqrt(1 - r)
    return a * common + b * reference, EFFECTS[:, None] + a * common + b * own


# ---- methods


def settle(low: Array, high: Array) -> Verdicts:
    """`inference.verdict` on arrays."""
    said = np.select([(low >= -MARGIN) & (high <= MARGIN), low > 0, high < 0], [REDUNDANT, NECESSARY, HARMFUL], UNDECIDED)
    return said.astype(np.int8)


def student(reference: Array, arms: Array, family: int) -> tuple[Array, Array]:
    """Ends of the intervals of `statistics.interval` without a tail."""
    d, n = arms - reference, arms.shape[-1]
    mean, half = d.mean(-1), statistics.quantile(n, CONFIDENCE, family) * d.std(-1, ddof=1) / math.sqrt(n)
    return mean - half, mean + half


def paired(reference: Array, arms: Array, family: int) -> tuple[Array, Array]:
    """Ends of the intervals of `statistics.interval` with the tail that the contrasts of a study share."""
    low, high = student(reference, arms, family)
    below, above = tailed(intervals.skewness(arms - reference), np.full(low.shape, float(arms.shape[-1])), family)
    mean = (low + high) / 2
    return mean - below * (mean - low), mean + above * (high - mean)


def tailed(g: Array, n: Array, family: int) -> tuple[Array, Array]:
    """How much longer the halves of intervals are; where K = 1, every contrast is a study of its own."""
    shape = g.shape
    if family == 1:
        g, n = g.reshape(-1, 1), n.reshape(-1, 1)
    below, above = tails.widening(n, intervals.long_tail(g, n))
    return below.reshape(shape), above.reshape(shape)


def welch(reference: Array, arms: Array) -> tuple[Array, Array]:
    """Ends of the unpaired intervals of Welch 1947, each for itself."""
    n = arms.shape[-1]
    a, b = arms.var(-1, ddof=1) / n, reference.var(-1, ddof=1) / n
    degrees = (a + b) ** 2 / ((a**2 + b**2) / (n - 1))
    half = special.stdtrit(degrees, (1 + CONFIDENCE) / 2) * np.sqrt(a + b)
    mean = arms.mean(-1) - reference.mean(-1)
    return mean - half, mean + half


def significance(reference: Array, arms: Array) -> Verdicts:
    """What papers do: p < 0.05 in Welch's test shows a difference, anything else shows that there is none."""
    low, high = welch(reference, arms)
    return np.where(low > 0, NECESSARY, np.where(high < 0, HARMFUL, REDUNDANT)).astype(np.int8)


def bare(difference: Array) -> Verdicts:
    """What tables do: the difference of two numbers, against the margin."""
    return np.select([difference > MARGIN, difference < -MARGIN], [NECESSARY, HARMFUL], REDUNDANT).astype(np.int8)


METHODS: dict[str, Callable[[Array, Array], Verdicts]] = {
    "ours": lambda reference, arms: settle(*paired(reference, arms, FAMILY)),
    "ours, one contrast (K = 1)": lambda reference, arms: settle(*paired(reference, arms, 1)),
    "Student's t": lambda reference, arms: settle(*student(reference, arms, FAMILY)),
    "Welch, p < 0.05 or equivalent": significance,
    "one seed": lambda reference, arms: bare((arms - reference)[..., 0]),
    "best of n": lambda reference, arms: bare(arms.min(-1) - reference.min(-1)),
}
OURS, ALONE, STUDENT, NAIVE, ONE, BEST = METHODS


def false(said: Verdicts) -> NDArray[np.bool_]:
    up, down, outside = EFFECTS > 0, EFFECTS < 0, np.abs(EFFECTS) > MARGIN
    bad: NDArray[np.bool_] = ((said == NECESSARY) & ~up) | ((said == HARMFUL) & ~down) | ((said == REDUNDANT) & outside)
    return bad


# ---- a fixed number of seeds


@dataclass(frozen=True)
class Fixed:
    """Shares of simulated studies or contrasts, by noise, method, n and regime."""

    covered: dict[tuple[str, str, int], float]  # all intervals of a study hold their effect (one interval where K = 1)
    wrong: dict[tuple[str, str, int, tuple[float, float]], float]  # a study holds a false verdict (one contrast where K = 1)
    rates: dict[tuple[str, str, int, tuple[float, float]], Array]  # (arms, verdicts): share of each verdict


def fixed(reps: int) -> Fixed:
    covered, wrong, rates = {}, {}, {}
    for place, noise in enumerate(NOISES):
        parts = draw(noise, reps, max(SEEDS), np.random.default_rng(place))
        for regime in REGIMES:
            everything = runs(parts, *regime)
            for n in SEEDS:
                reference, arms = (y[..., :n] for y in everything)
                for name, method in METHODS.items():
                    said = method(reference, arms)
                    bad = false(said)
                    wrong[noise, name, n, regime] = float(bad.mean() if name == ALONE else bad.any(1).mean())
                    rates[noise, name, n, regime] = np.stack([(said == v).mean(0) for v in range(4)], 1)
        reference, arms = runs(parts, 0.01, 0.0)  # coverage of paired intervals depends on neither, Welch's is made for r = 0
        for n in SEEDS:
            for name, (low, high) in {
                OURS: paired(reference[..., :n], arms[..., :n], FAMILY),
                ALONE: paired(reference[..., :n], arms[..., :n], 1),
                STUDENT: student(reference[..., :n], arms[..., :n], FAMILY),
                NAIVE: welch(reference[..., :n], arms[..., :n]),
            }.items():
                held = (low <= EFFECTS) & (high >= EFFECTS)
                covered[noise, name, n] = float(held.mean() if name == ALONE else held.all(1).mean())
    return Fixed(covered, wrong, rates)


def signs(reps: int, n: int, noise: str, rng: np.random.Generator) -> tuple[float, float]:
    """Share of p <= 0.05 where nothing differs: the sign-flip test, and the paired t interval without 0."""
    _, reference, own = draw(noise, reps, n, rng)
    d = (own - reference)[:, 0]
    flips = 1 - 2.0 * (np.arange(2 ** (n - 1))[:, None] >> np.arange(n) & 1)
    extreme = np.zeros(reps)
    for part in np.array_split(np.arange(reps), max(1, reps * len(flips) // 2**22)):
        sums = np.abs(d[part] @ flips.T)
        extreme[part] = (sums >= np.abs(d[part].sum(1))[:, None] * (1 - 1e-9)).mean(1)
    reach = statistics.quantile(n, CONFIDENCE, 1)
    t = np.abs(d.mean(1)) / (d.std(1, ddof=1) / math.sqrt(n))
    return float((extreme <= 0.05).mean()), float((t > reach).mean())


# ---- seeds added until settled


def mixture(n: int, error: float, c2: float) -> float:
    """Critical |t| of the Gaussian-mixture confidence sequence: where the mixture martingale reaches 1 / error.

    E_n = sqrt(g) ((1 + x) / (1 + g x))^(n/2),  g = c2 / (n + c2),  x = t^2 / (n - 1)

    Source: Lai 1976; Wang and Ramdas 2025, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance".
    """
    g = c2 / (n + c2)
    height = (1 / error / math.sqrt(g)) ** (2 / n)
    return math.sqrt((n - 1) * (height - 1) / (1 - height * g)) if height * g < 1 else math.inf


def proportional(power: float, error: float) -> Array:
    """Critical |t| as of `inference.boundary`, with nominal levels in proportion to n^power."""
    looks, a = np.arange(FIRST, LAST + 1), error / 3
    for _ in range(30):
        critical = -special.stdtrit(looks - 1, a * (looks / LAST) ** power / 2)
        a *= error / boundaries.crossing(critical, FIRST)
    return np.asarray(critical)


def rules(error: float) -> dict[str, Array]:
    """Critical |t| at each look, by rule."""
    looks = np.arange(FIRST, LAST + 1)
    found = {
        UNGUARDED: -special.stdtrit(looks - 1, np.full(len(looks), error / 2)),
        "Bonferroni over the looks": -special.stdtrit(looks - 1, np.full(len(looks), error / len(looks) / 2)),
    }
    for c2 in (0.1, 0.5, 2):
        found[f"Gaussian-mixture confidence sequence, c2 = {c2:g}"] = np.array([mixture(int(n), error, c2) for n in looks])
    for power in (0, 2, 3):
        found[f"group-sequential, level ~ n^{power}"] = proportional(power, error)
    found[PLAIN] = np.array(boundaries.boundary(FIRST, LAST, error))
    found[CUT] = found[SEQUENTIAL] = found[PLAIN]
    return found


UNGUARDED = "t interval at every look (not valid)"
PLAIN, CUT = "group-sequential, level ~ n", "the same, cut with the earlier intervals"
SEQUENTIAL = "the same, further on the side of a long tail (ours)"


@dataclass(frozen=True)
class Trail:
    """What a rule did in simulated studies."""

    missed: float  # studies in which some final interval misses its effect
    ever: float  # studies in which some interval at some look does, stopped or not
    wrong: float  # studies with a false verdict
    decided: float  # contrasts with a verdict
    seeds: float  # seeds per arm
    runs: float  # runs per study, the reference included: it runs as long as the last arm
    same: float  # runs of the fixed design, LAST seeds at most, that decides as large a share


Paths = dict[tuple[str, str, tuple[float, float]], Trail]  # by noise, rule, regime


def running(reference: Array, arms: Array) -> tuple[Array, Array]:
    """Mean of the differences and its standard error at n = 2 .. all seeds."""
    d = arms - reference
    n = np.arange(1, d.shape[-1] + 1)
    centred = d - d[..., :1]  # so that the sum of squares loses no digits
    mean = centred.cumsum(-1) / n
    spread = np.maximum((centred**2).cumsum(-1) - n * mean**2, 0)[..., 1:] / (n[1:] - 1)
    return (mean + d[..., :1])[..., 1:], np.sqrt(spread / n[1:])


def follow(reference: Array, arms: Array, critical: Array, rule: str, family: int) -> Trail:
    """Each contrast of each study stops at the first look that settles it, or at the last."""
    mean, error = running(reference, arms)
    shape = np.zeros((*mean.shape[:2], LAST + 1))  # skewness after n values
    if rule == SEQUENTIAL:
        shape[..., 3:] = np.stack([intervals.skewness((arms - reference)[..., :n]) for n in range(3, LAST + 1)], -1)

    def ends(n: NDArray[np.int64]) -> tuple[Array, Array]:
        """Of the intervals at the look after n seeds of each contrast."""
        pick = n[..., None]
        g, at, e = (np.take_along_axis(x, pick - less, -1)[..., 0] for x, less in ((shape, 0), (mean, 2), (error, 2)))
        below, above = tailed(g, n.astype(float), family)
        half = critical[n - FIRST] * e
        return at - below * half, at + above * half

    half = critical * error[..., FIRST - 2 :]
    low, high = mean[..., FIRST - 2 :] - half, mean[..., FIRST - 2 :] + half
    if rule == SEQUENTIAL:  # as if none stopped
        low, high = (np.stack(x, -1) for x in zip(*(ends(np.full(mean.shape[:2], n)) for n in range(FIRST, LAST + 1)), strict=True))
    if rule == CUT:
        low, high = np.maximum.accumulate(low, -1), np.minimum.accumulate(high, -1)
    miss = (low > EFFECTS[:, None]) | (high < EFFECTS[:, None])
    said = settle(low, high)
    counts = FIRST + np.where((said != UNDECIDED).any(-1), (said != UNDECIDED).argmax(-1), LAST - FIRST)
    here = [np.take_along_axis(x, counts[..., None] - FIRST, -1)[..., 0] for x in (low, high)]
    final = settle(*here)
    if rule == SEQUENTIAL:
        counts = np.full(mean.shape[:2], FIRST)
    while rule == SEQUENTIAL:  # a contrast may open again when the others have shown a tail
        here = list(ends(counts))
        final = settle(*here)
        more = (final == UNDECIDED) & (counts < LAST)
        if not more.any():
            break
        counts = counts + more
    decided = float((final != UNDECIDED).mean())
    # the fixed design of equal power, interpolated between whole numbers of seeds
    power = []
    for n in range(2, LAST + 1):
        reach = statistics.quantile(n, CONFIDENCE, family) * error[..., n - 2]
        below, above = tailed(shape[..., n], np.full(reach.shape, float(n)), family) if rule == SEQUENTIAL and n > 2 else (1.0, 1.0)
        power.append(float((settle(mean[..., n - 2] - below * reach, mean[..., n - 2] + above * reach) != UNDECIDED).mean()))
    enough = next((i for i, share in enumerate(power) if share >= decided), len(power) - 1)
    lacking = (power[enough] - decided) / (power[enough] - power[enough - 1]) if enough and power[enough] > power[enough - 1] else 0.0
    same = (2 + enough - min(1.0, max(0.0, lacking))) * (FAMILY + 1)
    return Trail(
        missed=float(((here[0] > EFFECTS) | (here[1] < EFFECTS)).any(1).mean()),
        ever=float(miss.any((1, 2)).mean()),
        wrong=float(false(final).any(1).mean()),
        decided=decided,
        seeds=float(counts.mean()),
        runs=float((counts.sum(1) + counts.max(1)).mean()),
        same=same,
    )


def adaptive(reps: int) -> Paths:
    found: Paths = {}
    table, alone = rules((1 - CONFIDENCE) / FAMILY), np.array(boundaries.boundary(FIRST, LAST, 1 - CONFIDENCE))
    for place, noise in enumerate(NOISES):
        parts = draw(noise, reps, LAST, np.random.default_rng(100 + place))
        for regime in REGIMES:
            reference, arms = runs(parts, *regime)
            for name in table if noise == "normal" else (PLAIN, SEQUENTIAL):
                found[noise, name, regime] = follow(reference, arms, table[name], name, FAMILY)
            found[noise, ALONE, regime] = follow(reference, arms, alone, SEQUENTIAL, 1)
    return found


# ---- what else was tried


def tried(reps: int) -> intervals.Studies:
    """The same studies as noise of unit scale, with two more kinds: `some`, in which four of the arms are lopsided and the rest normal, and
    `unequal`, normal, with every other arm four times as quiet: the arms of the shipped studies differ by 2 to 20 times."""
    noise = {}
    for place, name in enumerate(NOISES):
        _, reference, own = draw(name, reps, LAST + 1, np.random.default_rng(300 + place))
        noise[name] = own - reference
    some = noise["normal"].copy()
    some[:, SOME] = noise["lopsided"][:, SOME]
    unequal = noise["normal"] * np.where(np.arange(FAMILY) % 2, 0.25, 1.0)[:, None]

    def judge(low: Array, high: Array) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        said = settle(low, high)
        return said != UNDECIDED, false(said)

    scales = [sigma * math.sqrt(1 - r) for sigma, r in REGIMES]
    return intervals.Studies(EFFECTS, scales, noise | {"some": some, "unequal": unequal}, judge, CONFIDENCE)


COMPARED = (5, 8, 16)


def tried_table(studies: int) -> str:
    """False verdicts of every way where noise is lopsided, where it is not, and what it costs where it is normal."""
    fixed_ones, added, few = (tried(studies // share) for share in (1, 2, 8))
    rows = []
    counts = np.arange(3, LAST + 2)
    power = {
        noise: [intervals.fixed(fixed_ones, noise, int(n), intervals.as_before).decided for n in counts] for noise in ("normal", "unequal")
    }
    before = intervals.adaptive(added, "normal", intervals.as_before, FIRST, LAST)

    def row(name: str, studies: intervals.Studies, of: Callable[[str, int], intervals.Worth], more: Sequence[str]) -> list[str]:
        found = {(noise, n): of(noise, n) for noise in studies.noise for n in COMPARED}
        worst = {key: max(worth.wrong) for key, worth in found.items()}
        quiet = max(share for (noise, _), share in worst.items() if noise not in ("lopsided", "some"))
        dearer = [
            " / ".join(f"{100 * (n / float(np.interp(found[noise, n].decided, known, counts)) - 1):.0f}" for n in COMPARED)
            for noise, known in power.items()
        ]
        shares = [" / ".join(percent(worst[noise, n]) for n in COMPARED) for noise in ("lopsided", "some")]
        covered = " / ".join(f"{100 * found['lopsided', n].covered:.1f}" for n in COMPARED)
        return [name, shares[0], covered, percent(quiet), shares[1], *dearer, *more]

    for name, way in intervals.WAYS.items():
        ends = {noise: intervals.adaptive(added, noise, way, FIRST, LAST) for noise in ("normal", "lopsided", "some")}
        more = [percent(max(ends[noise].wrong)) for noise in ("lopsided", "some")]
        more.append(f"{100 * (ends['normal'].runs / before.runs - 1):.1f}")
        rows.append(row(name, fixed_ones, lambda noise, n, way=way: intervals.fixed(fixed_ones, noise, n, way), more))  # type: ignore[misc]

    def resampled(noise: str, n: int) -> intervals.Worth:
        rng = np.random.default_rng(400 + n)
        return intervals.fixed(few, noise, n, intervals.bootstrap(few.noise[noise][..., :n], FAMILY, CONFIDENCE, 2000, rng))

    rows.insert(5, row(intervals.BOOTSTRAP, few, resampled, ["", "", ""]))
    head = ["way", "false, lopsided", "all hold, lopsided", "false, other noise", "false, some lopsided"]
    head += ["more seeds, normal", "more seeds, unequal"]
    return table([*head, "added: false, lopsided", "added: false, some", "added: more runs, normal"], rows)


def largest_table(batches: int) -> str:
    """Bonferroni's critical value, and that of the largest |t| with the correlation known."""
    rows: list[list[object]] = []
    for n in SEEDS:
        rng = np.random.default_rng(500 + n)

        def shared(studies: int, n: int = n, rng: np.random.Generator = rng) -> Array:
            y = rng.standard_normal((studies, FAMILY + 1, n))
            return y[:, 1:] - y[:, :1]

        def crossed(studies: int, n: int = n, rng: np.random.Generator = rng) -> Array:
            return intervals.factorial(rng.standard_normal((studies, 32, n)))

        row: list[object] = [n]
        for family, draws in ((FAMILY, shared), (30, crossed)):
            usual, exact = statistics.quantile(n, CONFIDENCE, family), intervals.largest(draws, CONFIDENCE, batches)
            row += [f"{usual:.2f}", f"{exact:.2f}", f"{100 * (1 - exact / usual):.1f}"]
        rows.append(row)
    kinds = ("11 against one reference", "30 of a factorial")
    return table(["n", *(f"{kind}: {what}" for kind in kinds for what in ("Bonferroni", "largest t", "shorter by"))], rows)


# ---- tables


def percent(share: float) -> str:
    value = 100 * share
    return "0" if value == 0 else "< 0.01" if value < 0.005 else f"{value:.2f}" if value < 1 else f"{value:.1f}"


def both(values: Sequence[float]) -> str:
    """Mean and worst over the regimes."""
    return f"{percent(float(np.mean(values)))} / {percent(float(max(values)))}"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def wrong(found: Fixed, noise: str, name: str, n: int) -> list[float]:
    return [found.wrong[noise, name, n, regime] for regime in REGIMES]


def average(paths: Paths, noise: str, name: str, what: str) -> float:
    return float(np.mean([getattr(paths[noise, name, regime], what) for regime in REGIMES]))


def coverage_table(found: Fixed) -> str:
    kinds = (
        (OURS, f"ours, all {FAMILY}"),
        (ALONE, "ours, one contrast"),
        (STUDENT, f"Student's t, all {FAMILY}"),
        (NAIVE, f"Welch 95 %, all {FAMILY}"),
    )
    rows = [[noise, label, *(percent(found.covered[noise, name, n]) for n in SEEDS)] for noise in NOISES for name, label in kinds]
    return table(["noise", "intervals", *(f"n = {n}" for n in SEEDS)], rows)


def wrong_table(found: Fixed) -> str:
    rows = [[noise, name, *(both(wrong(found, noise, name, n)) for n in SEEDS)] for noise in NOISES for name in METHODS]
    return table(["noise", "method", *(f"n = {n}" for n in SEEDS)], rows)


KINDS = {
    "worse, effect 0": (NECESSARY, 0),
    "better, effect 0": (HARMFUL, 0),
    "better, effect m/2": (HARMFUL, 0.5),
    "equivalent, effect 1.5 m": (REDUNDANT, 1.5),
    "equivalent, effect -1.5 m": (REDUNDANT, -1.5),
    "equivalent, effect 3 m": (REDUNDANT, 3),
}


def kinds_table(found: Fixed) -> str:
    rows = []
    cases = [("normal", name, n) for n in (3, 8) for name in METHODS]
    cases += [("lopsided", name, n) for n in SEEDS for name in (OURS, ALONE, STUDENT)]
    for noise, name, n in cases:
        row: list[object] = [noise, n, name]
        for said, margins in KINDS.values():
            arms = [i for i, effect in enumerate(MARGINS) if effect == margins]
            row.append(both([float(found.rates[noise, name, n, regime][arms, said].mean()) for regime in REGIMES]))
        rows.append(row)
    return table(["noise", "n", "method", *KINDS], rows)


def powers(rates: Array) -> str:
    """Redundant at 0 and at m/2, equivalent at m, worse at 1.5 m and at 3 m, in per cent."""
    at = MARGINS.index
    shares = [
        rates[at(0), REDUNDANT],
        rates[at(0.5), REDUNDANT],
        rates[at(1), REDUNDANT],
        rates[at(1.5), NECESSARY],
        rates[at(3), NECESSARY],
    ]
    return " / ".join(f"{100 * share:.0f}" for share in shares)


def power_table(found: Fixed, n: int) -> str:
    rows = []
    for sigma, r in REGIMES:
        rates = {name: found.rates["normal", name, n, (sigma, r)] for name in (OURS, ALONE, NAIVE)}
        called = rates[NAIVE][MARGINS.index(1.5), REDUNDANT]
        spread = f"{math.sqrt(2 * (1 - r)) * sigma / MARGIN:.2f}"
        rows.append([sigma, r, spread, *(powers(each) for each in rates.values()), f"{100 * called:.0f}"])
    return table(["sigma", "r", "sd of d in m", "ours, K = 11", "ours, K = 1", "Welch", "Welch: 1.5 m called equivalent"], rows)


def seeds_table(found: Fixed) -> str:
    regimes = ((0.005, 0.5), (0.01, 0.5), (0.01, 0.95))
    rows = [[*g, n, *(powers(found.rates["normal", name, n, g]) for name in (OURS, ALONE))] for g in regimes for n in SEEDS]
    return table(["sigma", "r", "n", "ours, K = 11", "ours, K = 1"], rows)


def signs_table(reps: int) -> str:
    rows = []
    for place, noise in enumerate(NOISES):
        rng = np.random.default_rng(200 + place)
        tests = [signs(times, n, noise, rng) for n, times in ((5, reps), (8, reps), (12, reps // 4))]
        rows.append([noise, *(f"{percent(flip)} / {percent(t)}" for flip, t in tests)])
    return table(["noise", "n = 5", "n = 8", "n = 12"], rows)


def saved(part: float, whole: float) -> str:
    return f"{100 * (1 - part / whole):.0f}"


def rules_table(paths: Paths) -> str:
    error, rows = (1 - CONFIDENCE) / FAMILY, []
    for name, critical in rules(error).items():
        exact = boundaries.crossing(critical, FIRST) / error
        shares = [percent(average(paths, "normal", name, what)) for what in ("ever", "missed", "wrong")]
        decided, seeds, spent, same = (average(paths, "normal", name, what) for what in ("decided", "seeds", "runs", "same"))
        costs = [f"{100 * decided:.1f}", f"{seeds:.2f}", f"{spent:.1f}", saved(spent, FULL), saved(spent, same)]
        rows.append([name, f"{exact:.2f}", *shares, *costs])
    head = ["rule", "error / declared", "any look misses", "a final one misses", "a verdict is false", "decided", "seeds per arm"]
    return table([*head, f"runs of {FULL}", "saved of the most", "saved of equal power"], rows)


FULL = LAST * (FAMILY + 1)


def regimes_table(paths: Paths) -> str:
    rows = []
    for regime in REGIMES:
        row: list[object] = [*regime]
        for name in (SEQUENTIAL, ALONE):
            p = paths["normal", name, regime]
            row += [f"{100 * p.decided:.0f}", f"{p.seeds:.1f}", f"{saved(p.runs, FULL)} / {saved(p.runs, p.same)}"]
        rows.append(row)
    columns = ["decided", "seeds per arm", "saved of the most / of equal power"]
    return table(["sigma", "r", *(f"K = {k}: {column}" for k in (FAMILY, 1) for column in columns)], rows)


def noises_table(paths: Paths) -> str:
    rows = []
    for noise, name in ((noise, name) for noise in NOISES for name in (PLAIN, SEQUENTIAL)):
        trails = [paths[noise, name, regime] for regime in REGIMES]
        ever = percent(average(paths, noise, name, "ever"))
        label = "ours" if name == SEQUENTIAL else "without a tail"
        rows.append([noise, label, ever, both([p.missed for p in trails]), both([p.wrong for p in trails])])
    return table(["noise", "intervals", "any look misses", "a final interval misses", "a verdict is false"], rows)


# ---- the page


def conclusion(found: Fixed, paths: Paths) -> str:
    """Three paragraphs, with the figures of this run."""

    def span(noise: str, name: str = OURS) -> str:
        shares = [100 * found.covered[noise, name, n] for n in SEEDS]
        return f"{min(shares):.1f} to {max(shares):.1f} %"

    def worst(noise: str, name: str) -> float:
        return 100 * max(share for n in COMPARED for share in wrong(found, noise, name, n))

    def bad(name: str) -> str:
        rates = [share for n in SEEDS for share in wrong(found, "normal", name, n)]
        return f"{100 * np.mean(rates):.1f} % ({100 * max(rates):.1f} % at worst)"

    def ever(name: str) -> str:
        return f"{100 * average(paths, 'normal', name, 'ever'):.1f} %"

    spent, same = (average(paths, "normal", SEQUENTIAL, what) for what in ("runs", "same"))
    trails = {name: [paths["lopsided", name, regime] for regime in REGIMES] for name in (PLAIN, SEQUENTIAL)}
    dear = 100 * max(
        paths["normal", name, regime].runs / paths["normal", name, regime].same - 1 for name in (SEQUENTIAL, ALONE) for regime in REGIMES
    )
    added = {name: 100 * max(trail.wrong for trail in of) for name, of in trails.items()}
    more = 100 * (spent / average(paths, "normal", PLAIN, "runs") - 1)
    few = found.rates["normal", OURS, 3, (0.005, 0.5)]
    equal, triple = 100 * few[MARGINS.index(0), REDUNDANT], 100 * few[MARGINS.index(3), NECESSARY]
    alone = [100 * max(wrong(found, "lopsided", ALONE, n)) for n in SEEDS]
    hold = f"""**Where they hold.** With normal noise all {FAMILY} intervals of a study hold together in {span("normal")} of studies,
        from {min(SEEDS)} seeds to {max(SEEDS)} (declared: at least 95 %). Heavy tails make them safer ({span("heavy")}), and so does
        noise that is skewed alike in both runs ({span("skewed")}), because the difference within a seed is then symmetric. Some verdict
        of the {FAMILY} is false in {bad(OURS)} of studies; with the habit of reading p >= 0.05 as equivalent in {bad(NAIVE)}, with one
        seed per arm in {bad(ONE)}, with the best of n seeds in {bad(BEST)}. Where seeds are added one at a time ({FIRST} to {LAST}),
        some interval misses at some look in {ever(SEQUENTIAL)} of studies; with plain t intervals looked at again and again it would be
        {ever(UNGUARDED)}. This takes {saved(spent, FULL)} % fewer runs than {LAST} seeds for all, and {saved(spent, same)} % fewer than
        the fixed number of seeds that decides as much, which nobody knows beforehand; where noise is too large to decide much, or so
        small that fewer than {FIRST} seeds would do, it costs up to {dear:.0f} % more than that number."""
    tail = f"""**Lopsided differences.** Where removing a part makes a few runs much worse and leaves the others alone, mean and spread both
        look small until a bad run is seen, and a t interval is too short at its upper end: with differences as skewed as an exponential
        variable all {FAMILY} hold in only {span("lopsided", STUDENT)} of studies, and some verdict is false in up to
        {worst("lopsided", STUDENT):.0f} %, or {added[PLAIN]:.0f} % where seeds are added until settled, since stopping picks the calm
        beginnings. A few seeds of one contrast cannot show that; the contrasts of a study together can. So each interval reaches
        exp(8 tail / n) times as far (n at least 5) on the side of the long tail, where the tail is the skewness of differences in the mean
        over all contrasts, less one standard error of what normal noise shows (aotsearch/evidence/tails.py). Then all {FAMILY} hold in
        {span("lopsided")} of studies; some verdict is false in at most {worst("lopsided", OURS):.1f} % of those with {COMPARED[0]} seeds or
        more, and in {added[SEQUENTIAL]:.1f} % where seeds are added. An interval is never shorter than the t interval, so where noise is
        normal it is as exact or safer, and takes {more:.1f} % more runs where seeds are added (section 7 for fixed numbers)."""
    fail = f"""**Where they fail.** With 3 seeds they are not wrong but mute: if the standard deviation of the difference is half the
        margin, 3 seeds find {equal:.0f} % of the parts without effect equivalent and {triple:.0f} % of those worth three margins
        worse, among {FAMILY} contrasts. With 3 lopsided seeds some verdict is false in up to
        {100 * max(wrong(found, "lopsided", OURS, 3)):.1f} % of studies. What the contrasts do not share, they cannot show: where only
        four of the {FAMILY} arms are lopsided, or a study has one contrast, the error is less than without the tail but not gone (section
        7; one contrast {max(alone):.1f} % at worst), and one contrast of 5 normal seeds pays for the protection that its own skewness
        gives with about a fifth more seeds. The sign-flip test assumes symmetry too and does not help. So look at the differences by
        seed: where one arm alone has a long tail of bad runs, believe that it is worse, and ask for more seeds before believing that it
        is not."""
    return "\n\n".join(map(wrapped, (hold, tail, fail)))


def wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 140, break_long_words=False, break_on_hyphens=False)


def page(found: Fixed, paths: Paths, reps: int, most: int = TRIED) -> str:
    effects = ", ".join(f"{margin:g}" for margin in MARGINS)
    simulated = f"""{reps:,} studies of each kind ({reps // 4:,} where seeds are added), each a reference and {FAMILY} arms with the
        true effects {effects} (in margins; m = {MARGIN}). Seed noise sigma of one run: {", ".join(map(str, SIGMAS))}. Correlation r of
        two runs under one seed: {", ".join(map(str, CORRELATIONS))}. These are {len(REGIMES)} regimes. Noise, always of the same
        standard deviation:"""
    judged = f"""A verdict is false if it contradicts the effect: worse where it is not above 0, better where it is not below 0,
        equivalent where it is more than m to either side. Methods: **ours**: paired t intervals at {100 * CONFIDENCE:g} %, Bonferroni
        over K = {FAMILY} contrasts (or K = 1), further on the side of the long tail that the K contrasts share, verdict by the place of
        the interval; **Student's t**: the same without a tail; **Welch**: unpaired, p < 0.05 is worse or
        better, anything else equivalent; **one seed** and **best of n**: the bare difference, equivalent within the margin."""
    added = f""""Error / declared" is computed, not simulated: the probability that one contrast's interval misses at any look, over
        alpha / K. "Any look": in all {FAMILY} contrasts, looks after stopping included. Runs include the reference, which needs as many
        seeds as the last arm. "Saved of the most" is against {LAST} seeds for all; "of equal power" against the fixed number of seeds
        that decides as large a share of the contrasts."""
    studies = min(reps, most)
    other = f"""In the same studies ({studies:,} of each kind, {studies // 2:,} where seeds are added, {studies // 8:,} for the bootstrap,
        which is computed for fixed seeds alone), K = {FAMILY}. False: studies with a false verdict, worst of the regimes, for n =
        {" / ".join(map(str, COMPARED))} seeds; other noise: worst of the other four kinds and all n; some lopsided: arms of effect 0, 0,
        1.5 m and -1.5 m are lopsided, the other seven normal. All hold: studies in which every interval holds its effect. More seeds: how
        many per cent more than with Student's t until as many contrasts are settled, normal noise, mean of the regimes; unequal: with every
        other arm four times as quiet (in the shipped studies spreads differ by 2 to 20 times); added: the same in runs, {FIRST} to {LAST}
        seeds. Wanted: at most 5 false in the first five kinds at at most 10 more seeds. "Pooled" is over the
        contrasts of a study, "error" one standard error of the mean skewness of normal noise, and the rate r that in exp(r tail / n).
        To believe no spread much below the pooled one protects best, and costs
        nothing while all arms have the same spread, but where they have not it mutes the quiet ones, so it is not taken. Johnson's interval
        is endless where its parabola does not reach; Hall's with the skewness of one contrast is as mute and protects less. Of so few
        studies a share of 5 % is known to 1 (two standard errors); section 2 has more."""
    correlated = """Contrasts against one reference correlate by 0.5, so Bonferroni's correction is a little too wide. The table has the
        gain that is left on the table: what the exact distribution of the largest |t| would save in width if the correlation were known,
        normal noise. It is not known: it depends on how much more the reference varies than the arms, which a few seeds cannot tell, and
        effects of a factorial hardly correlate at all. It would have to be solved anew for every look of every study. So Bonferroni
        stays: valid under any dependence, one line, and at most that much longer."""
    noises = "\n".join(f"* **{name}**: {text}." for name, text in NOISES.items())
    return f"""# Do the verdicts hold?

Written by `python benchmarks/verdicts.py --reps {reps}`; deterministic. All figures in tables are per cent unless a unit is named.

{conclusion(found, paths)}

## What is simulated

{wrapped(simulated)}

{noises}

{wrapped(judged)}

## 1. Coverage: studies in which every interval holds its effect

Paired intervals depend on neither sigma nor r. Welch's at r = 0, which they are made for, each at 95 %.

{coverage_table(found)}

## 2. Studies with a false verdict among {FAMILY} (K = 1: contrasts with a false verdict); mean / worst of the regimes

{wrong_table(found)}

## 3. False verdicts by kind, per contrast; mean / worst of the regimes

{kinds_table(found)}

## 4. Power: equivalent at effect 0 / at m/2 / at m, worse at 1.5 m / at 3 m

Normal noise, n = 8. Welch's equivalent counts as power here whatever it is worth: the last column shows the price.

{power_table(found, 8)}

By number of seeds:

{seeds_table(found)}

## 5. The second opinion: share of p <= 0.05 where nothing differs, sign-flip test / paired t

With 5 seeds the smallest p-value is 0.0625.

{signs_table(reps)}

## 6. Seeds added until settled ({FIRST} to {LAST}, normal noise, K = {FAMILY}, mean over the regimes)

{wrapped(added)}

{rules_table(paths)}

Ours by regime:

{regimes_table(paths)}

By noise, K = {FAMILY}; mean / worst of the regimes:

{noises_table(paths)}

## 7. What was tried against lopsided noise

{wrapped(other)}

{tried_table(studies)}

## 8. Bonferroni, or the distribution of the largest t

{wrapped(correlated)}

{largest_table(max(1, 8 * studies // 1000))}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reps", type=int, default=10_000, help="simulated studies of each kind; a quarter of it where seeds are added")
    parser.add_argument("--quick", action="store_true", help="few studies, printed")
    given = parser.parse_args(arguments)
    reps, began = 200 if given.quick else given.reps, time.perf_counter()
    text = page(fixed(reps), adaptive(reps // 4), reps)
    if given.quick:
        sys.stdout.write(text)
    else:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")
    sys.stderr.write(f"{time.perf_counter() - began:.0f} s\n")


if __name__ == "__main__":
    main()
