"""Classification of images. Shape letters: B batch, C channels, H height, W width, N images of a split."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aotsearch.grammar.words import Count, Flag, Table, Text, word
from aotsearch.tasks import images

if TYPE_CHECKING:
    import torch

Pictures = np.ndarray[Any, np.dtype[np.float32]]
Labels = np.ndarray[Any, np.dtype[np.int64]]

CHUNK = 256  # images of one forward pass of an evaluation: 16384 tokens where an image has 64 patches
UNITS = {"loss": "nats/image", "error": "error rate"}


@word("task", "vision")
class Vision:
    """Name the class of an image.

    loss = -mean log p(label | image),   error = share of the images whose most probable class is wrong

    Images are normalised by the mean and the standard deviation of each channel over the training images. Every epoch goes once through
    the training images, in an order drawn from the seed and the epoch. The splits are stratified and fixed: digits are cut into 60, 20
    and 20 %; other data comes with a test split, and a tenth of its training images is the validation split.
    The study is judged by the loss unless told otherwise: one of the 359 validation images of digits is a step of 0.3 % in the error, by
    which small effects cannot be seen. Both are recorded.

    Args:
        data: `digits` (8 x 8, within scikit-learn), {arrays: FILE.npz} with x_train, y_train, x_test and y_test, or {hub: NAME} or
            {hub: {name: ..., config: ..., split_train: ..., split_test: ..., image_column: ..., label_column: ...}}.
        image: Height and width in pixels; images of the hub are resized to it.
        channels: 1 for grey, 3 for colour.
        classes: How many labels there are.
        flip: Mirror each training image, left to right, with probability 1/2.
        measure: What the study is judged by.
    """

    loss_unit = UNITS["loss"]

    def __init__(
        self,
        folder: Path,
        *,
        data: Text | Table = "digits",
        image: Count = 8,
        channels: Count = 1,
        classes: Count = 10,
        flip: Flag = False,
        measure: Literal["loss", "error"] = "loss",
    ):
        self.sizes = {"image": image, "channels": channels, "classes": classes}
        self.source = images.check(data, folder, self.sizes)
        self.flip = flip
        self.measure: str = measure
        self.unit = UNITS[measure]
        self.chunk = CHUNK

    def to_plain(self) -> dict[str, Any]:
        return {"vision": {"data": images.plain(self.source), **self.sizes, "flip": self.flip, "measure": self.measure}}

    def prepare(self) -> dict[str, Any]:
        found = self._images
        baselines = {name: values[self.measure] for name, values in found.baselines.items()}
        split = images.SPLIT if "digits" in self.source else images.SPLIT_OF_TRAINING
        notes = {"notes": found.notes} if found.notes else {}
        return {"manifest": found.manifest, "images": found.sizes, "baselines": baselines, "split": split, "unit": self.unit, **notes}

    @functools.cached_property
    def _images(self) -> images.Images:
        return images.prepare(self.source, self.sizes)

    @functools.cached_property
    def _train(self) -> tuple[np.ndarray[Any, np.dtype[Any]], Labels]:
        return self._images.split("train")

    def batch(self, seed: int, step: int, size: int) -> tuple[Pictures, Labels]:
        """Images (B, C, H, W) and labels (B,) of one training step: a function of these three, whatever the architecture."""
        pictures, labels = self._train
        epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), len(labels))
        met = range(int(epochs[0]), int(epochs[-1]) + 1)
        chosen = np.concatenate([_order(seed, epoch, len(labels))[places[epochs == epoch]] for epoch in met])
        batch = self._normalised(pictures[chosen])
        if self.flip:
            mirrored = np.random.default_rng([seed, step, 1]).random(size) < 0.5
            batch[mirrored] = batch[mirrored][..., ::-1]
        return batch, labels[chosen]

    def validation(self, seed: int = 0) -> tuple[Pictures, Labels]:
        """Images (N, C, H, W) and labels (N,) of the validation split."""
        return self._validation

    def test(self, seed: int = 0) -> tuple[Pictures, Labels]:
        """Images (N, C, H, W) and labels (N,) of the test split."""
        return self._whole("test")

    @functools.cached_property
    def _validation(self) -> tuple[Pictures, Labels]:
        return self._whole("validation")

    def _whole(self, split: str) -> tuple[Pictures, Labels]:
        pictures, labels = self._images.split(split)
        return self._normalised(pictures), labels

    def _normalised(self, pictures: np.ndarray[Any, np.dtype[Any]]) -> Pictures:
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self._images.mean, self._images.std))
        normalised: Pictures = (np.asarray(pictures, np.float32) - mean) / std
        return normalised

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Mean cross-entropy in nats of logits (B, classes) against labels (B,)."""
        from torch.nn import functional as F

        return F.cross_entropy(outputs.float(), targets)

    def totals(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, tuple[torch.Tensor, int]]:
        """Summed cross-entropy and the number of errors, each over the number of images."""
        from torch.nn import functional as F

        loss, errors = F.cross_entropy(outputs.float(), targets, reduction="sum"), (outputs.argmax(-1) != targets).sum()
        return {"loss": (loss, len(targets)), "error": (errors, len(targets))}

    def measures(self, means: Mapping[str, float]) -> dict[str, float]:
        return {"loss": means["loss"], "error": means["error"], "accuracy": 1 - means["error"]}


@functools.lru_cache(maxsize=4)
def _order(seed: int, epoch: int, images: int) -> Labels:
    """The order in which an epoch goes through the training images."""
    return np.random.default_rng([seed, epoch]).permutation(images)
