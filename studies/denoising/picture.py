"""Where the law ends, over depth and noise: from the reports of one run per level of noise.

    for d in 0.02 0.05 0.1 0.15 0.2 0.3; do aotsearch run studies/denoising/law.yaml --local --out runs/noise-$d \
        --set task.denoise.noise=$d --set 'grammar.score={threshold: {tau: 0.501}}' --set study.seeds=2; done
    python studies/denoising/picture.py runs/noise-* --out studies/denoising/noise.png
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

from aotsearch.study.loading import load

PREDICTED = 1 + 0.1 * 0.501


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4))
    runs = sorted((float(load(run / "study.yaml").task.noise), run) for run in a.runs)
    for i, (noise, run) in enumerate(runs):
        colour = plt.get_cmap("viridis")(0.9 * i / max(1, len(runs) - 1))
        with open(run / "report" / "diagnostics.csv") as file:
            rows = [r for r in csv.DictReader(file) if r["arm"] == "reference" and r["layer"].isdigit()]
        ratio = [float(r["mean"]) for r in rows if r["diagnostic"] == "snr"]
        gain = [float(r["mean"]) for r in rows if r["diagnostic"] == "snr-gain"]
        left.plot(range(len(ratio)), ratio, color=colour)
        right.plot(range(1, len(gain) + 1), gain, color=colour, label=f"noise {noise:g}")
    left.set(yscale="log", xlabel="layer", ylabel="signal-to-noise ratio", title="Tokens read by each layer")
    right.axhline(PREDICTED, color="black", lw=0.8, ls=":")
    right.set(xlabel="layer", ylabel="gain of a layer", title=f"The more noise, the sooner the law ends (dotted: {PREDICTED:.4f})")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(a.out, dpi=150)


if __name__ == "__main__":
    main()
