"""Weights to and from Hugging Face's GPT-2, ViT and Llama: the same numbers under other names, in other shapes.

    load_gpt2(model, GPT2LMHeadModel.from_pretrained("gpt2").state_dict())
    GPT2LMHeadModel(config).load_state_dict(export_gpt2(model))

Nothing is downloaded and `transformers` is not imported. Names and shapes are checked. What weights do not tell is not: the number of
heads, the activation, eps and the base of rotary positions are those of the architecture (`spaces/presets/gpt2.yaml`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from aotsearch.errors import InputError

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
class Layout:
    """The names of one family of models.

    Attributes:
        title: The family.
        prefix: Of most names; weights without it are taken too.
        parameters: Our name -> theirs.
        tied: Their name of the head, where it may be the embedding.
        ignored: Names, as a pattern, that hold no parameters.
    """

    title: str
    prefix: str
    parameters: Mapping[str, Theirs]
    tied: str = ""
    ignored: str = r"(?!)"


def _both(ours: str, theirs: str, **place: bool | int) -> dict[str, Theirs]:
    """A weight and its bias."""
    return {f"{ours}.{kind}": Theirs(f"{theirs}.{kind}", **place) for kind in ("weight", "bias")}  # type: ignore[arg-type]


def _norm(ours: str, theirs: str) -> dict[str, Theirs]:
    return {f"{ours}.gain": Theirs(f"{theirs}.weight"), f"{ours}.bias": Theirs(f"{theirs}.bias")}


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
    tied="lm_head.weight",
    ignored=r".*\.rotary_emb\.inv_freq",
)


def load_gpt2(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy the weights of a `GPT2LMHeadModel` or `GPT2Model` into a model of the kind of `spaces/presets/gpt2.yaml`.

    Raises:
        InputError: a name or a shape does not fit; the model is then left as it was.
    """
    _load(GPT2, model, weights)


def export_gpt2(model: nn.Module) -> Weights:
    """A model's weights as the state of a `GPT2LMHeadModel`.

    Raises:
        InputError: the model has a parameter that GPT-2 has not.
    """
    return _export(GPT2, model)


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


def export_vit(model: nn.Module) -> Weights:
    """A model's weights as the state of a `ViTForImageClassification`.

    Raises:
        InputError: the model has a parameter that ViT has not.
    """
    weights, size = _export(VIT, model), getattr(model.get_submodule("embedding"), "size", 0)
    for name in weights.keys() & {TOKEN, TABLE}:
        weights[name] = weights[name].view(1, -1, weights[name].shape[-1])
    if KERNEL in weights:
        weights[KERNEL] = weights[KERNEL].view(len(weights[KERNEL]), -1, size, size)
    return weights


def load_llama(model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
    """Copy the weights of a `LlamaForCausalLM` into a model of the kind of `spaces/presets/llama_like.yaml`.

    Raises:
        InputError: a name or a shape does not fit; the model is then left as it was.
    """
    _load(LLAMA, model, weights)


def export_llama(model: nn.Module) -> Weights:
    """A model's weights as the state of a `LlamaForCausalLM`.

    Raises:
        InputError: the model has a parameter that Llama has not.
    """
    return _export(LLAMA, model)


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


def _export(layout: Layout, model: nn.Module) -> Weights:
    places, state, made = _places(layout, model), model.state_dict(), {}
    fused: dict[str, list[torch.Tensor]] = {}
    for ours, place in places.items():
        tensor = state[ours].detach().clone()
        if place.third is not None:
            fused.setdefault(place.name, []).append(tensor)
        else:
            made[place.name] = tensor.t().contiguous() if place.transposed and tensor.ndim == 2 else tensor
    for name, thirds in fused.items():
        if [len(third) for third in thirds] != [len(thirds[0])] * 3:
            raise InputError(f"{layout.title} has as many queries as keys and values, in {name}; the model has not")
        whole = torch.cat(thirds)  # in the order of the projections: query, key, value
        made[name] = whole.t().contiguous() if whole.ndim == 2 else whole
    if layout.tied and layout.tied not in made:
        made[layout.tied] = made[places["embedding.weight"].name].clone()
    return made
