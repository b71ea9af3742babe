"""Which trials of a search are stopped early: asynchronous successive halving, one rule for both executors."""

from __future__ import annotations

import math


class Rungs:
    """The rungs of one search, and who reached them.

    Rung k stands at evaluation eta^k, k = 0, 1, ..., below the last evaluation, with eta the `reduction`. A trial that comes to a rung as
    the n-th goes on if its measure (lower is better) is among the best ceil(n / eta) of these n, itself and ties included; else it is
    stopped. It is decided once, when the trial comes: nothing is stopped later, and nothing that was stopped goes on later.

    Source: Li et al. 2018, arXiv:1810.05934. Ours differs: that pauses every trial at a rung and promotes out of the best floor(n / eta) at
    any time; here, as in Optuna's and Ray's, a trial runs on or ends, so that the first of a rung has to run on.
    """

    def __init__(self, evaluations: int, reduction: int):
        assert reduction >= 2, reduction
        self.reduction = reduction
        self.evaluations = evaluations
        self.reached: dict[int, dict[str, float]] = {}  # evaluation of a rung -> trial -> its measure there
        at = 1
        while at < evaluations:
            self.reached[at] = {}
            at *= reduction

    def reach(self, trial: str, evaluation: int, value: float) -> str:
        """A trial has come to an evaluation, counted from 1; returns why it is stopped here, empty where it goes on."""
        if evaluation not in self.reached or trial in self.reached[evaluation]:
            return ""
        rung = self.reached[evaluation]
        rung[trial] = value
        kept = math.ceil(len(rung) / self.reduction)
        if value <= sorted(rung.values())[kept - 1]:
            return ""
        return f"pruned at evaluation {evaluation} of {self.evaluations}: not among the best {kept} of {len(rung)} that came so far"

    def recall(self, trial: str, evaluation: int, value: float) -> None:
        """What a trial had reached before an interruption counts, and what was decided stands."""
        if evaluation in self.reached:
            self.reached[evaluation][trial] = value
