"""One thing to decide of an architecture: what a chooser is asked."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

from aotsearch.errors import InputError
from aotsearch.grammar.forms import Choice, Range, same


@dataclass(frozen=True)
class Decision:
    """An address with its alternatives, or with its bounds.

    `whole` is a second name for each alternative, by which it may be meant.
    `prefix` is the part of the address that says at which place of an `each`, or how deep in a recursion, it is decided.
    """

    address: str
    values: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    integer: bool = False
    prefix: str = ""
    whole: tuple[Any, ...] = ()

    @classmethod
    def of(cls, form: Choice | Range, prefix: str, depth: int) -> Decision:
        """That of a form under a prefix, so deep in the recursion of its rule."""
        if isinstance(form, Choice):
            values, whole = (tuple(names[i] for i in form.open(depth)) for names in (form.labels, form.whole or form.labels))
            return cls(prefix + form.address, values, prefix=prefix, whole=whole)
        return cls(prefix + form.address, (), form.low, form.high, form.log, form.integer, prefix)

    @property
    def name(self) -> str:
        """What the decisions at all places of an `each` have in common: the address that it would have outside."""
        return self.address.removeprefix(self.prefix)

    @property
    def reference(self) -> Any:
        """The first alternative, or the lower bound."""
        return self.values[0] if self.values else self.low

    def meant(self, value: Any) -> Any:
        """The alternative that a value names by either of its names; the value itself where it names none."""
        named = (v for names in (self.values, self.whole) for v, name in zip(self.values, names, strict=True) if same(value, name))
        return next(named, value) if self.values else value

    def allows(self, value: Any) -> bool:
        if self.values:
            return any(same(value, v) for v in self.values)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high and (not self.integer or value == int(value))

    def listed(self) -> tuple[Any, ...] | range:
        """Every value. Raises InputError where there is no end of them."""
        if self.values:
            return self.values
        if not self.integer:
            raise InputError(f"the decision {self.address!r} is a continuous range; its values cannot be listed")
        return range(int(self.low), int(self.high) + 1)

    def draw(self, rng: random.Random) -> Any:
        """A value at random, uniform over the alternatives, or between the bounds: of logarithms, where it is `log`."""
        if self.values:
            return rng.choice(self.values)
        if self.integer and not self.log:
            return rng.randint(int(self.low), int(self.high))
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high))) if self.log else rng.uniform(self.low, self.high)
        return round(value) if self.integer else min(max(value, self.low), self.high)
