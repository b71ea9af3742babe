"""Joins: how the output of an operation enters the residual stream. `none` replaces the stream by the output."""

from __future__ import annotations

import torch
from torch import nn

from aotsearch.grammar.words import Flag, Number, word
from aotsearch.models.parts.context import LayerContext


@word("join", "add")
class Add(nn.Module):
    r"""The residual connection.

    x <- x + y

    Source: He et al. 2015, arXiv:1512.03385.
    """

    def __init__(self, site: LayerContext):
        super().__init__()

    def forward(self, x_BLD: torch.Tensor, y_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD + y_BLD


@word("join", "step")
class StepJoin(nn.Module):
    r"""A residual connection with a step size: an unrolled iteration. Learned from 0 it is ReZero.

    x <- x + eta y

    Source: Wang et al. 2025, arXiv:2506.03790 (eq. 3); ReZero: Bachlechner et al. 2020, arXiv:2003.04887.

    Args:
        size: The step size eta, or its initial value.
        learned: Whether eta is trained.

    Requires:
        learned or size != 0
    """

    def __init__(self, site: LayerContext, *, size: Number = 0.5, learned: Flag = False):
        super().__init__()
        self.size = nn.Parameter(torch.tensor(float(size))) if learned else size

    def forward(self, x_BLD: torch.Tensor, y_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD + self.size * y_BLD


@word("join", "layerscale")
class LayerScale(nn.Module):
    r"""A residual connection with a learned step size for every entry of the width.

    x <- x + g * y

    Source: Touvron et al. 2021, arXiv:2103.17239 (CaiT).

    Args:
        start: Initial value of every entry of g.
    """

    def __init__(self, site: LayerContext, *, start: Number = 0.1):
        super().__init__()
        self.gain = nn.Parameter(torch.full((site.width,), float(start)))

    def forward(self, x_BLD: torch.Tensor, y_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD + self.gain * y_BLD


@word("join", "convex")
class Convex(nn.Module):
    r"""A step from the stream towards the output, learned for every entry of the width.

    x <- x + a * (y - x)

    Source: Loshchilov et al. 2024, arXiv:2410.01131 (nGPT, from 0.05).

    Args:
        start: Initial value of every entry of a.
    """

    shrinks = True  # the stream, where the output is 0

    def __init__(self, site: LayerContext, *, start: Number = 0.05):
        super().__init__()
        self.share = nn.Parameter(torch.full((site.width,), float(start)))

    def forward(self, x_BLD: torch.Tensor, y_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD + self.share * (y_BLD - x_BLD)
