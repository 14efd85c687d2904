"""ReplicaCAD apartments with the objects of published episodes, made ready for the simulator and kept in a cache."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from llarp.errors import UserError

from ..world import Assets
from . import store
from .files import open_dataset
from .geometry import scene_set
from .looks import Pool, layout_tables
from .objects import category_of, load_objects
from .ycb import YCB

_SCENE = re.compile(r"v3_sc\d+_staging_\d+")


def load_replica_cad(
    folder: Path, scene_names: Sequence[str], object_names: Sequence[str], objects_folder: Path | None = None
) -> Assets:
    """What worlds in the named scenes (such as "v3_sc3_staging_00") with the named object models are built from.

    Args:
        folder: a ReplicaCAD download in Habitat's scene-dataset layout.
        scene_names, object_names: rows of the scenes' and the objects' tables, in this order.
        objects_folder: Habitat's `data/objects/ycb`, where the user has it; other YCB models are stand-in shapes.

    Seconds the first time; from the cache, as long as no file of the folders has changed, a fraction of one.
    Anything missing or malformed is a UserError that names its file.
    """
    dataset = open_dataset(folder)
    folders = [dataset.folder.root, *([objects_folder.expanduser()] if objects_folder else [])]
    entry = store.entry(folders, dataset.file, list(scene_names), list(object_names))
    kept = store.load(entry)
    if kept is not None:
        return kept
    pool = Pool()
    layouts = layout_tables(dataset, scene_names, pool)
    objects = load_objects(dataset, object_names, objects_folder)
    notes = list(objects.notes)
    if pool.unread_textures:
        notes.append(f"{pool.unread_textures} textures of scenes are of a kind that is not read: drawn in grey")
    scenes = scene_set(dataset, scene_names, read_model=pool.model)
    assets = Assets(scenes, layouts, objects.catalog, objects.meshes, objects.material, tuple(notes))
    store.save(entry, assets)
    return assets


def benchmark_names(folder: Path) -> tuple[list[str], list[str]]:
    """Scenes of a ReplicaCAD download that the benchmark plays in, and object models, YCB's included, of categories
    that it knows, for `load_replica_cad`."""
    dataset = open_dataset(folder)
    scenes = sorted(name for name in dataset.scenes if _SCENE.fullmatch(name))
    if not scenes:
        raise UserError(f"{dataset.file}: names none of the benchmark's scenes, such as v3_sc0_staging_00; download "
                        "ReplicaCAD whole")  # fmt: skip
    return scenes, sorted(name for name in {*YCB, *dataset.objects} if category_of(name) >= 0)
