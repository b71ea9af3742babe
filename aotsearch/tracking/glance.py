"""A look into MLflow's store without mlflow, whose import takes longer than a start that has nothing to do."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

FILE = "mlflow.db"
ARTIFACTS = "artifacts"
ROLE, SHOWN = "aot.role", "aot.shown"  # tags of the parent run
KEY, FINISHED = "aot.key", "aot.finished"  # of a trial

# the runs of the experiment of this name that has its artifacts here
_HERE = """FROM runs r JOIN experiments e ON e.experiment_id = r.experiment_id
WHERE e.name = :name AND e.artifact_location = :place AND e.lifecycle_stage = 'active' AND r.lifecycle_stage = 'active'"""
_TAG = "(SELECT t.value FROM tags t WHERE t.run_uuid = r.run_uuid AND t.key = '{}')"
_PARENTS = f"SELECT {_TAG.format(SHOWN)} {_HERE} AND {_TAG.format(ROLE)} = 'study' AND r.status = 'FINISHED'"
_RUNNING = f"SELECT count(*) {_HERE} AND r.status IN ('RUNNING', 'SCHEDULED')"
_TRIALS = f"SELECT {_TAG.format(KEY)}, {_TAG.format(FINISHED)} {_HERE}"


def shown(folder: Path, name: str, fingerprint: str, finished: Mapping[str, str]) -> bool:
    """Whether the view of a run folder is whole and of today.

    Args:
        name: Of the study.
        fingerprint: Of what was published there last.
        finished: Of every trial that it shows, by key.
    """
    path = folder / FILE
    if not path.is_file():
        return False
    here = {"name": name, "place": (folder / ARTIFACTS).as_uri()}
    try:
        with contextlib.closing(sqlite3.connect(path, timeout=1)) as connection:
            published = connection.execute(_PARENTS, here).fetchall() == [(fingerprint,)]
            ended = connection.execute(_RUNNING, here).fetchone() == (0,)
            return published and ended and finished.items() <= set(connection.execute(_TRIALS, here))
    except sqlite3.Error:  # no database, or one of another form: mlflow looks into it
        return False
