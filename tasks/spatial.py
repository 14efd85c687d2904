"""What stands where in a scene, as one would say it: "right of the left counter", where that names one place only."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from .entities import LEFT_DRAWER, NUM_HANDLES, NUM_RECEPTACLES, RIGHT_DRAWER, TASK_RECEPTACLES
from .state import SceneSet

RELATIONS = ("left_of", "right_of", "beside")
NEAR_M = {"left_of": 1.5, "right_of": 1.5, "beside": 0.8}
"""How far apart, edge to edge, two pieces may be for a relation to be said of them."""
MARGIN_M = 0.3
"""Any other piece of which it might be said is farther by at least this, or the relation names no one place."""
SIDEWAYS_RAD, ALMOST_SIDEWAYS_RAD = math.radians(30), math.radians(60)
"""To the left or right: within the first angle of straight sideways. What is within the second might be meant too."""

_PIECES = tuple(r for r in range(NUM_RECEPTACLES) if r not in (LEFT_DRAWER, RIGHT_DRAWER))  # drawers are in counters
_GRID = np.stack(np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9)), axis=-1).reshape(-1, 2)


@dataclass(frozen=True)
class Relation:
    """`target` is the one receptacle that is `name` ("left_of", "right_of", "beside") of the receptacle `anchor`, left
    and right being those of a robot that faces the anchor."""

    name: str
    target: int
    anchor: int


def relations(scenes: SceneSet, scene: int) -> list[Relation]:
    """All relations that hold in a scene and name one of the seven task receptacles without doubt."""
    center = scenes.receptacle_center[scene, :, :2].double().numpy()
    apart = _distances(scenes, scene)
    found = []
    for anchor in _PIECES:
        others = [r for r in _PIECES if r != anchor]
        heading = float(scenes.nav_pose[scene, NUM_HANDLES + anchor, 2])
        offset = center - center[anchor]
        to_left = offset @ np.array([-math.sin(heading), math.cos(heading)])
        off_left = np.arctan2(np.abs(offset @ np.array([math.cos(heading), math.sin(heading)])), to_left)
        angle = {"left_of": off_left, "right_of": math.pi - off_left, "beside": np.zeros(len(center))}
        for name in RELATIONS:
            meant = sorted((r for r in others if angle[name][r] <= ALMOST_SIDEWAYS_RAD), key=lambda r: apart[anchor, r])
            if not meant or meant[0] not in TASK_RECEPTACLES:
                continue
            first = apart[anchor, meant[0]]
            alone = len(meant) == 1 or apart[anchor, meant[1]] >= first + MARGIN_M
            if alone and first <= NEAR_M[name] and angle[name][meant[0]] <= SIDEWAYS_RAD:
                found.append(Relation(name, meant[0], anchor))
    return found


def _distances(scenes: SceneSet, scene: int) -> np.ndarray:
    """Distance (m) between the outlines of each two receptacles, seen from above, (11, 11)."""
    half = scenes.receptacle_half[scene, :, None, :2].double().numpy() * _GRID  # (11, G, 2)
    yaw = scenes.receptacle_yaw[scene].double().numpy()[:, None]
    cos, sin = np.cos(yaw), np.sin(yaw)
    turned = np.stack([half[..., 0] * cos - half[..., 1] * sin, half[..., 0] * sin + half[..., 1] * cos], axis=-1)
    points = scenes.receptacle_center[scene, :, None, :2].double().numpy() + turned
    return np.array([[np.linalg.norm(a[:, None] - b, axis=-1).min() for b in points] for a in points])
