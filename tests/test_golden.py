"""Folders, digests and models of earlier versions as every later version reads them: see golden/write.py."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import aotsearch
from aotsearch.evidence import tails
from aotsearch.report import report
from aotsearch.running import runner

sys.path.insert(0, str(Path(__file__).parent / "golden"))
import write as golden

HERE = golden.HERE


def stored(name: str) -> dict[str, Any]:
    """What an earlier version wrote; an outcome is called otherwise now."""
    found: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text().replace('"stopped"', '"pruned"'))
    return found


PROSE = ("answer", "method", "notes", "warnings")  # is written anew by every version
FORMER = {"worse": "necessary", "equivalent": "redundant", "better": "harmful"}  # verdicts as versions before 0.4 worded them


def in_its_words(contrast: dict[str, Any]) -> dict[str, Any]:
    """A contrast as earlier versions wrote it: verdicts spoke of the reference's choice, and of an interaction said whether it is there."""
    words = FORMER if contrast["kind"] != "interaction" else dict.fromkeys(("worse", "better"), "present") | {"equivalent": "absent"}
    later = ("size", "component", "reading")
    return {k: words.get(v, v) if k == "verdict" else v for k, v in contrast.items() if k not in later}


@pytest.fixture(params=sorted(golden.STUDIES))
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A run folder that an earlier version left."""
    out = tmp_path / request.param
    shutil.copytree(HERE / request.param, out)
    return out


@pytest.fixture
def about_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals as they were when the folders were written: no further to the side of a long tail."""
    monkeypatch.setattr(tails, "WIDER", 0.0)


@pytest.mark.usefixtures("about_the_mean")
def test_a_folder_of_an_earlier_version_is_reported_as_it_was(kept: Path) -> None:
    wanted = stored("reports")[kept.name]
    found = json.loads(json.dumps(report.read(kept).analysis.to_dict()))
    assert [in_its_words(c) for c in found["contrasts"]] == wanted["contrasts"]
    numbers = wanted.keys() - {"contrasts", *PROSE}
    assert {name: found[name] for name in numbers} == {name: wanted[name] for name in numbers}  # what later versions say beside it is empty
    assert found["speed"] == wanted.get("speed", [])


def test_only_the_end_on_the_side_of_a_long_tail_is_not_where_it_was(kept: Path) -> None:
    analysis = report.read(kept).analysis
    moved = 0
    for now, then in zip(json.loads(json.dumps(analysis.to_dict()))["contrasts"], stored("reports")[kept.name]["contrasts"], strict=True):
        assert (now["arm"], now["difference"], now["seeds"]) == (then["arm"], then["difference"], then["seeds"])
        if then["low"] is not None:
            longer = [(now[end] - now["difference"]) / (then[end] - then["difference"]) for end in ("low", "high")]
            assert min(longer) == pytest.approx(1) and max(longer) < 4
            moved += max(longer) > 1.0001
    assert (moved > 0) == any("times as far at its" in note for note in analysis.notes)


@pytest.mark.usefixtures("about_the_mean")
def test_a_folder_of_an_earlier_version_is_continued_without_training(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write", lambda *_, **__: [])  # pictures, and the view in MLflow, are made in other tests
    study = aotsearch.load(golden.write_study(kept.name, kept.parent))
    found = aotsearch.run(study, out=kept, options=runner.Options(local=True, track=False))
    assert found.trained == 0
    after = json.loads(json.dumps(report.read(kept).analysis.to_dict()))["contrasts"]
    assert [in_its_words(c) for c in after] == stored("reports")[kept.name]["contrasts"]


def test_the_digests_of_everything_shipped_stay() -> None:
    assert golden.digests() == stored("digests")


def test_models_compute_what_they_computed() -> None:
    wanted = stored("outputs")
    found = {name: golden.outputs(architecture) for name, architecture in golden.models().items()}
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        assert found[name] == pytest.approx(values, abs=2e-5), name
