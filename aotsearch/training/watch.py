"""What no exception tells: a trial that takes no step any more, takes all memory, or whose process dies of a fatal signal.

    checkpoints/KEY.fate   what is known of its end: `hung: ...`, `out-of-memory: ...` or `Fatal Python error: ...`, then where every
                           thread was

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
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from aotsearch.training.environment import memory_taken

HUNG = "hung"
FULL = "out-of-memory"
CALL = getattr(signal, "SIGUSR2", None)  # by which the main thread is called back out of what it hangs in
BUS = "Bus error"  # a file of data was cut short, or its disk failed, while it was read: nothing of the trial's; who opens it next tells
GRACE = 10.0  # seconds in which it may follow
LOOK = 0.2  # seconds between two looks at the memory: what is new to a process comes at a few gigabytes a second at most
BEYOND = 1.05  # of the limit of memory: who takes so much is not waited for


class _Active(threading.local):
    watch: Watch | None = None


_active = _Active()


def beat() -> None:
    """A step was taken, or a part of an evaluation: the trial of this thread lives."""
    if _active.watch is not None:
        _active.watch.last = time.monotonic()


class Ended(Exception):
    """The watch ended a trial.

    Attributes:
        outcome: `hung` or `out-of-memory`.
    """

    def __init__(self, outcome: str, words: str):
        super().__init__(words)
        self.outcome = outcome


def path_of(folder: Path, key: str) -> Path:
    return folder / f"{key}.fate"


def fate(folder: Path, key: str) -> tuple[str, str, str] | None:
    """The outcome of a trial whose process told nothing of it, its message in one line, and where its threads were; None if not known."""
    try:
        text = path_of(folder, key).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    first, _, rest = text.partition("\n")
    if not first or BUS in first:
        return None
    outcome = next((known for known in (HUNG, FULL) if first.startswith(known)), "failed")
    return outcome, first.removeprefix(f"{outcome}: "), rest


class Watch:
    """Watches one program of trials while it is trained and measured.

    In the main thread a trial that hangs, or takes too much memory, is called back by an exception, if what it is in is Python or a system
    call; else, and in any other thread, the process ends, and the file tells why.

    Args:
        path: The file, of the first trial of the program; None for no watch.
        patience: Seconds without a `beat`.
        memory: Bytes that this process may take, without those of files; None for no limit.

    Attributes:
        last: When the last was.
    """

    def __init__(self, path: Path | None, patience: float, memory: float | None = None):
        self.path, self.patience, self.memory = path, patience, memory
        self._ending = ("", "")  # the outcome of a trial that is called back, and the words
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
        raise Ended(*self._ending)

    def _look(self) -> None:
        while True:
            left = self.last + self.patience - time.monotonic()
            if self._done.wait(max(0.05, left) if self.memory is None else LOOK):
                return
            if self.memory is not None and (taken := memory_taken()) > self.memory:
                words = f"it took {taken / 1e9:.2f} GB, more than the {self.memory / 1e9:.2f} GB of study.resources.memory"
                return self._end(FULL, words, lambda: memory_taken() > BEYOND * self.memory)  # type: ignore[operator]
            if time.monotonic() - self.last >= self.patience:
                return self._end(HUNG, f"no step for {self.patience:g} s", lambda: False)

    def _end(self, outcome: str, words: str, urgent: Callable[[], bool]) -> None:
        """End the trial; with its process, where it cannot be called back, or not in time."""
        assert self._file is not None
        self._file.write(f"{outcome}: {words}\n")
        self._file.flush()
        faulthandler.dump_traceback(self._file, all_threads=True)
        if self._here:
            self._ending = outcome, words
            signal.pthread_kill(threading.main_thread().ident, CALL)  # type: ignore[arg-type]
            until = time.monotonic() + GRACE
            while not self._done.wait(LOOK):
                if urgent() or time.monotonic() > until:
                    break
            else:
                return
            sys.stderr.write(
                f"a trial cannot be called back ({words}): this process ends. To continue, run the same command again: the trial is then "
                f"recorded as {outcome}\n"
            )
        os._exit(70)
