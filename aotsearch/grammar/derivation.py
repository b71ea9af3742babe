"""One walk over a grammar: from decisions to an architecture.

`Derivation` asks a chooser for each decision it meets, once, in reading order, and builds the architecture. Replay, sampling,
enumeration and search differ only in the chooser.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.errors import Mark, Problem
from aotsearch.grammar import constraint
from aotsearch.grammar.architecture import MAX_SUBLAYERS, Architecture, Part, Sizes, Sublayer, Tied, canonical
from aotsearch.grammar.constraint import Constraint
from aotsearch.grammar.forms import Choice, Component, Fixed, Form, ModelForm, Parallel, Range, Recurse, Repeat, Sequence, same
from aotsearch.grammar.laws import Around, Context, broken, unfit

MEASURABLE = 500  # sublayers of a model whose parameters a constraint asks for


@dataclass(frozen=True)
class Decision:
    """One thing to decide: an address with its alternatives, or with its bounds.

    `prefix` is the part of the address that says at which place of an `each`, or how deep in a recursion, it is decided.
    """

    address: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    prefix: str = ""

    @property
    def name(self) -> str:
        """What the decisions at all places of an `each` have in common: the address that it would have outside."""
        return self.address.removeprefix(self.prefix)

    @property
    def reference(self) -> Any:
        """The first alternative, or the lower bound."""
        return self.values[0] if self.values else self.low

    def allows(self, value: Any) -> bool:
        if self.values:
            return any(same(value, v) for v in self.values)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (not self.integer or value == int(value))


Chooser = Callable[[Decision], Any]
Measure = Callable[[Architecture], Mapping[str, int]]  # gives what constraints call MEASURED
REPLACES = "join: none replaces the stream, and with it what the sublayers before it in parallel have added; give it a join"


class Refused(Exception):
    """A derivation that breaks a law; `problem` says which, and where."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class Work:
    """The steps that derivations have taken."""

    steps: int = 0


def decision_of(form: Choice | Range, prefix: str, depth: int) -> Decision:
    """The decision of a form under a prefix, so deep in the recursion of its rule."""
    if isinstance(form, Choice):
        return Decision(prefix + form.address, tuple(form.labels[i] for i in form.open(depth)), prefix=prefix)
    return Decision(prefix + form.address, (), form.low, form.high, form.log, form.integer, prefix)


class Derivation:
    """One walk over a grammar: each address is decided once, in reading order."""

    def __init__(self, choose: Chooser, sizes: Sizes, form: ModelForm, measured: Measure, work: Work | None = None):
        self.work = work or Work()
        self.last = self.work.steps + 5 * MAX_SUBLAYERS  # a derivation that takes more steps is refused
        self.choose = choose
        self.sizes = sizes
        self.form = form
        self.measured = measured
        self.made: dict[str, Any] = {}
        self.prefix = ""
        self.shared: dict[str, str] = {}  # rule -> the prefix under which it is decided, inside an `each` that shares it
        self.depth: Counter[str] = Counter()  # of the recursion of each rule
        self.beside = False  # whether the next sublayer reads what the one before it read
        self.early = [c for c in form.constraints if not c.measures]  # can be settled before the model is made

    def model(self) -> Architecture:
        self.work.steps += 10
        architecture = self.build(self.form)
        self.work.steps += len(architecture.sublayers)
        values: dict[str, Any] = dict(self.made) | dict(self.sizes)
        values |= {"width": architecture.width, "sublayers": len(architecture.sublayers)}
        for c in self.form.constraints:
            if c.measures and values.keys() >= c.names - set(constraint.MEASURED):
                if len(architecture.sublayers) > MEASURABLE:
                    raise Refused(Problem(f"a model that is measured has at most {MEASURABLE} sublayers", c.mark))
                self.work.steps += 100 + 400 * len(architecture.sublayers)
                values |= self.measured(architecture)
            self.require(c, values)
        return architecture

    def require(self, c: Constraint, values: Mapping[str, Any]) -> None:
        if not c.holds(values):
            shown = ", ".join(f"{name} = {values[name]!r}" for name in sorted(c.names))
            raise Refused(Problem(f"the constraint {c.text!r} does not hold for {shown}", c.mark))

    def build(self, form: ModelForm) -> Architecture:
        o = form.options
        self.around = Around(0)
        self.around = Around(self.option(o["width"]))
        options = {name: self.option(o[name]) for name in o if name not in ("block", "blocks")}
        made = Architecture.frame(options, self.sizes)
        law = unfit(made)
        if law is not None:
            raise Refused(Problem(law[0], self.resolve(o[law[1]]).mark if law[1] in o else form.mark))
        self.context = Context.of(made, options)
        self.around = self.context.around
        if "blocks" in o:
            sublayers = self.sublayers(o["blocks"])
        else:
            sublayers = _repeat(self.sublayers(o["block"]), options["depth"], o["depth"].mark)
        return dataclasses.replace(made, sublayers=_settled(sublayers), decisions=self.made)

    def decide(self, form: Choice | Range) -> Any:
        decision = decision_of(form, self.shared.get(form.rule, self.prefix), self.depth[form.rule])
        if decision.address not in self.made:
            self.made[decision.address] = self.choose(decision)
            settled = [c for c in self.early if decision.address in c.names and c.names <= self.made.keys()]
            for c in settled:  # as early as it can be known, so that a search does not walk what is below
                self.require(c, self.made)
        return self.made[decision.address]

    def resolve(self, form: Form) -> Form:
        """Follow choices down to what was chosen."""
        while isinstance(form, Choice):
            form = form.taken(self.decide(form))
        return form

    def option(self, form: Form) -> Any:
        """The value of an option, a scalar or a part."""
        form = self.resolve(form)
        if isinstance(form, Range):
            return form.option.parse(self.decide(form))
        if isinstance(form, Component):
            return self.part(form)
        assert isinstance(form, Fixed), form
        return form.value

    def part(self, form: Component) -> Part:
        found = canonical(form.slot, form.word, {name: self.option(inner) for name, inner in form.options.items()})
        law = broken(form.slot, found, self.around, self.sizes)
        if law is not None:
            mark = self.resolve(form.options[law[1]]).mark if law[1] in form.options else form.mark
            raise Refused(Problem(law[0], mark))
        return found

    def sublayers(self, form: Form) -> list[Sublayer]:
        self.work.steps += 1
        if self.work.steps > self.last:
            _limit(self.work.steps, form.mark)
        form = self.resolve(form)
        if isinstance(form, Sequence):
            return self.joined([self.sublayers(inner) for inner in form.forms], form.mark)
        if isinstance(form, Repeat):
            return self.repeat(form)
        if isinstance(form, Recurse):
            return self.recurse(form)
        if isinstance(form, Parallel):
            return self.parallel(form)
        assert isinstance(form, Component), form
        return [self.sublayer(form)]

    def joined(self, bodies: list[list[Sublayer]], mark: Mark) -> list[Sublayer]:
        length = sum(map(len, bodies))
        _limit(length, mark)
        self.work.steps += length // 4
        return _concatenate(bodies)

    def sublayer(self, form: Component) -> Sublayer:
        operation = self.part(form)
        return self.context.sublayer(operation, {name: self.option(inner) for name, inner in form.own.items()}, self.beside)

    def parallel(self, form: Parallel) -> list[Sublayer]:
        found: list[Sublayer] = []
        for inner in form.forms:
            self.beside = bool(found)
            made = self.sublayers(inner)
            if found and made and made[0].join.absent:
                raise Refused(Problem(REPLACES, inner.mark))
            found += made
        self.beside = False
        return found

    def repeat(self, form: Repeat) -> list[Sublayer]:
        times = self.option(form.times)
        if form.address is None:
            return _repeat(self.sublayers(form.body), times, form.mark, form.tied)
        _limit(times, form.mark)
        outer, shared, bodies = self.prefix, self.shared, []
        self.shared = shared | {rule: shared.get(rule, outer) for rule in form.share}
        for place in range(times):
            with self.scope(f"{outer}{form.address}.{place}."):
                bodies.append(self.sublayers(form.body))
        self.shared = shared
        return self.joined(bodies, form.mark)

    def recurse(self, form: Recurse) -> list[Sublayer]:
        self.depth[form.rule] += 1
        with self.scope(f"{self.prefix}{form.address}."):
            found = self.sublayers(self.form.recursive[form.rule])
        self.depth[form.rule] -= 1
        return found

    @contextlib.contextmanager
    def scope(self, prefix: str) -> Iterator[None]:
        """Decide anew what is inside."""
        outer, self.prefix = self.prefix, prefix
        yield
        self.prefix = outer


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


def _plain(sublayer: Sublayer) -> Sublayer:
    return Sublayer(**vars(sublayer)) if isinstance(sublayer, Tied) else sublayer


def _kind(sublayer: Sublayer) -> Sublayer:
    """What tied sublayers with one set of weights have in common."""
    return dataclasses.replace(sublayer, same_as=None, parallel=False)


def _settled(sublayers: list[Sublayer]) -> tuple[Sublayer, ...]:
    """Sublayers in their places, the tied ones that are equal with the weights of the first of them."""
    if not any(isinstance(s, Tied) for s in sublayers):
        return tuple(sublayers)
    first: dict[Sublayer, int] = {}
    roots: list[int] = []  # where the weights of each sublayer are
    for i, sublayer in enumerate(sublayers):
        root = i if sublayer.same_as is None else roots[sublayer.same_as]
        roots.append(first.setdefault(_kind(sublayer), root) if isinstance(sublayer, Tied) else root)
    found = zip(sublayers, roots, strict=True)
    return tuple(dataclasses.replace(_plain(s), same_as=None if root == i else root) for i, (s, root) in enumerate(found))
