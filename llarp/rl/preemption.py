"""Ranks that wait for a slow one end its rollout early (DD-PPO, Wijmans et al. 2020, arXiv 1911.00357, section 3).

A simulator that takes long over one scene would keep all others waiting. So whoever has enough steps of a rollout asks
after each further one how many ranks have finished theirs, and hands in what it has once enough of them have. They
count in the job's key-value store: asking it waits for nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sized

from .distributed import Ranks

LEAST_SHARE = 0.25
"""Share of a rollout's steps that a rank takes in any case (DD-PPO's)."""


class Watch:
    """Asked after every step of a rollout whether it ends here: because `stop()` is true, or because others wait.

    `share`: how many of the ranks must have finished (0: nobody is waited for less); every rank makes one `Watch` a
    rollout, in the same order, and calls `finished` at its end.
    """

    def __init__(self, ranks: Ranks, stop: Callable[[], bool], steps: Sized, of: int, share: float) -> None:
        """`steps`: those that this rank has taken, of `of`."""
        self.ranks, self.stop, self.steps, self.of = ranks, stop, steps, of
        self.needed = share * ranks.num_teams if share > 0 and ranks.num_teams > 1 else None
        self.stopped = self.preempted = False
        if self.needed is not None:
            ranks.begin_race()

    def __call__(self) -> bool:
        """Whether to end the rollout here; the same at all ranks of a team."""
        self.stopped = self.ranks.in_team(self.stop())
        if not self.stopped and self.needed is not None and LEAST_SHARE * self.of <= len(self.steps) < self.of:
            self.preempted = self.ranks.in_team(self.ranks.arrived() >= self.needed)
        return self.stopped or self.preempted

    def finished(self) -> None:
        """To call when this rank has its rollout, however long."""
        if self.needed is not None and not self.stopped:
            self.ranks.arrive()
