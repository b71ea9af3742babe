"""What a study will cost, before anything runs: counts of every arm, and time from a few measured steps."""

from __future__ import annotations

from typing import Any

from aotsearch.grammar.architecture import Architecture
from aotsearch.models.cost import cost, training_bytes, training_cost
from aotsearch.models.model import blaming, build
from aotsearch.report.contents import sizes
from aotsearch.running.progress import clock
from aotsearch.study.design import Arm, order
from aotsearch.study.study import Study
from aotsearch.training.device import DeviceSettings, gpus_here
from aotsearch.training.environment import processors
from aotsearch.training.rehearsal import forecast as measure

STARTUP_S = 25.0  # Ray, MLflow and the report, on a laptop


def forecast(study: Study, workers: int | None = None) -> dict[str, Any]:
    """Every trial with what it costs, and the seconds of the whole with `workers` at a time.

    What is decided only as the study runs is counted apart: tuning, a search and its confirmation, seeds beyond the first ones.
    A study that is meant for a larger machine is measured on this one, and `lacking` says so.
    """
    s = study.settings
    r, cpus, gpus = s.resources, processors(), gpus_here()
    at_once = r.room(workers * r.cpus if workers else cpus, gpus)
    hardware = DeviceSettings(min(r.cpus, cpus), "cuda" if gpus and r.share(gpus) else "cpu")
    facts = study.task.prepare()
    arms = {arm.name: arm for arm in study.arms()}
    seconds: dict[str, float] = {}
    _seconds(study, study.reference, hardware)  # the first steps of a process are slow
    for arm in arms.values():
        if arm.architecture.digest not in seconds:
            seconds[arm.architecture.digest] = round(_seconds(study, arm.architecture, hardware), 2)
    costs = {name: _costs(arm, s.budget.batch) | {"seconds": seconds[arm.architecture.digest]} for name, arm in arms.items()}
    trials = [{"arm": name, "seed": seed, **costs[name]} for name, seed in order(list(arms), s.first_seeds)]
    one_seed = sum(seconds.values())  # arms that are one model are trained once
    document: dict[str, Any] = {"trials": trials, "workers": max(1, at_once), "aliases": dict(study.design.aliases)}
    document |= {"device": hardware.device, "lacking": "" if at_once else r.lack(cpus, gpus)}
    document |= {"arms": list(arms), "models": len(seconds), "data": facts, "notes": study.notes}
    document["not_varied"] = [{"decision": address, "reason": reason} for address, reason in study.not_varied.items()]
    total = one_seed * len(s.first_seeds)
    if s.tuning:
        document["tuning_seconds"] = round(one_seed * len(s.tuning.tune) * s.tuning.seeds, 1)
        document["own_rate_seconds"] = round(one_seed * len(s.first_seeds), 1)  # at most: where each arm's own rate is not the shared one
        total += document["tuning_seconds"] + document["own_rate_seconds"]
    if s.adaptive:
        document["further_seconds"] = round(one_seed * (s.adaptive.max - s.adaptive.min), 1)  # at most: where nothing is settled before
    if s.design == "search":  # the architectures are not known yet: each is taken to cost what the reference does
        document["search_seconds"] = round(one_seed * s.search.trials, 1)
        steps = len(study.space.reference.decisions) // 2 if s.search.path else 0  # of a path, as many as differ
        total += document["search_seconds"] + one_seed * len(s.first_seeds) * ((s.search.confirmed or 3) + steps)
    if s.design == "search" and s.search.path:
        most = len(study.space.reference.decisions) - 1
        document["notes"] = [*study.notes, f"path: at most about {most} more models on every seed, one for each decision that is another"]
    document["seconds"] = round(total / document["workers"] + STARTUP_S, 1)
    return document


def _seconds(study: Study, architecture: Architecture, hardware: DeviceSettings) -> float:
    model = build(architecture)
    with blaming(model):
        return measure(model, study.task, study.training(), hardware)


def _costs(arm: Arm, batch: int) -> dict[str, Any]:
    """What every trial of an arm costs, besides time."""
    counts, training = cost(arm.architecture), training_cost(arm.architecture)
    return {
        "parameters": counts.parameters,
        "parameters_without_embeddings": counts.parameters_without_embeddings,
        "flops_per_token": counts.flops_per_token,
        "backward_flops_per_token": training.backward_flops_per_token,
        "memory_bytes": training_bytes(arm.architecture, batch),
        "state_per_sequence": counts.state_per_sequence,
        "equalise": arm.equalise,
        "resized": [list(change) for change in arm.resized],
    }


def table(document: dict[str, Any]) -> str:
    """A forecast as text, one line per arm."""
    seeds: dict[str, list[int]] = {}
    first: dict[str, dict[str, Any]] = {}
    for trial in document["trials"]:
        seeds.setdefault(trial["arm"], []).append(trial["seed"])
        first.setdefault(trial["arm"], trial)
    width = max(map(len, first))
    reference = first["reference"]
    lines = [f"{'arm':{width}}  seeds  parameters  against  FLOPs/token  against     memory  s/trial"]
    for name in document["arms"]:
        t = first[name]
        size, work = (t[key] / reference[key] - 1 for key in ("parameters", "flops_per_token"))
        resized = "".join(f"  {what} {before} -> {after}" for what, before, after in t["resized"])
        lines.append(
            f"{name:{width}}  {len(seeds[name]):5}  {t['parameters']:10,}  {size:+7.1%}  {t['flops_per_token']:11,}  {work:+7.1%}  "
            f"{t['memory_bytes'] / 2**20:7.1f} MB  {t['seconds']:7.1f}{resized}"
        )
    for effect, others in document["aliases"].items():
        lines.append(f"{effect} cannot be told from {', '.join(others) or 'effects of more than three factors'}")
    lines += [*document["notes"], *document["data"].get("notes", ())]
    if "tuning_seconds" in document:
        both = document["tuning_seconds"] + document["own_rate_seconds"]
        lines.append(f"finding each arm's learning rate and training at it: at most {clock(both)} of training, in the time below")
    if "further_seconds" in document:
        lines.append(
            f"further seeds where a verdict is open: at most {clock(document['further_seconds'])} of training, not in the time below"
        )
    else:
        n = len(next(iter(seeds.values())))
        again = f"seeds: {{min: {max(2, n)}, max: {3 * max(2, n)}}} declares further looks, where verdicts are still open"
        lines.append(f"{n} seed{'s' * (n != 1)} and one look; {again}")
    if "search_seconds" in document:
        lines.append(f"the search itself: about {clock(document['search_seconds'])} of training before early stopping")
    shared = f" of {document['models']} models" if document["models"] < len(first) else ""
    lines.append(f"{len(first)} arms{shared}, {document['workers']} trials at a time: about {clock(document['seconds'])}")
    if document["lacking"]:
        lines.append(f"This machine cannot run it: {document['lacking']}. Times are of this machine's {document['device']}.")
    lines += [f"{name}: {text}" for name, text in (("data", sizes(document["data"])), ("split", document["data"].get("split"))) if text]
    lines.append("Memory: weights, gradients, Adam's moments and the activations of a batch in float32, of one trial.")
    return "\n".join(lines)
