"""Records of a search -> which of its architectures no other beats in everything that was asked for.

Symbols: f_i objective i of an architecture, lower is better (of what is maximised, its negative); a dominates b where f_i(a) <= f_i(b) for
all i, and < for one. The front is what nothing dominates.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aotsearch.diagnostics.catalogue import hints
from aotsearch.evidence.pairs import looks
from aotsearch.evidence.statistics import span
from aotsearch.evidence.tables import Record, measured
from aotsearch.grammar.architecture import Architecture
from aotsearch.study.sampling import COSTS
from aotsearch.study.study import Study

Values = tuple[float, ...]


def values(record: Record, study: Study) -> Values | None:
    """f of a trial that ended well; None where any of it is not known."""
    found = [(_value(name, record, study), sign) for name, sign in study.goals]
    known = tuple(sign * v for v, sign in found if v is not None and math.isfinite(v))
    return known if len(known) == len(found) else None


def _value(name: str, record: Record, study: Study) -> float | None:
    if name == study.task.measure:
        return measured(record, study)
    if name in COSTS or name in hints():
        value = record.get(name) if name in COSTS else (record.get("hints") or {}).get(name)
        return None if value is None else float(value)
    layers = [v for v in (record.get("diagnostics") or {}).get(name, ()) if v is not None]
    return statistics.fmean(layers) if layers else None


def dominates(a: Values, b: Values) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and a != b


def _measure(study: Study) -> int | None:
    """Which of the objectives is the task's measure."""
    return next((i for i, (name, _) in enumerate(study.goals) if name == study.task.measure), None)


def stale(records: Iterable[Record], study: Study) -> int:
    """How many of a search's trials, in the order in which they ended, came after the last that brought something better.

    Better is what trained to the end and is, against everything before it, lower in an objective; in the task's measure by more than the
    margin.
    """
    at = _measure(study)
    before: list[Values] = []
    room = [study.settings.margin if i == at else 0.0 for i in range(len(study.goals))]
    since = 0
    for record in records:
        found = values(record, study) if record["outcome"] == "done" else None
        known = found is not None and any(all(b <= f + r for b, f, r in zip(other, found, room, strict=True)) for other in before)
        since = since + 1 if found is None or known else 0
        before += [found] if found is not None else []
    return since


@dataclass(frozen=True)
class Point:
    """One architecture of the front."""

    record: Record
    architecture: Architecture
    values: Values


def front(tried: Sequence[tuple[Record, Architecture]], study: Study) -> list[Point]:
    """The front of a search's finished trials, under one seed each, the best in the first objective first."""
    points = [Point(r, a, f) for r, a in tried if r["outcome"] == "done" and (f := values(r, study)) is not None]
    kept = [p for p in points if not any(dominates(q.values, p.values) for q in points)]
    return sorted(kept, key=lambda p: (p.values, p.architecture.digest))


def knee(points: Sequence[Point]) -> Point | None:
    """The point of a front that is nearest to the best of everything: the least distance to it, each objective as a share of its range.

    None for fewer than three points, or one objective.
    """
    if len(points) < 3 or len(points[0].values) < 2:
        return None
    columns = list(zip(*(p.values for p in points), strict=True))
    low, room = [min(c) for c in columns], [(max(c) - min(c)) or 1.0 for c in columns]
    return min(points, key=lambda p: math.dist([0.0] * len(low), [(v - a) / r for v, a, r in zip(p.values, low, room, strict=True)]))


def promising(tried: Sequence[tuple[Record, Architecture]], study: Study) -> list[Architecture]:
    """What is to be confirmed, the best first, without the study's own arms: those that finished, or of several objectives the front."""
    arms = {arm.architecture.digest for arm in study.base_design.arms}
    if len(study.goals) > 1:
        return [p.architecture for p in front(tried, study) if p.architecture.digest not in arms]
    done = [(f, a) for r, a in tried if r["outcome"] == "done" and a.digest not in arms and (f := values(r, study)) is not None]
    return [a for _, a in sorted(done, key=lambda pair: (pair[0], pair[1].digest))]


def unconfirmed(tried: Sequence[tuple[Record, Architecture]], study: Study) -> list[str]:
    """A note where fewer architectures of a search finished than are to be confirmed."""
    finished, wanted = len(promising(tried, study)), study.settings.search.confirmed or 1
    if finished >= wanted:
        return []
    ends = Counter(r["outcome"] for r, _ in tried)
    of = f"(of {len(tried)} tried: {', '.join(f'{n} {outcome}' for outcome, n in ends.most_common()) or 'none'})"
    if not finished:
        return [f"no architecture is confirmed: none but the arms of the study finished {of}"]
    return [f"{finished} instead of {wanted} architectures are confirmed: no more finished besides the arms of the study {of}"]


# ---- what fresh seeds say of it


@dataclass(frozen=True)
class Front:
    """The front of a search after several objectives, and what the confirmation says of it.

    Attributes:
        goals: The objectives, each with 1 where it is to be small and -1 where large.
        points: Under the one seed of the search, the best in the first objective first.
        knee: The point that is nearest to the best of everything; None of fewer than three.
        survives: Name of a point -> `yes`, `no`, `open` or `unopposed`, once it is confirmed.
        volume: What the confirmed points dominate, as a share of the box between the best and the worst of each objective, with its
            interval over seeds; None before two seeds.
    """

    goals: Sequence[tuple[str, int]]
    points: Sequence[Point]
    knee: Point | None
    survives: Mapping[str, str]
    volume: tuple[float, float | None, float | None] | None

    def to_dict(self) -> list[dict[str, Any]]:
        """Of every point `arm`, `digest`, `parameters`, `objectives`, whether it is the `knee`, and whether it `survives`."""
        return [
            {
                "arm": p.record["arm"],
                "digest": p.record["digest"],
                "parameters": p.record.get("parameters"),
                "objectives": {name: sign * v for (name, sign), v in zip(self.goals, p.values, strict=True)},
                "knee": p is self.knee,
                "survives": self.survives.get(p.record["arm"]),
            }
            for p in self.points
        ]


def found(study: Study, tried: Sequence[tuple[Record, Architecture]], confirmed: Mapping[str, Mapping[int, Record]]) -> Front | None:
    """The front of a study's search; None where it is after one objective.

    Args:
        confirmed: Arm -> seed -> trial, of all that is compared on fresh seeds.
    """
    if study.settings.design != "search" or len(study.goals) < 2:
        return None
    points = front(tried, study)
    seeds = _by_seed(confirmed, study)
    return Front(study.goals, points, knee(points), _survivors(points, seeds, study), _volume(points, seeds, study))


BySeed = Mapping[str, Mapping[int, Values]]  # arm -> seed -> its objectives


def _by_seed(confirmed: Mapping[str, Mapping[int, Record]], study: Study) -> BySeed:
    made = {arm: {s: f for s, r in by_seed.items() if (f := values(r, study)) is not None} for arm, by_seed in confirmed.items()}
    return {arm: by_seed for arm, by_seed in made.items() if by_seed}


def _survivors(points: Sequence[Point], seeds: BySeed, study: Study) -> dict[str, str]:
    """Which points of the front nothing that was confirmed beats, by intervals that hold for all pairs at once.

    A point is beaten by what is not larger in every other objective, on the mean over seeds, and lower in the task's measure by the whole
    interval of the paired difference. It survives where all that is not larger elsewhere is higher by the whole interval; where
    there is no such thing it is unopposed, and nothing was tested.
    """
    at = _measure(study)
    names = [p.record["arm"] for p in points if p.record["arm"] in seeds]
    if at is None:
        return {}
    means = {arm: [statistics.fmean(column) for column in zip(*by_seed.values(), strict=True)] for arm, by_seed in seeds.items()}

    def cheaper(other: str, name: str) -> bool:
        return other != name and all(a <= b for i, (a, b) in enumerate(zip(means[other], means[name], strict=True)) if i != at)

    rivals = {name: [other for other in seeds if cheaper(other, name)] for name in names}
    family = max(1, sum(map(len, rivals.values())))
    said = {}
    for name in names:
        ends = [_apart(seeds[name], seeds[other], at, family, study) for other in rivals[name]]
        beaten, above = any(low is not None and low > 0 for low, _ in ends), all(high is not None and high < 0 for _, high in ends)
        said[name] = "no" if beaten else "unopposed" if not ends else "yes" if above else "open"
    return said


def _apart(
    here: Mapping[int, Values], there: Mapping[int, Values], at: int, family: int, study: Study
) -> tuple[float | None, float | None]:
    d = [here[s][at] - there[s][at] for s in sorted(here.keys() & there.keys())]
    return span(d, study.settings.confidence, family, looks(study))[1:] if len(d) > 1 else (None, None)


def _volume(points: Sequence[Point], seeds: BySeed, study: Study) -> tuple[float, float | None, float | None] | None:
    names = [p.record["arm"] for p in points if p.record["arm"] in seeds]
    shared = sorted(set.intersection(*(set(seeds[name]) for name in names))) if names else []
    if len(names) < 2 or len(shared) < 2:
        return None
    columns = list(zip(*(f for name in names for f in seeds[name].values()), strict=True))
    low, room = [min(c) for c in columns], [(max(c) - min(c)) or 1.0 for c in columns]
    one = [1.0] * len(low)
    sizes = [hypervolume([[(v - a) / r for v, a, r in zip(seeds[n][s], low, room, strict=True)] for n in names], one) for s in shared]
    mean, below, above = span(sizes, study.settings.confidence, 1, looks(study))
    return mean, None if below is None else max(0.0, below), None if above is None else min(1.0, above)


def hypervolume(points: Sequence[Sequence[float]], worst: Sequence[float]) -> float:
    """The volume that points dominate, up to the worst value of each objective: slice by slice along the last one."""
    inside = sorted((p for p in points if all(a < b for a, b in zip(p, worst, strict=True))), key=lambda p: p[-1])
    if len(worst) == 1:
        return worst[0] - inside[0][0] if inside else 0.0
    ends = [p[-1] for p in inside[1:]] + [worst[-1]] * bool(inside)
    return sum(
        (end - p[-1]) * hypervolume([q[:-1] for q in inside[: i + 1]], worst[:-1])
        for i, (p, end) in enumerate(zip(inside, ends, strict=True))
    )
