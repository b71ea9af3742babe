"""One decided model as frozen data: canonical form, digest, difference.

An architecture is a flat sequence of sublayers, since `x + f(x)` applied in turn is all that a stack of blocks means; an absent
part is not in it, and an option at its default is not written. So two derivations of one model are equal, and adding an option
with a default to a word changes no digest. The decisions that led to an architecture travel with it, outside its identity.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from aotsearch.grammar import former, library
from aotsearch.grammar.words import NONE as NO_WORD
from aotsearch.grammar.words import Option

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
        return self.word == NO_WORD


NONE = Part(NO_WORD)
TOKEN = Part("token")
ADD = Part("add")
# The options of a model at their defaults, but for those that depend on the task or on the others (see `complete`).
USUAL: Mapping[str, Any] = {
    "norm": Part("layernorm"),
    "place": "pre",
    "join": ADD,
    "positions": Part("learned"),
    "initialisation": "gpt2",
    "dropout": 0.0,
    "drop_path": 0.0,
}
SLOTS = {"positions": "positions", "final_norm": "norm", "embedding": "embedding", "pooling": "pooling"}  # of a model's own parts
MAX_SUBLAYERS = 5_000  # of a model


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
    """The inverse of `Part.to_plain`: options parsed by the word's types, defaults dropped."""
    ((word, options),) = [(plain, None)] if isinstance(plain, str) else plain.items()
    if word == NO_WORD:
        return NONE
    declared = library.find(slot, word).options
    found = {}
    for key, value in (options or {}).items():
        name = former.named(word, key)
        found[name] = _value(former.reading(word, key, declared[name]), value)
    return canonical(slot, word, found)


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
    place: str = USUAL["place"]
    join: Part = USUAL["join"]
    same_as: int | None = None
    parallel: bool = False

    def to_plain(self) -> dict[str, Any]:
        """Operation and norm, and what is not at its default."""
        given = ((name, value) for name, value in vars(self).items() if value != _OWN[name])
        return {name: value.to_plain() if isinstance(value, Part) else value for name, value in given}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Sublayer:
        """The inverse of `to_plain`."""
        slots = {"operation": "sublayer", "norm": "norm", "join": "join"}
        given: dict[str, Any] = {name: part_from_plain(slots[name], value) if name in slots else value for name, value in plain.items()}
        return cls(**given)


_OWN = {f.name: f.default for f in fields(Sublayer)}


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
        dropout: The share of entries that training drops from the embedded tokens, and from the output of every operation.
        drop_path: The share of samples for which training drops the output of the last sublayer of each kind; see `drop_paths`.
        decisions: Address -> value of every decision that was met; not part of the identity.
    """

    width: int
    sublayers: tuple[Sublayer, ...]
    positions: Part
    final_norm: Part
    embedding: Part
    pooling: Part
    head: str
    initialisation: str
    sizes: Sizes
    dropout: float = USUAL["dropout"]
    drop_path: float = USUAL["drop_path"]
    decisions: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """The canonical form as plain data, without what is at its default."""
        own = {"positions": self.positions, "final_norm": self.final_norm}
        usual = complete({"embedding": self.embedding}, self.sizes) | _ends(self.sizes)
        left = {name: getattr(self, name) for name in ("embedding", "pooling", "head", "initialisation", "dropout", "drop_path")}
        own |= {name: value for name, value in left.items() if value != usual[name]}
        plain = {name: value.to_plain() if isinstance(value, Part) else value for name, value in own.items()}
        return {"width": self.width, "sublayers": [s.to_plain() for s in self.sublayers], "sizes": dict(self.sizes), **plain}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], decisions: Mapping[str, Any] | None = None) -> Architecture:
        """The inverse of `to_dict`."""
        options = {name: part_from_plain(SLOTS[name], value) if name in SLOTS else value for name, value in plain.items()}
        model = cls.frame(options, tuple(sorted(plain["sizes"].items())))
        return dataclasses.replace(model, sublayers=tuple(map(Sublayer.from_plain, plain["sublayers"])), decisions=dict(decisions or {}))

    @classmethod
    def frame(cls, options: Mapping[str, Any], sizes: Sizes) -> Architecture:
        """A model without sublayers, from those options of `model` that are given; the others at their defaults."""
        found = complete(options, sizes)
        own = {f.name: found[f.name] for f in fields(cls) if f.name in found}
        return cls(**{**own, "sublayers": (), "sizes": sizes})

    @functools.cached_property
    def digest(self) -> str:
        """Twelve hexadecimal characters that name the model; equal models have equal digests on every machine."""
        text = json.dumps(former.plain(self.to_dict()), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def drop_paths(self) -> list[float]:
        """Of each sublayer the probability that training drops its output for a sample: of the k-th of n mixers, and of the k-th of n
        channel operations, `drop_path` * k / (n - 1), k from 0.

        Source: Huang et al. 2016, arXiv:1603.09382, by blocks as timm has it.
        """
        kinds = [library.find("sublayer", s.operation.word).slot for s in self.sublayers]
        last = {kind: max(number - 1, 1) for kind, number in Counter(kinds).items()}
        places = {kind: itertools.count() for kind in last}
        return [self.drop_path * next(places[kind]) / last[kind] for kind in kinds]

    def size(self, name: str) -> int:
        """A size given by the task."""
        return dict(self.sizes)[name]

    def diff(self, other: Architecture) -> dict[str, tuple[Any, Any]]:
        """The decisions in which two architectures differ: address -> (here, there), None where it is not met."""
        addresses = [*self.decisions, *(a for a in other.decisions if a not in self.decisions)]
        pairs = {a: (self.decisions.get(a), other.decisions.get(a)) for a in addresses}
        return {a: pair for a, pair in pairs.items() if pair[0] != pair[1]}


def complete(options: Mapping[str, Any], sizes: Sizes) -> dict[str, Any]:
    """The options of a model with every default, but for its width and what its sublayers are."""
    found = {**USUAL, **_ends(sizes), **options}
    # a pre-norm stream leaves its last join unnormalised, with a sandwich too; a post-norm one does not
    found.setdefault("final_norm", NONE if found["place"] == "post" else found["norm"])
    found.setdefault("head", usual_head(found["embedding"], sizes))
    return found


def _ends(sizes: Sizes) -> dict[str, Part]:
    """The embedding and the pooling that the sizes of a task ask for."""
    given = dict(sizes)
    if "image" in given:
        return {"embedding": Part("patch"), "pooling": Part("mean")}
    return {"embedding": Part("vector") if "inputs" in given else TOKEN, "pooling": NONE}


def usual_head(embedding: Part, sizes: Sizes) -> str:
    """`tied` where there is a vector per token of a vocabulary."""
    return "tied" if embedding.word == TOKEN.word and "vocabulary" in dict(sizes) else "free"


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
