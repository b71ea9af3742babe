"""What only a GPU can prove, in minutes: every preset family trains in both precisions, and what surrounds a trial holds.

    python benchmarks/gpu_smoke.py [--device cuda | cpu]

Presets keep their blocks in two layers of width 64 (on a processor 32, with shorter texts). A processor takes the same path, bfloat16 by
autocast too, with two stand-ins: it has no memory limit to hit, so running out is simulated, and it counts no memory. Needs torch, numpy,
pydantic and pyyaml; neither Ray, Optuna nor MLflow. Writes Markdown to standard output; the exit status is 1 where a check failed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from aotsearch.models.model import Model, build
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.tasks import Items
from aotsearch.training import trial
from aotsearch.training.device import DeviceSettings, is_cuda, release
from aotsearch.training.evaluation import evaluate
from aotsearch.training.rehearsal import forecast
from aotsearch.training.train import train

ROOT = Path(__file__).parent.parent
PRESETS = ROOT / "spaces" / "presets"
SIZES = {"aot_mssa_language_medium", "crate_small", "crate_base", "crate_large", "tost_small", "vit_small"}  # of families that are there
FEW = "study.budget.steps=10"  # where it does not matter how far a model has come
PRECISIONS = ("float32", "bfloat16")
STEPS = 50
DATA = Path(tempfile.gettempdir()) / f"gpu-smoke-{os.getuid()}"
TASKS = {
    "language": "task={language: {data: {text: CORPUS}, context: CONTEXT}}",
    "vision": "task={vision: {data: {arrays: IMAGES}, image: 32, channels: 3, classes: 5}}",
    "regression": "task={regression: {inputs: 5, points: 11}}",
}
SCALE = {"cuda": {"width": 64, "context": 64, "batch": 16}, "cpu": {"width": 32, "context": 32, "batch": 8}}


class Failed(Exception):
    """A check that does not hold, with its figures."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=("cpu", "cuda"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="train this preset once and print its loss: what the check of neighbours starts")
    a = parser.parse_args()
    hardware = DeviceSettings(a.threads, a.device)
    SCALE["here"] = SCALE[a.device]
    if a.only:
        half = dataclasses.replace(hardware, share=0.5 if is_cuda(a.device) else 1.0)
        say(repr(run(small(a.only, "bfloat16"), half)["measures"]["loss"]))
        return 0
    furnish()
    began = time.monotonic()
    where = torch.cuda.get_device_name() if is_cuda(a.device) else f"processor ({platform.machine()}, {a.threads} thread)"
    say(f"torch {torch.__version__}, {where}; {STEPS} steps; {SCALE['here']}\n")
    failures = families(hardware) + checks(hardware)
    spent = f"{time.monotonic() - began:.0f} s, of which {time.process_time():.0f} s on a processor"
    say(f"\n{f'{failures} FAILED' if failures else 'all hold'}; {spent}")
    return 1 if failures else 0


# --- every family in both precisions ---


def families(hardware: DeviceSettings) -> int:
    say("| preset | parameters | untrained | float32 | bfloat16 | tokens/s | tokens/s, bfloat16 | MiB | MiB, bfloat16 | |")
    say("|---|---|---|---|---|---|---|---|---|---|")
    failures = 0
    for name in sorted(path.stem for path in PRESETS.glob("*.yaml") if path.stem not in SIZES):
        study = small(name)
        start = model_of(study).to(hardware.device)
        untrained = evaluate(start, study.task, study.task.validation(), hardware.device)["loss"]
        found = {precision: timed(small(name, precision), hardware) for precision in PRECISIONS}
        wrong = [problem for record in found.values() for problem in problems(record, untrained)]
        if not wrong:
            plain, low = (found[p]["measures"]["loss"] for p in PRECISIONS)
            wrong = [f"losses differ by {low - plain:+.4f}"] if abs(low - plain) > 0.2 * (untrained - plain) + 0.01 else []
        failures += bool(wrong)
        columns = [f"{found[p]['measures'].get('loss', math.nan):.4f}" for p in PRECISIONS]
        columns += [f"{found[p]['speed']:,.0f}" for p in PRECISIONS]
        columns += [f"{found[p]['peak_memory'] / 2**20:.0f}" if found[p]["peak_memory"] else "-" for p in PRECISIONS]
        say(f"| {name} | {parameters(start):,} | {untrained:.4f} | {' | '.join(columns)} | {'; '.join(wrong) or 'ok'} |")
    return failures


def problems(record: dict[str, Any], untrained: float) -> list[str]:
    """What is wrong with a trial of a family by itself."""
    if record["outcome"] != "done":
        return [f"{record['precision']}: {record['message']}"]
    loss = record["measures"]["loss"]
    # regression in context begins with a long plateau; what a batch teaches is a check of its own
    found = [] if loss < 1.01 * untrained else [f"{record['precision']} gets worse"]
    return found + [f"{name} did not move" for name in record["still"]]


def timed(study: Study, hardware: DeviceSettings) -> dict[str, Any]:
    """The record of a trial, with its tokens per second and the names of the matrices that stayed where they were."""
    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        plan = trial.plan(study, study.arms()[0], 0, "design")
        record = trial.run(plan, hardware, lambda p: times.append((p["step"], time.perf_counter())), Path(folder))
        before = model_of(study).state_dict()
        weights = torch.load(Path(folder) / f"{plan['key']}.pt") if record["outcome"] == "done" else before
    record["still"] = [n for n, w in weights.items() if w.ndim > 1 and n in before and torch.equal(w, before[n])]
    tokens = study.settings.budget.batch * (model_of(study).site.tokens or 1)
    (first, start), (last, end) = (
        times[0] if times else (0, 0.0),
        times[-2] if times[1:] else (0, 1.0),
    )  # the last one follows an evaluation
    return record | {"speed": (last - first) * tokens / max(end - start, 1e-9)}


# --- what surrounds a trial ---


def checks(hardware: DeviceSettings) -> int:
    say("\n| check | found | |\n|---|---|---|")
    failures = 0
    for check in (
        one_batch,
        splits_agree,
        chunk_size,
        chunk_that_does_not_fit,
        memory_full,
        twice_the_same,
        neighbours,
        saved_and_loaded,
        looks_inside,
        time_foretold,
        nothing_left,
    ):
        try:
            found, verdict = check(hardware), "ok"
        except Failed as e:
            found, verdict = str(e), "FAILED"
        except Exception as e:  # noqa: BLE001 (a check that breaks has failed)
            found, verdict = f"{type(e).__name__}: {e}".splitlines()[0], "FAILED"
        failures += verdict != "ok"
        say(f"| {(check.__doc__ or '').rstrip('.')} | {found} | {verdict} |")
        release(hardware.device)
    return failures


class OneBatch:
    """A task that gives one batch for ever."""

    def __init__(self, task: Any, size: int):
        self.task, self.items = task, task.batch(0, 0, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def batch(self, seed: int, step: int, size: int) -> Items:
        return self.items

    def validation(self, seed: int = 0) -> Items:
        items: Items = self.items
        return items


def one_batch(hardware: DeviceSettings) -> str:
    """One batch is learnt by heart in bfloat16, and read as it was trained."""
    found = []
    for name in ("gpt2", "vit_tiny", "aot_icl_mhsa"):
        study = small(name)
        training = {**study.training(), "steps": 120, "precision": "bfloat16", "weight_decay": 0.0}
        curve = train(model_of(study), OneBatch(study.task, 4), training, 0, hardware, lambda _: None)
        first, last, read = curve[0]["train_loss"], curve[-1]["train_loss"], curve[-1]["loss"]
        found.append(f"{name} {first:.2f} to {last:.3f}, read {read:.3f}")
        hold(last < 0.5 * first and abs(read - last) < 0.1 * first, "; ".join(found))
    return "; ".join(found)


def splits_agree(hardware: DeviceSettings) -> str:
    """A split is read the same as validation and as test."""
    study = small("gpt2", "bfloat16")
    study.task.test = study.task.validation
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(trial, "load_task", lambda _: study.task):
        plan = trial.plan(study, study.arms()[0], 0, "design")
        record = trial.run(plan, hardware, lambda _: None, Path(folder))
    hold(record["measures"] == record["test"], f"{record['measures']['loss']} against {record['test']['loss']}")
    return f"{record['test']['loss']:.6f} both"


def chunk_size(hardware: DeviceSettings) -> str:
    """An evaluation is the same in passes of two sizes."""
    found = []
    for precision, tolerance in zip(PRECISIONS, (1e-5, 2e-3), strict=True):
        study = small("gpt2")
        model = model_of(study).to(hardware.device)
        losses = []
        for chunk in (study.task.chunk, 7):
            study.task.chunk = chunk
            losses.append(evaluate(model, study.task, some(study), hardware.device, precision)["loss"])
        found.append(f"{precision} differs by {abs(losses[1] / losses[0] - 1):.1e}")
        hold(math.isclose(*losses, rel_tol=tolerance), "; ".join(found))
    return "; ".join(found)


def chunk_that_does_not_fit(hardware: DeviceSettings) -> str:
    """An evaluation whose passes do not fit goes on in smaller ones."""
    study = small("gpt2")
    model = model_of(study).to(hardware.device)
    items = some(study, 64)
    expected = evaluate(model, study.task, items, hardware.device)["loss"]
    other, sizes = model_of(study).to(hardware.device), []
    with contextlib.ExitStack() as stack:
        stack.callback(other.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0]))).remove)
        if is_cuda(hardware.device):
            items = tuple(np.tile(a, (1024, 1)) for a in items)  # type: ignore[assignment]
            study.task.chunk = len(items[0])
            stack.enter_context(dataclasses.replace(hardware, share=2**30 / torch.cuda.get_device_properties(0).total_memory).use())
        else:
            stack.callback(other.register_forward_pre_hook(full_above(20)).remove)
        loss = evaluate(other, study.task, items, hardware.device)["loss"]
    hold(
        math.isclose(loss, expected, rel_tol=1e-4) and sizes[0] > sizes[-1], f"{loss} against {expected}, passes of {sizes[0]}, {sizes[-1]}"
    )
    return f"passes of {sizes[0]} became {sizes[-1]}, loss differs by {abs(loss / expected - 1):.1e}"


def full_above(items: int) -> Callable[..., None]:
    """A processor's stand-in for memory that is full."""

    def full(_: Any, given: tuple[torch.Tensor, ...]) -> None:
        if len(given[0]) > items:
            raise torch.OutOfMemoryError("simulated: memory is full")

    return full


def memory_full(hardware: DeviceSettings) -> str:
    """A trial that is out of memory is a result, and the next trial of the process trains."""
    before = torch.cuda.memory_reserved() if is_cuda(hardware.device) else 0
    study = small("gpt2", "bfloat16", "study.budget.batch=4096" if is_cuda(hardware.device) else "study.budget.batch=8")
    if is_cuda(hardware.device):
        first = run(study, dataclasses.replace(hardware, share=2**29 / torch.cuda.get_device_properties(0).total_memory))
    else:
        with breaking():
            first = run(study, hardware)
    after = torch.cuda.memory_reserved() if is_cuda(hardware.device) else 0
    then = run(small("gpt2", "bfloat16"), hardware)
    found = f"{first['outcome']} ({first['message'][:60]}), then {then['outcome']}; {after / 2**20:.0f} MiB kept"
    hold(first["outcome"] == "out-of-memory" and then["outcome"] == "done" and after <= before + 2**25, found)
    return found


@contextlib.contextmanager
def breaking() -> Iterator[None]:
    """Models whose forward pass finds memory full."""
    forward = Model.forward
    Model.forward = full_above(0)  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Model.forward = forward  # type: ignore[method-assign]


def twice_the_same(hardware: DeviceSettings) -> str:
    """A trial run twice gives the same losses to the last bit, where torch can."""
    found, wrong = [], False
    cases = ("gpt2", "crate_tiny", "tost_tiny", "llama_like", "laplacian_gpt", "simplified_block")
    for name in cases:
        for precision in PRECISIONS:
            first, again = (run(small(name, precision, FEW), hardware) for _ in range(2))
            same = first["curve"] == again["curve"]
            apart = abs(first["measures"]["loss"] - again["measures"]["loss"])
            promise = "" if first["deterministic"] else " (not promised)"
            if not same or promise:
                found.append(f"{name} in {precision} differs by {apart:.1e}{promise}")
            wrong |= not same and first["deterministic"]
    hold(not wrong, "; ".join(found))
    return "; ".join(found) or f"{len(cases)} presets in both precisions"


def neighbours(hardware: DeviceSettings) -> str:
    """Two trials at once, each with half a GPU, give what each gives alone."""
    command = [sys.executable, __file__, "--device", hardware.device, "--threads", str(hardware.threads), "--only", "gpt2"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) for _ in range(2)]
    answers = [process.communicate(timeout=200) for process in both]
    hold(not any(process.returncode for process in both), " ".join(answers[0][1].split())[-200:])
    losses = [float(out.split()[-1]) for out, _ in answers]
    alone = run(small("gpt2", "bfloat16"), hardware)["measures"]["loss"]
    hold(losses[0] == losses[1] == alone, f"{losses} against {alone}")
    return f"{alone:.6f} all three"


def saved_and_loaded(hardware: DeviceSettings) -> str:
    """Weights are saved as a processor's and give the same measures when they are loaded."""
    study = small("gpt2", "bfloat16")
    with tempfile.TemporaryDirectory() as folder:
        plan = trial.plan(study, study.arms()[0], 0, "design")
        record = trial.run(plan, hardware, lambda _: None, Path(folder))
        weights = torch.load(Path(folder) / f"{plan['key']}.pt")
    model = build(study.reference, seed=1)
    model.load_state_dict(weights)
    found = evaluate(model.to(hardware.device), study.task, study.task.validation(), hardware.device, "bfloat16")
    hold(found == record["measures"] and all(w.device.type == "cpu" for w in weights.values()), f"{found} against {record['measures']}")
    return f"{found['loss']:.6f} both"


def looks_inside(hardware: DeviceSettings) -> str:
    """Diagnostics and knock-out work on the device."""
    numbers = 0
    for name in ("gpt2", "crate_tiny", "aot_mssa_language_base", "tost_tiny"):
        study = small(name, "bfloat16", FEW, "study.diagnostics=all")
        plan = trial.plan(study, study.arms()[0], 0, "design") | {"knock_out": True}
        record = trial.run(plan, hardware, lambda _: None)
        hold(record["outcome"] == "done", f"{name}: {record['message']}")
        rows = record["knock_out"]
        whole = rows[0]["loss"] - rows[0]["increase"]
        hold(math.isclose(whole, record["measures"][study.task.measure], rel_tol=1e-9), f"{name}: {whole} against {record['measures']}")
        numbers += len(rows) + sum(len(values) for values in record["diagnostics"].values())
    return f"{numbers} numbers"


def time_foretold(hardware: DeviceSettings) -> str:
    """The forecast of a trial's time is within a factor of three."""
    study = small("gpt2", "bfloat16", "study.budget.steps=60")
    training = study.training()
    forecast(model_of(study), study.task, training, hardware)  # the first steps of a process are slow
    told = forecast(model_of(study), study.task, training, hardware)
    start = time.perf_counter()
    train(model_of(study), study.task, training, 0, hardware, lambda _: None)
    taken = time.perf_counter() - start
    hold(1 / 3 < told / taken < 3, f"{told:.2f} s foretold, {taken:.2f} s taken")
    return f"{told:.2f} s foretold, {taken:.2f} s taken"


def nothing_left(hardware: DeviceSettings) -> str:
    """After all of this no tensor is left on the device."""
    release(hardware.device)
    kept = torch.cuda.memory_allocated() if is_cuda(hardware.device) else 0
    hold(kept < 2**25, f"{kept / 2**20:.1f} MiB")  # workspaces of cuBLAS stay
    return f"{kept / 2**20:.1f} MiB" if is_cuda(hardware.device) else "not counted on a processor"


# --- what they share ---


def small(name: str, precision: str = "auto", *more: str) -> Study:
    """A preset with few, narrow layers on little data."""
    kind = next(iter(load(PRESETS / f"{name}.yaml").plain["task"]))
    scale = SCALE["here"]
    task = TASKS[kind].replace("CORPUS", str(DATA / "corpus.txt")).replace("IMAGES", str(DATA / "images.npz"))
    overrides = [task.replace("CONTEXT", str(scale["context"])), f"grammar.model.width={scale['width']}", "grammar.heads=4"]
    overrides += [f"study.resources.precision={precision}", "study.learning_rate=3e-3"]
    overrides += ["grammar.groups=2"] if name == "llama_like" else []
    overrides += ["grammar.rest=2"] if name == "simplified_block" else ["grammar.model.depth=2"]
    overrides += [f"study.budget={{steps: {STEPS}, batch: {scale['batch']}, evaluations: 1}}", "study.diagnostics=none", *more]
    return load(PRESETS / f"{name}.yaml", overrides)


def furnish() -> None:
    """Little data that needs no network: this repository's own text, and images of coloured corners."""
    DATA.mkdir(exist_ok=True)
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "aotsearch").rglob("*.py")))
    rng = np.random.default_rng(0)
    images: dict[str, Any] = {}
    for split, number in (("train", 500), ("test", 100)):
        labels = rng.integers(0, 5, number)
        pictures = rng.integers(0, 256, (number, 32, 32, 3)).astype(np.uint8)
        for picture, label in zip(pictures, labels, strict=True):
            picture[8 * (label % 2) : 8 * (label % 2) + 16, 6 * label : 6 * label + 8, label % 3] = 255
        images |= {f"x_{split}": pictures, f"y_{split}": labels}
    made = DATA / f"{os.getpid()}.npz"
    np.savez(made, **images)
    made.replace(DATA / "images.npz")
    made.write_text(text[:200_000], encoding="utf-8")
    made.replace(DATA / "corpus.txt")


def model_of(study: Study) -> Model:
    return build(study.reference, seed=0)


def some(study: Study, items: int = 40) -> Items:
    inputs, targets = study.task.validation()
    return inputs[:items], targets[:items]


def run(study: Study, hardware: DeviceSettings) -> dict[str, Any]:
    return trial.run(trial.plan(study, study.arms()[0], 0, "design"), hardware, lambda _: None)


def parameters(model: Model) -> int:
    return sum(p.numel() for p in model.parameters())


def hold(condition: bool, found: str) -> None:
    if not condition:
        raise Failed(found)


def say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
