"""The statistics: figures worked by hand, properties that hold for all numbers, and a simulation with its seed fixed."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aotsearch.evidence import boundary as boundaries
from aotsearch.evidence import statistics
from aotsearch.evidence.boundary import boundary, crossing
from aotsearch.evidence.statistics import (
    holm,
    interval,
    noise_floor,
    sequential_interval,
    sequential_quantile,
    sign_flip,
)
from aotsearch.evidence.tails import long_tail

DIFFERENCES = st.lists(st.floats(-1, 1, allow_nan=False, width=32), min_size=4, max_size=12)


# ---- repeated looks


def test_one_look_is_students_interval() -> None:
    d = [0.1, 0.3, 0.2, 0.25, 0.4]
    assert sequential_interval(d, 0.95, 3, 5, 5) == pytest.approx(interval(d, 0.95, 3), rel=1e-9)
    assert boundary(3, 3, 0.05) == pytest.approx((4.302653,), rel=1e-6)  # t(0.975; 2) from printed tables


@pytest.fixture
def fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight times the usual places, to check the recursion itself: where few looks can cross, the usual ones are coarse."""
    monkeypatch.setattr(boundaries, "RISE", np.sin(np.linspace(0, math.pi / 2, 1025)))


@pytest.mark.usefixtures("fine")
def test_the_chance_of_crossing_at_one_look_only_is_students_tail() -> None:
    # 1 and 2 degrees of freedom in closed form: 1 - 2 atan(c) / pi, 1 - c / sqrt(2 + c^2)
    assert crossing([3.0], 2) == pytest.approx(1 - 2 * math.atan(3) / math.pi, rel=1e-9)
    assert crossing([math.inf, 5.0], 2) == pytest.approx(1 - 5 / math.sqrt(27), rel=8e-3)
    for first, n, c in ((4, 16, 2.7), (3, 8, 5.0), (2, 20, 3.5)):
        # the whole recursion, of which only the last look can cross
        assert crossing([math.inf] * (n - first) + [c], first) == pytest.approx(2 * stats.t.sf(c, n - 1), rel=2e-3)


@pytest.mark.usefixtures("fine")
@pytest.mark.parametrize(("early", "late"), [(2.178, 2.178), (2.797, 1.977)])
def test_two_looks_at_many_values_are_the_published_constants(early: float, late: float) -> None:
    # Pocock 1977 and O'Brien and Fleming 1979 for two equal groups at 5 %, known variance; here as the same nominal levels of t
    n = 60
    c = [float(stats.t.isf(stats.norm.sf(z), k - 1)) for z, k in ((early, n), (late, 2 * n))]
    assert crossing([c[0], *[math.inf] * (n - 1), c[1]], n) == pytest.approx(0.05, rel=0.015)


@pytest.mark.parametrize(("first", "last", "error", "slack"), [(4, 16, 0.05, 0.003), (4, 16, 0.05 / 11, 0.003), (3, 30, 0.02, 0.01)])
def test_the_usual_places_err_on_the_safe_side(first: int, last: int, error: float, slack: float, request: pytest.FixtureRequest) -> None:
    found = boundary(first, last, error)
    request.getfixturevalue("fine")
    assert error * (1 - slack) < crossing(found, first) < error


def test_two_looks_agree_with_an_integral_over_the_plane() -> None:
    # three normal values point in an even direction, so P(|t_2| < c_2 and |t_3| < c_3) is an area of the sphere, counted on a fine grid:
    # even in height and in angle
    c2, c3 = 6.0, 4.0
    height, angle = np.meshgrid((np.arange(400) + 0.5) / 400, (np.arange(10_001) + 0.5) * 2 * math.pi / 10_001)
    ring = np.sqrt(1 - height**2)
    x = np.stack([ring * np.cos(angle), ring * np.sin(angle), height])
    t2 = np.abs(x[:2].mean(0)) / (x[:2].std(0, ddof=1) / math.sqrt(2))
    t3 = np.abs(x.mean(0)) / (x.std(0, ddof=1) / math.sqrt(3))
    assert crossing([c2, c3], 2) == pytest.approx(1 - float(((t2 < c2) & (t3 < c3)).mean()), rel=3e-3)


@pytest.mark.parametrize(
    ("first", "last", "error"), [(4, 16, 0.05), (4, 16, 0.05 / 11), (2, 6, 0.01), (3, 30, 0.02), (5, 9, 1e-5), (2, 3, 0.5)]
)
def test_all_looks_together_spend_the_declared_error(first: int, last: int, error: float) -> None:
    found = boundary(first, last, error)
    assert len(found) == last - first + 1
    assert crossing(found, first) == pytest.approx(error, rel=5e-4)
    levels = 2 * stats.t.sf(found, np.arange(first, last + 1) - 1)
    assert levels / levels[-1] == pytest.approx(np.arange(first, last + 1) / last, rel=1e-6)
    assert levels[-1] < error < levels.sum()


def test_repeated_looks_miss_as_often_as_declared() -> None:
    # 100,000 series: the standard error is 0.0007 at 5 %; a t interval at every look misses almost four times as often
    rng, first, last, missed, plain = np.random.default_rng(7), 4, 16, 0, 0
    found, n = np.array(boundary(first, last, 0.05)), np.arange(1, last + 1)
    student = stats.t.isf(0.025, n[first - 1 :] - 1)
    for _ in range(5):
        x = 3 + 2 * rng.standard_normal((20_000, last))
        mean = x.cumsum(1) / n
        spread = ((x**2).cumsum(1) - n * mean**2)[:, first - 1 :] / (n[first - 1 :] - 1)
        t = np.abs(mean[:, first - 1 :] - 3) / np.sqrt(spread / n[first - 1 :])
        missed += int((t > found).any(1).sum())
        plain += int((t > student).any(1).sum())
    assert 0.047 < missed / 100_000 < 0.053
    assert plain / 100_000 > 0.17


def test_looks_can_be_repeated_only_within_the_plan() -> None:
    mean, low, high = sequential_interval([0.1, 0.2], 0.95, 1, 4, 16)
    assert mean == pytest.approx(0.15) and (low, high) == (-math.inf, math.inf)
    assert statistics.verdict(low, high, 1e9) == "undecided"
    with pytest.raises(AssertionError):
        sequential_interval([0.1] * 17, 0.95, 1, 4, 16)


def test_equal_differences_need_no_more_looks() -> None:
    assert sequential_interval([0.5] * 4, 0.95, 11, 4, 16) == (0.5, 0.5, 0.5)
    assert sequential_interval([0.0] * 4, 0.95, 11, 4, 16) == (0, 0, 0)


@settings(max_examples=60, deadline=None)
@given(DIFFERENCES, st.sampled_from([0.8, 0.9, 0.95]), st.sampled_from([1, 4, 11]))
def test_a_sequential_interval_is_wider_than_a_fixed_one_and_grows_with_confidence_and_family(
    d: list[float], confidence: float, family: int
) -> None:
    def width(*settings: float) -> float:
        _, low, high = sequential_interval(d, settings[0], int(settings[1]), 4, 12)
        return high - low

    _, low, high = interval(d, confidence, family)
    here = width(confidence, family)
    assert high - low <= here
    assert here <= width(confidence + 0.04, family)
    assert here <= width(confidence, family + 1)


@settings(max_examples=60, deadline=None)
@given(DIFFERENCES, st.sampled_from([1e-6, -1.0, 0.5, 1e5]), st.randoms())
def test_intervals_follow_the_scale_and_ignore_the_order(d: list[float], scale: float, random: object) -> None:
    mean, low, high = sequential_interval(d, 0.95, 11, 4, 12)
    scaled = sequential_interval([scale * x for x in d], 0.95, 11, 4, 12)
    assert scaled == pytest.approx((scale * mean, *sorted((scale * low, scale * high))), rel=1e-6, abs=1e-12 * abs(scale))
    assert sequential_interval(sorted(d), 0.95, 11, 4, 12) == pytest.approx((mean, low, high), rel=1e-6, abs=1e-12)


def test_a_later_end_costs_something_at_every_look() -> None:
    for n in range(4, 17):
        assert sequential_quantile(n, 0.95, 11, 4, 16) < sequential_quantile(n, 0.95, 11, 4, 20)
        assert sequential_quantile(n, 0.95, 11, 4, 16) > statistics.quantile(n, 0.95, 11)
    values = [sequential_quantile(n, 0.95, 11, 4, 16) for n in range(4, 17)]
    assert values == sorted(values, reverse=True)


def test_the_boundary_is_quick_and_always_the_same() -> None:
    boundary.cache_clear()
    began = time.perf_counter()
    found = boundary(4, 16, 0.05 / 11)
    assert time.perf_counter() - began < 1  # 30 ms where nothing else runs
    boundary.cache_clear()
    assert boundary(4, 16, 0.05 / 11) == found
    assert found[0] == pytest.approx(19.624, abs=0.002) and found[-1] == pytest.approx(4.001, abs=0.002)


def test_seeds_needed_under_repeated_looks_is_the_first_look_that_settles() -> None:
    for mean, sd, margin in ((0.03, 0.02, 0.02), (0.0, 0.01, 0.02), (-0.05, 0.04, 0.01)):
        more = statistics.sequential_seeds_needed(mean, sd, 5, margin, 0.95, 11, 4, 16)
        assert more is not None

        def settles(n: int, mean: float = mean, sd: float = sd, margin: float = margin) -> bool:
            half = sequential_quantile(n, 0.95, 11, 4, 16) * sd / math.sqrt(n)
            return statistics.verdict(mean - half, mean + half, margin) != "undecided"

        assert more == next(n for n in range(6, 17) if settles(n)) - 5
    assert statistics.sequential_seeds_needed(0.01, 1.0, 5, 0.01, 0.95, 11, 4, 16) is None
    assert statistics.sequential_seeds_needed(0.0, 0.0, 16, 0.01, 0.95, 11, 4, 16) is None
    assert statistics.sequential_seeds_needed(0.5, 0.0, 1, 0.01, 0.95, 11, 4, 16) == 3  # not before the first look


# ---- randomisation


def test_sign_flip_worked_by_hand() -> None:
    assert sign_flip([1, 2, 3]) == 0.25  # only + + + and - - - reach 6
    assert sign_flip([4, 3, -1]) == 0.5  # 8 and 6 and their negatives, of 8 sums
    assert sign_flip([3, -1]) == 1
    assert sign_flip([0, 0, 0]) == 1
    assert sign_flip([0, 1]) == 1  # a zero tells nothing
    assert sign_flip([-2]) == 1


def test_ties_count_whatever_rounding_makes_of_them() -> None:
    assert sign_flip([0.1, 0.2, -0.3, 0.3]) == sign_flip([1, 2, -3, 3])
    assert sign_flip([0.1] * 8 + [-0.1]) == sign_flip([1] * 8 + [-1]) == pytest.approx(20 / 512)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(-20, 20), min_size=1, max_size=9))
def test_sign_flip_is_the_count_over_all_signs(d: list[int]) -> None:
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((1, -1), repeat=len(d))]
    assert sign_flip(d) == pytest.approx(sum(total >= abs(sum(d)) for total in sums) / len(sums))
    assert sign_flip(d) == sign_flip([-x for x in d]) == sign_flip([x * 0.25 for x in d])


def test_sign_flip_agrees_with_scipy() -> None:
    d = np.random.default_rng(1).normal(0.4, 1, 10)
    expected = stats.permutation_test((d,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(d.tolist()) == pytest.approx(expected.pvalue)


def test_many_values_are_enumerated_too() -> None:
    assert sign_flip([1.0] * 20) == statistics.smallest_p(20) == 2**-19
    assert sign_flip([1.0] * 24 + [-1.0] * 8) == pytest.approx(2 * stats.binom.cdf(8, 32, 0.5))  # sums of 16 at least, of 32 signs
    assert sign_flip([1.0] * 41) is None


def test_too_few_seeds_are_told_in_words() -> None:
    assert statistics.smallest_p(5) == 0.0625
    said = statistics.too_few(5, 0.95, 1)
    assert "5 seeds is 0.0625" in said and "one contrast takes 0.05" in said and "until there are 6 seeds" in said
    assert statistics.too_few(6, 0.95, 1) == ""
    said = statistics.too_few(4, 0.95, 11)
    assert "0.125" in said and "11 contrasts at once takes 0.0045" in said and "9 seeds" in said
    assert statistics.too_few(9, 0.95, 11) == ""
    assert "1 seed is 1" in statistics.too_few(1, 0.95, 1)
    assert "no seed yet" in statistics.too_few(0, 0.95, 1)
    assert statistics.too_few(3, 0.75, 1) == ""  # 2^-2 is just enough


def test_holm_worked_by_hand() -> None:
    # in order: 4 x 0.005, 3 x 0.01, 2 x 0.03, then 1 x 0.04, which may not be less than the one before
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, 0.04], family=6) == pytest.approx([0.06, 0.2])  # four tests have no p-value yet
    assert holm([0.6, 0.7]) == [1, 1]
    assert holm([]) == []


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_lies_between_the_raw_and_bonferronis(ps: list[float]) -> None:
    found = holm(ps)
    assert all(p <= q <= min(1, len(ps) * p) + 1e-12 for p, q in zip(ps, found, strict=True))
    pairs = sorted(zip(ps, found, strict=True))
    assert [q for _, q in pairs] == sorted(q for _, q in pairs)
    assert all(q <= r for q, r in zip(found, holm(ps, len(ps) + 1), strict=True))


# ---- noise


def test_noise_floor_worked_by_hand() -> None:
    # y = 1, 2, 3: sd 1, t(0.975; 2) = 4.302653, so two runs may differ by 4.302653 sqrt(2); the pairs differ by 1, 1, 2
    found = noise_floor([1, 2, 3])
    assert found is not None
    assert (found.seeds, found.sd, found.median, found.largest) == (3, 1, 1, 2)
    assert found.difference == pytest.approx(4.302653 * math.sqrt(2), rel=1e-6)
    assert noise_floor([1.0]) is None and noise_floor([]) is None


def test_noise_floor_of_many_seeds_is_the_normal_quantile() -> None:
    values = np.random.default_rng(0).normal(5, 0.01, 1000).tolist()
    found = noise_floor(values)
    assert found is not None
    assert found.difference == pytest.approx(1.96 * math.sqrt(2) * found.sd, rel=2e-3)
    apart = [abs(a - b) for a, b in itertools.combinations(values[:200], 2)]
    assert np.quantile(apart, 0.95) == pytest.approx(found.difference, rel=0.1)


def test_two_new_runs_differ_by_less_than_the_noise_floor_as_often_as_declared() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for _ in range(2000):
        y = rng.normal(0, 1, 6)
        found = noise_floor(y[:4].tolist())
        assert found is not None
        held += abs(y[4] - y[5]) < found.difference
    assert 0.935 < held / 2000 < 0.965


# ---- the benchmark


BENCHMARK = Path(__file__).parent.parent / "benchmarks" / "verdicts.py"


@pytest.fixture(scope="module")
def verdicts() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verdicts", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["verdicts"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("noise", ["normal", "lopsided"])
def test_the_benchmark_judges_as_the_product_does(verdicts: ModuleType, noise: str) -> None:
    parts = verdicts.draw(noise, 5, 16, np.random.default_rng(0))
    reference, arms = verdicts.runs(parts, 0.005, 0.5)
    low, high = verdicts.paired(reference, arms, 11)
    said = verdicts.settle(low, high)
    assert (long_tail((arms - reference)[0].tolist()) > 0.5) == (noise == "lopsided")
    for study, arm in itertools.product(range(5), range(11)):
        tail = long_tail((arms - reference)[study].tolist())
        _, left, right = interval((arms - reference)[study, arm].tolist(), 0.95, 11, tail)
        assert (left, right) == pytest.approx((low[study, arm], high[study, arm]))
        assert statistics.VERDICTS[said[study, arm]] == statistics.verdict(left, right, verdicts.MARGIN)


@pytest.mark.parametrize("noise", ["normal", "lopsided"])
def test_the_benchmark_stops_as_the_product_does(verdicts: ModuleType, noise: str) -> None:
    parts = verdicts.draw(noise, 6, 16, np.random.default_rng(0))
    reference, arms = verdicts.runs(parts, 0.01, 0.5)
    trail = verdicts.follow(reference, arms, np.array(boundary(4, 16, 0.05 / 11)), verdicts.SEQUENTIAL, 11)
    decided, all_counts = 0, []
    for d in arms - reference:
        counts = [4] * 11
        while True:
            seen = [row[:n].tolist() for row, n in zip(d, counts, strict=True)]
            tail = long_tail(seen)
            ends = [sequential_interval(row, 0.95, 11, 4, 16, tail)[1:] for row in seen]
            said = [statistics.verdict(*each, verdicts.MARGIN) for each in ends]
            more = [word == "undecided" and n < 16 for word, n in zip(said, counts, strict=True)]
            if not any(more):
                break
            counts = [n + m for n, m in zip(counts, more, strict=True)]
        all_counts.append(counts)
        decided += sum(word != "undecided" for word in said)
    assert trail.decided == pytest.approx(decided / 66)
    assert trail.seeds == pytest.approx(np.mean(all_counts))
    assert trail.runs == pytest.approx(sum(sum(counts) + max(counts) for counts in all_counts) / 6)


def test_the_mixture_martingale_is_the_integral_it_stands_for(verdicts: ModuleType) -> None:
    # E_n = the mean over g ~ N(0, 1 / c2) of the likelihood ratio of the scale-free data under mean g sigma against mean 0, which is
    # an integral over the scale: w^(n-1) exp(-w^2 Q / 2 + w g S - n g^2 / 2), over the same at g = 0
    x, c2, error = np.array([0.4, 1.1, -0.2, 0.9, 0.7]), 0.5, 0.05
    n, total, squared = len(x), x.sum(), (x**2).sum()
    w, g = np.meshgrid(np.linspace(0, 12, 2001)[1:], np.linspace(-8, 8, 2001))
    bare = w ** (n - 1) * np.exp(-(w**2) * squared / 2)
    mixed = (bare * np.exp(w * g * total - n * g**2 / 2) * np.exp(-c2 * g**2 / 2)).sum() / np.exp(-c2 * g[:, 0] ** 2 / 2).sum()
    ratio = mixed / bare[0].sum()
    t = x.mean() / (x.std(ddof=1) / math.sqrt(n))
    h = c2 / (n + c2)
    assert ratio == pytest.approx(math.sqrt(h) * ((1 + t * t / (n - 1)) / (1 + h * t * t / (n - 1))) ** (n / 2), rel=1e-3)
    critical = verdicts.mixture(20, error, c2)
    h, y = c2 / (20 + c2), critical**2 / 19
    assert math.sqrt(h) * ((1 + y) / (1 + h * y)) ** 10 == pytest.approx(1 / error)
    assert verdicts.mixture(2, 1e-6, 2) == math.inf  # two values can never show so much


def test_verdicts_hold_in_a_quick_simulation(verdicts: ModuleType) -> None:
    found, paths = verdicts.fixed(300), verdicts.adaptive(75)
    for n in verdicts.SEEDS:
        assert found.covered["normal", verdicts.OURS, n] > 0.92
        assert found.covered["heavy", verdicts.OURS, n] > 0.93
        assert found.covered["lopsided", verdicts.STUDENT, n] < 0.87  # what a t interval does where the long tail is not seen
        assert found.covered["lopsided", verdicts.OURS, n] > (0.88 if n > 3 else 0.82)
        for regime in verdicts.REGIMES:
            assert found.wrong["normal", verdicts.OURS, n, regime] < 0.06
            assert n == 3 or found.wrong["lopsided", verdicts.OURS, n, regime] < 0.08
    assert max(found.wrong["normal", verdicts.NAIVE, 3, regime] for regime in verdicts.REGIMES) > 0.9
    ours, unguarded = (verdicts.average(paths, "normal", name, "ever") for name in (verdicts.SEQUENTIAL, verdicts.UNGUARDED))
    assert ours < 0.1 < unguarded
    assert verdicts.average(paths, "normal", verdicts.SEQUENTIAL, "runs") < 0.7 * verdicts.FULL
    text = verdicts.page(found, paths, 300, 16)
    assert "**Where they hold.**" in text and "**Where they fail.**" in text and "nan" not in text


def test_the_committed_page_is_of_this_form(verdicts: ModuleType) -> None:
    text = BENCHMARK.with_suffix(".md").read_text(encoding="utf-8")
    assert all(f"## {i}." in text for i in range(1, 9)) and all(rule in text for rule in verdicts.rules(0.05 / 11))
