"""A command as a user gives it, in this process: what it prints and its exit code. Starting Python and importing torch takes longer than
most commands do; that `python -m aotsearch` starts is tested with those that must not be in this process."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path
from unittest import mock

from aotsearch.__main__ import main


def aotsearch(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The exit code of `aotsearch ARGUMENTS` in a folder, and all that it wrote to standard output and standard error."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    with (
        contextlib.chdir(cwd or Path.cwd()),
        mock.patch.object(sys, "argv", ["aotsearch", *arguments]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as e:  # an error that is no SystemExit would be a traceback, and fails the test
            code = e.code if isinstance(e.code, int) else int(bool(e.code))
    return subprocess.CompletedProcess(["aotsearch", *arguments], code, out.getvalue(), err.getvalue())
