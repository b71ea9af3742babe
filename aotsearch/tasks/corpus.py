"""Text as bytes on disk: a source -> train, validation and test splits, tokenised once, memory-mapped, shared by all workers.

The cache is addressed by content: its folder is named by the digest of the manifest (every document with its size and hash, and the rule
of the split), so equal data is never prepared twice and changed data is never mistaken for the old.

A split is a set of spans, each a piece of one document. Whatever the rule, the spans are disjoint and cover every document, so no byte is
in two splits; what is drawn for training or evaluation is cut from the joined spans of one split alone.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from aotsearch.errors import InputError, Mark, one_line, suggest
from aotsearch.tasks import cache, hub, tokens

RULE = 3  # raise it when a split or the facts change: it is part of the cache's address
VALIDATION, TEST = 0.01, 0.02  # shares of the bytes, for text that is split by document
SEVERAL = 5  # documents that validation and test each have, where text is split by document
LARGEST = 0.1  # share of the bytes that no document of such text exceeds
STRETCH, STRETCHES = 20_000, 10  # bytes of a stretch at least, and stretches of a file at most, for text that is split by blocks
ENOUGH = 20  # files; fewer are each cut by themselves, more are first joined with their neighbours to a twentieth of the bytes

RULES = {
    "documents": "by document: whole documents, in the order of the hash of their names",
    "blocks": "by blocks spread over the files: of each stretch 90 % train, then 5 % validation, then 5 % test",
    "position": "by position, as it is published: 90 % train; of the rest the first half is validation, the second test",
}

SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SKIPPED = {"site-packages", "dist-packages", "test", "tests", "idle_test", "lib2to3", "__pycache__"}
KINDS = ("python-stdlib", "tinyshakespeare", "text", "hub", "tokens")
FORMS = "python-stdlib, tinyshakespeare, {tinyshakespeare: PATH}, {text: GLOB}, {hub: NAME} or {tokens: FOLDER}"
INSTEAD = "a local file: data: {text: GLOB}"

Documents = Sequence[tuple[str, bytes]]  # names and texts
Span = tuple[int, int, int]  # number of the document, first byte, end
Spans = dict[str, list[Span]]  # of each split


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus: where its splits lie, and the facts that a report states."""

    folder: Path
    manifest: str  # sha256 over every document, and the rule of the split
    rule: str  # one of RULES
    documents: int
    files: dict[str, int]  # documents that a split has bytes of
    bytes: dict[str, int]
    baselines: dict[str, float]  # bits per byte on the validation split
    notes: list[str]  # what is odd about it, a line each

    @property
    def halved(self) -> bool:
        """Whether validation and test are the halves of what the source calls validation."""
        return self.rule == "position"

    def tokens(self, split: str) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The bytes of a split, memory-mapped.

        Raises:
            RunError: they were altered since the corpus was opened.
        """
        assert split in cache.SPLITS, split
        return np.memmap(cache.part(self.folder, f"{split}.bin"), dtype=np.uint8, mode="r")

    def facts(self) -> dict[str, Any]:
        split = {"split": RULES[self.rule], "split_documents": self.files}
        notes = {"notes": self.notes} if self.notes else {}
        return {"manifest": self.manifest, "documents": self.documents, "bytes": self.bytes, "baselines": self.baselines, **split, **notes}


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
        return {"hub": hub.check(value, dict.fromkeys(("name", "config", "split", "column", "documents"), object))}
    if kind == "tokens":
        return {"tokens": tokens.check(value, folder)}
    if kind == "text":
        return {"text": _pattern(value, folder)}
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
    rule = rule_of(kind, documents)
    lines = [f"{name}\0{len(text)}\0{hashlib.sha256(text).hexdigest()}" for name, text in documents]
    lines += [f"split by {rule}"] * (rule == "blocks")  # the other rules are older than this line
    manifest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    folder = cache.folder() / f"{kind}-{manifest[:16]}-{RULE}"
    return Corpus(folder=folder, **cache.prepared(folder, lambda: _made(manifest, rule, documents)))


def _made(manifest: str, rule: str, documents: Documents) -> cache.Prepared:
    spans = split(documents, rule)
    texts = {name: joined(documents, found) for name, found in spans.items()}
    short = next((name for name, text in texts.items() if len(text) < 2), "")
    if short:  # before it is kept: a start after this one would find it
        filled = sum(bool(text) for _, text in documents)
        law = f"each split needs two bytes, a target and what comes before it; {short} has {len(texts[short])}"
        raise InputError(f"{law} ({len(documents)} documents, {filled} of them not empty, split {RULES[rule]}); give more text")
    facts = {
        "manifest": manifest,
        "rule": rule,
        "documents": len(documents),
        "files": {name: len({document for document, _, _ in found}) for name, found in spans.items()},
        "bytes": {name: len(text) for name, text in texts.items()},
        "baselines": baselines(texts["train"], texts["validation"]),
        "notes": oddities(documents),
    }
    return facts, {f"{name}.bin": text for name, text in texts.items()}


def oddities(documents: Documents) -> list[str]:
    """What a person should know of texts that are read as bytes whatever they are, a line each."""
    zeros = {name: text.count(0) for name, text in documents if 0 in text}
    wide = [name for name, text in documents if name in zeros and _two_bytes_each(text)]
    empty = [name for name, text in documents if not text]
    share = f"{sum(zeros.values()):,} of {sum(len(text) for _, text in documents):,} bytes are NUL"
    found = []
    if wide:
        remedy = "they are trained on byte by byte; `iconv -f UTF-16 -t UTF-8` makes UTF-8 of them"
        found.append(f"{_some(wide, documents)} look like UTF-16 ({share}): {remedy}")
    elif zeros:
        found.append(f"{_some(list(zeros), documents)} have NUL bytes, which text has not ({share}): they are trained on as they are")
    if len(empty) > len(documents) / 2:
        found.append(f"{_some(empty, documents)} are empty")
    return found


def _two_bytes_each(text: bytes) -> bool:
    """Whether a text says that it is UTF-16, or has its zeros at every second byte, as UTF-16 of western letters has."""
    odd, even = (text[start::2].count(0) for start in (1, 0))
    return text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or max(odd, even) > max(len(text) / 4, 10 * min(odd, even))


def _some(names: Sequence[str], documents: Documents) -> str:
    return f"{len(names)} of {len(documents)} documents ({one_line(names[0])}{', ...' if names[1:] else ''})"


def rule_of(kind: str, documents: Documents) -> str:
    """How a text is split: one of RULES.

    tinyshakespeare is cut where nanoGPT cuts it. Other text is split by document where the documents are many: none has more than a tenth
    of the bytes, and validation and test each get five or more, with between half and twice their share of the bytes. Else by blocks.
    """
    if kind == "tinyshakespeare":
        return "position"
    total = sum(len(text) for _, text in documents)
    if max(len(text) for _, text in documents) > LARGEST * total:
        return "blocks"
    spans = _whole(documents)
    for name, share in (("validation", VALIDATION), ("test", TEST)):
        got = sum(stop for _, _, stop in spans[name]) / total
        if len(spans[name]) < SEVERAL or not share / 2 <= got <= 2 * share:
            return "blocks"
    return "documents"


def split(documents: Documents, rule: str) -> Spans:
    """The spans of train, validation and test, in the order of the documents: disjoint, and together everything."""
    assert rule in RULES, rule
    if rule == "documents":
        return _whole(documents)
    spans: Spans = {name: [] for name in cache.SPLITS}
    groups = [list(range(len(documents)))] if rule == "position" else _groups(documents)
    for group in groups:
        size = sum(len(documents[i][1]) for i in group)
        stretches = 1 if rule == "position" else min(STRETCHES, max(1, size // STRETCH))
        for k in range(stretches):
            start, stop = k * size // stretches, (k + 1) * size // stretches
            cuts = [start + int(share * (stop - start)) for share in (0.0, 0.9, 0.95, 1.0)]
            for name, a, b in zip(cache.SPLITS, cuts, cuts[1:], strict=False):
                spans[name] += _spans(documents, group, a, b)
    return spans


def joined(documents: Documents, spans: Sequence[Span]) -> bytes:
    """The bytes of a split."""
    return b"".join(documents[i][1][start:stop] for i, start, stop in spans)


def _whole(documents: Documents) -> Spans:
    """Whole documents: in the order of the hash of their names, validation takes those up to 1 % of the bytes, test up to 2 % more."""
    total = sum(len(text) for _, text in documents)
    place, filled = {}, dict.fromkeys(cache.SPLITS, 0)
    for name, text in sorted(documents, key=lambda d: hashlib.sha256(d[0].encode()).hexdigest()):
        for part, share in (("validation", VALIDATION), ("test", TEST), ("train", 2.0)):
            if filled[part] + len(text) <= share * total or (part != "train" and not filled[part]):
                place[name] = part
                filled[part] += len(text)
                break
    return {part: [(i, 0, len(text)) for i, (name, text) in enumerate(documents) if text and place[name] == part] for part in cache.SPLITS}


def _groups(documents: Documents) -> list[list[int]]:
    """What is cut by itself: each document where they are few, else neighbours together, so that blocks are not crumbs."""
    filled = [i for i, (_, text) in enumerate(documents) if text]
    if len(filled) < ENOUGH:
        return [[i] for i in filled]
    least = sum(len(documents[i][1]) for i in filled) / ENOUGH
    groups, sizes = [[filled[0]]], [len(documents[filled[0]][1])]
    for i in filled[1:]:
        if sizes[-1] >= least:
            groups.append([])
            sizes.append(0)
        groups[-1].append(i)
        sizes[-1] += len(documents[i][1])
    if sizes[-1] < least:
        last = groups.pop()
        groups[-1] += last
    return groups


def _spans(documents: Documents, group: Sequence[int], start: int, stop: int) -> Iterator[Span]:
    """The bytes from `start` to `stop` of some joined documents, as spans of each."""
    before = 0
    for i in group:
        size = len(documents[i][1])
        a, b = max(0, start - before), min(size, stop - before)
        if a < b:
            yield i, a, b
        before += size


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
    paths: list[Path] = []
    for folder, inner, files in os.walk(root):
        inner[:] = [name for name in inner if name not in SKIPPED]  # of all that is installed, most is not even looked at
        paths += [Path(folder, name) for name in files if name.endswith(".py")]
    for path in sorted(paths, key=lambda p: p.relative_to(root).as_posix()):
        yield path.relative_to(root).as_posix(), path.read_bytes()


def _pattern(value: Any, folder: Path) -> str:
    """An absolute pattern; the signs of one in the name of the study's own folder are letters."""
    return cache.located("text", value, Path(glob.escape(str(folder))))


def _text(pattern: str) -> Iterator[tuple[str, bytes]]:
    paths = _matching(pattern) or _matching(_by_name(pattern))
    if not paths:
        raise InputError(f"data text: no file matches {pattern}")
    paths = list({os.path.realpath(p): p for p in reversed(paths)}.values())[::-1]  # a file met twice would be in two splits
    shared = os.path.commonpath([str(Path(p).parent) for p in paths])
    for path in paths:
        yield Path(os.path.relpath(path, shared)).as_posix(), _file(Path(path))


def _matching(pattern: str) -> list[str]:
    return sorted(p for p in glob.glob(pattern, recursive=True) if Path(p).is_file())  # noqa: PTH207 (absolute patterns)


def _by_name(pattern: str) -> str:
    """A pattern whose first folders, or whose file, bear names with the signs of a pattern, such as `runs [v2]/*.txt`."""
    place, *parts = Path(pattern).parts
    known = Path(place)
    for i, part in enumerate(parts):
        known = known / re.sub(r"\[([*?[])\]", r"\1", part)  # without the signs that `_pattern` has made letters
        if not os.path.exists(known):  # noqa: PTH110 (which no name makes fail)
            return str(Path(glob.escape(str(known.parent)), *parts[i:]))
    return glob.escape(str(known))


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise InputError(f"cannot be read: {e.strerror}", Mark(str(path))) from None


def _mark(path: str | None) -> Mark | None:
    return Mark(path) if path else None


def _download_shakespeare() -> bytes:
    options = {"data_files": SHAKESPEARE_URL, "sample_by": "document", "split": "train"}
    (text,) = hub.fetch("tinyshakespeare", "text", instead=INSTEAD, **options)["text"]
    return str(text).encode()


def _hub(
    name: str, config: str | None = None, split: str = "train", column: str = "text", documents: int | None = None
) -> Iterator[tuple[str, bytes]]:
    rows = hub.fetch(f"hub {name}", name, config, split=split, instead=INSTEAD, columns=[column])
    for i, text in enumerate(rows[column][:documents] if documents else rows[column]):
        yield f"{i:09d}", str(text).encode()
