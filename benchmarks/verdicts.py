"""Do the verdicts hold? Simulated studies of which the truth is known; writes benchmarks/verdicts.md.

    python benchmarks/verdicts.py [--quick] [--reps 20000]

A study has a reference and eleven arms. Arm k under seed s measures

    y_ks = effect_k + sigma (sqrt(r) common_s + sqrt(1 - r) own_ks),    reference: the same with effect 0 and an own part of its own

so sigma is the seed noise of one run and r the correlation of two runs under one seed. A verdict is false if it contradicts the effect:
`necessary` where the effect is not above 0, `harmful` where it is not below 0, `redundant` where it is more than the margin to either
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

from aotsearch.evidence import boundary as boundaries
from aotsearch.evidence import statistics

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

NOISES = {
    "normal": "every part is normal",
    "heavy": "every part is Student's t with 3 degrees of freedom",
    "skewed": "every part is exponential, so some runs are much worse; the difference of two such runs is symmetric again",
    "mixed": "the arm's own part is exponential, all else normal: the difference has skewness 0.7",
    "lopsided": "the arm's own part is exponential, the reference has none: the difference has skewness 2, like an exponential variable",
}


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


def paired(reference: Array, arms: Array, family: int) -> tuple[Array, Array]:
    """Ends of the intervals of `inference.interval`."""
    d, n = arms - reference, arms.shape[-1]
    mean, half = d.mean(-1), statistics.quantile(n, CONFIDENCE, family) * d.std(-1, ddof=1) / math.sqrt(n)
    return mean - half, mean + half


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
    "Welch, p < 0.05 or redundant": significance,
    "one seed": lambda reference, arms: bare((arms - reference)[..., 0]),
    "best of n": lambda reference, arms: bare(arms.min(-1) - reference.min(-1)),
}
OURS, ALONE, NAIVE, ONE, BEST = METHODS


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
    found[SEQUENTIAL] = np.array(boundaries.boundary(FIRST, LAST, error))
    found[CUT] = found[SEQUENTIAL]
    return found


UNGUARDED = "t interval at every look (not valid)"
SEQUENTIAL, CUT = "group-sequential, level ~ n (ours)", "the same, cut with the earlier intervals"


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


def follow(reference: Array, arms: Array, critical: Array, cut: bool, family: int) -> Trail:
    """Each contrast of each study stops at the first look that settles it, or at the last."""
    mean, error = running(reference, arms)
    centre, half = mean[..., FIRST - 2 :], critical * error[..., FIRST - 2 :]
    low, high = centre - half, centre + half
    if cut:
        low, high = np.maximum.accumulate(low, -1), np.minimum.accumulate(high, -1)
    said = settle(low, high)
    stop = np.where((said != UNDECIDED).any(-1), (said != UNDECIDED).argmax(-1), LAST - FIRST)
    pick = stop[..., None]
    final = np.take_along_axis(said, pick, -1)[..., 0]
    miss = (low > EFFECTS[:, None]) | (high < EFFECTS[:, None])
    decided = float((final != UNDECIDED).mean())
    counts = stop + FIRST
    # the fixed design of equal power, interpolated between whole numbers of seeds
    power = []
    for n in range(2, LAST + 1):
        reach = statistics.quantile(n, CONFIDENCE, family) * error[..., n - 2]
        power.append(float((settle(mean[..., n - 2] - reach, mean[..., n - 2] + reach) != UNDECIDED).mean()))
    enough = next((i for i, share in enumerate(power) if share >= decided), len(power) - 1)
    lacking = (power[enough] - decided) / (power[enough] - power[enough - 1]) if enough and power[enough] > power[enough - 1] else 0.0
    same = (2 + enough - min(1.0, max(0.0, lacking))) * (FAMILY + 1)
    return Trail(
        missed=float(np.take_along_axis(miss, pick, -1)[..., 0].any(1).mean()),
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
            for name in table if noise == "normal" else (SEQUENTIAL,):
                found[noise, name, regime] = follow(reference, arms, table[name], name == CUT, FAMILY)
            found[noise, ALONE, regime] = follow(reference, arms, alone, False, 1)
    return found


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
    kinds = ((OURS, f"ours, all {FAMILY}"), (ALONE, "ours, one contrast"), (NAIVE, f"Welch 95 %, all {FAMILY}"))
    rows = [[noise, label, *(percent(found.covered[noise, name, n]) for n in SEEDS)] for noise in NOISES for name, label in kinds]
    return table(["noise", "intervals", *(f"n = {n}" for n in SEEDS)], rows)


def wrong_table(found: Fixed) -> str:
    rows = [[noise, name, *(both(wrong(found, noise, name, n)) for n in SEEDS)] for noise in NOISES for name in METHODS]
    return table(["noise", "method", *(f"n = {n}" for n in SEEDS)], rows)


KINDS = {
    "necessary, effect 0": (NECESSARY, 0),
    "harmful, effect 0": (HARMFUL, 0),
    "harmful, effect m/2": (HARMFUL, 0.5),
    "redundant, effect 1.5 m": (REDUNDANT, 1.5),
    "redundant, effect -1.5 m": (REDUNDANT, -1.5),
    "redundant, effect 3 m": (REDUNDANT, 3),
}


def kinds_table(found: Fixed) -> str:
    rows = []
    cases = [("normal", name, n) for n in (3, 8) for name in METHODS] + [("lopsided", name, n) for n in SEEDS for name in (OURS, ALONE)]
    for noise, name, n in cases:
        row: list[object] = [noise, n, name]
        for said, margins in KINDS.values():
            arms = [i for i, effect in enumerate(MARGINS) if effect == margins]
            row.append(both([float(found.rates[noise, name, n, regime][arms, said].mean()) for regime in REGIMES]))
        rows.append(row)
    return table(["noise", "n", "method", *KINDS], rows)


def powers(rates: Array) -> str:
    """Redundant at 0 and at m/2, redundant at m, necessary at 1.5 m and at 3 m, in per cent."""
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
    return table(["sigma", "r", "sd of d in m", "ours, K = 11", "ours, K = 1", "Welch", "Welch: 1.5 m called redundant"], rows)


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
    for noise in NOISES:
        trails = [paths[noise, SEQUENTIAL, regime] for regime in REGIMES]
        ever = percent(average(paths, noise, SEQUENTIAL, "ever"))
        rows.append([noise, ever, both([p.missed for p in trails]), both([p.wrong for p in trails])])
    return table(["noise", "any look misses", "a final interval misses", "a verdict is false"], rows)


# ---- the page


def conclusion(found: Fixed, paths: Paths) -> str:
    """Two paragraphs, with the figures of this run."""

    def span(noise: str) -> str:
        shares = [100 * found.covered[noise, OURS, n] for n in SEEDS]
        return f"{min(shares):.1f} to {max(shares):.1f} %"

    def bad(name: str) -> str:
        rates = [share for n in SEEDS for share in wrong(found, "normal", name, n)]
        return f"{100 * np.mean(rates):.1f} % ({100 * max(rates):.1f} % at worst)"

    def ever(name: str) -> str:
        return f"{100 * average(paths, 'normal', name, 'ever'):.1f} %"

    spent, same = (average(paths, "normal", SEQUENTIAL, what) for what in ("runs", "same"))
    trails = {noise: [paths[noise, SEQUENTIAL, regime] for regime in REGIMES] for noise in NOISES}
    dear = 100 * max(
        paths["normal", name, regime].runs / paths["normal", name, regime].same - 1 for name in (SEQUENTIAL, ALONE) for regime in REGIMES
    )
    fixed_worst = 100 * max(share for n in SEEDS for share in wrong(found, "lopsided", OURS, n))
    added_worst = 100 * max(trail.wrong for trail in trails["lopsided"])
    few, lopsided = found.rates["normal", OURS, 3, (0.005, 0.5)], found.rates["lopsided", ALONE, 8, (0.02, 0.0)]
    equal, triple = 100 * few[MARGINS.index(0), REDUNDANT], 100 * few[MARGINS.index(3), NECESSARY]
    harmful, necessary = 100 * lopsided[MARGINS.index(0), HARMFUL], 100 * lopsided[MARGINS.index(0), NECESSARY]
    hold = f"""**Where they hold.** With normal noise all {FAMILY} intervals of a study hold together in {span("normal")} of studies,
        from {min(SEEDS)} seeds to {max(SEEDS)} (declared: at least 95 %). Heavy tails make them safer ({span("heavy")}), and so does
        noise that is skewed alike in both runs ({span("skewed")}), because the difference within a seed is then symmetric. Some verdict
        of the {FAMILY} is false in {bad(OURS)} of studies; with the habit of reading p >= 0.05 as redundant in {bad(NAIVE)}, with one
        seed per arm in {bad(ONE)}, with the best of n seeds in {bad(BEST)}. Where seeds are added one at a time ({FIRST} to {LAST}),
        some interval misses at some look in {ever(SEQUENTIAL)} of studies; with plain t intervals looked at again and again it would be
        {ever(UNGUARDED)}. This takes {saved(spent, FULL)} % fewer runs than {LAST} seeds for all, and {saved(spent, same)} % fewer than
        the fixed number of seeds that decides as much, which nobody knows beforehand; where noise is too large to decide much, or so
        small that fewer than {FIRST} seeds would do, it costs up to {dear:.0f} % more than that number."""
    fail = f"""**Where they fail.** With 3 seeds they are not wrong but mute: if the standard deviation of the difference is half the
        margin, 3 seeds find {equal:.0f} % of the parts without effect redundant and {triple:.0f} % of those worth three margins
        necessary, among {FAMILY} contrasts. They are wrong too often where the difference itself is lopsided: where removing a part
        makes a few runs much worse and leaves the others alone. With differences as skewed as an exponential variable all {FAMILY}
        intervals hold in only {span("lopsided")} of studies, and some verdict is false in up to {fixed_worst:.0f} %, or
        {added_worst:.0f} % where seeds are added until settled, since stopping picks the calm beginnings. More seeds help slowly. The
        error has a direction: until a bad run is seen, mean and spread both look small, so the part is called harmful (in {harmful:.0f}
        % of single contrasts without effect, 8 seeds, the largest noise) or redundant, but hardly ever necessary ({necessary:.1f} %).
        The sign-flip test assumes symmetry too and does not help. A skewness of 0.7 does no such harm ({span("mixed")}). So look at the
        differences by seed; where an arm has one long tail of bad runs, believe `necessary`, and ask for more seeds before believing
        `redundant` or `harmful`."""
    return f"{wrapped(hold)}\n\n{wrapped(fail)}"


def wrapped(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 140, break_long_words=False, break_on_hyphens=False)


def page(found: Fixed, paths: Paths, reps: int) -> str:
    effects = ", ".join(f"{margin:g}" for margin in MARGINS)
    simulated = f"""{reps:,} studies of each kind ({reps // 4:,} where seeds are added), each a reference and {FAMILY} arms with the
        true effects {effects} (in margins; m = {MARGIN}). Seed noise sigma of one run: {", ".join(map(str, SIGMAS))}. Correlation r of
        two runs under one seed: {", ".join(map(str, CORRELATIONS))}. These are {len(REGIMES)} regimes. Noise, always of the same
        standard deviation:"""
    judged = f"""A verdict is false if it contradicts the effect: necessary where it is not above 0, harmful where it is not below 0,
        redundant where it is more than m to either side. Methods: **ours**: paired t intervals at {100 * CONFIDENCE:g} %, Bonferroni
        over K = {FAMILY} contrasts (or K = 1), verdict by the place of the interval; **Welch**: unpaired, p < 0.05 is necessary or
        harmful, anything else redundant; **one seed** and **best of n**: the bare difference, redundant within the margin."""
    added = f""""Error / declared" is computed, not simulated: the probability that one contrast's interval misses at any look, over
        alpha / K. "Any look": in all {FAMILY} contrasts, looks after stopping included. Runs include the reference, which needs as many
        seeds as the last arm. "Saved of the most" is against {LAST} seeds for all; "of equal power" against the fixed number of seeds
        that decides as large a share of the contrasts."""
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

## 4. Power: redundant at effect 0 / at m/2 / at m, necessary at 1.5 m / at 3 m

Normal noise, n = 8. Welch's redundant counts as power here whatever it is worth: the last column shows the price.

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

Ours by noise, K = {FAMILY}; mean / worst of the regimes:

{noises_table(paths)}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--reps", type=int, default=20_000, help="simulated studies of each kind; a quarter of it where seeds are added")
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
