"""The laws of the library: what a word requires of its options, of what it stands in and of the sizes of the task.

A law is written in the section `Requires:` of a word's docstring, in the language of constraints. Its names are options of the word (a
part among them stands for its own word), `width`, sizes of the task, and

* in a mixer or a channel operation and the parts among their options: `initialisation`, and `rotates` and `biases`, what the model's
  positions do;
* in a part that is an option of another part: `beside.NAME`, the option NAME of that other part. Such a law is one of the part around it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.errors import InputError, Mark
from aotsearch.grammar import constraint, library
from aotsearch.grammar.architecture import SLOTS, Architecture, Part, Sizes, Sublayer, complete, defaults, settings, usual_head
from aotsearch.grammar.words import Word
from aotsearch.yamlfile import Node

Breach = tuple[str, str]  # which law is broken, and the option it is about ("" where it is not about one)
BESIDE = "beside."
TRAITS = ("rotates", "biases")  # of positions, as `LayerContext` has them
PLACED = ("initialisation", *TRAITS)  # what laws of sublayers may ask of their model besides its width


@dataclass(frozen=True)
class Around:
    """What laws may know of the model around a part: its width and, of what is decided before its sublayers, the rest."""

    width: int
    rest: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(cls, model: Architecture) -> Around:
        """What the sublayers of a model stand in."""
        positions = model.positions
        traits = frozenset() if positions.absent else library.find("positions", positions.word).traits
        return cls(model.width, (("initialisation", model.initialisation), *((name, name in traits) for name in TRAITS)))

    @classmethod
    def anywhere(cls, width: int) -> Around:
        """Around sublayers none of whose laws asks for more than the width."""
        return cls(width, tuple((name, "") for name in PLACED))

    @property
    def given(self) -> dict[str, Any]:
        return {"width": self.width, **dict(self.rest)}


@dataclass(frozen=True)
class Context:
    """What a model decides for all its sublayers: what their laws may know of it, and what they take where they say nothing else."""

    around: Around
    norm: Part
    place: str
    join: Part

    @classmethod
    def of(cls, model: Architecture, options: Mapping[str, Any]) -> Context:
        """That of a model with some options."""
        found = complete(options, model.sizes)
        return cls(Around.of(model), found["norm"], found["place"], found["join"])

    def sublayer(self, operation: Part, own: Mapping[str, Any], beside: bool = False) -> Sublayer:
        """A sublayer with a norm, place and join of its own; one without a norm has it in no place."""
        norm = own.get("norm", self.norm)
        place = "pre" if norm.absent else own.get("place", self.place)
        return Sublayer(operation, norm, place, own.get("join", self.join), parallel=beside)


@functools.lru_cache(maxsize=4096)
def _parsed(word: str, text: str) -> constraint.Constraint:
    return constraint.parse(Node(text, Mark(f"the word {word}")))


class Law:
    """One requirement of a word, in a model and for the sizes of a task.

    Attributes:
        options: The options of the word that it is about.
        placed: Whether it asks for more of the model than its width.
        inner: The option whose part has the law, and the word of that part; "" where it is a law of the word itself.
    """

    def __init__(self, word: Word, text: str, around: Around, sizes: Sizes, inner: tuple[str, Word] | None = None):
        self.inner = ("", "") if inner is None else (inner[0], inner[1].name)
        owner = word if inner is None else inner[1]
        self.slot = owner.slot
        self.text = f"{owner.name} requires {text}"
        try:
            self.expression = _parsed(owner.name, text)
        except InputError as e:
            raise (owner.blamed(e, f"requires {text!r}, which is no law") if owner.package else e) from None
        names = self.expression.names
        beside = {name.removeprefix(BESIDE) for name in names if name.startswith(BESIDE)}
        self.own = tuple(sorted(names & owner.options.keys()))
        self.beside = tuple(sorted(beside & word.options.keys()))
        self.options = self.own if inner is None else (inner[0], *(name for name in self.beside if name != inner[0]))
        given = dict(sizes) | around.given
        outside = {name for name in names - owner.options.keys() if not name.startswith(BESIDE)}
        self.given = {name: given[name] for name in outside & given.keys()}
        self.placed = not outside.isdisjoint(PLACED)
        self.missing = min(outside - given.keys(), default="")
        self.owner = owner
        self.whose = f"; so says the package {owner.package}, {owner.module}.{owner.qualname}" if owner.package else ""
        self.known: dict[tuple[Any, ...], bool] = {}

    def holds(self, options: Mapping[str, Any]) -> bool:
        """Whether it holds for the options of the word; of parts with a law of their own as a whole."""
        if self.inner[0] and getattr(options[self.inner[0]], "word", "") != self.inner[1]:
            return True
        values = tuple(options[name] for name in self.options)
        if values not in self.known:
            try:
                self.known[values] = not self.missing and self.expression.holds(self.given | self._asked(options))
            except InputError as e:
                raise (self.owner.blamed(e, f"requires {self.expression.text!r}") if self.owner.package else e) from None
        return self.known[values]

    def breach(self, word: str, options: Mapping[str, Any]) -> Breach:
        """What is said where it does not hold."""
        option, inner = self.inner
        if self.missing:
            return f"{inner or word} requires {self.missing}, which the task does not give{self.whose}", option
        values = self.given | self._asked(options)
        shown = ", ".join(f"{name} = {values[name]}" for name in sorted(values))
        return f"{self.text}, which does not hold for {shown}", option

    def _asked(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the options it names."""
        option, _ = self.inner
        own = settings(self.slot, options[option]) if option else options
        return {name: _named(own[name]) for name in self.own} | {BESIDE + name: _named(options[name]) for name in self.beside}


@functools.lru_cache(maxsize=4096)
def laws(slot: str, word: str, around: Around, sizes: Sizes) -> tuple[Law, ...]:
    """The laws of a word, besides which options divide the width; those of its parts that name what is beside them too."""
    found = library.find(slot, word)
    own = [Law(found, text, around, sizes) for text in found.requires if BESIDE not in text]
    return (*own, *_inner(found, around, sizes))


def _inner(word: Word, around: Around, sizes: Sizes) -> Iterator[Law]:
    for option in word.options.values():
        for inner in library.words_of(option.slot).values() if option.slot else ():
            yield from (Law(word, text, around, sizes, (option.name, inner)) for text in inner.requires if BESIDE in text)


def broken(slot: str, given: Part, around: Around, sizes: Sizes) -> Breach | None:
    """The first law that a part breaks, or a part among its options; None where all hold."""
    if given.absent:
        return None
    options = {**defaults(slot, given.word), **dict(given.options)}
    for name, option in library.find(slot, given.word).options.items():
        value = options[name]
        if option.divides_width and around.width % value:
            return f"{name} divides width: {value} does not divide {around.width}", name
        inner = broken(option.slot, value, around, sizes) if isinstance(value, Part) else None
        if inner is not None:
            return inner[0], name
    return next((law.breach(given.word, options) for law in laws(slot, given.word, around, sizes) if not law.holds(options)), None)


def unfit(model: Architecture) -> Breach | None:
    """The first law that a model without sublayers breaks; None where all hold."""
    for name, slot in SLOTS.items():
        found = broken(slot, getattr(model, name), Around(model.width), model.sizes)
        if found is not None:
            return found[0], name
    if model.head == "tied" and usual_head(model.embedding, model.sizes) != "tied":
        return f"head: tied is the matrix of the embedding 'token', here it is {model.embedding.word!r}; write head: free", "head"
    sizes, pooling = dict(model.sizes), model.pooling
    outputs = sizes.get("outputs")
    if model.head == "none" and outputs != model.width:
        asked = f"{outputs} outputs" if outputs else "logits"
        return f"head: none makes the stream the output, where the task asks for {asked} and the width is {model.width}", "head"
    if "image" in sizes and pooling.absent:
        return "pooling: none leaves a vector per token, where an image has one class; write pooling: mean", "pooling"
    if "image" not in sizes and not pooling.absent:
        law = f"pooling: {pooling.word} makes one vector of all tokens, where the task asks for one per token; leave it out"
        return law, "pooling"
    return None


def skippable(model: Architecture) -> Architecture:
    """A model whose sublayers may be skipped; without `drop_path` where each is the first of its kind, which never is.

    Raises:
        ValueError: a sublayer that is skipped does not leave the stream as it is.
    """
    if model.drop_path == 0:
        return model
    for s in model.sublayers:
        if s.join.absent or "shrinks" in library.find("join", s.join.word).traits:
            law = "drop_path lets a sample skip a sublayer, whose join must then leave the stream as it is"
            raise ValueError(f"{law}; that of {s.operation.word} is {s.join.word}")
    return model if any(model.drop_paths) else dataclasses.replace(model, drop_path=0.0)


def _named(value: Any) -> Any:
    return value.word if isinstance(value, Part) else value
