"""What training leaves out of the output of a sublayer before it joins the stream.

Every random number is drawn by a `torch.nn.Dropout`, which rests in evaluation; in a trial its masks are a function of the seed, the step
and its place alone (`training/masks.py`).

Shape letters: B batch, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import nn


class DropPath(nn.Module):
    """Dropout of entries, then of the whole output for a sample, which then skips the sublayer (stochastic depth).

    y <- m_b y / (1 - p),   m_b is 0 with probability p, else 1

    Source: Huang et al. 2016, arXiv:1603.09382, scaled as in timm.
    """

    def __init__(self, entries: float, samples: float):
        super().__init__()
        self.entries = nn.Dropout(entries)
        self.samples = nn.Dropout(samples)

    def forward(self, y_BLD: torch.Tensor) -> torch.Tensor:
        y_BLD = self.entries(y_BLD)
        kept_B11: torch.Tensor = self.samples(torch.ones_like(y_BLD[:, :1, :1], dtype=torch.float32))  # bfloat16 would round 1 / (1 - p)
        return y_BLD * kept_B11
