"""Every diagnostic against its formula written out, its invariances and bounds, and what a look inside a model may and may not do."""

from __future__ import annotations

import copy
import inspect
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from aotsearch import yamlfile
from aotsearch.diagnostics import catalogue as diagnostics
from aotsearch.diagnostics import measures
from aotsearch.diagnostics.catalogue import catalogue, cheap
from aotsearch.diagnostics.measures import Call, Map, Subspaces
from aotsearch.diagnostics.probe import attention_map, coefficients, gradient_norms, knock_out, measure
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.models.model import Model, build
from aotsearch.models.parts.attention import Attention, present
from aotsearch.models.parts.context import ForwardContext, LayerContext
from aotsearch.models.parts.norm import DynamicTanh, LayerNorm

ROOT = Path(__file__).parent.parent
SIZES = {"vocabulary": 11, "context": 8}
IMAGE = {"image": 8, "channels": 2, "classes": 5}
TERMS = ("map", "identity", "uniform", "square", "second", "first", "exclusive")


def architecture(sizes: dict[str, int] = SIZES, **model: Any) -> Architecture:
    body = {} if "blocks" in model else {"depth": 2, "block": [{"attention": {"heads": 2}}, "mlp"]}
    rules = {"model": {"width": 8, **body, **model}}
    return Space.parse(yamlfile.parse(yamlfile.dump(rules), "f"), sizes).reference


def tied(times: int, part: Any) -> list[Any]:
    return [{"repeat": times, "of": part, "tied": True}]


def trained(sizes: dict[str, int] = SIZES, **model: Any) -> Model:
    """A model whose parameters are far from where they start, in double precision."""
    made = build(architecture(sizes, **model), 0)
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    return made.double()


def tokens(windows: int = 3) -> torch.Tensor:
    return torch.randint(0, 11, (windows, 8), generator=torch.Generator().manual_seed(2))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def orthonormal(D: int, P: int, seed: int = 0) -> torch.Tensor:
    return torch.linalg.qr(normal(D, P, seed=seed))[0]


def call(
    x: torch.Tensor, joined: torch.Tensor | None = None, left: torch.Tensor | None = None, read: torch.Tensor | None = None, **step: Any
):
    joined = x if joined is None else joined
    left = joined if left is None else left
    return Call(
        step=SimpleNamespace(**{"place": "pre", "norm": torch.nn.Identity(), "join": None, "operation": None, **step}),  # type: ignore[arg-type]
        flow=ForwardContext(None),  # type: ignore[arg-type]
        x_BLD=x,
        read_BLD=x if read is None else read,
        given_BLD=x,
        joined_BLD=joined,
        left_BLD=left,
    )


def mapped(a: torch.Tensor, before: torch.Tensor, after: torch.Tensor | None = None, seen: torch.Tensor | None = None) -> Map:
    """A map (B, H, L, M) over tokens (B, L, D), whose values are the tokens."""
    L = a.shape[-2]
    v = before.unsqueeze(1).expand(-1, a.shape[1], -1, -1)
    seen = torch.full((L,), a.shape[-1]) if seen is None else seen
    remembered = v.new_zeros(*v.shape[:2], a.shape[-1] - L, v.shape[-1])
    return Map(a, seen, torch.cat([remembered, v], dim=-2), before, before if after is None else after)


def rows(*shape: int, seed: int = 0) -> torch.Tensor:
    return normal(*shape, seed=seed).softmax(-1)


def close(found: Any, expected: Any, tolerance: float = 1e-10) -> None:
    found = torch.as_tensor(found, dtype=torch.float64).numpy()
    np.testing.assert_allclose(found, np.asarray(expected, dtype=np.float64), rtol=tolerance, atol=tolerance)


# The formulas, each written out once more.


X = normal(2, 5, 3)  # two windows of five tokens


def each(formula: Callable[[np.ndarray], Any], x: torch.Tensor = X) -> list[Any]:
    return [formula(window) for window in x.numpy()]


def test_hidden_rms() -> None:
    assert measures.hidden_rms(torch.tensor([[[3.0, 4.0], [0.0, 0.0]]])).mean().item() == pytest.approx(5 / math.sqrt(2) / 2)


def test_token_cosine() -> None:
    def formula(x: np.ndarray) -> float:
        u = [row / np.linalg.norm(row) for row in x]
        return float(np.mean([u[i] @ u[j] for i in range(5) for j in range(5) if i != j]))

    close(measures.token_cosine(X), each(formula))


def test_effective_and_stable_rank() -> None:
    def effective(x: np.ndarray) -> float:
        s = np.linalg.svd(x, compute_uv=False)
        p = s / s.sum()
        return float(np.exp(-(p * np.log(p)).sum()))

    def stable(x: np.ndarray) -> float:
        return float((x**2).sum() / np.linalg.svd(x, compute_uv=False)[0] ** 2)

    for x in (X, X.mT):
        close(measures.effective_rank(x), each(effective, x))
        close(measures.stable_rank(x), each(stable, x))
    close(measures.effective_rank(torch.eye(4).unsqueeze(0)), [4])
    close(measures.stable_rank(torch.diag(torch.tensor([2.0, 1.0])).unsqueeze(0)), [1.25])


def test_rank_one_residual() -> None:
    close(measures.rank_one_residual(X), each(lambda x: np.linalg.norm(x - np.ones((5, 1)) * x.mean(0)) / np.linalg.norm(x)))


def test_kurtosis() -> None:
    close(measures.kurtosis(X), each(lambda x: ((x**2).mean(0) ** 2).mean() / (x**2).mean() ** 2))
    close(measures.kurtosis(F.one_hot(torch.zeros(1, 5, dtype=torch.long), 3).double()), [3])
    close(measures.kurtosis(torch.ones(1, 5, 3)), [1])


def test_density() -> None:
    close(measures.density(torch.tensor([[[0.0, 1.0], [2.0, 3.0]], [[0.0, 0.0], [0.0, -1.0]]])), [0.75, 0.25])


def test_contribution_and_block_influence() -> None:
    c = call(
        torch.tensor([[[3.0, 4.0], [2.0, 0.0]]]), torch.tensor([[[3.0, 14.0], [2.0, 2.0]]]), left=torch.tensor([[[6.0, 8.0], [0.0, 7.0]]])
    )
    close(measures.contribution(c), [[2.0, 1.0]], 1e-6)  # of the join
    close(measures.block_influence(c), [[0.0, 1.0]], 1e-6)  # of the whole sublayer


def test_saturation() -> None:
    norm = DynamicTanh(LayerContext(2, 2), alpha=2.0)  # |tanh(2 x)| > 0.9 where |x| > 0.736
    low, high = torch.tensor([[[0.1, -0.7], [0.73, 0.0]]]), torch.tensor([[[0.74, -0.9], [0.1, 5.0]]])
    close(measures.saturation(call(low, read=high, norm=norm)), [0.75])
    close(measures.saturation(call(high, low, read=high, norm=norm, place="post")), [0.0])
    assert measures.saturation(call(low, norm=LayerNorm(LayerContext(2, 2)))) is None


@pytest.mark.parametrize(
    ("join", "size"),
    [
        ("add", 1.0),
        ({"step": {"size": 0.3}}, 0.3),
        ({"layerscale": {"start": 0.2}}, 0.2),
        ({"convex": {"start": 0.4}}, 0.4),
        ("none", None),
    ],
)
def test_step_size(join: Any, size: float | None) -> None:
    found = measure(build(architecture(block=[{"mlp": {"join": join}}])), tokens(), ["step-size"])
    assert found == {"step-size": [None if size is None else pytest.approx(size)] * 2}


def test_coefficients_by_term_and_by_head() -> None:
    learned = {"learned": {"per": "head", "start": 0.5}}
    model = build(architecture(block=[{"attention": {"heads": 2, "identity": learned, "uniform": -1}}, "mlp"]))
    with torch.no_grad():
        model.steps["attention_1"].operation.identity.raw.copy_(torch.tensor([1.0, -3.0]))
    found = measure(model, tokens(), [f"coefficient-{term}" for term in TERMS])
    assert found["coefficient-identity"] == [0.5, None, -1.0, None]
    assert found["coefficient-uniform"] == [-1.0, None, -1.0, None]
    assert found["coefficient-map"][0] == 1.0 and found["coefficient-second"][0] == 0.0
    assert coefficients(model) == {"identity": [[0.5, 0.5], None, [1.0, -3.0], None]}


def spaces(before: torch.Tensor, after: torch.Tensor | None = None) -> Subspaces:
    """Two subspaces of width 2 in 5 dimensions, not orthogonal, from a projection that is not orthonormal."""
    return Subspaces(normal(2, 2, 5, seed=7), before, before if after is None else after)


def projectors(s: Subspaces) -> list[np.ndarray]:
    """W^T (W W^T)^-1 W: onto the span of the rows of W."""
    return [w.T @ np.linalg.inv(w @ w.T) @ w for w in s.weight_HPD.numpy()]


Z = normal(2, 6, 5, seed=3)


def snr_by_hand(s: Subspaces, z: torch.Tensor, clusters_of: torch.Tensor) -> np.ndarray:
    p = projectors(s)
    found = np.zeros((2, 2))
    for b in range(2):
        cluster = [int(np.argmax([np.linalg.norm(q @ token) for q in p])) for token in clusters_of[b].numpy()]
        for h in range(2):
            own = z[b].numpy()[[i for i, c in enumerate(cluster) if c == h]].T
            found[b, h] = np.linalg.norm(p[h] @ own) / np.linalg.norm(own - p[h] @ own)
    return found


def test_snr_and_its_gain() -> None:
    s = spaces(Z, normal(2, 6, 5, seed=4))
    before, after = snr_by_hand(s, Z, Z), snr_by_hand(s, s.after_BLD, Z)
    assert np.isfinite(before).all()
    close(measures.snr(s), before.mean(-1))
    close(measures.snr_gain(s), (after / before).mean(-1))


def test_a_cluster_without_tokens_is_left_out_and_a_whole_space_has_no_ratio() -> None:
    basis = torch.linalg.qr(normal(4, 4))[0].T.view(2, 2, 4)
    z = 3 * basis[0, 0] + basis[1, 0]  # one token, signal 3 and noise 1
    close(measures.snr(Subspaces(basis, z.view(1, 1, 4), z.view(1, 1, 4))), [3])
    assert measures.snr(Subspaces(basis.view(1, 4, 4), z.view(1, 1, 4), z.view(1, 1, 4))).isnan().all()
    assert measure(trained(block=[{"attention": {"heads": 1}}]), tokens(), ["snr", "snr-gain"]) == {
        "snr": [None] * 2,
        "snr-gain": [None] * 2,
    }


def rate(z: np.ndarray) -> float:
    """1/2 logdet(I + D / (N 0.01) Z^T Z), tokens in rows."""
    n, d = z.shape
    return float(0.5 * np.linalg.slogdet(np.eye(d) + d / (n * 0.01) * z.T @ z)[1])


def test_coding_rates() -> None:
    s = spaces(Z, normal(2, 6, 5, seed=4))
    bases = [np.linalg.qr(w.T)[0] for w in s.weight_HPD.numpy()]

    def unit(z: np.ndarray) -> np.ndarray:
        return z / np.linalg.norm(z, axis=-1, keepdims=True)

    def compressed(z: np.ndarray) -> float:
        return sum(rate(unit(z) @ u) for u in bases)

    whole = np.array(each(lambda z: rate(unit(z)), Z))
    within, after = np.array(each(compressed, Z)), np.array(each(compressed, s.after_BLD))
    close(measures.coding_rate(call(Z)), whole)
    close(measures.coding_rate(call(normal(1, 3, 5))), each(lambda z: rate(unit(z)), normal(1, 3, 5)))  # fewer tokens than entries
    close(measures.compressed_rate(s), within)
    close(measures.compression(s), after - within)
    close(measures.rate_reduction(s), whole - within)
    close(measures.sparse_rate_reduction(s), whole - within - 0.1 * 30)


def test_orthogonality_and_overlap() -> None:
    s = spaces(Z)
    w = s.weight_HPD.numpy()
    errors = [np.linalg.norm(m @ m.T * 2 / (m**2).sum() - np.eye(2)) / math.sqrt(2) for m in w]
    close(measures.orthogonality(s).mean(), np.mean(errors))
    p, q = projectors(s)
    close(measures.overlap(s), np.trace(p @ q) / 2)  # tr(P Q) = |U^T V|^2
    both = orthonormal(5, 4).T.reshape(2, 2, 5)
    ideal = Subspaces(3 * both, Z, Z)
    close(measures.orthogonality(ideal), [0, 0])
    close(measures.overlap(ideal), 0)
    close(measures.overlap(Subspaces(torch.stack([both[0], both[0].flip(0)]), Z, Z)), 1)


def test_dirichlet_energy_and_the_variational_objective() -> None:
    a, before, after = rows(2, 3, 6, 6), Z, normal(2, 6, 5, seed=4)
    m = mapped(a, before, after)

    def data(a: np.ndarray, z: np.ndarray, beta: float) -> float:
        return float(np.mean([np.trace((np.eye(6) - head) @ (z @ z.T + beta * np.eye(6))) for head in a]))

    def bound(a: np.ndarray, z: np.ndarray) -> float:
        return (data(a, z, 1) - np.linalg.slogdet(z @ z.T + np.eye(6))[1]) / 6

    pairs = list(zip(a.numpy(), before.numpy(), after.numpy(), strict=True))
    close(measures.dirichlet_energy(m), [data(h, z, 0) / 6 for h, z, _ in pairs])
    close(measures.variational_objective(m), [bound(h, z) for h, z, _ in pairs])
    close(measures.objective_change(m), [bound(h, y) - bound(h, z) for h, z, y in pairs])


def test_entropy_mass_cosine_and_gap_of_a_map() -> None:
    a = torch.tensor([[1.0, 0.0, 0.0], [0.25, 0.75, 0.0], [0.5, 0.25, 0.25]], dtype=torch.float64).view(1, 1, 3, 3)
    m = mapped(a, torch.eye(3, dtype=torch.float64).unsqueeze(0), seen=torch.tensor([1, 2, 3]))
    second, third = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), 1.5 * math.log(2)
    close(measures.attention_entropy(m), [[[0, second, third]]])
    close(measures.attention_evenness(m), [[[second / math.log(2), third / math.log(3)]]])
    close(measures.diagonal_mass(m), [[[1, 0.75, 0.25]]])
    close(measures.first_mass(m), [[[0.25, 0.5]]])
    close(measures.value_cosine(m), [[[1, 0.75 / math.sqrt(0.625), 0.25 / math.sqrt(0.375)]]])  # v = I, y = A
    s = np.linalg.svd(a[0, 0].numpy(), compute_uv=False)
    close(measures.singular_gap(m), [[s[0] - s[1]]])


def test_a_map_whose_rows_do_not_sum_to_one_has_an_entropy() -> None:
    m = mapped(torch.tensor([[[[0.0, 0.0], [0.3, 0.3]]]]), torch.ones(1, 2, 2))
    close(measures.attention_entropy(m), [[[0, math.log(2)]]], 1e-6)


def test_memory_counts_in_the_entropy_alone() -> None:
    a = torch.full((1, 1, 2, 4), 0.25)
    m = mapped(a, torch.eye(2).unsqueeze(0))
    close(measures.attention_evenness(m), [[[1, 1]]], 1e-6)
    close(measures.diagonal_mass(m), [[[0.25, 0.25]]])


def test_gradient_norms_are_those_of_backward() -> None:
    model = build(architecture(depth=1, block=[{"repeat": 2, "of": "mlp", "tied": True}, "attention"]))

    def loss(m: Model) -> torch.Tensor:
        return m(tokens()).square().sum()

    found = gradient_norms(model, loss)["gradient-norm"]
    assert all(p.grad is None for p in model.parameters())
    loss(model).backward()
    by_hand = {n: math.sqrt(sum(p.grad.square().sum().item() for p in s.parameters())) for n, s in model.steps.items()}  # type: ignore[union-attr]
    assert found == [pytest.approx(by_hand[name], rel=1e-5) for name in ("mlp_0", "mlp_0", "attention_0")]
    assert measure(model, tokens(), ["gradient-norm"], loss) == {"gradient-norm": found}


# Invariances and bounds.


SHAPES = st.tuples(st.integers(2, 7), st.integers(1, 6), st.integers(0, 99))
INVARIANT = ("effective_rank", "stable_rank", "token_cosine", "rank_one_residual")


@settings(max_examples=30, deadline=None)
@given(SHAPES)
def test_the_shape_of_the_stream_knows_neither_order_nor_axes_nor_scale(shape: tuple[int, int, int]) -> None:
    L, D, seed = shape
    x = normal(1, L, D, seed=seed)
    shuffled, turned = x[:, torch.randperm(L, generator=torch.Generator().manual_seed(seed))], x @ orthonormal(D, D, seed)
    for name in INVARIANT:
        value = getattr(measures, name)
        for other in (shuffled, turned, 3 * x):
            close(value(other), value(x), 1e-6)
    for name in ("effective_rank", "stable_rank"):
        assert 1 - 1e-9 <= getattr(measures, name)(x).item() <= min(L, D) + 1e-9
    assert -1 / (L - 1) - 1e-9 <= measures.token_cosine(x).item() <= 1 + 1e-9
    assert 0 <= measures.rank_one_residual(x).item() <= 1 + 1e-9
    assert 1 - 1e-9 <= measures.kurtosis(x).item() <= D + 1e-9


def test_collapsed_tokens_have_rank_one() -> None:
    x = normal(1, 1, 6).float().expand(1, 9, 6)
    close(measures.effective_rank(x), [1], 1e-4)
    close(measures.token_cosine(x), [1], 1e-6)
    close(measures.rank_one_residual(x), [0], 1e-6)


@settings(max_examples=30, deadline=None)
@given(SHAPES)
def test_a_map_has_bounded_entropy_and_masses(shape: tuple[int, int, int]) -> None:
    L, D, seed = shape
    keep = torch.ones(L, L, dtype=torch.bool).tril()
    a = (3 * normal(1, 2, L, L, seed=seed)).masked_fill(~keep, -math.inf).softmax(-1)
    m = mapped(a, normal(1, L, D, seed=seed), seen=keep.sum(-1))
    entropy = measures.attention_entropy(m)
    assert (entropy >= 0).all() and (entropy <= m.seen_L.log() + 1e-9).all()
    for name in ("attention_evenness", "diagonal_mass", "first_mass"):
        value = getattr(measures, name)(m)
        assert (value >= 0).all() and (value <= 1 + 1e-9).all(), name


@settings(max_examples=30, deadline=None)
@given(SHAPES)
def test_under_equal_norms_the_energy_is_that_of_differences(shape: tuple[int, int, int]) -> None:
    L, D, seed = shape
    x, a = F.normalize(normal(1, L, D, seed=seed), dim=-1), rows(1, 1, L, L, seed=seed).tril()
    a = a / a.sum(-1, keepdim=True)
    by_pairs = sum(a[0, 0, i, j] * (x[0, i] - x[0, j]).square().sum() for i in range(L) for j in range(L)) / 2 / L
    close(measures.dirichlet_energy(mapped(a, x)), [by_pairs.item()])  # type: ignore[union-attr]


def test_a_diffusion_step_descends_its_bound() -> None:
    model = trained(
        IMAGE,
        depth=1,
        norm="none",
        block=[{"attention": {"heads": 1, "value_projection": "identity", "output": "identity", "identity": -1}}],
    )
    model.steps["attention_0"].join.size = 0.01  # type: ignore[assignment]
    model.steps["attention_0"].join.forward = lambda x, y: x + 0.01 * y  # type: ignore[method-assign]
    images = normal(2, 2, 8, 8, seed=5)
    assert measure(model, images, ["objective-change"])["objective-change"][0] < 0  # type: ignore[operator]


# The theorem of the first paper, through the library's own parts.


def mixture(N: int, K: int, p: int, delta: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of orthogonal subspaces: U_k a + sum over the others of U_j e. And the subspaces, (K p, K p) in rows."""
    basis_KPD = orthonormal(K * p, K * p, seed).T.reshape(K, p, K * p)
    scale_KK = delta + (1 - delta) * torch.eye(K, dtype=torch.float64)
    entries = normal(K, N // K, K, p, seed=seed + 1) * scale_KK.view(K, 1, K, 1)
    return torch.einsum("knjp,jpd->knd", entries, basis_KPD).reshape(1, N, K * p), basis_KPD.reshape(K * p, K * p)


def denoiser(basis: torch.Tensor, K: int, layers: int, eta: float) -> Model:
    """Z <- Z + eta MSSA(Z) with known subspaces, softmax then threshold."""
    mssa = {
        "attention": {"heads": K, "qkv": "tied", "output": "transposed", "scale": 1, "score": "threshold", "join": {"step": {"size": eta}}}
    }
    model = build(architecture(IMAGE, width=len(basis), blocks=tied(layers, mssa), norm="none", positions="none")).double()
    model.embedding = torch.nn.Identity()
    (step,) = model.steps.values()
    step.operation.projections["subspace"].weight.data.copy_(basis)  # type: ignore[index, union-attr]
    return model


@pytest.mark.parametrize("seed", [0, 1])
def test_a_threshold_layer_multiplies_the_snr_as_the_theorem_says(seed: int) -> None:
    N, K, p, delta, eta, layers = 1000, 2, 64, 0.02, 0.1, 12
    z, basis = mixture(N, K, p, delta, seed)
    found = measure(denoiser(basis, K, layers, eta), z, ["snr", "snr-gain", "diagonal-mass", "orthogonality", "overlap"])
    close(found["snr-gain"], [1 + eta * 0.501] * layers, 1e-9)
    close(found["snr"], [found["snr"][0] * 1.0501**n for n in range(layers)], 1e-9)  # type: ignore[operator]
    parts = (z[0].view(K, N // K, -1) @ basis.T).view(K, N // K, K, p)  # [k, i, j] = U_j^T z_i, i in cluster k
    exact = [parts[k, :, k].norm() / parts[k, :, 1 - k].norm() for k in range(K)]
    assert found["snr"][0] == pytest.approx(float(sum(exact)) / K, rel=1e-9)
    assert found["snr"][0] == pytest.approx(1 / delta, rel=0.05)
    close(found["diagonal-mass"], [0.501 / K] * layers)  # a token attends to itself, in the head of its own subspace alone
    close(found["orthogonality"] + found["overlap"], [0] * 2 * layers)


def test_too_much_noise_breaks_the_theorem() -> None:
    z, basis = mixture(1000, 2, 64, 0.2, 0)
    gain = measure(denoiser(basis, 2, 8, 0.5), z, ["snr-gain"])["snr-gain"]
    assert gain[0] == pytest.approx(1.2505, abs=0.01) and gain[-1] < 1  # type: ignore[operator]


# Looking into a model.


OPTIONS: list[dict[str, Any]] = [
    {},
    {"kv_heads": 1},
    {"qkv": "tied"},
    {"qkv": "shared-kv"},
    {"qkv": "shared-qk"},
    {"value_projection": "identity"},
    {"scale": "learned"},
    {"scale": 0.7},
    {"qk_norm": "l2", "scale": "learned"},
    {"qk_norm": "rms"},
    {"softcap": 2.0},
    {"mask_self": True},
    {"mask_self": True, "persistent_kv": 2},
    {"persistent_kv": 3},
    {"persistent_kv": 3, "score": "sink"},
    {"second_map": "differential"},
    {"squared_map": 0.5, "map": 0},
    {"value_source": "both"},
    {"value_source": "first"},
    {"first_values": 0.5, "identity": -0.5},
    {"score": {"threshold": {"tau": 0.2}}, "qkv": "tied"},
    *({"score": score} for score in ("sink", "diagonal", "sigmoid", "relu", "linear")),
]


PLACED = [(o, p) for p in ("rope", "alibi") for o in OPTIONS if o.get("score") != "linear"]  # whose features know no places


@pytest.mark.parametrize(("options", "positions"), PLACED, ids=str)
@pytest.mark.parametrize("sizes", [SIZES, IMAGE], ids=["causal", "image"])
def test_the_map_is_what_attention_applies_to_values(options: dict[str, Any], positions: str, sizes: dict[str, int]) -> None:
    model = trained(sizes, positions=positions, block=[{"attention": {"heads": 2, **options}}])
    inputs = tokens() if sizes is SIZES else normal(2, 2, 8, 8)
    seen: list[tuple[Attention, torch.Tensor, ForwardContext]] = []
    for step in model.steps.values():
        step.operation.register_forward_hook(lambda mixer, given, _: seen.append((mixer, given[0], given[1])))
    model(inputs)
    for mixer, x, flow in seen:
        v = mixer.values_of(x, flow)
        q, k = mixer.queries_and_keys(x, v, flow)
        if present(mixer.second):
            q, k = q.chunk(2)[0], k.chunk(2)[0]
        a = attention_map(mixer, q, k, flow)
        remembered = [mixer.memory_value.expand(len(v), -1, -1, -1)] if mixer.memory else []
        torch.testing.assert_close(a @ torch.cat([*remembered, v], dim=-2), mixer.attend(q, k, v, flow))
    everything = measure(model, inputs, [d.name for d in catalogue().values() if d.kind == "map"])
    assert all(value is not None for values in everything.values() for value in values)


EVERYTHING = [name for name, d in catalogue().items() if d.kind != "gradient"]


@pytest.mark.parametrize(
    "model",
    [
        {},
        {"place": "post"},
        {"place": "sandwich", "norm": "dyt"},
        {"norm": "none", "block": [{"tssa": {"heads": 2}}, {"ista": {"join": "none"}}]},
        {"block": [{"parallel": ["attention", "mlp"]}]},
        {"blocks": [{"repeat": 3, "of": ["attention", "mlp"], "tied": True}]},
    ],
    ids=str,
)
def test_a_model_can_be_measured_and_stays_as_it_was(model: dict[str, Any]) -> None:
    made = trained(**model)
    state, outputs = copy.deepcopy(made.state_dict()), made(tokens())
    found = measure(made, tokens(), EVERYTHING)
    assert list(found) == EVERYTHING and made.training
    for name, values in found.items():
        assert len(values) == len(made.order) + catalogue()[name].per_point, name
        assert all(v is None or math.isfinite(v) for v in values), name
        is_map = catalogue()[name].needs_attention
        assert not is_map or [v is None for v in values] == [not s.startswith("attention") for s in made.order], name
    assert all(torch.equal(state[name], value) for name, value in made.state_dict().items())
    assert torch.equal(made(tokens()), outputs)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in made.modules())


def test_the_stream_is_seen_before_the_first_sublayer_and_after_each() -> None:
    model = trained(blocks=tied(3, "attention"))
    seen: list[torch.Tensor] = []
    (step,) = model.steps.values()
    step.register_forward_hook(lambda _, given, made: seen.extend([given[0], made]))
    model(tokens())
    points = [seen[0], *seen[1::2]]
    assert measure(model, tokens(), ["hidden-rms"])["hidden-rms"] == [pytest.approx(measures.hidden_rms(x).mean().item()) for x in points]


def test_windows_may_be_measured_in_any_number_of_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = trained(norm="dyt")
    whole = measure(model, tokens(5), EVERYTHING)
    monkeypatch.setattr("aotsearch.diagnostics.probe.ENTRIES", 300)  # two windows
    parts = measure(model, tokens(5), EVERYTHING)
    for name in EVERYTHING:
        assert parts[name] == [v if v is None else pytest.approx(v) for v in whole[name]], name


def test_numbers_are_computed_without_reduced_precision() -> None:
    model = trained().float()
    plain = measure(model, tokens(), EVERYTHING)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert measure(model, tokens(), EVERYTHING) == plain


def test_what_is_not_finite_is_absent() -> None:
    model = trained()
    model.steps["mlp_0"].operation.output.weight.data.fill_(math.inf)  # type: ignore[union-attr]
    found = measure(model, tokens(), EVERYTHING)
    assert found["hidden-rms"][0] is not None and found["hidden-rms"][-1] is None and found["effective-rank"][-1] is None


def test_statistics_of_batch_norms_are_not_touched() -> None:
    model = build(architecture(IMAGE, embedding={"stem": {"size": 4}}))
    state = copy.deepcopy(model.state_dict())
    measure(model, normal(3, 2, 8, 8).float())
    knock_out(model, lambda m: m(normal(3, 2, 8, 8).float()).square().mean().item(), ways=["mean"])
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


# Knock-out.


def loss_of(model: Model) -> float:
    return F.cross_entropy(model(tokens(4)).flatten(0, 1), tokens(4).roll(1, 0).flatten()).item()


@pytest.mark.parametrize(
    "block",
    [
        ["attention", "mlp"],
        [{"attention": {"place": "post"}}, "mlp"],
        ["attention", {"mlp": {"join": "convex"}}],
        ["attention", {"mlp": {"join": "none"}}],
        ["attention", {"parallel": [{"attention": {"heads": 1}}, "mlp"]}],
    ],
    ids=str,
)
def test_a_skipped_sublayer_is_as_good_as_not_built(block: list[Any]) -> None:
    made = trained(depth=1, block=block)
    flat = [part for item in block for part in (item["parallel"] if isinstance(item, dict) and "parallel" in item else [item])]
    for row in knock_out(made, loss_of, ways=["zero"]):
        left = [part for i, part in enumerate(flat) if i not in row.sublayers]
        without = build(architecture(depth=1, block=left)).double()
        kept = [name for i, name in enumerate(made.order) if i not in row.sublayers]
        state = {k: v for k, v in made.state_dict().items() if not k.startswith("steps.")}
        for new, old in zip(without.order, kept, strict=True):
            state |= {f"steps.{new}.{k}": v for k, v in made.steps[old].state_dict().items()}
        without.load_state_dict(state)
        if block[-1] == flat[-1]:  # parallel sublayers that are left are one after the other only if one of them is gone
            assert row.loss == loss_of(without), row
        elif row.sublayers[-1] > 0:
            assert row.loss == loss_of(without), row
        assert row.increase == pytest.approx(row.loss - loss_of(made))


def test_the_mean_and_the_identity_are_put_in_place_of_what_an_operation_makes() -> None:
    model = trained(depth=1)
    rows = {(r.part, r.way): r for r in knock_out(model, loss_of, ways=["mean", "identity"])}
    made: list[torch.Tensor] = []
    mlp = model.steps["mlp_0"]
    handle = mlp.operation.register_forward_hook(lambda _, given, out: made.extend([given[0], out]))
    outputs = model(tokens(4))
    handle.remove()
    x = made[0]
    stream: list[torch.Tensor] = []
    handle = mlp.register_forward_pre_hook(lambda _, given: stream.append(given[0]))
    model(tokens(4))
    handle.remove()

    @torch.no_grad()
    def loss_with(y: torch.Tensor) -> float:
        logits = F.linear(model.final_norm(stream[0] + y), model.embedding.weight)
        return float(F.cross_entropy(logits.flatten(0, 1), tokens(4).roll(1, 0).flatten()))

    assert outputs.shape == (4, 8, 11)
    assert rows["mlp_0", "identity"].loss == pytest.approx(loss_with(x), rel=1e-12)
    assert rows["mlp_0", "mean"].loss == pytest.approx(loss_with(made[1].mean((0, 1)).expand_as(x)), rel=1e-12)


def test_each_place_of_tied_weights_is_knocked_out_by_itself() -> None:
    model = trained(blocks=tied(3, "attention"))
    rows = knock_out(model, loss_of, ways=["zero"])
    assert [(r.part, r.sublayers) for r in rows] == [*(("attention_0", (i,)) for i in range(3)), ("mixers", (0, 1, 2))]
    two = trained(blocks=tied(2, "attention"))
    two.load_state_dict(model.state_dict())
    assert [r.loss for r in rows[:3]] == [loss_of(two)] * 3  # of equal places any one may go


def test_knocking_out_asks_for_what_it_is_told() -> None:
    model = trained()
    rows = knock_out(model, loss_of)
    assert len(rows) == 3 * (4 + 2) and {r.part for r in rows} == {*model.order, "mixers", "channels"}
    assert [r.sublayers for r in rows if r.part == "channels"] == [(1, 3)] * 3
    assert [(r.sublayers, r.way) for r in knock_out(model, loss_of, [2], ["mean"])] == [((2,), "mean")]


def test_a_model_is_whole_again_even_after_an_error() -> None:
    model = trained()
    outputs, calls = model(tokens()), []

    def fails(m: Model) -> float:
        calls.append(m(tokens()))
        if len(calls) == 3:
            raise RuntimeError("the disk is full")
        return 0.0

    with pytest.raises(RuntimeError, match="disk"):
        knock_out(model, fails)
    assert model.training and torch.equal(model(tokens()), outputs)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# The catalogue and its page.


def test_every_diagnostic_has_its_function_its_formula_and_its_source() -> None:
    assert set(cheap()) == {"hidden-rms", "contribution", "token-cosine", "effective-rank"}
    for d in catalogue().values():
        assert callable(getattr(measures, d.function)), d.name
        assert d.summary.endswith(".") and d.formula and d.source, d.name
        assert d.kind in diagnostics.KINDS and d.better in ("", "more", "less"), d.name
    declared = {d.function for d in catalogue().values()}
    assert declared == {name for name, found in vars(measures).items() if inspect.isfunction(found)}


def test_the_catalogue_is_read_without_torch() -> None:
    code = "import sys, aotsearch.diagnostics.catalogue as d; d.page(); assert len(d.catalogue()) > 30 and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_page_is_that_of_the_catalogue() -> None:
    page = (ROOT / "docs" / "diagnostics.md").read_text(encoding="utf-8")
    assert page == diagnostics.page(), "aotsearch.diagnostics.catalogue.page() writes docs/diagnostics.md"
