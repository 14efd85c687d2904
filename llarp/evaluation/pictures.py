"""What a policy is shown or told instead of its own camera's pictures and its instruction, to tell what it goes by."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from llarp.errors import UserError
from llarp.policy.config import BLANK

from .agents import Agent, Hears, PolicyAgent

Pictures = Literal["camera", "shuffled", "blank"]


class AlteredPictures(PolicyAgent):
    """A policy that is shown, from each episode's first step to its last, what the next world's camera sees
    ("shuffled"), or grey ("blank"). Everything else, its own actions and the instruction, is its own world's."""

    def __init__(self, policy: Any, sample: bool, pictures: Pictures):
        super().__init__(policy, sample)
        self.pictures = pictures

    def start(self, env: Any) -> None:
        if self.pictures == "shuffled" and env.num_envs < 2:
            raise UserError("pictures=shuffled needs another world: give at least env.num_envs=2 and two episodes")
        super().start(env)

    def act(self, observation: dict[str, Tensor], episode_start: Tensor) -> Tensor:
        own = observation["rgb"]
        shown = own.roll(-1, 0) if self.pictures == "shuffled" else torch.full_like(own, BLANK)
        return super().act(observation | {"rgb": shown}, episode_start)


def with_pictures(agent: Agent, pictures: Pictures) -> Agent:
    """The agent, shown such `pictures`; UserError for one that is no trained policy: it has no use for them."""
    if pictures == "camera":
        return agent
    if not isinstance(agent, PolicyAgent):
        raise UserError(f"pictures={pictures} goes with checkpoint=PATH")
    return AlteredPictures(agent.policy, agent.sample, pictures)


def with_hearing(agent: Agent, hears: Hears) -> Agent:
    """The agent, told so; UserError for one that cannot be."""
    if hears == "named":
        return agent
    if not isinstance(agent, PolicyAgent) or not agent.policy.unknown_steps:
        raise UserError(f"hears={hears} goes with the checkpoint=PATH of a policy.kind=encoder_decoder")
    agent.hears = hears
    return agent
