"""Which choices can still lead to a given architecture: what every form can derive of its sublayers, from where to where.

A walk that looks for the decisions of an architecture asks at each decision which alternatives fit, and hardly ever has to turn back.
Decisions that must agree in several places are taken to be free here, so a little too much may fit; the walk checks what it makes.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from aotsearch.grammar import forms as grammar
from aotsearch.grammar.architecture import MAX_SUBLAYERS, Architecture, Part, settings
from aotsearch.grammar.counting import Model
from aotsearch.grammar.forms import Choice, Component, Fixed, Form, ModelForm, Parallel, Range, Recurse, Repeat

Ends = frozenset[int]  # places in the sequence of sublayers
Depth = Counter[str]  # of the recursion of each rule


class Guide:
    """What the forms of a grammar can derive of an architecture, given what its model decides of every sublayer."""

    def __init__(self, target: Architecture, form: ModelForm, model: Model):
        self.target = target.sublayers
        self.plain = [dataclasses.replace(s, same_as=None) for s in target.sublayers]
        self.form = form
        self.model = model
        self.known: dict[Any, Ends] = {}
        self.copies: dict[Any, int] = {}

    def ends(self, form: Form, start: int, depth: Depth, beside: bool = False) -> Ends:
        """Where a form may end that starts at a place; `beside`, if it reads what the sublayer before read."""
        key = (id(form), start, beside, tuple(sorted((+depth).items())))
        if key not in self.known:
            self.known[key] = frozenset(self._ends(form, start, depth, beside))
        return self.known[key]

    def route(self, forms: Sequence[Form], start: int, goals: Ends, depth: Depth, parallel: bool = False) -> list[Ends]:
        """Where each of some forms, in sequence or side by side, must end so that the last can end at a goal."""

        def ends(form: Form, at: int) -> Ends:
            return self.ends(form, at, depth, parallel and at > start)

        reached = [frozenset((start,))]
        for form in forms:
            reached.append(frozenset(end for at in reached[-1] for end in ends(form, at)))
        needed = [reached[-1] & goals]
        for form, places in zip(forms[::-1], reached[-2::-1], strict=True):
            needed.append(frozenset(at for at in places if not needed[-1].isdisjoint(ends(form, at))))
        return needed[-2::-1]

    def times(self, form: Repeat, start: int, goals: Ends, depth: Depth) -> frozenset[int]:
        """How often a form may be repeated from a place so that it can end at a goal."""
        return frozenset(n for n, ends in self._repeats(form, start, depth) if not ends.isdisjoint(goals))

    def bodies(self, form: Form, times: int, tied: bool, start: int, goals: Ends, depth: Depth) -> Ends:
        """Where a form may end of which there are so many copies, so that the last of them ends at a goal."""
        ends = self.ends(form, start, depth)
        return frozenset(e for e in ends if start + times * (e - start) in goals and times <= self._copies(start, e, tied))

    def _ends(self, form: Form, start: int, depth: Depth, beside: bool) -> Iterable[int]:
        if isinstance(form, Choice):
            deep = form.limit > 0 and depth[form.address] >= form.limit
            allowed = (inner for i, inner in enumerate(form.forms) if not (deep and form.recursive[i]))
            return (end for inner in allowed for end in self.ends(inner, start, depth, beside))
        if isinstance(form, Recurse):
            depth[form.rule] += 1
            found = self.ends(self.form.recursive[form.rule], start, depth)
            depth[form.rule] -= 1
            return found
        if isinstance(form, Repeat):
            return (end for _, ends in self._repeats(form, start, depth) for end in ends)
        if isinstance(form, Component):
            return (start + 1,) if self._may_be(form, start, beside) else ()
        parallel = isinstance(form, Parallel)
        at = frozenset((start,))
        for inner in grammar.children(form):
            at = frozenset(end for place in at for end in self.ends(inner, place, depth, place > start if parallel else beside))
        return at

    def _repeats(self, form: Repeat, start: int, depth: Depth) -> Iterator[tuple[int, Ends]]:
        times = frozenset(_counts(form.times))
        if form.address is None:
            bodies = {end: self._copies(start, end, form.tied) for end in self.ends(form.body, start, depth)}
            for n in times:
                yield n, frozenset(start + n * (end - start) for end, most in bodies.items() if n <= most)
            return
        reached = frozenset((start,))
        for n in range(1, max(times, default=0) + 1):
            reached = frozenset(end for at in reached for end in self.ends(form.body, at, depth))
            if n in times:
                yield n, reached

    def _copies(self, start: int, end: int, tied: bool) -> int:
        """How often the sublayers between two places stand there one after the other, themselves counted."""
        if start == end:
            return MAX_SUBLAYERS
        key = (start, end, tied)
        if key not in self.copies:
            length, last = end - start, end
            while last < len(self.plain) and self._is_copy(start + (last - start) % length, last, start, tied):
                last += 1
            self.copies[key] = (last - start) // length
        return self.copies[key]

    def _is_copy(self, original: int, copy: int, start: int, tied: bool) -> bool:
        """Whether a sublayer may be the copy of another, in a repeat that begins at `start`."""
        if self.plain[original] != self.plain[copy]:
            return False
        root, found = self.target[original].same_as, self.target[copy].same_as
        if tied:
            return found == (original if root is None else root)
        if root is None:
            return found in (None, original)  # the second where the sublayer itself is tied
        return found in (root, root + copy - original if root >= start else root)

    def _may_be(self, form: Component, at: int, beside: bool) -> bool:
        """Whether a component may derive the sublayer at a place."""
        if at >= len(self.target) or self.target[at].parallel != beside:
            return False
        wanted, own = self.target[at], form.own
        if wanted.same_as is not None and not ("tied" in own and may(own["tied"], frozenset((True,)))):
            return False
        usual = {"norm": self.model.norm, "place": self.model.place, "join": self.model.join}
        for name, value in usual.items():
            given = getattr(wanted, name)
            if name == "place" and wanted.norm.absent:
                continue  # it has none then
            if not (may(own[name], frozenset((given,))) if name in own else given == value):
                return False
        return fits(form, wanted.operation)


def may(form: Form, allowed: frozenset[Any]) -> bool:
    """Whether the form of an option may have one of some values."""
    if isinstance(form, Choice):
        return any(may(inner, allowed) for inner in form.forms)
    if isinstance(form, Range):
        return bool(numbers(form, allowed))
    if isinstance(form, Component):
        return any(isinstance(value, Part) and fits(form, value) for value in allowed)
    assert isinstance(form, Fixed), form
    return form.value in allowed


def fits(form: Component, wanted: Part) -> bool:
    """Whether a component may derive a part."""
    if form.word != wanted.word or any(name not in form.options for name, _ in wanted.options):
        return False
    known = settings(form.slot, wanted)
    return all(may(inner, frozenset((known[name],))) for name, inner in form.options.items())


def numbers(form: Range, allowed: frozenset[Any]) -> tuple[Any, ...]:
    """The numbers of a range that give one of some values."""
    inside = sorted(v for v in allowed if isinstance(v, int | float) and not isinstance(v, bool) and form.low <= v <= form.high)
    return tuple(int(v) if form.integer else v for v in inside if not form.integer or v == int(v))


def _counts(form: Form) -> Iterator[int]:
    """The values of a form that says how often."""
    if isinstance(form, Choice):
        for inner in form.forms:
            yield from _counts(inner)
    elif isinstance(form, Range):
        yield from range(int(form.low), min(int(form.high), MAX_SUBLAYERS) + 1)
    else:
        assert isinstance(form, Fixed), form
        yield from (form.value,) if form.value <= MAX_SUBLAYERS else ()
