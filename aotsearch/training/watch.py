"""What no exception tells: a trial that takes no step any more, or whose process dies of a fatal signal.

    checkpoints/KEY.fate   what is known of its end: `hung: ...` or `Fatal Python error: ...`, then where every thread was

The file is there while the trial runs, empty, and is removed when it ends as trials end. Who finds one with words in it knows the outcome.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

HUNG = "hung"
CALL = getattr(signal, "SIGUSR2", None)  # by which the main thread is called back out of what it hangs in
GRACE = 10.0  # seconds in which it may follow


class _Active(threading.local):
    watch: Watch | None = None


_active = _Active()


def beat() -> None:
    """A step was taken, or a part of an evaluation: the trial of this thread lives."""
    if _active.watch is not None:
        _active.watch.last = time.monotonic()


class Hung(Exception):
    """No step was taken for too long."""


def path_of(folder: Path, key: str) -> Path:
    return folder / f"{key}.fate"


def fate(folder: Path, key: str) -> tuple[str, str, str] | None:
    """The outcome of a trial whose process told nothing of it, its message in one line, and where its threads were; None if not known."""
    try:
        text = path_of(folder, key).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    first, _, rest = text.partition("\n")
    if not first:
        return None
    return (HUNG if first.startswith(HUNG) else "failed"), first.removeprefix(f"{HUNG}: "), rest


class Watch:
    """Watches one program of trials while it is trained and measured.

    In the main thread a trial that hangs is called back by an exception, if what it hangs in is Python or a system call; else, and in any
    other thread, the process ends, and the file tells why.

    Args:
        path: The file, of the first trial of the program; None for no watch.
        patience: Seconds without a `beat`.

    Attributes:
        last: When the last was.
    """

    def __init__(self, path: Path | None, patience: float):
        self.path, self.patience = path, patience
        self._file: IO[str] | None = None
        self._done = threading.Event()
        self.last = time.monotonic()
        self._former: Any = None
        self._was_enabled = False

    def __enter__(self) -> Watch:
        if self.path is None:
            return self
        with contextlib.suppress(OSError):  # a full disk costs the watch, not the trial
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "w", encoding="utf-8")
        if self._file is not None:
            self._was_enabled = faulthandler.is_enabled()
            faulthandler.enable(self._file)
            self._here = CALL is not None and threading.current_thread() is threading.main_thread()
            if self._here:
                self._former = signal.signal(CALL, self._called)  # type: ignore[arg-type]
            self.last, _active.watch = time.monotonic(), self
            threading.Thread(target=self._look, name="watch", daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._done.set()
        _active.watch = None
        if self._file is None:
            return
        if self._here:
            signal.signal(CALL, self._former)  # type: ignore[arg-type]
        faulthandler.disable()
        if self._was_enabled:
            with contextlib.suppress(Exception):  # standard error may be no file
                faulthandler.enable()
        self._file.close()
        with contextlib.suppress(OSError):
            Path(self._file.name).unlink()

    def _called(self, *_: Any) -> None:
        raise Hung(self._words)

    @property
    def _words(self) -> str:
        return f"no step for {self.patience:g} s"

    def _look(self) -> None:
        while not self._done.wait(max(0.05, self.last + self.patience - time.monotonic())):
            if time.monotonic() - self.last >= self.patience:
                return self._hung()

    def _hung(self) -> None:
        assert self._file is not None
        self._file.write(f"{HUNG}: {self._words}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)
        if self._here:
            signal.pthread_kill(threading.main_thread().ident, CALL)  # type: ignore[arg-type]
            if self._done.wait(GRACE):
                return
            sys.stderr.write(
                f"a trial took no step for {self.patience:g} s and cannot be called back: this process ends. To continue, run the same "
                "command again: the trial is then recorded as hung\n"
            )
        os._exit(70)
