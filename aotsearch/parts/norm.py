"""Norms: x_BLD -> y_BLD, each token by itself."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.registry import Flag, Positive, word


@word("norm", "layernorm")
class LayerNorm(nn.Module):
    r"""Zero mean and unit variance over the width, then a learned gain and bias.

    y = (x - mean(x)) / sqrt(var(x) + eps) * g + b

    Source: Ba et al. 2016, arXiv:1607.06450.

    Args:
        bias: Whether b is there; it starts at 0.
        eps: Added to the variance.
    """

    def __init__(self, width: int, *, bias: Flag = True, eps: Positive = 1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width)) if bias else None
        self.eps = eps

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(x_BLD, self.gain.shape, self.gain, self.bias, self.eps)


@word("norm", "rmsnorm")
class RmsNorm(nn.Module):
    r"""Unit root mean square over the width, then a learned gain; the mean stays.

    y = x / sqrt(mean(x^2) + eps) * g

    Source: Zhang and Sennrich 2019, arXiv:1910.07467.

    Args:
        eps: Added to the mean square.
    """

    def __init__(self, width: int, *, eps: Positive = 1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x_BLD, self.gain.shape, self.gain, self.eps)
