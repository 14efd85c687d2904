"""What a planner expects of a world: what is in reach from each place a nav action leads to, and what is shut."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from .entities import (
    FRIDGE,
    JOINT_CLOSED_BELOW,
    JOINT_OPEN_ABOVE,
    JOINT_OPEN_TO,
    NUM_HANDLES,
    NUM_NAV_TARGETS,
    RECEPTACLES,
)
from .planners_base import PlannerView
from .rules import PICK_ANGLE_RAD, PICK_REACH_M, ROBOT_AT_ANGLE_RAD, ROBOT_AT_REACH_M

HERE = NUM_NAV_TARGETS
"""The pose the robot has now, after those that nav to the 16 targets leads to."""
_JOINT = [r.joint for r in RECEPTACLES]
_COS_AT, _COS_PICK = math.cos(ROBOT_AT_ANGLE_RAD), math.cos(PICK_ANGLE_RAD)


def blocks(rules: str, receptacle: int, joint: np.ndarray) -> bool:
    """Whether what is in a receptacle is shut away from picking."""
    handle = _JOINT[receptacle]
    if handle < 0 or (rules == "published" and receptacle == FRIDGE):
        return False
    return bool(abs(joint[handle]) < JOINT_CLOSED_BELOW)


class Prospect:
    """Reach from 17 poses (nav targets, then `HERE`) to the objects of some categories, to receptacles and handles.

    Objects in a shut drawer are looked for where they will be once it is open."""

    def __init__(self, view: PlannerView, categories: Collection[int]):
        self.rules, self.joint = view.rules, view.joint
        member = np.zeros(max(categories, default=0) + 2, dtype=bool)  # its last entry is for -1 and what is beyond
        member[list(categories)] = True
        last = len(member) - 1
        kinds = view.object_category
        self.slots: list[int] = np.flatnonzero(member[np.minimum(kinds, last)] & (kinds >= 0)).tolist()
        self.category = {s: int(kinds[s]) for s in self.slots}
        self.column = {s: i for i, s in enumerate(self.slots)}
        self.inside = {s: int(view.object_inside[s]) for s in self.slots}
        self.shut = {s: self.inside[s] >= 0 and blocks(view.rules, self.inside[s], view.joint) for s in self.slots}
        points = np.concatenate([view.object_position[self.slots, :2], view.handle_position[:, :2],
                                 view.receptacle_center[:, :2]])  # fmt: skip
        for s in self.slots:
            if self.shut[s]:
                handle = _JOINT[self.inside[s]]
                way = JOINT_OPEN_TO[handle] - view.joint[handle]
                points[self.column[s]] += way * view.receptacle_slide[self.inside[s], :2]
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
        self._of_kind: dict[int, list[int]] = {}
        for s in self.slots:
            self._of_kind.setdefault(self.category[s], []).append(s)

    def alike(self, slot: int) -> list[int]:
        """The objects of the same category, in the order in which pick considers them."""
        return self._of_kind[self.category[slot]]

    def is_open(self, handle: int) -> bool:
        return bool(self.joint[handle] > JOINT_OPEN_ABOVE[handle])

    def is_closed(self, handle: int) -> bool:
        return bool(abs(self.joint[handle]) < JOINT_CLOSED_BELOW)

    def place_needs(self, receptacle: int) -> int:
        """The handle to open before something can be put there, -1: none."""
        handle = _JOINT[receptacle]
        return handle if handle >= 0 and self.rules != "published" and self.is_closed(handle) else -1

