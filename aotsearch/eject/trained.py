"""A trained trial of a run folder as a file of its own: its class, and its weights beside it as PyTorch writes them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aotsearch.eject.file import eject
from aotsearch.errors import InputError, RunError, suggest
from aotsearch.evidence.declaration import history
from aotsearch.evidence.ledger import Ledger
from aotsearch.files import from_user
from aotsearch.grammar.architecture import Architecture
from aotsearch.study.design import REFERENCE
from aotsearch.study.rates import chosen
from aotsearch.training.checkpoint import CHECKPOINTS, weights_of

if TYPE_CHECKING:
    from aotsearch.models.model import Model

JUDGED = ("design", "confirm")  # phases whose trials are compared; those of others only choose


def write(folder: Path, arm: str, seed: int, out: Path) -> list[Path]:
    """Write a trial's class to `out` and its weights beside it. Returns both paths.

    Raises:
        InputError: the folder holds no such trial, or not its weights.
    """
    record, weights = find(folder, arm, seed)
    architecture = Architecture.from_dict(record["architecture"], record["decisions"])
    beside = out.with_suffix(".pt")
    text = eject(architecture, f"the arm {arm!r} trained under seed {seed}", beside.name)
    content = verified(weights, record, architecture)
    return [put(out, text.encode()), put(beside, content)]


def load_trained(folder: str | Path, arm: str = REFERENCE, seed: int = 0) -> Model:
    """The model of a trained trial of a run folder, with its weights as they were written, ready to evaluate.

    Args:
        folder: A run folder.
        arm: An arm of its study, or a candidate of its search.
        seed: One that the arm was trained under. Where learning rates are tuned, the trial is that at the arm's own.

    Raises:
        InputError: the folder holds no such trial, or not its weights.
    """
    import torch

    from aotsearch.models.model import build

    record, weights = find(from_user(folder), arm, seed)
    architecture = Architecture.from_dict(record["architecture"], record["decisions"])
    content = verified(weights, record, architecture)
    model = build(architecture)
    model.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return model.eval()


def verified(path: Path, record: Mapping[str, Any], architecture: Architecture) -> bytes:
    """The weights of a trial as they were written; nothing in the file is executed.

    Raises:
        InputError: they are not those that the trial wrote, or, of a trial from before digests were recorded, not of its model.
    """
    import torch

    from aotsearch.models.model import Model

    remedy = "bring it back from a copy, or train the arm again in another folder"
    try:
        content = path.read_bytes()
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}") from None
    wanted, found = record.get("weights"), hashlib.sha256(content).hexdigest()
    if wanted is not None and found != wanted:
        raise InputError(f"{path} is not what the trial wrote: its sha256 is {found[:12]}..., the ledger has {wanted[:12]}...; {remedy}")
    try:
        held = torch.load(io.BytesIO(content), map_location="meta", weights_only=True)
        with torch.device("meta"):
            Model(architecture).load_state_dict(held, assign=True)
    except Exception as e:  # noqa: BLE001 (whatever a damaged or foreign file makes torch raise)
        raise InputError(f"{path} does not hold the weights of the arm: {str(e).strip().splitlines()[0]}; {remedy}") from None
    return content


def find(folder: Path, arm: str, seed: int) -> tuple[Mapping[str, Any], Path]:
    """The record of a trial and the file of its weights."""
    ledger = Ledger.open(folder)
    declared = history(ledger)
    records = declared.place(ledger.records().values())
    named = [r for r in records if arm in (r["arm"], *r.get("arms", ()))]
    if not named:
        raise InputError(f"{folder} holds no trial of the arm {arm!r}{suggest(arm, {r['arm'] for r in records})}")
    seeded = [r for r in named if r["seed"] == seed]
    if not seeded:
        seeds = ", ".join(map(str, sorted({r["seed"] for r in named})))
        raise InputError(f"{folder} holds no trial of the arm {arm!r} under seed {seed}; its seeds are {seeds}")
    own = chosen(records, arm, declared.study.task.measure).value  # its verdicts lead where an arm was also trained at the shared rate
    record = max(reversed(seeded), key=lambda r: (r["outcome"] == "done", r["phase"] in JUDGED, r.get("learning_rate") == own))
    weights = weights_of(folder / CHECKPOINTS, record["key"])
    if not weights.is_file():
        raise InputError(f"{weights} is not there: the trial of the arm {arm!r} under seed {seed} is {record['outcome']}")
    return record, weights


def put(path: Path, content: bytes) -> Path:
    """Write a file.

    Raises:
        RunError: the disk refused it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as e:
        raise RunError(f"{path}: {e.strerror}") from None
    return path
