from __future__ import annotations

import re
from pathlib import Path

import pytest

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.space import Space
from aotsearch.study import load

SIZES = {"vocabulary": 256, "context": 16}


def space(text: str) -> Space:
    return Space.parse(yamlfile.parse(text, "f"), SIZES)


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("model: {width: 8, depth: 1, block: [atention]}", "f:1:37", "did you mean 'attention'"),
        ("model: {width: 8, depth: 1, blok: [attention]}", "f:1:29", "did you mean 'block'"),
        ("model: {width: eight, depth: 1, block: [attention]}", "f:1:16", "a whole number of at least 1"),
        ("model: {width: 8, depth: 0, block: [attention]}", "f:1:26", "a whole number of at least 1"),
        ("model: {width: 8, depth: true, block: [attention]}", "f:1:26", "a whole number"),
        ("model: {width: 8, depth: 1, block: [{attention: {heads: 3}}]}", "f:1:57", "3 does not divide 8"),
        ("model: {width: 8, depth: 1, block: [{attention: {haeds: 2}}]}", "f:1:50", "did you mean 'heads'"),
        ("model: {width: 8, depth: 1, block: [{attention: {qkv: tide}}]}", "f:1:55", "did you mean 'tied'"),
        ("model: {width: 8, depth: 1, block: [{attention: 3}]}", "f:1:49", "mapping"),
        ("model: {width: 8, depth: 1, norm: layer, block: [attention]}", "f:1:35", "layernorm"),
        ("model: {width: 8, depth: 1, norm: [layernorm], block: [attention]}", "f:1:35", "not a list"),
        ("model: {width: 8, block: [attention]}", "f:1:8", "depth with block, or blocks"),
        ("model: {depth: 1, block: [attention]}", "f:1:8", "width"),
        ("model: {width: 8, depth: 1, block: [attention], blocks: []}", "f:1:49", "either"),
        ("modle: {width: 8}", "f:1:1", "starts at a rule named 'model'"),
        ("model: {width: 8, depth: 1, block: [a]}\na: {any: [b, none]}\nb: {any: [a, none]}", "f:3:11", "leads back to itself"),
        ("model: {width: 8, depth: 1, block: [attention]}\nb: {mlp: {}}", "f:2:1", "never used"),
        ("model: {width: 8, depth: 1, block: {any: []}}", "f:1:42", "list of alternatives"),
        ("model: {width: {any: [8, 8]}, depth: 1, block: [attention]}", "f:1:26", "stands twice"),
        ("model: {width: {any: [8], x: 1}, depth: 1, block: [attention]}", "f:1:27", "can not stand beside"),
        ("model: {width: {range: [9, 8]}, depth: 1, block: [attention]}", "f:1:24", "low < high"),
        ("model: {width: {repeat: 2, of: mlp}, depth: 1, block: [attention]}", "f:1:16", "sequence of sublayers"),
        ("model: {width: 8, depth: 1000000000, block: [attention]}", "f:1:26", "at most"),
        ("[]", "f:1:1", "mapping of rules"),
    ],
)
def test_a_wrong_grammar_is_refused_at_its_place_with_the_remedy(text: str, place: str, words: str) -> None:
    with pytest.raises(InputError) as e:
        space(text)
    assert str(e.value).startswith(place + ": "), str(e.value)
    assert words in str(e.value)


def test_all_problems_of_a_grammar_are_reported_at_once() -> None:
    with pytest.raises(InputError) as e:
        space("model: {width: -1, depth: x, block: [mpl, {attention: {qkv: 1}}]}")
    assert len(e.value.problems) == 4


def test_a_rule_is_decided_once_so_all_places_agree() -> None:
    s = space("model: {width: 8, depth: 1, norm: n, final_norm: n, block: [mlp]}\nn: {any: [layernorm, rmsnorm]}")
    assert s.count() == 2
    for a in s.enumerate():
        assert a.final_norm == a.sublayers[0].norm


def test_each_decides_anew_and_repeat_decides_once() -> None:
    rules = "\nx: {any: [attention, mlp, none]}"
    assert space("model: {width: 8, blocks: {repeat: 3, of: x}}" + rules).count() == 3
    # sequences of two kinds of sublayer, of length 0 to 3: an absent sublayer leaves no trace
    assert space("model: {width: 8, blocks: {each: 3, of: x}}" + rules).count() == 1 + 2 + 4 + 8
    addresses = set(space("model: {width: 8, blocks: {each: 2, of: x}}" + rules).reference.decisions)
    assert addresses == {"model.blocks.0.x", "model.blocks.1.x"}


def test_tied_repeats_share_one_set_of_weights() -> None:
    a = space("model: {width: 8, blocks: [mlp, {repeat: 2, of: [attention, {repeat: 2, of: mlp, tied: true}], tied: true}]}").reference
    assert [s.same_as for s in a.sublayers] == [None, None, None, 2, 1, 2, 2]


def test_inline_decisions_are_named_by_their_path_and_never_share_one() -> None:
    s = space(
        "model: {width: 8, depth: 1, block: [b]}\nb: {any: [{mlp: {expand: {any: [4, 2]}}}, {mlp: {expand: {any: [1, 3]}, bias: true}}]}"
    )
    assert list(s.decisions()) == ["b", "b.1.mlp.expand", "b.2.mlp.expand"]
    assert s.count() == 4


def test_a_sublayer_overrides_the_norm_place_and_join_of_the_model() -> None:
    a = space("model: {width: 8, depth: 1, norm: layernorm, block: [attention, {mlp: {norm: rmsnorm, place: post, join: none}}]}").reference
    assert [str(s.norm) for s in a.sublayers] == ["layernorm", "rmsnorm"]
    assert [s.place for s in a.sublayers] == ["pre", "post"]
    assert a.sublayers[1].join.absent


def test_a_rule_may_have_the_name_of_a_component() -> None:
    s = space("model: {width: 8, depth: 1, block: [attention]}\nattention: {any: [{attention: {heads: 2}}, none]}")
    assert s.count() == 2
    with pytest.raises(InputError, match=r"write \{attention: \{\}\}"):
        space("model: {width: 8, depth: 1, block: [attention]}\nattention: {any: [attention, none]}")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("['width %']", "is not an expression"),
        ("[\"__import__('os').system('x')\"]", "is not allowed"),
        ("['heads.bit_length() > 1']", "is not allowed"),
        ("['(lambda: 1)() == 1']", "is not allowed"),
        ("['9 ** 9 ** 9 > 1']", "is not allowed"),
        ("['haeds == 1']", "did you mean 'heads'"),
        ("['heads == 8']", "does not hold for heads = 2"),
        ("['heads < \"a\"']", "can not be evaluated"),
        ("['width % (heads - 2) == 0']", "can not be evaluated"),
        ("'heads == 2'", "a list of expressions"),
        ("[3]", "a constraint is an expression"),
    ],
)
def test_a_constraint_is_a_safe_expression_that_the_reference_satisfies(text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        space(f"model: {{width: 8, depth: 1, block: [{{attention: {{heads: heads}}}}]}}\nheads: {{any: [2, 4]}}\nconstraints: {text}")


def test_a_rule_with_a_limit_may_lead_back_to_itself() -> None:
    s = space("model: {width: 8, blocks: s}\ns: {any: [mlp, [s, attention]], limit: 2}")
    assert [len(a.sublayers) for a in s.enumerate()] == [1, 2, 3]
    deepest = s.at({"s": "s+attention", "model.blocks": 1} if "model.blocks" in s.decisions() else {"s": "s+attention"})
    assert list(deepest.decisions) == ["s", "s.2.0.s"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("s: {any: [mlp, [s, mlp]], limit: 0}", "limit is a whole number from 1"),
        ("s: {any: [[s, mlp], [mlp, s]], limit: 2}", "one must end"),
        ("s: {any: [mlp, attention], limit: 2}", "never leads back"),
        ("s: {any: [mlp, [s, mlp]]}", "give it a limit"),
    ],
)
def test_a_recursion_must_end(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        space("model: {width: 8, blocks: s}\n" + text)


def test_each_may_share_a_rule_with_the_rest_of_the_model() -> None:
    rules = "\nx: {any: [mlp, {attention: {heads: h}}]}\nh: {any: [1, 2]}"
    assert space("model: {width: 8, blocks: {each: 2, of: x}}" + rules).count() == 9
    assert space("model: {width: 8, blocks: {each: 2, of: x, share: [h]}}" + rules).count() == 1 + 2 * 2 + 2


def test_included_rules_come_from_files_of_the_same_folder_only(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "rules.yaml").write_text("channel: {any: [mlp, none]}\nunused: {mlp: {}}\n")
    task = "name: a\ntask: language\n"
    (tmp_path / "a.yaml").write_text(
        task + "grammar: {include: parts/rules.yaml, model: {width: 8, depth: 1, block: [attention, channel]}}"
    )
    study = load(tmp_path / "a.yaml")
    assert study.space.count() == 2 and "include" not in study.plain["grammar"]
    (tmp_path / "outside.yaml").write_text("x: mlp")
    for path in ("../outside.yaml", "/etc/passwd", str(tmp_path / "outside.yaml")):
        (tmp_path / "parts" / "b.yaml").write_text(task + f"grammar: {{include: {path}, model: {{width: 8, depth: 1, block: mlp}}}}")
        with pytest.raises(InputError, match="in the folder of the study"):
            load(tmp_path / "parts" / "b.yaml")
    (tmp_path / "c.yaml").write_text("include: c.yaml")
    (tmp_path / "d.yaml").write_text(task + "grammar: {include: c.yaml, model: {width: 8, depth: 1, block: mlp}}")
    with pytest.raises(InputError, match="seems to include itself"):
        load(tmp_path / "d.yaml")


def test_a_study_may_build_on_a_space_and_override_parts_of_it(study_file: Path) -> None:
    path = study_file.parent / "wide.yaml"
    path.write_text("name: wide\nspace: small.yaml\ngrammar: {model: {width: 32}, channel: none}\nstudy: {seeds: 3, budget: {steps: 9}}\n")
    base, study = load(study_file), load(path)
    assert (study.name, study.reference.width, len(study.reference.sublayers)) == ("wide", 32, 1)
    assert (study.settings.seeds, study.settings.budget.steps, study.settings.budget.batch) == (3, 9, base.settings.budget.batch)
    assert study.settings.margin == base.settings.margin and "space" not in study.plain


def test_two_decisions_never_have_one_address() -> None:
    s = space("model: {width: 8, blocks: {repeat: {int: [1, 3]}, of: {repeat: {any: [2, 1]}, of: [mlp]}}}")
    assert list(s.decisions()) == ["model.blocks.repeat", "model.blocks.repeat.2"]
    assert s.count() == 5  # 1, 2, 3, 4 or 6 sublayers
