"""A policy acting in an environment: the steps go into a rollout buffer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llarp.policy.base import Policy, State

from .rollout import Rollout, RolloutBuffer


class Collector:
    """Steps `env` (the contract's `output="torch"`, same-step autoreset) with the policy's sampled actions.

    `final_observations` also stores the observation before each reset, which bootstrapping truncated episodes needs.
    """

    def __init__(self, env: Any, policy: Policy, final_observations: bool = False) -> None:
        self.env, self.policy, self.final_observations = env, policy, final_observations
        self.buffer = RolloutBuffer()
        self.state: State | None = None  # the policy's; None before `start`
        self.features = self.instruction_id = self.episode_start = torch.empty(0)  # (N, ...) of the observation at hand
        policy.bind_instructions(env.instruction_text)

    def start(self) -> None:
        """Resets all worlds."""
        self._work_ahead(2 * self.env.num_envs)
        observation, _ = self.env.reset()
        self._look(observation, torch.ones_like(observation["instruction_id"], dtype=torch.bool))
        self.policy.calibrate(self.features)
        self.state = self.policy.initial_state(self.env.num_envs)

    @torch.no_grad()
    def step(self) -> None:
        """One action in every world."""
        assert self.state is not None
        seen = {"features": self.features, "instruction_id": self.instruction_id}
        action, log_prob, value, self.state = self.policy.act(seen, self.state, self.episode_start)
        observation, reward, terminated, truncated, info = self.env.step(action)
        step = {
            "action": action,
            "log_prob": log_prob,
            "value": value,
            "reward": reward,
            "terminated": terminated,
            "truncated": truncated,
            "success": info["success"],
            "invalid_action": info["invalid_action"],
        }
        if "dropped" in info:
            step["dropped"] = info["dropped"]
        step = {name: part.clone() for name, part in step.items()}  # an environment may reuse its tensors
        if self.final_observations:
            step["final_features"] = self.policy.encode(self.env.final_observation()["rgb"])
        self.buffer.add(**step, **seen, episode_start=self.episode_start)
        self._look(observation, terminated | truncated)

    def finish(self) -> Rollout:
        """What happened since the last call."""
        rollout = self.buffer.finish(self.features)
        begun = int(rollout.data["episode_start"].sum())
        self._work_ahead(begun + begun // 4 + self.env.num_envs)
        return rollout

    def _work_ahead(self, num_episodes: int) -> None:
        """Let the policy read the instructions of about so many next episodes together; one by one costs far more."""
        self.policy.prepare_instructions(self.env.upcoming_instructions(num_episodes))

    def refresh(self) -> None:
        """To call after every change of the policy."""
        assert self.state is not None
        self.state = self.policy.refresh_state(self.state)

    def _look(self, observation: dict[str, Tensor], episode_start: Tensor) -> None:
        self.features = self.policy.encode(observation["rgb"])
        self.instruction_id = observation["instruction_id"].clone()
        self.episode_start = episode_start

    def state_dict(self) -> dict[str, Any]:
        """Worlds, running episodes and what the policy remembers of them; between rollouts only."""
        return {
            "env": self.env.state_dict(),
            "context": self.buffer.state_dict(),
            "policy_state": dict(self.state or {}),
            "features": self.features,
            "instruction_id": self.instruction_id,
            "episode_start": self.episode_start,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken, the policy's weights being those of that time."""
        device = next(self.policy.parameters()).device
        self.env.load_state_dict(saved["env"])
        self.buffer.load_state_dict({name: part.to(device) for name, part in saved["context"].items()})
        self.features, self.instruction_id, self.episode_start = (
            saved[name].to(device) for name in ("features", "instruction_id", "episode_start")
        )
        self.state = {name: part.to(device) for name, part in saved["policy_state"].items()}
        self.refresh()
