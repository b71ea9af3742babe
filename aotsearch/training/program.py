"""Models -> training steps: one model as it is, or several of one architecture fused into one program.

Both take the same step: loss, gradient, its norm clipped, AdamW. Seeds of one arm differ in numbers alone, so their weights are stacked
along a first axis, the replicas, and one batched operation does for all what each would do alone: a narrow model costs dispatch, not
arithmetic, and that is paid once. No number passes between replicas, so one that diverges leaves the others as they are.

Shape letters: N replicas, B batch, H heads, L tokens, P width of a head.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import nn
from torch.func import functional_call, vmap
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from aotsearch.models.parts.context import decays
from aotsearch.tasks import Task
from aotsearch.training import device as devices
from aotsearch.training.adamw import AdamW
from aotsearch.training.masks import Masks

Training = Mapping[str, Any]


class Program(Protocol):
    """What the training loop drives.

    Attributes:
        models: The models, whose weights are those of the program at any time.
        masks: Those of dropout, which are told of each step before it is taken.
    """

    models: Sequence[nn.Module]
    masks: Masks

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, rates: Sequence[float]) -> torch.Tensor:
        """One update of every model, with its own batch (the first axis is N) and learning rate; the losses (N,) before it, still on the
        device."""

    def weights(self) -> list[torch.Tensor]:
        """All that is learned, and what is kept beside it in floating point, such as the means of a batch norm; to be read and written."""

    def part(self, tensors: Sequence[torch.Tensor], n: int) -> list[torch.Tensor]:
        """What of tensors such as `weights` belongs to one model; to be read and written."""

    def moments(self, n: int) -> list[torch.Tensor]:
        """The state of Adam of one model; to be read and written."""


def program(
    models: Sequence[nn.Module], task: Task, trainings: Sequence[Training], precision: str, fused: bool, seeds: Sequence[int] | None = None
) -> Program:
    """The program of models on their device.

    Args:
        models: Of one architecture.
        task: What they are trained on.
        trainings: Of each, alike but for the learning rate.
        precision: `float32` or `bfloat16`, of the forward pass.
        fused: Whether they are one program; one alone may be, too.
        seeds: Of the masks of dropout; by default each its number.
    """
    masks = Masks(models[0], range(len(models)) if seeds is None else seeds, fused)
    if fused:
        return Fused(models, task, trainings, precision, masks)
    assert len(models) == 1
    return Alone(models[0], task, trainings[0], precision, masks)


class Alone:
    """One model as it is."""

    def __init__(self, model: nn.Module, task: Task, training: Training, precision: str, masks: Masks):
        self.models: Sequence[nn.Module] = [model]
        self.masks = masks
        self.task, self.clip, self.precision = task, training["clip"], precision
        self.parameters = list(model.parameters())
        self.adam = AdamW(self.parameters, [decays(p) for p in self.parameters], training)
        self.device = next(model.parameters()).device

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, rates: Sequence[float]) -> torch.Tensor:
        (model,) = self.models
        with computing(self.device, self.precision):
            loss = self.task.loss(model(inputs[0]), targets[0])
        for parameter in self.parameters:
            parameter.grad = None
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.parameters, self.clip)
        self.adam.step([p.grad for p in self.parameters], rates[0])
        return loss.detach().unsqueeze(0)

    def weights(self) -> list[torch.Tensor]:
        held = [*self.models[0].parameters(), *self.models[0].buffers()]
        return [t.detach() for t in held if t.is_floating_point()]

    def part(self, tensors: Sequence[torch.Tensor], n: int) -> list[torch.Tensor]:
        return list(tensors)

    def moments(self, n: int) -> list[torch.Tensor]:
        return self.adam.state


class Fused:
    r"""Several models of one architecture as one, by `torch.func.vmap` over stacked weights.

    Every gradient is clipped by the norm of its own replica, |g_n| = sqrt(sum_p |g_np|^2), and Adam is elementwise, so a stacked update is
    that of each. The models hold views of the stacked weights: to evaluate, measure or save one is to use it as it is.
    """

    def __init__(self, models: Sequence[nn.Module], task: Task, trainings: Sequence[Training], precision: str, masks: Masks):
        self.models, self.task, self.clip, self.precision, self.masks = models, task, trainings[0]["clip"], precision, masks
        first = models[0]
        declared = dict(first.named_parameters())
        self.parameters = {name: _stacked(models, name).requires_grad_() for name in declared}
        self.buffers = {name: _stacked(models, name) for name, _ in first.named_buffers()}
        self.device = next(iter(self.parameters.values())).device
        self.groups = _of_one_rate([t["learning_rate"] for t in trainings])
        decayed = [decays(p) for p in declared.values()]
        self.adams = [AdamW([p.detach()[a:b] for p in self.parameters.values()], decayed, trainings[0]) for a, b in self.groups]
        self._losses = vmap(self._loss, in_dims=(0, 0, 0, 0))

    def _loss(self, parameters: Any, buffers: Any, inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        return self.task.loss(functional_call(self.models[0], (parameters, buffers), (inputs,)), targets)

    def step(self, inputs: torch.Tensor, targets: torch.Tensor, rates: Sequence[float]) -> torch.Tensor:
        with computing(self.device, self.precision, replicas=True):
            losses = self._losses(self.parameters, self.buffers, inputs, targets)
        gradients = self._clipped(torch.autograd.grad(losses.sum(), list(self.parameters.values())))
        for (a, b), adam in zip(self.groups, self.adams, strict=True):
            adam.step([g[a:b] for g in gradients], rates[a])
        return losses.detach()

    def _clipped(self, gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Gradients scaled so that none is longer than `clip` within its replica; laid out as the weights are, as Adam's kernel asks."""
        squares = torch.stack([torch.linalg.vector_norm(g.reshape(len(g), -1), dim=1) for g in gradients])
        factors = (self.clip / (torch.linalg.vector_norm(squares, dim=0) + 1e-6)).clamp(max=1.0)
        return [(g * factors.view(-1, *[1] * (g.dim() - 1))).contiguous() for g in gradients]

    def weights(self) -> list[torch.Tensor]:
        return [t.detach() for t in (*self.parameters.values(), *self.buffers.values()) if t.is_floating_point()]

    def part(self, tensors: Sequence[torch.Tensor], n: int) -> list[torch.Tensor]:
        return [t[n] for t in tensors]

    def moments(self, n: int) -> list[torch.Tensor]:
        ((a, adam),) = [(a, adam) for (a, b), adam in zip(self.groups, self.adams, strict=True) if a <= n < b]
        return [*self.part([*adam.first, *adam.second], n - a), *adam.counts]


def _stacked(models: Sequence[nn.Module], name: str) -> torch.Tensor:
    """A parameter or buffer of all models as one tensor, of which each then holds its own part as a view."""
    owner, _, leaf = name.rpartition(".")
    owners = [model.get_submodule(owner) for model in models]
    whole = torch.stack([getattr(o, leaf).detach() for o in owners])
    for one, o in zip(whole, owners, strict=True):
        if leaf in o._parameters:
            getattr(o, leaf).data = one
        else:
            o._buffers[leaf] = one
    return whole


def _of_one_rate(rates: Sequence[float]) -> list[tuple[int, int]]:
    """The stretches of neighbours that share a learning rate, first and end."""
    cuts = [0, *(i for i in range(1, len(rates)) if rates[i] != rates[i - 1]), len(rates)]
    return list(itertools.pairwise(cuts))


@contextlib.contextmanager
def computing(device: str | torch.device, precision: str, replicas: bool = False) -> Iterator[None]:
    """The context of one forward pass with its loss, or of one evaluation."""
    with devices.autocast(device, precision):
        if replicas or (precision == "bfloat16" and not devices.is_cuda(device)):
            with _Kernels(replicas):
                yield
        else:
            yield


class _Kernels(TorchFunctionMode):
    """The fused kernel of attention where torch by itself would choose a slow one, whoever calls it.

    - Under vmap its gradient has no batching rule: replicas are folded into the batch, (N, B, H, L, P) -> (N B, H, L, P).
    - In bfloat16 on a processor its gradient is far slower than in float32, so it is computed in that.
    """

    def __init__(self, replicas: bool):
        super().__init__()
        self.replicas = replicas

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is F.scaled_dot_product_attention:
            return self._attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _attention(self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: Any = None, **options: Any) -> Any:
        given = [query, key, value, attn_mask]
        if query.device.type == "cpu" and torch.is_autocast_enabled("cpu"):
            given = [t.float() if t is not None and t.is_floating_point() else t for t in given]
        with torch.autocast(query.device.type, enabled=torch.is_autocast_enabled(query.device.type) and query.device.type != "cpu"):
            if self.replicas:
                return _Folded.apply(options, *given)  # type: ignore[no-untyped-call]
            return F.scaled_dot_product_attention(*given, **options)


class _Folded(torch.autograd.Function):
    """Attention of replicas under vmap; never called without it."""

    @staticmethod
    def forward(options: Any, *given: Any) -> Any:
        raise AssertionError("under vmap alone")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        raise AssertionError("under vmap alone")

    @staticmethod
    def vmap(info: Any, in_dims: Any, options: Any, *given: Any) -> Any:
        n, (_, *dims) = info.batch_size, in_dims
        query, key, value, mask = (t if t is None or d is None else t.movedim(d, 0) for t, d in zip(given, dims, strict=True))
        query, key, value = (t if d is not None else t.expand(n, *t.shape) for t, d in zip((query, key, value), dims, strict=False))
        batch = query.shape[1]
        if mask is not None and dims[3] is not None:  # of each replica its own, before the dimensions that it is spread over
            spread = mask.view(n, *[1] * (query.dim() - mask.dim()), *mask.shape[1:]).expand(n, batch, *query.shape[2:4], key.shape[3])
            mask = spread.flatten(0, 1)
        query, key, value = (t.flatten(0, 1) for t in (query, key, value))
        y = F.scaled_dot_product_attention(query, key, value, mask, **options)
        return y.view(n, batch, *y.shape[1:]), 0
