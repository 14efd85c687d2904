"""The cost model against operations that torch counts, and what `llarp bench` makes of it."""

from __future__ import annotations

import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

from llarp import rates
from llarp.breakdown import Breakdown
from llarp.cost import LanguageModel, StepCost, counted, linear_products, step_cost, visible_pairs
from llarp.stopwatch import Stopwatch


def tiny_llama() -> LlamaModel:
    config = LlamaConfig(
        vocab_size=32,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        attn_implementation="eager",
    )
    return LlamaModel(config).eval().requires_grad_(False)


def counted_passes(model: LlamaModel, rows: int, tokens: int) -> tuple[int, int]:
    """Operations that torch counts in a forward pass, and in the backward pass to the inputs."""
    x = torch.randn(rows, tokens, model.config.hidden_size, requires_grad=True)
    with FlopCounterMode(display=False) as forward:
        out = model(inputs_embeds=x, use_cache=False).last_hidden_state
    with FlopCounterMode(display=False) as backward:
        out.sum().backward()
    return forward.get_total_flops(), backward.get_total_flops()


def test_operations_are_those_torch_counts() -> None:
    model, rows, tokens = tiny_llama(), 2, 24
    shape = LanguageModel.of(model.config, 4)
    forward, backward = counted_passes(model, rows, tokens)
    pairs = rows * tokens**2  # torch computes what is masked, too
    angles = tokens * shape.head_dim  # of the rotary positions, where transformers makes them by a product
    assert forward - shape.forward(rows * tokens, pairs) in (0, angles, rows * angles)
    assert backward == shape.backward(rows * tokens, pairs)


def test_a_step_reads_all_weights_but_those_of_norms_and_embeddings() -> None:
    model = tiny_llama()
    shape = LanguageModel.of(model.config, 4)
    products = sum(p.nbytes for name, p in model.layers.named_parameters() if "norm" not in name)
    assert shape.weight_bytes == products
    keys_and_values = 3 * 2 * 2 * 12 * 4  # layers, keys and values, their heads, head size, float32
    assert shape.decode_bytes(rows=5, keys=10) == products + 5 * 11 * keys_and_values


def test_a_7b_shape_needs_no_weights() -> None:
    shape = LanguageModel.of(LlamaConfig())  # Llama-2-7B's
    assert shape.weights == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert shape.forward(1, 0) == 2 * shape.weights


def test_visible_pairs_are_counted_one_by_one() -> None:
    prefix, first, end = 7, 3, 9
    assert visible_pairs(prefix, first, end) == sum(prefix + t + 1 for t in range(first, end))


def test_products_and_operations_of_other_models() -> None:
    module = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 4))
    assert linear_products(module) == [(6, 10), (10, 4)]
    assert counted(module, torch.zeros(3, 6)) == 2 * 3 * (60 + 40)


def test_the_cost_of_a_step_adds_up_over_an_episode() -> None:
    shape = LanguageModel.of(tiny_llama().config, 2)
    cost = step_cost(
        shape, image_size=64, vision=1e6, heads=1e3, worlds=4, prefix_tokens=10, episode_steps=8, visual_tokens=2,
        epochs=3,
    )  # fmt: skip
    assert isinstance(cost, StepCost) and cost.pixels == 64 * 64
    episode = shape.forward(16, sum(10 + t + 1 for t in range(16)))
    assert math.isclose(8 * cost.decode, episode) and math.isclose(8 * cost.update_forward, 3 * episode)
    assert math.isclose(8 * cost.prefix, shape.forward(10, 55))
    assert cost.update_backward > cost.update_forward  # attention's gradient takes twice its operations
    assert cost.decode_bytes > shape.weight_bytes / 4


def test_rates_are_operations_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_seconds(work, device: str) -> float:
        work()
        return 2.0

    monkeypatch.setattr(rates, "seconds_of", two_seconds)
    monkeypatch.setattr(rates, "WEIGHT_BYTES", 3 * 4 * (6 * 10 + 10 * 4))  # three layers
    for backward in (False, True):
        rate = rates.product_rate([(6, 10), (10, 4)], 5, torch.float32, "cpu", backward)
        assert rate == 2 * 5 * 3 * 100 / 2
    assert rates.bandwidth("cpu") == 2 * 2 * rates.WEIGHT_BYTES / 2  # the copy reads and writes


def test_time_within_a_part_is_not_the_outer_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    class Work:
        def outer(self) -> None:
            tick(1)
            self.inner()
            tick(2)

        def inner(self) -> None:
            tick(10)

    now = 0.0

    def tick(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr("llarp.stopwatch.time.perf_counter", lambda: now)
    work, watch = Work(), Stopwatch()
    watch.watch(work, "outer", "outer")
    watch.watch(work, "inner", lambda: "inner")
    watch.watch(work, "missing", "missing")
    work.outer()
    watch.close()
    work.outer()  # no longer watched
    assert watch.seconds == {"outer": 3.0, "inner": 10.0} and not vars(work)
    assert watch.shares(26.0) == {"inner": 10 / 26, "outer": 3 / 26, "rest": 0.5}


def test_a_convolutional_vision_model_has_no_rate_of_matrices_to_stand_beside() -> None:
    config, vision = SimpleNamespace(image_size=32), SimpleNamespace(backbone=nn.Conv2d(3, 4, 3))
    policy: Any = SimpleNamespace(config=config, vision=vision)
    breakdown = object.__new__(Breakdown)
    breakdown.calls = breakdown.tokens = Counter({"vision": 8})
    assert breakdown._vision(policy) == {}
