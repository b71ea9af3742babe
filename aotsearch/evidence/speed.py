"""Records -> how long a training step of each arm takes against the reference's, and what the arm loses at equal training time.

    speeds(cells, timed, study, family) -> a Speed per arm;  step_time(event, arm, reference, confidence, family) -> StepTime

Symbols: r seconds of a step of the arm over those of the reference, y measure (lower is better), s seed, T steps of a training.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aotsearch.evidence.pairs import looks
from aotsearch.evidence.statistics import median_interval, span
from aotsearch.evidence.tables import Record, measured
from aotsearch.study.design import REFERENCE
from aotsearch.study.study import Study

Cells = Mapping[str, Mapping[int, Record]]  # arm -> seed -> trial
SLOT = ("device_name", "threads", "precision")  # what two trials must share, and the kind of program, for their times to be compared


@dataclass(frozen=True)
class StepTime:
    """r, the median of ratios.

    Attributes:
        low, high: Of the median of what such ratios come from; None where there are too few of them, or they are not side by side.
        rounds: How many ratios there are: one per round, or per seed.
        measured: `side by side`, in windows that alternate, or `in the trials`, at different times with other neighbours.
    """

    ratio: float
    low: float | None
    high: float | None
    rounds: int
    measured: str


@dataclass(frozen=True)
class Difference:
    """Mean of a paired difference over seeds, and its interval."""

    mean: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Speed:
    """How fast one arm trains, at one learning rate.

    Attributes:
        step_time: Against the reference; None where that was not measured.
        equal_steps: y(arm, s) - y(reference, s) at the end of both.
        equal_time: The same at the training time at which the faster of the two ends; None where that time is not within the curves.
    """

    arm: str
    rate: str
    step_time: StepTime | None
    equal_steps: Difference | None
    equal_time: Difference | None

    def to_dict(self) -> dict[str, Any]:
        parts = {name: getattr(self, name) for name in ("step_time", "equal_steps", "equal_time")}
        plain = {name: None if part is None else dataclasses.asdict(part) for name, part in parts.items()}
        return {"arm": self.arm, "learning_rate": self.rate, **plain}


def speeds(cells: Cells, rate: str, timed: Sequence[Record], study: Study, family: int, tail: float = 0.0) -> list[Speed]:
    """Every arm that is another model than the reference, where anything is known of its time.

    Args:
        cells: The trials at one learning rate, `shared` or `tuned`.
        timed: The `timed` events, the latest last.
        family: How many intervals hold at once.
        tail: As of `span`.
    """
    there = cells.get(REFERENCE, {})
    base, found = _digest(there), []
    for arm, here in cells.items():
        digest = _digest(here)
        if not digest or not base or digest == base:
            continue
        beside = (step_time(event, digest, base, study.settings.confidence, family) for event in reversed(timed))
        time = next(filter(None, beside), None) or _in_the_trials(here, there)
        if time is not None:
            shown = (_difference(here, there, study, family, r, tail) for r in (1.0, time.ratio))
            found.append(Speed(arm, rate, time, *shown))
    return found


def _digest(by_seed: Mapping[int, Record]) -> str:
    return next((r["digest"] for r in by_seed.values()), "")


# ---- the time of a step


def step_time(event: Record, arm: str, reference: str, confidence: float, family: int) -> StepTime | None:
    """r from a `timed` event, of two models by their digests; None where one of them was not timed, or failed in it."""
    seconds = {m["digest"]: m["seconds"] for m in event["models"] if not m["message"] and m["seconds"]}
    if arm not in seconds or reference not in seconds:
        return None
    ratios = [a / b for a, b in zip(seconds[arm], seconds[reference], strict=True)]  # round by round
    return StepTime(*median_interval(ratios, confidence, family), len(ratios), "side by side")


def _in_the_trials(here: Mapping[int, Record], there: Mapping[int, Record]) -> StepTime | None:
    """r from the trials of the same seed that were trained in the same kind of slot."""
    pairs = [(here[s], there[s]) for s in here.keys() & there.keys()]
    ratios = [a["step_seconds"] / b["step_seconds"] for a, b in pairs if _timed(a) and _timed(b) and _slot(a) == _slot(b)]
    return StepTime(statistics.median(ratios), None, None, len(ratios), "in the trials") if ratios else None


def _timed(r: Record) -> bool:
    return r["outcome"] == "done" and bool(r.get("step_seconds"))  # older versions did not write it


def _slot(r: Record) -> list[Any]:
    known = {**(r.get("environment") or {}), **r}
    return [known.get("fused", 0) > 0, *(known.get(name) for name in SLOT)]


# ---- what is lost by a given time


def _difference(
    here: Mapping[int, Record], there: Mapping[int, Record], study: Study, family: int, ratio: float, tail: float
) -> Difference | None:
    r"""y(arm, s) after T / r steps less y(reference, s) after T where r > 1, else y(arm, s) after T less y(reference, s) after r T."""
    found = []
    for seed in sorted(here.keys() & there.keys()):
        pair = (here[seed], there[seed])
        if all(r["outcome"] == "done" and measured(r, study) is not None for r in pair):
            shares = (min(1.0, 1 / ratio), min(1.0, ratio))
            one, other = (_after(r, share, study) for r, share in zip(pair, shares, strict=True))
            found += [one - other] if one is not None and other is not None else []
    if not found:
        return None
    return Difference(*span(found, study.settings.confidence, family, looks(study), tail), len(found))


def _after(record: Record, share: float, study: Study) -> float | None:
    """y after a share of a trial's steps, on the line between the evaluations before and after; None where either is missing."""
    if share == 1:
        return measured(record, study)
    points = _evaluations(record["curve"], study.task.measure)
    steps, step = [at for at, _ in points], share * record["steps"]
    i = bisect.bisect_left(steps, step)
    if i == len(points) or (i == 0 and steps[0] != step):
        return None
    (x, y), (before, start) = points[i], points[max(0, i - 1)]
    return y if x == step else start + (y - start) * (step - before) / (x - before)


def _evaluations(curve: Iterable[Mapping[str, Any]], measure: str) -> list[tuple[float, float]]:
    known = ((p["step"], p.get(measure)) for p in curve)
    return [(float(step), float(y)) for step, y in known if y is not None and math.isfinite(y)]
