"""A look inside a trained model, which stays as it was: diagnostics of every sublayer, and the loss without it.

measure(model, inputs, ("token-cosine", "snr"))       -> {name: one number per sublayer}
knock_out(model, lambda m: evaluate(m)["loss"])       -> rows of part, way, loss, increase
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.diagnostics import measures
from aotsearch.diagnostics.catalogue import Diagnostic, catalogue, cheap
from aotsearch.diagnostics.measures.gradients import gradient_norm
from aotsearch.diagnostics.measures.seen import Call, Map, Subspaces
from aotsearch.models.model import Model
from aotsearch.models.parts.attention import TERMS, Attention, present, value_of
from aotsearch.models.parts.context import ForwardContext
from aotsearch.models.parts.tssa import TokenStatistics

ENTRIES = 1 << 23  # of the largest tensor that a pass makes for the diagnostics: 32 MiB in float32
WAYS = ("zero", "mean", "identity")

Numbers = dict[str, list[float | None]]
Tap = Callable[[int, tuple[Any, ...], torch.Tensor], torch.Tensor | None]


@contextlib.contextmanager
def tapped(model: Model, **taps: Tap) -> Iterator[None]:
    """Call `tap(sublayer, inputs, output)` after each call of the module so named in a step (`step` is the whole), in the order of the
    forward pass; what a tap returns takes the place of the output, unless it is None. The taps are gone at the end, whatever happens."""
    place = -1

    def start(*_: Any) -> None:
        nonlocal place
        place = -1

    def enter(*_: Any) -> None:
        nonlocal place
        place += 1

    def hook(tap: Tap) -> Callable[..., torch.Tensor | None]:
        return lambda _, inputs, output: tap(place, inputs, output)

    handles = [model.register_forward_pre_hook(start)]
    handles += [step.register_forward_pre_hook(enter) for step in model.steps.values()]
    for name, tap in taps.items():
        modules = (step if name == "step" else step.get_submodule(name) for step in model.steps.values())
        handles += [module.register_forward_hook(hook(tap)) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def _still(model: Model) -> Iterator[None]:
    """Without gradients, and with the statistics of batch norms as they are."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)


def measure(
    model: Model,
    inputs: torch.Tensor,
    names: Iterable[str] | None = None,
    loss: Callable[[Model], torch.Tensor] | None = None,
) -> Numbers:
    """Diagnostics of a model on some inputs, each a mean over windows; see docs/diagnostics.md.

    Args:
        model: Stays as it is.
        inputs: What the model takes, one item a window; passed in as many parts as memory asks for, with the same result. The cheap
            diagnostics cost about as much again as the forward pass, so on half of an evaluation batch less than that batch.
        names: Of the catalogue; by default the cheap ones.
        loss: A scalar with a gradient, for `gradient-norm`.

    Returns:
        For each name a number per sublayer in the order of the forward pass, of the stream one more; None where there is none.
    """
    wanted = [catalogue()[name] for name in dict.fromkeys(cheap() if names is None else names)]
    sums: dict[str, dict[int, float | None]] = {d.name: {} for d in wanted if d.kind != "gradient"}
    device = next(model.parameters()).device
    with _still(model), torch.autocast(device.type, enabled=False):
        for part in torch.split(inputs, _windows(model, wanted)):
            for name, place, value in _pass(model, part.to(device), wanted):
                before = sums[name].get(place, 0.0)
                sums[name][place] = None if value is None or before is None else before + value * len(part) / len(inputs)
    found: Numbers = {name: [places[i] for i in sorted(places)] for name, places in sums.items()}
    if any(d.kind == "gradient" for d in wanted):
        assert loss is not None, "gradient-norm needs a loss"
        found |= gradient_norms(model, loss)
    return found


def _windows(model: Model, wanted: list[Diagnostic]) -> int:
    """How many windows a pass may take."""
    heads = max((getattr(step.operation, "heads", 1) for step in model.steps.values()), default=1)
    wide = max(heads * model.site.tokens, model.site.width) if any(d.needs_attention for d in wanted) else model.site.width
    return max(1, ENTRIES // (model.site.tokens * wide))


def _pass(model: Model, inputs: torch.Tensor, wanted: list[Diagnostic]) -> list[tuple[str, int, float | None]]:
    """Name, place and value of every diagnostic in one forward pass. Nothing of a sublayer is kept once it has been measured."""
    found: list[tuple[str, int, float | None]] = []
    seen: dict[str, torch.Tensor] = {}
    makes: dict[str, Callable[[Call], Any]] = {"sublayer": lambda call: call, "subspaces": _subspaces, "map": _map}

    def operated(_: int, given: tuple[Any, ...], made: torch.Tensor) -> None:
        seen["given"] = given[0]

    def joined(_: int, given: tuple[Any, ...], made: torch.Tensor) -> None:
        seen["joined"] = made

    def left(place: int, given: tuple[Any, ...], made: torch.Tensor) -> None:
        x_BLD, flow, read_BLD = given
        call = Call(model.steps[model.order[place]], flow, x_BLD, read_BLD, seen["given"], seen["joined"], made)  # type: ignore[arg-type]
        arguments = {kind: make(call) for kind, make in makes.items() if any(d.kind == kind for d in wanted)}
        for d in wanted:
            if d.per_point:
                if place == 0:
                    found.append((d.name, 0, _value(d, x_BLD)))
                found.append((d.name, place + 1, _value(d, made)))
            elif d.kind in arguments:
                found.append((d.name, place, _value(d, arguments[d.kind])))

    with tapped(model, operation=operated, join=joined, step=left):
        model(inputs)
    return found


def _value(d: Diagnostic, argument: Any) -> float | None:
    """The mean of a diagnostic over windows and whatever else it is given for; None where it is none, or not finite."""
    if argument is None:
        return None
    try:
        value = getattr(measures, d.function)(argument, *([d.term] if d.term else []))
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # of numbers that are not finite
        return None
    mean = None if value is None else torch.as_tensor(value).double().mean()
    return mean.item() if mean is not None and mean.isfinite() else None


def _subspaces(call: Call) -> Subspaces | None:
    """The projections of a mixer's heads; None where it has none of its own."""
    mixer = call.step.operation
    weight: torch.Tensor | None = None
    size = 1
    if isinstance(mixer, TokenStatistics):
        weight, size = mixer.subspace.weight, mixer.subspace.out_features // mixer.heads
    elif isinstance(mixer, Attention):
        name = {"tied": "subspace", "shared-kv": "key"}.get(mixer.qkv, "value")
        size = mixer.size
        if mixer.value == "identity":
            weight = torch.eye(mixer.heads * size, dtype=call.x_BLD.dtype, device=call.x_BLD.device)
        elif name in mixer.projections:
            weight = mixer.projections.get_parameter(f"{name}.weight")
    return None if weight is None else Subspaces(weight.view(-1, size, weight.shape[-1]), call.given_BLD, call.after_BLD)


def _map(call: Call) -> Map | None:
    """The attention map written out; None for an operation that has none."""
    mixer = call.step.operation
    if not isinstance(mixer, Attention) or not mixer.attends:
        return None
    v_BHLP = mixer.values_of(call.given_BLD, call.flow)
    q_BHLP, k_BHLP = mixer.queries_and_keys(call.given_BLD, v_BHLP, call.flow)
    if present(mixer.second):  # A is the map of the first halves
        q_BHLP, k_BHLP = q_BHLP.chunk(2)[0], k_BHLP.chunk(2)[0]
    seen_L = mixer.keep(q_BHLP.shape[-2], q_BHLP.device).sum(-1)
    a_BHLM = attention_map(mixer, q_BHLP, k_BHLP, call.flow)
    if mixer.memory > 0:
        v_BHLP = torch.cat([mixer.memory_value.expand(len(v_BHLP), -1, -1, -1), v_BHLP], dim=-2)
    return Map(a_BHLM, seen_L, v_BHLP, call.given_BLD, call.after_BLD)


def attention_map(mixer: Attention, q_BHLP: torch.Tensor, k_BHMP: torch.Tensor, flow: ForwardContext) -> torch.Tensor:
    """A (B, H, L, M), as `mixer.attend` applies it to values; memory stands in the first columns."""
    L = q_BHLP.shape[-2]
    if mixer.memory > 0:
        k_BHMP = mixer.remembered(k_BHMP)
    if mixer.features:
        q_BHLP, k_BHMP = F.elu(q_BHLP) + 1, F.elu(k_BHMP) + 1
    s_BHLM = q_BHLP @ k_BHMP.mT * mixer.scale
    if mixer.softcap != "none":
        s_BHLM = mixer.softcap * torch.tanh(s_BHLM / mixer.softcap)
    if mixer.biases:
        s_BHLM = s_BHLM + F.pad(flow.positions.bias(mixer.heads, L, s_BHLM.device).to(s_BHLM.dtype), (mixer.memory, 0))
    keep_LM = mixer.keep(L, s_BHLM.device)
    a_BHLM: torch.Tensor
    a_BHLM = s_BHLM.masked_fill(~keep_LM, float("-inf")).softmax(-1) if mixer.score is None else mixer.score(s_BHLM, keep_LM)
    if mixer.causal and not mixer.diagonal and mixer.memory == 0:  # the first token sees none
        a_BHLM[..., 0, :] = 0
    return a_BHLM


@torch.no_grad()
def coefficients(model: Model) -> dict[str, list[list[float] | None]]:
    """Term of the mixing matrix -> per sublayer its coefficient, one number per head or one for all; None where it is a fixed number.
    Terms without any are left out."""
    found: dict[str, list[list[float] | None]] = {}
    for term in TERMS:
        modules = [getattr(model.steps[name].operation, term, None) for name in model.order]
        numbers = [value_of(m).flatten().tolist() if isinstance(m, nn.Module) else None for m in modules]  # type: ignore[union-attr]
        if any(n is not None for n in numbers):
            found[term] = numbers
    return found


def gradient_norms(model: Model, loss: Callable[[Model], torch.Tensor]) -> Numbers:
    """The norm of the gradient of each sublayer's parameters, which keep whatever gradients they hold. As for all that is measured, batch
    norms use what they have seen in training."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    with _still(model), torch.enable_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
        gradients = dict(zip(parameters, torch.autograd.grad(loss(model), parameters, allow_unused=True), strict=True))
    norms = {name: gradient_norm([gradients.get(p) for p in step.parameters()]).item() for name, step in model.steps.items()}
    return {"gradient-norm": [norms[name] for name in model.order]}


@dataclass(frozen=True)
class KnockOut:
    """What a trained model loses without a part of it, which was never trained to do without.

    Attributes:
        part: The name of a sublayer's weights, such as `attention_0`; or `mixers` or `channels`, all of them at once.
        sublayers: Their places in the forward pass.
        way: `zero` skips a sublayer, so that the stream passes it unchanged; `mean` replaces what its operation makes by the mean of that
            over all tokens of the evaluation; `identity` by what the operation was given.
        loss: What `evaluate` gives then.
        increase: That less what it gives for the whole model.
    """

    part: str
    sublayers: tuple[int, ...]
    way: str
    loss: float
    increase: float


def knock_out(
    model: Model, evaluate: Callable[[Model], float], sublayers: Sequence[int] | None = None, ways: Sequence[str] = WAYS
) -> list[KnockOut]:
    """The loss of a trained model without each of some sublayers; by default without each, and without all mixers or channel operations.

    A skipped first attention still leaves its values to those after it that use them. Source: Lad et al. 2024, arXiv:2406.19384; replacing
    by the mean: Wang et al. 2022, arXiv:2211.00593.
    """
    places = range(len(model.order))
    wanted: list[tuple[str, tuple[int, ...]]] = [(model.order[i], (i,)) for i in (places if sublayers is None else sublayers)]
    if sublayers is None:
        for part, mixes in (("mixers", True), ("channels", False)):
            group = tuple(i for i in places if model.steps[model.order[i]].mixes == mixes)
            wanted += [(part, group)] if len(group) > 1 else []
    sums: dict[int, torch.Tensor] = {}
    counts: dict[int, int] = dict.fromkeys(places, 0)

    def add(place: int, _: tuple[Any, ...], made: torch.Tensor) -> None:
        sums[place] = sums.get(place, 0) + made.double().sum((0, 1))
        counts[place] += made.shape[0] * made.shape[1]

    rows = []
    with _still(model):
        with tapped(model, operation=add):
            whole = evaluate(model)
        means = {i: total / counts[i] for i, total in sums.items()}
        for part, group in wanted:
            for way in ways:
                with tapped(model, **_replaced(way, frozenset(group), means)):
                    loss = evaluate(model)
                rows.append(KnockOut(part, group, way, loss, loss - whole))
    return rows


def _replaced(way: str, group: frozenset[int], means: dict[int, torch.Tensor]) -> dict[str, Tap]:
    """The tap that knocks out the sublayers of a group."""
    assert way in WAYS, way

    def given(place: int, inputs: tuple[Any, ...], made: torch.Tensor) -> torch.Tensor | None:
        return inputs[0] if place in group else None

    def mean(place: int, inputs: tuple[Any, ...], made: torch.Tensor) -> torch.Tensor | None:
        return means[place].to(made.dtype).expand_as(made) if place in group else None

    taps: dict[str, dict[str, Tap]] = {"zero": {"step": given}, "identity": {"operation": given}, "mean": {"operation": mean}}
    return taps[way]
