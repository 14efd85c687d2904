"""Furniture that opens: the fridge with its hinged door, the kitchen counters with their drawers."""

from __future__ import annotations

import numpy as np

from llarp.tasks.entities import FRIDGE, FRIDGE_HANDLE, JOINT_OPEN_TO, LEFT_DRAWER, RECEPTACLE_INDEX, RIGHT_DRAWER

from .assets import Mesh
from .meshes import merge
from .parts import Part, Piece, Surface, block

FRIDGE_TOPS = (1.72, 1.62, 1.82)


def fridge(shape: int, left_hinge: bool) -> Piece:
    """A cold box over a freezer; the door, hinged at its left (+y) or right edge, opens by a positive joint angle."""
    hy, top, shelf = 0.36, FRIDGE_TOPS[shape], 0.84
    back, face, door = -0.36, 0.28, 0.06
    left = ("fridge", "fridge", "inside", "fridge", "fridge", "fridge")
    right = ("fridge", "fridge", "fridge", "inside", "fridge", "fridge")
    floor = 0.56
    body = [
        block((back, face), (-hy, hy), (0, floor), ("fridge", "fridge", "fridge", "fridge", "fridge", "inside")),
        block((face, face + door), (-hy, hy), (0.06, floor - 0.01), "fridge"),
        block((face + door, face + door + 0.025), (-0.2, 0.2), (floor - 0.09, floor - 0.07), "steel_dark"),
        block((back, face), (hy - 0.05, hy), (floor, top), left),
        block((back, face), (-hy, -hy + 0.05), (floor, top), right),
        block((back, back + 0.05), (-hy + 0.05, hy - 0.05), (floor, top), ("fridge", "inside", *["fridge"] * 4)),
        block((back, face), (-hy, hy), (top - 0.05, top), ("fridge", "fridge", "fridge", "fridge", "inside", "fridge")),
        block((back + 0.05, face - 0.04), (-hy + 0.05, hy - 0.05), (shelf - 0.02, shelf), "inside"),
        block((back + 0.05, face - 0.14), (-hy + 0.05, hy - 0.05), (1.27, 1.285), "glass"),
        block((back + 0.06, back + 0.2), (-0.2, 0.12), (floor, floor + 0.16), "glass"),
    ]
    s = 1 if left_hinge else -1  # the free edge lies towards -s y
    reach = 2 * hy
    leaf = [
        block((0, door), (0, -s * reach), (floor + 0.01, top), ("inside", *["fridge"] * 5)),
        block((door, door + 0.03), (-s * (reach - 0.09), -s * (reach - 0.06)), (0.8, 1.25), "steel_dark"),
        block((-0.06, 0), (-s * 0.1, -s * (reach - 0.1)), (1.0, 1.08), "glass"),
    ]
    if shape == 1:  # a coloured band
        leaf.append(block((door, door + 0.006), (-s * 0.02, -s * (reach - 0.14)), (1.3, 1.4), "accent"))
    opened = -s * np.pi / 2 + s * JOINT_OPEN_TO[FRIDGE_HANDLE]
    hinge = (face, s * hy)
    middle = np.array(hinge) + reach / 2 * np.array((np.cos(opened), np.sin(opened)))
    side = "left" if left_hinge else "right"
    return Piece(
        (0.36, hy),
        (
            Part("fridge", merge(f"fridge_{shape}", body)),
            Part("fridge_door", merge(f"fridge_door_{shape}_{side}", leaf), (*hinge, 0), FRIDGE_HANDLE, hinge=float(s)),
        ),
        surfaces={FRIDGE: Surface((-0.22, 0.17), (-0.22, 0.22), shelf)},
        handles={FRIDGE_HANDLE: (face + door + 0.03, -s * (hy - 0.075), 1.02)},
        opens_into={FRIDGE_HANDLE: (*middle, reach / 2, 0.06, opened)},
        front=0.95,
        backed=True,
    )


_DRAWER_HALF_Y, _DRAWER_BACK, _DRAWER_FRONT = 0.28, -0.13, 0.29


def _drawer(height: float) -> Mesh:
    """A drawer: the origin lies in the plane of its underside, its x that of the counter."""
    h, back, front = _DRAWER_HALF_Y, _DRAWER_BACK, _DRAWER_FRONT
    tall = height - 0.06
    wood = "drawer_inside"
    return merge(
        f"drawer_{round(height * 100)}",
        [
            block((front, front + 0.02), (-h - 0.02, h + 0.02), (-0.01, height), (wood, *["cabinet"] * 5)),
            block((front + 0.02, front + 0.045), (-0.09, 0.09), (height * 0.62, height * 0.62 + 0.02), "cabinet_trim"),
            block((back, front), (-h, h), (0, 0.02), wood),
            block((back, front), (h - 0.015, h), (0.02, tall), wood),
            block((back, front), (-h, -h + 0.015), (0.02, tall), wood),
            block((back, back + 0.015), (-h + 0.015, h - 0.015), (0.02, tall), wood),
        ],
    )


# (width of a counter, of the sink, height, style)
KITCHENS = (
    (0.90, 0.72, 0.88, "uppers"), (0.94, 0.76, 0.90, "splash"), (0.86, 0.70, 0.86, "plain"), (0.94, 0.72, 0.88, "hood"),
)  # fmt: skip


def kitchen(shape: int) -> Piece:
    """Left counter, sink, right counter in a row (as seen from the front), with four drawers (handles 0 to 3)."""
    wide, sink, high, style = KITCHENS[shape]
    hx, face, half = 0.31, 0.29, sink / 2
    hy, middle, basin = half + wide, half + wide / 2, high - 0.09
    sides = {s: (s * half, s * hy) for s in (-1, 1)}  # y ranges; -1: left counter
    steel, dark = "steel", "steel_dark"
    rim = (steel, steel, dark, dark, steel, steel)
    parts = [block((-hx, 0.23), (-hy, hy), (0, 0.1), "cabinet_trim")]
    front = ("cabinet", "cabinet_trim", "cabinet", "cabinet", "cabinet", "cabinet")
    parts += [block((-hx, face), sides[s], (0.1, high - 0.04), front) for s in (-1, 1)]
    parts += [block((-hx, hx), sides[s], (high - 0.04, high), "counter") for s in (-1, 1)]
    parts += [
        block((-hx, face), (-half, half), (0.1, basin), (*front[:5], steel)),
        block((0.22, hx), (-half, half), (basin, high), ("steel_dark", "counter", steel, steel, steel, steel)),
        block((-hx, -0.2), (-half, half), (basin, high), (steel, "steel_dark", steel, steel, steel, steel)),
        *[block((-0.2, 0.22), (s * (half - 0.06), s * half), (basin, high), rim) for s in (-1, 1)],
        block((-0.27, -0.24), (-0.015, 0.015), (high, high + 0.24), "steel_dark"),
        block((-0.24, -0.08), (-0.013, 0.013), (high + 0.215, high + 0.24), "steel_dark"),
        block((-0.1, -0.08), (-0.013, 0.013), (high + 0.17, high + 0.215), "steel_dark"),
        *[block((face, face + 0.012), (y - 0.3, y + 0.3), (0.14, 0.5), "cabinet") for y in (-middle, 0.0)],
    ]
    if style in ("uppers", "hood"):
        wings = sides.values() if style == "hood" else [(-hy, hy)]
        parts += [block((-hx, 0.02), y, (1.5, 2.15), "cabinet") for y in wings]
        doors = np.linspace(-hy, hy, 5)
        parts += [
            block((0.02, 0.035), (a + 0.02, b - 0.02), (1.52, 2.13), "cabinet_trim")
            for a, b in zip(doors[:-1], doors[1:], strict=True)
            if style == "uppers" or min(abs(a), abs(b)) > half - 0.1
        ]
    if style == "hood":
        parts.append(block((-hx, -0.02), (-half + 0.04, half - 0.04), (1.62, 1.72), "steel"))
    if style != "plain":
        parts.append(block((-hx, -hx + 0.012), (-hy, hy), (high, 1.45), "accent_light"))
    else:
        parts.append(block((-hx, -hx + 0.22), (-hy, hy), (1.62, 1.66), "cabinet_trim"))
    top, low = high - 0.3, 0.28
    places = ((-middle, top, 0.24), (0.0, high - 0.32, 0.21), (middle, top, 0.24), (middle, low, 0.24))
    drawers = [
        Part(f"drawer_{i}", _drawer(height), (0.0, y, z), joint=i, slide=1.0) for i, (y, z, height) in enumerate(places)
    ]
    surfaces = {
        RECEPTACLE_INDEX["left counter"]: Surface((-0.2, hx - 0.05), (-hy + 0.05, -half - 0.05), high),
        RECEPTACLE_INDEX["right counter"]: Surface((-0.2, hx - 0.05), (half + 0.05, hy - 0.05), high),
        RECEPTACLE_INDEX["sink"]: Surface((-0.12, 0.14), (-half + 0.14, half - 0.14), basin),
    }
    inner = (_DRAWER_BACK + 0.07, _DRAWER_FRONT - 0.09)  # what lies within does not stick out of the closed drawer
    for receptacle, (y, z, height) in ((LEFT_DRAWER, places[0]), (RIGHT_DRAWER, places[2])):
        surfaces[receptacle] = Surface(inner, (y - 0.18, y + 0.18), z + 0.02, height - 0.02)
    opened = [(face + 0.02 + 0.225, y, 0.225, _DRAWER_HALF_Y + 0.02, 0.0) for y, _, _ in places]
    return Piece(
        (hx, hy),
        (Part("kitchen", merge(f"kitchen_{shape}", parts)), *drawers),
        surfaces=surfaces,
        handles={i: (face + 0.04, y, z + height * 0.62 + 0.01) for i, (y, z, height) in enumerate(places)},
        opens_into=dict(enumerate(opened)),
        front=1.0,
        backed=True,
    )
