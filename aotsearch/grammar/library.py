"""The library of words: word -> signature, documentation and class.

A word is one class with the decorator `@word(slot, name)`; its keyword-only arguments are its options, so names, types,
defaults and descriptions are written once. Signatures are read from source text, never by import: checking a study must not
load torch. `load` imports the class when a model is built.

The first positional argument of every part is `site`, where it stands; nothing else is injected. An option may be a part of another
slot. The section `Requires:` of the docstring holds laws, an expression in each line, that every use of the word keeps.

Installed packages add words through the entry-point groups `aotsearch.parts` and `aotsearch.tasks`; a study file can not name code. What a
package gets wrong costs its own word alone: the others live, one line is logged, and what asks for that word is told why it is not there.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, Union

import pydantic
from pydantic import Field

from aotsearch.errors import AotsearchError, WordError, one_line

SUBLAYERS = ("mixer", "channel")  # the two kinds of operation a block is made of
SLOTS = (*SUBLAYERS, "norm", "positions", "join", "embedding", "pooling", "score", "coefficient", "task")
NEEDED = ("embedding", "score", "coefficient", "task")  # a model can not do without
NONE = "none"  # in every other slot: the part that is not there
SUBLAYER_OPTIONS = ("norm", "place", "join", "tied")  # what every sublayer takes besides its own options
HOMES = ("models.parts", "tasks")  # folders with words of ours
GROUPS = ("aotsearch.parts", "aotsearch.tasks")  # entry points of packages with words

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
    package: str = ""  # the distribution it was installed with; "" where it is ours

    def load(self) -> type:
        """The class behind the word; this is the only place that imports a part.

        Raises:
            WordError: it is an installed package's, and can not be imported.
        """
        try:
            cls: type = getattr(importlib.import_module(self.module), self.qualname)
        except (Exception, SystemExit) as e:
            if not self.package:
                raise
            raise self.blamed(e, "can not be imported") from e
        return cls

    def make(self, *place: Any, **options: Any) -> Any:
        """An object of the class: of a part where it stands, of a task its folder, then its options.

        Raises:
            ValueError: the options of a task do not fit.
            WordError: it is an installed package's, and raises anything else.
        """
        cls = self.load()
        try:
            return cls(*place, **options)
        except AotsearchError:
            raise
        except Exception as e:
            if not self.package or (self.slot == "task" and isinstance(e, ValueError)):
                raise
            raise self.blamed(e, "can not be made") from e

    def blamed(self, error: BaseException, what: str) -> WordError:
        """An error of an installed word in one line that says whose it is."""
        broken = Broken(self.package, f"{self.module}.{self.qualname}", f"{what}: {type(error).__name__}: {error}")
        return WordError(f"the {self.slot} word {self.name!r} can not be used: {broken}")


@dataclass(frozen=True)
class Broken:
    """What an installed package offers as a word and is none."""

    package: str
    place: str  # the module, or the class in it
    reason: str
    word: str = ""  # its name, where it is known

    def __str__(self) -> str:
        return one_line(f"the package {self.package}, {self.place}: {self.reason}; mend it, or `pip uninstall {self.package}`")


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
    words = dict(_own())
    words.update(((w.slot, w.name), w) for w in _installed()[0])
    return words


def broken() -> tuple[Broken, ...]:
    """What installed packages offer and can not be used, by package."""
    return _installed()[1]


def why_not(name: object) -> str:
    """The tail of an unknown-word message, where a broken package has, or may have, that word."""
    named = [b for b in broken() if b.word.casefold() == str(name).casefold()] or [b for b in broken() if not b.word]
    return f"; {'the word is' if named[0].word else 'it may be'} that of {named[0]}" if named else ""


@functools.cache
def _own() -> dict[tuple[str, str], Word]:
    words: dict[tuple[str, str], Word] = {}
    root = Path(__file__).parents[1]
    for package in HOMES:
        for path in sorted(root.joinpath(*package.split(".")).glob("*.py")):
            for found in read_words(path.read_text(encoding="utf-8"), f"aotsearch.{package}.{path.stem}"):
                assert (found.slot, found.name) not in words, f"the {found.slot} word {found.name!r} is declared twice"
                words[found.slot, found.name] = found
    return words


@functools.cache
def _installed() -> tuple[tuple[Word, ...], tuple[Broken, ...]]:
    """The words of installed packages, and what is wrong with the others; said once, a line for each package."""
    words, wrong = _offered()
    alone, twins = _apart(words)
    wrong += twins
    for package in dict.fromkeys(b.package for b in wrong):
        first, *more = (b for b in wrong if b.package == package)
        logging.getLogger(__name__).warning("a word is left out: %s%s", first, f" ({len(more)} more of it)" if more else "")
    return tuple(alone), tuple(wrong)


def _offered() -> tuple[list[Word], list[Broken]]:
    """What the text of installed packages declares, each class by itself."""
    words, wrong = [], []
    for module, package in _entries().items():
        try:
            tree = ast.parse(_source(module).read_text(encoding="utf-8"))
        except Exception as e:  # noqa: BLE001 (a package may hold anything)
            wrong.append(Broken(package, module, f"can not be read: {type(e).__name__}: {e}"))
            continue
        declared = list(_declared(tree))
        if not declared:
            reason = 'it declares no word: a class at the top of the module, with the decorator written @word("slot", "name")'
            wrong.append(Broken(package, module, reason))
        for node, call in declared:
            try:
                words.append(_read_word(node, call, module, package))
            except Exception as e:  # noqa: BLE001
                wrong.append(Broken(package, f"{module}.{node.name}", str(e), _name_of(call)))
    return words, wrong


def _apart(words: list[Word]) -> tuple[list[Word], list[Broken]]:
    """Those that have their name alone, and the others. An operation is found by its name, whichever kind of sublayer it is."""
    holders = defaultdict(list)
    for w in [*_own().values(), *words]:
        holders["sublayer" if w.slot in SUBLAYERS else w.slot, w.name].append(w)
    alone, wrong = [], []
    for w in words:
        others = [o for o in holders["sublayer" if w.slot in SUBLAYERS else w.slot, w.name] if o is not w]
        if not others:
            alone.append(w)
            continue
        whose = f"that of the package {others[0].package}" if others[0].package else "aotsearch's own"
        reason = f"the {w.slot} word {w.name!r} is also {whose} ({others[0].module}.{others[0].qualname}); give it another name"
        wrong.append(Broken(w.package, f"{w.module}.{w.qualname}", reason, w.name))
    return alone, wrong


def _entries() -> dict[str, str]:
    """The modules with words that installed packages name -> the package, the first by name where several name one."""
    found = set()
    for group in GROUPS:
        for entry in importlib.metadata.entry_points(group=group):
            package = entry.dist.name if entry.dist is not None else entry.name
            found.add((package, entry.value.partition(":")[0].strip()))
    modules: dict[str, str] = {}
    for package, module in sorted(found):
        modules.setdefault(module, package)
    return modules


def _source(module: str) -> Path:
    """The source file of a module, found without importing the packages around it."""
    first, *inner = module.split(".")
    spec = importlib.util.find_spec(first)
    name = first
    for part in inner:
        name = f"{name}.{part}"
        spec = importlib.machinery.PathFinder.find_spec(name, spec.submodule_search_locations) if spec is not None else None
    if spec is None:
        raise ModuleNotFoundError(f"there is no module {name}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise ImportError("its signatures are read from source text, and it has none")
    return Path(spec.origin)


def words_of(*slots: str) -> dict[str, Word]:
    """The words of some slots, by name."""
    return {name: w for (slot, name), w in library().items() if slot in slots}


def find(slot: str, name: str) -> Word:
    """One word; asserts that it exists, since study files are checked before."""
    known = library()
    slots = SUBLAYERS if slot in SUBLAYERS or slot == "sublayer" else (slot,)
    (found,) = [known[s, name] for s in slots if (s, name) in known]
    return found


def read_words(source: str, module: str) -> list[Word]:
    """The words that a module's source text declares.

    Raises:
        ValueError: one of them is none.
    """
    return [_read_word(node, call, module) for node, call in _declared(ast.parse(source))]


def _declared(tree: ast.Module) -> Iterator[tuple[ast.ClassDef, ast.Call]]:
    """The classes of a module that are declared as words, with their decorators."""
    for node in tree.body:
        for call in node.decorator_list if isinstance(node, ast.ClassDef) else ():
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "word":
                yield node, call  # type: ignore[misc]


def _name_of(call: ast.Call) -> str:
    """The name that a decorator gives, as far as it can be read."""
    last = call.args[-1] if call.args else None
    return str(last.value) if isinstance(last, ast.Constant) else ""


def _law(holds: object, text: str) -> None:
    if not holds:
        raise ValueError(text)


def _read_word(node: ast.ClassDef, call: ast.Call, module: str, package: str = "") -> Word:
    given = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    _law(len(given) == len(call.args) == 2 and not call.keywords, "@word takes two literal strings, the slot and the name")
    slot, name = given
    _law(slot in SLOTS, f"the slot {slot!r} is not one of {', '.join(SLOTS)}")
    _law(re.fullmatch(r"[a-z][a-z0-9-]*", name) and name != NONE, f"the name {name!r} is not one of small letters, digits and '-'")
    doc = ast.get_docstring(node) or ""
    described = _described(doc)
    init = next((f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"), None)
    options = {}
    if init is not None:
        _law(init.args.kwarg is None, "**kwargs would let a misspelt option pass; write the options out")
        first = "folder" if slot == "task" else "site"
        places = [a.arg for a in (*init.args.posonlyargs, *init.args.args)]
        _law(len(places) > 1, f"__init__ takes self, {first}, *, and its options")
        extra = places[2:] + ([init.args.vararg.arg] if init.args.vararg else [])
        _law(not extra, f"after {places[1]!r} options are keyword-only; put * before {', '.join(extra)}")
        for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
            options[argument.arg] = _read_option(argument, default, described)
        taken = sorted(options.keys() & set(SUBLAYER_OPTIONS)) if slot in SUBLAYERS else []
        _law(not taken, f"every sublayer takes {', '.join(taken)} already; give the option another name")
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
        package=package,
    )


def _read_option(argument: ast.arg, default: ast.expr | None, described: dict[str, str]) -> Option:
    name = argument.arg
    _law(argument.annotation is not None, f"the option {name!r} needs a type, one of {', '.join(TYPES)}, Literal[...]")
    assert argument.annotation is not None
    try:
        kind, law, part = _read_type(argument.annotation)
    except ValueError as e:
        raise ValueError(f"the option {name!r}: {e}") from None
    try:
        value = None if default is None else ast.literal_eval(default)
    except (ValueError, TypeError):
        raise ValueError(f"the default of the option {name!r} is read from source text: a literal, not {ast.unparse(default)}") from None  # type: ignore[arg-type]
    option = Option(
        name=name,
        type=kind,
        law=law,
        default=value,
        required=default is None,
        description=described.get(name, ""),
        divides_width="divides width" in law,
        slot=part,
    )
    if not option.required and not option.takes(value):
        _law(part and isinstance(value, str | dict), f"the default of the option {name!r}: {name} is {law}, not {value!r}")
    return option


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
    known = f"{', '.join(TYPES)}, Literal[...], or two of them joined by |"
    if isinstance(node, ast.Name):
        _law(node.id in TYPES, f"the type {node.id!r} is not one of {known}")
        return *TYPES[node.id], NESTED.get(node.id, "")
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
