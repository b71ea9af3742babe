"""Task -> arrays and a loss: what models are trained on, one file per kind, and the protocol that every task keeps.

In: the options of a task, and its data (read, split and cached once). Out: batches, splits, a loss and measures, baselines.
Open `language.py` first; `corpus`, `tokens` and `images` read data for it and for `vision`.

A task deals in numpy arrays; only its loss speaks torch, imported when it is called, so that checking a study loads no torch.
Making a task reads nothing: `sizes` follow from its options, so a study is checked, shown and costed without its data.

    language    the next byte or token of text        (B, L) -> (B, L, V)
    vision      the class of an image                 (B, C, H, W) -> (B, classes)
    regression  a linear function, in context         (B, L, inputs) -> (B, L, 1)
    denoise     noisy tokens of low-rank Gaussians    (B, L, inputs) -> (B, L, inputs)
    cluster     images of one class near each other   (B, L, inputs) -> (B, L, outputs)

Shape letters: B batch, L tokens, V vocabulary, C channels, H height, W width, N items of a split.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]
Items = tuple[Array, Array]  # inputs and targets, the first axis counting items


class Task(Protocol):
    """What the rest of the program asks of a task.

    Its constructor takes the folder where relative paths start, then its options; it raises ValueError for options that do not fit.

    Attributes:
        sizes: What the model must know of the data, and constraints may name: `vocabulary` and `context`; or `image`, `channels` and
            `classes`; or `inputs`, `outputs` and `context`, with `subspaces` where the tokens are a set and no sequence.
        measure: The one of `measures` that it is judged by; lower is better.
        unit: Of the measure.
        loss_unit: Of the loss, for the axes of curves; tasks of installed packages may leave it out.
        chunk: How many items one forward pass of an evaluation takes.
    """

    sizes: dict[str, int]
    measure: str
    unit: str
    chunk: int

    def to_plain(self) -> dict[str, Any]:
        """The task with every default written and every path absolute: what makes it again in another folder."""

    def prepare(self) -> dict[str, Any]:
        """Bring the data to this machine, once, and return the facts about it.

        `manifest` (a digest of the data), `unit`, `baselines` (name -> measure of what needs no model) and, where there are any,
        `bounds` (the baselines that no model is expected to beat), `split` (in words, how the splits were made), `notes` (what is odd
        about the data, a line each), and the sizes of the splits under what they count: `bytes`, `tokens`, `images` or `prompts`.

        Raises:
            InputError: the data is missing, or not what the options say.
        """

    def batch(self, seed: int, step: int, size: int) -> Items:
        """Inputs and targets of one training step: a function of these three alone, whatever the architecture."""

    def validation(self, seed: int = 0) -> Items:
        """Inputs and targets of the whole validation split, in a fixed order; only tokens that are made up vary with the trial's seed."""

    def test(self, seed: int = 0) -> Items:
        """The test split likewise; nothing is selected by it."""

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """What training lowers: a scalar, the mean over all targets, in float32."""

    def totals(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, tuple[torch.Tensor, int]]:
        """What an evaluation adds up over its passes: name -> (sum, number of terms), among them `loss`."""

    def measures(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is recorded of an evaluation, from the means of `totals`: `measure`, `loss`, and others beside them."""


@runtime_checkable
class Halved(Protocol):
    """A task whose validation and test split may be the two halves of one that its source publishes."""

    def whole_validation(self, validation: Mapping[str, float], test: Mapping[str, float]) -> dict[str, float]:
        """The measures over both, from those of each; empty where the source has no such split."""
