"""Habitat behind `llarp replay`: worlds that can be told what is otherwise drawn at random; nothing is drawn."""

from __future__ import annotations

from collections.abc import Sequence as Rows
from typing import TYPE_CHECKING

import numpy as np
import torch

from llarp.evaluation.replay import Outcome, Pose, Sequence, Step
from llarp.evaluation.replay_world import EpisodeRows
from llarp.machine import cores
from llarp.tasks import semantics

from . import messages
from .episodes import Episodes
from .messages import Beginning, Told
from .worlds import HabitatWorlds

if TYPE_CHECKING:
    from llarp.config import RunConfig


class HabitatReplayWorlds:
    """As many simulators as there are cores, or `env.num_envs` if those are fewer; poses are in Habitat's frame."""

    def __init__(self, config: RunConfig, most: int):
        self.num_worlds = max(1, min(most, cores(), config.env.num_envs))
        self._source, self._seed, self._rules = Episodes.load(config.env, config.seed), config.seed, config.env.rule_set
        self._rows = EpisodeRows(self._source.episodes)
        self.worlds = HabitatWorlds(self._source, self.num_worlds, config.task, config.env)

    def order(self, sequences: Rows[Sequence]) -> list[int]:
        """Scene by scene, each world a share of the scenes: to load another scene takes longer than an episode."""
        rows = [self._rows.find(s.episode_id) for s in sequences]
        by_scene = sorted(range(len(rows)), key=lambda i: self._source.scene(rows[i]))
        shares = np.array_split(by_scene, self.num_worlds)  # the longer ones first
        return [int(share[k]) for k in range(len(shares[0])) for share in shares if k < len(share)]

    def start(self, sequences: Rows[Sequence]) -> None:
        self.worlds.begin([self._beginning(s) for s in sequences])

    def valid_actions(self) -> list[list[int]]:
        return [row.nonzero()[0].tolist() for row in self.worlds.valid_actions().numpy()]

    def step(self, steps: Rows[Step | None]) -> list[Outcome]:
        invalid = self.worlds.take([None if s is None else (s.action, _told(s)) for s in steps])
        result = self.worlds.judge(invalid)
        done = result.terminated | result.truncated
        columns = (invalid, result.reward, result.progress, result.success, done)
        return [Outcome(*values) for values in zip(*(c.tolist() for c in columns), strict=True)][: len(steps)]

    def poses(self) -> list[Pose]:
        state = self.worlds.state
        heights = state.robot_height.tolist()
        return [(x, height, -y, yaw) for (x, y, yaw), height in zip(state.robot.tolist(), heights, strict=True)]

    def close(self) -> None:
        self.worlds.close()

    def _beginning(self, sequence: Sequence) -> Beginning:
        begin = self._source.beginning(self._rows.find(sequence.episode_id), self._seed)
        if sequence.start_pose is not None:
            x, y, yaw, height = _pose(sequence.start_pose)
            begin.state.robot[0], begin.state.robot_height[0] = torch.tensor([x, y, yaw]), height
            semantics.refresh(begin.state)
        return begin


def _told(step: Step) -> Told | None:
    """What is fixed of a step, in our frame."""
    if step.pose is None and step.placed is None:
        return None
    placed = None
    if step.placed is not None:
        _, x, y, z = step.placed
        placed = (x, -z, y)
    return Told(None if step.pose is None else _pose(step.pose), placed)


def _pose(pose: Pose) -> messages.Pose:
    x, height, z, yaw = pose
    return x, -z, yaw, height
