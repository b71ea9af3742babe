"""A path as a person gives it, a file written whole or not at all, and what one holds as a digest."""

from __future__ import annotations

import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from aotsearch.errors import InputError, RunError


def from_user(path: str | Path) -> Path:
    """A path with `~` as in a shell, which leaves it as it is in `--out=~/x`, in quotes and in most places of a variable.

    Raises:
        InputError: it names the home of somebody who is not known here.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(
            f"{path}: {Path(path).parts[0]} is the home of nobody known here; write ./{path} for a folder of that name"
        ) from None


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to; it becomes `path` when the block ends, and is gone where that goes wrong.

    Whoever reads sees the old file or the new one, whole, whenever a process is killed. The folder is made where there is none.

    Raises:
        OSError: the disk is full or cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)  # also where it was another name of the same file: then a rename does nothing


def put(path: Path, content: bytes, remedy: str = "") -> Path:
    """Write a file, whole or not at all; the folder is made where there is none.

    Args:
        remedy: What is to be done where the disk refuses it.

    Raises:
        RunError: the disk refused it.
    """
    try:
        with written(path) as beside:
            beside.write_bytes(content)
    except OSError as e:
        raise RunError(f"{path}: {e.strerror}{remedy and f'; {remedy}'}") from None
    return path


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
