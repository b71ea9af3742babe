from __future__ import annotations

import math
from typing import Any

from aotsearch.study.rates import Rate, beyond, chosen


def tuned(arm: str, rate: float, value: float | None, seed: int = 0) -> dict[str, Any]:
    measures = {} if value is None else {"loss": value}
    outcome = "diverged" if value is None else "done"
    return {"phase": "tune", "arm": arm, "learning_rate": rate, "seed": seed, "outcome": outcome, "measures": measures}


def test_the_chosen_rate_has_the_lowest_mean_over_its_seeds_and_divergence_never_wins() -> None:
    records = [tuned("a", 0.1, 2.0), tuned("a", 0.1, 4.0, 1), tuned("a", 0.2, 2.9), tuned("a", 0.2, 2.9, 1)]
    records += [tuned("a", 0.3, 1.0), tuned("a", 0.3, None, 1), tuned("b", 0.05, 0.1)]
    found = chosen(records, "a", "loss")
    assert found.value == 0.2 and not found.edge
    assert found.tried == {0.1: 3.0, 0.2: 2.9, 0.3: math.inf}
    assert chosen(records, "c", "loss").value is None


def test_an_optimum_at_an_end_of_the_list_is_flagged_and_the_list_extended_by_its_own_step() -> None:
    high = chosen([tuned("a", r, v) for r, v in ((0.1, 3.0), (0.2, 2.0), (0.4, 1.0))], "a", "loss")
    assert high.edge and beyond(high, [0.1, 0.2, 0.4], 2) == 0.8
    low = chosen([tuned("a", r, v) for r, v in ((0.1, 1.0), (0.2, 2.0))], "a", "loss")
    assert math.isclose(beyond(low, [0.1, 0.2], 1) or 0, 0.05)
    assert beyond(low, [0.1], 1) is None  # extended once already
    assert beyond(Rate(0.2, {0.1: 2.0, 0.2: 1.0, 0.4: 3.0}, False), [0.1, 0.2, 0.4], 2) is None
