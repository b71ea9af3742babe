"""Every two options of the library stand together in some model, and each model keeps the invariants; the short form of
`benchmarks/combinations.py`, whose array is of all pairs, with every number, and of triples."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import covering
import invariants
from covering import Word

import aotsearch.models.model
from aotsearch.errors import InputError
from aotsearch.grammar import library


@pytest.fixture(scope="module")
def array() -> covering.Array:
    return covering.Array(seed=0, few=True, deep=False).cover()


def test_the_array_has_every_word_and_option_and_every_pair_that_the_laws_admit(array: covering.Array) -> None:
    met = {(address.rpartition(".")[2], str(value)) for row in array.rows for address, value in row.items()}
    for word in library.library().values():
        if word.slot != "task":
            assert any(value == word.name for _, value in met), word.name
            assert all(any(name == option for name, _ in met) for option in word.options), word.name
    assert not any(array.left) and not array.single
    assert len(array.rows) < 500, "a few hundred models hold all pairs"


def test_the_same_seed_gives_the_same_array(array: covering.Array) -> None:
    assert covering.Array(seed=0, few=True, deep=False).cover(most=3).rows == array.rows[:3]


def test_what_the_laws_refuse_is_refused_in_one_line_when_a_study_is_read_and_what_they_admit_is_built(array: covering.Array) -> None:
    for row in array.rows:
        assert covering.space(row).bound() == (1, True)
    refused = [row for items in array.refused if (row := covering.forced(dict(items))) is not None]
    assert len(refused) > 50
    for row in refused:
        with pytest.raises(InputError) as e:
            covering.space(row)
        assert len(str(e.value).splitlines()) == 1


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of norms under autocast, which is slow on a GPU alone
@pytest.mark.parametrize("part", range(8))
def test_every_model_keeps_the_invariants(array: covering.Array, part: int) -> None:
    skipped = () if part == 0 else ("learns",)  # training takes longer than all else together
    for row in array.rows[part::8]:
        wrong = invariants.broken(covering.architecture(row), skipped).keys()
        if wrong:
            row = covering.shrunk(row, lambda r, wrong=wrong: invariants.broken(covering.architecture(r)).keys() >= wrong)  # type: ignore[misc]
            raise AssertionError(f"{row}: {invariants.broken(covering.architecture(covering.assemble(row).row))}")


def test_an_invariant_fails_where_it_is_not_kept() -> None:
    """Each of these was once a fault of the library; the laws that now refuse it, or the code that mended it, are set aside."""
    subject = invariants.Subject(covering.architecture(_row(positions="rope")))
    turn = subject.exact.positions.rotate
    subject.exact.positions.rotate = lambda x: turn(x) + 0.1 * torch.arange(x.shape[-2]).view(-1, 1)  # type: ignore[method-assign]
    assert "where all places grow" in str(invariants.shifted(subject))
    even = invariants.Subject(
        covering.architecture(_row(**{"mixer.attention.qk_norm": "l2", "mixer.attention.scale": 0.35, "mixer.attention.heads": 1}))
    )
    assert invariants.entropic(even) is None, "a number in the study bounds its scores"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(invariants, "bounded", lambda module: False)
        assert "log n" in str(invariants.entropic(even)), "cosines over sqrt(P) say almost nothing"
    rezero = {"mixer.join": Word("step"), "mixer.join.step.size": 0.0, "mixer.join.step.learned": True, "initialisation": "zero-output"}
    assert invariants.heard(invariants.Subject(covering.architecture(_row(**rezero)))) is None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(aotsearch.models.model, "may_rest", lambda join, width: True)
        assert "is a saddle" in str(invariants.heard(invariants.Subject(covering.architecture(_row(**rezero)))))
    leaky = invariants.Subject(covering.architecture(_row()))
    leaky.exact.steps["attention_0"].operation.causal = False  # type: ignore[union-attr]
    assert "a later token changes" in str(invariants.causal(leaky))


def _row(**given: Any) -> covering.Row:
    """A lawful row of a language model with what is given."""
    return covering.assemble({"pooling": Word("none"), **{a: Word(v) if a == "positions" else v for a, v in given.items()}}).row
