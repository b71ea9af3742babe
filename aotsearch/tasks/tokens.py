"""Token ids that somebody else has prepared, as nanoGPT does: FOLDER/train.bin and val.bin, 16-bit numbers, memory-mapped in place.

A test.bin is the test split; without one, val.bin is cut in two, and its second half is the test split. The files are read through
once, for their digest, their largest id and the unigram baseline; what was found is kept in the cache under the files' signatures.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aotsearch.errors import InputError, Mark
from aotsearch.tasks import cache

Ids = np.ndarray[Any, np.dtype[np.uint16]]

RULE = 1  # raise it when the split or the facts change: it is part of the cache's address
LARGEST = 2**16  # ids are 16 bits
FILES = {"train": "train.bin", "validation": "val.bin", "test": "test.bin"}
BLOCK = 1 << 24  # ids read at a time


@dataclass(frozen=True)
class Tokens:
    """Prepared token files, and the facts that a report states."""

    folder: Path
    manifest: str  # sha256 over every split
    sizes: dict[str, int]
    baselines: dict[str, float]  # nats per token on the validation split

    def tokens(self, split: str) -> Ids:
        """The token ids of a split, memory-mapped."""
        return _splits(self.folder)[split]

    def facts(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "tokens": self.sizes, "baselines": self.baselines}


def open_folder(folder: Path, vocabulary: int) -> Tokens:
    """The token files of a folder, read through if this machine has not done so yet.

    Raises:
        InputError: a file is missing or is not made of 16-bit ids below `vocabulary`.
    """
    splits = _splits(folder)
    signatures = [cache.signature(folder / name) for name in FILES.values() if (folder / name).exists()]
    place = cache.place("tokens", signatures, vocabulary, RULE)
    if not (place / cache.FACTS).exists():
        facts = _read_through(folder, splits, vocabulary)
        with cache.written(place) as made:
            (made / cache.FACTS).write_text(json.dumps(facts))
    return Tokens(folder=folder, **json.loads((place / cache.FACTS).read_text()))


def _splits(folder: Path) -> dict[str, Ids]:
    splits = {split: _map(folder / name) for split, name in FILES.items() if split != "test" or (folder / name).exists()}
    if "test" not in splits:
        half = len(splits["validation"]) // 2
        splits |= {"validation": splits["validation"][:half], "test": splits["validation"][half:]}
    return splits


def _map(path: Path) -> Ids:
    try:
        size = path.stat().st_size
        if size % 2 or size < 4:
            raise InputError(f"token files hold 16-bit ids, at least two; this one has {size} bytes", Mark(str(path)))
        return np.memmap(path, dtype="<u2", mode="r")
    except OSError as e:
        raise InputError(f"can not be read: {e.strerror}; {{tokens: FOLDER}} needs train.bin and val.bin", Mark(str(path))) from None


def _read_through(folder: Path, splits: dict[str, Ids], vocabulary: int) -> dict[str, Any]:
    digest, counts = hashlib.sha256(), {}
    for split, ids in splits.items():
        digest.update(f"{split}\0{len(ids)}\0".encode())
        counts[split] = np.zeros(LARGEST, np.int64)
        for block in _blocks(ids):
            digest.update(block.tobytes())
            counts[split] += np.bincount(block, minlength=LARGEST)
        largest = int(counts[split].nonzero()[0].max())
        if largest >= vocabulary:
            law = f"the {split} split has the id {largest}, but ids end at vocabulary - 1 = {vocabulary - 1}"
            raise InputError(f"{law}; set vocabulary to {largest + 1} or more", Mark(str(folder)))
    p = counts["train"][:vocabulary] + 0.5
    unigram = -(counts["validation"][:vocabulary] @ np.log(p / p.sum())) / len(splits["validation"])
    return {"manifest": digest.hexdigest(), "sizes": {k: len(v) for k, v in splits.items()}, "baselines": {"unigram": float(unigram)}}


def _blocks(ids: Ids) -> Iterator[Ids]:
    for start in range(0, len(ids), BLOCK):
        yield np.asarray(ids[start : start + BLOCK])
