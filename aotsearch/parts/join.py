"""Joins: how the output of an operation enters the residual stream. `none` replaces the stream by the output."""

from __future__ import annotations

import torch
from torch import nn

from aotsearch.registry import word


@word("join", "add")
class Add(nn.Module):
    r"""The residual connection.

    x <- x + y

    Source: He et al. 2015, arXiv:1512.03385.
    """

    def __init__(self, width: int):
        super().__init__()

    def forward(self, x_BLD: torch.Tensor, y_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD + y_BLD
