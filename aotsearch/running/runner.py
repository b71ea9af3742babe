"""Study -> run folder: what is left to do is executed and recorded, and the evidence is drawn from the whole ledger.

Running a study again in the same folder continues it: a finished trial is never trained twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import platform
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aotsearch.errors import InputError, RunError
from aotsearch.evidence.declaration import STUDY_FILE, History
from aotsearch.evidence.ledger import FAILED, FILE, Ledger
from aotsearch.files import from_user
from aotsearch.running import continuing
from aotsearch.running.interruption import RAYS, ClusterLost, Interrupted, Interruption
from aotsearch.running.journal import Journal
from aotsearch.running.phases import Phases
from aotsearch.running.progress import Progress
from aotsearch.running.status import status as status
from aotsearch.running.work import Executor
from aotsearch.study.settings import Resources, Steps
from aotsearch.study.study import Study
from aotsearch.training.checkpoint import CHECKPOINTS, Checkpoints
from aotsearch.training.environment import now, processors, version

if TYPE_CHECKING:
    from aotsearch.report.data import Material
    from aotsearch.running.cached import Cache
    from aotsearch.tracking.view import Tracker

AHEAD = ("aotsearch.report.report", "scipy.special")  # imported while trials train in other processes: what follows them needs it
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
    cache: Path | None = None


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
    cached: int = 0

    @property
    def failed(self) -> int:
        return sum(self.outcomes[name] for name in FAILED)


def default_folder(study: Study) -> Path:
    return Path("runs") / study.name


def run(study: Study, out: str | Path | None = None, options: Options | None = None, progress: Progress | None = None) -> RunOutcome:
    """Run or continue a study in a folder.

    Whatever can be refused is refused before the folder is made or anything in it changed. A process that is connected to Ray already
    (`ray.init()`) trains there, and stays connected.

    Args:
        study: What to run.
        out: The run folder; `runs/NAME` by default.
        options: Executor and workers.
        progress: Told what happens; by default a new one on standard error.

    Raises:
        InputError: the folder holds another study, the data is missing, the cache cannot be written, or the machine has less than a
            trial is granted.
        RunError: the disk or the cluster failed; everything finished is kept.
    """
    options = options or Options()
    folder = from_user(out or default_folder(study)).resolve()
    progress = progress or Progress(study.task.measure, study.task.unit, tuned=study.settings.tuning is not None)
    began = time.monotonic()
    facts = study.task.prepare()
    study = dataclasses.replace(study, manifest=facts.get("manifest", ""))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out names a folder")
    study.arms()  # of which one may not become equal
    if study.settings.design == "search":
        from aotsearch.running import search, warm

        search.required()
        if not (folder / FILE).exists():
            warm.first(study)  # what it names is there
    cache = _cache(options, study.settings.resources, progress)
    ledger = Ledger(folder)
    before = continuing.former(ledger, study)
    with contextlib.ExitStack() as stack:
        interruption = stack.enter_context(Interruption(folder / CHECKPOINTS, options.local, bool(options.command)))
        executor = functools.cache(functools.partial(_executor, options, study.settings.resources, progress, stack, interruption))
        if continuing.anything_left(ledger, study, before, options.retry_failed):
            executor()
        _make(folder)
        stack.enter_context(ledger.lock())
        stack.callback(progress.end)
        damage = str(ledger.damage)  # as it is found, before anything is written
        continuing.write_study(study, ledger)
        journal = Journal(study, ledger, progress, options.retry_failed, functools.partial(_begin, ledger, study, options, facts))
        journal.cache, journal.interruption = cache, interruption
        declared = continuing.declare(journal, study, before)
        for note in (
            *filter(None, [damage]),
            *declared.changes,
            *continuing.further_measures(study, before, len(journal.records)),
            *study.notes,
            *facts.get("notes", ()),
        ):
            progress.say(note)  # before anything is trained
        journal.tracker = stack.enter_context(_tracked(study, folder, options, progress))
        phases = _run(journal, executor, lambda: Phases(study, journal, executor, _checkpoints(folder, study.settings.resources), declared))
        if executor.cache_info().currsize:  # it ends while the report is written
            stack.enter_context(ThreadPoolExecutor(1)).submit(executor().close)
        return _conclude(journal, phases.declared, options.track, began)


def _run(journal: Journal, executor: Any, phases: Callable[[], Phases]) -> Phases:
    """Train what is left; where that is interrupted, in the order that loses nothing; where Ray is lost, with another one.

    Raises:
        Interrupted: a signal asked for the end.
        RunError: Ray was lost again and again.
    """
    interruption = journal.interruption
    for _ in range(RAYS):
        made = phases()
        interruption.begin()
        try:
            made.run()
            interruption.check()
            return made
        except (KeyboardInterrupt, ClusterLost, RunError) as e:  # an exception that interrupts a call of Ray may come out as another
            if isinstance(e, KeyboardInterrupt) or interruption.number:
                interruption.leave(journal.clock.keys() - journal.told)
                raise Interrupted(interruption.number or signal.SIGINT) from None
            if not interruption.lost:
                raise
            journal.progress.say(f"{interruption.lost}: Ray is started again, and what trained goes on from its last checkpoint")
        finally:
            interruption.training = False
        executor().close()
        executor.cache_clear()
    raise RunError(f"{interruption.lost}, as {RAYS - 1} times before; run the same command again to continue")


def _executor(
    options: Options, resources: Resources, progress: Progress, stack: contextlib.ExitStack, interruption: Interruption
) -> Executor:
    """The executor that is asked for, started; the stack closes it."""
    if options.local:
        from aotsearch.running.local import Local

        return Local(resources)
    from aotsearch.running.cluster import Cluster

    progress.say("starting Ray ...")
    cluster = Cluster(options.address, options.workers, resources, interruption.lose)
    stack.callback(cluster.close)
    interruption.hold()  # Ray hears SIGTERM otherwise
    progress.say(f"Ray runs {cluster.workers} trials at a time")
    return cluster


def _checkpoints(folder: Path, resources: Resources) -> Checkpoints:
    """Where trials are kept, and how often those that train are."""
    often = resources.checkpoint
    seconds, steps = (None, often.steps) if isinstance(often, Steps) else (None if often == "never" else often, None)
    return Checkpoints(folder / CHECKPOINTS, seconds, steps, resources.patience)


def _cache(options: Options, resources: Resources, progress: Progress) -> Cache | None:
    """Where trials are kept across studies, where that is asked for."""
    if options.cache is None:
        return None
    from aotsearch.running.cached import Cache

    return Cache(from_user(options.cache).resolve(), resources.fuse == 1, progress.say)


def _make(folder: Path) -> None:
    try:
        (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"{folder} cannot be made: {e.strerror}") from None


def _begin(ledger: Ledger, study: Study, options: Options, facts: Mapping[str, Any]) -> None:
    ledger.append(
        "run",
        command=options.command,
        started=now(),
        study=study.digest,
        versions=versions(),
        machine={"host": platform.node(), "cpus": processors(), "platform": platform.platform()},
        executor="local" if options.local else "ray",
    )
    ledger.append("data", **facts)


@contextlib.contextmanager
def _tracked(study: Study, folder: Path, options: Options, progress: Progress) -> Iterator[Callable[[], Tracker | None]]:
    """Gives the view in MLflow, where it can be; opened when it is first asked for. Its warnings are told among the progress."""
    handler, log, status = _Say(progress), logging.getLogger("aotsearch"), "KILLED"
    log.addHandler(handler)
    opened: list[Tracker] = []

    @functools.cache
    def tracker() -> Tracker | None:
        if not options.track:
            return None
        if importlib.util.find_spec("mlflow") is None:
            progress.say("mlflow is not installed: the ledger is written, its MLflow view is not (`aotsearch ui` can make it later)")
            return None
        from aotsearch.tracking.view import Tracker

        opened.append(Tracker(folder, study, options.command, () if options.local else AHEAD))
        if options.local:  # what trains here imports, too
            opened[0].ready()
        return opened[0]

    try:
        yield tracker
        status = "FINISHED"
    finally:
        for view in opened:
            view.close(status)
        log.removeHandler(handler)


class _Say(logging.Handler):
    """Warnings of the MLflow view, among the progress."""

    def __init__(self, progress: Progress):
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.say(record.getMessage())


def _conclude(journal: Journal, declared: History, track: bool, began: float) -> RunOutcome:
    """The report and the last of the view; what is there as it would come out again is left as it is."""
    journal.progress.end()
    if (journal.clock or journal.cached) and (tracker := journal.tracker()) is not None:
        tracker.ready()
    from aotsearch.report import data, made

    folder, notes = journal.ledger.folder, []
    found = data.material(journal.ledger, declared)
    files = made.files(folder, found.fingerprint)
    fresh = not files
    if fresh:
        from aotsearch.report import report

        try:
            files = report.write(folder, material=found)
        except (RunError, OSError) as e:
            notes.append(f"the report could not be written: {e}; `aotsearch report {folder}` makes it later")
    if track and (fresh or not _shown(folder, found)) and (tracker := journal.tracker()) is not None:
        tracker.publish(found.headline.to_dict(), found.summary(), files, folder / STUDY_FILE)
    outcomes = Counter(r["outcome"] for r in journal.records.values())
    seconds = time.monotonic() - began
    trained = sum(journal.records[key]["outcome"] not in FAILED for key in journal.clock.keys() & journal.records.keys())
    return RunOutcome(folder, outcomes, trained, seconds, found.analysis, found.summary(), notes, journal.cached)


def _shown(folder: Path, found: Material) -> bool:
    """Whether MLflow shows what would be published."""
    from aotsearch.tracking.glance import shown

    return shown(folder, found.study.name, found.fingerprint, {r["key"]: r["finished"] for r in found.records})


def versions() -> dict[str, str]:
    """The versions that can change a number."""
    return {"python": platform.python_version(), **{name: found for name in PACKAGES if (found := version(name))}}
