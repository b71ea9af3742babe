"""What `aotsearch check` says of a study that is right: how many architectures, arms and seeds, and every decision; without torch."""

from __future__ import annotations

from typing import Any

from aotsearch.study.study import Study


def counted(study: Study, number: int | None, exact: bool) -> str:
    """The study in lines: its counts, its decisions, its notes.

    Args:
        number: Of architectures; None where they were not counted.
        exact: Whether it is not only a bound.
    """
    decisions, s = study.space.decisions(), study.settings
    count = "uncounted" if number is None else f"{number:,}" if exact else f"at most {number:,}"
    arms = 1 + (len(study.base_design.arms) - 1) * len(s.modes)
    seeds = f"{s.adaptive.min} to {s.adaptive.max}" if s.adaptive else str(len(s.seed_list))
    plural = "s" * (arms > 1)
    lines = [f"ok; {count} architectures over {len(decisions)} decisions; {arms} arm{plural} x {seeds} seeds"]
    places: dict[Any, list[str]] = {}
    for address, d in decisions.items():
        shown = ", ".join(map(str, d.values)) if d.values else f"[{d.low}, {d.high}]{' log' if d.log else ''}"
        places.setdefault((d.name, shown), []).append(address)
    for (_, shown), addresses in places.items():
        lines.append(f"  {addresses[0]}{f' to {addresses[-1]}' if addresses[1:] else ''}: {shown}")
    return "\n".join([*lines, *study.notes])
