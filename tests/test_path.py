"""The ablation path of a search: from the reference to what was found in lawful changes, each compared with what was before it."""

from __future__ import annotations

import io
import itertools
import os
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from aotsearch import yamlfile
from aotsearch.evidence import path as paths
from aotsearch.evidence.path import Tried, path, steps
from aotsearch.grammar.architecture import Architecture
from aotsearch.report import report
from aotsearch.report.summary import verdict_lines
from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.running.runner import Options
from aotsearch.study.study import Study
from aotsearch.training import trial

GRAMMAR = """
name: explained
task: {denoise: {subspaces: 2, dimension: 8, tokens: 16, sets: 2}}
grammar:
  model: {width: 16, depth: 1, norm: {any: [layernorm, rmsnorm, none]}, place: {any: [pre, post]}, block: [mixer, channel]}
  mixer: {attention: {heads: {any: [2, 1]}, qkv: {any: [free, tied]}}}
  channel: {any: [none, {mlp: {activation: {any: [gelu, relu2]}, expand: {any: [2, 4]}}}]}
study:
  design: search
  seeds: 3
  budget: {steps: 4, batch: 2, evaluations: 1}
  margin: 0.05
  diagnostics: none
  search: {trials: 40, confirm: 2, path: true}
"""
WORTH = {"channel": {"mlp": -1.0}, "channel.mlp.expand": {4: -0.5}, "mixer.attention.qkv": {"tied": -0.25}, "model.norm": {"none": 0.8}}


def loss(decisions: Mapping[str, Any]) -> float:
    """What each decision is worth, in one sum; what is none of these is a little worse than the reference's choice."""
    return 3 + sum(WORTH.get(a, {}).get(value, 0.02 * (value in ("rmsnorm", "post", 1, "relu2"))) for a, value in decisions.items())


def study(**search: Any) -> Study:
    plain = yamlfile.parse(GRAMMAR, "explained").plain()
    plain["study"]["search"] |= search
    return Study.from_dict(plain)


def tried(of: Study, worth: Callable[[Mapping[str, Any]], float] = loss) -> Tried:
    """Every architecture of the space, with the loss that its decisions make."""
    measure = of.task.measure
    return [({"outcome": "done", "measures": {measure: worth(a.decisions)}, "digest": a.digest}, a) for a in of.space.enumerate()]


def changed(here: Architecture, there: Architecture) -> list[str]:
    return [a for a in here.diff(there) if a in here.decisions]


def test_it_leads_from_the_reference_to_the_best_in_single_changes_the_weightiest_first() -> None:
    of = study()
    found = path(tried(of), of)
    best = min(tried(of), key=lambda pair: (loss(pair[1].decisions), pair[1].digest))[1]
    assert (found[0].digest, found[-1].digest) == (of.space.reference.digest, best.digest)
    assert [changed(*pair) for pair in itertools.pairwise(found)] == [["channel"], ["channel.mlp.expand"], ["mixer.attention.qkv"]]


def test_what_is_met_only_inside_another_choice_comes_after_it() -> None:
    of = study()
    found = path(tried(of, lambda d: loss(d) - 5 * (d.get("channel.mlp.expand") == 4) + 0.7 * (d["channel"] == "mlp")), of)
    assert [changed(*pair) for pair in itertools.pairwise(found)][:2] == [["channel"], ["channel.mlp.expand"]]


def test_a_step_that_would_break_a_law_waits_for_the_one_that_makes_it_lawful() -> None:
    def at(chosen: Any) -> Any:
        return None if "a" in chosen and "c" not in chosen else chosen

    assert paths._ordered(["a", "b", "c"], at) == ["b", "c", "a"]
    assert paths._ordered(["a", "b"], at) == ["b"], "as far as there is one: what is left is one step"


def test_what_is_one_change_away_needs_no_path_and_without_the_setting_there_is_none() -> None:
    of, without = study(), study(path=False)
    near = [(r, a) for r, a in tried(of) if len(changed(of.space.reference, a)) <= 1 and a.decisions["channel"] == "none"]
    assert len(near) > 3 and path(near, of) == []
    assert path(tried(without), without) == [] == path([], of)


TWICE = """
name: twice
task: {denoise: {subspaces: 2, dimension: 8, tokens: 16, sets: 2}}
grammar:
  model: {width: 16, depth: 1, norm: {any: [layernorm, rmsnorm]}, place: {any: [pre, post]}, block: [first, second, channel]}
  first: {any: [{attention: {heads: 2}}, none]}
  second: {any: [none, {attention: {heads: 2}}]}
  channel: {any: [none, {mlp: {expand: 2}}]}
study: {design: search, search: {trials: 12, confirm: 1, path: true}, margin: 0.05}
"""


@pytest.mark.parametrize("seed", range(12))
def test_no_model_stands_twice_on_a_path_and_a_decision_that_makes_no_other_model_is_no_step(seed: int) -> None:
    """Attention at the first place alone is the same model as at the second alone."""
    of, rng = Study.from_dict(yamlfile.parse(TWICE, "twice").plain()), random.Random(seed)
    worth = {a.digest: rng.random() for a in of.space.enumerate()}
    every = [({"outcome": "done", "measures": {"log_noise": worth[a.digest]}, "digest": a.digest}, a) for a in of.space.enumerate()]
    records = rng.sample(every, 14)
    found = path(records, of)
    assert len({a.digest for a in found}) == len(found)
    for c in steps(records, of):
        assert c.changes and all(here != there for _, here, there in c.changes)
    if found:
        assert worth[found[-1].digest] == min(worth[a.digest] for _, a in records if a.digest != of.reference.digest)


def test_of_several_objectives_it_leads_to_the_knee() -> None:
    of = study(objectives=["log_noise", "parameters"])
    size = {"none": 1, 2: 2, 4: 9}
    records = [({**r, "parameters": size[a.decisions.get("channel.mlp.expand", "none")]}, a) for r, a in tried(of)]
    found, middle = path(records, of), paths.knee(paths.front(records, of))
    assert found and middle and found[-1].digest == middle.architecture.digest


def test_each_step_is_a_comparison_with_the_one_before_and_the_first_is_with_the_reference() -> None:
    of = study()
    made = steps(tried(of), of)
    assert [c.name for c in made] == ["step 1: channel=mlp", "step 2: channel.mlp.expand=4", "step 3: mixer.attention.qkv=tied"]
    ends = [(next(a for a, w in c.weights.items() if w < 0), next(a for a, w in c.weights.items() if w > 0)) for c in made]
    assert ends[0][0] == "reference" and [here for _, here in ends[:-1]] == [there for there, _ in ends[1:]]


def test_a_search_ends_in_verdicts_on_the_steps_and_is_then_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def made_up(plan: Mapping[str, Any], hardware: Any, report: Any, checkpoints: Any = None) -> dict[str, Any]:
        y = loss(plan["decisions"]) + 0.01 * plan["seed"] % 0.07
        point = {"step": 4, "train_loss": y, "loss": y, "log_noise": y}
        report(point)
        return trial.record(plan, "done", [point]) | {"message": "", "traceback": "", "seconds": 0.0}

    monkeypatch.setattr(trial, "run", made_up)
    monkeypatch.setattr(report, "write", lambda *_, **__: [])
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def run() -> runner.RunOutcome:
        progress = Progress("log_noise", "", io.StringIO())
        return runner.run(study(), tmp_path / "out", Options(local=True, track=False), progress)

    run()
    data = report.read(tmp_path / "out")
    found = {c.arm: c for c in data.analysis.contrasts if c.kind == "step"}
    assert next(iter(found)) == "step 1: channel=mlp" and len(found) > 1
    assert all(c.difference == pytest.approx(sum(loss({a: v}) - 3 for a, _, v in c.changes)) for c in found.values())
    assert {c.verdict for c in found.values() if (c.difference or 0) < -0.05} == {"better"}
    total = sum(c.difference or 0 for c in found.values())
    whole = next(c for c in data.analysis.contrasts if c.kind == "change")
    assert whole.difference == pytest.approx(total), "the steps add up to the difference of the best to the reference"
    assert "path to the best found, step by step" in "\n".join(verdict_lines(data.analysis))
    assert all(len({r["arm"] for r in data.trials_of(c)}) == 2 for c in found.values())
    assert run().trained == 0 and runner.status(tmp_path / "out")["left"] == 0
