"""How every picture looks, and pictures -> files.

Figures are made through the object interface, so no display and no global state is touched, and the same records give the same bytes.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# Wong's palette (Nature Methods 8:441, 2011), told apart by colour-blind readers; on paper without colour the marker tells verdicts apart
COLOURS = {
    "worse": "#C24E00",
    "equivalent": "#0072B2",
    "better": "#9A3B76",
    "undecided": "#6B6B6B",
}
MARKERS = {"worse": "o", "equivalent": "s", "better": "D", "undecided": "o"}
LINES = (("#C24E00", "-"), ("#0072B2", "--"), ("#9A3B76", "-."), ("#1B7F5C", (0, (1, 1))))  # colour and dashes, told apart without colour
INK, QUIET, FAINT, BAND = "#1B1B1B", "#6B6B6B", "#B5B5B5", "#E3EEF6"
WIDTH = 9.2  # inches of a figure over the whole column
STYLE = {
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # outlines that journals take, and text that can be searched
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
def style() -> Iterator[None]:
    """Our style over matplotlib's defaults, whatever the user's own settings are."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def blank(name: str, width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", label=name)
    FigureCanvasAgg(figure)
    return figure


def panels(
    name: str, count: int, columns: int, height: float, room: float, sharex: bool = False, sharey: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure over the whole column with so many panels, each of this height, and room beside them for labels."""
    rows = -(-count // columns)
    figure = blank(name, WIDTH, room + height * rows)
    grid = list(figure.subplots(rows, columns, squeeze=False, sharex=sharex, sharey=sharey).ravel())
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, grid[:count]


def label(axes: Axes, text: str, point: tuple[float, float], x: float, y: float, **style: Any) -> None:
    """A name beside the axes, at a place in fractions of them, with a line to its point."""
    line = {"arrowstyle": "-", "color": "#C9C9C9", "lw": 0.7, "shrinkA": 2, "shrinkB": 4, "relpos": (0, 0.5)}
    axes.annotate(text, xy=point, xytext=(x, y), textcoords="axes fraction", va="center", arrowprops=line, **style)


def empty(name: str, message: str) -> Figure:
    """A figure that says why it shows nothing."""
    figure = blank(name, 8, 1.2)
    figure.text(0.5, 0.5, message, ha="center", va="center", color=QUIET)
    return figure


def mark(axes: Axes, x: float, y: float, word: str, size: float = 7) -> None:
    """The marker of a verdict; hollow where it is undecided."""
    fill = "white" if word == "undecided" else COLOURS[word]
    axes.plot([x], [y], MARKERS[word], ms=size, mfc=fill, mec=COLOURS[word], mew=1.6, zorder=4, clip_on=False)


def margin_band(axes: Axes, margin: float) -> None:
    axes.axvspan(-margin, margin, color=BAND, lw=0, zorder=0)
    for end in (-margin, margin):
        axes.axvline(end, color=FAINT, lw=0.7, ls=(0, (2, 2)), zorder=1)
    axes.axvline(0, color=INK, lw=0.9, zorder=1)


def spread(wanted: np.ndarray[Any, Any], gap: float) -> np.ndarray[Any, Any]:
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


# ---- files


def _settle(figure: Figure) -> None:
    """Lay the figure out once, for all files made of it: what stays an engine, if only in name, is drawn twice for each file."""
    engine = figure.get_layout_engine()
    if engine is not None:
        if figure.axes:
            engine.execute(figure)
        figure.set_layout_engine(None)


def to_svg(figure: Figure) -> str:
    """An `<svg>` element that can stand in a page: it scales with its column, and its names do not clash with another figure's."""
    stream, name = io.StringIO(), str(figure.get_label()) or "figure"
    with style():
        _settle(figure)
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
    with style():
        _settle(figure)
        figure.savefig(stream, format="png", dpi=160, metadata={"Software": None})
    return stream.getvalue()


def to_pdf(figure: Figure) -> bytes:
    """The figure as a vector drawing for papers."""
    stream = io.BytesIO()
    with style():
        _settle(figure)
        figure.savefig(stream, format="pdf", metadata={"CreationDate": None, "Creator": None, "Producer": None})
    return stream.getvalue()
