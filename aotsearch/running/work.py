"""What an executor is given to do, and whom it tells: one language for Ray and for this process."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from aotsearch.running.rungs import Rungs
from aotsearch.training.checkpoint import Checkpoints
from aotsearch.training.schedule import SHORT

if TYPE_CHECKING:
    from aotsearch.training.device import DeviceSettings

MOST = 8  # replicas of one program, where their number is left open
SMALL = 1e8  # FLOPs of a step below which a processor spends more on dispatch than on arithmetic: see benchmarks/speed.md
ROUNDS = 3  # bundles of each of several workers at least, where there are trials enough
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

    def recall(self, trial: Trial, evaluation: int, point: Mapping[str, float]) -> None:
        """A trial that was interrupted had gone on after this evaluation."""
        self.rungs.recall(trial["digest"], evaluation, point[self.measure])


@dataclass(frozen=True)
class Work:
    """What to execute: bundles of trials, each for one worker, or a search."""

    bundles: Sequence[Sequence[Trial]] = ()
    search: Search | None = None


class Executor(Protocol):
    """Who trains: its constructor raises InputError where it has less than one trial is granted.

    Attributes:
        workers: How many bundles it trains at a time.
        on_gpu: Whether it trains on GPUs.
        address: Of a cluster that ran before; None where it is this machine that trains.
        usual: The precision of trainings that ask for none, where it was found out; else the device's.
        hardware: What a trial is granted.
    """

    workers: int
    on_gpu: bool
    address: str | None
    usual: str

    @property
    def hardware(self) -> DeviceSettings: ...
    def environment(self) -> dict[str, Any]: ...  # of the processes that train
    def run(self, work: Work, observer: Observer, checkpoints: Checkpoints) -> None: ...
    def close(self) -> None: ...


def on_the_way(trial: Trial, point: Mapping[str, float]) -> bool:
    """Whether a point of a curve is an evaluation at which its trial may be stopped; the last one ends it anyway."""
    return "loss" in point and point["step"] < trial["training"]["steps"]


def bundled(trials: Sequence[Trial], fuse: int | Literal["auto"], workers: int, on_gpu: bool = False) -> list[list[Trial]]:
    """Trials in bundles of one model, which differ in seed or learning rate alone and may be trained as one program.

    Every worker gets several, and the most work comes first, so that workers end at about the same time. Where one program is not expected
    to be faster, trials stay as they are, in their order: seed by seed, so that a run cut short is balanced.
    """
    if fuse == 1 or (fuse == "auto" and not all(_gains(trial, on_gpu) for trial in trials)):
        return [[trial] for trial in trials]
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        alike = {name: value for name, value in trial["training"].items() if name != "learning_rate"}
        groups.setdefault(json.dumps([trial["digest"], alike, trial["task"]], sort_keys=True), []).append(trial)
    most = MOST if fuse == "auto" else fuse
    if workers > 1:
        most = min(most, max(1, len(trials) // (ROUNDS * workers)))
    found = [list(part) for group in groups.values() for part in even(group, -(-len(group) // most))]
    return sorted(found, key=lambda bundle: -len(bundle) * bundle[0]["flops_per_token"])


def _gains(trial: Trial, on_gpu: bool) -> bool:
    """Whether seeds of a trial's model may train faster as one program: then a worker finds out."""
    training, tokens = trial["training"], trial["training"]["batch"] * trial["architecture"]["sizes"].get("context", 1)
    return training["steps"] >= SHORT and (on_gpu or 3 * trial["flops_per_token"] * tokens < SMALL)


def even(items: Sequence[Trial], parts: int) -> list[Sequence[Trial]]:
    """Items in so many parts whose sizes differ by one at most."""
    cuts = [len(items) * i // parts for i in range(parts + 1)]
    return [items[a:b] for a, b in itertools.pairwise(cuts)]
