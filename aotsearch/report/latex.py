"""Material -> LaTeX, for papers: booktabs tables that fit the text of `article`, and the pictures, to \\input."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aotsearch.evidence.speed import Speed
from aotsearch.report import contents
from aotsearch.report.data import Material
from aotsearch.report.figures import SAYS
from aotsearch.report.summary import bounds, groups, named, number
from aotsearch.study.design import spell

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


WORDS = (
    "Worse or better: the interval lies above or below zero; equivalent: within the margin to both sides; undecided: none of these. "
    "What a change takes away is necessary where it is worse by more than the margin, redundant where equivalent, harmful where better by "
    "more than the margin."
)



POINTS = 345  # text width of `article` at 10 pt
DIGIT = {"small": 4.7, "footnotesize": 4.3}  # points of a character on average, on the safe side
GAP = 8  # points between two columns
LINES = 40  # of a table that fits on a page


def escape(text: object) -> str:
    """Text as LaTeX shows it, arrows as arrows, without what nothing shows."""
    pieces = "".join(c for c in " ".join(str(text).splitlines()) if c.isprintable()).split("->")
    return r"$\to$".join("".join(LATEX.get(c, c) for c in piece).replace("--", "-{}-") for piece in pieces)


def broken(text: str) -> str:
    """Text of a cell that wraps: a name may be broken behind a sign, and one that has none for long, anywhere there."""
    words = re.split(r"(?<=[=_.,:@/+])(?=\w)|(?<=\w{12})(?=\w{3})", text)
    return r"\hspace{0pt}".join(map(escape, words))


def latex(m: Material, pictures: Iterable[str] = ()) -> str:
    """The effects, what each arm was given and how long its steps took, as booktabs tables, and the pictures, to \\input.

    Args:
        pictures: The names of those that stand beside it as PDF.
    """
    drawn = list(pictures)
    path = " and \\graphicspath{{FOLDER/}}, the folder of this file" * bool(drawn)
    needs = f"% needs \\usepackage{{booktabs{',graphicx' * bool(drawn)}}}{path}"
    parts = [[needs], _effects(m), _given(m), _speed(m), *(_picture(m, name) for name in drawn)]
    return "\n\n".join("\n".join(part) for part in parts if part) + "\n"


def _effects(m: Material) -> list[str]:
    a, digits = m.analysis, m.analysis.digits
    sets, rows = groups(m.distinct), []
    for i, (heading, contrasts) in enumerate(sets):
        if len(sets) > 1:
            rows.append(Row(heading=heading, first=not i))
        for c in contrasts:
            span = "--" if c.low is None else f"${bounds(c.low, c.high, digits)}$"
            mean = "--" if c.difference is None else f"${number(c.difference, digits, True)}$"
            said = ": ".join(filter(None, [c.said, c.component])) + (f" (as first declared: {c.declared})" if c.declared else "")
            rows.append(Row((c.title, mean, span, str(c.seeds), said)))
    value = f"Reference {number(a.value, digits)} {escape(a.unit)}. " if a.value is not None else ""
    least = f"Minimum detectable effect {number(a.smallest_effect, digits)}. " if a.smallest_effect is not None else ""
    method = a.interval.replace("Student t", "Student $t$")
    rates = "Each arm at its own learning rate, then at the shared one where that is another. " if a.rate == "tuned" else ""
    names = {c.title: c.change for c in a.contrasts if c.title != named(c)}
    where = "".join(f" {escape(name)} is {escape(change)}." for name, change in names.items())
    warning = "".join(f"Warning: {escape(text)}. " for text in a.warnings)
    anew = "".join(f"Declaration: {escape(change)}. " for change in a.declaration)
    caption = (
        f"{anew}{warning}Difference in {escape(a.unit)} (lower is better), paired by seed, "
        f"with {100 * a.confidence:g}\\,\\% intervals ({method}, simultaneous over {a.family} contrasts by Bonferroni). "
        f"{rates}{value}{least}Margin {a.margin:g}. {WORDS}{where}"
    )
    head = ("Change", "Difference", "Interval", "Seeds", "Verdict")
    return table(Columns("prrrp", head, shares=(0.6, 0.4)), rows, caption, _label(m), a.notes)


def _given(m: Material) -> list[str]:
    rows = [
        Row(
            (
                f"{g.arm}{' (shared rate)' * (g.rate != m.analysis.rate)}",
                _whole(g.parameters),
                _share(g.share),
                _whole(g.flops_per_token),
                _share(g.flops_share),
                escape(spell(g.learning_rate)),
                str(g.seeds),
            )
        )
        for g in contents.fairness(m)
    ]
    caption = "What each arm was given: parameters and forward FLOPs per token, each with its distance to the reference."
    head = ("Arm", "Parameters", "", "FLOPs", "", "Rate", "Seeds")
    caption += " Rate: the learning rate at its highest."
    return table(Columns("prrrrrr", head), rows, caption, f"{_label(m)}-arms")


def _speed(m: Material) -> list[str]:
    """How long a step takes; nothing where that is not known."""
    times = contents.step_times(m)
    if not times:
        return []
    found = {g.arm: times.get(g.arm) for g in contents.fairness(m)}
    rows = [Row((arm, *_ratio(speed))) for arm, speed in found.items() if speed is not None]
    caption = f"Step time over that of the reference, median of ratios{', side by side' * bool(m.timed)}"
    caption += "; without an interval: in the trials, or too few rounds."
    return table(Columns("prr", ("Arm", "Step time", "Interval")), rows, caption, f"{_label(m)}-speed")


def _ratio(speed: Speed) -> tuple[str, str]:
    t = speed.step_time
    if t is None:
        return "", ""
    return f"{t.ratio:.3f}", "" if t.low is None else f"${bounds(t.low, t.high, 3, sign=False)}$"


def _picture(m: Material, name: str) -> list[str]:
    warning = "".join(f"Warning: {escape(text)}. " for text in m.analysis.warnings)
    caption = f"{warning if name == 'forest' else ''}{escape(SAYS[name])}."
    if name == "forest":
        caption += f" {100 * m.analysis.confidence:g}\\,\\% intervals over all {m.analysis.family} contrasts at once. {WORDS}"
    return [
        "\\begin{figure}",
        f"\\includegraphics[width=\\linewidth,height=.7\\textheight,keepaspectratio]{{{name}.pdf}}",
        f"\\caption{{{caption}}}",
        f"\\label{{fig:{_label(m)}-{name}}}",
        "\\end{figure}",
    ]


# ---- tables


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
    below = ["\\par\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize", *said, "\\end{minipage}"] if said else []
    parts, lines = _pages(columns, rows, widths, DIGIT[size]), []
    for i, part in enumerate(parts):
        lines += [
            "\\begin{table}",
            f"\\centering\\{size}\\setlength{{\\tabcolsep}}{{{GAP // 2}pt}}",
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
    return lines


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
    for size, digit in DIGIT.items():
        numbers = sum(n * digit for n, kind in zip(longest, columns.kinds, strict=True) if kind != "p")
        left = POINTS - numbers - GAP * (len(columns.kinds) - 1)
        if left > 100 * columns.kinds.count("p") - 40:
            break
    wrapped = [i for i, kind in enumerate(columns.kinds) if kind == "p"]
    return size, {i: max(left * share, 40.0) for i, share in zip(wrapped, columns.shares, strict=True)}


def _pages(columns: Columns, rows: Sequence[Row], widths: Mapping[int, float], digit: float) -> list[list[Row]]:
    pages: list[list[Row]] = [[]]
    used = 0
    for row in rows:
        tall = max((math.ceil(1.15 * len(row.cells[i]) * digit / width) for i, width in widths.items() if row.cells), default=1) or 1
        if pages[-1] and used + tall > LINES:
            pages.append([])
            used = 0
        pages[-1].append(row)
        used += tall
    return pages


def _plain(cell: str) -> str:
    return re.sub(r"\\[,%]", "x", cell).replace("$", "")


def _label(m: Material) -> str:
    return "".join(c if c.isalnum() else "-" for c in m.analysis.name)


def _whole(value: int | None) -> str:
    """A count in full, or with four digits where it has more than seven."""
    if value is None:
        return "--"
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= max(size, 1e7):
            return f"{value / size:.4g}\\,{letter}"
    return f"{int(value):,}".replace(",", "\\,")


def _share(value: float | None) -> str:
    return "" if value is None or value == 0 else f"${100 * value:+.1f}\\,\\%$"
