"""Run folder -> all that a report is made from; no torch, nothing but the ledger and the study.

read("runs/redundancy") -> Material;  results("runs/redundancy") -> DataFrame
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aotsearch.evidence.analysis import judge
from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.declaration import History, fingerprint, history
from aotsearch.evidence.ledger import Ledger
from aotsearch.evidence.tables import Record, arms_met, cells, search_table, tabulate
from aotsearch.report.summary import summary, warnings
from aotsearch.study.study import VERSIONS, Study

if TYPE_CHECKING:
    import pandas as pd

Cells = Mapping[str, Mapping[int, Record]]  # arm -> seed -> trial


@dataclass(frozen=True)
class Material:
    """All that a report is made from.

    Attributes:
        runs: Every start of the command.
        data: The `data` event; empty where none was written.
        importance: The `importance` event of a search; empty where none was written.
        timed: Every `timed` event.
        damage: What is wrong with lines of the ledger, in words; empty where nothing is.
        ledger: SHA-256 of the ledger that was read.
        fingerprint: Of the run folder as it was read.
    """

    study: Study
    records: Sequence[Record]
    runs: Sequence[Record]
    data: Record
    importance: Record
    timed: Sequence[Record]
    damage: str
    ledger: str
    fingerprint: str
    analysis: Analysis

    @functools.cached_property
    def table(self) -> pd.DataFrame:
        """One row per trial."""
        return tabulate(self.records, self.study)

    @property
    def search(self) -> bool:
        return self.study.settings.design == "search"

    @property
    def phase(self) -> str:
        """Of the trials that verdicts rest on."""
        return "confirm" if self.search else "design"

    @functools.cached_property
    def judged(self) -> list[Record]:
        return [r for r in self.records if r["phase"] == self.phase]

    @functools.cached_property
    def arms(self) -> list[str]:
        """Those met, the reference first."""
        return arms_met(self.judged, self.study)

    @functools.cached_property
    def distinct(self) -> list[Contrast]:
        """The contrasts that rest on other trials than those before: an arm may be of equal size, or at its own rate, as it is."""
        seen: set[tuple[str, str, frozenset[str]]] = set()
        found = []
        for c in self.analysis.contrasts:
            trials = frozenset(r["key"] for r in self.trials_of(c))
            key = (c.kind, c.title, trials)
            if not trials or key not in seen:
                found.append(c)
            seen.add(key)
        return found

    @functools.cached_property
    def trained(self) -> list[str]:
        """The arms in order without those that are the same models as earlier ones, and so share their trials."""
        first: dict[frozenset[str], str] = {}
        for arm in self.arms:
            keys = frozenset(r["key"] for mode in self.modes for r in self.cells(mode)[arm].values())
            first.setdefault(keys or frozenset({arm}), arm)
        return list(first.values())

    def cells(self, mode: str = "shared") -> Cells:
        """Arm -> seed -> trial, at the `shared` learning rate or, `tuned`, at each arm's own; arms in the study's order."""
        return self._cells[mode]

    @functools.cached_property
    def _cells(self) -> dict[str, Cells]:
        made = {mode: cells(self.judged, self.arms, self.analysis.rates, mode) for mode in ("shared", "tuned")}
        return {mode: {arm: dict(sorted(found[arm].items())) for arm in self.arms} for mode, found in made.items()}

    def shown(self, mode: str = "shared") -> Cells:
        """The same without arms that are the same model as another."""
        return {arm: by_seed for arm, by_seed in self.cells(mode).items() if arm in self.trained}

    @property
    def modes(self) -> list[str]:
        """The learning rates that arms were trained at: first what the study asks for."""
        return list(dict.fromkeys([self.analysis.rate, "shared"]))

    def cells_of(self, c: Contrast) -> Cells:
        """The arms that a contrast sums, with their trials, whatever became of them."""
        return {name: self.cells(c.rate).get(name, {}) for name in c.weights}

    def trials_of(self, c: Contrast) -> list[Record]:
        """The same trials in one list."""
        return [r for by_seed in self.cells_of(c).values() for r in by_seed.values()]

    @functools.cached_property
    def headline(self) -> Analysis:
        """The analysis without what is said twice, for readers; the family of its intervals is still the whole one."""
        twice = set(self.arms) - set(self.trained)
        return dataclasses.replace(
            self.analysis,
            contrasts=tuple(self.distinct),
            outcomes=tuple(o for o in self.analysis.outcomes if o.arm not in twice),
            rates={arm: rate for arm, rate in self.analysis.rates.items() if arm not in twice},
            speed=tuple(s for s in self.analysis.speed if s.arm not in twice),
        )

    def summary(self) -> str:
        """The verdicts as the plain text that a terminal shows."""
        return summary(self.headline, self.data, search_table(self.records, self.study) if self.search else None)


def read(folder: str | Path) -> Material:
    """A run folder's study, records and analysis.

    Raises:
        InputError: the folder holds no run, or trials that cannot be compared.
    """
    ledger = Ledger.open(folder)
    return material(ledger, history(ledger))


def material(ledger: Ledger, declared: History) -> Material:
    """What `read` returns, for those who have read the declarations.

    Raises:
        InputError: the trials cannot be compared.
    """
    made_from = fingerprint(ledger)
    events = list(ledger.events())
    damage = str(ledger.damage)
    last: dict[str, Record] = {e["event"]: e for e in events}
    everything, data = _records(events), last.get("data", {})
    records = declared.place(everything)
    timed = [e for e in events if e["event"] == "timed"]
    analysis = judge(everything, declared, timed)
    return Material(
        study=declared.study,
        records=records,
        runs=[e for e in events if e["event"] == "run"],
        data=data,
        importance=last.get("importance", {}),
        timed=timed,
        damage=damage,
        ledger=ledger.digest(),
        fingerprint=made_from,
        analysis=dataclasses.replace(analysis, warnings=(*filter(None, [damage]), *warnings(analysis, data), *analysis.warnings)),
    )


def _records(events: Sequence[Record]) -> list[Record]:
    """The latest record of every trial, each with the versions and the machine of the start of the command that it belongs to; a trial
    that does not say itself with which versions it was made has them from there."""
    found: dict[str, Record] = {}
    run: dict[str, Any] = {}
    for e in events:
        if e["event"] == "run":
            run = {name: e[name] for name in ("versions", "machine") if name in e}
        elif e["event"] == "finished":
            known = {name: v for name, v in run.get("versions", {}).items() if name in VERSIONS}
            found[e["key"]] = {**run, "environment": known, **e}
    return list(found.values())


def results(folder: str | Path) -> pd.DataFrame:
    """One row per trial of a run folder: arm, seed, outcome, the task's measure, sizes, cost, and a column per decision."""
    ledger = Ledger.open(folder)
    declared = history(ledger)
    return tabulate(declared.place(ledger.records().values()), declared.study)
