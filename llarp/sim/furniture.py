"""Tables, TV stands, sofas and chairs, made of boxes and turned parts; and the list of all furniture."""

from __future__ import annotations

import numpy as np

from llarp.tasks.entities import RECEPTACLE_INDEX

from .articulated import FRIDGE_TOPS, KITCHENS, fridge, kitchen
from .meshes import box, cylinder, lathe, merge, rounded_box, transform, tube
from .parts import Part, Piece, Surface, block, cushion, legs, single
from .textures import CELL

# Tables: (shape, half x, half y, height)
_TABLES = {
    "black": (
        ("legs", 0.32, 0.52, 0.72), ("round", 0.42, 0.42, 0.52),
        ("slab", 0.30, 0.48, 0.46), ("trestle", 0.33, 0.54, 0.74),
    ),
    "brown": (
        ("trestle", 0.31, 0.50, 0.70), ("slab", 0.33, 0.54, 0.56),
        ("legs", 0.36, 0.42, 0.48), ("round", 0.45, 0.45, 0.72),
    ),
}  # fmt: skip


def _table(color: str, shape: str, hx: float, hy: float, height: float) -> Piece:
    wood, edge, under = f"{color}_wood", f"{color}_edge", height - 0.04
    top = block((-hx, hx), (-hy, hy), (under, height), (edge, edge, edge, edge, edge, wood))
    inset = 0.05
    if shape == "legs":
        apron = block((-hx + 0.04, hx - 0.04), (-hy + 0.04, hy - 0.04), (under - 0.07, under), edge)
        parts = [top, apron, *legs(hx - 0.05, hy - 0.05, under, wood, 0.03)]
    elif shape == "slab":
        deep = (-hx + 0.02, hx - 0.02)
        sides = [block(deep, (y - 0.02, y + 0.02), (0, under), wood) for y in (-hy + 0.06, hy - 0.06)]
        shelf = block((-hx + 0.04, hx - 0.04), (-hy + 0.08, hy - 0.08), (0.14, 0.17), edge)
        parts = [top, *sides, shelf]
    elif shape == "trestle":
        parts = [top, block((-0.02, 0.02), (-hy + 0.12, hy - 0.12), (0.2, 0.26), edge)]
        for y in (-hy + 0.12, hy - 0.12):
            for lean in (-0.38, 0.38):
                beam = box((0.025, 0.03, under / 2 / np.cos(lean)), CELL[wood])
                parts.append(transform(beam, (0, y, under / 2), pitch=lean))
    else:
        foot = [(0.0, 0.0), (0.24, 0.0), (0.24, 0.03), (0.05, 0.06), (0.045, under)]
        disc = [(0.0, under), (hx, under), (hx, height), (0.0, height)]
        parts = [lathe(foot, CELL[edge], 12), lathe(disc, [CELL[edge], CELL[edge], CELL[wood]], 24)]
        inset = hx * (1 - 0.68)  # the square that fits on the disc
    surface = Surface((-hx + inset, hx - inset), (-hy + inset, hy - inset), height)
    surfaces = {RECEPTACLE_INDEX[f"{color} table"]: surface}
    return single(f"{color}_table", f"{color}_{shape}", (hx, hy), parts, surfaces=surfaces)


def _tv_stand(shape: int, hy: float, height: float) -> Piece:
    hx, wood, dark = 0.26, "stand", "stand_dark"
    face = (hx, hx + 0.012)
    if shape == 0:  # a closed chest on a plinth
        parts = [block((-hx + 0.02, hx - 0.03), (-hy + 0.03, hy - 0.03), (0, 0.06), dark)]
        parts += [block((-hx, hx), (-hy, hy), (0.06, height), wood)]
        thirds, wide = (-hy * 0.64, 0, hy * 0.64), hy / 3 - 0.02
        parts += [block(face, (y - wide, y + wide), (0.1, height - 0.04), dark) for y in thirds]
    elif shape == 1:  # open shelves
        parts = [block((-hx, hx), (-hy, hy), (z, z + 0.04), wood) for z in (0.06, height / 2, height - 0.04)]
        parts += [block((-hx, hx), (y - 0.02, y + 0.02), (0, height - 0.04), dark) for y in (-hy + 0.02, 0, hy - 0.02)]
        parts.append(block((-hx, -hx + 0.02), (-hy, hy), (0.06, height - 0.02), dark))
    elif shape == 2:  # a box on legs with two doors
        parts = [block((-hx, hx), (-hy, hy), (0.18, height), wood), *legs(hx - 0.05, hy - 0.08, 0.18, "leg", 0.02)]
        parts += [block(face, (s * 0.02, s * (hy - 0.03)), (0.21, height - 0.03), dark) for s in (-1, 1)]
    else:  # two towers and a bridge
        parts = [block((-hx, hx), (-hy, hy), (height - 0.05, height), wood)]
        parts += [block((-hx, hx - 0.02), (s * (hy - 0.3), s * hy), (0, height - 0.05), dark) for s in (-1, 1)]
    screen_y = min(0.5, hy - 0.05)
    tv = [
        block((-0.21, -0.17), (-screen_y, screen_y), (height + 0.06, height + 0.62), ("tv", "screen", *["tv"] * 4)),
        block((-0.20, -0.18), (-0.05, 0.05), (height, height + 0.06), "tv"),
        block((-0.24, -0.13), (-0.2, 0.2), (height, height + 0.015), "tv"),
    ]
    surface = Surface((-0.12, hx - 0.04), (-hy + 0.06, hy - 0.06), height)
    return Piece(
        (hx + 0.012, hy),
        (Part("tv_stand", merge(f"tv_stand_{shape}", parts)), Part("tv", merge(f"tv_{shape}", tv))),
        surfaces={RECEPTACLE_INDEX["TV stand"]: surface},
        front=0.6,
        backed=True,
    )


def _sofa(shape: int, hy: float) -> Piece:
    hx, seat = 0.42, 0.42
    arm = (0.18, 0.16, 0.12, 0.1)[shape]
    inner, back = hy - arm, (-hx, -hx + 0.2)
    count = (2, 3, 2, 1)[shape]
    edges = np.linspace(-inner, inner, count + 1)
    places = list(zip(edges[:-1], edges[1:], strict=True))
    seats = [cushion((-0.22, hx), (a + 0.005, b - 0.005), (seat - 0.16, seat), "sofa") for a, b in places]
    base = block((-hx, hx - 0.03), (-hy + 0.02, hy - 0.02), (0.1, seat - 0.12), "sofa_dark")
    parts = [base, *seats, *legs(hx - 0.06, hy - 0.08, 0.1, "leg", 0.03)]
    if shape == 0:
        parts += [cushion(back, (-hy, hy), (0.1, 0.85), "sofa_dark", 0.06)]
        parts += [cushion((-hx, hx), (s * inner, s * hy), (0.1, 0.62), "sofa_dark", 0.05) for s in (-1, 1)]
    elif shape == 1:
        parts += [block(back, (-hy, hy), (0.2, 0.78), "sofa_dark")]
        roll = cylinder(0.1, hx, CELL["sofa_dark"], 10)
        for s in (-1, 1):
            parts += [transform(roll, (0, s * (hy - 0.1), 0.56), pitch=np.pi / 2)]
            parts += [block((-hx, hx - 0.01), (s * inner, s * (hy - 0.02)), (0.1, 0.56), "sofa")]
    elif shape == 2:
        parts += [cushion(back, (a + 0.01, b - 0.01), (seat - 0.05, 0.9), "sofa", 0.06) for a, b in places]
        parts += [block((-hx, hx - 0.04), (s * inner, s * hy), (0.1, 0.6), "leg") for s in (-1, 1)]
    else:
        parts += [cushion(back, (-hy, hy), (0.1, 0.72), "sofa", 0.08)]
        parts += [cushion((-hx, hx - 0.1), (s * inner, s * hy), (0.1, 0.52), "sofa", 0.04) for s in (-1, 1)]
    pillow = rounded_box((0.05, 0.13, 0.13), 0.04, CELL["cushion"])
    parts.append(transform(pillow, (-0.17, inner - 0.17, seat + 0.14), pitch=-0.25))
    surface = Surface((-0.1, hx - 0.05), (-inner + 0.04, inner - 0.04), seat)
    surfaces = {RECEPTACLE_INDEX["sofa"]: surface}
    return single("sofa", f"sofa_{shape}", (hx, hy), parts, surfaces=surfaces, front=0.6, backed=True)


def _chair(shape: int) -> Piece:
    h, seat = 0.23, 0.45
    if shape == 0:  # wooden, slatted back
        slats = (-0.19, -0.06, 0.06, 0.19)
        parts = [block((-h, h), (-h, h), (seat - 0.04, seat), "chair")]
        parts += legs(h - 0.03, h - 0.03, seat - 0.04, "chair_dark")
        parts += [block((-h, -h + 0.03), (y - 0.02, y + 0.02), (seat, 0.92), "chair_dark") for y in slats]
        parts += [block((-h, -h + 0.035), (-h, h), (0.86, 0.94), "chair")]
    elif shape == 1:  # upholstered tub
        parts = [cushion((-h, h), (-h, h), (0.2, seat), "chair"), *legs(h - 0.04, h - 0.04, 0.22, "leg", 0.02)]
        parts += [cushion((-h, -h + 0.09), (-h, h), (0.3, 0.85), "chair_dark")]
        parts += [cushion((-h, h - 0.1), (s * (h - 0.05), s * h), (0.3, 0.62), "chair_dark", 0.02) for s in (-1, 1)]
    elif shape == 2:  # round seat on a steel column
        disc = [(0.0, seat - 0.05), (h, seat - 0.05), (h, seat), (0.0, seat)]
        foot = [(0.0, 0.0), (0.2, 0.0), (0.2, 0.02), (0.03, 0.05), (0.03, seat - 0.05)]
        parts = [lathe(disc, CELL["chair"], 16), lathe(foot, CELL["steel"], 12)]
        parts += [cushion((-h, -h + 0.06), (-0.17, 0.17), (0.58, 0.86), "chair", 0.02)]
        parts += [block((-h + 0.015, -h + 0.035), (-0.02, 0.02), (seat - 0.03, 0.6), "steel")]
    else:  # cantilever of steel tube
        parts = [cushion((-h, h), (-h, h), (seat - 0.06, seat), "chair", 0.02)]
        parts += [cushion((-h, -h + 0.05), (-h, h), (0.55, 0.9), "chair", 0.02)]
        for s in (-1, 1):
            y = s * (h - 0.02)
            bends = (
                (-h + 0.02, 0.8),
                (-h + 0.02, seat - 0.07),
                (h - 0.03, seat - 0.07),
                (h - 0.03, 0.015),
                (-h, 0.015),
            )
            parts.append(tube([(x, y, z) for x, z in bends], 0.014, CELL["steel"], 5))
    inset = 0.07 if shape == 2 else 0.05
    low = -h + (0.1 if shape == 1 else 0.07)
    surface = Surface((low, h - inset), (-h + inset, h - inset), seat)
    return single("chair", f"chair_{shape}", (h, h), parts, surfaces={RECEPTACLE_INDEX["chair"]: surface}, backed=True)


def furniture() -> dict[str, list[Piece]]:
    """Every variant of the seven pieces a scene must have, by kind."""
    stands = ((0.6, 0.5), (0.62, 0.46), (0.58, 0.56), (0.62, 0.58))
    return {
        "kitchen": [kitchen(i) for i in range(len(KITCHENS))],
        "fridge": [fridge(i, left) for i in range(len(FRIDGE_TOPS)) for left in (True, False)],
        "sofa": [_sofa(i, hy) for i, hy in enumerate((0.78, 0.76, 0.72, 0.7))],
        "tv_stand": [_tv_stand(i, hy, z) for i, (hy, z) in enumerate(stands)],
        "black_table": [_table("black", *row) for row in _TABLES["black"]],
        "brown_table": [_table("brown", *row) for row in _TABLES["brown"]],
        "chair": [_chair(i) for i in range(4)],
    }
