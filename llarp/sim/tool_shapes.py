"""Shapes of tools and cutlery, each a function of its colours (names of the object palette) and proportions (m).

Long things lie along x. Thin parts are thicker than real ones: at 0.8 m a camera pixel is about 12 mm wide.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from . import meshes
from .assets import Mesh
from .object_palette import cell


def _rod(x0: float, x1: float, radius: float, color: str, segments: int = 6) -> Mesh:
    """A closed bar along x."""
    bar = meshes.cylinder(radius, (x1 - x0) / 2, cell(color), segments)
    return meshes.transform(bar, ((x0 + x1) / 2, 0, 0), pitch=np.pi / 2)


def _ring(radius: float, thickness: float, height: float, color: str, segments: int = 10) -> Mesh:
    """A flat ring about z; `thickness` is radial, `height` the whole height."""
    inner, h = radius - thickness, height / 2
    profile = [(inner, -h), (radius, -h), (radius, h), (inner, h), (inner, -h)]
    return meshes.lathe(profile, cell(color), segments)


def hammer(handle: str, head: str, length: float = 0.30, width: float = 0.14, grip: str = "") -> Mesh:
    """A claw hammer on its side: a round face, a split claw."""
    x = length - 0.03
    face = meshes.transform(meshes.cylinder(0.029, 0.03, cell(head), 8), (x, -width / 2 + 0.03, 0), roll=np.pi / 2)
    parts = [_rod(0.0, x, 0.016, handle), face, meshes.box((0.02, width * 0.28, 0.021), cell(head), (x, -0.01, 0))]
    for side in (-1, 1):
        claw = meshes.box((0.014, width * 0.2, 0.009), cell(head))
        parts.append(meshes.transform(claw, (x - 0.012, width * 0.38, side * 0.014), yaw=0.35, roll=side * 0.15))
    if grip:
        parts.append(_rod(-0.005, length * 0.42, 0.02, grip))
    return meshes.merge("", parts)


def screwdriver(handle: str, ring: str, shaft: str = "silver", length: float = 0.31, girth: float = 0.034) -> Mesh:
    """A fat grip with a coloured ring, a round shaft, a flat tip."""
    g = girth
    profile = [(0, 0), (0.75 * g, 0.004), (g, 0.02), (g, 0.055), (0.75 * g, 0.085), (0.95 * g, 0.105), (0.6 * g, 0.13),
               (0, 0.13)]  # fmt: skip
    grip = meshes.lathe(profile, [cell(c) for c in (handle, handle, handle, ring, handle, handle, ring)], 8)
    return meshes.merge("", [
        meshes.transform(grip, pitch=np.pi / 2),
        _rod(0.125, length - 0.025, 0.012, shaft),
        meshes.box((0.016, 0.02, 0.007), cell(shaft), (length - 0.014, 0, 0)),
    ])  # fmt: skip


def padlock(body: str, shackle: str, hole: str = "black", width: float = 0.105, height: float = 0.08) -> Mesh:
    """A standing padlock: a bevelled body with a keyhole, a round shackle."""
    depth = 0.05
    angle = np.linspace(0, np.pi, 7)
    arch = np.column_stack((0.36 * width * np.cos(angle), 0 * angle, height / 2 + 0.025 + 0.36 * width * np.sin(angle)))
    path = np.concatenate(([[0.36 * width, 0, height / 2]], arch, [[-0.36 * width, 0, height / 2]]))
    parts = [
        meshes.rounded_box((width / 2, depth / 2, height / 2), 0.012, cell(body)),
        meshes.tube(path, 0.0115, cell(shackle), 6),
    ]
    for turn in (0.0, np.pi):
        y = -depth / 2 - 0.0015
        round_hole = [(0.015 * np.cos(a), y, 0.008 + 0.015 * np.sin(a)) for a in np.arange(6) * np.pi / 3]
        slot = [(-0.008, y, -0.026), (0.008, y, -0.026), (0.005, y, 0.002), (-0.005, y, 0.002)]
        parts += [meshes.transform(meshes.panel(p, cell(hole)), yaw=turn) for p in (round_hole, slot)]
    return meshes.merge("", parts)


def scissors(
    handle: str, blade: str = "silver", length: float = 0.28, opening: float = 0.32, loop: float = 0.043
) -> Mesh:
    """Two crossed blades with a finger loop each, lying open on the table."""
    parts = []
    reach = length * 0.55
    for side in (-1, 1):
        edge = [(-0.05, -0.011), (0.0, -0.014), (reach, -0.003), (reach, 0.003), (0.0, 0.014), (-0.05, 0.011)]
        half = [meshes.transform(meshes.extrude(edge, 0.0045, cell(blade)), (0, 0, side * 0.005))]
        ring = meshes.transform(_ring(loop, 0.017, 0.02, handle, 9), scale=(1.25, 0.9, 1))
        half.append(meshes.transform(ring, (-0.045 - 1.1 * loop, side * 0.012, side * 0.003)))
        parts.append(meshes.transform(meshes.merge("", half), yaw=-side * opening))
    parts.append(meshes.transform(meshes.cylinder(0.011, 0.013, cell("charcoal"), 6), (0, 0, 0)))
    return meshes.merge("", parts)


def clamp(frame: str, screw: str = "silver", width: float = 0.17, depth: float = 0.15, bar: float = 0.034) -> Mesh:
    """A C-shaped clamp on its side, a screw with a cross handle through one arm."""
    w, d = width / 2, depth
    shape = [(-w, 0), (w, 0), (w, d), (w - bar, d), (w - bar, bar), (-w + bar, bar), (-w + bar, d), (-w, d)]
    y = d - 0.022
    parts = [
        meshes.extrude(shape, 0.018, cell(frame)),
        meshes.transform(_rod(-w - 0.06, w - bar - 0.045, 0.0125, screw), (0, y, 0)),
        meshes.transform(_rod(w - bar - 0.05, w - bar - 0.032, 0.024, screw, 8), (0, y, 0)),
        meshes.transform(meshes.cylinder(0.009, 0.045, cell("black"), 6), (-w - 0.052, y, 0), roll=np.pi / 2),
    ]
    return meshes.merge("", parts)


def drill(body: str, trim: str, battery: str = "charcoal", length: float = 0.17, height: float = 0.20) -> Mesh:
    """A cordless drill standing on its battery: motor, chuck, bit, slanted grip."""
    top = height / 2
    grip = [(-0.045, -top + 0.03), (0.01, -top + 0.03), (0.03, top - 0.03), (-0.03, top - 0.03)]
    motor = meshes.lathe([(0, 0), (0.03, 0), (0.04, 0.02), (0.04, 0.72 * length), (0.032, length), (0, length)],
                         [cell(c) for c in (trim, trim, body, body, trim)], 8)  # fmt: skip
    chuck = meshes.lathe([(0, 0), (0.028, 0), (0.028, 0.02), (0.014, 0.05), (0, 0.05)], cell("charcoal"), 8)
    z = top - 0.035
    return meshes.merge("", [
        meshes.transform(motor, (-0.08, 0, z), pitch=np.pi / 2),
        meshes.transform(chuck, (-0.08 + length, 0, z), pitch=np.pi / 2),
        meshes.transform(_rod(-0.08 + length + 0.045, length + 0.02, 0.0075, "silver", 4), (0, 0, z)),
        meshes.transform(meshes.extrude(grip, 0.02, cell(body)), roll=np.pi / 2),
        meshes.box((0.012, 0.012, 0.016), cell("red" if body != "red" else "yellow"), (0.034, 0, z - 0.05)),
        meshes.box((0.055, 0.036, 0.022), cell(battery), (-0.008, 0, -top + 0.022)),
    ])  # fmt: skip


def spatula(handle: str, blade: str, length: float = 0.31, width: float = 0.10, slots: int = 3) -> Mesh:
    """A kitchen turner: a long handle, a neck, a broad slotted blade."""
    start = length - 0.12
    shape = [(start, -0.02), (start + 0.03, -width / 2), (length, -width * 0.46), (length, width * 0.46),
             (start + 0.03, width / 2), (start, 0.02)]  # fmt: skip
    parts = [
        meshes.transform(_rod(0, start * 0.72, 0.0155, handle), (0, 0, 0.022)),
        meshes.tube([(start * 0.7, 0, 0.022), (start + 0.01, 0, 0.004)], 0.009, cell("silver"), 5),
        meshes.extrude(shape, 0.006, cell(blade)),
    ]
    for i in range(slots):
        y = (i - (slots - 1) / 2) * width / (slots + 0.4)
        x0, x1, y0, y1, z = start + 0.035, length - 0.018, y - 0.007, y + 0.007, 0.0075
        hole = [(x0, y0, z), (x1, y0, z), (x1, y1, z), (x0, y1, z)]
        parts.append(meshes.panel(hole, cell("black" if blade != "black" else "grey")))
    return meshes.merge("", parts)


def knife(
    handle: str, blade: str = "silver", length: float = 0.32, width: float = 0.056, bolster: str = "grey"
) -> Mesh:
    """A kitchen knife: a riveted handle, a broad blade that tapers to a point."""
    grip = 0.125
    shape = [(grip, -0.018), (grip + 0.015, -width + 0.02), (length - 0.07, -width + 0.022), (length - 0.02, -0.002),
             (length, 0.018), (grip, 0.02)]  # fmt: skip
    parts = [
        meshes.rounded_box((grip / 2, 0.019, 0.015), 0.006, cell(handle)),
        meshes.box((0.01, 0.022, 0.016), cell(bolster), (grip / 2, 0, 0)),
    ]
    parts = [meshes.transform(p, (grip / 2, 0, 0)) for p in parts]
    for x in (0.03, 0.062, 0.094):
        parts.append(meshes.panel([(x + 0.007 * a, 0.007 * b, 0.0165) for a, b in ((1, 0), (0, 1), (-1, 0), (0, -1))],
                                  cell("silver")))  # fmt: skip
    parts.append(meshes.extrude(shape, 0.005, cell(blade)))
    return meshes.merge("", parts)


def spoon(color: str, hollow: str, length: float = 0.29, width: float = 0.095, handle: str = "") -> Mesh:
    """A large spoon: an oval bowl with a darker hollow, a long handle that widens to its end."""
    bowl_length = width * 1.35
    rim = [(0, -0.022), (0.5, -0.016), (0.85, -0.004), (1, 0.008), (0.86, 0.008), (0.5, -0.003), (0, -0.008)]
    colors = [cell(c) for c in (color, color, color, color, hollow, hollow)]
    scoop = meshes.transform(meshes.lathe(rim, colors, 12), scale=(bowl_length / 2, width / 2, 1))
    start = length - bowl_length
    bar = meshes.tube([(0, 0, 0.004), (0.03, 0, 0.008), (start * 0.6, 0, 0.012), (start + 0.012, 0, 0.004)],
                      [0.016, 0.016, 0.0115, 0.011], cell(handle or color), 5)  # fmt: skip
    return meshes.merge("", [meshes.transform(scoop, (length - bowl_length / 2, 0, 0)), bar])


def wrench(
    color: str, length: float = 0.30, head: float = 0.10, ring_end: bool = False, inset: str = "charcoal"
) -> Mesh:
    """An open-end spanner lying flat: a jaw at one end, a jaw or a ring at the other."""
    half, r = length / 2 - head / 2, head / 2

    def jaw() -> NDArray[np.float64]:
        around = [(r * np.cos(a), r * np.sin(a)) for a in (2.6, 3.68, 4.5, 5.2, 5.72)]
        notch = [(0.95 * r, -0.34 * r), (-0.15 * r, -0.34 * r), (-0.15 * r, 0.34 * r), (0.95 * r, 0.34 * r)]
        return np.array([*around, *notch, *((x, -y) for x, y in around[:1:-1])])

    parts = [
        meshes.box((half - 0.5 * r, 0.018, 0.011), cell(color)),
        meshes.transform(meshes.extrude(jaw(), 0.0135, cell(color)), (half, 0, 0)),
    ]
    groove = [(-half * 0.6, -0.008), (half * 0.6, -0.008), (half * 0.6, 0.008), (-half * 0.6, 0.008)]
    parts.append(meshes.panel([(x, y, 0.0125) for x, y in groove], cell(inset)))
    other = _ring(r, 0.42 * r, 0.027, color, 10) if ring_end else meshes.extrude(jaw(), 0.0135, cell(color))
    parts.append(meshes.transform(other, (-half, 0, 0), yaw=np.pi))
    return meshes.merge("", parts)
