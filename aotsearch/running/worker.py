"""What a worker of Ray imports before it is given its first trial: while the driver still plans. Nothing here is imported by the driver."""

from __future__ import annotations

import contextlib
import gc
import importlib


def prepare() -> None:
    """Import what every trial needs; whatever is wrong with that is told by the trial that meets it."""
    usual = gc.get_threshold()
    gc.set_threshold(100_000, 20, 100)  # as in the driver; not while it trains, since what a trial leaves behind holds tensors
    for name in ("aotsearch.training.trial", "aotsearch.running.cluster", "ray.tune.trainable.function_trainable"):
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    gc.set_threshold(*usual)
