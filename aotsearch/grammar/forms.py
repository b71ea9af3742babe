"""What each value of a grammar may become: a tree of forms, checked against the library (`parser` makes it from YAML).

A decision is known by its address; a rule's address is its name wherever it is used, which is how a rule is decided once and all places
agree.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from aotsearch.errors import Mark
from aotsearch.grammar.architecture import USUAL
from aotsearch.grammar.constraint import Constraint
from aotsearch.grammar.words import TYPES, Option

Place = Option | str  # what may stand somewhere: an option's value, a slot, "block" or "model"


def _scalar(name: str, kind: str, default: Any, description: str) -> Option:
    return Option(name, *TYPES[kind][:2], default, description)


def _words(name: str, words: Any, default: Any, description: str) -> Option:
    return Option(name, words, " or ".join(map(repr, words.__args__)), default, description)


PLACES = Literal["pre", "post", "sandwich"]
HEADS = Literal["tied", "free", "none"]
STARTS = Literal["gpt2", "torch", "zero-output", "shaped", "identity", "normal", "torch-ends", "simplified"]

# What `model` and every sublayer take besides their own options.
MODEL: dict[str, Place] = {
    "width": _scalar("width", "Count", None, "size of the residual stream"),
    "depth": _scalar("depth", "Count", None, "how many times `block` is repeated"),
    "norm": "norm",
    "place": _words("place", PLACES, USUAL["place"], "norm before the operation, after the join, or before and after the operation"),
    "join": "join",
    "embedding": "embedding",
    "positions": "positions",
    "pooling": "pooling",
    "final_norm": "norm",
    "head": _words(
        "head", HEADS, "tied", "output matrix: the token embedding (tied, where there is one), its own, or none: the stream is the output"
    ),
    "initialisation": _words("initialisation", STARTS, USUAL["initialisation"], "how the initial values are drawn"),
    "dropout": _scalar(
        "dropout",
        "Probability",
        USUAL["dropout"],
        "share of entries that training drops from the embedded tokens and every operation's output",
    ),
    "drop_path": _scalar(
        "drop_path",
        "Probability",
        USUAL["drop_path"],
        "share of samples that skip the last layer in training, rising evenly from 0 at the first",
    ),
    "block": "block",
    "blocks": "block",
}
SUBLAYER: dict[str, Place] = {  # the keys are words.SUBLAYER_OPTIONS
    "norm": "norm",
    "place": MODEL["place"],
    "join": "join",
    "tied": _scalar("tied", "Flag", False, "whether it shares its weights with all equal sublayers of the model that say so"),
}
TIMES = _scalar("times", "Count", None, "how many times")


@dataclass(frozen=True)
class Form:
    """Base of what a value may become."""

    mark: Mark


@dataclass(frozen=True)
class Fixed(Form):
    """A scalar, decided."""

    value: Any


@dataclass(frozen=True)
class Decided(Form):
    """What is decided, under an address."""

    address: str

    @property
    def rule(self) -> str:
        """The rule that it belongs to."""
        return self.address.partition(".")[0]


@dataclass(frozen=True)
class Choice(Decided):
    """`any`: one of some forms, each with its label; the first is the reference.

    `whole` has each alternative's text with all its options, by which it may be meant too, as earlier versions named it.
    A choice with a `limit` is a rule that may be met within itself, so many times deep; `recursive` says which forms lead back.
    """

    labels: tuple[Any, ...]
    forms: tuple[Form, ...]
    limit: int = 0
    recursive: tuple[bool, ...] = ()
    whole: tuple[Any, ...] = ()

    def open(self, depth: int) -> list[int]:
        """The numbers of the alternatives so deep in the recursion: at its limit, those that end."""
        ends = self.limit > 0 and depth >= self.limit
        return [i for i in range(len(self.forms)) if not (ends and self.recursive[i])]

    def taken(self, value: Any) -> Form:
        """The form with a label."""
        return next(form for label, form in zip(self.labels, self.forms, strict=True) if same(label, value))


@dataclass(frozen=True)
class Range(Decided):
    """`range` or `int`: a number between two bounds; the lower bound is the reference."""

    low: float
    high: float
    log: bool
    integer: bool
    option: Option


@dataclass(frozen=True)
class Recurse(Form):
    """A rule met within itself: everything below is decided anew, under an address of its own."""

    rule: str
    address: str


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
    used: frozenset[str]  # the rules that the model leads to
    notes: tuple[str, ...] = ()  # what a person should know of how the file was read

    @functools.cached_property
    def body(self) -> Form:
        """All sublayers: `blocks`, or `block` so many times as `depth` says."""
        o = self.options
        return o["blocks"] if "blocks" in o else Repeat(o["depth"].mark, o["depth"], o["block"], False)


def same(a: Any, b: Any) -> bool:
    """Whether two values of YAML are one: `1` and `true` are not."""
    return bool(a == b and isinstance(a, bool) == isinstance(b, bool))


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
