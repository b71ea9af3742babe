"""What a process may lack where it was started, made up for before a library stumbles over it: streams, a home, a name, a working folder.

Libraries ask for all of these, and answer their lack with errors that name none of them.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import TextIO

from aotsearch.errors import InputError, RunError, shown


def complete() -> None:
    """What every command needs."""
    streams()
    identity()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of a home that cannot be written, and does without


def streams() -> None:
    """Standard streams that are closed lead nowhere; those that cannot show a character show its number.

    Where a number below 3 is free, the next file that is opened gets it, and a library that writes to standard error writes into that file.
    """
    for name, number, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:
            with contextlib.suppress(OSError):
                _lead_nowhere(number)
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        unicode = getattr(stream, "encoding", None) in ("utf-8", "UTF-8")
        if hasattr(stream, "reconfigure") and stream.errors in ("strict", "strict" if unicode else "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def identity() -> None:
    """A name and a home for a user whom the machine does not know, as in many containers."""
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["LOGNAME"] = f"uid{os.getuid()}"
    if not os.environ.get("HOME", "-"):
        del os.environ["HOME"]
    with contextlib.suppress(OSError):
        if os.path.expanduser("~") == "~":  # noqa: PTH111 (of pathlib an error)
            os.environ["HOME"] = str(_home())


def _home() -> Path:
    """A folder of this user alone, the same at every start: prepared data is kept there, too."""
    place = Path(tempfile.gettempdir()) / f"aotsearch-home-{os.getuid()}"
    with contextlib.suppress(FileExistsError):
        place.mkdir(mode=0o700)
    found = place.lstat()
    if place.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:  # somebody else waits there
        return Path(tempfile.mkdtemp(prefix="aotsearch-home-"))
    return place


def required_folder() -> None:
    """
    Raises:
        InputError: the working folder was removed.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        remedy = 'change to one that is there: `cd ~`, or `cd "$PWD"` where it was made again'
        raise InputError(f"the working folder was removed since it was entered; {remedy}") from None


def lacking(error: OSError) -> str:
    """Which of what a process needs to start is behind an error, as one line; empty where none is."""
    if not write(sys.stdout, ""):  # typer prints help itself
        return f"standard output cannot be written: {error.strerror}"
    try:
        required_folder()
    except InputError as e:
        return str(e)
    return ""


def write(stream: TextIO, text: str) -> bool:
    """Write and flush; whether that went well. Where the stream's disk is full or its reader is gone, what follows is dropped: a run
    must not end because nobody hears it."""
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        silence(stream)
        return False
    return True


def put(text: str, end: str = "\n") -> None:
    """Write a result to standard output.

    Raises:
        RunError: it is full.
        BrokenPipeError: its reader wants no more.
    """
    try:
        sys.stdout.write(shown(text) + end)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as e:
        raise RunError(f"standard output cannot be written: {e.strerror}; what was made is kept") from None


def say(text: str) -> None:
    """Write a line to standard error."""
    write(sys.stderr, shown(text) + "\n")


def silence(stream: TextIO) -> None:
    """Lead a stream nowhere, with what it still holds, which Python would try to write once more when it ends."""
    with contextlib.suppress(OSError, ValueError):
        _lead_nowhere(stream.fileno())


def _lead_nowhere(number: int) -> None:
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
