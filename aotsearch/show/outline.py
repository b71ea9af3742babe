"""Architecture -> the lines of a drawing: one per part, in the order of the forward pass, repeated sublayers once."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from dataclasses import dataclass

from aotsearch.grammar import library
from aotsearch.grammar.architecture import TOKEN, Architecture, Part, Sublayer, settings
from aotsearch.grammar.glossary import plain
from aotsearch.grammar.words import SUBLAYERS
from aotsearch.models.cost import Row, breakdown


@dataclass(frozen=True)
class Line:
    """One part of a model. Parameters and FLOPs are of one repeat: lines times repeats add up to the model.

    Attributes:
        group: Which run of sublayers the line belongs to, None outside of them.
        repeats: How many times the group stands in the model, in sequence.
        part: `input`, `embedding`, `positions`, `norm`, `mixer`, `channel`, `join`, `pooling` or `head`.
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
    a = architecture
    rows = breakdown(a)
    inside: list[list[Row]] = [[r for r in rows if r.sublayer == i] for i in range(len(a.sublayers))]
    texts = {
        "input": ", ".join(f"{name} {size}" for name, size in a.sizes),
        "embedding": (f"width {a.width}" if a.embedding == TOKEN else f"{a.embedding}, width {a.width}") + _dropped(a),
        "positions": str(a.positions),
        "norm": str(a.final_norm),
        "pooling": str(a.pooling),
        "head": "free" if a.head == "free" else f"{a.head} to the embedding",
    }
    outside = [_line(row, texts[row.part]) for row in rows if row.sublayer is None]
    middle: list[Line] = []
    for number, group in enumerate(_groups(a.sublayers, inside)):
        for i in range(group.start, group.start + group.period):
            middle += [_sublayer_line(r, a.sublayers[i], number, group) for r in inside[i]]
    return [*outside[:3], *middle, *outside[3:]]  # input, embedding and positions stand before


def defaults(architecture: Architecture) -> dict[str, str]:
    """Word -> its options with their defaults, for every word of the architecture that has any."""
    a = architecture
    used: list[tuple[str, Part]] = [("embedding", a.embedding), ("positions", a.positions)]
    for s in dict.fromkeys(a.sublayers):
        used += [("norm", s.norm), ("sublayer", s.operation), ("join", s.join)]
    used += [("pooling", a.pooling), ("norm", a.final_norm)]
    for slot, part in used:  # grows while it is read: a part may be an option of another
        parts = {name: value for name, value in settings(slot, part).items() if isinstance(value, Part)}
        used += [(library.find(slot, part.word).options[name].slot, value) for name, value in parts.items()]
    words = {(slot, part.word): library.find(slot, part.word) for slot, part in used if not part.absent}
    known = [(word, [o for o in word.options.values() if not o.required]) for word in words.values()]
    names = Counter(word.name for word, options in known if options)
    return {
        word.name if names[word.name] == 1 else f"{word.slot} {word.name}": ", ".join(f"{o.name} {plain(o.default)}" for o in options)
        for word, options in known
        if options
    }


def _dropped(a: Architecture) -> str:
    """What training drops of the stream and what joins it; "" where it is nothing."""
    shares = {"dropout": a.dropout, "drop path": a.drop_path}
    return "".join(f", {name} {plain(share)}" for name, share in shares.items() if share > 0)


def _line(row: Row, text: str) -> Line:
    return Line(None, 1, row.part, text, row.shape, row.parameters, row.flops_per_token)


def _sublayer_line(row: Row, sublayer: Sublayer, number: int, group: _Group) -> Line:
    operation = sublayer.operation
    part = library.find("sublayer", operation.word).slot if row.part == "operation" else row.part
    decided = {"norm": sublayer.norm, "join": sublayer.join}.get(row.part, operation)
    text = str(decided)
    if sublayer.same_as is not None and part != "join" and not decided.absent:
        local = group.times > 1 and sublayer.same_as >= group.start
        text += f", weights of {f'sublayer {sublayer.same_as - group.start + 1}' if local else row.module}"
    if sublayer.parallel and part in SUBLAYERS:
        text += ", beside the sublayer before"
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
