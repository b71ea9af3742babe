"""What is asked of a table of runs: which columns say what, against which arm, within which margin."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from aotsearch.errors import InputError


@dataclass(frozen=True)
class Question:
    """The options of `aotsearch judge`; a column that is None is looked for by its usual names.

    Attributes:
        margin: Differences within it do not matter; None where none was stated.
        pair: The column whose values are shared by runs that were made alike; None where arms are compared without pairs.
        unpaired: Whether it was said that runs of one seed are not alike.
        at: Of a history `last` or `best`: which step speaks for a run.
    """

    measure: str
    reference: str | None = None
    margin: float | None = None
    arm: str | None = None
    seed: str | None = None
    pair: str | None = None
    unpaired: bool = False
    higher_is_better: bool = False
    time: str | None = None
    step: str | None = None
    at: str = "last"
    unit: str | None = None
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.margin is not None and not (0 < self.margin < math.inf):
            raise InputError(f"--margin must be a number above 0, in the unit of the measure; it is {self.margin:g}")
        if not 0.5 <= self.confidence < 1:
            raise InputError(f"--confidence must be at least 0.5 and below 1, such as 0.95; it is {self.confidence:g}")
        if self.at not in ("last", "best"):
            raise InputError(f"--at must be last or best; it is {self.at!r}")
        if self.pair and self.unpaired:
            raise InputError("--pair and --unpaired exclude each other")

    def named(self, arm: str, reference: str) -> Question:
        """The same with what was looked for."""
        return dataclasses.replace(self, arm=arm, reference=reference)

    @property
    def sign(self) -> int:
        """What a value is multiplied by so that lower is better."""
        return -1 if self.higher_is_better else 1
