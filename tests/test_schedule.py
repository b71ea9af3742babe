"""The executors: Ray Tune and this process give the same ledger."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aotsearch.errors import InputError, RunError
from aotsearch.evidence.ledger import Ledger
from aotsearch.report import report
from aotsearch.running import runner, session
from aotsearch.running.cluster import ENVIRONMENT, Cluster, _paths, _variables
from aotsearch.running.interruption import Interrupted, Interruption
from aotsearch.running.journal import Journal
from aotsearch.running.progress import Progress
from aotsearch.running.runner import Options
from aotsearch.study.loading import load
from aotsearch.study.settings import Resources
from aotsearch.study.study import Study

sys.path.insert(0, str(Path(__file__).parent))
from console import aotsearch


@pytest.fixture(autouse=True)
def _quiet(recwarn: pytest.WarningsRecorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray warns about its own future while it runs; those are not ours to fix. No page is read here, and none is drawn."""
    monkeypatch.setattr(report, "write", lambda *_, **__: [])


def run(study: Study, out: Path, **options: Any) -> runner.RunOutcome:
    return runner.run(study, out, Options(track=False, **options), Progress("bits_per_byte", "bits/byte", io.StringIO()))


@pytest.mark.filterwarnings("ignore")
def test_ray_reuses_its_workers_and_gives_the_losses_of_this_process_to_the_last_bit(study_file: Path, tmp_path: Path) -> None:
    study = load(study_file)
    assert run(study, tmp_path / "ray", workers=2).trained == 8
    run(study, tmp_path / "local", local=True)
    through_ray, here = (Ledger.open(tmp_path / name).records() for name in ("ray", "local"))
    assert through_ray.keys() == here.keys()
    for key, record in here.items():
        assert through_ray[key]["curve"] == record["curve"]
        assert through_ray[key]["measures"] == record["measures"]
    assert len({r["process"] for r in through_ray.values()}) <= 3  # two workers, and at most one replaced
    assert os.getpid() not in {r["process"] for r in through_ray.values()}
    assert run(study, tmp_path / "ray", workers=2).trained == 0  # nothing is left: Ray is not even started


@pytest.mark.filterwarnings("ignore")
def test_a_search_through_ray_stops_the_hopeless_and_confirms_the_best(study_file: Path, tmp_path: Path) -> None:
    overrides = [
        "study.design=search",
        "study.search={trials: 8, confirm: 1, reduction: 2}",
        "study.budget={steps: 40, batch: 4, evaluations: 8}",
    ]
    study = load(study_file, overrides)
    run(study, tmp_path / "run", workers=2)
    records = list(Ledger.open(tmp_path / "run").records().values())
    searched = [r for r in records if r["phase"] == "search"]
    outcomes = {r["outcome"] for r in searched}
    assert len(searched) == 8 and outcomes == {"done", "pruned"}
    for record in searched:
        full = record["steps"] == 40
        assert full == (record["outcome"] == "done"), record["outcome"]
        assert record["measures"]["bits_per_byte"] > 0
    assert {r["arm"].partition("-")[0] for r in records if r["phase"] == "confirm"} == {"reference", "candidate"}


@pytest.mark.filterwarnings("ignore")
def test_a_trial_that_asks_for_more_than_the_cluster_has_is_refused(tmp_path: Path) -> None:
    for resources, law in ((Resources(gpus=1.0), "asks for 1 cpus and 1 gpus"), (Resources(cpus=6400), "asks for 6400 cpus and 0 gpus")):
        with pytest.raises(InputError, match=law):
            Cluster(None, 1, resources).close()


def test_workers_import_from_where_the_driver_does(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    found = _variables(3) | _paths()
    assert ENVIRONMENT.items() <= found.items() and found["OMP_NUM_THREADS"] == "3"
    assert str(Path(runner.__file__).parents[2]) == found["PYTHONPATH"].split(os.pathsep)[0]


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aotsearch", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300  # against a hang: another job may have the processor
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("how", "signals", "code"),
    [
        pytest.param((), ["SIGINT"], 130, marks=pytest.mark.slow),
        ((), ["SIGUSR1"], 143),
        (("--local",), ["SIGINT", "SIGINT"], 130),
        (("--local",), ["SIGTERM"], 143),
    ],
)
def test_a_signal_ends_the_run_in_order_and_it_goes_on_in_the_trial(
    study_file: Path, tmp_path: Path, how: tuple[str, ...], signals: list[str], code: int
) -> None:
    slow = ["study.budget={steps: 400000, batch: 16, evaluations: 2}", "study.resources={fuse: 1, checkpoint: {steps: 50}}"]
    process = start("run", str(study_file), "--out", str(tmp_path / "run"), *(word for text in slow for word in ("--set", text)), *how)
    wait_until(lambda: any((tmp_path / "run" / "checkpoints").glob("*.state")))
    began = time.time()
    for name in signals:
        os.killpg(process.pid, getattr(signal, name)) if name == "SIGINT" else os.kill(process.pid, getattr(signal, name))
    try:
        _, err = process.communicate(timeout=60)
    finally:
        process.kill()  # which does nothing where it has ended
    assert process.returncode == code, err
    assert time.time() - began < 30  # ten on a machine that does nothing else
    assert "interrupted; what is finished is kept in" in err and "To continue: aotsearch run" in err
    assert "Traceback" not in err and "***" not in err
    assert not Ledger(tmp_path / "run").locked
    states = list((tmp_path / "run" / "checkpoints").glob("*.state"))
    assert len(signals) > 1 or any(path.stat().st_mtime > began for path in states)
    assert not (tmp_path / "run" / "checkpoints" / "NOW").exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "run" / "mlflow.db")) as store:
        assert not store.execute("SELECT * FROM runs WHERE status = 'RUNNING'").fetchall()


def test_what_is_to_outlive_its_terminal_does(tmp_path: Path) -> None:
    """`nohup` has SIGHUP ignored, and so it stays."""
    former = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Interruption(tmp_path, here=True):
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN and signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with Interruption(tmp_path, here=True) as heard, pytest.raises(Interrupted) as raised:
            os.kill(os.getpid(), signal.SIGHUP)
        assert raised.value.code == 143 and heard.number == signal.SIGHUP
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, former)


def test_after_kill_9_the_same_command_finishes_what_is_left(study_file: Path, tmp_path: Path) -> None:
    slow = ["--local", "--set", "study.budget={steps: 100, batch: 16, evaluations: 2}"]
    command = ["run", str(study_file), "--out", str(tmp_path / "run"), *slow]
    process = start(*command)
    wait_until(lambda: len(Ledger(tmp_path / "run").records()) >= 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = Ledger(tmp_path / "run").records()
    again = aotsearch(*command)
    assert again.returncode == 0, again.stderr
    assert f"continuing: {len(kept)} of 8 trials are finished" in again.stderr
    records = Ledger(tmp_path / "run").records()
    assert len(records) == 8 and all(records[k] == r for k, r in kept.items())


class Lost:
    """Phases in which Ray dies so many times."""

    def __init__(self, heard: Interruption, times: int):
        self.heard, self.times, self.runs = heard, times, 0

    def run(self) -> None:
        self.runs += 1
        if self.runs <= self.times:
            watching = threading.Thread(target=self.heard.lose, args=("Ray's process raylet died",))
            watching.start()
            time.sleep(10)  # as in a call of Ray, which the signal ends


@pytest.mark.parametrize(("times", "outcome"), [(0, 1), (2, 3), (3, None)])
def test_another_ray_goes_on_where_one_has_died_and_after_three_the_run_ends(
    times: int, outcome: int | None, study_file: Path, tmp_path: Path
) -> None:
    closed: list[int] = []

    @functools.cache
    def executor() -> Any:
        return types.SimpleNamespace(close=lambda: closed.append(1))

    (tmp_path / "checkpoints").mkdir()
    with Interruption(tmp_path / "checkpoints", here=False) as heard:
        journal = Journal(load(study_file), Ledger(tmp_path), Progress("", "", said := io.StringIO()))
        journal.interruption, phases = heard, Lost(heard, times)
        if outcome is None:
            with pytest.raises(RunError, match="raylet died, as 2 times before; run the same command again"):
                runner._run(journal, executor, lambda: phases)  # type: ignore[arg-type, return-value]
        else:
            runner._run(journal, executor, lambda: phases)  # type: ignore[arg-type, return-value]
            assert phases.runs == outcome
    assert len(closed) == times and said.getvalue().count("Ray is started again") == times


def test_what_goes_wrong_after_another_ray_was_started_is_not_taken_for_its_loss(study_file: Path, tmp_path: Path) -> None:
    class Full(Lost):
        def run(self) -> None:
            super().run()
            raise RunError("the disk is full")

    (tmp_path / "checkpoints").mkdir()
    with Interruption(tmp_path / "checkpoints", here=False) as heard:
        journal = Journal(load(study_file), Ledger(tmp_path), Progress("", "", io.StringIO()))
        journal.interruption, phases = heard, Full(heard, 1)
        executor = functools.cache(lambda: types.SimpleNamespace(close=lambda: None))
        with pytest.raises(RunError, match="the disk is full"):
            runner._run(journal, executor, lambda: phases)  # type: ignore[arg-type, return-value]
        assert phases.runs == 2


def test_a_dead_process_of_ray_is_told_and_the_others_are_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LOOK", 0.01)
    told: list[str] = []
    other = subprocess.Popen(["sleep", "1000"])
    node = types.SimpleNamespace(
        get_session_dir_path=lambda: str(tmp_path / "session_1"),
        dead_processes=lambda: [("gcs_server", None)],
        live_processes=lambda: [("raylet", other)],
    )
    made = session.Session(node, told.append)
    wait_until(lambda: bool(told))
    assert told == ["Ray's process gcs_server died"] and other.wait(10) == -signal.SIGKILL
    made.close()


def test_what_a_killed_driver_left_of_ray_is_ended_by_the_next_start(tmp_path: Path) -> None:
    left = tmp_path / "session_2026_1"
    left.mkdir()
    orphan = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)", str(left)])
    (tmp_path / session.FILE).write_text(str(left))
    (now := tmp_path / "session_2026_2").mkdir()
    node = types.SimpleNamespace(get_session_dir_path=lambda: str(now), dead_processes=list, live_processes=list)
    made = session.Session(node, lambda _: None)
    made.keep(tmp_path)
    assert orphan.wait(10) == -signal.SIGKILL and not left.exists() and now.exists()
    made.close()
    assert not now.exists() and not (tmp_path / session.FILE).exists()


def test_scratch_of_a_killed_start_of_the_same_run_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(session.tempfile, "tempdir", str(tmp_path))
    with session.scratch(tmp_path / "one") as first, session.scratch(tmp_path / "other"):
        with session.scratch(tmp_path / "one") as second:
            assert not Path(first).exists() and len(list(tmp_path.glob("aotsearch-*"))) == 2
        assert not Path(second).exists()
