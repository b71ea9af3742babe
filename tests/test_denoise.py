"""The theorem's regime, and where it ends: through the task, the grammar and an untrained run."""

from __future__ import annotations

import io
import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aotsearch import yamlfile
from aotsearch.diagnostics.probe import measure
from aotsearch.grammar.space import Space
from aotsearch.models.model import build
from aotsearch.models.parts.context import ForwardContext
from aotsearch.running import runner
from aotsearch.running.progress import Progress
from aotsearch.study.loading import load
from aotsearch.tasks.denoise import Denoise

GRAMMAR = """
model:
  {width: 128, norm: none, positions: none, embedding: identity, head: none, initialisation: identity, join: {step: {size: ETA}},
  blocks: {repeat: LAYERS, of: {attention: {heads: 2, qkv: tied, output: transposed, scale: 1, score: SCORE}}, tied: true}}
"""


def unrolled(task: Denoise, eta: float, layers: int, score: str = "{threshold: {tau: 0.501}}") -> Any:
    text = GRAMMAR.replace("ETA", str(eta)).replace("LAYERS", str(layers)).replace("SCORE", score)
    return build(Space.parse(yamlfile.parse(text, "f"), task.sizes).reference)


def ratios(task: Denoise, model: Any, seed: int = 0) -> list[float]:
    """The signal-to-noise ratio before the first layer and after each, by the task's own labels and equation 6."""
    z = torch.from_numpy(task.validation(seed)[0]).double()
    model.double()
    found = [math.exp(-np.mean(np.log(task._noise_over_signal(z[0].numpy()))))]
    for name in model.order:
        with torch.no_grad():
            z = model.steps[name](z, ForwardContext(model.positions), z)
        found.append(math.exp(-np.mean(np.log(task._noise_over_signal(z[0].numpy())))))
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_in_the_regime_of_the_theorem_every_layer_raises_the_ratio_by_the_same_factor(seed: int) -> None:
    task = Denoise(Path(), noise=0.02)
    found = ratios(task, unrolled(task, 0.1, 40), seed)
    assert found[0] == pytest.approx(1 / 0.02, rel=0.02)  # 1 / (delta sqrt(K - 1))
    for before, after in itertools.pairwise(found):
        assert after / before == pytest.approx(1 + 0.1 * 0.501, abs=1e-11)


def test_beyond_it_the_ratio_rises_for_a_few_layers_and_then_collapses() -> None:
    task = Denoise(Path(), noise=0.2)
    found = ratios(task, unrolled(task, 0.5, 14))
    assert found[1] / found[0] == pytest.approx(1.2505, abs=0.01)
    assert max(found) < 9 and found.index(max(found)) in (2, 3, 4)
    assert found[-1] < 0.5 * found[0]


def test_softmax_itself_does_not_denoise_and_its_diagonal_alone_does() -> None:
    task = Denoise(Path(), noise=0.2, dimension=64)
    softmax, diagonal = (ratios(task, unrolled(task, 0.5, 13, score)) for score in ("softmax", "diagonal"))
    assert softmax[-1] < softmax[0]
    gains = [b / a for a, b in itertools.pairwise(diagonal)]
    assert all(1.49 < gain < 1.5001 for gain in gains)


def test_the_measure_and_the_diagnostic_say_what_the_labels_say() -> None:
    task = Denoise(Path(), noise=0.02, tokens=400, sets=2)
    model = unrolled(task, 0.1, 5)
    inputs, targets = (torch.from_numpy(a) for a in task.validation(3))
    with torch.no_grad():
        totals = task.totals(model(inputs), targets)
    means = {name: float(total) / number for name, (total, number) in totals.items()}
    before = task.totals(inputs, targets)["log_noise"]
    gain = (float(before[0]) / before[1] - means["log_noise"]) / 5
    assert gain == pytest.approx(math.log(1 + 0.1 * 0.501), abs=1e-4)
    assert task.measures(means)["snr"] == pytest.approx(math.exp(-means["log_noise"]))
    told = measure(model, inputs, ["snr-gain"])["snr-gain"]
    assert told == pytest.approx([1.0501] * 5, abs=1e-3)


def test_tokens_lie_in_their_subspace_with_noise_in_the_others_only() -> None:
    task = Denoise(Path(), subspaces=3, dimension=4, noise=0.1, tokens=3000)
    noisy, signal = task.batch(0, 0, 1)
    own = noisy[0, 1000:2000]  # of the second subspace
    assert np.array_equal(own[:, 4:8], signal[0, 1000:2000, 4:8])
    assert own[:, 4:8].std() == pytest.approx(1, rel=0.05) and own[:, :4].std() == pytest.approx(0.1, rel=0.05)
    assert not signal[0, 1000:2000, :4].any() and not signal[0, 1000:2000, 8:].any()


def test_rotating_the_subspaces_and_the_projections_alike_changes_nothing() -> None:
    task = Denoise(Path(), noise=0.2, tokens=200)
    model = unrolled(task, 0.5, 3, "softmax").double()
    z = torch.from_numpy(task.validation()[0]).double()
    expected = model(z)
    q, _ = torch.linalg.qr(torch.randn(128, 128, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    with torch.no_grad():
        weight = model.steps["attention_0"].operation.projections["subspace"].weight
        weight.copy_(weight @ q.T)
    torch.testing.assert_close(model(z @ q.T) @ q, expected)


@pytest.mark.parametrize(("options", "message"), [({"subspaces": 1}, "at least 2"), ({"tokens": 7}, "multiple of subspaces")])
def test_options_that_do_not_fit_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Denoise(Path(), **options)


def test_an_untrained_study_runs_to_its_report_and_its_mlflow_view(tmp_path: Path) -> None:
    text = GRAMMAR.replace("ETA", "0.1").replace("LAYERS", "5").replace("SCORE", "score").replace("128", "16")
    body = "\n".join("  " + line for line in [*text.strip().splitlines(), "score: {any: [{threshold: {tau: 0.501}}, diagonal]}"])
    task = "{denoise: {dimension: 8, tokens: 40, noise: 0.01}}"
    settings = "{seeds: 2, budget: {steps: 0, evaluations: 1}, diagnostics: [snr-gain], margin: 0.02}"
    (tmp_path / "study.yaml").write_text(f"name: untrained\ntask: {task}\ngrammar:\n{body}\nstudy: {settings}\n")
    said = io.StringIO()
    outcome = runner.run(load(tmp_path / "study.yaml"), tmp_path / "run", runner.Options(local=True), Progress("log_noise", "", said))
    assert outcome.trained == 4 and not outcome.failed
    assert "incomplete" not in said.getvalue()
    assert (tmp_path / "run" / "report" / "diagnostics.csv").exists()
