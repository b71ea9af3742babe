"""Hints of untrained models: each formula by hand, that training never hears of them, and who is told of them."""

from __future__ import annotations

import io
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aotsearch import yamlfile
from aotsearch.diagnostics.catalogue import catalogue, hints
from aotsearch.diagnostics.hints import measure
from aotsearch.errors import InputError
from aotsearch.evidence.front import values
from aotsearch.evidence.ledger import Ledger
from aotsearch.grammar.space import Space
from aotsearch.models.model import Model, build
from aotsearch.report import report
from aotsearch.running import hearing, runner
from aotsearch.running.progress import Progress
from aotsearch.running.work import Work
from aotsearch.study.loading import load
from aotsearch.study.sampling import COSTS
from aotsearch.training import trial
from aotsearch.training.checkpoint import Checkpoints
from aotsearch.training.device import DeviceSettings
from aotsearch.training.train import Diverged, Stopped

NAMES = list(hints())
SEARCH = ["study.design=search", "study.diagnostics=none", f"study.search={{hints: [{', '.join(NAMES)}], trials: 4}}"]
U, W, H = torch.tensor([[1.0, -2.0], [0.0, 3.0]]), torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), torch.tensor([[1.0, -1.0], [2.0, 0.0]])
TOKENS = torch.tensor([[0, 1]])


def small(sizes: dict[str, int] | None = None, **model: Any) -> Model:
    rules = {"model": {"width": 2, "norm": "none", "positions": "none", "head": "free", **model}}
    return build(Space.parse(yamlfile.parse(yamlfile.dump(rules), "f"), sizes or {"vocabulary": 2, "context": 2}).reference)


def mlp(**model: Any) -> Model:
    """Of width 2 and with known weights: outputs H (x + W relu(U x))."""
    made = small(blocks=[{"mlp": {"expand": 1, "activation": "relu"}}], **model)
    step = made.steps["mlp_0"]
    for parameter, value in ((step.operation.up.weight, U), (step.operation.output.weight, W), (made.head.weight, H)):  # type: ignore[union-attr]
        parameter.data = value.clone()
    made.embedding.weight.data = torch.tensor([[1.0, 2.0], [-1.0, 1.0]])
    return made


def one(name: str, model: Model, inputs: torch.Tensor = TOKENS, loss: Any = None) -> float | None:
    return measure(model, inputs, loss or (lambda m: m(inputs).sum()), [name])[name]


def test_synflow_is_what_all_paths_weigh_without_signs_and_without_norms() -> None:
    # |U| 1 = (3, 3), |W| of it = (3, 6); for each of two tokens |H| makes 4 of the stream and 15 of the MLP, which three matrices share
    found = one("synflow", mlp())
    assert found == pytest.approx(math.log(2 * (4 + 15) + 2 * 15 + 2 * 15))
    assert one("synflow", mlp(norm="layernorm", place="sandwich")) == pytest.approx(found)


@pytest.mark.parametrize(("identity", "weight"), [(-1, 2), (1, 2), (0, 1), ({"learned": {"start": -1}}, 2), ({"split": {"inside": -3}}, 4)])
def test_synflow_counts_the_terms_of_attention_that_cancel(identity: Any, weight: int) -> None:
    made = small(blocks=[{"attention": {"heads": 1, "identity": identity}}])
    mixer = made.steps["attention_0"].operation
    mixer.projections["value"].weight.data, mixer.output.weight.data, made.head.weight.data = U.clone(), W.clone(), H.clone()  # type: ignore
    assert one("synflow", made) == pytest.approx(math.log(2 * (4 + 3 * 15 * weight)))


def test_the_gradient_norm_is_the_sum_over_all_matrices() -> None:
    e, t = np.array([1.0, 2.0]), np.ones(2)  # the only token, and the gradient of the sum of the outputs
    u, w, h = U.numpy(), W.numpy(), H.numpy()
    inner = np.maximum(u @ e, 0)
    x = e + w @ inner
    out, back = h.T @ t, (w.T @ h.T @ t) * (u @ e > 0)
    gradients = [np.outer(t, x), np.outer(out, inner), np.outer(back, e), out + u.T @ back]
    tokens = torch.tensor([[0]])
    assert one("initial-gradient-norm", mlp(), tokens) == pytest.approx(sum(np.linalg.norm(g) for g in gradients), rel=1e-6)


def test_no_hint_depends_on_what_training_would_drop() -> None:
    layers = [{"attention": {"heads": 1, "dropout": 0.5}}, "mlp"]
    dropping = small(dropout=0.3, drop_path=0.5, depth=2, block=layers)
    plain = small(depth=2, block=[{"attention": {"heads": 1}}, "mlp"])
    for name in NAMES:
        torch.manual_seed(1)
        first = one(name, dropping)
        torch.manual_seed(2)
        assert one(name, dropping) == first == pytest.approx(one(name, plain))


def test_the_effective_rank_is_that_of_the_tokens_after_the_last_sublayer() -> None:
    made = mlp()
    made.steps["mlp_0"].operation.output.weight.data.zero_()  # type: ignore[union-attr]
    made.embedding.weight.data = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert one("initial-effective-rank", made) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))


def test_a_hint_that_is_no_number_is_absent_as_are_all_of_a_model_without_parameters() -> None:
    broken = mlp()
    broken.head.weight.data[0, 0] = math.nan  # type: ignore[union-attr]
    assert one("synflow", broken) is None and one("initial-gradient-norm", broken) is None
    mixer = {"attention": {"heads": 1, "map": 0, "uniform": 1, "value_projection": "identity", "output": "identity"}}
    bare = small({"inputs": 2, "outputs": 2, "subspaces": 1, "context": 4}, embedding="identity", head="none", blocks=[mixer])
    assert not list(bare.parameters())
    assert measure(bare, torch.ones(1, 4, 2), lambda m: m(torch.ones(1, 4, 2)).sum(), NAMES) == dict.fromkeys(NAMES)


def test_the_model_and_the_random_numbers_stay_as_they_were() -> None:
    made = small(
        {"image": 8, "channels": 1, "classes": 2}, width=4, depth=1, block=["mlp"], embedding={"stem": {"size": 8}}, pooling="mean"
    )
    before, state = {name: value.clone() for name, value in made.state_dict().items()}, torch.get_rng_state()
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = measure(made, images, lambda m: m(images).square().sum() + 0 * torch.rand(()), NAMES)
    assert all(value is not None for value in found.values())
    assert torch.equal(torch.get_rng_state(), state) and made.training
    assert all(torch.equal(value, before[name]) for name, value in made.state_dict().items())
    assert all(p.grad is None for p in made.parameters()) and not any(m._forward_hooks for m in made.modules())


# In a trial.


def plans(path: Path, seeds: int = 1) -> list[dict[str, Any]]:
    study = load(path, SEARCH)
    return [trial.plan(study, study.arms()[0], seed, "confirm") for seed in range(seeds)]


def run(made: list[dict[str, Any]], folder: Path, fuse: int = 1, report: Any = None, steps: int | None = None) -> list[dict[str, Any]]:
    told = report or (lambda *_, **__: None)
    return list(trial.run_together(made, DeviceSettings(1), told, Checkpoints(folder, steps=steps), fuse))


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_same_trial_with_and_without_hints_trains_to_the_same_bits(study_file: Path, tmp_path: Path, seeds: int) -> None:
    made = plans(study_file, seeds)
    found = run(made, tmp_path / "with", fuse=seeds)
    plain = run([{**p, "hints": []} for p in made], tmp_path / "without", fuse=seeds)
    for a, b in zip(found, plain, strict=True):
        assert set(a["hints"]) == set(NAMES) and all(map(math.isfinite, a["hints"].values())) and "hints" not in b
        assert all(a[name] == b[name] for name in ("key", "curve", "measures", "test"))
        weights = [torch.load(tmp_path / folder / f"{a['key']}.pt") for folder in ("with", "without")]
        assert all(torch.equal(value, weights[1][name]) for name, value in weights[0].items())
    assert len({r["hints"]["synflow"] for r in found}) == seeds
    study = load(study_file)
    assert study.key(made[0]["digest"], 0, study.training()) == made[0]["key"], "a study without hints has the same trial"


def test_a_trial_that_is_pruned_diverges_or_goes_on_has_the_same_hints(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (made,) = plans(study_file)
    (whole,) = run([made], tmp_path / "whole")

    def killed(_: Any, point: dict[str, float], **more: Any) -> None:
        if point["step"] == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run([made], tmp_path / "cut", report=killed, steps=4)
    (cut,) = run([made], tmp_path / "cut")
    assert cut["resumed"]["step"] == 4

    def stops(_: Any, point: dict[str, float], **more: Any) -> None:
        raise Stopped("enough")

    (pruned,) = run([made], tmp_path / "pruned", report=stops)
    monkeypatch.setattr("aotsearch.training.train._finite", lambda *_: (_ for _ in ()).throw(Diverged("inf")))
    (diverged,) = run([made], tmp_path / "diverged")
    assert [r["outcome"] for r in (cut, pruned, diverged)] == ["done", "pruned", "diverged"]
    assert cut["hints"] == pruned["hints"] == diverged["hints"] == whole["hints"]


def test_a_trial_that_the_scheduler_of_ray_stops_keeps_what_its_worker_measured(study_file: Path, tmp_path: Path) -> None:
    (made,) = plans(study_file)
    told: list[dict[str, Any]] = []
    run([made], tmp_path, report=lambda _, __, **more: told.append(more))
    assert list(told[0]["known"]) == ["hints"] and not any(map(bool, told[1:])), "with the first point alone"
    records: list[dict[str, Any]] = []
    observer: Any = type("Heard", (), {"started": lambda *_: None, "point": lambda *_: None, "finished": staticmethod(records.append)})
    callback = hearing.callback(Work([[made]]), observer, {}, [], Counter(), tmp_path)
    of_ray: Any = type("Trial", (), {"config": {"bundle": [made], "share": 1.0, "shares": {}}})
    callback.on_trial_start(0, [], of_ray)
    callback.on_trial_result(0, [], of_ray, {"points": [(made["key"], {"step": 3, "loss": 1.0})], "known": {made["key"]: told[0]["known"]}})
    callback.on_trial_complete(0, [], of_ray)
    assert records[0]["outcome"] == "pruned" and set(records[0]["hints"]) == set(NAMES)


def test_hints_that_cannot_be_measured_cost_no_trial(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aotsearch.diagnostics.hints.measure", lambda *_: (_ for _ in ()).throw(ValueError("no hint\nat all")))
    (found,) = run(plans(study_file), tmp_path)
    assert found["outcome"] == "done" and found["test"] and found["unmeasured"] == {"hints": "ValueError: no hint"}


# In a study.


def test_no_hint_has_the_name_of_what_is_known_of_trained_models() -> None:
    assert not set(NAMES) & {*catalogue(), *COSTS}
    assert all(d.summary.endswith(".") and d.formula and d.source and d.kind == "untrained" for d in hints().values())


@pytest.mark.parametrize(
    ("search", "law"),
    [
        ("{hints: [effective-rank]}", "no hint 'effective-rank'; did you mean 'initial-effective-rank'?"),
        ("{objectives: [{maximise: synflo}]}", "no objective 'synflo'; did you mean 'synflow'?"),
    ],
)
def test_a_hint_that_is_none_is_an_error_at_its_place(study_file: Path, search: str, law: str) -> None:
    with pytest.raises(InputError) as e:
        load(study_file, ["study.design=search", f"study.search={search}"])
    assert law in str(e.value) and len(str(e.value).splitlines()) == 1


def test_a_hint_that_is_an_objective_is_measured_and_ranked(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    overrides = ["study.design=search", "study.search={trials: 5, confirm: 1, objectives: [bits_per_byte, {maximise: synflow}]}"]
    study = load(study_file, [*overrides, "study.budget.steps=2", "study.diagnostics=none", "study.seeds=1"])
    monkeypatch.setattr(report, "write", lambda *_, **__: [])
    runner.run(study, tmp_path / "run", runner.Options(local=True, track=False), Progress("bits_per_byte", "bits/byte", io.StringIO()))
    records = list(Ledger.open(tmp_path / "run").records().values())
    assert {r["phase"] for r in records} == {"search", "confirm"} and all(list(r["hints"]) == ["synflow"] for r in records)
    assert values(records[0], study) == (records[0]["measures"]["bits_per_byte"], -records[0]["hints"]["synflow"])
    best = max(r["hints"]["synflow"] for r in records if r["phase"] == "search")
    found = report.read(tmp_path / "run")
    assert best in [p["objectives"]["synflow"] for p in found.analysis.to_dict()["front"]]
    assert set(found.table["synflow"]) == {r["hints"]["synflow"] for r in records}
