"""Which episode a world plays next: one after another on the device, or scene by scene for simulators that load scenes.

The order of episodes (of blocks of episodes) is fixed by the seed and does not depend on how many worlds there are.
"""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
from torch import Tensor

from llarp.errors import UserError

_GOLDEN = (math.sqrt(5) - 1) / 2


def _scatter(count: int, seed: int) -> tuple[int, int]:
    """Offset and stride, coprime to `count`: `(offset + i * stride) % count` visits everything once, far apart."""
    stride = max(1, round(count * _GOLDEN))
    while math.gcd(stride, count) != 1:
        stride += 1
    return (seed * 7919) % count, stride


class ShuffledSampler:
    """Endless passes over E episodes in a fixed scattered order.

    Draw number d plays episode `(offset + d * stride) % E` with a stride coprime to E, so that a pass visits every
    episode once and costs the same whatever E is. With several ranks, rank r takes the draws r, r + world_size, ...
    """

    def __init__(
        self, num_episodes: int, num_envs: int, seed: int, device: torch.device, rank: int = 0, world_size: int = 1
    ):
        self.num_episodes, self.rank, self.world_size = num_episodes, rank, world_size
        self.offset, self.stride = _scatter(num_episodes, seed)
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


class SceneSampler:
    """A world stays in one scene for up to `block` episodes, where changing it costs much more than a reset.

    Each scene's episodes (`scene` (E,) names it, any integers) are scattered and cut into blocks; the blocks, scattered
    too, go one by one to whichever world has played its own: endlessly, or with `quota` every episode exactly once. At
    the end of a quota a world without a block takes over the rear half of the largest one left; where nothing is left,
    `active` goes false and the world plays something that does not count, if it can in the scene it is in.
    With several ranks, rank r takes the blocks r, r + world_size, ... Everything is on the CPU.
    """

    def __init__(
        self,
        scene: Tensor,
        num_envs: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        *,
        block: int = 16,
        quota: bool = False,
    ):
        self.num_episodes, self.num_envs, self.quota = len(scene), num_envs, quota
        self.rank, self.world_size = rank, world_size
        scenes = scene.cpu().numpy()
        offset, stride = _scatter(len(scenes), seed)
        scattered = (offset + np.arange(len(scenes)) * stride) % len(scenes)
        self._order = scattered[np.argsort(scenes[scattered], kind="stable")]  # (E,) episodes by scene
        by_scene = scenes[self._order]
        at = np.arange(len(scenes))
        begin = np.maximum.accumulate(np.where(np.append(True, by_scene[1:] != by_scene[:-1]), at, 0))
        self._bounds = np.append(np.flatnonzero((at - begin) % block == 0), len(scenes))  # (B + 1,) of blocks
        self._num_blocks = len(self._bounds) - 1
        self._offset, self._stride = _scatter(self._num_blocks, seed)
        self._drawn = 0  # blocks handed out
        # What each world has left of its block: positions in `_order` from `_at` to before `_end`, in pass `_pass`.
        self._at, self._end, self._pass = ([0] * num_envs for _ in range(3))
        self._set_aside: set[int] = set()
        self.active = torch.ones(num_envs, dtype=torch.bool)

    def next(self, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Episode and pass number for the worlds in `mask` (N,), on its device; the other entries mean nothing."""
        episode, occurrence = (torch.zeros(self.num_envs, dtype=torch.int64) for _ in range(2))
        self.active = self.active.clone()
        for world in mask.nonzero().flatten().tolist():
            found = self._draw(world)
            self.active[world] = found is not None
            episode[world] = self._pastime(world) if found is None else found
            occurrence[world] = self._pass[world]
        return episode.to(mask.device), occurrence.to(mask.device)

    def upcoming(self, count: int) -> Tensor:
        """The next `count` episodes (fewer at the end of a quota) if every world's episodes took equally long."""
        ahead = copy.copy(self)
        ahead._at, ahead._end, ahead._pass = list(self._at), list(self._end), list(self._pass)
        episodes: list[int] = []
        while len(episodes) < count and (found := ahead._draw(len(episodes) % self.num_envs)) is not None:
            episodes.append(found)
        return torch.tensor(episodes, dtype=torch.int64)

    def set_aside(self, episode: int) -> None:
        """Never hand out this episode again; UserError where none would be left."""
        self._set_aside.add(episode)
        if len(self._set_aside) == self.num_episodes:
            raise UserError(
                f"the simulator fails in every episode, the last one being number {episode}: nothing is left to play"
            )

    @property
    def set_aside_episodes(self) -> list[int]:
        """The episodes set aside, ascending; of a quota, those not played by then never will be."""
        return sorted(self._set_aside)

    def _draw(self, world: int) -> int | None:
        """The world's next episode, None where a quota is used up."""
        begun = self._drawn
        while True:
            while self._at[world] < self._end[world]:
                episode = int(self._order[self._at[world]])
                self._at[world] += 1
                if episode not in self._set_aside:
                    return episode
            if self._drawn - begun > self._num_blocks:
                raise UserError(f"the simulator fails in every episode of process {self.rank}: nothing is left to play")
            if not self._take_block(world):
                return None

    def _take_block(self, world: int) -> bool:
        draw = self._drawn * self.world_size + self.rank
        if not self.quota or draw < self._num_blocks:
            block = (self._offset + draw % self._num_blocks * self._stride) % self._num_blocks
            self._at[world], self._end[world] = int(self._bounds[block]), int(self._bounds[block + 1])
            self._pass[world] = draw // self._num_blocks
            self._drawn += 1
            return True
        left = [end - at for at, end in zip(self._at, self._end, strict=True)]
        richest = left.index(max(left))
        if left[richest] == 0:
            return False
        self._end[world] = self._end[richest]
        self._at[world] = self._end[richest] = self._end[richest] - (left[richest] + 1) // 2
        return True

    def _pastime(self, world: int) -> int:
        """An episode for a world that has nothing to play: its last one, or else one near it."""
        near = (int(self._order[self._at[world] - 1 - i]) for i in range(self.num_episodes))
        return next(episode for episode in near if episode not in self._set_aside)

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "drawn": torch.tensor(self._drawn),
            "blocks": torch.tensor([self._at, self._end, self._pass]),
            "set_aside": torch.tensor(self.set_aside_episodes, dtype=torch.int64),
            "active": self.active.clone(),
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._drawn = int(state["drawn"])
        self._at, self._end, self._pass = state["blocks"].tolist()
        self._set_aside = set(state["set_aside"].tolist())
        self.active = state["active"].cpu().clone()
