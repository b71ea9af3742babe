"""Denoising of tokens from a mixture of noisy low-rank Gaussians.

Shape letters: B sets, L tokens, D = K P width, K subspaces, P their dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aotsearch.grammar.words import Count, Positive, word
from aotsearch.tasks import cache

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[np.float32]]

VALIDATION, TEST = 1 << 40, 1 << 41  # what sets the splits of a seed apart from its training steps
RULE = 1  # raise it when the same options give other tokens


@word("task", "denoise")
class Denoise:
    """Bring noisy tokens back to the subspaces they came from.

    z_i = U_k a_i + sum_{j != k} U_j e_ij;  a_i ~ N(0, I_P), e_ij ~ N(0, noise^2 I_P), token i belongs to subspace k
    loss = mean over tokens of |f(z)_i - U_k a_i|^2 / P
    log_noise = log(|(I - P_k) f(z)_C| / |P_k f(z)_C|), C the tokens of subspace k, mean over subspaces and sets

    The subspaces U_1 .. U_K are orthogonal, and known: each is a block of P coordinates. (Any other choice is a rotation of this one, to
    which attention with the matching projections is blind.) Every subspace has as many tokens. exp(-log_noise) is the signal-to-noise
    ratio of Wang et al.'s equation 6, so each unit of log_noise is a factor e of it; for the tokens as given it is log(noise sqrt(K - 1)).
    Sets are drawn from the seed: validation and test differ between seeds, so that an untrained model varies over them too.

    Source: Wang et al. 2025, arXiv:2506.03790 (Definition 2.1, equation 6).

    Args:
        subspaces: Number K of subspaces.
        dimension: Dimension P of each.
        noise: Standard deviation of the noise in the other subspaces, delta in the source.
        tokens: Tokens L of a set; a multiple of subspaces.
        sets: Sets of the validation and of the test split each.
    """

    measure = "log_noise"
    unit = "log noise/signal"
    loss_unit = "squared error"
    chunk = 1

    def __init__(
        self,
        folder: Path,
        *,
        subspaces: Count = 2,
        dimension: Count = 64,
        noise: Positive = 0.02,
        tokens: Count = 1000,
        sets: Count = 1,
    ):
        if subspaces < 2:
            raise ValueError(f"subspaces is at least 2, since the noise of one lies in the others, not {subspaces}")
        if tokens % subspaces:
            raise ValueError(f"tokens is a multiple of subspaces, so that each has as many: {tokens} is not one of {subspaces}")
        self.subspaces, self.dimension, self.noise, self.tokens, self.sets = subspaces, dimension, noise, tokens, sets
        width = subspaces * dimension
        self.sizes = {"inputs": width, "outputs": width, "context": tokens, "subspaces": subspaces}

    def to_plain(self) -> dict[str, Any]:
        names = ("subspaces", "dimension", "noise", "tokens", "sets")
        return {"denoise": {name: getattr(self, name) for name in names}}

    def prepare(self) -> dict[str, Any]:
        """The facts about the tokens; the baseline leaves them as they are."""
        inputs, _ = self.validation()
        before = np.mean([np.log(ratio) for tokens in inputs for ratio in self._noise_over_signal(tokens)])
        return {
            "manifest": cache.digest(self.to_plain(), RULE),
            "baselines": {"tokens as given": float(before)},
            "bounds": ["tokens as given"],  # an untrained model is not expected to beat them
            "unit": self.unit,
        }

    def batch(self, seed: int, step: int, size: int) -> tuple[Array, Array]:
        """Noisy tokens and their signals, (B, L, D) each: a function of these three, whatever the architecture."""
        return self._draw([seed, step], size)

    def validation(self, seed: int = 0) -> tuple[Array, Array]:
        """The sets (N, L, D) of the validation split of a seed, and their signals."""
        return self._draw([seed, VALIDATION], self.sets)

    def test(self, seed: int = 0) -> tuple[Array, Array]:
        """The sets of the test split of a seed, and their signals."""
        return self._draw([seed, TEST], self.sets)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Squared error of the signal, per token and signal dimension."""
        return (outputs.float() - targets).square().sum(-1).mean() / self.dimension

    def totals(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, tuple[torch.Tensor, int]]:
        """The squared error, and the log of noise over signal of every subspace of every set."""
        import torch

        made = outputs.detach().double()
        error = (outputs.float() - targets).square().sum() / self.dimension
        logs = [np.log(ratio) for tokens in made.cpu().numpy() for ratio in self._noise_over_signal(tokens)]
        return {"loss": (error, outputs.shape[0] * outputs.shape[1]), "log_noise": (torch.tensor(float(np.sum(logs))), len(logs))}

    def measures(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is recorded of an evaluation; `snr` is the signal-to-noise ratio itself."""
        return {**means, "snr": float(np.exp(-means["log_noise"]))}

    def _noise_over_signal(self, tokens_LD: np.ndarray[Any, Any]) -> list[float]:
        """|(I - P_k) Z_C| / |P_k Z_C| for every subspace k and its tokens C; the first tokens belong to the first subspace."""
        each, found = self.tokens // self.subspaces, []
        for k in range(self.subspaces):
            own = tokens_LD[k * each : (k + 1) * each].astype(np.float64)
            signal = own[:, k * self.dimension : (k + 1) * self.dimension]
            whole, part = float((own**2).sum()), float((signal**2).sum())
            found.append(np.sqrt(max(whole - part, 1e-300) / max(part, 1e-300)))
        return found

    def _draw(self, entropy: list[int], size: int) -> tuple[Array, Array]:
        rng = np.random.default_rng(entropy)
        each, P = self.tokens // self.subspaces, self.dimension
        noisy = self.noise * rng.standard_normal((size, self.tokens, self.subspaces * P), dtype=np.float32)
        signal = np.zeros_like(noisy)
        for k in range(self.subspaces):
            rows, columns = slice(k * each, (k + 1) * each), slice(k * P, (k + 1) * P)
            signal[:, rows, columns] = rng.standard_normal((size, each, P), dtype=np.float32)
            noisy[:, rows, columns] = signal[:, rows, columns]
        return noisy, signal
