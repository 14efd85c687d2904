"""A planner that knows the state: it solves every generated episode with the fewest sensible actions."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from .actions import nav_to_handle, nav_to_receptacle, pick, place, set_handle
from .entities import JOINT_CLOSED_BELOW, JOINT_OPEN_ABOVE, NUM_HANDLES, NUM_NAV_TARGETS, RECEPTACLES, TASK_RECEPTACLES
from .planners_base import Job, Planner, PlannerView, Wants, locate, open_jobs, wants_of
from .rules import PICK_ANGLE_RAD, PICK_REACH_M

_FAR_M = 2.5  # beyond this from where the robot would stand again, a thing put down cannot get into its way
_COS_PICK = float(np.cos(PICK_ANGLE_RAD))


class Oracle(Planner):
    """Greedy over the true state and without memory, so it can start or be resumed anywhere.

    Each time: bring the held object to where it is wanted (or out of the way), else pick up what is in reach and has to
    move, else drive to the next such thing, else set handles, else stand where the goal wants the robot."""

    def reset(self, view: PlannerView) -> None:
        self._wants: Wants = wants_of(view.goal)

    def act(self, view: PlannerView) -> int:
        wants = self._wants
        relevant = np.isin(view.object_category, list(wants.categories))
        if view.held >= 0:
            relevant[view.held] = False
        slots = np.flatnonzero(relevant).tolist()
        where = locate(view, slots)
        jobs = open_jobs(wants, where, {s: int(view.object_category[s]) for s in slots})
        if view.held >= 0:
            return self._put_down(view, int(view.object_category[view.held]), jobs)
        jobs = [job for job in jobs if job.slots]
        for job in jobs:
            if self._grabs(view, view.robot, job.category) in job.slots:
                return pick(job.category)
        if jobs:
            return self._approach(view, jobs[0], where)
        for handle, opened in wants.handles:
            q = view.joint[handle]
            if not (q > JOINT_OPEN_ABOVE[handle] if opened else abs(q) < JOINT_CLOSED_BELOW):
                return self._turn(view, handle, opened)
        for category in wants.at_objects:
            for slot in (s for s in slots if view.object_category[s] == category):
                for target in self._stands(view, [where[slot]]):
                    if self._reaches(view, view.nav_pose[target])[slot]:
                        return target
        return wants.at[0] if wants.at else nav_to_receptacle(TASK_RECEPTACLES[0])

    def _put_down(self, view: PlannerView, category: int, jobs: list[Job]) -> int:
        for job in jobs:
            if not job.away and job.category == category:
                return self._place(view, job.receptacle)
        keep_off = {job.receptacle for job in jobs} | {r for c, r in self._wants.removals if c == category}
        same_kind = [job for job in jobs if job.category == category and job.slots]
        left = [view.nav_pose[NUM_HANDLES + job.receptacle, :2] for job in same_kind]

        def cost(r: int) -> tuple[bool, bool, float]:
            center = view.receptacle_center[r, :2]
            in_the_way = any(np.hypot(*(center - stand)) < _FAR_M for stand in left)
            return in_the_way, not view.valid[place(r)], float(np.hypot(*(center - view.robot[:2])))

        return self._place(view, min((r for r in TASK_RECEPTACLES if r not in keep_off), key=cost))

    def _place(self, view: PlannerView, receptacle: int) -> int:
        if view.valid[place(receptacle)]:
            return place(receptacle)
        handle = RECEPTACLES[receptacle].joint
        if handle >= 0 and abs(view.joint[handle]) < JOINT_CLOSED_BELOW:
            return self._turn(view, handle, True)
        return nav_to_receptacle(receptacle)

    def _turn(self, view: PlannerView, handle: int, opened: bool) -> int:
        action = set_handle(handle, opened)
        return action if view.valid[action] else nav_to_handle(handle)

    def _approach(self, view: PlannerView, job: Job, where: dict[int, int]) -> int:
        """Drives to where a pick takes hold of a wanted object; opens the furniture it is in."""
        shut = self._shut_away(view)
        if all(shut[s] for s in job.slots):
            return self._turn(view, RECEPTACLES[view.object_inside[job.slots[0]]].joint, True)
        for target in self._stands(view, (where[s] for s in job.slots)):
            if self._grabs(view, view.nav_pose[target], job.category) in job.slots:
                return target
        # another object of the category is in the way wherever the wanted one is in reach: take that one away first
        if view.valid[pick(job.category)]:
            return pick(job.category)
        return nav_to_receptacle(job.receptacle if job.away else max(where[job.slots[0]], 0))

    def _stands(self, view: PlannerView, first: Iterable[int]) -> list[int]:
        """All nav targets, those of the given receptacles (-1: none) first."""
        chosen = [NUM_HANDLES + r for r in first if r >= 0]
        return chosen + [t for t in range(NUM_NAV_TARGETS - 1, -1, -1) if t not in chosen]

    def _grabs(self, view: PlannerView, pose: np.ndarray, category: int) -> int:
        """The slot that picking the category from a pose takes hold of, -1 if none is in reach."""
        fits = self._reaches(view, pose) & (view.object_category == category) & ~self._shut_away(view)
        return int(fits.argmax()) if fits.any() else -1

    def _reaches(self, view: PlannerView, pose: np.ndarray) -> np.ndarray:
        offset = view.object_position[:, :2] - pose[:2]
        distance = np.hypot(offset[:, 0], offset[:, 1])
        ahead = offset[:, 0] * np.cos(pose[2]) + offset[:, 1] * np.sin(pose[2])
        return (distance <= PICK_REACH_M) & (ahead >= _COS_PICK * distance)

    def _shut_away(self, view: PlannerView) -> np.ndarray:
        joint = np.array([r.joint for r in RECEPTACLES])[view.object_inside]  # inside -1 takes the last: masked below
        return (view.object_inside >= 0) & (np.abs(view.joint[joint]) < JOINT_CLOSED_BELOW)
