"""The built-in scenes: training and held-out apartments, as the task knows them and as they look.

A scene is a function of (seed, split, number) alone. Its world frame has its origin on the floor in the middle of the
room's outer rectangle.
"""

from __future__ import annotations

import numpy as np
import torch

from llarp.errors import UserError
from llarp.tasks.entities import NUM_HANDLES, NUM_RECEPTACLES, RECEPTACLES
from llarp.tasks.state import SceneSet

from .apartment import KINDS, Apartment, Pieces, furnish
from .assets import LayoutTables, Material, Mesh
from .furniture import furniture
from .navigation import Floats
from .rooms import ROOMS, decor, room_meshes
from .textures import floors, palettes, walls

NUM_TRAIN, NUM_HELDOUT = 72, 24
MIN_DISPLACEMENT_M = 0.6
"""Mean displacement of a held-out scene's furniture from every training scene, at least (see `layout_distance`)."""
SURFACE_BELOW_M = 0.03
"""Boxes that count as "on it" begin this far below the surface."""
SLOTS = (
    "floor", "walls", "kitchen", "drawer_0", "drawer_1", "drawer_2", "drawer_3", "fridge", "fridge_door", "black_table",
    "brown_table", "tv_stand", "tv", "sofa", "chair", "rug", "plant", "lamp", "shelf", "picture", "picture_2", "window",
    "door",
)  # fmt: skip
"""What each furniture slot of a scene holds."""

_TRIES = 400  # rooms furnished until one will do


def _centers(scene: Apartment) -> Floats:
    return np.array([p.pose[:2] for p in scene.placed[: len(KINDS)]])


def _displacement(a: Floats, b: Floats) -> float:
    """Mean displacement of pieces at (P, 2) from those at (..., P, 2), the least over the room's four quarter turns."""
    turns = np.array([[[c, -s], [s, c]] for c, s in ((1, 0), (0, 1), (-1, 0), (0, -1))], float)
    turned = np.einsum("rij,...pj->r...pi", turns, b)
    return float(np.linalg.norm(turned - a, axis=-1).mean(-1).min())


def layout_distance(scenes: SceneSet, a: int, b: int) -> float:
    """Mean displacement (m) of the furniture of scene a from that of scene b, room centres aligned.

    Over the chair, both tables, TV stand, kitchen, sofa and fridge (the kitchen counted once: its parts move together);
    the least over turning room b by quarter turns, since a turned room looks the same to a robot in it.
    """
    at = scenes.receptacle_center[:, (0, 1, 2, 3, 4, 7, 8), :2].double().numpy()
    return _displacement(at[a], at[b])


def build_layouts(seed: int = 0) -> tuple[SceneSet, LayoutTables]:
    """All built-in scenes, training ones first, and what they look like. Takes seconds: keep the result."""
    pieces, decoration = furniture(), decor()
    made: dict[str, list[Apartment]] = {}
    for split, count in (("train", NUM_TRAIN), ("heldout", NUM_HELDOUT)):
        known = np.array([_centers(s) for s in made.get("train", [])])
        made[split] = [_find_scene(seed, split, i, pieces, decoration, known) for i in range(count)]
    splits = [split for split, found in made.items() for _ in found]
    scenes = [scene for found in made.values() for scene in found]
    names = [f"{split}_{i:02d}" for split, found in made.items() for i in range(len(found))]
    return _scene_set(names, splits, scenes), _tables(seed, splits, scenes, pieces, decoration)


def _find_scene(seed: int, split: str, number: int, pieces: Pieces, decoration: Pieces, known: Floats) -> Apartment:
    rooms = ROOMS[split]
    for attempt in range(_TRIES):
        rng = np.random.default_rng((seed, 0 if split == "train" else 1, number, attempt))
        scene = furnish(rng, rooms[number % len(rooms)], pieces, decoration)
        if scene and (not len(known) or _displacement(_centers(scene), known) >= MIN_DISPLACEMENT_M):
            return scene
    raise UserError(f"no {split} scene {number} found with seed {seed} in {_TRIES} tries: use another seed")


def _scene_set(names: list[str], splits: list[str], scenes: list[Apartment]) -> SceneSet:
    count = len(scenes)
    center, half = np.zeros((count, NUM_RECEPTACLES, 3)), np.zeros((count, NUM_RECEPTACLES, 3))
    yaw, surface_z = np.zeros((count, NUM_RECEPTACLES)), np.zeros((count, NUM_RECEPTACLES))
    slide, handle = np.zeros((count, NUM_RECEPTACLES, 3)), np.zeros((count, NUM_HANDLES, 3))
    for row, scene in enumerate(scenes):
        for placed in scene.placed:
            for r, s in placed.piece.surfaces.items():
                low, high = s.z - SURFACE_BELOW_M, s.z + s.above
                middle = np.array([(sum(s.x) / 2, sum(s.y) / 2, (low + high) / 2)])
                center[row, r] = placed.to_world(middle)[0]
                half[row, r] = (s.x[1] - s.x[0]) / 2, (s.y[1] - s.y[0]) / 2, (high - low) / 2
                yaw[row, r], surface_z[row, r] = placed.pose[2], s.z
                if 0 <= RECEPTACLES[r].joint < NUM_HANDLES - 1:
                    slide[row, r, :2] = np.cos(placed.pose[2]), np.sin(placed.pose[2])
            for h, at in placed.piece.handles.items():
                handle[row, h] = placed.to_world(np.array([at]))[0]
    arrays = (center, half, yaw, slide, surface_z, handle, [s.nav for s in scenes], [s.free for s in scenes])
    # rounded, so that another machine's last bit of a sine makes no other scene
    return SceneSet(names, splits, *(torch.from_numpy(np.round(a, 5).astype(np.float32)) for a in arrays))


def _tables(seed: int, splits: list[str], scenes: list[Apartment], pieces: Pieces, decoration: Pieces) -> LayoutTables:
    meshes: list[Mesh] = []
    index: dict[str, int] = {}

    def mesh_id(mesh: Mesh) -> int:
        if mesh.name not in index:
            index[mesh.name] = len(meshes)
            meshes.append(mesh)
        return index[mesh.name]

    materials: list[Material] = []
    pools: dict[tuple[str, str], list[int]] = {}
    for split in ROOMS:
        for kind, make in (("palette", palettes), ("floor", floors), ("wall", walls)):
            added = make(split)
            pools[split, kind] = list(range(len(materials), len(materials) + len(added)))
            materials += added

    shape = (len(scenes), len(SLOTS))
    mesh, material = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    position, slide = np.zeros((*shape, 3), np.float32), np.zeros((*shape, 3), np.float32)
    yaw, hinge = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    joint = np.full(shape, -1, np.int64)
    for row, (scene, split) in enumerate(zip(scenes, splits, strict=True)):
        rng = np.random.default_rng((seed, 2, row))
        for slot, (kind, made) in enumerate(zip(("floor", "wall"), room_meshes(scene.room), strict=True)):
            mesh[row, slot], material[row, slot] = mesh_id(made), rng.choice(pools[split, kind])
        for placed in scene.placed:
            scheme = rng.choice(pools[split, "palette"])  # every piece in a scheme of its own
            for part in placed.piece.parts:
                slot = SLOTS.index(placed.kind if placed.kind == "picture_2" else part.role)
                mesh[row, slot], material[row, slot], joint[row, slot] = mesh_id(part.mesh), scheme, part.joint
                position[row, slot] = placed.to_world(np.array([part.offset]))[0]
                yaw[row, slot], hinge[row, slot] = placed.pose[2], part.hinge
                slide[row, slot, :2] = part.slide * np.cos(placed.pose[2]), part.slide * np.sin(placed.pose[2])
    return LayoutTables(meshes, materials, mesh, material, position, yaw, joint, slide, hinge)
