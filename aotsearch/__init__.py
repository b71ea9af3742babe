"""aotsearch: which components of a transformer are necessary?

study = aotsearch.load("spaces/redundancy.yaml")
model = aotsearch.build(study.reference)
aotsearch.run(study, out="runs/redundancy")
aotsearch.results("runs/redundancy")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"
__all__ = ["AotsearchError", "Architecture", "InputError", "RunError", "Study", "build", "eject", "load", "results", "run"]

if TYPE_CHECKING:
    from aotsearch.architecture import Architecture
    from aotsearch.ejection.standalone import eject
    from aotsearch.errors import AotsearchError, InputError, RunError
    from aotsearch.model import build
    from aotsearch.report import results
    from aotsearch.runner import run
    from aotsearch.study import Study, load

_HOMES = {
    "AotsearchError": "errors",
    "Architecture": "architecture",
    "InputError": "errors",
    "RunError": "errors",
    "Study": "study",
    "build": "model",
    "eject": "ejection.standalone",
    "load": "study",
    "results": "report",
    "run": "runner",
}


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must answer before torch could be loaded."""
    if name not in _HOMES:
        raise AttributeError(f"module 'aotsearch' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"aotsearch.{_HOMES[name]}"), name)
