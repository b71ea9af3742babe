"""What one declared comparison says.

Symbols: y measure (lower is better), s seed, d_s = y(arm, s) - y(reference, s).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.grammar.labels import REMOVAL
from aotsearch.study.design import STRIPPED, Changes, plain_name, spell

COMPONENT = {"worse": "necessary", "equivalent": "redundant", "better": "harmful"}  # a removal's verdict -> what it says of the part


@dataclass(frozen=True)
class Sealed:
    """The mean of d on the test split, read once after training, its interval, and the verdict that it alone would give."""

    difference: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class Contrast:
    """One declared comparison: d_s is a weighted sum of arms within seed s, for an arm y(arm, s) - y(reference, s).

    Attributes:
        arm: Name of the comparison; for a single change that of the arm.
        changes: (decision, from, to) for each decision it changes.
        equalise: What the arms were made equal in.
        difference: Mean of d over the paired seeds; None where there is no pair.
        low: Lower end of the simultaneous interval; None with fewer than two pairs.
        high: Upper end.
        seeds: How many seeds the verdict rests on.
        missing: Seeds of the study without a usable pair.
        verdict: One of VERDICTS, of the change; of an interaction, whether both together do worse, or better, than the sum of each.
        seeds_needed: Further seeds that would settle an undecided contrast; None where that is unknown, or more than may be added.
        sd_paired: Standard deviation of d.
        sd_unpaired: What it would be without pairing: the root of the sum of w_a^2 var(a) over the arms.
        remark: What else the reader must know, in words.
        kind: `change`, `main` (effect, averaged over the other factors), `interaction`, or `simple` (effect, at one value of another
            factor): shown where the two interact, because then the main effect is an average of effects that differ; or `step`,
            of an ablation path.
        rate: `shared` (one learning rate for all arms) or `tuned` (each arm at its own).
        asked: Whether `rate` is what the study asks for: each arm's own where it tunes; then what the shared one says stands beside.
        p: Of the exact sign-flip test of no difference, adjusted by Holm's rule over all contrasts; described, not judged by. None where
            so few seeds could not have made it small.
        test: The same on the test split, where it was read.
        declared: The verdict by the first declaration, where this was changed after trials had ended.
        mixed: What the trials of a pair do not share (`torch`, `threads`, ..) -> seed -> what they have of it.
        margin: By which it was judged.
        size: Of the effect: `within` the margin, `beyond` it, or `open`.
        weights: Arm -> its weight in d.
    """

    arm: str
    changes: Changes
    equalise: str
    difference: float | None
    low: float | None
    high: float | None
    seeds: int
    missing: int
    verdict: str
    seeds_needed: int | None
    sd_paired: float | None
    sd_unpaired: float | None
    remark: str
    kind: str = "change"
    rate: str = "shared"
    asked: bool = True
    p: float | None = None
    test: Sealed | None = None
    declared: str = ""
    mixed: Mapping[str, Mapping[int, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    margin: float = 0.0
    size: str = "open"
    weights: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def change(self) -> str:
        """All changes in words: `channel: mlp -> none`."""
        return ", ".join(f"{address}: {spell(a)} -> {spell(b)}" for address, a, b in self.changes) or self.arm

    @property
    def title(self) -> str:
        """What was compared, without its terms: the change where it stands for the whole comparison, else the name."""
        if self.alone and self.kind in ("change", "main", "step"):
            return self.change + " (of the stripped model)" * self.arm.startswith(f"{STRIPPED} of ")
        return plain_name(self.arm, self.equalise).removeprefix("main effect of ")

    @property
    def alone(self) -> bool:
        """Whether the name says no more than the one change: two arms that share another change are compared where that is made."""
        if len(self.changes) != 1:
            return False
        ((address, a, b),) = self.changes
        return " against " not in self.arm or plain_name(self.arm, self.equalise) == f"{address}={spell(b)} against {address}={spell(a)}"

    @property
    def where(self) -> str:
        """At which values of the other factors an effect is meant, in words."""
        if self.kind == "main":
            return "averaged over the other factors"
        if self.kind == "step":
            return f"{self.arm.partition(':')[0]} of the path"
        if self.arm.startswith(f"{STRIPPED} of "):
            return "in the stripped model"
        return f"at {self.arm.partition(' at ')[2]}" if self.kind == "simple" else ""

    @property
    def removal(self) -> bool:
        """Whether the change takes something away: to `none` or `false`, or an arm or an alternative that is named as that."""
        if self.kind == "interaction":
            return False
        return bool(REMOVAL.match(self.arm)) or (bool(self.changes) and all(_nothing(to) for _, _, to in self.changes))

    @property
    def component(self) -> str | None:
        """What a removal says of the part: `necessary`, `redundant` or `harmful`; None of other changes, and where the size is open."""
        return COMPONENT.get(self.verdict) if self.removal and self.size != "open" else None

    @property
    def replacement(self) -> bool:
        """Whether one choice takes the place of one other."""
        return self.alone and self.kind != "interaction" and not self.removal

    @property
    def part(self) -> str:
        """What a removal takes away."""
        if REMOVAL.match(self.arm) and not self.alone:
            return f"what {self.arm} takes away"
        return ", ".join(f"{address} {spell(here)}" for address, here, _ in self.changes)

    @property
    def said(self) -> str:
        """The verdict in a few words: `worse`, `worse, maybe less than the margin`; of an interaction what is worse than what."""
        together = " together than apart" if self.kind == "interaction" and self.verdict in ("worse", "better") else ""
        return self.verdict + together + self._maybe

    @property
    def _maybe(self) -> str:
        return ", maybe less than the margin" if self.verdict in ("worse", "better") and self.size == "open" else ""

    @property
    def told(self) -> str:
        """The verdict in a few words, with what stands beside it."""
        return ": ".join(filter(None, [self.said, self.aside()]))

    def aside(self) -> str:
        """What stands beside the verdict: what it says of the part, and the remark."""
        return "; ".join(filter(None, [f"{self.part} is {self.component}" if self.component else "", self.remark]))

    def reading(self, digits: int, unit: str = "") -> str:
        """The verdict as a phrase with its numbers: `worse by 0.317 [0.252, 0.382] bits/byte`."""
        unit = f" {unit}" if unit else ""
        if self.verdict == "equivalent":
            return f"no difference beyond {self.margin:g}{unit}"
        if self.difference is None or self.low is None or self.high is None:
            return ": ".join(filter(None, [self.verdict if self.verdict != "undecided" else "not yet known", self.remark]))
        if self.verdict == "undecided":
            known = f"not yet known [{self.low:+.{digits}f}, {self.high:+.{digits}f}]{unit}"
            return ", ".join(filter(None, [known, self.remark]))
        by, *ends = (self.difference, self.low, self.high) if self.verdict == "worse" else (-self.difference, -self.high, -self.low)
        return f"{self.verdict} by {by:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]{unit}{self._maybe}"

    @property
    def gain(self) -> float | None:
        """How many times smaller pairing makes the standard deviation."""
        return self.sd_unpaired / self.sd_paired if self.sd_paired and self.sd_unpaired else None

    def to_dict(self) -> dict[str, Any]:
        ends: list[Any] = [self.changes[0][1], self.changes[0][2]] if len(self.changes) == 1 else ["", ""]
        if len(self.changes) > 1:
            ends = [", ".join(spell(change[i]) for change in self.changes) for i in (1, 2)]
        names: tuple[str, ...] = ("kind", "difference", "low", "high", "seeds", "verdict", "size", "component")
        names += ("seeds_needed", "missing", "sd_paired", "sd_unpaired", "p", "remark", "declared")
        test = {name: getattr(self.test, name) for name in ("difference", "low", "high")} if self.test else None
        return {
            "arm": self.arm,
            "decision": ", ".join(address for address, _, _ in self.changes),
            "from": ends[0],
            "to": ends[1],
            "equalise": self.equalise,
            "learning_rate": self.rate,
            "asked": self.asked,
            "test": test,
            **{name: getattr(self, name) for name in names},
            "reading": self.reading(decimals(self.margin)),
            "mixed": {name: sorted(seeds) for name, seeds in self.mixed.items()},
        }


def decimals(margin: float) -> int:
    """How many show a tenth of the margin."""
    return max(3, math.ceil(-math.log10(margin)) + 1) if margin > 0 else 3


def _nothing(value: Any) -> bool:
    return value is False or value == "none" or (isinstance(value, str) and bool(REMOVAL.match(value)))
