"""What the driver itself costs: a study of 10,000 trials whose training takes no time, through everything but the training.

    python benchmarks/scale.py [--trials 10000] [--mlflow]

Every trial is planned, started, tells four points of its curve, and ends with a record as large as a real one: the ledger is written and
synced, progress is told, and at the end all contrasts are drawn into the report. Writes a Markdown table to standard output: processor
seconds of a trial, and the share that this is of the trials of a minute on 1,000 slots; and the memory at the peak.
"""

from __future__ import annotations

import argparse
import io
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.study.loading import load
from aotsearch.training import trial

STUDY = """
name: scale
task: {{language: {{data: {{text: text.txt}}, context: 16}}}}
grammar:
  model: {{width: 16, depth: 1, norm: norm, block: [{{attention: {{heads: heads, identity: identity}}}}, channel]}}
  channel: {{any: [{{mlp: {{expand: 4}}}}, glu, none]}}
  norm: {{any: [layernorm, rmsnorm, none]}}
  heads: {{any: [2, 1, 4, 8]}}
  identity: {{any: [0, -1, learned]}}
study: {{seeds: {seeds}, budget: {{steps: 4, batch: 2, evaluations: 2}}, diagnostics: none}}
"""
ARMS = 10
SLOTS, SECONDS = 1000, 60.0  # of a cluster, and of a trial there


def made_up(bundle: Any, hardware: Any, report: Any, *_: Any) -> Iterator[dict[str, Any]]:
    """The records of trials that were not trained."""
    for made in bundle:
        rng = random.Random(made["key"])
        curve = [{"step": i + 1, "train_loss": rng.random(), "loss": rng.random(), "bits_per_byte": 2 + rng.random()} for i in range(4)]
        for point in curve:
            report(made, point)
        more = {"message": "", "traceback": "", "seconds": SECONDS, "environment": {"torch": "2"}, "test": dict(curve[-1])}
        yield trial.record(made, "done", curve) | more | {"device": "cpu", "precision": "float32", "threads": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--mlflow", action="store_true", help="with the view in MLflow")
    options = parser.parse_args()
    trial.run_together = made_up  # type: ignore[assignment]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "scale.yaml"
        (file.parent / "text.txt").write_text("the quick brown fox " * 2000)
        file.write_text(STUDY.format(seeds=options.trials // ARMS))
        began, wall = time.process_time(), time.perf_counter()
        how = runner.Options(local=True, track=options.mlflow)
        found = runner.run(load(file), Path(name) / "run", how, Progress("", "", io.StringIO()))
        spent, wall = time.process_time() - began, time.perf_counter() - wall
        size = (Path(name) / "run" / "ledger.jsonl").stat().st_size
    trials = sum(found.outcomes.values())
    rows = [
        ("trials", f"{trials:,}"),
        ("processor seconds of the driver", f"{spent:.0f}"),
        ("of a trial, ms", f"{1000 * spent / trials:.1f}"),
        (f"share of trials of {SECONDS:.0f} s on {SLOTS:,} slots", f"{spent / (trials * SECONDS / SLOTS):.1%}"),
        ("wall, s", f"{wall:.0f}"),
        ("ledger, MB", f"{size / 1e6:.0f}"),
        ("memory at the peak, MB", f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f}"),
    ]
    sys.stdout.write("| measure | value |\n|---|---|\n" + "".join(f"| {name} | {value} |\n" for name, value in rows))


if __name__ == "__main__":
    main()
