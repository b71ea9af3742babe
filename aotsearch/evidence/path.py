"""Records of a search -> the ablation path of what it found: from the reference to it, one decision at a time.

Every step is compared, under the fresh seeds of the confirmation, with the one before it, so that a search ends in verdicts on single
changes. What is explained is chosen by the search's own trials alone, before any of those seeds: the knee of a front, else the best.

The order of the steps is that in which the search's trials spoke for them: the change whose trials did better on average by more comes
first. Another order may share an interaction otherwise. Source: Fawcett and Hoos 2016 (doi:10.1007/s10732-014-9275-9), who train every
change at every step and take the best: ours trains one chain.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from aotsearch.errors import InputError
from aotsearch.evidence.declaration import candidate
from aotsearch.evidence.front import front, knee, promising
from aotsearch.evidence.tables import Record, finished
from aotsearch.grammar.architecture import Architecture
from aotsearch.study.design import Comparison, label
from aotsearch.study.study import Study

LOOKS = 1000  # at orders, some of which break a law, before what is left is one step

Tried = Sequence[tuple[Record, Architecture]]
At = Callable[[Sequence[str]], Architecture | None]  # the reference with so many decisions of what was found; None where that is unlawful
Stage = tuple[Architecture, list[str]]  # and the decisions that lead to it from the stage before


def confirmed(tried: Tried, study: Study) -> tuple[list[Architecture], list[Architecture]]:
    """What a search trains again on fresh seeds, besides the study's arms: the most promising; and what else its path goes through."""
    best = promising(tried, study)[: study.settings.search.confirmed]
    known = {a.digest for a in [*best, *(arm.architecture for arm in study.base_design.arms)]}
    return best, [a for a in path(tried, study) if a.digest not in known]


def path(tried: Tried, study: Study) -> list[Architecture]:
    """From the reference to what the search found; empty where none is asked for, or where it is one change away."""
    return [a for a, _ in _stages(tried, study)]


def _stages(tried: Tried, study: Study) -> list[Stage]:
    found = promising(tried, study)
    if not study.settings.search.path or not found:
        return []
    middle = knee(front(tried, study))
    target = middle.architecture if middle and middle.architecture in found else found[0]
    space, wanted = study.space, target.decisions

    def at(chosen: Sequence[str]) -> Architecture | None:
        try:
            return space.at({a: wanted[a] for a in chosen})
        except InputError:  # it breaks a law, or is not met yet
            return None

    changed = [a for a, (_, there) in space.reference.diff(target).items() if there is not None]
    for address in list(changed):  # what makes no difference to the model belongs to no step
        if _same(at([a for a in changed if a != address]), target):
            changed.remove(address)
    ended = [(a.decisions, y) for _, a, y in finished(tried, study)]
    order = _ordered(sorted(changed, key=lambda a: (_effect(ended, a, wanted[a], space.reference.decisions.get(a)), a)), at)
    made = _apart(order, [a for a in changed if a not in order], target, space.reference, at)
    return made if len(made) > 2 else []


def _apart(
    order: Sequence[str],
    rest: Sequence[str],
    target: Architecture,
    reference: Architecture,
    at: At,
) -> list[Stage]:
    """The stages of an order, each another model than all before it, with the decisions that make it so; what is left is the last step."""
    stages: list[Stage] = [(reference, [])]
    pending: list[str] = []
    for n, address in enumerate(order):
        here, pending = at(order[: n + 1]), [*pending, address]
        assert here is not None, order
        back = next((i for i, (a, _) in enumerate(stages) if _same(a, here)), None)
        if back is not None:  # the way there made no difference
            pending = [*(a for _, made in stages[back + 1 :] for a in made), *pending]
            stages = stages[: back + 1]
            continue
        idle = [a for a in pending[:-1] if _same(at([b for b in order[: n + 1] if b != a]), here)]
        stages.append((here, [a for a in pending if a not in idle]))
        pending = idle
    if not _same(stages[-1][0], target):
        stages.append((target, [*pending, *rest]))
    return stages


def _same(one: Architecture | None, other: Architecture) -> bool:
    return one is not None and one.digest == other.digest


def _effect(ended: Sequence[tuple[Mapping[str, Any], float]], address: str, value: Any, reference: Any) -> float:
    """How much lower the measure was with a value of a decision than with the reference's, on average; 0 where it is not known."""
    by_value: dict[Any, list[float]] = {}
    for decisions, y in ended:
        by_value.setdefault(decisions.get(address), []).append(y)
    if not by_value.get(value) or not by_value.get(reference):
        return 0.0
    return statistics.fmean(by_value[value]) - statistics.fmean(by_value[reference])


def _ordered(addresses: Sequence[str], at: At) -> list[str]:
    """The decisions in the order nearest to the given one in which every prefix is an architecture; as far as one was found."""
    looks, best = itertools.count(), list[str]()

    def further(chosen: list[str]) -> Iterator[list[str]]:
        if len(chosen) == len(addresses):
            yield chosen
        for a in addresses:
            if a not in chosen and next(looks) < LOOKS and at([*chosen, a]) is not None:
                if len(chosen) >= len(best):
                    best[:] = [*chosen, a]
                yield from further([*chosen, a])

    return next(further([]), best)


def steps(tried: Tried, study: Study) -> tuple[Comparison, ...]:
    """The comparisons of the path, each architecture with the one before it."""
    names = {arm.architecture.digest: arm.name for arm in reversed(study.base_design.arms)}
    made = []
    for number, ((here, _), (there, chosen)) in enumerate(itertools.pairwise(_stages(tried, study)), 1):
        changes = tuple((a, here.decisions.get(a), there.decisions.get(a)) for a in chosen)
        weights = {names.get(a.digest, candidate(a.digest)): w for a, w in ((there, 1.0), (here, -1.0))}
        made.append(Comparison(f"step {number}: {label([(a, to) for a, _, to in changes])}", "step", changes, weights))
    return tuple(made)
