"""What a trial does on another device and in another precision, on a processor: autocast is there too, and devices have stand-ins."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from aotsearch import trial
from aotsearch.model import build
from aotsearch.study import Study, load
from aotsearch.tasks import Items
from aotsearch.train import Grant, train

PRECISIONS = ("float32", "bfloat16")


def plan(study: Study, seed: int = 0, **training: Any) -> dict[str, Any]:
    made = trial.plan(study, study.arms()[0], seed, "design")
    return {**made, "training": {**made["training"], **training}}


def run(made: dict[str, Any], grant: Grant | None = None) -> dict[str, Any]:
    return trial.run(made, grant or Grant(1), lambda _: None)


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
    curve = train(model, OneBatch(study.task, 2), training, 0, Grant(1), lambda _: None)
    assert curve[0]["train_loss"] > 3.0 and curve[-1]["loss"] < 0.1
    assert curve[-1]["loss"] == pytest.approx(curve[-1]["train_loss"], abs=0.05)  # an evaluation sees the weights of the last step
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32 and (p - before[name]).norm() > 0.01 * before[name].norm(), name


def test_losses_in_bfloat16_are_those_in_float32_within_the_noise_of_seeds(study_file: Path) -> None:
    steps = ["study.budget={steps: 80, batch: 16, evaluations: 1}", "study.learning_rate=2e-2"]
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
    assert Grant(1).precision(study.training()) == "float32" and Grant(1, "cuda").precision(study.training()) == "bfloat16"
    assert [Grant(1, "cuda").precision(s.training()) for s in others] == list(PRECISIONS)


def test_a_run_folder_holds_trials_of_one_precision(study_file: Path, tmp_path: Path) -> None:
    from aotsearch import runner
    from aotsearch.errors import InputError

    local = runner.Options(local=True, track=False)
    runner.run(load(study_file, ["study.seeds=1"]), tmp_path / "run", local)
    low = ["study.seeds=1", "study.resources.precision=bfloat16"]
    with pytest.raises(InputError, match=r"study\.resources.*bfloat16.*choose another --out"):
        runner.run(load(study_file, low), tmp_path / "run", local)
