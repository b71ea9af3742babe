"""Language modelling over bytes or tokens. Shape letters: B batch, L tokens, V vocabulary, N windows."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from aotsearch.errors import InputError
from aotsearch.grammar.words import Count, Table, Text, word
from aotsearch.tasks import cache, corpus, tokens

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[np.int64]]

BYTES = 256
CHUNK = 16384  # tokens of one forward pass of an evaluation


@word("task", "language")
class Language:
    """Predict the next byte of text, or the next token.

    loss = -mean log p(t_l | tokens before it in the window),   bits_per_byte = loss / log 2 where the tokens are bytes

    Training windows start at random places, drawn from the seed and the step alone. Evaluation takes the whole validation split in
    fixed windows side by side, each predicting all of its `context` tokens. Text is read as bytes and judged in bits per byte; how
    many bytes a prepared token stands for is not known, so these are judged by the loss, in nats per token.

    Many documents are split whole (1 % validation, 2 % test); few, or some of which one holds more than a tenth, by blocks from every
    file (5 % and 5 %); tinyshakespeare by position. Where a source has one held-out split for both, nanoGPT's val.bin or the last tenth
    of tinyshakespeare, validation is its first half and test its second; `whole_validation` is recorded beside them: the measures over
    both, which is what published numbers of nanoGPT are about.

    Args:
        data: `python-stdlib`, `tinyshakespeare`, {tinyshakespeare: PATH}, {text: GLOB}, {hub: NAME}, or {tokens: FOLDER} with the
            train.bin and val.bin of nanoGPT (16-bit ids); {tokens: {folder: FOLDER, dtype: uint32}} where ids have another width
            (uint8, uint16, int32, uint32, int64, uint64).
        context: Window length L in bytes or tokens.
        vocabulary: Number of token ids; 256 for bytes.
    """

    def __init__(self, folder: Path, *, data: Text | Table = "python-stdlib", context: Count = 64, vocabulary: Count = 256):
        self.source = corpus.check(data, folder)
        self.prepared = "tokens" in self.source
        if not self.prepared and vocabulary != BYTES:
            raise ValueError(f"vocabulary is {BYTES} for text, which is read as bytes, not {vocabulary}; other ids need {{tokens: FOLDER}}")
        if self.prepared and vocabulary > (most := tokens.largest(self.source["tokens"])):
            law = f"vocabulary is at most {most}, the ids that the token files' dtype can hold, not {vocabulary}"
            raise ValueError(f"{law}; wider ones are read with {{tokens: {{folder: FOLDER, dtype: uint32}}}}")
        self.context, self.vocabulary = context, vocabulary
        self.sizes = {"vocabulary": vocabulary, "context": context}
        self.measure, self.unit = ("loss", "nats/token") if self.prepared else ("bits_per_byte", "bits/byte")
        self.loss_unit = "nats/token" if self.prepared else "nats/byte"
        self.chunk = max(1, CHUNK // context)

    def to_plain(self) -> dict[str, Any]:
        ((kind, value),) = self.source.items()
        vocabulary = {"vocabulary": self.vocabulary} if self.prepared else {}
        return {"language": {"data": kind if value is None else {kind: value}, "context": self.context, **vocabulary}}

    def prepare(self) -> dict[str, Any]:
        return {**self._corpus.facts(), "unit": self.unit}

    @functools.cached_property
    def _corpus(self) -> corpus.Corpus | tokens.Tokens:
        ((kind, value),) = self.source.items()
        found = tokens.open_folder(value, self.vocabulary) if self.prepared else corpus.prepare(self.source)
        lengths = found.sizes if isinstance(found, tokens.Tokens) else found.bytes
        split = min(cache.SPLITS, key=lambda name: lengths[name])
        if lengths[split] <= self.context:
            law = f"data {kind}: {split} is {lengths[split]} long, and context {self.context} needs {self.context + 1}"
            raise InputError(f"{law}; give more text" + (f", or a context of at most {lengths[split] - 1}" if lengths[split] > 1 else ""))
        return found

    @functools.cached_property
    def _train(self) -> np.ndarray[Any, np.dtype[Any]]:
        return self._corpus.tokens("train")

    def batch(self, seed: int, step: int, size: int) -> tuple[Array, Array]:
        """Inputs and targets (B, L) of one training step: a function of seed and step, whatever the architecture."""
        starts = np.random.default_rng([seed, step]).integers(0, len(self._train) - self.context, size)
        windows = np.stack([self._train[s : s + self.context + 1] for s in starts]).astype(np.int64)
        return windows[:, :-1], windows[:, 1:]

    def validation(self, seed: int = 0) -> tuple[Array, Array]:
        """Inputs and targets (N, L) of every window of the validation split."""
        return self._windows("validation")

    def test(self, seed: int = 0) -> tuple[Array, Array]:
        """Inputs and targets (N, L) of every window of the test split."""
        return self._windows("test")

    def whole_validation(self, validation: Mapping[str, float], test: Mapping[str, float]) -> dict[str, float]:
        """The measures over what the source itself calls validation, from those of its two halves; nothing where it has both splits.

        m = (n_v m_v + n_t m_t) / (n_v + n_t), n the targets of a split: a window of either predicts `context`.
        """
        if not self._corpus.halved:
            return {}
        n_v, n_t = (len(self._corpus.tokens(split)) - 1 for split in ("validation", "test"))
        n_v, n_t = (n // self.context * self.context for n in (n_v, n_t))
        return {name: (n_v * validation[name] + n_t * test[name]) / (n_v + n_t) for name in test}

    def _windows(self, split: str) -> tuple[Array, Array]:
        ids = self._corpus.tokens(split).astype(np.int64)
        windows = (len(ids) - 1) // self.context
        end = windows * self.context
        return ids[:end].reshape(windows, -1), ids[1 : end + 1].reshape(windows, -1)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats of logits (B, L, V) against ids (B, L)."""
        from torch.nn import functional as F

        return F.cross_entropy(outputs.flatten(0, -2).float(), targets.flatten())

    def totals(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, tuple[torch.Tensor, int]]:
        """Summed cross-entropy, and the number of targets."""
        from torch.nn import functional as F

        loss = F.cross_entropy(outputs.flatten(0, -2).float(), targets.flatten(), reduction="sum")
        return {"loss": (loss, targets.numel())}

    def measures(self, means: Mapping[str, float]) -> dict[str, float]:
        loss = means["loss"]
        return {"loss": loss} if self.prepared else {"bits_per_byte": loss / math.log(2), "loss": loss}
