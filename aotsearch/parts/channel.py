"""Channel operations: x_BLD -> y_BLD, the same map at every token.

Shape letters: B batch, L tokens, D width, F inner width.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.registry import Flag, Positive, word

ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"gelu": F.gelu, "relu": F.relu, "relu2": lambda x: F.relu(x).square()}


@word("channel", "mlp")
class Mlp(nn.Module):
    r"""Two linear maps with a pointwise nonlinearity between them.

    y = s(x W_up) W_out

    W_up is (D, F), W_out is (F, D), F = expand * D, s the activation.

    Source: Vaswani et al. 2017, arXiv:1706.03762; GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415; ReLU squared: So et al.
    2021, arXiv:2109.08668.

    Args:
        expand: Inner width F as a multiple of width; F is rounded to a whole number.
        activation: The nonlinearity; `relu2` is the square of ReLU.
        bias: Whether the linear maps add a bias.
    """

    def __init__(
        self,
        width: int,
        *,
        expand: Positive = 4.0,
        activation: Literal["gelu", "relu", "relu2"] = "gelu",
        bias: Flag = False,
    ):
        super().__init__()
        inner = max(1, round(expand * width))
        self.up = nn.Linear(width, inner, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.output = nn.Linear(inner, width, bias=bias)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        y_BLD: torch.Tensor = self.output(self.activation(self.up(x_BLD)))
        return y_BLD
