"""What a person sees while trials run: a live panel on a terminal, one line per finished trial elsewhere; all on standard error."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from aotsearch.errors import shown
from aotsearch.surroundings import write
from aotsearch.tracking.wording import run_name

Trial = Mapping[str, Any]


class Progress:
    """Counts, running trials, the best so far and the time left.

    Args:
        measure: The measure that is shown, lower is better.
        unit: Its unit.
        stream: Where to write.
        tuned: Whether the study tunes learning rates: then a trial is told with its own.
    """

    def __init__(self, measure: str, unit: str, stream: TextIO | None = None, tuned: bool = False):
        self.measure, self.unit, self.tuned = measure, unit, tuned
        self.stream = stream or sys.stderr
        self.total = self.done = 0
        self.outcomes: Counter[str] = Counter()
        self.running: dict[str, tuple[Trial, Mapping[str, float]]] = {}
        self.best: tuple[float, str] | None = None
        self.began = time.monotonic()
        self.before = 0  # trials that this start of the run did not train: finished when it began, or from a cache
        self._live: Any = None

    def begin(self, total: int, records: Sequence[Mapping[str, Any]]) -> None:
        """A phase of the run starts: so many trials in all, these of them finished before."""
        self.total = total
        self.done = self.before = len(records)
        self.began = time.monotonic()
        self.outcomes = Counter(r["outcome"] for r in records)
        for record in records:
            self._rank(record)
        if self.before:
            self.say(f"continuing: {self.before} of {total} trials are finished")
        if self.stream.isatty() and self._live is None and self.done < total:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(get_renderable=self._panel, console=Console(file=self.stream), refresh_per_second=4, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """One line of information."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            write(self.stream, shown(text) + "\n")

    def started(self, trial: Trial) -> None:
        self.running[trial["key"]] = (trial, {})

    def point(self, trial: Trial, point: Mapping[str, float]) -> None:
        if trial["key"] in self.running:
            self.running[trial["key"]] = (trial, point)

    def finished(self, record: Trial, where: str = "") -> None:
        """
        Args:
            where: The file of its traceback.
        """
        self.running.pop(record["key"], None)
        self.done += 1
        self.before += bool(record.get("cached"))  # it took no time here
        self.outcomes[record["outcome"]] += 1
        self._rank(record)
        value = record["measures"].get(self.measure)
        said = (
            f"{value:.3f} {self.unit}"
            if value is not None and record["outcome"] == "done"
            else f"{record['outcome']}: {record['message']}{where and f'; see {where}'}"
        )
        width = len(str(self.total))
        seconds = f"{record['seconds']:.1f} s" if record.get("seconds") is not None else ""
        seconds = "from the cache" if record.get("cached") else seconds
        self.say(f"[{self.done:{width}}/{self.total}] {run_name(record, self.tuned)}: {said}  ({seconds}; {self._left()} left)")

    def end(self) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _rank(self, record: Trial) -> None:
        value = record["measures"].get(self.measure)
        if record["outcome"] == "done" and value is not None and (self.best is None or value < self.best[0]):
            self.best = (value, run_name(record, self.tuned))

    def _left(self) -> str:
        fresh = self.done - self.before
        if not fresh:
            return "?"
        return clock((time.monotonic() - self.began) / fresh * max(0, self.total - self.done))

    def _panel(self) -> Any:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        counts = ", ".join(f"{n} {outcome}" for outcome, n in sorted(self.outcomes.items())) or "none yet"
        best = f"   best {self.best[0]:.3f} {self.unit} ({self.best[1]})" if self.best else ""
        grid = Table.grid(padding=(0, 2))
        for trial, point in list(self.running.values()):
            steps = trial["training"]["steps"]
            loss = f"train loss {point['train_loss']:.3f}" if "train_loss" in point else "starting"
            bar = ProgressBar(total=steps, completed=point.get("step", 0), width=24)
            grid.add_row(Text(run_name(trial, self.tuned)), bar, Text(loss))
        elapsed = clock(time.monotonic() - self.began)
        head = Text(f"{self.done}/{self.total} trials: {counts}   {elapsed} gone, {self._left()} left{best}", style="bold")
        return Group(head, grid)


def clock(seconds: float) -> str:
    """Seconds as a person says them."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
