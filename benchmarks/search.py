"""Does a sampler find a good architecture sooner than chance? Prints Markdown tables, and draws the curves of regret.

    python benchmarks/search.py [--seeds 30] [--trainings 40] [--workers 2] [--out benchmarks/search.png]

The spaces in `tables/` were trained completely (`tables.py`), so a search of them is a lookup: the product's own proposer asks, its own
rungs stop, and what a trial says is what the table says of that architecture under one of the three seeds. All methods may spend the
steps of the same number of whole trainings. The regret of a search is what the architecture that it holds for the best loses, in its mean
over the three seeds, against the best of the space. A method is better or worse than random search where the interval of the paired
difference of the mean regret over the course says so, over all methods and spaces at once.

The last table is the driver's own time: how long one proposal takes in a space of 36^26 architectures, when so many are known.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import math
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent.parent))

from aotsearch import yamlfile
from aotsearch.evidence.statistics import interval
from aotsearch.running.rungs import Rungs
from aotsearch.running.search import Proposer
from aotsearch.study.loading import load
from aotsearch.study.settings import Search
from aotsearch.study.study import Study

TABLES = Path(__file__).parent / "tables"
SPACES = ("layers", "denoise", "language")
SAMPLERS = ("random", "tpe", "evolution", "nsga2")  # gp takes half a second for a proposal, in spaces that are not flat it is not meant for
METHODS = [(sampler, halving) for sampler in SAMPLERS for halving in (False, True)]
Curve = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """A space that is known: digest -> seed -> the measure at each evaluation; and digest -> its mean at the end."""

    study: Study
    curves: dict[str, dict[int, list[float]]]
    truth: dict[str, float]

    @property
    def best(self) -> float:
        return min(self.truth.values())


def read(name: str) -> Table:
    study = load(TABLES / f"{name}.yaml")
    measure, evaluations = study.task.measure, study.settings.budget.evaluations
    curves: dict[str, dict[int, list[float]]] = {}
    with gzip.open(TABLES / f"{name}.csv.gz", "rt") as file:
        for row in csv.DictReader(file):
            values = [float(row[f"{measure}@{n}"]) for n in range(1, evaluations + 1) if row.get(f"{measure}@{n}")]
            curves.setdefault(row["digest"], {})[int(row["seed"])] = values if row["outcome"] == "done" else []
    ends = [c[-1] for by_seed in curves.values() for c in by_seed.values() if c]
    truth = {d: statistics.fmean(c[-1] if c else max(ends) for c in by_seed.values()) for d, by_seed in curves.items()}
    return Table(study, curves, truth)


def search(table: Table, sampler: str, halving: bool, seed: int, trainings: int) -> Curve:
    """The regret after each of so many whole trainings' steps."""
    settings = table.study.settings
    evaluations, measure = settings.budget.evaluations, table.study.task.measure
    proposer = Proposer(table.study.space, Search(seed=seed, trials=len(table.truth), sampler=sampler), measure)  # type: ignore[arg-type]
    rungs = Rungs(evaluations if halving else 1, 3, settings.margin)
    spent, best, held = 0, math.inf, max(table.truth.values())
    regret = np.full(trainings * evaluations + 1, np.nan)
    while spent < trainings * evaluations and (architecture := proposer.ask()) is not None:
        digest = architecture.digest[:12]
        values, curve = table.curves[digest][seed % len(table.curves[digest])], []
        outcome = "done" if values else "diverged"
        for n, value in enumerate(values, 1):
            curve.append({"step": n, measure: value})
            if halving and n < evaluations and rungs.reach(digest, n, value):
                outcome = "pruned"
                break
        regret[spent : spent + len(curve)] = held - table.best
        spent += max(1, len(curve))
        if outcome == "done" and values[-1] < best:
            best, held = values[-1], table.truth[digest]
        proposer.tell({"digest": architecture.digest, "outcome": outcome, "measures": curve[-1] if curve else {}, "curve": curve})
    regret[min(spent, len(regret) - 1) :] = held - table.best
    return regret[evaluations::evaluations]


def _job(job: tuple[str, str, bool, int, int]) -> Curve:
    name, *rest = job
    return search(_read(name), *rest)  # type: ignore[arg-type]


_known: dict[str, Table] = {}


def _read(name: str) -> Table:
    if name not in _known:
        _known[name] = read(name)
    return _known[name]


def spoken(sampler: str, halving: bool) -> str:
    return f"{sampler}, halving" if halving else sampler


def rows(name: str, found: dict[tuple[str, bool], NDArray[np.float64]], family: int) -> list[str]:
    """The Markdown table of a space."""
    table = _read(name)
    base = found["random", False]
    unit = table.study.task.unit
    ends = [f"{min(table.truth.values()):.3f} to {max(table.truth.values()):.3f}"]
    out = [f"## {name}: {len(table.truth)} architectures, {ends[0]} {unit}", ""]
    trainings = base.shape[1]
    at = sorted({trainings // 4, trainings // 2, trainings})
    out.append(f"| method | {' | '.join(f'regret after {n}' for n in at)} | steps to random's last regret | mean regret against random | |")
    out.append(f"| --- |{' --- |' * len(at)} --- | --- | --- |")
    for (sampler, halving), regrets in found.items():
        last, mean = base.mean(axis=0)[-1], regrets.mean(axis=0)
        reached = np.flatnonzero(mean <= last)
        share = f"{(reached[0] + 1) / trainings:.2f}" if len(reached) else "never"
        cells = [_mean(regrets[:, i - 1]) for i in at]
        against, word = "", ""
        if (sampler, halving) != ("random", False):
            difference, low, high = interval(list((regrets - base).mean(axis=1)), 0.95, family)
            against = f"{difference:+.4f} [{low:+.4f}, {high:+.4f}]"
            word = "better" if high < 0 else "worse" if low > 0 else ""
        cells = [spoken(sampler, halving), *cells]
        out.append(f"| {' | '.join([*cells, share, against, word])} |")
    return [*out, ""]


def _mean(values: Curve) -> str:
    mean, low, high = interval(list(map(float, values)), 0.95, 1)
    return f"{mean:.4f} ± {(high - low) / 2:.4f}"


def rungs_rank(name: str) -> str:
    """How well what a rung sees ranks what comes out."""
    from scipy.stats import spearmanr

    table = _read(name)
    evaluations, at, said = table.study.settings.budget.evaluations, 1, []
    done = {d: c for d, c in table.curves.items() if all(c.values())}
    while at <= evaluations:
        early = [statistics.fmean(c[s][at - 1] for s in c) for c in done.values()]
        one = [c[0][at - 1] for c in done.values()]
        late = [table.truth[d] for d in done]
        seen = [spearmanr(ys, late).statistic for ys in (one, early)]
        said.append(f"after {at}/{evaluations} {seen[0]:.2f} (of three seeds {seen[1]:.2f})")
        at *= 3
    return f"Rank correlation with the end, one seed: {', '.join(said)}."


def draw(found: dict[str, dict[tuple[str, bool], Any]], place: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    colours = dict(zip(SAMPLERS, ("#555555", "#0072b2", "#d55e00", "#009e73"), strict=True))
    figure, axes = pyplot.subplots(1, len(found), figsize=(4.2 * len(found), 3.6), layout="constrained")
    for ax, (name, methods) in zip(np.atleast_1d(axes), found.items(), strict=True):
        for (sampler, halving), regrets in methods.items():
            mean, x = regrets.mean(axis=0), np.arange(1, regrets.shape[1] + 1)
            ax.plot(x, mean, "--" if halving else "-", color=colours[sampler], lw=1.4, label=spoken(sampler, halving))
            if not halving:
                error = 2 * regrets.std(axis=0, ddof=1) / math.sqrt(len(regrets))
                ax.fill_between(x, mean - error, mean + error, color=colours[sampler], alpha=0.12, lw=0)
        ax.set_yscale("log")
        ax.set_title(f"{name}, {len(_read(name).truth)} architectures", fontsize=10)
        ax.set_xlabel("whole trainings' worth of steps")
    np.atleast_1d(axes)[0].set_ylabel("regret")
    np.atleast_1d(axes)[-1].legend(fontsize=7, frameon=False)
    figure.savefig(place, dpi=120)


# ---- the driver's own time

HUGE = """
name: huge
task: {language: {data: python-stdlib, context: 32}}
grammar:
  model: {width: 32, blocks: {each: 26, of: layer}}
  layer: [{attention: {heads: {any: [4, 1, 2]}, qkv: {any: [free, tied]}, identity: {any: [0, -1, learned]}}}, channel]
  channel: {any: [{mlp: {expand: 4}}, none]}
study: {design: search, margin: 0.02}
"""


def proposals(sampler: str, trials: int = 200) -> list[float]:
    """Seconds of each proposal."""
    space = Study.from_dict(yamlfile.parse(HUGE, "huge").plain()).space
    proposer, seconds = Proposer(space, Search(trials=trials, sampler=sampler), "loss"), []  # type: ignore[arg-type]
    for n in range(trials):
        began = time.perf_counter()
        architecture = proposer.ask()
        seconds.append(time.perf_counter() - began)
        assert architecture is not None
        score = math.sin(n) + sum(v == "none" for v in architecture.decisions.values())
        proposer.tell({"digest": architecture.digest, "outcome": "done", "measures": {"loss": score}, "curve": []})
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--trainings", type=int, default=40)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--spaces", nargs="*", default=list(SPACES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".png"))
    options = parser.parse_args()
    jobs = [
        (name, sampler, halving, seed, options.trainings)
        for name in options.spaces
        for sampler, halving in METHODS
        for seed in range(options.seeds)
    ]
    found: dict[str, dict[tuple[str, bool], Any]] = {name: {} for name in options.spaces}
    with ProcessPoolExecutor(options.workers) as pool:
        for job, regret in zip(jobs, pool.map(_job, jobs), strict=True):
            found[job[0]].setdefault((job[1], job[2]), []).append(regret)
    found = {name: {method: np.array(regrets) for method, regrets in methods.items()} for name, methods in found.items()}
    family = len(options.spaces) * (len(METHODS) - 1)
    lines = [f"# Search against chance, {options.seeds} seeds of each sampler, {options.trainings} whole trainings", ""]
    for name, methods in found.items():
        lines += [*rows(name, methods, family), rungs_rank(name), ""]
    lines += ["## Milliseconds of a proposal, 200 trials in a space of 36^26", ""]
    lines += ["| sampler | median | last ten, median |", "| --- | --- | --- |"]
    for sampler in SAMPLERS:
        seconds = proposals(sampler)
        lines.append(f"| {sampler} | {1e3 * statistics.median(seconds):.0f} | {1e3 * statistics.median(seconds[-10:]):.0f} |")
    draw(found, options.out)
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
