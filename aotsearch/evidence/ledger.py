"""The append-only truth on disk: what ran and what it said. Resuming, reports and MLflow all read it.

`ledger.jsonl` holds one event per line, each a JSON object with a checksum. A line is written whole and synced before the
next step; a line torn by a crash is skipped when read, and the next one starts on a line of its own.

A number that is not finite, which JSON has none of, is null; the event's `not_finite` holds what it was, by its path.

Events: `run` (one per start of the command that had anything to tell: command, versions, machine), `data` (the splits and their
baselines), `started` and `finished` (one trial; `finished` holds its whole record). Of a search also `proposed` (an architecture, before it
is trained), `exhausted` (no other was found) and `importance` (which decisions mattered to it). Of `aotsearch time` `timed` (seconds of a
step of every model, round by round, and where they were measured).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import filelock

from aotsearch.errors import InputError, RunError

OUTCOMES = {"stopped": {"outcome": "pruned"}}  # as versions before 0.3 wrote it
FILE = "ledger.jsonl"
LOCK = ".lock"
PATIENCE = 1.0  # seconds for which a writer waits for the lock: longer than any look at it takes
FAILED = ("failed", "out-of-memory", "hung")  # outcomes that say nothing about the architecture's loss and may pass on another try


class Ledger:
    """The ledger of one run folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / FILE
        self.corrupt = 0  # lines skipped by the last read
        self._file, self._end = 0, 0  # what was read: of which file, and to which byte
        self._events: list[dict[str, Any]] = []
        self._torn = 0

    @classmethod
    def open(cls, folder: str | Path) -> Ledger:
        """The ledger of an existing run folder.

        Raises:
            InputError: the folder holds no run.
        """
        ledger = cls(folder)
        if not ledger.path.is_file():
            raise InputError(f"{ledger.folder} holds no run (no {FILE}); start one with `aotsearch run FILE --out {ledger.folder}`")
        return ledger

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run folder for writing.

        Raises:
            InputError: another process holds it.
        """
        try:
            with filelock.FileLock(self.folder / LOCK, timeout=PATIENCE):
                yield
        except filelock.Timeout:
            raise InputError(f"another aotsearch process writes to {self.folder}; wait for it, or choose another --out") from None

    @property
    def locked(self) -> bool:
        """Whether a process is writing to this run now: a look that makes no file, and that a writer waits out."""
        try:
            import fcntl

            file = os.open(self.folder / LOCK, os.O_RDONLY)
        except ImportError:  # no POSIX system
            return False
        except OSError:  # never written to, or not by anyone who lets us look
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:  # a file system without locks
            return False
        finally:
            os.close(file)
        return False

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Write one event and sync it.

        Raises:
            RunError: the disk refused it.
        """
        lost: dict[str, str] = {}
        event: dict[str, Any] = {"event": kind, **{name: _plain(value, name, lost) for name, value in fields.items()}}
        event |= {"not_finite": lost} if lost else {}
        text = json.dumps(event, separators=(",", ":"), allow_nan=False)
        line = f'{{"crc":"{_crc(text)}",{text[1:]}\n'
        try:
            with open(self.path, "ab+") as file:
                file.seek(0, os.SEEK_END)
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # the last writer died in the middle of a line
                        line = "\n" + line
                file.write(line.encode())
                file.flush()
                os.fsync(file.fileno())
        except OSError as e:
            raise RunError(f"{self.path}: {e.strerror}; free space and run the same command again to continue") from None
        return event

    def events(self) -> Iterator[dict[str, Any]]:
        """Every whole event in order; torn or altered lines are counted in `corrupt` and skipped.

        A line is read once: the next call reads what was appended since, by whomever, unless the file is another or was cut.
        """
        try:
            with open(self.path, "rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._file or found.st_size < self._end:
                    self._file, self._end, self._events, self._torn = found.st_ino, 0, [], 0
                file.seek(self._end)
                last = self._take(file)
        except (FileNotFoundError, NotADirectoryError):
            self._file, self._end, self._events, self._torn, last = 0, 0, [], 0, []
        self.corrupt = self._torn + last.count(None)
        return iter([*self._events, *filter(None, last)])

    def _take(self, file: IO[bytes]) -> list[dict[str, Any] | None]:
        """Read on from the end of the last whole line; what follows the new last one may still be written, and is read again."""
        for line in file:
            event = _parse(line)
            if not line.endswith(b"\n"):
                return [event] if line.strip() else []
            self._end += len(line)
            if event is not None:
                self._events.append(event)
            elif line.strip():
                self._torn += 1
        return []

    def digest(self) -> str:
        """SHA-256 of the file; of nothing where there is none."""
        return hashlib.sha256(self.path.read_bytes() if self.path.exists() else b"").hexdigest()

    def last(self, kind: str) -> dict[str, Any] | None:
        """The latest event of a kind."""
        found = None
        for event in self.events():
            if event["event"] == kind:
                found = event
        return found

    def records(self) -> dict[str, dict[str, Any]]:
        """The latest record of every finished trial, by trial key, in the order they finished first."""
        found: dict[str, dict[str, Any]] = {}
        for event in self.events():
            if event["event"] == "finished":
                found[event["key"]] = event
        return found


def _plain(value: Any, path: str, lost: dict[str, str]) -> Any:
    """A value as JSON can hold it, whatever a task or a part of an installed package made; what is no number goes into `lost`."""
    if hasattr(value, "tolist"):  # an array, a tensor, or one number of either
        value = value.tolist()
    if isinstance(value, float) and not math.isfinite(value):
        lost[path] = str(value)
        return None
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(v, f"{path}.{name}", lost) for name, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v, f"{path}.{i}", lost) for i, v in enumerate(value)]
    return str(value)


def _crc(text: str) -> str:
    return f"{zlib.crc32(text.encode()):08x}"


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        text = line.decode().rstrip("\n")
        event = json.loads(text)
        crc = event.pop("crc")
        whole = crc == _crc("{" + text.split(",", 1)[1])
        return event | OUTCOMES.get(event.get("outcome"), {}) if whole else None
    except (ValueError, KeyError, IndexError, AttributeError):
        return None
