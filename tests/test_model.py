from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from aotsearch import yamlfile
from aotsearch.grammar import library
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.forms import MODEL
from aotsearch.grammar.laws import TRAITS
from aotsearch.grammar.space import Space
from aotsearch.models import cost as costs
from aotsearch.models.cost import cost
from aotsearch.models.model import Model, build
from aotsearch.study.loading import load

SIZES = {"vocabulary": 50, "context": 16}


def architecture(**model: Any) -> Architecture:
    rules = {"model": {"width": 16, "depth": 2, "block": ["attention", "mlp"], **model}}
    return Space.parse(yamlfile.parse(yamlfile.dump(rules), "f"), SIZES).reference


def test_parameters_that_two_arms_share_start_at_the_same_values() -> None:
    reference = dict(build(architecture(), seed=3).named_parameters())
    arms: list[dict[str, Any]] = [
        {"block": ["attention"]},
        {"norm": "rmsnorm"},
        {"positions": "rope"},
        {"block": [{"attention": {"identity": -1, "heads": 1}}, "mlp"]},
        {"block": [{"attention": {"qkv": "tied"}}, "mlp"]},
        {"head": "free"},
    ]
    for arm in arms:
        model = dict(build(architecture(**arm), seed=3).named_parameters())
        shared = reference.keys() & model.keys()
        assert len(shared) > 5, arm
        for name in shared:
            if reference[name].shape == model[name].shape:
                assert torch.equal(reference[name], model[name]), (arm, name)


@pytest.mark.parametrize(("places", "shared"), [(("pre", "pre"), True), (("sandwich", "pre"), True), (("post", "pre"), False)])
def test_parallel_sublayers_share_a_norm_that_acts_on_what_both_read(places: tuple[str, str], shared: bool) -> None:
    mixer, channel = places
    steps = build(architecture(block=[{"parallel": [{"attention": {"place": mixer}}, {"mlp": {"place": channel}}]}])).steps
    assert (steps["attention_0"].norm is steps["mlp_0"].norm) == shared


def test_initial_values_depend_on_the_seed_and_not_on_torchs_generator() -> None:
    first = build(architecture(), seed=0)
    torch.manual_seed(123)
    state = torch.get_rng_state()
    again, other = build(architecture(), seed=0), build(architecture(), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    for (name, a), b, c in zip(first.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim < 2 or not torch.equal(a, c), name


@pytest.mark.parametrize("scheme", MODEL["initialisation"].literals)
def test_every_initialisation_is_drawn_from_the_seed_alone(scheme: str) -> None:
    a = architecture(initialisation=scheme, head="free", block=[{"attention": {"bias": True}}, {"mlp": {"bias": True}}])
    torch.manual_seed(1)
    first = dict(build(a, seed=0).named_parameters())
    torch.manual_seed(2)
    again, other = (dict(build(a, seed=seed).named_parameters()) for seed in (0, 1))
    assert all(torch.equal(first[n], again[n]) for n in first)
    assert any(not torch.equal(first[n], other[n]) for n in first)
    writes = first["steps.attention_0.operation.output.weight"]
    assert bool(writes.any()) != (scheme == "zero-output")
    assert bool(first["steps.attention_0.operation.projections.query.weight"].any()) != (scheme in ("shaped", "simplified"))
    assert torch.equal(writes, torch.eye(16)) == (scheme == "identity")
    values = first["steps.attention_0.operation.projections.value.weight"]
    assert torch.equal(values, torch.eye(16)) == (scheme in ("identity", "simplified"))
    if scheme in ("gpt2", "normal", "torch-ends"):  # what reads the tokens, writes to the stream and is the head
        ends = first["embedding.weight"].std() > 0.5, first["head.weight"].std() > 0.1, writes.std() < 0.015
        assert ends == (scheme == "torch-ends", scheme == "torch-ends", scheme != "normal")
    bias = first["steps.mlp_0.operation.up.bias"]
    assert bool(bias.any()) == (scheme == "torch") and bias.abs().max() <= 1 / 16**0.5


def test_matrices_start_at_gpt2s_scale() -> None:
    model = build(architecture(width=256, block=["attention", "mlp"]))
    spread = {n: p.std().item() for n, p in model.named_parameters() if p.ndim == 2}
    for name, std in spread.items():
        expected = 0.02 / (2 * 2) ** 0.5 if name.endswith("output.weight") else 0.02
        assert abs(std / expected - 1) < 0.05, name


def test_costs_are_those_counted_by_hand() -> None:
    found = cost(architecture())
    steps = 2 * (4 * 16**2 + 2 * 4 * 16**2)
    norms = 5 * 2 * 16
    assert found.parameters_without_embeddings == steps + norms
    assert found.parameters == steps + norms + 50 * 16 + 16 * 16
    # per token: two per weight of every product, the tied head, and scores and mixing over the whole context
    assert found.flops_per_token == 2 * steps + 2 * 50 * 16 + 2 * 2 * (2 * 16 * 16)


@pytest.mark.parametrize("number", range(12))
def test_a_cost_is_what_torch_counts_when_every_operation_is_run(number: int) -> None:
    found = load(Path(__file__).parent.parent / "spaces" / "redundancy.yaml").space.sample(number)
    with torch.device("meta"), torch.no_grad(), FlopCounterMode(display=False) as counter:
        model = Model(found).eval().requires_grad_(False)
        model(torch.zeros(1, found.size("context"), dtype=torch.long))
    for _ in range(2):  # with what the models before have left, and with all of its own
        assert cost.__wrapped__(found).flops_per_token == counter.get_total_flops() // found.size("context")


def test_an_operation_is_kept_by_all_that_it_sees_and_not_where_it_writes() -> None:
    def counted(operation: Any, *arguments: Any) -> tuple[Any, int, int]:
        with costs._Counter() as counter:
            before = len(counter.kept)
            made = operation(*arguments)
            return made, counter.total, len(counter.kept) - before

    x, w = (torch.empty(shape, device="meta") for shape in ((3, 5), (5, 7)))
    costs._Counter.kept.clear()
    assert [counted(torch.mm, x, w)[1:] for _ in range(2)] == [(2 * 3 * 5 * 7, 1), (2 * 3 * 5 * 7, 0)]
    assert counted(torch.mm, x, w)[0].shape == (3, 7)
    assert counted(torch.mm, x.double(), w.double())[0].dtype == torch.float64
    whole, broken = (counted(torch.add, torch.ones(3, dtype=torch.long, device="meta"), n)[0].dtype for n in (1, 1.0))
    assert (whole, broken) == (torch.int64, torch.float32), "1 and 1.0 are equal, and two arguments"
    assert counted(torch.Tensor.add_, x, 1)[0] is x and counted(torch.Tensor.add_, x, 1)[2] == 0
    assert [counted(torch.sum, torch.full((2,), n))[0].item() for n in (1.0, 4.0)] == [2.0, 8.0], "numbers are computed"
    assert counted(torch.std_mean, x)[0][1].shape == ()


def test_tied_depth_costs_the_parameters_of_one_block_and_the_flops_of_all() -> None:
    one = cost(architecture(depth=1))
    rules = {"model": {"width": 16, "blocks": {"repeat": 3, "of": ["attention", "mlp"], "tied": True}}}
    tied = cost(Space.parse(yamlfile.parse(yamlfile.dump(rules), "f"), SIZES).reference)
    assert tied.parameters == one.parameters
    assert tied.flops_per_token == cost(architecture(depth=3)).flops_per_token


def test_a_model_of_180_million_parameters_is_costed_without_its_memory() -> None:
    big = Space.parse(
        yamlfile.parse("model: {width: 1280, depth: 36, block: [{attention: {qkv: tied, heads: 20}}]}", "f"),
        {"vocabulary": 50304, "context": 1024},
    )
    found = cost(big.reference)
    assert abs(found.parameters_without_embeddings / 118.0e6 - 1) < 0.01  # Wang et al. 2025, Table 4: 182M with embeddings


@pytest.mark.parametrize("join", ["none", {"step": {"size": 0, "learned": True}}, {"layerscale": {"start": 0}}, {"convex": {"start": 1}}])
def test_a_sublayer_starts_at_0_only_where_its_join_keeps_the_stream_and_is_not_at_0_itself(join: Any) -> None:
    model = build(architecture(initialisation="zero-output", block=["attention", {"mlp": {"join": join}}]))
    outputs = {n: p.any() for n, p in model.named_parameters() if n.endswith("output.weight")}
    assert all(bool(found) == ("mlp" in name) for name, found in outputs.items()), "else no gradient would ever reach the mlp"


def test_the_identity_is_the_start_of_square_matrices_alone() -> None:
    model = build(architecture(initialisation="identity", block=[{"attention": {"heads": 4, "persistent_kv": 4}}]))
    parameters = dict(model.named_parameters())
    assert torch.equal(parameters["steps.attention_0.operation.projections.query.weight"], torch.eye(16))
    assert parameters["steps.attention_0.operation.memory_key"].abs().max() < 0.2


def test_positions_say_in_their_own_class_what_laws_are_told_of_them() -> None:
    for word in library.words_of("positions").values():
        assert word.traits & set(TRAITS) == {name for name in TRAITS if getattr(word.load(), name)}
