"""What may go wrong inside a trial is the outcome of that trial, under both executors: the others are trained, and the study ends."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from aotsearch.evidence.ledger import Ledger
from aotsearch.training import watch

sys.path.insert(0, str(Path(__file__).parent))
from test_broken_words import install

WORD = '''
from __future__ import annotations
import ctypes, os, sys, time
from typing import Literal
import torch
from torch import nn
from aotsearch.grammar.words import word

def eat():
    eaten = []
    for _ in range(100):
        eaten.append(torch.ones(10 << 20))
        time.sleep(0.01)
    raise RuntimeError("it ate 4 GB and nobody minded")

@word("channel", "faulty")
class Faulty(nn.Module):
    """A linear map that goes wrong.

    y = x W

    Source: none.

    Args:
        how: What it does in training.
    """

    def __init__(self, site, *, how: Literal["raise", "exit", "leave", "crash", "sleep", "nan", "eat"] = "raise"):
        super().__init__()
        self.how = how
        self.output = nn.Linear(site.width, site.width)

    def forward(self, x):
        y = self.output(x)
        if not self.training or x.device.type == "meta":
            return y
        if self.how == "nan":
            return y * float("nan")
        {"raise": lambda: 1 / 0, "exit": sys.exit, "leave": lambda: os._exit(3), "crash": lambda: ctypes.string_at(0),
         "sleep": lambda: time.sleep(1000), "eat": eat}[self.how]()
        return y
'''
STUDY = """
name: faults
task: {language: {data: {text: corpus.txt}, context: 16}}
grammar:
  model: {width: 16, depth: 1, block: [attention, channel]}
  channel: {any: [mlp, HOW]}
study: {seeds: 1, budget: {steps: 4, batch: 2, evaluations: 1}, diagnostics: none, resources: {patience: 5, memory: 1.0}}
"""
OUTCOMES = {  # of the arm with that fault: its outcome, and words of its message
    "raise": ("failed", "ZeroDivisionError"),
    "exit": ("failed", "SystemExit"),
    "nan": ("diverged", "the loss is nan at step"),
    "sleep": ("hung", "no step for 5 s"),
    "crash": ("failed", "Fatal Python error: Segmentation fault"),
    "eat": ("out-of-memory", "GB, more than the 1.00 GB of study.resources.memory"),
    "leave": ("failed", "was lost 3 times"),
}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a corpus and an installed package whose word goes wrong."""
    (tmp_path / "corpus.txt").write_text("the quick brown fox " * 2000)
    install(tmp_path, "faulty", "faulty_words", WORD)
    return tmp_path


def run(place: Path, faults: list[str], *how: str) -> subprocess.CompletedProcess[str]:
    file = place / "study.yaml"
    file.write_text(STUDY.replace("HOW", ", ".join(f"{{faulty: {{how: {fault}}}}}" for fault in faults)))
    paths = [str(place), str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    argv = [sys.executable, "-m", "aotsearch", "run", str(file), "--out", str(place / "run"), *how]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    )


def outcomes(place: Path) -> dict[str, tuple[str, str]]:
    return {r["arm"]: (r["outcome"], r["message"]) for r in Ledger(place / "run").records().values()}


def agree(place: Path, faults: list[str]) -> None:
    found = outcomes(place)
    assert found["reference"][0] == "done"
    for fault in faults:
        (arm,) = [name for name in found if name != "reference" and (fault in name or len(faults) == 1)]
        outcome, words = OUTCOMES[fault]
        assert found[arm][0] == outcome and words in found[arm][1], (fault, found[arm])


def test_through_ray_the_study_ends_with_a_complete_table(place: Path) -> None:
    faults = [fault for fault in OUTCOMES if fault not in ("exit", "raise")]  # of one kind with the rest, and tried in this process
    done = run(place, faults, "--workers", "2")
    assert done.returncode == 3, done.stderr
    agree(place, faults)
    assert "2 trials trained" in done.stderr and "Traceback" not in done.stderr  # the sound one, and the one that diverged


def test_in_this_process_what_a_process_survives_is_an_outcome_at_once(place: Path) -> None:
    faults = ["raise", "exit", "nan", "sleep", "eat"]
    done = run(place, faults, "--local")
    assert done.returncode == 3, done.stderr
    agree(place, faults)
    (line,) = [line for line in done.stderr.splitlines() if "ZeroDivisionError" in line]
    file = place / "run" / line.partition("; see ")[2].split()[0]
    assert file.parent.name == "failures" and "in forward" in file.read_text()


def test_data_that_is_cut_short_while_it_is_read_is_no_outcome_of_a_trial(tmp_path: Path) -> None:
    crash = """
import sys, numpy as np
from pathlib import Path
from aotsearch.training.watch import Watch
folder = Path(sys.argv[1])
(folder / "data.bin").write_bytes(bytes(1 << 20))
data = np.memmap(folder / "data.bin", mode="r")
with Watch(folder / "KEY.fate", 60):
    open(folder / "data.bin", "w").close()
    data.sum()
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    assert subprocess.run([sys.executable, "-c", crash, str(tmp_path)], env=environment, timeout=60, check=False).returncode < 0
    assert "Bus error" in watch.path_of(tmp_path, "KEY").read_text()
    assert watch.fate(tmp_path, "KEY") is None, "it is trained again, once its data is opened, which is verified"


def test_a_crash_of_this_process_is_the_outcome_of_its_trial_when_the_run_goes_on(place: Path) -> None:
    first = run(place, ["crash"], "--local")
    assert first.returncode < 0
    again = run(place, ["crash"], "--local")
    assert again.returncode == 3, again.stderr
    agree(place, ["crash"])
