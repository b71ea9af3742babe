"""What many tests need: a small corpus and a small study, in folders of their own."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from aotsearch.report.figures import canvas

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is imported: on models this small threads wait for one another

WORDS = "the of and to in is that it was for on are as with his they at be this from have or by one had not but what all were".split()

STUDY = """
name: small
question: Does a small model need its parts?
task: {language: {data: {text: corpus.txt}, context: 16}}
grammar:
  model: {width: 16, depth: 1, positions: positions, norm: layernorm, block: [mixer, channel]}
  mixer: {attention: {heads: 2, identity: identity}}
  channel: {any: [{mlp: {expand: 2}}, none]}
  identity: {any: [0, -1]}
  positions: {any: [learned, rope]}
study: {seeds: 2, budget: {steps: 6, batch: 4, evaluations: 2}, learning_rate: 1e-2, margin: 0.05}
"""


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AOTSEARCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(autouse=True, scope="session")
def _fonts() -> None:
    """Fonts of PDFs as glyphs that are drawn: the outlines of our users' take half a second for each picture."""
    assert canvas.STYLE["pdf.fonttype"] == 42, "journals take no other"
    canvas.STYLE["pdf.fonttype"] = 3


@pytest.fixture
def study_file(tmp_path: Path) -> Path:
    """A study over a corpus of 20 kB that trains in well under a second per trial."""
    rng = random.Random(0)
    (tmp_path / "corpus.txt").write_text(" ".join(rng.choice(WORDS) for _ in range(5000)))
    path = tmp_path / "small.yaml"
    path.write_text(STUDY)
    return path
