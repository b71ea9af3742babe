"""Every two options of the library stand together in some model, and each model keeps the invariants; the short form of
`benchmarks/combinations.py`, whose array is of all pairs, with every number, and of triples."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import combinations
import invariants

from aotsearch import registry
from aotsearch.errors import InputError


@pytest.fixture(scope="module")
def array() -> combinations.Array:
    return combinations.Array(seed=0, few=True, deep=False).cover()


def test_the_array_has_every_word_and_option_and_every_pair_that_the_laws_admit(array: combinations.Array) -> None:
    met = {(address.rpartition(".")[2], str(value)) for row in array.rows for address, value in row.items()}
    for word in registry.library().values():
        if word.slot != "task":
            assert any(value == word.name for _, value in met), word.name
            assert all(any(name == option for name, _ in met) for option in word.options), word.name
    assert not any(array.left) and not array.single
    assert len(array.rows) < 500, "a few hundred models hold all pairs"


def test_the_same_seed_gives_the_same_array() -> None:
    one, two = (combinations.Array(seed=3, few=True, deep=False).sample(4, strength=3).rows for _ in range(2))
    assert one == two


def test_what_the_laws_refuse_is_refused_in_one_line_when_a_study_is_read_and_what_they_admit_is_built(array: combinations.Array) -> None:
    for row in array.rows:
        assert combinations.space(row).bound() == (1, True)
    refused = [row for items in array.refused if (row := combinations.forced(dict(items))) is not None]
    assert len(refused) > 50
    for row in refused:
        with pytest.raises(InputError) as e:
            combinations.space(row)
        assert len(str(e.value).splitlines()) == 1


@pytest.mark.parametrize("part", range(8))
def test_every_model_keeps_the_invariants(array: combinations.Array, part: int) -> None:
    torch.manual_seed(0)
    for row in array.rows[part::8]:
        wrong = invariants.broken(combinations.architecture(row))
        assert not wrong, (
            f"{wrong} for {combinations.shrunk(row, lambda r, w=wrong: invariants.broken(combinations.architecture(r)).keys() >= w.keys())}"
        )
