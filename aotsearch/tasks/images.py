"""Images on disk: a source -> train, validation and test splits, decoded once, memory-mapped, shared by all workers.

Every split is stratified: within each class, images are taken in the order of the hash of their number, so the split depends on
nothing but the data. Shape letters: N images, C channels, H height, W width (H = W), K classes, P = C H W values of an image.
"""

from __future__ import annotations

import functools
import hashlib
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aotsearch.errors import InputError, Mark, suggest
from aotsearch.tasks import cache, content, hub

Array = np.ndarray[Any, np.dtype[Any]]
Part = tuple[Array, Array]  # images (N, C, H, W) and labels (N,)
Shape = tuple[int, int, int]  # of one image

RULE = 3  # raise it when the split, the facts or what is refused change: it is part of the cache's address
WHOLE = {"validation": 0.2, "test": 0.2}  # shares of data that comes without a test split
TRAINING = {"validation": 0.1}  # share of the training images, where there is a test split
SPLIT = "of each class 60 % train, 20 % validation, 20 % test, in the order of the hash of their numbers"
SPLIT_OF_TRAINING = "of each class of the training images a tenth is validation, in the order of the hash of their numbers; test as given"
BLOCK = 4096  # images worked on at a time
SCALES = 16  # how many times larger the values of one part may be than those of the other
FITTED = 5000  # images that the temperature of a baseline is chosen on

KINDS = ("digits", "arrays", "hub")
DIGITS = {"image": 8, "channels": 1, "classes": 10}
KEYS = ("x_train", "y_train", "x_test", "y_test")
HUB: dict[str, Any] = {
    "name": "",
    "config": None,
    "split_train": "train",
    "split_test": "test",
    "image_column": "image",
    "label_column": "label",
}


@dataclass(frozen=True)
class Images:
    """Prepared images: where their splits lie, and the facts that a report states."""

    folder: Path
    manifest: str  # sha256 over every split
    sizes: dict[str, int]
    mean: list[float]  # of the training images, per channel
    std: list[float]
    baselines: dict[str, dict[str, float]]  # name -> loss and error on the validation split
    notes: list[str]  # what is odd about them, a line each

    def split(self, name: str) -> Part:
        """Images (N, C, H, W) as they are on disk, memory-mapped, and labels (N,).

        Raises:
            RunError: they were altered since they were opened.
        """
        assert name in cache.SPLITS, name
        images, labels = (np.load(cache.part(self.folder, f"{name}.{kind}.npy"), mmap_mode="r") for kind in ("images", "labels"))
        return images, np.array(labels)


def check(data: Any, folder: Path, sizes: Mapping[str, int]) -> dict[str, Any]:
    """The `data` option in its full form, `{kind: options}`, without reading anything.

    Raises:
        ValueError: it is not one of the forms, or `sizes` do not fit it.
    """
    if data == "digits":
        if sizes != DIGITS:
            raise ValueError(f"digits have image 8, channels 1 and classes 10, not {', '.join(map(str, sizes.values()))}")
        return {"digits": None}
    if isinstance(data, str):
        raise ValueError(f"unknown data {data!r}{suggest(data, KINDS)}")
    if len(data) != 1 or next(iter(data)) not in KINDS[1:]:
        raise ValueError(f"data is digits, {{arrays: FILE.npz}} or {{hub: NAME}}, not {data}")
    ((kind, value),) = data.items()
    if kind == "arrays":
        return {"arrays": cache.located(kind, value, folder)}
    options = hub.check(value, dict.fromkeys(HUB, str))
    if sizes["channels"] not in (1, 3):
        raise ValueError(f"hub images are read with channels 1 (grey) or 3 (red, green, blue), not {sizes['channels']}")
    return {"hub": options}


def plain(source: Mapping[str, Any]) -> Any:
    """The `data` option that is checked to this source."""
    ((kind, value),) = source.items()
    return kind if value is None else {kind: value}


def prepare(source: dict[str, Any], sizes: Mapping[str, int]) -> Images:
    """The images of a checked source, decoded and split if this machine does not have them yet.

    Raises:
        InputError: the data is missing, or not of these sizes.
    """
    ((kind, options),) = source.items()
    shape = (sizes["channels"], sizes["image"], sizes["image"])
    key, read = _SOURCES[kind](options)
    place = cache.place(kind, key, dict(sizes), RULE)

    def make() -> cache.Prepared:
        parts = {name: _checked(part, name, shape, sizes["classes"], _name(source)) for name, part in read(shape).items()}
        return _made(_split(parts), sizes["classes"], _name(source))

    return Images(folder=place, **cache.prepared(place, make))


def cut(labels: Array, shares: Mapping[str, float]) -> dict[str, Array]:
    """Which images each split has: of every class the share of each name in `shares`, and the rest for `train`."""
    order = np.array(sorted(range(len(labels)), key=lambda i: hashlib.sha256(str(i).encode()).digest()), dtype=np.int64)
    found: dict[str, list[Array]] = {name: [] for name in ("train", *shares)}
    for label in np.unique(labels):
        members = order[labels[order] == label]
        start = 0
        for name, share in shares.items():
            stop = start + round(share * len(members))
            found[name].append(members[start:stop])
            start = stop
        found["train"].append(members[start:])
    return {name: np.sort(np.concatenate(pieces)) for name, pieces in found.items()}


def _split(parts: dict[str, Part]) -> dict[str, Part]:
    images, labels = parts["train"]
    pieces = {name: (images[i], labels[i]) for name, i in cut(labels, TRAINING if "test" in parts else WHOLE).items()}
    return pieces | {name: part for name, part in parts.items() if name != "train"}


def _made(splits: dict[str, Part], classes: int, name: str) -> cache.Prepared:
    empty = [split for split, (_, labels) in splits.items() if not len(labels)]
    if empty:
        raise InputError(f"data {name}: too few images; the {empty[0]} split is empty")
    _refuse_unlike(splits, name)
    digest = hashlib.sha256()
    for split in cache.SPLITS:
        for array in splits[split]:
            digest.update(f"{split}\0{array.dtype.str}\0{array.shape}\0".encode())
            digest.update(np.ascontiguousarray(array).data)
    mean, std = moments(splits["train"][0])
    facts = {
        "manifest": digest.hexdigest(),
        "sizes": {split: len(splits[split][1]) for split in cache.SPLITS},
        "mean": mean,
        "std": std,
        "baselines": baselines(splits["train"], splits["validation"], classes),
        "notes": _oddities(mean, std, moments(splits["test"][0])[0], name),
    }
    return facts, {f"{split}.{kind}.npy": x for split, part in splits.items() for kind, x in zip(("images", "labels"), part, strict=True)}


def _checked(part: Part, split: str, shape: Shape, classes: int, name: str) -> Part:
    """Images (N, C, H, W) and labels (N,) as they should be, or what is wrong with them."""
    images, labels = part
    if not len(images):
        raise InputError(f"data {name}: {split} holds no images")
    if images.dtype.kind == "f":
        images = images.astype(np.float32)
        if not np.isfinite(images).all():
            raise InputError(f"data {name}: the {split} images hold values that are not finite")
    elif images.dtype != np.uint8:
        raise InputError(f"data {name}: images are uint8 or float arrays, not {images.dtype}; x.astype('uint8') holds 0 to 255")
    if labels.dtype.kind not in "iu" or labels.size != len(images):
        remedy = "; y.argmax(1) makes them of a row per image" if labels.ndim > 1 else "; y.astype(int) makes them of other numbers"
        raise InputError(
            f"data {name}: {split} has {len(images)} images and needs as many whole numbers as labels, not {labels.dtype} {labels.shape}"
            + (remedy if labels.dtype.kind in "fb" and len(labels) == len(images) else "")
        )
    labels = labels.reshape(-1).astype(np.int64)
    wrong = labels[(labels < 0) | (labels >= classes)]
    if len(wrong):
        raise InputError(
            f"data {name}: {split} has the label {wrong[0]}, but labels are 0 to classes - 1 = {classes - 1}"
            + ("; subtract 1" if labels.min() == 1 and labels.max() == classes else "")
        )
    return _channels_first(images, shape, split, name), labels


def _refuse_unlike(splits: Mapping[str, Part], name: str) -> None:
    """Training images of which nothing can be learnt, or a test split that is not what they are."""
    images, labels = splits["train"]
    if len(np.unique(labels)) < 2:
        raise InputError(f"data {name}: every training image has the label {labels[0]}, so there is nothing to learn")
    others, tested = splits["test"]
    unseen = np.setdiff1d(tested, labels)
    if len(unseen):
        raise InputError(f"data {name}: test has the label {unseen[0]}, which no training image has")
    sizes = [max(float(np.abs(block).max()) for block in _blocks(x)) for x in (images, others)]
    if images.dtype != others.dtype or max(sizes) > SCALES * min(sizes):
        law = "train and test images are of one scale"
        shown = ", ".join(f"{n} {x.dtype} up to {size:g}" for n, x, size in zip(("train", "test"), (images, others), sizes, strict=True))
        raise InputError(f"data {name}: {law}, not {shown}; save both alike")


def _oddities(mean: Sequence[float], std: Sequence[float], tested: Sequence[float], name: str) -> list[str]:
    """A note where test images are darker or brighter than training images by more than these vary: the two are scaled each its own way."""
    return [
        f"data {name}: test images have the mean {b:.3g} and training images {a:.3g}, with a standard deviation of {s:.3g}; "
        "are both scaled alike?"
        for a, s, b in zip(mean, std, tested, strict=True)
        if abs(a - b) > s
    ][:1]


def _channels_first(images: Array, shape: Shape, split: str, name: str) -> Array:
    channels, height, width = shape
    if images.shape[1:] == shape:
        return images
    if images.shape[1:] == (height, width, channels):
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    if images.shape[1:] == (height, width) and channels == 1:
        return images[:, None]
    law = f"images are (N, channels, image, image) or (N, image, image, channels) with image {height} and channels {channels}"
    raise InputError(f"data {name}: {law}, but {split} is {images.shape}")


# ---- what is known of the data before any model


def moments(images: Array) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel; a channel without any variation is not scaled."""
    values = len(images) * images[0, 0].size
    mean = sum(block.sum((0, 2, 3), dtype=np.float64) for block in _blocks(images)) / values
    variance = sum(((block - mean[:, None, None]) ** 2).sum((0, 2, 3)) for block in _blocks(images)) / values
    std = np.where(variance > 0, np.sqrt(variance), 1.0)
    return mean.tolist(), std.tolist()


def baselines(train: Part, validation: Part, classes: int) -> dict[str, dict[str, float]]:
    """Loss (nats) and error of two classifiers that need no training.

    class frequencies: p(k) = (n_k + 1/2) / (N + K/2).   nearest mean: p(k | x) ~ p(k) exp(-|x - m_k|^2 / t), m_k the mean image of
    class k, t chosen among powers of two on training images.
    """
    from scipy.spatial.distance import cdist

    images, labels = train
    counts = np.bincount(labels, minlength=classes)
    prior = np.log((counts + 0.5) / (len(labels) + 0.5 * classes))
    sums = np.zeros((classes, images[0].size))
    for block, owners in zip(_blocks(images), _blocks(labels), strict=True):
        sums += np.eye(classes)[owners].T @ block.reshape(len(block), -1)
    means = sums / np.maximum(counts, 1)[:, None]

    def distances(images: Array) -> Array:
        """|x - m|^2 of every image and every mean (N, K)."""
        return np.concatenate([cdist(block.reshape(len(block), -1), means, "sqeuclidean") for block in _blocks(images)])

    near, far = distances(images[:FITTED]), distances(validation[0])
    scale = float(near.min(1).mean()) or 1.0
    temperature = min((scale * 2.0**k for k in range(-8, 3)), key=lambda t: _score(prior - near / t, labels[:FITTED])["loss"])
    return {
        "class frequencies": _score(np.broadcast_to(prior, far.shape), validation[1]),
        "nearest mean": _score(prior - far / temperature, validation[1]),
    }


def _score(logits: Array, labels: Array) -> dict[str, float]:
    from scipy.special import log_softmax

    log_p = log_softmax(logits, axis=1)
    return {"loss": float(-log_p[np.arange(len(labels)), labels].mean()), "error": float((logits.argmax(1) != labels).mean())}


def _blocks(array: Array) -> Iterator[Array]:
    for start in range(0, len(array), BLOCK):
        yield array[start : start + BLOCK]


# ---- sources: what names the data, and how it is read


Read = Callable[[Shape], dict[str, Part]]


def _name(source: Mapping[str, Any]) -> str:
    ((kind, options),) = source.items()
    return f"hub {options['name']}" if kind == "hub" else f"{kind} {options}" if options else kind


def _digits(_: None) -> tuple[Any, Read]:
    """scikit-learn's 1,797 handwritten digits, which its package holds. Source: Alpaydin and Kaynak 1998, UCI."""

    def read(_: Shape) -> dict[str, Part]:
        from sklearn.datasets import load_digits

        found = load_digits()
        return {"train": (found.images.astype(np.uint8), found.target)}

    return None, read


def _arrays(path: str) -> tuple[Any, Read]:
    """An .npz file with x_train, y_train, x_test and y_test."""
    file = Path(path)
    try:
        key = content.sha256(file, cache.folder())
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", Mark(path)) from None

    def read(_: Shape) -> dict[str, Part]:
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as found:  # numpy leaves a bad file open
                missing = [name for name in KEYS if name not in found]
                if missing:
                    raise InputError(f"arrays needs {', '.join(KEYS)}; {missing[0]} is missing", Mark(path))
                x_train, y_train, x_test, y_test = (found[name] for name in KEYS)
        except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error):  # TypeError: an .npy file
            raise InputError("is not an .npz file of plain arrays, as numpy.savez writes it", Mark(path)) from None
        for name, array in zip(KEYS, (x_train, y_train, x_test, y_test), strict=True):
            if array.ndim < (2 if name.startswith("x") else 1):
                raise InputError(f"{name} has the shape {array.shape}; its first axis counts images", Mark(path))
        return {"train": (x_train, y_train), "test": (x_test, y_test)}

    return key, read


def _hub(given: Mapping[str, str]) -> tuple[Any, Read]:
    """A dataset of the Hugging Face hub, each image cut to its central square and resized."""
    options = HUB | dict(given)
    what, instead = f"hub {options['name']}", "local arrays: data: {arrays: FILE.npz}"
    columns = options["image_column"], options["label_column"]
    fetch = functools.partial(hub.fetch, what, options["name"], options["config"], instead=instead, columns=columns)
    rows = {part: fetch(split=options[f"split_{part}"]) for part in ("train", "test")}

    def read(shape: Shape) -> dict[str, Part]:
        return {part: _decoded(found, *columns, shape, what) for part, found in rows.items()}

    return [options, [part._fingerprint for part in rows.values()]], read


def _decoded(rows: Any, image_column: str, label_column: str, shape: Shape, what: str) -> Part:
    from PIL import Image, ImageOps

    channels, height, width = shape
    images = np.empty((len(rows), height, width, channels), np.uint8)
    for i, picture in enumerate(rows.select_columns([image_column])):
        found = picture[image_column]
        if not isinstance(found, Image.Image):
            raise InputError(f"data {what}: the column {image_column!r} holds {type(found).__name__}, not images")
        found = found.convert("L" if channels == 1 else "RGB")
        images[i] = np.asarray(ImageOps.fit(found, (width, height), Image.Resampling.BILINEAR)).reshape(height, width, channels)
    return images, np.asarray(rows[label_column][:])


_SOURCES: dict[str, Callable[[Any], tuple[Any, Read]]] = {"digits": _digits, "arrays": _arrays, "hub": _hub}
