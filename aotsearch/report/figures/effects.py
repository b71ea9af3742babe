"""Effects with their intervals: the forest of all contrasts, interactions as lines that are not parallel, knock-out beside retraining."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.layers import Knocked
from aotsearch.evidence.tables import measured
from aotsearch.report.data import Material
from aotsearch.report.figures.canvas import COLOURS, INK, QUIET, WIDTH, blank, empty, margin_band, mark, panels, style
from aotsearch.report.figures.names import cuts, shorten
from aotsearch.report.figures.ticks import effect_axis
from aotsearch.report.summary import bounds, groups, number
from aotsearch.study.design import spell

WORDS = 2.95  # inches that a contrast's numbers and verdict take at least


def forest(analysis: Analysis, contrasts: Sequence[Contrast] | None = None) -> Figure:
    """Each contrast with its simultaneous interval, one heading per view; the margin is the shaded band, right of zero is worse.

    Args:
        contrasts: Those of the analysis to show; by default all.
    """
    with style():
        sets = groups(analysis.contrasts if contrasts is None else contrasts)
        rows: list[str | Contrast] = [row for heading, cs in sets for row in ([heading] if len(sets) > 1 else []) + cs]
        if not rows:
            return empty("forest", "no contrast yet")
        figure = blank("forest", WIDTH, 0.85 + 0.3 * len(rows))
        short = cuts([row.title for row in rows if isinstance(row, Contrast)], 44)
        names = [short[row.title] if isinstance(row, Contrast) else row for row in rows]
        beside = max(WORDS, 0.95 + 0.068 * max(len(_numbers(c, analysis.digits)) for c in rows if isinstance(c, Contrast)))
        room = WIDTH - beside - 0.085 * max(map(len, names))
        axes, words = figure.subplots(1, 2, sharey=True, width_ratios=(room, beside))
        words.set_xlim(0, 1)
        words.axis("off")
        margin_band(axes, analysis.margin)
        ends = [v for c in rows if isinstance(c, Contrast) for v in (c.difference, c.low, c.high) if v is not None]
        bent = effect_axis(axes, ends, analysis.margin)
        shade = 0
        for row, c in enumerate(rows):
            if not isinstance(c, Contrast):
                shade = 0
                continue
            if shade % 2 == 0:
                for side in (axes, words):
                    side.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.025, lw=0, zorder=0)
            shade += 1
            _effect(axes, row, c)
            _words(words, row, c, analysis.digits)
        axes.set_yticks(range(len(rows)), names)
        for tick, c in zip(axes.get_yticklabels(), rows, strict=True):
            tick.set_fontweight("normal" if isinstance(c, Contrast) else "bold")
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0, pad=8)
        axes.spines["left"].set_visible(False)
        shown = f"difference, {analysis.unit}; right is worse; shaded: the margin of {analysis.margin:g}"
        axes.set_xlabel(shown + ("\nlogarithmic beyond four margins" if bent else ""), fontsize=9)
        return figure


def _effect(axes: Axes, row: int, c: Contrast) -> None:
    if c.low is not None and c.high is not None:
        axes.plot([c.low, c.high], [row, row], color=COLOURS[c.verdict], lw=2.2, solid_capstyle="butt", zorder=3)
    if c.difference is not None:
        mark(axes, c.difference, row, c.verdict)
    elif c.verdict != "undecided":  # beyond every number: one of the two always diverges
        end = 1 if c.verdict == "worse" else 0
        axes.plot([end], [row], ">" if end else "<", ms=8, color=COLOURS[c.verdict], transform=axes.get_yaxis_transform(), clip_on=False)


def _numbers(c: Contrast, digits: int) -> str:
    span = bounds(c.low, c.high, digits) if c.low is not None else f"({c.seeds} seed{'s' * (c.seeds != 1)})"
    return f"{number(c.difference, digits, sign=True)}  {span}" if c.difference is not None else shorten(c.remark, 34)


def _words(axes: Axes, row: int, c: Contrast, digits: int) -> None:
    axes.text(0.03, row, _numbers(c, digits), va="center", fontsize=9, in_layout=False)
    axes.text(
        0.98,
        row,
        c.verdict,
        va="center",
        ha="right",
        fontsize=9,
        color=COLOURS[c.verdict],
        fontweight="bold",
        in_layout=False,
    )


# ---- interactions

PANELS = 12  # of interactions, the clearest first


def interactions(m: Material) -> Figure | None:
    """For each interaction the four means; dashed, where the fourth would be if the changes acted apart. None where there is none."""
    found = [c for c in m.distinct if c.kind == "interaction" and c.asked and c.difference is not None]
    order = {"worse": 0, "better": 0, "undecided": 1, "equivalent": 2}
    found.sort(key=lambda c: (order[c.verdict], -abs(c.difference or 0), c.arm))
    squares = [(c, square) for c in found if (square := _square(m, c)) is not None][:PANELS]
    if not squares:
        return None
    short = cuts([address for c, _ in squares for address, _, _ in c.changes], 16)
    with style():
        figure, grid = panels("interactions", len(squares), 3, 2.3, 0.4, sharey=True)
        for axes, (c, square) in zip(grid, squares, strict=True):
            _lines(axes, c, square, m.analysis, short)
        figure.supylabel(f"{m.analysis.measure.replace('_', ' ')}, {m.analysis.unit}", fontsize=9)
        return figure


Square = Mapping[tuple[bool, bool], float]  # (whether one is changed, whether the other is) -> mean


def _square(m: Material, c: Contrast) -> Square | None:
    """The four means of an interaction over the seeds that all its arms have."""
    (a, here, _), (b, there, _) = c.changes
    trials = m.cells_of(c)
    seeds = set.intersection(*(set(by_seed) for by_seed in trials.values()))
    if not seeds:
        return None
    cells: dict[tuple[bool, bool], list[list[float | None]]] = {}
    for by_seed in trials.values():
        first = next(iter(by_seed.values()))["decisions"]
        key = (spell(first.get(a)) != spell(here), spell(first.get(b)) != spell(there))
        cells.setdefault(key, []).append([measured(by_seed[s], m.study) for s in sorted(seeds)])
    whole = [i for i in range(len(seeds)) if all(row[i] is not None for rows in cells.values() for row in rows)]
    if len(cells) < 4 or not whole:
        return None
    return {key: float(np.mean([[row[i] for i in whole] for row in rows])) for key, rows in cells.items()}


def _lines(axes: Axes, c: Contrast, square: Square, analysis: Analysis, short: Mapping[str, str]) -> None:
    (a, a0, a1), (b, b0, b1) = c.changes
    alone = square[False, True] + square[True, False] - square[False, False]
    colour = COLOURS[c.verdict]
    axes.plot([0, 1], [square[False, True], alone], color=QUIET, lw=1, ls=(0, (3, 3)), zorder=2)
    axes.plot([0, 1], [square[False, False], square[True, False]], "-o", color=INK, lw=1.6, ms=5, zorder=3)
    axes.plot([0, 1], [square[False, True], square[True, True]], "-s", color=colour, lw=1.6, ms=5, mfc="white", mew=1.6, zorder=3)
    axes.set_xticks([0, 1], [f"{short[a]}\n{shorten(spell(v), 16)}" for v in (a0, a1)])
    axes.set_xlim(-0.25, 1.25)
    axes.margins(y=0.15)
    axes.tick_params(labelsize=8)
    digits = analysis.digits
    title = f"{short[b]}: {shorten(spell(b0), 16)} \N{BLACK CIRCLE}  {shorten(spell(b1), 16)} \N{WHITE SQUARE}"
    axes.set_title(title, fontsize=9, loc="left", pad=16)
    said = f"{number(c.difference, digits, True)} {bounds(c.low, c.high, digits) if c.low is not None else ''}  {c.verdict}"
    axes.text(0, 1.02, said, transform=axes.transAxes, fontsize=8, color=colour, fontweight="bold")


# ---- knock-out

WAYS = {"zero": ("o", INK), "mean": ("^", "#0072B2"), "identity": ("x", "#9A3B76")}


def knock_outs(rows: Sequence[Knocked], analysis: Analysis) -> Figure | None:
    """What the trained reference loses without each part, beside what it loses if it is trained without it; None where not measured."""
    if not rows:
        return None
    parts = list(dict.fromkeys(k.part for k in rows))
    retrained = {c.arm: c for c in analysis.contrasts if c.asked and c.kind == "change"}
    with style():
        figure = blank("knock-out", WIDTH, 1.0 + 0.34 * len(parts))
        axes = figure.add_subplot()
        margin_band(axes, analysis.margin)
        beside = {k.part: retrained[k.retrained] for k in rows if k.retrained in retrained}
        values = [v for k in rows for v in (k.increase, k.low, k.high) if v is not None]
        values += [v for c in beside.values() for v in (c.low, c.high) if v is not None]
        bent = effect_axis(axes, values, analysis.margin)
        for i, part in enumerate(parts):
            mine = [k for k in rows if k.part == part]
            for k, offset in zip(mine, np.linspace(-0.22, 0.22, len(mine)) if len(mine) > 1 else [0.0], strict=True):
                shape, colour = WAYS.get(k.way, ("v", QUIET))
                if k.low is not None and k.high is not None:
                    axes.plot([k.low, k.high], [i + offset] * 2, color=colour, lw=1, zorder=2)
                axes.plot([k.increase], [i + offset], shape, color=colour, ms=5.5, mew=1.6, zorder=3, label=k.way if i == 0 else None)
            c = beside.get(part)
            if c is not None and c.difference is not None:
                if c.low is not None and c.high is not None:
                    axes.plot([c.low, c.high], [i + 0.38] * 2, color=COLOURS["worse"], lw=2.2, zorder=2)
                axes.plot([c.difference], [i + 0.38], "D", color=COLOURS["worse"], ms=6, zorder=3)
        if beside:
            axes.plot([], [], "D", color=COLOURS["worse"], ms=6, label="trained without it")
        axes.set_yticks(range(len(parts)), [p.replace("_", " ") for p in parts])
        axes.set_ylim(len(parts) - 0.4, -0.6)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(f"increase, {analysis.unit}" + ("; logarithmic beyond four margins" if bent else ""), fontsize=9)
        figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9)
        return figure
