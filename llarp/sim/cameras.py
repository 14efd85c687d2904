"""Where the cameras are: the robot's head camera, and one that follows it for videos. Pictures are square."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .robot import HEAD_CAMERA_POSITION, HEAD_CAMERA_TARGET

CAMERAS = {"head": 90.0, "third_person": 75.0}
"""Names and fields of view in degrees, in the order of the model's cameras."""

_BEHIND_M, _LEFT_M, _ABOVE_M, _WALL_M = 1.5, 1.25, 2.25, 0.35
_LOOK_AHEAD_M, _LOOK_Z_M = 0.45, 0.75


def head(robot: Tensor, height: Tensor, position: Tensor, matrix: Tensor) -> None:
    """Head camera of robots at (N, 3) x, y, yaw, bases at `height` (N,); writes position (N, 3), matrix (N, 3, 3)."""
    x, _, z = HEAD_CAMERA_POSITION
    cos, sin = robot[:, 2].cos(), robot[:, 2].sin()
    position[:, 0] = robot[:, 0] + x * cos
    position[:, 1] = robot[:, 1] + x * sin
    position[:, 2] = z + height
    run, drop = HEAD_CAMERA_TARGET[0] - x, HEAD_CAMERA_TARGET[2] - z
    length = float(np.hypot(run, drop))
    forward = torch.stack([cos * (run / length), sin * (run / length), torch.full_like(cos, drop / length)], dim=-1)
    _aim(forward, matrix)


def third_person(robot: Tensor, height: Tensor, room: Tensor, position: Tensor, matrix: Tensor) -> None:
    """A camera above, behind and left of robots (N, 3), their bases at `height` (N,); kept inside rooms (N, 2, 2).

    A room is its low and its high x, y.
    """
    heading = torch.stack([robot[:, 2].cos(), robot[:, 2].sin()], dim=-1)
    left = torch.stack([-heading[:, 1], heading[:, 0]], dim=-1)
    spot = robot[:, :2] - _BEHIND_M * heading + _LEFT_M * left
    position[:, :2] = torch.minimum(torch.maximum(spot, room[:, 0] + _WALL_M), room[:, 1] - _WALL_M)
    position[:, 2] = _ABOVE_M + height
    target = robot[:, :2] + _LOOK_AHEAD_M * heading
    away = torch.cat([target - position[:, :2], torch.full_like(robot[:, :1], _LOOK_Z_M - _ABOVE_M)], dim=1)
    _aim(away / away.norm(dim=1, keepdim=True), matrix)


def _aim(forward: Tensor, matrix: Tensor) -> None:
    """Camera axes (right, up, backward as columns) that look along `forward` (N, 3), never straight up or down."""
    level = forward[:, :2].norm(dim=1)
    right = torch.stack([forward[:, 1] / level, -forward[:, 0] / level, torch.zeros_like(level)], dim=-1)
    matrix[:, :, 0] = right
    matrix[:, :, 1] = torch.linalg.cross(right, forward)
    matrix[:, :, 2] = -forward
