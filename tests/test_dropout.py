"""What training drops: how much, of what, when; and that it follows from the seed, the step and the place alone."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
import torch
from invariants import Subject, masked
from test_resume import bundle, plain, run
from test_resume import weights as kept_weights

from aotsearch import yamlfile
from aotsearch.diagnostics import probe
from aotsearch.errors import InputError
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.models.cost import cost
from aotsearch.models.exchange import config_gpt2, config_vit
from aotsearch.models.model import Model, build
from aotsearch.models.parts.attention import Attention
from aotsearch.models.parts.context import ForwardContext, LayerContext, Positions
from aotsearch.models.parts.score import Softmax
from aotsearch.show.outline import outline
from aotsearch.training.masks import Masks

SIZES = {"vocabulary": 11, "context": 8}
IMAGE = {"image": 8, "channels": 2, "classes": 5}
ALL = {"dropout": 0.2, "drop_path": 0.4, "depth": 3, "block": [{"attention": {"dropout": 0.3}}, "mlp"]}
TOKENS = torch.randint(0, 11, (3, 8), generator=torch.Generator().manual_seed(0))


def space(model: dict[str, Any], sizes: dict[str, int] = SIZES) -> Space:
    return Space.parse(yamlfile.parse(yamlfile.dump({"model": {"width": 8, **model}}), "f"), sizes)


def architecture(model: dict[str, Any], sizes: dict[str, int] = SIZES) -> Architecture:
    return space(model, sizes).reference


# ---- what is dropped


def attention(dropout: float, **options: Any) -> tuple[Attention, ForwardContext, torch.Tensor]:
    site = LayerContext(8, 6, heads=2)
    module = Attention(site, heads=2, score=Softmax(site), dropout=dropout, **options)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    return module, ForwardContext(Positions()), torch.randn(2, 6, 8, generator=generator)


def dropped_maps(module: Attention, flow: ForwardContext, x: torch.Tensor, times: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The map of a sequence without dropout, and as many with it, by their action on the unit vectors."""
    q, k = module.queries_and_keys(x[:1], module.values_of(x[:1], flow), flow)
    unit = torch.eye(6).expand(times, 2, 6, 6)
    whole = module.eval().attend(q, k, unit[:1], flow)
    return whole[0], module.train().attend(*(t.expand(times, -1, -1, -1) for t in (q, k)), unit, flow)


@torch.no_grad()
def test_a_share_of_the_map_is_dropped_and_the_rest_is_scaled_so_that_its_mean_is_the_map() -> None:
    torch.manual_seed(0)
    whole, maps = dropped_maps(*attention(0.2), times=2000)
    seen = whole > 0
    zeros = (maps[:, seen] == 0).float()
    assert abs(zeros.mean().item() - 0.2) < 5 * (0.2 * 0.8 / zeros.numel()) ** 0.5
    kept = maps[:, seen] != 0
    torch.testing.assert_close(maps[:, seen][kept], (whole[seen] / 0.8).expand(2000, -1)[kept])
    error = (maps.mean(0) - whole).abs() / (whole * (0.25 / 2000) ** 0.5).clamp_min(1e-12)
    assert (error[seen] < 5).all() and not maps[:, ~seen].any()


@torch.no_grad()
def test_no_other_term_of_the_mixing_matrix_is_dropped() -> None:
    """In attention minus identity the -v stays whole: y = dropout(A) v - v."""
    module, flow, x = attention(0.5, identity=-1.0, uniform=0.7, output="identity")
    v = module.values_of(x, flow)
    q, k = module.queries_and_keys(x, v, flow)
    torch.manual_seed(3)
    y = module.train()(x, flow)
    torch.manual_seed(3)
    dropped = module.attend(q, k, v, flow)
    average = v.cumsum(-2) / torch.arange(1, 7).view(-1, 1)
    torch.testing.assert_close(y, (dropped - v + 0.7 * average).transpose(1, 2).reshape(2, 6, 8))
    assert not torch.equal(dropped, module.eval().attend(q, k, v, flow))


@torch.no_grad()
@pytest.mark.parametrize("options", [{"squared_map": 0.5}, {"second_map": 0.5}, {"persistent_kv": 2, "mask_self": True}])
def test_the_mean_output_over_masks_is_the_output_without(options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    module, flow, x = attention(0.1, **options)
    whole = module.eval()(x[:1], ForwardContext(flow.positions))[0]
    found = module.train()(x[:1].expand(3000, -1, -1), ForwardContext(flow.positions))
    error = (found.mean(0) - whole).abs() / (found.std(0) / 3000**0.5).clamp_min(1e-5)
    assert error.max() < 5


def test_a_map_that_is_not_there_is_not_dropped() -> None:
    module, _, _ = attention(0.2, map=0.0, uniform=1.0)
    assert module.dropout is None


def outputs_of(model: Model, name: str) -> list[torch.Tensor]:
    """What enters the joins of a step in one pass, before its output is dropped and after."""
    found: list[torch.Tensor] = []
    handles = [model.steps[name].operation.register_forward_hook(lambda _, __, y: found.append(y))]  # type: ignore[union-attr, operator]
    handles += [model.steps[name].join.register_forward_pre_hook(lambda _, given: found.append(given[1]))]  # type: ignore[union-attr, operator]
    model(torch.randint(0, 11, (500, 8), generator=torch.Generator().manual_seed(1)))
    for handle in handles:
        handle.remove()
    return found


@torch.no_grad()
def test_drop_path_drops_whole_samples_at_rates_that_rise_evenly_from_the_first_layer_to_the_last() -> None:
    a = architecture({"drop_path": 0.4, "depth": 3, "block": ["attention", "mlp"]})
    assert a.drop_paths == [0.0, 0.0, 0.2, 0.2, 0.4, 0.4]
    model = masked(build(a, seed=1))
    for name, rate in zip(model.order, a.drop_paths, strict=True):
        before, after = outputs_of(model, name)
        gone = (after == 0).all(-1).all(-1)
        assert abs(gone.float().mean().item() - rate) <= 5 * (rate * (1 - rate) / 500) ** 0.5
        torch.testing.assert_close(after[~gone], before[~gone] / (1 - rate))


def test_the_rates_are_of_the_layers_of_each_kind() -> None:
    alone = architecture({"drop_path": 0.3, "depth": 4, "block": ["attention"]})
    assert alone.drop_paths == pytest.approx([0, 0.1, 0.2, 0.3])
    more = architecture({"drop_path": 0.3, "depth": 2, "block": ["mlp", "attention", "mlp"]})
    assert more.drop_paths == pytest.approx([0, 0, 0.1, 0.2, 0.3, 0.3])
    tied = architecture({"drop_path": 0.3, "blocks": {"repeat": 3, "of": ["attention"], "tied": True}})
    assert tied.drop_paths == pytest.approx([0, 0.15, 0.3]) and list(build(tied).drops) == ["attention_0", "attention_0_1", "attention_0_2"]


@torch.no_grad()
def test_dropout_of_the_model_drops_the_embedded_tokens_and_what_every_operation_gives() -> None:
    model = masked(build(architecture({"dropout": 0.2, "depth": 2, "block": ["tssa", "mlp"]}), seed=1))
    for name in model.order:
        before, after = outputs_of(model, name)
        share = (after == 0).float()
        assert abs(share.mean().item() - 0.2) < 5 * (0.16 / share.numel()) ** 0.5
        torch.testing.assert_close(after[after != 0], before[after != 0] / 0.8)
    seen: list[torch.Tensor] = []
    model.steps["tssa_0"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(TOKENS)
    assert 0.05 < (seen[0] == 0).float().mean() < 0.35


@torch.no_grad()
def test_weights_that_come_again_are_dropped_anew_each_time() -> None:
    model = masked(build(architecture({"dropout": 0.5, "blocks": {"repeat": 2, "of": [{"attention": {"dropout": 0.5}}], "tied": True}})))
    _, dropped, _, again = outputs_of(model, "attention_0")
    assert not torch.equal(dropped == 0, again == 0)
    asked = {place: number for place, number in model.steps["attention_0"].operation.dropout.masks.asked.items() if number > 1}  # type: ignore[union-attr]
    assert asked == {"steps.attention_0.operation.dropout": 2}


# ---- when


@torch.no_grad()
def test_nothing_is_dropped_outside_training() -> None:
    a = architecture(ALL)
    free = architecture({"depth": 3, "block": ["attention", "mlp"]})
    model, whole = build(a, seed=1).eval(), build(free, seed=1).eval()
    assert list(model.state_dict()) == list(whole.state_dict()) and torch.equal(model(TOKENS), whole(TOKENS))
    assert vars(cost(a)) == vars(cost(free))
    model.train()
    assert not torch.equal(model(TOKENS), whole(TOKENS))
    targets = torch.zeros(3, 8, dtype=torch.long)

    def loss(m: Any) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(m(TOKENS).flatten(0, 1), targets.flatten())

    with torch.enable_grad():
        names = ["token-cosine", "attention-entropy", "gradient-norm"]
        found, expected = (probe.measure(m, TOKENS, names, loss) for m in (model, whole))
        assert found == expected and model.training


# ---- from what the masks follow


def masks_of(model: dict[str, Any], seed: int, step: int) -> dict[str, torch.Tensor]:
    """By place, what is dropped of the ones in a step."""
    made, found = build(architecture(model)), {}
    masks = Masks(made, [seed], replicas=False)
    masks.begin(step)
    plain = masks.dropped

    def heard(place: str, p: float, x: torch.Tensor) -> torch.Tensor:
        found[f"{place}:{masks.asked[place]}"] = mask = plain(place, p, x)
        return mask

    masks.dropped = heard  # type: ignore[method-assign]
    made(TOKENS)
    return found


def test_a_mask_follows_from_seed_step_and_place_and_from_nothing_else() -> None:
    torch.manual_seed(1)
    first = masks_of(ALL, 0, 7)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    again = masks_of(ALL, 0, 7)
    assert torch.equal(torch.get_rng_state(), state)
    assert first.keys() == again.keys() and all(torch.equal(first[place], again[place]) for place in first)
    without = masks_of({**ALL, "block": [{"attention": {"dropout": 0.3}}]}, 0, 7)  # places that both have
    shared = [place for place in without if "attention" in place or place == "dropout:1"]
    assert len(shared) == len(without) > 5
    assert all(torch.equal(first[place], without[place]) for place in shared if "samples" not in place)
    for other in (masks_of(ALL, 1, 7), masks_of(ALL, 0, 8)):
        assert all(not torch.equal(first[place], other[place]) for place in first if first[place].numel() > 20)


def test_masks_are_the_same_in_bfloat16() -> None:
    plain = masks_of(ALL, 0, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = masks_of(ALL, 0, 0)
    assert all(torch.equal(plain[place], rounded[place]) for place in plain)


def test_dropouts_of_words_that_are_not_ours_have_such_masks_too() -> None:
    inner = torch.nn.Dropout(0.5)
    module = torch.nn.ModuleDict({"a": torch.nn.Sequential(torch.nn.Identity(), inner), "b": inner})  # one module in two places
    masks = Masks(module, [3], replicas=False)
    assert isinstance(module["a"], torch.nn.Sequential)
    x = torch.ones(40)
    first = module["a"](x), module["b"](x)
    masks.begin(0)
    assert torch.equal(module["a"](x), first[0]) and torch.equal(module["b"](x), first[1]) and not torch.equal(*first)


DROPPED = ["grammar.model.dropout=0.2", "grammar.model.drop_path=0.3"]


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_training_with_dropout_that_was_interrupted_comes_out_as_one_that_was_not(
    replicas: int, study_file: Path, tmp_path: Path
) -> None:
    trials = bundle(study_file, replicas, *DROPPED)
    assert "dropout" in trials[0]["architecture"]
    torch.manual_seed(1)
    whole = run(trials, tmp_path / "whole", fuse=replicas)
    torch.manual_seed(2)
    assert not run(trials, tmp_path / "cut", fuse=replicas, kill_at=18)
    cut = run(trials, tmp_path / "cut", fuse=replicas)
    assert [r["resumed"]["step"] for r in cut] == [15] * replicas and list(map(plain, cut)) == list(map(plain, whole))
    for a, b in zip(whole, cut, strict=True):
        one, other = kept_weights(tmp_path / "whole", a), kept_weights(tmp_path / "cut", b)
        assert all(torch.equal(one[name], other[name]) for name in one)


# ---- as options


def test_what_is_not_dropped_is_not_written() -> None:
    plain_model = {"depth": 2, "block": ["attention", "mlp"]}
    zero = {**plain_model, "dropout": 0, "drop_path": 0.0, "block": [{"attention": {"dropout": 0}}, "mlp"]}
    assert architecture(zero) == architecture(plain_model) and architecture(zero).digest == architecture(plain_model).digest
    assert len(build(architecture(zero)).drops) == 0 and build(architecture(zero)).dropout is None
    made = architecture(ALL)
    assert Architecture.from_dict(made.to_dict()) == made and made.digest != architecture({**ALL, "dropout": 0.1}).digest


def test_shares_are_decisions_and_may_differ_from_layer_to_layer() -> None:
    layer = {"attention": {"dropout": {"range": [0, 0.5]}}}
    text = yamlfile.dump({"model": {"width": 8, "dropout": {"any": [0, 0.2]}, "blocks": {"each": 2, "of": "layer"}}, "layer": layer})
    decisions = {"model.dropout": 0.2, **{f"model.blocks.{i}.layer.attention.dropout": p for i, p in enumerate((0.1, 0.5))}}
    found = Space.parse(yamlfile.parse(text, "f"), SIZES).at(decisions)
    assert found.dropout == 0.2 and [dict(s.operation.options)["dropout"] for s in found.sublayers] == [0.1, 0.5]


@pytest.mark.parametrize(
    ("model", "law"),
    [
        ({"dropout": 1}, r"f:\d+:\d+: dropout is a number from 0 to below 1, not 1"),
        ({"drop_path": -0.1}, "drop_path is a number from 0 to below 1, not -0.1"),
        ({"dropout": True}, "dropout is a number from 0 to below 1"),
        ({"dropout": {"range": [0, 1]}}, "dropout is a number from 0 to below 1"),
        ({"drop_path": 0.1, "join": "convex"}, r"f:\d+:\d+: drop_path lets a sample skip a sublayer, .* that of attention is convex"),
        ({"drop_path": 0.1, "block": ["attention", {"ista": {"join": "none"}}]}, "that of ista is none"),
        ({"block": [{"mlp": {"dropout": 0.1}}]}, "mlp has no option 'dropout'"),
    ],
)
def test_a_share_that_is_none_is_refused_in_one_line(model: dict[str, Any], law: str) -> None:
    with pytest.raises(InputError, match=law) as e:
        space({"depth": 2, "block": ["attention", "mlp"], **model}).reference  # noqa: B018
    assert len(str(e.value).splitlines()) == 1


def test_drop_path_that_can_drop_nothing_is_the_model_without() -> None:
    model = {"depth": 1, "block": ["attention", "mlp"]}
    assert architecture({**model, "drop_path": 0.3}).digest == architecture(model).digest


def test_a_drawing_says_what_is_dropped() -> None:
    (embedding,) = [line for line in outline(architecture(ALL)) if line.part == "embedding"]
    assert embedding.text == "width 8, dropout 0.2, drop path 0.4"


def test_it_stands_beside_class_attention_and_keeps_what_every_model_keeps() -> None:
    pooled = {"pooling": {"class-attention": {"heads": 2}}, **ALL}
    subject = Subject(architecture(pooled, IMAGE))
    y = subject.model()(subject.inputs)
    assert y.shape == (4, 5) and y.isfinite().all()
    saved = io.BytesIO()
    torch.save(subject.model().state_dict(), saved)
    saved.seek(0)
    build(architecture(pooled, IMAGE)).load_state_dict(torch.load(saved))


def test_a_config_of_hugging_face_says_what_is_dropped() -> None:
    said = {"dropout": 0.1, "block": [{"attention": {"dropout": 0.2}}, "mlp"]}
    gpt2 = config_gpt2(build(architecture({"depth": 2, "drop_path": 0.3, **said})))
    assert (gpt2["embd_pdrop"], gpt2["resid_pdrop"], gpt2["attn_pdrop"]) == (0.1, 0.1, 0.2)
    vit = config_vit(build(architecture({"depth": 2, "pooling": "class-token", **said}, IMAGE)))
    assert (vit["hidden_dropout_prob"], vit["attention_probs_dropout_prob"]) == (0.1, 0.2)
