"""Trials -> finished records through Ray Tune; the only file that imports ray.

Workers are reused between trials, so that a short trial costs no start-up. Nothing is restored from Ray: the ledger is.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import logging
import os
import shutil
import sys
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aotsearch.errors import AotsearchError, InputError, RunError
from aotsearch.running.work import Observer, Record, Search, Trial, Work, on_the_way
from aotsearch.study.settings import Resources
from aotsearch.training.environment import processors

if TYPE_CHECKING:
    from aotsearch.training.device import DeviceSettings

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
    "RAY_enable_worker_prestart": "0",  # those would lack what Tune asks for, and stand idle while others are started
    "RAY_prestart_worker_first_driver": "0",
}
ACCELERATORS = ("nvidia*", "nvhost*", "nvmap", "kfd", "dxg")  # of /dev: NVIDIA's cards, its boards, AMD's cards, either under Windows


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
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
        if address is None:
            cpus, gpus = processors(), _gpus_here()
            resources.required_room(cpus, gpus)
            wanted = (workers or cpus // resources.cpus) * resources.cpus
            quiet |= {"num_cpus": wanted, "num_gpus": gpus, "include_dashboard": False, "object_store_memory": 128 << 20}
            quiet |= {"runtime_env": _workers_environment(resources.cpus)}
        try:
            ahead = threading.Thread(target=importlib.import_module, args=("aotsearch.training.trial",), daemon=True)
            ahead.start()  # what plans trials, with torch: while Ray's own processes start there is nothing else to do here
            ray.init(address=address or "local", **quiet)
            ahead.join()
        except Exception as e:  # noqa: BLE001 (connection, configuration and start-up errors of many kinds)
            raise RunError(f"Ray did not start at {address or 'this machine'}: {_said(e)[:300]}") from None
        try:
            has = ray.cluster_resources()
            room = resources.required_room(has.get("CPU", 0), has.get("GPU", 0))
        except InputError:
            self.close()
            raise
        self.fuse, self.cpus, self.gpus = resources.fuse, resources.cpus, resources.share(has.get("GPU", 0))
        self.workers, self.on_gpu, self.address, self.usual = min(workers or room, room), self.gpus > 0, address, ""
        places, cards = int(has.get("CPU", 0) // self.cpus), int(has.get("GPU", 0))
        self.places = min(workers or places, places)  # that the processors have, and were asked for
        self.cards = cards if resources.gpus == "auto" else 0  # GPUs that trials may share as it is best

    def close(self) -> None:
        self._ray.shutdown()

    @property
    def hardware(self) -> DeviceSettings:
        """What a trial is granted."""
        from aotsearch.training.device import DeviceSettings

        return DeviceSettings(self.cpus, "cuda" if self.gpus else "cpu", self.gpus or 1.0, self.usual)

    def environment(self) -> dict[str, Any]:
        """What a worker trains with: asked of one where it may be another machine, or has a GPU, of which the driver wants no memory.

        Raises:
            RunError: no worker answers.
        """
        from aotsearch.training.environment import environment

        if self.address is None and not self.gpus:
            return environment(self.hardware)
        asked = self._ray.remote(num_cpus=self.cpus, num_gpus=self.gpus)(environment)
        try:
            found: dict[str, Any] = self._ray.get(asked.remote(self.hardware))
        except Exception as e:  # noqa: BLE001 (whatever went wrong in the worker)
            raise RunError(f"no worker of Ray answers: {_said(e)[-300:]}") from None
        return found

    def run(self, work: Work, observer: Observer, checkpoints: Path) -> None:
        """Execute on the cluster, `workers` trials at a time, or more where they share GPUs. What a shared GPU had no memory for is
        trained again, alone on a whole one, before it is told.

        Raises:
            RunError: Ray itself failed; what finished is with the observer.
        """
        crowded = self._fit(work, observer, checkpoints, self.gpus, self._shares(work.bundles))
        if crowded:
            alone = Work([[trial] for trial in crowded])
            if work.search is not None:
                alone = Work(search=dataclasses.replace(work.search, proposals=iter(crowded)))
            self._fit(alone, observer, checkpoints, 1.0, {})

    def _shares(self, bundles: Sequence[Sequence[Trial]]) -> dict[str, float]:
        """The key of the first trial of a bundle -> the part of a GPU that it is granted, where that is left to us and company may pay.

        The largest bundle is measured by a worker that has a whole GPU; the others are judged by it and by their sizes. Nothing here ends a
        run: what cannot be measured trains alone.
        """
        if len(bundles) <= self.cards or self.places <= self.cards or not self.cards:
            return {}
        from aotsearch.training import packing

        try:
            sizes = {bundle[0]["key"]: packing.needs(bundle, self.fuse) for bundle in bundles}
            largest = max(bundles, key=lambda bundle: sizes[bundle[0]["key"]])
            measure = self._ray.remote(num_cpus=self.cpus, num_gpus=1, max_calls=1)(packing.probe)  # then its process is gone
            found = self._ray.get(measure.remote(largest, self.hardware, self.fuse))
        except Exception:  # noqa: BLE001 (a part of an installed package, or the worker)
            return {}
        if found is None:
            return {}
        most = max(sizes.values())
        return {key: packing.share(found, size / most, len(bundles), self.places, self.cards) for key, size in sizes.items()}

    def _fit(self, work: Work, observer: Observer, checkpoints: Path, gpus: float, shares: Mapping[str, float]) -> list[Trial]:
        """Execute, each bundle on its share of a GPU, by default `gpus`; returns the trials that a shared one had no memory for, which the
        observer is not told of."""
        from ray import tune
        from ray.air._internal import usage

        search = work.search
        reasons: dict[str, str] = {}  # why trials were stopped, by key
        crowded: list[Trial] = []
        ended: list[str] = []  # what ends the run, as a worker says it
        scratch = tempfile.mkdtemp(prefix="aotsearch-")
        config: dict[str, Any] = {"threads": self.cpus, "share": gpus, "shares": dict(shares), "usual": self.usual}
        config |= {"checkpoints": str(checkpoints), "fuse": 1}
        if search is None:
            config |= {"bundle": tune.grid_search(list(work.bundles)), "fuse": self.fuse}

        def granted(config: Mapping[str, Any]) -> Any:
            return tune.PlacementGroupFactory([{"CPU": self.cpus, "GPU": _share(config)}])

        tuner = tune.Tuner(
            tune.with_resources(_trainable, granted if shares else {"cpu": self.cpus, "gpu": gpus}),
            param_space=config,
            tune_config=tune.TuneConfig(
                search_alg=search and _searcher(search),
                scheduler=search and scheduler(search, reasons),
                num_samples=-1 if search else 1,  # a search says itself when it ends
                max_concurrent_trials=self.places if shares else self.workers,
                reuse_actors=True,
                trial_dirname_creator=lambda trial: trial.trial_id,
            ),
            run_config=tune.RunConfig(
                storage_path=scratch, name="run", verbose=0, callbacks=[_callback(work, observer, reasons, crowded, ended)]
            ),
        )
        usage.tag_callbacks = lambda _: None  # it imports MLflow, while trials wait, to count what it is forbidden to send
        try:
            tuner.fit()
        except (InputError, RunError):
            raise
        except Exception as e:  # noqa: BLE001 (Tune wraps whatever went wrong in errors of its own)
            if ended:
                raise RunError(ended[0]) from None
            raise RunError(f"Ray Tune stopped: {_said(e)[:300]}; run the same command again to continue") from None
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return crowded


def _workers_environment(threads: int) -> dict[str, Any]:
    """Of the workers, which import from where it lies for the driver."""
    home, installed = str(Path(__file__).parents[2]), sysconfig.get_paths()
    paths = [home] if home not in (installed["purelib"], installed["platlib"]) else []  # there it is found, after Python's own library
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    variables = {name: value for name, value in os.environ.items() if name in ENVIRONMENT}
    variables |= {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}
    variables |= {"OMP_NUM_THREADS": str(threads)}  # numpy's products ask for as many, too
    variables["MALLOC_ARENA_MAX"] = "1"  # every trial is a new thread, and each left holes in another arena: 10 MB more with every trial
    return {"env_vars": variables}


def _gpus_here() -> int:
    """How many GPUs trials can compute on; torch, whose import takes seconds, is asked only where the machine may have one."""
    if sys.platform == "linux" and not any(path for name in ACCELERATORS for path in Path("/dev").glob(name)):
        return 0
    from aotsearch.training.device import gpus_here

    return gpus_here()


def _said(error: Exception | None) -> str:
    return " ".join(str(error or "").split())


def _share(config: Mapping[str, Any]) -> float:
    """The part of a GPU that a bundle is granted."""
    return float(config["shares"].get(config["bundle"][0]["key"], config["share"]))


def _trainable(config: dict[str, Any]) -> None:
    """Run a bundle of trials inside a Ray worker; each report carries the points since the last, and the records that are known."""
    import ray
    from ray import tune

    from aotsearch.training import device as devices
    from aotsearch.training import trial as trials

    # what was granted decides, not what the machine has: without a grant of one Ray does not hide the GPUs (ray#54928)
    on_gpu = bool(ray.get_gpu_ids())  # of those that are granted the first is `cuda`, whatever its number on the machine
    share = _share(config) if on_gpu else 1.0
    hardware = devices.DeviceSettings(config["threads"], "cuda" if on_gpu else "cpu", share, config["usual"])
    points: list[tuple[str, Mapping[str, float]]] = []
    evaluations = itertools.count(1)

    def report(trial: Trial, point: Mapping[str, float]) -> None:
        points.append((trial["key"], point))
        if on_the_way(trial, point):
            tune.report({"points": list(points), "loss": point["loss"], "evaluation": next(evaluations)})
            points.clear()

    try:
        for record in trials.run_together(config["bundle"], hardware, report, Path(config["checkpoints"]), config["fuse"]):
            tune.report({"points": list(points), "record": record, "loss": record["measures"].get("loss", float("inf"))})
            points.clear()
            if record.get("device_lost"):
                raise RuntimeError("this process can compute no more; the next trial gets a new one")
    except AotsearchError as e:  # the data or the disk failed, not a trial
        tune.report({"ends": str(e), "loss": float("inf")})


def _callback(work: Work, observer: Observer, reasons: Mapping[str, str], crowded: list[Trial], ended: list[str]) -> Any:
    from ray import tune

    class Callback(tune.Callback):  # type: ignore[misc]
        """Tells the observer; a trial that ends without a record was stopped by the scheduler or lost with its worker."""

        def __init__(self) -> None:
            self.curves: dict[str, list[Mapping[str, float]]] = {}
            self.plans: dict[str, Trial] = {}  # of trials that have no record yet

        def __reduce__(self) -> Any:
            return object, ()  # Tune pickles its parts for a restore that is never made

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            for plan in trial.config["bundle"]:
                self.plans[plan["key"]], self.curves[plan["key"]] = plan, []
                observer.started(plan)

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
            if "ends" in result:
                ended.append(result["ends"])
                raise RunError(ended[0])
            for key, point in result.get("points", ()):
                self.curves[key].append(point)
                observer.point(self.plans[key], point)
            if "record" not in result:
                return
            record = result["record"]
            if record["outcome"] == "out-of-memory" and 0 < _share(trial.config) < 1:
                crowded.append(self.plans.pop(record["key"]))
            else:
                self._finish(record)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self._end(trial, "pruned", lambda key: reasons.get(key, "pruned"))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self._end(trial, "failed", lambda _: f"the worker was lost: {_said(trial.get_error())[-300:]}")

        def _end(self, trial: Any, outcome: str, message: Callable[[str], str]) -> None:
            from aotsearch.training.trial import record

            for plan in trial.config["bundle"]:
                if (key := plan["key"]) in self.plans:
                    known = record(plan, outcome, list(self.curves.get(key, ())))  # type: ignore[arg-type]
                    self._finish(known | {"message": message(key)})

        def _finish(self, record: Record) -> None:
            del self.plans[record["key"]]
            if work.search is not None:
                work.search.tell(record)
            observer.finished(record)

    return Callback()


def scheduler(search: Search, reasons: dict[str, str]) -> Any:
    """Ray's view of the rungs; why a trial was stopped goes into `reasons`, by its key."""
    from ray.tune.schedulers import FIFOScheduler

    class Halving(FIFOScheduler):  # type: ignore[misc]
        """The rungs."""

        def __reduce__(self) -> Any:
            return object, ()  # as above

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            (plan,) = trial.config["bundle"]
            # what comes without a number is the last one, with the record
            if "evaluation" in result and (reason := search.stop(plan, result["evaluation"], result["points"][-1][1])):
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
            return Searcher.FINISHED if trial is None else {"bundle": [trial]}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            raise AssertionError("runs continue from the ledger")

    return Searching()
