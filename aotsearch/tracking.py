"""The MLflow view of a run: ledger events in, `DIR/mlflow.db` and `DIR/artifacts` out; the only file that imports mlflow.

    experiment = the study;  parent run = this run folder, with the verdicts;  child run = one trial (arm x seed)

Only the driver writes, from one thread and in batches, so SQLite is never locked by us and no worker imports mlflow. The view can
always be made again from the ledger, so a failure here is a warning and never ends a run.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import json
import logging
import math
import os
import queue
import re
import sqlite3
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aotsearch.design import REFERENCE
from aotsearch.errors import InputError, RunError
from aotsearch.ledger import Ledger
from aotsearch.study import Study, load

STORE, STUDY = "mlflow.db", "study.yaml"
ARTIFACTS = "artifacts"
STATUS = {"done": "FINISHED", "stopped": "KILLED"}  # every other outcome is FAILED; the tag aot.outcome says which
GATHER = 0.5  # seconds in which events gather, so that they are written together
PATIENCE = 60.0  # seconds that close() waits for the last writes
TRIES = 3  # failures in a row after which the view is left for a later rebuild
LONGEST = {"param": 6000, "tag": 8000, "note": 8000, "key": 200}  # MLflow's limits, with room for a prefix before a key

NOTE, NAME, PARENT = "mlflow.note.content", "mlflow.runName", "mlflow.parentRunId"
SOURCE = {"mlflow.source.name": "aotsearch", "mlflow.source.type": "LOCAL"}
CLASSIC = {"mlflow.experimentKind": "custom_model_development"}  # else the UI asks which kind it is, and may guess agents
# Set before mlflow is imported, and for its server: nothing is sent anywhere, no job workers are started for a local UI.
ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}

log = logging.getLogger("aotsearch")
Values = Mapping[str, Any]


@dataclass
class _Child:
    """What the store holds of one trial."""

    run: str
    record: str = ""  # `finished` of the ledger record it shows; empty while it runs
    params: set[str] = field(default_factory=set)
    points: set[tuple[str, int]] = field(default_factory=set)  # (metric, step)
    published: dict[str, Any] = field(default_factory=dict)


class Tracker:
    """Writes the view of one run folder.

    Every method returns at once; one thread does the writing. None of them raises what MLflow raises.

    Args:
        folder: The run folder.
        study: Its study.
        command: The command line, for the parent run.

    Raises:
        RunError: the store can not be opened or made.
    """

    def __init__(self, folder: str | Path, study: Study, command: str):
        self.folder, self.study = Path(folder).resolve(), study
        self._children: dict[str, _Child] = {}
        self._points: dict[str, list[Values]] = {}  # waiting for the next batch
        self._factors = keys(study.space.decisions(), taken=(*_BASE, *_COST))
        self._failures = 0  # since the last batch that was written
        self._ending: Callable[[], None] | None = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of mlflow and sqlalchemy about each other
                self._open(command)
        except RunError:
            raise
        except Exception as e:  # noqa: BLE001 (mlflow, sqlalchemy, alembic and sqlite3 each have their own)
            remedy = "free space, or remove it, and it is made again from the ledger"
            raise RunError(f"{self.folder / STORE}: MLflow can not use it ({_line(e)}); {remedy}") from None
        self._queue: queue.SimpleQueue[Callable[[], Any]] = queue.SimpleQueue()
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-view", daemon=True)
        self._thread.start()
        self._queue.put(self._sync)

    # ---- what the scheduler says

    def started(self, trial: Values) -> None:
        """A trial began (again)."""
        self._queue.put(functools.partial(self._start, dict(trial)))

    def progress(self, key: str, point: Values) -> None:
        """A trial measured a point of its curve."""
        self._queue.put(functools.partial(self._point, key, dict(point)))

    def finished(self, record: Values) -> None:
        """A trial ended; the record is as the ledger holds it."""
        self._queue.put(functools.partial(self._finish, dict(record)))

    def publish(self, analysis: Values, summary: str, files: Sequence[Path], study_yaml: Path) -> None:
        """Show what the records say: effects and verdicts, the description, and the files of the report."""
        self._queue.put(functools.partial(self._publish, analysis, summary, [*files, study_yaml]))

    def close(self, status: str = "FINISHED", end: int | None = None) -> None:
        """Write what is left and end the parent run.

        Args:
            status: FINISHED, KILLED or FAILED.
            end: When the run ended, in milliseconds; now by default.
        """
        if self._ending is not None:
            return
        self._ending = functools.partial(self._end, status, end)
        self._queue.put(self._flush)  # wakes the thread
        self._hurry.set()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            log.warning("MLflow still writes after %.0f s and is left behind; `aotsearch ui` completes its view from the ledger", PATIENCE)

    # ---- the thread

    def _work(self) -> None:
        while self._ending is None or not self._queue.empty():
            jobs = [self._queue.get()]
            self._hurry.wait(GATHER)
            with contextlib.suppress(queue.Empty):
                while True:
                    jobs.append(self._queue.get_nowait())
            for job in [*jobs, self._flush]:
                self._attempt(job)
        self._failures = min(self._failures, TRIES - 1)  # even a view given up should not look alive for ever
        self._attempt(self._ending)

    def _attempt(self, job: Callable[[], Any]) -> None:
        if self._failures >= TRIES:  # each further try might wait 20 s for a locked file
            return
        try:
            job()
        except Exception as e:  # noqa: BLE001 (a view must not end a run)
            self._failures += 1
            rest = "is given up" if self._failures >= TRIES else "is incomplete"
            log.warning("MLflow's view %s (%s); the run goes on, and `aotsearch ui` completes the view from the ledger", rest, _line(e))

    def _write(self, run: str, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()) -> None:
        self._client.log_batch(run, metrics, params, tags, synchronous=True)  # which itself cuts it into pieces that MLflow takes
        self._failures = 0

    # ---- the store

    def _open(self, command: str) -> None:
        store = self.folder / STORE
        if set("%?") & set(str(store)):
            raise RunError(f"{store}: MLflow can not open a store below a folder with '%' or '?' in its name")
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(store, timeout=20)) as connection:
            # Readers (the UI) and the writer do not wait for each other, and commits are cheaper. It also finds a file that is no
            # database, which mlflow would try to open for 100 s.
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA schema_version")
        self._client = _client(store)
        self._experiment = self._find_experiment()
        self._parent = self._find_parent(command)

    def _find_experiment(self) -> str:
        place = (self.folder / ARTIFACTS).as_uri()
        found = self._client.get_experiment_by_name(self.study.name)
        if found is not None and found.lifecycle_stage != "active":
            self._client.restore_experiment(found.experiment_id)
        if found is not None and found.artifact_location == place:
            return str(found.experiment_id)
        if found is not None:  # the folder was moved or copied: artifacts of that experiment are elsewhere, so the view is made anew
            self._client.rename_experiment(found.experiment_id, f"{self.study.name} before {_now()}")
            self._client.delete_experiment(found.experiment_id)
        tags = {**CLASSIC, NOTE: _head(self.study)}
        return str(self._client.create_experiment(self.study.name, artifact_location=place, tags=tags))

    def _find_parent(self, command: str) -> str:
        tags = {"aot.study": self.study.digest, "aot.command": command[: LONGEST["tag"]]}
        found = self._client.search_runs([self._experiment], "tags.`aot.role` = 'study'", max_results=1)
        if found:
            run = str(found[0].info.run_id)
            self._client.update_run(run, status="RUNNING")
            self._write(run, tags=_tags(tags))
            return run
        first = next((e for e in Ledger(self.folder).events() if e["event"] == "run"), None)
        start = _milliseconds(first["started"]) if first else _now()
        tags |= {"aot.role": "study", NOTE: _head(self.study), **SOURCE}
        run = str(self._client.create_run(self._experiment, start, tags, self.study.name).info.run_id)
        s = self.study.settings
        facts = {"design": s.design, "equalise": s.equalise, "margin": s.margin, "confidence": s.confidence, "steps": s.budget.steps}
        self._write(run, params=_params(facts))
        return run

    def _sync(self) -> None:
        """Make the children equal to the ledger: nothing twice, nothing left running, nothing missing."""
        records = Ledger(self.folder).records()
        for run in self._client.search_runs([self._experiment], "tags.`aot.key` != ''", max_results=50_000):
            tags, key = run.data.tags, run.data.tags["aot.key"]
            child = _Child(run.info.run_id, tags.get("aot.finished", ""), set(run.data.params), published={**tags, **run.data.metrics})
            if key in self._children or (key in records and records[key]["finished"] != child.record):
                self._client.delete_run(child.run)  # it shows an earlier try, or part of one
                continue
            self._children[key] = child
            if run.info.status in ("RUNNING", "SCHEDULED"):
                self._interrupt(child)
            if tags.get(PARENT) != self._parent:
                self._client.set_tag(child.run, PARENT, self._parent)
        for record in records.values():
            self._finish(record)

    # ---- children

    def _start(self, trial: Values, start: int | None = None) -> _Child:
        self._points.pop(trial["key"], None)
        earlier = self._children.pop(trial["key"], None)
        if earlier is not None:  # another try of the same trial: params can not be changed, and curves would mix
            self._client.delete_run(earlier.run)
        tags = {f"aot.{name}": _text(trial[name]) for name in ("key", "arm", "seed", "phase", "digest", "equalise") if name in trial}
        tags |= {"aot.study": self.study.digest, PARENT: self._parent, **SOURCE}
        run = self._client.create_run(self._experiment, start, tags, _name(trial))
        child = self._children[trial["key"]] = _Child(run.info.run_id)
        self._write(child.run, params=_params(self._facts(trial, child)))
        return child

    def _facts(self, trial: Values, child: _Child) -> dict[str, Any]:
        """The params of a trial that are not logged yet; every child has every factor, since the UI drops runs that lack one."""
        training = {"steps": self.study.settings.budget.steps, **trial.get("training", {})}
        decisions = trial.get("decisions", {})
        facts = {name: trial[name] for name in _BASE if name in trial}
        facts |= {key: decisions.get(address, "-") for address, key in self._factors.items()}
        facts |= {"learning_rate": trial.get("learning_rate", training.get("learning_rate")), "steps": training["steps"]}
        facts |= {"parameters": trial.get("parameters")}
        fresh = {name: value for name, value in facts.items() if value is not None and name not in child.params}
        child.params |= fresh.keys()
        return fresh

    def _point(self, key: str, point: Values) -> None:
        self._points.setdefault(key, []).append({**point, "time": _now()})

    def _flush(self) -> None:
        for key in list(self._points):
            points, child = self._points.pop(key), self._children.get(key)
            if child is not None and not child.record:
                self._write(child.run, list(_curve(child, points)))

    def _finish(self, record: Values) -> None:
        end = _milliseconds(record["finished"])
        start = end - round(1000 * record.get("seconds", 0))
        child = self._children.get(record["key"])
        if child is not None and child.record == record["finished"]:
            return
        if child is None or child.record or "aot.outcome" in child.published:
            child = self._start(record, start)
        last = max((p["step"] for p in record["curve"]), default=1) or 1  # an untrained model has its only point at step 0
        points: list[Values] = [{**p, "time": start + round((end - start) * p["step"] / last)} for p in record["curve"]]
        points += self._points.pop(record["key"], [])
        finals = {f"final/{name}": value for name, value in record["measures"].items()}
        finals |= {name: record[name] for name in _COST if name in record}
        metrics = [*_curve(child, points), *_metrics(finals, end)]
        tags = {"aot.outcome": record["outcome"], "aot.finished": record["finished"]}
        if record.get("message"):
            tags |= {"aot.message": record["message"], NOTE: _failure(record)}
        params = _params(self._facts(record, child))
        self._write(child.run, metrics, params, _tags(tags))
        self._client.set_terminated(child.run, STATUS.get(record["outcome"], "FAILED"), end)
        child.record = record["finished"]

    def _interrupt(self, child: _Child) -> None:
        child.published["aot.outcome"] = "interrupted"
        self._client.set_tag(child.run, "aot.outcome", "interrupted")
        self._client.set_terminated(child.run, "KILLED")

    # ---- the parent

    def _publish(self, analysis: Values, summary: str, files: Sequence[Path]) -> None:
        contrasts = analysis["contrasts"]
        names = keys(_arm(c["arm"], c["equalise"]) for c in contrasts)
        numbers: dict[str, Any] = {"noise_floor": analysis.get("noise_floor")}
        numbers[f"reference/{key_of(analysis['measure'])}"] = analysis.get("reference_value", {}).get("mean")
        verdicts = {}
        for c in contrasts:
            name = names[_arm(c["arm"], c["equalise"])]
            numbers |= {f"effect/{name}": c["difference"], f"effect_low/{name}": c["low"], f"effect_high/{name}": c["high"]}
            verdicts[f"verdict/{name}"] = c["verdict"]
        text = note(self.study, analysis)
        self._write(self._parent, _metrics(numbers, _now()), (), _tags({**verdicts, NOTE: text}))
        self._client.set_experiment_tag(self._experiment, NOTE, text)
        self._mark_children(analysis)
        for path in files:
            if path.is_dir():
                self._client.log_artifacts(self._parent, str(path), path.name)
            elif path.is_file():
                self._client.log_artifact(self._parent, str(path))
        if summary:
            self._client.log_text(self._parent, summary, "summary.txt")

    def _mark_children(self, analysis: Values) -> None:
        """Give each trial its arm's verdict and its own paired difference, so that the table alone, grouped by arm, shows the effects."""
        verdicts = {(c["arm"], c["equalise"]): c["verdict"] for c in analysis["contrasts"]} | {(REFERENCE, "none"): "(reference)"}
        records, measure = Ledger(self.folder).records(), analysis["measure"]
        done = {key: r for key, r in records.items() if r["outcome"] == "done" and measure in r["measures"]}
        base = {(r["phase"], r["seed"]): r["measures"][measure] for r in done.values() if r["arm"] == REFERENCE}
        for key, child in self._children.items():
            record = records.get(key)
            if record is None:
                continue
            said = {"aot.verdict": verdicts.get((record["arm"], record["equalise"]))}
            pair = base.get((record["phase"], record["seed"]))
            if key in done and pair is not None:
                said["final/difference"] = record["measures"][measure] - pair
            fresh = {name: value for name, value in said.items() if value is not None and child.published.get(name) != value}
            if fresh:
                tags = {name: value for name, value in fresh.items() if isinstance(value, str)}
                metrics = _metrics({n: v for n, v in fresh.items() if n not in tags}, _now())
                self._write(child.run, metrics, (), _tags(tags))
                child.published |= fresh

    def _end(self, status: str, end: int | None) -> None:
        for child in self._children.values():
            if not child.record and "aot.outcome" not in child.published:
                self._interrupt(child)
        self._client.set_terminated(self._parent, status, end)
        with contextlib.closing(sqlite3.connect(self.folder / STORE, timeout=0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # at rest the whole view is in one file, unless the UI reads it now


# ---- the UI


def rebuild(folder: str | Path, analysis: Values | None = None, summary: str = "", files: Sequence[Path] = ()) -> Path:
    """Make or complete the view of a run folder from its ledger, and publish an analysis where one is given.

    Returns:
        The store.

    Raises:
        InputError: the folder holds no run, or a process writes to it.
        RunError: the store can not be opened or made.
    """
    ledger = Ledger.open(folder)
    with ledger.lock():
        events = list(ledger.events())
        command = next((e["command"] for e in reversed(events) if e["event"] == "run"), "")
        tracker = Tracker(folder, load(Path(folder) / STUDY), command)
        try:
            if analysis is not None:
                tracker.publish(analysis, summary, files, Path(folder) / STUDY)
        finally:
            partial = analysis is not None and analysis.get("partial", False)
            ends = [_milliseconds(e["finished"]) for e in events if e["event"] == "finished"]
            tracker.close("KILLED" if partial else "FINISHED", max(ends, default=None))
    return Path(folder) / STORE


def ui_command(folder: str | Path, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command line of the MLflow UI on a run's store; run it with `ENVIRONMENT` added to the environment.

    Raises:
        InputError: the folder has no store.
    """
    store = Path(folder).resolve() / STORE
    if not store.is_file():
        Ledger.open(folder)  # says so where there is no run at all
        raise InputError(f"{Path(folder)} has no {STORE}: its run was made without MLflow")
    options = {
        "--backend-store-uri": f"sqlite:///{store}",
        "--default-artifact-root": (store.parent / ARTIFACTS).as_uri(),
        "--host": host,
        "--port": str(port),
        "--workers": "1",  # default 4, each with its own imports
    }
    return [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair), "--no-serve-artifacts"]


def ui_address(folder: str | Path, port: int, host: str = "127.0.0.1") -> str:
    """Where that UI shows the answer: the page of the run; the list of experiments where that can not be told."""
    page = "experiments"
    query = "SELECT r.experiment_id, r.run_uuid FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
    query += "WHERE t.key = 'aot.role' AND r.lifecycle_stage = 'active' ORDER BY r.experiment_id"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(Path(folder) / STORE)) as connection:
        for experiment, run in connection.execute(query):
            page = f"experiments/{experiment}/runs/{run}"  # the last is of the experiment in use, if the folder was ever moved
    return f"http://{host}:{port}/#/{page}?workflowType=machine_learning"  # else the UI opens on its pages for agents


# ---- the description


def note(study: Study, analysis: Values) -> str:
    """Question, answer and verdict table as Markdown, within what MLflow keeps of a description."""
    unit, confidence = analysis.get("unit") or analysis["measure"], study.settings.confidence
    head = f"{_head(study)}\n\n" + (f"**Answer.** {analysis['answer']}\n\n" if analysis.get("answer") else "")
    title = f"| arm | change | difference ({unit}) | {confidence:.0%} interval | seeds | verdict |\n|---|---|---:|---|---:|---|\n"
    margin, measure = f"{study.settings.margin:g}", key_of(analysis["measure"])
    tail = "\n" + READING.format(unit=unit, measure=measure, margin=margin, name=study.name)
    rows = [_row(c) for c in analysis["contrasts"]]
    kept = list(rows)
    more = ""
    while kept and len(head + title + "".join(kept) + more + tail) > LONGEST["note"]:
        kept.pop()
        more = f"| ... and {len(rows) - len(kept)} more in report.html | | | | | |\n"
    return (head + title + "".join(kept) + more + tail)[: LONGEST["note"]]


READING = (
    "*redundant*: the whole interval lies within the margin of {margin} {unit}, declared before the run. *necessary*: it lies above 0, "
    "changing it makes the model worse. *harmful*: it lies below 0, changing it makes the model better. *undecided*: these seeds can not "
    "tell. A difference is the arm minus the reference, in the mean over the same seeds; lower is better.\n\n"
    "**Where to look.** The full report is `report.html` under *Artifacts* of the run `{name}`. Every run below that one is a trial: one "
    "arm under one seed. To see the table above among the runs, choose *Group by* `arm` and the *Columns* `final/difference`, "
    "`final/{measure}` and `aot.verdict`: a group shows the mean over its seeds. `train/...` and `validation/...` are curves; "
    "`aot.outcome` says how a trial ended.\n"
)


def _head(study: Study) -> str:
    return f"**Question.** {study.question or study.name}"


def _row(c: Values) -> str:
    ends = [_text(c[name]) for name in ("from", "to")]
    lists = [text.split(", ") for text in (c["decision"], *ends)]
    if len({len(items) for items in lists}) > 1:  # a value holds a comma itself
        lists = [[c["decision"]], [ends[0]], [ends[1]]]
    change = "; ".join(f"{address}: {a} -> {b}" for address, a, b in zip(*lists, strict=True))
    difference = "-" if c["difference"] is None else f"{c['difference']:+.4f}"
    interval = "-" if c["low"] is None else f"[{c['low']:+.4f}, {c['high']:+.4f}]"
    needed = c.get("seeds_needed")
    more = f" (about {needed} more seed{'s' if needed > 1 else ''})" if needed else ""
    cells = [_arm(c["arm"], c["equalise"]), change, difference, interval, str(c["seeds"]), f"**{c['verdict']}**{more}"]
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |\n"


def _failure(record: Values) -> str:
    trace = record.get("traceback", "")[-6000:]
    return f"**{record['outcome']}**: {record['message'][:1000]}" + (f"\n\n```\n{trace}\n```" if trace else "")


# ---- words for MLflow

_BASE = ("arm", "seed", "phase", "equalise")  # params of every trial
_COST = ("seconds", "parameters", "flops_per_token", "tokens")  # metrics of every finished trial


def key_of(name: str) -> str:
    """A name as MLflow accepts it in a key on every platform: letters, digits, `_`, `-`, `.` and single spaces."""
    words = re.sub(r"[^\w.\- ]", " ", name).split()
    return " ".join(word for word in words if word.strip("."))[: LONGEST["key"]].strip() or "unnamed"


def keys(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A key for each name, no two alike."""
    used, found = {*taken, "learning_rate", "steps"}, {}
    for name in names:
        key = base = key_of(name)
        number = 2
        while key in used:
            key, number = f"{base} {number}", number + 1
        used.add(key)
        found[name] = key
    return found


def _arm(arm: str, equalise: str) -> str:
    return arm if equalise == "none" or arm == REFERENCE else f"{arm} (equal {equalise})"


def _name(trial: Values) -> str:
    return f"{_arm(trial['arm'], trial.get('equalise', 'none'))} seed {trial['seed']}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _line(error: Exception) -> str:
    return " ".join(str(error).split("\n", 1)[0].split())[:300] or type(error).__name__


def _now() -> int:
    return round(1000 * time.time())


def _milliseconds(iso: str) -> int:
    return round(1000 * datetime.datetime.fromisoformat(iso).timestamp())


# ---- mlflow


def _client(store: Path) -> Any:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    for name in ("mlflow", "alembic"):  # after the import, which sets them; what matters reaches the user as our one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return MlflowClient(f"sqlite:///{store}")


def _tags(tags: Values) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(name, str(value)[: LONGEST["tag"]]) for name, value in tags.items()]


def _params(params: Values) -> list[Any]:
    from mlflow.entities import Param

    return [Param(name, _text(value)[: LONGEST["param"]]) for name, value in params.items()]


def _metrics(numbers: Values, when: int) -> list[Any]:
    from mlflow.entities import Metric

    return [Metric(name, float(value), when, 0) for name, value in numbers.items() if _finite(value)]


def _curve(child: _Child, points: Iterable[Values]) -> Iterator[Any]:
    """The metrics of points that are not logged yet: `train_loss` -> `train/loss`, the rest is `validation/...`."""
    from mlflow.entities import Metric

    for point in points:
        step = int(point["step"])
        for name, value in point.items():
            metric = f"train/{key_of(name[6:])}" if name.startswith("train_") else f"validation/{key_of(name)}"
            if name in ("step", "time") or not _finite(value) or (metric, step) in child.points:
                continue
            child.points.add((metric, step))
            yield Metric(metric, float(value), point["time"], step)


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
