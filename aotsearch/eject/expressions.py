"""Expressions of a function that is followed: what is known of them, and what is left."""

from __future__ import annotations

import ast
import builtins
import copy
import inspect
import math
import sys
import types
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.eject.dataflow import loads, stores
from aotsearch.eject.form import Form, Unsupported, assigned, owned, source_of, stateful, torchs
from aotsearch.eject.source import clone
from aotsearch.eject.values import CHANGE, VALUES, Known, computed, evaluated, items_of, literal
from aotsearch.models.parts.site import Site

if TYPE_CHECKING:
    from aotsearch.eject.program import Program

Folded = tuple[ast.expr, Known | None]
SHORT = 6  # characters of a computed number that is written out in place of its computation
CONTAINERS = (nn.ModuleList, nn.ModuleDict, nn.Sequential)


class Expressions:
    """One function while it is followed: what its names stand for, and where it stands.

    Args:
        function: Its module's names are known.
        form: The class it belongs to in the end, from which paths start; None where it becomes a function.
        module: What its `self` is.
    """

    initial = False

    def __init__(self, program: Program, function: Any, form: Form | None, module: nn.Module | None):
        self.program, self.form, self.module, self.function = program, form, module, function
        self.outer: dict[str, Any] = function.__globals__
        self.names: dict[str, tuple[Known | None, ast.expr | None]] = {}  # what a name is, and what is written in its place
        self.changing = changing(source_of(function))

    def copy(self) -> Self:
        found = copy.copy(self)
        found.names = dict(self.names)
        return found

    @property
    def root(self) -> nn.Module | None:
        """The module from which paths start."""
        return self.form.instance if self.form is not None else None

    # ---- expressions

    def fold(self, node: ast.expr) -> Folded:
        """An expression with all that is known replaced, and its value where that is known."""
        if getattr(node, "opaque", False):
            return node, None
        method: Callable[[Any], Folded] | None = getattr(self, f"_{type(node).__name__}", None)
        out, known = method(node) if method is not None else (self._children(node), None)
        if known is not None and not known.layered:
            shown = self._shown(out, known.value)
            if shown is not None:
                return shown, known
        return out, known

    def value(self, node: ast.expr) -> Known | None:
        return self.fold(clone(node))[1]

    def truth(self, known: Known | None) -> bool | None:
        """Whether a test holds; None where that is not known."""
        if known is None or isinstance(known.value, torch.Tensor):
            return None
        return bool(known.value)

    def _shown(self, out: ast.expr, value: Any) -> ast.expr | None:
        """What is written in place of an expression with a known value; None where the expression stays."""
        if isinstance(out, ast.Constant) or (isinstance(out, ast.Attribute) and isinstance(out.value, ast.Name) and imported(out.value)):
            return None
        computed = isinstance(out, ast.BinOp | ast.UnaryOp | ast.Call)
        if isinstance(value, float) and not isinstance(value, bool):
            kept = computed or isinstance(out, ast.Name) or (isinstance(out, ast.Attribute) and self._attribute_stays(out))
            return None if kept and len(repr(value)) > SHORT else literal(value)
        if isinstance(value, list | dict | set) and not (
            computed or isinstance(out, ast.ListComp | ast.DictComp | ast.SetComp | ast.IfExp)
        ):
            return None
        found = literal(value)
        if found is None and callable(value) and isinstance(out, ast.Attribute | ast.Subscript) and not isinstance(value, nn.Module):
            found = self._library_name(value)
        return found

    def _attribute_stays(self, out: ast.Attribute) -> bool:
        """Whether an attribute is set by a computation that says more than its number does."""
        form = self.form
        return form is not None and getattr(out, "owner", None) == id(form.instance) and out.attr not in form.written

    def _library_name(self, value: Any) -> ast.expr | None:
        """A function of torch or math by its usual name; one of the parts by its own."""
        name = getattr(value, "__name__", "")
        for alias, home in (("F", F), ("torch", torch), ("math", math), ("nn", nn)):
            if getattr(home, name, None) is value:
                found = ast.Name(alias, ast.Load())
                found.home = __name__  # type: ignore[attr-defined]
                return ast.Attribute(found, name, ast.Load())
        if isinstance(value, types.FunctionType) and owned(value) and "<" not in value.__qualname__:
            found = ast.Name(name, ast.Load())
            found.called = self.program.function(value, None, name, set())  # type: ignore[attr-defined]
            return found
        return None

    def _children(self, node: ast.expr) -> ast.expr:
        for name, value in ast.iter_fields(node):
            if isinstance(value, ast.expr):
                setattr(node, name, self.fold(value)[0])
            elif isinstance(value, list):
                setattr(node, name, [self.fold(v)[0] if isinstance(v, ast.expr) else self._field(v) for v in value])
        return node

    def _field(self, value: Any) -> Any:
        if isinstance(value, ast.keyword):
            value.value = self.fold(value.value)[0]
        elif isinstance(value, ast.comprehension):
            value.iter = self.fold(value.iter)[0]
            value.ifs = [self.fold(v)[0] for v in value.ifs]
        return value

    def _Constant(self, node: ast.Constant) -> Folded:
        return node, Known(node.value)

    def _Name(self, node: ast.Name) -> Folded:
        if node.id in self.names:
            known, shown = self.names[node.id]
            return (clone(shown) if shown is not None else node), known
        if node.id in self.outer:
            node.home = self.outer["__name__"]  # type: ignore[attr-defined]
            return node, Known(self.outer[node.id])
        return node, Known(getattr(builtins, node.id)) if hasattr(builtins, node.id) else None

    def _Attribute(self, node: ast.Attribute) -> Folded:
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Name) and node.value.func.id == "super":
            return node, Known(self._above(node.attr))
        node.value, known = self.fold(node.value)
        return self._attribute(node, known)

    def _attribute(self, node: ast.Attribute, known: Known | None) -> Folded:
        if known is None:
            return node, None
        holder, name = known.value, node.attr
        if holder is self.program.flow:
            return node, Known(holder.positions) if name == "positions" else None
        if isinstance(holder, torch.Tensor):
            return node, Known(tuple(holder.shape) if name == "shape" else holder.ndim) if name in ("shape", "ndim") else None
        if isinstance(holder, Site) and name == "layer":
            self.program.told = True
            return ast.Name("layer", ast.Load()), Known(holder.layer, True)
        if isinstance(holder, nn.Module):
            node.owner = id(holder)  # type: ignore[attr-defined]
            if name == "training" or name in assigned(type(holder)):  # type: ignore[arg-type]
                return node, None
            if isinstance(getattr(type(holder), name, None), property) and not torchs(type(holder)):
                return self._property(node, holder, name)
            node.fixed = True  # type: ignore[attr-defined]
        if not hasattr(holder, name):
            raise Unsupported(f"{type(holder).__name__} has no {name}")
        found = getattr(holder, name)
        if isinstance(holder, nn.Module) and isinstance(found, nn.Module):
            return self.program.path(self.root, found) or node, Known(found, known.layered)
        return node, Known(found, known.layered or (id(holder), name) in self.program.layered)

    def _property(self, node: ast.Attribute, holder: nn.Module, name: str) -> Folded:
        found = getattr(holder, name)
        if literal(found) is None and stateful(holder):
            code = self.program.method(holder, getattr(type(holder), name).fget, name, set(), False)
            code.node.decorator_list = [ast.Name("property", ast.Load())]
            return node, None
        return node, Known(found)

    def _above(self, name: str) -> Any:
        """What `super().name` is in this function."""
        assert self.module is not None
        order = type(self.module).__mro__
        here = next(i for i, cls in enumerate(order) if inspect.unwrap(vars(cls).get(self.function.__name__, None) or len) is self.function)
        for cls in order[here + 1 :]:
            if name in vars(cls):
                return types.MethodType(vars(cls)[name], self.module)
        raise Unsupported(f"super().{name} is not there")

    def _Subscript(self, node: ast.Subscript) -> Folded:
        node.value, holder = self.fold(node.value)
        node.slice, index = self.fold(node.slice)
        if holder is None or index is None or not isinstance(holder.value, VALUES + CONTAINERS):
            return node, None
        container: Any = holder.value
        try:
            found = container[index.value]
        except (LookupError, TypeError):
            return node, None
        return node, Known(found, holder.layered or index.layered)

    def _Slice(self, node: ast.Slice) -> Folded:
        ends = []
        for name in ("lower", "upper", "step"):
            given = getattr(node, name)
            out, known = self.fold(given) if given is not None else (None, Known(None))
            setattr(node, name, out)
            ends.append(known)
        if any(e is None for e in ends):
            return node, None
        return node, Known(slice(*(e.value for e in ends if e is not None)), any(e.layered for e in ends if e is not None))

    def _Tuple(self, node: ast.Tuple | ast.List | ast.Set) -> Folded:
        found = [f for e in node.elts for f in self._spread(e)]
        node.elts = [out for out, _ in found]
        knowns = [known for _, known in found if known is not None]
        if len(knowns) < len(found) or any(isinstance(k.value, torch.Tensor | nn.Module) for k in knowns):
            return node, None
        kind = {ast.Tuple: tuple, ast.List: list, ast.Set: set}[type(node)]
        return node, Known(kind(k.value for k in knowns), any(k.layered for k in knowns))

    _List = _Set = _Tuple

    def _spread(self, node: ast.expr) -> list[Folded]:
        """An element, or those that a starred one stands for."""
        if not isinstance(node, ast.Starred):
            return [self.fold(node)]
        node.value, known = self.fold(node.value)
        items = items_of(known)
        shown = [literal(item) for item in items or []]
        if known is None or items is None or None in shown:
            return [(node, None)]
        return [(s, Known(item, known.layered)) for s, item in zip(shown, items, strict=True) if s is not None]

    def _Dict(self, node: ast.Dict) -> Folded:
        if any(k is None for k in node.keys):
            return self._children(node), None
        keys = [self.fold(k) for k in node.keys if k is not None]
        values = [self.fold(v) for v in node.values]
        node.keys, node.values = [k for k, _ in keys], [v for v, _ in values]
        if any(known is None or isinstance(known.value, torch.Tensor | nn.Module) for _, known in [*keys, *values]):
            return node, None
        found = {k.value: v.value for (_, k), (_, v) in zip(keys, values, strict=True) if k is not None and v is not None}
        return node, Known(found, any(k is not None and k.layered for _, k in [*keys, *values]))

    def _UnaryOp(self, node: ast.UnaryOp) -> Folded:
        node.operand, known = self.fold(node.operand)
        if isinstance(node.op, ast.Not):
            truth = self.truth(known)
            return node, None if truth is None or known is None else Known(not truth, known.layered)
        return node, computed(node, operand=known)

    def _BinOp(self, node: ast.BinOp) -> Folded:
        node.left, left = self.fold(node.left)
        node.right, right = self.fold(node.right)
        return node, computed(node, left=left, right=right)

    def _Compare(self, node: ast.Compare) -> Folded:
        node.left, left = self.fold(node.left)
        found = [self.fold(c) for c in node.comparators]
        node.comparators = [out for out, _ in found]
        knowns = [left, *(known for _, known in found)]
        if any(k is None for k in knowns):
            return node, None
        same = all(isinstance(op, ast.Is | ast.IsNot) for op in node.ops)
        if not same and any(k is not None and isinstance(k.value, torch.Tensor) for k in knowns):
            return node, None
        shell = ast.Compare(ast.Name("v0", ast.Load()), node.ops, [ast.Name(f"v{i}", ast.Load()) for i in range(1, len(knowns))])
        return node, evaluated(shell, {f"v{i}": k for i, k in enumerate(knowns) if k is not None})

    def _BoolOp(self, node: ast.BoolOp) -> Folded:
        decides = isinstance(node.op, ast.Or)  # the truth that ends the evaluation
        left: list[ast.expr] = []
        layered = False
        for i, value in enumerate(node.values):
            out, known = self.fold(value)
            truth = self.truth(known)
            last = i == len(node.values) - 1
            if truth is None or known is None:
                left.append(out)
                continue
            layered |= known.layered
            if not left and (truth == decides or last):
                return out, Known(known.value, layered)
            if truth == decides and isinstance(known.value, bool):  # whatever stood before it, the test has this truth
                return ast.Constant(decides), Known(decides, layered)
            if truth == decides or (last and not isinstance(known.value, bool)):
                left.append(out)
                break
        if len(left) == 1:
            return left[0], None
        node.values = left
        return node, None

    def _IfExp(self, node: ast.IfExp) -> Folded:
        node.test, known = self.fold(node.test)
        truth = self.truth(known)
        if truth is None or known is None:
            node.body, node.orelse = self.fold(node.body)[0], self.fold(node.orelse)[0]
            return node, None
        out, value = self.fold(node.body if truth else node.orelse)
        return out, value

    def _JoinedStr(self, node: ast.JoinedStr) -> Folded:
        knowns = []
        for v in node.values:
            if isinstance(v, ast.FormattedValue):
                v.value, known = self.fold(v.value)
                knowns.append(known)
        if all(k is not None and literal(k.value) is not None for k in knowns):
            found = eval(compile(ast.fix_missing_locations(ast.Expression(node)), "", "eval"), dict(self.outer))  # of constants
            return node, Known(found, any(k is not None and k.layered for k in knowns))
        return node, None

    def _NamedExpr(self, node: ast.NamedExpr) -> Folded:
        node.value = self.fold(node.value)[0]
        self.names[node.target.id] = (None, None)
        return node, None

    def _Lambda(self, node: ast.Lambda) -> Folded:
        inner = self.copy()
        inner.names |= {a.arg: (None, None) for a in [*node.args.args, *node.args.kwonlyargs]}
        node.body = inner.fold(node.body)[0]
        return node, None

    # ---- comprehensions

    def _ListComp(self, node: Any) -> Folded:
        elements = ["key", "value"] if isinstance(node, ast.DictComp) else ["elt"]
        turns = self._turns(node, elements)
        if turns is None:
            return self._looped(node, elements), None
        dumps = {ast.dump(ast.Tuple([out for out, _ in turn], ast.Load())) for turn in turns}
        counted = isinstance(node.generators[0].iter, ast.Call) and not node.generators[0].ifs and elements == ["elt"]
        values = [tuple(k.value for _, k in turn if k is not None) for turn in turns]
        whole = all(len(v) == len(elements) for v in values) and not any(isinstance(x, torch.Tensor | nn.Module) for v in values for x in v)
        layered = any(k is not None and k.layered for turn in turns for _, k in turn)
        known = None
        if whole:
            kinds = {ast.DictComp: dict, ast.SetComp: set}
            content = values if elements == ["key", "value"] else [v[0] for v in values]
            known = Known(kinds.get(type(node), list)(content), layered)
        if len(dumps) == 1 and len(turns) > 1 and counted and known is None:
            node.elt = turns[0][0][0]
            node.generators[0].iter = self.fold(node.generators[0].iter)[0]
            return node, None
        columns = [[turn[i][0] for turn in turns] for i in range(len(elements))]
        if isinstance(node, ast.DictComp):
            return ast.Dict(list(columns[0]), columns[1]), known
        return (ast.Set(columns[0]) if isinstance(node, ast.SetComp) and columns[0] else ast.List(columns[0], ast.Load())), known

    _DictComp = _SetComp = _GeneratorExp = _ListComp

    def _turns(self, node: Any, elements: list[str]) -> list[list[Folded]] | None:
        """The elements of a comprehension one by one; None where its items or conditions are not known."""
        if len(node.generators) != 1:
            return None
        (generator,) = node.generators
        items = items_of(self.value(generator.iter))
        if items is None:
            return None
        targets = stores(generator.target)
        found = []
        for item in items:
            inner = self.copy()
            inner.bind(generator.target, Known(item))
            tests = [self.truth(inner.value(t)) for t in generator.ifs]
            if None in tests:
                return None
            if all(tests):
                found.append([inner.fold(clone(getattr(node, name))) for name in elements])
        if any(targets & loads(out).keys() for turn in found for out, _ in turn):
            return None
        return found

    def _looped(self, node: Any, elements: list[str]) -> ast.expr:
        inner = self.copy()
        for generator in node.generators:
            generator.iter = inner.fold(generator.iter)[0]
            inner.names |= {name: (None, None) for name in stores(generator.target)}
            generator.ifs = [inner.fold(t)[0] for t in generator.ifs]
        for name in elements:
            setattr(node, name, inner.fold(getattr(node, name))[0])
        found: ast.expr = node
        return found

    def bind(self, target: ast.expr, known: Known | None) -> None:
        """Let the names of a target stand for a value."""
        if isinstance(target, ast.Name):
            shown = literal(known.value) if known is not None and not known.layered else None
            self.names[target.id] = (known, shown)
        elif isinstance(target, ast.Tuple | ast.List):
            values = items_of(known)
            for i, inner in enumerate(target.elts):
                fits = values is not None and known is not None and len(values) == len(target.elts)
                self.bind(inner, Known(values[i], known.layered) if fits and values is not None and known is not None else None)


def changing(node: ast.FunctionDef) -> set[str]:
    """Variables whose value is changed in place."""
    found = set()
    for n in ast.walk(node):
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Attribute) and n.func.attr in CHANGE and isinstance(n.func.value, ast.Name):
            found.add(n.func.value.id)
        elif isinstance(n, ast.Subscript) and isinstance(n.ctx, ast.Store) and isinstance(n.value, ast.Name):
            found.add(n.value.id)
    return found


def imported(name: ast.Name) -> bool:
    """Whether a name is that of an imported module."""
    home = sys.modules.get(getattr(name, "home", ""))
    return isinstance(getattr(home, name.id, None), types.ModuleType)
