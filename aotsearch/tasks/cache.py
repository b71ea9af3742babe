"""Where prepared data lies, and how it gets there whole."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aotsearch.errors import RunError

SPLITS = ("train", "validation", "test")
FACTS = "facts.json"  # a prepared folder has it, with what a report states


def folder() -> Path:
    """$AOTSEARCH_CACHE, else the user's cache folder."""
    base = os.environ.get("AOTSEARCH_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "aotsearch"
    return Path(base)


def place(kind: str, *key: Any) -> Path:
    """The folder of data that is named by a key instead of by its content."""
    return folder() / f"{kind}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]}"


@contextlib.contextmanager
def written(place: Path) -> Iterator[Path]:
    """A folder to write to that becomes `place` when the block ends: whole or not at all, so that readers never see half.

    Raises:
        RunError: the disk is full or can not be written.
    """
    made = place.with_name(f".{place.name}.{os.getpid()}")
    try:
        made.mkdir(parents=True, exist_ok=True)
        yield made
        try:
            made.rename(place)
        except OSError:
            if not (place / FACTS).exists():  # else another process was first, with the same bytes
                raise
    except OSError as e:
        raise RunError(f"{place.parent}: can not write the prepared data: {e.strerror}; set AOTSEARCH_CACHE to another folder") from None
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
