"""What an attention map does."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from aotsearch.diagnostics.catalogue import diagnostic
from aotsearch.diagnostics.measures.seen import Map


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
