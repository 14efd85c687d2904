"""What a planner expects of a world: what is in reach from each place a nav action leads to, and what is shut."""

from __future__ import annotations

import math
from collections.abc import Collection
from functools import cached_property

import numpy as np

from .atoms import inside, on_top
from .entities import (
    FRIDGE_HANDLE,
    JOINT_CLOSED_BELOW,
    JOINT_OPEN_TO,
    NUM_HANDLES,
    NUM_NAV_TARGETS,
    NUM_RECEPTACLES,
    RECEPTACLES,
)
from .planners_base import PlannerView
from .rules import PICK_ANGLE_RAD, PICK_REACH_M, ROBOT_AT_ANGLE_RAD, ROBOT_AT_REACH_M
from .semantics import PLACE_SHRINK

HERE = NUM_NAV_TARGETS
"""The pose the robot has now, after those that nav to the 16 targets leads to."""
_COS_AT, _COS_PICK = math.cos(ROBOT_AT_ANGLE_RAD), math.cos(PICK_ANGLE_RAD)

_GRID = PLACE_SHRINK * np.stack(np.meshgrid(*[np.linspace(-1, 1, 5)] * 2), -1).reshape(-1, 2)
"""Points where things are put down, in a unit box, (25, 2)."""


def locks(view: PlannerView, slot: int, atoms: np.ndarray) -> tuple[int, ...]:
    """The closed handles that keep an object from being picked up; in published rules a closed fridge does not."""
    if view.rules == "published":
        first = inside(slot, 0)
        around = np.flatnonzero(atoms[first : first + FRIDGE_HANDLE]).tolist()
    else:
        around = [RECEPTACLES[r].joint for r in (int(view.object_inside[slot]),) if r >= 0]
    return tuple(h for h in around if abs(view.joint[h]) < JOINT_CLOSED_BELOW)


class Prospect:
    """Reach from 17 poses (nav targets, then `HERE`) to the objects of some categories, to receptacles and handles.

    Objects in a shut drawer are looked for where they will be once it is open."""

    def __init__(self, view: PlannerView, categories: Collection[int]):
        self.rules, self.joint, atoms = view.rules, view.joint, view.atoms()
        member = np.zeros(max(categories, default=0) + 2, dtype=bool)  # its last entry is for all categories beyond
        member[list(categories)] = True
        kinds = view.object_category
        wanted = member[np.minimum(kinds, len(member) - 1)] & (kinds >= 0)
        self.slots: list[int] = np.flatnonzero(wanted).tolist()
        self.category = {s: int(kinds[s]) for s in self.slots}
        self.column = {s: i for i, s in enumerate(self.slots)}
        self.locks = {s: locks(view, s, atoms) for s in self.slots}
        points = np.concatenate([view.object_position[self.slots, :2], view.handle_position[:, :2],
                                 view.receptacle_center[:, :2]])  # fmt: skip
        for s, handles in self.locks.items():
            for h in handles:
                points[self.column[s]] += (JOINT_OPEN_TO[h] - view.joint[h]) * view.container_slide[h, :2]
        self.on = {s: self._lies_on(s, view, atoms) for s in self.slots}
        pose = np.concatenate([view.nav_pose, view.robot[None]])
        dx, dy = points[:, 0] - pose[:, 0, None], points[:, 1] - pose[:, 1, None]  # (17, P)
        distance = np.sqrt(dx * dx + dy * dy)
        ahead = dx * np.cos(pose[:, 2, None]) + dy * np.sin(pose[:, 2, None])
        num = len(self.slots)
        at = (distance <= ROBOT_AT_REACH_M) & (ahead >= _COS_AT * distance)
        reach = (distance <= PICK_REACH_M) & (ahead >= _COS_PICK * distance)
        self.at: list[list[bool]] = at[:, num:].tolist()  # [pose][nav target]
        self.near: list[list[bool]] = at[:, :num].tolist()  # [pose][column of the object]: robot_at of an object
        self.reach: list[list[bool]] = reach[:, :num].tolist()  # [pose][column]: what pick needs
        self.spot: list[list[bool]] = reach[:, num + NUM_HANDLES :].tolist()  # [pose][receptacle]: things put there
        self._pose, self._view = pose, view
        self._of_kind: dict[int, list[int]] = {}
        for s in self.slots:
            self._of_kind.setdefault(self.category[s], []).append(s)

    @cached_property
    def chance(self) -> list[list[float]]:
        """[pose][receptacle]: how likely a thing put there turns out to be in reach, wherever it comes to lie."""
        view = self._view
        if view.rules == "published":
            half, yaw = view.receptacle_span[:, None, :2], np.zeros((NUM_RECEPTACLES, 1))
        else:
            half, yaw = view.receptacle_half[:, None, :2], view.receptacle_yaw[:, None]
        along, across = np.moveaxis(_GRID * half, -1, 0)  # (11, G)
        x = view.receptacle_center[:, None, 0] + along * np.cos(yaw) - across * np.sin(yaw)
        y = view.receptacle_center[:, None, 1] + along * np.sin(yaw) + across * np.cos(yaw)
        dx, dy = x.ravel() - self._pose[:, 0, None], y.ravel() - self._pose[:, 1, None]  # (17, 11 * G)
        distance = np.sqrt(dx * dx + dy * dy)
        ahead = dx * np.cos(self._pose[:, 2, None]) + dy * np.sin(self._pose[:, 2, None])
        reach = (distance <= PICK_REACH_M) & (ahead >= _COS_PICK * distance)
        chance: list[list[float]] = reach.reshape(len(self._pose), NUM_RECEPTACLES, -1).mean(2).tolist()
        return chance

    @staticmethod
    def _lies_on(slot: int, view: PlannerView, atoms: np.ndarray) -> int:
        """The receptacle an object is in or on, -1: none."""
        if view.object_inside[slot] >= 0:
            return int(view.object_inside[slot])
        own = atoms[on_top(slot, 0) : on_top(slot, 0) + NUM_RECEPTACLES]
        return int(np.argmax(own)) if own.any() else -1

    def alike(self, slot: int) -> list[int]:
        """The objects of the same category, in the order in which pick considers them."""
        return self._of_kind[self.category[slot]]

    def place_needs(self, receptacle: int) -> int:
        """The handle to open before something can be put there, -1: none."""
        handle = RECEPTACLES[receptacle].joint
        shut = handle >= 0 and self.rules != "published" and abs(self.joint[handle]) < JOINT_CLOSED_BELOW
        return handle if shut else -1

