"""A plain vision transformer in bfloat16 on a CPU, without timm's modules.

Weights lie in the CPU's own order; additions and GELU happen within the products. The results are timm's up to rounding
(one rounding less at each of these).

Letters in shapes: N pictures, S tokens of each, D their width, H heads.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .llama import can_reorder

KNOWN_PARTS = {
    "VisionTransformer", "PatchEmbed", "Conv2d", "Sequential", "Block", "LayerNorm", "Attention", "Mlp", "Linear",
    "GELU", "Dropout", "Identity",
}  # fmt: skip
"""Classes of timm's plain model; any other means that something is computed which is not here."""
GREY = 128
"""Taken off bytes, which loses nothing in bfloat16: products of numbers around 0 are the more exact ones."""


class Map:
    """A frozen linear map with bias."""

    def __init__(self, weight: Tensor, bias: Tensor):
        self.weight, self.bias = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None), bias

    def __call__(self, x: Tensor, act: str = "none") -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, act, [], "none")

    def added_to(self, other: Tensor, x: Tensor) -> Tensor:
        """other + self(x)."""
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self.weight, self.bias, "add")


class PlainViT:
    """Computes what timm's `forward_features` does, for models that `fits`; a copy of the products' weights is kept."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, mean: Tensor, std: Tensor):
        """`mean`, `std` (3,): of bytes, pixel / std - mean is what the model reads; they go into the first product."""
        self.model: Any = model
        convolution = self.model.patch_embed.proj
        self.side: int = convolution.kernel_size[0]
        weight, bias = convolution.weight.float(), convolution.bias.float()
        bias = bias + (weight.sum((2, 3)) * (GREY / std - mean)).sum(1)
        weight = (weight / std[:, None, None]).permute(0, 2, 3, 1).flatten(1)  # (D, side * side * 3)
        self.embed = Map(weight.bfloat16(), bias.bfloat16())
        self.blocks = [
            tuple(Map(part.weight, part.bias) for part in (b.attn.qkv, b.attn.proj, b.mlp.fc1, b.mlp.fc2))
            for b in self.model.blocks
        ]

    def __call__(self, rgb: Tensor) -> Tensor:
        """Tokens (N, S, D) of pictures uint8 (N, H, W, 3)."""
        rows, height, width, _ = rgb.shape
        patches = rgb.view(rows, height // self.side, self.side, width // self.side, self.side, 3).transpose(2, 3)
        patches = self.embed(patches.reshape(-1, self.side**2 * 3).bfloat16().sub_(GREY))
        x = self.model._pos_embed(patches.view(rows, -1, patches.shape[1]))
        _, tokens, dim = x.shape
        x = x.reshape(rows * tokens, dim)
        for block, (query_key_value, out, up, down) in zip(self.model.blocks, self.blocks, strict=True):
            attention = block.attn
            parts = query_key_value(block.norm1(x)).view(rows, tokens, 3, attention.num_heads, -1)
            q, k, v = parts.permute(2, 0, 3, 1, 4).reshape(3, rows * attention.num_heads, tokens, -1).unbind(0)
            # The float32 kernel and two conversions take half as long as bfloat16's own.
            weights = torch.bmm(q, k.transpose(1, 2)).float().mul_(attention.scale).softmax(-1).to(q.dtype)
            mixed = torch.bmm(weights, v).view(rows, attention.num_heads, tokens, -1).transpose(1, 2)
            x = out.added_to(x, mixed.reshape(rows * tokens, -1))
            x = down.added_to(x, up(block.norm2(x), "gelu"))
        return self.model.norm(x).view(rows, tokens, dim)


def fits(model: nn.Module) -> bool:
    """Whether the model is one that `PlainViT` computes, on a machine where that is faster."""
    example = next(model.parameters())
    names = {type(module).__name__ for module in model.modules()}
    if not (type(model).__name__ == "VisionTransformer" and names <= KNOWN_PARTS and can_reorder(example)):
        return False
    plain: Any = model
    return (
        not plain.dynamic_img_size
        and plain.patch_embed.proj.bias is not None
        and len(plain.blocks) > 0
        and all(b.attn.qkv.bias is not None and b.mlp.act.approximate == "none" for b in plain.blocks)
        and isinstance(plain.norm, nn.LayerNorm)
        # and nothing else is normalised: not queries and keys, nor what comes before the blocks
        and sum(isinstance(module, nn.LayerNorm) for module in model.modules()) == 2 * len(plain.blocks) + 1
        and not any(p.requires_grad for p in model.parameters())
    )
