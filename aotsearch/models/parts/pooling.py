"""Pooling: the tokens of an image -> one vector. `open` may add a token before the first sublayer, `forward` pools after the last.

Shape letters: B batch, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.words import Count, Divisor, Number, Positive, word
from aotsearch.models.parts.context import LayerContext, drawn


@word("pooling", "mean")
class Mean(nn.Module):
    r"""The mean of all tokens.

    z = mean_l x_l

    Source: Beyer et al. 2022, arXiv:2205.01580.
    """

    added = 0  # tokens

    def __init__(self, site: LayerContext):
        super().__init__()

    def open(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD.mean(1)


@word("pooling", "class-token")
class ClassToken(nn.Module):
    r"""A learned token stands before the patches, and what becomes of it is the image.

    z = x_0

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929.

    Args:
        std: Standard deviation of its initial values.
    """

    added = 1

    def __init__(self, site: LayerContext, *, std: Positive = 0.02):
        super().__init__()
        self.token = drawn(nn.Parameter(torch.zeros(site.width)), std)

    def open(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.token.to(x_BLD.dtype).expand(len(x_BLD), 1, -1), x_BLD], dim=1)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD[:, 0]


@word("pooling", "class-attention")
class ClassAttention(nn.Module):
    r"""Blocks in which a learned token alone attends to the tokens, after the last sublayer.

    u = norm(z; x);  z <- z + g_1 * attention(u_0 over u);  (z; x) <- norm of it;  z <- z + g_2 * mlp(z),  x <- 2 x

    Source: Touvron et al. 2021, arXiv:2103.17239 (CaiT); El-Nouby et al. 2021, arXiv:2106.09681 (XCiT, whose second norm acts on every
    token, whose first step adds norm(x) to x and whose second doubles x), as ToST uses it.

    Args:
        blocks: How many blocks.
        heads: Heads of their attention.
        expand: Inner width of their MLPs as a multiple of width.
        start: Initial value of the gains g_1 and g_2.
        eps: Added to the variance by the norms.
    """

    added = 0

    def __init__(
        self,
        site: LayerContext,
        *,
        blocks: Count = 2,
        heads: Divisor = 4,
        expand: Positive = 4.0,
        start: Number = 1.0,
        eps: Positive = 1e-5,
    ):
        super().__init__()
        self.token = drawn(nn.Parameter(torch.zeros(site.width)), 0.02)
        self.blocks = nn.ModuleList(ClassBlock(site.width, heads, round(expand * site.width), start, eps) for _ in range(blocks))

    def open(self, x_BLD: torch.Tensor) -> torch.Tensor:
        return x_BLD

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        x_BLD = torch.cat([self.token.to(x_BLD.dtype).expand(len(x_BLD), 1, -1), x_BLD], dim=1)
        for block in self.blocks:
            x_BLD = block(x_BLD)
        return x_BLD[:, 0]


class ClassBlock(nn.Module):
    """One block of class attention."""

    def __init__(self, width: int, heads: int, inner: int, start: float, eps: float):
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.LayerNorm(width, eps), nn.LayerNorm(width, eps)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.output = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        self.gain_1 = nn.Parameter(torch.full((width,), float(start)))
        self.gain_2 = nn.Parameter(torch.full((width,), float(start)))

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        B, _, D = x_BLD.shape
        u_BLD = self.norm_1(x_BLD)
        maps = (self.query, u_BLD[:, :1]), (self.key, u_BLD), (self.value, u_BLD)
        q_BH1P, k_BHLP, v_BHLP = (p(u).view(B, -1, self.heads, D // self.heads).transpose(1, 2) for p, u in maps)
        z_B1D = self.output(F.scaled_dot_product_attention(q_BH1P, k_BHLP, v_BHLP).transpose(1, 2).reshape(B, 1, D))
        x_BLD = self.norm_2(x_BLD + self.gain_1 * torch.cat([z_B1D, u_BLD[:, 1:]], dim=1))
        z_B1D = self.gain_2 * self.down(F.gelu(self.up(x_BLD[:, :1])))
        return x_BLD + torch.cat([z_B1D, x_BLD[:, 1:]], dim=1)
