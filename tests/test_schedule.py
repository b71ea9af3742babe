"""The executors: Ray Tune and this process give the same ledger."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aotsearch.errors import InputError
from aotsearch.evidence.ledger import Ledger
from aotsearch.report import report
from aotsearch.running import runner
from aotsearch.running.cluster import ENVIRONMENT, Cluster, _workers_environment
from aotsearch.running.interruption import Interrupted, Interruption
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
    found = _workers_environment(3)["env_vars"]
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
        ((), ["SIGINT"], 130),
        ((), ["SIGTERM"], 143),
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


def below(pid: int) -> dict[int, str]:
    """The programs that a process has started, by their process ids."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (entry / "stat").read_text()
            if int(stat[stat.rindex(")") + 2 :].split()[1]) == pid:
                found[int(entry.name)] = (entry / "cmdline").read_text().split("\0")[0]
    return found


@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_another_ray_goes_on_where_one_has_died(victim: str, study_file: Path, tmp_path: Path) -> None:
    slow = ["study.budget={steps: 300, batch: 16, evaluations: 2}", "study.resources={fuse: 1, checkpoint: {steps: 20}}", "study.seeds=1"]
    options = [word for text in slow for word in ("--set", text)]
    process = start("run", str(study_file), "--out", str(tmp_path / "run"), *options)
    wait_until(lambda: any((tmp_path / "run" / "checkpoints").glob("*.state")))
    (found,) = [pid for pid, program in below(process.pid).items() if program.endswith(victim)]
    os.kill(found, signal.SIGKILL)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert f"Ray's process {victim} died" in err and "Traceback" not in err
    run(load(study_file, slow), tmp_path / "local", local=True)
    one, other = (Ledger(tmp_path / name).records() for name in ("run", "local"))
    assert one.keys() == other.keys() and all(one[key]["curve"] == other[key]["curve"] for key in one)
