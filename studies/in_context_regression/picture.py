"""Whether a block learns in context: when it leaves the plateau, and its error against the number of examples; from the records of the run.

    python studies/in_context_regression/picture.py --out studies/in_context_regression/examples.png

A thin line is a seed, a thick one their mean. Above: the error while training, averaged over a prompt. Below: at its end, on tests.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RUN = "dense"
BLOCKS = {
    "reference": ("black", "GPT-2"),
    "block=aot-mhsa": ("#0072B2", "AoT-MHSA"),
    "block=aot-mssa": ("#C44E00", "AoT-MSSA"),
    "block=crate": ("#1B8A5A", "CRATE"),
}
TERMS = {"": "Equal depth", "@parameters": "Equal parameters"}
Lines = dict[str, dict[str, list[tuple[int, float]]]]


def read(name: str, at: str) -> Lines:
    """Arm or estimator -> seed -> points."""
    found: Lines = {}
    with open(HERE / RUN / name, newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault(row["name"], {}).setdefault(row["seed"], []).append((int(row[at]), float(row["error"])))
    return found


def draw(axes: plt.Axes, lines: dict[str, list[tuple[int, float]]], colour: str, label: str) -> None:
    for points in lines.values():
        axes.plot(*zip(*points, strict=True), color=colour, lw=0.7, alpha=0.35)
    places = [x for x, _ in next(iter(lines.values()))]
    means = [sum(points[i][1] for points in lines.values()) / len(lines) for i in range(len(places))]
    axes.plot(places, means, color=colour, lw=2.2, label=label)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    steps, examples = read("steps.csv", "step"), read("curves.csv", "examples")
    figure, panels = plt.subplots(2, 2, figsize=(10, 7), sharey=True, sharex="row")
    for column, (suffix, title) in zip(panels.T, TERMS.items(), strict=True):
        for arm, (colour, label) in BLOCKS.items():
            name = arm if arm == "reference" else arm + suffix
            draw(column[0], steps[name], colour, label)
            draw(column[1], examples[name], colour, label)
        exact = examples["least squares"][""]
        column[1].plot(*zip(*exact, strict=True), color="#9A3B76", lw=1.4, ls=(0, (4, 2)), label="least squares, which is Bayes' rule here")
        column[0].set_title(title, loc="left", fontsize=12)
        column[0].set_xlabel("training step")
        column[1].set_xlabel("examples before the question")
    for axes in panels.flat:
        axes.axhline(1, color="0.6", lw=0.8, zorder=0)
        axes.set_ylim(0, 1.12)
        axes.spines[["top", "right"]].set_visible(False)
    for row in panels:
        row[0].set_ylabel("squared error / variance\\n(1: nothing is learnt)")
    panels[1, 0].legend(frameon=False, fontsize=9, loc="lower left")
    figure.tight_layout()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
