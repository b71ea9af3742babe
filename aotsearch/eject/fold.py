"""Source of the parts as trees, comments kept, and one pass over a method: what is known is put in, what is decided or idle is dropped."""

from __future__ import annotations

import ast
import builtins
import copy
import functools
import io
import json
import re
import sys
import tokenize
import types
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.errors import InputError
from aotsearch.grammar import library
from aotsearch.models.parts import context
from aotsearch.models.parts.context import ForwardContext, LayerContext

Table = dict[str, Any]
PLAIN = (bool, int, float, type(None), torch.dtype, tuple, list, dict)
METHODS = ("bit_length", "get", "items", "keys", "values")  # that only compute, and functions of that kind
FUNCTIONS = (
    "abs all any bool dict divmod enumerate float getattr int isinstance len list max min range round set sorted str sum tuple zip".split()
)
CHANGES = r"(\.(append|extend|insert|update|add|pop|remove|clear)\(|\[[^\]\n]*\]\s*[-+*/|]?=[^=])"  # after the name of what they change
TURNS = 8  # of a loop that may be written out


class Unit(Protocol):
    """What a pass over a method asks of the class that it is in; `program.Unit` is one."""

    object: nn.Module
    names: Table
    first: dict[str, Any]
    kind: Any
    program: Any


def refused(why: str) -> InputError:
    return InputError(f"this architecture cannot be ejected: {why}")


def owned(thing: Any) -> bool:
    """Whether a class or function is of a package that words come from, so that its source is copied."""
    root = (getattr(thing, "__module__", "") or "").partition(".")[0]
    return any(w.module.partition(".")[0] == root for w in library.library().values())


# ---- source


@functools.cache
def top(module: str) -> Table:
    """The statement that binds each name at the top of a module; statements keep the comments above and beside them."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if file is None or not Path(file).is_file():
        raise refused(f"the source of {module} cannot be read")
    text = Path(file).read_text(encoding="utf-8")
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    notes = {t.start[0]: (t.string, t.line) for t in tokens if t.type == tokenize.COMMENT and "type:" not in t.string}
    tree = ast.parse(text)
    for s in (n for n in ast.walk(tree) if isinstance(n, ast.stmt)):
        last = s.body[0].lineno - 1 if hasattr(s, "body") else s.end_lineno  # of its own lines
        beside = [notes[i][0] for i in range(s.lineno, max(last or 0, s.lineno) + 1) if i in notes and notes[i][1].lstrip()[0] != "#"]
        s.notes = [notes[s.lineno - 1][0]] if s.lineno - 1 in notes and notes[s.lineno - 1][1].lstrip()[0] == "#" else []  # type: ignore[attr-defined]
        s.notes += [f"#>{note[1:]}" for note in beside[:1] if "type: ignore" not in note]  # type: ignore[attr-defined]
    return {name: s for s in Plain(vars(sys.modules[module])).visit(tree).body for name in bound(s)}


class Plain(ast.NodeTransformer):
    """Source without what is for checkers: asserts, and annotations that name more than every file has."""

    def __init__(self, names: Table):
        self.names = names

    def visit_Assert(self, node: ast.Assert) -> None:
        return None

    def visit_AnnAssign(self, node: ast.AnnAssign) -> Any:
        return node.value and ast.Assign([node.target], node.value, lineno=0, notes=node.notes)  # type: ignore[call-arg, attr-defined]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.FunctionDef:
        self.generic_visit(node)
        if (doc := ast.get_docstring(node)) is not None:
            node.body[0].value = ast.Constant(doc.replace("\n", "\n    "))  # type: ignore[attr-defined]
        known = vars(builtins).keys() | {n for n, thing in self.names.items() if thing in (torch, nn, ForwardContext)}
        for holder, name in [(node, "returns"), *((n, "annotation") for n in ast.walk(node.args) if isinstance(n, ast.arg))]:
            given = getattr(holder, name)
            if given is not None and not loaded(given) <= known:
                setattr(holder, name, None)
        return node


def definition(thing: Any) -> Any:
    """The tree of a class or function at the top of its module, a copy that may be changed."""
    node = top(thing.__module__).get(thing.__qualname__)
    if not isinstance(node, ast.ClassDef | ast.FunctionDef):
        raise refused(f"the source of {thing.__module__}.{thing.__qualname__} is not at the top of its module")
    node = copy.deepcopy(node)
    node.decorator_list = []
    return node


def bound(node: ast.AST) -> set[str]:
    """The names that a piece of source binds."""
    found = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and not isinstance(n.ctx, ast.Load)}
    found |= {(n.asname or n.name).partition(".")[0] for n in ast.walk(node) if isinstance(n, ast.alias)}
    found |= {n.name for n in ast.walk(node) if isinstance(n, ast.FunctionDef | ast.ClassDef)}
    return found | {n.arg for n in ast.walk(node) if isinstance(n, ast.arg)}


def loaded(node: ast.AST) -> set[str]:
    """The names that a piece of source reads."""
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}


def arguments(node: ast.FunctionDef) -> list[str]:
    return [a.arg for a in [*node.args.args, *node.args.kwonlyargs]]


def computed(node: ast.FunctionDef) -> tuple[list[str], ast.expr | None]:
    """The parameters of a function, and what it gives where it does nothing but compute one expression."""
    last = node.body[-1] if len(node.body) == 1 + (ast.get_docstring(node) is not None) else None
    return arguments(node), last.value if isinstance(last, ast.Return) else None


def tree(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def literal(value: Any) -> str | None:
    """The text of a plain value; None where it has none."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    try:
        plain = type(value) in PLAIN and (isinstance(value, torch.dtype) or ast.literal_eval(repr(value)) == value)
    except (ValueError, SyntaxError):
        return None
    return repr(value) if plain else None


class Put(ast.NodeTransformer):
    """Expressions in place of names that are read."""

    def __init__(self, given: dict[str, ast.expr]):
        self.given = given

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.given.get(node.id, node) if isinstance(node.ctx, ast.Load) else node

    def into(self, node: Any) -> Any:
        return self.visit(copy.deepcopy(node))


# ---- what is known


class Bindings:
    """What is known at a place of a function: a table of names for each of the modules that its class stands for, and the names at the top
    of its module; not the names that it binds itself (`local`), nor attributes that are `changed` when it runs."""

    def __init__(self, tables: list[Table], local: set[str], outer: Table, changed: set[str]):
        self.tables, self.local, self.outer, self.changed = tables, local, outer, changed

    def values(self, node: ast.expr) -> list[Any]:
        """The value of an expression for each of the modules, as Python computes it; none where it is not known."""
        names = [n for n in ast.walk(node) if isinstance(n, ast.Name)]
        read = {n.id for n in names} - {n.id for n in names if isinstance(n.ctx, ast.Store)}
        known = ((self.outer.keys() | vars(builtins).keys()) - self.local) | self.tables[0].keys()
        if not names or isinstance(node, ast.Starred) or not read <= known or not all(map(self._computes, ast.walk(node))):
            return []
        try:
            text = compile(ast.fix_missing_locations(ast.Expression(node)), "ejected", "eval")
            return [eval(text, {**self.outer, **table}) for table in self.tables]  # of our own source  # nosec B307
        except Exception:  # noqa: BLE001 (whatever an expression raises that is computed before its time)
            return []

    def _computes(self, node: ast.AST) -> bool:
        """Whether a part of an expression does nothing but compute."""
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return node.func.attr in METHODS or ast.unparse(node.func.value) == "math"
        if isinstance(node, ast.Call):
            return ast.unparse(node.func) in FUNCTIONS and ast.unparse(node.func) not in {**self.outer, **self.tables[0]}
        return getattr(node, "attr", "") not in self.changed and not isinstance(
            node, ast.Lambda | ast.NamedExpr | ast.Yield | ast.YieldFrom
        )

    def text(self, node: ast.expr) -> str | None:
        """The text of an expression's value, where it is plain and the same for all; else None."""
        found = [literal(v) for v in self.values(node)]
        return found[0] if found and len(set(found)) == 1 else None


class Fold(ast.NodeTransformer):
    """The pass over a method; `given` are the arguments of a word's constructor."""

    def __init__(self, unit: Unit, scope: Bindings, given: set[str], method: ast.FunctionDef):
        self.unit, self.scope, self.given, self.method, self.read = unit, scope, given, method.name, loaded(method)

    def visit(self, node: ast.AST) -> Any:
        known = self._known(node) if isinstance(node, ast.expr) and isinstance(getattr(node, "ctx", ast.Load()), ast.Load) else None
        return super().visit(node) if known is None else known

    def _known(self, node: ast.expr) -> ast.expr | None:
        """What stands for an expression that is known; None where it stays, or its parts are looked at."""
        value, text, given = next(iter(self.scope.values(node)), None), self.scope.text(node), getattr(node, "id", None) in self.given
        if text is not None:
            bare, long = isinstance(node, ast.Name | ast.Attribute) and not given, re.fullmatch(r"-?[\d.e-]{13,}", text) and not given
            return None if long or (bare and text[0] in "[{") else tree(text)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            base, name = next(iter(self.scope.values(node.value)), None), getattr(value, "__name__", "")
            if isinstance(base, LayerContext) and value is not None:
                return ast.Name(node.attr, ast.Load())
            if node.value.id == "self" and isinstance(value, types.FunctionType | types.BuiltinFunctionType):
                return tree(name) if self.scope.outer.get(name) is value else tree(f"F.{name}") if hasattr(F, name) else None
            held = [k for k, v in self.unit.object._modules.items() if v is base and base is not None]
            return tree(f"self.{held[0]}.{node.attr}") if held and node.value.id in self.given else None  # an option that is a part
        if isinstance(value, LayerContext) and isinstance(node, ast.Name):
            return ast.Name("layer", ast.Load())
        return self.unit.program.call(value) if given and isinstance(value, nn.Module) else None

    def visit_Call(self, node: ast.Call) -> Any:
        self.generic_visit(node)
        thing, name = next(iter(self.scope.values(node.func)), None), ast.unparse(node.func)
        if name in self.unit.program.classes:
            return self.unit.program.call(name)
        if name == "getattr" and len(node.args) == 2 and isinstance(node.args[1], ast.Constant):
            return ast.Attribute(node.args[0], str(node.args[1].value), ast.Load())
        if isinstance(thing, nn.Identity) or thing is context.decayed:
            return node.args[0]
        if thing is context.drawn:  # what is normal at the start
            parameter, std = map(ast.unparse, node.args)
            zeros = re.fullmatch(r"nn\.Parameter\(torch\.zeros\((.*)\)\)", parameter)
            text = f"nn.Parameter({std} * torch.randn({zeros[1]}))" if zeros else f"nn.init.normal_({parameter}, std={std})"
            return tree(parameter if std in ("0", "0.0") else text)
        if isinstance(thing, types.FunctionType) and owned(thing) and not node.keywords:
            return self._inlined(thing, node.args) or node
        idle = self.unit.program.idle(self.unit, node.func)
        if idle and not any(isinstance(a, ast.Starred) for a in node.args):
            node.args = [a for a, name in zip(node.args, idle, strict=False) if not idle[name]]
            node.keywords = [k for k in node.keywords if not idle.get(str(k.arg))]
        return node

    def _inlined(self, function: types.FunctionType, given: list[ast.expr]) -> ast.expr | None:
        """What a helper gives that computes one expression, where it can be written here."""
        names, value = computed(definition(function))
        if value is None or len(names) != len(given):
            return None
        read = [n.id for n in ast.walk(value) if isinstance(n, ast.Name)]
        here, there, short = self.scope.outer, function.__globals__, ast.Name | ast.Attribute | ast.Constant | ast.UnaryOp
        written = all(read.count(n) < 2 or isinstance(a, short) for n, a in zip(names, given, strict=True))
        written &= all(here.get(n) is there.get(n) for n in read if n not in names)
        return Put(dict(zip(names, given, strict=True))).into(value) if written else None

    def visit_IfExp(self, node: ast.IfExp) -> Any:
        self.generic_visit(node)
        return node if not isinstance(node.test, ast.Constant) else node.body if node.test.value else node.orelse

    def visit_BoolOp(self, node: ast.BoolOp) -> Any:
        self.generic_visit(node)
        passed = isinstance(node.op, ast.And)  # True says nothing here, and False decides; the other way round for `or`
        decided = [v for v in node.values if isinstance(v, ast.Constant) and bool(v.value) is not passed]
        kept = [v for v in node.values if not isinstance(v, ast.Constant)]
        return decided[0] if decided else ast.BoolOp(node.op, kept) if len(kept) > 1 else (kept or node.values)[-1]

    def visit_BinOp(self, node: ast.BinOp) -> Any:
        """A term as one writes it: without a factor 1, its sign before it."""
        self.generic_visit(node)
        left, right, times = ast.unparse(node.left), ast.unparse(node.right), isinstance(node.op, ast.Mult)
        if times and {left, right} & {"1", "1.0"}:
            return node.right if left in ("1", "1.0") else node.left
        if times and left in ("-1", "-1.0"):
            return ast.UnaryOp(ast.USub(), node.right)
        product = isinstance(node.right, ast.UnaryOp) or isinstance(getattr(node.right, "op", None), ast.Mult | ast.Div)
        if isinstance(node.op, ast.Add | ast.Sub) and right.startswith("-") and product:
            return ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), tree(right[1:]))
        return node

    def visit_If(self, node: ast.If) -> Any:
        self.generic_visit(node)
        if not isinstance(node.test, ast.Constant):
            if not node.body and node.orelse:
                node.test, node.body, node.orelse = ast.UnaryOp(ast.Not(), node.test), node.orelse, []
            return node if node.body else None
        taken: Any = node.body if node.test.value else node.orelse
        if taken and node.test.value:  # what stood beside the condition stands above what it was about
            taken[0].notes = [note.replace("#>", "#") for note in node.notes] + taken[0].notes  # type: ignore[attr-defined]
        return taken

    def visit_For(self, node: ast.For) -> Any:
        """A loop over known names, or numbers where something is decided by that, is written out."""
        values, start = self.scope.values(node.iter), copy.deepcopy(node)
        self.generic_visit(node)
        turns = (
            list(values[0]) if values and isinstance(values[0], range | list | tuple) and values.count(values[0]) == len(values) else None
        )
        if (
            turns is None
            or literal(turns) is None
            or len(turns) > TURNS
            or re.search(r"\b(break|continue|yield|else)\b", ast.unparse(start))
        ):
            return node if node.body else None
        lines: list[ast.stmt] = []
        for put in (Put({ast.unparse(start.target): tree(str(literal(value)))}) for value in turns):
            lines += [line for s in start.body for line in several(self.visit(put.into(s)))]
        named = any(isinstance(value, str) for value in turns)
        return lines if named or len(turns) < 2 or len(lines) < len(turns) * len(start.body) else node

    def visit_Assign(self, node: ast.Assign) -> Any:
        base, _, name = ast.unparse(node.targets[0]).partition(".")
        if self._idle(node.targets[0]) or (base == "flow" and name not in self.unit.program.carried):
            return None
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and any(map(self._idle, target.elts)):
            value.elts = [v for t, v in zip(target.elts, value.elts, strict=True) if not self._idle(t)]
            target.elts = [t for t in target.elts if not self._idle(t)]
            if len(target.elts) == 1:
                node.targets, node.value = target.elts, value.elts[0]
        return self.generic_visit(node)

    def visit_AugAssign(self, node: ast.AugAssign) -> Any:
        return None if isinstance(node.target, ast.Name) and self._idle(node.target) else self.generic_visit(node)

    def _idle(self, target: ast.expr) -> bool:
        """Whether what is set here is never asked for: a local, or an attribute that is not part of the state either."""
        if isinstance(target, ast.Tuple):
            return all(map(self._idle, target.elts))
        if isinstance(target, ast.Name):
            return target.id in self.unit.first[self.method] and target.id not in self.read
        if self.method != "__init__" or not isinstance(target, ast.Attribute) or ast.unparse(target.value) != "self":
            return False
        return target.attr not in self.unit.kind.read and target.attr not in self.unit.kind.state


def several(found: Any) -> list[Any]:
    """The statements that a pass made of one."""
    return found if isinstance(found, list) else [found] if found is not None else []


def folded(unit: Unit, node: ast.FunctionDef, given: set[str], tables: list[Table], ends: list[Table]) -> None:
    """One pass. The locals at a function's end, where they are known, are true of a name after the last statement that binds it."""
    binds, text, out = [bound(s) for s in node.body], ast.unparse(node), []
    local = set().union(*binds)
    start = [{k: v for k, v in table.items() if k not in local} for table in tables]
    fold = Fold(unit, Bindings(start, local | set(arguments(node)), unit.names, unit.kind.changed), given, node)
    for i, s in enumerate(node.body):
        out += several(fold.visit(s))
        for name in binds[i].difference(*binds[i + 1 :]):
            if ends and all(name in end for end in ends) and not re.search(rf"\b{name}{CHANGES}", text):
                for table, end in zip(start, ends, strict=True):
                    table[name] = end[name]
        if out and isinstance(out[-1], ast.Return | ast.Raise):
            break
    node.body = out
