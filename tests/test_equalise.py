from __future__ import annotations

import bisect
import dataclasses
from pathlib import Path

import pytest

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.models.cost import cost
from aotsearch.study import design, designs, equalise
from aotsearch.study.loading import load, measured

GRAMMAR = """
model: {width: 32, depth: 2, norm: norm, block: [{attention: {heads: 4, qkv: qkv}}, channel]}
channel: {any: [{mlp: {expand: 4}}, none]}
norm: {any: [layernorm, rmsnorm]}
qkv: {any: [free, tied]}
"""


@pytest.fixture(scope="module")
def space() -> Space:
    return Space.parse(yamlfile.parse(GRAMMAR, "f"), {"vocabulary": 256, "context": 32}, measured)


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
    made = equalise.equalised(space, designs.make(space, "one-at-a-time"), ["none", "parameters"], "either", 0.1)
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
    program = "import sys; from aotsearch.study.loading import load; load(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    assert [a.name for a in load(path).arms()].count("channel=none@parameters") == 1


BLOCKS = """
model: {width: 32, blocks: {each: 3, of: layer}}
layer: [{attention: {heads: 4}}, channel]
channel: {any: [{mlp: {expand: 2}}, none]}
"""


def test_a_model_of_blocks_that_loses_one_layers_mlp_becomes_wider_and_loses_it_still() -> None:
    space = Space.parse(yamlfile.parse(BLOCKS, "f"), {"vocabulary": 256, "context": 32}, measured)
    made = equalise.equalised(space, designs.make(space, "one-at-a-time"), ["parameters", "flops"], "either", 0.1)
    assert [a.name for a in made.arms[1:4]] == [f"model.blocks.{i}.channel=none@parameters" for i in range(3)]
    for i, arm in [(i, a) for i, a in enumerate(made.arms[1:]) if a.resized]:
        assert [s.operation.word for s in arm.architecture.sublayers].count("mlp") == 2
        assert arm.architecture.decisions[f"model.blocks.{i % 3}.channel"] == "none"
        assert [what for what, *_ in arm.resized] == ["width"]
    assert sum(bool(a.resized) for a in made.arms) >= 3


def test_what_blocks_can_not_change_is_not_said_to_have_been_tried() -> None:
    space = Space.parse(yamlfile.parse(BLOCKS, "f"), {"vocabulary": 256, "context": 32}, measured)
    arm = design.arm(space, {"channel": "none"})
    with pytest.raises(InputError, match=r"by changing its depth; a model of blocks has no depth: let resize be width"):
        equalise.resized(space, arm, "parameters", "depth", 0.01)
    with pytest.raises(InputError, match=r"by changing its width; raise tolerance$"):
        equalise.resized(space, arm, "parameters", "either", 0.001)


def test_an_arm_that_is_re_sized_keeps_its_decisions_where_the_size_was_one() -> None:
    text = BLOCKS.replace("width: 32", "width: {any: [32, 64]}")
    space = Space.parse(yamlfile.parse(text, "f"), {"vocabulary": 256, "context": 32}, measured)
    arm = equalise.resized(space, design.arm(space, {"channel": "none", "model.width": 64}), "parameters", "width", 0.1)
    assert len(arm.architecture.sublayers) == 3 and arm.architecture.width != 64


@pytest.mark.parametrize("power", [0.5, 1, 3, 30])
def test_the_sizes_on_either_side_of_the_target_are_found_whatever_line_cost_is_over_them(space: Space, power: float) -> None:
    asked = []

    def cost_at(depth: int) -> int:
        return int(1000 * (depth / 4) ** power) + (depth > 9)

    def measured(architecture: Architecture) -> dict[str, int]:
        asked.append(depth := len(architecture.sublayers) // 2)
        return {"parameters": cost_at(depth)}

    made_up = dataclasses.replace(space, measured=measured)
    most = 2 * equalise.DEEPEST
    costs = [cost_at(n) for n in range(1, most + 1)]
    for target in (1, 999, 1000, 1001, 4000, 10**6, 10**60):
        del asked[:]
        found = [n for n, _ in equalise._sizes(made_up, {}, "depth", {}, "parameters", target)]
        below = min(max(bisect.bisect_left(costs, target), 1), most - 1)  # at the ends the two last
        assert found == [below, below + 1]
        assert len(asked) <= equalise.LINES + 8


def test_a_line_through_two_sizes_meets_a_goal_where_it_would_by_hand() -> None:
    assert equalise._met({0: 0.0, 2: 50.0}, 100.0) == 4  # 25 a layer
    assert equalise._met({0: 0.0, 2: 50.0, 4: 70.0}, 100.0) == 7  # 10 a layer between the two that are nearest
    assert equalise._met({3: 5.0, 4: 5.0}, 100.0) == 3
