"""Regularised evolution over a grammar: a child is its parent with one decision changed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from aotsearch.errors import InputError
from aotsearch.evidence.front import dominates
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.study.sampling import Evolution

TRIES = 20  # parents, or draws, of which none leads to a new architecture, before the space is walked instead
VALUES = 4  # tries of a decision, of which none leads to a new architecture, before another decision is changed
Member = tuple[Architecture, tuple[float, ...]]  # with its objectives, lower is better


def child(space: Space, finished: Sequence[Member], known: Collection[str], options: Evolution, rng: random.Random) -> Architecture | None:
    """A new architecture: at random until the population is full, else the best of a sample of the youngest with one decision changed,
    each as likely.

    Args:
        finished: In the order in which they ended.
        known: Digests of what was proposed before.

    Returns:
        None where chance finds none.
    """
    for _ in range(TRIES):
        if len(finished) < options.population:
            try:
                found: Iterable[Architecture | None] = [space.sample(rng.getrandbits(32))]
            except InputError:  # nearly everything breaks a law
                return None
        else:
            parent = best(rng.sample(list(finished[-options.population :]), min(options.sample, options.population)))
            addresses = rng.sample(list(parent.decisions), len(parent.decisions))
            found = (space.mutated(parent, address, rng) for address in addresses for _ in range(VALUES))
        if (fresh := next((a for a in found if a is not None and a.digest not in known), None)) is not None:
            return fresh
    return None


def best(members: Sequence[Member]) -> Architecture:
    """The one that the fewest others dominate; of these the lowest in the first objective."""

    def rank(member: Member) -> tuple[int, tuple[float, ...], str]:
        _, own = member
        return sum(dominates(other, own) for _, other in members), own, member[0].digest

    return min(members, key=rank)[0]
