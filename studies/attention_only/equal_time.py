"""Attention alone beside the reference trained for less steps, in the same time: runs of both as one table, for `aotsearch judge`.

    python studies/attention_only/equal_time.py runs/decided --shorter runs/decided-165 --out equal-time.csv
    aotsearch judge equal-time.csv --measure bits_per_byte --pair seed --reference 'reference, 165 steps' --margin 0.05

Of the shorter runs the reference is taken. Every arm is at its own learning rate.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

import aotsearch

MEASURES = ["bits_per_byte", "loss"]  # of language, of images


def trials(folder: Path) -> pd.DataFrame:
    """The judged trials of a run folder; those at the reference's rate only of arms that have no other."""
    found = aotsearch.results(folder)
    found = found[(found.phase == "design") & (found.outcome == "done")]
    shared = found[found.arm == "reference"].learning_rate.iloc[0]
    others = set(found[found.learning_rate != shared].arm)
    found = found[(found.learning_rate != shared) | ~found.arm.isin(others)]
    return found[["arm", "seed", *found.columns.intersection(MEASURES), "steps"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shorter", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    tables = [trials(given.folder)]
    for folder in given.shorter:
        found = trials(folder)
        found = found[found.arm == "reference"]
        tables.append(found.assign(arm="reference, " + found.steps.astype(str) + " steps"))
    pd.concat(tables).to_csv(given.out, index=False)


if __name__ == "__main__":
    main()
