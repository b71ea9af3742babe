"""Study -> run folder: what is left to do is planned, executed and recorded, and the evidence is drawn from the whole ledger.

Running a study again in the same folder continues it: a finished trial is never trained twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib.metadata
import importlib.util
import itertools
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

from aotsearch import yamlfile
from aotsearch.errors import AotsearchError, InputError, RunError
from aotsearch.evidence.declaration import STUDY_FILE, History, Record, candidate, differences, entry, event, history
from aotsearch.evidence.ledger import FAILED, Ledger
from aotsearch.evidence.tables import curve_of, left_out, promising, searched, unconfirmed
from aotsearch.grammar.architecture import Architecture
from aotsearch.running.progress import Progress
from aotsearch.study import design
from aotsearch.study.rates import TUNE_SEED, Rate, beyond, chosen, used
from aotsearch.study.study import Resources, Study

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
    facts = study.task.prepare()  # before the folder is made: missing data leaves nothing behind
    study = dataclasses.replace(study, manifest=facts.get("manifest", ""))
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file; --out names a folder")
    study.arms()  # so is an arm that can not be made equal
    try:
        (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise RunError(f"{folder} can not be made: {e.strerror}") from None
    ledger = Ledger(folder)
    with ledger.lock():
        before = _before(ledger, study)
        _write_study(study, folder)
        this = _Run(study, folder, ledger, options, progress, before)
        try:
            this.start(facts)
            trained = this.execute()
            return this.conclude(trained, time.monotonic() - began)
        finally:
            progress.end()
            this.close()


class _Run:
    """One start of the command: it hears from the executor and writes the ledger, then the views of it."""

    def __init__(self, study: Study, folder: Path, ledger: Ledger, options: Options, progress: Progress, before: History | None):
        self.study, self.folder, self.ledger, self.options, self.progress = study, folder, ledger, options, progress
        self.before = before
        self.tracker: Any = None
        self.cluster: Any = None
        self.status = "KILLED"
        self.interrupted = False
        self.clock: dict[str, float] = {}
        self.records = {study.key(r["digest"], r["seed"], r["training"], r["phase"] == "search"): r for r in ledger.records().values()}
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
        self._declare()
        for note in self.study.notes:  # before anything is trained
            self.progress.say(note)
        if o.track:
            self.tracker = self._tracker()

    def _declare(self) -> None:
        """Keep the declaration, and each that changes it, with how much had been seen by then."""
        if self.records and self.before is not None and not self.before.last.arms:  # an older version kept none
            former = event(self.before.study, self.before.study.arms(), ())
            self.ledger.append("declared", **former)
        last, fresh = self.ledger.last("declared"), event(self.study, self.study.arms(), self.records.values())
        if last is None or any(last[name] != fresh[name] for name in ("study", "arms")):
            self.ledger.append("declared", **fresh)
        self.history = history(self.ledger)
        for change in [*self.history.changes, *self._unmeasured()]:
            self.progress.say(change)

    def _unmeasured(self) -> list[str]:
        """What is asked for now and was not when the trials so far were trained."""
        if not self.records or self.before is None:
            return []
        old, new = self.before.study.settings, self.study.settings
        further = [name for name in new.measured if name not in old.measured] + ["knock_out"] * (new.knock_out and not old.knock_out)
        count = len(self.records)
        return [f"{', '.join(further)}: measured of trials from here on; the {count} that have ended are not trained again"] * bool(further)

    @property
    def placed(self) -> list[Record]:
        """The trials of the study's arms, under the names that these have now."""
        return self.history.place(self.records.values())

    def _tracker(self) -> Any:
        from aotsearch.tracking.view import Tracker

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
        from aotsearch.running.schedule import Work
        from aotsearch.training import trial

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
            found = {a.name: chosen(self.placed, a.name, measure) for a in arms}
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
        from aotsearch.evidence.analysis import unsettled

        for seed in range(adaptive.min, adaptive.max):
            names = unsettled(self.placed, self.history.study)
            if not names:
                return
            self.progress.say(f"seed {seed + 1} of at most {adaptive.max} for {len(names)} arms whose verdict is open ...")
            self._train([a for a in arms if a.name in names], [seed], rates, phase)

    def _search(self) -> None:
        from aotsearch.running.rungs import Rungs
        from aotsearch.running.schedule import Search, Work
        from aotsearch.running.search import Proposer
        from aotsearch.training import trial

        s, search, measure = self.study.settings, self.study.settings.search, self.study.task.measure
        rungs = Rungs(s.budget.evaluations, search.reduction)
        proposer = Proposer(self.study.space, search, measure, self._proposed())
        told = set(proposer.proposals)
        finished = [r for r, _ in searched(self.records.values(), self.study) if self._finished(r["key"])]
        self.progress.begin(search.trials, finished)
        for note in left_out(self.records.values(), self.study):
            self.progress.say(f"{note}; one that this search proposes is not trained again")

        def tell(record: Mapping[str, Any]) -> None:
            proposer.tell(record)
            rungs.recall(record["digest"], curve_of(record, measure))

        def proposals() -> Iterator[dict[str, Any]]:
            while (architecture := proposer.ask()) is not None:
                arm = design.Arm(self._name(architecture), architecture, self.study.reference.diff(architecture))
                made = trial.plan(self.study, arm, search.training_seed, "search")
                if architecture.digest not in told:
                    self.ledger.append("proposed", **{name: made[name] for name in ("arm", "digest", "decisions", "seed")})
                if self._finished(made["key"]):
                    tell(self._adopt(made))
                else:
                    yield made

        for record in finished:
            tell(record)
        made = proposals()
        first = next(made, None)
        if first is not None:
            self._hand_over(Work(search=Search(itertools.chain([first], made), tell, rungs, measure)))
        number = len(searched(self.records.values(), self.study))
        if number < search.trials:
            self.ledger.append("exhausted", architectures=number)
            self.progress.say(
                f"no architecture but these {number} was found in the space: the search ends before its {search.trials} trials"
            )

    def _proposed(self) -> list[Mapping[str, Any]]:
        """What earlier starts of this search proposed, in that order; before the ledger told it, what was finished."""
        seed = self.study.settings.search.training_seed
        told = [e for e in self.ledger.events() if e["event"] == "proposed" or (e["event"] == "finished" and e["phase"] == "search")]
        return [e for e in told if e["seed"] == seed]

    def _adopt(self, made: Mapping[str, Any]) -> dict[str, Any]:
        """A model that was trained when the space had other decisions for it is recorded again with those of today."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        same = {name: made[name] for name in ("arm", "arms", "decisions", "changes")}
        record = {**self.records[made["key"]], **same, "finished": now}
        record.pop("event")
        self.finished(record)
        return self.records[made["key"]]

    def _name(self, architecture: Architecture) -> str:
        """The one name of an architecture of a search, wherever it is told: that of the arm that it is, else by its digest."""
        arms = {arm.architecture.digest: arm.name for arm in reversed(self.study.arms())}
        return arms.get(architecture.digest, candidate(architecture.digest))

    def _importance(self) -> dict[str, float]:
        from aotsearch.running.search import importance

        return importance(self.records.values(), self.study)

    def _candidates(self) -> list[design.Arm]:
        """The study's arms and the best that the search found, to be trained under fresh seeds; none where the reference is alone."""
        arms, tried = self.study.arms(), searched(self.records.values(), self.study)
        for note in unconfirmed(tried, self.study):
            self.progress.say(note)
        best = promising(tried, self.study)[: self.study.settings.search.confirm]
        found = [design.Arm(self._name(a), a, self.study.reference.diff(a)) for a in best]
        self._keep(found)
        return [*arms, *found] if found or len(arms) > 1 else []

    def _keep(self, found: list[design.Arm]) -> None:
        """Tell the ledger which candidates are confirmed."""
        known, entries = self.ledger.last("candidates") or {"arms": []}, [entry(a) for a in found]
        if entries != known["arms"]:
            self.ledger.append("candidates", arms=entries)
            self.history = history(self.ledger)

    def _finished(self, key: str) -> bool:
        record = self.records.get(key)
        if record is None:
            return False
        return not (self.options.retry_failed and (record["outcome"] in FAILED or record.get("unmeasured")))

    def _hand_over(self, work: Any) -> None:
        from aotsearch.running import schedule

        r, checkpoints = self.study.settings.resources, self.folder / "checkpoints"
        if self.options.local:
            schedule.run_local(work, self, local_device(r), r.cpus, checkpoints)
            return
        if self.cluster is None:
            self.progress.say("starting Ray ...")
            self.cluster = schedule.Cluster(self.options.address, self.options.workers, r)
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
        from aotsearch.report import report

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


def local_device(resources: Resources) -> str:
    """The device of a run in this process: a GPU if one is there and not refused, the first of several.

    Raises:
        InputError: this machine has less than a trial is granted.
    """
    from aotsearch.training.device import gpus_here

    cpus, gpus = os.cpu_count() or 1, gpus_here()
    if not resources.room(cpus, gpus):
        raise InputError(resources.lack(cpus, gpus))
    return "cuda" if resources.share(gpus) else "cpu"


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
    declared = history(ledger)
    study = declared.study
    records = {r["key"]: r for r in declared.place(ledger.records().values())}
    outcomes = Counter(r["outcome"] for r in records.values())
    busy = ledger.locked
    running = _running(ledger) if busy else 0
    total = planned(study, records.values(), (ledger.last("exhausted") or {}).get("architectures"))
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


def planned(study: Study, records: Iterable[Mapping[str, Any]], exhausted: int | None = None) -> int:
    """How many trials a study has in all, as far as it is known; a search confirms no more architectures than finish.

    Args:
        exhausted: With how many architectures a search found no other, if it did.
    """
    from aotsearch.evidence.analysis import expected

    s, everything = study.settings, list(records)
    if s.design != "search":
        return expected(everything, study)
    tried = searched(everything, study)
    ended = len(tried) >= s.search.trials or len(tried) == exhausted
    models = {arm.name: arm.architecture.digest for arm in study.arms()}
    best = [a.digest for a in promising(tried, study)] if ended else [str(i) for i in range(s.search.confirm)]
    models |= {candidate(digest): digest for digest in best[: s.search.confirm]}
    others = len([r for r in everything if r["phase"] == "search"]) - len(tried)
    searching = (len(tried) if ended else s.search.trials) + others
    return searching + (expected(everything, study, models) if len(models) > 1 else 0)


def _before(ledger: Ledger, study: Study) -> History | None:
    """What a run folder declared before this start; None where it is a new one, or one in which nothing was declared and nothing ended.

    Raises:
        InputError: it belongs to another task, training, reference or data: other settings need another folder.
    """
    folder = ledger.folder
    if ledger.last("data") is None or (ledger.last("declared") is None and not ledger.records()):
        return None
    try:
        found = history(ledger)
    except AotsearchError as e:
        raise InputError(f"{folder} holds a study this version can not read ({e}); choose another --out") from None
    old = found.study
    changed = differences(old.plain, study.plain)
    if old.digest != study.digest and (old.manifest == study.manifest or old.training() != study.training()):
        raise InputError(f"{folder} holds results of other settings ({changed}); choose another --out, or restore them")
    if old.manifest != study.manifest:
        said = f"; {changed}" if changed else ""
        raise InputError(f"{folder} holds results on other data (its manifest hash differs{said}); choose another --out")
    if old.reference != study.reference:
        raise InputError(f"{folder} holds results of another reference ({changed}); choose another --out")
    return found


def _write_study(study: Study, folder: Path) -> None:
    text = yamlfile.dump(dict(study.plain))
    made = folder / f".{STUDY_FILE}.new"
    try:
        made.write_text(text, encoding="utf-8")
        made.replace(folder / STUDY_FILE)
    except OSError as e:
        raise RunError(f"{folder / STUDY_FILE} can not be written: {e.strerror}") from None
