"""Our built-in apartments and objects as a scene dataset of Habitat's, so that both simulators show the same rooms.

Fixed furniture is shared between scenes, a template for each mesh in each of its colour schemes. Fridge and kitchen
are articulated objects under ReplicaCAD's names. An object's origin is that of our catalogue: Habitat's translation of
an object is our `object_position`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llarp.sim.assets import LayoutTables, Mesh
from llarp.sim.layouts import SLOTS
from llarp.sim.replica_cad.looks import HANDLE_LINKS
from llarp.sim.world import Assets
from llarp.tasks.entities import FRIDGE_HANDLE

from .glb_writer import FLAT, to_habitat, write_glb, write_json

DATASET = Path("apartments.scene_dataset_config.json")
"""The scene dataset's file in its folder."""
_ROOM_SLOTS = ("floor", "walls")
_MOVED = {"fridge": ("fridge", "fridge_door"), "kitchen_counter": ("kitchen", *(f"drawer_{i}" for i in range(4)))}
"""Slots of the articulated objects, the body first, by the names they have in ReplicaCAD."""
_LINKS = {handle: link for (_, link), handle in HANDLE_LINKS.items()}
_REACH = {"prismatic": 0.6, "revolute": 2.6}
"""How far joints can go, m and rad: further than any skill opens them."""


def write_apartments(folder: Path, assets: Assets) -> Path:
    """Write the dataset into `folder`; returns its file."""
    layouts = assets.layouts
    for mesh, name in zip(assets.object_meshes, assets.catalog.names, strict=True):
        _write_object(folder, "objects", name, [(mesh, assets.object_material.texture)])
    articulated: dict[tuple, str] = {}
    furniture: set[str] = set()
    for row, scene in enumerate(assets.scenes.names):
        slots = {kind: slot for slot, kind in enumerate(SLOTS) if layouts.mesh[row, slot] >= 0}
        instances, moved = [], []
        for name, kinds in _MOVED.items():
            key = (name, *_looks(layouts, row, [slots[k] for k in kinds]))
            if key not in articulated:
                articulated[key] = f"{name}_{sum(k[0] == name for k in articulated)}"
                _write_articulated(folder, name, articulated[key], layouts, row, [slots[k] for k in kinds])
            at = _placed(layouts, row, slots[kinds[0]])
            template = f"{articulated[key]}/{name}"  # folder and file, so that its instance is called `name`
            moved.append({"template_name": template, "fixed_base": True, "motion_type": "DYNAMIC"} | at)
        taken = {*_ROOM_SLOTS, *(kind for kinds in _MOVED.values() for kind in kinds)}
        for slot in (slot for kind, slot in slots.items() if kind not in taken):
            part = _part(layouts, row, slot)
            name = f"furniture_{part[0].name}_{layouts.materials[layouts.material[row, slot]].name}"
            if name not in furniture:
                furniture.add(name)
                _write_object(folder, "furniture", name, [part])
            instances.append({"template_name": name, "motion_type": "STATIC"} | _placed(layouts, row, slot))
        write_glb(folder / f"stages/{scene}.glb", [_part(layouts, row, slots[kind]) for kind in _ROOM_SLOTS], lit=True)
        stage = {"render_asset": f"../../stages/{scene}.glb"} | FLAT
        write_json(folder / f"configs/stages/{scene}.stage_config.json", stage)
        content = {
            "stage_instance": {"template_name": scene},
            "default_lighting": "no_lights",
            "object_instances": instances,
            "articulated_object_instances": moved,
        }
        write_json(folder / f"configs/scenes/{scene}.scene_instance.json", content)
    write_json(folder / DATASET, _dataset())
    return folder / DATASET


def _dataset() -> dict[str, Any]:
    kinds = {"stages": "stages", "scenes": "scene_instances"}
    found = {key: {"paths": {".json": [f"configs/{folder}"]}} for folder, key in kinds.items()}
    found["objects"] = {"paths": {".json": ["configs/objects", "configs/furniture"]}}
    # without lights in the scene, Habitat-Sim draws articulated objects flat too
    found["articulated_objects"] = {"paths": {".urdf": ["urdf/*/"]}}
    return found


def _part(layouts: LayoutTables, row: int, slot: int) -> tuple[Mesh, NDArray[np.uint8]]:
    return layouts.meshes[layouts.mesh[row, slot]], layouts.materials[layouts.material[row, slot]].texture


def _looks(layouts: LayoutTables, row: int, slots: list[int]) -> tuple:
    """What tells one piece with moving parts from another."""
    return tuple((int(layouts.mesh[row, s]), int(layouts.material[row, s])) for s in slots)


def _placed(layouts: LayoutTables, row: int, slot: int) -> dict[str, Any]:
    """Where a slot stands, in a scene instance's words."""
    half = float(layouts.yaw[row, slot]) / 2
    at = to_habitat(layouts.position[row, slot])
    return {
        "translation": at.round(6).tolist(),
        "rotation": [round(float(np.cos(half)), 7), 0.0, round(float(np.sin(half)), 7), 0.0],
        "translation_origin": "COM",
    }


def _write_object(folder: Path, kind: str, name: str, parts: list[tuple[Mesh, NDArray[np.uint8]]]) -> None:
    """An object or a piece of furniture, its origin where our mesh has it."""
    write_glb(folder / kind / f"{name}.glb", parts, lit=True)
    config = {"render_asset": f"../../{kind}/{name}.glb", "COM": [0, 0, 0], "mass": 0.2} | FLAT
    write_json(folder / "configs" / kind / f"{name}.object_config.json", config)


def _write_articulated(
    folder: Path, name: str, template: str, layouts: LayoutTables, row: int, slots: list[int]
) -> None:
    """A URDF whose root is the body, with a link for every moving part; the frames of links are Habitat's, y up."""
    home = folder / "urdf" / template
    yaw = float(layouts.yaw[row, slots[0]])
    turn = np.array([[np.cos(yaw), np.sin(yaw), 0], [-np.sin(yaw), np.cos(yaw), 0], [0, 0, 1]])  # world to piece
    lines = ['<?xml version="1.0"?>', f'<robot name="{name}">', *_link("body")]
    write_glb(home / "body.glb", [_part(layouts, row, slots[0])], lit=True)
    for slot in slots[1:]:
        link = _LINKS[int(layouts.joint[row, slot])]
        write_glb(home / f"{link}.glb", [_part(layouts, row, slot)], lit=True)
        at = to_habitat(turn @ (layouts.position[row, slot] - layouts.position[row, slots[0]])).round(5)
        kind = "revolute" if layouts.joint[row, slot] == FRIDGE_HANDLE else "prismatic"
        slide = to_habitat(turn @ layouts.slide[row, slot]).round(5)
        axis = np.array((0.0, np.sign(layouts.hinge[row, slot]), 0.0)) if kind == "revolute" else slide
        xyz, about = (" ".join(f"{v + 0.0:g}" for v in values) for values in (at, axis))
        lines += [
            *_link(link),
            f'  <joint name="{link}_joint" type="{kind}">',
            f'    <origin xyz="{xyz}" rpy="0 0 0"/><parent link="body"/><child link="{link}"/>',
            f'    <axis xyz="{about}"/><limit lower="0" upper="{_REACH[kind]}" effort="100" velocity="2"/>',
            "  </joint>",
        ]
    (home / f"{name}.urdf").write_text("\n".join([*lines, "</robot>", ""]))


def _link(name: str) -> list[str]:
    return [
        f'  <link name="{name}">',
        '    <inertial><origin xyz="0 0 0" rpy="0 0 0"/><mass value="5"/>',
        '      <inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>',
        f'    <visual><origin xyz="0 0 0" rpy="0 0 0"/><geometry><mesh filename="{name}.glb"/></geometry></visual>',
        "  </link>",
    ]
