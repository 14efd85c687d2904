"""Sequences of different lengths behind one another, without padding; put side by side only where they attend.

Letters in shapes: M tokens of all sequences, B sequences in a bucket, L its longest, P prefix slots, S = P + L.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .cache import range_mask

WORTHWHILE = {"cpu": 128, "cuda": 512}
"""Padded tokens that one more bucket must save, by device; fewer cost less than its calls (docs/log.md; on a GPU not
measured)."""


@dataclass
class Bucket:
    """Sequences of similar lengths, padded to the longest."""

    rows: int  # B
    longest: int  # L
    slots: int  # P
    tokens: Tensor  # (B * L,) int64 rows of the packed tokens; padding repeats the sequence's first
    kept: Tensor | None  # (B * L, 1) 1 where there is a token, else 0; None: no padding
    real: Tensor | None  # (m,) int64 where in B * L the bucket's m tokens are; None: everywhere
    where: Tensor  # (m,) int64 rows of the packed tokens they belong to
    mask: Tensor  # (B, 1, L, S) additive
    prefix: Tensor | None  # (B,) int64 which prefix each sequence has
    wide: Tensor | None = None  # the mask as attention reads it, made once


@dataclass
class Packed:
    """How M packed tokens fall into sequences, and the keys and values they all begin with."""

    positions: Tensor  # (M,) int64
    buckets: list[Bucket]
    keys: Tensor | None  # (layers, U, G, P, D) the prefixes
    values: Tensor | None


def split_lengths(lengths: list[int], worthwhile: int) -> list[list[int]]:
    """Indices of sequences in groups, the longest first; split where that saves most padding, if it saves so much."""
    rest = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    groups: list[list[int]] = []
    while rest:
        longest = lengths[rest[0]]
        saved = [(len(rest) - at) * (longest - lengths[i]) for at, i in enumerate(rest)]
        best = max(saved)
        first = saved.index(best) if best >= worthwhile else len(rest)
        groups.append(rest[:first])
        rest = rest[first:]
    return groups


def pack_sequences(
    lengths: list[int],
    dtype: torch.dtype,
    device: torch.device,
    keys: Tensor | None = None,
    values: Tensor | None = None,
    prefix_length: Tensor | None = None,
    index: Tensor | None = None,
) -> Packed:
    """The layout of sequences of `lengths` (each at least 1), the i-th behind prefix `index[i]`, right-aligned in P.

    `keys`, `values` (layers, U, G, P, D), `prefix_length` (sequences,) and `index` (sequences,), or None: no prefix.
    """
    slots = 0 if keys is None else keys.shape[3]
    length = torch.tensor(lengths)
    first = length.cumsum(0) - length
    if prefix_length is None:
        prefix_length = torch.zeros(len(lengths), dtype=torch.int64, device=device)
    step = torch.arange(int(length.sum())) - first.repeat_interleave(length)
    sequence = torch.arange(len(lengths)).repeat_interleave(length)
    positions = prefix_length[sequence.to(device)] + step.to(device)
    buckets = []
    for members in split_lengths(lengths, WORTHWHILE.get(device.type, WORTHWHILE["cuda"])):
        chosen = torch.tensor(members)
        longest = int(length[chosen[0]])
        at = torch.arange(longest)
        there = at < length[chosen, None]  # (B, L)
        tokens = (first[chosen, None] + torch.where(there, at, 0)).flatten()
        whole = bool(there.all())
        real = there.flatten().nonzero().flatten()
        chosen, at = chosen.to(device), at.to(device)
        last = (slots + at).expand(len(members), longest)
        bucket = Bucket(
            rows=len(members),
            longest=longest,
            slots=slots,
            tokens=tokens.to(device),
            kept=None if whole else there.flatten()[:, None].to(device, dtype),
            real=None if whole else real.to(device),
            where=tokens[real].to(device),
            mask=range_mask(slots - prefix_length[chosen], last, slice(0, slots + longest), dtype),
            prefix=None if index is None else index[chosen],
        )
        buckets.append(bucket)
    return Packed(positions, buckets, keys, values)
