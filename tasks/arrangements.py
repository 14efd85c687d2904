"""Rooms for the generator: objects spread over the furniture of many rooms at once, none overlapping, all in reach."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from .entities import (
    FRIDGE,
    JOINT_OPEN_TO,
    LEFT_DRAWER,
    NUM_HANDLES,
    NUM_RECEPTACLES,
    RECEPTACLES,
    RIGHT_DRAWER,
    TRAINING_KINDS,
)
from .state import MAX_OBJECTS, ObjectCatalog, SceneSet

NUM_OBJECTS = (34, 35, 36)
"""How many objects a room holds as a rule, as in the published files."""
NUM_OBJECTS_SHARES = (0.1, 0.8, 0.1)
REACH_M, REACH_ANGLE_RAD = 1.4, 0.9
"""Objects start within this of where nav to their receptacle leads: a little less than the reach for picking."""
GAP_M = 0.01
"""Left free between objects on a receptacle, and above them in closed furniture."""
_LATER_OF_KIND = 0.5  # how much later each further object of a category comes in the draw of what fills the room
_JOINTED = np.array([r.joint >= 0 for r in RECEPTACLES])
_LIKELY = np.ones(NUM_RECEPTACLES)
_LIKELY[[0, FRIDGE, LEFT_DRAWER, RIGHT_DRAWER]] = 0.4, 0.15, 0.05, 0.05  # chair and closed furniture hold few


@dataclass(frozen=True)
class _Packing:
    """How hard is tried to fill a room."""

    tries: tuple[int, ...]  # places tried for an object, that many at once
    spares: int  # more objects a room that take the place of others that find none
    yaw_jitter_rad: float  # objects lie roughly along their furniture, as people leave them
    of_kind: int  # at most this many objects of a category


_USUAL = _Packing(tries=(3, 9, 32), spares=8, yaw_jitter_rad=0.3, of_kind=2)
_TIGHT = _Packing(tries=(3, 9, 32, 128), spares=30, yaw_jitter_rad=0.1, of_kind=3)
_TIGHT_FROM = 42
"""Rooms of this many objects are full when packed as usual."""


@dataclass
class Arrangement:
    """Objects of B rooms. Slots beyond a room's objects are empty: model -1, the rest 0 or -1."""

    model: np.ndarray  # (B, M) int64
    position: np.ndarray  # (B, M, 3) float32
    yaw: np.ndarray  # (B, M) float32
    inside: np.ndarray  # (B, M) int64
    receptacle: np.ndarray  # (B, M) int64
    slot_of: np.ndarray  # (B, R) slot of each required object, -1 where none was required
    complete: np.ndarray  # (B,) bool: the required objects found a place, and enough others

    def rows(self, index: np.ndarray) -> Arrangement:
        """Only the given rooms."""
        return Arrangement(**{f.name: getattr(self, f.name)[index] for f in fields(self)})


@dataclass
class _Filling:
    """Rooms while they are filled, one column an object; where `where` is -1 nothing has been placed."""

    model: np.ndarray  # (B, columns)
    where: np.ndarray  # (B, columns) receptacle
    local: np.ndarray  # (B, columns, 2) centre and ...
    extent: np.ndarray  # (B, columns, 2) ... half extents along the receptacle's axes
    position: np.ndarray  # (B, columns, 3)
    yaw: np.ndarray  # (B, columns)

    @classmethod
    def empty(cls, model: np.ndarray) -> _Filling:
        shape = model.shape
        local, extent, position = (np.zeros((*shape, n)) for n in (2, 2, 3))
        return cls(model, np.full(shape, -1), local, extent, position, np.zeros(shape))


class Arranger:
    """Places objects in the scenes of a SceneSet with the models of one split of a catalogue."""

    def __init__(
        self,
        scenes: SceneSet,
        catalog: ObjectCatalog,
        models: np.ndarray,
        num_objects: tuple[int, int, int] = NUM_OBJECTS,
    ):
        """`models` (V,): rows of the catalogue that may be used; `num_objects` a room: the middle number as a rule."""
        self.num_objects = num_objects
        self.packing = _TIGHT if max(num_objects) >= _TIGHT_FROM else _USUAL
        self.center = scenes.receptacle_center.numpy().astype(np.float64)
        self.half = scenes.receptacle_half.numpy().astype(np.float64)
        self.yaw = scenes.receptacle_yaw.numpy().astype(np.float64)
        self.slide = scenes.receptacle_slide.numpy().astype(np.float64)
        self.surface = scenes.surface_z.numpy().astype(np.float64)
        self.stand = scenes.nav_pose.numpy().astype(np.float64)[:, NUM_HANDLES:]
        self.half_size = catalog.half_size.numpy().astype(np.float64)
        weight = np.sqrt(self.half[..., 0] * self.half[..., 1]) * _LIKELY
        self.share = np.cumsum(weight / weight.sum(1, keepdims=True), axis=1)  # (L, 11)
        category = catalog.category.numpy()[models]
        self.variants = [models[category == c] for c in range(category.max() + 1)]

    def draw(
        self, rng: np.random.Generator, scene: np.ndarray, category: np.ndarray, receptacle: np.ndarray
    ) -> Arrangement:
        """Rooms in the given scenes (B,): the required objects, of `category` (B, R) on `receptacle` (B, R), -1: none,
        and as many of other training categories as fill the room, at most two of each (three in
        rooms that are packed tightly). A required object with receptacle -1 may lie anywhere."""
        required = category.shape[1]
        total = rng.choice(self.num_objects, size=len(scene), p=NUM_OBJECTS_SHARES)
        most, spares = max(self.num_objects), self.packing.spares
        fillers = self._models(rng, self._fillers(rng, category, most + spares))
        fillers[:, :most] = self._big_first(fillers[:, :most])
        room = _Filling.empty(np.concatenate([self._models(rng, category), fillers], axis=1))
        anywhere = np.full(len(scene), -1)
        for k in range(room.model.shape[1]):
            rows = np.flatnonzero(((room.where >= 0).sum(1) < total) & (room.model[:, k] >= 0))
            for tries in self.packing.tries:
                if len(rows):
                    self._place(rng, scene, room, k, receptacle[:, k] if k < required else anywhere, rows, tries)
                    rows = rows[room.where[rows, k] < 0]
        placed = room.where >= 0
        complete = (placed[:, :required] | (category < 0)).all(1) & (placed.sum(1) >= min(self.num_objects))
        return _shuffle(rng, room, required, complete)

    def _fillers(self, rng: np.random.Generator, taken: np.ndarray, num: int) -> np.ndarray:
        """Categories (B, num) in random order, none of those `taken` (B, R), first ones rather than second ones."""
        often = self.packing.of_kind
        kinds = np.tile(np.array(TRAINING_KINDS), often)
        later = np.repeat(np.arange(often) * _LATER_OF_KIND, len(TRAINING_KINDS))
        key = rng.random((len(taken), len(kinds))) + later
        key[(kinds == taken[..., None]).any(1)] = np.inf
        return kinds[np.argsort(key, axis=1)[:, :num]]

    def _models(self, rng: np.random.Generator, category: np.ndarray) -> np.ndarray:
        model = np.full(category.shape, -1)
        u = rng.random(category.shape)
        for c in range(len(self.variants)):
            of_kind = category == c
            model[of_kind] = self.variants[c][(u[of_kind] * len(self.variants[c])).astype(int)]
        return model

    def _big_first(self, model: np.ndarray) -> np.ndarray:
        """The same models (B, F), those that are hard to place first."""
        area = self.half_size[model, 0] * self.half_size[model, 1]
        return np.take_along_axis(model, np.argsort(-area, axis=1), axis=1)

    def _place(
        self,
        rng: np.random.Generator,
        scene: np.ndarray,
        room: _Filling,
        k: int,
        fixed: np.ndarray,
        rows: np.ndarray,
        tries: int,
    ) -> None:
        """Puts column `k` of the rooms `rows` on the `fixed` receptacle (-1: any), at the first free one of `tries`
        random points, if there is one; in place."""
        scene, fixed, each = scene[rows], fixed[rows], (len(rows), tries)
        s = scene[:, None]
        drawn = (rng.random(each)[..., None] > self.share[scene][:, None]).sum(-1).clip(max=NUM_RECEPTACLES - 1)
        r = np.where(fixed[:, None] >= 0, fixed[:, None], drawn)
        half, center, surface = self.half[s, r], self.center[s, r], self.surface[s, r]  # (B, C, ...)
        size = self.half_size[room.model[rows, k]]  # (B, 3)
        turn = rng.integers(4, size=each) * (math.pi / 2) + (rng.random(each) * 2 - 1) * self.packing.yaw_jitter_rad
        cos, sin = np.abs(np.cos(turn))[..., None], np.abs(np.sin(turn))[..., None]
        extent = cos * size[:, None, :2] + sin * size[:, None, 1::-1]  # (B, C, 2) along the receptacle's axes
        inner = half[..., :2] - extent
        local = (rng.random((*each, 2)) * 2 - 1) * inner.clip(min=0)
        cos, sin = np.cos(self.yaw[s, r]), np.sin(self.yaw[s, r])
        point = np.stack([
            center[..., 0] + local[..., 0] * cos - local[..., 1] * sin,
            center[..., 1] + local[..., 0] * sin + local[..., 1] * cos,
            surface + size[:, None, 2],
        ], axis=-1)  # (B, C, 3)
        above = point[..., 2] - center[..., 2]
        top = np.where(_JOINTED[r], above + size[:, None, 2] + GAP_M, above)
        good = (inner >= 0).all(-1) & (np.abs(above) < half[..., 2]) & (top < half[..., 2])
        good &= self._in_reach(scene, r, point)
        apart = np.abs(local[:, :, None] - room.local[rows, None, :k])  # (B, C, k, 2)
        beside = (apart > extent[:, :, None] + room.extent[rows, None, :k] + GAP_M).any(-1)
        good &= (beside | (room.where[rows, None, :k] != r[..., None])).all(-1)
        found = np.flatnonzero(good.any(1))
        best, rows = good.argmax(1)[found], rows[found]
        room.where[rows, k] = r[found, best]
        room.local[rows, k], room.extent[rows, k] = local[found, best], extent[found, best]
        room.position[rows, k] = point[found, best]
        room.yaw[rows, k] = turn[found, best] + self.yaw[scene[found], r[found, best]]

    def _in_reach(self, scene: np.ndarray, r: np.ndarray, point: np.ndarray) -> np.ndarray:
        """True where an object can be taken from where nav to its receptacle leads, with its drawer open."""
        s = scene[:, None]
        open_by = np.array([0.0 if x.joint < 0 else JOINT_OPEN_TO[x.joint] for x in RECEPTACLES])[r]
        offset = (point + self.slide[s, r] * open_by[..., None] - self.stand[s, r])[..., :2]
        heading = self.stand[s, r, 2]
        distance = np.hypot(offset[..., 0], offset[..., 1])
        ahead = offset[..., 0] * np.cos(heading) + offset[..., 1] * np.sin(heading)
        return (distance <= REACH_M) & (ahead >= math.cos(REACH_ANGLE_RAD) * distance)


def _shuffle(rng: np.random.Generator, room: _Filling, required: int, complete: np.ndarray) -> Arrangement:
    """Objects in random order in the first slots, so that a slot's number says nothing about the task."""
    batch, columns = room.model.shape
    present = room.where >= 0
    order = np.argsort(rng.random((batch, columns)) + np.where(present, 0.0, 2.0), axis=1)
    slot = np.argsort(order, axis=1)  # of each column

    def in_slots(x: np.ndarray, empty: float, dtype: type) -> np.ndarray:
        wide = (..., *[None] * (x.ndim - 2))
        out = np.full((batch, MAX_OBJECTS, *x.shape[2:]), empty, dtype)
        inorder = np.take_along_axis(np.where(present[wide], x, empty), order[wide], axis=1)
        out[:, :columns] = inorder[:, :MAX_OBJECTS]  # what is beyond has found no place
        return out

    receptacle = in_slots(room.where, -1, np.int64)
    return Arrangement(
        model=in_slots(room.model, -1, np.int64),
        position=in_slots(room.position, 0.0, np.float32),
        yaw=in_slots((room.yaw + math.pi) % (2 * math.pi) - math.pi, 0.0, np.float32),
        inside=np.where(_JOINTED[receptacle] & (receptacle >= 0), receptacle, -1),
        receptacle=receptacle,
        slot_of=np.where(present[:, :required], slot[:, :required], -1),
        complete=complete,
    )
