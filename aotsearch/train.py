"""Model + task + settings -> curve: the one training loop. It knows nothing of Ray, Optuna or MLflow.

AdamW, linear warm-up and cosine decay, clipped gradients, evaluation of the whole validation split. What is predicted, and what is lost by
it, is the task's (`aotsearch.tasks.Task`). Batches are a function of seed and step, so two models under one seed see the same data in the
same order.
"""

from __future__ import annotations

import collections
import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aotsearch.tasks import Items, Task

CURVE = 20  # points at which the training loss is written down

Point = dict[str, float]
Report = Callable[[Point], None]


class Diverged(Exception):
    """The loss is not finite."""


@dataclass(frozen=True)
class Grant:
    """The resources given to a trial, from which device and precision follow: bf16 autocast on a GPU, fp32 on processors."""

    threads: int
    device: str = "cpu"

    @property
    def precision(self) -> str:
        return "bfloat16" if self.device.startswith("cuda") else "float32"

    @contextlib.contextmanager
    def use(self) -> Iterator[None]:
        """Compute with these resources, and restore torch's settings after."""
        threads = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            if self.precision == "float32":
                yield
            else:
                with torch.autocast(self.device, dtype=torch.bfloat16):
                    yield
        finally:
            torch.set_num_threads(threads)


def learning_rate(step: int, training: Mapping[str, Any]) -> float:
    r"""Linear warm-up to the highest rate, then half a cosine down to `floor` of it.

    r_t = r t / w for t <= w,   r (f + (1 - f) (1 + cos(pi (t - w) / (T - w))) / 2) after

    t counts steps from 1 to T, w = warmup T, f = floor. Source: Loshchilov and Hutter 2016, arXiv:1608.03983.
    """
    t, steps = step + 1, training["steps"]
    warmup = training["warmup"] * steps
    if t <= warmup:
        return float(training["learning_rate"] * t / warmup)
    share = (t - warmup) / max(steps - warmup, 1e-9)
    return float(training["learning_rate"] * (training["floor"] + (1 - training["floor"]) * (1 + math.cos(math.pi * share)) / 2))


def optimiser(model: nn.Module, training: Mapping[str, Any]) -> torch.optim.AdamW:
    """AdamW; matrices decay, vectors and scalars do not. Source: Loshchilov and Hutter 2017, arXiv:1711.05101."""
    groups = [
        {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": training["weight_decay"]},
        {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    return torch.optim.AdamW(groups, lr=training["learning_rate"], betas=(training["beta1"], training["beta2"]), fused=True)


def train(model: nn.Module, task: Task, training: Mapping[str, Any], seed: int, grant: Grant, report: Report) -> list[Point]:
    """Train a model and return its curve; each point goes to `report` as soon as it is known.

    A point has `step` and `train_loss` (the mean of the task's loss since the last point); at an evaluation also the task's measures. With
    no steps at all the model is measured untrained.

    Raises:
        Diverged: the training or the validation loss, or the measure that models are judged by, is not finite.
    """
    steps = training["steps"]
    evaluations = {round(steps * (i + 1) / training["evaluations"]) for i in range(training["evaluations"])}
    points = {math.ceil(steps * (i + 1) / CURVE) for i in range(CURVE)} | evaluations
    curve: list[Point] = []
    with grant.use():
        model.to(grant.device)
        adam = optimiser(model, training)
        total, last = torch.zeros((), device=grant.device), 0
        for step in range(steps):
            batch = task.batch(seed, step, training["batch"])
            total += train_step(model, adam, task, batch, learning_rate(step, training), training["clip"])
            done = step + 1
            if done not in points:
                continue
            point: Point = {"step": done, "train_loss": total.item() / (done - last)}
            _finite(point["train_loss"], done)
            total.zero_()
            last = done
            if done in evaluations:
                point |= _measured(model, task, seed, done, grant.device)
            curve.append(point)
            report(point)
        if steps == 0:  # an untrained model is measured as it is
            curve.append({"step": 0, **_measured(model, task, seed, 0, grant.device)})
            report(curve[-1])
    return curve


def _measured(model: nn.Module, task: Task, seed: int, step: int, device: str) -> dict[str, float]:
    measures = evaluate(model, task, task.validation(seed), device)
    for name in ("loss", task.measure):
        _finite(measures[name], step, name.replace("_", " "))
    return measures


def train_step(model: nn.Module, adam: torch.optim.Optimizer, task: Task, batch: Items, rate: float, clip: float) -> torch.Tensor:
    """One update; returns the loss before it, still on the device."""
    device = next(model.parameters()).device
    inputs, targets = (torch.from_numpy(a).to(device, non_blocking=True) for a in batch)
    loss = task.loss(model(inputs), targets)
    adam.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in adam.param_groups:
        group["lr"] = rate
    adam.step()
    return loss.detach()


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, items: Items, device: str) -> dict[str, float]:
    """The task's measures over all items, in passes of a fixed size."""
    inputs, targets = (torch.from_numpy(a) for a in items)
    model.eval()  # a batch norm uses what it has seen in training
    sums: dict[str, float] = collections.defaultdict(float)
    numbers: dict[str, int] = collections.defaultdict(int)
    for x, y in zip(torch.split(inputs, task.chunk), torch.split(targets, task.chunk), strict=True):
        for name, (total, number) in task.totals(model(x.to(device)), y.to(device)).items():
            sums[name] += total.item()
            numbers[name] += number
    model.train()
    return task.measures({name: total / numbers[name] for name, total in sums.items()})


def forecast(model: nn.Module, task: Task, training: Mapping[str, Any], grant: Grant) -> float:
    """Seconds that training this model will take, from a few timed steps and one timed evaluation batch."""
    with grant.use():
        model.to(grant.device)
        adam = optimiser(model, training)
        batch = task.batch(0, max(0, training["steps"] - 1), training["batch"])  # the last: a curriculum grows
        times = []
        for _ in range(4):
            start = time.perf_counter()
            train_step(model, adam, task, batch, 0.0, training["clip"]).item()
            times.append(time.perf_counter() - start)
        inputs, targets = task.validation()
        start = time.perf_counter()
        evaluate(model, task, (inputs[: task.chunk], targets[: task.chunk]), grant.device)
        evaluation = (time.perf_counter() - start) * len(inputs) / min(task.chunk, len(inputs))
    return float(min(times[1:]) * training["steps"] + evaluation * training["evaluations"])


def _finite(value: float, step: int, name: str = "loss") -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {name} is {value} at step {step}")
