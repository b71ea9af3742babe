"""Token ids that somebody else has prepared, as nanoGPT does: FOLDER/train.bin and val.bin, bare numbers, memory-mapped in place.

A test.bin is the test split; without one, val.bin is cut in two, and its second half is the test split. The files are read through
once, for their digest, their largest id and the unigram baseline; what was found is kept in the cache under the files' checksums.
Nothing in such a file says how wide its numbers are. nanoGPT's have 16 bits, which is what is read unless `dtype` says otherwise; files
whose 16-bit numbers look like pieces of wider ones, or like pairs of narrower ones, are refused.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aotsearch.errors import InputError, Mark, RunError
from aotsearch.tasks import cache, content

Ids = np.ndarray[Any, np.dtype[Any]]

RULE = 3  # raise it when the split, the facts or what is refused change: it is part of the cache's address
# As numpy's tofile writes them on nearly every machine. No id needs the last bit of 64: numbers that have it are refused as negative.
DTYPES = {"uint8": "u1", "uint16": "<u2", "int32": "<i4", "uint32": "<u4", "int64": "<i8", "uint64": "<i8"}
USUAL = "uint16"
LLMC = [number.to_bytes(4, "little") for number in (20240520, 20240801)]  # how the headers of llm.c's token files start
FEW = 16  # distinct numbers: where every second one is one of so few, and the others are more, they are halves of wider ids
MANY = 1000  # numbers: among so many 16-bit ids some would have an eighth bit, which characters never have
FILES = {"train": "train.bin", "validation": "val.bin", "test": "test.bin"}
BLOCK = 1 << 24  # ids read at a time


@dataclass(frozen=True)
class Tokens:
    """Prepared token files, and the facts that a report states."""

    folder: Path
    dtype: str
    sums: dict[str, str]  # of each file
    manifest: str  # sha256 over every split
    sizes: dict[str, int]
    baselines: dict[str, float]  # nats per token on the validation split

    @property
    def halved(self) -> bool:
        """Whether validation and test are the halves of what the source calls validation."""
        return not (self.folder / FILES["test"]).exists()

    def tokens(self, split: str) -> Ids:
        """The token ids of a split, memory-mapped.

        Raises:
            RunError: a file was altered since they were opened.
        """
        if _sums(self.folder) != self.sums:
            raise RunError(f"{self.folder}: a token file was altered while it was in use; start again, and the files are read again")
        return _splits(self.folder, self.dtype)[split]

    def facts(self) -> dict[str, Any]:
        split = "by file: the first half of val.bin is validation, the second test" if self.halved else "by file: val.bin and test.bin"
        return {"manifest": self.manifest, "tokens": self.sizes, "baselines": self.baselines, "split": split}


def check(value: Any, folder: Path) -> Any:
    """FOLDER, or {folder: FOLDER, dtype: ...}, with its path absolute, without reading anything.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, dict):
        return cache.located("tokens", value, folder)
    if value.keys() != {"folder", "dtype"} or value["dtype"] not in DTYPES:
        raise ValueError(f"tokens takes a path, or folder and dtype, which is one of {', '.join(DTYPES)}, not {value!r}")
    return {"folder": cache.located("tokens", value["folder"], folder), "dtype": value["dtype"]}


def largest(value: Any) -> int:
    """How many ids the numbers of a checked source could tell apart, as far as a model could have a row for each."""
    bits = 8 * np.dtype(DTYPES[_options(value)[1] or USUAL]).itemsize
    return int(2 ** min(bits, 31))


def open_folder(value: Any, vocabulary: int) -> Tokens:
    """The token files of a checked source, read through if this machine has not done so yet.

    Raises:
        InputError: a file is missing, or is not made of ids below `vocabulary` of the width that is said.
    """
    folder, said = _options(value)
    dtype = said or USUAL
    splits = _splits(folder, dtype)
    sums = _sums(folder)
    place = cache.place("tokens", sums, vocabulary, said, RULE)

    def make() -> cache.Prepared:
        for split, ids in splits.items() if said is None else ():
            _refuse_other_widths(folder, split, ids)
        return _read_through(folder, splits, vocabulary), {}

    return Tokens(folder=folder, dtype=dtype, sums=sums, **cache.prepared(place, make))


def _options(value: Any) -> tuple[Path, str | None]:
    """The folder, and the dtype where the study says it."""
    return (Path(value["folder"]), value["dtype"]) if isinstance(value, dict) else (Path(value), None)


def _sums(folder: Path) -> dict[str, str]:
    """The checksum of each file that is there."""
    paths = {name: folder / name for name in FILES.values()}
    try:
        return {name: content.sha256(path, cache.folder()) for name, path in paths.items() if path.exists()}
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", Mark(str(folder))) from None


def _splits(folder: Path, dtype: str) -> dict[str, Ids]:
    splits = {split: _map(folder / name, dtype) for split, name in FILES.items() if split != "test" or (folder / name).exists()}
    if "test" not in splits:
        half = len(splits["validation"]) // 2
        splits |= {"validation": splits["validation"][:half], "test": splits["validation"][half:]}
    return splits


def _map(path: Path, dtype: str) -> Ids:
    width = np.dtype(DTYPES[dtype]).itemsize
    try:
        size = path.stat().st_size
        if size % width or size < 2 * width:
            raise InputError(f"token files hold {8 * width}-bit ids, at least two; this one has {size} bytes", Mark(str(path)))
        with path.open("rb") as file:
            start = file.read(6)
        law = "token files are numbers without a header; this one has that of"
        if start[:4] in LLMC:
            raise InputError(f"{law} llm.c: write what follows its 1024 bytes to a file of its own", Mark(str(path)))
        if start == b"\x93NUMPY":
            raise InputError(f"{law} a .npy file: numpy.load(...).tofile(...) writes the numbers alone", Mark(str(path)))
        return np.memmap(path, dtype=DTYPES[dtype], mode="r")
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}; {{tokens: FOLDER}} needs train.bin and val.bin", Mark(str(path))) from None


def _refuse_other_widths(folder: Path, split: str, ids: Ids) -> None:
    """16-bit numbers that look like the pieces of ids of another width. The upper halves of wider ids are few numbers, mostly 0."""
    some = np.asarray(ids[: BLOCK - BLOCK % 4])
    fours = some[: len(some) - len(some) % 4].reshape(-1, 4)
    distinct = [len(np.unique(fours[:, i])) for i in range(4)]
    zero = [not fours[:, i].any() for i in range(4)]
    found = ""
    if (zero[1] and zero[3] and not zero[2] and distinct[2] > 1) or min(distinct[::2]) > FEW >= max(distinct[1::2]):
        found = "uint32"
    elif (all(zero[1:]) and distinct[0] > 1) or distinct[0] > FEW >= max(distinct[1:]):
        found = "int64"
    elif len(some) >= MANY and some.max() > 255 and some.view(np.uint8).max() < 128:  # characters, two by two
        found = "uint8"
    if found:
        law = f"the {split} split looks like {found} numbers read as 16-bit ids"
        raise InputError(
            f"{law}; tokens: {{folder: {folder}, dtype: {found}}} reads them so, and dtype: {USUAL} as they are", Mark(str(folder))
        )


def _read_through(folder: Path, splits: dict[str, Ids], vocabulary: int) -> dict[str, Any]:
    digest, counts = hashlib.sha256(), {}
    for split, ids in splits.items():
        digest.update(f"{split}\0{len(ids)}\0".encode())
        low, high = min(int(block.min()) for block in _blocks(ids)), max(int(block.max()) for block in _blocks(ids))
        if low < 0:
            raise InputError(f"the {split} split has the id {low}, but ids start at 0; is dtype right?", Mark(str(folder)))
        if high >= vocabulary:
            law = f"the {split} split has the id {high}, but ids end at vocabulary - 1 = {vocabulary - 1}"
            raise InputError(f"{law}; set vocabulary to {high + 1} or more, or dtype to the width of the files", Mark(str(folder)))
        counts[split] = np.zeros(vocabulary, np.int64)
        for block in _blocks(ids):
            digest.update(block.tobytes())
            counts[split] += np.bincount(block, minlength=vocabulary)
    p = counts["train"] + 0.5
    unigram = -(counts["validation"] @ np.log(p / p.sum())) / len(splits["validation"])
    return {"manifest": digest.hexdigest(), "sizes": {k: len(v) for k, v in splits.items()}, "baselines": {"unigram": float(unigram)}}


def _blocks(ids: Ids) -> Iterator[Ids]:
    for start in range(0, len(ids), BLOCK):
        yield np.asarray(ids[start : start + BLOCK])
