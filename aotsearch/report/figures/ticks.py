"""An axis of effects around a margin: linear, or logarithmic beyond it, with ticks whose labels never touch, whatever the range."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import Locator

SIZE = 9  # points of a label
EM = 0.66  # widest character of a label, as a share of its size; a minus is wider, and the gap allows for it
GAP = 1.2  # characters between two labels
FEW = 5  # labels that a bent axis has where there is room
DECADES = 12  # of a bent axis that have labels at most
WIDE = 25  # margins that an effect may have before the axis is bent
KNEE = 4  # margins where a bent axis becomes logarithmic


class Apart(Locator):
    """Round ticks, as many as have room on the axis that is drawn.

    On a linear axis the finest even steps that fit. On a bent one zero and every power of ten, or every second, and so on, then what lies
    between.
    """

    def __init__(self, axes: Axes, bent: bool) -> None:
        self.axes, self.bent = axes, bent
        self._found: dict[tuple[float, ...], list[float]] = {}  # a layout asks many times over

    def __call__(self) -> list[float]:
        return self.tick_values(*self.axes.get_xlim())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        low, high = sorted((vmin, vmax))
        key = (low, high, self.axes.bbox.width / self.axes.figure.dpi)
        if key not in self._found:
            self._found[key] = self._bent(low, high) if self.bent else next(even for even in _even(low, high) if self._fit(even))
        return self._found[key]

    def _bent(self, low: float, high: float) -> list[float]:
        kept = next(found for found in _powers(low, high) if self._fit(found))
        for more in _between(low, high):
            if len(kept) < FEW and self._fit([*kept, *more]):
                kept += more
        return sorted(kept)

    def _fit(self, values: Sequence[float]) -> bool:
        axes = self.axes
        ordered = np.sort(values)
        places = axes.transData.transform(np.column_stack([ordered, np.zeros(len(ordered))]))[:, 0] / axes.figure.dpi * 72
        halves = np.array([(len(written(value)) + GAP) * EM * SIZE / 2 for value in ordered])
        return bool(np.all(places[:-1] + halves[:-1] <= places[1:] - halves[1:]))


def written(value: float) -> str:
    """A tick's label: 0.05, 1e-05, 20000, 1e+06."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def effect_axis(axes: Axes, values: Sequence[float], margin: float) -> bool:
    """Limits that show every value and the margin; an effect beyond 25 margins must not squeeze these to a line, so there the axis is bent.

    Returns: whether it is logarithmic beyond four margins.
    """
    ends = [margin * 1.5, -margin * 1.5, *values]
    low, high = min(ends), max(ends)
    bent = max(-low, high) > WIDE * margin
    if bent:
        axes.set_xscale("symlog", linthresh=KNEE * margin, linscale=1)
        axes.set_xlim(low * 1.3, high * 1.3)
    else:
        room = 0.04 * (high - low)
        axes.set_xlim(low - room, high + room)
    axes.set_xticks([], minor=True)
    axes.xaxis.set_major_locator(Apart(axes, bent))
    axes.xaxis.set_major_formatter(lambda value, _: written(value))
    axes.tick_params(axis="x", labelsize=SIZE)
    return bent


def _even(low: float, high: float) -> list[list[float]]:
    """Multiples of 1, 2 and 5 times a power of ten within an interval, finest first; then zero with one value to each side."""
    power = math.floor(math.log10(high - low))
    steps = [n * 10.0**k for k in (power - 1, power, power + 1) for n in (1, 2, 5)]
    found = [[_round(i * step) for i in range(math.ceil(low / step), math.floor(high / step) + 1)] for step in steps]
    sparse = [_within([_round(n * 10.0**k)], low, high) for k in (power, power - 1, power - 2) for n in range(9, 0, -1)]
    return [even for even in found if len(even) > 2] + [[0.0, *pair] for pair in sparse if pair] + [[0.0]]


def _powers(low: float, high: float) -> list[list[float]]:
    """Zero, and powers of ten on both sides of it: all that may have a place, then every second, every third, ... of them."""
    top = math.floor(math.log10(max(-low, high)))
    every = [k for k in range(top, top - DECADES, -1)]
    sets = [every[:count:stride] for stride in range(1, DECADES) for count in range(DECADES, 1, -1)]
    found = [[0.0, *_within([10.0**k for k in powers], low, high)] for powers in sorted(sets, key=len, reverse=True)]
    return [*found, [0.0]]


def _between(low: float, high: float) -> list[list[float]]:
    """What may stand beside them, largest first, each on both sides of zero where the axis has both."""
    top = math.floor(math.log10(max(-low, high)))
    return [_within([n * 10.0**k], low, high) for k in range(top, top - DECADES, -1) for n in (5, 2, 1)]


def _within(sizes: Iterable[float], low: float, high: float) -> list[float]:
    return [x for size in sizes for x in (_round(size), -_round(size)) if low <= x <= high]


def _round(value: float) -> float:
    return float(f"{value:.12g}")
