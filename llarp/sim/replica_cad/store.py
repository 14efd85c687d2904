"""Assets made from downloaded files, kept in the cache as one safetensors file each."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from llarp.cache import cache_dir
from llarp.tasks import state
from llarp.tasks.state import ObjectCatalog, SceneSet

from .. import objects
from ..assets import LayoutTables, Material, Mesh
from ..world import Assets

MAX_ENTRIES = 12
"""The cache keeps this many entries, those used last."""
_POOLED = ("meshes", "materials", "two_sided")


def entry(folders: Sequence[Path], config: Path, scene_names: list[str], object_names: list[str]) -> Path:
    """The cache file for what is asked for. It changes with names, size and time of every file of the folders, and with
    the code that reads them."""
    digest = hashlib.sha256(json.dumps([str(config.resolve()), scene_names, object_names]).encode())
    for folder in folders:
        digest.update(f"{folder.resolve()}\n".encode())
        for path, status in _files(folder):
            digest.update(f"{path} {status.st_size} {status.st_mtime_ns}\n".encode())
    for code in [*sorted(Path(__file__).parent.glob("*.py")), Path(objects.__file__), Path(state.__file__)]:
        digest.update(code.read_bytes())
    return cache_dir("replica_cad") / f"{digest.hexdigest()[:32]}.safetensors"


def _files(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Every file below a folder but hidden ones, in a fixed order."""
    for here, below, names in os.walk(folder):
        below[:] = sorted(d for d in below if not d.startswith("."))
        for name in sorted(names):
            with contextlib.suppress(OSError):  # a link that leads nowhere
                yield os.path.join(here, name), os.stat(os.path.join(here, name))


def save(path: Path, assets: Assets) -> None:
    """Keep assets; the file appears whole or not at all."""
    layouts = assets.layouts
    tensors: dict[str, Tensor] = {}
    _put_meshes(tensors, "layout_mesh", layouts.meshes)
    _put_meshes(tensors, "object_mesh", assets.object_meshes)
    textures = [*layouts.materials, assets.object_material]
    flat = [torch.from_numpy(np.array(m.texture)).reshape(-1) for m in textures]
    tensors["textures"] = torch.cat(flat)
    for f in fields(LayoutTables):
        if f.name not in _POOLED:
            tensors[f"layout.{f.name}"] = torch.from_numpy(getattr(layouts, f.name))
    lists: dict[str, Any] = {
        "materials": [[m.name, *m.texture.shape] for m in textures],
        "two_sided": layouts.two_sided,
        "notes": list(assets.notes),
        "layout_mesh": [m.name for m in layouts.meshes],
        "object_mesh": [m.name for m in assets.object_meshes],
        "level": [m.level for m in assets.object_meshes],
    }
    for name, record in (("scenes", assets.scenes), ("catalog", assets.catalog)):
        for f in fields(record):
            value = getattr(record, f.name)
            if isinstance(value, Tensor):
                tensors[f"{name}.{f.name}"] = value
            else:
                lists[f"{name}.{f.name}"] = value
    tensors = {k: v.contiguous().clone() for k, v in tensors.items()}
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".partial")
    os.close(handle)
    try:
        save_file(tensors, temporary, {"lists": json.dumps(lists)})
        os.replace(temporary, path)
    except OSError:  # a full disk, say: everything works without a cache
        with contextlib.suppress(OSError):
            os.unlink(temporary)
    _drop_old(path.parent)


def load(path: Path) -> Assets | None:
    """The assets kept in a file; None if there is none or it is damaged."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            lists = json.loads(file.metadata()["lists"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        assets = _unpacked(tensors, lists)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RuntimeError):
        return None
    with contextlib.suppress(OSError):
        os.utime(path)
    return assets


def _unpacked(tensors: dict[str, Tensor], lists: dict[str, Any]) -> Assets:
    def record(kind: type, name: str) -> Any:
        names = [f.name for f in fields(kind)]
        return kind(**{n: tensors.get(f"{name}.{n}", lists.get(f"{name}.{n}")) for n in names})

    pixels, materials, at = tensors["textures"].numpy(), [], 0
    for name, *shape in lists["materials"]:
        size = int(np.prod(shape))
        materials.append(Material(name, pixels[at : at + size].reshape(shape)))
        at += size
    tables = {f.name: tensors[f"layout.{f.name}"].numpy() for f in fields(LayoutTables) if f.name not in _POOLED}
    meshes = _meshes(tensors, "layout_mesh", lists["layout_mesh"])
    layouts = LayoutTables(meshes=meshes, materials=materials[:-1], **tables, two_sided=lists["two_sided"])
    object_meshes = _meshes(tensors, "object_mesh", lists["object_mesh"])
    for mesh, level in zip(object_meshes, lists["level"], strict=True):
        mesh.level = level
    scenes, catalog = record(SceneSet, "scenes"), record(ObjectCatalog, "catalog")
    return Assets(scenes, layouts, catalog, object_meshes, materials[-1], tuple(lists["notes"]))


def _put_meshes(tensors: dict[str, Tensor], name: str, meshes: Sequence[Mesh]) -> None:
    """All meshes in four tensors: their vertices, coordinates and faces one after the other, and how many of each."""
    counts = [(len(m.vertices), len(m.faces)) for m in meshes]
    tensors[f"{name}.counts"] = torch.tensor(counts, dtype=torch.int64).reshape(-1, 2)
    for part, width, dtype in (("vertices", 3, np.float32), ("uv", 2, np.float32), ("faces", 3, np.int32)):
        arrays = [getattr(m, part).astype(dtype) for m in meshes] or [np.zeros((0, width), dtype)]
        tensors[f"{name}.{part}"] = torch.from_numpy(np.concatenate(arrays))


def _meshes(tensors: dict[str, Tensor], name: str, names: Sequence[str]) -> list[Mesh]:
    counts = tensors[f"{name}.counts"].numpy()
    ends = counts.cumsum(0)
    vertices, uv, faces = (tensors[f"{name}.{part}"].numpy() for part in ("vertices", "uv", "faces"))
    found = []
    for label, (v, f), (v_end, f_end) in zip(names, counts, ends, strict=True):
        found.append(Mesh(label, vertices[v_end - v : v_end], faces[f_end - f : f_end], uv[v_end - v : v_end]))
    return found


def _drop_old(folder: Path) -> None:
    with contextlib.suppress(OSError):  # another process may be tidying too
        entries = sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
        for old in entries[:-MAX_ENTRIES]:
            old.unlink()
