"""What the coefficient of the identity is worth in a small vision transformer, and under each control: from the records of the runs.

    python studies/minus_identity_vision/picture.py --out studies/minus_identity_vision/vision.png

Bars are 95 % intervals, which hold at once within a run. Left, two data sets, every arm at its own learning rate; right, at one rate.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
COLOURS = {"mlp": "#0072B2", "none": "#9A3B76"}
CHANNELS = {"mlp": "with an MLP", "none": "attention alone"}
RUNS = {"digits": "Digits", "fashion": "Fashion-MNIST"}
LEVELS = {  # beside an MLP, and alone
    "minus identity": ("identity=-1", "alone, minus identity against alone"),
    "plus identity": ("identity=1", "alone, plus identity against alone"),
    "learned, from 0": ("identity=learned", "alone, learned against alone"),
}
CONTROLS = {
    "identity=-1": "no control",
    "no self, minus identity against masked=True": "a token does not see itself",
    "map dropped, minus identity against dropped=0.2": "the map is dropped, the identity not",
    "zero output, minus identity against start=zero-output": "zero output at the start",
    "post-norm, minus identity against place=post": "norm after the sublayer",
    "linear beside, minus identity against beside=linear": "a linear map beside attention",
}
Interval = tuple[float, float, float]


def intervals(run: str, rate: str) -> dict[str, Interval]:
    """Contrast -> (difference, low, high)."""
    with open(HERE / run / "contrasts.csv", newline="") as file:
        rows = [r for r in csv.DictReader(file) if r["learning_rate"] == rate]
    return {r["arm"]: (float(r["difference"]), float(r["low"]), float(r["high"])) for r in rows}


def bar(axes: plt.Axes, place: float, found: Interval, colour: str) -> None:
    middle, low, high = found
    axes.plot([low, high], [place] * 2, color=colour, lw=2.6, solid_capstyle="butt")
    axes.plot(middle, place, "o", color=colour, ms=6)


def dress(axes: plt.Axes, labels: list[str], title: str) -> None:
    axes.axvline(0, color="black", lw=0.9)
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.invert_yaxis()
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("nats per image (below zero is better)")
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    figure, panels = plt.subplots(1, 3, figsize=(13, 4.2), sharex=True, layout="constrained")
    for axes, (run, name) in zip(panels, RUNS.items(), strict=False):
        found = intervals(run, "tuned")
        for place, contrasts in enumerate(LEVELS.values()):
            for shift, contrast, colour in zip((-0.15, 0.15), contrasts, COLOURS.values(), strict=True):
                bar(axes, place + shift, found[contrast], colour)
        dress(axes, [*LEVELS], f"{name}, against plain attention")
    panels[1].set_yticklabels([])
    found = intervals("controls", "shared")
    for place, contrast in enumerate(CONTROLS):
        bar(panels[2], place, found[contrast], COLOURS["mlp"])
    dress(panels[2], [*CONTROLS.values()], "Digits, minus identity controlled")
    handles = [plt.Line2D([], [], color=COLOURS[c], lw=2.6, label=name) for c, name in CHANNELS.items()]
    panels[1].legend(handles=handles, frameon=False, fontsize=9, loc="center left")
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
