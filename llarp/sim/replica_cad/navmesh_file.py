"""Navigation meshes as Habitat saves them: a Detour tile set (`.navmesh`), checked before it is believed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llarp.errors import UserError

from .folder import Floats, Folder
from .navmesh import NavMesh

MAX_BYTES = 64 << 20
WALKABLE = 0x01
"""Flag of a polygon that can be walked on."""
MIN_AREA_M2 = 1e-5
"""Habitat disables polygons smaller than this."""

_LIMIT_M = 1e5
_EDGES_APART_M = 0.01  # edges of neighbouring tiles that are nearer lie on each other
_SET_MAGIC, _TILE_MAGIC, _TILE_VERSION = 0x4D534554, 0x444E4156, 7
_SETTINGS_BYTES = 56  # Habitat's NavMeshSettings, from version 2 of the file on
_BORDER, _NO_EDGE = 0x8000, 0  # an edge at the tile's border; an edge with nothing beyond it
_SET = np.dtype([("magic", "<i4"), ("version", "<i4"), ("tiles", "<i4"), ("params", "<f4", 5), ("limits", "<i4", 2)])
_TILE_HEAD = np.dtype([("ref", "<u4"), ("bytes", "<i4")])
_TILE = np.dtype(
    [("magic", "<i4"), ("version", "<i4"), ("x", "<i4"), ("y", "<i4"), ("layer", "<i4"), ("user", "<u4")]
    + [(name, "<i4") for name in ("polys", "verts", "links", "details", "detail_verts", "detail_tris", "nodes")]
    + [("connections", "<i4"), ("connection_base", "<i4"), ("height", "<f4"), ("radius", "<f4"), ("climb", "<f4")]
    + [("low", "<f4", 3), ("high", "<f4", 3), ("quantum", "<f4")]
)  # fmt: skip
_POLY = np.dtype(
    [("link", "<u4"), ("verts", "<u2", 6), ("beyond", "<u2", 6), ("flags", "<u2"), ("count", "u1"), ("area_type", "u1")]
)
_DETAIL = np.dtype([("vert", "<u4"), ("tri", "<u4"), ("verts", "u1"), ("tris", "u1"), ("pad", "<u2")])
_PARTS: dict[str, tuple[np.dtype[Any], int]] = {
    "verts": (np.dtype("<f4"), 3),
    "polys": (_POLY, 1),
    "links": (np.dtype("u1"), 12),
    "details": (_DETAIL, 1),
    "detail_verts": (np.dtype("<f4"), 3),
    "detail_tris": (np.dtype("u1"), 4),
    "nodes": (np.dtype("u1"), 16),
    "connections": (np.dtype("u1"), 36),
}
"""What follows a tile's header, in order: how many of each the header says, elements of which type, how many each."""


def read_navmesh(folder: Folder, file: Path) -> NavMesh:
    """A `.navmesh` file."""
    data = folder.read(file, "navmesh", limit=MAX_BYTES)
    try:
        return parse_navmesh(data)
    except ValueError as e:
        raise UserError(f"{file}: not a readable navmesh: {e}") from e


@dataclass(frozen=True, eq=False)
class _Tile:
    head: np.void
    verts: Floats
    polys: NDArray[np.void]
    details: NDArray[np.void]
    detail_verts: Floats
    detail_tris: NDArray[np.uint8]


def parse_navmesh(data: bytes) -> NavMesh:
    """The mesh in the bytes of a `.navmesh` file; a ValueError says what is wrong with them."""
    head, at = _take(data, 0, _SET, 1)
    magic, version, count = int(head["magic"][0]), int(head["version"][0]), int(head["tiles"][0])
    if magic != _SET_MAGIC or version not in (1, 2):
        raise ValueError("it does not begin as a tile set of version 1 or 2 does")
    at += _SETTINGS_BYTES if version == 2 else 0
    if not 0 < count <= len(data):
        raise ValueError(f"{count} tiles")
    tiles = []
    for _ in range(count):
        tile_head, at = _take(data, at, _TILE_HEAD, 1)
        size = int(tile_head["bytes"][0])
        if not 0 < size <= len(data) - at:
            raise ValueError("it ends within a tile")
        tiles.append(_tile(data[at : at + size]))
        at += size
    return _assemble(tiles)


def _take(data: bytes, at: int, dtype: np.dtype[Any], count: int) -> tuple[NDArray[Any], int]:
    """`count` elements at byte `at`, and where they end."""
    end = at + count * dtype.itemsize
    if count < 0 or end > len(data):
        raise ValueError("it ends too early")
    return np.frombuffer(data, dtype, count, at), end


def _tile(data: bytes) -> _Tile:
    heads, at = _take(data, 0, _TILE, 1)
    head = heads[0]
    if head["magic"] != _TILE_MAGIC or head["version"] != _TILE_VERSION:
        raise ValueError(f"a tile is not of version {_TILE_VERSION}")
    parts: dict[str, NDArray[Any]] = {}
    for name, (dtype, width) in _PARTS.items():
        part, at = _take(data, at, dtype, int(head[name]) * width)
        with np.errstate(invalid="ignore"):  # numbers that are none are refused below
            parts[name] = part.reshape(-1, width).astype(float) if dtype.kind == "f" else part
    verts, polys, details, detail_verts = (parts[k] for k in ("verts", "polys", "details", "detail_verts"))
    if at != len(data):
        raise ValueError("a tile's size is not that of its parts (references of 64 bits are not read)")
    if len(details) < np.count_nonzero(polys["area_type"] >> 6 == 0):
        raise ValueError("polygons without detail triangles")
    if not all((np.abs(x) <= _LIMIT_M).all() for x in (verts, detail_verts, head["climb"])):
        raise ValueError("coordinates that are not lengths in a room")
    return _Tile(head, verts, polys, details, detail_verts, parts["detail_tris"].reshape(-1, 4))


def _assemble(tiles: list[_Tile]) -> NavMesh:
    corners: list[Floats] = []
    triangles: list[Floats] = []
    borders: list[tuple[bool, bool, bool]] = []
    owner: list[int] = []
    flags: list[int] = []
    joined: list[tuple[int, int]] = []
    open_edges: list[tuple[_Tile, int, Floats, int]] = []  # tile, side of it, ends, polygon
    for tile in tiles:
        base = len(corners)
        ground = tile.polys[tile.polys["area_type"] >> 6 == 0]  # the others, off-mesh links, come last
        for poly, detail in zip(ground, tile.details, strict=False):
            number, k = len(corners), int(poly["count"])
            index = poly["verts"][:k].astype(int)
            if not 3 <= k <= 6 or index.max() >= len(tile.verts):
                raise ValueError("a polygon has corners it cannot have")
            corners.append(tile.verts[index])
            flags.append(int(poly["flags"]))
            for side in range(k):
                beyond, ends = int(poly["beyond"][side]), tile.verts[index[[side, (side + 1) % k]]]
                if beyond & _BORDER:
                    open_edges.append((tile, beyond & 0xFF, ends, number))
                elif beyond != _NO_EDGE:
                    if beyond > len(ground):
                        raise ValueError("a polygon borders on one that is not there")
                    joined.append((number, base + beyond - 1))
            for triangle, border in _detail_triangles(tile, detail, corners[-1]):
                triangles.append(triangle)
                borders.append(border)
                owner.append(number)
    if not triangles:
        raise ValueError("no polygons")
    joined += _across_tiles(open_edges)
    shape, of = np.array(triangles), np.array(owner)
    mesh = NavMesh(
        tuple(corners), np.ones(len(corners), bool), _islands(len(corners), joined), shape, of, np.array(borders),
        float(tiles[0].head["climb"]),
    )  # fmt: skip
    area = np.bincount(of, mesh.triangle_area, minlength=len(corners))
    mesh.walkable[:] = (np.array(flags) & WALKABLE > 0) & (area >= MIN_AREA_M2)
    if not mesh.walkable.any():
        raise ValueError("nothing in it can be walked on")
    return mesh


def _detail_triangles(
    tile: _Tile, detail: np.void, corners: Floats
) -> Iterator[tuple[Floats, tuple[bool, bool, bool]]]:
    """The triangles (3, 3) over a polygon, each with which of its edges bound the polygon."""
    first, count = int(detail["tri"]), int(detail["tris"])
    vert, verts = int(detail["vert"]), int(detail["verts"])
    if first + count > len(tile.detail_tris) or vert + verts > len(tile.detail_verts):
        raise ValueError("a polygon has detail triangles that are not there")
    points = np.concatenate((corners, tile.detail_verts[vert : vert + verts]))
    for *index, edge in tile.detail_tris[first : first + count].tolist():
        if max(index) >= len(points):
            raise ValueError("a detail triangle has a corner that is not there")
        yield points[index], (bool(edge & 1), bool(edge >> 2 & 1), bool(edge >> 4 & 1))


def _across_tiles(edges: list[tuple[_Tile, int, Floats, int]]) -> list[tuple[int, int]]:
    """Pairs of polygons whose border edges lie on each other, in neighbouring tiles."""
    lines: defaultdict[tuple[int, int], list[tuple[_Tile, Floats, int]]] = defaultdict(list)  # by side and where it is
    for tile, side, ends, polygon in edges:
        lines[side, _line(side, ends)].append((tile, ends, polygon))
    pairs = []
    for tile, side, ends, polygon in edges:
        reach = 2 * float(tile.head["climb"])
        for step in (-1, 0, 1):
            for other, other_ends, neighbour in lines.get(((side + 4) % 8, _line(side, ends) + step), ()):
                if other is not tile and _touch(ends, other_ends, side, reach):
                    pairs.append((polygon, neighbour))
    return pairs


def _line(side: int, ends: Floats) -> int:
    """Which line, in steps of `_EDGES_APART_M`, an edge (2, 3) at a tile's side lies on."""
    return int(ends[0, 0 if side in (0, 4) else 2] / _EDGES_APART_M)


def _touch(mine: Floats, others: Floats, side: int, reach: float) -> bool:
    """Whether two edges (2, 3) on the same side overlap by more than a touch, and are within reach in height."""
    across, along = (0, 2) if side in (0, 4) else (2, 0)
    a, b = mine[:, along], others[:, along]
    low, high = max(np.min(a), np.min(b)), min(np.max(a), np.max(b))
    if abs(mine[0, across] - others[0, across]) > _EDGES_APART_M or high - low <= 2 * _EDGES_APART_M:
        return False
    ends = (low + _EDGES_APART_M, high - _EDGES_APART_M)
    gaps = [_at(others, along, x) - _at(mine, along, x) for x in ends]
    return gaps[0] * gaps[1] < 0 or min(abs(g) for g in gaps) <= reach


def _at(edge: Floats, along: int, x: float) -> float:
    """Height of an edge (2, 3) at coordinate x."""
    a, b = edge
    return float(a[1] + (b[1] - a[1]) * (x - a[along]) / (b[along] - a[along]))


def _islands(count: int, joined: list[tuple[int, int]]) -> NDArray[np.int64]:
    """The island (count,) of every polygon, given the pairs that border on each other."""
    neighbours: list[list[int]] = [[] for _ in range(count)]
    for a, b in joined:
        neighbours[a].append(b)
        neighbours[b].append(a)
    island, number = np.full(count, -1), 0
    for start in range(count):
        if island[start] < 0:
            stack = [start]
            while stack:
                polygon = stack.pop()
                if island[polygon] < 0:
                    island[polygon] = number
                    stack += neighbours[polygon]
            number += 1
    return island
