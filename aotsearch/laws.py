"""The laws of the library: what a word requires of its options, of the width and of the sizes of the task.

A law is written in the section `Requires:` of a word's docstring, in the language of constraints. Its names are options of the word (a
part among them stands for its own word), `width`, and sizes of the task.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from aotsearch import constraint, registry
from aotsearch.architecture import Architecture, Part, Sizes, defaults, usual_head
from aotsearch.errors import InputError, Mark
from aotsearch.yamlfile import Node

Breach = tuple[str, str]  # which law is broken, and the option it is about ("" where it is not about one)


@functools.lru_cache(maxsize=4096)
def _parsed(word: str, text: str) -> constraint.Constraint:
    return constraint.parse(Node(text, Mark(f"the word {word}")))


class Law:
    """One requirement of a word, for a width and the sizes of a task."""

    def __init__(self, word: registry.Word, text: str, width: int, sizes: Sizes):
        self.text = f"{word.name} requires {text}"
        try:
            self.expression = _parsed(word.name, text)
        except InputError as e:
            raise (word.blamed(e, f"requires {text!r}, which is no law") if word.package else e) from None
        names = self.expression.names
        self.options = tuple(sorted(names & word.options.keys()))
        given = dict(sizes) | {"width": width}
        self.given = {name: given[name] for name in names - word.options.keys() if name in given}
        self.missing = min(names - word.options.keys() - given.keys(), default="")
        self.whose = f"; so says the package {word.package}, {word.module}.{word.qualname}" if word.package else ""
        self.known: dict[tuple[Any, ...], bool] = {}

    def holds(self, options: Mapping[str, Any]) -> bool:
        values = tuple(_named(options[name]) for name in self.options)
        if values not in self.known:
            self.known[values] = not self.missing and self.expression.holds(self.given | dict(zip(self.options, values, strict=True)))
        return self.known[values]

    def breach(self, word: str, options: Mapping[str, Any]) -> Breach:
        """What is said where it does not hold."""
        if self.missing:
            return f"{word} requires {self.missing}, which the task does not give{self.whose}", ""
        values = self.given | {name: _named(options[name]) for name in self.options}
        shown = ", ".join(f"{name} = {values[name]}" for name in sorted(values))
        return f"{self.text}, which does not hold for {shown}", ""


@functools.lru_cache(maxsize=4096)
def laws(slot: str, word: str, width: int, sizes: Sizes) -> tuple[Law, ...]:
    """The laws of a word, besides which options divide the width."""
    found = registry.find(slot, word)
    return tuple(Law(found, text, width, sizes) for text in found.requires)


def broken(slot: str, given: Part, width: int, sizes: Sizes) -> Breach | None:
    """The first law that a part breaks, or a part among its options; None where all hold."""
    if given.absent:
        return None
    options = {**defaults(slot, given.word), **dict(given.options)}
    for name, option in registry.find(slot, given.word).options.items():
        value = options[name]
        if option.divides_width and width % value:
            return f"{name} divides width: {value} does not divide {width}", name
        inner = broken(option.slot, value, width, sizes) if isinstance(value, Part) else None
        if inner is not None:
            return inner[0], name
    return next((law.breach(given.word, options) for law in laws(slot, given.word, width, sizes) if not law.holds(options)), None)


def unfit(model: Architecture) -> Breach | None:
    """The first law that a model without sublayers breaks; None where all hold."""
    slots = {"positions": "positions", "final_norm": "norm", "embedding": "embedding", "pooling": "pooling"}
    for name, slot in slots.items():
        found = broken(slot, getattr(model, name), model.width, model.sizes)
        if found is not None:
            return found[0], name
    if model.head == "tied" and usual_head(model.embedding, model.sizes) != "tied":
        return f"head: tied is the matrix of the embedding 'token', here it is {model.embedding.word!r}; write head: free", "head"
    outputs = dict(model.sizes).get("outputs")
    if model.head == "none" and outputs != model.width:
        asked = f"{outputs} outputs" if outputs else "logits"
        return f"head: none makes the stream the output, where the task asks for {asked} and the width is {model.width}", "head"
    if "image" in dict(model.sizes) and model.pooling.absent:
        return "pooling: none leaves a vector per token, where an image has one class; write pooling: mean", "pooling"
    if "image" not in dict(model.sizes) and not model.pooling.absent:
        return (
            f"pooling: {model.pooling.word} makes one vector of all tokens, where the task asks for one per token; leave it out",
            "pooling",
        )
    return None


def _named(value: Any) -> Any:
    return value.word if isinstance(value, Part) else value
