"""The designs: which arms each trains, and what they are compared for."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from aotsearch.errors import InputError, suggest
from aotsearch.grammar.space import Space
from aotsearch.study.design import (
    REFERENCE,
    STRIPPED,
    Arm,
    Comparison,
    Design,
    against,
    arm,
    combination,
    interaction,
    label,
    main_effect,
    of_two,
    spell,
)
from aotsearch.study.fraction import MAX_FACTORS, fractional

MAX_ARMS = 1000
MAX_SUBLAYERS = 10_000  # of all arms
MAX_DECISIONS = 50_000  # of all arms
LISTED = 12  # decisions of one reason, and reasons, that are told in words

Held = tuple[tuple[str, Any], ...]  # decisions with the values that some cells share


def make(
    space: Space,
    design: str,
    factors: Sequence[str] = (),
    stripped: Mapping[str, Any] | None = None,
    runs: int | None = None,
    extra: Mapping[str, Mapping[str, Any]] | None = None,
    compare: Sequence[tuple[str, str]] = (),
) -> Design:
    """The arms and comparisons of a design.

    Args:
        space: The architectures; the reference of every decision is its first alternative.
        design: `one-at-a-time`, `add-one-in`, `factorial`, `fractional`, `pairs` or `search` (which has no arms before it runs).
        factors: The decisions that are varied; all, if none are named. Here and below a decision under an `each` is named by its address,
            or by the name that it has at every place, which means all of them.
        stripped: For `add-one-in`: decision -> value of the model to which the reference's choices are added back one at a time.
        runs: For `fractional`: how many arms, a power of two.
        extra: Further arms by name, as decision -> value, each compared with the reference.
        compare: Further comparisons: an arm, and the one that it is compared with.

    Raises:
        InputError: an arm breaks a law of the grammar or equals another, a factor does not fit the design, or no arm has a name.
    """
    levels = _levels(space, factors)
    made = {
        "one-at-a-time": lambda: _places_merged(space, _one_at_a_time(space, levels)),
        "add-one-in": lambda: _add_one_in(space, stripped or {}),
        "pairs": lambda: _pairs(space, levels),
        "factorial": lambda: _factorial(space, levels),
        "fractional": lambda: fractional(space, levels, runs),
        "search": lambda: Design((Arm(REFERENCE, space.reference, {}),), ()),
    }[design]()
    further = [arm(space, decisions, name) for name, decisions in (extra or {}).items()]
    arms = (*made.arms, *further)
    _limit(arms)
    _distinct(arms)
    comparisons = [*(against(a, REFERENCE) for a in further), *(of_two(arms, one, other) for one, other in compare)]
    return dataclasses.replace(made, arms=arms, comparisons=(*made.comparisons, *comparisons))


def _levels(space: Space, factors: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Decision -> the values it is changed to, for the decisions that the reference meets."""
    known = space.decisions()
    keys = {a: space.key(decision, factors) for a, decision in known.items()}
    for factor in factors:
        meant = [known[a] for a, key in keys.items() if key == factor]
        if not meant:
            raise InputError(f"factors: no decision {factor!r}{suggest(factor, {*known, *(d.name for d in known.values())})}")
        met = [d for d in meant if d.address not in space.absent]
        if not met:
            raise InputError(f"factors: {factor!r} is not met in the reference ({space.absent[meant[0].address]})")
        if not met[0].values:
            raise InputError(f"factors: {factor!r} is a range, which a search varies; a factor has alternatives")
        if all(len(d.values) < 2 for d in met):
            raise InputError(f"factors: {factor!r} has one alternative alone; a factor has two at least")
    chosen = [d for a, d in known.items() if a not in space.absent and (not factors or keys[a] in factors)]
    return {d.address: d.values[1:] for d in chosen if len(d.values) > 1}


def _places_merged(space: Space, made: Design) -> Design:
    """The design without the arms that are, at another place of an `each`, the same change and the same model.

    Of equal layers in a row it is no matter which one is left out.
    """
    known, first, same = space.decisions(), dict[Any, str](), dict[str, tuple[str, Any, str]]()
    for a in made.arms[1:]:
        ((address, (_, value)),) = a.changes.items()
        twin = first.setdefault((known[address].name, value, a.architecture.digest), a.name)
        if twin != a.name and known[address].prefix:
            same[a.name] = address, value, twin
    arms = tuple(a for a in made.arms if a.name not in same)
    return dataclasses.replace(made, arms=arms, comparisons=tuple(against(a, REFERENCE) for a in arms[1:]), same=tuple(same.values()))


def _one_at_a_time(space: Space, levels: Mapping[str, tuple[Any, ...]]) -> Design:
    _room(space, 1 + sum(map(len, levels.values())))
    arms = [Arm(REFERENCE, space.reference, {})]
    for address, values in levels.items():
        for value in values:
            arms.append(arm(space, {address: value}))
            _limit(arms)
    return Design(tuple(arms), tuple(against(a, REFERENCE) for a in arms[1:]))


def _add_one_in(space: Space, stripped: Mapping[str, Any]) -> Design:
    """The stripped model, and the stripped model with one of the reference's choices back; each is compared with the stripped one."""
    if not stripped:
        raise InputError("design: add-one-in needs stripped, the decisions of the model that choices are added to: {channel: none, ...}")
    base = arm(space, stripped, STRIPPED)
    stripped = {a: base.architecture.decisions[a] for a in space.meant(stripped)[1]}  # every address that the keys mean
    arms = [Arm(REFERENCE, space.reference, {}), base]
    comparisons = [against(base, REFERENCE)]
    for address in stripped:
        rest = {a: v for a, v in stripped.items() if a != address}
        added = arm(space, rest, f"stripped,{address}={spell(space.reference.decisions.get(address))}")
        if rest:  # else it is the reference
            arms.append(added)
        name = added.name if rest else REFERENCE
        changes = ((address, space.reference.decisions.get(address), stripped[address]),)  # without it, against with it
        comparisons.append(Comparison(f"stripped of {address}", "change", changes, {STRIPPED: 1.0, name: -1.0}))
    return Design(tuple(arms), tuple(comparisons))


def _pairs(space: Space, levels: Mapping[str, tuple[Any, ...]]) -> Design:
    """Every change alone and every two together: what the two do beyond the sum of each is their interaction."""
    single = [(address, value) for address, values in levels.items() for value in values]
    pairs = [(one, two) for one, two in itertools.combinations(single, 2) if one[0] != two[0]]
    _room(space, 1 + len(single) + len(pairs))
    alone = _one_at_a_time(space, levels)
    arms, comparisons = list(alone.arms), list(alone.comparisons)
    for one, two in pairs:
        both = combination(space, dict([one, two]))
        arms.append(both)
        _limit(arms)
        weights = {both.name: 1.0, label([one]): -1.0, label([two]): -1.0, REFERENCE: 1.0}
        comparisons.append(interaction(space, one, two, weights))
    return Design(tuple(arms), tuple(comparisons))


def _factorial(space: Space, levels: Mapping[str, tuple[Any, ...]]) -> Design:
    """Every combination. A main effect is the mean change over all combinations of the others, an interaction the mean difference of it.

    A simple effect is the mean change where one other factor has one value: what a main effect is made of.
    """
    number = math.prod(1 + len(v) for v in levels.values())
    if number > MAX_ARMS:
        over = ", ".join(levels) if len(levels) <= MAX_FACTORS else f"{len(levels)} decisions"
        raise InputError(f"a full factorial over {over} has more than {MAX_ARMS} arms; name fewer in factors, or take a fraction")
    _room(space, number)
    reference = space.reference.decisions
    full = {a: (reference[a], *values) for a, values in levels.items()}
    cells = [dict(zip(full, values, strict=True)) for values in itertools.product(*full.values())]
    arms = [combination(space, {a: v for a, v in cell.items() if v != reference[a]}) for cell in cells]
    comparisons: list[Comparison] = []

    def total(signs: Mapping[Held, float]) -> dict[str, float]:
        """The weights of the means over the cells that hold some values."""
        weights: dict[str, float] = {}
        for held, sign in signs.items():
            names = [arm.name for arm, cell in zip(arms, cells, strict=True) if all(cell[a] == v for a, v in held)]
            for name in names:
                weights[name] = weights.get(name, 0.0) + sign / len(names)
        return weights

    for a, values in levels.items():
        for v in values:
            comparisons.append(main_effect(space, (a, v), total({((a, v),): 1.0, ((a, reference[a]),): -1.0})))
    for (a, values), (b, others) in itertools.combinations(levels.items(), 2):
        for v, w in itertools.product(values, others):
            r, s = reference[a], reference[b]
            signs: dict[Held, float] = {((a, v), (b, w)): 1.0, ((a, v), (b, s)): -1.0, ((a, r), (b, w)): -1.0, ((a, r), (b, s)): 1.0}
            comparisons.append(interaction(space, (a, v), (b, w), total(signs)))
    for (a, values), (b, others) in itertools.permutations(full.items(), 2):
        for v, x in itertools.product(values[1:], others):
            weights = total({((a, v), (b, x)): 1.0, ((a, reference[a]), (b, x)): -1.0})
            name_of = f"{label([(a, v)])} at {label([(b, x)])}"
            comparisons.append(Comparison(name_of, "simple", ((a, reference[a], v),), weights, held=(b, x)))
    return Design(tuple(arms), tuple(comparisons))


# ---- what is not varied


def not_varied(space: Space, made: Design, design: str) -> dict[str, str]:
    """Decision -> why no arm changes it, or not to each of its alternatives; of a search nothing, which varies all."""
    if design == "search":
        return {}
    varied = {address for a in made.arms for address in a.changes}
    reasons: dict[str, str] = {}
    for address, decision in space.decisions().items():
        if address in varied:
            if design == "fractional" and len(decision.values) > 2:
                reasons[address] = f"beyond {spell(decision.values[1])}; a fraction has two levels"
        elif address in space.absent:
            reasons[address] = space.absent[address]
        elif not decision.values:
            reasons[address] = "a range; a search varies it"
        elif len(decision.values) == 1:
            reasons[address] = "one alternative"
        else:
            reasons[address] = "not in stripped" if design == "add-one-in" else "not in factors"
    for address, value, twin in made.same:
        reasons[address] = f"{spell(value)} is the same model as {twin}"
    return reasons


def listed(space: Space, reasons: Mapping[str, str]) -> str:
    """What is not varied in one line, by reason; decisions that share name and reason at all places of an `each` by their name."""
    known = space.decisions()
    members: dict[str, set[str]] = {}
    for address, decision in known.items():
        members.setdefault(decision.name, set()).add(reasons.get(address, ""))
    by_reason: dict[str, list[str]] = {}
    for address, reason in reasons.items():
        by_reason.setdefault(reason, []).append(known[address].name if len(members[known[address].name]) == 1 else address)
    groups = {reason: list(dict.fromkeys(names)) for reason, names in by_reason.items()}
    shown = [f"{', '.join(n[:LISTED])}{f' and {len(n) - LISTED} more' if n[LISTED:] else ''} ({reason})" for reason, n in groups.items()]
    return "; ".join(shown[:LISTED]) + (f"; and {len(shown) - LISTED} more reasons" if shown[LISTED:] else "")


# ---- what is too much, or twice


def _limit(made: Sequence[Arm]) -> None:
    _sized(len(made), sum(len(a.architecture.sublayers) for a in made), sum(len(a.architecture.decisions) for a in made))


def _room(space: Space, number: int) -> None:
    """Refuse so many arms before any is made, where they are of the reference's size."""
    reference = space.reference
    _sized(number, number * len(reference.sublayers), number * len(reference.decisions))


def _sized(arms: int, sublayers: int, decisions: int) -> None:
    remedy = "name fewer decisions in factors, or use design: search"
    if arms > MAX_ARMS:
        raise InputError(f"a study has at most {MAX_ARMS} arms, and these would be {arms}; {remedy}")
    for what, number, most in (("sublayers", sublayers, MAX_SUBLAYERS), ("decisions", decisions, MAX_DECISIONS)):
        if arms > 20 and number > most:
            raise InputError(f"the arms of a study have at most {most:,} {what}, all together, and these would have {number:,}; {remedy}")


def _distinct(made: Sequence[Arm]) -> None:
    """A knob that does nothing is an error: two arms must not be one model."""
    first: dict[str, str] = {}
    for a in made:
        other = first.setdefault(a.architecture.digest, a.name)
        if other != a.name:
            raise InputError(f"arm {a.name!r} is the same model as {other!r}; remove it, leave its decision out of factors, or let it act")
    for name, times in Counter(a.name for a in made).items():
        if times > 1:
            raise InputError(f"two arms are named {name!r}")
