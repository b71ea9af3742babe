"""What a search may still gain: the improvement that a Gaussian process expects of what was not tried."""

from __future__ import annotations

import math
import random
import warnings
from collections.abc import Container, Iterator, Sequence

from aotsearch.errors import InputError
from aotsearch.grammar.architecture import Architecture
from aotsearch.grammar.space import Space

FEWEST = 20  # trials below which nothing is expected with confidence
CHANGES, DRAWS = 64, 64  # what is looked at: single changes of the best, and draws of the space


def expected_improvement(space: Space, tried: Sequence[tuple[Architecture, float]], known: Container[str], seed: int) -> float:
    """The largest expected improvement over the best that was tried, in units of the measure; infinite below `FEWEST` trials, and 0 where
    the space seems to hold nothing else.

    E max(0, y* - y) = s (u Phi(u) + phi(u)),   u = (y* - m) / s

    m and s are the mean and the standard deviation, without the noise of a seed, of a Gaussian process over the decisions, whose kernel is
    a linear one (each decision adds its own effect) plus a squared exponential (they interact) plus noise; y* is the lowest mean of what
    was tried, so that a lucky seed is no best.

    Args:
        tried: Architectures with their measure, lower is better.
        known: Digests of what is not looked at.
        seed: Of what is drawn; the same arguments give the same number.

    Source: Jones et al. 1998 (doi:10.1023/A:1008306431147); by the means under noise Picheny et al. 2013 (doi:10.1007/s00158-013-0919-4).
    """
    import numpy as np
    from scipy.stats import norm
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, DotProduct, WhiteKernel

    if len(tried) < FEWEST:
        return math.inf
    others = {a.digest: a for a in _others(space, min(tried, key=lambda pair: pair[1])[0], random.Random(seed)) if a.digest not in known}
    if not others:
        return 0.0
    x = DictVectorizer(sparse=False).fit_transform([_features(a) for a in (*(a for a, _ in tried), *others.values())])
    x /= np.maximum(np.abs(x).max(0), 1e-12)
    y = np.array([measure for _, measure in tried])
    scale = float(y.std()) or 1.0
    kernel = ConstantKernel() * DotProduct() + ConstantKernel() * RBF() + WhiteKernel()
    process = GaussianProcessRegressor(kernel, alpha=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of hyperparameters at a bound: a space without interactions, a measure without noise
        process.fit(x[: len(y)], (y - y.mean()) / scale)
        mean, spread = process.predict(x, return_std=True)
    noise = process.kernel_.k2.noise_level
    spread = np.sqrt(np.maximum(spread[len(y) :] ** 2 - noise, 1e-12))
    u = (mean[: len(y)].min() - mean[len(y) :]) / spread
    return scale * float((spread * (u * norm.cdf(u) + norm.pdf(u))).max())


def _others(space: Space, best: Architecture, rng: random.Random) -> Iterator[Architecture]:
    addresses = list(best.decisions)
    for _ in range(CHANGES):
        if (changed := space.mutated(best, rng.choice(addresses), rng)) is not None:
            yield changed
    try:
        for _ in range(DRAWS):
            yield space.sample(rng.getrandbits(32))
    except InputError:  # nearly everything breaks a law
        return


def _features(architecture: Architecture) -> dict[str, float | str]:
    """Fractions as they are, other values by name; a decision that is not met is absent."""
    met = {address: value for address, value in architecture.decisions.items() if value is not None}
    return {address: value if isinstance(value, float) else str(value) for address, value in met.items()}
