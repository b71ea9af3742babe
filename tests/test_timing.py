"""The time of a step: side by side in turns, its interval, and what is lost at equal training time."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from aotsearch.__main__ import main
from aotsearch.errors import InputError, RunError
from aotsearch.evidence import speed, statistics
from aotsearch.evidence.ledger import Ledger
from aotsearch.evidence.speed import StepTime
from aotsearch.report import contents, latex, report
from aotsearch.report.page import markdown
from aotsearch.running import runner
from aotsearch.running import timing as command
from aotsearch.study.loading import load
from aotsearch.training import rehearsal, timing
from aotsearch.training.device import DeviceSettings

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent / "golden"))
import fabricated
import write as golden

SETTINGS = "seeds: 3, margin: 0.05, budget: {steps: 100, batch: 2, evaluations: 5}"
CURVE = {20: 5.0, 40: 4.0, 60: 3.5, 80: 3.25, 100: 3.125}  # of the reference


def curve(shift: float) -> list[dict[str, float]]:
    return [{"step": step, "train_loss": 3.0, "bits_per_byte": y + shift, "loss": y} for step, y in CURVE.items()]


def event(ledger: Ledger, seconds: dict[str, list[float]], arms: dict[str, str], **message: str) -> dict[str, Any]:
    """A `timed` event with numbers of our choice, by arm."""
    models = [
        {"digest": arms[arm], "arms": [arm], "seconds": s, "tokens": 32, "flops": 10, "peak_memory": None, "message": message.get(arm, "")}
        for arm, s in seconds.items()
    ]
    facts = {"device": "cpu", "precision": "float32", "threads": 1, "host": "h", "finished": "2026-01-02T00:00:00+00:00"}
    return ledger.append("timed", rounds=6, steps=3, batch=2, environment={"device_name": "a <fast> one"}, models=models, **facts)


@pytest.fixture
def run(tmp_path: Path) -> fabricated.Run:
    """A run of a reference and five arms; the loss of one with one change is 0.25 above the reference's all along."""
    made = fabricated.Run(tmp_path / "run", SETTINGS)
    return made


def train(run: fabricated.Run, seconds: dict[str, float], **more: Any) -> None:
    """All arms under all seeds; a step of an arm takes so long, and a seed moves the loss of all arms alike."""
    for plan in fabricated.trial.plans(run.study, [(a, seed, None) for seed in range(3) for a in run.study.arms()], "design"):
        arm, seed = plan["arm"], plan["seed"]
        points = curve(seed / 8 + 0.25 * (arm != "reference"))
        facts = {"step_seconds": seconds.get(arm, 0.01) * (1 + seed), "fused": 0, "steps": 100, "environment": {"device_name": "p"}, **more}
        measures = {"measures": {"bits_per_byte": points[-1]["bits_per_byte"]}, "curve": points}
        run.finish(plan, 3.0, **measures, **facts)


def digests(run: fabricated.Run) -> dict[str, str]:
    return {arm.name: arm.architecture.digest for arm in run.study.arms()}


def found(run: fabricated.Run) -> dict[str, Any]:
    """What the JSON of the report says of every arm."""
    document = json.loads(json.dumps(report.read(run.folder).analysis.to_dict()))
    return {row["arm"]: row for row in document["speed"]}


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["aotsearch", *words])
    with pytest.raises(SystemExit) as e:
        main()
    return int(e.value.code or 0)


# ---- the interval


@pytest.mark.parametrize(
    ("n", "confidence", "family", "ends"),
    [
        (5, 0.95, 1, (None, None)),  # 2 / 2^5 = 0.0625
        (6, 0.95, 1, (1, 6)),  # 2 / 2^6 = 0.031
        (8, 0.95, 1, (1, 8)),  # 2 (1 + 8) / 2^8 = 0.070
        (9, 0.95, 1, (2, 8)),  # 2 (1 + 9) / 2^9 = 0.039
        (9, 0.95, 2, (1, 9)),  # which is more than 0.025
        (15, 0.95, 1, (4, 12)),  # as in printed tables of the sign test
        (3, 0.75, 1, (1, 3)),  # 2 / 2^3 = 0.25, and no more
    ],
)
def test_the_interval_of_a_median_is_that_of_the_sign_test(n: int, confidence: float, family: int, ends: tuple[float, float]) -> None:
    values = [float(v) for v in range(n, 0, -1)]
    assert statistics.median_interval(values, confidence, family) == ((n + 1) / 2, *ends)
    assert (n >= statistics.fewest(confidence, family)) == (ends[0] is not None)


def test_the_interval_of_a_median_covers_as_often_as_it_says() -> None:
    for n in range(6, 60):
        _, low, high = statistics.median_interval([float(v) for v in range(1, n + 1)], 0.95, 4)
        k = 0 if low is None else int(low)
        assert k == 0 or high == n + 1 - k
        assert 2 * stats.binom.cdf(k - 1, n, 0.5) <= 0.05 / 4 < 2 * stats.binom.cdf(k, n, 0.5)


# ---- against the reference


def test_the_ratio_is_the_median_of_those_within_a_round_and_its_neighbours_cancel(run: fabricated.Run) -> None:
    arms = digests(run)
    busy = [1.0, 1.0, 8.0, 1.0, 3.0, 1.0]  # what else the machine did, by round
    shares = [1.5, 1.4, 1.6, 1.5, 1.3, 1.7]
    made = event(run.ledger, {"reference": busy, "heads=1": [b * s for b, s in zip(busy, shares, strict=True)]}, arms)
    one = speed.step_time(made, arms["heads=1"], arms["reference"], 0.95, 1)
    assert one == StepTime(1.5, 1.3, pytest.approx(1.7), 6, "side by side")
    assert speed.step_time(made, arms["heads=1"], arms["reference"], 0.95, 2) == StepTime(1.5, None, None, 6, "side by side")
    assert speed.step_time(made, arms["qkv=tied"], arms["reference"], 0.95, 1) is None


def test_the_difference_at_equal_time_is_read_where_the_faster_of_the_two_ends(run: fabricated.Run) -> None:
    """A slower arm ends at step 100 / 2: halfway from 4 to 3.5; the reference beside a faster one at 100 x 0.9: from 3.25 to 3.125."""
    train(run, {"heads=1": 0.02, "qkv=tied": 0.009, "norm=none": 0.1})
    rows = found(run)
    assert rows["heads=1"]["step_time"] == {"ratio": 2.0, "low": None, "high": None, "rounds": 3, "measured": "in the trials"}
    assert rows["heads=1"]["equal_steps"] == {"mean": 0.25, "low": 0.25, "high": 0.25, "seeds": 3}
    assert rows["heads=1"]["equal_time"]["mean"] == pytest.approx(3.75 + 0.25 - 3.125)
    assert rows["qkv=tied"]["equal_time"]["mean"] == pytest.approx(3.125 + 0.25 - 3.1875)
    assert rows["norm=none"]["step_time"]["ratio"] == pytest.approx(10) and rows["norm=none"]["equal_time"] is None  # before its first
    assert rows["positions=rope"]["equal_time"] == rows["positions=rope"]["equal_steps"]
    assert "reference" not in rows


def test_what_was_measured_side_by_side_leads_and_the_latest_of_it(run: fabricated.Run) -> None:
    train(run, {})
    arms = digests(run)
    event(run.ledger, {"reference": [1.0] * 6, "heads=1": [3.0] * 6, "qkv=tied": [1.0] * 6}, arms)
    event(run.ledger, {"reference": [1.0] * 6, "heads=1": [2.0] * 6, "qkv=tied": [2.0]}, arms, **{"qkv=tied": "out of memory"})
    rows = found(run)
    assert {arm: (row["step_time"]["ratio"], row["step_time"]["measured"]) for arm, row in rows.items()} == {
        **{arm: (1.0, "in the trials") for arm in arms if arm != "reference"},
        "heads=1": (2.0, "side by side"),
        "qkv=tied": (1.0, "side by side"),  # of the time before the last, in which it failed
    }
    assert rows["heads=1"]["equal_time"]["mean"] == pytest.approx(3.75 + 0.25 - 3.125)


@pytest.mark.parametrize("name, value", [("threads", 2), ("precision", "bfloat16"), ("environment", {"device_name": "q"}), ("fused", 3)])
def test_times_of_trials_in_unlike_slots_are_not_compared(run: fabricated.Run, name: str, value: Any) -> None:
    one = {"outcome": "done", "digest": "a", "step_seconds": 1.0, "threads": 1, "precision": "float32", "fused": 0, "curve": []}
    one |= {"environment": {"device_name": "p"}, "measures": {}}
    other = {**one, "digest": "b", "step_seconds": 2.0}
    (row,) = speed.speeds({"reference": {0: one}, "x": {0: other}}, "shared", [], run.study, 1)
    assert row.step_time == StepTime(2.0, None, None, 1, "in the trials") and row.equal_steps is None
    assert speed.speeds({"reference": {0: one}, "x": {0: {**other, name: value}}}, "shared", [], run.study, 1) == []


def test_trials_of_older_versions_have_no_time_and_are_reported_as_before(run: fabricated.Run) -> None:
    run.train(broken=False)
    m = report.read(run.folder)
    assert m.analysis.speed == () and contents.paces(m) == []
    text = markdown(m, [], [], set())
    assert "How fast" not in text and "Step time" not in latex.latex(m)
    assert m.table[["step_seconds", "tokens_per_second", "peak_memory"]].isna().all(axis=None)
    assert "speed.csv" not in {path.name for path in report.write(run.folder, ["csv"])}


def test_every_form_of_the_report_tells_the_time_of_a_step(run: fabricated.Run) -> None:
    train(run, {"qkv=tied": 0.02}, training_seconds=0.5, tokens=3200, peak_memory=2**30)
    arms = digests(run)
    event(run.ledger, {"reference": [1.0] * 10, "heads=1": [1.25, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 1.5, 2.0]}, arms)
    paths = {path.name: path for path in report.write(run.folder)}
    m = report.read(run.folder)
    assert m.analysis.family == 6 and statistics.fewest(0.95, 6) == 8
    tables = {name: paths[name].read_text() for name in ("report.html", "report.md", "report.tex", "speed.csv", "trials.csv")}
    assert "| heads=1 | 20.00 | 6,400 | 1,024 | 1.500 | [1.250, 2.000] | side by side |" in tables["report.md"]
    assert "| qkv=tied | 40.00 | 6,400 | 1,024 | 2.000 | - | in the trials |" in tables["report.md"]
    assert "1.500<br>" in tables["report.html"] and "a &lt;fast&gt; one" in tables["report.html"] and "<fast>" not in tables["report.html"]
    assert "& 1.500 & $[1.250, 2.000]$ \\tabularnewline" in tables["report.tex"] and "& 2.000 &  \\tabularnewline" in tables["report.tex"]
    rows = {row["arm"]: row for row in csv.DictReader(io.StringIO(tables["speed.csv"]))}
    assert float(rows["heads=1"]["step_time_high"]) == 2 and rows["qkv=tied"]["step_time_high"] == ""
    assert float(rows["heads=1"]["equal_time_mean"]) > float(rows["heads=1"]["equal_steps_mean"]) == 0.25
    trial = next(csv.DictReader(io.StringIO(tables["trials.csv"])))
    assert (trial["step_seconds"], trial["tokens_per_second"], trial["peak_memory"]) == ("0.01", "6400.0", str(2**30))


# ---- measuring


def test_every_model_has_one_window_in_each_round_in_an_order_that_changes(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, order = load(study_file), []
    real = timing._Stepper.window

    def window(stepper: Any) -> float:
        order.append(id(stepper))
        return real(stepper)

    monkeypatch.setattr(timing._Stepper, "window", window)
    models = {arm.name: arm.architecture for arm in study.arms()[:3]}
    times = timing.side_by_side(models, study.task, study.training(), DeviceSettings(1), 5)
    rounds = [order[i : i + 3] for i in range(0, len(order), 3)]
    assert len(rounds) == 6 and all(set(r) == set(rounds[0]) for r in rounds)  # the first warms up
    assert len(set(map(tuple, rounds[1:]))) > 1
    assert list(times) == list(models) and all(len(t.seconds) == 5 and min(t.seconds) > 0 and not t.message for t in times.values())
    assert all(t.flops and t.peak_memory is None for t in times.values())


def test_a_model_that_fails_is_told_and_the_others_go_on(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study, steps = load(study_file), {"positions=rope": 0, "channel=none": 0}
    real = rehearsal.program
    names = {arm.architecture.digest: arm.name for arm in study.arms()}

    def program(models: Any, *rest: Any, **more: Any) -> Any:
        made, name = real(models, *rest, **more), names[models[0].architecture.digest]
        step = made.step

        def counted(*given: Any) -> Any:
            if name in steps:
                steps[name] += 1
                if steps[name] > (0 if name == "channel=none" else 2 * timing.STEPS):
                    raise MemoryError if name == "channel=none" else ValueError("a <b>\nc")
            return step(*given)

        made.step = counted
        return made

    monkeypatch.setattr(rehearsal, "program", program)
    said: list[str] = []
    made = command.timed(study, [], 4, None, said.append)
    found = command.document(study, made)
    rows = {row["arm"]: row for row in found["arms"]}
    assert rows["channel=none"]["message"] == "out of memory; --arm times fewer arms at once"
    assert rows["positions=rope"]["message"] == "ValueError: a <b>" and rows["positions=rope"]["step_time"] is None
    others = [row for arm, row in rows.items() if arm not in steps and arm != "reference"]
    assert others and all(row["step_time"]["rounds"] == 4 and row["step_time"]["ratio"] > 0 for row in others)
    text = command.table(found)
    assert "channel=none could not be timed: out of memory" in text
    enough = statistics.fewest(0.95, len(rows) - 1)
    assert f"4 rounds: too few for an interval; 95 % for {len(rows) - 1} ratios at once takes {enough} (--rounds)" in text
    lines = text.partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in lines[1:]] == list(rows) == [arm.name for arm in study.arms()]
    assert len({tuple(m.end() for m in re.finditer(r"\S+", line))[1:] for line in lines[1:]}) == 1  # columns are aligned
    assert run_command(monkeypatch, "time", str(study_file), "--rounds", "1") == 3


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_steps_are_timed_in_the_precision_of_the_trials_before(
    run: fabricated.Run, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    train(run, {}, precision=precision)
    monkeypatch.setattr(command.continuing, "former", lambda *_: None)  # the data is made up
    assert command.timed(run.study, ["heads=1"], 1, run.ledger, str)["precision"] == precision


def test_a_lost_device_ends_it(study_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load(study_file)
    monkeypatch.setattr(timing.devices, "lost", lambda e: isinstance(e, ZeroDivisionError))
    monkeypatch.setattr(timing._Stepper, "window", lambda stepper: 1 / 0)
    with pytest.raises(RunError, match="the device was lost while reference was timed"):
        command.timed(study, [], 2, None, str)


def test_arms_that_are_one_model_are_timed_once(study_file: Path) -> None:
    text = study_file.read_text().rstrip()
    study_file.write_text(text[:-1] + ", equalise: [none, parameters], tolerance: 0.9}\n")
    study = load(study_file)
    found = command.document(study, command.timed(study, ["channel=none", "channel=none@parameters"], 1, None, str))
    assert [(row["arm"], row["also"]) for row in found["arms"]] == [("reference", []), ("channel=none", ["channel=none@parameters"])]


def test_a_run_folder_keeps_what_was_timed_and_its_report_tells_it(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    study_file.write_text(study_file.read_text().replace("seeds: 2", "seeds: 1, diagnostics: none"))
    out, options = str(tmp_path / "out"), runner.Options(local=True, track=False)
    with monkeypatch.context() as m:
        m.setattr(report, "write", lambda *_, **__: [])  # pictures are made in other tests
        assert runner.run(load(study_file), out, options).trained == 4
        before = report.read(out).analysis.speed
        assert before and {s.step_time and s.step_time.measured for s in before} == {"in the trials"}
        assert run_command(monkeypatch, "time", out, "--rounds", "2", "--arm", "channel=none", "--json") == 0
        printed = json.loads(capsys.readouterr().out)
        assert [row["arm"] for row in printed["arms"]] == ["reference", "channel=none"] and printed["threads"] == 1
        assert printed["arms"][1]["tokens_per_second"] > 0 and printed["arms"][1]["flops_per_second"] > 0
        after = {s.arm: s.step_time for s in report.read(out).analysis.speed}
        assert after["channel=none"] and after["channel=none"].ratio == printed["arms"][1]["step_time"]["ratio"]
        assert {arm for arm, time in after.items() if time and time.measured == "side by side"} == {"channel=none"}
        assert run_command(monkeypatch, "time", str(study_file), "--out", out, "--rounds", "1") == 0
        assert len([e for e in Ledger(out).events() if e["event"] == "timed"]) == 2
        assert runner.run(load(study_file), out, options).trained == 0
    with Ledger(out).lock(), pytest.raises(InputError, match="another aotsearch process writes to"):
        command.timed(load(study_file), [], 1, Ledger(out), str)


def test_what_a_search_has_found_is_timed_beside_its_arms(tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(golden.HERE / "search", out)
    study = load(golden.write_study("search", tmp_path))
    found = command.timed(study, [], 1, Ledger(out), str)
    confirmed = {r["digest"]: r["arm"] for r in report.read(out).records if r["phase"] == "confirm"}
    assert len(confirmed) == 3 and {m["digest"]: m["arms"][0] for m in found["models"]} == confirmed
    assert {s.arm for s in report.read(out).analysis.speed} == set(confirmed.values()) - {"reference"}


def test_what_cannot_be_timed_is_one_line(
    study_file: Path, tmp_path: Path, run: fabricated.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(run, {})
    for words, said in {
        (str(study_file), "--arm", "chanel=none"): "no arm 'chanel=none'; did you mean 'channel=none'",
        (str(study_file), "--out", str(tmp_path)): "holds no run",
        (str(study_file), "--out", str(run.folder)): "holds results",
        (str(run.folder), "--set", "study.seeds=3"): "--set and --out go with a study file",
        (str(tmp_path / "none.yaml"),): "none.yaml",
    }.items():
        assert run_command(monkeypatch, "time", *words) == 2
        told = capsys.readouterr().err.strip()
        assert said in told and "\n" not in told, told
