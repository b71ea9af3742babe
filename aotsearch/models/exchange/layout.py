"""One family of models as tables, and what every family does by them: load, export, config."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from aotsearch.errors import InputError
from aotsearch.grammar.architecture import ADD, Architecture, Part, settings
from aotsearch.grammar.words import SUBLAYERS
from aotsearch.models.model import Model

Weights = dict[str, torch.Tensor]
# Our activations by their names. A standard deviation that initial values are drawn with is nothing of a trained model.
ACTIVATIONS = {"gelu": "gelu", "gelu-tanh": "gelu_new", "relu": "relu", "relu2": "relu2", "silu": "silu"}
DRAWN: Mapping[str, tuple[Any, ...]] = {"std": ()}


@dataclass(frozen=True)
class Theirs:
    """Where a parameter of ours lies in another layout.

    Attributes:
        name: Its name there; `{i}` is the number of the layer, as in ours.
        transposed: Whether a matrix is stored with its inputs first.
        third: Which third of the stored outputs it is, where query, key and value are one matrix.
    """

    name: str
    transposed: bool = False
    third: int | None = None


@dataclass(frozen=True)
class Kind:
    """What a family has in one place of a model.

    Attributes:
        word: Our word for it.
        options: Its options, where they are not at their defaults.
        said: The options that the family's config says instead: name -> the values that it can say, () for any.
    """

    word: str
    options: Mapping[str, Any] = field(default_factory=dict)
    said: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """The names of one family of models, and what such a model can be.

    Attributes:
        title: The family.
        prefix: Of most names; weights without it are taken too.
        parameters: Our name -> theirs.
        kinds: What it has in each slot.
        names: Name in the family's config -> the fact of ours that it says: a size, an option, or one that `config` adds.
        constants: What the config says of every model.
        tied: Their name of the head, where it may be the embedding.
        ignored: Names, as a pattern, that hold no parameters.
        biased: Whether the class has every bias of `parameters`: those that a model lacks are zeros there.
    """

    title: str
    prefix: str
    parameters: Mapping[str, Theirs]
    kinds: Mapping[str, Kind]
    names: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    tied: str = ""
    ignored: str = r"(?!)"
    biased: bool = False

    @torch.no_grad()
    def load(self, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        """Copy the family's weights, with its head or without, into a model of its kind.

        Raises:
            InputError: a name or a shape does not fit; the model is then left as it was.
        """
        if not any(name.startswith(self.prefix) for name in weights):  # the model without its head names them from itself
            weights = {name if name == self.tied else self.prefix + name: w for name, w in weights.items()}
        places, found = self._places(model.state_dict()), {}
        for ours, parameter in model.state_dict().items():
            place = places[ours]
            name = place.name
            if name == self.tied and name not in weights:  # theirs is tied, ours free
                name = places["embedding.weight"].name
            if name not in weights:
                raise InputError(f"the {self.title} weights have no {name}, which is {ours} of the model")
            given = weights[name]
            part = _part(given, place)
            if part.shape != parameter.shape:
                raise InputError(f"{name} has shape {tuple(given.shape)}, where the model's {ours} has {tuple(parameter.shape)}")
            found[ours] = part
        known = {place.name for place in places.values()}
        for name in weights:
            if name in known or re.fullmatch(self.ignored, name):
                continue
            if name != self.tied:
                raise InputError(f"the {self.title} weights have {name}, for which the model has no place")
            if not torch.equal(weights[name], weights[places["embedding.weight"].name]):
                raise InputError(f"{name} differs from the embedding, but the model's head is tied to it; build it with head: free")
        model.load_state_dict(found)

    def export(self, model: Model) -> Weights:
        """A model's weights as the state of the family's class.

        Raises:
            InputError: the model is none of the family.
        """
        self._said(model)
        state, made = model.state_dict(), {}
        if self.biased:
            state = {**self._no_biases(state), **state}
        places = self._places(state)
        fused: dict[str, list[torch.Tensor]] = {}
        for ours, place in places.items():
            tensor = state[ours].detach().clone()
            if place.third is not None:
                fused.setdefault(place.name, []).append(tensor)
            else:
                made[place.name] = tensor.t().contiguous() if place.transposed and tensor.ndim == 2 else tensor
        for name, thirds in fused.items():
            whole = torch.cat(thirds)  # in the order of the projections: query, key, value
            made[name] = whole.t().contiguous() if whole.ndim == 2 else whole
        if self.tied and self.tied not in made:
            made[self.tied] = made[places["embedding.weight"].name].clone()
        return made

    def config(self, model: Model) -> dict[str, Any]:
        """What the family's config is to be told for the exported weights to compute what the model does. What training drops and the
        config cannot say is left out: drop path, and of Llama the dropout of the stream.

        Raises:
            InputError: the model is none of the family.
        """
        facts = self._said(model) | dict(model.architecture.sizes) | {"width": model.architecture.width, "tied": model.tied}
        facts |= {"model.dropout": model.architecture.dropout}
        facts |= {"layers": len(model.order) // 2, "inner": len(model.get_parameter(f"steps.{model.order[1]}.operation.up.weight"))}
        facts |= {"activation": ACTIVATIONS[facts["activation"]]}
        if facts.get("kv_heads") == "all":
            facts["kv_heads"] = facts["heads"]
        return {name: facts[fact] for name, fact in self.names.items()} | dict(self.constants)

    def _said(self, model: Model) -> dict[str, Any]:
        """The options of a model that the family's config says, each one value in all layers: by name, and by `slot.name`.

        Raises:
            InputError: the model is none of the family; the first option that differs is named.
        """
        said: dict[str, Any] = {}
        for place, slot, part in self._parts(model.architecture):
            kind = self.kinds[slot]
            if part.word != kind.word:
                raise InputError(f"{self.title} has {slot}: {kind.word}, and cannot be the model, whose {place} is {part}")
            options = settings(slot, part)
            if options.get("kv_heads") == options.get("heads"):
                options |= {"kv_heads": "all"} if "kv_heads" in options else {}
            usual = settings(slot, Part(part.word)) | dict(kind.options)
            for name, value in options.items():
                where = f"{self.title} cannot say {name}: {value} of the {part.word} in {place}"
                if name not in kind.said:
                    if value != usual[name]:
                        raise InputError(f"{where}; it has {name}: {usual[name]}")
                elif kind.said[name] and value not in kind.said[name]:
                    raise InputError(f"{where}; its config says one of {', '.join(map(str, kind.said[name]))}")
                elif said.setdefault(f"{slot}.{name}", value) != value and name not in DRAWN:
                    raise InputError(f"{where}; it has one {name} for all, and {said[f'{slot}.{name}']} stands before")
        width = model.architecture.width // said["mixer.heads"]
        if "positions.base" in said and width % 2:
            law = f"{self.title} cannot say width: {model.architecture.width} with heads: {said['mixer.heads']}"
            raise InputError(f"{law}; it turns pairs of entries, and a head has {width}")
        return said | {key.partition(".")[2]: value for key, value in said.items()}

    def _parts(self, a: Architecture) -> Iterator[tuple[str, str, Part]]:
        """Every part of a model with its place and slot, in order: what a family of alternating mixers and channel operations has."""
        yield "embedding", "embedding", a.embedding
        yield "positions", "positions", a.positions
        yield "pooling", "pooling", a.pooling
        if len(a.sublayers) < 2 or len(a.sublayers) % 2:
            raise InputError(f"{self.title} is mixers and channel operations in turn, and the model has {len(a.sublayers)} sublayers")
        for i, s in enumerate(a.sublayers):
            place = f"sublayer {i}"
            yield place, SUBLAYERS[i % 2], s.operation
            yield f"the norm of {place}", "norm", s.norm
            others = {"place": (s.place, "pre"), "join": (s.join, ADD)}
            others |= {"tied": (s.same_as is not None, False), "parallel": (s.parallel, False)}
            for name, (ours, theirs) in others.items():
                if ours != theirs:
                    raise InputError(f"{self.title} cannot say {name}: {ours} of {place}; it has {name}: {theirs}")
        yield "final_norm", "norm", a.final_norm
        if a.head == "none":
            raise InputError(f"{self.title} cannot say head: none; it has a head")

    def _no_biases(self, state: Mapping[str, torch.Tensor]) -> Weights:
        """Zeros for the biases that the class has and a model lacks."""
        weights = {f"{name.removesuffix('.weight')}.bias": w for name, w in state.items() if name.endswith(".weight")}
        return {name: w.new_zeros(len(w)) for name, w in weights.items() if name not in state and _layer_free(name) in self.parameters}

    def _places(self, names: Iterable[str]) -> dict[str, Theirs]:
        """Where each parameter of a model lies."""
        found = {}
        for name in names:
            number = re.search(r"_(\d+)\.", name)
            place = self.parameters.get(_layer_free(name))
            if place is None:
                raise InputError(f"the model has {name}, for which {self.title} has no place")
            found[name] = Theirs(place.name.format(i=number.group(1) if number else ""), place.transposed, place.third)
        return found


def _layer_free(name: str) -> str:
    return re.sub(r"_\d+\.", "_{i}.", name, count=1)


def _part(given: torch.Tensor, place: Theirs) -> torch.Tensor:
    """What of a stored tensor is ours, its outputs first."""
    matrix = given.t() if place.transposed and given.ndim == 2 else given
    return matrix if place.third is None else matrix.tensor_split(3)[place.third]
