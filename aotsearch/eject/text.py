"""Pieces of an ejected file: source as text, docstrings that tell what holds here, and lines that repeat as loops."""

from __future__ import annotations

import ast
import copy
import inspect
import io
import re
import textwrap
import tokenize
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from aotsearch.eject.program import Made
from aotsearch.errors import one_line
from aotsearch.grammar import library
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.glossary import plain
from aotsearch.grammar.words import Word

NOUNS = ("positions", "coefficient", "join", "pooling", "score", "embedding")  # that a class's name says, where it is one
SENTENCES = r"(?<=\.)(?<!\bal\.)(?<!e\.g\.)(?<!i\.e\.)(?<!eq\.)\s+"
RETURNED = re.compile(r"^( +)(\w+) = (.*)\n+\1return \2$", re.M)
COPIED = re.compile(r"^( +)(\w+) = (\w+)\n((?:\1#.*\n)*)\1(\w+) = (.*\b\2\b.*)$", re.M)
MARK = re.compile("\x00([^\x01]*)\x01(\\d+)\x02")


def written(node: ast.FunctionDef | ast.ClassDef) -> str:
    """A function or class as text, with its comments, and without names that are given and taken at once."""
    node = copy.deepcopy(node)
    for block in [getattr(n, field) for n in ast.walk(node) for field in ("body", "orelse") if isinstance(getattr(n, field, None), list)]:
        block[:] = [s for line in block for s in [*(ast.Expr(ast.Constant(note)) for note in getattr(line, "notes", [])), line]]
    text = ast.unparse(ast.fix_missing_locations(node))
    text = re.sub(r"^ *(['\"])#> ?(.*)\1\n(.*)$", r"\3  # \2", text, flags=re.M)
    text = re.sub(r"^( *)(['\"])(#.*)\2$", r"\1\3", text, flags=re.M)
    lines = text.split("\n")
    for t in reversed(list(tokenize.generate_tokens(io.StringIO(text).readline))):
        (row, start), (_, end) = t.start, t.end
        if t.type == tokenize.STRING and re.fullmatch(r"'[^'\"\\]*'", t.string):
            lines[row - 1] = f'{lines[row - 1][:start]}"{t.string[1:-1]}"{lines[row - 1][end:]}'
    bare = (re.sub(r"^( *(?:return|[\w., ]+ =)) \((.*)\)$", r"\1 \2", line) if _tuple(line) else line for line in lines)
    text = RETURNED.sub(r"\1return \3", "\n".join(bare))
    for m in reversed(list(COPIED.finditer(text))):
        if m[5] == m[2] or not re.search(rf"\b{m[2]}\b", text[m.end() :]):
            text = text[: m.start()] + m[4] + m[1] + m[5] + " = " + re.sub(rf"\b{m[2]}\b", m[3], m[6]) + text[m.end() :]
    return text


def _tuple(line: str) -> bool:
    """Whether a line gives or sets a tuple in brackets."""
    found = re.match(r" *(?:return|[\w., ]+ =) (\(.*\))$", line)
    return found is not None and isinstance(ast.parse(found[1]).body[0].value, ast.Tuple)  # type: ignore[attr-defined]


def quoted(text: str, depth: int) -> str:
    """A docstring at an indent."""
    pad, lines = " " * 4 * depth, text.split("\n")
    body = "\n".join(f"{pad}{line}".rstrip() for line in lines).lstrip()
    return f'{pad}{"r" if chr(92) in body else ""}"""{body}' + ('"""' if len(lines) == 1 else f'\n{pad}"""')


def word_of(cls: type) -> Word | None:
    """The word of the library that a class is."""
    return next((w for w in library.library().values() if (w.module, w.qualname) == (cls.__module__, cls.__qualname__)), None)


def class_name(cls: type) -> str:
    """The name of a class in the file: with the slot of its word where it alone says little."""
    word = word_of(cls)
    noun = word.slot.capitalize() if word is not None and word.slot in NOUNS else ""
    return cls.__name__.removesuffix(noun) + noun


def description(made: Made, cls: type) -> str:
    """The docstring of a class: of what it says of its options what holds here, and which they are."""
    paragraphs, word = (inspect.getdoc(cls) or cls.__name__).split("\n\n"), word_of(cls)
    if word is None:
        return "\n\n".join(paragraphs)
    here: dict[str, str] = {}
    for name, option in word.options.items():
        value: Any = made.given.get(name, option.default)
        inner = word_of(type(value)) if isinstance(value, nn.Module) else None
        if (inner.name if inner else value) != option.default or (
            option.law.startswith("a whole number") and isinstance(value, int) and value
        ):
            here[name] = inner.name if inner else plain(value)
    active = {*here, *here.values()}

    def told(paragraph: str) -> str:
        title, _, rest = paragraph.partition(": ") if paragraph.startswith(("Source: ", "Differs: ")) else ("", "", paragraph)
        found = []
        for s in re.split(r";\s+" if title == "Source" else SENTENCES, rest):
            key = re.match(r"([\w -]+): (?=[A-Z`])", s) if title == "Source" else None
            names = {key[1].lower()} if key else set() if " is `" in s else set(re.findall(r"`([\w-]+)`", s))
            if names <= active and all(here.get(k) == v for k, v in re.findall(r"[`{](\w+): ?([\w.-]+)", s)):
                found.append(s.removeprefix(key[0]) if key else s)
        text = ("; " if title == "Source" else " ").join(found).rstrip(".") + "."
        return textwrap.fill(f"{title}: {text}" if title else text, 116) if found else ""

    texts: list[str] = []
    for i, p in enumerate(p for p in paragraphs if not p.startswith(("Args:", "Requires:"))):
        source, _, differs = p.partition("\nDiffers: ")
        texts += [f"Here {', '.join(f'{k} = {v}' for k, v in here.items())}."] if here and p.startswith("Source:") else []
        texts += [
            told(source) if (i > 1 and re.search("[`{]", p)) or p.startswith("Source:") else p,
            told("Differs: " + differs) if differs else "",
        ]
    return "\n\n".join(t for t in texts if t)


def usage(architecture: Architecture, batch: int = 1, most: int = 1 << 30) -> tuple[str, str, str, str]:
    """What a model is, what it takes, what it gives, and an expression that makes an input of at most so many tokens."""
    s = dict(architecture.sizes)
    tokens = min(s.get("context", 0), most)
    if "image" in s:
        shape = f"{s['channels']}, {s['image']}, {s['image']}"
        return "An image classifier", f"Images (B, {shape})", f"logits (B, {s['classes']})", f"torch.randn({batch}, {shape})"
    if "inputs" in s:
        given = f"Vectors (B, L, {s['inputs']}), L <= {s['context']}", f"outputs (B, L, {s['outputs']})"
        return f"A {'' if 'subspaces' in s else 'causal '}model of vectors", *given, f"torch.randn({batch}, {tokens}, {s['inputs']})"
    given = f"Tokens (B, L) below {s['vocabulary']}, L <= {s['context']}", f"logits (B, L, {s['vocabulary']})"
    return "A causal language model", *given, f"torch.randint({s['vocabulary']}, ({batch}, {tokens}))"


def header(architecture: Architecture, title: str, made: str, parameters: int) -> str:
    """The docstring of the file."""
    decisions = [f"    {one_line(f'{address}: {plain(value)}')}" for address, value in architecture.decisions.items()]
    return f"""{usage(architecture)[0]}: {one_line(title) + ", " if title else ""}architecture {architecture.digest}.

Written by aotsearch from the source of its parts. It needs PyTorch alone, and with the same weights it gives the same numbers as the
model it was written from, to the last bit: `model = {made}`. It has {parameters:,} parameters.
""" + "\n".join(
        [
            *(["", "Decisions:", *decisions] if decisions else []),
            "",
            f"Shape letters: B batch, L tokens, D = {architecture.width} width, H heads, P width of one head, M keys, F inner width.",
        ]
    )


# ---- lines that repeat


def mark(name: str) -> str:
    """A name with a number at its end, such as `attention_3`, as something that a loop may count; `#_3` is the number alone."""
    word, _, number = name.rpartition("_")
    return f"\x00{word}\x01{number}\x02"


def looped(items: Sequence[str]) -> Iterator[str]:
    """Lines with marks, as loops where numbers advance evenly: at each place those that reach farthest."""
    shapes, numbers = [MARK.sub("\x00\\1", item) for item in items], [[int(n) for _, n in MARK.findall(item)] for item in items]

    def turns(start: int, period: int) -> int:
        end = start + period
        while end < len(shapes) and shapes[end] == shapes[end - period]:
            before = numbers[end - 2 * period] if end >= start + 2 * period else []
            if any(z - y != y - x for x, y, z in zip(before, numbers[end - period], numbers[end], strict=False)):
                break
            end += 1
        return (end - start) // period

    start = 0
    while start < len(items):
        ways = [(turns(start, period) * period, -period) for period in range(1, (len(items) - start) // 2 + 1) if turns(start, period) > 1]
        reach, period = max(ways, default=(1, -1))
        block, again = range(start, start - period), reach > -period
        moves = [[(a, b - a) for a, b in zip(numbers[i], numbers[i - period * again], strict=True)] for i in block]
        first = min((base // step for line in moves for base, step in line if step > 0 and base % step == 0), default=0)
        if again:
            variable = "i" if any(step for line in moves for _, step in line) else "_"
            yield f"for {variable} in range({f'{first}, ' if first else ''}{first - reach // period}):"
        for i, move in zip(block, moves, strict=True):
            yield "    " * again + _filled(items[i], move, first)
        start += reach


def _filled(line: str, moves: Sequence[tuple[int, int]], first: int) -> str:
    """A line with its numbers in terms of the loop's variable."""
    left = iter(moves)

    def fill(found: re.Match[str]) -> str:
        base, step = next(left)
        rest = base - step * first
        number = (
            ("i" if step == 1 else f"{step} * i") + (f" + {rest}" if rest > 0 else f" - {-rest}" if rest else "") if step else str(base)
        )
        return number if found[1] == "#" else f'f"{found[1]}_{{{number}}}"' if step else f'"{found[1]}_{number}"'

    return MARK.sub(fill, line)
