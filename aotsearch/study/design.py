"""Which arms a study trains, what they are compared for, and in which order.

Every comparison is a sum of arms with weights that add up to 0, taken within a seed: an arm minus the reference, a main effect, an
interaction. So one analysis serves every design.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from aotsearch.errors import InputError, suggest
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space

REFERENCE = "reference"
STRIPPED = "stripped"
MAX_ARMS = 1000
MAX_SUBLAYERS = 10_000  # of all arms
MAX_DECISIONS = 50_000  # of all arms
MAX_FACTORS = 10  # of a fraction
LISTED = 12  # decisions of one reason, and reasons, that are told in words

Changes = tuple[tuple[str, Any, Any], ...]
Held = tuple[tuple[str, Any], ...]  # decisions with the values that some cells share


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
            where another factor has one value).
        changes: (decision, from, to) for each decision that is changed.
        weights: Arm -> weight; they add up to 0.
        equalise: What its arms were made equal in.
        held: Of a simple effect the other factor, with its value.
    """

    name: str
    kind: Literal["change", "main", "interaction", "simple"]
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
    if design == "one-at-a-time":
        made = _places_merged(space, _one_at_a_time(space, levels))
    elif design == "add-one-in":
        made = _add_one_in(space, stripped or {})
    elif design == "pairs":
        made = _pairs(space, levels)
    elif design == "factorial":
        made = _factorial(space, levels)
    elif design == "fractional":
        made = _fractional(space, levels, runs)
    else:
        made = Design((Arm(REFERENCE, space.reference, {}),), ())
    arms, comparisons = list(made.arms), list(made.comparisons)
    for name, decisions in (extra or {}).items():
        found = arm(space, decisions, name)
        arms.append(found)
        comparisons.append(_against(found, REFERENCE))
    _limit(arms)
    _distinct(arms)
    comparisons += [_of_two(arms, one, other) for one, other in compare]
    return dataclasses.replace(made, arms=tuple(arms), comparisons=tuple(comparisons))


def arm(space: Space, decisions: Mapping[str, Any], name: str | None = None) -> Arm:
    """The reference with some decisions changed."""
    reference = space.reference
    label = name or _label(list(decisions.items()))
    try:
        architecture, given = space.meant(decisions)
    except InputError as e:
        raise InputError(type(p)(f"arm {label!r}: {p.message}", p.mark) for p in e.problems) from None
    changes = {a: pair for a, pair in reference.diff(architecture).items() if a in given}
    return Arm(label, architecture, changes)


def order(names: list[str], seeds: list[int]) -> list[tuple[str, int]]:
    """Every arm under every seed: blocked by seed, so that a run cut short is still balanced; shuffled within a block."""
    cells = []
    for seed in seeds:
        block = list(names)
        random.Random(seed).shuffle(block)
        cells += [(name, seed) for name in block]
    return cells


# ---- the designs


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
    return dataclasses.replace(made, arms=arms, comparisons=tuple(_against(a, REFERENCE) for a in arms[1:]), same=tuple(same.values()))


def _one_at_a_time(space: Space, levels: Mapping[str, tuple[Any, ...]]) -> Design:
    _room(space, 1 + sum(map(len, levels.values())))
    arms = [Arm(REFERENCE, space.reference, {})]
    for address, values in levels.items():
        for value in values:
            arms.append(arm(space, {address: value}))
            _limit(arms)
    return Design(tuple(arms), tuple(_against(a, REFERENCE) for a in arms[1:]))


def _add_one_in(space: Space, stripped: Mapping[str, Any]) -> Design:
    """The stripped model, and the stripped model with one of the reference's choices back; each is compared with the stripped one."""
    if not stripped:
        raise InputError("design: add-one-in needs stripped, the decisions of the model that choices are added to: {channel: none, ...}")
    base = arm(space, stripped, STRIPPED)
    stripped = {a: base.architecture.decisions[a] for a in space.meant(stripped)[1]}  # every address that the keys mean
    arms = [Arm(REFERENCE, space.reference, {}), base]
    comparisons = [_against(base, REFERENCE)]
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
        both = _together(space, dict([one, two]))
        arms.append(both)
        _limit(arms)
        weights = {both.name: 1.0, _label([one]): -1.0, _label([two]): -1.0, REFERENCE: 1.0}
        comparisons.append(_interaction(space, one, two, weights))
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
    name = {tuple(cell.values()): _name(cell, reference) for cell in cells}
    arms = [_cell(space, cell) for cell in cells]
    comparisons: list[Comparison] = []

    def total(signs: Mapping[Held, float]) -> dict[str, float]:
        """The weights of the means over the cells that hold some values."""
        weights: dict[str, float] = {}
        for held, sign in signs.items():
            chosen = [c for c in cells if all(c[a] == v for a, v in held)]
            for c in chosen:
                label = name[tuple(c.values())]
                weights[label] = weights.get(label, 0.0) + sign / len(chosen)
        return weights

    for a, values in levels.items():
        for v in values:
            weights = total({((a, v),): 1.0, ((a, reference[a]),): -1.0})
            comparisons.append(Comparison(f"main effect of {_label([(a, v)])}", "main", ((a, reference[a], v),), weights))
    for (a, values), (b, others) in itertools.combinations(levels.items(), 2):
        for v, w in itertools.product(values, others):
            r, s = reference[a], reference[b]
            signs: dict[Held, float] = {((a, v), (b, w)): 1.0, ((a, v), (b, s)): -1.0, ((a, r), (b, w)): -1.0, ((a, r), (b, s)): 1.0}
            comparisons.append(_interaction(space, (a, v), (b, w), total(signs)))
    for (a, values), (b, others) in itertools.permutations(full.items(), 2):
        for v, x in itertools.product(values[1:], others):
            weights = total({((a, v), (b, x)): 1.0, ((a, reference[a]), (b, x)): -1.0})
            name_of = f"{_label([(a, v)])} at {_label([(b, x)])}"
            comparisons.append(Comparison(name_of, "simple", ((a, reference[a], v),), weights, held=(b, x)))
    return Design(tuple(arms), tuple(comparisons))


def _fractional(space: Space, levels: Mapping[str, tuple[Any, ...]], runs: int | None) -> Design:
    """A regular two-level fraction: each further factor is changed where an odd number of its generators is.

    Every factor has its reference and its first alternative. Among all generators those are taken that confound the fewest short
    effects: the highest resolution, then the least aberration. Source: Box and Hunter 1961; Fries and Hunter 1980.
    """
    names = list(levels)
    if not 3 <= len(names) <= MAX_FACTORS:
        raise InputError(f"design: fractional takes 3 to {MAX_FACTORS} factors, not {len(names)}; name them in factors")
    wanted = runs or 2 ** (len(names) - 1 if len(names) < 6 else 4)
    base = wanted.bit_length() - 1
    if wanted != 2**base or not 2 <= base < len(names):
        sizes = ", ".join(str(2**k) for k in range(2, len(names)))
        raise InputError(f"runs of a fraction over {len(names)} factors is one of {sizes}, not {wanted}")
    generators = _generators(len(names), base)
    words = _words(generators, base)
    reference = space.reference.decisions
    cells, bits = [], []
    for choice in itertools.product((0, 1), repeat=base):
        row = [*choice, *(sum(choice[i] for i in g) % 2 for g in generators)]
        bits.append(row)
        cells.append({a: levels[a][0] if bit else reference[a] for a, bit in zip(names, row, strict=True)})
    arms = [_cell(space, cell) for cell in cells]
    comparisons = []
    for i, a in enumerate(names):
        weights = {x.name: (1.0 if row[i] else -1.0) * 2 / wanted for x, row in zip(arms, bits, strict=True)}
        change = (a, levels[a][0])
        comparisons.append(Comparison(f"main effect of {_label([change])}", "main", ((a, reference[a], change[1]),), weights))
    seen: set[frozenset[int]] = set()
    for i, j in itertools.combinations(range(len(names)), 2):
        same = {frozenset({i, j}) ^ word for word in [frozenset[int](), *words]}
        if seen & same or any(len(e) == 1 for e in same):
            continue  # the same sum as another, which its aliases name
        seen |= same
        weights = {x.name: (1.0 if row[i] == row[j] else -1.0) * 4 / wanted for x, row in zip(arms, bits, strict=True)}
        comparisons.append(_interaction(space, (names[i], levels[names[i]][0]), (names[j], levels[names[j]][0]), weights))
    return Design(tuple(arms), tuple(comparisons), _aliases(names, words), min(map(len, words)))


def _generators(factors: int, base: int) -> tuple[tuple[int, ...], ...]:
    """For each factor beyond the base, the base factors whose changes it follows."""
    subsets = [s for size in range(base, 1, -1) for s in itertools.combinations(range(base), size)]
    if factors - base > len(subsets):
        raise InputError(f"a fraction of {2**base} runs holds at most {base + len(subsets)} factors, not {factors}; take more runs")

    def badness(generators: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
        lengths = Counter(len(w) for w in _words(generators, base))
        return tuple(lengths[k] for k in range(3, factors + 1))  # the shortest words first

    choices = itertools.islice(itertools.combinations(subsets, factors - base), 20_000)
    return min(choices, key=badness)


def _words(generators: Sequence[tuple[int, ...]], base: int) -> list[frozenset[int]]:
    """The defining words of a fraction: products of factors that are constant over its runs."""
    single = [frozenset({*g, base + i}) for i, g in enumerate(generators)]
    words = []
    for size in range(1, len(single) + 1):
        for chosen in itertools.combinations(single, size):
            word: frozenset[int] = frozenset()
            for w in chosen:
                word = word ^ w
            words.append(word)
    return words


def _aliases(names: Sequence[str], words: Sequence[frozenset[int]]) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Every main effect and two-way interaction with the effects of at most three factors that it can not be told from."""
    effects = [frozenset(c) for size in (1, 2) for c in itertools.combinations(range(len(names)), size)]

    def spelt(effect: frozenset[int]) -> str:
        return " x ".join(names[i] for i in sorted(effect))

    found = []
    for effect in effects:
        same = sorted((effect ^ w for w in words), key=lambda e: (len(e), sorted(e)))
        found.append((spelt(effect), tuple(spelt(e) for e in same if 0 < len(e) <= 3)))
    return tuple(found)


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


# ---- arms and comparisons


def _against(a: Arm, other: str) -> Comparison:
    changes = tuple((address, here, there) for address, (here, there) in a.changes.items())
    return Comparison(a.name, "change", changes, {a.name: 1.0, other: -1.0}, a.equalise)


def _of_two(arms: Sequence[Arm], one: str, other: str) -> Comparison:
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


def _interaction(space: Space, one: tuple[str, Any], two: tuple[str, Any], weights: Mapping[str, float]) -> Comparison:
    reference = space.reference.decisions
    changes = tuple((a, reference[a], v) for a, v in (one, two))
    return Comparison(f"{_label([one])} x {_label([two])}", "interaction", changes, dict(weights))


def _cell(space: Space, cell: Mapping[str, Any]) -> Arm:
    reference = space.reference.decisions
    changed = {a: v for a, v in cell.items() if v != reference[a]}
    return _together(space, changed) if changed else Arm(REFERENCE, space.reference, {})


def _together(space: Space, changed: Mapping[str, Any]) -> Arm:
    """An arm of several factors at once, which must be such that they can be."""
    try:
        return arm(space, changed)
    except InputError as e:
        remedy = "name in factors those that can be changed together"
        raise InputError(type(p)(f"{p.message}; {remedy}", p.mark) for p in e.problems) from None


def _name(cell: Mapping[str, Any], reference: Mapping[str, Any]) -> str:
    return _label([(a, v) for a, v in cell.items() if v != reference[a]]) or REFERENCE


def _label(changes: Sequence[tuple[str, Any]]) -> str:
    return ",".join(f"{address}={spell(value)}" for address, value in changes)


def spell(value: Any) -> str:
    """A decision's value in words; one that is not met is a dash."""
    if value is None:
        return "-"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


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


def compared(design: Design, modes: Sequence[str]) -> tuple[Comparison, ...]:
    """The comparisons of a design under every mode, by name: nothing has to be re-sized to know them."""
    arms = {a.name for a in design.arms}

    def under(c: Comparison, mode: str) -> Comparison:
        weights = {equal_name(name, mode): weight for name, weight in c.weights.items()}
        name = equal_name(c.name, mode) if c.name in arms else c.name
        return dataclasses.replace(c, name=name, weights=weights, equalise=mode)

    return tuple(under(c, mode) for mode in modes for c in design.comparisons)
