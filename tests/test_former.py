"""Names that options had before version 0.3: they are read, told, and keep the digests of models."""

from __future__ import annotations

from pathlib import Path

import pytest

import aotsearch
from aotsearch.grammar import former, library
from aotsearch.grammar.architecture import Architecture, part_from_plain

STUDY = """
name: former
task: {{language: {{data: python-stdlib, context: 16}}}}
grammar:
  model: {{width: 16, depth: 1, block: [mixer]}}
  mixer: {{attention: {{heads: 2, {options}}}}}
"""


def load(folder: Path, options: str) -> aotsearch.Study:
    path = folder / "former.yaml"
    path.write_text(STUDY.format(options=options))
    return aotsearch.load(path)


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ("value_projection: identity", "value_projection: identity"),
        ("values: {any: [both, own]}", "value_source: {any: [both, own]}"),
        ("mask_self: true, persistent_kv: 2", "mask_self: true, persistent_kv: 2"),
        ("diagonal: {any: [false, true]}", "mask_self: {any: [true, false]}"),
        ("second: 0.5", "second_map: 0.5"),
        ("first: 0.4, identity: {follows: {of: first}}", "first_values: 0.4, identity: {follows: {of: first_values}}"),
        (
            "square: {learned: {per: head}}, map: {follows: {of: squared_map}}",
            "squared_map: {learned: {per: head}}, map: {follows: {of: squared_map}}",
        ),
    ],
)
def test_a_study_with_former_names_is_the_same_study_and_is_told_the_new_ones(tmp_path: Path, before: str, now: str) -> None:
    old, new = load(tmp_path, before), load(tmp_path, now)
    assert [a.architecture for a in old.arms()] == [a.architecture for a in new.arms()]
    told = [note for note in old.notes if "until version 0.4" in note]
    names = [part.partition(":")[0].strip() for part in before.split(", ") if part.partition(":")[0].strip() in former.OPTIONS["attention"]]
    assert len(told) == len(names) and all(
        f"{name} of attention is now {former.OPTIONS['attention'][name]}" in " ".join(told) for name in names
    )
    assert all("former.yaml:6:" in note for note in told) and not [n for n in new.notes if "version" in n]
    assert all("with the opposite value" in note for note in told if "diagonal" in note)


def test_a_former_name_beside_the_new_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(aotsearch.InputError, match="memory is the former name of persistent_kv, which stands here too"):
        load(tmp_path, "memory: 2, persistent_kv: 3")


def test_an_architecture_of_an_earlier_ledger_is_read_and_keeps_its_digest() -> None:
    before = {"attention": {"mask_self": True, "heads": 2, "map": {"follows": {"of": "squared_map"}}, "squared_map": 0.5}}
    plain = {
        "width": 16,
        "positions": "learned",
        "final_norm": "layernorm",
        "sublayers": [{"operation": before, "norm": "layernorm"}],
        "sizes": {"vocabulary": 256, "context": 16},
    }
    found = Architecture.from_dict(plain)
    assert found == Architecture.from_dict(found.to_dict()) and found.digest == "3e77dcd8d578"
    assert dict(found.sublayers[0].operation.options)["mask_self"] is True


def test_former_names_lead_to_options_that_exist_and_none_is_taken() -> None:
    for word, names in former.OPTIONS.items():
        options = library.find("sublayer", word).options
        assert set(names.values()) <= options.keys() and not set(names) & options.keys()
    assert str(part_from_plain("mixer", {"attention": {"mask_self": False}})) == "attention"
