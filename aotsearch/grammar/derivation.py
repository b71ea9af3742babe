"""One walk over a grammar: from decisions to an architecture.

`Derivation` asks a chooser for each decision it meets, once, in reading order, and builds the architecture. Replay, sampling,
enumeration and search differ only in the chooser.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.errors import Mark, Problem
from aotsearch.grammar import constraint
from aotsearch.grammar.architecture import MAX_SUBLAYERS, Architecture, Part, Sizes, Sublayer, canonical
from aotsearch.grammar.constraint import Constraint
from aotsearch.grammar.decision import Decision
from aotsearch.grammar.forms import Choice, Component, Fixed, Form, ModelForm, Parallel, Range, Recurse, Repeat, Sequence
from aotsearch.grammar.laws import Around, Context, broken, skippable, unfit

Step = tuple[Sublayer, Any]  # with the name of its weights, which others may share: a number, or what all `tied` ones have in common
MEASURABLE = 500  # sublayers of a model whose parameters a constraint asks for
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
        self.names = itertools.count()  # of weights
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
        whole = dataclasses.replace(made, sublayers=_placed(self.steps(form.body)), decisions=self.made)
        try:
            return skippable(whole)
        except ValueError as e:
            raise Refused(Problem(str(e), self.resolve(o["drop_path"]).mark)) from None

    def decide(self, form: Choice | Range) -> Any:
        decision = Decision.of(form, self.shared.get(form.rule, self.prefix), self.depth[form.rule])
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

    def steps(self, form: Form) -> list[Step]:
        """The sublayers of a form, with the names of their weights."""
        self.work.steps += 1
        if self.work.steps > self.last:
            _limit(self.work.steps, form.mark)
        form = self.resolve(form)
        if isinstance(form, Sequence):
            return self.joined([self.steps(inner) for inner in form.forms], form.mark)
        if isinstance(form, Repeat):
            return self.repeat(form)
        if isinstance(form, Recurse):
            self.depth[form.rule] += 1
            found = self.inside(f"{self.prefix}{form.address}.", self.form.recursive[form.rule])
            self.depth[form.rule] -= 1
            return found
        if isinstance(form, Parallel):
            return self.parallel(form)
        assert isinstance(form, Component), form
        operation = self.part(form)
        own = {name: self.option(inner) for name, inner in form.own.items()}
        sublayer = self.context.sublayer(operation, own, self.beside)
        return [(sublayer, dataclasses.replace(sublayer, parallel=False) if own.get("tied") else next(self.names))]

    def joined(self, bodies: list[list[Step]], mark: Mark) -> list[Step]:
        length = sum(map(len, bodies))
        _limit(length, mark)
        self.work.steps += length // 4
        return list(itertools.chain.from_iterable(bodies))

    def inside(self, prefix: str, form: Form) -> list[Step]:
        """The sublayers of a form that is decided anew, under a prefix."""
        outer, self.prefix = self.prefix, prefix
        found = self.steps(form)
        self.prefix = outer
        return found

    def parallel(self, form: Parallel) -> list[Step]:
        found: list[Step] = []
        for inner in form.forms:
            self.beside = bool(found)
            made = self.steps(inner)
            if found and made and made[0][0].join.absent:
                raise Refused(Problem(REPLACES, inner.mark))
            found += made
        self.beside = False
        return found

    def repeat(self, form: Repeat) -> list[Step]:
        times = self.option(form.times)
        if form.address is None:
            return self.copies(self.steps(form.body), times, form)
        _limit(times, form.mark)
        shared = self.shared
        self.shared = shared | {rule: shared.get(rule, self.prefix) for rule in form.share}
        bodies = [self.inside(f"{self.prefix}{form.address}.{place}.", form.body) for place in range(times)]
        self.shared = shared
        return self.joined(bodies, form.mark)

    def copies(self, body: list[Step], times: int, form: Repeat) -> list[Step]:
        """A body so many times over; a copy that is not tied has weights of its own, shared among its sublayers as in the body."""
        _limit(times * max(1, len(body)), form.mark)
        found = list(body)
        for _ in range(times - 1):
            own: dict[Any, Any] = {name: name if form.tied or isinstance(name, Sublayer) else next(self.names) for _, name in body}
            found += [(sublayer, own[name]) for sublayer, name in body]
        return found


def _limit(number: int, mark: Mark) -> None:
    if number > MAX_SUBLAYERS:
        raise Refused(Problem(f"a model has at most {MAX_SUBLAYERS} sublayers, not {number}", mark))


def _placed(steps: list[Step]) -> tuple[Sublayer, ...]:
    """Sublayers in their places, each with the index of the first that has its weights."""
    first: dict[Any, int] = {}
    roots = ((i, sublayer, first.setdefault(name, i)) for i, (sublayer, name) in enumerate(steps))
    return tuple(sublayer if root == i else dataclasses.replace(sublayer, same_as=root) for i, sublayer, root in roots)
