"""Score functions: how scores become the attention map. `score(s_BHLM, keep_LM) -> A_BHLM`.

s_BHLM are the scaled scores of L queries against M keys; keep_LM is true where a query may see a key, and every query sees at least one.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.words import Flag, Number, Positive, word
from aotsearch.models.parts.context import LayerContext


@word("score", "softmax")
class Softmax(nn.Module):
    r"""Each query's weights are positive and sum to 1.

    A_ij = exp(s_ij) / sum_k exp(s_ik)

    Source: Vaswani et al. 2017, arXiv:1706.03762.
    """

    def __init__(self, site: LayerContext):
        super().__init__()

    def forward(self, s_BHLM: torch.Tensor, keep_LM: torch.Tensor) -> torch.Tensor:
        return s_BHLM.masked_fill(~keep_LM, float("-inf")).softmax(-1)


@word("score", "sink")
class Sink(nn.Module):
    r"""Softmax with one more entry that goes nowhere, so that a head may do nothing.

    A_ij = exp(s_ij) / (exp(b_h) + sum_k exp(s_ik))

    Source: Miller 2023 (attention is off by one: b = 0); OpenAI 2025 (gpt-oss: b_h learned), arXiv:2508.10925.

    Args:
        learned: Whether b_h is trained, one per head, from 0; else it is 0.
    """

    def __init__(self, site: LayerContext, *, learned: Flag = True):
        super().__init__()
        self.sink = nn.Parameter(torch.zeros(site.heads)) if learned else None

    def forward(self, s_BHLM: torch.Tensor, keep_LM: torch.Tensor) -> torch.Tensor:
        s_BHLM = s_BHLM.masked_fill(~keep_LM, float("-inf"))
        sink_BHL1 = torch.zeros_like(s_BHLM[..., :1])
        if self.sink is not None:
            sink_BHL1 = sink_BHL1 + self.sink.view(-1, 1, 1)
        return torch.cat([s_BHLM, sink_BHL1], dim=-1).softmax(-1)[..., :-1]


@word("score", "threshold")
class Threshold(nn.Module):
    r"""Softmax, then a hard threshold: the operator for which the denoising theorem holds.

    A_ij = tau 1{softmax(s_i)_j > tau}

    No gradient passes to the scores. With tau >= 1/2 a token attends to one other at most.

    Source: Wang et al. 2025, arXiv:2506.03790 (Theorem 3.1).

    Args:
        tau: The threshold, and the weight of what is above it.

    Requires:
        tau < 1
    """

    def __init__(self, site: LayerContext, *, tau: Positive = 0.501):
        super().__init__()
        self.tau = tau

    def forward(self, s_BHLM: torch.Tensor, keep_LM: torch.Tensor) -> torch.Tensor:
        A_BHLM = s_BHLM.masked_fill(~keep_LM, float("-inf")).softmax(-1)
        return self.tau * (A_BHLM > self.tau).to(A_BHLM.dtype)


@word("score", "sparsemax")
class Sparsemax(nn.Module):
    r"""The nearest point of the simplex to the scores: weights sum to 1, and most are exactly 0.

    A_ij = max(s_ij - t_i, 0),   t_i such that the row sums to 1

    Source: Martins and Astudillo 2016, arXiv:1602.02068.
    """

    def __init__(self, site: LayerContext):
        super().__init__()

    def forward(self, s_BHLM: torch.Tensor, keep_LM: torch.Tensor) -> torch.Tensor:
        s_BHLM = s_BHLM - s_BHLM.masked_fill(~keep_LM, float("-inf")).amax(-1, keepdim=True)  # none is above 0, the largest is 0
        s_BHLM = s_BHLM.masked_fill(~keep_LM, -2.0).clamp_min(-2.0)  # t is at least -1, so what lies lower has no weight
        sorted_BHLM = s_BHLM.sort(dim=-1, descending=True).values
        number_M = torch.arange(1, s_BHLM.shape[-1] + 1, dtype=s_BHLM.dtype, device=s_BHLM.device)
        t_BHLM = (sorted_BHLM.cumsum(-1) - 1) / number_M  # if the first m have weight
        return (s_BHLM - t_BHLM.amax(-1, keepdim=True)).clamp_min(0)  # the number that have is where t is largest


@word("score", "diagonal")
class Diagonal(nn.Module):
    r"""The diagonal of softmax: a token keeps the weight of itself and gets nothing from others.

    A_ii = exp(s_ii) / sum_k exp(s_ik),   A_ij = 0

    A control for the denoising theorem, in whose regime no token mixes with another.

    Source: a control of our own, after Wang et al. 2025, arXiv:2506.03790.
    """

    def __init__(self, site: LayerContext):
        super().__init__()

    def forward(self, s_BHLM: torch.Tensor, keep_LM: torch.Tensor) -> torch.Tensor:
        A_BHLM = s_BHLM.masked_fill(~keep_LM, float("-inf")).softmax(-1)
        return torch.tril(torch.triu(A_BHLM))


@word("score", "sigmoid")
class Sigmoid(nn.Module):
    r"""Every weight by itself, with a bias that starts their sum near 1.

    A_ij = 1 / (1 + exp(-s_ij - b)),   b = -log n for `log`, n the number of tokens the query sees

    Source: Ramapuram et al. 2024, arXiv:2409.04431.
    Differs: n is what the query sees, not the length of the window.

    Args:
        bias: The number b.
    """

    def __init__(self, site: LayerContext, *, bias: Number | Literal["log"] = "log"):
        super().__init__()
        self.bias = bias

    def forward(self, s_BHLM: torch.Tensor, keep_LM: torch.Tensor) -> torch.Tensor:
        if self.bias == "log":
            s_BHLM = s_BHLM - keep_LM.sum(-1, keepdim=True).to(s_BHLM.dtype).log()
        else:
            s_BHLM = s_BHLM + self.bias
        return torch.sigmoid(s_BHLM).masked_fill(~keep_LM, 0.0)


@word("score", "relu")
class Relu(nn.Module):
    r"""The positive part of the scores over the number of tokens seen.

    A_ij = max(s_ij, 0) / n

    Source: Wortsman et al. 2023, arXiv:2309.08586.

    Requires:
        initialisation not in ['shaped', 'simplified'] or beside.qkv == 'tied'
    """

    def __init__(self, site: LayerContext):
        super().__init__()

    def forward(self, s_BHLM: torch.Tensor, keep_LM: torch.Tensor) -> torch.Tensor:
        return F.relu(s_BHLM).masked_fill(~keep_LM, 0.0) / keep_LM.sum(-1, keepdim=True)


@word("score", "linear")
class LinearScore(nn.Module):
    r"""Linear attention: scores are products of positive features, and their own normaliser.

    A_ij = f(q_i) . f(k_j) / sum_k f(q_i) . f(k_k),   f(x) = elu(x) + 1

    Source: Katharopoulos et al. 2020, arXiv:2006.16236.
    Differs: the map is written out, so that the other terms can act on it; cost in training is quadratic, not linear. Positions that turn
    queries and keys are refused, since features of what was turned are no function of the distance; so are a fixed scale, which the
    normaliser takes out, and unit vectors, whose features are all alike.

    Requires:
        not (rotates or biases)
        beside.qk_norm != 'l2'
        beside.scale == 'sqrt' or beside.scale == 'learned'
    """

    def __init__(self, site: LayerContext):
        super().__init__()

    def forward(self, s_BHLM: torch.Tensor, keep_LM: torch.Tensor) -> torch.Tensor:
        s_BHLM = s_BHLM.masked_fill(~keep_LM, 0.0)
        return s_BHLM / s_BHLM.sum(-1, keepdim=True)
