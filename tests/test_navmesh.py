"""Navigation meshes: small ones made here, byte by byte as Detour lays them out, and those of a ReplicaCAD download."""

from __future__ import annotations

import random
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llarp.errors import UserError
from llarp.sim.replica_cad.folder import Folder
from llarp.sim.replica_cad.navmesh import NavMesh
from llarp.sim.replica_cad.navmesh_file import parse_navmesh, read_navmesh

SQUARE = [(0, 0), (0, 1), (1, 1), (1, 0)]
BORDER = 0x8000


def tile(
    polygons: list[list[tuple[float, ...]]],
    flags: list[int] | None = None,
    borders: dict[tuple[int, int], int] | None = None,
    climb: float = 0.2,
) -> bytes:
    """A tile of polygons given by their corners (x, z) or (x, y, z), each covered by a fan of triangles.

    Polygons with a common edge border on each other; `borders`: side of the tile by (polygon, edge)."""
    corners = [[c if len(c) == 3 else (c[0], 0.0, c[1]) for c in p] for p in polygons]
    verts = sorted({c for p in corners for c in p})
    index = [[verts.index(c) for c in p] for p in corners]
    edges = [[{p[i], p[(i + 1) % len(p)]} for i in range(len(p))] for p in index]
    polys, details, tris = b"", b"", b""
    for number, p in enumerate(index):
        beyond = []
        for side, edge in enumerate(edges[number]):
            other = [k + 1 for k, theirs in enumerate(edges) if k != number and edge in theirs]
            border = (borders or {}).get((number, side))
            beyond.append((other or [0])[0] if border is None else BORDER | border)
        pad = [0] * (6 - len(p))
        flag = flags[number] if flags else 1
        polys += struct.pack("<I6H6HHBB", 0, *p, *pad, *beyond, *pad, flag, len(p), 0)
        details += struct.pack("<IIBBH", 0, len(tris) // 4, 0, len(p) - 2, 0)
        for k in range(1, len(p) - 1):
            outer = 1 * (k == 1) | 1 << 2 | (1 << 4) * (k == len(p) - 2)
            tris += bytes([0, k, k + 1, outer])
    points = b"".join(struct.pack("<3f", *v) for v in verts)
    low, high = np.min(verts, axis=0), np.max(verts, axis=0)
    head = struct.pack("<5iI9i", 0x444E4156, 7, 0, 0, 0, 0, len(polygons), len(verts), 0, len(polygons), 0,
                       len(tris) // 4, 0, 0, len(polygons))  # fmt: skip
    return head + struct.pack("<10f", 1.5, 0.3, climb, *low, *high, 20) + points + polys + details + tris


def mesh_bytes(*tiles: bytes) -> bytes:
    head = struct.pack("<3i5f2i", 0x4D534554, 2, len(tiles), 0, 0, 0, 100, 100, len(tiles), 64) + bytes(56)
    return head + b"".join(struct.pack("<Ii", 0x40 + i, len(t)) + t for i, t in enumerate(tiles))


def at(x: float, z: float) -> list[tuple[float, ...]]:
    """A unit square with its lowest corner at (x, z)."""
    return [(x + dx, z + dz) for dx, dz in SQUARE]


@pytest.fixture
def rooms() -> NavMesh:
    """Two joined unit squares, x from 0 to 2, and a third by itself, x from 5 to 6."""
    return parse_navmesh(mesh_bytes(tile([at(0, 0), at(1, 0), at(5, 0)])))


def test_polygons_with_a_common_edge_make_an_island(rooms: NavMesh) -> None:
    assert rooms.island.tolist() == [0, 0, 1]
    assert rooms.island_area().tolist() == pytest.approx([2, 1])
    assert rooms.largest_island() == 0


def test_nearest_point(rooms: NavMesh) -> None:
    for point, nearest in [
        ((0.5, 0.7, 0.5), (0.5, 0, 0.5)),  # above the mesh: straight down
        ((1.0, 0.0, -0.5), (1.0, 0, 0)),  # beside it: on the boundary
        ((3.0, 0.0, 3.0), (2.0, 0, 1)),  # its corner
        ((4.9, 0.5, 0.2), (5.0, 0, 0.2)),
    ]:
        assert rooms.nearest(np.array(point)) == pytest.approx(nearest), point


def test_nearest_point_on_one_island(rooms: NavMesh) -> None:
    point = np.array([3.9, 0.0, 0.5])
    assert rooms.nearest(point) == pytest.approx((5, 0, 0.5))
    assert rooms.nearest(point, 0) == pytest.approx((2, 0, 0.5))


def test_nothing_is_near_beyond_the_search_box(rooms: NavMesh) -> None:
    far = np.array([1.0, 0.0, 3.5])
    assert rooms.nearest(far) is None
    assert rooms.nearest(np.array([1.0, 5.0, 0.5])) is None
    assert rooms.nearest(far, search_m=np.inf) == pytest.approx((1, 0, 1))


def test_a_polygon_underneath_beats_a_nearer_one_beside_within_the_climb() -> None:
    """The floor lies 0.25 below, a shelf's edge 0.1 beside the point and level with it. By plain distance the shelf is
    nearer; what the agent steps up (0.2) is taken off the floor's distance."""
    floor = [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 1.0), (1.0, 0.0, 0.0)]
    shelf = [(1.0, 0.25, 0.0), (1.0, 0.25, 1.0), (2.0, 0.25, 1.0), (2.0, 0.25, 0.0)]
    point = np.array([0.9, 0.25, 0.5])
    assert parse_navmesh(mesh_bytes(tile([floor, shelf]))).nearest(point) == pytest.approx((0.9, 0, 0.5))
    assert parse_navmesh(mesh_bytes(tile([floor, shelf], climb=0.1))).nearest(point) == pytest.approx((1, 0.25, 0.5))


def test_heights_follow_the_detail_triangles() -> None:
    ramp = [(0.0, 0.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.5, 1.0), (1.0, 0.5, 0.0)]
    mesh = parse_navmesh(mesh_bytes(tile([ramp])))
    assert mesh.nearest(np.array([0.4, 1.0, 0.3])) == pytest.approx((0.4, 0.2, 0.3))
    assert mesh.island_area()[0] == pytest.approx(np.hypot(1, 0.5))


def test_what_cannot_be_walked_on_is_left_out() -> None:
    sliver = [(1.0, 0.0), (1.0, 1.0), (1.000001, 0.5)]
    mesh = parse_navmesh(mesh_bytes(tile([at(0, 0), sliver, at(2, 0)], flags=[1, 1, 2])))
    assert mesh.walkable.tolist() == [True, False, False]
    assert mesh.nearest(np.array([2.5, 0.0, 0.5])) == pytest.approx((1, 0, 0.5))


def test_neighbouring_tiles_join_where_their_borders_touch() -> None:
    """Tile sides: 0 is towards +x, 4 towards -x."""
    left = tile([at(0, 0)], borders={(0, 2): 0})
    for z, islands in ((0.5, 1), (0.995, 2), (1.5, 2)):
        right = tile([at(1, z)], borders={(0, 0): 4})
        assert parse_navmesh(mesh_bytes(left, right)).island.max() + 1 == islands, z
    above = tile([[(x, 0.9, z) for x, z in at(1, 0)]], borders={(0, 0): 4})
    assert parse_navmesh(mesh_bytes(left, above)).island.max() + 1 == 2  # more than a step up


def test_random_points_cover_an_island_evenly(rooms: NavMesh) -> None:
    points = rooms.random_points(4000, 0, seed=3)
    assert (points == rooms.random_points(4000, 0, seed=3)).all()
    assert ((points >= 0) & (points <= (2, 0, 1))).all()
    counts, *_ = np.histogram2d(points[:, 0], points[:, 2], bins=(4, 2), range=((0, 2), (0, 1)))
    assert counts.min() > 430 and counts.max() < 570  # 500 each; standard deviation 21


@pytest.mark.parametrize(
    "damage, says",
    [
        (lambda d: d[:200], "ends within a tile"),
        (lambda d: b"nothing" + d[7:], "does not begin"),
        (lambda d: d[:30], "ends too early"),
        (lambda d: d[:8] + struct.pack("<i", 2**31 - 1) + d[12:], "tiles"),
        (lambda d: d[:100] + struct.pack("<i", -5) + d[104:], "ends within a tile"),
        (lambda d: d.replace(struct.pack("<f", 5.0), struct.pack("<f", np.nan)), "not lengths"),
        (lambda d: d.replace(struct.pack("<f", 5.0), struct.pack("<f", 1e30)), "not lengths"),
    ],
)
def test_damage_is_told(damage, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_navmesh(damage(mesh_bytes(tile([at(0, 0), at(5, 0)]))))


def test_a_mesh_without_floor_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing in it can be walked on"):
        parse_navmesh(mesh_bytes(tile([at(0, 0)], flags=[0])))


def test_a_bad_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "room.navmesh"
    file.write_bytes(b"MSET")
    with pytest.raises(UserError, match="room.navmesh: not a readable navmesh: it ends too early"):
        read_navmesh(Folder(tmp_path), file)
    with pytest.raises(UserError, match="no such navmesh"):
        read_navmesh(Folder(tmp_path), tmp_path / "hall.navmesh")


def test_any_damage_is_refused_or_harmless(rooms: NavMesh) -> None:
    """A short fuzz run: whatever bytes say, either a ValueError or a mesh that answers."""
    whole, rng = mesh_bytes(tile([at(0, 0), at(1, 0), at(5, 0)])), random.Random(1)
    numbers = [
        b"\xff\xff\xff\x7f",
        b"\xff\xff\xff\xff",
        b"\0\0\xc0\x7f",
        b"\xff\xff\x7f\x7f",
        b"\0\0\0\0",
        b"\x07\0\0\0",
    ]
    read = 0
    for _ in range(1500):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 3))):
            place = rng.randrange(len(data))
            data[place : place + 4] = rng.choice(numbers) if rng.random() < 0.5 else bytes([rng.randrange(256)] * 4)
        try:
            mesh = parse_navmesh(bytes(data[: rng.randrange(len(data))] if rng.random() < 0.1 else data))
        except ValueError:
            continue
        nearest = mesh.nearest(np.array([1.0, 0.5, 3.0]), mesh.largest_island(), search_m=np.inf)
        assert nearest is None or np.isfinite(nearest).all()
        read += 1
    assert read > 100


@pytest.mark.shared_data
def test_navmeshes_of_a_download(shared: Path) -> None:
    """Each has one large island; random points of it lie on it; pressed flat, `nearest` finds what sampling finds."""
    folder = shared / "replica_cad"
    files = sorted((folder / "navmeshes").glob("v3_sc*.navmesh"))
    assert files
    rng = np.random.default_rng(0)
    for file in files[::9]:
        mesh = read_navmesh(Folder(folder), file)
        island = mesh.largest_island()
        assert 20 < mesh.island_area()[island] < 45
        points = mesh.random_points(4000, island)
        for point in points[:40]:
            assert mesh.nearest(point + (0, 0.1, 0), island) == pytest.approx(point, abs=1e-3)
        ground = (1, 0, 1)
        flat = replace(
            mesh, corners=tuple(c * ground for c in mesh.corners), triangle=mesh.triangle * ground, climb=0.0
        )
        for target in rng.uniform(points.min(0), points.max(0), (40, 3)):
            found = flat.nearest(target, island, search_m=np.inf)
            assert found is not None
            sampled = np.linalg.norm(points * ground - target, axis=1).min()
            assert sampled - 0.3 <= np.linalg.norm(found - target) <= sampled + 1e-6
