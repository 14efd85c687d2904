"""The colours of the objects: one palette texture that every object model shares."""

from __future__ import annotations

import numpy as np

from .assets import PALETTE_CELLS, Material

_CELL_PIXELS = 4  # texture pixels a cell is wide; colours are read at its centre, so filtering never mixes two

_COLORS = {
    "white": (238, 238, 235), "cream": (240, 228, 196), "silver": (196, 200, 206), "steel": (150, 156, 164),
    "grey": (104, 108, 114), "charcoal": (52, 54, 60), "black": (22, 22, 25),
    "red": (206, 28, 34), "crimson": (150, 16, 38), "scarlet": (232, 56, 30), "pink": (240, 130, 160),
    "blush": (232, 104, 92), "salmon": (250, 160, 120), "peach": (250, 190, 132),
    "orange": (250, 126, 10), "amber": (252, 160, 36), "tangerine": (222, 98, 8),
    "yellow": (250, 214, 24), "lemon": (250, 236, 70), "gold": (206, 160, 46), "brass": (184, 136, 44),
    "bronze": (140, 96, 40), "lime": (160, 214, 50), "tennis": (206, 236, 60), "green": (40, 150, 54),
    "leaf": (46, 120, 36), "dark green": (18, 80, 46), "pear": (196, 204, 70), "olive": (128, 134, 44),
    "mint": (140, 220, 190), "teal": (14, 140, 140), "cyan": (40, 190, 220), "sky": (110, 178, 236),
    "blue": (28, 82, 200), "navy": (22, 36, 100), "violet": (120, 60, 180), "plum": (72, 22, 76),
    "aubergine": (46, 14, 52), "lilac": (184, 150, 220), "magenta": (200, 40, 130),
    "wood": (206, 160, 102), "pale wood": (228, 194, 142), "brown": (132, 80, 42), "dark brown": (76, 44, 24),
    "coffee": (52, 28, 16), "tan": (212, 184, 140), "terracotta": (190, 92, 58),
}  # fmt: skip
_CELLS = {name: i for i, name in enumerate(_COLORS)}


def cell(color: str) -> int:
    """The palette cell of a colour name."""
    return _CELLS[color]


def object_material() -> Material:
    """The palette texture of the objects, rows from the top."""
    cells = np.zeros((PALETTE_CELLS * PALETTE_CELLS, 3), np.uint8)
    cells[: len(_COLORS)] = list(_COLORS.values())
    grid = cells.reshape(PALETTE_CELLS, PALETTE_CELLS, 3)
    return Material("objects", grid.repeat(_CELL_PIXELS, 0).repeat(_CELL_PIXELS, 1))
