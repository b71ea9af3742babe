"""What a file of runs holds: named columns, and rows whose cells know where they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from aotsearch.errors import InputError, Mark, suggest


@dataclass(frozen=True)
class Row:
    """One line of a file: its cells as text, empty where there is none, and where the line stands."""

    cells: Sequence[str]
    file: str
    line: int


@dataclass(frozen=True)
class Table:
    """Rows of one or more files with the same columns.

    Attributes:
        place: (row, column) -> the place of a cell; a whole line where the format has no columns of characters.
        notes: What was done to the file to read it, in words.
        name: Of the whole, for people.
    """

    name: str
    columns: tuple[str, ...]
    rows: Sequence[Row]
    place: Callable[[Row, int], Mark]
    notes: tuple[str, ...] = ()

    def column(self, name: str, option: str) -> int:
        """Where a column stands.

        Raises:
            InputError: there is none of that name.
        """
        if name in self.columns:
            return self.columns.index(name)
        line = 0 if self.place is whole_line else 1  # of the column names, where there is one
        raise InputError(f"{option}: no column {name!r}{suggest(name, self.columns)}", Mark(self.name, line, 1))

    def guess(self, *names: str) -> str | None:
        """The first column with one of these names, whatever its case and whatever group it stands in (`config.seed`)."""
        plain = {c.lower().rpartition(".")[2].rpartition("/")[2].strip(): c for c in reversed(self.columns)}
        return next((plain[n] for n in names if n in plain), None)

    def at(self, row: Row, column: int) -> Mark:
        return self.place(row, column)


def numeric(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def whole_line(row: Row, column: int) -> Mark:
    return Mark(row.file, row.line, 1)


def joined(tables: Sequence[Table]) -> Table:
    """One table of several: the columns of all, in the order met.

    Raises:
        InputError: two have no column in common.
    """
    if len(tables) == 1:
        return tables[0]
    columns = tuple(dict.fromkeys(c for t in tables for c in t.columns))
    shared = set.intersection(*(set(t.columns) for t in tables))
    if not shared:
        raise InputError(f"{tables[0].name} and {tables[-1].name} have no column in common; judge them apart")
    places = {}
    rows = []
    for t in tables:
        where = [t.columns.index(c) if c in t.columns else None for c in columns]
        for row in t.rows:
            made = Row([row.cells[i] if i is not None else "" for i in where], row.file, row.line)
            rows.append(made)
        for file in {row.file for row in t.rows}:
            places[file] = (t, where)

    def place(row: Row, column: int) -> Mark:
        t, where = places[row.file]
        index = where[column]
        return t.at(row, index) if index is not None else Mark(row.file, row.line, 1)

    notes = tuple(dict.fromkeys(note for t in tables for note in t.notes))
    return Table(f"{tables[0].name} and {len(tables) - 1} more", columns, rows, place, notes)
