"""Records -> tables: which trials belong to which arm, one row per trial, the ranking of a search.

cells(records, arms, rates, "shared") -> arm -> seed -> record;  tabulate(records, study) -> DataFrame
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from aotsearch.grammar.architecture import Architecture
from aotsearch.study.design import REFERENCE
from aotsearch.study.rates import Rate, used
from aotsearch.study.study import Study

if TYPE_CHECKING:
    import pandas as pd

Record = Mapping[str, Any]
PLAIN = ("parameters", "parameters_without_embeddings", "flops_per_token", "learning_rate", "seconds", "steps", "tokens")
SPEED = ("step_seconds", "tokens_per_second", "peak_memory")  # none of them in what older versions wrote


def measured(record: Record, study: Study, split: str = "measures") -> float | None:
    """The study's measure of a trial that ended well, else None; `split` is `measures` (validation), `test` or `whole_validation`."""
    value = (record.get(split) or {}).get(study.task.measure)
    return float(value) if record["outcome"] in ("done", "pruned") and value is not None and math.isfinite(value) else None


def tokens_per_second(record: Record) -> float | None:
    """Of training alone, without evaluation and start-up; None where that was not recorded."""
    seconds = record.get("training_seconds")
    return record["tokens"] / seconds if seconds else None


def arms_of(record: Record) -> list[str]:
    """The arms that a trial belongs to: arms that are the same model share it."""
    return list(dict.fromkeys([record["arm"], *record.get("arms", ())]))


def arms_met(records: Iterable[Record], study: Study) -> list[str]:
    """The arms met in records: in the study's order, then the others by name."""
    met = {arm for r in records for arm in arms_of(r)}
    declared = list(dict.fromkeys([*(arm.name for arm in study.base_design.arms), *study.arm_names]))
    return [a for a in declared if a in met] + sorted(met - set(declared), key=natural)


def natural(text: str) -> list[tuple[int, str]]:
    """Sorts search-2 before search-10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", text)]


def cells(records: Iterable[Record], arms: Iterable[str], rates: Mapping[str, Rate], mode: str) -> dict[str, dict[int, Record]]:
    """Arm -> seed -> the trial that speaks for it: at the shared learning rate, or at the arm's own."""
    found: dict[str, dict[int, Record]] = {arm: {} for arm in sorted(arms)}
    for r in records:
        for arm in found.keys() & arms_of(r):
            if not rates or used(rates, arm, REFERENCE, mode) == r["learning_rate"]:
                found[arm][r["seed"]] = r
    return found


def tabulate(records: Iterable[Record], study: Study) -> pd.DataFrame:
    """One row per trial: what it was, how it ended, what it cost, and one column per decision; `key` names it in the ledger."""
    import pandas as pd  # here, so that what needs no table does not wait for it

    everything = list(records)
    arms = {name: i for i, name in enumerate(arms_met(everything, study))}
    measure, test = study.task.measure, f"test_{study.task.measure}"
    splits = {measure: "measures", test: "test"}
    if any("whole_validation" in r for r in everything):
        splits[f"whole_validation_{measure}"] = "whole_validation"
    hints = list(dict.fromkeys(name for r in everything for name in r.get("hints") or ()))
    columns = ["arm", "seed", "phase", "outcome", *splits, *PLAIN, *SPEED, *hints, "equalise", "digest", "device", "key", "same_as"]
    addresses = list(dict.fromkeys(address for r in everything for address in r["decisions"]))
    rows = []
    for r in sorted(everything, key=lambda r: (r["phase"] == "confirm", arms[r["arm"]], r["seed"], r["key"])):
        row = {name: r.get(name) for name in columns}
        row |= {name: measured(r, study, split) for name, split in splits.items()} | (r.get("hints") or {})
        row |= {"same_as": ", ".join(arms_of(r)[1:]), "tokens_per_second": tokens_per_second(r)}
        rows.append(row | {_column(address, columns): r["decisions"].get(address) for address in addresses})
    table = pd.DataFrame(rows, columns=[*columns, *(_column(address, columns) for address in addresses)])
    return table.astype({**dict.fromkeys((*splits, *SPEED, *hints), float), "peak_memory": "Int64"})


def _column(address: str, taken: Sequence[str]) -> str:
    return f"decision {address}" if address in taken else address


def curve_of(record: Record, measure: str) -> list[float]:
    """A measure at each evaluation of a trial."""
    return [float(point[measure]) for point in record["curve"] if measure in point]


def searched(records: Iterable[Record], study: Study) -> list[tuple[Record, Architecture]]:
    """The trials of the study's search, each with its architecture in the study's space.

    Trials under another seed are another search's; those that the space does not derive any more can be neither ranked nor confirmed.
    """
    tried = [r for r in records if r["phase"] == "search" and r["seed"] == study.settings.search.training_seed]
    found = [(r, study.space.recall(r["decisions"], r["digest"])) for r in tried]
    return [(r, architecture) for r, architecture in found if architecture is not None]


def finished(tried: Iterable[tuple[Record, Architecture]], study: Study) -> list[tuple[Record, Architecture, float]]:
    """Those that trained to the end, each with its measure."""
    return [(r, a, y) for r, a in tried if r["outcome"] == "done" and (y := measured(r, study)) is not None]


def left_out(records: Iterable[Record], study: Study) -> list[str]:
    """A note where a run folder has trials of a search that `searched` leaves out."""
    everything = list(records)
    number = sum(r["phase"] == "search" for r in everything) - len(searched(everything, study))
    return [f"{number} trials of the search are left out, made under another seed or in a space that is no longer the study's"] * (
        number > 0
    )


def search_table(records: Iterable[Record], study: Study) -> pd.DataFrame:
    """The architectures a search tried, the best first; those stopped early come after, since they trained for less.

    One seed each, and the best of many looks better than it is: this describes, the confirmation decides.
    """
    table = tabulate((r for r, _ in searched(records, study)), study)
    turn = {"done": 0, "pruned": 1}
    table = table.assign(turn=[turn.get(o, 2) for o in table["outcome"]])
    name, sign = study.goals[0]
    by = name if name in table else study.task.measure
    order = table.assign(by=sign * table[by].astype(float)).sort_values(["turn", "by"], kind="stable", na_position="last").index
    first = ["arm", study.task.measure, "parameters", "outcome", "steps"]
    last = ["seed", "phase", "parameters_without_embeddings", "flops_per_token", "learning_rate", "seconds", "tokens"]
    drop = [*last, *SPEED, f"test_{study.task.measure}", "equalise", "device", "turn", "key", "same_as"]
    rest = [name for name in table.columns if name not in first and name not in drop]
    return table.loc[order, [*first, *rest]].reset_index(drop=True)
