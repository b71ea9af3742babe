from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aotsearch import design, yamlfile
from aotsearch.design import REFERENCE, STRIPPED, Design
from aotsearch.errors import InputError
from aotsearch.space import Space

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
    made = design.make(space, name, **options)
    names = {a.name for a in made.arms}
    assert made.arms[0].name == REFERENCE and made.comparisons
    assert len({a.architecture.digest for a in made.arms}) == len(names)
    for c in made.comparisons:
        assert c.weights.keys() <= names, c
        assert abs(sum(c.weights.values())) < 1e-12
    assert len({c.name for c in made.comparisons}) == len(made.comparisons)


def test_one_at_a_time_changes_one_decision_of_the_reference(space: Space) -> None:
    made = design.make(space, "one-at-a-time", ["channel", "norm"])
    assert [a.name for a in made.arms] == ["reference", "norm=rmsnorm", "norm=none", "channel=none"]
    assert estimate(made, "channel=none", additive) == 1
    assert estimate(made, "norm=none", additive) == 3


def test_pairs_find_what_two_changes_do_beyond_their_sum(space: Space) -> None:
    made = design.make(space, "pairs", ["channel", "norm", "qkv"])
    assert len(made.arms) == 1 + 4 + (2 + 1 + 2)
    assert estimate(made, "qkv=tied x channel=none", additive) == 2
    assert estimate(made, "norm=rmsnorm x channel=none", additive) == 0


def test_two_arms_are_compared_with_each_other_where_that_is_asked_for(space: Space) -> None:
    made = design.make(space, "one-at-a-time", ["channel", "norm"], compare=[("norm=none", "norm=rmsnorm")])
    assert estimate(made, "norm=none against norm=rmsnorm", additive) == 3 - 0.25
    assert made.comparisons[-1].changes == (("norm", "rmsnorm", "none"),)
    two = design.make(space, "one-at-a-time", ["channel", "norm"], compare=[("norm=none", "channel=none")]).comparisons[-1]
    assert two.changes == (("norm", "layernorm", "none"), ("channel", "none", "mlp"))
    for pair, said in ((("norm=nine", "norm=rmsnorm"), "did you mean 'norm=none'"), (("norm=none", REFERENCE), "anyway")):
        with pytest.raises(InputError, match=said):
            design.make(space, "one-at-a-time", ["norm"], compare=[pair])


def test_a_factorial_averages_effects_over_the_other_factors(space: Space) -> None:
    made = design.make(space, "factorial", ["channel", "norm", "qkv"])
    assert len(made.arms) == 12
    assert estimate(made, "main effect of channel=none", additive) == pytest.approx(1 + 2 / 2)  # half of the cells are tied
    assert estimate(made, "main effect of norm=rmsnorm", additive) == pytest.approx(0.25)
    assert estimate(made, "qkv=tied x channel=none", additive) == pytest.approx(2)
    assert estimate(made, "norm=none x channel=none", additive) == pytest.approx(0)


def test_a_simple_effect_is_a_change_where_another_factor_has_one_value(space: Space) -> None:
    made = design.make(space, "factorial", ["channel", "norm", "qkv"])
    assert estimate(made, "channel=none at qkv=free", additive) == pytest.approx(1)
    assert estimate(made, "channel=none at qkv=tied", additive) == pytest.approx(3)
    assert estimate(made, "norm=none at channel=none", additive) == pytest.approx(3)
    assert sum(c.kind == "simple" for c in made.comparisons) == 1 * (3 + 2) + 2 * (2 + 2) + 1 * (2 + 3)  # changes x values of the others


def test_add_one_in_asks_what_a_choice_gives_to_a_stripped_model(space: Space) -> None:
    made = design.make(space, "add-one-in", stripped={"channel": "none", "qkv": "tied"})
    assert [a.name for a in made.arms] == [REFERENCE, STRIPPED, "stripped,channel=mlp", "stripped,qkv=free"]
    assert estimate(made, "stripped of channel", additive) == 3  # 3.5 without, 0.5 with the channel back
    assert estimate(made, "stripped", additive) == 3.5
    assert next(c for c in made.comparisons if c.name == "stripped of channel").changes == (("channel", "mlp", "none"),)
    with pytest.raises(InputError, match="needs stripped"):
        design.make(space, "add-one-in")


def test_a_half_fraction_of_four_factors_is_of_resolution_four(space: Space) -> None:
    factors = ["channel", "positions", "heads", "qkv"]
    made = design.make(space, "fractional", factors, runs=8)
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
    rules = "".join(f"f{i}: {{any: [{[0, -1, 2, 3, 4, 5, 6][0]}, {i + 1}]}}\n" for i in range(factors))
    terms = ["map", "identity", "uniform", "square", "first", "exclusive", "second"][:factors]
    options = ", ".join(f"{term}: f{i}" for i, term in enumerate(terms))
    text = f"model: {{width: 8, depth: 1, block: [{{attention: {{heads: 2, {options}}}}}]}}\n{rules}"
    space = Space.parse(yamlfile.parse(text, "f"), SIZES)
    made = design.make(space, "fractional", runs=runs)
    assert (len(made.arms), made.resolution) == (runs, resolution)


def test_columns_of_a_fraction_are_balanced_and_independent(space: Space) -> None:
    factors = ["channel", "positions", "heads", "qkv", "head"]
    made = design.make(space, "fractional", factors, runs=16)
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
        design.make(space, options.pop("design", "one-at-a-time"), **options)


def test_arms_that_are_one_model_are_refused(space: Space) -> None:
    with pytest.raises(InputError, match=r"'mine' is the same model as 'channel=none'"):
        design.make(space, "one-at-a-time", extra={"mine": {"channel": "none"}})


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=6, unique=True), st.lists(st.sampled_from("abcd"), min_size=1, unique=True))
def test_a_run_cut_short_is_balanced(seeds: list[int], names: list[str]) -> None:
    cells = design.order(names, seeds)
    assert sorted(cells) == sorted(itertools.product(names, seeds))
    assert [s for s, _ in itertools.groupby(s for _, s in cells)] == seeds
    assert math.prod((len(names), len(seeds))) == len(cells)
