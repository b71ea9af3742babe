"""Judged or Across -> files: one HTML page that needs nothing from outside, Markdown with its picture, CSV and JSON.

write(found, folder) -> paths;  write_across(found, folder) -> paths
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markupsafe

from aotsearch.evidence.answer import answer, findings, phrase
from aotsearch.files import put
from aotsearch.judge import across as folders
from aotsearch.judge import document
from aotsearch.judge.across import Across
from aotsearch.judge.verdict import Judged
from aotsearch.report import figures
from aotsearch.report.figures.across import side_by_side
from aotsearch.report.page import escaped, style, template
from aotsearch.report.summary import bounds, no_formula, number

MOST = 60  # arms in the picture; the table has all


def write(found: Judged, folder: Path) -> list[Path]:
    """The report of a table of runs.

    Raises:
        RunError: the folder cannot be written.
    """
    a = document.shown(found)
    clearest = sorted(found.analysis.contrasts, key=lambda c: -abs(c.difference or 0.0))[:MOST]
    kept = [c for c in found.analysis.contrasts if c in clearest]
    figure = figures.forest(found.analysis, kept)
    rows = {
        "a": a,
        "found": found,
        "heading": document.heading(found),
        "answer": answer(a),
        "findings": [(head, of[0].verdict, ", ".join(map(phrase, of))) for head, of in findings(a.contrasts, a.margin, a.unit)],
        "reference": document.reference_line(found),
        "arms": {row["arm"]: row for row in document.arms(found)},
        "hidden": len(a.contrasts) - len(kept),
        "picture": _svg(figure),
    }
    plain = document.plain(found)
    files = {
        "report.html": _render("judged.html.jinja", a.digits, rows),
        "report.md": _markdown(found),
        "forest.png": figures.to_png(figure),
        "contrasts.csv": _csv(plain["contrasts"]),
        "judged.json": json.dumps(plain, indent=2, allow_nan=False).encode(),
    }
    return [put(folder / name, content) for name, content in files.items()]


def write_across(found: Across, folder: Path) -> list[Path]:
    """The report of several run folders.

    Raises:
        RunError: the folder cannot be written.
    """
    studies = [(f.label, f.analysis) for f in found.folders]
    figure = side_by_side([line.title for line in found.lines], studies, [line.contrasts for line in found.lines])
    digits = max(f.analysis.digits for f in found.folders)
    rows = {"found": found, "answer": folders.answer(found), "standings": folders.standings(found), "picture": _svg(figure)}
    files = {
        "report.html": _render("across.html.jinja", digits, rows),
        "report.md": f"# Across {len(found.folders)} studies\n\n![verdicts](across.png)\n\n```\n{folders.text(found)}\n```\n".encode(),
        "across.png": figures.to_png(figure),
        "judged.json": json.dumps(folders.plain(found), indent=2, allow_nan=False).encode(),
    }
    return [put(folder / name, content) for name, content in files.items()]


def _svg(figure: figures.Figure) -> markupsafe.Markup:
    return markupsafe.Markup(figures.to_svg(figure))  # nosec B704: drawn by us from text that matplotlib escapes


def _render(name: str, digits: int, rows: Mapping[str, Any]) -> bytes:
    return template("aotsearch.judge", name, digits, trim_blocks=True).render(rows, style=style()).encode()


def _markdown(found: Judged) -> bytes:
    """The text of the terminal, its table as a table, with the picture beside it."""
    a = document.shown(found)
    rows = [
        f"| {escaped(c.arm)} | {number(c.difference, a.digits, True)} | {bounds(c.low, c.high, a.digits)} | {c.seeds} | {escaped(c.told)} |"
        for c in a.contrasts
    ]
    lines = [
        f"# {escaped(a.name)}: {escaped(document.heading(found))}",
        *(f"> **Warning:** {escaped(line)}" for line in a.warnings),
        f"**{escaped(answer(a))}**",
        "![effects](forest.png)",
        "\n".join([f"| arm | difference, {escaped(a.unit)} | interval | runs | verdict |", "|---|---:|---|---:|---|", *rows]),
        escaped(document.reference_line(found)),
        *(f"- {escaped(line)}" for line in filter(None, [document.floor_line(a), *document.pace_lines(found), *a.notes])),
        escaped(a.method),
    ]
    return ("\n\n".join(lines) + "\n").encode()


COLUMNS = ["arm", "decision", "from", "to", "difference", "low", "high", "seeds", "verdict", "size", "component", "seeds_needed", "missing"]
COLUMNS += ["sd_paired", "sd_unpaired", "remark", "reading"]


def _csv(contrasts: Sequence[Mapping[str, Any]]) -> bytes:
    stream = io.StringIO()
    rows = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
    rows.writeheader()
    rows.writerows({k: no_formula(v) for k, v in c.items()} for c in contrasts)
    return stream.getvalue().encode()
