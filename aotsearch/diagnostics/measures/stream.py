"""The shape of the residual stream."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from aotsearch.diagnostics.catalogue import diagnostic
from aotsearch.diagnostics.measures.matrices import norm, singular_values


@diagnostic("stream", cheap=True)
def hidden_rms(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""Size of the stream: root mean square of a token's entries.

    mean_i |x_i| / sqrt(D)

    Source: Kim et al. 2025, arXiv:2502.02732 (Peri-LN).
    """
    return norm(x_BLD, -1) / math.sqrt(x_BLD.shape[-1])


@diagnostic("stream", cheap=True)
def token_cosine(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""Mean cosine between two different tokens: 1 where they have collapsed (oversmoothing).

    sum_{i != j} cos(x_i, x_j) / (N (N - 1))

    Source: Nguyen et al. 2023, arXiv:2312.00751 (NeuTRENO); Wang et al. 2022, arXiv:2203.05962.
    """
    u_BLD, L = F.normalize(x_BLD, dim=-1), x_BLD.shape[1]
    return (u_BLD.sum(1).square().sum(-1) - u_BLD.square().sum((-1, -2))) / (L * (L - 1)) if L > 1 else x_BLD.sum() * math.nan


@diagnostic("stream", cost="eigenvalues of a Gram matrix per window", cheap=True)
def effective_rank(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""How many directions the tokens use: 1 where they have collapsed, at most min(N, D).

    exp(-sum_i p_i log p_i),  p_i = s_i / sum_j s_j,  s the singular values of X

    Source: Roy and Vetterli 2007; for transformers Guo et al. 2023, arXiv:2303.06562 (ContraNorm).
    """
    s_BN = singular_values(x_BLD)
    p_BN = s_BN / s_BN.sum(-1, keepdim=True)
    entropy_B: torch.Tensor = torch.special.entr(p_BN).sum(-1)
    return entropy_B.exp()


@diagnostic("stream", cost="eigenvalues of a Gram matrix per window")
def stable_rank(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""How many directions carry the energy of the tokens; never above their rank.

    |X|^2 / s_1^2,  |X| the Frobenius norm, s_1 the largest singular value

    Source: Rudelson and Vershynin 2007; for transformers Nait Saada et al. 2024, arXiv:2410.07799 (Mind the Gap).
    """
    square_BN = singular_values(x_BLD).square()
    return square_BN.sum(-1) / square_BN[..., -1]


@diagnostic("stream")
def rank_one_residual(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""What of the tokens differs from one to the next: 0 where all are the same.

    |X - 1 m^T| / |X|,  m the mean token, |.| the Frobenius norm

    Source: Dong et al. 2021, arXiv:2103.03404.
    Differs: there in the norm sqrt(|.|_1 |.|_inf), with the m that minimises it.
    """
    return norm(x_BLD - x_BLD.mean(1, keepdim=True), -2, -1) / norm(x_BLD, -2, -1)


@diagnostic("stream")
def kurtosis(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""Outlier features: 1 where all entries of the width are of one size over the tokens, D where one holds everything.

    mean_j s_j^4 / (mean_j s_j^2)^2,  s_j^2 = mean_i x_ij^2

    Source: He et al. 2024, arXiv:2405.19279.
    """
    square_BD = x_BLD.square().mean(1)
    return square_BD.square().mean(-1) / square_BD.mean(-1).square()
