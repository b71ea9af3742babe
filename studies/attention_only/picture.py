"""Every block at equal depth, parameters and FLOPs, and after the same time of training: from the records of the runs.

    python studies/attention_only/picture.py --out studies/attention_only/blocks.png --time studies/attention_only/time.png

Each block is at its own learning rate. In the first picture every dot is a seed on the validation split, the bar their mean; the line and
its band are the reference, from its worst seed to its best. In the second, lines are 95 % intervals.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import matplotlib.pyplot as plt

HERE = Path(__file__).parent
RUNS = {
    "language": ("bits_per_byte", "bits per byte", "Language, against GPT-2's block"),
    "vision": ("loss", "nats per image", "Digits, against ViT's block"),
}
BLOCKS = {"aot-mhsa": ("#0072B2", "AoT-MHSA"), "aot-mssa": ("#C44E00", "AoT-MSSA"), "crate": ("#1B8A5A", "CRATE")}
SHORTER = {  # which run of the reference took as long as a block
    "language": {"aot-mhsa": "equal-time-165", "aot-mssa": "equal-time-140", "crate": "equal-time-165"},
    "vision": dict.fromkeys(BLOCKS, "equal-time-97"),
}
TERMS = {"": "equal depth", "@parameters": "equal parameters", "@flops": "equal FLOPs"}


def losses(run: str, measure: str) -> dict[str, dict[float, list[float]]]:
    """Arm -> learning rate -> the loss of every seed; an arm that is another's model is listed with it."""
    found: dict[str, dict[float, list[float]]] = {}
    with open(HERE / run / "trials.csv", newline="") as file:
        for row in csv.DictReader(file):
            if row["phase"] == "design" and row[measure]:
                for arm in [row["arm"], *row["same_as"].split()]:
                    found.setdefault(arm, {}).setdefault(float(row["learning_rate"]), []).append(float(row[measure]))
    return found


def difference(folder: str, block: str) -> tuple[float, float, float]:
    """Of a block to the reference at the block's own learning rate: mean and interval."""
    with open(HERE / folder / "contrasts.csv", newline="") as file:
        found = next(r for r in csv.DictReader(file) if r["arm"] == f"block={block}" and r.get("learning_rate", "tuned") == "tuned")
    return float(found["difference"]), float(found["low"]), float(found["high"])


def after_the_same_time(out: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.4), layout="constrained")
    for axes, (run, (_, unit, title)) in zip(panels, RUNS.items(), strict=True):
        for place, (block, (colour, _)) in enumerate(BLOCKS.items()):
            for shift, folder, style in ((-0.13, f"decided-{run}", "o"), (0.13, SHORTER[run][block], "s")):
                middle, low, high = difference(folder, block)
                axes.plot([low, high], [place + shift] * 2, color=colour, lw=2.6, solid_capstyle="butt")
                axes.plot(middle, place + shift, style, color=colour, ms=7, mfc=colour if style == "o" else "white", mew=1.8)
        axes.axvline(0, color="black", lw=0.9)
        axes.set_yticks(range(len(BLOCKS)), [label for _, label in BLOCKS.values()])
        axes.invert_yaxis()
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_xlabel(f"{unit} (below zero is better)")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    handles = [plt.Line2D([], [], color="0.3", lw=2, marker="o", label="after the same number of steps")]
    handles += [plt.Line2D([], [], color="0.3", lw=2, marker="s", mfc="white", mew=1.8, label="after the same time")]
    figure.legend(handles=handles, frameon=False, fontsize=9, loc="outside lower center", ncols=2)
    figure.savefig(out, dpi=150)


def blocks(out: Path) -> None:
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.2))
    for axes, (run, (measure, unit, title)) in zip(panels, RUNS.items(), strict=True):
        found = losses(run, measure)
        ((shared, reference),) = found["reference"].items()
        axes.axhspan(min(reference), max(reference), color="black", alpha=0.12, lw=0)
        axes.axhline(sum(reference) / len(reference), color="black", lw=1.2)
        for place, suffix in enumerate(TERMS):
            for shift, (block, (colour, _)) in zip((-0.22, 0, 0.22), BLOCKS.items(), strict=True):
                by_rate = found[f"block={block}{suffix}"]
                own = [rate for rate in by_rate if rate != shared] or [shared]  # the shared rate is trained too, where its own is another
                values = by_rate[own[0]]
                axes.plot([place + shift] * len(values), values, "o", ms=3.5, color=colour, alpha=0.45, mew=0)
                mean = sum(values) / len(values)
                axes.plot([place + shift - 0.09, place + shift + 0.09], [mean, mean], color=colour, lw=2.6, solid_capstyle="butt")
        axes.set_xticks(range(len(TERMS)), list(TERMS.values()))
        axes.set_title(title, loc="left", fontsize=11)
        axes.set_ylabel(unit)
        axes.spines[["top", "right", "bottom"]].set_visible(False)
        axes.tick_params(axis="x", length=0)
    handles = [plt.Line2D([], [], color="black", lw=1.2, label="the reference")]
    handles += [plt.Line2D([], [], color=colour, lw=2.6, label=label) for colour, label in BLOCKS.values()]
    panels[0].legend(handles=handles, frameon=False, fontsize=9, loc="upper left")
    figure.tight_layout()
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--time", type=Path, required=True)
    given = parser.parse_args()
    blocks(given.out)
    after_the_same_time(given.time)


if __name__ == "__main__":
    main()
