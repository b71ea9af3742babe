"""Truths planted in a study come out of the whole pipeline: declared, trained, recorded, analysed."""

from __future__ import annotations

import hashlib
import io
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from aotsearch.eject.trained import find
from aotsearch.evidence.contrast import Contrast
from aotsearch.evidence.ledger import Ledger
from aotsearch.report import report
from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.running.runner import Options
from aotsearch.study.loading import load

STUDY = """\
name: planted
task: {language: {data: {text: corpus.txt}, context: 8}}
grammar:
  model: {width: 16, depth: 1, positions: learned, norm: {layernorm: {eps: eps}}, block: [{mlp: {join: join}}]}
  eps: {any: [0.00001, 0.0000100001]}
  join: {any: [JOINS]}
study: {seeds: 4, budget: {steps: 200, batch: 8, evaluations: 1}, learning_rate: 1.0e-2, margin: 0.02, diagnostics: none}
"""
WORKS, DOES_NOTHING, EXPLODES = "add", "{step: {size: 1.0e-30}}", "{step: {size: 1.0e+38}}"
CRIPPLED = "join=step(size=1e-30)"
TEXT = "".join(random.Random(0).choices(["abx", "cby"], k=6000))  # the next letter is told by this one, mostly


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("planted")
    (folder / "corpus.txt").write_text(TEXT)

    def run(joins: tuple[str, ...], *overrides: str) -> Path:
        name = hashlib.sha256(f"{joins} {overrides}".encode()).hexdigest()[:8]
        (folder / "study.yaml").write_text(STUDY.replace("JOINS", ", ".join(joins)))
        study = load(folder / "study.yaml", overrides)
        if not (folder / name).exists():
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(report, "write", lambda *_, **__: [])  # verdicts are read from the ledger, and no page is
                progress = Progress("bits_per_byte", "bits/byte", io.StringIO())
                runner.run(study, folder / name, Options(local=True, track=False), progress)
        return folder / name

    return run


def verdicts(folder: Path) -> dict[str, Contrast]:
    return {c.arm: c for c in report.read(folder).analysis.contrasts}


def test_what_changes_nothing_is_redundant_and_what_is_needed_is_necessary(planted: Any) -> None:
    found = verdicts(planted((WORKS, DOES_NOTHING, EXPLODES)))
    assert found["eps=1.00001e-05"].verdict == "equivalent"
    assert found[CRIPPLED].verdict == "worse" and (found[CRIPPLED].low or 0) > 0.05


def test_an_arm_that_mends_a_fault_of_the_reference_is_told_as_harmful_to_lack(planted: Any) -> None:
    assert verdicts(planted((DOES_NOTHING, WORKS)))["join=add"].verdict == "better"


def test_an_arm_that_always_diverges_is_an_outcome_and_a_verdict_never_a_dropped_row(planted: Any) -> None:
    folder = planted((WORKS, DOES_NOTHING, EXPLODES))
    material = report.read(folder)
    (arm,) = [c for c in material.analysis.contrasts if c.difference is None]
    assert arm.verdict == "worse" and "diverged in every seed (4)" in arm.remark and arm.difference is None
    (outcome,) = [o for o in material.analysis.outcomes if o.arm == arm.arm]
    share = outcome.share("diverged")
    assert outcome.counts == {"diverged": 4} and share is not None and share.rate == 1.0 and share.low > 0.4
    assert Counter(material.table["outcome"])["diverged"] == 4
    assert arm.title in material.summary() and "diverged" in material.summary()


def test_the_test_split_is_sealed_in_the_record_and_read_by_the_report_alone(planted: Any) -> None:
    folder = planted((WORKS, DOES_NOTHING, EXPLODES))
    records = Ledger.open(folder).records().values()
    done = [r for r in records if r["outcome"] == "done"]
    assert all(set(r["test"]) == set(r["measures"]) for r in done)
    assert not any("test" in str(point) for r in done for point in r["curve"])
    found = verdicts(folder)[CRIPPLED]
    assert found.test is not None and found.test.low <= found.test.difference <= found.test.high and found.test.difference > 0.05


def test_rates_are_tuned_under_seeds_of_their_own_and_both_verdicts_are_told(planted: Any) -> None:
    few = ("study.seeds=2", "study.budget.steps=20")
    folder = planted((WORKS, DOES_NOTHING, EXPLODES), "study.learning_rate={tune: [1e-3, 1e-2], extend: 1}", *few)
    records = list(Ledger.open(folder).records().values())
    tuned = [r for r in records if r["phase"] == "tune"]
    assert {r["seed"] for r in tuned}.isdisjoint(r["seed"] for r in records if r["phase"] == "design")
    assert all("test" not in r for r in tuned)
    analysis = report.read(folder).analysis
    assert Counter(c.rate for c in analysis.contrasts) == {"shared": 3, "tuned": 3}
    rate = analysis.rates["reference"]
    assert rate.value is not None and (not rate.edge or len(rate.tried) == 3)  # extended once
    for r in records:
        if r["phase"] == "design":
            own = {analysis.rates[a].value for a in r["arms"]} - {None}  # where every rate diverged, the shared one speaks for both
            assert r["learning_rate"] in {rate.value} | own
    assert analysis.family == 6


def test_what_is_loaded_of_an_arm_trained_at_two_rates_is_the_trial_at_its_own_whichever_ended_last(
    planted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = ("study.seeds=2", "study.budget.steps=20", "study.factors=[join]")
    folder = planted((DOES_NOTHING, WORKS), "study.learning_rate={tune: [0.1, 1]}", *few)
    analysis = report.read(folder).analysis
    (arm,) = set(analysis.rates) - {"reference"}
    rates = {r["learning_rate"] for r in Ledger.open(folder).records().values() if r["arm"] == arm and r["phase"] == "design"}
    assert rates == {0.1, 1} == {analysis.rates[arm].value, analysis.rates["reference"].value}
    records = Ledger.open(folder).records()
    for order in (list(records.items()), [*reversed(records.items())]):
        monkeypatch.setattr(Ledger, "records", lambda _, order=order: dict(order))
        assert find(folder, arm, 1)[0]["learning_rate"] == analysis.rates[arm].value


def test_seeds_are_added_where_a_verdict_is_open_and_nowhere_else(planted: Any) -> None:
    folder = planted((WORKS, DOES_NOTHING, EXPLODES), "study.seeds={min: 2, max: 6}", "study.margin=0.001")
    analysis = report.read(folder).analysis
    records = [r for r in Ledger.open(folder).records().values() if r["phase"] == "design"]
    seeds = Counter(arm for r in records for arm in r["arms"])
    assert seeds["reference"] == max(seeds.values())
    diverged = next(c for c in analysis.contrasts if c.difference is None)
    assert seeds[diverged.arm] == 2  # settled by divergence at the first look
    for c in analysis.contrasts:
        assert c.verdict != "undecided" or c.seeds == 6
        assert c.p is None  # a randomisation test of a chosen number of seeds would not hold


def test_arms_made_equal_are_compared_beside_the_unequal_ones(planted: Any) -> None:
    few = ("study.seeds=2", "study.budget.steps=10", "study.factors=[eps]")
    folder = planted((WORKS, DOES_NOTHING, EXPLODES), "study.equalise=[none, parameters]", *few)
    contrasts = report.read(folder).analysis.contrasts
    assert [(c.arm, c.equalise) for c in contrasts] == [("eps=1.00001e-05", "none"), ("eps=1.00001e-05@parameters", "parameters")]
    assert contrasts[0].difference == contrasts[1].difference  # one model, trained once for both
    assert len(Ledger.open(folder).records()) == 4
