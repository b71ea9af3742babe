"""Space + results so far -> the next architecture to try; with `storage.py` all that imports optuna.

Every decision is an Optuna parameter at its address, conditional ones only where they are met, and Optuna's sampler of the study's choice
proposes; evolution over the grammar is our own (`evolution.py`). The proposal with number n is a function of the sampler's seed, n,
and what is known of the proposals before it, in the order in which they were made: Optuna's study is made anew for each. So a search that
is continued proposes what it would have proposed: with one trial at a time always, with several where their answers come in the same
order.

What became of a proposal is told in Optuna's states:

    done                    COMPLETE with its measure
    pruned                  PRUNED with its measure at each evaluation; TPE ranks it behind all that are complete, who came further first
    diverged                PRUNED without a value, which TPE ranks behind all that have one; as FAIL it would be ignored, and COMPLETE with
                            an infinite value would stand before those that were pruned
    running                 RUNNING, which the constant liar takes for bad
    failed, out-of-memory   not told: they say nothing of the architecture's loss

TPE alone, and after one objective alone, reads PRUNED. Others are told the last measure of what was pruned, which training would have
lowered, and of what diverged the worst that was ever seen.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import random
import statistics
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from aotsearch.errors import InputError
from aotsearch.evidence.ledger import FAILED
from aotsearch.evidence.tables import Record, curve_of, finished, searched
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Decision, Refused, Space
from aotsearch.running import evolution
from aotsearch.running.expected import expected_improvement
from aotsearch.study import sampling
from aotsearch.study.settings import Search
from aotsearch.study.study import Study

DRAWS = 50  # of a bootstrap over trials
ATTEMPTS = 10  # samples that may be spent on architectures already known or refused before chance takes over,
DRAWN = 100  # and draws of chance before the space is walked for what is left


class Proposer:
    """Proposes architectures that have not been tried, and learns from what became of them.

    Args:
        space: The architectures.
        settings: Of the search.
        measure: What is judged, lower is better.
        proposed: What earlier starts of the run proposed, in that order: mappings with `digest` and `decisions`. What the space does not
            derive any more is left out. What has no result yet is proposed first, before anything new.
        first: What is proposed before anything that the sampler does.
        values: The objectives of a trial that ended, lower is better; by default its measure.
    """

    def __init__(
        self,
        space: Space,
        settings: Search,
        measure: str,
        proposed: Iterable[Mapping[str, Any]] = (),
        first: Iterable[Architecture] = (),
        values: Callable[[Record], tuple[float, ...] | None] | None = None,
    ):
        self._optuna = required()
        self.space, self.settings, self.measure = space, settings, measure
        self.sampler, self.options = sampling.chosen(settings.sampler)
        self.values = values or (lambda r: None if (v := r["measures"].get(measure)) is None else (float(v),))
        self.objectives = max(1, len(settings.objectives))
        self.states: dict[str, dict[str, Any]] = {}  # digest -> what a sampler keeps with its proposal
        self.proposals: dict[str, Architecture] = {}  # by digest, in the order in which they were made
        for event in proposed:
            architecture = self.space.recall(event["decisions"], event["digest"])
            if architecture is not None:
                self.proposals.setdefault(architecture.digest, architecture)
                self.states.setdefault(architecture.digest, event.get("sampler") or {})
        for architecture in first:
            if self.space.recall(architecture.decisions, architecture.digest) is not None:  # one that was re-sized is of no space
                self.proposals.setdefault(architecture.digest, architecture)
        self.points: dict[str, dict[str, Any]] = {}  # digest -> where it lies in Optuna's space
        self.trials: dict[str, tuple[Mapping[str, Any], Any]] = {}  # digest -> its state, and the trial of Optuna that tells it
        self.waiting = list(self.proposals)  # digests that an earlier start proposed
        self.results: dict[str, Record] = {}
        self.running: set[str] = set()

    def ask(self) -> Architecture | None:
        """An architecture that is neither finished nor running; None when there are enough, or the space holds no other."""
        if len(self.results) + len(self.running) >= self.settings.trials:
            return None
        architecture = self.proposals[self.waiting.pop(0)] if self.waiting else self._propose()
        if architecture is not None:
            self.proposals.setdefault(architecture.digest, architecture)
            self.running.add(architecture.digest)
        return architecture

    def tell(self, record: Record) -> None:
        """What became of a proposal."""
        digest = record["digest"]
        assert digest in self.proposals, digest
        self.running.discard(digest)
        self.results[digest] = record
        self.waiting = [other for other in self.waiting if other != digest]

    def gain(self) -> float:
        """By how much the best of what was not proposed is expected to be better, in the first objective."""
        tried = [(self.proposals[digest], told[0]) for digest in self.results if (told := self._told(digest)) is not None]
        return expected_improvement(self.space, tried, self.proposals, self.settings.seed)

    def _propose(self) -> Architecture | None:
        if self.sampler == "evolution":
            assert isinstance(self.options, sampling.Evolution)
            rng = random.Random(f"{self.settings.seed} {len(self.proposals)}")
            alive = [(self.proposals[digest], f) for digest in self.results if (f := self._told(digest)) is not None]
            return evolution.child(self.space, alive, self.proposals, self.options, rng) or self._left()
        study = self._recalled()
        for _ in range(ATTEMPTS):
            # what is refused or known stays open in this study, so that the constant liar leads the next attempt elsewhere
            trial = study.ask()
            if (architecture := self._drawn(trial)) is not None:
                kept = study.get_trials(deepcopy=False)[trial.number].system_attrs
                self.states[architecture.digest] = {k: v for k, v in kept.items() if isinstance(v, int) and k.endswith("generation")}
                return architecture
        return self._left()

    def _drawn(self, trial: Any) -> Architecture | None:
        """What a trial of Optuna decides; None where that is refused or known, which the trial is then told."""
        met: list[Decision] = []
        together = trial.relative_params  # what the sampler decided at once; asking for each of them costs more than all of the rest

        def choose(decision: Decision) -> Any:
            met.append(decision)
            value = together.get(decision.address)
            return value if value is not None and decision.allows(value) else _suggest(trial, decision)

        with contextlib.suppress(Refused):
            architecture = self.space.derive(choose)
            if architecture.digest not in self.proposals:
                self.points[architecture.digest] = _place(met, architecture)
                return architecture
        for decision in met:
            _suggest(trial, decision)
        return None

    def _left(self) -> Architecture | None:
        """One at random, or the first architecture of the space, that was not proposed; None where there is none, or none is found."""
        rng = random.Random(f"{self.settings.seed} {len(self.proposals)} left")
        with contextlib.suppress(InputError):  # nearly everything breaks a law
            for _ in range(DRAWN):
                if (drawn := self.space.sample(rng.getrandbits(32))).digest not in self.proposals:
                    return drawn
        try:  # among one more than are known there is a new one
            return next((a for a in self.space.enumerate() if a.digest not in self.proposals), None)
        except InputError:  # a continuous range cannot be listed, and neither can what nearly always breaks a law
            return None

    def _recalled(self) -> Any:
        """Optuna's study of the proposals so far."""
        seed = random.Random(f"{self.settings.seed} {len(self.proposals)}").getrandbits(32)
        storage = self._optuna.storages.InMemoryStorage()
        directions = ["minimize"] * self.objectives
        study = self._optuna.create_study(storage=storage, directions=directions, sampler=self._made(seed))
        number = storage.get_study_id_from_name(study.study_name)
        for digest in self.proposals:
            if state := self._state(digest):
                storage.create_new_trial(number, self._trial(digest, state))
        return study

    def _trial(self, digest: str, state: Mapping[str, Any]) -> Any:
        """A proposal as a trial of Optuna, made once for each state that it comes to."""
        known, trial = self.trials.get(digest, (None, None))
        if known != state:
            if digest not in self.points:
                self.points[digest] = point(self.space, self.proposals[digest])
            attributes = {"system_attrs": self.states.get(digest, {})}
            trial = _shared(self._optuna.trial.create_trial(**self.points[digest], **state, **attributes))
            self.trials[digest] = state, trial
        return trial

    def _made(self, seed: int) -> Any:
        """Optuna's sampler of this name."""
        kinds, options = self._optuna.samplers, {k: v for k, v in self.options.model_dump().items() if v is not None}
        made = {
            "tpe": lambda: kinds.TPESampler(constant_liar=True, seed=seed, **options),
            "random": lambda: kinds.RandomSampler(seed=seed),
            "nsga2": lambda: kinds.NSGAIISampler(seed=seed, **options),
            "nsga3": lambda: kinds.NSGAIIISampler(seed=seed, **options),
            "gp": lambda: kinds.GPSampler(seed=seed, warn_independent_sampling=False, **options),
        }
        with warnings.catch_warnings():  # some options are marked experimental
            warnings.simplefilter("ignore")
            return made[self.sampler]()

    def _state(self, digest: str) -> dict[str, Any]:
        """What Optuna is told of a proposal; empty where nothing is."""
        states = self._optuna.trial.TrialState
        if digest not in self.results:
            return {"state": states.RUNNING}
        record = self.results[digest]
        outcome, told = record["outcome"], self._told(digest)
        if (self.sampler, self.objectives) != ("tpe", 1) or (outcome == "done" and told is not None):
            return {} if told is None else {"state": states.COMPLETE, "values": list(told)}
        if outcome == "pruned":
            return {"state": states.PRUNED, "intermediate_values": dict(enumerate(curve_of(record, self.measure), 1))}
        return {} if outcome in FAILED else {"state": states.PRUNED}

    def _told(self, digest: str) -> tuple[float, ...] | None:
        """The objectives of a proposal that ended; of one that diverged the worst of each; None where it says nothing."""
        record = self.results[digest]
        if record["outcome"] in ("done", "pruned"):
            return self.values(record)
        if record["outcome"] in FAILED:
            return None
        known = [f for r in self.results.values() if r["outcome"] in ("done", "pruned") and (f := self.values(r)) is not None]
        return tuple(max(column) for column in zip(*known, strict=True)) if known else None


def importance(records: Iterable[Record], study: Study, draws: int = DRAWS) -> dict[str, tuple[float, float, float]]:
    """Decision -> its share of what sets the best tenth of a search's finished trials apart from all, the largest first, with the ends
    between which nine in ten draws of as many trials, with replacement, have it, and it lies; empty below four trials.

    It describes the trials that the search chose to make, one seed each, and proves nothing. Source: PED-ANOVA (Watanabe et al. 2023,
    arXiv:2304.10255), for conditional decisions arXiv:2601.20800; by Optuna.
    """
    done = finished(searched(records, study), study)
    if len(done) < 4:
        return {}
    trials = [_shared(required().trial.create_trial(value=value, **point(study.space, architecture))) for _, architecture, value in done]
    shares, rng = _shares(trials), random.Random(study.settings.search.seed)
    drawn = [_shares(rng.choices(trials, k=len(trials))) for _ in range(draws)]

    def ends(address: str) -> tuple[float, float]:
        low, *_, high = statistics.quantiles([each.get(address, 0.0) for each in drawn], n=20)
        return low, high

    return {
        address: (share, *_around(share, *ends(address))) for address, share in sorted(shares.items(), key=lambda pair: (-pair[1], pair[0]))
    }


def _around(share: float, low: float, high: float) -> tuple[float, float]:
    """Ends that hold the share too: of many small ones draws have another mean."""
    return min(low, share), max(high, share)


def _shares(trials: Sequence[Any]) -> dict[str, float]:
    optuna = required()
    made = optuna.create_study(direction="minimize")
    made.add_trials(trials)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # where trials are too few or too alike, all shares are equal
        return {address: float(share) for address, share in optuna.importance.get_param_importances(made).items()}


def _shared(trial: Any) -> Any:
    """A trial of which a deep copy, such as a storage makes, shares what it holds: nothing changes it, and copies were most of the time."""

    made = copy.copy(trial)
    made.__class__ = _sharing(type(trial))  # type: ignore[arg-type]
    return made


@functools.cache
def _sharing(kind: Any) -> Any:
    class Shared(kind):  # type: ignore[misc]
        def __deepcopy__(self, memo: Any) -> Any:
            return copy.copy(self)

    return Shared


def required() -> Any:
    """Optuna, told to be quiet.

    Raises:
        InputError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError("design: search needs the package optuna; `pip install optuna`") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("optuna").setLevel(logging.ERROR)
    return optuna


def point(space: Space, architecture: Architecture) -> dict[str, Any]:
    """Where an architecture lies in Optuna's space."""
    met: list[Decision] = []

    def choose(decision: Decision) -> Any:
        met.append(decision)
        return architecture.decisions[decision.address]

    space.derive(choose)
    return _place(met, architecture)


def _place(met: Iterable[Decision], architecture: Architecture) -> dict[str, Any]:
    from optuna import distributions

    found = {decision.address: decision for decision in met}
    params = {address: architecture.decisions[address] for address in found}
    return {"params": params, "distributions": {address: _distribution(distributions, decision) for address, decision in found.items()}}


def _suggest(trial: Any, decision: Decision) -> Any:
    if decision.values:
        return trial.suggest_categorical(decision.address, decision.values)
    if decision.integer:
        return trial.suggest_int(decision.address, int(decision.low), int(decision.high), log=decision.log)
    return trial.suggest_float(decision.address, decision.low, decision.high, log=decision.log)


def _distribution(kinds: Any, decision: Decision) -> Any:
    if decision.values:
        return kinds.CategoricalDistribution(decision.values)
    if decision.integer:
        return kinds.IntDistribution(int(decision.low), int(decision.high), log=decision.log)
    return kinds.FloatDistribution(decision.low, decision.high, log=decision.log)
