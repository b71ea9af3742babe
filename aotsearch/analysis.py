"""Records -> tables: paired effects with intervals, verdicts, outcomes, the noise floor.

    analyse(records, study) -> Analysis;  tabulate(records, study) -> DataFrame

Symbols: y measure (lower is better), s seed, d_s = y(arm, s) - y(reference, s), n paired seeds, m margin, K contrasts of the study.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from aotsearch.design import REFERENCE
from aotsearch.errors import InputError
from aotsearch.inference import MOST_SEEDS, VERDICTS, deviation, interval, quantile, seeds_needed, verdict, wilson
from aotsearch.study import Study

Record = Mapping[str, Any]
SAME = ("device", "precision", "steps", "tokens")  # what trials must share to be compared


@dataclass(frozen=True)
class Contrast:
    """One arm against the reference.

    Attributes:
        arm: Name of the arm.
        changes: (decision, from, to) for each decision it changes.
        equalise: What the arm was made equal in.
        difference: Mean of d over the paired seeds; None where there is no pair.
        low: Lower end of the simultaneous interval; None with fewer than two pairs.
        high: Upper end.
        seeds: How many seeds the verdict rests on.
        missing: Seeds of the study without a usable pair.
        verdict: One of VERDICTS.
        seeds_needed: Further seeds that would settle an undecided contrast; None where that is unknown or above MOST_SEEDS.
        sd_paired: Standard deviation of d.
        sd_unpaired: sqrt(sd(arm)^2 + sd(reference)^2), what it would be without pairing.
        remark: What else the reader must know, in words.
    """

    arm: str
    changes: tuple[tuple[str, Any, Any], ...]
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

    @property
    def change(self) -> str:
        """All changes in words: `channel: mlp -> none`."""
        return ", ".join(f"{address}: {spell(a)} -> {spell(b)}" for address, a, b in self.changes) or self.arm

    @property
    def label(self) -> str:
        """The change where there is one, else the arm's name."""
        name = self.change if len(self.changes) == 1 else self.arm
        return name if self.equalise == "none" else f"{name} (equal {self.equalise})"

    @property
    def gain(self) -> float | None:
        """How many times smaller pairing makes the standard deviation."""
        return self.sd_unpaired / self.sd_paired if self.sd_paired and self.sd_unpaired else None

    def to_dict(self) -> dict[str, Any]:
        ends: list[Any] = [self.changes[0][1], self.changes[0][2]] if len(self.changes) == 1 else ["", ""]
        if len(self.changes) > 1:
            ends = [", ".join(spell(change[i]) for change in self.changes) for i in (1, 2)]
        names = ("difference", "low", "high", "seeds", "verdict", "seeds_needed", "missing", "sd_paired", "sd_unpaired", "remark")
        return {
            "arm": self.arm,
            "decision": ", ".join(address for address, _, _ in self.changes),
            "from": ends[0],
            "to": ends[1],
            "equalise": self.equalise,
            **{name: getattr(self, name) for name in names},
        }


@dataclass(frozen=True)
class Outcome:
    """How the trials of one arm ended; `rate` is the share that diverged among those that could, with its Wilson interval."""

    arm: str
    counts: Mapping[str, int]
    rate: float | None
    low: float | None
    high: float | None

    @property
    def trials(self) -> int:
        return sum(self.counts.values())

    def to_dict(self) -> dict[str, Any]:
        return {"arm": self.arm, "counts": dict(self.counts), "diverged_rate": self.rate, "low": self.low, "high": self.high}


@dataclass(frozen=True)
class Analysis:
    """What the records say.

    Attributes:
        value, low, high: Mean of the reference over its seeds, with its own (not simultaneous) interval.
        noise_floor: Standard deviation of the reference over its seeds: the reference against itself (A/A).
        smallest_effect: Half width of a simultaneous interval at the median paired standard deviation.
        finished, expected: Trials that ended, and that the design asks for (None for a search, which decides as it goes).
        outcomes: Per arm of the judged phase, then of the search.
        seeds: The seeds of the study.
        family: How many contrasts share the error rate (K).
    """

    name: str
    question: str
    measure: str
    unit: str
    margin: float
    confidence: float
    reference: str
    value: float | None
    low: float | None
    high: float | None
    contrasts: tuple[Contrast, ...]
    noise_floor: float | None
    smallest_effect: float | None
    method: str
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]
    finished: int
    expected: int | None
    seeds: tuple[int, ...]
    family: int

    @property
    def partial(self) -> bool:
        return self.expected is not None and self.finished < self.expected

    @property
    def digits(self) -> int:
        """Decimals that show a tenth of the margin."""
        return max(3, math.ceil(-math.log10(self.margin)) + 1)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `aotsearch report --json`."""
        names = ("measure", "unit", "margin", "confidence", "reference", "noise_floor", "smallest_effect", "method", "finished", "expected")
        return {
            **{name: getattr(self, name) for name in names},
            "reference_value": {"mean": self.value, "low": self.low, "high": self.high},
            "partial": self.partial,
            "seeds": list(self.seeds),
            "answer": answer(self),
            "notes": list(self.notes),
            "contrasts": [c.to_dict() for c in self.contrasts],
            "outcomes": [o.to_dict() for o in self.outcomes],
        }


# ---- records -> analysis


def analyse(records: Iterable[Record], study: Study) -> Analysis:
    """Every arm against the reference, from the trials of the design, or of the confirmation where the study is a search.

    Raises:
        InputError: the trials are not comparable.
    """
    everything, settings = list(records), study.settings
    search = settings.design == "search"
    judged = _latest(r for r in everything if r["phase"] == ("confirm" if search else "design"))
    declared = _declared(everything, judged, study)
    judged = [r for r in judged if r["arm"] in {REFERENCE, *(arm for arm, _, _ in declared)}]
    _refuse_mixtures(judged)
    family = max(1, len(declared), settings.search.confirm if search else 0)
    seeds = sorted({r["seed"] for r in judged} | (set() if search else set(settings.seed_list)))
    cells = _cells(judged)
    contrasts = tuple(_contrast(arm, mode, changes, cells, study, family, len(seeds)) for arm, mode, changes in declared)
    values = [y for y in (_value(r, study) for r in cells.get((REFERENCE, "none"), {}).values()) if y is not None]
    mean, low, high = _reference(values, settings.confidence)
    analysis = Analysis(
        name=study.name,
        question=study.question,
        measure=study.task.measure,
        unit=study.task.unit,
        margin=settings.margin,
        confidence=settings.confidence,
        reference=REFERENCE,
        value=mean,
        low=low,
        high=high,
        contrasts=contrasts,
        noise_floor=deviation(values) if len(values) > 1 else None,
        smallest_effect=_smallest_effect(contrasts, settings.confidence, family),
        method=_method(study, family),
        outcomes=_outcomes(judged, everything, study),
        notes=(),
        finished=len(judged),
        # the reference is one model, whatever the arms are made equal in
        expected=None if search else len(seeds) * (1 + len(declared)),
        seeds=tuple(seeds),
        family=family,
    )
    return dataclasses.replace(analysis, notes=_notes(analysis, len(values)))


def _latest(records: Iterable[Record]) -> list[Record]:
    """One record per arm, seed and equalisation, the one that finished last, in an order that does not depend on the input's."""
    found: dict[tuple[str, int, str], Record] = {}
    for r in sorted(records, key=lambda r: (r.get("finished", ""), r["key"])):
        found[(r["arm"], r["seed"], r["equalise"])] = r
    return [found[key] for key in sorted(found)]


def _cells(records: Iterable[Record]) -> dict[tuple[str, str], dict[int, Record]]:
    cells: dict[tuple[str, str], dict[int, Record]] = {}
    for r in records:
        mode = "none" if r["arm"] == REFERENCE else r["equalise"]
        cells.setdefault((r["arm"], mode), {})[r["seed"]] = r
    return cells


def _declared(records: list[Record], judged: list[Record], study: Study) -> list[tuple[str, str, tuple[tuple[str, Any, Any], ...]]]:
    """(arm, equalise, changes) of every contrast: the study's arms, or a search's candidates, the most promising first."""
    modes = [study.settings.equalise] if isinstance(study.settings.equalise, str) else list(study.settings.equalise)
    if study.settings.design != "search":
        arms = [(arm.name, tuple((k, a, b) for k, (a, b) in arm.changes.items())) for arm in study.arms()[1:]]
        return [(name, mode, changes) for mode in modes for name, changes in arms]
    scores = {r["digest"]: _value(r, study) for r in records if r["phase"] == "search"}
    found = {r["arm"]: r for r in judged if r["arm"] != REFERENCE}

    def rank(name: str) -> tuple[float, str]:
        score = scores.get(found[name]["digest"])
        return (math.inf if score is None else score, name)

    return [(n, found[n]["equalise"], tuple((k, a, b) for k, (a, b) in found[n]["changes"].items())) for n in sorted(found, key=rank)]


def _refuse_mixtures(judged: list[Record]) -> None:
    done = [r for r in judged if r["outcome"] == "done"]
    for name in SAME:
        kinds = Counter(str(r.get(name)) for r in done)
        if len(kinds) > 1:
            shares = ", ".join(f"{kind} in {count} trials" for kind, count in sorted(kinds.items()))
            raise InputError(f"trials are compared only if alike, but {name} is {shares}; run the study in a new --out folder")
    digests: dict[tuple[str, str], str] = {}
    for r in done:
        if digests.setdefault((r["arm"], r["equalise"]), r["digest"]) != r["digest"]:
            raise InputError(f"arm {r['arm']!r} is two different models in this ledger; run the study in a new --out folder")


def _value(record: Record, study: Study) -> float | None:
    value = record["measures"].get(study.task.measure)
    return float(value) if record["outcome"] in ("done", "stopped") and value is not None and math.isfinite(value) else None


def _reference(values: list[float], confidence: float) -> tuple[float | None, float | None, float | None]:
    if len(values) < 2:
        return (values[0] if values else None), None, None
    return interval(values, confidence, 1)


def _contrast(
    arm: str,
    mode: str,
    changes: tuple[tuple[str, Any, Any], ...],
    cells: dict[tuple[str, str], dict[int, Record]],
    study: Study,
    family: int,
    seeds: int,
) -> Contrast:
    here, there = cells.get((arm, mode), {}), cells.get((REFERENCE, "none"), {})
    both = [(_value(here[s], study), _value(there[s], study)) for s in sorted(here.keys() & there.keys())]
    pairs = [(a, b) for a, b in both if a is not None and b is not None]
    d, n = [a - b for a, b in pairs], len(pairs)
    margin, confidence = study.settings.margin, study.settings.confidence
    mean, low, high, sd, apart = (d[0] if d else None), None, None, None, None
    said, needed = "undecided", None
    if n > 1:
        mean, low, high = interval(d, confidence, family)
        sd, apart = deviation(d), math.hypot(deviation([a for a, _ in pairs]), deviation([b for _, b in pairs]))
        said = verdict(low, high, margin)
        if said == "undecided":
            needed = seeds_needed(mean, sd, n, margin, confidence, family)
    said, based, remark = _divergence(here, there, said, n)
    if remark:
        needed = None  # more seeds of the same kind do not answer why it diverges
    elif said == "undecided":
        remark = _remark(n, needed)
    if 1 < n < seeds and not based:
        remark = "; ".join(filter(None, [remark, f"{n} of {seeds} pairs"]))
    return Contrast(arm, changes, mode, mean, low, high, based or n, seeds - (based or n), said, needed, sd, apart, remark)


def _divergence(here: Mapping[int, Record], there: Mapping[int, Record], said: str, n: int) -> tuple[str, int, str]:
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
        return "harmful", count, f"the reference diverged in every seed ({count})"
    remarks = [f"{name} diverged in {k} of {count} seeds" for name, k in (("it", arm), ("the reference", reference)) if k]
    if arm > reference and said in ("redundant", "harmful"):
        said = "undecided"
    if reference > arm and said in ("redundant", "necessary"):
        said = "undecided"
    return said, 0, "; ".join(remarks)


def _remark(n: int, needed: int | None) -> str:
    if n < 2:
        return "no pair of seeds yet" if not n else "one seed gives no interval"
    return f"about {needed} more seed{'s' * (needed > 1)}" if needed is not None else f"more than {MOST_SEEDS} seeds"


def _smallest_effect(contrasts: Sequence[Contrast], confidence: float, family: int) -> float | None:
    known = [(c.sd_paired, c.seeds) for c in contrasts if c.sd_paired is not None and c.seeds > 1]
    if not known:
        return None
    n = int(np.median([n for _, n in known]))
    return quantile(n, confidence, family) * float(np.median([sd for sd, _ in known])) / math.sqrt(n)


def _notes(analysis: Analysis, seeds: int) -> tuple[str, ...]:
    """What a reader must know before trusting the table; `seeds` is how many the reference has."""
    notes, smallest = [], analysis.smallest_effect
    if analysis.partial:
        ended = f"{analysis.finished} of {analysis.expected} trials have ended"
        notes.append(f"partial: {ended}; intervals hold for a complete run, so read this as a preview")
    if analysis.expected is None and not analysis.contrasts:
        notes.append("the search is not confirmed yet: its ranking rests on one seed each and proves nothing")
    if analysis.expected is None and analysis.contrasts:
        notes.append("verdicts speak of the reference: harmful means that the candidate is better, necessary that it is worse")
    if seeds < 2:
        notes.append(f"the reference has {seeds} finished seed{'s' * (seeds != 1)}: an interval needs two at least, five are a sound start")
    elif seeds < 5:
        reach = quantile(seeds, analysis.confidence, analysis.family) / math.sqrt(seeds)
        notes.append(
            f"only {seeds} seeds for {analysis.family} contrasts: an interval reaches {reach:.3g} standard deviations of the difference to "
            "each side; every further seed narrows it fast"
        )
    if smallest is not None and smallest > analysis.margin:
        notes.append(
            f"at this noise an interval reaches {smallest:.3g} {analysis.unit} to each side, more than the margin of {analysis.margin:g}: "
            "a typical contrast can not be found redundant; add seeds, or declare a wider margin before the next run"
        )
    return tuple(notes)


def _outcomes(judged: list[Record], everything: list[Record], study: Study) -> tuple[Outcome, ...]:
    arms = [_outcome(arm, [r for r in judged if r["arm"] == arm], study) for arm in _ordered(judged, study)]
    searched = [r for r in everything if r["phase"] == "search"]
    return tuple(arms + ([_outcome("search", searched, study)] if searched else []))


def _outcome(arm: str, records: list[Record], study: Study) -> Outcome:
    counts = Counter(r["outcome"] for r in records)
    told = counts["done"] + counts["diverged"] + counts["stopped"]
    if not told:
        return Outcome(arm, dict(sorted(counts.items())), None, None, None)
    low, high = wilson(counts["diverged"], told, study.settings.confidence)
    return Outcome(arm, dict(sorted((k, v) for k, v in counts.items() if v)), counts["diverged"] / told, low, high)


def _method(study: Study, family: int) -> str:
    s = study.settings
    each = 100 * (1 - (1 - s.confidence) / family)
    return (
        "Every arm is trained under the same seeds as the reference: a seed fixes the initial values of all parameters that both have, the "
        "batches and their order. The whole validation split is evaluated. The unit of evidence is the difference within a seed. "
        f"Intervals are paired Student t intervals of its mean, {100 * s.confidence:g} % for all {family} contrasts at once by "
        f"Bonferroni's correction ({each:.4g} % each): exact where differences are normal, valid "
        "under any dependence between arms. With the margin "
        f"{s.margin:g} {study.task.unit}, declared before the run, a part is redundant where the interval lies within the margin to both "
        "sides (equivalence, two one-sided tests), else necessary where it lies above zero, else harmful where it lies below zero, else "
        "undecided. A trial that diverged is counted, never dropped: if an arm diverges where the reference does not, its surviving seeds "
        "can not show that the part is not needed."
    )


# ---- tables


def spell(value: Any) -> str:
    """A decision's value in words; one that is not met is a dash."""
    if value is None:
        return "-"
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _natural(text: str) -> list[tuple[int, str]]:
    """Sorts search-2 before search-10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", text)]


def _ordered(records: Iterable[Record], study: Study) -> list[str]:
    """The arms met in records: in the study's order, then the others by name."""
    met = {r["arm"] for r in records}
    declared = [arm.name for arm in study.arms()]
    return [a for a in declared if a in met] + sorted(met - set(declared), key=_natural)


def tabulate(records: Iterable[Record], study: Study) -> pd.DataFrame:
    """One row per trial: what it was, how it ended, what it cost, and one column per decision."""
    everything = list(records)
    arms = {name: i for i, name in enumerate(_ordered(everything, study))}
    plain = ("parameters", "parameters_without_embeddings", "flops_per_token", "learning_rate", "seconds", "steps", "tokens")
    columns = ["arm", "seed", "phase", "outcome", study.task.measure, *plain, "equalise", "digest", "device"]
    addresses = list(dict.fromkeys(address for r in everything for address in r["decisions"]))
    rows = []
    for r in sorted(everything, key=lambda r: (r["phase"] == "confirm", arms[r["arm"]], r["seed"], r["key"])):
        row = {name: r.get(name) for name in columns}
        row[study.task.measure] = _value(r, study)
        rows.append(row | {_column(address, columns): r["decisions"].get(address) for address in addresses})
    table = pd.DataFrame(rows, columns=[*columns, *(_column(address, columns) for address in addresses)])
    return table.astype({study.task.measure: float})


def _column(address: str, taken: Sequence[str]) -> str:
    return f"decision {address}" if address in taken else address


def search_table(records: Iterable[Record], study: Study) -> pd.DataFrame:
    """The architectures a search tried, the best first; those stopped early come after, since they trained for less.

    One seed each, and the best of many looks better than it is: this describes, the confirmation decides.
    """
    table = tabulate((r for r in records if r["phase"] == "search"), study)
    turn = {"done": 0, "stopped": 1}
    table = table.assign(turn=[turn.get(o, 2) for o in table["outcome"]])
    order = table.sort_values(["turn", study.task.measure], kind="stable", na_position="last").index
    first = ["arm", study.task.measure, "parameters", "outcome", "steps"]
    last = ["seed", "phase", "parameters_without_embeddings", "flops_per_token", "learning_rate", "seconds", "tokens"]
    drop = [*last, "equalise", "device", "turn"]
    rest = [name for name in table.columns if name not in first and name not in drop]
    return table.loc[order, [*first, *rest]].reset_index(drop=True)


# ---- the answer


def answer(analysis: Analysis) -> str:
    """One sentence: which of the reference's choices are necessary, redundant, harmful, undecided."""
    heads = {"redundant": f"redundant within {analysis.margin:g} {analysis.unit}"}
    parts = []
    for word in VERDICTS:
        names = [_choice(c) for c in analysis.contrasts if c.verdict == word]
        if names:
            parts.append(f"{heads.get(word, word)}: {', '.join(names)}")
    text = "; ".join(parts) or "nothing to judge yet"
    return f"{text[0].upper()}{text[1:]}."


def _choice(c: Contrast) -> str:
    """What the verdict speaks of: the reference's choice, and what it was compared with."""
    if len(c.changes) != 1:
        return c.label
    ((address, here, there),) = c.changes
    against = f"{address} {spell(here)} (against {spell(there)})"
    return against if c.equalise == "none" else f"{against[:-1]}, equal {c.equalise})"
