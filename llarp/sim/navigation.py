"""Where a robot can stand: a grid of free base positions, and the pose from which it sees and reaches a target.

Rectangles are rows (center x, center y, half x, half y, yaw). Letters in shapes: A, B, R rectangles, P points,
C candidate poses, G grid cells.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .robot import HEAD_CAMERA_POSITION, HEAD_CAMERA_TARGET

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

CELL_M = 0.05
"""Side of a grid cell."""
ROBOT_RADIUS_M = 0.28
"""The base is a disc; the grid keeps this distance from everything."""
MAX_REACH_M = 1.45
"""Every point of a target is at most this far (planar) from the base at its nav pose."""
MAX_ANGLE_RAD = 0.95
"""... and at most this far off its heading."""
MIN_DISTANCE_M = 0.3
"""A nav pose is no nearer to the target's centre."""
HEAD_CAMERA_FOV_RAD = np.pi / 2
"""Of the head camera's square picture, both ways."""


def local(points: Floats, rects: Floats) -> Floats:
    """Points (P, 2) in the frames of rectangles (R, 5): (P, R, 2)."""
    delta = points[:, None] - rects[None, :, :2]
    c, s = np.cos(rects[:, 4]), np.sin(rects[:, 4])
    return np.stack((delta[..., 0] * c + delta[..., 1] * s, delta[..., 1] * c - delta[..., 0] * s), -1)


def distance(points: Floats, rects: Floats) -> Floats:
    """Distance (P, R) of points (P, 2) from rectangles (R, 5), 0 inside."""
    outside = np.maximum(np.abs(local(points, rects)) - rects[None, :, 2:4], 0)
    return np.linalg.norm(outside, axis=-1)


def corners(rects: Floats) -> Floats:
    """Corners (R, 4, 2) of rectangles (R, 5)."""
    signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    x, y = np.moveaxis(rects[:, None, 2:4] * signs, -1, 0)
    c, s = np.cos(rects[:, 4:]), np.sin(rects[:, 4:])
    return np.stack((x * c - y * s, x * s + y * c), -1) + rects[:, None, :2]


def overlap(a: Floats, b: Floats, margin: float = 0.0) -> Bools:
    """Which rectangles (A, 5) come nearer than `margin` to which of (B, 5): (A, B), by separating axes."""
    apart = np.zeros((len(a), len(b)), bool)
    for first, second, flip in ((a, b, False), (b, a, True)):
        seen = np.abs(local_box(first, second)) > first[:, None, 2:4] + extent(first, second) + margin
        separated = seen.any(-1)
        apart |= separated.T if flip else separated
    return ~apart


def local_box(frames: Floats, rects: Floats) -> Floats:
    """Centres of rectangles (B, 5) in the frames of rectangles (A, 5): (A, B, 2)."""
    return np.swapaxes(local(rects[:, :2], frames), 0, 1)


def extent(frames: Floats, rects: Floats) -> Floats:
    """Half extents of rectangles (B, 5) along the axes of rectangles (A, 5): (A, B, 2)."""
    turn = rects[None, :, 4] - frames[:, None, 4]
    c, s = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    hx, hy = rects[None, :, 2], rects[None, :, 3]
    return np.stack((hx * c + hy * s, hx * s + hy * c), -1)


def segments_clear(starts: Floats, end: Floats, rects: Floats) -> Bools:
    """Whether the straight lines from starts (C, 2) to one end (2,) miss all rectangles (R, 5): (C,)."""
    share = np.linspace(0, 1, 24)[:, None, None]
    points = starts[None] * (1 - share) + np.asarray(end) * share
    hit = distance(points.reshape(-1, 2), rects).reshape(24, len(starts), len(rects)) <= 0
    return np.logical_not(hit.any(axis=(0, 2)))


@dataclass
class FreeSpace:
    """Free base positions of a room: cells of a grid, all reachable from each other."""

    cells: Floats  # (G, 2) centres
    whole: int  # free cells, reachable or not

    @classmethod
    def of(cls, half_size: tuple[float, float], obstacles: Floats, radius: float = ROBOT_RADIUS_M) -> FreeSpace:
        """The largest connected free region of a room [-half, half] with obstacles (R, 5)."""
        axes = [np.arange(-h + radius, h - radius + 1e-9, CELL_M) for h in half_size]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        free = np.ones(grid.shape[:2], bool)
        for rect in obstacles:  # one at a time: an obstacle touches only the cells about it
            reach = np.hypot(rect[2], rect[3]) + radius
            near = [slice(*np.searchsorted(axis, (rect[i] - reach, rect[i] + reach))) for i, axis in enumerate(axes)]
            part = grid[near[0], near[1]]
            blocked = distance(part.reshape(-1, 2), rect[None])[:, 0] < radius
            free[near[0], near[1]] &= ~blocked.reshape(part.shape[:2])
        return cls(grid[largest_component(free)], int(free.sum()))

    def contains(self, points: Floats) -> Bools:
        """Whether points (P, 2) lie within a cell of the region: (P,)."""
        corner = self.cells.min(0)
        row, column = np.round((points - corner) / CELL_M).astype(int).T
        own_row, own_column = np.round((self.cells - corner) / CELL_M).astype(int).T
        width = int(own_column.max()) + 1
        return (column >= 0) & (column < width) & np.isin(row * width + column, own_row * width + own_column)


def largest_component(free: Bools) -> Bools:
    """The largest 4-connected part of a mask (X, Y)."""
    left, best = free.copy(), np.zeros_like(free)
    while left.sum() > best.sum():
        part = np.zeros_like(free)
        part[np.unravel_index(int(np.argmax(left)), left.shape)] = True
        while (grown := _spread(part, left)).sum() > part.sum():
            part = grown
        left &= ~part
        if part.sum() > best.sum():
            best = part
    return best


def _spread(part: Bools, free: Bools) -> Bools:
    """The part grown along every free row and column, (X, Y)."""
    for axis in (0, 1):
        walls = np.cumsum(~free, axis)  # constant along a free run: the run's label
        other = np.arange(free.shape[1 - axis])
        label = walls + (other[None] if axis == 0 else other[:, None]) * (free.shape[axis] + 1)
        reached = np.zeros(int(label.max()) + 1, bool)
        reached[label[part]] = True
        part = reached[label] & free
    return part


def in_picture(poses: Floats, points: Floats) -> Bools:
    """Which points (P, 3) or (C, P, 3) the head camera's frame holds from base poses (C, 3): (C, P)."""
    planar, height = base_frame(poses, points[..., :2]), points[..., 2]
    eye, goal = np.array(HEAD_CAMERA_POSITION), np.array(HEAD_CAMERA_TARGET)
    forward = (goal - eye) / np.linalg.norm(goal - eye)
    x, y, z = planar[..., 0] - eye[0], planar[..., 1] - eye[1], np.broadcast_to(height, planar.shape[:2]) - eye[2]
    depth, up = x * forward[0] + z * forward[2], z * forward[0] - x * forward[2]
    limit = depth * np.tan(HEAD_CAMERA_FOV_RAD / 2)
    return (depth > 0.05) & (np.abs(y) <= limit) & (np.abs(up) <= limit)


def base_frame(poses: Floats, points: Floats) -> Floats:
    """Points (P, 2) as base poses (C, 3) see them, x forward, y left: (C, P, 2)."""
    delta = points - poses[:, None, :2]
    c, s = np.cos(poses[:, None, 2]), np.sin(poses[:, None, 2])
    return np.stack((delta[..., 0] * c + delta[..., 1] * s, delta[..., 1] * c - delta[..., 0] * s), -1)


def nav_pose(
    cells: Floats,
    target: Floats,
    must_see: Floats,
    must_reach: Floats,
    keep_out: Floats,
    blockers: Floats,
    min_distance_m: float = MIN_DISTANCE_M,
) -> Floats | None:
    """The free cell nearest to a target that has everything needed in the picture and in reach, facing the target.

    cells (G, 2); target (2,); must_see (P, 3); must_reach (P, 2); keep_out (R, 5): where the target opens into;
    blockers (R, 5): what must not stand between. Returns x, y, yaw, or None where no cell will do.
    """
    gap = np.linalg.norm(cells - target, axis=1)
    near = (gap >= min_distance_m) & (gap <= MAX_REACH_M)
    cells, gap = cells[near], gap[near]
    cells = cells[np.argsort(gap.round(6), kind="stable")]  # rounded: ties end alike on every machine
    away = np.arctan2(target[1] - cells[:, 1], target[0] - cells[:, 0])
    poses = np.column_stack((cells, away))
    if len(keep_out):
        poses = poses[(distance(poses[:, :2], keep_out) >= ROBOT_RADIUS_M).all(1)]
    poses = poses[in_picture(poses, must_see).all(1)]
    seen = base_frame(poses, must_reach)
    reachable = np.linalg.norm(seen, axis=-1) <= MAX_REACH_M
    facing = np.abs(np.arctan2(seen[..., 1], seen[..., 0])) <= MAX_ANGLE_RAD
    poses = poses[(reachable & facing).all(1)]
    for some in np.split(poses, range(32, len(poses), 32)):  # nearest first: most often the first will do
        clear = segments_clear(some[:, :2], target, blockers)
        if clear.any():
            return some[int(np.argmax(clear))]
    return None
