"""Does anything that is known of a model before it is trained foretell how it ends? Prints a Markdown table for each space.

    python benchmarks/hints.py [--spaces layers denoise language]

The spaces in `tables/` were trained completely, every architecture under three seeds (`tables.py`). Here nothing is trained: each hint is
computed for every architecture under each of the seeds, and ranked against the trained result, the mean over the three seeds.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import statistics
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch
from scipy.stats import rankdata
from search import SPACES, TABLES, Table, read  # beside this file

from aotsearch.diagnostics.catalogue import hints
from aotsearch.diagnostics.hints import measure
from aotsearch.evidence.hints import rank_correlation
from aotsearch.models.model import build
from aotsearch.study.design import Arm
from aotsearch.study.sampling import rungs
from aotsearch.training.opened import load_task
from aotsearch.training.trial import plan

SIZES = ("parameters", "flops_per_token")
HEAD = (
    "| known before the end | first seed | 95% interval | the other seeds | mean of three | first seed, given the parameters |",
    "|---|---:|---|---:|---:|---:|",
)


def untrained(table: Table, seeds: list[int]) -> tuple[dict[str, dict[str, list[float]]], float]:
    """Hint -> architecture -> its value under each seed; and seconds of processor time for all hints of one architecture and seed."""
    study = table.study
    task = load_task(plan(study, Arm("reference", study.reference, {}), 0, "search"))
    found: dict[str, dict[str, list[float]]] = {name: {} for name in hints()}
    began, count = time.process_time(), 0
    for architecture in study.space.enumerate():
        digest = architecture.digest[:12]
        for seed in seeds if digest in table.truth else ():
            inputs, targets = map(torch.from_numpy, task.batch(seed, 0, study.settings.budget.batch))
            values = measure(build(architecture, seed), inputs, lambda m, i=inputs, t=targets: task.loss(m(i), t), hints())
            count += 1
            for name, value in values.items():
                if value is not None:
                    found[name].setdefault(digest, []).append(value)
    return found, (time.process_time() - began) / count


def sizes(name: str) -> dict[str, dict[str, list[float]]]:
    """Size -> architecture -> its value, alike for all seeds."""
    with gzip.open(TABLES / f"{name}.csv.gz", "rt") as file:
        rows = list(csv.DictReader(file))
    return {size: {row["digest"]: [float(row[size])] for row in rows} for size in SIZES}


def early(table: Table) -> dict[str, dict[str, list[float]]]:
    """The measure at each rung, and at the end, under each seed."""
    evaluations = table.study.settings.budget.evaluations
    whole = {d: list(by_seed.values()) for d, by_seed in table.curves.items() if all(by_seed.values())}
    at = [*rungs(evaluations, 3), evaluations]
    return {f"after {n}/{evaluations} of the training": {d: [c[n - 1] for c in curves] for d, curves in whole.items()} for n in at}


def partial(xs: list[float], ys: list[float], zs: list[float]) -> float | None:
    """Rank correlation of x and y among what has the same z, as far as ranks are linear; None where z alone says all of x."""

    def r(a: list[float], b: list[float]) -> float:
        return statistics.correlation(list(map(float, rankdata(a))), list(map(float, rankdata(b))))

    xy, xz, yz = r(xs, ys), r(xs, zs), r(ys, zs)
    room = (1 - xz**2) * (1 - yz**2)
    return (xy - xz * yz) / room**0.5 if room > 1e-9 else None


def rows(name: str) -> list[str]:
    table = read(name)
    seeds = sorted(next(iter(table.curves.values())))
    found, seconds = untrained(table, seeds)
    parameters = sizes(name)["parameters"]
    said = [f"## {name}: {len(table.truth)} architectures", "", *HEAD]
    for label, values in {**sizes(name), **found, **early(table)}.items():
        digests = [d for d in values if d in table.truth]
        truth = [table.truth[d] for d in digests]

        def ranked(xs: list[float], ys: list[float] = truth) -> tuple[float, float, float] | None:
            return rank_correlation(list(zip(xs, ys, strict=True)), 0.95)

        first = [values[d][0] for d in digests]
        if (single := ranked(first)) is None:
            said.append(f"| {label} | the same for all | | | | |")
            continue
        cells = [f"{single[0]:+.2f}", f"[{single[1]:+.2f}, {single[2]:+.2f}]"]
        others = [ranked([values[d][n] for d in digests]) for n in range(1, len(values[digests[0]]))]
        cells.append(", ".join(f"{r[0]:+.2f}" for r in others if r))
        mean = ranked([statistics.fmean(values[d]) for d in digests])
        cells.append(f"{mean[0]:+.2f}" if others and mean else "")
        given = None if label == "parameters" else partial(first, truth, [parameters[d][0] for d in digests])
        cells.append("" if given is None else f"{given:+.2f}")
        said.append(f"| {label.replace('_', ' ')} | {' | '.join(cells)} |")
    return [*said, "", f"All hints of one model take {1e3 * seconds:.0f} ms of processor time.", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--spaces", nargs="*", default=list(SPACES))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.spaces:
        sys.stdout.write("\n".join(rows(name)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
