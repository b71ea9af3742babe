"""Space + results so far -> the next architecture to try; the only file that imports optuna.

Every decision is an Optuna parameter at its address, conditional ones only where they are met, sampled by TPE (multivariate, group,
constant liar). Early-stopped trials are told as pruned, diverged and failed ones as failed: no state is a lie.

The study lives in memory; the ledger is the truth, and `Proposer` reads it back when a run continues.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from aotsearch.architecture import Architecture
from aotsearch.errors import InputError
from aotsearch.space import Decision, Refused, Space
from aotsearch.study import Search

ATTEMPTS = 200  # asks that may be spent on architectures already known or refused before the space counts as exhausted


class Proposer:
    """Proposes architectures that have not been tried, and learns from what became of them."""

    def __init__(self, space: Space, settings: Search, workers: int, records: Iterable[Mapping[str, Any]] = ()):
        try:
            import optuna
        except ImportError:
            raise InputError("design: search needs the package optuna; `pip install optuna`") from None
        self._optuna = optuna
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        logging.getLogger("optuna").setLevel(logging.ERROR)
        self.space = space
        with warnings.catch_warnings():  # group and constant_liar are marked experimental
            warnings.simplefilter("ignore")
            sampler = optuna.samplers.TPESampler(
                multivariate=True, group=True, constant_liar=True, n_startup_trials=max(10, 2 * workers), seed=settings.seed
            )
        self.study = optuna.create_study(direction="minimize", sampler=sampler)
        self.open: dict[str, Any] = {}  # digest -> running Optuna trial
        self.known: dict[str, float | None] = {}  # digest -> its value, None while it runs or if it has none
        for record in records:
            self._recall(record)

    def ask(self) -> Architecture | None:
        """An architecture that is neither finished nor running; None when the space seems to hold no other."""
        for _ in range(ATTEMPTS):
            trial = self.study.ask()
            try:
                architecture = self.space.derive(lambda decision, trial=trial: self._suggest(trial, decision))  # type: ignore[misc]
            except Refused:
                self._fail(trial)
                continue
            if architecture.digest not in self.known:
                self.known[architecture.digest] = None
                self.open[architecture.digest] = trial
                return architecture
            value = self.known[architecture.digest]
            if value is None:
                self._fail(trial)
            else:
                self.study.tell(trial, value)
        return None

    def report(self, digest: str, step: int, value: float) -> bool:
        """A value on the way; returns whether a sequential run should stop this trial (never, without a pruner)."""
        self.open[digest].report(value, step)
        return bool(self.open[digest].should_prune())

    def tell(self, record: Mapping[str, Any], measure: str) -> None:
        """What became of an architecture."""
        trial = self.open.pop(record["digest"])
        value = record["measures"].get(measure)
        state = self._state(record["outcome"])
        if state == self._optuna.trial.TrialState.COMPLETE:
            self.known[record["digest"]] = value
            self.study.tell(trial, value)
        else:
            self.study.tell(trial, state=state)

    def stop_early(self, evaluations: int, reduction: int) -> None:
        """Let `report` stop trials by successive halving, for runs without Ray's ASHA."""
        pruner = self._optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=reduction)
        self.study.pruner = pruner if evaluations > 1 else self._optuna.pruners.NopPruner()

    def _suggest(self, trial: Any, decision: Decision) -> Any:
        if decision.values:
            return trial.suggest_categorical(decision.address, decision.values)
        if decision.integer:
            return trial.suggest_int(decision.address, int(decision.low), int(decision.high), log=decision.log)
        return trial.suggest_float(decision.address, decision.low, decision.high, log=decision.log)

    def _state(self, outcome: str) -> Any:
        states = self._optuna.trial.TrialState
        return {"done": states.COMPLETE, "stopped": states.PRUNED}.get(outcome, states.FAIL)

    def _fail(self, trial: Any) -> None:
        self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)

    def _recall(self, record: Mapping[str, Any]) -> None:
        """A finished trial of an earlier start of this run."""
        measured = {p["step"]: p["loss"] for p in record["curve"] if "loss" in p}
        values: dict[str, Decision] = {}

        def choose(decision: Decision) -> Any:
            values[decision.address] = decision
            return record["decisions"][decision.address]

        self.space.derive(choose)
        self.known[record["digest"]] = value = next(iter(record["measures"].values()), None) if record["outcome"] == "done" else None
        self.study.add_trial(
            self._optuna.trial.create_trial(
                state=self._state(record["outcome"]),
                value=value,
                params=record["decisions"],
                distributions={address: self._distribution(d) for address, d in values.items()},
                intermediate_values={int(step): loss for step, loss in measured.items()},
            )
        )

    def _distribution(self, decision: Decision) -> Any:
        kinds = self._optuna.distributions
        if decision.values:
            return kinds.CategoricalDistribution(decision.values)
        if decision.integer:
            return kinds.IntDistribution(int(decision.low), int(decision.high), log=decision.log)
        return kinds.FloatDistribution(decision.low, decision.high, log=decision.log)


def importance(records: Iterable[Mapping[str, Any]], space: Space) -> dict[str, float]:
    """Decision -> its share of what sets the best tenth of a search's finished trials apart from all, the largest first; empty below four.

    It describes the trials that the search chose to make, one seed each, and proves nothing. Source: PED-ANOVA (Watanabe et al. 2023,
    arXiv:2304.10255), for conditional decisions arXiv:2601.20800; by Optuna.
    """
    done = [r for r in records if r["phase"] == "search" and r["outcome"] == "done"]
    if len(done) < 4:
        return {}
    study = Proposer(space, Search(), 1, done).study
    from optuna.importance import get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where trials are too few or too alike, all shares are equal
        shares = get_param_importances(study)
    return {address: float(share) for address, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))}
