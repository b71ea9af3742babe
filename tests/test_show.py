"""What `show` and `words` print: drawings whose lines add up, two arms side by side, the library."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from aotsearch import yamlfile
from aotsearch.grammar import glossary, library
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.models.cost import breakdown, cost
from aotsearch.show.outline import outline
from aotsearch.show.show import diff, tree
from aotsearch.study.design import Arm

sys.path.insert(0, str(Path(__file__).parent))
from console import aotsearch

BLOCK: list[Any] = ["attention", "mlp"]
NESTED = {"attention": {"identity": {"learned": {"per": "head"}}, "score": "sigmoid"}}
MODELS: dict[str, dict[str, Any]] = {
    "plain": {"depth": 4, "block": BLOCK},
    "free head, rope, options": {"depth": 3, "block": [{"attention": {"qkv": "tied", "heads": 2}}], "positions": "rope", "head": "free"},
    "norms after": {"depth": 2, "block": [{"attention": {"place": "post"}}, "mlp"], "norm": "rmsnorm"},
    "no norms, no positions": {"depth": 2, "block": BLOCK, "norm": "none", "positions": "none"},
    "tied depth": {"blocks": {"repeat": 6, "of": BLOCK, "tied": True}},
    "tied pairs": {"blocks": {"repeat": 3, "of": {"repeat": 2, "of": BLOCK, "tied": True}}},
    "side by side": {"depth": 2, "block": [{"parallel": BLOCK}, "mlp"]},
    "tied where equal": {"depth": 2, "block": ["attention", {"mlp": {"tied": True}}, {"mlp": {"expand": 2, "tied": True}}]},
    "parts of parts, norms on both sides": {"depth": 2, "block": [NESTED, "mlp"], "place": "sandwich"},
    "uneven": {"blocks": ["mlp", {"repeat": 4, "of": BLOCK}, {"mlp": {"join": "none"}}]},
}


def architecture(**model: Any) -> Architecture:
    rules = {"model": {"width": 16, **model}}
    return Space.parse(yamlfile.parse(yamlfile.dump(rules), "f"), {"vocabulary": 50, "context": 8}).reference


def arm(name: str, **model: Any) -> Arm:
    return Arm(name, architecture(**model), {})


def amounts(text: str, *starts: str) -> list[tuple[int, int]]:
    """The parameters and FLOPs in the lines of a drawing that start so, read from below the titles of their columns."""
    lines = text.splitlines()
    ends = [lines[0].index(title) + len(title) for title in ("parameters", "FLOPs/token")]
    cells = [[line[end - 10 : end].replace(",", "") for end in ends] for line in lines if line.startswith(starts)]
    return [(int(p.replace("-", "0")), int(f.replace("-", "0"))) for p, f in cells]


@pytest.mark.parametrize("name", MODELS)
def test_the_lines_that_show_draws_times_their_repeats_add_up_to_the_cost_of_the_model(name: str) -> None:
    a = architecture(**MODELS[name])
    total, lines, rows = cost(a), outline(a), breakdown(a)
    assert sum(x.repeats * x.parameters for x in lines) == sum(r.parameters for r in rows) == total.parameters
    assert sum(x.repeats * x.flops_per_token for x in lines) == sum(r.flops_per_token for r in rows) == total.flops_per_token
    drawn = sum(x.repeats for x in lines if x.part in ("mixer", "channel"))
    assert drawn == len(a.sublayers)


def test_the_cost_of_each_line_is_the_one_counted_by_hand() -> None:
    a = architecture(depth=4, block=["attention", {"mlp": {"expand": 2}}])
    found = [(x.repeats, x.part, x.text, x.shape, x.parameters, x.flops_per_token) for x in outline(a)]
    L, D, V = 8, 16, 50
    assert found == [
        (1, "input", "context 8, vocabulary 50", (L,), 0, 0),
        (1, "embedding", "width 16", (L, D), V * D, 0),
        (1, "positions", "learned", (L, D), L * D, 0),
        (4, "norm", "layernorm", (L, D), 2 * D, 0),
        (4, "mixer", "attention", (L, D), 4 * D * D, 8 * D * D + 4 * L * D),
        (4, "join", "add", (L, D), 0, 0),
        (4, "norm", "layernorm", (L, D), 2 * D, 0),
        (4, "channel", "mlp {expand: 2}", (L, D), 4 * D * D, 8 * D * D),
        (4, "join", "add", (L, D), 0, 0),
        (1, "norm", "layernorm", (L, D), 2 * D, 0),
        (1, "head", "tied to the embedding", (L, V), 0, 2 * V * D),
    ]


def test_a_tied_repeat_shows_its_parameters_once_and_its_flops_at_every_repeat() -> None:
    lines = outline(architecture(**MODELS["tied depth"]))
    own, shared = (next(x for x in lines if x.group == g and x.part == "mixer") for g in (0, 1))
    assert (own.repeats, shared.repeats) == (1, 5)
    assert own.parameters > 0 == shared.parameters and own.flops_per_token == shared.flops_per_token > 0
    assert own.text == "attention" and shared.text == "attention, weights of attention_0"
    pairs = [x for x in outline(architecture(**MODELS["tied pairs"])) if x.part == "mixer"]
    assert [(x.repeats, x.text) for x in pairs] == [(3, "attention"), (3, "attention, weights of sublayer 1")]


def test_what_repeats_in_the_middle_of_a_stack_is_drawn_as_one_group() -> None:
    lines = outline(architecture(**MODELS["uneven"]))
    operations = [(x.group, x.repeats, x.part) for x in lines if x.part in ("mixer", "channel")]
    assert operations == [(0, 4, "channel"), (0, 4, "mixer"), (1, 1, "channel"), (1, 1, "channel")]
    assert [x.text for x in lines if x.part == "join" and x.group is not None] == ["add", "add", "add", "none"]


def test_parts_of_parts_and_sublayers_side_by_side_are_written_out() -> None:
    lines = outline(architecture(**MODELS["parts of parts, norms on both sides"]))
    assert next(x.text for x in lines if x.part == "mixer") == "attention {identity: learned {per: head}, score: sigmoid}"
    lines = outline(architecture(**MODELS["side by side"]))
    assert [x.text for x in lines if x.part in ("mixer", "channel")] == ["attention", "mlp, beside the sublayer before", "mlp"]
    lines = outline(architecture(**MODELS["tied where equal"]))
    assert [x.text for x in lines if x.part == "channel"] == [
        "mlp",
        "mlp {expand: 2}",
        "mlp, weights of mlp_0",
        "mlp {expand: 2}, weights of mlp_1",
    ]


def test_an_image_model_is_drawn_with_its_ends() -> None:
    rules = {"model": {"width": 16, "depth": 1, "block": ["mlp"]}}
    a = Space.parse(yamlfile.parse(yamlfile.dump(rules), "f"), {"image": 8, "channels": 1, "classes": 10}).reference
    found = {x.part: x.text for x in outline(a)}
    assert (found["embedding"], found["pooling"], found["head"]) == ("patch, width 16", "mean", "free")
    assert tree(Arm("reference", a, {}), a).isascii()


@pytest.mark.parametrize("name", MODELS)
def test_the_tree_that_show_prints_fits_100_columns_and_ends_in_its_total(name: str) -> None:
    drawn = arm("reference", **MODELS[name])
    text = tree(drawn, drawn.architecture)
    total = cost(drawn.architecture)
    assert amounts(text, "total") == [(total.parameters, total.flops_per_token)]
    assert text.isascii() and max(map(len, text.splitlines())) <= 100 and "against" not in text


@pytest.mark.parametrize("name", MODELS)
def test_the_first_level_of_the_tree_that_show_prints_adds_up_to_its_total(name: str) -> None:
    drawn = arm("reference", **MODELS[name])
    text = tree(drawn, drawn.architecture)
    parts = amounts(text, "|-- ", "`-- ")
    assert len(parts) >= 6
    assert [(sum(p for p, _ in parts), sum(f for _, f in parts))] == amounts(text, "total")


def test_show_diff_marks_the_lines_that_differ_and_counts_the_difference() -> None:
    left = arm("reference", depth=2, block=BLOCK)
    right = arm("other", depth=2, norm="rmsnorm", block=["attention"])
    text = diff(left, right)
    lines = text.splitlines()
    marks = {line[0] + " ".join(line[1:12].split()) for line in lines[1:] if line[:1] in "*<>" and line[1:2] == " "}
    assert marks == {"*group", "*norm", "<norm", "<channel", "<join", "*total"}
    old, new = cost(left.architecture).parameters, cost(right.architecture).parameters
    assert f"{new - old:+,}  {100 * (new - old) / old:+.1f}%" in text
    assert max(map(len, lines)) <= 100 and text.isascii()


def test_show_diff_of_equal_models_marks_nothing() -> None:
    same = arm("reference", depth=2, block=BLOCK)
    text = diff(same, same)
    assert "no decision differs" in text and not any(line[:2] in ("* ", "< ", "> ") for line in text.splitlines())


def test_show_compares_an_arm_with_the_reference_or_with_another(study_file: Path) -> None:
    done = aotsearch("show", str(study_file), "--arm", "channel=none", "--diff")
    assert done.returncode == 0 and "from reference to channel=none" in done.stdout and "mlp -> none" in done.stdout, done.stderr
    done = aotsearch("show", str(study_file), "--arm", "channel=none", "--diff", "identity=-1", "--json")
    found = json.loads(done.stdout)
    assert found["arm"] == "channel=none" and found["diff"]["arms"] == ["channel=none", "identity=-1"]
    assert found["diff"]["decisions"] == {"identity": [0, -1], "channel": ["none", "mlp"]}
    assert found["parameters"] == found["diff"]["costs"]["parameters"][0] == sum(x["repeats"] * x["parameters"] for x in found["lines"])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--diff"], "--diff needs two arms"),
        (["--diff", "chanel=none"], "did you mean 'channel=none'"),
        (["channel=none"], "to compare two arms: --arm reference --diff channel=none"),
    ],
)
def test_show_says_in_one_line_what_a_comparison_lacks(study_file: Path, arguments: list[str], line: str) -> None:
    done = aotsearch("show", str(study_file), *arguments)
    assert done.returncode == 2 and line in done.stderr and len(done.stderr.splitlines()) == 1 and not done.stdout


def test_words_shows_one_word_with_everything_it_declares() -> None:
    shown = glossary.detail("attention")
    laws = ("a whole number that divides width; default 4", "Requires", "heads % kv_heads == 0", "a number or a coefficient (learned, ")
    for text in ("(mixer)", "softmax(", "Number of heads", "arXiv:2506.03790", "eq", *laws):
        assert text in shown
    assert "Differs\n    for `tied` the output W_h is free" in shown
    for word in library.library().values():
        assert max(map(len, glossary.detail(word.name).splitlines())) <= 100
    assert max(map(len, glossary.overview().splitlines())) <= 100


def test_words_as_json_and_an_unknown_word() -> None:
    done = aotsearch("words", "rope", "--json")
    (rope,) = json.loads(done.stdout)["words"]
    assert rope["slot"] == "positions" and rope["differs"].startswith("pairs the two halves")
    (base,) = rope["options"]
    assert base["name"] == "base" and base["default"] == 10000 and base["description"] and base["law"] == "a number above 0"
    assert len(json.loads(aotsearch("words", "--json").stdout)["words"]) == len(library.library())
    done = aotsearch("words", "ropee")
    assert done.returncode == 2 and "did you mean 'rope'" in done.stderr and not done.stdout
