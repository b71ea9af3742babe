"""How many derivations a grammar has, without walking them, and one of them at random, each as likely as any other.

A derivation is a complete set of decisions, those that are met. `Derivations` counts them bottom up: the ways of a form are summed
over alternatives and multiplied over what is independent. Decisions that must agree in several places are carried along: the ways of
a form are kept apart by what they decide for others, and only until no form that follows needs it.
"""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from aotsearch.grammar import forms as grammar
from aotsearch.grammar import library
from aotsearch.grammar.architecture import MAX_SUBLAYERS, Part, Sizes, canonical, defaults, frame
from aotsearch.grammar.counting import TooLarge, addresses, entangled, placed, uses
from aotsearch.grammar.forms import Choice, Component, Fixed, Form, ModelForm, Parallel, Range, Recurse, Repeat
from aotsearch.grammar.laws import Around, Law, broken, laws, unfit
from aotsearch.grammar.library import Option

WORK = 400_000  # steps of counting, so that every count ends (within a second)
LAWFUL = ("embedding", "positions", "pooling", "final_norm", "head", "initialisation")  # options of the model whose values laws speak of


@dataclass(frozen=True, eq=False)
class Ways:
    """Some derivations: how many, and the most sublayers of one."""

    count: int
    length: int = 0


@dataclass(frozen=True, eq=False)
class Decided(Ways):
    """A decision, at an address of the scope so many scopes `up`."""

    address: str = ""
    value: Any = None
    up: int = 0


@dataclass(frozen=True, eq=False)
class Either(Ways):
    """One of some."""

    of: tuple[Ways, ...] = ()


@dataclass(frozen=True, eq=False)
class Both(Ways):
    """One of each."""

    left: Ways = Ways(1)
    right: Ways = Ways(1)


@dataclass(frozen=True, eq=False)
class Inside(Ways):
    """What is decided in a scope of its own; its addresses begin with the prefix."""

    prefix: str = ""
    of: Ways = Ways(1)


DONE = Ways(1)
STEP = Ways(1, 1)  # a sublayer without decisions

Key = tuple[int, str]  # the number of a scope, and an address in it
Env = Mapping[Key, int]  # what is decided so far for several places: the number of the alternative, or the number itself
Delta = frozenset[tuple[Key, int]]  # what is decided on the way
Apart = dict[Delta, Ways]
Values = list[tuple[Delta, Any, Ways]]
NOTHING: Delta = frozenset()
K = TypeVar("K")


@dataclass(frozen=True, eq=False)
class Scope:
    """Where a decision is valid: the model, or one place of an `each`, or one level of a recursion."""

    number: int  # how many scopes enclose it
    uses: Counter[str]  # how often each address is used in it
    outer: Scope | None = None
    lent: frozenset[str] = frozenset()  # rules decided in the scope outside


class Derivations:
    """The derivations of a grammar.

    Attributes:
        number: How many there are, exactly, but for constraints.
    """

    def __init__(self, form: ModelForm, sizes: Sizes):
        if entangled(form) or _replaces(form):
            raise TooLarge  # all that an `each` or a recursion decides would have to agree; which sublayer is the first would be told apart
        self.form = form
        o = form.options
        self.body = o["blocks"] if "blocks" in o else Repeat(form.mark, o["depth"], o["block"], False)
        self.sizes = sizes
        self.work = 0
        self.depth: Counter[str] = Counter()
        self.known: dict[Any, Apart] = {}
        self.powers: dict[Any, list[Apart]] = {}  # of each number of places
        self.used: dict[int, Counter[str]] = {}
        self.met: dict[int, set[str] | None] = {}
        shares = [f.share for f in grammar.walk(form) if isinstance(f, Repeat)]
        self.lent = {rule for share in shares for rule in share}  # decided in one scope, used in others
        self.whole = _either([ways for _, ways in self._model(Scope(0, self._uses(form)))])
        if self.whole.length > MAX_SUBLAYERS:
            raise TooLarge
        self.number = self.whole.count

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """The decisions of one derivation at random, uniform over all."""
        assert self.number
        decisions: dict[str, Any] = {}
        left: list[tuple[Ways, tuple[str, ...]]] = [(self.whole, ("",))]
        while left:
            ways, prefixes = left.pop()
            if isinstance(ways, Decided):
                decisions[prefixes[len(prefixes) - 1 - ways.up] + ways.address] = ways.value
            elif isinstance(ways, Either):
                at = rng.randrange(ways.count)
                for inner in ways.of:
                    if at < inner.count:
                        left.append((inner, prefixes))
                        break
                    at -= inner.count
            elif isinstance(ways, Both):
                left += [(ways.left, prefixes), (ways.right, prefixes)]
            elif isinstance(ways, Inside):
                left.append((ways.of, (*prefixes, prefixes[-1] + ways.prefix)))
        return decisions

    def _spend(self, steps: int) -> None:
        self.work += steps
        if self.work > WORK:
            raise TooLarge

    # --- the model ---

    def _model(self, scope: Scope) -> Iterator[tuple[Delta, Ways]]:
        options = self.form.options
        lawful = {n: f for n, f in options.items() if n in LAWFUL}
        others = [f for n, f in options.items() if n not in (*LAWFUL, "width", "depth", "block", "blocks")]
        told = placed(self.form)
        found: dict[Around, list[tuple[Delta, Ways]]] = {}
        for delta, width, first in self._values(options["width"], scope, {}, Around(0)):
            for more, values, ways in self._product(lawful, scope, dict(delta), Around(width)):
                made = frame({"width": width, **values}, self.sizes)
                if unfit(made) is None:
                    around = Around.of(made) if told else Around.anywhere(width)
                    found.setdefault(around, []).append((delta | more, _both(first, ways)))
        for around, pairs in found.items():
            alone, before = Around(around.width), _gathered(pairs)
            for other in others:
                before = self._then(before, {}, lambda env, other=other, alone=alone: self._merged(other, scope, env, alone))  # type: ignore[misc]
            yield from self._then(before, {}, lambda env, around=around: self._ways(self.body, scope, env, around)).items()  # type: ignore[misc]

    # --- sublayers ---

    def _ways(self, form: Form, scope: Scope, env: Env, around: Around) -> Apart:
        """The ways of a form, apart by what they decide for the forms that follow."""
        key = self._key(form, scope, env, around)
        if key not in self.known:
            self._spend(5)
            self.known[key] = self._finished(form, self._make(form, scope, env, around), scope)
        return self.known[key]

    def _make(self, form: Form, scope: Scope, env: Env, around: Around) -> Apart:
        if isinstance(form, Choice):
            return _gathered(
                (delta | more, _both(ways, inner))
                for delta, index, ways in self._decided(form, scope, env)
                for more, inner in self._ways(form.forms[index], scope, {**env, **dict(delta)}, around).items()
            )
        if isinstance(form, Repeat):
            return self._repeat(form, scope, env, around)
        if isinstance(form, Recurse):
            self.depth[form.rule] += 1
            found = self._inside(self.form.recursive[form.rule], f"{form.address}.", scope, (), env, around)
            self.depth[form.rule] -= 1
            return found
        if isinstance(form, Component):
            found = {NOTHING: STEP}
            for inner in (dataclasses.replace(form, own={}), *form.own.values()):
                found = self._then(found, env, lambda known, inner=inner: self._merged(inner, scope, known, around))  # type: ignore[misc]
            return found
        found = {NOTHING: DONE}
        for inner in grammar.children(form):  # of a sequence, or side by side
            found = self._then(found, env, lambda known, inner=inner: self._ways(inner, scope, known, around))  # type: ignore[misc]
        return found

    def _repeat(self, form: Repeat, scope: Scope, env: Env, around: Around) -> Apart:
        found = []
        for delta, times, ways in self._values(form.times, scope, env, around):
            if times > MAX_SUBLAYERS:
                raise TooLarge
            known = {**env, **dict(delta)}
            if form.address is None:
                body = self._ways(form.body, scope, known, around)
                made = {d: dataclasses.replace(w, length=w.length * times) for d, w in body.items()}
            else:
                made = self._places(form, times, scope, known, around)
            found += [(delta | d, _both(ways, w)) for d, w in made.items()]
        return _gathered(found)

    def _places(self, form: Repeat, times: int, scope: Scope, env: Env, around: Around) -> Apart:
        """Places that are decided anew, so many of them."""
        powers = self.powers.setdefault(self._key(form.body, scope, env, around), [{NOTHING: DONE}])
        while len(powers) <= times:
            prefix = f"{form.address}.{len(powers) - 1}."
            powers.append(
                self._then(powers[-1], env, lambda known, at=prefix: self._inside(form.body, at, scope, form.share, known, around))  # type: ignore[misc]
            )
        return powers[times]

    def _inside(self, form: Form, prefix: str, scope: Scope, share: tuple[str, ...], env: Env, around: Around) -> Apart:
        """The ways of a form that is the whole of a scope of its own."""
        inner = Scope(scope.number + 1, self._uses(form), scope, scope.lent | frozenset(share))
        found = self._ways(form, inner, env, around)
        left = _gathered((frozenset(d for d in delta if d[0][0] != inner.number), ways) for delta, ways in found.items())
        return {delta: Inside(ways.count, ways.length, prefix, ways) for delta, ways in left.items()}

    def _then(self, ways: Apart, env: Env, following: Callable[[Env], Apart]) -> Apart:
        """Each way, and what may follow it."""
        found = []
        for delta, first in ways.items():
            after = following({**env, **dict(delta)})
            self._spend(1 + len(after))
            found += [(delta | more, _both(first, second)) for more, second in after.items()]
        return _gathered(found)

    def _finished(self, form: Form, ways: Apart, scope: Scope) -> Apart:
        """Without the decisions that no form beside this one needs."""
        here = self._uses(form)

        def needed(key: Key) -> bool:
            number, address = key
            return number != scope.number or _rule(address) in self.lent or here[address] < scope.uses[address]

        return _gathered((frozenset(d for d in delta if needed(d[0])), w) for delta, w in ways.items())

    def _key(self, form: Form, scope: Scope, env: Env, around: Around) -> Any:
        """What the ways of a form depend on: a recursion may meet all that is decided, another form its own addresses."""
        if id(form) not in self.met:
            recurses = any(isinstance(f, Recurse) for f in grammar.walk(form))
            self.met[id(form)] = None if recurses else addresses(form)
        met = self.met[id(form)]
        seen = frozenset(item for item in env.items() if met is None or item[0][1] in met)
        return id(form), scope.number, id(scope.uses), scope.lent, seen, around, tuple(sorted((+self.depth).items()))

    def _uses(self, form: Form) -> Counter[str]:
        if id(form) not in self.used:
            self.used[id(form)] = uses(form)
        return self.used[id(form)]

    # --- values ---

    def _merged(self, form: Form, scope: Scope, env: Env, around: Around) -> Apart:
        return _gathered((delta, ways) for delta, _, ways in self._values(form, scope, env, around))

    def _values(self, form: Form, scope: Scope, env: Env, around: Around, whole: bool = False) -> Values:
        """The values of an option, each with its ways; of parts only the words, unless they are asked for as a whole."""
        if isinstance(form, Choice):
            return [
                (delta | more, value, _both(ways, inner))
                for delta, index, ways in self._decided(form, scope, env)
                for more, value, inner in self._values(form.forms[index], scope, {**env, **dict(delta)}, around, whole)
            ]
        if isinstance(form, Range):
            return [(delta, form.option.parse(number), ways) for delta, number, ways in self._decided(form, scope, env)]
        if isinstance(form, Component):
            if not whole:
                return [(delta, Part(form.word), ways) for delta, ways in self._lawful(form, scope, env, around).items()]
            made = [(d, canonical(form.slot, form.word, o), w) for d, o, w in self._product(form.options, scope, env, around)]
            return [(d, p, w) for d, p, w in made if broken(form.slot, p, around, self.sizes) is None]
        assert isinstance(form, Fixed), form
        return [(NOTHING, form.value, DONE)]

    def _product(self, forms: Mapping[str, Form], scope: Scope, env: Env, around: Around) -> list[tuple[Delta, dict[str, Any], Ways]]:
        """The values of some options together, parts as a whole."""
        found: list[tuple[Delta, dict[str, Any], Ways]] = [(NOTHING, {}, DONE)]
        for name, form in forms.items():
            found = [
                (delta | more, {**options, name: value}, _both(ways, inner))
                for delta, options, ways in found
                for more, value, inner in self._values(form, scope, {**env, **dict(delta)}, around, whole=True)
            ]
            self._spend(10 * len(found))
        return found

    def _lawful(self, form: Component, scope: Scope, env: Env, around: Around) -> Apart:
        """The ways of a component that keep the laws of its word. A law is asked as soon as its options are decided, and the value of
        an option is kept only as long as a law needs it."""
        if form.word == library.NONE:
            return {NOTHING: DONE}
        declared, usual = library.find(form.slot, form.word).options, defaults(form.slot, form.word)
        left = [law for law in laws(form.slot, form.word, around, self.sizes) if _possible(law, form)]
        whole = {law.inner[0] for law in left}  # parts that have such a law, where others need their words alone
        if not all(law.holds({}) for law in left if not law.options):
            return {}
        states: dict[tuple[Delta, tuple[tuple[str, Any], ...]], Ways] = {(NOTHING, ()): DONE}
        decided: set[str] = set()
        for name in (*(n for n in usual if n not in form.options), *form.options):
            made: list[tuple[Delta, dict[str, Any], Ways]] = []
            for (delta, kept), ways in states.items():
                if name in form.options:
                    values = self._values(form.options[name], scope, {**env, **dict(delta)}, around, name in whole)
                else:
                    values = self._usual(declared[name], usual[name], around)
                fits = (v for v in values if not (declared[name].divides_width and around.width % v[1]))
                made += [(delta | more, {**dict(kept), name: value}, _both(ways, inner)) for more, value, inner in fits]
            self._spend(1 + len(made))
            decided.add(name)
            ready = [law for law in left if name in law.options and decided.issuperset(law.options)]
            left = [law for law in left if not decided.issuperset(law.options)]
            needed = {option for law in left for option in law.options}
            lawful = ((d, o, w) for d, o, w in made if all(law.holds(o) for law in ready))
            states = _gathered(((d, tuple((n, v) for n, v in o.items() if n in needed)), w) for d, o, w in lawful)
        return _gathered((delta, ways) for (delta, _), ways in states.items())

    def _usual(self, option: Option, value: Any, around: Around) -> Values:
        """The default of an option, where it is lawful."""
        lawful = not isinstance(value, Part) or broken(option.slot, value, around, self.sizes) is None
        return [(NOTHING, value, DONE)] if lawful else []

    def _decided(self, form: Choice | Range, scope: Scope, env: Env) -> list[tuple[Delta, int, Ways]]:
        """What a decision may be: the number of the alternative, or the number itself."""
        rule, up, owner = _rule(form.address), 0, scope
        while rule in owner.lent:
            assert owner.outer is not None
            owner, up = owner.outer, up + 1
        key = (owner.number, form.address)
        if key in env:
            return [(NOTHING, env[key], DONE)]
        if isinstance(form, Choice):
            deep = form.limit > 0 and self.depth[rule] >= form.limit
            labels = {i: label for i, label in enumerate(form.labels) if not (deep and form.recursive[i])}
        else:
            if not form.integer or form.high - form.low > WORK:
                raise TooLarge
            labels = {i: i for i in range(int(form.low), int(form.high) + 1)}
        self._spend(len(labels))
        apart = rule in self.lent or owner.uses[form.address] > 1
        return [(frozenset({(key, i)}) if apart else NOTHING, i, Decided(1, 0, form.address, label, up)) for i, label in labels.items()]


def _possible(law: Law, form: Component) -> bool:
    """Whether a component may have the part that a law is of."""
    option, inner = law.inner
    if option in form.options:
        return any(isinstance(f, Component) and f.word == inner for f in grammar.walk(form.options[option]))
    usual = defaults(form.slot, form.word).get(option)
    return not option or (isinstance(usual, Part) and usual.word == inner)


def _replaces(form: ModelForm) -> bool:
    """Whether sublayers in parallel may be without a join, which only the first may."""
    forms = list(grammar.walk(form))
    absent = any(isinstance(f, Component) and f.slot == "join" and f.word == library.NONE for f in forms)
    return absent and any(isinstance(f, Parallel) for f in forms)


def _rule(address: str) -> str:
    return address.partition(".")[0]


def _gathered(pairs: Iterable[tuple[K, Ways]]) -> dict[K, Ways]:
    """The ways that decide the same for others, as one."""
    found: dict[K, list[Ways]] = {}
    for key, ways in pairs:
        found.setdefault(key, []).append(ways)
    return {key: _either(ways) for key, ways in found.items()}


def _either(ways: Collection[Ways]) -> Ways:
    if len(ways) == 1:
        return next(iter(ways))
    return Either(sum(w.count for w in ways), max((w.length for w in ways), default=0), tuple(ways))


def _both(left: Ways, right: Ways) -> Ways:
    if left is DONE or right is DONE:
        return right if left is DONE else left
    return Both(left.count * right.count, left.length + right.length, left, right)
