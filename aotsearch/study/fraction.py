"""Regular two-level fractions: which combinations are trained, and which effects can then not be told apart.

Source: Box and Hunter 1961; Fries and Hunter 1980.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aotsearch.errors import InputError
from aotsearch.grammar.space import Space
from aotsearch.study.design import Design, combination, interaction, main_effect

MAX_FACTORS = 10


def fractional(space: Space, levels: Mapping[str, tuple[Any, ...]], runs: int | None) -> Design:
    """A regular two-level fraction: each further factor is changed where an odd number of its generators is.

    Every factor has its reference and its first alternative. Among all generators those are taken that confound the fewest short
    effects: the highest resolution, then the least aberration.
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
    changes = [(a, values[0]) for a, values in levels.items()]
    rows = [[*choice, *(sum(choice[i] for i in g) % 2 for g in generators)] for choice in itertools.product((0, 1), repeat=base)]
    arms = [combination(space, dict(itertools.compress(changes, row))) for row in rows]

    def weights(weight: float, changed: Iterable[bool]) -> dict[str, float]:
        return {a.name: weight if yes else -weight for a, yes in zip(arms, changed, strict=True)}

    comparisons = [main_effect(space, change, weights(2 / wanted, (row[i] == 1 for row in rows))) for i, change in enumerate(changes)]
    seen: set[frozenset[int]] = set()
    for i, j in itertools.combinations(range(len(names)), 2):
        same = {frozenset({i, j}) ^ word for word in [frozenset[int](), *words]}
        if seen & same or any(len(e) == 1 for e in same):
            continue  # the same sum as another, which its aliases name
        seen |= same
        both = weights(4 / wanted, (row[i] == row[j] for row in rows))
        comparisons.append(interaction(space, changes[i], changes[j], both))
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
    """Every main effect and two-way interaction with the effects of at most three factors that it cannot be told from."""
    effects = [frozenset(c) for size in (1, 2) for c in itertools.combinations(range(len(names)), size)]

    def spelt(effect: frozenset[int]) -> str:
        return " x ".join(names[i] for i in sorted(effect))

    found = []
    for effect in effects:
        same = sorted((effect ^ w for w in words), key=lambda e: (len(e), sorted(e)))
        found.append((spelt(effect), tuple(spelt(e) for e in same if 0 < len(e) <= 3)))
    return tuple(found)
