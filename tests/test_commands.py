"""The command line: exit codes, one-line errors, JSON of the contract."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aotsearch.errors import InputError
from aotsearch.report import report
from aotsearch.running import runner
from aotsearch.study.loading import load
from aotsearch.tasks import cache
from aotsearch.training import trial

sys.path.insert(0, str(Path(__file__).parent))
from console import aotsearch


def started(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run([sys.executable, "-m", "aotsearch", *arguments], capture_output=True, text=True, timeout=120)


def document(*arguments: str) -> Any:
    done = aotsearch(*arguments, "--json")
    assert done.returncode in (0, 2), done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("arguments", [["--help"], ["check", "FILE"], ["check", "FILE", "--json"]])
def test_help_and_check_load_no_giant(study_file: Path, arguments: list[str]) -> None:
    arguments = [str(study_file) if a == "FILE" else a for a in arguments]
    code = (
        "import sys; from aotsearch.__main__ import main; sys.argv = ['aotsearch', *%r]\n"
        "try: main()\nexcept SystemExit: pass\n"
        "giants = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(giants) if giants else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code % arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_command_has_help() -> None:
    for command in ("check", "show", "plan", "run", "status", "report", "judge", "time", "ui", "words"):
        done = aotsearch(command, "--help")
        assert done.returncode == 0 and "Usage" in done.stdout


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "1:1: the file is empty"),
        ("name: a\nname: b\n", "2:1: the key 'name' stands twice"),
        ("STUDY\ntaks: 1\n", "13:1: a study has no section 'taks'; did you mean 'task'"),
        ("STUDY learning_rat: 1", "did you mean 'learning_rate'"),
        ("STUDY seeds: many", "seeds"),
        ("STUDY budget: {step: 5}", "budget has no option 'step'; did you mean 'steps'"),
        ("STUDY margin: -1", "margin: input should be greater than 0"),
        ("STUDY seeds: [1, 1]", "distinct whole numbers"),
        ("STUDY arms: {x: {chanel: none}}", "no decision 'chanel'; did you mean 'channel'"),
        ("STUDY arms: {x: {channel: mpl}}", "did you mean 'mlp'"),
        ("STUDY arms: {x: {channel: none}}", "is the same model as 'channel=none'"),
        ("heads: 2->heads: 5", ": heads divides width: 5 does not divide 16"),
        ("mlp:->mpl:", "unknown sublayer 'mpl'; did you mean 'mlp'"),
        ("language:->langage:", "unknown task 'langage'; did you mean 'language'"),
        ("context: 16->contxt: 16", "did you mean 'context'"),
        ("name: small->name: a/b", "letters, digits"),
    ],
)
def test_bad_input_is_exit_code_2_one_line_with_its_place_and_nothing_on_disk(study_file: Path, text: str, line: str) -> None:
    good = study_file.read_text()
    if "->" in text:
        bad = good.replace(*text.split("->"))
    elif text.startswith("STUDY "):
        bad = good.rstrip()[:-1] + f", {text[6:]}}}\n"
        bad = bad.replace("seeds: 2, ", "") if "seeds" in text else bad
        bad = bad.replace("budget: {steps: 6, batch: 4, evaluations: 2}, ", "") if "budget" in text else bad
        bad = bad.replace(", margin: 0.05", "") if "margin" in text else bad
    else:
        bad = text.replace("STUDY", good)
    study_file.write_text(bad)
    before = sorted(study_file.parent.rglob("*"))
    for command in (["check"], ["run", "--local"]):
        done = aotsearch(*command, str(study_file), cwd=study_file.parent)
        assert done.returncode == 2, (done.stdout, done.stderr)
        assert line in done.stderr and done.stderr.startswith(str(study_file)), done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.splitlines()) <= 2 and not done.stdout
    assert sorted(study_file.parent.rglob("*")) == before


def test_missing_files_and_wrong_overrides_are_one_line(study_file: Path, tmp_path: Path) -> None:
    for arguments, words in (
        (["check", str(tmp_path / "none.yaml")], "none.yaml: no such file"),
        (["check", str(study_file), "--set", "study.seeds"], "--set takes path=value"),
        (["check", str(study_file), "--set", "studdy.seeds=1"], "did you mean 'study'"),
        (["check", str(study_file), "--set", "study.seeds=0"], "--set study.seeds=0"),
        (["show", str(study_file), "--arm", "chanel=none"], "did you mean 'channel=none'"),
        (["status", str(tmp_path)], "holds no run"),
        (["report", str(tmp_path)], "holds no run"),
    ):
        done = aotsearch(*arguments)
        assert done.returncode == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    "setting",
    [
        *("margin=true", "confidence=false", "seeds=true", "seeds=[true, 3]", "seeds={min: true, max: 4}", "learning_rate=true"),
        *(
            "learning_rate={tune: [true, 0.1]}",
            "tolerance=true",
            "resources={gpus: true}",
            "resources={fuse: true}",
            "budget={steps: true}",
        ),
        *("optimiser={clip: true}", "optimiser={beta1: false}", "optimiser={average: false}", "search={trials: true}", "runs=true"),
        *("margin='0.1'", "knock_out=1", "knock_out=yes"),
    ],
)
def test_a_setting_takes_no_truth_value_and_no_text_for_a_number(setting: str, study_file: Path) -> None:
    with pytest.raises(InputError, match=rf"--set study\.{re.escape(setting)}:1:\d+: .* valid (number|integer|boolean), not"):
        load(study_file, [f"study.{setting}"])


def test_a_question_on_the_command_line_is_taken_as_it_is(study_file: Path) -> None:
    for text in ("Is it needed? #2", "Is it: yes?", "[v2] or not", "2", "{any}"):
        assert load(study_file, [f"question={text}"]).question == text
    assert load(study_file, ['question="quoted: #"']).question == "quoted: #"


def test_a_home_is_meant_wherever_a_path_is_given(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    study_file.rename(tmp_path / "home" / "s.yaml")
    given: list[Any] = []

    def run(study: Any, folder: Path, options: runner.Options) -> Any:
        given.extend((folder, options.cache))
        raise InputError("enough")

    monkeypatch.setattr(runner, "run", run)
    assert aotsearch("run", "~/s.yaml", "--local", "--out=~/run", "--cache=~/trials").stderr == "enough\n"
    assert given == [tmp_path / "home" / "run", tmp_path / "home" / "trials"]
    assert load("~/s.yaml").name == "small" and aotsearch("show", "~/s.yaml").returncode == 0
    assert f"{tmp_path / 'home' / 'run'} holds no run" in aotsearch("status", "~/run").stderr
    done = aotsearch("status", "~nobody-of-that-name/run")
    law = "~nobody-of-that-name/run: ~nobody-of-that-name is the home of nobody known here; write ./~"
    assert done.returncode == 2 and done.stderr.startswith(law) and len(done.stderr.splitlines()) == 1
    monkeypatch.setenv("AOTSEARCH_CACHE", "~nobody-of-that-name")
    with pytest.raises(InputError, match="is the home of nobody known here"):
        cache.folder()


def test_check_show_and_plan_print_the_fields_of_the_contract(study_file: Path) -> None:
    found = document("check", str(study_file))
    assert found["ok"] and found["errors"] == [] and found["architectures"] == 8
    assert found["decisions"] == ["positions", "identity", "channel"] and found["not_varied"] == found["notes"] == []
    left = [{"decision": "channel", "reason": "not in factors"}]
    for command in ("check", "plan"):
        assert document(command, str(study_file), "--set", "study.factors=[positions, identity]")["not_varied"] == left
    shown = document("show", str(study_file), "--arm", "channel=none")
    assert shown["arm"] == "channel=none" and shown["decisions"]["channel"] == "none" and len(shown["digest"]) == 12
    assert shown["parameters"] > shown["parameters_without_embeddings"] > 0 and shown["flops_per_token"] > 0
    plan = document("plan", str(study_file))
    assert len(plan["trials"]) == 8 and plan["seconds"] > 0
    assert {"arm", "seed", "parameters", "flops_per_token", "seconds"} <= plan["trials"][0].keys()
    study_file.write_text(study_file.read_text().replace("mlp", "mpl"))
    wrong = document("check", str(study_file))
    assert not wrong["ok"] and wrong["errors"][0]["line"] == 8 and wrong["errors"][0]["column"] > 1
    assert {"file", "line", "column", "message"} <= wrong["errors"][0].keys()


def test_a_design_that_compares_nothing_is_told_by_check_plan_and_run(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report, "write", lambda *_, **__: [])  # pictures are drawn where they are read
    alone = ["--set", "grammar={model: {width: 16, depth: {int: [1, 2]}, block: [mlp]}}", "--set", "study.seeds=1"]
    for command in (["check"], ["plan"], ["run", "--local", "--out", str(tmp_path / "run")]):
        done = aotsearch(*command, str(study_file), *alone)
        assert done.returncode == 0, done.stderr
        told = (done.stdout + done.stderr).splitlines()
        assert "not varied: model.depth (a range; a search varies it)" in told, done
        assert any(line.startswith("nothing is compared: the reference is the only arm") for line in told)


def test_run_status_and_report_agree(study_file: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    done = started("run", str(study_file), "--out", out, "--local")
    assert done.returncode == 0, done.stderr
    assert "channel" in done.stdout and "trials trained" in done.stderr
    status = document("status", out)
    assert (status["done"], status["running"], status["failed"], status["left"]) == (8, 0, 0, 0) and status["outcomes"] == {"done": 8}
    report = document("report", out)
    assert {"measure", "margin", "reference", "contrasts", "noise_floor"} <= report.keys()
    fields = {"arm", "decision", "from", "to", "equalise", "difference", "low", "high", "seeds", "verdict"}
    assert [c["arm"] for c in report["contrasts"]] == ["positions=rope", "identity=-1", "channel=none"]
    for contrast in report["contrasts"]:
        assert fields <= contrast.keys() and contrast["seeds"] == 2 and contrast["low"] <= contrast["difference"] <= contrast["high"]
    for name in ("study.yaml", "ledger.jsonl", "checkpoints", "mlflow.db", "report/report.html"):
        assert (tmp_path / "run" / name).exists(), name
    again = aotsearch("report", out)
    assert again.stdout == done.stdout


def test_failed_trials_end_a_run_with_exit_code_3(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(trial, "build", broken)
    done = aotsearch("run", str(study_file), "--out", str(tmp_path / "run"), "--local")
    assert done.returncode == 3, done.stderr
    assert "8 trials failed" in done.stderr and "Traceback" not in done.stderr


def test_a_local_run_needs_neither_ray_nor_optuna_nor_mlflow(study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('ray', 'optuna', 'mlflow')))\n"  # None: importing them fails
        "from aotsearch import __main__\n"
        f"sys.argv = ['aotsearch', 'run', {str(study_file)!r}, '--out', {str(tmp_path / 'run')!r}, '--local']\n"
        "__main__.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "channel" in done.stdout, done.stderr
    assert "mlflow is not installed" in done.stderr and not (tmp_path / "run" / "mlflow.db").exists()
    for arguments, words in ((["--set", "study.seeds=3"], "ray"), (["--local", "--set", "study.design=search"], "optuna")):
        monkeypatch.setitem(sys.modules, words, None)
        refused = aotsearch("run", str(study_file), "--out", str(tmp_path / "run"), *arguments)
        assert refused.returncode == 2 and f"needs the package {words}" in refused.stderr, refused.stderr


def test_words_lists_every_word_with_its_options() -> None:
    shown = aotsearch("words").stdout
    for word in ("attention", "mlp", "layernorm", "rmsnorm", "rope", "learned", "language", "identity", "arXiv:2506.03790"):
        assert word in shown
