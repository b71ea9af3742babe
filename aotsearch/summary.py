"""Analysis -> the plain text that a terminal shows."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from aotsearch.analysis import Analysis, spell

NOT_BETTER = "not clearly better"


def number(value: float | None, digits: int, sign: bool = False) -> str:
    """A number with fixed decimals; a dash where there is none."""
    return "-" if value is None else f"{value:{'+' if sign else ''}.{digits}f}"


def bounds(low: float | None, high: float | None, digits: int, sign: bool = True) -> str:
    """An interval as `[+0.131, +0.153]`; a dash where there is none."""
    return "-" if low is None else f"[{number(low, digits, sign)}, {number(high, digits, sign)}]"


def verdict_lines(analysis: Analysis) -> list[str]:
    """One line per contrast, aligned: label, difference, interval, verdict, remark."""
    rows = []
    for c in analysis.contrasts:
        difference = number(c.difference, analysis.digits, sign=True)
        shown = f"{difference} {analysis.unit}" if c.difference is not None else "-"
        remark = f"({c.remark})" if c.remark else ""
        rows.append((c.label, shown, bounds(c.low, c.high, analysis.digits), c.verdict, remark))
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(5)]
    return [
        f"{row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:<{widths[3]}}  {row[4]}".rstrip() for row in rows
    ]


def _baselines(data: Mapping[str, Any] | None) -> Mapping[str, float]:
    return (data or {}).get("baselines") or {}


def against_baselines(analysis: Analysis, data: Mapping[str, Any] | None) -> list[str]:
    """How the reference compares with each count-based baseline: learning that a table of counts can do proves little."""
    lines, digits, unit = [], analysis.digits, analysis.unit
    for name, value in _baselines(data).items():
        if analysis.value is None:
            lines.append(f"{name} {number(value, digits)} {unit}; the reference has no finished seed yet")
            continue
        gap = value - analysis.value
        worst = analysis.high if analysis.high is not None else analysis.value
        word = "clearly better" if worst < value and gap > analysis.margin else f"{NOT_BETTER}, so verdicts at this budget say little"
        where = f"{number(abs(gap), digits)} {unit} {'below' if gap > 0 else 'above'} the {name} baseline of {number(value, digits)}"
        lines.append(f"the reference is {where}: {word}")
    return lines


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
    head = [
        f"{a.name}: {a.question}" if a.question else a.name,
        "",
        "; ".join([reference, ", ".join(baselines)] if baselines else [reference]),
    ]
    head += [f"warning: {line}" for line in against_baselines(a, data) if NOT_BETTER in line]
    table = ["", *_search_lines(searched, a)] if searched is not None else []
    if a.contrasts:
        percent = f"{100 * a.confidence:g}% intervals over all {a.family} contrasts at once"
        table += [f"difference to the reference, {percent}, margin {a.margin:g} {a.unit}", "", *verdict_lines(a)]
    return "\n".join([*_wrapped(head), *table, "", *_wrapped(_footer(a))])


def _wrapped(lines: Iterable[str]) -> list[str]:
    return [piece for line in lines for piece in (textwrap.wrap(line, 100, subsequent_indent="  ") or [""])]


def _search_lines(searched: pd.DataFrame, analysis: Analysis, top: int = 5) -> list[str]:
    counts = ", ".join(f"{n} {outcome}" for outcome, n in Counter(searched["outcome"]).most_common())
    lines = [f"search tried {len(searched)} architectures ({counts or 'none'}); the best, under one seed each:"]
    decisions = list(searched.columns[list(searched.columns).index("digest") + 1 :])
    for _, row in searched[searched["outcome"] == "done"].head(top).iterrows():
        chosen = " ".join(f"{name}={spell(row[name])}" for name in decisions if not pd.isna(row[name]))
        lines.append(f"  {row['arm']:<10} {number(row[analysis.measure], analysis.digits)}  {row['parameters']:>9,} parameters  {chosen}")
    return [*lines, ""]


def _footer(analysis: Analysis) -> list[str]:
    lines = []
    for c in analysis.contrasts:
        if len(c.changes) > 1:
            lines.append(f"where {c.label} is {c.change}")
    gains = [c.gain for c in analysis.contrasts if c.gain is not None]
    if analysis.smallest_effect is not None:
        reach = (
            f"smallest difference this study can tell from zero: about {number(analysis.smallest_effect, analysis.digits)} {analysis.unit}"
        )
        lines.append(reach + (f"; pairing by seed made it {np.median(gains):.1f} times smaller (median)" if gains else ""))
    for o in analysis.outcomes:
        bad = {k: n for k, n in o.counts.items() if k not in ("done", "stopped")}
        if bad:
            lines.append(f"outcome: {o.arm}: {', '.join(f'{n} {k}' for k, n in bad.items())} of {o.trials} trials")
    lines += [f"note: {note}" for note in analysis.notes]
    paired = "paired by seed, Student t, Bonferroni over all contrasts; redundant = interval inside the margin"
    return [*lines, f"method: {paired}"]
