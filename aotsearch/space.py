"""A grammar as a space of architectures: derive, count, enumerate, sample, neighbours.

Everything rests on one walk: `_Derivation` asks a chooser for each decision it meets and builds the architecture. Replay, sampling,
enumeration and search differ only in the chooser.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch import constraint, grammar, registry
from aotsearch.architecture import NONE, Architecture, Part, Sublayer, part
from aotsearch.census import Census, TooLarge
from aotsearch.constraint import Constraint
from aotsearch.errors import InputError, Mark, Problem, suggest
from aotsearch.grammar import Choice, Component, Fixed, Form, ModelForm, Range, Recurse, Repeat, Sequence
from aotsearch.yamlfile import Node

MAX_SUBLAYERS = 5_000
ATTEMPTS = 10_000  # of a sample
ENUMERABLE = 100_000  # derivations that `count` will walk
WORK = 60_000  # steps of derivations that are spent on one question, so that every question ends
MEASURABLE = 500  # sublayers of a model whose parameters a constraint asks for


@dataclass(frozen=True)
class Decision:
    """One thing to decide: an address with its alternatives, or with its bounds."""

    address: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False

    @property
    def reference(self) -> Any:
        """The first alternative, or the lower bound."""
        return self.values[0] if self.values else self.low

    def allows(self, value: Any) -> bool:
        if self.values:
            return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (not self.integer or value == int(value))


Chooser = Callable[[Decision], Any]


class Refused(Exception):
    """A derivation that breaks a law; `problem` says which, and where."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


class Exhausted(InputError):
    """WORK is spent: nearly everything breaks a law, or is a model that was met before."""


@dataclass
class Work:
    """The steps that derivations have taken."""

    steps: int = 0


@dataclass(frozen=True)
class Space:
    """The architectures that a grammar can derive, for the sizes of a task."""

    form: ModelForm
    sizes: tuple[tuple[str, int], ...]

    @classmethod
    def parse(cls, node: Node, sizes: Mapping[str, int]) -> Space:
        """The space of a grammar node.

        Raises:
            InputError: with every problem of the grammar, or with the law that its reference breaks.
        """
        space = cls(grammar.parse(node), tuple(sorted(sizes.items())))
        try:
            space.decisions()
        except RecursionError:
            raise InputError("the rules of this grammar are nested too deeply", node.mark) from None
        known = {*constraint.KNOWN, *constraint.MEASURED, *sizes, *space.decisions()}
        wrong = [(c, name) for c in space.form.constraints for name in sorted(c.names - known)]
        if wrong:
            raise InputError(Problem(f"the constraint names {name!r}{suggest(name, known)}", c.mark) for c, name in wrong)
        space.reference  # noqa: B018 (a space without a reference is an error of the file)
        return space

    def derive(self, choose: Chooser, target: Architecture | None = None, work: Work | None = None) -> Architecture:
        """The architecture that a chooser decides. Raises Refused where its choices break a law, or leave the target."""
        try:
            return _Derivation(choose, self.sizes, self.form, target, work).model()
        except RecursionError:
            raise Refused(Problem("the rules of this grammar are nested too deeply", self.form.mark)) from None

    def at(self, decisions: Mapping[str, Any]) -> Architecture:
        """The architecture at some decisions, every other at its reference.

        Raises:
            InputError: an address that is not met, a value that is not an alternative, or a broken law.
        """
        met: dict[str, Decision] = {}

        def choose(decision: Decision) -> Any:
            met[decision.address] = decision
            value = decisions.get(decision.address, decision.reference)
            if not decision.allows(value):
                known = suggest(value, decision.values) if decision.values else f" (in [{decision.low}, {decision.high}])"
                raise InputError(f"{value!r} is not an alternative of {decision.address!r}{known}")
            return value

        try:
            architecture = self.derive(choose)
        except Refused as e:
            raise InputError(e.problem) from None
        for address in decisions.keys() - met.keys():
            raise InputError(f"no decision {address!r} is met here{suggest(address, met)}")
        return architecture

    @functools.cached_property
    def reference(self) -> Architecture:
        """Every decision at its first alternative."""
        return self.at({})

    def decisions(self) -> dict[str, Decision]:
        """Every decision outside `each` and recursions, by address, in reading order."""
        found: dict[str, Decision] = {}

        def visit(form: Form) -> None:
            if isinstance(form, Choice | Range):
                found.setdefault(form.address, _decision(form, ""))
            for child in [form.times] if isinstance(form, Repeat) and form.address is not None else grammar.children(form):
                visit(child)

        visit(self.form)
        return found

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
        for decision in self.decisions().values():
            _values(decision)
        try:
            census = self._census
        except TooLarge:
            number = self._listed()
            if number is None:
                raise InputError("the space is too large and too entangled to be counted") from None
            return number, True
        if census.exact and not self.form.constraints:
            return census.number, True
        number = self._listed() if census.number <= ENUMERABLE else None
        return (number, True) if number is not None else (census.number, False)

    def _listed(self) -> int | None:
        """The number of architectures by listing them; None where there are too many derivations."""
        seen: set[str] = set()
        try:
            for number, architecture in enumerate(self._walk({}, work=Work())):
                seen.add(architecture.digest)
                if number > ENUMERABLE:
                    return None
        except Exhausted:
            return None
        return len(seen)

    def sample(self, seed: int, over: str = "decisions") -> Architecture:
        """An architecture at random; what breaks a law is drawn again.

        Args:
            seed: Of the draw; equal seeds give equal samples.
            over: `decisions` draws each decision uniformly from its alternatives, so a branch with few architectures is met as often
                as one with many; `architectures` draws uniformly from all of them, and then looks for the decisions that derive it, which
                takes seconds where tens of places are decided anew.

        Raises:
            InputError: for `architectures`, the space is not counted exactly; or almost everything breaks a law.
        """
        assert over in ("decisions", "architectures"), over
        rng = random.Random(seed)
        work = Work()
        for _ in range(ATTEMPTS):
            if work.steps > WORK:
                break
            try:
                return self.derive(lambda decision: _draw(decision, rng), work=work) if over == "decisions" else self._uniform(rng)
            except Refused:
                continue
        raise InputError("thousands of samples in a row broke a law; the grammar derives almost nothing")

    def _uniform(self, rng: random.Random) -> Architecture:
        try:
            census = self._census
        except TooLarge:
            census = None
        if census is None or not census.exact or not census.number:
            raise InputError("the space is not counted exactly, so that no sample of it is uniform over architectures")
        (width, positions, final_norm, head), sublayers = census.draw(rng)
        return self.explain(Architecture(width, sublayers, positions, final_norm, head, self.sizes))

    def explain(self, architecture: Architecture) -> Architecture:
        """The same architecture with decisions that derive it. Raises Refused where no derivation does."""
        for found in self._walk({}, architecture):
            if found == architecture:
                return found
        raise Refused(Problem("this grammar does not derive the architecture", self.form.mark))

    @functools.cached_property
    def _census(self) -> Census:
        try:
            return Census(self.form)
        except RecursionError:
            raise TooLarge from None

    def neighbours(self, architecture: Architecture) -> list[Architecture]:
        """Every other architecture that differs in one of the decisions both meet; decisions met anew take every value."""
        found: dict[str, Architecture] = {}
        for address, value in architecture.decisions.items():
            kept = {a: v for a, v in architecture.decisions.items() if a != address}
            for other in self._walk(kept):
                if other.digest != architecture.digest and other.decisions.get(address, value) != value:
                    found.setdefault(other.digest, other)
        return list(found.values())

    def _walk(
        self, kept: Mapping[str, Any], target: Architecture | None = None, work: Work | None = None, most: int = WORK
    ) -> Iterator[Architecture]:
        """Every derivation that agrees with the kept decisions, and so far as it goes with the target, in depth-first order."""
        script: list[int] = []  # the alternative taken at each free decision
        dead: set[Any] = set()  # states from which the target can not be reached any more
        everywhere = self.decisions().keys()
        while True:
            sizes: list[int] = []
            states: list[Any] = []

            def choose(decision: Decision, sizes: list[int] = sizes, states: list[Any] = states) -> Any:
                if decision.address in kept:
                    return kept[decision.address]
                if target is not None:  # what follows depends on the place reached and on what holds everywhere
                    settled = tuple((a, v) for a, v in walk.made.items() if a in everywhere)  # noqa: B023 (called within this round)
                    state = (decision.address, walk.place_number, settled)  # noqa: B023
                    if state in dead:
                        raise Refused(Problem("not the target", self.form.mark))
                    states.append(state)
                values = _values(decision)
                sizes.append(len(values) if isinstance(values, tuple) else values.stop - values.start)  # len() ends at 2**63
                if len(script) < len(sizes):
                    script.append(0)
                return values[script[len(sizes) - 1]]

            walk = _Derivation(choose, self.sizes, self.form, target, work)
            try:
                yield walk.model()
            except Refused:
                pass
            except RecursionError:
                raise Exhausted("the rules of this grammar are nested too deeply", self.form.mark) from None
            if work is not None and work.steps > most:
                raise Exhausted("nothing new is found: nearly everything breaks a law or repeats a model", self.form.mark)
            del script[len(sizes) :]
            while script and script[-1] + 1 >= sizes[len(script) - 1]:
                dead.update(states[len(script) - 1 : len(script)])
                script.pop()
            if not script:
                return
            script[-1] += 1


def _values(decision: Decision) -> tuple[Any, ...] | range:
    if decision.values:
        return decision.values
    if not decision.integer:
        raise InputError(f"the decision {decision.address!r} is a continuous range; its values can not be listed")
    return range(int(decision.low), int(decision.high) + 1)


def _draw(decision: Decision, rng: random.Random) -> Any:
    if decision.values:
        return rng.choice(decision.values)
    low, high = decision.low, decision.high
    if decision.integer and not decision.log:
        return rng.randint(int(low), int(high))
    value = math.exp(rng.uniform(math.log(low), math.log(high))) if decision.log else rng.uniform(low, high)
    return round(value) if decision.integer else min(max(value, low), high)


def _decision(form: Choice | Range, prefix: str, deep: bool = False) -> Decision:
    """The decision of a form; one that lies at the limit of its recursion has the alternatives that end."""
    address = prefix + form.address
    if isinstance(form, Choice):
        return Decision(address, tuple(v for v, r in zip(form.labels, form.recursive, strict=True) if not r) if deep else form.labels)
    return Decision(address, (), form.low, form.high, form.log, form.integer)


class _Derivation:
    """One walk over a grammar: each address is decided once, in reading order."""

    def __init__(
        self,
        choose: Chooser,
        sizes: tuple[tuple[str, int], ...],
        form: ModelForm,
        target: Architecture | None = None,
        work: Work | None = None,
    ):
        self.work = work or Work()
        self.last = self.work.steps + 5 * MAX_SUBLAYERS  # a derivation that takes more steps is refused
        self.target = target
        self.place_number = 0  # of the next sublayer
        self.choose = choose
        self.sizes = sizes
        self.form = form
        self.made: dict[str, Any] = {}
        self.prefix = ""
        self.shared: dict[str, str] = {}  # rule -> the prefix under which it is decided, inside an `each` that shares it
        self.depth: Counter[str] = Counter()  # of the recursion of each rule
        self.open = [c for c in form.constraints if not c.names & set(constraint.MEASURED)]  # not settled yet

    def model(self) -> Architecture:
        self.work.steps += 10
        architecture = self.build(self.form)
        self.work.steps += len(architecture.sublayers)
        values: dict[str, Any] = dict(self.made) | dict(self.sizes)
        values |= {"width": architecture.width, "sublayers": len(architecture.sublayers)}
        for c in self.form.constraints:
            if c.names & set(constraint.MEASURED) and values.keys() >= c.names - set(constraint.MEASURED):
                if len(architecture.sublayers) > MEASURABLE:
                    raise Refused(Problem(f"a model that is measured has at most {MEASURABLE} sublayers", c.mark))
                self.work.steps += 100 + 400 * len(architecture.sublayers)
                # the one thing here that needs torch, so it is loaded by name and only for grammars that measure
                values |= vars(importlib.import_module("aotsearch.cost").cost(architecture))
            self.require(c, values)
        return architecture

    def require(self, c: Constraint, values: Mapping[str, Any]) -> None:
        if not c.holds(values):
            shown = ", ".join(f"{name} = {values[name]!r}" for name in sorted(c.names))
            raise Refused(Problem(f"the constraint {c.text!r} does not hold for {shown}", c.mark))

    def build(self, form: ModelForm) -> Architecture:
        given = {name: f for name, f in form.options.items() if name not in ("block", "blocks")}
        options: dict[str, Any] = {}
        parts: dict[str, Part] = {}
        self.width = self.option(given["width"])
        if self.target is not None and self.width != self.target.width:
            raise Refused(Problem("not the target", form.mark))
        for name, inner in given.items():
            if isinstance(grammar.MODEL[name], str):
                parts[name] = self.part(inner)
            else:
                options[name] = self.option(inner)
        self.norm = parts.get("norm", Part("layernorm"))
        self.place: str = options.get("place", "pre")
        self.join = parts.get("join", Part("add"))
        if "blocks" in form.options:
            sublayers = self.sublayers(form.options["blocks"])
        else:
            body = self.sublayers(form.options["block"])
            sublayers = _repeat(body, options["depth"], form.options["depth"].mark)
        return Architecture(
            width=self.width,
            sublayers=tuple(sublayers),
            positions=parts.get("positions", Part("learned")),
            # a pre-norm stream leaves its last join unnormalised; a post-norm one does not
            final_norm=parts.get("final_norm", self.norm if self.place == "pre" else NONE),
            head=options.get("head", "tied"),
            sizes=self.sizes,
            decisions=self.made,
        )

    def decide(self, form: Choice | Range) -> Any:
        rule = form.address.partition(".")[0]
        deep = isinstance(form, Choice) and form.limit > 0 and self.depth[rule] >= form.limit
        decision = _decision(form, self.shared.get(rule, self.prefix), deep)
        if decision.address not in self.made:
            self.made[decision.address] = self.choose(decision)
            settled = [c for c in self.open if decision.address in c.names and c.names <= self.made.keys()]
            for c in settled:  # as early as it can be known, so that a search does not walk what is below
                self.require(c, self.made)
        return self.made[decision.address]

    def resolve(self, form: Form) -> Form:
        """Follow choices down to what was chosen."""
        while isinstance(form, Choice):
            value = self.decide(form)
            index = next(i for i, v in enumerate(form.labels) if v == value and isinstance(v, bool) == isinstance(value, bool))
            form = form.forms[index]
        return form

    def option(self, form: Form) -> Any:
        form = self.resolve(form)
        if isinstance(form, Range):
            return form.option.parse(self.decide(form))
        assert isinstance(form, Fixed), form
        return form.value

    def part(self, form: Form) -> Part:
        form = self.resolve(form)
        assert isinstance(form, Component), form
        options = {}
        for name, inner in form.options.items():
            options[name] = self.option(inner)
            if form.slot in registry.SUBLAYERS:
                self.aim_option(form, name, options[name])
            option = registry.find(form.slot, form.word).options[name]
            if option.divides_width and self.width % options[name]:
                mark = self.resolve(inner).mark
                raise Refused(Problem(f"{name} divides width: {options[name]} does not divide {self.width}", mark))
        return part(form.slot, form.word, options)

    def sublayers(self, form: Form) -> list[Sublayer]:
        self.work.steps += 1
        if self.work.steps > self.last:
            _limit(self.work.steps, form.mark)
        form = self.resolve(form)
        if isinstance(form, Sequence):
            bodies = [self.sublayers(f) for f in form.forms]
            length = sum(map(len, bodies))
            _limit(length, form.mark)
            self.work.steps += length // 4
            return _concatenate(bodies)
        if isinstance(form, Repeat):
            return self.repeat(form)
        if isinstance(form, Recurse):
            return self.recurse(form)
        assert isinstance(form, Component), form
        operation = self.part(form)
        norm = self.part(form.own["norm"]) if "norm" in form.own else self.norm
        place = self.option(form.own["place"]) if "place" in form.own else self.place
        join = self.part(form.own["join"]) if "join" in form.own else self.join
        return [self.aim(Sublayer(operation, norm, "pre" if norm.absent else place, join), form.mark)]

    def aim_option(self, form: Component, name: str, value: Any) -> None:
        """Refuse an option that the target's next sublayer does not have."""
        if self.target is not None and self.place_number < len(self.target.sublayers):
            wanted = self.target.sublayers[self.place_number].operation
            default = registry.find(form.slot, form.word).options[name].default
            if wanted.word != form.word or dict(wanted.options).get(name, default) != value:
                raise Refused(Problem("not the target", form.mark))

    def aim(self, sublayer: Sublayer, mark: Mark) -> Sublayer:
        """Refuse a sublayer that is not the target's at this place, so that a walk leaves a wrong branch at once."""
        if self.target is not None:
            wanted = self.target.sublayers[self.place_number : self.place_number + 1]
            if not wanted or dataclasses.replace(wanted[0], same_as=None) != sublayer:
                raise Refused(Problem("not the target", mark))
        self.place_number += 1
        return sublayer

    def repeat(self, form: Repeat) -> list[Sublayer]:
        times = self.option(form.times)
        if form.address is None:
            start = self.place_number
            found = _repeat(self.sublayers(form.body), times, form.mark, tied=form.tied)
            self.place_number = start + len(found)
            return found
        outer, shared, bodies = self.prefix, self.shared, []
        self.shared = shared | {rule: shared.get(rule, outer) for rule in form.share}
        _limit(times, form.mark)
        for place in range(times):
            self.prefix = f"{outer}{form.address}.{place}."
            bodies.append(self.sublayers(form.body))
        self.prefix, self.shared = outer, shared
        length = sum(map(len, bodies))
        _limit(length, form.mark)
        self.work.steps += length // 4
        return _concatenate(bodies)

    def recurse(self, form: Recurse) -> list[Sublayer]:
        outer = self.prefix
        self.prefix = f"{outer}{form.address}."
        self.depth[form.rule] += 1
        found = self.sublayers(self.form.recursive[form.rule])
        self.depth[form.rule] -= 1
        self.prefix = outer
        return found


def _limit(number: int, mark: Mark) -> None:
    if number > MAX_SUBLAYERS:
        raise Refused(Problem(f"a model has at most {MAX_SUBLAYERS} sublayers, not {number}", mark))


def _repeat(body: list[Sublayer], times: int, mark: Mark, tied: bool = False) -> list[Sublayer]:
    _limit(times * max(1, len(body)), mark)
    return _concatenate([body] * times, tied)


def _concatenate(bodies: list[list[Sublayer]], tied: bool = False) -> list[Sublayer]:
    """Sublayers in sequence; `same_as` of each body counts from the body's start, in the result from the result's."""
    joined: list[Sublayer] = []
    for body in bodies:
        start = 0 if tied else len(joined)
        copy = tied and bool(joined)
        for i, sublayer in enumerate(body):
            source = sublayer.same_as if sublayer.same_as is not None else i if copy else None
            joined.append(sublayer if source is None else dataclasses.replace(sublayer, same_as=start + source))
    return joined
