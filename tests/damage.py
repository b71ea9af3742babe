"""Damaged run folders: whatever happens to their files, a report gives the contrasts of the whole one, or says what is wrong.

    python tests/damage.py --copies 10000 --seed 0

Every copy of a golden folder, of format 2 or continued in it, is damaged as disks, editors and people do: lines lost, doubled, moved,
swapped, cut, edited, of another ledger, with other line ends; files replaced. The first violation is printed, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aotsearch.errors import AotsearchError
from aotsearch.evidence import lines
from aotsearch.evidence.ledger import END, FILE, Ledger
from aotsearch.report.data import read
from aotsearch.running.status import status

GOLDEN = Path(__file__).parent / "golden"
NUMBER = re.compile(rb"\d+\.\d+")
NOISE = (b"[1]\n", b"{}\n", b"null\n", b"\n", b"\xff\xfe\n", b'{"crc":"00000000","event":"finished"}\n', b"[" * 5000 + b"\n")


def format_1(events: Iterable[Mapping[str, Any]]) -> bytes:
    """A ledger as versions before 0.3 wrote it."""
    return b"".join(crc32(json.dumps(event, separators=(",", ":"))) for event in events)


def crc32(text: str) -> bytes:
    """One line of it."""
    return f'{{"crc":"{zlib.crc32(text.encode()):08x}",{text[1:]}\n'.encode()


@dataclass
class Copy:
    """The files of a run folder, and those of the same study at another learning rate."""

    lines: list[bytes]
    study: bytes
    other: list[bytes]


def _lost(rng: random.Random, copy: Copy) -> None:
    at = rng.randrange(len(copy.lines))
    del copy.lines[at : at + rng.choice((1, 1, 1, 3))]


def _doubled(rng: random.Random, copy: Copy) -> None:
    copy.lines.insert(rng.randrange(len(copy.lines) + 1), rng.choice(copy.lines))


def _moved(rng: random.Random, copy: Copy) -> None:
    line = copy.lines.pop(rng.randrange(len(copy.lines)))
    copy.lines.insert(rng.randrange(len(copy.lines) + 1), line)


def _swapped(rng: random.Random, copy: Copy) -> None:
    i, j = (rng.randrange(len(copy.lines)) for _ in range(2))
    copy.lines[i], copy.lines[j] = copy.lines[j], copy.lines[i]


def _flipped(rng: random.Random, copy: Copy) -> None:
    text = bytearray(b"".join(copy.lines))
    for _ in range(rng.choice((1, 1, 5))):
        text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    copy.lines = bytes(text).splitlines(keepends=True)


def _cut(rng: random.Random, copy: Copy) -> None:
    text = b"".join(copy.lines)
    copy.lines = text[: rng.randrange(len(text))].splitlines(keepends=True)


def _hole(rng: random.Random, copy: Copy) -> None:
    text = b"".join(copy.lines)
    at = rng.randrange(len(text))
    copy.lines = (text[:at] + text[at + rng.randrange(1, 5000) :]).splitlines(keepends=True)


def _noise(rng: random.Random, copy: Copy) -> None:
    copy.lines.insert(rng.randrange(len(copy.lines) + 1), rng.choice(NOISE))


def _foreign(rng: random.Random, copy: Copy) -> None:
    at = rng.randrange(len(copy.other))
    place = rng.choice((len(copy.lines), rng.randrange(len(copy.lines) + 1)))
    copy.lines[place:place] = copy.other if rng.random() < 0.4 else copy.other[at : at + rng.randrange(1, 5)]


def _windows(rng: random.Random, copy: Copy) -> None:
    copy.lines = [line.replace(b"\n", b"\r\n") for line in copy.lines]


def _edited(rng: random.Random, copy: Copy) -> None:
    at = rng.randrange(len(copy.lines))
    copy.lines[at] = _other_number(rng, copy.lines[at])


def _recomputed(rng: random.Random, copy: Copy) -> None:
    """With a checksum of format 1 that is right, in the name of that format or of this."""
    at = rng.randrange(len(copy.lines))
    text = "{" + _other_number(rng, copy.lines[at]).decode(errors="replace").strip().partition(",")[2]
    line = crc32(text)
    copy.lines[at] = rng.choice((line, line.replace(b'"crc"', b'"check"')))


def _shapeless(rng: random.Random, copy: Copy) -> None:
    """A line with a right checksum that lacks what its readers want of it."""
    at = rng.randrange(len(copy.lines))
    row = lines.parse(copy.lines[at])
    event = dict(row.event or {"event": "finished"})
    name = rng.choice(list(event))
    event[name] = rng.choice((None, 1, "x", [], {}, [[]]))
    if rng.random() < 0.5:
        del event[name]
    copy.lines[at] = lines.line(event, row.ledger, row.number).encode() if row.ledger else crc32(json.dumps(event, separators=(",", ":")))


def _replaced(rng: random.Random, copy: Copy) -> None:
    copy.lines = list(copy.other)


def _study(rng: random.Random, copy: Copy) -> None:
    rows = copy.study.splitlines(keepends=True)
    at = rng.randrange(len(rows))
    kind = rng.randrange(4)
    if kind == 0:
        del rows[at]
    elif kind == 1:
        rows[at] = re.sub(rb"\d+", lambda m: str(rng.randrange(1, 99)).encode(), rows[at])
    elif kind == 2:
        rows.insert(at, rng.choice(rows))
    text = bytearray(b"".join(rows))
    if kind == 3:
        text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    copy.study = bytes(text)


def _other_number(rng: random.Random, line: bytes) -> bytes:
    found = list(NUMBER.finditer(line))
    if not found:
        return line.replace(b"0", b"1")
    m = rng.choice(found)
    return line[: m.start()] + f"{rng.uniform(0, 9):.6f}".encode() + line[m.end() :]


MUTATIONS: list[Callable[[random.Random, Copy], None]] = [
    _lost, _doubled, _moved, _swapped, _flipped, _cut, _hole, _noise, _foreign, _windows, _edited, _recomputed, _shapeless, _replaced,
    _study,
]  # fmt: skip


def at_another_rate(ledger: Ledger, folder: Path) -> list[bytes]:
    """The lines of the same study at three times the learning rate, whose losses are others."""
    other = Ledger(folder)
    for event in ledger.events():
        fields = json.loads(json.dumps(event).replace("learning_rate: 0.01", "learning_rate: 0.03"))
        if event["event"] == "finished":
            fields |= {"learning_rate": 0.03, "training": event["training"] | {"learning_rate": 0.03}, "key": event["key"][::-1]}
            fields["measures"] = {name: value + 0.1 * (1 + event["seed"] * len(event["arm"])) for name, value in event["measures"].items()}
        other.append(fields.pop("event"), **fields)
    return other.path.read_bytes().splitlines(keepends=True)


def starts(folder: Path) -> dict[str, tuple[Path, list[bytes]]]:
    """Whole run folders, one begun in format 2 and one that was continued in it, and the other ledger of each."""
    found = {}
    for name in ("numbered", "denoise"):
        out = folder / name
        shutil.copytree(GOLDEN / name, out)
        Ledger(out).append("run", command="aotsearch run", started="2026-12-01T00:00:00+00:00")
        (folder / f"other-{name}").mkdir()
        found[name] = out, at_another_rate(Ledger(out), folder / f"other-{name}")
    return found


def contrasts(folder: Path) -> tuple[Any, bool]:
    """What a report says of the arms, and whether it says that something is wrong."""
    analysis = read(folder).analysis
    told = bool(analysis.declaration) or any("of the ledger" in line for line in analysis.warnings)
    return json.loads(json.dumps(analysis.to_dict()["contrasts"])), told


def campaign(copies: int, seed: int, folder: Path) -> tuple[Counter[str], list[str]]:
    """Damage so many copies. Returns how each ended, and what was violated."""
    rng, figures, violations = random.Random(seed), Counter[str](), list[str]()
    begun = {name: (*start, contrasts(start[0])) for name, start in starts(folder).items()}
    assert not any(told for *_, (_, told) in begun.values())
    for number in range(copies):
        source, other, (wanted, _) = begun[rng.choice(sorted(begun))]
        copy = Copy((source / FILE).read_bytes().splitlines(keepends=True), (source / "study.yaml").read_bytes(), other)
        chosen = [MUTATIONS[number % len(MUTATIONS)], *rng.choices(MUTATIONS, k=rng.choice((0, 0, 1, 2)))]
        for mutate in chosen:
            if copy.lines:
                mutate(rng, copy)
        out = folder / "copy"
        out.mkdir(exist_ok=True)
        (out / FILE).write_bytes(b"".join(copy.lines))
        (out / "study.yaml").write_bytes(copy.study)
        shutil.copy(source / END, out)
        what = f"copy {number} of {source.name} under seed {seed}: {', '.join(m.__name__[1:] for m in chosen)}"
        try:
            found, told = contrasts(out)
            status(out)
            figures["told" if told else "as before"] += 1
            if found != wanted and not told and _shapeless not in chosen:  # a checksum that is right by malice is believed
                violations.append(f"{what}: other contrasts, and nothing is said")
        except AotsearchError as e:
            figures["refused"] += 1
            violations += [f"{what}: {e!r}"] if "\n" in str(e) and not getattr(e, "problems", ()) else []
        except Exception:  # noqa: BLE001 (what must not come out)
            violations.append(f"{what}: {traceback.format_exc()}")
    return figures, violations


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--copies", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures, violations = campaign(options.copies, options.seed, Path(folder))
    sys.stdout.write(
        "\n".join([", ".join(f"{n} {kind}" for kind, n in figures.items()), *violations[:5], f"{len(violations)} violations\n"])
    )
    return bool(violations)


if __name__ == "__main__":
    sys.exit(main())
