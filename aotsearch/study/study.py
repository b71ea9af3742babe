"""Study: a question, a task, a space, and how the evidence is gathered; frozen once loaded.

load("spaces/redundancy.yaml") -> Study;  study.space, study.arms(), study.reference
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from aotsearch import yamlfile
from aotsearch.diagnostics import catalogue
from aotsearch.errors import InputError, Mark, Problem, suggest
from aotsearch.grammar import include, library
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space
from aotsearch.grammar.words import Count, Flag, Natural, Positive
from aotsearch.study import design, equalise
from aotsearch.study.design import Arm, Comparison, Design
from aotsearch.study.rates import TUNE_SEED
from aotsearch.yamlfile import Node

VERSIONS = ("aotsearch", "torch", "numpy")  # the packages that can move a loss: a trial records which made it
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
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(Settings):
    """How long each trial trains, and how often it is measured."""

    steps: Natural = Field(600, description="optimiser steps; 0 measures the models untrained")
    batch: Count = Field(16, description="sequences per step")
    evaluations: Count = Field(4, description="evaluations of the whole validation split, the last at the end")


class Optimiser(Settings):
    """AdamW with linear warm-up and cosine decay."""

    warmup: Fraction = Field(0.1, description="share of the steps in which the learning rate rises from 0")
    floor: Fraction = Field(0.1, description="last learning rate as a share of the highest")
    weight_decay: float = Field(0.1, ge=0, allow_inf_nan=False, description="decay of matrices; vectors are not decayed")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="decay of the second moment")
    clip: Positive = Field(1.0, description="largest norm of the gradient")


class Search(Settings):
    """`design: search`: TPE with ASHA proposes, fresh seeds confirm."""

    trials: Count = Field(24, description="architectures tried, one seed each")
    confirm: Count = Field(3, description="the best so many are trained again, against the reference, on fresh seeds")
    reduction: int = Field(3, ge=2, description="ASHA keeps one in so many at each rung")
    seed: int = Field(0, ge=0, lt=TUNE_SEED - SEARCH_SEED, description="seed of the sampler; each is a search of its own")

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


class Resources(Settings):
    """What one trial is granted."""

    cpus: Count = Field(1, description="processors, which is also the number of threads")
    gpus: Fraction | Literal["auto"] = Field("auto", description="one GPU, a share of one, or 0; auto is one where there is one")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the forward pass (weights stay float32); auto is bfloat16 on a GPU, float32 on a processor"
    )

    def share(self, gpus: float) -> float:
        """The GPUs of a trial where there are so many."""
        return float(min(1, gpus)) if self.gpus == "auto" else self.gpus

    def room(self, cpus: float, gpus: float) -> int:
        """How many trials there is room for at once on so many processors and GPUs; a trial lies on one GPU, whole or in part."""
        share, room = self.share(gpus), int(cpus // self.cpus)
        return min(room, int(1 / share) * int(gpus)) if share else room

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
        return {"none": [], "cheap": list(catalogue.cheap()), "all": list(catalogue.catalogue())}[self.diagnostics]

    @property
    def adaptive(self) -> Adaptive | None:
        return self.seeds if isinstance(self.seeds, Adaptive) else None


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

    @property
    def reference(self) -> Architecture:
        return self.space.reference

    @functools.cached_property
    def base_design(self) -> Design:
        """The arms and what they are compared for, before any is re-sized."""
        s = self.settings
        return design.make(self.space, s.design, s.factors, s.stripped, s.runs, s.arms, [(one, other) for one, other in s.compare])

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
        return design.not_varied(self.space, self.base_design, self.settings.design)

    @property
    def notes(self) -> list[str]:
        """What the design leaves out, a line each: decisions that it does not vary, settings that it does not read, all of it."""
        s = self.settings
        notes = [f"not varied: {design.listed(self.space, self.not_varied)}"] if self.not_varied else []
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
        return {**s.budget.model_dump(), "learning_rate": rate or given, **s.optimiser.model_dump(), **precision}

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


VARYING = ("one-at-a-time", "factorial", "fractional", "pairs")
READ_BY = {  # setting -> the designs that read it, of those that not all read
    "factors": VARYING,
    "stripped": ("add-one-in",),
    "runs": ("fractional",),
    "arms": (*VARYING, "add-one-in", "search"),
    "compare": (*VARYING, "add-one-in", "search"),
    "search": ("search",),
}


def loss_unit(study: Study) -> str:
    """The unit of the loss that training lowers; tasks of installed packages need not name one."""
    return getattr(study.task, "loss_unit", "as the task defines it")


SECTIONS = ("name", "question", "space", "task", "grammar", "study")


def load(path: str | Path, overrides: Sequence[str] = ()) -> Study:
    """Read and check a study file.

    Args:
        path: A YAML file.
        overrides: `path=value` texts that replace parts of it, such as `study.budget.steps=100`.

    Raises:
        InputError: with every problem found, each with its place.
    """
    node = yamlfile.read(path)
    for override in overrides:
        node = override_node(node, override)
    return parse(node, Path(path).resolve().parent)


def override_node(node: Node, override: str) -> Node:
    """A study node with one `path=value` applied."""
    path, sign, value = override.partition("=")
    origin = Mark(f"--set {override}")
    keys = path.strip().split(".")
    if not sign or not all(keys):
        raise InputError("--set takes path=value, such as study.seeds=8", origin)
    if keys[0] not in SECTIONS:
        raise InputError(f"a study has no section {keys[0]!r}{suggest(keys[0], SECTIONS)}", origin)
    return yamlfile.replace(node, keys, yamlfile.parse_value(value.strip(), origin.file), origin)


def parse(node: Node, folder: Path) -> Study:
    """A study node, checked; `folder` is where relative data paths start."""
    if not isinstance(node.value, dict):
        raise InputError(f"a study is a mapping with {', '.join(SECTIONS)}, not {node.kind}", node.mark)
    node = resolve(node, folder)
    problems = [
        Problem(f"a study has no section {key!r}{suggest(key, SECTIONS)}", node.keys[key]) for key in node.value if key not in SECTIONS
    ]
    problems += [Problem(f"a study needs the section {key!r}", node.mark) for key in ("name", "task", "grammar") if key not in node.value]

    def attempt(function: Any, *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except InputError as e:
            problems.extend(e.problems)
            return None

    sections = node.value
    name = attempt(_name, sections["name"]) if "name" in sections else None
    question = attempt(_text, sections["question"], "question") if "question" in sections else ""
    task = attempt(_task, sections["task"], folder) if "task" in sections else None
    settings = attempt(_settings, sections.get("study", Node({}, node.mark)))
    sizes = task.sizes if task is not None else {"vocabulary": 2, "context": 2}
    space = attempt(Space.parse, sections["grammar"], sizes, measured) if "grammar" in sections else None
    if problems:
        raise InputError(dict.fromkeys(problems))
    assert name is not None and space is not None and task is not None
    study = Study(name, question, task, space, settings, node.plain() | {"task": task.to_plain()})
    try:
        study.base_design  # noqa: B018 (arms that can not be are errors of the file)
    except InputError as e:
        raise e.at(_arms_mark(node)) from None
    return study


def measured(architecture: Architecture) -> Mapping[str, int]:
    """What a model costs: the one thing of a study that needs torch, which is loaded when a constraint or an equal size asks for it."""
    from aotsearch.models.cost import cost

    return vars(cost(architecture))


def resolve(node: Node, folder: Path, depth: int = 0) -> Node:
    """A study node with the space it builds on and the rules it includes written into it.

    `space: FILE` names another study file: its sections hold where this one has none. Of `study` and of the rule `model` single keys are
    replaced, of `grammar` whole rules, and a task as a whole.
    """
    if "grammar" in node.value:
        rules = include.gather(node.value["grammar"], folder)
        node = Node(node.value | {"grammar": rules}, node.mark, node.keys)
    if "space" not in node.value:
        return node
    given = node.value["space"]
    if not isinstance(given.value, str) or not given.value.endswith((".yaml", ".yml")):
        raise InputError(f"space names a .yaml file, not {given.kind}", given.mark)
    if depth > 8:
        raise InputError("a study that builds on a space that builds on a space ...: 8 at most", given.mark)
    path = folder / given.value
    base = yamlfile.read(path)
    if not isinstance(base.value, dict):
        raise InputError(f"a study is a mapping with {', '.join(SECTIONS)}, not {base.kind}", base.mark)
    base = resolve(base, path.parent, depth + 1)
    merged = {k: v for k, v in base.value.items() if k not in ("name", "question")} | {k: v for k, v in node.value.items() if k != "space"}
    for section in ("study", "grammar"):
        if section in node.value and section in base.value:
            merged[section] = _merge(base.value[section], node.value[section], ("model",) if section == "grammar" else None)
    return Node(merged, node.mark, base.keys | node.keys)


def _merge(base: Node, over: Node, deep: tuple[str, ...] | None) -> Node:
    """One mapping over another: key by key, and within the keys in `deep` (all, if None) again."""
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, value in over.value.items():
        inside = key in base.value and (deep is None or key in deep)
        merged[key] = _merge(base.value[key], value, None if deep is None else ()) if inside else value
    return Node(merged, over.mark, base.keys | over.keys)


def _arms_mark(node: Node) -> Mark:
    section = node.value.get("study", node)
    arms = section.value.get("arms", section) if isinstance(section.value, dict) else section
    mark: Mark = arms.mark
    return mark


def _text(node: Node, what: str) -> str:
    if not isinstance(node.value, str):
        raise InputError(f"{what} is a string, not {node.kind}", node.mark)
    return node.value


def _name(node: Node) -> str:
    name = _text(node, "name")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9 _-]{0,99}", name):  # it names a folder and an MLflow experiment
        raise InputError(f"name is made of letters, digits, space, '_' and '-', not {name!r}", node.mark)
    return name


def _task(node: Node, folder: Path) -> Any:
    words = library.words_of("task")
    if isinstance(node.value, dict) and len(node.value) == 1:
        ((name, inner),) = node.value.items()
        mark = node.keys[name]
    else:
        name, inner, mark = node.value, Node({}, node.mark), node.mark
    if not isinstance(name, str) or name not in words:
        unknown = f"unknown task {name!r}{suggest(name, words)}{library.why_not(name)}"
        raise InputError(unknown if isinstance(name, str) else "task is {word: {...}}", mark)
    given = {} if inner.value is None else inner.value
    if not isinstance(given, dict):
        raise InputError(f"the options of {name} are a mapping, not {inner.kind}", inner.mark)
    declared, options, problems = words[name].options, {}, []
    for key, value in given.items():
        try:
            if key not in declared:
                raise ValueError(f"{name} has no option {key!r}{suggest(key, declared)}")
            options[key] = declared[key].parse(value.plain())
        except ValueError as e:
            problems.append(Problem(str(e), value.mark if key in declared else inner.keys[key]))
    if problems:
        raise InputError(problems)
    try:
        return words[name].make(folder, **options)
    except ValueError as e:
        raise InputError(str(e), given["data"].mark if "data" in given else mark) from None


def _settings(node: Node) -> StudySettings:
    if not isinstance(node.value, dict):
        raise InputError(f"study is a mapping, not {node.kind}", node.mark)
    try:
        return StudySettings.model_validate(node.plain(), strict=None)
    except pydantic.ValidationError as e:
        meant = [error for error in e.errors() if _speaks_of(node, error["loc"])] or e.errors()
        problems = [_problem(node, error) for error in meant]
        first = {(p.mark, "no option" in p.message and p.message): p for p in reversed(problems)}  # a union complains once per member
        raise InputError(reversed(first.values())) from None


NESTED: dict[str, type[Settings]] = {"Tuning": Tuning, "Adaptive": Adaptive}  # settings that stand beside a plain value


def _nested(key: int | str) -> type[Settings] | None:
    """The settings that a step of a pydantic path names; with a validator around them they are part of its name."""
    return next((model for name, model in NESTED.items() if isinstance(key, str) and name in key), None)


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
            model = _nested(key) or (model.model_fields[key].annotation if key in getattr(model, "model_fields", ()) else model)
        return Problem(f"{path[-2] if path[1:] else 'study'} has no option {name!r}{suggest(name, model.model_fields)}", mark)
    if error["type"] == "missing":
        return Problem(f"{name} needs {error['loc'][-1]!r}", mark)
    message = error["msg"].removeprefix("Value error, ")
    found = "" if ", not " in message else f", not {node.kind}"
    return Problem(f"{name}: {message[0].lower()}{message[1:].removesuffix(' after validation')}{found}", mark)
