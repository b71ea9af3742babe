"""Trials -> finished records in this process, one after another; neither Ray nor MLflow is needed."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import Any

from aotsearch.errors import RunError
from aotsearch.running.work import Observer, Record, Search, Trial, Work, on_the_way
from aotsearch.study.settings import Resources
from aotsearch.training import device as devices
from aotsearch.training import trial as trials
from aotsearch.training.checkpoint import Checkpoints
from aotsearch.training.environment import environment, memory_limit, processors
from aotsearch.training.train import Stopped


class Local:
    """This process, with a GPU if one is there and not refused, the first of several.

    Raises:
        InputError: this machine has less than a trial is granted.
    """

    workers = 1
    address: str | None = None
    usual = ""

    def __init__(self, resources: Resources):
        gpus = devices.gpus_here()
        resources.required_room(processors(), gpus)
        self._granted = devices.DeviceSettings(resources.cpus, "cuda" if resources.share(gpus) else "cpu")
        self.fuse, self.on_gpu = resources.fuse, devices.is_cuda(self._granted.device)
        self._memory = memory_limit(resources.memory, together=1)

    @property
    def hardware(self) -> devices.DeviceSettings:
        """What a trial is granted."""
        return dataclasses.replace(self._granted, usual=self.usual)

    def run(self, work: Work, observer: Observer, checkpoints: Checkpoints) -> None:
        """Execute; what is finished is with the observer.

        Raises:
            RunError: the device was lost: this process can compute nothing more.
        """
        search, checkpoints = work.search, dataclasses.replace(checkpoints, here=True, memory=self._memory)
        for bundle in work.bundles if search is None else ([trial] for trial in search.proposals):
            for trial in bundle:
                observer.started(trial)
            fuse = self.fuse if search is None else 1
            for record in trials.run_together(bundle, self.hardware, reporter(search, observer), checkpoints, fuse):
                if search is not None:
                    search.tell(record)
                observer.finished(record)
                _end_if_lost(record)

    def environment(self) -> dict[str, Any]:
        """What this process trains with."""
        return environment(self.hardware)

    def close(self) -> None:
        """There is nothing to close."""


def reporter(search: Search | None, observer: Observer) -> Callable[..., None]:
    """Tells the observer each point, and ends the trial of a search where its rungs say so."""
    evaluations = itertools.count(1)

    def report(trial: Trial, point: Mapping[str, float], recalled: bool = False, known: Any = None) -> None:
        observer.point(trial, point)
        if search is None or not on_the_way(trial, point):
            return
        if recalled:
            search.recall(trial, next(evaluations), point)
        elif reason := search.stop(trial, next(evaluations), point):
            raise Stopped(reason)

    return report


def _end_if_lost(record: Record) -> None:
    if record.get("device_lost"):
        why = record["message"] or [*record["unmeasured"].values()][-1]  # it was lost in training, or by what is measured after
        raise RunError(f"the device was lost ({why}); run the same command again to go on with the next trial")
