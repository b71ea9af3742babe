"""What a study says: its contrasts, outcomes and noise floor, and the answer in a sentence.

answer(analysis) -> one sentence
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aotsearch.evidence.contrast import Contrast, decimals
from aotsearch.evidence.front import Front
from aotsearch.evidence.hints import Hint
from aotsearch.evidence.outcome import Outcome
from aotsearch.evidence.speed import Speed
from aotsearch.evidence.statistics import Looks, NoiseFloor
from aotsearch.study.design import equal_terms, spell
from aotsearch.study.rates import Rate


@dataclass(frozen=True)
class Analysis:
    """What the records say.

    Attributes:
        value, low, high: Mean of the reference over its seeds, with its own (not simultaneous) interval.
        warnings: What makes the verdicts say little, to be read before anything else but `declaration`; they lead the notes of `to_dict`.
        noise: What seeds alone do to the reference (A/A): its standard deviation, and how far two single runs of it differ.
        smallest_effect: The minimum detectable effect: half width of a simultaneous interval at the median paired standard deviation.
        finished, expected: Trials that ended, and that the design asks for (None for a search, which decides as it goes).
        outcomes: Per arm of the judged phase, then of the search.
        seeds: The seeds of the study.
        family: How many contrasts share the error rate (K).
        rates: Arm -> what tuning found for it, where the study tunes learning rates.
        declaration: What decides verdicts and was changed after trials had ended, in words.
        rate_noise: What seeds alone do to the measure by which a rate is chosen; None where nothing is tuned, or not known.
        looks: Between which numbers of seeds they were chosen by looking; None where their number was fixed.
        aliases: Effect of a fraction -> the effects that it cannot be told from.
        front: Of a search after several objectives.
        hints: Of a search, how well the sizes of models, and its rungs, foretold how they end.
        speed: Of every arm whose time is known: how long its steps take, and its difference at equal training time.
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
    noise: NoiseFloor | None
    smallest_effect: float | None
    method: str
    outcomes: tuple[Outcome, ...]
    notes: tuple[str, ...]
    finished: int
    expected: int | None
    seeds: tuple[int, ...]
    family: int
    rates: Mapping[str, Rate] = field(default_factory=dict)
    declaration: tuple[str, ...] = ()
    rate_noise: float | None = None
    looks: Looks | None = None
    warnings: tuple[str, ...] = ()
    aliases: tuple[tuple[str, tuple[str, ...]], ...] = ()
    speed: tuple[Speed, ...] = ()
    front: Front | None = None
    hints: tuple[Hint, ...] = ()

    @property
    def noise_floor(self) -> float | None:
        """Standard deviation of the reference over its seeds."""
        return self.noise.sd if self.noise else None

    @property
    def rate(self) -> str:
        """The learning rates that the study asks for: `tuned`, each arm's own, or one that is `shared`."""
        return "tuned" if self.rates else "shared"

    @property
    def interval(self) -> str:
        """The kind of interval, in words."""
        return "Student t" if self.looks is None else f"repeated looks from {self.looks[0]} to {self.looks[1]} seeds"

    def by_noise(self, arm: str) -> bool:
        """Whether the best learning rate of an arm beats the next by no more than seeds alone could make it."""
        lead = self.rates[arm].lead if arm in self.rates else None
        return lead is not None and self.rate_noise is not None and lead < self.rate_noise

    def doubt(self, arm: str) -> str:
        """Why another learning rate than the one chosen may be better for an arm, in words; empty where nothing speaks for that."""
        edge = ["at the end of the list"] * self.rates[arm].edge
        return ", ".join([*edge, *["within the noise of seeds"] * self.by_noise(arm)])

    @property
    def gain(self) -> tuple[float, float, float] | None:
        """How many times smaller pairing makes the standard deviation: median, least and most over the contrasts."""
        gains = [c.gain for c in self.contrasts if c.gain is not None]
        return (statistics.median(gains), min(gains), max(gains)) if gains else None

    @property
    def partial(self) -> bool:
        return self.expected is not None and self.finished < self.expected

    @property
    def digits(self) -> int:
        """Decimals that show a tenth of the margin."""
        return decimals(self.margin)

    def to_dict(self) -> dict[str, Any]:
        """The JSON document of `aotsearch report --json`."""
        names = ("measure", "unit", "margin", "confidence", "reference", "noise_floor", "smallest_effect", "method", "finished", "expected")
        return {
            **{name: getattr(self, name) for name in names},
            "noise": dataclasses.asdict(self.noise) if self.noise else None,
            "reference_value": {"mean": self.value, "low": self.low, "high": self.high},
            "partial": self.partial,
            "seeds": list(self.seeds),
            "interval": self.interval,
            "learning_rate": self.rate,
            "answer": answer(self),
            "declaration": list(self.declaration),
            "warnings": [*(f"declaration: {change}" for change in self.declaration), *self.warnings],
            "notes": [*self.warnings, *self.notes],
            "contrasts": [c.to_dict() for c in self.contrasts],
            "outcomes": [o.to_dict() for o in self.outcomes],
            "learning_rates": {
                arm: {
                    "chosen": r.value,
                    "edge": r.edge,
                    "by_noise": self.by_noise(arm),
                    "tried": [[rate, v if math.isfinite(v) else None] for rate, v in r.tried.items()],
                }
                for arm, r in self.rates.items()
            },
            "aliases": {effect: list(others) for effect, others in self.aliases},
            "speed": [s.to_dict() for s in self.speed],
            **({"front": self.front.to_dict(), "hypervolume": self.front.volume} if self.front else {}),
            **({"hints": [dataclasses.asdict(h) for h in self.hints]} if self.hints else {}),
        }


def answer(analysis: Analysis) -> str:
    """What the contrasts say, in sentences, at the learning rates that the study asks for; then what the shared rate says otherwise."""
    text = _sentences([c for c in analysis.contrasts if c.asked], analysis) or "Nothing to judge yet."
    if analysis.rate == "tuned":
        other = _sentences([two for one, two in beside(analysis.contrasts) if one.verdict != two.verdict], analysis)
        text += " Each arm is at its own learning rate" + (f"; at the shared one otherwise: {other}" if other else ".")
    return text


def _sentences(contrasts: Sequence[Contrast], analysis: Analysis) -> str:
    return " ".join(f"{head}: {', '.join(map(phrase, found))}." for head, found in findings(contrasts, analysis.margin, analysis.unit))


def findings(contrasts: Iterable[Contrast], margin: float, unit: str) -> list[tuple[str, list[Contrast]]]:
    """The contrasts under the head of the sentence that each belongs to, in the order of the answer; those that say nothing left out."""
    found: dict[str, list[Contrast]] = {head: [] for head in HEADS}
    for c in contrasts:
        if (head := _head(c)) is not None:
            found[head].append(c)
    return [(head.format(margin=f"{margin:g} {unit}".strip()), those) for head, those in found.items() if those]


HEADS = (
    "Needed",
    "Worse",
    "Worse, maybe by less than the margin",
    "Can go",
    "No difference beyond {margin}",
    "Better without",
    "Better",
    "Better, maybe by less than the margin",
    "Acting together",
    "Open",
)


def _head(c: Contrast) -> str | None:
    if c.verdict == "undecided":
        return "Open"
    if c.kind == "interaction":
        return "Acting together" if c.verdict != "equivalent" else None
    if c.component:
        return {"necessary": "Needed", "redundant": "Can go", "harmful": "Better without"}[c.component]
    if c.verdict == "equivalent":
        return "No difference beyond {margin}"
    if c.size == "open":
        return f"{c.verdict.capitalize()}, maybe by less than the margin"
    return "Needed" if c.verdict == "worse" and c.replacement else c.verdict.capitalize()


def phrase(c: Contrast, terms: bool = True) -> str:
    """What a sentence of the answer lists: the part that a removal takes away, or what takes the place of what.

    Args:
        terms: Whether what the arms were made equal in is said.
    """
    where = [c.where if c.alone else "", *(equal_terms(c.equalise) if terms else [])]
    text = c.title
    if c.component:
        text = c.part
    elif c.replacement:
        ((address, here, there),) = c.changes
        needed = c.verdict == "worse" and c.size == "beyond"
        text = f"{address} {spell(here)} rather than {spell(there)}" if needed else f"{address} {spell(there)} for {spell(here)}"
    more = ", ".join(filter(None, where))
    more = f" ({more})" if more else ""
    if c.kind == "interaction" and c.verdict != "undecided":
        more += f" ({c.verdict} than apart)"
    return text + more


def beside(contrasts: Iterable[Contrast]) -> list[tuple[Contrast, Contrast]]:
    """Each comparison at the learning rates asked for with the same one at the shared rate, where there are both."""
    everything = list(contrasts)
    asked = {(c.kind, c.arm, c.equalise): c for c in everything if c.asked}
    others = [((c.kind, c.arm, c.equalise), c) for c in everything if not c.asked]
    return [(asked[key], c) for key, c in others if key in asked]
