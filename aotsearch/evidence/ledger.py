"""The append-only truth on disk: what ran and what it said. Resuming, reports and MLflow all read it.

`ledger.jsonl` holds one event per line, each a JSON object that `lines.py` numbers and checks. A line is written whole and synced before
the next step; a line torn by a crash is skipped when read, and the next one starts on a line of its own and takes its number.

Beside it `ledger.end` says how many lines it has: lines that are gone at its end, whole, would not show otherwise.

A number that is not finite, which JSON has none of, is null; the event's `not_finite` holds what it was, by its path.

Events: `run` (one per start of the command that had anything to tell: command, versions, machine), `data` (the splits and their
baselines), `started` and `finished` (one trial; `finished` holds its whole record). Of a search also `proposed` (an architecture, before it
is trained), `exhausted` (no other was found) and `importance` (which decisions mattered to it). Of `aotsearch time` `timed` (seconds of a
step of every model, round by round, and where they were measured). What they must have is in `shapes.py`.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import logging
import math
import os
import secrets
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import filelock

from aotsearch.errors import InputError, RunError
from aotsearch.evidence import lines
from aotsearch.evidence.lines import Damage, Reading, Row
from aotsearch.files import written

FILE = "ledger.jsonl"
END = "ledger.end"
LOCK = ".lock"
LOCKLESS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)  # what file systems without locks answer
PATIENCE = 1.0  # seconds for which a writer waits for the lock: longer than any look at it takes
FAILED = ("failed", "out-of-memory", "hung")  # outcomes that say nothing about the architecture's loss and may pass on another try

log = logging.getLogger("aotsearch")


class Ledger:
    """The ledger of one run folder."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / FILE
        self._file = 0  # what was read: of which file,
        self._end = 0  # to which byte,
        self._text: list[bytes] = []  # its lines that have an end,
        self._rows: list[Row] = []  # what they are,
        self._tail: list[Row] = []  # what may still be written
        self._found = Reading()
        self._drawn = secrets.token_hex(6)  # the id of a new ledger
        self._held, self._mine = False, 0  # whether this process holds the folder, and the last line that it wrote since

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
            RunError: the folder cannot be written.
        """
        with contextlib.ExitStack() as stack:
            try:
                with warnings.catch_warnings(action="ignore"):  # it tells that it takes a file for a lock, where the system knows none
                    stack.enter_context(filelock.FileLock(self.folder / LOCK, timeout=PATIENCE))
            except filelock.Timeout:
                raise InputError(f"another aotsearch process writes to {self.folder}; wait for it, or choose another --out") from None
            except (OSError, NotImplementedError) as e:
                if isinstance(e, OSError) and e.errno not in LOCKLESS:
                    raise RunError(f"{self.folder} cannot be written: {e.strerror or e}; choose another --out") from None
                log.warning("%s: its disk knows no locks, so nothing keeps a second process from this run; start none", self.folder)
            self._held = True
            try:
                yield
            finally:
                self._held, self._mine = False, 0

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
            InputError: the ledger is of a newer format.
            RunError: the disk refused it; or while this process held the folder its ledger was lost, which is mended first, or another
                process came to write it.
        """
        lost: dict[str, str] = {}
        event: dict[str, Any] = {"event": kind, **{name: _plain(value, name, lost) for name, value in fields.items()}}
        event |= {"not_finite": lost} if lost else {}
        try:
            told = self._mend()
            with open(self.path, "ab+") as file:
                self._read(file)
                others = [self._found.events.get(n) for n in range(self._mine + 1, self._found.next)] if self._held and self._mine else []
                made = [] if self._found.id else [lines.header([*self._rows, *self._tail])]
                begin = "\n" if self._tail else ""  # the last writer died in the middle of a line
                numbered = enumerate([*made, event], self._found.next)
                file.write((begin + "".join(lines.line(e, self._found.id or self._drawn, n) for n, e in numbered)).encode())
                file.flush()
                os.fsync(file.fileno())
                self._tell_end(self._found.id or self._drawn, self._found.next + len(made))
                self._read(file)
        except OSError as e:
            raise RunError(self._refused(e)) from None
        self._mine = self._found.next - 1
        if any(e and e["event"] == "run" for e in others):  # its lock was removed, or the disk knows no locks
            told = f"another aotsearch process writes to {self.folder} since this one does: this one stops, what it has finished is kept"
        if told:
            raise RunError(told)
        return event

    def events(self) -> Iterator[dict[str, Any]]:
        """Every event that is this ledger's, in order; what is wrong with its lines is told by `damage`.

        A line is read once: the next call reads what was appended since, by whomever, unless the file is another or was cut.

        Raises:
            InputError: the ledger is of a newer format.
            RunError: it cannot be read, or was lost while this process held the folder, and is mended.
        """
        try:
            if told := self._mend():
                raise RunError(told)
            with open(self.path, "rb") as file:
                self._read(file)
        except (FileNotFoundError, NotADirectoryError) as e:
            if self._held and self._text:
                raise RunError(self._refused(e)) from None
            self._forget(0)
            self._found = lines.read([], False, self._told_end())
        except OSError as e:
            raise RunError(f"{self.path} cannot be read: {e.strerror}") from None
        return iter([*self._found.events.values()])

    @property
    def id(self) -> str:
        """Names the ledger: drawn where it is new, empty where all its lines are of format 1."""
        self.events()
        return self._found.id or ("" if self._rows or self._tail else self._drawn)

    @property
    def damage(self) -> Damage:
        """What is wrong with its lines, as they were last read."""
        return self._found.damage

    def _tell_end(self, ledger: str, number: int) -> None:
        """Write how many lines there are, in place: a kill leaves the former number, which is as true."""
        with contextlib.suppress(OSError):  # the ledger itself is whole without it
            file = os.open(self.folder / END, os.O_WRONLY | os.O_CREAT, 0o666)
            try:
                os.write(file, f"{ledger} {number:>12}\n".encode())
            finally:
                os.close(file)

    def _told_end(self) -> tuple[str, int]:
        """Of which ledger how many lines were written; of none where that is not known."""
        with contextlib.suppress(OSError, ValueError):
            ledger, number = (self.folder / END).read_text().split()
            return ledger, int(number)
        return "", 0

    def _read(self, file: IO[bytes]) -> None:
        """Read on from the end of the last whole line; what follows the new last one may still be written, and is read again."""
        end = self._told_end()  # first: another process may write on meanwhile
        text = self._follow(file)
        if text is None:
            self._forget(os.fstat(file.fileno()).st_ino)
            text = self._follow(file) or b""
        fresh = io.BytesIO(text).readlines()
        tail = [fresh.pop()] if fresh and not fresh[-1].endswith(b"\n") else []
        whole = not end[0] or (end[0] == self._found.id and end[1] < self._found.next + len(fresh))
        if not fresh and not tail and not self._tail and whole:
            return
        rows = [lines.parse(text) for text in fresh if text.strip()]
        usual = whole and not tail and not self._tail and all(map(self._found.follow, rows))
        self._end += sum(map(len, fresh))
        self._text += fresh
        self._rows += rows
        self._tail = [lines.parse(text) for text in tail if text.strip()]
        if not usual:
            self._found = lines.read([*self._rows, *self._tail], bool(tail), end)
        if self._found.newer:
            known = f"of format {self._found.newer}, which a newer version wrote; this one knows formats up to {lines.FORMAT}"
            raise InputError(f"{self.path} is {known}: install the newer version")

    def _follow(self, file: IO[bytes]) -> bytes | None:
        """What follows the last whole line that was read; None where the file is another, was cut or was written anew."""
        found, last = os.fstat(file.fileno()), self._text[-1] if self._text else b""
        begin = self._end - len(last)
        file.seek(begin)
        text = file.read(max(0, found.st_size - begin))  # of a device no more than it has, which is nothing
        return text[len(last) :] if found.st_ino == self._file and text.startswith(last) else None

    def _forget(self, file: int) -> None:
        self._drawn = self._found.id or self._drawn  # one that is begun again in its place is the same
        self._file, self._end, self._text, self._rows, self._tail, self._found = file, 0, [], [], [], Reading()

    # ---- what goes wrong while this process holds the folder

    def _mend(self) -> str:
        """Where the file is no longer what this process read and wrote, write that again. Returns what happened, in words."""
        if not self._held or not self._text or self._there():
            return ""
        if not self.folder.is_dir():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        text, found = b"".join(self._text), self.path.read_bytes() if self.path.exists() else b""
        if found.startswith(text):  # another file with the same lines, as an editor saves it
            return ""
        again = "run the same command again to continue"
        told = f"{self.path} was removed or cut while this run wrote to it; it is written again, whole: {again}"
        if not text.startswith(found):
            kept = self.path.with_name(f"kept-{self._found.id}-{FILE}")
            told = f"{self.path} was changed by another program while this run wrote to it; what it held is kept in {kept}: "
            told += f"move that back over it, and {again}"
            self.path = kept
        with written(self.path) as made:
            made.write_bytes(text)
        return told

    def _there(self) -> bool:
        """Whether the file is still the one that was read."""
        with contextlib.suppress(OSError), open(self.path, "rb") as file:
            return self._follow(file) is not None
        return False

    def _refused(self, e: OSError) -> str:
        if e.errno == errno.ENOENT:
            return f"{self.folder} was removed or renamed while this run wrote to it: what was finished is kept where it was moved to"
        remedy = "free space" if e.errno in (errno.ENOSPC, errno.EDQUOT) else "let it be written"
        return f"{self.path}: {e.strerror}; {remedy} and run the same command again to continue"

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
