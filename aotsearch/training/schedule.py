"""Step -> learning rate, and the steps whose weights an evaluation averages."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

SHORT = 100  # a training of fewer steps is over before it is found out what would be faster


def learning_rate(step: int, training: Mapping[str, Any]) -> float:
    r"""The learning rate of a step: linear warm-up to the highest, then by `schedule`.

    r_t = r t / w                                                    for t <= w
    cosine: r_t = r (f + (1 - f) (1 + cos(pi (t - w) / (T - w))) / 2)     after
    wsd:    r_t = r  for t <= T - d,   r (f + (1 - f) (1 - sqrt((t - T + d) / d)))  after

    t counts steps from 1 to T, w = warmup T, f = floor, d = decay T. Source: Loshchilov and Hutter 2016, arXiv:1608.03983; wsd Hu et al.
    2024, arXiv:2404.06395, with the square root of Hägele et al. 2024, arXiv:2405.18392.
    """
    t, steps, highest = step + 1, training["steps"], training["learning_rate"]
    warmup = training["warmup"] * steps
    if t <= warmup:
        return float(highest * t / warmup)
    floor = training["floor"]
    if training.get("schedule", "cosine") == "cosine":
        share = (t - warmup) / max(steps - warmup, 1e-9)
        return float(highest * (floor + (1 - floor) * (1 + math.cos(math.pi * share)) / 2))
    decay = training["decay"] * steps
    share = min(1.0, max(0.0, (t - steps + decay) / max(decay, 1e-9)))
    return float(highest * (floor + (1 - floor) * (1 - math.sqrt(share))))


def evaluations(training: Mapping[str, Any]) -> list[int]:
    """The steps after which the validation split is evaluated, the last at the end."""
    steps, number = training["steps"], training["evaluations"]
    return sorted({round(steps * (i + 1) / number) for i in range(number)} - {0})


def averaged(training: Mapping[str, Any]) -> dict[int, int]:
    """Step -> how many steps before it an evaluation's mean of weights has seen, for every step that enters one; empty where none does.

    An evaluation after e steps averages the weights of its last `average` e steps, at least of its own, but of none that an evaluation
    before it has averaged.
    """
    share, before = training.get("average", 0.0), 0
    found: dict[int, int] = {}
    for end in evaluations(training) if share else []:
        first = max(before, min(end - 1, end - round(share * end))) + 1
        found |= {step: step - first for step in range(first, end + 1)}
        before = end
    return found
