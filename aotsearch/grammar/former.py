"""Names that options had before version 0.3: a study file and a ledger that use them are read, and the new name is told.

Digests are made of the former names, so that a model keeps the digest under which ledgers know it. Addresses of decisions are those that
the file writes. Reading the former names in study files ends with version 0.4; ledgers are read for good.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from aotsearch.grammar.words import Option

OPTIONS: Mapping[str, Mapping[str, str]] = {  # word -> former name of an option -> its name
    "attention": {
        "value": "value_projection",
        "values": "value_source",
        "square": "squared_map",
        "second": "second_map",
        "first": "first_values",
        "diagonal": "mask_self",
        "memory": "persistent_kv",
    },
}
VALUES: Mapping[tuple[str, str], Mapping[Any, Any]] = {  # (word, name in the file) -> former value -> value
    ("attention", "diagonal"): {True: False, False: True},
    ("follows", "of"): {"square": "squared_map", "second": "second_map", "first": "first_values"},
}


def named(word: str, name: str) -> str:
    """The name of an option that may be given by its former one."""
    return OPTIONS.get(word, {}).get(name, name)


def reading(word: str, name: str, option: Option) -> Option:
    """An option as it reads values that stand under `name`."""
    return dataclasses.replace(option, former=tuple(VALUES[word, name].items())) if (word, name) in VALUES else option


def plain(given: Any) -> Any:
    """Plain data of an architecture under the former names, as digests have it."""
    if isinstance(given, list):
        return [plain(item) for item in given]
    if not isinstance(given, dict):
        return given
    return {key: _options(key, value) if isinstance(value, dict) else plain(value) for key, value in given.items()}


def _options(word: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a word, or any other mapping, under the former names."""
    before = {new: old for old, new in OPTIONS.get(word, {}).items()}
    found = {}
    for name, value in plain(options).items():
        old = before.get(name, name)
        values = {new: former for former, new in VALUES.get((word, old), {}).items()}
        found[old] = values.get(value, value) if isinstance(value, str | bool) else value
    return found
