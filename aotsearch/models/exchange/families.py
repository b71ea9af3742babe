"""What GPT-2, ViT and Llama of Hugging Face can be, and what they call it: tables alone."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from aotsearch.grammar.words import NONE
from aotsearch.models.exchange.layout import ACTIVATIONS, DRAWN, Kind, Layout, Theirs, Weights
from aotsearch.models.model import Model


def _both(ours: str, theirs: str, **place: bool | int) -> dict[str, Theirs]:
    """A weight and its bias."""
    return {f"{ours}.{kind}": Theirs(f"{theirs}.{kind}", **place) for kind in ("weight", "bias")}  # type: ignore[arg-type]


def _norm(ours: str, theirs: str) -> dict[str, Theirs]:
    return {f"{ours}.gain": Theirs(f"{theirs}.weight"), f"{ours}.bias": Theirs(f"{theirs}.bias")}


TRANSFORMER = {
    "positions": Kind("learned", said=DRAWN),
    "mixer": Kind("attention", said={"heads": (), "bias": (), "dropout": ()}),
    "channel": Kind("mlp", said={"expand": (), "activation": tuple(ACTIVATIONS), "bias": ()}),
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
    kinds={**TRANSFORMER, "embedding": Kind("token"), "pooling": Kind(NONE)},
    names={
        "vocab_size": "vocabulary",
        "n_positions": "context",
        "n_embd": "width",
        "n_layer": "layers",
        "n_head": "heads",
        "n_inner": "inner",
        "activation_function": "activation",
        "layer_norm_epsilon": "eps",
        "resid_pdrop": "model.dropout",
        "embd_pdrop": "model.dropout",
        "attn_pdrop": "mixer.dropout",
        "tie_word_embeddings": "tied",
    },
    constants={"bos_token_id": None, "eos_token_id": None},
    tied="lm_head.weight",
    ignored=r"transformer\.h\.\d+\.attn\.(masked_)?bias",  # the causal mask, in older files
    biased=True,
)

# ViT keeps these with more axes: (D, C, size, size), (1, 1, D) and (1, L, D)
KERNEL, TOKEN, TABLE = (f"vit.embeddings.{name}" for name in ("patch_embeddings.projection.weight", "cls_token", "position_embeddings"))


class _Vision(Layout):
    """A layout of which some weights have more axes than ours."""

    def load(self, model: nn.Module, weights: Mapping[str, torch.Tensor]) -> None:
        size = getattr(model.get_submodule("embedding"), "size", 0)
        flat = {name: w.squeeze() if name in (TOKEN, TABLE) else w for name, w in weights.items()}
        if KERNEL in flat and flat[KERNEL].shape[2:] == (size, size):
            flat[KERNEL] = flat[KERNEL].flatten(1)
        super().load(model, flat)

    def export(self, model: Model) -> Weights:
        weights, size = super().export(model), getattr(model.get_submodule("embedding"), "size", 0)
        for name in weights.keys() & {TOKEN, TABLE}:
            weights[name] = weights[name].view(1, -1, weights[name].shape[-1])
        if KERNEL in weights:
            weights[KERNEL] = weights[KERNEL].view(len(weights[KERNEL]), -1, size, size)
        return weights


VIT = _Vision(
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
    names={
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "intermediate_size": "inner",
        "hidden_act": "activation",
        "layer_norm_eps": "eps",
        "hidden_dropout_prob": "model.dropout",
        "attention_probs_dropout_prob": "mixer.dropout",
        "image_size": "image",
        "patch_size": "size",
        "num_channels": "channels",
        "num_labels": "classes",
    },
    biased=True,
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
        "pooling": Kind(NONE),
        "mixer": Kind("attention", said={"heads": (), "kv_heads": (), "bias": (True, False), "dropout": ()}),
        "channel": Kind("glu", said={"expand": (), "activation": tuple(ACTIVATIONS), "bias": ()}),
        "norm": Kind("rmsnorm", said={"eps": ()}),
    },
    names={
        "vocab_size": "vocabulary",
        "max_position_embeddings": "context",
        "hidden_size": "width",
        "num_hidden_layers": "layers",
        "num_attention_heads": "heads",
        "num_key_value_heads": "kv_heads",
        "intermediate_size": "inner",
        "hidden_act": "activation",
        "rms_norm_eps": "eps",
        "rope_theta": "base",
        "attention_bias": "mixer.bias",
        "attention_dropout": "mixer.dropout",
        "mlp_bias": "channel.bias",
        "tie_word_embeddings": "tied",
    },
    constants={"bos_token_id": None, "eos_token_id": None},
    tied="lm_head.weight",
    ignored=r".*\.rotary_emb\.inv_freq",
)
