"""Architectures and the library as text, for people."""

from __future__ import annotations

import itertools

from aotsearch import registry
from aotsearch.architecture import Architecture, Sublayer
from aotsearch.cost import cost
from aotsearch.design import Arm


def tree(arm: Arm, reference: Architecture) -> str:
    """An architecture as a tree, its cost, and how it differs from the reference."""
    a = arm.architecture
    counts = cost(a)
    sizes = ", ".join(f"{name} {size}" for name, size in a.sizes)
    lines = [f"{arm.name}  {a.digest}", f"|-- input: {sizes}; width {a.width}; positions {a.positions}"]
    for times, group in _runs(a.sublayers):
        lines.append(f"|-- {times} x" if times > 1 else "|-- 1 x")
        lines += [f"|   |-- {_sublayer(s)}" for s in group]
    lines.append(f"|-- final norm: {a.final_norm}")
    lines.append(f"`-- head: {a.head}")
    without = f"{counts.parameters_without_embeddings:,} without embeddings"
    lines.append(f"parameters {counts.parameters:,} ({without}); forward FLOPs per token {counts.flops_per_token:,}")
    changes = reference.diff(a)
    lines += [f"  {address}: {old} -> {new}" for address, (old, new) in changes.items()]
    return "\n".join(lines)


def _sublayer(sublayer: Sublayer) -> str:
    norm = "no norm" if sublayer.norm.absent else f"{sublayer.place} {sublayer.norm}"
    tied = "" if sublayer.same_as is None else f", weights of sublayer {sublayer.same_as}"
    return f"{sublayer.operation}  ({norm}, join {sublayer.join}{tied})"


def _runs(sublayers: tuple[Sublayer, ...]) -> list[tuple[int, tuple[Sublayer, ...]]]:
    """Repetitions of a group of sublayers, found by the shortest period that covers the whole stack."""
    n = len(sublayers)
    for period in range(1, n + 1):
        if n % period == 0 and all(x == y for x, y in zip(sublayers, itertools.islice(sublayers, period, None), strict=False)):
            return [(n // period, sublayers[:period])]
    return []


def library() -> str:
    """Every word with its options and its source."""
    lines = []
    for slot in registry.SLOTS:
        lines.append(f"{slot}:")
        for word in registry.words_of(slot).values():
            lines.append(f"  {word.name}: {word.summary}")
            if word.formula:
                lines.append(f"      {word.formula}")
            for option in word.options.values():
                default = "required" if option.required else f"default {option.default}"
                lines.append(f"      {option.name} ({option.law}; {default}): {option.description}")
            if word.source:
                lines.append(f"      Source: {word.source}")
        if slot != "task":
            lines.append("  none: the part that is not there")
    return "\n".join(lines)
