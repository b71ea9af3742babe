"""An MLflow experiment of anybody's -> plain rows, one for each run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from aotsearch.errors import InputError, RunError, first_line, suggest
from aotsearch.tracking.client import opened

PAGE = 1000  # runs that a store gives at once


def rows(uri: str, name: str) -> list[dict[str, Any]]:
    """Parameters, last metrics and own tags of every run that is not deleted, with its name, status and seconds, the oldest first.

    Raises:
        InputError: there is no such experiment.
        RunError: the store does not answer.
    """
    path = Path(uri.removeprefix("sqlite:///").removeprefix("file://"))
    if ("://" not in uri or uri.startswith(("sqlite:///", "file://"))) and not path.exists():  # mlflow would make one
        raise InputError(f"{uri}: there is no MLflow store at {path}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what mlflow and sqlalchemy say of each other
        return _rows(uri, name)


def _rows(uri: str, name: str) -> list[dict[str, Any]]:
    try:
        client = opened(uri)
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            raise InputError(f"{uri} has no experiment {name!r}{suggest(name, [e.name for e in client.search_experiments()])}")
        found, token = [], None
        while True:
            page = client.search_runs([experiment.experiment_id], max_results=PAGE, page_token=token)
            found += page
            token = page.token
            if not token:
                break
    except InputError:
        raise
    except Exception as e:  # noqa: BLE001 (stores fail in ways of their own)
        raise RunError(f"the MLflow store {uri} cannot be read: {first_line(e)}") from None
    return [_row(run) for run in sorted(found, key=lambda run: run.info.start_time or 0)]


def _row(run: Any) -> dict[str, Any]:
    info, tags = run.info, {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
    seconds = (info.end_time - info.start_time) / 1000 if info.end_time and info.start_time else None
    return {"run": info.run_name, "status": info.status, "seconds": seconds, **tags, **run.data.params, **run.data.metrics}
