"""What a report was made from, kept beside it, so that one that would come out the same is not made again."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FOLDER = "report"
FILE = ".made.json"
WHOLE = {"report.html", "report.md", "report.tex", "contrasts.csv", "trials.csv"}  # what a report in every format has at least


def note(folder: Path, fingerprint: str, files: Mapping[str, bytes]) -> bytes:
    """The content of FILE, once these files are written: with those that were written before from the same."""
    known = _read(folder)
    before = known["files"] if known.get("fingerprint") == fingerprint else {}
    return json.dumps({"fingerprint": fingerprint, "files": before | {name: _digest(content) for name, content in files.items()}}).encode()


def files(folder: Path, fingerprint: str) -> list[Path]:
    """The files of a run folder's report, where every format is there as it was made from what `fingerprint` names; else none."""
    known = _read(folder)
    if known.get("fingerprint") != fingerprint or not WHOLE <= known["files"].keys():
        return []
    paths = {folder / FOLDER / name: digest for name, digest in known["files"].items()}
    with contextlib.suppress(OSError):
        if all(_digest(path.read_bytes()) == digest for path, digest in paths.items()):
            return list(paths)
    return []


def _read(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / FOLDER / FILE).read_text())
        return found if isinstance(found.get("files"), dict) else {}
    except (OSError, ValueError, AttributeError):  # none, or one that we did not write
        return {}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
