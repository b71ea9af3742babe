"""Clustering of images that are the tokens of one set.

Shape letters: B sets, L images of a set, P values of an image, D width, K classes.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from aotsearch.errors import InputError
from aotsearch.grammar.words import Count, Table, Text, word
from aotsearch.tasks import cache
from aotsearch.tasks import images as source

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

VALIDATION, TEST = 1 << 40, 1 << 41  # what sets the splits of a seed apart from its training steps
SHARES = {"validation": 0.4, "test": 0.4}  # of the images of a class; the rest is for training
SPLIT = "of each class 20 % train, 40 % validation, 40 % test, in the order of the hash of their numbers; sets are drawn from the seed"
RULE = 1  # raise it when the same options give other sets or baselines
DRAWS = 4  # seeds whose validation sets the baselines are a mean over
TEMPERATURE = 0.05  # of the loss: Wu et al. 2018
UNITS = {"impurity": "impurity", "nmi_gap": "1 - NMI", "ari_gap": "1 - ARI"}


@word("task", "cluster")
class Cluster:
    """Bring images of one class together, every image a token: whether a model clusters without being trained to.

    impurity = share of the k nearest tokens of a token (by Euclidean distance) that are of another class, mean over tokens and sets
    nmi_gap = 1 - normalised mutual information, ari_gap = 1 - adjusted Rand index, of k-means with as many clusters as classes
    loss = -mean log sum_{j of the class of i, j != i} softmax_j(cos(z_i, z_j) / 0.05), the neighbourhood components of the labels

    A set has as many images of every class, in an order that says nothing; pixels are normalised by the mean and the standard deviation of
    each channel. Sets are drawn from the seed, those of validation and test from images that share none: so an untrained model varies
    over them too. Its labels are used by the loss alone, so without training (`budget: {steps: 0}`) the task is unsupervised.

    Source: Ravuri and Lawrence 2025, arXiv:2507.21040 (images of MNIST as tokens of one untrained block, applied eight times; shown as a
    picture, without a score); loss: Goldberger et al. 2004 (NeurIPS), with cosines as in Wu et al. 2018, arXiv:1808.04699.

    Args:
        data: `digits` (8 x 8, within scikit-learn), {arrays: FILE.npz} or {hub: NAME}, as for `vision`.
        image: Height and width in pixels.
        channels: 1 for grey, 3 for colour.
        classes: How many labels there are.
        images: Images L of a set; a multiple of classes, at least two of each.
        dimension: Width D of the tokens that come out.
        neighbours: The number k of nearest tokens that the impurity asks.
        sets: Sets of the validation and of the test split each.
        measure: What the study is judged by; all are recorded.
    """

    loss_unit = "nats/image"
    chunk = 1

    def __init__(
        self,
        folder: Path,
        *,
        data: Text | Table = "digits",
        image: Count = 8,
        channels: Count = 1,
        classes: Count = 10,
        images: Count = 300,
        dimension: Count = 48,
        neighbours: Count = 10,
        sets: Count = 1,
        measure: Literal["impurity", "nmi_gap", "ari_gap"] = "impurity",
    ):
        self.pictures = {"image": image, "channels": channels, "classes": classes}
        self.source = source.check(data, folder, self.pictures)
        if images % classes or images < 2 * classes:
            raise ValueError(f"images is a multiple of classes, and at least two of each: {images} is not for {classes} classes")
        if neighbours >= images:
            raise ValueError(f"a set of {images} images has no {neighbours} neighbours of one; lower neighbours or raise images")
        self.images, self.dimension, self.neighbours, self.count = images, dimension, neighbours, sets
        self.measure: str = measure
        self.unit = UNITS[measure]
        self.sizes = {"inputs": channels * image**2, "outputs": dimension, "context": images, "subspaces": classes}

    def to_plain(self) -> dict[str, Any]:
        own = {"images": self.images, "dimension": self.dimension, "neighbours": self.neighbours, "sets": self.count}
        return {"cluster": {"data": source.plain(self.source), **self.pictures, **own, "measure": self.measure}}

    def prepare(self) -> dict[str, Any]:
        """The facts about the sets; the baselines are scored as a model's tokens are."""
        manifest = self._found.manifest
        key = [manifest, self.images, self.neighbours, self.count, RULE]
        facts = cache.prepared(cache.place("cluster", key), lambda: ({"baselines": self._baselines()}, {}))
        baselines = {name: values[self.measure] for name, values in facts["baselines"].items()}
        sizes = {name: sum(map(len, pool)) for name, pool in self._pools.items()}
        notes = {"notes": self._found.notes} if self._found.notes else {}
        named = cache.digest(key)
        return {"manifest": named, "images": sizes, "baselines": baselines, "split": SPLIT, "unit": self.unit, **notes}

    def batch(self, seed: int, step: int, size: int) -> tuple[Array, Array]:
        """Images (B, L, P) and labels (B, L) of one training step: a function of these three, whatever the architecture."""
        return self._draw("train", [seed, step], size)

    def validation(self, seed: int = 0) -> tuple[Array, Array]:
        """The sets (N, L, P) of the validation split of a seed, and their labels (N, L)."""
        return self._draw("validation", [seed, VALIDATION], self.count)

    def test(self, seed: int = 0) -> tuple[Array, Array]:
        """The sets of the test split of a seed, and their labels."""
        return self._draw("test", [seed, TEST], self.count)

    def loss(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How improbable it is that a token picks one of its class, in nats per image."""
        return _improbable(outputs, targets).mean()

    def totals(self, outputs: torch.Tensor, targets: torch.Tensor) -> dict[str, tuple[torch.Tensor, int]]:
        """The loss of every image, and the scores of every set."""
        import torch

        pairs = zip(outputs.detach().double().cpu().numpy(), targets.cpu().numpy(), strict=True)
        found = [scores(tokens, labels, self.neighbours) for tokens, labels in pairs]
        sums = {name: (torch.tensor(sum(f[name] for f in found), dtype=torch.float64), len(found)) for name in UNITS}
        return {"loss": (_improbable(outputs, targets).sum(), targets.numel()), **sums}

    def measures(self, means: Mapping[str, float]) -> dict[str, float]:
        """What is recorded of an evaluation; `nmi` and `ari` are the indices themselves."""
        return {**means, "nmi": 1 - means["nmi_gap"], "ari": 1 - means["ari_gap"]}

    @functools.cached_property
    def _found(self) -> source.Images:
        return source.prepare(self.source, self.pictures)

    @functools.cached_property
    def _whole(self) -> tuple[Array, Array]:
        """All images (N, P), normalised, and their labels; they are split anew, since little or nothing is trained."""
        parts = [self._found.split(name) for name in cache.SPLITS]
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self._found.mean, self._found.std))
        pixels = np.concatenate([(np.asarray(x, np.float32) - mean) / std for x, _ in parts])
        return pixels.reshape(len(pixels), -1), np.concatenate([labels for _, labels in parts])

    @functools.cached_property
    def _pools(self) -> dict[str, list[Array]]:
        """Split -> for each class the numbers of its images.

        Raises:
            InputError: one has too few of a class for a set.
        """
        labels = self._whole[1]
        pools = {name: [i[labels[i] == k] for k in range(self.pictures["classes"])] for name, i in source.cut(labels, SHARES).items()}
        each = self.images // self.pictures["classes"]
        for name, pool in pools.items():
            least = min(range(len(pool)), key=lambda k: len(pool[k]))
            if len(pool[least]) < each:
                law = f"a set has {each} images of each class, but the {name} split has {len(pool[least])} of class {least}"
                raise InputError(f"{law}; images: {len(pool[least]) * len(pool)} is the most")
        return pools

    def _draw(self, split: str, entropy: list[int], size: int) -> tuple[Array, Array]:
        rng = np.random.default_rng(entropy)
        pixels, labels = self._whole
        each = self.images // self.pictures["classes"]
        chosen = [
            rng.permutation(np.concatenate([rng.choice(pool, each, replace=False) for pool in self._pools[split]])) for _ in range(size)
        ]
        return pixels[np.stack(chosen)], labels[np.stack(chosen)]

    def _baselines(self) -> dict[str, dict[str, float]]:
        """Scores of what needs no model, with as many dimensions as there are classes, a mean over the sets of some seeds."""
        found: dict[str, list[dict[str, float]]] = {}
        for seed in range(DRAWS):
            for pixels, labels in zip(*self.validation(seed), strict=True):
                for name, tokens in embedded(pixels.astype(np.float64), self.pictures["classes"], self.neighbours).items():
                    found.setdefault(name, []).append(scores(tokens, labels, self.neighbours))
        return {name: {score: float(np.mean([r[score] for r in rows])) for score in UNITS} for name, rows in found.items()}


def scores(tokens_LD: Array, labels_L: Array, neighbours: int) -> dict[str, float]:
    """Impurity, 1 - NMI and 1 - ARI of the tokens of one set; not numbers where the tokens are none."""
    from scipy.spatial.distance import cdist
    from sklearn.cluster import KMeans
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    if not np.isfinite(tokens_LD).all():
        return dict.fromkeys(UNITS, float("nan"))
    tokens_LD = tokens_LD / max(float(np.abs(tokens_LD).max()), 1e-300)  # no score knows a scale, but squares of large numbers do
    distance_LL = cdist(tokens_LD, tokens_LD)
    np.fill_diagonal(distance_LL, np.inf)
    nearest = np.argsort(distance_LL, axis=1, kind="stable")[:, :neighbours]
    classes = len(np.unique(labels_L))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tokens that have become fewer points than there are classes
        clusters = KMeans(classes, n_init=10, random_state=0).fit_predict(tokens_LD)
    return {
        "impurity": float((labels_L[nearest] != labels_L[:, None]).mean()),
        "nmi_gap": 1 - float(normalized_mutual_info_score(labels_L, clusters)),
        "ari_gap": 1 - float(adjusted_rand_score(labels_L, clusters)),
    }


def embedded(pixels_LP: Array, dimension: int, neighbours: int) -> dict[str, Array]:
    """The images of a set as they are, and by two methods of linear and spectral dimension reduction."""
    from sklearn.manifold import SpectralEmbedding

    centred = pixels_LP - pixels_LP.mean(0)
    left, values, _ = np.linalg.svd(centred, full_matrices=False)
    most = min(dimension, len(pixels_LP) - 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of graphs in several parts, which is what clusters are
        eigenmaps = SpectralEmbedding(most, affinity="nearest_neighbors", n_neighbors=neighbours, random_state=0)
        spectral = eigenmaps.fit_transform(pixels_LP)
    return {"pixels": pixels_LP, "PCA": left[:, :most] * values[:most], "Laplacian eigenmaps": spectral}


def _improbable(outputs_BLD: torch.Tensor, targets_BL: torch.Tensor) -> torch.Tensor:
    """-log of the probability that a token picks one of its class, (B, L)."""
    import torch
    from torch.nn import functional as F

    z_BLD = F.normalize(outputs_BLD.float(), dim=-1)
    own_LL = torch.eye(targets_BL.shape[1], dtype=torch.bool, device=targets_BL.device)
    log_p_BLL = (z_BLD @ z_BLD.mT / TEMPERATURE).masked_fill(own_LL, float("-inf")).log_softmax(-1)
    alike_BLL = (targets_BL.unsqueeze(-1) == targets_BL.unsqueeze(-2)) & ~own_LL
    return -log_p_BLL.masked_fill(~alike_BLL, float("-inf")).logsumexp(-1)
