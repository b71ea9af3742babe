"""What a run folder declared, when, and which of its trials belong to which arm today.

    history(ledger) -> History;  history.study, history.changes, history.place(records)

The ledger holds the declaration: a `declared` event has the whole study and its arms, and the next one what became of them after so many
trials. `study.yaml` beside it is a copy for readers, and is compared. A trial is found by its model, seed and training, never by a name:
an arm may be renamed, joined by another that is the same model, or come back, and finds what was trained of it.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import itertools
import re
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.evidence.ledger import Ledger
from aotsearch.study.design import Arm
from aotsearch.study.loading import load, parse
from aotsearch.study.settings import Adaptive, StudySettings
from aotsearch.study.study import Study
from aotsearch.yamlfile import Node

STUDY_FILE = "study.yaml"
COPY = "# A copy for readers of what the ledger {} declares. To change the study, edit your own file and run it with --out this folder.\n"
NAMED = re.compile(re.escape(COPY.partition("{")[0]).encode() + rb"([0-9a-f]{12})")
LABELS = ("changes", "decisions", "equalise", "resized")  # of a record: what its arm is called, which a study may change later
Record = Mapping[str, Any]
Entry = Mapping[str, Any]  # an arm in the ledger: name, digest and LABELS
Identity = tuple[str, str, frozenset[tuple[str, float]]]  # a comparison without names: kind, equalise, (model, weight) of its arms


class Replaced(InputError):
    """The ledger and the study of a run folder do not belong together."""


@dataclass(frozen=True)
class Declared:
    """A study as it was declared at one time.

    Attributes:
        arms: Name -> entry; empty where an older version wrote the ledger, whose trials keep the names that they were given.
        trials: How many had ended by then.
        seeds: Under how many seeds the reference had ended by then.
        when: The date.
    """

    study: Study
    arms: Mapping[str, Entry]
    trials: int
    seeds: int
    when: str

    @functools.cached_property
    def comparisons(self) -> dict[Identity, str]:
        """What is compared -> its name."""
        return {self.identity(c.kind, c.name, c.equalise): c.name for c in self.study.comparisons}

    def identity(self, kind: str, name: str, equalise: str) -> Identity:
        """A comparison by the models that it sums."""
        weights = self.study.weights(name, equalise)
        return kind, equalise, frozenset((self.arms[arm]["digest"] if arm in self.arms else arm, w) for arm, w in weights.items())


@dataclass(frozen=True)
class History:
    """The declarations of a run folder, the first and what became of it.

    Attributes:
        declared: In order; the first is the last that was made before any trial had ended.
        manifest: Of the data.
        edited: How the `study.yaml` of the folder differs from the last declaration, in words; empty where it does not.
        lost: That the first declaration cannot be read any more, in words; empty where it can.
    """

    declared: tuple[Declared, ...]
    manifest: str = ""
    edited: str = ""
    lost: str = ""

    @property
    def first(self) -> Declared:
        return self.declared[0]

    @property
    def last(self) -> Declared:
        return self.declared[-1]

    @functools.cached_property
    def study(self) -> Study:
        """The study as it is declared now, looked at as often as it came about."""
        return dataclasses.replace(self.last.study, manifest=self.manifest, looked=_looked(self.declared))

    @functools.cached_property
    def original(self) -> Study:
        """The study as it was declared first."""
        return dataclasses.replace(self.first.study, manifest=self.manifest)

    @functools.cached_property
    def changes(self) -> tuple[str, ...]:
        """What decides verdicts and was changed after trials had ended, in words, in order."""
        pairs = itertools.pairwise(self.declared)
        return tuple(f"{text} after {_trials(new.trials)}, on {new.when[:10]}" for old, new in pairs for text in _changes(old, new))

    def place(self, records: Iterable[Record]) -> list[Record]:
        """The trials of the present arms, under the names that these have now; those of other models are left out."""
        return _place(records, self.last)

    def place_first(self, records: Iterable[Record]) -> list[Record]:
        """The trials that the first declaration asked for, under its names."""
        seeds = set(self.first.study.settings.seed_list)
        return [r for r in _place(records, self.first) if r["phase"] not in ("design", "confirm") or r["seed"] in seeds]


def history(ledger: Ledger) -> History:
    """The declarations of a run folder.

    Raises:
        InputError: a declaration cannot be read, for want of a package or because the ledger is older than declarations and `study.yaml`
            is missing.
        Replaced: the ledger is of another folder, or of two studies.
    """
    path = ledger.folder / STUDY_FILE
    manifests: dict[str, None] = {}
    events: list[Record] = []
    confirmed: list[dict[str, Entry]] = [{}]  # the candidates of a search, before the first event and until the next after each
    for event in ledger.events():
        if event["event"] == "data":
            manifests.setdefault(event.get("manifest") or "")
        elif event["event"] == "declared":
            events.append(event)
            confirmed.append(dict(confirmed[-1]))
        elif event["event"] == "candidates":
            found = {entry["name"]: entry for entry in event["arms"]}
            confirmed = [known or found for known in confirmed[:-1]] + [confirmed[-1] | found]  # a search cut short comes to them later
    manifest = next(reversed(manifests), "")
    if events or manifests:
        _refuse_moved(ledger, path)
    lost = f"the first declaration is lost (damaged lines in the ledger: {ledger.damage.lines}): what changed before is not known"
    if not events:
        none = f"the ledger holds no declaration: the study is what {STUDY_FILE} says now, and whether that was edited is not known"
        return History((Declared(load(path), {}, 0, 0, ""),), manifest, lost=lost if ledger.damage.lines else none)
    before = sum(not e["trials"] for e in events)
    declared = tuple(_read(e, known) for e, known in zip(events, confirmed[1:], strict=True))
    _refuse_mixed(ledger, declared, manifests)
    declared = declared[max(0, before - 1) :]
    return History(declared, manifest, _edited(events[-1], path), "" if before else lost)


def _refuse_moved(ledger: Ledger, path: Path) -> None:
    """A ledger that was moved into the folder of another."""
    named = _named(path)
    if named and named != ledger.id:
        told = f"{ledger.path} is not the ledger that {path} is a copy from: it is of another run folder"
        raise Replaced(f"{told}; put the own one back, or delete {path} to take this one's word")


def _refuse_mixed(ledger: Ledger, declared: Sequence[Declared], manifests: Collection[str]) -> None:
    """A ledger that another was appended to by hand: no start of a run would have gone on there."""
    first = declared[0].study
    if any(d.study.training() != first.training() or d.study.reference != first.reference for d in declared):
        raise Replaced(f"{ledger.path} holds two studies, of other training or another reference: one was appended to the other by hand")
    if len(manifests) > 1:
        raise Replaced(f"{ledger.path} holds trials on other data ({' and '.join(m[:12] for m in manifests)}): not of one study")


def _named(path: Path) -> str:
    """The ledger that a copy of the study is from; empty where an older version wrote it, or it is none."""
    try:
        found = NAMED.match(path.read_bytes()[:200])
    except OSError:
        return ""
    return found[1].decode() if found else ""


def fingerprint(ledger: Ledger) -> str:
    """Names all that is made from a run folder, a report or a view: what came out with this fingerprint would come out the same again."""
    copy, version = ledger.folder / STUDY_FILE, sys.modules["aotsearch"].__version__  # nothing here may import the package itself
    told = copy.read_bytes() if copy.is_file() else b""
    return hashlib.sha256(f"{version} {ledger.digest()} ".encode() + told).hexdigest()


def event(study: Study, arms: Sequence[Arm], records: Iterable[Record]) -> dict[str, Any]:
    """A declaration as the ledger holds it."""
    ended = list(records)
    seeds = {r["seed"] for r in ended if r["digest"] == study.reference.digest and r["phase"] in ("design", "confirm")}
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    text = yamlfile.dump(dict(study.plain))
    return {"study": text, "arms": [entry(a) for a in arms], "trials": len(ended), "seeds": len(seeds), "when": now}


def entry(arm: Arm) -> dict[str, Any]:
    """An arm as the ledger holds it, in plain data."""
    return {
        "name": arm.name,
        "digest": arm.architecture.digest,
        "changes": {address: list(pair) for address, pair in arm.changes.items()},
        "decisions": dict(arm.architecture.decisions),
        "equalise": arm.equalise,
        "resized": [list(change) for change in arm.resized],
    }


def candidate(digest: str) -> str:
    """What an architecture of a search is called that is no arm."""
    return f"candidate-{digest[:8]}"


def differences(old: Any, new: Any, path: str = "") -> str:
    """Where two studies as plain data differ, in words."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return "; ".join(differences(old.get(key), new.get(key), f"{path}.{key}".lstrip(".")) for key in keys)
    return f"{path} was {old}, is {new}"


# ---- which trial belongs to which arm


def _place(records: Iterable[Record], declared: Declared) -> list[Record]:
    if not declared.arms:
        return list(records)
    # keys of older versions named trials otherwise: one that was trained again since stands twice in the ledger, and the later counts
    latest = {(r["digest"], r["seed"], r["learning_rate"], r["phase"] == "search"): r for r in records}
    models: dict[str, list[Entry]] = {}
    for found in declared.arms.values():
        models.setdefault(found["digest"], []).append(found)
    search = declared.study.settings.design == "search"
    placed: list[Record] = []
    for r in latest.values():
        entries = models.get(r["digest"])
        if r["phase"] == "search":
            name = entries[0]["name"] if entries else candidate(r["digest"])
            placed += [{**r, "arm": name, "arms": [name]}] if search else []
        elif entries:
            phase = r["phase"] if r["phase"] == "tune" else "confirm" if search else "design"
            named = {"arm": entries[0]["name"], "arms": [e["name"] for e in entries], "phase": phase}
            named |= {"passed": True} if all(e.get("passed") for e in entries) else {}
            placed.append({**r, **named, **{label: entries[0][label] for label in LABELS}})
    return placed


def _read(event: Record, candidates: Mapping[str, Entry]) -> Declared:
    study = parse(_node(event), Path())
    arms = {found["name"]: found for found in event["arms"]}
    arms |= candidates if study.settings.design == "search" else {}
    return Declared(study, arms, event["trials"], event["seeds"], event["when"])


def _node(event: Record) -> Node:
    return yamlfile.parse(event["study"], f"the study declared on {event['when'][:10]}")


# ---- what was changed


def _changes(old: Declared, new: Declared) -> list[str]:
    one, two = old.study.settings, new.study.settings
    pairs = [(name, str(getattr(one, name)), str(getattr(two, name))) for name in ("margin", "confidence")]
    pairs.append(("seeds", _seeds(one), _seeds(two)))
    if "search" in (one.design, two.design):
        pairs += [
            ("design", one.design, two.design),
            ("search.path", str(one.search.path).lower(), str(two.search.path).lower()),
            ("search.confirm", str(one.search.confirmed or "the front"), str(two.search.confirmed or "the front")),
        ]
    said = [f"{name} changed from {here} to {there}" for name, here, there in pairs if here != there]
    added = [name for key, name in new.comparisons.items() if key not in old.comparisons]
    removed = [name for key, name in old.comparisons.items() if key not in new.comparisons]
    for names, word in ((added, "added"), (removed, "removed")):
        shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        said += [f"comparison{'s' * (len(names) > 1)} {word}: {shown}"] if names else []
    return said


def _seeds(settings: StudySettings) -> str:
    """In words; a list that says no more than a number is that number."""
    s = settings.seeds
    if isinstance(s, Adaptive):
        return f"{{min: {s.min}, max: {s.max}}}"
    return str(len(settings.seed_list) if sorted(settings.seed_list) == list(range(len(settings.seed_list))) else s)


def _looked(declared: Sequence[Declared]) -> tuple[int, int] | None:
    """The first and the last look, where seeds were declared anew after two of them had ended: further seeds are then further looks.

    What was trained stays, so the last look is at all seeds that were ever declared: three exchanged for three others come to six.
    """
    asked = [(set(d.study.settings.first_seeds), set(d.study.settings.seed_list)) for d in declared]
    for i, (before, after) in enumerate(itertools.pairwise(asked), start=1):
        if before != after and declared[i].seeds >= 2:
            first, last = min(len(before[0]), declared[i].seeds), len(set().union(*(most for _, most in asked)))
            return (first, last) if last > first else None
    return None


def _trials(count: int) -> str:
    return f"{count} trial{'s' * (count != 1)}"


def _edited(event: Record, path: Path) -> str:
    """How the copy differs from what the ledger holds.

    Raises:
        Replaced: it is of another study; of copies that older versions wrote only the name tells.
    """
    declared = _node(event).plain()
    try:
        found = yamlfile.read(path).plain()
    except InputError as e:
        return f"{STUDY_FILE} cannot be read ({e.problems[0].message}); the declaration in the ledger stands"
    if found == declared:
        return ""
    name = found.get("name") if isinstance(found, dict) else None
    if not _named(path) and name not in (None, declared["name"]):
        raise Replaced(f"{path} is of the study {name!r}, the ledger beside it of {declared['name']!r}: put back the one that was replaced")
    said = differences(declared, found)
    return (
        f"{STUDY_FILE} was edited, which declares nothing ({said}); the declaration in the ledger stands. To change the study, edit your "
        f"own file and run it with --out {path.parent}"
    )
