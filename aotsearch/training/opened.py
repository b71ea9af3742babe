"""The task of a trial on this machine: a worker that trains many opens its data once, and again where it was altered."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aotsearch.errors import RunError
from aotsearch.grammar import library
from aotsearch.tasks import content


def load_task(trial: Mapping[str, Any]) -> Any:
    """The task of a trial.

    Raises:
        InputError: its data is missing.
        RunError: its data is not what the run began with.
    """
    text, changes = _text(trial), content.changes()
    wanted, found = trial.get("manifest"), _manifest(text, changes)
    if wanted and found != wanted:
        law = f"the data was altered since this run began (manifest {wanted[:12]}, now {found[:12] or 'none'})"
        raise RunError(f"{law}; bring it back as it was and start again, or name another --out")
    return _task(text, changes)


def manifest(trial: Mapping[str, Any]) -> str:
    """What the data of a trial is on this machine: the beginning of its digest."""
    return _manifest(_text(trial), content.changes())[:12]


def _text(trial: Mapping[str, Any]) -> str:
    return json.dumps(trial["task"], sort_keys=True)


@functools.lru_cache(maxsize=4)
def _task(text: str, changes: int) -> Any:
    ((name, options),) = json.loads(text).items()
    return library.find("task", name).make(Path(), **options)


@functools.lru_cache(maxsize=4)  # some tasks make their baselines for it
def _manifest(text: str, changes: int) -> str:
    return str(_task(text, changes).prepare().get("manifest", ""))
