"""The library of words as text, for people; reads signatures alone, so it is as quick as they are."""

from __future__ import annotations

import textwrap
from typing import Any

from aotsearch.errors import InputError, suggest
from aotsearch.grammar import library
from aotsearch.grammar.words import NEEDED, NONE, SLOTS, Word

WIDTH = 100


def overview() -> str:
    """Every word with its formula, its options at their defaults, and its source."""
    lines = []
    column = max(len(name) for _, name in library.library()) + 2
    for slot in SLOTS:
        lines += ["", slot]
        for w in library.words_of(slot).values():
            options = ", ".join(f"{o.name} {'(required)' if o.required else plain(o.default)}" for o in w.options.values())
            body = [w.summary, w.formula, options and f"Options: {options}", w.source and f"Source: {w.source}"]
            texts = [line for text in body if text for line in wrap(text, WIDTH - 2 - column)]
            lines += [f"  {name:<{column}}{text}" for name, text in zip([w.name, *[""] * len(texts)], texts, strict=False)]
    lines += [
        "",
        f"`{NONE}` stands in every slot but {', '.join(NEEDED)}: the part is not there.",
        "`aotsearch words WORD` shows one word in detail.",
    ]
    return "\n".join(lines[1:])


def detail(name: str) -> str:
    """A word with everything that its class declares; in every slot that has it."""
    return "\n\n".join(_detail(w) for w in named(name))


def named(name: str | None = None) -> list[Word]:
    """The words of one name, in every slot that has it; without a name all of them."""
    found = [w for (_, known), w in library.library().items() if name in (None, known)]
    if not found:
        raise InputError(
            f"no word {name!r} in the library{suggest(name, (known for _, known in library.library()))}{library.why_not(name)}"
        )
    return found


def word_to_plain(w: Word) -> dict[str, Any]:
    """A word as plain data."""
    fields = ("name", "law", "slot", "required", "default", "description")
    options = [{field: getattr(o, field) for field in fields} for o in w.options.values()]
    texts = {"summary": w.summary, "formula": w.formula, "source": w.source, "differs": w.differs}
    return {"slot": w.slot, "name": w.name, **texts, "options": options, "requires": list(w.requires)}


def _detail(w: Word) -> str:
    lines = [f"{w.name}  ({w.slot})", *_indented(w.summary, 0), "", *_indented(w.formula, 4)]
    for o in w.options.values():
        law = o.law + (f" ({', '.join(library.words_of(o.slot))})" if o.slot else "")
        title = f"{o.name}: {law}; {'required' if o.required else f'default {plain(o.default)}'}"
        lines += ["", *_indented(title, 0), *_indented(o.description, 4)]
    if w.requires:
        lines += ["", "Requires", *(f"    {text}" for text in w.requires)]
    for title, text in (("Source", w.source), ("Differs", w.differs)):
        lines += ["", title, *_indented(text, 4)] if text else []
    return "\n".join(lines)


def _indented(text: str, by: int) -> list[str]:
    return [" " * by + line for line in wrap(text, WIDTH - by)]


def plain(value: object) -> str:
    """A value as a study file writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def wrap(text: str, width: int) -> list[str]:
    """At least one line; words longer than it are broken."""
    return textwrap.wrap(text, max(width, 12), break_on_hyphens=False) or [""]
