"""Diagnostics along the depth of the models: one panel each, the reference in black, the arms that differ most in colour."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aotsearch.evidence.layers import Point, Profile
from aotsearch.report.figures.canvas import FAINT, INK, LINES, label, panels, spread, style
from aotsearch.report.figures.names import cuts
from aotsearch.study.design import REFERENCE

NAMED = len(LINES)  # arms in colour
PLACES = 12  # a tick for each of at most so many layers
WIDE = 100  # times the smallest value that the largest may be on a linear scale


def depths(profiles: Sequence[Profile]) -> Figure | None:
    """A panel per diagnostic; None where none was measured.

    Arms of another depth are drawn over the same width, so that the first and last layers of all stand above each other.
    """
    shown = [p for p in profiles if any(p.arms.values())]
    if not shown:
        return None
    with style():
        figure, grid = panels("depth", len(shown), 2, 2.25, 0.3)
        for axes, profile in zip(grid, shown, strict=True):
            _panel(axes, profile)
        return figure


def _panel(axes: Axes, profile: Profile) -> None:
    far = _farthest(profile)
    plain = [arm for arm in profile.arms if arm not in far and arm != REFERENCE]
    for arm in plain:
        x, points = _along(profile, arm)
        axes.plot(x, [p.mean for p in points], color=FAINT, lw=0.9, zorder=1)
    for arm, (colour, dashes) in zip(far, LINES, strict=False):
        _draw(axes, profile, arm, colour, dashes, 1.5)
    if REFERENCE in profile.arms:
        _draw(axes, profile, REFERENCE, INK, "-", 1.8)
    stream = profile.about is not None and profile.about.per_point
    there = profile.arms.get(REFERENCE) or max(profile.arms.values(), key=len)
    if len(there) <= PLACES:
        axes.set_xticks(_places(len(there)), ["in" if stream and p.place == 0 else str(p.place + (not stream)) for p in there])
    else:
        axes.set_xticks([0, 0.5, 1], ["first", "middle", "last"])
    axes.set_xlim(-0.04, 1.04)
    sizes = [p.mean for points in profile.arms.values() for p in points]
    if min(sizes) > 0 and max(sizes) > WIDE * min(sizes):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.margins(y=0.08)
    axes.tick_params(labelsize=8)
    unit = f", {profile.about.unit}" if profile.about is not None and profile.about.unit else ""
    axes.set_title(f"{profile.name.replace('-', ' ')}{unit}", fontsize=9.5, loc="left", pad=4)
    axes.set_xlabel("after sublayer" if stream else "sublayer", fontsize=8)
    _ends(axes, profile, [REFERENCE] * (REFERENCE in profile.arms) + far)


def _farthest(profile: Profile) -> list[str]:
    """The arms that differ from the reference, by how many half widths of the interval; the most first."""

    def distance(points: Sequence[Point]) -> float:
        known = [p for p in points if p.differs and p.difference is not None and p.above is not None]
        return max((abs(p.difference or 0) / max((p.above or 0) - (p.difference or 0), 1e-12) for p in known), default=0.0)

    scored = {arm: distance([*points, profile.whole[arm]]) for arm, points in profile.arms.items() if arm != REFERENCE}
    return sorted((arm for arm, d in scored.items() if d > 0), key=lambda arm: (-scored[arm], arm))[:NAMED]


def _places(depth: int) -> list[float]:
    return [float(x) for x in np.linspace(0, 1, depth)] if depth > 1 else [0.5]


def _along(profile: Profile, arm: str) -> tuple[list[float], Sequence[Point]]:
    """The layers that have the quantity, evenly from the first to the last: the k-th stands above the k-th of the reference."""
    points = profile.arms[arm]
    return _places(len(points)), points


def _draw(axes: Axes, profile: Profile, arm: str, colour: str, dashes: object, width: float) -> None:
    x, points = _along(profile, arm)
    low = [p.mean if p.low is None else p.low for p in points]
    high = [p.mean if p.high is None else p.high for p in points]
    axes.fill_between(x, low, high, color=colour, alpha=0.15, lw=0)
    axes.plot(x, [p.mean for p in points], color=colour, ls=dashes, lw=width, zorder=3)
    axes.plot(x, [p.mean for p in points], "o", color=colour, ms=3, zorder=3)
    there = [(a, p.mean) for a, p in zip(x, points, strict=True) if p.differs]
    axes.plot([a for a, _ in there], [b for _, b in there], "o", ms=7, mfc="none", mec=colour, mew=1.1, zorder=4)


def _ends(axes: Axes, profile: Profile, arms: Sequence[str]) -> None:
    """Names at the right ends of their lines, moved apart where they would overlap."""
    colours = {REFERENCE: INK, **dict(zip([a for a in arms if a != REFERENCE], (c for c, _ in LINES), strict=False))}
    last = sorted((profile.arms[arm][-1].mean, arm) for arm in arms if profile.arms[arm])
    if not last:
        return
    short = cuts(arms, 24)
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = np.array([to_axes.transform((1, y))[1] for y, _ in last])
    for place, (y, arm) in zip(spread(wanted, 0.12), last, strict=True):
        point = _along(profile, arm)[0][-1], y
        weight = "bold" if arm == REFERENCE else "normal"
        label(axes, short[arm], point, 1.06, place, fontsize=8, color=colours[arm], fontweight=weight)
