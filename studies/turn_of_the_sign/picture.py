"""What subtracting the identity is worth, over width and budget, with an MLP and without one: from the records of the runs.

python studies/turn_of_the_sign/picture.py --out studies/turn_of_the_sign/map.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.ticker import NullLocator

HERE = Path(__file__).parent
BUDGETS = (50, 160, 500, 1600)
WIDTHS = {32: "#E69F00", 64: "#0072B2", 128: "#9A3B76"}
PANELS = {
    "identity=-1@parameters": "Beside an MLP (2 layers)",
    "alone, minus identity against alone": "Attention alone, equal parameters (6 layers)",
}


def effects(width: int, contrast: str) -> list[tuple[int, float, float, float]]:
    """(budget, difference, low, high) of a contrast at a width, of the budgets that were run."""
    found = []
    for steps in BUDGETS:
        path = HERE / f"{width}-{steps}" / "contrasts.csv"
        if not path.exists():
            continue
        with open(path, newline="") as file:
            row = next(r for r in csv.DictReader(file) if r["arm"] == contrast)
        found.append((steps, float(row["difference"]), float(row["low"]), float(row["high"])))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    for axes, (contrast, title) in zip(panels, PANELS.items(), strict=True):
        for shift, (width, colour) in zip((0.93, 1, 1.075), WIDTHS.items(), strict=True):
            steps, d, low, high = zip(*effects(width, contrast), strict=True)
            at = [s * shift for s in steps]
            axes.vlines(at, low, high, color=colour, lw=1.8)
            axes.plot(at, d, "o-", color=colour, ms=5, lw=1.4, label=f"width {width}")
        axes.axhline(0, color="black", lw=0.9)
        axes.set_xscale("log")
        axes.set_xticks(BUDGETS, [str(s) for s in BUDGETS])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("training steps")
        axes.set_title(title, loc="left", fontsize=11)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("minus identity against plain attention\nbits per byte (below zero is better)")
    panels[1].legend(frameon=False, fontsize=9, loc="lower right")
    figure.tight_layout()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
