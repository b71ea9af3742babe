"""Mixers: x_BLD -> y_BLD, the operations that move information between tokens.

    y = mixer(x_BLD, positions, causal)

Shape letters: B batch, L tokens, D width, H heads, P = D / H width of one head.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.parts.position import Positions
from aotsearch.registry import Divisor, Flag, Number, word


@word("mixer", "attention")
class Attention(nn.Module):
    r"""Multi-head softmax attention, with a multiple of the identity in its mixing matrix.

    y = sum_h (A_h + a I) V_h W_h,   A_h = softmax(Q_h K_h^T / sqrt(P))

    Q_h, K_h, V_h are (L, P) projections of x, A_h is (L, L) and row-stochastic, W_h is (P, D). With `qkv: tied`
    Q_h = K_h = V_h = x U_h: multi-head subspace self-attention (MSSA), one projection per subspace. With `identity: -1` the
    mixing matrix is A - I, minus the random-walk Laplacian: one step of graph diffusion. `(A + a I) V` is computed as
    `A V + a V`, so the fused kernel stays and no (L, L) matrix is made.

    Source: Vaswani et al. 2017, arXiv:1706.03762; tied: Wang et al. 2025, arXiv:2506.03790 (eq. 4) after Yu et al. 2023,
    arXiv:2306.01129; identity: Ravuri and Lawrence 2025, arXiv:2507.21040.
    Differs: for `tied` the output W_h is free, as in the authors' code, not U_h^T as in the equation, and scores are scaled by
    1 / sqrt(P), which the equation leaves out. A learned coefficient is unbounded, one per layer.

    Args:
        heads: Number of heads (of subspaces, where tied) H; divides width.
        qkv: `free` has three projections; `tied` has one, used as query, key and value.
        identity: The coefficient a. `learned` is one scalar per layer that starts at 0, so training starts at plain attention.
        bias: Whether the projections add a bias.
    """

    def __init__(
        self,
        width: int,
        *,
        heads: Divisor = 4,
        qkv: Literal["free", "tied"] = "free",
        identity: Number | Literal["learned"] = 0.0,
        bias: Flag = False,
    ):
        super().__init__()
        self.heads = heads
        names = ("subspace",) if qkv == "tied" else ("query", "key", "value")
        self.projections = nn.ModuleDict({name: nn.Linear(width, width, bias=bias) for name in names})
        self.identity = nn.Parameter(torch.zeros(())) if identity == "learned" else identity
        self.output = nn.Linear(width, width, bias=bias)

    def forward(self, x_BLD: torch.Tensor, positions: Positions, causal: bool) -> torch.Tensor:
        B, L, D = x_BLD.shape
        projected = [p(x_BLD).view(B, L, self.heads, -1).transpose(1, 2) for p in self.projections.values()]
        q_BHLP, k_BHLP, v_BHLP = projected if len(projected) == 3 else projected * 3
        q_BHLP, k_BHLP = positions.rotate(q_BHLP), positions.rotate(k_BHLP)
        y_BHLP = F.scaled_dot_product_attention(q_BHLP, k_BHLP, v_BHLP, is_causal=causal)
        if isinstance(self.identity, nn.Parameter) or self.identity != 0:
            y_BHLP = y_BHLP + self.identity * v_BHLP  # (A + a I) V = A V + a V
        out: torch.Tensor = self.output(y_BHLP.transpose(1, 2).reshape(B, L, D))
        return out
