from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotsearch import yamlfile
from aotsearch.errors import InputError, Mark

SCALARS = st.none() | st.booleans() | st.integers(-(10**12), 10**12) | st.floats(allow_nan=False) | st.text()
DATA = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(min_size=1), inner), max_leaves=12)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("6E3", 6000.0),
        ("no", "no"),
        ("on", "on"),
        ("1:20", "1:20"),
        ("010", 10),
        ("0x1F", 31),
        ("~", None),
        ("'1'", "1"),
        ("true", True),
        ("yes", "yes"),
        ("1_000", "1_000"),
        (".5", 0.5),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = yamlfile.parse(f"a: {text}", "f").plain()["a"]
    assert found == value and type(found) is type(value)


def test_every_value_knows_its_line_and_column() -> None:
    node = yamlfile.parse("a:\n  - b: 1\n    c: [x, yy]\n", "f.yaml")
    inner = node.value["a"].value[0]
    assert str(inner.keys["c"]) == "f.yaml:3:5"
    assert str(inner.value["c"].value[1].mark) == "f.yaml:3:12"
    assert inner.value["c"].value[1].mark.underline().splitlines()[1].strip() == "^^"


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: 1\na: 2\n", "f:2:1", "stands twice"),
        ("a: [1, 2\n", "f:2:1", "not valid YAML"),
        ("a: &x 1\nb: *x\n", "f:1:4", "anchors"),
        ("a: !!python/object:os.system 1\n", "f:1:4", "tags"),
        ("", "f:1:1", "empty"),
        ("# only a comment\n", "f:1:1", "empty"),
        ("a: 1\n---\nb: 2\n", "f:2:1", "one YAML document"),
        ("[" * 100 + "]" * 100, "f:1:61", "nested"),
        ("? [a]\n: 1\n", "f:1:3", "a key is a word"),
        ("a:\n\tb: 1\n", "f:2:1", "a tab (U+0009) stands where YAML takes spaces alone; replace it with a space"),
        ("a: {b: 1,\u00a0c: 2}\n", "f:1:10", "a no-break space (U+00A0) stands where"),
        ("a:\n\u00a0 b: 1\n", "f:2:1", "a no-break space (U+00A0) stands where"),
        ("a:\u00a0{b: 1}\n", "f:1:3", "a no-break space (U+00A0) stands where"),
        ("a: {b:\u00a02}\n", "f:1:7", "quote what it belongs to: 'b:\\xa02'"),
        ("a: \u20092\n", "f:1:4", "a thin space (U+2009) stands where"),
        ("a: 2\u3000\n", "f:1:5", "an ideographic space (U+3000) stands where"),
        ("a: 1\nb: x\x07y\n", "f:2:5", "the character U+0007 cannot stand in YAML; remove it"),
    ],
)
def test_what_strict_yaml_refuses_is_named_with_its_place(text: str, place: str, words: str) -> None:
    with pytest.raises(InputError) as e:
        yamlfile.parse(text, "f")
    assert str(e.value).startswith(place + ": ") and words in str(e.value)


def test_json_with_tabs_is_read_and_tabs_may_separate_values_but_not_indent_them() -> None:
    data = {"name": "a\tb", "list": [1, {"x": []}, "#"], "none": None}
    node = yamlfile.parse(json.dumps(data, indent="\t"), "f")
    assert node.plain() == data and str(node.value["list"].value[1].keys["x"]) == "f:6:4"
    assert yamlfile.parse("a:\t1\t# one\nb:\t[2,\t3]\t\nc: x\ty\n", "f").plain() == {"a": 1, "b": [2, 3], "c": "x\ty"}
    with pytest.raises(InputError, match="not valid YAML"):
        yamlfile.parse("-\ta: 1\n-\tb: 1\n", "f")


def test_a_no_break_space_within_text_is_text() -> None:
    data = {"a": "Needed\u00a0?", "b": "\u00a0", "c": {"x\u00a0y": 1}}
    assert yamlfile.parse("a: Needed\u00a0?\nb: '\u00a0'\nc: {'x\u00a0y': 1}\n", "f").plain() == data
    assert yamlfile.parse(yamlfile.dump(data), "f").plain() == data


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("Is it? #2", "Is it? #2"),
        ("#2", "#2"),
        ("a#b", "a#b"),
        ("[1, 2] # two", [1, 2]),
        ("'x' # y", "x"),
        ("{a: '#'}", {"a": "#"}),
        ("3", 3),
    ],
)
def test_a_value_of_the_command_line_has_no_comments(text: str, value: object) -> None:
    assert yamlfile.parse_value(text, "--set").plain() == value


def test_a_comment_that_cuts_a_value_of_the_command_line_is_named() -> None:
    with pytest.raises(InputError, match="quote text that has ' #', which begins a comment"):
        yamlfile.parse_value("{text: a #2.txt}", "--set")


def test_a_bomb_and_a_large_file_are_refused_quickly(tmp_path: Path) -> None:
    started = time.monotonic()
    bomb = "a0: &a0 [x]\n" + "".join(f"a{i + 1}: &a{i + 1} [*a{i}, *a{i}, *a{i}]\n" for i in range(40))
    with pytest.raises(InputError):
        yamlfile.parse(bomb, "f")
    with pytest.raises(InputError, match="nested"):
        yamlfile.parse("[" * 200_000, "f")
    large = tmp_path / "large.yaml"
    large.write_text("x: " + "y" * yamlfile.MAX_BYTES)
    with pytest.raises(InputError, match="at most"):
        yamlfile.read(large)
    assert time.monotonic() - started < 5


def test_a_missing_file_a_folder_and_bytes_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"a: \xff\xfe")
    for path, words in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "folder"), (tmp_path / "b.yaml", "UTF-8")):
        with pytest.raises(InputError, match=words) as e:
            yamlfile.read(path)
        assert "\n" not in str(e.value)


@given(DATA.filter(lambda d: d is not None))
def test_what_is_dumped_reads_back_as_the_same_data(data: object) -> None:
    text = yamlfile.dump(data)
    try:
        assert yamlfile.parse(text, "f").plain() == data
    except InputError as e:
        # control characters cannot stand in YAML; a key must be text; numbers over 40 digits are refused
        assert "not valid YAML" in str(e) or "40 digits" in str(e) or "key" in str(e), (text, e)


def test_replace_sets_a_value_deep_inside_and_leaves_the_rest() -> None:
    node = yamlfile.parse("a: {b: [1, 2], c: 3}\n", "f")
    origin = Mark("--set")
    changed = yamlfile.replace(node, ["a", "b", "1"], yamlfile.parse_value("7", "--set"), origin)
    changed = yamlfile.replace(changed, ["a", "d", "e"], yamlfile.parse_value("[x]", "--set"), origin)
    assert changed.plain() == {"a": {"b": [1, 7], "c": 3, "d": {"e": ["x"]}}}
    assert node.plain() == {"a": {"b": [1, 2], "c": 3}}
    with pytest.raises(InputError, match="not an index"):
        yamlfile.replace(node, ["a", "b", "5"], yamlfile.parse_value("7", "--set"), origin)
