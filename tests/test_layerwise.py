"""A study that leaves out one layer's part at a time, with everything else that a study can ask for."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from aotsearch.report import report
from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.show import show
from aotsearch.study.loading import load

STUDY = """
name: layerwise
question: Which layer needs its MLP?
task: {language: {data: {text: corpus.txt}, context: 16}}
grammar:
  model: {width: 16, blocks: {each: 2, of: layer}}
  layer: [{attention: {heads: 2}}, channel]
  channel: {any: [{mlp: {expand: 2}}, none, {glu: {expand: {range: [1, 2]}}}]}
study:
  factors: [channel]
  arms: {bare: {channel: none}}
  compare: [[model.blocks.0.channel=none, model.blocks.1.channel=none]]
  equalise: [none, parameters]
  tolerance: 0.2
  learning_rate: {tune: [1e-2, 2e-2], extend: 0}
  seeds: {min: 2, max: 3}
  knock_out: true
  diagnostics: none
  budget: {steps: 2, batch: 2, evaluations: 1}
"""
OUT = [f"model.blocks.{i}.channel=none" for i in range(2)]


@pytest.fixture
def layerwise(study_file: Path) -> Path:
    study_file.write_text(STUDY)
    return study_file


def test_every_layer_is_judged_under_every_view_and_knocked_out_beside_its_retrained_arm(
    layerwise: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, told = load(layerwise), io.StringIO()
    options = runner.Options(local=True, track=False, command="test")
    outcome = runner.run(study, tmp_path / "run", options, Progress("bits_per_byte", "bits/byte", told, tuned=True))
    assert set(outcome.outcomes) == {"done"}
    assert study.notes == ["not varied: channel.glu.expand (only inside channel=glu)"] and study.notes[0] in told.getvalue()
    assert study.notes[0] in outcome.analysis.notes
    judged = {(c.arm, c.equalise, c.rate) for c in outcome.analysis.contrasts}
    for name in OUT:
        assert judged >= {(name, "none", "shared"), (name, "none", "tuned"), (f"{name}@parameters", "parameters", "tuned")}
    assert sum(c.arm == f"{OUT[0]} against {OUT[1]}" for c in outcome.analysis.contrasts) == 4
    pairs = {(c.arm, c.rate, c.equalise): c.seeds for c in outcome.analysis.contrasts}
    assert max(pairs.values()) == 3  # what was open after two seeds was given a third
    material = report.read(tmp_path / "run")
    beside = {k.sublayers: k.retrained for k in report.Report(material).knocked}
    assert {places: beside[places] for places in ((1,), (3,), (1, 3))} == {(1,): OUT[0], (3,): OUT[1], (1, 3): "bare"}
    monkeypatch.setattr(report, "write", lambda *_, **__: [])  # the pages of this run are drawn
    again = runner.run(load(layerwise), tmp_path / "run", options, Progress("bits_per_byte", "bits/byte", io.StringIO(), tuned=True))
    assert again.trained == 0 and again.summary == outcome.summary


def test_an_arm_of_one_layer_is_shown_beside_another(layerwise: Path) -> None:
    study = load(layerwise)
    text = show.diff(study.arm(OUT[0]), study.arm(f"{OUT[1]}@parameters"))
    assert "model.blocks.0.channel none -> mlp" in " ".join(text.split())
    assert f"from {OUT[0]} to {OUT[1]}@parameters" in text


@pytest.mark.parametrize(
    ("settings", "notes"),
    [
        (["study.factors=[]"], ["not varied: channel.glu.expand (only inside channel=glu)"]),
        (["study.design=search", "study.compare=[]"], ["factors is not read by design: search"]),
        (["study.runs=4", "study.stripped={channel: none}"], ["stripped is not read by design: one-at-a-time", "runs is not read"]),
        (["study.factors=[]", "study.arms={}", "study.compare=[]", "grammar.channel=mlp"], ["nothing is compared"]),
        (
            ["study.factors=[]", "study.arms={}", "study.compare=[]", "grammar.channel={mlp: {expand: {range: [1, 2]}}}"],
            ["not varied: channel.mlp.expand (a range; a search varies it)", "nothing is compared: the reference is the only arm"],
        ),
    ],
)
def test_what_a_design_leaves_out_is_said_before_it_runs(layerwise: Path, settings: list[str], notes: list[str]) -> None:
    found = load(layerwise, settings).notes
    for note in notes:
        assert any(line.startswith(note) for line in found), found
    assert not any(line.startswith(("arms is", "compare is")) for line in found)  # every design reads those
    assert "nothing is compared" in " ".join(notes) or not any("nothing is compared" in line for line in found)
