"""Sources and a question -> what can be said: the runs, their analysis with its doubts, and how long arms took.

judge(sources, question) -> Judged
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.statistics import span
from aotsearch.evidence.welch import welch
from aotsearch.judge import sources
from aotsearch.judge.contrasts import judged
from aotsearch.judge.doubts import doubts
from aotsearch.judge.question import Question
from aotsearch.judge.runs import Runs, read


@dataclass(frozen=True)
class Pace:
    """The time of an arm: geometric mean over its runs that ended well, and its ratio to the reference's with a simultaneous interval."""

    arm: str
    mean: float
    ratio: float | None = None
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Judged:
    """All that is known of a table of runs; the numbers of `analysis` are such that lower is better."""

    source: str
    runs: Runs
    analysis: Analysis
    paces: tuple[Pace, ...]


def judge(names: Sequence[str], question: Question) -> Judged:
    """Read the sources and judge them.

    Raises:
        InputError: they cannot be read, or hold no comparison.
    """
    table = sources.read(names)
    runs = read(table, question)
    analysis = judged(runs, table.name)
    warnings, notes = doubts(runs, analysis)
    return Judged(table.name, runs, dataclasses.replace(analysis, warnings=warnings, notes=notes), _paces(runs, analysis))


def _paces(runs: Runs, a: Analysis) -> tuple[Pace, ...]:
    """One for each arm whose time is known, where times were asked for; with pairs, the ratio is within pairs."""
    if not runs.question.time:
        return ()
    times = {
        arm: {r.pair: r.time for r in rs if r.time is not None and r.time > 0 and r.outcome == "done"} for arm, rs in runs.arms.items()
    }
    there = times[runs.reference]
    found = []
    for arm, here in times.items():
        if not here:
            continue
        mean = math.exp(sum(map(math.log, here.values())) / len(here))
        if arm == runs.reference or not there:
            found.append(Pace(arm, mean))
            continue
        here_logs, there_logs = ([math.log(t) for t in of.values()] for of in (here, there))
        if runs.question.pair and (shared := [math.log(t / there[k]) for k, t in here.items() if k in there]):
            ends = span(shared, a.confidence, a.family, None)
        else:
            ends = welch(here_logs, there_logs, a.confidence, a.family)
        found.append(Pace(arm, mean, *(None if e is None else math.exp(e) for e in ends)))
    return tuple(found)
