from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from aotsearch import yamlfile
from aotsearch.errors import InputError, Mark
from aotsearch.grammar import architecture, constraint, laws, library, signatures
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.laws import PLACED
from aotsearch.grammar.space import Space
from aotsearch.study.loading import load

SIZES = {"vocabulary": 256, "context": 16}


def space(text: str, sizes: dict[str, int] = SIZES) -> Space:
    return Space.parse(yamlfile.parse(text, "f"), sizes)


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
        ("model: {width: 8, depth: 1, block: [tied]}\ntied: {attention: {qkv: tied}}", "f:2:25", "give the rule another name"),
        ("model: {width: 8, depth: 1, block: [attention]}\nb: {mlp: {}}", "f:2:1", "never used"),
        ("model: {width: 8, depth: 1, block: {any: []}}", "f:1:42", "list of alternatives"),
        ("model: {width: {any: [8, 8]}, depth: 1, block: [attention]}", "f:1:26", "stands twice"),
        ("model: {width: {any: [8], x: 1}, depth: 1, block: [attention]}", "f:1:27", "cannot stand beside"),
        ("model: {width: {range: [9, 8]}, depth: 1, block: [attention]}", "f:1:24", "low < high"),
        ("model: {width: {repeat: 2, of: mlp}, depth: 1, block: [attention]}", "f:1:16", "sequence of sublayers"),
        ("model: {width: 6, depth: 1, block: [attention]}", "f:1:37", "4 does not divide 6"),
        ("model: {width: 8, depth: 1, block: [{attention: {score: sofmax}}]}", "f:1:57", "did you mean 'softmax'"),
        ("model: {width: 8, depth: 1, block: [{attention: {score: none}}]}", "f:1:57", "unknown score 'none'"),
        ("model: {width: 8, depth: 1, block: [{attention: {score: 3}}]}", "f:1:57", "unknown score 3"),
        ("model: {width: 8, depth: 1, block: [{attention: {score: {range: [0, 1]}}}]}", "f:1:57", "where a score function stands"),
        ("model: {width: 8, depth: 1, block: [{attention: {identity: lerned}}]}", "f:1:60", "did you mean 'learned'"),
        ("model: {width: 8, depth: 1, block: [{attention: {identity: {lerned: {}}}}]}", "f:1:61", "did you mean 'learned'"),
        ("model: {width: 8, depth: 1, block: [{attention: {identity: {learned: {pre: head}}}}]}", "f:1:71", "did you mean 'per'"),
        ("model: {width: 8, depth: 1, block: [{attention: {identity: {learned: {per: hed}}}}]}", "f:1:76", "did you mean 'head'"),
        ("model: {width: 8, depth: 1, block: [{attention: {identity: [learned]}}]}", "f:1:60", "not a list"),
        (
            "model: {width: 8, depth: 1, block: [{attention: {heads: 4, kv_heads: 3}}]}",
            "f:1:38",
            "attention requires kv_heads == 'all' or heads % kv_heads == 0, which does not hold for heads = 4, kv_heads = 3",
        ),
        ("model: {width: 8, depth: 1, embedding: none, block: []}", "f:1:40", "unknown embedding 'none'"),
        ("model: {width: 8, depth: 1, embedding: patch, block: []}", "f:1:40", "patch requires image, which the task does not give"),
        ("model: {width: 8, depth: 1, block: [{parallel: mlp}]}", "f:1:48", "a list of sublayers"),
        ("model: {width: 8, depth: 1, block: [{parallel: [mlp, [mlp, mlp]]}]}", "f:1:54", "holds single sublayers"),
        ("model: {width: 8, depth: 1, block: [{parallel: [mlp, {repeat: 2, of: mlp}]}]}", "f:1:54", "holds single sublayers"),
        ("model: {width: 8, depth: 1, block: [{parallel: [mlp, a]}]}\na: {any: [mlp, {parallel: [mlp]}]}", "f:1:54", "holds single"),
        ("model: {width: 8, depth: 1, norm: {parallel: [layernorm]}, block: []}", "f:1:35", "norm is one value"),
        ("model: {width: 8, depth: 1, block: [{mlp: {tied: 2}}]}", "f:1:50", "true or false"),
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
        ("['heads < \"a\"']", "cannot be evaluated"),
        ("['width % (heads - 2) == 0']", "cannot be evaluated"),
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


def test_a_list_that_reads_as_another_alternative_is_named_as_a_list(tmp_path: Path) -> None:
    grammar = "model: {width: 8, blocks: {each: 2, of: {any: [mlp, none, [none], {repeat: 1, of: mlp}]}}}"
    values = [d.values for d in space(grammar).decisions().values()]
    assert "[none]" in map(str, values[0]) and "none" in map(str, values[0])
    (tmp_path / "a.yaml").write_text(f"name: a\ntask: language\ngrammar: {{{grammar}}}")
    with pytest.raises(InputError, match="is the same model as"):
        load(tmp_path / "a.yaml")


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


ATTENTION = "model: {width: 8, depth: 1, block: [{attention: %s}]}"


def test_a_part_may_be_an_option_of_another_and_is_decided_like_any_other() -> None:
    s = space(ATTENTION % "{identity: {any: [0, learned, {learned: {per: {any: [head, layer]}, start: {int: [1, 3]}}}]}}")
    path = "model.block.attention.identity"
    assert list(s.decisions()) == [path, f"{path}.3.learned.per", f"{path}.3.learned.start"]
    assert s.count() == 1 + 1 + 2 * 3
    a = s.at({path: "learned(per(any=head+layer)+start(int=1+3))", f"{path}.3.learned.start": 2})
    assert str(a.sublayers[0].operation) == "attention {identity: learned {per: head, start: 2}}"
    assert a.sublayers[0].to_plain()["operation"] == {"attention": {"identity": {"learned": {"per": "head", "start": 2.0}}}}


def test_a_part_of_a_part_at_its_default_is_not_written() -> None:
    plain, bare = space(ATTENTION % "{}").reference, space(ATTENTION % "{identity: learned}").reference
    assert plain == space(ATTENTION % "{score: softmax}").reference == space(ATTENTION % "{score: {softmax: {}}}").reference
    assert bare == space(ATTENTION % "{identity: {learned: {per: layer, start: 0}}}").reference
    assert (plain.digest, bare.digest) == ("2609bdf769b5", "753da53bee52")  # the second as when `learned` was a word of its own
    assert str(bare.sublayers[0].operation) == "attention {identity: learned}"


def test_a_rule_stands_for_a_part_of_a_part_and_its_places_agree() -> None:
    s = space(ATTENTION % "{identity: c, uniform: c}" + "\nc: {any: [0, learned, {split: {heads: {any: [1, 2]}}}]}")
    assert s.count() == 1 + 1 + 2
    for a in s.enumerate():
        options = dict(a.sublayers[0].operation.options)
        assert options.get("identity") == options.get("uniform")


def test_what_a_word_requires_is_filtered_from_the_count() -> None:
    s = space(ATTENTION % "{heads: {any: [4, 2, 1]}, kv_heads: {any: [all, 1, 2, 3, 4]}}")
    assert s.bound() == (4 + 3 + 2, True)  # all, 1, 2, 4 of 4 heads; all, 1, 2 of 2; all, 1 of 1


def test_thirty_thousand_combinations_of_options_are_sifted_at_once() -> None:
    options = {"heads": "{int: [1, 16]}", "kv_heads": "{any: [all, 1, 2, 4]}", "qkv": "{any: [free, tied, shared-kv, shared-qk]}"}
    options |= {"softcap": "{any: [none, 10, 20, 30]}", "gate": "{any: [none, head, element]}"}
    options |= {"score": "{any: [softmax, sigmoid, relu, linear]}", "identity": "{any: [0, learned, {learned: {per: head}}]}"}
    written = ", ".join(f"{name}: {value}" for name, value in options.items())
    s = space(f"model: {{width: 64, depth: 1, block: [{{attention: {{{written}}}}}]}}")
    heads = sum(4 + 2 * kv_heads for kv_heads in (1, 2, 3, 3, 3))  # of 1, 2, 4, 8, 16: all with any qkv; those that divide with two
    assert s.bound() == (heads * (4 * 3 + 1) * 3 * 3, True)  # linear takes no softcap


LAWFUL = '''
@word("channel", "folded")
class Folded:
    """Made up.

    y = x

    Args:
        folds: How many.
        by: A part.

    Requires:
        width % folds == 0
        by != 'split' or folds in [2, 4]
        image >= folds

    Source: none.
    """

    def __init__(self, site, *, folds: Natural = 4, by: Number | Coefficient = "learned"): ...
'''


@pytest.fixture
def folded(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (word,) = signatures.read_words(LAWFUL, "made.up")
    known = library.library() | {("channel", "folded"): word}
    monkeypatch.setattr(library, "library", lambda: known)
    yield
    laws.laws.cache_clear()
    architecture.defaults.cache_clear()


def test_problems_are_told_in_the_order_of_the_file() -> None:
    names = ["mixer", "heads", "norm", "channel", "qkv", "places", "identity"]
    with pytest.raises(InputError) as e:
        space("\n".join(["model: {width: 8, depth: 1, block: [mlp]}", *(f"{name}: {{any: [mlp, none]}}" for name in names)]))
    assert [p.mark.line for p in e.value.problems if p.mark] == list(range(2, 9))
    with pytest.raises(InputError, match="'zero' cannot stand beside 'any'"):
        space("model: {width: {any: [8], zero: 1, one: 1, two: 2, three: 3}, depth: 1, block: [mlp]}")
    with pytest.raises(InputError, match="no decision 'zero'"):
        space("model: {width: 8, depth: 1, block: [mlp]}").at(dict.fromkeys(["zero", "one", "two", "three", "four"], 1))


@pytest.mark.usefixtures("folded")
def test_a_law_of_a_word_may_speak_of_its_options_the_width_and_the_sizes_of_the_task() -> None:
    text = "model: {width: 12, depth: 1, head: free, block: [{folded: {folds: {any: [2, 4, 6, 5]}, by: {any: [1, learned, split]}}}]}"
    assert space(text, {"image": 4, "channels": 1, "classes": 2}).count() == 3 + 3
    with pytest.raises(InputError, match=r"^f:1:51: folded requires image, which the task does not give$"):
        space(text)
    with pytest.raises(InputError, match="folded requires image >= folds, which does not hold for folds = 4, image = 2"):
        space("model: {width: 12, depth: 1, block: [folded]}", {"image": 2, "channels": 1, "classes": 2})
    assert library.find("channel", "folded").requires[0] == "width % folds == 0"


def test_every_law_of_the_library_is_an_expression_over_known_names() -> None:
    sizes = {"vocabulary", "context", "image", "channels", "classes", "inputs", "outputs"}
    words = library.library().values()
    for word in words:
        around = [w for w in words if any(option.slot == word.slot for option in w.options.values())]
        beside = {f"beside.{name}" for w in around for name in w.options}
        placed = set(PLACED) if word.slot in ("mixer", "channel", "score", "coefficient") else set()
        for text in word.requires:
            law = constraint.parse(yamlfile.Node(text, Mark(word.name)))
            assert law.names <= {*word.options, "width", *sizes, *beside, *placed}, f"{word.name}: {text}"


@pytest.mark.parametrize(
    ("sizes", "ends"),
    [
        (SIZES, ("token", "none", "tied")),
        ({"image": 8, "channels": 1, "classes": 10}, ("patch", "mean", "free")),
        ({"inputs": 4, "outputs": 1, "context": 16}, ("vector", "none", "free")),
    ],
)
def test_the_ends_of_a_model_follow_the_task_and_are_not_written_at_their_default(sizes: dict[str, int], ends: tuple[str, ...]) -> None:
    a = space("model: {width: 8, depth: 1, block: [mlp]}", sizes).reference
    assert (a.embedding.word, a.pooling.word, a.head) == ends
    assert not a.to_dict().keys() & {"embedding", "pooling", "head", "initialisation"}
    assert Architecture.from_dict(a.to_dict()) == a
    wrong = "none" if ends[1] == "mean" else "mean"
    with pytest.raises(InputError, match=f"^f:1:38: pooling: {wrong} "):
        space(f"model: {{width: 8, depth: 1, pooling: {wrong}, block: [mlp]}}", sizes)
    if a.head == "free":
        with pytest.raises(InputError, match=rf"^f:1:35: head: tied .* here it is '{a.embedding.word}'; write head: free$"):
            space("model: {width: 8, depth: 1, head: tied, block: [mlp]}", sizes)
        free = space("model: {width: 8, depth: 1, head: {any: [free, tied]}, block: [mlp]}", sizes)
        assert free.bound() == (1, True)


def test_the_start_and_a_sandwich_of_norms_are_options_of_the_model() -> None:
    s = space("model: {width: 8, depth: 1, place: {any: [pre, sandwich, post]}, initialisation: {any: [gpt2, torch]}, block: [mlp]}")
    assert s.count() == 6
    found = [(a.sublayers[0].place, a.final_norm.word, a.initialisation) for a in s.enumerate()]
    assert found[0::2] == [("pre", "layernorm", "gpt2"), ("sandwich", "layernorm", "gpt2"), ("post", "none", "gpt2")]
    assert all(Architecture.from_dict(a.to_dict()) == a for a in s.enumerate())


def test_sublayers_side_by_side_read_what_the_first_of_them_reads() -> None:
    s = space(
        "model: {width: 8, depth: 1, block: [mlp, {parallel: [a, b, c]}]}\na: {any: [attention, none]}\nb: {any: [mlp, none]}\nc: mlp"
    )
    found = {tuple((x.operation.word, x.parallel) for x in a.sublayers[1:]) for a in s.enumerate()}
    one, mlp = ("attention", False), ("mlp", True)
    assert found == {(one, mlp, mlp), (one, mlp), (("mlp", False), mlp), (("mlp", False),)}
    assert s.bound() == (4, True)  # a lone sublayer is just that
    lone = space("model: {width: 8, depth: 1, block: [{parallel: [mlp]}]}").reference
    assert lone == space("model: {width: 8, depth: 1, block: [mlp]}").reference
    assert space("model: {width: 8, blocks: {each: 2, of: {parallel: [x, x]}}}\nx: {any: [mlp, none]}").count() == 3


def test_tied_sublayers_share_the_weights_of_the_first_equal_one() -> None:
    a = space(
        "model: {width: 8, depth: 2, block: [attention, t, {mlp: {expand: 2, tied: true}}, t, mlp]}\nt: {mlp: {tied: true}}"
    ).reference
    assert [x.same_as for x in a.sublayers] == [None, None, None, 1, None, None, 1, 2, 1, None]
    assert Architecture.from_dict(a.to_dict()) == a and "tied" not in str(a.to_dict()["sublayers"])
    alone = space("model: {width: 8, depth: 1, block: [mlp, {mlp: {expand: 2, tied: true}}]}").reference
    assert alone == space("model: {width: 8, depth: 1, block: [mlp, {mlp: {expand: 2}}]}").reference


def test_tied_sublayers_within_tied_repeats_have_one_set_of_weights() -> None:
    a = space("model: {width: 8, blocks: [t, {repeat: 2, of: [attention, t], tied: true}]}\nt: {mlp: {tied: true}}").reference
    assert [x.same_as for x in a.sublayers] == [None, None, 0, 1, 0]


def test_models_that_differ_in_what_is_tied_are_counted_once_each() -> None:
    s = space("model: {width: 8, blocks: {each: 3, of: {mlp: {tied: {any: [false, true]}}}}}")
    # which of three share: none, one of three pairs, all; whoever says so alone shares with none
    assert s.bound() == (5, True)
