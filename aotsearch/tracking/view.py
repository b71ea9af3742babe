"""The MLflow view of a run, written beside it from the ledger's events: `DIR/mlflow.db` and `DIR/artifacts`.

    experiment = the study;  parent run = this run folder, with the verdicts;  child run = one trial (arm x seed)

Only the driver writes, from one thread and in batches, so SQLite is never locked by us and no worker imports mlflow. The view can
always be made again from the ledger, so a failure here is a warning and never ends a run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import queue
import socket
import sqlite3
import sys
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from aotsearch.errors import InputError, RunError
from aotsearch.evidence.declaration import STUDY_FILE, history
from aotsearch.evidence.ledger import Ledger
from aotsearch.study.study import Study
from aotsearch.tracking import layout
from aotsearch.tracking.client import ENVIRONMENT as CLIENT
from aotsearch.tracking.client import Values, milliseconds, now
from aotsearch.tracking.glance import ARTIFACTS, FILE
from aotsearch.tracking.store import Store

__all__ = ["ENVIRONMENT", "Tracker", "rebuild", "required_port", "ui_addresses", "ui_command"]

GATHER = 5.0  # seconds in which events gather, so that they are written together: a write costs 15 ms of a processor that trains
PATIENCE = 60.0  # seconds that close() waits for the last writes
HURRY = 4.0  # the same where the run was interrupted: who asks for that may kill after ten seconds
ENVIRONMENT = CLIENT | {"PYTHONWARNINGS": "ignore"}  # of the UI: its packages warn of each other
TRIES = 3  # failures in a row after which the view is left for a later rebuild

Job = Callable[[Store], Any]

log = logging.getLogger("aotsearch")


class Tracker:
    """Writes the view of one run folder.

    Every method returns at once; one thread does the writing, and imports mlflow. None of them raises what MLflow raises. What was said
    before close() is written by then, however the run ended; where it is not, the ledger has it.

    Args:
        folder: The run folder.
        study: Its study.
        command: The command line, for the parent run.
        ahead: Modules that are imported after mlflow, before anything waits for them.
        store: Its store, where that is open; else a line says whether it cannot be.
    """

    def __init__(self, folder: str | Path, study: Study, command: str, ahead: Sequence[str] = (), store: Store | None = None):
        self.ahead = ahead
        self.folder = Path(folder).resolve()
        self._open: Callable[[], Store] = functools.partial(_opened, self.folder, study, command) if store is None else lambda: store
        self._lost = False  # whether there is no store
        self._failures = 0  # since the last batch that was written
        self._ending: Job | None = None
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._hurry, self._ready = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._work, name="mlflow-view", daemon=True)
        self._thread.start()

    # ---- what the scheduler says

    def started(self, trial: Values) -> None:
        """A trial began (again)."""
        known = dict(trial)
        self._say(lambda store: store.start(known))

    def progress(self, key: str, point: Values) -> None:
        """A trial measured a point of its curve."""
        timed = {**point, "time": now()}
        self._say(lambda store: store.point(key, timed))

    def finished(self, record: Values) -> None:
        """A trial ended; the record is as the ledger holds it."""
        known = dict(record)
        self._say(lambda store: store.finish(known))

    def publish(self, analysis: Values, summary: str, files: Sequence[Path], study_yaml: Path) -> None:
        """Show what the records say: effects and verdicts, the description, and the files of the report."""
        self._say(lambda store: store.publish(analysis, summary, [*files, study_yaml]))

    def ready(self) -> None:
        """Wait until the store is open, or is known not to be, and all is imported: two threads that import what they share may be
        refused by Python as a deadlock."""
        self._ready.wait(PATIENCE)

    def close(self, status: str = "FINISHED", end: int | None = None) -> None:
        """Write what is left and end the parent run.

        Args:
            status: FINISHED, KILLED or FAILED.
            end: When the run ended, in milliseconds; now by default.
        """
        if self._ending is not None:
            return
        self._ending = lambda store: store.end(status, end)
        self._say(Store.flush)  # wakes the thread
        self._hurry.set()
        self._thread.join(patience := PATIENCE if status == "FINISHED" else HURRY)
        if self._thread.is_alive():
            log.warning("MLflow still writes after %.0f s and is left behind; `aotsearch ui` completes its view from the ledger", patience)

    def _say(self, job: Job) -> None:
        if not self._lost:
            self._queue.put(job)

    # ---- the thread

    def _work(self) -> None:
        try:
            self._store = self._open()
        except RunError as e:
            self._lost = True
            log.warning("MLflow is not written: %s; the ledger is, and `aotsearch ui` makes the view later", e)
            return
        finally:
            for name in self.ahead:
                importlib.import_module(name)
            self._ready.set()
        self._attempt(Store.sync)
        while self._ending is None or not self._queue.empty():
            jobs = [self._queue.get()]
            self._hurry.wait(GATHER)
            with contextlib.suppress(queue.Empty):
                while True:
                    jobs.append(self._queue.get_nowait())
            for job in [*jobs, Store.flush]:
                self._attempt(job)
        self._failures = min(self._failures, TRIES - 1)  # even a view given up should not look alive for ever
        self._attempt(self._ending)

    def _attempt(self, job: Job) -> None:
        if self._failures >= TRIES:  # each further try might wait 20 s for a locked file
            return
        before = self._store.writes
        try:
            job(self._store)
        except Exception as e:  # noqa: BLE001 (a view must not end a run)
            self._failures = 1 if self._store.writes > before else self._failures + 1
            rest = "is given up" if self._failures >= TRIES else "is incomplete"
            log.warning("MLflow's view %s (%s); the run goes on, and `aotsearch ui` completes the view from the ledger", rest, _line(e))
        else:
            self._failures = 0 if self._store.writes > before else self._failures


def _opened(folder: Path, study: Study, command: str) -> Store:
    """The store of a run folder.

    Raises:
        RunError: it cannot be opened or made.
    """
    # of mlflow and sqlalchemy about each other; not for a while only, since filters are those of every thread
    warnings.filterwarnings("ignore", module=r"(mlflow|sqlalchemy|alembic)(\.|$)")
    try:
        return Store(folder, study, command)
    except RunError:
        raise
    except Exception as e:  # noqa: BLE001 (mlflow, sqlalchemy, alembic and sqlite3 each have their own)
        remedy = "free space, or remove it, and it is made again from the ledger"
        raise RunError(f"{folder / FILE}: MLflow cannot use it ({_line(e)}); {remedy}") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split("\n", 1)[0].split())[:300] or type(error).__name__


# ---- the UI


def rebuild(folder: str | Path, analysis: Values | None = None, summary: str = "", files: Sequence[Path] = ()) -> Path:
    """Make or complete the view of a run folder from its ledger, and publish an analysis where one is given.

    Returns:
        The store.

    Raises:
        InputError: the folder holds no run, or a process writes to it.
        RunError: the store cannot be opened or made.
    """
    ledger = Ledger.open(folder)
    with ledger.lock():
        events = list(ledger.events())
        command = next((e["command"] for e in reversed(events) if e["event"] == "run"), "")
        study = history(ledger).study
        store = _opened(Path(folder).resolve(), study, command)
        tracker = Tracker(folder, study, command, store=store)
        try:
            if analysis is not None:
                tracker.publish(analysis, summary, files, Path(folder) / STUDY_FILE)
        finally:
            partial = analysis is not None and analysis.get("partial", False)
            ends = [milliseconds(e["finished"]) for e in events if e["event"] == "finished"]
            tracker.close("KILLED" if partial else "FINISHED", max(ends, default=None))
    return Path(folder) / FILE


def ui_command(folder: str | Path, port: int, host: str = "127.0.0.1") -> list[str]:
    """The command line of the MLflow UI on a run's store; run it with `ENVIRONMENT` added to the environment. It prints errors to standard
    error; what it says to standard output is of no use.

    Raises:
        InputError: the folder has no store.
    """
    store = Path(folder).resolve() / FILE
    if not store.is_file():
        Ledger.open(folder)  # says so where there is no run at all
        raise InputError(f"{Path(folder)} has no {FILE}: its run was made without MLflow")
    options = {
        "--backend-store-uri": f"sqlite:///{store}",
        "--default-artifact-root": (store.parent / ARTIFACTS).as_uri(),
        "--host": host,
        "--port": str(port),
        "--workers": "1",  # default 4, each with its own imports
        "--uvicorn-opts": "--log-level error",  # else a line for each request
    }
    return [sys.executable, "-m", "mlflow", "server", *(word for pair in options.items() for word in pair), "--no-serve-artifacts"]


def required_port(port: int, host: str = "127.0.0.1") -> None:
    """
    Raises:
        InputError: a server cannot listen there.
    """
    with socket.socket() as found:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a connection that ended there is no matter
        try:
            found.bind((host, port))
        except OSError as e:
            raise InputError(f"port {port} of {host}: {e.strerror}; name another that is free, as --port {_free(host)}") from None


def _free(host: str) -> int:
    with socket.socket() as found:
        found.bind((host, 0))
        return int(found.getsockname()[1])


def ui_addresses(folder: str | Path, port: int, host: str = "127.0.0.1") -> dict[str, str]:
    """The pages of that UI: runs and curves by arm, and factors; the list of experiments where these cannot be told."""
    pages = {"MLflow": "#/experiments?workflowType=machine_learning"}
    query = "SELECT r.experiment_id FROM runs r JOIN tags t ON t.run_uuid = r.run_uuid "
    query += "WHERE t.key = 'aot.role' AND r.lifecycle_stage = 'active' ORDER BY r.experiment_id"
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(Path(folder) / FILE)) as connection:
        for (experiment,) in connection.execute(query):  # the last is of the experiment in use, if the folder was ever moved
            first, *rest = layout.pages(experiment).items()
            pages = {"MLflow": first[1], **dict(rest)}
    return {name: f"http://{host}:{port}/{page}" for name, page in pages.items()}
