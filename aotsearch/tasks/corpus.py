"""Text as bytes on disk: a source -> train, validation and test splits, tokenised once, memory-mapped, shared by all workers.

The cache is addressed by content: its folder is named by the digest of the manifest (every document with its size and hash) and of
the split rule, so equal data is never prepared twice and changed data is never mistaken for the old.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aotsearch.errors import InputError, Mark, suggest
from aotsearch.tasks import cache, hub

RULE = 1  # raise it when the split changes: it is part of the cache's address
VALIDATION, TEST = 0.01, 0.02  # shares of the bytes, for text that is split by document
ENOUGH = 20  # documents; fewer are cut by position instead

SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
KINDS = ("python-stdlib", "tinyshakespeare", "text", "hub", "tokens")
FORMS = "python-stdlib, tinyshakespeare, {tinyshakespeare: PATH}, {text: GLOB}, {hub: NAME} or {tokens: FOLDER}"
INSTEAD = "a local file: data: {text: GLOB}"


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: where its splits lie, and the facts that a report states."""

    folder: Path
    manifest: str  # sha256 over every document
    documents: int
    bytes: dict[str, int]
    baselines: dict[str, float]  # bits per byte on the validation split

    def tokens(self, split: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a split, memory-mapped."""
        assert split in cache.SPLITS, split
        return np.memmap(self.folder / f"{split}.bin", dtype=np.uint8, mode="r")

    def facts(self) -> dict[str, Any]:
        return {"manifest": self.manifest, "documents": self.documents, "bytes": self.bytes, "baselines": self.baselines}


def check(data: Any, folder: Path) -> dict[str, Any]:
    """The `data` option in its full form, `{kind: options}`, without reading anything.

    Raises:
        ValueError: it is not one of the forms.
    """
    if isinstance(data, str):
        if data not in KINDS[:2]:
            raise ValueError(f"unknown data {data!r}{suggest(data, KINDS)}")
        return {data: None}
    if len(data) != 1 or next(iter(data)) not in KINDS[1:]:
        raise ValueError(f"data is {FORMS}, not {data}")
    ((kind, value),) = data.items()
    if kind == "hub":
        options = {"name": value} if isinstance(value, str) else value
        known = {"name", "config", "split", "column", "documents"}
        if not isinstance(options, dict) or not isinstance(options.get("name"), str) or options.keys() - known:
            raise ValueError(f"hub takes NAME or a mapping of {', '.join(sorted(known))}, not {value!r}")
        return {"hub": options}
    return {kind: cache.located(kind, value, folder)}


def prepare(source: dict[str, Any]) -> Corpus:
    """The corpus of a checked source, read and split if this machine does not have it yet.

    Raises:
        InputError: the data is missing, empty, or not what it should be.
    """
    ((kind, value),) = source.items()
    documents = list(_read(kind, value))
    if not documents or sum(len(text) for _, text in documents) < 1000:
        raise InputError(f"data {kind}: {value or 'the source'} holds less than 1000 bytes of text")
    lines = [f"{name}\0{len(text)}\0{hashlib.sha256(text).hexdigest()}" for name, text in documents]
    manifest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    folder = cache.folder() / f"{kind}-{manifest[:16]}-{RULE}"
    if not (folder / cache.FACTS).exists():
        _write(folder, manifest, documents)
    return load(folder)


def load(folder: Path) -> Corpus:
    """A corpus that `prepare` has written."""
    return Corpus(folder=folder, **json.loads((folder / cache.FACTS).read_text()))


def _write(folder: Path, manifest: str, documents: list[tuple[str, bytes]]) -> None:
    splits = split(documents)
    facts = {
        "manifest": manifest,
        "documents": len(documents),
        "bytes": {name: len(text) for name, text in splits.items()},
        "baselines": baselines(splits["train"], splits["validation"]),
    }
    with cache.written(folder) as made:
        for name, text in splits.items():
            (made / f"{name}.bin").write_bytes(text)
        (made / cache.FACTS).write_text(json.dumps(facts))


def split(documents: list[tuple[str, bytes]]) -> dict[str, bytes]:
    """Train, validation and test bytes.

    Twenty documents or more are split by document: in the order of the hash of their names, validation takes documents up to 1 % of
    the bytes, test up to 2 % more. Fewer are joined and cut by position: the first 90 % train, then 5 % and 5 %.
    """
    if len(documents) < ENOUGH:
        text = b"".join(t for _, t in documents)
        cuts = [0, int(0.9 * len(text)), int(0.95 * len(text)), len(text)]
        return {name: text[cuts[i] : cuts[i + 1]] for i, name in enumerate(cache.SPLITS)}
    total = sum(len(text) for _, text in documents)
    place, filled = {}, dict.fromkeys(cache.SPLITS, 0)
    for name, text in sorted(documents, key=lambda d: hashlib.sha256(d[0].encode()).hexdigest()):
        for part, share in (("validation", VALIDATION), ("test", TEST), ("train", 2.0)):
            if filled[part] + len(text) <= share * total or (part != "train" and not filled[part]):
                place[name] = part
                filled[part] += len(text)
                break
    return {part: b"".join(text for name, text in documents if place[name] == part) for part in cache.SPLITS}


def baselines(train: bytes, validation: bytes) -> dict[str, float]:
    """Bits per byte of the validation split under add-half unigram and bigram counts of the training split.

    Source: Krichevsky and Trofimov 1981 for the add-half rule.
    """
    t, v = (np.frombuffer(b, dtype=np.uint8).astype(np.int64) for b in (train, validation))
    unigram = np.bincount(t, minlength=256) + 0.5
    bigram = np.bincount(t[:-1] * 256 + t[1:], minlength=65536).reshape(256, 256) + 0.5
    p = unigram / unigram.sum()
    q = bigram / bigram.sum(1, keepdims=True)
    return {"unigram": float(-np.log2(p[v]).mean()), "bigram": float(-np.log2(q[v[:-1], v[1:]]).mean())}


def _read(kind: str, value: Any) -> Iterator[tuple[str, bytes]]:
    if kind == "python-stdlib":
        yield from _stdlib()
    elif kind == "text":
        yield from _text(value)
    elif kind == "tinyshakespeare":
        text = _file(Path(value)) if value else _download_shakespeare()
        found = hashlib.sha256(text).hexdigest()
        if found != SHAKESPEARE_SHA256:
            raise InputError(f"data tinyshakespeare: sha256 is {SHAKESPEARE_SHA256[:12]}..., this text has {found[:12]}...", _mark(value))
        yield "tinyshakespeare", text
    else:
        yield from _hub(**value)


def _stdlib() -> Iterator[tuple[str, bytes]]:
    """Every source file of this Python's standard library, without tests and installed packages, by path."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        inner = path.relative_to(root)
        if not SKIPPED & set(inner.parts):
            yield inner.as_posix(), path.read_bytes()


def _text(pattern: str) -> Iterator[tuple[str, bytes]]:
    paths = sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())  # noqa: PTH207 (absolute patterns)
    if not paths:
        raise InputError(f"data text: no file matches {pattern}")
    shared = os.path.commonpath([str(Path(p).parent) for p in paths])
    for path in paths:
        yield Path(os.path.relpath(path, shared)).as_posix(), _file(Path(path))


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(f"can not be read: {e.strerror}", Mark(str(path))) from None


def _mark(path: str | None) -> Mark | None:
    return Mark(path) if path else None


def _download_shakespeare() -> bytes:
    options = {"data_files": SHAKESPEARE_URL, "sample_by": "document", "split": "train"}
    (text,) = hub.fetch("tinyshakespeare", "text", instead=INSTEAD, **options)["text"]
    return str(text).encode()


def _hub(
    name: str, config: str | None = None, split: str = "train", column: str = "text", documents: int | None = None
) -> Iterator[tuple[str, bytes]]:
    rows = hub.fetch(f"hub {name}", name, config, split=split, instead=INSTEAD)
    if column not in rows.column_names:
        raise InputError(f"data hub {name}: no column {column!r}{suggest(column, rows.column_names)}")
    for i, text in enumerate(rows[column][:documents] if documents else rows[column]):
        yield f"{i:09d}", str(text).encode()
