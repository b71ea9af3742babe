"""Partial evaluation: what is left of a module's source text once its options are known.

A module that is built holds the value of every option. `Program` follows a model's forward pass through the source of its parts:
conditions over what is known are decided, numbers take the place of attributes, methods that are not called are not read. What is left
is a `Form` for each module with a state, a class in the making, and a `Code` for each method and function.

It is general: nothing here knows a word of the library. What cannot be followed is left as it stands, or is refused by `Unsupported`.
"""

from __future__ import annotations

import ast
import types
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from aotsearch.eject.dataflow import Block, loads, tidied
from aotsearch.eject.form import Calls, Code, Form, Unsupported, recorded, source_of, torchs
from aotsearch.eject.statements import Constructor, Scope
from aotsearch.eject.values import Known
from aotsearch.models.parts.site import Flow


class Program:
    """A model's forward pass, followed through the source of its parts.

    Args:
        model: The model; only its shapes and options are read.
        calls: What `recorded` noted when it was built.
        made: Where modules are kept that are made to be looked at, so that no identity is used twice.
        carried: Attributes of the flow that some part reads.
    """

    def __init__(self, model: nn.Module, calls: Calls, made: list[nn.Module], carried: set[str]):
        self.model, self.calls, self.carried = model, calls, carried
        self.flow = Flow(getattr(model, "positions", None))  # type: ignore[arg-type]
        self.forms: dict[Any, Form] = {}
        self.homes: dict[int, Form] = {}  # by the identity of a module
        self.functions: dict[tuple[int, str], Code] = {}
        self.layered: set[tuple[int, str]] = set()  # attributes that depend on the number of the layer
        self.extra = made
        self.told = False  # whether some constructor has asked for the number of its layer

    # ---- what the parts are

    def form(self, module: nn.Module, children: list[str] | None = None) -> Form:
        """The form of a module, its constructor followed."""
        key = self._key(module)
        if key not in self.forms:
            strange = [b.__name__ for b in type(module).__mro__ if torchs(b) and b is not nn.Module]
            if strange:
                raise Unsupported(f"{type(module).__name__} is a {strange[0]} of torch, not an nn.Module of its own")
            form = self.forms[key] = Form(module, children)
            if children is None:
                form.init = Constructor(self, form).run()
            else:
                form.init = ast.parse("\n".join(f"self.{name} = {name}" for name in children)).body
        self.homes[id(module)] = self.forms[key]
        return self.forms[key]

    def _key(self, module: nn.Module) -> Any:
        """Modules made by the same class from the same numbers have one form."""
        given = self.calls.get(id(module), {})
        arguments = [v for values in given.values() for v in values.values()]
        if given and all(isinstance(v, int | float | str | None) for v in arguments):
            return type(module), repr(list(given.values()))
        return id(module)

    def method(
        self,
        module: nn.Module,
        function: Any,
        name: str,
        flow: set[str],
        inner: bool = False,
        children: list[str] | None = None,
        merged: Mapping[str, str] = types.MappingProxyType({}),
        node: ast.FunctionDef | None = None,
    ) -> Code:
        """A method of a module with a state.

        Args:
            module: The module.
            function: The method.
            name: What it is called in the end.
            flow: Its parameters that are given the flow.
            inner: Whether it is called by its own class.
            children: As in `form`.
            merged: Parameters that are always given what another is.
            node: What is followed in place of the method's own source.
        """
        form = self.form(module, children)
        if name not in form.methods:
            empty = ast.arguments([], [], None, [], [], None, [])
            code = form.methods[name] = Code(name, ast.FunctionDef(name, empty, [], []), module, set(flow), inner)
            code.node = self._specialised(function, module, form, flow, merged, node)
            code.node.name = name
        form.methods[name].inner &= inner
        return form.methods[name]

    def scope(self, function: Any, form: Form | None, module: nn.Module | None) -> Scope:
        """A function to be followed."""
        return Scope(self, function, form, module)

    def function(self, function: Any, module: nn.Module | None, name: str, flow: set[str]) -> Code:
        """A function, or a method of a module without a state: its own attributes are known."""
        key = (id(module or function), name)
        if key not in self.functions:
            node = self._specialised(function, module, None, flow, {}, None)
            node.args.args = [a for a in node.args.args if a.arg != "self"]
            node.decorator_list = []
            node.name = name
            if "self" in loads(node):
                raise Unsupported(f"{function.__qualname__} reads an attribute whose value has no text")
            self.functions[key] = Code(name, node, module, set(flow))
        return self.functions[key]

    def _specialised(
        self,
        function: Any,
        module: nn.Module | None,
        form: Form | None,
        flow: set[str],
        merged: Mapping[str, str],
        given: ast.FunctionDef | None,
    ) -> ast.FunctionDef:
        node = source_of(function) if given is None else given
        arguments = node.args
        arguments.args = [a for a in arguments.args if a.arg not in merged]
        scope = Scope(self, function, form, module)
        for a in [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]:
            if a is not None:
                scope.names[a.arg] = (Known(self.flow), None) if a.arg in flow else (None, None)
        if module is not None and arguments.args and arguments.args[0].arg == "self":
            scope.names["self"] = (Known(module), None)
        doc = node.body[:1] if ast.get_docstring(node) else []
        copies: Block = [ast.Assign([ast.Name(a, ast.Store())], ast.Name(b, ast.Load())) for a, b in merged.items()]
        node.body = [*doc, *(tidied(scope.block([*copies, *node.body])) or [ast.Pass()])]
        return node

    def path(self, root: nn.Module | None, module: nn.Module) -> ast.expr | None:
        """How one module is reached from another: `self.map`, `self.blocks[0]`."""
        if root is None:
            return None
        found: list[tuple[nn.Module, ast.expr]] = [(root, ast.Name("self", ast.Load()))]
        for holder, path in found:
            if holder is module:
                return path
            for name, child in holder.named_children():
                step: ast.expr = ast.Attribute(path, name, ast.Load())
                step.owner = id(holder)  # type: ignore[attr-defined]
                if isinstance(holder, nn.ModuleDict):
                    step = ast.Subscript(path, ast.Constant(name), ast.Load())
                elif isinstance(holder, nn.ModuleList | nn.Sequential):
                    step = ast.Subscript(path, ast.Constant(int(name)), ast.Load())
                found.append((child, step))
        return None

    def made(self, cls: type, arguments: Sequence[Any], keywords: dict[str, Any]) -> nn.Module:
        """A module that a constructor makes, made again to be looked at."""
        with torch.device("meta"), torch.random.fork_rng(devices=[]), recorded(self.calls):
            module: nn.Module = cls(*arguments, **keywords)
        self.extra.append(module)
        return module
