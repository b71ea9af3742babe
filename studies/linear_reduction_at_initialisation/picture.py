"""The picture: the tokens of one set as the untrained block is applied, and over the steps the bound, the angles and the impurity.

python studies/linear_reduction_at_initialisation/picture.py runs/digits
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from steps import Array, trace  # beside this file

from aotsearch.models.model import build
from aotsearch.study.loading import load

HERE = Path(__file__).parent
SHOWN = "block=derived-masked"
TIMES = (0, 1, 2, 4, 8)
ARMS = {
    "block=masked": ("#4c72b0", "attention (the author's code)"),
    "block=minus-masked": ("#dd8452", "attention minus identity"),
    SHOWN: ("#2a8c55", "both steps of the derivation"),
    "block=sparse": ("#8c6bb1", "sparsemax attention"),
}


def rows(path: Path) -> dict[tuple[str, str], Array]:
    """(quantity, arm) -> step, mean, low, high."""
    found: dict[tuple[str, str], list[list[float]]] = {}
    with open(path, newline="") as file:
        for r in csv.DictReader(file):
            found.setdefault((r["diagnostic"], r["arm"]), []).append([float(r[k]) for k in ("layer", "mean", "low", "high")])
    return {key: np.array(values).T for key, values in found.items()}


def plane(tokens: Array) -> Array:
    """The two leading principal coordinates, in units of the spread along the first."""
    left, values, _ = np.linalg.svd(tokens - tokens.mean(0), full_matrices=False)
    return left[:, :2] * values[:2] / (left[:, 0] * values[0]).std()


def scatter(axes: list[plt.Axes], run: Path) -> None:
    """The tokens of the first seed at some steps, in colours of their digits."""
    study = load(run / "study.yaml")
    pixels, labels = study.task.validation(0)
    streams, _ = trace(build(study.arm(SHOWN).architecture, 0), torch.from_numpy(pixels[0]))
    last = None
    for ax, t in zip(axes, TIMES, strict=True):
        points = plane(streams[t])
        if last is not None:  # principal directions have no sign
            points = points * np.sign((points * last).sum(0))
        last = points
        for digit in range(10):
            own = points[labels[0] == digit]
            ax.scatter(*own.T, s=7, color=plt.get_cmap("tab10")(digit), linewidths=0, alpha=0.75)
            ax.annotate(str(digit), np.median(own, 0), ha="center", va="center", fontsize=9, fontweight="bold")
        ax.set(xticks=[], yticks=[], aspect="equal", xlim=(-3, 3), ylim=(-3, 3))
        ax.set_title("as projected" if t == 0 else f"after {t} step{'s' * (t > 1)}", fontsize=10)
    axes[0].set_ylabel("images of digits, one token each", fontsize=9)


def curve(ax: plt.Axes, found: dict[tuple[str, str], Array], quantity: str, arms: list[str], style: str = "-", band: bool = True) -> None:
    for arm in arms:
        step, mean, low, high = found[quantity, arm]
        ax.plot(step, mean, style, color=ARMS[arm][0], marker="o" if style == "-" else None, ms=3, label=ARMS[arm][1])
        if band:
            ax.fill_between(step, low, high, color=ARMS[arm][0], alpha=0.15, linewidth=0)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    a = parser.parse_args()
    found = rows(HERE / "digits-steps" / "diagnostics.csv")
    figure = plt.figure(figsize=(13, 7))
    above = figure.add_gridspec(1, 5, left=0.06, right=0.99, bottom=0.53, top=0.91, wspace=0.06)
    below = figure.add_gridspec(1, 3, left=0.06, right=0.99, bottom=0.07, top=0.46, wspace=0.27)
    figure.suptitle(
        "An untrained block with both steps of the derivation first pulls classes together, then mixes them", y=0.985, fontsize=12
    )
    scatter([figure.add_subplot(cell) for cell in above], a.run)
    bound, angles, purity = (figure.add_subplot(cell) for cell in below)

    curve(bound, found, "bound-change", list(ARMS)[:3])
    bound.axhline(0, color="black", lw=0.8)
    bound.set(title="Only both steps together go on descending the bound", xlabel="step", ylabel="change of the bound, nats per token")
    bound.legend(frameon=False, fontsize=8, loc="lower right", title="without self-edges", title_fontsize=8, alignment="left")

    curve(angles, found, "angle-pca", list(ARMS)[:3], "--")
    curve(angles, found, "angle-eigenmaps", list(ARMS)[:3])
    angles.set(title="Away from PCA, towards Laplacian eigenmaps", xlabel="step", ylabel="overlap of the ten leading directions")
    angles.plot([], [], "-", color="black", label="with Laplacian eigenmaps")
    angles.plot([], [], "--", color="black", label="with PCA")
    angles.legend(*(x[-2:] for x in angles.get_legend_handles_labels()), frameon=False, fontsize=8, loc="lower left")

    curve(purity, found, "impurity", list(ARMS), band=False)
    for name in ("pixels", "PCA", "Laplacian eigenmaps"):
        level = found["impurity", name][1][0]
        purity.plot([0, 8.2], [level, level], color="grey", lw=0.8, ls=":")
        purity.annotate(name.replace(" ", "\n"), (8.3, level), fontsize=8, color="grey", va="center")
    purity.set(
        title="Two steps help, eight are too many",
        xlabel="step",
        ylabel="share of neighbours of another digit",
        xlim=(-0.3, 10.2),
        xticks=range(9),
    )
    purity.legend(
        *(x[3:] for x in purity.get_legend_handles_labels()), frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0.05, 0.12)
    )
    for ax in (bound, angles, purity):
        ax.tick_params(labelsize=8)
        ax.xaxis.label.set_fontsize(9)
        ax.yaxis.label.set_fontsize(9)
        ax.spines[["top", "right"]].set_visible(False)
        ax.title.set_fontsize(10)
    figure.savefig(HERE / "steps.png", dpi=150)


if __name__ == "__main__":
    main()
