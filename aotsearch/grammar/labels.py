"""What the alternatives of a decision are called where the file gives them no label."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

LONGEST = 60  # characters of a label
LABEL = re.compile(rf"(?=\S)[^=,\n\r\t]{{1,{LONGEST}}}(?<=\S)")  # an arm is named `address=label,address=label`

REMOVAL = re.compile(r"(no|without)[ _-]\w", re.IGNORECASE)  # by which a name says that something is taken away


def short(alternatives: Sequence[Any]) -> list[Any]:
    """The shortest name that tells each from the others: the scalar, the word, or the word with those options in which it differs."""
    found = _named(alternatives, _differing)
    return found if len(set(map(repr, found))) == len(found) else whole(alternatives)


def whole(alternatives: Sequence[Any]) -> list[Any]:
    """The scalar, the word, or the word with all its options where words alone would clash: what versions before 0.4 called them."""
    return _named(alternatives, lambda alternative, _: text(alternative))


def _named(alternatives: Sequence[Any], written: Callable[[Any, Sequence[Any]], str]) -> list[Any]:
    words = [text(a) if isinstance(a, list) else head(a) for a in alternatives]
    found = []
    for i, (word, a) in enumerate(zip(words, alternatives, strict=True)):
        rivals = [b for j, b in enumerate(alternatives) if j != i and words[j] == word]
        own = f"[{text(a)}]" if isinstance(a, list) else a  # a list of one reads as what is in it
        found.append(word if not rivals else written(a, rivals) if isinstance(a, dict) else own)
    return found


def _differing(alternative: Mapping[Any, Any], rivals: Sequence[Any]) -> str:
    """A word with those of its options that are not the same in all of its rivals."""
    if any(isinstance(m, dict) and len(m) != 1 for m in (alternative, *rivals)):
        return text(alternative)
    (word,) = alternative
    own, *others = (r[word] if isinstance(r, dict) and isinstance(r[word], dict) else {} for r in (alternative, *rivals))
    kept = {k: v for k, v in own.items() if any(k not in o or repr(o[k]) != repr(v) for o in others)}
    return text({word: kept}) if kept else str(word)


def head(plain: Any) -> Any:
    """The word of a mapping; any other value itself."""
    return next(iter(plain), None) if isinstance(plain, dict) else plain


def text(plain: Any) -> str:
    """An alternative with all that it says, on one line."""
    if isinstance(plain, dict):
        return "+".join(f"{k}({text(v)})" if isinstance(v, dict) and v else f"{k}={text(v)}" for k, v in plain.items())
    if isinstance(plain, list):
        return "+".join(text(p) for p in plain) or "[]"
    return str(plain)
