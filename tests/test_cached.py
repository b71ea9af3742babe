"""Trials that another study has trained on this machine are taken from `--cache DIR`, and only those."""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aotsearch.__main__ import main
from aotsearch.errors import InputError
from aotsearch.evidence.ledger import Ledger
from aotsearch.grammar import library
from aotsearch.report import report
from aotsearch.running import cached, runner
from aotsearch.running.progress import Progress
from aotsearch.study.loading import load
from aotsearch.training import device as devices
from aotsearch.training import environment, trial
from aotsearch.training.checkpoint import Checkpoints

ONE = ["study.seeds=1", "study.factors=[identity]"]  # two arms
MORE = ["study.seeds=1", "study.factors=[identity, channel]", "name=other"]  # one arm more
SEARCH = ["study.design=search", "study.search={trials: 5, confirm: 1}", "study.seeds=1"]
SAME = ("curve", "measures", "test", "diagnostics", "outcome", "digest", "seed", "training", "environment", "seconds")


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pages take longer than these trials."""
    monkeypatch.setattr(report, "write", lambda *_, **__: [])


class Run:
    """Runs of the studies of one file, each in a folder of its own, that share a cache."""

    def __init__(self, file: Path):
        self.file, self.cache, self.count, self.said = file, file.parent / "kept", 0, ""

    def __call__(self, settings: list[str], out: Path | None = None, **options: Any) -> tuple[int, int]:
        """How many trials were trained, and how many were taken."""
        self.count += 1
        self.out, stream = out or self.file.parent / f"run{self.count}", io.StringIO()
        how = runner.Options(**{"local": True, "track": False, "cache": self.cache, **options})
        try:
            self.outcome = runner.run(load(self.file, settings), self.out, how, Progress("bits_per_byte", "bits/byte", stream))
        finally:
            self.said = stream.getvalue()
        return self.outcome.trained, self.outcome.cached

    @property
    def records(self) -> dict[str, Any]:
        return Ledger.open(self.out).records()

    @property
    def entries(self) -> list[Path]:
        return sorted((self.cache / "trials").iterdir())


@pytest.fixture
def run(study_file: Path) -> Run:
    return Run(study_file)


def test_another_study_with_one_arm_more_trains_that_arm_alone(run: Run) -> None:
    assert run(ONE) == (2, 0)
    first, there = run.records, run.out
    assert run(MORE) == (1, 2)
    taken = {key: r for key, r in run.records.items() if r.get("cached")}
    assert taken.keys() == first.keys()
    for key, record in taken.items():
        assert {name: record[name] for name in SAME} == {name: first[key][name] for name in SAME}
        assert record["origin"] == {"study": "small", "folder": str(there), "finished": first[key]["finished"]}
        one, other = (torch.load(folder / "checkpoints" / f"{key}.pt") for folder in (there, run.out))
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    assert run(MORE, run.out) == (0, 0) and run(ONE) == (0, 2)
    assert "2 trials taken from a cache, trained before under the same versions and conditions (2 of small)" in run.outcome.analysis.notes


def test_what_was_taken_is_told_and_never_counted_as_trained(run: Run) -> None:
    run(ONE)
    run(MORE)
    lines = [line for line in run.said.splitlines() if line.startswith("[")]
    assert len(lines) == 3 and sum("(from the cache; ? left)" in line for line in lines) == 2
    assert runner.status(run.out)["cached"] == 2 and runner.status(run.out)["done"] == 3
    started = {e["key"] for e in Ledger(run.out).events() if e["event"] == "started"}
    assert started == {key for key, r in run.records.items() if not r.get("cached")}


def test_a_trial_that_was_taken_has_the_names_of_its_arm_in_this_study(run: Run) -> None:
    named = ["study.factors=[identity]", "study.arms={bare: {channel: none}}", "study.seeds=1"]
    run(["study.factors=[channel]", "study.seeds=1"])
    assert {r["arm"] for r in run.records.values()} == {"reference", "channel=none"}
    assert run(named)[1] >= 1
    (found,) = [r for r in run.records.values() if r["digest"] == load(run.file, named).arm("bare").architecture.digest]
    assert found["cached"] and found["arm"] == "bare" and found["arms"] == ["bare"] and found["phase"] == "design"


def cpus(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)  # two that wait for each other are slow
    return ["study.resources.cpus=2"]


def versions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(environment, "version", lambda package: f"{package} of tomorrow")
    return []


def source(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(library, "source", lambda: "edited")
    return []


def instructions(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "SSE")
    return []


def processor(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(environment, "_processor", lambda: "another processor")
    return []


def usual_precision(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    plain = devices.DeviceSettings.precision
    monkeypatch.setattr(
        devices.DeviceSettings, "precision", lambda self, training: "bfloat16" if "precision" not in training else plain(self, training)
    )
    return []


@pytest.mark.parametrize("change", [cpus, versions, source, instructions, processor, usual_precision])
def test_under_other_conditions_a_trial_is_trained_anew(
    run: Run, monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], list[str]]
) -> None:
    run(ONE)
    settings = [*ONE, *change(monkeypatch)]
    assert run(settings) == (2, 0)
    assert run(settings) == (0, 2) and len(run.entries) == 4  # beside those of before


@pytest.mark.parametrize("setting", ["study.budget.steps=5", "study.learning_rate=2e-2", "study.resources.precision=bfloat16"])
def test_a_trial_of_another_training_is_another(run: Run, setting: str) -> None:
    run(ONE)
    assert run([*ONE, setting]) == (2, 0)


def test_a_trial_on_other_data_is_another_wherever_they_lie(run: Run, tmp_path: Path) -> None:
    run(ONE)
    (tmp_path / "moved").mkdir()
    text = run.file.read_text().replace("corpus.txt", "moved/corpus.txt")
    shutil.move(tmp_path / "corpus.txt", tmp_path / "moved" / "corpus.txt")
    run.file.write_text(text)
    assert run(ONE) == (0, 2)
    (tmp_path / "moved" / "corpus.txt").write_text("other words entirely " * 800)
    assert run(ONE) == (2, 0)


def test_a_trial_of_which_more_is_asked_is_trained_and_one_of_which_less_is_asked_tells_no_more(run: Run) -> None:
    few, many = [*ONE, "study.diagnostics=[hidden-rms]"], [*ONE, "study.diagnostics=[hidden-rms, token-cosine]", "study.knock_out=true"]
    run(few)
    assert run(many) == (2, 0) and run(many) == (0, 2)
    assert sum("knock_out" in r for r in run.records.values()) == 1
    assert run(few) == (0, 2)
    assert all(r["diagnostics"].keys() == {"hidden-rms"} and "knock_out" not in r for r in run.records.values())
    assert run([*ONE, "study.diagnostics=none"]) == (0, 2) and not any("diagnostics" in r for r in run.records.values())


def test_a_trial_whose_test_split_was_not_read_is_none_of_a_design() -> None:
    record = {"outcome": "done", "diagnostics": {"a": [1.0], "b": [None]}, "not_finite": {"diagnostics.b.0": "inf", "test.loss": "nan"}}
    asked = {"diagnostics": ["a"], "knock_out": False, "sealed": True, "hints": []}
    assert not cached._holds(record, asked) and cached._holds(record | {"test": {"loss": None}}, asked)
    assert cached._holds({"outcome": "diverged"}, asked)
    assert cached._asked(record | {"test": {"loss": None}}, asked)["not_finite"] == {"test.loss": "nan"}
    assert "not_finite" not in cached._asked(record | {"test": {"loss": None}}, asked | {"sealed": False})


def test_a_trial_of_a_search_is_taken_by_searches_alone(run: Run) -> None:
    search = [*SEARCH, "study.budget.evaluations=1"]  # none is pruned
    assert run(search) == (7, 0)
    found = run.records
    assert {r["phase"] for r in found.values()} == {"search", "confirm"}
    assert run([*search, "name=again"]) == (0, 7)  # it hears what it would have heard, so it proposes the same
    assert {key: (r["phase"], r["curve"]) for key, r in run.records.items()} == {key: (r["phase"], r["curve"]) for key, r in found.items()}
    proposed = [e["digest"] for e in Ledger(run.out).events() if e["event"] == "proposed"]
    assert proposed == list(dict.fromkeys(r["digest"] for r in found.values() if r["phase"] == "search"))
    one = [*ONE, "study.budget.evaluations=1"]
    confirmed = {r["digest"] for r in found.values() if r["phase"] == "confirm"}
    assert run(one)[1] == sum(arm.architecture.digest in confirmed for arm in load(run.file, one).arms()) >= 1


def test_a_trial_that_a_search_stopped_is_trained_again_by_another(run: Run) -> None:
    run(SEARCH)
    stopped = run.outcome.outcomes["pruned"]
    assert stopped and run([*SEARCH, "name=again"]) == (stopped, 7 - stopped)


def test_where_trials_are_not_fused_only_those_are_taken_that_were_trained_alone(run: Run) -> None:
    fused = ["study.seeds=4", "study.factors=[identity]", "study.resources.fuse=4"]
    alone = [*fused[:2], "study.resources.fuse=1"]
    assert run(fused) == (8, 0) and {r["fused"] for r in run.records.values()} == {4}
    assert run(alone) == (8, 0) and run(alone) == (0, 8)
    assert run(fused) == (0, 8) and {r["fused"] for r in run.records.values()} == {0}  # equal to rounding


@pytest.mark.parametrize(
    ("outcome", "more", "kept"),
    [
        ("done", {}, True),
        ("diverged", {}, True),
        ("done", {"unmeasured": {"test": "no room"}}, False),
        ("done", {"deterministic": False}, False),
        ("pruned", {}, False),
        ("failed", {}, False),
        ("out-of-memory", {}, False),
    ],
)
def test_what_does_not_follow_from_the_trial_alone_is_not_kept(run: Run, tmp_path: Path, outcome: str, more: Any, kept: bool) -> None:
    plan = trial.plan(load(run.file), load(run.file).arms()[0], 0, "design")
    record = trial.run(plan, devices.DeviceSettings(1), lambda _: None, Checkpoints(tmp_path)) | {"outcome": outcome} | more
    kept_in = cached.Cache(run.cache, False, lambda _: None)
    kept_in.keep(record, tmp_path / f"{plan['key']}.pt", {})
    assert len(run.entries) == kept


def test_a_diverged_trial_is_not_trained_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(trial, "build", lambda *_: (_ for _ in ()).throw(trial.Diverged("the loss is nan at step 3")))
        run(ONE)
    assert run(ONE) == (0, 2) and run.outcome.outcomes == {"diverged": 2}


@pytest.mark.parametrize("damage", ["[]", '{"sha256": "", "trial": {}}', "cut", "altered", "\udcff"])
def test_a_file_that_is_not_whole_or_of_another_program_costs_its_trial_and_is_told_once(run: Run, damage: str) -> None:
    run(ONE)
    for entry in run.entries:
        text = entry.read_text()
        text = {"cut": text[: len(text) // 2], "altered": text.replace('"seed": 0', '"seed": 1').replace("1.", "2.")}.get(damage, damage)
        entry.write_bytes(text.encode(errors="surrogateescape"))
    assert run(ONE) == (2, 0)
    assert run.said.count("is not whole, or not what its name says") == 1
    assert run(ONE) == (0, 2) and "whole" not in run.said  # it was written anew


def test_a_file_under_the_name_of_another_costs_its_trial(run: Run) -> None:
    run(ONE)
    one, other = run.entries
    shutil.copy(one, other)
    assert run(ONE) == (1, 1) and "not what its name says" in run.said


@pytest.mark.parametrize("damage", ["altered", "gone"])
def test_weights_that_are_altered_or_gone_cost_their_trial(run: Run, damage: str) -> None:
    run(ONE)
    for path in (run.cache / "weights").iterdir():
        content = path.read_bytes()
        path.unlink()  # its other name in the run folder stays what it is
        if damage == "altered":
            path.write_bytes(content[:-1] + b"x")
    assert run(ONE) == (2, 0) and run.said.count("are missing or altered") == 1
    assert len(list((run.out / "checkpoints").iterdir())) == 2
    assert run(ONE) == (0, 2)


def test_on_a_disk_without_links_weights_are_copied(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    assert run(ONE) == (2, 0) and run(ONE) == (0, 2)
    left = [path for folder in (run.out / "checkpoints", run.cache / "trials", run.cache / "weights") for path in folder.glob(".*")]
    assert not left and len(list((run.out / "checkpoints").iterdir())) == 2


def test_a_full_disk_costs_the_entry_and_not_the_trial(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Path.write_text

    def full(self: Path, *arguments: Any, **more: Any) -> int:
        if "kept" in self.parts:
            plain(self, "{")
            raise OSError(28, "No space left on device")
        return plain(self, *arguments, **more)

    with monkeypatch.context() as crowded:
        crowded.setattr(Path, "write_text", full)
        assert run(ONE) == (2, 0) and run.outcome.outcomes == {"done": 2}
    assert run.said.count("No space left on device") == 1 and not run.entries
    assert run(ONE) == (2, 0)


def test_a_run_that_is_killed_while_it_writes_an_entry_leaves_none(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    def kill(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as dying:
        dying.setattr(cached, "_write", kill)  # its weights are there, its record is in the ledger, its entry is not
        with pytest.raises(Killed):
            run(ONE)
    cut = run.out
    assert not run.entries and run(ONE, cut) == (1, 0)
    assert run(ONE) == (1, 1)


def test_two_runs_on_one_cache_write_the_same_files_in_either_order(run: Run, tmp_path: Path) -> None:
    run(ONE)
    entry = json.loads(run.entries[0].read_text())
    two = [cached.Cache(run.cache, False, lambda _: None) for _ in range(2)]
    record = entry["trial"]["record"]
    for c in (*two, *two):
        c.keep(record, run.out / "checkpoints" / f"{record['key']}.pt", {"study": "small"})
    assert len(run.entries) == 2 and len(list((run.cache / "weights").iterdir())) == 2
    assert run(ONE) == (0, 2)


def test_a_failed_trial_of_this_folder_is_taken_where_another_study_trained_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(trial, "build", lambda *_: (_ for _ in ()).throw(RuntimeError("broken part")))
        run(ONE)
    failed = run.out
    assert not run.entries and run(ONE) == (2, 0)
    assert run(ONE, failed) == (0, 0) and run(ONE, failed, retry_failed=True) == (0, 2) and not run.outcome.failed


def test_a_cache_that_can_not_be_made_or_written_is_one_line_before_anything_changes(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("x")
    for folder in ("file", "file/inside"):
        monkeypatch.setattr(
            "sys.argv", ["aotsearch", "run", str(run.file), "--local", "--out", str(tmp_path / "out"), "--cache", str(tmp_path / folder)]
        )
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr().err.splitlines()
        assert end.value.code == 2 and len(said) == 1 and "cannot be written" in said[0] and "--cache" in said[0]
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(InputError, match="cannot be written: Permission denied"):
        run(ONE)
    assert not (tmp_path / "out").exists()


def test_the_digest_of_the_source_changes_with_any_file_of_a_package_that_has_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aotsearch.grammar.words import Word

    known, before = library.library(), library.source()
    (tmp_path / "many").mkdir()
    for name in ("many/__init__.py", "many/helper.py", "one.py"):
        (tmp_path / name).write_text("a = 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))

    class Named:
        def __init__(self, module: str):
            self.module = module

    words: dict[Any, Word | Named] = {**known, "many": Named("many.words"), "one": Named("one")}
    monkeypatch.setattr(library, "library", lambda: words)
    found = [before, library.source()]
    for name in ("many/helper.py", "one.py"):
        (tmp_path / name).write_text("a = 2\n")
        found.append(library.source())
    assert len(set(found)) == 4 and found[-1] == library.source()
