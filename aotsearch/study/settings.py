"""The `study` section: how the evidence is gathered; every default, bound and description of a setting."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from aotsearch.diagnostics import catalogue
from aotsearch.errors import InputError, Problem, suggest
from aotsearch.grammar.words import Count, Flag, Natural, Positive
from aotsearch.study import sampling
from aotsearch.study.rates import TUNE_SEED
from aotsearch.yamlfile import Node

SEARCH_SEED = 10_000  # a search trains under this seed plus the sampler's; those of the study lie below, so that what judges is fresh
Fraction = Annotated[float, Field(ge=0, le=1)]
Mode = Literal["none", "parameters", "flops"]


def _fresh(seed: int) -> int:
    if seed >= SEARCH_SEED:
        raise ValueError(
            f"a seed lies below {SEARCH_SEED}: those from there on are a search's, from {TUNE_SEED} on the tuning's, not {seed}"
        )
    return seed


Seed = Annotated[int, pydantic.AfterValidator(_fresh)]


class Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)  # `true` is no number, as for a word


class Budget(Settings):
    """How long each trial trains, and how often it is measured."""

    steps: Natural = Field(600, description="optimiser steps; 0 measures the models untrained")
    batch: Count = Field(16, description="sequences per step")
    evaluations: Count = Field(4, description="evaluations of the whole validation split, the last at the end")


class Optimiser(Settings):
    """AdamW with linear warm-up and a falling learning rate."""

    warmup: Fraction = Field(0.1, description="share of the steps in which the learning rate rises from 0")
    schedule: Literal["cosine", "wsd"] = Field(
        "cosine",
        description="after the warm-up half a cosine; or wsd, stable until the decay at the end, so that it can be cut anywhere before",
    )
    decay: Fraction = Field(0.2, description="for wsd: share of the steps in which the learning rate falls, at the end")
    floor: Fraction = Field(0.1, description="last learning rate as a share of the highest")
    average: Annotated[float, Field(ge=0, lt=1)] = Field(
        0.0, description="an evaluation takes the mean of the weights over this share of the steps so far; 0 takes the last ones"
    )
    weight_decay: float = Field(0.1, ge=0, allow_inf_nan=False, description="decay of matrices; vectors are not decayed")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of the second moment")
    clip: Positive = Field(1.0, description="largest norm of the gradient")

    @property
    def told(self) -> dict[str, Any]:
        """What a trial is named by: settings younger than the first ledgers are left out where they change nothing."""
        idle = {"schedule", "decay"} if self.schedule == "cosine" else set()
        return self.model_dump(exclude=idle | ({"average"} if self.average == 0 else set()))

    @pydantic.model_validator(mode="after")
    def _room(self) -> Optimiser:
        if self.schedule == "wsd" and self.warmup + self.decay > 1:
            raise ValueError(f"warmup and decay are at most 1 together, not {self.warmup:g} and {self.decay:g}")
        return self


class Search(Settings):
    """`design: search`: a sampler with ASHA proposes, fresh seeds confirm."""

    trials: Count = Field(24, description="architectures tried, one seed each")
    confirm: Count | None = Field(
        None,
        description="the best so many are trained again, against the reference, on fresh seeds; 3, or with several objectives the front",
    )
    sampler: sampling.Name | sampling.Sampler = Field("tpe", description="what proposes, by name, or {name: {option: value}}")
    objectives: list[sampling.Objective] = Field(
        [],
        description="what is to be small: the task's measure, first if none are named, costs, diagnostics, hints; or {maximise: ...}",
    )
    hints: list[str] = Field([], description="what is measured of each model before it is trained, to tell what it foretells")
    first: list[str | sampling.Earlier] = Field(
        [],
        description="tried before anything that the sampler proposes: arms of the study, such as reference; "
        "{run: FOLDER, best: N} is the best of another run",
    )
    stop: Count | Literal["expected-improvement"] | None = Field(
        None,
        description="the search ends after so many trials in a row that were better by no more than the margin, "
        "or once none is expected to be; by default never",
    )
    path: Flag = Field(
        False, description="whether the best found is explained: the reference is changed into it step by step, each trained and compared"
    )
    reduction: int = Field(3, ge=2, description="ASHA keeps one in so many at each rung")
    seed: int = Field(0, ge=0, lt=TUNE_SEED - SEARCH_SEED, description="seed of the sampler; each is a search of its own")

    @pydantic.field_validator("objectives")
    @classmethod
    def _apart(cls, objectives: list[sampling.Objective]) -> list[sampling.Objective]:
        names = [sampling.goal(o)[0] for o in objectives]
        if len(set(names)) < len(names):
            raise ValueError(f"each objective stands once, not {', '.join(n for n in dict.fromkeys(names) if names.count(n) > 1)} twice")
        return objectives

    @property
    def diagnosed(self) -> list[str]:
        """The diagnostics that are objectives."""
        return [name for name, _ in map(sampling.goal, self.objectives) if name in catalogue.catalogue()]

    @property
    def hinted(self) -> list[str]:
        """The hints that are measured: those asked for, and those that are objectives."""
        return list(dict.fromkeys([*self.hints, *(name for name, _ in map(sampling.goal, self.objectives) if name in catalogue.hints())]))

    @property
    def confirmed(self) -> int | None:
        """How many are trained again; None for the whole front."""
        return self.confirm if self.confirm or len(self.objectives) > 1 else 3

    @property
    def training_seed(self) -> int:
        """The seed that every architecture of the search is trained under."""
        return SEARCH_SEED + self.seed


class Tuning(Settings):
    """Each arm's own learning rate, found on the validation split under seeds of its own."""

    tune: Annotated[list[Positive], Field(min_length=2)] = Field(description="the rates tried, each for every arm")
    seeds: Count = Field(1, description="seeds per rate")
    extend: Natural = Field(2, description="how often the list is extended where an arm's best rate lies at its end")

    @pydantic.field_validator("tune")
    @classmethod
    def _rising(cls, tune: list[float]) -> list[float]:
        if len(set(tune)) < len(tune):
            raise ValueError("the rates to try are distinct")
        return sorted(tune)


class Adaptive(Settings):
    """Seeds as needed: after `min`, the least settled comparisons get more, until all are settled or have `max`."""

    min: Annotated[int, Field(ge=2)] = Field(4, description="seeds before the first look")
    max: Annotated[int, Field(ge=3, le=SEARCH_SEED)] = Field(16, description="most seeds of an arm")

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Adaptive:
        if self.max <= self.min:
            raise ValueError("max is above min")
        return self


class Steps(Settings):
    """A stretch of training."""

    steps: Count = Field(description="updates of the weights")


class Resources(Settings):
    """What one trial is granted."""

    cpus: Count = Field(1, description="processors, which is also the number of threads")
    gpus: Fraction | Literal["auto"] = Field(
        "auto", description="one GPU, a share of one, or 0; auto is one where there is one, or as much of it as a small trial needs"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass (weights stay float32); auto is bfloat16 on a GPU, float32 on a processor"
    )
    fuse: Count | Literal["auto"] = Field(
        "auto", description="seeds of an arm trained as one program, at most so many; auto where it is faster; 1 is each as it is"
    )
    checkpoint: Positive | Steps | Literal["never"] = Field(
        60.0, description="seconds, or {steps: N}, after which a trial that trains is written down, to go on there after an interruption"
    )
    patience: Positive = Field(1800.0, description="seconds without a step after which a trial is taken to hang, and is ended")
    memory: Positive | Literal["auto"] = Field(
        "auto", description="gigabytes of a machine's memory at which a trial is ended; auto is an equal part for all that train at a time"
    )

    def share(self, gpus: float) -> float:
        """The GPUs of a trial where there are so many."""
        return float(min(1, gpus)) if self.gpus == "auto" else self.gpus

    def room(self, cpus: float, gpus: float) -> int:
        """How many trials there is room for at once on so many processors and GPUs; a trial lies on one GPU, whole or in part."""
        share, room = self.share(gpus), int(cpus // self.cpus)
        return min(room, int(1 / share) * int(gpus)) if share else room

    def required_room(self, cpus: float, gpus: float) -> int:
        """`room`, where there is any.

        Raises:
            InputError: there is room for no trial.
        """
        if not (room := self.room(cpus, gpus)):
            raise InputError(self.lack(cpus, gpus))
        return room

    def lack(self, cpus: float, gpus: float) -> str:
        """What is wrong where there is room for no trial."""
        return f"a trial asks for {self.cpus} cpus and {self.share(gpus):g} gpus (study.resources), there are {cpus:g} and {gpus:g}"


class StudySettings(Settings):
    """The `study` section."""

    design: Literal["one-at-a-time", "add-one-in", "factorial", "fractional", "pairs", "search"] = Field(
        "one-at-a-time", description="which arms are trained, and what they are compared for"
    )
    factors: list[str] = Field(
        [], description="the decisions that the design varies, by address, or by name for all places of an each; all, if none are named"
    )
    stripped: dict[str, Any] = Field({}, description="for add-one-in: decision -> value of the model that choices are added to")
    runs: Count | None = Field(None, description="for fractional: how many arms, a power of two")
    seeds: Count | list[Seed] | Adaptive = Field(5, description="how many seeds each arm is trained under, or which, or {min, max}")
    budget: Budget = Budget()
    learning_rate: Positive | Tuning = Field(
        3e-3, description="highest learning rate, the same for all arms; or {tune: [...]}: also each arm's own"
    )
    optimiser: Optimiser = Optimiser()
    equalise: Mode | Annotated[list[Mode], Field(min_length=1)] = Field(
        "none", description="what arms are made equal in; several side by side"
    )
    resize: Literal["either", "depth", "width"] = Field("either", description="what changes where arms are made equal")
    tolerance: Annotated[float, Field(gt=0, lt=1)] = Field(0.1, description="largest share by which an equal arm may miss the reference")
    margin: Positive = Field(0.02, description="differences within it do not matter; declared before the run")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the intervals, over all comparisons at once")
    arms: dict[str, dict[str, Any]] = Field({}, description="further arms: name -> decision -> value, the decisions named as in factors")
    compare: list[Annotated[list[str], Field(min_length=2, max_length=2)]] = Field(
        [], description="further comparisons: [arm, the arm it is compared with]; the reference is compared with every arm anyway"
    )
    search: Search = Search()
    diagnostics: list[str] | Literal["cheap", "all", "none"] = Field("cheap", description="what is measured of every layer after training")
    knock_out: Flag = Field(False, description="whether each layer of the trained reference is also removed without training again")
    resources: Resources = Resources()

    @pydantic.field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: int | list[int] | Adaptive) -> int | list[int] | Adaptive:
        if isinstance(seeds, list) and (not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0):
            raise ValueError("seeds are distinct whole numbers of at least 0")
        if isinstance(seeds, int) and seeds > SEARCH_SEED:
            raise ValueError(
                f"at most {SEARCH_SEED} seeds: those from there on are a search's, from {TUNE_SEED} on the tuning's, not {seeds}"
            )
        return seeds

    @pydantic.field_validator("diagnostics")
    @classmethod
    def _known(cls, names: Any) -> Any:
        for name in names if isinstance(names, list) else ():
            if name not in catalogue.catalogue():
                raise ValueError(f"no diagnostic {name!r}{suggest(name, catalogue.catalogue())}")
        return names

    @property
    def seed_list(self) -> list[int]:
        """The seeds of the study; of an adaptive one, all that it may come to."""
        if isinstance(self.seeds, Adaptive):
            return list(range(self.seeds.max))
        return list(self.seeds) if isinstance(self.seeds, list) else list(range(self.seeds))

    @property
    def first_seeds(self) -> list[int]:
        """The seeds that every arm is trained under, whatever comes out."""
        return list(range(self.seeds.min)) if isinstance(self.seeds, Adaptive) else self.seed_list

    @property
    def modes(self) -> list[str]:
        return [self.equalise] if isinstance(self.equalise, str) else list(dict.fromkeys(self.equalise))

    @property
    def tuning(self) -> Tuning | None:
        return self.learning_rate if isinstance(self.learning_rate, Tuning) else None

    @property
    def measured(self) -> list[str]:
        """The diagnostics that are measured of every layer, by name."""
        if isinstance(self.diagnostics, list):
            return list(self.diagnostics)
        wanted = {"none": [], "cheap": list(catalogue.cheap()), "all": list(catalogue.catalogue())}[self.diagnostics]
        return list(dict.fromkeys([*wanted, *(self.search.diagnosed if self.design == "search" else [])]))

    def measured_in(self, phase: str) -> list[str]:
        """The diagnostics of a trial: a search measures what it is after, the tuning of learning rates nothing."""
        return self.measured if phase in ("design", "confirm") else self.search.diagnosed if phase == "search" else []

    def hinted_in(self, phase: str) -> list[str]:
        """The hints of a trial: those of a search, also where what it found is confirmed."""
        return self.search.hinted if phase in ("search", "confirm") else []

    @property
    def adaptive(self) -> Adaptive | None:
        return self.seeds if isinstance(self.seeds, Adaptive) else None


def parse(node: Node) -> StudySettings:
    """The settings of a node; every problem at its place."""
    if not isinstance(node.value, dict):
        raise InputError(f"study is a mapping, not {node.kind}", node.mark)
    try:
        return StudySettings.model_validate(node.plain(), strict=None)
    except pydantic.ValidationError as e:
        meant = [error for error in e.errors() if _speaks_of(node, error["loc"])] or e.errors()
        problems = [_problem(node, error) for error in meant]
        first = {(p.mark, "no option" in p.message and p.message): p for p in reversed(problems)}  # a union complains once per member
        raise InputError(reversed(first.values())) from None


NESTED: dict[str, type[BaseModel]] = {
    "Tuning": Tuning,
    "Adaptive": Adaptive,
    "Steps": Steps,
    "Sampler": sampling.Sampler,
    "Maximise": sampling.Maximise,
    "Earlier": sampling.Earlier,
}  # settings that stand beside a plain value


def _nested(key: int | str) -> type[BaseModel] | None:
    """The settings that a step of a pydantic path names; with a validator around them they are part of its name."""
    return next((model for name, model in NESTED.items() if isinstance(key, str) and name in key), None)


def _inner(annotation: Any) -> Any:
    """The settings that an option holds, which it may do without."""
    return next((t for t in (annotation, *get_args(annotation)) if isinstance(t, type) and issubclass(t, BaseModel)), StudySettings)


def _speaks_of(node: Node, path: tuple[int | str, ...]) -> bool:
    """Whether an error is about the member of a union that a person meant: the mapping, the list or the plain value."""
    for key in path:
        if isinstance(node.value, dict) and key in node.value:
            node = node.value[key]
        elif isinstance(node.value, list) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
        elif isinstance(key, str) and (_nested(key) or isinstance(node.value, dict)):
            if not (_nested(key) and isinstance(node.value, dict)):
                return False
        elif isinstance(key, str) and isinstance(node.value, list):
            return "list" in key
        elif isinstance(key, str) and "list" in key:
            return False
    return True


def _problem(node: Node, error: Any) -> Problem:
    """One pydantic error in our words, at the deepest place of its path that the file has."""
    model: Any = StudySettings
    mark, path = node.mark, []
    for key in error["loc"]:
        if isinstance(node.value, dict) and key in node.value:
            path.append(str(key))
            key_mark, node = node.keys[key], node.value[key]
            mark = key_mark if error["type"] == "extra_forbidden" else node.mark
        elif isinstance(node.value, list) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            mark = node.mark
    name = path[-1] if path else "study"
    if error["type"] == "extra_forbidden":
        for key in error["loc"][:-1]:
            model = _nested(key) or (_inner(model.model_fields[key].annotation) if key in model.model_fields else model)
        return Problem(f"{path[-2] if path[1:] else 'study'} has no option {name!r}{suggest(name, model.model_fields)}", mark)
    if error["type"] == "missing":
        return Problem(f"{name} needs {error['loc'][-1]!r}", mark)
    message = error["msg"].removeprefix("Value error, ")
    found = "" if ", not " in message else f", not {node.kind}"
    return Problem(f"{name}: {message[0].lower()}{message[1:].removesuffix(' after validation')}{found}", mark)
