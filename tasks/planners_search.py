"""From facts to actions: which objects to carry where, in which order, standing where."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from .actions import nav_to_handle, nav_to_receptacle, pick, place, set_handle
from .entities import NUM_HANDLES, NUM_NAV_TARGETS, RECEPTACLES, TASK_RECEPTACLES
from .planners_facts import MEANING, Facts
from .planners_prospect import HERE, Prospect

MAX_NODES = 200
"""Errands that are looked at to find the order of them."""
MAX_RELOCATIONS = 6
_LIKELY = 0.5
"""Things put down are reckoned with where they are in reach with a higher chance."""
_ERRAND = 4  # steps to fetch one thing
_IN_THE_WAY = 10.0  # steps it is worth to put something down where it cannot be grabbed by mistake
_CHAIR = 0
RECEPTACLE_OF = {r.joint: i for i, r in enumerate(RECEPTACLES) if r.joint >= 0}
"""The receptacle in the furniture that each handle opens, where there is one."""


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


class PlanSearch:
    """Finds a short plan that makes all `facts` true at its end, or as many of them as can be had."""

    def __init__(self, prospect: Prospect, facts: Facts, now: Iterable[int]):
        """`now`: the atoms of `facts` that are as wanted."""
        self.world = prospect
        fulfilled = set(now)
        self.target: dict[int, int] = {}  # slot -> receptacle it is wanted on
        self.barred: dict[int, set[int]] = {}  # slot -> receptacles it must not be on
        self.hold, self.jobs = -1, []  # type: int, list[int]
        self.empty: bool | None = None  # whether the hand has to be empty in the end
        self.pose_facts: list[tuple[str, int, bool]] = []
        self.open: dict[int, bool] = {}
        self.keep_closed: set[int] = set()  # handles
        for atom, wanted in facts.items():
            kind, first, second = MEANING[atom]
            if kind == "inside":
                kind, second = "on_top", RECEPTACLE_OF.get(second, -1)
            if kind == "on_top":
                if wanted:
                    self.target[first] = second
                else:
                    self.barred.setdefault(first, set()).add(second)
                if atom not in fulfilled:
                    self.jobs.append(first)
            elif kind == "holding" and wanted:
                self.hold = first
            elif kind == "holding" and atom not in fulfilled:
                self.empty = True
            elif kind == "not_holding":
                self.empty = wanted
            elif kind.startswith("robot_at"):
                self.pose_facts.append((kind, first, wanted))
            elif kind in ("opened", "closed"):
                if atom not in fulfilled:
                    self.open[first] = (kind == "opened") == wanted
                elif (kind == "opened") != wanted:
                    self.keep_closed.add(first)

    def run(self, held: int, waited: int = 0) -> Stage:
        """The best plan found. If nothing is left to do it drives somewhere, elsewhere for each `waited` (in published
        rules what is in the hand may be on top of something below it)."""
        self.nodes, self.waited = 0, waited
        self.best: Stage | None = None
        start = Stage((), HERE, held, {}, {})
        jobs = tuple(dict.fromkeys(job for job in self.jobs if job != self.hold))
        if held >= 0 and (held in jobs or jobs or self.empty or self.hold not in (-1, held)):
            put = self._put_down(start, held, jobs)
            if put is None:
                return self._go(start, nav_to_receptacle(TASK_RECEPTACLES[0]))._replace(left=len(jobs) + 1)
            start, jobs = put, tuple(s for s in jobs if s != held)
        self._arrange(start, jobs)
        assert self.best is not None
        return self.best

    # -- carrying -----------------------------------------------------------------------------------------------------

    def _arrange(self, stage: Stage, jobs: tuple[int, ...]) -> None:
        """Tries the orders in which the objects `jobs` can be carried, the most promising first."""
        ways: list[tuple[float, Stage, tuple[int, ...]]] = []
        for job in jobs:
            self.nodes += 1
            child, rest = self._deliver(stage, job, jobs), tuple(j for j in jobs if j != job)
            if child is None:
                cleared = self._clear_and_deliver(stage, job, jobs)
                if cleared is None:
                    continue
                child, rest = cleared
            in_the_way = sum(self._blockers(child, j, rest)[1] for j in rest if len(self.world.alike(j)) > 1)
            ways.append((len(child.steps) + 2 * _ERRAND * in_the_way + _ERRAND * len(rest), child, rest))
        if not ways:
            self._offer(self._finish(stage, len(jobs)))
        for _, child, rest in sorted(ways, key=lambda way: way[0]):
            if self.best is not None:
                if self.nodes > MAX_NODES or (0, len(child.steps) + 2 * len(rest)) >= self.best.rank():
                    continue
            self._arrange(child, rest)

    def _clear_and_deliver(
        self, stage: Stage, slot: int, jobs: tuple[int, ...]
    ) -> tuple[Stage, tuple[int, ...]] | None:
        """Carries away what pick would take instead of an object, then the object; and what is left to do then."""
        stand, _ = self._blockers(stage, slot)
        opened = self._unlocked(stage, slot)
        if stand < 0 or opened is None:
            return None
        stage, away = opened, list[int]()
        while (blocker := self._grabs(stage, stand, slot)) != slot:
            cleared = self._deliver(stage, blocker, jobs, away_from=stand) if blocker >= 0 else None
            if cleared is None or len(away) == MAX_RELOCATIONS:
                return None
            if blocker in away:  # whatever is put down stays within reach: perhaps not another time
                self._offer(cleared._replace(left=len(jobs) - 0.5))
                return None
            stage = cleared
            away.append(blocker)
        delivered = self._deliver(stage, slot, jobs)
        if delivered is None:
            return None
        left = [j for j in jobs if j not in (slot, *away)]
        return delivered, (*left, *(s for s in away if s in self.target and delivered.moved[s] != self.target[s]))

    def _blockers(self, stage: Stage, slot: int, jobs: tuple[int, ...] = ()) -> tuple[int, float]:
        """The pose from where an object is reached with the fewest others that pick would take first, and how many of
        them are to be expected (once `jobs` are done); -1, 0 if it is out of reach."""
        best = (-1, 0.0)
        for pose in self._poses(stage, slot):
            if self._in_reach(stage, pose, slot, ajar=True):
                count = sum(self._chance(stage, pose, s, jobs) for s in self.world.alike(slot) if s < slot)
                if best[0] < 0 or count < best[1]:
                    best = pose, count
                if count == 0:
                    break
        return best

    def _chance(self, stage: Stage, pose: int, slot: int, jobs: tuple[int, ...]) -> float:
        """How likely it is that pick would find an object, once `jobs` are done."""
        if slot in jobs:
            return self.world.chance[pose][self.target[slot]] if slot in self.target else 0.0
        if slot in stage.moved:
            return self.world.chance[pose][stage.moved[slot]]
        return float(self._in_reach(stage, pose, slot))

    def _offer(self, stage: Stage) -> None:
        if self.best is None or stage.rank() < self.best.rank():
            self.best = stage

    def _deliver(self, stage: Stage, slot: int, jobs: tuple[int, ...], away_from: int = -1) -> Stage | None:
        """Fetches an object and puts it where it is wanted (or, of a blocker, away from a pose); None: it cannot."""
        stage_open = self._unlocked(stage, slot)
        if stage_open is None:
            return None
        stage = stage_open
        goals = self._goals(stage, slot, jobs, away_from)
        best: tuple[float, int, int] | None = None  # cost, pose, receptacle
        for pose in self._poses(stage, slot):
            drive = pose != stage.pose
            if best is not None and drive >= best[0]:
                continue
            if self._grabs(stage, pose, slot) == slot:
                for extra, receptacle in goals:
                    cost = drive + extra + (not self.world.at[pose][NUM_HANDLES + receptacle])
                    if best is None or cost < best[0]:
                        best = cost, pose, receptacle
        if best is None:
            return None
        fetched = self._fetch(stage, slot, best[1])
        return self._put(fetched, slot, best[2])

    def _goals(self, stage: Stage, slot: int, jobs: tuple[int, ...], away_from: int) -> list[tuple[float, int]]:
        """Receptacles that will do for an object, with the steps that each is worse than it seems."""
        if slot in self.target and away_from < 0:
            return [(0.0, self.target[slot])]
        if slot in self.target and not self.world.chance[away_from][self.target[slot]]:
            return [(0.0, self.target[slot])]
        stands = [away_from] if away_from >= 0 else []
        category = self.world.category.get(slot)
        stands += [NUM_HANDLES + self.world.on[j] for j in jobs
                   if j != slot and self.world.category[j] == category and self.world.on[j] >= 0]  # fmt: skip
        allowed = [r for r in (*TASK_RECEPTACLES, _CHAIR) if r not in self.barred.get(slot, ())]
        if away_from >= 0:
            allowed = [r for r in allowed if not self.world.chance[away_from][r]] or allowed
        in_the_way = {r for r in allowed if any(self.world.chance[stand][r] for stand in stands)}
        return [(_IN_THE_WAY * (r in in_the_way), r) for r in allowed]

    def _put_down(self, stage: Stage, slot: int, jobs: tuple[int, ...]) -> Stage | None:
        """Puts down what the hand holds at the beginning."""
        goals = self._goals(stage, slot, jobs, -1)
        at = self.world.at[stage.pose]
        _, receptacle = min(goals, key=lambda goal: goal[0] + (not at[NUM_HANDLES + goal[1]]))
        return self._put(stage, slot, receptacle)

    # -- single errands -----------------------------------------------------------------------------------------------

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

    # -- the end ------------------------------------------------------------------------------------------------------

    def _finish(self, stage: Stage, left: float) -> Stage:
        """What the goal wants of the hand, of handles and of where the robot stands, after `left` things undone."""
        if self.hold >= 0 and stage.held != self.hold:
            stage, left = self._take(stage, [self.hold], left)
        elif self.empty is False and self.hold < 0 and stage.held < 0:
            stage, left = self._take(stage, self.world.slots, left)
        for handle, opened in self.open.items():
            turned = self._turn(stage, handle, opened)
            stage, left = (stage, left + 1) if turned is None else (turned, left)
        for handle, opened in stage.turned.items():
            if opened and handle in self.keep_closed and handle not in self.open:
                stage = self._turn(stage, handle, False) or stage
        if self.pose_facts:
            stand = next((p for p in self._stands(stage) if self._stands_right(stage, p)), None)
            stage, left = (stage, left + 1) if stand is None else (self._go(stage, stand), left)
        if not stage.steps:
            stands = [p for p in self._stands(stage)[1:] if self._stands_right(stage, p)] or [stage.pose]
            pose = stands[self.waited % len(stands)] % NUM_NAV_TARGETS
            stage = stage.then(pose, pose=pose)._replace(idle=True)
        return stage._replace(left=left)

    def _take(self, stage: Stage, slots: Iterable[int], left: float) -> tuple[Stage, float]:
        """Picks up the first of some objects that can be had."""
        for slot in slots:
            opened = self._unlocked(stage, slot) or stage
            for pose in self._poses(opened, slot):
                if self._grabs(opened, pose, slot) == slot:
                    return self._fetch(opened, slot, pose), left
        return stage, left + 1

    def _stands(self, stage: Stage) -> list[int]:
        own = [first for kind, first, wanted in self.pose_facts if kind == "robot_at" and wanted]
        own += [NUM_HANDLES + on for kind, slot, wanted in self.pose_facts if kind != "robot_at" and wanted
                and (on := stage.moved.get(slot, self.world.on.get(slot, -1))) >= 0]  # fmt: skip
        return [stage.pose, *own, *range(NUM_NAV_TARGETS - 1, -1, -1)]

    def _stands_right(self, stage: Stage, pose: int) -> bool:
        return all(self._is_at(stage, pose, kind, first) == wanted for kind, first, wanted in self.pose_facts)

    def _is_at(self, stage: Stage, pose: int, kind: str, first: int) -> bool:
        if kind == "robot_at":
            return self.world.at[pose][first]
        if first == stage.held:
            return True
        if first in stage.moved:
            return pose == NUM_HANDLES + stage.moved[first] or self.world.spot[pose][stage.moved[first]]
        table = self.world.near if kind == "robot_at_object" else self.world.reach
        return table[pose][self.world.column[first]]

