"""The diagnostics themselves: functions of tensors and of what `probe` saw of a sublayer. The page of them is docs/diagnostics.md.

A function gives one number per window, or more (per head, per token), whose mean is meant; None or what is not finite where there is none.
The docstring of each is read as text: a sentence, the formula, `Source:` and `Differs:`.

Shape letters: B windows, L = N tokens, M keys, D width, H heads, P width of one head.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from aotsearch.diagnostics.catalogue import diagnostic
from aotsearch.models.model import Step
from aotsearch.models.parts.attention import Attention, value_of
from aotsearch.models.parts.join import Add, Convex, LayerScale
from aotsearch.models.parts.join import Step as Stride
from aotsearch.models.parts.norm import DynamicTanh
from aotsearch.models.parts.site import Flow

DISTORTION = 0.01  # epsilon^2 of the coding rates: CRATE's code, where tokens have unit norm
SPARSITY = 0.1  # lambda of the sparse rate reduction: CRATE's code
BETA = 1.0  # of the variational objective
SATURATED = 0.9


@dataclass(frozen=True)
class Call:
    """One sublayer at work: all tensors are (B, L, D).

    Attributes:
        step: The sublayer.
        flow: What the forward pass carries.
        x_BLD: The stream before it.
        read_BLD: The stream that it read: x, or what the sublayer before it read, where they are parallel.
        given_BLD: What its operation was given: the tokens as the sublayer reads them, Z.
        joined_BLD: The stream after the join.
        left_BLD: The stream it left: after the join and, where the norm is placed after, the norm.
    """

    step: Step
    flow: Flow
    x_BLD: torch.Tensor
    read_BLD: torch.Tensor
    given_BLD: torch.Tensor
    joined_BLD: torch.Tensor
    left_BLD: torch.Tensor

    @functools.cached_property
    def after_BLD(self) -> torch.Tensor:
        """The stream it left, as it would read it."""
        after_BLD: torch.Tensor = self.left_BLD if self.step.place == "post" else self.step.norm(self.left_BLD)
        return after_BLD


@dataclass(frozen=True)
class Subspaces:
    """The projection of a mixer's heads, and the tokens before and after it as it reads them."""

    weight_HPD: torch.Tensor
    before_BLD: torch.Tensor
    after_BLD: torch.Tensor

    @functools.cached_property
    def basis_HDP(self) -> torch.Tensor:
        """U_h: orthonormal, with the span of head h."""
        basis_HDP: torch.Tensor = torch.linalg.qr(self.weight_HPD.mT)[0]
        return basis_HDP


@dataclass(frozen=True)
class Map:
    """The attention map of a mixer, and the tokens before and after it as it reads them.

    Attributes:
        a_BHLM: The map; memory, where there is any, in its first columns.
        seen_L: How many keys each query sees.
        value_BHMP: V, those of the memory first.
    """

    a_BHLM: torch.Tensor
    seen_L: torch.Tensor
    value_BHMP: torch.Tensor
    before_BLD: torch.Tensor
    after_BLD: torch.Tensor

    @property
    def a_BHLL(self) -> torch.Tensor:
        """The map without memory."""
        return self.a_BHLM[..., -self.a_BHLM.shape[-2] :]


# The first paper: subspaces, signal and noise, coding rates.


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
    return 0.5 * _log_determinant(z_ND, D / (N * DISTORTION))


def _log_determinant(z_ND: torch.Tensor, scale: float) -> torch.Tensor:
    """logdet(I + scale Z^T Z), by the smaller of the two Gram matrices, in double precision."""
    gram = scale * _gram(z_ND)
    factor: torch.Tensor = torch.linalg.cholesky(gram + torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device))
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _gram(z_ND: torch.Tensor) -> torch.Tensor:
    """Z Z^T or Z^T Z, whichever is smaller; their eigenvalues other than 0 are the same."""
    z_ND = z_ND.double()
    return z_ND @ z_ND.mT if z_ND.shape[-2] < z_ND.shape[-1] else z_ND.mT @ z_ND


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
    return _norm(gram_HPP / scale_H11 - torch.eye(P, dtype=gram_HPP.dtype, device=gram_HPP.device), -2, -1) / math.sqrt(P)


@diagnostic("subspaces", better="less")
def overlap(s: Subspaces) -> torch.Tensor:
    r"""How much the subspaces of two heads share: mean squared cosine of the angles between them, from 0 (orthogonal) to 1 (equal).

    |U_g^T U_h|^2 / P,  mean over pairs g != h

    Source: the assumption U_g^T U_h = 0 of Wang et al. 2025, arXiv:2506.03790. Two random subspaces have P / D.
    """
    H, _, P = s.basis_HDP.shape
    shared_HH = torch.einsum("gdp,hdq->ghpq", s.basis_HDP, s.basis_HDP).square().sum((-1, -2)) / P
    return (shared_HH.sum() - shared_HH.trace()) / (H * (H - 1)) if H > 1 else shared_HH.sum() * math.nan


# The second paper: the energy and the bound that attention minus identity descends.


@diagnostic("map", cost="the attention map", better="less")
def dirichlet_energy(m: Map) -> torch.Tensor:
    r"""How much tokens that attend to each other differ, per token; mean over heads.

    tr(Z^T (I - A) Z) / N,  which is sum_ij A_ij |z_i - z_j|^2 / (2 N) where all tokens have one norm and the rows of A sum to 1

    Source: Ravuri and Lawrence 2025, arXiv:2507.21040 (L_data).
    """
    gram_BLL = m.before_BLD @ m.before_BLD.mT
    return _data(m, gram_BLL) / len(m.seen_L)


@diagnostic("map", unit="nats", cost="the attention map, a log-determinant per window", better="less")
def variational_objective(m: Map) -> torch.Tensor:
    r"""The bound of the probabilistic Laplacian eigenmaps at the tokens the layer reads, per token; A mean over heads.

    (L_data - L_reg) / N,  L_data = tr((I - A)(Z Z^T + b I)),  L_reg = logdet(Z Z^T + b I),  b = 1

    Source: Ravuri and Lawrence 2025, arXiv:2507.21040.
    Differs: derived for one head whose map is a softmax; here it is evaluated for whatever the layer's map is.
    """
    return _objective(m, m.before_BLD)


@diagnostic("map", unit="nats", cost="the attention map, two log-determinants per window", better="less")
def objective_change(m: Map) -> torch.Tensor:
    r"""By how much the layer changes that bound with its map held: below 0 it descends, as the unrolled step should.

    ((L_data - L_reg)(Z after) - (L_data - L_reg)(Z)) / N,  one A

    Source: Ravuri and Lawrence 2025, arXiv:2507.21040 (the map is under stop-gradient).
    """
    return _objective(m, m.after_BLD) - _objective(m, m.before_BLD)


def _objective(m: Map, z_BLD: torch.Tensor) -> torch.Tensor:
    N = len(m.seen_L)
    gram_BLL = z_BLD @ z_BLD.mT + BETA * torch.eye(N, dtype=z_BLD.dtype, device=z_BLD.device)
    regular_B = _log_determinant(z_BLD, 1 / BETA) + N * math.log(BETA)
    return (_data(m, gram_BLL) - regular_B) / N


def _data(m: Map, gram_BLL: torch.Tensor) -> torch.Tensor:
    """tr((I - A) G), A mean over heads."""
    return gram_BLL.diagonal(dim1=-2, dim2=-1).sum(-1) - (m.a_BHLL.mean(1) * gram_BLL.mT).sum((-1, -2))


# The shape of the stream.


@diagnostic("stream", cheap=True)
def hidden_rms(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""Size of the stream: root mean square of a token's entries.

    mean_i |x_i| / sqrt(D)

    Source: Kim et al. 2025, arXiv:2502.02732 (Peri-LN).
    """
    return _norm(x_BLD, -1) / math.sqrt(x_BLD.shape[-1])


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
    s_BN = _singular_values(x_BLD)
    p_BN = s_BN / s_BN.sum(-1, keepdim=True)
    entropy_B: torch.Tensor = torch.special.entr(p_BN).sum(-1)
    return entropy_B.exp()


@diagnostic("stream", cost="eigenvalues of a Gram matrix per window")
def stable_rank(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""How many directions carry the energy of the tokens; never above their rank.

    |X|^2 / s_1^2,  |X| the Frobenius norm, s_1 the largest singular value

    Source: Rudelson and Vershynin 2007; for transformers Nait Saada et al. 2024, arXiv:2410.07799 (Mind the Gap).
    """
    square_BN = _singular_values(x_BLD).square()
    return square_BN.sum(-1) / square_BN[..., -1]


def _singular_values(x_BLD: torch.Tensor) -> torch.Tensor:
    """Ascending, of each window."""
    square_BN: torch.Tensor = torch.linalg.eigvalsh(_gram(x_BLD))
    return square_BN.clamp_min(0).sqrt()


@diagnostic("stream")
def rank_one_residual(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""What of the tokens differs from one to the next: 0 where all are the same.

    |X - 1 m^T| / |X|,  m the mean token, |.| the Frobenius norm

    Source: Dong et al. 2021, arXiv:2103.03404.
    Differs: there in the norm sqrt(|.|_1 |.|_inf), with the m that minimises it.
    """
    return _norm(x_BLD - x_BLD.mean(1, keepdim=True), -2, -1) / _norm(x_BLD, -2, -1)


@diagnostic("stream")
def kurtosis(x_BLD: torch.Tensor) -> torch.Tensor:
    r"""Outlier features: 1 where all entries of the width are of one size over the tokens, D where one holds everything.

    mean_j s_j^4 / (mean_j s_j^2)^2,  s_j^2 = mean_i x_ij^2

    Source: He et al. 2024, arXiv:2405.19279.
    """
    square_BD = x_BLD.square().mean(1)
    return square_BD.square().mean(-1) / square_BD.mean(-1).square()


# What a sublayer does to the stream.


@diagnostic("sublayer", cheap=True)
def contribution(c: Call) -> torch.Tensor:
    r"""How much a sublayer changes the stream, against its size.

    mean_i |join(x_i, f_i) - x_i| / |x_i|,  which is |F| / |x| for x + F

    Source: He et al. 2024, arXiv:2406.15786 (what matters in transformers); Gromov et al. 2024, arXiv:2403.17887.
    """
    return _norm(c.joined_BLD - c.x_BLD, -1) / _norm(c.x_BLD, -1).clamp_min(1e-12)


@diagnostic("sublayer")
def block_influence(c: Call) -> torch.Tensor:
    r"""How much a sublayer turns the stream: 0 where it only changes its length.

    1 - cos(x, x + F),  mean over tokens

    Source: Men et al. 2024, arXiv:2403.03853 (ShortGPT).
    """
    return 1 - F.cosine_similarity(c.x_BLD, c.left_BLD, dim=-1)


@diagnostic("sublayer")
def saturation(c: Call) -> torch.Tensor | None:
    r"""Share of the entries that a dyt norm squashes into its flat ends.

    mean of 1{|tanh(a x)| > 0.9}

    Source: Zhu et al. 2025, arXiv:2503.10622 (the shape of DyT); the threshold is ours.
    """
    if not isinstance(c.step.norm, DynamicTanh):
        return None
    x_BLD = c.joined_BLD if c.step.place == "post" else c.read_BLD
    return (torch.tanh(c.step.norm.alpha * x_BLD).abs() > SATURATED).double().mean((-1, -2))


@diagnostic("sublayer")
def step_size(c: Call) -> torch.Tensor | float | None:
    r"""The factor with which a join takes the output of its operation, mean over the width where it has one for each entry.

    eta in x + eta y; g in x + g * y; a in x + a * (y - x); 1 in x + y

    Source: the joins' own.
    """
    match c.step.join:
        case Stride(size=size):
            return size
        case LayerScale(gain=gain):
            return gain.mean()
        case Convex(share=share):
            return share.mean()
        case Add():
            return 1.0
    return None


@diagnostic("sublayer", terms=("map", "identity", "uniform", "square", "second", "first", "exclusive"))
def coefficient(c: Call, term: str) -> torch.Tensor | float | None:
    r"""The coefficient of this term of the mixing matrix as it was learned or fixed, mean over heads (`probe.coefficients` has each).

    b, a, c, d, l, e or g in b A + a I + c C + d A^2 - l A_2 and the two terms of other values

    Source: the word attention's own.
    """
    return value_of(getattr(c.step.operation, term)) if isinstance(c.step.operation, Attention) else None


# What an attention map does.


@diagnostic("map", unit="nats", cost="the attention map")
def attention_entropy(m: Map) -> torch.Tensor:
    r"""How widely a token attends; mean over heads and tokens.

    -sum_j p_ij log p_ij,  p_ij = A_ij / sum_k A_ik

    Source: Zhai et al. 2023, arXiv:2303.06296.
    Differs: rows that do not sum to 1 (sink, sigmoid, relu, threshold) are divided by their sum; a row of zeros has entropy 0.
    """
    return _entropy(m)


@diagnostic("map", cost="the attention map")
def attention_evenness(m: Map) -> torch.Tensor:
    r"""Entropy against the most it could be: 1 where a token attends to all it sees alike, 0 where to one.

    entropy_i / log n_i,  n_i the keys that token i sees; tokens that see one key are left out

    Source: attention entropy, normalised.
    """
    many_L = m.seen_L > 1
    return _entropy(m)[..., many_L] / m.seen_L[many_L].to(m.a_BHLM.dtype).log()


def _entropy(m: Map) -> torch.Tensor:
    entropy_BHL: torch.Tensor = torch.special.entr(m.a_BHLM / m.a_BHLM.sum(-1, keepdim=True).clamp_min(1e-30)).sum(-1)
    return entropy_BHL


@diagnostic("map", cost="the attention map")
def diagonal_mass(m: Map) -> torch.Tensor:
    r"""How much a token attends to itself; mean over heads and tokens.

    mean_i A_ii

    Source: Wang et al. 2025, arXiv:2506.03790 (in the regime of whose theorem nothing else is left).
    """
    return m.a_BHLL.diagonal(dim1=-2, dim2=-1)


@diagnostic("map", cost="the attention map")
def first_mass(m: Map) -> torch.Tensor:
    r"""How much tokens attend to the first one, which is where a head that has nothing to do often looks (attention sink).

    mean_i A_i0,  over all i but 0

    Source: Xiao et al. 2023, arXiv:2309.17453.
    """
    return m.a_BHLL[..., 1:, 0]


@diagnostic("map", cost="the attention map")
def value_cosine(m: Map) -> torch.Tensor:
    r"""How much the output of a head looks like the token's own value: near 1, attention adds little but itself.

    cos(y_i, v_i),  y = A V,  mean over heads and tokens

    Source: Zhai 2026, arXiv:2603.09078 (exclusive self-attention).
    """
    return F.cosine_similarity(m.a_BHLM @ m.value_BHMP, m.value_BHMP[..., -len(m.seen_L) :, :], dim=-1)


@diagnostic("map", cost="the attention map, its singular values")
def singular_gap(m: Map) -> torch.Tensor:
    r"""Gap between the two largest singular values of the map: wide where it mostly averages; mean over heads.

    s_1(A) - s_2(A)

    Source: Nait Saada et al. 2024, arXiv:2410.07799 (Mind the Gap).
    """
    s_BHL: torch.Tensor = torch.linalg.svdvals(m.a_BHLL)
    return s_BHL[..., 0] - s_BHL[..., 1] if s_BHL.shape[-1] > 1 else s_BHL[..., 0] * math.nan


@diagnostic("gradient", cost="one backward pass")
def gradient_norm(gradients: list[torch.Tensor | None]) -> torch.Tensor:
    r"""Norm of the gradient of a sublayer's parameters; where weights are tied, of the sum over all places.

    sqrt(sum_t |dL / dt|^2),  t the parameters of norm, operation and join

    Source: Noci et al. 2022, arXiv:2206.03126; Kim et al. 2025, arXiv:2502.02732.
    """
    norms = [torch.linalg.vector_norm(g) for g in gradients if g is not None]
    return _norm(torch.stack(norms or [torch.zeros(())]), 0)


def _norm(x: torch.Tensor, *over: int) -> torch.Tensor:
    """Root of the sum of squares over some dimensions."""
    norm: torch.Tensor = torch.linalg.vector_norm(x, dim=over)
    return norm
