"""What furniture is described with: meshes in their slots, moving parts, surfaces, handles.

A piece's frame: origin on the floor in the middle of its footprint, +x to its front, +y to its left, which is the right
of someone who looks at it. Lengths in metres.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from .assets import Mesh
from .meshes import box, merge, rounded_box, transform
from .textures import CELL


@dataclass(frozen=True)
class Part:
    """One mesh of a piece; with a joint it moves by slide (m per m) or turns by hinge (rad per rad)."""

    role: str  # its slot in a scene: "sofa", "drawer_0", ...
    mesh: Mesh
    offset: tuple[float, float, float] = (0.0, 0.0, 0.0)
    joint: int = -1
    slide: float = 0.0  # along the piece's +x
    hinge: float = 0.0


@dataclass(frozen=True)
class Surface:
    """Where objects rest: a level rectangle and the room above it, in the piece's frame."""

    x: tuple[float, float]
    y: tuple[float, float]
    z: float
    above: float = 0.35


@dataclass(frozen=True)
class Piece:
    """A piece of furniture or décor."""

    half: tuple[float, float]  # footprint
    parts: tuple[Part, ...]
    surfaces: dict[int, Surface] = field(default_factory=dict)  # by receptacle
    handles: dict[int, tuple[float, float, float]] = field(default_factory=dict)
    opens_into: dict[int, tuple[float, float, float, float, float]] = field(default_factory=dict)
    # by handle: the rectangle (cx, cy, half x, half y, yaw) that the open drawer or door covers
    front: float = 0.0  # metres kept free before it
    backed: bool = False  # cannot be used from behind


def block(x: Sequence[float], y: Sequence[float], z: Sequence[float], role: str | Sequence[str]) -> Mesh:
    """A box by its bounds; six roles colour the sides -x, +x, -y, +y, -z, +z."""
    low, high = np.array([min(x), min(y), min(z)]), np.array([max(x), max(y), max(z)])
    cell = CELL[role] if isinstance(role, str) else [CELL[r] for r in role]
    return box((high - low) / 2, cell, (high + low) / 2)


def cushion(x: Sequence[float], y: Sequence[float], z: Sequence[float], role: str, bevel: float = 0.04) -> Mesh:
    """A soft box by its bounds."""
    low, high = np.array([min(x), min(y), min(z)]), np.array([max(x), max(y), max(z)])
    return transform(rounded_box((high - low) / 2, bevel, CELL[role]), (high + low) / 2)


def legs(hx: float, hy: float, top: float, role: str, thick: float = 0.025) -> list[Mesh]:
    """Four posts at (+-hx, +-hy), from the floor to `top`."""
    spots = [(x, y) for x in (-hx, hx) for y in (-hy, hy)]
    return [block((x - thick, x + thick), (y - thick, y + thick), (0, top), role) for x, y in spots]


def single(role: str, name: str, half: tuple[float, float], parts: list[Mesh], **more) -> Piece:
    """A piece that is one mesh, filling the slot `role`."""
    return Piece(half, (Part(role, merge(name, parts)),), **more)
