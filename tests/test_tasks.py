"""The contract that every registered task keeps (`aotsearch.tasks.Task`)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aotsearch.grammar import library
from aotsearch.tasks import Task
from aotsearch.training.device import DeviceSettings
from aotsearch.training.evaluation import evaluate
from aotsearch.training.train import train

Array = np.ndarray[Any, Any]


def log_softmax(x: Array) -> Array:
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def language_loss(outputs: Array, targets: Array) -> Array:
    return -np.take_along_axis(log_softmax(outputs), targets[..., None], -1)


def vision_loss(outputs: Array, targets: Array) -> Array:
    return -log_softmax(outputs)[np.arange(len(targets)), targets]


def regression_loss(outputs: Array, targets: Array) -> Array:
    return np.stack([(outputs[:, 2 * i, 0] - targets[:, i]) ** 2 for i in range(targets.shape[1])])


def denoise_loss(outputs: Array, targets: Array) -> Array:
    return ((outputs - targets) ** 2).sum(-1) / 4


def cluster_loss(outputs: Array, targets: Array) -> Array:
    z = outputs / np.linalg.norm(outputs, axis=-1, keepdims=True)
    p = np.exp(z @ z.swapaxes(1, 2) / 0.05 - 20)
    p[:, np.arange(z.shape[1]), np.arange(z.shape[1])] = 0
    return -np.log((p * (targets[:, :, None] == targets[:, None])).sum(-1) / p.sum(-1))


# options, the shapes of one input, one target and one output, and the loss of each target by hand
CASES: dict[str, tuple[dict[str, Any], tuple[int, ...], tuple[int, ...], tuple[int, ...], Callable[[Array, Array], Array]]] = {
    "language": ({"data": {"text": "a.txt"}, "context": 16}, (16,), (16,), (16, 256), language_loss),
    "vision": ({"flip": True}, (1, 8, 8), (), (10,), vision_loss),
    "denoise": ({"subspaces": 3, "dimension": 4, "tokens": 12}, (12, 12), (12, 12), (12, 12), denoise_loss),
    "cluster": ({"images": 20, "dimension": 6, "neighbours": 3}, (20, 64), (20,), (20, 6), cluster_loss),
    "regression": ({"inputs": 4, "points": 6}, (12, 4), (6,), (12, 1), regression_loss),
}


class Case:
    def __init__(self, name: str, folder: Path):
        (folder / "a.txt").write_bytes(np.random.default_rng(0).integers(0, 256, 20_000).astype(np.uint8).tobytes())
        options, *shapes, self.by_hand = CASES[name]
        self.input, self.target, self.output = shapes
        self.word = library.find("task", name)
        self.task: Task = self.word.load()(folder, **options)

    def outputs(self, size: int) -> torch.Tensor:
        return torch.randn(size, *self.output, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=list(library.words_of("task")))
def case(request: pytest.FixtureRequest, tmp_path: Path) -> Case:
    return Case(request.param, tmp_path)


def test_a_task_has_sizes_a_measure_and_facts(case: Case) -> None:
    task = case.task
    assert all(isinstance(size, int) and size > 0 for size in task.sizes.values()) and task.chunk >= 1
    facts = task.prepare()
    assert facts["manifest"] and facts["unit"] == task.unit and all(np.isfinite(v) for v in facts["baselines"].values())
    assert set(facts.get("bounds", ())) <= facts["baselines"].keys()


def test_a_task_survives_being_written_down(case: Case, tmp_path: Path) -> None:
    ((name, options),) = case.task.to_plain().items()
    again = case.word.load()(tmp_path / "elsewhere", **options)
    assert name == case.word.name and again.to_plain() == case.task.to_plain() and again.prepare() == case.task.prepare()
    assert all(np.array_equal(a, b) for a, b in zip(again.batch(3, 4, 5), case.task.batch(3, 4, 5), strict=True))


def test_a_batch_is_a_function_of_seed_and_step_in_the_shapes_of_the_task(case: Case) -> None:
    task = case.task
    inputs, targets = task.batch(1, 7, 5)
    assert inputs.shape == (5, *case.input) and targets.shape == (5, *case.target)
    for array in (inputs, targets):
        assert array.dtype in (np.float32, np.int64)
        torch.from_numpy(array)  # warns of what cannot be written to, refuses negative strides
    assert all(np.array_equal(a, b) for a, b in zip(task.batch(1, 7, 5), (inputs, targets), strict=True))
    assert not np.array_equal(inputs, task.batch(1, 8, 5)[0]) and not np.array_equal(inputs, task.batch(2, 7, 5)[0])


def test_splits_are_fixed_and_share_no_item(case: Case) -> None:
    task = case.task
    splits = {"train": task.batch(0, 0, 1000), "validation": task.validation(), "test": task.test()}
    for inputs, targets in splits.values():
        assert len(inputs) == len(targets) > 0 and inputs.shape[1:] == case.input and targets.shape[1:] == case.target
    assert all(np.array_equal(a, b) for a, b in zip(task.validation(), splits["validation"], strict=True))
    items = [{item.tobytes() for item in inputs} for inputs, _ in splits.values()]
    assert not items[0] & items[1] and not items[0] & items[2] and not items[1] & items[2]


def test_the_loss_is_the_mean_of_what_its_formula_says(case: Case) -> None:
    targets = case.task.batch(0, 0, 6)[1]
    outputs = case.outputs(6)
    by_hand = case.by_hand(outputs.double().numpy(), targets)
    loss = case.task.loss(outputs, torch.from_numpy(targets))
    assert loss.shape == () and loss.dtype == torch.float32 and loss.item() == pytest.approx(by_hand.mean(), rel=1e-5)
    total, number = case.task.totals(outputs, torch.from_numpy(targets))["loss"]
    assert number == by_hand.size and total.item() == pytest.approx(by_hand.sum(), rel=1e-5)
    low = case.task.loss(outputs.bfloat16(), torch.from_numpy(targets))
    assert low.dtype == torch.float32 and low.item() == pytest.approx(loss.item(), rel=0.05)


class Constant(torch.nn.Module):
    """The same outputs for every input, whatever it is."""

    def __init__(self, shape: tuple[int, ...]):
        super().__init__()
        self.outputs = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(1)))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.outputs.expand(len(inputs), *self.outputs.shape)


def test_an_evaluation_is_the_mean_over_all_items_whatever_the_chunk(case: Case) -> None:
    model, items = Constant(case.output), case.task.validation()
    expected = case.by_hand(model(torch.from_numpy(items[0])).detach().double().numpy(), items[1]).mean()
    found = []
    for chunk in (case.task.chunk, 7):
        case.task.chunk = chunk
        found.append(evaluate(model, case.task, items, "cpu"))
        assert found[-1]["loss"] == pytest.approx(expected, rel=1e-5) and case.task.measure in found[-1]
    assert found[0] == pytest.approx(found[1], rel=1e-5)


def test_training_on_a_task_gives_points_with_its_measures(case: Case) -> None:
    steps = {"steps": 4, "batch": 3, "evaluations": 2, "learning_rate": 0.1, "warmup": 0, "floor": 1.0, "clip": 1.0}
    training = steps | {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95}
    curve = train(Constant(case.output), case.task, training, 0, DeviceSettings(1), lambda _: None)
    assert [p["step"] for p in curve if "loss" in p] == [2, 4] and all(np.isfinite(p["train_loss"]) for p in curve)
    assert all(case.task.measure in p for p in curve if "loss" in p) and curve[-1]["loss"] != curve[1]["loss"]


def test_making_a_task_reads_no_data_and_loads_no_torch(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from aotsearch.grammar import library
for name, options in {
    "language": {"data": {"tokens": "missing"}},
    "vision": {"data": {"hub": "missing/missing"}, "image": 32, "channels": 3},
    "regression": {},
}.items():
    task = library.find("task", name).load()(Path("nowhere"), **options)
    assert task.sizes and task.to_plain()
print([m for m in ("torch", "sklearn", "datasets", "pandas") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip() == "[]", done.stderr
