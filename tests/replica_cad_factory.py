"""A small scene dataset in ReplicaCAD's layout, made of boxes: every file as small as it can be."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np

from llarp.tasks.entities import RECEPTACLES

SCENE = "v3_sc3_staging_90"
FURNITURE = {  # by receptacle: object, translation, degrees about y, position and half sizes of the receptacle in it
    "chair": ("chair", (4.0, 0.5, 4.0), 0.0, (0.0, 0.25, 0.0), (0.2, 0.1, 0.2)),
    "black table": ("table_01", (2.0, 0.4, 3.0), 30.0, (0.1, 0.5, 0.0), (0.6, 0.1, 0.3)),
    "brown table": ("table_02", (4.0, 0.4, 1.0), 90.0, (0.0, 0.5, 0.0), (0.6, 0.1, 0.3)),
    "TV stand": ("tvstand", (1.0, 0.3, 5.0), 180.0, (0.0, 0.4, 0.0), (0.7, 0.1, 0.2)),
    "sofa": ("sofa", (5.0, 0.4, 5.0), -90.0, (0.0, 0.2, -0.2), (0.7, 0.1, 0.25)),
}
FIRST_CHAIR = (1.0, 0.5, 1.0)
"""Where another chair stands, which comes first in the scene and so does not count."""
COUNTER = ((0.0, 0.0, 2.0), 90.0, 0.5)
"""Translation, degrees about y and uniform scale of the kitchen counter."""
FRIDGE = (0.0, 1.0, 4.0)
OUTSIDE = [(-1.5, 0.1, 1.5), (-1.5, 0.1, 2.5), (-0.5, 0.1, 2.5), (-0.5, 0.1, 1.5)]
"""A smaller island of the navmesh, behind the counter."""


def glb(half: tuple[float, float, float], center: tuple[float, float, float] = (0, 0, 0)) -> bytes:
    """A box, without material."""
    corners = np.array(np.meshgrid(*((-h, h) for h in half), indexing="ij"), "<f4").reshape(3, -1).T
    corners += np.array(center, "<f4")
    faces = np.array([0, 1, 3, 0, 3, 2, 4, 6, 7, 4, 7, 5, 0, 4, 5, 0, 5, 1, 2, 3, 7, 2, 7, 6, 0, 2, 6, 0, 6, 4, 1, 5, 7,
                      1, 7, 3], "<u2")  # fmt: skip
    data = np.ascontiguousarray(corners).tobytes() + faces.tobytes()
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "indices": 1}]}],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 8, "type": "VEC3",
             "min": corners.min(0).tolist(), "max": corners.max(0).tolist()},
            {"bufferView": 1, "componentType": 5123, "count": len(faces), "type": "SCALAR"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": 96},
            {"buffer": 0, "byteOffset": 96, "byteLength": len(data) - 96},
        ],
        "buffers": [{"byteLength": len(data)}],
    }  # fmt: skip
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text + struct.pack("<I4s", len(data), b"BIN\0") + data
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def navmesh(polygons: list[list[tuple[float, float, float]]], climb: float = 0.2) -> bytes:
    """A navmesh of one tile with separate polygons, each covered by a fan of triangles."""
    verts = [corner for polygon in polygons for corner in polygon]
    polys, details, tris, first = b"", b"", b"", 0
    for p in polygons:
        pad = [0] * (6 - len(p))
        polys += struct.pack("<I6H6HHBB", 0, *range(first, first + len(p)), *pad, *[0] * 6, 1, len(p), 0)
        details += struct.pack("<IIBBH", 0, len(tris) // 4, 0, len(p) - 2, 0)
        for k in range(1, len(p) - 1):
            tris += bytes([0, k, k + 1, 1 * (k == 1) | 1 << 2 | (1 << 4) * (k == len(p) - 2)])
        first += len(p)
    counts = (len(polygons), len(verts), 0, len(polygons), 0, len(tris) // 4, 0, 0, len(polygons))
    bounds = (*np.min(verts, axis=0), *np.max(verts, axis=0))
    tile = struct.pack("<5iI9i", 0x444E4156, 7, 0, 0, 0, 0, *counts) + struct.pack("<10f", 1.5, 0.3, climb, *bounds, 20)
    tile += b"".join(struct.pack("<3f", *v) for v in verts) + polys + details + tris
    head = struct.pack("<3i5f2i", 0x4D534554, 2, 1, 0, 0, 0, 100, 100, 1, 64) + bytes(56)
    return head + struct.pack("<Ii", 0x40, len(tile)) + tile


def turn(degrees: float) -> list[float]:
    """The quaternion (w, x, y, z) of a turn about y."""
    return [math.cos(math.radians(degrees) / 2), 0.0, math.sin(math.radians(degrees) / 2), 0.0]


def _receptacle(name: str, position: Any, half: Any, **more: Any) -> dict[str, Any]:
    return {name: {"name": name, "position": list(position), "scale": list(half), **more}}


def _urdf(name: str, links: dict[str, tuple[str, str, str, str]]) -> str:
    """A URDF; by link: joint type, parent, xyz and rpy of the joint. Every link but the root has the mesh LINK.glb."""
    text = f'<?xml version="1.0"?>\n<robot name="{name}"><link name="root"/>\n'
    for link, (kind, parent, xyz, rpy) in links.items():
        axis = "0 0 1" if kind == "revolute" else "1 0 0"
        mesh = f'<visual><geometry><mesh filename="{link}.glb" scale="1, 1, 1"/></geometry></visual>'
        text += f'<link name="{link}">{mesh}</link>\n<joint name="{link}_joint" type="{kind}"><parent link="{parent}"/>'
        text += f'<child link="{link}"/><origin xyz="{xyz}" rpy="{rpy}"/><axis xyz="{axis}"/></joint>\n'
    return text + "</robot>\n"


def write_dataset(folder: Path) -> Path:
    """Write the dataset; returns its folder. One scene, `SCENE`, with a floor 5 x 6 m."""
    names = {r.name: r.published_name for r in RECEPTACLES}
    objects, instances = folder / "configs" / "objects", []
    for path in ("configs/objects", "configs/scenes", "configs/stages", "objects", "navmeshes"):
        (folder / path).mkdir(parents=True)
    for receptacle, (name, at, degrees, position, half) in FURNITURE.items():
        config = {"render_asset": f"../../objects/{name}.glb", "COM": [0, 0, 0],
                  "user_defined": _receptacle(names[receptacle], position, half)}  # fmt: skip
        (objects / f"{name}.object_config.json").write_text(json.dumps(config))
        (folder / "objects" / f"{name}.glb").write_bytes(glb((0.5, 0.4, 0.3)))
        instance = {"template_name": name, "rotation": turn(degrees), "motion_type": "STATIC"}
        if name == "chair":
            instances.append(instance | {"translation": FIRST_CHAIR})
        instances.append(instance | {"translation": at})
    _write_kitchen(folder / "urdf", names)
    fixed = {"fixed_base": True, "motion_type": "DYNAMIC"}
    at, degrees, scale = COUNTER
    counter = {"template_name": "kitchen_counter", "translation": at, "rotation": turn(degrees), "uniform_scale": scale}
    fridge = {"template_name": "fridge", "translation": FRIDGE, "rotation": [1, 0, 0, 0]}
    scene = {
        "stage_instance": {"template_name": "room"},
        "object_instances": instances,
        "articulated_object_instances": [counter | fixed, fridge | fixed],
        "navmesh_instance": SCENE,
    }
    (folder / "configs" / "scenes" / f"{SCENE}.scene_instance.json").write_text(json.dumps(scene))
    (folder / "configs" / "stages" / "room.stage_config.json").write_text('{"render_asset": "../../objects/room.glb"}')
    (folder / "objects" / "room.glb").write_bytes(glb((3.0, 0.1, 3.0), center=(3.0, -0.1, 3.0)))
    floor = [(1.0, 0.1, 0.0), (1.0, 0.1, 6.0), (6.0, 0.1, 6.0), (6.0, 0.1, 0.0)]
    (folder / "navmeshes" / f"{SCENE}.navmesh").write_bytes(navmesh([OUTSIDE, floor]))
    paths = {"stages": "configs/stages", "objects": "configs/objects", "scene_instances": "configs/scenes"}
    dataset: dict[str, Any] = {kind: {"paths": {".json": [path]}} for kind, path in paths.items()}
    dataset["articulated_objects"] = {"paths": {".urdf": ["urdf/*/", "../robots/fetch.urdf"]}}
    dataset["navmesh_instances"] = {SCENE: f"navmeshes/{SCENE}.navmesh"}
    (folder / "replicaCAD.scene_dataset_config.json").write_text(json.dumps(dataset))
    return folder


def _write_kitchen(folder: Path, names: dict[str, str]) -> None:
    upright, slide = "0 0 0", "prismatic"
    counter = {"body": ("fixed", "root", "0 0 0", upright), "drawer1_top": (slide, "body", "0 1.2 1", upright),
               "drawer2_top": (slide, "body", "0 1.2 0", upright), "drawer3": (slide, "body", "0 1.2 -1", upright),
               "drawer4": (slide, "body", "0 0.4 -1", upright)}  # fmt: skip
    boxes: dict[str, Any] = {
        "sink": ("body", (0, 1.6, 0), (0.2, 0.1, 0.3)),
        "right counter": ("body", (0, 1.8, -1), (0.5, 0.2, 0.6)),
        "left counter": ("body", (0, 1.8, 1), (0.5, 0.2, 0.6)),
        "left drawer": ("drawer1_top", (0, 0, 0), (-0.4, -0.2, -0.3)),
        "right drawer": ("drawer3", (0, 0, 0), (0.4, 0.2, 0.3)),
    }
    fridge = {"body": ("fixed", "root", "0 0 0", f"{math.pi / 2} 0 0"),
              "top_door": ("revolute", "body", "0.3 0.3 -0.4", "0 0 0")}  # fmt: skip
    shelf = {"fridge": ("body", (0, 0, -0.4), (0.25, 0.3, 0.15))}
    for name, links, receptacles in (("kitchen_counter", counter, boxes), ("fridge", fridge, shelf)):
        (folder / name).mkdir(parents=True)
        (folder / name / f"{name}.urdf").write_text(_urdf(name, links))
        for link in links:
            (folder / name / f"{link}.glb").write_bytes(glb((0.3, 0.3, 0.9) if name == "fridge" else (0.5, 0.25, 0.4)))
        defined: dict[str, Any] = {}
        for receptacle, (link, position, half) in receptacles.items():
            defined |= _receptacle(names[receptacle], position, half, parent_link=link)
        (folder / name / f"{name}.ao_config.json").write_text(json.dumps({"user_defined": defined}))
