"""What planners share: the view of one world, the interface, and the jobs still to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from .actions import NUM_ACTIONS, pick, place
from .atoms import truth
from .episodes import Episode
from .planners_wants import PlannerError, Wants, wants_of
from .rules import receptacle_center
from .state import WorldState

__all__ = ["Job", "Planner", "PlannerError", "PlannerView", "Wants", "locate", "open_jobs", "view_of", "views_of",
           "wants_of"]

SLIP_PLAUSIBLE = 0.75
"""Share of slips that are premature rather than random."""

BESIDE_M = 0.3
"""Published rooms have objects beside their receptacle's box; those so near are looked for at the receptacle."""


@dataclass
class PlannerView:
    """One world as numpy arrays that share the state's memory: read them at once, do not keep or change them."""

    goal: dict[str, Any]  # the goal expression
    instruction: str
    episode: int  # episode id
    rules: str  # the rule set in force
    robot: np.ndarray  # (3,) x, y, yaw
    joint: np.ndarray  # (5,)
    held: int  # slot in the hand, -1: none
    object_category: np.ndarray  # (M,)
    object_position: np.ndarray  # (M, 3)
    object_inside: np.ndarray  # (M,)
    receptacle_center: np.ndarray  # (11, 3), where the rules have it: in clean ones drawers' move with them
    receptacle_half: np.ndarray  # (11, 3)
    receptacle_yaw: np.ndarray  # (11,)
    receptacle_span: np.ndarray  # (11, 3) half sizes of the boxes that published rules put things into
    container_slide: np.ndarray  # (5, 3) displacement of what is in a drawer per metre of its joint
    handle_position: np.ndarray  # (5, 3)
    nav_pose: np.ndarray  # (16, 3)
    visible: np.ndarray  # (M,) bool: in the current head picture
    valid: np.ndarray  # (70,) bool: actions whose precondition holds
    atoms: Callable[[], np.ndarray]  # gives the truth of every atom, bool (NUM_ATOMS,)



def views_of(
    state: WorldState,
    episodes: Sequence[Episode],
    visible: Any,
    valid: Any = None,
    rules: str = "clean",
    atoms: Any = None,
) -> list[PlannerView]:
    """All N worlds of a state on the CPU, with the episode each plays.

    `visible` (N, M), `valid` (N, 70) and `atoms` (N, NUM_ATOMS) are bool arrays or CPU tensors; without `valid` every
    action counts as valid, without `atoms` they are worked out when asked for."""
    center = receptacle_center(state, rules).numpy()
    arrays = {
        name: getattr(state, name).numpy()
        for name in ("robot", "joint", "object_category", "object_position", "object_inside", "receptacle_half",
                     "receptacle_yaw", "receptacle_span", "container_slide", "handle_position", "nav_pose")
    }  # fmt: skip
    held = state.held.tolist()
    seen = np.asarray(visible, dtype=bool)
    can = np.ones((len(held), NUM_ACTIONS), dtype=bool) if valid is None else np.asarray(valid, dtype=bool)

    @lru_cache(maxsize=1)
    def facts() -> np.ndarray:
        return np.asarray(truth(state, rules) if atoms is None else atoms, dtype=bool)

    def row(i: int) -> Callable[[], np.ndarray]:
        return lambda: facts()[i]

    return [
        PlannerView(
            goal=episode.goal,
            instruction=episode.instruction,
            episode=episode.episode_id,
            rules=rules,
            held=held[i],
            receptacle_center=center[i],
            visible=seen[i],
            valid=can[i],
            atoms=row(i),
            **{name: values[i] for name, values in arrays.items()},
        )
        for i, episode in enumerate(episodes)
    ]


def view_of(
    state: WorldState, episode: Episode, visible: Any, i: int, valid: Any = None, rules: str = "clean"
) -> PlannerView:
    """World `i` of a state on the CPU, see `views_of`."""
    can = None if valid is None else valid[i : i + 1]
    return views_of(state.rows(torch.tensor([i])), [episode], visible[i : i + 1], can, rules)[0]


class Planner(ABC):
    """Chooses actions for one world; `reset` starts an episode and may be called at any time."""

    @abstractmethod
    def reset(self, view: PlannerView) -> None:
        """Forget everything and read the new episode's goal."""

    @abstractmethod
    def act(self, view: PlannerView) -> int:
        """The next action, an index into ACTIONS."""

    def overruled(self, action: int) -> None:  # noqa: B027 (the blind ones do not care)
        """Something else was done than `act` said: to be called before its next call."""

    def slip(self, view: PlannerView, draw: float) -> int:
        """A mistake somebody might make here; `draw` in [0, 1) chooses it.

        Mostly reaching for something wanted, wherever the robot stands, or putting down what it holds at a place that
        is wanted for something: what a policy that sees badly does too early. Else any action.
        """
        if draw < SLIP_PLAUSIBLE:
            wants = wants_of(view.goal)
            if view.held < 0:
                choices = [pick(c) for c in sorted(wants.categories)]
            else:
                choices = [place(r) for r in sorted({r for _, r in wants.moves + wants.every})]
            if choices:
                return choices[int(draw / SLIP_PLAUSIBLE * len(choices))]
            draw = draw / SLIP_PLAUSIBLE
        else:
            draw = (draw - SLIP_PLAUSIBLE) / (1 - SLIP_PLAUSIBLE)
        return int(draw * NUM_ACTIONS)


@dataclass(frozen=True)
class Job:
    """Objects to move to a receptacle, or away from one."""

    away: bool
    category: int
    receptacle: int
    slots: tuple[int, ...]  # objects that would do (of `away`: that have to go), as far as known


def open_jobs(wants: Wants, where: Mapping[int, int], category: Mapping[int, int]) -> list[Job]:
    """What is left to move, given on which receptacle each known object is (`where`, slots that are not held)."""
    used: set[int] = set()
    missing: list[tuple[int, int]] = []
    for c, r in wants.moves:
        there = next((s for s, at in where.items() if at == r and category[s] == c and s not in used), None)
        if there is None:
            missing.append((c, r))
        else:
            used.add(there)
    jobs = [Job(False, c, r, tuple(s for s in where if category[s] == c and s not in used)) for c, r in missing]
    for c, r in wants.every:  # never done, as far as anybody knows who has not seen everything
        jobs.append(Job(False, c, r, tuple(s for s, at in where.items() if at != r and category[s] == c)))
    for c, r in wants.removals:
        jobs.append(Job(True, c, r, tuple(s for s, at in where.items() if at == r and category[s] == c)))
    return jobs


def locate(view: PlannerView, slots: Collection[int]) -> dict[int, int]:
    """The receptacle each of the given objects is on or in, or else next to (within `BESIDE_M`), -1: none.

    Reads nothing of other objects."""
    index = np.fromiter(slots, dtype=np.int64, count=len(slots))
    offset = view.object_position[index][:, None] - view.receptacle_center  # (k, 11, 3)
    cos, sin = np.cos(view.receptacle_yaw), np.sin(view.receptacle_yaw)
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    half = view.receptacle_half
    beyond = np.stack([np.abs(along) - half[:, 0], np.abs(across) - half[:, 1], np.abs(offset[..., 2]) - half[:, 2]])
    gap = np.sqrt((beyond.clip(min=0) ** 2).sum(0))  # (k, 11) 0 inside
    inside = view.object_inside[index]
    found = np.where(inside >= 0, inside, np.where(gap.min(1) <= BESIDE_M, gap.argmin(1), -1))
    return dict(zip(index.tolist(), found.tolist(), strict=True))
