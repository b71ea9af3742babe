"""Models + task + settings -> curves: the one training loop. It knows nothing of Ray, Optuna or MLflow.

AdamW, linear warm-up and a falling learning rate (`schedule`), clipped gradients, evaluation of the whole validation split. What is
predicted, and what is lost by it, is the task's (`aotsearch.tasks.Task`). Batches are a function of seed and step, so two models under one
seed see the same data in the same order. One model trains as it is, several of one architecture as one program (`program`).

Weights, gradients and Adam's moments are float32 whatever the precision. In bfloat16 the forward pass and the loss of each step are under
autocast, and each evaluation is, every one in a context of its own: autocast keeps its bfloat16 copies of the weights until the outermost
context ends, so one around the whole loop would train on the first values for ever.
"""

from __future__ import annotations

import collections
import contextlib
import math
import statistics
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import torch
from torch import nn

from aotsearch.tasks import Task
from aotsearch.training import device as devices
from aotsearch.training import watch
from aotsearch.training.checkpoint import Keeper, State
from aotsearch.training.device import DeviceSettings
from aotsearch.training.evaluation import evaluate
from aotsearch.training.program import Program, program
from aotsearch.training.schedule import averaged, evaluations, learning_rate

CURVE = 20  # points at which the training loss is written down
AHEAD = 2  # batches that are prepared before they are needed, while a GPU computes

T = TypeVar("T")
Point = dict[str, float]
Report = Callable[..., None]  # report(point), and report(point, recalled=True) of what was known before an interruption


class Diverged(Exception):
    """The loss is not finite."""


class Stopped(Exception):
    """Raised by a report to end a trial early, on purpose."""


@dataclass
class Member:
    """One model among those that train together, and what comes of it.

    Attributes:
        model: Its weights are trained in place.
        training: Alike for all members but for the learning rate.
        seed: Of its batches.
        report: Told each point of the curve as soon as it is known; what it raises ends this member alone. A training that goes on tells
            the points before its interruption again, as `recalled`: what was decided by them stands.
        curve: Its points so far.
        error: What ended it before its last step.
    """

    model: nn.Module
    training: Mapping[str, Any]
    seed: int
    report: Report
    curve: list[Point] = field(default_factory=list)
    error: Exception | None = None


@dataclass
class Clock:
    """Where the time of a training went, in seconds.

    Attributes:
        training: In steps.
        evaluation: In evaluations.
        steps: Of one step, over each stretch between two points of the curve.
        resumed: The step after which the training went on that was interrupted; 0 where none was.
        before: Seconds until then.
        note: What is to be said of that.
    """

    training: float = 0.0
    evaluation: float = 0.0
    steps: list[float] = field(default_factory=list)
    resumed: int = 0
    before: float = 0.0
    note: str = ""

    @property
    def step(self) -> float | None:
        """Seconds of one step: the median over the stretches but the first, in which a process warms up."""
        return statistics.median(self.steps[1:] or self.steps) if self.steps else None

    def told(self, members: int) -> dict[str, Any]:
        """What a record says of it; of several that train together each has its share of the time."""
        n, step = members, self.step
        times = {"training_seconds": self.training, "evaluation_seconds": self.evaluation, "step_seconds": step}
        resumed = {"resumed": {"step": self.resumed, "seconds": self.before / n, "note": self.note}} if self.resumed or self.note else {}
        return {name: None if seconds is None else float(f"{seconds / n:.6g}") for name, seconds in times.items()} | resumed

    def stretch(self, began: float, steps: int) -> None:
        """Count a stretch of steps that ends now."""
        self.training += (seconds := time.perf_counter() - began)
        self.steps.append(seconds / steps)


def train(model: nn.Module, task: Task, training: Mapping[str, Any], seed: int, hardware: DeviceSettings, report: Report) -> list[Point]:
    """Train one model and return its curve; each point goes to `report` as soon as it is known.

    A point has `step` and `train_loss` (the mean of the task's loss since the last point); at an evaluation also the task's measures. With
    no steps at all the model is measured untrained.

    Raises:
        Diverged: the training or the validation loss, or the measure that models are judged by, is not finite.
    """
    member = Member(model, training, seed, report)
    train_together([member], task, hardware, fused=False)
    if member.error is not None:
        raise member.error
    return member.curve


def train_together(
    members: Sequence[Member], task: Task, hardware: DeviceSettings, fused: bool = True, keeper: Keeper | None = None
) -> Clock:
    """Train models of one architecture together, each as `train` would; what ends one of them is kept as its `error`.

    Args:
        keeper: Keeps their states while they train; what it has of them already is where they go on.
    """
    with hardware.use(), contextlib.closing(keeper) if keeper is not None else contextlib.nullcontext():
        return _Loop(members, task, hardware, fused, keeper).run()


class _Loop:
    """The loop over the steps of some members."""

    def __init__(self, members: Sequence[Member], task: Task, hardware: DeviceSettings, fused: bool, keeper: Keeper | None):
        self.members, self.task, self.device, self.keeper = members, task, hardware.device, keeper
        self.training = members[0].training
        self.precision = hardware.precision(self.training)
        for member in members:
            member.model.to(hardware.device)
        seeds = [m.seed for m in members]
        self.program = program([m.model for m in members], task, [m.training for m in members], self.precision, fused, seeds)
        self.means, self.mean = averaged(self.training), Mean(self.program)
        self.evaluations = set(evaluations(self.training))
        self.clock = Clock()
        self.validation: dict[int, Any] = {}  # of each seed, on the device

    def run(self) -> Clock:
        steps = self.training["steps"]
        points = {math.ceil(steps * (i + 1) / CURVE) for i in range(CURVE)} | self.evaluations
        self.total, self.last = torch.zeros(len(self.members), device=self.device), 0  # in float32, as losses are in every precision
        start = self._resume()
        batches, began = self._batches(start, steps), time.perf_counter()
        for done, (inputs, targets) in enumerate(batches, start + 1):
            self.program.masks.begin(done - 1)
            self.total += self.program.step(inputs, targets, [learning_rate(done - 1, m.training) for m in self.members])
            if done in self.means:
                self.mean.add(self.means[done])
            if done in points:
                losses = (self.total / (done - self.last)).tolist()  # here, and only here, the device is waited for
                self.clock.stretch(began, done - max(self.last, start))
                self._points(done, losses)
                self.total.zero_()
                self.last, began = done, time.perf_counter()
            watch.beat()
            if not self._running:
                batches.close()
            elif self.keeper is not None and done < steps and self.keeper.due(done):
                self.keeper.keep([self._state(n, done) for n in range(len(self.members))])
        if steps == 0:  # an untrained model is measured as it is
            self._points(0, [None] * len(self.members))
        elif self.means and self._running:  # else the mean may not have begun
            self.mean.put()
        return self.clock

    @property
    def _running(self) -> bool:
        return any(m.error is None for m in self.members)

    def _state(self, n: int, done: int) -> State:
        """All of one member that the steps to come depend on, and what it has told so far."""
        member = self.members[n]
        return {
            "step": done,
            "last": self.last,
            "total": self.total[n],
            "curve": member.curve,
            "ended": None if member.error is None else [type(member.error).__name__, str(member.error)],
            "clock": [self.clock.training, self.clock.evaluation, self.clock.steps],
            "random": devices.random_state(self.device),
            "model": self.program.models[n].state_dict(),
            "moments": self.program.moments(n),
            "mean": self.program.part(self.mean.held, n),
        }

    def _resume(self) -> int:
        """Go on where the members were, if they were before; returns the steps that are done."""
        states = self.keeper.found() if self.keeper is not None else None
        if self.keeper is not None:
            self.clock.note = self.keeper.note
        if not states:
            return 0
        first = states[0]
        if first["mean"]:
            self.mean.held = [w.clone() for w in self.program.weights()]
        for n, (member, state) in enumerate(zip(self.members, states, strict=True)):
            self.program.models[n].load_state_dict(state["model"])
            torch._foreach_copy_(self.program.moments(n), state["moments"])
            if state["mean"]:
                torch._foreach_copy_(self.program.part(self.mean.held, n), state["mean"])
            self.total[n] = state["total"]
            if state["ended"] is not None:
                name, message = state["ended"]
                member.error = (Stopped if name == "Stopped" else Diverged)(message)
            for point in state["curve"]:
                member.curve.append(point)
                member.report(point, recalled=True)
        self.clock.training, self.clock.evaluation, self.clock.steps = first["clock"]
        self.clock.before = self.clock.training + self.clock.evaluation
        self.clock.resumed, self.last = first["step"], first["last"]
        devices.restore_random_state(first["random"], self.device)
        return int(first["step"])

    def _batches(self, start: int, steps: int) -> Generator[tuple[torch.Tensor, torch.Tensor]]:
        """The batches (N, B, ...) of every step that is left, on the device."""

        def made(step: int) -> list[torch.Tensor]:
            items = [self.task.batch(m.seed, step, self.training["batch"]) for m in self.members]
            return [devices.staged(np.stack(arrays), self.device) for arrays in zip(*items, strict=True)]

        left = range(start, steps)
        for found in _ahead(made, left) if devices.is_cuda(self.device) else map(made, left):
            inputs, targets = (t.to(self.device, non_blocking=True) for t in found)
            yield inputs, targets

    def _points(self, step: int, losses: Sequence[float | None]) -> None:
        """Write down a point of every member that still runs."""
        measured = step == 0 or step in self.evaluations
        began = time.perf_counter()
        with self.mean.instead() if measured and self.means else contextlib.nullcontext():
            for member, loss in zip(self.members, losses, strict=True):
                if member.error is not None:
                    continue
                try:
                    self._point(member, step, loss, measured)
                except (Diverged, Stopped) as e:
                    member.error = e
        self.clock.evaluation += (time.perf_counter() - began) * measured

    def _point(self, member: Member, step: int, loss: float | None, measured: bool) -> None:
        point: Point = {"step": step}
        if loss is not None:
            point["train_loss"] = loss
            _finite(loss, step)
        if measured:
            point |= self._measured(member, step)
        member.curve.append(point)
        member.report(point)

    def _measured(self, member: Member, step: int) -> dict[str, float]:
        if member.seed not in self.validation:
            self.validation[member.seed] = tuple(devices.put(a, self.device) for a in self.task.validation(member.seed))
        measures = evaluate(member.model, self.task, self.validation[member.seed], self.device, self.precision)
        for name in ("loss", self.task.measure):
            _finite(measures[name], step, name.replace("_", " "))
        return measures


def _ahead(make: Callable[[int], T], steps: Iterable[int]) -> Iterator[T]:
    """What `make` gives for every step; a thread makes the next ones while this is used."""
    with ThreadPoolExecutor(1) as pool:
        queue: collections.deque[Future[T]] = collections.deque()
        for step in steps:
            queue.append(pool.submit(make, step))
            if len(queue) > AHEAD:
                yield queue.popleft().result()
        while queue:
            yield queue.popleft().result()


class Mean:
    """The mean of the weights after several steps, and the weights themselves.

    Source: Izmailov et al. 2018, arXiv:1803.05407. Differs: what a batch norm has seen is averaged likewise, not seen again.
    """

    def __init__(self, program: Program):
        self.program = program
        self.held: list[torch.Tensor] = []

    def add(self, before: int) -> None:
        """Let the weights of now enter the mean, that many steps after its first."""
        weights = self.program.weights()
        if before == 0:
            self.held = [w.clone() for w in weights]
        else:
            torch._foreach_lerp_(self.held, weights, 1 / (before + 1))

    @contextlib.contextmanager
    def instead(self) -> Iterator[None]:
        """The mean in the models for a while, then their weights again."""
        own = [w.clone() for w in self.program.weights()]
        self.put()
        try:
            yield
        finally:
            torch._foreach_copy_(self.program.weights(), own)

    def put(self) -> None:
        """The mean in the models."""
        torch._foreach_copy_(self.program.weights(), self.held)


def _finite(value: float, step: int, name: str = "loss") -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {name} is {value} at step {step}")
