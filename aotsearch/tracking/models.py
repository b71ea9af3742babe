"""A trained trial as a model in MLflow's store: what `mlflow.pytorch.load_model` loads, without a network and without this package.

What is logged is the ejected file, which imports torch alone, with its weights put in.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from aotsearch.eject import trained
from aotsearch.errors import InputError
from aotsearch.tracking import client, wording
from aotsearch.tracking.glance import FILE, KEY


def log(folder: Path, arm: str, seed: int) -> str:
    """Log a trial's model, as an output of its run. Returns the address that `load_model` takes.

    Raises:
        InputError: the folder holds no such trial, not its weights, or no view in MLflow yet.
    """
    record, _ = trained.find(folder, arm, seed)
    remedy = f"`aotsearch ui {folder}` makes it"
    if not (folder / FILE).is_file():
        raise InputError(f"{folder} has no {FILE} yet; {remedy}")
    store = client.client((folder / FILE).resolve())
    experiments = [e.experiment_id for e in store.search_experiments()]
    runs = store.search_runs(experiments, f"tags.`{KEY}` = '{record['key']}'", max_results=1)
    if not runs:
        raise InputError(f"MLflow does not show the trial of the arm {arm!r} under seed {seed} yet; {remedy}")
    run = runs[0].info
    name = wording.key_of(record["arm"]).replace(".", "-") + f" seed {seed}"
    facts = {"arm": record["arm"], "seed": str(seed)}
    for earlier in store.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'"):
        store.delete_logged_model(earlier.model_id)
    model = store.create_logged_model(run.experiment_id, name, run.run_id, tags={KEY: record["key"]}, params=facts)
    with tempfile.TemporaryDirectory() as place:
        _save(folder, arm, seed, record, Path(place))
        store.log_model_artifacts(model.model_id, str(Path(place) / "model"))
    store.finalize_logged_model(model.model_id, "READY")
    from mlflow.entities import LoggedModelOutput

    store.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, record["steps"])])
    return f"models:/{model.model_id}"


def _save(folder: Path, arm: str, seed: int, record: Mapping[str, Any], place: Path) -> None:
    """The model as MLflow keeps one, in `place/model`."""
    import mlflow.pytorch
    import torch

    code = place / f"aot_{record['key']}.py"  # the name that the pickle has of its class: no two trials share it
    trained.write(folder, arm, seed, code)
    module = _imported(code)
    model = module.load(str(code.with_suffix(".pt")))
    options = {"code_paths": [str(code)], "pip_requirements": [f"torch=={torch.__version__}"], "serialization_format": "pickle"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        mlflow.pytorch.save_model(model, str(place / "model"), **options)
    del sys.modules[code.stem]  # whoever loads it finds it among what was saved


def _imported(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
