"""What may foretell how a model trains, computed before it is trained from its first batch: the zero-cost hints of a search.

    measure(model, inputs, loss, ("synflow", "initial-gradient-norm"))   -> {name: number}

Each is one function, named and described as a diagnostic is; a name that begins with `initial-` is of a quantity that trained models
have too.
Shape letters: B batch, L tokens, D width.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from aotsearch.diagnostics import probe
from aotsearch.diagnostics.catalogue import diagnostic, hints
from aotsearch.grammar import library
from aotsearch.models.model import Model
from aotsearch.models.parts.attention import TERMS, Attention

WINDOWS = 32  # of the batch, for what costs a decomposition of each

Loss = Callable[[Model], torch.Tensor]


def measure(model: Model, inputs: torch.Tensor, loss: Loss, names: Iterable[str]) -> dict[str, float | None]:
    """Hints of an untrained model, which stays as it was, as does what random numbers are drawn from.

    Args:
        model: On any device; what is computed is a copy of it, where the inputs are.
        inputs: The first batch.
        loss: Of a model on that batch.
        names: Of the catalogue's `hints`.

    Returns:
        A number for each name; None where there is none, such as of a model without parameters, or it is not finite.
    """
    device = inputs.device
    found: dict[str, float | None] = dict.fromkeys(names)
    if next(model.parameters(), None) is None:
        return found
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.autocast(device.type, enabled=False):
        for name in found:
            value = globals()[hints()[name].function](copy.deepcopy(model).to(device), inputs, loss)
            found[name] = value if value is not None and math.isfinite(value) else None
    return found


@diagnostic("untrained", cost="one backward pass")
def initial_gradient_norm(model: Model, inputs: torch.Tensor, loss: Loss) -> float | None:
    r"""How strongly the first batch pulls at the matrices of the model.

    sum_W |dL / dW|,  W the matrices, L the loss of the batch, |.| the Frobenius norm

    Source: Abdelfattah et al. 2021, arXiv:2101.08134 (grad_norm).
    Differs: W are all matrices, those of embeddings and positions too (source: of linear maps and convolutions). Nothing is dropped.
    """
    for module in model.train().modules():  # batch norms as in training
        if isinstance(module, nn.Dropout):
            module.eval()  # whose masks would be another number at every call
    matrices = _matrices(model)
    gradients = torch.autograd.grad(loss(model), matrices, allow_unused=True) if matrices else ()
    norms = [torch.linalg.vector_norm(g) for g in gradients if g is not None]
    return sum(n.item() for n in norms) if norms else None


@diagnostic("untrained", cost="one backward pass of one window, in double precision")
def synflow(model: Model, inputs: torch.Tensor, _: Loss) -> float | None:
    r"""The logarithm of what all paths from the stream to the outputs weigh together; it sees no data, and no sign of a weight.

    log sum_W sum_ij |W_ij dR / dW_ij|,  W the matrices of the model with |t| for each of its parameters t,  R the sum of its outputs

    Source: Tanaka et al. 2020, arXiv:2006.05467; as a hint Abdelfattah et al. 2021, arXiv:2101.08134, for transformers Zhou et al. 2022,
    arXiv:2203.12217.
    Differs: the logarithm, which ranks alike; the stream is 1 everywhere after the embedding, since tokens have no input of ones (source:
    the input is); norms of sublayers and before the head are left out, as there batch norms, so it tells neither one norm from another nor
    where it stands; coefficients of mixing matrices are |c| too, or A - I would be nothing for tokens that are all alike; attention is
    scored as other matrices are, not by nuclear norms (Zhou et al.). Activations, softmax and gates stay as they are.
    """
    model = _made_positive(model.double().eval())  # one window has no statistics of a batch
    matrices = _matrices(model)
    outputs = model(inputs[:1].double() if inputs.is_floating_point() else inputs[:1])
    gradients = torch.autograd.grad(outputs.sum(), matrices, allow_unused=True) if matrices else ()
    total = sum((w * g).abs().sum().item() for w, g in zip(matrices, gradients, strict=True) if g is not None)
    return math.log(total) if total > 0 else None


@diagnostic("untrained", cost="singular values per window")
def initial_effective_rank(model: Model, inputs: torch.Tensor, _: Loss) -> float | None:
    r"""How many directions the tokens use after the last sublayer.

    exp(-sum_i p_i log p_i),  p_i = s_i / sum_j s_j,  s the singular values of X after the last sublayer, the mean over windows

    Source: Roy and Vetterli 2007, as the diagnostic `effective-rank`.
    """
    values = probe.measure(model, inputs[:WINDOWS], ("effective-rank",))["effective-rank"]
    return values[-1] if values else None


def _matrices(model: Model) -> list[nn.Parameter]:
    """The trained parameters but vectors and numbers, each once."""
    return [p for p in model.parameters() if p.ndim > 1 and p.requires_grad]


def _made_positive(model: Model) -> Model:
    """A model, changed in place, in which nothing between the stream and the outputs cancels: no weight is negative, nothing is normed."""
    coefficients = {(w.module, w.qualname) for w in library.words_of("coefficient").values()}
    kept: set[nn.Parameter] = set()
    for module in list(model.modules()):
        if (type(module).__module__, type(module).__qualname__) in coefficients:
            kept |= set(module.parameters())  # what it makes of them is made positive
        if isinstance(module, Attention):
            for term in TERMS:
                _make_positive(module, term, -1.0 if term == "second" else 1.0)  # which is subtracted
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter not in kept:
                parameter.abs_()
    for step in model.steps.values():
        step.norm = step.after = nn.Identity()
    model.final_norm = nn.Identity()
    model.embedding.register_forward_hook(lambda _, __, made: torch.ones_like(made))
    return model


def _make_positive(mixer: Attention, term: str, sign: float) -> None:
    coefficient = getattr(mixer, term)
    if isinstance(coefficient, nn.Module):
        coefficient.register_forward_hook(lambda _, __, made: sign * made.abs())
    else:
        setattr(mixer, term, sign * abs(coefficient))
