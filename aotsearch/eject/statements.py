"""Statements of a function that is followed: conditions that are known are decided, what is left stays in order."""

from __future__ import annotations

import ast
import types
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from aotsearch.eject.calls import Calls
from aotsearch.eject.dataflow import Block, loads, number, paired, place, stores
from aotsearch.eject.expressions import changing
from aotsearch.eject.form import Form, Unsupported, nothing, owned, source_of, stateful, torchs
from aotsearch.eject.source import clone
from aotsearch.eject.values import Known, computed, items_of, literal, same


class Scope(Calls):
    """A function that is followed."""

    returned: Known | None = None  # the value of the last return that was met

    def block(self, statements: Sequence[ast.stmt]) -> Block:
        """What is left of statements."""
        found: Block = []
        for s in statements:
            method: Callable[[Any], Block] | None = getattr(self, f"_{type(s).__name__}", None)
            left = method(s) if method is not None else [s]
            found += left
            if left and isinstance(left[-1], ast.Return | ast.Raise | ast.Continue | ast.Break):
                break
        return found

    def _Pass(self, s: ast.Pass) -> Block:
        return []

    def _Return(self, s: ast.Return) -> Block:
        if s.value is not None:
            s.value, self.returned = self.fold(s.value)
        return [s]

    def _Expr(self, s: ast.Expr) -> Block:
        if isinstance(s.value, ast.Constant):
            return []
        s.value = self.fold(s.value)[0]
        return [s]

    def _Assert(self, s: ast.Assert) -> Block:
        narrows = isinstance(s.test, ast.Compare) and isinstance(s.test.ops[0], ast.IsNot)
        s.test, known = self.fold(s.test)
        return [] if narrows or self.truth(known) else [s]

    def _Raise(self, s: ast.Raise) -> Block:
        s.exc = self.fold(s.exc)[0] if s.exc is not None else None
        return [s]

    def _AnnAssign(self, s: ast.AnnAssign) -> Block:
        return self._Assign(_like(ast.Assign([s.target], s.value), s)) if s.value is not None else []

    def _Assign(self, s: ast.Assign) -> Block:
        target = s.targets[0]
        if len(s.targets) == 1 and isinstance(target, ast.Tuple):
            pairs = self._pairs(target, s)
            if pairs is not None:
                first, *rest = [part for t, v in pairs for part in self._Assign(ast.Assign([t], v))] or [ast.Pass()]
                return [_like(first, s), *rest]
        s.value, known = self.fold(s.value)
        for t in s.targets:
            for leaf in _leaves(t):
                self._set(leaf, known if leaf is t else None, s.value)
        s.targets = [self._target(t) for t in s.targets]
        if isinstance(target, ast.Attribute) and self._is_flow(target.value) and target.attr not in self.program.carried:
            return []
        return [s]

    def _pairs(self, target: ast.Tuple, s: ast.Assign) -> list[tuple[ast.expr, ast.expr]] | None:
        """`a, b = c, d` as two assignments, where that is the same."""
        value: ast.expr = s.value
        if not isinstance(value, ast.Tuple):
            known = self.value(value)
            whole = None if known is None or not isinstance(known.value, tuple) else literal(known.value)
            if not isinstance(whole, ast.Tuple):
                return None
            value = whole
        return paired(target, value)

    def _set(self, target: ast.expr, known: Known | None, value: ast.expr) -> None:
        if isinstance(target, ast.Name):
            changing = target.id in self.changing and known is not None and isinstance(known.value, list | dict | set)
            self.names[target.id] = (None if changing else known, None)

    def _target(self, target: ast.expr) -> ast.expr:
        if isinstance(target, ast.Attribute | ast.Subscript):
            inner = target.value
            target.value = self.fold(inner)[0] if not (isinstance(inner, ast.Name) and inner.id == "self") else inner
            if isinstance(target, ast.Subscript):
                target.slice = self.fold(target.slice)[0]
        return target

    def _is_flow(self, node: ast.expr) -> bool:
        known = self.value(node)
        return known is not None and known.value is self.program.flow

    def _AugAssign(self, s: ast.AugAssign) -> Block:
        s.value, value = self.fold(s.value)
        if isinstance(s.target, ast.Name):
            before = self.names.get(s.target.id, (None, None))[0]
            known = computed(ast.BinOp(s.target, s.op, s.value), left=before, right=value) if s.target.id not in self.changing else None
            self.names[s.target.id] = (known, None)
        else:
            self._target(s.target)
        return [s]

    def _If(self, s: ast.If) -> Block:
        s.test, known = self.fold(s.test)
        truth = self.truth(known)
        if truth is not None:
            left = self.block(s.body if truth else s.orelse)
            if left and truth and not getattr(left[0], "comment", ""):
                left[0].comment = getattr(s, "comment", "")  # type: ignore[attr-defined]
            if left:
                left[0].above = [*getattr(s, "above", []), *getattr(left[0], "above", [])]  # type: ignore[attr-defined]
            return left
        other = self.copy()
        s.body, s.orelse = self.block(s.body), other.block(s.orelse)
        for name in self.names.keys() | other.names.keys():
            if name not in self.names or name not in other.names or not same(self.names[name], other.names[name]):
                self.names[name] = (None, None)
        self.returned = None
        return [s]

    def _For(self, s: ast.For) -> Block:
        items = items_of(self.value(s.iter))
        leaves = any(isinstance(n, ast.Break | ast.Continue | ast.Return) for n in ast.walk(s))
        turns = None
        if items is not None and not leaves and not s.orelse and (self.initial or len(items) <= 1):
            turns = self._turns_of(s, items)
            if turns is not None and (len(items) <= 1 or turns[1] <= len(s.body)):
                self.names = turns[2]
                return turns[0]
        whole = clone(s)
        try:
            s.iter = self.fold(s.iter)[0]
            return self._loop(s)
        except Unsupported:
            turns = self._turns_of(whole, items or [])
            if turns is None or not items:
                raise
            self.names = turns[2]
            return turns[0]

    def _turns_of(self, s: ast.For, items: list[Any]) -> tuple[Block, int, dict[str, Any]] | None:
        """A loop's turns one by one, how many statements they are, and what names stand for after them."""
        trial = self.copy()
        found: Block = []
        for item in items:
            trial.bind(s.target, Known(item))
            found += trial.block(clone(s.body))
        left = [f for f in found if not (isinstance(f, ast.Assign) and isinstance(f.targets[0], ast.Name) and trial._told(f.targets[0].id))]
        if stores(s.target) & {n for n in loads(*left) if n in trial.names and trial.names[n][1] is None}:
            return None
        return found, len(left), trial.names

    def _told(self, name: str) -> bool:
        return self.names.get(name, (None, None))[0] is not None

    def _loop(self, s: Any) -> Block:
        changed = stores(s)
        for name in changed:
            self.names[name] = (None, None)
        if isinstance(s, ast.While):
            s.test = self.fold(s.test)[0]
        s.body, s.orelse = self.block(s.body), self.block(s.orelse)
        for name in changed:
            self.names[name] = (None, None)
        return [s]

    _While = _loop

    def _With(self, s: ast.With) -> Block:
        for item in s.items:
            item.context_expr = self.fold(item.context_expr)[0]
            if item.optional_vars is not None:
                self.names |= {name: (None, None) for name in stores(item.optional_vars)}
        s.body = self.block(s.body)
        return [s]

    def _FunctionDef(self, s: ast.FunctionDef) -> Block:
        inner = self.copy()
        inner.names |= {name: (None, None) for name in stores(*s.body)}
        inner.names |= {a.arg: (None, None) for a in [*s.args.posonlyargs, *s.args.args, *s.args.kwonlyargs]}
        s.body = inner.block(s.body)
        self.names[s.name] = (None, None)
        return [s]

    def _Try(self, s: ast.Try) -> Block:
        raise Unsupported("a try statement cannot be followed")


class Constructor(Scope):
    """The constructor of a module with a state. Its arguments are known, so all it decides is decided."""

    initial = True

    def __init__(self, program: Any, form: Form):
        self.start = type(form.instance).__init__
        super().__init__(program, self.start if owned(self.start) else nothing, form, form.instance)

    def run(self) -> Block:
        """Its body."""
        return self._body(self.start) if owned(self.start) else []

    def _body(self, function: Any, given: dict[str, Known] | None = None) -> Block:
        assert self.form is not None
        node = source_of(function)
        instance = self.form.instance
        if given is None:
            noted = self.program.calls.get(id(instance), {}).get(function.__code__)
            if noted is None:
                raise Unsupported(f"how {type(instance).__name__} was made is not known")
            given = {name: Known(value) for name, value in noted.items()}
        self.names = {"self": (Known(instance), None)}
        found: Block = []
        written = stores(*node.body)
        for name, known in given.items():
            shown = literal(known.value)
            if isinstance(known.value, nn.Module) and not torchs(type(known.value)) and stateful(known.value):
                found.append(ast.Assign([ast.Name(name, ast.Store())], self.construction(known.value)))
            elif shown is not None and name in written:
                found.append(ast.Assign([ast.Name(name, ast.Store())], shown))
                shown = None
            elif isinstance(known.value, list | dict | set) and shown is not None:
                found.append(ast.Assign([ast.Name(name, ast.Store())], shown))
                shown = None
            self.names[name] = (known, shown)
        return found + self.block(node.body)

    def _Expr(self, s: ast.Expr) -> Block:
        call = s.value
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "__init__":
            above = self.value(call.func)
            function = above.value.__func__ if above is not None and isinstance(above.value, types.MethodType) else None
            if function is None or not owned(function):
                return []
            assert self.form is not None
            inner = Constructor(self.program, self.form)
            inner.function, inner.outer, inner.changing = function, function.__globals__, changing(source_of(function))
            return inner._body(function)
        return [] if self._elsewhere(call) else super()._Expr(s)

    def _elsewhere(self, node: ast.expr) -> bool:
        """Whether a call is about a part without a state, of which nothing is left in the class."""
        while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
            node = node.func if isinstance(node, ast.Call) else node.value
            known = self.value(node)
            if known is not None and isinstance(known.value, nn.Module) and known.value is not self.module:
                return not stateful(known.value) and not torchs(type(known.value))
        return False

    def _set(self, target: ast.expr, known: Known | None, value: ast.expr) -> None:
        super()._set(target, known, value)
        assert self.form is not None
        name = place(target)
        if name.startswith("self."):
            attribute = name.removeprefix("self.")
            if known is not None and known.layered:
                self.program.layered.add((id(self.form.instance), attribute))
            constant = isinstance(value, ast.Constant) or number(value) is not None
            (self.form.written.add if constant else self.form.written.discard)(attribute)


def _leaves(target: ast.expr) -> list[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        return [leaf for inner in target.elts for leaf in _leaves(inner)]
    return [target.value] if isinstance(target, ast.Starred) else [target]


def _like(new: Any, old: ast.stmt) -> Any:
    new.comment, new.above = getattr(old, "comment", ""), getattr(old, "above", [])
    return new
