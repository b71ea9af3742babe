"""The words of an ejected file: names of classes, docstrings told for the options they have, and the parts that every file has."""

from __future__ import annotations

import collections
import importlib.metadata
import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from aotsearch.eject.dataflow import loads
from aotsearch.eject.form import Form, stateful, word_of
from aotsearch.eject.program import Program
from aotsearch.eject.source import WIDTH, docstring, wrapped
from aotsearch.errors import one_line
from aotsearch.grammar import library
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.glossary import plain
from aotsearch.models.initial import UNSCALED
from aotsearch.models.model import Step
from aotsearch.models.parts.site import Flow

NOUNS = {
    "positions": "Positions",
    "coefficient": "Coefficient",
    "join": "Join",
    "pooling": "Pooling",
    "score": "Score",
    "embedding": "Embedding",
}
SECTIONS = ("Source:", "Args:", "Requires:", "Attributes:", "Raises:", "Returns:")
PLACES = {"pre": ("f(norm({}))", "x <- {}"), "post": ("f({})", "x <- norm({})"), "sandwich": ("norm(f(norm({})))", "x <- {}")}


# ---- names


def names(forms: Sequence[Form], taken: Iterable[str]) -> dict[int, str]:
    """A name for each class: that of its class, with the slot where it alone says little, and with what tells it from others like it."""
    groups: dict[str, list[Form]] = collections.defaultdict(list)
    for form in forms:
        groups[_base(form.instance)].append(form)
    found: dict[int, str] = {}
    used = {"Model", "Flow", *taken}
    for base, group in groups.items():
        features = [_features(form) for form in group]
        common = set.intersection(*map(set, features))
        for form, own in zip(group, features, strict=True):
            special = [f for f in own if f not in common]
            name = base + "".join(special) if len(special) <= 2 else base
            number = 2
            while name in used:
                name = f"{base}{number}"
                number += 1
            used.add(name)
            found[id(form)] = name
    return found


def _base(module: nn.Module) -> str:
    if isinstance(module, Step):
        return "Sublayer"
    word, name = word_of(module), type(module).__name__
    noun = NOUNS.get(word.slot, "") if word is not None else ""
    return name if name.endswith(noun) else name + noun


def _features(form: Form) -> list[str]:
    """What may tell a class from others of its name, as parts of a name."""
    module = form.instance
    if isinstance(module, Step):
        join, norm = word_of(module.join), word_of(module.norm)
        place = "" if module.place == "pre" else module.place.capitalize()
        joined = "Replacing" if join is None else "" if join.name == "add" else f"With{_camel(join.name)}"
        carries = "WithFlow" if "flow" in loads(*form.methods["forward"].node.body) else ""
        return [f for f in (place, joined, "" if norm is not None else "Unnormed", carries) if f]
    return [_camel(name) + _camel(shown) for name, shown in _options(module).items()] if word_of(module) is not None else []


def _camel(value: Any) -> str:
    if isinstance(value, bool):
        return "" if value else "Off"
    if isinstance(value, int | float):
        text = f"{abs(value):g}".replace(".", "p")
        return ("Minus" if value < 0 else "") + re.sub(r"\W", "", text)
    return "".join(part.capitalize() for part in re.split(r"\W+|_", str(value).partition(" ")[0]))


_given: dict[int, dict[str, Any]] = {}  # the options of the modules of the file that is being written


def remember(program: Program) -> None:
    """Note the options with which the modules of a program were made."""
    _given.clear()
    for key, calls in program.calls.items():
        _given[key] = {name: value for given in calls.values() for name, value in given.items()}


def _options(module: nn.Module) -> dict[str, Any]:
    """The options of a module that are not at their default, and its numbers of things; parts as text."""
    word = word_of(module)
    assert word is not None
    found = {}
    for name, option in word.options.items():
        value = _given.get(id(module), {}).get(name, option.default)
        if isinstance(value, nn.Module):
            inner = word_of(value)
            text = inner.name if inner is not None else type(value).__name__
            options = ", ".join(f"{k}: {_shown(v)}" for k, v in _options(value).items()) if inner is not None else ""
            if text != option.default or options:
                found[name] = f"{text} {{{options}}}" if options else text
        elif (
            option.required
            or value != option.default
            or (option.law.startswith("a whole number") and value not in (0, None) and isinstance(value, int))
        ):
            found[name] = value
    return found


def _shown(value: Any) -> str:
    return plain(value)


# ---- docstrings


def description(module: nn.Module, depth: int = 1) -> list[str]:
    """The docstring of a part's class, told for the options it has."""
    word = word_of(module)
    paragraphs = (inspect.getdoc(type(module)) or type(module).__name__).split("\n\n")
    told = [p for p in paragraphs if not p.startswith(SECTIONS)]
    if word is None:
        return [line for i, p in enumerate(told) for line in ([""] * (i > 0)) + p.split("\n")]
    lines = _summary(" ".join(told[0].split()), depth)
    if len(told) > 1:
        lines += ["", *(part for line in told[1].split("\n") for part in _broken(specialised(line, module), depth))]
    sentences = [s for s in _sentences(told[2]) if "`" not in s] if len(told) > 2 else []
    sentences += [s for p in told[2:] for s in _applying(p, module)]
    here = ", ".join(f"{name} = {_shown(value)}" for name, value in _options(module).items())
    if sentences:
        lines += ["", *_wrapped(specialised(" ".join(sentences), module), depth)]
    if here:
        lines += ["", *_wrapped(f"Here {here}.", depth)]
    active = _active(module)
    sources = [re.sub(r"^([\w -]+): (?=[A-Z])", "", s) for s in word.source.split("; ") if _applies(s, active)]
    differs = [s for s in _sentences(word.differs) if all(name in active for name in re.findall(r"`(\w[\w-]*)`", s)[:1])]
    for name, inner in _melted(module):
        lines += ["", *_wrapped(f"Its {name}, {inner.name}: {inner.formula}", depth)]
        sources += inner.source.split("; ")
    if sources:
        lines += ["", *_wrapped(f"Source: {'; '.join(sources).rstrip('.')}.", depth)]
    if differs:
        lines += _wrapped(f"Differs: {' '.join(differs)}", depth)
    return lines


def _melted(module: nn.Module) -> list[tuple[str, library.Word]]:
    """The options of a part that are parts without a state, of which no class is left."""
    word = word_of(module)
    assert word is not None
    values = {name: _given.get(id(module), {}).get(name) for name in word.options if name in _options(module)}
    inner = {name: word_of(value) for name, value in values.items() if isinstance(value, nn.Module) and not stateful(value)}
    return [(name, found) for name, found in inner.items() if found is not None]


def _summary(text: str, depth: int) -> list[str]:
    """The first lines of a docstring, with room for its quotes."""
    first, *rest = _wrapped(f'"""{text}', depth)
    return [first[3:], *rest]


def _wrapped(text: str, depth: int) -> list[str]:
    return textwrap.wrap(text, WIDTH - 4 * depth, break_long_words=False, break_on_hyphens=False)


def _broken(line: str, depth: int) -> list[str]:
    """A line of formulas, the last of them on lines of their own where it is too long."""
    parts = re.split(r"(?<=[,;]) {2,}", line)
    lines = [parts[0]]
    for part in parts[1:]:
        gap = re.search(rf"([,;])( {{2,}}){re.escape(part)}", line)
        joined = lines[-1] + (gap[2] if gap else "   ") + part
        if len(joined) <= WIDTH - 4 * depth:
            lines[-1] = joined
        else:
            lines.append(part)
    return lines


def _sentences(paragraph: str) -> list[str]:
    return re.split(r"(?<=\.)(?<!\bal\.)(?<!e\.g\.)(?<!i\.e\.)(?<!eq\.)\s+", " ".join(paragraph.split())) if paragraph.strip() else []


def _applying(paragraph: str, module: nn.Module) -> list[str]:
    """The sentences of a paragraph that begin with an option at the value it has: With `qkv: tied` ..."""
    found = []
    options = {name: _shown(value) for name, value in _options(module).items()}
    for sentence in _sentences(paragraph):
        match = re.match(r"With `(\w+): ([^`]+)`,? (.)(.*)", sentence)
        if match and options.get(match[1]) == match[2]:
            found.append(match[3].upper() + match[4])
    return found


def _active(module: nn.Module) -> set[str]:
    """The names of options that are not at their default, and the words that options have for values."""
    found: set[str] = set()
    word = word_of(module)
    assert word is not None
    for name, option in word.options.items():
        value = _given.get(id(module), {}).get(name, option.default)
        if isinstance(value, nn.Module):
            inner = word_of(value)
            value = inner.name if inner is not None else ""
        if value != option.default:
            found.add(name)
        if isinstance(value, str):
            found.add(value)
    return {f.lower() for f in found}


def _applies(source: str, active: set[str]) -> bool:
    key = re.match(r"([\w -]+): (?=[A-Z])", source)
    return key is None or key[1].lower() in active


def specialised(text: str, module: nn.Module) -> str:
    """A formula with the coefficients that are fixed: with `identity` -1, `M = b A + a I` is `M = b A - I`.

    The symbol of an option is what its class's docstring says: "b is `map`, a `identity`".
    """
    for symbol, option in re.findall(r"\b([a-z])(?: is)? `(\w+)`", inspect.getdoc(type(module)) or ""):
        word = word_of(module)
        declared = word.options.get(option) if word is not None else None
        value = _given.get(id(module), {}).get(option, declared.default if declared is not None else None)
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = re.sub(rf"(?P<sign>[+-] )?\b{symbol} (?P<term>[A-Z]\w*(?:\^\d)?)", lambda m, v=value: _term(m, v), text)  # type: ignore[misc]
    text = re.sub(r"(?<=[=(])( ?)\+ ", r"\1", text)
    return re.sub(r"(?<=\S) +(?=[,)])", "", re.sub(r"(?<=\S) +(?= [+-] )", "", text))


def _term(found: re.Match[str], value: float) -> str:
    if value == 0:
        return ""
    number = "" if abs(value) == 1 else f"{abs(value):g} "
    positive = (value > 0) == (found["sign"] != "- ")
    if found["sign"] is None:
        return f"{'' if positive else '-'}{number}{found['term']}"
    return f"{'+' if positive else '-'} {number}{found['term']}"


def sublayer(step: Step, parallel: bool) -> list[str]:
    """The docstring of a sublayer's class."""
    inner, outer = PLACES[step.place]
    if isinstance(step.norm, nn.Identity):
        inner, outer = "f({})", "x <- {}"
    y, join = inner.format("z" if parallel else "x"), word_of(step.join)
    if join is None:
        formula = outer.format(y)
    elif join.name == "add":
        formula = outer.format(f"x + {y}")
    else:
        formula = f"{outer.format(join.formula.removeprefix('x <- '))},   y = {y}"
    return [f"One sublayer: {formula}.", *(["", "z is x, or what the sublayer before it read."] if parallel else [])]


def flow(carried: Sequence[str]) -> list[str]:
    """The docstring of what a forward pass carries."""
    paragraphs = (inspect.getdoc(Flow) or "").split("\n")
    kept = [line for line in paragraphs[1:] if re.match(r"\s+(\w+): ", line) and line.strip().partition(":")[0] in carried]
    return [paragraphs[0], *([""] if kept else []), *(line.strip() for line in kept)]


@dataclass(frozen=True)
class Usage:
    """What a model takes and gives, in words and as code."""

    kind: str
    inputs: str  # the name of what it takes
    taken: str
    given: str
    sample: str  # an expression that makes one
    causal: bool = True


def usage(architecture: Architecture) -> Usage:
    """How a model is used, by what its task gives."""
    sizes = dict(architecture.sizes)
    if "image" in sizes:
        shape = f"{sizes['channels']}, {sizes['image']}, {sizes['image']}"
        return Usage("An image classifier", "images", f"(B, {shape})", f"logits (B, {sizes['classes']})", f"torch.randn(1, {shape})", False)
    limit = f"L <= {sizes['context']}"
    if "inputs" in sizes:
        sample = f"torch.randn(1, {sizes['context']}, {sizes['inputs']})"
        taken, given = f"(B, L, {sizes['inputs']}), {limit}", f"(B, L, {sizes['outputs']})"
        if "subspaces" in sizes:
            return Usage("A model of sets of vectors", "vectors", taken, given, sample, False)
        return Usage("A causal model of sequences of vectors", "vectors", taken, given, sample)
    sample = f"torch.randint({sizes['vocabulary']}, (1, {sizes['context']}))"
    given = f"logits (B, L, {sizes['vocabulary']})"
    return Usage("A causal language model", "tokens", f"(B, L) below {sizes['vocabulary']}, {limit}", given, sample)


def model(architecture: Architecture) -> list[str]:
    """The docstring of the model's class."""
    u = usage(architecture)
    return [f"{u.inputs.capitalize()} {u.taken} -> {u.given}{'; causal' if u.causal else ''}."]


def header(architecture: Architecture, title: str, weights: str, parameters: int) -> list[str]:
    """The docstring of the file."""
    sizes = dict(architecture.sizes)
    u = usage(architecture)
    lines = _summary(f"{u.kind}: {one_line(title) + ', ' if title else ''}architecture {architecture.digest}.", 0)
    version = importlib.metadata.version("aotsearch")
    said = (
        f"Written by aotsearch {version} from the source of its parts. It needs PyTorch alone, has {parameters:,} parameters, "
        "and with the same weights it gives the same numbers as the model it was written from, to the last bit."
    )
    lines += ["", *_wrapped(said, 0), "", f"    model = {f'load({json.dumps(weights)})' if weights else 'Model()'}"]
    result = u.given.partition(" (")[0] if u.given.startswith("logits") else "outputs"
    lines += [f"    {result} = model({u.inputs})  # {u.taken} -> {u.given.removeprefix('logits ')}"]
    if architecture.decisions:
        lines += ["", "Decisions:", *(f"    {one_line(f'{address}: {plain(value)}')}" for address, value in architecture.decisions.items())]
    letters = f"Shape letters: B batch, L tokens, D = {architecture.width} width, H heads, P width of one head, M keys, F inner width"
    ends = [f"{letter} = {sizes[name]} {name}" for letter, name in (("V", "vocabulary"), ("C", "channels")) if name in sizes]
    return [*lines, "", *_wrapped(", ".join([letters, *ends]) + ".", 0)]


# ---- functions that every file has


def initialise(
    scheme: str, layers: int, own: Sequence[str], biases: bool, left: Sequence[str], restless: Sequence[str], architecture: Architecture
) -> str:
    """The function that draws the initial values of matrices.

    Args:
        scheme: As the model's `initialisation`.
        layers: The N of the scheme.
        own: Ends of the names of matrices that it leaves as they are.
        biases: Whether some matrix has a bias.
        left: Beginnings of the names of what stays as torch's own modules start it.
        restless: Beginnings of the names in sublayers that cannot start at 0.
        architecture: The model.
    """
    zero = "; their biases 0" if biases else ""
    spared = " Those that their class draws itself stay." if own else ""
    spared += " What reads the input and the head start as in torch.nn." if "head." in left else ""
    spared += " What maps the input starts as in torch.nn." if left and "head." not in left else ""
    after: list[str] = []
    if scheme == "torch":
        told = f"Draw the initial values of matrices as torch.nn.Linear does: U(-1, 1) / sqrt(inputs).{spared}"
        source = "Source: torch.nn.Linear."
        body = ["bound = 1 / math.sqrt(parameter[0].numel())", "parameter.uniform_(-bound, bound)"]
        if architecture.embedding.word == "token":
            after = ["    model.embedding.weight.normal_()"]
    elif scheme in UNSCALED:
        told = f"Draw the initial values of matrices: N(0, 0.02^2){zero}.{spared}"
        source = "Source: timm's vision transformer, XCiT, Llama of Hugging Face."
        body = ["parameter.normal_(0.0, 0.02)"]
    else:
        told = f"Draw the initial values of matrices: N(0, 0.02^2), those that write to the stream over sqrt(2 * {layers}){zero}.{spared}"
        source = "Source: Radford et al. 2019 (GPT-2), as in nanoGPT."
        body = [f'std = 0.02 / math.sqrt(2 * {layers}) if name.endswith("output.weight") else 0.02', "parameter.normal_(0.0, std)"]
    if scheme == "zero-output":
        starts = ", ".join(json.dumps(start) for start in restless)
        others = f" and not name.startswith(({starts},))" if restless else ""
        body += [f'if name.endswith("output.weight"){others}:  # every sublayer starts as the identity', "    parameter.zero_()"]
    elif scheme == "shaped":
        body += ['if name.endswith("query.weight"):  # attention starts uniform', "    parameter.zero_()"]
        source = "Source: Radford et al. 2019 (GPT-2); He and Hofmann 2023, arXiv:2311.01906."
    elif scheme == "simplified":
        body += ['if name.endswith("query.weight"):  # attention starts uniform', "    parameter.zero_()"]
        body += [
            'if name.endswith("value.weight") and parameter.shape == (len(parameter),) * 2:',
            "    parameter.copy_(torch.eye(len(parameter)))",
        ]
        source = "Source: He and Hofmann 2023, arXiv:2311.01906, and its code."
    elif scheme == "identity":
        body.append('if name.startswith("steps.") and parameter.shape == (len(parameter),) * 2:')
        body.append("    parameter.copy_(torch.eye(len(parameter)))  # subspaces are blocks of coordinates")
    if biases and scheme != "torch":
        after = ['        elif name.endswith("bias"):', "            parameter.zero_()"]
    if scheme == "torch-ends" and architecture.embedding.word == "token":
        after += ["    model.embedding.weight.normal_()"]
    named = bool(own) or bool(left) or any("name." in line for line in [*body, *after])  # else by the parameters alone
    ends = ", ".join(f'"{end}"' for end in own)
    lines = ["@torch.no_grad()", "def initialise(model: nn.Module) -> None:", *docstring("\n".join([*_summary(told, 1), "", source]), 1)]
    lines += wrapped(f"    own = ({ends}{',' if len(own) == 1 else ''})") if own else []
    lines.append(f"    for {'name, parameter in model.named_parameters' if named else 'parameter in model.parameters'}():")
    if left:
        starts = f"({', '.join(json.dumps(start) for start in left)})" if len(left) > 1 else json.dumps(left[0])
        lines += [f"        if name.startswith({starts}):", "            continue"]
    lines.append(f"        if parameter.ndim > 1{' and not name.endswith(own)' if own else ''}:")
    return "\n".join([*lines, *(" " * 12 + line for line in body), *after])


def load(weights: str, keys: Sequence[tuple[str, tuple[int, ...]]]) -> str:
    """The function that loads the weights beside the file."""
    lines = ["Keys and shapes of the file:", *(f"    {line}" for line in _keys(keys))]
    body = [f"def load(path: str = {json.dumps(weights)}) -> Model:", '    """The trained model, its weights from a safetensors file.', ""]
    body += [f"    {line}" for line in lines]
    body += [
        '    """',
        "    from safetensors.torch import load_file",
        "",
        "    model = Model()",
        "    model.load_state_dict(load_file(path))",
    ]
    return "\n".join([*body, "    return model.eval()"])


def _keys(keys: Sequence[tuple[str, tuple[int, ...]]]) -> list[str]:
    """Keys, those that differ in the number of the layer as one."""
    found: dict[tuple[str, tuple[int, ...]], list[int]] = {}
    for name, shape in keys:
        number = re.search(r"_(\d+)\.", name)
        pattern = name if number is None else f"{name[: number.start(1)]}{{}}{name[number.end(1) :]}"
        found.setdefault((pattern, shape), []).append(-1 if number is None else int(number[1]))
    lines = []
    for (pattern, shape), numbers in found.items():
        whole = numbers == list(range(numbers[0], numbers[0] + len(numbers))) and len(numbers) > 1
        shown = f"{{{numbers[0]}..{numbers[-1]}}}" if whole else ",".join(map(str, numbers))
        shown = shown if whole or len(numbers) == 1 else f"{{{shown}}}"
        lines.append(f"{pattern.replace('{}', shown)} {' x '.join(map(str, shape)) or 'a number'}")
    return lines


def main(architecture: Architecture, weights: str) -> str:
    """What happens when the file is run."""
    lines = ['if __name__ == "__main__":', f"    model = {'load()' if weights else 'Model()'}"]
    lines += [f"    outputs = model({usage(architecture).sample})"]
    return "\n".join([*lines, '    print(sum(p.numel() for p in model.parameters()), "parameters; outputs", tuple(outputs.shape))'])
