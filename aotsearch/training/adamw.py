r"""The update of the weights: AdamW, by torch's kernels, with its state in plain lists.

    m <- beta1 m + (1 - beta1) g        v <- beta2 v + (1 - beta2) g^2
    w <- w - rate lambda w - rate (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

for a weight w with gradient g at its t-th step; lambda is `weight_decay` where the part declares that it decays, else 0; eps is 1e-8.

Source: Loshchilov and Hutter 2017, arXiv:1711.05101. Differs from `torch.optim.AdamW`, which calls the same kernels, in nothing that it
computes: around them that class loads torch's compiler, two seconds and 80 MB of every process that trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim.adamw import adamw

KERNELS = ("cpu", "cuda")  # devices on which Adam is one kernel in every torch that we run on; not for complex parameters
EPSILON = 1e-8


class AdamW:
    """The update of some weights, in place.

    Args:
        weights: Of one device.
        decayed: Whether each decays.
        training: Holds `weight_decay`, `beta1`, `beta2`.

    Attributes:
        first: The moments m, as `weights`.
        second: The moments v.
        counts: The steps t, each a tensor of one number, as torch's kernels ask.
        kernel: Whether one kernel updates all.
    """

    def __init__(self, weights: Sequence[torch.Tensor], decayed: Sequence[bool], training: Mapping[str, Any]):
        self.weights = list(weights)
        self.decays = [training["weight_decay"] if d else 0.0 for d in decayed]
        self.betas = training["beta1"], training["beta2"]
        self.first, self.second = ([torch.zeros_like(w, requires_grad=False) for w in self.weights] for _ in range(2))
        self.kernel = all(w.is_floating_point() and w.device.type in KERNELS for w in self.weights)
        self.counts = [torch.zeros((), device=w.device if self.kernel else "cpu") for w in self.weights]

    @property
    def state(self) -> list[torch.Tensor]:
        """All that an update reads besides weights and gradients; to be read and written."""
        return [*self.first, *self.second, *self.counts]

    @torch.no_grad()
    def step(self, gradients: Sequence[torch.Tensor | None], rate: float) -> None:
        """One update; a weight without a gradient stays."""
        for decay in sorted(set(self.decays)):
            found = [i for i, g in enumerate(gradients) if g is not None and self.decays[i] == decay]
            weights, first, second, counts = ([part[i] for i in found] for part in (self.weights, self.first, self.second, self.counts))
            adamw(
                weights,
                [gradients[i] for i in found],  # type: ignore[misc]
                first,
                second,
                [],
                counts,
                fused=self.kernel,
                amsgrad=False,
                beta1=self.betas[0],
                beta2=self.betas[1],
                lr=rate,
                weight_decay=decay,
                eps=EPSILON,
                maximize=False,
            )
