"""The frozen vision model: any timm model by name; pictures in, a few pooled feature tokens out."""

from __future__ import annotations

import hashlib
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from llarp.errors import UserError

from . import vit

RANDOM_SEED = 20231017
"""Seed of vision_weights="random": every run has the same untrained model."""


class FrozenVision(nn.Module):
    """timm model whose weights never change, with its own input normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, weights: str, pool: str, image_size: int, dtype: torch.dtype):
        """`weights`: "random", "hub" or a file. UserError for unknown names, unreadable files, impossible poolings."""
        super().__init__()
        self.name, self.weights, self.pool, self.image_size = name, weights, pool, image_size
        self.backbone = build_backbone(name, weights, image_size).eval().requires_grad_(False)
        self.fingerprint = fingerprint_of(self.backbone.state_dict())
        self.backbone.to(dtype)
        config = self.backbone.pretrained_cfg
        # Folded into one multiply-add on bytes: (x / 255 - mean) / std
        std = torch.tensor(config["std"])
        self.register_buffer("mean", torch.tensor(config["mean"]) / std, persistent=False)
        self.register_buffer("std", 255.0 * std, persistent=False)
        self._prepare()
        probe = torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8)
        try:
            self.num_tokens, self.dim = self.encode(probe).shape[1:]
        except (AssertionError, RuntimeError) as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise UserError(f"env.image_size={image_size}: {name} cannot read pictures of that size ({why})") from error

    def train(self, mode: bool = True) -> FrozenVision:
        """Stays in evaluation mode: frozen."""
        return super().train(False)

    def _apply(self, fn, recurse: bool = True) -> FrozenVision:
        super()._apply(fn, recurse)
        self._prepare()
        return self

    def _prepare(self) -> None:
        """Whatever depends on where the weights are, and on their values."""
        choose_attention(self.backbone, self.mean.device)
        self.plain = vit.PlainViT(self.backbone, self.mean, self.std) if vit.fits(self.backbone) else None

    @torch.no_grad()
    def encode(self, rgb: Tensor) -> Tensor:
        """Features float16 (N, num_tokens, dim) of pictures uint8 (N, H, W, 3)."""
        if rgb.dtype != torch.uint8 or rgb.shape[1:] != (self.image_size, self.image_size, 3):
            expected = f"uint8 (N, {self.image_size}, {self.image_size}, 3)"
            raise UserError(f"pictures are {rgb.dtype} {tuple(rgb.shape)}, expected {expected}; see policy.image_size")
        if self.plain is not None:
            return self._pool(self.plain(rgb)).half()
        dtype = next(self.backbone.parameters()).dtype
        pixels = rgb.to(self.mean.device).float().div_(self.std).sub_(self.mean).permute(0, 3, 1, 2)
        return self._pool(self.backbone.forward_features(pixels.to(dtype))).half()

    def _pool(self, features: Tensor) -> Tensor:
        """What `pool` keeps of patch tokens (N, S, D) or a feature map, as (N, num_tokens, D)."""
        if features.ndim == 4:
            channels_last = features.shape[-1] == self.backbone.num_features
            grid = features.permute(0, 3, 1, 2) if channels_last else features
            class_token = None
        else:
            extra = getattr(self.backbone, "num_prefix_tokens", 0)
            patches = features[:, extra:]
            class_token = features[:, :1] if extra else None
            side = round(patches.shape[1] ** 0.5)
            if side * side != patches.shape[1]:
                raise UserError(f"policy.vision={self.name}: its patches form no square; choose another model")
            grid = patches.transpose(1, 2).unflatten(2, (side, side))
        if self.pool == "cls":
            if class_token is None:
                raise UserError(f"policy.vision_pool=cls: {self.name} has no class token; choose mean or gridG")
            return class_token
        cells = 1 if self.pool == "mean" else int(self.pool.removeprefix("grid"))
        if cells > grid.shape[-1]:
            size = f"{grid.shape[-1]} x {grid.shape[-1]}"
            raise UserError(f"policy.vision_pool={self.pool}: {self.name} has {size} patches; choose fewer cells")
        return F.adaptive_avg_pool2d(grid.float(), cells).flatten(2).transpose(1, 2)

    def describe(self) -> str:
        """The model and, plainly, where its weights come from."""
        source = {"random": "untrained weights (random, fixed seed)", "hub": "timm's pretrained weights"}
        return f"{self.name} with {source.get(self.weights, f'weights from {self.weights}')}, pooled: {self.pool}"

    def weights_to_keep(self) -> dict[str, Tensor]:
        """A random initialisation, float32: it can not be fetched again. Else empty."""
        if self.weights != "random":
            return {}
        state = self.backbone.state_dict()
        return {name: (t.float() if t.is_floating_point() else t).cpu().clone() for name, t in state.items()}

    def load_weights(self, tensors: dict[str, Tensor]) -> None:
        """Take over weights that `weights_to_keep` gave."""
        self.backbone.load_state_dict(tensors)
        self.fingerprint = fingerprint_of(tensors)
        self._prepare()


def choose_attention(model: nn.Module, device: torch.device) -> None:
    """On a CPU torch's fused kernel takes longer for so few patches than two products and a softmax."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = device.type != "cpu"


def build_backbone(name: str, weights: str, image_size: int, seed: int = RANDOM_SEED) -> nn.Module:
    """A timm model without its head, float32; `seed` is of random weights, the caller's random numbers are left alone.

    UserError for unknown names, sizes that cannot be, and unreadable files."""
    import timm

    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        hint = f"; close: {', '.join(close)}" if close else ""
        raise UserError(f"policy.vision={name}: timm has no such model{hint}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            model = _create(name, weights == "hub", image_size)
        except UserError:
            raise
        except Exception as error:  # the hub's client raises a dozen unrelated classes
            if weights != "hub":
                raise UserError(f"policy.vision={name}: {str(error).splitlines()[0]}") from error
            raise UserError(
                f"policy.vision_weights=hub: {name} could not be fetched; connect to the internet once, "
                'or give a weights file, or "random"'
            ) from error
    if weights == "random":
        with torch.no_grad():
            for parameter in model.parameters():  # the same model, whether it runs in float32 or in bfloat16
                parameter.copy_(parameter.bfloat16())
    elif weights != "hub":
        load_weights(model, weights)
    return model


def _create(name: str, pretrained: bool, image_size: int) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, num_classes=0, img_size=image_size)
    except TypeError:  # convolutional models take any size and have no such argument
        return timm.create_model(name, pretrained=pretrained, num_classes=0)


def load_weights(
    model: nn.Module, weights: str, key: str = "policy.vision_weights", other: str = '"random" (or "hub")'
) -> None:
    """Fill a timm model with the weights of a file, or of a name that llarp ships.

    UserError for a file that is missing, unreadable or another model's: `key` is the setting at fault, `other` what it
    may be instead."""
    from . import hub

    path = hub.vision_file(weights)
    if not path.is_file():
        shipped = hub.listed(hub.vision_names())
        raise UserError(f"{key}={weights}: no such file; give a file, a name that llarp ships ({shipped}), or {other}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
        model.load_state_dict(_resized(tensors, model))
    except Exception as error:  # unreadable, not a state dict, or another model's
        reason = " ".join(str(error).strip().splitlines()[:2])
        raise UserError(f"{key}={weights}: these are not weights of this model ({reason}); "
                        f"give its own, or {other}") from error  # fmt: skip


def _resized(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """With a plain ViT's position embeddings for its picture size (timm's own way)."""
    from timm.models.vision_transformer import VisionTransformer, checkpoint_filter_fn

    return checkpoint_filter_fn(tensors, model) if isinstance(model, VisionTransformer) else tensors


def fingerprint_of(tensors: dict[str, Tensor]) -> str:
    """sha256 over names and values of a state dict."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
