"""Model + task + settings -> curve: the one training loop. It knows nothing of Ray, Optuna or MLflow.

AdamW, linear warm-up and cosine decay, clipped gradients, evaluation of the whole validation split in fixed windows. Batches are
a function of seed and step, so two models under one seed see the same data in the same order.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

CURVE = 20  # points at which the training loss is written down
EVALUATION_TOKENS = 16384  # per forward pass of an evaluation

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


def train(model: nn.Module, task: Any, training: Mapping[str, Any], seed: int, grant: Grant, report: Report) -> list[Point]:
    """Train a model and return its curve; each point goes to `report` as soon as it is known.

    A point has `step` and `train_loss` (the mean since the last point, nats per token); at an evaluation also the task's measures.

    Raises:
        Diverged: the training or the validation loss is not finite.
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
            total += train_step(model, adam, task.batch(seed, step, training["batch"]), learning_rate(step, training), training["clip"])
            done = step + 1
            if done not in points:
                continue
            point: Point = {"step": done, "train_loss": total.item() / (done - last)}
            _finite(point["train_loss"], done)
            total.zero_()
            last = done
            if done in evaluations:
                loss = evaluate(model, task.validation(), grant.device)
                _finite(loss, done)
                point |= task.measures(loss)
            curve.append(point)
            report(point)
    return curve


def train_step(model: nn.Module, adam: torch.optim.Optimizer, batch: tuple[Any, Any], rate: float, clip: float) -> torch.Tensor:
    """One update; returns the loss before it, still on the device."""
    device = next(model.parameters()).device
    inputs, targets = (torch.from_numpy(a).to(device, non_blocking=True) for a in batch)
    loss = F.cross_entropy(model(inputs).flatten(0, -2).float(), targets.flatten())
    adam.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in adam.param_groups:
        group["lr"] = rate
    adam.step()
    return loss.detach()


@torch.no_grad()
def evaluate(model: nn.Module, windows: tuple[Any, Any], device: str) -> float:
    """Mean loss in nats per token over every window."""
    inputs, targets = (torch.from_numpy(a) for a in windows)
    size = max(1, EVALUATION_TOKENS // inputs[0].numel())
    total = 0.0
    for x, y in zip(torch.split(inputs, size), torch.split(targets, size), strict=True):
        logits = model(x.to(device)).flatten(0, -2).float()
        total += F.cross_entropy(logits, y.to(device).flatten(), reduction="sum").item()
    return total / targets.numel()


def forecast(model: nn.Module, task: Any, training: Mapping[str, Any], grant: Grant) -> float:
    """Seconds that training this model will take, from a few timed steps and one timed evaluation batch."""
    with grant.use():
        model.to(grant.device)
        adam = optimiser(model, training)
        batch = task.batch(0, 0, training["batch"])
        times = []
        for _ in range(4):
            start = time.perf_counter()
            train_step(model, adam, batch, 0.0, training["clip"]).item()
            times.append(time.perf_counter() - start)
        inputs, targets = task.validation()
        few = max(1, EVALUATION_TOKENS // inputs[0].size)
        start = time.perf_counter()
        evaluate(model, (inputs[:few], targets[:few]), grant.device)
        evaluation = (time.perf_counter() - start) * len(inputs) / min(few, len(inputs))
    return float(min(times[1:]) * training["steps"] + evaluation * training["evaluations"])


def _finite(loss: float, step: int) -> None:
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss} at step {step}")
