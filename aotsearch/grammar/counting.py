"""How many architectures a grammar derives, without walking them: exact arithmetic by dynamic programming.

A model is a word over the letters `sublayer`, so the architectures of a grammar are a finite language, in which two derivations of one
model are one word. `Census` builds it form by form as an automaton and counts. What must agree in several places (a rule used twice, the
model's width and default norm) is decided first; what is independent is multiplied.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.grammar import forms, library
from aotsearch.grammar.architecture import NONE, Architecture, Part, Sizes, Sublayer, canonical, defaults
from aotsearch.grammar.automaton import EMPTY, END, EXPAND, LETTERS, PLACES, Automaton, Language, TooLarge
from aotsearch.grammar.forms import Choice, Component, Fixed, Form, ModelForm, Parallel, Range, Recurse, Repeat, Sequence
from aotsearch.grammar.laws import Around, Context, Law, broken, laws, unfit

Letter = tuple[Sublayer, bool]  # and whether it is tied
INNER = "..."  # marks the address of a scope
LEAVES = 20_000  # assignments of what must agree


class Needed(Exception):
    """A decision that must agree in several places is met and not made yet."""

    def __init__(self, address: str, values: tuple[Any, ...], scope: int):
        self.address, self.values, self.scope = address, values, scope


@dataclass(frozen=True)
class Scope:
    """Where a decision is valid: the model, or one place of an `each`, or one level of a recursion."""

    number: int  # how many scopes enclose it
    env: Mapping[str, Any]  # what is decided in it
    shared: frozenset[str]  # addresses that must agree in it
    outer: Scope | None = None
    lent: frozenset[str] = frozenset()  # rules decided in the scope outside


class Census:
    """The automaton of a grammar.

    Attributes:
        number: How many architectures there are.
        exact: Whether that is their exact number, or an upper bound.
    """

    def __init__(self, form: ModelForm, sizes: Sizes):
        self.form = form
        self.sizes = sizes
        self.automaton = Automaton()
        self.letters: dict[Letter, int] = {}
        self.languages: dict[Any, Language] = {}
        self.met: dict[int, set[str] | None] = {}  # of a form: the addresses it may meet
        self.agreed: dict[int, frozenset[str]] = {}  # of the form of a scope: the addresses that must agree in it
        self.placed = placed(form)
        self.leaves = 0
        self.depth: Counter[str] = Counter()
        self.exact = True  # but for what is tied, until it is counted
        groups: dict[Architecture, Language] = {}  # a model without sublayers -> its sequences of sublayers
        for model, language in self._models({}):
            groups[model] = self.automaton.union(groups.get(model, {}), language)
        found = [self.automaton.size(language) for language in groups.values()]
        self.number = sum(number for number, _ in found)
        self.exact = self.exact and all(exact for _, exact in found)

    # --- the model: every decision of its own options is made first ---

    def _leaf(self) -> None:
        self.leaves += 1
        if self.leaves > LEAVES:
            raise TooLarge

    def _models(self, env: dict[str, Any]) -> Iterator[tuple[Architecture, Language]]:
        self.automaton.spend(100)
        self._leaf()
        scope = Scope(0, env, frozenset(a for a in addresses(self.form)))  # all are needed here
        try:
            options = self._own(scope)
        except Needed as needed:
            for value in needed.values:
                yield from self._models(env | {needed.address: value})
            return
        if options is None:
            return
        made = Architecture.frame(options, self.sizes)
        if unfit(made) is None:
            context = Context.of(made, options)
            if not self.placed:
                context = dataclasses.replace(context, around=Around.anywhere(made.width))
            yield made, self._scoped(self.form.body, context, Scope(0, env, self._agreed(self.form.body) | env.keys()))

    def _own(self, scope: Scope) -> dict[str, Any] | None:
        """The options of the model; None where one breaks a law, such as a head count that does not divide the width."""
        o = self.form.options
        width = next(self._values(o["width"], scope, Around(0)))
        options: dict[str, Any] = {"width": width}
        for name, inner in o.items():
            if name not in ("width", "depth", "block", "blocks"):
                options[name] = next(self._values(inner, scope, Around(width)), None)
        return None if None in options.values() else options

    # --- languages ---

    def _scoped(self, form: Form, context: Context, scope: Scope) -> Language:
        """The language of a form that is the whole of its scope: the union over what must agree in it."""
        try:
            return self._language(form, context, scope)
        except Needed as needed:
            if needed.scope != scope.number:
                raise
            self._leaf()
            found: Language = {}
            for value in needed.values:
                inner = dataclasses.replace(scope, env={**scope.env, needed.address: value})
                found = self.automaton.union(found, self._scoped(form, context, inner))
            return found

    def _language(self, form: Form, context: Context, scope: Scope) -> Language:
        self.automaton.spend(5)
        key = (id(form), context, scope.number, self._visible(form, scope), tuple(sorted((+self.depth).items())))
        if key not in self.languages:
            self.languages[key] = self._make(form, context, scope)
        return self.languages[key]

    def _make(self, form: Form, context: Context, scope: Scope) -> Language:
        if isinstance(form, Choice):
            found: Language = {}
            for inner in self._alternatives(form, scope):
                found = self.automaton.union(found, self._language(inner, context, scope))
            return found
        if isinstance(form, Sequence):
            return self.automaton.concatenate([self._language(inner, context, scope) for inner in form.forms])
        if isinstance(form, Parallel):
            return self._parallel([self._language(inner, context, scope) for inner in form.forms])
        if isinstance(form, Repeat):
            return self._repeat(form, context, scope)
        if isinstance(form, Recurse):
            self.depth[form.rule] += 1
            inner = self.form.recursive[form.rule]
            found = self._scoped(inner, context, self._inner(inner, scope, ()))
            self.depth[form.rule] -= 1
            return found
        assert isinstance(form, Component), form
        letters = {self._number(letter): END for letter in self._sublayers(form, context, scope)}
        return {(None,): self.automaton.node(letters)} if letters else {}

    def _parallel(self, parts: list[Language]) -> Language:
        """Each part is a sublayer or none; all but the first that is there read what it read."""
        found: Language = EMPTY if all(() in inner for inner in parts) else {}
        for i, first in enumerate(parts):
            if (None,) in first:
                beside = [self._beside(other) for other in parts[i + 1 :]]
                found = self.automaton.union(found, self.automaton.concatenate([{(None,): first[(None,)]}, *beside]))
            if () not in first:
                break
        return found

    def _beside(self, part: Language) -> Language:
        """A part that reads what the one before it read: none, or a sublayer with a join."""
        known, beside = list(self.letters), {}
        for number, child in self.automaton.nodes[part.get((None,), END)].items():
            sublayer, tied = known[number]
            if not sublayer.join.absent:
                beside[self._number((dataclasses.replace(sublayer, parallel=True), tied))] = child
        return {shape: END for shape in part if shape == ()} | ({(None,): self.automaton.node(beside)} if beside else {})

    def _visible(self, form: Form, scope: Scope) -> tuple[Any, ...]:
        """What is decided, here and outside, of the addresses that a form may meet; a recursion may meet all of its rule's."""
        if id(form) not in self.met:
            recurses = any(isinstance(f, Recurse) for f in forms.walk(form))
            self.met[id(form)] = None if recurses else addresses(form)
        wanted = self.met[id(form)]
        seen = sorted((scope.number, a, repr(v)) for a, v in scope.env.items() if wanted is None or a in wanted)
        at = scope.outer if scope.lent else None  # of the scopes outside only lent rules can be met
        while at is not None:
            seen += sorted((at.number, a, repr(v)) for a, v in at.env.items() if a.partition(".")[0] in scope.lent)
            at = at.outer
        return (tuple(seen), scope.lent)

    def _agreed(self, form: Form) -> frozenset[str]:
        """The addresses that must agree within a scope whose whole is this form."""
        if id(form) not in self.agreed:
            found = {address for address, times in uses(form).items() if times > 1}
            if any(address.endswith(INNER) for address in found):
                raise TooLarge  # all that an `each` or a recursion decides would have to agree
            self.agreed[id(form)] = frozenset(found)
        return self.agreed[id(form)]

    def _inner(self, form: Form, scope: Scope, share: tuple[str, ...]) -> Scope:
        return Scope(scope.number + 1, {}, self._agreed(form), scope, scope.lent | frozenset(share))

    def _repeat(self, form: Repeat, context: Context, scope: Scope) -> Language:
        found: Language = {}
        powers: list[Language] = [EMPTY]  # of independent draws
        for times in sorted(self._values(form.times, scope, context.around)):
            if form.address is None:
                made = self.automaton.copies(self._language(form.body, context, scope), times, form.tied)
            else:
                if times > PLACES:
                    raise TooLarge
                body = self._scoped(form.body, context, self._inner(form.body, scope, form.share))
                while len(powers) <= times:
                    powers.append(self.automaton.concatenate([body, powers[-1]]))
                made = powers[times]
            found = self.automaton.union(found, made)
        return found

    # --- values ---

    def _number(self, letter: Letter) -> int:
        return self.letters.setdefault(letter, len(self.letters))

    def _sublayers(self, form: Component, context: Context, scope: Scope) -> Iterator[Letter]:
        operations = self._parts(form, scope, context.around)
        own = [list(self._values(inner, scope, context.around)) for inner in form.own.values()]
        for operation, *chosen in itertools.product(operations, *own):
            given = dict(zip(form.own, chosen, strict=True))
            tied = bool(given.get("tied"))
            self.exact = self.exact and not tied  # its weights depend on the other sublayers; here it is a letter of its own
            yield context.sublayer(operation, given), tied

    def _parts(self, form: Component, scope: Scope, around: Around) -> list[Part]:
        found = self._lawful(form, scope, around) if form.options else [{}]
        self.automaton.spend(20 * len(found) if form.options else 2)
        made = (canonical(form.slot, form.word, options) for options in found)
        return [p for p in made if broken(form.slot, p, around, self.sizes) is None]

    def _lawful(self, form: Component, scope: Scope, around: Around) -> list[dict[str, Any]]:
        """The values of the options together; a law drops what breaks it as soon as its options are decided."""
        usual = dict(defaults(form.slot, form.word))
        found: list[dict[str, Any]] = [usual]
        left = set(form.options)
        values = {name: list(self._values(inner, scope, around)) for name, inner in form.options.items()}
        doubtful = [law for law in laws(form.slot, form.word, around, self.sizes) if not self._certain(law, usual, values)]
        for name in form.options:
            if len(found) * len(values[name]) > LETTERS:
                raise TooLarge
            left.discard(name)
            ready = [law for law in doubtful if name in law.options and left.isdisjoint(law.options)]
            self.automaton.spend(len(found) * len(values[name]) * (3 + 2 * len(ready)))
            made = ({**options, name: value} for options in found for value in values[name])
            found = [options for options in made if all(law.holds(options) for law in ready)]
        return found

    def _certain(self, law: Law, usual: dict[str, Any], values: dict[str, list[Any]]) -> bool:
        """Whether a law holds for any values of its options; of many together it is not asked."""
        met = [values.get(name, [usual[name]]) for name in law.options if name in values or name in usual]
        together = math.prod(map(len, met))
        if len(met) < len(law.options) or together > EXPAND:
            return False
        self.automaton.spend(together // 10)
        return all(law.holds(dict(zip(law.options, chosen, strict=True))) for chosen in itertools.product(*met))

    def _values(self, form: Form, scope: Scope, around: Around) -> Iterator[Any]:
        """The values of an option, scalars or parts."""
        if isinstance(form, Choice):
            for inner in self._alternatives(form, scope):
                yield from self._values(inner, scope, around)
        elif isinstance(form, Range):
            if form.integer and form.high - form.low > LETTERS:
                raise TooLarge
            decided = self._decided(form.address, tuple(range(int(form.low), int(form.high) + 1)) if form.integer else (), scope)
            yield from (form.option.parse(v) for v in decided)
        elif isinstance(form, Component):
            yield from self._parts(form, scope, around)
        else:
            assert isinstance(form, Fixed), form
            yield form.value

    def _alternatives(self, form: Choice, scope: Scope) -> list[Form]:
        chosen = self._decided(form.address, tuple(form.open(self.depth[form.rule])), scope)
        return [form.forms[i] for i in chosen]

    def _decided(self, address: str, values: tuple[Any, ...], scope: Scope) -> tuple[Any, ...]:
        """The values an address may take here: one where it is decided, all where it is free; else it is needed first."""
        if not values:
            raise TooLarge  # a continuous range
        if address.partition(".")[0] in scope.lent:
            assert scope.outer is not None
            outer = dataclasses.replace(scope.outer, shared=scope.outer.shared | {address})
            return self._decided(address, values, outer)
        if address in scope.env:
            return (scope.env[address],)
        if address in scope.shared:
            raise Needed(address, values, scope.number)
        return values


def placed(form: ModelForm) -> bool:
    """Whether a law of what the sublayers are made of may ask for more of the model than its width; if none does, models that are alike in
    it need not be told apart."""
    left = [(f.slot, f.word) for f in forms.walk(form) if isinstance(f, Component) and f.word != NONE.word]
    for slot, word in left:
        if any(law.placed for law in laws(slot, word, Around.anywhere(1), ())):
            return True
        options = library.find(slot, word).options
        left += [(options[name].slot, v.word) for name, v in defaults(slot, word).items() if isinstance(v, Part)]
    return False


def uses(form: Form) -> Counter[str]:
    """How often each address is used in one derivation of a form, within its scope."""
    if isinstance(form, Choice):
        found: Counter[str] = Counter()
        for inner in form.forms:
            found |= uses(inner)  # only one of them is derived
        return found + Counter([form.address])
    if isinstance(form, Range):
        return Counter([form.address])
    if isinstance(form, Repeat) and form.address is not None:
        lent = {a: 2 for a in addresses(form.body) if a.partition(".")[0] in form.share}  # met at every place
        return uses(form.times) + Counter(lent) + Counter([form.address + INNER])
    if isinstance(form, Recurse):
        return Counter([form.address + INNER])
    total: Counter[str] = Counter()
    for inner in forms.children(form):
        total += uses(inner)
    return total


def addresses(form: Form) -> set[str]:
    return {f.address for f in forms.walk(form) if isinstance(f, Choice | Range)}
