"""How large discounted returns are, by which `ppo.normalize_returns` divides rewards."""

from __future__ import annotations

import math
from typing import Any

import torch

from .distributed import ALONE, Ranks
from .rollout import Rollout


class ReturnScale:
    """Deviation of the running discounted returns of all steps so far (Engstrom et al. 2020, arXiv 2005.12729, A.2).

    R_t = gamma R_(t-1) + r_t within an episode; the mean is taken off for the deviation only, so no reward changes its
    sign. Of several ranks all count, and all have the same deviation.
    """

    def __init__(self, num_envs: int, gamma: float) -> None:
        self.gamma = gamma
        self.sums = {"count": 0.0, "sum": 0.0, "squares": 0.0}
        self._running = torch.zeros(num_envs, dtype=torch.float64)

    @property
    def deviation(self) -> float:
        """1 as long as returns have not varied."""
        count = self.sums["count"]
        if count < 2:
            return 1.0
        variance = self.sums["squares"] / count - (self.sums["sum"] / count) ** 2
        return math.sqrt(variance) if variance > 1e-8 else 1.0

    def normalize(self, rollout: Rollout, ranks: Ranks = ALONE) -> None:
        """Count a rollout, then divide its rewards. A meeting."""
        data = rollout.data
        reward, kept = data["reward"].double().cpu(), rollout.kept.cpu()
        over = (data["terminated"] | data["truncated"]).cpu()
        returns = torch.zeros_like(reward)
        for t in range(len(reward)):
            self._running = self.gamma * self._running + reward[t]
            returns[t] = self._running
            self._running = torch.where(over[t], 0.0, self._running)
        seen = returns[kept]
        own = {"count": float(len(seen)), "sum": float(seen.sum()), "squares": float(seen.square().sum())}
        self.sums = {name: self.sums[name] + value for name, value in ranks.total(own).items()}
        data["reward"] = data["reward"] / self.deviation

    def restart(self, ranks: Ranks = ALONE) -> None:
        """All worlds are reset; all ranks take over what rank 0 has counted. A meeting."""
        self._running.zero_()
        self.sums = ranks.gather(self.sums)[0]

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {"running": self._running, **self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken; by other worlds, from their beginning."""
        if state["running"].shape == self._running.shape:
            self._running = state["running"].clone()
        self.sums = {name: float(state[name]) for name in self.sums}
