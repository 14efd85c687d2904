"""Navigation meshes and Habitat's questions to them: the nearest point, random points, islands.

In the dataset's frame: (x, y, z), y up, metres. A mesh is convex polygons that share edges; each is covered by detail
triangles, which give heights. Islands are the parts of the mesh that no path joins. Letters in shapes: P polygons,
T detail triangles, E boundary edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .folder import Floats

SEARCH_M = (2.0, 4.0, 2.0)
"""Habitat looks for the nearest polygon among those that reach into a box of these half sizes about a point."""

INDOOR_SHARE, ROOF_POINTS = 0.95, 100
"""An island of which a larger share of so many random points has something above is indoors, in Habitat-Lab."""


@dataclass(frozen=True, eq=False)
class NavMesh:
    """A navigation mesh. `island` numbers are in order of their first polygon, as in Habitat."""

    corners: tuple[Floats, ...]  # P arrays (3 to 6, 3)
    walkable: NDArray[np.bool_]  # (P,)
    island: NDArray[np.int64]  # (P,)
    triangle: Floats  # (T, 3, 3)
    triangle_polygon: NDArray[np.int64]  # (T,)
    triangle_border: NDArray[np.bool_]  # (T, 3) whether the edge from corner i to i + 1 bounds the polygon
    climb: float  # height (m) that an agent steps up

    @cached_property
    def _edges(self) -> tuple[Floats, NDArray[np.int64]]:
        """Polygons' boundary edges (E, 2, 3), and the polygon of each (E,)."""
        ends = np.stack((self.triangle, np.roll(self.triangle, -1, axis=1)), axis=2)
        return ends[self.triangle_border], self.triangle_polygon.repeat(3)[self.triangle_border.ravel()]

    @cached_property
    def _bounds(self) -> tuple[Floats, Floats]:
        """Lowest and highest corners (P, 3) of the polygons' bounding boxes, detail heights included."""
        low, high = np.full((len(self.corners), 3), np.inf), np.full((len(self.corners), 3), -np.inf)
        np.minimum.at(low, self.triangle_polygon, self.triangle.min(1))
        np.maximum.at(high, self.triangle_polygon, self.triangle.max(1))
        return low, high

    @cached_property
    def triangle_area(self) -> Floats:
        """(T,) in m2."""
        a, b, c = np.moveaxis(self.triangle, 1, 0)
        return np.linalg.norm(np.cross(b - a, c - a), axis=-1) / 2

    def island_area(self) -> Floats:
        """Walkable area of every island, m2, (islands,)."""
        counted = self.triangle_area * self.walkable[self.triangle_polygon]
        area: Floats = np.bincount(self.island[self.triangle_polygon], counted, int(np.max(self.island)) + 1).astype(
            float
        )
        return area

    def largest_island(self) -> int:
        """The island with the largest walkable area."""
        return int(np.argmax(self.island_area()))

    def largest_indoor_island(self, roof: Floats) -> int | None:
        """Habitat-Lab's choice of where robots are: the largest island under a roof; None, the whole mesh, if none is.

        `roof` (K, 3, 3): triangles that may lie above. An island is indoors if they cover more than 95 % of it."""
        for island in np.argsort(-self.island_area(), kind="stable"):
            if self.on_island(int(island)).any():
                if _covered(self.random_points(ROOF_POINTS, int(island)), roof).mean() > INDOOR_SHARE:
                    return int(island)
        return None

    def on_island(self, island: int | None) -> NDArray[np.bool_]:
        """(P,) walkable polygons of an island, or of all."""
        return self.walkable if island is None else np.logical_and(self.walkable, self.island == island)

    def nearest(
        self, point: Floats, island: int | None = None, search_m: Floats | tuple[float, ...] | float = SEARCH_M
    ) -> Floats | None:
        """Habitat's `snap_point`: the nearest point of the mesh (3,), or None where nothing is within `search_m`.

        A polygon right below or above the point counts as nearer by the height an agent can step up, and its distance
        is only its height; of others the nearest point of the boundary counts, in three dimensions.
        """
        low, high = self._bounds
        reach = np.asarray(search_m, float)
        near = ((low <= point + reach) & (high >= point - reach)).all(1) & self.on_island(island)
        best, found = np.inf, None
        over = [p for p in np.flatnonzero(near & self._about(point)) if _inside(point, self.corners[p])]
        for p in over:
            at = np.array([point[0], self._height(int(p), point), point[2]])
            gap = max(abs(point[1] - at[1]) - self.climb, 0.0) ** 2
            if gap < best:
                best, found = gap, at
        near[over] = False
        edges, polygon = self._edges
        edges = edges[near[polygon]]
        if len(edges):
            at = _nearest_on_edges(point, edges)
            flat = ((at - point)[:, (0, 2)] ** 2).sum(1)
            # each polygon offers the point that is nearest from above; of these the nearest in space is taken
            order = np.lexsort((flat, owner := polygon[near[polygon]]))
            offers = at[order[np.unique(owner[order], return_index=True)[1]]]
            gaps = ((offers - point) ** 2).sum(1)
            if np.min(gaps) < best:
                found = offers[np.argmin(gaps)]
        return found

    def _about(self, point: Floats) -> NDArray[np.bool_]:
        """(P,) polygons whose bounding box the point is in, seen from above."""
        low, high = self._bounds
        return np.all(((low <= point + 1e-6) & (high >= point - 1e-6))[:, (0, 2)], axis=1)

    def _height(self, polygon: int, point: Floats) -> float:
        """Height of a polygon's surface at a point within it, seen from above."""
        mine = self.triangle[self.triangle_polygon == polygon]
        for a, b, c in mine:
            (ux, uz), (vx, vz), (px, pz) = (b - a)[[0, 2]], (c - a)[[0, 2]], (point - a)[[0, 2]]
            area = ux * vz - uz * vx
            if abs(area) > 1e-6:
                s, t = (px * vz - pz * vx) / area, (ux * pz - uz * px) / area
                if s >= 0 and t >= 0 and s + t <= 1:
                    return float(a[1] + s * (b - a)[1] + t * (c - a)[1])
        edges = np.stack((mine, np.roll(mine, -1, axis=1)), axis=2).reshape(-1, 2, 3)
        at = _nearest_on_edges(point, edges)
        return float(at[np.argmin(((at - point)[:, (0, 2)] ** 2).sum(1)), 1])

    def random_points(self, count: int, island: int | None = None, seed: int = 0) -> Floats:
        """Points (count, 3) spread evenly over the area of an island."""
        rng = np.random.default_rng(seed)
        weight = self.triangle_area * self.on_island(island)[self.triangle_polygon]
        if not weight.sum() > 0:
            raise ValueError("no walkable area")
        a, b, c = np.moveaxis(self.triangle[rng.choice(len(weight), count, p=weight / weight.sum())], 1, 0)
        s, t = np.sqrt(rng.random((count, 1))), rng.random((count, 1))
        return (1 - s) * a + s * (1 - t) * b + s * t * c


def _inside(point: Floats, corners: Floats) -> bool:
    """Whether a point is inside a polygon (K, 3) seen from above: an odd number of edges lie to one side of it."""
    (x, z), a, b = point[[0, 2]], corners, np.roll(corners, 1, axis=0)
    crossing = (a[:, 2] > z) != (b[:, 2] > z)
    a, b = a[crossing], b[crossing]
    return bool(np.count_nonzero(x < (b[:, 0] - a[:, 0]) * (z - a[:, 2]) / (b[:, 2] - a[:, 2]) + a[:, 0]) % 2)


def _covered(points: Floats, triangles: Floats) -> NDArray[np.bool_]:
    """Whether vertical lines from points (N, 3) upwards meet one of the triangles (K, 3, 3): (N,)."""
    triangles = triangles[triangles[:, :, 1].max(1) > np.min(points[:, 1])]
    (low_x, _, low_z), (high_x, high_y, high_z) = triangles.min(1).T.copy(), triangles.max(1).T.copy()
    covered = np.zeros(len(points), bool)
    for i, point in enumerate(points):
        x, y, z = point
        near = (low_x <= x) & (high_x >= x) & (low_z <= z) & (high_z >= z) & (high_y > y)
        a, b, c = np.moveaxis(triangles[near], 1, 0)
        (ux, uy, uz), (vx, vy, vz), (px, py, pz) = (b - a).T, (c - a).T, (point - a).T
        area = ux * vz - uz * vx
        with np.errstate(divide="ignore", invalid="ignore"):  # upright triangles have no area seen from above
            s, t = (px * vz - pz * vx) / area, (ux * pz - uz * px) / area
            covered[i] = ((s >= 0) & (t >= 0) & (s + t <= 1) & (s * uy + t * vy > py)).any()
    return covered


def _nearest_on_edges(point: Floats, edges: Floats) -> Floats:
    """The point of each edge (E, 2, 3) that is nearest to a point seen from above, (E, 3)."""
    start, along = edges[:, 0], edges[:, 1] - edges[:, 0]
    flat, to = along[:, (0, 2)], (point - start)[:, (0, 2)]
    length = (flat**2).sum(1)
    share = np.clip((flat * to).sum(1) / np.where(length > 0, length, 1), 0, 1)
    return start + share[:, None] * along
