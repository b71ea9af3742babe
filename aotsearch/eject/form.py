"""What is left of a module: the values that are known, and the classes and functions in the making."""

from __future__ import annotations

import ast
import builtins
import contextlib
import functools
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from aotsearch.eject.dataflow import Block, alive, loads, place, stores, substituted_name
from aotsearch.eject.source import definition, rewrite
from aotsearch.grammar import library


class Unsupported(Exception):
    """The source does something that cannot be followed."""


@dataclass(eq=False)
class Code:
    """A method or function with what is left of its body. `flow` names the parameters that carry the forward pass."""

    name: str
    node: ast.FunctionDef
    module: nn.Module | None
    flow: set[str] = field(default_factory=set)
    inner: bool = False  # called from its own class alone

    @property
    def parameters(self) -> list[str]:
        return [a.arg for a in self.node.args.args if a.arg != "self"]


@dataclass(eq=False)
class Form:
    """A module with what is left of its class.

    Attributes:
        instance: The module.
        children: Names of modules that its constructor is given; None where it makes them itself.
        methods: Those that are called.
        init: The body of the constructor, with all it sets.
        written: Attributes whose value is written out wherever it is read.
    """

    instance: nn.Module
    children: list[str] | None = None
    methods: dict[str, Code] = field(default_factory=dict)
    init: Block = field(default_factory=list)
    written: set[str] = field(default_factory=set)

    @property
    def layered(self) -> bool:
        """Whether the constructor is told the number of the layer."""
        return "layer" in loads(*self.init)


Calls = dict[int, dict[types.CodeType, dict[str, Any]]]


@contextlib.contextmanager
def recorded(calls: Calls) -> Iterator[None]:
    """Note the arguments of every constructor of a module that is called meanwhile: object -> constructor -> arguments."""
    before = sys.getprofile()

    def note(frame: types.FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_name == "__init__" and code.co_argcount:
            given = frame.f_locals
            made = given.get(code.co_varnames[0])
            if isinstance(made, nn.Module) and not torchs(type(made)):
                names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount]
                calls.setdefault(id(made), {})[code] = {name: given[name] for name in names}

    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before if callable(before) else None)


def kept(form: Form) -> Callable[[ast.stmt], bool]:
    """Whether a statement of a constructor that only calls something stays: where it is about what the module holds."""
    held = {**form.instance._parameters, **form.instance._buffers, **form.instance._modules}

    def keeps(s: ast.stmt) -> bool:
        call = s.value if isinstance(s, ast.Expr) else None
        if not isinstance(call, ast.Call):
            return True
        node: ast.expr = call.func
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
            register = node.attr in ("register_buffer", "register_parameter", "register_module", "add_module")
            first = call.args[0] if call.args else None
            return not register or not isinstance(first, ast.Constant) or held.get(str(first.value)) is not None
        while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "self":
                found = held.get(node.attr)
                return found is not None and (isinstance(found, torch.Tensor) or torchs(type(found)) or stateful(found))
            node = node.func if isinstance(node, ast.Call) else node.value
        return isinstance(node, ast.Name) and (getattr(node, "home", "") != "" or not hasattr(builtins, node.id))

    return keeps


def construction(form: Form) -> ast.Call:
    """The call that makes a module of a form."""
    name = ast.Name(type(form.instance).__name__, ast.Load())
    name.form = form  # type: ignore[attr-defined]
    arguments: list[ast.expr] = [ast.Name("layer", ast.Load())] if form.layered else []
    return ast.Call(name, arguments, [])


def needed(form: Form, read: set[str]) -> Block:
    """What is left of a constructor when only what is read, and what holds a state, is set."""
    instance = form.instance
    states = {n for holder in (instance._parameters, instance._buffers) for n, v in holder.items() if v is not None}
    states |= {n for n, m in instance._modules.items() if m is not None and stateful(m)}
    found = alive(form.init, {f"self.{name}" for name in states | read}, True, kept(form))
    for s in [s for s in found if isinstance(s, ast.Assign) and isinstance(s.value, ast.Call) and hasattr(s.value.func, "form")]:
        name = place(s.targets[0])
        rest = [other for other in found if other is not s]
        if "." not in name and loads(*rest)[name] == 1:  # made once, set once
            found = [rewrite(other, lambda n, name=name, s=s: substituted_name(n, {name: s.value})) for other in rest]  # type: ignore[misc]
    return found


# ---- modules


def nothing() -> None:
    """What stands for the constructor of a class that has none."""


def source_of(function: Any) -> ast.FunctionDef:
    """The tree of a function, which may be changed."""
    try:
        found = definition(function)
    except LookupError as e:
        raise Unsupported(str(e)) from e
    if not isinstance(found, ast.FunctionDef):
        raise Unsupported(f"{function} is not a function")
    return found


def word_of(module: Any) -> library.Word | None:
    """The word of the library that a module is."""
    cls = type(module)
    return _words(tuple(library.library())).get((cls.__module__, cls.__qualname__))


@functools.lru_cache(maxsize=1)
def _words(_: tuple[tuple[str, str], ...]) -> dict[tuple[str, str], library.Word]:
    return {(w.module, w.qualname): w for w in library.library().values()}


def torchs(cls: type) -> bool:
    """Whether a class is PyTorch's own."""
    return cls.__module__.partition(".")[0] == "torch"


def owned(function: Any) -> bool:
    """Whether a function belongs to a package that words come from, so that its source is followed."""
    home = (getattr(function, "__module__", "") or "").partition(".")[0]
    return isinstance(function, types.FunctionType) and home in _owners(tuple(library.library()))


@functools.lru_cache(maxsize=1)
def _owners(_: tuple[tuple[str, str], ...]) -> frozenset[str]:
    """The packages that words come from."""
    return frozenset(w.module.partition(".")[0] for w in library.library().values())


def stateful(module: nn.Module) -> bool:
    """Whether a module holds parameters or buffers, its parts included."""
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


@functools.cache
def assigned(cls: Any) -> frozenset[str]:
    """Attributes that a class's methods set after it is made."""
    found: set[str] = set()
    for base in cls.__mro__:
        if torchs(base) or base is object:
            continue
        for name, function in vars(base).items():
            if isinstance(function, types.FunctionType) and name != "__init__":
                node = source_of(function)
                found |= {s.removeprefix("self.") for s in stores(*node.body) if s.startswith("self.")}
                found |= {place(n.target).removeprefix("self.") for n in ast.walk(node) if isinstance(n, ast.AugAssign) and place(n.target)}
    return frozenset(found)
