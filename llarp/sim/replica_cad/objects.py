"""The objects of published episodes: ReplicaCAD's own models, YCB's where the user has them, otherwise stand-ins.

A model's origin is the one Habitat gives it, in which the episodes state poses: the centre of mass of its config, else
the centre of its mesh's bounding box. Letters in shapes: K object models, V vertices.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from llarp.errors import UserError
from llarp.tasks.entities import CATEGORY_INDEX
from llarp.tasks.state import ObjectCatalog

from ..assets import Material, Mesh
from ..meshes import box, centered, merge, transform
from ..object_palette import cell, object_material
from ..objects import build_objects
from .files import Dataset, ObjectConfig, read_object_config
from .folder import Folder
from .glb import Model, read_glb
from .looks import TO_OURS, asset_matrix, turned
from .ycb import YCB

_TILE = 128  # pixels a side of a texture in the objects' common one
MAX_FACES = 2_000
"""Object models are reduced to about so many faces."""
_ENDING = ".object_config.json"
_REPLICA_CAD = re.compile(r"frl_apartment_([a-z]+)")
_Part = tuple[Mesh, NDArray[np.uint8]]


@dataclass(frozen=True)
class Objects:
    """The models as the simulator wants them."""

    catalog: ObjectCatalog
    meshes: list[Mesh]  # K, in the catalogue's order
    material: Material  # one texture with all of theirs side by side
    notes: tuple[str, ...]


def category_of(name: str) -> int:
    """Index into CATEGORIES of an object model, -1: of none of them (clutter)."""
    if name in YCB:
        return CATEGORY_INDEX.get(YCB[name].category, -1)
    found = _REPLICA_CAD.match(name)
    return CATEGORY_INDEX.get(found[1], -1) if found else -1


def load_objects(dataset: Dataset, names: Sequence[str], folder: Path | None) -> Objects:
    """The named object models; `folder` may hold YCB's (`configs/NAME.object_config.json` and what those name).

    A name that is neither ReplicaCAD's nor YCB's nor in `folder` is a UserError.
    """
    own = ObjectFolder(folder) if folder else None
    unknown = [n for n in names if n not in dataset.objects and n not in YCB and not (own and n in own.configs)]
    if unknown:
        more = f" (and {len(unknown) - 1} more)" if unknown[1:] else ""
        where = "ReplicaCAD or YCB" + (f" or {folder}" if folder else "")
        raise UserError(f"no object model {unknown[0]!r}{more} in {where}: name a folder with it by objects=FOLDER")
    palette = object_material()
    parts: list[list[_Part]] = []
    count = unread = 0
    for name in names:
        config = own.config(name) if own and name in own.configs else None
        if config is None and name in dataset.objects:
            config = dataset.object(name)
        if config is not None and config.render_asset is not None:
            model = _model(config.render_asset)
            unread += model.unread_textures
            parts.append(_parts(name, config, model))
            parts[-1][0][0].level = config.level
        else:
            count += 1
            parts.append([(standin(name), palette.texture)])
    meshes, material = _packed(names, parts)
    for mesh, part in zip(meshes, parts, strict=True):
        mesh.level = part[0][0].level
    notes = []
    if count:
        why = f"not in {folder}" if folder else "objects=FOLDER can name a folder with the models"
        notes.append(f"{count} of {len(names)} object models are stand-in shapes of the right size ({why})")
    if unread:
        notes.append(f"{unread} textures of objects are of a kind that is not read (Basis Universal): drawn in grey")
    return Objects(_catalog(names, meshes), meshes, material, tuple(notes))


class ObjectFolder:
    """A folder of object configs: Habitat's `data/objects/ycb`, or its `configs`."""

    def __init__(self, path: Path):
        path = path.expanduser()
        if not path.is_dir():
            raise UserError(f"{path}: no such folder of object models")
        root = path.parent if path.name == "configs" else path
        self._folder = Folder(root)
        found = sorted([*root.glob(f"configs/*{_ENDING}"), *root.glob(f"*{_ENDING}")])
        if not found:
            raise UserError(f"{path}: no configs/*{_ENDING} in it: give a folder such as data/objects/ycb")
        self.configs = {f.name.removesuffix(_ENDING): f for f in found}

    def config(self, name: str) -> ObjectConfig:
        return read_object_config(self._folder, self.configs[name])


def _model(file: Path) -> Model:
    """A mesh file; where its textures are of a kind that is not read, the original that Habitat keeps beside it."""
    model, original = read_glb(file), file.with_name(file.name + ".orig")
    return read_glb(original) if model.unread_textures and original.is_file() else model


def _parts(name: str, config: ObjectConfig, model: Model) -> list[_Part]:
    """A model's patches in our frame, origin as Habitat has it."""
    matrix = asset_matrix(config, model, np.ones(3))
    matrix[:3] = TO_OURS @ matrix[:3]
    made = [(turned(patch, matrix, name), patch) for patch in model.patches]
    found = [(reduced(mesh), patch.texture) for mesh, patch in made if mesh is not None]
    if not found:
        raise UserError(f"{config.render_asset}: object {name} has no triangle with an area")
    return found


def reduced(mesh: Mesh, limit: int = MAX_FACES) -> Mesh:
    """A mesh of at most about `limit` faces, by joining vertices that share a cell of a grid (Rossignac, Borrel 1993).

    Scanned models have 16,000 faces, of which a picture of 224 pixels shows a few hundred. Vertices of a cell move to
    its mean together; those with other texture coordinates stay apart, so that seams of the texture stay seams.
    """
    if len(mesh.faces) <= limit:
        return mesh
    low, size = mesh.vertices.min(0), float(np.max(np.ptp(mesh.vertices, axis=0)))
    texel = np.floor(mesh.uv * 8).astype(np.int64) % 1024
    for cells in (48, 36, 27, 20, 14, 9, 6):
        at = np.floor((mesh.vertices - low) / size * cells).astype(np.int64)
        _, place = np.unique(at @ (4096, 64, 1), return_inverse=True)
        seamed, patch = np.unique((place * 1024 + texel[:, 0]) * 1024 + texel[:, 1], return_inverse=True)
        faces, corner = patch[mesh.faces], place[mesh.faces]
        faces = faces[(corner != np.roll(corner, 1, axis=1)).all(1)]
        if len(faces) <= limit:
            break
    places = _means(mesh.vertices, place)[seamed >> 20]
    return Mesh(mesh.name, places, faces.astype(np.int32), _means(mesh.uv, patch))


def _means(values: NDArray[np.float32], group: NDArray[np.int64]) -> NDArray[np.float32]:
    """Mean of the rows of each group, (groups, ...)."""
    sums = np.stack([np.bincount(group, column) for column in values.T], axis=1)
    return (sums / np.bincount(group)[:, None]).astype(np.float32)


def standin(name: str) -> Mesh:
    """A shape of our own for an object model, as large as it; its box's centre is the origin, its colours are those
    of `object_palette`."""
    model = YCB.get(name)
    if model is None or model.category not in CATEGORY_INDEX:
        size = np.array((0.1, 0.1, 0.1) if model is None else model.size)
        return Mesh(name, *_arrays(box(size / 2, cell("tan"))), level=True)
    mesh = centered(_lent()[f"{model.category.replace(' ', '_')}_{model.variant}"])
    if model.on_side:
        mesh = transform(mesh, roll=np.pi / 2)
    extent = np.ptp(mesh.vertices, axis=0)
    return Mesh(name, *_arrays(transform(mesh, scale=(np.array(model.size) / extent).tolist())), level=True)


@cache
def _lent() -> dict[str, Mesh]:
    """Our own models by name, which lend stand-ins their shapes."""
    catalog, meshes, _ = build_objects()
    return dict(zip(catalog.names, meshes, strict=True))


def _arrays(mesh: Mesh) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    return mesh.vertices, mesh.faces, mesh.uv


def _packed(names: Sequence[str], parts: Sequence[Sequence[_Part]]) -> tuple[list[Mesh], Material]:
    """One mesh a model, and one texture with all textures side by side as square tiles, each once."""
    tiles: list[NDArray[np.uint8]] = []
    index: dict[bytes, int] = {}
    for part in parts:
        for _, texture in part:
            if texture.tobytes() not in index:
                index[texture.tobytes()] = len(tiles)
                smooth = Image.Resampling.NEAREST if min(texture.shape[:2]) <= _TILE / 2 else Image.Resampling.BOX
                tiles.append(np.asarray(Image.fromarray(texture).resize((_TILE, _TILE), smooth)))
    across = max(int(np.ceil(np.sqrt(len(tiles)))), 1)
    sheet = np.zeros((across, _TILE, across, _TILE, 3), np.uint8)
    for i, tile in enumerate(tiles):
        sheet[i // across, :, i % across] = tile
    meshes = []
    for name, part in zip(names, parts, strict=True):
        moved = [_on_tile(mesh, index[texture.tobytes()], across) for mesh, texture in part]
        meshes.append(merge(name, moved))
    side = across * _TILE
    return meshes, Material("objects", sheet.reshape(side, side, 3))


def _on_tile(mesh: Mesh, tile: int, across: int) -> Mesh:
    """The mesh with texture coordinates on a tile of the common texture. A texture that repeats does so no longer."""
    corner = mesh.uv[mesh.faces]  # (F, 3, 2)
    whole = np.floor(corner.mean(1, keepdims=True))
    shifted = (whole != 0).any()
    if shifted:  # faces share no vertices, since each moves by whole textures of its own
        faces = np.arange(mesh.faces.size, dtype=np.int32).reshape(-1, 3)
        mesh = Mesh(mesh.name, mesh.vertices[mesh.faces.ravel()], faces, (corner - whole).reshape(-1, 2))
    row, column = divmod(tile, across)
    inset = (0.5 + np.clip(mesh.uv, 0, 1) * (_TILE - 1)) / _TILE  # half a pixel, or neighbouring tiles would blend in
    uv = (inset + (column, row)) / across
    return Mesh(mesh.name, mesh.vertices, mesh.faces, uv.astype(np.float32))


def _catalog(names: Sequence[str], meshes: Sequence[Mesh]) -> ObjectCatalog:
    """Half sizes are reaches from the origin, which need not be the box's centre; downwards exactly."""
    half = [np.append(np.abs(m.vertices[:, :2]).max(0), max(-float(np.min(m.vertices[:, 2])), 1e-3)) for m in meshes]
    return ObjectCatalog(
        names=list(names),
        splits=["train"] * len(names),
        category=torch.tensor([category_of(n) for n in names], dtype=torch.int64),
        half_size=torch.from_numpy(np.array(half, np.float32).reshape(-1, 3)),
    )
