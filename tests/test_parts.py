"""The contract that every registered word keeps, and one hand-written numeric test for each formula."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import io
import itertools
import json
import math
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from invariants import masked
from torch.nn import functional as F

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.grammar import library
from aotsearch.grammar.architecture import Architecture, part_from_plain
from aotsearch.grammar.space import Space
from aotsearch.grammar.words import Option, Word
from aotsearch.models.cost import cost
from aotsearch.models.model import Model, build, module_of
from aotsearch.models.parts.attention import Attention, present
from aotsearch.models.parts.channel import Mlp
from aotsearch.models.parts.context import ForwardContext, LayerContext
from aotsearch.models.parts.norm import LayerNorm, RmsNorm
from aotsearch.models.parts.position import LearnedPositions, Positions, Rotary
from aotsearch.study.loading import load

SIZES = {"vocabulary": 11, "context": 8}
IMAGE = {"image": 8, "channels": 2, "classes": 5}
VECTORS = {"inputs": 3, "outputs": 1, "context": 8}
WIDTH = 8

# Where a level of an option acts only beside others: (word, option) -> level -> the options beside it.
BESIDE: dict[tuple[str, str], dict[Any, dict[str, Any]]] = {
    ("attention", "output"): {"transposed": {"qkv": "tied"}},
    ("attention", "score"): {"threshold": {"qkv": "tied"}},
    ("attention", "second_map"): {0.5: {"heads": 2}, "learned": {"heads": 2}, "differential": {"heads": 2, "head_norm": "rms"}},
    ("learned", "low"): {-1.0: {"high": 2.0}},
    ("learned", "high"): {3.0: {"low": -1.0}},
}
# Levels that are told apart on their own: every other option takes some number above its default, the other flag, or another literal.
LEVELS: dict[str, list[Any]] = {
    "heads": [2],
    "base": [100.0],
    "kv_heads": [1, 2],
    "size": [2, 4],
    "of": ["identity", "squared_map", "second_map", "first_values"],
    "persistent_kv": [3],
    "low": [-1.0],
    "high": [3.0],
    "features": [16],
    "tau": [0.2],
    "second_map": [0.5, "learned", "differential"],
    "dropout": [0.2],
}
SETTINGS = {"class-attention": {"heads": 2}, "stem": {"size": 4}}  # beside which the other options of a word act


def architecture(model: dict[str, Any], sizes: dict[str, int] = SIZES) -> Architecture:
    return Space.parse(yamlfile.parse(yamlfile.dump({"model": {"width": WIDTH, **model}}), "f"), sizes).reference


def levels(word: Word, option: Option) -> list[Any]:
    """Other levels of an option than its default."""
    if option.name in LEVELS:
        found = {"stem": [2], "class-attention": [1]}.get(word.name, LEVELS[option.name])
    else:
        found = [*option.literals]
        if isinstance(option.default, bool) or "true or false" in option.law:
            found += [True, False]
        if "number" in option.law and not isinstance(option.default, bool):
            d = option.default
            found += [d + 1 if isinstance(d, int) else d + 1.5 if isinstance(d, float) else 2]
        found += (
            [w.name for w in library.words_of(option.slot).values() if w.name not in ("follows", "differential")] if option.slot else []
        )
    found = [v for v in found if v != option.default]
    assert found, f"{word.name}.{option.name} has no second level in this test"
    return found


def settings(word: Word) -> Iterator[tuple[str, Any, Any]]:
    """An option, the word without it, and with it: for every option at every other level."""
    base = SETTINGS.get(word.name, {})
    for option in word.options.values():
        for level in levels(word, option):
            beside = base | BESIDE.get((word.name, option.name), {}).get(level, {})
            before = beside if word.name != "learned" else {}  # one bound alone is against the law
            before = {k: v for k, v in before.items() if k != option.name or k in base}
            yield option.name, {word.name: before} if before else word.name, {word.name: {**beside, option.name: level}}


def around(word: Word, setting: Any) -> tuple[dict[str, Any], dict[str, int]]:
    """A small model in which a word stands, and the sizes of its task."""
    if word.slot == "mixer":
        return {"depth": 2, "block": [setting, "mlp"]}, SIZES
    if word.slot == "channel":
        return {"depth": 2, "block": ["attention", setting]}, SIZES
    if word.slot == "score":
        qkv = "tied" if word.name == "threshold" else "free"
        return {"depth": 2, "block": [{"attention": {"score": setting, "qkv": qkv}}]}, SIZES
    if word.slot == "coefficient":
        options: dict[str, Any] = {"heads": 2, "identity": setting}
        if word.name == "follows":
            learned = {"learned": {"per": "head", "start": 1}}
            options = {
                "heads": 2,
                "map": learned,
                "identity": learned,
                "squared_map": 0.3,
                "first_values": 0.2,
                "second_map": 0.1,
                "uniform": setting,
            }
        if word.name == "differential":
            options = {"heads": 2, "second_map": setting, "head_norm": "rms"}
        return {"depth": 2, "block": [{"attention": options}, "mlp"]}, SIZES
    if word.slot in ("embedding", "pooling") or word.name == "fourier":
        sizes = {"token": SIZES, "vector": VECTORS, "projection": VECTORS, "identity": {**VECTORS, "inputs": WIDTH}}.get(word.name, IMAGE)
        return {"depth": 2, word.slot: setting, "block": ["attention", "mlp"]}, sizes
    return {"depth": 2, word.slot: setting, "block": [{"attention": {"heads": 2}}, "mlp"]}, SIZES


def cases() -> list[Any]:
    found = []
    for word in library.library().values():
        if word.slot == "task":
            continue
        base = {word.name: SETTINGS[word.name]} if word.name in SETTINGS else word.name
        for setting in [base, *(after for _, _, after in settings(word))]:
            found.append(pytest.param(around(word, setting), id=f"{word.slot}-{json.dumps(setting)}"))
    models: dict[str, dict[str, Any]] = {
        "place-post": {"place": "post", "block": ["attention", "mlp"]},
        "place-sandwich": {"place": "sandwich", "block": ["attention", "mlp"]},
        "norm-none": {"norm": "none", "block": ["attention", "mlp"]},
        "positions-none": {"positions": "none", "block": ["attention", "mlp"]},
        "join-none": {"block": ["attention", {"mlp": {"join": "none"}}]},
        "head-free": {"head": "free", "block": ["attention"]},
        "parallel": {"block": [{"parallel": ["attention", "mlp"]}]},
        "tied-sublayer": {"block": ["attention", {"mlp": {"tied": True}}]},
        "memory-alone": {"block": [{"attention": {"persistent_kv": 2, "mask_self": True}}]},
        "map-absent": {"block": [{"attention": {"map": 0, "uniform": 1}}]},
        "borrowed-values": {"block": [{"attention": {"identity": -0.6, "first_values": 0.6}}]},
        "alibi-capped": {"positions": "alibi", "block": [{"attention": {"softcap": 5, "score": "sink"}}]},
        "alibi-memory": {"positions": "alibi", "block": [{"attention": {"persistent_kv": 2}}]},
        "multi-query-identity": {"block": [{"attention": {"kv_heads": 1, "identity": -1}}]},
        "dropout": {"dropout": 0.2, "block": [{"attention": {"dropout": 0.2, "identity": -1}}, "mlp"]},
        "drop-path": {"dropout": 0.2, "drop_path": 0.4, "block": ["tssa", "mlp"]},
        "dropout-transposed": {"dropout": 0.2, "block": [{"attention": {"dropout": 0.2, "qkv": "tied", "output": "transposed"}}]},
        "dropout-masked": {"place": "post", "dropout": 0.2, "block": [{"attention": {"dropout": 0.2, "mask_self": True}}]},
    }
    models |= {
        f"initialisation-{name}": {"initialisation": name, "block": ["attention", "mlp"]}
        for name in ("torch", "zero-output", "shaped", "normal", "torch-ends", "simplified")
    }
    found += [pytest.param(({"depth": 2, **model}, SIZES), id=name) for name, model in models.items()]
    found.append(pytest.param(({"blocks": {"repeat": 2, "of": ["attention", "mlp"], "tied": True}}, SIZES), id="tied"))
    dropped = {"dropout": 0.2, "drop_path": 0.4}
    tied = {"repeat": 3, "of": [{"attention": {"dropout": 0.2}}, "mlp"], "tied": True}
    found.append(pytest.param(({**dropped, "blocks": tied}, SIZES), id="tied-dropout"))
    pooled = {"depth": 2, "pooling": {"class-attention": {"heads": 2}}, "block": [{"attention": {"dropout": 0.2}}, "mlp"]}
    found.append(pytest.param(({**dropped, **pooled}, IMAGE), id="class-attention-dropout"))
    return found


@pytest.fixture(params=cases())
def model(request: pytest.FixtureRequest) -> Model:
    return masked(build(architecture(*request.param), seed=1))


TOKENS = torch.randint(0, 11, (3, 8), generator=torch.Generator().manual_seed(0))


def inputs(model: Model) -> torch.Tensor:
    """A batch of three for the task of a model."""
    generator = torch.Generator().manual_seed(0)
    if "image" in model.site.sizes:
        return torch.randn(3, model.site.sizes["channels"], 8, 8, generator=generator)
    vectors = model.site.sizes.get("inputs")
    return TOKENS if vectors is None else torch.randn(3, 8, vectors, generator=generator)


@torch.no_grad()
def disturb(model: Model) -> Model:
    """Away from symmetric starts, such as a learned coefficient at 0 beside a tied projection."""
    for name, p in model.named_parameters():
        p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name) + p.numel())))
    return model


def test_a_word_gives_finite_outputs_of_the_right_shape(model: Model) -> None:
    x = inputs(model)
    y = model(x)
    shape = {"image": (3, 5), "inputs": (3, 8, 1), "vocabulary": (3, 8, 11)}
    assert y.shape == next(s for size, s in shape.items() if size in model.site.sizes)
    assert y.dtype == torch.float32 and y.isfinite().all()
    if model.site.causal:
        assert model(x[:, :5]).shape[1] == 5


def test_a_gradient_reaches_every_parameter_of_a_word(model: Model) -> None:
    y = disturb(model)(inputs(model))
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(5))).sum().backward()
    for name, p in model.named_parameters():
        assert p.grad is not None and p.grad.isfinite().all() and p.grad.abs().sum() > 0, name


def test_a_word_is_causal_where_its_task_is(model: Model) -> None:
    disturb(model)
    x = inputs(model)
    changed = x.clone()
    if model.site.causal:
        changed[:, 5:] = (changed[:, 5:] + 1) % 11
        before, after = model(x), model(changed)
        assert torch.equal(before[:, :5], after[:, :5])
        assert not torch.equal(before[:, 5:], after[:, 5:])
    else:  # the first patch hears of the last
        changed[..., -1, -1] += 1
        assert not torch.equal(model(x), model(changed))


def test_a_word_is_deterministic_and_survives_its_state_dict(model: Model) -> None:
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p.zero_()
    other.load_state_dict(torch.load(file))
    model.eval(), other.eval()
    x = inputs(model)
    assert torch.equal(model(x), model(x)) and torch.equal(model(x), other(x))


KNOBS = [
    pytest.param(word, before, after, id=f"{word.slot}-{json.dumps(after)}")
    for word in library.library().values()
    if word.slot != "task"
    for _, before, after in settings(word)
]


@pytest.mark.parametrize(("word", "before", "after"), KNOBS)
def test_every_option_of_every_word_acts(word: Word, before: Any, after: Any) -> None:
    first, second = (architecture(*around(word, setting)) for setting in (before, after))
    assert first.digest != second.digest
    assert acts(first, second), f"{word.name}: {before} and {after} compute the same"


def acts(first: Architecture, second: Architecture) -> bool:
    """Whether two architectures differ in what they compute, or in the gradient of a parameter that both have."""
    answers = []
    for a in (first, second):
        model = disturb(masked(build(a, seed=1)))
        y = model(inputs(model))
        y.square().sum().backward()
        answers.append((y, {n: p.grad for n, p in model.named_parameters()}))
    (y, gradients), (z, others) = answers
    if y.shape != z.shape or not torch.equal(y, z) or gradients.keys() != others.keys():
        return True
    return any(not torch.equal(gradients[n], others[n]) for n in gradients)  # type: ignore[arg-type]


SHIPPED = sorted((Path(__file__).parent.parent / "spaces").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_decision_of_a_shipped_space_acts(path: Path) -> None:
    space = load(path).space
    for address, decision in space.decisions().items():
        others = decision.values[1:] or ((decision.high,) if decision.high > decision.low else ())
        assert others, address
        for value in others:
            assert acts(space.reference, space.at({address: value})), f"{address}: {value!r} computes what {decision.reference!r} does"


def test_the_signature_read_from_source_is_the_signature_of_the_class() -> None:
    for word in library.library().values():
        cls = word.load()
        live = {n: p for n, p in inspect.signature(cls).parameters.items() if p.kind is p.KEYWORD_ONLY}
        assert list(live) == list(word.options)
        hints = typing.get_type_hints(cls.__init__, include_extras=True)
        for name, option in word.options.items():
            assert live[name].default == option.default or option.required
            nested = typing.Annotated[Any, option.slot]
            plain = [t for t in typing.get_args(hints[name]) if t != nested] if option.slot else typing.get_args(hints[name])
            if (option.slot and not plain) or hints[name] == nested:
                assert option.type is None, name
            elif option.slot and len(plain) == 1:
                assert option.type == plain[0], name
            else:
                assert hints[name] == option.type or set(plain) == set(typing.get_args(option.type)), name
            assert option.description, f"{word.name}.{name} is not described"
        assert word.summary.endswith(".") and (word.source or word.slot == "task")


X = torch.randn(2, 5, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
X32 = X.float()
SITE = LayerContext(WIDTH, 8, sizes={**SIZES, **IMAGE, "inputs": 3})


def flow() -> ForwardContext:
    return ForwardContext(Positions())


def made(slot: str, setting: Any, site: LayerContext = SITE) -> Any:
    """The module of a word in float64, with parameters away from their start."""
    module = module_of(slot, part_from_plain(slot, setting), site).double()
    with torch.no_grad():
        for name, p in module.named_parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name) + p.numel())))
    return module


SCORES: dict[str, Any] = {
    "softmax": lambda s: [math.exp(x) / sum(map(math.exp, s)) for x in s],
    "relu": lambda s: [max(x, 0) / len(s) for x in s],
    "sigmoid": lambda s: [1 / (1 + math.exp(-(x - math.log(len(s))))) for x in s],
    "diagonal": lambda s: [*([0.0] * (len(s) - 1)), math.exp(s[-1]) / sum(map(math.exp, s))],  # the last key is the query's own
}


def maps(module: Attention, x: torch.Tensor, score: Any, second: bool = False, see_self: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
    """A_h and V_h by the formula, one head and one token at a time; of the second halves of queries and keys for `second`."""
    H, P = module.heads, WIDTH // module.heads
    weights = [p.weight.detach() for p in module.projections.values()]
    W_q, W_k, W_v = weights if len(weights) == 3 else weights * 3
    halves = present(module.second)
    part = slice(P // 2, P) if second else slice(0, P // 2) if halves else slice(0, P)
    B, L = x.shape[:2]
    A = torch.zeros(B, H, L, L, dtype=torch.float64)
    for b, h, i in itertools.product(range(B), range(H), range(L)):
        rows = torch.arange(h * P, (h + 1) * P)[part]
        seen = range(i + 1 if see_self else i)
        s = [float(W_q[rows] @ x[b, i] @ (W_k[rows] @ x[b, j])) / math.sqrt(len(rows)) for j in seen]
        if s:
            A[b, h, i, : len(s)] = torch.tensor(score(s), dtype=torch.float64)
    return A, (x @ W_v.T).view(B, L, H, P)


def mixed(module: Attention, M: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bhij,bjhp->bihp", M, V).flatten(2) @ module.output.weight.detach().T


I5 = torch.eye(5, dtype=torch.float64)
C5 = torch.ones(5, 5, dtype=torch.float64).tril() / torch.arange(1, 6, dtype=torch.float64).view(-1, 1)


@pytest.mark.parametrize("qkv", ["free", "tied"])
@pytest.mark.parametrize("score", SCORES)
def test_the_mixing_matrix_is_the_sum_of_its_terms(qkv: str, score: str) -> None:
    options = {"heads": 2, "qkv": qkv, "score": score}
    plain = made("mixer", {"attention": options})
    A, V = maps(plain, X, SCORES[score])
    close(plain(X, flow()), mixed(plain, A, V))
    terms = {"map": 0.7, "identity": -0.3, "uniform": 0.2, "squared_map": 0.4}
    module = made("mixer", {"attention": {**options, **terms}})
    close(module(X, flow()), mixed(module, 0.7 * A - 0.3 * I5 + 0.2 * C5 + 0.4 * A @ A, V))


def test_the_second_map_is_taken_off_the_map_of_the_first_halves() -> None:
    module = made("mixer", {"attention": {"heads": 2, "second_map": 0.6}})
    A, V = maps(module, X, SCORES["softmax"])
    other, _ = maps(module, X, SCORES["softmax"], second=True)
    close(module(X, flow()), mixed(module, A - 0.6 * other, V))


def test_a_sink_takes_weight_and_gives_nothing() -> None:
    module = made("mixer", {"attention": {"heads": 2, "score": {"sink": {"learned": False}}}})
    A, V = maps(module, X, lambda s: [math.exp(x) / (1 + sum(map(math.exp, s))) for x in s])
    close(module(X, flow()), mixed(module, A, V))
    sink = made("score", "sink", dataclasses.replace(SITE, heads=1))
    keep = torch.ones(1, 2, dtype=torch.bool)
    b = float(sink.sink.detach())
    close(sink(torch.zeros(1, 1, 1, 2, dtype=torch.float64), keep)[0, 0, 0], torch.full((2,), 1 / (2 + math.exp(b)), dtype=torch.float64))


def test_a_threshold_keeps_what_is_above_it_as_tau() -> None:
    threshold = made("score", {"threshold": {"tau": 0.6}})
    s = torch.tensor([[0.9, 0.1], [0.5, 0.5]], dtype=torch.float64).log().view(1, 1, 2, 2)
    close(threshold(s, torch.ones(2, 2, dtype=torch.bool)).view(2, 2), torch.tensor([[0.6, 0.0], [0.0, 0.0]], dtype=torch.float64))


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    sparsemax = made("score", "sparsemax")
    s = torch.tensor([[0.9, 0.5, -3.0, 7.0], [2.0, 0.5, 0.0, 7.0], [-5.0, -5.0, -5.0, 7.0]], dtype=torch.float64)
    keep = torch.tensor([True, True, True, False])
    found = sparsemax(s.view(1, 1, 3, 4), keep.expand(3, 4))[0, 0]
    third = 1 / 3
    close(found, torch.tensor([[0.7, 0.3, 0, 0], [1, 0, 0, 0], [third, third, third, 0]], dtype=torch.float64))
    A = sparsemax(X[:1].unsqueeze(1), torch.ones(X.shape[-2:], dtype=torch.bool))[0, 0]  # its own test of being nearest
    close(A.sum(-1), torch.ones(len(A), dtype=torch.float64))
    excess = X[0] - A  # is largest, and the same, wherever there is weight
    assert all(float((e[a > 0].max() - e[a > 0].min()).abs()) < 1e-12 and e.max() == e[a > 0].max() for e, a in zip(excess, A, strict=True))


def test_linear_attention_is_a_ratio_of_features() -> None:
    module = made("mixer", {"attention": {"heads": 1, "score": "linear", "scale": 1}})
    q, k, v = (X @ p.weight.detach().T for p in module.projections.values())
    f = lambda u: torch.where(u > 0, u + 1, u.exp())  # noqa: E731
    y = torch.zeros_like(X)
    for i in range(5):
        w = (f(q)[:, i : i + 1] * f(k)[:, : i + 1]).sum(-1, keepdim=True)
        y[:, i] = (w * v[:, : i + 1]).sum(1) / w.sum(1)
    close(module(X, flow()), y @ module.output.weight.detach().T)


def test_a_masked_diagonal_hides_a_token_from_itself_and_the_first_gets_nothing() -> None:
    module = made("mixer", {"attention": {"heads": 2, "mask_self": True}})
    A, V = maps(module, X, SCORES["softmax"], see_self=False)
    close(module(X, flow()), mixed(module, A, V))
    assert module(X, flow())[:, 0].abs().max() == 0


def test_without_causality_every_token_sees_all() -> None:
    module = made("mixer", {"attention": {"heads": 1, "uniform": 0.5}}, dataclasses.replace(SITE, causal=False))
    q, k, v = (X @ p.weight.detach().T for p in module.projections.values())
    A = (q @ k.transpose(1, 2) / math.sqrt(WIDTH)).softmax(-1)
    close(module(X, flow()), (A @ v + 0.5 * v.mean(1, keepdim=True)) @ module.output.weight.detach().T)


def test_scale_cap_and_norms_act_on_the_scores() -> None:
    tied = made("mixer", {"attention": {"heads": 1, "qkv": "tied", "scale": 1, "softcap": 2, "output": "transposed"}})
    U = tied.projections["subspace"].weight.detach()
    u = X @ U.T
    A = (2 * (u @ u.transpose(1, 2) / 2).tanh()).masked_fill(~C5.bool(), -math.inf).softmax(-1)
    close(tied(X, flow()), A @ u @ U)
    unit = made("mixer", {"attention": {"heads": 1, "qk_norm": "l2", "scale": 3, "output": "identity"}})
    q, k, v = (X @ p.weight.detach().T for p in unit.projections.values())
    q, k = q / q.norm(dim=-1, keepdim=True), k / k.norm(dim=-1, keepdim=True)
    close(unit(X, flow()), (3 * q @ k.transpose(1, 2)).masked_fill(~C5.bool(), -math.inf).softmax(-1) @ v)
    rms = made("mixer", {"attention": {"heads": 1, "qk_norm": "rms", "scale": "learned", "output": "identity"}})
    q, k, v = (X @ p.weight.detach().T for p in rms.projections.values())
    g, f = rms.query_gain.detach(), rms.key_gain.detach()
    q, k = (u / (u.square().mean(-1, keepdim=True) + 1e-5).sqrt() for u in (q, k))
    scores = float(rms.learned_scale.detach()) * (q * g) @ (k * f).transpose(1, 2)
    close(rms(X, flow()), scores.masked_fill(~C5.bool(), -math.inf).softmax(-1) @ v)


RELATIVE: list[dict[str, Any]] = [
    {"qkv": "tied"},
    {"qkv": "shared-kv", "kv_heads": 1},
    {"qkv": "shared-qk", "scale": "learned"},
    {"kv_heads": 1},
    {"scale": "learned", "softcap": 2},
    {"bias": True, "mask_self": True},
]


@pytest.mark.parametrize("second", [0, 0.5])
@pytest.mark.parametrize("qk_norm", ["none", "l2", "rms"])
@pytest.mark.parametrize("heads", [2, 4], ids=["odd halves", "halves of one pair"])
def test_scores_of_like_tokens_under_rope_depend_on_their_distance_alone(heads: int, qk_norm: str, second: float) -> None:
    width = {2: 12, 4: 16}[heads]
    site = dataclasses.replace(SITE, width=width, rotates=True)
    place = ForwardContext(Rotary(site, base=20.0))
    x = torch.randn(1, 1, width, generator=torch.Generator().manual_seed(1), dtype=torch.float64).expand(1, 8, width)
    for options in RELATIVE:
        module = made("mixer", {"attention": {"heads": heads, "qk_norm": qk_norm, "second_map": second, **options}}, site)
        q, k = module.queries_and_keys(x, module.values_of(x, place), place)
        assert q.shape == ((2, heads, 8, width // heads // 2) if second else (1, heads, 8, width // heads))
        scores = (q @ k.mT).flatten(0, 1).detach()
        for distance in range(-7, 8):
            spread = scores.diagonal(distance, 1, 2)
            assert (spread - spread[:, :1]).abs().max() < 1e-5 * scores.abs().max(), (options, distance)
        assert all(float((s[0] - s[0, 0]).abs().max()) > 1e-3 * float(s.abs().max()) for s in scores), "places are told apart"


def test_each_half_of_a_head_is_normed_by_itself_where_there_is_a_second_map() -> None:
    module = made("mixer", {"attention": {"heads": 2, "qk_norm": "rms", "second_map": 0.6}})
    assert module.query_gain.shape == (2,)
    q, k, v = ((X @ p.weight.detach().T).view(2, 5, 2, 4) for p in module.projections.values())
    rms = lambda u, g: u / (u.square().mean(-1, keepdim=True) + 1e-5).sqrt() * g.detach()  # noqa: E731
    A = []
    for half in (slice(0, 2), slice(2, 4)):
        s = torch.einsum("bihp,bjhp->bhij", rms(q[..., half], module.query_gain), rms(k[..., half], module.key_gain)) / math.sqrt(2)
        A.append(s.masked_fill(~C5.bool(), -math.inf).softmax(-1))
    close(module(X, flow()), mixed(module, A[0] - 0.6 * A[1], v))


@pytest.mark.parametrize("second", [0, 0.5])
@pytest.mark.parametrize("qkv", ["free", "tied"])
def test_scores_start_at_unit_variance_under_either_norm_so_that_attention_is_not_uniform(qkv: str, second: float) -> None:
    site = LayerContext(512, 64)
    x = torch.randn(1, 64, 512, generator=torch.Generator().manual_seed(0))
    for options in ({"qk_norm": "l2"}, {"qk_norm": "l2", "scale": "learned"}, {"qk_norm": "rms"}, {"qk_norm": "rms", "scale": "learned"}):
        torch.manual_seed(0)
        module = module_of(
            "mixer", part_from_plain("mixer", {"attention": {"heads": 4, "qkv": qkv, "second_map": second, **options}}), site
        )
        q, k = module.queries_and_keys(x, module.values_of(x, flow()), flow())
        scores = (q @ k.mT * module.scale).flatten(0, 1).detach()
        others = ~torch.eye(64, dtype=torch.bool)
        assert 0.8 < float(scores[:, others].std()) < 1.2, options
    fixed = made("mixer", {"attention": {"heads": 4, "qk_norm": "l2", "scale": 3}})
    assert fixed.scale == 3


def test_grouped_keys_and_values_are_repeated_for_their_queries() -> None:
    grouped, free = made("mixer", {"attention": {"heads": 4, "kv_heads": 2}}), made("mixer", {"attention": {"heads": 4}})
    repeat = lambda w: w.view(2, 2, WIDTH).repeat_interleave(2, 0).reshape(WIDTH, WIDTH)  # noqa: E731
    weights = {n: p.detach() for n, p in grouped.named_parameters()}
    for name in ("projections.key.weight", "projections.value.weight"):
        weights[name] = repeat(weights[name])
    free.load_state_dict(weights)
    close(grouped(X, flow()), free(X, flow()))


@pytest.mark.parametrize(("qkv", "same"), [("shared-kv", ("key", "value")), ("shared-qk", ("query", "key"))])
def test_shared_projections_are_one_matrix_used_twice(qkv: str, same: tuple[str, str]) -> None:
    shared, free = made("mixer", {"attention": {"heads": 2, "qkv": qkv}}), made("mixer", {"attention": {"heads": 2}})
    weights = {n: p.detach() for n, p in shared.named_parameters()}
    weights[f"projections.{same[1]}.weight"] = weights.get(f"projections.{same[0]}.weight", weights.get(f"projections.{same[1]}.weight"))
    free.load_state_dict(weights)
    close(shared(X, flow()), free(X, flow()))


def test_values_may_be_the_input_itself() -> None:
    module = made("mixer", {"attention": {"heads": 2, "value_projection": "identity", "output": "identity"}})
    module_free = made("mixer", {"attention": {"heads": 2, "output": "identity"}})
    module_free.load_state_dict({**module.state_dict(), "projections.value.weight": torch.eye(WIDTH, dtype=torch.float64)})
    close(module(X, flow()), module_free(X, flow()))


def test_values_of_the_first_attention_are_its_own_weights_too_where_these_come_again() -> None:
    """Weights that are used twice: whatever the second pass reads, its values are those of the first."""
    model = build(architecture({"blocks": {"repeat": 2, "of": [{"attention": {"heads": 2, "value_source": "first"}}], "tied": True}}))
    mixer = model.steps["attention_0"].operation
    flow = ForwardContext(model.positions)
    first, again = (mixer.values_of(torch.randn(2, 8, WIDTH), flow) for _ in range(2))
    assert torch.equal(first, again)


def test_values_of_the_first_attention_reach_the_later_ones() -> None:
    options = {"heads": 2, "output": "identity"}
    passed = flow()
    first = made("mixer", {"attention": options})
    first(X, passed)
    V1 = X @ first.projections["value"].weight.detach().T
    later = dataclasses.replace(SITE, layer=1)
    plain = made("mixer", {"attention": options}, later)
    A, V = maps(plain, X + 1, SCORES["softmax"])
    neutreno = made("mixer", {"attention": {**options, "identity": -0.6, "first_values": 0.6}}, later)
    close(neutreno(X + 1, passed), (torch.einsum("bhij,bjhp->bihp", A, V) - 0.6 * V).flatten(2) + 0.6 * V1)
    both = made("mixer", {"attention": {**options, "value_source": "both"}}, later)
    half = 0.5 * (V + V1.view(V.shape))
    close(both(X + 1, passed), torch.einsum("bhij,bjhp->bihp", A, half).flatten(2))
    only = made("mixer", {"attention": {**options, "value_source": "first"}}, later)
    assert "value" not in only.projections
    close(only(X + 1, passed), torch.einsum("bhij,bjhp->bihp", A, V1.view(V.shape)).flatten(2))


def test_exclusive_attention_takes_out_the_direction_of_the_own_value() -> None:
    module = made("mixer", {"attention": {"heads": 2, "exclusive": 1, "output": "identity"}})
    y = module(X, flow()).view(2, 5, 2, 4)
    _, V = maps(module, X, SCORES["softmax"])
    assert (y * V).sum(-1).abs().max() < 1e-12
    plain = made("mixer", {"attention": {"heads": 2, "output": "identity"}})(X, flow()).view(2, 5, 2, 4)
    close(y, plain - (plain * V).sum(-1, keepdim=True) / V.square().sum(-1, keepdim=True) * V)


def test_a_gate_and_a_head_norm_act_on_the_heads_before_the_output() -> None:
    options = {"heads": 2, "output": "identity"}
    y = made("mixer", {"attention": options})(X, flow())
    for gate in ("head", "element"):
        module = made("mixer", {"attention": {**options, "gate": gate}})
        g = torch.sigmoid(X @ module.gate.weight.detach().T)
        close(module(X, flow()), y * (g.repeat_interleave(4, -1) if gate == "head" else g))
    module = made("mixer", {"attention": {**options, "head_norm": "rms"}})
    heads = y.view(2, 5, 2, 4)
    normed = heads / (heads.square().mean(-1, keepdim=True) + 1e-5).sqrt() * module.head_gain.detach()
    close(module(X, flow()), normed.flatten(2))


def test_memory_stands_beside_the_tokens_under_one_softmax() -> None:
    module = made("mixer", {"attention": {"heads": 1, "persistent_kv": 3, "output": "identity"}})
    q, k, v = (X @ p.weight.detach().T for p in module.projections.values())
    k, v = (torch.cat([m.detach().expand(2, -1, -1), u], 1) for m, u in ((module.memory_key, k), (module.memory_value, v)))
    keep = torch.cat([torch.ones(5, 3, dtype=torch.bool), C5.bool()], 1)
    close(module(X, flow()), (q @ k.transpose(1, 2) / math.sqrt(WIDTH)).masked_fill(~keep, -math.inf).softmax(-1) @ v)


def test_coefficients_are_what_they_say() -> None:
    site = dataclasses.replace(SITE, heads=2, layer=2)
    learned = module_of("coefficient", part_from_plain("coefficient", {"learned": {"start": -0.5, "low": -1, "high": 0}}), site)
    assert abs(learned().item() + 0.5) < 1e-6
    with torch.no_grad():
        learned.raw.fill_(100.0)
    assert abs(learned().item()) < 1e-6  # never above its bound
    heads = module_of("coefficient", part_from_plain("coefficient", {"learned": {"per": "head", "start": 2}}), site)
    assert heads().shape == (2, 1, 1) and heads.raw.numel() == 2
    split = module_of("coefficient", part_from_plain("coefficient", {"split": {"heads": 1, "inside": -1, "rest": 3}}), site)
    assert split().flatten().tolist() == [-1, 3]
    different = made("coefficient", "differential", site)
    q1, k1, q2, k2 = (p.detach() for p in (different.query_1, different.key_1, different.query_2, different.key_2))
    close(different(), (q1 @ k1).exp() - (q2 @ k2).exp() + 0.8 - 0.6 * math.exp(-0.6))
    tied = {"map": {"learned": {"per": "head"}}, "uniform": {"follows": {"of": "map", "plus": 1}}}
    attention = made("mixer", {"attention": {"heads": 2, **tied}})
    close(attention.uniform().flatten(), 1 - attention.map.raw.detach())
    assert [n for n, _ in attention.named_parameters() if "uniform" in n] == []


def test_what_a_law_does_not_hold_for_is_said() -> None:
    with pytest.raises(
        InputError, match=r"linear requires not .rotates or biases., which does not hold for biases = True, rotates = False"
    ):
        architecture({"depth": 1, "positions": "alibi", "block": [{"attention": {"score": "linear"}}]})
    circle = {"map": {"follows": {"of": "identity"}}, "identity": {"follows": {"of": "map"}}}
    with pytest.raises(InputError, match=r"which does not hold for beside\.identity = follows, of = identity"):
        architecture({"depth": 1, "block": [{"attention": circle}]})
    with pytest.raises(InputError, match="attention requires persistent_kv == 0 or"):
        architecture({"depth": 1, "block": [{"attention": {"persistent_kv": 2, "second_map": 0.5, "heads": 2}}]})


def test_a_coefficient_learned_per_model_is_one_parameter() -> None:
    block = [{"attention": {"identity": {"learned": {"per": "model"}}}}]
    model = build(architecture({"depth": 3, "block": block}))
    assert [n for n, _ in model.named_parameters() if "identity" in n] == ["steps.attention_0.operation.identity.raw"]
    assert model.steps["attention_2"].operation.identity.raw is model.steps["attention_0"].operation.identity.raw


def test_minus_identity_leaves_the_first_token_nothing_under_a_causal_mask() -> None:
    # A_00 = 1, so (A - I) v_0 = 0
    assert made("mixer", {"attention": {"identity": -1}})(X, flow())[:, 0].abs().max() < 1e-12


def test_tied_attention_has_one_projection_and_an_output() -> None:
    count = lambda options: sum(p.numel() for p in made("mixer", {"attention": options}).parameters())  # noqa: E731
    assert count({"qkv": "tied"}) == 2 * WIDTH**2
    assert count({"qkv": "tied", "output": "transposed"}) == WIDTH**2
    assert count({"heads": 2}) == 4 * WIDTH**2


def test_terms_that_are_not_there_build_nothing() -> None:
    averaging = made("mixer", {"attention": {"map": 0, "uniform": 1, "qk_norm": "rms", "scale": "learned"}})
    assert sorted(n for n, _ in averaging.named_parameters()) == ["output.weight", "projections.value.weight"]


def test_token_statistics_attention_is_its_formula_over_the_tokens_seen() -> None:
    module = made("mixer", {"tssa": {"heads": 2}})
    w = (X @ module.subspace.weight.detach().T).view(2, 5, 2, 4)
    y = torch.zeros_like(w)
    offset = module.offset_HL.detach()
    p = torch.zeros(2, 5, 2, dtype=torch.float64)
    for i in range(5):
        share = w[:, i].square() / w[:, : i + 1].square().sum(1) + offset[:, i].view(1, 2, 1)
        p[:, i] = (share.sum(-1) * module.temperature.detach()).softmax(-1)
        weight = p[:, : i + 1].unsqueeze(-1)
        moment = (w[:, : i + 1].square() * weight).sum(1) / (weight.sum(1) + 1e-8)
        y[:, i] = -w[:, i] * p[:, i].unsqueeze(-1) / (1 + moment)
    close(module(X, flow()), y.flatten(2) @ module.output.weight.detach().T)


def test_decorrelation_is_the_gradient_of_the_log_determinant_over_the_tokens_seen() -> None:
    beta = 0.7
    x = X.clone().requires_grad_()
    gram = x @ x.mT + beta * torch.eye(x.shape[1], dtype=torch.float64)
    (gradient,) = torch.autograd.grad(torch.linalg.slogdet(gram)[1].sum(), x)
    together = made("mixer", {"decorrelation": {"beta": beta}}, dataclasses.replace(SITE, causal=False))
    close(together(X, flow()), gradient)
    causal = made("mixer", {"decorrelation": {"beta": beta}})
    for i in range(X.shape[1]):
        close(causal(X, flow())[:, i], together(X[:, : i + 1], flow())[:, -1])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(together(X.float(), flow()).double(), gradient, 1e-4)
    low = together(X.bfloat16(), flow())
    assert low.dtype == torch.bfloat16 and low.float().allclose(gradient.float(), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("causal", [True, False])
def test_decorrelation_of_tokens_too_large_for_its_beta_is_no_number_rather_than_an_error(causal: bool) -> None:
    mixer = made("mixer", {"decorrelation": {}}, dataclasses.replace(SITE, causal=causal))
    x = torch.full_like(X, 1e5, dtype=torch.float32)  # beta is rounded away, and the matrix is singular
    assert not mixer(x, flow()).isfinite().all()


def test_decorrelation_has_a_cost() -> None:
    assert (
        cost(architecture({"depth": 1, "block": ["decorrelation"]})).parameters
        == cost(architecture({"depth": 1, "block": ["attention"]})).parameters - 4 * WIDTH**2
    )


def test_sparse_codes_are_steps_of_shrinkage() -> None:
    ista = made("channel", {"ista": {"step": 0.3, "sparsity": 0.2}})
    D = ista.dictionary.detach()
    x = X[0, 0]
    close(ista(X)[0, 0], (x + 0.3 * D.T @ (x - D @ x) - 0.06).clamp(min=0))
    code = made("channel", {"dictionary": {"expand": 2, "steps": 2, "step": 0.3, "sparsity": 0.2}})
    D, E = code.dictionary_DF.detach(), code.decoder_DF.detach()
    z = (0.3 * D.T @ x - 0.06).clamp(min=0)
    z = (z - 0.3 * D.T @ (D @ z - x) - 0.06).clamp(min=0)
    close(code(X)[0, 0], E @ z)
    assert made("channel", {"dictionary": {"decoupled": False}}).decoder_DF is None


def test_gated_and_plain_linear_maps_are_their_formulas() -> None:
    glu = made("channel", {"glu": {"expand": 2}})
    g, u = X @ glu.gate.weight.detach().T, X @ glu.up.weight.detach().T
    close(glu(X), (g / (1 + (-g).exp()) * u) @ glu.output.weight.detach().T)
    linear = made("channel", {"linear": {"bias": True}})
    close(linear(X), X @ linear.output.weight.detach().T + linear.output.bias.detach())


def test_dynamic_tanh_and_the_sphere_are_their_formulas() -> None:
    dyt = made("norm", "dyt")
    close(dyt(X), (dyt.alpha.detach() * X).tanh() * dyt.gain.detach() + dyt.bias.detach())
    close(made("norm", {"sphere": {"radius": 2}})(X), 2 * X / X.square().sum(-1, keepdim=True).sqrt())


def test_joins_are_their_formulas() -> None:
    Y = X.flip(1)
    close(made("join", {"step": {"size": 0.25}})(X, Y), X + 0.25 * Y)
    learned = made("join", {"step": {"learned": True}})
    close(learned(X, Y), X + learned.size.detach() * Y)
    scale, convex = made("join", "layerscale"), made("join", "convex")
    close(scale(X, Y), X + scale.gain.detach() * Y)
    close(convex(X, Y), (1 - convex.share.detach()) * X + convex.share.detach() * Y)


def test_positions_are_their_formulas() -> None:
    waves = made("positions", {"sinusoidal": {"base": 100.0, "scale": 2.0}}).embed(torch.zeros(1, 5, WIDTH, dtype=torch.float64))[0]
    assert abs(waves[3, 1].item() - 2 * math.sin(3 * 100.0 ** (-2 / 8))) < 1e-6
    assert abs(waves[3, 5].item() - 2 * math.cos(3 * 100.0 ** (-2 / 8))) < 1e-6
    bias = made("positions", "alibi").bias(4, 5, torch.device("cpu"))
    assert bias[0, 3, 1] == -(2.0**-2) * 2 and bias[3, 4, 0] == -(2.0**-8) * 4
    plain = made("mixer", {"attention": {"heads": 2}})
    with_bias = made("mixer", {"attention": {"heads": 2}}, dataclasses.replace(SITE, biases=True))
    alibi = made("positions", "alibi")
    q, k, v = ((X @ p.weight.detach().T).view(2, 5, 2, 4).transpose(1, 2) for p in plain.projections.values())
    s = q @ k.transpose(-1, -2) / 2 + alibi.bias(2, 5, torch.device("cpu"))
    y = s.masked_fill(~C5.bool(), -math.inf).softmax(-1) @ v
    close(with_bias(X, ForwardContext(alibi)), y.transpose(1, 2).flatten(2) @ plain.output.weight.detach().T, atol=1e-6)
    fourier = made("positions", {"fourier": {"features": 4, "base": 100.0}})
    placed = fourier.embed(torch.zeros(1, 5, WIDTH, dtype=torch.float64))  # a class token and 2 x 2 patches
    assert placed[0, 0].abs().max() == 0
    row, column = (2 * math.pi * n / (2 + 1e-6) for n in (2, 1))  # of the third patch
    wave = lambda u: [math.sin(u), math.cos(u), math.sin(u / 10), math.cos(u / 10)]  # noqa: E731
    f = torch.tensor(wave(row) + wave(column), dtype=torch.float64)
    close(placed[0, 3], fourier.map.weight.detach() @ f + fourier.map.bias.detach(), atol=1e-6)


def test_a_query_meets_the_memory_as_it_was_before_the_turn_and_the_tokens_as_it_is_after() -> None:
    rope, site = Rotary(SITE, base=100.0), dataclasses.replace(SITE, rotates=True)
    module = made("mixer", {"attention": {"heads": 2, "persistent_kv": 1}}, site)
    q, k, v = ((X @ p.weight.detach().T).view(2, 5, 2, 4).transpose(1, 2) for p in module.projections.values())
    tokens = (rope.rotate(q) @ rope.rotate(k).mT / 2).masked_fill(~C5.bool(), -math.inf)
    A = torch.cat([q @ module.memory_key.detach().mT / 2, tokens], dim=-1).softmax(-1)
    y = A[..., :1] * module.memory_value.detach() + A[..., 1:] @ v
    close(module(X, ForwardContext(rope)), y.transpose(1, 2).flatten(2) @ module.output.weight.detach().T, atol=1e-6)


REFUSED = [
    ({"block": [{"attention": {"score": "linear"}}], "positions": "rope"}, "linear requires not .rotates or biases."),
    ({"block": [{"attention": {"score": "linear"}}], "positions": "alibi"}, "linear requires not .rotates or biases."),
    ({"block": [{"attention": {"map": "follows"}}]}, "follows requires of != 'map' or beside.map != 'follows'"),
    ({"block": [{"attention": {"heads": 8, "map": "differential"}}]}, "differential requires width / beside.heads >= 2"),
    ({"block": [{"attention": {"heads": 2, "map": {"split": {"heads": 2, "inside": 0, "rest": 1}}}}]}, "split requires inside != 0 or"),
    ({"block": [{"attention": {"qkv": "tied", "score": {"threshold": {"tau": 1}}}}]}, "threshold requires tau < 1"),
    ({"block": [{"attention": {"qkv": "tied", "score": "threshold", "scale": "learned"}}]}, "score != 'threshold' or .scale != 'learned'"),
    ({"block": [{"attention": {"qkv": "tied", "score": "threshold", "qk_norm": "rms"}}]}, "score != 'threshold' or .qk_norm == 'none'"),
    ({"block": [{"attention": {"qkv": "shared-qk"}}], "initialisation": "shaped"}, "initialisation not in .'shaped', 'simplified'."),
    ({"block": [{"attention": {"score": "relu"}}], "initialisation": "shaped"}, "relu requires initialisation not in"),
    ({"block": [{"attention": {"exclusive": 1, "identity": -1}}]}, "exclusive != 1 or identity == 0"),
    ({"block": [{"attention": {"map": 0}}]}, "map != 0 or identity != 0"),
    ({"block": [{"attention": {"map": 0, "first_values": 1}}]}, "map != 0 or identity != 0"),
    ({"block": [{"attention": {"map": 0, "identity": 1, "value_source": "first"}}]}, "value_source != 'first' or map != 0"),
    ({"block": [{"attention": {"score": "linear", "qk_norm": "l2"}}]}, "linear requires beside.qk_norm != 'l2'"),
    ({"block": [{"attention": {"score": "linear", "scale": 2}}]}, "linear requires beside.scale == 'sqrt'"),
    ({"block": [{"mlp": {"join": {"step": {"size": 0}}}}]}, "step requires learned or size != 0"),
    ({"block": [{"parallel": ["attention", {"mlp": {"join": "none"}}]}]}, "join: none replaces the stream, and with it"),
]


@pytest.mark.parametrize(("model", "law"), REFUSED, ids=[law for _, law in REFUSED])
def test_what_can_not_be_combined_is_a_law_that_is_known_when_a_study_is_read(model: dict[str, Any], law: str) -> None:
    with pytest.raises(InputError, match=law):
        architecture({"depth": 1, **model})
    other = {"block": [{"any": ["mlp", *model["block"]]}]} if "parallel" not in model["block"][0] else {"block": ["mlp"]}
    space = Space.parse(yamlfile.parse(yamlfile.dump({"model": {"width": WIDTH, "depth": 1, **model, **other}}), "f"), SIZES)
    assert space.bound() == (1, True), "it is not counted"


def test_patches_are_cut_row_by_row_and_mapped() -> None:
    patch = made("embedding", {"patch": {"size": 4, "norms": True}})
    images = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    entries = images[0, :, 0:4, 4:8].flatten()  # the second patch
    norm = lambda u, m: (u - u.mean()) / (u.var(unbiased=False) + 1e-5).sqrt() * m.weight.detach() + m.bias.detach()  # noqa: E731
    expected = norm(patch.map.weight.detach() @ norm(entries, patch.before) + patch.map.bias.detach(), patch.after)
    close(patch(images)[0, 1], expected)
    plain = made("embedding", {"patch": {"size": 4}})
    kernel = plain.map.weight.detach().view(WIDTH, 2, 4, 4)
    close(plain(images)[0], F.conv2d(images, kernel, plain.map.bias.detach(), stride=4)[0].flatten(1).T)
    assert made("embedding", {"stem": {"size": 4}}).eval()(images).shape == (1, 4, WIDTH)


def test_pooling_reads_the_mean_or_a_token_of_its_own() -> None:
    close(made("pooling", "mean")(X), X.sum(1) / 5)
    token = made("pooling", "class-token")
    opened = token.open(X)
    close(opened[:, 0], token.token.detach().expand(2, -1))
    close(token(opened), opened[:, 0])


def close(found: torch.Tensor, expected: torch.Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(found.detach().double(), expected.double(), atol=atol, rtol=1e-7)


def test_layernorm_and_rmsnorm_are_their_formulas() -> None:
    layer, rms = LayerNorm(SITE), RmsNorm(SITE)
    with torch.no_grad():
        layer.gain.copy_(torch.arange(8.0))
        layer.bias.fill_(0.5)  # type: ignore[union-attr]
        rms.gain.copy_(torch.arange(8.0))
    mean, var = X32.mean(-1, keepdim=True), X32.var(-1, unbiased=False, keepdim=True)
    torch.testing.assert_close(layer(X32), (X32 - mean) / (var + 1e-5).sqrt() * torch.arange(8.0) + 0.5)
    torch.testing.assert_close(rms(X32), X32 / ((X32**2).mean(-1, keepdim=True) + 1e-5).sqrt() * torch.arange(8.0))


@pytest.mark.parametrize(("activation", "s"), [("relu", lambda x: x.clamp(min=0)), ("relu2", lambda x: x.clamp(min=0) ** 2)])
def test_mlp_is_two_maps_with_a_nonlinearity_between(activation: Any, s: Any) -> None:
    module = Mlp(SITE, expand=2, activation=activation)
    torch.testing.assert_close(module(X32), s(X32 @ module.up.weight.T) @ module.output.weight.T)
    gelu = Mlp(SITE, expand=2)
    inner = X32 @ gelu.up.weight.T
    torch.testing.assert_close(gelu(X32), (inner * 0.5 * (1 + torch.erf(inner / 2**0.5))) @ gelu.output.weight.T)


def test_rope_turns_pairs_by_their_place_so_scores_depend_on_distance_alone() -> None:
    rope = Rotary(SITE, base=100.0)
    q = torch.randn(1, 1, 1, 6, generator=torch.Generator().manual_seed(0)).expand(1, 1, 16, 6)
    turned = rope.rotate(q)[0, 0]
    angle = torch.tensor(3 * 100.0 ** (-2 * 1 / 6))  # place 3, pair 1
    expected = q[0, 0, 3, 1] * angle.cos() - q[0, 0, 3, 4] * angle.sin()
    torch.testing.assert_close(turned[3, 1], expected)
    scores = turned @ turned.T
    torch.testing.assert_close(scores.diagonal(2), scores.diagonal(2)[:1].expand(14), atol=1e-5, rtol=1e-5)


def test_learned_positions_add_the_row_of_each_place() -> None:
    learned = LearnedPositions(SITE)
    with torch.no_grad():
        learned.table.copy_(torch.arange(64.0).view(8, 8))
    torch.testing.assert_close(learned.embed(X32)[1, 3], X32[1, 3] + torch.arange(24.0, 32.0))


def test_post_norm_normalises_after_the_join_and_pre_norm_before_the_operation() -> None:
    pre, post = (build(architecture({"depth": 1, "place": p, "block": ["mlp"]})) for p in ("pre", "post"))
    step_pre, step_post = pre.steps["mlp_0"], post.steps["mlp_0"]
    torch.testing.assert_close(step_pre(X32, flow(), X32), X32 + step_pre.operation(step_pre.norm(X32)))
    torch.testing.assert_close(step_post(X32, flow(), X32), step_post.norm(X32 + step_post.operation(X32)))
    assert isinstance(post.final_norm, torch.nn.Identity) and isinstance(pre.final_norm, LayerNorm)
