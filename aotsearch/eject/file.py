"""An architecture as one readable PyTorch file of its own, which imports torch alone and gives the same numbers to the last bit.

    print(eject(study.reference))

The text is that of the parts' classes with their options put in (`program`), and of a `Model` that reads like the architecture. Names in
the model's state are those of the built model. Before a text is given away, it is run: its outputs are compared with the model's.
"""

from __future__ import annotations

import ast
import builtins
import collections
import itertools
import re
import sys
import textwrap
import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from aotsearch.eject.fold import Put, Table, arguments, bound, computed, definition, owned, refused, top, tree
from aotsearch.eject.program import Kind, Program, Record, recorded, stateful
from aotsearch.eject.text import class_name, description, header, looped, mark, quoted, usage, written
from aotsearch.errors import AotsearchError, RunError, one_line
from aotsearch.grammar.architecture import Architecture
from aotsearch.models import initial
from aotsearch.models.model import Model, Replace
from aotsearch.models.parts.context import ForwardContext, LayerContext

TOKENS = 24  # of the inputs that a text is proved on
FORMS = {
    "pre": "x <- {join}, y = f(norm({z}))",
    "post": "x <- norm({join}), y = f({z})",
    "sandwich": "x <- {join}, y = after(f(norm({z})))",
}


def eject(architecture: Architecture, title: str = "", weights: str = "") -> str:
    """The text of a file with a class `Model` that is this architecture; `title` says where it comes from, `weights` is the name of the
    file that its function `load` reads.

    Raises:
        InputError: a part's source does something that cannot be followed.
        RunError: the text does not give the numbers of the model.
    """
    record: Record = {}
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        with torch.device("meta"), recorded(record):
            model = Model(architecture)
        strange = sorted({type(m).__module__ for m in model.modules()})
        blame = [name for name in strange if name.partition(".")[0] not in ("torch", "aotsearch")]
        tail = f"; look at the words of {', '.join(blame)}" if blame else ""
        try:
            carried: set[str] = set()
            while not (read := (program := Program(model, record, carried)).flow_reads()) <= carried | {"positions"}:
                carried |= read  # what nobody reads is not carried
            text = File(program, record, architecture).text(title, weights)
        except AotsearchError:
            raise
        except Exception as e:
            if not blame:
                raise
            raise refused(f"{type(e).__name__}: {one_line(str(e))}{tail}") from e
        _prove(text, architecture, tail)
    return text


def _prove(text: str, architecture: Architecture, tail: str) -> None:
    """Run a text and compare its outputs with those of the model it was written from, away from starts at which a term says nothing."""
    inputs, name, what = example(architecture), architecture.digest, "model {} itself"
    torch.manual_seed(0)
    ours = Model(architecture).eval()
    for parameter in ours.parameters():
        parameter.add_(torch.randn(parameter.shape), alpha=0.02)
    try:
        wanted, state = ours(inputs), ours.state_dict()
        space: Table = {"__name__": "ejected"}
        what = "ejected file of {}"
        exec(compile(text, "ejected", "exec"), space)  # the text that we have just written, to compare it  # nosec B102
        held = {n for n, _ in [*ours.named_parameters(remove_duplicate=False), *ours.named_buffers(remove_duplicate=False)]}
        with torch.device("meta" if held == state.keys() else "cpu"):  # without memory, where it takes all it holds from ours
            theirs = space["Model"]().eval()
        theirs.load_state_dict(state, assign=True)
        same = torch.equal(theirs(inputs), wanted)
    except Exception as e:  # noqa: BLE001 (whatever an installed part does)
        raise RunError(f"the {what.format(name)} does not run: {one_line(str(e))}{tail}") from None
    if not same:
        raise RunError(f"the ejected file of {name} does not give the numbers of the model{tail}")


def example(architecture: Architecture) -> torch.Tensor:
    """Two short inputs of the kind that a model takes, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        found: torch.Tensor = eval(usage(architecture, 2, TOKENS)[-1], {"torch": torch})  # our own line  # nosec B307
        return found


class File:
    """One file in the making."""

    def __init__(self, program: Program, record: Record, architecture: Architecture):
        self.program, self.record, self.architecture, self.model = program, record, architecture, program.model
        self.carried, self.parallel = program.flow_reads(), any(self.model.parallel)
        self.flows = any(self._takes_flow(step) for step in self.model.steps.values())
        self.given = ["x_BLD"] + ["flow"] * self.flows + ["z_BLD"] * self.parallel + ["drop"] * bool(self.model.drops)
        self.blocks: list[str] = []
        self.constants: list[str] = []
        self.imports = {"import math", "import torch", "from torch import nn", "from torch.nn import functional as F"}
        self.names: dict[Any, str] = {}  # of kinds and functions; of their texts without a name
        self.taken = {"Model", "ForwardContext", "initialise", "load"}

    def text(self, title: str, weights: str) -> str:
        """The whole file."""
        made, model = f'load("{weights}")' if weights else "Model()", self._model()
        known = [n for n in vars(ForwardContext(None)) if n in self.carried]  # type: ignore[arg-type]
        flow = ["class ForwardContext:", quoted("What one forward pass carries from sublayer to sublayer besides the residual stream.", 1)]
        flow += ["", f"    def __init__(self{', positions: nn.Module' if 'positions' in known else ''}):"] if known else []
        flow += [f"        self.{n} = {n if n == 'positions' else None}" for n in known]
        load = [f'def load(path: str = "{weights}") -> Model:', quoted("The trained model.", 1), "    model = Model()"]
        load += ["    model.load_state_dict(torch.load(path))", "    return model.eval()"]
        run = ['if __name__ == "__main__":', f"    model = {made}", f"    outputs = model({usage(self.architecture)[-1]})"]
        run += ['    print(sum(p.numel() for p in model.parameters()), "parameters; outputs", tuple(outputs.shape))']
        blocks = ["\n".join(flow)] * self.flows + [*self.blocks, model, *self._initialise()] + ["\n".join(load)] * bool(weights)
        body = "\n\n\n".join([*blocks, "\n".join(run)])
        used = [line for line in self.imports if re.search(rf"\b{line.split()[-1]}\b", body)]
        used.sort(key=lambda line: (" torch" in line, line.startswith("from"), line))
        doc = quoted(header(self.architecture, title, made, sum(p.numel() for p in self.model.parameters())), 0)
        imports = "\n".join(used).replace("\nimport torch", "\n\nimport torch", 1)
        return "\n\n".join([doc, imports, *self.constants]) + "\n\n\n" + body + "\n"

    # ---- classes and functions

    def _name(self, kind: Kind) -> str:
        """The name of a kind's class, which is written if it is not there, after those it inherits from."""
        if kind not in self.names:
            base = ", ".join(map(ast.unparse, kind.units[-1].node.bases))
            for unit in (u for u in reversed(kind.units) if u.alive - {"__init__"} or u is kind.units[0]):
                lines = [f"class @({base}):", quoted(description(kind.made[0], unit.cls), 1)]
                for node in unit.node.body:
                    empty = isinstance(node, ast.FunctionDef) and ast.unparse(node.body[0]) == "super().__init__()" and len(node.body) == 1
                    if isinstance(node, ast.FunctionDef) and node.name in unit.alive and not empty:
                        lines += ["", textwrap.indent(self._named(written(node), unit.names), "    ")]
                    elif not isinstance(node, ast.FunctionDef) and bound(node) & kind.read:
                        lines.append("    " + ast.unparse(node))
                base = self._add("\n".join(lines), class_name(unit.cls))
            self.names[kind] = base
        return self.names[kind]

    def _add(self, text: str, name: str) -> str:
        """The name of a class or function, `@` in its text; it is written if there is none like it."""
        if text not in self.names:
            self.names[text] = next(n for n in (name, *(f"{name}{i}" for i in range(2, 9999))) if n not in self.taken)
            self.taken.add(self.names[text])
            self.blocks.append(text.replace("@", self.names[text], 1))
        return self.names[text]

    def _named(self, text: str, names: Table) -> str:
        """A text with the final names of what it needs, which is written before; given what names mean at the top of its module."""
        nodes, local = list(ast.walk(ast.parse(text))), bound(ast.parse(text))
        for n in nodes:
            if isinstance(n, ast.Import | ast.ImportFrom):
                _allowed(getattr(n, "module", None) or n.names[0].name)
        for old in dict.fromkeys(n.id for n in nodes if isinstance(n, ast.Name) and n.id not in local):
            new = self._needed(old, names)
            text = re.sub(rf"(?<![\w.]){old}\b", new, text) if old != new else text
        return text

    def _needed(self, name: str, names: Table) -> str:
        """The final name of what a name means, written if it is not there."""
        thing = names.get(name)
        kind = self.program.classes.get(name) or (self.program.classes.get(thing) if isinstance(thing, type) else None)
        if kind is not None:
            return self._name(kind)
        if thing is ForwardContext or (name not in names and hasattr(builtins, name)):
            return name
        if isinstance(thing, type | types.FunctionType) and owned(thing):
            if thing not in self.names:
                node = definition(thing)
                node.name = "_name_"
                text = self._named(written(node), vars(sys.modules[thing.__module__]))
                self.names[thing] = self._add(text.replace("_name_", "@", 1), thing.__name__)
            return self.names[thing]
        line = top(names["__name__"]).get(name)
        if isinstance(line, ast.Import | ast.ImportFrom):
            alias = next(a for a in line.names if (a.asname or a.name).partition(".")[0] == name)
            home = _allowed(alias.name if isinstance(line, ast.Import) else str(line.module))
            start = "" if isinstance(line, ast.Import) else f"from {home} "
            self.imports.add(f"{start}import {alias.name}" + (f" as {alias.asname}" if alias.asname else ""))
        elif getattr(line, "value", None) is None:
            raise refused(f"{name} of {names['__name__']} cannot be written out")
        elif (text := self._named(f"{name} = {ast.unparse(line.value)}", names)) not in self.constants:  # type: ignore[union-attr]
            self.constants.append(text)
        return name

    # ---- sublayers

    def _makes(self, module: Any) -> str:
        """The call that makes a module."""
        given, call = self.record[id(module)].given, self.program.call(module)
        site = next((v for v in given.values() if isinstance(v, LayerContext)), None)
        layer = mark(f"#_{site.layer}") if site is not None and call is not None and call.args else ""
        return f"{self._name(self.program.of[id(module)])}({layer})"

    def _computed(self, module: Any, method: str) -> tuple[list[str], ast.expr | None]:
        """What a method is given, and what it gives where that is one expression of what it is given."""
        kind = self.program.of.get(id(module))
        home = kind.home(method) if kind is not None else None
        given, value = computed(home.methods[method]) if home is not None else ([], None)
        alone = value is not None and {n.id for n in ast.walk(value) if isinstance(n, ast.Name)} <= set(given[1:])
        return given[1:], value if alone else None

    def _takes_flow(self, step: Any) -> bool:
        return bool(step.mixes) and len(self._computed(step.operation, "forward")[0]) > 1

    def _passes(self, module: Any, method: str) -> bool:
        """Whether a method gives back what it is given."""
        given, value = self._computed(module, method)
        return isinstance(value, ast.Name) and value.id == given[0]

    def _joined(self, step: Any) -> str:
        given, value = self._computed(step.join, "forward")
        put = Put(dict(zip(given, (tree("x_BLD"), tree("y_BLD")), strict=False)))
        return "y_BLD" if isinstance(step.join, Replace) else "self.join(x_BLD, y_BLD)" if value is None else ast.unparse(put.into(value))

    def _parts(self, step: Any) -> dict[str, nn.Module]:
        """The parts that a step is given."""
        normed, joined = not isinstance(step.norm, nn.Identity), "self.join" in self._joined(step)
        names = ["norm"] * normed + ["operation"] + ["after"] * (normed and step.after is not None) + ["join"] * joined
        return {name: getattr(step, name) for name in names}

    def _sublayer(self, step: Any) -> str:
        """The class of a step, written if it is not there."""
        z = "z_BLD" if self.parallel else "x_BLD"
        joined, names, flows = self._joined(step), self._parts(step), self._takes_flow(step)
        place = step.place if "norm" in names else "none"
        lines = [f"y_BLD = self.operation({z if place in ('post', 'none') else f'self.norm({z})'}{', flow' if flows else ''})"]
        lines += ["y_BLD = self.after(y_BLD)"] * ("after" in names) + ["y_BLD = drop(y_BLD)"] * ("drop" in self.given)
        lines += [f"return self.norm({joined})" if place == "post" else f"return {joined}"]
        told = FORMS.get(place, "x <- {join}, y = f({z})").format(z=z[0], join=joined.replace("_BLD", "").replace("self.", ""))
        kinds = {"flow": "ForwardContext", "drop": "nn.Module"}
        taken = ", ".join(f"{n}: {kinds.get(n, 'torch.Tensor')}" for n in self.given)
        text = [
            "class @(nn.Module):",
            quoted(f"One sublayer: {told}." + "\n\nz is x, or what the sublayer before it read." * self.parallel, 1),
            "",
        ]
        text += [f"    def __init__(self, {', '.join(f'{p}: nn.Module' for p in names)}):", "        super().__init__()"]
        text += [*(f"        self.{p} = {p}" for p in names), "", f"    def forward(self, {taken}) -> torch.Tensor:"]
        join = type(step.join).__name__
        kind = {"pre": "", "none": "Unnormed"}.get(place, place.capitalize()) + (join if join != "Add" else "")
        return self._add("\n".join([*text, *("        " + line for line in lines)]), f"{kind}Sublayer{'WithContext' if flows else ''}")

    # ---- the model

    def _steps(self) -> Iterator[str]:
        """The lines that make the steps, and let parameters of several be one beyond modules that are."""
        places: dict[int, str] = {}  # of modules that are there
        ties: dict[int, tuple[str, str]] = {}
        after: list[str] = []
        made = {id(m): self._makes(m) for step in self.model.steps.values() for m in self._parts(step).values()}
        for name, step in self.model.steps.items():
            inside = self._parts(step)
            kept = {part for part, m in inside.items() if id(m) not in places}
            arguments = ", ".join(places.get(id(m)) or made[id(m)] for m in inside.values())
            yield f"self.steps[{mark(name)}] = {self._sublayer(step)}({arguments})"
            places |= {id(inside[part]): f"self.steps[{mark(name)}].{part}" for part in kept}
            for path, parameter in step.named_parameters():
                first, held = ties.setdefault(id(parameter), (name, path))
                if first != name and path.partition(".")[0] in kept:
                    after.append(f"self.steps[{mark(name)}].{path} = self.steps[{mark(first)}].{held}")
        yield from ["# one parameter, wherever it stands"] * bool(after) + after

    def _calls(self) -> list[str]:
        """The lines that take the stream through the steps."""
        order, names, drops = self.model.order, list(self.model.steps), list(self.model.drops)
        given = ", ".join("self.drops[name]" if n == "drop" else n for n in self.given)
        rounds = len(order) // max(len(names), 1)
        if len(names) > 1 and order == names * rounds and not self.parallel:
            loop = ["for name, step in self.steps.items():" if drops else "for step in self.steps.values():", f"    x_BLD = step({given})"]
            if rounds == 1:
                return loop
            if not drops:
                return [f"for _ in range({rounds}):", *("    " + line for line in loop)]
        items: list[str] = []
        for name, beside, drop in zip(order, self.model.parallel, drops or order, strict=True):
            call = f"self.steps[{mark(name)}]({given.replace('[name]', f'[{mark(drop)}]')})"
            items += ["z_BLD = x_BLD"] * (self.parallel and not beside) + [f"x_BLD = {call}"]
        return list(looped(items))

    def _drops(self) -> list[str]:
        """The lines that make what training drops."""
        if not self.model.drops:
            return []
        p, path, lines = self.model.architecture.dropout, self.model.architecture.drop_path, []
        counts = collections.Counter(self.model.steps[name].mixes for name in self.model.order)
        places = {mixes: itertools.count() for mixes in counts}
        for name, drop, module in zip(self.model.order, self.model.drops, self.model.drops.values(), strict=True):
            mixes = self.model.steps[name].mixes
            given = {"entries": repr(p), "samples": f"{path!r} * ({mark(f'#_{next(places[mixes])}')}) / {max(counts[mixes] - 1, 1)}"}
            kind = self.program.of.get(id(module))
            read = arguments(home.methods["__init__"])[1:] if kind is not None and (home := kind.home("__init__")) is not None else []
            made = f"nn.Dropout({p!r})" if kind is None else f"{self._name(kind)}({', '.join(given[name] for name in read)})"
            lines.append(f"self.drops[{mark(drop)}] = {made}")
        return ["self.drops = nn.ModuleDict()", *(re.sub(r" \((\w+)\) ", r" \1 ", line) for line in looped(lines))]

    def _model(self) -> str:
        model, head, pooled = self.model, self.model.head, self.model.pooling is not None
        read, normed = not self._passes(model.embedding, "forward"), not isinstance(model.final_norm, nn.Identity)
        placed = id(model.positions) in self.program.of and not self._passes(model.positions, "embed")
        held = {"embedding": read, "pooling": pooled, "positions": placed or "positions" in self.carried or stateful(model.positions)}
        made = [f"self.{name} = {self._makes(getattr(model, name))}" for name, there in held.items() if there]
        made += [f"self.dropout = nn.Dropout({model.dropout.p!r})"] if model.dropout is not None else []
        made += ["self.steps = nn.ModuleDict()", *looped(list(self._steps()))] if len(model.steps) else []
        made += self._drops()
        made += [f"self.final_norm = {self._makes(model.final_norm)}"] if normed else []
        if head is not None:
            made += [f"self.head = nn.Linear({head.in_features}, {head.out_features}{', bias=False' * (head.bias is None)})"]
        lines = ["x_BLD = self.embedding(inputs)" if read else "x_BLD = inputs"]
        lines += ["x_BLD = self.pooling.open(x_BLD)"] * (pooled and not self._passes(model.pooling, "open"))
        lines += ["x_BLD = self.positions.embed(x_BLD)"] * placed
        lines += ["x_BLD = self.dropout(x_BLD)"] * (model.dropout is not None)
        lines += [f"flow = ForwardContext({'self.positions' if 'positions' in self.carried else ''})"] * self.flows + self._calls()
        lines += ["x_BLD = self.pooling(x_BLD)"] * pooled + ["x_BLD = self.final_norm(x_BLD)"] * normed
        last = "self.head(x_BLD)" if head is not None else "F.linear(x_BLD, self.embedding.weight)" if model.tied else "x_BLD"
        made += ["initialise(self)"] * bool(self._initialise())
        opening = ["class Model(nn.Module):", quoted("{1} -> {2}.".format(*usage(self.architecture)), 1), "", "    def __init__(self):"]
        text = [*opening, *(f"        {line}" for line in ["super().__init__()", *made])]
        text += ["", "    def forward(self, inputs: torch.Tensor) -> torch.Tensor:"]
        return "\n".join([*text, *(f"        {line}" for line in [*lines, f"return {last}"])])

    def _initialise(self) -> list[str]:
        """The function that draws the initial values: by the ends of the names, and in one way all other matrices."""
        scheme, named = self.architecture.initialisation, dict(self.model.named_parameters())
        found = {name: how for name, p, how in self.model.starts() if not hasattr(p, "initial_std")}
        texts = {name: self._rule(name, *found.get(name, ("", 0.0))) for name in named}
        ends = {name: ".".join(name.split(".")[-2:]) for name in named}
        drawn = collections.Counter(texts[name] for name, p in named.items() if p.ndim > 1 and texts[name])
        usual = drawn.most_common(1)[0][0] if drawn else ""
        rules: dict[str, dict[str, None]] = collections.defaultdict(dict)
        for name, p in named.items():
            if texts[name] != (usual if p.ndim > 1 else ""):
                same = all(texts[other] == texts[name] for other in named if ends[other] == ends[name])
                rules[texts[name]][f'"{ends[name] if same else name}"'] = None
        shown = {rule: ", ".join(rules[rule]) for rule in sorted(rules)}
        tests = [(f"name.endswith({f'({names})' if len(rules[rule]) > 1 else names})", rule) for rule, names in shown.items()]
        tests += [("parameter.ndim > 1", usual)] if usual else []
        lines = [f"    for {'name, parameter in model.named_' if rules else 'parameter in model.'}parameters():"]
        for i, (test, rule) in enumerate(tests):
            lines += [f"        {'elif' if i else 'if'} {test}:", f"            {rule or 'continue'}"]
        told = re.search(rf"^    {scheme}: ((?:.|\n     )*)", initial.starts.__doc__ or "", re.M)
        doc = quoted(textwrap.fill(f"Draw the initial values of matrices: {' '.join(told[1].split()) if told else scheme}.", 110), 1)
        return ["\n".join(["@torch.no_grad()", "def initialise(model: nn.Module) -> None:", doc, *lines])] if any(rules) or usual else []

    def _rule(self, name: str, how: str, number: float) -> str:
        """The line that draws a parameter; "" where it keeps its start."""
        if how == "uniform" and type(self.model.get_submodule(name.rpartition(".")[0])).__module__.startswith("torch."):
            return ""  # as torch draws its own
        share = round((0.02 / number) ** 2) if number else 0
        std = f"0.02 / math.sqrt({share})" if share > 1 and abs(0.02 / share**0.5 - number) < 1e-12 else repr(number)
        normal = f"parameter.normal_(0.0, {std})" if number else "parameter.zero_()"
        uniform = f"parameter.uniform_(-{1 / number!r}, {1 / number!r})" if number else ""
        return {"": "", "identity": "parameter.copy_(torch.eye(len(parameter)))", "uniform": uniform}.get(how, normal)


def _allowed(module: str) -> str:
    """A module that the file may import."""
    if module.partition(".")[0] not in {"torch", *sys.stdlib_module_names}:
        raise refused(f"it needs {module}, and an ejected file imports torch alone")
    return module
