"""Triangles and base colours out of binary glTF files (.glb), nothing believed before it is checked.

A reader of our own rather than trimesh's (which the tests compare it with): trimesh leaves KHR_texture_transform out,
by which three ReplicaCAD models pick their colour, and takes the sizes a file claims on trust. Letters in shapes:
V vertices, F faces.
"""

from __future__ import annotations

import functools
import io
import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from llarp.errors import UserError

TEXTURE_PIXELS = 256
"""Textures are reduced to at most this many pixels a side: more cannot be told apart in pictures of 128 or 224."""
MAX_FILE_BYTES = 512 * 2**20
MAX_TRIANGLES = 2_000_000
MAX_IMAGE_PIXELS = 8192 * 8192
MAX_SIZE_M = 1000.0
_MAX_NODES, _MAX_DEPTH = 20_000, 100
_CELL_PIXELS = 4  # flat colours: pixels of a colour's cell

_PLAIN = 0.75  # grey of what has no material, or a texture of a kind that is not read (0..1, as in a texture)
_MAGIC, _JSON, _BIN = 0x46546C67, 0x4E4F534A, 0x004E4942
_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}
_TRIANGLES = 4
_NOT_READ = ("KHR_draco_mesh_compression", "EXT_meshopt_compression", "EXT_mesh_gpu_instancing")


class _Refused(ValueError):
    """What is wrong with a file, without its name."""


@dataclass(frozen=True)
class Patch:
    """The triangles of a file that share a texture, in the file's frame (metres; glTF has y up)."""

    vertices: NDArray[np.float32]  # (V, 3)
    faces: NDArray[np.int32]  # (F, 3) counter-clockwise seen from outside
    uv: NDArray[np.float32]  # (V, 2) v from the texture's top
    texture: NDArray[np.uint8]  # (H, W, 3)


@dataclass(frozen=True)
class Model:
    """A file's patches; `unread_textures` counts textures of a kind that is not read, drawn in grey."""

    patches: tuple[Patch, ...]
    unread_textures: int = 0


def read_glb(path: Path) -> Model:
    """Read a .glb file; whatever is wrong with it is a UserError that names it."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _Refused(f"it is larger than {MAX_FILE_BYTES // 2**20} MB")
        with np.errstate(all="ignore"):  # what overflows is refused by its size
            return _Reader(path.read_bytes()).model()
    except FileNotFoundError as e:
        raise UserError(f"mesh file {path} is missing: is the download complete?") from e
    except OSError as e:
        raise UserError(f"mesh file {path} cannot be read: {e.strerror or e}") from e
    except _Refused as e:
        raise UserError(f"mesh file {path} cannot be used: {e}") from e
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, OverflowError, RecursionError) as e:
        raise UserError(f"mesh file {path} is malformed: {type(e).__name__} ({str(e)[:80]})") from e


def _need(condition: bool, why: str) -> None:
    if not condition:
        raise _Refused(why)


class _Reader:
    """One file's chunks and what they hold."""

    def __init__(self, data: bytes):
        _need(len(data) >= 20, "it is too short for a .glb file")
        magic, version, length = struct.unpack_from("<III", data)
        _need(magic == _MAGIC, "it does not begin as a .glb file does (a Git LFS pointer, perhaps)")
        _need(version == 2, f"glTF version {version} is not read, only 2")
        _need(length <= len(data), f"it is cut short: {len(data)} of {length} bytes")
        chunks: dict[int, bytes] = {}
        at = 12
        while at + 8 <= length:
            size, kind = struct.unpack_from("<II", data, at)
            _need(at + 8 + size <= length, "a chunk reaches beyond its end")
            chunks.setdefault(kind, data[at + 8 : at + 8 + size])
            at += 8 + size
        _need(_JSON in chunks, "it has no JSON chunk")
        try:
            self._gltf: dict[str, Any] = json.loads(chunks[_JSON])
        except ValueError as e:
            raise _Refused("its JSON chunk is not JSON") from e
        _need(isinstance(self._gltf, dict), "its JSON chunk is not an object")
        self._binary = chunks.get(_BIN, b"")
        self._unread: set[int] = set()
        self._images: dict[int, NDArray[np.uint8] | None] = {}
        for name in self._gltf.get("extensionsRequired", []):
            _need(name not in _NOT_READ, f"it needs the glTF extension {name}, which is not read: export it without")

    def model(self) -> Model:
        """All triangles of the file's scene, one patch a texture, all flat colours together in one."""
        textured: dict[tuple, list[tuple]] = {}
        flat: list[tuple] = []
        colors: list[tuple[float, ...]] = []
        for vertices, faces, uv, image, color in self._primitives():
            if image is not None and uv is not None:
                textured.setdefault((image, color), []).append((vertices, faces, uv))
                continue
            if color not in colors:
                colors.append(color)
            flat.append((vertices, faces, colors.index(color)))
        patches = [_joined(parts, self._tinted(image, color)) for (image, color), parts in textured.items()]
        if flat:
            shades = np.array(colors)
            cells = (shades * 255).round().astype(np.uint8)[None].repeat(_CELL_PIXELS, 0).repeat(_CELL_PIXELS, 1)
            parts = [
                (v, f, np.tile(np.array([(cell + 0.5) / len(colors), 0.5], np.float32), (len(v), 1)))
                for v, f, cell in flat
            ]
            patches.append(_joined(parts, cells))
        _need(bool(patches), "it holds no triangles")
        return Model(tuple(patches), len(self._unread))

    # -- the scene ------------------------------------------------------------------------------------------------

    def _primitives(self) -> Iterator[tuple]:
        """(vertices (V, 3), faces (F, 3), uv (V, 2) or None, image or None, colour) of every visible primitive."""
        meshes, materials, total = self._gltf.get("meshes", []), self._gltf.get("materials", []), 0
        for number, matrix in self._nodes():
            for primitive in _item(meshes, number)["primitives"]:
                mode = primitive.get("mode", _TRIANGLES)
                _need(mode not in (5, 6), "it has triangle strips or fans, which are not read: export triangles")
                if mode != _TRIANGLES:
                    continue  # points and lines
                chosen = primitive.get("material")
                look = (None, (_PLAIN,) * 3, {}) if chosen is None else self._look(_item(materials, chosen))
                if look is None:
                    continue
                image, color, shift = look
                attributes = primitive["attributes"]
                vertices = self._array(attributes["POSITION"], 3).astype(np.float64)
                count = len(vertices)
                index = self._array(primitive["indices"], 1)[:, 0] if "indices" in primitive else np.arange(count)
                _need(index.dtype.kind in "ui" and len(index) % 3 == 0, "a triangle list is incomplete")
                _need(not len(index) or int(np.max(index)) < count, "a triangle names a vertex that is not there")
                total += len(index) // 3
                _need(total <= MAX_TRIANGLES, f"it has more than {MAX_TRIANGLES} triangles")
                points = vertices @ matrix[:3, :3].T + matrix[:3, 3]
                sane = bool(np.isfinite(points).all()) and (not count or float(np.abs(points).max()) <= MAX_SIZE_M)
                _need(sane, f"a vertex lies further than {MAX_SIZE_M:.0f} m out, or nowhere")
                faces = index.astype(np.int64).reshape(-1, 3)
                if np.linalg.det(matrix[:3, :3]) < 0:
                    faces = faces[:, ::-1]  # mirrored
                uv = self._uv(attributes, image, shift, count)
                if len(faces):
                    yield points.astype(np.float32), faces.astype(np.int32), uv, image, color

    def _uv(self, attributes: dict, image: int | None, shift: dict, count: int) -> NDArray[np.float32] | None:
        """Texture coordinates as the material moves them (KHR_texture_transform); None without texture."""
        which = f"TEXCOORD_{shift.get('texCoord', 0)}"
        if image is None or which not in attributes:
            return None
        uv = self._array(attributes[which], 2).astype(np.float64)
        _need(len(uv) == count and bool(np.isfinite(uv).all()), "its texture coordinates do not fit its vertices")
        _need(not count or float(np.abs(uv).max()) < 1e4, "its texture coordinates are absurd")
        angle = float(shift.get("rotation", 0.0))
        cos, sin = np.cos(angle), np.sin(angle)
        uv = (uv * shift.get("scale", (1.0, 1.0))) @ np.array([[cos, -sin], [sin, cos]])
        return (uv + shift.get("offset", (0.0, 0.0))).astype(np.float32)

    def _nodes(self) -> Iterator[tuple[int, NDArray[np.float64]]]:
        """(mesh, matrix (4, 4)) of every node with a mesh in the file's scene."""
        nodes = self._gltf.get("nodes", [])
        scenes = self._gltf.get("scenes")
        if scenes:
            roots = _item(scenes, self._gltf.get("scene", 0)).get("nodes", [])
        else:
            children = {child for node in nodes for child in node.get("children", [])}
            roots = [i for i in range(len(nodes)) if i not in children]
        stack = [(root, np.eye(4), 0) for root in reversed(roots)]
        seen = 0
        while stack:
            number, above, depth = stack.pop()
            seen += 1
            _need(seen <= _MAX_NODES and depth <= _MAX_DEPTH, "its nodes are too many or nested in a circle")
            node = _item(nodes, number)
            matrix = above @ _local(node)
            if "mesh" in node:
                yield node["mesh"], matrix
            stack += [(child, matrix, depth + 1) for child in reversed(node.get("children", []))]

    # -- colours --------------------------------------------------------------------------------------------------

    def _look(self, material: dict) -> tuple[int | None, tuple[float, ...], dict] | None:
        """(image, colour 0..1 as in a texture, texture transform) of a material; None if it cannot be seen."""
        base = material.get("pbrMetallicRoughness", {})
        factor = [float(x) for x in base.get("baseColorFactor", (1.0, 1.0, 1.0, 1.0))]
        _need(len(factor) == 4 and all(0 <= x <= 1 for x in factor), "a base colour is none")
        if material.get("alphaMode") == "BLEND" and factor[3] < 0.1:
            return None
        color = tuple(round(float(x), 4) for x in _encoded(np.array(factor[:3])))
        used = base.get("baseColorTexture")
        if used is None:
            return None, color, {}
        texture = _item(self._gltf["textures"], used["index"])
        source = texture.get("source", texture.get("extensions", {}).get("EXT_texture_webp", {}).get("source"))
        if source is None or self._image(source) is None:
            self._unread.add(used["index"])
            return None, tuple(round(c * _PLAIN, 4) for c in color), {}
        shift = dict(used.get("extensions", {}).get("KHR_texture_transform", {}))
        shift.setdefault("texCoord", used.get("texCoord", 0))
        return source, color, shift

    def _image(self, number: int) -> NDArray[np.uint8] | None:
        """An image of the file, reduced, (H, W, 3); None if it is of a kind that is not read (Basis Universal)."""
        if number not in self._images:
            described = _item(self._gltf["images"], number)
            _need("bufferView" in described, "a texture lies outside the file: export it as one .glb")
            basis = described.get("mimeType") in ("image/ktx2", "image/vnd-ms.dds")
            self._images[number] = None if basis else _decoded(self._view(described["bufferView"])[0])
        return self._images[number]

    def _tinted(self, image: int, color: tuple[float, ...]) -> NDArray[np.uint8]:
        pixels = self._image(image)
        assert pixels is not None  # `_look` gives no other
        return pixels if color == (1.0, 1.0, 1.0) else (pixels * np.array(color)).round().astype(np.uint8)

    # -- binary data ----------------------------------------------------------------------------------------------

    def _view(self, number: int) -> tuple[bytes, int]:
        """The bytes of a buffer view and the stride it states (0: none)."""
        view = _item(self._gltf["bufferViews"], number)
        inside = view.get("buffer", 0) == 0 and "uri" not in _item(self._gltf["buffers"], 0)
        _need(inside, "its data lie in other files: export it as one .glb")
        start, size, stride = view.get("byteOffset", 0), view["byteLength"], view.get("byteStride", 0)
        whole = all(type(x) is int and x >= 0 for x in (start, size, stride))
        _need(whole and start + size <= len(self._binary), "a buffer view reaches beyond its data")
        return self._binary[start : start + size], stride

    def _array(self, number: int, width: int) -> NDArray:
        """An accessor's values, (count, width)."""
        accessor = _item(self._gltf["accessors"], number)
        _need("sparse" not in accessor and "bufferView" in accessor, "it has sparse data, which are not read")
        _need(_WIDTHS.get(accessor["type"]) == width, f"data of type {accessor['type']} stand where they cannot")
        dtype = np.dtype(_DTYPES[accessor["componentType"]])
        count, offset = accessor["count"], accessor.get("byteOffset", 0)
        data, stride = self._view(accessor["bufferView"])
        size = dtype.itemsize * width
        stride = stride or size
        whole = type(count) is int and type(offset) is int and count > 0 and offset >= 0 and stride >= size
        _need(whole and offset + stride * (count - 1) + size <= len(data), "an accessor reaches beyond its data")
        values = np.ndarray((count, width), dtype, data, offset, (stride, dtype.itemsize)).copy()
        if accessor.get("normalized") and dtype.kind in "ui":
            return np.maximum(values / float(np.iinfo(dtype).max), -1.0).astype(np.float32)
        return values


def _item(items: Any, number: Any) -> Any:
    """An entry of one of the file's lists."""
    there = type(number) is int and isinstance(items, list) and 0 <= number < len(items)
    _need(there, "it names a part that is absent")
    return items[number]


def _local(node: dict) -> NDArray[np.float64]:
    """A node's own transform (4, 4)."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = (float(v) for v in node.get("rotation", (0.0, 0.0, 0.0, 1.0)))
    turn = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = turn * np.array(node.get("scale", (1.0, 1.0, 1.0)), float)
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix


def _encoded(linear: NDArray[np.float64]) -> NDArray[np.float64]:
    """Linear light as sRGB (IEC 61966-2-1), both 0..1: glTF's factors are linear, its textures are not."""
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


@functools.lru_cache(maxsize=4)  # the doors of a cupboard each carry the whole cupboard's texture
def _decoded(data: bytes) -> NDArray[np.uint8]:
    """A PNG, JPEG or WebP picture, reduced to TEXTURE_PIXELS, (H, W, 3)."""
    try:
        with Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "WEBP")) as image:
            width, height = image.size
            _need(width * height <= MAX_IMAGE_PIXELS, f"a texture of {width} x {height} pixels is too large")
            share = TEXTURE_PIXELS / max(width, height, TEXTURE_PIXELS)
            size = (max(round(width * share), 1), max(round(height * share), 1))
            image.draft("RGB", size)  # JPEG: decode at a lower resolution
            pixels = image.convert("RGB").resize(size, Image.Resampling.BOX)
    except (OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError) as e:
        raise _Refused(f"a texture cannot be decoded ({str(e)[:80]})") from e
    return np.asarray(pixels)


def _joined(parts: list[tuple], texture: NDArray[np.uint8]) -> Patch:
    """One patch of (vertices, faces, uv) parts with the same texture."""
    offsets = np.cumsum([0] + [len(v) for v, _, _ in parts])
    faces = [f + np.int32(o) for (_, f, _), o in zip(parts, offsets[:-1], strict=True)]
    vertices = np.concatenate([v for v, _, _ in parts])
    return Patch(vertices, np.concatenate(faces), np.concatenate([uv for _, _, uv in parts]), texture)
