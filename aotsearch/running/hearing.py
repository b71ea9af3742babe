"""What Ray Tune is given to hear and to ask: the observer as its callback, the rungs as its scheduler, the proposals as its searcher.

Tune pickles its parts for a restore that is never made: each of these becomes a plain object then.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from aotsearch.errors import RunError
from aotsearch.running.work import Observer, Record, Search, Trial, Work

LOSSES = 3  # workers that a trial may be lost with before it has failed
LOW = ("memory usage threshold", "low on memory")  # Ray's words, of a worker that it has ended for want of memory


def said(error: object) -> str:
    return " ".join(str(error or "").split())


def _reason(trial: Any) -> str:
    """What Ray says of a worker that was lost: in a file of Tune, which at that time is not yet where Tune itself would look for it."""
    with contextlib.suppress(OSError, TypeError):
        return said(Path(trial.error_file).read_text(encoding="utf-8", errors="replace"))
    return said(trial.get_pickled_error()) or "no reason was given"


def share_of(config: Mapping[str, Any]) -> float:
    """The part of a GPU that a bundle is granted."""
    return float(config["shares"].get(config["bundle"][0]["key"], config["share"]))


def callback(
    work: Work,
    observer: Observer,
    reasons: Mapping[str, str],
    again: list[Trial],
    losses: Counter[str],
    checkpoints: Path,
    crowded: set[str] | None = None,
) -> Any:
    """Tune's view of the observer.

    Args:
        again: Takes the trials that are to be trained again.
        losses: Counts the workers lost with each.
        crowded: Takes the keys of those that the machine had no memory for beside others; None where each has what there is.
    """
    from ray import tune

    from aotsearch.training import watch

    class Callback(tune.Callback):  # type: ignore[misc]
        """Tells the observer; a trial that ends without a record was stopped by the scheduler or lost with its worker."""

        def __init__(self) -> None:
            self.curves: dict[str, list[Mapping[str, float]]] = {}
            self.known: dict[str, Mapping[str, Any]] = {}  # what a worker knows of a trial before it trains it
            self.plans: dict[str, Trial] = {}  # of trials that have no record yet
            self.ended = ""  # what ends the run, as a worker says it

        def __reduce__(self) -> Any:
            return object, ()  # Tune pickles its parts for a restore that is never made

        def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            for plan in trial.config["bundle"]:
                self.plans[plan["key"]], self.curves[plan["key"]] = plan, []
                observer.started(plan)

        def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any) -> None:
            if "ends" in result:
                self.ended = result["ends"]
                raise RunError(self.ended)
            self.known.update(result.get("known", {}))
            for key, point in result.get("points", ()):
                self.curves[key].append(point)
                observer.point(self.plans[key], point)
            if "record" not in result:
                return
            record = result["record"]
            if record["outcome"] == "out-of-memory" and 0 < share_of(trial.config) < 1:
                again.append(self.plans.pop(record["key"]))
            elif record["outcome"] == "out-of-memory" and crowded is not None and not share_of(trial.config):
                self._again_alone([record["key"]])
            else:
                self._finish(record)

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self._end(trial, "pruned", lambda key: reasons.get(key, "pruned"))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            why = _reason(trial)
            keys = [plan["key"] for plan in trial.config["bundle"]]
            known = next(filter(None, (watch.fate(checkpoints, key) for key in keys)), None)  # its file has the name of one
            if not any(key in self.curves for key in keys):  # which says nothing of the trial
                return self._never_began(trial.config["bundle"], why)
            left = [key for key in keys if key in self.plans]
            if crowded is not None and (known[0] == watch.FULL if known is not None else any(words in why for words in LOW)):
                self._again_alone(left)
                left = []
            for key in left:
                losses[key] += 1
                if known is not None:  # the process told what it died of
                    self._tell(key, known[0], {"message": known[1], "traceback": known[2]})
                elif losses[key] < LOSSES:
                    again.append(self.plans.pop(key))
                else:
                    outcome = watch.FULL if any(words in why for words in LOW) else "failed"
                    self._tell(key, outcome, {"message": f"the process that trained it was lost {LOSSES} times: {why[-300:]}"})
            for key in keys if known is not None else ():
                watch.path_of(checkpoints, key).unlink(missing_ok=True)

        def _never_began(self, bundle: list[Trial], why: str) -> None:
            losses.update(plan["key"] for plan in bundle)
            if losses[bundle[0]["key"]] >= LOSSES:
                self.ended = f"no worker could be started, {LOSSES} times: {why[-300:]}"
                raise RunError(self.ended)
            again.extend(bundle)

        def _again_alone(self, keys: list[str]) -> None:
            assert crowded is not None
            crowded.update(keys)
            again.extend(self.plans.pop(key) for key in keys)

        def _end(self, trial: Any, outcome: str, message: Callable[[str], str]) -> None:
            for key in [plan["key"] for plan in trial.config["bundle"] if plan["key"] in self.plans]:
                self._tell(key, outcome, {"message": message(key)})

        def _tell(self, key: str, outcome: str, more: dict[str, str]) -> None:
            from aotsearch.training.trial import record

            made = record(self.plans[key], outcome, list(self.curves.get(key, ())))  # type: ignore[arg-type]
            self._finish({**made, **self.known.get(key, {}), **more})

        def _finish(self, record: Record) -> None:
            del self.plans[record["key"]]
            if work.search is not None:
                work.search.tell(record)
            observer.finished(record)

    return Callback()


def scheduler(search: Search, reasons: dict[str, str]) -> Any:
    """Ray's view of the rungs; why a trial was stopped goes into `reasons`, by its key."""
    from ray.tune.schedulers import FIFOScheduler

    class Halving(FIFOScheduler):  # type: ignore[misc]
        """The rungs."""

        def __reduce__(self) -> Any:
            return object, ()  # as above

        def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
            (plan,) = trial.config["bundle"]
            if "evaluation" not in result:  # the last one, with the record
                return str(self.CONTINUE)
            number, (_, point) = result["evaluation"], result["points"][-1]
            if result.get("recalled"):
                search.recall(plan, number, point)
            elif reason := search.stop(plan, number, point):
                reasons[plan["key"]] = reason
                return str(self.STOP)
            return str(self.CONTINUE)

    return Halving()


def searcher(search: Search) -> Any:
    from ray.tune.search import Searcher

    class Searching(Searcher):  # type: ignore[misc]
        """Ray's view of the search: what came of a proposal is told by the callback, which hears of every result."""

        def __init__(self) -> None:
            super().__init__(metric="loss", mode="min")

        def __reduce__(self) -> Any:
            return object, ()  # as above

        def suggest(self, trial_id: str) -> Any:
            trial = next(search.proposals, None)
            return Searcher.FINISHED if trial is None else {"bundle": [trial]}

        def on_trial_complete(self, trial_id: str, result: Any = None, error: bool = False) -> None:
            pass

        def save(self, checkpoint_path: str) -> None:
            pass

        def restore(self, checkpoint_path: str) -> None:
            raise AssertionError("runs continue from the ledger")

    return Searching()
