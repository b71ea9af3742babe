"""What every model keeps, whatever it is made of. Each invariant is a function of a `Subject` that returns what is wrong, or None.

The rules say where an invariant holds from the model itself (is it causal, do its positions turn or bias, are all weights of a map above
0), never from a list of words.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.architecture import Architecture
from aotsearch.models.model import Model, build
from aotsearch.models.parts.attention import Attention, present, value_of
from aotsearch.models.parts.coefficient import Follows
from aotsearch.models.parts.score import LinearScore, Sigmoid
from aotsearch.training.masks import Masks

BATCH, STEPS, RATE = 4, 20, 3e-3
SHIFT = 3  # tokens
CLOSE = 1e-4  # of outputs in float64 with positions in float32, relative to their size
EVEN, PEAKED = 0.985, 0.05  # of log n: the entropy of a map that says nothing, and of one that sees one token
ROUNDING = 2.0**-8  # of bfloat16


@dataclass
class Subject:
    """An architecture with one batch of its task."""

    architecture: Architecture

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        return dict(self.architecture.sizes)

    @functools.cached_property
    def inputs(self) -> torch.Tensor:
        s, generator = self.sizes, torch.Generator().manual_seed(0)
        if "image" in s:
            return torch.randn(BATCH, s["channels"], s["image"], s["image"], generator=generator)
        if "inputs" in s:
            return torch.randn(BATCH, s["context"], s["inputs"], generator=generator)
        return torch.randint(0, s["vocabulary"], (BATCH, s["context"]), generator=generator)

    @functools.cached_property
    def targets(self) -> torch.Tensor:
        s, generator = self.sizes, torch.Generator().manual_seed(1)
        if "image" in s:
            return torch.randint(0, s["classes"], (BATCH,), generator=generator)
        if "inputs" in s:
            return torch.randn(BATCH, s["context"], s["outputs"], generator=generator)
        return torch.randint(0, s["vocabulary"], (BATCH, s["context"]), generator=generator)

    def model(self) -> Model:
        return masked(build(self.architecture, seed=1))

    def loss(self, y: torch.Tensor) -> torch.Tensor:
        if "inputs" in self.sizes:
            return F.mse_loss(y.float(), self.targets)
        return F.cross_entropy(y.float().flatten(0, -2), self.targets.flatten())

    @functools.cached_property
    def exact(self) -> Model:
        """The model in float64, away from symmetric starts."""
        model = self.model().double().eval()
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.add_(0.3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name) + p.numel()), dtype=p.dtype))
        return model

    @functools.cached_property
    def exact_inputs(self) -> torch.Tensor:
        return self.inputs.double() if self.inputs.is_floating_point() else self.inputs

    @functools.cached_property
    @torch.no_grad()
    def exact_outputs(self) -> torch.Tensor:
        outputs: torch.Tensor = self.exact(self.exact_inputs)
        return outputs


def masked(model: Model) -> Model:
    """A model in whose every pass the same is dropped."""
    masks = Masks(model, [1], replicas=False)
    model.register_forward_pre_hook(lambda *_: masks.begin(0))
    return model


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, relative to the size of what is expected."""
    return float((found - expected).abs().max() / expected.abs().max().clamp_min(1e-12))


def typically_apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The difference of the median token, since a vector that is nothing but rounding, brought to unit length, is any vector."""
    return float(((found - expected).flatten(0, -2).abs().amax(-1) / expected.abs().max().clamp_min(1e-12)).median())


def finite(s: Subject) -> str | None:
    """Outputs and gradients are numbers, of the right shape."""
    model = s.model()
    y = model(s.inputs)
    shape = (
        (BATCH, s.sizes["classes"]) if "image" in s.sizes else (BATCH, s.sizes["context"], s.sizes.get("vocabulary") or s.sizes["outputs"])
    )
    if y.shape != shape:
        return f"outputs of shape {tuple(y.shape)}, not {shape}"
    s.loss(y).backward()
    wrong = [n for n, p in model.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    return None if y.isfinite().all() and not wrong else f"not finite: {', '.join(wrong) or 'outputs'}"


def deterministic(s: Subject) -> str | None:
    """Two builds are equal, and two forward passes are."""
    one, two = s.model(), s.model()
    if any(not torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True)):
        return "two builds differ"
    return None if torch.equal(one(s.inputs), two(s.inputs)) else "two forward passes differ"


@torch.no_grad()
def causal(s: Subject) -> str | None:
    """What comes later changes nothing before."""
    if not s.exact.site.causal:
        return None
    changed = s.exact_inputs.clone()
    changed[:, 5:] += 1
    if "vocabulary" in s.sizes:
        changed %= s.sizes["vocabulary"]
    far = apart(s.exact(changed)[:, :5], s.exact_outputs[:, :5])
    return None if far < 1e-9 else f"a later token changes earlier outputs by {far:.1g}"


@torch.no_grad()
def shifted(s: Subject) -> str | None:
    """Where positions turn queries and keys or bias scores, the outputs depend on distances alone: all places may grow by the same."""
    positions = s.exact.positions
    if not (positions.rotates or positions.biases):
        return None
    rotate, bias = positions.rotate, positions.bias
    moved = {
        "rotate": lambda x: rotate(F.pad(x, (0, 0, SHIFT, 0)))[..., SHIFT:, :],
        "bias": lambda heads, tokens, device: bias(heads, tokens + SHIFT, device)[..., SHIFT:, SHIFT:],
    }
    expected = s.exact_outputs
    vars(positions).update(moved)
    try:
        far = apart(s.exact(s.exact_inputs), expected)
    finally:
        for name in moved:
            vars(positions).pop(name)
    return None if far < CLOSE else f"outputs change by {far:.1g} where all places grow by {SHIFT}"


@torch.no_grad()
def permuted(s: Subject) -> str | None:
    """Without positions and a mask the tokens are a set."""
    if s.exact.site.causal or not s.architecture.positions.absent:
        return None
    tokens = s.exact.embedding(s.exact_inputs).shape[1]
    order = torch.randperm(tokens, generator=torch.Generator().manual_seed(0))
    hook = s.exact.embedding.register_forward_hook(lambda module, inputs, x: x[:, order])
    try:
        found = s.exact(s.exact_inputs)
    finally:
        hook.remove()
    far = apart(found, s.exact_outputs if s.exact.pooling is not None else s.exact_outputs[:, order])
    return None if far < 1e-9 else f"another order of the tokens changes the outputs by {far:.1g}"


def learns(s: Subject) -> str | None:
    """The loss of one batch falls, where a gradient reaches anything; see `heard` where none does."""
    model = s.model()
    adam = torch.optim.Adam(model.parameters(), lr=RATE)
    losses = []
    for _ in range(STEPS):
        losses.append(s.loss(model(s.inputs)))
        adam.zero_grad()
        losses[-1].backward()
        if torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0) == 0:
            return None
        adam.step()
    first, last = losses[0].item(), min(loss.item() for loss in losses[-3:])
    return None if last < first else f"the loss goes from {first:.4f} to {last:.4f}"


def heard(s: Subject) -> str | None:
    """A gradient reaches every parameter: away from the start at once, and from the start in a few steps.

    What stays silent only near the start is one of two things. Where a little noise wakes it, the start is a saddle that training does not
    leave, which is a fault. Where it does not, a threshold is not reached there, which is what thresholds are for.
    """
    further, never = away(s)
    excused = [f"steps.{name}." for name in mute(s, further)] if never else []
    excused += [f"{name}." for name, module in further.named_modules() if isinstance(module, Attention) and not mapped(module)]
    if s.exact.pooling is not None and not any(step.mixes for step in s.exact.steps.values()):
        excused.append("embedding.")  # the tokens that are pooled may have heard of no other
        excused += ["positions."] * bool(s.exact.pooling.added)  # and a token of its own stands at one place alone
    excused += cancelled(further)
    never = {n for n in never if not n.startswith(tuple(excused))}
    if never:
        return f"no gradient ever reaches {', '.join(sorted(never))}"
    still = silent(s, s.model().double(), 4)  # without norms and residual connections the signal may be very small
    still -= silent(s, noisy(s.model().double(), 1e-6), 1) if still else set()
    return f"the start is a saddle for {', '.join(sorted(still))}" if still else None


def away(s: Subject) -> tuple[Model, set[str]]:
    """The model far from its start, and the parameters that no gradient reaches at any distance: where one does not reach a threshold,
    another may."""
    never = {name for name, _ in s.exact.named_parameters()}
    for size in (0.0, 1.0, 3.0):
        model = noisy(s.exact, size).train()
        never &= silent(s, model, 1)
        if not never:
            break
    return model, never


def cancelled(model: Model) -> list[str]:
    """The coefficients that say nothing in the first attention, whose values are the first values: the two terms that one number ties."""
    for name, module in model.named_modules():
        if isinstance(module, Attention):
            tied = isinstance(module.first, Follows) or isinstance(module.identity, Follows)
            return [f"{name}.first.", f"{name}.identity."] if tied and present(module.first) and present(module.identity) else []
    return []


@torch.no_grad()
def mapped(module: Attention) -> bool:
    """Whether a term with a map has another coefficient than 0."""
    return any(torch.as_tensor(value_of(c)).any() for c in (module.map, module.square, module.second))


@torch.no_grad()
def mute(s: Subject, model: Model) -> set[str]:
    """The steps whose operation hears nothing: each of its terms has a number 0 before it, or no threshold is reached."""
    found: set[str] = set()

    def hear(name: str, y: torch.Tensor) -> None:
        if torch.equal(y, y[:1, :1].expand_as(y)):
            found.add(name)

    hooks = [step.operation.register_forward_hook(lambda _, __, y, name=name: hear(name, y)) for name, step in model.steps.items()]  # type: ignore[union-attr, operator]
    model(s.exact_inputs)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def noisy(model: Model, size: float) -> Model:
    """A copy with noise of this size on every parameter."""
    found = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(int(size))
    for p in found.parameters():
        p.add_(size * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return found


def silent(s: Subject, model: Model, steps: int) -> set[str]:
    """The parameters that no gradient reaches within some steps."""
    left = {n for n, _ in model.named_parameters()}
    adam = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(steps):
        adam.zero_grad()
        s.loss(model(s.exact_inputs)).backward()
        left -= {n for n, p in model.named_parameters() if n in left and p.grad is not None and p.grad.abs().sum() > 0}
        if not left:
            break
        adam.step()
    return left


@torch.no_grad()
def rounded(s: Subject) -> str | None:
    """Under bf16 autocast the outputs are about as near as where the outputs of linear maps, embeddings and A V are rounded as coarsely."""
    model = s.model().eval()
    y = model(s.inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(s.inputs).float()
    if not found.isfinite().all():
        return "not finite in bfloat16"
    generator = torch.Generator().manual_seed(0)

    def coarse(out: torch.Tensor) -> torch.Tensor:
        return out * (1 + ROUNDING * torch.randn(out.shape, generator=generator))

    for module in model.modules():
        if isinstance(module, nn.Linear) or module is model.embedding:
            module.register_forward_hook(lambda _, __, out: coarse(out))
        if isinstance(module, Attention):
            vars(module)["attend"] = lambda *given, attend=module.attend: coarse(attend(*given))
    apart, far = typically_apart(model(s.inputs), y), typically_apart(found, y)
    return None if far < 0.02 + 6 * apart else f"outputs in bfloat16 are off by {far:.2g}, with rounded activations by {apart:.2g}"


@contextmanager
def watched(model: nn.Module) -> Iterator[list[tuple[Attention, torch.Tensor, torch.Tensor]]]:
    """Every map (B, H, L, L) that attention makes, with what its queries may see."""
    found: list[tuple[Attention, torch.Tensor, torch.Tensor]] = []

    def watch(module: Attention) -> None:
        attend = module.attend

        def attended(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *rest: Any) -> torch.Tensor:
            L = q.shape[-2]
            found.append((module, attend(q, k, torch.eye(L, dtype=q.dtype).expand(*k.shape[:2], L, L), *rest), module.keep(L, q.device)))
            return attend(q, k, v, *rest)

        vars(module)["attend"] = attended

    attentions = [m for m in model.modules() if isinstance(m, Attention) and m.memory == 0]
    for module in attentions:
        watch(module)
    try:
        yield found
    finally:
        for module in attentions:
            vars(module).pop("attend")


@torch.no_grad()
def entropic(s: Subject) -> str | None:
    """A map is neither even nor on one token, where tokens are normal and plain attention has scores of standard
    deviation 2.

    A map whose weights are not all above 0 is one by design (a threshold), and so is one whose scores a number in the study bounds.
    """
    model, tokens = s.model().double().eval(), torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, Attention):
            for p in module.projections.parameters():
                if p.ndim == 2:
                    p.copy_(
                        torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel()), dtype=p.dtype) * math.sqrt(2 / p.shape[1])
                    )
            module.register_forward_pre_hook(
                lambda _, given: (torch.randn(given[0].shape, generator=tokens, dtype=torch.float64), *given[1:])
            )
    with watched(model) as maps:
        model(s.exact_inputs)
    for module, A, keep in maps:
        if not bounded(module) and (A.masked_select(keep) > 0).all():
            p = A.masked_fill(~keep, 0.0)[..., 1:, :]  # the first token of a causal model sees one
            p = p / p.sum(-1, keepdim=True)
            share = float((-(p * p.clamp_min(1e-300).log()).sum(-1) / keep.sum(-1)[1:].log()).mean())
            if not PEAKED < share < EVEN:
                return f"the entropy of a map is {share:.3f} log n"
    return None


def bounded(module: Attention) -> bool:
    """Whether a number in the study says how large scores may be, or that moderate scores leave a map even: what linear attention's
    features do, and a bias above 0."""
    full = isinstance(module.score, Sigmoid) and module.score.bias != "log" and module.score.bias > 0
    if full or isinstance(module.score, LinearScore):
        return True
    written = module.learned_scale is None and module.scale**2 not in (module.size, module.size // 2)
    return module.softcap != "none" or (module.qk_norm == "l2" and written)


INVARIANTS: dict[str, Callable[[Subject], str | None]] = {
    f.__name__: f for f in (finite, deterministic, causal, shifted, permuted, heard, learns, rounded, entropic)
}


def broken(architecture: Architecture, skipped: tuple[str, ...] = ()) -> dict[str, str]:
    """The invariants that a model does not keep, each with what is wrong."""
    try:
        subject = Subject(architecture)
        subject.exact  # noqa: B018 (it is built)
    except Exception as e:  # noqa: BLE001 (whatever the library raises for what its laws admit)
        return {"built": f"{type(e).__name__}: {e}"}
    found = {}
    for name, holds in INVARIANTS.items():
        try:
            wrong = None if name in skipped else holds(subject)
        except Exception as e:  # noqa: BLE001
            wrong = f"{type(e).__name__}: {e}"
        if wrong is not None:
            found[name] = wrong
    return found
