"""Arms of equal size: an arm is made deeper or wider until it has the parameters, or the FLOPs, of the reference.

A part that is removed leaves a smaller model, and a smaller model is worse: what the part itself was worth is seen only at equal size.
"""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence

from aotsearch.errors import InputError
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.forms import Choice, Fixed, Form, ModelForm, Range, walk
from aotsearch.grammar.space import Space
from aotsearch.study.design import Arm, Design, compared, equal_name

MEASURED = {"parameters": "parameters", "flops": "flops_per_token"}
Resized = tuple[tuple[str, int, int], ...]  # (depth or width, from, to)
WIDEST = 4  # times the width of the reference
DEEPEST = 64  # times its depth
LINES = 8  # sizes that are measured before halving: what has no such line is found all the same


def equalised(space: Space, design: Design, modes: Sequence[str], resize: str, tolerance: float) -> Design:
    """The arms and comparisons of a design under every mode: as they are (`none`), at equal `parameters`, at equal `flops`.

    An arm that is within the tolerance as it is keeps its size, and is the same model under both modes.

    Args:
        resize: What may change: `depth`, `width`, or `either`: the depth, else the width, else both, until one is close enough.
        tolerance: The largest share by which an arm may miss the reference.

    Raises:
        InputError: an arm cannot be brought within the tolerance.
    """
    reference, *others = design.arms
    arms = [reference]
    for mode in modes:
        arms += others if mode == "none" else [resized(space, a, mode, resize, tolerance) for a in others]
    return dataclasses.replace(design, arms=tuple(arms), comparisons=compared(design, modes))


def resized(space: Space, arm: Arm, mode: str, resize: str, tolerance: float) -> Arm:
    """An arm brought to the reference's size: the first of its candidates that is within the tolerance."""
    target = _amount(space, space.reference, mode)
    decisions = {address: to for address, (_, to) in arm.changes.items()}
    closest = math.inf
    for architecture, change in _candidates(space, arm, decisions, mode, target, resize):
        miss = _miss(space, architecture, mode, target)
        if miss <= tolerance:
            return dataclasses.replace(arm, name=equal_name(arm.name, mode), architecture=architecture, equalise=mode, resized=change)
        closest = min(closest, miss)
    remedy = "raise tolerance, or let resize be either" if resize != "either" else "raise tolerance"
    deep = "depth" in space.form.options
    if resize == "depth" and not deep:
        remedy = "a model of blocks has no depth: let resize be width"
    what = {"either": "depth and width" if deep else "width"}.get(resize, resize)
    raise InputError(
        f"arm {arm.name!r} comes no closer to the reference's {mode} than {100 * closest:.1f} % "
        f"(tolerance {100 * tolerance:g} %) by changing its {what}; {remedy}"
    )


def _candidates(
    space: Space, arm: Arm, decisions: dict[str, object], mode: str, target: int, resize: str
) -> Iterator[tuple[Architecture, Resized]]:
    """As it is; deeper; wider; and for `either` deeper and narrower, or shallower and wider. Of each the closest first."""

    def closest(name: str, held: dict[str, int]) -> list[tuple[int, Architecture]]:
        return sorted(_sizes(space, decisions, name, held, mode, target), key=lambda found: _miss(space, found[1], mode, target))

    yield arm.architecture, ()
    depths = closest("depth", {}) if resize != "width" else []
    before = {name: _size(arm.architecture, space, name) for name in ("depth", "width") if name in space.form.options}
    for n, architecture in depths:
        yield architecture, (("depth", before["depth"], n),)
    for n, architecture in closest("width", {}) if resize != "depth" else []:
        yield architecture, (("width", before["width"], n),)
    for depth, _ in depths if resize == "either" else []:
        for n, architecture in closest("width", {"depth": depth}):
            yield architecture, (("depth", before["depth"], depth), ("width", before["width"], n))


def _amount(space: Space, architecture: Architecture, mode: str) -> int:
    """What is made equal."""
    return space.measured(architecture)[MEASURED[mode]]


def _miss(space: Space, architecture: Architecture, mode: str, target: int) -> float:
    return abs(_amount(space, architecture, mode) / target - 1)


def _sizes(
    space: Space, decisions: dict[str, object], name: str, held: dict[str, int], mode: str, target: int
) -> Iterator[tuple[int, Architecture]]:
    """The two sizes on either side of the target: cost grows with depth and with width. It is a line over the depth, and its square root
    nearly one over the width: each size that is measured is where the line through the two nearest comes to the target."""
    if name not in space.form.options:
        return  # blocks has no depth
    at = functools.cache(lambda n: _at(space, decisions, {**held, name: n}))
    most = (DEEPEST if name == "depth" else WIDEST) * _size(space.reference, space, name)
    allowed = [n for n in range(1, most + 1) if name == "depth" or at(n) is not None]
    low, high = 0, len(allowed) - 1
    straight = float if name == "depth" else math.sqrt
    known, guess = {0: 0.0}, _size(space.reference, space, name)  # a size -> what is straight
    while high - low > 1:
        middle = bisect.bisect_right(allowed, guess) - 1 if len(known) < LINES else (low + high) // 2
        middle = min(max(middle, low + 1), high - 1)
        found = at(allowed[middle])
        amount = 0 if found is None else _amount(space, found, mode)
        if amount < target:
            low = middle
        else:
            high = middle
        known[allowed[middle]] = straight(amount)
        guess = _met(known, straight(target))
    for n in allowed[low : high + 1]:
        found = at(n)
        if found is not None:
            yield n, found


def _met(known: dict[int, float], goal: float) -> int:
    """The size at which a line through the two sizes that come nearest to a goal meets it."""
    m, n = sorted(known, key=lambda size: abs(known[size] - goal))[:2]
    return int(m + (goal - known[m]) * (n - m) / (known[n] - known[m])) if known[n] != known[m] else m


def _at(space: Space, decisions: dict[str, object], sizes: dict[str, int]) -> Architecture | None:
    """The architecture at a depth and width of our choice; None where that breaks a law."""
    form: ModelForm = space.form
    fixed = {name: Fixed(form.options[name].mark, size) for name, size in sizes.items()}
    other = dataclasses.replace(space, form=dataclasses.replace(form, options={**form.options, **fixed}))
    gone = {f for name in sizes for f in _addresses(form.options[name])} - set(_addresses(other.form))
    try:
        return other.at({a: v for a, v in decisions.items() if a not in gone})
    except InputError:
        return None


def _addresses(form: Form) -> Iterator[str]:
    return (f.address for f in walk(form) if isinstance(f, Choice | Range))


def _size(architecture: Architecture, space: Space, name: str) -> int:
    if name == "width":
        return architecture.width
    form = space.form.options["depth"]
    if isinstance(form, Fixed):
        return int(form.value)
    assert isinstance(form, Choice | Range), form
    return int(architecture.decisions[form.address])
