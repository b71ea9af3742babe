"""Judged -> what is printed: the text of a terminal, and the JSON document. Both show the measure in its own direction.

text(found) -> str;  plain(found) -> dict
"""

from __future__ import annotations

import dataclasses
from typing import Any

from aotsearch.evidence.answer import Analysis, answer
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.statistics import deviation
from aotsearch.judge.verdict import Judged
from aotsearch.report.summary import bounds, number, verdict_lines, wrapped


def shown(found: Judged) -> Analysis:
    """The analysis with the numbers of the file: of a measure of which more is better, arm minus reference above 0 is better."""
    q, a = found.runs.question, found.analysis
    if not q.higher_is_better:
        return a
    value, low, high = (None if v is None else -v for v in (a.value, a.high, a.low))
    turned = tuple(map(_turned, a.contrasts))
    return dataclasses.replace(a, unit=q.unit or q.measure, contrasts=turned, value=value, low=low, high=high)


def _turned(c: Contrast) -> Contrast:
    difference, low, high = (None if v is None else -v for v in (c.difference, c.high, c.low))
    return dataclasses.replace(c, difference=difference, low=low, high=high)


def heading(found: Judged) -> str:
    r, q = found.runs, found.runs.question
    better = "higher" if q.higher_is_better else "lower"
    return f"{q.measure} ({better} is better) of {len(r.all)} runs: {len(r.arms) - 1} arm{'s' * (len(r.arms) > 2)} against {r.reference}"


def reference_line(found: Judged) -> str:
    a, n = shown(found), len(found.runs.values(found.runs.reference))
    if a.value is None:
        return f"{a.reference}: no run with a value"
    noise = f" (sd {number(a.noise_floor, a.digits + 1)} over {n} runs)" if a.noise_floor is not None else " (one run)"
    return f"{a.reference} {number(a.value, a.digits)} {a.unit}{noise}"


def floor_line(a: Analysis) -> str:
    """What seeds alone do, and what so many can tell."""
    parts = []
    if a.noise is not None:
        parts.append(f"noise floor: two single runs of {a.reference} differ by less than {number(a.noise.difference, a.digits)} {a.unit}")
    if a.smallest_effect is not None:
        parts.append(f"minimum detectable effect: about {number(a.smallest_effect, a.digits)} {a.unit}")
    return "; ".join(parts)


def pace_lines(found: Judged) -> list[str]:
    """The time of each arm, and its ratio to the reference's."""
    lines = []
    for p in found.paces:
        ratio = f", {p.ratio:.4f} {bounds(p.low, p.high, 4, sign=False)} of the reference's" if p.ratio is not None else ""
        lines.append(f"{found.runs.question.time}: {p.arm} {p.mean:.6g}{ratio}")
    return lines


def text(found: Judged) -> str:
    """What a terminal shows."""
    a = shown(found)
    head = [*(f"warning: {line}" for line in a.warnings), f"{a.name}: {heading(found)}", "", answer(a), "", reference_line(found)]
    at_once = f"s over all {a.family} contrasts at once" if a.family > 1 else ""
    table = [f"difference to {a.reference}, {100 * a.confidence:g}% interval{at_once}, margin {a.margin:g} {a.unit}", "", *verdict_lines(a)]
    foot = [*filter(None, [floor_line(a)]), *pace_lines(found), *(f"note: {note}" for note in a.notes), f"method: {a.method}"]
    return "\n".join([*wrapped(head), *table, "", *wrapped(foot)])


def plain(found: Judged) -> dict[str, Any]:
    """The JSON document: that of a report, with where the runs came from and what each arm has."""
    q, a = found.runs.question, shown(found)
    pairs = zip(a.contrasts, found.analysis.contrasts, strict=True)
    contrasts = [one.to_dict() | {"reading": two.to_dict()["reading"], **_ends(one, found)} for one, two in pairs]
    return a.to_dict() | {
        "answer": answer(a),
        "interval": "Student t of pairs" if q.pair else "Welch",
        "contrasts": contrasts,
        "source": found.source,
        "runs": len(found.runs.all),
        "pair": q.pair,
        "margin_stated": q.margin is not None,
        "higher_is_better": q.higher_is_better,
        "at": q.at if found.runs.history else None,
        "arms": arms(found),
        "time": [dataclasses.asdict(p) for p in found.paces],
    }


def _ends(c: Contrast, found: Judged) -> dict[str, Any]:
    return {"decision": found.runs.question.arm, "from": found.runs.reference, "to": c.arm}


def arms(found: Judged) -> list[dict[str, Any]]:
    """Of every arm how many runs it has, how many of them have a value, their mean and standard deviation."""
    rows = []
    for arm, runs in found.runs.arms.items():
        values = found.runs.values(arm)
        mean, sd = (sum(values) / len(values) if values else None), deviation(values) if len(values) > 1 else None
        rows.append({"arm": arm, "runs": len(runs), "values": len(values), "mean": mean, "sd": sd})
    return rows
