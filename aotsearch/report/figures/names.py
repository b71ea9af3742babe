"""Names -> names that fit: cut in the middle, and so that those which differ are still told apart.

cuts(["attention.heads=4", ...], 24) -> {"attention.heads=4": "attention.heads=4", ...}
"""

from __future__ import annotations

from collections.abc import Iterable

GAP = "\N{HORIZONTAL ELLIPSIS}"


def shorten(text: str, most: int) -> str:
    """A text of at most so many characters: one that is longer keeps its beginning and its end."""
    if len(text) <= most:
        return text
    end = (most - 1) // 2
    return f"{text[: most - 1 - end].rstrip()}{GAP}{text[len(text) - end :].lstrip()}"


def cuts(names: Iterable[str], most: int) -> dict[str, str]:
    """Each name as it is shown with at most so many characters, no two alike.

    A name that is too long is cut in the middle. Where several come out alike, they are cut around the first place in which they differ;
    those that so little room cannot tell apart are numbered.
    """
    found = {name: shorten(name, most) for name in names}
    for _ in range(max(map(len, found), default=0)):  # each turn tells those that were alike apart one place further on
        alike = _alike(found)
        if not alike:
            return found
        for group in alike:
            found |= _around(group, most)
    for group in _alike(found):
        found |= {name: f"{shorten(name, most - 4)} #{i}" for i, name in enumerate(group, 1)}
    return found


def _alike(found: dict[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for name, shown in found.items():
        groups.setdefault(shown, []).append(name)
    return [group for group in groups.values() if len(group) > 1]


def _around(group: list[str], most: int) -> dict[str, str]:
    """The beginning, what follows the place in which all of a group are still alike, and, where there is room, the end."""
    here = next((i for i, letters in enumerate(zip(*group, strict=False)) if len(set(letters)) > 1), min(map(len, group)))
    head, tail = most // 3, most // 4
    start = max(head, here - 2)
    shown = {}
    for name in group:
        rest = most - head - 1  # for what follows the first gap
        if len(name) - start <= rest:
            shown[name] = f"{name[:head]}{GAP}{name[len(name) - rest :] if len(name) - rest > here - 2 else name[start:]}"
        else:
            shown[name] = f"{name[:head]}{GAP}{name[start : start + rest - tail - 1]}{GAP}{name[len(name) - tail :]}"
    return shown
