"""Tables and pictures -> one HTML page, Markdown, LaTeX and CSV, from the ledger alone.

write("runs/redundancy") -> [report/report.html, report/report.md, ...];  results("runs/redundancy") -> DataFrame
"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import markupsafe
import pandas as pd

from aotsearch import figures
from aotsearch.analysis import Analysis, Contrast, Record, analyse, answer, search_table, spell, tabulate
from aotsearch.errors import InputError, RunError, suggest
from aotsearch.ledger import Ledger
from aotsearch.study import Study, load
from aotsearch.summary import against_baselines, bounds, number, summary

FOLDER = "report"
REMOVED_SPACE = str.maketrans({"\n": " ", "\r": " "})


@dataclass(frozen=True)
class Material:
    """All that a report is made from."""

    study: Study
    records: Sequence[Record]
    runs: Sequence[Record]  # every start of the command
    data: Record  # the `data` event; empty where none was written
    corrupt: int  # lines of the ledger that could not be read
    analysis: Analysis
    table: pd.DataFrame

    def summary(self) -> str:
        """The verdicts as the plain text that a terminal shows."""
        searched = search_table(self.records, self.study) if self.study.settings.design == "search" else None
        return summary(self.analysis, self.data, searched)


def read(folder: str | Path) -> Material:
    """A run folder's study, records and analysis.

    Raises:
        InputError: the folder holds no run, or trials that can not be compared.
    """
    ledger = Ledger.open(folder)
    study = load(Path(folder) / "study.yaml")
    events = list(ledger.events())
    corrupt = ledger.corrupt
    records = list({e["key"]: e for e in events if e["event"] == "finished"}.values())
    data: Record = next((e for e in reversed(events) if e["event"] == "data"), {})
    runs = [e for e in events if e["event"] == "run"]
    return Material(study, records, runs, data, corrupt, analyse(records, study), tabulate(records, study))


def results(folder: str | Path) -> pd.DataFrame:
    """One row per trial of a run folder: arm, seed, outcome, the task's measure, sizes, cost, and a column per decision."""
    ledger = Ledger.open(folder)
    return tabulate(ledger.records().values(), load(ledger.folder / "study.yaml"))


def write(folder: str | Path, formats: Sequence[str] = ("html", "md", "latex", "csv")) -> list[Path]:
    """Write the report of a run folder into its `report` folder, each file whole or not at all.

    Raises:
        InputError: an unknown format, or a folder without a readable run.
    """
    for name in formats:
        if name not in FORMATS:
            raise InputError(f"unknown report format {name!r}{suggest(name, FORMATS)}")
    material = read(folder)
    files: dict[str, bytes] = {}
    for name in dict.fromkeys(formats):
        files |= FORMATS[name](material)
    return [_replace(Path(folder) / FOLDER / name, content) for name, content in files.items()]


def _replace(path: Path, content: bytes) -> Path:
    """Write beside the target, then rename: a reader sees the old file or the new one."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}-", delete=False) as file:
            file.write(content)
        Path(file.name).chmod(0o644 & ~_umask())
        Path(file.name).replace(path)
    except OSError as e:
        raise RunError(f"{path}: {e.strerror}; nothing recorded is lost, run `aotsearch report` again") from None
    return path


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


# ---- facts shared by the formats


def fairness(m: Material) -> list[dict[str, Any]]:
    """What each arm was given: sizes, tokens, learning rate and time, with the share of the reference's parameters."""
    rows: list[dict[str, Any]] = []
    judged = m.table[m.table["phase"] != "search"]
    for arm, group in judged.groupby("arm", sort=False):
        seconds = [float(s) for s in group[group["outcome"] == "done"]["seconds"].dropna()]
        first = group.iloc[0]
        names = ("parameters", "parameters_without_embeddings", "flops_per_token", "tokens", "learning_rate")
        row = {"arm": arm, **{name: None if pd.isna(first[name]) else first[name] for name in names}}
        rows.append(row | {"seconds": statistics.median(seconds) if seconds else None, "seeds": len(group)})
    base = next((r["parameters"] for r in rows if r["arm"] == m.analysis.reference), None)
    for row in rows:
        row["share"] = row["parameters"] / base - 1 if base and row["parameters"] is not None else None
    return rows


def failures(m: Material) -> list[Record]:
    """The trials that did not finish well, with their reasons."""
    return [r for r in m.records if r["outcome"] not in ("done", "stopped")]


def facts(m: Material) -> list[tuple[str, str]]:
    """What is needed to repeat the run."""
    run = m.runs[-1] if m.runs else {}
    machine, data = run.get("machine", {}), m.data
    devices = sorted({f"{r['device']} ({r['precision']}, {r['threads']} threads)" for r in m.records if r["device"]})
    sizes = ", ".join(f"{name} {size:,} bytes" for name, size in data.get("bytes", {}).items())
    pairs = [
        ("command", run.get("command", "")),
        ("started", ", ".join(r.get("started", "") for r in m.runs)),
        ("last trial", max((r.get("finished", "") for r in m.records), default="")),
        ("versions", ", ".join(f"{name} {version}" for name, version in run.get("versions", {}).items())),
        ("machine", ", ".join(f"{name} {value}" for name, value in machine.items())),
        ("trained on", "; ".join(devices)),
        ("workers", f"{run['workers']} ({run.get('executor', '')})" if "workers" in run else ""),
        ("data", ", ".join(filter(None, [sizes, f"{data['documents']:,} documents" if data.get("documents") else ""]))),
        ("data manifest", data.get("manifest", "")),
        ("study digest", m.study.digest),
        ("seeds", ", ".join(map(str, m.analysis.seeds))),
        ("damaged ledger lines", str(m.corrupt) if m.corrupt else ""),
    ]
    return [(name, value) for name, value in pairs if value]


def tally(analysis: Analysis) -> list[tuple[str, int]]:
    words = ("necessary", "redundant", "harmful", "undecided")
    return [(word, sum(c.verdict == word for c in analysis.contrasts)) for word in words]


def named(c: Contrast) -> str:
    """A contrast's label, with its changes where the label does not say them."""
    return f"{c.label} ({c.change})" if len(c.changes) > 1 else c.label


# ---- formats


def html(m: Material) -> dict[str, bytes]:
    a = m.analysis
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
    environment.filters |= {"number": _number(a.digits), "bounds": _bounds(a.digits), "arrow": _arrows, "spell": spell}
    template = environment.from_string(resources.files("aotsearch").joinpath("report.html.jinja").read_text("utf-8"))
    page = template.render(
        a=a,
        study=m.study,
        data=m.data,
        answer=answer(a),
        tally=tally(a),
        baselines=against_baselines(a, m.data),
        forest=_picture(figures.forest(a)),
        curves=_picture(figures.curves(m.records, m.study)),
        front=_picture(figures.front(a, m.table)),
        fairness=fairness(m),
        failures=failures(m),
        facts=facts(m),
        searched=_searched(m),
        digests=list(m.table[["arm", "digest"]].drop_duplicates().itertuples(index=False)) if len(m.table) < 500 else [],
    )
    return {"report.html": page.encode(), **_forest_png(m)}


def _number(digits: int) -> Callable[..., str]:
    def show(value: float | None, places: int = digits, sign: bool = False) -> str:
        return _minus(number(value, places, sign))

    return show


def _bounds(digits: int) -> Callable[..., str]:
    def show(pair: tuple[float | None, float | None], sign: bool = True) -> str:
        return _minus(bounds(*pair, digits, sign))

    return show


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}") if len(text) > 1 else text


def _arrows(text: str) -> str:
    return text.replace("->", "\N{RIGHTWARDS ARROW}")


def _picture(figure: Any) -> markupsafe.Markup:
    # drawn by us from text that matplotlib escapes, so it needs no second escaping
    return markupsafe.Markup(figures.to_svg(figure).replace("-&gt;", "\N{RIGHTWARDS ARROW}"))


def _forest_png(m: Material) -> dict[str, bytes]:
    return {"forest.png": figures.to_png(figures.forest(m.analysis))}


def _searched(m: Material, top: int = 20) -> list[dict[str, Any]]:
    """The best architectures of a search, each with the decisions in which it differs from the reference."""
    if m.study.settings.design != "search":
        return []
    table, reference = search_table(m.records, m.study).head(top), m.study.reference.decisions
    rows = []
    for _, series in table.iterrows():
        row = {str(k): v for k, v in series.items()}
        decisions = {k: row[k] for k in reference if k in row and not pd.isna(row[k]) and row[k] != reference[k]}
        value = row[m.analysis.measure]
        rows.append(
            {**row, "value": None if pd.isna(value) else value, "changes": ", ".join(f"{k}={spell(v)}" for k, v in decisions.items())}
        )
    return rows


def markdown(m: Material) -> dict[str, bytes]:
    a, digits = m.analysis, m.analysis.digits
    head = ["change", f"difference, {a.unit}", f"{100 * a.confidence:g}% interval", "seeds", "verdict", "remark"]
    rows = [
        [named(c), number(c.difference, digits, True), bounds(c.low, c.high, digits), c.seeds, f"**{c.verdict}**", c.remark]
        for c in a.contrasts
    ]
    cost = [
        [
            r["arm"],
            _whole(r["parameters"]),
            _whole(r["flops_per_token"]),
            _whole(r["tokens"]),
            spell(r["learning_rate"]),
            number(r["seconds"], 1),
        ]
        for r in fairness(m)
    ]
    problems = [[r["arm"], r["seed"], r["outcome"], r["message"]] for r in failures(m)]
    noise = (
        [] if a.noise_floor is None else [f"Noise floor (sd of the reference over seeds): {number(a.noise_floor, digits + 1)} {a.unit}."]
    )
    parts = [
        f"# {_md(a.name)}",
        _md(a.question),
        f"**{_md(answer(a))}**",
        *(f"> {_md(note)}" for note in a.notes),
        "![effects with intervals](forest.png)",
        _md_table(head, rows),
        "\n".join(f"- {_md(line)}" for line in [*against_baselines(a, m.data), *noise]),
        "## What each arm was given",
        _md_table(["arm", "parameters", "FLOPs per token", "tokens", "learning rate", "seconds"], cost),
        *(["## Trials that did not finish", _md_table(["arm", "seed", "outcome", "reason"], problems)] if problems else []),
        "## Method",
        _md(a.method),
        "## To repeat it",
        _md_table(["", ""], [list(pair) for pair in facts(m)]),
    ]
    return {"report.md": ("\n\n".join(filter(None, parts)) + "\n").encode(), **_forest_png(m)}


def _whole(value: Any) -> str:
    return "-" if value is None else f"{int(value):,}"


def _md(text: object) -> str:
    plain = str(text).translate(REMOVED_SPACE)
    return "".join(f"\\{c}" if c in "\\`*_{}[]<>#|" else c for c in plain)


def _md_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [list(head), ["---"] * len(head), *([str(v) if str(v).startswith("**") else _md(v) for v in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{c: f"\\{c}" for c in "&%$#_{}"},
}


def escape(text: object) -> str:
    """Text as LaTeX shows it, arrows as arrows."""
    pieces = str(text).translate(REMOVED_SPACE).split("->")
    return r"$\to$".join("".join(LATEX.get(c, c) for c in piece) for piece in pieces)


def latex(m: Material) -> dict[str, bytes]:
    a, digits = m.analysis, m.analysis.digits
    rows = []
    for c in a.contrasts:
        span = "--" if c.low is None else f"${bounds(c.low, c.high, digits)}$"
        mean = "--" if c.difference is None else f"${number(c.difference, digits, True)}$"
        rows.append(f"{escape(named(c))} & {mean} & {span} & {c.seeds} & {escape(c.verdict)} \\\\")
    value = f"Reference {number(a.value, digits)} {escape(a.unit)}. " if a.value is not None else ""
    preview = f"Partial: {a.finished} of {a.expected} trials. " if a.partial else ""
    caption = (
        f"{preview}Difference to the reference in {escape(a.unit)} (lower is better), paired by seed, "
        f"with {100 * a.confidence:g}\\,\\% intervals (Student $t$, simultaneous over {a.family} contrasts by Bonferroni). "
        f"{value}Margin {a.margin:g}."
    )
    lines = [
        "% needs \\usepackage{booktabs}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{caption}}}",
        f"\\label{{tab:{''.join(c if c.isalnum() else '-' for c in a.name)}}}",
        "\\begin{tabular}{lrrrl}",
        "\\toprule",
        "Change & Difference & Interval & Seeds & Verdict \\\\",
        "\\midrule",
        *rows,
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]
    return {"report.tex": ("\n".join(lines) + "\n").encode()}


def csv(m: Material) -> dict[str, bytes]:
    names = ["arm", "decision", "from", "to", "equalise", "difference", "low", "high", "seeds", "verdict", "seeds_needed", "missing"]
    contrasts = pd.DataFrame([c.to_dict() for c in m.analysis.contrasts], columns=[*names, "sd_paired", "sd_unpaired", "remark"])
    # pandas counts a whole number with gaps as a float; written as such it would read 3.0 seeds
    contrasts = contrasts.astype({"seeds_needed": "Int64"})
    return {
        "contrasts.csv": contrasts.to_csv(index=False, lineterminator="\n").encode(),
        "trials.csv": m.table.to_csv(index=False, lineterminator="\n").encode(),
    }


FORMATS: Mapping[str, Callable[[Material], dict[str, bytes]]] = {"html": html, "md": markdown, "latex": latex, "csv": csv}
