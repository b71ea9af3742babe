"""What an executor is given to do, and whom it tells: one language for Ray and for this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aotsearch.running.rungs import Rungs

Trial = dict[str, Any]
Record = dict[str, Any]


class Observer(Protocol):
    """What the run learns while trials are executed, always called in the driver."""

    def started(self, trial: Trial) -> None: ...
    def point(self, trial: Trial, point: Mapping[str, float]) -> None: ...
    def finished(self, record: Record) -> None: ...


@dataclass(frozen=True)
class Search:
    """Trials that are made as results come in.

    Attributes:
        proposals: The trials, each made when it is asked for.
        tell: Hears what became of each, before the observer does.
        rungs: Which of them are stopped early.
        measure: What the rungs compare.
    """

    proposals: Iterator[Trial]
    tell: Callable[[Record], None]
    rungs: Rungs
    measure: str

    def stop(self, trial: Trial, evaluation: int, point: Mapping[str, float]) -> str:
        """Why a trial ends at its evaluation with this number, counted from 1; empty where it goes on."""
        return self.rungs.reach(trial["digest"], evaluation, point[self.measure])


@dataclass(frozen=True)
class Work:
    """What to execute: trials to run, or a search."""

    trials: Sequence[Trial] = ()
    search: Search | None = None


class Executor(Protocol):
    """Who trains: its constructor raises InputError where it has less than one trial is granted."""

    def run(self, work: Work, observer: Observer, checkpoints: Path) -> None: ...
    def close(self) -> None: ...


def on_the_way(trial: Trial, point: Mapping[str, float]) -> bool:
    """Whether a point of a curve is an evaluation at which its trial may be stopped; the last one ends it anyway."""
    return "loss" in point and point["step"] < trial["training"]["steps"]
