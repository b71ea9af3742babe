"""The statistics against numbers worked out by other means, and the laws that any verdict must obey."""

from __future__ import annotations

import dataclasses
import json
import math
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from aotsearch.errors import InputError
from aotsearch.evidence import analysis, statistics, tables
from aotsearch.evidence import answer as answers
from aotsearch.evidence.answer import Analysis
from aotsearch.evidence.contrast import Contrast
from aotsearch.report import summary
from aotsearch.study.loading import load
from aotsearch.study.study import Study

TEXT = """
name: small
question: What is needed?
task: {language: {data: python-stdlib, context: 16}}
grammar:
  model: {width: 16, depth: 1, positions: learned, norm: norm, block: [{attention: {heads: 2}}, channel]}
  channel: {any: [{mlp: {expand: 2}}, none]}
  norm: {any: [layernorm, rmsnorm]}
study: {design: DESIGN, seeds: 4, margin: 0.02}
"""


def study(folder: Path, design: str = "one-at-a-time") -> Study:
    path = folder / "study.yaml"
    path.write_text(TEXT.replace("DESIGN", design))
    return load(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return study(tmp_path_factory.mktemp("study"))


def record(arm: str, seed: int, loss: float | None, **changes: Any) -> dict[str, Any]:
    """One finished trial; no loss means that it diverged."""
    done = loss is not None
    return {
        "key": f"{arm}/{seed}/{changes.get('phase')}",
        "arm": arm,
        "seed": seed,
        "phase": "design",
        "equalise": "none",
        "digest": arm,
        "decisions": {"channel": "none" if "channel" in arm else "mlp", "norm": "layernorm"},
        "changes": {"channel": ["mlp", "none"]} if arm != "reference" else {},
        "outcome": "done" if done else "diverged",
        "message": "" if done else "loss is nan at step 3",
        "measures": {"bits_per_byte": loss} if done else {},
        "curve": [],
        "parameters": 1000,
        "parameters_without_embeddings": 900,
        "flops_per_token": 2000,
        "learning_rate": 0.003,
        "steps": 600,
        "tokens": 9600,
        "seconds": 1.0,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "host": "h",
        "finished": "2026-01-01T00:00:00+00:00",
        **changes,
    }


def records(**losses: list[float | None]) -> list[dict[str, Any]]:
    names = {"reference": "reference", "channel": "channel=none", "norm": "norm=rmsnorm"}
    return [record(names[arm], seed, loss) for arm, row in losses.items() for seed, loss in enumerate(row)]


def contrast(found: Analysis, arm: str = "channel=none") -> Contrast:
    return next(c for c in found.contrasts if c.arm == arm)


def on_test(c: Contrast) -> tuple[float, float, float] | None:
    return c.test and (c.test.difference, c.test.low, c.test.high)


REFERENCE: list[float | None] = [3.0, 3.125, 2.875, 3.0625]


def shifted(*differences: float) -> list[float | None]:
    return [y + d for y, d in zip(REFERENCE, differences, strict=True) if y is not None]


def test_interval_is_the_paired_t_interval_worked_by_hand() -> None:
    # d = 1, 2, 3: mean 2, sd 1, t(0.975; 2) = 4.302653 from printed tables, half width 4.302653 / sqrt(3)
    mean, low, high = statistics.interval([1.0, 2.0, 3.0], 0.95, 1)
    assert mean == 2
    assert high - mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert mean - low == pytest.approx(high - mean)


def test_bonferroni_divides_the_error_rate_by_the_number_of_contrasts() -> None:
    for n, family in ((2, 1), (5, 10), (8, 3)):
        assert statistics.quantile(n, 0.95, family) == pytest.approx(stats.t.isf(0.025 / family, n - 1), rel=1e-9)
    d = [0.1, 0.3, 0.2, 0.25]
    mean, low, high = statistics.interval(d, 0.95, 2)
    expected = stats.ttest_1samp(d, 0).confidence_interval(0.975)
    assert (low, high) == pytest.approx((expected.low, expected.high))
    assert mean == pytest.approx(0.2125)


def test_contrasts_are_paired_by_seed_and_corrected_for_all_declared_arms(small: Study) -> None:
    found = contrast(analysis.analyse(records(reference=REFERENCE, channel=shifted(0.1, 0.12, 0.14, 0.12)), small))
    mean, low, high = statistics.interval([0.1, 0.12, 0.14, 0.12], 0.95, 2)  # two arms are declared, though one has not run
    assert (found.difference, found.low, found.high) == pytest.approx((mean, low, high))
    assert (found.seeds, found.verdict, found.title) == (4, "worse", "channel: mlp -> none")
    assert found.sd_paired is not None and found.sd_unpaired is not None and found.sd_unpaired > 5 * found.sd_paired


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ((0.1, 0.11, 0.12, 0.11), "worse"),
        ((-0.1, -0.11, -0.12, -0.11), "better"),
        ((0.001, -0.001, 0.002, 0.0), "equivalent"),
        ((0.1, -0.1, 0.2, 0.0), "undecided"),
        ((0.01, 0.011, 0.012, 0.011), "equivalent"),  # surely above zero, yet surely within the margin
        ((0.0, 0.0, 0.0, 0.0), "equivalent"),
        ((0.5, 0.5, 0.5, 0.5), "worse"),
    ],
)
def test_verdict_follows_the_interval(small: Study, differences: tuple[float, ...], said: str) -> None:
    found = contrast(analysis.analyse(records(reference=REFERENCE, channel=shifted(*differences)), small))
    assert found.verdict == said
    assert (found.seeds_needed is not None) == (said == "undecided")


def test_verdict_at_the_ends_of_the_margin() -> None:
    assert statistics.verdict(-0.02, 0.02, 0.02) == "equivalent"
    assert statistics.verdict(0.01, 0.0201, 0.02) == "worse"
    assert statistics.verdict(-0.0201, -0.01, 0.02) == "better"
    assert statistics.verdict(0.0, 0.03, 0.02) == "undecided"


@pytest.mark.parametrize("mean, sd", [(0.05, 0.05), (0.03, 0.03), (0.1, 0.08), (0.001, 0.02)])
def test_seeds_needed_are_those_of_a_further_look(mean: float, sd: float) -> None:
    """To add them is to look again: the forecast lies within a seed or two of where the interval of a second look settles."""
    first, margin, family = 5, 0.02, 6

    def settles(n: int, reach: float) -> bool:
        half = reach * sd / math.sqrt(n)
        return half < mean or mean + half <= margin

    more = statistics.seeds_needed(mean, sd, first, margin, 0.95, family)
    again = next(n for n in range(6, 40) if settles(n, statistics.boundary(first, n, 0.05 / family)[-1]))
    fixed = next(n for n in range(6, 40) if settles(n, float(stats.t.isf(0.025 / family, n - 1))))
    assert more is not None and abs(first + more - again) <= 1 and fixed <= first + more
    assert statistics.seeds_needed(0.02, 5.0, first, margin, 0.95, family) is None


def test_an_arm_is_compared_with_another_arm_within_a_seed(tmp_path: Path) -> None:
    asked = study(tmp_path, "one-at-a-time, compare: [[channel=none, norm=rmsnorm]]")
    found = analysis.analyse(records(reference=REFERENCE, channel=shifted(0.3, 0.4, 0.3, 0.4), norm=shifted(0.1, 0.1, 0.2, 0.2)), asked)
    both = contrast(found, "channel=none against norm=rmsnorm")
    assert both.difference == pytest.approx((0.2 + 0.3 + 0.1 + 0.2) / 4) and found.family == 3
    gone = records(reference=REFERENCE, channel=shifted(0.3, 0.4, 0.3, 0.4), norm=[None] * 4)
    both = contrast(analysis.analyse(gone, asked), "channel=none against norm=rmsnorm")
    assert (both.verdict, both.remark) == ("better", "norm=rmsnorm diverged in every seed (4)")


def test_one_seed_gives_no_interval(small: Study) -> None:
    found = analysis.analyse(records(reference=[3.0], channel=[3.5]), small)
    assert (contrast(found).verdict, contrast(found).low, contrast(found).difference) == ("undecided", None, 0.5)
    assert contrast(found, "norm=rmsnorm").difference is None
    assert found.noise_floor is None and found.partial
    assert any("needs at least two" in note for note in found.warnings)
    assert "one seed gives no interval" in summary.summary(found)


def test_no_record_at_all_is_still_an_answer(small: Study) -> None:
    found = analysis.analyse([], small)
    assert {c.verdict for c in found.contrasts} == {"undecided"}
    assert "reference: no finished seed yet" in summary.summary(found, {"baselines": {"unigram": 4.0}})


def test_records_in_any_order_give_the_same_analysis(small: Study) -> None:
    made = records(reference=REFERENCE, channel=shifted(0.1, 0.2, 0.15, 0.3), norm=shifted(0.01, 0, -0.01, 0.02))
    expected = analysis.analyse(made, small)
    for seed in range(5):
        random.Random(seed).shuffle(made)
        assert analysis.analyse(made, small) == expected


def test_diverged_trials_are_counted_with_a_rate(small: Study) -> None:
    found = analysis.analyse(records(reference=REFERENCE, channel=[3.0, None, 2.88, 3.07]), small)
    outcome = next(o for o in found.outcomes if o.arm == "channel=none")
    plain = outcome.to_dict()
    assert outcome.counts == plain["counts"] == {"diverged": 1, "done": 3} and plain["diverged_rate"] == 0.25
    expected = stats.binomtest(1, 4).proportion_ci(0.95, method="wilson")
    assert (plain["low"], plain["high"]) == pytest.approx((expected.low, expected.high))
    assert "1 diverged of 4" in summary.summary(found)


def test_surviving_seeds_can_not_make_an_unstable_arm_redundant(small: Study) -> None:
    found = contrast(analysis.analyse(records(reference=REFERENCE, channel=[3.0, None, 2.875, 3.0625]), small))
    assert (found.verdict, found.difference, found.seeds, found.missing) == ("undecided", 0, 3, 1)
    assert "diverged in 1 of 4 seeds" in found.remark and found.seeds_needed is None
    unstable = contrast(analysis.analyse(records(reference=[3.0, None, 2.875, 3.0625], channel=shifted(1, 1, 1, 1)), small))
    assert unstable.verdict == "undecided"


def test_an_arm_that_always_diverges_shows_that_the_part_is_necessary(small: Study) -> None:
    found = contrast(analysis.analyse(records(reference=REFERENCE, channel=[None] * 4), small))
    assert (found.verdict, found.difference, found.low, found.seeds) == ("worse", None, None, 4)
    assert "diverged in every seed" in found.remark
    mirrored = contrast(analysis.analyse(records(reference=[None] * 4, channel=REFERENCE), small))
    assert mirrored.verdict == "better"
    alone = contrast(analysis.analyse(records(reference=REFERENCE, channel=[None]), small))
    assert alone.verdict == "undecided"  # once is no pattern


def test_out_of_memory_says_nothing_about_the_loss(small: Study) -> None:
    made = records(reference=REFERENCE, channel=shifted(0, 0, 0, 0))
    made[-1] |= {"outcome": "out-of-memory", "measures": {}}
    found = contrast(analysis.analyse(made, small))
    assert (found.verdict, found.seeds, found.remark) == ("equivalent", 3, "3 of 4 pairs")


@pytest.mark.parametrize(("field", "value"), [("device", "NVIDIA X"), ("precision", "bfloat16"), ("steps", 100), ("tokens", 7)])
def test_unlike_trials_are_not_mixed(small: Study, field: str, value: object) -> None:
    made = records(reference=REFERENCE, channel=shifted(0, 0, 0, 0))
    made[5][field] = value
    with pytest.raises(InputError, match=rf"but {field} is .*{value} in 1 trials.*; run the study in a new --out folder") as caught:
        analysis.analyse(made, small)
    assert "\n" not in str(caught.value)


def test_one_arm_is_one_model(small: Study) -> None:
    made = records(reference=REFERENCE)
    made[0]["digest"] = "another"
    with pytest.raises(InputError, match="two different models"):
        analysis.analyse(made, small)


def test_json_has_the_promised_fields_and_no_nan(small: Study) -> None:
    found = analysis.analyse(records(reference=REFERENCE, channel=[None] * 4, norm=[3.0]), small)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain.keys() >= {"measure", "margin", "reference", "contrasts", "noise_floor"}
    fields = {"arm", "decision", "from", "to", "equalise", "difference", "low", "high", "seeds", "verdict"}
    assert all(c.keys() >= fields for c in plain["contrasts"])
    row = next(c for c in plain["contrasts"] if c["arm"] == "channel=none")
    assert (row["decision"], row["from"], row["to"], row["difference"]) == ("channel", "mlp", "none", None)


def test_noise_floor_is_the_deviation_of_the_reference(small: Study) -> None:
    found = analysis.analyse(records(reference=REFERENCE, channel=shifted(0.1, 0.2, 0.1, 0.2)), small)
    assert found.noise_floor == pytest.approx(stats.tstd(REFERENCE))
    assert found.smallest_effect == pytest.approx(contrast(found).high - contrast(found).difference)  # type: ignore[operator]
    assert any("more than the margin" in note for note in found.warnings)


def test_table_has_a_row_per_trial_and_a_column_per_decision(small: Study) -> None:
    table = tables.tabulate(records(reference=REFERENCE, channel=[None, 3.0]), small)
    assert len(table) == 6
    assert set(table.columns) >= {"arm", "seed", "outcome", "bits_per_byte", "parameters", "flops_per_token", "digest", "channel", "norm"}
    assert table["bits_per_byte"].isna().sum() == 1
    assert tables.tabulate([], small).empty


def test_lines_are_aligned_and_name_the_verdict(small: Study) -> None:
    found = analysis.analyse(records(reference=REFERENCE, channel=shifted(0.1, 0.11, 0.12, 0.11), norm=shifted(0.1, -0.1, 0.2, 0)), small)
    lines = summary.verdict_lines(found)
    assert any("channel: mlp -> none" in line and line.endswith("worse: channel mlp is necessary") for line in lines)
    assert any("more seeds" in line for line in lines)
    assert len({line.index("bits/byte") for line in lines}) == 1
    facts = {"baselines": {"unigram": 4.6871, "bigram": 2.5, "broken": None}}
    text = summary.summary(dataclasses.replace(found, warnings=summary.warnings(found, facts)), facts)
    assert "unigram 4.687, bigram 2.500" in text and "broken" not in text
    assert text.startswith("warning: the reference is 0.516 bits/byte above the bigram baseline of 2.500: not clearly better")
    assert text.isascii() and max(map(len, text.splitlines())) <= 100


def test_a_baseline_that_no_model_beats_is_no_warning(small: Study) -> None:
    found = analysis.analyse(records(reference=REFERENCE), small)
    facts = {"baselines": {"zero": 4.6871, "least squares": 2.5}, "bounds": ["least squares"]}
    zero, best = summary.against_baselines(found, facts)
    assert zero.endswith("clearly better") and best.endswith(
        "above the least squares baseline of 2.500, which no model is expected to beat"
    )
    assert summary.warnings(found, facts) == ()


def test_search_is_ranked_and_only_its_confirmation_is_judged(tmp_path: Path) -> None:
    s = study(tmp_path, "search")
    ends = [("done", 3.0), ("done", 2.5), ("diverged", None), ("pruned", 2.0)]
    tried: list[Mapping[str, Any]] = []
    for i, ((outcome, loss), architecture) in enumerate(zip(ends, s.space.enumerate(), strict=True)):
        known = {"digest": architecture.digest, "decisions": architecture.decisions}
        tried.append(record(f"candidate-{i}", 10_000, loss, phase="search", outcome=outcome, **known))
    other = [record("candidate-8", 10_001, 1.0, phase="search", digest="another seed", decisions={})]
    other += [record("candidate-9", 10_000, 1.0, phase="search", digest="another space", decisions={"depth": 9})]
    table = tables.search_table([*tried, *other], s)
    assert table["arm"].tolist() == ["candidate-1", "candidate-0", "candidate-3", "candidate-2"]
    assert any("2 trials of the search are left out" in note for note in analysis.analyse([*tried, *other], s).notes)
    assert not any("left out" in note for note in analysis.analyse(tried, s).notes)
    assert any("not confirmed" in note for note in analysis.analyse(tried, s).warnings)
    confirmed = [record("reference", i, 3.0 + i / 8, phase="confirm") for i in range(4)]
    confirmed += [record("candidate-1", i, 2.5 + i / 8, phase="confirm", digest=tried[1]["digest"]) for i in range(4)]
    found = analysis.analyse([*tried, *confirmed], s)
    assert [(c.arm, c.verdict) for c in found.contrasts] == [("candidate-1", "better")]
    assert found.family == s.settings.search.confirmed == 3  # the family is as declared, not as many as came through
    assert "candidate-1" in summary.summary(found, None, table)


losses = st.lists(st.integers(-4096, 4096).map(lambda k: k / 1024), min_size=4, max_size=4)  # exact in binary


@settings(max_examples=60, deadline=None)
@given(a=losses, b=losses, shift=st.integers(-8, 8))
def test_adding_a_constant_to_all_losses_changes_no_verdict(small: Study, a: list[float], b: list[float], shift: int) -> None:
    before = contrast(analysis.analyse(records(reference=[*a], channel=[*b]), small))
    after = contrast(analysis.analyse(records(reference=[x + shift for x in a], channel=[x + shift for x in b]), small))
    assert (before.verdict, before.difference, before.low, before.seeds_needed) == (
        after.verdict,
        after.difference,
        after.low,
        after.seeds_needed,
    )


@settings(max_examples=60, deadline=None)
@given(a=losses, b=losses)
def test_swapping_arm_and_reference_mirrors_the_verdict(small: Study, a: list[float], b: list[float]) -> None:
    there = contrast(analysis.analyse(records(reference=[*a], channel=[*b]), small))
    back = contrast(analysis.analyse(records(reference=[*b], channel=[*a]), small))
    mirror = {"worse": "better", "better": "worse"}
    assert back.verdict == mirror.get(there.verdict, there.verdict)
    assert (back.low, back.high) == (-there.high, -there.low)  # type: ignore[operator]


# ---- what is told is what was done


def adaptive(folder: Path) -> Study:
    path = folder / "study.yaml"
    path.write_text(TEXT.replace("DESIGN", "one-at-a-time").replace("seeds: 4", "seeds: {min: 3, max: 6}"))
    return load(path)


def with_test(made: list[dict[str, Any]], gap: Mapping[str, float]) -> list[dict[str, Any]]:
    """The same trials with a test loss: the validation loss and something of its own for each seed of an arm."""
    return [r | {"test": {"bits_per_byte": r["measures"]["bits_per_byte"] + gap.get(r["arm"], 0.0) * r["seed"]}} for r in made]


def test_an_adaptive_study_is_told_by_the_intervals_that_it_used(tmp_path: Path) -> None:
    asked = adaptive(tmp_path)
    d = [0.1, 0.12, 0.14, 0.12]
    found = analysis.analyse(with_test(records(reference=REFERENCE, channel=shifted(*d)), {"channel=none": 0.01}), asked)
    mean, low, high = statistics.sequential_interval(d, 0.95, 2, 3, 6)
    one = contrast(found)
    assert (one.difference, one.low, one.high) == pytest.approx((mean, low, high))
    assert "repeated confidence intervals" in found.method and "3 to at most 6" in found.method and "Student" not in found.method
    assert found.interval == "repeated looks from 3 to 6 seeds" and "repeated looks from 3 to 6 seeds" in summary.summary(found)
    # the number of seeds was chosen by the validation split of the same trials, so the test split bears the same looks
    d = [x + 0.01 * s for s, x in enumerate(d)]
    assert on_test(one) == pytest.approx(statistics.sequential_interval(d, 0.95, 2, 3, 6))
    mean, low, high = statistics.sequential_interval([y for y in REFERENCE if y is not None], 0.95, 1, 3, 6)
    assert (found.value, found.low, found.high) == pytest.approx((mean, low, high))
    sd = one.sd_paired
    assert sd is not None and found.smallest_effect == pytest.approx(statistics.sequential_quantile(4, 0.95, 2, 3, 6) * sd / 2)


def test_a_fixed_study_keeps_students_interval_in_number_and_word(small: Study) -> None:
    d = [0.1, 0.12, 0.14, 0.12]
    found = analysis.analyse(with_test(records(reference=REFERENCE, channel=shifted(*d)), {}), small)
    assert on_test(contrast(found)) == pytest.approx(statistics.interval(d, 0.95, 2))
    assert "Student t" in found.method and "repeated" not in found.method and found.interval == "Student t"


def test_an_adaptive_study_names_its_own_limit_of_seeds(tmp_path: Path) -> None:
    asked = adaptive(tmp_path)
    wild = [0.5, -0.6, 0.4, -0.5]
    assert (
        contrast(analysis.analyse(records(reference=REFERENCE, channel=shifted(*wild)), asked)).remark == "not within the at most 6 seeds"
    )
    long: list[float | None] = [3.0] * 6
    spent = records(reference=long, channel=[3.0 + d for d in (*wild, 0.4, -0.3)])
    assert contrast(analysis.analyse(spent, asked)).remark == "open after the at most 6 seeds"
    found = analysis.analyse(records(reference=REFERENCE[:2], channel=shifted(*wild)[:2]), asked)
    assert contrast(found).low is None and any("the first look, and with it any interval, is at 3" in note for note in found.notes)


def test_a_p_value_that_could_not_have_become_small_is_not_shown_and_the_reason_is_said_once(tmp_path: Path) -> None:
    # two contrasts: Holm's first step asks for p <= 0.05 / 2, and 2^(1 - 6) = 0.031 is above it, 2^(1 - 7) = 0.016 below
    asked = study(tmp_path)
    for n, shown in ((6, False), (7, True)):
        base: list[float | None] = [3.0 + s / 8 for s in range(n)]
        arm = [y + 0.5 + s / 64 for s, y in enumerate(base) if y is not None]
        found = analysis.analyse(records(reference=base, channel=[*arm], norm=[*arm]), asked)
        assert [c.p is not None for c in found.contrasts] == [shown, shown]
        assert sum("no p-value is shown" in note for note in found.notes) == (not shown)
    assert contrast(found).p == pytest.approx(2 * 2 ** (1 - 7))


def test_a_contrast_with_fewer_seeds_hides_its_own_p_value_alone(tmp_path: Path) -> None:
    asked = study(tmp_path)
    base: list[float | None] = [3.0] * 8
    found = analysis.analyse(records(reference=base, channel=[3.5 + s / 64 for s in range(8)], norm=[3.5, 3.6, 3.5, 3.4]), asked)
    assert contrast(found).p == pytest.approx(2 * 2**-7) and contrast(found, "norm=rmsnorm").p is None


def made_with(made: list[dict[str, Any]], arm: str, seeds: set[int], **environment: Any) -> list[dict[str, Any]]:
    plain = {"torch": "2.13.0", "instruction_set": "AVX2", "threads": 1}
    return [r | {"environment": plain | (environment if r["arm"] == arm and r["seed"] in seeds else {})} for r in made]


@pytest.mark.parametrize(
    ("name", "other", "said"),
    [
        ("torch", "2.11.0", "torch 2.11.0 and 2.13.0"),
        ("instruction_set", "AVX512 amx", "instruction set AVX2 and AVX512 amx"),
        ("threads", 2, "threads 1 and 2"),
    ],
)
def test_pairs_of_trials_that_were_not_made_alike_are_used_counted_and_named(small: Study, name: str, other: Any, said: str) -> None:
    made = records(reference=REFERENCE, channel=shifted(0.1, 0.12, 0.14, 0.12), norm=shifted(0.1, 0.12, 0.14, 0.12))
    found = analysis.analyse(made_with(made, "channel=none", {1, 3}, **{name: other}), small)
    assert contrast(found).seeds == 4 and contrast(found).verdict == "worse"
    assert contrast(found).mixed == {name: {seed: tuple(said.removeprefix(name.replace("_", " ") + " ").split(" and ")) for seed in (1, 3)}}
    assert "2 of 4 pairs mix" in contrast(found).remark and not contrast(found, "norm=rmsnorm").mixed
    (note,) = [n for n in found.notes if "pairs mix" in n]
    assert note.startswith(f"2 of 8 pairs mix {said} (channel=none seed 1; channel=none seed 3)")
    document = found.to_dict()
    assert note in document["notes"] and [c["mixed"] for c in document["contrasts"] if c["arm"] == "channel=none"] == [{name: [1, 3]}]
    together = summary.summary(found)
    assert "2 of 8 pairs mix" in together and "2 of 4 pairs mix" in together
    # where both trials of a pair are of the other kind, the pair is alike
    both = made_with(made_with(made, "", set()), "channel=none", {1, 3}, **{name: other})
    both = [
        r | {"environment": r["environment"] | ({name: other} if r["arm"] == "reference" and r["seed"] in (1, 3) else {})} for r in both
    ]
    assert not contrast(analysis.analyse(both, small)).mixed


def test_a_trial_that_does_not_say_how_it_was_made_is_unlike_one_that_does(small: Study) -> None:
    made = records(reference=REFERENCE, channel=shifted(0.1, 0.12, 0.14, 0.12))
    assert not contrast(analysis.analyse(made, small)).mixed
    made[0] |= {"environment": {"torch": "2.13.0"}}
    assert contrast(analysis.analyse(made, small)).mixed == {"torch": {0: ("2.13.0", "unknown")}}


def test_what_could_not_be_measured_and_what_is_no_number_is_told(small: Study) -> None:
    made = records(reference=REFERENCE, channel=shifted(0.1, 0.12, 0.14, 0.12))
    made[5] |= {"unmeasured": {"test": "RuntimeError: no room", "knock_out": "ValueError: x"}}
    made[6] |= {"not_finite": {"test.loss": "inf", "curve.3.perplexity": "nan"}}
    found = analysis.analyse(made, small)
    assert contrast(found).seeds == 4
    notes = "\n".join(found.notes)
    assert (
        "the test split could not be measured in 1 trial, trained as planned" in notes
        and "channel=none seed 1: RuntimeError: no room" in notes
    )
    assert "the knock-out could not be measured in 1 trial" in notes and "--retry-failed" in notes
    assert "1 trial gave values that are not finite" in notes and "channel=none seed 2: test.loss is inf and 1 more" in notes


def test_two_arms_that_share_another_change_are_a_line_of_their_own(tmp_path: Path) -> None:
    more = "one-at-a-time, arms: {both: {channel: none, norm: rmsnorm}}, compare: [[both, norm=rmsnorm]]"
    found = analysis.analyse([], study(tmp_path, more))
    shared = contrast(found, "both against norm=rmsnorm")
    assert shared.change == contrast(found).change == "channel: mlp -> none"
    assert shared.title == "both against norm=rmsnorm" and contrast(found).title == "channel: mlp -> none"
    assert len(summary.components(found)) == len(found.contrasts) == 4


@pytest.mark.parametrize(
    "shift, verdict, size, component, reading",
    [
        ((0.1, 0.11, 0.12, 0.11), "worse", "beyond", "necessary", "worse by 0.110 "),
        ((-0.1, -0.11, -0.12, -0.11), "better", "beyond", "harmful", "better by 0.110 "),
        ((0.01, 0.011, 0.012, 0.011), "equivalent", "within", "redundant", "no difference beyond 0.02"),
        ((0.03, 0.02, 0.03, 0.025), "worse", "open", None, "worse by 0.026 "),
        ((0.1, -0.1, 0.2, 0.0), "undecided", "open", None, "not yet known ["),
    ],
)
def test_a_removal_says_what_the_part_is_only_where_the_size_is_known(
    small: Study, shift: tuple[float, ...], verdict: str, size: str, component: str | None, reading: str
) -> None:
    found = contrast(analysis.analyse(records(reference=REFERENCE, channel=shifted(*shift)), small))
    assert (found.verdict, found.size, found.component) == (verdict, size, component)
    assert found.reading(3).startswith(reading)
    assert ("maybe less than the margin" in found.reading(3)) == (verdict != "undecided" and size == "open")


def test_a_replacement_is_neither_necessary_nor_redundant(small: Study) -> None:
    found = contrast(analysis.analyse(records(reference=REFERENCE, channel=shifted(0.1, 0.11, 0.12, 0.11)), small))
    other = dataclasses.replace(found, arm="channel=glu", changes=(("channel", "mlp", "glu"),))
    assert (other.verdict, other.component, answers.phrase(other)) == ("worse", None, "channel mlp rather than glu")
    harmless = dataclasses.replace(other, verdict="equivalent", size="within")
    assert (harmless.component, answers.phrase(harmless)) == (None, "channel glu for mlp")


@pytest.mark.parametrize("name", ["no MLP", "without-channel", "no_mlp"])
def test_an_arm_named_as_a_removal_is_one(small: Study, name: str) -> None:
    found = contrast(analysis.analyse(records(reference=REFERENCE, channel=shifted(0.1, 0.11, 0.12, 0.11)), small))
    two = (("channel", "mlp", "identity"), ("norm", "layernorm", "rmsnorm"))
    assert dataclasses.replace(found, arm=name, changes=two).component == "necessary"
    assert dataclasses.replace(found, arm="minus identity", changes=two).component is None
