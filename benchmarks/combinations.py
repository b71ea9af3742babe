"""Every two options of the library together in some model, and what the models keep: the long form of tests/test_combinations.py.

    python benchmarks/combinations.py [--seed 0] [--models 4000] [--triples 1000] [--ejects 300] [--learn 10] [--workers 2]

A covering array of strength 2 over every option with every number, the options of parts that are options themselves too, of `--models`
models at most (it begins with the pairs that lie least deep, and says how many are left); then models that hold triples of options drawn
at random. Each is built and held to the invariants of tests/invariants.py (whether the loss falls in 20 steps, one in `--learn` of them),
costed, and some are ejected. Writes a Markdown page to standard output, and each fault, with the smallest row that shows it, to standard
error.
"""

from __future__ import annotations

import argparse
import collections
import functools
import multiprocessing
import sys
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
import covering
import invariants

from aotsearch.eject.file import eject
from aotsearch.models.cost import cost


@dataclass
class Verdict:
    """What was asked of one model, and what it did not keep."""

    asked: tuple[str, ...]
    wrong: dict[str, str] = field(default_factory=dict)
    smallest: str = ""


def judged(job: tuple[covering.Row, bool, bool]) -> Verdict:
    """A row held to everything; `learns` and `ejected` only where they are asked for."""
    row, learns, ejects = job
    warnings.simplefilter("error")
    warnings.filterwarnings("ignore", "Mismatch dtype between input and weight")  # bf16 autocast of norms, which is not slow on processors
    torch.set_num_threads(1)
    skipped = () if learns else ("learns",)
    verdict = Verdict(("built", "cost", *(["ejected"] if ejects else []), *(n for n in invariants.INVARIANTS if n not in skipped)))
    try:
        found = covering.architecture(row)
    except Exception as e:  # noqa: BLE001 (whatever the library raises for what its laws admit)
        verdict.wrong["built"] = f"{type(e).__name__}: {e}"
        return verdict
    verdict.wrong = invariants.broken(found, skipped)
    for name, act in (("cost", cost), ("ejected", eject)):
        try:
            _ = act(found) if name in verdict.asked else None
        except Exception as e:  # noqa: BLE001
            verdict.wrong[name] = f"{type(e).__name__}: {e}"
    kept = verdict.wrong.keys() & invariants.INVARIANTS.keys()
    if kept:
        same = functools.partial(_fails, names=kept, skipped=skipped)
        verdict.smallest = str(covering.shrunk(row, same))
    return verdict


def _fails(row: covering.Row, names: set[str], skipped: tuple[str, ...]) -> bool:
    return invariants.broken(covering.architecture(row), skipped).keys() >= names


def arrays(seed: int, models: int, triples: int) -> Iterator[tuple[str, covering.Array]]:
    """The covering array, and the triples."""
    yield "strength 2", covering.Array(seed).cover(models)
    yield "strength 3, drawn at random", covering.Array(seed).sample(triples, strength=3)


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in (("seed", 0), ("models", 4000), ("triples", 1000), ("ejects", 300), ("learn", 10), ("workers", 2)):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    start = time.perf_counter()
    asked: collections.Counter[str] = collections.Counter()
    failed: collections.Counter[str] = collections.Counter()
    head = "| array | items | pairs of items | pairs met or refused | models | sets of items refused by law |\n|---|---|---|---|---|---|"
    print(f"# Combinations\n\ntorch {torch.__version__}, seed {a.seed}\n\n{head}")  # noqa: T201
    done = 0
    with multiprocessing.get_context("spawn").Pool(a.workers) as pool:
        for name, array in arrays(a.seed, a.models, a.triples):
            met = array.pairs - sum(map(len, array.left)) // 2
            figures = (len(array.possible), array.pairs, met, len(array.rows), len(array.refused))
            print(f"| {name} | {' | '.join(f'{n:,}' for n in figures)} |", flush=True)  # noqa: T201
            every = max(1, (a.models + a.triples) // max(1, a.ejects))
            jobs = [(row, (done + i) % a.learn == 0, (done + i) % every == 0) for i, row in enumerate(array.rows)]
            for verdict in pool.imap_unordered(judged, jobs, chunksize=4):
                asked.update(verdict.asked)
                failed.update(verdict.wrong.keys())
                if verdict.wrong:
                    print(verdict.wrong, verdict.smallest, file=sys.stderr, flush=True)  # noqa: T201
            done += len(jobs)
    print("\n| invariant | models held to it | failed |\n|---|---|---|")  # noqa: T201
    for name, number in asked.items():
        print(f"| {name} | {number} | {failed[name]} |")  # noqa: T201
    print(f"\n{done} models in {(time.perf_counter() - start) / 60:.0f} minutes.")  # noqa: T201


if __name__ == "__main__":
    main()
