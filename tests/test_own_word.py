"""The worked example of a package with a word of its own, installed as a user would install it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
STUDY = """\
name: own-word
task: {language: {data: python-stdlib, context: 16}}
grammar:
  model: {width: 16, depth: 2, block: [attention, channel]}
  channel: {any: [mlp, {maxout: {pieces: 3}}, none]}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a process that has the package."""
    folder = tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder)]
    source = tmp_path_factory.mktemp("source")  # setuptools builds beside the source
    for name in ("pyproject.toml", "aotsearch_maxout.py"):
        (source / name).write_text((ROOT / "docs" / "own_word" / name).read_text())
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    return {**os.environ, "PYTHONPATH": str(folder)}


def aotsearch(installed: dict[str, str], *arguments: str, code: int = 0) -> str:
    command = [sys.executable, "-m", "aotsearch", *arguments]
    done = subprocess.run(command, env=installed, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def test_an_installed_word_is_in_the_library_and_in_the_schema(installed: dict[str, str]) -> None:
    shown = aotsearch(installed, "words", "maxout")
    assert "y = max_k(x W_k) W_out" in shown and "pieces > 1" in shown
    assert '"channel.maxout"' in aotsearch(installed, "schema") or '"block.maxout"' in aotsearch(installed, "schema")
    assert "maxout" not in aotsearch(dict(os.environ), "words")


def test_an_installed_word_is_checked_counted_and_costed(installed: dict[str, str], tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY)
    assert "3 architectures" in aotsearch(installed, "check", str(study))
    shown = aotsearch(installed, "show", str(study), "--arm", "channel=maxout")
    assert "maxout" in shown and f"{16 * 16 * 4:,}" in shown.replace(".", ",")
    study.write_text(STUDY.replace("pieces: 3", "pieces: 1"))
    assert "maxout requires pieces > 1" in aotsearch(installed, "check", str(study), code=2)


def test_an_installed_word_trains(installed: dict[str, str], tmp_path: Path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(STUDY + "study: {seeds: 2, budget: {steps: 3, batch: 4, evaluations: 1}}\n")
    aotsearch(installed, "run", str(study), "--local", "--out", str(tmp_path / "run"))
    assert "6 done" in aotsearch(installed, "status", str(tmp_path / "run"))
