"""How trials ended: an arm that diverged or ran out of memory is an outcome with a rate, never a dropped row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aotsearch.evidence.statistics import wilson
from aotsearch.evidence.tables import Record, arms_met, arms_of
from aotsearch.study.study import Study


@dataclass(frozen=True)
class Share:
    """How many trials ended in one way, and the rate among those that could have, with its Wilson interval."""

    count: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Outcome:
    """How the trials of one arm, or of the search, ended."""

    arm: str
    counts: Mapping[str, int]
    confidence: float

    @property
    def trials(self) -> int:
        return sum(self.counts.values())

    @property
    def done(self) -> int:
        return self.counts.get("done", 0) + self.counts.get("pruned", 0)

    @property
    def bad(self) -> dict[str, int]:
        """Those that did not end well."""
        return {kind: n for kind, n in self.counts.items() if kind not in ("done", "pruned")}

    def share(self, kind: str) -> Share | None:
        """Of the trials that ended in one way; None where none could have: what ran out of memory or failed could not diverge."""
        count = self.counts.get(kind, 0)
        could = self.done + count if kind == "diverged" else self.trials
        return Share(count, count / could, *wilson(count, could, self.confidence)) if could else None

    def to_dict(self) -> dict[str, Any]:
        diverged = self.share("diverged")
        rate, low, high = (diverged.rate, diverged.low, diverged.high) if diverged else (None, None, None)
        return {"arm": self.arm, "counts": dict(self.counts), "diverged_rate": rate, "low": low, "high": high}


def outcomes(judged: Sequence[Record], everything: Iterable[Record], study: Study) -> tuple[Outcome, ...]:
    """Per arm of the judged phase, then of the search."""
    searched = [r for r in everything if r["phase"] == "search"]
    found = {arm: [r for r in judged if arm in arms_of(r)] for arm in arms_met(judged, study)} | ({"search": searched} if searched else {})
    counted = {arm: Counter(r["outcome"] for r in records) for arm, records in found.items()}
    return tuple(Outcome(arm, dict(sorted(counts.items())), study.settings.confidence) for arm, counts in counted.items())
