from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.grammar.space import Space
from aotsearch.study import design, designs
from aotsearch.study.design import REFERENCE, STRIPPED, Design

SIZES = {"vocabulary": 11, "context": 8}
GRAMMAR = """
model: {width: 8, depth: 2, norm: norm, positions: positions, head: head, block: [mixer, channel]}
mixer: {attention: {heads: heads, qkv: qkv, identity: {any: [0, -1]}}}
channel: {any: [mlp, none]}
norm: {any: [layernorm, rmsnorm, none]}
positions: {any: [learned, rope]}
heads: {any: [2, 4]}
qkv: {any: [free, tied]}
head: {any: [tied, free]}
"""


@pytest.fixture(scope="module")
def space() -> Space:
    return Space.parse(yamlfile.parse(GRAMMAR, "f"), SIZES)


def estimate(made: Design, name: str, truth: Any) -> float:
    """A comparison of arms whose values are given by a function of their decisions."""
    values = {a.name: truth(a.architecture.decisions) for a in made.arms}
    comparison = next(c for c in made.comparisons if c.name == name)
    return sum(w * values[arm] for arm, w in comparison.weights.items())


def additive(d: Any) -> float:
    """Effects by hand: channel 1, qkv 0.5, rmsnorm 0.25, no norm 3; channel and qkv together 2 more."""
    channel, qkv = d["channel"] == "none", d["qkv"] == "tied"
    return channel + 0.5 * qkv + {"layernorm": 0, "rmsnorm": 0.25, "none": 3}[d["norm"]] + 2 * (channel and qkv)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("one-at-a-time", {}),
        ("pairs", {}),
        ("factorial", {"factors": ["channel", "norm", "qkv"]}),
        ("fractional", {"factors": ["channel", "norm", "positions", "qkv"], "runs": 8}),
        ("add-one-in", {"stripped": {"channel": "none", "norm": "none"}}),
    ],
)
def test_every_comparison_weighs_arms_that_exist_and_adds_up_to_zero(space: Space, name: str, options: dict[str, Any]) -> None:
    made = designs.make(space, name, **options)
    names = {a.name for a in made.arms}
    assert made.arms[0].name == REFERENCE and made.comparisons
    assert len({a.architecture.digest for a in made.arms}) == len(names)
    for c in made.comparisons:
        assert c.weights.keys() <= names, c
        assert abs(sum(c.weights.values())) < 1e-12
    assert len({c.name for c in made.comparisons}) == len(made.comparisons)


def test_one_at_a_time_changes_one_decision_of_the_reference(space: Space) -> None:
    made = designs.make(space, "one-at-a-time", ["channel", "norm"])
    assert [a.name for a in made.arms] == ["reference", "norm=rmsnorm", "norm=none", "channel=none"]
    assert estimate(made, "channel=none", additive) == 1
    assert estimate(made, "norm=none", additive) == 3


def test_pairs_find_what_two_changes_do_beyond_their_sum(space: Space) -> None:
    made = designs.make(space, "pairs", ["channel", "norm", "qkv"])
    assert len(made.arms) == 1 + 4 + (2 + 1 + 2)
    assert estimate(made, "qkv=tied x channel=none", additive) == 2
    assert estimate(made, "norm=rmsnorm x channel=none", additive) == 0


def test_two_arms_are_compared_with_each_other_where_that_is_asked_for(space: Space) -> None:
    made = designs.make(space, "one-at-a-time", ["channel", "norm"], compare=[("norm=none", "norm=rmsnorm")])
    assert estimate(made, "norm=none against norm=rmsnorm", additive) == 3 - 0.25
    assert made.comparisons[-1].changes == (("norm", "rmsnorm", "none"),)
    two = designs.make(space, "one-at-a-time", ["channel", "norm"], compare=[("norm=none", "channel=none")]).comparisons[-1]
    assert two.changes == (("norm", "layernorm", "none"), ("channel", "none", "mlp"))
    for pair, said in ((("norm=nine", "norm=rmsnorm"), "did you mean 'norm=none'"), (("norm=none", REFERENCE), "anyway")):
        with pytest.raises(InputError, match=said):
            designs.make(space, "one-at-a-time", ["norm"], compare=[pair])


def test_a_factorial_averages_effects_over_the_other_factors(space: Space) -> None:
    made = designs.make(space, "factorial", ["channel", "norm", "qkv"])
    assert len(made.arms) == 12
    assert estimate(made, "main effect of channel=none", additive) == pytest.approx(1 + 2 / 2)  # half of the cells are tied
    assert estimate(made, "main effect of norm=rmsnorm", additive) == pytest.approx(0.25)
    assert estimate(made, "qkv=tied x channel=none", additive) == pytest.approx(2)
    assert estimate(made, "norm=none x channel=none", additive) == pytest.approx(0)


def test_a_simple_effect_is_a_change_where_another_factor_has_one_value(space: Space) -> None:
    made = designs.make(space, "factorial", ["channel", "norm", "qkv"])
    assert estimate(made, "channel=none at qkv=free", additive) == pytest.approx(1)
    assert estimate(made, "channel=none at qkv=tied", additive) == pytest.approx(3)
    assert estimate(made, "norm=none at channel=none", additive) == pytest.approx(3)
    assert sum(c.kind == "simple" for c in made.comparisons) == 1 * (3 + 2) + 2 * (2 + 2) + 1 * (2 + 3)  # changes x values of the others


def test_add_one_in_asks_what_a_choice_gives_to_a_stripped_model(space: Space) -> None:
    made = designs.make(space, "add-one-in", stripped={"channel": "none", "qkv": "tied"})
    assert [a.name for a in made.arms] == [REFERENCE, STRIPPED, "stripped,channel=mlp", "stripped,qkv=free"]
    assert estimate(made, "stripped of channel", additive) == 3  # 3.5 without, 0.5 with the channel back
    assert estimate(made, "stripped", additive) == 3.5
    assert next(c for c in made.comparisons if c.name == "stripped of channel").changes == (("channel", "mlp", "none"),)
    with pytest.raises(InputError, match="needs stripped"):
        designs.make(space, "add-one-in")


def test_a_half_fraction_of_four_factors_is_of_resolution_four(space: Space) -> None:
    factors = ["channel", "positions", "heads", "qkv"]
    made = designs.make(space, "fractional", factors, runs=8)
    assert len(made.arms) == 8 and made.resolution == 4
    aliases = dict(made.aliases)
    assert aliases["positions"] == ("heads x qkv x channel",)
    assert aliases["positions x heads"] == ("qkv x channel",)
    effects = {"channel=none": 1.0, "positions=rope": 0.5, "heads=4": -0.25, "qkv=tied": 0.125}

    def truth(d: Any) -> float:
        return sum(e for change, e in effects.items() if str(d[change.split("=")[0]]) == change.split("=")[1])

    for change, effect in effects.items():
        assert estimate(made, f"main effect of {change}", truth) == pytest.approx(effect)


@pytest.mark.parametrize(("factors", "runs", "resolution"), [(3, 4, 3), (4, 8, 4), (5, 16, 5), (6, 16, 4), (7, 8, 3), (7, 16, 4)])
def test_the_best_known_resolutions_are_found(factors: int, runs: int, resolution: int) -> None:
    # Box, Hunter and Hunter, Statistics for Experimenters, table of two-level fractions
    rules = "".join(f"f{i}: {{any: [{int(i == 0)}, {i + 2}]}}\n" for i in range(factors))  # a map is there in every arm
    terms = ["map", "identity", "uniform", "square", "first", "exclusive", "second"][:factors]
    options = ", ".join(f"{term}: f{i}" for i, term in enumerate(terms))
    text = f"model: {{width: 8, depth: 1, block: [{{attention: {{heads: 2, {options}}}}}]}}\n{rules}"
    space = Space.parse(yamlfile.parse(text, "f"), SIZES)
    made = designs.make(space, "fractional", runs=runs)
    assert (len(made.arms), made.resolution) == (runs, resolution)


def test_columns_of_a_fraction_are_balanced_and_independent(space: Space) -> None:
    factors = ["channel", "positions", "heads", "qkv", "head"]
    made = designs.make(space, "fractional", factors, runs=16)
    mains = [c.weights for c in made.comparisons if c.kind == "main"]
    for one, two in itertools.combinations(mains, 2):
        assert abs(sum(one[a] * two[a] for a in one)) < 1e-12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": ["chanel"]}, "no decision 'chanel'.*channel"),
        ({"factors": ["channel", "qkv"], "design": "fractional"}, "3 to 10 factors"),
        ({"factors": ["channel", "qkv", "heads"], "design": "fractional", "runs": 6}, "one of 4, not 6"),
    ],
)
def test_a_design_that_does_not_fit_is_refused_in_words(space: Space, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        designs.make(space, options.pop("design", "one-at-a-time"), **options)


def test_arms_that_are_one_model_are_refused(space: Space) -> None:
    with pytest.raises(InputError, match=r"'mine' is the same model as 'channel=none'"):
        designs.make(space, "one-at-a-time", extra={"mine": {"channel": "none"}})


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True), st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
def test_a_run_cut_short_is_balanced(seeds: list[int], names: list[str]) -> None:
    cells = design.order(names, seeds)
    assert sorted(cells) == sorted(itertools.product(names, seeds))
    assert [s for s, _ in itertools.groupby(s for _, s in cells)] == seeds
    assert math.prod((len(names), len(seeds))) == len(cells)


# ---- decisions under an `each`

LAYERS = """
model: {width: 8, head: head, blocks: {each: 3, of: layer}}
layer: [{attention: {heads: 2}}, channel]
channel: {any: [mlp, {glu: {expand: {any: [2, 4]}}}, none]}
head: {any: [tied, free]}
"""


def layers(text: str = LAYERS) -> Space:
    return Space.parse(yamlfile.parse(text, "f"), SIZES)


def names(made: Design) -> list[str]:
    return [a.name for a in made.arms]


def test_a_layer_at_a_time_is_a_design() -> None:
    made = designs.make(layers(), "one-at-a-time")
    places = [f"model.blocks.{i}.channel={value}" for i in range(3) for value in ("glu", "none")]
    assert names(made) == [REFERENCE, "head=free", *places]
    without = next(a for a in made.arms if a.name == "model.blocks.1.channel=none")
    assert dict(without.changes) == {"model.blocks.1.channel": ("mlp", "none")}
    assert [s.operation.word for s in without.architecture.sublayers] == ["attention", "mlp", "attention", "attention", "mlp"]


@pytest.mark.parametrize(
    ("name", "options", "arms", "compared"),
    [
        ("one-at-a-time", {"factors": ["model.blocks.2.channel"]}, 3, "model.blocks.2.channel=none"),
        ("one-at-a-time", {"factors": ["channel"]}, 7, "model.blocks.0.channel=none"),
        ("pairs", {"factors": ["model.blocks.2.channel", "head"]}, 1 + 3 + 2, "head=free x model.blocks.2.channel=none"),
        ("factorial", {"factors": ["channel"]}, 27, "model.blocks.0.channel=none x model.blocks.2.channel=glu"),
        ("fractional", {"factors": ["channel", "head"], "runs": 8}, 8, "main effect of model.blocks.1.channel=glu"),
        ("add-one-in", {"stripped": {"channel": "none"}}, 5, "stripped of model.blocks.1.channel"),
        ("add-one-in", {"stripped": {"model.blocks.0.channel": "none", "head": "free"}}, 4, "stripped of model.blocks.0.channel"),
    ],
)
def test_every_design_takes_decisions_by_address_or_by_name_at_all_places(
    name: str, options: dict[str, Any], arms: int, compared: str
) -> None:
    made = designs.make(layers(), name, **options)
    assert len(made.arms) == arms and compared in [c.name for c in made.comparisons]


def test_arms_name_one_place_or_all_of_them_and_are_compared() -> None:
    extra = {"first": {"model.blocks.0.channel": "glu", "model.blocks.0.channel.glu.expand": 4}, "bare": {"channel": "none"}}
    extra["last only"] = {"channel": "none", "model.blocks.2.channel": "mlp"}
    made = designs.make(layers(), "one-at-a-time", ["head"], extra=extra, compare=[("bare", "last only")])
    by_name = {a.name: a for a in made.arms}
    assert by_name["first"].changes["model.blocks.0.channel.glu.expand"] == (None, 4)
    assert list(by_name["bare"].changes) == [f"model.blocks.{i}.channel" for i in range(3)]
    assert len(by_name["bare"].architecture.sublayers) == 3 and len(by_name["last only"].architecture.sublayers) == 4
    assert made.comparisons[-1].changes == (("model.blocks.2.channel", "mlp", "none"),)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"factors": ["model.blocks.3.channel"]}, "did you mean 'model.blocks.2.channel'"),
        ({"factors": ["chanel"]}, "did you mean 'channel'"),
        ({"factors": ["channel.glu.expand"]}, r"not met in the reference \(only inside channel=glu\)"),
        ({"extra": {"x": {"model.block.1.channel": "none"}}}, "arm 'x': no decision.*did you mean 'model.blocks.1.channel'"),
        ({"extra": {"x": {"model.blocks.1.channel": "nine"}}}, "arm 'x': 'nine' is not an alternative.*did you mean 'none'"),
        ({"extra": {"x": {"model.blocks.1.channel.glu.expand": 4}}}, r"is not met here \(only inside channel=glu\)"),
        ({"design": "add-one-in", "stripped": {"modl.blocks.1.channel": "none"}}, "did you mean 'model.blocks.1.channel'"),
        ({"compare": [("model.blocks.1.channel=nine", "head=free")]}, "did you mean 'model.blocks.1.channel=none'"),
    ],
)
def test_a_place_that_is_not_there_is_refused_with_the_nearest(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        designs.make(layers(), options.pop("design", "one-at-a-time"), **options)
    assert len(str(refused.value).splitlines()) == 1


def test_an_address_outside_an_each_is_that_decision_alone() -> None:
    text = "model: {width: 8, blocks: [channel, {each: 2, of: [attention, channel]}]}\nchannel: {any: [mlp, none]}"
    made = designs.make(layers(text), "one-at-a-time", ["channel"], extra={"two": {"channel": "none", "model.blocks.1.0.channel": "none"}})
    assert names(made) == [REFERENCE, "channel=none", "two"] and len(made.arms[1].architecture.sublayers) == 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (  # a shared rule is one factor, and one that is decided within it
            "model: {width: 8, blocks: {each: 2, of: layer, share: [heads]}}\n"
            "layer: [{attention: {heads: heads, identity: {any: [0, -1]}}}, mlp]\nheads: {any: [2, 4]}",
            ["heads=4", "model.blocks.0.layer.0.attention.identity=-1", "model.blocks.1.layer.0.attention.identity=-1"],
        ),
        (  # an `each` within an `each`
            "model: {width: 8, blocks: {each: 2, of: stage}}\nstage: [mlp, {each: 2, of: [attention, c]}]\nc: {any: [mlp, none]}",
            [f"model.blocks.{i}.stage.1.{j}.c=none" for i in range(2) for j in range(2)],
        ),
        (  # one set of weights, so one decision for all times
            "model: {width: 8, blocks: {repeat: 3, tied: true, of: {each: 2, of: [attention, c]}}}\nc: {any: [mlp, none]}",
            ["model.blocks.0.c=none", "model.blocks.1.c=none"],
        ),
        (  # the reference is met within itself once
            "model: {width: 8, blocks: m}\nm: {any: [[m, attention, x], mlp], limit: 1}\nx: {any: [mlp, none]}",
            ["m=mlp", "x=none"],
        ),
        (
            "model: {width: 8, blocks: m}\nm: {any: [[x, mlp, m], attention], limit: 2}\nx: {any: [mlp, {attention: {identity: -1}}]}",
            ["m=attention", "x=attention", "m.1.2.m=attention", "m.1.2.x=attention"],
        ),
        (  # how many places there are is a decision as well
            "model: {width: 8, blocks: {each: {any: [2, 3]}, of: [attention, c]}}\nc: {any: [mlp, none]}",
            ["model.blocks.each=3", "model.blocks.0.c=none", "model.blocks.1.c=none"],
        ),
    ],
    ids=["share", "nested", "tied", "recursion that ends", "recursion", "times"],
)
def test_the_arms_are_the_decisions_that_the_reference_meets_wherever_they_are(text: str, expected: list[str]) -> None:
    assert names(designs.make(layers(text), "one-at-a-time"))[1:] == expected


def test_of_equal_layers_one_is_left_out_and_the_others_are_told_to_be_the_same_model() -> None:
    space = layers("model: {width: 8, blocks: {each: 3, of: layer}}\nlayer: {any: [[attention, mlp], none, mlp]}")
    made = designs.make(space, "one-at-a-time")
    assert names(made) == [REFERENCE, "model.blocks.0.layer=none", *(f"model.blocks.{i}.layer=mlp" for i in range(3))]
    assert designs.not_varied(space, made, "one-at-a-time") == {
        f"model.blocks.{i}.layer": "none is the same model as model.blocks.0.layer=none" for i in (1, 2)
    }
    with pytest.raises(InputError, match=r"'model.blocks.1.layer=none' is the same model as 'model.blocks.0.layer=none'.*factors"):
        designs.make(space, "pairs")


def test_more_arms_than_a_study_may_have_are_refused_before_one_is_made_with_the_way_out() -> None:
    wide = layers("model: {width: 8, blocks: {each: 600, of: {any: [none, mlp, attention]}}}")
    with pytest.raises(InputError, match=r"at most 1000 arms, and these would be 1201; name fewer decisions in factors"):
        designs.make(wide, "one-at-a-time")
    with pytest.raises(InputError, match=r"at most 50,000 decisions, all together"):
        designs.make(layers("model: {width: 8, blocks: {each: 400, of: {any: [none, mlp]}}}"), "one-at-a-time")
    with pytest.raises(InputError, match=r"a full factorial over 600 decisions has more than 1000 arms"):
        designs.make(wide, "factorial")


@pytest.mark.parametrize("name", ["pairs", "factorial"])
def test_factors_that_exclude_each_other_are_refused_with_the_way_out(name: str) -> None:
    space = layers("model: {width: 8, blocks: {each: {any: [2, 1]}, of: [attention, c]}}\nc: {any: [mlp, none]}")
    with pytest.raises(InputError, match=r"'model.blocks.1.c' is not met here; name in factors those that can be changed together"):
        designs.make(space, name, ["model.blocks.each", "model.blocks.1.c"])


# ---- what is not varied

MIXED = """
model: {width: 8, depth: 2, norm: norm, block: [{attention: {heads: {any: [2]}}}, channel]}
channel: {any: [{mlp: {expand: {range: [1, 4]}}}, {glu: {expand: {any: [2, 4]}}}, {each: {any: [1, 2]}, of: small}]}
small: {any: [linear, none]}
norm: {any: [layernorm, rmsnorm, none]}
"""


@pytest.mark.parametrize(
    ("name", "options", "told"),
    [
        ("one-at-a-time", {}, {}),
        ("one-at-a-time", {"factors": ["channel"]}, {"norm": "not in factors"}),
        ("one-at-a-time", {"extra": {"x": {"channel.mlp.expand": 2.5}}}, {"channel.mlp.expand": None}),
        ("add-one-in", {"stripped": {"channel": "glu"}}, {"norm": "not in stripped"}),
        ("search", {}, None),
    ],
)
def test_what_no_arm_changes_is_told_by_name_with_the_reason(
    name: str, options: dict[str, Any], told: dict[str, str | None] | None
) -> None:
    space = layers(MIXED)
    usual = {
        "model.block.0.attention.heads": "one alternative",
        "channel.mlp.expand": "a range; a search varies it",
        "channel.glu.expand": "only inside channel=glu",
        "channel.3.each": "only inside channel=each",
        "channel.3.0.small": "only inside channel=each",
    }
    expected = {a: reason for a, reason in {**usual, **told}.items() if reason} if told is not None else {}
    assert designs.not_varied(space, designs.make(space, name, **options), name) == expected


def test_a_fraction_tells_which_alternatives_it_leaves_out(space: Space) -> None:
    made = designs.make(space, "fractional", ["channel", "norm", "positions", "qkv"])
    assert designs.not_varied(space, made, "fractional")["norm"] == "beyond rmsnorm; a fraction has two levels"


def test_places_beyond_those_of_the_reference_are_told() -> None:
    space = layers("model: {width: 8, blocks: {each: {any: [2, 4]}, of: [attention, c]}}\nc: {any: [mlp, none]}")
    told = designs.not_varied(space, designs.make(space, "one-at-a-time"), "one-at-a-time")
    assert told == {"model.blocks.2.c": "only where model.blocks.each is above 2"}


def test_what_is_not_varied_is_one_line_by_reason_and_by_name() -> None:
    space = layers()
    line = designs.listed(
        space, designs.not_varied(space, designs.make(space, "one-at-a-time", ["model.blocks.1.channel"]), "one-at-a-time")
    )
    assert line == ("head, model.blocks.0.channel, model.blocks.2.channel (not in factors); channel.glu.expand (only inside channel=glu)")
