"""Embeddings: what a task gives -> x_BLD, the residual stream before the first sublayer.

Shape letters: B batch, L tokens, D width, V vocabulary, C channels, N patches.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from aotsearch.grammar.words import Count, Flag, Positive, word
from aotsearch.models.parts.context import LayerContext, drawn


@word("embedding", "token")
class Token(nn.Module):
    r"""A learned vector per token of the vocabulary.

    x_l = E[token_l]

    Source: Radford et al. 2019 (GPT-2).

    Requires:
        vocabulary > 0
    """

    def __init__(self, site: LayerContext):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(site.sizes["vocabulary"], site.width))

    def forward(self, tokens_BL: torch.Tensor) -> torch.Tensor:
        return F.embedding(tokens_BL, self.weight)


@word("embedding", "patch")
class Patch(nn.Module):
    r"""A linear map of square patches that do not overlap. Without norms it is a convolution whose stride is its size.

    x_n = W p_n + b,   p_n the C size^2 entries of patch n;   with norms: x_n = LN(W LN(p_n) + b);   after: x_n = LN(W p_n + b)

    Source: Dosovitskiy et al. 2020, arXiv:2010.11929; norms: Yu et al. 2023, arXiv:2306.01129 (CRATE).

    Args:
        size: Side of a patch in pixels.
        norms: Whether there is a LayerNorm before and after the map, or only `after` it.
        std: Standard deviation of the initial values of W; b then starts at 0. `model` leaves both to the model's
            initialisation.

    Requires:
        image % size == 0
    """

    def __init__(
        self, site: LayerContext, *, size: Count = 2, norms: Flag | Literal["after"] = False, std: Positive | Literal["model"] = "model"
    ):
        super().__init__()
        self.size = size
        entries = site.sizes["channels"] * size * size
        self.before = nn.LayerNorm(entries) if norms is True else None
        self.map = nn.Linear(entries, site.width)
        if std != "model":
            self.map.weight = drawn(nn.Parameter(torch.zeros(site.width, entries)), std)
            self.map.bias = drawn(nn.Parameter(torch.zeros(site.width)), 0.0)
        self.after = nn.LayerNorm(site.width) if norms is not False else None

    def tokens(self, image: int) -> int:
        """How many tokens an image of so many pixels a side becomes."""
        return (image // self.size) ** 2

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        B, C, H, W = images_BCHW.shape
        grid = images_BCHW.view(B, C, H // self.size, self.size, W // self.size, self.size)
        x_BND: torch.Tensor = grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        if self.before is not None:
            x_BND = self.before(x_BND)
        x_BND = self.map(x_BND)
        if self.after is not None:
            x_BND = self.after(x_BND)
        return x_BND


@word("embedding", "stem")
class Stem(nn.Module):
    r"""Convolutions 3 x 3 of stride 2 that halve the image until a token covers `size` pixels.

    conv -> batch norm, then (GELU -> conv -> batch norm) repeated; the width doubles up to D

    Source: El-Nouby et al. 2021, arXiv:2106.09681 (XCiT), as ToST uses it.

    Args:
        size: Side in pixels of what becomes one token; a power of two.

    Requires:
        size == 2 or size == 4 or size == 8 or size == 16
        image % size == 0
        width * 2 % size == 0
    """

    def __init__(self, site: LayerContext, *, size: Count = 16):
        super().__init__()
        self.size = size
        halvings = size.bit_length() - 1
        widths = [site.sizes["channels"], *(site.width >> (halvings - 1 - i) for i in range(halvings))]
        layers: list[nn.Module] = []
        for i in range(halvings):
            layers += [nn.GELU()] if i else []
            layers += [nn.Conv2d(widths[i], widths[i + 1], 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(widths[i + 1])]
        self.layers = nn.Sequential(*layers)

    def tokens(self, image: int) -> int:
        """How many tokens an image of so many pixels a side becomes."""
        return (image // self.size) ** 2

    def forward(self, images_BCHW: torch.Tensor) -> torch.Tensor:
        x_BDHW: torch.Tensor = self.layers(images_BCHW)
        return x_BDHW.flatten(2).transpose(1, 2)


@word("embedding", "vector")
class Vector(nn.Module):
    r"""A linear map of real vectors.

    x_l = W u_l + b

    Source: Garg et al. 2022, arXiv:2208.01066 (the read-in of in-context regression).

    Requires:
        inputs > 0
    """

    def __init__(self, site: LayerContext):
        super().__init__()
        self.map = nn.Linear(site.sizes["inputs"], site.width)

    def forward(self, vectors_BLI: torch.Tensor) -> torch.Tensor:
        x_BLD: torch.Tensor = self.map(vectors_BLI)
        return x_BLD


@word("embedding", "projection")
class Projection(nn.Module):
    r"""A random linear map of real vectors, after which every token has mean 0 and one norm: what LayerNorm makes, at any radius.

    x_l = radius c_l / |c_l|,   c_l = W u_l - mean(W u_l),   W_ij ~ N(0, 1 / inputs) at the start

    Tokens of mean 0 keep it under attention in one head without projections, whose outputs are linear combinations of tokens: the norm
    `sphere` is then the same as LayerNorm.

    Source: Ravuri and Lawrence 2025, arXiv:2507.21040 (the prior of the latents: a sphere in the plane of mean 0), after the author's code,
    where the gains of LayerNorm are 1 / sqrt(L), so that the radius is sqrt(D / L) and an entry has the variance 1 / L.

    Args:
        radius: The Euclidean norm of every token; `sqrt` is sqrt(D), that of LayerNorm.

    Requires:
        inputs > 0
    """

    def __init__(self, site: LayerContext, *, radius: Positive | Literal["sqrt"] = "sqrt"):
        super().__init__()
        inputs = site.sizes["inputs"]
        self.radius = site.width**0.5 if radius == "sqrt" else radius
        self.weight = drawn(nn.Parameter(torch.zeros(site.width, inputs)), inputs**-0.5)

    def forward(self, vectors_BLI: torch.Tensor) -> torch.Tensor:
        x_BLD = F.linear(vectors_BLI, self.weight)
        return self.radius * F.normalize(x_BLD - x_BLD.mean(-1, keepdim=True), dim=-1)


@word("embedding", "identity")
class Identity(nn.Module):
    r"""The vectors themselves are the stream.

    x_l = u_l

    Source: Wang et al. 2025, arXiv:2506.03790 (tokens of the mixture model are denoised as they are).

    Requires:
        inputs == width
    """

    def __init__(self, site: LayerContext):
        super().__init__()

    def forward(self, vectors_BLI: torch.Tensor) -> torch.Tensor:
        return vectors_BLI
