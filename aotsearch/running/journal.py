"""What executors tell -> the ledger, then the views of it: progress and MLflow."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from aotsearch.evidence.declaration import Record
from aotsearch.evidence.ledger import FAILED, Ledger
from aotsearch.running.interruption import Interruption
from aotsearch.running.progress import Progress
from aotsearch.running.work import Trial
from aotsearch.study.study import Study
from aotsearch.training import checkpoint

if TYPE_CHECKING:
    from aotsearch.running.cached import Cache
    from aotsearch.tracking.view import Tracker

FAILURES = "failures"  # of a run folder: the tracebacks of trials that went wrong


class Journal:
    """The observer of a run: every record by the key of its trial, as the ledger has it.

    Args:
        begin: What a start of the command tells the ledger of itself, called before its first event: one that has nothing to tell leaves
            the ledger as it was.

    Attributes:
        retry_failed: Whether trials that failed, or were not measured whole, are to be trained again.
        tracker: Gives the view in MLflow, where there is one; it is opened when it is first asked for.
        clock: Key -> when this start of the run began that trial.
        told: Keys of the trials that ended since this start.
        cache: Where what it trains is kept for other studies; None where it is not.
        cached: How many trials were taken from there.
        interruption: What may ask the run to end: every event looks whether it did, since libraries swallow the exception that says so.
    """

    def __init__(
        self, study: Study, ledger: Ledger, progress: Progress, retry_failed: bool = False, begin: Callable[[], None] | None = None
    ):
        self.ledger, self.progress, self.retry_failed = ledger, progress, retry_failed
        self._begin = begin
        self.tracker: Callable[[], Tracker | None] = lambda: None
        self.clock: dict[str, float] = {}
        self.told: set[str] = set()
        self.cache: Cache | None = None
        self.cached = 0
        self._study = study.name
        self.interruption = Interruption(ledger.folder / checkpoint.CHECKPOINTS, here=False)
        self.records = {study.key(r["digest"], r["seed"], r["training"], r["phase"] == "search"): r for r in ledger.records().values()}
        self._environments: dict[str, set[str]] = {}  # what the trials of earlier starts were made with, as far as it is not compared yet
        for record in self.records.values():
            for name, value in (record.get("environment") or {}).items():
                self._environments.setdefault(name, set()).add(str(value))

    def has(self, key: str) -> bool:
        """Whether a trial has ended and is not to be trained again."""
        record = self.records.get(key)
        return record is not None and not (self.retry_failed and unfinished(record))

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """An event of this start, into the ledger."""
        if self._begin is not None:
            begin, self._begin = self._begin, None
            begin()
        return self.ledger.append(kind, **fields)

    def started(self, trial: Trial) -> None:
        self._check()
        self.clock[trial["key"]] = time.monotonic()
        self.append("started", **{name: trial[name] for name in ("key", "arm", "seed", "phase")})
        self.progress.started(trial)
        if (tracker := self.tracker()) is not None:
            tracker.started(trial)

    def point(self, trial: Trial, point: Mapping[str, float]) -> None:
        self._check()
        self.progress.point(trial, point)
        if (tracker := self.tracker()) is not None:
            tracker.progress(trial["key"], point)

    def finished(self, record: dict[str, Any]) -> None:
        now = time.monotonic()
        record.setdefault("seconds", round(now - self.clock.get(record["key"], now), 3))
        record = self.records[record["key"]] = self.append("finished", **record)  # from here on as it will be read again
        self.told.add(record["key"])
        folder = self.ledger.folder / checkpoint.CHECKPOINTS
        if record["key"] not in self.clock:
            self.cached += bool(record.get("cached"))
        elif self.cache is not None:
            origin = {"study": self._study, "folder": str(self.ledger.folder)}
            self.cache.keep(record, checkpoint.weights_of(folder, record["key"]), origin)
        checkpoint.drop(folder, record["key"])  # only now: the ledger has it
        if note := (record.get("resumed") or {}).get("note"):
            self.progress.say(note)
        self._tell_change(record)
        self.progress.finished(record, self._kept(record))
        self._check()  # after it is written
        if (tracker := self.tracker()) is not None:
            tracker.finished(record)

    def _kept(self, record: Record) -> str:
        """The file with the traceback of a trial that went wrong, in the run folder; empty where there is none."""
        path = self.ledger.folder / FAILURES / f"{record['key']}.txt"
        try:
            if not record.get("traceback"):
                path.unlink(missing_ok=True)  # of an earlier try
                return ""
            path.parent.mkdir(exist_ok=True)
            path.write_text(f"{record['arm']} seed {record['seed']}: {record['message']}\n\n{record['traceback']}", encoding="utf-8")
        except OSError:  # the ledger has it
            return ""
        return f"{FAILURES}/{path.name}"

    def _check(self) -> None:
        self.interruption.hold()
        self.interruption.check()

    def _tell_change(self, record: Record) -> None:
        """Say once where trials are now made otherwise than at earlier starts: pairs of both are compared, and the report names them."""
        for name, value in (record.get("environment") or {}).items():
            earlier = self._environments.pop(name, set()) - {str(value)}
            if earlier:
                self.progress.say(
                    f"trials here were made with {name.replace('_', ' ')} {', '.join(sorted(earlier))}, now with {value}: losses may move "
                    "in the last digits, and the report names the pairs that mix both"
                )


def unfinished(record: Record) -> bool:
    """Whether another try may give more: the trial failed, or something of it could not be measured."""
    return record["outcome"] in FAILED or bool(record.get("unmeasured"))
