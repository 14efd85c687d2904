"""What the rule sets are made of: limits of reach, geometry, and when furniture is shut.

`clean` is our own rule set: fresh truth values, true boxes, shut means shut. `published` imitates the original
with its quirks, for comparison with published numbers. Both fill the same tables; docs/rules.md lists what differs.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

from .entities import JOINT_CLOSED_BELOW, JOINT_OPEN_ABOVE, JOINT_OPEN_TO, RECEPTACLES
from .state import GRIPPER_IN_BASE, WorldState

RULES = ("clean", "published")

ROBOT_AT_REACH_M, ROBOT_AT_ANGLE_RAD = 2.0, 1.57
"""The robot is "at" a place, handle or object that is no farther (planar) and no more off its heading than this."""
PICK_REACH_M, PICK_ANGLE_RAD = 1.5, 1.0
"""The same for `robot_at_obj`, which decides what can be picked up."""


class TaskError(ValueError):
    """A goal, predicate, rule set or argument the task cannot use; the message says what and how to mend it."""


def check_rules(rules: str) -> None:
    """Raises TaskError unless `rules` is a rule set."""
    if rules not in RULES:
        raise TaskError(f"rules={rules!r} is no rule set; use {' or '.join(RULES)}")


def is_published(rules: str) -> bool:
    """True for the original's quirks, False for `clean`. Raises TaskError for anything else."""
    check_rules(rules)
    return rules == "published"


def polar(pose: Tensor, xy: Tensor) -> tuple[Tensor, Tensor]:
    """Distance (m) of points and its part along the heading, both (N, P). `pose` (N, 3) x, y, yaw; `xy` (N, P, 2)."""
    dx, dy = xy[..., 0] - pose[:, None, 0], xy[..., 1] - pose[:, None, 1]
    ahead = dx * pose[:, 2].cos()[:, None] + dy * pose[:, 2].sin()[:, None]
    return (dx * dx + dy * dy).sqrt(), ahead


def within(distance: Tensor, ahead: Tensor, reach_m: float, angle_rad: float) -> Tensor:
    """True where a point (see `polar`) lies within reach and within an angle (< pi) of the heading."""
    return (distance <= reach_m) & (ahead >= math.cos(angle_rad) * distance)


def can_pick_from(pose: Tensor, xy: Tensor) -> Tensor:
    """True where a robot at `pose` (N, 3) reaches a point `xy` (N, P, 2) for picking; (N, P)."""
    return within(*polar(pose, xy), PICK_REACH_M, PICK_ANGLE_RAD)


def receptacle_center(state: WorldState, rules: str) -> Tensor:
    """Centres of the receptacles' boxes, (N, 11, 3). In published rules they stay where they are with joints at 0."""
    return state.receptacle_center if is_published(rules) else state.receptacle_center_now()


def target_xy(state: WorldState, rules: str) -> Tensor:
    """Where the 16 nav targets are, (N, 16, 2): handles as if their joints were at 0, then receptacles."""
    return torch.cat([state.handle_position[..., :2], receptacle_center(state, rules)[..., :2]], dim=1)


def inside_box(point: Tensor, center: Tensor, half: Tensor, yaw: Tensor) -> Tensor:
    """True where points (N, P, 3) lie in upright boxes: `center`, `half` (N, B, 3), `yaw` (N, B); (N, P, B)."""
    cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
    dx, dy, dz = (point[:, :, None, i] - center[:, None, :, i] for i in range(3))
    hx, hy, hz = (half[:, None, :, i] for i in range(3))
    # in place where it can be: with thousands of worlds, fresh memory costs more than the arithmetic
    along, across = (dx * cos).add_(dy * sin).abs_(), dy.mul_(cos).sub_(dx.mul_(sin)).abs_()
    return (along <= hx).logical_and_(across <= hy).logical_and_(dz.abs_() <= hz)


def inside_aligned(point: Tensor, center: Tensor, half: Tensor) -> Tensor:
    """True where points (N, P, 3) lie in boxes along the axes: `center`, `half` (N, B, 3); (N, P, B)."""
    x, y, z = ((point[:, :, None, i] - center[:, None, :, i]).abs_() <= half[:, None, :, i] for i in range(3))
    return x.logical_and_(y).logical_and_(z)


def in_container(state: WorldState) -> Tensor:
    """Published `in`: objects whose origin is in the box around a drawer (where it is now) or the fridge, (N, M, 5)."""
    boxes = state.container_center_now(), state.container_half
    return inside_aligned(state.object_position, *boxes) & (state.object_category >= 0)[..., None]


@lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    joints = torch.tensor([r.joint for r in RECEPTACLES], device=device)
    return torch.tensor(JOINT_OPEN_ABOVE, device=device), torch.tensor(JOINT_OPEN_TO, device=device), joints


def open_to(device: torch.device) -> Tensor:
    """What `open` sets each joint to, (5,)."""
    return _constants(device)[1]


def joint_of(device: torch.device) -> Tensor:
    """The handle whose joint moves or shuts each receptacle, -1 if none, (11,)."""
    return _constants(device)[2]


def is_opened(joint: Tensor) -> Tensor:
    """Handles that count as open, (N, 5), for joint values (N, 5)."""
    return joint > _constants(joint.device)[0]


def is_closed(joint: Tensor) -> Tensor:
    """Handles that count as closed, (N, 5), for joint values (N, 5)."""
    return joint.abs() < JOINT_CLOSED_BELOW


def is_shut(joint: Tensor) -> Tensor:
    """Receptacles that cannot be reached into because their door or drawer is closed, (N, 11)."""
    handle = joint_of(joint.device)
    return is_closed(joint)[:, handle.clamp(min=0)] & (handle >= 0)


def gripper_position(robot: Tensor, height: Tensor) -> Tensor:
    """Where a held object is, (N, 3), for robot poses (N, 3) and heights of the base (N,)."""
    x, y, z = GRIPPER_IN_BASE
    cos, sin = robot[:, 2].cos(), robot[:, 2].sin()
    ahead, left = cos * x - sin * y, sin * x + cos * y
    return torch.stack([robot[:, 0] + ahead, robot[:, 1] + left, height + z], dim=1)
