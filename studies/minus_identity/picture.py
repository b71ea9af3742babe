"""What the coefficient of the identity is worth, with an MLP and without one, over corpora and budgets: from the records of the runs.

    python studies/minus_identity/picture.py --out studies/minus_identity/sign.png

Every dot is a seed: the loss with a coefficient minus the loss of plain attention under the same seed, both with the same channel mixer.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RUNS = {"tinyshakespeare": "tinyshakespeare", "stdlib": "Python sources"}
BUDGETS = (250, 750)
VARIANTS = {"-1": ("#9A3B76", "attention - identity"), "1": ("#0072B2", "attention + identity"), "learned": ("#1B8A5A", "learned, from 0")}
CHANNELS = {"mlp": "With an MLP (4 layers)", "none": "Attention alone, equal parameters (12 layers)"}


def losses(run: str) -> dict[tuple[str, str], dict[int, float]]:
    """(identity, channel) -> seed -> bits per byte."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    with open(HERE / run / "trials.csv", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["identity"], row["channel"]), {})[int(row["seed"])] = float(row["bits_per_byte"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.4), sharey=True)
    runs = [(f"{corpus}-{steps}", f"{title}\n{steps} steps") for corpus, title in RUNS.items() for steps in BUDGETS]
    for axes, (channel, title) in zip(panels, CHANNELS.items(), strict=True):
        for place, (run, _) in enumerate(runs):
            values = losses(run)
            plain = values["0", channel]
            for shift, (identity, (colour, _)) in zip((-0.22, 0, 0.22), VARIANTS.items(), strict=True):
                d = [values[identity, channel][seed] - plain[seed] for seed in plain]
                axes.plot([place + shift] * len(d), d, "o", ms=3.5, color=colour, alpha=0.45, mew=0)
                axes.plot([place + shift - 0.09, place + shift + 0.09], [sum(d) / len(d)] * 2, color=colour, lw=2.6, solid_capstyle="butt")
        axes.axhline(0, color="black", lw=0.9)
        axes.set_xticks(range(len(runs)), [name for _, name in runs], fontsize=8)
        axes.set_title(title, loc="left", fontsize=11)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(axis="x", length=0)
    panels[0].set_ylabel("bits per byte against plain attention\n(below zero is better)")
    handles = [plt.Line2D([], [], color=colour, lw=2.6, label=label) for colour, label in VARIANTS.values()]
    panels[0].legend(handles=handles, frameon=False, fontsize=9, loc="lower left")
    figure.tight_layout()
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
