from __future__ import annotations

from pathlib import Path

import pytest

from aotsearch import design, equalise, yamlfile
from aotsearch.cost import cost
from aotsearch.errors import InputError
from aotsearch.space import Space
from aotsearch.study import load

GRAMMAR = """
model: {width: 32, depth: 2, norm: norm, block: [{attention: {heads: 4, qkv: qkv}}, channel]}
channel: {any: [{mlp: {expand: 4}}, none]}
norm: {any: [layernorm, rmsnorm]}
qkv: {any: [free, tied]}
"""


@pytest.fixture(scope="module")
def space() -> Space:
    return Space.parse(yamlfile.parse(GRAMMAR, "f"), {"vocabulary": 256, "context": 32})


def test_a_model_that_loses_its_mlp_becomes_deeper_until_it_is_as_large(space: Space) -> None:
    arm = equalise.resized(space, design.arm(space, {"channel": "none"}), "parameters", "depth", 0.05)
    assert arm.name == "channel=none@parameters" and arm.equalise == "parameters"
    assert arm.resized == (("depth", 2, 6),)  # 12 D^2 a block against 4 D^2
    found, wanted = (cost(a).parameters for a in (arm.architecture, space.reference))
    assert abs(found / wanted - 1) < 0.02
    assert len(arm.architecture.sublayers) == 6 and arm.architecture.width == 32


def test_or_wider_in_steps_that_its_heads_allow(space: Space) -> None:
    arm = equalise.resized(space, design.arm(space, {"channel": "none"}), "parameters", "width", 0.05)
    (change,) = arm.resized
    assert change[0] == "width" and change[2] % 4 == 0 and len(arm.architecture.sublayers) == 2
    assert abs(cost(arm.architecture).parameters / cost(space.reference).parameters - 1) < 0.05


def test_flops_are_made_equal_by_measure_and_not_by_parameters(space: Space) -> None:
    arm = equalise.resized(space, design.arm(space, {"channel": "none"}), "flops", "either", 0.05)
    assert abs(cost(arm.architecture).flops_per_token / cost(space.reference).flops_per_token - 1) < 0.05


def test_an_arm_that_is_alike_in_size_keeps_its_size_and_is_one_model(space: Space) -> None:
    made = equalise.equalised(space, design.make(space, "one-at-a-time"), ["none", "parameters"], "either", 0.1)
    names = [a.name for a in made.arms]
    assert names[0] == "reference" and "channel=none" in names and "channel=none@parameters" in names
    by_name = {a.name: a for a in made.arms}
    assert by_name["norm=rmsnorm@parameters"].architecture == by_name["norm=rmsnorm"].architecture
    assert by_name["norm=rmsnorm@parameters"].resized == ()
    comparison = next(c for c in made.comparisons if c.name == "channel=none@parameters")
    assert dict(comparison.weights) == {"channel=none@parameters": 1.0, "reference": -1.0}


def test_an_arm_that_can_not_be_made_equal_is_refused_with_how_close_it_comes(space: Space) -> None:
    with pytest.raises(InputError, match=r"arm 'qkv=tied' comes no closer to the reference's parameters than .* %.*raise tolerance"):
        equalise.resized(space, design.arm(space, {"qkv": "tied"}), "parameters", "depth", 0.01)


def test_checking_a_study_of_equal_arms_loads_no_torch(tmp_path: Path) -> None:
    import subprocess
    import sys

    path = tmp_path / "study.yaml"
    body = "\n".join("  " + line for line in GRAMMAR.strip().splitlines())
    path.write_text(f"name: equal\ntask: language\ngrammar:\n{body}\nstudy: {{equalise: [none, parameters]}}\n")
    program = "import sys; from aotsearch.study import load; load(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert [a.name for a in load(path).arms()].count("channel=none@parameters") == 1
