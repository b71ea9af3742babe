"""Token statistics self-attention, a mixer without scores: x_BLD -> y_BLD.

Shape letters: B batch, L tokens, D width, H heads, P = D / H width of one head.
"""

from __future__ import annotations

import torch
from torch import nn

from aotsearch.grammar.words import Divisor, Flag, word
from aotsearch.models.parts.context import ForwardContext, LayerContext, decayed, drawn


@word("mixer", "tssa")
class TokenStatistics(nn.Module):
    r"""Token statistics self-attention: no scores; a token is shrunk, head by head, along directions in which its group has energy.

    y = -sum_h (p_h . w_h) / (1 + m_h) W_h,   m_h = sum_l p_hl w_hl^2 / sum_l p_hl,   p = softmax over heads of t_h |w_hl|^2

    w_h = x U_h is (L, P), |w_hl|^2 is summed over the entries of a head after each is divided by its sum of squares over the tokens, m_h is
    the second moment (P,) of head h. In a causal model sums run over the tokens seen, and b_hl is added to each normalised square.
    Cost is linear in L.

    Source: Wu et al. 2024, arXiv:2412.17810 (ToST), after its code for vision and for language, where weight decay spares t and b.

    Args:
        heads: Number of heads (subspaces) H; divides width.
        bias: Whether the two linear maps add a bias.

    Requires:
        heads > 1
    """

    def __init__(self, site: LayerContext, *, heads: Divisor = 4, bias: Flag = False):
        super().__init__()
        self.heads, self.causal = heads, site.causal
        self.subspace = nn.Linear(site.width, site.width, bias=bias)
        self.temperature = nn.Parameter(torch.ones(heads))
        self.offset_HL = decayed(drawn(nn.Parameter(torch.zeros(heads, site.tokens)), 0.0), False) if site.causal else None
        self.output = nn.Linear(site.width, site.width, bias=bias)

    def forward(self, x_BLD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        B, L, D = x_BLD.shape
        w_BHLP = self.subspace(x_BLD).view(B, L, self.heads, -1).transpose(1, 2)
        square_BHLP = w_BHLP.square()
        if self.offset_HL is not None:
            share_BHLP = square_BHLP / square_BHLP.cumsum(-2).clamp_min(1e-12) + self.offset_HL[:, :L].unsqueeze(-1)
        else:
            share_BHLP = square_BHLP / square_BHLP.sum(-2, keepdim=True).clamp_min(1e-12)
        p_BHL1 = (share_BHLP.sum(-1) * self.temperature.view(-1, 1)).softmax(1).unsqueeze(-1)
        if self.causal:
            moment_BHLP = (square_BHLP * p_BHL1).cumsum(-2) / (p_BHL1.cumsum(-2) + 1e-8)
        else:
            moment_BHLP = (square_BHLP * p_BHL1).sum(-2, keepdim=True) / (p_BHL1.sum(-2, keepdim=True) + 1e-8)
        y_BHLP = -w_BHLP * p_BHL1 / (1 + moment_BHLP)
        y_BLD: torch.Tensor = self.output(y_BHLP.transpose(1, 2).reshape(B, L, D))
        return y_BLD

    def state(self, tokens: int) -> int:
        """Two running second moments and the running weight of each head, however long the sequence."""
        return 2 * self.subspace.out_features + self.heads
