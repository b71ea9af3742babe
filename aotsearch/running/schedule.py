"""Trials -> finished records, through Ray Tune or in this process; the only file that imports ray.

Both executors take the same two kinds of work, a list of trials or a search for new ones, and tell the same observer what happens.
Ray workers are reused between trials, so that a short trial costs no start-up. Nothing is restored from Ray: the ledger is.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from aotsearch.errors import InputError, RunError
from aotsearch.running.rungs import Rungs
from aotsearch.study.study import Resources

Trial = dict[str, Any]
Record = dict[str, Any]

# Read by Ray when it is imported, here and in its workers. Each has its reason.
ENVIRONMENT = {
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # else every worker is started through `uv run` (ray#53060)
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths keep their meaning
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the ledger is the log
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the run at once; what is finished is in the ledger
    "TUNE_FORCE_TRIAL_CLEANUP_S": "30",  # default 600
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "60",  # reuse of a busy actor fails after 2 s otherwise (ray#29268)
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # nothing is restored from it
}


class Observer(Protocol):
    """What the run learns while trials are executed, always called in the driver."""

    def started(self, trial: Trial) -> None: ...
    def point(self, trial: Trial, point: Mapping[str, float]) -> None: ...
    def finished(self, record: Record) -> None: ...


@dataclass(frozen=True)
class Search:
    """Trials that are made as results come in.

    Attributes:
        proposals: The trials, each made when it is asked for.
        tell: Hears what became of each, before the observer does.
        rungs: Which of them are stopped early.
        measure: What the rungs compare.
    """

    proposals: Iterator[Trial]
    tell: Callable[[Record], None]
    rungs: Rungs
    measure: str


@dataclass(frozen=True)
class Work:
    """What to execute: trials to run, or a search."""

    trials: Sequence[Trial] = ()
    search: Search | None = None


def run_local(work: Work, observer: Observer, device: str, threads: int, checkpoints: Path) -> None:
    """Execute in this process, one trial after another; neither Ray nor MLflow is needed."""
    from aotsearch.training import trial as trials
    from aotsearch.training.device import Grant

    grant = Grant(threads, device)
    if work.search is None:
        for trial in work.trials:
            observer.started(trial)
            record = trials.run(trial, grant, lambda p, t=trial: observer.point(t, p), checkpoints)  # type: ignore[misc]
            observer.finished(record)
            _stop_if_lost(record)
        return
    for proposal in work.search.proposals:
        observer.started(proposal)
        record = trials.run(proposal, grant, _stopping(work.search, proposal, observer), checkpoints)
        work.search.tell(record)
        observer.finished(record)
        _stop_if_lost(record)


def _stop_if_lost(record: Record) -> None:
    """In this process nothing can be computed after a device was lost; what is finished is kept."""
    if record.get("device_lost"):
        why = record["message"] or [*record["unmeasured"].values()][-1]  # it was lost in training, or by what is measured after
        raise RunError(f"the device was lost ({why}); run the same command again to go on with the next trial")


def _stopping(search: Search, trial: Trial, observer: Observer) -> Callable[[Mapping[str, float]], None]:
    """A report that ends the trial where the rungs say so."""
    from aotsearch.training import trial as trials

    evaluation = 0

    def report(point: Mapping[str, float]) -> None:
        nonlocal evaluation
        observer.point(trial, point)
        if search.measure in point and point["step"] < trial["training"]["steps"]:
            evaluation += 1
            reason = search.rungs.reach(trial["digest"], evaluation, point[search.measure])
            if reason:
                raise trials.Stopped(reason)

    return report


class Cluster:
    """A Ray cluster for the time of a run: one started on this machine, or one that runs already."""

    def __init__(self, address: str | None, workers: int | None, resources: Resources):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise InputError("running through Ray needs the package ray; `pip install 'ray[tune]'`, or give --local") from None
        self._ray = ray
        logging.getLogger("ray").setLevel(logging.ERROR)
        cpus, here = resources.cpus, os.cpu_count() or 1
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
        if address is None:
            from aotsearch.training.device import gpus_here

            if not resources.room(here, gpus_here()):
                raise InputError(resources.lack(here, gpus_here()))
            wanted = (workers or here // cpus) * cpus
            quiet |= {"num_cpus": wanted, "num_gpus": gpus_here(), "include_dashboard": False, "object_store_memory": 128 << 20}
        try:
            ray.init(address=address or "local", **quiet)
        except Exception as e:  # noqa: BLE001 (connection, configuration and start-up errors of many kinds)
            raise RunError(f"Ray did not start at {address or 'this machine'}: {' '.join(str(e).split())[:300]}") from None
        try:
            self._size(workers, resources)
        except InputError:
            self.close()
            raise

    def _size(self, workers: int | None, resources: Resources) -> None:
        has = self._ray.cluster_resources()
        cpus, gpus = has.get("CPU", 0), has.get("GPU", 0)
        self.cpus, self.gpus = resources.cpus, resources.share(gpus)
        room = resources.room(cpus, gpus)
        if not room:
            raise InputError(resources.lack(cpus, gpus))
        self.workers = min(workers or room, room)

    def close(self) -> None:
        self._ray.shutdown()

    def run(self, work: Work, observer: Observer, checkpoints: Path) -> None:
        """Execute on the cluster, `workers` trials at a time.

        Raises:
            RunError: Ray itself failed; what finished is with the observer.
        """
        from ray import tune

        reasons: dict[str, str] = {}  # why trials were stopped, by key
        scratch = tempfile.mkdtemp(prefix="aotsearch-")
        config: dict[str, Any] = {"threads": self.cpus, "share": self.gpus, "checkpoints": str(checkpoints)}
        if work.search is None:
            config["trial"] = tune.grid_search(list(work.trials))
        tuner = tune.Tuner(
            tune.with_resources(_trainable, {"cpu": self.cpus, "gpu": self.gpus}),
            param_space=config,
            tune_config=tune.TuneConfig(
                search_alg=None if work.search is None else _searcher(work.search),
                scheduler=None if work.search is None else _scheduler(work.search, reasons),
                num_samples=1 if work.search is None else -1,  # a search says itself when it ends
                max_concurrent_trials=self.workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(storage_path=scratch, name="run", verbose=0, callbacks=[_callback(work, observer, reasons)]),
        )
        try:
            tuner.fit()
        except (InputError, RunError):
            raise
        except Exception as e:  # noqa: BLE001 (Tune wraps whatever went wrong in errors of its own)
            raise RunError(f"Ray Tune stopped: {' '.join(str(e).split())[:300]}; run the same command again to continue") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _trainable(config: dict[str, Any]) -> None:
    """Run one trial inside a Ray worker; each report carries the points since the last, the last one the record."""
    import ray
    from ray import tune

    from aotsearch.training import trial as trials
    from aotsearch.training.device import Grant

    trial = config["trial"]
    # what was granted decides, not what the machine has: without a grant Ray does not hide the GPUs (ray#54928)
    on_gpu = bool(ray.get_gpu_ids())  # of those that are granted the first is `cuda`, whatever its number on the machine
    grant = Grant(config["threads"], "cuda" if on_gpu else "cpu", config["share"] if on_gpu else 1.0)
    points: list[Mapping[str, float]] = []
    evaluations = 0

    def report(point: Mapping[str, float]) -> None:
        nonlocal evaluations
        points.append(point)
        if "loss" in point and point["step"] < trial["training"]["steps"]:
            evaluations += 1
            tune.report({"points": list(points), "loss": point["loss"], "evaluation": evaluations})
            points.clear()

    record = trials.run(trial, grant, report, Path(config["checkpoints"]))
    tune.report({"points": list(points), "record": record, "loss": record["measures"].get("loss", float("inf"))})
    if record.get("device_lost"):
        raise RuntimeError("this process can compute no more; the next trial gets a new one")


def _callback(work: Work, observer: Observer, reasons: Mapping[str, str]) -> Any:
    from ray import tune

    from aotsearch.training import trial as trials

    class Callback(tune.Callback):  # type: ignore[misc]
        """Tells the observer; a trial that ends without a record was stopped by the scheduler or lost with its worker."""

        def __init__(self) -> None:
            self.curves: dict[str, list[Mapping[str, float]]] = {}
            self.done: set[str] = set()

        def __reduce__(self) -> Any:
            return object, ()  # Tune pickles its parts for a restore that is never made

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self.curves[trial.trial_id] = []
            observer.started(trial.config["trial"])

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
            plan = trial.config["trial"]
            for point in result.get("points", ()):
                self.curves[trial.trial_id].append(point)
                observer.point(plan, point)
            if "record" in result:
                self._finish(trial, result["record"])

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self._end(trial, "stopped", reasons.get(trial.config["trial"]["key"], "stopped"))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self._end(trial, "failed", "the worker was lost: " + " ".join(str(trial.get_error() or "").split())[-300:])

        def _end(self, trial: Any, outcome: str, message: str) -> None:
            if trial.trial_id not in self.done:
                record = trials.record(trial.config["trial"], outcome, list(self.curves.get(trial.trial_id, ())))  # type: ignore[arg-type]
                self._finish(trial, record | {"message": message})

        def _finish(self, trial: Any, record: Record) -> None:
            self.done.add(trial.trial_id)
            if work.search is not None:
                work.search.tell(record)
            observer.finished(record)

    return Callback()


def _scheduler(search: Search, reasons: dict[str, str]) -> Any:
    from ray.tune.schedulers import FIFOScheduler

    class Halving(FIFOScheduler):  # type: ignore[misc]
        """Ray's view of the rungs."""

        def __reduce__(self) -> Any:
            return object, ()  # as above

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            plan = trial.config["trial"]
            if "evaluation" in result:  # on the way; the last one comes with the record
                reason = search.rungs.reach(plan["digest"], result["evaluation"], result["points"][-1][search.measure])
                if reason:
                    reasons[plan["key"]] = reason
                    return str(self.STOP)
            return str(self.CONTINUE)

    return Halving()


def _searcher(search: Search) -> Any:
    from ray.tune.search import Searcher

    class Searching(Searcher):  # type: ignore[misc]
        """Ray's view of the search: what came of a proposal is told by the callback, which hears of every result."""

        def __init__(self) -> None:
            super().__init__(metric="loss", mode="min")

        def __reduce__(self) -> Any:
            return object, ()  # as above

        def suggest(self, trial_id: str) -> Any:
            trial = next(search.proposals, None)
            return Searcher.FINISHED if trial is None else {"trial": trial}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            raise AssertionError("runs continue from the ledger")

    return Searching()
