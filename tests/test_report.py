"""Reports are made from the ledger alone, hold together in every format, and say so when the run is not complete."""

from __future__ import annotations

import csv
import dataclasses
import html.parser
import io
import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aotsearch.errors import InputError, shown
from aotsearch.evidence import analysis, declaration, layers
from aotsearch.evidence import statistics as inference
from aotsearch.evidence.answer import answer
from aotsearch.evidence.ledger import Ledger
from aotsearch.report import booktabs, contents, figures, report, summary
from aotsearch.report.page import markdown
from aotsearch.study.loading import load
from aotsearch.tracking import wording

sys.path.insert(0, str(Path(__file__).parent))
import fabricated

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
    pictures = ("forest", "curves", "loss-against-parameters", "loss-against-flops")
    images = {f"{name}.{kind}" for name in pictures for kind in ("png", "pdf")}
    names = {"report.html", "report.md", "report.tex", "contrasts.csv", "trials.csv"} | images
    assert {p.name for p in done.glob("[!.]*")} == names
    assert (done / "forest.png").read_bytes().startswith(b"\x89PNG") and (done / "forest.pdf").read_bytes().startswith(b"%PDF")


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
        "worse",
        "equivalent",
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
    assert r"plain\_100\% is norm: layernorm $\to$ none, channel: mlp $\to$ none." in text and re.search(
        r"^\\raggedright plain\\_\S*100\\% &", text, re.M
    )
    assert re.search(
        r"^\\raggedright channel: mlp \$\\to\$ none & \$\+0\.\d{3}\$ & \$\[\+0\.\d{3}, \+0\.\d{3}\]\$ & 4 "
        r"& \\raggedright worse: channel mlp is necessary",
        text,
        re.MULTILINE,
    )
    assert text.count("\\begin") == text.count("\\end") and "\\toprule" in text
    rows = [line for line in text.splitlines() if line.endswith(r" \tabularnewline")]
    widths = [len(re.findall(r"(?<!\\)&", row)) for row in rows]
    assert set(widths) == {4, 6} and widths == sorted(widths), "effects, then what each arm was given"
    assert booktabs.escape("`run --retry-failed`") == r"\textasciigrave{}run -{}-retry-failed\textasciigrave{}"
    assert booktabs.escape("a_b & 50% #1 $x$ {y} ~ ^ \\ < > |") == (
        r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{} \textless{} \textgreater{} \textbar{}"
    )


def test_what_a_name_holds_is_text_in_every_form() -> None:
    assert booktabs.escape("\x1b[1m* a") == "{[}1m{*} a"
    assert wording._safe("**<b>`[x](y)") == "\\*\\*\\<b>\\`\\[x](y)"
    assert shown("\x1b[2J bold \u4e2d\n") == "\\x1b[2J bold \u4e2d\n"
    assert [summary.no_formula(cell) for cell in ("=1+1", "@x", "-1", -1.0)] == ["'=1+1", "'@x", "-1", -1.0]


def test_csv_holds_the_contrasts_and_the_trials(done: Path) -> None:
    contrasts = list(csv.DictReader(io.StringIO((done / "contrasts.csv").read_text())))
    trials = list(csv.DictReader(io.StringIO((done / "trials.csv").read_text())))
    by_arm = {row["arm"]: row for row in contrasts}
    assert by_arm["channel=none"]["verdict"] == "worse" and by_arm["channel=none"]["seeds"] == "4"
    assert by_arm["norm=none"]["difference"] == "" and by_arm["norm=none"]["verdict"] == "worse"
    assert by_arm["plain_100%"]["decision"] == "norm, channel" and by_arm["plain_100%"]["to"] == "none, none"
    assert len(trials) == 6 * 4 and {row["outcome"] for row in trials} == {"done", "diverged"}
    assert len(report.results(done.parent)) == len(trials)


def test_markdown_tables_have_equal_columns(done: Path) -> None:
    lines = (done / "report.md").read_text().splitlines()
    widths = [len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")]
    assert set(widths) == {3, 5, 6, 7, 10}
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
        arm = type(study.arms()[0])(f"candidate-{i}", tried, {})
        finish(ledger, arm, 10_000, loss, phase="search")
    report.write(folder, ["html"])
    text = Page((folder / "report" / "report.html").read_text()).text
    assert "What the search tried" in text and "heads=1" in text
    assert "Which decisions mattered" not in text
    ledger.append("importance", shares={"heads": 0.75, "norm": 0.25})
    report.write(folder, ["html"])
    described = Page((folder / "report" / "report.html").read_text()).text
    assert "Which decisions mattered to the search" in described and "75%" in described and "is no evidence" in described
    assert text.index("candidate-1") < text.index("candidate-0")


def test_a_damaged_ledger_is_reported_with_its_damage(tmp_path: Path) -> None:
    folder = run(tmp_path / "damaged", 2)
    with (folder / "ledger.jsonl").open("ab") as file:
        file.write(b'{"crc":"00000000","event":"finished"\n')
    assert "warning: 1 line of the ledger is damaged (line " in report.read(folder).summary()
    report.write(folder, ["html"])
    assert (folder / "report" / "report.html").read_text().count("1 line of the ledger is damaged") == 2


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"unknown report format 'htm'; did you mean 'html'\? \(known: csv, html, latex, md\)"):
        report.write(tmp_path, ["htm"])
    with pytest.raises(InputError, match="holds no run"):
        report.write(tmp_path)


def test_figures_survive_large_effects_and_odd_names(done: Path) -> None:
    m = report.read(done.parent)
    large = [{**r, "measures": {"bits_per_byte": r["measures"]["bits_per_byte"] + 9 * ("channel" in r["arm"])}} if r["measures"] else r
             for r in m.records]  # fmt: skip
    found = dataclasses.replace(m, records=large, analysis=analysis.analyse(large, m.study))
    svg = figures.to_svg(figures.forest(found.analysis))
    assert "logarithmic beyond" in svg and "mathdefault" not in svg and svg == figures.to_svg(figures.forest(found.analysis))
    assert "plain_100%" in figures.to_svg(figures.front(found))


def test_a_report_needs_no_torch() -> None:
    code = "import sys, aotsearch.report.report; print(sorted({'torch', 'ray', 'mlflow', 'matplotlib.pyplot'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


# ---- a report with everything in it


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> report.Material:
    made = fabricated.Run(tmp_path_factory.mktemp("runs") / "everything")
    made.train()
    report.write(made.folder)
    return report.read(made.folder)


@pytest.fixture(scope="module")
def written(everything: report.Material, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return next(tmp_path_factory.getbasetemp().glob("**/everything/report"))


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text())


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_every_section_is_there_where_there_is_something_to_show(page: Page) -> None:
    assert not page.open and len(page.ids) == len(set(page.ids))
    for section in (
        "Each at its own learning rate",
        "On the test split",
        "Inside the models, by depth",
        "Removed after training, or trained without",
        "What each arm was given",
        "How the trials ended",
        "How large is the noise",
    ):
        assert section in page.text
    for absent in ("Which changes act together", "cannot tell apart", "What the search tried", "Which decisions mattered"):
        assert absent not in page.text


def test_sections_without_content_are_left_out(done: Path) -> None:
    text = Page((done / "report.html").read_text()).text
    for absent in ("own learning rate", "On the test split", "by depth", "Removed after training"):
        assert absent not in text


def test_what_was_asked_for_leads_and_the_shared_rate_stands_beside(everything: report.Material, page: Page, written: Path) -> None:
    rates = [c.rate for c in everything.analysis.contrasts]
    assert rates == ["tuned"] * (len(rates) // 2) + ["shared"] * (len(rates) // 2)
    document = everything.analysis.to_dict()
    assert document["learning_rate"] == "tuned" and [c["asked"] for c in document["contrasts"]] == [r == "tuned" for r in rates]
    assert [row["learning_rate"] for row in rows(written / "contrasts.csv")] == rates
    for text in (everything.summary(), (written / "report.md").read_text(), (written / "report.tex").read_text()):
        assert 0 < text.index("own learning rate") < text.index("shared learning rate")
    # tied projections cost 0.09 at the shared rate and 0.009 at their own
    said = answer(everything.headline)
    assert re.search(r"No difference beyond 0.05 bits/byte: [^.]*qkv tied for free", said)
    assert re.search(r"Each arm is at its own learning rate; at the shared one otherwise: Needed: qkv free rather than tied", said)
    assert re.search(r"No difference[^○●]*qkv tied for free \(worse at shared learning rate", page.text)
    assert (written / "report.html").read_text().count('<tr class="changed">') == 1
    assert "1 of 1 verdicts differ at the shared one" in page.text
    assert "The best learning rate lies at the end of those tried for qkv=tied" in page.text
    for text in ((written / "report.md").read_text(), (written / "report.tex").read_text(), "\n".join(document["notes"])):
        assert "the best learning rate lies at the end of those tried for qkv=tied" in text.replace("\\", "")


def test_the_two_verdicts_of_a_row_are_of_the_same_terms_and_every_contrast_has_a_key_of_its_own(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "compared", f"compare: [[channel=none, qkv=tied]], {fabricated.EVERYTHING}")
    made.train(broken=False)
    report.write(made.folder, ["csv"])
    table = rows(made.folder / "report" / "contrasts.csv")
    keys = [tuple(row[name] for name in ("arm", "equalise", "learning_rate", "kind")) for row in table]
    assert len(set(keys)) == len(keys) and sum(row["arm"] == "channel=none against qkv=tied" for row in table) == 4
    material = report.read(made.folder)
    pairs = contents.beside(material)
    assert {(one.arm, one.equalise) for _, one, _ in pairs} >= {("channel=none against qkv=tied", mode) for mode in ("none", "parameters")}
    for name, one, two in pairs:
        assert (one.arm, one.equalise, one.kind) == (two.arm, two.equalise, two.kind) and (one.rate, two.rate) == ("tuned", "shared")
        assert ("equal parameters" in name) == (one.equalise == "parameters")
    found = {(c.arm, c.equalise, c.rate): c.difference for c in material.analysis.contrasts}
    shown = {(one.equalise): (one.difference, two.difference) for _, one, two in pairs if one.arm == "channel=none against qkv=tied"}
    assert shown == {
        mode: tuple(found["channel=none against qkv=tied", mode, rate] for rate in ("tuned", "shared")) for mode in ("none", "parameters")
    }


def test_a_rate_that_seeds_alone_could_have_chosen_is_said_to_be(tmp_path: Path) -> None:
    # tried rates differ by log(2) / 20 = 0.035; the reference varies by 1 / 32 from seed to seed, so two single runs by far more
    made = fabricated.Run(tmp_path / "noisy", "seeds: 3, margin: 0.05, learning_rate: {tune: [3e-3, 6e-3, 1.2e-2]}")
    made.train(broken=False)
    found = report.read(made.folder)
    noise = found.analysis.noise
    assert noise is not None and noise.difference > math.log(2) / 20 and found.analysis.rate_noise == noise.difference
    (note,) = [n for n in found.analysis.notes if "seeds alone make of 1 tuning seed" in n]
    assert "reference" in note and "channel=none" in note and found.analysis.to_dict()["learning_rates"]["channel=none"]["by_noise"]
    assert {row.doubt for row in contents.tuned(found)[1]} >= {"within the noise of seeds"}
    text = markdown(found, [], [], [])
    assert "within the noise of seeds" in text and "seeds alone make of 1 tuning seed" in text
    # four times the seeds halve what seeds alone can do to a mean over them
    more = fabricated.Run(tmp_path / "calm", "seeds: 3, margin: 0.05, learning_rate: {tune: [3e-3, 6e-3, 1.2e-2], seeds: 4}")
    more.train(broken=False)
    assert report.read(more.folder).analysis.rate_noise == pytest.approx(noise.difference / 2)


def test_a_reference_that_beats_no_table_of_counts_is_the_first_thing_said_in_every_form(tmp_path: Path) -> None:
    folder = run(tmp_path / "weak")
    study = load(folder / "study.yaml")
    Ledger(folder).append("declared", **declaration.event(study, study.arms(), ()))
    Ledger(folder).append("data", manifest="cf06", baselines={"unigram": 4.7, "bigram": 2.9}, unit="bits/byte")
    report.write(folder)
    m, said = report.read(folder), "above the bigram baseline of 2.900: not clearly better, so verdicts at this budget say little"
    assert said in m.summary().replace("\n  ", " ").split("small_study")[0] and m.summary().startswith("warning: ")
    assert said in m.analysis.to_dict()["notes"][0] and said in m.headline.to_dict()["warnings"][0]
    made = folder / "report"
    text = Page((made / "report.html").read_text()).text
    assert 0 < text.index(said) < text.index("A verdict is of the change") and text.index("Warning:") < text.index(said)
    blocks = (made / "report.md").read_text().split("\n\n")
    assert blocks[1].startswith("> **Warning:**") and said in blocks[1]
    tex = (made / "report.tex").read_text()
    assert re.search(r"\\caption\{Warning: the reference is [^}]*bigram baseline", tex)
    note = wording.note(m.study, m.headline.to_dict())
    assert note.startswith("> **Warning:**") and said in note.split("**Question.**")[0]
    plain = report.read(run(tmp_path / "strong"))
    assert not plain.analysis.warnings and "arning:" not in plain.summary()


def test_notes_are_in_every_form(done: Path) -> None:
    m = report.read(done.parent)
    note = next(n for n in m.analysis.notes if "standard deviations of the difference" in n)
    document = m.headline.to_dict()
    forms = [m.summary().replace("\n  ", " "), Page((done / "report.html").read_text()).text.replace("Only", "only"), *document["notes"]]
    forms += [(done / "report.md").read_text(), (done / "report.tex").read_text(), wording.note(m.study, document)]
    assert sum(note in text for text in forms) == len(forms) - len(document["notes"]) + 1


def test_the_minimum_detectable_effect_is_called_so_in_every_form(everything: report.Material, page: Page, written: Path) -> None:
    a = everything.analysis
    assert a.smallest_effect is not None
    size = f"{a.smallest_effect:.{a.digits}f}"
    assert f"minimum detectable effect: about {size} bits/byte" in everything.summary()
    assert f"The minimum detectable effect, at the median noise of a paired difference, is about {size} bits/byte" in " ".join(
        page.text.split()
    )
    assert f"Minimum detectable effect: {size} bits/byte" in (written / "report.md").read_text()
    assert f"Minimum detectable effect {size}." in (written / "report.tex").read_text()
    document = everything.headline.to_dict()
    assert wording.facts(document)[0]["minimum_detectable_effect"] == document["smallest_effect"] == a.smallest_effect
    assert "Minimum detectable effect: about" in wording.note(everything.study, document)


def test_an_adaptive_study_is_described_as_it_was_made_in_every_form(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "adaptive", "seeds: {min: 4, max: 9}, margin: 0.05, knock_out: true")
    made.train(broken=False)
    report.write(made.folder)
    m, folder = report.read(made.folder), made.folder / "report"
    forms = [Page((folder / "report.html").read_text()).text, (folder / "report.md").read_text(), m.analysis.to_dict()["method"]]
    assert all("repeated confidence intervals" in text and "Student t" not in text for text in forms)
    short = [m.summary(), (folder / "report.tex").read_text(), wording.note(m.study, m.headline.to_dict())]
    assert all("repeated looks from 4 to 9 seeds" in text.replace("\n  ", " ") and "Student" not in text for text in short)
    # whatever rests on these seeds bears their looks
    rms, *_ = report.Report(m).profiles
    last = rms.arms["qkv=tied"][-1]
    reach = inference.sequential_quantile(4, 0.95, rms.family, 4, 9)
    cells = m.shown()
    d = [cells["qkv=tied"][s]["diagnostics"]["hidden-rms"][-1] - cells["reference"][s]["diagnostics"]["hidden-rms"][-1] for s in range(4)]
    assert last.above == pytest.approx(statistics.fmean(d) + reach * statistics.stdev(d) / 2)
    gone = report.Report(m).knocked[0]
    values = [r["knock_out"][0]["increase"] for _, r in sorted(m.cells()["reference"].items())]
    half = inference.sequential_quantile(4, 0.95, len(report.Report(m).knocked), 4, 9) * statistics.stdev(values) / 2
    assert gone.high == pytest.approx(statistics.fmean(values) + half)


def test_the_page_says_which_trials_were_made_with_what(tmp_path: Path) -> None:
    folder = run(tmp_path / "mixed", 2)
    study, ledger = load(folder / "study.yaml"), Ledger(folder)
    versions, machine = {"aotsearch": "0.1.0", "torch": "2.11.0"}, {"host": "other", "cpus": 8}
    ledger.append("run", command="again", started="2026-02-01T00:00:00+00:00", versions=versions, machine=machine)
    for seed in (2, 3):
        for arm in study.arms():
            alike = {"environment": {"torch": "2.11.0", "threads": 2}, "threads": 2} if arm.name == "heads=1" and seed == 3 else {}
            finish(ledger, arm, seed, 3.0 + len(arm.name) / 100, **alike)
    facts = dict(contents.facts(report.read(folder)))
    assert facts["made with"] == "aotsearch 0.1.0, torch 2.13.0: 12 trials; aotsearch 0.1.0, torch 2.11.0: 12 trials"
    assert "host h, cpus 2, platform Linux: 12 trials" in facts["machine"] and "host other, cpus 8: 12 trials" in facts["machine"]
    assert facts["trained on"] == "cpu (float32, 1 thread): 23 trials; cpu (float32, 2 threads): 1 trial"
    contrasts = {c.arm: c for c in report.read(folder).analysis.contrasts}
    assert contrasts["heads=1"].mixed == {"aotsearch": {3: ("0.1.0", "unknown")}, "threads": {3: ("2", "unknown")}}
    assert not contrasts["channel=none"].mixed, "both trials of each pair belong to the same start"
    report.write(folder, ["csv"])
    by_arm = {row["arm"]: row for row in rows(folder / "report" / "contrasts.csv")}
    assert set(by_arm["heads=1"]["mixed"].split("; ")) == {"aotsearch: 3", "threads: 3"} and by_arm["channel=none"]["mixed"] == ""


def test_curves_carry_their_unit(done: Path) -> None:
    m = report.read(done.parent)
    assert "training loss, nats/byte" in figures.to_svg(figures.curves(m))
    often = [{**r, "curve": [{**p, "bits_per_byte": 3.0} for p in r["curve"]]} for r in m.records]
    assert "validation, bits/byte" in figures.to_svg(figures.curves(dataclasses.replace(m, records=often)))
    assert "training loss in nats/byte" in (done / "report.md").read_text()
    assert "training loss in nats/byte" in (done / "report.html").read_text()


def test_values_that_are_not_finite_leave_every_form_whole(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "odd", "seeds: 3, margin: 0.05, knock_out: true, factors: [channel]")
    made.train(broken=False)
    for r in list(made.ledger.records().values()):
        if r["phase"] == "design" and r["seed"] == 1:
            odd = {"test": {"bits_per_byte": math.inf, "loss": math.nan}, "diagnostics": {"hidden-rms": [math.nan] * 5}}
            odd |= {"knock_out": [row | {"increase": math.inf} for row in r.get("knock_out", ())]}
            curve = [point | {"train_loss": math.nan} for point in r["curve"]]
            made.ledger.append("finished", **{k: v for k, v in r.items() if k != "event"} | odd | {"curve": curve})
    assert all(p.stat().st_size for p in report.write(made.folder))
    m = report.read(made.folder)
    assert any("gave values that are not finite" in note for note in m.analysis.notes) and all(c.test for c in m.analysis.contrasts)
    json.dumps(m.analysis.to_dict(), allow_nan=False)


def test_arms_that_are_the_same_model_are_shown_once(everything: report.Material, page: Page) -> None:
    shown = [(c.arm, c.rate) for c in everything.distinct]
    assert ("channel=none@parameters", "tuned") in shown and ("qkv=tied", "tuned") in shown and ("qkv=tied", "shared") in shown
    assert ("norm=rmsnorm@parameters", "tuned") not in shown and ("channel=none", "shared") not in shown
    assert len(everything.headline.contrasts) == len(shown) and everything.headline.family == len(everything.analysis.contrasts)
    assert "norm=rmsnorm@parameters" not in everything.summary()
    assert "norm=rmsnorm@parameters" not in everything.trained and "also norm=rmsnorm@parameters" in page.text


def test_arms_that_are_equal_as_they_are_are_not_said_to_be_left_unequal(tmp_path: Path) -> None:
    text = fabricated.TEXT.replace("channel: {any: [{mlp: {expand: 2}}, none]}", "channel: {mlp: {expand: 2}}")
    made = fabricated.Run(tmp_path / "equal", "seeds: 2, equalise: [none, parameters], tolerance: 0.5", text)
    made.train(broken=False)
    report.write(made.folder, ["html"])
    said = (made.folder / "report" / "report.html").read_text()
    assert "also norm=none@parameters" in said and "so the same model stands for both" in said and "not made equal" not in said


def test_fewer_seeds_than_were_trained_leave_no_more_trials_ended_than_there_are(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "fewer", "seeds: 4, learning_rate: {tune: [3e-3, 6e-3, 1.2e-2]}")
    made.train(broken=False)
    path = made.folder / "study.yaml"
    path.write_text(path.read_text().replace("seeds: 4", "seeds: 2"))
    found = report.read(made.folder).analysis
    assert found.finished == found.expected and not found.partial


def test_equal_arms_show_how_they_were_resized_and_by_how_much_they_miss(everything: report.Material) -> None:
    given = {(g.arm, g.rate): g for g in contents.fairness(everything)}
    equal = given["channel=none@parameters", "tuned"]
    assert equal.resized and equal.share is not None and abs(equal.share) <= 0.2 and not equal.beyond
    plain = given["channel=none", "tuned"]
    assert plain.share is not None and plain.share < -0.2 and not plain.resized
    assert given["qkv=tied", "tuned"].learning_rate == 1.2e-2
    assert given["qkv=tied", "shared"].learning_rate == 6e-3
    reference = given["reference", "tuned"]
    assert (reference.share, reference.flops_share) == (0, 0)


def test_outcomes_are_counted_with_rates_and_never_dropped(everything: report.Material, page: Page) -> None:
    assert contents.bad(everything.analysis.outcomes) == ["diverged", "failed", "out-of-memory"]
    ends = {o.arm: (o, shares) for o, shares in contents.endings(everything)}
    diverged = ends["norm=none"][1]["diverged"]
    assert diverged is not None and (diverged.count, diverged.rate) == (1, 0.25) and diverged.low < 0.25 < diverged.high
    memory = ends["heads=1"][1]["out-of-memory"]
    assert memory is not None and memory.count == 1
    told = ends["heads=1"][1]["diverged"]
    assert told is not None and told.low == 0 and ends["heads=1"][0].done == 3
    assert "out-of-memory </td><script>" in page.text


def test_the_test_split_stands_beside_validation(everything: report.Material) -> None:
    found = contents.sealed(everything)
    assert len(found) == len(everything.distinct)
    for _, c in found:  # each trial's test loss is 0.03 above validation
        assert c.test is not None and c.test.difference == pytest.approx(c.difference) and c.test.verdict == c.verdict
    values = contents.of_reference(everything, "test")
    assert sum(values) / len(values) == pytest.approx(everything.analysis.value + 0.03)  # type: ignore[operator]


def test_every_number_can_be_followed_to_the_ledger(everything: report.Material, written: Path) -> None:
    trials = {row["key"]: row for row in rows(written / "trials.csv")}
    assert trials.keys() == Ledger(written.parent).records().keys()
    for row in rows(written / "contrasts.csv"):
        mine = [trials[key] for key in row["trials"].split()]
        plain = row["arm"].split("@")[0]
        pairs: dict[str, dict[str, float]] = {}
        for t in mine:
            assert plain in (t["arm"].split("@")[0], "reference") or t["arm"] == "reference"
            if t["outcome"] == "done":
                pairs.setdefault(t["seed"], {})["reference" if t["arm"] == "reference" else "arm"] = float(t["bits_per_byte"])
        d = [p["arm"] - p["reference"] for p in pairs.values() if len(p) == 2]
        assert len(d) == int(row["seeds"])
        assert statistics.fmean(d) == pytest.approx(float(row["difference"]))


def test_diagnostics_by_depth_are_paired_and_simultaneous(everything: report.Material, written: Path) -> None:
    rms, cosine, entropy = layers.profiles(everything.shown(), 0.95)
    assert [p.name for p in (rms, cosine, entropy)] == list(fabricated.MEASURED)
    assert [p.place for p in entropy.arms["reference"]] == [0, 2]  # of mixers alone
    assert len(rms.arms["reference"]) == 5 and len(rms.arms["channel=none"]) == 3
    assert rms.arms["channel=none"][0].difference is None and rms.whole["channel=none"].difference is not None  # of another depth
    tied = rms.arms["qkv=tied"][-1]
    cells = everything.shown()
    d = [cells["qkv=tied"][s]["diagnostics"]["hidden-rms"][-1] - cells["reference"][s]["diagnostics"]["hidden-rms"][-1] for s in range(4)]
    assert tied.difference == pytest.approx(statistics.fmean(d)) and tied.differs
    half = inference.quantile(4, 0.95, rms.family) * statistics.stdev(d) / math.sqrt(4)
    assert (tied.below, tied.above) == pytest.approx((tied.difference - half, tied.difference + half))
    assert "qkv=tied" in {arm for arm, *_ in rms.differing}
    table = rows(written / "diagnostics.csv")
    assert {row["layer"] for row in table} == {"0", "1", "2", "3", "4", "mean"} and {row["arm"] for row in table} == set(everything.trained)


def test_a_knock_out_finds_the_arm_that_was_trained_without_the_same_part(everything: report.Material, page: Page) -> None:
    found = {(k.part, k.way): k for k in layers.knocked(everything.cells(), 0.95)}
    assert len(found) == 6 * 3
    assert found["channels", "zero"].retrained == "channel=none" and found["mixers", "zero"].retrained == ""
    assert found["mixers", "identity"].increase == pytest.approx(3.2, abs=0.1)
    assert found["attention_0", "zero"].seeds == 4


def test_interactions_of_a_factorial_design_are_drawn(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "factorial", "seeds: 3, margin: 0.05, design: factorial, factors: [channel, norm]")
    made.train(broken=False)
    report.write(made.folder, ["html", "md", "latex"])
    text = Page((made.folder / "report" / "report.html").read_text()).text
    assert "Which changes act together" in text and re.search(
        r"Acting together\s*(channel|norm)=none x (channel|norm)=none \(worse than apart\)", text
    )
    assert (made.folder / "report" / "interactions.png").exists()
    tex = (made.folder / "report" / "report.tex").read_text()
    assert r"\multicolumn{5}{@{}l}{\emph{main effects}}" in tex and tex.count("\\begin") == tex.count("\\end")


def test_a_change_that_interacts_is_told_at_each_value_of_the_other(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "factorial", "seeds: 3, margin: 0.05, design: factorial, factors: [channel, norm]")
    made.train(broken=False)
    found = analysis.analyse(made.ledger.records().values(), made.study)
    simple = {c.arm: c for c in found.contrasts if c.kind == "simple"}
    # no norm and no channel operation together are 0.12 worse than the sum; rmsnorm acts alone
    assert set(simple) == {f"channel=none at norm={n}" for n in ("layernorm", "none")} | {
        f"norm=none at channel={c}" for c in ("mlp", "none")
    }
    assert simple["channel=none at norm=layernorm"].difference == pytest.approx(0.35, abs=0.02)
    assert simple["channel=none at norm=none"].difference == pytest.approx(0.47, abs=0.02)
    assert found.family == 3 + 2 and "again for all 7 simple effects" in found.method
    many = fabricated.Run(tmp_path / "many", "seeds: 9, margin: 0.05, design: factorial, factors: [channel, norm]")
    many.train(broken=False)
    report.write(many.folder, ["html"])
    text = (many.folder / "report" / "report.html").read_text()
    assert "and have none" in text and "so few seeds could not" not in text
    assert "channel mlp (at norm=none)" in answer(found)


def test_a_fraction_names_its_aliases_and_resolution(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "fraction", "seeds: 2, design: fractional, factors: [channel, norm, qkv, positions], runs: 8")
    made.train(broken=False)
    report.write(made.folder, ["html", "md"])
    text = Page((made.folder / "report" / "report.html").read_text()).text
    assert "A fraction of resolution IV" in text
    assert "What this fraction cannot tell apart" in (made.folder / "report" / "report.md").read_text()


def test_a_partial_run_of_everything_is_still_a_report(tmp_path: Path) -> None:
    for seeds in (0, 1):
        made = fabricated.Run(tmp_path / f"seeds{seeds}", fabricated.EVERYTHING)
        made.train(seeds)
        assert all(p.stat().st_size for p in report.write(made.folder))
