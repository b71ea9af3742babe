"""When a search ends because nothing better is expected of what it has not tried."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from test_search import GRAMMAR, course, made_up, run, said, tried

from aotsearch.errors import InputError
from aotsearch.grammar.architecture import Architecture
from aotsearch.report import report
from aotsearch.running import expected
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.training import trial

STOP = "study.search.stop=expected-improvement"


@pytest.fixture
def path(study_file: Path) -> Path:
    """A study file with a search, beside the small corpus."""
    found = study_file.with_name("searched.yaml")
    found.write_text(GRAMMAR)
    return found


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No training and no report: what is left is the search."""
    monkeypatch.setattr(trial, "run", made_up)
    monkeypatch.setattr(report, "write", lambda *_, **__: [])


def loss(decisions: Mapping[str, object]) -> float:
    """Of few heads and no positions, 1 each."""
    return float({4: 2, 2: 1, 1: 0}[decisions["heads"]] + (decisions["positions"] != "none"))  # type: ignore[index]


def gain(study: Study, known: Sequence[Architecture]) -> float:
    return expected.expected_improvement(study.space, [(a, loss(a.decisions)) for a in known], {a.digest for a in known}, 0)


def test_much_is_expected_while_the_best_is_untried_and_nothing_once_it_is_known(path: Path) -> None:
    study = load(path)
    everything = random.Random(0).sample(list(study.space.enumerate()), 108)
    worse = [a for a in everything if loss(a.decisions) > 0][:40]
    best = [a for a in everything if loss(a.decisions) == 0]
    assert min(loss(a.decisions) for a in worse) == 1
    assert gain(study, worse) == pytest.approx(1, abs=0.1)  # which a sum of effects tells, before anything like it was tried
    assert gain(study, [*worse, best[0]]) < 0.01


def test_a_value_that_was_never_tried_may_be_better(path: Path) -> None:
    study = load(path)
    known = [a for a in study.space.enumerate() if a.decisions["norm"] == "layernorm"]
    assert gain(study, known) > 0.1
    assert (
        gain(study, [*known, *(a for a in study.space.enumerate() if a.decisions["norm"] == "rmsnorm" and a.decisions["heads"] == 4)])
        < 0.01
    )


def test_noise_is_not_taken_for_something_to_gain(path: Path) -> None:
    study, rng = load(path), random.Random(1)
    known = rng.sample(list(study.space.enumerate()), 60)
    pairs = [(a, 3 + 0.1 * rng.gauss(0, 1)) for a in known]  # no decision matters
    assert expected.expected_improvement(study.space, pairs, {a.digest for a in known}, 0) < 0.05


def test_nothing_is_said_of_few_trials_and_nothing_is_left_of_a_space_that_is_known(path: Path) -> None:
    study = load(path)
    everything = list(study.space.enumerate())
    assert gain(study, everything[: expected.FEWEST - 1]) == math.inf
    assert gain(study, everything) == 0


def test_the_same_trials_expect_the_same_and_the_order_of_what_is_known_does_not_matter(path: Path) -> None:
    study = load(path)
    known = list(study.space.enumerate())[::4]
    pairs = [(a, loss(a.decisions)) for a in known]
    first, again = (expected.expected_improvement(study.space, pairs, {a.digest for a in k}, 3) for k in (known, known[::-1]))
    assert first == again


def test_a_search_ends_once_nothing_better_is_expected_and_stays_ended(path: Path, tmp_path: Path, quick: None) -> None:
    study = load(path, [STOP, "study.search.trials=90", "study.margin=0.2"])
    text = said(study, tmp_path / "run")
    assert "nothing that is left is expected to be better by more than the margin: the search ends before its 90 trials" in text
    assert expected.FEWEST <= len(tried(tmp_path / "run")) < 90
    assert run(study, tmp_path / "run").trained == 0


def test_it_ends_where_it_would_have_after_a_cut(path: Path, tmp_path: Path, quick: None) -> None:
    study = load(path, [STOP, "study.search.trials=90", "study.margin=0.2"])
    run(study, tmp_path / "whole")
    lines = (tmp_path / "whole" / "ledger.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "ledger.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]))
    run(study, tmp_path / "cut")
    assert course(tmp_path / "cut") == course(tmp_path / "whole")


def test_it_is_of_the_measure_alone(path: Path) -> None:
    with pytest.raises(InputError, match=r"stop.*is of the measure bits_per_byte alone.*number of trials"):
        load(path, [STOP, "study.search.objectives=[bits_per_byte, parameters]"])
    with pytest.raises(InputError, match=r"stop"):
        load(path, ["study.search.stop=never"])
