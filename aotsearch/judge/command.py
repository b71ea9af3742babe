"""The command `aotsearch judge`: arguments only, imports inside."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from aotsearch.errors import InputError
from aotsearch.files import from_user
from aotsearch.surroundings import put, say

CONFIDENCE = 0.95


def _column(help_: str) -> Any:
    return typer.Option(metavar="COLUMN", help=help_, show_default=False)


def judge(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|DIR|mlflow:URI#NAME ...",
            help="CSV (also exported from W&B or TensorBoard), JSON lines, Parquet, run folders, or an MLflow experiment.",
            show_default=False,
        ),
    ],
    arm: Annotated[str | None, _column("What a run was (by default arm, model, variant or the like).")] = None,
    seed: Annotated[str | None, _column("The seed of a run (by default seed).")] = None,
    measure: Annotated[str | None, _column("What runs are judged by.")] = None,
    reference: Annotated[
        str | None, typer.Option(metavar="ARM", help="The arm that the others are compared with (by default reference or baseline).")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Differences within it do not matter, in the unit of the measure.")] = None,
    higher_is_better: Annotated[bool, typer.Option("--higher-is-better", help="Such as of an accuracy.")] = False,
    pair: Annotated[str | None, _column("Compare within this column's values: runs that share one were made alike.")] = None,
    unpaired: Annotated[bool, typer.Option("--unpaired", help="Compare means (Welch), though seeds are shared.")] = False,
    time: Annotated[str | None, _column("How long a run took: its ratio to the reference's is told too.")] = None,
    step: Annotated[str | None, _column("Where a run has a row for each step (by default step, epoch or the like).")] = None,
    at: Annotated[str, typer.Option(metavar="last|best", help="Which step of a run is taken.")] = "last",
    unit: Annotated[str | None, typer.Option(help="Of the measure (by default its name).", show_default=False)] = None,
    confidence: Annotated[float, typer.Option(help="Of all intervals at once.")] = CONFIDENCE,
    out: Annotated[Path | None, typer.Option(help="A folder for the report: HTML, Markdown, CSV, JSON.", show_default=False)] = None,
    json_: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Judge runs that were trained elsewhere, or several run folders together."""
    from aotsearch.judge.sources import run_folder

    place = None if out is None else from_user(out)
    if measure is None and all(map(run_folder, sources)):
        if any((arm, seed, reference, margin, pair, unpaired, time, step, higher_is_better, unit, at != "last", confidence != CONFIDENCE)):
            raise InputError(
                "run folders are judged as they were declared; with --measure their trials are judged anew, by the options given"
            )
        _folders(sources, place, json_)
        return
    from aotsearch.judge.document import plain, text
    from aotsearch.judge.question import Question
    from aotsearch.judge.verdict import judge as judged

    asked = Question(measure or "", reference, margin, arm, seed, pair, unpaired, higher_is_better, time, step, at, unit, confidence)
    found = judged(sources, asked)
    document = plain(found)
    if json_:
        _json(document)
    else:
        put(text(found))
    if place is not None:
        from aotsearch.judge.page import write

        say("written: " + ", ".join(map(str, write(found, place))))


def _folders(folders: list[str], place: Path | None, json_: bool) -> None:
    """One run folder says what its report says; several are compared."""
    if len(folders) == 1:
        from aotsearch.report.data import read

        if place is not None:
            raise InputError(
                f"the report of one run folder lies in it: aotsearch report {folders[0]}; --out is for other runs, or several folders"
            )
        one = read(from_user(folders[0]))
        if json_:
            _json(one.analysis.to_dict())
        else:
            put(one.summary())
        return
    from aotsearch.judge import across

    found = across.compare([from_user(folder) for folder in folders])
    if json_:
        _json(across.plain(found))
    else:
        put(across.text(found))
    if place is not None:
        from aotsearch.judge.page import write_across

        say("written: " + ", ".join(map(str, write_across(found, place))))


def _json(document: Any) -> None:
    put(json.dumps(document, indent=2, allow_nan=False))
