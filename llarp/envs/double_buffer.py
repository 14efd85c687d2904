"""Double-buffered sampling: while one half of the worlds is simulated, the policy acts in the other.

As in Sample Factory (Petrenko et al. 2020, arXiv 2006.11751, section 3.2) and in Habitat-Baselines. It pays where
worlds are simulated elsewhere: in Habitat's processes, above all beside a policy on a GPU.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from llarp.errors import UserError


class DoubleBuffered:
    """Two vector environments, each with half of `num_envs` worlds and its own share of the episodes.

    Not a vector environment itself: `halves` are stepped in turn, by `step_async` and `step_wait`. UserError for fewer
    than two worlds.

    Args:
        make: a vector environment by `num_envs`, `rank`, `world_size` and, once it is known, `episode_set`.
    """

    def __init__(self, make: Callable[..., Any], num_envs: int, rank: int = 0, world_size: int = 1):
        if num_envs < 2:
            raise UserError(f"env.double_buffer=true needs at least 2 worlds, not env.num_envs={num_envs}")
        self.num_envs = num_envs
        larger, smaller = num_envs - num_envs // 2, num_envs // 2
        first = make(num_envs=larger, rank=2 * rank, world_size=2 * world_size)
        second = make(
            num_envs=smaller, rank=2 * rank + 1, world_size=2 * world_size, episode_set=first.episodes
        )
        self.halves = [first, second]
        self.episodes = first.episodes
        self.instruction_text = first.instruction_text

    def upcoming_instructions(self, count: int) -> list[str]:
        """The texts of about the next `count` episodes of both halves."""
        each = [half.upcoming_instructions(-(-count // 2)) for half in self.halves]
        return list(dict.fromkeys(itertools.chain.from_iterable(each)))

    def close(self) -> None:
        """Ends both."""
        for half in self.halves:
            half.close()
