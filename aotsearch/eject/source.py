"""Python source text as trees that keep their comments, and trees as text again.

`definition(f)` is the tree of a function or a class as it stands in its file; `text(tree)` writes one, lines within `WIDTH`.
"""

from __future__ import annotations

import ast
import copy
import functools
import inspect
import io
import re
import tokenize
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

WIDTH = 120
INDENT = "    "
MACHINE_READ = ("type:", "noqa", "pragma", "fmt:")  # comments that are not for people


def definition(thing: Any) -> Any:
    """The tree of a function or class, a copy that may be changed. Raises LookupError where its source cannot be read."""
    return clone(_found(inspect.unwrap(thing)))


@functools.cache
def _found(inner: Any) -> Any:
    try:
        file = inspect.getsourcefile(inner)
    except TypeError:
        file = None
    if file is None or not Path(file).is_file():
        raise LookupError(f"the source of {getattr(inner, '__qualname__', inner)} cannot be read")
    for node in ast.walk(_tree(file)):
        if isinstance(inner, type):
            if isinstance(node, ast.ClassDef) and node.name == inner.__name__:
                return node
        elif isinstance(node, ast.FunctionDef) and node.name == inner.__name__:
            lines = {node.lineno, *(d.lineno for d in node.decorator_list)}
            if inner.__code__.co_firstlineno in lines:
                return node
    raise LookupError(f"the source of {inner.__qualname__} is not in {file}")


def bindings(module: Any) -> dict[str, ast.stmt]:
    """What binds each name at the top of a module: an import, an assignment, a definition."""
    found: dict[str, ast.stmt] = {}
    for node in _tree(str(inspect.getsourcefile(module))).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            found |= {(a.asname or a.name).partition(".")[0]: node for a in node.names}
        elif isinstance(node, ast.Assign):
            found |= {t.id: node for t in node.targets if isinstance(t, ast.Name)}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found[node.target.id] = node
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
    return found


@functools.cache
def _tree(file: str) -> ast.Module:
    """A file's tree, the comment at the end of a statement's line (of its header, where it has a body) kept as `comment`, those on lines
    of their own above it as `above`."""
    given = Path(file).read_text(encoding="utf-8")
    tree = ast.parse(given)
    beside: dict[int, str] = {}
    alone: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(given).readline):
        if token.type == tokenize.COMMENT and not token.string.lstrip("# ").startswith(MACHINE_READ):
            (alone if token.line.lstrip().startswith("#") else beside)[token.start[0]] = token.string
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            lines = [beside[n] for n in range(node.lineno, (end or node.lineno) + 1) if n in beside]
            above: list[str] = []
            line = node.lineno - 1
            while line in alone:
                above.insert(0, alone[line])
                line -= 1
            node.comment = re.sub(r"\s*# (type|noqa|pragma):.*", "", lines[0]) if lines else ""  # type: ignore[attr-defined]
            node.above = above  # type: ignore[attr-defined]
    return tree


# ---- trees -> text


def text(node: ast.stmt, depth: int = 0) -> str:
    """A statement as text, with its comments."""
    return "\n".join(_lines(node, depth))


def expression(node: ast.expr) -> str:
    """An expression as text on one line, strings in double quotes where that changes nothing."""
    return _polished(ast.unparse(ast.fix_missing_locations(node)))


def _lines(node: ast.stmt, depth: int) -> Iterator[str]:
    indent = INDENT * depth
    for line in getattr(node, "above", ()):
        yield indent + line
    head = _head(node)
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
        yield from docstring(node.value.value, depth)
        return
    for decorator in getattr(node, "decorator_list", ()):
        yield f"{indent}@{expression(decorator)}"
    comment = getattr(node, "comment", "")
    lines = wrapped(indent + head)
    if comment and len(lines[0]) + 2 + len(comment) <= WIDTH and len(lines) == 1:
        lines[0] += "  " + comment
    elif comment:
        yield indent + comment
    yield from lines
    for title, body in _bodies(node):
        if title:
            yield from wrapped(indent + title)
        before: ast.stmt | None = None
        for inner in body:
            if before is not None and (isinstance(inner, ast.FunctionDef) or isinstance(before, ast.FunctionDef)):
                yield ""
            yield from _lines(inner, depth + 1)
            before = inner


def _head(node: ast.stmt) -> str:
    """The first line of a statement; all of it where it has no body."""
    if isinstance(node, ast.Assign):
        return " = ".join([*(_bare(t) for t in node.targets), _bare(node.value)])
    if isinstance(node, ast.Return) and node.value is not None:
        return f"return {_bare(node.value)}"
    if not hasattr(node, "body"):
        return _polished(ast.unparse(ast.fix_missing_locations(node)))
    shell = copy.copy(node)
    shell.body = [ast.Pass()]
    for name in ("orelse", "finalbody", "handlers", "decorator_list"):
        if hasattr(shell, name):
            setattr(shell, name, [])
    return _polished(ast.unparse(ast.fix_missing_locations(shell)).rpartition("\n")[0])


def _bodies(node: ast.stmt) -> Iterator[tuple[str, Sequence[ast.stmt]]]:
    if isinstance(node, ast.If):
        yield "", node.body
        rest = node.orelse
        while len(rest) == 1 and isinstance(rest[0], ast.If):
            yield "el" + _head(rest[0]), rest[0].body
            rest = rest[0].orelse
        if rest:
            yield "else:", rest
        return
    if hasattr(node, "body"):
        yield "", node.body
        if getattr(node, "orelse", None):
            yield "else:", node.orelse  # type: ignore[attr-defined]


def _bare(node: ast.expr) -> str:
    """An expression; a tuple without its parentheses, as is usual on both sides of an assignment."""
    if isinstance(node, ast.Tuple) and len(node.elts) > 1:
        return ", ".join(map(expression, node.elts))
    return expression(node)


def _polished(line: str) -> str:
    """Double quotes, and numbers and powers as people write them."""
    line = re.sub(r"\*\* \((-[\w.]+)\)", r"** \1", line)
    line = re.sub(r"(?<![\w.)\]])([\w.]+) \*\* (-?[\w.]+)(?![\w.(\[])", r"\1**\2", line)
    line = re.sub(r"\b(\d(?:\.\d+)?e)-0(\d)\b", r"\1-\2", line)
    try:
        tokens = list(tokenize.generate_tokens(io.StringIO(line).readline))
    except (tokenize.TokenError, IndentationError):  # a header without its body
        tokens = []
    for token in reversed(tokens):
        if token.type == tokenize.STRING and token.start[0] == 1:
            found = re.fullmatch(r"([rbRB]*)'([^'\"\\]*)'", token.string)
            if found:
                line = f'{line[: token.start[1]]}{found[1]}"{found[2]}"{line[token.end[1] :]}'
    return _generators(re.sub(r"\bf'([^'\"\\]*)'", r'f"\1"', line))


def _generators(line: str) -> str:
    """`f((x for x in y))` is `f(x for x in y)`."""
    starts = [m.start() for m in re.finditer(r"\(\(", line)]
    for start in reversed(starts):
        depth = 0
        for i, c in _outside_strings(line[start + 1 :]):
            depth += (c in "([{") - (c in ")]}")
            if depth == 0:
                stop = start + 1 + i
                inner = line[start + 2 : stop]
                if line[stop + 1 : stop + 2] == ")" and any(d == 0 and inner.startswith("for ", k) for k, d in _depths(inner)):
                    line = line[: start + 1] + inner + line[stop + 1 :]
                break
    return line


def docstring(content: str, depth: int) -> list[str]:
    """A docstring's lines."""
    indent = INDENT * depth
    first, *rest = inspect.cleandoc(content.replace('"""', "'''")).split("\n")
    prefix = 'r"""' if "\\" in content else '"""'
    if not rest and not first.endswith(('"', "\\")):
        return [f'{indent}{prefix}{first}"""']
    return [f"{indent}{prefix}{first}", *((indent + line).rstrip() for line in rest), f'{indent}"""']


def wrapped(line: str) -> list[str]:
    """A line of code as lines within WIDTH: what stands between the last outermost brackets on lines of its own, by its commas."""
    if len(line) <= WIDTH:
        return [line]
    pair = _last_pair(line)
    if pair is None:
        return [line]
    start, stop = pair
    indent = line[: len(line) - len(line.lstrip())]
    head, inner, tail = line[: start + 1], line[start + 1 : stop], line[stop:]
    items = _split(inner)
    if len(items) == 1 and len(indent) + len(INDENT) + len(inner) > WIDTH:
        within = wrapped(indent + INDENT + items[0])
        return [head, *within, indent + tail] if len(within) > 1 else [line]
    whole = indent + INDENT + inner
    if (len(items) > 1 and len(whole) > WIDTH) or (len(items) > 1 and head.endswith("{") and ":" in inner):
        body = [part for item in items for part in _with_comma(wrapped(indent + INDENT + item))]
    else:
        body = [whole]
    return [*(wrapped(head) if len(head) > WIDTH else [head]), *body, indent + tail]


def _with_comma(lines: list[str]) -> list[str]:
    return [*lines[:-1], lines[-1] + ","]


def _last_pair(line: str) -> tuple[int, int] | None:
    """The last outermost brackets of a line that hold something."""
    found, stack = None, []
    for i, c in _outside_strings(line):
        if c in "([{":
            stack.append(i)
        elif c in ")]}" and stack:
            start = stack.pop()
            if not stack and i > start + 1:
                found = (start, i)
    return found


def _split(inner: str) -> list[str]:
    """The items between brackets, at their commas."""
    items, depth, last = [], 0, 0
    if re.search(r"\bfor\b", inner) and not inner.startswith("["):  # a comprehension is one item
        depths = [d for i, d in _depths(inner) if inner.startswith("for ", i)]
        if 0 in depths:
            return [inner]
    for i, c in _outside_strings(inner):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            items.append(inner[last:i].strip())
            last = i + 1
    return [*items, inner[last:].strip()] if inner[last:].strip() else items


def _depths(inner: str) -> Iterator[tuple[int, int]]:
    depth = 0
    for i, c in _outside_strings(inner):
        depth += (c in "([{") - (c in ")]}")
        yield i, depth


def _outside_strings(line: str) -> Iterator[tuple[int, str]]:
    quote = ""
    for i, c in enumerate(line):
        if quote:
            quote = "" if c == quote and line[i - 1] != "\\" else quote
        elif c in "'\"":
            quote = c
        else:
            yield i, c


def clone(node: T) -> T:
    """A copy of a tree, or of a list of them. What is noted on their nodes is not copied but shared."""
    if isinstance(node, list):
        return [clone(n) for n in node]  # type: ignore[return-value]
    if not isinstance(node, ast.AST):
        return node
    found = node.__class__.__new__(node.__class__)
    for name, value in vars(node).items():
        setattr(found, name, clone(value) if name in node._fields else value)
    return found


def rewrite(node: Any, change: Callable[[ast.AST], ast.AST | None]) -> Any:
    """A tree changed from its leaves up; `change` gives what stands in a node's place, None to leave it."""
    for name, value in ast.iter_fields(node):
        if isinstance(value, ast.AST):
            setattr(node, name, rewrite(value, change))
        elif isinstance(value, list):
            setattr(node, name, [rewrite(v, change) if isinstance(v, ast.AST) else v for v in value])
    changed = change(node)
    return node if changed is None else changed
