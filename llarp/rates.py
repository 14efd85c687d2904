"""How fast this machine is at what the models need: their own matrix products, and reading memory."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .cost import Product
from .policy.llama import can_reorder, product

WEIGHT_BYTES = 256 << 20
"""Weights that products are measured with: more than any cache, so that they come from memory as a model's do."""
REPEATS = 5


def seconds_of(work: Callable[[], object], device: str, repeats: int = REPEATS) -> float:
    """Median seconds of a call, after one that is not counted."""
    taken = []
    for i in range(repeats + 1):
        finish(device)
        start = time.perf_counter()
        work()
        finish(device)
        if i:
            taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def finish(device: str) -> None:
    """Wait for what was queued on a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


@torch.no_grad()
def product_rate(
    products: Sequence[Product], tokens: int, dtype: torch.dtype, device: str, backward: bool = False
) -> float:
    """Operations a second of (tokens, in) x (in, out) one after another, as a model's layers do them.

    `backward`: the gradient to the inputs, (tokens, out) x (out, in). Weights of `WEIGHT_BYTES` in all, each its own;
    also in the order that a CPU's bfloat16 products read, where torch has that, and the faster of both counts.
    """
    size = dtype.itemsize * sum(a * b for a, b in products)
    layers = max(1, min(WEIGHT_BYTES // size, 64))
    weights = [torch.randn(b, a, device=device, dtype=dtype) for _ in range(layers) for a, b in products]
    widths = Counter(b if backward else a for a, b in products)
    inputs = {width: torch.randn(tokens, width, device=device, dtype=dtype) for width in widths}

    def work() -> None:
        for weight in weights:
            if backward:
                inputs[weight.shape[0]] @ weight
            else:
                F.linear(inputs[weight.shape[1]], weight)

    def work_reordered() -> None:
        for weight in weights:
            product(inputs[weight.shape[1]], weight)

    seconds = seconds_of(work, device)
    if can_reorder(weights[0]):
        for i, weight in enumerate(weights):  # one by one: both kinds of all would take twice the memory
            weights[i] = torch.ops.mkldnn._reorder_linear_weight(weight.t().contiguous() if backward else weight, None)
        seconds = min(seconds, seconds_of(work_reordered, device))
    return 2 * tokens * layers * sum(a * b for a, b in products) / seconds


def large_rate(dtype: torch.dtype, device: str) -> float:
    """Operations a second of a large product, about the most that the machine does."""
    return product_rate([(4096, 4096)], 8192 if device.startswith("cuda") else 512, dtype, device)


@torch.no_grad()
def bandwidth(device: str) -> float:
    """Bytes a second that a large read (a sum) or copy moves, whichever is more."""
    source = torch.ones(2 * WEIGHT_BYTES // 4, device=device)
    target: Tensor = torch.empty_like(source)
    copied = 2 * source.nbytes / seconds_of(lambda: target.copy_(source), device)
    return max(copied, source.nbytes / seconds_of(source.sum, device))
