"""What a word of the library is, and the types of its options.

A word is one class with the decorator `@word(slot, name)`; its keyword-only arguments are its options, so names, types, defaults and
descriptions are written once, and read from source text (`signatures`). The first positional argument of every part is `site`, where it
stands; nothing else is injected. An option may be a part of another slot. The section `Requires:` of the docstring holds laws, an
expression in each line, that every use of the word keeps.
"""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic import Field

from aotsearch.errors import AotsearchError, WordError, one_line

SUBLAYERS = ("mixer", "channel")  # the two kinds of operation a block is made of
SLOTS = (*SUBLAYERS, "norm", "positions", "join", "embedding", "pooling", "score", "coefficient", "task")
NEEDED = ("embedding", "score", "coefficient", "task")  # a model cannot do without
NONE = "none"  # in every other slot: the part that is not there
SUBLAYER_OPTIONS = ("norm", "place", "join", "tied")  # what every sublayer takes besides its own options

Count = Annotated[int, Field(ge=1, strict=True)]
Natural = Annotated[int, Field(ge=0, strict=True)]
Divisor = Annotated[int, Field(ge=1, strict=True, json_schema_extra={"divides": "width"})]
Number = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, lt=1)]
Flag = Annotated[bool, Field(strict=True)]
Text = Annotated[str, Field(strict=True)]
Table = dict[str, Any]
Score = Annotated[Any, "score"]  # a part of that slot, as an option of another part
Coefficient = Annotated[Any, "coefficient"]

# What the annotations of a word may be made of: a type that pydantic checks, the words a person reads, and the slot of the parts it takes.
TYPES: dict[str, tuple[Any, str, str]] = {
    "Count": (Count, "a whole number of at least 1", ""),
    "Natural": (Natural, "a whole number of at least 0", ""),
    "Divisor": (Divisor, "a whole number that divides width", ""),
    "Number": (Number, "a number", ""),
    "Positive": (Positive, "a number above 0", ""),
    "Probability": (Probability, "a number from 0 to below 1", ""),
    "Flag": (Flag, "true or false", ""),
    "Text": (Text, "a string", ""),
    "Table": (Table, "a mapping", ""),
    "Score": (None, "a score function", "score"),
    "Coefficient": (None, "a coefficient", "coefficient"),
}

T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """One option of a word: its type, its default, and what it means."""

    name: str
    type: Any  # of the scalars it takes; None where it takes none
    law: str  # the type in words
    default: Any  # None where it must be given
    description: str
    slot: str = ""  # of the parts it takes; "" where it takes none
    former: tuple[tuple[Any, Any], ...] = ()  # values that are still read, with what they mean; see `former`

    @property
    def required(self) -> bool:
        return self.default is None

    @functools.cached_property
    def divides_width(self) -> bool:
        return "divides width" in self.law

    @functools.cached_property
    def _adapter(self) -> pydantic.TypeAdapter[Any]:
        return pydantic.TypeAdapter(self.type)

    def parse(self, value: Any) -> Any:
        """The value in canonical form. Raises ValueError, with the law, for a value of another type."""
        value = next((new for old, new in self.former if type(old) is type(value) and old == value), value)
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
            WordError: it is an installed package's, and cannot be imported.
        """
        try:
            cls: type = getattr(importlib.import_module(self.module), self.qualname)
        except (Exception, SystemExit) as e:
            if not self.package:
                raise
            raise self.blamed(e, "cannot be imported") from e
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
            raise self.blamed(e, "cannot be made") from e

    def blamed(self, error: BaseException, what: str) -> WordError:
        """An error of an installed word in one line that says whose it is."""
        broken = Broken(self.package, f"{self.module}.{self.qualname}", f"{what}: {type(error).__name__}: {error}")
        return WordError(f"the {self.slot} word {self.name!r} cannot be used: {broken}")


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
