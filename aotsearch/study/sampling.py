"""How a search chooses what to try: the samplers by name, each with its own options, and what is to be small or large."""

from __future__ import annotations

from typing import Annotated, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from aotsearch.grammar.words import Count, Flag, Natural

Share = Annotated[float, Field(ge=0, le=1)]
SIZES = ("parameters", "parameters_without_embeddings", "flops_per_token", "state_per_sequence")  # of a model, before it is trained
COSTS = (*SIZES, "step_seconds", "peak_memory")  # known of every finished trial


class Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class TPE(Options):
    """Tree-structured Parzen estimator (Bergstra et al. 2011; Watanabe 2023), by Optuna."""

    n_startup_trials: Natural = Field(10, description="proposals at random before the estimator is asked")
    n_ei_candidates: Count = Field(24, description="draws of which the one of the largest expected improvement is proposed")
    multivariate: Flag = Field(True, description="whether decisions are modelled together")
    group: Flag = Field(True, description="whether decisions that are met together are a group of their own")


class Random(Options):
    """Every decision uniformly, as it is met: what every other sampler has to beat."""


class Genetic(Options):
    """NSGA-II (Deb et al. 2002) or NSGA-III (Deb and Jain 2014), by Optuna."""

    population_size: Annotated[int, Field(ge=2)] = Field(12, description="architectures of a generation")
    mutation_prob: Share | None = Field(None, description="of each decision; 1 / their number where not given")
    crossover_prob: Share = Field(0.9, description="whether a child has two parents")
    swapping_prob: Share = Field(0.5, description="of each decision, to be taken from the second parent")


class GP(Options):
    """Gaussian process with expected improvement, of several objectives that of the hypervolume, by Optuna; for flat spaces."""

    n_startup_trials: Natural = Field(10, description="proposals at random before the process is asked")


class Evolution(Options):
    """Regularised evolution over the grammar (Real et al. 2019, arXiv:1802.01548): a change of one decision of the best of a sample.

    Ours differs: a mutation is drawn from the neighbours of the parent in the grammar, all of which are lawful.
    """

    population: Annotated[int, Field(ge=2)] = Field(
        12, description="the youngest so many that finished are alive, the first so many are random"
    )
    sample: Annotated[int, Field(ge=1)] = Field(4, description="of which so many are drawn, whose best is the parent")

    @pydantic.model_validator(mode="after")
    def _room(self) -> Evolution:
        if self.sample > self.population:
            raise ValueError(f"a sample is at most the population, {self.population}, not {self.sample}")
        return self


KINDS: dict[str, type[Options]] = {"tpe": TPE, "random": Random, "nsga2": Genetic, "nsga3": Genetic, "gp": GP, "evolution": Evolution}


class Sampler(Options):
    """One sampler with options of its own."""

    tpe: TPE | None = Field(None, description="tree-structured Parzen estimator")
    random: Random | None = Field(None, description="every decision at random")
    nsga2: Genetic | None = Field(None, description="genetic, for several objectives")
    nsga3: Genetic | None = Field(None, description="genetic, for three objectives and more")
    gp: GP | None = Field(None, description="Gaussian process")
    evolution: Evolution | None = Field(None, description="regularised evolution over the grammar")

    @pydantic.model_validator(mode="after")
    def _one(self) -> Sampler:
        if len(self.model_fields_set) != 1 or getattr(self, next(iter(self.model_fields_set))) is None:
            raise ValueError(f"name one sampler with its options, such as {{tpe: {{n_startup_trials: 8}}}}, of {', '.join(KINDS)}")
        return self


Name = Literal["tpe", "random", "nsga2", "nsga3", "gp", "evolution"]


def chosen(sampler: Name | Sampler) -> tuple[str, Options]:
    """A sampler by its name, and its options."""
    if isinstance(sampler, str):
        return sampler, KINDS[sampler]()
    (name,) = sampler.model_fields_set
    found: Options = getattr(sampler, name)
    return name, found


class Earlier(Options):
    """The best of another run of the same space."""

    run: str = Field(description="its run folder, from where the command is started")
    best: Count = Field(3, description="the best so many of its architectures")


def rungs(evaluations: int, reduction: int) -> list[int]:
    """The evaluations, counted from 1, at which a search prunes: the powers of the reduction below the last."""
    at, found = 1, []
    while at < evaluations:
        found.append(at)
        at *= reduction
    return found


class Maximise(Options):
    """A quantity that is to be large."""

    maximise: str = Field(description="a diagnostic, by name: its mean over the layers; or a hint")


Objective = str | Maximise


def goal(objective: Objective) -> tuple[str, int]:
    """What an objective is of, and 1 where it is to be small, -1 where large."""
    return (objective, 1) if isinstance(objective, str) else (objective.maximise, -1)
