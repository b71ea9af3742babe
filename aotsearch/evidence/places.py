"""Records of a search over layers -> what the best of its models have at each place."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aotsearch.evidence.tables import Record, finished, natural
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.decision import Decision
from aotsearch.study.study import Study

FEWEST = 12  # trials below which a quarter of them says nothing
QUARTER = 4

Shares = tuple[tuple[float | None, ...], ...]  # of each alternative, at each place


@dataclass(frozen=True)
class Places:
    """A decision under an `each`, by place.

    Attributes:
        name: It has at every place.
        values: Its alternatives, the reference first.
        best: For each alternative its share of the best quarter of the trials, by place; None where no such model meets it there.
        all: The same of all trials that trained to the end.
        trials: How many these are.
    """

    name: str
    values: tuple[Any, ...]
    best: Shares
    all: Shares
    trials: int


def by_place(tried: Sequence[tuple[Record, Architecture]], study: Study) -> list[Places]:
    """Which layers of the best models have what; nothing below twelve trials, or where nothing is decided layer by layer.

    It describes the trials that the search chose to make, one seed each, and proves nothing.
    """
    ranked = [a for _, a, _ in sorted(finished(tried, study), key=lambda row: (row[2], row[1].digest))]
    if len(ranked) < FEWEST:
        return []
    places: dict[tuple[str, tuple[Any, ...]], list[str]] = {}
    for address, decision in sorted(_met(ranked, study).items(), key=lambda pair: natural(pair[0])):
        if decision.prefix and len(decision.values) > 1:
            places.setdefault((decision.name, tuple(decision.values)), []).append(address)

    def shares(of: Sequence[Architecture], addresses: Sequence[str], values: Sequence[Any]) -> Shares:
        met = [[a.decisions[at] for a in of if at in a.decisions] for at in addresses]
        return tuple(tuple(column.count(v) / len(column) if column else None for column in met) for v in values)

    best = ranked[: -(-len(ranked) // QUARTER)]
    return [
        Places(name, values, shares(best, addresses, values), shares(ranked, addresses, values), len(ranked))
        for (name, values), addresses in places.items()
        if len(addresses) > 1
    ]


def _met(architectures: Sequence[Architecture], study: Study) -> dict[str, Decision]:
    """Every decision that they meet: deeper models have some that the reference has not."""
    met = dict(study.space.decisions())
    for architecture in architectures:
        if not architecture.decisions.keys() <= met.keys():

            def choose(decision: Decision, decided: Mapping[str, Any] = architecture.decisions) -> Any:
                met.setdefault(decision.address, decision)
                return decided[decision.address]

            study.space.derive(choose)
    return met
