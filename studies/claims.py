"""The claims of the papers beside the records of the studies, as the table in studies/README.md.

    python studies/claims.py

`claims.yaml` holds the claims and which records bear on each; numbers, verdicts and the seeds still needed come from the CSV files that
`aotsearch report` wrote. An interval that lies wholly on the claimed side supports a claim, one wholly on the other side contradicts it.
"""

from __future__ import annotations

import csv
import functools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from aotsearch.study.loading import load
from aotsearch.study.study import Study

HERE = Path(__file__).parent
START, END = "<!-- claims -->\n", "<!-- end of claims -->\n"


@functools.cache
def rows(folder: str, name: str) -> list[dict[str, str]]:
    """The records of one run."""
    with open(HERE / folder / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


@functools.cache
def declared(study: str, *overrides: str) -> Study:
    """The study of a run, of which the unit and the margin are."""
    return load(HERE / study, overrides)


def judged(low: float, high: float, claimed: tuple[float, float]) -> str:
    """Where an interval lies, seen from the claimed one."""
    if claimed[0] <= low and high <= claimed[1]:
        return "supported"
    return "contradicted" if high < claimed[0] or low > claimed[1] else "open"


def contrast(evidence: dict[str, Any], study: Study) -> tuple[str, str]:
    """A comparison of arms: the verdict and the numbers."""
    wanted = {
        "arm": evidence["contrast"],
        "equalise": evidence.get("equalise", "none"),
        "learning_rate": evidence.get("learning_rate", "shared"),
    }
    # `aotsearch judge` of joined runs writes neither terms nor rates
    (found,) = [r for r in rows(evidence["records"], "contrasts") if all(r.get(k, v) == v for k, v in wanted.items())]
    low, high, margin = float(found["low"]), float(found["high"]), study.settings.margin
    sides = {
        "better": (-math.inf, 0.0),
        "worse": (0.0, math.inf),
        "equal": (-margin, margin),
        "not better": (-margin, math.inf),
        "not worse": (-math.inf, margin),
    }
    verdict = judged(low, high, sides[evidence["claimed"]])
    numbers = f"{float(found['difference']):+.3f} [{low:+.3f}, {high:+.3f}] {study.task.unit}, {found['seeds']} seeds"
    needed = f" ({found['remark']})" if verdict == "open" and found["seeds_needed"] else ""
    return verdict, numbers + needed


def layers(evidence: dict[str, Any]) -> tuple[str, str]:
    """A quantity of every layer of an arm, or its difference from the reference: in how many layers its interval is where it should be."""
    wanted = {"diagnostic": evidence["diagnostic"], "arm": evidence["arm"]}
    points = [r for r in rows(evidence["records"], "diagnostics") if all(r[k] == v for k, v in wanted.items()) and r["layer"].isdigit()]
    against = evidence.get("against_reference", False)
    mean, low, high = ("difference", "difference_low", "difference_high") if against else ("mean", "low", "high")
    least, most = evidence.get("least", -math.inf), evidence.get("most", math.inf)
    verdicts = [judged(float(r[low]), float(r[high]), (least, most)) for r in points]
    means = [float(r[mean]) for r in points]
    name = f"{evidence['diagnostic']} {'against the reference ' if against else ''}{min(means):.5g} to {max(means):.5g}"
    held = verdicts.count("supported")
    verdict = "supported" if held == len(points) else "contradicted" if "contradicted" in verdicts else "open"
    return verdict, f"{name}, as claimed in {held} of {len(points)} layers, {points[0]['seeds']} seeds"


def level(evidence: dict[str, Any]) -> tuple[str, str]:
    """A measure of every trial of an arm, at whichever learning rate: in how many it is where it should be."""
    arm, trials = evidence["arm"], [r for r in rows(evidence["records"], "trials") if r["phase"] == "design"]
    values = [float(r[evidence["measure"]]) for r in trials if arm in (r["arm"], *r["same_as"].split())]
    bounds = evidence.get("least", -math.inf), evidence.get("most", math.inf)
    held = [judged(v, v, bounds) for v in values].count("supported")
    verdict = "supported" if held == len(values) else "contradicted" if not held else "open"
    return verdict, f"{evidence['measure']} {min(values):.3g} to {max(values):.3g}, as claimed in {held} of {len(values)} trials"


def row(claim: dict[str, Any], settings: dict[str, Any]) -> str:
    """One line of the table."""
    found, shown = [], []
    for evidence in claim["evidence"]:
        setting = settings[evidence["records"]]
        if "diagnostic" in evidence:
            verdict, numbers = layers(evidence)
        elif "measure" in evidence:
            verdict, numbers = level(evidence)
        else:
            verdict, numbers = contrast(evidence, declared(setting["study"], *setting.get("set", ())))
        found.append(verdict)
        at = evidence.get("terms", "")
        shown.append(f"[{setting['short']}]({evidence['records']}){', ' + at if at else ''}: {numbers}: *{verdict}*")
    counts = Counter(found).most_common()
    word = f"**{counts[0][0]}**" if len(counts) == 1 else ", ".join(f"**{verdict}** in {n} of {len(found)}" for verdict, n in counts)
    cells = [f"{claim['claim']} ({claim['source']})", "<br>".join(shown), word, claim["settles"]]
    return f"| {' | '.join(cells)} |"


def table(document: dict[str, Any]) -> str:
    """The settings and the claims, as Markdown."""
    lines = ["| what the paper says | our setting and what came out | verdict | what would settle it |", "|---|---|---|---|"]
    settings = document["records"]
    lines += [row(claim, settings) for claim in document["claims"]]
    lines += ["", "The settings:", ""]
    lines += [f"- **[{s['short']}]({folder})**: {s['setting']}" for folder, s in settings.items()]
    return "\n".join(lines) + "\n"


def page() -> str:
    """studies/README.md with the table made again."""
    document = yaml.safe_load((HERE / "claims.yaml").read_text(encoding="utf-8"))
    text = (HERE / "README.md").read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    return f"{before}{START}\n{table(document)}\n{END}{after}"


if __name__ == "__main__":
    (HERE / "README.md").write_text(page(), encoding="utf-8")
