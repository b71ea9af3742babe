"""Trained models given to other programs: the same numbers there; what a program cannot hold is refused by the part that it lacks."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import aotsearch
from aotsearch.errors import InputError
from aotsearch.report import report
from aotsearch.running.runner import Options, run
from aotsearch.training.checkpoint import CHECKPOINTS

sys.path.insert(0, str(Path(__file__).parent))
from conftest import STUDY
from console import aotsearch as command

CALM = STUDY.replace("seeds: 2", "seeds: 1").replace("channel: {any: [{mlp: {expand: 2}}, none]}", "channel: {mlp: {expand: 2}}")
PLAIN: dict[str, Any] = {
    "name": "small",
    "task": {"language": {"data": "python-stdlib", "context": 16}},
    "grammar": {"model": {"width": 16, "depth": 1, "norm": {"any": ["layernorm", "none"]}, "block": [{"attention": {"heads": 2}}]}},
    "study": {"seeds": [0, 1], "budget": {"steps": 6, "batch": 4}, "learning_rate": 1e-2},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("exported")
    (place / "corpus.txt").write_text("to be or not to be\n" * 2000)
    (place / "small.yaml").write_text(CALM)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "write", lambda *_, **__: [])
        run(aotsearch.load(place / "small.yaml"), place / "run", Options(local=True, track=False))
    return place / "run"


def tokens() -> torch.Tensor:
    return torch.randint(256, (2, 16), generator=torch.Generator().manual_seed(0))


def test_a_trained_model_is_loaded_and_gives_the_loss_that_was_recorded(folder: Path) -> None:
    model = aotsearch.load_trained(folder, "positions=rope", 0)
    task = aotsearch.load(folder / "study.yaml").task
    task.prepare()
    inputs, targets = map(torch.as_tensor, task.validation())
    loss = torch.nn.functional.cross_entropy(model(inputs).flatten(0, 1), targets.flatten()).item()
    row = aotsearch.results(folder).set_index("arm").loc["positions=rope"]
    assert loss / math.log(2) == pytest.approx(row["bits_per_byte"], rel=1e-5) and not model.training


def test_weights_that_are_not_those_of_the_trial_are_not_loaded(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy")
    for path in (copy / CHECKPOINTS).glob("*.pt"):
        path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(InputError, match="is not what the trial wrote: its sha256"):
        aotsearch.load_trained(copy, "reference", 0)
    with pytest.raises(InputError, match="no trial of the arm 'referense'; did you mean 'reference'"):
        aotsearch.load_trained(copy, "referense", 0)


def test_a_model_that_gpt2_holds_is_read_by_transformers_with_the_same_logits(folder: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    done = command("export", str(folder), "--seed", "0", "--to", "hf", "--out", str(tmp_path / "hf"))
    assert done.returncode == 0 and "model.safetensors" in done.stderr, done.stderr
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    ours = aotsearch.load_trained(folder, "reference", 0)
    torch.testing.assert_close(theirs(tokens()).logits, ours(tokens()), rtol=0, atol=1e-5)


def test_what_no_class_of_transformers_holds_is_refused_by_the_part_it_lacks(folder: Path, tmp_path: Path) -> None:
    for arm, law in {"identity=-1": "GPT-2 cannot say identity: -1", "positions=rope": "Llama has norm: rmsnorm, and cannot be"}.items():
        done = command("export", str(folder), "--arm", arm, "--seed", "0", "--to", "hf", "--out", str(tmp_path / "hf"))
        assert done.returncode == 2 and law in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "hf").exists()


def test_the_export_command_says_what_it_takes(folder: Path, tmp_path: Path) -> None:
    start = ("export", str(folder), "--seed", "0", "--to")
    assert "one of hf, mlflow, torch" in command(*start, "onnx").stderr
    assert "needs --out" in command(*start, "hf").stderr
    assert "takes no --out" in command(*start, "mlflow", "--out", str(tmp_path)).stderr
    assert "`aotsearch ui" in command(*start, "mlflow").stderr, "without a store it says what makes one"
    assert command(*start, "torch", "--out", str(tmp_path / "model.py")).returncode == 0 and (tmp_path / "model.pt").exists()


def test_a_model_in_mlflow_is_loaded_by_it_without_this_package(folder: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    from aotsearch.tracking.view import rebuild

    rebuild(folder)
    addresses = [command("export", str(folder), "--seed", "0", "--to", "mlflow").stdout.strip() for _ in range(2)]
    assert addresses[0] != addresses[1] and addresses[1].startswith("models:/m-")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    try:
        theirs = mlflow.pytorch.load_model(addresses[1])
        (kept,) = mlflow.MlflowClient().search_logged_models([mlflow.get_experiment_by_name("small").experiment_id])
    finally:
        mlflow.set_tracking_uri(before)
    assert type(theirs).__module__.startswith("aot_") and kept.params["arm"] == "reference"
    assert torch.equal(theirs(tokens()), aotsearch.load_trained(folder, "reference", 0)(tokens()))


def test_a_study_from_python_data_is_the_one_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "same.yaml").write_text(json.dumps(PLAIN))  # which is YAML too
    study = aotsearch.Study.from_dict(PLAIN)
    assert study.digest == aotsearch.load(tmp_path / "same.yaml").digest
    assert aotsearch.Study.from_dict(study.plain).arm_names == study.arm_names


def test_mistakes_in_python_data_are_told_by_the_keys_that_lead_there() -> None:
    wrong = PLAIN | {"study": {"seeds": 2, "budget": {"stepz": 3}}, "tusk": 1, "question": {1, 2}}
    with pytest.raises(InputError, match=r"study\.question: a value is text, .* not a set"):
        aotsearch.Study.from_dict(wrong)
    with pytest.raises(InputError) as caught:
        aotsearch.Study.from_dict({**wrong, "question": "Why?"})
    text = str(caught.value)
    assert "study.tusk: a study has no section 'tusk'; did you mean 'task'" in text and "study.study.budget.stepz: " in text


def test_the_package_shows_its_interface_and_its_version() -> None:
    assert {"load", "build", "run", "results", "load_trained", "eject", "Study"} <= {*dir(aotsearch)}
    assert not {"annotations", "TYPE_CHECKING", "_HOMES"} & {*dir(aotsearch)}
    assert all(getattr(aotsearch, name) is not None for name in dir(aotsearch))
    assert command("--version").stdout == f"aotsearch {aotsearch.__version__}\n"
