"""The error of every trained model, and of exact estimators, against the number of examples before the question; and while they trained.

    python studies/in_context_regression/curves.py 'runs/in-context regression' --out studies/in_context_regression/dense

It needs the run folder, whose weights the repository does not hold; what it writes, `curves.csv` and `steps.csv`, is what the picture is
made of.
"""

from __future__ import annotations

import argparse
import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import Lasso

import aotsearch
from aotsearch.eject.trained import find
from aotsearch.tasks.regression import Regression, solve

Array = np.ndarray[Any, Any]
RIDGE = 1e-6  # variance of a noise that stands for none
LASSO = (1e-3, 1e-2, 1e-1, 1.0)  # penalties of Garg et al.; the best of them, which favours lasso
PROMPTS = 256  # of the split that lasso is fitted on: a fit for each prompt and number of examples


def posterior(tokens: Array, sparse: int) -> Array:
    """E[y_i | the points before it] where w has `sparse` coordinates, every set of them alike likely, and is N(0, I) on them: Bayes' rule.

    Of every set S the points before i give the ridge estimate and, as a product over them, the likelihood
    prod_j N(y_j; x_j w_j, s_j), s_j the predictive variance; the estimates are averaged by it.
    """
    x_NPD, y_NP = tokens[:, ::2].astype(np.float64), tokens[:, 1::2, 0].astype(np.float64)
    sets = np.array(list(itertools.combinations(range(x_NPD.shape[2]), sparse)))
    x_NPSk = x_NPD[:, :, sets]
    n, points, count, k = x_NPSk.shape
    inverse = np.broadcast_to(np.eye(k), (n, count, k, k)).copy()  # posterior covariance of w on the set
    w, log_p, made = np.zeros((n, count, k)), np.zeros((n, count)), np.zeros((n, points))
    for i in range(points):
        x = x_NPSk[:, i]
        guess = (x * w).sum(-1)
        weight = np.exp(log_p - log_p.max(1, keepdims=True))
        made[:, i] = (weight * guess).sum(1) / weight.sum(1)
        reach = np.einsum("nsij,nsj->nsi", inverse, x)
        variance = RIDGE + (x * reach).sum(-1)
        miss = y_NP[:, i, None] - guess
        log_p -= (miss**2 / variance + np.log(variance)) / 2
        w += reach * (miss / variance)[..., None]
        inverse -= reach[..., :, None] * reach[..., None, :] / variance[..., None, None]
    return made


def lasso(tokens: Array, penalty: float) -> Array:
    """What lasso predicts for each point from the points before it; without any, 0."""
    x_NPD, y_NP = tokens[:, ::2].astype(np.float64), tokens[:, 1::2, 0].astype(np.float64)
    made = np.zeros_like(y_NP)
    for (n, i), _ in np.ndenumerate(y_NP):
        if i:
            fit = Lasso(alpha=penalty, fit_intercept=False, max_iter=5000, tol=1e-3).fit(x_NPD[n, :i], y_NP[n, :i])
            made[n, i] = fit.predict(x_NPD[n, i : i + 1])[0]
    return made


def estimators(task: Regression) -> dict[str, Array]:
    """Name -> error against the number of examples, of what needs no training."""
    tokens, targets = task.test()
    found = {"zero": task.curve(np.zeros_like(targets), targets), "least squares": task.curve(solve(tokens, 0.0), targets)}
    if isinstance(task.sparse, int):
        few, aims = tokens[:PROMPTS], targets[:PROMPTS]
        found["lasso"] = min((task.curve(lasso(few, a), aims) for a in LASSO), key=lambda c: float(c.mean()))
        found["Bayes"] = task.curve(posterior(tokens, task.sparse), targets)
    return found


def trials(folder: Path) -> list[tuple[str, int]]:
    """(arm, seed) of the trials that are compared; `find` and `load_trained` give that of an arm's own learning rate."""
    table = aotsearch.results(folder)
    judged = table[(table["phase"] == "design") & (table["outcome"] == "done")]
    return sorted({(str(t.arm), int(t.seed)) for t in judged.itertuples()})


def rows(folder: Path) -> list[tuple[str, int | str, int, float]]:
    """(arm or estimator, seed, examples, error over the variance) on the test split."""
    study = aotsearch.load(folder / "study.yaml")
    assert isinstance(study.task, Regression) and study.task.noise == 0, "exact estimators here are of noiseless functions"
    tokens, targets = study.task.test()
    made: list[tuple[str, int | str, int, float]] = []
    for name, curve in estimators(study.task).items():
        made += [(name, "", i, error) for i, error in enumerate(curve)]
    for arm, seed in trials(folder):
        with torch.no_grad():
            outputs = aotsearch.load_trained(folder, arm, seed)(torch.from_numpy(tokens))[:, ::2, 0].numpy()
        made += [(arm, seed, i, error) for i, error in enumerate(study.task.curve(outputs, targets))]
    return made


def steps(folder: Path) -> list[tuple[str, int, int, float]]:
    """(arm, seed, step, error over the variance) at every evaluation, on the validation split."""
    found = [(arm, seed, find(folder, arm, seed)[0]["curve"]) for arm, seed in trials(folder)]
    return [(arm, seed, p["step"], p["squared_error"]) for arm, seed, curve in found for p in curve if "squared_error" in p]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    write(a.out / "curves.csv", ["name", "seed", "examples", "error"], rows(a.run))
    write(a.out / "steps.csv", ["name", "seed", "step", "error"], steps(a.run))


def write(path: Path, names: list[str], lines: Sequence[tuple[Any, ...]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows((*line[:-1], f"{line[-1]:.5g}") for line in lines)


if __name__ == "__main__":
    main()
