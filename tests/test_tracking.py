"""The MLflow view shows what the ledger holds, once, and never ends a run."""

from __future__ import annotations

import contextlib
import json
import logging
import sqlite3
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aotsearch.errors import InputError
from aotsearch.evidence.declaration import fingerprint
from aotsearch.evidence.ledger import Ledger
from aotsearch.study.loading import load
from aotsearch.study.study import Study
from aotsearch.tasks import cache
from aotsearch.tracking import client, glance
from aotsearch.tracking import view as module
from aotsearch.tracking.view import ENVIRONMENT, Tracker, rebuild, ui_addresses, ui_command
from aotsearch.tracking.wording import keys, note

sys.path.insert(0, str(Path(__file__).parent))
from conftest import STUDY

pytest.importorskip("mlflow")

ARMS = {
    "reference": {},
    "positions=rope": {"positions": "rope"},
    "channel=mlp(expand=4)": {"channel": "none"},
    "attention minus I": {"identity": -1},
}
FACTORS = {"positions": "learned", "identity": 0, "channel": "mlp"}


def trial(arm: str, seed: int) -> dict[str, Any]:
    number = list(ARMS).index(arm) * 10 + seed
    plan = {"key": f"{number:016x}", "arm": arm, "seed": seed, "phase": "design", "equalise": "none", "digest": f"{number:012x}"}
    return plan | {"decisions": FACTORS | ARMS[arm], "changes": {}, "parameters": 1234, "training": {"steps": 6, "learning_rate": 0.01}}


def record(arm: str, seed: int, outcome: str = "done", **fields: Any) -> dict[str, Any]:
    value = 3.0 + 0.1 * seed + list(ARMS).index(arm)
    curve = [{"step": 3, "train_loss": 4.0}, {"step": 6, "train_loss": 2.5, "bits_per_byte": value, "loss": 2.0}]
    measures = {"bits_per_byte": value, "loss": 2.0} if outcome == "done" else {}
    facts = {"outcome": outcome, "message": "" if outcome == "done" else "it is so", "measures": measures, "curve": curve}
    facts |= {"flops_per_token": 99, "learning_rate": 0.01, "steps": 6, "tokens": 384, "seconds": 2.0}
    facts |= {"device": "cpu", "precision": "float32", "threads": 1}
    return trial(arm, seed) | facts | {"finished": f"2026-11-22T05:00:{10 + seed:02d}+00:00"} | fields


def contrast(arm: str, **fields: Any) -> dict[str, Any]:
    base = {"arm": arm, "decision": "channel", "from": "mlp", "to": "none", "equalise": "none", "seeds": 2, "verdict": "worse"}
    return base | {"difference": 0.142, "low": 0.131, "high": 0.153} | fields


def analysis(*contrasts: dict[str, Any]) -> dict[str, Any]:
    base = {"measure": "bits_per_byte", "unit": "bits/byte", "margin": 0.05, "reference": "reference", "noise_floor": 0.01}
    return base | {"reference_value": {"mean": 3.05}, "contrasts": list(contrasts)}


def fill(folder: Path, records: list[dict[str, Any]]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for r in records:
        Ledger(folder).append("finished", **r)


def client_of(path: Path) -> Any:
    from mlflow.tracking import MlflowClient

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mlflow and sqlalchemy about each other
        return MlflowClient(f"sqlite:///{path.resolve()}")


@pytest.fixture
def study(study_file: Path) -> Study:
    return load(study_file)


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A store without runs: its migrations take seconds, so they are made once for all tests."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    client_of(path).search_experiments()
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, empty_store: bytes, study_file: Path) -> Path:
    run = tmp_path / "a run"
    run.mkdir()
    (run / "study.yaml").write_bytes(study_file.read_bytes())  # without a declaration in the ledger trials keep their names
    (run / "mlflow.db").write_bytes(empty_store)
    return run


class View:
    """What a reader of the store finds."""

    def __init__(self, folder: Path):
        self.client = client_of(folder / "mlflow.db")
        self.experiment = self.client.get_experiment_by_name("small")
        runs = self.client.search_runs([self.experiment.experiment_id])
        (self.parent,) = [r for r in runs if r.data.tags.get("aot.role") == "study"]
        self.children = {r.info.run_name: r for r in runs if "aot.key" in r.data.tags}
        assert len(runs) == 1 + len(self.children)

    def effects(self) -> list[dict[str, Any]]:
        """The rows of the table on the parent."""
        from mlflow.artifacts import load_dict

        table = load_dict(f"{self.parent.info.artifact_uri}/effects.json")
        return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]

    def points(self, child: str, metric: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.client.get_metric_history(self.children[child].info.run_id, metric)]


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """The lines that a user was shown."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda r: lines.append(r.getMessage())  # type: ignore[method-assign]
    logging.getLogger("aotsearch").addHandler(handler)
    yield lines
    logging.getLogger("aotsearch").removeHandler(handler)


def test_importing_the_module_does_not_import_mlflow() -> None:
    code = "import sys, aotsearch.tracking.view; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_trial_becomes_a_child_run_with_its_params_curve_finals_and_tags(folder: Path, study: Study, warned: list[str]) -> None:
    tracker = Tracker(folder, study, "aotsearch run small.yaml")
    tracker.started(trial("positions=rope", 1))
    tracker.progress(trial("positions=rope", 1)["key"], {"step": 3, "train_loss": 4.0})
    times = {"training_seconds": 0.5, "step_seconds": 0.01, "peak_memory": 2**20}
    tracker.finished({**record("positions=rope", 1), "tokens": 320, **times})
    tracker.close("FINISHED")
    view, child = View(folder), "positions=rope seed 1"
    run = view.children[child]
    assert run.data.tags["mlflow.parentRunId"] == view.parent.info.run_id
    expected = {"aot.arm": "positions=rope", "aot.seed": "1", "aot.outcome": "done", "aot.phase": "design", "aot.study": study.digest}
    assert expected.items() <= run.data.tags.items()
    facts = {"arm": "positions=rope", "seed": "1", "positions": "rope", "identity": "0", "channel": "mlp", "learning_rate": "0.01"}
    assert facts.items() <= run.data.params.items()
    assert run.data.metrics["final/bits_per_byte"] == pytest.approx(4.1)
    assert run.data.metrics["seconds"] == 2.0
    assert {"step_seconds": 0.01, "tokens_per_second": 640.0, "peak_memory": 2**20}.items() <= run.data.metrics.items()
    assert view.points(child, "train/loss") == [(3, 4.0), (6, 2.5)]
    assert view.points(child, "validation/bits_per_byte") == [(6, pytest.approx(4.1))]
    assert (run.info.status, view.parent.info.status, view.parent.info.run_name) == ("FINISHED", "FINISHED", "small")
    assert not warned


def test_the_status_of_a_child_tells_how_its_trial_ended(folder: Path, study: Study, warned: list[str]) -> None:
    outcomes = {"done": "FINISHED", "pruned": "KILLED", "diverged": "FAILED", "out-of-memory": "FAILED", "failed": "FAILED"}
    tracker = Tracker(folder, study, "")
    for seed, outcome in enumerate(outcomes):
        tracker.finished(record("reference", seed, outcome))
    tracker.started(trial("reference", 9))
    tracker.close("KILLED")
    children = View(folder).children
    for seed, (outcome, status) in enumerate(outcomes.items()):
        run = children[f"reference seed {seed}"]
        assert (run.info.status, run.data.tags["aot.outcome"]) == (status, outcome)
    assert "it is so" in children["reference seed 4"].data.tags["mlflow.note.content"]
    assert (children["reference seed 9"].info.status, children["reference seed 9"].data.tags["aot.outcome"]) == ("KILLED", "interrupted")
    assert not warned


def test_continuing_a_run_shows_every_trial_once_and_what_the_view_had_missed(folder: Path, study: Study, warned: list[str]) -> None:
    fill(folder, [record("reference", 0), record("reference", 1, "failed")])
    first = Tracker(folder, study, "")
    first.started(trial("positions=rope", 0))
    first.close("KILLED")
    fill(folder, [record("positions=rope", 0)])  # MLflow missed it
    again = Tracker(folder, study, "")
    again.started(trial("reference", 1))
    retried = record("reference", 1, finished="2026-11-22T06:00:00+00:00")
    fill(folder, [retried])
    again.finished(retried)
    again.finished(retried)
    again.close()
    view = View(folder)
    assert sorted(view.children) == ["positions=rope seed 0", "reference seed 0", "reference seed 1"]
    assert {r.data.tags["aot.outcome"] for r in view.children.values()} == {"done"}
    assert view.points("reference seed 1", "train/loss") == [(3, 4.0), (6, 2.5)]
    assert not warned


def test_a_trial_interrupted_and_run_again_is_one_child(folder: Path, study: Study) -> None:
    for _ in range(2):
        tracker = Tracker(folder, study, "")
        tracker.started(trial("reference", 0))
        tracker.close("KILLED")
    assert list(View(folder).children) == ["reference seed 0"]


def test_what_a_killed_driver_left_running_is_ended(folder: Path, study: Study, warned: list[str]) -> None:
    tracker = Tracker(folder, study, "")
    tracker.started(trial("reference", 0))
    tracker.close()
    view = View(folder)
    left = view.children["reference seed 0"].info.run_id
    view.client.delete_tag(left, "aot.outcome")
    for run in (left, view.parent.info.run_id):
        view.client.update_run(run, status="RUNNING")
    Tracker(folder, study, "").close()
    view = View(folder)
    assert {run.info.run_id: run.info.status for run in view.children.values()} == {left: "KILLED"}
    assert view.parent.info.status == "FINISHED"
    assert not warned


def test_arms_of_any_name_are_published_with_effect_verdict_and_description(folder: Path, study: Study, warned: list[str]) -> None:
    fill(folder, [record(arm, seed) for arm in ARMS for seed in (0, 1)])
    tracker = Tracker(folder, study, "")
    unknown = {"difference": None, "low": None, "high": None, "verdict": "undecided"}
    contrasts = [
        contrast("channel=mlp(expand=4)"),
        contrast("attention minus I", **unknown),
        contrast("positions=rope", equalise="parameters"),
    ]
    tracker.publish(analysis(*contrasts), "the summary", [], folder / "study.yaml")
    tracker.close()
    view = View(folder)
    data = view.parent.data
    rows = {row["comparison"]: row for row in view.effects()}
    assert (rows["channel=mlp(expand=4)"]["difference"], rows["channel=mlp(expand=4)"]["change"]) == (0.142, "channel: mlp -> none")
    assert rows["positions=rope (equal parameters)"]["low"] == 0.131 and rows["attention minus I"]["difference"] is None
    assert not any("effect" in name.split("/")[0] for name in data.metrics), "each would be a chart of one bar"
    assert (data.metrics["reference/bits_per_byte"], data.metrics["noise_floor"]) == (3.05, 0.01)
    assert data.tags["verdict/attention minus I"] == "undecided"
    row = "| channel=mlp(expand=4) | channel: mlp -> none | +0.1420 | [+0.1310, +0.1530] | 2 | **worse** |"
    assert row in data.tags["mlflow.note.content"]
    assert view.experiment.experiment_id and row in view.experiment.tags["mlflow.note.content"]
    assert {a.path for a in view.client.list_artifacts(view.parent.info.run_id)} == {"study.yaml", "summary.txt", "effects.json"}
    child = view.children["channel=mlp(expand=4) seed 1"].data
    assert (child.tags["aot.verdict"], child.metrics["final/difference"]) == ("worse", pytest.approx(2.0))
    assert not warned


def test_a_description_is_cut_by_rows_to_what_mlflow_keeps(study: Study) -> None:
    many = analysis(*[contrast(f"arm {i} | {'x' * 60}") for i in range(300)])
    text = note(study, many)
    assert len(text) <= 8000
    assert "more in report.html" in text and "Where to look" in text and r"arm 0 \| x" in text


def test_a_description_says_first_what_makes_verdicts_say_little_and_in_which_unit_curves_are(study: Study) -> None:
    weak, few = "the reference is above the bigram baseline", "only 4 seeds"
    found = analysis(contrast("channel=mlp(expand=4)", remark="about 3 more seeds; 1 of 4 pairs mix torch"))
    text = note(study, found | {"warnings": [weak], "notes": [weak, few], "interval": "repeated looks from 4 to 9 seeds"})
    assert text.startswith(f"> **Warning:** {weak}") and text.count(weak) == 1 and f"> {few}" in text
    assert "`train/loss` and `validation/loss` in nats/byte" in text and "`validation/bits_per_byte` in bits/byte" in text
    assert "interval, repeated looks from 4 to 9 seeds" in text and "(about 3 more seeds; 1 of 4 pairs mix torch)" in text


def test_keys_are_distinct_and_valid() -> None:
    made = keys(["a=b", "a b", "..", "x/../y", "seed", "k" * 400], taken=["seed"])
    assert made == {"a=b": "a b", "a b": "a b 2", "..": "unnamed", "x/../y": "x y", "seed": "seed 2", "k" * 400: "k" * 200}


def test_what_mlflow_raises_is_one_warning_and_not_an_error(folder: Path, study: Study, warned: list[str], monkeypatch: Any) -> None:
    from mlflow.tracking import MlflowClient

    tracker = Tracker(folder, study, "")
    tracker.ready()

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError("no space\nleft on device")

    with monkeypatch.context() as broken:
        for method in ("create_run", "log_batch", "set_terminated", "set_tag"):
            broken.setattr(MlflowClient, method, refuse)
        for seed in range(20):
            tracker.started(trial("reference", seed))
            tracker.progress(trial("reference", seed)["key"], {"step": 1, "train_loss": float("nan")})
            tracker.finished(record("reference", seed))
        tracker.close()
    assert 1 <= len(warned) <= 5
    assert all("no space" in line and "\n" not in line for line in warned)
    fill(folder, [record("reference", seed) for seed in range(3)])
    Tracker(folder, study, "").close()
    assert len(View(folder).children) == 3


def _no_database(path: Path) -> None:
    path.write_bytes(b"no database at all " * 100)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40_000])


def _killed_while_tables_were_made(path: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as store:
        store.execute("CREATE TABLE _alembic_tmp_experiments (a)")
        store.commit()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [_no_database, _truncated, _killed_while_tables_were_made, _empty])
def test_a_damaged_store_is_set_aside_in_one_line_and_made_again_from_the_ledger(
    damage: Callable[[Path], None], folder: Path, study: Study, warned: list[str]
) -> None:
    fill(folder, [record("reference", seed) for seed in range(2)])
    client.make(folder / "mlflow.db")
    damage(folder / "mlflow.db")
    Tracker(folder, study, "").close()
    (line,) = warned
    assert "mlflow.db.damaged, and made again from the ledger" in line and "\n" not in line
    assert len(View(folder).children) == 2 and (folder / "mlflow.db.damaged").exists()
    Tracker(folder, study, "").close()
    assert len(warned) == 1


def test_a_folder_that_mlflow_can_not_name_is_one_line(tmp_path: Path, study: Study, warned: list[str]) -> None:
    Tracker(tmp_path / "100%", study, "").close()
    assert len(warned) == 1 and "'%'" in warned[0]


def test_what_was_said_before_the_store_is_open_is_written_and_times_are_those_of_the_events(
    folder: Path, study: Study, warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread opens the store, which takes seconds, while trials run."""
    may_open = threading.Event()
    opened = module._opened
    monkeypatch.setattr(module, "_opened", lambda *arguments: may_open.wait(60) and opened(*arguments))
    tracker = Tracker(folder, study, "")
    now = 1000 * time.time()
    for seed in range(3):
        tracker.started(trial("reference", seed))
        tracker.progress(trial("reference", seed)["key"], {"step": 1, "train_loss": 5.0})
    tracker.finished(record("reference", 0))
    may_open.set()
    tracker.close("KILLED")  # as where the run ends by an error
    found = View(folder)
    assert {r.data.tags["aot.outcome"] for r in found.children.values()} == {"done", "interrupted"} and len(found.children) == 3
    (point,) = found.client.get_metric_history(found.children["reference seed 1"].info.run_id, "train/loss")
    assert abs(point.timestamp - now) < 5000 and found.parent.info.status == "KILLED"
    assert not warned


def test_a_new_store_is_a_copy_of_the_one_that_mlflow_made(tmp_path: Path, study: Study, warned: list[str]) -> None:
    for name in ("first", "second"):
        fill(tmp_path / name, [record("reference", 0)])
        (tmp_path / name / "study.yaml").write_text(STUDY)
        Tracker(tmp_path / name, study, "").close()
        assert list(View(tmp_path / name).children) == ["reference seed 0"]
    assert len(list(cache.folder().glob("mlflow-*.db"))) == 1 and not warned


def test_a_glance_tells_a_whole_view_from_one_that_is_behind(folder: Path, study: Study, warned: list[str]) -> None:
    fill(folder, [record("reference", 0), record("positions=rope", 0)])
    ledger, finished = Ledger(folder), {r["key"]: r["finished"] for r in (record("reference", 0), record("positions=rope", 0))}

    def whole() -> bool:
        return glance.shown(folder, study.name, fingerprint(ledger), finished)

    assert not whole()
    rebuild(folder, analysis(contrast("positions=rope")), "text")
    assert whole()
    assert not glance.shown(folder, study.name, fingerprint(ledger), finished | {"another": "2026-11-22T05:00:10+00:00"})
    behind = {
        "a row that was left open": ("status", "'RUNNING'", "'FINISHED'"),
        "a row that was removed": ("lifecycle_stage", "'deleted'", "'active'"),
    }
    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as connection:

        def change(text: str) -> None:
            connection.execute(text)
            connection.commit()

        for what, (column, other, before) in behind.items():
            change(f"UPDATE runs SET {column} = {other} WHERE name LIKE 'reference%'")
            assert not whole(), what
            change(f"UPDATE runs SET {column} = {before} WHERE name LIKE 'reference%'")
            assert whole()
        change("UPDATE tags SET value = 'of before' WHERE key = 'aot.shown'")
        assert not whole()
    rebuild(folder, analysis(contrast("positions=rope")), "text")
    assert whole()
    fill(folder, [record("attention minus I", 0)])
    assert not whole() and not warned


def test_a_relative_folder_is_resolved_and_a_moved_one_shows_its_trials_again(
    folder: Path, study: Study, monkeypatch: pytest.MonkeyPatch, warned: list[str]
) -> None:
    fill(folder, [record("reference", 0)])
    monkeypatch.chdir(folder.parent)
    Tracker("a run", study, "").close()
    assert View(folder).experiment.artifact_location == (folder.resolve() / "artifacts").as_uri()
    moved = folder.rename(folder.parent / "moved")
    Tracker(moved, study, "").close()
    view = View(moved)
    assert view.experiment.artifact_location == (moved.resolve() / "artifacts").as_uri()
    assert list(view.children) == ["reference seed 0"]
    assert f"/#/experiments/{view.experiment.experiment_id}/runs?viewStateShareKey=arms&" in ui_addresses(moved, 5000)["MLflow"]
    assert not warned


def test_a_reader_in_the_middle_of_reading_does_not_hold_up_the_writer(folder: Path, study: Study, warned: list[str]) -> None:
    tracker = Tracker(folder, study, "")
    tracker.ready()
    reader = sqlite3.connect(folder / "mlflow.db", isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM runs").fetchall()
    tracker.finished(record("reference", 0))
    tracker.close()
    reader.close()
    assert list(View(folder).children) == ["reference seed 0"]
    assert not warned


def test_the_view_is_made_again_from_the_ledger(study_file: Path, tmp_path: Path, warned: list[str]) -> None:
    run = tmp_path / "run"
    fill(run, [record("reference", 0), record("positions=rope", 0, "diverged")])
    (run / "study.yaml").write_text(study_file.read_text().replace("corpus.txt", str(tmp_path / "corpus.txt")))
    with pytest.raises(InputError, match=r"has no mlflow\.db"):
        ui_command(run, 5000)
    assert rebuild(run, analysis(contrast("positions=rope")), "text") == run / "mlflow.db"
    view = View(run)
    assert sorted(view.children) == ["positions=rope seed 0", "reference seed 0"]
    assert view.parent.data.tags["verdict/positions rope"] == "worse"
    assert not warned


def test_the_ui_is_bound_to_loopback_on_the_store_of_the_run(folder: Path) -> None:
    argv = ui_command(folder, 5077)
    assert argv[1:4] == ["-m", "mlflow", "server"]
    options = dict(zip(argv[4:-1:2], argv[5::2], strict=True))
    assert options["--backend-store-uri"] == f"sqlite:///{folder.resolve()}/mlflow.db"
    assert (options["--host"], options["--port"], options["--workers"]) == ("127.0.0.1", "5077", "1")
    assert ENVIRONMENT["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_a_folder_without_a_run_has_no_ui_and_no_view(tmp_path: Path) -> None:
    for function in (rebuild, lambda folder: ui_command(folder, 5000)):
        with pytest.raises(InputError, match="holds no run"):
            function(tmp_path)


TUNED = STUDY.replace("learning_rate: 1e-2", "learning_rate: {tune: [3e-3, 1e-2]}").replace(
    "study: {", "study: {equalise: [none, parameters], "
)


def test_diagnostics_are_one_metric_each_with_the_layer_as_step_and_the_test_split_is_kept_back(folder: Path, study: Study) -> None:
    rows = [{"part": "attention_0", "sublayers": [0], "way": "zero", "loss": 4.0, "increase": 1.0}]
    rows += [{"part": "mixers", "sublayers": [0, 2], "way": "zero", "loss": 5.0, "increase": 2.0}]
    rows += [{"part": "mlp_1", "sublayers": [1], "way": "zero", "loss": None, "increase": None}]
    more = {"diagnostics": {"token-cosine": [0.1, None, 0.3]}, "test": {"bits_per_byte": 3.3}, "knock_out": rows}
    more |= {"unmeasured": {"test": "RuntimeError: no room"}}
    more |= {"cached": True, "origin": {"study": "earlier", "folder": "/runs/earlier"}}
    tracker = Tracker(folder, study, "")
    tracker.finished(record("reference", 0, **more))
    tracker.close()
    view = View(folder)
    assert view.points("reference seed 0", "layer/token-cosine") == [(0, 0.1), (2, 0.3)]
    assert view.points("reference seed 0", "knock_out/zero") == [(0, 1.0)]
    assert view.points("reference seed 0", "knock_out/zero mixers") == [(0, 2.0)]
    assert not any("test" in name for name in view.children["reference seed 0"].data.metrics)
    assert view.children["reference seed 0"].data.tags["aot.unmeasured"] == "test: RuntimeError: no room"
    assert view.children["reference seed 0"].data.tags["aot.cached"] == "study: earlier; folder: /runs/earlier"


def test_trials_that_only_found_learning_rates_are_told_apart(study_file: Path, folder: Path) -> None:
    study_file.write_text(TUNED)
    rates = {"reference": {"chosen": 0.003}, "positions=rope": {"chosen": 0.01}}
    trials = [
        record("positions=rope", 20_000, phase="tune", key="a" * 16, finished="2026-11-22T05:00:00+00:00"),
        record("reference", 0, learning_rate=0.003, key="b" * 16),
        record("positions=rope", 0, learning_rate=0.003, key="c" * 16),
        record("positions=rope", 0, learning_rate=0.01, key="d" * 16),
    ]
    fill(folder, trials)
    tracker = Tracker(folder, load(study_file), "")
    both = [contrast("positions=rope", learning_rate="tuned", verdict="equivalent", difference=0.01)]
    both += [contrast("positions=rope", learning_rate="shared", asked=False)]
    equal = [contrast("positions=rope@parameters", equalise="parameters", learning_rate="tuned")]
    found = analysis(*both, *equal) | {"learning_rates": rates, "answer": "It depends.", "notes": ["be careful"]}
    tracker.publish(found, "", [], folder / "study.yaml")
    tracker.close()
    view = View(folder)
    names = {"tuning: positions=rope rate 0.01 seed 20000", "reference rate 0.003 seed 0"}
    assert set(view.children) == names | {"positions=rope rate 0.003 seed 0", "positions=rope rate 0.01 seed 0"}
    tags = {name: run.data.tags for name, run in view.children.items()}
    assert tags["tuning: positions=rope rate 0.01 seed 20000"]["aot.phase"] == "tune"
    shared, own = (tags[f"positions=rope rate {rate} seed 0"] for rate in ("0.003", "0.01"))
    assert (shared["aot.rate"], shared["aot.verdict"], own["aot.rate"], own["aot.verdict"]) == ("shared", "worse", "tuned", "equivalent")
    data = view.parent.data
    assert data.tags["verdict/positions rope own learning rate"] == "equivalent"
    assert {row["comparison"]: row["difference"] for row in view.effects()}["positions=rope (equal parameters, own learning rate)"] == 0.142
    assert data.tags["verdict/positions rope shared learning rate"] == "worse"
    assert data.metrics["verdicts/worse"] == data.metrics["verdicts/equivalent"] == 1, "at the learning rates asked for"
    assert data.tags["aot.answer"] == "It depends."
    text = data.tags["mlflow.note.content"]
    assert (
        0 < text.index("| positions=rope (equal parameters, own learning rate) |") < text.index("| positions=rope (shared learning rate) |")
    )
    assert "> be careful" in text and "tuning: ..." in text


def test_effects_on_the_test_split_and_interactions_are_on_the_parent_and_pictures_in_a_folder(
    folder: Path, study: Study, tmp_path: Path
) -> None:
    for name in ("report.html", "forest.png"):
        (tmp_path / name).write_bytes(b"x")
    test = {"difference": 0.15, "low": 0.14, "high": 0.16}
    two = contrast("a=1 x b=2", kind="interaction", verdict="worse", test=test, decision="a, b")
    tracker = Tracker(folder, study, "")
    tracker.publish(analysis(two), "", [tmp_path / "report.html", tmp_path / "forest.png"], folder / "study.yaml")
    tracker.close()
    view = View(folder)
    data, run = view.parent.data, view.parent.info.run_id
    assert [row["test difference"] for row in view.effects()] == [0.15]
    assert json.loads(data.tags["mlflow.loggedArtifacts"]) == [{"path": "effects.json", "type": "table"}]
    assert data.tags["verdict/a 1 x b 2"] == "worse" and "act" in data.tags["mlflow.note.content"]
    assert {a.path for a in view.client.list_artifacts(run)} == {"report.html", "study.yaml", "figures", "effects.json"}
    assert {a.path for a in view.client.list_artifacts(run, "figures")} == {"figures/forest.png"}


def test_the_experiment_has_a_view_grouped_by_arm_and_one_of_factors(folder: Path, study: Study) -> None:
    Tracker(folder, study, "").close()
    tags = View(folder).experiment.tags
    arms, factors = (json.loads(tags[f"mlflow.sharedViewState.{key}"]) for key in ("arms", "factors"))
    assert [key["groupByData"] for key in arms["groupBy"]["groupByKeys"]] == ["arm", "aot.verdict"]
    wanted = {"params.`arm`", "params.`seed`", "metrics.`final/bits_per_byte`", "metrics.`parameters`", "tags.`aot.verdict`"}
    assert wanted <= {*arms["selectedColumns"]}
    assert arms["compareRunCharts"][0]["metricKey"] == "validation/bits_per_byte"
    lines = factors["compareRunCharts"][0]
    assert lines["type"] == "PARALLEL" and factors["groupBy"] is None, "the UI draws words only of single runs"
    assert lines["selectedMetrics"] == ["final/bits_per_byte"] and lines["selectedParams"]


def test_metrics_of_the_parent_alone_are_not_drawn(folder: Path, study: Study) -> None:
    tracker = Tracker(folder, study, "")
    tracker.publish(analysis(contrast("positions=rope")), "", [], folder / "study.yaml")
    tracker.close()
    view = View(folder)
    charts = json.loads(view.experiment.tags["mlflow.sharedViewState.arms"])["compareRunCharts"]
    assert {*view.parent.data.metrics} <= {chart["metricKey"] for chart in charts if chart["deleted"]}
    assert view.parent.data.metrics["verdicts/undecided"] == 0, "what was counted before must not stay"


def test_a_factor_of_numbers_and_words_is_words_in_every_trial(study_file: Path, folder: Path) -> None:
    study_file.write_text(STUDY.replace("[0, -1]", "[0, learned]"))
    tracker = Tracker(folder, load(study_file), "")
    tracker.finished(record("reference", 0))
    tracker.close()
    params = View(folder).children["reference seed 0"].data.params
    assert next(value for name, value in params.items() if name.endswith("identity")) == "=0"


def test_a_parent_of_an_earlier_version_with_a_metric_for_each_effect_is_made_anew(folder: Path, study: Study) -> None:
    fill(folder, [record("reference", 0)])
    Tracker(folder, study, "").close()
    view = View(folder)
    view.client.log_metric(view.parent.info.run_id, "effect/channel none", 0.1)
    Tracker(folder, study, "").close()
    view = View(folder)
    assert "effect/channel none" not in view.parent.data.metrics
    assert view.children["reference seed 0"].data.tags["mlflow.parentRunId"] == view.parent.info.run_id


def test_the_data_are_inputs_of_every_run(folder: Path, study: Study) -> None:
    Ledger(folder).append("data", manifest="abc" * 20, bytes={"train": 100}, unit="bits/byte")
    fill(folder, [record("reference", 0)])
    tracker = Tracker(folder, study, "")
    tracker.publish(analysis(contrast("positions=rope")), "", [], folder / "study.yaml")
    tracker.close()
    view = View(folder)
    for run in (view.parent, view.children["reference seed 0"]):
        found = {i.tags[0].value: i.dataset for i in run.inputs.dataset_inputs}
        assert {*found} == {"train", "validation"}
        assert (found["train"].name, found["train"].digest) == ("language corpus.txt (train)", ("abc" * 20)[:36])
