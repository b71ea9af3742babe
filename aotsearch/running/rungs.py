"""Which trials of a search are stopped early: asynchronous successive halving, one rule for both executors."""

from __future__ import annotations

import math

from aotsearch.study.sampling import rungs


class Rungs:
    """The rungs of one search, and who reached them.

    Rung k stands at evaluation eta^k, k = 0, 1, ..., below the last evaluation, with eta the `reduction`. A trial that comes to a rung as
    the n-th goes on if fewer than ceil(n / eta) of these n are clearly better; else it is stopped. Clearly better is a measure (lower is
    better) that is lower by more than `tie`, and no other objective that is larger. It is decided once, when the trial comes: nothing is
    stopped later, and nothing that was stopped goes on later.

    Source: Li et al. 2018, arXiv:1810.05934. Ours differs: that pauses every trial at a rung and promotes out of the best floor(n / eta) at
    any time; here, as in Optuna's and Ray's, a trial runs on or ends, so that the first of a rung has to run on. That differences within
    the noise are ties is PASHA's (Bohdal et al. 2023, arXiv:2207.06940); here they are ties within the study's margin.

    Args:
        tie: What two measures may differ by without one being better.
    """

    def __init__(self, evaluations: int, reduction: int, tie: float = 0.0):
        assert reduction >= 2, reduction
        self.reduction, self.tie = reduction, tie
        self.costs: dict[str, tuple[float, ...]] = {}  # of a trial: its other objectives, where they are known before it is trained
        self.evaluations = evaluations
        self.reached: dict[int, dict[str, float]] = {at: {} for at in rungs(evaluations, reduction)}  # rung -> trial -> its measure there

    def reach(self, trial: str, evaluation: int, value: float) -> str:
        """A trial has come to an evaluation, counted from 1; returns why it is stopped here, empty where it goes on."""
        if evaluation not in self.reached or trial in self.reached[evaluation]:
            return ""
        rung = self.reached[evaluation]
        rung[trial] = value
        kept = math.ceil(len(rung) / self.reduction)
        own = self.costs.get(trial, ())
        better = sum(
            other < value - self.tie and all(a <= b for a, b in zip(self.costs.get(name, ()), own, strict=True))
            for name, other in rung.items()
        )
        if better < kept:
            return ""
        return f"pruned at evaluation {evaluation} of {self.evaluations}: {better} of the {len(rung)} that came so far are clearly better"

    def recall(self, trial: str, evaluation: int, value: float) -> None:
        """What a trial had reached before an interruption counts, and what was decided stands."""
        if evaluation in self.reached:
            self.reached[evaluation][trial] = value
