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

    def __init__(
        self, num_episodes: int, num_envs: int, seed: int, device: torch.device, rank: int = 0, world_size: int = 1
    ):
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
        return self._episode(order.clamp(min=0))

    def upcoming(self, count: int) -> Tensor:
        """The episodes of the next `count` draws, (count,)."""
        return self._episode(self.drawn + torch.arange(count, device=self.drawn.device))[0]

    def _episode(self, order: Tensor) -> tuple[Tensor, Tensor]:
        draw = order * self.world_size + self.rank
        return (self.offset + draw % self.num_episodes * self.stride) % self.num_episodes, draw // self.num_episodes

    def state_dict(self) -> dict[str, Tensor]:
        return {"drawn": self.drawn.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self.drawn = state["drawn"].to(self.drawn.device).clone()


class QuotaSampler:
    """Every episode exactly once, by whichever world is free; `active` says which worlds play one that counts.

    Each counts once however long it takes, so worlds whose episodes end early are not over-counted in an evaluation.
    """

    def __init__(self, num_episodes: int, num_envs: int, device: torch.device):
        self.num_episodes = num_episodes
        self._begun = torch.zeros((), dtype=torch.int64, device=device)
        self.active = torch.ones(num_envs, dtype=torch.bool, device=device)

    def next(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Episode and pass number (always 0) for the worlds in `mask` (N,)."""
        episode = (self._begun + torch.cumsum(mask, 0) - 1).clamp(min=0)
        self._begun = self._begun + mask.sum()
        self.active = torch.where(mask, episode < self.num_episodes, self.active)
        return episode % self.num_episodes, torch.zeros_like(episode)

    def upcoming(self, count: int) -> Tensor:
        """The next `count` episodes, (at most count,)."""
        first = int(self._begun)
        last = min(first + count, self.num_episodes)
        return torch.arange(min(first, last), last, device=self._begun.device)

    def state_dict(self) -> dict[str, Tensor]:
        return {"begun": self._begun.clone(), "active": self.active.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._begun = state["begun"].to(self._begun.device).clone()
        self.active = state["active"].to(self.active.device).clone()
