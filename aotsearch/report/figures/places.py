"""What the best models of a search have at each layer: one map for each decision, alternatives down, layers across."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aotsearch.evidence.places import Places, Shares
from aotsearch.report.figures.canvas import INK, WIDTH, blank, style
from aotsearch.report.figures.names import shorten
from aotsearch.study.design import spell

READ = 14  # layers up to which each share is written into its field


def places(found: Sequence[Places]) -> Figure | None:
    """None where nothing is decided layer by layer."""
    if not found:
        return None
    with style():
        heights = [0.9 + 0.36 * len(p.values) for p in found]
        figure = blank("places", WIDTH, sum(heights))
        for axes, p in zip(np.atleast_1d(figure.subplots(len(found), 1, height_ratios=heights)), found, strict=True):
            _map(axes, p)
        return figure


def _map(axes: Axes, p: Places) -> None:
    shares = _numbers(p.best)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    if shares.shape[1] <= READ:
        for (row, column), share in np.ndenumerate(shares):
            usual = p.all[row][column]
            if not np.isnan(share) and usual is not None:
                ink = "white" if share > 0.6 else INK
                axes.text(column, row, f"{share:.0%} vs {usual:.0%}", ha="center", va="center", fontsize=8, color=ink)
    axes.set_yticks(range(len(p.values)), [shorten(spell(v), 24) for v in p.values])
    axes.set_xticks(range(shares.shape[1]), [str(n) for n in range(1, shares.shape[1] + 1)])
    axes.tick_params(length=0)
    axes.set_title(p.name, fontsize=9.5, loc="left", pad=4)
    axes.set_xlabel("layer", fontsize=9)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _numbers(shares: Shares) -> np.ndarray:
    return np.array([[np.nan if v is None else v for v in row] for row in shares], dtype=float)
