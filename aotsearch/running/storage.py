"""A search -> a storage of Optuna's, which optuna-dashboard and Optuna's own functions read."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

from aotsearch.errors import InputError, RunError
from aotsearch.evidence.declaration import history
from aotsearch.evidence.front import values
from aotsearch.evidence.ledger import Ledger
from aotsearch.evidence.tables import curve_of, searched
from aotsearch.running.search import point, required


def put(folder: Path, url: str) -> int:
    """Write the trials of a run folder's search as a study of its name; returns how many. The ledger stays what is true.

    A trial has its decisions as parameters, its objectives as values, its measure at each evaluation, and as attributes its name, digest,
    outcome and size. What was pruned or failed has Optuna's state for that. What the same run put there before, be it in part or before it
    went on, is replaced.

    Args:
        url: Of the storage, such as `sqlite:///search.db`.

    Raises:
        InputError: the folder holds no search, or the storage a study of that name that is not this run's.
        RunError: the storage cannot be written.
    """
    ledger = Ledger.open(folder)
    declared = history(ledger)
    study, records = declared.study, declared.place(ledger.records().values())
    if study.settings.design != "search":
        raise InputError(f"{folder} holds no search, but the design {study.settings.design}")
    optuna = required()
    states, told = optuna.trial.TrialState, functools.partial(values, study=study)
    signs = [sign for _, sign in study.goals]
    trials = []
    for record, architecture in searched(records, study):
        found, curve = told(record), curve_of(record, study.task.measure)
        done = record["outcome"] == "done" and found is not None
        state = states.COMPLETE if done else states.PRUNED if record["outcome"] == "pruned" else states.FAIL
        known: dict[str, Any] = {"values": [sign * v for sign, v in zip(signs, found, strict=True)]} if done and found is not None else {}
        known |= {"intermediate_values": dict(enumerate(curve, 1))} if len(signs) == 1 else {}
        about = {name: record.get(name) for name in ("arm", "digest", "outcome", "parameters", "flops_per_token")}
        trials.append(optuna.trial.create_trial(state=state, user_attrs=about, **known, **point(study.space, architecture)))
    directions = ["minimize" if sign > 0 else "maximize" for sign in signs]
    try:
        if study.name in optuna.get_all_study_names(url):
            if optuna.load_study(study_name=study.name, storage=url).user_attrs.get("ledger") != ledger.id:
                raise InputError(f"{url} has a study {study.name!r} already, which is not of this run; name another storage")
            optuna.delete_study(study_name=study.name, storage=url)
        made = optuna.create_study(study_name=study.name, storage=url, directions=directions)
        made.set_user_attr("ledger", ledger.id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names of objectives are marked experimental
            made.set_metric_names([name for name, _ in study.goals])
        made.add_trials(trials)
    except InputError:
        raise
    except Exception as e:  # noqa: BLE001 (sqlalchemy and each of its drivers have their own)
        raise RunError(f"{url}: Optuna cannot write there ({' '.join(str(e).split())[:200]})") from None
    return len(trials)
