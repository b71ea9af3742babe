"""Analysis -> the plain text that a terminal shows."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aotsearch.evidence.answer import Analysis, answer
from aotsearch.evidence.contrast import Contrast
from aotsearch.study.design import equal_terms, rate_terms, spell

if TYPE_CHECKING:
    import pandas as pd

NOT_BETTER = "not clearly better"


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A number with fixed decimals; a dash where there is none."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def bounds(low: float | None, high: float | None, digits: int, sign: bool = True) -> str:
    """An interval as `[+0.131, +0.153]`; a dash where there is none."""
    return "-" if low is None else f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def no_formula(cell: object) -> object:
    """A cell of a CSV that a spreadsheet takes for text, as it takes one behind an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "@")) else cell


def view(c: Contrast) -> str:
    """Under which terms an arm was compared, in words; empty for arms as they are where no learning rates are tuned."""
    return ", ".join(equal_terms(c.equalise) + rate_terms(c.rate, c.asked))


def named(c: Contrast) -> str:
    """A contrast's title, with its changes where the title does not say them."""
    return f"{c.title} ({c.change})" if len(c.changes) > 1 and c.kind == "change" else c.title


KINDS = {
    "change": "",
    "main": "main effects",
    "interaction": "interactions",
    "simple": "simple effects",
    "step": "path to the best found, step by step",
}


def groups(contrasts: Iterable[Contrast]) -> list[tuple[str, list[Contrast]]]:
    """The contrasts of one kind under one set of terms, with a heading each, in the order of the study: what it asks for, then the rest."""
    found: dict[str, list[Contrast]] = {}
    for c in sorted(contrasts, key=lambda c: (not c.asked, list(KINDS).index(c.kind))):
        heading = ", ".join(filter(None, [KINDS[c.kind], view(c)])) or "changes"
        found.setdefault(heading, []).append(c)
    return list(found.items())


@dataclass(frozen=True)
class Component:
    """One comparison under all the terms of a study.

    Attributes:
        contrasts: View -> contrast.
        verdict: The one that every view that is decided agrees on, of those at the learning rates that the study asks for; `depends` where
            they do not, `undecided` where none is.
        remark: What the views say, where they do not all say the same.
        beside: What is said at the shared learning rate alone, where that is another verdict.
    """

    kind: str
    title: str
    contrasts: Mapping[str, Contrast]
    verdict: str
    remark: str
    beside: str


def components(analysis: Analysis) -> list[Component]:
    """One line for each comparison, whatever the number of views it was made under."""
    found: dict[tuple[str, str], dict[str, Contrast]] = {}
    for c in analysis.contrasts:
        found.setdefault((c.kind, c.title), {})[view(c)] = c
    return [_component(kind, name, views) for (kind, name), views in found.items()]


def _component(kind: str, name: str, views: Mapping[str, Contrast]) -> Component:
    asked = {v: c for v, c in views.items() if c.asked} or views
    decided = {c.verdict for c in asked.values()} - {"undecided"}
    word = decided.pop() if len(decided) == 1 else "depends" if decided else "undecided"
    other = {v: c for v, c in views.items() if v not in asked and c.verdict not in (word, "undecided")}
    return Component(
        kind, name, views, word, _by_verdict(views) if len({c.verdict for c in views.values()}) > 1 else "", _by_verdict(other)
    )


def _by_verdict(views: Mapping[str, Contrast]) -> str:
    """`worse at own learning rate; undecided as it is`."""
    said: dict[str, list[str]] = {}
    for v, c in views.items():
        said.setdefault(c.verdict, []).append(f"at {v.replace(', ', ' and ')}" if v else "as it is")
    return "; ".join(f"{verdict} {', '.join(terms)}" for verdict, terms in said.items())


def verdict_lines(analysis: Analysis) -> list[str]:
    """One line per contrast, aligned: label, difference, interval, verdict, what stands beside it; a heading for each of several views."""
    rows: list[tuple[str, ...]] = []
    sets = groups(analysis.contrasts)
    for heading, contrasts in sets:
        rows += [(f"{heading}:",)] if len(sets) > 1 else []
        for c in contrasts:
            difference = number(c.difference, analysis.digits, sign=True)
            shown = f"{difference} {analysis.unit}" if c.difference is not None else "-"
            label = "  " * (len(sets) > 1) + c.title
            rows.append((label, shown, bounds(c.low, c.high, analysis.digits), c.told))
    widths = [max((len(row[i]) for row in rows if len(row) > 1), default=0) for i in range(4)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]}".rstrip() if len(row) > 1 else row[0]
        for row in rows
    ]


def _baselines(data: Mapping[str, Any] | None) -> Mapping[str, float]:
    return {name: value for name, value in ((data or {}).get("baselines") or {}).items() if value is not None}


def against_baselines(analysis: Analysis, data: Mapping[str, Any] | None) -> list[str]:
    """How the reference compares with each baseline: learning that a table of counts can do proves little.

    The data may name some of them as `bounds`, which no model is expected to beat; these say how much there is left to learn.
    """
    lines, digits, unit = [], analysis.digits, analysis.unit
    bounds = (data or {}).get("bounds") or ()
    for name, value in _baselines(data).items():
        if analysis.value is None:
            lines.append(f"{name} {number(value, digits)} {unit}; the reference has no finished seed yet")
            continue
        gap = value - analysis.value
        worst = analysis.high if analysis.high is not None else analysis.value
        where = f"{number(abs(gap), digits)} {unit} {'below' if gap > 0 else 'above'} the {name} baseline of {number(value, digits)}"
        if name in bounds:
            lines.append(f"the reference is {where}, which no model is expected to beat")
            continue
        word = "clearly better" if worst < value and gap > analysis.margin else f"{NOT_BETTER}, so verdicts at this budget say little"
        lines.append(f"the reference is {where}: {word}")
    return lines


def warnings(analysis: Analysis, data: Mapping[str, Any] | None) -> tuple[str, ...]:
    """What is odd about the data, and the baselines that the reference does not clearly beat: to be read before any verdict."""
    return (*(data or {}).get("notes", ()), *(line for line in against_baselines(analysis, data) if NOT_BETTER in line))


def summary(analysis: Analysis, data: Mapping[str, Any] | None = None, searched: pd.DataFrame | None = None) -> str:
    """The whole answer as plain text for standard output.

    Args:
        data: The ledger's `data` event, for the baselines.
        searched: `search_table(...)` of a search study.
    """
    a, digits = analysis, analysis.digits
    baselines = [f"{name} {number(value, digits)}" for name, value in _baselines(data).items()]
    noise = f" (sd {number(a.noise_floor, digits + 1)} over seeds)" if a.noise_floor is not None else ""
    reference = f"reference {number(a.value, digits)} {a.unit}{noise}" if a.value is not None else "reference: no finished seed yet"
    head = [f"declaration: {change}" for change in a.declaration] + [f"warning: {line}" for line in a.warnings]
    head += [
        f"{a.name}: {a.question}" if a.question else a.name,
        "",
        answer(a),
        "",
        "; ".join([reference, ", ".join(baselines)] if baselines else [reference]),
    ]
    table = ["", *_search_lines(searched, a), *front_lines(a)] if searched is not None else []
    if a.contrasts:
        percent = f"{100 * a.confidence:g}% intervals over all {a.family} contrasts at once"
        table += [f"difference to the reference, {percent}, margin {a.margin:g} {a.unit}", "", *verdict_lines(a)]
    return "\n".join([*wrapped(head), *table, "", *wrapped(_footer(a))])


def wrapped(lines: Iterable[str]) -> list[str]:
    """Lines as a terminal holds them."""
    return [piece for line in lines for piece in (textwrap.wrap(line, 100, subsequent_indent="  ") or [""])]


def _search_lines(searched: pd.DataFrame, analysis: Analysis, top: int = 5) -> list[str]:
    import pandas as pd

    counts = ", ".join(f"{n} {outcome}" for outcome, n in Counter(searched["outcome"]).most_common())
    best = searched[searched["outcome"] == "done"].head(top)
    shown = "; the best, under one seed each:" if len(best) else ""
    lines = [f"search tried {len(searched)} architectures ({counts or 'none'}){shown}"]
    decisions = list(searched.columns[list(searched.columns).index("digest") + 1 :])
    width = max(map(len, best["arm"]), default=0)
    for _, row in best.iterrows():
        chosen = " ".join(f"{name}={spell(row[name])}" for name in decisions if not pd.isna(row[name]))
        lines.append(
            f"  {row['arm']:<{width}} {number(row[analysis.measure], analysis.digits)}  {row['parameters']:>9,} parameters  {chosen}"
        )
    return [*lines, ""]


def front_rows(analysis: Analysis) -> list[list[str]]:
    """The front of a search, a row for each point under a row of heads; empty where there is none."""
    if analysis.front is None or not analysis.front.points:
        return []
    names = [f"{name}, {'lower' if sign > 0 else 'higher'} is better" for name, sign in analysis.front.goals]
    rows = [["architecture", *names, "on fresh seeds"]]
    said = {"yes": "survives", "no": "beaten", "open": "open", "unopposed": "nothing as cheap", None: "not confirmed"}
    for p in analysis.front.to_dict():
        mark = " (knee)" if p["knee"] else ""
        rows.append([p["arm"] + mark, *(f"{v:,.5g}" if v < 1e4 else f"{v:,.0f}" for v in p["objectives"].values()), said[p["survives"]]])
    return rows


def front_lines(analysis: Analysis) -> list[str]:
    """The front as the terminal shows it, and how much it dominates."""
    rows = front_rows(analysis)
    if not rows:
        return []
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["the front, under one seed each: nothing that was tried is better in everything"]
    lines += [
        "  " + "  ".join(f"{c:<{w}}" if i == 0 else f"{c:>{w}}" for i, (c, w) in enumerate(zip(row, widths, strict=True))) for row in rows
    ]
    return [*lines, *([volume] if (volume := front_volume(analysis)) else []), ""]


def front_volume(analysis: Analysis) -> str:
    """In words, how much of the box of the confirmed points they dominate; empty where that is not known."""
    if analysis.front is None or analysis.front.volume is None:
        return ""
    mean, low, high = analysis.front.volume
    box = "of the box between the best and the worst of each objective"
    return f"on fresh seeds it dominates {mean:.3f} {bounds(low, high, 3, sign=False)} {box}"


def _footer(analysis: Analysis) -> list[str]:
    named = {c.title: c.change for c in analysis.contrasts if len(c.changes) > 1 and c.kind == "change"}
    lines = [f"where {name} is {change}" for name, change in named.items()]
    if analysis.smallest_effect is not None:
        reach = f"minimum detectable effect: about {number(analysis.smallest_effect, analysis.digits)} {analysis.unit}"
        lines.append(reach + (f"; pairing by seed made it {analysis.gain[0]:.1f} times smaller (median)" if analysis.gain else ""))
    for o in analysis.outcomes:
        if o.bad:
            lines.append(f"outcome: {o.arm}: {', '.join(f'{n} {k}' for k, n in o.bad.items())} of {o.trials} trials")
    lines += [f"note: {note}" for note in analysis.notes]
    kind = f"intervals ({analysis.interval}) simultaneous over all contrasts"
    read = "worse or better: the interval lies above or below 0; equivalent: within the margin; a removal shows a part necessary or harmful"
    return [
        *lines,
        f"method: paired by seed, {kind}; {read} where it is worse or better by more than the margin, redundant where equivalent",
    ]
