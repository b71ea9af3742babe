"""What a worker of Ray does: it trains a bundle of trials, and reports. Workers are reused, and may be on any machine of a cluster."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Mapping
from typing import Any

from aotsearch.errors import AotsearchError
from aotsearch.running.hearing import share_of
from aotsearch.running.work import Trial, on_the_way


def trainable(config: dict[str, Any]) -> None:
    """Run a bundle of trials inside a Ray worker; each report carries the points since the last, and the records that are known."""
    import ray
    from ray import tune

    from aotsearch.training import device as devices
    from aotsearch.training import trial as trials

    # what was granted decides, not what the machine has: without a grant of one Ray does not hide the GPUs (ray#54928)
    on_gpu = bool(ray.get_gpu_ids())  # of those that are granted the first is `cuda`, whatever its number on the machine
    share = share_of(config) if on_gpu else 1.0
    hardware = devices.DeviceSettings(config["threads"], "cuda" if on_gpu else "cpu", share, config["usual"])
    checkpoints = dataclasses.replace(config["checkpoints"], memory=_memory(config))
    points: list[tuple[str, Mapping[str, float]]] = []
    before: dict[str, Mapping[str, Any]] = {}  # by key, what the record of one that the scheduler stops has from before training
    evaluations = itertools.count(1)

    def report(trial: Trial, point: Mapping[str, float], recalled: bool = False, known: Any = None) -> None:
        points.append((trial["key"], point))
        if known:
            before[trial["key"]] = known
        if on_the_way(trial, point):
            told = {"points": list(points), "known": dict(before)}
            tell({**told, "loss": point["loss"], "evaluation": next(evaluations), "recalled": recalled})
            points.clear()

    def tell(result: Mapping[str, Any]) -> None:
        try:
            tune.report(result)
        except SystemExit as e:
            raise _StoppedByRay from e

    try:
        for record in trials.run_together(config["bundle"], hardware, report, checkpoints, config["fuse"]):
            tell({"points": list(points), "record": record, "loss": record["measures"].get("loss", float("inf"))})
            points.clear()
            if record.get("device_lost"):
                raise RuntimeError("this process can compute no more; the next trial gets a new one")
    except _StoppedByRay as e:
        raise SystemExit from e
    except AotsearchError as e:  # the data or the disk failed, not a trial
        tune.report({"ends": str(e), "loss": float("inf")})


def _memory(config: Mapping[str, Any]) -> float | None:
    """Bytes that this process may take."""
    from aotsearch.training.environment import memory_limit

    return memory_limit(config["memory"], max(1, min(config["together"], _places(config["threads"]))))


@functools.cache
def _places(cpus: int) -> int:
    """How many trials this machine has processors for: each of its raylets grants its own."""
    import ray

    nodes, mine = [node for node in ray.nodes() if node["Alive"]], ray.get_runtime_context().get_node_id()
    here = {node["NodeManagerAddress"] for node in nodes if node["NodeID"] == mine}
    return sum(int(node["Resources"].get("CPU", 0) // cpus) for node in nodes if node["NodeManagerAddress"] in here)


class _StoppedByRay(BaseException):
    """Ray stops a trial by SystemExit in its report; one that a part of a model raises is an outcome."""
