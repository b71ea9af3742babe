"""Tables and pictures -> one HTML page, Markdown, LaTeX and CSV, from the ledger alone.

write("runs/redundancy") -> [report/report.html, report/report.md, ...];  results("runs/redundancy") -> DataFrame
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from aotsearch.errors import InputError, suggest
from aotsearch.evidence.layers import MEAN, Knocked, Profile, knocked, profiles
from aotsearch.files import put
from aotsearch.report import figures, latex, made, page
from aotsearch.report.data import Material, read, results
from aotsearch.report.figures import Figure
from aotsearch.report.made import FOLDER
from aotsearch.report.summary import no_formula

AGAIN = "nothing recorded is lost, run `aotsearch report` again"

__all__ = ["FOLDER", "Material", "read", "results", "write"]


@dataclass(frozen=True)
class Report:
    """What the formats share: computed once, and only if a format asks for it."""

    material: Material

    @functools.cached_property
    def profiles(self) -> list[Profile]:
        a = self.material.analysis
        return profiles(self.material.shown(a.rate), a.confidence, a.looks)

    @functools.cached_property
    def knocked(self) -> list[Knocked]:
        a = self.material.analysis
        return knocked(self.material.cells(a.rate), a.confidence, a.looks)

    @functools.cached_property
    def pictures(self) -> dict[str, Figure]:
        return figures.pictures(self.material, self.profiles, self.knocked)

    @functools.cached_property
    def images(self) -> dict[str, bytes]:
        return {f"{name}.png": figures.to_png(figure) for name, figure in self.pictures.items()}


def write(folder: str | Path, formats: Sequence[str] = ("html", "md", "latex", "csv"), material: Material | None = None) -> list[Path]:
    """Write the report of a run folder into its `report` folder, each file whole or not at all.

    Args:
        material: What `read` returns, where that was called.

    Raises:
        InputError: an unknown format, or a folder without a readable run.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"unknown report format {name!r}{suggest(name, FORMATS)}")
    report = Report(material or read(folder))
    files: dict[str, bytes] = {}
    for name in dict.fromkeys(formats):
        files |= FORMATS[name](report)
    place = Path(folder) / FOLDER
    written = [put(place / name, content, AGAIN) for name, content in files.items()]
    put(place / made.FILE, made.note(Path(folder), report.material.fingerprint, files), AGAIN)
    return written


# ---- formats


def _html(r: Report) -> dict[str, bytes]:
    return {"report.html": page.html(r.material, r.profiles, r.knocked, r.pictures).encode(), **r.images}


def _markdown(r: Report) -> dict[str, bytes]:
    return {"report.md": page.markdown(r.material, r.profiles, r.knocked, r.pictures).encode(), **r.images}


def _latex(r: Report) -> dict[str, bytes]:
    drawn = {f"{name}.pdf": figures.to_pdf(figure) for name, figure in r.pictures.items()}
    return {"report.tex": latex.latex(r.material, r.pictures).encode(), **drawn}


def _csv(r: Report) -> dict[str, bytes]:
    files = {"contrasts.csv": _contrasts(r.material), "trials.csv": r.material.table}
    if r.material.analysis.speed:
        files["speed.csv"] = _speed(r.material)
    if r.profiles:
        files["diagnostics.csv"] = _diagnostics(r.profiles)
    if r.knocked:
        files["knock_out.csv"] = pd.DataFrame([vars(k) for k in r.knocked])
    return {name: table.map(no_formula).to_csv(index=False, lineterminator="\n").encode() for name, table in files.items()}


def _contrasts(m: Material) -> pd.DataFrame:
    """One row per contrast, by (arm, equalise, learning_rate, kind); `trials` holds the keys that it rests on, `mixed` the seeds under
    which these do not share something, such as `torch: 0 3`."""
    names = ["arm", "kind", "decision", "from", "to", "equalise", "learning_rate", "asked", "difference", "low", "high", "seeds", "verdict"]
    names += ["size", "component", "reading", "seeds_needed", "missing", "sd_paired", "sd_unpaired", "p", "test", "test_low", "test_high"]
    names += ["mixed", "remark", "declared", "trials"]
    rows = []
    for c in m.analysis.contrasts:
        test = {"test": c.test and c.test.difference, "test_low": c.test and c.test.low, "test_high": c.test and c.test.high}
        mixed = "; ".join(f"{name}: {' '.join(map(str, sorted(seeds)))}" for name, seeds in c.mixed.items())
        rows.append({**c.to_dict(), **test, "mixed": mixed, "trials": " ".join(r["key"] for r in m.trials_of(c))})
    # pandas counts a whole number with gaps as a float; written as such it would read 3.0 seeds
    return pd.DataFrame(rows, columns=names).astype({"seeds_needed": "Int64"})


def _speed(m: Material) -> pd.DataFrame:
    """One row per arm and learning rate: the parts of `Speed`, each column named by its part."""
    rows = []
    for speed in m.analysis.speed:
        plain = speed.to_dict()
        parts = {f"{part}_{name}": v for part, values in plain.items() if isinstance(values, dict) for name, v in values.items()}
        rows.append({"arm": speed.arm, "learning_rate": speed.rate, **parts})
    return pd.DataFrame(rows)


def _diagnostics(found: Sequence[Profile]) -> pd.DataFrame:
    """One row per diagnostic, arm and layer; layer `mean` is that over all layers."""
    rows = []
    for profile in found:
        for arm, points in profile.arms.items():
            for p in (*points, profile.whole[arm]):
                layer = "mean" if p.place == MEAN else p.place
                rows.append({"diagnostic": profile.name, "arm": arm, "layer": layer, **{k: v for k, v in vars(p).items() if k != "place"}})
    return pd.DataFrame(rows).rename(columns={"below": "difference_low", "above": "difference_high"})


FORMATS: Mapping[str, Callable[[Report], dict[str, bytes]]] = {"html": _html, "md": _markdown, "latex": _latex, "csv": _csv}
