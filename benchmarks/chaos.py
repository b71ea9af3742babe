"""Kills at random moments: whatever dies, the same command ends with what an undisturbed run has, to the last bit.

    python benchmarks/chaos.py [--kills 100] [--seed 0] [--short] [--study search]

Three studies of 40 trials or more: one change at a time, adaptive seeds with tuned learning rates, and a search. Each is run once without a
disturbance, in one process. Then it is run again, under Ray or in one process, and killed again and again: the driver by SIGKILL, a worker,
Ray's raylet, its GCS, all of them at once (a machine that loses power), or the driver by SIGTERM. Where the command ends by that, the same
command is started again. At last every trial is compared: curve, measures, test split and outcome; nothing may be lost, doubled or other.
Writes a Markdown table to standard output.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aotsearch.evidence.ledger import Ledger

STUDY = """
name: chaos
task: {language: {data: {text: text.txt}, context: 16}}
grammar:
  model: {width: 16, depth: 2, norm: norm, positions: positions, block: [{attention: {heads: heads, identity: identity}}, channel]}
  channel: {any: [{mlp: {expand: 4}}, none]}
  norm: {any: [layernorm, rmsnorm, none]}
  heads: {any: [2, 1, 4]}
  identity: {any: [0, -1]}
  positions: {any: [learned, rope, none]}
study:
  budget: {steps: 150, batch: 8, evaluations: 3}
  resources: {fuse: 1, checkpoint: {steps: 20}}
  diagnostics: none
"""
STUDIES = {
    "one change at a time": "  seeds: 5",
    "adaptive seeds, tuned rates": "  seeds: {min: 3, max: 5}\n  learning_rate: {tune: [1e-3, 3e-3]}\n  margin: 0.05",
    "search": "  design: search\n  search: {trials: 60, confirm: 2}\n  seeds: 2",
}
VICTIMS = {  # who is killed: share of the kills
    "ray": {"driver": 3, "worker": 3, "raylet": 1, "gcs_server": 1, "everything": 2, "driver, SIGTERM": 2},
    "local": {"driver": 5, "driver, SIGTERM": 1},
}
SAME = ("outcome", "curve", "measures", "test", "arm", "seed", "phase", "digest", "steps")
MOMENTS = {"ray": 25.0, "local": 8.0}  # seconds after a trial was started in which somebody is killed: a worker imports torch first
PATIENCE = 600.0  # seconds without an end after which a run hangs


def children(pid: int) -> dict[int, str]:
    """The processes below one, with their command lines."""
    parents, lines = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            stat = (entry / "stat").read_text()
            parents[int(entry.name)] = int(stat[stat.rindex(")") + 2 :].split()[1])
            lines[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
    found: dict[int, str] = {}
    wanted = {pid}
    while wanted:
        wanted = {child for child, parent in parents.items() if parent in wanted and child not in found}
        found |= {child: lines[child] for child in wanted}
    return found


def strike(process: subprocess.Popen[Any], victim: str, rng: random.Random) -> bool:
    """Kill one; whether it was there."""
    below = children(process.pid)
    if victim.startswith("driver"):
        targets = [process.pid]
    elif victim == "everything":
        targets = [process.pid, *below]
    elif victim == "worker":
        targets = [pid for pid, line in below.items() if line.startswith("ray::Impl")]
    else:
        targets = [pid for pid, line in below.items() if line.split(" ")[0].endswith(victim)]
    if victim == "worker" and targets:
        targets = [rng.choice(targets)]
    for pid in targets:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM if "SIGTERM" in victim else signal.SIGKILL)
    return bool(targets)


def start(file: Path, folder: Path, executor: str) -> subprocess.Popen[Any]:
    argv = [sys.executable, "-m", "aotsearch", "run", str(file), "--out", str(folder), *(["--local"] if executor == "local" else [])]
    log = open(folder.with_suffix(".log"), "ab")
    return subprocess.Popen(argv, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "OMP_NUM_THREADS": "1"})


def begun(folder: Path) -> int:
    try:
        return (folder / "ledger.jsonl").read_bytes().count(b'"event":"started"')
    except OSError:
        return 0


def tormented(file: Path, folder: Path, executor: str, kills: int, rng: random.Random) -> collections.Counter[str]:
    """Run a study to its end, with at most so many kills on the way; the kills by victim."""
    done: collections.Counter[str] = collections.Counter()
    process = start(file, folder, executor)
    while sum(done.values()) < kills and not _busy(process, folder):
        time.sleep(rng.uniform(0, MOMENTS[executor]))
        (victim,) = rng.choices(list(VICTIMS[executor]), list(VICTIMS[executor].values()))
        done[victim] += process.poll() is None and strike(process, victim, rng)
        if victim.startswith("driver") or victim == "everything":
            process.wait(PATIENCE)
        if process.poll() not in (None, 0):
            process = start(file, folder, executor)
    while process.wait(PATIENCE) != 0:
        process = start(file, folder, executor)
    return +done


def _busy(process: subprocess.Popen[Any], folder: Path) -> bool:
    """Wait until a run has started another trial; whether it has ended instead."""
    seen, until = begun(folder), time.monotonic() + PATIENCE
    while begun(folder) <= seen and process.poll() is None:
        assert time.monotonic() < until, f"{folder}: nothing happens"
        time.sleep(0.05)
    return process.poll() == 0


def differences(one: Path, other: Path) -> tuple[int, int, int]:
    """Trials that are in one ledger alone, that differ, and that are told more than once as finished under one key."""
    a, b = (Ledger(folder).records() for folder in (one, other))
    odd = sum(json.dumps([a[key].get(n) for n in SAME]) != json.dumps([b[key].get(n) for n in SAME]) for key in a.keys() & b.keys())
    finished = collections.Counter(e["key"] for e in Ledger(other).events() if e["event"] == "finished")
    return len(a.keys() ^ b.keys()), odd, sum(n - 1 for n in finished.values())


def resumed(folder: Path) -> int:
    return sum(bool((r.get("resumed") or {}).get("step")) for r in Ledger(folder).records().values())


def scenarios(kills: int) -> Iterator[tuple[str, str, int]]:
    shares = {(name, "local"): 0.27 for name in STUDIES}
    shares |= {("one change at a time", "ray"): 0.12, ("adaptive seeds, tuned rates", "ray"): 0.07}
    for (name, executor), share in shares.items():
        yield name, executor, max(1, round(share * kills))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="one study in one process, six kills")
    parser.add_argument("--study", choices=STUDIES, help="one study in one process, with all the kills")
    options = parser.parse_args()
    wanted = [("one change at a time", "local", 6)] if options.short else list(scenarios(options.kills))
    wanted = [(options.study, "local", options.kills)] if options.study else wanted
    rng, total = random.Random(options.seed), collections.Counter[str]()
    say("| study | executor | kills | runs | trials | went on from a checkpoint | lost or added | other | told twice | s |")
    say("|---|---|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name:
        for study, executor, kills in wanted:
            total += told(Path(name), study, executor, kills, rng)
    say("\nKilled: " + ", ".join(f"{victim} {number}" for victim, number in total.most_common()) + ".")


def told(place: Path, study: str, executor: str, kills: int, rng: random.Random) -> collections.Counter[str]:
    """One row of the table: runs of one study until so many kills are made."""
    words, file = "the quick brown fox jumps over a lazy dog".split(), place / f"{study.split()[0]}.yaml"
    (place / "text.txt").write_text(" ".join(random.Random(0).choices(words, k=20_000)))
    file.write_text(STUDY + STUDIES[study] + "\n")
    whole, began = file.with_suffix(""), time.monotonic()
    assert start(file, whole, "local").wait(PATIENCE) == 0, whole  # again where it ended before: then nothing is left
    done: collections.Counter[str] = collections.Counter()
    sums = [0] * 5
    while sum(done.values()) < kills:
        folder = place / f"{file.stem}-{executor}-{sum(done.values())}"
        done += tormented(file, folder, executor, kills - sum(done.values()), rng)
        found = (len(Ledger(folder).records()), resumed(folder), *differences(whole, folder))
        sums = [a + b for a, b in zip(sums, found, strict=True)]
        runs = len(list(place.glob(f"{file.stem}-{executor}-*[0-9]")))
    say("| " + " | ".join(map(str, (study, executor, sum(done.values()), runs, *sums, f"{time.monotonic() - began:.0f}"))) + " |")
    return done


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
