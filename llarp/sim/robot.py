"""The robot's looks: a Fetch-like body of three rigid meshes in the base frame (x forward, y left, z up; metres).

Three pieces rather than one, so that a ray of the head camera meets only the arm's bounding box. Nothing but the arm
and the gripper lies in the head camera's view: the head ends behind the camera at (0.25, 0, 1.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from llarp.tasks.state import GRIPPER_IN_BASE

from .assets import PALETTE_CELLS, Material, Mesh, palette_uv
from .meshes import merge

HEAD_CAMERA_POSITION = (0.25, 0.0, 1.2)
"""Head camera in the base frame, as in the benchmark (arXiv 2310.17722, app. B)."""
HEAD_CAMERA_TARGET = (0.75, 0.0, 1.0)
"""The point it looks at."""

_WHITE, _GREY, _DARK, _BLUE, _ORANGE = range(5)
_COLOURS = ((232, 234, 238), (150, 155, 162), (44, 47, 54), (38, 96, 178), (240, 128, 32))


class _Builder:
    """Collects convex pieces, each in one palette colour, into a mesh."""

    def __init__(self) -> None:
        self.vertices: list[NDArray[np.float32]] = []
        self.faces: list[NDArray[np.int32]] = []
        self.uv: list[NDArray[np.float32]] = []
        self.count = 0

    def add(self, vertices: NDArray[np.float32], faces: NDArray[np.int32], colour: int) -> None:
        self.vertices.append(vertices)
        self.faces.append(faces + self.count)
        self.uv.append(np.tile(np.array(palette_uv(colour), np.float32), (len(vertices), 1)))
        self.count += len(vertices)

    def prism(self, start: tuple, end: tuple, radius: tuple[float, float], sides: int, colour: int) -> None:
        """A (tapered) prism between two points; four sides make a box-like bar."""
        a, b = np.array(start, np.float64), np.array(end, np.float64)
        axis = (b - a) / np.linalg.norm(b - a)
        helper = np.array([0.0, 1.0, 0.0]) if abs(axis[1]) < 0.9 else np.array([1.0, 0.0, 0.0])
        u = np.cross(helper, axis)
        u /= np.linalg.norm(u)
        v = np.cross(axis, u)
        angle = 2 * np.pi * (np.arange(sides) + 0.5) / sides
        ring = np.cos(angle)[:, None] * u + np.sin(angle)[:, None] * v
        vertices = np.concatenate([a + ring * radius[0], b + ring * radius[1], [a], [b]]).astype(np.float32)
        i = np.arange(sides)
        j = (i + 1) % sides
        low, high = np.full(sides, 2 * sides), np.full(sides, 2 * sides + 1)
        faces = np.concatenate(
            [
                np.stack([i, j, sides + j], 1),
                np.stack([i, sides + j, sides + i], 1),
                np.stack([low, j, i], 1),
                np.stack([high, sides + i, sides + j], 1),
            ]
        )
        self.add(vertices, faces.astype(np.int32), colour)

    def box(self, center: tuple, half: tuple, colour: int) -> None:
        corner = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
        faces = np.array(
            [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1]]
            + [[2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]],
            np.int32,
        )
        self.add(corner * np.array(half, np.float32) + np.array(center, np.float32), faces, colour)

    def mesh(self, name: str) -> Mesh:
        return Mesh(name, np.concatenate(self.vertices), np.concatenate(self.faces), np.concatenate(self.uv))


SHOULDER, ELBOW, WRIST = (0.04, 0.0, 0.78), (0.2, -0.16, 0.66), (0.44, -0.02, 0.8)
"""Joints of the arm as it is held, in the base frame."""
PALM = (GRIPPER_IN_BASE[0] - 0.12, GRIPPER_IN_BASE[1], GRIPPER_IN_BASE[2] - 0.05)


def robot_pieces() -> dict[str, Mesh]:
    """The rigid pieces the robot consists of, by name, all in the base frame with the arm as it is held."""
    made = {name: _Builder() for name in _PIECES}
    base, torso, head = made["base"], made["torso"], made["head"]
    base.prism((0, 0, 0.06), (0, 0, 0.3), (0.27, 0.27), 20, _WHITE)
    base.prism((0, 0, 0.3), (0, 0, 0.36), (0.27, 0.2), 20, _DARK)
    base.prism((0, 0, 0.01), (0, 0, 0.06), (0.24, 0.24), 20, _DARK)
    base.box((0.26, 0, 0.2), (0.012, 0.1, 0.03), _BLUE)  # the laser scanner shows which way is forward

    torso.box((-0.08, 0, 0.62), (0.1, 0.13, 0.3), _WHITE)
    torso.box((-0.08, 0, 0.96), (0.08, 0.1, 0.05), _DARK)
    torso.prism((-0.05, 0, 1.0), (-0.05, 0, 1.1), (0.05, 0.05), 10, _GREY)
    torso.box((-0.183, 0, 0.7), (0.006, 0.06, 0.12), _BLUE)
    head.box((0.06, 0, 1.17), (0.12, 0.13, 0.07), _WHITE)
    head.box((0.182, 0, 1.17), (0.006, 0.1, 0.035), _DARK)
    head.prism((0.186, 0, 1.18), (0.2, 0, 1.18), (0.03, 0.024), 10, _BLUE)  # the camera's lens

    x, y, z = GRIPPER_IN_BASE
    made["shoulder"].prism((0.0, 0, 0.78), SHOULDER, (0.085, 0.085), 12, _GREY)
    made["upper_arm"].prism(SHOULDER, ELBOW, (0.06, 0.055), 10, _WHITE)
    made["forearm"].prism(ELBOW, WRIST, (0.055, 0.045), 10, _GREY)
    made["wrist"].prism(WRIST, PALM, (0.045, 0.035), 10, _BLUE)
    made["palm"].box((x - 0.1, y, z - 0.04), (0.02, 0.065, 0.02), _DARK)
    for side, name in ((-1, "right_finger"), (1, "left_finger")):
        made[name].box((x - 0.045, y + side * 0.065, z - 0.04), (0.045, 0.008, 0.014), _ORANGE)
    return {name: builder.mesh(name) for name, builder in made.items()}


_PIECES = ("base", "torso", "head", "shoulder", "upper_arm", "forearm", "wrist", "palm", "right_finger", "left_finger")


def build_robot() -> tuple[list[Mesh], Material]:
    """The robot's meshes, all in the base frame, and the palette they share."""
    pieces = robot_pieces()
    parts = {"robot_base": _PIECES[:1], "robot_torso": _PIECES[1:3], "robot_arm": _PIECES[3:]}
    texture = np.zeros((PALETTE_CELLS, PALETTE_CELLS, 3), np.uint8)
    for cell, colour in enumerate(_COLOURS):
        texture[divmod(cell, PALETTE_CELLS)] = colour
    return [merge(name, [pieces[p] for p in names]) for name, names in parts.items()], Material(
        "robot", texture.repeat(4, 0).repeat(4, 1)
    )
