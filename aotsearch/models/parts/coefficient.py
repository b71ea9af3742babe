"""Coefficients: numbers in front of the terms of a mixing matrix, where they are more than a fixed number.

A coefficient is called without arguments and gives a scalar, or one number per head as (H, 1, 1), so that it multiplies (B, H, L, P).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn

from aotsearch.grammar.words import Count, Number, word
from aotsearch.models.parts.context import LayerContext, drawn


@word("coefficient", "learned")
class LearnedCoefficient(nn.Module):
    r"""A trained number.

    c = t, or with bounds c = low + (high - low) sigmoid(t)

    Source: Ravuri and Lawrence 2025, arXiv:2507.21040 (one number in (0, 1) for the whole of GPT-2); He and Hofmann 2023,
    arXiv:2311.01906 (one per head).
    Differs: how the first of these bounds and starts its number is not published; here by a sigmoid.

    Args:
        per: What has a number of its own: every `head`, every `layer`, or the whole `model`.
        start: Its initial value.
        low: Lower bound; given together with high.
        high: Upper bound.

    Requires:
        (low == 'none') == (high == 'none')
        low == 'none' or low < start
        high == 'none' or start < high
    """

    def __init__(
        self,
        site: LayerContext,
        *,
        per: Literal["layer", "head", "model"] = "layer",
        start: Number = 0.0,
        low: Number | Literal["none"] = "none",
        high: Number | Literal["none"] = "none",
    ):
        super().__init__()
        self.per = per
        self.bounded = low != "none"
        self.low, self.span = (float(low), float(high) - float(low)) if self.bounded else (0.0, 1.0)
        raw = math.log((start - self.low) / (self.low + self.span - start)) if self.bounded else start
        self.raw = nn.Parameter(torch.full((site.heads,) if per == "head" else (), float(raw)))

    def forward(self) -> torch.Tensor:
        value = self.raw.unsqueeze(-1).unsqueeze(-1) if self.per == "head" else self.raw
        if self.bounded:
            value = self.low + self.span * torch.sigmoid(value)
        return value


@word("coefficient", "split")
class Split(nn.Module):
    r"""One number for the first heads, another for the rest.

    c_h = inside for h < heads, else rest

    Source: Zhang and Papyan 2026, arXiv:2602.09297 (some heads are Laplacian, the rest plain).

    Args:
        heads: How many heads are inside; more than there are means all.
        inside: Their number.
        rest: The number of the other heads.

    Requires:
        inside != 0 or (rest != 0 and heads < beside.heads)
    """

    def __init__(self, site: LayerContext, *, heads: Count = 1, inside: Number = 1.0, rest: Number = 0.0):
        super().__init__()
        values = torch.tensor([inside if h < heads else rest for h in range(site.heads)])
        self.values_H11: torch.Tensor
        self.register_buffer("values_H11", values.view(-1, 1, 1), persistent=False)

    def forward(self) -> torch.Tensor:
        return self.values_H11


@word("coefficient", "follows")
class Follows(nn.Module):
    r"""A linear function of another coefficient of the same attention, so that two terms share one trained number.

    c = times * c_of + plus

    Source: the tie in AttnScale (Wang et al. 2022, arXiv:2203.05962), where uniform = 1 - map; in the code of GFSA (Choi et al. 2023,
    arXiv:2312.04234), where map = 1 - 2/3 squared_map for K = 4; in NeuTRENO (Nguyen et al. 2023, arXiv:2312.00751), where first_values =
    -identity.

    Args:
        of: The name of the other coefficient.
        times: What it is multiplied by.
        plus: What is added.

    Requires:
        of != 'map' or beside.map != 'follows'
        of != 'identity' or beside.identity != 'follows'
        of != 'uniform' or beside.uniform != 'follows'
        of != 'squared_map' or beside.squared_map != 'follows'
        of != 'second_map' or beside.second_map != 'follows'
        of != 'first_values' or beside.first_values != 'follows'
    """

    def __init__(
        self,
        site: LayerContext,
        *,
        of: Literal["map", "identity", "uniform", "squared_map", "second_map", "first_values"] = "map",
        times: Number = -1.0,
        plus: Number = 0.0,
    ):
        super().__init__()
        self.of = {"squared_map": "square", "second_map": "second", "first_values": "first"}.get(of, of)  # the attribute that holds it
        self.times, self.plus = times, plus
        self.followed: list[nn.Module | float] = []  # a list, so that its parameters stay the other's

    def follow(self, other: nn.Module | float) -> None:
        """Tie to the other coefficient, which does not follow one itself."""
        assert not isinstance(other, Follows), self.of
        self.followed.append(other)

    def forward(self) -> torch.Tensor:
        value = self.followed[0]() if isinstance(self.followed[0], nn.Module) else torch.tensor(self.followed[0])
        return self.times * value + self.plus


@word("coefficient", "differential")
class Differential(nn.Module):
    r"""The coefficient of the second map in differential attention, trained through two dot products.

    c = exp(q_1 . k_1) - exp(q_2 . k_2) + start,   start = 0.8 - 0.6 exp(-0.3 l) for `depth`, l the number of the layer from 0

    Source: Ye et al. 2024, arXiv:2410.05258.

    Args:
        start: Its value where the exponentials cancel; `depth` grows with the layer.

    Requires:
        width / beside.heads >= 2
    """

    def __init__(self, site: LayerContext, *, start: Number | Literal["depth"] = "depth"):
        super().__init__()
        self.start = 0.8 - 0.6 * math.exp(-0.3 * site.layer) if start == "depth" else start
        size = site.width // site.heads // 2
        self.query_1 = drawn(nn.Parameter(torch.zeros(size)), 0.1)
        self.key_1 = drawn(nn.Parameter(torch.zeros(size)), 0.1)
        self.query_2 = drawn(nn.Parameter(torch.zeros(size)), 0.1)
        self.key_2 = drawn(nn.Parameter(torch.zeros(size)), 0.1)

    def forward(self) -> torch.Tensor:
        return torch.exp(self.query_1 @ self.key_1) - torch.exp(self.query_2 @ self.key_2) + self.start
