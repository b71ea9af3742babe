"""A search: what is proposed, what is stopped early, what is confirmed, and that a search cut short goes on as if it had not been."""

from __future__ import annotations

import io
import os
import random
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aotsearch.errors import InputError, RunError
from aotsearch.evidence import front, tables
from aotsearch.evidence.ledger import Ledger
from aotsearch.grammar.architecture import Architecture
from aotsearch.report import report
from aotsearch.running import cluster, evolution, local, runner, storage, work
from aotsearch.running.progress import Progress
from aotsearch.running.rungs import Rungs
from aotsearch.running.runner import Options
from aotsearch.running.search import Proposer, importance
from aotsearch.study import sampling
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.tracking.wording import run_name
from aotsearch.training import trial
from aotsearch.training.train import Stopped

GRAMMAR = """
name: searched
task: {language: {data: {text: corpus.txt}, context: 16}}
grammar:
  model: {width: 16, depth: 2, positions: positions, norm: norm, block: [{attention: {heads: heads}}, channel]}
  channel: {any: [mlp, {mlp: {activation: relu2, expand: {any: [4, 2, 1]}}}, glu, none]}
  heads: {any: [2, 1, 4]}
  norm: {any: [layernorm, rmsnorm]}
  positions: {any: [learned, rope, none]}
study:
  design: search
  seeds: 2
  budget: {steps: 8, batch: 4, evaluations: 8}
  search: {trials: 18, confirm: 2, reduction: 2}
  margin: 0.5
  diagnostics: none
"""


@pytest.fixture
def path(study_file: Path) -> Path:
    """A study file with a search, beside the small corpus."""
    found = study_file.with_name("searched.yaml")
    found.write_text(GRAMMAR)
    return found


def made_up(plan: Mapping[str, Any], hardware: Any, report: Any, checkpoints: Any = None) -> dict[str, Any]:
    """A trial without training: losses that the digest and the seed decide; one in five diverges, one in five fails."""
    rng = random.Random(f"{plan['digest']} {plan['seed']}")
    level, fate, curve = 2 + rng.random(), rng.randrange(5), []
    outcome, message = "done", ""
    try:
        for step in range(1, plan["training"]["steps"] + 1):
            if step == 1 and fate < 2:
                outcome = ("diverged", "failed")[fate]
                break
            loss = level + 1 / step + 0.1 * rng.random()
            curve.append({"step": step, "train_loss": loss, "loss": loss * 0.7, "bits_per_byte": loss})
            report(curve[-1])
    except Stopped as e:
        outcome, message = "pruned", str(e)
    return trial.record(plan, outcome, curve) | {"message": message, "traceback": "", "seconds": 0.0}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No training and no report: what is left is the search."""
    monkeypatch.setattr(trial, "run", made_up)
    monkeypatch.setattr(report, "write", lambda *_, **__: [])
    monkeypatch.setattr(os, "fsync", lambda _: None)


def run(study: Study, out: Path, progress: Progress | None = None, **options: Any) -> runner.RunOutcome:
    progress = progress or Progress("bits_per_byte", "bits/byte", io.StringIO())
    return runner.run(study, out, Options(**{"local": True, "track": False} | options), progress)


def said(study: Study, out: Path) -> str:
    stream = io.StringIO()
    run(study, out, Progress("bits_per_byte", "bits/byte", stream))
    return stream.getvalue()


def events(out: Path, kind: str) -> list[dict[str, Any]]:
    return [e for e in Ledger.open(out).events() if e["event"] == kind]


def tried(out: Path) -> list[dict[str, Any]]:
    return [r for r in Ledger.open(out).records().values() if r["phase"] == "search"]


def course(out: Path) -> tuple[Any, ...]:
    """What a search proposed in which order, what became of it and why, what was confirmed, and what was said of it."""
    records = Ledger.open(out).records().values()
    searched = {r["digest"]: (r["arm"], r["outcome"], r["message"], r["curve"]) for r in records if r["phase"] == "search"}
    proposed = list(dict.fromkeys((e["arm"], e["digest"]) for e in events(out, "proposed")))
    confirmed = {(r["arm"], r["digest"], r["seed"]): r["curve"] for r in records if r["phase"] == "confirm"}
    contrasts = [(c.arm, c.verdict, c.difference, c.low) for c in report.read(out).analysis.contrasts]
    return proposed, searched, confirmed, contrasts


# ---- early stopping


def test_a_trial_goes_on_where_it_is_among_the_best_of_those_that_came_to_the_rung() -> None:
    rungs = Rungs(evaluations=10, reduction=3)
    assert list(rungs.reached) == [1, 3, 9]
    came = [3.0, 2.0, 2.5, 1.9, 2.1, 1.95, 1.95, 1.97]  # go on as one of the best 1, 1, 1, 2, 2, 2, 3, 3
    gone = [not rungs.reach(str(i), 1, loss) for i, loss in enumerate(came)]
    assert gone == [True, True, False, True, False, True, True, False]
    assert rungs.reach("x", 1, 9.0) == "pruned at evaluation 1 of 10: 8 of the 9 that came so far are clearly better"
    assert rungs.reach("1", 1, 9.9) == ""  # it is decided once
    assert rungs.reach("1", 2, 9.9) == ""  # no rung
    assert rungs.reach("3", 3, 5.0) == "" and rungs.reach("1", 3, 5.1) != ""
    assert list(Rungs(9, 3).reached) == [1, 3] and list(Rungs(1, 2).reached) == []  # the last evaluation ends a trial anyway


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), reduction=st.integers(2, 4), evaluations=st.integers(1, 20))
def test_both_executors_stop_the_same_trials_at_the_same_rungs(seed: int, reduction: int, evaluations: int) -> None:
    rng = random.Random(seed)
    steps = 10 * evaluations
    losses = {f"m{i}": [rng.randrange(8) / 8 for _ in range(evaluations)] for i in range(12)}

    def search() -> work.Search:
        return work.Search(iter(()), lambda record: None, Rungs(evaluations, reduction), "error")

    class Silent:
        def point(self, *_: Any) -> None: ...

    here, there, alone, ray, reasons = {}, {}, search(), search(), dict[str, str]()
    scheduler = cluster.scheduler(ray, reasons)
    for name, values in losses.items():
        plan = {"digest": name, "key": name, "training": {"steps": steps}}
        told = local.reporter(alone, Silent())  # type: ignore[arg-type]
        points = [{"step": 10 * (i + 1), "train_loss": 1.0, "loss": 0.0, "error": value} for i, value in enumerate(values)]
        try:
            for point in points:
                told(plan, {"step": point["step"] - 5, "train_loss": 1.0})  # between evaluations a curve has points of its own
                told(plan, point)
        except Stopped as e:
            here[name] = str(e)
        for i, point in enumerate(points[:-1], 1):  # the last comes with the record
            result = {"points": [(name, {"step": point["step"] - 5}), (name, point)], "evaluation": i}
            if scheduler.on_trial_result(None, type("T", (), {"config": {"bundle": [plan]}}), result) == scheduler.STOP:
                there[name] = reasons[name]
                break
    assert here == there
    assert alone.rungs.reached == ray.rungs.reached


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_one_worker_of_ray_makes_the_search_of_this_process(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write", lambda *_, **__: [])
    study = load(path, ["study.search={trials: 12, confirm: 1, reduction: 2}", "study.seeds=1", "study.margin=1e-6"])
    run(study, tmp_path / "local")
    run(study, tmp_path / "ray", local=False, workers=1)
    assert course(tmp_path / "ray") == course(tmp_path / "local")
    assert {"done", "pruned"} <= {r["outcome"] for r in tried(tmp_path / "ray")}


# ---- a search that is continued


def test_a_search_cut_short_anywhere_proposes_judges_and_confirms_what_it_would_have(path: Path, tmp_path: Path, quick: None) -> None:
    study = load(path, ["study.search={trials: 14, confirm: 1, reduction: 2}", "study.seeds=1"])
    run(study, tmp_path / "whole")
    whole = course(tmp_path / "whole")
    assert {r["outcome"] for r in tried(tmp_path / "whole")} == {"done", "pruned", "diverged", "failed"}
    lines = Ledger(tmp_path / "whole").path.read_bytes().splitlines(keepends=True)
    ends = [i for i, line in enumerate(lines) if b'"event":"importance"' in line]
    assert ends[0] > 3 * 14
    for kept in range(2, ends[0] + 3):  # also with the line torn that was being written
        out = tmp_path / f"cut {kept}"
        out.mkdir()
        Ledger(out).path.write_bytes(b"".join(lines[:kept]) + lines[kept][: kept % 30])
        run(study, out)
        assert course(out) == whole, kept


def test_what_was_running_is_proposed_again_first_and_then_what_would_have_followed(path: Path) -> None:
    study = load(path)

    def record(architecture: Architecture, loss: float) -> dict[str, Any]:
        curve = [{"step": 8, "train_loss": loss, "bits_per_byte": loss}]
        return {"digest": architecture.digest, "outcome": "done", "measures": {"bits_per_byte": loss}, "curve": curve}

    proposer, asked, records = proposer_of(study), list[Architecture](), dict[str, dict[str, Any]]()
    for i in range(14):  # four at a time, the second of those that run ends first
        asked.append(_asked(proposer))
        if len(proposer.running) == 4:
            digest = [a.digest for a in asked if a.digest in proposer.running][1]
            records[digest] = record(proposer.proposals[digest], 2 + i / 7 % 1)
            proposer.tell(records[digest])
    again = proposer_of(study, [{"digest": a.digest, "decisions": dict(a.decisions)} for a in asked])
    for told in records.values():
        again.tell(told)
    running = [a for a in asked if a.digest in proposer.running]
    assert [_asked(again) for _ in running] == running
    assert [_asked(again) for _ in range(3)] == [_asked(proposer) for _ in range(3)]


def proposer_of(study: Study, proposed: Iterable[Mapping[str, Any]] = ()) -> Proposer:
    return Proposer(study.space, study.settings.search, study.task.measure, proposed)


def _asked(proposer: Proposer) -> Architecture:
    found = proposer.ask()
    assert found is not None
    return found


def test_failed_trials_of_a_search_are_trained_again_when_asked_in_their_turn(path: Path, tmp_path: Path, quick: None) -> None:
    study = load(path)
    run(study, tmp_path / "run")
    failed = {r["key"] for r in tried(tmp_path / "run") if r["outcome"] == "failed"}
    proposed = events(tmp_path / "run", "proposed")
    assert failed and run(study, tmp_path / "run").trained == 0
    before = len(events(tmp_path / "run", "finished"))
    run(study, tmp_path / "run", retry_failed=True)
    assert len(events(tmp_path / "run", "finished")) >= before + len(failed)
    assert events(tmp_path / "run", "proposed") == proposed


def test_more_trials_go_on_where_the_search_ended(path: Path, tmp_path: Path, quick: None) -> None:
    run(load(path, ["study.search.trials=18"]), tmp_path / "whole")
    run(load(path, ["study.search.trials=9"]), tmp_path / "grown")
    run(load(path, ["study.search.trials=18"]), tmp_path / "grown")
    assert [e["digest"] for e in events(tmp_path / "grown", "proposed")] == [e["digest"] for e in events(tmp_path / "whole", "proposed")]


def test_another_seed_of_the_sampler_is_another_search(path: Path, tmp_path: Path, quick: None) -> None:
    run(load(path, ["study.search.trials=6"]), tmp_path / "both")
    other = load(path, ["study.search={trials: 6, confirm: 2, reduction: 2, seed: 1}"])
    assert "6 trials of the search are left out" in said(other, tmp_path / "both")
    run(other, tmp_path / "alone")
    assert [e["digest"] for e in events(tmp_path / "both", "proposed")[6:]] == [e["digest"] for e in events(tmp_path / "alone", "proposed")]
    assert set(report.read(tmp_path / "both").table.query("phase == 'search'")["seed"]) == {10_000, 10_001}
    assert len(tables.search_table(Ledger(tmp_path / "both").records().values(), other)) == 6


# ---- what the sampler is told


def test_the_sampler_is_told_the_measure_that_is_judged_at_each_evaluation(tmp_path: Path) -> None:
    text = (
        "name: v\ntask: {vision: {data: digits, measure: error}}\ngrammar:\n  model: {width: 16, depth: 1, block: [attention, channel]}\n"
    )
    (tmp_path / "v.yaml").write_text(text + "  channel: {any: [mlp, glu, none]}\nstudy: {design: search}\n")
    proposer = proposer_of(load(tmp_path / "v.yaml"))
    for outcome in ("done", "pruned"):
        digest = _asked(proposer).digest
        curve = [{"step": i, "train_loss": 9.0, "loss": 2.0, "error": 0.5 / i} for i in (1, 2)]
        proposer.tell({"digest": digest, "outcome": outcome, "measures": {"loss": 2.0, "error": 0.25}, "curve": [{"step": 0}, *curve]})
    done, pruned = proposer._recalled().trials
    assert done.value == 0.25 and pruned.intermediate_values == {1: 0.5, 2: 0.25}
    assert pruned.state == optuna.trial.TrialState.PRUNED


def test_divergence_is_the_worst_that_can_be_told_and_a_failure_says_nothing(path: Path) -> None:
    study = load(path, ["study.search.trials=60"])

    def share(outcome: str) -> float:
        """How often norm=rmsnorm is proposed late in a search in which every such trial ends so."""
        proposer, later = proposer_of(study), list[bool]()
        for i in range(40):
            found = _asked(proposer)
            bad = found.decisions["norm"] == "rmsnorm"
            later += [bad] * (i >= 20)
            end, measures = (outcome, {}) if bad else ("done", {"bits_per_byte": 2 + i / 100})
            proposer.tell({"digest": found.digest, "outcome": end, "measures": measures, "curve": []})
        return sum(later) / len(later)

    assert share("diverged") < 0.3 < 0.6 < share("failed")


def test_the_sampler_ranks_diverged_trials_behind_all_others_and_bears_nothing_else(path: Path) -> None:
    from optuna.samplers._tpe.sampler import _split_trials

    proposer = proposer_of(load(path))
    ends = ["diverged", "pruned", "diverged", "done", "pruned", "failed", "done", "diverged"]
    for i, outcome in enumerate(ends):
        curve = [{"step": 1, "bits_per_byte": 3.0 + i}]
        measures = {"bits_per_byte": 3.0 + i} if outcome in ("done", "pruned") else {}
        proposer.tell({"digest": _asked(proposer).digest, "outcome": outcome, "measures": measures, "curve": curve})
    recalled = proposer._recalled()
    below, _ = _split_trials(recalled, recalled.get_trials(deepcopy=False), 4)
    assert sorted(t.value if t.value is not None else t.intermediate_values[1] for t in below) == [4.0, 6.0, 7.0, 9.0]
    alone = proposer_of(load(path))
    for _ in range(12):
        alone.tell({"digest": _asked(alone).digest, "outcome": "diverged", "measures": {}, "curve": []})
    assert _asked(alone).digest  # nothing but divergence is borne


# ---- a space that changed


NARROWER = ("any: [mlp, {mlp: {activation: relu2, expand: {any: [4, 2, 1]}}}, glu, none]", "any: [mlp, none]")
RENAMED = ("channel", "ffn")
DEEPER = ("block: [{attention: {heads: heads}}", "block: [{attention: {heads: heads, qkv: {any: [free, tied]}}}")
WIDER = ("glu, none]", "glu, none, linear]")


@pytest.mark.parametrize(("change", "kept"), [(NARROWER, "some"), (RENAMED, "none"), (DEEPER, "all"), (WIDER, "all")])
def test_a_search_goes_on_in_a_space_that_changed(path: Path, tmp_path: Path, quick: None, change: tuple[str, str], kept: str) -> None:
    out = tmp_path / "run"
    run(load(path, ["study.search.trials=8"]), out)
    before = {r["key"]: r for r in tried(out)}
    path.write_text(GRAMMAR.replace(*change))
    changed = load(path, ["study.search.trials=20"])
    text = said(changed, out)
    recalled = [r for r in before.values() if changed.space.recall(r["decisions"], r["digest"])]
    assert len(recalled) == len(before) if kept == "all" else len(recalled) < len(before) and (kept == "none") == (not recalled)
    assert (f"{8 - len(recalled)} trials of the search are left out" in text) == (kept != "all")
    ranked = tables.searched(Ledger(out).records().values(), changed)
    assert len(ranked) == 20 and len({a.digest for _, a in ranked}) == 20
    started = [e["key"] for e in events(out, "started")]
    assert len(set(started)) == len(started)  # a model that was trained under other decisions is not trained again
    confirmed = {r["digest"] for r in Ledger(out).records().values() if r["phase"] == "confirm"}
    assert {a.digest for a in front.promising(ranked, changed)[:2]} <= confirmed
    assert runner.status(out)["left"] == 0
    assert run(changed, out).trained == 0


def test_a_model_of_another_space_counts_as_soon_as_it_is_proposed(path: Path, tmp_path: Path, quick: None) -> None:
    out = tmp_path / "run"
    small = GRAMMAR.replace(*NARROWER).replace("[layernorm, rmsnorm]", "[layernorm]").replace("[learned, rope, none]", "[learned, rope]")
    path.write_text(small)
    run(load(path, ["study.search.trials=12"]), out)
    path.write_text(small.replace(*RENAMED))
    renamed = load(path, ["study.search.trials=12"])
    assert renamed.space.count() == 12
    assert run(renamed, out).trained == 0  # the same 12 models under other decisions, and the same are confirmed
    records = list(Ledger(out).records().values())
    assert len(tables.searched(records, renamed)) == 12 and not tables.left_out(records, renamed)
    assert {"ffn"} == {address for r in tried(out) for address in r["decisions"] if address in ("ffn", "channel")}


# ---- what comes of it


def test_a_search_that_confirms_fewer_than_asked_says_so(path: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    few = load(path, ["study.search={trials: 4, confirm: 9, reduction: 2}"])
    text = said(few, tmp_path / "few")
    assert "instead of 9 architectures are confirmed" in text
    assert any("instead of 9 architectures are confirmed" in note for note in report.read(tmp_path / "few").analysis.notes)
    assert runner.status(tmp_path / "few")["left"] == 0

    monkeypatch.setattr(
        trial, "run", lambda plan, *_: trial.record(plan, "diverged", []) | {"message": "nan", "traceback": "", "seconds": 0.0}
    )
    none = load(path, ["study.search={trials: 4, confirm: 9, reduction: 2}"])
    text = said(none, tmp_path / "none")
    line = "no architecture is confirmed: none but the arms of the study finished (of 4 tried: 4 diverged)"
    assert line in text and line in report.read(tmp_path / "none").analysis.notes
    assert runner.status(tmp_path / "none")["left"] == 0
    assert not [r for r in Ledger(tmp_path / "none").records().values() if r["phase"] == "confirm"]


def test_a_space_is_searched_to_its_last_architecture(path: Path, tmp_path: Path, quick: None) -> None:
    path.write_text(GRAMMAR.replace(*NARROWER).replace("[learned, rope, none]", "[learned, rope]"))
    study = load(path, ["study.search.trials=500"])
    text = said(study, tmp_path / "run")
    assert len(tried(tmp_path / "run")) == study.space.count() == 24
    assert "no architecture but these 24 was found" in text
    assert runner.status(tmp_path / "run")["left"] == 0


def test_importance_is_drawn_from_what_the_space_still_has(path: Path, tmp_path: Path, quick: None) -> None:
    run(load(path, ["study.budget.evaluations=1"]), tmp_path / "run")
    records = list(Ledger(tmp_path / "run").records().values())
    assert importance(records, load(path)).keys() >= {"channel", "norm"}
    path.write_text(GRAMMAR.replace(*RENAMED))
    assert importance(records, load(path)) == {}


# ---- names


def test_an_architecture_has_one_name_wherever_it_is_told(path: Path, tmp_path: Path, quick: None) -> None:
    study = load(path, ["study.arms={plain: {channel: none, norm: rmsnorm}}"])
    text = said(study, tmp_path / "run")
    records = list(Ledger(tmp_path / "run").records().values())
    names: dict[str, set[str]] = {}
    for r in records:
        names.setdefault(r["digest"], set()).add(r["arm"])
        assert f"{run_name(r, False)}:" in text
    assert all(len(given) == 1 for given in names.values())
    assert len(set().union(*names.values())) == len(names)
    confirmed = {r["arm"] for r in records if r["phase"] == "confirm"}
    candidates = confirmed - {"reference", "plain"}
    assert confirmed >= {"reference", "plain"} and len(candidates) == 2
    read = report.read(tmp_path / "run")
    assert candidates <= set(tables.search_table(records, study)["arm"])
    assert {c.arm for c in read.analysis.contrasts} == candidates | {"plain"}
    assert all(name in read.summary() for name in candidates)
    assert read.analysis.family == 3


def test_an_address_that_a_search_prints_can_be_written_in_arms(path: Path) -> None:
    path.write_text(
        GRAMMAR.replace("depth: 2,", "").replace("block: [{a", "blocks: [{each: 3, of: block}]}\n  block: [{a").replace("nel]}", "nel]")
    )
    found = load(path).space.sample(2)
    changed = {k: v for k, v in found.decisions.items() if v != load(path).reference.decisions.get(k)}
    assert any(address.startswith("model.blocks.") for address in changed)
    named = ", ".join(f"{k}: {v}" for k, v in changed.items() if "." in k)
    study = load(path, [f"study.arms={{x: {{{named}}}}}"])
    arm = study.arm("x")
    assert {k: arm.architecture.decisions[k] for k in changed if "." in k} == {k: v for k, v in changed.items() if "." in k}
    with pytest.raises(InputError, match=r"arm 'x': no decision 'model\.blocks\.9\.channel'"):
        load(path, ["study.arms={x: {model.blocks.9.channel: none}}"])


# ---- seeds


@pytest.mark.parametrize(("seeds", "column"), [("[1, 10000]", 14), ("[3, 20003]", 14), ("10001", 10), ("{min: 2, max: 10001}", 24)])
def test_seeds_that_a_search_or_tuning_uses_are_refused_at_their_place(path: Path, seeds: str, column: int) -> None:
    path.write_text(GRAMMAR.replace("seeds: 2", f"seeds: {seeds}"))
    with pytest.raises(InputError, match=rf"searched\.yaml:12:{column}: .*10000"):
        load(path)
    path.write_text(GRAMMAR.replace("reduction: 2}", "reduction: 2, seed: 10000}"))
    with pytest.raises(InputError, match=r"searched\.yaml:14:\d+: seed: .* less than 10000"):
        load(path)


def test_the_seeds_of_studies_searches_and_tuning_do_not_meet(path: Path) -> None:
    from aotsearch.study.rates import TUNE_SEED

    most = load(path, ["study.seeds=10000", "study.search={trials: 4, seed: 9999}"]).settings
    assert max(most.seed_list) < load(path).settings.search.training_seed <= most.search.training_seed < TUNE_SEED


# ---- samplers and objectives

SAMPLERS = ("tpe", "random", "nsga2", "nsga3", "gp", "evolution")
BOTH = "study.search.objectives=[bits_per_byte, parameters]"


@pytest.mark.parametrize(
    ("sampler", "objectives"), [*((s, "study.search.objectives=[]") for s in SAMPLERS), ("tpe", BOTH), ("nsga2", BOTH), ("evolution", BOTH)]
)
def test_every_sampler_proposes_without_repetition_and_goes_on_after_a_cut_as_if_there_had_been_none(
    path: Path, tmp_path: Path, quick: None, sampler: str, objectives: str
) -> None:
    small = {"nsga2": "{nsga2: {population_size: 4}}", "nsga3": "{nsga3: {population_size: 4}}", "gp": "{gp: {n_startup_trials: 4}}"}
    small |= {"evolution": "{evolution: {population: 4, sample: 2}}", "tpe": "{tpe: {n_startup_trials: 4}}"}
    chosen = [f"study.search.sampler={small.get(sampler, sampler)}", objectives, "study.search.trials=14", "study.margin=0.01"]
    study = load(path, chosen)
    run(study, tmp_path / "whole")
    run(load(path, [*chosen, "study.search.trials=7"]), tmp_path / "cut")
    run(study, tmp_path / "cut")
    whole, cut = ([e["digest"] for e in events(tmp_path / name, "proposed")] for name in ("whole", "cut"))
    assert len(set(whole)) == len(whole) == 14 and cut == whole


def test_samplers_propose_other_things(path: Path, tmp_path: Path, quick: None) -> None:
    def proposed(sampler: str) -> tuple[str, ...]:
        run(load(path, [f"study.search.sampler={sampler}", "study.search.trials=16"]), tmp_path / sampler[:5])
        return tuple(e["digest"] for e in events(tmp_path / sampler[:5], "proposed"))

    assert len({proposed(s) for s in ("tpe", "random", "evolution")}) == 3


def test_evolution_changes_one_decision_of_the_best_of_a_sample_of_the_youngest(path: Path) -> None:
    space = load(path).space
    alive = [(space.sample(seed), (float(seed),)) for seed in range(5)]
    options = sampling.Evolution(population=4, sample=4)
    children = [evolution.child(space, alive, (), options, random.Random(seed)) for seed in range(10)]
    parents = {a.digest for a in space.neighbours(alive[1][0])}  # the first is no longer alive, the second is the best of those that are
    assert {c.digest for c in children if c} <= parents and len({c.digest for c in children if c}) > 1


@pytest.mark.parametrize(
    "setting, law",
    [
        ("sampler=tpee", "sampler: "),
        ("sampler={tpe: {n_startup: 3}}", "no option 'n_startup'"),
        ("sampler={tpe: {n_startup_trials: -1}}", "n_startup_trials"),
        ("sampler={tpe: {}, gp: {}}", "name one sampler"),
        ("sampler={evolution: {population: 2, sample: 9}}", "a sample is at most the population, 2, not 9"),
        ("first=[nope]", "search.first: no arm 'nope'"),
        ("objectives=[bits_per_byte, parametres]", "no objective 'parametres'; did you mean 'parameters'"),
        ("objectives=[parameters, parameters]", "each objective stands once, not parameters twice"),
    ],
)
def test_a_sampler_or_an_objective_that_is_none_is_refused_with_its_place(path: Path, setting: str, law: str) -> None:
    with pytest.raises(InputError, match=re.escape(law)):
        load(path, [f"study.search.{setting}"])


def test_the_front_is_what_nothing_beats_in_everything_and_all_of_it_is_confirmed(path: Path, tmp_path: Path, quick: None) -> None:
    study = load(path, [BOTH, "study.search.trials=20", "study.seeds=3", "study.margin=0.05"])
    run(study, tmp_path / "both")
    document = report.read(tmp_path / "both").analysis.to_dict()
    done = {r["digest"]: (r["measures"]["bits_per_byte"], r["parameters"]) for r in tried(tmp_path / "both") if r["outcome"] == "done"}
    best = {d for d, (y, n) in done.items() if not any(b <= y and m <= n and (b, m) != (y, n) for b, m in done.values())}
    assert {p["digest"] for p in document["front"]} == best and len(best) > 1
    assert all(p["objectives"] == dict(zip(("bits_per_byte", "parameters"), done[p["digest"]], strict=True)) for p in document["front"])
    confirmed = {r["digest"] for r in Ledger(tmp_path / "both").records().values() if r["phase"] == "confirm"}
    assert best <= confirmed
    assert {p["survives"] for p in document["front"]} <= {"yes", "no", "open", "unopposed", None}
    assert sum(p["knee"] for p in document["front"]) == (len(best) > 2)


def test_a_search_after_one_objective_has_no_front(path: Path, tmp_path: Path, quick: None) -> None:
    run(load(path, ["study.search.trials=4"]), tmp_path / "one")
    assert "front" not in report.read(tmp_path / "one").analysis.to_dict()


def test_evolution_changes_ranges_too(path: Path, tmp_path: Path, quick: None) -> None:
    path.write_text(GRAMMAR.replace("expand: {any: [4, 2, 1]}", "expand: {range: [1.0, 4.0]}"))
    run(load(path, ["study.search.sampler={evolution: {population: 4, sample: 2}}"]), tmp_path / "run")
    assert len(tried(tmp_path / "run")) == 18


def test_what_is_dominated_is_a_volume() -> None:
    assert front.hypervolume([[0.0, 0.5], [0.5, 0.0]], [1.0, 1.0]) == pytest.approx(0.75)
    assert front.hypervolume([[0.0, 0.0, 0.0]], [1.0, 2.0, 3.0]) == pytest.approx(6.0)
    assert front.hypervolume([[0.5, 0.5, 0.0], [0.0, 0.0, 0.5]], [1.0, 1.0, 1.0]) == pytest.approx(0.5 + 0.25 * 0.5)
    assert front.hypervolume([[2.0, 0.0]], [1.0, 1.0]) == 0.0


def test_a_trial_is_pruned_only_by_what_is_better_in_everything_that_is_known() -> None:
    rungs = Rungs(evaluations=9, reduction=2, tie=0.1)
    rungs.costs = {"small": (1.0,), "large": (9.0,), "bad": (9.0,), "near": (9.0,)}
    assert rungs.reach("large", 1, 1.0) == ""
    assert rungs.reach("small", 1, 2.0) == ""  # worse, and smaller
    assert rungs.reach("near", 1, 1.05) == ""  # no better than a tie
    assert "3 of the 4" in rungs.reach("bad", 1, 3.0)


def test_arms_that_are_named_first_are_tried_first(path: Path, tmp_path: Path, quick: None) -> None:
    study = load(
        path, ["study.search.trials=5", "study.arms={bare: {channel: none, norm: rmsnorm}}", "study.search.first=[reference, bare]"]
    )
    run(study, tmp_path / "first")
    assert [e["arm"] for e in events(tmp_path / "first", "proposed")][:2] == ["reference", "bare"]


def test_the_best_of_an_earlier_run_is_tried_first_and_is_done_without_once_the_search_has_begun(
    path: Path, tmp_path: Path, quick: None
) -> None:
    run(load(path), tmp_path / "earlier")
    done = [r for r in Ledger.open(tmp_path / "earlier").records().values() if r["outcome"] == "done"]
    scores: dict[str, list[float]] = {}
    for r in done:
        scores.setdefault(r["digest"], []).append(r["measures"]["bits_per_byte"])
    wanted = sorted(scores, key=lambda digest: sum(scores[digest]) / len(scores[digest]))[:2]
    study = load(path, ["study.search.seed=1", f"study.search.first=[{{run: {tmp_path / 'earlier'}, best: 2}}, reference]"])
    run(study, tmp_path / "warm")
    first = list(dict.fromkeys([*wanted, study.reference.digest]))
    assert [e["digest"] for e in events(tmp_path / "warm", "proposed")][: len(first)] == first
    (tmp_path / "earlier").rename(tmp_path / "moved")
    assert run(study, tmp_path / "warm").trained == 0
    with pytest.raises(InputError, match="holds no run"):
        run(study, tmp_path / "anew")
    assert not (tmp_path / "anew").exists()


def test_a_search_stops_when_nothing_better_comes_and_goes_on_without_the_stop(path: Path, tmp_path: Path, quick: None) -> None:
    stopping = load(path, ["study.search.stop=4", "study.margin=0.05"])
    text = said(stopping, tmp_path / "run")
    assert "the last 4 trials brought nothing better by more than the margin: the search ends before its 18 trials" in text
    number = len(tried(tmp_path / "run"))
    ended = [r["measures"].get("bits_per_byte", 99.0) if r["outcome"] == "done" else 99.0 for r in tried(tmp_path / "run")]
    assert 4 < number < 18 and all(y > min(ended[:-4]) - 0.05 for y in ended[-4:]) and ended[-5] < min([98, *ended[:-5]]) - 0.05
    assert runner.status(tmp_path / "run")["left"] == 0 and run(stopping, tmp_path / "run").trained == 0
    run(load(path, ["study.margin=0.05"]), tmp_path / "run")
    assert len(tried(tmp_path / "run")) == 18


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.8])
def test_a_search_that_stops_stops_where_it_would_have_after_a_cut(path: Path, tmp_path: Path, quick: None, cut: float) -> None:
    study = load(path, ["study.search.stop=4", "study.margin=0.05"])
    run(study, tmp_path / "whole")
    lines = (tmp_path / "whole" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "ledger.jsonl").write_bytes(b"".join(lines[: int(cut * len(lines))]))
    run(study, tmp_path / "cut")
    assert course(tmp_path / "cut") == course(tmp_path / "whole")


def test_the_front_is_in_every_form(path: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    run(load(path, [BOTH, "study.search.trials=16", "study.seeds=3", "study.margin=0.05"]), tmp_path / "both")
    monkeypatch.undo()
    report.write(tmp_path / "both", ["html", "md"])
    found = report.read(tmp_path / "both")
    for text in (found.summary(), *((tmp_path / "both" / "report" / f"report.{kind}").read_text() for kind in ("html", "md"))):
        assert "nothing that was tried is better in everything" in text and "(knee)" in text
        assert all(p["arm"] in text.replace("\\", "") for p in found.analysis.to_dict()["front"])


@pytest.mark.parametrize("objectives", ["study.search.objectives=[]", BOTH])
def test_a_search_is_put_into_a_storage_of_optuna(path: Path, tmp_path: Path, quick: None, objectives: str) -> None:
    run(load(path, [objectives, "study.search.trials=12", "study.margin=0.01"]), tmp_path / "put")
    url = f"sqlite:///{tmp_path / 'x.db'}"
    assert storage.put(tmp_path / "put", url) == 12
    kept = {t.user_attrs["digest"]: t for t in optuna.load_study(study_name="searched", storage=url).trials}
    states = {"done": "COMPLETE", "pruned": "PRUNED"}
    for r in tried(tmp_path / "put"):
        assert kept[r["digest"]].state.name == states.get(r["outcome"], "FAIL")
        assert {k: v for k, v in r["decisions"].items() if v is not None} == kept[r["digest"]].params
        if r["outcome"] == "done":
            assert kept[r["digest"]].values[0] == r["measures"]["bits_per_byte"]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(RunError, match="cut"):
        patch.setattr(optuna.Study, "add_trials", lambda *_: (_ for _ in ()).throw(OSError("cut")))
        storage.put(tmp_path / "put", url)
    assert storage.put(tmp_path / "put", url) == 12, "what was written in part is replaced"
    assert len(optuna.load_study(study_name="searched", storage=url).trials) == 12
    optuna.delete_study(study_name="searched", storage=url)
    optuna.create_study(study_name="searched", storage=url)
    with pytest.raises(InputError, match="has a study 'searched' already, which is not of this run"):
        storage.put(tmp_path / "put", url)
    with pytest.raises(RunError, match="Optuna cannot write there"):
        storage.put(tmp_path / "put", "sqlite:////no/such/folder/x.db")
