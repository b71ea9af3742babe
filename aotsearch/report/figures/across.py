"""The same comparisons in several studies, side by side: a panel for each study, a row for each comparison."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.contrast import Contrast
from aotsearch.report.figures.canvas import COLOURS, QUIET, WIDTH, blank, empty, margin_band, mark, style
from aotsearch.report.figures.names import cuts, shorten
from aotsearch.report.figures.ticks import effect_axis

MOST = 60  # rows; the table has all


def side_by_side(titles: Sequence[str], studies: Sequence[tuple[str, Analysis]], rows: Sequence[Sequence[Contrast | None]]) -> Figure:
    """Each panel has the scale and the margin of its study, because studies may differ in what they measure.

    Args:
        rows: For each title the contrast in every study, None where it has none.
    """
    titles, rows = titles[:MOST], rows[:MOST]
    if not rows:
        return empty("across", "no comparison in common")
    with style():
        figure = blank("across", WIDTH, 1.15 + 0.3 * len(rows))
        grid = figure.subplots(1, len(studies), sharey=True, squeeze=False)[0]
        for i, (axes, (label, analysis)) in enumerate(zip(grid, studies, strict=True)):
            margin_band(axes, analysis.margin)
            found = [(row, c) for row, of in enumerate(rows) if (c := of[i]) is not None]
            bent = effect_axis(axes, [v for _, c in found for v in (c.difference, c.low, c.high) if v is not None], analysis.margin)
            for row in range(0, len(rows), 2):
                axes.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.025, lw=0, zorder=0)
            for row, c in found:
                if c.low is not None and c.high is not None:
                    axes.plot([c.low, c.high], [row, row], color=COLOURS[c.verdict], lw=2.2, solid_capstyle="butt", zorder=3)
                if c.difference is not None:
                    mark(axes, c.difference, row, c.verdict)
                else:
                    axes.text(0.5, row, c.verdict, color=QUIET, fontsize=8, ha="center", va="center", transform=axes.get_yaxis_transform())
            axes.set_title(shorten(label, 60 // len(studies)), fontsize=9, loc="left")
            axes.set_xlabel(f"{analysis.unit}" + (", logarithmic\nbeyond four margins" if bent else ""), fontsize=9)
            axes.tick_params(axis="x", labelsize=8)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        short = cuts(titles, 44)
        grid[0].set_yticks(range(len(rows)), [short[title] for title in titles])
        grid[0].set_ylim(len(rows) - 0.4, -0.6)
        figure.supxlabel("difference to the reference; right is worse; shaded: the margin of each study", fontsize=9)
        return figure
