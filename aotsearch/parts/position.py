"""Positions: how a token knows its place. `embed` acts once on the input, `rotate` on the queries and keys of every mixer.

Shape letters: B batch, L tokens, D width, H heads, P width of one head.
"""

from __future__ import annotations

import torch
from torch import nn

from aotsearch.registry import Positive, word


class Positions(nn.Module):
    """No positions: a causal model without them still knows how many tokens came before.

    Source: Kazemnejad et al. 2023, arXiv:2305.19466.
    """

    def embed(self, x_BLD: torch.Tensor) -> torch.Tensor:
        """Add what a token knows of its place to the input."""
        return x_BLD

    def rotate(self, x_BHLP: torch.Tensor) -> torch.Tensor:
        """Turn the queries or keys by their place."""
        return x_BHLP


@word("positions", "learned")
class Learned(Positions):
    r"""A learned vector per place, added to the input.

    x_l <- x_l + p_l,   l < context

    Source: Radford et al. 2019 (GPT-2).
    """

    def __init__(self, width: int, context: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(context, width))

    def embed(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD + self.table[: x_BLD.shape[1]]


@word("positions", "rope")
class Rotary(Positions):
    r"""Queries and keys turned by angles that grow with the place, so that scores depend on the distance alone.

    (u_i, u_{i+P/2}) at place l <- the pair turned by the angle l base^(-2i/P)

    Source: Su et al. 2021, arXiv:2104.09864.
    Differs: pairs the two halves of a head, as Llama does, not neighbouring entries. An odd last entry is left as it is.

    Args:
        base: The longest wavelength is 2 pi base tokens.
    """

    def __init__(self, width: int, context: int, *, base: Positive = 10000.0):
        super().__init__()
        self.base = base

    def rotate(self, x_BHLP: torch.Tensor) -> torch.Tensor:
        L, P = x_BHLP.shape[-2:]
        half = P // 2
        places = torch.arange(L, device=x_BHLP.device, dtype=torch.float32)
        rates = self.base ** (-torch.arange(half, device=x_BHLP.device, dtype=torch.float32) * 2 / P)
        angle_LP = torch.outer(places, rates)
        cos_LP, sin_LP = angle_LP.cos().to(x_BHLP.dtype), angle_LP.sin().to(x_BHLP.dtype)
        first, second, rest = x_BHLP[..., :half], x_BHLP[..., half : 2 * half], x_BHLP[..., 2 * half :]
        return torch.cat([first * cos_LP - second * sin_LP, second * cos_LP + first * sin_LP, rest], dim=-1)
