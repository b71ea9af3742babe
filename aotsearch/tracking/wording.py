"""What MLflow's pages say: names of runs and metrics, descriptions, the numbers and words of the parent run. Text only, no mlflow."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from aotsearch.evidence.statistics import VERDICTS
from aotsearch.study.design import REFERENCE, equal_terms, plain_name, rate_terms
from aotsearch.study.study import Study, loss_unit

LONGEST = {"param": 6000, "tag": 8000, "note": 8000, "key": 200}  # MLflow's limits, with room for a prefix before a key
NOTES = 8  # of a description; the report has all
BASE = ("arm", "seed", "phase", "equalise")  # params of every trial
COST = ("seconds", "parameters", "flops_per_token", "tokens", "step_seconds", "peak_memory")  # metrics of a finished trial

Values = Mapping[str, Any]


# ---- names


def key_of(name: str) -> str:
    """A name as MLflow accepts it in a key on every platform: letters, digits, `_`, `-`, `.` and single spaces."""
    words = re.sub(r"[^\w.\- ]", " ", name).split()
    return " ".join(word for word in words if word.strip("."))[: LONGEST["key"]].strip() or "unnamed"


def keys(names: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """A key for each name, no two alike."""
    used, found = {*taken, "learning_rate", "steps"}, {}
    for name in names:
        key = base = key_of(name)
        number = 2
        while key in used:
            key, number = f"{base} {number}", number + 1
        used.add(key)
        found[name] = key
    return found


def comparison(c: Values) -> str:
    """A contrast's name with the terms it was made under: `channel=none (equal parameters, own learning rate)`."""
    terms = _terms(c["arm"], c["equalise"]) + rate_terms(c.get("learning_rate", "shared"), c.get("asked", True))
    name = plain_name(c["arm"], c["equalise"])
    return f"{name} ({', '.join(terms)})" if terms else name


def run_name(trial: Values, tuned: bool) -> str:
    """`channel=none (equal parameters) seed 3`; where learning rates are tuned with the rate, and trials for that told apart."""
    equalise = trial.get("equalise", "none")
    terms = _terms(trial["arm"], equalise)
    name = plain_name(trial["arm"], equalise) + (f" ({', '.join(terms)})" if terms else "")
    rate = trial.get("learning_rate") or trial.get("training", {}).get("learning_rate")
    at = f" rate {rate:g}" if tuned and rate is not None else ""
    return f"{'tuning: ' if trial.get('phase') == 'tune' else ''}{name}{at} seed {trial['seed']}"


def _terms(arm: str, equalise: str) -> list[str]:
    return [] if arm == REFERENCE else equal_terms(equalise)


def data(study: Study, event: Values) -> dict[str, Any]:
    """What trials read: named by the task and where its data lie, told apart by the digest of what they hold."""
    plain = study.task.to_plain()
    ((task, options),) = plain.items() if len(plain) == 1 else ((study.name, plain),)
    given = options.get("data") if isinstance(options, dict) else None
    lies = next(iter(given.values())) if isinstance(given, dict) and given else given
    name = " ".join(filter(None, [task, re.split(r"[/\\]", str(lies or ""))[-1]]))
    facts = {name: value for name, value in event.items() if name in ("documents", "bytes", "split", "unit")}
    source = {"source": json.dumps(plain, default=str), "profile": json.dumps(facts, default=str)}
    return {"name": name, "digest": str(event["manifest"]), "splits": ("train", "validation"), **source}


# ---- the parent run


def facts(analysis: Values) -> tuple[dict[str, Any], dict[str, str]]:
    """The metrics and tags of the parent run: a few numbers, since the UI draws each as a chart of one bar, and every verdict."""
    contrasts = analysis["contrasts"]
    names = keys(comparison(c) for c in contrasts)
    numbers: dict[str, Any] = {"noise_floor": analysis.get("noise_floor"), "minimum_detectable_effect": analysis.get("smallest_effect")}
    numbers |= {f"reference/{key_of(analysis['measure'])}": analysis.get("reference_value", {}).get("mean")}
    said = [c["verdict"] for c in contrasts if c.get("asked", True)]
    numbers |= {f"verdicts/{word}": said.count(word) for word in dict.fromkeys((*VERDICTS, *said))}  # also 0, where one was said before
    tags = {"aot.answer": str(analysis.get("answer", ""))}
    for c in contrasts:
        name = names[comparison(c)]
        tags |= {f"verdict/{name}": c["verdict"], f"component/{name}": c.get("component") or ""}
    return numbers, {k: v for k, v in tags.items() if v}


def effects(analysis: Values) -> dict[str, list[Any]]:
    """Every effect as a table of columns and rows, as MLflow shows an artifact; what was scored on the test split stands beside."""
    numbers = ("difference", "low", "high")
    columns = ["comparison", "verdict", "component", *numbers, "seeds", "size", "change", "test difference", "note"]
    rows = [
        [
            comparison(c),
            c["verdict"],
            c.get("component") or "",
            *(_rounded(c[name]) for name in numbers),
            c["seeds"],
            c.get("size") or "",
            _change(c),
            _rounded((c.get("test") or {}).get("difference")),
            c.get("remark") or "",
        ]
        for c in sorted(analysis["contrasts"], key=_rank)
    ]
    return {"columns": columns, "data": rows}


def _rounded(number: float | None) -> float | None:
    """As many digits as a narrow column shows; contrasts.csv has all."""
    return None if number is None else round(number, 6)


def child_verdicts(analysis: Values) -> dict[tuple[str, str], str]:
    """(arm, rate) -> the verdict on it, rate `shared` or `tuned`; of the arms that were compared alone."""
    changes = [c for c in analysis["contrasts"] if c.get("kind", "change") == "change"]
    found = {(c["arm"], c.get("learning_rate", "shared")): c["verdict"] for c in changes}
    return found | {(REFERENCE, rate): "(reference)" for rate in ("shared", "tuned")}


def rate_of(record: Values, analysis: Values) -> str:
    """Whether a trial ran at the shared learning rate or, another, at its arm's own."""
    rates = analysis.get("learning_rates") or {}
    shared = rates.get(REFERENCE, {}).get("chosen")
    return "shared" if shared is None or shared == record.get("learning_rate") else "tuned"


# ---- children


def layers(record: Values) -> Iterator[tuple[str, float, int]]:
    """Metric, value and layer of every diagnostic of a trial, and of the reference what is lost without each layer."""
    for name, numbers in (record.get("diagnostics") or {}).items():
        yield from ((f"layer/{key_of(name)}", float(v), place) for place, v in enumerate(numbers) if finite(v))
    for row in record.get("knock_out") or ():
        if finite(row["increase"]):
            alone = len(row["sublayers"]) == 1
            name = f"knock_out/{key_of(row['way'])}" + ("" if alone else f" {key_of(row['part'])}")
            yield name, float(row["increase"]), int(row["sublayers"][0]) if alone else 0


def failure(record: Values) -> str:
    trace = record.get("traceback", "")[-6000:]
    return f"**{record['outcome']}**: {record['message'][:1000]}" + (f"\n\n```\n{trace}\n```" if trace else "")


# ---- the description


def note(study: Study, analysis: Values, links: str = "") -> str:
    """Question, answer, what to know first, and the verdict table as Markdown, within what MLflow keeps of a description.

    Args:
        links: To the views of the experiment, as Markdown.
    """
    unit, confidence = analysis.get("unit") or analysis["measure"], study.settings.confidence
    warnings = [line for line in analysis.get("warnings", ()) if not line.startswith("declaration: ")]  # which have a head of their own
    notes = [line for line in analysis.get("notes", ()) if line not in warnings][:NOTES]
    start = "".join(f"> **Declaration:** {_cut(change, 600)}\n\n" for change in analysis.get("declaration", ()))
    start += "".join(f"> **Warning:** {_cut(line, 400)}\n\n" for line in warnings) + f"{head(study)}\n\n"
    start += f"**Answer.** {_cut(analysis['answer'], 1500)}\n\n" if analysis.get("answer") else ""
    start += "".join(f"> {_cut(line, 400)}\n>\n" for line in notes) + "\n" * bool(notes)
    kind = f", {analysis['interval']}" if analysis.get("interval") else ""
    title = f"| arm | change | difference ({unit}) | {confidence:.0%} interval{kind} | seeds | verdict |\n|---|---|---:|---|---:|---|\n"
    when = "as it is declared now" if any(c.get("declared") for c in analysis["contrasts"]) else "declared before the run"
    margin, measure = f"{study.settings.margin:g}", key_of(analysis["measure"])
    tail = "\n" + READING.format(when=when, unit=unit, measure=measure, margin=margin, name=study.name, loss_unit=loss_unit(study))
    least = analysis.get("smallest_effect")
    tail += f"\nMinimum detectable effect: about {least:.4f} {unit}.\n" if least is not None else ""
    tail += INTERACTING if any(c.get("kind") == "interaction" for c in analysis["contrasts"]) else ""
    tail += TUNED if study.settings.tuning else ""
    tail += f"\n{links}\n" if links else ""
    rows = [_row(c) for c in sorted(analysis["contrasts"], key=_rank)]
    kept = list(rows)
    more = ""
    while kept and len(start + title + "".join(kept) + more + tail) > LONGEST["note"]:
        kept.pop()
        more = f"| ... and {len(rows) - len(kept)} more in report.html | | | | | |\n"
    return (start + title + "".join(kept) + more + tail)[: LONGEST["note"]]


READING = (
    "A verdict is of the change. *worse*: the whole interval lies above 0. *better*: it lies below 0. *equivalent*: it lies within the "
    "margin of {margin} {unit} to both sides, {when}. *undecided*: these seeds cannot tell. What a change takes away is *necessary* where "
    "it is worse by more than the margin, *redundant* where it is equivalent, *harmful* where it is better by more than the margin. A "
    "difference is the arm minus what it is compared with, in the mean over the same seeds; lower is better.\n\n"
    "**Where to look.** The full report is `report.html` under *Artifacts* of the run `{name}`, all effects are `effects.json` there, and "
    "the figures images in `figures`. Every run below that one is a trial: one arm under one seed. Grouped by `arm`, a group shows the "
    "mean over its seeds of `final/{measure}` and of `final/difference`, which is the trial minus the reference under the same seed. "
    "`train/loss` and `validation/loss` in {loss_unit} and `validation/{measure}` in {unit} are curves, `layer/...` are diagnostics with "
    "the layer as the step, `hint/...` what was measured before training; `aot.outcome` says how a trial ended. The test split is in "
    "`effects.json` and in the report alone. A "
    "trained model comes here by `aotsearch export DIR --arm ARM --seed SEED --to mlflow`; the weights of every trial are in its folder.\n"
)
INTERACTING = (
    "\nTwo changes interact where both together are *worse*, or *better*, than the sum of each; *equivalent*: not beyond the margin.\n"
)
TUNED = (
    "\nTrials named `tuning: ...` (`aot.phase` is `tune`) only found learning rates. `aot.rate` is `shared` for trials at the rate that is "
    "best for the reference, `tuned` for those at another that is their arm's own.\n"
)


def head(study: Study) -> str:
    return f"**Question.** {_safe(study.question or study.name)}"


def _rank(c: Values) -> int:
    """What a description keeps longest: what is at the learning rates asked for, before what is at the shared one beside it; of these
    changes, main effects, interactions that are there, what these make of the changes."""
    kind = c.get("kind", "change")
    return {"change": 0, "main": 1, "simple": 3}.get(kind, 2 if c["verdict"] in ("worse", "better") else 4) + (
        0 if c.get("asked", True) else 5
    )


def _row(c: Values) -> str:
    difference = "-" if c["difference"] is None else f"{c['difference']:+.4f}"
    interval = "-" if c["low"] is None else f"[{c['low']:+.4f}, {c['high']:+.4f}]"
    aside = "; ".join(filter(None, [c.get("component"), c.get("remark")]))
    more = f" ({_safe(aside)})" if aside else ""
    cells = [_safe(comparison(c)), _safe(_change(c)), difference, interval, str(c["seeds"]), f"**{c['verdict']}**{more}"]
    return "| " + " | ".join(cell.replace("\n", " ") for cell in cells) + " |\n"


def _change(c: Values) -> str:
    ends = [plain(c[name]) for name in ("from", "to")]
    lists = [text.split(", ") for text in (c["decision"], *ends)]
    if len({len(items) for items in lists}) > 1:  # a value holds a comma itself
        lists = [[c["decision"]], [ends[0]], [ends[1]]]
    return "; ".join(f"{address}: {a} -> {b}" for address, a, b in zip(*lists, strict=True))


# ---- words


def plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _safe(text: str) -> str:
    """Text that Markdown shows as it is."""
    return "".join(f"\\{c}" if c in "\\`*<[|" else c for c in text)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 4]} ..."
