"""The contract that every registered word keeps, and one hand-written numeric test for each formula."""

from __future__ import annotations

import inspect
import io
import math
import typing
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from aotsearch import registry, yamlfile
from aotsearch.architecture import Architecture
from aotsearch.model import Model, build
from aotsearch.parts.attention import Attention
from aotsearch.parts.channel import Mlp
from aotsearch.parts.norm import LayerNorm, RmsNorm
from aotsearch.parts.position import Learned, Positions, Rotary
from aotsearch.space import Space

SIZES = {"vocabulary": 11, "context": 8}
WIDTH = 8


def architecture(model: dict[str, Any]) -> Architecture:
    return Space.parse(yamlfile.parse(yamlfile.dump({"model": {"width": WIDTH, **model}}), "f"), SIZES).reference


def settings(word: registry.Word) -> Iterator[Any]:
    """The word at its defaults, and with each option at another level."""
    yield word.name
    others: dict[str, list[Any]] = {"heads": [1, 2], "identity": [-1, 1, 0.5], "expand": [0.5, 2], "eps": [1e-3], "base": [100.0]}
    for option in word.options.values():
        levels = [v for v in option.literals if v != option.default]
        levels += [not option.default] if isinstance(option.default, bool) else others.get(option.name, [])
        assert levels, f"{word.name}.{option.name} has no second level in this test"
        for level in levels:
            yield {word.name: {option.name: level}}


def cases() -> list[Any]:
    found = []
    for word in registry.library().values():
        for setting in settings(word) if word.slot != "task" else ():
            block: list[Any] = ["attention", "mlp"]
            extra: dict[str, Any] = {}
            if word.slot in registry.SUBLAYERS:
                block = ["attention", setting] if word.slot == "channel" else [setting, "mlp"]
            else:
                extra = {word.slot: setting}
            found.append(pytest.param({"depth": 2, "block": block, **extra}, id=f"{word.slot}-{yamlfile.dump(setting).strip()}"))
    found.append(pytest.param({"depth": 2, "place": "post", "block": ["attention", "mlp"]}, id="place-post"))
    for slot in ("norm", "positions"):
        found.append(pytest.param({"depth": 2, slot: "none", "block": ["attention", "mlp"]}, id=f"{slot}-none"))
    found.append(pytest.param({"depth": 2, "block": ["attention", {"mlp": {"join": "none"}}]}, id="join-none"))
    found.append(pytest.param({"depth": 2, "head": "free", "block": ["attention"]}, id="head-free"))
    found.append(pytest.param({"blocks": {"repeat": 2, "of": ["attention", "mlp"], "tied": True}}, id="tied"))
    return found


@pytest.fixture(params=cases())
def model(request: pytest.FixtureRequest) -> Model:
    return build(architecture(request.param), seed=1)


TOKENS = torch.randint(0, 11, (3, 8), generator=torch.Generator().manual_seed(0))


def test_a_word_gives_finite_logits_of_the_right_shape(model: Model) -> None:
    logits = model(TOKENS)
    assert logits.shape == (3, 8, 11) and logits.dtype == torch.float32 and logits.isfinite().all()
    assert model(TOKENS[:, :5]).shape == (3, 5, 11)


def test_a_gradient_reaches_every_parameter_of_a_word(model: Model) -> None:
    with torch.no_grad():  # away from symmetric starts, such as a learned coefficient at 0 beside a tied projection
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    F.cross_entropy(model(TOKENS).flatten(0, 1), TOKENS.flatten()).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_a_word_is_causal(model: Model) -> None:
    changed = TOKENS.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    before, after = model(TOKENS), model(changed)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def test_a_word_is_deterministic_and_survives_its_state_dict(model: Model) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = build_like(model)
    other.load_state_dict(torch.load(file))
    assert torch.equal(model(TOKENS), model(TOKENS)) and torch.equal(model(TOKENS), other(TOKENS))


def build_like(model: Model) -> Model:
    import copy

    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    return other


def test_the_signature_read_from_source_is_the_signature_of_the_class() -> None:
    for word in registry.library().values():
        cls = word.load()
        live = {n: p for n, p in inspect.signature(cls).parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert list(live) == list(word.options)
        hints = typing.get_type_hints(cls.__init__, include_extras=True)
        for name, option in word.options.items():
            assert live[name].default == option.default or option.required
            assert hints[name] == option.type or set(typing.get_args(hints[name])) == set(typing.get_args(option.type))
            assert option.description, f"{word.name}.{name} is not described"
        assert word.summary.endswith(".") and (word.source or word.slot == "task")


def attention(**options: Any) -> Attention:
    torch.manual_seed(0)
    return Attention(WIDTH, **options)


X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(3))


def mixing(module: Attention, x_BLD: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A_h and V_h by the formula, one head and one token at a time."""
    H, P = module.heads, WIDTH // module.heads
    weights = [p.weight for p in module.projections.values()]
    W_q, W_k, W_v = weights if len(weights) == 3 else weights * 3
    L = x_BLD.shape[1]
    A = torch.zeros(2, H, L, L)
    V = (x_BLD @ W_v.T).view(2, L, H, P)
    for b in range(2):
        for h in range(H):
            rows = slice(h * P, (h + 1) * P)
            for i in range(L):
                q = W_q[rows] @ x_BLD[b, i]
                scores = torch.stack([q @ (W_k[rows] @ x_BLD[b, j]) / math.sqrt(P) for j in range(i + 1)])
                A[b, h, i, : i + 1] = scores.softmax(0)
    return A, V


@pytest.mark.parametrize("qkv", ["free", "tied"])
@pytest.mark.parametrize("identity", [0, -1, 1, 0.25])
def test_attention_is_softmax_plus_a_multiple_of_the_identity(qkv: Any, identity: float) -> None:
    module = attention(heads=2, qkv=qkv, identity=identity)
    A, V = mixing(module, X)
    M = A + identity * torch.eye(5)
    y = torch.einsum("bhij,bjhp->bihp", M, V).reshape(2, 5, WIDTH) @ module.output.weight.T
    torch.testing.assert_close(module(X, Positions(), True), y, atol=1e-6, rtol=1e-5)


def test_minus_identity_leaves_the_first_token_nothing_under_a_causal_mask() -> None:
    # A_00 = 1, so (A - I) v_0 = 0
    assert attention(identity=-1)(X, Positions(), True)[:, 0].abs().max() < 1e-6


def test_a_learned_identity_starts_as_plain_attention_and_then_acts() -> None:
    plain, learned = attention(), attention(identity="learned")
    learned.load_state_dict(plain.state_dict() | {"identity": learned.identity})
    assert torch.equal(plain(X, Positions(), True), learned(X, Positions(), True))
    with torch.no_grad():
        learned.identity.fill_(-1)
    assert learned(X, Positions(), True)[:, 0].abs().max() < 1e-6


def test_tied_attention_has_one_projection_and_an_output() -> None:
    assert sum(p.numel() for p in attention(qkv="tied").parameters()) == 2 * WIDTH**2
    assert sum(p.numel() for p in attention(qkv="free").parameters()) == 4 * WIDTH**2


def test_layernorm_and_rmsnorm_are_their_formulas() -> None:
    layer, rms = LayerNorm(WIDTH), RmsNorm(WIDTH)
    with torch.no_grad():
        layer.gain.copy_(torch.arange(8.0))
        layer.bias.fill_(0.5)  # type: ignore[union-attr]
        rms.gain.copy_(torch.arange(8.0))
    mean, var = X.mean(-1, keepdim=True), X.var(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(layer(X), (X - mean) / (var + 1e-5).sqrt() * torch.arange(8.0) + 0.5)
    torch.testing.assert_close(rms(X), X / ((X**2).mean(-1, keepdim=True) + 1e-5).sqrt() * torch.arange(8.0))


@pytest.mark.parametrize(("activation", "s"), [("relu", lambda x: x.clamp(min=0)), ("relu2", lambda x: x.clamp(min=0) ** 2)])
def test_mlp_is_two_maps_with_a_nonlinearity_between(activation: Any, s: Any) -> None:
    module = Mlp(WIDTH, expand=2, activation=activation)
    torch.testing.assert_close(module(X), s(X @ module.up.weight.T) @ module.output.weight.T)
    gelu = Mlp(WIDTH, expand=2)
    inner = X @ gelu.up.weight.T
    torch.testing.assert_close(gelu(X), (inner * 0.5 * (1 + torch.erf(inner / 2**0.5))) @ gelu.output.weight.T)


def test_rope_turns_pairs_by_their_place_so_scores_depend_on_distance_alone() -> None:
    rope = Rotary(WIDTH, 16, base=100.0)
    q = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0)).expand(1, 1, 16, 6)
    turned = rope.rotate(q)[0, 0]
    angle = torch.tensor(3 * 100.0 ** (-2 * 1 / 6))  # place 3, pair 1
    expected = q[0, 0, 3, 1] * angle.cos() - q[0, 0, 3, 4] * angle.sin()
    torch.testing.assert_close(turned[3, 1], expected)
    scores = turned @ turned.T
    torch.testing.assert_close(scores.diagonal(2), scores.diagonal(2)[:1].expand(14), atol=1e-5, rtol=1e-5)


def test_learned_positions_add_the_row_of_each_place() -> None:
    learned = Learned(WIDTH, 5)
    with torch.no_grad():
        learned.table.copy_(torch.arange(40.0).view(5, 8))
    torch.testing.assert_close(learned.embed(X)[1, 3], X[1, 3] + torch.arange(24.0, 32.0))


def test_post_norm_normalises_after_the_join_and_pre_norm_before_the_operation() -> None:
    pre, post = (build(architecture({"depth": 1, "place": p, "block": ["mlp"]})) for p in ("pre", "post"))
    step_pre, step_post = pre.steps["mlp_0"], post.steps["mlp_0"]
    torch.testing.assert_close(step_pre(X, Positions(), True), X + step_pre.operation(step_pre.norm(X)))
    torch.testing.assert_close(step_post(X, Positions(), True), step_post.norm(X + step_post.operation(X)))
    assert isinstance(post.final_norm, torch.nn.Identity) and isinstance(pre.final_norm, LayerNorm)
