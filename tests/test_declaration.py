"""A run folder keeps what was declared, and finds what was trained by what it is. Trials are made up: only their meeting is tested."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import damage
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import aotsearch
from aotsearch.errors import InputError
from aotsearch.evidence.declaration import history
from aotsearch.evidence.ledger import END, Ledger
from aotsearch.report import report
from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.study.loading import load
from aotsearch.tracking.view import rebuild
from aotsearch.training import trial

STUDY = """
name: kept
task: {language: {data: {text: DATA}, context: 16}}
grammar:
  model: {width: 16, depth: 1, positions: learned, norm: norm, block: [{attention: {heads: heads}}, channel]}
  channel: {any: [{mlp: {expand: 2}}, none]}
  heads: {any: [2, 1]}
  norm: {any: [layernorm, rmsnorm]}
study: {seeds: 4, budget: {steps: 6, batch: 4, evaluations: 1}, margin: 0.05, diagnostics: none, arms: {small: {channel: none, heads: 1}}}
"""
LOCAL = runner.Options(local=True, track=False, command="test")


def made_up(plan: Mapping[str, Any], hardware: Any, report: Any, checkpoints: Any = None) -> dict[str, Any]:
    """A record whose loss is a function of the model and the seed, with the noise of real ones."""
    seed, digest = plan["seed"], plan["digest"]
    worth = int(hashlib.sha256(digest.encode()).hexdigest()[:4], 16) / 2**16
    loss = 3 + seed / 10 + worth / 5 + random.Random(f"{digest}{seed}{plan['training']['learning_rate']}").gauss(0, 0.02)
    curve = [{"step": plan["training"]["steps"], "train_loss": loss, "bits_per_byte": loss, "loss": loss * 0.7}]
    test = {"test": {"bits_per_byte": loss, "loss": loss}} if plan["sealed"] else {}
    facts = {"message": "", "traceback": "", "seconds": 1.0, "device": "cpu", "precision": "float32", "threads": 1, "process": 1}
    return trial.record(plan, "done", curve) | test | facts


class Folder:
    """A study file, its data and its run folder, edited and run again."""

    def __init__(self, root: Path, text: str = STUDY):
        self.root, self.text, self.out = root, text, root / "run"
        words = "the of and to in is that it was for on are as with his they at be this from".split()
        root.mkdir(parents=True, exist_ok=True)
        (root / "corpus.txt").write_text(" ".join(random.Random(0).choice(words) for _ in range(4000)))

    def edit(self, *pairs: tuple[str, str]) -> Folder:
        for old, new in pairs:
            assert old in self.text, old
            self.text = self.text.replace(old, new)
        return self

    def run(self, *overrides: str, data: str = "corpus.txt", **options: Any) -> runner.RunOutcome:
        (self.root / "study.yaml").write_text(self.text.replace("DATA", data))
        study = load(self.root / "study.yaml", overrides)
        chosen = runner.Options(local=True, track=False, command="test", **options)
        return runner.run(study, self.out, chosen, Progress("bits_per_byte", "bits/byte", io.StringIO()))

    def document(self) -> dict[str, Any]:
        return report.read(self.out).analysis.to_dict()

    def verdicts(self) -> dict[str, Any]:
        """What is said of each change, without what it is called."""
        names = ("difference", "low", "high", "seeds", "verdict", "p", "missing")
        return {f"{c['to']}/{c['equalise']}": [c[name] for name in names] for c in self.document()["contrasts"]}


write = report.write


def _instead(patch: pytest.MonkeyPatch) -> None:
    """Nothing is trained, and pages are drawn only where they are read."""
    patch.setattr(trial, "run", made_up)
    patch.setattr(report, "write", lambda *_, **__: [])


@pytest.fixture(autouse=True)
def _made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    _instead(monkeypatch)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "project")


# ---- a record is found by what it is


RENAMED = {
    "an arm": [("small:", "little:")],
    "a rule": [("channel", "ffn")],
    "a rule and an arm": [("heads: heads", "heads: number"), ("  heads:", "  number:"), ("heads: 1}", "number: 1}"), ("small:", "tiny:")],
    "the study": [("name: kept", "name: other")],
}


@pytest.mark.parametrize("what", RENAMED)
def test_what_is_renamed_keeps_its_trials_and_its_verdict(folder: Folder, what: str) -> None:
    folder.run()
    before = folder.verdicts()
    assert folder.edit(*RENAMED[what]).run().trained == 0
    assert folder.verdicts() == before and not folder.document()["partial"] and folder.document()["declaration"] == []
    assert runner.status(folder.out)["left"] == 0 and runner.status(folder.out)["total"] == 20
    assert set(aotsearch.results(folder.out).arm) == {a.name for a in load(folder.root / "study.yaml").arms()}


def test_a_model_is_never_shown_under_the_name_of_another(folder: Folder) -> None:
    """A rule is changed, the study run, the rule changed back: the name means the first model again, with its numbers and its size."""
    big, small = "channel: {any: [{mlp: {expand: 2}}, none, big]}\n  big: {mlp: {expand: 8}}", "big: {mlp: {expand: 1}}"
    folder.edit(("channel: {any: [{mlp: {expand: 2}}, none]}", big)).run()

    def shown() -> tuple[Any, set[int]]:
        table = aotsearch.results(folder.out)
        (contrast,) = [c for c in folder.document()["contrasts"] if c["arm"] == "channel=big"]
        return contrast["difference"], set(table[table.arm == "channel=big"].parameters)

    first = shown()
    assert folder.edit(("big: {mlp: {expand: 8}}", small)).run().trained == 4
    second = shown()
    assert second[0] != first[0] and min(first[1]) > max(second[1])
    assert folder.edit((small, "big: {mlp: {expand: 8}}")).run().trained == 0
    assert shown() == first


def test_arms_that_are_the_same_model_at_equal_size_share_what_was_trained_before_they_were_asked_for(folder: Folder) -> None:
    folder.run()
    before = folder.verdicts()
    trained = folder.edit(("margin: 0.05", "margin: 0.05, equalise: [none, parameters], tolerance: 0.1")).run().trained
    after = folder.verdicts()
    assert trained == 8  # channel=none and small are made wider; heads=1 and norm=rmsnorm are of equal size as they are
    assert after["1/parameters"][:1] == before["1/none"][:1] and after["1/parameters"][3] == 4
    assert not folder.document()["partial"] and all(c["missing"] == 0 for c in folder.document()["contrasts"])


def test_the_cells_of_another_design_are_the_arms_of_this_one(folder: Folder) -> None:
    factorial = folder.edit(("arms: {small: {channel: none, heads: 1}}", "design: factorial, factors: [channel, heads]"))
    factorial.run()
    back = ("design: factorial, factors: [channel, heads]", "factors: [channel, heads], arms: {small: {channel: none, heads: 1}}")
    assert folder.edit(back).run().trained == 0
    assert {c["arm"]: c["seeds"] for c in folder.document()["contrasts"]} == {"channel=none": 4, "heads=1": 4, "small": 4}


def test_a_search_confirms_with_what_a_design_has_trained(folder: Folder) -> None:
    folder.run()
    search = "design: search, search: {trials: 8, confirm: 8}"
    outcome = folder.edit(("arms: {small: {channel: none, heads: 1}}", search)).run()
    assert outcome.trained == 8 + 3 * 4  # each of 8 architectures tried; of 7 candidates 3 are new
    assert all(c["seeds"] == 4 for c in folder.document()["contrasts"]) and len(folder.document()["contrasts"]) == 7
    assert folder.edit((search, "arms: {small: {channel: none, heads: 1}}")).run().trained == 0
    assert len(folder.document()["contrasts"]) == 4


def test_data_is_what_it_holds_wherever_it_lies(folder: Folder, tmp_path: Path) -> None:
    folder.run()
    before = folder.verdicts()
    assert folder.run(data="../project/corpus.txt").trained == 0
    (tmp_path / "link").symlink_to(folder.root)
    folder.root = tmp_path / "link"
    assert folder.run(data=str(tmp_path / "link" / "corpus.txt")).trained == 0
    (tmp_path / "project").rename(tmp_path / "moved")
    folder.root, folder.out = tmp_path / "moved", tmp_path / "moved" / "run"
    assert runner.status(folder.out)["left"] == 0
    assert folder.run().trained == 0
    assert folder.verdicts() == before and folder.document()["declaration"] == []
    (folder.root / "corpus.txt").write_text("other words entirely " * 800)
    with pytest.raises(InputError, match="other data"):
        folder.run()


def test_an_arm_that_is_no_longer_asked_for_leaves_nothing_to_do(folder: Folder) -> None:
    folder.run()
    folder.edit((", norm: norm", ", norm: layernorm"), ("  norm: {any: [layernorm, rmsnorm]}\n", "")).run()
    assert runner.status(folder.out)["left"] == 0 and not folder.document()["partial"]
    assert "norm=rmsnorm" not in set(aotsearch.results(folder.out).arm)


def test_the_clock_decides_nothing(folder: Folder) -> None:
    """What finishes last counts, also where the machine's clock went back a day before it."""
    folder.run()
    ledger = Ledger(folder.out)
    record = next(r for r in ledger.records().values() if r["arm"] == "small")
    again = {k: v for k, v in record.items() if k != "event"} | {
        "finished": "1999-01-01T00:00:00+00:00",
        "measures": {"bits_per_byte": 9.0},
    }
    ledger.append("finished", **again)
    table = aotsearch.results(folder.out)
    assert table[(table.arm == "small") & (table.seed == record["seed"])].bits_per_byte.item() == 9.0
    assert next(c for c in folder.document()["contrasts"] if c["arm"] == "small")["difference"] > 1


def test_a_ledger_of_before_declarations_is_continued_and_read(folder: Folder, tmp_path: Path) -> None:
    """Older versions kept no declaration, and named trials by the path of their data."""
    folder.run()
    before = folder.document()
    _make_old(folder)
    (said,) = folder.document()["declaration"]
    assert folder.document()["warnings"] == [f"declaration: {said}", *before["warnings"]]
    assert folder.document() | {"declaration": [], "warnings": before["warnings"]} == before and said.startswith(
        "the ledger holds no declaration: the study is what"
    )
    assert folder.run().trained == 0 and folder.document() == before
    _make_old(folder)
    folder.run("study.margin=0.3")
    assert folder.document()["declaration"][0].startswith("margin changed from 0.05 to 0.3 after 20 trials")


def _make_old(folder: Folder) -> None:
    """The folder as a version before declarations left it."""
    events = [e for e in Ledger(folder.out).events() if e["event"] != "declared"]
    old = [e | ({"key": "0" + e["key"][1:]} if "key" in e else {}) for e in events]
    Ledger(folder.out).path.write_bytes(damage.format_1(old))
    (folder.out / END).unlink()
    copy = folder.out / "study.yaml"
    copy.write_text("".join(line for line in copy.read_text().splitlines(keepends=True) if not line.startswith("#")))


def test_a_trial_that_an_older_version_failed_and_this_one_trained_again_stands_once(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(trial, "run", _failing("small", 2))
        folder.run()
    _make_old(folder)
    assert folder.run(retry_failed=True).trained == 1
    found = runner.status(folder.out)
    assert (found["done"], found["failed"], found["left"]) == (20, 0, 0) and len(aotsearch.results(folder.out)) == 20


def _failing(arm: str, seed: int) -> Any:
    def run(plan: Mapping[str, Any], *rest: Any) -> dict[str, Any]:
        lost = {"outcome": "failed", "measures": {}} if (plan["arm"], plan["seed"]) == (arm, seed) else {}
        return made_up(plan, *rest) | lost

    return run


def _killed(after: int) -> Any:
    """Trials that end with Ctrl-C after so many."""
    left = [after]

    def run(*arguments: Any) -> dict[str, Any]:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return made_up(*arguments)

    return run


NEW_ARM = (", arms: {small", ", arms: {plain: {channel: none, norm: rmsnorm}, small")
TUNED = ("margin: 0.05", "margin: 0.05, learning_rate: {tune: [1e-3, 3e-3, 1e-2]}")


@pytest.mark.parametrize(
    ("first", "edit", "override", "left"),
    [
        ([], [], "study.seeds=[4, 5, 6]", 15),  # other seeds
        ([], [NEW_ARM], "study.seeds=3", 3),  # fewer seeds, and an arm more
        ([TUNED], [NEW_ARM], "study.margin=0.1", 3 + 4),  # as far as it is known: its own rate and what tuning adds come later
    ],
)
def test_what_is_left_is_what_is_asked_for_and_not_there(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, first: list[Any], edit: list[Any], override: str, left: int
) -> None:
    folder.edit(*first).run()
    assert runner.status(folder.out)["left"] == 0
    with monkeypatch.context() as patch:
        patch.setattr(trial, "run", _killed(1))
        with pytest.raises(KeyboardInterrupt):
            folder.edit(*edit).run(override)
    assert runner.status(folder.out)["left"] >= left - 1 and folder.document()["partial"]
    folder.run(override)
    assert runner.status(folder.out)["left"] == 0 and not folder.document()["partial"]


SEARCH = "design: search, search: {trials: 8, confirm: 2}"


@pytest.mark.parametrize("more", ["learning_rate: {tune: [1e-3, 3e-3]}", "seeds: {min: 3, max: 9}"])
def test_a_search_that_tunes_or_adds_seeds_comes_to_an_end(folder: Folder, monkeypatch: pytest.MonkeyPatch, more: str) -> None:
    folder.edit(("arms: {small: {channel: none, heads: 1}}", SEARCH))
    folder.edit(("seeds: 4", more)) if "seeds" in more else folder.edit(("margin: 0.05", f"margin: 0.05, {more}"))
    with monkeypatch.context() as patch:
        patch.setattr(trial, "run", _killed(11))
        with pytest.raises(KeyboardInterrupt):
            folder.run()
    assert 0 < runner.status(folder.out)["left"] <= folder.run().trained
    found = runner.status(folder.out)
    assert found["left"] == 0 and found["total"] == found["done"]


def test_an_arm_of_a_search_that_is_renamed_or_dropped_has_one_name(folder: Folder) -> None:
    """Also in the ranking of the search, whose trials were made under the former name."""
    asked = "arms: {small: {channel: none, heads: 1}}"

    def names() -> dict[str, set[str]]:
        table = aotsearch.results(folder.out)
        return {digest: set(rows.arm) for digest, rows in table.groupby("digest")}

    folder.edit((asked, f"{SEARCH}, {asked}")).run()
    folder.edit(("small:", "little:")).run()
    (digest,) = [d for d, given in names().items() if "little" in given]
    assert all(len(given) == 1 for given in names().values())
    folder.edit((", arms: {little: {channel: none, heads: 1}}", "")).run()
    assert names().get(digest, {f"candidate-{digest[:8]}"}) == {f"candidate-{digest[:8]}"}
    assert all(len(given) == 1 for given in names().values())


def test_the_view_in_mlflow_follows_a_renamed_arm(folder: Folder) -> None:
    import mlflow

    folder.run()
    rebuild(folder.out)
    folder.edit(("small:", "little:")).run()
    rebuild(folder.out)
    client = mlflow.tracking.MlflowClient(f"sqlite:///{folder.out / 'mlflow.db'}")
    (experiment,) = [e.experiment_id for e in client.search_experiments() if e.name == "kept"]
    arms = [r.data.tags["aot.arm"] for r in client.search_runs([experiment], "tags.`aot.key` != ''")]
    assert arms.count("little") == 4 and "small" not in arms and len(arms) == 20


ALIKE: list[list[tuple[str, str]]] = [
    *RENAMED.values(),
    [("name: kept", "name: kept\nquestion: why?")],
    [("diagnostics: none", "diagnostics: cheap")],
    [("[layernorm, rmsnorm]", "[{layernorm: {}}, rmsnorm]")],
    [("[{attention: {heads: heads}}, channel]", "[mixer, channel]"), ("  norm:", "  mixer: {attention: {heads: heads}}\n  norm:")],
    [("arms: {small", "factors: [norm, channel, heads], arms: {small")],
    [("{mlp: {expand: 2}}", "{mlp: {expand: 2.0}}")],
]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.sampled_from(ALIKE), min_size=1, max_size=3))
def test_an_edit_that_leaves_the_trials_alone_leaves_every_verdict_alone(
    tmp_path_factory: pytest.TempPathFactory, edits: list[list[tuple[str, str]]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _instead(patch)
        folder = Folder(tmp_path_factory.mktemp("alike") / "project")
        folder.run()
        before = folder.verdicts()
        for pairs in edits:
            former = folder.text
            for old, new in pairs:
                folder.text = folder.text.replace(old, new)
            try:
                assert folder.run().trained == 0
            except InputError:
                folder.text = former  # two edits that do not fit together
            assert folder.verdicts() == before and folder.document()["declaration"] == []


# ---- the declaration is kept


def forms(folder: Folder) -> dict[str, str]:
    """Every form in which a person reads the answer."""
    from aotsearch.tracking.wording import note

    found = report.read(folder.out)
    written = {path.name: path.read_text() for path in write(folder.out) if path.suffix in (".html", ".md", ".tex", ".csv")}
    return {**written, "terminal": found.summary(), "mlflow": note(found.study, found.headline.to_dict())}


def test_a_margin_that_moves_after_the_fact_is_the_first_thing_told_and_the_first_verdict_stands_beside(folder: Folder) -> None:
    folder.run()
    first = {c["arm"]: c["verdict"] for c in folder.document()["contrasts"]}
    assert folder.run("study.margin=0.5").trained == 0
    document = folder.document()
    assert [c["declared"] for c in document["contrasts"]] == list(first.values())
    assert {c["verdict"] for c in document["contrasts"]} == {"equivalent"} != set(first.values())
    (said,) = document["declaration"]
    assert re.fullmatch(r"margin changed from 0\.05 to 0\.5 after 20 trials, on \d{4}-\d\d-\d\d", said)
    found = forms(folder)
    assert found["terminal"].startswith(f"declaration: {said}")
    assert found["mlflow"].startswith(f"> **Declaration:** {said}")
    assert found["report.html"].index(said) < found["report.html"].index("<h1>")
    assert found["report.md"].index(said) < found["report.md"].index("equivalent")
    assert said in found["report.tex"].split("caption{")[1][:200]
    for name in ("terminal", "report.html", "report.md", "report.tex", "contrasts.csv"):
        assert f"as first declared: {first['small']}" in found[name], name
    assert "margin 0.5 bits/byte, declared before the run" not in found["report.html"]
    folder.run("study.margin=0.05")
    assert len(folder.document()["declaration"]) == 2  # to and fro: both are kept
    assert {c["arm"]: c["verdict"] for c in folder.document()["contrasts"]} == first


def test_what_is_declared_anew_before_any_trial_has_ended_is_no_change(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trial, "run", killed)
        with pytest.raises(KeyboardInterrupt):
            folder.run()
    folder.run("study.margin=0.2")
    assert folder.document()["declaration"] == [] and folder.document()["margin"] == 0.2


def test_seeds_added_after_a_look_are_a_further_look(folder: Folder) -> None:
    from aotsearch.evidence.boundary import boundary
    from aotsearch.evidence.statistics import quantile

    folder.run()
    fixed = folder.document()["contrasts"][0]
    assert folder.run("study.seeds=7").trained == 15
    c, document = folder.document()["contrasts"][0], folder.document()
    assert document["declaration"][0].startswith("seeds changed from 4 to 7 after 20 trials")
    reach = (c["high"] - c["low"]) / 2 / c["sd_paired"] * 7**0.5
    assert reach == pytest.approx(boundary(4, 7, 0.05 / 4)[-1], rel=1e-3) and reach > 1.02 * quantile(7, 0.95, 4)
    assert c["seeds"] == 7 and c["p"] is None and c["declared"] == fixed["verdict"]
    assert "4 to 7 seeds" in " ".join(forms(folder)["report.tex"].split())
    folder.run("study.seeds=4")  # taking them back leaves what was seen
    assert folder.document()["contrasts"][0]["low"] == c["low"]


def test_fewer_seeds_than_were_seen_change_no_interval(folder: Folder) -> None:
    folder.run("study.seeds=6")
    before = folder.verdicts()
    folder.run()
    assert folder.verdicts() == before and folder.document()["declaration"][0].startswith("seeds changed from 6 to 4")


def test_a_fixed_number_after_looks_keeps_their_correction(folder: Folder) -> None:
    folder.run("study.seeds={min: 3, max: 8}")
    seeds = {c["arm"]: c["seeds"] for c in folder.document()["contrasts"]}
    assert min(seeds.values()) < 8  # some were settled before
    before = {c["arm"]: (c["low"], c["high"]) for c in folder.document()["contrasts"]}
    folder.run("study.seeds=3")
    after = {c["arm"]: (c["low"], c["high"]) for c in folder.document()["contrasts"]}
    assert after == before
    assert folder.document()["declaration"][0].startswith("seeds changed from {min: 3, max: 8} to 3")


@pytest.mark.parametrize(
    ("before", "after", "looks", "seeds"),
    [
        ("[0, 1, 2]", "[3, 4, 5]", "3 to 6", 6),  # what was trained stays, so three for three are six
        ("[3, 5, 7]", "[3, 5, 7, 9]", "3 to 4", 4),
        ("[10, 11, 12]", "4", "3 to 7", 7),
        ("[10, 11, 12]", "{min: 3, max: 5}", "3 to 8", 8),
    ],
)
def test_other_seeds_after_a_look_are_a_further_look_that_counts_them_all(
    folder: Folder, before: str, after: str, looks: str, seeds: int
) -> None:
    folder.run(f"study.seeds={before}")
    folder.run(f"study.seeds={after}")
    assert folder.document()["interval"] == f"repeated looks from {looks} seeds"
    assert max(c["seeds"] for c in folder.document()["contrasts"]) == seeds


def test_the_same_seeds_written_otherwise_are_no_change(folder: Folder) -> None:
    folder.run()
    before = folder.verdicts()
    assert folder.run("study.seeds=[3, 2, 1, 0]").trained == 0
    assert folder.verdicts() == before and folder.document()["declaration"] == []


def test_a_first_declaration_that_was_damaged_is_told(folder: Folder) -> None:
    folder.run()
    folder.run("study.margin=0.5")
    path = Ledger(folder.out).path
    lines = path.read_bytes().splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if b'"event":"declared"' in line]
    for torn in (places[:1], places):
        path.write_bytes(b"".join(line[:60] + b"\n" if i in torn else line for i, line in enumerate(lines)))
        assert folder.document()["declaration"][0].startswith(f"the first declaration is lost (damaged lines in the ledger: {len(torn)})")


def test_more_candidates_after_the_fact_were_not_declared_first(folder: Folder) -> None:
    folder.edit(("arms: {small: {channel: none, heads: 1}}", SEARCH)).run()
    first = {c["arm"]: c["verdict"] for c in folder.document()["contrasts"]}
    folder.run("study.search.confirm=4")
    declared = {c["arm"]: c["declared"] for c in folder.document()["contrasts"]}
    assert len(declared) == 4 and {**dict.fromkeys(declared, "not declared"), **first} == declared


def test_the_first_verdict_rests_on_the_seeds_that_were_declared(folder: Folder) -> None:
    folder.run()
    first = [c["verdict"] for c in folder.document()["contrasts"]]
    folder.run("study.seeds=12")
    assert [c["declared"] for c in folder.document()["contrasts"]] == first


def test_a_comparison_that_is_dropped_or_added_is_told(folder: Folder) -> None:
    folder.run()
    folder.edit((", arms: {small: {channel: none, heads: 1}}", ", compare: [[channel=none, heads=1]]")).run()
    added, removed = folder.document()["declaration"]
    assert added.startswith("comparison added: channel=none against heads=1 after 20 trials")
    assert removed.startswith("comparison removed: small after 20 trials")
    assert folder.document()["contrasts"][-1]["declared"] == "not declared"


EDITS = [
    ("margin: 0.05", "margin: 0.5"),
    ("seeds: 4", "seeds: 3"),
    ("seeds: 4", "seeds: 9"),
    ("steps: 6", "steps: 60"),
    ("context: 16", "context: 32"),
    ("- layernorm\n", ""),
    ("heads: 1", "heads: 2"),
    ("width: 16", "width: 32"),
    ("name: kept", "name: other"),
    ("study:", "study:\n  confidence: 0.8"),
    ("diagnostics: none", "diagnostics: cheap"),
]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(edits=st.lists(st.sampled_from(EDITS), min_size=1, max_size=4, unique=True))
def test_no_edit_of_the_copy_moves_a_verdict(tmp_path_factory: pytest.TempPathFactory, edits: list[tuple[str, str]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _instead(patch)
        folder = Folder(tmp_path_factory.mktemp("edited") / "project")
        folder.run()
    before, copy = folder.document(), folder.out / "study.yaml"
    text = copy.read_text()
    for old, new in edits:
        text = text.replace(old, new, 1)
    copy.write_text(text)
    after = folder.document()
    (said,) = after.pop("declaration")
    assert after.pop("warnings") == [f"declaration: {said}", *before.pop("warnings")]
    assert before.pop("declaration") == [] and after == before
    assert said.startswith("study.yaml was edited, which declares nothing") and report.read(folder.out).summary().startswith(
        "declaration: study.yaml"
    )
    assert runner.status(folder.out)["left"] == 0


@pytest.mark.parametrize("content", [None, "name: [", "a: &b 1"])
def test_a_copy_that_is_lost_or_broken_costs_nothing(folder: Folder, content: str | None) -> None:
    folder.run()
    before = folder.verdicts()
    if content is None:
        (folder.out / "study.yaml").unlink()
    else:
        (folder.out / "study.yaml").write_text(content)
    assert folder.verdicts() == before and "cannot be read" in folder.document()["declaration"][0]
    assert folder.run().trained == 0
    assert folder.document()["declaration"] == []  # the copy is made again


def test_a_refused_start_leaves_the_folder_as_it_was(folder: Folder) -> None:
    folder.run()
    before = {path.name: path.read_bytes() for path in folder.out.iterdir() if path.is_file() and path.name != ".lock"}
    for override in ("study.budget.steps=7", "grammar.model.depth=2", "study={equalise: parameters, resize: depth, tolerance: 0.0001}"):
        with pytest.raises(InputError):
            folder.run(override)
    assert {path.name: path.read_bytes() for path in folder.out.iterdir() if path.is_file() and path.name != ".lock"} == before


def test_the_ledger_holds_the_study_that_was_run(folder: Folder) -> None:
    folder.run()
    found = history(Ledger.open(folder.out))
    assert found.study.settings == load(folder.root / "study.yaml").settings and not found.changes
    assert json.dumps(found.last.arms)  # plain data


# ---- files that do not belong together


def test_a_ledger_of_another_folder_is_refused_in_one_line_and_nothing_is_written(folder: Folder, tmp_path: Path) -> None:
    folder.run()
    other = Folder(tmp_path / "other")
    for override in ("study.seeds=4", "study.learning_rate=0.01"):  # also where it is of the same study
        other.run(override)
        own = (folder.out / "ledger.jsonl").read_bytes()
        (folder.out / "ledger.jsonl").write_bytes((other.out / "ledger.jsonl").read_bytes())
        before = {path: path.read_bytes() for path in folder.out.rglob("*") if path.is_file()}
        for refused in (folder.run, folder.document, lambda: runner.status(folder.out), lambda: aotsearch.results(folder.out)):
            with pytest.raises(InputError, match=r"^\S+ledger.jsonl is not the ledger that \S+study.yaml is a copy from"):
                refused()
        assert {path: path.read_bytes() for path in folder.out.rglob("*") if path.is_file()} == before
        (folder.out / "study.yaml").unlink()  # as the message says
        assert folder.document()["contrasts"] == other.document()["contrasts"]
        (folder.out / "ledger.jsonl").write_bytes(own)
        shutil.rmtree(other.out)
        folder.run()


def test_a_copy_of_an_older_version_tells_by_its_name_that_the_ledger_is_of_another_study(folder: Folder) -> None:
    folder.run()
    copy = folder.out / "study.yaml"
    copy.write_text(copy.read_text().partition("\n")[2].replace("name: kept", "name: other"))
    with pytest.raises(InputError, match=r"study\.yaml is of the study 'other', the ledger beside it of 'kept'"):
        folder.document()


def test_an_old_ledger_that_another_was_appended_to_is_refused(folder: Folder, tmp_path: Path) -> None:
    other = Folder(tmp_path / "other")
    other.edit(("seeds: 4", "seeds: 4, learning_rate: 0.01"))
    for each in (folder, other):
        each.run()
        each.out.joinpath("ledger.jsonl").write_bytes(damage.format_1(Ledger(each.out).events()))
        each.out.joinpath("study.yaml").unlink()
    with (folder.out / "ledger.jsonl").open("ab") as file:
        file.write((other.out / "ledger.jsonl").read_bytes())
    with pytest.raises(InputError, match=r"ledger\.jsonl holds two studies"):
        folder.document()


def test_a_run_says_at_its_start_what_is_wrong_with_the_ledger_and_trains_what_is_lost(folder: Folder) -> None:
    folder.run()
    path = Ledger(folder.out).path
    lines = path.read_bytes().splitlines(keepends=True)
    at = next(i for i, line in enumerate(lines) if b'"finished"' in line)
    path.write_bytes(b"".join(lines[:at] + lines[at + 1 :]))
    stream = io.StringIO()
    outcome = runner.run(load(folder.root / "study.yaml"), folder.out, LOCAL, Progress("bits_per_byte", "bits/byte", stream))
    assert f"1 line of the ledger is missing after line {at}" in stream.getvalue() and outcome.trained == 1
    assert runner.status(folder.out)["damage"].startswith("1 line of the ledger is missing")
