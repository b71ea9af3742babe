"""What a trial does on another device and in another precision, on a processor: autocast is there too, and devices have stand-ins."""

from __future__ import annotations

import dataclasses
import os
import statistics
import weakref
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_parts
import torch

from aotsearch.diagnostics import measures, probe
from aotsearch.diagnostics.catalogue import catalogue
from aotsearch.errors import InputError, RunError
from aotsearch.models.cost import training_bytes
from aotsearch.models.model import build
from aotsearch.report import report as reports
from aotsearch.running import cluster, hearing, local, runner
from aotsearch.running.local import Local
from aotsearch.running.rungs import Rungs
from aotsearch.running.work import Search, Work
from aotsearch.study.loading import load
from aotsearch.study.settings import Resources
from aotsearch.study.study import Study
from aotsearch.tasks import Items
from aotsearch.training import device as devices
from aotsearch.training import environment, packing, rehearsal, trial, watch
from aotsearch.training.adamw import AdamW
from aotsearch.training.checkpoint import Checkpoints
from aotsearch.training.device import DeviceSettings, autocast, put
from aotsearch.training.environment import processors
from aotsearch.training.evaluation import evaluate
from aotsearch.training.masks import Masks
from aotsearch.training.program import program
from aotsearch.training.rehearsal import forecast
from aotsearch.training.train import train

PRECISIONS = ("float32", "bfloat16")
LOCAL = runner.Options(local=True, track=False)
PROCESSOR = Resources(gpus=0)
DATA_DEPENDENT = {"attention-evenness"}  # diagnostics whose shapes follow from numbers, which `meta` has not


def plan(study: Study, seed: int = 0, **training: Any) -> dict[str, Any]:
    made = trial.plan(study, study.arms()[0], seed, "design")
    return {**made, "training": {**made["training"], **training}}


def run(made: dict[str, Any], hardware: DeviceSettings | None = None) -> dict[str, Any]:
    return trial.run(made, hardware or DeviceSettings(1), lambda _: None)


# Precision.


class OneBatch:
    """A task that gives one batch for ever; everything else is the task's it is made of."""

    def __init__(self, task: Any, size: int):
        self.task, self.items = task, task.batch(0, 0, size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def batch(self, seed: int, step: int, size: int) -> Items:
        return self.items

    def validation(self, seed: int = 0) -> Items:
        items: Items = self.items
        return items


@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_batch_is_learnt_by_heart_and_every_weight_moves(study_file: Path, precision: str) -> None:
    study = load(study_file, ["grammar.model.width=32"])
    model = build(study.reference)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    training = {**study.training(), "steps": 100, "learning_rate": 1e-2, "evaluations": 1, "weight_decay": 0.0, "precision": precision}
    curve = train(model, OneBatch(study.task, 2), training, 0, DeviceSettings(1), lambda _: None)
    assert curve[0]["train_loss"] > 3.0 and curve[-1]["loss"] < 0.1
    assert curve[-1]["loss"] == pytest.approx(curve[-1]["train_loss"], abs=0.05)  # an evaluation sees the weights of the last step
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32 and (p - before[name]).norm() > 0.01 * before[name].norm(), name


def test_losses_in_bfloat16_are_those_in_float32_within_the_noise_of_seeds(study_file: Path) -> None:
    steps = ["study.budget={steps: 60, batch: 8, evaluations: 1}", "study.learning_rate=2e-2"]
    losses = {
        precision: [run(plan(load(study_file, steps), seed, precision=precision))["measures"]["loss"] for seed in range(3)]
        for precision in PRECISIONS
    }
    noise = statistics.stdev(losses["float32"])
    assert losses["float32"] != losses["bfloat16"]
    for plain, low in zip(losses["float32"], losses["bfloat16"], strict=True):
        assert abs(plain - low) < noise


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_test_split_is_read_as_the_validation_split_is(study_file: Path, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    study = load(study_file)
    monkeypatch.setattr(type(study.task), "test", type(study.task).validation)
    found = run({**plan(study, precision=precision), "knock_out": True})
    assert found["precision"] == precision and found["test"] == found["measures"]
    for row in found["knock_out"]:
        assert row["loss"] - row["increase"] == pytest.approx(found["measures"]["bits_per_byte"], abs=1e-9)


def test_a_precision_that_is_asked_for_is_part_of_what_a_trial_is(study_file: Path) -> None:
    study = load(study_file)
    plain = plan(study)
    assert "precision" not in plain["training"]  # left to the device it changes no key
    assert load(study_file, ["study.resources.precision=auto"]).digest == study.digest
    others = [load(study_file, [f"study.resources.precision={p}"]) for p in PRECISIONS]
    keys = {plan(s)["key"] for s in others} | {plain["key"]}
    assert len(keys) == 3 == len({s.digest for s in others} | {study.digest})
    assert [plan(s)["training"]["precision"] for s in others] == list(PRECISIONS)
    assert (
        DeviceSettings(1).precision(study.training()) == "float32" and DeviceSettings(1, "cuda").precision(study.training()) == "bfloat16"
    )
    assert [DeviceSettings(1, "cuda").precision(s.training()) for s in others] == list(PRECISIONS)


def test_a_run_folder_holds_trials_of_one_precision(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "write", lambda *_, **__: [])
    runner.run(load(study_file, ["study.seeds=1"]), tmp_path / "run", LOCAL)
    low = ["study.seeds=1", "study.resources.precision=bfloat16"]
    with pytest.raises(InputError, match=r"study\.resources.*bfloat16.*choose another --out"):
        runner.run(load(study_file, low), tmp_path / "run", LOCAL)


# Parts in bfloat16.


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")
@pytest.mark.parametrize("case", test_parts.cases())
def test_every_word_in_bfloat16_is_near_itself_in_float32_forwards_and_backwards(case: Any) -> None:
    model = test_parts.disturb(build(test_parts.architecture(*case), seed=1))
    x = test_parts.inputs(model)
    weights = torch.randn(model(x).shape, generator=torch.Generator().manual_seed(5))
    found, masks = [], Masks(model, [0], replicas=False)
    for precision in PRECISIONS:
        masks.begin(0)  # what is dropped is the same
        with autocast("cpu", precision):
            y = model(x)
        torch.autograd.backward((y.float() * weights).sum())
        found.append((y.detach().float(), torch.cat([p.grad.flatten() for p in model.parameters()])))  # type: ignore[union-attr]
        model.zero_grad()
    for plain, low, tolerance in zip(*found, (0.05, 0.25), strict=True):
        assert low.isfinite().all() and low.dtype == torch.float32
        assert (low - plain).norm() < tolerance * plain.norm()


# Other devices: `meta` computes shapes, on a device of its own.


@pytest.mark.parametrize("case", test_parts.cases())
def test_no_part_makes_a_tensor_on_another_device_than_its_model(case: Any) -> None:
    model = build(test_parts.architecture(*case), seed=1)
    x = test_parts.inputs(model).to("meta")
    y = model.to("meta")(x)
    assert y.device.type == "meta"
    torch.autograd.backward(y.sum())
    assert all(p.grad is not None and p.grad.device.type == "meta" for p in model.parameters())


ON_META = [d for d in catalogue().values() if d.kind != "gradient" and d.name not in DATA_DEPENDENT]


@pytest.mark.parametrize("norm", ["layernorm", "dyt"])
def test_no_diagnostic_makes_a_tensor_on_another_device_than_its_model(monkeypatch: pytest.MonkeyPatch, norm: str) -> None:
    def value(d: Any, argument: Any) -> float | None:
        made = None if argument is None else getattr(measures, d.function)(argument, *([d.term] if d.term else []))
        assert not isinstance(made, torch.Tensor) or made.device.type == "meta", d.name
        return None if made is None else 0.0

    monkeypatch.setattr(probe, "_value", value)
    block = [{"attention": {"heads": 2, "identity": {"learned": {"per": "head"}}}}, "mlp"]
    model = build(test_parts.architecture({"depth": 2, "norm": norm, "join": "layerscale", "block": block})).to("meta")
    found = probe._pass(model, torch.zeros(3, 8, dtype=torch.long, device="meta"), ON_META)
    assert {name for name, _, number in found if number is not None} >= {"hidden-rms", "snr", "attention-entropy", "coding-rate"}


def test_a_training_step_and_an_evaluation_stay_on_the_device_of_the_model(study_file: Path) -> None:
    study = load(study_file)
    model = build(study.reference).to("meta")
    made = program([model], study.task, [study.training()], "float32", fused=False)
    inputs, targets = (put(a, "meta").unsqueeze(0) for a in study.task.batch(0, 0, 4))
    (loss,) = made.step(inputs, targets, [1e-3])
    assert loss.device.type == "meta" and loss.dtype == torch.float32
    totals = study.task.totals(model(put(study.task.batch(0, 0, 4)[0], "meta")), put(study.task.batch(0, 0, 4)[1], "meta"))
    assert totals["loss"][0].device.type == "meta"


def test_adam_is_one_kernel_where_torch_has_one() -> None:
    training = {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99}
    assert AdamW([torch.ones(2)], [True], training).kernel
    assert not AdamW([torch.ones(2, device="meta")], [True], training).kernel
    odd = torch.ones(2, 2, dtype=torch.complex64)
    adam = AdamW([odd], [True], training)
    assert not adam.kernel
    adam.step([odd.clone()], 0.1)
    assert odd.isfinite().all() and not odd.eq(1).any()


def test_an_array_goes_to_a_gpu_by_pinned_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    def pinned(tensor: torch.Tensor) -> torch.Tensor:
        calls.append("pinned")
        return tensor

    def to(tensor: torch.Tensor, device: Any, non_blocking: bool = False) -> torch.Tensor:
        calls.append((str(device), non_blocking))
        return tensor

    monkeypatch.setattr(torch.Tensor, "pin_memory", pinned)
    monkeypatch.setattr(torch.Tensor, "to", to)
    put(np.arange(6).reshape(2, 3)[:, :-1], "cuda:0")
    assert calls == ["pinned", ("cuda:0", True)]
    put(np.arange(3), "cpu")
    assert calls[2:] == [("cpu", True)]


# Memory.


class Full(torch.nn.Module):
    """A model that has room for so many items in a pass."""

    def __init__(self, model: torch.nn.Module, room: int, error: type[Exception] = torch.OutOfMemoryError):
        super().__init__()
        self.model, self.room, self.error, self.passes = model, room, error, []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.passes.append(len(x))
        if len(x) > self.room:
            raise self.error("[enforce fail] DefaultCPUAllocator: can't allocate memory")
        y: torch.Tensor = self.model(x)
        return y


@pytest.mark.parametrize("error", [torch.OutOfMemoryError, RuntimeError, MemoryError])
def test_an_evaluation_that_does_not_fit_goes_on_in_smaller_passes(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    study = load(study_file)
    released: list[str] = []
    monkeypatch.setattr(devices, "release", released.append)
    x, y = study.task.validation()
    items = x[:50], y[:50]
    expected = evaluate(build(study.reference), study.task, items, "cpu")
    tight = Full(build(study.reference), 20, error)
    assert evaluate(tight, study.task, items, "cpu")["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert sum(n for n in tight.passes if n <= 20) == len(items[0])  # every item once
    failed = sum(n > 20 for n in tight.passes)
    assert released == ["cpu"] * failed
    evaluate(tight, study.task, items, "cpu")
    assert failed == sum(n > 20 for n in tight.passes)  # the size that fits is kept for the model
    with pytest.raises(error):
        evaluate(Full(build(study.reference), 0, error), study.task, items, "cpu")
    with pytest.raises(RuntimeError, match="other"):
        evaluate(Broken(), study.task, items, "cpu")


class Broken(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("other")


def test_an_evaluation_waits_for_the_device_once(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load(study_file)
    study.task.chunk = 4
    waits, item = [], torch.Tensor.item
    monkeypatch.setattr(torch.Tensor, "item", lambda t: waits.append(t.dtype) or item(t))
    evaluate(build(study.reference), study.task, study.task.validation(), "cpu")
    assert waits == [torch.float64]


def test_a_trial_that_is_out_of_memory_leaves_nothing_behind_for_the_next(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load(study_file)
    made: list[Any] = []
    alive: list[bool] = []
    plain = trial.build

    def full(*arguments: Any) -> Any:
        model = plain(*arguments)
        model.circle = [model.forward]  # only the collector frees it
        model.register_forward_pre_hook(lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
        made.append(weakref.ref(model))
        return model

    monkeypatch.setattr(trial, "build", full)
    release = devices.release
    monkeypatch.setattr(devices, "release", lambda device: (release(device), alive.append(made[0]() is not None)))
    found = run(plan(study))
    assert (found["outcome"], found["message"]) == ("out-of-memory", "OutOfMemoryError: no room") and alive == [False]
    monkeypatch.setattr(trial, "build", plain)
    assert run(plan(study))["outcome"] == "done"
    assert found["peak_memory"] > 0  # of the process


def test_the_peak_of_memory_is_that_of_the_trial(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    monkeypatch.setattr(devices, "begin_peak", lambda device: calls.append("begin"))
    monkeypatch.setattr(devices, "peak", lambda device: 123)
    monkeypatch.setattr(devices, "release", lambda device: calls.append("release"))
    assert run(plan(load(study_file)))["peak_memory"] == 123 and calls == ["begin"]


def test_errors_of_full_memory_and_of_a_lost_device_are_told_apart() -> None:
    assert devices.out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert devices.out_of_memory(RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"))
    assert not devices.out_of_memory(RuntimeError("size mismatch"))
    assert devices.lost(torch.AcceleratorError("CUDA error: device-side assert triggered"))
    assert not devices.lost(torch.AcceleratorError("CUDA error: out of memory")) and not devices.lost(RuntimeError("size mismatch"))


def test_after_a_lost_device_a_run_in_this_process_ends_in_one_line_and_goes_on_when_it_is_started_again(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load(study_file)
    plain, heard = trial.build, Heard()

    def broken(*_: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(trial, "build", broken)
    work = Work([[plan(study, seed)] for seed in range(3)])
    with pytest.raises(RunError, match=r"device was lost .*device-side assert.*run the same command again"):
        Local(PROCESSOR).run(work, heard, Checkpoints(tmp_path))
    assert [r["outcome"] for r in heard.records] == ["failed"]
    monkeypatch.setattr(trial, "build", plain)
    Local(PROCESSOR).run(Work(list(work.bundles)[1:]), heard, Checkpoints(tmp_path))
    assert [r["outcome"] for r in heard.records] == ["failed", "done", "done"]


def test_a_device_that_is_lost_after_training_is_named_and_the_trial_is_kept(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*_: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    heard = Heard()
    monkeypatch.setattr(probe, "measure", lost)
    with pytest.raises(RunError, match=r"device was lost \(AcceleratorError: .*device-side assert"):
        Local(PROCESSOR).run(Work([[plan(load(study_file))]]), heard, Checkpoints(tmp_path))
    (record,) = heard.records
    assert record["outcome"] == "done" and record["measures"] and record["test"] and list(record["unmeasured"]) == ["diagnostics"]


def test_a_device_that_is_full_before_a_trial_begins_is_the_trials_result(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> str:  # as torch says where a neighbour leaves no room to begin in
        raise RuntimeError("CUDA error: out of memory")

    monkeypatch.setattr(torch.cuda, "get_device_name", full)
    found = run(plan(load(study_file)), DeviceSettings(1, "cuda"))
    assert (found["outcome"], found["message"]) == ("out-of-memory", "RuntimeError: CUDA error: out of memory")


class Heard:
    """An observer that keeps what it hears."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []

    def started(self, trial: dict[str, Any]) -> None: ...
    def point(self, trial: dict[str, Any], point: Any) -> None: ...
    def finished(self, record: dict[str, Any]) -> None:
        self.records.append(record)


# What is the same every time.


def test_a_grant_asks_for_what_is_the_same_every_time_and_restores_what_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    shares: list[float] = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", shares.append)

    def state() -> tuple[Any, ...]:
        cudnn = torch.backends.cudnn
        return torch.get_num_threads(), torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32

    before = state()
    with DeviceSettings(1, "cuda", share=0.5).use():
        assert state() == (1, 2, True, False, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8" and shares == [0.5]
    assert state() == before and shares == [0.5, 1.0]
    with DeviceSettings(1, deterministic=False).use():
        assert torch.get_deterministic_debug_mode() == 0


def test_a_part_that_torch_can_not_compute_alike_every_time_is_trained_and_told(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trial.build
    points: list[Any] = []

    def odd(*arguments: Any) -> Any:
        model = plain(*arguments)
        model.register_forward_pre_hook(lambda *_: [torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))] and None)
        return model

    made = plan(load(study_file))
    expected = run(made)
    monkeypatch.setattr(trial, "build", odd)
    found = trial.run(made, DeviceSettings(1), points.append)
    assert expected["deterministic"] and not found["deterministic"]
    assert found["outcome"] == "done" and found["curve"] == expected["curve"] == points
    assert forecast(odd(load(study_file).reference, 0), load(study_file).task, made["training"], DeviceSettings(1)) > 0


def test_a_trial_that_is_trained_again_tells_every_point_once_and_comes_to_every_rung_in_its_place(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure, reached = probe.measure, []

    def odd(*arguments: Any, **more: Any) -> Any:
        torch.zeros(3).put_(torch.tensor([1]), torch.ones(1))  # torch cannot do this alike every time
        return measure(*arguments, **more)

    class Watched(Rungs):
        def reach(self, trial: str, evaluation: int, value: float) -> str:
            reached.append(evaluation)
            return super().reach(trial, evaluation, value)

    monkeypatch.setattr(probe, "measure", odd)
    made, points = plan(load(study_file), steps=8, evaluations=4), []
    found = trial.run(made, DeviceSettings(1), points.append)
    assert not found["deterministic"] and found["curve"] == points
    search = Search(iter([made]), lambda _: None, Watched(4, 2), "bits_per_byte")
    Local(PROCESSOR).run(Work(search=search), Heard(), Checkpoints(tmp_path))
    assert reached == [1, 2, 3]


def test_saved_weights_are_a_processors(study_file: Path, tmp_path: Path) -> None:
    made = plan(load(study_file))
    trial.run(made, DeviceSettings(1), lambda _: None, Checkpoints(tmp_path))
    assert {w.device.type for w in torch.load(tmp_path / f"{made['key']}.pt").values()} == {"cpu"}


# What a machine has.


@pytest.mark.parametrize(
    ("settings", "cpus", "gpus", "room"),
    [
        ({}, 8, 0, 8),
        ({}, 8, 2, 2),
        ({"cpus": 4}, 8, 2, 2),
        ({"cpus": 8}, 8, 2, 1),
        ({"gpus": 0}, 8, 2, 8),
        ({"gpus": 0.5}, 8, 1, 2),
        ({"gpus": 0.4}, 32, 3, 6),  # a trial lies on one GPU
        ({"gpus": 1}, 8, 0, 0),
        ({"cpus": 64}, 2, 0, 0),
    ],
)
def test_so_many_trials_have_room(settings: dict[str, Any], cpus: int, gpus: int, room: int) -> None:
    assert Resources(**settings).room(cpus, gpus) == room


@pytest.mark.parametrize("gpus", ["-1", "1.5", "2", ".nan", "some"])
def test_a_trial_is_granted_one_gpu_at_most(study_file: Path, gpus: str) -> None:
    with pytest.raises(InputError, match="gpus"):
        load(study_file, [f"study.resources.gpus={gpus}"])


@pytest.mark.parametrize(("gpus", "there", "device"), [("auto", 0, "cpu"), ("auto", 2, "cuda"), (0, 2, "cpu"), (0.5, 1, "cuda")])
def test_a_run_in_this_process_takes_a_gpu_where_there_is_one(gpus: Any, there: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "gpus_here", lambda: there)
    assert Local(Resources(gpus=gpus)).hardware.device == device


@pytest.mark.parametrize("setting", ["gpus=1", "gpus=0.5", "cpus=6400"])
def test_a_run_in_this_process_on_a_machine_that_lacks_something_is_refused_in_one_line(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, setting: str
) -> None:
    monkeypatch.setattr(devices, "gpus_here", lambda: 0)
    study = load(study_file, ["study.seeds=1", f"study.resources.{setting}"])
    with pytest.raises(InputError, match=r"a trial asks for \d+ cpus and [\d.]+ gpus \(study.resources\), there are \d+ and 0$"):
        runner.run(study, tmp_path / "run", LOCAL)
    with pytest.raises(InputError, match="a trial asks for"):
        runner.run(study, tmp_path / "run", runner.Options(track=False))  # Ray is not even started
    assert not (tmp_path / "run").exists()


def test_a_plan_for_a_larger_machine_is_made_and_says_so(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aotsearch.running import forecast as forecasts

    monkeypatch.setattr(forecasts, "gpus_here", lambda: 0)
    found = forecasts.forecast(load(study_file, ["study.resources.gpus=1"]))
    assert found["device"] == "cpu" and found["workers"] == 1
    assert "This machine cannot run it: a trial asks for 1 cpus and 1 gpus" in forecasts.table(found)
    assert "cannot run" not in forecasts.table(forecasts.forecast(load(study_file)))


def place(root: Path, groups: str, **files: str) -> Path:
    """The files of a system under `root`; `/` is written `__` in their names."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "granted"),
    [
        ("0::/\n", {"cpu_max": "350000 100000\n"}, 3),  # rounded down
        ("0::/\n", {"cpu_max": "50000 100000\n"}, 1),  # at least 1
        ("0::/\n", {"cpu_max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu_max": "9900000 100000\n"}, 8),  # more than there are
        ("0::/a/b\n", {"a__b__cpu_max": "600000 100000\n", "a__cpu_max": "200000 100000\n", "cpu_max": "400000 100000\n"}, 2),  # the least
        ("0::/elsewhere\n", {"cpu_max": "400000 100000\n"}, 4),  # the path of the host, in a container
        ("0::/a\n", {"b__cpu_max": "100000 100000\n"}, 8),  # another's
        ("4:cpu,cpuacct:/a\n1:name=systemd:/\n", {"cpu__a__cfs_quota_us": "250000\n", "cpu__a__cfs_period_us": "100000\n"}, 2),
        ("4:cpuacct,cpu:/\n0::/\n", {"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, 8),
        ("4:cpuset:/\n", {"cpu__cfs_quota_us": "100000\n", "cpu__cfs_period_us": "100000\n"}, 8),  # no group of processor time
        ("0::/\n", {"cpu_max": "what is this\n"}, 8),
    ],
)
def test_no_more_processors_are_used_than_affinity_and_control_groups_grant(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, str], granted: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert processors(place(tmp_path, groups, **files)) == granted


def test_a_system_without_affinity_and_control_groups_has_all_its_processors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert processors(tmp_path) == 6


def test_a_run_asks_for_no_more_than_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "processors", lambda: 1)
    with pytest.raises(InputError, match=r"asks for 2 cpus and 0 gpus .*there are 1 and 0"):
        Local(Resources(cpus=2, gpus=0))
    monkeypatch.setattr(cluster, "processors", lambda: 1)
    with pytest.raises(InputError, match="there are 1 and 0"):
        cluster.Cluster(None, None, Resources(cpus=2, gpus=0))


# Sharing a GPU.

GB = 10**9
SMALL = packing.Probe(memory=80 * GB, context=GB, peak=7 * GB, waiting=0.95)


@pytest.mark.parametrize(
    ("changed", "size", "bundles", "places", "gpus", "part"),
    [
        ({}, 1.0, 100, 64, 2, 1 / 4),  # 72 GB / 8 GB is 9: as many as ever share
        ({"peak": 23 * GB}, 1.0, 100, 64, 2, 1 / 3),  # 72 / 24
        ({"peak": 24 * GB}, 1.0, 100, 64, 2, 1 / 2),  # 72 / 25 is 2.88
        ({"peak": 24 * GB}, 0.25, 100, 64, 2, 1 / 4),  # a bundle a quarter as large beside it: 72 / 7
        ({"peak": 40 * GB}, 1.0, 100, 64, 2, 1.0),  # 72 / 41: alone
        ({"peak": 40 * GB}, 0.5, 100, 64, 2, 1 / 3),  # 72 / 21 is 3.4
        ({"peak": 90 * GB}, 1.0, 100, 64, 2, 1.0),  # more than there is: the trial will say
        ({"waiting": 0.79}, 1.0, 100, 64, 2, 1.0),  # one keeps the GPU busy
        ({}, 1.0, 100, 7, 2, 1 / 3),  # processors for 3 on each
        ({}, 1.0, 100, 1, 2, 1.0),
        ({}, 1.0, 3, 64, 2, 1 / 2),  # no more company than there are bundles
        ({}, 1.0, 2, 64, 2, 1.0),
    ],
)
def test_small_bundles_that_leave_a_gpu_waiting_share_it_and_large_ones_have_it_alone(
    changed: dict[str, Any], size: float, bundles: int, places: int, gpus: int, part: float
) -> None:
    assert packing.share(dataclasses.replace(SMALL, **changed), size, bundles, places, gpus) == part


def test_a_bundle_needs_as_many_times_the_memory_as_it_may_have_replicas(study_file: Path) -> None:
    made = plan(load(study_file))
    one = training_bytes(load(study_file).reference, 4)
    found = [packing.needs([made] * n, fuse) for n, fuse in ((1, "auto"), (5, "auto"), (5, 3), (2, 3), (5, 1))]  # type: ignore[arg-type]
    assert found == [one, 5 * one, 3 * one, 2 * one, one]


@pytest.mark.parametrize(("fuse", "replicas"), [(1, 1), (3, 3), (8, 4)])
def test_a_probe_trains_and_evaluates_the_bundle_as_it_will_be(
    study_file: Path, monkeypatch: pytest.MonkeyPatch, fuse: int, replicas: int
) -> None:
    made, seen = plan(load(study_file)), []
    plain, measure = rehearsal.program, packing.evaluate

    def watched(models: Any, task: Any, trainings: Any, precision: str, fused: bool) -> Any:
        seen.append((len(models), fused))
        return plain(models, task, trainings, precision, fused)

    monkeypatch.setattr(rehearsal, "program", watched)
    monkeypatch.setattr(packing, "evaluate", lambda *given: seen.append("evaluated") or measure(*given))
    monkeypatch.setattr(devices, "memory", lambda _: (80, 2, 5))
    found = packing.probe([made] * 4, DeviceSettings(1), fuse)
    assert found is not None and (found.memory, found.context, found.peak) == (80, 2, 5) and 0.5 < found.waiting <= 1
    assert seen == [(replicas, fuse > 1), "evaluated"]
    monkeypatch.setattr(devices, "memory", lambda _: 1 / 0)
    assert packing.probe([made] * 4, DeviceSettings(1), fuse) is None


def sharing(**more: Any) -> Any:
    """A cluster of which only the rule of sharing is looked at: 2 GPUs, 16 processors."""
    made = object.__new__(cluster.Cluster)
    vars(made).update({"cards": 2, "places": 16, "cpus": 1, "gpus": 1.0, "fuse": 1, "usual": "", "_crowded": set(), **more})
    return made


class Remote:
    """Ray that computes at once, here."""

    def remote(self, **_: Any) -> Any:
        def wrap(function: Any) -> Any:
            function_ = type("Function", (), {"remote": staticmethod(function)})
            return function_

        return wrap

    def get(self, value: Any) -> Any:
        return value


def test_where_it_is_left_to_us_the_largest_bundle_is_measured_and_each_has_the_share_of_its_size(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = plan(load(study_file))
    bundles = [
        [{**made, "key": f"k{i}", "training": {**made["training"], "batch": batch}}] for i, batch in enumerate((400, 4, 100, 4, 4, 4))
    ]
    asked = []

    def probe(bundle: Any, hardware: DeviceSettings, fuse: Any) -> packing.Probe:
        asked.append((bundle[0]["key"], hardware.device))
        return dataclasses.replace(SMALL, peak=60 * GB)

    monkeypatch.setattr(packing, "probe", probe)
    found = sharing(_ray=Remote())._shares(bundles)
    assert asked == [("k0", "cuda")]
    assert found["k0"] == 1.0 and found["k1"] == 1 / 3 and found["k2"] in (1 / 3, 1 / 4)  # six bundles are three on each of two GPUs
    assert sharing(_ray=Remote())._shares(bundles[:2]) == {}  # each has a GPU
    assert sharing(cards=0)._shares(bundles) == sharing(places=2)._shares(bundles) == {}  # a share was asked for; no processor is free
    monkeypatch.setattr(packing, "probe", lambda *_: None)
    assert sharing(_ray=Remote())._shares(bundles) == {}
    monkeypatch.setattr(packing, "probe", lambda *_: 1 / 0)
    assert sharing(_ray=Remote())._shares(bundles) == {}


@pytest.mark.parametrize(("share", "shares", "again"), [(1.0, {}, False), (0.5, {}, True), (1.0, {"k": 0.25}, True), (0.0, {}, False)])
def test_what_a_shared_gpu_has_no_memory_for_is_not_told_before_it_was_alone(
    share: float, shares: dict[str, float], again: bool, study_file: Path, tmp_path: Path
) -> None:
    made = {**plan(load(study_file)), "key": "k"}
    full = {"key": "k", "outcome": "out-of-memory", "measures": {}}
    crowded: list[Any] = []
    told = Heard()
    callback = hearing.callback(Work([[made]]), told, {}, crowded, Counter(), tmp_path)
    ray_trial: Any = type("Trial", (), {"config": {"bundle": [made], "share": share, "shares": shares}})
    callback.on_trial_start(0, [], ray_trial)
    callback.on_trial_result(0, [], ray_trial, {"record": full})
    callback.on_trial_complete(0, [], ray_trial)
    assert (crowded, told.records) == (([made], []) if again else ([], [full]))


@pytest.mark.parametrize("how", ["record", "fate", "ray"])
@pytest.mark.parametrize("crowded", [True, False])
def test_what_the_machine_has_no_memory_for_is_tried_alone_once_and_then_told(
    how: str, crowded: bool, study_file: Path, tmp_path: Path
) -> None:
    first, made = ({**plan(load(study_file)), "key": key} for key in ("j", "k"))
    again: list[Any] = []
    told, lonely = Heard(), set[str]()
    losses = Counter({"k": 9})  # which says nothing of one that had no memory
    callback = hearing.callback(Work([[first, made]]), told, {}, again, losses, tmp_path, lonely if crowded else None)
    why = RuntimeError(
        "Memory on the node was 22 GB, which exceeds the memory usage threshold of 0.95" if how == "ray" else "the actor died"
    )
    config = {"bundle": [first, made], "share": 0.0, "shares": {}}
    ray_trial: Any = type("Trial", (), {"config": config, "error_file": None, "get_pickled_error": lambda _: why})()
    callback.on_trial_start(0, [], ray_trial)
    callback.on_trial_result(0, [], ray_trial, {"record": {"key": "j", "outcome": "done", "measures": {}}})
    if how == "record":
        callback.on_trial_result(0, [], ray_trial, {"record": {"key": "k", "outcome": "out-of-memory", "measures": {}}})
        callback.on_trial_complete(0, [], ray_trial)
    else:
        if how == "fate":
            watch.path_of(tmp_path, "k").write_text("out-of-memory: it took 9 GB\nat a place")
        callback.on_trial_error(0, [], ray_trial)
    assert not watch.path_of(tmp_path, "k").exists()
    assert [r["key"] for r in told.records] == (["j"] if crowded else ["j", "k"])
    assert (again, lonely) == (([made], {"k"}) if crowded else ([], set()))
    if not crowded:
        assert told.records[1]["outcome"] == "out-of-memory"


def test_data_that_fails_in_a_worker_ends_the_run_in_its_words(study_file: Path, tmp_path: Path) -> None:
    made = plan(load(study_file))
    callback = hearing.callback(Work([[made]]), Heard(), {}, [], Counter(), tmp_path)
    ray_trial: Any = type("Trial", (), {"config": {"bundle": [made], "share": 1.0, "shares": {}}})
    callback.on_trial_start(0, [], ray_trial)
    with pytest.raises(RunError, match="the data was altered"):
        callback.on_trial_result(0, [], ray_trial, {"ends": "the data was altered", "loss": 0.0})
    assert callback.ended == "the data was altered"  # Tune wraps what a callback raises


@pytest.mark.parametrize("search", [False, True])
def test_out_of_memory_means_again_alone_on_a_whole_gpu(search: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    trials, fits = [{"key": "a"}, {"key": "b"}], []

    def fit(work: Work, observer: Any, checkpoints: Path, gpus: float, shares: Any) -> list[Any]:
        fits.append((list(work.search.proposals) if work.search else work.bundles, gpus, shares))
        return trials[1:] if len(fits) == 1 else []

    made = sharing(gpus=0.5, _fit=fit, _shares=lambda _: {"a": 0.25})
    work = Work(search=Search(iter(trials), lambda _: None, Rungs(4, 2), "loss")) if search else Work([[t] for t in trials])
    made.run(work, Heard(), Checkpoints(tmp_path))
    first, second = ([trials, trials[1:]]) if search else ([[t] for t in trials], [[trials[1]]])
    assert fits == [(first, 0.5, {"a": 0.25}), (second, 1.0, {})]


def test_what_had_no_memory_beside_others_has_the_cluster_to_itself_after_all_others(tmp_path: Path) -> None:
    trials, fits = [{"key": key} for key in "abc"], []

    def fit(work: Work, observer: Any, checkpoints: Path, gpus: float, shares: Any, together: int = 0) -> list[Any]:
        fits.append((work.bundles, together))
        return trials[1:] if len(fits) == 1 else []

    sharing(gpus=0.0, _fit=fit, _shares=lambda _: {}, _crowded={"b"}).run(Work([[t] for t in trials]), Heard(), Checkpoints(tmp_path))
    assert fits == [([[t] for t in trials], 0), ([[trials[2]]], 0), ([[trials[1]]], 1)]


@pytest.mark.parametrize(
    ("groups", "files", "granted"),
    [
        ("0::/a\n", {"a__memory.max": "max\n", "memory.max": "3000\n"}, 3000),
        ("0::/a\n", {"a__memory.max": "2000\n", "memory.max": "3000\n"}, 2000),
        ("4:memory:/a\n", {"memory__a__memory.limit_in_bytes": "2000\n", "memory__memory.limit_in_bytes": "9223372036854771712\n"}, 2000),
        ("0::/\n", {"memory.max": "what is this\n"}, None),
        ("0::/\n", {}, None),
    ],
)
def test_no_more_memory_is_counted_on_than_control_groups_grant(
    tmp_path: Path, groups: str, files: dict[str, str], granted: int | None
) -> None:
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert environment.memory(place(tmp_path, groups, **files)) == (granted or machine)


def test_the_limit_of_a_trial_is_what_was_asked_for_or_its_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "memory", lambda: 10 * GB)
    assert environment.memory_limit(2, 4) == 2e9
    assert environment.memory_limit("auto", 4) == pytest.approx(2.25 * GB)
    monkeypatch.setattr(environment, "memory", lambda: None)
    assert environment.memory_limit("auto", 4) is None
