"""Small .glb files and a small scene dataset in Habitat's layout, made by tests."""

from __future__ import annotations

import io
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TYPES = {"<f4": 5126, "<u2": 5123, "<u4": 5125, "<u1": 5121}
WIDTHS = {1: "SCALAR", 2: "VEC2", 3: "VEC3"}


class Glb:
    """Collects arrays and pictures, then packs them: `Glb().triangles(...)`, `.bytes(...)`."""

    def __init__(self) -> None:
        self.binary = b""
        self.gltf: dict[str, Any] = {"asset": {"version": "2.0"}, "accessors": [], "bufferViews": [], "meshes": []}

    def view(self, data: bytes, **more: int) -> int:
        self.gltf["bufferViews"].append({"buffer": 0, "byteOffset": len(self.binary), "byteLength": len(data), **more})
        self.binary += data + b"\0" * (-len(data) % 4)
        return len(self.gltf["bufferViews"]) - 1

    def array(self, values: Any, dtype: str = "<f4", **more: Any) -> int:
        found = np.asarray(values, dtype)
        width = 1 if found.ndim == 1 else found.shape[1]
        described = {"componentType": TYPES[dtype], "count": len(found), "type": WIDTHS[width], **more}
        self.gltf["accessors"].append({"bufferView": self.view(found.tobytes()), **described})
        return len(self.gltf["accessors"]) - 1

    def picture(self, pixels: np.ndarray, kind: str = "PNG") -> int:
        """The index of a texture that shows the pixels (H, W, 3)."""
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind)
        images, textures = (self.gltf.setdefault(k, []) for k in ("images", "textures"))
        images.append({"bufferView": self.view(file.getvalue()), "mimeType": f"image/{kind.lower()}"})
        textures.append({"source": len(images) - 1})
        return len(textures) - 1

    def mesh(self, vertices: Any, faces: Any, uv: Any = None, material: dict | None = None) -> int:
        """The index of a mesh of one primitive."""
        attributes = {"POSITION": self.array(vertices)}
        if uv is not None:
            attributes["TEXCOORD_0"] = self.array(uv)
        primitive: dict[str, Any] = {"attributes": attributes, "indices": self.array(np.ravel(faces), "<u2")}
        if material is not None:
            primitive["material"] = len(self.gltf.setdefault("materials", []))
            self.gltf["materials"].append(material)
        self.gltf["meshes"].append({"primitives": [primitive]})
        return len(self.gltf["meshes"]) - 1

    def bytes(self, nodes: list[dict] | None = None) -> bytes:
        """The file; without nodes, one for each mesh, where it was made."""
        nodes = [{"mesh": i} for i in range(len(self.gltf["meshes"]))] if nodes is None else nodes
        described = self.gltf | {"nodes": nodes, "buffers": [{"byteLength": len(self.binary)}]}
        return packed(json.dumps(described).encode(), self.binary)


def packed(text: bytes, binary: bytes) -> bytes:
    """A .glb file of its two chunks."""
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(binary), 0x004E4942) + binary
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks


BOX_FACES = [(0, 2, 1), (0, 3, 2), (4, 5, 6), (4, 6, 7), (0, 1, 5), (0, 5, 4), (1, 2, 6), (1, 6, 5), (2, 3, 7),
             (2, 7, 6), (3, 0, 4), (3, 4, 7)]  # fmt: skip


def box_glb(low: Any, high: Any, color: Any = (1.0, 1.0, 1.0, 1.0)) -> bytes:
    """A box between two corners, in one colour (linear)."""
    (a, b, c), (d, e, f) = low, high
    corners = [(a, b, c), (d, b, c), (d, b, f), (a, b, f), (a, e, c), (d, e, c), (d, e, f), (a, e, f)]
    made = Glb()
    made.mesh(corners, BOX_FACES, material={"pbrMetallicRoughness": {"baseColorFactor": list(color)}})
    return made.bytes()


def write_json(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))


def write_bytes(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


CABINET = """<robot name="kitchen_counter"><link name="root"/>
<joint name="j0" type="fixed"><parent link="root"/><child link="body"/><origin rpy="0 0.5 0" xyz="1 0 0"/></joint>
<link name="body"><visual><geometry><mesh filename="body.glb"/></geometry></visual></link>
<joint name="j1" type="prismatic"><parent link="body"/><child link="drawer1_top"/><origin rpy="0 0.2 0" xyz="0 1 0"/>
<axis xyz="0 0 2"/></joint>
<link name="drawer1_top"><visual><origin xyz="0 0 0.3" rpy="0 0 0"/><geometry>
<mesh filename="drawer.glb" scale="1 1 2"/></geometry></visual></link></robot>"""


def small_dataset(root: Path) -> Path:
    """A dataset with the scenes "one" and "two": a stage, tables, and a cabinet whose drawer a handle moves.

    "one" has an upright table, one leaning against it and the cabinet at scale 0.5; "two" an upright table elsewhere.
    """
    paths = {k: {"paths": {".json": [f"configs/{k}"]}} for k in ("stages", "objects", "scene_instances")}
    urdf = {"articulated_objects": {"paths": {".urdf": ["urdf/*/"]}}}
    write_json(root / "replicaCAD.scene_dataset_config.json", paths | urdf)
    write_bytes(root / "stages/room.glb", box_glb((-5, -0.1, -5), (5, 0, 5)))
    write_json(root / "configs/stages/room.stage_config.json", {"render_asset": "../../stages/room.glb"})
    write_bytes(root / "objects/table.glb", box_glb((-1, -0.4, -0.5), (1, 0.4, 0.5), (0.2, 0.4, 0.1, 1)))
    table = {"render_asset": "../../objects/table.glb", "COM": [0, 0, 0]}
    write_json(root / "configs/objects/table.object_config.json", table)
    write_bytes(root / "urdf/counter/body.glb", box_glb((-1, 0, -1), (1, 1, 1)))
    write_bytes(root / "urdf/counter/drawer.glb", box_glb((-0.4, 0, -0.2), (0.4, 0.2, 0.6)))
    (root / "urdf/counter/kitchen_counter.urdf").write_text(CABINET)

    def placed(template: str, translation: list[float], rotation: list[float], **more: Any) -> dict[str, Any]:
        at = {"translation": translation, "rotation": rotation, "translation_origin": "COM"}
        return {"template_name": template, **at, **more}

    def turn(angle: float, x: float, y: float, z: float) -> list[float]:
        return [float(np.cos(angle / 2)), *(float(np.sin(angle / 2)) * np.array([x, y, z])).tolist()]

    stage = {"template_name": "stages/room", "translation_origin": "COM"}
    one = [placed("table", [1, 0.4, 2], turn(0.7, 0, 1, 0)), placed("table", [3, 1.0, 2], turn(1.1, 0.6, 0, 0.8))]
    counter = placed("kitchen_counter", [-2, 0, 1], turn(-0.4, 0, 1, 0), uniform_scale=0.5)
    scene = {"stage_instance": stage, "object_instances": one, "articulated_object_instances": [counter]}
    write_json(root / "configs/scene_instances/one.scene_instance.json", scene)
    two = {"stage_instance": stage, "object_instances": [placed("table", [0, 0.4, 0], turn(-2.0, 0, 1, 0))]}
    write_json(root / "configs/scene_instances/two.scene_instance.json", two)
    return root
