"""What a model costs, measured on the built model: parameters and FLOPs, on the meta device, so that size does not matter."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from aotsearch.architecture import Architecture
from aotsearch.model import Model


@dataclass(frozen=True)
class Cost:
    """Counts of one architecture.

    Attributes:
        parameters: All of them, shared ones once.
        parameters_without_embeddings: Without the token and position tables and a free head: what the steps hold.
        flops_per_token: Of one forward pass at full context, a multiply-add as two. The causal half of the score matrix that a fused
            kernel may skip is counted, as torch's counter does.
    """

    parameters: int
    parameters_without_embeddings: int
    flops_per_token: int


@functools.lru_cache(maxsize=4096)
def cost(architecture: Architecture) -> Cost:
    """Count a model by building it without memory and running it without arithmetic."""
    with torch.device("meta"):
        model = Model(architecture)
        tokens_BL = torch.zeros(1, architecture.size("context"), dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(tokens_BL)
    return Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        parameters_without_embeddings=sum(p.numel() for part in (model.steps, model.final_norm) for p in part.parameters()),
        flops_per_token=counter.get_total_flops() // architecture.size("context"),
    )
