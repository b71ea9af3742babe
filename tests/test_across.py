"""Several run folders side by side: which verdicts hold, reverse, differ or are open."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
import fabricated
from console import aotsearch

MARGIN = "seeds: 4, margin: 0.05"


def folder(path: Path, monkeypatch: pytest.MonkeyPatch, settings: str = MARGIN, **effects: float) -> str:
    """A run in which some changes have another effect than usual."""
    named = {name.replace("_", "=", 1): value for name, value in effects.items()}
    with monkeypatch.context() as patch:
        patch.setattr(fabricated, "EFFECTS", fabricated.EFFECTS | named)
        fabricated.Run(path, settings).train(broken=False)
    return str(path)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    one = folder(tmp_path / "small", monkeypatch)
    other = folder(
        tmp_path / "large", monkeypatch, f"{MARGIN}, budget: {{steps: 700}}", positions_rope=0.2, qkv_tied=0.0, norm_rmsnorm=0.05
    )
    return [one, other]


def standings(document: Any) -> dict[str, str]:
    return {v["comparison"]: v["standing"] for v in document["verdicts"]}


def test_a_verdict_holds_reverses_differs_or_is_open(two: list[str]) -> None:
    done = aotsearch("judge", *two, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    found = standings(document)
    assert found["channel: mlp -> none"] == "holds"
    assert found["positions: learned -> rope"] == "reverses"
    assert found["qkv: free -> tied"] == "differs"
    assert found["norm: layernorm -> rmsnorm"] in ("differs", "open")
    assert list(found.values()) == sorted(found.values(), key=["reverses", "differs", "holds", "open"].index)
    assert document["answer"].startswith("Reverses: positions: learned -> rope (worse in 1, better in 1).")
    assert document["folders"][0]["facts"].startswith("language python-stdlib, 8,608 parameters, 600 steps")
    assert "700 steps" in document["folders"][1]["facts"]


def test_the_terminal_and_the_page_have_a_line_for_each_study_and_a_picture(two: list[str], tmp_path: Path) -> None:
    done = aotsearch("judge", *two, "--out", str(tmp_path / "out"))
    assert done.returncode == 0 and "positions: learned -> rope  --  reverses: worse in 1, better in 1" in done.stdout
    assert done.stdout.count("  small ") == done.stdout.count("  large ") == 6
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<svg" in page and "Which verdicts hold across 2 studies" in page and "reverses" in page
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"report.html", "report.md", "across.png", "judged.json"}


def test_one_run_folder_says_what_its_report_says(two: list[str]) -> None:
    one, report = (aotsearch(command, two[0], "--json") for command in ("judge", "report"))
    assert json.loads(one.stdout) == json.loads(report.stdout)


def test_the_trials_of_a_run_folder_are_judged_anew_by_a_measure_that_is_named(two: list[str]) -> None:
    document = json.loads(aotsearch("judge", two[0], "--measure", "bits_per_byte", "--margin", "0.05", "--pair", "seed", "--json").stdout)
    report = json.loads(aotsearch("report", two[0], "--json").stdout)
    assert {c["arm"]: c["verdict"] for c in document["contrasts"]} == {c["arm"]: c["verdict"] for c in report["contrasts"]}


@pytest.mark.parametrize(
    ("more", "line"),
    [
        (["--margin", "0.1"], "run folders are judged as they were declared"),
        (["AGAIN"], "is named twice"),
    ],
)
def test_what_cannot_be_compared_is_one_line(two: list[str], more: list[str], line: str) -> None:
    done = aotsearch("judge", *two, *(two[0] if m == "AGAIN" else m for m in more))
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1


def test_studies_without_a_comparison_in_common_are_refused(two: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = fabricated.TEXT.replace("{any: [4, 1]}", "4").replace("{any: [layernorm, rmsnorm, none]}", "layernorm")
    text = text.replace("{any: [free, tied]}", "free").replace("{any: [{mlp: {expand: 2}}, none]}", "{mlp: {expand: 2}}")
    text = text.replace("{any: [learned, rope]}", "{any: [rope, learned]}")
    fabricated.Run(tmp_path / "other", MARGIN, text).train(broken=False)
    done = aotsearch("judge", two[0], str(tmp_path / "other"))
    assert done.returncode == 2 and "have no comparison in common" in done.stderr
