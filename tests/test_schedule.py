"""The executors: Ray Tune and this process give the same ledger."""

from __future__ import annotations

import gc
import importlib
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aotsearch.errors import InputError
from aotsearch.evidence.ledger import Ledger
from aotsearch.report import report
from aotsearch.running import runner, worker
from aotsearch.running.cluster import ENVIRONMENT, Cluster, _workers_environment
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


def test_the_environment_of_the_first_workers_holds_all_that_tune_asks_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its actors are not placed on them, and start new ones."""
    from ray.tune.execution.class_cache import DEFAULT_ENV_VARS, ENV_VARS_TO_PROPAGATE

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    found = _workers_environment(3, 9)["env_vars"]
    asked = DEFAULT_ENV_VARS | {name: value for name, value in ENVIRONMENT.items() if name in ENV_VARS_TO_PROPAGATE}
    assert asked.items() <= found.items() and len(asked) > 1
    assert str(Path(runner.__file__).parents[2]) == found["PYTHONPATH"].split(os.pathsep)[0]
    ahead = [len(_workers_environment(threads, workers)) == 2 for threads, workers in ((1, 2), (2, 4), (1, 64))]
    assert ahead == [True, False, False]  # where each of them may get a trial


def test_a_worker_that_cannot_import_ahead_still_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = gc.get_threshold()
    monkeypatch.setattr(importlib, "import_module", lambda name: 1 / 0)
    worker.prepare()
    assert gc.get_threshold() == usual


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "aotsearch", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_records(out: Path, number: int) -> None:
    deadline = time.monotonic() + 300  # against a hang: another job may have the processor
    while len(Ledger(out).records()) < number:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_ctrl_c_ends_cleanly_and_tells_how_to_continue(study_file: Path, tmp_path: Path) -> None:
    slow = ["--set", "study.budget={steps: 4000, batch: 16, evaluations: 2}"]
    process = start("run", str(study_file), "--out", str(tmp_path / "run"), *slow)
    wait_for_records(tmp_path / "run", 1)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal does: the whole group is told
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "interrupted; what is finished is kept in" in err and "To continue: aotsearch run" in err
    assert "Traceback" not in err
    assert not Ledger(tmp_path / "run").locked


def test_after_kill_9_the_same_command_finishes_what_is_left(study_file: Path, tmp_path: Path) -> None:
    slow = ["--local", "--set", "study.budget={steps: 100, batch: 16, evaluations: 2}"]
    command = ["run", str(study_file), "--out", str(tmp_path / "run"), *slow]
    process = start(*command)
    wait_for_records(tmp_path / "run", 3)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    kept = Ledger(tmp_path / "run").records()
    again = aotsearch(*command)
    assert again.returncode == 0, again.stderr
    assert f"continuing: {len(kept)} of 8 trials are finished" in again.stderr
    records = Ledger(tmp_path / "run").records()
    assert len(records) == 8 and all(records[k] == r for k, r in kept.items())
