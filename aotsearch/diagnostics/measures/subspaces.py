"""Of the first paper (attention as denoising): signal and noise, coding rates and the subspaces of the heads."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from aotsearch.diagnostics.catalogue import diagnostic
from aotsearch.diagnostics.measures.matrices import log_determinant, norm
from aotsearch.diagnostics.measures.seen import Call, Subspaces

DISTORTION = 0.01  # epsilon^2 of the coding rates: CRATE's code, where tokens have unit norm
SPARSITY = 0.1  # lambda of the sparse rate reduction: CRATE's code


@diagnostic("subspaces", better="more")
def snr(s: Subspaces) -> torch.Tensor:
    r"""Signal-to-noise ratio of the tokens the layer reads, each against the subspace it lies in most; mean over the subspaces in use.

    |U_h U_h^T Z_h| / |(I - U_h U_h^T) Z_h|,  Z_h the tokens whose largest projection |U_h^T z| is on U_h

    Source: Wang et al. 2025, arXiv:2506.03790 (eq. 6).
    Differs: there no norm stands before the layer, and the clusters Z_h and the U_h are known; here a token belongs to the head with
        its largest projection, and U_h is an orthonormal basis of the head's learned projection, which need not be orthogonal to those
        of other heads. With the model's own U_h and tokens of which signal outweighs noise it is eq. 6. A head as wide as the stream
        has no noise, and no ratio.
    """
    return _snr(s.before_BLD, s).nanmean(-1)


@diagnostic("subspaces", better="more")
def snr_gain(s: Subspaces) -> torch.Tensor:
    r"""By what factor the layer multiplies the signal-to-noise ratio: above 1 it denoises. Tokens keep the cluster they had before it.

    SNR(Z after) / SNR(Z),  mean over the subspaces in use

    Source: Wang et al. 2025, arXiv:2506.03790 (Theorem 3.1: 1 + eta tau at every layer).
    """
    return (_snr(s.after_BLD, s) / _snr(s.before_BLD, s)).nanmean(-1)


def _snr(z_BLD: torch.Tensor, s: Subspaces) -> torch.Tensor:
    """SNR of z per subspace, (B, H), in the clusters of the tokens before; nan where a cluster is empty or has no noise by definition."""
    belongs_BLH = F.one_hot(_energies(s.before_BLD, s.basis_HDP)[0].argmax(-1), len(s.basis_HDP))
    signal_BLH, noise_BLH = _energies(z_BLD, s.basis_HDP)
    whole = s.basis_HDP.shape[1] == s.basis_HDP.shape[2]
    ratio_BH = ((signal_BLH * belongs_BLH).sum(1) / (noise_BLH * belongs_BLH).sum(1)).sqrt()
    return ratio_BH * math.nan if whole else ratio_BH


def _energies(z_BLD: torch.Tensor, basis_HDP: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """|U_h^T z|^2 and |z - U_h U_h^T z|^2, (B, L, H); the second is not a difference of squares, which would cancel."""
    inside_BLHP = torch.einsum("bld,hdp->blhp", z_BLD, basis_HDP)
    outside = [(z_BLD - c_BLP @ u_DP.T).square().sum(-1) for c_BLP, u_DP in zip(inside_BLHP.unbind(2), basis_HDP, strict=True)]
    return inside_BLHP.square().sum(-1), torch.stack(outside, dim=-1)


@diagnostic("sublayer", unit="nats", cost="a log-determinant per window")
def coding_rate(c: Call) -> torch.Tensor:
    r"""Coding rate R of the tokens the sublayer reads: how much room they take.

    R(Z) = 1/2 logdet(I + D / (N e^2) Z^T Z),  tokens of unit norm, e^2 = 0.01

    Source: Yu et al. 2023, arXiv:2306.01129; e^2 from its code.
    """
    return _rate(F.normalize(c.given_BLD, dim=-1))


@diagnostic("subspaces", unit="nats", cost="a log-determinant per window and head", better="less")
def compressed_rate(s: Subspaces) -> torch.Tensor:
    r"""Coding rate R^c of the tokens the layer reads, in its subspaces: what compression lowers.

    R^c(Z | U) = sum_h 1/2 logdet(I + P / (N e^2) (U_h^T Z^T)(U_h^T Z^T)^T),  tokens of unit norm, e^2 = 0.01

    Source: Yu et al. 2023, arXiv:2306.01129; e^2 from its code.
    Differs: the code gives unit norm to U_h^T z in each head, here to z, so that R - R^c compares like with like.
    """
    return _compressed(s.before_BLD, s)


@diagnostic("subspaces", unit="nats", cost="two log-determinants per window and head", better="less")
def compression(s: Subspaces) -> torch.Tensor:
    r"""By how much the layer changes the coding rate in its own subspaces: below 0 it compresses, above 0 it does the opposite.

    R^c(Z after | U) - R^c(Z | U)

    Source: Hu et al. 2024 (NeurIPS), who find it above 0 for MSSA with a residual connection.
    """
    return _compressed(s.after_BLD, s) - _compressed(s.before_BLD, s)


@diagnostic("subspaces", unit="nats", cost="a log-determinant per window and head", better="more")
def rate_reduction(s: Subspaces) -> torch.Tensor:
    r"""How much less room the tokens take when coded in the layer's subspaces.

    R(Z) - R^c(Z | U)

    Source: Yu et al. 2020, arXiv:2006.08558; Yu et al. 2023, arXiv:2306.01129.
    """
    return _rate(F.normalize(s.before_BLD, dim=-1)) - _compressed(s.before_BLD, s)


@diagnostic("subspaces", unit="nats", cost="a log-determinant per window and head", better="more")
def sparse_rate_reduction(s: Subspaces) -> torch.Tensor:
    r"""The objective that CRATE unrolls: rate reduction less the number of entries that are not 0.

    R(Z) - R^c(Z | U) - lambda |Z|_0,  lambda = 0.1

    Source: Yu et al. 2023, arXiv:2306.01129 (eq. 1); lambda from its code.
    """
    return rate_reduction(s) - SPARSITY * (s.before_BLD != 0).sum((-1, -2))


def _compressed(z_BLD: torch.Tensor, s: Subspaces) -> torch.Tensor:
    return _rate(torch.einsum("bld,hdp->bhlp", F.normalize(z_BLD, dim=-1), s.basis_HDP)).sum(1)


def _rate(z_ND: torch.Tensor) -> torch.Tensor:
    """1/2 logdet(I + D / (N e^2) Z^T Z)."""
    N, D = z_ND.shape[-2:]
    return 0.5 * log_determinant(z_ND, D / (N * DISTORTION))


@diagnostic("stream")
def density(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""Share of the entries of the stream that are not 0: CRATE's sparsity of representations.

    |X|_0 / (N D)

    Source: Yu et al. 2023, arXiv:2306.01129.
    """
    return (x_BLD != 0).double().mean((-1, -2))


@diagnostic("subspaces", better="less")
def orthogonality(s: Subspaces) -> torch.Tensor:
    r"""How far the projection of a head is from orthonormal, up to its scale; 0 for the subspaces of the theory, mean over heads.

    |W_h^T W_h P / |W_h|^2 - I| / sqrt(P),  W_h (D, P) the projection

    Source: the assumption U^T U = I of Wang et al. 2025, arXiv:2506.03790.
    """
    gram_HPP = s.weight_HPD @ s.weight_HPD.mT
    P = gram_HPP.shape[-1]
    scale_H11 = gram_HPP.diagonal(dim1=-2, dim2=-1).mean(-1).view(-1, 1, 1)
    return norm(gram_HPP / scale_H11 - torch.eye(P, dtype=gram_HPP.dtype, device=gram_HPP.device), -2, -1) / math.sqrt(P)


@diagnostic("subspaces", better="less")
def overlap(s: Subspaces) -> torch.Tensor:
    r"""How much the subspaces of two heads share: mean squared cosine of the angles between them, from 0 (orthogonal) to 1 (equal).

    |U_g^T U_h|^2 / P,  mean over pairs g != h

    Source: the assumption U_g^T U_h = 0 of Wang et al. 2025, arXiv:2506.03790. Two random subspaces have P / D.
    """
    H, _, P = s.basis_HDP.shape
    shared_HH = torch.einsum("gdp,hdq->ghpq", s.basis_HDP, s.basis_HDP).square().sum((-1, -2)) / P
    return (shared_HH.sum() - shared_HH.trace()) / (H * (H - 1)) if H > 1 else shared_HH.sum() * math.nan
