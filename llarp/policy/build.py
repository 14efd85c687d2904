"""The policy that settings describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from .config import PolicyConfig
from .policy import LLaRPPolicy

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh


def make_policy(
    config: PolicyConfig, device: torch.device | str = "cpu", mesh: DeviceMesh | None = None
) -> LLaRPPolicy:
    """`LLaRPPolicy`, or the class of a baseline; errors as `LLaRPPolicy`'s. `mesh`: of those who share the llm."""
    config.validate()
    if config.variant == "lstm":
        from .lstm import LSTMPolicy

        return LSTMPolicy(config, device)
    if config.variant == "encoder_decoder":
        from .encoder_decoder import EncoderDecoderPolicy

        return EncoderDecoderPolicy(config, device)
    if config.variant == "trained_encoder_decoder":
        from .trained_encoder import TrainedEncoderDecoderPolicy

        return TrainedEncoderDecoderPolicy(config, device)
    if config.variant == "trained":
        from .trained import TrainedLLaRPPolicy

        return TrainedLLaRPPolicy(config, device)
    return LLaRPPolicy(config, device, mesh)
