"""What training would change."""

from __future__ import annotations

import torch

from aotsearch.diagnostics.catalogue import diagnostic
from aotsearch.diagnostics.measures.matrices import norm


@diagnostic("gradient", cost="one backward pass")
def gradient_norm(gradients: list[torch.Tensor | None]) -> torch.Tensor:
    r"""Norm of the gradient of a sublayer's parameters; where weights are tied, of the sum over all places.

    sqrt(sum_t |dL / dt|^2),  t the parameters of norm, operation and join

    Source: Noci et al. 2022, arXiv:2206.03126; Kim et al. 2025, arXiv:2502.02732.
    """
    norms = [torch.linalg.vector_norm(g) for g in gradients if g is not None]
    return norm(torch.stack(norms or [torch.zeros(())]), 0)
