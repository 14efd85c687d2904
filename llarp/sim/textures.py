"""Materials made in code: palettes that colour furniture, and tiling pictures for floors and walls.

Training and held-out apartments share no colour scheme, no floor and no wall. Whatever the scheme, the black table is
nearly black, the brown table is brown wood and the sink is steel, because instructions name or imply them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .assets import PALETTE_CELLS, Material

_SCHEMED = ("cabinet", "cabinet_trim", "counter", "fridge", "sofa", "cushion", "chair", "stand", "accent", "rug")
_FIXED = {
    "black_wood": "1a1a1d", "black_edge": "0c0c0e", "brown_wood": "7c4a24", "brown_edge": "57321a", "steel": "b4bac0",
    "steel_dark": "7d848b", "white": "f2f1ec", "inside": "e3ebf2", "glass": "c3d8e2", "tv": "141416",
    "screen": "262c38", "leaf": "3f7d3a", "leaf_light": "68a34f", "pot": "b9694a", "shade": "f1e2b8", "sky": "a9cdea",
    "door": "cfc4ae", "knob": "5c5f63", "drawer_inside": "d9cfbb", "leg": "4b4038",
}  # fmt: skip
_DERIVED = ("rug_edge", "sofa_dark", "chair_dark", "stand_dark", "accent_light", "accent_dark")
CELL: dict[str, int] = {role: i for i, role in enumerate((*_SCHEMED, *_FIXED, *_DERIVED))}
"""Palette cell of every furniture role."""

# One row a scheme, in the order of _SCHEMED. Counters stay light; sofas and TV stands are neither black nor brown.
_SCHEMES = {
    "train": (
        "e9e6df 8b8f93 d6d2c8 f0f0f0 5d7fa3 d8b04c 8aa0b5 e4ded2 c0563f a8b6bf",
        "9fb4a5 5f7466 e8e4da d9dde0 b9a78c 6f8f72 6f8f72 cfc5b2 d39a3a c9c2ae",
        "c8a978 7c6342 efeee9 c43d3d 8c8f96 c7494f d7c9b0 f1efe9 3d6fa5 b9aeb0",
        "49617d 2f3f52 d9dadb e9eef0 c9c4ba 3f6f8f c98f3c 9fb0bd d8733c 8fa3b3",
        "d8c4c0 9c7f7b e5e0dc f3eee6 9a6f86 e3d3c4 9a6f86 e3c9c4 5f8f8b c7b0b4",
        "7f8488 4c5053 cfd3d4 8f979c 5f8a6d dcd6b8 d2b35c b2b6b8 b24a6b a9b39d",
        "f0ead2 b79f63 dccfb0 bcd6cf d08a4e f0e0c0 4f7d84 efe0b4 3f8a8f d8c69a",
        "b5553f 7a3527 e9dfcf f2e9df d7c7b5 a8442f 94a56b d9b9a0 5c7f4a c7a893",
        "dfe6ea 6f8aa0 c2ccd2 a3c1d9 3f5f78 b9d3e3 e5e9ec c2d4e0 e0b545 9fb9cc",
        "a39bb8 6a6285 e6e3ec dcd8e6 76699a e2c96a bdb4d4 d4cee2 d77f5f b7b0c8",
    ),
    "heldout": (
        "3f7f7a 255350 ece7dc f7f3e2 d3615a f3cfae 3f7f7a a9d3cb e8a13a e2bfa8",
        "d9d27f 8f8a3f e2e4dd 5f9e8f 6fa9c9 f4f0d0 d9773f dfe3b2 8f4f8f b9d0d6",
        "e4b7a0 a86f55 d3dcd8 4f6fa8 4f8f5a e9dd8a e4b7a0 b9d9e8 c93f6f a9cfa9",
        "5a4f7f 372f55 f3eee0 e8b23f e0a3b9 7f4f9f 5fa97f e6cfe0 3fa9b9 dcc0d2",
        "8fc3d9 4f87a3 f4ece0 d9798f efc23f c9583f 8f5fa3 f2dc9f 3f5fb9 f0dfae",
        "c7e0b4 719a58 dfd8e6 6fbf73 b04a6a d9a9ae efaa5a c7dfd9 6f3f8f d2a9ad",
    ),
}


def _rgb(text: str) -> NDArray[np.float64]:
    return np.array([int(text[i : i + 2], 16) for i in (0, 2, 4)], float)


def _palette(name: str, row: str) -> Material:
    colors = {role: _rgb(text) for role, text in (*zip(_SCHEMED, row.split(), strict=True), *_FIXED.items())}
    colors |= {"rug_edge": colors["rug"] * 0.75, "sofa_dark": colors["sofa"] * 0.8, "chair_dark": colors["chair"] * 0.7}
    colors |= {"stand_dark": colors["stand"] * 0.72, "accent_dark": colors["accent"] * 0.6}
    colors["accent_light"] = colors["accent"] * 0.5 + 127
    cells = np.zeros((PALETTE_CELLS * PALETTE_CELLS, 3))
    for role, color in colors.items():
        cells[CELL[role]] = color
    texture = cells.reshape(PALETTE_CELLS, PALETTE_CELLS, 3).repeat(4, 0).repeat(4, 1)  # 4 px: no bleeding
    return Material(name, texture.clip(0, 255).astype(np.uint8))


def palettes(split: str) -> list[Material]:
    """The furniture colour schemes of a split ("train" or "heldout"), textures (64, 64, 3)."""
    return [_palette(f"palette_{split}_{i}", row) for i, row in enumerate(_SCHEMES[split])]


_SIZE = 128  # pixels a side of floor and wall pictures
FLOOR_TILE_M = 1.6
"""Metres of floor that one floor picture covers."""
WALL_TILE_M = 2.5
"""Metres of wall that one wall picture covers: the height of the walls, its last row at the floor."""


def _noise(rng: np.random.Generator, shape: tuple[int, ...], size: float) -> NDArray[np.float64]:
    return 1 + rng.uniform(-size, size, (*shape, 1))


def _planks(rng: np.random.Generator, color: NDArray, second: NDArray, rows: int) -> NDArray:
    picture, step = np.empty((_SIZE, _SIZE, 3)), _SIZE // rows
    for i in range(rows):
        grain = _noise(rng, (step, 1), 0.03) * np.ones((1, _SIZE, 1))
        halves = np.where(np.arange(_SIZE)[:, None] < _SIZE // 2, rng.uniform(0.92, 1.04), rng.uniform(0.92, 1.04))
        board = grain * color * np.roll(halves, rng.integers(_SIZE), 0)[None]
        board[0] = second
        picture[i * step : (i + 1) * step] = board
    return picture


def _tiles(rng: np.random.Generator, color: NDArray, second: NDArray, rows: int) -> NDArray:
    step = _SIZE // rows
    picture = np.repeat(np.repeat(_noise(rng, (rows, rows), 0.025), step, 0), step, 1) * color
    picture[::step], picture[:, ::step] = second, second
    return picture


def _checks(rng: np.random.Generator, color: NDArray, second: NDArray, rows: int) -> NDArray:
    at = np.arange(_SIZE) * rows // _SIZE
    return np.where(((at[:, None] + at[None]) % 2 == 0)[..., None], color, second) * _noise(rng, (_SIZE, _SIZE), 0.01)


def _carpet(rng: np.random.Generator, color: NDArray, second: NDArray, rows: int) -> NDArray:
    speckle = np.repeat(np.repeat(rng.random((_SIZE // 2, _SIZE // 2, 1)), 2, 0), 2, 1)
    return color + (second - color) * speckle


def _plain(rng: np.random.Generator, color: NDArray, second: NDArray, rows: int) -> NDArray:
    return np.ones((_SIZE, _SIZE, 1)) * color


def _stripes(rng: np.random.Generator, color: NDArray, second: NDArray, rows: int) -> NDArray:
    odd = (np.arange(_SIZE) * 2 * rows // _SIZE) % 2 == 1
    return np.where(odd[None, :, None], second, color) * np.ones((_SIZE, 1, 1))


def _panelled(rng: np.random.Generator, color: NDArray, second: NDArray, rows: int) -> NDArray:
    picture = _plain(rng, color, second, rows)
    low = _SIZE * 6 // 10
    picture[low:] = second
    picture[low : low + 2] = second * 0.8
    picture[low + 2 :, :: _SIZE // rows] = second * 0.88
    return picture


def _bricks(rng: np.random.Generator, color: NDArray, second: NDArray, rows: int) -> NDArray:
    picture, step = np.empty((_SIZE, _SIZE, 3)), _SIZE // rows
    for i in range(rows):
        course = np.repeat(_noise(rng, (rows // 2,), 0.05), 2 * step, 0) * color
        course[:: 2 * step] = second
        picture[i * step : (i + 1) * step] = np.roll(course, step * (i % 2), 0)
        picture[i * step] = second
    return picture


# (pattern, main colour, second colour, repeats)
_FLOORS = {
    "train": (
        (_planks, "b98f62", "8d6a45", 8), (_planks, "8c6a4a", "6a4e36", 8), (_planks, "cdb08a", "a88c69", 16),
        (_tiles, "cfcac0", "b1aba0", 4), (_tiles, "a7adb0", "8d9396", 4), (_tiles, "d9c8ae", "b8a588", 8),
        (_carpet, "a59a8c", "948a7d", 1), (_carpet, "7f8a99", "727d8c", 1), (_plain, "b5b3ad", "b5b3ad", 1),
        (_stripes, "c2b29a", "b5a58d", 8),
    ),
    "heldout": (
        (_checks, "d6d3ca", "a3b0ad", 8), (_planks, "a3745e", "7d5644", 4), (_carpet, "a8b594", "98a584", 1),
        (_bricks, "c39a82", "a98471", 8), (_checks, "d8c3a8", "c2a587", 4),
    ),
}  # fmt: skip
_WALLS = {
    "train": (
        (_plain, "ece8df", "ece8df", 1), (_plain, "d3dde2", "d3dde2", 1), (_plain, "e6d8bf", "e6d8bf", 1),
        (_stripes, "e3e0d6", "d3d0c4", 8), (_stripes, "dfe5e8", "c9d4da", 4), (_panelled, "dcd3c2", "f0ece3", 8),
        (_panelled, "b9c6b5", "e9e9e0", 4), (_plain, "cdbfb4", "cdbfb4", 1), (_tiles, "e4e4e0", "d2d2cc", 8),
        (_plain, "b7c4b9", "b7c4b9", 1),
    ),
    "heldout": (
        (_bricks, "cfa694", "b99483", 16), (_checks, "e9e0ea", "dccfe0", 4), (_panelled, "e8c9b0", "b8cdd6", 16),
        (_stripes, "f0e3b8", "e3d09a", 16), (_plain, "c5b3d3", "c5b3d3", 1),
    ),
}  # fmt: skip


def floors(split: str) -> list[Material]:
    """Floor pictures (128, 128, 3) of a split, each covering FLOOR_TILE_M metres."""
    return _pictures("floor", split, _FLOORS[split])


def walls(split: str) -> list[Material]:
    """Wall pictures (128, 128, 3) of a split with a skirting board, each covering WALL_TILE_M metres."""
    made = _pictures("wall", split, _WALLS[split])
    for material in made:
        material.texture[-5:] = (238, 236, 230)
        material.texture[-6] = (170, 166, 158)
    return made


def _pictures(kind: str, split: str, rows: tuple) -> list[Material]:
    made = []
    for i, (pattern, color, second, repeats) in enumerate(rows):
        picture = pattern(np.random.default_rng(i), _rgb(color), _rgb(second), repeats)
        made.append(Material(f"{kind}_{split}_{i}", picture.clip(0, 255).astype(np.uint8)))
    return made
