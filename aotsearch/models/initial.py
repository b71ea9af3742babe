"""Initial values, drawn by the name of a parameter and the seed, never in passing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping

import torch
from torch import nn

INITIAL_STD = 0.02  # Radford et al. 2019 (GPT-2), as in nanoGPT
UNSCALED = ("normal", "simplified")  # the schemes that do not divide what writes to the stream by sqrt(2 N)


Start = tuple[str, float]  # `normal` with a standard deviation, `uniform` in (-1, 1) over a number, `zero` or `identity`


@torch.no_grad()
def initialise(starts: Iterable[tuple[str, nn.Parameter, Start]], seed: int) -> None:
    """Draw initial values, each by the name of its parameter and the seed."""
    for name, parameter, (how, number) in starts:
        if how == "identity":
            parameter.copy_(torch.eye(len(parameter)))
        elif how == "zero":
            parameter.zero_()
        elif how == "uniform":
            parameter.copy_((2 * torch.rand(parameter.shape, generator=_generator(seed, name)) - 1) / number)
        else:
            parameter.copy_(torch.randn(parameter.shape, generator=_generator(seed, name)) * number)


def starts(
    parameters: Mapping[str, nn.Parameter], scheme: str, layers: int, rests: Callable[[str], bool]
) -> Iterator[tuple[str, nn.Parameter, Start]]:
    r"""How a scheme starts matrices, by name; vectors and scalars keep the part's own start, and a part may say how to draw its own.

    gpt2: N(0, 0.02^2), those that write to the residual stream (`output.weight`) divided by sqrt(2 N); their biases 0
    torch: U(-1, 1) / sqrt(inputs) for matrices and their biases, N(0, 1) for token embeddings
    zero-output: gpt2, but `output.weight` is 0, so that every sublayer starts as the identity; not where its join keeps nothing of the
        stream or starts at 0 itself
    shaped: gpt2, but `query.weight` is 0, so that attention starts uniform
    identity: square matrices of the sublayers are the identity, so that the subspaces of attention are blocks of coordinates; the rest gpt2
    normal: N(0, 0.02^2) throughout, biases 0; maps of patches, places and vectors to the width as torch
    torch-ends: gpt2, but what reads the input and the head as torch
    simplified: normal, but `query.weight` is 0 and `value.weight` the identity

    Source: gpt2: Radford et al. 2019, nanoGPT; torch: torch.nn.Linear; shaped, simplified: He and Hofmann 2023, arXiv:2311.01906, and its
    code; normal: timm's vision transformer and XCiT, Llama of Hugging Face; torch-ends: Garg et al. 2022, arXiv:2208.01066.
    Differs: N is the larger of the numbers of mixers and of channel operations, not of all of them by two, so that a model without
    its MLPs starts at the same attention weights as the model with them.

    Args:
        layers: N.
        rests: Whether a parameter belongs to a sublayer that may put out 0 at the start.
    """
    for name, parameter in parameters.items():
        own = getattr(parameter, "initial_std", None)
        weight = _weight_of(name, parameters)
        uniform = as_torch(scheme, name)
        if own is not None:
            yield name, parameter, ("normal", own)
        elif parameter.ndim < 2 and (weight is None or not uniform):
            if weight is not None:  # torch.nn.Linear has drawn it in passing
                yield name, parameter, ("zero", 0.0)
        elif _starts_as_identity(scheme, name) and parameter.shape == (len(parameter),) * 2:
            yield name, parameter, ("identity", 1.0)
        elif uniform and name == "embedding.weight":
            yield name, parameter, ("normal", 1.0)
        elif uniform:
            yield name, parameter, ("uniform", math.sqrt((parameter if weight is None else weight)[0].numel()))
        else:
            writes, asks = name.endswith("output.weight"), name.endswith("query.weight")
            std = INITIAL_STD / math.sqrt(2 * layers) if writes and scheme not in UNSCALED else INITIAL_STD
            silent = (scheme == "zero-output" and writes and rests(name)) or (scheme in ("shaped", "simplified") and asks)
            yield name, parameter, ("normal", 0.0 if silent else std)


def as_torch(scheme: str, name: str) -> bool:
    """Whether a scheme leaves a matrix and its bias as torch's own modules start them."""
    reads = name.startswith(("embedding.", "positions."))
    if scheme in UNSCALED:
        return reads and name != "embedding.weight"
    return scheme == "torch" or (scheme == "torch-ends" and (reads or name.startswith("head.")))


def _starts_as_identity(scheme: str, name: str) -> bool:
    """Whether a scheme starts a matrix, where it is square, as the identity."""
    return (scheme == "identity" and name.startswith("steps.")) or (scheme == "simplified" and name.endswith("value.weight"))


def _weight_of(name: str, parameters: Mapping[str, nn.Parameter]) -> nn.Parameter | None:
    """The matrix that a bias belongs to; a norm's bias has none."""
    weight = parameters.get(name.removesuffix("bias") + "weight") if name.endswith(".bias") else None
    return weight if weight is not None and weight.ndim > 1 else None


def _generator(seed: int, name: str) -> torch.Generator:
    number = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
    return torch.Generator().manual_seed(number)
