"""What every step of the untrained block does to the tokens, which the report does not ask: scores, spectrum, angles and the bound.

    python studies/linear_reduction_at_initialisation/steps.py runs/digits --out studies/linear_reduction_at_initialisation/digits-steps

The models and sets are those of the trials of a run: the same arms and seeds. A step is one application of the whole block; step 0 is what
the block is given. Rows are as in a report's diagnostics.csv, with 95 % intervals (Student t) over seeds, and paired differences to the
reference, the projection itself.

    impurity, nmi, ari       scores of the tokens, as the task has them; of what needs no model as well, whose name stands for the arm
    variance-kept            share of the variance of the tokens in their first K directions, K the number of classes
    angle-pca                mean squared cosine of the principal angles between the spans of the first K directions of the tokens (left
                             singular vectors, centred) and of PCA of the pixels; two random spans have K / (N - 1)
    angle-eigenmaps          the same against the first K eigenvectors of the Laplacian of the ten nearest neighbours in pixels
    angle-own                the same against those of the model's own first attention map, symmetrised
    bound-change             change of the bound over the step, per token, with the map of its attention held; at step t from t - 1 to t
    data-change, log-det-change  its two terms, bound = data - log-det
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from aotsearch.diagnostics.probe import attention_map, tapped
from aotsearch.models.model import Model, build
from aotsearch.study.loading import load
from aotsearch.tasks.cluster import embedded, scores

Array = np.ndarray[Any, Any]
Run = dict[str, dict[int, float]]  # quantity -> step -> value
STEPS = 8


def trace(model: Model, tokens: torch.Tensor) -> tuple[list[Array], list[Array | None]]:
    """The tokens of one set before and after every step, and the map of each step's attention, mean over heads."""
    streams: list[Array] = []
    found: list[Array | None] = []
    each = len(model.order) // STEPS

    def attended(place: int, given: tuple[Any, ...], _: torch.Tensor) -> None:
        mixer = model.steps[model.order[place]].operation
        if place % each:
            return
        if not getattr(mixer, "attends", False):
            found.append(None)
            return
        values = mixer.values_of(*given)
        found.append(attention_map(mixer, *mixer.queries_and_keys(given[0], values, given[1]), given[1])[0].mean(0).numpy())

    def left(place: int, given: tuple[Any, ...], made: torch.Tensor) -> None:
        if place == 0:
            streams.append(given[0][0].numpy())
        if place % each == each - 1:
            streams.append(made[0].numpy())

    with torch.no_grad(), tapped(model, operation=attended, step=left):
        model(tokens[None])
    return streams, found


def span(tokens: Array, k: int) -> Array:
    """An orthonormal basis (N, k) of the first directions of the tokens, centred."""
    return np.linalg.svd(tokens - tokens.mean(0), full_matrices=False)[0][:, :k]


def own(attention: Array, k: int) -> Array:
    """The first eigenvectors of the symmetrised Laplacian of a map, after the constant one."""
    laplacian = np.eye(len(attention)) - (attention + attention.T) / 2
    return span(np.linalg.eigh(laplacian)[1][:, 1 : k + 1], k)


def bound(tokens: Array, attention: Array) -> Array:
    """tr((I - A)(X X^T + I)) and logdet(X X^T + I), per token."""
    gram = tokens.astype(float) @ tokens.T.astype(float) + np.eye(len(tokens))
    return np.array([np.trace(gram) - (attention * gram.T).sum(), np.linalg.slogdet(gram)[1]]) / len(tokens)


def measured(model: Model, pixels: Array, labels: Array, neighbours: int) -> Run:
    """Every quantity at every step of one model on one set."""
    streams, attention = trace(model, torch.from_numpy(pixels))
    k = len(np.unique(labels))
    reduced = embedded(pixels.astype(float), k, neighbours)
    spans = {"angle-pca": span(reduced["PCA"], k), "angle-eigenmaps": span(reduced["Laplacian eigenmaps"], k)}
    if attention[0] is not None:
        spans["angle-own"] = own(attention[0].astype(float), k)
    found: dict[str, dict[int, float]] = defaultdict(dict)
    for t, tokens in enumerate(streams):
        score = scores(tokens.astype(float), labels, neighbours)
        here = span(tokens.astype(float), k)
        energy = np.linalg.svd(tokens - tokens.mean(0), compute_uv=False).astype(float) ** 2
        found["impurity"][t] = score["impurity"]
        found["nmi"][t], found["ari"][t] = 1 - score["nmi_gap"], 1 - score["ari_gap"]
        found["variance-kept"][t] = energy[:k].sum() / energy.sum()
        for name, other in spans.items():
            found[name][t] = float(((here.T @ other) ** 2).sum() / k)
        held = attention[t - 1] if t else None
        if held is not None:
            data, log_det = bound(tokens, held) - bound(streams[t - 1], held)
            found["bound-change"][t] = data - log_det
            found["data-change"][t], found["log-det-change"][t] = data, log_det
    return found


def without(pixels: Array, labels: Array, neighbours: int) -> dict[str, Run]:
    """The scores of what needs no model."""
    found = {}
    for name, tokens in embedded(pixels.astype(float), len(np.unique(labels)), neighbours).items():
        score = scores(tokens, labels, neighbours)
        found[name] = {"impurity": {0: score["impurity"]}, "nmi": {0: 1 - score["nmi_gap"]}, "ari": {0: 1 - score["ari_gap"]}}
    return found


def interval(values: Array) -> list[str]:
    """Mean, low and high."""
    mean, reach = values.mean(), stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return [f"{v:.6g}" for v in (mean, mean - reach, mean + reach)]


def rows(arm: str, runs: list[Run], reference: list[Run]) -> Iterator[list[Any]]:
    """The mean of every quantity at every step over seeds, and its difference to the reference where that has one."""
    for name, points in runs[0].items():
        for t in points:
            values = np.array([run[name][t] for run in runs])
            there = t in reference[0].get(name, {})
            against = interval(values - np.array([run[name][t] for run in reference])) if there else [""] * 3
            yield [name, arm, t, *interval(values), len(runs), *against]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=16)
    a = parser.parse_args()
    torch.set_num_threads(1)
    study = load(a.run / "study.yaml")
    study.task.prepare()
    a.out.mkdir(parents=True, exist_ok=True)
    sets = [[x[0] for x in study.task.validation(seed)] for seed in range(a.seeds)]
    k = study.task.neighbours
    with open(a.out / "diagnostics.csv", "w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow("diagnostic arm layer mean low high seeds difference difference_low difference_high".split())
        reference: list[Run] = []
        for arm in study.arms():
            runs = [measured(build(arm.architecture, seed), *one, k) for seed, one in enumerate(sets)]
            reference = reference or runs
            table.writerows(rows(arm.name, runs, reference))
        plain = [without(pixels, labels, k) for pixels, labels in sets]
        for name in plain[0]:
            table.writerows(rows(name, [found[name] for found in plain], reference))


if __name__ == "__main__":
    main()
