"""Linear regression in context. Shape letters: B prompts, P points of a prompt, D inputs, L = 2 P tokens."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aotsearch.grammar.words import Count, Number, word
from aotsearch.tasks import cache

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[np.float32]]

PROMPTS = 1280  # of the validation and of the test split each, as in the attention-only transformer's evaluation
SPLITS = {"validation": [0, 0, 1], "test": [0, 0, 2]}  # entropy of the fixed splits; a training step has [seed, step]
START_INPUTS, START_POINTS = 5, 11  # where a curriculum begins
MORE_INPUTS, MORE_POINTS = 1, 2  # what a stage of it adds
CHUNK = 16384  # tokens of one forward pass of an evaluation
TINY = 1e-8  # ridge that stands for none: least squares of minimal norm
MEMORY = 1 << 23  # numbers that the baseline holds at a time
RULE = 1  # raise it when the same options give other prompts


@word("task", "regression")
class Regression:
    """Learn a linear function from examples within one prompt.

    y_i = w . x_i + noise e_i;  x, w ~ N(0, I_D), e ~ N(0, 1);  tokens x_1, y_1, x_2, y_2, ..., y_i zero-padded to D values;
    loss = mean over prompts and i of (f(x_1, y_1, ..., x_i) - y_i)^2,   squared_error = loss / E[(w . x)^2]

    Every prompt has a function of its own, so it can only be learnt in context. E[(w . x)^2] is D, or `sparse` where that many
    coordinates of w are not zero: 1.0 is what predicting zero scores. Prompts are drawn from the seed and the step; validation and test
    are 1280 fixed prompts each. `last_squared_error`, recorded beside it, is that of the last point alone, which sees all others.

    Args:
        inputs: Dimension D of x.
        points: Points (x, y) of a prompt.
        sparse: How many coordinates of w are not zero; `none` is all of them.
        noise: Standard deviation of the noise on y.
        curriculum: Steps per stage of a curriculum that starts with 5 inputs and 11 points and adds 1 and 2 per stage; `none` is no
            curriculum. Garg et al. use 2000.

    Source: Garg et al. 2022, arXiv:2208.01066; as in Wang et al. 2025 (attention-only transformer), arXiv:2506.03790.
    """

    measure = "squared_error"
    unit = "error/variance"
    loss_unit = "squared error"

    def __init__(
        self,
        folder: Path,
        *,
        inputs: Count = 20,
        points: Count = 41,
        sparse: Count | Literal["none"] = "none",
        noise: Number = 0.0,
        curriculum: Count | Literal["none"] = "none",
    ):
        if isinstance(sparse, int) and sparse > inputs:
            raise ValueError(f"sparse is at most inputs, the number of coordinates there are: {inputs}, not {sparse}")
        if noise < 0:
            raise ValueError(f"noise is a standard deviation of at least 0, not {noise:g}")
        self.inputs, self.points, self.sparse, self.noise, self.curriculum = inputs, points, sparse, noise, curriculum
        self.sizes = {"inputs": inputs, "outputs": 1, "context": 2 * points}
        self.chunk = max(1, CHUNK // (2 * points))

    @property
    def variance(self) -> int:
        """Of w . x: what predicting zero loses."""
        return self.sparse if isinstance(self.sparse, int) else self.inputs

    def to_plain(self) -> dict[str, Any]:
        names = ("inputs", "points", "sparse", "noise", "curriculum")
        return {"regression": {name: getattr(self, name) for name in names}}

    def prepare(self) -> dict[str, Any]:
        """The facts about the prompts. Least squares (with noise: ridge) is what no model beats, unless w is sparse."""
        best = "ridge" if self.noise else "least squares"
        inputs, targets = self.validation()
        ridge = self.noise**2 * self.inputs / self.variance  # the noise over the variance of a coordinate of w
        known: dict[str, np.ndarray[Any, Any]] = {"zero": np.zeros_like(targets), best: solve(inputs, ridge)}
        return {
            "manifest": cache.digest(self.to_plain(), RULE),
            "prompts": dict.fromkeys(SPLITS, PROMPTS),
            "baselines": {name: float(self.curve(made, targets).mean()) for name, made in known.items()},
            "bounds": [best] if self.sparse == "none" else [],
            "unit": self.unit,
        }

    def curve(self, predictions: np.ndarray[Any, Any], targets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """The squared error of each point (P,), over the variance: against the number of examples before it, 0 to P - 1."""
        errors: np.ndarray[Any, Any] = ((predictions - targets) ** 2).mean(0) / self.variance
        return errors

    def batch(self, seed: int, step: int, size: int) -> tuple[Array, Array]:
        """Prompts (B, L, D) and targets (B, P) of one training step: a function of these three, whatever the architecture."""
        inputs, points = self.inputs, self.points
        if isinstance(self.curriculum, int):
            stage = step // self.curriculum
            inputs, points = min(inputs, START_INPUTS + MORE_INPUTS * stage), min(points, START_POINTS + MORE_POINTS * stage)
        return self._draw([seed, step], size, inputs, points)

    def validation(self, seed: int = 0) -> tuple[Array, Array]:
        """Prompts (N, L, D) and targets (N, P) of the validation split."""
        return self._validation

    def test(self, seed: int = 0) -> tuple[Array, Array]:
        """Prompts (N, L, D) and targets (N, P) of the test split."""
        return self._draw(SPLITS["test"], PROMPTS, self.inputs, self.points)

    @functools.cached_property
    def _validation(self) -> tuple[Array, Array]:
        return self._draw(SPLITS["validation"], PROMPTS, self.inputs, self.points)

    def _draw(self, entropy: list[int], size: int, inputs: int, points: int) -> tuple[Array, Array]:
        """Prompts whose functions depend on the first `inputs` coordinates; the others are zero."""
        rng = np.random.default_rng(entropy)
        x_BPD = np.zeros((size, points, self.inputs), np.float32)
        x_BPD[..., :inputs] = rng.standard_normal((size, points, inputs), np.float32)
        w_BD = rng.standard_normal((size, inputs), np.float32)
        if isinstance(self.sparse, int):
            w_BD *= rng.random((size, inputs)).argsort(1) < self.sparse  # a random set of coordinates
        y_BP = np.einsum("bpd,bd->bp", x_BPD[..., :inputs], w_BD)
        if self.noise:
            y_BP += np.float32(self.noise) * rng.standard_normal((size, points), np.float32)
        tokens = np.zeros((size, points, 2, self.inputs), np.float32)
        tokens[:, :, 0], tokens[:, :, 1, 0] = x_BPD, y_BP
        return tokens.reshape(size, 2 * points, self.inputs), y_BP

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean squared error of outputs (B, L, 1), read where the prompt has an x, against targets (B, P)."""
        return self._squares(outputs, targets).mean()

    def totals(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, tuple[torch.Tensor, int]]:
        """Summed squared errors: of all points, and of the last one."""
        squares = self._squares(outputs, targets)
        return {"loss": (squares.sum(), squares.numel()), "last": (squares[:, -1].sum(), len(squares))}

    @staticmethod
    def _squares(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return (outputs[:, ::2, 0].float() - targets).square()

    def measures(self, means: Mapping[str, float]) -> dict[str, float]:
        """The loss over the variance, of all points and of the last one."""
        return {
            "squared_error": means["loss"] / self.variance,
            "last_squared_error": means["last"] / self.variance,
            "loss": means["loss"],
        }


def solve(tokens: np.ndarray[Any, Any], ridge: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """What ridge regression predicts for each point (N, P) of prompts (N, L, D) from the points before it.

    f(x_i) = x_i . (X^T X + r I)^-1 X^T y over the points before i; for r -> 0 the least squares of minimal norm. The inverse follows
    from that of the point before by the formula of Sherman and Morrison.
    """
    x_NPD, y_NP = tokens[:, ::2].astype(np.float64), tokens[:, 1::2, 0].astype(np.float64)
    made, inputs = np.zeros_like(y_NP), x_NPD.shape[2]
    for part in np.array_split(np.arange(len(made)), -(-len(made) * inputs**2 // MEMORY)):
        inverse = np.broadcast_to(np.eye(inputs) / max(ridge, TINY), (len(part), inputs, inputs)).copy()
        w = np.zeros((len(part), inputs))
        for i in range(y_NP.shape[1]):
            x = x_NPD[part, i]
            made[part, i] = (x * w).sum(1)
            reach = np.einsum("nde,ne->nd", inverse, x)
            gain = reach / (1 + (x * reach).sum(1, keepdims=True))
            w += gain * (y_NP[part, i] - made[part, i])[:, None]
            inverse -= gain[:, :, None] * reach[:, None, :]
    return made
