"""Words of another package, written as people write modules: what `eject` must follow though it has never seen it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.words import Count, Flag, Number, Score, word
from aotsearch.models.parts.attention import Attention
from aotsearch.models.parts.coefficient import Differential
from aotsearch.models.parts.context import ForwardContext, LayerContext, drawn
from aotsearch.models.parts.norm import RmsNorm
from aotsearch.models.parts.score import Softmax

TABLE = {"one": 1.0, "two": 2.0}


def widened(width: int, factor: float) -> int:
    """A multiple of 8."""
    wanted = width * factor
    while wanted % 8:
        wanted += 1
    return int(wanted)


def smooth(x: torch.Tensor, times: int) -> torch.Tensor:
    """A moving average."""
    for _ in range(times):
        x = 0.5 * (x + F.pad(x, (0, 0, 1, 0))[:, :-1])
    return x


class Base(nn.Module):
    """What words may share."""

    gain = 2.0

    def __init__(self, width: int, bias: bool):
        super().__init__()
        self.inner = nn.Linear(width, width, bias=bias)

    @property
    def twice(self) -> torch.Tensor:
        return 2 * self.inner.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.gain * self.inner(x)
        return y


@word("channel", "inherits")
class Inherits(Base):
    """A word that calls what it inherits, counts, and drops out.

    y = s(2 W x) W_2

    Source: none.

    Args:
        bias: Whether W has a bias.
        kind: Which nonlinearity.
    """

    def __init__(self, site: LayerContext, *, bias: Flag = False, kind: Literal["one", "two"] = "one"):
        super().__init__(site.width, bias)
        self.kind = kind
        self.count: torch.Tensor
        self.register_buffer("count", torch.zeros(()))
        self.output = nn.Linear(site.width, site.width)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.count += 1
        y = self.drop(super().forward(x))
        y = torch.tanh(y) if self.kind == "one" else F.leaky_relu(y, 0.1)
        z: torch.Tensor = self.output(y) * TABLE[self.kind] + x @ self.twice
        return z


class Cell(nn.Module):
    """One cell."""

    def __init__(self, width: int, number: int):
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 1.0 / (number + 1)))
        self.number = number

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        if self.number % 2 == 0:
            return x * self.weight * scale
        return x + self.weight


@word("channel", "cells")
class Cells(nn.Module):
    """Modules within modules, loops, functions within functions, and tests that only the data decides.

    y = c_n(... c_1(x))

    Source: none.

    Args:
        cells: How many cells.
        factor: Inner width.
    """

    def __init__(self, site: LayerContext, *, cells: Count = 3, factor: Number = 1.5):
        super().__init__()
        inner = widened(site.width, factor)
        self.up = nn.Linear(site.width, inner)
        made = []
        for i in range(cells):
            made.append(Cell(inner, i))
        self.cells = nn.ModuleList(made)
        self.same = nn.ModuleList([Cell(inner, 1) for _ in range(2)])
        self.pair = nn.ModuleDict({"a": Cell(inner, 5), "b": nn.Sequential(nn.Linear(inner, inner), nn.GELU())})
        self.output = nn.Linear(inner, site.width)
        nn.init.zeros_(self.output.bias)
        with torch.no_grad():
            self.up.bias.fill_(0.1)
        self.limit = 4
        self.mix = [0.3, 0.7]
        self.config = {"eps": 1e-6, "unused": ["x"]}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(x)
        for cell in self.cells:
            x = cell(x)
        for i, cell in enumerate(self.same):
            x = x + self.mix[i] * cell(x, scale=0.5)
        x = smooth(self.pair["b"](self.pair["a"](x)), times=2)
        if x.shape[1] > self.limit:
            x = x * 1.5
        else:
            x = x - 0.5
        total = torch.stack([w * x for w in self.mix]).sum(0)

        def shift(t: torch.Tensor) -> torch.Tensor:
            return t + self.config["eps"]

        k = 0
        while k < 2:
            total = shift(total)
            k += 1
        with torch.no_grad():
            scale = total.detach().abs().mean().clamp_min(1.0)
        parts = {"left": total, "right": total * 2}
        y: torch.Tensor = self.output((lambda t: t / scale)(parts["left"]) + parts["right"])
        return y


@word("mixer", "remembers")
class Remembers(nn.Module):
    """A word that carries something of its own, and depends on its layer.

    y = W x / sqrt(l + 1) + y of the one before

    Source: none.
    """

    def __init__(self, site: LayerContext):
        super().__init__()
        self.first = site.layer == 0
        self.rate = 1.0 / math.sqrt(site.layer + 1)
        self.output = nn.Linear(site.width, site.width)

    def forward(self, x_BLD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        y_BLD: torch.Tensor = self.output(x_BLD) * self.rate
        if not self.first:
            y_BLD = y_BLD + flow.previous_BLD  # type: ignore[attr-defined]
        flow.previous_BLD = y_BLD  # type: ignore[attr-defined]
        return y_BLD

    def state(self, tokens: int) -> int:
        return 0


@word("mixer", "attends")
class Attends(Attention):
    """A word that changes one of ours.

    y = g * attention(x)

    Source: none.
    """

    def __init__(self, site: LayerContext):
        super().__init__(site, heads=2, identity=-1.0, score=Softmax(site))
        self.strength = nn.Parameter(torch.ones(site.width))

    def forward(self, x_BLD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        return self.strength * super().forward(x_BLD, flow)


@word("positions", "turned")
class Turned(nn.Module):
    """Positions with parameters of their own.

    q <- q + t

    Source: none.
    """

    rotates = True
    biases = True

    def __init__(self, site: LayerContext):
        super().__init__()
        self.angle = drawn(nn.Parameter(torch.zeros(site.tokens)), 0.1)

    def embed(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD

    def rotate(self, x_BHLP: torch.Tensor) -> torch.Tensor:
        return x_BHLP + self.angle[: x_BHLP.shape[-2]].view(-1, 1)

    def bias(self, heads: int, tokens: int, device: torch.device) -> torch.Tensor:
        return self.angle[:tokens].view(1, 1, -1).expand(heads, tokens, tokens)


@word("norm", "plain")
class Plain(nn.Module):
    """A norm without parameters, of several lines.

    y = x / (1 + |x|)

    Source: none.
    """

    def __init__(self, site: LayerContext):
        super().__init__()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = x.abs()
        b = a.mean(-1, keepdim=True)
        return x / (1 + b + a)


@word("mixer", "wraps")
class Wraps(nn.Module):
    """A word that makes some of ours itself, and hands on a part it is given.

    y = attention(norm(x)) + attention'(x)

    Source: none.

    Args:
        score: How scores become weights.
    """

    def __init__(self, site: LayerContext, *, score: Score = "softmax"):
        super().__init__()
        self.norm = RmsNorm(site, eps=0.5)
        self.inner = Attention(site, heads=2, score=Softmax(site), second_map=Differential(site, start="depth"))
        self.other = Attention(site, heads=1, score=score)
        assert isinstance(site, LayerContext), "of the model"

    def forward(self, x_BLD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        y_BLD: torch.Tensor = self.inner(self.norm(x_BLD), flow) + self.other(x_BLD, flow)
        return y_BLD

    def state(self, tokens: int) -> int:
        return 0


@word("channel", "tries")
class Tries(nn.Module):
    """What minds errors of its own.

    y = W x

    Source: none.
    """

    def __init__(self, site: LayerContext):
        super().__init__()
        self.output = nn.Linear(site.width, site.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            y: torch.Tensor = self.output(x)
            return y
        except RuntimeError:
            return x


@word("channel", "imports")
class Imports(nn.Module):
    """What needs more than torch.

    y = W x

    Source: none.
    """

    def __init__(self, site: LayerContext):
        super().__init__()
        self.output = nn.Linear(site.width, site.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        import numpy as np

        y: torch.Tensor = self.output(x) * float(np.sqrt(2.0))
        return y


@word("channel", "forgets")
class Forgets(nn.Module):
    """What gives other numbers each time, so that no text can be proved.

    y = W x + noise

    Source: none.
    """

    def __init__(self, site: LayerContext):
        super().__init__()
        self.output = nn.Linear(site.width, site.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.output(x) + torch.rand(())
        return y
