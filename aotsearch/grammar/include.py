"""A grammar that includes files: their rules are written into it."""

from __future__ import annotations

from pathlib import Path

from aotsearch import yamlfile
from aotsearch.errors import InputError
from aotsearch.yamlfile import Node

DEEPEST = 16  # of includes within includes


def gather(grammar: Node, folder: Path, depth: int = 0, done: set[Path] | None = None) -> Node:
    """A grammar with the rules of the files it includes; its own rules come before theirs.

    Raises:
        InputError: an included file lies outside the folder of the study, or includes in a circle.
    """
    if not isinstance(grammar.value, dict) or "include" not in grammar.value:
        return grammar
    given = grammar.value["include"]
    done = set() if done is None else done  # a file that was read adds nothing the second time
    rules, keys = {k: v for k, v in grammar.value.items() if k != "include"}, dict(grammar.keys)
    for item in given.value if isinstance(given.value, list) else [given]:
        if not isinstance(item.value, str):
            raise InputError(f"include takes a path or a list of paths, not {item.kind}", item.mark)
        try:
            path = (folder / item.value).resolve()
        except (OSError, RuntimeError, ValueError):
            raise InputError(f"an included file cannot be found: {item.value!r} is no path", item.mark) from None
        if path in done:
            continue
        if not path.is_relative_to(folder.resolve()) or path.suffix not in (".yaml", ".yml"):
            raise InputError(f"an included file is a .yaml in the folder of the study or below it, not {item.value!r}", item.mark)
        if depth > DEEPEST:
            raise InputError(f"includes may be nested {DEEPEST} deep at most; {item.value!r} seems to include itself", item.mark)
        other = gather(yamlfile.read(path), folder, depth + 1, done)
        done.add(path)
        if not isinstance(other.value, dict):
            raise InputError(f"an included file is a mapping of rules, {item.value!r} is {other.kind}", item.mark)
        for name, node in other.value.items():
            if name == "constraints" and name in rules and isinstance(rules[name].value, list) and isinstance(node.value, list):
                rules[name] = Node([*rules[name].value, *node.value], rules[name].mark)
            elif name not in rules:
                rules[name], keys[name] = node, other.keys[name]
    return Node(rules, grammar.mark, keys)
