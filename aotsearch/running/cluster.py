"""Trials -> finished records through Ray Tune; the only file that imports ray.

Workers are reused between trials, so that a short trial costs no start-up. Nothing is restored from Ray: the ledger is.
"""

from __future__ import annotations

import dataclasses
import gc
import importlib
import logging
import os
import sys
import sysconfig
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aotsearch.errors import InputError, RunError, one_line
from aotsearch.running import connection
from aotsearch.running.hearing import callback, said, scheduler, searcher, share_of
from aotsearch.running.session import Session, scratch
from aotsearch.running.shipping import workers_environment
from aotsearch.running.work import Observer, Trial, Work
from aotsearch.running.worker import trainable
from aotsearch.study.settings import Resources
from aotsearch.surroundings import required_folder, say
from aotsearch.training.checkpoint import Checkpoints
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
    """A Ray cluster for the time of a run: one started on this machine, or one that runs already. Where this process is connected to one,
    that is used, and left as it is.

    Args:
        lost: Told, in another thread, when a process of a Ray that was started here died.
    """

    def __init__(self, address: str | None, workers: int | None, resources: Resources, lost: Callable[[str], None] = lambda why: None):
        for name, value in (ENVIRONMENT | (connection.joining() if address else {})).items():
            os.environ.setdefault(name, value)
        try:
            import ray
        except ImportError:
            raise InputError("running through Ray needs the package ray; `pip install 'ray[tune]'`, or give --local") from None
        self._ray, self._joined = ray, ray.is_initialized()
        if self._joined:
            address = address or "auto"
        elif address is not None:
            connection.required_answer(address)
        required_folder()
        logging.getLogger("ray").setLevel(logging.CRITICAL)  # what failed is an outcome, which we tell
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False, "configure_logging": False}
        if address is None:
            cpus, gpus = processors(), _gpus_here()
            resources.required_room(cpus, gpus)
            wanted = (workers or cpus // resources.cpus) * resources.cpus
            quiet |= {"num_cpus": wanted, "num_gpus": gpus, "include_dashboard": False, "object_store_memory": 128 << 20}
            quiet["runtime_env"] = {"env_vars": _variables(resources.cpus) | _paths()}
            os.environ |= connection.token()
            quiet |= {"_temp_dir": place} if (place := connection.temporary()) else {}
        else:
            quiet["runtime_env"] = workers_environment(_variables(resources.cpus))
        if address is None or "://" not in address:
            quiet["job_config"] = connection.job(ray.job_config.JobConfig)
        try:
            ahead = threading.Thread(target=importlib.import_module, args=("aotsearch.training.trial",), daemon=True)
            ahead.start()  # what plans trials, with torch: while Ray's own processes start there is nothing else to do here
            if not self._joined:
                ray._private.worker.print_to_stdstream = _brief  # by which pages of a raylet's log come to the terminal
                ray.init(address=address or "local", **quiet)
            ahead.join()
        except Exception as e:  # noqa: BLE001 (connection, configuration and start-up errors of many kinds)
            remedy = f"; {connection.TOKEN}" if address and isinstance(e, ConnectionError) else ""
            raise RunError(f"Ray did not start at {address or 'this machine'}: {said(e)[:300]}{remedy}") from None
        node = getattr(ray._private.worker, "_global_node", None)  # None where this process speaks to the cluster through another
        self._session = Session(None if address else node, lost, connection.reach(node) if address and not self._joined else None)
        try:
            has = ray.cluster_resources()
            room = resources.required_room(has.get("CPU", 0), has.get("GPU", 0))
        except InputError:
            self.close()
            raise
        self.fuse, self.cpus, self.gpus = resources.fuse, resources.cpus, resources.share(has.get("GPU", 0))
        self._grows = workers is None and address is not None  # with a cluster that does
        self._losses: Counter[str] = Counter()  # of workers, by the key of the trial
        self.memory, self._crowded = resources.memory, set[str]()  # keys of trials that had no memory beside others
        self.workers, self.on_gpu, self.address, self.usual = min(workers or room, room), self.gpus > 0, address, ""
        places, cards = int(has.get("CPU", 0) // self.cpus), int(has.get("GPU", 0))
        self.places = min(workers or places, places)  # that the processors have, and were asked for
        self.cards = cards if resources.gpus == "auto" else 0  # GPUs that trials may share as it is best

    def close(self) -> None:
        self._session.stop()
        if not self._joined:
            gc.collect()  # what Tune left in circles speaks to Ray when it is freed, and amid a shutdown that ends the process
            self._ray.shutdown()
        self._session.close()

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
            raise RunError(f"no worker of Ray answers: {said(e)[-300:]}") from None
        return found

    def run(self, work: Work, observer: Observer, checkpoints: Checkpoints) -> None:
        """Execute on the cluster, `workers` trials at a time, or more where they share GPUs. What a shared GPU had no memory for is
        trained again, alone on a whole one, before it is told; what a machine had no memory for, alone on the cluster; what was lost with
        its worker, a few times.

        Raises:
            RunError: Ray itself failed; what finished is with the observer.
        """
        again = self._fit(work, observer, checkpoints, self.gpus, self._shares(work.bundles))
        while again:
            crowded = [trial for trial in again if trial["key"] in self._crowded]
            now = [trial for trial in again if trial["key"] not in self._crowded] or crowded
            alone = Work([[trial] for trial in now])
            if work.search is not None:
                alone = Work(search=dataclasses.replace(work.search, proposals=iter(now)))
            whole = float(self.gpus > 0)
            if now is crowded:
                again = self._fit(alone, observer, checkpoints, whole, {}, together=1)
            else:
                again = crowded + self._fit(alone, observer, checkpoints, whole, {})

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

    def _fit(
        self, work: Work, observer: Observer, checkpoints: Checkpoints, gpus: float, shares: Mapping[str, float], together: int = 0
    ) -> list[Trial]:
        """Execute, each bundle on its share of a GPU, by default `gpus`, so many `together`; returns the trials that are to be trained
        again, which the observer is not told of: there was no memory for them beside others, or their worker was lost."""
        from ray import tune
        from ray.air._internal import usage

        search = work.search
        reasons: dict[str, str] = {}  # why trials were stopped, by key
        again: list[Trial] = []
        config: dict[str, Any] = {"threads": self.cpus, "share": gpus, "shares": dict(shares), "usual": self.usual}
        together = together or (self.places if shares else self.workers)
        config |= {"checkpoints": checkpoints, "fuse": 1, "memory": self.memory, "together": together}
        if search is None:
            config |= {"bundle": tune.grid_search(list(work.bundles)), "fuse": self.fuse}

        crowded = self._crowded if together > 1 and self.memory == "auto" else None
        heard = callback(work, observer, reasons, again, self._losses, checkpoints.folder, crowded)

        def granted(config: Mapping[str, Any]) -> Any:
            return tune.PlacementGroupFactory([{"CPU": self.cpus, "GPU": share_of(config)}])

        self._session.keep(checkpoints.folder)
        with scratch(checkpoints.folder) as place:
            tuner = tune.Tuner(
                tune.with_resources(trainable, granted if shares else {"cpu": self.cpus, "gpu": gpus}),
                param_space=config,
                tune_config=tune.TuneConfig(
                    search_alg=search and searcher(search),
                    scheduler=search and scheduler(search, reasons),
                    num_samples=-1 if search else 1,  # a search says itself when it ends
                    max_concurrent_trials=None if self._grows and together == self.workers and search is None else together,
                    reuse_actors=True,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    storage_path=place,
                    name="run",
                    verbose=0,
                    callbacks=[heard],
                ),
            )
            usage.tag_callbacks = lambda _: None  # it imports MLflow, while trials wait, to count what it is forbidden to send
            try:
                tuner.fit()
            except (InputError, RunError):
                raise
            except Exception as e:  # noqa: BLE001 (Tune wraps whatever went wrong in errors of its own)
                if heard.ended:
                    raise RunError(heard.ended) from None
                self._session.wait()  # Tune may notice before the watch that Ray died
                raise RunError(f"Ray Tune stopped: {said(e)[:300]}; run the same command again to continue") from None
        return again


def _variables(threads: int) -> dict[str, str]:
    """That every worker has."""
    variables = {name: value for name, value in os.environ.items() if name in ENVIRONMENT}
    variables["OMP_NUM_THREADS"] = str(threads)  # numpy's products ask for as many, too
    variables["MALLOC_ARENA_MAX"] = "1"  # every trial is a new thread, and each left holes in another arena: 10 MB more with every trial
    return variables


def _paths() -> dict[str, str]:
    """By which workers on this machine import from where it lies for the driver."""
    home, installed = str(Path(__file__).parents[2]), sysconfig.get_paths()
    paths = [home] if home not in (installed["purelib"], installed["platlib"]) else []  # there it is found, after Python's own library
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {"PYTHONPATH": os.pathsep.join(paths)} if paths else {}


def _brief(data: Mapping[str, Any], **_: Any) -> None:
    """Tell what Ray says of its nodes, in one line."""
    line = " ".join(data.get("lines") or [""]).strip().partition("\n")[0]
    say(f"Ray: {one_line(line)[:200]}")


def _gpus_here() -> int:
    """How many GPUs trials can compute on; torch, whose import takes seconds, is asked only where the machine may have one."""
    if sys.platform == "linux" and not any(path for name in ACCELERATORS for path in Path("/dev").glob(name)):
        return 0
    from aotsearch.training.device import gpus_here

    return gpus_here()
