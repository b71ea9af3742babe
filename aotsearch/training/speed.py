"""What is faster on this machine: short measurements, made once and kept.

They are named by all that they depend on (processor or GPU, instruction set, threads, versions, model, batch), one small file each in the
cache folder. A file that cannot be written or read is measured again.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Callable, Mapping
from typing import Any

from aotsearch.grammar.architecture import Architecture
from aotsearch.models.model import build
from aotsearch.tasks import Task, cache
from aotsearch.training import device as devices
from aotsearch.training.device import DeviceSettings
from aotsearch.training.environment import environment
from aotsearch.training.schedule import SHORT
from aotsearch.training.train import step_seconds

REPLICAS = 4  # that are tried
FASTER = 0.95  # of the time: less is no reason to leave the plain way

Seconds = dict[str, float]


def fused_is_faster(trial: Mapping[str, Any], hardware: DeviceSettings, load: Callable[[Mapping[str, Any]], Task]) -> bool:
    """Whether several seeds of a trial's model train faster as one program than one after another; asked of `REPLICAS`, whatever their
    number, so that a trial has the numbers to the last bit that it has in other company."""
    training = trial["training"]
    if training["steps"] < SHORT:
        return False

    def measure() -> Seconds:
        architecture = Architecture.from_dict(trial["architecture"])
        models, task = [build(architecture, seed) for seed in range(REPLICAS)], load(trial)
        with hardware.use():
            alone = statistics.median(step_seconds(models[:1], task, training, hardware, fused=False))
            fused = statistics.median(step_seconds(models, task, training, hardware, fused=True)) / REPLICAS
        return {"alone": alone, "fused": fused}

    try:
        found = _kept(("fused", trial["digest"], training["batch"], REPLICAS, hardware.precision(training)), hardware, measure)
    except Exception:  # noqa: BLE001 (a part that cannot be computed for several at once, or memory: the trial itself will say)
        devices.release(hardware.device)
        return False
    return found["fused"] < FASTER * found["alone"]


def _kept(key: Any, hardware: DeviceSettings, measure: Callable[[], Seconds]) -> Seconds:
    """What `measure` gives, from this machine's cache where it was measured before."""
    path = cache.folder() / "speed" / f"{cache.digest(key, environment(hardware))[:16]}.json"
    try:
        found: Seconds = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        found = measure()
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        made.write_text(json.dumps(found), encoding="utf-8")
        made.replace(path)
    except OSError:
        made.unlink(missing_ok=True)
    return found
