"""What a design is made of: arms, named by their change from the reference, and comparisons of them.

Every comparison is a sum of arms with weights that add up to 0, taken within a seed: an arm minus the reference, a main effect, an
interaction. So one analysis serves every design.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aotsearch.errors import InputError, suggest
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space

REFERENCE = "reference"
STRIPPED = "stripped"

Changes = tuple[tuple[str, Any, Any], ...]


@dataclass(frozen=True)
class Arm:
    """One architecture of a study, named by its change from the reference.

    Attributes:
        name: `reference`; else `decision=value,...`, with `@parameters` or `@flops` where it was re-sized.
        architecture: The model.
        changes: decision -> (from, to).
        equalise: What it was made equal to the reference in.
        resized: `depth` or `width` -> (from, to), where the size had to change for that.
    """

    name: str
    architecture: Architecture
    changes: Mapping[str, tuple[Any, Any]]
    equalise: str = "none"
    resized: tuple[tuple[str, int, int], ...] = ()


@dataclass(frozen=True)
class Comparison:
    """A sum of arms that a study declares before it runs.

    Attributes:
        name: The arm's name; `main effect of ...`; `... x ...`; `... at ...`.
        kind: `change` (an arm against another), `main` (effect, averaged over all other factors), `interaction`, or `simple` (effect,
            where another factor has one value), or `step` (of the ablation path of a search: an architecture against the one before it).
        changes: (decision, from, to) for each decision that is changed.
        weights: Arm -> weight; they add up to 0.
        equalise: What its arms were made equal in.
        held: Of a simple effect the other factor, with its value.
    """

    name: str
    kind: Literal["change", "main", "interaction", "simple", "step"]
    changes: Changes
    weights: Mapping[str, float]
    equalise: str = "none"
    held: tuple[str, Any] | None = None


@dataclass(frozen=True)
class Design:
    """The arms of a study, the reference first, and what they are compared for; a fraction also has its aliases.

    `same` are the changes that have no arm of their own, each with the arm that is that model: a layer removed from equal ones.
    """

    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()
    resolution: int | None = None
    same: tuple[tuple[str, Any, str], ...] = ()


def arm(space: Space, decisions: Mapping[str, Any], name: str | None = None) -> Arm:
    """The reference with some decisions changed."""
    name = name or label(list(decisions.items()))
    try:
        architecture, given = space.meant(decisions)
    except InputError as e:
        raise InputError(type(p)(f"arm {name!r}: {p.message}", p.mark) for p in e.problems) from None
    changes = {a: pair for a, pair in space.reference.diff(architecture).items() if a in given}
    return Arm(name, architecture, changes)


def combination(space: Space, changed: Mapping[str, Any]) -> Arm:
    """An arm of several factors at once, which must be such that they can be; of none, the reference."""
    try:
        return arm(space, changed) if changed else Arm(REFERENCE, space.reference, {})
    except InputError as e:
        remedy = "name in factors those that can be changed together"
        raise InputError(type(p)(f"{p.message}; {remedy}", p.mark) for p in e.problems) from None


def order(names: list[str], seeds: list[int]) -> list[tuple[str, int]]:
    """Every arm under every seed: blocked by seed, so that a run cut short is still balanced; shuffled within a block."""
    cells = []
    for seed in seeds:
        block = list(names)
        random.Random(seed).shuffle(block)
        cells += [(name, seed) for name in block]
    return cells


# ---- comparisons


def against(a: Arm, other: str) -> Comparison:
    changes = tuple((address, here, there) for address, (here, there) in a.changes.items())
    return Comparison(a.name, "change", changes, {a.name: 1.0, other: -1.0}, a.equalise)


def of_two(arms: Sequence[Arm], one: str, other: str) -> Comparison:
    """An arm against another that is not the reference."""
    by_name = {a.name: a for a in arms}
    for name in (one, other):
        if name not in by_name:
            raise InputError(f"compare: no arm {name!r}{suggest(name, by_name)}")
    if one == other or REFERENCE in (one, other):
        raise InputError(f"compare: {one!r} with {other!r}: name two different arms; each is compared with the reference anyway")
    here, there = by_name[other].architecture, by_name[one].architecture
    varied = by_name[one].changes.keys() | by_name[other].changes.keys()
    changes = tuple((address, *pair) for address, pair in here.diff(there).items() if address in varied)
    return Comparison(f"{one} against {other}", "change", changes, {one: 1.0, other: -1.0})


def main_effect(space: Space, change: tuple[str, Any], weights: Mapping[str, float]) -> Comparison:
    address, value = change
    return Comparison(f"main effect of {label([change])}", "main", ((address, space.reference.decisions[address], value),), weights)


def interaction(space: Space, one: tuple[str, Any], two: tuple[str, Any], weights: Mapping[str, float]) -> Comparison:
    reference = space.reference.decisions
    changes = tuple((a, reference[a], v) for a, v in (one, two))
    return Comparison(f"{label([one])} x {label([two])}", "interaction", changes, dict(weights))


def compared(design: Design, modes: Sequence[str]) -> tuple[Comparison, ...]:
    """The comparisons of a design under every mode, by name: nothing has to be re-sized to know them."""
    arms = {a.name for a in design.arms}

    def under(c: Comparison, mode: str) -> Comparison:
        weights = {equal_name(name, mode): weight for name, weight in c.weights.items()}
        name = equal_name(c.name, mode) if c.name in arms else c.name
        return dataclasses.replace(c, name=name, weights=weights, equalise=mode)

    return tuple(under(c, mode) for mode in modes for c in design.comparisons)


# ---- names


def label(changes: Sequence[tuple[str, Any]]) -> str:
    return ",".join(f"{address}={spell(value)}" for address, value in changes)


def spell(value: Any) -> str:
    """A decision's value in words; one that is not met is a dash."""
    if value is None:
        return "-"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def equal_name(name: str, mode: str) -> str:
    """The name of an arm, or of a comparison with one, that was made equal to the reference in `mode`: `channel=none@parameters`."""
    return name if mode == "none" or name == REFERENCE else f"{name}@{mode}"


def equal_terms(mode: str) -> list[str]:
    """What an arm was made equal in, in words: `equal parameters`, `equal FLOPs`; nothing where it is as it is."""
    return [] if mode == "none" else [f"equal {'FLOPs' if mode == 'flops' else mode}"]


def rate_terms(rate: str, asked: bool) -> list[str]:
    """At which learning rate arms were compared, in words: nothing where there is but one, which all arms share."""
    return {("tuned", True): ["own learning rate"], ("shared", False): ["shared learning rate"]}.get((rate, asked), [])


def plain_name(name: str, mode: str) -> str:
    """The name before the arm was made equal: the inverse of `equal_name`."""
    return name.removesuffix(f"@{mode}")
