"""What the size of a model foretells of it in a search, and how far a decision's importance can be told from chance."""

from __future__ import annotations

import math
import random

import pytest

from aotsearch import yamlfile
from aotsearch.evidence.hints import FEWEST, hints
from aotsearch.evidence.tables import Record
from aotsearch.grammar.architecture import Architecture
from aotsearch.running.search import importance
from aotsearch.study.study import Study

GRAMMAR = """
name: hinted
task: {denoise: {subspaces: 2, dimension: 8, tokens: 16, sets: 2}}
grammar:
  model: {width: 16, depth: {any: [1, 2, 3, 4, 5]}, norm: {any: [layernorm, rmsnorm]}, place: {any: [pre, post]}, block: [mixer]}
  mixer: {attention: {heads: {any: [2, 1, 4, 8]}}}
study: {design: search, search: {trials: 12}, margin: 0.05}
"""


def study(evaluations: int = 1) -> Study:
    plain = yamlfile.parse(GRAMMAR, "hinted").plain()
    plain["study"]["budget"] = {"evaluations": evaluations}
    return Study.from_dict(plain)


def trials(of: Study, losses: list[float]) -> list[tuple[Record, Architecture]]:
    """One for each loss, with 100, 200, ... parameters."""
    architectures = list(of.space.enumerate())
    return [
        ({"outcome": "done", "measures": {"log_noise": y}, "parameters": 100 * n, "flops_per_token": 7, "curve": []}, architectures[n])
        for n, y in enumerate(losses)
    ]  # fmt: skip


def test_a_size_that_orders_the_losses_correlates_wholly_and_one_that_is_the_same_says_nothing() -> None:
    of = study()
    (found,) = hints(trials(of, [float(-n) for n in range(10)]), of)
    assert (found.name, found.trials) == ("parameters", 10) and found.correlation == pytest.approx(-1)


def test_a_rung_is_told_by_how_it_ranks_what_ends() -> None:
    of = study(9)
    made = trials(of, [float(n) for n in range(10)])
    for record, _ in made:
        y = record["measures"]["log_noise"]
        record |= {"parameters": 7, "curve": [{"step": n, "log_noise": -y if n == 1 else y} for n in range(1, 10)]}
    found = {h.name: h.correlation for h in hints(made, of)}
    assert found == {"log_noise at evaluation 1 of 9": pytest.approx(-1), "log_noise at evaluation 3 of 9": pytest.approx(1)}


def test_what_was_measured_before_training_is_told_where_it_was() -> None:
    plain = yamlfile.parse(GRAMMAR, "hinted").plain()
    plain["study"]["search"]["hints"] = ["synflow", "initial-effective-rank"]
    of = Study.from_dict(plain)
    made = trials(of, [float(n) for n in range(10)])
    for record, _ in made:
        y = record["measures"]["log_noise"]
        record |= {"parameters": 7, "hints": {"synflow": -y if y else None, "initial-effective-rank": 1.0}}
    (found,) = hints([*made, ({**made[0][0], "hints": {}}, made[0][1])], of)
    assert (found.name, found.trials) == ("synflow", 9) and found.correlation == pytest.approx(-1)


def test_the_interval_is_that_of_bonett_and_wright() -> None:
    of = study()
    (found,) = hints(trials(of, [0, 1, 2, 3, 4, 6, 5, 7, 9, 8]), of)
    r = 1 - 6 * 4 / (10 * 99)  # four ranks are off by one
    half = 1.959964 * math.sqrt((1 + r * r / 2) / 7)
    assert found.correlation == pytest.approx(r)
    assert (found.low, found.high) == pytest.approx((math.tanh(math.atanh(r) - half), math.tanh(math.atanh(r) + half)), abs=1e-6)


def test_of_few_trials_and_of_those_that_did_not_finish_nothing_is_told() -> None:
    of = study()
    assert hints(trials(of, [float(n) for n in range(FEWEST - 1)]), of) == ()
    many = trials(of, [float(n) for n in range(10)])
    assert hints([({**r, "outcome": "pruned"}, a) for r, a in many], of) == ()


def test_a_decision_that_decides_is_important_in_every_draw_and_one_that_does_not_in_few() -> None:
    of, rng = study(), random.Random(0)
    records = [
        {"outcome": "done", "phase": "search", "seed": of.settings.search.training_seed, "digest": a.digest, "decisions": dict(a.decisions),
         "measures": {"log_noise": 5.0 * (a.decisions["model.norm"] == "rmsnorm") + 0.1 * rng.random()}}
        for a in of.space.enumerate()
    ]  # fmt: skip
    found = importance(records, of)
    (name, (share, low, high)), *others = found.items()
    assert name == "model.norm" and 0.1 < low <= share <= high <= 1
    assert all(low < 0.1 for _, (_, low, _) in others)
    assert importance(records, of) == found, "the draws are the same every time"
