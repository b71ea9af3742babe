"""What a model costs, measured on the built model without memory or arithmetic, so that size does not matter."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from aotsearch.errors import InputError
from aotsearch.grammar.architecture import Architecture
from aotsearch.models.model import Model, blaming

KEPT = 20_000  # operations; a model has some tens that differ
ADAM_BYTES = 16  # of a parameter in training: weight, gradient and two moments in float32


@dataclass(frozen=True)
class Cost:
    """Counts of one architecture.

    Attributes:
        parameters: All of them, shared ones once.
        parameters_without_embeddings: What the steps and the final norm hold: without embedding, positions, pooling and a free head.
        flops_per_token: Of one forward pass at full context, a multiply-add as two. The causal half of the score matrix that a fused
            kernel may skip is counted, as torch's counter does. A token is a place in the stream: of an image, a patch.
        state_per_sequence: Numbers that inference keeps to extend a sequence at full context by one token: keys and values, running
            sums. 0 where a model is not causal.
    """

    parameters: int
    parameters_without_embeddings: int
    flops_per_token: int
    state_per_sequence: int


@dataclass(frozen=True)
class TrainingCost:
    """What training adds.

    Attributes:
        backward_flops_per_token: Of one backward pass, counted as `Cost.flops_per_token` is; a fused attention kernel computes its
            scores again, which is counted.
        activation_bytes: What the forward pass of one sequence (or image) and its loss keep for the backward pass, in float32, beside the
            parameters.
    """

    backward_flops_per_token: int
    activation_bytes: int


@dataclass(frozen=True)
class Row:
    """What one part of a model makes and costs; the rows of a model add up to its `Cost`.

    Attributes:
        part: `input`, `embedding`, `positions`, `norm`, `operation`, `join`, `pooling` or `head`.
        sublayer: The index of the sublayer it belongs to, None outside of them.
        module: The name of the step that holds its parameters, as in the model's state; empty outside the steps.
        shape: Of what comes out for one window.
        parameters: Those that no earlier row holds.
        flops_per_token: As in `Cost`.
    """

    part: str
    sublayer: int | None
    module: str
    shape: tuple[int, ...]
    parameters: int
    flops_per_token: int


@functools.lru_cache(maxsize=4096)
def cost(architecture: Architecture) -> Cost:
    """Count a model by building it without memory and running it without arithmetic."""
    try:
        return _measured(architecture)[0]
    except (RuntimeError, TypeError, OverflowError) as e:  # torch counts sizes in 64 bits
        reason = str(e).partition("\n")[0]
        law = "a model is small enough to be counted, and of parts that run without memory (torch's device `meta`)"
        raise InputError(f"a model of width {architecture.width} cannot be measured: {law}: {reason}") from None


def breakdown(architecture: Architecture) -> list[Row]:
    """The cost part by part, in the order of the forward pass."""
    return list(_measured(architecture)[1])


@functools.lru_cache(maxsize=256)
def training_cost(architecture: Architecture) -> TrainingCost:
    """Count the backward pass, and what the forward pass keeps for it."""
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage._cdata] = storage.nbytes()
        return tensor

    with FakeTensorMode():  # processors without memory, so that attention is the fused kernel, as it is in training
        model = Model(architecture)
        counter: Any = FlopCounterMode(display=False, custom_mapping=_FUSED)
        with blaming(model), counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            made = model(_inputs(architecture))
            forward = counter.get_total_flops()
            torch.autograd.backward(made.log_softmax(-1).sum())
        for parameter in model.parameters():
            saved.pop(parameter.untyped_storage()._cdata, None)
    return TrainingCost((counter.get_total_flops() - forward) // model.site.tokens, sum(saved.values()))


def training_bytes(architecture: Architecture, batch: int) -> int:
    """Bytes that a training step needs in float32: weights, gradients, Adam's moments, and the activations of a batch."""
    return ADAM_BYTES * cost(architecture).parameters + batch * training_cost(architecture).activation_bytes


def _fused(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _fused_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))


_FUSED = {  # torch counts the fused kernels of accelerators alone
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _fused,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _fused_backward,
}


def _inputs(architecture: Architecture) -> torch.Tensor:
    """One empty window of the task."""
    sizes = dict(architecture.sizes)
    if "image" in sizes:
        return torch.zeros(1, sizes["channels"], sizes["image"], sizes["image"])
    if "inputs" in sizes:
        return torch.zeros(1, sizes["context"], sizes["inputs"])
    return torch.zeros(1, sizes["context"], dtype=torch.long)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """FLOPs as torch's counter counts them, of tensors without memory, on which an operation is a function of shapes alone. A model has
    few that differ, many times over, and so have its neighbours: each is run once, and what it makes is kept with its FLOPs. Views cost
    nothing, and what writes, or reads numbers, is run every time."""

    kept: ClassVar[dict[Any, tuple[Any, int]]] = {}
    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, plain = kwargs or {}, isinstance(func, torch._ops.OpOverload)
        if plain and func.is_view:
            return func(*args, **kwargs)
        call = (func, _described(args), _described(kwargs))
        if call in self.kept:
            made, flops = self.kept[call]
            self.total += flops
            return _another(made)
        with FlopCounterMode(display=False) as counter:
            made = func(*args, **kwargs)
        flops = counter.get_total_flops()
        self.total += flops
        if plain and not func._schema.is_mutable and _without_memory((args, kwargs, made)):
            if len(self.kept) >= KEPT:
                self.kept.clear()
            self.kept[call] = _another(made), flops
        return made


def _described(value: Any) -> Any:
    """All that an operation sees of an argument without memory; 1, 1.0 and True are three."""
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device
    if isinstance(value, dict):
        return tuple((name, _described(v)) for name, v in value.items())
    return tuple(map(_described, value)) if isinstance(value, list | tuple) else (type(value), value)


def _without_memory(values: Any) -> bool:
    return all(v.is_meta for v in tree_leaves(values) if isinstance(v, torch.Tensor))


def _another(made: Any) -> Any:
    """The like of what an operation made, without memory."""
    if isinstance(made, torch.Tensor):
        return torch.empty_strided(made.shape, made.stride(), dtype=made.dtype, device=made.device)
    return type(made)(map(_another, made)) if isinstance(made, list | tuple) else made


@functools.lru_cache(maxsize=8)  # a person looks at a few models, a search costs thousands
def _measured(architecture: Architecture) -> tuple[Cost, list[Row]]:
    with torch.device("meta"):
        model = Model(architecture).eval().requires_grad_(False)  # views of parameters without gradients upset the counter
        inputs = _inputs(architecture)
    tape = _Tape(model)
    tokens = model.site.tokens
    mixers = [model.steps[name].get_submodule("operation") for name in model.order if model.steps[name].mixes] if model.site.causal else []
    with blaming(model), torch.no_grad(), tape.counter:
        made = model(inputs)
        state = sum(m.state(tokens) for m in mixers)  # type: ignore[operator]
    total = Cost(
        parameters=sum(p.numel() for p in model.parameters()),
        parameters_without_embeddings=sum(p.numel() for p in nn.ModuleList([model.steps, model.final_norm]).parameters()),
        flops_per_token=tape.counter.total // tokens,
        state_per_sequence=state,
    )
    return total, _rows(model, tape, inputs.shape, made.shape)


def _rows(model: Model, tape: _Tape, given: torch.Size, made: torch.Size) -> list[Row]:
    seen: set[int] = set()

    def row(part: str, holder: nn.Module | None, shape: torch.Size, flops: int, sublayer: int | None = None) -> Row:
        own = {id(p): p.numel() for p in holder.parameters() if id(p) not in seen} if holder is not None else {}
        seen.update(own)
        module = "" if sublayer is None else model.order[sublayer]
        return Row(part, sublayer, module, tuple(shape[1:]), sum(own.values()), flops // model.site.tokens)

    first, *calls = tape.calls
    rows = [row("input", None, given, 0), row(first.part, first.module, first.made, first.stop - first.start)]
    rows.append(row("positions", model.positions, calls[0].given, calls[0].start - first.stop))
    rows += [row(c.part, c.module, c.made, c.stop - c.start, c.sublayer) for c in calls]
    rows.append(row("head", model.head, made, tape.counter.total - calls[-1].stop))
    return rows


@dataclass(frozen=True)
class _Call:
    """One call of a part: the sublayer, the FLOPs counted before and after it, the shapes it was given and made."""

    part: str
    sublayer: int | None
    module: nn.Module
    start: int
    stop: int
    given: torch.Size
    made: torch.Size


class _Tape:
    """Every call of the parts of a model, in order. A step whose weights are shared is called, and so written down, several times."""

    def __init__(self, model: Model):
        self.counter = _Counter()
        self.calls: list[_Call] = []
        self._start = 0
        self._step: int | None = None
        self._steps = 0
        parts: dict[nn.Module, str] = {model.embedding: "embedding"}  # a norm may be shared by parallel steps
        for step in model.steps.values():
            parts |= {module: "norm" if name == "after" else name for name, module in step.named_children()}
            step.register_forward_pre_hook(self._enter)
            step.register_forward_hook(self._leave)
        if model.pooling is not None:
            parts[model.pooling] = "pooling"
        parts[model.final_norm] = "norm"
        for module, part in parts.items():
            self._follow(module, part)

    def _enter(self, *_: Any) -> None:
        self._step, self._steps = self._steps, self._steps + 1

    def _leave(self, *_: Any) -> None:
        self._step = None

    def _follow(self, module: nn.Module, part: str) -> None:
        def before(_: nn.Module, given: tuple[Any, ...]) -> None:
            self._start = self.counter.total

        def after(_: nn.Module, given: tuple[Any, ...], made: torch.Tensor) -> None:
            stop = self.counter.total
            self.calls.append(_Call(part, self._step, module, self._start, stop, given[0].shape, made.shape))

        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
