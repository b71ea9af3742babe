"""The library of words: word -> signature, documentation and class.

A word is one class with the decorator `@word(slot, name)`; its keyword-only arguments are its options, so names, types,
defaults and descriptions are written once. Signatures are read from source text, never by import: checking a study must not
load torch. `load` imports the class when a model is built.

The first positional argument of every part is `site`, where it stands; nothing else is injected. An option may be a part of another
slot. The section `Requires:` of the docstring holds laws, an expression in each line, that every use of the word keeps.

Installed packages add words through the entry-point groups `aotsearch.parts` and `aotsearch.tasks`; a study file can not name code.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import pydantic
from pydantic import Field

SUBLAYERS = ("mixer", "channel")  # the two kinds of operation a block is made of
SLOTS = (*SUBLAYERS, "norm", "positions", "join", "embedding", "pooling", "score", "coefficient", "task")
NEEDED = ("embedding", "score", "coefficient", "task")  # a model can not do without
NONE = "none"  # in every other slot: the part that is not there

Count = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Divisor = Annotated[int, Field(ge=1, strict=True, json_schema_extra={"divides": "width"})]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True)]
Table = dict[str, Any]
Score = Annotated[Any, "score"]  # a part of that slot, as an option of another part
Coefficient = Annotated[Any, "coefficient"]

# What the annotations of a word may be made of, with the words a person reads.
TYPES: dict[str, tuple[Any, str]] = {
    "Count": (Count, "a whole number of at least 1"),
    "Natural": (Natural, "a whole number of at least 0"),
    "Divisor": (Divisor, "a whole number that divides width"),
    "Number": (Number, "a number"),
    "Positive": (Positive, "a number above 0"),
    "Flag": (Flag, "true or false"),
    "Text": (Text, "a string"),
    "Table": (Table, "a mapping"),
    "Score": (None, "a score function"),
    "Coefficient": (None, "a coefficient"),
}
NESTED = {"Score": "score", "Coefficient": "coefficient"}  # the types that are parts of another slot

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """One option of a word: its type, its default, and what it means."""

    name: str
    type: Any  # of the scalars it takes; None where it takes none
    law: str  # the type in words
    default: Any
    required: bool
    description: str
    divides_width: bool
    slot: str = ""  # of the parts it takes; "" where it takes none

    @functools.cached_property
    def _adapter(self) -> pydantic.TypeAdapter[Any]:
        return pydantic.TypeAdapter(self.type)

    def parse(self, value: Any) -> Any:
        """The value in canonical form. Raises ValueError, with the law, for a value of another type."""
        try:
            if self.type is None or (isinstance(value, bool) and "true or false" not in self.law):
                raise ValueError
            return self._adapter.validate_python(value)
        except ValueError:
            raise ValueError(f"{self.name} is {self.law}, not {value!r}") from None

    def takes(self, value: Any) -> bool:
        """Whether a value is one of the scalars of this option."""
        try:
            self.parse(value)
        except ValueError:
            return False
        return True

    @property
    def literals(self) -> tuple[str, ...]:
        """The words this option may be, where its type names any."""
        return tuple(re.findall(r"'([^']+)'", self.law))


@dataclass(frozen=True)
class Word:
    """One word of the library, as its source text declares it."""

    slot: str
    name: str
    options: dict[str, Option]
    summary: str
    formula: str
    source: str
    differs: str
    requires: tuple[str, ...]  # expressions that must hold; see `laws` for the names in them
    traits: frozenset[str]  # what its class says is True of it, such as `rotates`
    module: str
    qualname: str

    def load(self) -> type:
        """The class behind the word; this is the only place that imports a part."""
        cls: type = getattr(importlib.import_module(self.module), self.qualname)
        return cls


def word(slot: str, name: str) -> Callable[[type[T]], type[T]]:
    """Declare a class as the word `name` of `slot`. Both must be literal strings: they are read from the source text."""
    assert slot in SLOTS, slot
    assert re.fullmatch(r"[a-z][a-z0-9-]*", name) and name != NONE, name

    def declare(cls: type[T]) -> type[T]:
        return cls

    return declare


@functools.cache
def library() -> dict[tuple[str, str], Word]:
    """Every word, by slot and name, in reading order."""
    words: dict[tuple[str, str], Word] = {}
    for module, path in _sources():
        for found in read_words(path.read_text(encoding="utf-8"), module):
            assert (found.slot, found.name) not in words, f"the {found.slot} word {found.name!r} is declared twice"
            words[found.slot, found.name] = found
    return words


def words_of(*slots: str) -> dict[str, Word]:
    """The words of some slots, by name."""
    return {name: w for (slot, name), w in library().items() if slot in slots}


def find(slot: str, name: str) -> Word:
    """One word; asserts that it exists, since study files are checked before."""
    known = library()
    slots = SUBLAYERS if slot in SUBLAYERS or slot == "sublayer" else (slot,)
    (found,) = [known[s, name] for s in slots if (s, name) in known]
    return found


def _sources() -> Iterator[tuple[str, Path]]:
    here = Path(__file__).parent
    for package in ("parts", "tasks"):
        for path in sorted((here / package).glob("*.py")):
            yield f"aotsearch.{package}.{path.stem}", path
    for group in ("aotsearch.parts", "aotsearch.tasks"):
        for entry in importlib.metadata.entry_points(group=group):
            spec = importlib.util.find_spec(entry.module)
            if spec is not None and spec.origin is not None:
                yield entry.module, Path(spec.origin)


def read_words(source: str, module: str) -> list[Word]:
    """The words that a module's source text declares."""
    found = []
    for node in ast.parse(source).body:
        if not isinstance(node, ast.ClassDef):
            continue
        for call in node.decorator_list:
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "word":
                slot, name = (ast.literal_eval(a) for a in call.args)
                found.append(_read_word(node, slot, name, module))
    return found


def _read_word(node: ast.ClassDef, slot: str, name: str, module: str) -> Word:
    doc = ast.get_docstring(node) or ""
    described = _described(doc)
    init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    options = {}
    if init is not None:
        assert init.args.kwarg is None, f"{node.name}: **kwargs would let a misspelt option pass"
        for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
            assert argument.annotation is not None, f"{node.name}: option {argument.arg!r} needs a type"
            kind, law, part = _read_type(argument.annotation)
            options[argument.arg] = Option(
                name=argument.arg,
                type=kind,
                law=law,
                default=None if default is None else ast.literal_eval(default),
                required=default is None,
                description=described.get(argument.arg, ""),
                divides_width="divides width" in law,
                slot=part,
            )
    sections = {s: re.search(rf"^{s}: (.*?)(?=\n\n|\nDiffers:|\Z)", doc, re.M | re.S) for s in ("Source", "Differs")}
    source, differs = (" ".join(found.group(1).split()) if found else "" for found in sections.values())
    paragraphs = doc.split("\n\n")
    return Word(
        slot=slot,
        name=name,
        options=options,
        summary=doc.split("\n", 1)[0],
        formula=" ".join(paragraphs[1].split()) if len(paragraphs) > 1 else "",
        source=source,
        differs=differs,
        requires=_required(doc),
        traits=_traits(node),
        module=module,
        qualname=node.name,
    )


def _described(doc: str) -> dict[str, str]:
    """The `Args:` section of a docstring: option -> description."""
    section = re.search(r"^Args:\n(.*?)(?=^\S|\Z)", doc, re.M | re.S)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", section.group(1), re.M | re.S) if section else []
    return {name: " ".join(text.split()) for name, text in entries}


def _required(doc: str) -> tuple[str, ...]:
    """The `Requires:` section of a docstring: an expression in each line."""
    section = re.search(r"^Requires:(.*?)(?=^\S|\Z)", doc, re.M | re.S)
    return tuple(line.strip() for line in section.group(1).splitlines() if line.strip()) if section else ()


def _traits(node: ast.ClassDef) -> frozenset[str]:
    """The names that the body of a class sets to True."""
    true = [a for a in node.body if isinstance(a, ast.Assign) and isinstance(a.value, ast.Constant) and a.value.value is True]
    return frozenset(t.id for a in true for t in a.targets if isinstance(t, ast.Name))


def _read_type(node: ast.expr) -> tuple[Any, str, str]:
    """An annotation as a type that pydantic can check, as words, and as the slot of the parts it allows."""
    if isinstance(node, ast.Name):
        assert node.id in TYPES, f"the type {node.id!r} is not one of {', '.join(TYPES)}"
        return *TYPES[node.id], NESTED.get(node.id, "")
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        (left, left_law, left_slot), (right, right_law, right_slot) = _read_type(node.left), _read_type(node.right)
        assert not (left_slot and right_slot), f"the parts of an option are of one slot, not of {left_slot} and {right_slot}"
        kinds = tuple(kind for kind in (left, right) if kind is not None)
        both = Union[kinds] if kinds else None  # noqa: UP007 (built from values)
        return both, f"{left_law} or {right_law}", left_slot or right_slot
    assert isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name) and node.value.id == "Literal", ast.dump(node)
    values = ast.literal_eval(node.slice)
    values = values if isinstance(values, tuple) else (values,)
    return Literal[values], " or ".join(map(repr, values)), ""
