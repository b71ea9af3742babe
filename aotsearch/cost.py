"""What a model costs, measured on the built model: parameters and FLOPs, on the meta device, so that size does not matter."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from aotsearch.architecture import Architecture
from aotsearch.errors import InputError
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


@dataclass(frozen=True)
class Row:
    """What one part of a model makes and costs; the rows of a model add up to its `Cost`.

    Attributes:
        part: `input`, `embedding`, `positions`, `norm`, `operation`, `join` or `head`.
        sublayer: The index of the sublayer it belongs to, None outside of them.
        module: The name of the step that holds its parameters, as in the model's state; empty outside the steps.
        shape: Of what comes out for one window.
        parameters: Those that no earlier row holds.
        flops_per_token: As in `Cost`.
    """

    part: str
    sublayer: int | None
    module: str
    shape: tuple[int, ...]
    parameters: int
    flops_per_token: int


@functools.lru_cache(maxsize=4096)
def cost(architecture: Architecture) -> Cost:
    """Count a model by building it without memory and running it without arithmetic."""
    try:
        return _measured(architecture)[0]
    except (RuntimeError, TypeError, OverflowError) as e:  # torch counts sizes in 64 bits
        raise InputError(f"a model of width {architecture.width} is too large to be measured: {e}") from None


def breakdown(architecture: Architecture) -> list[Row]:
    """The cost part by part, in the order of the forward pass."""
    return list(_measured(architecture)[1])


@functools.lru_cache(maxsize=8)  # a person looks at a few models, a search costs thousands
def _measured(architecture: Architecture) -> tuple[Cost, list[Row]]:
    context = architecture.size("context")
    with torch.device("meta"):
        model = Model(architecture)
        tokens_BL = torch.zeros(1, context, dtype=torch.long)
    tape = _Tape(model)
    with torch.no_grad(), tape.counter:
        logits_BLV = model(tokens_BL)
    total = Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        parameters_without_embeddings=sum(p.numel() for part in (model.steps, model.final_norm) for p in part.parameters()),
        flops_per_token=tape.counter.get_total_flops() // context,
    )
    return total, _rows(model, tape, tokens_BL.shape, logits_BLV.shape)


def _rows(model: Model, tape: _Tape, given: torch.Size, made: torch.Size) -> list[Row]:
    seen: set[int] = set()

    def row(part: str, holder: nn.Module | None, shape: torch.Size, flops: int, sublayer: int | None = None, module: str = "") -> Row:
        own = {id(p): p.numel() for p in holder.parameters() if id(p) not in seen} if holder is not None else {}
        seen.update(own)
        return Row(part, sublayer, module, tuple(shape[1:]), sum(own.values()), flops // given[1])

    first, *calls, last = tape.calls
    following = calls[0] if calls else last
    rows = [row("input", None, given, 0), row(first.part, first.module, first.made, first.stop - first.start)]
    rows.append(row("positions", model.positions, following.given, following.start - first.stop))
    for i, call in enumerate(calls):  # three to a sublayer, in the order of its place
        rows.append(row(call.part, call.module, call.made, call.stop - call.start, i // 3, model.order[i // 3]))
    rows.append(row(last.part, last.module, last.made, last.stop - last.start))
    rows.append(row("head", model.head, made, tape.counter.get_total_flops() - last.stop))
    return rows


@dataclass(frozen=True)
class _Call:
    """One call of a part: the FLOPs counted before and after it, the shapes it was given and made."""

    part: str
    module: nn.Module
    start: int
    stop: int
    given: torch.Size
    made: torch.Size


class _Tape:
    """Every call of the parts of a model, in order. A step whose weights are shared is called, and so written down, several times."""

    def __init__(self, model: Model):
        self.counter: Any = FlopCounterMode(display=False)
        self.calls: list[_Call] = []
        self._start = 0
        self._follow(model.embedding, "embedding")
        for step in model.steps.values():
            for part in ("norm", "operation", "join"):
                self._follow(step.get_submodule(part), part)
        self._follow(model.final_norm, "norm")

    def _follow(self, module: nn.Module, part: str) -> None:
        def before(_: nn.Module, given: tuple[Any, ...]) -> None:
            self._start = self.counter.get_total_flops()

        def after(_: nn.Module, given: tuple[Any, ...], made: torch.Tensor) -> None:
            stop = self.counter.get_total_flops()
            self.calls.append(_Call(part, module, self._start, stop, given[0].shape, made.shape))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
