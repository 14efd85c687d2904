"""Builders of coloured triangle meshes: boxes, solids of revolution, tubes, extrusions, and what joins them.

All sizes in metres, z up. Faces run counter-clockwise seen from outside. Vertices are shared where a surface is to be
shaded smooth and doubled where it has an edge or changes colour. `cell` is always an index into a 16 x 16 palette.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llarp.errors import UserError

from .assets import PALETTE_CELLS, Mesh, palette_uv

_EDGE_COSINE = 0.75  # two bands of a lathe or sides of an extrusion that meet at a sharper angle get an edge


def _mesh(vertices: ArrayLike, faces: ArrayLike, cell: int, name: str = "") -> Mesh:
    points = np.asarray(vertices, np.float32).reshape(-1, 3)
    uv = np.tile(np.asarray(palette_uv(cell), np.float32), (len(points), 1))
    return Mesh(name, points, np.asarray(faces, np.int32).reshape(-1, 3), uv)


def face_cells(mesh: Mesh) -> NDArray[np.int64]:
    """The palette cell of every face, (F,)."""
    column, row = np.floor(mesh.uv[mesh.faces[:, 0]] * PALETTE_CELLS).astype(np.int64).T
    return row * PALETTE_CELLS + column


def paint(mesh: Mesh, choose: Callable[[NDArray[np.float32]], ArrayLike]) -> Mesh:
    """The mesh with new face colours: `choose` maps face centres (F, 3) to palette cells (F,), -1 keeping the old."""
    chosen = np.asarray(choose(mesh.vertices[mesh.faces].mean(1)), np.int64)
    cells = np.where(chosen < 0, face_cells(mesh), chosen)
    corners = np.stack((mesh.faces.ravel(), np.repeat(cells, 3)), 1)  # a vertex for each (old vertex, colour)
    used, faces = np.unique(corners, axis=0, return_inverse=True)
    uv = np.asarray([palette_uv(int(c)) for c in used[:, 1]], np.float32)
    return Mesh(mesh.name, mesh.vertices[used[:, 0]], faces.reshape(-1, 3).astype(np.int32), uv)


def merge(name: str, parts: Sequence[Mesh]) -> Mesh:
    """One mesh of several."""
    offsets = np.cumsum([0] + [len(p.vertices) for p in parts])
    faces = [p.faces + np.int32(o) for p, o in zip(parts, offsets, strict=False)]
    return Mesh(
        name,
        np.concatenate([p.vertices for p in parts]).astype(np.float32),
        np.concatenate(faces).astype(np.int32),
        np.concatenate([p.uv for p in parts]).astype(np.float32),
    )


def rotation(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> NDArray[np.float64]:
    """Rotation matrix (3, 3) of angles in radians: first roll about x, then pitch about y, then yaw about z."""
    (cz, cy, cx), (sz, sy, sx) = np.cos((yaw, pitch, roll)), np.sin((yaw, pitch, roll))
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    return about_z @ about_y @ about_x


def transform(
    mesh: Mesh,
    position: ArrayLike = (0.0, 0.0, 0.0),
    yaw: float = 0.0,
    scale: float | Sequence[float] = 1.0,
    pitch: float = 0.0,
    roll: float = 0.0,
) -> Mesh:
    """The mesh scaled (per axis), then turned (see `rotation`), then moved. Scales must be positive."""
    factors = np.broadcast_to(np.asarray(scale, float), (3,))
    if not (factors > 0).all():
        raise UserError(f"mesh scale {scale} must be positive (a mirrored mesh would be inside out)")
    points = (mesh.vertices * factors) @ rotation(yaw, pitch, roll).T + np.asarray(position, float)
    return Mesh(mesh.name, points.astype(np.float32), mesh.faces, mesh.uv)


def centered(mesh: Mesh) -> Mesh:
    """The mesh moved so that its origin is the centre of its bounding box."""
    middle = (mesh.vertices.max(0) + mesh.vertices.min(0)) / 2
    return Mesh(mesh.name, (mesh.vertices - middle).astype(np.float32), mesh.faces, mesh.uv)


def panel(corners: ArrayLike, cell: int) -> Mesh:
    """A flat convex polygon (P, 3), seen from the side on which its corners run counter-clockwise."""
    points = np.asarray(corners, float)
    return _mesh(points, [(0, i, i + 1) for i in range(1, len(points) - 1)], cell)


_BOX_SIDES = tuple((axis, sign) for axis in range(3) for sign in (-1, 1))  # -x +x -y +y -z +z


def box(half: ArrayLike, cell: int | Sequence[int], center: ArrayLike = (0.0, 0.0, 0.0)) -> Mesh:
    """A box of half sizes (3,): 12 triangles. `cell` may be six cells, for the sides -x, +x, -y, +y, -z, +z."""
    cells = [cell] * 6 if isinstance(cell, int | np.integer) else list(cell)
    sizes, parts = np.asarray(half, float), []
    for (axis, sign), side_cell in zip(_BOX_SIDES, cells, strict=True):
        u, v = np.zeros(3), np.zeros(3)
        u[(axis + 1) % 3], v[(axis + 2) % 3] = sizes[(axis + 1) % 3], sizes[(axis + 2) % 3] * sign
        middle = np.zeros(3)
        middle[axis] = sign * sizes[axis]
        parts.append(panel(np.asarray(center) + middle + [-u - v, u - v, u + v, -u + v], side_cell))
    return merge("", parts)


def lathe(profile: Sequence[tuple[float, float]], cell: int | Sequence[int], segments: int = 12) -> Mesh:
    """Solid of revolution about z of a profile [(r, z), ...].

    The profile runs from the bottom up along the outside (for a bowl: on over the rim and down the inside); points on
    the axis (r = 0) close it. `cell` may be one cell for each of the len(profile) - 1 bands.
    """
    cells = [cell] * (len(profile) - 1) if isinstance(cell, int | np.integer) else list(cell)
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    circle = np.stack((np.cos(turn), np.sin(turn)), 1)
    points, faces, uv = [], [], []
    count, upper, previous = 0, np.zeros(0, np.int64), np.zeros(2)

    def ring(r: float, z: float, ring_cell: int) -> NDArray[np.int64]:
        nonlocal count
        number = segments if r > 0 else 1  # a point on the axis is one vertex
        points.append(np.column_stack((circle[:number] * r, np.full(number, z))))
        uv.append(np.tile(palette_uv(ring_cell), (number, 1)))
        count += number
        return np.broadcast_to(np.arange(count - number, count), (segments,))

    for i, band_cell in enumerate(cells):
        (r0, z0), (r1, z1) = profile[i], profile[i + 1]
        direction = np.array((r1 - r0, z1 - z0)) / max(float(np.hypot(r1 - r0, z1 - z0)), 1e-12)
        smooth = i > 0 and cells[i - 1] == band_cell and float(direction @ previous) > _EDGE_COSINE
        lower = upper if smooth else ring(r0, z0, band_cell)
        upper, previous = ring(r1, z1, band_cell), direction
        following, above = np.roll(lower, -1), np.roll(upper, -1)
        if r0 > 0:
            faces.append(np.stack((lower, following, upper if r1 == 0 else above), 1))
        if r1 > 0:
            faces.append(np.stack((lower, above, upper), 1))
    return Mesh("", np.concatenate(points).astype(np.float32), np.concatenate(faces).astype(np.int32),
                np.concatenate(uv).astype(np.float32))  # fmt: skip


def cylinder(radius: float, half_height: float, cell: int, segments: int = 12, cap_cell: int | None = None) -> Mesh:
    """A closed cylinder about z, its centre at the origin; `cap_cell` colours both ends."""
    cap = cell if cap_cell is None else cap_cell
    profile = [(0.0, -half_height), (radius, -half_height), (radius, half_height), (0.0, half_height)]
    return lathe(profile, [cap, cell, cap], segments)


def ellipsoid(radii: ArrayLike, cell: int, segments: int = 12, rings: int = 8) -> Mesh:
    """An ellipsoid about the origin, radii (3,)."""
    angle = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    r, z = np.cos(angle), np.sin(angle)
    r[[0, -1]] = 0.0
    rx, ry, rz = np.broadcast_to(np.asarray(radii, float), (3,))
    return transform(lathe(list(zip(r.tolist(), z.tolist(), strict=True)), cell, segments), scale=(rx, ry, rz))


def tube(path: ArrayLike, radius: float | Sequence[float], cell: int, segments: int = 6, closed: bool = False) -> Mesh:
    """A round bar along a path (P, 3), one radius or one for each point; `closed` joins its ends to a ring."""
    points = np.asarray(path, float)
    number = len(points)
    radii = np.broadcast_to(np.asarray(radius, float), (number,))
    tangents = (np.roll(points, -1, 0) - np.roll(points, 1, 0)) if closed else np.gradient(points, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    normal = np.cross(tangents[0], np.eye(3)[np.argmin(np.abs(tangents[0]))])
    turn = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    rings = []
    for point, tangent, r in zip(points, tangents, radii, strict=True):
        normal = normal - tangent * (normal @ tangent)  # carried along, so that the bar does not twist
        normal /= np.linalg.norm(normal)
        rings.append(point + r * (np.outer(np.cos(turn), normal) + np.outer(np.sin(turn), np.cross(tangent, normal))))
    at = np.arange(number * segments).reshape(number, segments)
    lower, upper = (at, np.roll(at, -1, 0)) if closed else (at[:-1], at[1:])
    after, above = np.roll(lower, -1, 1), np.roll(upper, -1, 1)
    faces = np.concatenate((np.stack((lower, after, above), -1), np.stack((lower, above, upper), -1))).reshape(-1, 3)
    parts = [_mesh(np.concatenate(rings), faces, cell)]
    if not closed:
        parts += [panel(rings[0][::-1], cell), panel(rings[-1], cell)]
    return merge("", parts)


def triangulate(polygon: ArrayLike) -> NDArray[np.int32]:
    """Triangles (P - 2, 3) of a simple counter-clockwise polygon (P, 2), convex or not, by cutting ears."""
    points = np.asarray(polygon, float)

    def area(a: int, b: int, c: int) -> float:
        (ux, uy), (vx, vy) = points[b] - points[a], points[c] - points[a]
        return float(ux * vy - uy * vx)

    left, triangles = list(range(len(points))), []
    while len(left) > 3:
        for i in range(len(left)):
            a, b, c = left[i - 1], left[i], left[(i + 1) % len(left)]
            others = [p for p in left if p not in (a, b, c)]
            inside = any(min(area(a, b, p), area(b, c, p), area(c, a, p)) >= -1e-12 for p in others)
            if area(a, b, c) > 1e-12 and not inside:
                triangles.append((a, b, c))
                left.pop(i)
                break
        else:
            raise UserError("a polygon to extrude crosses itself or runs clockwise; give its corners counter-clockwise")
    return np.asarray([*triangles, tuple(left)], np.int32)


def extrude(polygon: ArrayLike, half_height: float, cell: int, side_cell: int | None = None) -> Mesh:
    """A prism from -half_height to half_height of a simple counter-clockwise polygon (P, 2) in the plane z = 0."""
    points = np.asarray(polygon, float)
    caps = triangulate(points)
    bottom, top = (np.column_stack((points, np.full(len(points), z))) for z in (-half_height, half_height))
    parts = [_mesh(top, caps, cell), _mesh(bottom, caps[:, ::-1], cell)]
    wall_cell = cell if side_cell is None else side_cell
    for i in range(len(points)):
        j = (i + 1) % len(points)
        parts.append(panel([bottom[i], bottom[j], top[j], top[i]], wall_cell))
    return merge("", parts)


def rounded_box(half: ArrayLike, bevel: float, cell: int) -> Mesh:
    """A box of half sizes (3,) whose edges are cut off by `bevel` metres: 44 triangles."""
    x, y, z = np.asarray(half, float)
    if not 0 < bevel < min(x, y, z):
        raise UserError(f"bevel {bevel} of a rounded box must lie between 0 and its smallest half size {min(x, y, z)}")
    signs = np.array([(sx, sy, sz) for sx in (-1, 1) for sy in (-1, 1) for sz in (-1, 1)], float)
    size = np.array((x, y, z))
    corners = np.concatenate([signs * (size - bevel * (1 - axis)) for axis in np.eye(3)])  # axis: of the flat side
    parts = []
    grid = np.stack(np.meshgrid(*[(-1.0, 0.0, 1.0)] * 3), -1).reshape(-1, 3)
    for d in grid[np.abs(grid).sum(1) > 0]:  # the outward direction of each of its 26 sides
        reach = corners @ d
        flat = corners[reach > reach.max() - 1e-9]
        u = np.cross(d, np.eye(3)[np.argmin(np.abs(d))])
        spread = flat - flat.mean(0)
        order = np.argsort(np.arctan2(spread @ np.cross(d, u), (spread @ u) * np.linalg.norm(d)))
        parts.append(panel(flat[order], cell))
    return merge("", parts)
