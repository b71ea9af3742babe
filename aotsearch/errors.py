"""Every error a user can cause, as a tree.

    AotsearchError            one line, never a traceback
    |-- InputError            the user's input is wrong (exit code 2): a list of problems, each with its place
    |   `-- WordError         the word of an installed package cannot be used
    |-- RunError              the machine or the disk failed (exit code 1): nothing recorded is lost

Programming errors are asserts. Messages state the law, then the values, then the remedy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

LONGEST = 600  # characters of a message; what a file holds may be any length


def one_line(text: str) -> str:
    """Text as it is safe to print: on one line, nothing that moves a terminal's cursor, not too long."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"


def shown(text: str) -> str:
    """Text for a terminal: a name that holds control characters cannot move its cursor or its colours."""
    return "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in text)


def first_line(error: BaseException) -> str:
    """What kind of error it is, and the first line of what it says: for one that is not ours."""
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]


@dataclass(frozen=True)
class Mark:
    """A place in a file. Lines and columns count from one; `line` 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0
    text: str = ""  # the source line, for underlining
    width: int = 1  # characters to underline

    def __str__(self) -> str:
        file = one_line(self.file)
        return f"{file}:{self.line}:{self.column}" if self.line else file

    def underline(self) -> str:
        """The source line with the offending text marked below it; empty where there is no line to show."""
        if not self.text.strip():
            return ""
        start = self.column - 1
        return f"    {self.text}\n    {' ' * start}{'^' * max(1, min(self.width, len(self.text) - start))}"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong, and where."""

    message: str
    mark: Mark | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "message", one_line(self.message))

    def __str__(self) -> str:
        return f"{self.mark}: {self.message}" if self.mark else self.message


class AotsearchError(Exception):
    """Base of every error that is shown to a user as one line."""

    exit_code = 1


class InputError(AotsearchError):
    """The user's input is wrong; all problems of a file are reported at once."""

    exit_code = 2

    def __init__(self, problems: str | Problem | Iterable[Problem], mark: Mark | None = None):
        if isinstance(problems, str):
            problems = [Problem(problems, mark)]
        elif isinstance(problems, Problem):
            problems = [problems]
        self.problems = tuple(problems)
        assert self.problems
        super().__init__("\n".join(map(str, self.problems)))

    def at(self, mark: Mark | None) -> InputError:
        """The same error, its problems without a place put at `mark`."""
        return InputError(Problem(p.message, p.mark or mark) for p in self.problems)


class WordError(InputError):
    """The word of an installed package cannot be used; whoever wrote the package can mend it."""


class RunError(AotsearchError):
    """The run cannot go on, for a reason outside the study file."""


def suggest(given: object, known: Iterable[object]) -> str:
    """The tail of an unknown-word message: the nearest valid word, then all of them."""
    words = sorted({str(k) for k in known})
    near = difflib.get_close_matches(str(given), words, n=1, cutoff=0.6)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    shown = ", ".join(words[:20]) + (", ..." if len(words) > 20 else "")
    return f"{hint} (known: {shown})" if words else hint
