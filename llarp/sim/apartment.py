"""One furnished apartment: pieces put at random where they fit, kept when the robot can reach and see every target.

World frame of a scene: origin on the floor in the middle of the room's outer rectangle.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llarp.tasks.entities import FRIDGE, FRIDGE_HANDLE, JOINT_OPEN_TO, NUM_HANDLES, NUM_RECEPTACLES, RECEPTACLES

from .navigation import MIN_DISTANCE_M, Floats, FreeSpace, local, nav_pose, overlap
from .parts import Piece
from .rooms import Room

Pieces = dict[str, list[Piece]]
"""Variants of pieces by kind."""
FREE_POSITIONS = 256
MAX_ASKEW_RAD = 0.7
"""Kitchen, fridge, sofa and TV stand are used from within this angle of straight before them."""
KINDS = ("kitchen", "fridge", "sofa", "tv_stand", "brown_table", "black_table", "chair")
"""The furniture every scene has, in the order in which it is placed."""

_DRAWS = 64  # poses tried at once for a piece
_GAP_M = 0.05  # between pieces
_LIVE_SHARE = 0.85  # of the free floor must hang together
_FREESTANDING = {"black_table": 0.7, "brown_table": 0.7, "sofa": 0.25, "chair": 0.8}  # share away from the walls


@dataclass
class PlacedPiece:
    """A piece in a scene."""

    kind: str
    variant: int
    piece: Piece
    pose: Floats  # x, y, yaw

    def rect(self) -> Floats:
        return np.array((*self.pose[:2], *self.piece.half, self.pose[2]))

    def to_world(self, points: Floats) -> Floats:
        """Points (P, 3) of the piece's frame in the world's."""
        c, s = np.cos(self.pose[2]), np.sin(self.pose[2])
        x, y = points[:, 0], points[:, 1]
        return np.column_stack((x * c - y * s + self.pose[0], x * s + y * c + self.pose[1], points[:, 2]))


@dataclass
class Apartment:
    room: Room
    placed: list[PlacedPiece] = field(default_factory=list)  # furniture, then décor
    nav: Floats = field(default_factory=lambda: np.zeros((0, 3)))
    free: Floats = field(default_factory=lambda: np.zeros((0, 2)))

    def rects(self) -> Floats:
        return np.array([p.rect() for p in self.placed]).reshape(-1, 5)


def _front(pose: Floats, piece: Piece) -> Floats:
    """The rectangles (n, 5) kept free before a piece at poses (n, 3)."""
    ahead = piece.half[0] + piece.front / 2
    x, y = pose[:, 0] + ahead * np.cos(pose[:, 2]), pose[:, 1] + ahead * np.sin(pose[:, 2])
    return np.column_stack((x, y, np.full_like(x, piece.front / 2), np.full_like(x, piece.half[1]), pose[:, 2]))


def _inside(rects: Floats, room: Room, margin: float = 0.0) -> NDArray[np.bool_]:
    """Which rectangles (n, 5) lie in the room and clear of its blocks."""
    c, s = np.abs(np.cos(rects[:, 4])), np.abs(np.sin(rects[:, 4]))
    x = np.abs(rects[:, 0]) + rects[:, 2] * c + rects[:, 3] * s
    y = np.abs(rects[:, 1]) + rects[:, 2] * s + rects[:, 3] * c
    fits = (x <= room.half[0] - margin + 1e-6) & (y <= room.half[1] - margin + 1e-6)
    return fits & ~overlap(rects, room.obstacles(), margin - 1e-6).any(1)


def _draw_poses(rng: np.random.Generator, scene: Apartment, kind: str, piece: Piece) -> Floats:
    """Candidate poses (_DRAWS, 3) of a piece: against walls, beside the kitchen, at a table, or anywhere."""
    if kind == "fridge" and rng.random() < 0.65:
        kitchen = scene.placed[0]
        side = rng.permutation([-1.0, 1.0])
        along = side * (kitchen.piece.half[1] + piece.half[1] + _GAP_M)
        beside = np.column_stack((np.full(2, piece.half[0] - kitchen.piece.half[0]), along, np.zeros(2)))
        return np.column_stack((kitchen.to_world(beside)[:, :2], np.full(2, kitchen.pose[2])))
    if kind == "chair" and rng.random() < 0.6:
        tables = [p for p in scene.placed if p.kind.endswith("table")]
        table = tables[rng.integers(len(tables))]
        turn = rng.integers(4, size=_DRAWS) * np.pi / 2
        out = np.where(turn % np.pi < 1, table.piece.half[0], table.piece.half[1]) + piece.half[0] + 0.06
        spots = table.to_world(np.column_stack((out * np.cos(turn), out * np.sin(turn), turn)))
        return np.column_stack((spots[:, :2], turn + np.pi + table.pose[2]))
    if rng.random() < _FREESTANDING.get(kind, 0.0):
        spots = rng.uniform(-1, 1, (_DRAWS, 2)) * (np.array(scene.room.half) - 0.4)
        turn = rng.integers(4, size=_DRAWS) * np.pi / 2 + rng.choice([0.0, 1.0]) * rng.uniform(-0.4, 0.4)
        return np.column_stack((spots, turn))
    return _against_walls(rng, scene.room, piece, outer_only=False)


def _against_walls(rng: np.random.Generator, room: Room, piece: Piece, outer_only: bool) -> Floats:
    """Poses (_DRAWS, 3) with the back flush against a wall; none where every wall is too short."""
    segments = room.segments()
    segments = segments[(segments[:, 2] >= piece.half[1]) & (segments[:, 4] >= outer_only)]
    if not len(segments):
        return np.zeros((0, 3))
    chosen = segments[rng.integers(len(segments), size=_DRAWS)]
    slack = (chosen[:, 2] - piece.half[1]) * rng.uniform(-1, 1, _DRAWS)
    normal = chosen[:, 3]
    x = chosen[:, 0] + piece.half[0] * np.cos(normal) - slack * np.sin(normal)
    y = chosen[:, 1] + piece.half[0] * np.sin(normal) + slack * np.cos(normal)
    return np.column_stack((x, y, normal))


def _add(rng: np.random.Generator, scene: Apartment, kind: str, variants: list[Piece]) -> bool:
    """Put a piece where it fits; false where none of the poses drawn does."""
    variant = int(rng.integers(len(variants)))
    piece = variants[variant]
    poses = _draw_poses(rng, scene, kind, piece)
    rects = np.column_stack((poses[:, :2], np.broadcast_to(piece.half, (len(poses), 2)), poses[:, 2]))
    fits = _inside(rects, scene.room)
    if scene.placed:
        others = scene.rects()
        fronts = np.concatenate([_front(p.pose[None], p.piece) for p in scene.placed if p.piece.front])
        fits &= ~overlap(rects, others, _GAP_M - 1e-6).any(1) & ~overlap(rects, fronts).any(1)
    if piece.front:
        front = _front(poses, piece)
        fits &= _inside(front, scene.room)
        if scene.placed:
            fits &= ~overlap(front, others).any(1)
    if not fits.any():
        return False
    scene.placed.append(PlacedPiece(kind, variant, piece, poses[int(np.argmax(fits))]))
    return True


def _add_decor(rng: np.random.Generator, scene: Apartment, pieces: Pieces) -> None:
    """Whatever fits, standing things first, then what hangs on walls; none of it is needed."""
    for kind in ("shelf", "plant", "lamp", "door", "window", "picture", "picture_2", "rug"):
        variants = pieces[kind.removesuffix("_2")]
        variant = int(rng.integers(len(variants)))
        piece = variants[variant]
        hangs = kind in ("window", "picture", "picture_2", "door")
        if kind == "rug":
            spots = rng.uniform(-0.5, 0.5, (_DRAWS, 2)) * np.array(scene.room.half)
            poses = np.column_stack((spots, rng.integers(2, size=_DRAWS) * np.pi / 2))
        else:
            poses = _against_walls(rng, scene.room, piece, outer_only=True)
        rects = np.column_stack((poses[:, :2], np.broadcast_to(piece.half, (len(poses), 2)), poses[:, 2]))
        fits = _inside(rects, scene.room)
        low = ("rug",) if not hangs or kind == "door" else ("rug", "sofa", "black_table", "brown_table", "chair")
        others = [p for p in scene.placed if p.kind not in low]
        if kind != "rug":
            fits &= ~overlap(rects, np.array([p.rect() for p in others]), 0.03).any(1)
        if not hangs and kind != "rug":  # nothing may stand where pieces open or are used
            fronts = np.concatenate([_front(p.pose[None], p.piece) for p in others if p.piece.front])
            fits &= ~overlap(rects, fronts).any(1)
        if fits.any() and (kind != "shelf" or rng.random() < 0.8):
            scene.placed.append(PlacedPiece(kind, variant, piece, poses[int(np.argmax(fits))]))


def _surface_points(placed: PlacedPiece, receptacle: int, slide: float = 0.0) -> Floats:
    """A 5 x 5 grid of points (25, 3) over a surface, in the world's frame; `slide` metres out."""
    surface = placed.piece.surfaces[receptacle]
    x, y = np.meshgrid(np.linspace(*surface.x, 5) + slide, np.linspace(*surface.y, 5))
    return placed.to_world(np.column_stack((x.ravel(), y.ravel(), np.full(25, surface.z))))


def _targets(placed: PlacedPiece) -> dict[int, tuple[Floats, Floats, Floats]]:
    """By nav target: its middle (3,), the points to see and the points to reach, (P, 3) each."""
    found = {}
    for receptacle in placed.piece.surfaces:
        joint = RECEPTACLES[receptacle].joint
        points = _surface_points(placed, receptacle)
        middle = points.mean(0)
        if 0 <= joint < NUM_HANDLES - 1:  # a drawer: reached and seen open; shut, only reached
            opened = _surface_points(placed, receptacle, JOINT_OPEN_TO[joint])
            found[NUM_HANDLES + receptacle] = middle, opened, np.concatenate((points, opened))
        else:
            found[NUM_HANDLES + receptacle] = middle, points, points
    for handle, at in placed.piece.handles.items():
        point = placed.to_world(np.array([at]))
        found[handle] = point[0], point, point
    return found


def _usable_from(cells: Floats, placed: PlacedPiece, middle: Floats) -> NDArray[np.bool_]:
    """Which base positions (G, 2) are on the side from which a piece is used, as seen from a target's middle (3,)."""
    frame = np.array([(*middle[:2], 0.0, 0.0, placed.pose[2])])
    x, y = local(cells, frame)[:, 0].T
    if placed.piece.front:
        return np.abs(np.arctan2(y, x)) <= MAX_ASKEW_RAD
    return (x > -0.1) | (not placed.piece.backed)


_STAND_BACK_M = {FRIDGE_HANDLE: 0.75, NUM_HANDLES + FRIDGE: 1.1}
"""From its handle, or from the middle of its inside: any nearer, the closed fridge's door fills the picture."""


def _navigate(scene: Apartment, pieces: int, space: FreeSpace) -> bool:
    """Fill in the nav poses of a scene whose first `pieces` pieces have targets; false where one has none."""
    rects, blocks = scene.rects(), scene.room.obstacles()
    solid = np.array([p.kind != "rug" for p in scene.placed])
    scene.nav = np.full((NUM_HANDLES + NUM_RECEPTACLES, 3), np.nan)
    for i, placed in enumerate(scene.placed[:pieces]):
        others = np.concatenate((rects[solid & (np.arange(len(rects)) != i)], blocks))
        for target, (middle, see, reach) in _targets(placed).items():
            joint = target if target < NUM_HANDLES else RECEPTACLES[target - NUM_HANDLES].joint
            keep_out = np.zeros((0, 5))
            if joint >= 0:
                x, y, hx, hy, yaw = placed.piece.opens_into[joint]
                at = placed.to_world(np.array([(x, y, 0.0)]))[0]
                keep_out = np.array([(at[0], at[1], hx, hy, yaw + placed.pose[2])])
            # an open drawer lies before its target, an open fridge door must not stand before the inside
            blockers = np.concatenate((others, keep_out)) if target == NUM_HANDLES + FRIDGE else others
            cells = space.cells[_usable_from(space.cells, placed, middle)]
            apart = _STAND_BACK_M.get(target, MIN_DISTANCE_M)
            pose = nav_pose(cells, middle[:2], see, reach[:, :2], keep_out, blockers, apart)
            if pose is None:
                return False
            scene.nav[target] = pose
    return True


def furnish(rng: np.random.Generator, room: Room, pieces: Pieces, decoration: Pieces) -> Apartment | None:
    """One attempt at a scene; None where the furniture does not fit or a target cannot be used."""
    scene = Apartment(room)
    if not all(_add(rng, scene, kind, pieces[kind]) for kind in KINDS):
        return None
    required = len(scene.placed)
    _add_decor(rng, scene, decoration)
    standing = [p.rect() for p in scene.placed if p.kind not in ("rug", "picture", "picture_2", "window", "door")]
    space = FreeSpace.of(room.half, np.concatenate((standing, room.obstacles())))
    if len(space.cells) < max(FREE_POSITIONS, _LIVE_SHARE * space.whole) or not _navigate(scene, required, space):
        return None
    scene.free = space.cells[rng.choice(len(space.cells), FREE_POSITIONS, replace=False)]
    return scene
