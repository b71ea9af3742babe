"""aotsearch: which components of a transformer are necessary?

study = aotsearch.load("spaces/redundancy.yaml")
model = aotsearch.build(study.reference)
aotsearch.run(study, out="runs/redundancy")
aotsearch.results("runs/redundancy")
aotsearch.load_trained("runs/redundancy", "reference", seed=0)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

if TYPE_CHECKING:  # what type checkers see; the names are those of _HOMES
    # ruff: noqa: F401
    from aotsearch.eject.file import eject
    from aotsearch.eject.trained import load_trained
    from aotsearch.errors import AotsearchError, InputError, RunError
    from aotsearch.grammar.architecture import Architecture
    from aotsearch.grammar.words import Coefficient, Count, Divisor, Flag, Natural, Number, Positive, Probability, Score, Text, word
    from aotsearch.models.model import build
    from aotsearch.models.parts.context import ForwardContext, LayerContext
    from aotsearch.report.data import results
    from aotsearch.running.runner import run
    from aotsearch.study.loading import load
    from aotsearch.study.study import Study

_HOMES = {
    "eject.file": ["eject"],
    "eject.trained": ["load_trained"],
    "errors": ["AotsearchError", "InputError", "RunError"],
    "grammar.architecture": ["Architecture"],
    # for packages with words of their own
    "grammar.words": ["Coefficient", "Count", "Divisor", "Flag", "Natural", "Number", "Positive", "Probability", "Score", "Text", "word"],
    "models.model": ["build"],
    "models.parts.context": ["ForwardContext", "LayerContext"],
    "report.data": ["results"],
    "running.runner": ["run"],
    "study.loading": ["load"],
    "study.study": ["Study"],
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = [*_HOME]


def __getattr__(name: str) -> Any:
    """Import on first use: the command line must answer before torch could be loaded."""
    if name not in _HOME:
        raise AttributeError(f"module 'aotsearch' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"aotsearch.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])
