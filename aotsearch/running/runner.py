"""Study -> run folder: what is left to do is executed and recorded, and the evidence is drawn from the whole ledger.

Running a study again in the same folder continues it: a finished trial is never trained twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aotsearch.errors import InputError, RunError
from aotsearch.evidence.declaration import STUDY_FILE
from aotsearch.evidence.ledger import FAILED, Ledger
from aotsearch.running import continuing
from aotsearch.running.journal import Journal
from aotsearch.running.phases import Phases
from aotsearch.running.progress import Progress
from aotsearch.running.status import status as status
from aotsearch.running.work import Executor
from aotsearch.study.settings import Resources
from aotsearch.study.study import Study
from aotsearch.training.environment import now, version

if TYPE_CHECKING:
    from aotsearch.tracking.view import Tracker

PACKAGES = ("aotsearch", "torch", "ray", "optuna", "mlflow", "numpy", "pandas", "scipy")


@dataclass(frozen=True)
class Options:
    """How a study is run: nothing here changes a number, apart from the device."""

    workers: int | None = None
    address: str | None = None
    local: bool = False
    retry_failed: bool = False
    track: bool = True
    command: str = ""


@dataclass
class RunOutcome:
    """What a run came to."""

    folder: Path
    outcomes: Counter[str]
    trained: int
    seconds: float
    analysis: Any
    summary: str
    notes: list[str] = field(default_factory=list)

    @property
    def failed(self) -> int:
        return sum(self.outcomes[name] for name in FAILED)


def default_folder(study: Study) -> Path:
    return Path("runs") / study.name


def run(study: Study, out: str | Path | None = None, options: Options | None = None, progress: Progress | None = None) -> RunOutcome:
    """Run or continue a study in a folder.

    Whatever can be refused is refused before the folder is made or anything in it changed.

    Args:
        study: What to run.
        out: The run folder; `runs/NAME` by default.
        options: Executor and workers.
        progress: Told what happens; by default a new one on standard error.

    Raises:
        InputError: the folder holds another study, the data is missing, or the machine has less than a trial is granted.
        RunError: the disk or the cluster failed; everything finished is kept.
    """
    options = options or Options()
    folder = Path(out or default_folder(study)).resolve()
    progress = progress or Progress(study.task.measure, study.task.unit, tuned=study.settings.tuning is not None)
    began = time.monotonic()
    facts = study.task.prepare()
    study = dataclasses.replace(study, manifest=facts.get("manifest", ""))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out names a folder")
    study.arms()  # of which one may not become equal
    if study.settings.design == "search":
        from aotsearch.running import search

        search.required()
    ledger = Ledger(folder)
    before = continuing.former(ledger, study)
    with contextlib.ExitStack() as stack:
        executor = functools.cache(functools.partial(_executor, options, study.settings.resources, progress, stack))
        if continuing.anything_left(ledger, study, before, options.retry_failed):
            executor()
        _make(folder)
        stack.enter_context(ledger.lock())
        stack.callback(progress.end)
        continuing.write_study(study, folder)
        journal = Journal(study, ledger, progress, options.retry_failed)
        _begin(ledger, study, options, facts)
        declared = continuing.declare(ledger, study, before, journal.records.values())
        for note in (*declared.changes, *continuing.further_measures(study, before, len(journal.records)), *study.notes):
            progress.say(note)  # before anything is trained
        journal.tracker = stack.enter_context(_tracked(study, folder, options, progress))
        with _interruptible(journal):
            Phases(study, journal, executor, folder / "checkpoints", declared).run()
        return _conclude(folder, journal, began)


def _executor(options: Options, resources: Resources, progress: Progress, stack: contextlib.ExitStack) -> Executor:
    """The executor that is asked for, started; the stack closes it."""
    if options.local:
        from aotsearch.running.local import Local

        return Local(resources)
    from aotsearch.running.cluster import Cluster

    progress.say("starting Ray ...")
    cluster = Cluster(options.address, options.workers, resources)
    stack.callback(cluster.close)
    progress.say(f"Ray runs {cluster.workers} trials at a time")
    return cluster


def _make(folder: Path) -> None:
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"{folder} cannot be made: {e.strerror}") from None


def _begin(ledger: Ledger, study: Study, options: Options, facts: Mapping[str, Any]) -> None:
    ledger.append(
        "run",
        command=options.command,
        started=now(),
        study=study.digest,
        versions=versions(),
        machine={"host": platform.node(), "cpus": os.cpu_count(), "platform": platform.platform()},
        executor="local" if options.local else "ray",
    )
    ledger.append("data", **facts)


@contextlib.contextmanager
def _interruptible(journal: Journal) -> Iterator[None]:
    """Let Ctrl-C end the run even where a library swallows the first KeyboardInterrupt: the next event raises it again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(*_: Any) -> None:
        journal.interrupted = True
        raise KeyboardInterrupt

    former = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, former)


@contextlib.contextmanager
def _tracked(study: Study, folder: Path, options: Options, progress: Progress) -> Iterator[Tracker | None]:
    """The view in MLflow, where it can be; its warnings are told among the progress."""
    handler, log, status = _Say(progress), logging.getLogger("aotsearch"), "KILLED"
    log.addHandler(handler)
    tracker = _tracker(study, folder, options, progress) if options.track else None
    try:
        yield tracker
        status = "FINISHED"
    finally:
        if tracker is not None:
            tracker.close(status)
        log.removeHandler(handler)


def _tracker(study: Study, folder: Path, options: Options, progress: Progress) -> Tracker | None:
    if importlib.util.find_spec("mlflow") is None:
        progress.say("mlflow is not installed: the ledger is written, its MLflow view is not (`aotsearch ui` can make it later)")
        return None
    from aotsearch.tracking.view import Tracker

    try:
        return Tracker(folder, study, options.command)
    except RunError as e:
        progress.say(f"MLflow is not written: {e}; the ledger is, and `aotsearch ui` makes the view later")
        return None


class _Say(logging.Handler):
    """Warnings of the MLflow view, among the progress."""

    def __init__(self, progress: Progress):
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.say(record.getMessage())


def _conclude(folder: Path, journal: Journal, began: float) -> RunOutcome:
    """The report and the last of the view."""
    from aotsearch.report import report

    journal.progress.end()
    found, notes = report.read(folder), []
    try:
        files = report.write(folder)
    except (RunError, OSError) as e:
        files = []
        notes.append(f"the report could not be written: {e}; `aotsearch report {folder}` makes it later")
    if journal.tracker is not None:
        journal.tracker.publish(found.headline.to_dict(), found.summary(), files, folder / STUDY_FILE)
    outcomes = Counter(r["outcome"] for r in journal.records.values())
    seconds = time.monotonic() - began
    return RunOutcome(folder, outcomes, len(journal.clock), seconds, found.analysis, found.summary(), notes)


def versions() -> dict[str, str]:
    """The versions that can change a number."""
    return {"python": platform.python_version(), **{name: found for name in PACKAGES if (found := version(name))}}
