"""The fields that readers of an event rely on, and their types: an event without them is a damaged line, not a traceback.

Fields that are not named here may be there: a later version may add some, and reads those of earlier ones as absent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = Any
"""A type or a union of types; `[shape]` a list; `{str: shape}` a mapping; `{"name": shape}` one with these fields; `(shape,)` or absent."""

NUMBER = int | float
MAYBE = NUMBER | None  # a number that is not finite is null
MADE_WITH = ({str: object},)

ARM = {"name": str, "digest": str, "changes": {str: list}, "decisions": {str: object}, "equalise": str, "resized": [list]}
FINISHED = {
    "key": str, "arm": str, "arms": ([str],), "seed": int, "phase": str, "equalise": (str,), "digest": str,
    "decisions": {str: object}, "changes": {str: list}, "architecture": ({str: object},), "training": ({str: object},),
    "outcome": str, "measures": {str: MAYBE}, "curve": [{"step": NUMBER}], "learning_rate": NUMBER, "steps": int, "tokens": int,
    "parameters": (int,), "seconds": (NUMBER,), "training_seconds": (NUMBER,), "step_seconds": (NUMBER,), "peak_memory": (NUMBER,),
    "device": str, "precision": str, "threads": int, "fused": (int,), "message": (str,), "finished": str, "environment": MADE_WITH,
    "test": ({str: MAYBE},), "whole_validation": ({str: MAYBE},), "diagnostics": ({str: list},), "knock_out": ([{str: object}],),
    "hints": ({str: MAYBE},),
    "unmeasured": ({str: str},), "not_finite": ({str: str},), "cached": (bool,), "state_per_sequence": (int,), "origin": ({"study": str},),
}  # fmt: skip
TIMED = {
    "finished": str, "rounds": int, "steps": int, "batch": int, "device": str, "precision": str, "threads": int, "host": str,
    "environment": MADE_WITH,
    "models": [{"digest": str, "arms": [str], "seconds": [NUMBER], "tokens": NUMBER, "flops": MAYBE, "peak_memory": MAYBE, "message": str}],
}  # fmt: skip
EVENTS: Mapping[str, Shape] = {
    "ledger": {"format": int, "before": ([str],)},
    "run": {"command": (str,), "started": (str,), "versions": MADE_WITH, "machine": MADE_WITH},
    "data": {"manifest": (str,), "baselines": ({str: MAYBE},), "bounds": ([str],)},
    "declared": {"study": str, "arms": [ARM], "trials": int, "seeds": int, "when": str},
    "candidates": {"arms": [ARM]},
    "started": {"key": str},
    "finished": FINISHED,
    "proposed": {"digest": str, "decisions": {str: object}, "seed": int, "sampler": ({str: int},)},
    "exhausted": {"architectures": int},
    "importance": {"shares": {str: MAYBE}, "ends": ({str: [NUMBER]},)},
    "timed": TIMED,
}


def fits(event: Any) -> bool:
    """Whether readers can rely on an event; on one of an unknown kind none does."""
    return isinstance(event, dict) and isinstance(event.get("event"), str) and _fits(event, EVENTS.get(event["event"], {}))


def _fits(value: Any, shape: Shape) -> bool:
    if isinstance(shape, tuple):
        return value is None or _fits(value, shape[0])
    if isinstance(shape, list):
        return isinstance(value, list) and all(_fits(v, shape[0]) for v in value)
    if isinstance(shape, dict):
        if not isinstance(value, dict):
            return False
        if str in shape:
            return all(_fits(v, shape[str]) for v in value.values())
        return all(_fits(value.get(name), s) for name, s in shape.items())
    return isinstance(value, shape)
