"""What the simulator's pieces are made of: coloured meshes, materials, and the tables that furnish scenes.

Letters in shapes: V vertices, F faces, L scenes, S furniture slots.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BACKGROUND_RGBA = (0.80, 0.86, 0.92, 1.0)
"""What is seen where nothing is (above the walls): a light grey-blue."""
PALETTE_CELLS = 16
"""A palette texture has 16 x 16 flat cells; a face takes the colour of the cell in which its uv coordinates lie."""


@dataclass
class Mesh:
    """A closed or open triangle mesh, metres, z up, in its own frame."""

    name: str
    vertices: NDArray[np.float32]  # (V, 3)
    faces: NDArray[np.int32]  # (F, 3) counter-clockwise seen from outside
    uv: NDArray[np.float32]  # (V, 2) in [0, 1]; palette cell centres, or real coordinates for tiled textures
    level: bool = False  # an object drawn upright however it is tilted: a stand-in that lies as its model rests


@dataclass
class Material:
    """A texture for a slot; palettes of the same kind may be exchanged for another colour scheme."""

    name: str
    texture: NDArray[np.uint8]  # (H, W, 3)


@dataclass
class LayoutTables:
    """How L scenes look: one row of slots each. Slot pose at run time: position + slide * q, yaw + hinge * q."""

    meshes: list[Mesh]  # the pool of furniture, wall and floor meshes
    materials: list[Material]  # the pool of materials
    mesh: NDArray[np.int64]  # (L, S) index into meshes, -1: nothing there
    material: NDArray[np.int64]  # (L, S) index into materials
    position: NDArray[np.float32]  # (L, S, 3)
    yaw: NDArray[np.float32]  # (L, S)
    joint: NDArray[np.int64]  # (L, S) handle (index into tasks.entities.HANDLES) that moves the slot, -1: fixed
    slide: NDArray[np.float32]  # (L, S, 3) metres of displacement per metre of the joint (drawers)
    hinge: NDArray[np.float32]  # (L, S) radians of yaw per radian of the joint (fridge door; mesh origin on the hinge)
    two_sided: bool = False  # faces are seen from behind too, as in models whose sheets have no thickness


def palette_uv(cell: int) -> tuple[float, float]:
    """Texture coordinates of the centre of a palette cell, cells counted row by row from the top left."""
    row, column = divmod(cell, PALETTE_CELLS)
    return (column + 0.5) / PALETTE_CELLS, (row + 0.5) / PALETTE_CELLS
