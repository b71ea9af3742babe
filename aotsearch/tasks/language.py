"""Language modelling over bytes. Shape letters: B batch, L tokens, N windows."""

from __future__ import annotations

import functools
import math
from pathlib import Path
from typing import Any

import numpy as np

from aotsearch.registry import Count, Table, Text, word
from aotsearch.tasks import corpus

Array = np.ndarray[Any, np.dtype[np.int64]]


@word("task", "language")
class Language:
    """Predict the next byte of text.

    loss = -mean log p(byte_l | bytes before it in the window),   bits_per_byte = loss / log 2

    Training windows start at random places, drawn from the seed and the step alone. Evaluation takes the whole validation split in
    fixed windows side by side, each predicting all of its `context` bytes.

    Args:
        data: `python-stdlib`, `tinyshakespeare`, {tinyshakespeare: PATH}, {text: GLOB} or {hub: NAME}.
        context: Window length L in bytes.
    """

    measure = "bits_per_byte"
    unit = "bits/byte"

    def __init__(self, folder: Path, *, data: Text | Table = "python-stdlib", context: Count = 64):
        self.source = corpus.check(data, folder)
        self.context = context
        self.sizes = {"vocabulary": 256, "context": context}

    def to_plain(self) -> dict[str, Any]:
        """The task with every default written and every path absolute, so that it means the same in another folder."""
        ((kind, value),) = self.source.items()
        return {"language": {"data": kind if value is None else {kind: value}, "context": self.context}}

    def prepare(self) -> dict[str, Any]:
        """Bring the data to this machine and return the facts about it."""
        return {**self._corpus.facts(), "unit": self.unit}

    @functools.cached_property
    def _corpus(self) -> corpus.Corpus:
        return corpus.prepare(self.source)

    @functools.cached_property
    def _train(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        tokens = self._corpus.tokens("train")
        assert len(tokens) > self.context + 1
        return tokens

    def batch(self, seed: int, step: int, size: int) -> tuple[Array, Array]:
        """Inputs and targets (B, L) of one training step: a function of seed and step, whatever the architecture."""
        starts = np.random.default_rng([seed, step]).integers(0, len(self._train) - self.context, size)
        windows = np.stack([self._train[s : s + self.context + 1] for s in starts]).astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def validation(self) -> tuple[Array, Array]:
        """Inputs and targets (N, L) of every window of the validation split."""
        tokens = self._corpus.tokens("validation").astype(np.int64)
        windows = (len(tokens) - 1) // self.context
        end = windows * self.context
        return tokens[:end].reshape(windows, -1), tokens[1 : end + 1].reshape(windows, -1)

    def measures(self, loss: float) -> dict[str, float]:
        """What a loss in nats per byte says."""
        return {"bits_per_byte": loss / math.log(2), "loss": loss}
