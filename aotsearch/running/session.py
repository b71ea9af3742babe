"""Ray's own processes and files of one run: watched while it goes on, and gone after it, however it ended.

A run folder remembers the session that it started; the next start ends what a killed driver has left of it.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

FILE = ".session"  # in the folder of checkpoints: where the files of Ray's session lie
LOOK = 2.0  # seconds between two looks at whether Ray's processes live
MISSING = 3  # looks in a row at which a cluster cannot be reached; Ray itself waits a minute, and ends the process then
VITAL = ("raylet", "gcs_server")  # without these it hangs, or waits for a minute


class Session:
    """The session of a Ray that was started for this run.

    Args:
        node: Ray's own description of its processes here; None for a cluster that runs without us.
        lost: Told, in another thread, which process died.
        reach: For a cluster that runs without us: says what of it cannot be reached any more.
    """

    def __init__(self, node: Any, lost: Callable[[str], None], reach: Callable[[], str] | None = None):
        self.node, self.lost, self.reach = node, lost, reach
        self.path = Path(node.get_session_dir_path()) if node is not None else None
        self._kept: Path | None = None
        self._ended, self._told = threading.Event(), threading.Event()
        if node is not None or reach is not None:
            look = self._look if node is not None else self._reach
            threading.Thread(target=look, name="ray-watch", daemon=True).start()

    def keep(self, folder: Path) -> None:
        """Remember the session in the folder of a run, after what is left of the one before it is ended."""
        file = folder / FILE
        if self.path is None or self._kept == file:
            return
        with contextlib.suppress(OSError, ValueError):
            end_former(Path(file.read_text(encoding="utf-8").strip()))
        with contextlib.suppress(OSError):
            file.write_text(str(self.path), encoding="utf-8")
            self._kept = file

    def close(self) -> None:
        """Stop watching; what the session wrote is removed."""
        self._ended.set()
        if self.path is not None:
            shutil.rmtree(self.path, ignore_errors=True)
        if self._kept is not None:
            self._kept.unlink(missing_ok=True)

    def stop(self) -> None:
        """Stop watching: the processes are about to be ended on purpose."""
        self._ended.set()

    def _look(self) -> None:
        while not self._ended.wait(LOOK):
            dead = [str(name) for name, _ in self.node.dead_processes() if str(name) in VITAL]
            if dead and not self._ended.is_set():
                for _, process in self.node.live_processes():  # whose workers would train on for nobody
                    with contextlib.suppress(OSError):
                        process.kill()
                return self._tell(f"Ray's process {dead[0]} died")

    def _reach(self) -> None:
        assert self.reach is not None
        missing = 0
        while not self._ended.wait(LOOK):
            what = self.reach()
            missing = missing + 1 if what else 0
            if missing >= MISSING and not self._ended.is_set():
                return self._tell(what)

    def _tell(self, what: str) -> None:
        self.lost(what)
        self._told.set()

    def wait(self) -> None:
        """For as long as the watch takes to see that something died, where an error makes one think so."""
        if self.node is not None or self.reach is not None:
            self._told.wait(LOOK * (1 if self.reach is None else MISSING) + 1)


def end_former(session: Path) -> None:
    """End the processes of a session whose driver is dead, and remove its files."""
    if not session.name.startswith("session_") or not session.is_dir():
        return
    for pid in _of(session.name):
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(session, ignore_errors=True)


def _of(name: str) -> Iterator[int]:
    """The processes that were started for a session, by their command lines; on Linux."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if name.encode() in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                yield int(entry.name)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[str]:
    """A folder for what Tune writes and nobody reads; what a killed start of the same run left of its own is removed."""
    prefix = f"aotsearch-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}-"
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        shutil.rmtree(left, ignore_errors=True)
    made = tempfile.mkdtemp(prefix=prefix)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
