"""Where things are in ReplicaCAD apartments: boxes of receptacles, handles, nav poses, free floor.

As in the original, boxes are those of the dataset with all joints at 0, a nav pose is the point of the navmesh nearest
to the box's centre or the handle, turned towards it, and of several objects with the same receptacle (a room has two
chairs) the last one's counts. Things rest on the bottoms of the boxes, which the dataset puts on the surfaces (on the
sofa some 3 cm above). Letters in shapes: R receptacles (11), H handles (5).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from llarp.errors import UserError
from llarp.tasks.entities import FRIDGE_HANDLE, NUM_HANDLES, RECEPTACLES
from llarp.tasks.state import SceneSet

from .files import Dataset, Instance, SceneInstance, open_dataset
from .folder import Floats
from .glb import Model, read_glb
from .looks import TO_OURS, asset_matrix, stage_matrix
from .navmesh import NavMesh
from .navmesh_file import read_navmesh
from .urdf import Articulated, ReceptacleBox

TRAIN_PREFIXES = ("v3_sc0_", "v3_sc1_", "v3_sc2_")
"""Layouts of which the paper trains on; it evaluates on v3_sc3."""
FREE_POINTS = 1024
"""Start positions kept of every scene."""
START_STEP_M = 0.1
"""Start positions are at most this far above or below the floor: a navmesh may go up onto low furniture."""

HANDLE_MARKERS: tuple[tuple[str, str, tuple[float, float, float]], ...] = (
    ("kitchen_counter", "drawer1_top", (0.3, 0.0, 0.0)),
    ("kitchen_counter", "drawer2_top", (0.3, 0.0, 0.0)),
    ("kitchen_counter", "drawer3", (0.3, 0.0, 0.0)),
    ("kitchen_counter", "drawer4", (0.3, 0.0, 0.0)),
    ("fridge", "top_door", (0.1, -0.62, 0.2)),
)
"""By handle: articulated object, link, and the handle's place in the link's frame (m), as the episode files say."""


@dataclass(frozen=True, eq=False)
class _Box:
    """A receptacle in a scene: its box in the frame of its parent, that frame, and how a joint moves it."""

    parent: Floats  # (4, 4)
    center: Floats  # (3,) in the parent's frame
    half: Floats  # (3,)
    slide: Floats  # (3,) per metre of the joint, in the dataset's frame


@dataclass(frozen=True)
class _Source:
    """Where scenes are read from."""

    dataset: Dataset
    model: Callable[[Path], Model]  # what a mesh file holds


def scene_set(
    folder: str | Path | Dataset,
    scene_names: Sequence[str],
    seed: int = 0,
    read_model: Callable[[Path], Model] | None = None,
) -> SceneSet:
    """The named scenes (such as "v3_sc3_staging_00") of a ReplicaCAD download; `seed` draws start positions.

    `read_model` gives what a mesh file holds, if the caller has read it already. A scene that lacks one of the 11
    receptacles, or whose navmesh has no floor, is a UserError."""
    dataset = folder if isinstance(folder, Dataset) else open_dataset(folder)
    source = _Source(dataset, read_model or cache(read_glb))
    rows = [_scene(source, dataset.scene(name), seed) for name in scene_names]
    splits = ["train" if name.startswith(TRAIN_PREFIXES) else "heldout" for name in scene_names]
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]} if rows else {}
    # rounded, so that another machine's last bit of a sine makes no other scene
    tensors = {key: torch.from_numpy(np.round(value, 6).astype(np.float32)) for key, value in columns.items()}
    return SceneSet(list(scene_names), splits, **tensors)


def _scene(source: _Source, scene: SceneInstance, seed: int) -> dict[str, Floats]:
    """One row of every tensor of a SceneSet, by its name."""
    dataset, found = source.dataset, _boxes(source, scene)
    missing = [r.published_name for r in RECEPTACLES if r.published_name not in found]
    if missing:
        raise UserError(f"{scene.file}: the scene has no {missing[0]}, so it is none of the benchmark's")
    boxes = [found[r.published_name] for r in RECEPTACLES]
    upright = [_upright(box) for box in boxes]
    center = np.array([(box.parent @ np.append(box.center, 1))[:3] for box in boxes])
    span = np.array([np.abs(box.parent[:3, :3] @ box.half) for box in boxes])
    handles = np.array([_handle(dataset, scene, h) for h in range(NUM_HANDLES)])
    mesh = read_navmesh(dataset.folder, dataset.navmesh(scene))
    island = mesh.largest_indoor_island(_stage(source, scene))
    nav = np.array([_nav_pose(mesh, island, target) for target in (*handles, *center)])
    free, floor = _start_points(mesh, island, seed)
    low, high, slide = (np.array(column) for column in zip(*_containers(source, scene), strict=True))
    half = np.array([h for h, _ in upright])
    return {
        "receptacle_center": _ours(center),
        "receptacle_half": half,
        "receptacle_yaw": np.array([yaw for _, yaw in upright]),
        "receptacle_slide": _ours(np.array([box.slide for box in boxes])),
        "surface_z": center[:, 1] - half[:, 2],
        "handle_position": _ours(handles),
        "nav_pose": np.column_stack((_ours(nav[:, :3])[:, :2], nav[:, 3])),
        "free_xy": _ours(free)[:, :2],
        "receptacle_span": span[:, (0, 2, 1)],
        "container_center": _ours((low + high) / 2),
        "container_half": ((high - low) / 2)[:, (0, 2, 1)],
        "container_slide": _ours(slide),
        "nav_height": nav[:, 1],
        "floor_height": np.array(floor),
    }


def _ours(points: Floats) -> Floats:
    """Points or directions (..., 3) of the dataset's frame in ours."""
    return points @ TO_OURS.T


def _stage(source: _Source, scene: SceneInstance) -> Floats:
    """The triangles (K, 3, 3) of a scene's floor, walls and ceiling, where it has one."""
    config = source.dataset.stage(scene.stage.template, scene.file)
    patches = source.model(config.render_asset).patches if config.render_asset is not None else ()
    triangles = [patch.vertices[patch.faces] for patch in patches]
    matrix = stage_matrix(config, scene.stage.scale)
    return np.concatenate([np.zeros((0, 3, 3)), *triangles]) @ matrix[:3, :3].T + matrix[:3, 3]


def _boxes(source: _Source, scene: SceneInstance) -> dict[str, _Box]:
    """The receptacles of a scene by name."""
    found: dict[str, _Box] = {}
    for instance in scene.objects:
        config = source.dataset.object(instance.template, scene.file)
        if config.receptacles:
            if config.render_asset is None:
                raise UserError(f"{config.file}: it has receptacles, but no render_asset")
            asset = asset_matrix(config, source.model(config.render_asset), instance.scale, instance.origin_is_com)
            frame = instance.matrix @ asset
            found |= {r.name: _Box(frame, r.position, r.half, np.zeros(3)) for r in config.receptacles}
    for instance in scene.articulated:
        articulated = source.dataset.articulated(instance.template, scene.file)
        found |= {r.name: _link_box(articulated, instance, r) for r in articulated.receptacles}
    return found


def _link_box(articulated: Articulated, instance: Instance, box: ReceptacleBox) -> _Box:
    """A receptacle on a link, all joints at 0."""
    scale, link = instance.scale[0], box.parent_link
    if link is None:
        raise UserError(f"{articulated.file}: {box.name} names no link of it")
    frame, slide = _link(articulated, instance, link)
    return _Box(frame, box.position * scale, box.half * scale, slide)


def _link(articulated: Articulated, instance: Instance, link: str) -> tuple[Floats, Floats]:
    """A link's frame (4, 4), joints at 0, and its displacement (3,) per metre if its own joint is a slide, else 0."""
    frame = instance.matrix @ articulated.link_matrix(link, instance.scale[0])
    joint = articulated.joints.get(link)
    slides = joint is not None and joint.kind == "prismatic"
    return frame, frame[:3, :3] @ joint.axis if joint is not None and slides else np.zeros(3)


def _upright(box: _Box) -> tuple[Floats, float]:
    """The box as one that stands upright in our frame: half sizes (3,) along its own x and y and up, and its yaw.

    Whichever of the parent's axes is nearest to upright is the height, so a fridge defined lying down stands."""
    axes = TO_OURS @ box.parent[:3, :3]  # columns: the parent's axes in our frame, as long as the parent's scale
    half = np.linalg.norm(axes, axis=0) * box.half
    up = int(np.abs(axes[2] / np.linalg.norm(axes, axis=0)).argmax())
    first, second = (i for i in range(3) if i != up)
    return half[[first, second, up]], float(np.arctan2(axes[1, first], axes[0, first]))


def _articulated(dataset: Dataset, scene: SceneInstance, name: str) -> tuple[Articulated, Instance]:
    """The first articulated object of a name in a scene."""
    for instance in scene.articulated:
        if instance.template == name:
            return dataset.articulated(name, scene.file), instance
    raise UserError(f"{scene.file}: the scene has no {name}, so it is none of the benchmark's")


def _handle(dataset: Dataset, scene: SceneInstance, handle: int) -> Floats:
    """Where a handle is, (3,), joints at 0."""
    name, link, offset = HANDLE_MARKERS[handle]
    articulated, instance = _articulated(dataset, scene, name)
    if link not in articulated.links:
        raise UserError(f"{articulated.file}: no link {link!r}, on which a handle hangs")
    frame, _ = _link(articulated, instance, link)
    return (frame @ np.array((*offset, 1.0)))[:3]


def _containers(source: _Source, scene: SceneInstance) -> list[tuple[Floats, Floats, Floats]]:
    """Lowest and highest corner and slide (each (3,)) of what every handle's furniture can hold, joints at 0.

    For a drawer the box about its link's meshes counts; for the fridge that about all its links."""
    out: list[tuple[Floats, Floats, Floats]] = []
    for handle, (name, link, _) in enumerate(HANDLE_MARKERS):
        articulated, instance = _articulated(source.dataset, scene, name)
        links = list(articulated.links) if handle == FRIDGE_HANDLE else [link]
        parts = [(low, high) for part in links for low, high in _link_bounds(source, articulated, instance, part)]
        if not parts:
            raise UserError(f"{articulated.file}: no mesh on link {link!r}")
        _, slide = _link(articulated, instance, link)
        low, high = np.stack([low for low, _ in parts]).min(0), np.stack([high for _, high in parts]).max(0)
        out.append((low, high, slide))
    return out


def _link_bounds(
    source: _Source, articulated: Articulated, instance: Instance, link: str
) -> list[tuple[Floats, Floats]]:
    """The axis-aligned box (lowest, highest corner) about the box of a link's meshes in its own frame; none if bare."""
    corners = []
    for visual in articulated.links[link]:
        low, high = _bounds(source.model(visual.mesh))
        box = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3) * visual.scale
        corners.append(box @ visual.origin[:3, :3].T + visual.origin[:3, 3])
    if not corners:
        return []
    points = np.concatenate(corners) * instance.scale[0]
    low, high = points.min(0), points.max(0)
    box = np.stack(np.meshgrid(*zip(low, high, strict=True), indexing="ij"), -1).reshape(-1, 3)
    frame, _ = _link(articulated, instance, link)
    moved = box @ frame[:3, :3].T + frame[:3, 3]
    return [(moved.min(0), moved.max(0))]


def _bounds(model: Model) -> tuple[Floats, Floats]:
    """Lowest and highest corner of a mesh file's vertices."""
    points = np.concatenate([patch.vertices for patch in model.patches])
    return points.min(0).astype(float), points.max(0).astype(float)


def _nav_pose(mesh: NavMesh, island: int | None, target: Floats) -> Floats:
    """Where nav to a target (3,) puts the robot: x, y, z of its base in the dataset's frame, and yaw."""
    at = mesh.nearest(target, island)
    if at is None:  # the original tries random points farther and farther away
        at = mesh.nearest(target, island, search_m=np.inf)
    assert at is not None
    return np.append(at, np.arctan2(-(target - at)[2], (target - at)[0]))


def _start_points(mesh: NavMesh, island: int | None, seed: int) -> tuple[Floats, float]:
    """Points (FREE_POINTS, 3) spread evenly over the floor of an island or the mesh, and the floor's height."""
    points = mesh.random_points(4 * FREE_POINTS, island, seed)
    floor = float(np.median(points[:, 1]))
    points = points[np.abs(points[:, 1] - floor) <= START_STEP_M]
    return np.resize(points, (FREE_POINTS, 3)), floor
