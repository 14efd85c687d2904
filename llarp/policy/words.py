"""What a language model makes of an instruction's words, for `policy.kind=encoder_decoder`, and what reads that."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from .context import compute_prefixes
from .llm import FrozenLLM
from .readings import Readings

READ_LAYERS = 10
"""Of so many of the language model's layers, evenly spaced, the last among them, the values are read."""


def read_layers(llm: FrozenLLM) -> Tensor:
    """Whose values are read, from the last layer on."""
    return torch.arange(llm.num_layers - 1, -1, -max(llm.num_layers // READ_LAYERS, 1))[:READ_LAYERS]


class Told(NamedTuple):
    """What the language model has made of B rows' instructions."""

    words: Tensor  # (B, P, layers read * value size) float16 or float32: values of the tokens, left-aligned
    length: Tensor  # (B,) int64 tokens
    last: Tensor  # (B, hidden) float32: last hidden state


class Words(Readings):
    """`Told` of instructions."""

    what = f"values of {READ_LAYERS} layers, last hidden state"
    dtype = torch.float16
    """What values are kept in."""

    def read(self, ids: list[list[int]]) -> list[tuple[Tensor, ...]]:
        return [(self.kept(e.keys_values[1]), e.last.float()) for e in compute_prefixes(self.llm, ids)]

    def kept(self, values: Tensor) -> Tensor:
        """What is kept of tokens' values in all layers (L, H, P, D): (P, layers read * H * D)."""
        read = values[read_layers(self.llm).to(self.llm.device)]
        return read.to(self.dtype).permute(2, 0, 1, 3).flatten(1)

    def get(self, texts: list[str]) -> Told:
        return self.told(*self._of(texts))

    def told(self, words: list[Tensor], last: list[Tensor]) -> Told:
        """Of B texts, whose words are (P, size) and whose last hidden states (hidden,)."""
        length = torch.tensor(list(map(len, words)), device=self.llm.device)
        return Told(pad_sequence(words, batch_first=True), length, torch.stack(last))


class WordReader(nn.Module):
    """What the language model kept of an instruction's tokens, (B, P, width), and what stands around them.

    A small frozen model hardly says at one word what another belongs to: which of two objects goes to which of two
    places. Recurrent layers learn that within minutes where attention with places did not (docs/log.md).
    """

    def __init__(self, size: int, width: int, layers: int = 0):
        """`layers`: recurrent ones, which begin as if they were not there; 0: none."""
        super().__init__()
        self.read = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, width), nn.LayerNorm(width))
        both_ways = {"batch_first": True, "bidirectional": True}
        self.around = nn.GRU(width, width // 2, layers, **both_ways) if layers else None
        if self.around is not None:
            self.add = nn.Linear(width, width)
            nn.init.zeros_(self.add.weight)
            nn.init.zeros_(self.add.bias)
        self.hide: tuple[float, torch.Generator] | None = None
        """Share of an instruction's tokens, drawn from the generator, that cannot be looked up; never the last one."""

    def forward(self, told: Told) -> tuple[Tensor, Tensor]:
        """Words, and which of them may be looked at, bool (B, P)."""
        slot = torch.arange(told.words.shape[1], device=told.words.device)
        seen = slot < told.length[:, None]
        if self.hide is not None:
            share, generator = self.hide
            hidden = torch.rand(seen.shape, generator=generator).to(seen.device) < share
            seen = seen & ~(hidden & (slot < told.length[:, None] - 1))
        words = self.read(told.words.float())
        if self.around is not None:
            shown = pack_padded_sequence(words * seen[..., None], told.length.cpu(), True, enforce_sorted=False)
            around, _ = pad_packed_sequence(self.around(shown)[0], True, total_length=words.shape[1])
            words = words + self.add(around)
        return words, seen
