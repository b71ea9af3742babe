from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotsearch.errors import InputError, RunError
from aotsearch.ledger import FILE, Ledger


def test_events_are_read_in_the_order_they_were_written(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for i in range(3):
        ledger.append("finished", key=str(i), value=i / 3, text="line\nbreak \u00e9")
    assert [e["value"] for e in ledger.events()] == [0, 1 / 3, 2 / 3]
    assert next(ledger.events())["text"] == "line\nbreak \u00e9"


def test_the_latest_record_of_a_trial_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for outcome in ("failed", "done"):
        ledger.append("finished", key="a", outcome=outcome)
    assert {k: r["outcome"] for k, r in ledger.records().items()} == {"a": "done"}


@given(st.binary(max_size=60), st.integers(0, 400))
def test_whatever_happens_to_its_bytes_no_false_event_is_read(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("l"))
    written = [ledger.append("finished", key=str(i), number=i) for i in range(4)]
    text = ledger.path.read_bytes()
    ledger.path.write_bytes(text[:at] + noise + text[at + len(noise) :])
    assert all(event in written for event in ledger.events())


def test_a_torn_last_line_is_skipped_and_the_next_starts_fresh(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.append("finished", key="a")
    ledger.append("finished", key="b")
    ledger.path.write_bytes(ledger.path.read_bytes()[:-7])
    ledger.append("finished", key="c")
    assert list(ledger.records()) == ["a", "c"]
    assert ledger.corrupt == 1


def test_a_full_disk_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / FILE).symlink_to("/dev/full")
    with pytest.raises(RunError, match="No space left on device; free space and run the same command again"):
        Ledger(tmp_path).append("finished", key="a")


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
