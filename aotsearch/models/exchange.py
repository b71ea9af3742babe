"""Weights to and from Hugging Face's GPT-2, ViT and Llama: the same numbers under other names, in other shapes.

    load_gpt2(model, GPT2LMHeadModel.from_pretrained("gpt2").state_dict())
    GPT2LMHeadModel(GPT2Config(**config_gpt2(model))).load_state_dict(export_gpt2(model))

Nothing is downloaded and `transformers` is not imported. What is given to Hugging Face computes what ours does: a model that its class can
not be is refused before anything is written, and what weights do not tell (heads, activation, eps, the base of rotary positions) is in the
config. What is loaded is checked by names and shapes alone: the architecture is that of the model it is loaded into
(`spaces/presets/gpt2.yaml`), so that GPT-2's weights can start a model that is not quite GPT-2.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from aotsearch.errors import InputError
from aotsearch.grammar import library
from aotsearch.grammar.architecture import ADD, Architecture, Part, settings
from aotsearch.models.model import Model

Weights = dict[str, torch.Tensor]


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
        tied: Their name of the head, where it may be the embedding.
        ignored: Names, as a pattern, that hold no parameters.
    """

    title: str
    prefix: str
    parameters: Mapping[str, Theirs]
    kinds: Mapping[str, Kind]
    tied: str = ""
    ignored: str = r"(?!)"


def _both(ours: str, theirs: str, **place: bool | int) -> dict[str, Theirs]:
    """A weight and its bias."""
    return {f"{ours}.{kind}": Theirs(f"{theirs}.{kind}", **place) for kind in ("weight", "bias")}  # type: ignore[arg-type]


def _norm(ours: str, theirs: str) -> dict[str, Theirs]:
    return {f"{ours}.gain": Theirs(f"{theirs}.weight"), f"{ours}.bias": Theirs(f"{theirs}.bias")}


# Our activations by their names. A standard deviation that initial values are drawn with is nothing of a trained model.
ACTIVATIONS = {"gelu": "gelu", "gelu-tanh": "gelu_new", "relu": "relu", "relu2": "relu2", "silu": "silu"}
DRAWN: Mapping[str, tuple[Any, ...]] = {"std": ()}
TRANSFORMER = {
    "positions": Kind("learned", said=DRAWN),
    "mixer": Kind("attention", {"bias": True}, {"heads": ()}),
    "channel": Kind("mlp", {"bias": True}, {"expand": (), "activation": tuple(ACTIVATIONS)}),
    "norm": Kind("layernorm", said={"eps": ()}),
}

ATTENTION, MLP, GLU = "steps.attention_{i}.operation", "steps.mlp_{i}.operation", "steps.glu_{i}.operation"

GPT2 = Layout(
    title="GPT-2",
    prefix="transformer.",
    parameters={
        "embedding.weight": Theirs("transformer.wte.weight"),
        "positions.table": Theirs("transformer.wpe.weight"),
        **_norm("steps.attention_{i}.norm", "transformer.h.{i}.ln_1"),
        **_both(f"{ATTENTION}.projections.query", "transformer.h.{i}.attn.c_attn", transposed=True, third=0),
        **_both(f"{ATTENTION}.projections.key", "transformer.h.{i}.attn.c_attn", transposed=True, third=1),
        **_both(f"{ATTENTION}.projections.value", "transformer.h.{i}.attn.c_attn", transposed=True, third=2),
        **_both(f"{ATTENTION}.output", "transformer.h.{i}.attn.c_proj", transposed=True),
        **_norm("steps.mlp_{i}.norm", "transformer.h.{i}.ln_2"),
        **_both(f"{MLP}.up", "transformer.h.{i}.mlp.c_fc", transposed=True),
        **_both(f"{MLP}.output", "transformer.h.{i}.mlp.c_proj", transposed=True),
        **_norm("final_norm", "transformer.ln_f"),
        "head.weight": Theirs("lm_head.weight"),
    },
    kinds={**TRANSFORMER, "embedding": Kind("token"), "pooling": Kind(library.NONE)},
    tied="lm_head.weight",
    ignored=r"transformer\.h\.\d+\.attn\.(masked_)?bias",  # the causal mask, in older files
)

# ViT keeps these with more axes: (D, C, size, size), (1, 1, D) and (1, L, D)
KERNEL, TOKEN, TABLE = (f"vit.embeddings.{name}" for name in ("patch_embeddings.projection.weight", "cls_token", "position_embeddings"))

VIT = Layout(
    title="ViT",
    prefix="vit.",
    parameters={
        **_both("embedding.map", "vit.embeddings.patch_embeddings.projection"),
        "positions.table": Theirs(TABLE),
        "pooling.token": Theirs(TOKEN),
        **_norm("steps.attention_{i}.norm", "vit.layers.{i}.layernorm_before"),
        **_both(f"{ATTENTION}.projections.query", "vit.layers.{i}.attention.q_proj"),
        **_both(f"{ATTENTION}.projections.key", "vit.layers.{i}.attention.k_proj"),
        **_both(f"{ATTENTION}.projections.value", "vit.layers.{i}.attention.v_proj"),
        **_both(f"{ATTENTION}.output", "vit.layers.{i}.attention.o_proj"),
        **_norm("steps.mlp_{i}.norm", "vit.layers.{i}.layernorm_after"),
        **_both(f"{MLP}.up", "vit.layers.{i}.mlp.fc1"),
        **_both(f"{MLP}.output", "vit.layers.{i}.mlp.fc2"),
        **_norm("final_norm", "vit.layernorm"),
        **_both("head", "classifier"),
    },
    kinds={**TRANSFORMER, "embedding": Kind("patch", said={"size": ()}), "pooling": Kind("class-token", said=DRAWN)},
)

LLAMA = Layout(
    title="Llama",
    prefix="model.",
    parameters={
        "embedding.weight": Theirs("model.embed_tokens.weight"),
        **_norm("steps.attention_{i}.norm", "model.layers.{i}.input_layernorm"),
        **_both(f"{ATTENTION}.projections.query", "model.layers.{i}.self_attn.q_proj"),
        **_both(f"{ATTENTION}.projections.key", "model.layers.{i}.self_attn.k_proj"),
        **_both(f"{ATTENTION}.projections.value", "model.layers.{i}.self_attn.v_proj"),
        **_both(f"{ATTENTION}.output", "model.layers.{i}.self_attn.o_proj"),
        **_norm("steps.glu_{i}.norm", "model.layers.{i}.post_attention_layernorm"),
        **_both(f"{GLU}.gate", "model.layers.{i}.mlp.gate_proj"),
        **_both(f"{GLU}.up", "model.layers.{i}.mlp.up_proj"),
        **_both(f"{GLU}.output", "model.layers.{i}.mlp.down_proj"),
        **_norm("final_norm", "model.norm"),
        "head.weight": Theirs("lm_head.weight"),
    },
    kinds={
        "embedding": Kind("token"),
        "positions": Kind("rope", said={"base": ()}),
        "pooling": Kind(library.NONE),
        "mixer": Kind("attention", said={"heads": (), "kv_heads": (), "bias": (True, False)}),
        "channel": Kind("glu", said={"expand": (), "activation": tuple(ACTIVATIONS), "bias": ()}),
        "norm": Kind("rmsnorm", said={"eps": ()}),
    },
    tied="lm_head.weight",
    ignored=r".*\.rotary_emb\.inv_freq",
)


def load_gpt2(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy the weights of a `GPT2LMHeadModel` or `GPT2Model` into a model of the kind of `spaces/presets/gpt2.yaml`.

    Raises:
        InputError: a name or a shape does not fit; the model is then left as it was.
    """
    _load(GPT2, model, weights)


def export_gpt2(model: Model) -> Weights:
    """A model's weights as the state of a `GPT2LMHeadModel`.

    Raises:
        InputError: the model is none that a GPT-2 could be.
    """
    return _export(GPT2, model)


def config_gpt2(model: Model) -> dict[str, Any]:
    """What a `GPT2Config` is to be told for `export_gpt2`'s weights to compute what the model does.

    Raises:
        InputError: the model is none that a GPT-2 could be.
    """
    said, sizes = _said(GPT2, model), dict(model.architecture.sizes)
    return {
        "vocab_size": sizes["vocabulary"],
        "n_positions": sizes["context"],
        "n_embd": model.architecture.width,
        "n_layer": len(model.order) // 2,
        "n_head": said["heads"],
        "n_inner": len(model.get_parameter("steps.mlp_0.operation.up.weight")),
        "activation_function": ACTIVATIONS[said["activation"]],
        "layer_norm_epsilon": said["eps"],
        "tie_word_embeddings": model.tied,
        **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0),
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    }


def load_vit(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy the weights of a `ViTForImageClassification` (of transformers 5) into a model of the kind of `spaces/presets/vit_small.yaml`.

    Raises:
        InputError: a name or a shape does not fit; the model is then left as it was.
    """
    size = getattr(model.get_submodule("embedding"), "size", 0)
    flat = {name: w.squeeze() if name in (TOKEN, TABLE) else w for name, w in weights.items()}
    if KERNEL in flat and flat[KERNEL].shape[2:] == (size, size):
        flat[KERNEL] = flat[KERNEL].flatten(1)
    _load(VIT, model, flat)


def export_vit(model: Model) -> Weights:
    """A model's weights as the state of a `ViTForImageClassification`.

    Raises:
        InputError: the model is none that a ViT could be.
    """
    weights, size = _export(VIT, model), getattr(model.get_submodule("embedding"), "size", 0)
    for name in weights.keys() & {TOKEN, TABLE}:
        weights[name] = weights[name].view(1, -1, weights[name].shape[-1])
    if KERNEL in weights:
        weights[KERNEL] = weights[KERNEL].view(len(weights[KERNEL]), -1, size, size)
    return weights


def config_vit(model: Model) -> dict[str, Any]:
    """What a `ViTConfig` is to be told for `export_vit`'s weights to compute what the model does.

    Raises:
        InputError: the model is none that a ViT could be.
    """
    said, sizes = _said(VIT, model), dict(model.architecture.sizes)
    return {
        "hidden_size": model.architecture.width,
        "num_hidden_layers": len(model.order) // 2,
        "num_attention_heads": said["heads"],
        "intermediate_size": len(model.get_parameter("steps.mlp_0.operation.up.weight")),
        "hidden_act": ACTIVATIONS[said["activation"]],
        "layer_norm_eps": said["eps"],
        "image_size": sizes["image"],
        "patch_size": said["size"],
        "num_channels": sizes["channels"],
        "num_labels": sizes["classes"],
    }


def load_llama(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy the weights of a `LlamaForCausalLM` into a model of the kind of `spaces/presets/llama_like.yaml`.

    Raises:
        InputError: a name or a shape does not fit; the model is then left as it was.
    """
    _load(LLAMA, model, weights)


def export_llama(model: Model) -> Weights:
    """A model's weights as the state of a `LlamaForCausalLM`.

    Raises:
        InputError: the model is none that a Llama could be.
    """
    return _export(LLAMA, model)


def config_llama(model: Model) -> dict[str, Any]:
    """What a `LlamaConfig` is to be told for `export_llama`'s weights to compute what the model does.

    Raises:
        InputError: the model is none that a Llama could be.
    """
    said, sizes = _said(LLAMA, model), dict(model.architecture.sizes)
    return {
        "vocab_size": sizes["vocabulary"],
        "max_position_embeddings": sizes["context"],
        "hidden_size": model.architecture.width,
        "num_hidden_layers": len(model.order) // 2,
        "num_attention_heads": said["heads"],
        "num_key_value_heads": said["heads"] if said["kv_heads"] == "all" else said["kv_heads"],
        "intermediate_size": len(model.get_parameter("steps.glu_0.operation.up.weight")),
        "hidden_act": ACTIVATIONS[said["activation"]],
        "rms_norm_eps": said["eps"],
        "rope_theta": said["base"],
        "attention_bias": said["mixer.bias"],
        "mlp_bias": said["channel.bias"],
        "tie_word_embeddings": model.tied,
        **dict.fromkeys(("bos_token_id", "eos_token_id")),
    }


def _said(layout: Layout, model: Model) -> dict[str, Any]:
    """The options of a model that the family's config says, each one value in all layers: by name, and by `slot.name`.

    Raises:
        InputError: the model is none of the family; the first option that differs is named.
    """
    said: dict[str, Any] = {}
    for place, slot, part in _parts(layout, model.architecture):
        kind = layout.kinds[slot]
        if part.word != kind.word:
            raise InputError(f"{layout.title} has {slot}: {kind.word}, and can not be the model, whose {place} is {part}")
        options = settings(slot, part)
        if options.get("kv_heads") == options.get("heads"):
            options |= {"kv_heads": "all"} if "kv_heads" in options else {}
        usual = settings(slot, Part(part.word)) | dict(kind.options)
        for name, value in options.items():
            where = f"{layout.title} can not say {name}: {value} of the {part.word} in {place}"
            if name not in kind.said:
                if value != usual[name]:
                    raise InputError(f"{where}; it has {name}: {usual[name]}")
            elif kind.said[name] and value not in kind.said[name]:
                raise InputError(f"{where}; its config says one of {', '.join(map(str, kind.said[name]))}")
            elif said.setdefault(f"{slot}.{name}", value) != value and name not in DRAWN:
                raise InputError(f"{where}; it has one {name} for all, and {said[f'{slot}.{name}']} stands before")
    width = model.architecture.width // said["mixer.heads"]
    if "positions.base" in said and width % 2:
        law = f"{layout.title} can not say width: {model.architecture.width} with heads: {said['mixer.heads']}"
        raise InputError(f"{law}; it turns pairs of entries, and a head has {width}")
    return said | {key.partition(".")[2]: value for key, value in said.items()}


def _parts(layout: Layout, a: Architecture) -> Iterator[tuple[str, str, Part]]:
    """Every part of a model with its place and slot, in order: what a family of alternating mixers and channel operations has."""
    yield "embedding", "embedding", a.embedding
    yield "positions", "positions", a.positions
    yield "pooling", "pooling", a.pooling
    if len(a.sublayers) < 2 or len(a.sublayers) % 2:
        raise InputError(f"{layout.title} is mixers and channel operations in turn, and the model has {len(a.sublayers)} sublayers")
    for i, s in enumerate(a.sublayers):
        place = f"sublayer {i}"
        yield place, library.SUBLAYERS[i % 2], s.operation
        yield f"the norm of {place}", "norm", s.norm
        others = {"place": (s.place, "pre"), "join": (s.join, ADD), "tied": (s.same_as is not None, False), "parallel": (s.parallel, False)}
        for name, (ours, theirs) in others.items():
            if ours != theirs:
                raise InputError(f"{layout.title} can not say {name}: {ours} of {place}; it has {name}: {theirs}")
    yield "final_norm", "norm", a.final_norm
    if a.head == "none":
        raise InputError(f"{layout.title} can not say head: none; it has a head")


def _places(layout: Layout, model: nn.Module) -> dict[str, Theirs]:
    """Where each parameter of a model lies."""
    found = {}
    for name in model.state_dict():
        number = re.search(r"_(\d+)\.", name)
        place = layout.parameters.get(re.sub(r"_\d+\.", "_{i}.", name, count=1))
        if place is None:
            raise InputError(f"the model has {name}, for which {layout.title} has no place")
        found[name] = Theirs(place.name.format(i=number.group(1) if number else ""), place.transposed, place.third)
    return found


@torch.no_grad()
def _load(layout: Layout, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    if not any(name.startswith(layout.prefix) for name in weights):  # the model without its head names them from itself
        weights = {name if name == layout.tied else layout.prefix + name: w for name, w in weights.items()}
    places, found = _places(layout, model), {}
    for ours, parameter in model.state_dict().items():
        place = places[ours]
        name = place.name
        if name == layout.tied and name not in weights:  # theirs is tied, ours free
            name = places["embedding.weight"].name
        if name not in weights:
            raise InputError(f"the {layout.title} weights have no {name}, which is {ours} of the model")
        given = weights[name]
        part = _part(given, place)
        if part.shape != parameter.shape:
            raise InputError(f"{name} has shape {tuple(given.shape)}, where the model's {ours} has {tuple(parameter.shape)}")
        found[ours] = part
    known = {place.name for place in places.values()}
    for name in weights:
        if name in known or re.fullmatch(layout.ignored, name):
            continue
        if name != layout.tied:
            raise InputError(f"the {layout.title} weights have {name}, for which the model has no place")
        if not torch.equal(weights[name], weights[places["embedding.weight"].name]):
            raise InputError(f"{name} differs from the embedding, but the model's head is tied to it; build it with head: free")
    model.load_state_dict(found)


def _part(given: torch.Tensor, place: Theirs) -> torch.Tensor:
    """What of a stored tensor is ours, its outputs first."""
    matrix = given.t() if place.transposed and given.ndim == 2 else given
    return matrix if place.third is None else matrix.tensor_split(3)[place.third]


def _export(layout: Layout, model: Model) -> Weights:
    _said(layout, model)
    places, state, made = _places(layout, model), model.state_dict(), {}
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
    if layout.tied and layout.tied not in made:
        made[layout.tied] = made[places["embedding.weight"].name].clone()
    return made
