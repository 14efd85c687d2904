"""A policy that has read the instructions of the episodes to come, known without asking the device how far they are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llarp.policy.base import Policy

MARGIN = 3
"""So many more episodes a world are read ahead than are expected: how many have begun is known some steps late."""


class LateNumber:
    """A number on a device as the host knows it some steps late: it is copied in passing and nobody waits for it."""

    def __init__(self, device: torch.device):
        on_gpu = device.type == "cuda"
        box = torch.zeros((), dtype=torch.int64, pin_memory=on_gpu)
        self._box, self._content = box, box.numpy()
        self._arrived = torch.cuda.Event() if on_gpu else None
        self._age_under_way: int | None = None  # steps since the number under way was that; None: none is
        self.value = self.age = 0  # and how many steps ago it was that

    def set(self, value: int) -> None:
        """This is what the number is now."""
        self.value, self.age, self._age_under_way = value, 0, None

    def step(self, number: Tensor) -> None:
        """To call after every step with the number () as it is then."""
        self.age += 1
        if self._age_under_way is None:
            self._box.copy_(number, non_blocking=True)
            if self._arrived is not None:
                self._arrived.record()
            self._age_under_way = 0
        else:
            self._age_under_way += 1
        if self._has_arrived():
            self.value, self.age, self._age_under_way = int(self._content), self._age_under_way, None

    def _has_arrived(self) -> bool:
        return self._arrived is None or self._arrived.query()


class Lookahead:
    """Keeps a policy's `read_ahead` ahead of an environment that says in which order episodes will begin.

    At most one episode a world begins in a step. As long as the instructions read last for as many as may have begun,
    the device is not asked; else (little memory) it is, and more are read.
    """

    def __init__(self, env: Any, policy: Policy, device: torch.device):
        self._env, self._policy = env, policy
        self._begun = LateNumber(device)
        self._until = -1  # the instructions of so many episodes, from the first ever, are ready
        self._ready: Any = None
        self.expected = env.num_envs  # episodes that are likely to begin before `read` is called again
        self.times_read = 0

    def ready(self, at_hand: Tensor) -> Any:
        """What `obs["ready"]` is for observations with the instruction ids `at_hand` (N,)."""
        most = self._begun.value + self._begun.age * self._env.num_envs  # episodes that may have begun
        if self._ready is None or not self._ready.intact or most > self._until:
            self.read(at_hand)
        return self._ready

    def read(self, at_hand: Tensor) -> None:
        """Read what is likely to be needed; waits for the device."""
        worlds, begun = self._env.num_envs, int(self._env.episodes_begun)
        ids = at_hand.tolist()
        ids += self._env.upcoming_instruction_ids(self.expected + MARGIN * worlds)
        self._ready = self._policy.read_ahead(ids, need=2 * worlds)
        self._until = begun + self._ready.count - worlds
        self._begun.set(begun)
        self.times_read += 1

    def forget(self) -> None:
        """To call when all worlds are reset: what was read is not what begins."""
        self._ready = None

    def stepped(self) -> None:
        """To call after every step of the environment."""
        self._begun.step(self._env.episodes_begun)
