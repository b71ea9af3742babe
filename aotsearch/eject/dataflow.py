"""What statements read and write: dead ones dropped, copies followed, calls replaced by the body they call.

A place is the name of a variable, or `self.name` for an attribute of the object itself. Expressions are taken to be without side effects,
but for calls whose name ends with `_`, as torch has it.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from aotsearch.eject.source import clone, rewrite

Block = list[ast.stmt]
COMPREHENSIONS = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp


def loads(*nodes: ast.AST) -> Counter[str]:
    """How often each place is read, in all branches."""
    found: Counter[str] = Counter()
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name) and isinstance(inner.ctx, ast.Load):
                found[inner.id] += 1
            elif isinstance(inner, ast.AugAssign):
                found[place(inner.target)] += 1
            elif isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Load) and place(inner):
                found[place(inner)] += 1
    return found


def stores(*nodes: ast.AST) -> set[str]:
    """The places that are written, in any branch."""
    found = set()
    for node in nodes:
        for inner in ast.walk(node):
            if isinstance(inner, ast.Name | ast.Attribute) and isinstance(inner.ctx, ast.Store | ast.Del):
                found.add(place(inner))
            elif isinstance(inner, ast.FunctionDef):
                found.add(inner.name)
    return found - {""}


def place(node: ast.expr) -> str:
    """The place that an expression is; "" where it is none."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
        return f"self.{node.attr}"
    return ""


def pure(node: ast.AST) -> bool:
    """Whether nothing is lost where an expression is not evaluated."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Call):
            name = getattr(inner.func, "attr", getattr(inner.func, "id", ""))
            if name.endswith("_") and not name.endswith("__"):
                return False
        if isinstance(inner, ast.NamedExpr | ast.Await | ast.Yield | ast.YieldFrom):
            return False
    return True


def simple(node: ast.expr) -> bool:
    """Whether an expression may stand twice: a name, a constant, an attribute of such."""
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.operand, ast.Constant)
    return isinstance(node, ast.Name | ast.Constant) or (isinstance(node, ast.Attribute) and simple(node.value))


# ---- liveness


def alive(block: Sequence[ast.stmt], after: set[str], attributes: bool = False, kept: Callable[[ast.stmt], bool] | None = None) -> Block:
    """A block without what nobody reads. `after` are the places read later; it is changed to those read from the block's start on.

    Args:
        attributes: Whether attributes of the object are dropped as variables are, as in a constructor.
        kept: Whether a statement that only calls something stays; all do, unless given.
    """
    found: Block = []
    for statement in reversed(block):
        found = _alive(statement, after, attributes, kept) + found
    return found


def _alive(s: ast.stmt, after: set[str], attributes: bool, kept: Callable[[ast.stmt], bool] | None) -> Block:
    def inside(block: Sequence[ast.stmt], live: set[str]) -> Block:
        return alive(block, live, attributes, kept)

    if isinstance(s, ast.Assign | ast.AugAssign):
        targets = s.targets if isinstance(s, ast.Assign) else [s.target]
        written = [place(t) for target in targets for t in _leaves(target)]
        if isinstance(s, ast.Assign) and written == [place(s.value)] != [""]:  # x = x
            return []
        droppable = all(w and (attributes or "." not in w) for w in written)
        if droppable and not after.intersection(written) and pure(s.value):
            return []
        if isinstance(s, ast.Assign):
            after.difference_update(written)
        after.update(loads(s))
    elif isinstance(s, ast.If):
        then, otherwise = set(after), set(after)
        s.body, s.orelse = inside(s.body, then), inside(s.orelse, otherwise)
        after |= then | otherwise
        if not s.body and not s.orelse and pure(s.test):
            return []
        if not s.body:
            s.test, s.body, s.orelse = negated(s.test), s.orelse, []
        s.body = s.body or [ast.Pass()]
        after.update(loads(s.test))
    elif isinstance(s, ast.For | ast.While):
        header = loads(s.iter if isinstance(s, ast.For) else s.test)
        live: set[str] = set(after)
        while True:  # what a turn leaves, the next may read
            start = live | header.keys()
            inside(clone(s.body), start)
            inside(clone(s.orelse), start)
            if start <= live:
                break
            live |= start
        s.body, s.orelse = inside(s.body, set(live)), inside(s.orelse, set(after))
        if not s.body:
            return []
        after |= live
    elif isinstance(s, ast.With):
        s.body = inside(s.body, after) or [ast.Pass()]
        after.update(loads(*s.items))
    elif isinstance(s, ast.FunctionDef):
        if s.name not in after:
            return []
        after.discard(s.name)
        after.update(loads(s))
    elif isinstance(s, ast.Return | ast.Raise):
        after.clear()
        after.update(loads(s))
    elif isinstance(s, ast.Pass) or (isinstance(s, ast.Expr) and kept is not None and not kept(s)):
        return []
    else:
        after.update(loads(s))
    return [s]


def _leaves(target: ast.expr) -> list[ast.expr]:
    if isinstance(target, ast.Tuple | ast.List):
        return [leaf for inner in target.elts for leaf in _leaves(inner)]
    return [target.value] if isinstance(target, ast.Starred) else [target]


def negated(test: ast.expr) -> ast.expr:
    """`not test`, written as people do."""
    opposite: dict[type[ast.cmpop], type[ast.cmpop]] = {ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
    if isinstance(test, ast.Compare) and len(test.ops) == 1 and type(test.ops[0]) in opposite:
        return ast.Compare(test.left, [opposite[type(test.ops[0])]()], test.comparators)
    if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
        return test.operand
    return ast.UnaryOp(ast.Not(), test)


# ---- tidying


def tidied(block: Block, after: set[str] | None = None) -> Block:
    """A block with copies followed, sums simplified and dead statements dropped."""
    block = _split(block)
    _follow(block, {})
    block = [rewrite(s, simplified) for s in block]
    return _returned(alive(block, set(after or ())))


def _split(block: Block) -> Block:
    """`a, b = c, d` as two assignments, in all blocks, where that is the same."""
    found: Block = []
    for s in block:
        for name in ("body", "orelse"):
            if getattr(s, name, None) and not isinstance(s, ast.FunctionDef):
                setattr(s, name, _split(getattr(s, name)))
        pairs = paired(s.targets[0], s.value) if isinstance(s, ast.Assign) and len(s.targets) == 1 else None
        if pairs is None:
            found.append(s)
            continue
        parts: Block = [ast.Assign([t], v) for t, v in pairs]
        parts[0].comment, parts[0].above = getattr(s, "comment", ""), getattr(s, "above", [])  # type: ignore[attr-defined]
        found += parts
    return found


def paired(target: ast.expr, value: ast.expr) -> list[tuple[ast.expr, ast.expr]] | None:
    """The assignments that `a, b = c, d` is; None where one after the other they are something else."""
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple) or len(target.elts) != len(value.elts):
        return None
    written: set[str] = set()
    for t, v in zip(target.elts, value.elts, strict=True):
        if isinstance(t, ast.Starred) or isinstance(v, ast.Starred) or written & loads(v).keys():
            return None
        written |= stores(t)
    return list(zip(target.elts, value.elts, strict=True))


def _follow(block: Block, copies: dict[str, ast.expr]) -> None:
    """Read `b` where `a = b` was written and neither has changed since; the same for constants."""
    for s in block:
        if isinstance(s, ast.If | ast.For | ast.While | ast.With | ast.FunctionDef):
            changed = stores(s)
            if isinstance(s, ast.For | ast.While | ast.FunctionDef):
                _forget(copies, changed)
            for name in ("test", "iter", "items"):
                header = getattr(s, name, None)
                if isinstance(header, ast.expr):
                    setattr(s, name, substituted(header, copies))
            for name in ("body", "orelse"):
                if not isinstance(s, ast.FunctionDef):
                    _follow(getattr(s, name, None) or [], dict(copies))
            _forget(copies, changed)
            continue
        if isinstance(s, ast.Assign | ast.AugAssign | ast.Return | ast.Expr) and s.value is not None:
            s.value = substituted(s.value, copies)
            for target in getattr(s, "targets", ()):
                if not place(target) and not isinstance(target, ast.Tuple):
                    rewrite(target, lambda node: substituted_name(node, copies))
        elif isinstance(s, ast.Assert):
            s.test = substituted(s.test, copies)
        _forget(copies, stores(s))
        if isinstance(s, ast.Assign) and len(s.targets) == 1 and isinstance(s.targets[0], ast.Name):
            copied = isinstance(s.value, ast.Name | ast.Constant) or getattr(s, "bound", False) or getattr(s.value, "fixed", False)
            if copied and simple(s.value) and s.targets[0].id not in loads(s.value):
                copies[s.targets[0].id] = s.value


def _forget(copies: dict[str, ast.expr], changed: set[str]) -> None:
    for name, value in list(copies.items()):
        if name in changed or changed & loads(value).keys():
            del copies[name]


def substituted(node: ast.expr, values: Mapping[str, ast.expr]) -> ast.expr:
    """An expression with expressions in place of names."""
    found: ast.expr = rewrite(node, lambda inner: substituted_name(inner, values))
    return found


def substituted_name(node: ast.AST, values: Mapping[str, ast.expr]) -> ast.AST | None:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in values:
        return clone(values[node.id])
    return None


def simplified(node: ast.AST) -> ast.AST | None:
    """A sum or product of floating-point numbers without a factor of 1 and with signs drawn out: the same numbers to the last bit."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        for one, other in ((node.left, node.right), (node.right, node.left)):
            if number(one) in (1.0, -1.0):
                return other if number(one) == 1.0 else ast.UnaryOp(ast.USub(), other)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        positive, ahead = _positive(node.right), _positive(node.left)
        if positive is not None:
            return ast.BinOp(node.left, ast.Sub() if isinstance(node.op, ast.Add) else ast.Add(), positive)
        if ahead is not None and isinstance(node.op, ast.Add):
            return ast.BinOp(node.right, ast.Sub(), ahead)
        if number(node.left) == 0 and isinstance(node.op, ast.Add) and isinstance(node.right, ast.Call):
            if getattr(node.right.func, "attr", "") in ("sigmoid", "exp", "relu", "softplus"):  # never -0
                return node.right
    if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "pad" and len(node.args) == 2:
        widths = node.args[1]
        if isinstance(widths, ast.Tuple) and all(number(w) == 0 for w in widths.elts):
            return node.args[0]
    return None


def _positive(node: ast.expr) -> ast.expr | None:
    """The expression without its minus sign, where it has one in front."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return node.operand
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        left = _positive(node.left)
        return ast.BinOp(left, node.op, node.right) if left is not None else None
    return None


def number(node: ast.AST) -> float | None:
    """The number that an expression writes, if it is one."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = number(node.operand)
        return None if inner is None else -inner
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return float(node.value)
    return None


def _returned(block: Block) -> Block:
    """`x = e; return x` is `return e`."""
    if len(block) > 1 and isinstance(block[-1], ast.Return) and isinstance(block[-1].value, ast.Name):
        before = block[-2]
        if isinstance(before, ast.Assign) and len(before.targets) == 1 and place(before.targets[0]) == block[-1].value.id:
            last = ast.Return(before.value)
            last.comment, last.above = getattr(before, "comment", ""), getattr(before, "above", [])  # type: ignore[attr-defined]
            return [*block[:-2], last]
    return block


def collapsed(block: Block) -> ast.expr | None:
    """A body that is one expression: each variable it names is read once. None where it is more."""
    values: dict[str, ast.expr] = {}
    for i, s in enumerate(block):
        if isinstance(s, ast.Return) and s.value is not None and i == len(block) - 1:
            return substituted(clone(s.value), values)
        if not (isinstance(s, ast.Assign) and len(s.targets) == 1 and isinstance(s.targets[0], ast.Name)):
            return None
        name = s.targets[0].id
        if sum(name in stores(other) for other in block) > 1 or loads(*block[i + 1 :])[name] > 1:
            return None
        values[name] = substituted(clone(s.value), values)
    return None


# ---- calls


class Bound:
    """A call that may be replaced: the body of what it calls, and an expression for each parameter."""

    def __init__(self, body: Block, arguments: Mapping[str, ast.expr]):
        self.body, self.arguments = body, dict(arguments)


def straight(block: Sequence[ast.stmt]) -> bool:
    """Whether a body returns once, at its end."""
    returns = [n for s in block for n in ast.walk(s) if isinstance(n, ast.Return)]
    return bool(block) and len(returns) == 1 and block[-1] is returns[0] and returns[0].value is not None


def inlined(block: Block, after: set[str], find: Callable[[ast.Call], Bound | None]) -> Block:
    """A block in which calls that `find` knows are replaced by the bodies of what they call.

    Variables of the body keep their names where the block does not need its own of that name any more, and are numbered where it does.
    """
    found: Block = []
    for i, s in enumerate(block):
        live = set(after)
        alive(clone(block[i + 1 :]), live)
        for name in ("body", "orelse"):
            inner = getattr(s, name, None)
            if inner and not isinstance(s, ast.FunctionDef):
                again = set(loads(s)) if isinstance(s, ast.For | ast.While) else set()
                setattr(s, name, inlined(inner, live | again, find))
        call, bound = _first(s, find)
        while call is not None and bound is not None:
            ahead, value = _placed(s, call, bound, live)
            found += ahead
            _replace(s, call, value)
            call, bound = _first(s, find)
        found.append(s)
    return found


def _first(s: ast.stmt, find: Callable[[ast.Call], Bound | None]) -> tuple[ast.Call | None, Bound | None]:
    """The first call of a statement's own expressions that can be replaced where it stands."""
    if isinstance(s, ast.While | ast.FunctionDef):
        return None, None
    headers = [getattr(s, name) for name in ("value", "test", "iter") if isinstance(getattr(s, name, None), ast.expr)]
    for header in headers:
        lazy = {
            id(inner)
            for node in ast.walk(header)
            if isinstance(node, ast.IfExp | ast.BoolOp | ast.Lambda | COMPREHENSIONS)
            for inner in ast.walk(node)
        }
        for node in ast.walk(header):
            bound = find(node) if isinstance(node, ast.Call) else None
            if bound is not None and (id(node) not in lazy or len(bound.body) == 1):
                return node, bound  # type: ignore[return-value]
    return None, None


def _placed(s: ast.stmt, call: ast.Call, bound: Bound, live: set[str]) -> tuple[Block, ast.expr]:
    """The statements that stand before a statement, and the value in place of its call."""
    body = clone(bound.body)
    written = stores(*body)
    values: dict[str, ast.expr] = {}  # for parameters that are replaced where they are read; the others become variables
    for name, value in bound.arguments.items():
        follows = isinstance(value, ast.Name) and value.id not in written and (value.id == name or value.id not in bound.arguments)
        once = len(body) == 1 and loads(*body)[name] <= 1
        if name not in written and (follows or isinstance(value, ast.Constant) or once):
            values[name] = value
    variables = {name: value for name, value in bound.arguments.items() if name not in values and name in loads(*body)}
    inside = {id(n) for n in ast.walk(call)}
    around = {n.id for n in ast.walk(s) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load) and id(n) not in inside}
    given = {n for name, value in bound.arguments.items() for n in loads(value) if n != name}
    needed = live - (stores(s) if isinstance(s, ast.Assign) else set()) | around | given
    local = {name for name in written | variables.keys() if "." not in name}
    renamed = {name: _fresh(name, local | needed | live) for name in sorted(local & needed)}
    body = [_with_values(b, values) for b in body]
    for n in (n for b in body for n in ast.walk(b)):
        if isinstance(n, ast.Name) and n.id in renamed:
            n.id = renamed[n.id]
    ahead: Block = []
    for name, value in variables.items():
        if not (isinstance(value, ast.Name) and value.id == renamed.get(name, name)):
            binding = ast.Assign([ast.Name(renamed.get(name, name), ast.Store())], value)
            binding.bound = True  # type: ignore[attr-defined]
            ahead.append(binding)
    last = body[-1]
    assert isinstance(last, ast.Return) and last.value is not None
    if getattr(last, "comment", "") and not getattr(s, "comment", ""):
        s.comment = last.comment  # type: ignore[attr-defined]
    return [*ahead, *body[:-1]], last.value


def _with_values(s: ast.stmt, values: Mapping[str, ast.expr]) -> ast.stmt:
    found: ast.stmt = rewrite(s, lambda node: substituted_name(node, values))
    return found


def _fresh(name: str, taken: set[str]) -> str:
    return next(found for found in (f"{name}{n}" for n in range(2, 1000)) if found not in taken)


def _replace(s: ast.stmt, call: ast.Call, value: ast.expr) -> None:
    rewrite(s, lambda node: value if node is call else None)
