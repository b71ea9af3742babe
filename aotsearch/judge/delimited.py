"""CSV -> Table: text separated by commas, semicolons, tabs or bars, with the place of every cell."""

from __future__ import annotations

import csv
import io
from collections import Counter
from pathlib import Path

from aotsearch.errors import InputError, Mark, RunError
from aotsearch.judge.table import Row, Table, numeric

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
csv.field_size_limit(1 << 30)


def read(path: Path) -> Table:
    """A file with a line of column names.

    Raises:
        InputError: it is empty, is no text, has no second column, or a line has more or fewer fields than the first.
    """
    text = decoded(path)
    if not text.strip():
        raise InputError("the file is empty", Mark(str(path)))
    delimiter = _delimiter(text)
    lines, rows = _rows(text, delimiter, path)
    (first, names), body = rows[0], rows[1:]
    columns = _columns(names, path, first, delimiter)
    if not body:
        raise InputError("the file has a line of column names and no runs", Mark(str(path), first, 1))
    found = []
    for line, cells in body:
        if len(cells) > len(columns) and not any(cells[len(columns) :]):  # a delimiter at the end
            cells = cells[: len(columns)]
        if len(cells) != len(columns):
            law = f"a line has {len(columns)} fields, as the first; this has {len(cells)}"
            hint = "; text with the delimiter in it stands in quotes" if len(cells) > len(columns) else "; an empty field is kept empty"
            raise InputError(law + hint, Mark(str(path), line, 1, lines[line - 1]))
        found.append(Row(cells, str(path), line))
    notes = () if delimiter == "," else (f"{path.name} is separated by {DELIMITERS[delimiter]}",)

    def place(row: Row, column: int) -> Mark:
        text = lines[row.line - 1] if row.line <= len(lines) else ""
        start, width = _where(text, delimiter, column)
        return Mark(row.file, row.line, start, text, max(1, width))

    return Table(str(path), columns, found, place, notes)


def decoded(path: Path) -> str:
    """The text of a file: UTF-8, with or without a mark of byte order, or UTF-16 with one.

    Raises:
        InputError: it cannot be read, or is neither.
    """
    try:
        content = path.read_bytes()
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, and no run folder of aotsearch") from None
    except FileNotFoundError:
        raise InputError(f"{path}: no such file or folder") from None
    except OSError as e:
        raise RunError(f"{path}: {e.strerror}") from None
    encoding = "utf-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as e:
        line = content.count(b"\n", 0, e.start) + 1
        raise InputError(
            f"byte {content[e.start]:#04x} is not text in UTF-8; save the file as CSV in UTF-8", Mark(str(path), line, 1)
        ) from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise InputError("a zero byte: this is no text; save the file as CSV", Mark(str(path), line, 1))
    return text


def _delimiter(text: str) -> str:
    """The one that splits the first line most often; quotes hide those within names."""
    first = next(line for line in text.splitlines() if line.strip())
    bare = "".join(first.split('"')[::2])
    counts = Counter({d: bare.count(d) for d in DELIMITERS})
    return max(DELIMITERS, key=lambda d: counts[d])


def _rows(text: str, delimiter: str, path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The lines of a text, and the records in them with the line that each begins in; blank lines are left out."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    found, begins = [], 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                found.append((begins, [cell.strip() for cell in cells]))
            begins = reader.line_num + 1
    except csv.Error as e:
        raise InputError(f"a quote that is opened in this line does not end as it should ({e})", Mark(str(path), begins, 1)) from None
    return text.splitlines(), found


def _columns(names: list[str], path: Path, line: int, delimiter: str) -> tuple[str, ...]:
    if len(names) == 1:
        raise InputError(
            f"there is one column, {names[0]!r}: columns are separated by commas, semicolons, tabs or bars", Mark(str(path), line, 1)
        )
    twice = [name for name, n in Counter(names).items() if n > 1 and name]
    if twice:
        raise InputError(f"two columns are named {twice[0]!r}; rename one", Mark(str(path), line, 1))
    if all(numeric(name) for name in names):
        raise InputError("the first line holds numbers; it must hold the names of the columns", Mark(str(path), line, 1))
    return tuple(name or f"column {i + 1}" for i, name in enumerate(names))


def _where(line: str, delimiter: str, column: int) -> tuple[int, int]:
    """The character that a field begins at, from one, and its width."""
    start, index, quoted = 0, 0, False
    for i, c in enumerate(line):
        if c == '"':
            quoted = not quoted
        elif c == delimiter and not quoted:
            if index == column:
                return start + 1, i - start
            start, index = i + 1, index + 1
    return (start + 1, len(line) - start) if index == column else (1, 1)
