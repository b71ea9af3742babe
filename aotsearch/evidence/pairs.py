"""Which trials are compared: of every arm of a comparison one under the same seed.

pairs(comparison, view, study) -> seed -> trials;  mixture(trials) -> what they do not share
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from aotsearch.evidence.statistics import Looks
from aotsearch.evidence.tables import Record, measured
from aotsearch.evidence.tails import long_tail
from aotsearch.study.design import Comparison
from aotsearch.study.study import Study


@dataclass(frozen=True)
class View:
    """The trials that one verdict rests on: of every arm those at the shared learning rate, or those at its own.

    Attributes:
        cells: Arm -> seed -> record.
        tails: Kind of comparison -> the `long_tail` of its differences; a simple effect is of the kind of the main effects, a step of
            that of the changes.
    """

    mode: str
    cells: Mapping[str, Mapping[int, Record]]
    tails: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def tail(self, kind: str) -> float:
        return self.tails.get(_kind(kind), 0.0)

    @property
    def records(self) -> list[Record]:
        return [r for cell in self.cells.values() for r in cell.values()]


def looks(study: Study) -> Looks | None:
    """Between which numbers of seeds a study looks at its results to choose how many it takes; None where they were fixed."""
    return None if study.looks is None else (study.looks.min, study.looks.max)


def pairs(comparison: Comparison, view: View, study: Study, split: str = "measures") -> dict[int, list[Record]]:
    """Seed -> the trials of all arms of a comparison, in the order of its weights, for every seed in which each has a value."""
    cells = [view.cells.get(arm, {}) for arm in comparison.weights]
    found = {}
    for seed in sorted(set.intersection(*(set(cell) for cell in cells))):
        trials = [cell[seed] for cell in cells]
        if all(measured(r, study, split) is not None for r in trials):
            found[seed] = trials
    return found


def differences(comparison: Comparison, trials: Mapping[int, Sequence[Record]], study: Study, split: str = "measures") -> dict[int, float]:
    """Seed -> d_s, the weighted sum of the arms' measures, of what `pairs` has found for the same split."""
    weights = list(comparison.weights.values())
    return {
        seed: sum(w * v for w, r in zip(weights, found, strict=True) if (v := measured(r, study, split)) is not None)
        for seed, found in trials.items()
    }


def mixture(trials: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """What trials do not share of what may move a loss in its last digits, and after hundreds of steps in the second: name -> values."""
    made = [r.get("environment") or {} for r in trials]
    found = {name: tuple(sorted({str(e.get(name, "unknown")) for e in made})) for name in dict.fromkeys(k for e in made for k in e)}
    return {name: values for name, values in found.items() if len(values) > 1}


def said_of(name: str) -> str:
    """A key of `mixture` in words."""
    return name.replace("_", " ")


def _kind(kind: str) -> str:
    """Comparisons whose differences have one shape."""
    return {"simple": "main", "step": "change"}.get(kind, kind)


def with_tails(view: View, declared: Iterable[Comparison], study: Study) -> View:
    """The same trials, and the shape that the differences of all comparisons of one kind share.

    Interactions are for themselves: where all arms have bad runs, a difference of differences is symmetric again.
    """
    at, samples = looks(study), dict[str, list[list[float]]]()
    for c in declared:
        d = list(differences(c, pairs(c, view, study), study).values())
        samples.setdefault(_kind(c.kind), []).append(d if at is None else d[: at[1]])
    return dataclasses.replace(view, tails={kind: long_tail(of_kind) for kind, of_kind in samples.items()})


def widest(views: Iterable[View]) -> float:
    """The longest tail of any kind of comparison but interactions."""
    return max((tail for view in views for kind, tail in view.tails.items() if kind != "interaction"), key=abs, default=0.0)
