"""The task of a trial on this machine: a worker that trains many opens its data once."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aotsearch.grammar import library


def load_task(trial: Mapping[str, Any]) -> Any:
    """The task of a trial."""
    return _task(_text(trial))


def manifest(trial: Mapping[str, Any]) -> str:
    """What the data of a trial is on this machine: the beginning of its digest."""
    return _manifest(_text(trial))


def _text(trial: Mapping[str, Any]) -> str:
    return json.dumps(trial["task"], sort_keys=True)


@functools.cache
def _task(text: str) -> Any:
    ((name, options),) = json.loads(text).items()
    return library.find("task", name).make(Path(), **options)


@functools.cache  # some tasks make their baselines for it
def _manifest(text: str) -> str:
    return str(_task(text).prepare().get("manifest", ""))[:12]
