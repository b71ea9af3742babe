"""Study: a question, a task, a space, and how the evidence is gathered; frozen once loaded.

study.space, study.arms(), study.comparisons, study.reference;  study.training(), study.key(...) name what decides a trial's numbers
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aotsearch.errors import InputError, suggest
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.study import design, designs, equalise
from aotsearch.study.design import Arm, Comparison, Design
from aotsearch.study.sampling import goal
from aotsearch.study.settings import Adaptive, StudySettings, Tuning

VERSIONS = ("aotsearch", "torch", "numpy")  # the packages that can move a loss: a trial records which made it
VARYING = ("one-at-a-time", "factorial", "fractional", "pairs")
READ_BY = {  # setting -> the designs that read it, of those that not all read
    "factors": VARYING,
    "stripped": ("add-one-in",),
    "runs": ("fractional",),
    "arms": (*VARYING, "add-one-in", "search"),
    "compare": (*VARYING, "add-one-in", "search"),
    "search": ("search",),
}


@dataclass(frozen=True)
class Study:
    """A loaded study.

    Attributes:
        name: Of the study and of its MLflow experiment.
        question: What it asks, for the report.
        task: What the models are trained on.
        space: The architectures.
        settings: The `study` section.
        plain: The resolved study as plain data, as `study.yaml` holds it.
        manifest: The digest of its data, once that was read; it then names the data wherever the files lie.
        looked: The first and the last number of seeds at which this study is looked at, where its seeds were changed after a look.
    """

    name: str
    question: str
    task: Any
    space: Space
    settings: StudySettings
    plain: Mapping[str, Any]
    manifest: str = ""
    looked: tuple[int, int] | None = None

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], folder: str | Path = ".") -> Study:
        """A study from what its file would hold, as plain Python data, with the same checks.

        Args:
            folder: Where relative paths of data start.

        Raises:
            InputError: with every problem found; a place is told by the keys that lead there.
        """
        from aotsearch.study.loading import from_plain  # which makes studies, from files too

        return from_plain(plain, folder)

    @functools.cached_property
    def goals(self) -> tuple[tuple[str, int], ...]:
        """What a search is after: names, each with 1 where it is to be small, -1 where large; the task's measure where none is named."""
        return tuple(map(goal, self.settings.search.objectives)) or ((self.task.measure, 1),)

    @property
    def reference(self) -> Architecture:
        return self.space.reference

    @functools.cached_property
    def base_design(self) -> Design:
        """The arms and what they are compared for, before any is re-sized."""
        s = self.settings
        return designs.make(self.space, s.design, s.factors, s.stripped, s.runs, s.arms, [(one, other) for one, other in s.compare])

    @functools.cached_property
    def design(self) -> Design:
        """The arms and what they are compared for, under every mode of `equalise`."""
        s = self.settings
        if s.modes == ["none"]:
            return self.base_design
        return equalise.equalised(self.space, self.base_design, s.modes, s.resize, s.tolerance)

    @functools.cached_property
    def not_varied(self) -> dict[str, str]:
        """Decision -> why the design does not vary it."""
        return designs.not_varied(self.space, self.base_design, self.settings.design)

    @property
    def notes(self) -> list[str]:
        """What a person should know before a run, a line each: former names, decisions not varied, settings not read."""
        s = self.settings
        notes = list(self.space.form.notes)
        notes += [f"not varied: {designs.listed(self.space, self.not_varied)}"] if self.not_varied else []
        notes += [
            f"{name} is not read by design: {s.design}"
            for name, readers in READ_BY.items()
            if name in s.model_fields_set and getattr(s, name) and s.design not in readers
        ]
        if s.design != "search" and len(self.base_design.arms) == 1:
            notes.append(
                "nothing is compared: the reference is the only arm; write a decision as {any: [reference, other]}, name arms, "
                "or let design: search vary the ranges"
            )
        return notes

    def arms(self) -> list[Arm]:
        """The arms of the design, the reference first."""
        return list(self.design.arms)

    @functools.cached_property
    def comparisons(self) -> tuple[Comparison, ...]:
        """What is compared under every mode, by name: nothing has to be re-sized to know it."""
        return design.compared(self.base_design, self.settings.modes)

    @functools.cached_property
    def _weights(self) -> Mapping[tuple[str, str], Mapping[str, float]]:
        return {(c.name, c.equalise): c.weights for c in self.comparisons}

    def weights(self, name: str, equalise: str) -> Mapping[str, float]:
        """Arm -> weight in a comparison; one that is not declared, such as of a search's candidate, is an arm minus the reference."""
        return self._weights.get((name, equalise), {name: 1.0, design.REFERENCE: -1.0})

    @property
    def arm_names(self) -> list[str]:
        """The names of `arms()`."""
        others = [a.name for a in self.base_design.arms[1:]]
        return [design.REFERENCE, *(design.equal_name(name, mode) for mode in self.settings.modes for name in others)]

    def arm(self, name: str) -> Arm:
        """One arm by name."""
        by_name = {a.name: a for a in self.base_design.arms}
        by_name = by_name if name in by_name else {a.name: a for a in self.design.arms}
        if name not in by_name:
            raise InputError(f"no arm {name!r}{suggest(name, by_name)}")
        return by_name[name]

    def training(self, rate: float | None = None) -> dict[str, Any]:
        """Everything besides architecture, task and seed that decides a trial's numbers; the precision where it is not left to the device.

        Args:
            rate: The learning rate, where it is tuned; by default the middle one of the list.
        """
        s = self.settings
        given = s.learning_rate.tune[len(s.learning_rate.tune) // 2] if isinstance(s.learning_rate, Tuning) else s.learning_rate
        precision = {} if s.resources.precision == "auto" else {"precision": s.resources.precision}
        return {**s.budget.model_dump(), "learning_rate": rate or given, **s.optimiser.told, **precision}

    @property
    def looks(self) -> Adaptive | None:
        """From how many seeds to how many verdicts are looked at, where that is more than once: as declared, or as it came about."""
        if self.looked is None:
            return self.settings.adaptive
        return Adaptive(min=self.looked[0], max=self.looked[1])

    @property
    def digest(self) -> str:
        """Names what must be equal for two trials to be compared: the task and the training."""
        rate = self.settings.model_dump()["learning_rate"]
        return _digest([self._identity, self.training() | {"learning_rate": rate}])[:12]

    def key(self, architecture: str, seed: int, training: Mapping[str, Any], search: bool = False) -> str:
        """Names a trial by all that decides its numbers, so that equal keys are never trained twice.

        Args:
            architecture: The digest of its model.
            training: As `training` gives it.
            search: Whether it may be stopped early.
        """
        return _digest([architecture, seed, self._identity, training, search])[:16]

    @property
    def _identity(self) -> Any:
        """The task, its data named by content where that is known: a file is the same wherever it lies."""
        plain = self.task.to_plain()
        return _by_content(plain, self.manifest) if self.manifest else plain


def _digest(identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def _by_content(plain: Any, manifest: str) -> Any:
    """Plain data with every absolute path replaced by the digest of what it holds."""
    if isinstance(plain, dict):
        return {key: _by_content(value, manifest) for key, value in plain.items()}
    if isinstance(plain, list):
        return [_by_content(value, manifest) for value in plain]
    return manifest if isinstance(plain, str) and os.path.isabs(plain) else plain  # noqa: PTH117 (also of a pattern)


def loss_unit(study: Study) -> str:
    """The unit of the loss that training lowers; tasks of installed packages need not name one."""
    return getattr(study.task, "loss_unit", "as the task defines it")
