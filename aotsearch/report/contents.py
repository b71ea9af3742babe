"""What a report shows beside the effects, as plain rows: what each arm was given, the test split, tuning, noise, failures, facts."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aotsearch.evidence import analysis
from aotsearch.evidence.analysis import Outcome
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.statistics import NoiseFloor, noise_floor, verdict, wilson
from aotsearch.evidence.tables import Record, arms_of, measured
from aotsearch.report.data import Material
from aotsearch.report.summary import view
from aotsearch.study.design import equal_terms
from aotsearch.study.rates import TUNE_SEED
from aotsearch.study.study import VERSIONS


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
        Tuned(arm, found.value, _doubt(m, arm), {rate: v if math.isfinite(v) else None for rate, v in found.tried.items()})
        for arm in order
        for found in [rates[arm]]
        if found.tried
    ]


def _doubt(m: Material, arm: str) -> str:
    edge = ["at the end of the list"] * m.analysis.rates[arm].edge
    return ", ".join([*edge, *["within the noise of seeds"] * m.analysis.by_noise(arm)])


def beside(m: Material) -> list[tuple[str, Contrast, Contrast]]:
    """Each comparison at each arm's own learning rate and at the shared one, where that is another: name, the two contrasts."""
    return [(_named(one), one, two) for one, two in analysis.beside(m.analysis.contrasts) if two in m.distinct]


def _named(c: Contrast) -> str:
    equal = equal_terms(c.equalise)
    return c.title + (f" ({', '.join(equal)})" if equal else "")


# ---- the test split, noise, failures


@dataclass(frozen=True)
class Sealed:
    """One contrast on the test split, read once after training, beside the validation split that verdicts rest on."""

    contrast: Contrast
    difference: float
    low: float
    high: float
    verdict: str

    @property
    def name(self) -> str:
        said = view(self.contrast)
        return self.contrast.title + (f" ({said})" if said else "")

    @property
    def agrees(self) -> bool:
        return self.verdict == self.contrast.verdict


def sealed(m: Material) -> list[Sealed]:
    return [Sealed(c, *c.test, _said(c, c.test[1], c.test[2], m.analysis.margin)) for c in m.distinct if c.test is not None]


def _said(c: Contrast, low: float, high: float, margin: float) -> str:
    said = verdict(low, high, margin)
    return said if c.kind != "interaction" else {"redundant": "absent", "undecided": "undecided"}.get(said, "present")


def reference_test(m: Material) -> float | None:
    """Mean of the reference on the test split."""
    values = [v for r in m.cells().get(m.analysis.reference, {}).values() if (v := measured(r, m.study, "test")) is not None]
    return statistics.fmean(values) if values else None


def noise(m: Material) -> NoiseFloor | None:
    """The reference against itself under other seeds."""
    values = [v for r in m.cells().get(m.analysis.reference, {}).values() if (v := measured(r, m.study)) is not None]
    return noise_floor(values, m.analysis.confidence)


def gain(contrasts: Iterable[Contrast]) -> tuple[float, float, float] | None:
    """How many times smaller pairing makes the standard deviation: median, least and most over the contrasts."""
    gains = [c.gain for c in contrasts if c.gain is not None]
    return (statistics.median(gains), min(gains), max(gains)) if gains else None


@dataclass(frozen=True)
class Share:
    """How many trials of an arm ended in one way, and the rate with its Wilson interval."""

    count: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Ending:
    """How the trials of one arm ended: outcome -> its share; None where no trial could tell."""

    arm: str
    trials: int
    done: int
    rates: Mapping[str, Share | None]


def bad(outcomes: Iterable[Outcome]) -> list[str]:
    """The outcomes worth a column: diverged, and whatever else went wrong anywhere."""
    met = {kind for o in outcomes for kind in o.counts} - {"done", "stopped", "diverged"}
    return ["diverged", *sorted(met)]


def endings(m: Material) -> list[Ending]:
    """One row for each arm with trials of its own, and for the search."""
    rows = []
    for o in m.analysis.outcomes:
        if o.arm in m.arms and o.arm not in m.trained:
            continue
        ended = o.counts.get("done", 0) + o.counts.get("stopped", 0)
        rates: dict[str, Share | None] = {}
        for kind in bad(m.analysis.outcomes):
            count = o.counts.get(kind, 0)
            total = ended + count if kind == "diverged" else o.trials  # what ran out of memory could not diverge
            rates[kind] = Share(count, count / total, *wilson(count, total, m.analysis.confidence)) if total else None
        rows.append(Ending(o.arm, o.trials, ended, rates))
    return rows


def failures(m: Material) -> list[Record]:
    """The trials that did not finish well, with their reasons."""
    return [r for r in m.records if r["outcome"] not in ("done", "stopped")]


# ---- facts


def sizes(data: Mapping[str, Any]) -> str:
    """How much each split holds, from the facts of a task: "train 1,000 bytes of 3 documents, ..."."""
    kinds = ("bytes", "tokens", "images", "prompts")  # what a task counts its splits in
    of = {name: f" of {n:,} document{'s' * (n != 1)}" for name, n in data.get("split_documents", {}).items()}
    found = [f"{name} {size:,} {kind}{of.get(name, '')}" for kind in kinds for name, size in data.get(kind, {}).items()]
    return ", ".join(found + ([f"{data['documents']:,} documents"] if data.get("documents") and not of else []))


def _whole_validation(m: Material) -> str:
    """The reference on validation and test together, where the source of the data has them as one."""
    cells = m.cells().get(m.analysis.reference, {}).values()
    values = [v for r in cells if (v := measured(r, m.study, "whole_validation")) is not None]
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
        ("trained on", _counted(m, _device)),
        ("workers", f"{run['workers']} ({run.get('executor', '')})" if "workers" in run else ""),
        ("data", sizes(m.data)),
        ("split", m.data.get("split", "")),
        ("whole validation", _whole_validation(m)),
        ("data manifest", m.data.get("manifest", "")),
        ("study digest", m.study.digest),
        ("ledger SHA-256", m.ledger),
        ("seeds", seeds),
        ("damaged ledger lines", str(m.corrupt) if m.corrupt else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def made_with(r: Record) -> dict[str, Any]:
    """The versions that made a trial: those that it records, else of the start of the command that it belongs to."""
    own = r.get("environment") or {}
    return {**r.get("versions", {}), **{name: own[name] for name in VERSIONS if name in own}}


def _device(r: Record) -> str:
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
