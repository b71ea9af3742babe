"""What a report shows beside the effects, as plain rows: what each arm was given, the test split, tuning, noise, failures, facts."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aotsearch.evidence import answer
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.layers import Knocked
from aotsearch.evidence.outcome import Outcome, Share
from aotsearch.evidence.speed import Speed
from aotsearch.evidence.tables import Record, arms_of, measured, search_table, tokens_per_second
from aotsearch.report.data import Material
from aotsearch.report.summary import Component, view
from aotsearch.study.design import equal_terms, spell
from aotsearch.study.rates import TUNE_SEED
from aotsearch.study.study import VERSIONS


@dataclass(frozen=True)
class Finding:
    """One line of the answer: a head, the verdict that it is of, and what it is said of, each with what is said beside it."""

    head: str
    verdict: str
    said: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Given:
    """What one arm was given, at one learning rate.

    Attributes:
        share: Parameters over those of the reference, less 1.
        flops_share: The same of FLOPs per token.
        equalise: What it was made equal in; `none` for arms as they are.
        resized: How, in words; empty where its size is as it is.
        also: Other arms that are the same model.
        beyond: Whether it misses the reference by more than the study's tolerance in what it was made equal in.
        seconds: Median over seeds.
    """

    arm: str
    rate: str
    parameters: int | None
    share: float | None
    parameters_without_embeddings: int | None
    flops_per_token: int | None
    flops_share: float | None
    tokens: int | None
    learning_rate: float | None
    seconds: float | None
    seeds: int
    equalise: str
    resized: str
    also: Sequence[str]
    beyond: bool


def fairness(m: Material) -> list[Given]:
    """One row for each arm, and one more where it was also trained at a shared learning rate that is not its own."""
    rows: list[Given] = []
    base = next(iter(m.cells().get(m.analysis.reference, {}).values()), {})
    for arm in m.trained:
        seen: set[Any] = set()
        for mode in m.modes:
            trials = list(m.cells(mode).get(arm, {}).values())
            if trials and trials[0]["learning_rate"] not in seen:
                seen.add(trials[0]["learning_rate"])
                rows.append(_given(arm, mode, trials, base, m))
    return rows


def _given(arm: str, mode: str, trials: Sequence[Record], base: Record, m: Material) -> Given:
    first = next((r for r in trials if r["outcome"] == "done"), trials[0])
    seconds = [float(r["seconds"]) for r in trials if r["outcome"] == "done" and r.get("seconds") is not None]
    planned = m.study.settings.budget.steps
    tokens = first.get("tokens") if first["steps"] == planned else None  # a trial that ended early says nothing of what it was offered
    equalise = first.get("equalise", "none")
    share, flops = (_share(first, base, name) for name in ("parameters", "flops_per_token"))
    missed = {"parameters": share, "flops": flops}.get(equalise)
    resized = ", ".join(f"{name} {before} -> {after}" for name, before, after in first.get("resized", ()))
    return Given(
        arm,
        mode,
        first.get("parameters"),
        share,
        first.get("parameters_without_embeddings"),
        first.get("flops_per_token"),
        flops,
        tokens,
        first.get("learning_rate"),
        statistics.median(seconds) if seconds else None,
        len(trials),
        equalise,
        resized,
        [other for other in arms_of(first) if other != arm],
        missed is not None and abs(missed) > m.study.settings.tolerance,
    )


def _share(record: Record, base: Record, name: str) -> float | None:
    return record[name] / base[name] - 1 if record.get(name) and base.get(name) else None


# ---- speed


@dataclass(frozen=True)
class Pace:
    """How fast one arm trained, at one learning rate.

    Attributes:
        step_seconds, tokens_per_second, peak_memory: Medians over the trials that record them.
        against: What is known of it against the reference; None for the reference itself.
    """

    arm: str
    rate: str
    step_seconds: float | None
    tokens_per_second: float | None
    peak_memory: float | None
    against: Speed | None


def paces(m: Material) -> list[Pace]:
    """One row for each arm and learning rate, where time was recorded or measured; none where neither is known of any."""
    against = {(s.arm, s.rate): s for s in m.analysis.speed}
    rows, seen = [], set()
    for arm in m.trained:
        for mode in m.modes:
            trials = [r for r in m.cells(mode).get(arm, {}).values() if r["outcome"] == "done"]
            keys = frozenset(r["key"] for r in trials)
            if trials and keys not in seen:
                seen.add(keys)
                step, memory = (_median(r.get(name) for r in trials) for name in ("step_seconds", "peak_memory"))
                rows.append(Pace(arm, mode, step, _median(map(tokens_per_second, trials)), memory, against.get((arm, mode))))
    return rows if any(row.step_seconds or row.against for row in rows) else []


def _median(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return statistics.median(known) if known else None


def step_times(m: Material) -> dict[str, Speed]:
    """Arm -> what is known of the time of its steps; an arm is as fast at every learning rate."""
    return {s.arm: s for s in reversed(m.analysis.speed)}


# ---- learning rates


@dataclass(frozen=True)
class Tuned:
    """What tuning found for one arm: the mean measure at each rate (None where it diverged or was not tried).

    Attributes:
        doubt: Why another rate may be better, in words; empty where nothing speaks for that.
    """

    arm: str
    chosen: float | None
    doubt: str
    at: Mapping[float, float | None]


def tuned(m: Material) -> tuple[list[float], list[Tuned]]:
    """All rates that were tried, and a row per arm."""
    rates = m.analysis.rates
    tried = sorted({rate for found in rates.values() for rate in found.tried})
    order = [arm for arm in m.trained if arm in rates] + [arm for arm in rates if arm not in m.arms]
    return tried, [
        Tuned(arm, found.value, m.analysis.doubt(arm), {rate: v if math.isfinite(v) else None for rate, v in found.tried.items()})
        for arm in order
        for found in [rates[arm]]
        if found.tried
    ]


def beside(m: Material) -> list[tuple[str, Contrast, Contrast]]:
    """Each comparison at each arm's own learning rate and at the shared one, where that is another: name, the two contrasts."""
    return [(_named(one), one, two) for one, two in answer.beside(m.analysis.contrasts) if two in m.distinct]


def _named(c: Contrast) -> str:
    equal = equal_terms(c.equalise)
    return c.title + (f" ({', '.join(equal)})" if equal else "")


# ---- verdicts, searches, knock-outs


def answered(m: Material, found: Sequence[Component]) -> list[Finding]:
    """The answer line by line: what the terms of a study agree on, then what depends on them, then what is open."""
    shown, beside = {}, {}
    for k in found:
        if k.verdict != "depends":
            c = next(c for c in k.contrasts.values() if c.verdict == k.verdict and (c.asked or k.verdict == "undecided"))
            shown[id(c)], beside[id(c)] = c, k.beside
    heads = answer.findings(shown.values(), m.analysis.margin, m.analysis.unit)
    lines = [Finding(head, of[0].verdict, [(answer.phrase(c, terms=False), beside[id(c)]) for c in of]) for head, of in heads]
    depends = [(k.title, k.remark) for k in found if k.verdict == "depends"]
    is_open = [line for line in lines if line.verdict == "undecided"]
    return [line for line in lines if line not in is_open] + ([Finding("Depends", "depends", depends)] if depends else []) + is_open


def removed(knocked: Sequence[Knocked], contrasts: Sequence[Contrast]) -> list[tuple[str, dict[str, Knocked], Contrast | None]]:
    """Each part that was switched off: by way, and the contrast of the arm that was trained without it."""
    arms = {c.arm: c for c in contrasts if c.asked and c.kind == "change"}
    parts: dict[str, dict[str, Knocked]] = {}
    for k in knocked:
        parts.setdefault(k.part, {})[k.way] = k
    return [(part, ways, arms.get(next(iter(ways.values())).retrained)) for part, ways in parts.items()]


def importance(m: Material) -> list[tuple[str, float, Sequence[float]]]:
    """The decisions of a search with the share of each and its ends, the largest share first."""
    ends = m.importance.get("ends", {})
    known = [(name, v, ends.get(name, ())) for name, v in m.importance.get("shares", {}).items() if v is not None]
    return sorted(known, key=lambda row: -row[1])


def searched(m: Material, top: int = 20) -> list[dict[str, Any]]:
    """The best architectures of a search, each with the decisions in which it differs from the reference."""
    if not m.search:
        return []
    import pandas as pd

    table, reference = search_table(m.records, m.study).head(top), m.study.reference.decisions
    rows = []
    for _, series in table.iterrows():
        row = {str(k): v for k, v in series.items()}
        decisions = {k: row[k] for k in reference if k in row and not pd.isna(row[k]) and row[k] != reference[k]}
        value = row[m.analysis.measure]
        rows.append(
            {**row, "value": None if pd.isna(value) else value, "changes": ", ".join(f"{k}={spell(v)}" for k, v in decisions.items())}
        )
    return rows


# ---- the test split, failures


def sealed(m: Material) -> list[tuple[str, Contrast]]:
    """Each contrast that was read on the test split, once after training, beside the validation split that verdicts rest on."""
    return [(c.title + (f" ({said})" if (said := view(c)) else ""), c) for c in m.distinct if c.test is not None]


def of_reference(m: Material, split: str) -> list[float]:
    """The values of the reference on a split, as `measured` calls it, where it was read."""
    return [v for r in m.cells().get(m.analysis.reference, {}).values() if (v := measured(r, m.study, split)) is not None]


def bad(outcomes: Iterable[Outcome]) -> list[str]:
    """The outcomes worth a column: diverged, and whatever else went wrong anywhere."""
    return ["diverged", *sorted({kind for o in outcomes for kind in o.bad} - {"diverged"})]


def endings(m: Material) -> list[tuple[Outcome, dict[str, Share | None]]]:
    """How trials ended, for each arm with trials of its own, and for the search: with the share of each of `bad`."""
    own = [o for o in m.analysis.outcomes if o.arm in m.trained or o.arm not in m.arms]
    return [(o, {kind: o.share(kind) for kind in bad(m.analysis.outcomes)}) for o in own]


def failures(m: Material) -> list[Record]:
    """The trials that did not finish well, with their reasons."""
    return [r for r in m.records if r["outcome"] not in ("done", "pruned")]


# ---- facts


def sizes(data: Mapping[str, Any]) -> str:
    """How much each split holds, from the facts of a task: "train 1,000 bytes of 3 documents, ..."."""
    kinds = ("bytes", "tokens", "images", "prompts")  # what a task counts its splits in
    of = {name: f" of {n:,} document{'s' * (n != 1)}" for name, n in data.get("split_documents", {}).items()}
    found = [f"{name} {size:,} {kind}{of.get(name, '')}" for kind in kinds for name, size in data.get(kind, {}).items()]
    return ", ".join(found + ([f"{data['documents']:,} documents"] if data.get("documents") and not of else []))


def _whole_validation(m: Material) -> str:
    """The reference on validation and test together, where the source of the data has them as one."""
    values = of_reference(m, "whole_validation")
    said = "the reference on validation and test together, which the data's source has as one validation split"
    return f"{statistics.fmean(values):.4f} {m.study.task.unit}: {said}; mean of {len(values)} seeds" if values else ""


def facts(m: Material) -> list[tuple[str, str]]:
    """What is needed to repeat the run."""
    run = m.runs[-1] if m.runs else {}
    commands = dict.fromkeys(r.get("command", "") for r in m.runs)
    tuning = m.study.settings.tuning
    seeds = ", ".join(map(str, m.analysis.seeds))
    if tuning is not None:
        seeds += "; learning rates were tuned under " + ", ".join(str(TUNE_SEED + i) for i in range(tuning.seeds))
    pairs = [
        ("command", "\n".join(filter(None, commands))),
        ("started", ", ".join(r.get("started", "") for r in m.runs)),
        ("last trial", max((r.get("finished", "") for r in m.records), default="")),
        ("made with", _counted(m, lambda r: ", ".join(f"{name} {version}" for name, version in made_with(r).items()))),
        ("machine", _counted(m, lambda r: ", ".join(f"{name} {value}" for name, value in r.get("machine", {}).items()))),
        ("trained on", _counted(m, slot)),
        ("steps timed on", timed_on(m)),
        ("workers", f"{run['workers']} ({run.get('executor', '')})" if "workers" in run else ""),
        ("data", sizes(m.data)),
        ("split", m.data.get("split", "")),
        ("whole validation", _whole_validation(m)),
        ("data manifest", m.data.get("manifest", "")),
        ("study digest", m.study.digest),
        ("ledger SHA-256", m.ledger),
        ("seeds", seeds),
        ("damaged lines", m.damage),
    ]
    return [(name, value) for name, value in pairs if value]


def made_with(r: Record) -> dict[str, Any]:
    """The versions that made a trial: those that it records, else of the start of the command that it belongs to."""
    own = r.get("environment") or {}
    return {**r.get("versions", {}), **{name: own[name] for name in VERSIONS if name in own}}


def timed_on(m: Material) -> str:
    """Where steps were timed side by side, in words; empty where they were not."""
    return "; ".join(dict.fromkeys(f"{slot(e)}, {e['host']}, on {e['finished'][:10]}" for e in m.timed))


def slot(r: Record) -> str:
    """The device of a trial or of a `timed` event, and what it was given of it, in words."""
    if not r["device"]:
        return ""
    own = r.get("environment") or {}
    more = [own["device_name"]] if "device_name" in own else []
    more += [f"instruction set {own['instruction_set']}"] if "instruction_set" in own else []
    threads = f"{r['threads']} thread" + "s" * (r["threads"] != 1)
    return f"{r['device']} ({', '.join([*more, r['precision'], threads])})"


def _counted(m: Material, said: Callable[[Record], str]) -> str:
    """What is said of each trial, with the number of trials where it is not the same of all."""
    counts = Counter(text for r in m.records if (text := said(r)))
    if len(counts) < 2:
        return "".join(counts)
    return "; ".join(f"{text}: {n} trial{'s' * (n != 1)}" for text, n in counts.most_common())
