"""Which episode a world plays next. Everything stays on the device; nothing depends on how many worlds there are."""

from __future__ import annotations

import math

import torch
from torch import Tensor

_GOLDEN = (math.sqrt(5) - 1) / 2


class ShuffledSampler:
    """Endless passes over E episodes in a fixed scattered order.

    Draw number d plays episode `(offset + d * stride) % E` with a stride coprime to E, so that a pass visits every
    episode once and costs the same whatever E is. With several ranks, rank r takes the draws r, r + world_size, ...
    """

    def __init__(self, num_episodes: int, num_envs: int, seed: int, device: torch.device, rank: int = 0, world_size: int = 1):
        self.num_episodes, self.rank, self.world_size = num_episodes, rank, world_size
        self.offset = (seed * 7919) % num_episodes
        stride = max(1, round(num_episodes * _GOLDEN))
        while math.gcd(stride, num_episodes) != 1:
            stride += 1
        self.stride = stride
        self.drawn = torch.zeros((), dtype=torch.int64, device=device)
        self.active = torch.ones(num_envs, dtype=torch.bool, device=device)  # every world always counts

    def next(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Episode and pass number for the worlds in `mask` (N,); the other entries mean nothing."""
        order = self.drawn + torch.cumsum(mask, 0) - 1
        self.drawn = self.drawn + mask.sum()
        draw = (order * self.world_size + self.rank).clamp(min=0)
        return (self.offset + draw % self.num_episodes * self.stride) % self.num_episodes, draw // self.num_episodes

    def state_dict(self) -> dict[str, Tensor]:
        return {"drawn": self.drawn.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.drawn = state["drawn"].to(self.drawn.device).clone()


class QuotaSampler:
    """Every episode exactly once: world i plays i, i + N, ...; `active` says which worlds still play one that counts.

    A fixed quota keeps worlds whose episodes end early from being over-counted in an evaluation.
    """

    def __init__(self, num_episodes: int, num_envs: int, device: torch.device):
        self.num_episodes, self.num_envs = num_episodes, num_envs
        self.upcoming = torch.arange(num_envs, device=device)
        self.active = torch.ones(num_envs, dtype=torch.bool, device=device)

    def next(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Episode and pass number (always 0) for the worlds in `mask` (N,)."""
        episode = self.upcoming % self.num_episodes
        self.active = torch.where(mask, self.upcoming < self.num_episodes, self.active)
        self.upcoming = torch.where(mask, self.upcoming + self.num_envs, self.upcoming)
        return episode, torch.zeros_like(episode)

    def state_dict(self) -> dict[str, Tensor]:
        return {"upcoming": self.upcoming.clone(), "active": self.active.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.upcoming = state["upcoming"].to(self.upcoming.device).clone()
        self.active = state["active"].to(self.active.device).clone()
