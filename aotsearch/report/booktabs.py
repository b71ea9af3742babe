"""Rows -> a LaTeX table that fits the text of `article`: names wrap, numbers do not, and what is longer than a page goes on on the next.

table(Columns("prr", head), rows, caption, label) -> lines;  escape(text) -> text as LaTeX shows it
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{c: f"{{{c}}}" for c in "[]*"},  # after the end of a row they would be its options
}

POINTS = 345  # text width of `article` at 10 pt
DIGIT = {"small": 4.7, "footnotesize": 4.3}  # points of a character on average, on the safe side
GAP = 8  # points between two columns
LINES = 46  # of a page that hold a table with its caption and notes
ACROSS = 72  # characters of a line of a caption
NOTES = 12  # lines of notes that may stand in a table; more of them stand below it as text


def escape(text: object) -> str:
    """Text as LaTeX shows it, arrows as arrows, without what nothing shows."""
    pieces = "".join(c for c in " ".join(str(text).splitlines()) if c.isprintable()).split("->")
    return r"$\to$".join("".join(LATEX.get(c, c) for c in piece).replace("--", "-{}-") for piece in pieces)


def broken(text: str) -> str:
    """Text of a cell that wraps: a name may be broken behind a sign, and one that has none for long, anywhere there."""
    words = re.split(r"(?<=[=_.,:@/+])(?=\w)|(?<=\w{12})(?=\w{3})", text)
    return r"\hspace{0pt}".join(map(escape, words))


@dataclass(frozen=True)
class Row:
    """Cells, those of columns that wrap as plain text; or a heading over the rows below it."""

    cells: tuple[str, ...] = ()
    heading: str = ""
    first: bool = False


@dataclass(frozen=True)
class Columns:
    """How the columns stand: `p` for one that wraps, whose share of what the others leave is in `shares`; `r` for numbers."""

    kinds: str
    head: tuple[str, ...]
    shares: tuple[float, ...] = (1.0,)


def table(columns: Columns, rows: Sequence[Row], caption: str, label: str, notes: Sequence[str] = ()) -> list[str]:
    """A table as wide as the text, cut to pages; the notes stand below its last part."""
    size, widths = _widths(columns, rows)
    spec = "@{}" + "".join(f"p{{{widths[i] / POINTS:.3f}\\linewidth}}" if k == "p" else k for i, k in enumerate(columns.kinds)) + "@{}"
    head = " & ".join(columns.head)
    said = [f"Note: {escape(note)}." for note in notes]
    noted = math.ceil(sum(map(len, said)) / (1.2 * ACROSS))
    inside = 0 < noted <= NOTES
    below = ["\\par\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize", *said, "\\end{minipage}"] if inside else []
    room = max(4, LINES - math.ceil(1.1 * len(caption) / ACROSS) - noted * inside)
    parts, lines = _pages(rows, widths, DIGIT[size], room), []
    for i, part in enumerate(parts):
        lines += [
            "\\begin{table}",
            f"\\centering\\{size}\\setlength{{\\tabcolsep}}{{{GAP // 2}pt}}\\setlength{{\\belowcaptionskip}}{{6pt}}",
            f"\\caption{{{caption}}}" if not i else "\\caption{Continued.}",
            f"\\label{{tab:{label}{f'-{i + 1}' if i else ''}}}",
            f"\\begin{{tabular}}{{{spec}}}",
            "\\toprule",
            f"{head} \\tabularnewline",
            "\\midrule",
            *(line for row in part for line in _row(columns, row)),
            "\\bottomrule",
            "\\end{tabular}",
            *(below if part is parts[-1] else []),
            "\\end{table}",
        ]
    return lines + (["", "{\\noindent\\footnotesize", *said, "\\par}"] if noted > NOTES else [])


def _row(columns: Columns, row: Row) -> list[str]:
    if row.heading:
        space = [] if row.first else ["\\addlinespace"]
        return [*space, f"\\multicolumn{{{len(columns.kinds)}}}{{@{{}}l}}{{\\emph{{{escape(row.heading)}}}}} \\tabularnewline"]
    cells = [f"\\raggedright {broken(cell)}" if k == "p" else cell for k, cell in zip(columns.kinds, row.cells, strict=True)]
    return [" & ".join(cells) + " \\tabularnewline"]


def _widths(columns: Columns, rows: Sequence[Row]) -> tuple[str, dict[int, float]]:
    """The size of letters, and the points of each column that wraps: what the numbers leave, in smaller letters where that is little."""
    cells = [columns.head, *(row.cells for row in rows if row.cells)]
    longest = [max(len(_plain(row[i])) for row in cells) for i in range(len(columns.kinds))]
    wrapped = [i for i, kind in enumerate(columns.kinds) if kind == "p"]
    room = POINTS - GAP * (len(columns.kinds) - 1)
    numbers = sum(n for i, n in enumerate(longest) if i not in wrapped)
    size = next((size for size, digit in DIGIT.items() if room - numbers * digit > 100 * len(wrapped) - 40), "footnotesize")
    left = room - numbers * DIGIT[size]
    return size, {i: max(left * share, 40.0) for i, share in zip(wrapped, columns.shares, strict=True)}


def _pages(rows: Sequence[Row], widths: Mapping[int, float], digit: float, room: int) -> list[list[Row]]:
    """The rows that fit below the caption, of which there are so many lines, then those that fit on each further page."""
    pages: list[list[Row]] = [[]]
    used = 0
    for row in rows:
        tall = max((math.ceil(1.15 * len(row.cells[i]) * digit / width) for i, width in widths.items() if row.cells), default=1) or 1
        if pages[-1] and used + tall > room:
            pages.append([])
            used = 0
        pages[-1].append(row)
        used += tall
    return pages


def _plain(cell: str) -> str:
    return re.sub(r"\\[,%]", "x", cell).replace("$", "")
