"""Every YAML file we ship is loaded, sampled and built."""

from __future__ import annotations

import csv
import gzip
import itertools
import runpy
from pathlib import Path

import pytest
import torch

from aotsearch import yamlfile
from aotsearch.grammar.architecture import Architecture
from aotsearch.models.cost import cost
from aotsearch.models.model import Model, build
from aotsearch.study.loading import load, parse

ROOT = Path(__file__).parent.parent
CLAIMS = ROOT / "studies" / "claims.py"
FILES = sorted([*ROOT.glob("spaces/**/*.yaml"), *ROOT.glob("studies/*/*.yaml"), *ROOT.glob("benchmarks/*/*.yaml")])
SMALL = 1_000_000  # parameters; a larger model is built and run without memory


def inputs_and_shape(architecture: Architecture) -> tuple[torch.Tensor, tuple[int, ...]]:
    """One empty item of the task of a model, and the shape of what comes out."""
    sizes = dict(architecture.sizes)
    if "image" in sizes:
        return torch.zeros(1, sizes["channels"], sizes["image"], sizes["image"]), (1, sizes["classes"])
    if "inputs" in sizes:
        return torch.zeros(1, sizes["context"], sizes["inputs"]), (1, sizes["context"], sizes["outputs"])
    return torch.zeros(1, sizes["context"], dtype=torch.long), (1, sizes["context"], sizes["vocabulary"])


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_shipped_file_loads_and_every_arm_and_sample_is_a_model(path: Path) -> None:
    study = load(path)
    assert study.question
    declared = parse(yamlfile.parse(yamlfile.dump(dict(study.plain)), "as the ledger keeps it"), Path())
    assert declared.plain == study.plain and declared.digest == study.digest
    assert [(a.name, a.architecture.digest) for a in declared.arms()] == [(a.name, a.architecture.digest) for a in study.arms()]
    samples = [study.space.sample(seed) for seed in range(5)]
    for architecture in dict.fromkeys([arm.architecture for arm in study.arms()] + samples):
        small = cost(architecture).parameters < SMALL
        with torch.device("cpu" if small else "meta"), torch.no_grad():
            inputs, shape = inputs_and_shape(architecture)
            model = build(architecture) if small else Model(architecture)
            assert model(inputs).shape == shape
    for architecture in samples:
        assert study.space.at(architecture.decisions) == architecture


def test_the_table_of_claims_is_what_the_records_say() -> None:
    page = runpy.run_path(str(CLAIMS))["page"]
    assert page() == (ROOT / "studies" / "README.md").read_text(encoding="utf-8"), "python studies/claims.py makes it again"


def test_an_interval_supports_or_contradicts_a_claim_only_as_a_whole() -> None:
    judged = runpy.run_path(str(CLAIMS))["judged"]
    better = (float("-inf"), 0.0)
    assert [judged(*ends, better) for ends in ((-2, -1), (-1, 1), (1, 2))] == ["supported", "open", "contradicted"]
    assert [judged(*ends, (-0.02, 0.02)) for ends in ((-0.01, 0.02), (0.01, 0.03), (0.03, 0.04))] == ["supported", "open", "contradicted"]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks" / "tables").glob("*.yaml")), ids=lambda p: p.stem)
def test_a_table_of_a_space_holds_every_architecture_of_it_under_three_seeds(path: Path) -> None:
    with gzip.open(path.with_suffix("").with_suffix(".csv.gz"), "rt") as file:
        rows = [(row["digest"], row["seed"]) for row in csv.DictReader(file)]
    architectures = {a.digest[:12] for a in load(path).space.enumerate()}
    assert sorted(rows) == sorted(itertools.product(architectures, "012"))
