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

from aotsearch import registry


@dataclass(frozen=True)
class Part:
    """A word with the options that differ from its defaults, sorted by name."""

    word: str
    options: tuple[tuple[str, Any], ...] = ()

    def __str__(self) -> str:
        shown = ", ".join(f"{k}: {_text(v)}" for k, v in self.options)
        return f"{self.word} {{{shown}}}" if shown else self.word

    def to_plain(self) -> Any:
        """`word`, or `{word: {option: value}}`, as a study file writes it."""
        return {self.word: dict(self.options)} if self.options else self.word

    @property
    def absent(self) -> bool:
        return self.word == registry.NONE


NONE = Part(registry.NONE)


def part(slot: str, word: str, options: Mapping[str, Any]) -> Part:
    """A part in canonical form: options parsed by the word's types, defaults dropped."""
    if word == registry.NONE:
        assert not options
        return NONE
    declared = registry.find(slot, word).options
    parsed = {k: declared[k].parse(v) for k, v in options.items()}
    return Part(word, tuple(sorted((k, v) for k, v in parsed.items() if v != declared[k].default or declared[k].required)))


def part_from_plain(slot: str, plain: Any) -> Part:
    """The inverse of `Part.to_plain`."""
    if isinstance(plain, str):
        return part(slot, plain, {})
    ((word, options),) = plain.items()
    return part(slot, word, options or {})


@dataclass(frozen=True)
class Sublayer:
    """One residual step: `x <- join(x, operation(norm(x)))` where the norm is placed before (`pre`), or
    `x <- norm(join(x, operation(x)))` where it is placed after (`post`).

    `same_as` is the index of the earlier sublayer whose weights it uses, None where the weights are its own.
    """

    operation: Part
    norm: Part
    place: str = "pre"
    join: Part = Part("add")
    same_as: int | None = None

    def to_plain(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"operation": self.operation.to_plain(), "norm": self.norm.to_plain()}
        if self.place != "pre":
            plain["place"] = self.place
        if self.join != Part("add"):
            plain["join"] = self.join.to_plain()
        if self.same_as is not None:
            plain["same_as"] = self.same_as
        return plain


@dataclass(frozen=True)
class Architecture:
    """A model, decided.

    Attributes:
        width: Size D of the residual stream.
        sublayers: The steps of the model in order.
        positions: How a token knows its place.
        final_norm: The norm between the last sublayer and the head.
        head: `tied` (the output matrix is the token embedding) or `free`.
        sizes: What comes from the task: (`vocabulary`, V), (`context`, L) for language.
        decisions: Address -> value of every decision that was met; not part of the identity.
    """

    width: int
    sublayers: tuple[Sublayer, ...]
    positions: Part
    final_norm: Part
    head: str = "tied"
    sizes: tuple[tuple[str, int], ...] = ()
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
        if self.head != "tied":
            plain["head"] = self.head
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
            )
            for s in plain["sublayers"]
        )
        return cls(
            width=plain["width"],
            sublayers=sublayers,
            positions=part_from_plain("positions", plain["positions"]),
            final_norm=part_from_plain("norm", plain["final_norm"]),
            head=plain.get("head", "tied"),
            sizes=tuple(sorted(plain["sizes"].items())),
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


def _text(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
