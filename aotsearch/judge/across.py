"""Several run folders -> which verdicts hold across them, which reverse, which are open.

compare(folders) -> Across;  text(found) -> str;  plain(found) -> dict
"""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aotsearch.errors import InputError
from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.statistics import VERDICTS
from aotsearch.report.data import Material, read
from aotsearch.report.summary import bounds, number, view

WORSE, EQUIVALENT, BETTER, UNDECIDED = VERDICTS
HOLDS, DIFFERS, REVERSES, OPEN, ALONE = "holds", "differs", "reverses", "open", "in one alone"
STANDINGS = (REVERSES, DIFFERS, HOLDS, OPEN, ALONE)


@dataclass(frozen=True)
class Folder:
    """One study.

    Attributes:
        label: Short, and unlike those of the others.
        facts: Size, budget and data, in words.
    """

    path: Path
    label: str
    facts: str
    analysis: Analysis


@dataclass(frozen=True)
class Line:
    """One comparison: its contrast in every folder that has it, else None, and how it stands across them."""

    title: str
    contrasts: tuple[Contrast | None, ...]

    @property
    def standing(self) -> str:
        """`reverses`: worse in one, better in another; `differs`: decided, but not alike; `holds`: everywhere the same; else `open`."""
        said = [c.verdict for c in self.contrasts if c is not None]
        if len(said) < 2:
            return ALONE
        if {WORSE, BETTER} <= set(said):
            return REVERSES
        decided = set(said) - {UNDECIDED}
        if len(decided) > 1:
            return DIFFERS
        return OPEN if UNDECIDED in said else HOLDS

    @property
    def counts(self) -> str:
        """How many studies say what: `worse in 2, undecided in 1`."""
        counts = Counter(c.verdict for c in self.contrasts if c is not None)
        return ", ".join(f"{word} in {counts[word]}" for word in VERDICTS if counts[word])


@dataclass(frozen=True)
class Across:
    folders: tuple[Folder, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...]


def compare(paths: Sequence[Path]) -> Across:
    """The comparisons that the studies of run folders share, those that one has alone last.

    Raises:
        InputError: a folder holds no run, stands twice, or no two have a comparison in common.
    """
    twice = [path for path, n in Counter(p.resolve() for p in paths).items() if n > 1]
    if twice:
        raise InputError(f"{twice[0]} is named twice; its verdicts would agree with themselves")
    folders = tuple(_folder(path, label) for path, label in zip(paths, _labels(paths), strict=True))
    found: dict[tuple[str, str, str], list[Contrast | None]] = {}
    for i, folder in enumerate(folders):
        for c in folder.analysis.contrasts:
            if c.asked and c.kind != "step":  # which says what it does after the steps before it
                key = (c.kind, c.title, view(c))
                found.setdefault(key, [None] * len(folders))[i] = c
    lines = [Line(title + (f" ({terms})" if terms else ""), tuple(cs)) for (_, title, terms), cs in found.items()]
    if all(line.standing == ALONE for line in lines):
        names = ", ".join(f.label for f in folders)
        raise InputError(f"{names} have no comparison in common: the same change is compared in studies that name the decision alike")
    return Across(folders, tuple(sorted(lines, key=lambda line: STANDINGS.index(line.standing))), tuple(_notes(folders)))


def _labels(paths: Sequence[Path]) -> list[str]:
    """The last parts of the paths, as many as tell them apart."""
    for depth in range(1, 1 + max(len(p.resolve().parts) for p in paths)):
        labels = ["/".join(p.resolve().parts[-depth:]) for p in paths]
        if len(set(labels)) == len(labels):
            return labels
    return [str(p) for p in paths]


def _folder(path: Path, label: str) -> Folder:
    m = read(path)
    return Folder(path, label, ", ".join(filter(None, _facts(m))), m.headline)


def _facts(m: Material) -> list[str]:
    a = m.analysis
    base = next(iter(m.cells(a.rate).get(a.reference, {}).values()), {})
    parameters = f"{base['parameters']:,} parameters" if base.get("parameters") else ""
    return [
        _task(m.study.plain["task"]),
        parameters,
        f"{m.study.settings.budget.steps} steps",
        f"{len(a.seeds)} seeds",
        f"margin {a.margin:g} {a.unit}",
    ]


def _task(plain: Mapping[str, Any] | str) -> str:
    """The task and its data in words: `language python-stdlib`, `language text corpus.txt`."""
    if isinstance(plain, str):
        return plain
    ((name, options),) = plain.items()
    data = (options or {}).get("data", "")
    said = " ".join(str(part) for pair in data.items() for part in pair) if isinstance(data, dict) else data
    return f"{name} {said}".strip()


def _notes(folders: Sequence[Folder]) -> list[str]:
    notes = []
    units = dict.fromkeys(f"{f.analysis.measure} in {f.analysis.unit}" for f in folders)
    if len(units) > 1:
        notes.append(f"the studies are judged by {' and '.join(units)}: verdicts can be compared, sizes cannot")
    margins = {f.analysis.margin for f in folders}
    if len(margins) > 1:
        notes.append(f"the margins differ ({', '.join(f'{m:g}' for m in sorted(margins))}): {EQUIVALENT} does not mean the same in all")
    partial = [f.label for f in folders if f.analysis.partial]
    if partial:
        notes.append(f"partial: {', '.join(partial)}: not all trials have ended")
    warned = [f.label for f in folders if f.analysis.warnings]
    if warned:
        notes.append(f"the reports of {', '.join(warned)} begin with warnings; read these first")
    error = sum(1 - f.analysis.confidence for f in folders)
    together = f"{100 * (1 - error):.3g} % at least"
    notes.append(f"intervals hold for all comparisons of one study at once; for all of the {len(folders)} studies, with {together}")
    return notes


def standings(found: Across) -> list[tuple[str, list[Line]]]:
    """The comparisons of two studies or more, by how they stand: what needs to be read first."""
    return [(word, lines) for word in STANDINGS[:-1] if (lines := [line for line in found.lines if line.standing == word])]


def answer(found: Across) -> str:
    """One sentence for each standing."""
    said = [f"{word.capitalize()}: {', '.join(f'{line.title} ({line.counts})' for line in lines)}." for word, lines in standings(found)]
    return " ".join(said)


def text(found: Across) -> str:
    """What a terminal shows: a heading for each comparison, and a line for each study."""
    width = max(len(f.label) for f in found.folders)
    lines = [f"{f.label:<{width}}  {f.facts}" for f in found.folders]
    lines += ["", *textwrap.wrap(answer(found), 100, subsequent_indent="  ", break_on_hyphens=False), ""]
    for line in found.lines:
        lines.append(f"{line.title}  --  {line.standing}: {line.counts}")
        for f, c in zip(found.folders, line.contrasts, strict=True):
            if c is not None:
                digits = f.analysis.digits
                shown = f"{number(c.difference, digits, True):>8} {bounds(c.low, c.high, digits)}"
                lines.append(f"  {f.label:<{width}}  {shown}  {c.told}")
    for note in found.notes:
        lines += textwrap.wrap(f"note: {note}", 100, subsequent_indent="  ")
    return "\n".join(lines)


def plain(found: Across) -> dict[str, Any]:
    """The JSON document."""
    return {
        "answer": answer(found),
        "folders": [
            {"folder": str(f.path), "label": f.label, "facts": f.facts, "measure": f.analysis.measure, "unit": f.analysis.unit}
            | {"margin": f.analysis.margin, "partial": f.analysis.partial, "warnings": list(f.analysis.warnings)}
            for f in found.folders
        ],
        "verdicts": [
            {"comparison": line.title, "standing": line.standing}
            | {"contrasts": [None if c is None else c.to_dict() for c in line.contrasts]}
            for line in found.lines
        ],
        "notes": list(found.notes),
    }
