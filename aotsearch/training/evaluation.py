"""A model and the items of a split -> the task's measures."""

from __future__ import annotations

import collections
import weakref

import torch
from torch import nn

from aotsearch.tasks import Items, Task
from aotsearch.training import device as devices
from aotsearch.training import watch
from aotsearch.training.program import computing

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
    with computing(device, precision):
        while done < len(inputs):
            totals = _totals(model, task, (inputs[done : done + size], targets[done : done + size]), device)
            if totals is None:
                devices.release(device)
                size = _fits[model] = -(-size // 2)
                continue
            done += size
            watch.beat()
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
