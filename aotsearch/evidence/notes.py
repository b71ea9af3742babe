"""What a reader must know before trusting the table: warnings, which change how it reads, notes, and the method in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.front import unconfirmed
from aotsearch.evidence.pairs import View, looks, mixture, pairs, said_of, widest
from aotsearch.evidence.statistics import reach, too_few
from aotsearch.evidence.tables import Record, left_out, searched
from aotsearch.evidence.tails import widening
from aotsearch.study.design import Comparison
from aotsearch.study.study import Study

NAMED = 4  # trials that a note names; the ledger has all


def warnings(analysis: Analysis, study: Study, seeds: int) -> tuple[str, ...]:
    """What changes how every verdict reads, to be said before the question.

    Args:
        seeds: How many the reference has.
    """
    said, smallest = [], analysis.smallest_effect
    if analysis.partial:
        ended = f"{analysis.finished} of {analysis.expected} trials have ended"
        said.append(f"partial: {ended}; intervals hold for a complete run, so read this as a preview")
    if study.settings.design == "search" and not any(c.seeds for c in analysis.contrasts):
        said.append("the search is not confirmed: its ranking rests on one seed each and proves nothing")
    if seeds < 2:
        few = f"the reference has {seeds} finished seed{'s' * (seeds != 1)}"
        said.append(f"{few}: an interval needs at least two, and five are a sound start")
    if smallest is not None and smallest > analysis.margin:
        said.append(
            f"underpowered: the minimum detectable effect is {smallest:.3g} {analysis.unit}, more than the margin of {analysis.margin:g}: "
            "a typical contrast cannot be found equivalent; add seeds, or declare a wider margin before the next run"
        )
    return tuple(said)


def notes(
    analysis: Analysis, study: Study, records: Sequence[Record], seeds: int, declared: Iterable[Comparison], views: Iterable[View]
) -> tuple[str, ...]:
    """What a reader must know before trusting the table.

    Args:
        seeds: How many the reference has.
        declared: What is compared.
        views: The trials that this rests on.
    """
    search = _searched(records, study) if study.settings.design == "search" else []
    views = list(views)
    said = [
        *_evidence(analysis, study, seeds),
        *_tailed(analysis, widest(views)),
        *_rates(analysis, study),
        *_lost(records),
        *_cached(records),
        *_mixtures(declared, views, study),
        *search,
    ]
    return (*said, *study.notes)


def _evidence(analysis: Analysis, study: Study, seeds: int) -> list[str]:
    """How much the seeds can tell."""
    notes: list[str] = []
    if 2 <= seeds < (analysis.looks[0] if analysis.looks else 5):
        notes.append(_few(seeds, analysis))
    paired = seeds if analysis.looks is None else min([seeds, *(c.seeds for c in analysis.contrasts if c.low is not None)])
    if seeds > 1 and too_few(paired, analysis.confidence, analysis.family):
        hidden = ", and no p-value is shown" if analysis.looks is None and all(c.p is None for c in analysis.contrasts) else ""
        notes.append(too_few(paired, analysis.confidence, analysis.family) + hidden)
    if study.settings.adaptive is None and any(c.seeds_needed for c in analysis.contrasts):  # they would be a look that was not declared
        notes.append(
            "seeds that are added now are a further look, and intervals widen to allow for it; a study that may look again declares "
            f"seeds: {{min: {max(2, len(analysis.seeds))}, max: {3 * max(2, len(analysis.seeds))}}} before it runs"
        )
    return notes


def _tailed(analysis: Analysis, tail: float) -> list[str]:
    """That intervals reach further to one side, and why."""
    counts = sorted(c.seeds for c in analysis.contrasts if c.low is not None)
    longer = max(widening(counts[len(counts) // 2], tail)) if counts else 1.0
    if longer == 1:
        return []
    side, runs = ("upper", "worse") if tail > 0 else ("lower", "better")
    return [
        f"a few runs seem much {runs} than the rest (skewness of the differences over all contrasts, beyond chance: {tail:+.2g}), so each "
        f"interval reaches {longer:.2f} times as far at its {side} end: t intervals are too short there until such a run is seen"
    ]


def _few(seeds: int, analysis: Analysis) -> str:
    if analysis.looks is not None:
        return f"{seeds} seeds so far: the first look, and with it any interval, is at {analysis.looks[0]}"
    half = reach(seeds, analysis.confidence, analysis.family, None) / math.sqrt(seeds)
    return (
        f"only {seeds} seeds for {analysis.family} contrasts: an interval reaches {half:.3g} standard deviations of the difference to "
        "each side; every further seed narrows it fast"
    )


def _rates(analysis: Analysis, study: Study) -> list[str]:
    """Whose own learning rate may not be its best."""
    first: dict[Any, str] = {}  # arms that are the same model were tuned by the same trials
    for arm, rate in analysis.rates.items():
        first.setdefault(tuple(rate.tried.items()) or arm, arm)
    edges = [arm for arm in first.values() if analysis.rates[arm].edge]
    near = [arm for arm in first.values() if analysis.by_noise(arm)]
    notes = []
    if edges:
        notes.append(f"the best learning rate lies at the end of those tried for {', '.join(edges)}: a better one may lie beyond")
    if near:
        tuning = study.settings.tuning
        assert tuning is not None
        by = f"{tuning.seeds} tuning seed{'s' * (tuning.seeds > 1)}"
        notes.append(
            f"the best learning rate beats the next by less than {analysis.rate_noise:.3g} {analysis.unit}, which seeds alone make of "
            f"{by}, for {', '.join(near)}: under other seeds another may be chosen; more seeds for tuning tell them apart"
        )
    return notes


PARTS = {
    "test": "the test split",
    "diagnostics": "the diagnostics",
    "hints": "the hints",
    "knock_out": "the knock-out",
    "whole_validation": "the whole validation split",
}


def _lost(records: Iterable[Record]) -> list[str]:
    """What could not be measured of trials that trained well, and values that are no numbers."""
    reasons: dict[str, list[str]] = {}
    values = []
    for r in records:
        for part, reason in (r.get("unmeasured") or {}).items():
            reasons.setdefault(part, []).append(f"{_trial(r)}: {reason}")
        odd = r.get("not_finite") or {}
        if odd:
            path, value = next(iter(odd.items()))
            values.append(f"{_trial(r)}: {path} is {value}" + f" and {len(odd) - 1} more" * (len(odd) > 1))
    notes = [
        f"{PARTS.get(part, part)} could not be measured in {_trials(len(said))}, trained as planned and judged by the validation split "
        f"({_few_of(said)}); aotsearch run --retry-failed trains them again"
        for part, said in reasons.items()
    ]
    return notes + ([f"{_trials(len(values))} gave values that are not finite, which are left out ({_few_of(values)})"] if values else [])


def _cached(records: Iterable[Record]) -> list[str]:
    """Which trials were not trained for this study."""
    found = Counter(r["origin"]["study"] for r in records if r.get("cached"))
    where = ", ".join(f"{n} of {study}" for study, n in found.items())
    return (
        [f"{_trials(found.total())} taken from a cache, trained before under the same versions and conditions ({where})"] if found else []
    )


def _trial(r: Record) -> str:
    return f"{r['arm']} seed {r['seed']}"


def _trials(n: int) -> str:
    return f"{n} trial{'s' * (n != 1)}"


def _few_of(said: Sequence[str]) -> str:
    return "; ".join([*said[:NAMED], *([f"and {len(said) - NAMED} more"] if len(said) > NAMED else [])])


def _mixtures(declared: Iterable[Comparison], views: Iterable[View], study: Study) -> list[str]:
    """Which pairs are of trials that were not made alike, by what they do not share; the verdicts rest on them all the same."""
    made: dict[frozenset[str], tuple[str, dict[str, tuple[str, ...]]]] = {}  # a pair that stands under several terms counts once
    for view in views:
        for c in declared:
            for seed, trials in pairs(c, view, study).items():
                made.setdefault(frozenset(r["key"] for r in trials), (f"{c.name} seed {seed}", mixture(trials)))
    found: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for label, unlike in made.values():
        for name, values in unlike.items():
            found.setdefault(name, []).append((label, values))
    moves = {"data": "their difference is not of the arms alone"}
    usual = "such a change moves losses in the last digits, and after hundreds of steps in the second"
    return [
        f"{len(rows)} of {len(made)} pairs mix {said_of(name)} {' and '.join(sorted({v for _, values in rows for v in values}))} "
        f"({_few_of([label for label, _ in rows])}): {moves.get(name, usual)}"
        for name, rows in found.items()
    ]


def _searched(everything: Sequence[Record], study: Study) -> list[str]:
    tried = searched(everything, study)
    ended = len(tried) >= study.settings.search.trials or any(r["phase"] == "confirm" for r in everything)
    return left_out(everything, study) + (unconfirmed(tried, study) if ended else [])


def method(study: Study, family: int, simple: int, changed: bool) -> str:
    """How the verdicts were come to; `simple` is how many simple effects the design has."""
    s = study.settings
    when = "as it is declared now (see the first lines)" if changed else "declared before the run"
    at_once = f"all {family} contrasts at once"
    if simple:
        at_once += f", and again for all {simple} simple effects, of which those are shown whose changes interact,"
    each = 100 * (1 - (1 - s.confidence) / family)
    corrected = f"{100 * s.confidence:g} % for {at_once} by Bonferroni's correction ({each:.4g} % for each contrast)"
    at = looks(study)
    if at is None:
        intervals = (
            f"Intervals are paired Student t intervals of its mean, {corrected}: exact where differences are normal, valid under any "
            "dependence between arms."
        )
    else:
        needed = (
            f"Seeds were added as needed: from {at[0]} to at most {at[1]}, an arm got one more while a comparison with it was undecided. "
        )
        moved = f"The number of seeds was declared anew after results could be seen, so each of {at[0]} to {at[1]} seeds counts as a look. "
        intervals = (moved if study.looked else needed) + (
            f"Intervals are repeated confidence intervals of its mean (Jennison and Turnbull 1989), {corrected}, at every look from "
            f"{at[0]} to {at[1]} seeds at once: so wide that choosing the number of seeds by the results does not harm them, exact where "
            "differences are normal, valid under any dependence between arms. Those on the test split, of diagnostics and of removed "
            "layers hold at every look too, since their seeds were chosen with the others."
        )
    intervals += (
        " Where the differences of a study have a long tail to one side, intervals reach exp(8 tail / n) times as far there, with their "
        "mean skewness, less one standard error, as the tail and n seeds (at least 5): a few seeds that miss the tail look too calm."
    )
    rates = "Each arm is judged at its own learning rate, and beside it at the one that is best for the reference. " if s.tuning else ""
    return (
        "Every arm is trained under the same seeds as the reference: a seed fixes the initial values of all parameters that both have, the "
        "batches and their order. The whole validation split is evaluated. The unit of evidence is the difference within a seed. "
        f"{rates}{intervals} With the margin "
        f"{s.margin:g} {study.task.unit}, {when}, a change is equivalent where the interval lies within the margin to both "
        "sides (two one-sided tests), else worse where it lies above zero, else better where it lies below zero, else undecided. What "
        "a change takes away is necessary where it is worse by more than the margin, redundant where it is equivalent, harmful where "
        "it is better by more than the margin. A trial that diverged is counted, never dropped: if an arm diverges where the reference "
        "does not, its surviving seeds cannot show that the part is not needed."
    )
