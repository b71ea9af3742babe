"""Decorrelation, a mixer without scores: x_BLD -> y_BLD.

Shape letters: B batch, L tokens, D width.
"""

from __future__ import annotations

import torch
from torch import nn

from aotsearch.grammar.words import Positive, word
from aotsearch.models.parts.context import ForwardContext, LayerContext


@word("mixer", "decorrelation")
class Decorrelation(nn.Module):
    r"""The tokens are stretched along directions in which they hold little: the gradient of the log-determinant of their covariance.

    y = 2 x (X^T X + beta I)^-1,   which is the gradient of logdet(X X^T + beta I)

    It has no parameters. In a causal model X holds the tokens seen, and a matrix (D, D) is solved for every token.

    Source: Ravuri and Lawrence 2025, arXiv:2507.21040 (the second step of the derivation, which a learned linear map stands for).

    Args:
        beta: What is added to every eigenvalue.
    """

    def __init__(self, site: LayerContext, *, beta: Positive = 1.0):
        super().__init__()
        self.beta, self.causal, self.width = beta, site.causal, site.width

    def forward(self, x_BLD: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
        given_BLD = x_BLD.double() if x_BLD.dtype == torch.float64 else x_BLD.float()
        device = x_BLD.device.type
        # no solver has less than 32 bits, and tensors without numbers, by which a model is costed, have no autocast
        with torch.autocast("cpu" if device == "meta" else device, enabled=False):
            identity_DD = self.beta * torch.eye(self.width, dtype=given_BLD.dtype, device=x_BLD.device)
            # a matrix that is singular as rounded gives what is no number, so the trial has diverged; `solve` would make it a failed one
            if self.causal:
                gram_BLDD = (given_BLD.unsqueeze(-1) * given_BLD.unsqueeze(-2)).cumsum(1)
                y_BLD: torch.Tensor = torch.linalg.solve_ex(gram_BLDD + identity_DD, given_BLD.unsqueeze(-1)).result.squeeze(-1)
            else:
                y_BLD = torch.linalg.solve_ex(given_BLD.mT @ given_BLD + identity_DD, given_BLD.mT).result.mT
        return 2 * y_BLD.to(x_BLD.dtype)

    def state(self, tokens: int) -> int:
        """X^T X, however long the sequence."""
        return self.width**2
