"""One MLflow store, `DIR/mlflow.db` with `DIR/artifacts`: experiment, parent run, a child run per trial.

What a page says is decided in `wording`; when it is written, in `view`; `client` speaks to mlflow. Methods here raise what MLflow raises.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aotsearch.errors import RunError
from aotsearch.evidence.declaration import fingerprint, history
from aotsearch.evidence.ledger import Ledger
from aotsearch.evidence.tables import arms_of, tokens_per_second
from aotsearch.study.design import REFERENCE
from aotsearch.study.study import Study
from aotsearch.tracking import client, layout, wording
from aotsearch.tracking.client import Values
from aotsearch.tracking.glance import ARTIFACTS, FILE, FINISHED, KEY, ROLE, SHOWN
from aotsearch.tracking.wording import BASE, COST, LONGEST, finite, keys, plain

STATUS = {"done": "FINISHED", "pruned": "KILLED"}  # every other outcome is FAILED; the tag aot.outcome says which

log = logging.getLogger("aotsearch")

NOTE, NAME, PARENT = "mlflow.note.content", "mlflow.runName", "mlflow.parentRunId"
TABLES, EFFECTS = "mlflow.loggedArtifacts", "effects.json"  # of the parent: which of its artifacts are shown as tables
SOURCE = {"mlflow.source.name": "aotsearch", "mlflow.source.type": "LOCAL"}
CLASSIC = {"mlflow.experimentKind": "custom_model_development"}  # else the UI asks which kind it is, and may guess agents


@dataclass
class Child:
    """What the store holds of one trial."""

    run: str
    record: str = ""  # `finished` of the ledger record it shows; empty while it runs
    params: set[str] = field(default_factory=set)
    points: set[tuple[str, int]] = field(default_factory=set)  # (metric, step)
    published: dict[str, Any] = field(default_factory=dict)


class Store:
    """The store of one run folder; what it takes is described at `view.Tracker`.

    Raises:
        RunError: MLflow cannot open a store there.
    """

    def __init__(self, folder: Path, study: Study, command: str):
        self.folder, self.study = folder, study
        self.writes = 0
        self.children: dict[str, Child] = {}
        self._inputs: list[Any] = []
        self._points: dict[str, list[Values]] = {}  # waiting for the next batch
        self._factors = keys(study.space.decisions(), taken=(*BASE, *COST))
        self._mixed = layout.mixed_factors(study)
        path = folder / FILE
        if set("%?") & set(str(path)):
            raise RunError(f"{path}: MLflow cannot open a store below a folder with '%' or '?' in its name")
        folder.mkdir(parents=True, exist_ok=True)
        if path.exists() and (damaged := client.set_aside(path)) is not None:
            log.warning("MLflow's store was damaged: it is kept as %s, and made again from the ledger", damaged)
        if not path.exists():
            client.make(path)
        with contextlib.closing(sqlite3.connect(path, timeout=20)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")  # readers (the UI) and the writer do not wait for each other; commits are cheaper
        self._client = client.client(path)
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
            self._client.rename_experiment(found.experiment_id, f"{self.study.name} before {client.now()}")
            self._client.delete_experiment(found.experiment_id)
        tags = {**CLASSIC, NOTE: wording.head(self.study)}
        return str(self._client.create_experiment(self.study.name, artifact_location=place, tags=tags))

    def _find_parent(self, command: str) -> str:
        tags = {"aot.study": self.study.digest, "aot.command": command[: LONGEST["tag"]]}
        found = self._client.search_runs([self._experiment], "tags.`aot.role` = 'study'", max_results=1)
        if found and any(name.startswith("effect/") for name in found[0].data.metrics):  # of an earlier version: a wall of charts
            self._client.delete_run(found[0].info.run_id)
        elif found:
            run = str(found[0].info.run_id)
            self._client.update_run(run, status="RUNNING")
            self._write(run, tags=client.tags(tags))
            return run
        first = next((e for e in Ledger(self.folder).events() if e["event"] == "run"), None)
        start = client.milliseconds(first["started"]) if first else client.now()
        tags |= {ROLE: "study", NOTE: wording.head(self.study), **SOURCE}
        run = str(self._client.create_run(self._experiment, start, tags, self.study.name).info.run_id)
        s = self.study.settings
        facts = {"design": s.design, "equalise": s.equalise, "margin": s.margin, "confidence": s.confidence, "steps": s.budget.steps}
        self._write(run, params=client.params(facts))
        return run

    def _write(self, run: str, metrics: Sequence[Any] = (), params: Sequence[Any] = (), tags: Sequence[Any] = ()) -> None:
        self._client.log_batch(run, metrics, params, tags, synchronous=True)  # which itself cuts it into pieces that MLflow takes
        self.writes += 1

    # ---- children

    def sync(self) -> None:
        """Make the children equal to the ledger: nothing twice, nothing left running, nothing missing."""
        self._lay_out()
        ledger = Ledger(self.folder)
        everything = ledger.records()
        records = {r["key"]: r for r in history(ledger).place(everything.values())}
        for run in self._client.search_runs([self._experiment], "tags.`aot.key` != ''", max_results=50_000):
            tags, key = run.data.tags, run.data.tags[KEY]
            child = Child(run.info.run_id, tags.get(FINISHED, ""), set(run.data.params), published={**tags, **run.data.metrics})
            if key in self.children or (key in everything and not _shows(child, records.get(key))):
                self._client.delete_run(child.run)  # it shows an earlier try, or part of one, or has a name that now is another's
                continue
            self.children[key] = child
            if run.info.status in ("RUNNING", "SCHEDULED"):
                self._end_child(child, records[key]) if child.record else self._interrupt(child)
            if tags.get(PARENT) != self._parent:
                self._client.set_tag(child.run, PARENT, self._parent)
        for record in records.values():
            self.finish(record)

    def start(self, trial: Values, start: int | None = None) -> Child:
        """A trial began (again)."""
        self._points.pop(trial["key"], None)
        earlier = self.children.pop(trial["key"], None)
        if earlier is not None:  # another try of the same trial: params cannot be changed, and curves would mix
            self._client.delete_run(earlier.run)
        tags = {f"aot.{name}": plain(trial[name]) for name in ("key", "arm", "seed", "phase", "digest", "equalise") if name in trial}
        tags |= {"aot.study": self.study.digest, PARENT: self._parent, **SOURCE}
        name = wording.run_name(trial, self.study.settings.tuning is not None)
        run = self._client.create_run(self._experiment, start, tags, name)
        child = self.children[trial["key"]] = Child(run.info.run_id)
        self._write(child.run, params=client.params(self._facts(trial, child)))
        self._read(child.run)
        return child

    def _read(self, run: str) -> None:
        """Log the data of the study as what a run read, once they are known."""
        if not self._inputs:
            event = next((e for e in Ledger(self.folder).events() if e["event"] == "data" and e.get("manifest")), None)
            self._inputs = client.inputs(wording.data(self.study, event)) if event else []
        if self._inputs:
            self._client.log_inputs(run, self._inputs)

    def _facts(self, trial: Values, child: Child) -> dict[str, Any]:
        """The params of a trial that are not logged yet; every child has every factor, since the UI drops runs that lack one."""
        training = {"steps": self.study.settings.budget.steps, **trial.get("training", {})}
        decisions = trial.get("decisions", {})
        facts = {name: trial[name] for name in BASE if name in trial}
        values = {address: decisions.get(address, "-") for address in self._factors}
        facts |= {self._factors[a]: layout.spelled(value) if a in self._mixed else value for a, value in values.items()}
        facts |= {"learning_rate": trial.get("learning_rate", training.get("learning_rate")), "steps": training["steps"]}
        facts |= {"parameters": trial.get("parameters")}
        fresh = {name: value for name, value in facts.items() if value is not None and name not in child.params}
        child.params |= fresh.keys()
        return fresh

    def point(self, key: str, point: Values) -> None:
        """A trial measured a point of its curve, with its `time` in milliseconds; it is written by the next `flush`."""
        self._points.setdefault(key, []).append(point)

    def flush(self) -> None:
        for key in list(self._points):
            points, child = self._points.pop(key), self.children.get(key)
            if child is not None and not child.record:
                self._write(child.run, list(client.curve(points, child.points)))

    def finish(self, record: Values) -> None:
        """A trial ended: all that is known of it in one batch. What it scored on the test split is the parent's alone."""
        end = client.milliseconds(record["finished"])
        start = end - round(1000 * record.get("seconds", 0))
        child = self.children.get(record["key"])
        if child is not None and child.record == record["finished"]:
            return
        if child is None or child.record or "aot.outcome" in child.published:
            child = self.start(record, start)
        last = max((p["step"] for p in record["curve"]), default=1) or 1  # an untrained model has its only point at step 0
        points: list[Values] = [{**p, "time": start + round((end - start) * p["step"] / last)} for p in record["curve"]]
        points += self._points.pop(record["key"], [])
        finals = {f"final/{name}": value for name, value in record["measures"].items()}
        finals |= {f"hint/{name}": value for name, value in (record.get("hints") or {}).items()}
        finals |= {name: record[name] for name in COST if name in record} | {"tokens_per_second": tokens_per_second(record)}
        metrics = [*client.curve(points, child.points), *client.metrics(finals, end), *client.layers(record, end)]
        tags = {"aot.outcome": record["outcome"], FINISHED: record["finished"]}
        if record.get("message"):
            tags |= {"aot.message": record["message"], NOTE: wording.failure(record)}
        if record.get("cached"):
            tags["aot.cached"] = "; ".join(f"{name}: {value}" for name, value in record["origin"].items())
        if record.get("unmeasured"):
            tags |= {"aot.unmeasured": "; ".join(f"{part}: {reason}" for part, reason in record["unmeasured"].items())}
        params = client.params(self._facts(record, child))
        self._write(child.run, metrics, params, client.tags(tags))
        self._end_child(child, record)
        child.record = record["finished"]

    def _end_child(self, child: Child, record: Values) -> None:
        """After all else of a trial: a driver that is killed before has left it open, and the next one ends it."""
        self._client.set_terminated(child.run, STATUS.get(record["outcome"], "FAILED"), client.milliseconds(record["finished"]))

    def _interrupt(self, child: Child) -> None:
        child.published["aot.outcome"] = "interrupted"
        self._client.set_tag(child.run, "aot.outcome", "interrupted")
        self._client.set_terminated(child.run, "KILLED")

    # ---- the parent

    def publish(self, analysis: Values, summary: str, files: Sequence[Path]) -> None:
        """Effects, verdicts and description on the parent, the report as its artifacts, verdicts on the children."""
        made_from = fingerprint(Ledger(self.folder))
        numbers, tags = wording.facts(analysis)
        text = wording.note(self.study, analysis, self._links())
        tags |= {NOTE: text, TABLES: json.dumps([{"path": EFFECTS, "type": "table"}])}
        self._write(self._parent, client.metrics(numbers, client.now()), (), client.tags(tags))
        self._client.set_experiment_tag(self._experiment, NOTE, text)
        self._lay_out(numbers)
        self._client.log_text(self._parent, json.dumps(wording.effects(analysis)), EFFECTS)
        self._read(self._parent)
        self._mark_children(analysis)
        for path in files:
            if path.is_dir():
                self._client.log_artifacts(self._parent, str(path), path.name)
            elif path.is_file():
                folder = "figures" if path.suffix in (".png", ".pdf") else None
                self._client.log_artifact(self._parent, str(path), folder)
        if summary:
            self._client.log_text(self._parent, summary, "summary.txt")
        self._write(self._parent, tags=client.tags({SHOWN: made_from}))  # last: only then it is all there

    def _lay_out(self, parent: Iterable[str] = ()) -> None:
        """Give the experiment its views; `parent` are metrics that the parent run alone has."""
        tags = self._client.get_experiment(self._experiment).tags
        for name, value in layout.views(self.study, self._factors, parent).items():
            if tags.get(name) != value:
                self._client.set_experiment_tag(self._experiment, name, value)

    def _links(self) -> str:
        return "Views: " + ", ".join(f"[{name}]({address})" for name, address in layout.pages(self._experiment).items())

    def _mark_children(self, analysis: Values) -> None:
        """Give each trial its arm's verdict and its own paired difference, so that the table alone, grouped by arm, shows the effects."""
        verdicts, measure = wording.child_verdicts(analysis), analysis["measure"]
        ledger = Ledger(self.folder)
        judged = {r["key"]: r for r in history(ledger).place(ledger.records().values()) if r["phase"] in ("design", "confirm")}
        done = {key: r for key, r in judged.items() if r["outcome"] == "done" and finite(r["measures"].get(measure))}
        base = {(r["phase"], r["seed"]): r["measures"][measure] for r in done.values() if r["arm"] == REFERENCE}
        for key, child in self.children.items():
            record = judged.get(key)
            if record is None:
                continue
            rate = wording.rate_of(record, analysis)
            said = {"aot.verdict": next((v for arm in arms_of(record) if (v := verdicts.get((arm, rate)))), None)}
            said |= {"aot.rate": rate} if analysis.get("learning_rates") else {}
            pair = base.get((record["phase"], record["seed"]))
            if key in done and pair is not None:
                said["final/difference"] = record["measures"][measure] - pair
            fresh = {name: value for name, value in said.items() if value is not None and child.published.get(name) != value}
            if fresh:
                tags = {name: value for name, value in fresh.items() if isinstance(value, str)}
                metrics = client.metrics({n: v for n, v in fresh.items() if n not in tags}, client.now())
                self._write(child.run, metrics, (), client.tags(tags))
                child.published |= fresh

    def end(self, status: str, end: int | None) -> None:
        for child in self.children.values():
            if not child.record and "aot.outcome" not in child.published:
                self._interrupt(child)
        self._client.set_terminated(self._parent, status, end)
        with contextlib.closing(sqlite3.connect(self.folder / FILE, timeout=0)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # at rest the whole view is in one file, unless the UI reads it now


def _shows(child: Child, record: Values | None) -> bool:
    """Whether a child is what the study now says of its trial; None where it has no arm that is this model."""
    return record is not None and child.record == record["finished"] and child.published.get("aot.arm") == record["arm"]
