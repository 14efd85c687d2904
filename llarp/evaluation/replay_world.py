"""The embedded simulator behind `llarp replay`: one world that can be told what is otherwise drawn at random."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from llarp.envs.episode_source import load_episodes
from llarp.errors import UserError
from llarp.sim.world import BatchWorld, load_assets
from llarp.tasks import semantics
from llarp.tasks.actions import OPEN_FRIDGE, PLACE_BASE

from .replay import Outcome, Placed, Pose, Sequence

if TYPE_CHECKING:
    from llarp.config import RunConfig


class EmbeddedReplayWorld:
    """Poses and places go in and out in Habitat's frame: (x, y, z) there is (x, -z, y) here, yaw is the same."""

    def __init__(self, config: RunConfig):
        self.episodes = load_episodes(config.env, config.seed)
        self.rows = {str(e): i for i, e in enumerate(self.episodes.episode_id.tolist())}
        self.world = BatchWorld(
            load_assets(), self.episodes, 1, config.task, rules=config.env.rules, pictures=False
        )
        self.world.seed = config.seed

    def start(self, episode_id: str | None, start_pose: Pose | None) -> None:
        if episode_id is not None and episode_id not in self.rows:
            raise UserError(f"episode_id={episode_id} is not in the dataset, which holds {len(self.rows)} episodes")
        row = torch.tensor([0 if episode_id is None else self.rows[episode_id]])
        self.world.reset(torch.ones(1, dtype=torch.bool), row, torch.zeros_like(row))
        if start_pose is not None:
            self._stand(start_pose)
            self.world.restart_progress(torch.zeros(1, dtype=torch.int64))

    def valid_actions(self) -> list[int]:
        return self.world.valid_actions()[0].nonzero()[:, 0].tolist()

    def step(self, action: int, placed: Placed | None, pose: Pose | None) -> Outcome:
        held = int(self.world.state.held[0])
        invalid = self.world.apply(torch.tensor([action]))
        if pose is not None:
            self._stand(pose)
        if placed is not None and PLACE_BASE <= action < OPEN_FRIDGE and not bool(invalid[0]):
            _, x, y, z = placed
            self.world.state.object_position[0, held] = torch.tensor([x, -z, y])
        result = self.world.judge(invalid)
        return Outcome(
            bool(invalid[0]),
            float(result.reward[0]),
            float(result.progress[0]),
            bool(result.success[0]),
            bool((result.terminated | result.truncated)[0]),
        )

    def pose(self) -> Pose:
        x, y, yaw = self.world.state.robot[0].tolist()
        return x, 0.0, -y, yaw

    def _stand(self, pose: Pose) -> None:
        x, _, z, yaw = pose
        self.world.state.robot[0] = torch.tensor([x, -z, yaw])
        semantics.refresh(self.world.state)


def open_world(config: RunConfig, sequences: Rows[Sequence]) -> EmbeddedReplayWorld:
    """The world for `sequences`, with enough episodes of the split that every id named is there."""
    if config.env.dataset:
        return EmbeddedReplayWorld(config)
    return EmbeddedReplayWorld(replace(config, env=replace(config.env, episodes=max(100, len(sequences)))))
