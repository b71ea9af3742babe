"""The only file that speaks to the `datasets` library."""

from __future__ import annotations

from typing import Any

from aotsearch.errors import AotsearchError, InputError


def fetch(what: str, *arguments: Any, instead: str, **options: Any) -> Any:
    """`datasets.load_dataset`, its many ways to fail turned into one line.

    Args:
        what: The data as a person knows it.
        instead: What can be given in its place.
    """
    try:
        import datasets
    except ImportError:
        raise InputError(f"data {what} needs the package datasets; `pip install datasets`, or give a local path") from None
    try:
        datasets.disable_progress_bars()
        return datasets.load_dataset(*arguments, **options)
    except AotsearchError:
        raise
    except Exception as e:  # noqa: BLE001 (the hub client raises errors of many libraries)
        reason = " ".join(str(e).split())[:160] or type(e).__name__
        raise InputError(f"data {what} can not be fetched ({reason}); go online, or use {instead}") from None
