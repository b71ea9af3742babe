"""What a search tries before its sampler proposes: arms of the study, and the best of earlier runs."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from aotsearch.errors import InputError
from aotsearch.evidence.ledger import Ledger
from aotsearch.evidence.tables import measured
from aotsearch.files import from_user
from aotsearch.grammar.architecture import Architecture
from aotsearch.study.sampling import Earlier
from aotsearch.study.study import Study


def first(study: Study, say: Callable[[str], None] | None = None) -> list[Architecture]:
    """The architectures that `search.first` names, in that order.

    Args:
        say: Where the search goes on, who is told of a run folder that is gone since, which is then done without.

    Raises:
        InputError: a folder holds no run, or none whose architectures the space derives.
    """
    found: list[Architecture] = []
    for wanted in study.settings.search.first:
        try:
            found += _best(study, wanted) if isinstance(wanted, Earlier) else [study.arm(wanted).architecture]
        except InputError as e:
            if say is None:
                raise
            say(f"{e.problems[0].message}; the search goes on without it")
    return found


def _best(study: Study, earlier: Earlier) -> list[Architecture]:
    """The best of another run by the mean of what they came to, of those that this space derives."""
    scores: dict[Architecture, list[float]] = {}
    for record in Ledger.open(from_user(earlier.run)).records().values():
        value = measured(record, study) if record["outcome"] == "done" else None
        architecture = study.space.recall(record["decisions"], record["digest"]) if value is not None else None
        if value is not None and architecture is not None:
            scores.setdefault(architecture, []).append(value)
    if not scores:
        law = f"search.first: {earlier.run} has no finished trial of an architecture of this space, judged by {study.task.measure}"
        raise InputError(f"{law}; name a run of the same space and task")
    ranked = sorted(scores, key=lambda a: (statistics.fmean(scores[a]), a.digest))
    return ranked[: earlier.best]
