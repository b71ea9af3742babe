"""(Architecture, seed) -> record. What goes wrong inside a trial is a result of the trial, never an end of the run.

A trial travels as plain data (`plan` makes it, `run` takes it), so that any process on any machine can run it.
"""

from __future__ import annotations

import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from aotsearch import probe, registry
from aotsearch.architecture import Architecture
from aotsearch.cost import cost
from aotsearch.design import REFERENCE, Arm
from aotsearch.errors import AotsearchError
from aotsearch.ledger import VERSIONS
from aotsearch.model import Model, build
from aotsearch.study import Study
from aotsearch.tasks import Task
from aotsearch.train import Diverged, Grant, Report, evaluate, train

DIAGNOSED = 32  # windows or images of the validation split on which layers are measured


class Stopped(Exception):
    """Raised by a report to end a trial early, on purpose."""


def plan(study: Study, arm: Arm, seed: int, phase: str, rate: float | None = None) -> dict[str, Any]:
    """A trial as plain data. Its key names everything that decides its numbers, so equal keys are never trained twice.

    Args:
        rate: The learning rate, where it is the arm's own.
    """
    architecture, training = arm.architecture, study.training(rate)
    identity = [architecture.digest, seed, study.task.to_plain(), training, phase == "search"]
    return {
        "key": hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16],
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
    """Parameters and FLOPs; a model that can not be built has none, and its trial will say why."""
    try:
        return vars(cost(architecture))
    except Exception:  # noqa: BLE001 (an installed package's part may raise anything)
        return dict.fromkeys(("parameters", "parameters_without_embeddings", "flops_per_token"), 0)


def run(trial: Mapping[str, Any], grant: Grant, report: Report, checkpoints: Path | None = None) -> dict[str, Any]:
    """Train one trial and return its record.

    Args:
        trial: What `plan` made.
        grant: The resources it may use.
        report: Called with every point of the curve; may raise Stopped.
        checkpoints: Folder for the trained weights, one file per trial.
    """
    architecture = Architecture.from_dict(trial["architecture"], trial["decisions"])
    curve: list[dict[str, float]] = []
    started = time.perf_counter()

    def keep(point: dict[str, float]) -> None:
        curve.append(point)
        report(point)

    outcome, message, trace = "done", "", ""
    after: dict[str, Any] = {}
    made_with = environment(grant)
    try:
        model, task = build(architecture, trial["seed"]), load_task(trial)
        made_with["data"] = _manifest(trial, task)
        train(model, task, trial["training"], trial["seed"], grant, keep)
        if checkpoints is not None:
            _save(model, checkpoints / f"{trial['key']}.pt")
        after = _after(model, task, trial, grant)  # raises nothing that an error could be: the trial is trained
    except Diverged as e:
        outcome, message = "diverged", str(e)
    except Stopped as e:
        outcome, message = "stopped", str(e)
    except AotsearchError:
        raise  # the data or the disk, not the trial
    except Exception as e:  # noqa: BLE001 (any other error is the trial's result; SystemExit, by which Ray stops a trial, passes)
        outcome = "out-of-memory" if _out_of_memory(e) else "failed"
        message, trace = _line(e), traceback.format_exc()
        _release(grant)
    return record(trial, outcome, curve) | {
        **after,
        "message": message,
        "traceback": trace,
        "seconds": round(time.perf_counter() - started, 3),
        "device": grant.device.partition(":")[0],
        "precision": grant.precision,
        "threads": grant.threads,
        "environment": made_with,
        "process": os.getpid(),
    }


def environment(grant: Grant) -> dict[str, Any]:
    """What may move a loss in its last digits where two trials do not share it: versions, instruction set, threads, device; with the data,
    which a worker on another machine opens there."""
    amx = [name for name, known in (("bf16", torch.cpu._is_avx512_bf16_supported), ("amx", torch.cpu._is_amx_tile_supported)) if known()]
    return {
        **{name: version for name in VERSIONS if (version := _version(name))},
        "instruction_set": " ".join([torch.backends.cpu.get_cpu_capability(), *amx]),
        "threads": grant.threads,
        "device_name": torch.cuda.get_device_name(grant.device) if grant.device.startswith("cuda") else _processor(),
    }


def _version(package: str) -> str:
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


def _release(grant: Grant) -> None:
    if grant.device != "cpu":
        torch.cuda.empty_cache()


def _after(model: Model, task: Task, trial: Mapping[str, Any], grant: Grant) -> dict[str, Any]:
    """What is measured of a trained model besides its loss: the test split, every layer, every layer removed.

    Whatever goes wrong in one of them, the trial is trained and the others are measured: `unmeasured` says which is missing, and why.
    """
    seed = trial["seed"]

    def test() -> Any:
        return evaluate(model, task, task.test(seed), grant.device)

    def diagnostics() -> Any:
        inputs, targets = (torch.from_numpy(items[:DIAGNOSED]).to(grant.device) for items in task.validation(seed))
        return probe.measure(model, inputs, trial["diagnostics"], lambda m: task.loss(m(inputs), targets))

    def knock_out() -> Any:
        rows = probe.knock_out(model, lambda m: evaluate(m, task, task.validation(seed), grant.device)[task.measure])
        return [dataclasses.asdict(row) for row in rows]

    asked: dict[str, tuple[Any, Callable[[], Any]]] = {
        "test": (trial.get("sealed"), test),
        "diagnostics": (trial.get("diagnostics"), diagnostics),
        "knock_out": (trial.get("knock_out"), knock_out),
    }
    found: dict[str, Any] = {}
    unmeasured: dict[str, str] = {}
    for part, (wanted, measure) in asked.items():
        if not wanted:
            continue
        try:
            with grant.use():
                found[part] = measure()
        except Exception as e:  # noqa: BLE001 (a task or a part of an installed package may raise anything, and memory may run out)
            unmeasured[part] = _line(e)
            _release(grant)
    return found | ({"unmeasured": unmeasured} if unmeasured else {})


def record(trial: Mapping[str, Any], outcome: str, curve: list[dict[str, float]]) -> dict[str, Any]:
    """What is known of a trial from its plan and its curve."""
    measured = [p for p in curve if "loss" in p]
    keep = outcome in ("done", "stopped") and bool(measured)
    steps = int(curve[-1]["step"]) if curve else 0
    context = trial["architecture"]["sizes"].get("context", 1)
    fields: tuple[str, ...] = (
        "key",
        "arm",
        "arms",
        "seed",
        "phase",
        "equalise",
        "resized",
        "digest",
        "decisions",
        "changes",
        "architecture",
        "training",
    )
    fields += ("parameters", "parameters_without_embeddings", "flops_per_token")
    return {
        **{name: trial[name] for name in fields},
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
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


_tasks: dict[str, Any] = {}  # a reused worker opens a task's data once


def load_task(trial: Mapping[str, Any]) -> Any:
    """The task of a trial, opened on this machine."""
    text = json.dumps(trial["task"], sort_keys=True)
    if text not in _tasks:
        ((name, options),) = trial["task"].items()
        _tasks[text] = registry.find("task", name).load()(Path(), **options)
    return _tasks[text]


_manifests: dict[str, str] = {}  # some tasks make their baselines for it, so a reused worker asks once


def _manifest(trial: Mapping[str, Any], task: Task) -> str:
    """What the data of a trial is on this machine: the beginning of its digest."""
    text = json.dumps(trial["task"], sort_keys=True)
    if text not in _manifests:
        _manifests[text] = str(task.prepare()["manifest"])[:12]
    return _manifests[text]


def _save(model: torch.nn.Module, path: Path) -> None:
    """Write weights whole or not at all; a full disk costs the checkpoint, not the trial."""
    made = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, made)
        made.replace(path)
    except (OSError, RuntimeError):  # torch's writer raises RuntimeError where the disk is full
        made.unlink(missing_ok=True)


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
