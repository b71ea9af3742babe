"""The classes of a model, folded until nothing changes: one for all modules that read alike, without methods and arguments nobody needs."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from aotsearch.eject.fold import Table, arguments, definition, folded, loaded, owned, refused
from aotsearch.grammar.words import Word
from aotsearch.models.model import Model, ResidualStep
from aotsearch.models.parts.context import LayerContext, Positions

ROUNDS = 40  # of folding, after which something is wrong


@dataclass(eq=False)
class Made:
    """A module; and by constructor, of its class and those it inherits from, the arguments and the locals at the end. A `word` is made by
    the model, others by the constructor of another module."""

    module: nn.Module
    word: bool
    arguments: dict[types.CodeType, Table] = field(default_factory=dict)
    ends: dict[types.CodeType, Table] = field(default_factory=dict)

    @property
    def given(self) -> Table:
        return {k: v for table in self.arguments.values() for k, v in table.items()}


Record = dict[int, Made]  # by the identity of the module


@contextlib.contextmanager
def recorded(record: Record) -> Iterator[None]:
    """Note every module that is made meanwhile."""

    def note(frame: types.FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if code.co_name != "__init__" or event not in ("call", "return"):
            return
        module = frame.f_locals.get(code.co_varnames[0])
        if isinstance(module, nn.Module) and owned(type(module)) and not isinstance(module, Model | ResidualStep):
            word = frame.f_back is not None and frame.f_back.f_code is Word.make.__code__
            made = record.setdefault(id(module), Made(module, word))
            names = code.co_varnames[1 : code.co_argcount + code.co_kwonlyargcount] if event == "call" else frame.f_locals
            (made.arguments if event == "call" else made.ends)[code] = {name: frame.f_locals[name] for name in names}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before if callable(before) else None)


def alike(value: Any, record: Record, exact: bool = False) -> str:
    """What modules have in common that one class can stand for, whatever the number of their layer; `exact`: with it and all numbers."""
    if isinstance(value, LayerContext):
        return repr(value if exact else dataclasses.replace(value, layer=0))
    if not isinstance(value, nn.Module):
        return repr(value.shape if isinstance(value, torch.Tensor) else value)
    given = record[id(value)].given if id(value) in record else {}
    kept = (bool, str, type(None), *((int, float) if exact else ()))
    own = {k: v for k, v in vars(value).items() if type(v) in kept and k[0] != "_" and k != "training"}
    held = {**given, **own, **value._parameters, **value._buffers, **value._modules}
    return f"{type(value)} {[(name, alike(v, record, exact)) for name, v in held.items()]}"


def stateful(module: nn.Module) -> bool:
    """Whether a module holds parameters or buffers, its parts included."""
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


class Kind:
    """The modules that one class stands for.

    Attributes:
        shown: Those of them that are looked at: a first, a second and a last that differ in numbers.
        units: Their class and those it inherits from, as far as they are copied.
        state, read: The attributes that hold a state, and those that are read.
        called: The methods that the model calls.
    """

    def __init__(self, program: Program, made: list[Made], record: Record):
        self.program, self.made, self.mark = program, made, f"_kind_{len(program.kinds)}_"
        apart = list({alike(m.module, record, exact=True): m for m in reversed(made)}.values())[::-1]
        self.shown = [*apart[:2], *apart[2:][-1:]]
        self.cls, self.word = type(made[0].module), made[0].word
        self.called: set[str] = set()
        self.read: set[str] = set()
        modules = [m.module for m in made]
        self.state = {k for m in modules for k, v in {**m._parameters, **m._buffers}.items() if v is not None}
        self.state |= {k for m in modules for k, v in m._modules.items() if v is not None and stateful(v)}
        self.units = [Unit(self, cls) for cls in self.cls.__mro__ if owned(cls)]
        methods = [m for u in self.units for name, m in u.methods.items() if name != "__init__"]
        self.changed = {"training", *(n.attr for m in methods for n in ast.walk(m) if isinstance(n, ast.Attribute) and own(n, ast.Store))}

    def home(self, method: str, after: Unit | None = None) -> Unit | None:
        """The class that defines a method; the next one after another, for `super()`."""
        units = self.units if after is None else self.units[self.units.index(after) + 1 :]
        return next((u for u in units if method in u.methods), None)


def own(node: ast.AST, how: type) -> bool:
    """Whether a node is an attribute of the module itself."""
    return isinstance(node, ast.Attribute) and isinstance(node.ctx, how) and ast.unparse(node.value) in ("self", "super()")


class Unit:
    """A class of a kind: its own methods, as they are so far."""

    def __init__(self, kind: Kind, cls: type):
        self.kind, self.program, self.cls = kind, kind.program, cls
        self.object = kind.shown[0].module
        self.names: Table = vars(sys.modules[cls.__module__])
        self.node: ast.ClassDef = definition(cls)
        self.methods = {n.name: n for n in self.node.body if isinstance(n, ast.FunctionDef)}
        self.first = {name: loaded(n) for name, n in self.methods.items()}
        self.alive: set[str] = set()
        self.given: set[str] = set()  # the arguments of a word's constructor
        init = self.methods.get("__init__")
        if init is not None:
            self.init = vars(cls)["__init__"].__code__
            self.given = set(arguments(init)[1:]) if kind.word and cls is kind.cls else set()
            for a in init.args.args:  # the place of a module is the number of its layer
                if isinstance(kind.shown[0].arguments.get(self.init, {}).get(a.arg), LayerContext):
                    a.arg, a.annotation = "layer", ast.Name("int", ast.Load())

    def fold(self, method: str) -> None:
        """One pass over a method, and its parameters without those that nobody reads."""
        node, init, shown = self.methods[method], method == "__init__", self.kind.shown
        flow = {"flow": types.SimpleNamespace(positions=self.program.model.positions)} if "flow" in arguments(node) else {}
        tables = [{"self": m.module, **flow, **(m.arguments.get(self.init, {}) if init else {})} for m in shown]
        folded(self, node, self.given if init else set(), tables, [m.ends.get(self.init, {}) for m in shown] if init else [])
        idle, a = self.program.drops.get((self, method), {}), node.args
        defaults = [*[None] * (len(a.args) - len(a.defaults)), *a.defaults]
        pairs = [(p, d) for p, d in zip(a.args, defaults, strict=True) if not idle.get(p.arg)]
        named = [(p, d) for p, d in zip(a.kwonlyargs, a.kw_defaults, strict=True) if not idle.get(p.arg)]
        a.args, a.defaults = [p for p, _ in pairs], [d for _, d in pairs if d is not None]
        a.kwonlyargs, a.kw_defaults = [p for p, _ in named], [d for _, d in named]


class Program:
    """The classes of a model, given how its modules were made; `carried` are the attributes of the flow that some part reads."""

    def __init__(self, model: Model, record: Record, carried: set[str]):
        self.model, self.carried = model, carried
        inside = {id(m) for m in [*model.modules(), *(getattr(s, "join", None) for s in model.steps.values())]}
        groups: dict[Any, list[Made]] = {}
        for m in (m for m in record.values() if id(m.module) in inside or not m.word):
            groups.setdefault(alike(m.module, record) if m.word else type(m.module), []).append(m)
        self.kinds: list[Kind] = []
        for made in groups.values():
            self.kinds.append(Kind(self, made, record))
        self.of = {id(m.module): k for k in self.kinds for m in k.made}
        self.classes: dict[Any, Kind] = {k.cls: k for k in self.kinds if not k.word} | {k.mark: k for k in self.kinds}
        for module, method in [*((m.module, "forward") for m in record.values()), (model.positions, "embed"), (model.pooling, "open")]:
            if id(module) in self.of and getattr(type(module), method, None) is not Positions.embed:
                self.of[id(module)].called.add(method)
        self.drops: dict[tuple[Unit, str], dict[str, bool]] = {}
        before: list[str] = []
        for _ in range(ROUNDS):
            self._live()
            for unit, name in self.methods():
                unit.fold(name)
            self.drops = {(u, name): self._unread(u, name) for u, name in self.methods()}
            after = [ast.unparse(u.methods[name]) for u, name in self.methods()]
            if after == before:
                return
            before = after
        raise refused("the classes of its parts do not settle")

    def call(self, module: nn.Module | str) -> ast.Call | None:
        """The call that makes a module which a constructor was given, or one of the kind of a mark."""
        found = self.classes.get(module) if isinstance(module, str) else self.of.get(id(module))
        home = found.home("__init__") if found is not None else None
        layered = home is not None and "layer" in arguments(home.methods["__init__"])
        return None if found is None else ast.Call(ast.Name(found.mark, ast.Load()), [ast.Name("layer", ast.Load())] * layered, [])

    def methods(self) -> list[tuple[Unit, str]]:
        """All that are called."""
        return [(u, name) for k in self.kinds for u in k.units for name in u.methods if name in u.alive]

    def flow_reads(self) -> set[str]:
        """The attributes of the flow that are read."""
        nodes = [n for u, name in self.methods() for n in ast.walk(u.methods[name])]
        return {n.attr for n in nodes if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load) and ast.unparse(n.value) == "flow"}

    def idle(self, unit: Unit, function: ast.expr) -> dict[str, bool]:
        """The parameters of what a call in a class means, with whether nobody reads them: of a method of the class itself, or of another's
        constructor; none where it is not known."""
        base, _, name = ast.unparse(function).rpartition(".")
        thing = self.classes.get(name) or self.classes.get(unit.names.get(name))
        owner, method = (unit.kind, name) if base in ("self", "super()") else (thing, "__init__") if not base else (None, "")
        home = owner.home(method, unit if base == "super()" else None) if owner is not None else None
        return {} if home is None else self.drops.get((home, method), {})

    def _live(self) -> None:
        """Which methods are called, from those the model calls itself on; and which attributes are read."""
        todo = [(k.home(name), name) for k in self.kinds for name in ("__init__", *k.called)]
        done: set[tuple[Unit, str]] = set()
        self.outside: set[str] = set()  # names that are read of something else than `self`
        for k in self.kinds:
            k.read = set()
        while todo:
            unit, name = todo.pop()
            if unit is None or (unit, name) in done:
                continue
            done.add((unit, name))
            called = {id(n.func) for n in ast.walk(unit.methods[name]) if isinstance(n, ast.Call)}
            for n in (n for n in ast.walk(unit.methods[name]) if isinstance(n, ast.Attribute) and isinstance(n.ctx, ast.Load)):
                self.outside |= set() if own(n, ast.Load) else {n.attr}
                for k in [unit.kind] if own(n, ast.Load) else self.kinds:
                    k.read.add(n.attr)
                    if own(n, ast.Load) or id(n) in called:
                        todo.append((k.home(n.attr, unit if ast.unparse(n.value) == "super()" else None), n.attr))
        for k in self.kinds:
            for u in k.units:
                u.alive = {name for unit, name in done if unit is u}

    def _unread(self, unit: Unit, name: str) -> dict[str, bool]:
        """The parameters of a method, with whether nobody reads them: where its calls are not all known, of the flow alone."""
        node, fixed = unit.methods[name], name in unit.kind.called or name == "forward" or name in self.outside
        read = set(arguments(node)) if node.decorator_list else set().union(*map(loaded, node.body))
        return {p: p not in read and (not fixed or (p == "flow" and unit.kind.word)) for p in arguments(node)[1:]}
