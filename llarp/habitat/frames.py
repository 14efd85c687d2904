"""One-world states as plain arrays, and turns into Habitat's frame (y up): our (x, y, z) is (x, z, -y) there.

Letters in shapes: M object slots (56).
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llarp.tasks.state import WorldState

Arrays = dict[str, NDArray]


def arrays(state: WorldState) -> Arrays:
    """What a simulator shows of a one-world state, as copies."""
    names = ("robot", "robot_height", "joint", "held", "object_position", "object_yaw")
    found: Arrays = {name: getattr(state, name).numpy()[0].copy() for name in names}
    if state.object_tilt.shape[-1]:
        found["object_tilt"] = state.object_tilt.numpy()[0].copy()
    return found


def changed_objects(new: Arrays, old: Arrays) -> list[int]:
    """Slots whose object lies otherwise in `new` than in `old`; all if `old` is empty."""
    count = len(new["object_yaw"])
    if not old:
        return list(range(count))
    other = (new["object_position"] != old["object_position"]).any(1) | (new["object_yaw"] != old["object_yaw"])
    if "object_tilt" in new:
        other |= (new["object_tilt"] != old["object_tilt"]).any(1)
    return np.flatnonzero(other).tolist()


def turn(yaw: float, tilt: NDArray | None) -> tuple[tuple[float, float, float], float]:
    """Habitat's quaternion (vector, scalar) of an object with a yaw and, before it, a tilt (see `EpisodeSet`)."""
    cos, sin = math.cos(yaw / 2), math.sin(yaw / 2)
    if tilt is None:
        return (0.0, sin, 0.0), cos
    x, y = float(tilt[0]), float(tilt[1])
    w = math.sqrt(max(0.0, 1.0 - x * x - y * y))
    # yaw about z after the tilt (x, y, 0, w), in our frame
    ours = cos * x - sin * y, cos * y + sin * x, sin * w
    return (ours[0], ours[2], -ours[1]), cos * w


def ours(points: NDArray) -> NDArray:
    """Habitat's points (..., 3) in our frame."""
    return np.stack([points[..., 0], -points[..., 2], points[..., 1]], axis=-1)


def habitats(x: float, y: float, z: float) -> tuple[float, float, float]:
    """A point of our frame in Habitat's."""
    return x, z, -y
