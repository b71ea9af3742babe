"""Learning curves: one panel per arm over the reference, and one for all trials of a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aotsearch.evidence.tables import Record
from aotsearch.report.data import Material
from aotsearch.report.figures.canvas import COLOURS, FAINT, INK, QUIET, empty, panels, style
from aotsearch.report.figures.names import cuts
from aotsearch.study.design import REFERENCE
from aotsearch.study.study import Study, loss_unit

MOST = 24  # panels

Band = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]  # steps, low, mean, high


def curves(m: Material) -> Figure:
    """One panel per arm: its mean learning curve over seeds with the band of all seeds, over the reference's in black.

    Shows the measure where it was evaluated often enough to draw a curve, else the training loss. Where learning rates were tuned, an
    arm is shown at its own; thin and dashed at the shared one. A trial that was pruned is in no mean: it is a dotted line that ends.
    """
    with style():
        shared, own = m.shown("shared"), m.shown(m.analysis.rate)
        tried = [r for r in m.records if r["phase"] == "search" and r["curve"]]
        key, label = _curve_key([r for by_seed in own.values() for r in by_seed.values()] or tried, m.study)
        bands = {arm: band for arm, by_seed in own.items() if (band := _band(by_seed.values(), key)) is not None}
        others = ([arm for arm in bands if arm != REFERENCE] or list(bands))[:MOST]
        if not bands and not tried:
            return empty("curves", "no learning curve yet")
        columns = 4 if len(others) > 2 else 2
        figure, grid = panels("curves", len(others) + bool(tried), columns, 1.75, 0.5, sharex=True, sharey=True)
        short = cuts([arm.split("@")[0] for arm in others], 27)
        drawn = list(bands.values()) or [band for r in tried if (band := _band([{**r, "outcome": "done"}], key)) is not None]
        if not drawn:
            return empty("curves", "no learning curve yet")
        figure.axes[0].set_ylim(*_sight(drawn))
        for i, axes in enumerate(grid):
            axes.tick_params(labelsize=8, labelbottom=i >= len(grid) - columns)
            if REFERENCE in bands:
                _draw_band(axes, bands[REFERENCE], INK, 1.2)
        for axes, arm in zip(grid, others, strict=False):
            if arm != REFERENCE:
                _draw_band(axes, bands[arm], COLOURS["worse"], 1.6)
            _ending(axes, own[arm].values(), key, COLOURS["worse"])
            before = _band(shared.get(arm, {}).values(), key) if len(m.modes) > 1 and arm != REFERENCE else None
            if before is not None and shared[arm] != own[arm]:
                axes.plot(before[0], before[2], color=COLOURS["worse"], lw=0.9, ls=(0, (3, 2)))
            plain, *equal = arm.split("@")
            axes.set_title("\n@".join([short[plain], *equal]), fontsize=9, loc="left", pad=3)
        if tried:
            _searched(grid[-1], tried, key)
        figure.supxlabel("training step", fontsize=9)
        figure.supylabel(label, fontsize=9)
        return figure


def _searched(axes: Axes, tried: Sequence[Record], key: str) -> None:
    pruned = [r for r in tried if r["outcome"] == "pruned"]
    for r in tried:
        if r["outcome"] != "pruned" and (band := _band([r], key)) is not None:
            axes.plot(band[0], band[2], color=FAINT, lw=0.8)
    _ending(axes, pruned, key, QUIET)
    said = f"; {len(pruned)} pruned early (\N{MULTIPLICATION SIGN})" if pruned else ""
    axes.set_title(f"search: {len(tried) - len(pruned)} trials{said}", fontsize=9, loc="left", pad=3)


def _ending(axes: Axes, records: Iterable[Record], key: str, colour: str) -> None:
    """Trials that were pruned, each a dotted line as far as it came, with a cross at its end."""
    for r in records:
        points = [(p["step"], p[key]) for p in r["curve"] if p.get(key) is not None] if r["outcome"] == "pruned" else []
        if points:
            axes.plot(*zip(*points, strict=True), color=colour, lw=0.9, ls=(0, (1, 2)))
            step, value = points[-1]
            axes.plot(step, min(value, axes.get_ylim()[1]), "x", color=colour, ms=4, clip_on=False)  # at the edge where it ends above it


def _curve_key(records: Sequence[Record], study: Study) -> tuple[str, str]:
    often = max((sum(study.task.measure in point for point in r["curve"]) for r in records), default=0)
    return (study.task.measure, f"validation, {study.task.unit}") if often >= 4 else ("train_loss", f"training loss, {loss_unit(study)}")


def _band(records: Iterable[Record], key: str) -> Band | None:
    """Mean and extremes over seeds at each step; a seed that diverged counts as far as it came, one that was pruned does not."""
    values: dict[int, list[float]] = {}
    for r in records:
        if r["outcome"] == "pruned":
            continue
        for point in r["curve"]:
            if point.get(key) is not None:
                values.setdefault(point["step"], []).append(point[key])
    steps = sorted(values)
    if not steps:
        return None
    rows = [(min(values[s]), float(np.mean(sorted(values[s]))), max(values[s])) for s in steps]
    low, mean, high = np.array(rows).T
    return np.array(steps), low, mean, high


def _draw_band(axes: Axes, band: Band, colour: str, width: float) -> None:
    steps, low, mean, high = band
    axes.fill_between(steps, low, high, color=colour, alpha=0.18, lw=0)
    axes.plot(steps, mean, color=colour, lw=width)


def _sight(bands: Iterable[Band]) -> tuple[float, float]:
    """Limits that leave out the first fall, which is alike for all arms, so that their differences can be seen."""
    lows, highs = [], []
    for steps, low, mean, _ in bands:
        late = steps >= 0.3 * steps.max()
        lows.append(low[late].min())
        highs.append(mean[late].max())
    bottom, top = min(lows), float(np.median(highs)) if len(highs) > 2 else max(highs)
    room = 0.08 * (top - bottom or 1)
    return bottom - room, top + 3 * room
