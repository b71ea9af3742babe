"""Whether a block learns in context: when it leaves the plateau, and its error against the number of examples.

python studies/in_context_regression/picture.py --out studies/in_context_regression/examples.png

A thin line is a seed, a thick one their mean. Above: the error while training, averaged over a prompt. Below: at its end, on tests.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
BLOCKS = {
    "gpt2": ("black", "GPT-2"),
    "aot-mhsa": ("#0072B2", "AoT-MHSA"),
    "aot-mssa": ("#C44E00", "AoT-MSSA"),
    "crate": ("#1B8A5A", "CRATE"),
}
TIED = {
    "reference": ("#0072B2", "three projections (MHSA)"),
    "projections=shared-kv": ("#56B4E9", "one for key and value"),
    "projections=shared-qk": ("#E69F00", "one for query and key"),
    "projections=tied": ("#C44E00", "one for all (MSSA)"),
    "tied, minus identity": ("#CC79A7", "the same, minus identity"),
    "tied, no self": ("#9A3B76", "the same, no token sees itself"),
}
Curves = dict[str, list[tuple[int, float]]]  # seed -> points
Arms = dict[str, tuple[str, str]]  # arm -> colour and name


def named(suffix: str) -> Arms:
    """The arms of the blocks on equal terms; GPT-2's is the reference of both."""
    return {"reference" if block == "gpt2" else f"block={block}{suffix}": look for block, look in BLOCKS.items()}


COLUMNS = {  # title -> run, arms
    "Equal depth": ("dense", named("")),
    "Equal parameters": ("dense", named("@parameters")),
    "Sparse: one coordinate of three": ("sparse", named("")),
    "Attention alone: which projections are one": ("tied", TIED),
}
EXACT = {"least squares": (0, (4, 2)), "lasso": (0, (1, 1)), "Bayes": "solid"}  # estimators that need no training, and their dashes


def read(run: str, name: str, at: str) -> dict[str, Curves]:
    """Arm or estimator -> its curves."""
    found: dict[str, Curves] = {}
    with open(HERE / run / name, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["name"], {}).setdefault(row["seed"], []).append((int(row[at]), float(row["error"])))
    return found


def draw(axes: plt.Axes, curves: Curves, colour: str, label: str) -> None:
    for points in curves.values():
        axes.plot(*zip(*points, strict=True), color=colour, lw=0.7, alpha=0.35)
    places = [x for x, _ in next(iter(curves.values()))]
    means = [sum(points[i][1] for points in curves.values()) / len(curves) for i in range(len(places))]
    axes.plot(places, means, color=colour, lw=2.2, label=label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    figure, panels = plt.subplots(2, 4, figsize=(18, 7), sharey=True, sharex="row")
    for (above, below), (title, (run, arms)) in zip(panels.T, COLUMNS.items(), strict=True):
        steps, examples = read(run, "steps.csv", "step"), read(run, "curves.csv", "examples")
        for arm, (colour, label) in arms.items():
            draw(above, steps[arm], colour, label)
            draw(below, examples[arm], colour, label)
        for name, dashes in EXACT.items():
            if name in examples:
                below.plot(*zip(*examples[name][""], strict=True), color="0.45", lw=1.4, ls=dashes, label=name)
        above.set_title(title, loc="left", fontsize=12)
        above.set_xlabel("training step")
        below.set_xlabel("examples before the question")
    for axes in panels.flat:
        axes.axhline(1, color="0.6", lw=0.8, zorder=0)
        axes.set_ylim(0, 1.12)
        axes.spines[["top", "right"]].set_visible(False)
    for row in panels:
        row[0].set_ylabel("squared error / variance\n(1: nothing is learnt)")
    for axes in (panels[0, 0], panels[0, 3]):
        columns = 2 if axes is panels[0, 3] else 1
        axes.legend(frameon=False, fontsize=8, loc="lower left", ncols=columns, columnspacing=0.8, handlelength=1.4)
    lines, names = panels[1, 2].get_legend_handles_labels()
    panels[1, 2].legend(lines[-3:], names[-3:], frameon=False, fontsize=8, loc="lower right", ncols=3, columnspacing=0.8, handlelength=1.6)
    figure.tight_layout()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
