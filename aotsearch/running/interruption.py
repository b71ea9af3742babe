"""Signals that ask a run to end: what trains is written down, and the run ends in an order that loses nothing.

Ctrl-C (SIGINT), SIGTERM, SIGHUP and SIGUSR1, by which Slurm warns of the end of a job, are alike but for the exit code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from aotsearch.training.checkpoint import NOW, path_of

SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)]
LOST = getattr(signal, "SIGUSR2", None)  # by which another thread tells the main one that what trains is gone
HEARING = 5.0  # seconds in which the main thread hears that
AGAIN = "AOTSEARCH_STARTS"  # how often the command has started itself again
RAYS = 3  # that may be lost before a run ends
PATIENCE = 4.0  # seconds that the states of trials are waited for; whoever sends SIGTERM may wait for ten in all


class Interrupted(KeyboardInterrupt):
    """A run was asked to end.

    Attributes:
        code: Of the exit: 130 after Ctrl-C, else 143.
    """

    def __init__(self, number: int):
        super().__init__()
        self.code = 130 if number == signal.SIGINT else 143


class ClusterLost(BaseException):
    """What trains is gone; no library may take this for an error of its own."""


class Interruption:
    """Hears the signals while a run goes on; in another thread than the main one it hears nothing.

    Args:
        checkpoints: The folder of the states of trials.
        here: Whether they train in this process: then a first signal lets them come to the end of a step, a second does not.
        command: Whether this process is the command `aotsearch run`.
    """

    def __init__(self, checkpoints: Path, here: bool, command: bool = False):
        self.command = command
        self.folder, self.here = checkpoints, here
        self.number = 0  # of the first signal
        self.training = self.closing = False
        self.lost = ""  # what is gone of those that train
        self._heard = False
        self._begun = 0  # how often trials began to train
        self._former: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        self._heard = threading.current_thread() is threading.main_thread()
        self.hold()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.number:
            with contextlib.suppress(OSError):
                (self.folder / NOW).unlink(missing_ok=True)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()
        self._heard = False

    def begin(self) -> None:
        """Trials train from here on."""
        with contextlib.suppress(OSError):
            (self.folder / NOW).unlink()  # of a run that was killed before it could remove it
        self._begun += 1
        self.training, self.lost = True, ""

    def lose(self, what: str) -> None:
        """Tell the main thread, from another one, that what trains is gone; where that hangs in it, the command is started again."""
        self.lost = what
        if not self._heard or self.closing or LOST is None:
            return
        signal.pthread_kill(threading.main_thread().ident, LOST)  # type: ignore[arg-type]
        mine, until = self._begun, time.monotonic() + HEARING
        while self.training and self._begun == mine and time.monotonic() < until:
            time.sleep(0.1)
        if self.training and self._begun == mine and not self.closing:
            self._again()

    def _again(self) -> None:
        """Begin anew: Ray holds the main thread, and would end the process after a minute."""
        number = int(os.environ.get(AGAIN, "0")) + 1
        known = bool(self.command) and number < RAYS
        sys.stderr.write(f"{self.lost}: {'the command starts again' if known else 'run the same command again'} to continue\n")
        sys.stderr.flush()
        if known:
            os.environ[AGAIN] = str(number)
            os.execv(sys.executable, [sys.executable, "-m", "aotsearch", *sys.argv[1:]])  # no shell is what is wanted  # nosec B606
        os._exit(1)

    def hold(self) -> None:
        """Hear the signals again, where a library has taken them since."""
        for number in SIGNALS if self._heard else ():
            found = signal.getsignal(number)
            if found == self._interrupt or (number != signal.SIGINT and found is signal.SIG_IGN):  # nohup has its reason
                continue
            self._former.setdefault(number, found)
            signal.signal(number, self._interrupt)
        own = {signal.SIGALRM: self._interrupt} if self.here and hasattr(signal, "SIGALRM") else {LOST: self._lose}
        for number, handler in own.items() if self._heard else ():
            if number is not None and signal.getsignal(number) != handler:
                self._former.setdefault(number, signal.signal(number, handler))

    def check(self) -> None:
        """End here, if that was asked for: libraries swallow the first exception that tells it."""
        if self.number and not self.closing:
            raise Interrupted(self.number)

    def leave(self, keys: Iterable[str]) -> None:
        """Wait for the states of the trials that train in other processes; from here on no signal disturbs the end."""
        wanted = [] if self.here else list(keys)
        if self.here and hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        try:
            asked = (self.folder / NOW).stat().st_mtime
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until and not all(_newer(path_of(self.folder, key), asked) for key in wanted):
                time.sleep(0.1)
        except OSError:  # nothing could be asked for
            pass
        finally:  # also where a second signal ends the waiting
            self.closing = True

    def _interrupt(self, number: int, _: Any) -> None:
        if self.closing:
            return
        first = not self.number
        if first:
            self.number = number
            if self.training:
                with contextlib.suppress(OSError):
                    (self.folder / NOW).touch()
            if self.here and self.training and hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, PATIENCE)  # a step may never end
                return
        raise Interrupted(self.number)

    def _lose(self, *_: Any) -> None:
        if self.training and not self.closing:
            raise ClusterLost(self.lost)


def _newer(path: Path, moment: float) -> bool:
    try:
        return path.stat().st_mtime >= moment
    except OSError:
        return False
