"""The masks of dropout in a training, each a function of the trial's seed, the step, its place in the model, and how often the place was
asked before in that step: never of torch's generator. So a trial is repeated and continued to the last bit, seeds that train as one
program have the masks they have alone, and the batches and initial values of a seed are those of a model without dropout. Arms share
the masks of the places that they share.
"""

from __future__ import annotations

import collections
import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


class Masks:
    """The masks of models that train together: the dropouts of the first, which stands for all of them, ask for them from now on.

    Args:
        model: Its `torch.nn.Dropout` modules are replaced, those of installed packages' words too.
        seeds: Of the trials.
        replicas: Whether they are one program, under vmap.
    """

    def __init__(self, model: nn.Module, seeds: Sequence[int], replicas: bool):
        self.seeds, self.replicas = seeds, replicas
        self.begin(0)
        for place, module in list(model.named_modules(remove_duplicate=False)):
            if type(module) is nn.Dropout:
                model.set_submodule(place, Masked(module, place, self))

    def begin(self, step: int) -> None:
        """The masks from now on are those of this step."""
        self.step, self.asked = step, collections.Counter[str]()

    def dropped(self, place: str, p: float, x: torch.Tensor) -> torch.Tensor:
        """Which entries are dropped: of one model of a tensor such as x; of replicas (N, ...), x being that of all of them."""
        time = self.asked[place]
        self.asked[place] += 1
        shape = x.shape[1:] if self.replicas else x.shape
        masks = []
        for seed in self.seeds:
            number = int.from_bytes(hashlib.sha256(f"{seed}:{self.step}:{place}:{time}".encode()).digest()[:7], "big")
            generator = torch.Generator(x.device).manual_seed(number)
            masks.append(torch.rand(shape, generator=generator, device=x.device) < p)  # in float32 whatever the precision of x
        return torch.stack(masks) if self.replicas else masks[0]


class Masked(nn.Dropout):
    """Dropout of a model that trains."""

    def __init__(self, like: nn.Dropout, place: str, masks: Masks):
        super().__init__(like.p)
        self.train(like.training)
        self.place, self.masks = place, masks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training or self.p == 0:
            return x
        if self.masks.replicas:
            found: torch.Tensor = _Replicas.apply(self, x)  # type: ignore[no-untyped-call]
            return found
        return self.drop(x)

    def drop(self, x: torch.Tensor) -> torch.Tensor:
        """x without the entries that are dropped, the others larger."""
        return x.masked_fill(self.masks.dropped(self.place, self.p, x), 0.0) / (1.0 - self.p)


class _Replicas(torch.autograd.Function):
    """Dropout of replicas under vmap, of each its own; never called without it."""

    @staticmethod
    def forward(module: Masked, x: torch.Tensor) -> Any:
        raise AssertionError("under vmap alone")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("under vmap alone")

    @staticmethod
    def vmap(info: Any, in_dims: Any, module: Masked, x: torch.Tensor) -> Any:
        whole = x.expand(info.batch_size, *x.shape) if in_dims[1] is None else x.movedim(in_dims[1], 0)
        return module.drop(whole), 0
