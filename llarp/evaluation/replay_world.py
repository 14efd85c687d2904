"""The embedded simulator behind `llarp replay`: worlds that can be told what is otherwise drawn at random."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.errors import UserError
from llarp.sim.world import BatchWorld
from llarp.tasks import semantics
from llarp.tasks.actions import OPEN_FRIDGE, PLACE_BASE
from llarp.tasks.episodes import EpisodeSet

from .replay import Outcome, Pose, ReplayWorlds, Sequence, Step

if TYPE_CHECKING:
    from llarp.config import RunConfig

WORLDS = 256
"""Sequences that are stepped together."""
_IDLE = 0
"""What a world does whose sequence is over; any action would do."""


class EpisodeRows:
    """Episodes found by their ids."""

    def __init__(self, episodes: EpisodeSet):
        ids = [str(e) for e in episodes.episode_id.tolist()]
        self._rows, self._times, self._count = {e: i for i, e in enumerate(ids)}, Counter(ids), len(ids)

    def find(self, episode_id: str | None) -> int:
        """The row of an episode, the first where no id is given; UserError unless there is exactly one of it."""
        if episode_id is None:
            return 0
        if self._times[episode_id] != 1:
            what = "is not" if episode_id not in self._rows else f"occurs {self._times[episode_id]} times"
            raise UserError(f"episode_id={episode_id} {what} in the dataset, which holds {self._count} episodes")
        return self._rows[episode_id]


class EmbeddedReplayWorlds:
    """Poses and places go in and out in Habitat's frame: (x, y, z) there is (x, -z, y) here, yaw is the same."""

    def __init__(self, config: RunConfig, num_worlds: int):
        self.num_worlds = num_worlds
        self.episodes = load_episodes(config.env, config.seed)
        self._rows = EpisodeRows(self.episodes)
        self.world = BatchWorld(
            load_assets_for(config.env), self.episodes, num_worlds, config.task, rules=config.env.rule_set,
            pictures=False,
        )  # fmt: skip
        self.world.seed = config.seed

    def order(self, sequences: Rows[Sequence]) -> list[int]:
        return list(range(len(sequences)))

    def start(self, sequences: Rows[Sequence]) -> None:
        taken = torch.arange(self.num_worlds) < len(sequences)
        row = torch.zeros(self.num_worlds, dtype=torch.int64)
        row[taken] = torch.tensor([self._rows.find(s.episode_id) for s in sequences])
        self.world.reset(taken, row, torch.zeros_like(row))
        told = self._stand([s.start_pose for s in sequences])
        if len(told):
            self.world.restart_progress(told)

    def valid_actions(self) -> list[list[int]]:
        return [row.nonzero()[0].tolist() for row in self.world.valid_actions().numpy()]

    def step(self, steps: Rows[Step | None]) -> list[Outcome]:
        actions = [_IDLE if s is None else s.action for s in steps]
        action = torch.tensor(actions + [_IDLE] * (self.num_worlds - len(steps)))
        held = self.world.state.held.clone()
        invalid = self.world.apply(action)
        self._stand([s.pose if s else None for s in steps])
        puts = (action >= PLACE_BASE) & (action < OPEN_FRIDGE) & ~invalid
        for i in puts.nonzero()[:, 0].tolist():
            if (step := steps[i]) is not None and step.placed is not None:
                _, x, y, z = step.placed
                self.world.state.object_position[i, held[i]] = torch.tensor([x, -z, y])
        result = self.world.judge(invalid)
        done = result.terminated | result.truncated
        columns = (invalid, result.reward, result.progress, result.success, done)
        return [Outcome(*values) for values in zip(*(c.tolist() for c in columns), strict=True)][: len(steps)]

    def poses(self) -> list[Pose]:
        state = self.world.state
        heights = state.robot_height.tolist()
        return [(x, height, -y, yaw) for (x, y, yaw), height in zip(state.robot.tolist(), heights, strict=True)]

    def close(self) -> None:
        self.world.close()

    def _stand(self, poses: Rows[Pose | None]) -> Tensor:
        """Put robots where they are told to be; returns the rows (R,) of their worlds."""
        told = {i: (p[0], -p[2], p[3], p[1]) for i, p in enumerate(poses) if p is not None}
        rows = torch.tensor(list(told), dtype=torch.int64)
        if told:
            state, given = self.world.state, torch.tensor(list(told.values()))
            state.robot[rows], state.robot_height[rows] = given[:, :3], given[:, 3]
            semantics.refresh(state)
        return rows


def open_worlds(config: RunConfig, sequences: Rows[Sequence]) -> ReplayWorlds:
    """Worlds for `sequences`, with enough episodes of the split that every id named is there."""
    if not config.env.dataset:
        config = replace(config, env=replace(config.env, episodes=max(100, len(sequences))))
    if config.env.backend == "habitat":
        from llarp.habitat.replay import HabitatReplayWorlds

        return HabitatReplayWorlds(config, len(sequences))
    return EmbeddedReplayWorlds(config, min(WORLDS, len(sequences)))
