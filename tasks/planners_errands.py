"""Single errands of a planner: to drive, open, fetch and put down, on paper."""

from __future__ import annotations

from typing import NamedTuple

from .actions import nav_to_handle, nav_to_receptacle, pick, place, set_handle
from .entities import NUM_HANDLES, NUM_NAV_TARGETS
from .planners_prospect import Prospect

_LIKELY = 0.5
"""Things put down are reckoned with where they are in reach with a higher chance."""


class Step(NamedTuple):
    """One action, and what is in the hand before it and after it (slots, -1: nothing)."""

    action: int
    held: int
    then: int


class Stage(NamedTuple):
    """Where a plan has come to."""

    steps: tuple[Step, ...]
    pose: int  # a nav target, or HERE
    held: int
    moved: dict[int, int]  # slot -> receptacle it was put on
    turned: dict[int, bool]  # handle -> opened
    left: float = 0  # wanted things that it does not do
    idle: bool = False  # it only waits for a goal that seems reached to be judged again

    def then(self, action: int, *, pose: int | None = None, held: int | None = None) -> Stage:
        after, pose = self.held if held is None else held, self.pose if pose is None else pose
        return self._replace(steps=(*self.steps, Step(action, self.held, after)), pose=pose, held=after)

    def rank(self) -> tuple[float, int]:
        """Smaller is better: what it leaves undone, then its length."""
        return self.left, len(self.steps)


class Errands:
    """What can be done from a stage, given what the planner expects of the world; each step leads to a new stage.

    None stands for what cannot be done."""

    def __init__(self, world: Prospect):
        self.world = world

    def _poses(self, stage: Stage, slot: int) -> list[int]:
        """The present pose, then where one would stand for an object, then all others."""
        on = stage.moved.get(slot, self.world.on.get(slot, -1))
        first = [stage.pose] + ([NUM_HANDLES + on] if on >= 0 else [])
        return first + [t for t in range(NUM_NAV_TARGETS - 1, -1, -1) if t not in first]

    def _in_reach(
        self, stage: Stage, pose: int, slot: int, *, unwanted: bool = False, ajar: bool = False
    ) -> bool:
        """Whether pick would find an object; `ajar`: once what it is in has been opened. Of something that was put
        down, `unwanted`: whether it has to be reckoned with, else whether it can be hoped for."""
        if slot == stage.held:
            return False
        if slot in stage.moved:
            on = stage.moved[slot]
            if unwanted:
                return self.world.chance[pose][on] > _LIKELY
            return pose == NUM_HANDLES + on or self.world.spot[pose][on]
        if not ajar and not all(stage.turned.get(handle) for handle in self.world.locks[slot]):
            return False
        return self.world.reach[pose][self.world.column[slot]]

    def _grabs(self, stage: Stage, pose: int, slot: int) -> int:
        """What picking an object's category from a pose takes hold of, -1: nothing. To be sure of it, anything put down
        counts as in the way that may be."""
        return next((s for s in self.world.alike(slot) if self._in_reach(stage, pose, s, unwanted=s != slot)), -1)

    def _unlocked(self, stage: Stage, slot: int) -> Stage | None:
        """After opening what an object is shut away in."""
        if slot in stage.moved:
            return stage
        opened: Stage | None = stage
        for handle in self.world.locks[slot]:
            if opened is not None and not opened.turned.get(handle):
                opened = self._turn(opened, handle, True)
        return opened

    def _go(self, stage: Stage, pose: int) -> Stage:
        return stage if pose == stage.pose else stage.then(pose, pose=pose)

    def _go_to(self, stage: Stage, target: int) -> Stage | None:
        """To a pose that is at a nav target: the present one, the target's own, or any."""
        for pose in (stage.pose, target, *range(NUM_NAV_TARGETS)):
            if self.world.at[pose][target]:
                return self._go(stage, pose)
        return None

    def _turn(self, stage: Stage, handle: int, opened: bool) -> Stage | None:
        there = self._go_to(stage, nav_to_handle(handle))
        if there is None:
            return None
        return there.then(set_handle(handle, opened))._replace(turned={**stage.turned, handle: opened})

    def _fetch(self, stage: Stage, slot: int, pose: int) -> Stage:
        return self._go(stage, pose).then(pick(self.world.category[slot]), held=slot)

    def _put(self, stage: Stage, slot: int, receptacle: int) -> Stage | None:
        handle = self.world.place_needs(receptacle)
        if handle >= 0 and not stage.turned.get(handle):
            opened = self._turn(stage, handle, True)
            if opened is None:
                return None
            stage = opened
        there = self._go_to(stage, nav_to_receptacle(receptacle))
        if there is None:
            return None
        return there.then(place(receptacle), held=-1)._replace(moved={**stage.moved, slot: receptacle})

    def _is_at(self, stage: Stage, pose: int, kind: str, first: int) -> bool:
        """Whether the robot is at something there; `kind`: the predicate, `first`: its nav target or object."""
        if kind == "robot_at":
            return self.world.at[pose][first]
        if first == stage.held:
            return True
        if first in stage.moved:
            return pose == NUM_HANDLES + stage.moved[first] or self.world.spot[pose][stage.moved[first]]
        table = self.world.near if kind == "robot_at_object" else self.world.reach
        return table[pose][self.world.column[first]]

