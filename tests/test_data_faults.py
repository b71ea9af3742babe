"""Data that was cut, altered, swapped or lost: it is found before anything is trained on it, and made again or refused in one line."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aotsearch.errors import InputError, RunError
from aotsearch.evidence.ledger import FILE
from aotsearch.report import report
from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.running.runner import Options
from aotsearch.study.loading import load
from aotsearch.tasks import cache, content, corpus
from aotsearch.tasks.language import Language
from aotsearch.tasks.vision import Vision
from aotsearch.training import opened


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that no other test has."""
    monkeypatch.setenv("AOTSEARCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def text_task(folder: Path) -> Language:
    if not (folder / "a.txt").exists():
        rng = np.random.default_rng(0)
        (folder / "a.txt").write_bytes(rng.integers(97, 123, 6000, dtype=np.uint8).tobytes())
    return Language(folder, data={"text": "a.txt"}, context=16)


def image_task(folder: Path) -> Vision:
    if not (folder / "a.npz").exists():
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 256, (120, 4, 4), dtype=np.uint8), np.arange(120) % 3
        np.savez(folder / "a.npz", x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    return Vision(folder, data={"arrays": "a.npz"}, image=4, classes=3)


def token_task(folder: Path) -> Language:
    for name, size in (("train.bin", 900), ("val.bin", 400)):
        if not (folder / name).exists():
            np.random.default_rng(size).integers(0, 300, size).astype("<u2").tofile(folder / name)
    return Language(folder, data={"tokens": "."}, context=16, vocabulary=65536)


def opened_by(task: Any) -> tuple[Any, ...]:
    """All that a study reads of its data."""
    facts = task.prepare()
    arrays = (*task.batch(0, 0, 8), *task.validation(), *task.test())
    return json.dumps(facts, sort_keys=True), *(hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest() for x in arrays)


def place_of(task: Any) -> Path:
    found: Path = task._images.folder if isinstance(task, Vision) else task._corpus.folder
    return found


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def one_bit(path: Path) -> None:
    text = bytearray(path.read_bytes())
    text[len(text) // 2] ^= 1
    path.write_bytes(bytes(text))


@pytest.mark.parametrize("damage", [half, zeros, one_bit, Path.unlink])
@pytest.mark.parametrize("make", [text_task, image_task])
def test_a_damaged_part_of_a_cache_is_found_and_made_again_with_a_line(
    make: Callable[[Path], Any], damage: Callable[[Path], None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sound, place = opened_by(make(tmp_path)), place_of(make(tmp_path))
    assert len(list(place.iterdir())) > 3 and not caplog.messages
    for path in sorted(place.iterdir()):
        damage(path)
        caplog.clear()
        assert opened_by(make(tmp_path)) == sound, path
        told = [f"{path} is missing, or not what was written there: the data is prepared again"]
        never_finished = damage is Path.unlink and path.name == cache.FACTS
        assert caplog.messages == ([] if never_finished else told)
        assert opened_by(make(tmp_path)) == sound and len(caplog.messages) < 2  # it is whole again


def test_a_cache_of_a_version_that_kept_no_checksums_is_made_again(tmp_path: Path) -> None:
    sound, facts = opened_by(text_task(tmp_path)), place_of(text_task(tmp_path)) / cache.FACTS
    facts.write_text(json.dumps(json.loads(facts.read_text())["facts"]))
    zeros(facts.parent / "train.bin")
    assert opened_by(text_task(tmp_path)) == sound


def test_facts_that_were_edited_are_not_believed(tmp_path: Path) -> None:
    sound, facts = opened_by(text_task(tmp_path)), place_of(text_task(tmp_path)) / cache.FACTS
    facts.write_text(facts.read_text().replace('"unigram": 4', '"unigram": 1'))
    assert opened_by(text_task(tmp_path)) == sound


def test_a_damaged_cache_whose_source_is_gone_is_one_line(tmp_path: Path) -> None:
    for make, source, part in ((text_task, "a.txt", "train.bin"), (image_task, "a.npz", "train.images.npy")):
        zeros(place_of(make(tmp_path)) / part)
        task = make(tmp_path)
        (tmp_path / source).unlink()
        with pytest.raises(InputError, match=f"{source}"):
            opened_by(task)


def test_data_that_is_altered_while_it_is_in_use_ends_the_run_in_one_line(tmp_path: Path) -> None:
    task = text_task(tmp_path)
    task.batch(0, 0, 8)
    zeros(task._corpus.folder / "train.bin")  # also where that is mapped: it is found at the next evaluation, before there is a record
    with pytest.raises(RunError, match=r"train.bin is missing, or not what was written there: it was altered while it was in use"):
        task.validation()
    tokens = token_task(tmp_path)
    tokens.prepare()
    one_bit(tmp_path / "val.bin")
    with pytest.raises(RunError, match="altered while it was in use"):
        tokens.validation()


def test_a_cache_that_cannot_be_written_or_read_is_one_line(tmp_path: Path, own_cache: Path) -> None:
    place = place_of(text_task(tmp_path))
    (place / "train.bin").unlink()
    (place / "train.bin").mkdir()
    with pytest.raises(RunError, match=r"cannot write the prepared data: .*; remove it, or set AOTSEARCH_CACHE"):
        opened_by(text_task(tmp_path))
    shutil.rmtree(own_cache)
    own_cache.write_text("a file")
    with pytest.raises(RunError, match="cannot write the prepared data"):
        opened_by(text_task(tmp_path))


def test_a_disk_that_does_not_give_back_what_was_written_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = cache._put

    def wrong(path: Path, found: Any) -> str:
        sum_ = put(path, found)
        if path.name == "train.bin":
            one_bit(path)
        return sum_

    monkeypatch.setattr(cache, "_put", wrong)
    with pytest.raises(RunError, match=r"train.bin is missing, or not .*although it was written just now; look to the disk"):
        opened_by(text_task(tmp_path))


MUTATIONS = ("flip", "truncate", "delete", "swap", "empty", "zeros", "append", "text")


def mutate(folder: Path, rng: random.Random) -> str:
    """Damage a file of a folder in a way drawn at random, and say how."""
    paths = sorted(p for p in folder.iterdir() if p.is_file())
    path, how = rng.choice(paths), rng.choice(MUTATIONS)
    data = bytearray(path.read_bytes())
    if how == "flip" and data:
        for _ in range(rng.choice((1, 1, 5))):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif how in ("truncate", "flip"):
        data = data[: rng.randrange(len(data) + 1)]
    elif how == "delete":
        path.unlink()
        return f"{how} {path.name}"
    elif how == "swap":
        other = rng.choice(paths)
        data = bytearray(other.read_bytes())
        other.write_bytes(path.read_bytes())
    elif how == "append":
        data += bytes(rng.randrange(1, 9))
    else:
        data = bytearray({"empty": b"", "zeros": bytes(len(data)), "text": b"{}\n"}[how])
    path.write_bytes(bytes(data))
    return f"{how} {path.name}"


@pytest.mark.parametrize("make", [text_task, image_task])
def test_whatever_becomes_of_a_cache_the_data_is_what_it_was(
    make: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    sound, place, rng = opened_by(make(tmp_path)), place_of(make(tmp_path)), random.Random(1)
    for _ in range(40):
        done = [mutate(place, rng) for _ in range(rng.choice((1, 1, 2)))]
        assert opened_by(make(tmp_path)) == sound, done


def test_whatever_becomes_of_token_files_other_ids_are_other_data_or_refused(tmp_path: Path, own_cache: Path) -> None:
    folder, kept = tmp_path / "tokens", tmp_path / "kept"
    kept.mkdir()
    sound = opened_by(token_task(kept))
    rng, refused = random.Random(2), 0
    for i in range(60):
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(kept, folder)  # with the times of the files, so that these tell nothing
        done = [mutate(folder, rng)]
        if i % 3 == 0:  # and what is remembered of them
            done.append(mutate(rng.choice(sorted(p.parent for p in own_cache.glob("tokens-*/*.json"))), rng))
        same = {p.name: p.read_bytes() for p in folder.iterdir()} == {p.name: p.read_bytes() for p in kept.iterdir()}
        try:
            found = opened_by(Language(folder, data={"tokens": "."}, context=16, vocabulary=65536))
        except (InputError, RunError) as e:
            refused += 1
            assert "\n" not in str(e) and not same, done
        else:
            assert (found == sound) == same, done
            assert (json.loads(found[0])["manifest"] == json.loads(sound[0])["manifest"]) == same, done
    assert 10 < refused < 110


def test_a_file_is_read_through_once_and_a_large_one_once_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, memory, read = tmp_path / "a", tmp_path / "memory", []
    path.write_bytes(b"some bytes")

    def counted(file: Any, name: str) -> Any:
        read.append(file.name)
        return hashlib.new(name, file.read())

    monkeypatch.setattr(content.hashlib, "file_digest", counted)
    for _ in range(2):
        assert content.sha256(path, memory) == hashlib.sha256(b"some bytes").hexdigest()
    assert len(read) == 2  # written within this moment: its times would not tell another write
    monkeypatch.setattr(content, "MOMENT", 0)
    for _ in range(3):
        content.sha256(path, memory)
    assert len(read) == 3 and not memory.exists()
    monkeypatch.setattr(content, "LARGE", 1)
    monkeypatch.setattr(content, "_known", {})
    found = content.sha256(path, memory)
    monkeypatch.setattr(content, "_known", {})  # another process
    assert content.sha256(path, memory) == found and len(read) == 4
    (remembered,) = memory.iterdir()
    remembered.write_text(remembered.read_text().replace(found, "0" * 64))
    monkeypatch.setattr(content, "_known", {})
    assert content.sha256(path, memory) == found and len(read) == 5  # what is remembered is sealed as well
    times = path.stat()
    path.write_bytes(b"other byte")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as old and as long as before
    assert content.sha256(path, memory) == hashlib.sha256(b"other byte").hexdigest()


def test_what_a_long_file_costs_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(content, "LARGE", 1)
    monkeypatch.setattr(content, "LONG", 1)
    (tmp_path / "a").write_bytes(b"a")
    content.sha256(tmp_path / "a", tmp_path)
    assert "GB are read through" in caplog.text


def test_a_worker_verifies_its_data_once_and_not_for_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = {"task": text_task(tmp_path).to_plain()}
    first = opened.load_task(trial).validation()[0]
    monkeypatch.setattr(content, "MOMENT", 0)
    opened.load_task(trial).validation()
    read: list[Path] = []
    monkeypatch.setattr(content.hashlib, "file_digest", lambda file, _: read.append(file.name))
    for _ in range(3):
        assert np.array_equal(opened.load_task(trial).validation()[0], first) and opened.manifest(trial)
    assert not read
    monkeypatch.undo()
    monkeypatch.setenv("AOTSEARCH_CACHE", str(tmp_path / "cache"))
    zeros(opened.load_task(trial)._corpus.folder / "validation.bin")
    assert np.array_equal(opened.load_task(trial).validation()[0], first)


# ---- a run folder and other data


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "write", lambda *_, **__: [])


def run(file: Path, out: Path) -> Any:
    study = load(file, ["study.seeds=1"])
    return runner.run(study, out, Options(local=True, track=False), Progress("bits_per_byte", "bits/byte", io.StringIO()))


def test_a_finished_run_is_not_continued_with_other_data_even_where_the_line_of_the_data_is_lost(
    study_file: Path, tmp_path: Path, undrawn: None
) -> None:
    run(study_file, tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "damaged")
    ledger = tmp_path / "damaged" / FILE
    ledger.write_text(ledger.read_text().replace('"event":"data","manifest":"', '"event":"data","manifest":"x'))
    assert run(study_file, tmp_path / "damaged").trained == 0  # the same data
    text = study_file.parent / "corpus.txt"
    text.write_text("other words entirely " * 800)
    for name in ("run", "damaged"):
        before = (tmp_path / name / FILE).read_bytes()
        with pytest.raises(InputError, match="holds results on other data"):
            run(study_file, tmp_path / name)
        assert (tmp_path / name / FILE).read_bytes() == before


def test_a_home_is_meant_by_a_run_and_its_cache(study_file: Path, tmp_path: Path, undrawn: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("AOTSEARCH_CACHE", "~/prepared")
    monkeypatch.chdir(tmp_path)
    study = load(study_file, ["study.seeds=1", "study.budget.steps=1"])
    options = Options(local=True, track=False, cache=Path("~/trials"))
    runner.run(study, "~/run", options, Progress("bits_per_byte", "bits/byte", io.StringIO()))
    assert {p.name for p in (tmp_path / "home").iterdir()} == {"prepared", "run", "trials"} and not Path("~").exists()


def test_a_damaged_cache_changes_no_result(study_file: Path, tmp_path: Path, undrawn: None) -> None:
    run(study_file, tmp_path / "one")
    (place,) = cache.folder().glob("text-*")
    zeros(place / "train.bin")
    zeros(place / "validation.bin")
    run(study_file, tmp_path / "two")
    frames = [runner.Ledger(tmp_path / name).records() for name in ("one", "two")]
    assert {k: r["curve"] for k, r in frames[0].items()} == {k: r["curve"] for k, r in frames[1].items()}


def test_data_that_is_altered_during_a_run_ends_it_in_one_line(study_file: Path, tmp_path: Path, undrawn: None) -> None:
    text = study_file.parent / "corpus.txt"
    kept = text.read_text()

    class Altering(Progress):
        def finished(self, record: Any, where: str = "") -> None:
            super().finished(record)
            text.write_text("other words entirely " * 800)
            for path in cache.folder().glob("text-*/train.bin"):
                zeros(path)

    progress = Altering("bits_per_byte", "bits/byte", io.StringIO())
    with pytest.raises(RunError, match=r"the data was altered since this run began \(manifest \w{12}, now \w{12}\); bring it back"):
        runner.run(load(study_file, ["study.seeds=1"]), tmp_path / "run", Options(local=True, track=False), progress)
    assert runner.status(tmp_path / "run")["done"] == 1
    text.write_text(kept)
    assert run(study_file, tmp_path / "run").trained == 3


def test_a_trial_whose_data_is_altered_while_it_trains_is_not_recorded(study_file: Path, tmp_path: Path, undrawn: None) -> None:
    class Altering(Progress):
        def point(self, trial: Any, point: Any) -> None:
            super().point(trial, point)
            for path in cache.folder().glob("text-*/train.bin"):
                zeros(path)

    progress = Altering("bits_per_byte", "bits/byte", io.StringIO())
    with pytest.raises(RunError, match="altered while"):
        runner.run(load(study_file, ["study.seeds=1"]), tmp_path / "run", Options(local=True, track=False), progress)
    assert runner.status(tmp_path / "run")["done"] == 0
    run(study_file, tmp_path / "run")
    run(study_file, tmp_path / "undisturbed")
    curves = [{k: r["curve"] for k, r in runner.Ledger(tmp_path / name).records().items()} for name in ("run", "undisturbed")]
    assert curves[0] == curves[1]


# ---- text that is no text, and too little of it


@pytest.mark.parametrize("sizes", [[0] * 23 + [2000, 3000], [0] * 23 + [1, 999], [1] * 1000, [0] * 500 + [1] * 1000, [0] * 99 + [1500]])
def test_every_split_of_any_text_has_bytes(sizes: list[int], tmp_path: Path) -> None:
    for i, size in enumerate(sizes):
        (tmp_path / f"{i:04d}.txt").write_bytes(b"x" * size)
    task = Language(tmp_path, data={"text": "*.txt"}, context=4)
    assert min(task.prepare()["bytes"].values()) >= 5 and opened_by(task)
    notes = [line for line in task.prepare().get("notes", []) if "are empty" in line]
    assert len(notes) == (sizes.count(0) > len(sizes) / 2)


def test_a_split_without_bytes_is_told_and_not_kept(tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(25):
        (tmp_path / f"{i:02d}.txt").write_bytes(b"x" * (600 if i < 2 else 0))
    monkeypatch.setattr(corpus, "rule_of", lambda *_: "documents")
    for _ in range(2):
        with pytest.raises(InputError, match=r"each split needs two bytes.* has 0 \(25 documents, 2 of them not empty, split by document"):
            Language(tmp_path, data={"text": "*.txt"}, context=4).prepare()
    assert not own_cache.exists()


def test_text_in_utf_16_and_text_with_zeros_is_told_with_numbers(study_file: Path, tmp_path: Path, undrawn: None) -> None:
    text = (study_file.parent / "corpus.txt").read_text()
    notes = {}
    for name, made in {"wide": text.encode("utf-16"), "bare": text.encode("utf-16-be"), "zeros": b"\0\0" + text.encode()}.items():
        (study_file.parent / "corpus.txt").write_bytes(made)
        (notes[name],) = load(study_file).task.prepare()["notes"]
        assert f"{made.count(0):,} of {len(made):,} bytes are NUL" in notes[name] and "1 of 1 documents (corpus.txt)" in notes[name]
    assert "look like UTF-16" in notes["wide"] and "look like UTF-16" in notes["bare"] and "iconv" in notes["wide"]
    assert "have NUL bytes, which text has not" in notes["zeros"]
    assert f"warning: {notes['zeros'][:60]}" in run(study_file, tmp_path / "run").summary.replace("\n  ", " ")
    (study_file.parent / "corpus.txt").write_bytes("naïve text, ".encode("latin-1") * 900)
    assert "notes" not in load(study_file).task.prepare()


def test_images_that_are_scaled_otherwise_in_the_test_split_are_told_or_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.random((120, 4, 4)).astype(np.float32), np.arange(120) % 3
    np.savez(tmp_path / "b.npz", x_train=x[:90], y_train=y[:90], x_test=255 * x[90:], y_test=y[90:])
    with pytest.raises(InputError, match=r"train and test images are of one scale, not train float32 up to 0.99\d*, test float32 up to 25"):
        Vision(tmp_path, data={"arrays": "b.npz"}, image=4, classes=3).prepare()
    np.savez(tmp_path / "b.npz", x_train=x[:90], y_train=y[:90], x_test=4 * x[90:] - 2.5, y_test=y[90:])
    (note,) = Vision(tmp_path, data={"arrays": "b.npz"}, image=4, classes=3).prepare()["notes"]
    assert "test images have the mean -0.5" in note and "training images 0.5" in note
    assert "notes" not in image_task(tmp_path).prepare()


# ---- token files


@pytest.mark.parametrize("dtype", ["int32", "uint64"])
def test_token_files_of_every_usual_width_are_read(dtype: str, tmp_path: Path) -> None:
    ids = np.random.default_rng(0).integers(0, 70_000, 2000)
    ids[:1500].astype(dtype).tofile(tmp_path / "train.bin")
    ids[1500:].astype(dtype).tofile(tmp_path / "val.bin")
    task = Language(tmp_path, data={"tokens": {"folder": ".", "dtype": dtype}}, context=16, vocabulary=70_000)
    assert task.prepare()["tokens"] == {"train": 1500, "validation": 250, "test": 250}
    assert task.validation()[0].reshape(-1).tolist() == ids[1500:1740].tolist()


def test_an_array_file_is_not_read_as_tokens(tmp_path: Path) -> None:
    token_task(tmp_path)
    with (tmp_path / "train.bin").open("wb") as file:
        np.save(file, np.arange(500, dtype=np.uint16))
    with pytest.raises(InputError, match=r"train.bin: token files are numbers without a header; this one has that of a .npy file"):
        token_task(tmp_path).prepare()


def test_a_test_file_of_five_ids_is_refused_before_training(tmp_path: Path) -> None:
    token_task(tmp_path)
    np.arange(5, dtype="<u2").tofile(tmp_path / "test.bin")
    with pytest.raises(InputError, match="test is 5 long, and context 16 needs 17"):
        token_task(tmp_path).prepare()
