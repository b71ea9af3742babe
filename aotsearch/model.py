"""Architecture -> torch.nn.Module; the only file that turns words into modules.

Parameters are named by what they belong to and their number of occurrence (`attention_0.operation.projections.query.weight`), a
function of the architecture alone. Initial values are drawn by that name and the seed, never in passing: a parameter that
two architectures share starts at the same value in both, whatever else they hold.

Shape letters: B batch, L tokens, D width, V vocabulary.
"""

from __future__ import annotations

import collections
import hashlib
import math

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch import registry
from aotsearch.architecture import Architecture, Part, Sublayer
from aotsearch.parts.position import Positions

INITIAL_STD = 0.02  # Radford et al. 2019 (GPT-2), as in nanoGPT


class Replace(nn.Module):
    """The join `none`: no residual connection, `x <- y`."""

    def forward(self, x_BLD: torch.Tensor, y_BLD: torch.Tensor) -> torch.Tensor:
        return y_BLD


class Step(nn.Module):
    """One sublayer: norm, operation, join, in the order that its place says."""

    def __init__(self, width: int, sublayer: Sublayer):
        super().__init__()
        word = registry.find("sublayer", sublayer.operation.word)
        self.mixes = word.slot == "mixer"
        self.operation = word.load()(width, **dict(sublayer.operation.options))
        self.norm = _norm(width, sublayer.norm)
        self.join = Replace() if sublayer.join.absent else _module("join", sublayer.join, width)
        self.place = sublayer.place

    def forward(self, x_BLD: torch.Tensor, positions: Positions, causal: bool) -> torch.Tensor:
        z_BLD = self.norm(x_BLD) if self.place == "pre" else x_BLD
        y_BLD = self.operation(z_BLD, positions, causal) if self.mixes else self.operation(z_BLD)
        x_BLD = self.join(x_BLD, y_BLD)
        return self.norm(x_BLD) if self.place == "post" else x_BLD


class Model(nn.Module):
    """A language model: token ids (B, L) -> logits (B, L, V), causal."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        width = architecture.width
        self.embedding = nn.Embedding(architecture.size("vocabulary"), width)
        self.positions = _positions(architecture)
        self.order: list[str] = []
        seen: collections.Counter[str] = collections.Counter()
        self.steps = nn.ModuleDict()
        for sublayer in architecture.sublayers:
            if sublayer.same_as is not None:
                self.order.append(self.order[sublayer.same_as])
                continue
            name = f"{sublayer.operation.word}_{seen[sublayer.operation.word]}"
            seen[sublayer.operation.word] += 1
            self.steps[name] = Step(width, sublayer)
            self.order.append(name)
        self.final_norm = _norm(width, architecture.final_norm)
        self.head = nn.Linear(width, architecture.size("vocabulary"), bias=False) if architecture.head == "free" else None

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        x_BLD = self.positions.embed(self.embedding(tokens_BL))
        for name in self.order:
            x_BLD = self.steps[name](x_BLD, self.positions, causal=True)
        x_BLD = self.final_norm(x_BLD)
        return F.linear(x_BLD, self.embedding.weight if self.head is None else self.head.weight)


def build(architecture: Architecture, seed: int = 0) -> Model:
    """The module of an architecture, its initial values drawn from `seed` by parameter name."""
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation draws in passing; ours replaces it
        model = Model(architecture)
    initialise(model, seed)
    return model


@torch.no_grad()
def initialise(model: Model, seed: int) -> None:
    r"""GPT-2's initial values: matrices from N(0, 0.02^2), those that write to the residual stream divided by sqrt(2 N).

    Source: Radford et al. 2019; nanoGPT.
    Differs: N is the larger of the numbers of mixers and of channel operations, not of all of them by two, so that a model without
    its MLPs starts at the same attention weights as the model with them. Vectors and scalars keep the part's own start.
    """
    mixers = sum(bool(model.steps[name].mixes) for name in model.order)
    layers = max(mixers, len(model.order) - mixers, 1)
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2:
            continue
        std = INITIAL_STD / math.sqrt(2 * layers) if name.endswith("output.weight") else INITIAL_STD
        parameter.copy_(torch.randn(parameter.shape, generator=_generator(seed, name)) * std)


def _generator(seed: int, name: str) -> torch.Generator:
    number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)


def _positions(architecture: Architecture) -> Positions:
    if architecture.positions.absent:
        return Positions()
    word = registry.find("positions", architecture.positions.word)
    positions: Positions = word.load()(architecture.width, architecture.size("context"), **dict(architecture.positions.options))
    return positions


def _module(slot: str, part: Part, width: int) -> nn.Module:
    module: nn.Module = registry.find(slot, part.word).load()(width, **dict(part.options))
    return module


def _norm(width: int, part: Part) -> nn.Module:
    return nn.Identity() if part.absent else _module("norm", part, width)
