"""What is left of a study, phase by phase: search, learning rates, the arms under their seeds, more seeds where verdicts are open.

Every phase is planned anew from the study and the records; what has ended is not trained again, so to continue is to start.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from aotsearch.errors import RunError
from aotsearch.evidence.analysis import unsettled
from aotsearch.evidence.declaration import History, Record, candidate, entry, history
from aotsearch.evidence.front import stale, unconfirmed, values
from aotsearch.evidence.path import confirmed
from aotsearch.evidence.tables import curve_of, left_out, searched
from aotsearch.grammar.architecture import Architecture
from aotsearch.running import warm
from aotsearch.running.journal import Journal
from aotsearch.running.rungs import Rungs
from aotsearch.running.work import Executor, Search, Work, bundled
from aotsearch.study.design import REFERENCE, Arm, order
from aotsearch.study.rates import TUNE_SEED, Rate, asked, beyond, chosen
from aotsearch.study.sampling import SIZES
from aotsearch.study.study import Study
from aotsearch.training.checkpoint import Checkpoints
from aotsearch.training.environment import now

Cell = tuple[Arm, int, float | None]  # arm, seed, learning rate where it is tuned


def usual_precision(study: Study, records: Iterable[Record]) -> str:
    """The precision of trials on this machine that ask for none: that of those before them, since a study never mixes two; else what was
    found to be the best; empty where it is the usual one of the device."""
    from aotsearch.training import choice, trial
    from aotsearch.training.device import DeviceSettings, gpus_here

    before = [r["precision"] for r in records if r["outcome"] == "done" and r["device"] == "cpu"]
    resources = study.settings.resources
    if resources.precision != "auto" or resources.share(gpus_here()):
        return ""
    if before:
        return str(before[-1])
    plan = trial.plan(study, study.arms()[0], 0, "design")
    return choice.usual_precision(plan, DeviceSettings(resources.cpus))


class Phases:
    """The phases of one start of a run.

    Args:
        study: What is run.
        journal: Every record so far, and whom executors tell.
        executor: Gives the executor, which it starts at the first trial.
        checkpoints: Where trained weights and states of training go.
        declared: What the study declared, now and before.
    """

    def __init__(self, study: Study, journal: Journal, executor: Callable[[], Executor], checkpoints: Checkpoints, declared: History):
        self.study, self.journal, self.executor, self.checkpoints, self.declared = study, journal, executor, checkpoints, declared
        self.ledger, self.say = journal.ledger, journal.progress.say

    def run(self) -> None:
        """Train what has not ended."""
        s = self.study.settings
        if s.design == "search":
            _Searching(self).run()
            self._tell_importance()
            arms, phase = self._candidates(), "confirm"
        else:
            arms, phase = self.study.arms(), "design"
        rates = self._tune(arms) if s.tuning else {}
        self._train(arms, s.first_seeds, rates, phase)
        if s.adaptive is not None:
            self._replicate(arms, rates, phase)

    @property
    def records(self) -> Iterable[Record]:
        return self.journal.records.values()

    @property
    def _placed(self) -> list[Record]:
        """The trials of the study's arms, under the names that these have now."""
        return self.declared.place(self.records)

    def hand_over(self, work: Work) -> None:
        self._trainer.run(work, self.journal, self.checkpoints)
        self.journal.interruption.check()
        if lacking := [t["key"] for bundle in work.bundles for t in bundle if t["key"] not in self.journal.told]:
            raise RunError(f"the executor ended with {len(lacking)} trials untold; run the same command again to continue")

    @functools.cached_property
    def _trainer(self) -> Executor:
        """The executor, told of the usual precision."""
        executor = self.executor()
        executor.usual = "" if executor.address is not None else usual_precision(self.study, self.records)  # of others nothing is known
        return executor

    def _run(self, cells: Sequence[Cell], phase: str) -> None:
        keys = dict.fromkeys(self._key(cell, phase) for cell in cells)
        left = {key for key in keys if not self.journal.has(key)}
        self.journal.progress.begin(len(keys), [self.journal.records[key] for key in keys if key not in left])
        if left:
            from aotsearch.training import trial  # with torch, which a start that has nothing to train does not wait for

            plans = trial.plans(self.study, cells, phase)
            left -= {p["key"] for p in plans if p["key"] in left and (self.adopt_fate(p) or self.adopt_cached(p))}
            if left:
                executor = self.executor()
                # of all, so that who trains together does not depend on how often the run was interrupted
                bundles = bundled(plans, self.study.settings.resources.fuse, executor.workers, executor.on_gpu)
                self.hand_over(Work(list(filter(None, ([t for t in bundle if t["key"] in left] for bundle in bundles)))))

    def adopt_cached(self, plan: Mapping[str, Any]) -> bool:
        """Whether a trial is taken from the cache, where there is one that has it: it is written down, and not trained."""
        if self.journal.cache is None:
            return False
        hardware = self._trainer.hardware
        made_with = {**self._environment, "device": hardware.device, "precision": hardware.precision(plan["training"])}
        record = self.journal.cache.take(dict(plan), made_with, self.checkpoints.folder)
        if record is not None:
            self.journal.finished(record)
        return record is not None

    def adopt_fate(self, plan: Mapping[str, Any]) -> bool:
        """Whether a trial ended with its process at an earlier start, which left word of it: it is written down, and not tried again."""
        from aotsearch.training import watch
        from aotsearch.training.trial import record

        if (known := watch.fate(self.checkpoints.folder, plan["key"])) is None:
            return False
        outcome, message, where = known
        self.journal.finished(record(plan, outcome, []) | {"message": message, "traceback": where})
        watch.path_of(self.checkpoints.folder, plan["key"]).unlink(missing_ok=True)
        return True

    @functools.cached_property
    def _environment(self) -> dict[str, Any]:
        """What the trials of this start are made with, as their records tell it."""
        return {**self.executor().environment(), "data": self.study.manifest[:12]}

    def _key(self, cell: Cell, phase: str) -> str:
        arm, seed, rate = cell
        return self.study.key(arm.architecture.digest, seed, self.study.training(rate), phase == "search")

    def _train(self, arms: list[Arm], seeds: list[int], rates: Mapping[str, Rate], phase: str) -> None:
        """Every arm under every seed, at the shared learning rate and, where it is another, at its own."""
        by_name = {a.name: a for a in arms}
        cells = order(list(by_name), seeds)
        self._run([(by_name[name], seed, rate) for name, seed in cells for rate in asked(rates, name, REFERENCE)], phase)

    def _tune(self, arms: list[Arm]) -> dict[str, Rate]:
        """Each arm's own learning rate; the list is extended for the arms whose best rate lies at its end."""
        tuning, measure = self.study.settings.tuning, self.study.task.measure
        assert tuning is not None
        seeds = [TUNE_SEED + i for i in range(tuning.seeds)]
        wanted = {a.name: list(tuning.tune) for a in arms}
        self.say("finding each arm's learning rate ...")
        while True:
            self._run([(a, seed, rate) for seed in seeds for a in arms for rate in wanted[a.name]], "tune")
            found = {a.name: chosen(self._placed, a.name, measure) for a in arms}
            further = {name: rate for name in found if (rate := beyond(found[name], tuning.tune, tuning.extend))}
            if not further:
                return found
            at_end = f"{len(further)} arm{'s' * (len(further) > 1)}"
            self.say(f"the best rate of {at_end} lies at the end of the list: trying the next ...")
            for name, rate in further.items():
                wanted[name].append(rate)

    def _replicate(self, arms: list[Arm], rates: Mapping[str, Rate], phase: str) -> None:
        """One more seed for the arms of every comparison that is not settled, until all are or have the most seeds allowed."""
        adaptive = self.study.settings.adaptive
        assert adaptive is not None
        for seed in range(adaptive.min, adaptive.max):
            names = unsettled(self._placed, self.declared.study)
            if not names:
                return
            self.say(f"seed {seed + 1} of at most {adaptive.max} for {len(names)} arms whose verdict is open ...")
            self._train([a for a in arms if a.name in names], [seed], rates, phase)

    def _tell_importance(self) -> None:
        """Which decisions mattered, where a trial or another declaration came after it was told last."""
        told = [e["event"] for e in self.ledger.events() if e["event"] in ("importance", "declared") or e.get("phase") == "search"]
        if told[-1:] != ["importance"]:
            from aotsearch.running.search import importance

            found = importance(self.records, self.study)
            shares, ends = {a: share for a, (share, *_) in found.items()}, {a: list(ends) for a, (_, *ends) in found.items()}
            self.journal.append("importance", shares=shares, ends=ends)

    def _candidates(self) -> list[Arm]:
        """The study's arms and the best that the search found, to be trained under fresh seeds; none where the reference is alone."""
        arms, tried = self.study.arms(), searched(self.records, self.study)
        for note in unconfirmed(tried, self.study):
            self.say(note)
        best, passed = ([arm_of(a, self.study) for a in those] for those in confirmed(tried, self.study))
        found, entries = [*best, *passed], [*map(entry, best), *({**entry(a), "passed": True} for a in passed)]
        known = self.ledger.last("candidates") or {"arms": []}
        if entries != known["arms"]:  # the ledger is told which are confirmed
            self.journal.append("candidates", arms=entries)
            self.declared = history(self.ledger)
        return [*arms, *found] if found or len(arms) > 1 else []


class _Searching:
    """The search of a study: what it proposes goes into the ledger before it is trained, so that it is continued where it was."""

    def __init__(self, phases: Phases):
        from aotsearch.running.search import Proposer

        self.phases, self.study, self.journal, self.say = phases, phases.study, phases.journal, phases.say
        s = self.study.settings
        self.search, self.measure = s.search, self.study.task.measure
        # where an objective is known of trained models alone, nothing is stopped: it might have been the best in that
        ahead = all(name in SIZES or name == self.measure for name, _ in self.study.goals)
        self.rungs = Rungs(s.budget.evaluations if ahead else 1, self.search.reduction, s.margin)
        told, proposed = functools.partial(values, study=self.study), self._proposed()
        first = warm.first(self.study, self.say if proposed else None)
        self.proposer = Proposer(self.study.space, self.search, self.measure, proposed, first, told)
        self.told = {e["digest"] for e in proposed} & self.proposer.proposals.keys()

    def run(self) -> None:
        finished = [r for r, _ in searched(self.phases.records, self.study) if self.journal.has(r["key"])]
        self.journal.progress.begin(self.search.trials, finished)
        for note in left_out(self.phases.records, self.study):
            self.say(f"{note}; one that this search proposes is not trained again")
        for record in finished:
            self._tell(record)
        made = self._trials()
        first = next(made, None)
        if first is not None:
            self.phases.hand_over(Work(search=Search(itertools.chain([first], made), self._tell, self.rungs, self.measure)))
        number = len(searched(self.phases.records, self.study))
        if number < self.search.trials:
            if (self.journal.ledger.last("exhausted") or {}).get("architectures") != number:
                self.journal.append("exhausted", architectures=number)
            few = f"no architecture but these {number} was found in the space"
            few = self._reason if self._settled else few
            self.say(f"{few}: the search ends before its {self.search.trials} trials")

    @property
    def _settled(self) -> bool:
        """Whether enough trials in a row brought nothing better, or nothing is expected to, and nothing that was proposed before an
        interruption is left."""
        if self.search.stop is None or self.proposer.waiting:
            return False
        if self.search.stop == "expected-improvement":
            return self.proposer.gain() <= self.study.settings.margin
        return stale(self.proposer.results.values(), self.study) >= self.search.stop

    @property
    def _reason(self) -> str:
        if self.search.stop == "expected-improvement":
            return "nothing that is left is expected to be better by more than the margin"
        return f"the last {self.search.stop} trials brought nothing better by more than the margin"

    def _proposed(self) -> list[Record]:
        """What earlier starts of this search proposed, in that order; before the ledger told it, what was finished."""

        def told(e: Record) -> bool:
            return bool(e["event"] == "proposed" or (e["event"] == "finished" and e["phase"] == "search"))

        return [e for e in self.journal.ledger.events() if told(e) and e["seed"] == self.search.training_seed]

    def _price(self, told: Mapping[str, Any]) -> None:
        """What the rungs know of a trial, or of its record, besides its measure."""
        costs = ((sign, told.get(name)) for name, sign in self.study.goals if name in SIZES)
        self.rungs.costs[told["digest"]] = tuple(sign * float(cost or 0) for sign, cost in costs)

    def _tell(self, record: Record) -> None:
        self._price(record)
        self.proposer.tell(record)
        for evaluation, value in enumerate(curve_of(record, self.measure), 1):
            self.rungs.recall(record["digest"], evaluation, value)

    def _trials(self) -> Iterator[dict[str, Any]]:
        while not self._settled and (architecture := self.proposer.ask()) is not None:
            from aotsearch.training import trial  # as above

            made = trial.plan(self.study, arm_of(architecture, self.study), self.search.training_seed, "search")
            self._price(made)
            if architecture.digest not in self.told:
                state = {"sampler": kept} if (kept := self.proposer.states.get(architecture.digest)) else {}
                self.journal.append("proposed", **{name: made[name] for name in ("arm", "digest", "decisions", "seed")}, **state)
            if self.journal.has(made["key"]):
                self._tell(self._adopt(made))
            elif self.phases.adopt_fate(made) or self.phases.adopt_cached(made):
                self._tell(self.journal.records[made["key"]])
            else:
                yield made

    def _adopt(self, made: Mapping[str, Any]) -> Record:
        """A model that was trained when the space had other decisions for it is recorded again with those of today."""

        same = {name: made[name] for name in ("arm", "arms", "decisions", "changes")}
        record = {**self.journal.records[made["key"]], **same, "finished": now()}
        record.pop("event")
        self.journal.finished(record)
        return self.journal.records[made["key"]]


def arm_of(architecture: Architecture, study: Study) -> Arm:
    """An architecture of a search under the one name by which it is told everywhere: the arm that it is, else its digest."""
    names = {arm.architecture.digest: arm.name for arm in reversed(study.arms())}
    return Arm(names.get(architecture.digest, candidate(architecture.digest)), architecture, study.reference.diff(architecture))
