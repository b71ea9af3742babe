"""An architecture as one readable PyTorch file of its own, which imports torch alone and gives the same numbers to the last bit.

    print(eject(study.reference))

The text is not a template: it is what is left of the source of the parts (`program`) once the options are known. So a word of another
package is written out as well. Names in the model's state are those of the built model. Before a text is given away, it is run: its
outputs are compared with the model's on random weights.
"""

from __future__ import annotations

import ast
import collections
import importlib
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from aotsearch.eject import prose
from aotsearch.eject.dataflow import Bound, inlined, loads, straight, tidied
from aotsearch.eject.form import Code, Form, Unsupported, needed, recorded, stateful, word_of
from aotsearch.eject.program import Program
from aotsearch.eject.source import INDENT, bindings, clone, definition, docstring, expression, text, wrapped
from aotsearch.errors import InputError, RunError, one_line
from aotsearch.grammar.architecture import Architecture
from aotsearch.models.initial import INITIAL_STD, as_torch
from aotsearch.models.model import Model, Step, join_of, may_rest

STREAM, BESIDE, FLOW = "x_BLD", "z_BLD", "flow"  # as Model.forward calls them
TOKENS = 24  # of the inputs that a text is proved on


@dataclass(frozen=True)
class Origin:
    """Where an architecture comes from, for the head of the file.

    Attributes:
        title: Such as `the arm 'identity=-1' of the study 'redundancy'`.
        weights: The name of the file of weights beside it; "" where there is none.
    """

    title: str = ""
    weights: str = ""


def eject(architecture: Architecture, origin: Origin | None = None) -> str:
    """The text of a file with a class `Model` that is this architecture.

    Raises:
        InputError: a part's source does something that cannot be followed.
        RunError: the text does not give the numbers of the model.
    """
    origin = origin or Origin()
    calls: dict[int, Any] = {}
    made: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]), torch.device("meta"), recorded(calls):
        model = Model(architecture)
    try:
        carried: set[str] = set()
        while True:
            file = _File(Program(model, calls, made, carried), architecture, origin)
            if file.read <= carried:
                break
            carried = carried | file.read
        found = file.text()
    except Unsupported as e:
        raise InputError(f"this architecture cannot be ejected: {e}") from None
    except Exception as e:
        if not _strangers(model):
            raise
        raise InputError(f"this architecture cannot be ejected: {type(e).__name__}: {one_line(str(e))}{_strangers(model)}") from e
    _prove(found, architecture)
    return found


def _strangers(model: nn.Module) -> str:
    """Whose words to look at where something goes wrong; "" where all are ours."""
    packages = sorted({type(m).__module__ for m in model.modules()})
    found = [p for p in packages if p.partition(".")[0] not in ("torch", "aotsearch")]
    return f"; look at the words of {', '.join(found)}" if found else ""


def _prove(text: str, architecture: Architecture) -> None:
    """Run a text and compare its outputs with those of the model it was written from.

    Raises:
        RunError: they differ.
    """
    inputs = example(architecture)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        ours = Model(architecture).eval()
        for parameter in ours.parameters():  # away from starts at which a term says nothing
            parameter.add_(torch.randn(parameter.shape), alpha=0.02)
        blame = _strangers(ours)
        try:
            wanted = ours(inputs)
        except Exception as e:  # noqa: BLE001 (whatever an installed part does)
            raise RunError(f"the model {architecture.digest} itself does not run: {one_line(str(e))}{blame}") from None
        try:
            space: dict[str, Any] = {"__name__": "ejected"}
            exec(compile(text, "ejected", "exec"), space)
            state = ours.state_dict()
            held = {name for name, _ in [*ours.named_parameters(remove_duplicate=False), *ours.named_buffers(remove_duplicate=False)]}
            with torch.device("meta" if held == state.keys() else "cpu"):  # without memory, where it takes all it holds from ours
                theirs = space["Model"]().eval()
            theirs.load_state_dict(state, assign=True)
            same = torch.equal(theirs(inputs), wanted)
        except Exception as e:  # noqa: BLE001 (whatever an installed part does)
            raise RunError(f"the ejected file of {architecture.digest} does not run: {one_line(str(e))}{blame}") from None
    if not same:
        raise RunError(f"the ejected file of {architecture.digest} does not give the numbers of the model{blame}")


def example(architecture: Architecture) -> torch.Tensor:
    """Two short inputs of the kind that a model takes, always the same."""
    sizes, generator = dict(architecture.sizes), torch.Generator().manual_seed(0)
    if "image" in sizes:
        return torch.randn(2, sizes["channels"], sizes["image"], sizes["image"], generator=generator)
    tokens = min(sizes["context"], TOKENS)
    if "inputs" in sizes:
        return torch.randn(2, tokens, sizes["inputs"], generator=generator)
    return torch.randint(sizes["vocabulary"], (2, tokens), generator=generator)


class _File:
    """One ejected file in the making."""

    def __init__(self, program: Program, architecture: Architecture, origin: Origin):
        self.program, self.architecture, self.origin = program, architecture, origin
        model = program.model
        assert isinstance(model, Model)
        self.model = model
        self.parallel = any(model.parallel)
        self.flows = bool(program.carried)
        self.steps = self._distinct()
        self.main = program.method(model, Model.forward, "forward", set(), False, [], {}, self._forward())
        for form in list(program.forms.values()):
            if not form.methods and type(form.instance).forward is not nn.Module.forward:  # called from a loop
                program.method(form.instance, type(form.instance).forward, "forward", set(), False)
        for form in program.forms.values():
            _inline(form)
        self.codes = [*program.functions.values(), *(c for form in program.forms.values() for c in form.methods.values())]
        self._drop_flows()
        self.read = {a for code in self.codes for a in self._flow_reads(code)}

    def _distinct(self) -> dict[str, Step]:
        """For each step the one that is followed for it: itself, or an equal one before it, unless a part asks which layer it is in."""
        found: dict[str, Step] = {}
        equal: dict[Any, Step] = {}
        own = [s for s in self.architecture.sublayers if s.same_as is None]
        for (name, step), s in zip(self.model.steps.items(), own, strict=True):
            assert isinstance(step, Step)
            kind = s.operation, s.norm, s.place, s.join
            if kind not in equal:
                self.program.told = False
                merged = {} if self.parallel else {BESIDE: STREAM}
                self.program.method(step, Step.forward, "forward", {FLOW}, False, _children(step), merged)
                if not self.program.told:
                    equal[kind] = step
            found[name] = equal.get(kind, step)
        return found

    # ---- the forward pass of the model

    def _forward(self) -> ast.FunctionDef:
        """Model.forward with its loop over the steps written as the model needs it."""
        node: ast.FunctionDef = definition(Model.forward)
        index = next(i for i, s in enumerate(node.body) if isinstance(s, ast.For))
        steps = ast.parse(textwrap.dedent("\n".join(self._calls()))).body
        for inner in (n for s in steps for n in ast.walk(s) if isinstance(n, ast.expr)):
            inner.opaque = True  # type: ignore[attr-defined]
        node.body[index : index + 1] = steps
        return node

    def _calls(self) -> list[str]:
        order, parallel = self.model.order, self.model.parallel
        given = [STREAM, *([FLOW] if self.flows else []), *([BESIDE] if self.parallel else [])]
        names = list(self.model.steps)
        rounds = len(order) // len(names) if names else 0
        if names and order == names * rounds and not self.parallel and len(names) > 1:
            loop = ["for step in self.steps.values():", f"    {STREAM} = step({', '.join(given)})"]
            return loop if rounds == 1 else [f"for _ in range({rounds}):", *(INDENT + line for line in loop)]
        items: list[str] = []
        for i, name in enumerate(order):
            if self.parallel and not parallel[i]:
                items.append(f"{BESIDE} = {STREAM}")
            items.append(f"{STREAM} = self.steps[{_mark(name)}]({', '.join(given)})")
        return list(_regular(items))

    # ---- what calls what

    def _flow_reads(self, code: Code) -> Iterator[str]:
        names = {*code.flow, FLOW} if code is self.main else code.flow
        for node in ast.walk(code.node):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and isinstance(node.value, ast.Name):
                if node.value.id in names:
                    yield node.attr

    def _drop_flows(self) -> None:
        """Take the flow from those who do not read it, and from those who only hand it on to them."""
        calls = [n for code in self.codes for n in ast.walk(code.node) if isinstance(n, ast.Call) and hasattr(n, "code")]
        changed = True
        while changed:
            changed = False
            for code in self.codes:
                for name in sorted(code.flow):
                    if name in loads(*code.node.body) or (self.flows and isinstance(code.module, Step)):
                        continue
                    index = code.parameters.index(name)
                    for call in (c for c in calls if c.code is code):
                        call.keywords = [k for k in call.keywords if k.arg != name]
                        del call.args[index : index + 1]
                    code.node.args.args = [a for a in code.node.args.args if a.arg != name]
                    code.flow.discard(name)
                    changed = True

    # ---- the text

    def text(self) -> str:
        """The whole file."""
        prose.remember(self.program)
        reads = self._reads()
        self.bodies = {id(form): needed(form, reads.get(id(form), set())) for form in self.program.forms.values()}
        self.order: list[Form | Code] = []  # what is written, each after what it needs
        self.twins: dict[int, Form | Code] = {}  # what stands for a form or function in the file
        self.keys: dict[str, Form | Code] = {}
        self._visit_model()
        self.names = prose.names([u for u in self.order if isinstance(u, Form)], [u.name for u in self.order if isinstance(u, Code)])
        blocks = [self._flow_class()] if self.flows else []
        blocks += [self._written(unit) for unit in self.order]
        blocks += [self._model(), self._initialise(), *self._load(), self._main()]
        constants, imports = self._globals()
        head = docstring("\n".join(prose.header(self.architecture, self.origin.title, self.origin.weights, self._parameters())), 0)
        top = ["\n".join(head), imports, *constants]
        return "\n\n".join(top) + "\n\n\n" + "\n\n\n".join(b for b in blocks if b) + "\n"

    def _reads(self) -> dict[int, set[str]]:
        """The attributes that some method reads, by the form that has them."""
        found: dict[int, set[str]] = collections.defaultdict(set)
        trees: list[tuple[Form | None, ast.AST]] = [(None, code.node) for code in self.codes]
        trees += [(form, s) for form in self.program.forms.values() for s in form.init]
        for home, node in ((home, n) for home, tree in trees for n in ast.walk(tree)):
            form = self.program.homes.get(getattr(node, "owner", 0))
            if form is not None and form is not home and isinstance(node, ast.Attribute):
                found[id(form)].add(node.attr)
        return found

    def _parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())

    # ---- which classes and functions there are

    def _visit_model(self) -> None:
        model = self.model
        for module in (model.embedding, model.pooling, model.positions):
            if isinstance(module, nn.Module) and stateful(module) and id(module) in self.program.homes:
                self._visit(self.program.homes[id(module)])
        for step in self.steps.values():
            for name in _children(step):
                self._visit(self.program.form(getattr(step, name)))
        if stateful(model.final_norm):
            self._visit(self.program.form(model.final_norm))
        for step in self.steps.values():
            self._visit(self.program.form(step))
        for inner in _called(self.main.node):
            self._visit(inner)

    def _visit(self, unit: Form | Code) -> None:
        """Write down what a class or function needs, then itself, unless one like it is there."""
        if id(unit) in self.twins:
            return
        trees = self._trees(unit)
        for tree in trees:
            for inner in [*_called(tree), *(n.form for n in ast.walk(tree) if hasattr(n, "form"))]:
                self._visit(inner)
        if isinstance(unit, Form):
            for tree in trees:
                for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call) and hasattr(n.func, "form")):
                    told = "layer" in loads(*self.bodies[id(call.func.form)])  # type: ignore[attr-defined]
                    call.args = [ast.Name("layer", ast.Load())] if told else []
        key = self._key(unit, trees)
        if key not in self.keys:
            self.keys[key] = unit
            self.order.append(unit)
        self.twins[id(unit)] = self.keys[key]

    def _trees(self, unit: Form | Code) -> list[Any]:
        if isinstance(unit, Code):
            return [unit.node]
        return [*self.bodies[id(unit)], *(unit.methods[name].node for name in sorted(unit.methods))]

    def _key(self, unit: Form | Code, trees: Sequence[ast.AST]) -> str:
        shown = []
        for tree in trees:
            tree = clone(tree)
            for node in ast.walk(tree):
                other = getattr(node, "form", None) or getattr(node, "called", None)
                if isinstance(node, ast.Name) and isinstance(other, Form | Code):
                    node.id = f"@{id(self.twins[id(other)])}"
            shown.append(ast.dump(tree))
        kind = type(unit.instance) if isinstance(unit, Form) else "function"
        return f"{kind} {unit.children if isinstance(unit, Form) else ''} {shown}"

    # ---- classes and functions

    def _written(self, unit: Form | Code) -> str:
        return self._function(unit) if isinstance(unit, Code) else self._class(unit)

    def _renamed(self, tree: Any) -> Any:
        """A tree with the final names of classes and functions."""
        for node in ast.walk(tree):
            other = getattr(node, "form", None) or getattr(node, "called", None)
            if isinstance(node, ast.Name) and isinstance(other, Form | Code):
                node.id = self.names[id(self.twins[id(other)])] if isinstance(other, Form) else self.twins[id(other)].name  # type: ignore[union-attr]
        return tree

    def _function(self, code: Code) -> str:
        node = self._renamed(code.node)
        if code.module is not None and word_of(code.module) is not None:
            if ast.get_docstring(node):
                node.body = node.body[1:]
            content = "\n".join(prose.description(code.module))
            node.body = [ast.Expr(ast.Constant(content)), *node.body]
        return text(_typed(node))

    def _class(self, form: Form) -> str:
        body = [self._renamed(s) for s in self.bodies[id(form)]]
        lines = [f"class {self.names[id(form)]}(nn.Module):"]
        described = prose.sublayer(form.instance, self.parallel) if isinstance(form.instance, Step) else prose.description(form.instance)
        lines += docstring("\n".join(described), 1)
        parameters = [f"{name}: nn.Module" for name in form.children or ()] + (["layer: int"] if "layer" in loads(*body) else [])
        if body:
            lines += ["", f"    def __init__({', '.join(['self', *parameters])}):", "        super().__init__()"]
            lines += [text(s, 2) for s in body]
        main = [form.methods[n] for n in form.methods if not form.methods[n].inner]
        inner = [c for c in form.methods.values() if c.inner and any(c in _calls_in(m.node) for m in form.methods.values())]
        for code in [*main, *inner]:
            lines += ["", text(_typed(self._renamed(code.node)), 1)]
        return "\n".join(lines)

    def _flow_class(self) -> str:
        described = prose.flow(sorted(self.program.carried))
        lines = ["class Flow:", *docstring("\n".join(described), 1), ""]
        places = "positions" in self.program.carried
        lines.append(f"    def __init__(self{', positions: nn.Module' if places else ''}):")
        lines += ["        self.positions = positions"] if places else []
        known = vars(self.program.flow)
        lines += [f"        self.{name} = None" for name in sorted(self.program.carried) if name in known and name != "positions"]
        return "\n".join([*lines, "        pass"] if lines[-1].endswith(":") else lines)

    # ---- the model

    def _model(self) -> str:
        model = self.model
        lines = ["class Model(nn.Module):", *docstring("\n".join(prose.model(self.architecture)), 1), ""]
        lines += ["    def __init__(self):", "        super().__init__()"]
        for name in ("embedding", "pooling", "positions"):
            module = getattr(model, name)
            if module is not None and stateful(module):
                lines.append(f"        self.{name} = {self._made(module)}")
        if len(model.steps):
            lines.append("        self.steps = nn.ModuleDict()")
        lines += [part for line in [*self._steps(), *self._ties()] for part in wrapped(INDENT * 2 + line)]
        if stateful(model.final_norm):
            lines.append(f"        self.final_norm = {self._made(model.final_norm)}")
        if model.head is not None:
            head = model.head
            bias = "" if head.bias is not None else ", bias=False"
            lines.append(f"        self.head = nn.Linear({head.in_features}, {head.out_features}{bias})")
        lines += ["        initialise(self)", "", text(_typed(self._renamed(self.main.node)), 1)]
        return "\n".join(lines)

    def _made(self, module: nn.Module, layer: int | None = None) -> str:
        form = self.program.form(module)
        told = "layer" in loads(*self.bodies[id(form)])
        site = next((v for given in self.program.calls.get(id(module), {}).values() for v in given.values() if hasattr(v, "layer")), None)
        number = site.layer if layer is None and site is not None else layer
        return f"{self.names[id(self.twins[id(form)])]}({_mark(f'#_{number}') if told else ''})"

    def _steps(self) -> list[str]:
        """The lines that make the steps."""
        places: dict[int, str] = {}  # of modules that are there, by identity
        items = []
        for name, step in self.model.steps.items():
            arguments = []
            for child in _children(step):
                module = getattr(step, child)
                arguments.append(places.get(id(module)) or self._made(getattr(self.steps[name], child)))
                places.setdefault(id(module), f"self.steps[{_mark(name)}].{child}")
            kind = self.names[id(self.twins[id(self.program.form(self.steps[name]))])]
            items.append(f"self.steps[{_mark(name)}] = {kind}({', '.join(arguments)})")
        return list(_regular(items))

    def _ties(self) -> list[str]:
        """The lines that let parameters be one, beyond modules that are."""
        owners: dict[int, str] = {}
        items = []
        shared = {id(m) for m, n in collections.Counter(m for s in self.model.steps.values() for m in s.children()).items() if n > 1}
        inside = {id(p) for s in self.model.steps.values() for m in s.children() if id(m) in shared for p in m.parameters()}
        for name, parameter in self.model.named_parameters(remove_duplicate=False):
            if id(parameter) in inside:
                continue
            path = self._path(name)
            if id(parameter) in owners:
                items.append(f"{path} = {owners[id(parameter)]}")
            owners.setdefault(id(parameter), path)
        return ["# one parameter, wherever it stands", *_regular(items)] if items else []

    def _path(self, name: str) -> str:
        found, module = "self", self.model
        for step in name.split("."):
            if isinstance(module, nn.ModuleDict):
                found += f"[{_mark(step)}]" if module is self.model.steps else f'["{step}"]'
            elif isinstance(module, nn.ModuleList | nn.Sequential):
                found += f"[{step}]"
            else:
                found += f".{step}"
            module = getattr(module, step)
        return found

    # ---- initial values, weights, and running it

    def _initialise(self) -> str:
        scheme = self.architecture.initialisation
        order = self.model.order
        mixers = sum(bool(self.model.steps[name].mixes) for name in order)
        plain = (nn.Linear, nn.Conv1d, nn.Conv2d)
        biases = any(isinstance(m, plain) and m.bias is not None for m in self.model.modules())
        layers = max(mixers, len(order) - mixers, 1)
        return prose.initialise(scheme, layers, self._own_values(scheme), biases, self._left(scheme), self._restless(), self.architecture)

    def _restless(self) -> list[str]:
        """Beginnings of the names in sublayers that cannot start at 0."""
        width, sublayers = self.architecture.width, zip(self.model.order, self.architecture.sublayers, strict=True)
        joins = {name: join_of(s.join, self.model.site) for name, s in sublayers if s.same_as is None}
        return [f"steps.{name}." for name, join in joins.items() if not may_rest(join, width)]

    def _left(self, scheme: str) -> list[str]:
        """Beginnings of the names of the matrices and biases that stay as torch's modules start them, where others do not."""
        if scheme == "torch":
            return []
        left = (n for n, p in self.model.named_parameters() if p.ndim > 1 and as_torch(scheme, n) and not hasattr(p, "initial_std"))
        return sorted({name.partition(".")[0] + "." for name in left})

    def _own_values(self, scheme: str) -> list[str]:
        """Ends of the names of matrices that their class draws in a way of its own."""
        found = []
        for name, parameter in self.model.named_parameters():
            std = getattr(parameter, "initial_std", None)
            usual = scheme != "torch" and std == INITIAL_STD and not name.endswith(("output.weight", "query.weight"))
            if std is not None and parameter.ndim > 1 and not usual:
                found.append(".".join(name.split(".")[-2:]))
        return sorted(set(found))

    def _load(self) -> list[str]:
        if not self.origin.weights:
            return []
        return [prose.load(self.origin.weights, list(_keys(self.model)))]

    def _main(self) -> str:
        return prose.main(self.architecture, self.origin.weights)

    # ---- imports and constants

    def _globals(self) -> tuple[list[str], str]:
        """The tables and the imports that the functions and classes need."""
        constants: dict[str, str] = {}
        found = {"import torch", "from torch import nn"}
        trees = [tree for unit in self.order for tree in self._trees(unit)] + [self.main.node]
        own = {c.name for c in self.order if isinstance(c, Code)} | set(self.names.values())
        if any("math." in block for block in (self._initialise(),)):
            found.add("import math")
        for name in (n for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Name) and hasattr(n, "home")):
            if hasattr(name, "called") or hasattr(name, "form") or name.id in own:
                continue
            line, constant = _binding(name.home, name.id)
            if constant:
                constants[name.id] = line
            else:
                found.add(line)
        for tree in trees:
            for node in ast.walk(tree):
                if isinstance(node, ast.Import | ast.ImportFrom):
                    _allowed(node)
        standard = sorted(line for line in found if " torch" not in line)
        torchs = sorted((line for line in found if " torch" in line), key=lambda line: (line.startswith("from"), line))
        return list(constants.values()), "\n".join([*standard, *([""] if standard else []), *torchs])


def _children(step: nn.Module) -> list[str]:
    """The parts of a step that hold a state: its class is given them."""
    return [
        name for name in ("norm", "operation", "after", "join") if getattr(step, name, None) is not None and stateful(getattr(step, name))
    ]


def _called(tree: ast.AST) -> list[Code]:
    found = [getattr(n, "called", None) for n in ast.walk(tree)]
    return [code for code in found if isinstance(code, Code)]


def _calls_in(tree: ast.AST) -> list[Code]:
    return [n.code for n in ast.walk(tree) if isinstance(n, ast.Call) and hasattr(n, "code")]


def _inline(form: Form) -> None:
    """Put the body of a method that is called once where it is called."""
    changed = True
    while changed:
        changed = False
        counts = collections.Counter(id(c) for m in form.methods.values() for c in _calls_in(m.node))
        for code in list(form.methods.values()):
            body = code.node.body[1:] if ast.get_docstring(code.node) else code.node.body
            if not code.inner or counts[id(code)] != 1 or not straight(body) or code in _calls_in(code.node):
                continue

            def find(call: ast.Call, code: Code = code, body: list[ast.stmt] = body) -> Bound | None:
                if getattr(call, "code", None) is not code or len(call.args) + len(call.keywords) != len(code.parameters):
                    return None
                given = dict(zip(code.parameters, call.args, strict=False)) | {str(k.arg): k.value for k in call.keywords}
                return Bound(body, given)

            caller = next(m for m in form.methods.values() if code in _calls_in(m.node))
            doc = caller.node.body[:1] if ast.get_docstring(caller.node) else []
            caller.node.body = [*doc, *tidied(inlined(caller.node.body[len(doc) :], set(), find))]
            if code not in _calls_in(caller.node):
                caller.flow |= code.flow & loads(caller.node).keys() & set(caller.parameters)
                del form.methods[code.name]
                changed = True


def _typed(node: ast.FunctionDef) -> ast.FunctionDef:
    """A function whose annotations name nothing but torch and Python."""
    known = {"torch", "nn", "int", "float", "bool", "str", "tuple", "list", "dict", "None", "Flow", "Callable"}
    for a in [*node.args.args, *node.args.kwonlyargs]:
        if a.annotation is not None and not {n.id for n in ast.walk(a.annotation) if isinstance(n, ast.Name)} <= known - {"Callable"}:
            a.annotation = None
    if node.returns is not None and not {n.id for n in ast.walk(node.returns) if isinstance(n, ast.Name)} <= known - {"Callable"}:
        node.returns = None
    return node


def _binding(home: str, name: str) -> tuple[str, bool]:
    """What binds a name in the module it comes from, and whether that is a constant rather than an import."""
    module = importlib.import_module(home)
    node = bindings(module).get(name)
    if isinstance(node, ast.Import | ast.ImportFrom):
        _allowed(node)
        alias = next(a for a in node.names if (a.asname or a.name).partition(".")[0] == name)
        shown = alias.name + (f" as {alias.asname}" if alias.asname else "")
        return (f"import {shown}" if isinstance(node, ast.Import) else f"from {node.module} import {shown}"), False
    if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
        try:
            ast.literal_eval(node.value)
        except ValueError:
            raise Unsupported(f"{name} of {home} is not a constant") from None
        return "\n".join(wrapped(f"{name} = {expression(node.value)}")), True
    raise Unsupported(f"{name} of {home} cannot be written out")


def _allowed(node: ast.Import | ast.ImportFrom) -> None:
    modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    for module in modules:
        root = module.partition(".")[0]
        if root != "torch" and root not in sys.stdlib_module_names:
            raise Unsupported(f"it needs {module}, and an ejected file imports torch alone")


def _keys(model: nn.Module) -> Iterator[tuple[str, tuple[int, ...]]]:
    for name, value in model.state_dict().items():
        yield name, tuple(value.shape)


# ---- lines that repeat


def _mark(name: str) -> str:
    """A name with a number at its end, such as `attention_3`, as something that a loop may count; `#_3` is the number alone."""
    word, _, number = name.rpartition("_")
    return f"\x00{word}\x01{number}\x02"


MARK = re.compile("\x00([^\x01]*)\x01(\\d+)\x02")


def _regular(items: Sequence[str]) -> Iterator[str]:
    """Lines, those that repeat with numbers that advance evenly as loops: in as few lines as can be."""
    shapes, numbers = [MARK.sub("\x00\\1", item) for item in items], [_numbers(item) for item in items]
    best: dict[int, tuple[float, int, int]] = {len(items): (0, 0, 0)}  # from a place on: how many lines, the first period and its turns
    for start in reversed(range(len(items))):
        ways = [(1 + best[start + 1][0], 1, 1)]
        for period in range(1, (len(items) - start) // 2 + 1):
            turns = 1
            while _follows(shapes, numbers, start, period, turns):
                turns += 1
            if turns > 1:
                uneven = 0.1 * _first(_moves(numbers[start:], period))[1]
                ways.append((1 + period + uneven + best[start + period * turns][0], period, turns))
        best[start] = min(ways, key=lambda way: way[0])
    start = 0
    while start < len(items):
        _, period, turns = best[start]
        yield from _loop(items[start : start + period], numbers[start : start + 2 * period], period, turns)
        start += period * turns


def _loop(body: Sequence[str], numbers: Sequence[list[int]], period: int, turns: int) -> Iterator[str]:
    """A loop over lines whose numbers in the first two turns are given; one turn is no loop."""
    if turns == 1:
        yield from (_filled(line, [str(n) for n in own]) for line, own in zip(body, numbers, strict=False))
        return
    moves = _moves(numbers, period)
    first = _first(moves)[0]
    moving = any(step for line in moves for _, step in line)
    yield f"for {'i' if moving else '_'} in range({f'{first}, ' if first else ''}{first + turns}):"
    for line, own in zip(body, moves, strict=True):
        yield INDENT + _filled(line, [_counted(base, step, first) for base, step in own])


def _moves(numbers: Sequence[list[int]], period: int) -> list[list[tuple[int, int]]]:
    """The numbers of each line in the first turn, and by how much they advance."""
    return [[(a, b - a) for a, b in zip(numbers[i], numbers[i + period], strict=True)] for i in range(period)]


def _first(moves: Sequence[Sequence[tuple[int, int]]]) -> tuple[int, int]:
    """Where a loop's variable starts so that its numbers are the simplest, and how many of them are still not a multiple of it."""
    pairs = [(base, step) for line in moves for base, step in line if step]
    starts = {0, *(base // step for base, step in pairs if base % step == 0 and base > 0 and step > 0)}
    ways = [(sum(base != step * start for base, step in pairs), start) for start in starts]
    offsets, start = min(ways)
    return start, offsets


def _follows(shapes: Sequence[str], numbers: Sequence[list[int]], start: int, period: int, turn: int) -> bool:
    """Whether one more turn continues those before it."""
    if start + (turn + 1) * period > len(shapes):
        return False
    for i in range(start, start + period):
        last = i + turn * period
        if shapes[i] != shapes[last]:
            return False
        if any(c != a + turn * (b - a) for a, b, c in zip(numbers[i], numbers[i + period], numbers[last], strict=True)):
            return False
    return True


def _numbers(line: str) -> list[int]:
    return [int(n) for _, n in MARK.findall(line)]


def _counted(base: int, step: int, first: int) -> str:
    """A number in terms of the loop's variable."""
    if step == 0:
        return str(base)
    base -= step * first
    counted = "i" if step == 1 else f"{step} * i"
    return f"{counted} + {base}" if base > 0 else f"{counted} - {-base}" if base < 0 else counted


def _filled(line: str, numbers: Sequence[str]) -> str:
    left = iter(numbers)

    def fill(found: re.Match[str]) -> str:
        number = next(left)
        if found[1] == "#":
            return number
        return f'"{found[1]}_{number}"' if number.isdigit() else f'f"{found[1]}_{{{number}}}"'

    return MARK.sub(fill, line)
