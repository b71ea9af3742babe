from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotsearch.errors import InputError
from aotsearch.tasks import corpus, tokens
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
        ({"text": "~nobody-of-that-name/a"}, "takes a path"),
        ({"tokens": ["a"]}, "takes a path"),
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


def test_a_context_that_no_split_can_hold_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(200)) * 10)
    task = Language(tmp_path, data={"text": "a.txt"}, context=100)
    with pytest.raises(InputError, match=r"^data text: validation is 100 long, and context 100 needs 101$"):
        task.prepare()
    assert Language(tmp_path, data={"text": "a.txt"}, context=99).prepare()["bytes"]["validation"] == 100


# ---- tokens


def write(path: Path, ids: Any) -> np.ndarray[Any, Any]:
    written = np.asarray(ids, dtype="<u2")
    written.tofile(path)
    return written


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    """A folder as nanoGPT's prepare.py leaves it."""
    rng = np.random.default_rng(0)
    write(tmp_path / "train.bin", rng.integers(0, 300, 2000))
    write(tmp_path / "val.bin", rng.integers(0, 300, 401))
    return tmp_path


def test_token_files_are_read_in_place_and_the_second_half_of_val_is_the_test_split(prepared: Path) -> None:
    task = Language(prepared.parent, data={"tokens": prepared.name}, context=16, vocabulary=300)
    facts = task.prepare()
    assert facts["tokens"] == {"train": 2000, "validation": 200, "test": 201} and facts["unit"] == task.unit == "nats/token"
    assert task.sizes == {"vocabulary": 300, "context": 16} and task.measure == "loss" and task.measures({"loss": 2.0}) == {"loss": 2.0}
    ids = np.fromfile(prepared / "val.bin", dtype="<u2").tolist()
    (x, y), (z, _) = task.validation(), task.test()
    assert x.reshape(-1).tolist() == ids[:192] and y.reshape(-1).tolist() == ids[1:193] and z.reshape(-1).tolist() == ids[200:392]
    assert x.dtype == y.dtype == np.int64 and task.batch(0, 0, 3)[0].max() < 300
    assert Language(Path("/"), **task.to_plain()["language"]).prepare() == facts


def test_a_test_file_is_the_test_split(prepared: Path) -> None:
    ids = write(prepared / "test.bin", range(100))
    task = Language(prepared, data={"tokens": "."}, context=16, vocabulary=300)
    assert task.prepare()["tokens"] == {"train": 2000, "validation": 401, "test": 100}
    assert task.test()[0].reshape(-1).tolist() == ids[:96].tolist()


def test_the_unigram_baseline_of_tokens_is_the_entropy_of_their_counts(tmp_path: Path) -> None:
    write(tmp_path / "train.bin", [0, 1] * 50_000)
    write(tmp_path / "val.bin", [1, 0] * 50)
    assert abs(Language(tmp_path, data={"tokens": "."}, context=4, vocabulary=2).prepare()["baselines"]["unigram"] - np.log(2)) < 1e-6


def test_a_token_above_the_vocabulary_is_one_line(prepared: Path) -> None:
    for vocabulary in (256, 299):
        with pytest.raises(InputError, match=rf"id 299, but ids end at vocabulary - 1 = {vocabulary - 1}; set vocabulary to 300 or more"):
            Language(prepared, data={"tokens": "."}, vocabulary=vocabulary).prepare()


def test_token_files_are_read_through_once_and_again_when_they_change(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = Language(prepared, data={"tokens": "."}, vocabulary=300).prepare()
    blocks = tokens._blocks

    def never(_: Any) -> Any:
        raise AssertionError("read again")

    monkeypatch.setattr(tokens, "_blocks", never)
    assert Language(prepared, data={"tokens": "."}, vocabulary=300).prepare() == first
    monkeypatch.setattr(tokens, "_blocks", blocks)
    write(prepared / "train.bin", [7] * 3000)
    assert Language(prepared, data={"tokens": "."}, vocabulary=300).prepare()["manifest"] != first["manifest"]


def test_token_files_that_are_missing_or_no_token_files_are_one_line(prepared: Path) -> None:
    (prepared / "val.bin").write_bytes(b"abc")
    with pytest.raises(InputError, match="16-bit ids, at least two; this one has 3 bytes"):
        Language(prepared, data={"tokens": "."}, vocabulary=300).prepare()
    (prepared / "val.bin").unlink()
    with pytest.raises(InputError, match=r"val.bin: can not be read: .*needs train.bin and val.bin"):
        Language(prepared, data={"tokens": "."}, vocabulary=300).prepare()


def test_the_vocabulary_of_bytes_is_256_and_of_token_files_at_most_65536() -> None:
    with pytest.raises(ValueError, match="vocabulary is 256 for text, which is read as bytes, not 257"):
        Language(Path(), vocabulary=257)
    with pytest.raises(ValueError, match="vocabulary is at most 65536"):
        Language(Path(), data={"tokens": "a"}, vocabulary=65537)


def test_a_task_on_bytes_is_written_as_it_always_was() -> None:
    assert Language(Path()).to_plain() == {"language": {"data": "python-stdlib", "context": 64}}  # it is part of every trial's key
