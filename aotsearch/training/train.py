"""Model + task + settings -> curve: the one training loop. It knows nothing of Ray, Optuna or MLflow.

AdamW, linear warm-up and cosine decay, clipped gradients, evaluation of the whole validation split. What is predicted, and what is lost by
it, is the task's (`aotsearch.tasks.Task`). Batches are a function of seed and step, so two models under one seed see the same data in the
same order.

Weights, gradients and Adam's moments are float32 whatever the precision. In bfloat16 the forward pass and the loss of each step are under
autocast, and each evaluation is, every one in a context of its own: autocast keeps its bfloat16 copies of the weights until the outermost
context ends, so one around the whole loop would train on the first values for ever.
"""

from __future__ import annotations

import collections
import math
import time
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from aotsearch.models.parts.context import decays
from aotsearch.tasks import Items, Task
from aotsearch.training import device as devices
from aotsearch.training.device import DeviceSettings, autocast

CURVE = 20  # points at which the training loss is written down
FUSED = ("cpu", "cuda")  # devices on which Adam is one kernel in every torch that we run on; not for complex parameters

Point = dict[str, float]
Report = Callable[[Point], None]


class Diverged(Exception):
    """The loss is not finite."""


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
    """AdamW; what decays is what the parts declare. Source: Loshchilov and Hutter 2017, arXiv:1711.05101."""
    groups = [
        {"params": [p for p in model.parameters() if decays(p)], "weight_decay": training["weight_decay"]},
        {"params": [p for p in model.parameters() if not decays(p)], "weight_decay": 0.0},
    ]
    groups = [g for g in groups if g["params"]]
    fused = all(p.is_floating_point() and p.device.type in FUSED for p in model.parameters())
    return torch.optim.AdamW(groups, lr=training["learning_rate"], betas=(training["beta1"], training["beta2"]), fused=fused)


def train(model: nn.Module, task: Task, training: Mapping[str, Any], seed: int, hardware: DeviceSettings, report: Report) -> list[Point]:
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
    precision = hardware.precision(training)
    with hardware.use():
        model.to(hardware.device)
        adam = optimiser(model, training)
        total, last = torch.zeros((), device=hardware.device), 0  # in float32, as losses are in every precision
        for step in range(steps):
            batch = task.batch(seed, step, training["batch"])
            total += train_step(model, adam, task, batch, learning_rate(step, training), training["clip"], precision)
            done = step + 1
            if done not in points:
                continue
            point: Point = {"step": done, "train_loss": total.item() / (done - last)}
            _finite(point["train_loss"], done)
            total.zero_()
            last = done
            if done in evaluations:
                point |= _measured(model, task, seed, done, hardware.device, precision)
            curve.append(point)
            report(point)
        if steps == 0:  # an untrained model is measured as it is
            curve.append({"step": 0, **_measured(model, task, seed, 0, hardware.device, precision)})
            report(curve[-1])
    return curve


def _measured(model: nn.Module, task: Task, seed: int, step: int, device: str, precision: str) -> dict[str, float]:
    measures = evaluate(model, task, task.validation(seed), device, precision)
    for name in ("loss", task.measure):
        _finite(measures[name], step, name.replace("_", " "))
    return measures


def train_step(
    model: nn.Module, adam: torch.optim.Optimizer, task: Task, batch: Items, rate: float, clip: float, precision: str = "float32"
) -> torch.Tensor:
    """One update; returns the loss before it, still on the device."""
    device = next(model.parameters()).device
    inputs, targets = (devices.put(a, device) for a in batch)
    with autocast(device.type, precision):
        loss = task.loss(model(inputs), targets)
    adam.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    for group in adam.param_groups:
        group["lr"] = rate
    adam.step()
    return loss.detach()


_fits: weakref.WeakKeyDictionary[nn.Module, int] = weakref.WeakKeyDictionary()  # items of a pass, of models for which a chunk is too large


@torch.no_grad()
def evaluate(model: nn.Module, task: Task, items: Items, device: str, precision: str = "float32") -> dict[str, float]:
    """The task's measures over all items, in passes of a fixed size; where one does not fit in memory, of half that size from then on.

    Sums over passes are in float64, so measures do not depend on their size but by rounding. The device is waited for once, at the end.
    """
    inputs, targets = items
    sums: dict[str, torch.Tensor] = {}
    numbers: dict[str, int] = collections.defaultdict(int)
    model.eval()  # a batch norm uses what it has seen in training
    size, done = min(_fits.get(model, task.chunk), len(inputs)), 0
    with autocast(device, precision):
        while done < len(inputs):
            totals = _totals(model, task, (inputs[done : done + size], targets[done : done + size]), device)
            if totals is None:
                devices.release(device)
                size = _fits[model] = -(-size // 2)
                continue
            done += size
            for name, (total, number) in totals.items():
                sums[name] = sums[name] + total.double() if name in sums else total.double()
                numbers[name] += number
    model.train()
    return task.measures({name: total.item() / numbers[name] for name, total in sums.items()})


def _totals(model: nn.Module, task: Task, items: Items, device: str) -> dict[str, tuple[torch.Tensor, int]] | None:
    """The task's totals of one pass; None where it does not fit in memory, and fewer items may."""
    inputs, targets = items
    try:
        return task.totals(model(devices.put(inputs, device)), devices.put(targets, device))
    except (RuntimeError, MemoryError) as e:
        if len(inputs) == 1 or not devices.out_of_memory(e):
            raise
        return None  # the error is gone by then, and with it what its traceback holds


def forecast(model: nn.Module, task: Task, training: Mapping[str, Any], hardware: DeviceSettings) -> float:
    """Seconds that training this model will take, from a few timed steps and one timed evaluation batch."""
    return devices.alike_if_possible(hardware, lambda g: _forecast(model, task, training, g))


def _forecast(model: nn.Module, task: Task, training: Mapping[str, Any], hardware: DeviceSettings) -> float:
    precision = hardware.precision(training)
    with hardware.use():
        model.to(hardware.device)
        adam = optimiser(model, training)
        batch = task.batch(0, max(0, training["steps"] - 1), training["batch"])  # the last: a curriculum grows
        times = []
        for _ in range(4):
            start = time.perf_counter()
            train_step(model, adam, task, batch, 0.0, training["clip"], precision)
            devices.wait(hardware.device)  # for the whole step: the loss is known before its gradients are
            times.append(time.perf_counter() - start)
        inputs, targets = task.validation()
        start = time.perf_counter()
        evaluate(model, task, (inputs[: task.chunk], targets[: task.chunk]), hardware.device, precision)
        evaluation = (time.perf_counter() - start) * len(inputs) / min(task.chunk, len(inputs))
    return float(min(times[1:]) * training["steps"] + evaluation * training["evaluations"])


def _finite(value: float, step: int, name: str = "loss") -> None:
    if not math.isfinite(value):
        raise Diverged(f"the {name} is {value} at step {step}")
