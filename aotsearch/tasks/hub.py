"""The only file that speaks to the `datasets` library."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from aotsearch.errors import InputError, suggest


def check(value: Any, known: Mapping[str, type]) -> dict[str, Any]:
    """The options of a dataset of the Hugging Face hub, NAME or a mapping with it; ValueError where it is neither."""
    options = {"name": value} if isinstance(value, str) else value
    named = isinstance(options, dict) and isinstance(options.get("name"), str)
    if not named or not all(isinstance(v, known.get(key, ())) for key, v in options.items()):
        raise ValueError(f"hub takes NAME or a mapping of {', '.join(sorted(known))}, not {value!r}")
    return dict(options)


def fetch(what: str, *arguments: Any, instead: str, columns: Collection[str] = (), **options: Any) -> Any:
    """`datasets.load_dataset`, its many ways to fail turned into one line.

    Args:
        what: The data as a person knows it.
        instead: What can be given in its place.
        columns: Which it must have.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(f"data {what} needs the package datasets; `pip install datasets`, or give a local path") from None
    try:
        datasets.disable_progress_bars()
        rows = datasets.load_dataset(*arguments, **options)  # the digest of what comes is in every record  # nosec B615
    except Exception as e:  # noqa: BLE001 (the hub client raises errors of many libraries)
        reason = " ".join(str(e).split())[:160] or type(e).__name__
        raise InputError(f"data {what} cannot be fetched ({reason}); go online, or use {instead}") from None
    for column in columns:
        if column not in rows.column_names:
            raise InputError(f"data {what}: no column {column!r}{suggest(column, rows.column_names)}")
    return rows
