"""What diagnostics are functions of: one sublayer at work, the projections of its heads, its attention map."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch

from aotsearch.models.model import ResidualStep
from aotsearch.models.parts.context import ForwardContext


@dataclass(frozen=True)
class Call:
    """One sublayer at work: all tensors are (B, L, D).

    Attributes:
        step: The sublayer.
        flow: What the forward pass carries.
        x_BLD: The stream before it.
        read_BLD: The stream that it read: x, or what the sublayer before it read, where they are parallel.
        given_BLD: What its operation was given: the tokens as the sublayer reads them, Z.
        joined_BLD: The stream after the join.
        left_BLD: The stream it left: after the join and, where the norm is placed after, the norm.
    """

    step: ResidualStep
    flow: ForwardContext
    x_BLD: torch.Tensor
    read_BLD: torch.Tensor
    given_BLD: torch.Tensor
    joined_BLD: torch.Tensor
    left_BLD: torch.Tensor

    @functools.cached_property
    def after_BLD(self) -> torch.Tensor:
        """The stream it left, as it would read it."""
        after_BLD: torch.Tensor = self.left_BLD if self.step.place == "post" else self.step.norm(self.left_BLD)
        return after_BLD


@dataclass(frozen=True)
class Subspaces:
    """The projection of a mixer's heads, and the tokens before and after it as it reads them."""

    weight_HPD: torch.Tensor
    before_BLD: torch.Tensor
    after_BLD: torch.Tensor

    @functools.cached_property
    def basis_HDP(self) -> torch.Tensor:
        """U_h: orthonormal, with the span of head h."""
        basis_HDP: torch.Tensor = torch.linalg.qr(self.weight_HPD.mT)[0]
        return basis_HDP


@dataclass(frozen=True)
class Map:
    """The attention map of a mixer, and the tokens before and after it as it reads them.

    Attributes:
        a_BHLM: The map; memory, where there is any, in its first columns.
        seen_L: How many keys each query sees.
        value_BHMP: V, those of the memory first.
    """

    a_BHLM: torch.Tensor
    seen_L: torch.Tensor
    value_BHMP: torch.Tensor
    before_BLD: torch.Tensor
    after_BLD: torch.Tensor

    @property
    def a_BHLL(self) -> torch.Tensor:
        """The map without memory."""
        return self.a_BHLM[..., -self.a_BHLM.shape[-2] :]
