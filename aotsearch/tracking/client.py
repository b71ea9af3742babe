"""What is said to mlflow: its client, and its entities from plain values; with `models` all that imports it."""

from __future__ import annotations

import contextlib
import datetime
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aotsearch.files import written
from aotsearch.tasks import cache
from aotsearch.tracking import wording
from aotsearch.tracking.wording import LONGEST, finite, key_of, plain

# Set before mlflow is imported, and for its server: nothing is sent anywhere, no job workers are started for a local UI, errors alone are
# printed.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_LOGGING_LEVEL": "ERROR"}

Values = Mapping[str, Any]


def client(path: Path) -> Any:
    return opened(f"sqlite:///{path}")


def opened(uri: str) -> Any:
    """A client of any store."""
    return _opener()(uri)


def make(path: Path) -> None:
    """A store without runs, copied from one that is made once for a version of mlflow: its migrations take seconds."""
    with contextlib.suppress(OSError, sqlite3.Error):  # mlflow makes it where it is opened, as well
        open_ = _opener()
        from mlflow import __version__

        empty = cache.folder() / f"mlflow-{__version__}.db"
        if not empty.exists():
            empty.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=empty.parent) as folder:
                open_(f"sqlite:///{folder}/made.db").search_experiments(max_results=1)
                _copy(Path(folder) / "made.db", Path(folder) / "whole.db")
                (Path(folder) / "whole.db").replace(empty)
        with written(path) as made:  # half a store would be migrated, which fails for ever
            _copy(empty, made)


def set_aside(path: Path) -> Path | None:
    """Move a store away that is damaged, or was killed while mlflow made its tables; where it went, None where it is whole.

    Raises:
        sqlite3.OperationalError: it is locked, or the disk does not answer.
    """
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
            whole = connection.execute("PRAGMA quick_check(1)").fetchone() == ("ok",)
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:
        whole, tables = False, set()
    if whole and "alembic_version" in tables and not any(name.startswith("_alembic_tmp") for name in tables):
        return None
    for end in ("-wal", "-shm"):
        path.with_name(f"{path.name}{end}").unlink(missing_ok=True)
    return path.replace(path.with_name(f"{path.name}.damaged"))


def _opener() -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets them; what matters reaches the user as our one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient


def _copy(here: Path, there: Path) -> None:
    """A database with what its log still holds."""
    with contextlib.closing(sqlite3.connect(here)) as source, contextlib.closing(sqlite3.connect(there)) as target:
        source.backup(target)


def tags(tags: Values) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(name, str(value)[: LONGEST["tag"]]) for name, value in tags.items()]


def params(params: Values) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, plain(value)[: LONGEST["param"]]) for name, value in params.items()]


def metrics(numbers: Values, when: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, float(value), when, 0) for name, value in numbers.items() if finite(value)]


def inputs(data: Values) -> list[Any]:
    """The data of a trial, an input for each split that it reads; nothing is read for that."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    made = []
    for split in data["splits"]:
        one = Dataset(f"{data['name']} ({split})"[:500], data["digest"][:36], "aotsearch", data["source"], profile=data["profile"])
        made.append(DatasetInput(one, [InputTag("mlflow.data.context", split)]))
    return made


def layers(record: Values, when: int) -> list[Any]:
    """Diagnostics as one metric each, the layer as the step."""
    from mlflow.entities import Metric

    return [Metric(name, value, when, place) for name, value, place in wording.layers(record)]


def curve(points: Iterable[Values], logged: set[tuple[str, int]]) -> Iterator[Any]:
    """The metrics of points that are not `logged` yet, which they then are: `train_loss` -> `train/loss`, the rest is `validation/...`."""
    from mlflow.entities import Metric

    for point in points:
        step = int(point["step"])
        for name, value in point.items():
            metric = f"train/{key_of(name[6:])}" if name.startswith("train_") else f"validation/{key_of(name)}"
            if name in ("step", "time") or not finite(value) or (metric, step) in logged:
                continue
            logged.add((metric, step))
            yield Metric(metric, float(value), point["time"], step)


def now() -> int:
    return round(1000 * time.time())


def milliseconds(iso: str) -> int:
    return round(1000 * datetime.datetime.fromisoformat(iso).timestamp())
