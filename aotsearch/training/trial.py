"""(Architecture, seed) -> record. What goes wrong inside a trial is a result of the trial, never an end of the run.

A trial travels as plain data (`plan` makes it, `run` takes it), so that any process on any machine can run it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import os
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from aotsearch.diagnostics import hints, probe
from aotsearch.errors import AotsearchError, RunError, WordError, first_line
from aotsearch.files import digest, written
from aotsearch.grammar.architecture import Architecture
from aotsearch.models.cost import cost
from aotsearch.models.model import build
from aotsearch.study.design import REFERENCE, Arm
from aotsearch.study.sampling import SIZES
from aotsearch.study.study import Study
from aotsearch.tasks import Halved, Task
from aotsearch.training import choice, watch
from aotsearch.training import device as devices
from aotsearch.training.checkpoint import Checkpoints, Keeper, drop, weights_of
from aotsearch.training.device import DeviceSettings
from aotsearch.training.environment import environment, now
from aotsearch.training.evaluation import evaluate
from aotsearch.training.opened import load_task, manifest
from aotsearch.training.train import Diverged, Member, Point, Report, Stopped, train_together

DIAGNOSED = 32  # windows or images of the validation split on which layers are measured
Trial = dict[str, Any]
Record = dict[str, Any]
Ending = tuple[str, dict[str, Any]]  # the outcome of a trained trial, and what its record says beside it
NAMED = ("key", "arm", "arms", "seed", "phase", "equalise", "resized", "digest", "decisions", "changes", "architecture", "training")


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
        "manifest": study.manifest,
        "training": training,
        "sealed": phase in ("design", "confirm"),  # whether the test split is read, once, at the end
        "diagnostics": study.settings.measured_in(phase),
        "hints": study.settings.hinted_in(phase),
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


def run(trial: Trial, hardware: DeviceSettings, report: Report, checkpoints: Checkpoints | None = None) -> Record:
    """Train one trial and return its record.

    Args:
        trial: What `plan` made.
        hardware: The resources it may use.
        report: Called with every point of the curve, once, or with those before an interruption again, as `recalled`; may raise Stopped.
            With the first point it is told what the record has from before training, as `known`, where that is anything.
        checkpoints: Where its trained weights go, and its state while it trains; what is there of it already is where it goes on.
    """
    return _ended([_Teller(trial, report)], hardware, checkpoints, fused=False)[0]


def run_together(
    bundle: Sequence[Trial],
    hardware: DeviceSettings,
    report: Callable[..., None],
    checkpoints: Checkpoints | None = None,
    fuse: int | Literal["auto"] = 1,
) -> Iterator[Record]:
    """Train trials of one architecture that differ in seed or learning rate alone, and give each record as it is known.

    They are one program of at most `fuse` replicas, or where it is `auto` one of as many as they are, if that is faster on this machine;
    those that memory has no room for in half the company, and each as it is where a part cannot be computed for several at once.

    Raises:
        AotsearchError: the data or the disk failed, not a trial.
    """
    told = [functools.partial(report, trial) for trial in bundle]
    if choice.fuses(fuse, bundle[0], hardware):
        most = len(bundle) if fuse == "auto" else fuse
        tellers = list(map(_Teller, bundle, told))
        for i in range(0, len(bundle), most):
            yield from _fused(tellers[i : i + most], hardware, checkpoints)
    else:
        for trial, heard in zip(bundle, told, strict=True):
            yield run(trial, hardware, heard, checkpoints)


def _fused(tellers: list[_Teller], hardware: DeviceSettings, checkpoints: Checkpoints | None) -> Iterator[Record]:
    """The records of trials trained as one program; in halves where they do not fit, each as it is where that goes wrong for all."""
    records = _ended(tellers, hardware, checkpoints, fused=True)
    wrong = {r["outcome"] for r in records} & {"out-of-memory", "failed"}
    if not wrong or records[0].get("device_lost"):
        yield from records
    elif "out-of-memory" in wrong and len(tellers) > 1:
        middle = len(tellers) // 2
        for half in (tellers[:middle], tellers[middle:]):
            yield from _fused(half, hardware, checkpoints)
    else:
        for teller in tellers:
            yield _ended([teller], hardware, checkpoints, fused=False)[0]


class _Teller:
    """A trial whose points are told once, however often it is tried, and what is `known` before the first."""

    def __init__(self, trial: Trial, report: Report):
        self.trial, self.report, self.told = trial, report, 0
        self.curve: list[Point] = []
        self.known: dict[str, Any] = {}

    def keep(self, point: Point, **recalled: bool) -> None:
        self.curve.append(point)
        if len(self.curve) > self.told:  # else an attempt before this one has told it
            known = {"known": self.known} if self.known and not self.told else {}
            self.told = len(self.curve)
            self.report(point, **recalled, **known)


def _ended(tellers: list[_Teller], hardware: DeviceSettings, checkpoints: Checkpoints | None, fused: bool) -> list[Record]:
    """The records of trials that are trained together; what goes wrong for all of them is the outcome of each."""
    bundle, n = [t.trial for t in tellers], len(tellers)
    started, used = time.perf_counter(), hardware
    made_with: dict[str, Any] = {}
    path = watch.path_of(checkpoints.folder, bundle[0]["key"]) if checkpoints is not None else None

    def attempt(g: DeviceSettings) -> list[Ending]:
        nonlocal used
        used = g
        for teller in tellers:
            teller.curve.clear()
        devices.begin_peak(g.device)
        made_with["data"] = manifest(bundle[0])
        with watch.Watch(path, *((checkpoints.patience, checkpoints.memory) if checkpoints else (0, None))):
            return _trained(tellers, g, _keeper(bundle, g, checkpoints, fused, made_with), checkpoints, fused)

    try:
        made_with |= environment(hardware)  # which asks the device for its name: one that is full or lost may not answer
        endings = devices.alike_if_possible(hardware, attempt)
        lost = any(after.get("device_lost") for _, after in endings)
    except (Exception, SystemExit) as e:  # any other error is the trial's result, and a part that would end the process is one
        if isinstance(e, AotsearchError) and not isinstance(e, WordError):
            raise  # the data or the disk, not the trial
        outcome, lost = _named(e), devices.lost(e)
        endings = [(outcome, {"message": str(e) if isinstance(e, watch.Ended) else first_line(e), "traceback": traceback.format_exc()})] * n
    peak = None if lost else devices.peak(hardware.device)
    if not lost and (endings[0][0] == "out-of-memory" or devices.is_cuda(hardware.device)):
        devices.release(hardware.device)  # only now: an error holds the model by its traceback
    common = {
        "seconds": round((time.perf_counter() - started) / n, 3),
        "device": hardware.device.partition(":")[0],
        "precision": hardware.precision(bundle[0]["training"]),
        "threads": hardware.threads,
        "deterministic": used.deterministic,
        "fused": n if fused else 0,
        "peak_memory": peak,
        "environment": made_with,
        "process": os.getpid(),
        **({"device_lost": True} if lost else {}),
    }
    return [
        record(t.trial, outcome, list(t.curve)) | {"message": "", "traceback": ""} | t.known | after | common | _whole_time(common, after)
        for t, (outcome, after) in zip(tellers, endings, strict=True)
    ]


def _whole_time(common: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, float]:
    """The seconds of a trial, with those before it was interrupted."""
    return {"seconds": round(common["seconds"] + after.get("resumed", {}).get("seconds", 0.0), 3)}


def _keeper(
    bundle: Sequence[Trial], hardware: DeviceSettings, checkpoints: Checkpoints | None, fused: bool, made_with: Mapping[str, Any]
) -> Keeper | None:
    """Who keeps the states of trials while they train: of those that ask for nothing, nobody."""
    if checkpoints is None or (checkpoints.seconds is None and checkpoints.steps is None):
        return None
    keys = [trial["key"] for trial in bundle]
    program = {"fused": fused, "together": keys, "precision": hardware.precision(bundle[0]["training"])}
    return Keeper(checkpoints, keys, {**made_with, **program, "device": hardware.device, "deterministic": hardware.deterministic})


def _named(error: BaseException) -> str:
    """The outcome that an error is."""
    if isinstance(error, watch.Ended):
        return error.outcome
    return "out-of-memory" if devices.out_of_memory(error) else "diverged" if isinstance(error, Diverged) else "failed"


def _trained(
    tellers: list[_Teller], hardware: DeviceSettings, keeper: Keeper | None, checkpoints: Checkpoints | None, fused: bool
) -> list[Ending]:
    """Train the models of some trials, and measure of each what there is besides its curve; nothing of them is left in memory after."""
    first = tellers[0].trial
    architecture, task = Architecture.from_dict(first["architecture"], first["decisions"]), load_task(first)
    members = [Member(build(architecture, t.trial["seed"]), t.trial["training"], t.trial["seed"], t.keep) for t in tellers]
    for teller, member in zip(tellers, members, strict=True):
        teller.known = _before(member.model, task, teller.trial, hardware)
    clock = train_together(members, task, hardware, fused, keeper)
    if load_task(first) is not task:  # it was opened again
        if checkpoints is not None:  # nor does it go on from what it became by that
            drop(checkpoints.folder, *(t.trial["key"] for t in tellers))
        raise RunError("the data was altered while a trial was trained on it, which is not recorded; run the same command again to go on")
    endings = []
    for teller, member in zip(tellers, members, strict=True):
        if member.error is not None:
            outcome = "pruned" if isinstance(member.error, Stopped) else "diverged"
            endings.append((outcome, clock.told(len(members)) | {"message": str(member.error)}))
            continue
        saved = _save(member.model, weights_of(checkpoints.folder, teller.trial["key"])) if checkpoints is not None else {}
        lost = teller.known.get("unmeasured", {})
        # raises nothing that an error could be: it is trained
        after = _after(member.model, task, teller.trial, hardware, member.curve[-1], lost)
        endings.append(("done", clock.told(len(members)) | saved | after))
    return endings


def _before(model: Any, task: Task, trial: Mapping[str, Any], hardware: DeviceSettings) -> dict[str, Any]:
    """What is measured of a model before it is trained, which stays as it is; what goes wrong in it costs the hints, not the trial."""
    if not trial.get("hints"):
        return {}
    try:
        items = task.batch(trial["seed"], 0, trial["training"]["batch"])
        inputs, targets = (devices.put(a, hardware.device) for a in items)
        with hardware.use():
            return {"hints": hints.measure(model, inputs, lambda m: task.loss(m(inputs), targets), trial["hints"])}
    except Exception as e:  # as after training
        if devices.unlike(e):
            raise
        return {"unmeasured": {"hints": first_line(e)}}
    finally:
        devices.release(hardware.device)
        devices.begin_peak(hardware.device)  # which is that of training


def _after(
    model: Any, task: Task, trial: Mapping[str, Any], hardware: DeviceSettings, last: Mapping[str, float], lost: Mapping[str, str]
) -> dict[str, Any]:
    """What is measured of a trained model besides its loss: the test split, every layer, every layer removed; and where the task's source
    has validation and test as one, the measures over both, for comparison with published numbers.

    Whatever goes wrong in one of them, the trial is trained and the others are measured: `unmeasured` says which is missing, and why, with
    what was `lost` before.
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
    unmeasured = dict(lost)
    for part, (wanted, measure) in asked.items():
        if not wanted:
            continue
        try:
            with hardware.use():
                found[part] = measure()
        except Exception as e:  # a task or a part of an installed package may raise anything, and memory may run out
            if devices.unlike(e):
                raise
            unmeasured[part] = first_line(e)
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


def _save(model: torch.nn.Module, path: Path) -> dict[str, str]:
    """Write weights, and give their digest to the record; a full disk costs the weights, not the trial."""
    with contextlib.suppress(OSError, RuntimeError), written(path) as made:  # torch's writer raises RuntimeError where the disk is full
        torch.save({name: value.cpu() for name, value in model.state_dict().items()}, made)
        return {"weights": digest(made)}
    return {}
