"""Key-value caches of transformers models with a read-only prefix, and with rows at different positions.

A context is an instruction (prefix) followed by visual tokens. The prefix is right-aligned in P slots, the visual
tokens follow in V slots, so what a row may see is always one contiguous range of slots:

    [ unused | instruction (length_i) | visual tokens so far | unused ]
      0        P - length_i             P                      P + V

Letters in shapes: B rows, H key-value heads, D head size, Q new tokens a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class PrefixLayer(CacheLayerMixin):
    """Keys and values that are read, never written; the new ones are put behind them and can be asked for."""

    is_sliding = False

    def __init__(self, keys: Tensor | None = None, values: Tensor | None = None, index: Tensor | None = None):
        """`keys`, `values` (U, H, P, D), or None for no prefix; `index` (B,): which of the U a row has."""
        super().__init__()
        self.keys, self.values, self.index = keys, values, index
        self.new_keys: Tensor | None = None
        self.new_values: Tensor | None = None
        self.is_initialized = True

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to allocate."""

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Prefix and new keys and values, (B, H, P + Q, D) each."""
        self.new_keys, self.new_values = key_states, value_states
        if self.keys is None or self.values is None:
            return key_states, value_states
        keys, values = self.keys, self.values
        if self.index is not None:
            keys, values = keys[self.index], values[self.index]
        return torch.cat([keys, key_states], dim=2), torch.cat([values, value_states], dim=2)

    def get_seq_length(self) -> int:
        """Slots before the new tokens."""
        return 0 if self.keys is None else self.keys.shape[2]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of what a query sees (unused where a 4-D mask is given)."""
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        """No maximum."""
        return -1


class RowLayer(PrefixLayer):
    """Writes each row's new keys and values into that row's own slots, in place, and shows the slots in use."""

    def __init__(self, keys: Tensor, values: Tensor, slots: Tensor, visible: slice):
        """`keys`, `values` (B, H, P + V, D); `slots` (B, Q): where the new ones go; `visible`: slots attention sees."""
        super().__init__(keys, values)
        self.slots, self.visible = slots, visible
        self.rows = torch.arange(slots.shape[0], device=slots.device)[:, None]

    def update(self, key_states: Tensor, value_states: Tensor, *args, **kwargs) -> tuple[Tensor, Tensor]:
        """Keys and values of the visible slots, the new ones among them."""
        assert self.keys is not None and self.values is not None
        self.keys[self.rows, :, self.slots] = key_states.transpose(1, 2)
        self.values[self.rows, :, self.slots] = value_states.transpose(1, 2)
        return self.keys[:, :, self.visible], self.values[:, :, self.visible]


def prefix_cache(keys: Tensor | None, values: Tensor | None, num_layers: int, index: Tensor | None = None) -> Cache:
    """Read-only cache from keys and values (L, U, H, P, D); None: an empty prefix."""
    if keys is None or values is None:
        return Cache(layers=[PrefixLayer() for _ in range(num_layers)])
    return Cache(layers=[PrefixLayer(keys[i], values[i], index) for i in range(num_layers)])


def row_cache(keys: Tensor, values: Tensor, slots: Tensor, visible: slice) -> Cache:
    """Cache that writes into keys and values (L, B, H, P + V, D) in place."""
    return Cache(layers=[RowLayer(k, v, slots, visible) for k, v in zip(keys, values, strict=True)])


def new_entries(cache: Cache) -> tuple[Tensor, Tensor]:
    """Keys and values of the tokens just run through a prefix cache, (L, B, H, Q, D) each."""
    keys = torch.stack([layer.new_keys for layer in cache.layers])
    return keys, torch.stack([layer.new_values for layer in cache.layers])


def range_mask(first: Tensor, last: Tensor, visible: slice, dtype: torch.dtype) -> Tensor:
    """Additive attention mask (B, 1, Q, visible slots) that lets a query see slots `first` (B,) to `last` (B, Q)."""
    slot = torch.arange(visible.start, visible.stop, device=last.device)
    seen = (slot >= first[:, None, None]) & (slot <= last[:, :, None])
    return additive_mask(seen, dtype)


def additive_mask(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to attention scores (B, 1, Q, S) so that a query looks only where `seen`, bool (B, Q, S)."""
    mask = torch.zeros(seen.shape, dtype=dtype, device=seen.device)
    return mask.masked_fill(~seen, torch.finfo(dtype).min)[:, None]
