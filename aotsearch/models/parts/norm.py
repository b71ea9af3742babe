"""Norms: x_BLD -> y_BLD, each token by itself."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.words import Flag, Positive, word
from aotsearch.models.parts.context import LayerContext


@word("norm", "layernorm")
class LayerNorm(nn.Module):
    r"""Zero mean and unit variance over the width, then a learned gain and bias.

    y = (x - mean(x)) / sqrt(var(x) + eps) * g + b

    Source: Ba et al. 2016, arXiv:1607.06450.

    Args:
        bias: Whether b is there; it starts at 0.
        eps: Added to the variance.
    """

    def __init__(self, site: LayerContext, *, bias: Flag = True, eps: Positive = 1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(site.width))
        self.bias = nn.Parameter(torch.zeros(site.width)) if bias else None
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

    def __init__(self, site: LayerContext, *, eps: Positive = 1e-5):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(site.width))
        self.eps = eps

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return F.rms_norm(x_BLD, self.gain.shape, self.gain, self.eps)


@word("norm", "dyt")
class DynamicTanh(nn.Module):
    r"""A squashing of every entry in place of a norm: no statistic of the token is taken.

    y = tanh(a x) * g + b

    Source: Zhu et al. 2025, arXiv:2503.10622.

    Args:
        alpha: Initial value of the learned scalar a.
    """

    def __init__(self, site: LayerContext, *, alpha: Positive = 0.5):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(float(alpha)))
        self.gain = nn.Parameter(torch.ones(site.width))
        self.bias = nn.Parameter(torch.zeros(site.width))

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.alpha * x_BLD) * self.gain + self.bias


@word("norm", "sphere")
class Sphere(nn.Module):
    r"""Every token on the sphere of one radius, without a learned gain.

    y = radius x / |x|

    Source: Loshchilov et al. 2024, arXiv:2410.01131 (nGPT, radius 1).

    Args:
        radius: The Euclidean norm of every token; sqrt(width) gives unit root mean square.
    """

    def __init__(self, site: LayerContext, *, radius: Positive = 1.0):
        super().__init__()
        self.radius = radius

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return self.radius * F.normalize(x_BLD, dim=-1)
