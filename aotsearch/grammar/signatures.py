"""Source text -> words: signatures are read, never imported, since checking a study must not load torch."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from typing import Any, Literal, Union

from aotsearch.grammar.words import NONE, SLOTS, SUBLAYER_OPTIONS, SUBLAYERS, TYPES, Option, Word


def read_words(source: str, module: str) -> list[Word]:
    """The words that a module's source text declares.

    Raises:
        ValueError: one of them is none.
    """
    return [read_word(node, call, module) for node, call in declared(source)]


def declared(source: str) -> Iterator[tuple[ast.ClassDef, ast.Call]]:
    """The classes of a module that are declared as words, with their decorators."""
    for node in ast.parse(source).body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "word":
                yield node, call  # type: ignore[misc]


def name_of(call: ast.Call) -> str:
    """The name that a decorator gives, as far as it can be read."""
    last = call.args[-1] if call.args else None
    return str(last.value) if isinstance(last, ast.Constant) else ""


def read_word(node: ast.ClassDef, call: ast.Call, module: str, package: str = "") -> Word:
    """The word that a class is. Raises ValueError where it is none."""
    given = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    _law(len(given) == len(call.args) == 2 and not call.keywords, "@word takes two literal strings, the slot and the name")
    slot, name = given
    _law(slot in SLOTS, f"the slot {slot!r} is not one of {', '.join(SLOTS)}")
    _law(re.fullmatch(r"[a-z][a-z0-9-]*", name) and name != NONE, f"the name {name!r} is not one of small letters, digits and '-'")
    doc = ast.get_docstring(node) or ""
    paragraphs = doc.split("\n\n")
    return Word(
        slot=slot,
        name=name,
        options={option.name: option for option in _options(node, slot, doc)},
        summary=doc.split("\n", 1)[0],
        formula=" ".join(paragraphs[1].split()) if paragraphs[1:] else "",
        source=_paragraph(doc, "Source"),
        differs=_paragraph(doc, "Differs"),
        requires=tuple(line.strip() for line in _section(doc, "Requires").splitlines() if line.strip()),
        traits=_traits(node),
        module=module,
        qualname=node.name,
        package=package,
    )


def _law(holds: object, text: str) -> None:
    if not holds:
        raise ValueError(text)


def _options(node: ast.ClassDef, slot: str, doc: str) -> Iterator[Option]:
    init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    if init is None:
        return
    given = init.args
    _law(given.kwarg is None, "**kwargs would let a misspelt option pass; write the options out")
    places = [a.arg for a in (*given.posonlyargs, *given.args)]
    _law(len(places) > 1, f"__init__ takes self, {'folder' if slot == 'task' else 'site'}, *, and its options")
    extra = places[2:] + ([given.vararg.arg] if given.vararg else [])
    _law(not extra, f"after {places[1]!r} options are keyword-only; put * before {', '.join(extra)}")
    described = dict(re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", _section(doc, "Args"), re.M | re.S))
    for argument, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield _read_option(argument, default, " ".join(described.get(argument.arg, "").split()))
    taken = sorted({a.arg for a in given.kwonlyargs} & set(SUBLAYER_OPTIONS)) if slot in SUBLAYERS else []
    _law(not taken, f"every sublayer takes {', '.join(taken)} already; give the option another name")


def _read_option(argument: ast.arg, default: ast.expr | None, description: str) -> Option:
    name = argument.arg
    _law(argument.annotation is not None, f"the option {name!r} needs a type, one of {', '.join(TYPES)}, Literal[...]")
    assert argument.annotation is not None
    try:
        kind, law, slot = _read_type(argument.annotation)
    except ValueError as e:
        raise ValueError(f"the option {name!r}: {e}") from None
    if default is None:
        return Option(name, kind, law, None, description, slot)
    try:
        value = ast.literal_eval(default)
    except (ValueError, TypeError):
        raise ValueError(f"the default of the option {name!r} is read from source text: a literal, not {ast.unparse(default)}") from None
    option = Option(name, kind, law, value, description, slot)
    fits = option.takes(value) or (slot and isinstance(value, str | dict))
    _law(fits, f"the default of the option {name!r}: {name} is {law}, not {value!r}")
    return option


def _read_type(node: ast.expr) -> tuple[Any, str, str]:
    """An annotation as a type that pydantic can check, as words, and as the slot of the parts it allows."""
    known = f"{', '.join(TYPES)}, Literal[...], or two of them joined by |"
    if isinstance(node, ast.Name):
        _law(node.id in TYPES, f"the type {node.id!r} is not one of {known}")
        return TYPES[node.id]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        (left, left_law, left_slot), (right, right_law, right_slot) = _read_type(node.left), _read_type(node.right)
        _law(not (left_slot and right_slot), f"the parts of an option are of one slot, not of {left_slot} and {right_slot}")
        kinds = tuple(kind for kind in (left, right) if kind is not None)
        both = Union[kinds] if kinds else None  # noqa: UP007 (built from values)
        return both, f"{left_law} or {right_law}", left_slot or right_slot
    literal = isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal"
    _law(literal, f"the type {ast.unparse(node)!r} is not one of {known}")
    assert isinstance(node, ast.Subscript)
    try:
        values = ast.literal_eval(node.slice)
    except (ValueError, TypeError):
        raise ValueError(f"the type {ast.unparse(node)!r} is read from source text: literals, not names") from None
    values = values if isinstance(values, tuple) else (values,)
    return Literal[values], " or ".join(map(repr, values)), ""


def _section(doc: str, name: str) -> str:
    """The indented lines below `name:`."""
    found = re.search(rf"^{name}:(.*?)(?=^\S|\Z)", doc, re.M | re.S)
    return found.group(1) if found else ""


def _paragraph(doc: str, name: str) -> str:
    """What follows `name:` on its line and on those below it."""
    found = re.search(rf"^{name}: (.*?)(?=\n\n|\nDiffers:|\Z)", doc, re.M | re.S)
    return " ".join(found.group(1).split()) if found else ""


def _traits(node: ast.ClassDef) -> frozenset[str]:
    """The names that the body of a class sets to True."""
    true = [a for a in node.body if isinstance(a, ast.Assign) and isinstance(a.value, ast.Constant) and a.value.value is True]
    return frozenset(t.id for a in true for t in a.targets if isinstance(t, ast.Name))
