"""Architecture -> the lines of a drawing: one per part, in the order of the forward pass, repeated sublayers once."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

from aotsearch import registry
from aotsearch.architecture import Architecture, Part, Sublayer
from aotsearch.cost import Row, breakdown
from aotsearch.glossary import plain


@dataclass(frozen=True)
class Line:
    """One part of a model. Parameters and FLOPs are of one repeat: lines times repeats add up to the model.

    Attributes:
        group: Which run of sublayers the line belongs to, None outside of them.
        repeats: How many times the group stands in the model, in sequence.
        part: `input`, `embedding`, `positions`, `norm`, `mixer`, `channel`, `join` or `head`.
        text: The word with the options that differ from its defaults, and whose weights it uses if not its own.
        shape: Of what comes out for one window.
    """

    group: int | None
    repeats: int
    part: str
    text: str
    shape: tuple[int, ...]
    parameters: int
    flops_per_token: int


@dataclass(frozen=True)
class _Group:
    start: int
    period: int
    times: int


def outline(architecture: Architecture) -> list[Line]:
    """The drawing of an architecture, with what each line costs."""
    rows = breakdown(architecture)
    inside: list[list[Row]] = [[r for r in rows if r.sublayer == i] for i in range(len(architecture.sublayers))]
    before, after = rows[:3], rows[-2:]  # input, embedding and positions; the last norm and the head
    texts = [
        ", ".join(f"{name} {size}" for name, size in architecture.sizes),
        f"width {architecture.width}",
        str(architecture.positions),
        str(architecture.final_norm),
        "free" if architecture.head == "free" else f"{architecture.head} to the embedding",
    ]
    drawn = [_line(row, text) for row, text in zip([*before, *after], texts, strict=True)]
    middle: list[Line] = []
    for number, group in enumerate(_groups(architecture.sublayers, inside)):
        for i in range(group.start, group.start + group.period):
            middle += [_sublayer_line(r, architecture.sublayers[i], number, group) for r in inside[i]]
    return [*drawn[:3], *middle, *drawn[3:]]


def defaults(architecture: Architecture) -> dict[str, str]:
    """Word -> its options with their defaults, for every word of the architecture that has any."""
    used: list[tuple[str, Part]] = [("positions", architecture.positions)]
    for s in architecture.sublayers:
        used += [("norm", s.norm), ("sublayer", s.operation), ("join", s.join)]
    used.append(("norm", architecture.final_norm))
    words = {part.word: registry.find(slot, part.word) for slot, part in used if not part.absent}
    known = {name: [o for o in word.options.values() if not o.required] for name, word in words.items()}
    return {name: ", ".join(f"{o.name} {plain(o.default)}" for o in options) for name, options in known.items() if options}


def _line(row: Row, text: str) -> Line:
    return Line(None, 1, row.part, text, row.shape, row.parameters, row.flops_per_token)


def _sublayer_line(row: Row, sublayer: Sublayer, number: int, group: _Group) -> Line:
    operation = sublayer.operation
    part = registry.find("sublayer", operation.word).slot if row.part == "operation" else row.part
    decided = {"norm": sublayer.norm, "join": sublayer.join}.get(row.part, operation)
    text = str(decided)
    if sublayer.same_as is not None and part != "join" and not decided.absent:
        local = group.times > 1 and sublayer.same_as >= group.start
        text += f", weights of {f'sublayer {sublayer.same_as - group.start + 1}' if local else row.module}"
    return Line(number, group.times, part, text, row.shape, row.parameters, row.flops_per_token)


def _groups(sublayers: tuple[Sublayer, ...], rows: list[list[Row]]) -> list[_Group]:
    """Runs of sublayers: from each place the repetition that covers most; what repeats nothing is gathered."""
    costs = [[(r.shape, r.parameters, r.flops_per_token) for r in inside] for inside in rows]

    def equal(start: int, other: int, period: int) -> bool:
        for i, j in zip(range(start, start + period), range(other, other + period), strict=True):
            x, y = sublayers[i], sublayers[j]
            if costs[i] != costs[j] or dataclasses.replace(x, same_as=None) != dataclasses.replace(y, same_as=None):
                return False
            if _source(x, start) != _source(y, other, first=start):
                return False
        return True

    def times(start: int, period: int) -> int:
        starts = range(start + period, len(sublayers) - period + 1, period)
        return 1 + sum(1 for _ in itertools.takewhile(lambda other: equal(start, other, period), starts))

    groups: list[_Group] = []
    at = 0
    while at < len(sublayers):
        counted = [_Group(at, period, times(at, period)) for period in range(1, (len(sublayers) - at) // 2 + 1)]
        repeated = [g for g in counted if g.times > 1]
        best = max(repeated, key=lambda g: (g.period * g.times, -g.period), default=_Group(at, 1, 1))
        if best.times == 1 and groups and groups[-1].times == 1:
            best = _Group(groups[-1].start, groups.pop().period + 1, 1)
        groups.append(best)
        at = best.start + best.period * best.times
    return groups


def _source(sublayer: Sublayer, start: int, first: int | None = None) -> tuple[str, int] | None:
    """Where weights come from: a place in the sublayer's own repeat, or a sublayer before the `first` repeat."""
    if sublayer.same_as is None:
        return None
    if sublayer.same_as >= start:
        return "here", sublayer.same_as - start
    return ("before" if first is None or sublayer.same_as < first else "between"), sublayer.same_as
