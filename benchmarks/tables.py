"""Train a space completely, once: every architecture under every seed. Writes a compressed table that others can search.

    python benchmarks/tables.py benchmarks/tables/language.yaml [--out FOLDER] [--workers N]

The table stands beside the study as NAME.csv.gz, one line per architecture and seed: the digest, every decision by its address (empty
where it is not met), the seed, parameters, FLOPs per token, the outcome, and the validation measure at each evaluation. Each study's
learning rate is constant after the warm-up and its weights are averaged, so an evaluation is the end of a run of that length, and the
table answers for short runs too. The study is trained by the product itself; the same command continues it.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import io
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from aotsearch.evidence.ledger import Ledger
from aotsearch.evidence.tables import curve_of
from aotsearch.running import runner
from aotsearch.study.loading import load
from aotsearch.study.study import Study

COLUMNS = ("seed", "parameters", "flops_per_token", "outcome")


def exhaustive(study: Study) -> Study:
    """The study that trains each architecture of a search's space as an arm."""
    plain = study.plain
    space = study.space
    listed = {a.digest: dict(a.decisions) for a in space.enumerate() if a.digest != space.reference.digest}
    factor = next(a for a, d in space.decisions().items() if a not in space.absent and len(d.values) > 1)
    made = Study.from_dict({**plain, "study": {**plain["study"], "design": "one-at-a-time", "factors": [factor]}})
    for arm in made.base_design.arms:
        listed.pop(arm.architecture.digest, None)
    settings = {**plain["study"], "design": "one-at-a-time", "factors": [factor], "arms": {d[:12]: a for d, a in listed.items()}}
    return Study.from_dict({**plain, "study": settings})


def table(folder: Path, study: Study) -> bytes:
    """The ledger of an exhaustive study as a compressed table; the same bytes whenever it is made."""
    decisions = list(study.space.decisions())
    evaluations = [f"{study.task.measure}@{n}" for n in range(1, study.settings.budget.evaluations + 1)]
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(["digest", *decisions, *COLUMNS, *evaluations])
    records = sorted(Ledger.open(folder).records().values(), key=lambda r: (r["digest"], r["seed"]))
    for r in records:
        curve = [f"{value:.6g}" for value in curve_of(r, study.task.measure)]
        out.writerow([r["digest"][:12], *(r["decisions"].get(d, "") for d in decisions), *(r.get(c, "") for c in COLUMNS), *curve])
    return gzip.compress(text.getvalue().encode(), mtime=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--workers", type=int)
    options = parser.parse_args()
    study = load(options.study)
    folder = options.out or Path("runs") / study.name
    wanted: Any = exhaustive(study)
    runner.run(wanted, folder, options=runner.Options(workers=options.workers, local=True, track=False))
    place = options.study.with_suffix(".csv.gz")
    place.write_bytes(table(folder, study))
    sys.stdout.write(f"{place}: {place.stat().st_size} bytes\n")


if __name__ == "__main__":
    main()
