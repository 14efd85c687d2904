"""Random numbers that depend only on (seed, episode, step, stream), never on a world's place in a batch.

A counter-based generator: each part of the key is absorbed by a 64-bit mixing step (the finaliser of SplitMix64 with
Stafford's "mix 13" constants), in wrapping int64 arithmetic that is the same on every device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)  # 2^64 / golden ratio, as a signed number
_MULTIPLIER_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MULTIPLIER_2 = 0x94D049BB133111EB - (1 << 64)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; torch's own copies the sign bit."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift(x, 30)) * _MULTIPLIER_1
    x = (x ^ _shift(x, 27)) * _MULTIPLIER_2
    return x ^ _shift(x, 31)


def _absorb(state: Tensor, word: Tensor | int) -> Tensor:
    return _mix(state * _GOLDEN + word + 1)


def uniform(seed: int, episode: Tensor, step: Tensor, stream: int, shape: tuple[int, ...] = ()) -> Tensor:
    """Uniform float32 in [0, 1) with 24 random bits, (N, *shape).

    `seed`: any int of 64 bits; `episode`, `step`: int64 (N,); `stream`: an int that names the use, so that two uses at
    the same step never share numbers. Number k of a row does not depend on how many are drawn."""
    signed_seed = ((seed + (1 << 63)) % (1 << 64)) - (1 << 63)
    key = torch.full_like(episode, signed_seed, dtype=torch.int64)
    for word in (stream, episode, step):
        key = _absorb(key, word)
    index = torch.arange(math.prod(shape), device=episode.device)
    bits = _shift(_absorb(key[:, None], index), 40)
    return (bits.to(torch.float32) * 2.0**-24).reshape(-1, *shape)
