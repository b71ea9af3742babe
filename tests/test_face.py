"""What a reader sees first: what changes the reading, then question, answer and figure; nothing overlaps, whatever things are called."""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aotsearch.evidence import analysis
from aotsearch.evidence.ledger import Ledger
from aotsearch.report import booktabs, figures, page, report
from aotsearch.report.figures import canvas, ticks
from aotsearch.report.figures.names import cuts
from aotsearch.study.loading import load
from aotsearch.tracking import wording

sys.path.insert(0, str(Path(__file__).parent))
import fabricated
from test_report import Page, finish, run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
LONG = [f"a_long_name_that_{middle}_says_the_same_at_both_of_its_ends_{end}" for middle in ("never", "always") for end in (1, 2)]
CHANGES = ("{channel: none, norm: rmsnorm}", "{channel: none, norm: none}", "{qkv: tied, norm: none}", "{qkv: tied, norm: rmsnorm}")
MANY = ", ".join(f"{name}: {changes}" for name, changes in zip(LONG, CHANGES, strict=True))


@pytest.fixture(scope="module")
def partial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a warning of each kind that its reports can have: damaged, partial, no better than a bigram, underpowered."""
    made = fabricated.Run(tmp_path_factory.mktemp("runs") / "partial", f"seeds: 4, margin: 0.0002, arms: {{{MANY}}}")
    made.train(2, broken=False)
    made.ledger.append("data", manifest="cf06", documents=3, bytes={"train": 4000}, baselines={"bigram": 2.9}, unit="bits/byte")
    with (made.folder / "ledger.jsonl").open("ab") as file:
        file.write(b'{"crc":"00000000","event":"finished"\n')
    report.write(made.folder)
    return made.folder


# ---- what is said first


def test_what_changes_the_reading_comes_first_in_every_form(partial: Path) -> None:
    m, made = report.read(partial), partial / "report"
    document = m.headline.to_dict()
    said = [
        "1 line of the ledger is damaged",
        "not clearly better",
        "partial: 22 of 44 trials",
        "underpowered: the minimum detectable effect is",
    ]
    for words in said:
        assert any(words in line for line in document["warnings"]), words
    assert document["warnings"][0].startswith("declaration: ") and not any(w in note for w in said for note in m.analysis.notes)
    forms = {
        "terminal": (m.summary().replace("\n  ", " "), "everything: Which"),
        "html": (Page((made / "report.html").read_text()).text, "Which <parts> of a small"),
        "md": ((made / "report.md").read_text().replace("\\", ""), "Which <parts>"),
        "tex": ((made / "report.tex").read_text().split("\\caption{", 1)[1], "Difference in bits/byte"),
        "mlflow": (wording.note(m.study, document), "**Question.**"),
    }
    for form, (text, question) in forms.items():
        for words in said:
            assert 0 <= text.index(words) < text.index(question, text.index(words)), (form, words)
        assert text.count(document["declaration"][0][:40]) == 1, form


def test_notes_that_change_no_verdict_stand_below_the_table(partial: Path) -> None:
    m = report.read(partial)
    (note,) = [n for n in m.analysis.notes if "standard deviations of the difference" in n]
    text = Page((partial / "report" / "report.html").read_text()).text.replace("Only", "only")
    order = [
        "Which <parts>",
        "difference, bits/byte",
        "A verdict is of the change",
        "What each part is worth",
        "Before you rely on this",
        note,
    ]
    assert [text.index(words) for words in order] == sorted(text.index(words) for words in order)
    markdown = (partial / "report" / "report.md").read_text()
    assert markdown.index("| change |") < markdown.index("## Before you rely on this") < markdown.index("standard deviations of the diff")


def test_one_seed_is_a_warning_and_a_sound_study_has_none(tmp_path: Path) -> None:
    assert any("an interval needs at least two" in w for w in report.read(run(tmp_path / "one", 1)).analysis.warnings)
    made = fabricated.Run(tmp_path / "sound", "seeds: 5, margin: 0.1")
    made.train(broken=False)
    assert report.read(made.folder).analysis.warnings == ()


# ---- the figures


def boxes(figure: Any) -> list[Any]:
    """Where the labels of the horizontal axis stand in the file that is written."""
    with canvas.style():
        canvas._settle(figure)
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()
        return sorted((t.get_window_extent(renderer) for t in figure.axes[0].get_xticklabels() if t.get_text()), key=lambda b: b.x0)


@pytest.mark.parametrize("margin", [1e-5, 2e-4, 0.05, 3.0, 1e4])
def test_labels_of_ticks_never_touch_on_any_range(margin: float) -> None:
    for values in ([0.1], [-3.0], [0.02, -0.02], [1e4, -1e4], [-1e4, 3.0], [24 * margin], [26 * margin, -26 * margin]):
        for width in (2.0, 6.0):
            with canvas.style():
                figure = canvas.blank("axis", width, 1.2)
                ticks.effect_axis(figure.add_subplot(), values, margin)
            found = boxes(figure)
            assert all(a.x1 < b.x0 for a, b in itertools.pairwise(found)), (values, width)
            assert len(found) >= 2, (values, width)


def test_a_tick_says_its_value() -> None:
    with canvas.style():
        figure = canvas.blank("axis", 6, 1.2)
        bent = ticks.effect_axis(figure.add_subplot(), [100.0, -2.0], 0.05)
        canvas._settle(figure)
        figure.canvas.draw()
    labels = [t.get_text() for t in figure.axes[0].get_xticklabels()]
    assert bent and labels == [ticks.written(v) for v in figure.axes[0].get_xticks()] and {"0", "1", "100"} <= set(labels)


def test_names_that_are_cut_are_still_told_apart() -> None:
    ends = [f"{'x' * 60}{i}" for i in range(12)]
    middles = [f"{'x' * 40}{i}{'y' * 60}" for i in range(12)]
    both = ["short", *LONG, *ends, *middles, "z" * 200, "z" * 201]
    for most in (16, 24, 44):
        shown = cuts(both, most)
        assert len(set(shown.values())) == len(both) and all(len(s) <= most for s in shown.values())
    assert cuts(["short"], 16)["short"] == "short"
    assert "never" in cuts(LONG, 44)[LONG[0]] and "alway" in cuts(LONG, 44)[LONG[2]] and cuts(LONG, 44)[LONG[0]].endswith("_1")


def test_the_forest_has_a_name_of_its_own_for_every_row(partial: Path) -> None:
    figure = figures.forest(report.read(partial).analysis)
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert len(set(names)) == len(names) == 10


def test_trials_that_were_pruned_are_drawn_apart(tmp_path: Path) -> None:
    folder = run(tmp_path / "search", 2, "search")
    study, ledger = load(folder / "study.yaml"), Ledger.open(folder)
    arm = type(study.arms()[0])("candidate", study.space.at({"heads": 1}), {})
    for i, outcome in enumerate(["done", "pruned", "done", "pruned", "pruned"]):
        last = 200 if outcome == "done" else 80
        curve = [{"step": s, "train_loss": 3 - s / 300 + i / 50} for s in range(20, last + 1, 20)]
        finish(ledger, arm, 10_000, 3.1 + i / 50, phase="search", key=f"c{i}", outcome=outcome, curve=curve, steps=last)
    m = report.read(folder)
    panel = figures.curves(m).axes[1]
    dotted = [line for line in panel.lines if line.get_linestyle() not in ("-", "None")]
    crosses = [line for line in panel.lines if line.get_marker() == "x"]
    assert len(dotted) == 3 and [max(line.get_xdata()) for line in crosses] == [80] * 3 and "3 pruned early" in panel.get_title(loc="left")
    points = {line.get_label(): len(line.get_xdata()) for line in figures.front(m).axes[0].lines}
    assert points["search, finished"] == 2 and points["search, pruned early"] == 3
    # a pruned trial among those that verdicts rest on bears no mean
    records = [{**r, "outcome": "pruned"} if r["key"].endswith("/1/confirm") else r for r in m.records]
    fewer = dataclasses.replace(m, records=records, analysis=analysis.analyse(records, m.study))
    assert sum(line.get_marker() == "x" for line in figures.curves(fewer).axes[0].lines) == 1


def test_every_axis_has_a_name_with_its_unit(tmp_path: Path) -> None:
    made = fabricated.Run(tmp_path / "all", "seeds: 2, margin: 0.05, design: factorial, factors: [channel, norm], knock_out: true")
    made.train(broken=False)
    r = report.Report(report.read(made.folder))
    for name, figure in r.pictures.items():
        said = " ".join([t.get_text() for t in figure.findobj(lambda a: hasattr(a, "get_text"))])
        assert re.search(r"bits/byte|nats/byte|sublayer", said), name
    assert "training step" in figures.to_svg(r.pictures["curves"]) and "FLOPs per token, forward" in figures.to_svg(
        r.pictures["loss-against-flops"]
    )


def test_vector_figures_are_the_same_bytes_again(partial: Path) -> None:
    m = report.read(partial)
    one, two = (figures.to_pdf(figures.forest(m.analysis)) for _ in range(2))
    assert one == two == figures.to_pdf(figures.forest(m.analysis)) and b"CreationDate" not in one and one.startswith(b"%PDF")


def test_every_colour_of_a_figure_has_one_for_dark_pages(partial: Path) -> None:
    text = (partial / "report" / "report.html").read_text()
    used = set(re.findall(r"var\(--f-([0-9a-f]{6}), #\1\)", text))
    assert used and used <= page.DARK.keys()
    assert not re.search(r'style="[^"]*(fill|stroke): #', text)
    for name in page.DARK:
        assert f"--f-{name}: {page.DARK[name]};" in text


def test_what_scrolls_can_be_reached_and_is_named(partial: Path) -> None:
    text = (partial / "report" / "report.html").read_text()
    scrolling = re.findall(r'<div class="scroll"([^>]*)>', text)
    assert len(scrolling) > 5
    for attributes in scrolling:
        assert 'tabindex="0"' in attributes and 'role="region"' in attributes
        label = re.search(r'aria-label="[^"]+"|aria-labelledby="([\w-]+)"', attributes)
        assert label and (label[1] is None or f'id="{label[1]}"' in text)


# ---- papers


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no LaTeX here")
def test_latex_fits_an_article(partial: Path, tmp_path: Path) -> None:
    made = partial / "report"
    head = f"\\documentclass{{article}}\\usepackage{{booktabs,graphicx}}\\graphicspath{{{{{made}/}}}}\\begin{{document}}"
    (tmp_path / "page.tex").write_text(f"{head}\\input{{{made / 'report.tex'}}}\\end{{document}}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page.tex"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout[-2000:]
    assert "Overfull \\hbox" not in said.stdout and "too large for page" not in said.stdout


def test_a_table_is_no_wider_than_the_text_and_no_longer_than_a_page() -> None:
    rows = [booktabs.Row((f"{'name' * 20}{i}", "$-0.12345$", "$[-0.12345, +0.12345]$", "5", "worse, maybe less")) for i in range(60)]
    columns = booktabs.Columns("prrrp", ("Change", "Difference", "Interval", "Seeds", "Verdict"), shares=(0.6, 0.4))
    size, widths = booktabs._widths(columns, rows)
    numbers = (len("Difference") + len("[-0.12345, +0.12345]") + len("Seeds")) * booktabs.DIGIT[size]
    assert sum(widths.values()) + numbers + 4 * booktabs.GAP <= booktabs.POINTS + 1e-9
    lines = booktabs.table(columns, rows, "Words.", "x")
    assert lines.count("\\begin{table}") > 4 and lines.count("\\bottomrule") == lines.count("\\begin{table}")
    assert sum(line.endswith("5 & \\raggedright worse, maybe less \\tabularnewline") for line in lines) == 60
    cells = [line.split(" & ")[0].removeprefix("\\raggedright ") for line in lines if "namename" in line]
    assert all(len(piece) <= 12 for cell in cells for piece in cell.split("\\hspace{0pt}"))


# ---- in a browser


MEASURE = """<script>
const at = e => { const r = e.getBoundingClientRect(); return {left: r.left, top: r.top, right: r.right, bottom: r.bottom} };
const one = s => at(document.querySelector(s));
const all = s => [...document.querySelectorAll(s)].map(at);
const found = {
  width: innerWidth, page: document.documentElement.scrollWidth,
  heads: all('.answer li > :first-child'), says: all('.answer li > :last-child'),
  warning: one('.warning'), h1: one('h1'), answer: one('.answer'), figure: one('figure'), tiles: one('.tiles'),
  verdicts: all('.effects .verdict'),
  paper: getComputedStyle(document.body).backgroundColor, ink: getComputedStyle(document.querySelector('svg text')).fill,
};
parent.document.body.dataset.found = JSON.stringify(found);
</script>"""


def seen(folder: Path, tmp_path: Path, width: int, height: int, *options: str) -> dict[str, Any]:
    """Where things stand on the page as a browser lays it out in a frame of this size: a window of its own has a least width."""
    text = (folder / "report" / "report.html").read_text().replace("</body>", MEASURE + "</body>")
    frame = f'<iframe style="border: 0" width="{width}" height="{height}" srcdoc="{html.escape(text)}"></iframe>'
    (tmp_path / "page.html").write_text(f"<!doctype html><body>{frame}</body>")
    assert CHROMIUM is not None
    quiet = ["--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-sync", "--disable-dev-shm-usage", *quiet, *options]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1400,1000", "--dump-dom", f"file://{tmp_path / 'page.html'}"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'data-found="([^"]*)"', said.stdout)
    assert found, said.stderr[-2000:]
    return dict(json.loads(html.unescape(found[1])))


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to lay the page out")
def test_the_first_screen_holds_question_answer_and_figure(partial: Path, tmp_path: Path) -> None:
    found = seen(partial, tmp_path, 1280, 800)
    tops = [found[name]["top"] for name in ("warning", "h1", "answer", "figure", "tiles")]
    assert tops == sorted(tops) and found["figure"]["top"] < 600 and found["page"] <= found["width"]
    for head, says in zip(found["heads"], found["says"], strict=True):
        assert head["right"] <= says["left"], "a head must not lie under what it says"
    assert found["paper"] == "rgb(255, 255, 255)"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to lay the page out")
def test_a_phone_shows_every_verdict_and_dark_pages_have_light_figures(partial: Path, tmp_path: Path) -> None:
    found = seen(partial, tmp_path, 400, 900, "--blink-settings=preferredColorScheme=0")
    assert found["page"] <= found["width"] and found["width"] == 400
    assert found["verdicts"] and all(0 <= box["left"] < box["right"] <= 400 for box in found["verdicts"])
    paper, ink = (sum(map(int, re.findall(r"\d+", found[name])[:3])) for name in ("paper", "ink"))
    assert paper < 150 and ink > 500
