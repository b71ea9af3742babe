"""Reports are made from the ledger alone, hold together in every format, and say so when the run is not complete."""

from __future__ import annotations

import csv
import html.parser
import io
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aotsearch import analysis, figures, report
from aotsearch.errors import InputError
from aotsearch.ledger import Ledger
from aotsearch.study import load

TEXT = """
name: small_study
question: Is <b>this</b> & that needed?
task: {language: {data: python-stdlib, context: 16}}
grammar:
  model: {width: 16, depth: 1, positions: learned, norm: norm, block: [{attention: {heads: heads}}, channel]}
  channel: {any: [{mlp: {expand: 2}}, none]}
  norm: {any: [layernorm, rmsnorm, none]}
  heads: {any: [2, 1]}
study: {design: DESIGN, seeds: 4, margin: 0.02, arms: {plain_100%: {channel: none, norm: none}}}
"""
EFFECTS = {"channel=none": 0.2, "norm=rmsnorm": 0.001, "heads=1": 0.02, "plain_100%": 0.3}


def finish(ledger: Ledger, arm: Any, seed: int, loss: float | None, **changes: Any) -> None:
    evaluation = {} if loss is None else {"bits_per_byte": loss, "loss": loss * 0.7}
    record = {
        "key": f"{arm.name}/{seed}/{changes.get('phase', 'design')}",
        "arm": arm.name,
        "seed": seed,
        "phase": "design",
        "equalise": "none",
        "digest": arm.architecture.digest,
        "decisions": dict(arm.architecture.decisions),
        "changes": {k: list(v) for k, v in arm.changes.items()},
        "outcome": "diverged" if loss is None else "done",
        "message": "loss is nan at step 3 </td><script>" if loss is None else "",
        "measures": evaluation,
        "curve": [{"step": s, "train_loss": 3 - s / 300 + seed / 50} for s in range(20, 201, 20)],
        "parameters": 1000 - 300 * ("none" in arm.name),
        "parameters_without_embeddings": 900,
        "flops_per_token": 2000,
        "learning_rate": 0.003,
        "steps": 200,
        "tokens": 9600,
        "seconds": 1.5,
        "device": "cpu",
        "precision": "float32",
        "threads": 1,
        "host": "h",
        "finished": f"2026-01-01T00:00:0{seed}+00:00",
    }
    ledger.append("finished", **record | changes)


def run(folder: Path, seeds: int = 4, design: str = "one-at-a-time") -> Path:
    """A run folder in which every arm finished under the first seeds, and norm=none diverged."""
    folder.mkdir()
    (folder / "study.yaml").write_text(TEXT.replace("DESIGN", design))
    study, ledger = load(folder / "study.yaml"), Ledger(folder)
    versions, machine = {"aotsearch": "0.1.0", "torch": "2.13.0"}, {"host": "h", "cpus": 2, "platform": "Linux"}
    ledger.append(
        "run", command="aotsearch run small.yaml", started="2026-01-01T00:00:00+00:00", versions=versions, machine=machine, workers=2
    )
    sizes = {"train": 4000, "validation": 300, "test": 300}
    ledger.append("data", manifest="cf06", documents=3, bytes=sizes, baselines={"unigram": 4.7, "bigram": 3.6}, unit="bits/byte")
    for arm in study.arms():
        for seed in range(seeds):
            loss = 3.0 + seed / 32 + EFFECTS.get(arm.name, 0.0) + (seed * len(arm.name) % 5) / 500
            finish(ledger, arm, seed, None if arm.name == "norm=none" else loss, phase="confirm" if design == "search" else "design")
    return folder


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = run(tmp_path_factory.mktemp("runs") / "small")
    report.write(folder)
    return folder / "report"


class Page(html.parser.HTMLParser):
    """Checks that elements close in order, and gathers tags and text."""

    VOID = ("meta", "br", "use", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.ids += [value for name, value in attributes if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attributes if name == "id" and value]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_every_format_is_written(done: Path) -> None:
    names = {"report.html", "report.md", "report.tex", "contrasts.csv", "trials.csv", "forest.png"}
    assert {p.name for p in done.iterdir()} == names
    assert (done / "forest.png").read_bytes().startswith(b"\x89PNG")


def test_html_is_whole_and_needs_nothing_from_outside(done: Path) -> None:
    text = (done / "report.html").read_text()
    page = Page(text)
    assert not page.open
    assert not page.tags & {"script", "link", "img", "iframe", "base", "form"}
    assert not re.search(r"https?:|//[a-z]|@import|src=", re.sub(r'xmlns(:xlink)?="[^"]*"', "", text))
    assert len(page.ids) == len(set(page.ids)), "figures in one page must not share names"
    for section in (
        "What each part is worth",
        "Learning curves",
        "How the trials ended",
        "How large is the noise",
        "Method",
        "To repeat it",
    ):
        assert section in page.text
    for fact in (
        "unigram",
        "clearly better",
        "diverged",
        "aotsearch run small.yaml",
        "cf06",
        "necessary",
        "redundant",
        "0.2",
        "torch 2.13.0",
    ):
        assert fact in page.text
    assert "partial" not in page.text


def test_text_of_users_is_escaped(done: Path) -> None:
    page = Page((done / "report.html").read_text())
    assert "Is <b>this</b> & that needed?" in page.text
    assert "</td><script>" in page.text
    assert "\\<b\\>this\\</b\\>" in (done / "report.md").read_text()


def test_latex_is_escaped_and_balanced(done: Path) -> None:
    text = (done / "report.tex").read_text()
    assert r"plain\_100\% (norm: layernorm $\to$ none, channel: mlp $\to$ none) &" in text
    assert re.search(r"^channel: mlp \$\\to\$ none & \$\+0\.\d{3}\$ & \$\[\+0\.\d{3}, \+0\.\d{3}\]\$ & 4 & necessary", text, re.MULTILINE)
    assert text.count("\\begin") == text.count("\\end") and "\\toprule" in text
    rows = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert all(len(re.findall(r"(?<!\\)&", row)) == 4 for row in rows)
    assert report.escape("a_b & 50% #1 $x$ {y} ~ ^ \\ < > |") == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{} \textgreater{} \textbar{}"
    )


def test_csv_holds_the_contrasts_and_the_trials(done: Path) -> None:
    contrasts = list(csv.DictReader(io.StringIO((done / "contrasts.csv").read_text())))
    trials = list(csv.DictReader(io.StringIO((done / "trials.csv").read_text())))
    by_arm = {row["arm"]: row for row in contrasts}
    assert by_arm["channel=none"]["verdict"] == "necessary" and by_arm["channel=none"]["seeds"] == "4"
    assert by_arm["norm=none"]["difference"] == "" and by_arm["norm=none"]["verdict"] == "necessary"
    assert by_arm["plain_100%"]["decision"] == "norm, channel" and by_arm["plain_100%"]["to"] == "none, none"
    assert len(trials) == 6 * 4 and {row["outcome"] for row in trials} == {"done", "diverged"}
    assert len(report.results(done.parent)) == len(trials)


def test_markdown_tables_have_equal_columns(done: Path) -> None:
    lines = (done / "report.md").read_text().splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert set(widths) == {3, 5, 7}
    assert "![effects with intervals](forest.png)" in lines


def test_the_same_ledger_gives_the_same_bytes(done: Path) -> None:
    before = {p.name: p.read_bytes() for p in done.iterdir()}
    report.write(done.parent)
    assert {p.name: p.read_bytes() for p in done.iterdir()} == before


@pytest.mark.parametrize(("seeds", "message"), [(0, "0 of 24 trials"), (1, "6 of 24 trials"), (2, "12 of 24 trials")])
def test_a_run_that_is_not_complete_is_reported_as_partial(tmp_path: Path, seeds: int, message: str) -> None:
    folder = run(tmp_path / "part", seeds)
    paths = report.write(folder)
    assert all(p.stat().st_size for p in paths)
    page = Page((folder / "report" / "report.html").read_text())
    assert not page.open and message in page.text and "partial" in page.text
    assert message in (folder / "report" / "report.md").read_text()


def test_a_search_shows_what_it_tried(tmp_path: Path) -> None:
    folder = run(tmp_path / "search", 2, "search")
    study, ledger = load(folder / "study.yaml"), Ledger.open(folder)
    tried = study.space.at({"heads": 1})
    for i, loss in enumerate([3.1, 2.9, None]):
        arm = type(study.arms()[0])(f"search-{i}", tried, {})
        finish(ledger, arm, 0, loss, phase="search")
    report.write(folder, ["html"])
    text = Page((folder / "report" / "report.html").read_text()).text
    assert "What the search tried" in text and "heads=1" in text
    assert text.index("search-1") < text.index("search-0")


def test_a_torn_ledger_is_reported_with_its_damage(tmp_path: Path) -> None:
    folder = run(tmp_path / "torn", 2)
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(b'{"crc":"00000000","event":"finished"')
    report.write(folder, ["html"])
    assert "damaged ledger lines" in (folder / "report" / "report.html").read_text()


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown report format 'htm'; did you mean 'html'\? \(known: csv, html, latex, md\)"):
        report.write(tmp_path, ["htm"])
    with pytest.raises(InputError, match="holds no run"):
        report.write(tmp_path)


def test_figures_survive_large_effects_and_odd_names(done: Path) -> None:
    material = report.read(done.parent)
    large = [{**r, "measures": {"bits_per_byte": r["measures"]["bits_per_byte"] + 9 * ("channel" in r["arm"])}} if r["measures"] else r
             for r in material.records]  # fmt: skip
    found = analysis.analyse(large, material.study)
    svg = figures.to_svg(figures.forest(found))
    assert "logarithmic beyond" in svg and "mathdefault" not in svg and svg == figures.to_svg(figures.forest(found))
    table = analysis.tabulate(large, material.study)
    assert "plain_100%" in figures.to_svg(figures.front(found, table))


def test_a_report_needs_no_torch() -> None:
    code = "import sys, aotsearch.report; print(sorted({'torch', 'ray', 'mlflow', 'matplotlib.pyplot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
