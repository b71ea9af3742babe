"""Strict YAML 1.2 with places: text -> Node.

Every node keeps its line and column, so that later stages can point at the text they refuse. Differences from PyYAML's
default: 1e-4 is a number, `no` is a string, a repeated key is an error, and anchors, tags, deep nesting and large files are refused.
"""

from __future__ import annotations

import re
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import yaml

from aotsearch.errors import InputError, Mark, Problem

MAX_BYTES = 1 << 18
MAX_VALUES = 20_000  # of a file, keys among them
MAX_DEPTH = 60

_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_ODD = "\u00a0\u1680\u2000-\u200b\u202f\u205f\u3000\ufeff"  # spaces to the eye, letters to YAML
_MISPLACED = re.compile(rf"(?:^|[:,\[{{]|^\s*[-?])[ \t]*[{_ODD}]")
_EDGES = re.compile(rf"^[{_ODD}]|[{_ODD}]$")
_IN_A_KEY = re.compile(rf"[{_ODD}]")
_ODD_LAW = "{} stands where YAML takes spaces alone; replace it with a space"
_CONSTANTS: dict[str, bool | None] = {"null": None, "Null": None, "NULL": None, "~": None, "": None}
_CONSTANTS |= {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}


@dataclass(frozen=True)
class Node:
    """A YAML value: a scalar (`value` is str, int, float, bool or None), a list of nodes, or a dict of nodes.

    `keys` holds the place of each key of a mapping; `mark` the place of the value itself.
    """

    value: Any
    mark: Mark
    keys: dict[str, Mark] = field(default_factory=dict)

    def plain(self) -> Any:
        """The same value as plain Python data."""
        if isinstance(self.value, dict):
            return {k: v.plain() for k, v in self.value.items()}
        if isinstance(self.value, list):
            return [v.plain() for v in self.value]
        return self.value

    @property
    def kind(self) -> str:
        """What a person would call this value."""
        if isinstance(self.value, dict):
            return "a mapping"
        if isinstance(self.value, list):
            return "a list"
        return "nothing" if self.value is None else repr(self.value)


def read(path: str | Path) -> Node:
    """Read a YAML file.

    Raises:
        InputError: the file is missing, unreadable, too large, or not strict YAML.
    """
    name = str(path)
    try:
        found = Path(path).stat()
        if not stat.S_ISREG(found.st_mode) and not stat.S_ISDIR(found.st_mode):  # a pipe or a device may never end
            raise InputError("is not a regular file", Mark(name))
        if found.st_size > MAX_BYTES:
            raise InputError(f"a study file has at most {MAX_BYTES} bytes, this one has {found.st_size}", Mark(name))
        with Path(path).open("rb") as file:
            text = file.read(MAX_BYTES).decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError("no such file", Mark(name)) from None
    except IsADirectoryError:
        raise InputError("is a folder; name a YAML file in it", Mark(name)) from None
    except UnicodeDecodeError as e:
        raise InputError(f"is not UTF-8 text (byte {e.start})", Mark(name)) from None
    except (OSError, ValueError) as e:
        raise InputError(f"cannot be read: {getattr(e, 'strerror', None) or e}", Mark(name)) from None
    return parse(text, name)


def parse(text: str, file: str) -> Node:
    """Parse YAML text; `file` is the name that messages show."""
    lines = text.splitlines()
    try:
        root = _Loader(text, file, lines).get_single_node()
    except yaml.MarkedYAMLError as e:
        mark = _mark(e.problem_mark, file, lines) if e.problem_mark else Mark(file)
        raise InputError(_odd_space_before(mark, file, lines) or Problem(f"not valid YAML: {e.problem or e.context}", mark)) from None
    except yaml.reader.ReaderError as e:
        before = text[: e.position].splitlines() or [""]
        law = f"the character U+{e.character:04X} cannot stand in YAML; remove it"
        raise InputError(law, Mark(file, len(before), len(before[-1]) + 1, before[-1])) from None
    except yaml.YAMLError as e:
        raise InputError(f"not valid YAML: {' '.join(str(e).split())}", Mark(file)) from None
    if root is None:
        raise InputError("the file is empty; a study has name, task, grammar and study", Mark(file, 1, 1))
    problems: list[Problem] = []
    node = _convert(root, file, lines, problems)
    if problems:
        raise InputError(problems)
    return node


def parse_value(text: str, origin: str) -> Node:
    """One value given on the command line, such as the right side of `--set`. It has no comments: a `#` in bare text is a letter."""
    if not text.strip():
        return Node("", Mark(origin))
    if re.search(r"(^|\s)#", text) and text[0] not in "\"'[{":
        return Node(text, Mark(origin, 1, 1, text, len(text)))
    try:
        return parse(text, origin)
    except InputError as e:
        remedy = "; quote text that has ' #', which begins a comment" if re.search(r"\s#", text) else ""
        raise InputError(Problem(f"{p.message}{remedy}", p.mark) for p in e.problems) from None


def _odd_space_before(mark: Mark, file: str, lines: list[str]) -> Problem | None:
    """A space that YAML takes for a letter, where one stands before a mistake and a space was meant."""
    for number in range(min(mark.line, len(lines)), 0, -1):
        line = lines[number - 1]
        if found := _MISPLACED.search(line) or (re.match(" *\t", line) if number == mark.line else None):
            at = found.end() - 1
            return Problem(f"not valid YAML: {_ODD_LAW.format(_named(line[at]))}", Mark(file, number, at + 1, line))
    return None


def _named(letter: str) -> str:
    name = unicodedata.name(letter, "tab").lower()
    return f"a{'n' * (name[0] in 'aeiou')} {name} (U+{ord(letter):04X})"


class _Dumper(yaml.SafeDumper):
    """Quotes every string that strict YAML 1.2 would read as something else, and writes no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    plain = text not in _CONSTANTS and not _INT.fullmatch(text) and not _FLOAT.fullmatch(text) and text.isprintable()
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if plain else '"')


_Dumper.add_representer(str, _represent)


def from_plain(plain: Any, place: str) -> Node:
    """Plain Python data as a node: what a YAML file could hold; `place` names it in errors.

    Raises:
        InputError: a value that YAML has no word for.
    """
    mark = Mark(place)
    if isinstance(plain, Mapping):
        strange = [key for key in plain if not isinstance(key, str | int) or isinstance(key, bool)]
        if strange:
            raise InputError(f"a key is a word, not {strange[0]!r}", mark)
        items = {str(key): from_plain(value, f"{place}.{key}") for key, value in plain.items()}
        return Node(items, mark, {key: Mark(f"{place}.{key}") for key in items})
    if isinstance(plain, list | tuple):
        return Node([from_plain(value, f"{place}[{i}]") for i, value in enumerate(plain)], mark)
    if plain is not None and type(plain) not in (str, int, float, bool):
        raise InputError(f"a value is text, a number, true, false, none, a list or a mapping, not a {type(plain).__name__}", mark)
    return Node(plain, mark)


def dump(plain: Any) -> str:
    """Plain data as YAML that `parse` reads back as the same data."""
    text: str = yaml.dump(plain, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def replace(node: Node, path: list[str], value: Node, origin: Mark) -> Node:
    """A copy of `node` with `value` at the dotted `path`; missing mappings are made, list items are named by index."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(node.value, list):
        if not head.isdigit() or int(head) >= len(node.value):
            raise InputError(f"{head!r} is not an index of a list of {len(node.value)} items", origin)
        items = list(node.value)
        items[int(head)] = replace(items[int(head)], rest, value, origin)
        return Node(items, node.mark)
    if isinstance(node.value, dict):
        child = node.value.get(head, Node(None, origin))
        return Node(node.value | {head: replace(child, rest, value, origin)}, node.mark, {head: origin} | node.keys)
    if node.value is None or isinstance(node.value, str):  # `task: language` may be opened as `task.language.context`
        word = node.value if isinstance(node.value, str) and node.value == head else None
        if node.value is None or word:
            return Node({head: replace(Node(None, origin), rest, value, origin)}, origin, {head: origin})
    raise InputError(f"{head!r} cannot be set inside {node.kind}", origin)


class _Loader(yaml.SafeLoader):
    """Refuses what makes YAML unsafe at the event where it stands, so that no large tree is built and the text is read once."""

    def __init__(self, text: str, file: str, lines: list[str]) -> None:
        super().__init__(text)
        self.file, self.lines = file, lines
        self.depth = self.documents = self.values = 0

    def get_event(self) -> Any:
        event = super().get_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                self._refuse("a file holds one YAML document; remove the second '---'", event)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.depth -= 1
        elif isinstance(event, yaml.NodeEvent):
            self._node(event)
        return event

    def scan_to_next_token(self) -> None:
        """YAML lets tabs separate values, as JSON does, but not indent them; PyYAML knows spaces alone."""
        while True:
            super().scan_to_next_token()
            before = self.lines[self.line][: self.column] if self.line < len(self.lines) else ""
            if self.peek() != "\t" or not (self.flow_level or before.strip(" \t-?")):
                return
            self.forward()

    def scan_plain_spaces(self, indent: Any, start_mark: Any) -> Any:
        length = 0
        while self.peek(length) in (" ", "\t"):
            length += 1
        found = self.prefix(length)
        self.forward(length)
        return super().scan_plain_spaces(indent, start_mark) or [found] * bool(found)

    def _node(self, event: Any) -> None:
        if isinstance(event, yaml.AliasEvent) or event.anchor:
            self._refuse("anchors and aliases (&, *) are not part of this language; use a named rule", event)
        if event.tag not in (None, "!"):
            self._refuse(f"tags such as {event.tag!r} are not part of this language", event)
        self.values += 1
        if self.values > MAX_VALUES:
            self._refuse(f"a file holds at most {MAX_VALUES} values", event)
        if isinstance(event, yaml.CollectionStartEvent):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                self._refuse(f"values may be nested {MAX_DEPTH} deep at most", event)

    def _refuse(self, law: str, event: Any) -> NoReturn:
        raise InputError(law, _mark(event.start_mark, self.file, self.lines))


def _mark(mark: Any, file: str, lines: list[str], end: Any = None) -> Mark:
    text = lines[mark.line] if mark.line < len(lines) else ""
    width = end.column - mark.column if end is not None and end.line == mark.line else 1
    return Mark(file, mark.line + 1, mark.column + 1, text, max(1, width))


def _convert(node: Any, file: str, lines: list[str], problems: list[Problem]) -> Node:
    mark = _mark(node.start_mark, file, lines, node.end_mark)
    if isinstance(node, yaml.SequenceNode):
        return Node([_convert(item, file, lines, problems) for item in node.value], mark)
    if isinstance(node, yaml.ScalarNode):
        return Node(_scalar(node, mark, problems), mark)
    items: dict[str, Node] = {}
    keys: dict[str, Mark] = {}
    for key_node, value_node in node.value:
        key_mark = _mark(key_node.start_mark, file, lines, key_node.end_mark)
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem("a key is a word, not a list or a mapping", key_mark))
            continue
        key = key_node.value
        _refuse_odd_spaces(_IN_A_KEY, key_node, key_mark, problems)
        if key in items:
            problems.append(Problem(f"the key {key!r} stands twice; first at line {keys[key].line}", key_mark))
        keys.setdefault(key, key_mark)
        items[key] = _convert(value_node, file, lines, problems)
    return Node(items, mark, keys)


def _refuse_odd_spaces(where: re.Pattern[str], node: Any, mark: Mark, problems: list[Problem]) -> None:
    if node.style is None and (found := where.search(node.value)):
        law = _ODD_LAW.format(_named(found.group()))
        column = mark.column + found.start() if mark.text[mark.column - 1 :].startswith(node.value) else mark.column
        problems.append(Problem(f"{law}, or quote what it belongs to: {node.value!r}", Mark(mark.file, mark.line, column, mark.text)))


def _scalar(node: Any, mark: Mark, problems: list[Problem]) -> Any:
    text = node.value
    if node.style is not None:  # quoted or block text is always a string
        return text
    _refuse_odd_spaces(_EDGES, node, mark, problems)
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if _INT.fullmatch(text):
        if len(text) > 40:
            problems.append(Problem("a whole number has at most 40 digits", mark))
            return 0
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    if _FLOAT.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".Inf", "inf").replace(".INF", "inf").lower().replace(".nan", "nan"))
    return text
