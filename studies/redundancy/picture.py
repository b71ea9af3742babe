"""Which verdicts on the parts of a block transfer over tasks and sizes: from the records of the four runs.

    python studies/redundancy/picture.py --out studies/redundancy/transfer.png

A bar is the 95 % interval of an effect, which hold at once within a run; its colour is the verdict.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RUNS = {
    "text-small": "Text, width 32",
    "text-large": "Text, width 64",
    "images-small": "Images, width 32",
    "images-large": "Images, width 64",
}
UNITS = {"text": "bits per byte", "images": "nats per image"}
COLOURS = {"worse": "#C44E00", "better": "#0072B2", "equivalent": "#1B8A5A", "undecided": "0.6"}
NAMES = {"channel=none": "no MLP", "norm=none": "no norm", "identity=-1": "minus identity", "qkv=tied": "one projection"}


def named(arm: str) -> str:
    """An effect in words."""
    for decision, name in NAMES.items():
        arm = arm.replace(decision, name)
    return arm.removeprefix("main effect of ").replace(" x ", "\nx ")


def effects(run: str) -> dict[str, dict[str, str]]:
    """Effect -> its row of the contrasts, of main effects and interactions in their order."""
    with open(HERE / run / "contrasts.csv", newline="") as file:
        return {named(r["arm"]): r for r in csv.DictReader(file) if r["kind"] in ("main", "interaction")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    names = list(effects(next(iter(RUNS))))
    figure, panels = plt.subplots(1, len(RUNS), figsize=(12, 6), sharey=True)
    for axes, (run, title) in zip(panels, RUNS.items(), strict=True):
        found = effects(run)
        for place, name in enumerate(names):
            row = found[name]
            low, middle, high = (float(row[k]) for k in ("low", "difference", "high"))
            colour = COLOURS[row["verdict"]]
            axes.plot([low, high], [place] * 2, color=colour, lw=3, solid_capstyle="butt")
            axes.plot(middle, place, "o", color=colour, ms=6)
        axes.axvline(0, color="black", lw=0.9)
        axes.axhline(len(NAMES) - 0.5, color="0.85", lw=0.8)
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(UNITS[run.partition("-")[0]])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(names)), names, fontsize=9)
    panels[0].invert_yaxis()
    handles = [plt.Line2D([], [], color=colour, lw=3, label=verdict) for verdict, colour in COLOURS.items()]
    figure.legend(handles=handles, frameon=False, fontsize=9, ncols=4, loc="lower right")
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
