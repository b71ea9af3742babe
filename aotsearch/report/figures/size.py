"""The measure against what a model costs, with the front that no arm is below."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aotsearch.evidence.tables import measured
from aotsearch.report.data import Material
from aotsearch.report.figures.canvas import FAINT, INK, QUIET, WIDTH, blank, empty, label, mark, spread, style
from aotsearch.report.figures.names import cuts
from aotsearch.study.design import REFERENCE

COSTS = {"parameters": "parameters", "flops_per_token": "FLOPs per token, forward"}
MOST = 40  # labelled arms, the best first


def front(m: Material, cost: str = "parameters") -> Figure:
    """One labelled point per arm, the range over its seeds, and the Pareto front; `cost` is a key of COSTS.

    Where learning rates were tuned each arm is shown at its own.
    """
    with style():
        arms, searched = _points(m, cost), m.table[(m.table["phase"] == "search") & m.table[m.analysis.measure].notna()]
        if not len(arms):
            return empty(f"front-{cost}", "no finished trial yet")
        labelled = arms.sort_values("y", kind="stable").head(12 if len(arms) == len(searched) else MOST)
        figure = blank(f"front-{cost}", WIDTH, max(3.4, 0.6 + 0.24 * len(labelled)))
        axes = figure.add_subplot()
        _search(axes, searched[cost], searched[m.analysis.measure], searched["outcome"] == "pruned")
        _staircase(axes, arms)
        verdicts = {c.arm: c.verdict for c in m.analysis.contrasts if c.kind == "change" and c.asked}
        for arm, x, y, low, high in arms.itertuples():
            axes.plot([x, x], [low, high], color="#9A9A9A", lw=1, zorder=2)
            if arm == REFERENCE:
                axes.plot([x], [y], "*", ms=13, color=INK, zorder=5)
            elif arm in verdicts:
                mark(axes, x, y, verdicts[str(arm)])
            else:
                axes.plot([x], [y], "o", ms=6, color=QUIET, zorder=4)
        axes.margins(x=0.06, y=0.08)
        axes.set_xlabel(COSTS[cost], fontsize=9)
        axes.set_ylabel(f"{m.analysis.measure.replace('_', ' ')}, {m.analysis.unit}", fontsize=9)
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        _labels(axes, labelled)
        return figure


def _points(m: Material, cost: str) -> pd.DataFrame:
    """Arm -> x, y, low, high over its seeds; of a search that is not confirmed, its trials."""
    rows: dict[str, tuple[float, ...]] = {}
    for arm, by_seed in m.shown(m.analysis.rate).items():
        values = [v for r in by_seed.values() if r["outcome"] == "done" and (v := measured(r, m.study)) is not None]
        if values:
            rows[arm] = (next(iter(by_seed.values()))[cost], sum(values) / len(values), min(values), max(values))
    if not rows:
        for r in m.records:
            if r["phase"] == "search" and r["outcome"] == "done" and (v := measured(r, m.study)) is not None:
                rows[r["arm"]] = (r[cost], v, v, v)
    return pd.DataFrame.from_dict(rows, orient="index", columns=["x", "y", "low", "high"])


def _search(axes: Axes, x: pd.Series[float], y: pd.Series[float], pruned: pd.Series[bool]) -> None:
    """The trials of a search behind the arms; crosses are those pruned early, whose measure is of a part of the training."""
    axes.plot(x[~pruned], y[~pruned], "o", ms=4, color=FAINT, zorder=1, label="search, finished")
    if pruned.any():
        axes.plot(x[pruned], y[pruned], "x", ms=5, color=QUIET, zorder=1, label="search, pruned early")
        axes.legend(loc="upper right", frameon=False, fontsize=8)


def _staircase(axes: Axes, arms: pd.DataFrame) -> None:
    best = arms.sort_values(["x", "y"])
    best = best[best["y"] <= best["y"].cummin()]
    axes.step(best["x"], best["y"], where="post", color="#8A8A8A", lw=1.1, ls="--", zorder=1)


def _labels(axes: Axes, arms: pd.DataFrame) -> None:
    """Labels in a column at the right, as near to their points' heights as they fit, each with a line to its point."""
    low, high = axes.get_ylim()
    ordered = arms.sort_values("y")
    wanted = (ordered["y"].to_numpy() - low) / (high - low)
    short = cuts(map(str, arms.index), 40)
    for place, (arm, x, y, *_) in zip(spread(wanted, 1 / max(12, len(arms))), ordered.itertuples(), strict=True):
        weight = "bold" if arm == REFERENCE else "normal"
        label(axes, short[str(arm)], (x, y), 1.03, place, fontsize=9, fontweight=weight, zorder=1)


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:g}"
