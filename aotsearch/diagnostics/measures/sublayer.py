"""What a sublayer does to the stream."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from aotsearch.diagnostics.catalogue import diagnostic
from aotsearch.diagnostics.measures.matrices import norm
from aotsearch.diagnostics.measures.seen import Call
from aotsearch.models.parts.attention import Attention, value_of
from aotsearch.models.parts.join import Add, Convex, LayerScale, StepJoin
from aotsearch.models.parts.norm import DynamicTanh

SATURATED = 0.9


@diagnostic("sublayer", cheap=True)
def contribution(c: Call) -> torch.Tensor:
    r"""How much a sublayer changes the stream, against its size.

    mean_i |join(x_i, f_i) - x_i| / |x_i|,  which is |F| / |x| for x + F

    Source: He et al. 2024, arXiv:2406.15786 (what matters in transformers); Gromov et al. 2024, arXiv:2403.17887.
    """
    return norm(c.joined_BLD - c.x_BLD, -1) / norm(c.x_BLD, -1).clamp_min(1e-12)


@diagnostic("sublayer")
def block_influence(c: Call) -> torch.Tensor:
    r"""How much a sublayer turns the stream: 0 where it only changes its length.

    1 - cos(x, x + F),  mean over tokens

    Source: Men et al. 2024, arXiv:2403.03853 (ShortGPT).
    """
    return 1 - F.cosine_similarity(c.x_BLD, c.left_BLD, dim=-1)


@diagnostic("sublayer")
def saturation(c: Call) -> torch.Tensor | None:
    r"""Share of the entries that a dyt norm squashes into its flat ends.

    mean of 1{|tanh(a x)| > 0.9}

    Source: Zhu et al. 2025, arXiv:2503.10622 (the shape of DyT); the threshold is ours.
    """
    if not isinstance(c.step.norm, DynamicTanh):
        return None
    x_BLD = c.joined_BLD if c.step.place == "post" else c.read_BLD
    return (torch.tanh(c.step.norm.alpha * x_BLD).abs() > SATURATED).double().mean((-1, -2))


@diagnostic("sublayer")
def step_size(c: Call) -> torch.Tensor | float | None:
    r"""The factor with which a join takes the output of its operation, mean over the width where it has one for each entry.

    eta in x + eta y; g in x + g * y; a in x + a * (y - x); 1 in x + y

    Source: the joins' own.
    """
    match c.step.join:
        case StepJoin(size=size):
            return size
        case LayerScale(gain=gain):
            return gain.mean()
        case Convex(share=share):
            return share.mean()
        case Add():
            return 1.0
    return None


@diagnostic("sublayer", terms=("map", "identity", "uniform", "square", "second", "first", "exclusive"))
def coefficient(c: Call, term: str) -> torch.Tensor | float | None:
    r"""The coefficient of this term of the mixing matrix as it was learned or fixed, mean over heads (`probe.coefficients` has each).

    b, a, c, d, l, e or g in b A + a I + c C + d A^2 - l A_2 and the two terms of other values

    Source: the word attention's own.
    """
    return value_of(getattr(c.step.operation, term)) if isinstance(c.step.operation, Attention) else None
