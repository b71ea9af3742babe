"""Table -> runs: which arm and seed each row is of, the value it is judged by, and how it ended.

read(table, question) -> Runs
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from aotsearch.errors import InputError, Mark, Problem, suggest
from aotsearch.judge.question import Question
from aotsearch.judge.table import Row, Table, numeric

ENDED = ("", "done", "finished", "success", "succeeded", "completed", "complete", "ok", "pruned")
MOST_ARMS = 1000
NAMED = 5  # problems of a file that are told; as a rule the rest are the same
STEPS = ("step", "_step", "global_step", "iteration", "epoch")
BUDGETS = (*STEPS, "steps", "iterations", "epochs", "tokens", "samples", "examples", "batch_size", "batch", "flops", "budget")
MACHINES = ("machine", "host", "hostname", "node", "gpu", "device", "cluster")


@dataclass(frozen=True)
class Run:
    """One run.

    Attributes:
        seed: As the file writes it; where it names none, its place in the file.
        pair: What it shares with the runs that it is paired with, where that was claimed.
        value: The measure as the file has it; None where the run ended badly.
        outcome: `done`, `diverged`, or what its column says.
        budgets: What it was given, by column; of a history the largest.
        step: Of a history, the step that the value was taken at.
    """

    arm: str
    seed: str
    pair: str
    value: float | None
    outcome: str
    time: float | None
    machine: str
    budgets: Mapping[str, float]
    mark: Mark
    step: float | None = None


@dataclass(frozen=True)
class Runs:
    """All runs of a table, by arm, the reference first.

    Attributes:
        seeded: Whether the file says which seed a run had.
        history: The column of steps, where runs have several rows; else empty.
        notes: What was done to read them.
    """

    question: Question
    arms: Mapping[str, Sequence[Run]]
    seeded: bool
    history: str
    notes: tuple[str, ...]

    def values(self, arm: str) -> list[float]:
        return [r.value for r in self.arms[arm] if r.value is not None]

    @property
    def reference(self) -> str:
        return next(iter(self.arms))

    @property
    def all(self) -> list[Run]:
        return [r for runs in self.arms.values() for r in runs]


@dataclass(frozen=True)
class _Columns:
    arm: int
    seed: int | None
    pair: int | None
    measure: int
    time: int | None
    step: int | None
    status: int | None
    machine: int | None
    budgets: Mapping[str, int]


def read(table: Table, question: Question) -> Runs:
    """The runs of a table.

    Raises:
        InputError: a column is missing, a cell is no number, a run stands twice, or there is nothing to compare.
    """
    columns = _columns(table, question)
    rows, notes = _whole(table, columns)
    _finite_text(table, rows, columns)
    groups: dict[tuple[str, str], list[Row]] = {}
    for i, row in enumerate(rows):
        seed = (_seed(row.cells[columns.seed]) if columns.seed is not None else "") or f"row {i + 1}"
        groups.setdefault((row.cells[columns.arm], seed), []).append(row)
    history = columns.step is not None and any(len(g) > 1 for g in groups.values())
    if not history:
        _refuse_twice(groups, table, columns, question)
    runs = [_run(arm, seed, found, table, columns, question, history) for (arm, seed), found in groups.items()]
    arms: dict[str, list[Run]] = {}
    for run in runs:
        arms.setdefault(run.arm, []).append(run)
    reference = _reference(arms, table, question)
    _refuse_pairs(runs, question)
    ordered = {reference: arms[reference]} | arms
    step = table.columns[columns.step] if history and columns.step is not None else ""
    if step:
        taken = "best" if question.at == "best" else "last"
        notes += (f"{len(rows)} rows are histories of {len(runs)} runs by {step!r}: the {taken} value of each is taken",)
    question = question.named(table.columns[columns.arm], reference)
    return Runs(question, ordered, any(not r.seed.startswith("row ") for r in runs), step, (*table.notes, *notes))


def _columns(t: Table, q: Question) -> _Columns:
    arm = q.arm or t.guess("arm", "model", "variant", "method", "config", "group", "experiment")
    if arm is None:
        raise InputError(f"--arm: name the column that says what each run was (there are: {', '.join(t.columns)})", Mark(t.name))
    if not q.measure:
        numbers = [c for i, c in enumerate(t.columns) if c != arm and _is_number(t.rows[0].cells[i])]
        raise InputError(
            f"--measure: name the column that runs are judged by (numbers stand in: {', '.join(numbers) or 'none'})", Mark(t.name)
        )
    seed = q.seed or t.guess("seed", "random_seed", "rng_seed")
    step = q.step or t.guess(*STEPS)
    status, machine = t.guess("outcome", "status", "state"), t.guess(*MACHINES)

    def at(name: str | None, option: str) -> int | None:
        return None if name is None else t.column(name, option)

    return _Columns(
        t.column(arm, "--arm"),
        at(seed, "--seed"),
        at(q.pair, "--pair"),
        t.column(q.measure, "--measure"),
        at(q.time, "--time"),
        at(step, "--step"),
        at(status, "status"),
        at(machine, "machine"),
        {found: t.columns.index(found) for name in BUDGETS if (found := t.guess(name)) and found not in (arm, q.measure, q.time)},
    )


def _whole(table: Table, c: _Columns) -> tuple[list[Row], tuple[str, ...]]:
    """The rows that are of an arm; those that name none and hold no value are told and left out."""
    bare = [row for row in table.rows if not row.cells[c.arm]]
    problems = [Problem("the run names no arm", table.at(row, c.arm)) for row in bare if row.cells[c.measure]]
    if problems:
        raise InputError(_few(problems))
    said = (f"{len(bare)} rows name neither an arm nor a value and are left out",) if bare else ()
    return [row for row in table.rows if row.cells[c.arm]], said


def _finite_text(table: Table, rows: Sequence[Row], c: _Columns) -> None:
    """Refuse what is no number where one must stand."""
    problems = []
    for column in filter(lambda i: i is not None, (c.measure, c.time, c.step)):
        assert column is not None
        for row in rows:
            if row.cells[column] and not _is_number(row.cells[column]):
                problems.append(Problem(_no_number(row.cells[column], table.columns[column]), table.at(row, column)))
    if problems:
        raise InputError(_few(problems))


def _no_number(text: str, column: str) -> str:
    said = f"{text[:40]!r} in {column!r} is no number"
    if "," in text and _is_number(text.replace(",", ".", 1)):
        return f"{said}: write a point for a decimal comma"
    number = text.rstrip("%abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ/ ")
    if number and _is_number(number):
        return f"{said}: write {number} alone, and the unit with --unit {text[len(number) :].strip()!r}"
    return f"{said}; a run that has none leaves it empty, one that diverged has nan"


def _few(problems: Sequence[Problem]) -> list[Problem]:
    more = len(problems) - NAMED
    return [*problems[:NAMED], *([Problem(f"and {more} more of the kind")] if more > 0 else [])]


def _is_number(text: str) -> bool:
    return "_" not in text and numeric(text)


def _seed(text: str) -> str:
    """A seed as it is written; `3.0`, which tables make of 3 where cells are missing, is 3."""
    return text.removesuffix(".0") if text.endswith(".0") and text[:-2].isdigit() else text


def _refuse_twice(groups: Mapping[tuple[str, str], Sequence[Row]], t: Table, c: _Columns, q: Question) -> None:
    problems = []
    for (arm, seed), rows in groups.items():
        for row in rows[1:]:
            law = f"{arm!r} with seed {seed!r} stands twice, first in line {rows[0].line}"
            remedy = "a run has one row; if a row is a step of a run, name its column with --step"
            problems.append(Problem(f"{law}: {remedy}", t.at(row, c.arm)))
    if problems:
        raise InputError(_few(problems))


def _run(arm: str, seed: str, rows: Sequence[Row], t: Table, c: _Columns, q: Question, history: bool) -> Run:
    row, step = _taken(arm, seed, rows, t, c, q) if history else (rows[0], None)
    text = row.cells[c.measure]
    value = float(text) if text else math.nan
    status = next((r.cells[c.status].lower() for r in reversed(rows) if r.cells[c.status]), "") if c.status is not None else ""
    outcome = "done" if status in ENDED else status
    if outcome == "done" and not math.isfinite(value):
        outcome = "diverged" if text else "without a value"
    given = {name: [float(r.cells[i]) for r in rows if _is_number(r.cells[i])] for name, i in c.budgets.items()}
    time = next((r.cells[c.time] for r in reversed(rows) if r.cells[c.time]), "") if c.time is not None else ""
    return Run(
        arm,
        seed,
        (_seed(row.cells[c.pair]) if c.pair is not None else "") or seed,
        value if outcome == "done" else None,
        outcome,
        float(time) if time and math.isfinite(float(time)) else None,
        row.cells[c.machine] if c.machine is not None else "",
        {name: max(values) for name, values in given.items() if values},
        t.at(row, c.measure),
        step,
    )


def _taken(arm: str, seed: str, rows: Sequence[Row], t: Table, c: _Columns, q: Question) -> tuple[Row, float | None]:
    """Of a history the row that speaks for the run, and its step."""
    assert c.step is not None
    steps: dict[float, Row] = {}
    for row in rows:
        if not row.cells[c.measure]:  # other columns were logged at this step
            continue
        step = float(row.cells[c.step]) if row.cells[c.step] else math.nan
        if step in steps:
            law = f"{arm!r} with seed {seed!r} has two values at {t.columns[c.step]} {step:g}, first in line {steps[step].line}"
            raise InputError(f"{law}: runs that share an arm and a seed are told apart by --seed", t.at(row, c.step))
        steps[step] = row
    if not steps:
        return rows[-1], None
    last = max(steps)
    if q.at == "last" or not math.isfinite(float(steps[last].cells[c.measure])):
        return steps[last], last
    finite = {s: v for s, r in steps.items() if math.isfinite(v := float(r.cells[c.measure]))}
    best = (max if q.higher_is_better else min)(finite, key=lambda s: finite[s])
    return steps[best], best


def _reference(arms: Mapping[str, Sequence[Run]], t: Table, q: Question) -> str:
    if len(arms) > MOST_ARMS:
        law = f"{len(arms)} arms in {sum(map(len, arms.values()))} runs: more than {MOST_ARMS} are no comparison"
        raise InputError(
            f"{law}; --arm names the column of what was compared, not of the run (there are: {', '.join(t.columns)})", Mark(t.name)
        )
    reference = q.reference or next((name for name in ("reference", "baseline", "base", "control") if name in arms), None)
    if reference is None:
        raise InputError(f"--reference: name the arm that the others are compared with{suggest('', arms)}", Mark(t.name))
    if reference not in arms:
        raise InputError(f"--reference: no arm {reference!r}{suggest(reference, arms)}", Mark(t.name))
    if len(arms) == 1:
        raise InputError(f"there is one arm, {reference!r}, and nothing to compare it with", Mark(t.name))
    return reference


def _refuse_pairs(runs: Sequence[Run], q: Question) -> None:
    """Two runs of an arm cannot both be paired with one of the reference."""
    seen: dict[tuple[str, str], Run] = {}
    for run in runs if q.pair else ():
        if (run.arm, run.pair) in seen:
            law = f"{run.arm!r} has two runs with {q.pair} {run.pair!r}, first in line {seen[run.arm, run.pair].mark.line}"
            raise InputError(f"{law}: a pair is one run of each arm; pair by another column, or --unpaired", run.mark)
        seen[run.arm, run.pair] = run


def differing(names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names that are equal but for case and blanks."""
    first: dict[str, str] = {}
    for name in names:
        plain = "".join(name.casefold().split()).replace("-", "_")
        if plain in first:
            yield first[plain], name
        first.setdefault(plain, name)
