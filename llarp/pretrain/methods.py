"""What the vision model is pretrained to do: `MaskedAutoencoder` (self-supervised) and `WhatIsWhere` (supervised).

Both wrap the timm ViT whose weights are wanted (`backbone`); their heads are thrown away. D width of the ViT.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llarp.errors import UserError
from llarp.policy.vision import build_backbone
from llarp.tasks.entities import CATEGORIES
from llarp.tasks.keyed_random import uniform

from .config import PretrainConfig
from .pictures import CLASSES, COLOUR_STREAM, FIRST_CATEGORY, MASK_STREAM, Pictures

SUBCELLS = 2
"""WhatIsWhere tells what is in each of SUBCELLS x SUBCELLS parts of a patch."""
SEEN_PIXELS = 40
"""A class counts as in a cell of a 128 x 128 picture from so many pixels on; the target rises linearly to there."""


def new_backbone(name: str, image_size: int, seed: int) -> nn.Module:
    """An untrained timm ViT with a square of patches that fills the picture; UserError for any other model or size."""
    model = build_backbone(name, "random", image_size, seed)
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(model, VisionTransformer):
        raise UserError(f"policy.vision={name}: only plain timm ViTs can be pretrained, such as vit_tiny_patch16_224")
    height, width = model.patch_embed.patch_size
    if height != width or image_size % height:
        raise UserError(f"env.image_size={image_size}: {name} needs whole patches of {height} x {width} pixels")
    if model.pos_embed is not None and not model.no_embed_class:
        with torch.no_grad():  # a start from which places are told apart at once, as in He et al. 2022
            model.pos_embed[:, model.num_prefix_tokens :] = sincos_2d(model.embed_dim, image_size // height)
    return model


def sincos_2d(dim: int, side: int) -> Tensor:
    """Fixed embeddings of places on a side x side grid, (side * side, dim), row by row (Vaswani et al. 2017, twice)."""
    if dim % 4:
        raise UserError(f"a width of {dim} cannot hold sines and cosines of two coordinates: take a multiple of 4")
    frequency = 1.0 / 10_000 ** (torch.arange(dim // 4) / (dim // 4))
    angle = torch.arange(side)[:, None] * frequency
    one = torch.cat([angle.sin(), angle.cos()], dim=1)  # (side, dim / 2)
    rows, columns = one[:, None].expand(side, side, -1), one[None].expand(side, side, -1)
    return torch.cat([columns, rows], dim=-1).reshape(side * side, dim)


class _Method(nn.Module, ABC):
    """A backbone with a loss."""

    needs_labels = False
    summary = ""

    def __init__(self, name: str, image_size: int, config: PretrainConfig, seed: int):
        super().__init__()
        self.backbone: Any = new_backbone(name, image_size, seed)
        self.config, self.seed, self.image_size = config, seed, image_size
        self.patch: int = self.backbone.patch_embed.patch_size[0]
        self.side = image_size // self.patch
        normal = self.backbone.pretrained_cfg
        self.register_buffer("mean", torch.tensor(normal["mean"]), persistent=False)
        self.register_buffer("std", torch.tensor(normal["std"]), persistent=False)

    def pixels(self, shown: Pictures) -> Tensor:
        """Pictures as the policy's vision normalises them, (N, 3, H, W), each in colours of its own."""
        n = len(shown.rgb)
        u = uniform(self.seed, shown.number, torch.zeros_like(shown.number), COLOUR_STREAM, (2, 3)) * 2 - 1
        gain, shift = 1 + self.config.colour_jitter * u[:, 0], 0.5 * self.config.colour_jitter * u[:, 1]
        x = (shown.rgb.float() / 255 * gain.view(n, 1, 1, 3) + shift.view(n, 1, 1, 3)).clamp(0, 1)
        return ((x - self.mean) / self.std).permute(0, 3, 1, 2)

    @abstractmethod
    def loss(self, shown: Pictures) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of some pictures, and its parts for the log."""


class MaskedAutoencoder(_Method):
    """He et al. 2022 (arXiv 2111.06377): only the visible patches are encoded, a light decoder draws the others.

    The error is that of hidden patches' pixels, each patch brought to mean 0 and deviation 1."""

    summary = "masked autoencoding (He et al. 2022), self-supervised: no labels of any kind"

    def __init__(self, name: str, image_size: int, config: PretrainConfig, seed: int):
        super().__init__(name, image_size, config, seed)
        from timm.models.vision_transformer import Block

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            heads = max(h for h in (1, 2, 3, 4, 6) if config.decoder_dim % h == 0)
            self.embed = nn.Linear(self.backbone.embed_dim, config.decoder_dim)
            self.hidden = nn.Parameter(torch.randn(1, 1, config.decoder_dim) * 0.02)
            self.decoder = nn.Sequential(*(Block(config.decoder_dim, heads) for _ in range(config.decoder_depth)))
            self.norm = nn.LayerNorm(config.decoder_dim)
            self.draw = nn.Linear(config.decoder_dim, 3 * self.patch**2)
        self.register_buffer("places", sincos_2d(config.decoder_dim, self.side)[None], persistent=False)
        self.visible = round((1 - config.mask) * self.side**2)
        if not 0 < self.visible < self.side**2:
            raise UserError(f"pretrain.mask={config.mask}: of {self.side**2} patches {self.visible} would be visible")

    def loss(self, shown: Pictures) -> tuple[Tensor, dict[str, Tensor]]:
        pixels = self.pixels(shown)
        n, patches = len(pixels), self.side**2
        noise = uniform(self.seed, shown.number, torch.zeros_like(shown.number), MASK_STREAM, (patches,))
        order = noise.argsort(dim=1, stable=True)
        seen = order[:, : self.visible]
        tokens = self.embed(self.encode(pixels, seen))  # (N, prefix + visible, decoder_dim)
        prefix = self.backbone.num_prefix_tokens
        full = self.hidden.to(tokens.dtype).expand(n, patches, -1)
        full = full.scatter(1, seen[..., None].expand(-1, -1, full.shape[-1]), tokens[:, prefix:])
        drawn = self.draw(self.norm(self.decoder(torch.cat([tokens[:, :prefix], full + self.places], 1))[:, prefix:]))
        target = self.patches(pixels)
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
        error = (drawn.float() - target).square().mean(-1)  # (N, S)
        hidden = torch.ones_like(error).scatter(1, seen, 0.0)
        loss = (error * hidden).sum() / hidden.sum()
        return loss, {}

    def encode(self, pixels: Tensor, seen: Tensor) -> Tensor:
        """Tokens of the visible patches (N, V), the class token before them: (N, prefix + V, D)."""
        model = self.backbone
        tokens = model._pos_embed(model.patch_embed(pixels))
        prefix = model.num_prefix_tokens
        chosen = tokens[:, prefix:].gather(1, seen[..., None].expand(-1, -1, tokens.shape[-1]))
        return model.norm(model.blocks(model.norm_pre(torch.cat([tokens[:, :prefix], chosen], 1))))

    def patches(self, pixels: Tensor) -> Tensor:
        """Pictures (N, 3, H, W) as patches (N, S, 3 * patch * patch)."""
        return F.unfold(pixels, self.patch, stride=self.patch).transpose(1, 2)


class WhatIsWhere(_Method):
    """From each patch: what its quarters show; from each cell of a 4 x 4 grid: which classes are in it.

    Supervised: the simulator knows what each pixel shows (objects by category, furniture by kind)."""

    needs_labels = True
    summary = "what is where, supervised by the simulator's own segmentation (category of every pixel's object)"

    def __init__(self, name: str, image_size: int, config: PretrainConfig, seed: int):
        super().__init__(name, image_size, config, seed)
        self.cells = math.gcd(self.side, 4)
        if self.patch % SUBCELLS:
            raise UserError(f"pretrain.method=labels needs patches of even size; {name} has {self.patch} pixels")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed + 1)
            self.where = nn.Linear(self.backbone.embed_dim, SUBCELLS**2 * len(CLASSES))
            self.what = nn.Linear(self.backbone.embed_dim, len(CLASSES))
        nn.init.constant_(self.what.bias, -2.0)  # most classes are in few cells
        weight = torch.ones(len(CLASSES))
        weight[FIRST_CATEGORY : FIRST_CATEGORY + len(CATEGORIES)] = config.object_weight
        self.register_buffer("weight", weight, persistent=False)

    def loss(self, shown: Pictures) -> tuple[Tensor, dict[str, Tensor]]:
        assert shown.label is not None
        n, k, fine = len(shown.rgb), SUBCELLS, self.side * SUBCELLS
        tokens = self.backbone.forward_features(self.pixels(shown))[:, self.backbone.num_prefix_tokens :]
        counts = cell_counts(shown.label, fine, len(CLASSES))  # (N, fine, fine, C)
        share = counts * self.weight
        total = share.sum(-1)
        said = self.where(tokens).float().view(n, self.side, self.side, k, k, -1)
        said = said.transpose(2, 3).reshape(n, fine, fine, -1).log_softmax(-1)
        where = -(share * said).sum() / total.sum()
        grid = tokens.transpose(1, 2).unflatten(2, (self.side, self.side))
        pooled = F.adaptive_avg_pool2d(grid.float(), self.cells).flatten(2).transpose(1, 2)  # (N, cells^2, D)
        inside = counts.view(n, self.cells, fine // self.cells, self.cells, fine // self.cells, -1).sum((2, 4))
        enough = SEEN_PIXELS * (self.image_size / 128) ** 2
        present = (inside / enough).clamp(max=1).flatten(1, 2)
        guess = self.what(pooled).float()
        what = F.binary_cross_entropy_with_logits(guess, present, self.weight.clamp(max=4.0).expand_as(guess))
        return where + 10 * what, {"where_loss": where, "what_loss": what}


def cell_counts(label: Tensor, cells: int, classes: int) -> Tensor:
    """How many pixels of each class are in each cell, float32 (N, cells, cells, classes), of labels (N, H, W)."""
    n, height, width = label.shape
    row = torch.arange(height, device=label.device) * cells // height
    column = torch.arange(width, device=label.device) * cells // width
    cell = row[:, None] * cells + column
    world = torch.arange(n, device=label.device)[:, None, None] * cells**2
    index = ((world + cell) * classes + label).flatten()
    counts = torch.zeros(n * cells**2 * classes, device=label.device)
    return counts.scatter_add_(0, index, torch.ones_like(index, dtype=torch.float32)).view(n, cells, cells, classes)


METHODS: dict[str, type[_Method]] = {"mae": MaskedAutoencoder, "labels": WhatIsWhere}
