"""benchmarks/ideal_searcher.py: no other order of driving takes fewer drives."""

from __future__ import annotations

import runpy
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest

SCRIPT = runpy.run_path(str(Path(__file__).parent.parent / "benchmarks/ideal_searcher.py"), run_name="script")


def drives(order: tuple[int, ...], seen: np.ndarray) -> float:
    """Drives, added up over the 7 places that the thing may be on, each as likely."""
    total, left = 0.0, np.ones(7)
    for k, place in enumerate(order):
        found = left * seen[place - 1]
        total += (k + 1) * found[place - 1] + (k + 2) * (found.sum() - found[place - 1])  # seen from afar: drive there
        left -= found
    return float(total + (len(order) + SCRIPT["LOOK_AGAIN"]) * left.sum())


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_is_the_best_of_all(seed: int) -> None:
    seen = np.random.default_rng(seed).uniform(0, 0.5, (7, 7))
    np.fill_diagonal(seen, 0.95)
    expected, first = SCRIPT["SearchOrder"](seen).next(frozenset(), -1)
    cost = {order: drives(order, seen) for order in permutations(range(1, 8))}
    best = min(cost, key=cost.__getitem__)
    assert expected == pytest.approx(cost[best]) and first == best[0]


def test_who_sees_only_what_is_before_it_takes_four_drives() -> None:
    order = SCRIPT["SearchOrder"](np.eye(7))
    assert order.next(frozenset(), -1)[0] / 7 == 4.0
    assert order.next(frozenset(), 3)[0] / 6 == 3.5  # where it is to be brought nobody looks
