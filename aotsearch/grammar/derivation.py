"""One walk over a grammar: from decisions to an architecture.

`Derivation` asks a chooser for each decision it meets, once, in reading order, and builds the architecture. Replay, sampling,
enumeration and search differ only in the chooser. With a `Pursuit` it follows an architecture, and is refused where it leaves it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.errors import Mark, Problem
from aotsearch.grammar import constraint
from aotsearch.grammar.architecture import ADD, MAX_SUBLAYERS, NONE, NORM, Architecture, Part, Sublayer, Tied, canonical, frame, settings
from aotsearch.grammar.constraint import Constraint
from aotsearch.grammar.counting import Model
from aotsearch.grammar.forms import Choice, Component, Fixed, Form, ModelForm, Parallel, Range, Recurse, Repeat, Sequence
from aotsearch.grammar.guide import Ends, Guide, fits, may, numbers
from aotsearch.grammar.laws import Around, broken, unfit

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
            return any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in self.values)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (not self.integer or value == int(value))


Chooser = Callable[[Decision], Any]
REPLACES = "join: none replaces the stream, and with it what the sublayers before it in parallel have added; give it a join"
OFF_TARGET = Problem("not the target")


class Refused(Exception):
    """A derivation that breaks a law; `problem` says which, and where."""

    def __init__(self, problem: Problem):
        super().__init__(str(problem))
        self.problem = problem


@dataclass
class Work:
    """The steps that derivations have taken."""

    steps: int = 0


def decision_of(form: Choice | Range, prefix: str, deep: bool = False) -> Decision:
    """The decision of a form; one that lies at the limit of its recursion has the alternatives that end."""
    address = prefix + form.address
    if isinstance(form, Choice):
        left = tuple(v for v, r in zip(form.labels, form.recursive, strict=True) if not r) if deep else form.labels
        return Decision(address, left, prefix=prefix)
    return Decision(address, (), form.low, form.high, form.log, form.integer, prefix)


class Pursuit:
    """Where a walk is that follows a target, and what decides whether it can reach it from there."""

    def __init__(self, target: Architecture, form: ModelForm, guides: dict[Model, Guide]):
        self.target = target
        self.form = form
        self.guides = guides
        self.at = 0  # the place of the next sublayer
        self.first: dict[Sublayer, int] = {}  # a tied sublayer -> the place of the first of its kind
        self.starts: list[int] = []  # of the repeats it is in
        self.decided: dict[str, dict[str, Any]] = {}  # prefix of a scope it is in -> what is decided there

    def state(self, made: Mapping[str, Any] | None) -> tuple[Any, ...]:
        scopes = self.decided.values() if made is None else [made]
        return self.at, tuple(self.first.values()), tuple(self.starts), tuple(tuple(scope.items()) for scope in scopes)

    def frame(self, made: Architecture, model: Model) -> Ends:
        """The place where the sublayers must end."""
        if dataclasses.replace(self.target, sublayers=()) != made:
            raise Refused(OFF_TARGET)
        if model not in self.guides:
            self.guides[model] = Guide(self.target, self.form, model)
        self.guide = self.guides[model]
        return frozenset((len(self.target.sublayers),))

    def option(self, name: str) -> frozenset[Any] | None:
        """The values of an option of the model that can lead to the target; None where it may have any."""
        length = len(self.target.sublayers)
        if name == "depth" and length:
            return frozenset(n for n in range(1, length + 1) if length % n == 0)
        return None if name in ("depth", "norm", "place", "join") else frozenset((getattr(self.target, name),))

    def next(self) -> Sublayer:
        if self.at >= len(self.target.sublayers):
            raise Refused(OFF_TARGET)
        return self.target.sublayers[self.at]

    def add(self, sublayer: Sublayer) -> None:
        """Refuse a sublayer that is not the next one."""
        root = self.first.setdefault(_kind(sublayer), self.at) if isinstance(sublayer, Tied) else self.at
        if dataclasses.replace(_plain(sublayer), same_as=None if root == self.at else root) != self.next():
            raise Refused(OFF_TARGET)
        self.at += 1

    def copy(self, sublayers: list[Sublayer], start: int) -> None:
        """Refuse the copies of what has been added since `start` that are not what follows."""
        for sublayer in sublayers[self.at - start :]:
            root = sublayer.same_as
            if root is not None:
                root = start + root
                root = root if self.target.sublayers[root].same_as is None else self.target.sublayers[root].same_as
            elif isinstance(sublayer, Tied):
                root = self.first[_kind(sublayer)]
            if dataclasses.replace(_plain(sublayer), same_as=root) != self.next():
                raise Refused(OFF_TARGET)
            self.at += 1


class Derivation:
    """One walk over a grammar: each address is decided once, in reading order."""

    def __init__(
        self,
        choose: Chooser,
        sizes: tuple[tuple[str, int], ...],
        form: ModelForm,
        work: Work | None = None,
        pursuit: Pursuit | None = None,
    ):
        self.work = work or Work()
        self.last = self.work.steps + 5 * MAX_SUBLAYERS  # a derivation that takes more steps is refused
        self.pursuit = pursuit
        self.choose = choose
        self.sizes = sizes
        self.form = form
        self.made: dict[str, Any] = {}
        self.prefix = ""
        self.shared: dict[str, str] = {}  # rule -> the prefix under which it is decided, inside an `each` that shares it
        self.depth: Counter[str] = Counter()  # of the recursion of each rule
        self.beside = False  # whether the next sublayer reads what the one before it read
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
                values |= vars(importlib.import_module("aotsearch.models.cost").cost(architecture))
            self.require(c, values)
        return architecture

    def require(self, c: Constraint, values: Mapping[str, Any]) -> None:
        if not c.holds(values):
            shown = ", ".join(f"{name} = {values[name]!r}" for name in sorted(c.names))
            raise Refused(Problem(f"the constraint {c.text!r} does not hold for {shown}", c.mark))

    def build(self, form: ModelForm) -> Architecture:
        o = form.options
        self.around = Around(0)
        self.around = Around(self.model_option("width"))
        options = {name: self.model_option(name) for name in o if name not in ("block", "blocks")}
        made = frame(options, self.sizes)
        law = unfit(made)
        if law is not None:
            raise Refused(Problem(law[0], self.resolve(o[law[1]]).mark if law[1] in o else form.mark))
        self.around = Around.of(made)
        self.usual = Model(self.around, options.get("norm", NORM), options.get("place", "pre"), options.get("join", ADD))
        goals = None if self.pursuit is None else self.pursuit.frame(made, self.usual)
        if "blocks" in o:
            sublayers = self.sublayers(o["blocks"], goals)
        else:
            sublayers = self.copies(o["block"], options["depth"], False, o["depth"].mark, goals)
        return dataclasses.replace(made, sublayers=_settled(sublayers), decisions=self.made)

    def model_option(self, name: str) -> Any:
        return self.option(self.form.options[name], None if self.pursuit is None else self.pursuit.option(name))

    def decide(self, form: Choice | Range, narrow: Callable[[Decision], tuple[Any, ...]] | None = None) -> Any:
        """The value of a decision; made now, it is one of those that `narrow` leaves."""
        rule = form.address.partition(".")[0]
        deep = isinstance(form, Choice) and form.limit > 0 and self.depth[rule] >= form.limit
        prefix = self.shared.get(rule, self.prefix)
        decision = decision_of(form, prefix, deep)
        if decision.address not in self.made:
            if narrow is not None:
                left = narrow(decision)
                if not left:
                    raise Refused(OFF_TARGET)
                decision = dataclasses.replace(decision, values=left)
            self.made[decision.address] = value = self.choose(decision)
            if self.pursuit is not None:
                self.pursuit.decided.setdefault(prefix, {})[decision.address] = value
            settled = [c for c in self.open if decision.address in c.names and c.names <= self.made.keys()]
            for c in settled:  # as early as it can be known, so that a search does not walk what is below
                self.require(c, self.made)
        return self.made[decision.address]

    def resolve(self, form: Form, fit: Callable[[Form], bool] | None = None) -> Form:
        """Follow choices down to what was chosen, among the alternatives that fit."""
        while isinstance(form, Choice):
            value = self.decide(form, None if fit is None else functools.partial(_fitting, form, fit))
            index = next(i for i, v in enumerate(form.labels) if v == value and isinstance(v, bool) == isinstance(value, bool))
            form = form.forms[index]
        return form

    def option(self, form: Form, allowed: frozenset[Any] | None = None) -> Any:
        """The value of an option, a scalar or a part; one of those that are allowed, where not all are."""
        form = self.resolve(form, None if allowed is None else lambda inner: may(inner, allowed))
        if isinstance(form, Range):
            return form.option.parse(self.decide(form, None if allowed is None else lambda _: numbers(form, allowed)))
        if isinstance(form, Component):
            wanted = None if allowed is None else next((v for v in allowed if isinstance(v, Part)), NONE)
            return self.part(form, wanted)
        assert isinstance(form, Fixed), form
        return form.value

    def part(self, form: Component, wanted: Part | None = None) -> Part:
        if wanted is not None and not fits(form, wanted):
            raise Refused(OFF_TARGET)
        known = None if wanted is None else settings(form.slot, wanted)
        options = {name: self.option(inner, None if known is None else frozenset((known[name],))) for name, inner in form.options.items()}
        found = canonical(form.slot, form.word, options)
        law = broken(form.slot, found, self.around, self.sizes)
        if law is not None:
            mark = self.resolve(form.options[law[1]]).mark if law[1] in form.options else form.mark
            raise Refused(Problem(law[0], mark))
        return found

    def sublayers(self, form: Form, goals: Ends | None) -> list[Sublayer]:
        """The sublayers of a form; with a target, those that end at a goal."""
        self.work.steps += 1
        if self.work.steps > self.last:
            _limit(self.work.steps, form.mark)
        form = self.resolve(form, None if goals is None else functools.partial(self.leads, goals))
        if isinstance(form, Sequence):
            bodies = [self.sublayers(f, g) for f, g in zip(form.forms, self.route(form.forms, goals), strict=True)]
            length = sum(map(len, bodies))
            _limit(length, form.mark)
            self.work.steps += length // 4
            return _concatenate(bodies)
        if isinstance(form, Repeat):
            return self.repeat(form, goals)
        if isinstance(form, Recurse):
            return self.recurse(form, goals)
        if isinstance(form, Parallel):
            return self.parallel(form, goals)
        assert isinstance(form, Component), form
        return [self.sublayer(form)]

    def leads(self, goals: Ends, form: Form) -> bool:
        """Whether a form can end at a goal."""
        assert self.pursuit is not None
        return not goals.isdisjoint(self.pursuit.guide.ends(form, self.pursuit.at, self.depth, self.beside))

    def route(self, forms: list[Form] | tuple[Form, ...], goals: Ends | None, parallel: bool = False) -> Iterable[Ends | None]:
        if self.pursuit is None or goals is None:
            return itertools.repeat(None, len(forms))
        return self.pursuit.guide.route(forms, self.pursuit.at, goals, self.depth, parallel)

    def sublayer(self, form: Component) -> Sublayer:
        wanted = None if self.pursuit is None else self.pursuit.next()
        operation = self.part(form, None if wanted is None else wanted.operation)
        own = {name: self.option(inner, _allowed(wanted, name)) for name, inner in form.own.items()}
        norm = own.get("norm", self.usual.norm)
        place = "pre" if norm.absent else own.get("place", self.usual.place)
        kind = Tied if own.get("tied") else Sublayer
        found = kind(operation, norm, place, own.get("join", self.usual.join), parallel=self.beside)
        if self.pursuit is not None:
            self.pursuit.add(found)
        return found

    def parallel(self, form: Parallel, goals: Ends | None) -> list[Sublayer]:
        found: list[Sublayer] = []
        for inner, inner_goals in zip(form.forms, self.route(form.forms, goals, parallel=True), strict=True):
            self.beside = bool(found)
            made = self.sublayers(inner, inner_goals)
            if found and made and made[0].join.absent:
                raise Refused(Problem(REPLACES, inner.mark))
            found += made
        self.beside = False
        return found

    def repeat(self, form: Repeat, goals: Ends | None) -> list[Sublayer]:
        allowed = None
        if self.pursuit is not None and goals is not None:
            allowed = self.pursuit.guide.times(form, self.pursuit.at, goals, self.depth)
        times = self.option(form.times, allowed)
        if form.address is None:
            return self.copies(form.body, times, form.tied, form.mark, goals)
        outer, shared, bodies = self.prefix, self.shared, []
        _limit(times, form.mark)
        route = self.route([form.body] * times, goals)
        self.shared = shared | {rule: shared.get(rule, outer) for rule in form.share}
        for place, inner in enumerate(route):
            with self.scope(f"{outer}{form.address}.{place}."):
                bodies.append(self.sublayers(form.body, inner))
        self.shared = shared
        length = sum(map(len, bodies))
        _limit(length, form.mark)
        self.work.steps += length // 4
        return _concatenate(bodies)

    def copies(self, form: Form, times: int, tied: bool, mark: Mark, goals: Ends | None) -> list[Sublayer]:
        pursuit = self.pursuit
        if pursuit is None or goals is None:
            return _repeat(self.sublayers(form, None), times, mark, tied)
        start = pursuit.at
        pursuit.starts.append(start)
        body = self.sublayers(form, pursuit.guide.bodies(form, times, tied, start, goals, self.depth))
        pursuit.starts.pop()
        found = _repeat(body, times, mark, tied)
        pursuit.copy(found, start)
        return found

    def recurse(self, form: Recurse, goals: Ends | None) -> list[Sublayer]:
        self.depth[form.rule] += 1
        with self.scope(f"{self.prefix}{form.address}."):
            found = self.sublayers(self.form.recursive[form.rule], goals)
        self.depth[form.rule] -= 1
        return found

    @contextlib.contextmanager
    def scope(self, prefix: str) -> Iterator[None]:
        """Decide anew what is inside."""
        outer, self.prefix = self.prefix, prefix
        yield
        self.prefix = outer
        if self.pursuit is not None:
            self.pursuit.decided.pop(prefix, None)


def _fitting(form: Choice, fit: Callable[[Form], bool], decision: Decision) -> tuple[Any, ...]:
    return tuple(v for v, inner in zip(form.labels, form.forms, strict=True) if decision.allows(v) and fit(inner))


def _allowed(wanted: Sublayer | None, name: str) -> frozenset[Any] | None:
    """The values of an own option that can make a sublayer; None where it may have any."""
    if wanted is None or (name == "place" and wanted.norm.absent):
        return None
    if name == "tied":
        return None if wanted.same_as is None else frozenset((True,))
    return frozenset((getattr(wanted, name),))


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
