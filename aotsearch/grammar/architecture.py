"""One decided model as frozen data: canonical form, digest, difference.

An architecture is a flat sequence of sublayers, since `x + f(x)` applied in turn is all that a stack of blocks means; an absent
part is not in it, and an option at its default is not written. So two derivations of one model are equal, and adding an option
with a default to a word changes no digest. The decisions that led to an architecture travel with it, outside its identity.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from aotsearch.grammar import library
from aotsearch.grammar.library import Option

Sizes = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Part:
    """A word with the options that differ from its defaults, sorted by name. The value of an option is a scalar or a part."""

    word: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(f"{k}: {_text(v)}" for k, v in self.options)
        return f"{self.word} {{{shown}}}" if shown else self.word

    def to_plain(self) -> Any:
        """`word`, or `{word: {option: value}}`, as a study file writes it."""
        options = {k: v.to_plain() if isinstance(v, Part) else v for k, v in self.options}
        return {self.word: options} if options else self.word

    @property
    def absent(self) -> bool:
        return self.word == library.NONE


NONE = Part(library.NONE)
NORM = Part("layernorm")
TOKEN = Part("token")
ADD = Part("add")
MAX_SUBLAYERS = 5_000  # of a model


def part(slot: str, word: str, options: Mapping[str, Any]) -> Part:
    """A part in canonical form: options parsed by the word's types, defaults dropped."""
    if word == library.NONE:
        assert not options
        return NONE
    declared = library.find(slot, word).options
    return canonical(slot, word, {k: _value(declared[k], v) for k, v in options.items()})


def canonical(slot: str, word: str, options: Mapping[str, Any]) -> Part:
    """A part of options that are parsed already: scalars of their types, and parts."""
    if not options:
        return Part(word)
    usual = defaults(slot, word)
    return Part(word, tuple(sorted((k, v) for k, v in options.items() if k not in usual or v != usual[k])))


@functools.cache
def defaults(slot: str, word: str) -> Mapping[str, Any]:
    """The options of a word that have a default, parsed."""
    declared = library.find(slot, word).options
    return {k: _value(o, o.default) if o.slot else o.default for k, o in declared.items() if not o.required}


def settings(slot: str, given: Part) -> dict[str, Any]:
    """Every option of a part, those at their default too."""
    return {} if given.absent else {**defaults(slot, given.word), **dict(given.options)}


def _value(option: Option, given: Any) -> Any:
    """The value of an option: a scalar of its type, else a part of its slot."""
    if isinstance(given, Part):
        return given
    return option.parse(given) if not option.slot or option.takes(given) else part_from_plain(option.slot, given)


def part_from_plain(slot: str, plain: Any) -> Part:
    """The inverse of `Part.to_plain`."""
    if isinstance(plain, str):
        return part(slot, plain, {})
    ((word, options),) = plain.items()
    return part(slot, word, options or {})


@dataclass(frozen=True)
class Sublayer:
    """One residual step: `x <- join(x, operation(norm(x)))` where the norm is placed before (`pre`),
    `x <- norm(join(x, operation(x)))` where it is placed after (`post`), or `x <- join(x, norm(operation(norm(x))))` with a norm on
    both sides of the operation (`sandwich`).

    `same_as` is the index of the earlier sublayer whose weights it uses, None where the weights are its own. A `parallel` sublayer
    reads what the sublayer before it read: `x <- join(join(x, f(x)), g(x))`.
    """

    operation: Part
    norm: Part
    place: str = "pre"
    join: Part = ADD
    same_as: int | None = None
    parallel: bool = False

    def to_plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"operation": self.operation.to_plain(), "norm": self.norm.to_plain()}
        if self.place != "pre":
            plain["place"] = self.place
        if self.join != ADD:
            plain["join"] = self.join.to_plain()
        if self.same_as is not None:
            plain["same_as"] = self.same_as
        if self.parallel:
            plain["parallel"] = True
        return plain


class Tied(Sublayer):
    """A sublayer on the way to its place, where it will share its weights with all equal ones of this kind."""


@dataclass(frozen=True)
class Architecture:
    """A model, decided.

    Attributes:
        width: Size D of the residual stream.
        sublayers: The steps of the model in order.
        positions: How a token knows its place.
        final_norm: The norm between the last sublayer and the head.
        head: `tied` (the output matrix is the token embedding) or `free`.
        sizes: What comes from the task: (`context`, L), (`vocabulary`, V) for language.
        embedding: How what the task gives becomes the stream.
        pooling: How the tokens become one before the head.
        initialisation: How the initial values are drawn.
        decisions: Address -> value of every decision that was met; not part of the identity.
    """

    width: int
    sublayers: tuple[Sublayer, ...]
    positions: Part
    final_norm: Part
    head: str = "tied"
    sizes: Sizes = ()
    embedding: Part = TOKEN
    pooling: Part = NONE
    initialisation: str = "gpt2"
    decisions: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The canonical form as plain data, without what is at its default."""
        plain: dict[str, Any] = {
            "width": self.width,
            "positions": self.positions.to_plain(),
            "final_norm": self.final_norm.to_plain(),
            "sublayers": [s.to_plain() for s in self.sublayers],
            "sizes": dict(self.sizes),
        }
        embedding, pooling = _ends(self.sizes)
        if self.embedding != embedding:
            plain["embedding"] = self.embedding.to_plain()
        if self.pooling != pooling:
            plain["pooling"] = self.pooling.to_plain()
        if self.head != usual_head(self.embedding, self.sizes):
            plain["head"] = self.head
        if self.initialisation != "gpt2":
            plain["initialisation"] = self.initialisation
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], decisions: Mapping[str, Any] | None = None) -> Architecture:
        """The inverse of `to_dict`."""
        sublayers = tuple(
            Sublayer(
                operation=part_from_plain("sublayer", s["operation"]),
                norm=part_from_plain("norm", s["norm"]),
                place=s.get("place", "pre"),
                join=part_from_plain("join", s.get("join", "add")),
                same_as=s.get("same_as"),
                parallel=s.get("parallel", False),
            )
            for s in plain["sublayers"]
        )
        sizes = tuple(sorted(plain["sizes"].items()))
        ends = {name: part_from_plain(name, plain[name]) for name in ("embedding", "pooling") if name in plain}
        embedding, pooling = _ends(sizes)
        return cls(
            width=plain["width"],
            sublayers=sublayers,
            positions=part_from_plain("positions", plain["positions"]),
            final_norm=part_from_plain("norm", plain["final_norm"]),
            head=plain.get("head", usual_head(ends.get("embedding", embedding), sizes)),
            sizes=sizes,
            embedding=ends.get("embedding", embedding),
            pooling=ends.get("pooling", pooling),
            initialisation=plain.get("initialisation", "gpt2"),
            decisions=dict(decisions or {}),
        )

    @functools.cached_property
    def digest(self) -> str:
        """Twelve hexadecimal characters that name the model; equal models have equal digests on every machine."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def size(self, name: str) -> int:
        """A size given by the task."""
        return dict(self.sizes)[name]

    def diff(self, other: Architecture) -> dict[str, tuple[Any, Any]]:
        """The decisions in which two architectures differ: address -> (here, there), None where it is not met."""
        addresses = [*self.decisions, *(a for a in other.decisions if a not in self.decisions)]
        pairs = {a: (self.decisions.get(a), other.decisions.get(a)) for a in addresses}
        return {a: pair for a, pair in pairs.items() if pair[0] != pair[1]}


def frame(options: Mapping[str, Any], sizes: Sizes) -> Architecture:
    """A model without sublayers, from those options of `model` that are given; the others at their defaults."""
    embedding, pooling = _ends(sizes)
    embedding = options.get("embedding", embedding)
    # a pre-norm stream leaves its last join unnormalised, with a sandwich too; a post-norm one does not
    last = NONE if options.get("place") == "post" else options.get("norm", NORM)
    return Architecture(
        width=options["width"],
        sublayers=(),
        positions=options.get("positions", Part("learned")),
        final_norm=options.get("final_norm", last),
        head=options.get("head", usual_head(embedding, sizes)),
        sizes=sizes,
        embedding=embedding,
        pooling=options.get("pooling", pooling),
        initialisation=options.get("initialisation", "gpt2"),
    )


def _ends(sizes: Sizes) -> tuple[Part, Part]:
    """The embedding and the pooling that the sizes of a task ask for."""
    given = dict(sizes)
    if "image" in given:
        return Part("patch"), Part("mean")
    return Part("vector" if "inputs" in given else "token"), NONE


def usual_head(embedding: Part, sizes: Sizes) -> str:
    """`tied` where there is a vector per token of a vocabulary."""
    return "tied" if embedding.word == TOKEN.word and "vocabulary" in dict(sizes) else "free"


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
