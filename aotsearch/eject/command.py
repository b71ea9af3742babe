"""What `aotsearch eject` and `aotsearch export` do with what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from aotsearch.errors import InputError
from aotsearch.evidence.declaration import history
from aotsearch.evidence.ledger import Ledger
from aotsearch.study.loading import load

FORMS = ("hf", "mlflow", "torch")


def ejected(path: Path, arm: str, seed: int | None, out: Path | None, overrides: Sequence[str] = ()) -> str | list[Path]:
    """The text of an arm's file, or the files written: to `out`, and with a seed the weights of that trial beside it.

    Args:
        path: A study file, or a run folder.

    Raises:
        InputError: these do not go together, or there is no such arm or trial.
        RunError: the disk refused a file.
    """
    if seed is not None:
        from aotsearch.eject import trained

        if not path.is_dir() or out is None or overrides:
            law = "--seed writes the weights of a trained trial"
            raise InputError(f"{law}: it needs a run folder and --out, and no --set: aotsearch eject DIR --seed {seed} --out PATH.py")
        return trained.write(path, arm, seed, out)
    if path.is_dir() and overrides:
        raise InputError(f"--set changes a study file; {path} is a run folder, whose study is declared")
    study = history(Ledger.open(path)).study if path.is_dir() else load(path, overrides)
    from aotsearch.eject.file import eject  # with torch, which a mistake in the file does not wait for

    text = eject(study.arm(arm).architecture, f"the arm {arm!r} of the study {study.name!r}")
    if out is None:
        return text
    from aotsearch.eject.trained import put

    return [put(out, text.encode())]


def exported(folder: Path, arm: str, seed: int, to: str, out: Path) -> list[Path]:
    """Write a trained trial for another program. Returns its files."""
    if to == "hf":
        from aotsearch.eject import hugging

        return hugging.write(folder, arm, seed, out)
    from aotsearch.eject import trained

    return trained.write(folder, arm, seed, out)


def required_form(to: str, out: Path | None, seed: int | None) -> int:
    """The seed of the trial that goes there.

    Raises:
        InputError: a model goes nowhere of that name, or not to such a place.
    """
    if to not in FORMS:
        raise InputError(f"--to {to}: a model goes to one of {', '.join(FORMS)}; a search to optuna:URL")
    if (out is None) == (to != "mlflow"):
        law = "needs --out, where it is written" if out is None else "writes into the run folder, and takes no --out"
        raise InputError(f"--to {to} {law}")
    if seed is None:
        raise InputError(f"--to {to} needs --seed, that of the trial")
    return seed
