"""Intervals for success rates."""

from __future__ import annotations

import math


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's score interval of a rate: (low, high) within [0, 1]; z = 1.96 for 95 %. (0, 1) where n is 0."""
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes of {n} make no rate")
    if n == 0:
        return 0.0, 1.0
    rate = successes / n
    scale = 1 / (1 + z * z / n)
    middle = scale * (rate + z * z / (2 * n))
    half = scale * z * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)
