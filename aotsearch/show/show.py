"""Architectures as text, for people: plain, within 100 columns for usual models."""

from __future__ import annotations

import difflib
import itertools
import textwrap
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.glossary import WIDTH, plain, wrap
from aotsearch.models.cost import cost
from aotsearch.show.outline import Line, defaults, outline
from aotsearch.study.design import Arm

TEXT = 18  # where the words of the tree begin
COUNTED = "FLOPs: matrix products and attention at full context, a multiply-add as two; nothing elementwise."
COSTS = {"parameters": "parameters", "parameters_without_embeddings": "  without embeddings", "flops_per_token": "FLOPs per token"}


@dataclass(frozen=True)
class _Drawn:
    """A line as it is printed: a part of the model, or, above a group, how often the group stands and what it costs in all."""

    part: str
    text: str
    shape: str
    parameters: int
    flops: int
    times: int = 1
    inside: bool = False
    last: bool = False


_Pair = tuple[_Drawn | None, _Drawn | None]


def tree(arm: Arm, reference: Architecture) -> str:
    """An architecture as a tree with the cost of every line, and how it differs from the reference."""
    a = arm.architecture
    counts = cost(a)
    drawn = _drawn(outline(a))

    def amounts(parameters: int, flops: int, times: int = 1) -> list[str]:
        shares = _share(times * parameters, counts.parameters), _share(times * flops, counts.flops_per_token)
        return [_number(parameters), shares[0], _number(flops), shares[1]]

    cells = [["shape", "parameters", "%", "FLOPs/token", "%"], *([x.shape, *amounts(x.parameters, x.flops, x.times)] for x in drawn)]
    cells.append(["", *amounts(counts.parameters, counts.flops_per_token)])
    cells.append(
        ["", _number(counts.parameters_without_embeddings), _share(counts.parameters_without_embeddings, counts.parameters), "", ""]
    )
    numbers = _columns(cells)
    room = WIDTH - 2 - max(map(len, numbers))
    above, title = ("", _title(arm)) if len(_title(arm)) <= room else (_title(arm), "")
    labels = [[title], *(_label(x, room) for x in drawn), ["total"], ["  without embeddings"]]
    width = max(len(label[0]) for label in labels)
    lines = [above] if above else []
    for label, row in zip(labels, numbers, strict=True):
        lines += [f"{label[0]:<{width}}  {row}".rstrip(), *label[1:]]
    if any(x.times > 1 for x in drawn):
        lines += ["", "Inside a group all numbers are of one repeat, shares of all repeats."]
    else:
        lines.append("")
    lines += [COUNTED, *_defaults(a)]
    changes = reference.diff(a)
    if changes:
        lines += ["", "against the reference", *_decisions(changes), *_differences(reference, a)]
    return "\n".join(lines)


def diff(left: Arm, right: Arm) -> str:
    """Two architectures side by side, the decisions in which they differ, and what the difference costs."""
    sides = _drawn(outline(left.architecture)), _drawn(outline(right.architecture))
    rows = [["", "", _title(left), "params", "FLOPs", _title(right), "params", "FLOPs"]]
    for x, y in _aligned(*sides):
        some = x or y
        assert some is not None
        mark = ">" if x is None else "<" if y is None else " " if _printed(x) == _printed(y) else "*"
        rows.append([mark, ("  " if some.inside else "") + _slot(some), *_side(x), *_side(y)])
    spent = [cost(arm.architecture) for arm in (left, right)]
    totals = [c for k in spent for c in ("", _short(k.parameters), _short(k.flops_per_token))]
    rows.append([" " if totals[:3] == totals[3:] else "*", "total", *totals])
    lines = [*_side_by_side(rows), "", f"*: differs; <: only in {left.name}; >: only in {right.name}"]
    lines += ["Numbers beside a group (N x) are of all repeats, inside it of one.", COUNTED, ""]
    changes = left.architecture.diff(right.architecture)
    lines += ["decisions that differ" if changes else "no decision differs", *_decisions(changes)]
    return "\n".join([*lines, "", f"from {left.name} to {right.name}", *_differences(left.architecture, right.architecture)])


def document(arm: Arm, pair: tuple[Arm, Arm] | None = None) -> dict[str, Any]:
    """What `tree` shows as plain data, with what `diff` shows of a pair."""
    a = arm.architecture
    found = {
        "arm": arm.name,
        "digest": a.digest,
        "decisions": dict(a.decisions),
        "changes": {address: list(values) for address, values in arm.changes.items()},
        **vars(cost(a)),
        "lines": [vars(line) | {"shape": list(line.shape)} for line in outline(a)],
    }
    if pair is not None:
        left, right = pair
        changes = left.architecture.diff(right.architecture)
        costs = {field: [getattr(cost(x.architecture), field) for x in pair] for field in COSTS}
        found["diff"] = {"arms": [left.name, right.name], "decisions": {k: list(v) for k, v in changes.items()}, "costs": costs}
    return found


def _drawn(lines: Sequence[Line]) -> list[_Drawn]:
    drawn = []
    for group, members in itertools.groupby(lines, key=lambda line: line.group):
        found = list(members)
        n, inside = found[0].repeats, group is not None
        if inside:
            drawn.append(_Drawn(f"{n} x", "", "", n * sum(x.parameters for x in found), n * sum(x.flops_per_token for x in found)))
        for x in found:
            last = x is found[-1] and (inside or x.part == "head")
            drawn.append(_Drawn(x.part, x.text, " x ".join(map(str, x.shape)), x.parameters, x.flops_per_token, n, inside, last))
    return drawn


def _label(x: _Drawn, room: int) -> list[str]:
    """The left of a line of the tree: branches, part and text, the text on further lines where there is no room."""
    branch = ("|   " if x.inside else "") + ("`-- " if x.last else "|-- ")
    below = ("|   " if x.inside else "") + ("    " if x.last else "|   ")
    texts = wrap(x.text, room - TEXT)
    return [f"{branch + x.part:<{TEXT}}{texts[0]}".rstrip(), *(f"{below:<{TEXT}}  {text}" for text in texts[1:])]


def _title(arm: Arm) -> str:
    return f"{arm.name}  {arm.architecture.digest}"


def _defaults(*architectures: Architecture) -> list[str]:
    """What the words mean where the drawing writes no option."""
    known: dict[str, str] = {}
    for a in architectures:
        known |= defaults(a)
    text = "; ".join(f"{word} ({options})" for word, options in known.items())
    return textwrap.wrap(f"Options not written: {text}.", WIDTH, subsequent_indent="  ", break_on_hyphens=False) if known else []


def _decisions(changes: Mapping[str, tuple[Any, Any]]) -> list[str]:
    rows = [[f"  {address}", " -> ".join("(not met)" if v is None else plain(v) for v in pair)] for address, pair in changes.items()]
    return _columns(rows, "<<")


def _differences(left: Architecture, right: Architecture) -> list[str]:
    rows = []
    for field, name in COSTS.items():
        old, new = (getattr(cost(a), field) for a in (left, right))
        percent = f"{100 * (new - old) / old:+.1f}%" if old else ""
        rows.append([f"  {name}", f"{old:,}", "->", f"{new:,}", f"{new - old:+,}", percent])
    return _columns(rows, "<>>>>>")


def _aligned(left: list[_Drawn], right: list[_Drawn]) -> list[_Pair]:
    """Pairs of lines, by part or by what they say, whichever leaves less to mark."""
    ways = [list(_paired(left, right, key)) for key in (_place, lambda x: (*_place(x), x.part, x.text))]
    return min(ways, key=lambda pairs: sum(x is None or y is None or _printed(x) != _printed(y) for x, y in pairs))


def _paired(left: list[_Drawn], right: list[_Drawn], key: Callable[[_Drawn], Hashable]) -> Iterator[_Pair]:
    matcher = difflib.SequenceMatcher(None, [key(x) for x in left], [key(y) for y in right], autojunk=False)
    for _, i, j, k, m in matcher.get_opcodes():
        xs, ys = left[i:j], right[k:m]
        if list(map(_place, xs)) == list(map(_place, ys)):
            yield from zip(xs, ys, strict=True)
        else:
            yield from ((x, None) for x in xs)
            yield from ((None, y) for y in ys)


def _place(x: _Drawn) -> tuple[Hashable, ...]:
    return _slot(x), x.inside


def _slot(x: _Drawn) -> str:
    return "group" if x.part[0].isdigit() else x.part


def _printed(x: _Drawn) -> tuple[Hashable, ...]:
    return (x.part, x.text, x.shape, x.parameters, x.flops)


def _side(x: _Drawn | None) -> list[str]:
    if x is None:
        return ["", "", ""]
    return [x.part if _slot(x) == "group" else x.text, _short(x.parameters), _short(x.flops)]


def _side_by_side(rows: list[list[str]]) -> list[str]:
    """Rows of mark, part, and twice text, parameters, FLOPs; the texts wrapped to what is left of the width."""
    widths = [max(len(row[i]) for row in rows) for i in range(8)]
    fixed = sum(widths) - widths[2] - widths[5] + 2 * 6 + 1
    room = (WIDTH - fixed) // 2
    lines = []
    for row in rows:
        left, right = (wrap(row[i], room) for i in (2, 5))
        numbers = [f"{row[i]:>{widths[i]}}" for i in (3, 4, 6, 7)]
        for k, (x, y) in enumerate(itertools.zip_longest(left, right, fillvalue="")):
            a, b, c, d = numbers if k == 0 else [" " * len(n) for n in numbers]
            head = f"{row[0]:1} {row[1]:<{widths[1]}}" if k == 0 else " " * (2 + widths[1])
            lines.append(f"{head}  {x:<{room}}  {a}  {b}  {y:<{room}}  {c}  {d}".rstrip())
    return lines


def _columns(rows: list[list[str]], align: str = ">>>>>") -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(f"{c:{side}{w}}" for c, side, w in zip(row, align, widths, strict=True)).rstrip() for row in rows]


def _number(n: int) -> str:
    return f"{n:,}" if n else "-"


def _share(n: int, total: int) -> str:
    return f"{100 * n / total:.1f}" if n and total else ""


def _short(n: int) -> str:
    """Exact below 100,000, else three figures: 124K, 1.05M."""
    if n < 100_000:
        return _number(n)
    value, unit = next((n / 1000**k, u) for k, u in ((1, "K"), (2, "M"), (3, "G"), (4, "T")) if n < 999.5 * 1000**k or u == "T")
    return f"{value:.{max(0, 2 - (value >= 9.995) - (value >= 99.95))}f}{unit}"
