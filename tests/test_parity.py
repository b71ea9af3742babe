"""The same numbers as code that is not ours: Hugging Face's models with their weights copied both ways, and the published equations of
blocks, written out here in float64 with every matrix explicit. What the latter take from us are the names of parameters alone.

Shape letters: B batch, L tokens, D width, H heads, P width of one head.
"""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from aotsearch import build, load, yamlfile
from aotsearch.errors import InputError
from aotsearch.grammar.space import Space
from aotsearch.models.exchange import (
    config_gpt2,
    config_llama,
    config_vit,
    export_gpt2,
    export_llama,
    export_vit,
    load_gpt2,
    load_llama,
    load_vit,
)
from aotsearch.models.model import Model

transformers = pytest.importorskip("transformers")
transformers.logging.set_verbosity_error()

PRESETS = Path(__file__).parent.parent / "spaces" / "presets"
IDS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))
PICTURES = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def preset(name: str, *overrides: str, seed: int = 0) -> Model:
    return disturb(build(load(PRESETS / f"{name}.yaml", overrides).reference, seed)).eval()


@torch.no_grad()
def disturb(model: Any) -> Any:
    """Every parameter away from its start, so that no bias and no gain is without effect."""
    for number, p in enumerate(model.parameters()):
        p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    return model


GPT2 = (
    *("grammar.model.width=32", "grammar.model.depth=3", "grammar.heads=4"),
    *("task.language.vocabulary=50", "task.language.context=16"),
)
VIT = (
    "grammar.model.width=32",
    "grammar.model.depth=3",
    "grammar.heads=4",
    "task.vision={data: {hub: x}, image: 16, channels: 3, classes: 5}",
)
VIT = (*VIT, "grammar.model.embedding={patch: {size: 4}}", "grammar.norm={layernorm: {eps: 1e-12}}")
LLAMA = (*GPT2, "grammar.groups=2", "task.language.vocabulary=50", "grammar.channel={glu: {expand: 2.5}}")


def theirs(name: str) -> Any:
    """A small model of Hugging Face, at random weights; nothing is downloaded."""
    torch.manual_seed(7)
    sizes = {"num_hidden_layers": 3, "hidden_size": 32, "num_attention_heads": 4}
    if name == "gpt2":
        config = transformers.GPT2Config(vocab_size=50, n_positions=16, n_embd=32, n_layer=3, n_head=4, bos_token_id=0, eos_token_id=0)
        return disturb(transformers.GPT2LMHeadModel(config)).eval()
    if name == "vit_small":
        config = transformers.ViTConfig(**sizes, intermediate_size=128, image_size=16, patch_size=4, num_labels=5)
        return disturb(transformers.ViTForImageClassification(config)).eval()
    config = transformers.LlamaConfig(
        **sizes,
        vocab_size=50,
        num_key_value_heads=2,
        intermediate_size=80,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        tie_word_embeddings=False,
    )
    return disturb(transformers.LlamaForCausalLM(config)).eval()


FAMILIES: list[tuple[str, tuple[str, ...], Callable[..., None], Callable[..., Any], torch.Tensor]] = [
    ("gpt2", GPT2, load_gpt2, export_gpt2, IDS),
    ("vit_small", VIT, load_vit, export_vit, PICTURES),
    ("llama_like", LLAMA, load_llama, export_llama, IDS),
]


@pytest.mark.parametrize(("name", "overrides", "take", "give", "inputs"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_a_preset_is_the_model_of_hugging_face(name: str, overrides: Any, take: Any, give: Any, inputs: torch.Tensor) -> None:
    ours, other = preset(name, *overrides), theirs(name)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in other.parameters())
    with torch.no_grad():
        assert (ours(inputs) - other(inputs).logits).abs().max() > 0.1  # different weights
        take(ours, other.state_dict())
        torch.testing.assert_close(ours(inputs), other(inputs).logits, atol=1e-5, rtol=1e-5)
        disturb(ours)
        other.load_state_dict(give(ours))
        torch.testing.assert_close(ours(inputs), other(inputs).logits, atol=1e-5, rtol=1e-5)
        assert ours(inputs).abs().max() > 0.1


@pytest.mark.parametrize(("name", "overrides", "take", "give", "inputs"), FAMILIES, ids=[f[0] for f in FAMILIES])
def test_weights_survive_going_there_and_back(name: str, overrides: Any, take: Any, give: Any, inputs: torch.Tensor) -> None:
    ours, other = preset(name, *overrides), preset(name, *overrides, seed=1)
    take(other, give(ours))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), other.parameters(), strict=True))


def test_the_weights_of_gpt2_without_its_head_are_taken_too() -> None:
    ours, other = preset("gpt2", *GPT2), theirs("gpt2")
    load_gpt2(ours, other.transformer.state_dict() | {"h.0.attn.bias": torch.ones(1, 1, 16, 16)})
    torch.testing.assert_close(ours(IDS), other(IDS).logits, atol=1e-5, rtol=1e-5)


def test_a_free_head_starts_as_the_tied_one() -> None:
    ours, other = preset("gpt2", *GPT2, "grammar.model.head=free"), theirs("gpt2")
    weights = other.state_dict()
    del weights["lm_head.weight"]
    load_gpt2(ours, weights)
    torch.testing.assert_close(ours(IDS), other(IDS).logits, atol=1e-5, rtol=1e-5)


def test_weights_that_do_not_fit_are_refused_in_one_line_and_leave_the_model_alone() -> None:
    weights = theirs("gpt2").state_dict()
    cases = [
        (
            [*GPT2, "grammar.model.width=16"],
            weights,
            r"transformer.wte.weight has shape \(50, 32\), where the model's embedding.weight has",
        ),
        ([*GPT2, "grammar.model.depth=4"], weights, "the GPT-2 weights have no transformer.h.3.*, which is steps.attention_3"),
        ([*GPT2, "grammar.model.depth=2"], weights, "the GPT-2 weights have transformer.h.2.ln_1.weight, for which the model has no place"),
        (
            [*GPT2, "grammar.mixer={attention: {heads: heads}}"],
            weights,
            "have transformer.h.0.attn.c_attn.bias, for which the model has no",
        ),
        ([*GPT2, "grammar.mixer={tssa: {heads: heads}}"], weights, "the model has steps.tssa_0.*, for which GPT-2 has no place"),
        (GPT2, weights | {"lm_head.weight": torch.zeros(50, 32)}, "lm_head.weight differs from the embedding"),
    ]
    for overrides, given, message in cases:
        ours = preset("gpt2", *overrides)
        before = {name: p.clone() for name, p in ours.named_parameters()}
        with pytest.raises(InputError, match=message) as caught:
            load_gpt2(ours, given)
        assert "\n" not in str(caught.value)
        assert all(torch.equal(p, before[name]) for name, p in ours.named_parameters())
    with pytest.raises(InputError, match="projection\\.weight has shape"):
        load_vit(preset("vit_small", *VIT, "grammar.model.embedding={patch: {size: 2}}"), theirs("vit_small").state_dict())


# What Hugging Face's classes cannot be is refused; what is given to them computes the same.

GIVEN = {
    "gpt2": (lambda **k: transformers.GPT2LMHeadModel(transformers.GPT2Config(**k)), config_gpt2, export_gpt2),
    "vit": (lambda **k: transformers.ViTForImageClassification(transformers.ViTConfig(**k)), config_vit, export_vit),
    "llama": (lambda **k: transformers.LlamaForCausalLM(transformers.LlamaConfig(**k)), config_llama, export_llama),
}


def given(family: str, model: Model) -> Any:
    """Hugging Face's model with our weights, or the line by which that is refused."""
    make, config, export = GIVEN[family]
    try:
        weights = export(model)
    except InputError as e:
        assert "\n" not in str(e)
        with pytest.raises(InputError, match=f"^{re.escape(str(e))}$"):
            config(model)
        return str(e)
    other = make(**config(model)).eval()
    other.load_state_dict(weights)
    return other


def differs(ours: Model, other: Any) -> float:
    sizes = dict(ours.architecture.sizes)
    inputs = PICTURES if "image" in sizes else IDS[:, : sizes["context"]] % sizes["vocabulary"]
    with torch.no_grad():
        made, theirs = ours(inputs), other(inputs).logits
    assert made.shape == theirs.shape and made.abs().max() > 0.1
    return float((made - theirs).abs().max())


PLAIN = {
    "model": {
        "width": "16",
        "depth": "2",
        "positions": "learned",
        "final_norm": "layernorm",
        "place": "pre",
        "join": "add",
        "head": "tied",
    },
    "attention": {"heads": "2", "bias": "true"},
    "channel": {"word": "mlp", "expand": "2", "activation": "gelu", "bias": "true"},
    "norm": {"word": "layernorm", "eps": "1e-5"},
}
LLAMA_LIKE = {"positions": "rope", "final_norm": "rmsnorm"}, {"bias": "false"}, {"word": "glu", "bias": "false"}, {"word": "rmsnorm"}
CHANGES = [  # one option of a plain model, changed
    *(
        ("model", name, value)
        for name, value in (
            ("positions", "rope"),
            ("positions", "none"),
            ("positions", "sinusoidal"),
            ("positions", "{learned: {std: 0.1}}"),
            ("positions", "alibi"),
            ("positions", "{rope: {base: 500}}"),
            ("final_norm", "none"),
            ("final_norm", "rmsnorm"),
            ("place", "post"),
            ("place", "sandwich"),
            ("join", "none"),
            ("head", "free"),
            ("width", "14"),
            ("depth", "1"),
            ("initialisation", "torch"),
            ("block", "[mixer]"),
            ("block", "[mixer, channel, channel]"),
            ("block", "[channel, mixer]"),
            ("block", "[{parallel: [mixer, channel]}]"),
            ("blocks", "[{repeat: 2, of: [mixer, channel], tied: true}]"),
            ("blocks", "[mixer, channel, other, channel]"),
        )
    ),
    *(
        ("attention", name, value)
        for name, value in (
            ("heads", "1"),
            ("heads", "8"),
            ("kv_heads", "1"),
            ("kv_heads", "2"),
            ("qkv", "tied"),
            ("qkv", "shared-kv"),
            ("value_projection", "identity"),
            ("output", "transposed"),
            ("output", "identity"),
            ("bias", "false"),
            ("bias", "output"),
            ("scale", "1"),
            ("scale", "learned"),
            ("qk_norm", "rms"),
            ("softcap", "1"),
            ("score", "relu"),
            ("score", "sigmoid"),
            ("score", "sink"),
            ("map", "0.5"),
            ("identity", "-1"),
            ("identity", "learned"),
            ("uniform", "-1"),
            ("squared_map", "0.5"),
            ("second_map", "0.5"),
            ("exclusive", "1"),
            ("mask_self", "true"),
            ("value_source", "both"),
            ("head_norm", "rms"),
            ("gate", "head"),
            ("persistent_kv", "2"),
        )
    ),
    *(
        ("channel", name, value)
        for name, value in (
            ("word", "linear"),
            ("word", "mlp"),
            ("word", "glu"),
            ("expand", "3.3"),
            ("activation", "relu"),
            ("activation", "silu"),
            ("activation", "gelu-tanh"),
            ("activation", "relu2"),
            ("bias", "true"),
            ("bias", "false"),
        )
    ),
    *(
        ("norm", name, value)
        for name, value in (
            ("word", "none"),
            ("word", "rmsnorm"),
            ("word", "layernorm"),
            ("eps", "1e-2"),
            ("bias", "false"),
        )
    ),
]


def written(family: str, changes: list[tuple[str, str, str]]) -> str:
    """A model of a family, some of its options changed, as a grammar."""
    parts = {name: dict(options) for name, options in PLAIN.items()}
    if family == "llama":
        for options, own in zip(parts.values(), LLAMA_LIKE, strict=True):
            options |= own
    if family == "vit":
        parts["model"] |= {"pooling": "class-token", "embedding": "{patch: {size: 4}}", "head": "free"}
    for part, name, value in changes:
        if name == "word":
            parts[part] = {"word": value, **({"eps": "1e-5"} if "norm" in value else {})}
        else:
            parts[part] |= {name: value}
    model = parts["model"]
    if "blocks" in model:
        del model["depth"]
    elif "block" not in model:
        model["block"] = "[mixer, channel]"

    def flow(options: dict[str, str]) -> str:
        return "{" + ", ".join(f"{k}: {v}" for k, v in options.items()) + "}"

    def one(options: dict[str, str]) -> str:
        rest = {k: v for k, v in options.items() if k != "word"}
        return flow({options["word"]: flow(rest)}) if rest else options["word"]

    rules = {
        "model": flow({**model, "norm": "norm"}),
        "mixer": flow({"attention": flow(parts["attention"])}),
        "other": flow({"attention": flow(parts["attention"] | {"heads": "4"})}),
        "channel": one(parts["channel"]),
        "norm": one(parts["norm"]),
    }
    met = model.get("block", "") + model.get("blocks", "")
    return flow({name: text for name, text in rules.items() if name in ("model", "norm") or name in met})


def sampled(family: str, changes: list[tuple[str, str, str]]) -> Model | None:
    """That model at disturbed weights, or None where the grammar has no such model."""
    sizes = {"image": 16, "channels": 3, "classes": 5} if family == "vit" else {"vocabulary": 50, "context": 12}
    try:
        return disturb(build(Space.parse(yamlfile.parse(written(family, changes), "sampled"), sizes).reference)).eval()
    except InputError:
        return None


@pytest.mark.parametrize("family", GIVEN)
def test_what_is_given_to_hugging_face_computes_the_same_and_the_rest_is_refused(family: str) -> None:
    chosen = random.Random(family)
    cases = [[], *([change] for change in CHANGES), *(chosen.sample(CHANGES, 2) for _ in range(40))]
    equal, refused, wrong = 0, [], []
    for changes in cases:
        model = sampled(family, changes)
        if model is None:
            continue
        other = given(family, model)
        if isinstance(other, str):
            refused.append((changes, other))
        else:
            equal += 1
            wrong += [(changes, far)] if (far := differs(model, other)) > 2e-5 else []
    assert not wrong
    assert equal >= 8 and len(refused) >= 40, (equal, len(refused))
    for changes, line in refused:  # the option that is named is one of those that were changed
        if len(changes) == 1:
            ((_, name, value),) = changes
            shown = value.strip("{[").partition(":")[0]
            assert name in line or shown in line or name in ("block", "blocks"), (changes, line)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("attention", "identity", "-1"), "GPT-2 cannot say identity: -1.0 of the attention in sublayer 0; it has identity: 0.0"),
        (("attention", "score", "relu"), "GPT-2 cannot say score: relu of the attention in sublayer 0; it has score: softmax"),
        (("model", "positions", "rope"), "GPT-2 has positions: learned, and cannot be the model, whose positions is rope"),
        (("norm", "word", "none"), "GPT-2 has norm: layernorm, and cannot be the model, whose the norm of sublayer 0 is none"),
        (("attention", "kv_heads", "1"), "GPT-2 cannot say kv_heads: 1 of the attention in sublayer 0; it has kv_heads: all"),
        (
            ("model", "blocks", "[mixer, channel, other, channel]"),
            "GPT-2 cannot say heads: 4 .* sublayer 2; it has one heads for all, and 2",
        ),
    ],
)
def test_the_first_option_that_can_not_be_said_is_named(change: tuple[str, str, str], words: str) -> None:
    model = sampled("gpt2", [change])
    assert model is not None
    with pytest.raises(InputError, match=f"^{words}"):
        export_gpt2(model)


SMALL = ("grammar.model.width=16", "grammar.model.depth=2", "grammar.heads=2")


@pytest.mark.parametrize("name", sorted(path.stem for path in PRESETS.glob("*.yaml")))
def test_a_preset_is_given_to_hugging_face_as_it_is_or_refused(name: str) -> None:
    text = (PRESETS / f"{name}.yaml").read_text()
    tasks = {"vision": VIT[3], "language": "task.language={data: python-stdlib, context: 12}"}
    overrides = [o for o in SMALL if "space:" in text or re.search(rf"\b{o.split('=')[0].split('.')[-1]}:", text)]
    overrides += [task for kind, task in tasks.items() if f"task: {{{kind}" in text or (kind == "language" and "space:" in text)]
    overrides += ["grammar.groups=1"] if "groups:" in text else []
    overrides += ["grammar.model.embedding={patch: {size: 4}}"] if "patch: {size: 16" in text else []
    model = disturb(build(load(PRESETS / f"{name}.yaml", overrides).reference)).eval()
    for family in GIVEN:
        if ("image" in dict(model.architecture.sizes)) == (family == "vit"):
            other = given(family, model)
            expected = {"gpt2": "gpt2", "vit_tiny": "vit", "vit_small": "vit", "llama_like": "llama"}.get(name) == family
            assert isinstance(other, str) != expected, other
            assert isinstance(other, str) or differs(model, other) < 2e-5


# Blocks by their equations. A block stands between a linear read-in and a linear read-out.

CAUSAL = {"inputs": 3, "outputs": 2, "context": 6}
IMAGE = {"image": 8, "channels": 1, "classes": 3}
D = 8
Weights = Mapping[str, torch.Tensor]


def whole(model: str, sizes: dict[str, int], positions: str = "none") -> tuple[Model, Weights]:
    """A small model in float64, and its parameters by name."""
    text = f"model: {{width: {D}, positions: {positions}, final_norm: none, {model}}}"
    built = disturb(disturb(build(Space.parse(yamlfile.parse(text, "parity"), sizes).reference).double())).eval()
    return built, {name: p.detach() for name, p in built.named_parameters()}


def agree(
    model: str,
    sizes: dict[str, int],
    block: Callable[[Weights, torch.Tensor], torch.Tensor],
    positions: str = "none",
    tolerance: float = 1e-11,
) -> None:
    """A model computes what a block, written out, does to each sequence (L, D) between its read-in and its read-out."""
    built, w = whole(model, sizes, positions)
    generator = torch.Generator().manual_seed(3)
    if "image" in sizes:
        pictures = torch.randn(2, 1, 8, 8, generator=generator, dtype=torch.float64)
        patches = [[row.flatten() for band in p[0].split(2) for row in band.split(2, dim=1)] for p in pictures]
        streams = torch.stack([torch.stack(p) for p in patches]) @ w["embedding.map.weight"].T + w["embedding.map.bias"]
        expected = torch.stack([block(w, x).mean(0) for x in streams])
        made = built(pictures)
    else:
        vectors = torch.randn(2, 6, 3, generator=generator, dtype=torch.float64)
        streams = vectors @ w["embedding.map.weight"].T + w["embedding.map.bias"]
        expected = torch.stack([block(w, x) for x in streams])
        made = built(vectors)
    expected = expected @ w["head.weight"].T + w["head.bias"]
    assert made.dtype == torch.float64 and expected.abs().max() > 0.1
    torch.testing.assert_close(made, expected, atol=tolerance, rtol=tolerance)


def ln(w: Weights, name: str, x: torch.Tensor, eps: float = 1e-5) -> torch.Tensor:
    m = x.mean(-1, keepdim=True)
    return (x - m) / torch.sqrt(((x - m) ** 2).mean(-1, keepdim=True) + eps) * w[f"{name}.gain"] + w[f"{name}.bias"]


def linear(w: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return x @ w[f"{name}.weight"].T + (w[f"{name}.bias"] if f"{name}.bias" in w else 0)


def softmax(s: torch.Tensor, causal: bool) -> torch.Tensor:
    """Of every row of (L, L); a causal row sees itself and those before it."""
    e = torch.exp(s - s.max())
    e = torch.tril(e) if causal else e
    return e / e.sum(1, keepdim=True)


def gelu(x: torch.Tensor) -> torch.Tensor:
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def heads(x: torch.Tensor, count: int) -> list[torch.Tensor]:
    return list(x.split(x.shape[-1] // count, dim=-1))


def maps(w: Weights, layer: int, x: torch.Tensor, count: int, causal: bool) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The attention maps and the values of every head of plain multi-head attention."""
    q, k, v = (heads(linear(w, f"steps.attention_{layer}.operation.projections.{n}", x), count) for n in ("query", "key", "value"))
    return [softmax(qh @ kh.T / math.sqrt(qh.shape[1]), causal) for qh, kh in zip(q, k, strict=True)], v


def out(w: Weights, layer: int, y: list[torch.Tensor]) -> torch.Tensor:
    return linear(w, f"steps.attention_{layer}.operation.output", torch.cat(y, dim=-1))


def attend(w: Weights, layer: int, x: torch.Tensor, causal: bool, mix: Callable[..., torch.Tensor]) -> torch.Tensor:
    """x + [mix(A_h, V_h)] W_O, with LayerNorm before."""
    A, V = maps(w, layer, ln(w, f"steps.attention_{layer}.norm", x), 2, causal)
    return x + out(w, layer, [mix(a, v, h) for h, (a, v) in enumerate(zip(A, V, strict=True))])


def test_crate_is_its_equations() -> None:
    # z = x + sum_k MSSA_k(LN x) W + b;  x <- relu(n + eta (D^T n - D^T D n) - eta lambda), n = LN z  (Yu et al. 2023)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        for layer in range(2):
            u = heads(ln(w, f"steps.attention_{layer}.norm", x) @ w[f"steps.attention_{layer}.operation.projections.subspace.weight"].T, 2)
            x = x + out(w, layer, [softmax(uk @ uk.T / math.sqrt(D / 2), causal=False) @ uk for uk in u])
            n = ln(w, f"steps.ista_{layer}.norm", x).T  # columns are tokens, as in the paper
            dictionary = w[f"steps.ista_{layer}.operation.dictionary"]
            x = torch.relu(n + 0.1 * (dictionary.T @ n - dictionary.T @ dictionary @ n) - 0.1 * 0.1).T
        return x

    agree("depth: 2, block: [{attention: {heads: 2, qkv: tied, bias: output}}, {ista: {join: none}}]", IMAGE, block)


def test_crate_alpha_is_its_equations() -> None:
    # z1 = relu(eta D^T n - eta lambda);  z2 = relu(z1 - eta D^T (D z1 - n) - eta lambda);  x <- x + D1 z2  (Yang et al. 2024)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        u = heads(ln(w, "steps.attention_0.norm", x, 1e-6) @ w["steps.attention_0.operation.projections.subspace.weight"].T, 4)
        x = x + out(w, 0, [softmax(uk @ uk.T / math.sqrt(D / 4), causal=False) @ uk for uk in u])
        n = ln(w, "steps.dictionary_0.norm", x, 1e-6).T
        coder, decoder = (w[f"steps.dictionary_0.operation.{name}_DF"] for name in ("dictionary", "decoder"))
        z = torch.relu(0.1 * coder.T @ n - 0.1 * 0.1)
        z = torch.relu(z - 0.1 * coder.T @ (coder @ z - n) - 0.1 * 0.1)
        return x + (decoder @ z).T

    agree("depth: 1, norm: {layernorm: {eps: 1e-6}}, block: [{attention: {heads: 4, qkv: tied}}, dictionary]", IMAGE, block)


def test_tost_for_vision_is_its_equations() -> None:
    # w_n = w / |w| over the tokens;  Pi = softmax over heads of temp_h sum_p w_n^2;  dots = sum_n Pi_n w_n^2 / sum Pi;
    # y = -(w Pi) / (1 + dots);  x <- x + g1 TSSA(LN x), x <- x + g2 MLP(LN x)  (Wu et al. 2024)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        name = "steps.tssa_0"
        u = heads(linear(w, f"{name}.operation.subspace", ln(w, f"{name}.norm", x, 1e-6)), 2)
        energy = [(uh / uh.square().sum(0).sqrt()).square().sum(1) for uh in u]
        pi = torch.stack([e * t for e, t in zip(energy, w[f"{name}.operation.temperature"], strict=True)]).softmax(0)
        y = []
        for uh, ph in zip(u, pi, strict=True):
            dots = (ph.unsqueeze(1) * uh.square()).sum(0) / (ph.sum() + 1e-8)
            y.append(-(uh * ph.unsqueeze(1)) / (1 + dots))
        x = x + w[f"{name}.join.gain"] * linear(w, f"{name}.operation.output", torch.cat(y, dim=-1))
        n = ln(w, "steps.mlp_0.norm", x, 1e-6)
        return x + w["steps.mlp_0.join.gain"] * linear(w, "steps.mlp_0.operation.output", gelu(linear(w, "steps.mlp_0.operation.up", n)))

    frame = "depth: 1, join: {layerscale: {start: 1}}, norm: {layernorm: {eps: 1e-6}}"
    agree(f"{frame}, block: [{{tssa: {{heads: 2, bias: true}}}}, {{mlp: {{bias: true}}}}]", IMAGE, block)


def test_tost_for_language_is_its_equations() -> None:
    # as for vision, but sums run over the tokens so far and b_ht is added to every normalised square  (Wu et al. 2024, model_TSSA)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        name = "steps.tssa_0.operation"
        u = heads(linear(w, f"{name}.subspace", ln(w, "steps.tssa_0.norm", x)), 2)
        tokens, y = len(x), []
        for t in range(tokens):  # one token at a time, from what it sees
            score = []
            for h, uh in enumerate(u):
                share = uh[t] ** 2 / (uh[: t + 1] ** 2).sum(0) + w[f"{name}.offset_HL"][h, t]
                score.append(share.sum() * w[f"{name}.temperature"][h])
            y.append(torch.stack(score).softmax(0))
        pi = torch.stack(y, dim=1)  # (H, L)
        rows = []
        for t in range(tokens):
            row = []
            for h, uh in enumerate(u):
                seen = pi[h, : t + 1]
                dots = (seen.unsqueeze(1) * uh[: t + 1] ** 2).sum(0) / (seen.sum() + 1e-8)
                row.append(-uh[t] * pi[h, t] / (1 + dots))
            rows.append(torch.cat(row))
        return x + linear(w, f"{name}.output", torch.stack(rows))

    agree("depth: 1, block: [{tssa: {heads: 2}}]", CAUSAL, block)


def test_class_attention_is_its_equations() -> None:
    # u = LN1 z;  z <- z + g1 (CA(u), u_1..);  z <- LN2 z;  z <- z + (g2 MLP(z_0), z_1..)  (El-Nouby et al. 2021, with tokens_norm)
    def pooled(w: Weights, x: torch.Tensor) -> torch.Tensor:
        z = torch.cat([w["pooling.token"].unsqueeze(0), x])
        for block in ("pooling.blocks.0", "pooling.blocks.1", "pooling.blocks.2"):
            norms = {f"n{i}.{k}": w[f"{block}.norm_{i}.{n}"] for i in (1, 2) for k, n in (("gain", "weight"), ("bias", "bias"))}
            u = ln(norms, "n1", z, 1e-6)
            q, k, v = (heads(linear(w, f"{block}.{n}", u), 2) for n in ("query", "key", "value"))
            y = [softmax(qh[:1] @ kh.T / math.sqrt(D / 2), causal=False) @ vh for qh, kh, vh in zip(q, k, v, strict=True)]
            z = z + w[f"{block}.gain_1"] * torch.cat([linear(w, f"{block}.output", torch.cat(y, dim=-1)), u[1:]])
            z = ln(norms, "n2", z, 1e-6)
            z = z + torch.cat([w[f"{block}.gain_2"] * linear(w, f"{block}.down", gelu(linear(w, f"{block}.up", z[:1]))), z[1:]])
        return z[:1]

    agree("depth: 1, pooling: {class-attention: {blocks: 3, heads: 2, eps: 1e-6}}, block: none", IMAGE, pooled)


LEARNED = "{learned: {per: head, start: %s}}"


def gains(w: Weights, term: str, layer: int = 0) -> torch.Tensor:
    return w[f"steps.attention_{layer}.operation.{term}.raw"]


def test_the_simplified_block_is_its_equations() -> None:
    # M = b A + a I - c C per head, C_ij = 1 / i;  x <- [M_h n_h] + g MLP(n), n = RMSNorm x  (He and Hofmann 2023, SAS-P)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        n = x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * w["steps.attention_0.norm.gain"]
        q, k = (heads(linear(w, f"steps.attention_0.operation.projections.{name}", n), 2) for name in ("query", "key"))
        identity = torch.eye(len(x), dtype=x.dtype)
        centre = torch.tril(torch.ones_like(identity)) / torch.arange(1, len(x) + 1).unsqueeze(1)
        y = []
        for h in range(2):
            mixing = gains(w, "map")[h] * softmax(q[h] @ k[h].T / math.sqrt(D / 2), causal=True)
            mixing = mixing + gains(w, "identity")[h] * identity + gains(w, "uniform")[h] * centre
            y.append(mixing @ heads(n, 2)[h])
        mlp = linear(w, "steps.mlp_0.operation.output", torch.relu(linear(w, "steps.mlp_0.operation.up", n)))
        return torch.cat(y, dim=-1) + w["steps.mlp_0.join.size"] * mlp

    terms = f"map: {LEARNED % 1}, identity: {LEARNED % 1}, uniform: {LEARNED % -1}"
    mixer = f"{{attention: {{heads: 2, bias: true, value_projection: identity, output: identity, {terms}, join: none}}}}"
    channel = "{mlp: {activation: relu, join: {step: {size: 0.1, learned: true}}}}"
    agree(f"depth: 1, norm: rmsnorm, block: [{{parallel: [{mixer}, {channel}]}}]", CAUSAL, block)


def test_attention_minus_identity_is_att_at_v_minus_v() -> None:
    # nanoGPT's y = att @ v, then y = y - v, in every head  (Ravuri and Lawrence 2025)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        return attend(w, 0, x, True, lambda a, v, h: a @ v - v)

    agree("depth: 1, block: [{attention: {heads: 2, identity: -1}}]", CAUSAL, block)


def test_a_learned_identity_is_one_number_for_the_whole_model() -> None:
    # y = att @ v - a v, one a in (0, 1)  (Ravuri and Lawrence 2025, GPT-2)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        share = 1 - torch.sigmoid(gains(w, "identity"))  # ours is -a in (-1, 0)
        assert 0 < share < 1 and share != 0.5
        return attend(w, 1, attend(w, 0, x, True, lambda a, v, h: a @ v - share * v), True, lambda a, v, h: a @ v - share * v)

    learned = "{learned: {per: model, start: -0.5, low: -1, high: 0}}"
    agree(f"depth: 2, block: [{{attention: {{heads: 2, identity: {learned}}}}}]", CAUSAL, block)


def test_differential_attention_is_its_equations() -> None:
    # (softmax(Q1 K1) - l softmax(Q2 K2)) V, l = exp(q1.k1) - exp(q2.k2) + l_init, l_init = 0.8 - 0.6 exp(-0.3 layer);
    # each head RMS-normed, times 1 - l_init  (Ye et al. 2024)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        for layer in range(2):
            name = f"steps.attention_{layer}.operation"
            start = 0.8 - 0.6 * math.exp(-0.3 * layer)
            vectors = [w[f"{name}.second.{v}"] for v in ("query_1", "key_1", "query_2", "key_2")]
            share = torch.exp(vectors[0] @ vectors[1]) - torch.exp(vectors[2] @ vectors[3]) + start
            n = ln(w, f"steps.attention_{layer}.norm", x)
            q, k, v = (heads(linear(w, f"{name}.projections.{p}", n), 2) for p in ("query", "key", "value"))
            y = []
            for h in range(2):
                (q1, q2), (k1, k2) = heads(q[h], 2), heads(k[h], 2)
                size = math.sqrt(q1.shape[1])
                o = (softmax(q1 @ k1.T / size, True) - share * softmax(q2 @ k2.T / size, True)) @ v[h]
                y.append(o / torch.sqrt((o**2).mean(-1, keepdim=True) + 1e-5) * w[f"{name}.head_gain"] * (1 - start))
            x = x + out(w, layer, y)
        return x

    agree("depth: 2, block: [{attention: {heads: 2, second_map: differential, head_norm: rms}}]", CAUSAL, block)


def turned(x: torch.Tensor) -> torch.Tensor:
    """Rotary positions, one pair of entries and one token at a time: (u_i, u_(i+n)) turned by l 10000^(-i/n), n half the entries."""
    y, n = x.clone(), x.shape[1] // 2
    for l, i in ((l, i) for l in range(len(x)) for i in range(n)):  # noqa: E741
        c, s = math.cos(l * 10000 ** (-i / n)), math.sin(l * 10000 ** (-i / n))
        y[l, i], y[l, i + n] = x[l, i] * c - x[l, i + n] * s, x[l, i + n] * c + x[l, i] * s
    return y


def rms(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return x / torch.sqrt((x**2).mean(-1, keepdim=True) + 1e-5) * gain


ROPE = {"positions": "rope", "tolerance": 1e-6}  # its angles are of single precision


@pytest.mark.parametrize("norm", ["none", "rms"])
def test_differential_attention_turns_each_half_by_itself(norm: str) -> None:
    # q.view(L, 2 H, P / 2), then the norm of a head, then apply_rotary_emb, then the two maps of a head  (Ye et al. 2024, their code)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        name = "steps.attention_0.operation"
        n = ln(w, "steps.attention_0.norm", x)
        q, k = (heads(linear(w, f"{name}.projections.{p}", n), 4) for p in ("query", "key"))  # twice as many heads
        v = heads(linear(w, f"{name}.projections.value", n), 2)
        if norm == "rms":
            q, k = [rms(u, w[f"{name}.query_gain"]) for u in q], [rms(u, w[f"{name}.key_gain"]) for u in k]
        q, k = [turned(u) for u in q], [turned(u) for u in k]
        A = [softmax(a @ b.T / math.sqrt(a.shape[1]), True) for a, b in zip(q, k, strict=True)]
        return x + out(w, 0, [(A[2 * h] - 0.5 * A[2 * h + 1]) @ v[h] for h in range(2)])

    agree(f"depth: 1, block: [{{attention: {{heads: 2, second_map: 0.5, qk_norm: {norm}}}}}]", CAUSAL, block, **ROPE)


def test_queries_and_keys_are_normed_before_they_are_turned() -> None:
    # q = q_norm(q_proj(x)), k = k_norm(k_proj(x)), then apply_rotary_pos_emb  (Qwen3, Gemma 3; one gain for all heads)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        name = "steps.attention_0.operation"
        n = ln(w, "steps.attention_0.norm", x)
        q, k, v = (heads(linear(w, f"{name}.projections.{p}", n), 2) for p in ("query", "key", "value"))
        q, k = [turned(rms(u, w[f"{name}.query_gain"])) for u in q], [turned(rms(u, w[f"{name}.key_gain"])) for u in k]
        return x + out(w, 0, [softmax(a @ b.T / math.sqrt(D / 2), True) @ c for a, b, c in zip(q, k, v, strict=True)])

    agree("depth: 1, block: [{attention: {heads: 2, qk_norm: rms}}]", CAUSAL, block, **ROPE)


def test_cosines_are_sharpened_by_the_root_of_their_entries() -> None:
    # sqrt(P) cos(q, k): softmax_scale = sqrt(head_dim) of unit queries and keys  (Loshchilov et al. 2024, nGPT, with its gains at 1)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        name = "steps.attention_0.operation"
        n = ln(w, "steps.attention_0.norm", x)
        q, k, v = (heads(linear(w, f"{name}.projections.{p}", n), 2) for p in ("query", "key", "value"))
        cos = [turned(a / a.norm(dim=1, keepdim=True)) @ turned(b / b.norm(dim=1, keepdim=True)).T for a, b in zip(q, k, strict=True)]
        return x + out(w, 0, [softmax(math.sqrt(D / 2) * c, True) @ vh for c, vh in zip(cos, v, strict=True)])

    agree("depth: 1, block: [{attention: {heads: 2, qk_norm: l2}}]", CAUSAL, block, **ROPE)


def test_gfsa_is_its_equations() -> None:
    # A + b_h (A + (K - 1) (A - I) A), K = 4  (Choi et al. 2023, their code); ours learns 3 b_h
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        beta = gains(w, "square") / 3

        def mix(a: torch.Tensor, v: torch.Tensor, h: int) -> torch.Tensor:
            return (a + beta[h] * (a + 3 * (a - torch.eye(len(a), dtype=a.dtype)) @ a)) @ v

        return attend(w, 0, x, False, mix)

    third = "{follows: {of: squared_map, times: -0.6666666666666667, plus: 1}}"
    agree(f"depth: 1, block: [{{attention: {{heads: 2, squared_map: {LEARNED % 0.2}, map: {third}}}}}]", IMAGE, block)


def test_neutreno_is_its_equations() -> None:
    # A V + l (V_0 - V), l = 0.6, V_0 the values of the first layer  (Nguyen et al. 2023)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        _, first = maps(w, 0, ln(w, "steps.attention_0.norm", x), 2, causal=False)
        for layer in range(3):
            x = attend(w, layer, x, False, lambda a, v, h: a @ v + 0.6 * (first[h] - v))
        return x

    agree("depth: 3, block: [{attention: {heads: 2, identity: -0.6, first_values: 0.6}}]", IMAGE, block)


def test_attnscale_is_its_equations() -> None:
    # D + (1 + w_h) (A - D), D the mean over all tokens  (Wang et al. 2022)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        scale = gains(w, "map")  # ours is 1 + w_h

        def mix(a: torch.Tensor, v: torch.Tensor, h: int) -> torch.Tensor:
            mean = torch.full_like(a, 1 / len(a))
            return (mean + scale[h] * (a - mean)) @ v

        return attend(w, 0, x, False, mix)

    agree(f"depth: 1, block: [{{attention: {{heads: 2, map: {LEARNED % 1}, uniform: {{follows: {{of: map, plus: 1}}}}}}}}]", IMAGE, block)


def test_value_residual_is_its_equations() -> None:
    # V_l <- V_1 / 2 + V_l / 2, before A  (Zhou et al. 2024, ResFormer)
    def block(w: Weights, x: torch.Tensor) -> torch.Tensor:
        _, first = maps(w, 0, ln(w, "steps.attention_0.norm", x), 2, causal=True)
        for layer in range(3):
            x = attend(w, layer, x, True, lambda a, v, h: a @ (0.5 * first[h] + 0.5 * v))
        return x

    agree("depth: 3, block: [{attention: {heads: 2, value_source: both}}]", CAUSAL, block)


def test_a_convolution_of_its_own_stride_is_the_patch_embedding() -> None:
    built, w = whole("embedding: {patch: {size: 4}}, depth: 1, pooling: mean, block: none", IMAGE)
    pictures = torch.randn(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    conv = F.conv2d(pictures, w["embedding.map.weight"].view(D, 1, 4, 4), w["embedding.map.bias"], stride=4)
    expected = conv.flatten(2).mean(-1) @ w["head.weight"].T + w["head.bias"]
    torch.testing.assert_close(built(pictures), expected, atol=1e-12, rtol=1e-12)
