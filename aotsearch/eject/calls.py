"""Calls in a function that is followed: of its own methods, of other parts, of functions beside them, of constructors."""

from __future__ import annotations

import ast
import inspect
import re
import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from aotsearch.eject.dataflow import collapsed, loads, simple, stores, substituted, tidied
from aotsearch.eject.expressions import Expressions, Folded
from aotsearch.eject.form import Code, Unsupported, construction, owned, source_of, stateful, torchs, word_of
from aotsearch.eject.values import Known, is_pure, literal
from aotsearch.models.parts.site import Flow, decayed, drawn

Given = dict[str, Folded]  # parameter -> what a call gives it


class Calls(Expressions):
    """A function that is followed into what it calls."""

    def _Call(self, node: ast.Call) -> Folded:
        node.func, function = self.fold(node.func)
        arguments = [self.fold(a) for a in node.args]
        keywords = [(k.arg, *self.fold(k.value)) for k in node.keywords]
        node.args = [out for out, _ in arguments]
        for keyword, (_, out, _) in zip(node.keywords, keywords, strict=True):
            keyword.value = out
        if function is None:
            return node, None
        target = function.value
        knowns = [known for _, known in arguments] + [known for *_, known in keywords]
        spread = any(isinstance(a, ast.Starred) for a in node.args) or any(name is None for name, *_ in keywords)
        if target is getattr and len(arguments) in (2, 3) and all(k is not None for k in knowns[:2]):
            holder, asked = knowns[0], knowns[1]
            if holder is not None and asked is not None and (hasattr(holder.value, asked.value) or len(arguments) == 2):
                return self._attribute(ast.Attribute(node.args[0], asked.value, ast.Load()), holder)
        if not spread and all(k is not None for k in knowns) and is_pure(target):
            if not any(isinstance(k.value, torch.Tensor) for k in knowns if k is not None) or target in (isinstance, type, hasattr):
                return node, self._called(target, function, arguments, keywords)
        if isinstance(target, nn.Module):
            if isinstance(target, nn.Identity):
                return arguments[0]
            if not torchs(type(target)):
                return self._invoke(node, target, type(target).forward, "forward", arguments, keywords)
            node.func = self.program.path(self.root, target) or node.func
            return node, None
        if isinstance(target, types.MethodType) and isinstance(target.__self__, nn.Module) and owned(target.__func__):
            name = target.__func__.__name__
            if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Call):  # super().name
                name = f"{name}_of_{target.__func__.__qualname__.split('.')[-2].lower()}"
                node.func = ast.Attribute(ast.Name("self", ast.Load()), name, ast.Load())
            return self._invoke(node, target.__self__, target.__func__, name, arguments, keywords)
        if isinstance(target, type):
            return self._constructed(node, target, arguments, keywords)
        if target is drawn:
            return self._drawn(node, arguments), None
        if target is decayed:  # an optimiser's matter, which the file has not
            return node.args[0], None
        if isinstance(target, types.FunctionType) and owned(target):
            return self._helped(node, target, arguments, keywords)
        return node, None

    def _called(self, target: Any, function: Known, arguments: list[Folded], keywords: list[Any]) -> Known | None:
        layered = function.layered or any(k is not None and k.layered for _, k in arguments)
        try:
            found = target(*(k.value for _, k in arguments if k is not None), **{n: k.value for n, _, k in keywords})
        except Exception as e:
            raise Unsupported(f"{target} cannot be called: {e}") from e
        return Known(found, layered)

    def _invoke(self, node: ast.Call, owner: nn.Module, function: Any, name: str, arguments: list[Folded], keywords: list[Any]) -> Folded:
        """A call of a module's own method, or of the module itself."""
        given = bound(function, node, [(ast.Name("self", ast.Load()), Known(owner)), *arguments], keywords)
        flow = self._flows(given)
        root = self.root
        if owner is root or (stateful(owner) and not self.initial):
            trivial = self._expression(function, owner, _without_self(given)) if owner is not root and name != "forward" else None
            if trivial is not None:
                return trivial
            inner = owner is root and name != "forward"
            path = self.program.path(root, owner)
            if path is not None and owner is not root:
                node.func = path if name == "forward" else ast.Attribute(path, name, ast.Load())
            code = self.program.method(owner, function, name, flow, inner)
            if given is not None:
                node.code = code  # type: ignore[attr-defined]
            return node, None
        found = self._expression(function, owner, _without_self(given))
        if found is not None:
            return found
        word = word_of(owner)
        kind = f"{word.name}_{word.slot}" if word is not None else type(owner).__name__.lower()
        title = kind if name == "forward" else f"{word.name if word else kind}_{name}"
        code = self.program.function(function, owner, re.sub(r"\W", "_", title), flow)
        return self._call_of(node, code)

    def _helped(self, node: ast.Call, target: Any, arguments: list[Folded], keywords: list[Any]) -> Folded:
        """A call of a function of the parts."""
        given = bound(target, node, arguments, keywords)
        found = self._expression(target, None, given)
        if found is not None:
            return found
        if self.initial and given is not None and all(k is not None for _, k in given.values()):
            value = target(*(k.value for _, k in arguments if k is not None), **{n: k.value for n, _, k in keywords})
            if literal(value) is not None:
                return node, Known(value, any(k is not None and k.layered for _, k in given.values()))
        return self._call_of(node, self.program.function(target, None, target.__name__, self._flows(given)))

    def _flows(self, given: Given | None) -> set[str]:
        """The parameters that are given the flow."""
        return {n for n, (_, k) in (given or {}).items() if k is not None and k.value is self.program.flow}

    def _call_of(self, node: ast.Call, code: Code) -> Folded:
        name = ast.Name(code.name, ast.Load())
        name.called = code  # type: ignore[attr-defined]
        node.func = name
        node.code = code  # type: ignore[attr-defined]
        return node, None

    def _expression(self, function: Any, module: nn.Module | None, given: Given | None) -> Folded | None:
        """What a call is, where what is left of the function is one expression."""
        inner = self.program.scope(function, self.form, module)
        node = source_of(function)
        if given is None or stores(*node.body) & given.keys():
            return None
        inner.names = {name: (known, self._in_place(out, known)) for name, (out, known) in given.items()}
        if module is not None:
            inner.names["self"] = (Known(module), None)
        body = inner.block(node.body)
        value = inner.returned
        found = collapsed(tidied(body))
        if found is None or len(ast.unparse(ast.fix_missing_locations(found))) > 100:
            return None
        if any(getattr(n, "owner", None) == id(module) for n in ast.walk(found)) or ("self" in loads(found) and self.form is None):
            return None
        counts = loads(found)
        names = {name: out for name, (out, known) in given.items() if inner.names[name][1] is None}
        if any(counts[name] > 1 and not simple(out) for name, out in names.items()):
            return None
        return substituted(found, names), value

    def _in_place(self, out: ast.expr, known: Known | None) -> ast.expr | None:
        """What stands for a parameter wherever it is read; None where its name does until the end."""
        if known is None or known.layered:
            return None
        return literal(known.value) or (out if simple(out) else None)

    def _constructed(self, node: ast.Call, cls: type, arguments: list[Folded], keywords: list[Any]) -> Folded:
        if cls is Flow:
            node.args = [a for a in node.args if "positions" in self.program.carried]
            node.func.called = "flow"  # type: ignore[attr-defined]
            return node, Known(self.program.flow)
        if not issubclass(cls, nn.Module) or torchs(cls):
            return node, None
        knowns = [k for _, k in arguments] + [k for *_, k in keywords]
        if any(k is None for k in knowns):
            raise Unsupported(f"{cls.__name__} is made from what is not known before")
        made = self.program.made(cls, [k.value for _, k in arguments if k], {n: k.value for n, _, k in keywords})
        return self.construction(made), None

    def construction(self, module: nn.Module) -> ast.Call:
        """The call that makes a module."""
        return construction(self.program.form(module))

    def _drawn(self, node: ast.Call, arguments: list[Folded]) -> ast.expr:
        """`drawn(nn.Parameter(torch.zeros(...)), std)`: torch's generator in place of one by the parameter's name."""
        made, std = node.args[0], arguments[1][1]
        zeros = made.args[0] if isinstance(made, ast.Call) and made.args else None
        if std is None or not (isinstance(zeros, ast.Call) and isinstance(zeros.func, ast.Attribute) and zeros.func.attr == "zeros"):
            return made
        if std.value != 0:
            zeros.func.attr = "randn"
            assert isinstance(made, ast.Call)
            made.args[0] = ast.BinOp(node.args[1], ast.Mult(), zeros)
        return made


def _without_self(given: Given | None) -> Given | None:
    return None if given is None else {name: folded for name, folded in given.items() if name != "self"}


def bound(function: Any, node: ast.Call, arguments: Sequence[Folded], keywords: Sequence[Any]) -> Given | None:
    """The parameters of a function with what a call gives them; None where the call spreads a sequence."""
    if any(isinstance(a, ast.Starred) for a in node.args) or any(name is None for name, *_ in keywords):
        return None
    try:
        found = inspect.signature(function).bind(*arguments, **{name: (out, known) for name, out, known in keywords})
    except (TypeError, ValueError) as e:
        raise Unsupported(f"{function.__qualname__}: {e}") from e
    given = dict(found.arguments)
    for name, parameter in inspect.signature(function).parameters.items():
        if name not in given and parameter.default is not parameter.empty:
            shown = literal(parameter.default)
            given[name] = (shown if shown is not None else ast.Constant(None), Known(parameter.default))
    return given
