"""What a study will cost, before anything runs: counts of every arm, and time from a few measured steps."""

from __future__ import annotations

import os
from typing import Any

from aotsearch.cost import cost
from aotsearch.design import order
from aotsearch.model import build
from aotsearch.progress import clock
from aotsearch.runner import local_device
from aotsearch.study import Study
from aotsearch.train import Grant
from aotsearch.train import forecast as measure

STARTUP_S = 25.0  # Ray, MLflow and the report, on a laptop


def forecast(study: Study, workers: int | None = None) -> dict[str, Any]:
    """Every trial with parameters, FLOPs and seconds, and the seconds of the whole with `workers` at a time."""
    s = study.settings
    cpus = os.cpu_count() or 1
    at_once = workers or max(1, cpus // s.resources.cpus)
    grant = Grant(s.resources.cpus, local_device(s.resources.gpus))
    study.task.prepare()
    arms = {arm.name: arm for arm in study.arms()}
    seconds, counts = {}, {}
    measure(build(study.reference), study.task, study.training(), grant)  # the first steps of a process are slow
    for name, arm in arms.items():
        counts[name] = cost(arm.architecture)
        seconds[name] = round(measure(build(arm.architecture), study.task, study.training(), grant), 2)
    trials = [
        {
            "arm": name,
            "seed": seed,
            "parameters": counts[name].parameters,
            "parameters_without_embeddings": counts[name].parameters_without_embeddings,
            "flops_per_token": counts[name].flops_per_token,
            "seconds": seconds[name],
        }
        for name, seed in order(list(arms), s.seed_list)
    ]
    total: float = sum(seconds[str(t["arm"])] for t in trials)
    document: dict[str, Any] = {"trials": trials, "workers": at_once}
    if s.design == "search":  # the architectures are not known yet: each is taken to cost what the reference does
        searched = seconds["reference"] * s.search.trials
        confirmed = seconds["reference"] * len(s.seed_list) * s.search.confirm
        document["search_seconds"] = round(searched, 1)
        total += searched + confirmed
    document["seconds"] = round(total / at_once + STARTUP_S, 1)
    return document


def table(document: dict[str, Any]) -> str:
    """A forecast as text, one line per arm."""
    seeds: dict[str, list[int]] = {}
    first: dict[str, dict[str, Any]] = {}
    for trial in document["trials"]:
        seeds.setdefault(trial["arm"], []).append(trial["seed"])
        first.setdefault(trial["arm"], trial)
    width = max(map(len, first))
    lines = [f"{'arm':{width}}  seeds  parameters  FLOPs/token  s/trial"]
    for name in sorted(first, key=lambda n: bool(n != "reference")):
        t = first[name]
        lines.append(f"{name:{width}}  {len(seeds[name]):5}  {t['parameters']:10,}  {t['flops_per_token']:11,}  {t['seconds']:7.1f}")
    if "search_seconds" in document:
        lines.append(f"the search itself: about {clock(document['search_seconds'])} of training before early stopping")
    lines.append(f"{len(document['trials'])} trials, {document['workers']} at a time: about {clock(document['seconds'])}")
    return "\n".join(lines)
