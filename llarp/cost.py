"""What a step costs: operations and bytes of each part, from the models' shapes alone (docs/performance.md).

Two operations a multiply-add. Only matrix products and attention are counted (of a transformer's operations all but one
in a hundred), and only for tokens that are needed: no padding, and of attention only keys that a query may see.
Letters: P keys of an instruction, T steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

Product = tuple[int, int]
"""A matrix product of every token: numbers in, numbers out."""


@dataclass(frozen=True)
class LanguageModel:
    """The shape of a decoder-only transformer of Llama's kind; the output layer is never run."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    number_bytes: int = 2

    @classmethod
    def of(cls, config: Any, number_bytes: int = 2) -> LanguageModel:
        """From a transformers config (Llama, Mistral, Qwen and others with gated MLPs)."""
        heads = config.num_attention_heads
        return cls(
            config.hidden_size,
            config.intermediate_size,
            config.num_hidden_layers,
            heads,
            getattr(config, "num_key_value_heads", None) or heads,
            getattr(config, "head_dim", None) or config.hidden_size // heads,
            number_bytes,
        )

    @property
    def products(self) -> list[Product]:
        """Products of one layer: queries, keys, values, output, gate, up, down."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        hidden, inner = self.hidden, self.intermediate
        return [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden),
                (hidden, inner), (hidden, inner), (inner, hidden)]  # fmt: skip

    @property
    def weights(self) -> int:
        """Weights of all layers' products."""
        return self.layers * sum(a * b for a, b in self.products)

    @property
    def weight_bytes(self) -> int:
        """What one pass reads of them."""
        return self.weights * self.number_bytes

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * self.number_bytes

    def forward(self, tokens: float, pairs: float) -> float:
        """Operations of `tokens` new tokens that see `pairs` keys in all (each its own too)."""
        return 2 * tokens * self.weights + 4 * pairs * self.layers * self.heads * self.head_dim

    def backward(self, tokens: float, pairs: float) -> float:
        """Operations of the gradient to the inputs: products once (frozen weights have none), attention twice."""
        return 2 * tokens * self.weights + 8 * pairs * self.layers * self.heads * self.head_dim

    def decode_bytes(self, rows: int, keys: float) -> float:
        """What one step of `rows` worlds with `keys` keys each moves: weights once, keys and values read, one
        written."""
        return self.weight_bytes + rows * (keys + 1) * self.token_bytes


def visible_pairs(prefix: float, first: float, end: float) -> float:
    """Query-key pairs of an episode's visual tokens `first` to `end` - 1 behind `prefix` instruction tokens."""
    return (end - first) * prefix + (end * (end + 1) - first * (first + 1)) / 2


def linear_products(module: nn.Module) -> list[Product]:
    """All products of a module's linear layers, in order: what its matrix rate is measured on."""
    return [(m.in_features, m.out_features) for m in module.modules() if isinstance(m, nn.Linear)]


def counted(module: nn.Module, *inputs: Any, method: str = "forward") -> int:
    """Operations of one call without gradient, counted by torch: for models whose shape we do not know."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        getattr(module, method)(*inputs)
    return counter.get_total_flops()


@dataclass(frozen=True)
class StepCost:
    """Operations and bytes of one environment step of one world, part by part; see `step_cost`."""

    pixels: int
    picture_bytes: int
    vision: float
    decode: float
    decode_bytes: float
    prefix: float
    update_forward: float
    update_recompute: float
    update_backward: float
    heads: float


def step_cost(
    llm: LanguageModel,
    *,
    image_size: int,
    vision: float,
    heads: float,
    worlds: int,
    prefix_tokens: float,
    episode_steps: float,
    visual_tokens: int,
    epochs: int,
) -> StepCost:
    """What one step of one of `worlds` worlds costs in rollout and update; the weights that decoding reads are shared.

    `vision`, `heads`: operations of one picture, and of one forward of what is trained. Episodes of `episode_steps`
    steps from their first; an instruction of `prefix_tokens` tokens is read once an episode.
    """
    tokens = visual_tokens
    pairs = visible_pairs(prefix_tokens, 0, episode_steps * tokens) / episode_steps
    keys = prefix_tokens + episode_steps * tokens / 2
    return StepCost(
        pixels=image_size**2,
        picture_bytes=3 * image_size**2,
        vision=vision,
        decode=llm.forward(tokens, pairs),
        decode_bytes=llm.decode_bytes(worlds, keys) / worlds,
        prefix=llm.forward(prefix_tokens, prefix_tokens * (prefix_tokens + 1) / 2) / episode_steps,
        update_recompute=llm.forward(tokens, pairs),
        update_forward=epochs * llm.forward(tokens, pairs),
        update_backward=epochs * llm.backward(tokens, pairs),
        heads=heads * (2 + 3 * epochs),  # acting, recomputing; each epoch forward, and backward to weights and inputs
    )
