"""YAML rules -> forms, with every problem at its place.

A form is parsed for the place it stands in: an option of a word (a scalar with a type), a slot (a part of speech), or `block`
(sublayers). A bare string is the rule of that name if there is one, else a word or value of that place.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from aotsearch.errors import InputError, Mark, Problem, suggest
from aotsearch.grammar import constraint, former, labels, library
from aotsearch.grammar.constraint import Constraint
from aotsearch.grammar.forms import (
    MODEL,
    SUBLAYER,
    TIMES,
    Choice,
    Component,
    Fixed,
    Form,
    ModelForm,
    Parallel,
    Place,
    Range,
    Recurse,
    Repeat,
    Sequence,
    walk,
)
from aotsearch.grammar.words import NEEDED, NONE, Option
from aotsearch.yamlfile import Node

FORMS = {  # the keys of the forms, each with what may stand beside it
    "any": {"limit"},
    "range": {"log"},
    "int": {"log"},
    "repeat": {"of", "tied"},
    "each": {"of", "share"},
    "parallel": set(),
}
RESERVED = ("include", "constraints")  # keys of a grammar that are not rules
MAX_LIMIT = 16  # of a recursion
MAX_ALTERNATIVES = 1000  # of one decision
MAX_FORMS = 20_000  # of a grammar whose rules are written out where they are used
RULE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")  # decisions are addressed by rule names, in Optuna and MLflow too


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
        self.notes: list[str] = []
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
            for rule in self.rules:
                mark = self.grammar.keys[rule]
                if rule not in self.used and mark.file == self.grammar.mark.file:
                    self.fail(f"the rule {rule!r} is never used; the model does not lead to it", mark)
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
        return ModelForm(node.mark, options, self.recursive, self.constraints(), frozenset(self.used), tuple(dict.fromkeys(self.notes)))

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
            name = former.named(owner, key)
            if name not in declared:
                self.fail(f"{owner} has no option {key!r}{suggest(key, declared)}", node.keys[key])
                continue
            if name != key and name in node.value:
                self.fail(f"{key} is the former name of {name}, which stands here too", node.keys[key])
            if name != key:
                opposite = " with the opposite value" if (owner, key) in former.VALUES else ""
                self.notes.append(f"{node.keys[key]}: {key} of {owner} is now {name}{opposite}; the former name is read until version 0.4")
            place = declared[name]
            forms[name] = self.parse(value, former.reading(owner, key, place) if isinstance(place, Option) else place, f"{path}.{key}")
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
            return Sequence(node.mark, tuple(self.items(node, path)))
        return self.component(node, place, path)

    def items(self, node: Node, path: str) -> list[Form]:
        """The sublayers of a list; an address names the index of those that are not alone."""
        return [self.parse(item, "block", f"{path}.{i}" if len(node.value) > 1 else path) for i, item in enumerate(node.value)]

    def reference(self, node: Node, place: Place, path: str) -> Form:
        rule = node.value
        if rule in self.open or rule == "model":
            body = self.rules[rule].value
            if rule != "model" and isinstance(body, dict) and "limit" in body and place == "block":
                return Recurse(node.mark, rule, path)
            circle = " -> ".join([*self.open[self.open.index(rule) :], rule]) if rule in self.open else "model"
            remedy = "give it a limit: {any: [...], limit: 3}"
            if rule in self.words(place):
                literal = isinstance(place, Option) and rule in place.literals
                remedy = "give the rule another name" if literal else f"write {{{rule}: {{}}}} for the component"
            return self.fail(f"the rule {rule!r} leads back to itself ({circle}); {remedy}", node.mark)
        self.used.add(rule)
        self.open.append(rule)
        form = self.parse(self.rules[rule], place, rule)
        self.open.pop()
        return form

    def words(self, place: Place) -> list[str]:
        if isinstance(place, Option):
            return [*place.literals, *(self.words(place.slot) if place.slot else ())]
        return [*library.words_of(place), *(() if place in NEEDED else (NONE,))]

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
        if word == NONE:
            if inner.value:
                self.fail("none has no options", inner.mark)
            return Sequence(mark, ()) if slot == "block" else Component(mark, slot, word, {}, {})
        declared = library.words_of(slot)[word]
        extra = SUBLAYER if slot == "block" else {}
        forms = self.options(inner, {**declared.options, **extra}, word, f"{path}.{word}")
        for name, option in declared.options.items():
            if option.required and name not in inner.value:
                self.fail(f"{word} needs {name}: {option.law}", mark)
        own = {k: f for k, f in forms.items() if k in extra}
        return Component(mark, declared.slot, word, {k: f for k, f in forms.items() if k not in extra}, own)

    def special(self, node: Node, place: Place, path: str) -> Form:
        form = next(key for key in FORMS if key in node.value)
        allowed = {form, *FORMS[form]}
        for key in node.value:
            if key not in allowed:
                return self.fail(f"{key!r} cannot stand beside {form!r}{suggest(key, allowed)}", node.keys[key])
        if form in ("range", "int"):
            return self.range(node, place, path)
        if form == "any":
            return self.choice(node, place, path)
        if place != "block":
            name = place.name if isinstance(place, Option) else place
            made = "sublayers" if form == "parallel" else "a sequence of sublayers"
            return self.fail(f"{form} gives {made}; {name} is one value", node.mark)
        return self.parallel(node, path) if form == "parallel" else self.repeat(node, form, path)

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
        alternatives = [self.labelled(item) for item in given.value]
        given = dataclasses.replace(given, value=[item for _, item in alternatives])
        named = [label for label, _ in alternatives]
        plain = [item.plain() for item in given.value]
        names = [a if a is not None else b for a, b in zip(named, labels.short(plain), strict=True)]
        for i, label in enumerate(names):
            if any(label == other and type(label) is type(other) for other in names[:i]):
                self.fail(f"the alternative {label!r} stands twice", given.value[i].mark)
        forms = []
        heads = Counter(map(repr, (labels.head(item.value) for item in given.value if not isinstance(item.value, list))))
        for i, item in enumerate(given.value):
            inner = item.value if isinstance(item.value, dict) else {}
            branch = f"{path}.{i + 1}" if any(key in inner for key in FORMS) or isinstance(item.value, list) else path
            if len(inner) == 1 and heads[repr(next(iter(inner)))] > 1:
                branch = f"{path}.{i + 1}"  # two alternatives with one word would share an address
            form = self.parse(item, place, branch)
            forms.append(dataclasses.replace(form, mark=item.mark) if isinstance(form, Fixed) else form)
        found = Choice(node.mark, path, tuple(names), tuple(forms), whole=tuple(labels.whole(plain)))
        return found if "limit" not in node.value else self.limited(node, found)

    def labelled(self, item: Node) -> tuple[str | None, Node]:
        """An alternative without its label, and the label: `{label: SwiGLU, value: {glu: ...}}`; None where it has none."""
        if not isinstance(item.value, dict) or "label" not in item.value:
            return None, item
        for key in item.value:
            if key not in ("label", "value"):
                self.fail(
                    f"{key!r} cannot stand beside 'label'; an alternative with a label is {{label: TEXT, value: ALTERNATIVE}}",
                    item.keys[key],
                )
        if "value" not in item.value:
            self.fail("a label needs the value that it names: {label: TEXT, value: ALTERNATIVE}", item.mark)
            return None, dataclasses.replace(item, value="none")
        label = item.value["label"]
        if not isinstance(label.value, str) or not labels.LABEL.fullmatch(label.value):
            self.fail(f"a label is one line of 1 to {labels.LONGEST} characters, without '=' and ',', not {label.kind}", label.mark)
            return None, item.value["value"]
        if labels.REMOVAL.match(label.value) and item.value["value"].value not in ("none", False):
            law = "a label that begins with 'no' or 'without' is of an alternative that takes something away, which is none or false"
            self.fail(f"{law}, not {item.value['value'].kind}", label.mark)
        return label.value, item.value["value"]

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

    def repeat(self, node: Node, form: str, path: str) -> Form:
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
        body = self.parse(node.value["of"], "block", path)
        return Repeat(node.mark, times, body, tied, path if form == "each" else None, tuple(share.plain()))

    def parallel(self, node: Node, path: str) -> Form:
        given = node.value["parallel"]
        if not isinstance(given.value, list) or not given.value:
            return self.fail(f"parallel takes a list of sublayers, not {given.kind}", given.mark)
        forms = self.items(given, path)
        for form, item in zip(forms, given.value, strict=True):
            for inner in walk(form):
                if isinstance(inner, Repeat | Recurse | Parallel) or (isinstance(inner, Sequence) and len(inner.forms) > 1):
                    self.fail("parallel holds single sublayers: no lists, repeat, each, recursion or parallel in it", item.mark)
                    break
        return Parallel(node.mark, tuple(forms))
