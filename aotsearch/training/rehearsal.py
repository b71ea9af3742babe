"""Some steps of a training before it begins, or beside others: what they take.

Rehearsal(models, task, training, hardware).steps(10) -> seconds until they are handed to the device, and until it has done them
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from aotsearch.tasks import Task
from aotsearch.training import device as devices
from aotsearch.training.device import DeviceSettings
from aotsearch.training.evaluation import evaluate
from aotsearch.training.program import program


class Rehearsal:
    """Steps as they will be, on real batches, with a learning rate of 0: each costs what the one before it did.

    Args:
        models: Of one architecture, moved to the device.
        fused: Whether they are one program.
        batches: How many different ones there are, in turns.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        task: Task,
        training: Mapping[str, Any],
        hardware: DeviceSettings,
        fused: bool = False,
        batches: int = 1,
    ):
        n, self.device = len(models), hardware.device
        made = [model.to(hardware.device) for model in models]
        self.program, self.rates = program(made, task, [training] * n, hardware.precision(training), fused), [0.0] * n
        last = max(0, training["steps"] - 1)  # a curriculum grows
        items = [task.batch(0, max(0, last - i), training["batch"]) for i in range(batches)]
        self.batches = [[torch.from_numpy(np.stack([a] * n)).to(hardware.device) for a in arrays] for arrays in items]

    def steps(self, number: int) -> tuple[float, float]:
        """Seconds until so many steps are handed to the device, and until it has done them."""
        devices.wait(self.device)
        began = time.perf_counter()
        for step in range(number):
            inputs, targets = self.batches[step % len(self.batches)]
            self.program.step(inputs, targets, self.rates)
        handed = time.perf_counter() - began
        devices.wait(self.device)  # for the whole of the last: a loss is known before its gradients are
        return handed, time.perf_counter() - began


def step_seconds(
    models: Sequence[nn.Module], task: Task, training: Mapping[str, Any], hardware: DeviceSettings, fused: bool, steps: int = 3
) -> list[float]:
    """Seconds of some steps, timed one by one after a first that warms up."""
    rehearsal = Rehearsal(models, task, training, hardware, fused)
    return [rehearsal.steps(1)[1] for _ in range(steps + 1)][1:]


def forecast(model: nn.Module, task: Task, training: Mapping[str, Any], hardware: DeviceSettings) -> float:
    """Seconds that training this model will take, from a few timed steps and one timed evaluation batch."""
    return devices.alike_if_possible(hardware, lambda g: _forecast(model, task, training, g))


def _forecast(model: nn.Module, task: Task, training: Mapping[str, Any], hardware: DeviceSettings) -> float:
    with hardware.use():
        seconds = statistics.median(step_seconds([model], task, training, hardware, fused=False))
        inputs, targets = task.validation()
        start = time.perf_counter()
        evaluate(model, task, (inputs[: task.chunk], targets[: task.chunk]), hardware.device, hardware.precision(training))
        evaluation = (time.perf_counter() - start) * len(inputs) / min(task.chunk, len(inputs))
    return float(seconds * training["steps"] + evaluation * training["evaluations"])
