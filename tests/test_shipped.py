"""Every YAML file we ship is loaded, sampled and built."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch

from aotsearch.model import build
from aotsearch.study import load

ROOT = Path(__file__).parent.parent
FILES = sorted(itertools.chain((ROOT / "spaces").rglob("*.yaml"), (ROOT / "studies").rglob("*.yaml")))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_shipped_file_loads_and_every_arm_and_sample_is_a_model(path: Path) -> None:
    study = load(path)
    assert study.question
    samples = [study.space.sample(seed) for seed in range(5)]
    for architecture in [arm.architecture for arm in study.arms()] + samples:
        tokens = torch.zeros(1, architecture.size("context"), dtype=torch.long)
        assert build(architecture)(tokens).shape == (1, architecture.size("context"), architecture.size("vocabulary"))
    for architecture in samples:
        assert study.space.at(architecture.decisions) == architecture
