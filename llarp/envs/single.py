"""One world behind Gymnasium's single-environment interface."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode

from .vector import LanguageRearrangementVectorEnv


class LanguageRearrangementEnv(gymnasium.Env):
    """A vector environment of one world; takes the same keyword arguments."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 2}

    def __init__(self, render_mode: str | None = "rgb_array", **settings: Any):
        self.vector = LanguageRearrangementVectorEnv(
            1, output="numpy", autoreset_mode=AutoresetMode.DISABLED, render_mode=render_mode, **settings
        )
        self.render_mode = render_mode
        self.observation_space = self.vector.single_observation_space
        self.action_space = self.vector.single_action_space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        self.vector._done[:] = False  # a single environment may be reset at any time
        observation, info = self.vector.reset(seed=seed)
        return self._first(observation), self._info(info)

    def step(self, action: int | np.integer) -> tuple[dict, float, bool, bool, dict]:
        observation, reward, terminated, truncated, info = self.vector.step(np.array([action]))
        named = self._info(info) | {"action_name": info["action_name"][0]}
        return self._first(observation), float(reward[0]), bool(terminated[0]), bool(truncated[0]), named

    def render(self) -> np.ndarray | None:  # type: ignore[override]
        """The head camera's picture, uint8 (H, W, 3)."""
        pictures = self.vector.render()
        return None if pictures is None else pictures[0]

    def state_dict(self) -> dict[str, Any]:
        """See `LanguageRearrangementVectorEnv.state_dict`."""
        return self.vector.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `LanguageRearrangementVectorEnv.load_state_dict`."""
        self.vector.load_state_dict(state)

    @staticmethod
    def _first(observation: dict) -> dict:
        return {"rgb": observation["rgb"][0], "instruction": observation["instruction"][0]}

    @staticmethod
    def _info(info: dict) -> dict[str, Any]:
        return {k: v[0].item() for k, v in info.items() if not k.startswith("_")}
