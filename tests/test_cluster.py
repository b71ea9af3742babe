"""A Ray cluster that ran before, of several nodes on this machine: `--address`."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from aotsearch.errors import RunError
from aotsearch.evidence.ledger import Ledger
from aotsearch.running import connection, hearing, session, shipping
from aotsearch.running.interruption import Interruption
from aotsearch.running.work import Work

sys.path.insert(0, str(Path(__file__).parent))
from test_broken_words import good, install

NODES = """
import sys
from ray.cluster_utils import Cluster
node = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 80_000_000}
cluster = Cluster(initialize_head=True, head_node_args=node)
first = cluster.add_node(**node)
print(cluster.address, flush=True)
sys.stdin.readline()
cluster.remove_node(first, allow_graceful=False)
cluster.add_node(**node)
print("exchanged", flush=True)
sys.stdin.readline()
cluster.shutdown()
"""
STUDY = """
name: two-nodes
task: {language: {data: {text: corpus.txt}, context: 16}}
grammar:
  model: {width: 16, depth: 1, block: [attention, channel]}
  channel: {any: [own, none]}
study: {seeds: 2, budget: {steps: 200, batch: 4, evaluations: 1}, diagnostics: none, resources: {fuse: 1, checkpoint: 1}}
"""


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Any]:
    """A cluster of two nodes, in processes that know nothing of the driver's packages; a line on its input exchanges the second."""
    kept = {**os.environ, "RAY_enable_worker_prestart": "0", "RAY_prestart_worker_first_driver": "0", "RAY_AUTH_MODE": "disabled"}
    kept |= {"PYTHONPATH": "", "TMPDIR": "/tmp"}
    with subprocess.Popen(
        [sys.executable, "-c", NODES],
        env=kept,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=tmp_path,
    ) as started:
        yield started
        assert started.stdin is not None
        with contextlib.suppress(OSError):
            started.stdin.write("\n\n")
            started.stdin.close()


@pytest.mark.slow
def test_a_study_on_two_nodes_survives_that_one_is_killed_and_another_comes(nodes: Any, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    (tmp_path / "corpus.txt").write_text("the quick brown fox " * 2000)
    (tmp_path / "study.yaml").write_text(STUDY)
    install(tmp_path / "site", "own-words", "own_words", good("own"))
    address = nodes.stdout.readline().strip()
    variables = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), str(Path(__file__).parents[1])])}
    argv = [sys.executable, "-m", "aotsearch", "run", "study.yaml", "--out", "run", "--address", address]
    with subprocess.Popen(argv, env=variables, cwd=tmp_path, text=True, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as run:
        said = []
        for line in run.stderr or ():
            said.append(line)
            if line.startswith("[1/"):
                nodes.stdin.write("\n")
                nodes.stdin.flush()
    assert run.returncode == 0, "".join(said)
    records = list(Ledger(tmp_path / "run").records().values())
    assert [r["outcome"] for r in records] == ["done"] * 4 and len({r["process"] for r in records}) > 1
    assert {"own", "none"} == {r["decisions"]["channel"] if isinstance(r["decisions"]["channel"], str) else "own" for r in records}
    assert "Ray runs 2 trials at a time\n" in said and not any("Traceback" in line or "raylet)" in line for line in said)


# ---- what workers are given


def test_workers_of_a_cluster_get_our_code_and_every_package_with_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "own-words", "own_words", good("own"))
    install(tmp_path, "no-words", "missing_words", None)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("AOTSEARCH_CACHE", "~/cache")
    monkeypatch.delenv(shipping.JOB, raising=False)
    made = shipping.workers_environment({"OMP_NUM_THREADS": "2"})
    names = {Path(path).name for path in made["py_modules"]}
    assert {"aotsearch", "own_words.py", "own_words-1.0.dist-info"} <= names and "no_words-1.0.dist-info" not in names
    assert made["env_vars"] == {"OMP_NUM_THREADS": "2", "AOTSEARCH_CACHE": str(Path.home() / "cache")}


def test_what_a_job_has_settled_for_its_workers_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AOTSEARCH_CACHE", raising=False)
    settled = {"runtime_env": {"py_modules": ["gcs://x.zip"], "env_vars": {"OMP_NUM_THREADS": "1"}}}
    monkeypatch.setenv(shipping.JOB, json.dumps(settled))
    made = shipping.workers_environment({"OMP_NUM_THREADS": "2", "MALLOC_ARENA_MAX": "1"})
    assert "py_modules" not in made and made["env_vars"] == {"MALLOC_ARENA_MAX": "1"}


# ---- a cluster that is lost


def test_a_head_that_cannot_be_reached_is_told_after_some_looks_and_not_at_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "LOOK", 0.01)
    answers, told, ended = iter(["gone", "", "gone", "gone", "gone for good"]), [], threading.Event()
    found = session.Session(None, lambda what: (told.append(what), ended.set())[0], lambda: next(answers))
    assert ended.wait(5) and told == ["gone for good"]
    found.close()


def test_the_head_and_the_node_of_this_machine_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    assert connection.reach(None) is None
    listening = {"it": True}
    monkeypatch.setattr(connection, "_listens", lambda path: listening["it"])
    with socket.create_server(("127.0.0.1", 0)) as head:
        node = SimpleNamespace(gcs_address=f"127.0.0.1:{head.getsockname()[1]}", raylet_socket_name=str(tmp_path / "raylet"))
        look = connection.reach(node)
        assert look is not None and look() == ""
        listening["it"] = False
        assert look() == "the node of the Ray cluster on this machine is gone"
    assert "cannot be reached (Connection refused)" in look()


def test_an_error_of_tune_is_looked_at_again_once_the_watch_has_seen_who_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tune may notice up to two seconds before the watch looks."""
    monkeypatch.setattr(session, "LOOK", 0.05)
    dead: list[tuple[str, Any]] = []
    node = SimpleNamespace(get_session_dir_path=lambda: str(tmp_path / "s"), dead_processes=lambda: dead, live_processes=list)
    interruption = Interruption(tmp_path, here=False)  # in another thread than the main one it is only told
    watched = session.Session(node, interruption.lose)
    dead.append(("raylet", None))
    watched.wait()
    assert interruption.lost == "Ray's process raylet died"
    watched.close()


def test_a_cluster_on_which_no_worker_starts_is_no_outcome_of_a_trial(tmp_path: Path) -> None:
    again: list[Any] = []
    losses: Counter[str] = Counter()
    (tmp_path / "error.txt").write_text("Failure # 1\nthe actor never ran")
    heard = hearing.callback(Work(), None, {}, again, losses, tmp_path)  # type: ignore[arg-type]
    trial = SimpleNamespace(config={"bundle": [{"key": "k"}], "share": 0.0, "shares": {}}, error_file=str(tmp_path / "error.txt"))
    heard.on_trial_error(0, [], trial)
    heard.on_trial_error(0, [], trial)
    assert again == [{"key": "k"}, {"key": "k"}]
    with pytest.raises(RunError, match=r"no worker could be started, 3 times: .*the actor never ran"):
        heard.on_trial_error(0, [], trial)
    assert "never ran" in heard.ended
