"""How much of a study's time is training: 24 trials of about 10 s by `aotsearch run`, and the same trials by Ray Tune as it comes.

    python benchmarks/efficiency.py [--trials 24] [--seconds 10] [--rounds 3] [--short] [--keep FOLDER]

    efficiency = sum over trials of the seconds in the worker / (slots x wall)

Wall is from the start of the command to its end: imports, Ray's start and end, tracking and report included. Ray Tune as it comes is a
function trainable that trains the same models with the same training loop, one actor for each trial, and Ray's callback for MLflow.
Both are run in every round, in turn, so that what else the machine does falls on both alike. Then how long the other commands take, and
what the largest process held. Writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aotsearch.evidence.ledger import Ledger
from aotsearch.study.loading import load
from aotsearch.training.environment import processors

STUDY = """
name: efficiency
task: {{language: {{data: {{text: text.txt}}, context: 64}}}}
grammar:
  model: {{width: 64, depth: 2, norm: norm, block: [{{attention: {{heads: 4}}}}, channel]}}
  channel: {{any: [{{mlp: {{expand: 4}}}}, none]}}
  norm: {{any: [layernorm, rmsnorm, none]}}
study: {{seeds: {seeds}, budget: {{steps: {steps}, batch: 16, evaluations: 2}}, learning_rate: 3e-3, margin: 0.05}}
"""
ARMS = 4  # of this study: the reference, without channel, rmsnorm, without norm
BYTES = 400_000  # of text
FINISHED = re.compile(r"^\[ *\d+/\d+\] .*\((\d+\.\d) s;")  # a line of progress


@dataclass(frozen=True)
class Run:
    """One run of the study by the command.

    Attributes:
        wall: Seconds from the start of the command to its end.
        trained: Seconds of all trials, as the workers measured them.
        start: From the start of the command to that of the first trial.
        end: From the end of the last trial to that of the command.
        megabytes: At the peak of the largest process, by what it is.
    """

    wall: float
    slots: int
    trained: float
    start: float
    end: float
    megabytes: dict[str, float] = field(default_factory=dict)

    @property
    def efficiency(self) -> float:
        return self.trained / (self.slots * self.wall)

    @property
    def between(self) -> float:
        """Seconds that a slot stood idle between two trials, all of them together, in the mean over slots."""
        return self.wall - self.start - self.end - self.trained / self.slots


def prepare(folder: Path, trials: int, seconds: float) -> Path:
    """A study of so many trials that take about so many seconds each on this machine, in a folder of its own."""
    sources = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    (folder / "text.txt").write_text("\n".join(p.read_text("utf-8", "replace") for p in sources)[:BYTES], "utf-8")
    file = folder / "efficiency.yaml"
    spent = []
    for steps in (100, 1100):
        file.write_text(STUDY.format(seeds=max(2, trials // ARMS), steps=steps))
        spent.append(statistics.median(t["seconds"] for t in json.loads(command("plan", str(file), "--json").stdout)["trials"]))
    step = (spent[1] - spent[0]) / 1000
    file.write_text(STUDY.format(seeds=max(2, trials // ARMS), steps=max(20, round((seconds - (spent[0] - 100 * step)) / step))))
    return file


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, "-m", "aotsearch", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def seconds_of(*arguments: str, rounds: int = 3) -> float:
    """The median time that a command takes."""
    times = []
    for _ in range(rounds):
        begun = time.perf_counter()
        command(*arguments)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def ours(file: Path, folder: Path, slots: int) -> Run:
    """The study run in a new folder by `aotsearch run`, through Ray."""
    argv = [sys.executable, "-m", "aotsearch", "run", str(file), "--out", str(folder), "--workers", str(slots)]
    began, ends = time.perf_counter(), []
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process, _watched(process.pid) as held:
        assert process.stderr is not None
        for line in process.stderr:
            if found := FINISHED.match(line):
                ends.append((time.perf_counter() - began, float(found[1])))
    wall = time.perf_counter() - began
    assert process.returncode == 0, f"{argv} ended with {process.returncode}"
    trained = sum(r["seconds"] for r in Ledger.open(folder).records().values())
    return Run(wall, slots, trained, min(end - seconds for end, seconds in ends), wall - max(end for end, _ in ends), held)


@contextlib.contextmanager
def _watched(root: int) -> Iterator[dict[str, float]]:
    """The peak of every process below `root` and of itself, in megabytes by its first words; of Linux alone."""
    held: dict[str, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.5):
            for pid in _below(root):
                with contextlib.suppress(OSError, StopIteration):
                    name = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip()[:60]
                    peak = next(s for s in Path(f"/proc/{pid}/status").read_text().splitlines() if s.startswith("VmHWM"))
                    held[name] = max(held.get(name, 0.0), int(peak.split()[1]) / 1024)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield held
    finally:
        ended.set()
        thread.join()


def _below(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found = [root]
    for pid in found:
        found += parents.get(pid, [])
    return found


def theirs(file: Path, folder: Path, slots: int) -> float:
    """Wall seconds of the same trials through Ray Tune as it comes, in a process of its own."""
    argv = [sys.executable, __file__, "--tune", str(file), "--keep", str(folder), "--slots", str(slots)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "TUNE_"))}
    began = time.perf_counter()
    done = subprocess.run(argv, capture_output=True, text=True, env=environment)
    wall = time.perf_counter() - began
    assert done.returncode == 0, done.stderr[-3000:]
    return wall


def trainable(config: dict[str, Any]) -> None:
    """One trial as one would write it for Ray Tune: the same model, data and training as ours."""
    from ray import tune

    from aotsearch.models.model import build
    from aotsearch.training.device import DeviceSettings
    from aotsearch.training.train import train

    study = load(config["file"])
    study.task.prepare()
    model = build(study.arm(config["arm"]).architecture, config["seed"])
    train(
        model,
        study.task,
        study.training(),
        config["seed"],
        DeviceSettings(1),
        lambda point: tune.report(dict(point)) if "loss" in point else None,
    )


def through_tune(file: Path, folder: Path, slots: int) -> None:
    import ray
    from ray import tune
    from ray.air.integrations.mlflow import MLflowLoggerCallback

    study = load(file)
    ray.init(num_cpus=slots)
    space = {"file": str(file), "arm": tune.grid_search([arm.name for arm in study.arms()])}
    space["seed"] = tune.grid_search(study.settings.first_seeds)
    callback = MLflowLoggerCallback(tracking_uri=f"sqlite:///{folder}/mlflow.db", experiment_name="efficiency")
    config = tune.RunConfig(name="tune", storage_path=str(folder), callbacks=[callback])
    results = tune.Tuner(tune.with_resources(trainable, {"cpu": 1}), param_space=space, run_config=config).fit()
    assert not results.num_errors and len(results) == ARMS * len(study.settings.first_seeds)


def measure(folder: Path, trials: int, seconds: float, rounds: int, slots: int) -> tuple[list[Run], list[float], dict[str, float]]:
    """Runs of ours, wall seconds of Ray Tune, and the median seconds of the other commands; the study is made in the folder."""
    file = prepare(folder, trials, seconds)
    runs, walls = [], []
    for i in range(rounds):
        runs.append(ours(file, folder / f"ours-{i}", slots))
        (folder / f"tune-{i}").mkdir()
        walls.append(theirs(file, folder / f"tune-{i}", slots))
    out = str(folder / "ours-0")
    others = {
        "the same `run` again": ("run", str(file), "--out", out, "--workers", str(slots)),
        "`check`": ("check", str(file)),
        "`plan`": ("plan", str(file)),
        "`status`": ("status", out),
        "`report`": ("report", out),
    }
    return runs, walls, {name: seconds_of(*arguments) for name, arguments in others.items()}


def table(runs: list[Run], walls: list[float], commands: dict[str, float]) -> str:
    def row(name: str, values: list[float], form: str = ".1f") -> str:
        return f"| {name} | {statistics.median(values):{form}} | {min(values):{form}} to {max(values):{form}} |"

    largest = [max(run.megabytes.items(), key=lambda pair: pair[1], default=("", 0.0)) for run in runs]
    lines = ["| measure | median | range |", "|---|---|---|", row("whole-study efficiency", [r.efficiency for r in runs], ".3f")]
    lines += [row("wall of `aotsearch run`, s", [r.wall for r in runs]), row("of it before the first trial, s", [r.start for r in runs])]
    lines += [row("between trials, s per slot", [r.between for r in runs]), row("after the last trial, s", [r.end for r in runs])]
    lines += [row("wall of Ray Tune as it comes, s", walls)]
    lines += [row("Ray Tune / `aotsearch run`", [t / r.wall for t, r in zip(walls, runs, strict=True)], ".2f")]
    lines += [row(f"largest process (`{largest[0][0]}`), MB", [size for _, size in largest], ".0f")]
    return "\n".join([*lines, *(f"| {name}, s | {value:.1f} | |" for name, value in commands.items())])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--slots", type=int, default=min(2, processors()))
    parser.add_argument("--short", action="store_true", help="one round of 8 trials of a second")
    parser.add_argument("--keep", type=Path, help="where the runs are made, and left")
    parser.add_argument("--tune", type=Path, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.tune is not None:
        through_tune(a.tune, a.keep, a.slots)
        return
    if a.short:
        a.trials, a.seconds, a.rounds = 8, 1.0, 1
    with contextlib.ExitStack() as stack:
        folder = a.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(parents=True, exist_ok=True)
        found = measure(folder.resolve(), a.trials, a.seconds, a.rounds, a.slots)
    load_ = os.getloadavg()[1]
    where = f"{platform.processor() or platform.machine()}, {processors()} cores, load {load_:.1f}"
    print(f"{a.trials} trials of about {a.seconds:g} s, {a.slots} at a time, {a.rounds} rounds; {where}\n\n{table(*found)}")  # noqa: T201


if __name__ == "__main__":
    main()
