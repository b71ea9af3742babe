from __future__ import annotations

import json
import math
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotsearch.errors import InputError, RunError
from aotsearch.evidence import ledger as ledgers
from aotsearch.evidence.ledger import FILE, Ledger

RECORD = {
    "key": "a", "arm": "reference", "seed": 0, "phase": "design", "digest": "d", "decisions": {}, "changes": {}, "outcome": "done",
    "measures": {"loss": 1.0}, "curve": [], "learning_rate": 0.1, "steps": 1, "tokens": 1, "device": "cpu", "precision": "float32",
    "threads": 1, "finished": "2026-01-01T00:00:00+00:00",
}  # fmt: skip


def test_events_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for i in range(3):
        ledger.append("noted", key=str(i), value=i / 3, text="line\nbreak \u00e9")
    assert [e["value"] for e in ledger.events()] == [0, 1 / 3, 2 / 3]
    assert next(ledger.events())["text"] == "line\nbreak \u00e9"


def test_the_latest_record_of_a_trial_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for outcome in ("failed", "done"):
        ledger.append("finished", **RECORD | {"outcome": outcome})
    assert {k: r["outcome"] for k, r in ledger.records().items()} == {"a": "done"}


@given(st.binary(max_size=60), st.integers(0, 400))
def test_whatever_happens_to_its_bytes_no_false_event_is_read(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("l"))
    written = [ledger.append("noted", key=str(i), number=i) for i in range(4)]
    text = ledger.path.read_bytes()
    ledger.path.write_bytes(text[:at] + noise + text[at + len(noise) :])
    assert all(event in written for event in ledger.events())


def test_a_torn_last_line_is_skipped_and_the_next_takes_its_place(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for key in "abc":
        if key == "c":
            ledger.path.write_bytes(ledger.path.read_bytes()[:-7])
        ledger.append("finished", **RECORD | {"key": key})
    assert list(ledger.records()) == ["a", "c"]
    assert not str(ledger.damage), "a crash is no damage: what it cut short never was"


def test_a_full_disk_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device; free space and run the same command again"):
        Ledger(tmp_path).append("run")


def test_two_writers_are_refused(tmp_path: Path) -> None:
    ledger, refused = Ledger(tmp_path), []

    def second() -> None:
        try:
            with Ledger(tmp_path).lock():
                pass
        except InputError as e:
            refused.append(str(e))

    with ledger.lock():
        assert Ledger(tmp_path).locked
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert "another aotsearch process" in refused[0]
    assert not ledger.locked


def test_a_folder_without_a_run_says_how_to_start_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="aotsearch run FILE"):
        Ledger.open(tmp_path)


def test_a_number_that_is_not_finite_is_null_and_what_it_was_is_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    curve = [{"step": 1, "train_loss": math.inf}, {"step": 2, "train_loss": 2.0}]
    written = ledger.append("noted", key="a", curve=curve, test={"loss": math.nan}, tried={0.5: -math.inf}, ok=1.5)
    (event,) = ledger.events()
    assert event == written and event["ok"] == 1.5
    assert event["curve"] == [{"step": 1, "train_loss": None}, {"step": 2, "train_loss": 2.0}] and event["test"] == {"loss": None}
    assert event["not_finite"] == {"curve.0.train_loss": "inf", "test.loss": "nan", "tried.0.5": "-inf"}
    assert "NaN" not in ledger.path.read_text() and "Infinity" not in ledger.path.read_text()
    ledger.append("noted", key="b", test={"loss": 1.0})
    assert "not_finite" not in list(ledger.events())[-1] and not str(ledger.damage)


def test_numbers_of_numpy_and_things_of_no_json_are_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    odd = {
        "one": np.float32(0.5),
        "many": np.array([[1.0, np.nan]]),
        "whole": np.int64(3),
        "yes": np.bool_(True),
        "pair": (1, 2),
        "path": tmp_path,
    }
    assert ledger.append("noted", key="a", odd=odd)["odd"] == {
        "one": 0.5, "many": [[1.0, None]], "whole": 3, "yes": True, "pair": [1, 2], "path": str(tmp_path),
    }  # fmt: skip
    assert json.loads(ledger.path.read_text().splitlines()[-1])["not_finite"] == {"odd.many.0.1": "nan"}


def test_a_look_at_the_lock_refuses_no_writer(tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    ledger = Ledger(tmp_path)
    assert not ledger.locked and not list(tmp_path.iterdir()), "a look makes no file"
    with ledger.lock():
        assert ledger.locked
    look = os.open(tmp_path / ledgers.LOCK, os.O_RDONLY)  # the worst moment of a look, held for long
    fcntl.flock(look, fcntl.LOCK_SH)
    assert not ledger.locked, "a look is no writer to another look"

    def leave() -> None:
        time.sleep(0.3)
        os.close(look)

    thread = threading.Thread(target=leave)
    thread.start()
    with ledger.lock():
        assert ledger.locked
    thread.join()


def test_a_folder_that_can_not_be_written_is_not_being_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "run")
    ledger.folder.mkdir()
    ledger.append("run")
    with ledger.lock():
        pass
    before = {p.name: p.stat().st_mtime_ns for p in ledger.folder.iterdir()}
    (ledger.folder / ledgers.LOCK).chmod(0o444)
    ledger.folder.chmod(0o555)
    try:
        assert not ledger.locked
    finally:
        ledger.folder.chmod(0o755)
    assert {p.name: p.stat().st_mtime_ns for p in ledger.folder.iterdir()} == before, "root too leaves it as it was"


def test_a_line_is_read_once_and_what_others_append_is_seen(tmp_path: Path) -> None:
    ledger, other = Ledger(tmp_path), Ledger(tmp_path)
    assert list(ledger.events()) == []
    for number in range(3):
        other.append("noted", value=number)
        assert [e["value"] for e in ledger.events()] == list(range(number + 1))
    first = next(iter(ledger.events()))
    assert next(iter(ledger.events())) is first  # not read again
    whole = ledger.path.read_bytes()
    ledger.path.write_bytes(whole + b'{"check":"00')  # a writer in the middle of a line
    assert len(list(ledger.events())) == 3
    ledger.path.write_bytes(whole)
    other.append("noted", value=3)
    assert len(list(ledger.events())) == 4 and not str(ledger.damage)  # it was not torn after all
    ledger.path.write_bytes(whole[: len(whole) // 2])
    assert len(list(ledger.events())) == 1  # cut: read anew
    ledger.path.unlink()
    assert list(ledger.events()) == [] and not str(ledger.damage)
