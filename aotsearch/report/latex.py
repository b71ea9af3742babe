"""Material -> LaTeX, for papers: booktabs tables that fit the text of `article`, and the pictures, to \\input."""

from __future__ import annotations

from collections.abc import Iterable

from aotsearch.evidence.speed import Speed
from aotsearch.report import contents
from aotsearch.report.booktabs import Columns, Row, escape, table
from aotsearch.report.data import Material
from aotsearch.report.figures import SAYS
from aotsearch.report.summary import bounds, groups, named, number
from aotsearch.study.design import spell

WORDS = (
    "Worse or better: the interval lies above or below zero; equivalent: within the margin to both sides; undecided: none of these. "
    "What a change takes away is necessary where it is worse by more than the margin, redundant where equivalent, harmful where better by "
    "more than the margin."
)


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
            said = ": ".join(filter(None, [c.said, f"{c.part} is {c.component}" if c.component else ""])) + (
                f" (as first declared: {c.declared})" if c.declared else ""
            )
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
