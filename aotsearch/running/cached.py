"""What trials came to, kept by all that decides it, across studies and run folders: `aotsearch run FILE --cache DIR`.

    DIR/trials/KEY-CONDITIONS.json    a trial: its record, what it was trained under, its weights by their digest, where it was trained
    DIR/weights/SHA256.pt             trained weights, named by their content

KEY is `Study.key`: architecture, seed, task with its data by content, training, and whether it may be stopped early, so that a trial of a
search is never one of a design. CONDITIONS are what may move a loss in its last digits: versions and source of the packages that compute,
data, instruction set, processor or GPU, threads, precision.

A file is written beside its place and renamed, so that runs that share a cache read whole files, whenever either is killed. What cannot be
read is trained, and what cannot be written costs the entry alone; both are told once.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aotsearch.errors import InputError
from aotsearch.files import digest as digest_of
from aotsearch.files import written
from aotsearch.grammar import library
from aotsearch.running.work import Record, Trial
from aotsearch.study.sampling import SIZES
from aotsearch.training.checkpoint import weights_of
from aotsearch.training.environment import now

FUNCTIONS = ("done", "diverged")  # outcomes that follow from the trial; any other follows from its company or from the machine's health
SEALED = ("test", "whole_validation")
Conditions = Mapping[str, Any]


class Cache:
    """A folder of trials.

    Args:
        folder: Made where there is none.
        alone: Whether only trials are taken that were trained as they are, not fused with others: those are equal to rounding.
        say: Hears what could not be read or written, a line each, once.

    Raises:
        InputError: the folder cannot be made, or not be written.
    """

    def __init__(self, folder: Path, alone: bool, say: Callable[[str], None]):
        self.folder, self.alone, self.say = folder, alone, say
        self.source = library.source()  # as it was when this run began: what is edited from now on trains in later ones
        self._told: set[str] = set()
        try:
            for part in ("trials", "weights"):
                (folder / part).mkdir(parents=True, exist_ok=True)
                tempfile.TemporaryFile(dir=folder / part).close()
        except OSError as e:
            raise InputError(f"--cache {folder} cannot be written: {e.strerror}; name another folder") from None

    def take(self, trial: Trial, conditions: Conditions, checkpoints: Path) -> Record | None:
        """The record of a trial, under the names that it has in this study, its weights in `checkpoints`; None where it is to be trained.

        Args:
            conditions: What it would be trained under here.
        """
        path = self._path(trial["key"], conditions)
        try:
            entry = _read(path, trial["key"], conditions)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self._tell("read", f"{path} is not whole, or not what its name says: its trial is trained, as for every such file")
            return None
        record: Record = entry["record"]
        if not _holds(record, trial) or (self.alone and record["fused"]):
            return None
        weights = entry["weights"]
        if weights and not self._bring(weights, weights_of(checkpoints, trial["key"])):
            self._tell("weights", f"the weights of {path} are missing or altered: its trial is trained, as for every such file")
            return None
        from aotsearch.training.trial import NAMED

        named = {name: trial[name] for name in (*NAMED, *SIZES)}
        return {**_asked(record, trial), **named, "cached": True, "origin": entry["origin"], "finished": now()}

    def keep(self, record: Record, weights: Path, origin: Mapping[str, Any]) -> None:
        """A trial that was trained just now, as the ledger has it, where its outcome follows from the trial alone.

        Args:
            weights: Its trained weights; a trial that is done and lacks them (for want of space) is not kept.
            origin: Where it was trained.
        """
        made_with = record.get("environment")
        if record["outcome"] not in FUNCTIONS or record.get("unmeasured") or not made_with or not record.get("deterministic"):
            return
        conditions = {**made_with, "device": record["device"], "precision": record["precision"]}
        path = self._path(record["key"], conditions)
        origin = {**origin, "finished": record["finished"]}
        record = {name: value for name, value in record.items() if name != "event"}
        try:
            digest = self._put(weights) if record["outcome"] == "done" else ""
            _write(path, {"record": record, "conditions": dict(conditions), "weights": digest, "origin": origin})
        except OSError as e:
            self._tell("write", f"{path} cannot be written ({e.strerror}): its trial is in the ledger alone, as every such trial")

    def _path(self, key: str, conditions: Conditions) -> Path:
        return self.folder / "trials" / f"{key}-{_digest({**conditions, 'source': self.source})[:16]}.json"

    def _put(self, weights: Path) -> str:
        digest = digest_of(weights)
        _link(weights, self.folder / "weights" / f"{digest}.pt", digest)
        return digest

    def _bring(self, digest: str, target: Path) -> bool:
        try:
            _link(self.folder / "weights" / f"{digest}.pt", target, digest)
        except OSError:
            return False
        return True

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.say(text)


def _holds(record: Record, trial: Trial) -> bool:
    """Whether a record has all that is asked of a trial; of one that diverged nothing can be measured afterwards."""
    if not set(trial["hints"]) <= set(record.get("hints") or {}):
        return False
    if record["outcome"] != "done":
        return True
    layers = set(trial["diagnostics"]) <= set(record.get("diagnostics") or {})
    return layers and (not trial["sealed"] or "test" in record) and (not trial["knock_out"] or "knock_out" in record)


def _asked(record: Record, trial: Trial) -> Record:
    """A record without what another study asked of its trial and this one does not."""
    gone = [] if trial["sealed"] else list(SEALED)
    gone += [] if trial["knock_out"] else ["knock_out"]
    gone += [name for name in ("diagnostics", "hints") if not trial[name]]
    found = {name: value for name, value in record.items() if name not in gone}
    if "diagnostics" in found:
        gone += [f"diagnostics.{name}" for name in found["diagnostics"] if name not in trial["diagnostics"]]
        found["diagnostics"] = {name: found["diagnostics"][name] for name in trial["diagnostics"]}
    if "hints" in found:
        found["hints"] = {name: found["hints"][name] for name in trial["hints"]}
    odd = {path: value for path, value in found.pop("not_finite", {}).items() if not any(f"{path}.".startswith(f"{g}.") for g in gone)}
    return found | ({"not_finite": odd} if odd else {})


# ---- files


def _digest(plain: Any) -> str:
    return hashlib.sha256(json.dumps(plain, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _read(path: Path, key: str, conditions: Conditions) -> dict[str, Any]:
    """An entry.

    Raises:
        ValueError: it is torn, altered, of another program, or of another trial or other conditions than its name says.
    """
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or found.keys() != {"sha256", "trial"} or found["sha256"] != _digest(found["trial"]):
        raise ValueError(path)
    entry: dict[str, Any] = found["trial"]
    if entry.get("conditions") != conditions or entry["record"]["key"] != key:
        raise ValueError(path)
    return entry


def _write(path: Path, entry: Mapping[str, Any]) -> None:
    with written(path) as made:
        made.write_text(json.dumps({"sha256": _digest(entry), "trial": entry}, allow_nan=False), encoding="utf-8")


def _link(source: Path, target: Path, digest: str) -> None:
    """Another name for a file, or a copy where the file system has none.

    Raises:
        OSError: it cannot be had, or its content is not what the digest says.
    """
    with written(target) as made:
        try:
            os.link(source, made)
        except OSError:  # another disk, or a file system without links
            shutil.copyfile(source, made)
        if digest_of(made) != digest:
            raise OSError(errno.EIO, "its content is not what its name says")
