"""Writes coloured meshes of ours as binary glTF files (.glb) that Habitat loads.

Our frame has z up, glTF's and Habitat's y up: a point (x, y, z) of ours is written as (x, z, -y).

Models may carry the light of the embedded simulator in the colours of their vertices, to be drawn with the "flat"
shader (`FLAT`) in scenes without lights. Habitat-Sim's Phong shader gives models of glTF files no light from
everywhere, and its other one needs an environment map that takes ten seconds to prepare on a CPU.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from llarp.sim.assets import Mesh
from llarp.sim.model import AMBIENT, HEADLIGHT, LIGHTS

FLAT = {"shader_type": "flat", "force_flat_shading": True}
"""For the configs of models that carry their light in their colours."""
_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_FLOAT, _BYTE, _SHORT, _INT = 5126, 5121, 5123, 5125
_VERTICES, _INDICES = 34962, 34963  # what a buffer view is for
_CREASE_COSINE = 0.85  # a corner whose face leans further than 32 degrees from the mean about it has an edge


def to_habitat(points: ArrayLike) -> NDArray[np.float64]:
    """Points or directions (..., 3) of our frame in Habitat's."""
    x, y, z = np.moveaxis(np.asarray(points, float), -1, 0)
    return np.stack((x, z, -y), axis=-1)


def write_glb(
    path: Path, parts: Sequence[tuple[Mesh, NDArray[np.uint8]]], lit: bool = False, two_sided: bool = False
) -> None:
    """Write meshes, each with its texture (H, W, 3), as one file: matt, a texture that several share once.

    lit: light is in the colours. two_sided: faces are seen from behind too.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    made = _File(lit, two_sided)
    for mesh, texture in parts:
        made.add(mesh, texture)
    path.write_bytes(made.packed())


class _File:
    """A file's JSON and its binary data as they grow."""

    def __init__(self, lit: bool, two_sided: bool) -> None:
        self._lit, self._two_sided = lit, two_sided
        self._binary = bytearray()
        self._materials: dict[bytes, int] = {}
        self._gltf: dict[str, Any] = {
            "asset": {"version": "2.0", "generator": "llarp"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": []}],
            "materials": [],
            "textures": [],
            "images": [],
            "samplers": [{"magFilter": 9729, "minFilter": 9987, "wrapS": 10497, "wrapT": 10497}],
            "accessors": [],
            "bufferViews": [],
        }  # the sampler: linear, mipmaps, repeating

    def add(self, mesh: Mesh, texture: NDArray[np.uint8]) -> None:
        vertices, normals, uv, faces = shaded(mesh)
        points = to_habitat(vertices).astype("<f4")
        attributes = {
            "POSITION": self._accessor(points, "VEC3", _FLOAT, min=points.min(0).tolist(), max=points.max(0).tolist()),
            "NORMAL": self._accessor(to_habitat(normals).astype("<f4"), "VEC3", _FLOAT),
            "TEXCOORD_0": self._accessor(uv.astype("<f4"), "VEC2", _FLOAT),
        }
        if self._lit:
            color = np.full((len(points), 4), 255, np.uint8)
            color[:, :3] = (brightness(normals) * 255).round()[:, None]
            attributes["COLOR_0"] = self._accessor(color, "VEC4", _BYTE, normalized=True)
        kind, dtype = (_SHORT, "<u2") if len(points) < 1 << 16 else (_INT, "<u4")
        index = self._accessor(faces.ravel().astype(dtype), "SCALAR", kind, _INDICES)
        primitive = {"attributes": attributes, "indices": index, "material": self._material(texture)}
        self._gltf["meshes"][0]["primitives"].append(primitive)

    def packed(self) -> bytes:
        self._gltf["buffers"] = [{"byteLength": len(self._binary)}]
        text = json.dumps(self._gltf, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 4)
        chunks = b"".join(struct.pack("<II", len(c), kind) + c for c, kind in ((text, _JSON), (self._binary, _BIN)))
        return struct.pack("<III", _MAGIC, 2, 12 + len(chunks)) + chunks

    def _material(self, texture: NDArray[np.uint8]) -> int:
        file = io.BytesIO()
        Image.fromarray(texture).save(file, "PNG")
        picture = file.getvalue()
        if picture not in self._materials:
            number = self._materials[picture] = len(self._materials)
            self._gltf["images"].append({"bufferView": self._view(picture), "mimeType": "image/png"})
            self._gltf["textures"].append({"source": number, "sampler": 0})
            matt = {"baseColorTexture": {"index": number}, "metallicFactor": 0.0, "roughnessFactor": 1.0}
            self._gltf["materials"].append({"pbrMetallicRoughness": matt, "doubleSided": self._two_sided})
        return self._materials[picture]

    def _accessor(self, values: NDArray, kind: str, component: int, target: int = _VERTICES, **more: Any) -> int:
        view = self._view(values.tobytes(), target=target)
        described = {"bufferView": view, "componentType": component, "count": len(values), "type": kind}
        self._gltf["accessors"].append(described | more)
        return len(self._gltf["accessors"]) - 1

    def _view(self, data: bytes, **more: int) -> int:
        view = {"buffer": 0, "byteOffset": len(self._binary), "byteLength": len(data)}
        self._gltf["bufferViews"].append(view | more)
        self._binary += data + b"\0" * (-len(data) % 4)
        return len(self._gltf["bufferViews"]) - 1


def brightness(normals: NDArray[np.float32]) -> NDArray[np.float64]:
    """How bright faces with normals (V, 3) of our frame are in the light of the embedded simulator, (V,) in 0..1.

    Of the light that shines where the camera looks, half is taken: what falls on a face seen at 60 degrees.
    """
    found = np.full(len(normals), AMBIENT + HEADLIGHT / 2)
    for direction, bright in LIGHTS:
        found += bright * np.maximum(-normals @ np.array(direction), 0)
    return found.clip(0, 1)


def shaded(mesh: Mesh) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Vertices (V, 3), unit normals (V, 3), uv (V, 2) and faces (F, 3) of a mesh without its degenerate faces.

    A corner's normal is the mean of the faces that share its vertex, weighted by area; a corner whose own face leans
    away from that mean, as at the edge of a box, has its face's.
    """
    corners = mesh.vertices.astype(np.float64)[mesh.faces]  # (F, 3 corners, 3)
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    size = np.linalg.norm(area, axis=1)
    there = size > 1e-12
    faces, area, size = mesh.faces[there], area[there], size[there]
    flat = area / size[:, None]
    sums = np.zeros(mesh.vertices.shape)
    np.add.at(sums, faces, area[:, None])
    mean = sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-12)
    normal = mean[faces]  # (F, 3, 3)
    edged = np.einsum("fci,fi->fc", normal, flat) < _CREASE_COSINE
    normal = np.where(edged[..., None], flat[:, None], normal)
    rows = np.concatenate((faces.reshape(-1, 1), np.round(normal.reshape(-1, 3), 4)), axis=1)
    used, index = np.unique(rows, axis=0, return_inverse=True)
    chosen = used[:, 0].astype(np.int64)
    return (
        mesh.vertices[chosen].astype(np.float32),
        used[:, 1:].astype(np.float32),
        mesh.uv[chosen].astype(np.float32),
        index.reshape(-1, 3).astype(np.int32),
    )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write one of Habitat's configs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
