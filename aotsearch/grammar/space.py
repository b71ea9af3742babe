"""A grammar as a space of architectures: derive, count, enumerate, sample, neighbours.

Everything rests on one walk, which asks a chooser for each decision it meets: replay, sampling, enumeration and search differ only in
the chooser.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.errors import InputError, Problem, suggest
from aotsearch.grammar import constraint, parser
from aotsearch.grammar.architecture import Architecture, Sizes
from aotsearch.grammar.automaton import TooLarge
from aotsearch.grammar.counting import Census
from aotsearch.grammar.decision import Decision as Decision  # what a chooser is asked
from aotsearch.grammar.derivation import Chooser, Derivation, Measure, Work
from aotsearch.grammar.derivation import Refused as Refused
from aotsearch.grammar.forms import ModelForm
from aotsearch.grammar.survey import survey
from aotsearch.yamlfile import Node

ENUMERABLE = 100_000  # derivations that `count` will walk
WORK = 60_000  # steps of derivations that are spent on one question, so that every question ends


class Exhausted(InputError):
    """WORK is spent: nearly everything breaks a law, or is a model that was met before."""


def unmeasured(architecture: Architecture) -> Mapping[str, int]:
    raise AssertionError("this space was made without the function that measures models")


@dataclass(frozen=True)
class Space:
    """The architectures that a grammar can derive, for the sizes of a task.

    Attributes:
        form: The rules, parsed.
        sizes: What the task gives.
        measured: What a model costs, by name. It builds models, which this folder cannot, and is asked only where a constraint does.
    """

    form: ModelForm
    sizes: Sizes
    measured: Measure = unmeasured

    @classmethod
    def parse(cls, node: Node, sizes: Mapping[str, int], measured: Measure = unmeasured) -> Space:
        """The space of a grammar node.

        Raises:
            InputError: with every problem of the grammar, or with the law that its reference breaks.
        """
        space = cls(parser.parse(node), tuple(sorted(sizes.items())), measured)
        known = {*constraint.KNOWN, *constraint.MEASURED, *sizes, *(d.name for d in space.decisions().values() if not d.prefix)}
        wrong = [(c, name) for c in space.form.constraints for name in sorted(c.names - known)]
        if wrong:
            texts = {str(v) for d in space.decisions().values() for v in d.values}
            hint = {n: f"; a text stands in quotes: '{n}'" if n in texts else suggest(n, known) for _, n in wrong}
            raise InputError(Problem(f"the constraint names {name!r}{hint[name]}", c.mark) for c, name in wrong)
        space._texts_known()
        space.reference  # noqa: B018 (a space without a reference is an error of the file)
        return space

    def _texts_known(self) -> None:
        """
        Raises:
            InputError: a constraint compares a decision with a text that is none of its alternatives, so that it would say nothing.
        """
        names: dict[str, set[str]] = {}
        for d in self.decisions().values():
            names.setdefault(d.address, set()).update(map(str, d.values))
        problems = [
            Problem(f"the constraint compares {name!r} with {text!r}, no alternative of it{suggest(text, names[name])}", c.mark)
            for c in self.form.constraints
            for name, text in c.compared
            if names.get(name) and text not in names[name]
        ]
        if problems:
            raise InputError(problems)

    def derive(self, choose: Chooser, work: Work | None = None) -> Architecture:
        """The architecture that a chooser decides. Raises Refused where its choices break a law."""
        try:
            return Derivation(choose, self.sizes, self.form, self.measured, work).model()
        except RecursionError:
            raise Refused(Problem("the rules of this grammar are nested too deeply", self.form.mark)) from None

    def at(self, decisions: Mapping[str, Any]) -> Architecture:
        """The architecture at some decisions, every other at its reference.

        Args:
            decisions: Address -> value. A key that is no address of its own, but the name of decisions under an `each` (`channel` for
                `model.blocks.2.channel`), decides all of them that have no key of theirs.

        Raises:
            InputError: an address that is not met, a value that is not an alternative, or a broken law.
        """
        return self.meant(decisions)[0]

    def meant(self, decisions: Mapping[str, Any]) -> tuple[Architecture, list[str]]:
        """The architecture at some decisions (see `at`), and the addresses that they decide, in the order of the keys."""
        met: dict[str, Decision] = {}

        def choose(decision: Decision) -> Any:
            met[decision.address] = decision
            value = decision.meant(decisions.get(self.key(decision, decisions), decision.reference))
            if not decision.allows(value):
                known = suggest(value, decision.values) if decision.values else f" (in [{decision.low}, {decision.high}])"
                raise InputError(f"{value!r} is not an alternative of {decision.address!r}{known}")
            return value

        try:
            architecture = self.derive(choose)
        except Refused as e:
            raise InputError(e.problem) from None
        used = {address: self.key(decision, decisions) for address, decision in met.items()}
        for address in (a for a in decisions if a not in used.values()):
            known, where = self.decisions(), self.absent.get(address)
            if address not in known:
                raise InputError(f"no decision {address!r}{suggest(address, {*known, *(d.name for d in known.values())})}")
            raise InputError(f"the decision {address!r} is not met here{f' ({where})' if where else ''}")
        order = {key: place for place, key in enumerate(decisions)}
        return architecture, sorted((a for a in used if used[a] in order), key=lambda a: order[used[a]])

    def key(self, decision: Decision, given: Collection[str]) -> str:
        """By which of the given keys a decision is meant: its address, else the name that it shares with the other places of its `each`."""
        shared = decision.prefix and decision.address not in given and decision.name in given and decision.name not in self._survey
        return decision.name if shared else decision.address

    def recall(self, decisions: Mapping[str, Any], digest: str) -> Architecture | None:
        """The architecture that some decisions of an earlier form of this space made; None where they do not make it here.

        A decision that is new here is taken at its reference.
        """
        try:
            architecture = self.at(decisions)
        except InputError:
            return None
        return architecture if architecture.digest == digest else None

    @functools.cached_property
    def reference(self) -> Architecture:
        """Every decision at its first alternative."""
        return self.at({})

    def decisions(self) -> dict[str, Decision]:
        """Every decision by address, in reading order.

        Under an `each` there is one for every place that the reference has. Of what lies beyond, there is the first: the next place,
        where there may be more of them; the first place of an `each`, and the next level of a recursion, that the reference does not meet.
        """
        return {address: decision for address, (decision, _) in self._survey.items()}

    @property
    def absent(self) -> dict[str, str]:
        """Address -> where it is met, in words, of those decisions that the reference does not meet."""
        return {address: where for address, (_, where) in self._survey.items() if where}

    @functools.cached_property
    def _survey(self) -> Mapping[str, tuple[Decision, str]]:
        try:
            return survey(self.form)
        except RecursionError:
            raise InputError("the rules of this grammar are nested too deeply", self.form.mark) from None

    def enumerate(self, patience: int = 50 * WORK) -> Iterator[Architecture]:
        """Every architecture once, the reference first, lazily.

        Args:
            patience: Steps without a new architecture after which it gives up.

        Raises:
            InputError: a decision is over a continuous range, or nothing new is found for a long time.
        """
        seen: set[str] = set()
        work = Work()
        for architecture in self._walk({}, work=work, most=patience):
            if architecture.digest not in seen:
                work.steps = 0
                seen.add(architecture.digest)
                yield architecture

    def count(self) -> int:
        """How many architectures there are, exactly.

        Raises:
            InputError: the space is continuous, or only an upper bound is known.
        """
        number, exact = self.bound()
        if not exact:
            raise InputError(f"the space has at most {number} architectures; constraints or overlaps would have to be walked to count them")
        return number

    def bound(self) -> tuple[int, bool]:
        """How many architectures there are at most, and whether that is their exact number.

        Without constraints the number comes from dynamic programming over the grammar; constraints are counted by walking the
        derivations, if there are few enough.

        Raises:
            InputError: the space is continuous, or too entangled even for a bound.
        """
        self._discrete()
        census = self._census
        if census is None:
            number = self._listed(WORK // 2)  # what was too much to count is seldom few to list
            if number is None:
                raise InputError("the space is too large and too entangled to be counted") from None
            return number, True
        if census.exact and not self.form.constraints:
            return census.number, True
        number = self._listed() if census.number <= ENUMERABLE else None
        return (number, True) if number is not None else (census.number, False)

    def _listed(self, most: int = WORK) -> int | None:
        """The number of architectures by listing them in so many steps; None where there are too many derivations."""
        seen: set[str] = set()
        try:
            for number, architecture in enumerate(self._walk({}, work=Work(), most=most)):
                seen.add(architecture.digest)
                if number > ENUMERABLE:
                    return None
        except Exhausted:
            return None
        return len(seen)

    def sample(self, seed: int) -> Architecture:
        """An architecture at random: every decision that is met is drawn uniformly, and what breaks a law is drawn again. So a branch with
        few architectures is met as often as one with many. Equal seeds give equal samples.

        Raises:
            InputError: almost everything breaks a law.
        """
        rng = random.Random(seed)
        work = Work()
        while work.steps <= WORK:
            try:
                return self.derive(lambda decision: decision.draw(rng), work)
            except Refused:
                continue
        raise InputError("thousands of samples in a row broke a law; the grammar derives almost nothing")

    def _discrete(self) -> None:
        """Refuse a space with a decision whose values cannot be listed."""
        for decision in self.decisions().values():
            decision.listed()

    @functools.cached_property
    def _census(self) -> Census | None:
        try:
            return Census(self.form, self.sizes)
        except (TooLarge, RecursionError):
            return None

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """Every other architecture that differs in one of the decisions both meet; decisions met anew take every value."""
        found: dict[str, Architecture] = {}
        for address, value in architecture.decisions.items():
            kept = {a: v for a, v in architecture.decisions.items() if a != address}
            for other in self._walk(kept):
                if other.digest != architecture.digest and other.decisions.get(address, value) != value:
                    found.setdefault(other.digest, other)
        return list(found.values())

    def mutated(self, architecture: Architecture, address: str, rng: random.Random) -> Architecture | None:
        """The architecture with another value of one decision, at random, as are decisions met anew; None where that is refused."""

        def choose(decision: Decision) -> Any:
            if decision.address != address:
                return architecture.decisions[decision.address] if decision.address in architecture.decisions else decision.draw(rng)
            others = [v for v in decision.values if v != architecture.decisions[address]]
            return rng.choice(others) if others else decision.draw(rng)

        try:
            return self.derive(choose)
        except Refused:
            return None

    def _walk(self, kept: Mapping[str, Any], work: Work | None = None, most: int = WORK) -> Iterator[Architecture]:
        """Every derivation that agrees with the kept decisions, in depth-first order."""
        script: list[int] = []  # the alternative taken at each free decision
        while True:
            sizes: list[int] = []

            def choose(decision: Decision, sizes: list[int] = sizes) -> Any:
                if decision.address in kept:
                    return kept[decision.address]
                values = decision.listed()
                sizes.append(len(values) if isinstance(values, tuple) else values.stop - values.start)  # len() ends at 2**63
                if len(script) < len(sizes):
                    script.append(0)
                return values[script[len(sizes) - 1]]

            try:
                yield Derivation(choose, self.sizes, self.form, self.measured, work).model()
            except Refused:
                pass
            except RecursionError:
                raise Exhausted("the rules of this grammar are nested too deeply", self.form.mark) from None
            if work is not None and work.steps > most:
                raise Exhausted("nothing new is found: nearly everything breaks a law or repeats a model", self.form.mark)
            del script[len(sizes) :]
            while script and script[-1] + 1 >= sizes[len(script) - 1]:
                script.pop()
            if not script:
                return
            script[-1] += 1
