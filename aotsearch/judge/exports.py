"""Charts exported from TensorBoard and W&B, in which a run is a file or a column -> one row for each run and step."""

from __future__ import annotations

import re
from pathlib import PurePath

from aotsearch.errors import InputError, Mark
from aotsearch.judge.table import Row, Table

NAMED = re.compile(r"(?P<arm>.*?[^\W\d_].*?)[-_./ ]*(?:seed|run|rep|[sr])?[-_=. ]*(?P<seed>\d+)", re.IGNORECASE)
BANDS = ("__MIN", "__MAX")  # of W&B, beside every line of a chart


def unfolded(table: Table) -> Table:
    """A table as it is, or a chart with a row for each run and step: columns run, arm, seed (from the run's name), step and the measure.

    Raises:
        InputError: a chart whose lines are means of groups, so that its runs are lost.
    """
    if {c.lower() for c in table.columns} >= {"wall time", "step", "value"} and len(table.columns) == 3:
        return _tensorboard(table)
    lines = [c for c in table.columns if " - " in c and not c.endswith(BANDS)]
    if lines and all(f"{c}{band}" in table.columns for c in lines for band in BANDS):
        return _wandb(table, lines)
    return table


def split(run: str) -> tuple[str, str]:
    """Arm and seed of a run by its name: `wide-seed3`, `wide_3` and `wide/s3` are seed 3 of wide; without a number there is no seed."""
    found = NAMED.fullmatch(run)
    return (found["arm"], found["seed"]) if found else (run, "")


def _tensorboard(table: Table) -> Table:
    stem = PurePath(table.name).stem
    run, _, tag = stem.removeprefix("run-").partition("-tag-")
    lower = [c.lower() for c in table.columns]
    step, value = lower.index("step"), lower.index("value")
    rows = [Row([run, *split(run), row.cells[step], row.cells[value]], row.file, row.line) for row in table.rows]
    places = (value, value, value, step, value)
    return Table(
        table.name,
        ("run", "arm", "seed", "step", tag or "value"),
        rows,
        lambda row, column: table.at(row, places[column]),
        (*table.notes, "TensorBoard's charts: arm and seed are read from the names of the runs, which are those of the files"),
    )


def _wandb(table: Table, lines: list[str]) -> Table:
    measures = sorted({c.rpartition(" - ")[2] for c in lines})
    groups = [c for c in lines if c.startswith("Group: ")]
    if groups:
        raise InputError(
            f"{groups[0]!r} is a mean over the runs of a group, which are lost in it; export the chart without grouping",
            Mark(table.name, 1, 1),
        )
    rows: dict[tuple[str, int], dict[str, str]] = {}
    origin: dict[int, Row] = {row.line: row for row in table.rows}
    for name in lines:
        run, _, measure = name.rpartition(" - ")
        at = table.columns.index(name)
        for row in table.rows:
            if row.cells[at]:
                rows.setdefault((run, row.line), {})[measure] = row.cells[at]
    made = []
    for (run, line), values in rows.items():
        cells = [run, *split(run), origin[line].cells[0], *(values.get(m, "") for m in measures)]
        made.append(Row(cells, origin[line].file, line))

    def place(row: Row, column: int) -> Mark:
        names = {3: table.columns[0]} if column < 4 else {column: f"{row.cells[0]} - {measures[column - 4]}"}
        name = names.get(column, table.columns[0])
        return table.at(row, table.columns.index(name))

    note = "W&B's chart: arm and seed are read from the names of the runs"
    return Table(table.name, ("run", "arm", "seed", "step", *measures), made, place, (*table.notes, note))
