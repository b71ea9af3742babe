"""Study -> how long a training step of every arm takes against the reference's, measured side by side on this machine; as text."""

from __future__ import annotations

import dataclasses
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aotsearch.errors import InputError, suggest
from aotsearch.evidence.declaration import history
from aotsearch.evidence.ledger import Ledger
from aotsearch.evidence.speed import StepTime, step_time
from aotsearch.evidence.statistics import fewest
from aotsearch.grammar.architecture import Architecture
from aotsearch.report.contents import made_with, slot
from aotsearch.report.summary import bounds
from aotsearch.running import continuing
from aotsearch.running.phases import usual_precision
from aotsearch.running.progress import clock
from aotsearch.study.design import REFERENCE
from aotsearch.study.study import Study
from aotsearch.training.device import DeviceSettings, gpus_here
from aotsearch.training.environment import environment, now, processors
from aotsearch.training.timing import STEPS, Timed, side_by_side

Say = Callable[[str], None]


def timed(study: Study, names: Sequence[str], rounds: int, ledger: Ledger | None, say: Say) -> dict[str, Any]:
    """The `timed` event of a study: the seconds of a step of every model, round by round, and where they were measured.

    Args:
        names: Of the arms beside the reference; all of the study, if none are named.
        ledger: Of the run folder that keeps the event.
        say: Told how long it will take.

    Raises:
        InputError: an arm is unknown, the machine has less than a trial is granted, or the run folder is another study's or being
            written to.
    """
    resources, gpus = study.settings.resources, gpus_here()
    resources.required_room(processors(), gpus)
    study = dataclasses.replace(study, manifest=study.task.prepare().get("manifest", ""))
    if ledger is not None:
        continuing.former(ledger, study)
    usual = usual_precision(study, [] if ledger is None else ledger.records().values())
    hardware = DeviceSettings(resources.cpus, "cuda" if resources.share(gpus) else "cpu", usual=usual)
    arms = _chosen(_arms(study, ledger), names)
    if ledger is None:
        return _measured(study, arms, hardware, rounds, say)
    with ledger.lock():
        return ledger.append("timed", **_measured(study, arms, hardware, rounds, say))


def _arms(study: Study, ledger: Ledger | None) -> dict[str, Architecture]:
    """The arms of a study, and what its search has found in a run folder."""
    arms = {arm.name: arm.architecture for arm in study.arms()}
    known = {} if ledger is None else history(ledger).last.arms
    recalled = {name: study.space.recall(e["decisions"], e["digest"]) for name, e in known.items() if name not in arms}
    return arms | {name: architecture for name, architecture in recalled.items() if architecture is not None}


def _chosen(arms: Mapping[str, Architecture], names: Sequence[str]) -> dict[str, Architecture]:
    for name in names:
        if name not in arms:
            raise InputError(f"no arm {name!r}{suggest(name, arms)}")
    return {name: found for name, found in arms.items() if not names or name in (REFERENCE, *names)}


def _measured(study: Study, arms: Mapping[str, Architecture], hardware: DeviceSettings, rounds: int, say: Say) -> dict[str, Any]:
    training, alike = study.training(), _alike(arms)
    models = {names[0]: arms[names[0]] for names in alike}
    say(f"{len(models)} models take turns: {rounds} rounds of {STEPS} steps each")
    began: list[float] = []

    def told(done: int) -> None:
        began.append(time.perf_counter())
        if done == 2 and (left := (began[1] - began[0]) * (rounds - 2)) > 5:
            say(f"about {clock(left)} left")

    found = side_by_side(models, study.task, training, hardware, rounds, told)
    return {
        "finished": now(),
        "rounds": rounds,
        "steps": STEPS,
        "batch": training["batch"],
        "device": hardware.device,
        "precision": hardware.precision(training),
        "threads": hardware.threads,
        "host": platform.node(),
        "environment": environment(hardware),
        "models": [_model(found[names[0]], models[names[0]], training["batch"]) | {"arms": names} for names in alike],
    }


def _alike(arms: Mapping[str, Architecture]) -> list[list[str]]:
    """The names of every distinct model, in the order of the arms."""
    names: dict[str, list[str]] = {}
    for name, architecture in arms.items():
        names.setdefault(architecture.digest, []).append(name)
    return list(names.values())


def _model(t: Timed, architecture: Architecture, batch: int) -> dict[str, Any]:
    return {
        "digest": architecture.digest,
        "seconds": [float(f"{seconds:.6g}") for seconds in t.seconds],
        "tokens": batch * dict(architecture.sizes).get("context", 1),
        "flops": t.flops,
        "peak_memory": t.peak_memory,
        "deterministic": t.deterministic,
        "message": t.message,
    }


def document(study: Study, event: Mapping[str, Any]) -> dict[str, Any]:
    """What `aotsearch time --json` prints: figures of every model in place of its seconds by round, and notes in words."""
    first, *others = event["models"]
    family, confidence = max(1, len(others)), study.settings.confidence
    rows = []
    for model in event["models"]:
        against = None if model is first else step_time(event, model["digest"], first["digest"], confidence, family)
        rows.append({"arm": model["arms"][0], "also": model["arms"][1:], **_figures(model), "step_time": _plain(against)})
    notes = [f"{row['arm']} could not be timed: {row['message']}" for row in rows if row["message"]]
    enough, many = fewest(confidence, family), family > 1
    if others and event["rounds"] < enough:
        asked = f"{100 * confidence:g} % for {family} ratio{'s at once' * many} takes {enough}"
        notes.append(f"{event['rounds']} round{'s' * (event['rounds'] != 1)}: too few for an interval; {asked} (--rounds)")
    where = ("rounds", "steps", "batch", "device", "precision", "threads", "host", "environment", "finished")
    return {
        "study": study.name,
        "reference": REFERENCE,
        "confidence": confidence,
        **{k: event[k] for k in where},
        "arms": rows,
        "notes": notes,
    }


def _plain(found: StepTime | None) -> dict[str, Any] | None:
    return None if found is None else dataclasses.asdict(found)


def _figures(model: Mapping[str, Any]) -> dict[str, Any]:
    timed = model["seconds"] and not model["message"]
    step = statistics.median(model["seconds"]) if timed else None
    return {
        "step_seconds": step,
        "tokens_per_second": model["tokens"] / step if step else None,
        "flops_per_second": model["flops"] / step if step and model["flops"] else None,
        "peak_memory": model["peak_memory"] if timed else None,
        "message": model["message"],
    }


def table(found: Mapping[str, Any]) -> str:
    """The document as text, one line per model in the order of the arms."""
    rows = [("arm", "step / reference", "interval", "ms/step", "tokens/s", "GFLOP/s", "memory", "")]
    for r in found["arms"]:
        against, memory = r["step_time"], r["peak_memory"]
        rows.append(
            (
                r["arm"],
                f"{against['ratio']:.3f}" if against else "1" if r["arm"] == REFERENCE and r["step_seconds"] else "-",
                bounds(against["low"], against["high"], 3, sign=False) if against else "-",
                _shown(r["step_seconds"], 1e3, ".2f"),
                _shown(r["tokens_per_second"], 1, ",.0f"),
                _shown(r["flops_per_second"], 1e-9, ",.1f"),
                "-" if memory is None else f"{memory / 2**20:,.1f} MB",
                f"also {', '.join(r['also'])}" if r["also"] else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [f"{arm:<{widths[0]}}  {'  '.join(f'{t:>{w}}' for t, w in zip(rest, widths[1:], strict=True))}" for arm, *rest in rows]
    others = max(1, len(found["arms"]) - 1)
    made = ", ".join(f"{name} {version}" for name, version in made_with(found).items())
    how = f"medians over {found['rounds']} rounds of {found['steps']} steps of one model at a time, batch {found['batch']}"
    lines += ["", *found["notes"], f"{how}; {100 * found['confidence']:g} % intervals over all {others} ratios at once (order statistics)"]
    return "\n".join([*(line.rstrip() for line in lines), f"timed on {slot(found)}, {found['host']}; {made}"])


def _shown(value: float | None, scale: float, form: str) -> str:
    return "-" if value is None else f"{value * scale:{form}}"
