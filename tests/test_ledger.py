from __future__ import annotations

import json
import math
import os
import threading
import time
from pathlib import Path

import damage
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aotsearch.errors import InputError, RunError
from aotsearch.evidence import ledger as ledgers
from aotsearch.evidence.ledger import END, FILE, Ledger

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
            (tmp_path / END).write_text(f"{ledger.id} 2")  # a line that is cut was not counted
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
    assert list(ledger.events()) == [] and "is not what was written here last" in str(ledger.damage)


# ---- lines that are not the ledger's own


def written(folder: Path, events: int = 6) -> tuple[Ledger, list[bytes]]:
    """A ledger and its lines, the header first."""
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder)
    for number in range(events):
        ledger.append("noted", value=number)
    return ledger, ledger.path.read_bytes().splitlines(keepends=True)


def look(folder: Path, *lines: bytes) -> tuple[list[int], str]:
    """What is read of lines, and what is said of them, up to the remedy."""
    (folder / FILE).write_bytes(b"".join(lines))
    ledger = Ledger(folder)
    return [e["value"] for e in ledger.events()], str(ledger.damage).partition(";")[0]


def test_lines_that_are_gone_whole_at_the_end_are_told_and_still_told_when_the_ledger_goes_on(tmp_path: Path) -> None:
    ledger, a = written(tmp_path)
    assert look(tmp_path, *a[:-2]) == ([0, 1, 2, 3], "2 lines of the ledger are missing after line 5")
    Ledger(tmp_path).append("noted", value=9)
    assert [e["value"] for e in ledger.events()] == [0, 1, 2, 3, 9], "it takes no number that was given"
    assert str(ledger.damage).startswith("2 lines of the ledger are missing after line 5;")
    assert look(tmp_path)[1].startswith("the end of the ledger is not what was written here last")


def test_a_kill_between_a_line_and_the_count_of_lines_is_no_damage(tmp_path: Path) -> None:
    ledger, a = written(tmp_path)
    for end in (f"{ledger.id} {len(a) - 1}", "", "\xff", f"{ledger.id} many"):
        (tmp_path / END).write_text(end, encoding="latin-1")
        assert look(tmp_path, *a) == ([*range(6)], ""), end
    (tmp_path / END).unlink()
    assert look(tmp_path, *a[:-2]) == ([0, 1, 2, 3], ""), "without it nothing is known"


def test_a_ledger_put_in_the_place_of_another_is_told_until_it_goes_on(tmp_path: Path) -> None:
    written(tmp_path)
    _, b = written(tmp_path / "other", 2)
    events, told = look(tmp_path, *b)
    assert events == [0, 1] and told.endswith("it was cut, or another was put in its place")
    Ledger(tmp_path).append("noted", value=2)
    assert look(tmp_path, *(tmp_path / FILE).read_bytes().splitlines(keepends=True)) == ([0, 1, 2], "")


def test_lines_lost_doubled_moved_altered_or_foreign_are_told_by_kind(tmp_path: Path) -> None:
    _, a = written(tmp_path)
    _, b = written(tmp_path / "other")
    everything = list(range(6))
    assert look(tmp_path, *a) == (everything, "")
    assert look(tmp_path, *a[:3], *a[4:]) == ([0, 1, 3, 4, 5], "1 line of the ledger is missing after line 3")
    assert look(tmp_path, *a[:2], *a[4:]) == ([0, 3, 4, 5], "2 lines of the ledger are missing after line 2")
    assert look(tmp_path, *a[1:]) == (everything, "1 line of the ledger is missing at the start")
    assert look(tmp_path, *a, a[2]) == (everything, "1 line of the ledger is there twice")
    assert look(tmp_path, *a[:2], a[3], a[2], *a[4:]) == (everything, "1 line of the ledger is out of order")
    assert look(tmp_path, *a, *b) == (everything, "7 lines of the ledger are of another ledger")
    assert look(tmp_path, *a[:3], b[3], *a[4:]) == (
        [0, 1, 3, 4, 5],
        "1 line of the ledger is missing after line 3, 1 is of another ledger",
    )
    altered = a[3].replace(b'"value":2', b'"value":9')
    assert look(tmp_path, *a[:3], altered, *a[4:]) == ([0, 1, 3, 4, 5], "1 line of the ledger is damaged (line 4)")
    altered = a[6].replace(b'"value":5', b'"value":9')
    assert look(tmp_path, *a[:6], altered) == (
        [0, 1, 2, 3, 4],
        "1 line of the ledger is damaged (line 7)",
    )


def test_a_damaged_last_line_stays_told_when_the_ledger_goes_on(tmp_path: Path) -> None:
    _, a = written(tmp_path)
    look(tmp_path, *a[:-1], a[-1].replace(b"5", b"6"))
    Ledger(tmp_path).append("noted", value=6)
    assert look(tmp_path, (tmp_path / FILE).read_bytes()) == ([0, 1, 2, 3, 4, 6], "1 line of the ledger is damaged (line 7)")


def test_line_ends_of_windows_change_nothing(tmp_path: Path) -> None:
    ledger, a = written(tmp_path)
    assert look(tmp_path, *(line.replace(b"\n", b"\r\n") for line in a)) == (list(range(6)), "")
    ledger.append("noted", value=6)
    assert look(tmp_path, ledger.path.read_bytes()) == (list(range(7)), "")
    old = damage.format_1([{"event": "noted", "value": 1}]).replace(b"\n", b"\r\n")
    (tmp_path / END).unlink()
    assert look(tmp_path, b"\xef\xbb\xbf" + old) == ([1], "")


@pytest.mark.parametrize("text", ["[1]", '{"value":1}', '{"event":3}', '{"event":"finished"}', '{"event":"declared","study":1}'])
def test_a_line_without_what_its_readers_need_is_damaged(tmp_path: Path, text: str) -> None:
    whole = damage.format_1([{"event": "noted", "value": 1}])
    assert look(tmp_path, whole, damage.crc32(text)) == ([1], "1 line of the ledger is damaged (line 2)")


def test_a_ledger_of_a_newer_format_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text('{"hash":"1","event":"ledger","format":3}\n{"hash":"2","event":"run"}\n')
    before = (tmp_path / FILE).read_bytes()
    for refused in (Ledger(tmp_path).events, lambda: Ledger(tmp_path).append("run")):
        with pytest.raises(InputError, match="is of format 3, which a newer version wrote; this one knows formats up to 2"):
            refused()
    assert (tmp_path / FILE).read_bytes() == before


def test_a_ledger_of_format_1_goes_on_in_format_2_and_its_lines_are_known_from_then_on(tmp_path: Path) -> None:
    old = damage.format_1([{"event": "noted", "value": n} for n in range(3)]).splitlines(keepends=True)
    assert look(tmp_path, *old) == ([0, 1, 2], "")
    assert Ledger(tmp_path).id == ""
    for number in (3, 4):
        Ledger(tmp_path).append("noted", value=number)
    a = (tmp_path / FILE).read_bytes().splitlines(keepends=True)
    assert a[:3] == old and len(a) == 6 and b'"event":"ledger"' in a[3]
    everything = list(range(5))
    assert look(tmp_path, *a) == (everything, "")
    assert look(tmp_path, a[0], *a[2:]) == ([0, 2, 3, 4], "1 line of the ledger is missing after line 1")
    assert look(tmp_path, *a, a[1]) == (everything, "1 line of the ledger is there twice")
    assert look(tmp_path, a[1], a[0], *a[2:]) == (everything, "1 line of the ledger is out of order")
    forged = damage.format_1([{"event": "noted", "value": 7}])
    assert look(tmp_path, *a, forged) == (everything, "1 line of the ledger is of another ledger")


# ---- what happens to the file while a run is on


def test_a_ledger_that_is_removed_or_cut_while_a_run_writes_is_written_again_whole(tmp_path: Path) -> None:
    for number, harm in enumerate(
        (Path.unlink, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(path.read_bytes()[:200]))
    ):
        ledger, _ = written(tmp_path / str(number))
        with ledger.lock():
            harm(ledger.path)
            with pytest.raises(RunError, match="was removed or cut while this run wrote to it; it is written again, whole"):
                ledger.append("noted", value=6)
        assert look(ledger.folder, ledger.path.read_bytes()) == (list(range(7)), "")


def test_a_ledger_that_is_replaced_while_a_run_writes_loses_no_record(tmp_path: Path) -> None:
    ledger, _ = written(tmp_path / "a")
    other, b = written(tmp_path / "b", 9)
    with ledger.lock():
        other.path.replace(tmp_path / "a" / FILE)
        with pytest.raises(RunError, match="was changed by another program while this run wrote to it; what it held is kept in") as e:
            ledger.append("noted", value=6)
    assert str(ledger.path) in str(e.value) and (tmp_path / "a" / FILE).read_bytes() == b"".join(b)
    assert look(tmp_path, ledger.path.read_bytes()) == (list(range(7)), "")


def test_an_editor_that_saves_the_same_lines_stops_no_run(tmp_path: Path) -> None:
    ledger, a = written(tmp_path)
    with ledger.lock():
        ledger.path.unlink()
        ledger.path.write_bytes(b"".join(a))
        ledger.append("noted", value=6)
    assert look(tmp_path, ledger.path.read_bytes()) == (list(range(7)), "")


def test_a_folder_that_is_removed_while_a_run_writes_is_one_line(tmp_path: Path) -> None:
    ledger, _ = written(tmp_path / "run")
    with ledger.lock():
        (tmp_path / "run").rename(tmp_path / "moved")
        for refused in (ledger.events, lambda: ledger.append("noted", value=6)):
            with pytest.raises(RunError, match="was removed or renamed while this run wrote to it"):
                refused()
    assert not (tmp_path / "run").exists()


def test_of_two_processes_whose_lock_was_removed_the_first_stops_and_nothing_is_lost(tmp_path: Path) -> None:
    first, second = Ledger(tmp_path), Ledger(tmp_path)
    with first.lock():
        first.append("run")
        first.append("noted", value=0)
        (tmp_path / ledgers.LOCK).unlink()
        with second.lock():
            second.append("run")
            with pytest.raises(RunError, match="another aotsearch process writes to"):
                first.append("noted", value=1)
            second.append("noted", value=2)
    assert [e["value"] for e in Ledger(tmp_path).events() if e["event"] == "noted"] == [0, 1, 2] and not str(second.damage)


def test_a_ledger_that_cannot_be_read_or_a_folder_that_cannot_be_locked_is_one_line(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(RunError, match=r"ledger.jsonl cannot be read: Is a directory"):
        Ledger(tmp_path).events()
    (tmp_path / ledgers.LOCK).mkdir()
    with pytest.raises(RunError, match="cannot be written"), Ledger(tmp_path).lock():
        pass


# ---- all of it at once; the long form is `python tests/damage.py --copies 10000`


def test_a_hundred_damaged_folders_report_what_the_whole_ones_do_or_say_what_is_wrong(tmp_path: Path) -> None:
    figures, violations = damage.campaign(120, seed=1, folder=tmp_path)
    assert not violations, violations[0]
    assert figures["as before"] > 5 and figures["told"] > 50 and figures["refused"] > 2
