"""Channel operations: x_BLD -> y_BLD, the same map at every token.

Shape letters: B batch, L tokens, D width, F inner width.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.words import Count, Flag, Positive, word
from aotsearch.models.parts.context import LayerContext, decayed, drawn


def gelu_tanh(x: torch.Tensor) -> torch.Tensor:
    """GELU by its tanh approximation, as GPT-2 was trained with."""
    return F.gelu(x, approximate="tanh")


def relu2(x: torch.Tensor) -> torch.Tensor:
    """The square of ReLU."""
    return F.relu(x).square()


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "gelu": F.gelu,
    "gelu-tanh": gelu_tanh,
    "relu": F.relu,
    "relu2": relu2,
    "silu": F.silu,
}


@word("channel", "mlp")
class Mlp(nn.Module):
    r"""Two linear maps with a pointwise nonlinearity between them.

    y = s(x W_up) W_out

    W_up is (D, F), W_out is (F, D), F = expand * D, s the activation.

    Source: Vaswani et al. 2017, arXiv:1706.03762; GELU: Hendrycks and Gimpel 2016, arXiv:1606.08415; ReLU squared: So et al.
    2021, arXiv:2109.08668.

    Args:
        expand: Inner width F as a multiple of width; F is rounded to a whole number.
        activation: The nonlinearity; `relu2` is the square of ReLU, `gelu-tanh` GPT-2's approximation of GELU.
        bias: Whether the linear maps add a bias.
    """

    def __init__(
        self,
        site: LayerContext,
        *,
        expand: Positive = 4.0,
        activation: Literal["gelu", "gelu-tanh", "relu", "relu2", "silu"] = "gelu",
        bias: Flag = False,
    ):
        super().__init__()
        inner = max(1, round(expand * site.width))
        self.up = nn.Linear(site.width, inner, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.output = nn.Linear(inner, site.width, bias=bias)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        y_BLD: torch.Tensor = self.output(self.activation(self.up(x_BLD)))
        return y_BLD


@word("channel", "glu")
class GatedLinearUnit(nn.Module):
    r"""Two linear maps, one through a nonlinearity, multiplied and mapped back: SwiGLU with `silu`, GEGLU with `gelu`.

    y = (s(x W_gate) * x W_up) W_out

    W_gate and W_up are (D, F), W_out is (F, D), F = expand * D. With expand 8/3 it has as many parameters as an MLP with expand 4.

    Source: Shazeer 2020, arXiv:2002.05202.

    Args:
        expand: Inner width F as a multiple of width; F is rounded to a whole number.
        activation: The nonlinearity s.
        bias: Whether the linear maps add a bias.
    """

    def __init__(
        self,
        site: LayerContext,
        *,
        expand: Positive = 2.6666666666666665,
        activation: Literal["silu", "gelu", "relu"] = "silu",
        bias: Flag = False,
    ):
        super().__init__()
        inner = max(1, round(expand * site.width))
        self.gate = nn.Linear(site.width, inner, bias=bias)
        self.up = nn.Linear(site.width, inner, bias=bias)
        self.activation = ACTIVATIONS[activation]
        self.output = nn.Linear(inner, site.width, bias=bias)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        y_BLD: torch.Tensor = self.output(self.activation(self.gate(x_BLD)) * self.up(x_BLD))
        return y_BLD


@word("channel", "linear")
class LinearChannel(nn.Module):
    r"""One linear map: what is left of the channel operation in the probabilistic Laplacian eigenmaps.

    y = x W

    Source: Ravuri and Lawrence 2025, arXiv:2507.21040, where W stands for 2 eta (X^T X + beta I)^-1.

    Args:
        bias: Whether a bias is added.
    """

    def __init__(self, site: LayerContext, *, bias: Flag = False):
        super().__init__()
        self.output = nn.Linear(site.width, site.width, bias=bias)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        y_BLD: torch.Tensor = self.output(x_BLD)
        return y_BLD


@word("channel", "ista")
class Ista(nn.Module):
    r"""One step of iterative shrinkage towards a sparse code of x in a complete dictionary, from x itself: CRATE's operation.

    y = relu(x + eta D^T (x - D x) - eta lambda)

    D is (D, D), eta the step, lambda the sparsity. In CRATE there is no residual connection around it: {ista: {join: none}}.

    Source: Yu et al. 2023, arXiv:2306.01129, after its code (eta = lambda = 0.1).
    Differs: D starts normal with the variance of the source's uniform (He et al. 2015).

    Args:
        step: The step size eta.
        sparsity: The weight lambda of the l1 norm.
    """

    def __init__(self, site: LayerContext, *, step: Positive = 0.1, sparsity: Positive = 0.1):
        super().__init__()
        self.step, self.sparsity = step, sparsity
        self.dictionary = drawn(nn.Parameter(torch.zeros(site.width, site.width)), math.sqrt(2 / site.width))

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        error_BLD = x_BLD - F.linear(x_BLD, self.dictionary)
        return F.relu(x_BLD + self.step * F.linear(error_BLD, self.dictionary.T) - self.step * self.sparsity)


@word("channel", "dictionary")
class Dictionary(nn.Module):
    r"""Steps of iterative shrinkage towards a sparse code of x in an over-complete dictionary, decoded by a second one.

    z_1 = relu(eta x D - eta lambda),   z_(i+1) = relu(z_i + eta (x - z_i D^T) D - eta lambda),   y = z_n D_out^T

    D and D_out are (D, F), F = expand * D, eta the step, lambda the sparsity: the channel operation of CRATE-alpha.

    Source: Yang et al. 2024, arXiv:2405.20299 (CRATE-alpha), after the code it was trained with (expand 4, two steps, eta = lambda = 0.1;
    both dictionaries from He et al. 2015 with D as the number of inputs, and spared by weight decay, which acts on kernels; in its code
    for inference, in torch, the number of inputs is F for both).
    Differs: the dictionaries start normal with the variance 2 / D of the source's uniform.

    Args:
        expand: Atoms F as a multiple of width; F is rounded to a whole number.
        steps: How many steps n, the first from 0.
        step: The step size eta.
        sparsity: The weight lambda of the l1 norm.
        decoupled: Whether it is decoded by a dictionary of its own; else D_out = D.
    """

    def __init__(
        self,
        site: LayerContext,
        *,
        expand: Positive = 4.0,
        steps: Count = 2,
        step: Positive = 0.1,
        sparsity: Positive = 0.1,
        decoupled: Flag = True,
    ):
        super().__init__()
        self.steps, self.step, self.sparsity = steps, step, sparsity
        atoms = max(1, round(expand * site.width))
        std = math.sqrt(2 / site.width)
        self.dictionary_DF = decayed(drawn(nn.Parameter(torch.zeros(site.width, atoms)), std), False)
        self.decoder_DF = decayed(drawn(nn.Parameter(torch.zeros(site.width, atoms)), std), False) if decoupled else None

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        z_BLF = F.relu(self.step * (x_BLD @ self.dictionary_DF) - self.step * self.sparsity)
        for _ in range(self.steps - 1):
            error_BLD = x_BLD - z_BLF @ self.dictionary_DF.T
            z_BLF = F.relu(z_BLF + self.step * (error_BLD @ self.dictionary_DF) - self.step * self.sparsity)
        decoder_DF = self.dictionary_DF if self.decoder_DF is None else self.decoder_DF
        return z_BLF @ decoder_DF.T
