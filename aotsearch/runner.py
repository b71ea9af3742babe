"""Study -> run folder: what is left to do is planned, executed and recorded, and the evidence is drawn from the whole ledger.

Running a study again in the same folder continues it: a finished trial is never trained twice.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import logging
import os
import platform
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aotsearch import design, yamlfile
from aotsearch.architecture import Architecture
from aotsearch.errors import AotsearchError, InputError, RunError
from aotsearch.ledger import FAILED, Ledger
from aotsearch.progress import Progress
from aotsearch.rates import TUNE_SEED, Rate, beyond, chosen, used
from aotsearch.study import Study, load

SEARCH_SEED = 10_000  # search trials run under this seed plus the sampler's, so that the seeds of the study stay fresh
STUDY_FILE = "study.yaml"
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
class Outcome:
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


def run(study: Study, out: str | Path | None = None, options: Options | None = None, progress: Progress | None = None) -> Outcome:
    """Run or continue a study in a folder.

    Args:
        study: What to run.
        out: The run folder; `runs/NAME` by default.
        options: Executor and workers.
        progress: Told what happens; by default a new one on standard error.

    Raises:
        InputError: the folder holds another study, or the data is missing.
        RunError: the disk or the cluster failed; everything finished is kept.
    """
    options = options or Options()
    folder = Path(out or default_folder(study)).resolve()
    progress = progress or Progress(study.task.measure, study.task.unit, tuned=study.settings.tuning is not None)
    began = time.monotonic()
    _refuse_other(study, folder)
    facts = study.task.prepare()  # before the folder is made: missing data leaves nothing behind
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"{folder} can not be made: {e.strerror}") from None
    ledger = Ledger(folder)
    with ledger.lock():
        _refuse_other_data(ledger, facts, folder)
        _write_study(study, folder)
        this = _Run(study, folder, ledger, options, progress)
        try:
            this.start(facts)
            trained = this.execute()
            return this.conclude(trained, time.monotonic() - began)
        finally:
            progress.end()
            this.close()


class _Run:
    """One start of the command: it hears from the executor and writes the ledger, then the views of it."""

    def __init__(self, study: Study, folder: Path, ledger: Ledger, options: Options, progress: Progress):
        self.study, self.folder, self.ledger, self.options, self.progress = study, folder, ledger, options, progress
        self.tracker: Any = None
        self.cluster: Any = None
        self.status = "KILLED"
        self.interrupted = False
        self.clock: dict[str, float] = {}
        self.records = ledger.records()
        self.environments: dict[str, set[str]] = {}  # what the trials of earlier starts were made with, as far as it is not compared yet
        for record in self.records.values():
            for name, value in (record.get("environment") or {}).items():
                self.environments.setdefault(name, set()).add(str(value))

    def start(self, facts: Mapping[str, Any]) -> None:
        o = self.options
        self.ledger.append(
            "run",
            command=o.command,
            started=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            study=self.study.digest,
            versions=versions(),
            machine={"host": platform.node(), "cpus": os.cpu_count(), "platform": platform.platform()},
            executor="local" if o.local else "ray",
        )
        self.ledger.append("data", **facts)
        if o.track:
            self.tracker = self._tracker()

    def _tracker(self) -> Any:
        from aotsearch.tracking import Tracker

        if self.options.local and importlib.util.find_spec("mlflow") is None:
            self.progress.say("mlflow is not installed: the ledger is written, its MLflow view is not (`aotsearch ui` can make it later)")
            return None
        logging.getLogger("aotsearch").addHandler(_Say(self.progress))
        try:
            return Tracker(self.folder, self.study, self.options.command)
        except RunError as e:
            self.progress.say(f"MLflow is not written: {e}; the ledger is, and `aotsearch ui` makes the view later")
            return None

    # --- what is left, and who does it ---

    def execute(self) -> int:
        """Train what is not finished; returns how many trials were trained."""
        before = len(self.clock)
        with self.interruptible():
            self._execute()
        return len(self.clock) - before

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let Ctrl-C end the run even where a library swallows the first KeyboardInterrupt: the next event raises it again."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def interrupt(*_: Any) -> None:
            self.interrupted = True
            raise KeyboardInterrupt

        former = signal.signal(signal.SIGINT, interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, former)

    def check(self) -> None:
        if self.interrupted:
            raise KeyboardInterrupt

    def _execute(self) -> None:
        s = self.study.settings
        if s.design == "search":
            self._search()
            self.ledger.append("importance", shares=self._importance())
        arms = self._candidates() if s.design == "search" else self.study.arms()
        phase = "confirm" if s.design == "search" else "design"
        rates = self._tune(arms) if s.tuning else {}
        self._train(arms, s.first_seeds, rates, phase)
        if s.adaptive is not None:
            self._replicate(arms, rates, phase)

    def _train(self, arms: list[design.Arm], seeds: list[int], rates: Mapping[str, Rate], phase: str) -> None:
        """Every arm under every seed, at the shared learning rate and, where it is another, at its own."""
        by_name = {a.name: a for a in arms}
        cells = []
        for name, seed in design.order(list(by_name), seeds):
            for rate in dict.fromkeys(used(rates, name, design.REFERENCE, mode) for mode in ("shared", "tuned")):
                cells.append((by_name[name], seed, rate))
        self._run(cells, phase)

    def _run(self, cells: list[tuple[design.Arm, int, float | None]], phase: str) -> None:
        from aotsearch import trial
        from aotsearch.schedule import Work

        plans = trial.plans(self.study, cells, phase)
        left = [p for p in plans if not self._finished(p["key"])]
        self.progress.begin(len(plans), [self.records[p["key"]] for p in plans if self._finished(p["key"])])
        if left:
            self._hand_over(Work(trials=left))

    def _tune(self, arms: list[design.Arm]) -> dict[str, Rate]:
        """Each arm's own learning rate; the list is extended for the arms whose best rate lies at its end."""
        tuning, measure = self.study.settings.tuning, self.study.task.measure
        assert tuning is not None
        seeds = [TUNE_SEED + i for i in range(tuning.seeds)]
        wanted = {a.name: list(tuning.tune) for a in arms}
        self.progress.say("finding each arm's learning rate ...")
        while True:
            self._run([(a, seed, rate) for seed in seeds for a in arms for rate in wanted[a.name]], "tune")
            found = {a.name: chosen(self.records.values(), a.name, measure) for a in arms}
            further = {name: beyond(rate, tuning.tune, tuning.extend) for name, rate in found.items()}
            if not any(further.values()):
                return found
            at_end = sum(bool(rate) for rate in further.values())
            self.progress.say(f"the best rate of {at_end} arm{'s' * (at_end > 1)} lies at the end of the list: trying the next ...")
            for name, rate in further.items():
                wanted[name] += [rate] if rate else []

    def _replicate(self, arms: list[design.Arm], rates: Mapping[str, Rate], phase: str) -> None:
        """One more seed for the arms of every comparison that is not settled, until all are or have the most seeds allowed."""
        adaptive = self.study.settings.adaptive
        assert adaptive is not None
        from aotsearch.analysis import unsettled

        for seed in range(adaptive.min, adaptive.max):
            names = unsettled(list(self.records.values()), self.study)
            if not names:
                return
            self.progress.say(f"seed {seed + 1} of at most {adaptive.max} for {len(names)} arms whose verdict is open ...")
            self._train([a for a in arms if a.name in names], [seed], rates, phase)

    def _search(self) -> None:
        from aotsearch import trial
        from aotsearch.schedule import Work
        from aotsearch.search import Proposer

        s = self.study.settings
        finished = [r for r in self.records.values() if r["phase"] == "search" and self._finished(r["key"])]
        self.progress.begin(s.search.trials, finished)
        if len(finished) >= s.search.trials:
            return
        workers = 1 if self.options.local else self.options.workers or os.cpu_count() or 1
        count = len(finished)

        def plan(architecture: Architecture) -> dict[str, Any]:
            nonlocal count
            count += 1
            arm = design.Arm(f"search-{count}", architecture, self.study.reference.diff(architecture))
            return trial.plan(self.study, arm, SEARCH_SEED + s.search.seed, "search")

        self._hand_over(
            Work(
                proposer=Proposer(self.study.space, s.search, workers, finished),
                number=s.search.trials - len(finished),
                plan=plan,
                measure=self.study.task.measure,
                evaluations=s.budget.evaluations,
                reduction=s.search.reduction,
            )
        )

    def _importance(self) -> dict[str, float]:
        from aotsearch.search import importance

        return importance(self.records.values(), self.study.space)

    def _candidates(self) -> list[design.Arm]:
        """The reference and the best architectures of the search, to be trained again under fresh seeds."""
        reference = design.Arm(design.REFERENCE, self.study.reference, {})
        measure = self.study.task.measure
        searched = [r for r in self.records.values() if r["phase"] == "search" and r["outcome"] == "done"]
        best = sorted((r for r in searched if r["measures"].get(measure) is not None), key=lambda r: (r["measures"][measure], r["digest"]))
        chosen = [r for r in best if r["digest"] != reference.architecture.digest][: self.study.settings.search.confirm]
        arms = [reference]
        for record in chosen:
            architecture = self.study.space.at(record["decisions"])
            arms.append(design.Arm(f"candidate-{record['digest'][:6]}", architecture, reference.architecture.diff(architecture)))
        return arms

    def _finished(self, key: str) -> bool:
        record = self.records.get(key)
        if record is None:
            return False
        return not (self.options.retry_failed and (record["outcome"] in FAILED or record.get("unmeasured")))

    def _hand_over(self, work: Any) -> None:
        from aotsearch import schedule

        r, checkpoints = self.study.settings.resources, self.folder / "checkpoints"
        if self.options.local:
            schedule.run_local(work, self, local_device(r.gpus), r.cpus, checkpoints)
            return
        if self.cluster is None:
            self.progress.say("starting Ray ...")
            self.cluster = schedule.Cluster(self.options.address, self.options.workers, r.cpus, r.gpus)
            self.progress.say(f"Ray runs {self.cluster.workers} trials at a time")
        self.cluster.run(work, self, checkpoints)

    # --- what the executor tells ---

    def started(self, trial: dict[str, Any]) -> None:
        self.check()
        self.clock[trial["key"]] = time.monotonic()
        self.ledger.append("started", key=trial["key"], arm=trial["arm"], seed=trial["seed"], phase=trial["phase"])
        self.progress.started(trial)
        if self.tracker is not None:
            self.tracker.started(trial)

    def point(self, trial: dict[str, Any], point: Mapping[str, float]) -> None:
        self.check()
        self.progress.point(trial, point)
        if self.tracker is not None:
            self.tracker.progress(trial["key"], point)

    def finished(self, record: dict[str, Any]) -> None:
        record.setdefault("seconds", round(time.monotonic() - self.clock.get(record["key"], time.monotonic()), 3))
        record = self.records[record["key"]] = self.ledger.append("finished", **record)  # from here on as it will be read again
        self._tell_change(record)
        self.progress.finished(record)
        self.check()  # after it is written
        if self.tracker is not None:
            self.tracker.finished(record)

    def _tell_change(self, record: Mapping[str, Any]) -> None:
        """Say once where trials are now made otherwise than at earlier starts: pairs of both are compared, and the report names them."""
        for name, value in (record.get("environment") or {}).items():
            earlier = self.environments.pop(name, set()) - {str(value)}
            if earlier:
                self.progress.say(
                    f"trials here were made with {name.replace('_', ' ')} {', '.join(sorted(earlier))}, now with {value}: losses may move "
                    "in the last digits, and the report names the pairs that mix both"
                )

    # --- what it comes to ---

    def conclude(self, trained: int, seconds: float) -> Outcome:
        from aotsearch import report

        self.progress.end()
        found = report.read(self.folder)
        notes = []
        try:
            files = report.write(self.folder)
        except (RunError, OSError) as e:
            files = []
            notes.append(f"the report could not be written: {e}; `aotsearch report {self.folder}` makes it later")
        if self.tracker is not None:
            self.tracker.publish(found.headline.to_dict(), found.summary(), files, self.folder / STUDY_FILE)
        self.status = "FINISHED"
        outcomes = Counter(r["outcome"] for r in self.records.values())
        return Outcome(self.folder, outcomes, trained, seconds, found.analysis, found.summary(), notes)

    def close(self) -> None:
        if self.cluster is not None:
            self.cluster.close()
        if self.tracker is not None:
            self.tracker.close(self.status)
        log = logging.getLogger("aotsearch")
        for handler in [h for h in log.handlers if isinstance(h, _Say)]:
            log.removeHandler(handler)


class _Say(logging.Handler):
    """Warnings of the MLflow view, among the progress."""

    def __init__(self, progress: Progress):
        super().__init__(logging.WARNING)
        self.progress = progress

    def emit(self, record: logging.LogRecord) -> None:
        self.progress.say(record.getMessage())


def local_device(gpus: float | str) -> str:
    """The device of a run in this process: a GPU if one is there and not refused."""
    import torch

    return "cuda" if gpus and torch.cuda.is_available() else "cpu"


def versions() -> dict[str, str]:
    """The versions that can change a number."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def status(folder: str | Path) -> dict[str, Any]:
    """What ran, runs, failed and is left in a run folder."""
    ledger = Ledger.open(folder)
    study = load(Path(folder) / STUDY_FILE)
    records = ledger.records()
    outcomes = Counter(r["outcome"] for r in records.values())
    busy = ledger.locked
    running = _running(ledger) if busy else 0
    total = planned(study, records.values())
    return {
        "study": study.name,
        "done": len(records) - sum(outcomes[o] for o in FAILED),
        "running": running,
        "failed": sum(outcomes[o] for o in FAILED),
        "left": max(0, total - len(records) - running),
        "outcomes": dict(outcomes),
        "total": total,
        "active": busy,
        "corrupt_lines": ledger.corrupt,
    }


def _running(ledger: Ledger) -> int:
    """How many trials the latest start of the command has begun and not ended; what an earlier one left open was killed with it."""
    open_: set[str] = set()
    for e in ledger.events():
        if e["event"] == "run":
            open_.clear()
        elif e["event"] == "started":
            open_.add(e["key"])
        elif e["event"] == "finished":
            open_.discard(e["key"])
    return len(open_)


def planned(study: Study, records: Iterable[Mapping[str, Any]]) -> int:
    """How many trials a study has in all; a search that found fewer architectures than asked for counts those it found."""
    s = study.settings
    if s.design != "search":
        from aotsearch.analysis import expected

        return expected(list(records), study)
    candidates = {r["digest"] for r in records if r["phase"] == "confirm"}
    return s.search.trials + len(s.seed_list) * (len(candidates) or s.search.confirm + 1)


def _refuse_other(study: Study, folder: Path) -> None:
    """A run folder belongs to one task, one training and one grammar's reference; other settings need another folder."""
    path = folder / STUDY_FILE
    if not path.exists():
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; --out names a folder")
        return
    try:
        other = load(path)
    except AotsearchError as e:
        raise InputError(f"{folder} holds a study this version can not read ({e}); choose another --out") from None
    if other.digest != study.digest:
        changed = _changes(other.plain, study.plain)
        raise InputError(f"{folder} holds results of other settings ({changed}); choose another --out, or restore them")
    if other.reference != study.reference:
        raise InputError(f"{folder} holds results of another reference ({_changes(other.plain, study.plain)}); choose another --out")


def _refuse_other_data(ledger: Ledger, facts: Mapping[str, Any], folder: Path) -> None:
    known = ledger.last("data")
    if known is not None and known.get("manifest") != facts.get("manifest"):
        raise InputError(f"{folder} holds results on other data (its manifest hash differs); choose another --out")


def _changes(old: Any, new: Any, path: str = "") -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        parts = [_changes(old.get(k), new.get(k), f"{path}.{k}".lstrip(".")) for k in {**old, **new} if old.get(k) != new.get(k)]
        return "; ".join(parts)
    return f"{path} was {old}, is {new}"


def _write_study(study: Study, folder: Path) -> None:
    text = yamlfile.dump(dict(study.plain))
    made = folder / f".{STUDY_FILE}.new"
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(folder / STUDY_FILE)
    except OSError as e:
        raise RunError(f"{folder / STUDY_FILE} can not be written: {e.strerror}") from None
