"""A training on disk, so that it goes on where it was: whatever ends the process costs the time since its last checkpoint at most.

    checkpoints/KEY.state         all that a trial is at a step: weights, moments of Adam, mean of weights, curve, random state
    checkpoints/KEY.state.before  the one before it, taken where that one is damaged
    checkpoints/KEY.pt            the weights of one that is trained
    checkpoints/NOW               as long as it is there, every training writes its state at once: the run is about to end

A file begins with a line that holds the SHA-256 of the rest, which torch wrote and reads back without running anything that is in it. A
state is of one trial, also where several train as one program: they are written together, and go on together.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aotsearch.files import written

MAGIC = b"aotsearch state 1 "
CHECKPOINTS = "checkpoints"  # of a run folder
NOW = "NOW"
LOOK = 0.5  # seconds between two looks at whether the run is about to end

State = dict[str, Any]


@dataclass(frozen=True)
class Checkpoints:
    """Where trials are kept, and how often those that train are.

    Attributes:
        folder: Of states, and of trained weights.
        seconds: Between two states; None for never.
        steps: Between two states, in the place of seconds.
        patience: Seconds without a step after which a trial hangs.
        memory: Bytes that the process of a trial may take; None for no limit.
        here: Whether the run that asks for states at once is this process: then it ends when they are written.
    """

    folder: Path
    seconds: float | None = 60.0
    steps: int | None = None
    patience: float = 1800.0
    memory: float | None = None
    here: bool = False


def path_of(folder: Path, key: str) -> Path:
    return folder / f"{key}.state"


def weights_of(folder: Path, key: str) -> Path:
    """The file of a trained trial's weights."""
    return folder / f"{key}.pt"


def drop(folder: Path, *keys: str) -> None:
    """Remove the states of trials."""
    for path in (path_of(folder, key) for key in keys):
        for place in (path, _before(path)):
            with contextlib.suppress(OSError):
                place.unlink(missing_ok=True)


class Keeper:
    """Keeps the states of the trials of one program.

    Args:
        checkpoints: Where, and how often.
        keys: Of the trials.
        conditions: What they train with: a state goes on under the same alone, since a half of each would be neither.

    Attributes:
        note: What is to be said of the states that were found.
    """

    def __init__(self, checkpoints: Checkpoints, keys: Sequence[str], conditions: Mapping[str, Any]):
        self.checkpoints, self.keys = checkpoints, list(keys)
        self.conditions = json.dumps(conditions, sort_keys=True, default=str)
        self.note = ""
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None
        self._last = self._looked = time.monotonic()
        self._asked = 0  # when the request to write at once was made that was heeded last, in nanoseconds

    def due(self, step: int) -> bool:
        """Whether a state is to be kept after this step: after steps that were asked for always, else not while one is being written."""
        if self.checkpoints.steps is not None and step % self.checkpoints.steps == 0:
            return True
        if self._written is not None and not self._written.done():
            return False
        now = time.monotonic()
        if self.checkpoints.steps is None and self.checkpoints.seconds is not None and now - self._last >= self.checkpoints.seconds:
            return True
        if now - self._looked < LOOK:
            return False
        self._looked = now
        return self._requested()

    def keep(self, states: Sequence[State]) -> None:
        """Write the state of every trial, in the background; the tensors are copied before this returns."""
        copies = [_copied(state) for state in states]
        self._last = time.monotonic()
        self._written = self._pool.submit(self._write, copies)
        if self.checkpoints.here and self._asked:
            self._written.result()
            raise KeyboardInterrupt

    def found(self) -> list[State] | None:
        """The newest state that all trials have, where each has one of the same step under the same conditions."""
        kept = [self._kept(key) for key in self.keys]
        steps = [set(states) for states in kept]
        common = set.intersection(*steps) if steps else set()
        return [states[max(common)] for states in kept] if common else None

    def close(self) -> None:
        """Wait until what is being written is."""
        self._pool.shutdown()

    def _requested(self) -> bool:
        try:
            made = (self.checkpoints.folder / NOW).stat().st_mtime_ns
        except OSError:
            return False
        heeded, self._asked = self._asked, made
        return made != heeded

    def _write(self, states: Sequence[State]) -> None:
        for key, state in zip(self.keys, states, strict=True):
            path = path_of(self.checkpoints.folder, key)
            with contextlib.suppress(OSError, RuntimeError):  # a full disk costs the checkpoint, not the trial
                _put(path, {**state, "key": key, "conditions": self.conditions})

    def _kept(self, key: str) -> dict[int, State]:
        """The whole states of a trial by their step."""
        states: dict[int, State] = {}
        path = path_of(self.checkpoints.folder, key)
        for place in (path, _before(path)):
            if not place.is_file():
                continue
            try:
                state = read(place)
            except (OSError, ValueError) as e:
                self.note = f"{place} is damaged ({e}): the one before it is taken, or the trial starts again"
                continue
            if state["key"] == key and state["conditions"] == self.conditions:
                states[state["step"]] = state
        return states


def read(path: Path) -> State:
    """A state.

    Raises:
        OSError: it cannot be read.
        ValueError: it is torn, altered or no state.
    """
    first, _, rest = path.read_bytes().partition(b"\n")
    if not first.startswith(MAGIC):
        raise ValueError("it is no state of a training")
    if first[len(MAGIC) :].decode("ascii", "replace") != hashlib.sha256(rest).hexdigest():
        raise ValueError("its checksum is another")
    import torch  # which a start that has nothing to train does not wait for

    state: State = torch.load(io.BytesIO(rest), map_location="cpu", weights_only=True)
    return state


def _put(path: Path, state: State) -> None:
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getbuffer()
    with written(path) as made:
        with open(made, "wb") as file:
            file.write(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n")
            file.write(content)
        if path.is_file():
            path.replace(_before(path))


def _before(path: Path) -> Path:
    return path.with_name(f"{path.name}.before")


def _copied(value: Any) -> Any:
    """Plain values as they are, and tensors in the memory of the processor, none of them shared with what goes on training."""
    if hasattr(value, "detach"):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {name: _copied(v) for name, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, list | tuple) else value
