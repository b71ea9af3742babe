"""What is faster on this machine: short measurements, made once and kept.

They are named by all that they depend on (processor or GPU, instruction set, threads, versions, model, batch), one small file each in the
cache folder. A file that cannot be written or read is measured again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from typing import Any, Literal

from aotsearch.files import written
from aotsearch.grammar.architecture import Architecture
from aotsearch.models.model import build
from aotsearch.tasks import cache
from aotsearch.training import device as devices
from aotsearch.training.device import DeviceSettings
from aotsearch.training.environment import environment
from aotsearch.training.evaluation import evaluate
from aotsearch.training.opened import load_task
from aotsearch.training.rehearsal import step_seconds
from aotsearch.training.schedule import SHORT

REPLICAS = 4  # that are tried
SAME = 0.01  # relative difference of two losses that is rounding
FASTER = 0.9  # of the time: less is no reason to leave the plain way

Seconds = dict[str, float]


def fuses(fuse: int | Literal["auto"], trial: Mapping[str, Any], hardware: DeviceSettings) -> bool:
    """Whether seeds of a trial's model train as one program, by `study.resources.fuse`."""
    return fused_is_faster(trial, hardware) if fuse == "auto" else fuse > 1


def fused_is_faster(trial: Mapping[str, Any], hardware: DeviceSettings) -> bool:
    """Whether several seeds of a trial's model train faster as one program than one after another, from a few steps of `REPLICAS`."""
    training = trial["training"]
    if training["steps"] < SHORT:
        return False

    def measure() -> Seconds:
        architecture = Architecture.from_dict(trial["architecture"])
        models, task = [build(architecture, seed) for seed in range(REPLICAS)], load_task(trial)
        with hardware.use():
            alone = min(step_seconds(models[:1], task, training, hardware, fused=False))
            fused = min(step_seconds(models, task, training, hardware, fused=True)) / REPLICAS
        return {"alone": alone, "fused": fused}

    try:
        found = _kept(("fused", trial["digest"], training["batch"], REPLICAS, hardware.precision(training)), hardware, measure)
    except Exception:  # noqa: BLE001 (a part that cannot be computed for several at once, or memory: the trial itself will say)
        devices.release(hardware.device)
        return False
    return found["fused"] < FASTER * found["alone"]


def usual_precision(trial: Mapping[str, Any], hardware: DeviceSettings) -> str:
    """The precision of trainings that ask for none: on a processor bfloat16 where it has the instructions for it, a step is faster, and the
    loss is that of float32; empty where the device decides."""
    training = trial["training"]
    if hardware.device != "cpu" or training["steps"] < SHORT or not devices.bfloat16_instructions():
        return ""

    def measure() -> Seconds:
        task, found, losses = load_task(trial), {}, []
        for precision in ("float32", "bfloat16"):
            model, wanted = build(Architecture.from_dict(trial["architecture"])), {**training, "precision": precision}
            with hardware.use():
                batch = task.batch(0, 0, training["batch"])
                losses.append(evaluate(model, task, batch, hardware.device, precision)["loss"])
                found[precision] = min(step_seconds([model], task, wanted, hardware, fused=False))
        return found | {"difference": abs(losses[1] / losses[0] - 1)}

    try:
        found = _kept(("precision", trial["digest"], training["batch"]), hardware, measure)
    except Exception:  # noqa: BLE001 (the trial itself will say)
        return ""
    faster = found["bfloat16"] < FASTER * found["float32"] and found["difference"] < SAME
    return "bfloat16" if faster else "float32"


def _kept(key: Any, hardware: DeviceSettings, measure: Callable[[], Seconds]) -> Seconds:
    """What `measure` gives, from this machine's cache where it was measured before."""
    path = cache.folder() / "speed" / f"{cache.digest(key, environment(hardware))[:16]}.json"
    try:
        found: Seconds = json.loads(path.read_text(encoding="utf-8"))
        return found
    except (OSError, ValueError):
        found = measure()
    with contextlib.suppress(OSError), written(path) as made:
        made.write_text(json.dumps(found), encoding="utf-8")
    return found
