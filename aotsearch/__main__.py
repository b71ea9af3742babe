"""The commands: arguments only, imports inside each command, results to standard output, everything else to standard error."""

from __future__ import annotations

import os
import sys

if __name__ == "__main__" and not sys.flags.safe_path and os.path.exists(sys.path[0]):  # noqa: PTH110 (see below)
    # the working folder goes, where this package is not in it: a numpy.py or a random.py there is not what a library means
    if os.path.samefile(sys.path[0], ".") and not __file__.startswith(os.path.join(sys.path[0], "aotsearch")):  # noqa: PTH118, PTH121
        del sys.path[0]

import gc
import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from aotsearch import surroundings
from aotsearch.errors import AotsearchError, InputError
from aotsearch.files import from_user
from aotsearch.judge.command import judge
from aotsearch.surroundings import put as _print
from aotsearch.surroundings import say as _say

app = typer.Typer(
    name="aotsearch",
    help="Which components of a transformer are necessary? Declare a space in YAML, train every arm, read the verdicts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

THRESHOLD = gc.get_threshold()
ROUNDS = 21  # a 95 % interval over a thousand arms at once takes 16


def _home(path: Path | None) -> Path | None:
    """A path with `~` as a shell has it, which leaves it as it is in `--out=~/x`."""
    return None if path is None else from_user(path)


File = Annotated[Path, typer.Argument(help="A study file (YAML).", show_default=False, callback=_home)]
Folder = Annotated[Path, typer.Argument(help="A run folder.", show_default=False, callback=_home)]
Set = Annotated[list[str], typer.Option("--set", metavar="PATH=VALUE", help="Replace a part of the study; may be repeated.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def _version(asked: bool) -> None:
    if asked:
        from aotsearch import __version__

        _print(f"aotsearch {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")] = False,
) -> None:
    pass


@app.command()
def check(file: File, set_: Set = [], json_: Json = False) -> None:
    """Validate a study file and count its architectures."""
    from aotsearch.study.loading import load

    try:
        study = load(file, set_)
    except InputError as e:
        if json_:
            _json({"ok": False, "errors": [_error(p) for p in e.problems], "architectures": None, "decisions": [], "not_varied": []})
            raise typer.Exit(2) from None
        raise
    decisions = study.space.decisions()
    try:
        number, exact = study.space.bound()
    except InputError as e:
        number, exact = None, False
        _say(f"note: not counted: {e}")
    if json_:
        known = {"architectures": number if exact else None, "architectures_at_most": number}
        left = [{"decision": address, "reason": reason} for address, reason in study.not_varied.items()]
        _json({"ok": True, "errors": [], **known, "decisions": list(decisions), "not_varied": left, "notes": study.notes})
        return
    from aotsearch.show.counted import counted

    _print(f"{file}: {counted(study, number, exact)}")


@app.command()
def show(
    file: File,
    other: Annotated[str | None, typer.Argument(metavar="ARM2", help="With --diff: the other arm, where it is not the reference.")] = None,
    arm: Annotated[str, typer.Option(help="An arm of the study.")] = "reference",
    diff_: Annotated[bool, typer.Option("--diff", help="Side by side with another arm, the differences marked.")] = False,
    set_: Set = [],
    json_: Json = False,
) -> None:
    """Show the reference or an arm as a tree: shapes, parameters, FLOPs, and its difference from the reference."""
    from aotsearch.study.loading import load

    study = load(file, set_)
    from aotsearch.show.show import diff, document, tree  # with torch, which a mistake in the file does not wait for

    found, against = study.arm(arm), study.arm(other or "reference")
    if other is not None and not diff_:
        raise InputError(f"{other!r} is one argument too many; to compare two arms: --arm {arm} --diff {other}")
    if diff_ and found.name == against.name:
        raise InputError(f"--diff needs two arms, not {arm!r} twice: --arm NAME --diff, or --diff NAME")
    if against.architecture == study.reference:  # differences read from the reference to the arm
        found, against = against, found
    if json_:
        _json(document(study.arm(arm), (found, against) if diff_ else None))
    elif diff_:
        _print(diff(found, against))
    else:
        _print(tree(study.arm(arm), study.reference))


@app.command()
def plan(
    file: File, set_: Set = [], workers: Annotated[int | None, typer.Option(min=1, help="Trials at a time.")] = None, json_: Json = False
) -> None:
    """Every arm and seed with its cost and a forecast of the time, before anything runs."""
    from aotsearch.study.loading import load

    study = load(file, set_)
    from aotsearch.running.forecast import forecast, table  # with torch, which a mistake in the file does not wait for

    found = forecast(study, workers)
    if json_:
        _json(found)
    else:
        _print(table(found))


@app.command()
def run(
    file: File,
    out: Annotated[Path | None, typer.Option(help="The run folder.  [default: runs/NAME]", show_default=False, callback=_home)] = None,
    set_: Set = [],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Trials at a time.  [default: what the machine holds]", show_default=False)
    ] = None,
    address: Annotated[str | None, typer.Option(help="A Ray cluster that runs already, such as auto or ray://HOST:10001.")] = None,
    local: Annotated[bool, typer.Option("--local", help="Train in this process, without Ray; the results are the same.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(
            help="A folder of trials across studies: what it has is not trained again, what is trained goes there.",
            show_default=False,
            callback=_home,
        ),
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Train failed trials of an earlier start again.")] = False,
) -> None:
    """Run a study, or continue it: what is finished is not trained again."""
    from aotsearch.study.loading import load

    study = load(file, set_)
    if local:
        gc.set_threshold(*THRESHOLD)  # what a trial leaves behind holds tensors
    from aotsearch.running import runner

    folder = out or runner.default_folder(study)
    command = shlex.join(["aotsearch", *sys.argv[1:]])
    options = runner.Options(workers=workers, address=address, local=local, retry_failed=retry_failed, command=command, cache=cache)
    try:
        outcome = runner.run(study, folder, options)
    except KeyboardInterrupt as e:
        _say(f"interrupted; what is finished is kept in {folder}. To continue: {command}")
        raise typer.Exit(getattr(e, "code", 130)) from None
    _print(outcome.summary)
    for note in outcome.notes:
        _say(note)
    taken = f", {outcome.cached} taken from {cache}" if outcome.cached else ""
    _say(f"{outcome.trained} trials trained{taken}, in {outcome.seconds:.0f} s")
    _say(f"report: {folder / 'report' / 'report.html'}    MLflow: aotsearch ui {folder}")
    if outcome.failed:
        _say(f"{outcome.failed} trials failed (`aotsearch status {folder}`); --retry-failed trains them again")
        raise typer.Exit(3)


@app.command()
def status(folder: Folder, json_: Json = False) -> None:
    """What ran, runs, failed, is left."""
    from aotsearch.running.status import status as read

    found = read(folder)
    if json_:
        _json(found)
        return
    state = "running now" if found["active"] else "not running"
    _print(f"{found['study']}: {found['done']} done, {found['running']} running, {found['failed']} failed, {found['left']} left ({state})")
    for outcome, number in sorted(found["outcomes"].items()):
        _print(f"  {outcome}: {number}")
    if found["cached"]:
        _print(f"  taken from a cache: {found['cached']}")
    for note in filter(None, (found["damage"], found["edited"])):
        _say(note)


@app.command()
def report(
    folder: Folder,
    format_: Annotated[str, typer.Option("--format", help="Which of html, md, latex, csv, separated by commas.")] = "html,md,latex,csv",
    json_: Json = False,
) -> None:
    """Make the report again from the ledger."""
    from aotsearch.report.data import read

    found = read(folder)
    from aotsearch.report.report import write  # with matplotlib, which a folder without a run does not wait for

    paths = write(folder, [f.strip() for f in format_.split(",") if f.strip()], found)
    if json_:
        _json(found.analysis.to_dict())
        return
    _print(found.summary())
    _say("written: " + ", ".join(str(p) for p in paths))


app.command()(judge)


@app.command()
def time(
    path: Annotated[
        Path, typer.Argument(metavar="FILE|DIR", help="A study file (YAML), or a run folder.", show_default=False, callback=_home)
    ],
    arm: Annotated[list[str], typer.Option(help="An arm beside the reference; may be repeated.  [default: all]", show_default=False)] = [],
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Windows of each arm.")] = ROUNDS,
    out: Annotated[
        Path | None, typer.Option(help="The run folder that keeps the result, for its report.", show_default=False, callback=_home)
    ] = None,
    set_: Set = [],
    json_: Json = False,
) -> None:
    """Time a training step of every arm against the reference's, side by side on this machine."""
    from aotsearch.evidence.declaration import history
    from aotsearch.evidence.ledger import Ledger
    from aotsearch.study.loading import load

    kept = path.is_dir()
    if kept and (set_ or out):
        raise InputError(f"--set and --out go with a study file; {path} is a run folder, whose study is declared")
    folder = path if kept else out
    ledger = None if folder is None else Ledger.open(folder)
    study = history(ledger).study if kept and ledger else load(path, set_)
    from aotsearch.running import timing  # with torch, which a mistake in the file does not wait for

    event = timing.timed(study, arm, rounds, ledger, _say)
    found = timing.document(study, event)
    if json_:
        _json(found)
    else:
        _print(timing.table(found))
    if ledger:
        _say(f"kept in {ledger.folder}; `aotsearch report {ledger.folder}` shows it")
    if any(row["message"] for row in found["arms"]):
        raise typer.Exit(3)


@app.command()
def ui(folder: Folder, port: Annotated[int, typer.Option(min=1, max=65535, help="Port on loopback.")] = 5000) -> None:
    """Open the MLflow UI on this run's store, on loopback."""
    from aotsearch.evidence.ledger import Ledger
    from aotsearch.report import report as reports
    from aotsearch.tracking.view import ENVIRONMENT, rebuild, required_port, ui_addresses, ui_command

    required_port(port)
    if not Ledger.open(folder).locked:  # while a run writes, its view is its own
        found = reports.read(folder)
        files = sorted((folder / "report").glob("[!.]*")) or reports.write(folder, material=found)
        rebuild(folder, found.headline.to_dict(), found.summary(), files)
    argv = ui_command(folder, port)
    for name, address in ui_addresses(folder, port).items():
        _say(f"{name}: {address}")
    _say("ready in some seconds; Ctrl-C ends it")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.execve(argv[0], argv, os.environ | ENVIRONMENT)  # no shell is what is wanted  # nosec B606


@app.command()
def eject(
    path: Annotated[
        Path, typer.Argument(metavar="FILE|DIR", help="A study file (YAML), or a run folder.", show_default=False, callback=_home)
    ],
    arm: Annotated[str, typer.Option(help="An arm of the study.")] = "reference",
    seed: Annotated[int | None, typer.Option(help="Of a run folder: the trial whose weights are written too.", show_default=False)] = None,
    out: Annotated[
        Path | None, typer.Option(help="The file to write.  [default: standard output]", show_default=False, callback=_home)
    ] = None,
    set_: Set = [],
) -> None:
    """Write an arm as one readable PyTorch file that imports torch alone; of a trained trial its weights too."""
    from aotsearch.eject.command import ejected

    found = ejected(path, arm, seed, out, set_)
    if isinstance(found, str):
        _print(found, end="")
    else:
        _say("written: " + ", ".join(map(str, found)))


@app.command()
def export(
    folder: Folder,
    to: Annotated[str, typer.Option(help="hf (for transformers), torch (as eject does), mlflow (the run's store), optuna:URL (a search).")],
    seed: Annotated[int | None, typer.Option(help="The trial's seed.", show_default=False)] = None,
    arm: Annotated[str, typer.Option(help="An arm of the study.")] = "reference",
    out: Annotated[Path | None, typer.Option(help="Where to write; mlflow needs none.", show_default=False, callback=_home)] = None,
) -> None:
    """Give a trained model to other programs, Hugging Face's transformers, PyTorch, MLflow; or a search to Optuna's storage."""
    if to.startswith("optuna:"):
        from aotsearch.running.storage import put

        number = put(folder, to.removeprefix("optuna:"))
        _say(f"written: {number} trials; `optuna-dashboard {to.removeprefix('optuna:')}` shows them")
        return
    from aotsearch.eject.command import exported, required_form

    seed = required_form(to, out, seed)
    if out is not None:
        _say("written: " + ", ".join(map(str, exported(folder, arm, seed, to, out))))
        return
    from aotsearch.tracking import models

    _print(models.log(folder, arm, seed))
    _say(f"`mlflow.pytorch.load_model` loads it from the store of `aotsearch ui {folder}`")


@app.command()
def words(
    word: Annotated[str | None, typer.Argument(metavar="WORD", help="A word to show in detail.")] = None, json_: Json = False
) -> None:
    """The component library: every word, its options, its source; one word in detail."""
    from aotsearch.grammar import glossary

    if json_:
        _json({"words": [glossary.word_to_plain(w) for w in glossary.named(word)]})
    else:
        _print(glossary.overview() if word is None else glossary.detail(word))


@app.command()
def schema() -> None:
    """The JSON Schema of a study file, for completion and hover text in editors."""
    from aotsearch.study.schema import text

    _print(text())


def _error(problem: Any) -> dict[str, Any]:
    mark = problem.mark
    place = {"file": mark.file, "line": mark.line, "column": mark.column} if mark else {"file": "", "line": 0, "column": 0}
    return {**place, "message": problem.message}


def _json(document: Any) -> None:
    _print(json.dumps(document, indent=2, allow_nan=False))


def main() -> None:
    """The console script: every error a user can cause is one line and an exit code."""
    gc.set_threshold(100_000, 20, 100)  # what imports make lives on: to look for garbage in it every 700 objects is a quarter of a start
    surroundings.complete()
    try:
        app()
    except InputError as e:
        for problem in e.problems:
            _say(str(problem))
            if sys.stderr.isatty() and problem.mark and problem.mark.underline():
                _say(problem.mark.underline())
        sys.exit(e.exit_code)
    except AotsearchError as e:
        _say(str(e))
        sys.exit(e.exit_code)
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    except BrokenPipeError:
        surroundings.silence(sys.stdout)
        sys.exit(1)
    except OSError as e:
        if not (why := surroundings.lacking(e)):
            raise
        _say(why)
        sys.exit(1)
    finally:
        surroundings.write(sys.stdout, "")


if __name__ == "__main__":
    main()
