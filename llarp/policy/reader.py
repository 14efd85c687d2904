"""Attention of the heads to the instruction: what the frozen model has kept of each of its words, looked up anew."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEADS = 8
LAYERS = 6
"""Of so many of the language model's layers, evenly spaced, the last among them, the values are read."""


class InstructionReader(nn.Module):
    """Adds to hidden states (B, T, hidden) what they look up in their instructions.

    Keys and values are maps of the frozen model's own values of the instruction's tokens, which lie in its cache: they
    say which word it is and, from layer to layer, more of what it means here. Its output begins as zero.
    """

    layers: Tensor

    def __init__(self, num_layers: int, value_size: int, hidden: int):
        """`num_layers`: of the language model; `value_size`: of a token's values in one layer, all heads together."""
        super().__init__()
        step = max(num_layers // LAYERS, 1)
        self.register_buffer("layers", torch.arange(num_layers - 1, -1, -step)[:LAYERS], persistent=False)
        width = len(self.layers) * value_size
        self.width = -(-hidden // HEADS) * HEADS
        self.norm, self.norm_words = nn.LayerNorm(hidden), nn.LayerNorm(width)
        self.query = nn.Linear(hidden, self.width)
        self.key_value = nn.Linear(width, 2 * self.width)
        self.out = nn.Linear(self.width, hidden)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.hide: tuple[float, torch.Generator] | None = None
        """Share of an instruction's tokens, drawn from the generator, that cannot be looked up; never the last one."""

    def forward(self, hidden: Tensor, values: Tensor, length: Tensor, index: Tensor) -> Tensor:
        """`values` (L, U, G, P, D) of U instructions, right-aligned in P slots; of each row its `length` in tokens and
        its instruction, `index` (B,) into U."""
        slots = values.shape[3]
        words = values[self.layers].permute(1, 3, 0, 2, 4).flatten(2).float()  # (U, P, width)
        seen = torch.arange(slots, device=values.device) >= slots - length[:, None]  # (B, P)
        if self.hide is not None:
            share, generator = self.hide
            kept = torch.rand(seen.shape, generator=generator).to(seen.device) >= share
            kept[:, -1] = True
            seen = seen & kept
        key, value = self.key_value(self.norm_words(words)).unflatten(-1, (2, HEADS, -1)).permute(2, 0, 3, 1, 4)
        query = self.query(self.norm(hidden)).unflatten(-1, (HEADS, -1)).transpose(1, 2)  # (B, heads, T, size)
        mask = seen[:, None, None]
        mixed = F.scaled_dot_product_attention(query, key[index], value[index], attn_mask=mask)
        return hidden + self.out(mixed.transpose(1, 2).flatten(2))
