"""A word of one's own: the channel operation maxout."""

from __future__ import annotations

import torch
from torch import nn

from aotsearch import Count, Flag, LayerContext, word


@word("channel", "maxout")
class Maxout(nn.Module):
    r"""The largest of several linear maps, entry by entry, then one more map.

    y = max_k(x W_k) W_out,   k = 1 .. pieces

    W_k is (D, D), W_out is (D, D).

    Source: Goodfellow et al. 2013, arXiv:1302.4389.

    Args:
        pieces: How many linear maps the maximum is taken over.
        bias: Whether the maps add a bias.

    Requires:
        pieces > 1
    """

    def __init__(self, site: LayerContext, *, pieces: Count = 2, bias: Flag = False):
        super().__init__()
        self.pieces = pieces
        self.up = nn.Linear(site.width, pieces * site.width, bias=bias)
        self.output = nn.Linear(site.width, site.width, bias=bias)

    def forward(self, x_BLD: torch.Tensor) -> torch.Tensor:
        y_BLD: torch.Tensor = self.output(self.up(x_BLD).unflatten(-1, (self.pieces, -1)).amax(-2))
        return y_BLD
