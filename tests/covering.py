"""A covering array over the options of the whole library, and the invariants that each of its models keeps.

An item is an address with a value, such as ("mixer.attention.score", "sink") or ("mixer.attention.map.learned.per", "head"). An array of
strength t holds, for every t items that the laws admit together, a model that has them all. Items are read from the library, so a new
word or option is covered without being listed here. A row is filled greedily: it starts at items that no row has together, as near to
the references as the laws let it, and then takes at one address after the other the lawful value that covers most.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aotsearch.errors import Mark
from aotsearch.grammar import forms, library
from aotsearch.grammar.architecture import NONE, Architecture, Part, canonical
from aotsearch.grammar.laws import Around, laws, unfit
from aotsearch.grammar.space import Space
from aotsearch.grammar.words import NEEDED, SUBLAYERS, Option
from aotsearch.grammar.words import NONE as NO_WORD
from aotsearch.yamlfile import Node

WIDTHS = (8, 12)
TASKS: dict[str, dict[str, int]] = {  # small sizes of every kind of task
    "language": {"vocabulary": 11, "context": 8},
    "vision": {"image": 8, "channels": 2, "classes": 5},
    "regression": {"inputs": 3, "outputs": 1, "context": 8},
    "denoise": {"inputs": 8, "outputs": 8, "context": 8, "subspaces": 2},
    "cluster": {"inputs": 6, "outputs": 8, "context": 8, "subspaces": 4},
}
SKELETONS = ("sequence", "parallel", "tied", "tied parallel", "tied sublayers", "mixers first", "channel first")
NUMBERS = (-1, 0, 2, 0.5, 1, 4)  # of which an option of numbers takes those of its type
FEW = 3  # of them in the short form
DEPTH = 4  # items that are changed to make others lawful
PATIENCE = 400  # rows that are tried for it

Value = Any  # a scalar, or a Word for a part
Item = tuple[str, Value]
Row = dict[str, Value]


class Word(str):
    """The word of a part, where a scalar may stand too."""


@dataclass
class Assembly:
    """A row as it is made: what was chosen at every address it meets, from what, and the addresses that a broken law is about."""

    row: Row = field(default_factory=dict)
    levels: dict[str, tuple[Value, ...]] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    blamed: tuple[str, ...] = ()
    pieces: dict[str, tuple[Any, Assembly]] = field(default_factory=dict)  # what each slot has added, and where it stands


@functools.cache
def declared(slot: str, word: str, few: bool) -> tuple[tuple[Option, tuple[Value, ...]], ...]:
    """The options of a word with their levels: the default, the literals, flags, parts, and some numbers."""
    return tuple((option, _levels(option, few)) for option in library.find(slot, word).options.values())


def _levels(option: Option, few: bool) -> tuple[Value, ...]:
    found = [] if option.required or (option.slot and not option.takes(option.default)) else [option.default]
    found += option.literals
    found += [v for v in (False, True) if "true or false" in option.law]
    near = [k * option.default for k in (2, 0.5)] if isinstance(option.default, float) and option.default not in (0, 1) else []
    found += [option.parse(n) for n in near or NUMBERS if "number" in option.law and option.takes(n)]
    told = tuple(v for i, v in enumerate(found) if all(type(v) is not type(w) or v != w for w in found[:i]))
    numbers = [v for v in told[1:] if isinstance(v, int | float) and not isinstance(v, bool)]
    scalars = tuple(v for v in told if not few or v not in numbers[FEW:])
    return scalars + (words(option.slot) if option.slot else ())


@functools.cache
def words(slot: str) -> tuple[Word, ...]:
    """The words of a slot, and the part that is not there; the usual one first."""
    return (*map(Word, library.words_of(slot)), *(() if slot in NEEDED else (Word(NO_WORD),)))


def assemble(given: Mapping[str, Value], few: bool = False, last: Assembly | None = None, changed: str = "") -> Assembly:
    """The row that has what is given, all else at its reference; slots that one changed address does not touch are as in the last one."""
    made = Assembly()

    def pick(address: str, values: tuple[Value, ...]) -> Value:
        made.levels[address] = values
        made.row[address] = value = given.get(address, values[0])
        return value

    def part(slot: str, address: str, word: str) -> Part:
        if word == NO_WORD:
            return NONE
        options: dict[str, Any] = {}
        for option, values in declared(slot, word, few):
            at = f"{address}.{word}.{option.name}"
            value = pick(at, values)
            options[option.name] = part(option.slot, at, value) if isinstance(value, Word) else value
            if option.divides_width and around.width % value:
                made.blamed = made.blamed or (at, "width")
        for law in laws(slot, word, around, sizes):
            if not law.holds(options):
                context = ("task", "width", "positions", "initialisation") if law.given or law.missing else ()
                nested = [a for a in made.levels if law.inner[0] and a.startswith(f"{address}.{word}.{law.inner[0]}.{law.inner[1]}.")]
                made.blamed = made.blamed or (*context, *nested, *(f"{address}.{word}.{name}" for name in law.options), address)
        return canonical(slot, str(word), options)

    def slot(name: str, address: str = "") -> Part:
        nonlocal made
        address = address or name
        stands = (around, sizes)
        if (
            last is None
            or changed == address
            or last.pieces.get(address, ("",))[0] != stands
            or changed.startswith(f"{address}.{last.row[address]}.")
        ):
            whole, made = made, Assembly()
            made.parts[address] = part(name, address, pick(address, words(name)))
            whole.pieces[address] = (stands, made)
            made = whole
        else:
            made.pieces[address] = last.pieces[address]
        piece = made.pieces[address][1]
        made.row.update(piece.row)
        made.levels.update(piece.levels)
        made.parts.update(piece.parts)
        made.blamed = made.blamed or piece.blamed
        return made.parts[address]

    sizes = tuple(sorted(TASKS[pick("task", tuple(TASKS))].items()))
    around = Around(pick("width", WIDTHS))
    pick("skeleton", SKELETONS)
    pick("before", (Word(NO_WORD), *words("mixer")[:-1]))
    for name in ("embedding", "positions", "pooling"):
        slot(name)
    slot("norm", "final_norm")
    for name in ("head", "initialisation"):
        pick(name, forms.MODEL[name].literals)  # type: ignore[union-attr]
    ends = {name: made.parts[name] for name in ("embedding", "positions", "pooling", "final_norm")}
    model = Architecture.frame(
        {**ends, "width": around.width, "head": made.row["head"], "initialisation": made.row["initialisation"]}, sizes
    )
    around = Around.of(model)
    there = [name for name in SUBLAYERS if not slot(name).absent]
    for name in there:
        pick(f"{name}.place", forms.SUBLAYER["place"].literals)  # type: ignore[union-attr]
        slot("norm", f"{name}.norm")
        slot("join", f"{name}.join")
    if not there:
        made.blamed = made.blamed or SUBLAYERS
    if len(there) == 2 and "parallel" in made.row["skeleton"] and made.parts["channel.join"].absent:
        made.blamed = made.blamed or ("skeleton", "mixer", "channel.join")
    law = unfit(model) if not made.blamed else None
    if law is not None:
        made.blamed = ("task", "width", "embedding", law[1])
    return made


def plain(row: Row) -> dict[str, Any]:
    """The grammar of a row, as a study file writes it."""
    parts = assemble(row).parts

    def sublayer(slot: str, **more: Any) -> list[Any]:
        if parts[slot].absent:
            return []
        own = {"place": row[f"{slot}.place"], "norm": parts[f"{slot}.norm"].to_plain(), "join": parts[f"{slot}.join"].to_plain()}
        word, options = parts[slot].word, {k: v.to_plain() if isinstance(v, Part) else v for k, v in parts[slot].options}
        return [{word: {**options, **own, **more}}]

    mixer, channel = sublayer("mixer"), sublayer("channel")
    before = [] if row["before"] == NO_WORD else [str(row["before"])]
    bodies: dict[str, Any] = {
        "sequence": {"repeat": 2, "of": [*mixer, *channel]},
        "parallel": {"repeat": 2, "of": {"parallel": [*mixer, *channel]}},
        "tied": {"repeat": 2, "of": [*mixer, *channel], "tied": True},
        "tied parallel": {"repeat": 2, "of": {"parallel": [*mixer, *channel]}, "tied": True},
        "tied sublayers": {"repeat": 2, "of": [*mixer, *sublayer("channel", tied=True)]},
        "mixers first": [*mixer * 2, *channel * 2],
        "channel first": {"repeat": 2, "of": [*channel, *mixer]},
    }
    model = {"width": row["width"], "head": row["head"], "initialisation": row["initialisation"]}
    model |= {name: parts[name].to_plain() for name in ("embedding", "positions", "pooling", "final_norm")}
    return {"model": {**model, "blocks": [*before, bodies[row["skeleton"]]]}}


def space(row: Row) -> Space:
    """The space of the one model that a row is; raises InputError where a law refuses it."""
    return Space.parse(_node(plain(row)), TASKS[row["task"]])


def architecture(row: Row) -> Architecture:
    return space(row).reference


def forced(items: dict[str, Value]) -> Row | None:
    """The row with some items, all else at its reference, lawful or not; None where the items exclude each other."""
    within = {a: Word(word) for address in items for a, word in _words_in(address)}
    made = assemble({**within, **items})
    return made.row if made.row.items() >= items.items() else None


def _words_in(address: str) -> Iterator[tuple[str, str]]:
    """The parts that an address stands in: (mixer, attention), (mixer.attention.map, learned) for mixer.attention.map.learned.per."""
    steps = address.split(".")
    for i in range(1, len(steps)):
        yield ".".join(steps[:i]), steps[i]


def _node(value: Any) -> Node:
    """Plain data as what a file with it is read to."""
    mark = Mark("row")
    if isinstance(value, dict):
        return Node({k: _node(v) for k, v in value.items()}, mark, dict.fromkeys(value, mark))
    return Node([_node(v) for v in value] if isinstance(value, list) else value, mark)


def shrunk(row: Row, fails: Callable[[Row], bool]) -> Row:
    """What is left of a row that fails when all that does not matter is back at its reference."""
    row = {a: v for a, v in row.items() if not _usual(row, a)}
    size = len(row)
    while size:
        size = (size + 1) // 2 if size > 1 else 0
        addresses = list(row)
        for start in range(0, len(addresses), max(size, 1)):
            chunk = addresses[start : start + max(size, 1)]
            tried = {a: v for a, v in row.items() if a not in chunk}
            made = assemble(tried)
            if not made.blamed and len(tried) < len(row) and fails(made.row):
                row = {a: v for a, v in tried.items() if a in made.row}
    return row


def _usual(row: Row, address: str) -> bool:
    value = assemble(row).levels[address][0]
    return type(value) is type(row[address]) and bool(value == row[address])


# --- the array ---


class Array:
    """The rows of a covering array.

    Attributes:
        rows: One for each model.
        refused: Sets of items that no lawful row was found to have together.
    """

    def __init__(self, seed: int = 0, few: bool = False, deep: bool = True):
        self.rng = random.Random(seed)
        self.few = few
        self.rows: list[Row] = []
        self.refused: list[tuple[Item, ...]] = []
        self.never: set[tuple[int, ...]] = set()  # the pairs among them, by number
        self.numbers: dict[Item, int] = {}  # by type too: see `_item`
        self.items: list[Item] = []
        self.needs: list[dict[str, Value]] = []  # of an item: the words of the parts it stands in
        self._explore()
        self.possible = [i for i in range(len(self.items)) if self.solve((i,)) is not None]
        self.refused += [(self.items[i],) for i in set(range(len(self.items))) - set(self.possible)]
        paired = [i for i in self.possible if deep or self.needs[i].keys() <= {"mixer"}]
        self.left: list[set[int]] = [set() for _ in self.items]  # of an item: those it was not met with yet
        for i, j in itertools.combinations(paired, 2):
            if self.items[i][0] != self.items[j][0] and self._pins((i, j)) is not None:
                self.left[i].add(j)
                self.left[j].add(i)
        self.inside: list[list[int]] = [[] for _ in self.items]  # of a part: the items that stand in it alone
        for i, needs in enumerate(self.needs):
            if needs:
                self.inside[self.numbers[_item(*list(needs.items())[-1])]].append(i)
        self.single = set(self.possible)  # items that were not met at all
        self.pairs = sum(map(len, self.left)) // 2

    def cover(self, most: int | None = None) -> Array:
        """Rows until every pair of items is met, or refused; or so many at most."""
        order = [(i, j) for i, partners in enumerate(self.left) for j in partners if i < j]
        self.rng.shuffle(order)
        order.sort(key=lambda pair: len(self.needs[pair[0]]) + len(self.needs[pair[1]]))  # what parts refuse, their options do too
        for items in [*order, *((i,) for i in self.possible)]:
            if len(self.rows) == most:
                break
            if items[-1] in (self.left[items[0]] if len(items) == 2 else self.single):
                start = None if self._hopeless(items) else self.solve(items)
                if start is None:
                    self.never.add(items)
                    self.refused.append(tuple(self.items[i] for i in items))
                    for i, j in itertools.permutations(items, 2):
                        self.left[i].discard(j)
                else:
                    self.rows.append(self._filled(start, items))
        return self

    def sample(self, number: int, strength: int) -> Array:
        """Rows that each have some items together, drawn at random; the rest is drawn too."""
        while len(self.rows) < number:
            items = tuple(self.rng.sample(self.possible, strength))
            start = self.solve(items)
            if start is not None:
                self.rows.append(self._filled(start, items))
            elif self._pins(items) is not None:
                self.refused.append(tuple(self.items[i] for i in items))
        return self

    def solve(self, items: tuple[int, ...]) -> Row | None:
        """A lawful row with some items, all else near the references; None where none is found."""
        pins = self._pins(items)
        if pins is None:
            return None
        tries: list[tuple[dict[str, Value], Assembly | None, str]] = [(pins, None, "")]
        for given, before, changed in tries:
            made = assemble(given, self.few, before, changed)
            if not made.blamed:
                return made.row if made.row.items() >= pins.items() else None
            if before and made.blamed == before.blamed:  # what leaves the same law broken is not followed
                continue
            if len(given) - len(pins) < DEPTH:
                free = [a for a in made.blamed if a not in given and a in made.levels]
                tries += [({**given, a: v}, made, a) for a in free for v in made.levels[a] if v is not made.row[a]]
            if len(tries) > PATIENCE:
                del tries[PATIENCE:]
        return None

    def _hopeless(self, items: tuple[int, ...]) -> bool:
        """Whether a part that one stands in was refused with the other, or with a part that the other stands in."""
        within = [[i, *(self.numbers[_item(a, v)] for a, v in self.needs[i].items())] for i in items]
        return any((min(pair), max(pair)) in self.never for pair in itertools.product(*within)) if len(within) == 2 else False

    def _gain(self, item: int, met: set[int]) -> int:
        """How much of what is left an item would cover beside those that are met, or the best of what a part brings with it."""
        inside = max((self._gain(i, met) for i in self.inside[item]), default=0)
        return len(self.left[item] & met) + (item in self.single) + inside

    def _explore(self) -> None:
        """Every item, with what it stands in."""
        seen: set[str] = set()
        queue: list[dict[str, Value]] = [{}]
        for given in queue:
            made = assemble(given, self.few)
            for address, values in made.levels.items():
                if address in seen:
                    continue
                seen.add(address)
                within = {a: v for a, v in made.row.items() if isinstance(v, Word) and address.startswith(f"{a}.{v}.")}
                for value in values:
                    self.numbers[_item(address, value)] = len(self.items)
                    self.items.append((address, value))
                    self.needs.append(within)
                    if isinstance(value, Word):
                        queue.append({**given, address: value})

    def _pins(self, items: tuple[int, ...]) -> dict[str, Value] | None:
        """What items fix, and the parts they stand in; None where they exclude each other."""
        pins: dict[str, Value] = {}
        for i in items:
            for address, value in (*self.needs[i].items(), self.items[i]):
                if address in pins and _item(address, pins[address]) != _item(address, value):
                    return None
                pins[address] = value
        return pins

    def _filled(self, row: Row, items: tuple[int, ...]) -> Row:
        """A row with the lawful value at each address that covers most, given the others."""
        pins = self._pins(items)
        assert pins is not None
        done = set(pins)
        made = assemble(row, self.few)
        while open_ := [a for a in made.levels if a not in done]:
            address = self.rng.choice(open_)
            done.add(address)
            met = {self.numbers[_item(a, v)] for a, v in made.row.items() if a != address}
            gains = [self._gain(self.numbers[_item(address, v)], met) for v in made.levels[address]]
            order = self.rng.sample(range(len(gains)), len(gains))
            for gain, _, value in sorted(zip(gains, order, made.levels[address], strict=True), key=lambda t: (-t[0], t[1])):
                if not gain or value is made.row[address]:
                    break
                tried = assemble({**made.row, address: value}, self.few, made, address)
                if not tried.blamed and tried.row.items() >= pins.items():
                    made = tried
                    break
        row = made.row
        met = {self.numbers[_item(a, v)] for a, v in row.items()}
        for i in met:
            self.left[i] -= met
        self.single -= met
        return row


def _item(address: str, value: Value) -> Item:
    """An item whose numbers, flags and words are told apart."""
    return address, (type(value).__name__, value)
