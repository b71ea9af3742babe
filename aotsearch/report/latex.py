"""Material -> LaTeX, for papers: the effects and what each arm was given, as two booktabs tables to \\input."""

from __future__ import annotations

from collections.abc import Sequence

from aotsearch.evidence.speed import Speed
from aotsearch.report import contents
from aotsearch.report.data import Material
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


def escape(text: object) -> str:
    """Text as LaTeX shows it, arrows as arrows, without what nothing shows."""
    pieces = "".join(c for c in " ".join(str(text).splitlines()) if c.isprintable()).split("->")
    return r"$\to$".join("".join(LATEX.get(c, c) for c in piece).replace("--", "-{}-") for piece in pieces)


def latex(m: Material) -> str:
    """The effects and what each arm was given, as two booktabs tables to \\input."""
    return "\n".join(["% needs \\usepackage{booktabs}", *_effects(m), "", *_given(m)]) + "\n"


def _effects(m: Material) -> list[str]:
    a, digits = m.analysis, m.analysis.digits
    sets, rows = groups(m.distinct), []
    for i, (heading, contrasts) in enumerate(sets):
        if len(sets) > 1:
            rows += (["\\addlinespace"] if i else []) + [f"\\multicolumn{{5}}{{l}}{{\\emph{{{escape(heading)}}}}} \\\\"]
        for c in contrasts:
            span = "--" if c.low is None else f"${bounds(c.low, c.high, digits)}$"
            mean = "--" if c.difference is None else f"${number(c.difference, digits, True)}$"
            said = ": ".join(filter(None, [c.said, c.component])) + (f" (as first declared: {c.declared})" if c.declared else "")
            rows.append(f"{escape(c.title)} & {mean} & {span} & {c.seeds} & {escape(said)} \\\\")
    value = f"Reference {number(a.value, digits)} {escape(a.unit)}. " if a.value is not None else ""
    least = f"Minimum detectable effect {number(a.smallest_effect, digits)}. " if a.smallest_effect is not None else ""
    preview = f"Partial: {a.finished} of {a.expected} trials. " if a.partial else ""
    method = a.interval.replace("Student t", "Student $t$")
    rates = "Each arm at its own learning rate, then at the shared one where that is another. " if a.rate == "tuned" else ""
    names = {c.title: c.change for c in a.contrasts if c.title != named(c)}
    where = "".join(f" {escape(name)} is {escape(change)}." for name, change in names.items())
    warning = "".join(f"Warning: {escape(text)}. " for text in a.warnings)
    anew = "".join(f"Declaration: {escape(change)}. " for change in a.declaration)
    caption = (
        f"{anew}{warning}{preview}Difference in {escape(a.unit)} (lower is better), paired by seed, "
        f"with {100 * a.confidence:g}\\,\\% intervals ({method}, simultaneous over {a.family} contrasts by Bonferroni). "
        f"{rates}{value}{least}Margin {a.margin:g}. {WORDS}{where}"
    )
    return _table("lrrrl", "Change & Difference & Interval & Seeds & Verdict", rows, caption, _label(m), a.notes)


def _given(m: Material) -> list[str]:
    times = contents.step_times(m)
    rows = [
        f"{escape(g.arm)}{' (shared rate)' * (g.rate != m.analysis.rate)} & {_whole(g.parameters)} & {_share(g.share)} & "
        f"{_whole(g.flops_per_token)} & {_share(g.flops_share)} & {escape(spell(g.learning_rate))} & {g.seeds}"
        f"{_ratio(times.get(g.arm)) if times else ''} \\\\"
        for g in contents.fairness(m)
    ]
    head = "Arm & Parameters & & FLOPs/token & & Learning rate & Seeds" + " & Step time & Interval" * bool(times)
    caption = "What each arm was given: parameters and forward FLOPs per token, each with its distance to the reference."
    if times:
        caption += f" Step time over that of the reference, median of ratios{', side by side' * bool(m.timed)}"
        caption += "; without an interval: in the trials, or too few rounds."
    return _table("lrrrrrr" + "rr" * bool(times), head, rows, caption, f"{_label(m)}-arms")


def _ratio(speed: Speed | None) -> str:
    if speed is None or (t := speed.step_time) is None:
        return " & & "
    return f" & {t.ratio:.3f} & " + ("" if t.low is None else f"${bounds(t.low, t.high, 3, sign=False)}$")


ROWS = 40  # of a table that fits on a page


def _table(columns: str, head: str, rows: Sequence[str], caption: str, label: str, notes: Sequence[str] = ()) -> list[str]:
    """A table, cut to pages; the notes stand below its last part."""
    said = [f"Note: {escape(note)}." for note in notes]
    below = ["\\par\\smallskip", "\\begin{minipage}{\\linewidth}\\footnotesize", *said, "\\end{minipage}"] if said else []
    lines = []
    for start in range(0, max(1, len(rows)), ROWS):
        lines += [
            "\\begin{table}",
            "\\centering\\small\\setlength{\\tabcolsep}{4pt}",
            f"\\caption{{{caption}}}" if not start else "\\caption{Continued.}",
            f"\\label{{tab:{label}{f'-{start // ROWS + 1}' if start else ''}}}",
            f"\\begin{{tabular}}{{{columns}}}",
            "\\toprule",
            f"{head} \\\\",
            "\\midrule",
            *rows[start : start + ROWS],
            "\\bottomrule",
            "\\end{tabular}",
            *(below if start + ROWS >= len(rows) else []),
            "\\end{table}",
        ]
    return lines


def _label(m: Material) -> str:
    return "".join(c if c.isalnum() else "-" for c in m.analysis.name)


def _whole(value: int | None) -> str:
    return "--" if value is None else f"{int(value):,}".replace(",", "\\,")


def _share(value: float | None) -> str:
    return "" if value is None or value == 0 else f"${100 * value:+.1f}\\,\\%$"
