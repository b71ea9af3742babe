"""Constraints: expressions over decisions and measured quantities that every architecture must satisfy.

    width % heads == 0        parameters <= 2_000_000        norm != "none" or positions == "rope"

A name is the address of a decision, `width`, `sublayers`, a size of the task such as `context`, or a measured quantity. An
expression that names a decision which is not met holds. Only arithmetic, comparisons, `and`, `or`, `not`, `in`, min and max
are part of the language; nothing is ever evaluated by Python itself.
"""

from __future__ import annotations

import ast
import functools
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aotsearch.errors import InputError, Mark
from aotsearch.yamlfile import Node

MEASURED = ("parameters", "parameters_without_embeddings", "flops_per_token")
KNOWN = ("width", "sublayers")
LONGEST = 500  # characters of an expression
LARGEST = 10**30  # of any number on the way, so that no expression can run away

_OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max}


@dataclass(frozen=True)
class Constraint:
    """One expression, checked to be made of the allowed operations only."""

    text: str
    mark: Mark

    @functools.cached_property
    def tree(self) -> ast.expr:
        return ast.parse(self.text.strip(), mode="eval").body

    @functools.cached_property
    def names(self) -> frozenset[str]:
        """The dotted names it mentions."""
        called = {id(n.func) for n in ast.walk(self.tree) if isinstance(n, ast.Call)}
        inner = {id(n.value) for n in ast.walk(self.tree) if isinstance(n, ast.Attribute)}
        dotted = [n for n in ast.walk(self.tree) if isinstance(n, ast.Name | ast.Attribute) and id(n) not in called | inner]
        return frozenset(_dotted(n) for n in dotted)

    @functools.cached_property
    def compared(self) -> list[tuple[str, str]]:
        """Each name that is compared with a text, with that text: `norm == "none"`, `norm in ["none", "rmsnorm"]`."""
        found = []
        for n in ast.walk(self.tree):
            if isinstance(n, ast.Compare) and all(isinstance(o, ast.Eq | ast.NotEq | ast.In | ast.NotIn) for o in n.ops):
                sides = [n.left, *n.comparators]
                names = [_dotted(s) for s in sides if isinstance(s, ast.Name | ast.Attribute)]
                items = [i for s in sides for i in (s.elts if isinstance(s, ast.List | ast.Tuple) else [s])]
                texts = [i.value for i in items if isinstance(i, ast.Constant) and isinstance(i.value, str)]
                found += [(name, text) for name in names for text in texts]
        return found

    @property
    def measures(self) -> bool:
        """Whether it asks for what only a model can tell."""
        return not self.names.isdisjoint(MEASURED)

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether it holds; it does where a name has no value.

        Raises:
            InputError: the values cannot be compared, divided, ..., at the place of the expression.
        """
        if not self.names <= values.keys():
            return True
        try:
            return bool(_evaluate(self.tree, values))
        except (TypeError, ZeroDivisionError, OverflowError, ValueError) as e:
            shown = ", ".join(f"{name} = {values[name]!r}" for name in sorted(self.names))
            raise InputError(f"the constraint {self.text!r} cannot be evaluated for {shown}: {e}", self.mark) from None


def parse(node: Node) -> Constraint:
    """A YAML string as a constraint.

    Raises:
        InputError: it is not an expression of this language.
    """
    if not isinstance(node.value, str) or len(node.value) > LONGEST:
        raise InputError(f"a constraint is an expression of at most {LONGEST} characters such as 'width % heads == 0'", node.mark)
    found = Constraint(node.value, node.mark)
    try:
        tree = found.tree
    except (SyntaxError, ValueError, MemoryError, RecursionError) as e:
        reason = e.msg if isinstance(e, SyntaxError) else "too complex"
        raise InputError(f"the constraint {node.value!r} is not an expression: {reason}", node.mark) from None
    for part in ast.walk(tree):
        if not _allowed(part):
            what = ast.unparse(part) if isinstance(part, ast.expr) else type(part).__name__
            law = "arithmetic, comparisons, and, or, not, in, min and max"
            raise InputError(f"a constraint is made of {law}; {what!r} is not allowed", node.mark)
    return found


def _allowed(part: ast.AST) -> bool:
    if isinstance(part, ast.Constant):
        return isinstance(part.value, int | float | str)
    if isinstance(part, ast.Call):
        return isinstance(part.func, ast.Name) and part.func.id in _FUNCTIONS and not part.keywords
    if isinstance(part, ast.Attribute):
        return isinstance(part.value, ast.Name | ast.Attribute)
    shapes = (ast.BoolOp, ast.And, ast.Or, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Name, ast.Load, ast.List, ast.Tuple)
    return isinstance(part, shapes) or type(part) in _OPERATORS


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    assert isinstance(node, ast.Name)
    return node.id


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name | ast.Attribute):
        return values[_dotted(node)]
    if isinstance(node, ast.List | ast.Tuple):
        return [_evaluate(item, values) for item in node.elts]
    if isinstance(node, ast.BoolOp):
        parts = (_evaluate(item, values) for item in node.values)
        return all(parts) if isinstance(node.op, ast.And) else any(parts)
    if isinstance(node, ast.UnaryOp):
        return _OPERATORS[type(node.op)](_evaluate(node.operand, values))
    if isinstance(node, ast.BinOp):
        return _bounded(_OPERATORS[type(node.op)](_number(node.left, values), _number(node.right, values)))
    if isinstance(node, ast.Call):
        assert isinstance(node.func, ast.Name)
        return _FUNCTIONS[node.func.id](*(_evaluate(item, values) for item in node.args))
    assert isinstance(node, ast.Compare)
    left = _evaluate(node.left, values)
    for sign, item in zip(node.ops, node.comparators, strict=True):
        right = _evaluate(item, values)
        if not _OPERATORS[type(sign)](left, right):
            return False
        left = right
    return True


def _number(node: ast.expr, values: Mapping[str, Any]) -> Any:
    value = _evaluate(node, values)
    if not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    return value


def _bounded(value: Any) -> Any:
    if abs(value) > LARGEST:
        raise OverflowError("a number grows beyond all bounds")
    return value
