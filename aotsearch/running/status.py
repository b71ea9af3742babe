"""Ledger -> how far a run is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from aotsearch.evidence.analysis import expected
from aotsearch.evidence.declaration import Record, candidate, history
from aotsearch.evidence.ledger import FAILED, Ledger
from aotsearch.evidence.path import confirmed
from aotsearch.evidence.tables import searched
from aotsearch.study.study import Study


def status(folder: str | Path) -> dict[str, Any]:
    """What ran, runs, failed and is left in a run folder."""
    ledger = Ledger.open(folder)
    declared = history(ledger)
    records = list({r["key"]: r for r in declared.place(ledger.records().values())}.values())
    outcomes = Counter(r["outcome"] for r in records)
    failed = sum(outcomes[o] for o in FAILED)
    busy = ledger.locked
    running = _running(ledger) if busy else 0
    total = planned(ledger, declared.study, records)
    return {
        "study": declared.study.name,
        "done": len(records) - failed,
        "running": running,
        "failed": failed,
        "left": max(0, total - len(records) - running),
        "outcomes": dict(outcomes),
        "cached": sum(bool(r.get("cached")) for r in records),
        "total": total,
        "active": busy,
        "corrupt_lines": ledger.damage.lines,
        "damage": str(ledger.damage),
        "edited": declared.edited,
    }


def _running(ledger: Ledger) -> int:
    """How many trials the latest start of the command has begun and not ended; what an earlier one left open was killed with it."""
    open_: set[str] = set()
    for e in ledger.events():
        if e["event"] == "run":
            open_.clear()
        elif e["event"] == "started":
            open_.add(e["key"])
        elif e["event"] == "finished":
            open_.discard(e["key"])
    return len(open_)


def planned(ledger: Ledger, study: Study, records: Sequence[Record]) -> int:
    """How many trials a study has in all, as far as it is known; a search confirms no more architectures than finish."""
    search = study.settings.search
    if study.settings.design != "search":
        return expected(records, study)
    tried = searched(records, study)
    exhausted: int | None = (ledger.last("exhausted") or {}).get("architectures")  # with how many it found no other
    ended = len(tried) >= search.trials or len(tried) == exhausted
    models = {arm.name: arm.architecture.digest for arm in study.arms()}
    best = [a.digest for those in confirmed(tried, study) for a in those] if ended else [str(i) for i in range(search.confirmed or 3)]
    models |= {candidate(digest): digest for digest in best}
    others = sum(r["phase"] == "search" for r in records) - len(tried)
    searching: int = (len(tried) if ended else search.trials) + others
    return searching + (expected(records, study, models) if len(models) > 1 else 0)
