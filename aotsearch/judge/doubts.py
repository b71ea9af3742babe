"""What makes verdicts on runs that were trained elsewhere doubtful, one line each: warnings first, then notes.

doubts(runs, analysis) -> (warnings, notes)
"""

from __future__ import annotations

import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Sequence

from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.statistics import deviation, quantile, too_few
from aotsearch.judge.runs import Run, Runs, differing

LARGE = re.compile(
    r"(^|[^a-z])(acc|accuracy|f1|auc|auroc|bleu|rouge|map|score|reward|return|recall|precision|top.?[15])([^a-z]|$)", re.IGNORECASE
)
PICKED = re.compile(r"(^|[^a-z])(best|min|max|lowest|highest)([^a-z]|$)", re.IGNORECASE)
NAMED = 4
UNLIKE = 0.01  # budgets that differ by more than this are not equal
FACTOR = 20.0  # a value this many times the median of its arm is of another unit, or not of this measure


def doubts(runs: Runs, analysis: Analysis) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Warnings, that change how the verdicts read, and notes."""
    warnings = [
        *_margin(runs, analysis),
        *_numbers(runs),
        *_direction(runs),
        *_picked(runs),
        *_gaps(runs),
        *_budgets(runs),
        *_machines(runs),
        *_endings(runs),
        *_magnitudes(runs),
        *_copies(runs),
        *_names(runs),
    ]
    return tuple(warnings), (*_pairing(runs, analysis), *_power(runs, analysis), *runs.notes)


def few_of(names: Iterable[object]) -> str:
    """The first names of a list, and how many more there are."""
    known = [str(name) for name in names]
    return ", ".join(known[:NAMED]) + (f" and {len(known) - NAMED} more" if len(known) > NAMED else "")


def _margin(runs: Runs, a: Analysis) -> list[str]:
    if runs.question.margin is not None:
        return []
    return [
        f"no margin was stated: {a.margin:g} is taken, the standard deviation of one arm over its runs, which says nothing of what "
        "matters; state --margin, best before the runs are looked at"
    ]


def _numbers(runs: Runs) -> list[str]:
    """Of how few runs there is nothing to say."""
    single = [arm for arm in runs.arms if len(runs.values(arm)) == 1]
    none = [arm for arm in runs.arms if not runs.values(arm)]
    said = []
    if single:
        said.append(f"one run alone has no noise to be compared with, so nothing can be said of {few_of(single)}: train more seeds")
    if none:
        said.append(f"no run has a value in {few_of(none)}")
    return said


def _picked(runs: Runs) -> list[str]:
    """Values that are the best of several."""
    q = runs.question
    said = []
    if runs.history and q.at == "best":
        said.append(
            f"the best {runs.history} of each run is taken (--at best): the best of many is better than it would be again, the more so for "
            "noisier arms and arms that were measured more often"
        )
    if PICKED.search(q.measure):
        said.append(
            f"{q.measure!r} is by its name the best of several: such values flatter noisier arms and arms that were measured more often; "
            "judge by the last one"
        )
    return said


def _direction(runs: Runs) -> list[str]:
    """A measure that by its name is better the larger it is, judged as if it were not."""
    q = runs.question
    if q.higher_is_better or not LARGE.search(q.measure):
        return []
    return [f"{q.measure!r} is by its name better the larger it is, and is judged as if lower were better: state --higher-is-better"]


def _gaps(runs: Runs) -> list[str]:
    """Seeds that some arms lack: if they were left out by their results, the rest are the best of n."""
    if not runs.seeded:
        return []
    seeds = {arm: {r.seed for r in rs} for arm, rs in runs.arms.items()}
    said = []
    counts = {arm: len(s) for arm, s in seeds.items()}
    if len(set(counts.values())) > 1:
        low, high = min(counts.items(), key=lambda x: x[1]), max(counts.items(), key=lambda x: x[1])
        said.append(
            f"arms have unequal numbers of seeds, from {low[1]} ({low[0]}) to {high[1]} ({high[0]}): if an arm got more because of its "
            "results, or lost some, its interval does not hold"
        )
    holes = {arm: found for arm, s in seeds.items() if (found := _holes(s))}
    if holes:
        arm, found = next(iter(holes.items()))
        more = f", and {len(holes) - 1} more arms have gaps" if len(holes) > 1 else ""
        said.append(
            f"seeds {few_of(found)} are missing between those of {arm}{more}: where runs were left out by their results the best of n are "
            "compared, and verdicts are void"
        )
    return said


def _holes(seeds: Iterable[str]) -> list[int]:
    """Whole numbers missing from a run of seeds that is otherwise dense."""
    numbers = sorted(int(s) for s in seeds if s.isdecimal())
    if len(numbers) < 3 or numbers[-1] - numbers[0] > 2 * len(numbers):
        return []
    return sorted(set(range(numbers[0], numbers[-1] + 1)) - set(numbers))


def _budgets(runs: Runs) -> list[str]:
    """Columns of steps, tokens or the like in which an arm differs from the reference."""
    said = []
    for name in sorted({name for r in runs.all for name in r.budgets}):
        base = _median(r.budgets.get(name) for r in runs.arms[runs.reference])
        other = {arm: _median(r.budgets.get(name) for r in rs) for arm, rs in runs.arms.items()}
        unlike = [f"{arm} {v:g}" for arm, v in other.items() if base and v is not None and abs(v / base - 1) > UNLIKE]
        if unlike:
            said.append(
                f"unequal budgets: {name!r} is {base:g} in {runs.reference}, but {few_of(unlike)}: a difference is of the budget as well"
            )
        within = [arm for arm, rs in runs.arms.items() if _uneven([r.budgets[name] for r in rs if name in r.budgets])]
        if within:
            said.append(f"unequal budgets: {name!r} differs between the runs of {few_of(within)}: some may have ended early")
    return said


def _uneven(values: Sequence[float]) -> bool:
    return len(values) > 1 and max(values) - min(values) > UNLIKE * max(abs(v) for v in values)


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def _machines(runs: Runs) -> list[str]:
    """Arms or seeds that cannot be told from the machine that they ran on."""
    where = {arm: {r.machine for r in rs if r.machine} for arm, rs in runs.arms.items()}
    base = where[runs.reference]
    apart = [f"{arm} ({few_of(sorted(found))})" for arm, found in where.items() if found and base and not found & base]
    said = []
    if apart:
        said.append(
            f"confounded with the machine: {few_of(apart)} ran on no machine that the reference ran on ({few_of(sorted(base))}): a "
            "difference may be of the machine"
        )
    by_seed: dict[str, set[str]] = {}
    for r in runs.all:
        if r.machine:
            by_seed.setdefault(r.pair if runs.question.pair else r.seed, set()).add(r.machine)
    several = len({m for s in by_seed.values() for m in s}) > 1
    if not runs.question.pair and not apart and runs.seeded and several and all(len(s) == 1 for s in by_seed.values()):
        said.append("every seed ran on a machine of its own: the noise over seeds is that of machines too, which --pair takes out")
    mixed = [s for s, found in by_seed.items() if len(found) > 1]
    if runs.question.pair and mixed and not apart:
        said.append(f"{len(mixed)} of {len(by_seed)} pairs are of runs on different machines ({few_of(mixed)}): what they share is less")
    return said


def _endings(runs: Runs) -> list[str]:
    """Runs without a value, by how they ended, the first with its place."""
    bad: dict[str, list[Run]] = {}
    for r in runs.all:
        if r.outcome != "done":
            bad.setdefault(r.outcome, []).append(r)
    said = []
    for outcome, found in bad.items():
        arms = Counter(r.arm for r in found)
        what = "counts against its arm" if outcome == "diverged" else "is missing, and the rest may be the better ones"
        runs_of = few_of(f"{arm} {n}" for arm, n in arms.items())
        said.append(f"{found[0].mark}: {len(found)} run{'s' * (len(found) > 1)} {outcome} ({runs_of}): such a run {what}")
    return said


def _magnitudes(runs: Runs) -> list[str]:
    """Values of another order than the rest: a fraction among percents, a loss among perplexities."""
    middle = {arm: statistics.median(abs(v) for v in values) for arm in runs.arms if (values := runs.values(arm))}
    whole = statistics.median(middle.values()) if middle else 0.0
    if not whole:
        return []

    def far(value: float, centre: float) -> bool:
        return bool(value) and bool(centre) and not 1 / FACTOR < abs(value) / centre < FACTOR

    odd = [r for arm, centre in middle.items() for r in runs.arms[arm] if r.value is not None and far(r.value, centre)]
    said = [f"{r.mark}: {r.value:g} is of another order than {middle[r.arm]:g}, the median of {r.arm}: another unit?" for r in odd[:NAMED]]
    base = middle.get(runs.reference, whole)
    apart = [f"{arm} {centre:g}" for arm, centre in middle.items() if far(centre, base)]
    if apart:
        said.append(f"mixed units? the values of {few_of(apart)} are of another order than {base:g} of the reference")
    return said


def _copies(runs: Runs) -> list[str]:
    """Runs that are one run written several times."""
    said = []
    constant = [arm for arm in runs.arms if len(values := runs.values(arm)) > 1 and not deviation(values)]
    if constant:
        said.append(f"all runs of {few_of(constant)} have the same value: one run written several times, or a seed that does nothing")
    seen: dict[tuple[float, ...], str] = {}
    for arm in runs.arms:
        known = tuple(runs.values(arm))
        if len(known) > 2 and known in seen and arm not in constant:
            said.append(f"{arm} and {seen[known]} have the same values in the same order: one is a copy of the other, or the same model")
        seen.setdefault(known, arm)
    return said


def _names(runs: Runs) -> list[str]:
    pairs = [f"{a!r} and {b!r}" for a, b in differing(list(runs.arms))]
    return [f"{few_of(pairs)} differ in case, blanks or dashes alone and are judged as two arms"] if pairs else []


def _pairing(runs: Runs, a: Analysis) -> list[str]:
    """Whether pairs were claimed, and what they are worth."""
    q = runs.question
    if not q.pair:
        shared = set.intersection(*({r.seed for r in rs} for rs in runs.arms.values())) if runs.seeded else set()
        if len(shared) > 1 and not q.unpaired:
            return [
                f"arms share {len(shared)} seeds, but it was not claimed that a seed makes their runs alike: if it fixes the initial "
                f"values and the order of the data in all arms, --pair {q.seed or 'seed'} compares within seeds, often more sharply; "
                "else --unpaired"
            ]
        return [] if runs.seeded else ["there is no column of seeds (--seed): every row counts as a run of its own"]
    few = [f"{c.arm} {c.seeds}" for c in a.contrasts if c.seeds < min(len(runs.values(c.arm)), len(runs.values(runs.reference)))]
    said = [f"fewer runs have a pair than there are: {few_of(few)}; without pairs (--unpaired) all would count"] if few else []
    if a.gain is not None and a.gain[0] < 1:
        said.append(
            "runs of a pair are no more alike than others, so pairing has gained nothing here: is a seed the same thing in all arms?"
        )
    elif a.gain is not None:
        said.append(f"pairing made the standard deviation of a difference {a.gain[0]:.2g} times smaller (median), as measured here")
    return said


def _power(runs: Runs, a: Analysis) -> list[str]:
    """How much so many runs can tell."""
    n = len(runs.values(runs.reference))
    said = []
    if 1 < n < 5:
        reach = quantile(n, a.confidence, a.family) / math.sqrt(n)
        said.append(
            f"only {n} runs of the reference for {a.family} contrast{'s' * (a.family > 1)}: the interval of a mean of {n} reaches "
            f"{reach:.3g} standard deviations to each side; every further seed narrows it fast"
        )
    paired = min((c.seeds for c in a.contrasts if c.low is not None), default=0) if runs.question.pair else 0
    if paired > 1 and too_few(paired, a.confidence, a.family):
        said.append(too_few(paired, a.confidence, a.family))
    if a.smallest_effect is not None and a.smallest_effect > a.margin:
        said.append(
            f"the minimum detectable effect is {a.smallest_effect:.3g}, more than the margin of {a.margin:g}: a typical arm cannot be "
            "found equivalent with so few runs"
        )
    if any(c.seeds_needed for c in a.contrasts):
        said.append(
            "seeds that are added because of these results are a further look; the number of seeds that is told allows for one such look"
        )
    return said
