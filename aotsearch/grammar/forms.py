"""YAML rules -> forms: what each value of a grammar may become, checked against the library, with every problem at its place.

A form is parsed for the place it stands in: an option of a word (a scalar with a type), a slot (a part of speech), or `block`
(sublayers). A bare string is the rule of that name if there is one, else a word or value of that place. A decision is known by
its address; a rule's address is its name wherever it is used, which is how a rule is decided once and all places agree.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from aotsearch import yamlfile
from aotsearch.errors import InputError, Mark, Problem, suggest
from aotsearch.grammar import constraint, library
from aotsearch.grammar.constraint import Constraint
from aotsearch.grammar.library import Option
from aotsearch.yamlfile import Node

Place = Option | str  # what may stand somewhere: an option's value, a slot, "block" or "model"

_PLACES = Literal["pre", "post", "sandwich"]
_HEADS = Literal["tied", "free", "none"]
_STARTS = Literal["gpt2", "torch", "zero-output", "shaped", "identity", "normal", "torch-ends", "simplified"]


def _option(name: str, kind: str, default: Any, description: str, literal: Any = None) -> Option:
    type_, law = library.TYPES[kind] if literal is None else (literal, " or ".join(map(repr, literal.__args__)))
    return Option(name, type_, law, default, default is None, description, False)


# What `model` and every sublayer take besides their own options.
MODEL: dict[str, Place] = {
    "width": _option("width", "Count", None, "size of the residual stream"),
    "depth": _option("depth", "Count", None, "how many times `block` is repeated"),
    "norm": "norm",
    "place": _option("place", "", "pre", "norm before the operation, after the join, or before and after the operation", _PLACES),
    "join": "join",
    "embedding": "embedding",
    "positions": "positions",
    "pooling": "pooling",
    "final_norm": "norm",
    "head": _option(
        "head",
        "",
        "tied",
        "output matrix: the token embedding (tied, where there is one), its own, or none: the stream is the output",
        _HEADS,
    ),
    "initialisation": _option("initialisation", "", "gpt2", "how the initial values are drawn", _STARTS),
    "block": "block",
    "blocks": "block",
}
SUBLAYER: dict[str, Place] = {  # the keys are library.SUBLAYER_OPTIONS
    "norm": "norm",
    "place": MODEL["place"],
    "join": "join",
    "tied": _option("tied", "Flag", False, "whether it shares its weights with all equal sublayers of the model that say so"),
}
TIMES = _option("times", "Count", None, "how many times")
FORMS = ("any", "range", "int", "repeat", "each", "parallel")
RESERVED = ("include", "constraints")  # keys of a grammar that are not rules
MAX_LIMIT = 16  # of a recursion
MAX_ALTERNATIVES = 1000  # of one decision
MAX_FORMS = 20_000  # of a grammar whose rules are written out where they are used
RULE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # decisions are addressed by rule names, in Optuna and MLflow too


@dataclass(frozen=True)
class Form:
    """Base of what a value may become."""

    mark: Mark


@dataclass(frozen=True)
class Fixed(Form):
    """A scalar, decided."""

    value: Any


@dataclass(frozen=True)
class Choice(Form):
    """`any`: one of some forms; the first is the reference.

    A choice with a `limit` is a rule that may be met within itself, so many times deep; `recursive` says which forms lead back.
    """

    address: str
    labels: tuple[Any, ...]
    forms: tuple[Form, ...]
    limit: int = 0
    recursive: tuple[bool, ...] = ()


@dataclass(frozen=True)
class Recurse(Form):
    """A rule met within itself: everything below is decided anew, under an address of its own."""

    rule: str
    address: str


@dataclass(frozen=True)
class Range(Form):
    """`range` or `int`: a number between two bounds; the lower bound is the reference."""

    address: str
    low: float
    high: float
    log: bool
    integer: bool
    option: Option


@dataclass(frozen=True)
class Component(Form):
    """A word with its options; `own` holds a sublayer's norm, place and join where it overrides the model's, and whether it is tied."""

    slot: str
    word: str
    options: Mapping[str, Form]
    own: Mapping[str, Form]


@dataclass(frozen=True)
class Sequence(Form):
    """Sublayers in order; empty for `none`."""

    forms: tuple[Form, ...]


@dataclass(frozen=True)
class Parallel(Form):
    """Sublayers that read the same input; each form derives one sublayer or none."""

    forms: tuple[Form, ...]


@dataclass(frozen=True)
class Repeat(Form):
    """The same sublayers some times over: one set of weights if `tied`, decided anew at each place if `address` is given,
    but for the rules in `share`, which keep the decision made outside."""

    times: Form
    body: Form
    tied: bool
    address: str | None = None
    share: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelForm(Form):
    """The start of the grammar: the options of the model, the rules with a limit by name, and what must hold."""

    options: Mapping[str, Form]
    recursive: Mapping[str, Choice]
    constraints: tuple[Constraint, ...]


def parse(grammar: Node) -> ModelForm:
    """The rules of a grammar as forms.

    Raises:
        InputError: with every problem of the grammar.
    """
    parser = _Parser(grammar)
    try:
        form = parser.start()
    except RecursionError:
        raise InputError("the rules of this grammar are nested too deeply", grammar.mark) from None
    if parser.problems:
        raise InputError(dict.fromkeys(parser.problems))
    assert isinstance(form, ModelForm)
    return form


class _Parser:
    def __init__(self, grammar: Node):
        self.problems: list[Problem] = []
        self.grammar = grammar
        given = grammar.value if isinstance(grammar.value, dict) else {}
        self.rules: dict[str, Node] = {name: node for name, node in given.items() if name not in RESERVED}
        self.used: set[str] = {"model"}
        self.forms = 0
        self.decided: dict[str, Node] = {}  # address -> its decision
        self.open: list[str] = []
        self.recursive: dict[str, Choice] = {}

    def fail(self, message: str, mark: Mark) -> Form:
        self.problems.append(Problem(message, mark))
        return Form(mark)

    def start(self) -> Form:
        if not self.rules:
            return self.fail(f"a grammar is a mapping of rules, not {self.grammar.kind}", self.grammar.mark)
        if "model" not in self.rules:
            return self.fail(f"a grammar starts at a rule named 'model'; here are only {', '.join(self.rules)}", self.grammar.mark)
        for rule in self.rules:
            if not RULE_NAME.fullmatch(rule):
                self.fail(f"the name of a rule is made of letters, digits, '_' and '-', not {rule!r}", self.grammar.keys[rule])
        form = self.model(self.rules["model"])
        if not self.problems:  # an unused rule is most often a misspelt reference; an included file may hold more than is used
            for rule in self.rules.keys() - self.used:
                if self.grammar.keys[rule].file == self.grammar.mark.file:
                    self.fail(f"the rule {rule!r} is never used; the model does not lead to it", self.grammar.keys[rule])
        return form

    def model(self, node: Node) -> Form:
        if not isinstance(node.value, dict):
            return self.fail(f"model is a mapping such as {{width: 128, depth: 4, block: [...]}}, not {node.kind}", node.mark)
        options = self.options(node, MODEL, "model", "model")
        given = set(node.value)
        if "width" not in given:
            self.fail("model needs a width", node.mark)
        if "blocks" in given and given & {"block", "depth"}:
            self.fail("model has either depth with block, or blocks", node.keys["blocks"])
        elif "blocks" not in given and not given >= {"block", "depth"}:
            self.fail("model needs depth with block, or blocks", node.mark)
        return ModelForm(node.mark, options, self.recursive, self.constraints())

    def constraints(self) -> tuple[Constraint, ...]:
        node = self.grammar.value.get("constraints", Node([], self.grammar.mark))
        if not isinstance(node.value, list):
            self.fail(f"constraints is a list of expressions, not {node.kind}", node.mark)
            return ()
        found = []
        for item in node.value:
            try:
                found.append(constraint.parse(item))
            except InputError as e:
                self.problems += e.problems
        return tuple(found)

    def options(self, node: Node, declared: Mapping[str, Place], owner: str, path: str) -> dict[str, Form]:
        """The options given to `owner`, each parsed for its own place."""
        forms = {}
        for key, value in node.value.items():
            if key not in declared:
                self.fail(f"{owner} has no option {key!r}{suggest(key, declared)}", node.keys[key])
            else:
                forms[key] = self.parse(value, declared[key], f"{path}.{key}")
        return forms

    def parse(self, node: Node, place: Place, path: str) -> Form:
        """A node as the form it has at `place`; `path` is the address of an inline decision here."""
        value = node.value
        self.forms += 1
        if self.forms > MAX_FORMS:  # rules that name rules twice double at every level
            raise InputError([*self.problems, Problem(f"a grammar has at most {MAX_FORMS} forms, its rules written out", node.mark)])
        if isinstance(value, str) and value in self.rules and not (value == "model" and "model" in self.words(place)):
            return self.reference(node, place, path)
        if isinstance(value, dict) and any(key in value for key in FORMS):
            return self.special(node, place, path)
        if isinstance(place, Option):
            return self.component(node, place.slot, path) if self.nested(value, place) else self.scalar(node, place)
        if isinstance(value, list):
            if place != "block":
                return self.fail(f"{place} is one component, not a list", node.mark)
            items = (self.parse(item, place, f"{path}.{i}" if len(value) > 1 else path) for i, item in enumerate(value))
            return Sequence(node.mark, tuple(items))
        return self.component(node, place, path)

    def reference(self, node: Node, place: Place, path: str) -> Form:
        rule = node.value
        if rule in self.open or rule == "model":
            body = self.rules[rule].value
            if rule != "model" and isinstance(body, dict) and "limit" in body and place == "block":
                return Recurse(node.mark, rule, path)
            circle = " -> ".join([*self.open[self.open.index(rule) :], rule]) if rule in self.open else "model"
            remedy = "give it a limit: {any: [...], limit: 3}"
            if rule in self.words(place):
                remedy = f"write {{{rule}: {{}}}} for the component"
            return self.fail(f"the rule {rule!r} leads back to itself ({circle}); {remedy}", node.mark)
        self.used.add(rule)
        self.open.append(rule)
        form = self.parse(self.rules[rule], place, rule)
        self.open.pop()
        return form

    def words(self, place: Place) -> list[str]:
        if isinstance(place, Option):
            return [*place.literals, *(self.words(place.slot) if place.slot else ())]
        slots = library.SUBLAYERS if place == "block" else (place,)
        return [*library.words_of(*slots), *(() if place in library.NEEDED else (library.NONE,))]

    def nested(self, value: Any, option: Option) -> bool:
        """Whether the value of an option is meant as a part: it is no scalar of the option, but written as a part is."""
        if not option.slot or isinstance(value, list) or option.takes(value):
            return False
        return option.type is None or isinstance(value, dict) or value in self.words(option.slot)

    def scalar(self, node: Node, option: Option) -> Form:
        if isinstance(node.value, dict | list):
            return self.fail(f"{option.name} is {option.law}, not {node.kind}", node.mark)
        try:
            return Fixed(node.mark, option.parse(node.value))
        except ValueError as e:
            hint = suggest(node.value, [*self.words(option), *self.rules]) if isinstance(node.value, str) else ""
            return self.fail(f"{e}{hint}", node.mark)

    def component(self, node: Node, slot: str, path: str) -> Form:
        value = node.value
        if isinstance(value, dict):
            if len(value) != 1:
                return self.fail(f"a component is written {{word: {{option: value}}}}, not with {len(value)} keys", node.mark)
            ((word, inner),) = value.items()
            mark = node.keys[word]
        else:
            word, inner, mark = value, Node({}, node.mark), node.mark
        if word not in self.words(slot):
            what = "sublayer" if slot == "block" else slot
            return self.fail(f"unknown {what} {word!r}{suggest(word, [*self.words(slot), *self.rules])}{library.why_not(word)}", mark)
        if inner.value is None:
            inner = Node({}, inner.mark)
        if not isinstance(inner.value, dict):
            return self.fail(f"the options of {word} are a mapping, not {inner.kind}", inner.mark)
        if word == library.NONE:
            if inner.value:
                self.fail("none has no options", inner.mark)
            return Sequence(mark, ()) if slot == "block" else Component(mark, slot, word, {}, {})
        declared = library.words_of(*(library.SUBLAYERS if slot == "block" else (slot,)))[word]
        extra = SUBLAYER if slot == "block" else {}
        forms = self.options(inner, {**declared.options, **extra}, word, f"{path}.{word}")
        for name, option in declared.options.items():
            if option.required and name not in inner.value:
                self.fail(f"{word} needs {name}: {option.law}", mark)
        own = {k: f for k, f in forms.items() if k in extra}
        return Component(mark, declared.slot, word, {k: f for k, f in forms.items() if k not in extra}, own)

    def special(self, node: Node, place: Place, path: str) -> Form:
        form = next(key for key in FORMS if key in node.value)
        allowed = {"any": {"any", "limit"}, "range": {"range", "log"}, "int": {"int", "log"}}
        allowed |= {"repeat": {"repeat", "of", "tied"}, "each": {"each", "of", "share"}, "parallel": {"parallel"}}
        for key in node.value.keys() - allowed[form]:
            return self.fail(f"{key!r} can not stand beside {form!r}{suggest(key, allowed[form])}", node.keys[key])
        parsers: dict[str, Callable[[Node, Place, str], Form]] = {
            "any": self.choice,
            "range": self.range,
            "int": self.range,
            "repeat": self.repeat,
            "each": self.repeat,
            "parallel": self.parallel,
        }
        return parsers[form](node, place, path)

    def address(self, node: Node, path: str) -> str:
        """The path, with a number where another decision has it: the counts of `{repeat: {any: ...}, of: {repeat: {any: ...}, of: X}}`."""
        found, number = path, 1
        while self.decided.setdefault(found, node) is not node:
            number += 1
            found = f"{path}.{number}"
        return found

    def choice(self, node: Node, place: Place, path: str) -> Form:
        path = self.address(node, path)
        given = node.value["any"]
        if not isinstance(given.value, list) or not given.value:
            return self.fail(f"any takes a list of alternatives, not {given.kind}", given.mark)
        if len(given.value) > MAX_ALTERNATIVES:
            return self.fail(f"any takes at most {MAX_ALTERNATIVES} alternatives, not {len(given.value)}; int takes bounds", given.mark)
        labels = _labels([item.plain() for item in given.value])
        for i, label in enumerate(labels):
            if any(label == other and type(label) is type(other) for other in labels[:i]):
                self.fail(f"the alternative {label!r} stands twice", given.value[i].mark)
        forms = []
        heads = Counter(map(repr, (_head(item.value) for item in given.value if not isinstance(item.value, list))))
        for i, item in enumerate(given.value):
            inner = item.value if isinstance(item.value, dict) else {}
            branch = f"{path}.{i + 1}" if any(key in inner for key in FORMS) or isinstance(item.value, list) else path
            if len(inner) == 1 and heads[repr(next(iter(inner)))] > 1:
                branch = f"{path}.{i + 1}"  # two alternatives with one word would share an address
            form = self.parse(item, place, branch)
            forms.append(dataclasses.replace(form, mark=item.mark) if isinstance(form, Fixed) else form)
        if "limit" not in node.value:
            return Choice(node.mark, path, tuple(labels), tuple(forms))
        return self.limited(node, Choice(node.mark, path, tuple(labels), tuple(forms)))

    def limited(self, node: Node, form: Choice) -> Form:
        """A choice that may be met within itself."""
        limit = node.value["limit"]
        if form.address not in self.rules or self.rules[form.address] is not node:
            return self.fail("a limit belongs to a rule that leads back to itself: rule: {any: [...], limit: 3}", node.keys["limit"])
        if not isinstance(limit.value, int) or isinstance(limit.value, bool) or not 1 <= limit.value <= MAX_LIMIT:
            return self.fail(f"limit is a whole number from 1 to {MAX_LIMIT}, not {limit.kind}", limit.mark)
        recursive = tuple(any(isinstance(f, Recurse) and f.rule == form.address for f in walk(inner)) for inner in form.forms)
        if not any(recursive):
            return self.fail(f"the rule {form.address!r} never leads back to itself; remove its limit", node.keys["limit"])
        if all(recursive):
            return self.fail(f"every alternative of {form.address!r} leads back to it; one must end", node.mark)
        self.recursive[form.address] = found = dataclasses.replace(form, limit=limit.value, recursive=recursive)
        return found

    def range(self, node: Node, place: Place, path: str) -> Form:
        integer = "int" in node.value
        form = "int" if integer else "range"
        bounds = node.value[form]
        log = node.value["log"].value if "log" in node.value else False
        if not isinstance(place, Option) or place.type is None:
            what = place.law if isinstance(place, Option) else f"a {place}"
            return self.fail(f"{form} gives a number, where {what} stands", node.mark)
        low_high = bounds.plain()
        kinds = int if integer else int | float
        numbers = isinstance(low_high, list) and len(low_high) == 2
        if not numbers or not all(isinstance(b, kinds) and not isinstance(b, bool) for b in low_high):
            return self.fail(f"{form} takes [low, high], two {'whole ' if integer else ''}numbers", bounds.mark)
        low, high = low_high
        if low >= high or (log and low <= 0) or not isinstance(log, bool):
            return self.fail(f"{form} needs low < high, log needs low > 0 and is true or false", bounds.mark)
        for item in bounds.value:
            self.scalar(item, place)
        try:
            place.parse(low if integer else low + (high - low) / math.pi)  # a number between
        except ValueError:
            return self.fail(f"{place.name} is {place.law}; write int for a range of whole numbers", bounds.mark)
        return Range(node.mark, self.address(node, path), low, high, log, integer, place)

    def repeat(self, node: Node, place: Place, path: str) -> Form:
        form = "repeat" if "repeat" in node.value else "each"
        if place != "block":
            name = place.name if isinstance(place, Option) else place
            return self.fail(f"{form} gives a sequence of sublayers; {name} is one value", node.mark)
        if "of" not in node.value:
            return self.fail(f"{form} needs 'of': what is repeated", node.mark)
        tied = node.value["tied"].value if "tied" in node.value else False
        if not isinstance(tied, bool):
            return self.fail("tied is true or false", node.value["tied"].mark)
        share = node.value["share"] if "share" in node.value else Node([], node.mark)
        if not isinstance(share.value, list) or any(
            not isinstance(item.value, str) or item.value not in self.rules for item in share.value
        ):
            return self.fail(f"share is a list of rules, not {share.plain()}", share.mark)
        times = self.parse(node.value[form], TIMES, f"{path}.{form}")
        body = self.parse(node.value["of"], place, path)
        return Repeat(node.mark, times, body, tied, path if form == "each" else None, tuple(share.plain()))

    def parallel(self, node: Node, place: Place, path: str) -> Form:
        given = node.value["parallel"]
        if place != "block":
            name = place.name if isinstance(place, Option) else place
            return self.fail(f"parallel gives sublayers; {name} is one value", node.mark)
        if not isinstance(given.value, list) or not given.value:
            return self.fail(f"parallel takes a list of sublayers, not {given.kind}", given.mark)
        forms = [self.parse(item, place, f"{path}.{i}" if len(given.value) > 1 else path) for i, item in enumerate(given.value)]
        for form, item in zip(forms, given.value, strict=True):
            for inner in walk(form):
                if isinstance(inner, Repeat | Recurse | Parallel) or (isinstance(inner, Sequence) and len(inner.forms) > 1):
                    self.fail("parallel holds single sublayers: no lists, repeat, each, recursion or parallel in it", item.mark)
                    break
        return Parallel(node.mark, tuple(forms))


def walk(form: Form) -> Iterator[Form]:
    """A form and every form in it; a recursion is not followed."""
    yield form
    for child in children(form):
        yield from walk(child)


def children(form: Form) -> Iterator[Form]:
    """The forms that a form is made of."""
    if isinstance(form, Choice | Sequence | Parallel):
        yield from form.forms
    elif isinstance(form, Component):
        yield from form.options.values()
        yield from form.own.values()
    elif isinstance(form, Repeat):
        yield form.times
        yield form.body
    elif isinstance(form, ModelForm):
        yield from form.options.values()


def gather(grammar: Node, folder: Path, depth: int = 0, done: set[Path] | None = None) -> Node:
    """A grammar with the rules of the files it includes; its own rules come before theirs.

    Raises:
        InputError: an included file lies outside the folder of the study, or includes in a circle.
    """
    if not isinstance(grammar.value, dict) or "include" not in grammar.value:
        return grammar
    given = grammar.value["include"]
    done = set() if done is None else done  # a file that was read adds nothing the second time
    rules, keys = {k: v for k, v in grammar.value.items() if k != "include"}, dict(grammar.keys)
    for item in given.value if isinstance(given.value, list) else [given]:
        if not isinstance(item.value, str):
            raise InputError(f"include takes a path or a list of paths, not {item.kind}", item.mark)
        try:
            path = (folder / item.value).resolve()
        except (OSError, RuntimeError, ValueError):
            raise InputError(f"an included file can not be found: {item.value!r} is no path", item.mark) from None
        if path in done:
            continue
        if not path.is_relative_to(folder.resolve()) or path.suffix not in (".yaml", ".yml"):
            raise InputError(f"an included file is a .yaml in the folder of the study or below it, not {item.value!r}", item.mark)
        if depth > MAX_LIMIT:
            raise InputError(f"includes may be nested {MAX_LIMIT} deep at most; {item.value!r} seems to include itself", item.mark)
        other = gather(yamlfile.read(path), folder, depth + 1, done)
        done.add(path)
        if not isinstance(other.value, dict):
            raise InputError(f"an included file is a mapping of rules, {item.value!r} is {other.kind}", item.mark)
        for name, node in other.value.items():
            if name == "constraints" and name in rules and isinstance(rules[name].value, list) and isinstance(node.value, list):
                rules[name] = Node([*rules[name].value, *node.value], rules[name].mark)
            elif name not in rules:
                rules[name], keys[name] = node, other.keys[name]
    return Node(rules, grammar.mark, keys)


def _head(plain: Any) -> Any:
    return next(iter(plain), None) if isinstance(plain, dict) else plain


def _labels(alternatives: list[Any]) -> list[Any]:
    """A short name for each alternative: the scalar, the word, or the word with its options where words alone would clash."""
    short = [a if not isinstance(a, dict | list) else _head(a) if isinstance(a, dict) else _text(a) for a in alternatives]
    return [s if short.count(s) == 1 else a if not isinstance(a, dict) else _text(a) for s, a in zip(short, alternatives, strict=True)]


def _text(plain: Any) -> str:
    if isinstance(plain, dict):
        return "+".join(f"{k}({_text(v)})" if isinstance(v, dict) and v else f"{k}={_text(v)}" for k, v in plain.items())
    if isinstance(plain, list):
        return "+".join(_text(p) for p in plain) or "[]"
    return str(plain)
