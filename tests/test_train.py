from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.grammar.space import Space
from aotsearch.models.model import build
from aotsearch.models.parts.context import decayed, decays, drawn
from aotsearch.study.design import Arm
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.training import trial
from aotsearch.training.adamw import AdamW
from aotsearch.training.checkpoint import Checkpoints
from aotsearch.training.device import DeviceSettings
from aotsearch.training.environment import environment
from aotsearch.training.evaluation import evaluate
from aotsearch.training.program import program
from aotsearch.training.schedule import learning_rate
from aotsearch.training.train import Diverged, Stopped, train


def plan(study: Study, seed: int = 0, **training: Any) -> dict[str, Any]:
    made = trial.plan(study, study.arms()[0], seed, "design")
    return {**made, "training": {**made["training"], **training}}


def run(made: dict[str, Any], **options: Any) -> dict[str, Any]:
    return trial.run(made, DeviceSettings(1), lambda _: None, **options)


def test_the_same_seed_gives_the_same_losses_to_the_last_bit(study_file: Path) -> None:
    study = load(study_file)
    first, again, other = run(plan(study)), run(plan(study)), run(plan(study, seed=1))
    assert first["curve"] == again["curve"] and first["measures"] == again["measures"]
    assert first["measures"] != other["measures"]


def test_training_learns_the_text_better_than_counting_bytes(study_file: Path) -> None:
    study = load(study_file, ["study.budget.steps=200", "study.budget.batch=16", "study.learning_rate=3e-2"])
    found = run(plan(study))
    assert found["outcome"] == "done"
    assert found["measures"]["bits_per_byte"] < study.task.prepare()["baselines"]["unigram"] - 0.15
    assert found["measures"]["loss"] == pytest.approx(found["measures"]["bits_per_byte"] * math.log(2))


def test_the_learning_rate_rises_linearly_and_falls_as_a_cosine() -> None:
    training = {"steps": 100, "warmup": 0.1, "learning_rate": 2.0, "floor": 0.25}
    rates = [learning_rate(step, training) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9] == pytest.approx(2.0)
    assert rates[54] == pytest.approx(0.5 + 1.5 / 2) and rates[99] == pytest.approx(0.5)
    assert learning_rate(0, training | {"warmup": 0}) < 2.0


def test_evaluation_is_the_mean_over_every_window_whatever_the_batch(study_file: Path) -> None:
    study = load(study_file)
    model = build(study.reference)
    x, y = study.task.validation()
    logits = model(torch.from_numpy(x)).flatten(0, 1)
    expected = torch.nn.functional.cross_entropy(logits, torch.from_numpy(y).flatten()).item()
    assert evaluate(model, study.task, (x, y), "cpu")["loss"] == pytest.approx(expected, rel=1e-5)
    tiled = (np.tile(x, (60, 1)), np.tile(y, (60, 1)))  # several forward passes
    assert len(tiled[0]) > 2 * study.task.chunk
    assert evaluate(model, study.task, tiled, "cpu")["loss"] == pytest.approx(expected, rel=1e-5)


def test_only_matrices_decay(study_file: Path) -> None:
    study = load(study_file)
    model = build(study.reference)
    gain = model.steps["attention_0"].norm.gain
    before = model.embedding.weight.detach().clone(), gain.detach().clone()
    training = study.training() | {"learning_rate": 1e-9, "weight_decay": 1e8, "steps": 1, "warmup": 0, "floor": 1.0}
    train(model, study.task, training, 0, DeviceSettings(1), lambda _: None)
    torch.testing.assert_close(model.embedding.weight, before[0] * 0.9, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(gain, before[1], atol=1e-6, rtol=1e-6)


def test_what_decays_is_what_its_source_decays(study_file: Path) -> None:
    language, image = {"vocabulary": 11, "context": 8}, {"image": 8, "channels": 2, "classes": 5}
    sets = {"inputs": 16, "outputs": 16, "context": 8}
    models: list[tuple[str, dict[str, int], set[str]]] = [  # what is spared though it has two dimensions or more
        ("depth: 2, block: [{attention: {bias: true, persistent_kv: 2, scale: learned}}, mlp]", language, set()),  # nanoGPT decays tables
        ("depth: 1, block: [{attention: {second_map: differential, head_norm: rms, qk_norm: rms, heads: 2}}, glu]", language, set()),
        ("depth: 1, join: layerscale, block: [tssa, linear]", language, {"steps.tssa_0.operation.offset_HL"}),
        ("depth: 1, block: [attention, mlp]", sets, set()),
        ("depth: 1, pooling: class-token, block: [attention, ista]", image, {"positions.table"}),  # timm, big_vision
        ("depth: 1, pooling: class-attention, positions: fourier, embedding: {stem: {size: 4}}, block: [tssa, mlp]", image, set()),
        (
            "depth: 1, positions: none, block: [{attention: {qkv: tied}}, dictionary]",  # CRATE-alpha: kernels alone
            image,
            {f"steps.dictionary_0.operation.{name}_DF" for name in ("dictionary", "decoder")},
        ),
    ]
    for text, sizes, spared in models:
        model = build(Space.parse(yamlfile.parse(f"model: {{width: 16, {text}}}", "f"), sizes).reference)
        training = {"weight_decay": 0.1, "clip": 1.0, "beta1": 0.9, "beta2": 0.99}
        made: Any = program([model], load(study_file).task, [training], "float32", fused=False)
        adam = made.adam
        names = {id(p): name for name, p in model.named_parameters()}
        decaying = {names[id(p)] for p, decay in zip(adam.weights, adam.decays, strict=True) if decay > 0}
        assert sorted(map(id, adam.weights)) == sorted(names)  # each once
        assert decaying == {name for name, p in model.named_parameters() if p.ndim >= 2} - spared, text


def test_a_part_may_say_that_a_vector_decays_and_a_table_does_not() -> None:
    vector, table = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 3))
    assert not decays(vector) and decays(table)
    assert decays(decayed(vector, True)) and not decays(decayed(drawn(table, 0.02), False))


def test_an_update_is_that_of_torch_to_the_last_bit() -> None:
    torch.manual_seed(0)
    start, training = [torch.randn(5, 3), torch.randn(3)], {"weight_decay": 0.1, "beta1": 0.9, "beta2": 0.95}
    ours, theirs = ([w.clone() for w in start] for _ in range(2))
    adam = AdamW(ours, [True, False], training)
    groups = [{"params": theirs[:1], "weight_decay": 0.1}, {"params": theirs[1:], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.95), fused=True)
    for step in range(5):
        gradients = [torch.randn_like(w) for w in start]
        adam.step(gradients, rate := 0.01 / (step + 1))
        for group, weight, gradient in zip(reference.param_groups, theirs, gradients, strict=True):
            group["lr"], weight.grad = rate, gradient
        reference.step()
    assert all(map(torch.equal, ours, theirs))


def test_the_first_update_by_hand_and_a_weight_without_gradient_stays() -> None:
    weight, still = torch.tensor([2.0]), torch.tensor([3.0])
    AdamW([weight, still], [True, True], {"weight_decay": 0.5, "beta1": 0.9, "beta2": 0.99}).step([torch.tensor([4.0]), None], 0.1)
    assert weight.item() == pytest.approx(2.0 - 0.1 * 0.5 * 2.0 - 0.1 * 4.0 / (4.0 + 1e-8))
    assert still.item() == 3.0


def test_training_does_not_load_the_compiler_of_torch(study_file: Path) -> None:
    code = """
import sys
from aotsearch.study.loading import load
from aotsearch.models.model import build
from aotsearch.training.device import DeviceSettings
from aotsearch.training.train import train
study = load(sys.argv[1])
train(build(study.reference), study.task, {**study.training(), "steps": 2}, 0, DeviceSettings(1), lambda _: None)
print("torch._dynamo" in sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code, str(study_file)], capture_output=True, text=True)
    assert shown.stdout == "False\n", shown.stderr


def test_a_loss_that_is_not_finite_is_divergence(study_file: Path) -> None:
    study = load(study_file)

    class Broken(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.p = torch.nn.Parameter(torch.ones(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.p * torch.full((*x.shape, 256), float("nan"))

    with pytest.raises(Diverged, match="the loss is nan at step"):
        train(Broken(), study.task, study.training(), 0, DeviceSettings(1), lambda _: None)


def test_a_diverged_trial_is_a_record_and_keeps_its_curve(study_file: Path) -> None:
    found = run(plan(load(study_file), learning_rate=1e30, clip=1e30, steps=60))
    assert found["outcome"] == "diverged" and "not" not in found["measures"] and "the loss is" in found["message"]
    assert found["measures"] == {}


def test_a_failing_trial_is_a_record_with_its_reason(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("a part is broken\nbadly")

    monkeypatch.setattr(trial, "build", broken)
    found = run(plan(load(study_file)))
    assert (found["outcome"], found["message"]) == ("failed", "RuntimeError: a part is broken")
    assert "Traceback" in found["traceback"]
    monkeypatch.setattr(trial, "build", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("no room")))
    assert run(plan(load(study_file)))["outcome"] == "out-of-memory"


def test_a_report_may_stop_a_trial(study_file: Path) -> None:
    def stop(point: dict[str, float]) -> None:
        if "loss" in point:
            raise Stopped("enough")

    found = trial.run(plan(load(study_file)), DeviceSettings(1), stop)
    assert found["outcome"] == "pruned" and found["steps"] == 3 and "bits_per_byte" in found["measures"]


def test_trained_weights_are_saved_whole_and_load_into_the_model(study_file: Path, tmp_path: Path) -> None:
    made = plan(load(study_file))
    found = run(made, checkpoints=Checkpoints(tmp_path / "checkpoints"))
    files = list((tmp_path / "checkpoints").iterdir())
    assert [f.name for f in files] == [f"{made['key']}.pt"]
    study = load(study_file)
    model = build(study.reference, seed=5)
    model.load_state_dict(torch.load(files[0]))
    assert evaluate(model, study.task, study.task.validation(), "cpu") == found["measures"]


def test_the_key_of_a_trial_names_all_that_decides_its_numbers(study_file: Path) -> None:
    study = load(study_file)
    reference, other = study.arms()[:2]
    keys = {
        trial.plan(study, reference, 0, "design")["key"],
        trial.plan(study, reference, 1, "design")["key"],
        trial.plan(study, other, 0, "design")["key"],
        trial.plan(load(study_file, ["study.budget.steps=7"]), reference, 0, "design")["key"],
        trial.plan(load(study_file, ["study.learning_rate=0.5"]), reference, 0, "design")["key"],
        trial.plan(load(study_file, ["task.language.context=8"]), reference, 0, "design")["key"],
    }
    assert len(keys) == 6
    renamed = Arm("another name", reference.architecture, {})
    assert trial.plan(load(study_file, ["study.seeds=9"]), renamed, 0, "design")["key"] in keys


def everything(study_file: Path) -> dict[str, Any]:
    """A plan of the reference of which everything is measured after training."""
    return plan(load(study_file, ["study.knock_out=true", "study.diagnostics=[hidden-rms]"]))


FAULTS = {
    "test": ("aotsearch.tasks.language.Language.test", "the test split"),
    "diagnostics": ("aotsearch.diagnostics.probe.measure", "a layer"),
    "knock_out": ("aotsearch.diagnostics.probe.knock_out", "a part"),
}


def test_validation_and_test_that_can_not_be_put_together_leave_a_trained_trial(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aotsearch.tasks.language import Language

    made = everything(study_file)
    whole = run(made)
    monkeypatch.setattr(Language, "whole_validation", lambda self, validation, test: {"loss": validation["perplexity"]})
    found = run(made)
    assert found["outcome"] == "done" and found["unmeasured"] == {"whole_validation": "KeyError: 'perplexity'"}
    assert found["test"] == whole["test"] and found["diagnostics"] == whole["diagnostics"] and "whole_validation" not in found


@pytest.mark.parametrize("error", [RuntimeError("is broken\nbadly"), InputError("is too short"), torch.OutOfMemoryError("needs more")])
@pytest.mark.parametrize("part", FAULTS)
def test_an_error_after_training_leaves_a_trained_trial(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str, error: Exception
) -> None:
    made = everything(study_file)
    whole = run(made)
    assert {"test", "diagnostics", "knock_out"} <= whole.keys() and "unmeasured" not in whole

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FAULTS[part][0], fail)
    found = run(made, checkpoints=Checkpoints(tmp_path))
    assert found["outcome"] == "done" and found["measures"] == whole["measures"] and found["curve"] == whole["curve"]
    assert found["unmeasured"] == {part: f"{type(error).__name__}: {error}".splitlines()[0]} and part not in found
    for other in FAULTS.keys() - {part}:
        assert found[other] == whole[other]
    assert (tmp_path / f"{made['key']}.pt").exists() and not found["message"]


def test_a_measure_that_is_not_finite_is_divergence_where_models_are_judged_by_it(
    study_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aotsearch.tasks.language import Language

    measures = Language.measures
    monkeypatch.setattr(Language, "measures", lambda self, means: measures(self, means) | {"perplexity": math.inf})
    assert run(plan(load(study_file)))["outcome"] == "done", "another measure may be what it is"
    monkeypatch.setattr(Language, "measures", lambda self, means: measures(self, means) | {"bits_per_byte": math.nan})
    found = run(plan(load(study_file)))
    assert (found["outcome"], found["message"]) == ("diverged", "the bits per byte is nan at step 3")


def test_a_trial_records_what_may_move_its_last_digits(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load(study_file)
    found = run(plan(study))["environment"]
    assert found["torch"].partition("+")[0] == torch.__version__.partition("+")[0] and found["threads"] == 1 and found["device_name"]
    assert found["instruction_set"].split()[0] == torch.backends.cpu.get_cpu_capability()
    assert study.task.prepare()["manifest"].startswith(found["data"]) and len(found["data"]) == 12
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert environment(DeviceSettings(2)) == {k: v for k, v in found.items() if k != "data"} | {
        "instruction_set": "AVX512 bf16 amx",
        "threads": 2,
    }
