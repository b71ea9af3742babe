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

from aotsearch.evidence.statistics import (
    MOST_SEEDS,
    Looks,
    deviation,
    holm,
    seeds_needed,
    sequential_seeds_needed,
    sign_flip,
    smallest_p,
    span,
    verdict,
)
from aotsearch.evidence.tables import measured
from aotsearch.study.design import REFERENCE, STRIPPED, Changes, Comparison, plain_name, spell
from aotsearch.study.study import Study

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
        seeds_needed: Further seeds that would settle an undecided contrast; None where that is unknown, or more than may be added.
        sd_paired: Standard deviation of d.
        sd_unpaired: What it would be without pairing: the root of the sum of w_a^2 var(a) over the arms.
        remark: What else the reader must know, in words.
        kind: `change`, `main` (effect, averaged over the other factors), `interaction`, or `simple` (effect, at one value of another
            factor): shown where the two interact, because then the main effect is an average of effects that differ.
        rate: `shared` (one learning rate for all arms) or `tuned` (each arm at its own).
        asked: Whether `rate` is what the study asks for: each arm's own where it tunes; then what the shared one says stands beside.
        p: Of the exact sign-flip test of no difference, adjusted by Holm's rule over all contrasts; described, not judged by. None where
            so few seeds could not have made it small.
        test: Mean of d on the test split, with its interval, where it was read.
        declared: The verdict by the first declaration, where this was changed after trials had ended.
        mixed: What the trials of a pair do not share (`torch`, `threads`, ..) -> seed -> what they have of it.
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
    test: tuple[float, float, float] | None = None
    declared: str = ""
    mixed: Mapping[str, Mapping[int, tuple[str, ...]]] = dataclasses.field(default_factory=dict)

    @property
    def change(self) -> str:
        """All changes in words: `channel: mlp -> none`."""
        return ", ".join(f"{address}: {spell(a)} -> {spell(b)}" for address, a, b in self.changes) or self.arm

    @property
    def title(self) -> str:
        """What was compared, without its terms: the change where it stands for the whole comparison, else the name."""
        if self.alone and self.kind in ("change", "main"):
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
        if self.arm.startswith(f"{STRIPPED} of "):
            return "in the stripped model"
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
            "asked": self.asked,
            "test": test,
            **{name: getattr(self, name) for name in names},
            "mixed": {name: sorted(seeds) for name, seeds in self.mixed.items()},
        }


@dataclass(frozen=True)
class View:
    """The trials that one verdict rests on: of every arm those at the shared learning rate, or those at its own."""

    mode: str
    cells: Mapping[str, Mapping[int, Record]]  # arm -> seed -> record

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


def _differences(comparison: Comparison, view: View, study: Study, split: str = "measures") -> dict[int, float]:
    """d_s for every seed in which all arms of a comparison have a value."""
    weights = list(comparison.weights.values())
    return {
        seed: sum(w * v for w, r in zip(weights, trials, strict=True) if (v := measured(r, study, split)) is not None)
        for seed, trials in pairs(comparison, view, study, split).items()
    }


def mixture(trials: Sequence[Record]) -> dict[str, tuple[str, ...]]:
    """What trials do not share of what may move a loss in its last digits, and after hundreds of steps in the second: name -> values."""
    made = [r.get("environment") or {} for r in trials]
    found = {name: tuple(sorted({str(e.get(name, "unknown")) for e in made})) for name in dict.fromkeys(k for e in made for k in e)}
    return {name: values for name, values in found.items() if len(values) > 1}


def contrast(comparison: Comparison, view: View, study: Study, family: int, seeds: Sequence[int]) -> Contrast:
    settings = study.settings
    margin, confidence = settings.margin, settings.confidence
    by_seed = _differences(comparison, view, study)
    d, n = list(by_seed.values()), len(by_seed)
    mean, low, high, sd, apart = (d[0] if d else None), None, None, None, None
    said, needed = "undecided", None
    if n > 1:
        mean, low, high = span(d, confidence, family, looks(study))
        sd, apart = deviation(d), _unpaired(comparison, view, by_seed, study)
        said = "undecided" if low is None or high is None else verdict(low, high, margin)
        if said == "undecided":
            needed = _needed(mean, sd, n, study, family)
    said, based, remark = _diverged(comparison, view, said, n)
    if remark:
        needed = None  # more seeds of the same kind do not answer why it diverges
    elif said == "undecided":
        remark = _remark(n, needed, looks(study))
    wanted = len(seeds) if settings.adaptive is None else n
    if 1 < n < wanted and not based:
        remark = "; ".join(filter(None, [remark, f"{n} of {wanted} pairs"]))
    if comparison.kind == "interaction":
        said = {"redundant": "absent", "undecided": "undecided"}.get(said, "present")
    mixed: dict[str, dict[int, tuple[str, ...]]] = {}
    for seed, trials in pairs(comparison, view, study).items():
        for name, values in mixture(trials).items():
            mixed.setdefault(name, {})[seed] = values
    remark = "; ".join(filter(None, [remark, *(f"{len(s)} of {n} pairs mix {said_of(name)}" for name, s in mixed.items())]))
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
        asked=(view.mode == "tuned") == (settings.tuning is not None),
        test=_sealed(comparison, view, study, family),
        mixed=mixed,
    )


def said_of(name: str) -> str:
    """A key of `mixture` in words."""
    return name.replace("_", " ")


def _sealed(comparison: Comparison, view: View, study: Study, family: int) -> tuple[float, float, float] | None:
    """Mean of d on the test split with its interval, by the same rule: how many seeds there are was chosen by the validation split of the
    same trials, so the looks count here too."""
    d = list(_differences(comparison, view, study, "test").values())
    mean, low, high = span(d, study.settings.confidence, family, looks(study)) if len(d) > 1 else (0.0, None, None)
    return None if low is None or high is None else (mean, low, high)


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
    s, at = study.settings, looks(study)
    if at is None:
        return seeds_needed(mean, sd, n, s.margin, s.confidence, family)
    if study.looked and n >= at[1]:  # the seeds that are declared now are all there
        return seeds_needed(mean, sd, n, s.margin, s.confidence, family, at[0])
    return sequential_seeds_needed(mean, sd, min(n, at[1]), s.margin, s.confidence, family, *at)


def _unpaired(comparison: Comparison, view: View, by_seed: Mapping[int, float], study: Study) -> float:
    variance = 0.0
    for arm, weight in comparison.weights.items():
        values = [measured(view.cells[arm][seed], study) for seed in by_seed]
        variance += (weight * deviation([v for v in values if v is not None])) ** 2
    return math.sqrt(variance)


def with_p(
    contrasts: Sequence[Contrast], views: Sequence[View], declared: Sequence[Comparison], study: Study, family: int
) -> tuple[Contrast, ...]:
    """The contrasts with the p-values of a test that assumes nothing of the noise but symmetry, where such a value could have been small:
    if every contrast had the smallest that its seeds can give, Holm's rule would still leave some above 1 - confidence."""
    samples = [list(_differences(c, view, study).values()) for view in views for c in declared]
    if looks(study):  # it tests one number of seeds, not one that the differences themselves have chosen
        return tuple(contrasts)
    ps = {i: p for i, d in enumerate(samples) if len(d) > 1 and (p := sign_flip(d)) is not None}
    least = holm([smallest_p(len(samples[i])) for i in ps], family)
    level = (1 - study.settings.confidence) * (1 + 1e-9)
    adjusted = {i: p for i, p, best in zip(ps, holm(list(ps.values()), family), least, strict=True) if best <= level}
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


def _remark(n: int, needed: int | None, looks: Looks | None) -> str:
    if n < 2:
        return "no pair of seeds yet" if not n else "one seed gives no interval"
    if needed is not None:
        return f"about {needed} more seed{'s' * (needed > 1)}"
    if looks is None:
        return f"more than {MOST_SEEDS} seeds"
    return f"not within the at most {looks[1]} seeds" if n < looks[1] else f"open after the at most {looks[1]} seeds"
