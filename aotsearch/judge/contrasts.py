"""Runs -> an Analysis: every arm against the reference, with intervals that hold for all at once.

judged(runs, name) -> Analysis

Symbols: y measure times the sign that makes lower better, d = y(arm) - y(reference), m margin, K arms that are compared.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.outcome import Outcome
from aotsearch.evidence.statistics import MOST_SEEDS, VERDICTS, deviation, noise_floor, seeds_needed, size, span, verdict, with_divergence
from aotsearch.evidence.welch import welch, welch_seeds_needed
from aotsearch.judge.runs import Run, Runs

WORSE, EQUIVALENT, BETTER, UNDECIDED = VERDICTS


def judged(runs: Runs, name: str) -> Analysis:
    """The analysis of all arms against the reference; its numbers are of y, so lower is better."""
    q = runs.question
    others = [arm for arm in runs.arms if arm != runs.reference]
    margin, family = margin_of(runs), len(others)
    contrasts = [_contrast(arm, runs, margin, family) for arm in others]
    values = [q.sign * v for v in runs.values(runs.reference)]
    mean, low, high = span(values, q.confidence, 1, None) if values else (None, None, None)
    halves = [(c.high - c.low) / 2 for c in contrasts if c.low is not None and c.high is not None]
    unit = q.unit or q.measure
    return Analysis(
        name=PurePath(name).stem or name,
        question="",
        measure=q.measure,
        unit=f"{unit} lost" if q.higher_is_better else unit,
        margin=margin,
        confidence=q.confidence,
        reference=runs.reference,
        value=mean,
        low=low,
        high=high,
        contrasts=tuple(contrasts),
        noise=noise_floor(values, q.confidence),
        smallest_effect=statistics.median(halves) if halves else None,
        method=method(runs, margin, family),
        outcomes=tuple(Outcome(arm, dict(sorted(Counter(r.outcome for r in rs).items())), q.confidence) for arm, rs in runs.arms.items()),
        notes=(),
        finished=len(runs.all),
        expected=None,
        seeds=tuple(sorted({int(r.seed) for r in runs.all if r.seed.isdecimal()})),
        family=family,
    )


def margin_of(runs: Runs) -> float:
    """The margin that was stated; else what one seed does to a run of the reference, to one digit.

    An interval within a margin is within it whenever that was chosen, so verdicts are no less true for it; they say little where the
    margin is not what matters.
    """
    if runs.question.margin is not None:
        return runs.question.margin
    samples = [runs.values(arm) for arm in runs.arms]
    noise = next((sd for values in samples if len(values) > 1 and (sd := deviation(values)) > 0), 0.0)
    if not noise:
        noise = max((abs(r.value) for r in runs.all if r.value), default=1.0) / 1000
    return float(f"{noise:.0e}")


@dataclass(frozen=True)
class _Interval:
    """d with its interval, and on how many runs it rests."""

    mean: float | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    seeds: int = 0


def _contrast(arm: str, runs: Runs, margin: float, family: int) -> Contrast:
    found = (_paired if runs.question.pair else _apart)(arm, runs, family)
    here, there = runs.values(arm), runs.values(runs.reference)
    said, far = UNDECIDED, "open"
    if found.low is not None and found.high is not None:
        said, far = verdict(found.low, found.high, margin), size(found.low, found.high, margin)
    needed = _needed(arm, runs, found, margin, family) if said == UNDECIDED and found.low is not None else None
    counts = _diverged(runs.arms[arm]), _diverged(runs.arms[runs.reference])
    said, always = with_divergence(said, *counts)  # as for our own trials
    diverged = _said_of_divergence(*counts, always)
    if always:
        far = "beyond"  # every number
    remark = "; ".join(filter(None, [diverged, _counts(arm, runs, found), _remark(said, needed, found) if not diverged else ""]))
    apart = math.hypot(deviation(here), deviation(there)) if min(len(here), len(there)) > 1 else None
    everything = {r.pair for r in runs.all} if runs.question.pair else there
    return Contrast(
        arm=arm,
        changes=(),
        equalise="none",
        difference=found.mean,
        low=found.low,
        high=found.high,
        seeds=found.seeds,
        missing=max(0, len(everything) - found.seeds),
        verdict=said,
        seeds_needed=None if diverged else needed,
        sd_paired=found.sd,
        sd_unpaired=apart,
        remark=remark,
        margin=margin,
        size="open" if said == UNDECIDED else far,
    )


def _paired(arm: str, runs: Runs, family: int) -> _Interval:
    q = runs.question
    here, there = ({r.pair: q.sign * r.value for r in runs.arms[name] if r.value is not None} for name in (arm, runs.reference))
    d = [y - there[pair] for pair, y in here.items() if pair in there]
    n = len(d)
    if not n:
        return _Interval()
    mean, low, high = span(d, q.confidence, family, None)
    if n < 2:
        return _Interval(mean, seeds=n)
    return _Interval(mean, low, high, deviation(d), n)


def _apart(arm: str, runs: Runs, family: int) -> _Interval:
    q = runs.question
    here, there = ([q.sign * v for v in runs.values(name)] for name in (arm, runs.reference))
    if not here or not there:
        return _Interval(seeds=len(here))
    mean, low, high = welch(here, there, q.confidence, family)
    return _Interval(mean, low, high, None, len(here))


def _needed(arm: str, runs: Runs, found: _Interval, margin: float, family: int) -> int | None:
    """Further seeds that would settle an undecided arm."""
    q = runs.question
    if found.sd is not None and found.mean is not None:
        return seeds_needed(found.mean, found.sd, found.seeds, margin, q.confidence, family)
    here, there = ([q.sign * v for v in runs.values(name)] for name in (arm, runs.reference))
    return welch_seeds_needed(here, there, margin, q.confidence, family)


def _diverged(runs: Sequence[Run]) -> tuple[int, int]:
    """How many runs diverged, and of how many that could have."""
    could = [r for r in runs if r.outcome in ("done", "diverged")]
    return sum(r.outcome == "diverged" for r in could), len(could)


def _said_of_divergence(here: tuple[int, int], there: tuple[int, int], always: bool) -> str:
    if always:
        return f"diverged in every run ({here[1]})" if here[0] else f"the reference diverged in every run ({there[1]})"
    shares = (("it", here), ("the reference", there))
    return "; ".join(f"{name} diverged in {100 * k / n:.0f} % of its runs" for name, (k, n) in shares if k)


def _counts(arm: str, runs: Runs, found: _Interval) -> str:
    n, m = len(runs.values(arm)), len(runs.values(runs.reference))
    if runs.question.pair:
        return "" if found.seeds == n == m else f"{found.seeds} pairs of {n} and {m} runs"
    return "" if n == m else f"{n} runs against {m}"


def _remark(said: str, needed: int | None, found: _Interval) -> str:
    if said != UNDECIDED:
        return ""
    if found.low is None:
        return "one run gives no interval" if found.mean is not None else "no run to compare"
    return f"about {needed} more seed{'s' * (needed > 1)}" if needed is not None else f"more than {MOST_SEEDS} seeds"


def method(runs: Runs, margin: float, family: int) -> str:
    """How the verdicts were come to, in words."""
    q = runs.question
    each = f"{100 * (1 - (1 - q.confidence) / family):.4g}"
    at_once = f" for all {family} contrasts at once by Bonferroni's correction ({each} % for each)" if family > 1 else ""
    if q.pair:
        unit = (
            f"Runs are paired by {q.pair!r}, as was claimed for them: the unit of evidence is the difference within a pair, and intervals "
            "are Student t intervals of its mean"
        )
    else:
        unit = (
            "Runs are not paired: intervals are Welch's, of the difference of two means, for unequal variances and numbers of runs, with "
            "Satterthwaite's degrees of freedom"
        )
    stated = "stated" if q.margin is not None else "not stated, so that of one seed's noise is taken"
    return (
        f"{unit}, {100 * q.confidence:g} %{at_once}: {'exact' if q.pair else 'nearly exact'} for one contrast where noise is normal, "
        f"safer for several, valid under any dependence between arms. With the margin {margin:g} ({stated}) an arm is {EQUIVALENT} to the "
        f"reference where the interval lies within the margin to both sides, else {WORSE} or {BETTER} where it lies to one side of zero, "
        f"else {UNDECIDED}. A run that diverged is counted, never dropped."
    )
