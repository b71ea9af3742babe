"""Which arms a study trains, and in which order."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.architecture import Architecture
from aotsearch.errors import InputError, suggest
from aotsearch.space import Space

REFERENCE = "reference"
MAX_ARMS = 1000
MAX_SUBLAYERS = 50_000  # of all arms


@dataclass(frozen=True)
class Arm:
    """One architecture of a study, named by its change from the reference."""

    name: str
    architecture: Architecture
    changes: Mapping[str, tuple[Any, Any]]  # decision -> (from, to)


def arms(space: Space, design: str, extra: Mapping[str, Mapping[str, Any]]) -> list[Arm]:
    """The arms of a design, the reference first; `extra` adds arms by name, as decision -> value.

    Raises:
        InputError: an arm breaks a law of the grammar, or equals the reference.
    """
    made = [Arm(REFERENCE, space.reference, {})]
    if design == "one-at-a-time":
        for address, decision in space.decisions().items():
            if address in made[0].architecture.decisions:
                for value in decision.values[1:]:
                    made.append(arm(space, {address: value}))
                    _limit(made)
    for name, decisions in extra.items():
        for address in decisions.keys() - space.decisions().keys():
            raise InputError(f"arm {name!r}: no decision {address!r}{suggest(address, space.decisions())}")
        made.append(arm(space, decisions, name))
        _limit(made)
    _distinct(made)
    return made


def _limit(made: list[Arm]) -> None:
    if len(made) > MAX_ARMS:
        raise InputError(f"a study has at most {MAX_ARMS} arms; use design: search, or fewer alternatives")
    if len(made) > 100 and sum(len(a.architecture.sublayers) for a in made) > MAX_SUBLAYERS:
        raise InputError(f"the arms of a study have at most {MAX_SUBLAYERS} sublayers, all together")


def arm(space: Space, decisions: Mapping[str, Any], name: str | None = None) -> Arm:
    """The reference with some decisions changed."""
    reference = space.reference
    label = name or ",".join(f"{address}={value}" for address, value in decisions.items())
    try:
        architecture = space.at(decisions)
    except InputError as e:
        raise InputError(type(p)(f"arm {label!r}: {p.message}", p.mark) for p in e.problems) from None
    changes = {a: pair for a, pair in reference.diff(architecture).items() if a in decisions}
    return Arm(label, architecture, changes)


def _distinct(made: list[Arm]) -> None:
    """A knob that does nothing is an error: two arms must not be one model."""
    first: dict[str, str] = {}
    for a in made:
        other = first.setdefault(a.architecture.digest, a.name)
        if other != a.name:
            raise InputError(f"arm {a.name!r} is the same model as {other!r}; remove it, or let its decision act")
    names = [a.name for a in made]
    for name, times in Counter(names).items():
        if times > 1:
            raise InputError(f"two arms are named {name!r}")


def order(names: list[str], seeds: list[int]) -> list[tuple[str, int]]:
    """Every arm under every seed: blocked by seed, so that a run cut short is still balanced; shuffled within a block."""
    cells = []
    for seed in seeds:
        block = list(names)
        random.Random(seed).shuffle(block)
        cells += [(name, seed) for name in block]
    return cells
