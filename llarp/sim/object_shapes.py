"""Shapes of food, dishes and toys, each a function of its colours (names of the object palette) and proportions (m).

Sizes are those of real things or somewhat larger: at 0.8 m a camera pixel is about 12 mm wide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import meshes
from .assets import Mesh
from .object_palette import cell


def _every(number: int, color: str, start: int = 0) -> Callable[[NDArray[np.float32]], ArrayLike]:
    """A painter of every n-th face: specks."""
    return lambda centre: np.where(np.arange(len(centre)) % number == start, cell(color), -1)


def _side(color: str, axis: int, above: float, below: float = np.inf) -> Callable[[NDArray[np.float32]], ArrayLike]:
    """A painter of the faces whose centre lies between two values on an axis (m)."""
    return lambda centre: np.where((centre[:, axis] > above) & (centre[:, axis] < below), cell(color), -1)


def _revolve(profile: Sequence[tuple[float, float]], width: float, height: float, color: str, segments: int) -> Mesh:
    """A lathed body whose profile is given in units of its width and height."""
    return meshes.lathe([(r * width, z * height) for r, z in profile], cell(color), segments)


def _leaf(position: tuple[float, float, float], length: float, yaw: float, color: str = "leaf") -> Mesh:
    leaf = meshes.box((length / 2, length / 4, 0.004), cell(color), (length / 2, 0, 0))
    return meshes.transform(leaf, position, yaw=yaw, pitch=-0.3)


# ---- fruit


def apple(skin: str, cheek: str, width: float = 0.125, height: float = 0.115, leaf: bool = True) -> Mesh:
    """A dimpled sphere with a stem, one cheek in a second colour."""
    profile = [(0, -0.40), (0.26, -0.5), (0.44, -0.24), (0.5, 0.1), (0.43, 0.36), (0.24, 0.5), (0, 0.30)]
    body = meshes.paint(_revolve(profile, width, height, skin, 10), _side(cheek, 0, width * 0.22))
    path = [(0, 0, height * 0.3), (0.004, 0, height * 0.5), (0.014, 0, height * 0.72)]
    stem = meshes.tube(path, 0.007, cell("coffee"), 4)
    parts = [body, stem]
    if leaf:
        parts.append(_leaf((0, 0, height * 0.55), 0.055, 2.2))
    return meshes.merge("", parts)


def pear(skin: str, cheek: str, width: float = 0.115, height: float = 0.175) -> Mesh:
    """A wide bottom, a narrow neck, a stem."""
    profile = [(0, -0.48), (0.28, -0.5), (0.48, -0.32), (0.5, -0.14), (0.36, 0.12), (0.22, 0.34), (0.14, 0.47),
               (0, 0.5)]  # fmt: skip
    body = meshes.paint(_revolve(profile, width, height, skin, 10), _side(cheek, 0, width * 0.2))
    stem = meshes.tube([(0, 0, height * 0.48), (0.012, 0, height * 0.66)], 0.007, cell("dark brown"), 4)
    return meshes.merge("", [body, stem])


def stone_fruit(skin: str, cheek: str, crease: str, width: float, height: float, leaf: bool) -> Mesh:
    """A plum or a peach: a sphere with a crease from top to bottom and a cheek of another colour."""
    profile = [(0, -0.5), (0.3, -0.43), (0.48, -0.15), (0.48, 0.16), (0.32, 0.43), (0.12, 0.47), (0, 0.40)]
    body = meshes.paint(_revolve(profile, width, height, skin, 12), _side(cheek, 1, width * 0.12))
    body = meshes.paint(body, lambda c: np.where((c[:, 0] > 0) & (np.abs(c[:, 1] + 0.01) < 0.016), cell(crease), -1))
    parts = [body]
    if leaf:
        parts += [_leaf((0, 0, height * 0.44), 0.06, 0.6), _leaf((0, 0, height * 0.44), 0.05, 3.6)]
    return meshes.merge("", parts)


def citrus_lemon(skin: str, tip: str, length: float = 0.16, width: float = 0.112) -> Mesh:
    """A lemon on its side: pointed at both ends."""
    profile = [(0, -0.5), (0.13, -0.45), (0.2, -0.36), (0.42, -0.2), (0.5, 0), (0.42, 0.2), (0.2, 0.36), (0.13, 0.45),
               (0, 0.5)]  # fmt: skip
    body = meshes.paint(_revolve(profile, width, length, skin, 8), _side(tip, 2, length * 0.4))
    return meshes.transform(body, pitch=np.pi / 2)


def orange(skin: str, speck: str, width: float = 0.13, leaf: bool = False) -> Mesh:
    """A sphere with a pored skin and a green navel."""
    body = meshes.paint(meshes.ellipsoid((width / 2, width / 2, width * 0.47), cell(skin), 12, 7), _every(7, speck))
    navel = meshes.transform(meshes.cylinder(0.014, 0.006, cell("leaf"), 6), (0, 0, width * 0.47))
    return meshes.merge("", [body, navel, *([_leaf((0, 0, width * 0.48), 0.06, 1.0)] if leaf else [])])


def banana(skin: str, tip: str, radius: float = 0.13, thickness: float = 0.033, arc: float = 2.0) -> Mesh:
    """A bent, tapering tube with dark ends, lying on its side."""
    angle = np.linspace(-arc / 2, arc / 2, 9)
    path = np.column_stack((radius * np.cos(angle), radius * np.sin(angle), 0 * angle))
    taper = thickness * np.array([0.35, 0.45, 0.8, 1, 1, 1, 0.85, 0.5, 0.35])
    body = meshes.tube(path, taper.tolist(), cell(skin), 6)
    end = radius * np.sin(arc / 2 * 0.86)
    return meshes.paint(body, lambda c: np.where(np.abs(c[:, 1]) > end, cell(tip), -1))


def strawberry(skin: str, seed: str, length: float = 0.13, width: float = 0.115, leaves: int = 5) -> Mesh:
    """A seeded cone with a green cap, lying on its side."""
    profile = [(0, -0.5), (0.22, -0.38), (0.38, -0.1), (0.5, 0.26), (0.36, 0.46), (0, 0.5)]
    body = meshes.paint(_revolve(profile, width, length, skin, 10), _every(7, seed, 2))
    cap = [_leaf((0, 0, length * 0.5), width * 0.62, 2 * np.pi * i / leaves, "green") for i in range(leaves)]
    stem = meshes.tube([(0, 0, length * 0.48), (0.01, 0, length * 0.7)], 0.008, cell("leaf"), 4)
    return meshes.transform(meshes.merge("", [body, *cap, stem]), pitch=np.pi / 2 - 0.15)


# ---- dishes and groceries


def plate(rim: str, middle: str, band: str, radius: float = 0.135, height: float = 0.032) -> Mesh:
    """A shallow dish with a coloured rim."""
    profile = [(0, 0), (0.6 * radius, 0), (radius, height), (0.92 * radius, height + 0.001),
               (0.72 * radius, height * 0.45), (0.62 * radius, height * 0.25), (0, height * 0.25)]  # fmt: skip
    return meshes.lathe(profile, [cell(c) for c in (rim, rim, rim, rim, band, middle)], 18)


def bowl(outside: str, inside: str, stripe: str, radius: float = 0.115, height: float = 0.09) -> Mesh:
    """A deep round dish on a foot."""
    shape = [(0, 0), (0.45, 0), (0.8, 0.35), (0.95, 0.7), (1, 1), (0.92, 1), (0.74, 0.4), (0.4, 0.12), (0, 0.1)]
    profile = [(r * radius, z * height) for r, z in shape]
    colors = (outside, outside, outside, stripe, stripe, inside, inside, inside)
    return meshes.lathe(profile, [cell(c) for c in colors], 14)


def cup(outside: str, inside: str, stripe: str, top: float = 0.06, bottom: float = 0.042, height: float = 0.15) -> Mesh:
    """A tumbler: widening upward, no handle, a stripe around it."""
    at = [bottom + (top - bottom) * share for share in (0.45, 0.7)]
    profile = [(0, 0), (bottom, 0), (at[0], 0.45 * height), (at[1], 0.7 * height), (top, height), (0.88 * top, height),
               (0.85 * bottom, 0.1 * height), (0, 0.1 * height)]  # fmt: skip
    return meshes.lathe(profile, [cell(c) for c in (outside, outside, stripe, outside, outside, inside, inside)], 12)


def mug(outside: str, inside: str, radius: float = 0.058, height: float = 0.11, handle: str = "") -> Mesh:
    """A straight pot full of coffee with a large ear."""
    profile = [(0, 0), (radius, 0), (radius, height), (0.86 * radius, height), (0.86 * radius, 0.8 * height),
               (0, 0.8 * height)]  # fmt: skip
    body = meshes.lathe(profile, [cell(c) for c in (outside, outside, outside, inside, "coffee")], 12)
    angle = np.linspace(-1.75, 1.75, 8)
    path = np.column_stack((radius + 0.036 * np.cos(angle) + 0.006, 0 * angle, height / 2 + 0.04 * np.sin(angle)))
    return meshes.merge("", [body, meshes.tube(path, 0.0105, cell(handle or outside), 5)])


def lid(dome: str, rim: str, knob: str, radius: float = 0.125, height: float = 0.05) -> Mesh:
    """The cover of a pot: a dome with a rim and a knob."""
    profile = [(0, 0), (radius, 0), (radius, 0.014), (0.88 * radius, 0.018), (0.6 * radius, 0.75 * height),
               (0.25 * radius, height), (0, height)]  # fmt: skip
    body = meshes.lathe(profile, [cell(c) for c in (rim, rim, rim, dome, dome, dome)], 16)
    knob_profile = [(0.012, -0.004), (0.012, 0.016), (0.032, 0.02), (0.032, 0.04), (0, 0.046)]
    stem = meshes.transform(meshes.lathe(knob_profile, cell(knob), 8), (0, 0, height))
    return meshes.merge("", [body, stem])


def can(label: str, band: str, radius: float = 0.052, height: float = 0.14, top: str = "silver") -> Mesh:
    """A tin: a label in two colours between bright rims, a sunk top."""
    profile = [(0, 0), (radius, 0), (radius, 0.08 * height), (radius, 0.38 * height), (radius, 0.68 * height),
               (radius, 0.91 * height), (radius, height), (0.9 * radius, height), (0.88 * radius, height - 0.008),
               (0, height - 0.008)]  # fmt: skip
    return meshes.lathe(profile, [cell(c) for c in (top, top, label, band, label, top, top, "grey", top)], 12)


def box(front: str, side: str, badge: str, size: Sequence[float] = (0.18, 0.075, 0.25)) -> Mesh:
    """A cereal carton: an upright box with a round badge and a title bar on its large sides."""
    x, y, z = np.asarray(size) / 2
    parts = [meshes.box((x, y, z), [cell(c) for c in (side, side, front, front, side, side)])]
    for turn in (0.0, np.pi):
        disc = [(0.62 * x * np.cos(a), -y - 0.002, -0.25 * z + 0.62 * x * np.sin(a)) for a in np.arange(8) * np.pi / 4]
        title = [(-0.8 * x, -y - 0.002, 0.5 * z), (0.8 * x, -y - 0.002, 0.5 * z), (0.8 * x, -y - 0.002, 0.85 * z),
                 (-0.8 * x, -y - 0.002, 0.85 * z)]  # fmt: skip
        parts += [meshes.transform(meshes.panel(p, cell(c)), yaw=turn) for p, c in ((disc, badge), (title, "white"))]
    return meshes.merge("", parts)


def cleanser(
    bottle: str, label: str, cap: str, width: float = 0.115, height: float = 0.25, trigger: bool = True
) -> Mesh:
    """A bottle of cleaning fluid with a spray head, or with a screw cap and a handle."""
    tall = 0.72 * height
    profile = [(0, 0), (0.5, 0), (0.5, 0.2 * tall), (0.5, 0.62 * tall), (0.46, 0.78 * tall), (0.2, tall), (0, tall)]
    colors = [cell(c) for c in (bottle, bottle, label, bottle, bottle, bottle)]
    body = meshes.transform(meshes.lathe(profile, colors, 12), scale=(width, width * 0.7, 1))
    parts = [body]
    if trigger:
        parts += [
            meshes.transform(meshes.cylinder(0.02, 0.02, cell(cap), 8), (0, 0, tall + 0.012)),
            meshes.box((0.055, 0.019, 0.02), cell(cap), (0.022, 0, height - 0.02)),
            meshes.box((0.012, 0.012, 0.01), cell("white"), (0.086, 0, height - 0.018)),
            meshes.transform(meshes.box((0.008, 0.012, 0.032), cell("charcoal")), (0.055, 0, height - 0.06), pitch=0.5),
        ]
    else:
        screw_cap = meshes.cylinder(0.026, (height - tall) / 2, cell(cap), 8)
        parts.append(meshes.transform(screw_cap, (0, 0, (height + tall) / 2)))
        angle = np.linspace(-1.6, 1.6, 6)
        path = np.column_stack((0.4 * width + 0.036 * np.cos(angle), 0 * angle, 0.72 * tall + 0.05 * np.sin(angle)))
        parts.append(meshes.tube(path, 0.011, cell(bottle), 5))
    return meshes.merge("", parts)


def sponge(top: str, bottom: str, pore: str, size: Sequence[float] = (0.155, 0.10, 0.06)) -> Mesh:
    """A pored block on a scouring layer."""
    x, y, z = np.asarray(size) / 2
    parts = [
        meshes.box((x, y, z * 0.35), cell(bottom)),
        meshes.transform(meshes.rounded_box((x, y, z * 0.65), 0.009, cell(top)), (0, 0, z)),
    ]
    height = 1.65 * z + 0.001
    for i in range(8):
        u, v = (i % 4 - 1.5) * 0.45 * x, (i // 4 - 0.5) * 0.8 * y + (i % 2) * 0.012
        square = [(u + 0.009 * np.cos(a), v + 0.008 * np.sin(a), height) for a in np.arange(4) * np.pi / 2]
        parts.append(meshes.panel(square, cell(pore)))
    return meshes.merge("", parts)


# ---- toys and books


def ball(colors: Sequence[str], pattern: str, radius: float = 0.085) -> Mesh:
    """A ball with coloured `panels` (longitudes), soccer `patches`, or a `band` around a cap of another colour."""
    body = meshes.ellipsoid((radius, radius, radius), cell(colors[0]), 12, 8)
    cells = np.array([cell(c) for c in colors])
    golden = (1 + 5**0.5) / 2
    spots = np.array([np.roll((0, a, b * golden), k) for k in range(3) for a in (-1, 1) for b in (-1, 1)])
    spots = spots / np.linalg.norm(spots, axis=1, keepdims=True) @ meshes.rotation(0.3, 0.4, 0.2).T

    def choose(centre: NDArray[np.float32]) -> NDArray[np.int64]:
        unit = centre / np.linalg.norm(centre, axis=1, keepdims=True)
        if pattern == "panels":
            return cells[(np.arctan2(unit[:, 1], unit[:, 0]) // (np.pi / 3)).astype(int) % len(cells)]
        if pattern == "patches":
            return np.where((unit @ spots.T).max(1) > 0.93, cells[1], cells[0])
        return np.where(np.abs(unit[:, 2]) < 0.28, cells[1], np.where(unit[:, 2] > 0, cells[0], cells[-1]))

    return meshes.transform(meshes.paint(body, choose), pitch=0.5)


def lego(color: str, columns: int = 3, rows: int = 2, stud: float = 0.05, height: float = 0.06) -> Mesh:
    """A brick with studs on top."""
    parts = [meshes.box((columns * stud / 2, rows * stud / 2, height / 2), cell(color))]
    profile = [(0.36 * stud, 0.0), (0.36 * stud, 0.024), (0.0, 0.024)]
    for i in range(columns * rows):
        at = ((i % columns - (columns - 1) / 2) * stud, (i // columns - (rows - 1) / 2) * stud, height / 2)
        parts.append(meshes.transform(meshes.lathe(profile, cell(color), 6), at))
    return meshes.merge("", parts)


def rubiks_cube(frame: str, order: int, size: float = 0.125, gap: float = 0.1) -> Mesh:
    """A cube with 3 x 3 stickers in six colours on each visible side, shuffled by `order`."""
    colors = [cell(c) for c in ("red", "blue", "green", "yellow", "white", "orange")]
    stickers = np.random.default_rng(order).permutation(np.repeat(colors, 9))
    parts, half = [meshes.box((size / 2,) * 3, cell(frame))], size / 2
    sides = [meshes.rotation(k * np.pi / 2) for k in range(4)] + [meshes.rotation(0, -np.pi / 2)]
    for side, turn in enumerate(sides):
        for i in range(9):
            u, v = np.meshgrid(*[(np.array((gap, 1 - gap)) + k) / 3 * size - half for k in divmod(i, 3)])
            corners = np.column_stack((np.full(4, half + 0.0015), u.ravel()[[0, 1, 3, 2]], v.ravel()[[0, 1, 3, 2]]))
            parts.append(meshes.panel(corners @ turn.T, int(stickers[9 * side + i])))
    return meshes.merge("", parts)


def block(wood: str, ink: str, size: float = 0.115, sign: str = "cross") -> Mesh:
    """A wooden alphabet block: on each side a coloured frame and a letter-like sign."""
    half = size / 2
    parts = [meshes.box((half,) * 3, cell(wood))]
    outline = {
        "cross": [(-0.6, -0.2, 0.6, 0.2), (-0.2, -0.6, 0.2, 0.6)],
        "L": [(-0.55, -0.6, -0.15, 0.6), (-0.15, -0.6, 0.55, -0.2)],
        "H": [(-0.6, -0.6, -0.25, 0.6), (0.25, -0.6, 0.6, 0.6), (-0.25, -0.2, 0.25, 0.2)],
        "T": [(-0.6, 0.2, 0.6, 0.6), (-0.2, -0.6, 0.2, 0.2)],
    }[sign]
    for turn in [meshes.rotation(k * np.pi / 2) for k in range(4)] + [meshes.rotation(0, -np.pi / 2)]:
        for u0, v0, u1, v1 in outline:
            corners = half * np.array([(1.02, u0, v0), (1.02, u1, v0), (1.02, u1, v1), (1.02, u0, v1)])
            parts.append(meshes.panel(corners @ turn.T, cell(ink)))
    return meshes.merge("", parts)


def book(cover: str, title: str, stripe: str, size: Sequence[float] = (0.25, 0.175, 0.05)) -> Mesh:
    """A closed book lying flat: covers, a spine, white pages, a title and a stripe on the cover."""
    x, y, z = np.asarray(size) / 2
    board = 0.009
    parts = [
        meshes.box((x, y, board / 2), cell(cover), (0, 0, -z + board / 2)),
        meshes.box((x, y, board / 2), cell(cover), (0, 0, z - board / 2)),
        meshes.box((board / 2, y, z), cell(cover), (-x, 0, 0)),
        meshes.box((x - 0.006, y - 0.008, z - board), cell("white"), (-0.003, 0, 0)),
    ]
    for (x0, y0, x1, y1), color in (((-0.5, -0.65, 0.1, 0.65), title), ((0.45, -0.99, 0.7, 0.99), stripe)):
        corners = [(a * x, b * y, z + 0.001) for a, b in ((x0, y0), (x1, y0), (x1, y1), (x0, y1))]
        parts.append(meshes.panel(corners, cell(color)))
    return meshes.merge("", parts)


def toy_airplane(
    body: str, wing: str, nose: str, length: float = 0.28, span: float = 0.29, chord: float = 0.075
) -> Mesh:
    """A propeller plane: fuselage, wings, tail, cockpit, on wheels."""
    hull = meshes.transform(meshes.ellipsoid((0.034, 0.034, length / 2), cell(body), 8, 6), pitch=np.pi / 2)
    hull = meshes.paint(hull, _side(nose, 0, length * 0.3))
    back = -length / 2
    return meshes.merge("", [
        hull,
        meshes.box((chord / 2, span / 2, 0.008), cell(wing), (0.03, 0, -0.008)),
        meshes.box((0.025, span * 0.2, 0.007), cell(wing), (back + 0.03, 0, 0.012)),
        meshes.transform(meshes.box((0.025, 0.007, 0.034), cell(wing)), (back + 0.025, 0, 0.045), pitch=-0.3),
        meshes.transform(meshes.ellipsoid((0.035, 0.02, 0.024), cell("sky"), 6, 4), (0.035, 0, 0.03)),
        meshes.box((0.005, 0.045, 0.008), cell("charcoal"), (length / 2 + 0.004, 0, 0)),
        *(meshes.box((0.016, 0.008, 0.018), cell("black"), (0.05, side * 0.045, -0.045)) for side in (-1, 1)),
    ])  # fmt: skip
