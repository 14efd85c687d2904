"""How ReplicaCAD apartments look: stage, furniture and articulated furniture as slots of `LayoutTables`.

The dataset's frame (y up) becomes ours (z up). A slot turns about the vertical alone, so whatever tilt and size an
instance has goes into a copy of its mesh; upright furniture shares one mesh between all scenes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np

from llarp.errors import UserError
from llarp.tasks.entities import FRIDGE_HANDLE

from ..assets import LayoutTables, Material, Mesh
from .files import Dataset, Instance, ObjectConfig, SceneInstance
from .folder import Floats
from .glb import MAX_SIZE_M, Model, Patch, read_glb
from .urdf import Articulated, rigid

TO_OURS = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
"""Rows (x, -z, y): from the dataset's frame to ours."""
HANDLE_LINKS = {
    ("kitchen_counter", "drawer1_top"): 0,
    ("kitchen_counter", "drawer2_top"): 1,
    ("kitchen_counter", "drawer3"): 2,
    ("kitchen_counter", "drawer4"): 3,
    ("fridge", "top_door"): FRIDGE_HANDLE,
}
"""The handle (index into HANDLES) that moves a link of an articulated object; other links stay at 0."""

MAX_PIECES = 2000
"""Meshes of a scene; ReplicaCAD's have about 50."""
_UPRIGHT = 0.005  # rad and shares of size below which an instance counts as upright and as large as the next


@dataclass
class Piece:
    """One mesh of a scene, where it stands: a slot of the tables."""

    mesh: int
    material: int
    position: Floats  # (3,) ours
    yaw: float
    joint: int = -1
    slide: Floats = field(default_factory=lambda: np.zeros(3))  # (3,) metres per metre of the joint
    hinge: float = 0.0


class Pool:
    """Meshes and materials that scenes share, each kept once; files are read once."""

    def __init__(self) -> None:
        self.meshes: list[Mesh] = []
        self.materials: list[Material] = []
        self.unread_textures = 0
        self._models: dict[Path, Model] = {}
        self._mesh_index: dict[tuple, int] = {}
        self._material_index: dict[bytes, int] = {}

    def model(self, file: Path) -> Model:
        """What a .glb file holds."""
        if file.suffix.lower() != ".glb":
            raise UserError(f"mesh file {file}: only .glb files are read; convert it")
        if file not in self._models:
            self._models[file] = read_glb(file)
            self.unread_textures += self._models[file].unread_textures
        return self._models[file]

    def add(self, file: Path, baked: Floats) -> Iterator[tuple[int, int]]:
        """(mesh, material) of each patch of a file; `baked` (4, 4) takes its vertices to the slot's frame."""
        for number, patch in enumerate(self.model(file).patches):
            key = (file, number, *np.round(baked[:3].ravel() / _UPRIGHT).astype(int))
            if key not in self._mesh_index:
                name = f"{file.stem}.{number}.{len(self.meshes)}"
                mesh = turned(patch, baked, name)
                if mesh is None:
                    continue
                self._mesh_index[key] = len(self.meshes)
                self.meshes.append(mesh)
            digest = hashlib.sha256(patch.texture.tobytes() + repr(patch.texture.shape).encode()).digest()
            if digest not in self._material_index:
                self._material_index[digest] = len(self.materials)
                self.materials.append(Material(f"{file.stem}.{number}", patch.texture))
            yield self._mesh_index[key], self._material_index[digest]


def turned(patch: Patch, matrix: Floats, name: str) -> Mesh | None:
    """A patch with its vertices moved by a matrix (4, 4); None if nothing of it has an area."""
    points = patch.vertices @ matrix[:3, :3].T + matrix[:3, 3]
    if np.abs(points).max() > MAX_SIZE_M:
        raise UserError(f"mesh {name} is made larger than {MAX_SIZE_M:.0f} m by its scale")
    faces = patch.faces if np.linalg.det(matrix[:3, :3]) > 0 else patch.faces[:, ::-1]
    a, b, c = (points[faces[:, i]] for i in range(3))
    faces = faces[np.linalg.norm(np.cross(b - a, c - a), axis=1) > 1e-12]
    used, index = np.unique(faces, return_inverse=True)
    if not len(faces):
        return None
    index = index.reshape(-1, 3)
    while len(used) < 4:  # MuJoCo wants four
        used = np.append(used, used[-1])
    return Mesh(name, points[used].astype(np.float32), index.astype(np.int32), patch.uv[used])


def asset_matrix(config: ObjectConfig, model: Model, scale: Floats, origin_is_com: bool = True) -> Floats:
    """(4, 4) from a mesh file's frame to the object's (y up): up and front as configured, scale, origin."""
    up, front = config.up / np.linalg.norm(config.up), config.front
    back = -(front - up * (front @ up))
    if np.linalg.norm(back) < 1e-6:
        raise UserError(f"{config.file}: up {config.up.tolist()} and front {front.tolist()} are parallel")
    back /= np.linalg.norm(back)
    turn = np.stack([np.cross(up, back), up, back])  # rows: what becomes x, y, z
    matrix = rigid(np.zeros(3), turn @ np.diag(config.scale * scale))
    if origin_is_com:
        low = np.min([p.vertices.min(0) for p in model.patches], axis=0)
        high = np.max([p.vertices.max(0) for p in model.patches], axis=0)
        com = (low + high) / 2 if config.com is None else config.com
        matrix[:3, 3] = -matrix[:3, :3] @ com
    return matrix


def stage_matrix(config: ObjectConfig, scale: Floats) -> Floats:
    """(4, 4) from a stage's mesh file to the scene (y up): Habitat turns and scales stages, but moves none."""
    return asset_matrix(config, Model(()), scale, origin_is_com=False)


def upright(rotation: Floats) -> tuple[float, Floats]:
    """Yaw of a rotation (3, 3) of ours, and what is left of it below the yaw (3, 3): exactly 1 if it is upright."""
    yaw = float(np.arctan2(rotation[1, 0] - rotation[0, 1], rotation[0, 0] + rotation[1, 1]))
    cos, sin = np.cos(yaw), np.sin(yaw)
    tilt = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) @ rotation
    return yaw, np.eye(3) if np.abs(tilt - np.eye(3)).max() < _UPRIGHT else tilt


def layout_tables(dataset: Dataset, scene_names: Sequence[str], pool: Pool) -> LayoutTables:
    """The looks of the named scenes of a ReplicaCAD download, one row each; their meshes and materials go to `pool`."""
    scenes = [_all_pieces(dataset, dataset.scene(name), pool) for name in scene_names]
    shape = (len(scenes), max((len(s) for s in scenes), default=0))
    mesh, material = np.full(shape, -1, np.int64), np.zeros(shape, np.int64)
    position, slide = np.zeros((*shape, 3), np.float32), np.zeros((*shape, 3), np.float32)
    yaw, hinge, joint = np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.full(shape, -1, np.int64)
    for row, pieces in enumerate(scenes):
        for slot, piece in enumerate(pieces):
            mesh[row, slot], material[row, slot], joint[row, slot] = piece.mesh, piece.material, piece.joint
            position[row, slot], yaw[row, slot] = piece.position, piece.yaw
            slide[row, slot], hinge[row, slot] = piece.slide, piece.hinge
    pooled = (pool.meshes, pool.materials, mesh, material)
    return LayoutTables(*pooled, position, yaw, joint, slide, hinge, two_sided=True)


def _all_pieces(dataset: Dataset, scene: SceneInstance, pool: Pool) -> list[Piece]:
    pieces = list(islice(_pieces(dataset, scene, pool), MAX_PIECES + 1))
    if len(pieces) > MAX_PIECES:
        raise UserError(f"{scene.file}: more than {MAX_PIECES} meshes in a scene, which cannot be drawn")
    return pieces


def _pieces(dataset: Dataset, scene: SceneInstance, pool: Pool) -> Iterator[Piece]:
    stage = dataset.stage(scene.stage.template, scene.file)
    if stage.render_asset is not None:
        yield from _standing(pool, stage.render_asset, np.eye(4), stage_matrix(stage, scene.stage.scale))
    for instance in scene.objects:
        yield from _rigid_pieces(dataset, dataset.object(instance.template, scene.file), instance, pool)
    for instance in scene.articulated:
        yield from _articulated_pieces(dataset.articulated(instance.template, scene.file), instance, pool)


def _rigid_pieces(dataset: Dataset, config: ObjectConfig, instance: Instance, pool: Pool) -> Iterator[Piece]:
    if config.render_asset is None:
        return
    model = pool.model(config.render_asset)
    asset = asset_matrix(config, model, instance.scale, instance.origin_is_com)
    yield from _standing(pool, config.render_asset, instance.matrix, asset)


def _articulated_pieces(made: Articulated, instance: Instance, pool: Pool) -> Iterator[Piece]:
    scale = float(instance.scale.prod() ** (1 / 3))
    for link, visuals in made.links.items():
        world = instance.matrix @ made.link_matrix(link, scale)
        handle = HANDLE_LINKS.get((made.name, link), -1)
        moves = partial(_motion, made, link, TO_OURS @ world[:3, :3]) if handle >= 0 else None
        for visual in visuals:
            origin = rigid(visual.origin[:3, 3] * scale, visual.origin[:3, :3] @ np.diag(visual.scale * scale))
            for piece in _standing(pool, visual.mesh, world, origin):
                if moves is not None:
                    piece.joint, (piece.slide, piece.hinge) = handle, moves()
                yield piece


def _motion(made: Articulated, link: str, turn: Floats) -> tuple[Floats, float]:
    """(slide (3,), hinge) of a link whose frame lies as `turn` (3, 3) in ours."""
    joint = made.joints[link] if link in made.joints else None
    if joint is None or joint.kind == "fixed":
        raise UserError(f"{made.file}: link {link!r} has no joint to open it by")
    axis = turn @ joint.axis
    if joint.kind == "prismatic":
        return axis, 0.0
    if abs(axis[2]) < 0.99:
        raise UserError(f"{made.file}: the hinge of {link!r} is not vertical, which is not supported")
    return np.zeros(3), float(np.sign(axis[2]))


def _standing(pool: Pool, file: Path, world: Floats, asset: Floats) -> Iterator[Piece]:
    """The pieces of a mesh file: `asset` (4, 4) takes it to its object's frame, `world` (4, 4) that to the scene's."""
    yaw, tilt = upright(TO_OURS @ world[:3, :3] @ TO_OURS.T)
    baked = np.eye(4)
    baked[:3] = tilt @ TO_OURS @ asset[:3]
    for mesh, material in pool.add(file, baked):
        yield Piece(mesh, material, TO_OURS @ world[:3, 3], yaw)
