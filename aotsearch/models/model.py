"""Architecture -> torch.nn.Module; the only file that turns words into modules.

Parameters are named by what they belong to and their number of occurrence (`attention_0.operation.projections.query.weight`), a
function of the architecture alone. Initial values are drawn by that name and the seed (`initial`): a parameter that two architectures
share starts at the same value in both, whatever else they hold.

Shape letters: B batch, L tokens, D width, V vocabulary or classes or outputs.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.errors import AotsearchError
from aotsearch.grammar import library
from aotsearch.grammar.architecture import NONE, Architecture, Part, Sublayer, settings
from aotsearch.grammar.laws import TRAITS, Around
from aotsearch.models import initial
from aotsearch.models.initial import Start
from aotsearch.models.parts.coefficient import LearnedCoefficient
from aotsearch.models.parts.context import ForwardContext, LayerContext, Positions
from aotsearch.models.parts.dropout import DropPath


class Replace(nn.Module):
    """The join `none`: no residual connection, `x <- y`."""

    def forward(self, x_BLD: torch.Tensor, y_BLD: torch.Tensor) -> torch.Tensor:
        return y_BLD


class ResidualStep(nn.Module):
    """One sublayer: norm, operation, join, in the order that its place says.

    pre: x <- join(x, f(norm(z)));  post: x <- norm(join(x, f(z)));  sandwich: x <- join(x, after(f(norm(z))))

    z is the stream x, or what the sublayer before it read, where they are parallel. What training drops, it drops before the join.
    """

    def __init__(self, site: LayerContext, sublayer: Sublayer):
        super().__init__()
        word = library.find("sublayer", sublayer.operation.word)
        self.mixes = word.slot == "mixer"
        self.operation = module_of(word.slot, sublayer.operation, site)
        self.norm = _optional("norm", sublayer.norm, site)
        self.after = _optional("norm", sublayer.norm, site) if sublayer.place == "sandwich" else None
        self.join = join_of(sublayer.join, site)
        self.place = sublayer.place

    def forward(self, x_BLD: torch.Tensor, flow: ForwardContext, z_BLD: torch.Tensor, drop: nn.Module | None = None) -> torch.Tensor:
        if self.place != "post":
            z_BLD = self.norm(z_BLD)
        y_BLD = self.operation(z_BLD, flow) if self.mixes else self.operation(z_BLD)
        if self.after is not None:
            y_BLD = self.after(y_BLD)
        if drop is not None:
            y_BLD = drop(y_BLD)
        x_BLD = self.join(x_BLD, y_BLD)
        return self.norm(x_BLD) if self.place == "post" else x_BLD


class Model(nn.Module):
    """Tokens (B, L) -> logits (B, L, V), causal, where the task has a vocabulary; vectors (B, L, inputs) -> (B, L, outputs), causal, where
    it has inputs; images (B, C, H, W) -> logits (B, classes) where it has an image. Where it has subspaces the tokens are a set, and
    nothing is causal."""

    def __init__(self, architecture: Architecture):
        super().__init__()
        self.architecture = architecture
        sizes = dict(architecture.sizes)
        self.embedding, self.pooling, site = _ends(architecture, sizes)
        self.positions = Positions() if architecture.positions.absent else module_of("positions", architecture.positions, site)
        site = dataclasses.replace(site, rotates=self.positions.rotates, biases=self.positions.biases)
        self._as_told(site)
        self.site = site
        self.order: list[str] = []
        self.parallel = [s.parallel for s in architecture.sublayers]
        self.steps = nn.ModuleDict()
        seen: collections.Counter[str] = collections.Counter()
        for sublayer in architecture.sublayers:
            if sublayer.same_as is not None:
                self.order.append(self.order[sublayer.same_as])
                continue
            word = sublayer.operation.word
            step = ResidualStep(dataclasses.replace(site, layer=seen[word]), sublayer)
            if sublayer.parallel and sublayer.place != "post":
                self._share_norm(step, sublayer, architecture)
            name = f"{word}_{seen[word]}"
            seen[word] += 1
            self.steps[name] = step
            self.order.append(name)
        _share_coefficients(self.steps)
        self.dropout = nn.Dropout(architecture.dropout) if architecture.dropout > 0 else None  # of the embedded tokens
        self.drops = _drops(architecture, self.order)
        self.final_norm = _optional("norm", architecture.final_norm, site)
        self.head: nn.Linear | None = None
        self.tied = architecture.head == "tied"
        if architecture.head == "free":
            outputs = next(sizes[name] for name in ("vocabulary", "classes", "outputs") if name in sizes)
            self.head = nn.Linear(architecture.width, outputs, bias="vocabulary" not in sizes)

    def _as_told(self, site: LayerContext) -> None:
        """What positions do is what the laws have read from the text of their class.

        Raises:
            WordError: an installed package's class says otherwise there.
        """
        told = Around.of(self.architecture).given
        for name in TRAITS:
            if told[name] == getattr(site, name):
                continue
            word = library.find("positions", self.architecture.positions.word)
            law = f"`{name} = {getattr(site, name)}` stands in its own body, where laws read it, not in another class or as anything else"
            assert word.package, law
            raise word.blamed(TypeError(law), "cannot be used")

    def _share_norm(self, step: ResidualStep, sublayer: Sublayer, architecture: Architecture) -> None:
        """Sublayers that read the same input norm it once, where their norms are alike and both act on it."""
        before = architecture.sublayers[len(self.order) - 1]
        if before.norm == sublayer.norm and before.place != "post":
            step.norm = self.steps[self.order[-1]].get_submodule("norm")

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        x_BLD: torch.Tensor = self.embedding(inputs)
        if self.pooling is not None:
            x_BLD = self.pooling.open(x_BLD)
        x_BLD = self.positions.embed(x_BLD)
        if self.dropout is not None:
            x_BLD = self.dropout(x_BLD)
        flow = ForwardContext(self.positions)
        z_BLD = x_BLD
        drops = self.drops.values() if len(self.drops) else [None] * len(self.order)
        for name, beside, drop in zip(self.order, self.parallel, drops, strict=True):
            z_BLD = z_BLD if beside else x_BLD
            x_BLD = self.steps[name](x_BLD, flow, z_BLD, drop=drop)
        if self.pooling is not None:
            x_BLD = self.pooling(x_BLD)
        x_BLD = self.final_norm(x_BLD)
        if self.head is not None:
            x_BLD = self.head(x_BLD)
        elif self.tied:
            x_BLD = F.linear(x_BLD, self.embedding.weight)
        return x_BLD

    def starts(self) -> Iterator[tuple[str, nn.Parameter, Start]]:
        """The parameters that do not keep their part's own start, with their names and how they are drawn."""
        mixers = sum(bool(self.steps[name].mixes) for name in self.order)
        layers = max(mixers, len(self.order) - mixers, 1)
        return initial.starts(dict(self.named_parameters()), self.architecture.initialisation, layers, self._rests)

    def _rests(self, name: str) -> bool:
        """Whether a parameter belongs to a sublayer that may put out 0 at the start."""
        found = re.match(r"steps\.(\w+)\.", name)
        if found is None:
            return False
        sublayer = self.architecture.sublayers[self.order.index(found[1])]
        return may_rest(join_of(sublayer.join, self.site), self.site.width)  # made anew: the model may hold no numbers yet


def build(architecture: Architecture, seed: int = 0) -> Model:
    """The module of an architecture, its initial values drawn from `seed` by parameter name."""
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation draws in passing; ours replaces it
        model = Model(architecture)
    initial.initialise(model.starts(), seed)
    return model


def may_rest(join: nn.Module, width: int) -> bool:
    """Whether a sublayer with this join may put out 0 at the start: the join keeps the stream, and a gradient passes to the output."""
    nothing, something = torch.zeros(1, 1, width), torch.ones(1, 1, width)
    return bool(join(something, nothing).any() and join(nothing, something).any())


def _ends(architecture: Architecture, sizes: dict[str, int]) -> tuple[Any, Any, LayerContext]:
    """The embedding, the pooling if there is one, and the site of what stands between them."""
    site = LayerContext(architecture.width, sizes.get("context", 0), causal=not {"image", "subspaces"} & sizes.keys(), sizes=sizes)
    embedding = module_of("embedding", architecture.embedding, site)
    if "image" in sizes:
        site = dataclasses.replace(site, tokens=embedding.tokens(sizes["image"]))
    if architecture.pooling.absent:
        return embedding, None, site
    pooling = module_of("pooling", architecture.pooling, site)
    return embedding, pooling, dataclasses.replace(site, tokens=site.tokens + pooling.added)


@contextlib.contextmanager
def blaming(model: nn.Module) -> Iterator[None]:
    """While a model computes: an error in one line, where the model has words of installed packages; else as it is."""
    try:
        yield
    except AotsearchError:
        raise
    except Exception as e:
        classes = {(type(m).__module__, type(m).__qualname__) for m in model.modules()}
        words = [w for w in library.library().values() if w.package and (w.module, w.qualname) in classes]
        if not words:
            raise
        raise words[0].blamed(e, "a model with it cannot be computed") from e


def module_of(slot: str, part: Part, site: LayerContext) -> Any:
    """The module of a part where it stands; parts among its options are built first."""
    word, options = library.find(slot, part.word), settings(slot, part)
    inner = dataclasses.replace(site, heads=options.get("heads", 1))
    for name, value in options.items():
        if isinstance(value, Part):
            options[name] = module_of(word.options[name].slot, value, inner)
    return word.make(site, **options)


def join_of(part: Part, site: LayerContext) -> nn.Module:
    """The module of a join, which may be absent."""
    found: nn.Module = Replace() if part.absent else module_of("join", part, site)
    return found


def _optional(slot: str, part: Part, site: LayerContext) -> nn.Module:
    module: nn.Module = nn.Identity() if part == NONE else module_of(slot, part, site)
    return module


def _drops(architecture: Architecture, order: Sequence[str]) -> nn.ModuleDict:
    """What drops the output of every sublayer, in their order, named by the step: where weights come again, by how often before. Empty
    where nothing is dropped."""
    found = nn.ModuleDict()
    p, seen = architecture.dropout, collections.Counter[str]()
    if p == 0 and architecture.drop_path == 0:
        return found
    for name, path in zip(order, architecture.drop_paths, strict=True):
        place = f"{name}_{seen[name]}" if seen[name] else name
        found[place] = DropPath(p, path) if architecture.drop_path > 0 else nn.Dropout(p)
        seen[name] += 1
    return found


def _share_coefficients(steps: nn.ModuleDict) -> None:
    """Coefficients that are learned per model are one parameter, held by the first of them."""
    first: dict[tuple[str, str], LearnedCoefficient] = {}
    for step, module in steps.items():
        for name, part in module.named_modules():
            if isinstance(part, LearnedCoefficient) and part.per == "model":
                owner = first.setdefault((step.rpartition("_")[0], name), part)
                part.raw = owner.raw
