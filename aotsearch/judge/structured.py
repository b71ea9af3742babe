"""JSON lines, JSON and Parquet -> Table; nested objects become columns with dots in their names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from aotsearch.errors import InputError, Mark, first_line
from aotsearch.judge.delimited import decoded
from aotsearch.judge.table import Row, Table, whole_line


def read_lines(path: Path) -> Table:
    """One JSON object a line, or one list of objects.

    Raises:
        InputError: a line is no JSON object.
    """
    text = decoded(path)
    if not text.strip():
        raise InputError("the file is empty", Mark(str(path)))
    if text.lstrip().startswith("["):
        objects = [(0, found) for found in _load(text, path, 1)]
    else:
        objects = [(i, _load(line, path, i)) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    for line, found in objects:
        if not isinstance(found, dict):
            raise InputError("a run is a JSON object, {...}", Mark(str(path), line, 1))
    return of([(line, dict(_flat(found))) for line, found in objects], str(path))


def _load(text: str, path: Path, line: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as e:
        raise InputError(
            f"this is no JSON: {e.msg}", Mark(str(path), line + e.lineno - 1, e.colno, text.splitlines()[e.lineno - 1])
        ) from None


def _flat(found: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in found.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}", value


def read_parquet(path: Path) -> Table:
    """A table of pandas or Arrow; rows count from one.

    Raises:
        InputError: it is none.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    from pyarrow import ArrowException, parquet

    try:
        rows = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as e:
        raise InputError(f"this is no Parquet file: {first_line(e)}", Mark(str(path))) from None
    return of([(i, dict(_flat(row))) for i, row in enumerate(rows, 1)], str(path))


def of(rows: Sequence[tuple[int, Mapping[str, Any]]], name: str) -> Table:
    """A table of plain rows, each with its line.

    Raises:
        InputError: there are none.
    """
    if not rows:
        raise InputError("there are no runs", Mark(name))
    columns = tuple(dict.fromkeys(column for _, row in rows for column in row))
    return Table(name, columns, [Row([_text(row.get(c)) for c in columns], name, line) for line, row in rows], whole_line)


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():  # a column of whole numbers with gaps
        return str(int(value))
    return str(value)
