from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotsearch.errors import InputError
from aotsearch.tasks import corpus
from aotsearch.tasks.language import Language


def test_the_standard_library_is_read_split_by_file_and_found_again() -> None:
    task = Language(Path(), data="python-stdlib", context=64)
    facts = task.prepare()
    total = sum(facts["bytes"].values())
    assert facts["documents"] > 300 and total > 5_000_000
    assert 0.005 < facts["bytes"]["validation"] / total < 0.015 and 0.015 < facts["bytes"]["test"] / total < 0.025
    assert 8 > facts["baselines"]["unigram"] > facts["baselines"]["bigram"] > 2
    assert Language(Path(), data="python-stdlib", context=32).prepare()["manifest"] == facts["manifest"]


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=20, max_size=60))
def test_a_split_by_document_keeps_documents_whole_and_loses_none(texts: list[bytes]) -> None:
    documents = [(f"{i}.txt", bytes(t)) for i, t in enumerate(texts)]
    splits = corpus.split(documents)
    assert sum(map(len, splits.values())) == sum(map(len, texts))
    assert splits["validation"] and splits["test"]
    assert splits == corpus.split(documents[:])
    shuffled = corpus.split(documents[::-1])
    assert {k: len(v) for k, v in shuffled.items()} == {k: len(v) for k, v in splits.items()}


def test_few_documents_are_cut_by_position() -> None:
    text = bytes(range(200))
    splits = corpus.split([("a", text)])
    assert (splits["train"], splits["validation"], splits["test"]) == (text[:180], text[180:190], text[190:])


def test_baselines_are_the_entropies_of_counted_bytes() -> None:
    train = b"ab" * 100_000
    found = corpus.baselines(train, b"ab" * 100)
    assert abs(found["unigram"] - 1.0) < 0.01 and found["bigram"] < 0.01


def test_batches_depend_on_seed_and_step_alone_and_targets_are_the_next_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint8)))
    task = Language(tmp_path, data={"text": "a.txt"}, context=16)
    x, y = task.batch(1, 7, 4)
    again = Language(tmp_path, data={"text": "a.txt"}, context=16).batch(1, 7, 4)
    assert x.shape == y.shape == (4, 16) and np.array_equal(x[:, 1:], y[:, :-1])
    assert np.array_equal(x, again[0]) and np.array_equal(y, again[1])
    assert not np.array_equal(x, task.batch(1, 8, 4)[0]) and not np.array_equal(x, task.batch(2, 7, 4)[0])


def test_validation_windows_cover_the_split_side_by_side(tmp_path: Path) -> None:
    text = bytes(range(250)) * 8
    (tmp_path / "a.txt").write_bytes(text)
    x, y = Language(tmp_path, data={"text": "a.txt"}, context=16).validation()
    split = corpus.split([("a.txt", text)])["validation"]
    assert x.reshape(-1).tolist() == list(split[: x.size]) and y.reshape(-1).tolist() == list(split[1 : x.size + 1])
    assert len(split) - x.size <= 16


def test_tinyshakespeare_is_known_by_its_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "input.txt").write_text("To be, or not to be\n" * 100)
    with pytest.raises(InputError, match="sha256 is 86c4e6aa9db7"):
        Language(tmp_path, data={"tinyshakespeare": "input.txt"}).prepare()
    text = (tmp_path / "input.txt").read_bytes()
    monkeypatch.setattr(corpus, "SHAKESPEARE_SHA256", hashlib.sha256(text).hexdigest())
    assert Language(tmp_path, data={"tinyshakespeare": "input.txt"}).prepare()["bytes"]["train"] == 1800


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ("python-sdlib", "did you mean 'python-stdlib'"),
        ({"text": 3}, "takes a path"),
        ({"txt": "a"}, r"data is python-stdlib, .* \{text: GLOB\}"),
        ({"hub": {"nme": "x"}}, "hub takes NAME"),
    ],
)
def test_a_source_that_is_none_of_the_forms_is_refused(data: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Language(Path(), data=data)


def test_missing_and_tiny_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("tiny")
    for data, words in (({"text": "*.none"}, "no file matches"), ({"text": "a.txt"}, "less than 1000 bytes")):
        with pytest.raises(InputError, match=words):
            Language(tmp_path, data=data).prepare()


def test_a_hub_name_without_a_network_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach\nthe hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(InputError, match=r"can not be fetched .*use a local file") as e:
        Language(Path(), data={"hub": "someone/something"}).prepare()
    assert "\n" not in str(e.value)


def test_a_hub_dataset_is_split_by_its_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"body": [f"document {i} " * 20 for i in range(40)]})
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    facts = Language(tmp_path, data={"hub": {"name": "a/b", "column": "body", "documents": 30}}).prepare()
    assert facts["documents"] == 30
    with pytest.raises(InputError, match="no column 'text'"):
        Language(tmp_path, data={"hub": "a/b"}).prepare()
