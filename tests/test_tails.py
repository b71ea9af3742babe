"""Intervals that reach further on the side of a long tail: figures worked by hand, laws, and what a study makes of them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from test_analysis import contrast, record

from aotsearch.evidence import analysis, statistics
from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.boundary import boundary
from aotsearch.evidence.tails import long_tail, skewness, widening
from aotsearch.study.loading import load
from aotsearch.study.study import Study

# ---- the shape, by hand


def test_skewness_worked_by_hand() -> None:
    # mean 1/3, s^2 = 1/3, sum of cubes 6/27, k3 = 3 (6/27) / (2 x 1) = 1/3: G = (1/3) / (1/3)^1.5 = sqrt(3)
    assert skewness([0, 0, 1]) == pytest.approx(math.sqrt(3))
    assert skewness([0, 0, -5e-200]) == pytest.approx(-math.sqrt(3))
    assert skewness([1, 2, 3]) == pytest.approx(0)
    assert skewness([1, 2]) is None and skewness([0.1, 0.1, 0.1]) is None


def test_a_long_tail_worked_by_hand() -> None:
    # the variance of G of 3 normal values is 6 x 3 x 2 / (1 x 4 x 6) = 3/2, so of the mean of two G it is 3/4
    assert long_tail([[0, 0, 1], [0, 0, 2]]) == pytest.approx(math.sqrt(3) - math.sqrt(3) / 2)
    assert long_tail([[0, 0, -1], [0, 0, -2]]) == pytest.approx(-math.sqrt(3) / 2)
    assert long_tail([[0, 0, 1], [0, 0, -2]]) == 0 == long_tail([])
    assert long_tail([[0, 0, 1]]) == pytest.approx(math.sqrt(3) - math.sqrt(1.5))
    assert long_tail([[0, 0, 1]] * 50) == long_tail([[0, 0, 1]])  # arms that are one model tell it once
    assert long_tail([[0, 0, 1], [0, 0, 0], [0, 9]]) == long_tail([[0, 0, 1]])  # no shape, no say


def test_the_halves_of_an_interval_worked_by_hand() -> None:
    # t(0.975; 2) = 4.302653, s = sqrt(1/3); the upper half is exp(8 x 0.3 / 5) = 1.6161 times as long
    half = 4.302653 * math.sqrt(1 / 3) / math.sqrt(3)
    mean, low, high = statistics.interval([0, 0, 1], 0.95, 1, 0.3)
    assert (mean - low, high - mean) == pytest.approx((half, half * math.exp(0.48)), rel=1e-6)
    mean, low, high = statistics.interval([0, 0, 1], 0.95, 1, -0.3)
    assert (mean - low, high - mean) == pytest.approx((half * math.exp(0.48), half), rel=1e-6)
    assert statistics.reach(3, 0.95, 1, None, -0.3) == pytest.approx(4.302653 * math.exp(0.48), rel=1e-6)
    plain, further = (statistics.sequential_interval([0, 0, 1], 0.95, 2, 3, 6, tail) for tail in (0.0, 0.3))
    assert further[:2] == plain[:2] and further[2] - 1 / 3 == pytest.approx((plain[2] - 1 / 3) * math.exp(0.48))


# ---- laws

NUMBERS = st.lists(st.integers(-64, 64).map(lambda k: k / 64), min_size=3, max_size=9)


@settings(max_examples=80, deadline=None)
@given(NUMBERS, st.floats(-4, 4), st.sampled_from([1, 11, 200]))
def test_no_interval_is_shorter_than_students_and_mirrored_values_have_a_mirrored_one(d: list[float], tail: float, family: int) -> None:
    _, low, high = statistics.interval(d, 0.95, family)
    mean, left, right = statistics.interval(d, 0.95, family, tail)
    assert left <= low <= mean <= high <= right
    assert (left == low) if tail >= 0 else (right == high)
    assert statistics.interval([-x for x in d], 0.95, family, -tail) == (-mean, -right, -left)
    assert statistics.reach(len(d), 0.95, family, None, tail) == pytest.approx(
        max(widening(len(d), tail)) * statistics.quantile(len(d), 0.95, family)
    )


@settings(max_examples=80, deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=5), st.sampled_from([0.25, 3.0, 1e-9]))
def test_a_tail_has_no_unit_no_place_and_turns_with_the_sign(samples: list[list[float]], scale: float) -> None:
    found = long_tail(samples)
    assert long_tail([[-x for x in d] for d in samples]) == -found
    assert long_tail([[scale * x for x in d] for d in samples]) == pytest.approx(found, rel=1e-6, abs=1e-9)
    assert long_tail([[x + 2 for x in d] for d in samples]) == pytest.approx(found, rel=1e-6, abs=1e-9)


def test_skewness_and_its_chance_are_those_of_others() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((20_000, 5))
    found = [skewness(row.tolist()) or 0.0 for row in rows[:50]]
    assert found == pytest.approx(stats.skew(rows[:50], axis=1, bias=False))
    assert np.var(stats.skew(rows, axis=1, bias=False)) == pytest.approx(6 * 5 * 4 / (3 * 6 * 8), rel=0.03)


def test_seeds_needed_are_those_at_which_both_ends_settle() -> None:
    for mean, sd, tail in ((0.0, 0.02, 1.0), (0.0, 0.02, -1.0), (0.05, 0.05, -1.0), (-0.05, 0.05, 1.0), (0.05, 0.05, 1.0)):
        more = statistics.sequential_seeds_needed(mean, sd, 4, 0.03, 0.95, 3, 4, 30, tail)
        assert more is not None

        def settles(n: int, mean: float = mean, sd: float = sd, tail: float = tail) -> bool:
            half = statistics.sequential_quantile(n, 0.95, 3, 4, 30) * sd / math.sqrt(n)
            below, above = widening(n, tail)
            return statistics.verdict(mean - below * half, mean + above * half, 0.03) != "undecided"

        assert settles(4 + more) and not any(settles(n) for n in range(5, 4 + more))
    helped = statistics.seeds_needed(0.05, 0.05, 4, 0.01, 0.95, 3, tail=1.0)  # the long tail is not at the end that settles it
    assert helped == statistics.seeds_needed(0.05, 0.05, 4, 0.01, 0.95, 3)
    hindered = statistics.seeds_needed(0.05, 0.05, 4, 0.01, 0.95, 3, tail=-1.0)
    assert helped is not None and hindered is not None and hindered > helped


# ---- in a study

LANGUAGE = """
name: small
question: What is needed?
task: {language: {data: python-stdlib, context: 16}}
grammar:
  model: {width: 16, depth: 1, positions: learned, norm: norm, block: [{attention: {heads: 2}}, channel]}
  channel: {any: [{mlp: {expand: 2}}, none]}
  norm: {any: [NORMS]}
study: {design: DESIGN, seeds: SEEDS, margin: 0.02}
"""


def study(folder: Path, seeds: str = "6", design: str = "one-at-a-time", norms: str = "layernorm, rmsnorm, none") -> Study:
    path = folder / "study.yaml"
    path.write_text(LANGUAGE.replace("SEEDS", seeds).replace("DESIGN", design).replace("NORMS", norms))
    return load(path)


BAD, GOOD = [0.0, 0.001, 0.002, 0.001, 0.0, 0.4], [0.0, -0.001, -0.002, -0.001, 0.0, -0.4]  # one run is much worse, or better


def judged(asked: Study, **d: list[float]) -> Analysis:
    """What a study says whose reference is at 3 under every seed, and whose arms differ from it as given."""
    seeds = range(max(map(len, d.values())))
    made: list[dict[str, Any]] = [record("reference", s, 3.0) for s in seeds]
    for name, values in d.items():
        made += [record(name.replace("_", "="), s, 3.0 + v) for s, v in enumerate(values)]
    return analysis.analyse([r | {"test": r["measures"]} for r in made], asked)


@pytest.mark.parametrize(("row", "side"), [(BAD, 1), (GOOD, -1)])
def test_arms_that_share_a_long_tail_have_intervals_that_reach_further_on_that_side(tmp_path: Path, row: list[float], side: int) -> None:
    found = judged(study(tmp_path), channel_none=row, norm_rmsnorm=[2 * x for x in row], norm_none=[5 * x for x in row])
    c = contrast(found)
    d = [3.0 + x - 3.0 for x in row]
    tail = long_tail([[k * x for x in d] for k in (1, 2, 5)])
    assert side * tail > 1
    assert (c.difference, c.low, c.high) == pytest.approx(statistics.interval(d, 0.95, found.family, tail))
    assert c.test is not None and (c.test.low, c.test.high) == (c.low, c.high)
    assert found.smallest_effect == pytest.approx(2 * max(abs(c.high - c.difference), abs(c.difference - c.low)))  # type: ignore[operator]
    (note,) = [n for n in found.notes if "times as far at its" in n]
    assert ("upper end" in note and "much worse" in note) if side > 0 else ("lower end" in note and "much better" in note)


def test_without_a_tail_there_is_no_word_of_it(tmp_path: Path) -> None:
    found = judged(study(tmp_path), channel_none=BAD, norm_rmsnorm=GOOD)
    assert (contrast(found).low, contrast(found).high) == pytest.approx(statistics.interval(BAD, 0.95, found.family)[1:])
    assert not any("as far at its" in note for note in found.notes)


def test_an_added_seed_of_one_arm_counts_for_the_others_at_the_next_look(tmp_path: Path) -> None:
    asked = study(tmp_path, "{min: 4, max: 6}")
    calm, row = [0.0, 0.001, 0.002, 0.001], BAD[:4]
    before = contrast(judged(asked, channel_none=calm, norm_none=row, norm_rmsnorm=row))
    after = contrast(judged(asked, channel_none=calm, norm_none=BAD, norm_rmsnorm=[3 * x for x in BAD]))
    assert after.low == before.low and (after.high or 0) > (before.high or 0)
    tail = long_tail([[3.0 + x - 3.0 for x in d] for d in (calm, BAD, [3 * x for x in BAD])])
    assert after.high == pytest.approx(statistics.sequential_interval(calm, 0.95, 3, 4, 6, tail)[2])


def test_interactions_are_a_kind_of_their_own_and_of_unequal_variances_they_hold_all_the_same(tmp_path: Path) -> None:
    asked = study(tmp_path, "5", "factorial, factors: [channel, norm]", "layernorm, rmsnorm")
    rng, spreads = np.random.default_rng(1), {"reference": 0.001, "channel=none": 0.1, "norm=rmsnorm": 0.01, "norm=rmsnorm,channel=none": 1}
    y = {arm: 3 + spread * rng.standard_normal(5) for arm, spread in spreads.items()}
    made = [record(arm, seed, float(v)) for arm, row in y.items() for seed, v in enumerate(row)]
    (c,) = [c for c in analysis.analyse(made, asked).contrasts if c.kind == "interaction"]
    d = (y["norm=rmsnorm,channel=none"] - y["channel=none"] - y["norm=rmsnorm"] + y["reference"]).tolist()
    # the sum within a seed is one sample with one variance, whatever the cells have: its interval is exact
    assert (c.difference, c.low, c.high) == pytest.approx(statistics.interval(d, 0.95, 3, long_tail([d])))


def test_sums_of_arms_of_unequal_variance_miss_as_often_as_declared() -> None:
    rng = np.random.default_rng(2)
    y = rng.standard_normal((20_000, 4, 5)) * np.array([0.01, 1, 10, 0.1])[:, None]
    d = y[:, 0] - y[:, 1] - y[:, 2] + y[:, 3]
    t = np.abs(d.mean(1)) / (d.std(1, ddof=1) / math.sqrt(5))
    assert np.mean(t > statistics.quantile(5, 0.95, 1)) == pytest.approx(0.05, abs=0.005)


# ---- odd studies


def test_two_arms_that_are_the_same_model_have_an_interval_without_width_and_no_say_in_the_tail(tmp_path: Path) -> None:
    found = judged(study(tmp_path), channel_none=[0.0] * 6, norm_rmsnorm=BAD)
    c = contrast(found)
    assert (c.difference, c.low, c.high, c.sd_paired) == (0, 0, 0, 0)
    assert c.verdict == statistics.verdict(0, 0, 0.02)
    d = [3.0 + x - 3.0 for x in BAD]
    assert contrast(found, "norm=rmsnorm").high == pytest.approx(statistics.interval(d, 0.95, found.family, long_tail([d]))[2])


def test_equal_differences_that_are_not_zero_are_told_to_have_no_spread(tmp_path: Path) -> None:
    c = contrast(judged(study(tmp_path), channel_none=[0.5] * 6))
    assert (c.low, c.high) == (0.5, 0.5) and "equal in all 6 seeds" in c.remark
    assert "equal in all" not in contrast(judged(study(tmp_path), channel_none=[0.0] * 6)).remark


def test_a_seed_that_one_arm_lacks_is_missing_from_its_differences_alone(tmp_path: Path) -> None:
    found = judged(study(tmp_path), channel_none=BAD[1:], norm_none=BAD, norm_rmsnorm=GOOD)
    short, whole = contrast(found), contrast(found, "norm=none")
    assert (short.seeds, short.missing, whole.seeds, whole.missing) == (5, 1, 6, 0)
    samples = [[3.0 + x - 3.0 for x in d] for d in (BAD[1:], BAD, GOOD)]
    tail = long_tail(samples)
    assert tail != 0
    for c, d in ((short, samples[0]), (whole, samples[1])):
        assert (c.low, c.high) == pytest.approx(statistics.interval(d, 0.95, found.family, tail)[1:])


def test_one_contrast_and_two_hundred_are_judged(tmp_path: Path) -> None:
    d = [0.1, 0.11, 0.1, 0.12, 0.09, 0.1]
    one = statistics.interval(d, 0.95, 1)
    many = statistics.interval(d, 0.95, 200)
    assert many[0] == one[0] and many[2] - many[0] == pytest.approx((one[2] - one[0]) * stats.t.isf(0.025 / 200, 5) / stats.t.isf(0.025, 5))
    found = boundary(4, 16, 0.05 / 200)
    assert found == tuple(sorted(found, reverse=True)) and found[-1] > stats.t.isf(0.025 / 200, 15)
    # 200 arms of one kind of noise: their tail is known well, whatever a single one shows
    rng = np.random.default_rng(3)
    assert long_tail(rng.standard_normal((200, 5)).tolist()) == pytest.approx(0, abs=0.1)
    assert long_tail(rng.exponential(size=(200, 5)).tolist()) == pytest.approx(0.8 - 0.065, abs=0.15)
