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
    """Sequences of similar lengths, padded to the longest. `tokens` and `there` are on the CPU, where they are made."""

    rows: int  # B
    longest: int  # L
    tokens: Tensor  # (B, L) int64 rows of the packed tokens; padding repeats the sequence's first
    there: Tensor  # (B, L) bool where there is a token
    mask: Tensor  # (B, 1, L, S) additive
    prefix: Tensor | None  # (B,) int64 which prefix each sequence has


@dataclass
class Packed:
    """How M packed tokens fall into sequences, and the keys and values they all begin with."""

    positions: Tensor  # (M,) int64
    buckets: list[Bucket]
    prefixes: Tensor | None  # (layers, 2, U, G, P, D)
    places: Places | None = None  # made once, by the first layer that attends


@dataclass
class Places:
    """Where vectors of D numbers lie, head by head, when tokens are put side by side to attend, and taken apart again.

    Buckets come one after another; within one, queries are (B, G, Q / G, L) and keys and values (B, G, S) vectors.
    """

    prefix: Tensor | None  # (layers, 2 U G P, D) keys, then values
    take: Tensor  # of a layer's prefix and qkv (M, Q + 2 G): each bucket's queries, keys and values
    give: Tensor  # (M * Q,) of the buckets' results, like their queries
    take_back: Tensor  # of the results' gradient (M, Q) and a vector of zeros: all buckets', like their queries
    give_back: Tensor  # (M * (Q + 2 G),) of gradients: all buckets' queries', new keys', new values'
    masks: list[Tensor]  # (B * G, Q / G * L, S)

    @classmethod
    def of(cls, packed: Packed, heads: int, groups: int) -> Places:
        """For Q = `heads` and G = `groups`."""
        device, each = packed.positions.device, heads + 2 * groups
        prefix, texts, slots = None, 0, 0
        if packed.prefixes is not None:
            prefix = packed.prefixes.flatten(1, 4)
            _, _, texts, _, slots, _ = packed.prefixes.shape
        count, size = len(packed.positions), texts * groups * slots
        head, group = torch.arange(heads)[:, None], torch.arange(groups)[:, None]
        in_prefix = (group * slots + torch.arange(slots)).to(device)  # (G, P) of one text's keys, or values
        take, take_back, masks = [], [], []
        queries = sum(bucket.rows * bucket.longest for bucket in packed.buckets) * heads
        new = queries // heads * groups
        give = torch.empty(count, heads, dtype=torch.int64)
        give_back = torch.empty(count, each, dtype=torch.int64)
        at = 0  # tokens of the buckets before, with padding
        for bucket in packed.buckets:
            rows, longest, tokens = bucket.rows, bucket.longest, bucket.tokens[:, None]
            first = 2 * size + tokens * each  # (B, 1, L) where a token's query of head 0 lies
            take.append((first + head).flatten().to(device))
            for which in range(2):  # keys, values
                theirs = (first + heads + which * groups + group).to(device)  # (B, G, L)
                if bucket.prefix is not None:
                    old = which * size + bucket.prefix[:, None, None] * (groups * slots) + in_prefix
                    theirs = torch.cat([old, theirs], 2)
                take.append(theirs.flatten())
            take_back.append(torch.where(bucket.there[:, None], tokens * heads + head, count * heads).flatten())
            wide = bucket.mask[:, :, None].expand(-1, groups, heads // groups, -1, -1)
            masks.append(wide.reshape(rows * groups, -1, bucket.mask.shape[3]))
            row, step = bucket.there.nonzero().unbind(1)
            own = bucket.tokens[bucket.there]  # (m,)
            query = at * heads + (row[:, None] * heads + head.T) * longest + step[:, None]  # (m, Q)
            key = queries + at * groups + (row[:, None] * groups + group.T) * longest + step[:, None]  # (m, G)
            give[own] = query
            give_back[own] = torch.cat([query, key, key + new], 1)
            at += rows * longest
        return cls(
            prefix=prefix,
            take=torch.cat(take),
            give=give.flatten().to(device),
            take_back=torch.cat(take_back).to(device),
            give_back=give_back.flatten().to(device),
            masks=masks,
        )


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
    prefixes: Tensor | None = None,
    prefix_length: Tensor | None = None,
    index: Tensor | None = None,
) -> Packed:
    """The layout of sequences of `lengths` (each at least 1), the i-th behind prefix `index[i]`, right-aligned in P.

    `prefixes` (layers, 2, U, G, P, D), keys and values, `prefix_length` (sequences,) and `index` (sequences,), or None:
    no prefix.
    """
    slots = 0 if prefixes is None else prefixes.shape[4]
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
        tokens = first[chosen, None] + torch.where(there, at, 0)
        chosen, at = chosen.to(device), at.to(device)
        last = (slots + at).expand(len(members), longest)
        bucket = Bucket(
            rows=len(members),
            longest=longest,
            tokens=tokens,
            there=there,
            mask=range_mask(slots - prefix_length[chosen], last, slice(0, slots + longest), dtype),
            prefix=None if index is None else index[chosen],
        )
        buckets.append(bucket)
    return Packed(positions, buckets, prefixes)
