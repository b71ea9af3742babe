"""What a user names -> Table: a file by its ending, a run folder, or `mlflow:URI#NAME`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aotsearch.errors import InputError, Mark
from aotsearch.evidence.ledger import FILE
from aotsearch.files import from_user
from aotsearch.judge import delimited, structured
from aotsearch.judge.exports import unfolded
from aotsearch.judge.table import Table, joined

MLFLOW = "mlflow:"


def read(sources: Sequence[str]) -> Table:
    """One table of all sources.

    Raises:
        InputError: one is not there, or cannot be read as what it is.
    """
    return joined([_read(source) for source in sources])


def run_folder(source: str) -> bool:
    return not source.startswith(MLFLOW) and (from_user(source) / FILE).exists()


def _read(source: str) -> Table:
    if source.startswith(MLFLOW):
        return _experiment(source)
    path = from_user(source)
    if run_folder(source):
        return _trials(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder without {FILE}: name a file of runs, or a run folder of aotsearch")
    kind = path.suffix.lower()
    if kind in (".jsonl", ".ndjson", ".json"):
        return unfolded(structured.read_lines(path))
    if kind in (".parquet", ".pq"):
        return unfolded(structured.read_parquet(path))
    return unfolded(delimited.read(path))


def _trials(folder: Path) -> Table:
    """The judged trials of a run folder of ours."""
    from aotsearch.report.data import results

    table = results(folder)
    rows = table[table["phase"].isin(["design", "confirm"])].drop(columns=["phase"])
    plain = [(0, {str(k): None if v != v else v for k, v in row.items()}) for row in rows.to_dict("records")]
    return structured.of(plain, str(folder))


def _experiment(source: str) -> Table:
    """The finished runs of an MLflow experiment: parameters, last metrics and own tags as columns."""
    uri, _, name = source.removeprefix(MLFLOW).rpartition("#")
    if not uri or not name:
        raise InputError(f"{source!r}: an MLflow experiment is mlflow:URI#NAME, such as mlflow:sqlite:///mlflow.db#ablation")
    from aotsearch.tracking.experiment import rows

    found = rows(uri, name)
    if not found:
        raise InputError(f"the experiment {name!r} has no runs", Mark(source))
    return structured.of([(i, row) for i, row in enumerate(found, 1)], source)
