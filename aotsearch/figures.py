"""Tables -> pictures; the only file that imports a plotting library.

    forest(analysis), curves(records, study), front(analysis, table) -> Figure;  to_svg(figure) -> str, to_png(figure) -> bytes

Figures are made through the object interface, so no display and no global state is touched, and the same records give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aotsearch.analysis import Analysis, Contrast, Record
from aotsearch.design import REFERENCE
from aotsearch.study import Study
from aotsearch.summary import bounds, number

# Wong's palette (Nature Methods 8:441, 2011), told apart by colour-blind readers; each verdict has its own marker as well
COLOURS = {"necessary": "#D55E00", "redundant": "#0072B2", "harmful": "#9A3B76", "undecided": "#6B6B6B"}
MARKERS = {"necessary": "o", "redundant": "s", "harmful": "D", "undecided": "o"}
INK, QUIET, BAND = "#1B1B1B", "#6B6B6B", "#E3EEF6"
STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "aotsearch",
    "text.parse_math": False,
    "font.size": 10,
    "axes.edgecolor": "#9A9A9A",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "xtick.color": QUIET,
    "ytick.color": QUIET,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Our style over matplotlib's defaults, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def _figure(name: str, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", label=name)
    FigureCanvasAgg(figure)
    return figure


def _empty(name: str, message: str) -> Figure:
    figure = _figure(name, 8, 1.2)
    figure.text(0.5, 0.5, message, ha="center", va="center", color=QUIET)
    return figure


# ---- effects


def forest(analysis: Analysis) -> Figure:
    """Each contrast with its simultaneous interval; the margin is the shaded band, right of zero is worse without the part."""
    with _style():
        contrasts = analysis.contrasts
        if not contrasts:
            return _empty("forest", "no contrast yet")
        figure = _figure("forest", 9.2, 0.8 + 0.34 * len(contrasts))
        axes, words = figure.subplots(1, 2, sharey=True, width_ratios=(5.2, 3.4))
        words.set_xlim(0, 1)
        words.axis("off")
        axes.axvspan(-analysis.margin, analysis.margin, color=BAND, lw=0, zorder=0)
        axes.axvline(0, color=INK, lw=0.9, zorder=1)
        bent = _scale(axes, contrasts, analysis.margin)
        for row, c in enumerate(contrasts):
            if row % 2 == 0:
                for side in (axes, words):
                    side.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.025, lw=0, zorder=0)
            _effect(axes, row, c)
            _words(words, row, c, analysis.digits)
        axes.set_yticks(range(len(contrasts)), [c.label for c in contrasts])
        axes.set_ylim(len(contrasts) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, pad=8)
        axes.tick_params(axis="x", labelsize=9)
        axes.spines["left"].set_visible(False)
        shown = f"{analysis.unit} above the reference; right is worse; shaded: the margin of {analysis.margin:g}"
        axes.set_xlabel(shown + ("\nlogarithmic beyond four margins" if bent else ""), fontsize=9)
        return figure


def _scale(axes: Axes, contrasts: Sequence[Contrast], margin: float) -> bool:
    """Limits that show every interval; a large effect must not squeeze the margin to a line, so beyond 25 margins the axis bends."""
    ends = [margin * 1.5, -margin * 1.5]
    for c in contrasts:
        ends += [v for v in (c.difference, c.low, c.high) if v is not None]
    low, high = min(ends), max(ends)
    bent = max(-low, high) > 25 * margin
    if bent:
        axes.set_xscale("symlog", linthresh=4 * margin, linscale=1)
        axes.set_xlim(low * 1.3, high * 1.3)
        knee = 4 * margin
        powers = [sign * 10.0**k for k in range(-6, 7) for sign in (1, -1) if 10.0**k > 1.6 * knee]
        axes.set_xticks([x for x in (0, knee, -knee, *powers) if low * 1.3 <= x <= high * 1.3])
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        room = 0.04 * (high - low)
        axes.set_xlim(low - room, high + room)
    return bent


def _effect(axes: Axes, row: int, c: Contrast) -> None:
    if c.low is not None and c.high is not None:
        axes.plot([c.low, c.high], [row, row], color=COLOURS[c.verdict], lw=2.2, solid_capstyle="butt", zorder=3)
    if c.difference is not None:
        _mark(axes, c.difference, row, c.verdict)
    elif c.verdict != "undecided":  # beyond every number: one of the two always diverges
        end = 1 if c.verdict == "necessary" else 0
        axes.plot([end], [row], ">" if end else "<", ms=8, color=COLOURS[c.verdict], transform=axes.get_yaxis_transform(), clip_on=False)


def _words(axes: Axes, row: int, c: Contrast, digits: int) -> None:
    span = bounds(c.low, c.high, digits) if c.low is not None else "(one seed)"
    text = f"{number(c.difference, digits, sign=True)}  {span}" if c.difference is not None else c.remark
    axes.text(0.03, row, text, va="center", fontsize=9, in_layout=False)
    axes.text(0.98, row, c.verdict, va="center", ha="right", fontsize=9, color=COLOURS[c.verdict], fontweight="bold", in_layout=False)


def _mark(axes: Axes, x: float, y: float, word: str) -> None:
    fill = "white" if word == "undecided" else COLOURS[word]
    axes.plot([x], [y], MARKERS[word], ms=7, mfc=fill, mec=COLOURS[word], mew=1.6, zorder=4, clip_on=False)


# ---- learning


def curves(records: Iterable[Record], study: Study) -> Figure:
    """One panel per arm: its mean learning curve over seeds with the band of all seeds, over the reference's in black.

    Shows the measure where it was evaluated often enough to draw a curve, else the training loss.
    """
    with _style():
        phase = "confirm" if study.settings.design == "search" else "design"
        found = [r for r in records if r["phase"] == phase and r["curve"]]
        key, label = _curve_key(found, study)
        bands = {arm: band for arm in _arms(found, study) if (band := _band(found, arm, key)) is not None}
        others = [arm for arm in bands if arm != REFERENCE] or list(bands)
        if not bands:
            return _empty("curves", "no learning curve yet")
        columns = min(4, len(others))
        rows = -(-len(others) // columns)
        figure = _figure("curves", max(4.6, 2.3 * columns), 0.5 + 1.75 * rows)
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes, arm in zip(grid, others, strict=False):
            axes.tick_params(labelsize=8, labelbottom=arm in others[-columns:])
            if REFERENCE in bands:
                _draw_band(axes, bands[REFERENCE], INK, 1.2)
            if arm != REFERENCE:
                _draw_band(axes, bands[arm], COLOURS["necessary"], 1.4)
            axes.set_title(arm, fontsize=9, loc="left", pad=3)
        for axes in grid[len(others) :]:
            axes.set_visible(False)
        figure.axes[0].set_ylim(*_sight(bands.values()))
        figure.supxlabel("step", fontsize=9)
        figure.supylabel(label, fontsize=9)
        return figure


Band = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]  # steps, low, mean, high


def _curve_key(records: Sequence[Record], study: Study) -> tuple[str, str]:
    often = max((sum(study.task.measure in point for point in r["curve"]) for r in records), default=0)
    return (study.task.measure, f"validation, {study.task.unit}") if often >= 4 else ("train_loss", "training loss, nats")


def _arms(records: Sequence[Record], study: Study) -> list[str]:
    met = {r["arm"] for r in records}
    declared = [arm.name for arm in study.arms()]
    return [arm for arm in declared if arm in met] + sorted(met - set(declared))


def _band(records: Sequence[Record], arm: str, key: str) -> Band | None:
    """Mean and extremes over seeds at each step; a seed that diverged counts as far as it came."""
    values: dict[int, list[float]] = {}
    for r in records:
        for point in r["curve"] if r["arm"] == arm else ():
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


# ---- cost


def front(analysis: Analysis, table: pd.DataFrame) -> Figure:
    """The measure against parameters: one labelled point per arm, the range over its seeds, and the line no arm is below."""
    with _style():
        done = table[(table["outcome"] == "done") & table[analysis.measure].notna()]
        searched, judged = done[done["phase"] == "search"], done[done["phase"] != "search"]
        points = judged if len(judged) else searched
        if not len(points):
            return _empty("front", "no finished trial yet")
        groups = points.groupby("arm", sort=False)
        arms = groups.agg(
            x=("parameters", "first"), y=(analysis.measure, "mean"), low=(analysis.measure, "min"), high=(analysis.measure, "max")
        )
        if not len(judged):
            arms = arms.nsmallest(12, "y")
        figure = _figure("front", 9.2, max(3.6, 0.6 + 0.3 * len(arms)))
        axes = figure.add_subplot()
        axes.plot(searched["parameters"], searched[analysis.measure], "o", ms=4, color="#B5B5B5", zorder=1)
        _staircase(axes, arms)
        verdicts = {c.arm: c.verdict for c in analysis.contrasts}
        for arm, x, y, low, high in arms.itertuples():
            axes.plot([x, x], [low, high], color="#9A9A9A", lw=1, zorder=2)
            if arm == REFERENCE:
                axes.plot([x], [y], "*", ms=13, color=INK, zorder=5)
            else:
                _mark(axes, x, y, verdicts.get(str(arm), "undecided"))
        axes.margins(x=0.06, y=0.08)
        axes.set_xlabel("parameters", fontsize=9)
        axes.set_ylabel(f"{analysis.measure.replace('_', ' ')}, {analysis.unit}", fontsize=9)
        axes.xaxis.set_major_formatter(lambda value, _: _short(value))
        _labels(axes, arms)
        return figure


def _staircase(axes: Axes, arms: pd.DataFrame) -> None:
    best = arms.sort_values(["x", "y"])
    best = best[best["y"] <= best["y"].cummin()]
    axes.step(best["x"], best["y"], where="post", color="#B5B5B5", lw=1, ls="--", zorder=1)


def _labels(axes: Axes, arms: pd.DataFrame) -> None:
    """Labels in a column at the right, as near to their points' heights as they fit, each with a line to its point."""
    low, high = axes.get_ylim()
    ordered = arms.sort_values("y")
    wanted = (ordered["y"].to_numpy() - low) / (high - low)
    for place, (arm, x, y, *_) in zip(_spread(wanted, 1 / max(12, len(arms))), ordered.itertuples(), strict=True):
        axes.annotate(
            str(arm),
            xy=(x, y),
            xytext=(1.03, place),
            textcoords="axes fraction",
            va="center",
            fontsize=9,
            fontweight="bold" if arm == REFERENCE else "normal",
            arrowprops={"arrowstyle": "-", "color": "#C9C9C9", "lw": 0.7, "shrinkA": 2, "shrinkB": 4, "relpos": (0, 0.5)},
            zorder=1,
        )


def _spread(wanted: np.ndarray[Any, Any], gap: float) -> np.ndarray[Any, Any]:
    """Ascending heights at least `gap` apart, close to the wanted ones: neighbours too near are moved apart around their mean."""
    blocks: list[tuple[float, int]] = []  # mean of (height - rank * gap), members
    for i, height in enumerate(wanted):
        blocks.append((float(height) - i * gap, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (a, n), (b, m) = blocks[-2], blocks[-1]
            blocks[-2:] = [((a * n + b * m) / (n + m), n + m)]
    base = np.repeat([b for b, _ in blocks], [n for _, n in blocks])
    heights: np.ndarray[Any, Any] = base + gap * np.arange(len(wanted))
    overshoot = max(0.0, heights[-1] - 1)
    lowest: np.ndarray[Any, Any] = gap * np.arange(len(wanted))
    return np.asarray(np.maximum(heights - overshoot, lowest))


def _short(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:g}"


# ---- files


def to_svg(figure: Figure) -> str:
    """An `<svg>` element that can stand in a page: it scales with its column, and its names do not clash with another figure's."""
    stream, name = io.StringIO(), str(figure.get_label()) or "figure"
    with _style():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"<style .*?</style>", "", text, flags=re.DOTALL)
    return re.sub(
        r'(<svg [^>]*?)\bwidth="[^"]*"',
        rf'\1role="img" aria-label="{name}" width="100%"',
        re.sub(r' height="[\d.]+pt"', "", text, count=1),
        count=1,
    )


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG for slides and Markdown."""
    stream = io.BytesIO()
    with _style():
        figure.savefig(stream, format="png", dpi=160, metadata={"Software": None})
    return stream.getvalue()
