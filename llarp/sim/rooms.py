"""Rooms and what hangs and stands about in them: floor and wall meshes, rugs, pictures, plants, lamps, shelves.

A room's frame: origin on the floor in the middle of its outer rectangle.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .assets import Mesh
from .meshes import ellipsoid, lathe, merge, transform
from .parts import Part, Piece, block
from .textures import CELL, FLOOR_TILE_M, WALL_TILE_M

WALL_HEIGHT_M = 2.5


@dataclass(frozen=True)
class Room:
    """An outer rectangle less blocks that reach from floor to ceiling: cut-off corners, partitions, pillars."""

    name: str
    half: tuple[float, float]
    blocks: tuple[tuple[float, float, float, float], ...] = ()  # (x0, x1, y0, y1)

    def obstacles(self) -> NDArray[np.float64]:
        """The blocks as rectangles (R, 5)."""
        rows = [((x0 + x1) / 2, (y0 + y1) / 2, (x1 - x0) / 2, (y1 - y0) / 2, 0.0) for x0, x1, y0, y1 in self.blocks]
        return np.array(rows, float).reshape(-1, 5)

    def segments(self) -> NDArray[np.float64]:
        """Stretches of wall to stand furniture against: (n, 5) middle x, y, half length, normal yaw, 1 if outer."""
        a, b = self.half
        rows = [(-a, 0, b, 0.0, 1), (a, 0, b, np.pi, 1), (0, -b, a, np.pi / 2, 1), (0, b, a, -np.pi / 2, 1)]
        for cx, cy, hx, hy, _ in self.obstacles():
            rows += [(cx - hx, cy, hy, np.pi, 0), (cx + hx, cy, hy, 0.0, 0)]
            rows += [(cx, cy - hy, hx, -np.pi / 2, 0), (cx, cy + hy, hx, np.pi / 2, 0)]
        return np.array([row for row in rows if row[2] > 0.3], float)


def _cut(half: tuple[float, float], sx: int, sy: int, dx: float, dy: float) -> tuple[float, float, float, float]:
    """The block that cuts a corner of a room."""
    x, y = (sx * (half[0] - dx), sx * half[0]), (sy * (half[1] - dy), sy * half[1])
    return min(x), max(x), min(y), max(y)


ROOMS: dict[str, tuple[Room, ...]] = {
    "train": (
        Room("rectangle", (2.9, 2.4)),
        Room("square", (2.6, 2.6)),
        Room("wide", (3.3, 2.2)),
        Room("large", (3.3, 2.8)),
        Room("l_east", (3.2, 2.8), (_cut((3.2, 2.8), 1, 1, 1.8, 1.5),)),
        Room("l_west", (3.3, 2.6), (_cut((3.3, 2.6), -1, -1, 1.5, 1.6),)),
        Room("partition", (3.3, 2.6), ((-0.06, 0.06, 0.9, 2.6),)),
        Room("pillar", (3.0, 2.7), ((0.5, 0.9, -0.3, 0.1),)),
    ),
    "heldout": (
        Room("t_shape", (3.4, 2.7), (_cut((3.4, 2.7), -1, 1, 1.3, 1.3), _cut((3.4, 2.7), 1, 1, 1.3, 1.3))),
        Room("long", (3.9, 1.95)),
        Room("z_shape", (3.3, 2.8), (_cut((3.3, 2.8), -1, 1, 1.4, 1.2), _cut((3.3, 2.8), 1, -1, 1.4, 1.2))),
        Room("two_walls", (3.5, 2.6), ((-1.2, -1.08, 1.2, 2.6), (1.1, 1.22, -2.6, -1.3))),
        Room("alcove", (3.2, 2.8), ((-0.9, 0.9, 1.9, 2.8),)),
    ),
}
"""Room shapes of training and held-out scenes; none is in both."""


def _wall(start: tuple[float, float], end: tuple[float, float], along: float) -> Mesh:
    """A wall seen from its left, on which the picture runs on from `along` metres."""
    (x0, y0), (x1, y1) = start, end
    u0, u1 = along / WALL_TILE_M, (along + np.hypot(x1 - x0, y1 - y0)) / WALL_TILE_M
    high = WALL_HEIGHT_M
    points = np.array([(x0, y0, 0), (x0, y0, high), (x1, y1, high), (x1, y1, 0)], np.float32)
    uv = np.array([(u0, 1), (u0, 0), (u1, 0), (u1, 1)], np.float32)
    uv[:, 1] = uv[:, 1] * 0.994 + 0.003  # half a pixel in: the picture must not wrap at floor and ceiling
    return Mesh("", points, np.array([(0, 1, 2), (0, 2, 3)], np.int32), uv)


def room_meshes(room: Room) -> tuple[Mesh, Mesh]:
    """Floor and walls; the outer walls are seen from inside only, so that a camera outside looks in."""
    a, b = room.half
    corners = np.array([(-a, -b), (a, -b), (a, b), (-a, b)], np.float32)
    slab = np.concatenate([np.column_stack((corners, np.full(4, z))) for z in (0.0, -0.05)]).astype(np.float32)
    faces = np.array([(0, 1, 2), (0, 2, 3), (4, 6, 5), (4, 7, 6)], np.int32)
    floor = Mesh(f"floor_{room.name}", slab, faces, np.tile(corners / FLOOR_TILE_M, (2, 1)).astype(np.float32))

    parts, along = [], 0.0
    outline = [(-a, -b), (a, -b), (a, b), (-a, b)]
    for i in range(4):
        start, end = outline[i], outline[(i + 1) % 4]
        parts.append(_wall(start, end, along))
        along += float(np.hypot(end[0] - start[0], end[1] - start[1]))
    for x0, x1, y0, y1 in room.blocks:
        around = [(x0, y0), (x0, y1), (x1, y1), (x1, y0)]  # clockwise: seen from outside
        for i in range(4):
            start, end = around[i], around[(i + 1) % 4]
            parts.append(_wall(start, end, 0.0))
        top = np.array([(x, y, WALL_HEIGHT_M) for x, y in around[::-1]], np.float32)
        parts.append(Mesh("", top, np.array([(0, 1, 2), (0, 2, 3)], np.int32), np.full((4, 2), 0.01, np.float32)))
    return floor, merge(f"walls_{room.name}", parts)


def _piece(role: str, name: str, half: tuple[float, float], *parts: Mesh) -> Piece:
    return Piece(half, (Part(role, merge(name, parts)),))


def _rug(shape: int, hx: float, hy: float) -> Piece:
    if shape == 1:
        disc = [(0.0, 0.0), (hx, 0.0), *((r * hx, 0.012) for r in (1.0, 0.85, 0.6, 0.5, 0.0))]
        cells = [CELL[c] for c in ("rug_edge", "rug_edge", "rug_edge", "rug", "rug_edge", "rug")]
        return _piece("rug", "rug_round", (hx, hx), lathe(disc, cells, 24))
    border = block((-hx, hx), (-hy, hy), (0, 0.010), "rug_edge")
    inner = block((-hx + 0.12, hx - 0.12), (-hy + 0.12, hy - 0.12), (0.010, 0.014), "rug")
    wide = (-hx + 0.2, hx - 0.2)
    bars = [block(wide, (y - 0.05, y + 0.05), (0.014, 0.017), "rug_edge") for y in (-0.6, -0.2, 0.2, 0.6)]
    return _piece("rug", f"rug_{shape}", (hx, hy), border, inner, *(bars if shape == 2 else ()))


def _plant(shape: int) -> Piece:
    pot = lathe([(0.0, 0.0), (0.11, 0.0), (0.15, 0.28), (0.12, 0.28), (0.0, 0.25)], CELL["pot"], 10)
    if shape == 0:
        crown = [transform(ellipsoid((0.2, 0.2, 0.26), CELL["leaf"], 8, 5), (0, 0, 0.95)),
                 transform(ellipsoid((0.15, 0.16, 0.18), CELL["leaf_light"], 8, 5), (0.08, 0.05, 0.75))]  # fmt: skip
        crown.append(block((-0.02, 0.02), (-0.02, 0.02), (0.24, 0.75), "leg"))
    elif shape == 1:
        crown = [lathe([(0.0, 0.25 + z), (r, 0.25 + z), (0.0, 0.6 + z)], CELL[c], 8)
                 for z, r, c in ((0.0, 0.24, "leaf"), (0.25, 0.19, "leaf_light"), (0.48, 0.14, "leaf"))]  # fmt: skip
    else:
        blade = ellipsoid((0.04, 0.015, 0.4), CELL["leaf"], 5, 4)
        turns = np.arange(6) * np.pi / 3
        crown = [transform(blade, (0.1 * np.cos(t), 0.1 * np.sin(t), 0.6), yaw=t, pitch=0.3) for t in turns]
    return _piece("plant", f"plant_{shape}", (0.24, 0.24), pot, *crown)


def _lamp(shape: int) -> Piece:
    foot = [(0.0, 0.0), (0.14, 0.0), (0.14, 0.03), (0.014, 0.04), (0.014, 1.4)]
    shades = (
        [(0.2, 1.3), (0.13, 1.58), (0.0, 1.58)],
        [(0.0, 1.32), (0.13, 1.36), (0.17, 1.48), (0.13, 1.6), (0.0, 1.64)],
        [(0.09, 1.2), (0.09, 1.62), (0.0, 1.62)],
    )
    shade = lathe(shades[shape], CELL["shade"], 12)
    return _piece("lamp", f"lamp_{shape}", (0.2, 0.2), lathe(foot, CELL["knob"], 8), shade)


def _bookcase(shape: int) -> Piece:
    hx, hy, high = 0.15, (0.4, 0.3, 0.45)[shape], (1.7, 1.95, 1.1)[shape]
    shelves = np.linspace(0.05, high - 0.03, (5, 6, 4)[shape])
    parts = [block((-hx, hx), (-hy, hy), (z - 0.015, z + 0.015), "stand_dark") for z in shelves]
    parts += [block((-hx, hx), (s * hy, s * (hy - 0.025)), (0, high), "stand_dark") for s in (-1, 1)]
    parts.append(block((-hx, -hx + 0.015), (-hy, hy), (0.05, high - 0.03), "stand"))
    for i, z in enumerate(shelves[:-1]):
        y = -hy + 0.06 + 0.09 * (i % 3)
        colors = ("accent", "accent_dark", "accent_light", "pot")
        parts.append(block((-hx + 0.03, hx - 0.05), (y, y + 0.2), (z + 0.015, z + 0.2), colors[(i + shape) % 4]))
    return _piece("shelf", f"bookcase_{shape}", (hx, hy), *parts)


def _picture(shape: int) -> Piece:
    """Hangs with its back on the plane x = -0.02."""
    hy, low, high = ((0.35, 1.25, 1.75), (0.25, 1.15, 1.85), (0.5, 1.3, 1.7))[shape]
    frame = block((-0.02, 0.005), (-hy, hy), (low, high), "accent_dark")
    canvas = block((0.005, 0.01), (-hy + 0.04, hy - 0.04), (low + 0.04, high - 0.04), "white")
    middle = (low + high) / 2
    if shape == 0:
        art = [block((0.01, 0.013), (-hy + 0.04, hy - 0.04), (low + 0.04, middle), "leaf_light"),
               block((0.01, 0.013), (-hy + 0.04, hy - 0.04), (middle, high - 0.04), "sky"),
               block((0.013, 0.016), (0.05, 0.17), (middle + 0.03, middle + 0.15), "accent")]  # fmt: skip
    elif shape == 1:
        art = [block((0.01, 0.013), (-0.15 + 0.1 * i, -0.08 + 0.1 * i), (low + 0.08, high - 0.12 * (i + 1)), c)
               for i, c in enumerate(("accent", "accent_light", "accent_dark"))]  # fmt: skip
    else:
        art = [block((0.01, 0.013), (y - 0.1, y + 0.1), (middle - 0.1, middle + 0.1), c)
               for y, c in ((-0.28, "accent"), (0.0, "sky"), (0.28, "pot"))]  # fmt: skip
    return _piece("picture", f"picture_{shape}", (0.02, hy), frame, canvas, *art)


def _window(shape: int) -> Piece:
    hy, low, high = ((0.6, 1.0, 2.1), (0.45, 0.9, 2.2))[shape]
    frame = block((-0.02, 0.01), (-hy, hy), (low, high), "white")
    panes = [block((0.01, 0.013), (y, y + hy - 0.08), (low + 0.05, high - 0.05), "sky") for y in (-hy + 0.05, 0.03)]
    curtains = [block((0.01, 0.05), (s * hy, s * (hy + 0.18)), (low - 0.1, high + 0.1), "cushion") for s in (-1, 1)]
    return _piece("window", f"window_{shape}", (0.05, hy + 0.18), frame, *panes, *(curtains if shape == 0 else ()))


def _door(shape: int) -> Piece:
    frame = block((-0.02, 0.01), (-0.5, 0.5), (0, 2.1), "white")
    leaf = block((0.01, 0.025), (-0.43, 0.43), (0, 2.04), "door")
    fields = [block((0.025, 0.03), (-0.32, 0.32), z, "white") for z in ((0.2, 0.9), (1.1, 1.9))]
    knob = block((0.025, 0.07), (0.33, 0.37), (0.98, 1.02), "knob")
    return _piece("door", f"door_{shape}", (0.03, 0.5), frame, leaf, *(fields if shape == 0 else ()), knob)


def decor() -> dict[str, list[Piece]]:
    """Every variant of the things that only make a home of a room, by kind."""
    return {
        "rug": [_rug(0, 0.7, 1.0), _rug(1, 0.85, 0.85), _rug(2, 0.8, 1.1)],
        "plant": [_plant(i) for i in range(3)],
        "lamp": [_lamp(i) for i in range(3)],
        "shelf": [_bookcase(i) for i in range(3)],
        "picture": [_picture(i) for i in range(3)],
        "window": [_window(i) for i in range(2)],
        "door": [_door(i) for i in range(2)],
    }
