"""What reads a picture cell by cell, alike in all of them: one MLP for every cell, or a Perceiver resampler."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8
LAYERS = 2


class CellMLP(nn.Module):
    """From features (..., num_tokens, dim) to (..., out): an MLP of each token and where it is, the largest of every
    unit's answers over the tokens, a linear map."""

    def __init__(self, num_tokens: int, dim: int, width: int, out: int):
        super().__init__()
        self.read = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.place = nn.Parameter(0.02 * torch.randn(num_tokens, width))  # where in the picture a token is
        self.tell = nn.Sequential(nn.GELU(), nn.Linear(width, width), nn.GELU())
        self.write = nn.Linear(width, out)

    def forward(self, features: Tensor) -> Tensor:
        return self.write(self.tell(self.read(features) + self.place).amax(-2))


class PerceiverResampler(nn.Module):
    """From features (..., num_tokens, dim) to (..., count, out); inside everything is `width` wide, a multiple of 8.

    Perceiver (arXiv 2103.03206) in the form of Flamingo (2204.14198, section 3.1.1): learned queries attend to the
    picture's tokens and to each other in one go.
    """

    def __init__(self, num_tokens: int, dim: int, count: int, width: int, out: int):
        super().__init__()
        self.read = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, width))
        self.place = nn.Parameter(0.02 * torch.randn(num_tokens, width))  # where in the picture a token is
        self.queries = nn.Parameter(0.02 * torch.randn(count, width))
        self.layers = nn.ModuleList(_Layer(width) for _ in range(LAYERS))
        self.write = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, out))

    def forward(self, features: Tensor) -> Tensor:
        picture = (self.read(features) + self.place).flatten(0, -3)
        x = self.queries.expand(len(picture), -1, -1)
        for layer in self.layers:
            x = layer(x, picture)
        return self.write(x).unflatten(0, features.shape[:-2])


class _Layer(nn.Module):
    """Attention of K queries (B, K, width) to S picture tokens (B, S, width) and to themselves, then an MLP."""

    def __init__(self, width: int):
        super().__init__()
        self.norm_picture, self.norm_queries, self.norm_mlp = (nn.LayerNorm(width) for _ in range(3))
        self.query, self.out = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor, picture: Tensor) -> Tensor:
        own = self.norm_queries(x)
        seen = self.key_value(torch.cat([self.norm_picture(picture), own], 1))
        query, key, value = (part.unflatten(2, (HEADS, -1)).transpose(1, 2)
                             for part in (self.query(own), *seen.chunk(2, -1)))  # (B, heads, K or S + K, size)
        mixed = F.scaled_dot_product_attention(query, key, value)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm_mlp(x))
