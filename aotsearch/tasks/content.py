"""What a file holds, as a checksum: read through once in a process, and a large file once on this machine, until it changes.

A file has changed where its size, inode or one of its times has, which the system sets whenever it is written, moved or replaced. Times
are too coarse to tell two writes within a moment apart, so what was written just now is read through every time.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import time
from pathlib import Path

from aotsearch.files import digest, written

LARGE = 1 << 28  # bytes, from which a file's checksum is remembered on disk: reading it takes a quarter of a second, and each worker would
LONG = 1 << 32  # bytes, from which it is said that a file is read through: it takes some seconds
MOMENT = 1e9  # nanoseconds within which a file's time may not tell a second write
Signature = list[int]

log = logging.getLogger(__name__)
_known: dict[Path, tuple[Signature, str]] = {}  # of files that were not written just then
_met: dict[Path, Signature | None] = {}  # every file that was asked for, as it was last seen
_changes = 0


def sha256(path: Path, memory: Path) -> str:
    """The checksum of a file.

    Args:
        memory: The folder where those of large files are remembered.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    signature = _signature(path)
    _meet(path, signature)
    if path in _known and _known[path][0] == signature:
        return _known[path][1]
    size, remembered = signature[0], memory / f"sum-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.json"
    found = _recalled(remembered, signature) if size >= LARGE else ""
    if not found:
        if size >= LONG:
            log.warning("%s: its %.0f GB are read through, to know that they are whole; again only when the file changes", path, size / 1e9)
        began = time.time_ns()
        found = digest(path)
        if _signature(path) != signature or any(abs(began - at) < MOMENT for at in signature[2:]):
            return found
        if size >= LARGE:
            _remember(remembered, signature, found)
    _known[path] = signature, found
    return found


def changes() -> int:
    """How often this process has seen a file change that it had asked for: whoever has one mapped is to open it again after that."""
    for path in _met:
        try:
            _meet(path, _signature(path))
        except OSError:
            _meet(path, None)
    return _changes


def _meet(path: Path, signature: Signature | None) -> None:
    global _changes
    seen = signature and signature[:3]  # the last time changes with names and rights as well, which those who read do not see
    if path in _met and _met[path] != seen:
        _changes += 1
    _met[path] = seen


def _signature(path: Path) -> Signature:
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe may never end
        raise OSError(errno.EINVAL, "is no regular file", str(path))
    return [found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]


def _recalled(remembered: Path, signature: Signature) -> str:
    """The checksum that was found of a file with this signature; empty where none was, or where what was written down is not whole."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        found = json.loads(remembered.read_text(encoding="utf-8"))
        if found == _entry(signature, found["file"]):
            return str(found["file"])
    return ""


def _remember(remembered: Path, signature: Signature, found: str) -> None:
    with contextlib.suppress(OSError), written(remembered) as made:  # a cache that cannot be written costs time alone
        made.write_text(json.dumps(_entry(signature, found)), encoding="utf-8")


def _entry(signature: Signature, found: str) -> dict[str, object]:
    return {"signature": signature, "file": found, "sha256": hashlib.sha256(f"{signature} {found}".encode()).hexdigest()}
