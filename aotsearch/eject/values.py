"""Values that are known before a model runs, and how source text writes them."""

from __future__ import annotations

import ast
import copy
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

FEW = 16  # turns of a loop that are tried one by one, entries of a collection that are written out
PURE = {isinstance, issubclass, len, round, max, min, abs, int, float, bool, str, tuple, list, dict, set, frozenset, range, sum, any, all}
PURE |= {sorted, zip, enumerate, reversed, hasattr, getattr, type, divmod, repr}
PURE |= {f for f in vars(math).values() if callable(f)}
VALUES = (int, float, str, bytes, tuple, list, dict, set, frozenset, range)  # their methods are pure, but for those that change them
CHANGE = {"append", "extend", "insert", "add", "update", "setdefault", "pop", "popitem", "remove", "discard", "clear", "sort", "reverse"}


@dataclass(frozen=True)
class Known:
    """The value of an expression. One that depends on the number of the layer is used to decide, but not written out."""

    value: Any
    layered: bool = False


def literal(value: Any) -> ast.expr | None:
    """A value as source text writes it; None where it has no such text."""
    if value is None or isinstance(value, bool | str):
        return ast.Constant(value) if not isinstance(value, str) or len(value) <= 40 else None
    if isinstance(value, int | float):
        if isinstance(value, float) and not math.isfinite(value):
            return ast.Call(ast.Name("float", ast.Load()), [ast.Constant(str(value))], [])
        return ast.UnaryOp(ast.USub(), ast.Constant(-value)) if value < 0 else ast.Constant(value)
    if isinstance(value, tuple | list | set | frozenset) and len(value) <= FEW:
        together = isinstance(value, set | frozenset)
        items = [literal(v) for v in (sorted(value, key=repr) if together else value)]
        inner = [i for i in items if i is not None]
        if len(inner) < len(items) or (together and not items):
            return None
        if together:
            return ast.Set(inner)
        return ast.List(inner, ast.Load()) if isinstance(value, list) else ast.Tuple(inner, ast.Load())
    if isinstance(value, dict) and len(value) <= FEW:
        keys, values = [literal(k) for k in value], [literal(v) for v in value.values()]
        return None if None in keys or None in values else ast.Dict(keys, [v for v in values if v is not None])
    if isinstance(value, torch.dtype):
        name = ast.Name("torch", ast.Load())
        name.home = __name__  # type: ignore[attr-defined]
        return ast.Attribute(name, str(value).removeprefix("torch."), ast.Load())
    return None


def items_of(known: Known | None) -> list[Any] | None:
    if known is None or not isinstance(known.value, tuple | list | set | dict | range | zip | enumerate):
        return None
    items = list(known.value)
    return items if len(items) <= FEW else None


def computed(node: ast.expr, **operands: Known | None) -> Known | None:
    """The value of an operation on known numbers, strings and collections."""
    if any(k is None or isinstance(k.value, torch.Tensor | nn.Module) for k in operands.values()):
        return None
    shell = copy.copy(node)
    for name in operands:
        setattr(shell, name, ast.Name(name, ast.Load()))
    return evaluated(shell, {name: k for name, k in operands.items() if k is not None})


def evaluated(node: ast.expr, values: dict[str, Known]) -> Known | None:
    try:
        code = compile(ast.fix_missing_locations(ast.Expression(node)), "", "eval")
        found = eval(code, {}, {name: k.value for name, k in values.items()})
    except (TypeError, ValueError, ArithmeticError):
        return None
    return None if isinstance(found, torch.Tensor) else Known(found, any(k.layered for k in values.values()))


def same(a: tuple[Known | None, ast.expr | None], b: tuple[Known | None, ast.expr | None]) -> bool:
    if a[0] is None or b[0] is None:
        return a[0] is b[0]
    one, other = a[0].value, b[0].value
    return one is other or (isinstance(one, int | float | str | tuple) and type(one) is type(other) and one == other)


def is_pure(target: Any) -> bool:
    try:
        if target in PURE:
            return True
    except TypeError:  # not hashable
        return False
    owner = getattr(target, "__self__", None)
    return isinstance(owner, VALUES) and not isinstance(target, type) and getattr(target, "__name__", "") not in CHANGE
