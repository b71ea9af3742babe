"""Where prepared data lies, how it gets there whole, and how it is known to be what was written there.

A prepared folder has a `facts.json`, which is sealed: it holds the checksum of itself and of every file beside it. All are held against
them when the data is opened, so that what was cut, altered or lost since is made again and never trained on.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import platformdirs

from aotsearch.errors import RunError
from aotsearch.files import from_user, written
from aotsearch.tasks import content

SPLITS = ("train", "validation", "test")
FACTS = "facts.json"  # a prepared folder has it: the facts that a report states, and the checksums of the files
Prepared = tuple[Mapping[str, Any], Mapping[str, Any]]  # facts; name -> content of files

log = logging.getLogger(__name__)


class _Damaged(Exception):
    """A file of prepared data is not what was written there."""


def folder() -> Path:
    """$AOTSEARCH_CACHE, else the user's cache folder."""
    return from_user(os.environ.get("AOTSEARCH_CACHE") or platformdirs.user_cache_path("aotsearch"))


def digest(*key: Any) -> str:
    """Names data by what it is made from."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def place(kind: str, *key: Any) -> Path:
    """The folder of data that is named by a key instead of by its content."""
    return folder() / f"{kind}-{digest(*key)[:16]}"


def prepared(place: Path, make: Callable[[], Prepared]) -> dict[str, Any]:
    """The facts about the data that lies at `place`, where `make` brings it if this machine does not have it yet, or not as it was written.

    Every file is written whole or not at all and replaces what was there, so that readers never see half, and whoever has the old one open
    keeps it. Two processes that write at once write the same.

    Args:
        make: Returns the facts, and the files of the folder: arrays for .npy, else bytes.

    Raises:
        RunError: the disk is full, cannot be written, or does not give back what was written.
    """
    try:
        return _verified(place)
    except FileNotFoundError:
        pass
    except _Damaged as e:
        log.warning("%s: the data is prepared again", e)
    _write(place, *make())
    try:
        return _verified(place)
    except (_Damaged, OSError) as e:
        raise RunError(f"{e}, although it was written just now; look to the disk, or set AOTSEARCH_CACHE to another folder") from None


def part(place: Path, name: str) -> Path:
    """A file of prepared data that is to be read now, it and those beside it still what was written there: some may be in use already.

    Raises:
        RunError: one was altered since the data was opened.
    """
    try:
        _verified(place)
    except (_Damaged, OSError) as e:
        raise RunError(f"{e}: it was altered while it was in use; start again, and the data is prepared again") from None
    return place / name


def _verified(place: Path) -> dict[str, Any]:
    """The facts of a prepared folder, where all its files are what was written there.

    Raises:
        FileNotFoundError: nothing was ever finished there.
        RunError: it is another user's, and may not be read.
        _Damaged: something there is missing or altered, or was written by a version that kept no checksums.
    """
    wrong = FACTS
    try:
        sealed = json.loads((place / FACTS).read_text(encoding="utf-8"))
        facts, files = sealed["facts"], sealed["files"]
        if sealed["sha256"] == digest(facts, files):
            wrong = next((name for name in files if content.sha256(place / name, folder()) != files[name]), "")
    except FileNotFoundError as e:
        if e.filename is None or Path(e.filename).name == FACTS:
            raise
        wrong = Path(e.filename).name
    except PermissionError as e:
        raise RunError(f"{e.filename or place}: {e.strerror}; let it be read, or set AOTSEARCH_CACHE to a folder of your own") from None
    except (OSError, ValueError, KeyError, TypeError):
        pass
    if wrong:
        raise _Damaged(f"{place / wrong} is missing, or not what was written there")
    found: dict[str, Any] = facts
    return found


def _write(place: Path, facts: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    try:
        sums = {name: _put(place / name, written_as) for name, written_as in files.items()}
        sealed = {"sha256": digest(facts, sums), "files": sums, "facts": facts}
        _put(place / FACTS, json.dumps(sealed).encode())  # the last: it vouches for the others
    except OSError as e:
        remedy = "remove it, or set AOTSEARCH_CACHE to another folder"
        raise RunError(f"{place}: cannot write the prepared data: {e.strerror}; {remedy}") from None


class _Summing:
    """A file that knows the checksum of what was meant to be written to it, whatever the disk makes of it."""

    def __init__(self, file: IO[bytes]):
        self.file, self.sum = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self.file.write(data)


def _put(path: Path, found: Any) -> str:
    """Write an array or bytes, and return the checksum of the file."""
    with written(path) as made, made.open("wb") as file:
        summing = _Summing(file)
        np.save(summing, found) if isinstance(found, np.ndarray) else summing.write(found)
    return summing.sum.hexdigest()


def located(kind: str, value: Any, folder: Path) -> str:
    """An absolute path from what a study file says: relative to its folder, `~` and $VARIABLES as in a shell.

    Raises:
        ValueError: it is no path.
    """
    try:
        if isinstance(value, str) and value and "\0" not in value:
            return str(folder / Path(os.path.expandvars(value)).expanduser())
    except RuntimeError:  # ~somebody who is not known here
        pass
    raise ValueError(f"{kind} takes a path, not {value!r}")
