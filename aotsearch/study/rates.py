"""Each arm's own learning rate: found on the validation split under seeds of its own, then frozen.

A shared rate flatters the arms that like it. The shared rate of a study is the one that is best for its reference, so that what changes
between the two verdicts is the fairness to the arms alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TUNE_SEED = 20_000  # tuning runs under this seed and those after it, so that the seeds of the study stay fresh

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Rate:
    """What tuning found for one arm.

    Attributes:
        value: The rate with the lowest mean measure over the tuning seeds; None while none is known.
        tried: Rate -> that mean, infinite where a trial diverged or failed.
        edge: Whether it is the lowest or highest rate tried, so that a better one may lie beyond.
    """

    value: float | None
    tried: Mapping[float, float]
    edge: bool

    @property
    def lead(self) -> float | None:
        """By how much it is better than the next best; None where no other let the arm train."""
        finite = sorted(value for value in self.tried.values() if math.isfinite(value))
        return finite[1] - finite[0] if len(finite) > 1 else None


def chosen(records: Iterable[Record], arm: str, measure: str) -> Rate:
    """The rate of an arm, from the tuning trials so far."""
    seen: dict[float, list[float]] = {}
    for r in records:
        if r["phase"] == "tune" and arm in r.get("arms", [r["arm"]]):
            value = r["measures"].get(measure) if r["outcome"] == "done" else None
            seen.setdefault(float(r["learning_rate"]), []).append(math.inf if value is None else float(value))
    tried = {rate: sum(values) / len(values) for rate, values in sorted(seen.items())}
    finite = {rate: value for rate, value in tried.items() if math.isfinite(value)}
    if not finite:
        return Rate(None, tried, False)
    best = min(finite, key=lambda rate: (finite[rate], rate))
    return Rate(best, tried, len(tried) > 1 and best in (min(tried), max(tried)))


def used(rates: Mapping[str, Rate], arm: str, shared: str, mode: str) -> float | None:
    """The rate that an arm is trained at: `shared`, that of the arm named so; `tuned`, its own, if any rate let it train."""
    common = rates[shared].value if shared in rates else None
    own = rates[arm].value if arm in rates else None
    return own if mode == "tuned" and own is not None else common


def asked(rates: Mapping[str, Rate], arm: str, shared: str) -> list[float | None]:
    """The learning rates that an arm is trained at: the shared one and, where it is another, its own."""
    return list(dict.fromkeys(used(rates, arm, shared, mode) for mode in ("shared", "tuned")))


def beyond(rate: Rate, listed: Sequence[float], extend: int) -> float | None:
    """The next rate to try where the best lies at an end of what was tried; None where it does not, or the list was extended enough.

    Args:
        rate: What was found so far.
        listed: The rates that the study names.
        extend: How often the list may be extended.
    """
    if not rate.edge or rate.value is None or len(rate.tried) - len(listed) >= extend:
        return None
    known = sorted(rate.tried)
    further = known[0] ** 2 / known[1] if rate.value == known[0] else known[-1] ** 2 / known[-2]
    return float(f"{further:.6g}")
