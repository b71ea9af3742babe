"""Models -> seconds of a training step, side by side: windows of a few steps each, in turns, so that what else the machine does falls on
all alike and cancels in the ratios within a round.

A step is that of training (`program`), on real batches, one model at a time; drawing the batches, evaluation and start-up are not in it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from aotsearch.errors import AotsearchError, RunError, WordError, first_line
from aotsearch.grammar.architecture import Architecture
from aotsearch.models.cost import cost, training_cost
from aotsearch.models.model import blaming, build
from aotsearch.tasks import Task
from aotsearch.training import device as devices
from aotsearch.training.device import DeviceSettings
from aotsearch.training.rehearsal import Rehearsal

STEPS = 3  # of a window


@dataclass
class Timed:
    """What was measured of one model.

    Attributes:
        seconds: Of one step, the mean of a window, round after round until the last or until it failed.
        flops: Of one step, forward and backward, as `models.cost` counts them; None where they cannot be counted.
        peak_memory: Bytes of tensors at the peak of its own steps; None on a processor, where only that of the process is known.
        deterministic: Whether each operation was one that computes alike every time, as in its trials.
        message: Why it could not be timed; empty where it was.
    """

    seconds: list[float] = field(default_factory=list)
    flops: int | None = None
    peak_memory: int | None = None
    deterministic: bool = True
    message: str = ""


def side_by_side(
    models: Mapping[str, Architecture],
    task: Task,
    training: Mapping[str, Any],
    hardware: DeviceSettings,
    rounds: int,
    told: Callable[[int], None] = lambda done: None,
) -> dict[str, Timed]:
    """Time the models in one window each per round, every round in a new random order, after a window each that warms up.

    All stay in memory from their first window on: a model that there is no room for, or that fails, is told so and the others go on.

    Args:
        told: Called with the number of rounds that are done.

    Raises:
        RunError: the device was lost.
    """
    found = {name: Timed() for name in models}
    live: dict[str, _Stepper] = {}

    def attempt(name: str, work: Callable[[str], None]) -> None:
        try:
            work(name)
            return
        except Exception as e:  # a part of an installed package may raise anything, and memory may run out
            if isinstance(e, AotsearchError) and not isinstance(e, WordError):
                raise  # the data, not the model
            found[name].message = _said(e)
            if devices.lost(e):
                raise RunError(f"the device was lost while {name} was timed ({found[name].message}); leave it out with --arm") from None
        live.pop(name, None)
        devices.release(hardware.device)  # only now: an error holds the model by its traceback

    def begin(name: str) -> None:
        made = live[name] = devices.alike_if_possible(hardware, lambda used: _Stepper(models[name], task, training, used))
        found[name].flops = _flops(models[name], training["batch"] * made.model.site.tokens)
        found[name].peak_memory, found[name].deterministic = made.peak_memory, made.hardware.deterministic

    def window(name: str) -> None:
        found[name].seconds.append(live[name].window())

    for name in models:
        attempt(name, begin)
    for done in range(rounds):
        for name in random.Random(done).sample(list(live), len(live)):
            attempt(name, window)
        told(done + 1)
    return found


class _Stepper:
    """One model that takes steps with a learning rate of 0, so that it costs the same in every round."""

    def __init__(self, architecture: Architecture, task: Task, training: Mapping[str, Any], hardware: DeviceSettings):
        self.hardware = hardware
        before = _held(hardware.device)
        devices.begin_peak(hardware.device)
        self.model = build(architecture)
        self.rehearsal = Rehearsal([self.model], task, training, hardware, batches=STEPS)
        with blaming(self.model):
            self.window()
        peak = devices.peak(hardware.device) if devices.is_cuda(hardware.device) else None
        self.peak_memory = None if peak is None else peak - before

    def window(self) -> float:
        """Seconds of one step, the mean over a window."""
        with self.hardware.use():
            return self.rehearsal.steps(STEPS)[1] / STEPS


def _flops(architecture: Architecture, tokens: int) -> int | None:
    """Of one step over so many tokens."""
    try:
        return tokens * (cost(architecture).flops_per_token + training_cost(architecture).backward_flops_per_token)
    except Exception:  # noqa: BLE001 (an installed package's part may compute, and not be counted)
        return None


def _held(device: str) -> int:
    """Bytes of the tensors that are there."""
    return torch.cuda.memory_allocated() if devices.is_cuda(device) else 0


def _said(error: Exception) -> str:
    if devices.out_of_memory(error):
        return "out of memory; --arm times fewer arms at once"
    return first_line(error)
