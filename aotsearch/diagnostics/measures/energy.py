"""Of the second paper (attention minus identity): the energy and the bound that a step descends."""

from __future__ import annotations

import math

import torch

from aotsearch.diagnostics.catalogue import diagnostic
from aotsearch.diagnostics.measures.matrices import log_determinant
from aotsearch.diagnostics.measures.seen import Map

BETA = 1.0  # of the variational objective


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
    regular_B = log_determinant(z_BLD, 1 / BETA) + N * math.log(BETA)
    return (_data(m, gram_BLL) - regular_B) / N


def _data(m: Map, gram_BLL: torch.Tensor) -> torch.Tensor:
    """tr((I - A) G), A mean over heads."""
    return gram_BLL.diagonal(dim1=-2, dim2=-1).sum(-1) - (m.a_BHLL.mean(1) * gram_BLL.mT).sum((-1, -2))
