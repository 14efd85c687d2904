"""Settings of the vision model's pretraining. Imports nothing heavy, so `llarp --help` stays quick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from llarp.errors import UserError
from llarp.rl.config import check_range


@dataclass(frozen=True)
class PretrainConfig:
    """`llarp pretrain vision`; the model is `policy.vision`, its pictures are of `env.image_size`."""

    # "mae": masked autoencoding, self-supervised; "labels": what is where, supervised by the simulator's own labels.
    method: Literal["mae", "labels"] = "mae"
    init: str = ""  # weights of the same ViT to begin from: a file, or a name that llarp ships; "": untrained
    pictures: int = 1_000_000  # pictures seen in all; each is drawn anew
    minutes: float = 0.0  # end after this long, earlier parts of a resumed run counted; 0: no limit (and repeatable)
    batch: int = 64  # pictures a gradient step
    lr: float = 1e-3  # AdamW's peak learning rate
    weight_decay: float = 0.05  # AdamW's weight decay, of matrices only
    warmup: float = 0.05  # share of the run over which the learning rate rises; a cosine takes it down to 0
    max_grad_norm: float = 1.0  # gradients are scaled down to this global norm
    mask: float = 0.75  # mae: share of the patches hidden from the encoder (He et al. 2022: 0.75)
    decoder_dim: int = 96  # mae: width of the decoder, which is thrown away
    decoder_depth: int = 2  # mae: its layers
    object_weight: float = 8.0  # labels: how much more a pixel of an object counts than one of furniture
    colour_jitter: float = 0.2  # each colour channel is scaled and shifted by up to this much (half as much for shifts)
    validation_layouts: int = 8  # the last so many training apartments are never shown: for choosing between methods
    probe_pictures: int = 4000  # pictures a probe is fitted to, half as many to test it; 0: no probe at the end
    log_interval: int = 50  # gradient steps between two lines of metrics
    checkpoint_minutes: float = 5.0  # time between two checkpoints; the last state is always kept

    def __post_init__(self) -> None:
        for name in ("pictures", "batch", "decoder_dim", "decoder_depth", "log_interval", "validation_layouts"):
            check_range(f"pretrain.{name}", getattr(self, name), 1)
        for name in ("minutes", "weight_decay", "colour_jitter", "probe_pictures", "checkpoint_minutes"):
            check_range(f"pretrain.{name}", getattr(self, name), 0)
        for name in ("lr", "max_grad_norm"):
            check_range(f"pretrain.{name}", getattr(self, name), 1e-12)
        check_range("pretrain.object_weight", self.object_weight, 1)
        check_range("pretrain.warmup", self.warmup, 0, 0.95)
        check_range("pretrain.mask", self.mask, 0.05, 0.95)
        if 0 < self.probe_pictures < 50:
            raise UserError(f"pretrain.probe_pictures={self.probe_pictures} is too few: give 0, or at least 50")
