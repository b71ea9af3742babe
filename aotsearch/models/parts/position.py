"""Positions: how a token knows its place. `embed` acts once on the input, `rotate` on the queries and keys of every mixer, `bias` on
their scores.

Shape letters: B batch, L tokens, D width, H heads, P width of one head.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.words import Count, Positive, word
from aotsearch.models.parts.context import LayerContext, Positions, decayed, drawn


@word("positions", "learned")
class LearnedPositions(Positions):
    r"""A learned vector per place, added to the input.

    x_l <- x_l + p_l,   l < context

    Source: Radford et al. 2019 (GPT-2). Weight decay acts on it as in nanoGPT; on images it does not, as in timm and big_vision.

    Args:
        std: Standard deviation of its initial values.
    """

    def __init__(self, site: LayerContext, *, std: Positive = 0.02):
        super().__init__()
        self.table = decayed(drawn(nn.Parameter(torch.zeros(site.tokens, site.width)), std), "image" not in site.sizes)

    def embed(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD + self.table[: x_BLD.shape[1]]


@word("positions", "sinusoidal")
class Sinusoidal(Positions):
    r"""Sines and cosines of the place at rates that fall geometrically, added to the input.

    x_{l,i} <- x_{l,i} + scale sin(l base^(-2i/D)) in the first half of the width, the cosine in the second

    Source: Vaswani et al. 2017, arXiv:1706.03762.
    Differs: sines and cosines stand in two halves, not alternating; scale is 0.02 sqrt(2), so that a place weighs as much as a token
    that starts from N(0, 0.02^2).

    Args:
        base: The longest wavelength is 2 pi base tokens.
        scale: What the sines are multiplied by.
    """

    def __init__(self, site: LayerContext, *, base: Positive = 10000.0, scale: Positive = 0.0283):
        super().__init__()
        self.base, self.scale = base, scale

    def embed(self, x_BLD: torch.Tensor) -> torch.Tensor:
        L, D = x_BLD.shape[-2:]
        half = (D + 1) // 2
        rates = self.base ** (-torch.arange(half, device=x_BLD.device, dtype=torch.float32) * 2 / D)
        angle_LF = torch.outer(torch.arange(L, device=x_BLD.device, dtype=torch.float32), rates)
        return x_BLD + self.scale * torch.cat([angle_LF.sin(), angle_LF.cos()], dim=-1)[:, :D].to(x_BLD.dtype)


@word("positions", "rope")
class Rotary(Positions):
    r"""Queries and keys turned by angles that grow with the place, so that scores depend on the distance alone.

    (u_i, u_{i+P/2}) at place l <- the pair turned by the angle l base^(-2i/P)

    Source: Su et al. 2021, arXiv:2104.09864.
    Differs: pairs the two halves of a head, as Llama does, not neighbouring entries. An odd last entry is left as it is.

    Args:
        base: The longest wavelength is 2 pi base tokens.
    """

    rotates = True

    def __init__(self, site: LayerContext, *, base: Positive = 10000.0):
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


@word("positions", "alibi")
class Alibi(Positions):
    r"""Scores fall with the distance, in every head at a rate of its own.

    s_ij <- s_ij - m_h |i - j|,   m_h = 2^(-8 h / H),   h = 1 .. H

    Source: Press et al. 2021, arXiv:2108.12409.
    Differs: the rates are this geometric sequence for every H, not only for powers of two.
    """

    biases = True

    def __init__(self, site: LayerContext):
        super().__init__()

    def bias(self, heads: int, tokens: int, device: torch.device) -> torch.Tensor:
        rates_H = 2.0 ** (-8.0 * torch.arange(1, heads + 1, device=device) / heads)
        places_L = torch.arange(tokens, device=device)
        return -rates_H.view(-1, 1, 1) * (places_L.view(-1, 1) - places_L).abs()


@word("positions", "fourier")
class Fourier(Positions):
    r"""Sines and cosines of the row and column of a patch, mapped linearly and added to the input.

    x_l <- x_l + W f(row, column) + b,   f has sines and cosines of 2 pi row / rows at `features` rates, and of the column alike

    A class token is given no place.

    Source: El-Nouby et al. 2021, arXiv:2106.09681 (XCiT), as ToST uses it.

    Args:
        features: Entries for each of row and column.
        base: Range of the rates.

    Requires:
        image > 0
        features % 2 == 0
    """

    def __init__(self, site: LayerContext, *, features: Count = 32, base: Positive = 10000.0):
        super().__init__()
        self.features, self.base = features, base
        self.map = nn.Linear(2 * features, site.width)

    def embed(self, x_BLD: torch.Tensor) -> torch.Tensor:
        side = math.isqrt(x_BLD.shape[1])
        rates = self.base ** (-2 * torch.arange(self.features // 2, device=x_BLD.device, dtype=torch.float32) / self.features)
        places = 2 * math.pi * torch.arange(1, side + 1, device=x_BLD.device, dtype=torch.float32) / (side + 1e-6)
        angle_SF = torch.outer(places, rates)
        wave_SF = torch.stack([angle_SF.sin(), angle_SF.cos()], dim=-1).flatten(1)
        rows_NF = wave_SF.repeat_interleave(side, dim=0)
        columns_NF = wave_SF.repeat(side, 1)
        place_ND = self.map(torch.cat([rows_NF, columns_NF], dim=-1).to(x_BLD.dtype))
        return x_BLD + F.pad(place_ND, (0, 0, x_BLD.shape[1] - side * side, 0))
