"""Where prepared data lies, and how it gets there whole."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from aotsearch.errors import RunError

SPLITS = ("train", "validation", "test")
FACTS = "facts.json"  # a prepared folder has it, with what a report states
Prepared = tuple[Mapping[str, Any], Mapping[str, Any]]  # facts; name -> content of files


def folder() -> Path:
    """$AOTSEARCH_CACHE, else the user's cache folder."""
    return Path(os.environ.get("AOTSEARCH_CACHE") or platformdirs.user_cache_path("aotsearch"))


def digest(*key: Any) -> str:
    """Names data by what it is made from."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def place(kind: str, *key: Any) -> Path:
    """The folder of data that is named by a key instead of by its content."""
    return folder() / f"{kind}-{digest(*key)[:16]}"


def prepared(place: Path, make: Callable[[], Prepared]) -> dict[str, Any]:
    """The facts about the data that lies at `place`, where `make` brings it if this machine does not have it yet.

    It is written whole or not at all, so that readers never see half.

    Args:
        make: Returns the facts, and the files of the folder: arrays for .npy, else bytes.

    Raises:
        RunError: the disk is full or cannot be written.
    """
    if not (place / FACTS).exists():
        _write(place, *make())
    found: dict[str, Any] = json.loads((place / FACTS).read_text())
    return found


def _write(place: Path, facts: Mapping[str, Any], files: Mapping[str, Any]) -> None:
    made = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        made.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            np.save(made / name, content) if name.endswith(".npy") else (made / name).write_bytes(content)
        (made / FACTS).write_text(json.dumps(facts))
        try:
            made.rename(place)
        except OSError:
            if not (place / FACTS).exists():  # else another process was first, with the same bytes
                raise
    except OSError as e:
        raise RunError(f"{place.parent}: cannot write the prepared data: {e.strerror}; set AOTSEARCH_CACHE to another folder") from None
    finally:
        shutil.rmtree(made, ignore_errors=True)


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


def signature(path: Path) -> list[Any]:
    """Names a file's content without reading it: where it lies, its size and when it was written."""
    found = path.stat()
    return [str(path), found.st_size, found.st_mtime_ns]
