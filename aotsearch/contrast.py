"""One declared comparison, judged: differences within a seed -> interval, verdict, seeds still needed.

    contrast(comparison, view, study, family, seeds) -> Contrast

Symbols: y measure (lower is better), s seed, d_s = y(arm, s) - y(reference, s), n paired seeds, m margin, K contrasts of the study.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from aotsearch.design import REFERENCE, STRIPPED, Changes, Comparison, plain_name, spell
from aotsearch.inference import (
    MOST_SEEDS,
    deviation,
    holm,
    interval,
    seeds_needed,
    sequential_interval,
    sequential_seeds_needed,
    sign_flip,
    verdict,
)
from aotsearch.study import Study
from aotsearch.tables import measured

Record = Mapping[str, Any]


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
        verdict: One of VERDICTS; of an interaction `present`, `absent` or `undecided`.
        seeds_needed: Further seeds that would settle an undecided contrast; None where that is unknown or above MOST_SEEDS.
        sd_paired: Standard deviation of d.
        sd_unpaired: What it would be without pairing: the root of the sum of w_a^2 var(a) over the arms.
        remark: What else the reader must know, in words.
        kind: `change`, `main` (effect, averaged over the other factors), `interaction`, or `simple` (effect, at one value of another
            factor): shown where the two interact, because then the main effect is an average of effects that differ.
        rate: `shared` (one learning rate for all arms) or `tuned` (each arm at its own).
        p: Of the exact sign-flip test of no difference, adjusted by Holm's rule over all contrasts; described, not judged by.
        test: Mean of d on the test split, with its interval, where it was read.
        declared: The verdict by the first declaration, where this was changed after trials had ended.
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
    p: float | None = None
    test: tuple[float, float, float] | None = None
    declared: str = ""

    @property
    def change(self) -> str:
        """All changes in words: `channel: mlp -> none`."""
        return ", ".join(f"{address}: {spell(a)} -> {spell(b)}" for address, a, b in self.changes) or self.arm

    @property
    def label(self) -> str:
        """The change where there is one, else the arm's name."""
        name = self.change if len(self.changes) == 1 and self.kind == "change" else plain_name(self.arm, self.equalise)
        said = ["stripped model"] * self.arm.startswith(f"{STRIPPED} of ") + [f"equal {self.equalise}"] * (self.equalise != "none")
        said += ["own learning rate"] * (self.rate == "tuned")
        return f"{name} ({', '.join(said)})" if said else name

    @property
    def where(self) -> str:
        """At which values of the other factors an effect is meant, in words."""
        if self.kind == "main":
            return "averaged over the other factors"
        return f"at {self.arm.partition(' at ')[2]}" if self.kind == "simple" else ""

    @property
    def gain(self) -> float | None:
        """How many times smaller pairing makes the standard deviation."""
        return self.sd_unpaired / self.sd_paired if self.sd_paired and self.sd_unpaired else None

    def to_dict(self) -> dict[str, Any]:
        ends: list[Any] = [self.changes[0][1], self.changes[0][2]] if len(self.changes) == 1 else ["", ""]
        if len(self.changes) > 1:
            ends = [", ".join(spell(change[i]) for change in self.changes) for i in (1, 2)]
        names: tuple[str, ...] = ("kind", "difference", "low", "high", "seeds", "verdict", "seeds_needed", "missing")
        names += ("sd_paired", "sd_unpaired", "p", "remark", "declared")
        test = dict(zip(("difference", "low", "high"), self.test, strict=True)) if self.test else None
        return {
            "arm": self.arm,
            "decision": ", ".join(address for address, _, _ in self.changes),
            "from": ends[0],
            "to": ends[1],
            "equalise": self.equalise,
            "learning_rate": self.rate,
            "test": test,
            **{name: getattr(self, name) for name in names},
        }


@dataclass(frozen=True)
class View:
    """The trials that one verdict rests on: of every arm those at the shared learning rate, or those at its own."""

    mode: str
    cells: Mapping[str, Mapping[int, Record]]  # arm -> seed -> record

    @property
    def records(self) -> list[Record]:
        return [r for cell in self.cells.values() for r in cell.values()]


def _differences(comparison: Comparison, view: View, study: Study, split: str = "measures") -> dict[int, float]:
    """d_s for every seed in which all arms of a comparison have a value."""
    cells = [(view.cells.get(arm, {}), weight) for arm, weight in comparison.weights.items()]
    found = {}
    for seed in sorted(set.intersection(*(set(cell) for cell, _ in cells))):
        values = [measured(cell[seed], study, split) for cell, _ in cells]
        if all(v is not None for v in values):
            found[seed] = sum(w * v for (_, w), v in zip(cells, values, strict=True) if v is not None)
    return found


def contrast(comparison: Comparison, view: View, study: Study, family: int, seeds: Sequence[int]) -> Contrast:
    settings = study.settings
    margin, confidence = settings.margin, settings.confidence
    by_seed = _differences(comparison, view, study)
    d, n = list(by_seed.values()), len(by_seed)
    mean, low, high, sd, apart = (d[0] if d else None), None, None, None, None
    said, needed = "undecided", None
    if n > 1:
        mean, low, high = _interval(d, study, family)
        sd, apart = deviation(d), _unpaired(comparison, view, by_seed, study)
        said = "undecided" if low is None or high is None else verdict(low, high, margin)
        if said == "undecided":
            needed = _needed(mean, sd, n, study, family)
    said, based, remark = _diverged(comparison, view, said, n)
    if remark:
        needed = None  # more seeds of the same kind do not answer why it diverges
    elif said == "undecided":
        remark = _remark(n, needed)
    wanted = len(seeds) if settings.adaptive is None else n
    if 1 < n < wanted and not based:
        remark = "; ".join(filter(None, [remark, f"{n} of {wanted} pairs"]))
    if comparison.kind == "interaction":
        said = {"redundant": "absent", "undecided": "undecided"}.get(said, "present")
    sealed = list(_differences(comparison, view, study, "test").values())
    return Contrast(
        comparison.name,
        comparison.changes,
        comparison.equalise,
        mean,
        low,
        high,
        based or n,
        max(0, wanted - (based or n)),
        said,
        needed,
        sd,
        apart,
        remark,
        comparison.kind,
        view.mode,
        test=interval(sealed, confidence, family) if len(sealed) > 1 else None,
    )


def simple_effects(
    contrasts: Sequence[Contrast], declared: Sequence[Comparison], views: Sequence[View], study: Study, seeds: Sequence[int]
) -> tuple[Contrast, ...]:
    """The effects at one value of another factor, for the changes that interact with it; at once over all that the design has.

    A main effect is their mean, and says of none of them what it is where the two interact.
    """
    acting = set()
    for c in contrasts:
        if c.kind == "interaction" and c.verdict == "present":
            for (a, _, v), (b, *values) in itertools.permutations(c.changes):
                acting |= {(c.rate, c.equalise, a, spell(v), b, spell(x)) for x in values}
    found = []
    for view, comparison in itertools.product(views, declared):
        assert comparison.held is not None, comparison
        ((address, _, to),), (other, value) = comparison.changes, comparison.held
        if (view.mode, comparison.equalise, address, spell(to), other, spell(value)) in acting:
            found.append(contrast(comparison, view, study, len(declared) * len(views), seeds))
    return tuple(found)


def _needed(mean: float, sd: float, n: int, study: Study, family: int) -> int | None:
    s, looks = study.settings, study.looks
    if looks is None:
        return seeds_needed(mean, sd, n, s.margin, s.confidence, family)
    if s.adaptive is None and n >= looks.max:  # the seeds that are declared now are all there
        return seeds_needed(mean, sd, n, s.margin, s.confidence, family, looks.min)
    return sequential_seeds_needed(mean, sd, min(n, looks.max), s.margin, s.confidence, family, looks.min, looks.max)


def _interval(d: list[float], study: Study, family: int) -> tuple[float, float | None, float | None]:
    adaptive = study.looks
    if adaptive is None:
        return interval(d, study.settings.confidence, family)
    if len(d) < adaptive.min:
        return float(np.mean(d)), None, None  # not looked at yet
    return sequential_interval(d[: adaptive.max], study.settings.confidence, family, adaptive.min, adaptive.max)


def _unpaired(comparison: Comparison, view: View, by_seed: Mapping[int, float], study: Study) -> float:
    variance = 0.0
    for arm, weight in comparison.weights.items():
        values = [measured(view.cells[arm][seed], study) for seed in by_seed]
        variance += (weight * deviation([v for v in values if v is not None])) ** 2
    return math.sqrt(variance)


def with_p(contrasts: Sequence[Contrast], views: Sequence[View], declared: Sequence[Comparison], study: Study) -> tuple[Contrast, ...]:
    """The contrasts with the p-values of a test that assumes nothing of the noise but symmetry."""
    samples = [list(_differences(c, view, study).values()) for view in views for c in declared]
    if study.looks:  # it tests one number of seeds, not one that the differences themselves have chosen
        return tuple(contrasts)
    ps = {i: p for i, d in enumerate(samples) if len(d) > 1 and (p := sign_flip(d)) is not None}
    adjusted = dict(zip(ps, holm(list(ps.values()), len(contrasts)), strict=True))
    return tuple(dataclasses.replace(c, p=adjusted.get(i)) for i, c in enumerate(contrasts))


def _diverged(comparison: Comparison, view: View, said: str, n: int) -> tuple[str, int, str]:
    """`_divergence` for two arms; a sum of more arms in which any diverged is undecided."""
    plus = [arm for arm, w in comparison.weights.items() if w > 0]
    minus = [arm for arm, w in comparison.weights.items() if w < 0]
    if len(plus) == len(minus) == 1:
        other = "the reference" if minus[0] == REFERENCE else minus[0]
        return _divergence(view.cells.get(plus[0], {}), view.cells.get(minus[0], {}), said, n, other)
    lost = {arm: sum(r["outcome"] == "diverged" for r in view.cells.get(arm, {}).values()) for arm in comparison.weights}
    remark = "; ".join(f"{arm} diverged in {k} seeds" for arm, k in lost.items() if k)
    return ("undecided" if remark else said), 0, remark


def _divergence(here: Mapping[int, Record], there: Mapping[int, Record], said: str, n: int, other: str) -> tuple[str, int, str]:
    """The verdict once divergence is counted, the seeds it rests on if these are not the pairs, and a remark.

    A diverged trial has no loss, so its pair is missing, and missing for a reason that bears on the answer. Therefore:
    an arm that diverges in every seed (two at least) where the reference never does shows that the part is `necessary`, without a
    difference; the mirror image is `harmful`. If it diverges in some, the surviving pairs flatter it: only a verdict against it
    stands, any other becomes `undecided`.
    """
    judged = [s for s in here.keys() & there.keys() if {here[s]["outcome"], there[s]["outcome"]} <= {"done", "diverged"}]
    arm = sum(here[s]["outcome"] == "diverged" for s in judged)
    reference = sum(there[s]["outcome"] == "diverged" for s in judged)
    count = len(judged)
    if arm == count > 1 and not reference:
        return "necessary", count, f"diverged in every seed ({count})"
    if reference == count > 1 and not arm:
        return "harmful", count, f"{other} diverged in every seed ({count})"
    remarks = [f"{name} diverged in {k} of {count} seeds" for name, k in (("it", arm), (other, reference)) if k]
    if arm > reference and said in ("redundant", "harmful"):
        said = "undecided"
    if reference > arm and said in ("redundant", "necessary"):
        said = "undecided"
    return said, 0, "; ".join(remarks)


def _remark(n: int, needed: int | None) -> str:
    if n < 2:
        return "no pair of seeds yet" if not n else "one seed gives no interval"
    return f"about {needed} more seed{'s' * (needed > 1)}" if needed is not None else f"more than {MOST_SEEDS} seeds"
