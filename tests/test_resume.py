"""A trial that is interrupted goes on where it was, and comes out as if nothing had happened, to the last bit."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from aotsearch.errors import InputError
from aotsearch.evidence.ledger import Ledger
from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.study.loading import load
from aotsearch.training import checkpoint, trial
from aotsearch.training.checkpoint import Checkpoints
from aotsearch.training.device import DeviceSettings

STEPS = 23  # of a trial here: neither the states nor the points of the curve divide it
TIMES = ("seconds", "finished", "training_seconds", "evaluation_seconds", "step_seconds", "resumed", "peak_memory", "weights")


class Killed(BaseException):
    """As good as `kill -9`: nothing in the trial hears of it."""


def bundle(study_file: Path, replicas: int = 1, *overrides: str, **training: Any) -> list[dict[str, Any]]:
    study = load(study_file, overrides)
    plans = [trial.plan(study, study.arms()[0], seed, "design") for seed in range(replicas)]
    return [{**p, "training": {**p["training"], "steps": STEPS, "evaluations": 2, **training}} for p in plans]


def run(
    trials: list[dict[str, Any]], folder: Path, fuse: int = 1, kill_at: int | None = None, steps: int = 5, told: list[Any] | None = None
) -> list[dict[str, Any]]:
    """The records, or none where the process is killed when it tells of that step."""

    def report(made: dict[str, Any], point: dict[str, float], recalled: bool = False) -> None:
        if told is not None:
            told.append((made["seed"], point["step"], recalled))
        if point["step"] == kill_at and not recalled:
            raise Killed

    try:
        return list(trial.run_together(trials, DeviceSettings(1), report, Checkpoints(folder, steps=steps), fuse))
    except Killed:
        return []


def plain(record: dict[str, Any]) -> str:
    """What a record says besides times, as text: equal to the last bit."""
    return json.dumps({name: value for name, value in record.items() if name not in TIMES}, sort_keys=True)


def weights(folder: Path, record: dict[str, Any]) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(folder / f"{record['key']}.pt")
    return found


OPTIONS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "a mean of weights that has begun": {"average": 0.8, "evaluations": 3},
    "a mean of weights that has not": {"average": 0.2},
    "a schedule that can be cut": {"schedule": "wsd", "decay": 0.5},
}


@pytest.mark.parametrize("replicas", [1, 3])
@pytest.mark.parametrize("training", OPTIONS.values(), ids=OPTIONS.keys())
def test_what_was_interrupted_comes_out_as_what_was_not(training: dict[str, Any], replicas: int, study_file: Path, tmp_path: Path) -> None:
    trials = bundle(study_file, replicas, **training)
    whole = run(trials, tmp_path / "whole", fuse=replicas)
    assert not run(trials, tmp_path / "cut", fuse=replicas, kill_at=18)
    cut = run(trials, tmp_path / "cut", fuse=replicas)
    assert [r["resumed"]["step"] for r in cut] == [15] * replicas
    assert list(map(plain, cut)) == list(map(plain, whole))
    for a, b in zip(whole, cut, strict=True):
        one, other = weights(tmp_path / "whole", a), weights(tmp_path / "cut", b)
        assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_learning_rates_of_one_program_go_on_each_with_its_own(study_file: Path, tmp_path: Path) -> None:
    (first,), rates = bundle(study_file), (3e-3, 3e-3, 1e-2)
    trials = [{**first, "key": f"{i}", "training": {**first["training"], "learning_rate": rate}} for i, rate in enumerate(rates)]
    whole = run(trials, tmp_path / "whole", fuse=3)
    assert not run(trials, tmp_path / "cut", fuse=3, kill_at=18)
    assert list(map(plain, run(trials, tmp_path / "cut", fuse=3))) == list(map(plain, whole))


def test_one_that_is_interrupted_again_and_again_comes_out_the_same(study_file: Path, tmp_path: Path) -> None:
    trials = bundle(study_file, average=0.5)
    (whole,) = run(trials, tmp_path / "whole")
    for step in (4, 7, 10, 17, 20, 22):
        assert not run(trials, tmp_path / "cut", kill_at=step, steps=3)
    (cut,) = run(trials, tmp_path / "cut", steps=3)
    assert cut["resumed"]["step"] == 21 and plain(cut) == plain(whole)


def test_a_part_with_random_numbers_goes_on_with_them(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = trial.build

    def noisy(*args: Any) -> Any:
        model = build(*args)
        model.embedding.register_forward_hook(lambda m, given, made: made + torch.randn_like(made) * m.training)
        return model

    monkeypatch.setattr(trial, "build", noisy)
    trials = bundle(study_file)
    torch.manual_seed(5)
    (whole,) = run(trials, tmp_path / "whole")
    torch.manual_seed(5)
    assert not run(trials, tmp_path / "cut", kill_at=18)
    torch.manual_seed(6)
    (cut,) = run(trials, tmp_path / "cut")
    assert plain(cut) == plain(whole)


def test_points_before_an_interruption_are_told_again_as_such(study_file: Path, tmp_path: Path) -> None:
    trials, told = bundle(study_file), []
    run(trials, tmp_path, kill_at=18)
    (record,) = run(trials, tmp_path, told=told)
    assert [step for _, step, _ in told] == [p["step"] for p in record["curve"]]
    assert [recalled for _, _, recalled in told] == [step <= 15 for _, step, _ in told]


def test_a_replica_that_had_ended_stays_ended(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build = trial.build

    def ill(architecture: Any, seed: int) -> Any:
        model = build(architecture, seed)
        with torch.no_grad():
            next(model.parameters()).fill_(float("inf") if seed == 1 else 0.1)
        return model

    monkeypatch.setattr(trial, "build", ill)
    trials = bundle(study_file, 3)
    run(trials, tmp_path, fuse=3, kill_at=18)
    records = run(trials, tmp_path, fuse=3)
    assert [r["outcome"] for r in records] == ["done", "diverged", "done"]
    assert records[1]["message"].startswith("the loss is ") and records[1]["steps"] < 15


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "torn": lambda b: b[: len(b) // 2],
    "a bit flipped": lambda b: b[:-100] + bytes([b[-100] ^ 1]) + b[-99:],
    "empty": lambda b: b"",
    "text": lambda b: b"hello\n",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_state_gives_way_to_the_one_before_it_and_is_told(
    damage: Callable[[bytes], bytes], study_file: Path, tmp_path: Path
) -> None:
    trials = bundle(study_file)
    (whole,) = run(trials, tmp_path / "whole")
    run(trials, tmp_path, kill_at=18)
    path = checkpoint.path_of(tmp_path, trials[0]["key"])
    path.write_bytes(damage(path.read_bytes()))
    (cut,) = run(trials, tmp_path)
    assert cut["resumed"]["step"] == 10 and "is damaged" in cut["resumed"]["note"]
    assert plain(cut) == plain(whole)


def test_a_state_of_another_trial_or_of_other_conditions_is_not_gone_on_with(study_file: Path, tmp_path: Path) -> None:
    trials = bundle(study_file, 2)
    run(trials[:1], tmp_path, kill_at=18)
    here, there = (checkpoint.path_of(tmp_path, t["key"]) for t in trials)
    there.write_bytes(here.read_bytes())
    (record,) = run(trials[1:], tmp_path)
    assert "resumed" not in record
    run(trials[:1], tmp_path, kill_at=18)
    two = list(trial.run_together(trials[:1], DeviceSettings(2), lambda *_, **__: None, Checkpoints(tmp_path, steps=5)))
    assert "resumed" not in two[0]  # sums over two threads are others


def test_replicas_whose_states_are_of_different_steps_go_on_where_all_have_one(study_file: Path, tmp_path: Path) -> None:
    trials = bundle(study_file, 2)
    run(trials, tmp_path, fuse=2, kill_at=18)
    path = checkpoint.path_of(tmp_path, trials[0]["key"])
    path.with_name(f"{path.name}.before").replace(path)  # killed between the two files
    records = run(trials, tmp_path, fuse=2)
    assert [r["resumed"]["step"] for r in records] == [10, 10]


def test_a_request_is_heeded_once_and_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "LOOK", 0.0)
    keeper = checkpoint.Keeper(Checkpoints(tmp_path, seconds=1e9), ["a"], {})
    assert not keeper.due(1)
    (tmp_path / checkpoint.NOW).touch()
    assert keeper.due(2) and not keeper.due(3)
    keeper.close()


def test_a_full_disk_costs_the_state_and_not_the_trial(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "_put", full)
    (record,) = run(bundle(study_file), tmp_path)
    assert record["outcome"] == "done"


# ---- a whole run


def started(study_file: Path, folder: Path, *overrides: str) -> Any:
    study = load(study_file, ["study.resources.checkpoint={steps: 4}", *overrides])
    return runner.run(study, folder, runner.Options(local=True, track=False), Progress("loss", "", io.StringIO()))


def test_a_run_that_is_killed_in_a_trial_goes_on_in_it_and_leaves_no_state(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aotsearch.running import journal

    started(study_file, tmp_path / "whole")
    plainly = journal.Journal.point
    seen = 0

    def kill(self: Any, made: Any, point: Any) -> None:
        nonlocal seen
        seen += 1
        plainly(self, made, point)
        if seen == 23:
            raise Killed

    monkeypatch.setattr(journal.Journal, "point", kill)
    with pytest.raises(Killed):
        started(study_file, tmp_path / "cut")
    monkeypatch.setattr(journal.Journal, "point", plainly)
    assert list((tmp_path / "cut" / "checkpoints").glob("*.state"))
    started(study_file, tmp_path / "cut")
    one, other = ({k: plain(r) for k, r in Ledger(tmp_path / name).records().items()} for name in ("whole", "cut"))
    assert one == other
    assert any(r.get("resumed") for r in Ledger(tmp_path / "cut").records().values())
    assert not list((tmp_path / "cut" / "checkpoints").glob("*.state*"))


def test_how_often_is_a_setting(study_file: Path) -> None:
    for text, expected in (("30", (30.0, None)), ("{steps: 7}", (None, 7)), ("never", (None, None))):
        found = runner._checkpoints(Path("run"), load(study_file, [f"study.resources.checkpoint={text}"]).settings.resources)
        assert (found.seconds, found.steps) == expected
    with pytest.raises(InputError, match="checkpoint"):
        load(study_file, ["study.resources.checkpoint=sometimes"])
