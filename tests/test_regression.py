from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aotsearch.tasks.regression import PROMPTS, Regression, solve
from aotsearch.training.device import DeviceSettings
from aotsearch.training.train import train


def make(**options: Any) -> Regression:
    return Regression(Path(), **options)


def points(tokens: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return tokens[:, ::2], tokens[:, 1::2]


def test_a_prompt_interleaves_points_of_one_linear_function() -> None:
    tokens, targets = make(inputs=4, points=9).batch(0, 0, 8)
    x, y = points(tokens)
    assert tokens.shape == (8, 18, 4) and tokens.dtype == targets.dtype == np.float32
    assert np.array_equal(y[:, :, 0], targets) and not y[:, :, 1:].any()
    for i in range(8):
        w, residual, *_ = np.linalg.lstsq(x[i].astype(float), targets[i].astype(float), rcond=None)
        assert residual < 1e-9 and np.abs(w).min() > 0
    assert make().sizes == {"inputs": 20, "outputs": 1, "context": 82}


def test_points_and_functions_are_standard_normal() -> None:
    x, _ = points(make(inputs=5, points=40).validation()[0])
    assert abs(x.mean()) < 0.01 and x.std() == pytest.approx(1, abs=0.01)
    targets = make(inputs=5, points=40).validation()[1]
    assert len(targets) == PROMPTS and targets.var() == pytest.approx(5, rel=0.1)


def test_a_sparse_function_has_so_many_coordinates_that_are_not_zero() -> None:
    tokens, targets = make(inputs=6, points=12, sparse=2).batch(0, 0, 200)
    x, _ = points(tokens)
    found = [np.linalg.lstsq(a.astype(float), b.astype(float), rcond=None)[0] for a, b in zip(x, targets, strict=True)]
    chosen = [frozenset(np.flatnonzero(np.abs(w) > 1e-4).tolist()) for w in found]
    assert {len(c) for c in chosen} == {2} and len(set(chosen)) == 15  # every pair of six


def test_noise_has_its_standard_deviation() -> None:
    tokens, targets = make(inputs=2, points=400, noise=0.5).batch(0, 0, 20)
    x, y = points(tokens)
    residuals = [b - a @ np.linalg.lstsq(a, b, rcond=None)[0] for a, b in zip(x, targets, strict=True)]
    assert np.std(residuals) == pytest.approx(0.5, rel=0.05) and np.array_equal(y[..., 0], targets)


def test_a_curriculum_begins_with_5_inputs_and_11_points_and_grows_in_stages() -> None:
    task = make(inputs=8, points=20, curriculum=100)
    for step, (inputs, count) in {0: (5, 11), 99: (5, 11), 100: (6, 13), 250: (7, 15), 10_000: (8, 20)}.items():
        tokens, targets = task.batch(0, step, 4)
        x, _ = points(tokens)
        assert tokens.shape == (4, 2 * count, 8) and targets.shape == (4, count)
        assert x[..., :inputs].all() and not x[..., inputs:].any()
    assert task.validation()[0].shape == (PROMPTS, 40, 8)
    assert make(inputs=3, points=4, curriculum=1).batch(0, 0, 1)[0].shape == (1, 8, 3)


def test_the_least_squares_baseline_is_that_of_numpy_at_every_prefix() -> None:
    task = make(inputs=5, points=12)
    tokens, _ = task.batch(0, 0, 50)
    x, y = (a.astype(float) for a in points(tokens))
    made = solve(tokens, 0)
    for n in range(50):
        for i in range(12):
            w = np.linalg.lstsq(x[n, :i], y[n, :i, 0], rcond=None)[0]
            assert made[n, i] == pytest.approx(x[n, i] @ w, abs=1e-3)


def test_the_ridge_baseline_is_its_formula() -> None:
    tokens, _ = make(inputs=3, points=6, noise=0.5).batch(0, 0, 4)
    x, y = (a.astype(float) for a in points(tokens))
    w = np.linalg.solve(x[1, :5].T @ x[1, :5] + 0.25 * np.eye(3), x[1, :5].T @ y[1, :5, 0])
    assert solve(tokens, 0.25)[1, 5] == pytest.approx(x[1, 5] @ w)


def test_baselines_are_zero_at_1_and_least_squares_at_what_theory_says() -> None:
    task = make(inputs=10, points=31)
    facts = task.prepare()
    assert facts["baselines"]["zero"] == pytest.approx(1, abs=0.05) and facts["bounds"] == ["least squares"]
    tokens, targets = task.validation()
    curve = task.curve(solve(tokens, 0), targets)
    np.testing.assert_allclose(curve, np.maximum(0, 1 - np.arange(31) / 10), atol=0.12)
    assert facts["baselines"]["least squares"] == pytest.approx(curve.mean())


def test_ridge_beats_least_squares_where_there_is_noise_and_a_sparse_task_has_no_bound() -> None:
    task = make(inputs=5, points=20, noise=1.0)
    facts = task.prepare()
    tokens, targets = task.validation()
    assert facts["bounds"] == ["ridge"] and facts["baselines"]["ridge"] < task.curve(solve(tokens, 0), targets).mean()
    assert facts["baselines"]["zero"] == pytest.approx(1 + 1 / 5, abs=0.08)
    assert make(sparse=3).prepare()["bounds"] == []


def test_the_measure_is_1_for_zeros_and_0_for_the_truth() -> None:
    task = make(inputs=6, points=8, sparse=2)
    _, targets = (torch.from_numpy(a) for a in task.validation())
    for scale in (0.0, 1.0):
        outputs = torch.full((PROMPTS, 16, 1), 7.0)  # what stands at the places of y is not read
        outputs[:, ::2, 0] = scale * targets
        found = task.measures({name: total.item() / number for name, (total, number) in task.totals(outputs, targets).items()})
        assert found["squared_error"] == pytest.approx(1 - scale, abs=0.1) == found["last_squared_error"]
        assert found["loss"] == pytest.approx(2 * found["squared_error"])


class OneStep(torch.nn.Module):
    """f(x_i) = s sum over j < i of y_j (x_j . x_i): linear attention as one step of gradient descent."""

    def __init__(self) -> None:
        super().__init__()
        self.s = torch.nn.Parameter(torch.zeros(1))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x, y = tokens[:, ::2], tokens[:, 1::2, :1]
        scores = torch.tril(x @ x.mT, -1)
        return torch.repeat_interleave(self.s * (scores @ y), 2, dim=1)


def test_linear_attention_learns_in_context_better_than_zero() -> None:
    task = make(inputs=4, points=10, curriculum=20)
    training = {"steps": 60, "batch": 64, "evaluations": 1, "learning_rate": 1e-2, "warmup": 0.1, "floor": 0.1, "clip": 1.0}
    training |= {"weight_decay": 0.0, "beta1": 0.9, "beta2": 0.95}
    point = train(OneStep(), task, training, 0, DeviceSettings(1), lambda _: None)[-1]
    assert task.prepare()["baselines"]["least squares"] < point["squared_error"] < 0.8
    assert point["last_squared_error"] < point["squared_error"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparse": 21}, "sparse is at most inputs, the number of coordinates there are: 20, not 21"),
        ({"noise": -0.5}, "noise is a standard deviation of at least 0, not -0.5"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make(**options)


def test_the_smallest_tasks_that_draw_their_own_data_have_something_in_every_split() -> None:
    from aotsearch.tasks.denoise import Denoise

    for task in (Regression(Path(), inputs=1, points=1), Denoise(Path(), subspaces=2, dimension=1, tokens=2, sets=1)):
        assert all(np.isfinite(value) for value in task.prepare()["baselines"].values())
        assert all(x.size and y.size for x, y in (task.batch(0, 0, 1), task.validation(), task.test()))
