"""What can be measured inside a model, sublayer by sublayer: name -> what it is, read from the source text of `measures`.

A diagnostic is one function with the decorator `@diagnostic(...)`; its name is that of the function with hyphens, its meaning, formula and
source stand in its docstring, once. They are read as text, never by import: settings are checked and reports are written without torch.
`probe.measure` computes them.
"""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

Kind = Literal["stream", "sublayer", "subspaces", "map", "gradient", "untrained"]
F = TypeVar("F")

# Of what a diagnostic is a function, and so where it has a value.
KINDS: dict[str, str] = {
    "stream": "of the residual stream: before the first sublayer and after each",
    "sublayer": "of every sublayer that has what it asks for",
    "subspaces": "of mixers with a projection per head: attention with values of its own, and tssa",
    "map": "of attention that has scores",
    "gradient": "of every sublayer",
    "untrained": "of the whole model before it is trained: hints, which a search may ask for",
}

MODULES = ("subspaces", "energy", "stream", "sublayer", "maps", "gradients")  # of `measures`, in reading order


@dataclass(frozen=True)
class Diagnostic:
    """One quantity.

    Attributes:
        name: What study files and records call it.
        kind: Of what it is a function; a key of `KINDS`.
        unit: Empty for a pure number.
        cost: What it needs beside one forward pass, in words; empty for next to nothing.
        cheap: Whether it is measured where a study asks for nothing else.
        better: "more" or "less" where one of them is what the source wants, else empty.
        summary: What it says, in a sentence.
        formula: Its definition.
        source: Who defined it.
        differs: How this one differs, empty where it does not.
        function: Its name in `measures`.
        term: What it is a function of besides, for functions that serve several diagnostics.
    """

    name: str
    kind: str
    unit: str
    cost: str
    cheap: bool
    better: str
    summary: str
    formula: str
    source: str
    differs: str
    function: str
    term: str = ""

    @property
    def per_point(self) -> bool:
        """Whether it has a value before the first sublayer too, so one more than there are sublayers."""
        return self.kind == "stream"

    @property
    def needs_attention(self) -> bool:
        """Whether the attention map is written out for it."""
        return self.kind == "map"


def diagnostic(
    kind: Kind, *, unit: str = "", cost: str = "", cheap: bool = False, better: str = "", terms: tuple[str, ...] = ()
) -> Callable[[F], F]:
    """Declare a function as a diagnostic, or as one for each term, `function-term`. Every argument is a literal: it is read from text."""
    assert kind in KINDS, kind
    return lambda function: function


@functools.cache
def catalogue() -> dict[str, Diagnostic]:
    """Every diagnostic by name, in reading order."""
    found: dict[str, Diagnostic] = {}
    for module in MODULES:
        found |= _declared(Path(__file__).parent / "measures" / f"{module}.py")
    return found


@functools.cache
def hints() -> dict[str, Diagnostic]:
    """What is measured of a model before it is trained, by name; none of them has the name of a diagnostic of trained models."""
    return _declared(Path(__file__).with_name("hints.py"))


def cheap() -> tuple[str, ...]:
    """The names of what is measured by default."""
    return tuple(d.name for d in catalogue().values() if d.cheap)


def _declared(path: Path) -> dict[str, Diagnostic]:
    body = ast.parse(path.read_text(encoding="utf-8")).body
    return {d.name: d for node in body if isinstance(node, ast.FunctionDef) for d in _read(node)}


def _read(node: ast.FunctionDef) -> list[Diagnostic]:
    calls = [d for d in node.decorator_list if isinstance(d, ast.Call) and isinstance(d.func, ast.Name) and d.func.id == "diagnostic"]
    if not calls:
        return []
    settings = {k.arg: ast.literal_eval(k.value) for k in calls[0].keywords}
    doc = ast.get_docstring(node) or ""
    sections = {s: re.search(rf"^{s}: (.*?)(?=^[A-Z]\w+: |\n\n|\Z)", doc, re.M | re.S) for s in ("Source", "Differs")}
    source, differs = (" ".join(m.group(1).split()) if m else "" for m in sections.values())
    terms = settings.pop("terms", ("",))
    return [
        Diagnostic(
            name="-".join([node.name.replace("_", "-"), *([term] if term else [])]),
            kind=ast.literal_eval(calls[0].args[0]),
            unit=settings.get("unit", ""),
            cost=settings.get("cost", ""),
            cheap=settings.get("cheap", False),
            better=settings.get("better", ""),
            summary=" ".join(doc.split("\n\n")[0].split()),
            formula=" ".join(doc.split("\n\n")[1].split()),
            source=source,
            differs=differs,
            function=node.name,
            term=term,
        )
        for term in terms
    ]


PAGE = """# Diagnostics

What can be measured inside a trained model, sublayer by sublayer. Those in bold cost next to nothing and are measured by default.

Every number is a mean over windows (sequences or images), computed window by window from one forward pass, without gradient and without
reduced precision. There is one per sublayer, in the order of the forward pass, where a sublayer whose weights are tied counts each time it
acts; a quantity of the stream has one more, before the first sublayer. Where a sublayer has no such quantity (an MLP has no attention
map) it is absent, and so is a number that is not finite. Class attention, which pools, is not a sublayer. The hints at the end are of the
whole model before it is trained, one number each, from its first training batch.

Letters: N tokens of a window, D width, H heads, P = D / H, X (N, D) the stream, Z (N, D) the tokens *as the sublayer reads them*: after its
norm, where the norm stands before the operation. Where a quantity compares after with before, after is what the same norm would make of the
stream that the sublayer left. A is the attention map of a head, without the other terms of the mixing matrix. U_h (D, P) is an orthonormal
basis of what head h projects tokens onto: the tied projection where there is one, else the projection of the values. Logarithms are
natural.
"""

HEADING = ("| name | what it says | formula | source | beside a forward pass |", "|---|---|---|---|---|")


def page() -> str:
    """docs/diagnostics.md."""
    lines = [PAGE]
    for kind, text in KINDS.items():
        lines += [f"## {text[0].upper()}{text[1:]}", "", *HEADING]
        rows: dict[str, list[Diagnostic]] = {}
        for d in (*catalogue().values(), *hints().values()):
            if d.kind == kind:
                rows.setdefault(d.function, []).append(d)
        lines += [*map(_row, rows.values()), ""]
    return "\n".join(lines).rstrip() + "\n"


def _row(of_one_function: list[Diagnostic]) -> str:
    d = of_one_function[0]
    name = ", ".join(other.name for other in of_one_function)
    says = d.summary + (f" In {d.unit}." if d.unit else "") + (f" {d.better.capitalize()} is better." if d.better else "")
    source = d.source + (f" Differs: {d.differs}" if d.differs else "")
    cells = [f"**{name}**" if d.cheap else name, says, f"`{d.formula}`", source, d.cost or "nothing"]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"
