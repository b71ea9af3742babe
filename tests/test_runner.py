from __future__ import annotations

import contextlib
import io
import math
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aotsearch.errors import InputError, RunError
from aotsearch.evidence.ledger import Ledger
from aotsearch.report import report
from aotsearch.running import runner
from aotsearch.running.progress import Progress, clock
from aotsearch.running.runner import Options
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.training import trial as trials

sys.path.insert(0, str(Path(__file__).parent))
import fabricated

LOCAL = Options(local=True, track=False, command="test")
write = report.write


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages take longer than these trials, and are drawn only where they are read: see `drawn`."""
    monkeypatch.setattr(report, "write", lambda *_, **__: [])


@pytest.fixture
def drawn(_undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write", write)


def run(study: Study, out: Path, options: Options = LOCAL, stream: Any = None) -> runner.RunOutcome:
    return runner.run(study, out, options, Progress("bits_per_byte", "bits/byte", stream or io.StringIO()))


def measures(out: Path) -> dict[str, Any]:
    return {key: r["curve"] for key, r in Ledger.open(out).records().items()}


def test_a_second_run_trains_nothing_and_says_the_same(study_file: Path, tmp_path: Path) -> None:
    study = load(study_file)
    first = run(study, tmp_path / "run")
    second = run(load(study_file), tmp_path / "run")
    assert first.trained == 8 and second.trained == 0
    assert first.summary == second.summary
    assert "channel" in first.summary and "bigram" in first.summary


def test_a_study_read_back_from_its_run_folder_is_the_same_study(study_file: Path, tmp_path: Path) -> None:
    study = load(study_file, ["study.seeds=3"])
    run(study, tmp_path / "elsewhere" / "run")
    again = load(tmp_path / "elsewhere" / "run" / "study.yaml")
    assert again.digest == study.digest and again.reference == study.reference
    assert [a.name for a in again.arms()] == [a.name for a in study.arms()]
    assert again.settings == study.settings


def test_a_run_whose_rules_come_from_files_that_hold_more_than_it_uses_is_read_back(study_file: Path, tmp_path: Path) -> None:
    """`identity` is led to by `mixer` alone, which is replaced: by a study that builds on the file, by an included one, by --set."""
    (tmp_path / "mixers.yaml").write_text("mixer: {attention: {heads: 2}}\nother: mlp\n")
    (tmp_path / "upon.yaml").write_text("name: upon\nspace: small.yaml\ngrammar: {include: mixers.yaml}")
    for name, overrides in {"upon.yaml": [], "small.yaml": ["grammar.mixer={attention: {heads: 2}}"]}.items():
        study = load(tmp_path / name, ["study.seeds=1", *overrides])
        run(study, tmp_path / "run" / name)
        assert {r["outcome"] for r in report.results(tmp_path / "run" / name).to_dict("records")} == {"done"}
        assert load(tmp_path / "run" / name / "study.yaml").plain == study.plain
        assert "identity" not in study.plain["grammar"] and "other" not in study.plain["grammar"]


def test_a_rule_that_an_override_brings_and_nothing_uses_is_told(study_file: Path) -> None:
    with pytest.raises(InputError, match=r"--set grammar.mixxer=mlp.*the rule 'mixxer' is never used"):
        load(study_file, ["grammar.mixxer=mlp"])


def test_more_seeds_continue_a_run_and_other_settings_are_refused(study_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(load(study_file), out)
    before = measures(out)
    assert run(load(study_file, ["study.seeds=3"]), out).trained == 4
    assert {k: v for k, v in measures(out).items() if k in before} == before
    with pytest.raises(InputError, match=r"study\.budget\.steps was 6, is 7.*choose another --out"):
        run(load(study_file, ["study.budget.steps=7"]), out)
    with pytest.raises(InputError, match="another reference"):
        run(load(study_file, ["grammar.model.depth=2"]), out)


def test_other_data_under_the_same_name_is_refused(study_file: Path, tmp_path: Path) -> None:
    run(load(study_file, ["study.seeds=1"]), tmp_path / "run")
    (study_file.parent / "corpus.txt").write_text("other words entirely " * 800)
    with pytest.raises(InputError, match="other data"):
        run(load(study_file, ["study.seeds=1"]), tmp_path / "run")


def test_a_run_cut_short_continues_where_it_was_with_the_same_losses(study_file: Path, tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(load(study_file), whole)

    class Interrupting(Progress):
        def finished(self, record: Any, where: str = "") -> None:
            super().finished(record)
            if self.done == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.run(load(study_file), cut, LOCAL, Interrupting("bits_per_byte", "bits/byte", io.StringIO()))
    assert runner.status(cut)["done"] == 3 and runner.status(cut)["left"] == 5
    assert run(load(study_file), cut).trained == 5
    assert measures(cut) == measures(whole)


def test_a_damaged_line_costs_one_trial_and_nothing_else(study_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(load(study_file), out)
    before = measures(out)
    lines = Ledger(out).path.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b'"event":"finished"' in line)
    lines[at] = lines[at].replace(b'"seed":', b'"sead":')
    Ledger(out).path.write_bytes(b"".join(lines))
    assert runner.status(out)["corrupt_lines"] == 1 and runner.status(out)["left"] == 1
    assert run(load(study_file), out).trained == 1
    assert measures(out) == before


def test_arms_are_run_in_blocks_by_seed(study_file: Path, tmp_path: Path) -> None:
    run(load(study_file), tmp_path / "run")
    seeds = [r["seed"] for r in Ledger.open(tmp_path / "run").records().values()]
    assert seeds == sorted(seeds)


def test_a_diverging_arm_is_an_outcome_and_the_others_are_judged(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aotsearch.training import trial
    from aotsearch.training.train import Diverged

    build = trial.build

    def sometimes(architecture: Any, seed: int) -> Any:
        if len(architecture.sublayers) == 1:
            raise Diverged("the loss is nan at step 3")
        return build(architecture, seed)

    monkeypatch.setattr(trial, "build", sometimes)
    outcome = run(load(study_file), tmp_path / "run")
    assert outcome.outcomes == {"done": 6, "diverged": 2} and outcome.failed == 0
    assert "diverged" in outcome.summary
    assert run(load(study_file), tmp_path / "run").trained == 0


def test_failed_trials_are_kept_and_trained_again_when_asked(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aotsearch.training import trial

    with monkeypatch.context() as broken:
        broken.setattr(trial, "build", lambda *_: (_ for _ in ()).throw(RuntimeError("broken part")))
        assert run(load(study_file), tmp_path / "run").failed == 8
    assert run(load(study_file), tmp_path / "run").trained == 0
    again = run(load(study_file), tmp_path / "run", Options(local=True, track=False, retry_failed=True))
    assert again.trained == 8 and again.failed == 0


def test_a_search_tries_distinct_architectures_and_confirms_the_best_on_fresh_seeds(study_file: Path, tmp_path: Path) -> None:
    study = load(study_file, ["study.design=search", "study.search={trials: 6, confirm: 2}"])
    run(study, tmp_path / "run")
    records = list(Ledger.open(tmp_path / "run").records().values())
    searched = [r for r in records if r["phase"] == "search"]
    confirmed = [r for r in records if r["phase"] == "confirm"]
    assert len({r["digest"] for r in searched}) == len(searched) == 6
    assert len(confirmed) == 2 * 3 and {r["seed"] for r in searched}.isdisjoint({r["seed"] for r in confirmed})
    best = sorted((r["measures"]["bits_per_byte"], r["digest"]) for r in searched if r["outcome"] == "done")
    chosen = {r["digest"] for r in confirmed if r["arm"] != "reference"}
    assert chosen == set([d for _, d in best if d != study.reference.digest][:2])
    assert run(study, tmp_path / "run").trained == 0


def test_a_search_ends_when_its_space_is_exhausted(study_file: Path, tmp_path: Path) -> None:
    study = load(study_file, ["study.design=search", "study.search={trials: 50, confirm: 1}", "study.seeds=1"])
    run(study, tmp_path / "run")
    records = Ledger.open(tmp_path / "run").records().values()
    assert sum(r["phase"] == "search" for r in records) == study.space.count() == 8


def test_missing_data_leaves_no_folder_behind(study_file: Path, tmp_path: Path) -> None:
    (study_file.parent / "corpus.txt").unlink()
    with pytest.raises(InputError, match="no file matches"):
        run(load(study_file), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_start_that_is_refused_leaves_a_folder_as_it_was(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    run(load(study_file, ["study.seeds=1"]), out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    large = "study.resources.cpus=6400"
    with pytest.raises(InputError, match="a trial asks for 6400 cpus"):
        run(load(study_file, ["study.seeds=2", large]), out)
    with monkeypatch.context() as bare:
        for package in ("optuna", "ray"):
            bare.setitem(sys.modules, package, None)
        with pytest.raises(InputError, match="needs the package optuna"):
            run(load(study_file, ["study.seeds=1", "study.design=search"]), out)
        with pytest.raises(InputError, match="needs the package ray"):
            run(load(study_file, ["study.seeds=2"]), out, Options(track=False))
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    assert run(load(study_file, ["study.seeds=1", large]), out).trained == 0  # nothing is left that it would be too large for


def test_a_run_through_ray_without_mlflow_says_so_and_goes_on(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, stream = load(study_file, ["study.seeds=1"]), io.StringIO()
    run(study, tmp_path / "run")
    monkeypatch.setitem(sys.modules, "mlflow", None)
    assert run(study, tmp_path / "run", Options(), stream).trained == 0  # nothing is left: Ray is not even started
    assert "mlflow is not installed: the ledger is written" in stream.getvalue()


def test_a_run_folder_that_can_not_be_made_is_one_line(study_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file"):
        run(load(study_file), tmp_path / "file")
    with pytest.raises(RunError, match="cannot be made"):
        run(load(study_file), tmp_path / "file" / "inside")


def test_plain_progress_is_one_line_per_trial_with_the_time_left(study_file: Path, tmp_path: Path) -> None:
    stream = io.StringIO()
    run(load(study_file), tmp_path / "run", stream=stream)
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("[")]
    assert len(lines) == 8 and "bits/byte" in lines[0] and lines[-1].startswith("[8/8]") and "0 s left" in lines[-1]
    assert clock(59.6) == "1 min 00 s" and clock(7300) == "2 h 01 min"


def test_results_are_one_row_per_trial_with_the_factors(study_file: Path, tmp_path: Path) -> None:
    import aotsearch

    run(load(study_file), tmp_path / "run")
    table = aotsearch.results(tmp_path / "run")
    assert len(table) == 8
    wanted = {"arm", "seed", "outcome", "bits_per_byte", "parameters", "flops_per_token", "learning_rate", "seconds", "digest"}
    assert wanted | {"identity", "channel", "positions"} <= set(table.columns)
    assert set(table.loc[table.arm == "channel=none", "channel"]) == {"none"}


def test_a_forecast_and_a_report_say_how_the_data_was_split(study_file: Path, tmp_path: Path) -> None:
    from aotsearch.report import contents
    from aotsearch.running.forecast import forecast, table

    study = load(study_file, ["study.seeds=1"])
    found = forecast(study)
    assert found["data"] == study.task.prepare() and found["data"]["split_documents"]["validation"] == 1
    sizes = "bytes of 1 document, validation"
    assert f"data: train {found['data']['bytes']['train']:,} {sizes}" in table(found) and "split: by blocks spread over the files" in table(
        found
    )
    run(study, tmp_path / "run")
    facts = dict(contents.facts(report.read(tmp_path / "run")))
    assert sizes in facts["data"] and facts["split"] == found["data"]["split"] and "whole validation" not in facts


def test_the_loss_on_the_whole_of_val_bin_is_recorded_where_validation_is_half_of_it(study_file: Path, tmp_path: Path) -> None:
    import numpy as np
    import torch

    import aotsearch
    from aotsearch.evidence.tables import measured
    from aotsearch.grammar.architecture import Architecture
    from aotsearch.report import contents
    from aotsearch.training.evaluation import evaluate

    rng = np.random.default_rng(0)
    for name, size in (("train.bin", 4000), ("val.bin", 403)):
        rng.integers(0, 50, size).astype("<u2").tofile(tmp_path / name)
    study = load(study_file, ["task={language: {data: {tokens: .}, context: 50, vocabulary: 50}}", "study.seeds=1"])
    run(study, tmp_path / "run")
    (record,) = [r for r in Ledger.open(tmp_path / "run").records().values() if r["arm"] == "reference"]
    model = aotsearch.build(Architecture.from_dict(record["architecture"]))
    model.load_state_dict(torch.load(tmp_path / "run" / "checkpoints" / f"{record['key']}.pt"))
    both = tuple(np.concatenate(pair) for pair in zip(study.task.validation(), study.task.test(), strict=True))
    assert len(study.task.validation()[0]) != 0 and record["whole_validation"].keys() == {"loss"}
    assert record["whole_validation"]["loss"] == pytest.approx(evaluate(model, study.task, both, "cpu")["loss"], rel=1e-6)
    rows = aotsearch.results(tmp_path / "run")
    (shown,) = rows[rows.arm == "reference"]["whole_validation_loss"]
    assert shown == record["whole_validation"]["loss"] == measured(record, study, "whole_validation")
    assert f"{shown:.4f} nats/token" in dict(contents.facts(report.read(tmp_path / "run")))["whole validation"]


def test_values_that_are_not_finite_neither_end_a_run_nor_its_continuation(
    study_file: Path, tmp_path: Path, drawn: None, monkeypatch: Any
) -> None:
    from aotsearch.diagnostics import probe
    from aotsearch.tasks.language import Language
    from aotsearch.training import trial

    measures = Language.measures
    monkeypatch.setattr(Language, "measures", lambda self, means: measures(self, means) | {"perplexity": math.inf})
    monkeypatch.setattr(trial, "evaluate", lambda *_: {"bits_per_byte": math.nan, "loss": math.inf})  # the test split and the knock-out
    monkeypatch.setattr(probe, "measure", lambda *_, **__: {"hidden-rms": [math.inf, 1.0, math.nan]})
    odd, out = ["study.seeds=1", "study.knock_out=true", "study.diagnostics=[hidden-rms]"], tmp_path / "run"
    first = run(load(study_file, odd), out)
    assert first.outcomes == {"done": 4} and not first.notes and (out / "report" / "report.html").exists()
    record = next(r for r in Ledger(out).records().values() if r["arm"] == "reference")
    assert record["test"] == {"bits_per_byte": None, "loss": None} and record["diagnostics"] == {"hidden-rms": [None, 1.0, None]}
    assert record["curve"][-1]["perplexity"] is None and record["knock_out"][0]["increase"] is None
    assert record["not_finite"]["test.loss"] == "inf" and record["not_finite"]["test.bits_per_byte"] == "nan"
    assert "4 trials gave values that are not finite" in " ".join(first.summary.split())
    again = run(load(study_file, odd), out)
    assert again.trained == 0 and again.summary == first.summary


def test_a_trial_that_trained_but_was_not_measured_whole_is_done_and_trained_again_when_asked(
    study_file: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    from aotsearch.tasks.language import Language

    def short(*_: Any) -> None:
        raise InputError("test is 4 long, and context 16 needs 17")

    study = load(study_file, ["study.seeds=1"])
    with monkeypatch.context() as broken:
        broken.setattr(Language, "test", short)
        outcome = run(study, tmp_path / "run")
    assert outcome.outcomes == {"done": 4} and outcome.failed == 0
    said = " ".join(outcome.summary.split())
    assert "the test split could not be measured in 4 trials" in said and "test is 4 long" in said
    assert run(study, tmp_path / "run").trained == 0
    again = run(study, tmp_path / "run", Options(local=True, track=False, retry_failed=True))
    assert again.trained == 4 and "could not be measured" not in again.summary


def test_status_counts_what_the_present_start_has_begun_and_not_what_was_killed(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "run", "seeds: 1, margin: 0.05")
    made.train(broken=False)
    out, ledger = made.folder, made.ledger
    for key in ("killed", "killed too"):
        ledger.append("started", key=key, arm="reference", seed=7, phase="design")
    with ledger.lock():
        ledger.append("run", command="again", started="2026-01-01T00:00:00+00:00")
        assert runner.status(out)["running"] == 0
        ledger.append("started", key="now", arm="reference", seed=8, phase="design")
        assert (runner.status(out)["running"], runner.status(out)["active"]) == (1, True)
        again = next(iter(ledger.records()))
        ledger.append("started", key=again, arm="reference", seed=0, phase="design")  # --retry-failed
        assert runner.status(out)["running"] == 2
        ledger.append("finished", **{k: v for k, v in ledger.records()[again].items() if k != "event"})
        assert runner.status(out)["running"] == 1
    assert (runner.status(out)["running"], runner.status(out)["active"]) == (0, False)


def test_a_study_that_goes_on_under_another_version_says_so_and_names_the_pairs(study_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run(load(study_file, ["study.seeds=1"]), out)
    ledger = Ledger(out)
    events = list(ledger.events())
    ledger.path.unlink()
    for e in events:  # as an earlier version of torch would have left it, of the reference alone
        old = {"environment": e["environment"] | {"torch": "2.0.0"}} if e.get("arm") == "reference" and "environment" in e else {}
        ledger.append(e["event"], **{k: v for k, v in e.items() if k != "event"} | old)
    stream = io.StringIO()
    outcome = run(load(study_file, ["study.seeds=2"]), out, stream=stream)
    assert outcome.trained == 4 and stream.getvalue().count("trials here were made with torch 2.0.0, now with") == 1
    assert "3 of 6 pairs mix torch 2.0.0 and" in " ".join(outcome.summary.split())


# ---- a start that has nothing to do

GIANTS = ("torch", "ray", "optuna", "mlflow", "matplotlib", "pandas")


def test_a_second_start_imports_no_giant_and_leaves_the_folder_as_it_was(study_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["run", str(study_file), "--out", str(out), "--local", "--set", "study.seeds=1"]
    first = subprocess.run([sys.executable, "-m", "aotsearch", *command], capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    code = (
        "import sys; from aotsearch.__main__ import main; sys.argv = ['aotsearch', *{}]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "sys.stderr.write('giants: ' + str(sorted(set({}) & set(sys.modules))))"
    ).format([c for c in command if c != "--local"], GIANTS)
    again = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert again.stderr.endswith("giants: []") and "0 trials trained" in again.stderr
    assert again.stdout == first.stdout
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_a_second_start_of_a_search_that_tunes_leaves_the_ledger_as_it_was(study_file: Path, tmp_path: Path) -> None:
    for overrides in (
        ["study.design=search", "study.search={trials: 200, confirm: 1}", "study.seeds=1", "study.diagnostics=none"],  # the space has 8
        ["study.learning_rate={tune: [1e-3, 1e-2]}", "study.seeds={min: 2, max: 3}", "study.diagnostics=none"],
    ):
        out = tmp_path / overrides[0].partition("=")[0]
        run(load(study_file, overrides), out)
        before = Ledger(out).digest()
        assert run(load(study_file, overrides), out).trained == 0
        assert Ledger(out).digest() == before


def test_a_report_that_is_not_whole_is_made_again(study_file: Path, tmp_path: Path, drawn: None) -> None:
    study, folder = load(study_file, ["study.seeds=1", "study.diagnostics=none"]), tmp_path / "run" / "report"
    run(study, tmp_path / "run")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for damage in (
        lambda: (folder / "report.html").write_text("cut"),
        lambda: (folder / "forest.png").unlink(),
        lambda: (folder / ".made.json").write_text("[]"),
        lambda: report.write(tmp_path / "run", ["csv"]) and (folder / "report.tex").unlink(),
    ):
        damage()
        assert run(study, tmp_path / "run").trained == 0
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_report_follows_the_ledger_the_declaration_and_the_version(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawn: None
) -> None:
    out, written = tmp_path / "run", []
    whole = report.write
    monkeypatch.setattr(report, "write", lambda *a, **k: written.append(1) or whole(*a, **k))
    one = ["study.seeds=1", "study.diagnostics=none"]
    for overrides, fresh in ((one, 1), (one, 0), ([*one, "study.margin=0.07"], 1), ([*one, "study.margin=0.07"], 0)):
        written.clear()
        run(load(study_file, overrides), out)
        assert len(written) == fresh, overrides
        assert ("margin changed from 0.05 to 0.07" in (out / "report" / "report.md").read_text()) == (len(overrides) == 3)
    (out / "study.yaml").write_text("name: [")  # what says nothing of the verdicts, but is told among them
    report.write(out, ["md"])
    assert "cannot be read" in (out / "report" / "report.md").read_text()
    run(load(study_file, [*one, "study.margin=0.07"]), out)
    assert "cannot be read" not in (out / "report" / "report.md").read_text()
    monkeypatch.setattr("aotsearch.__version__", "0.0")
    written.clear()
    run(load(study_file, [*one, "study.margin=0.07"]), out)
    assert written


def test_a_view_that_is_behind_is_caught_up_by_a_start_that_trains_nothing(study_file: Path, tmp_path: Path, drawn: None) -> None:
    pytest.importorskip("mlflow")
    out, tracked = tmp_path / "run", Options(local=True, command="test")
    study = load(study_file, ["study.seeds=1", "study.diagnostics=none"])
    run(study, out)
    assert not (out / "mlflow.db").exists()
    for damage in ("", "UPDATE runs SET status = 'RUNNING' WHERE name LIKE '%seed 0'", "DELETE FROM tags WHERE key = 'aot.shown'"):
        if damage:
            with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as connection:
                connection.execute(damage)
                connection.commit()
        assert run(study, out, tracked).trained == 0
        with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as connection:
            statuses = [status for (status,) in connection.execute("SELECT status FROM runs WHERE lifecycle_stage = 'active'")]
        assert statuses == ["FINISHED"] * 5  # the study and its four trials
        stamp = (out / "mlflow.db").stat().st_mtime_ns
    assert run(study, out, tracked).trained == 0 and (out / "mlflow.db").stat().st_mtime_ns == stamp


def test_a_view_has_all_that_was_trained_before_an_error_ended_the_run(study_file: Path, tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("mlflow")
    out, left, real = tmp_path / "run", [3], trials.run

    def lost(*arguments: Any) -> dict[str, Any]:
        left[0] -= 1
        if left[0] < 0:
            raise RunError("the cluster is gone")
        return real(*arguments)

    monkeypatch.setattr(trials, "run", lost)
    with pytest.raises(RunError, match="is gone"):
        run(load(study_file, ["study.diagnostics=none"]), out, Options(local=True, command="test"))
    query = "SELECT r.status, t.value FROM runs r LEFT JOIN tags t ON t.run_uuid = r.run_uuid AND t.key = 'aot.outcome'"
    with contextlib.closing(sqlite3.connect(out / "mlflow.db")) as connection:
        found = sorted(connection.execute(query), key=str)
    assert found == [("FINISHED", "done")] * 3 + [("KILLED", "interrupted"), ("KILLED", None)]  # the one begun, and the study
