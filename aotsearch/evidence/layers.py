"""Records -> what happens inside the models, layer by layer: diagnostics by depth, and the reference without one part or another.

Symbols: z_ls a diagnostic of layer l under seed s, d_ls = z_ls(arm) - z_ls(reference), K pairs of arm and layer that are compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aotsearch.diagnostics.catalogue import Diagnostic, catalogue
from aotsearch.evidence.statistics import Looks, span
from aotsearch.evidence.tables import Record
from aotsearch.study.design import REFERENCE

Cells = Mapping[str, Mapping[int, Record]]  # arm -> seed -> trial
MEAN = -1  # the place of the mean over all layers


@dataclass(frozen=True)
class Point:
    """One diagnostic of one arm at one layer: its mean over seeds, and the paired difference to the reference.

    Attributes:
        place: Of the layer in the forward pass, from 0; MEAN for the mean over all layers.
        low, high: Of the mean over seeds, this one interval alone; None with one seed.
        seeds: With a value.
        difference: Mean of d; None for the reference, and where the reference has no such layer.
        below, above: Its interval, simultaneous over all arms and layers of the diagnostic.
    """

    place: int
    mean: float
    low: float | None
    high: float | None
    seeds: int
    difference: float | None = None
    below: float | None = None
    above: float | None = None

    @property
    def differs(self) -> bool:
        return self.below is not None and self.above is not None and not self.below <= 0 <= self.above


@dataclass(frozen=True)
class Profile:
    """One diagnostic over the depth of every arm.

    Attributes:
        about: What it is; None for a name that this version does not know.
        arms: Arm -> its layers from first to last.
        whole: Arm -> the mean over its layers, which also compares arms of unlike depth.
        family: How many differences share the error rate (K).
    """

    name: str
    about: Diagnostic | None
    arms: Mapping[str, tuple[Point, ...]]
    whole: Mapping[str, Point]
    family: int

    @property
    def differing(self) -> list[tuple[str, Point, int, int]]:
        """Arm, its mean over layers, at how many layers it differs from the reference, and of how many; the arms that differ anywhere."""
        rows = []
        for arm, points in self.arms.items():
            compared = [p for p in points if p.below is not None]
            found = sum(p.differs for p in compared)
            if found or self.whole[arm].differs:
                rows.append((arm, self.whole[arm], found, len(compared)))
        return rows


Values = dict[int, list[float | None]]  # seed -> one number per layer


def profiles(cells: Cells, confidence: float, looks: Looks | None = None) -> list[Profile]:
    """Every diagnostic that the trials have, in the order of the catalogue; `looks` is as for `span`."""
    found: dict[str, dict[str, Values]] = {}
    for arm, by_seed in cells.items():
        for seed, r in by_seed.items():
            for name, values in (r.get("diagnostics") or {}).items():
                if r["outcome"] == "done" and any(_finite(v) for v in values):
                    found.setdefault(name, {}).setdefault(arm, {})[seed] = values
    known = list(catalogue())
    order = sorted(found, key=lambda name: (known.index(name) if name in known else len(known), name))
    return [_profile(name, found[name], confidence, looks) for name in order]


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _profile(name: str, arms: Mapping[str, Values], confidence: float, looks: Looks | None) -> Profile:
    levels = {arm: _levels(values) for arm, values in arms.items()}
    reference = levels.get(REFERENCE, {})
    pairs: dict[tuple[str, int], list[float]] = {}
    for arm, places in levels.items():
        if arm == REFERENCE:
            continue
        # the k-th layer that has this quantity is compared with the k-th of the reference, where both have as many
        beside = dict(zip(places, reference, strict=True)) if len(places) == len(reference) else {MEAN: MEAN}
        for place, other in beside.items():
            d = [v - reference[other][s] for s, v in places[place].items() if s in reference.get(other, {})]
            if len(d) > 1:
                pairs[arm, place] = d
    points = {
        arm: {place: _point(place, by_seed, pairs.get((arm, place)), confidence, len(pairs), looks) for place, by_seed in places.items()}
        for arm, places in levels.items()
    }
    along = {arm: tuple(p for place, p in ps.items() if place != MEAN) for arm, ps in points.items()}
    return Profile(name, catalogue().get(name), along, {arm: ps[MEAN] for arm, ps in points.items()}, len(pairs))


def _levels(values: Values) -> dict[int, dict[int, float]]:
    """Place -> seed -> value, for the places that have one; before them the mean over all."""
    found: dict[int, dict[int, float]] = {MEAN: {}}
    for seed, numbers in sorted(values.items()):
        known = {place: float(v) for place, v in enumerate(numbers) if v is not None and _finite(v)}
        found[MEAN] |= {seed: float(np.mean(list(known.values())))} if known else {}
        for place, v in known.items():
            found.setdefault(place, {})[seed] = v
    return dict(sorted(found.items()))


def _point(
    place: int, by_seed: Mapping[int, float], d: Sequence[float] | None, confidence: float, family: int, looks: Looks | None
) -> Point:
    values = [v for _, v in sorted(by_seed.items())]
    one = span(values, confidence, 1, looks)
    return Point(place, *one, len(values), *(span(d, confidence, family, looks) if d is not None else ()))


# ---- knock-out


@dataclass(frozen=True)
class Knocked:
    """The trained reference without a part of it: the increase of the measure, in the mean over seeds, with its interval.

    Attributes:
        part: A sublayer such as `attention_0`; `mixers` or `channels` for all of them.
        way: `zero`, `mean` or `identity`.
        retrained: The arm that was trained without the same sublayers; empty where there is none.
    """

    part: str
    sublayers: tuple[int, ...]
    way: str
    increase: float
    low: float | None
    high: float | None
    seeds: int
    retrained: str


def knocked(cells: Cells, confidence: float, looks: Looks | None = None) -> list[Knocked]:
    """Every part that was removed after training, in the order of the forward pass, each way; intervals are simultaneous over all rows.
    `looks` is as for `span`."""
    found: dict[tuple[str, tuple[int, ...], str], list[float]] = {}
    for r in cells.get(REFERENCE, {}).values():
        for row in r.get("knock_out") or ():
            if _finite(row["increase"]):
                key = (row["part"], tuple(row["sublayers"]), row["way"])
                found.setdefault(key, []).append(row["increase"])
    without = _without(cells)
    rows = []
    for (part, places, way), values in found.items():
        rows.append(Knocked(part, places, way, *span(values, confidence, len(found), looks), len(values), without.get(places, "")))
    return rows


def _without(cells: Cells) -> dict[tuple[int, ...], str]:
    """Sublayers of the reference -> the arm that is the reference without them, else the same."""
    shapes = {arm: _shape(by_seed) for arm, by_seed in cells.items()}
    whole = shapes.get(REFERENCE)
    found: dict[tuple[int, ...], str] = {}
    for arm, shape in shapes.items():
        if whole and shape and arm != REFERENCE and shape[0] == whole[0] and len(shape[1]) < len(whole[1]):
            for places in _gaps(whole[1], shape[1]):
                found.setdefault(places, arm)
    return found


def _shape(by_seed: Mapping[int, Record]) -> tuple[Any, list[Any]] | None:
    """What a model is besides its sublayers, and these."""
    plain = next((r["architecture"] for r in by_seed.values() if "architecture" in r), None)
    return None if plain is None else ({k: v for k, v in plain.items() if k != "sublayers"}, plain["sublayers"])


def _gaps(whole: Sequence[Any], rest: Sequence[Any]) -> list[tuple[int, ...]]:
    """The places whose removal from `whole` leaves `rest`: one sublayer, or all of one word."""
    words = [_word(s) for s in whole]
    groups: list[tuple[int, ...]] = [(i,) for i in range(len(whole))]
    groups += [tuple(i for i, w in enumerate(words) if w == word) for word in dict.fromkeys(words)]
    return [g for g in dict.fromkeys(groups) if [s for i, s in enumerate(whole) if i not in g] == list(rest)]


def _word(sublayer: Any) -> str:
    operation = sublayer["operation"]
    return operation if isinstance(operation, str) else str(next(iter(operation)))
