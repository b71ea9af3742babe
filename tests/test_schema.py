"""The JSON Schema for editors: it knows every word, accepts what the grammar accepts, and refuses what can be seen to be misspelt."""

from __future__ import annotations

import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.grammar import forms as grammar
from aotsearch.grammar import library, parser
from aotsearch.grammar.words import NEEDED, NONE, SUBLAYERS, Option
from aotsearch.study import loading, schema
from aotsearch.study.settings import Budget, Search, StudySettings

ROOT = Path(__file__).parent.parent
COMMITTED = ROOT / "spaces" / "aotsearch.schema.json"
FILES = sorted(itertools.chain((ROOT / "spaces").rglob("*.yaml"), (ROOT / "studies").glob("*/*.yaml")))
SHIPPED = (ROOT / "spaces" / "redundancy.yaml").read_text()
HEAD = "name: a\ntask: language\ngrammar:\n"
MODEL = HEAD + "  model: {width: 8, depth: 1, block: [x]}\n"
DRAFTS = (Draft7Validator, Draft202012Validator)  # the schema reads the same under both


@functools.cache
def document() -> Any:
    return json.loads(schema.text())


def valid(plain: Any) -> bool:
    verdicts = {draft(document()).is_valid(plain) for draft in DRAFTS}
    assert len(verdicts) == 1, "the two drafts disagree"
    return verdicts.pop()


def plain(text: str) -> Any:
    return yamlfile.parse(text, "f").plain()


def resolved(part: Any) -> Any:
    return document()["definitions"][part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def mappings(part: Any) -> Iterator[dict[str, Any]]:
    """Every set of keys that a person may write, in a part of the schema."""
    if isinstance(part, dict):
        if part.get("type") in ("object", ["object", "null"]) and "properties" in part:
            yield part["properties"]
        part = list(part.values())
    if isinstance(part, list):
        for inner in part:
            yield from mappings(inner)


def test_the_command_prints_a_valid_schema_without_loading_a_giant_and_the_committed_file_is_it() -> None:
    code = (
        "import sys; from aotsearch.__main__ import main; sys.argv = ['aotsearch', 'schema']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "giants = {'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(giants) if giants else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    for draft in DRAFTS:
        draft.check_schema(json.loads(done.stdout))
    remedy = f"{COMMITTED.relative_to(ROOT)} is out of date; run: aotsearch schema > {COMMITTED.relative_to(ROOT)}"
    assert COMMITTED.read_text() == done.stdout, remedy


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_shipped_file_names_the_schema_and_is_valid(path: Path) -> None:
    start, sign, target = path.read_text().split("\n", 1)[0].partition("$schema=")
    assert start == "# yaml-language-server: " and sign, f"{path}: the first line names {COMMITTED.name}, as in {SHIPPED.splitlines()[0]!r}"
    assert (path.parent / target).resolve() == COMMITTED.resolve()
    errors = [e.message for e in Draft7Validator(document()).iter_errors(yamlfile.read(path).plain())]
    assert not errors


def test_every_word_and_option_is_there_with_what_it_means() -> None:
    for (slot, name), word in library.library().items():
        found = document()["definitions"][f"{slot}.{name}"]
        assert word.summary and word.summary in found["description"] and word.source in found["description"]
        for option in word.options.values():
            described = resolved(found["properties"][option.name])
            assert option.description and option.description in described["description"] and option.law in described["description"]
            assert option.required or described["default"] == option.default
            assert set(option.literals) <= {branch.get("const") for branch in described["anyOf"]}
        place = "block" if slot in SUBLAYERS else slot
        offered = {b["const"]: b["description"] for b in document()["definitions"][place]["anyOf"] if "const" in b}
        assert word.summary in offered[name]


def test_every_key_that_may_be_written_has_hover_text() -> None:
    keys: set[str] = set()
    for properties in mappings(document()):
        for key, part in properties.items():
            assert part.get("description") or resolved(part).get("description"), key
        keys |= properties.keys()
    assert keys >= {*loading.SECTIONS, *parser.FORMS, *parser.RESERVED, *grammar.MODEL, *StudySettings.model_fields}
    assert keys >= {"log", "of", "tied", "share", "limit", *Budget.model_fields, *Search.model_fields}


@pytest.mark.parametrize(
    "text",
    [
        MODEL + "  x: {any: [attention, {mlp: {expand: {range: [1, 8], log: true}}}, none]}",
        MODEL
        + "  x: {attention: {heads: h, identity: {any: [0, -1, learned, a]}, norm: rmsnorm, place: post, join: none}}\n  h: 2\n  a: 0.5",
        MODEL + "  x: {attention: }",
        MODEL + "  x: {attention: {identity: {learned: {per: {any: [head, layer]}, start: {range: [0, 1]}}}}}",
        MODEL + "  x: {attention: {score: {any: [sigmoid, s, {sink: {learned: false}}]}}}\n  s: relu",
        MODEL + "  x: {parallel: [attention, {any: [mlp, none]}, {mlp: {tied: true}}]}",
        HEAD
        + "  model: {width: 8, depth: 1, embedding: {patch: {size: 4}}, pooling: none, place: sandwich, initialisation: torch, block: []}",
        MODEL + "  x: {attention: {norm: {any: [{layernorm: {eps: 1e-6}}, n]}, join: {any: [add, none]}}}\n  n: {rmsnorm: {}}",
        MODEL + "  x: [mlp, {repeat: {int: [1, 4]}, of: [attention, mlp], tied: true}]",
        MODEL + "  x: {any: [mlp, [x, x]], limit: 3}",
        MODEL + "  x: {mlp: {bias: {any: [true, b]}}}\n  b: false",
        HEAD + "  model: {width: w, blocks: {each: 3, of: {any: [[attention, mlp], none]}, share: [w]}}\n  w: {any: [8, 16]}",
        HEAD + "  include: parts/blocks.yaml",
        HEAD + "  include: [parts/a.yaml, parts/b.yml]\n  constraints: ['width % heads == 0', parameters <= 2_000_000]",
        "space: ./redundancy.yaml",
        "space: ./redundancy.yaml\nname: b\ngrammar: {model: {depth: 3}, heads: 2}\nstudy: {seeds: [3, 4]}",
        MODEL + "  x: mlp\nstudy: {arms: {other: {x: none}}, resources: {gpus: 0.5}, search: {trials: 3}, optimiser: {clip: 2}}",
    ],
)
def test_the_forms_of_the_language_are_valid(text: str) -> None:
    assert valid(plain(text))


@pytest.mark.parametrize(
    "change",
    [
        ("heads: heads", "haeds: heads"),
        ("{mlp: {expand: 4}}", "{mpl: {expand: 4}}"),
        ("expand: 4", "expnd: 4"),
        ("expand: 4", "expand: [4]"),
        ("expand: 4", "expand: -4"),
        ("{language:", "{langage:"),
        ("{language: {data: python-stdlib, context: 32}}", "langage"),
        ("context: 32", "contxt: 32"),
        ("context: 32", "context: 0"),
        ("width: 32", "wdth: 32"),
        ("depth: 2", "depth: 0"),
        ("depth: 2", "depth: true"),
        ("identity: identity", "identity: {lerned: {}}"),
        ("identity: identity", "identity: {learned: {pre: head}}"),
        ("identity: identity", "identity: {learned: {per: 3}}"),
        ("identity: identity", "identity: [learned]"),
        ("identity: identity", "score: {none: {}}"),
        ("identity: identity", "score: 3"),
        ("[mixer, channel]", "{parallel: mixer}"),
        ("[mixer, channel]", "{parallel: []}"),
        ("norm: norm", "norm: {layernorn: {}}"),
        ("norm: norm", "norm: {mlp: {}}"),
        ("norm: norm", "norm: {repeat: 2, of: layernorm}"),
        ("positions: positions", "positions: [rope]"),
        ("any: [free, tied]", "any: []"),
        ("any: [free, tied]", "anny: [free, tied]"),
        ("any: [free, tied]", "any: [free, tied], log: true"),
        ("any: [4, 1, 8]", "int: [1, 8, 4]"),
        ("[mixer, channel]", "{repeat: 2, off: mixer}"),
        ("qkv: {any", "q k v: {any"),
        ("design: one-at-a-time", "design: one-at-time"),
        ("steps: 600", "step: 600"),
        ("seeds: 5", "seeds: many"),
        ("learning_rate: ", "learning_rat: "),
        ("study:\n", "studdy:\n"),
        ("task: ", "# task: "),
    ],
    ids=lambda change: change[1],
)
def test_what_can_be_seen_to_be_wrong_is_refused_as_the_program_refuses_it(change: tuple[str, str], tmp_path: Path) -> None:
    assert change[0] in SHIPPED
    wrong = SHIPPED.replace(*change, 1)
    assert valid(plain(SHIPPED)) and not valid(plain(wrong))
    (tmp_path / "wrong.yaml").write_text(wrong)
    with pytest.raises(InputError):
        loading.load(tmp_path / "wrong.yaml")


SCALARS = (*(word for option in schema._options().values() for word in option.literals), 1, 2, 8, 0, -1, 0.5, True, False)


@st.composite
def forms(draw: st.DrawFn, place: grammar.Place, rules: dict[str, Any], depth: int = 3) -> Any:
    """Something that may stand at a place: plain, decided, or as a rule of its own."""
    if depth and draw(st.integers(0, 3)) == 0:
        found = {"any": draw(st.lists(forms(place, rules, depth - 1), min_size=1, max_size=3))}
    elif isinstance(place, Option):
        scalars = [s for s in SCALARS if place.takes(s)]
        nested = place.slot and (not scalars or draw(st.booleans()))
        found = draw(components(place.slot, rules, depth) if nested else st.sampled_from(scalars))
    elif place == "block" and depth and draw(st.booleans()):
        of = forms(place, rules, depth - 1)
        times = forms(grammar.TIMES, rules, 1)
        beside = st.lists(components(place, rules, 1), min_size=1, max_size=3).map(lambda items: {"parallel": items})
        found = draw(st.lists(of, max_size=3) | st.fixed_dictionaries({"each": times, "of": of}) | beside)
    else:
        found = draw(components(place, rules, depth))
    if draw(st.integers(0, 4)) == 0:
        rules[f"r{len(rules)}"] = found
        return list(rules)[-1]
    return found


@st.composite
def components(draw: st.DrawFn, place: str, rules: dict[str, Any], depth: int) -> Any:
    needed = place in NEEDED
    word = draw(st.sampled_from([*schema._words(place), *(() if needed else (None,))]))
    if word is None or not depth:
        return word.name if needed and word is not None else NONE
    declared = {**word.options, **(grammar.SUBLAYER if place == "block" else {})}
    chosen = draw(st.lists(st.sampled_from(sorted(declared)), unique=True, max_size=3)) if declared else []
    return {word.name: {key: draw(forms(declared[key], rules, depth - 1)) for key in chosen}}


@st.composite
def grammars(draw: st.DrawFn) -> Any:
    rules: dict[str, Any] = {}
    keys = sorted({"width", draw(st.sampled_from(sorted(grammar.MODEL.keys() - {"depth", "block"}))), "blocks"})
    model = {key: draw(forms(grammar.MODEL[key], rules)) for key in keys}
    return {"model": model, **rules}


@settings(max_examples=60, deadline=None)
@given(grammars())
def test_whatever_the_grammar_accepts_the_schema_accepts(rules: Any) -> None:
    try:
        parser.parse(yamlfile.parse(yamlfile.dump(rules), "f"))
    except InputError:
        assume(False)  # such as an alternative that stands twice
    assert valid({"name": "a", "task": "language", "grammar": rules})
