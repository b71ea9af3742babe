"""Several trials of one model as one program: the numbers of each are those it has alone, and so is its end."""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import invariants
import numpy as np
import pytest
import test_parts
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from aotsearch.errors import InputError
from aotsearch.evidence.ledger import Ledger
from aotsearch.grammar.architecture import Architecture
from aotsearch.models.model import build
from aotsearch.report import report
from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.running.runner import Options
from aotsearch.running.work import bundled
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.training import choice, trial
from aotsearch.training import device as devices
from aotsearch.training import program as programs
from aotsearch.training.device import DeviceSettings
from aotsearch.training.program import program
from aotsearch.training.schedule import averaged, evaluations, learning_rate
from aotsearch.training.train import Diverged, Mean, Member, Stopped, _ahead, train, train_together

TRAINING = {"weight_decay": 0.1, "learning_rate": 3e-3, "beta1": 0.9, "beta2": 0.95, "clip": 1.0}
STEPS = 20


def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if targets.is_floating_point():
        return F.mse_loss(outputs.float(), targets)
    return F.cross_entropy(outputs.flatten(0, -2).float(), targets.flatten())


def batches(architecture: Architecture, seed: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    like, generator = invariants.Subject(architecture), torch.Generator().manual_seed(seed)

    def drawn(t: torch.Tensor) -> torch.Tensor:
        whole = not t.is_floating_point()
        return torch.randint(0, int(t.max()) + 1, t.shape, generator=generator) if whole else torch.randn(t.shape, generator=generator)

    return [(drawn(like.inputs), drawn(like.targets)) for _ in range(STEPS)]


def losses(architecture: Architecture, seeds: Sequence[int], fused: bool, precision: str = "float32") -> torch.Tensor:
    """Of every step and seed."""
    task: Any = SimpleNamespace(loss=loss)
    made = program([build(architecture, s) for s in seeds], task, [TRAINING] * len(seeds), precision, fused, seeds)
    given = [batches(architecture, s) for s in seeds]
    found = []
    for step in range(STEPS):
        inputs, targets = (torch.stack(tensors) for tensors in zip(*(g[step] for g in given), strict=True))
        found.append(made.step(inputs, targets, [3e-3] * len(seeds)))
    return torch.stack(found)


@pytest.mark.parametrize("case", test_parts.cases())
def test_every_word_has_fused_the_losses_that_it_has_alone(case: tuple[dict[str, Any], dict[str, int]]) -> None:
    architecture = test_parts.architecture(*case)
    together = losses(architecture, [0, 1], fused=True)
    torch.testing.assert_close(together[:, 1:], losses(architecture, [1], fused=False), rtol=1e-5, atol=0)


MODELS = {
    "rope": {"width": 32, "depth": 2, "positions": "rope", "block": [{"attention": {"heads": 4}}, "mlp"]},
    "tied": {"width": 32, "depth": 2, "positions": "learned", "block": [{"attention": {"heads": 8, "qkv": "tied", "identity": -1}}]},
}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_a_replica_has_the_same_numbers_in_any_company(model: dict[str, Any]) -> None:
    architecture = test_parts.architecture(model, {"vocabulary": 64, "context": 16})
    together = losses(architecture, range(5), fused=True)
    for some in ([0], [1, 2], [2, 3, 4]):
        torch.testing.assert_close(losses(architecture, some, fused=True), together[:, some], rtol=1e-6, atol=0)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_replicas_train_in_bfloat16_as_one_alone_does(score: str) -> None:
    architecture = test_parts.architecture({"depth": 2, "positions": "rope", "block": [{"attention": {"score": score}}, "mlp"]})
    alone = torch.cat([losses(architecture, [seed], fused=False, precision="bfloat16") for seed in (0, 1)], 1)
    torch.testing.assert_close(losses(architecture, [0, 1], fused=True, precision="bfloat16"), alone, rtol=0.02, atol=0)


class Kernels(TorchDispatchMode):
    """Hears in which type attention is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.types: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "scaled_dot_product" in str(func):
            self.types.append(args[0].dtype)
        return func(*args, **(kwargs or {}))


def test_attention_in_bfloat16_is_computed_in_float32_on_a_processor() -> None:
    model = build(test_parts.architecture({"depth": 1, "block": ["attention"]}))
    with programs.computing("cpu", "bfloat16"), Kernels() as heard:
        y = model(torch.zeros(1, 8, dtype=torch.long))
    assert heard.types == [torch.float32] and y.dtype == torch.bfloat16


# ---- members of one training


@pytest.fixture
def study(study_file: Path) -> Study:
    return load(study_file)


def member(study: Study, seed: int, report: Any = lambda _: None, **training: Any) -> Member:
    return Member(build(study.reference, seed), study.training() | {"steps": 8, "evaluations": 2} | training, seed, report)


def weights(m: Member) -> list[torch.Tensor]:
    return [p.detach().clone() for p in m.model.parameters()]


def test_a_member_that_diverges_ends_alone_and_leaves_the_others_as_they_are(study: Study) -> None:
    sound, ill = [member(study, 0), member(study, 1)], [member(study, 0), member(study, 7), member(study, 1)]
    with torch.no_grad():
        next(ill[1].model.parameters()).fill_(math.inf)
    train_together(sound, study.task, DeviceSettings(1))
    train_together(ill, study.task, DeviceSettings(1))
    assert isinstance(ill[1].error, Diverged) and "at step" in str(ill[1].error)
    assert [ill[0].curve, ill[2].curve] == [m.curve for m in sound] and len(ill[1].curve) < len(ill[0].curve)
    for a, b in zip(sound, (ill[0], ill[2]), strict=True):
        assert all(map(torch.equal, weights(a), weights(b)))


def test_a_member_that_is_stopped_ends_alone(study: Study) -> None:
    def stop(point: dict[str, float]) -> None:
        if "loss" in point:
            raise Stopped("enough")

    first, second = member(study, 0, stop), member(study, 1)
    train_together([first, second], study.task, DeviceSettings(1))
    assert isinstance(first.error, Stopped) and first.curve[-1]["step"] == 4
    assert second.error is None and second.curve[-1]["step"] == 8


def test_members_may_differ_in_learning_rate(study: Study) -> None:
    rates = [1e-3, 1e-3, 3e-2, 1e-3]
    together = [member(study, 0, learning_rate=rate) for rate in rates]
    train_together(together, study.task, DeviceSettings(1))
    for rate, found in zip(rates, together, strict=True):
        alone = member(study, 0, learning_rate=rate)
        curve = train(alone.model, study.task, alone.training, 0, DeviceSettings(1), lambda _: None)
        assert found.curve[-1]["loss"] == pytest.approx(curve[-1]["loss"], rel=1e-5)
        for a, b in zip(weights(found), weights(alone), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_gradient_of_each_replica_is_clipped_by_its_own_norm(study: Study) -> None:
    made: Any = program([build(study.reference, s) for s in (0, 1)], study.task, [study.training()] * 2, "float32", fused=True)
    made.clip = 1.0
    given = [torch.tensor([[3.0, 4.0], [0.3, 0.4]]), torch.tensor([[0.0], [0.0]])]
    clipped = made._clipped(given)
    torch.testing.assert_close(clipped[0], torch.tensor([[0.6, 0.8], [0.3, 0.4]]), atol=1e-6, rtol=0)


def test_the_time_of_a_training_is_told_apart_and_shared_by_those_that_train_together(study: Study) -> None:
    clock = train_together([member(study, s) for s in (0, 1)], study.task, DeviceSettings(1))
    assert clock.training > 0 and clock.evaluation > 0 and clock.step is not None
    told = clock.told(2)
    assert told["training_seconds"] == pytest.approx(clock.training / 2, rel=1e-5)
    assert told["step_seconds"] == pytest.approx(clock.step / 2, rel=1e-5)


# ---- trials


def run(study: Study, out: Path) -> Any:
    options = Options(local=True, track=False)
    return runner.run(study, out, options, Progress(study.task.measure, study.task.unit, stream=io.StringIO()))


def records(out: Path) -> dict[Any, dict[str, Any]]:
    return {(r["arm"], r["seed"]): r for r in Ledger.open(out).records().values()}


def test_a_fused_study_has_the_trials_of_one_that_is_not(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write", lambda *_, **__: [])
    alone, fused = (load(study_file, ["study.seeds=3", f"study.resources.fuse={n}"]) for n in (1, 2))
    assert run(alone, tmp_path / "alone").trained == run(fused, tmp_path / "fused").trained == 12
    one, other = records(tmp_path / "alone"), records(tmp_path / "fused")
    assert one.keys() == other.keys()
    for name, record in one.items():
        assert record["key"] == other[name]["key"] and record["fused"] == 0 and other[name]["fused"] in (1, 2)
        assert record["measures"]["loss"] == pytest.approx(other[name]["measures"]["loss"], rel=1e-5)
        assert record["test"]["loss"] == pytest.approx(other[name]["test"]["loss"], rel=1e-5)
        assert [p["step"] for p in record["curve"]] == [p["step"] for p in other[name]["curve"]]
    assert run(alone, tmp_path / "fused").trained == 0  # how they are trained is not what they are


def plans(study: Study, number: int) -> list[dict[str, Any]]:
    return [trial.plan(study, study.arms()[0], seed, "design") for seed in range(number)]


def test_a_program_that_memory_has_no_room_for_is_tried_in_halves(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = trial.train_together

    def tight(members: Any, *arguments: Any) -> Any:
        sizes.append(len(members))
        if len(members) > 1:
            raise torch.OutOfMemoryError("no room")
        return plain(members, *arguments)

    monkeypatch.setattr(trial, "train_together", tight)
    heard: list[Any] = []
    found = list(trial.run_together(plans(study, 3), DeviceSettings(1), lambda t, p: heard.append((t["seed"], p["step"])), None, 3))
    assert [r["outcome"] for r in found] == ["done"] * 3 and sizes == [3, 1, 2, 1, 1]
    assert len(heard) == len(set(heard)) == sum(len(r["curve"]) for r in found)


def test_a_part_that_cannot_be_computed_for_several_at_once_is_trained_as_it_is(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = trial.build

    def looking(*arguments: Any) -> Any:
        model = plain(*arguments)
        model.final_norm.register_forward_hook(lambda _, given, out: out.sum().item() and None)  # looks at a number
        return model

    monkeypatch.setattr(trial, "build", looking)
    found = list(trial.run_together(plans(study, 2), DeviceSettings(1), lambda *_: None, None, 2))
    assert [(r["outcome"], r["fused"]) for r in found] == [("done", 0)] * 2


@pytest.mark.parametrize("faster", [True, False])
def test_what_is_faster_is_measured_once(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faster: bool) -> None:
    monkeypatch.setenv("AOTSEARCH_CACHE", str(tmp_path))
    asked: list[int] = []

    def seconds(models: Any, *_: Any, fused: bool) -> list[float]:
        asked.append(len(models))
        return [len(models) * (0.5 if faster else 1.1)] if fused else [1.0]

    monkeypatch.setattr(choice, "step_seconds", seconds)
    (plan,) = plans(study, 1)
    plan["training"] = plan["training"] | {"steps": 200}
    for _ in range(2):
        assert choice.fused_is_faster(plan, DeviceSettings(1)) is faster
    assert asked == [1, choice.REPLICAS]
    next(tmp_path.rglob("speed/*.json")).write_text("torn")
    assert choice.fused_is_faster(plan, DeviceSettings(1)) is faster and len(asked) == 4
    plan["training"]["steps"] = 10
    assert not choice.fused_is_faster(plan, DeviceSettings(1))


@pytest.mark.parametrize(("bfloat16", "chosen"), [(0.5, "bfloat16"), (1.2, "float32")])
def test_a_processor_trains_in_bfloat16_where_that_is_faster(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bfloat16: float, chosen: str
) -> None:
    monkeypatch.setenv("AOTSEARCH_CACHE", str(tmp_path))
    times = {"float32": [1.0], "bfloat16": [bfloat16]}
    monkeypatch.setattr(choice, "step_seconds", lambda models, task, training, *_, **__: times[training["precision"]])
    (plan,) = plans(study, 1)
    plan["training"] = plan["training"] | {"steps": 200}
    monkeypatch.setattr(devices, "bfloat16_instructions", lambda: False)
    assert choice.usual_precision(plan, DeviceSettings(1)) == ""
    monkeypatch.setattr(devices, "bfloat16_instructions", lambda: True)
    assert choice.usual_precision(plan, DeviceSettings(1)) == chosen


def test_a_study_goes_on_in_the_precision_it_began_in(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write", lambda *_, **__: [])
    monkeypatch.setattr(choice, "usual_precision", lambda *_: "bfloat16")
    run(load(study_file), tmp_path / "run")
    monkeypatch.setattr(choice, "usual_precision", lambda *_: "float32")
    run(load(study_file, ["study.seeds=3"]), tmp_path / "run")
    assert {r["precision"] for r in records(tmp_path / "run").values()} == {"bfloat16"}


def fabricated(arms: int, seeds: int, steps: int = 1000) -> list[dict[str, Any]]:
    made = {"training": {"steps": steps, "batch": 8, "learning_rate": 1e-3}, "task": {}, "architecture": {"sizes": {"context": 16}}}
    return [{**made, "digest": f"m{arm}", "seed": seed, "flops_per_token": arm} for seed in range(seeds) for arm in range(arms)]


def test_bundles_hold_one_model_and_leave_no_worker_without_work() -> None:
    found = bundled(fabricated(4, 9), "auto", 2)
    work = [len(b) * b[0]["flops_per_token"] for b in found]
    assert work == sorted(work, reverse=True) and {len(b) for b in found} == {4, 5}
    assert all(len({t["digest"] for t in b}) == 1 for b in found) and sum(map(len, found)) == 36
    assert [len(b) for b in bundled(fabricated(1, 6), "auto", 4)] == [1] * 6
    assert sorted(len(b) for b in bundled(fabricated(1, 12), "auto", 2)) == [2] * 6
    assert [len(b) for b in bundled(fabricated(1, 8), "auto", 1)] == [8]
    assert sorted(len(b) for b in bundled(fabricated(1, 10), 4, 1)) == [3, 3, 4]
    assert [len(b) for b in bundled(fabricated(2, 3), 1, 1)] == [1] * 6
    assert [t["seed"] for (t,) in bundled(fabricated(2, 2, steps=10), "auto", 1)] == [0, 0, 1, 1]  # too short: in their order


def test_a_processor_bundles_small_models_alone_and_a_gpu_all() -> None:
    large = [trial | {"flops_per_token": 1_000_000} for trial in fabricated(2, 3)]  # 3 * 1e6 * 8 * 16 = 3.8e8 a step
    assert [t["seed"] for (t,) in bundled(large, "auto", 1)] == [0, 0, 1, 1, 2, 2]
    assert [len(b) for b in bundled(large, "auto", 1, on_gpu=True)] == [3, 3] == [len(b) for b in bundled(large, 8, 1)]


# ---- schedules and means


def test_wsd_is_stable_and_then_falls_with_the_root() -> None:
    training = {"steps": 100, "learning_rate": 2.0, "warmup": 0.1, "floor": 0.1, "schedule": "wsd", "decay": 0.2}
    rates = [learning_rate(step, training) for step in range(100)]
    assert rates[0] == pytest.approx(0.2) and rates[9:80] == [2.0] * 71
    assert rates[84] == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # a quarter of the decay: 1 - sqrt(1 / 4)
    assert rates[99] == pytest.approx(0.2)


def test_a_schedule_has_room_for_its_warmup_and_its_decay(study_file: Path) -> None:
    with pytest.raises(InputError, match="warmup and decay are at most 1 together"):
        load(study_file, ["study.optimiser={schedule: wsd, warmup: 0.9}"])


def test_settings_younger_than_a_ledger_do_not_rename_its_trials(study_file: Path) -> None:
    assert not {"schedule", "decay", "average"} & load(study_file).training().keys()
    assert load(study_file, ["study.optimiser.schedule=wsd"]).training()["decay"] == 0.2
    assert load(study_file, ["study.optimiser.average=0.5"]).training()["average"] == 0.5


def test_an_evaluation_averages_the_last_share_of_the_steps_so_far() -> None:
    assert evaluations({"steps": 10, "evaluations": 2}) == [5, 10]
    assert averaged({"steps": 10, "evaluations": 2, "average": 0.4}) == {4: 0, 5: 1, 7: 0, 8: 1, 9: 2, 10: 3}
    assert averaged({"steps": 10, "evaluations": 2, "average": 0.9}) == {n: n - 2 for n in range(2, 6)} | {n: n - 6 for n in range(6, 11)}
    assert averaged({"steps": 10, "evaluations": 2}) == {}


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_an_evaluation_averages_its_own_step_at_least(share: float) -> None:
    training = {"steps": 12, "evaluations": 4, "average": share}
    found = averaged(training)
    assert {step for step, before in found.items() if before == 0} <= found.keys() and set(evaluations(training)) <= found.keys()


@pytest.mark.parametrize("fused", [False, True])
def test_a_trial_that_diverges_before_its_mean_has_begun_has_diverged(study: Study, fused: bool) -> None:
    ill = member(study, 0, evaluations=1, average=0.5)
    with torch.no_grad():
        next(ill.model.parameters()).fill_(math.inf)
    train_together([ill], study.task, DeviceSettings(1), fused)
    assert isinstance(ill.error, Diverged)


@pytest.mark.parametrize("fused", [False, True])
def test_the_mean_of_weights_is_evaluated_and_kept(study: Study, monkeypatch: pytest.MonkeyPatch, fused: bool) -> None:
    seen: list[list[torch.Tensor]] = []
    add = Mean.add

    def heard(mean: Mean, before: int) -> None:
        seen.append([w.clone() for w in mean.program.weights()])
        add(mean, before)

    monkeypatch.setattr(Mean, "add", heard)
    m = member(study, 0, evaluations=1, average=0.5)
    train_together([m], study.task, DeviceSettings(1), fused)
    assert len(seen) == 4
    for i, parameter in enumerate(m.model.parameters()):
        mean = torch.stack([weights[i] for weights in seen]).mean(0).view_as(parameter)
        torch.testing.assert_close(parameter.detach(), mean, rtol=1e-5, atol=1e-7)
    plain = member(study, 0, evaluations=1)
    train_together([plain], study.task, DeviceSettings(1), fused)
    assert plain.curve[-1]["train_loss"] == m.curve[-1]["train_loss"]  # it is trained as without, and evaluated otherwise
    assert plain.curve[-1]["loss"] != m.curve[-1]["loss"]


def test_training_goes_on_from_the_weights_and_not_from_their_mean(study: Study) -> None:
    plain, m = member(study, 0, evaluations=2), member(study, 0, evaluations=2, average=0.5)
    for one in (plain, m):
        train_together([one], study.task, DeviceSettings(1))
    assert [p["train_loss"] for p in plain.curve] == [p["train_loss"] for p in m.curve]


@pytest.mark.parametrize("steps", [0, 1, 2, 7])
def test_batches_that_a_thread_prepares_come_in_their_order(steps: int) -> None:
    made: list[int] = []
    found = _ahead(lambda step: made.append(step) or step**2, range(steps))  # type: ignore[func-returns-value]
    assert list(found) == [step**2 for step in range(steps)] and made == list(range(steps))


def test_a_training_that_ends_early_leaves_no_thread_that_prepares_batches() -> None:
    before, made = threading.active_count(), list[int]()
    found = _ahead(lambda step: made.append(step), range(100))
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before and len(made) < 5


def test_batches_of_members_are_those_of_their_seeds(study: Study) -> None:
    given: list[np.ndarray[Any, Any]] = []
    plain = study.task.batch

    class Heard:
        def __getattr__(self, name: str) -> Any:
            return getattr(study.task, name)

        def batch(self, seed: int, step: int, size: int) -> Any:
            found = plain(seed, step, size)
            given.append(found[0])
            return found

    train_together([member(study, 3, steps=1, evaluations=1), member(study, 4, steps=1, evaluations=1)], Heard(), DeviceSettings(1))  # type: ignore[arg-type]
    assert np.array_equal(given[0], plain(3, 0, 4)[0]) and np.array_equal(given[1], plain(4, 0, 4)[0])
