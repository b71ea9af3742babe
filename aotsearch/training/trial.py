"""(Architecture, seed) -> record. What goes wrong inside a trial is a result of the trial, never an end of the run.

A trial travels as plain data (`plan` makes it, `run` takes it), so that any process on any machine can run it.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import importlib.metadata
import json
import math
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from aotsearch.diagnostics import probe
from aotsearch.errors import AotsearchError, WordError
from aotsearch.grammar import library
from aotsearch.grammar.architecture import Architecture
from aotsearch.models.cost import cost
from aotsearch.models.model import Model, build
from aotsearch.study.design import REFERENCE, Arm
from aotsearch.study.study import VERSIONS, Study
from aotsearch.tasks import Halved, Task
from aotsearch.training import device as devices
from aotsearch.training.device import DeviceSettings
from aotsearch.training.train import Diverged, Report, evaluate, train

DIAGNOSED = 32  # windows or images of the validation split on which layers are measured
SIZES = ("parameters", "parameters_without_embeddings", "flops_per_token")
NAMED = ("key", "arm", "arms", "seed", "phase", "equalise", "resized", "digest", "decisions", "changes", "architecture", "training")


class Stopped(Exception):
    """Raised by a report to end a trial early, on purpose."""


def plan(study: Study, arm: Arm, seed: int, phase: str, rate: float | None = None) -> dict[str, Any]:
    """A trial as plain data.

    Args:
        rate: The learning rate, where it is the arm's own.
    """
    architecture, training = arm.architecture, study.training(rate)
    return {
        "key": study.key(architecture.digest, seed, training, phase == "search"),
        "arm": arm.name,
        "arms": [arm.name],  # all that are this model: one may be within the tolerance of equal size as it is
        "seed": seed,
        "phase": phase,
        "equalise": arm.equalise,
        "resized": [list(change) for change in arm.resized],
        "digest": architecture.digest,
        "decisions": dict(architecture.decisions),
        "changes": {address: list(pair) for address, pair in arm.changes.items()},
        "architecture": architecture.to_dict(),
        "task": study.task.to_plain(),
        "training": training,
        "sealed": phase in ("design", "confirm"),  # whether the test split is read, once, at the end
        "diagnostics": study.settings.measured if phase in ("design", "confirm") else [],
        "knock_out": study.settings.knock_out and arm.name == REFERENCE and phase in ("design", "confirm"),
        **_counts(architecture),
    }


def plans(study: Study, cells: Iterable[tuple[Arm, int, float | None]], phase: str) -> list[dict[str, Any]]:
    """A trial for each arm, seed and learning rate; arms that are one model share a trial."""
    made: dict[str, dict[str, Any]] = {}
    for arm, seed, rate in cells:
        trial = plan(study, arm, seed, phase, rate)
        first = made.setdefault(trial["key"], trial)
        if arm.name not in first["arms"]:
            first["arms"].append(arm.name)
    return list(made.values())


def _counts(architecture: Architecture) -> dict[str, int]:
    """Parameters and FLOPs; a model that cannot be built has none, and its trial will say why."""
    try:
        return vars(cost(architecture))
    except Exception:  # noqa: BLE001 (an installed package's part may raise anything)
        return dict.fromkeys(SIZES, 0)


def run(trial: Mapping[str, Any], hardware: DeviceSettings, report: Report, checkpoints: Path | None = None) -> dict[str, Any]:
    """Train one trial and return its record.

    Args:
        trial: What `plan` made.
        hardware: The resources it may use.
        report: Called with every point of the curve, once; may raise Stopped.
        checkpoints: Folder for the trained weights, one file per trial.
    """
    curve: list[dict[str, float]] = []
    started, used, told = time.perf_counter(), hardware, 0

    def keep(point: dict[str, float]) -> None:
        nonlocal told
        curve.append(point)
        if len(curve) > told:  # else an attempt before this one has told it
            told = len(curve)
            report(point)

    def attempt(g: DeviceSettings) -> dict[str, Any]:
        nonlocal used
        used = g
        curve.clear()
        devices.begin_peak(g.device)
        made_with["data"] = _manifest(_text(trial))
        return _trained(trial, g, keep, checkpoints)

    outcome, message, trace, lost = "done", "", "", False
    after: dict[str, Any] = {}
    made_with: dict[str, Any] = {}
    try:
        made_with |= environment(hardware)  # which asks the device for its name: one that is full or lost may not answer
        after = devices.alike_if_possible(hardware, attempt)
        lost = bool(after.get("device_lost"))
    except Diverged as e:
        outcome, message = "diverged", str(e)
    except Stopped as e:
        outcome, message = "pruned", str(e)
    except Exception as e:  # any other error is the trial's result; SystemExit, by which Ray stops a trial, passes
        if isinstance(e, AotsearchError) and not isinstance(e, WordError):
            raise  # the data or the disk, not the trial
        outcome, lost = "out-of-memory" if devices.out_of_memory(e) else "failed", devices.lost(e)
        message, trace = _line(e), traceback.format_exc()
    peak = None if lost else devices.peak(hardware.device)
    if not lost and (outcome == "out-of-memory" or devices.is_cuda(hardware.device)):
        devices.release(hardware.device)  # only now: an error holds the model by its traceback
    return record(trial, outcome, curve) | {
        **after,
        "message": message,
        "traceback": trace,
        "seconds": round(time.perf_counter() - started, 3),
        "device": hardware.device.partition(":")[0],
        "precision": hardware.precision(trial["training"]),
        "threads": hardware.threads,
        "deterministic": used.deterministic,
        "peak_memory": peak,
        "environment": made_with,
        "process": os.getpid(),
        **({"device_lost": True} if lost else {}),
    }


def _trained(trial: Mapping[str, Any], hardware: DeviceSettings, report: Report, checkpoints: Path | None) -> dict[str, Any]:
    """Train the model of a trial and return what is measured of it besides its curve; nothing of it is left in memory after."""
    architecture = Architecture.from_dict(trial["architecture"], trial["decisions"])
    model, task = build(architecture, trial["seed"]), load_task(trial)
    curve = train(model, task, trial["training"], trial["seed"], hardware, report)
    if checkpoints is not None:
        _save(model, checkpoints / f"{trial['key']}.pt")
    return _after(model, task, trial, hardware, curve[-1])  # raises nothing that an error could be: the trial is trained


def environment(hardware: DeviceSettings) -> dict[str, Any]:
    """What may move a loss in its last digits where two trials do not share it: versions, instruction set, threads, device; with the data,
    which a worker on another machine opens there."""
    amx = [name for name, known in (("bf16", torch.cpu._is_avx512_bf16_supported), ("amx", torch.cpu._is_amx_tile_supported)) if known()]
    return {
        **{name: found for name in VERSIONS if (found := version(name))},
        "instruction_set": " ".join([torch.backends.cpu.get_cpu_capability(), *amx]),
        "threads": hardware.threads,
        "device_name": torch.cuda.get_device_name() if devices.is_cuda(hardware.device) else _processor(),
    }


def version(package: str) -> str:
    """The version of a package; empty where it is not installed."""
    if package == "aotsearch":  # what is installed to be edited keeps the version that it was installed with
        return str(sys.modules["aotsearch"].__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from its source
        return ""


@functools.cache
def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        lines = []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor() or platform.machine()
    )


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


def _after(model: Model, task: Task, trial: Mapping[str, Any], hardware: DeviceSettings, last: Mapping[str, float]) -> dict[str, Any]:
    """What is measured of a trained model besides its loss: the test split, every layer, every layer removed; and where the task's source
    has validation and test as one, the measures over both, for comparison with published numbers.

    Whatever goes wrong in one of them, the trial is trained and the others are measured: `unmeasured` says which is missing, and why.
    """
    seed, precision = trial["seed"], hardware.precision(trial["training"])

    def test() -> Any:
        return evaluate(model, task, task.test(seed), hardware.device, precision)

    def diagnostics() -> Any:
        inputs, targets = (devices.put(items[:DIAGNOSED], hardware.device) for items in task.validation(seed))
        return probe.measure(model, inputs, trial["diagnostics"], lambda m: task.loss(m(inputs), targets))

    def knock_out() -> Any:
        validation = task.validation(seed)
        rows = probe.knock_out(model, lambda m: evaluate(m, task, validation, hardware.device, precision)[task.measure])
        return [dataclasses.asdict(row) for row in rows]

    def whole_validation() -> Any:
        whole = task.whole_validation(last, found["test"]) if isinstance(task, Halved) and "test" in found else {}
        return whole if all(map(math.isfinite, whole.values())) else {}

    asked: dict[str, tuple[Any, Callable[[], Any]]] = {
        "test": (trial.get("sealed"), test),
        "whole_validation": (trial.get("sealed"), whole_validation),
        "diagnostics": (trial.get("diagnostics"), diagnostics),
        "knock_out": (trial.get("knock_out"), knock_out),
    }
    found: dict[str, Any] = {}
    unmeasured: dict[str, str] = {}
    for part, (wanted, measure) in asked.items():
        if not wanted:
            continue
        try:
            with hardware.use():
                found[part] = measure()
        except Exception as e:  # a task or a part of an installed package may raise anything, and memory may run out
            if devices.unlike(e):
                raise
            unmeasured[part] = _line(e)
            if devices.lost(e):
                return {**found, "unmeasured": unmeasured, "device_lost": True}
            devices.release(hardware.device)
    if not found.get("whole_validation", True):  # the source has two splits
        del found["whole_validation"]
    return found | ({"unmeasured": unmeasured} if unmeasured else {})


def record(trial: Mapping[str, Any], outcome: str, curve: list[dict[str, float]]) -> dict[str, Any]:
    """What is known of a trial from its plan and its curve."""
    measured = [p for p in curve if "loss" in p]
    keep = outcome in ("done", "pruned") and bool(measured)
    steps = int(curve[-1]["step"]) if curve else 0
    context = trial["architecture"]["sizes"].get("context", 1)
    return {
        **{name: trial[name] for name in (*NAMED, *SIZES)},
        "outcome": outcome,
        "measures": {k: v for k, v in measured[-1].items() if k not in ("step", "train_loss")} if keep else {},
        "curve": curve,
        "learning_rate": trial["training"]["learning_rate"],
        "steps": steps,
        "tokens": steps * trial["training"]["batch"] * context,
        "host": platform.node(),
        "device": "",  # not known where a worker was stopped or lost; `run` knows
        "precision": "",
        "threads": 0,
        "peak_memory": None,
        "finished": now(),
    }


def now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def load_task(trial: Mapping[str, Any]) -> Any:
    """The task of a trial, opened on this machine; a reused worker opens its data once."""
    return _task(_text(trial))


def _text(trial: Mapping[str, Any]) -> str:
    return json.dumps(trial["task"], sort_keys=True)


@functools.cache
def _task(text: str) -> Any:
    ((name, options),) = json.loads(text).items()
    return library.find("task", name).make(Path(), **options)


@functools.cache  # some tasks make their baselines for it
def _manifest(text: str) -> str:
    """What the data of a trial is on this machine: the beginning of its digest."""
    return str(_task(text).prepare().get("manifest", ""))[:12]


def _save(model: torch.nn.Module, path: Path) -> None:
    """Write weights whole or not at all; a full disk costs the checkpoint, not the trial."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, made)
        made.replace(path)
    except (OSError, RuntimeError):  # torch's writer raises RuntimeError where the disk is full
        made.unlink(missing_ok=True)
