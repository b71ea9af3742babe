"""Where a part stands in a model, and what one forward pass carries along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import nn


@dataclass(frozen=True)
class LayerContext:
    """What a part may know of the model around it.

    Attributes:
        width: Size D of the residual stream.
        tokens: The most tokens L that flow through the part.
        causal: Whether a token sees only itself and those before it.
        layer: How many operations of the same word come before it.
        heads: Heads of the part that it is an option of, such as the attention around a coefficient.
        rotates: Whether the model's positions turn queries and keys.
        biases: Whether the model's positions add to the scores.
        sizes: What comes from the task.
    """

    width: int
    tokens: int
    causal: bool = True
    layer: int = 0
    heads: int = 1
    rotates: bool = False
    biases: bool = False
    sizes: Mapping[str, int] = field(default_factory=dict)


class Positions(nn.Module):
    """No positions: a causal model without them still knows how many tokens came before.

    Source: Kazemnejad et al. 2023, arXiv:2305.19466.
    """

    rotates = False  # whether `rotate` does anything
    biases = False  # whether `bias` does

    def embed(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """Add what a token knows of its place to the input."""
        return x_BLD

    def rotate(self, x_BHLP: torch.Tensor) -> torch.Tensor:
        """Turn the queries or keys by their place."""
        raise NotImplementedError

    def bias(self, heads: int, tokens: int, device: torch.device) -> torch.Tensor:
        """What is added to the scores, (H, L, L)."""
        raise NotImplementedError


class ForwardContext:
    """What one forward pass carries from sublayer to sublayer besides the residual stream.

    Attributes:
        positions: The model's positions.
        first_BLD: The values of the first attention, once it has been passed.
    """

    def __init__(self, positions: Positions):
        self.positions = positions
        self.first_BLD: torch.Tensor | None = None


def drawn(parameter: nn.Parameter, std: float) -> nn.Parameter:
    """A parameter whose initial values are normal with this standard deviation, whatever the model's initialisation; 0 keeps zeros."""
    parameter.initial_std = std  # type: ignore[attr-defined]
    return parameter


def decayed(parameter: nn.Parameter, decays: bool) -> nn.Parameter:
    """A parameter of which its part says whether weight decay acts on it, whatever its dimensions."""
    parameter.decays = decays  # type: ignore[attr-defined]
    return parameter


def decays(parameter: nn.Parameter) -> bool:
    """Whether weight decay acts on a parameter: what its part declares; else on matrices and kernels, not on vectors and scalars.

    Source: nanoGPT, where token and position tables decay too.
    """
    return bool(getattr(parameter, "decays", parameter.ndim >= 2))
