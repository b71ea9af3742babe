"""Norms and spectra of matrices, window by window."""

from __future__ import annotations

import torch


def log_determinant(z_ND: torch.Tensor, scale: float) -> torch.Tensor:
    """logdet(I + scale Z^T Z), by the smaller of the two Gram matrices, in double precision."""
    gram_KK = scale * gram(z_ND)
    factor: torch.Tensor = torch.linalg.cholesky(gram_KK + torch.eye(gram_KK.shape[-1], dtype=gram_KK.dtype, device=gram_KK.device))
    return 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def gram(z_ND: torch.Tensor) -> torch.Tensor:
    """Z Z^T or Z^T Z, whichever is smaller; their eigenvalues other than 0 are the same."""
    z_ND = z_ND.double()
    return z_ND @ z_ND.mT if z_ND.shape[-2] < z_ND.shape[-1] else z_ND.mT @ z_ND


def singular_values(x_BLD: torch.Tensor) -> torch.Tensor:
    """Ascending, of each window."""
    square_BN: torch.Tensor = torch.linalg.eigvalsh(gram(x_BLD))
    return square_BN.clamp_min(0).sqrt()


def norm(x: torch.Tensor, *over: int) -> torch.Tensor:
    """Root of the sum of squares over some dimensions."""
    size: torch.Tensor = torch.linalg.vector_norm(x, dim=over)
    return size
