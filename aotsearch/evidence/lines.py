"""One line of the ledger: how it is written and checked; and many of them: which are its own, in which order, and what is wrong.

    {"check":CHECK,"ledger":ID,"n":NUMBER,"event":KIND, ...}

Format 2. ID is drawn when the ledger is begun, NUMBER counts its lines from 1 on, CHECK is a hash of all that follows it. So a line that
was altered fails its check, one of another ledger has another ID, and one that is lost, doubled or moved shows by its number. The first
line is the header, an event `ledger` with the `format`. Lines of format 1 have a `crc` and no number; where a ledger of them is continued,
the header's `before` has the crc of each ("" of a damaged one), whose place in that list is its number.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aotsearch.evidence.shapes import fits

FORMAT = 2
HEADER = "ledger"  # the kind of event that the header is
OUTCOMES = {"stopped": {"outcome": "pruned"}}  # as versions before 0.3 wrote it
Event = dict[str, Any]


def line(event: Mapping[str, Any], ledger: str, number: int) -> str:
    """An event as a line of format 2."""
    text = json.dumps({"ledger": ledger, "n": number, **event}, separators=(",", ":"), allow_nan=False)
    return f'{{"check":"{_check(text)}",{text[1:]}\n'


def header(before: Sequence[Row]) -> Event:
    """The first event of a ledger, or the first of format 2 in one that has lines of format 1."""
    return {"event": HEADER, "format": FORMAT, **({"before": [row.crc for row in before]} if before else {})}


def _check(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


# ---- one line


@dataclass(frozen=True)
class Row:
    """A line as it was read.

    Attributes:
        event: None where the line is damaged.
        ledger, number: Of format 2; empty and 0 else.
        crc: Of format 1; empty else.
        format: That a header claims, whether its check is right or not; 0 of other lines.
    """

    event: Event | None = None
    ledger: str = ""
    number: int = 0
    crc: str = ""
    format: int = 0


def parse(text: bytes) -> Row:
    """A line, with whatever line end an editor or a transfer gave it."""
    claimed = 0
    try:
        decoded = text.decode("utf-8-sig").rstrip("\r\n")
        event = json.loads(decoded)
        rest = "{" + decoded.split(",", 1)[1]
        claimed = event["format"] if event.get("event") == HEADER and isinstance(event.get("format"), int) else 0
        check, crc = event.pop("check", None), event.pop("crc", None)
        if check is not None:
            row = Row(event, event.pop("ledger"), event.pop("n"), format=claimed)
            whole = check == _check(rest) and isinstance(row.ledger, str) and isinstance(row.number, int) and row.number > 0
        else:
            row = Row(event | OUTCOMES.get(event.get("outcome"), {}), crc=crc)
            whole = crc == f"{zlib.crc32(rest.encode()):08x}"
        return row if whole and fits(event) else Row(format=claimed)
    except (ValueError, KeyError, IndexError, AttributeError, TypeError, RecursionError):  # no JSON, or not an object of ours
        return Row(format=claimed)


# ---- many lines


@dataclass(frozen=True)
class Damage:
    """What is wrong with the lines of a ledger, by kind. A line torn by a crash is none: its event never was.

    Attributes:
        damaged: The lines that fail their check or have not the fields of their event, by their place in the file.
        missing: The number before each that is lost, as often as lines are lost there.
        foreign: Lines of another ledger, or put in by another version.
        repeated: Lines that are there already.
        moved: Lines that stand before one with a smaller number.
        replaced: Whether no line is of the ledger that was written here last.
    """

    damaged: tuple[int, ...] = ()
    missing: tuple[int, ...] = ()
    foreign: int = 0
    repeated: int = 0
    moved: int = 0
    replaced: bool = False

    @property
    def lines(self) -> int:
        return len(self.damaged) + len(self.missing) + self.foreign + self.repeated + self.moved

    def __str__(self) -> str:
        """In one sentence; empty where nothing is wrong."""
        gaps = list(dict.fromkeys(self.missing))
        kinds = [
            (len(self.damaged), f"damaged ({_listed(self.damaged)})"),
            (len(self.missing), f"missing after {_listed(gaps)}" if gaps != [0] else "missing at the start"),
            (self.foreign, "of another ledger"),
            (self.repeated, "there twice"),
            (self.moved, "out of order"),
        ]
        said = [f"{n} {'is' if n == 1 else 'are'} {kind}" for n, kind in kinds if n]
        end = "the end of the ledger is not what was written here last: it was cut, or another was put in its place"
        if not said:
            return end if self.replaced else ""
        first, _, rest = said[0].partition(" ")
        lost = self.damaged or self.missing or self.foreign
        after = "no such line is used, and trials that are lost by it are trained again" if lost else "each counts once, in its order"
        return f"{first} line{'s' * (first != '1')} of the ledger {', '.join([rest, *said[1:]])}; {end if self.replaced else after}"


def _listed(places: Sequence[int], most: int = 3) -> str:
    shown = ", ".join(map(str, places[:most])) + (", ..." if len(places) > most else "")
    return f"line{'s' * (len(places) != 1)} {shown}"


@dataclass
class Reading:
    """What the lines of a ledger say.

    Attributes:
        events: Number -> event, in order, without the header.
        id: Of the ledger; empty where it has no line of format 2.
        next: The number that the next line gets.
        newer: The format that a header claims which this version does not know; 0 where none does.
    """

    events: dict[int, Event] = field(default_factory=dict)
    damage: Damage = Damage()
    id: str = ""
    next: int = 1
    newer: int = 0

    def follow(self, row: Row) -> bool:
        """Take one more line, where it is the next; if not, all must be read again."""
        if row.event is None or row.ledger != self.id or row.number != self.next or row.format:
            return False
        self.events[self.next] = row.event
        self.next += 1
        return True


def read(rows: Sequence[Row], torn: bool, end: tuple[str, int] = ("", 0)) -> Reading:
    """What is a ledger's own among its lines; the first of format 2 tells whose it is.

    Args:
        torn: Whether the last one has no line end: where it is damaged it was cut short by a crash, or is being written.
        end: The ledger of which so many lines are known to have been written.
    """
    own = next((row.ledger for row in rows if row.ledger), "")
    number = _numbers(rows, own)
    found: dict[int, Event] = {}
    damaged: dict[int, int] = {}  # the number that a damaged line will have had -> its place
    foreign = repeated = moved = last = 0
    for place, row in enumerate(rows, 1):
        n = number(place, row)
        if n == 0:
            last += 1
            damaged[last] = place
        elif n < 0:
            foreign += 1
        elif n in found:
            repeated += 1
        else:
            moved += bool(found) and n < last
            found[n] = row.event or {}
            last = n
    if torn and rows and rows[-1].event is None:
        damaged.pop(last)
    damaged = {n: place for n, place in damaged.items() if n not in found}  # the others were torn: their numbers were taken again
    taken = sorted({0} | found.keys() | damaged.keys())
    following = max(taken[-1], end[1] if own and end[0] == own else 0) + 1
    missing = tuple(a for a, b in itertools.pairwise([*taken, following]) for _ in range(min(b - a - 1, len(rows) + 1000)))
    events = {n: found[n] for n in sorted(found) if found[n]["event"] != HEADER}
    replaced = end[0] not in ("", *(row.ledger for row in rows))
    damage = Damage(tuple(damaged.values()), missing, foreign, repeated, moved, replaced)
    heads = (row.format for row in rows if not own or (row.event and row.ledger == own))  # a damaged one is not newer among lines we know
    newer = max(heads, default=0)
    return Reading(events, damage, own, following, newer if newer > FORMAT else 0)


def _numbers(rows: Sequence[Row], own: str) -> Callable[[int, Row], int]:
    """Gives the number of a line from its place and itself: 0 of a damaged one, below 0 of one that is not the ledger's."""
    first = next((row.event for row in rows if own and row.ledger == own and row.format), None)
    before: dict[str, deque[int]] = defaultdict(deque)
    for n, crc in enumerate((first or {}).get("before") or (), 1):
        before[crc].append(n)
    spent: dict[str, int] = {}

    def number(place: int, row: Row) -> int:
        if row.event is None:
            return 0
        if row.ledger:
            return row.number if row.ledger == own else -1
        if first is None:  # all are of format 1, or the header is lost
            return place
        if before[row.crc]:
            spent[row.crc] = before[row.crc].popleft()
        return spent.get(row.crc, -1)

    return number
