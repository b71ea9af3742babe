"""How many trials share a GPU: a few steps are measured in a process that trains, and a rule decides.

    probe(bundle, hardware, fuse) -> Probe;  share(probe, ...) -> the part of a GPU that a bundle of trials is granted

Processes on one GPU take turns, so that company pays only where one alone leaves the GPU waiting for its processor, as small models do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aotsearch.grammar.architecture import Architecture
from aotsearch.models.cost import training_bytes
from aotsearch.models.model import build
from aotsearch.training import choice
from aotsearch.training import device as devices
from aotsearch.training.device import DeviceSettings
from aotsearch.training.evaluation import evaluate
from aotsearch.training.opened import load_task
from aotsearch.training.rehearsal import Rehearsal

MOST = 4  # trials on one GPU: each further one waits longer for its turn
FULL = 0.9  # of a GPU's memory that is granted: allocators lose some to fragments
WAITING = 0.8  # of the time of some steps that it takes to hand them out, from which on the GPU waits for the processor
STEPS = 10  # measured, after as many that warm up

Bundle = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Probe:
    """What a process that trains a bundle does to its GPU.

    Attributes:
        memory: Bytes that the GPU has.
        context: Bytes that the process takes besides tensors: the context, libraries, kernels.
        peak: Bytes that it reserves for tensors, at the peak of training steps and an evaluation pass.
        waiting: The time to hand out some steps over the time until the GPU has done them: near 1 it waits for the processor.
    """

    memory: int
    context: int
    peak: int
    waiting: float


def share(probe: Probe, size: float, bundles: int, places: int, gpus: int) -> float:
    """The part 1/k of a GPU for one bundle, k the largest number of equals for which there is memory and anything to gain.

        k = min(MOST, floor(FULL memory / (context + size peak)), ceil(bundles / gpus), floor(places / gpus)), at least 1

    Args:
        probe: Of the largest bundle.
        size: The memory of this bundle over that of the largest, as `needs` counts it.
        bundles: How many there are to train.
        places: How many bundles the processors have room for.
        gpus: How many GPUs there are.
    """
    if probe.waiting < WAITING:
        return 1.0
    fit = math.floor(FULL * probe.memory / (probe.context + size * probe.peak))
    return 1.0 / max(1, min(MOST, fit, math.ceil(bundles / gpus), places // gpus))


def needs(bundle: Bundle, fuse: int | Literal["auto"]) -> int:
    """Bytes that a bundle trains in, all at once if they may be fused: an estimate to compare bundles by."""
    trial = bundle[0]
    return replicas(bundle, fuse) * training_bytes(Architecture.from_dict(trial["architecture"]), trial["training"]["batch"])


def replicas(bundle: Bundle, fuse: int | Literal["auto"]) -> int:
    """How many trials of a bundle are one program at most."""
    return len(bundle) if fuse == "auto" else min(len(bundle), fuse)


def probe(bundle: Bundle, hardware: DeviceSettings, fuse: int | Literal["auto"]) -> Probe | None:
    """Train some steps of a bundle, and evaluate a pass; None where that cannot be done."""
    fused = choice.fuses(fuse, bundle[0], hardware)
    n = replicas(bundle, fuse) if fused else 1
    try:
        return devices.alike_if_possible(hardware, lambda used: _probe(bundle[0], n, used, fused))
    except Exception:  # noqa: BLE001 (memory, or a part of an installed package: the trial itself will say)
        return None
    finally:
        devices.release(hardware.device)


def _probe(trial: Mapping[str, Any], n: int, hardware: DeviceSettings, fused: bool) -> Probe:
    architecture, task, training = Architecture.from_dict(trial["architecture"]), load_task(trial), trial["training"]
    with dataclasses.replace(hardware, share=1.0).use():
        devices.release(hardware.device)  # of what was measured before: it counts as reserved
        devices.begin_peak(hardware.device)
        models = [build(architecture, seed) for seed in range(n)]
        rehearsal = Rehearsal(models, task, training, hardware, fused)
        rehearsal.steps(STEPS)
        handed, done = rehearsal.steps(STEPS)
        inputs, targets = (items[: task.chunk] for items in task.validation(0))
        evaluate(models[0], task, (inputs, targets), hardware.device, hardware.precision(training))
        memory, context, peak = devices.memory(hardware.device)
    return Probe(memory, context, peak, handed / done)
