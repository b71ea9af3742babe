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


def test_a_split_by_document_is_the_one_that_committed_studies_were_trained_on() -> None:
    documents = [(f"{i}.txt", bytes([65 + i % 26]) * (500 + 7 * i % 400)) for i in range(700)]
    assert corpus.rule_of("text", documents) == corpus.rule_of("python-stdlib", list(corpus._stdlib())) == "documents"
    made = {name: corpus.joined(documents, spans) for name, spans in corpus.split(documents, "documents").items()}
    assert {name: hashlib.sha256(text).hexdigest()[:16] for name, text in made.items()} == {
        "train": "f082ff051aecaa91",
        "validation": "b06c458f7e4e323c",
        "test": "249ab1f4b0edea13",
    }


def documents_of(*texts: bytes) -> list[tuple[str, bytes]]:
    return [(f"{i:04d}.txt", text) for i, text in enumerate(texts)]


@pytest.mark.parametrize("rule", corpus.RULES)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=60).filter(any))
def test_every_byte_is_in_one_split_whatever_the_rule_and_the_sizes(rule: str, sizes: list[int]) -> None:
    spans = corpus.split(documents_of(*map(bytes, sizes)), rule)
    places = [(i, k) for found in spans.values() for i, start, stop in found for k in range(start, stop)]
    assert sorted(places) == [(i, k) for i, size in enumerate(sizes) for k in range(size)]


@given(st.lists(st.binary(min_size=1, max_size=50), min_size=20, max_size=60))
def test_a_split_by_document_keeps_documents_whole_and_depends_on_their_names_alone(texts: list[bytes]) -> None:
    documents = documents_of(*texts)
    spans = corpus.split(documents, "documents")
    assert all((start, stop) == (0, len(texts[i])) for found in spans.values() for i, start, stop in found)
    assert spans["validation"] and spans["test"]
    backwards = corpus.split(documents[::-1], "documents")
    assert {k: sorted(documents[i] for i, _, _ in v) for k, v in spans.items()} == {
        k: sorted(documents[::-1][i] for i, _, _ in v) for k, v in backwards.items()
    }


def test_few_files_are_each_in_every_split_however_small(tmp_path: Path) -> None:
    (tmp_path / "text").mkdir()
    for name, size in {"de/a": 900, "de/b": 3000, "de/c": 700, "en/a": 60_000, "en/b": 250_000}.items():
        path = tmp_path / "text" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(name[0].encode() * size)
    task = Language(tmp_path, data={"text": "text/*/*"}, context=16)
    facts = task.prepare()
    assert facts["split_documents"] == {"train": 5, "validation": 5, "test": 5} and "spread over the files" in facts["split"]
    for split in ("validation", "test"):
        text = task._corpus.tokens(split).tobytes()
        assert abs(len(text) / 314_600 - 0.05) < 0.001
        assert abs(text.count(b"d") / len(text) - 4600 / 314_600) < 0.001


def test_blocks_are_spread_over_a_file_and_a_short_file_is_one_stretch() -> None:
    long = bytes(i // 1000 for i in range(200_000))
    spans = corpus.split(documents_of(long), "blocks")
    assert spans["validation"] == [(0, 18_000 + 20_000 * k, 19_000 + 20_000 * k) for k in range(10)]
    assert spans["test"] == [(0, 19_000 + 20_000 * k, 20_000 + 20_000 * k) for k in range(10)]
    assert corpus.split(documents_of(long * 50), "blocks")["test"][0] == (0, 950_000, 1_000_000)  # never more than ten
    text = bytes(range(200))
    spans = corpus.split(documents_of(text), "blocks")
    assert [corpus.joined(documents_of(text), spans[name]) for name in spans] == [text[:180], text[180:190], text[190:]]


SHAPES = {
    "one file": [100_000],
    "nineteen files": [3000] * 19,
    "twenty, one of which holds nearly everything": [300_000] + [200] * 19,
    "twenty-five, mostly empty": [0] * 22 + [9000, 9000, 9000],
    "thousands of crumbs beside one big file": [100] * 5000 + [500_000],
    "files that double": [2**k for k in range(20)],
    "a hundred files": [4000] * 100,
    "two big files among many": [50_000, 50_000] + [1000] * 300,
}


@pytest.mark.parametrize("sizes", SHAPES.values(), ids=SHAPES)
def test_validation_and_test_get_their_share_whatever_the_sizes(sizes: list[int]) -> None:
    documents = documents_of(*map(bytes, sizes))
    assert corpus.rule_of("text", documents) == "blocks"
    spans = corpus.split(documents, "blocks")
    for name, share in (("train", 0.9), ("validation", 0.05), ("test", 0.05)):
        assert len(corpus.joined(documents, spans[name])) / sum(sizes) == pytest.approx(share, rel=0.05)
    assert np.median([stop - start for _, start, stop in spans["validation"]]) >= min(100, sum(sizes) // 400)  # no crumbs


def test_many_documents_are_split_whole_where_none_dominates() -> None:
    documents = documents_of(*(bytes(1000) for _ in range(600)))
    assert corpus.rule_of("text", documents) == "documents" and corpus.rule_of("tinyshakespeare", documents[:1]) == "position"
    spans = corpus.split(documents, "documents")
    assert (len(spans["validation"]), len(spans["test"])) == (6, 12)
    assert corpus.rule_of("text", [*documents, ("big", bytes(70_000))]) == "blocks"


def test_another_rule_of_the_split_is_another_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(600):
        (tmp_path / f"{i}.txt").write_bytes(bytes(100))
    before = Language(tmp_path, data={"text": "*.txt"}).prepare()
    lines = [f"{p.name}\0{100}\0{hashlib.sha256(bytes(100)).hexdigest()}" for p in sorted(tmp_path.glob("*.txt"))]
    assert before["manifest"] == hashlib.sha256("\n".join(lines).encode()).hexdigest()  # as ledgers of earlier versions have it
    monkeypatch.setattr(corpus, "SEVERAL", 50)
    after = Language(tmp_path, data={"text": "*.txt"}).prepare()
    assert after["manifest"] != before["manifest"] and after["bytes"] != before["bytes"]


def test_a_pattern_of_files_may_stand_in_a_folder_whose_name_looks_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "exp [v2]*"
    folder.mkdir()
    (folder / "a[1].txt").write_bytes(bytes(3000))
    (folder / "b.txt").write_bytes(bytes(3000))
    task = Language(folder, data={"text": "*.txt"}, context=16)
    assert task.prepare()["documents"] == 2 and Language(Path("/"), **task.to_plain()["language"]).prepare() == task.prepare()
    assert Language(folder, data={"text": "a[1].txt"}, context=16).prepare()["documents"] == 1
    for pattern in ("exp [[]v2]*/*.txt", "exp [v2]*/*.txt", "exp [v2]*/b.txt", "exp [v2]*/[ab]*.txt", str(folder / "?.txt")):
        found = Language(tmp_path, data={"text": pattern}, context=16).prepare()
        assert found["documents"] == (1 if "b.txt" in pattern or "?" in pattern else 2), pattern
    monkeypatch.setenv("DATA", str(tmp_path))
    assert Language(Path("/"), data={"text": "$DATA/exp*/b.txt"}, context=16).prepare()["documents"] == 1


def test_a_file_that_a_pattern_meets_twice_is_one_document(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for i in range(30):
        (tmp_path / "a" / "b" / f"{i:02d}.txt").write_bytes(f"{i:04d}".encode() * 250)
    (tmp_path / "a" / "latest.txt").symlink_to(tmp_path / "a" / "b" / "29.txt")
    source = corpus.check({"text": "**/**/*.txt"}, tmp_path)
    found = corpus.prepare(source)
    assert found.documents == 30 and sum(found.bytes.values()) == 30_000  # a copy would bring bytes of one split into another


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
    split = text[1800:1900]
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
    with pytest.raises(InputError, match=r"cannot be fetched .*use a local file") as e:
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
    with pytest.raises(
        InputError, match=r"^data text: validation is 100 long, and context 100 needs 101; give more text, or .* at most 99$"
    ):
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


def test_every_split_is_held_against_the_context_before_training(prepared: Path) -> None:
    for split, file in tokens.FILES.items():
        for other in tokens.FILES.values():
            write(prepared / other, [i % 300 for i in range(16 if other == file else 400)])
        with pytest.raises(InputError, match=rf"^data tokens: {split} is 16 long, and context 16 needs 17; .* at most 15$"):
            Language(prepared, data={"tokens": "."}, context=16, vocabulary=300).prepare()


WIDE = np.random.default_rng(1).integers(0, 100_277, 4000)


@pytest.mark.parametrize(
    ("ids", "dtype", "vocabulary"),
    [
        (WIDE % 200, "uint32", 256),
        (WIDE % 300, "uint32", 65536),
        (WIDE % 2, "uint32", 65536),
        (WIDE % 3, "int64", 65536),
        (WIDE, "uint32", 65536),
        (WIDE, "uint32", 100_277),
        (WIDE % 50_000, "int64", 65536),
        (WIDE, "int64", 100_277),
        (WIDE % 65 + 32, "uint8", 65536),
    ],
)
def test_ids_of_another_width_are_refused_and_read_with_their_dtype(tmp_path: Path, ids: Any, dtype: str, vocabulary: int) -> None:
    for name, part in (("train.bin", ids[:3000]), ("val.bin", ids[3000:])):
        part.astype(dtype).tofile(tmp_path / name)
    with pytest.raises(InputError, match=rf"looks like {dtype} numbers read as 16-bit ids; tokens: .*dtype: {dtype}"):
        Language(tmp_path, data={"tokens": "."}, context=16, vocabulary=min(vocabulary, 65536)).prepare()
    source = {"tokens": {"folder": ".", "dtype": dtype}}
    if ids.max() >= vocabulary:
        with pytest.raises(InputError, match=rf"has the id {ids[:3000].max()}, but ids end at vocabulary"):
            Language(tmp_path, data=source, context=16, vocabulary=vocabulary).prepare()
        return
    task = Language(tmp_path, data=source, context=16, vocabulary=vocabulary if dtype != "uint8" else 128)
    assert task.prepare()["tokens"]["train"] == 3000
    assert task.validation()[0].reshape(-1).tolist() == ids[3000:3496].tolist() and task.batch(0, 0, 2)[0].dtype == np.int64
    assert Language(Path("/"), **task.to_plain()["language"]).prepare() == task.prepare()


def test_sixteen_bits_read_as_more_are_refused_and_numbers_are_taken_for_what_the_study_says(prepared: Path) -> None:
    write(prepared / "val.bin", [i % 300 for i in range(400)])
    for dtype, words in (("uint32", "but ids end at vocabulary - 1 = 299; .*dtype"), ("int64", "has the id .*dtype")):
        with pytest.raises(InputError, match=words):
            Language(prepared, data={"tokens": {"folder": ".", "dtype": dtype}}, context=16, vocabulary=300).prepare()
    write(prepared / "val.bin", [7 if i % 2 else i for i in range(300)])  # numbers and a separator: 16 bits indeed
    with pytest.raises(InputError, match="dtype: uint16 as they are"):
        Language(prepared, data={"tokens": "."}, context=16, vocabulary=300).prepare()
    said = Language(prepared, data={"tokens": {"folder": ".", "dtype": "uint16"}}, context=16, vocabulary=300)
    assert said.prepare()["tokens"] == {"train": 2000, "validation": 150, "test": 150}


def test_a_header_is_not_read_as_tokens(prepared: Path) -> None:
    header = np.zeros(256, "<i4")
    header[0] = 20240520
    (prepared / "train.bin").write_bytes(header.tobytes() + bytes(4000))
    with pytest.raises(InputError, match=r"train.bin: token files are numbers without a header; this one has that of llm.c"):
        Language(prepared, data={"tokens": "."}, context=16, vocabulary=300).prepare()


def test_the_whole_of_val_bin_is_its_two_halves_by_the_number_of_their_targets(prepared: Path) -> None:
    task = Language(prepared, data={"tokens": "."}, context=50, vocabulary=300)
    (x, _), (z, _) = task.validation(), task.test()
    assert (x.size, z.size) == (150, 200)  # windows of 50 with a target each, of 200 and 201 ids
    assert task.whole_validation({"loss": 1.0, "step": 3}, {"loss": 2.0}) == {"loss": pytest.approx((150 * 1.0 + 200 * 2.0) / 350)}
    assert "first half of val.bin is validation" in task.prepare()["split"]
    write(prepared / "test.bin", range(100))
    assert Language(prepared, data={"tokens": "."}, context=50, vocabulary=300).whole_validation({"loss": 1.0}, {"loss": 2.0}) == {}


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
    with pytest.raises(InputError, match=r"val.bin: cannot be read: .*needs train.bin and val.bin"):
        Language(prepared, data={"tokens": "."}, vocabulary=300).prepare()


def test_the_vocabulary_of_bytes_is_256_and_of_token_files_at_most_65536() -> None:
    with pytest.raises(ValueError, match="vocabulary is 256 for text, which is read as bytes, not 257"):
        Language(Path(), vocabulary=257)
    with pytest.raises(ValueError, match=r"vocabulary is at most 65536, .*dtype: uint32"):
        Language(Path(), data={"tokens": "a"}, vocabulary=65537)
    assert Language(Path(), data={"tokens": {"folder": "a", "dtype": "uint32"}}, vocabulary=100_277).sizes["vocabulary"] == 100_277
    for wrong in ({"folder": "a"}, {"folder": "a", "dtype": "float32"}, {"folder": 3, "dtype": "uint32"}, {"dtype": ["uint32"]}):
        with pytest.raises(ValueError, match="tokens takes a path"):
            Language(Path(), data={"tokens": wrong})


def test_a_task_on_bytes_is_written_as_it_always_was() -> None:
    assert Language(Path()).to_plain() == {"language": {"data": "python-stdlib", "context": 64}}  # it is part of every trial's key
