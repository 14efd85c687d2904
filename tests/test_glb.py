"""The reader of .glb meshes: what it reads, what it refuses, and that no damaged file breaks it in another way."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glb_files import Glb, box_glb, packed

from llarp.errors import UserError
from llarp.sim.replica_cad import glb
from llarp.sim.replica_cad.glb import Model, read_glb

TRIANGLE = [(0, 0, 0), (1, 0, 0), (0, 2, 0)]
UV = [(0, 0), (1, 0), (0, 1)]


def read(folder: Path, data: bytes) -> Model:
    file = folder / "thing.glb"
    file.write_bytes(data)
    return read_glb(file)


def refusal(folder: Path, data: bytes) -> str:
    """The error a file is refused with: one line that names it."""
    with pytest.raises(UserError) as caught:
        read(folder, data)
    text = str(caught.value)
    assert "thing.glb" in text and "\n" not in text
    return text


def test_nodes_move_their_meshes(tmp_path: Path):
    made = Glb()
    mesh = made.mesh(TRIANGLE, (0, 1, 2))
    quarter = [0, np.sqrt(0.5), 0, np.sqrt(0.5)]  # about y: x becomes -z
    nodes = [
        {"translation": [10, 0, 0], "children": [1]},
        {"rotation": quarter, "scale": [1, 3, 1], "mesh": mesh},
        {"matrix": [-1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 5, 1], "mesh": mesh},
    ]
    made.gltf["scenes"], made.gltf["scene"] = [{"nodes": [0, 2]}], 0
    (patch,) = read(tmp_path, made.bytes(nodes)).patches
    turned, mirrored = patch.vertices[patch.faces]
    np.testing.assert_allclose(turned, [(10, 0, 0), (10, 0, -1), (10, 6, 0)], atol=1e-5)
    np.testing.assert_allclose(mirrored, [(0, 2, 5), (-1, 0, 5), (0, 0, 5)], atol=1e-6)  # still seen from +z


def test_a_part_beside_the_scene_is_left_out(tmp_path: Path):
    made = Glb()
    mesh = made.mesh(TRIANGLE, (0, 1, 2))
    made.gltf["scenes"] = [{"nodes": [1]}]
    model = read(tmp_path, made.bytes([{"mesh": mesh}, {"mesh": mesh, "translation": [7, 0, 0]}]))
    assert model.patches[0].vertices[:, 0].min() == 7


def test_flat_colours_share_one_patch(tmp_path: Path):
    made = Glb()
    for factor in ((1, 0, 0, 1), (0.2159, 0.2159, 0.2159, 1)):
        made.mesh(TRIANGLE, (0, 1, 2), material={"pbrMetallicRoughness": {"baseColorFactor": factor}})
    (patch,) = read(tmp_path, made.bytes()).patches
    height, width, _ = patch.texture.shape
    at = (patch.uv[patch.faces[:, 0]] * (width, height)).astype(int)
    assert patch.texture[at[:, 1], at[:, 0]].tolist() == [[255, 0, 0], [128, 128, 128]]  # linear 0.2159 is sRGB 0.5


def test_windows_of_clear_glass_are_left_out(tmp_path: Path):
    made = Glb()
    clear = {"alphaMode": "BLEND", "pbrMetallicRoughness": {"baseColorFactor": [1, 1, 1, 0.02]}}
    made.mesh(TRIANGLE, (0, 1, 2), material=clear)
    made.mesh([(0, 0, 9), *TRIANGLE[1:]], (0, 1, 2))
    assert read(tmp_path, made.bytes()).patches[0].vertices[:, 2].max() == 9


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_textures_are_reduced_and_tinted(tmp_path: Path, kind: str):
    made = Glb()
    pixels = np.zeros((512, 1024, 3), np.uint8)
    pixels[:, 512:] = 200
    base = {"baseColorTexture": {"index": made.picture(pixels, kind)}, "baseColorFactor": [0.2159, 1, 0, 1]}
    made.mesh(TRIANGLE, (0, 1, 2), UV, {"pbrMetallicRoughness": base})
    (patch,) = read(tmp_path, made.bytes()).patches
    assert patch.texture.shape == (128, 256, 3)
    assert patch.texture[64, 20].max() <= 2
    np.testing.assert_allclose(patch.texture[64, 230], (100, 200, 0), atol=3)
    np.testing.assert_allclose(patch.uv, UV)


def test_texture_coordinates_are_moved_as_the_material_says(tmp_path: Path):
    made = Glb()
    shift = {"KHR_texture_transform": {"offset": [0.25, 0.5], "scale": [0.5, 0.1]}}
    base = {"baseColorTexture": {"index": made.picture(np.zeros((4, 4, 3), np.uint8)), "extensions": shift}}
    made.mesh(TRIANGLE, (0, 1, 2), UV, {"pbrMetallicRoughness": base})
    (patch,) = read(tmp_path, made.bytes()).patches
    np.testing.assert_allclose(patch.uv, [(0.25, 0.5), (0.75, 0.5), (0.25, 0.6)], atol=1e-6)


def test_interleaved_and_normalized_arrays(tmp_path: Path):
    made = Glb()
    rows = np.zeros(3, [("at", "<f4", 3), ("uv", "<u2", 2)])
    rows["at"], rows["uv"] = TRIANGLE, np.array(UV) * 65535
    view = made.view(rows.tobytes(), byteStride=16)
    made.gltf["accessors"] = [
        {"bufferView": view, "componentType": 5126, "count": 3, "type": "VEC3"},
        {"bufferView": view, "byteOffset": 12, "componentType": 5123, "count": 3, "type": "VEC2", "normalized": True},
    ]
    texture = {"baseColorTexture": {"index": made.picture(np.zeros((4, 4, 3), np.uint8))}}
    made.gltf["materials"] = [{"pbrMetallicRoughness": texture}]
    primitive = {"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}  # no indices: every three vertices
    made.gltf["meshes"] = [{"primitives": [primitive, {"attributes": {"POSITION": 0}, "mode": 1}]}]  # lines: left out
    (patch,) = read(tmp_path, made.bytes()).patches
    np.testing.assert_allclose(patch.vertices, TRIANGLE)
    np.testing.assert_allclose(patch.uv, UV)


def test_textures_of_another_kind_are_counted(tmp_path: Path):
    made = Glb()
    made.picture(np.zeros((4, 4, 3), np.uint8))
    made.gltf["images"][0]["mimeType"] = "image/ktx2"
    made.gltf["textures"] = [{"extensions": {"KHR_texture_basisu": {"source": 0}}}]
    made.mesh(TRIANGLE, (0, 1, 2), UV, {"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}})
    model = read(tmp_path, made.bytes())
    assert model.unread_textures == 1 and len(np.unique(model.patches[0].texture)) == 1


def _changed(change: Callable[[Any], Any]) -> bytes:
    """A sound file with something in its description changed."""
    made = Glb()
    made.mesh(TRIANGLE, (0, 1, 2))
    nodes = [{"mesh": 0}]
    made.gltf["nodes"] = nodes
    change(made.gltf)
    return made.bytes(made.gltf["nodes"])


def _set(*path: Any) -> Callable[[Any], None]:
    """Sets what the path but its last part names to the last part."""

    def change(gltf: Any) -> None:
        for key in path[:-2]:
            gltf = gltf[key]
        gltf[path[-2]] = path[-1]

    return change


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_set("accessors", 0, "count", 2**40), "beyond its data"),
        (_set("accessors", 0, "count", -1), "beyond its data"),
        (_set("accessors", 0, "count", 2.5), "beyond its data"),
        (_set("accessors", 0, "byteOffset", 2**33), "beyond its data"),
        (_set("accessors", 0, "type", "VEC4"), "VEC4"),
        (_set("accessors", 0, "componentType", 9), "malformed"),
        (_set("accessors", 0, "sparse", {}), "sparse"),
        (_set("accessors", 0, {}), "sparse"),
        (_set("bufferViews", 0, "byteLength", 2**31), "beyond its data"),
        (_set("bufferViews", 0, "byteOffset", -4), "beyond its data"),
        (_set("bufferViews", 0, "byteStride", 1), "beyond its data"),
        (_set("bufferViews", 0, "buffer", 3), "other files"),
        (_set("nodes", [{"children": [0], "mesh": 0}]), "no triangles"),
        (_set("scenes", [{"nodes": [0]}]), ""),
        (_set("nodes", 0, "mesh", -1), "absent"),
        (_set("nodes", 0, "mesh", True), "absent"),
        (_set("nodes", 0, "matrix", [1, 2, 3]), "malformed"),
        (_set("nodes", 0, "translation", [1e9, 0, 0]), "1000 m"),
        (_set("nodes", 0, "scale", ["a", 1, 1]), "malformed"),
        (_set("meshes", 0, "primitives", 0, "mode", 5), "strips"),
        (_set("meshes", 0, "primitives", 0, "material", 4), "absent"),
        (_set("meshes", 0, "primitives", 0, "attributes", {}), "POSITION"),
        (_set("meshes", 0, {}), "primitives"),
        (_set("meshes", []), "absent"),
        (_set("extensionsRequired", ["KHR_draco_mesh_compression"]), "draco"),
    ],
)
def test_refused(tmp_path: Path, change: Callable[[Any], None], why: str):
    data = _changed(change)
    if why:
        assert why in refusal(tmp_path, data)
    else:
        read(tmp_path, data)


def test_nodes_in_a_circle_are_refused(tmp_path: Path):
    made = Glb()
    made.mesh(TRIANGLE, (0, 1, 2))
    made.gltf["scenes"] = [{"nodes": [0]}]
    assert "circle" in refusal(tmp_path, made.bytes([{"children": [0, 0], "mesh": 0}]))


def test_one_mesh_used_a_million_times_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(glb, "MAX_TRIANGLES", 50)
    made = Glb()
    made.mesh(TRIANGLE, [(0, 1, 2)] * 10)
    assert "more than 50 triangles" in refusal(tmp_path, made.bytes([{"mesh": 0}] * 6))


def test_vertices_that_are_not_there_are_refused(tmp_path: Path):
    made = Glb()
    made.mesh(TRIANGLE, (0, 1, 3))
    assert "not there" in refusal(tmp_path, made.bytes())
    made = Glb()
    made.mesh([(np.nan, 0, 0), *TRIANGLE[1:]], (0, 1, 2))
    assert "nowhere" in refusal(tmp_path, made.bytes())


def test_damaged_pictures_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = Glb()
    base = {"baseColorTexture": {"index": made.picture(np.zeros((64, 64, 3), np.uint8))}}
    made.mesh(TRIANGLE, (0, 1, 2), UV, {"pbrMetallicRoughness": base})
    sound, binary = made.bytes(), made.binary
    made.binary = binary[:40] + bytes(20) + binary[60:]
    assert "cannot be decoded" in refusal(tmp_path, made.bytes())
    made.binary = b"GIF89a" + binary[6:]
    assert "cannot be decoded" in refusal(tmp_path, made.bytes())
    monkeypatch.setattr(glb, "MAX_IMAGE_PIXELS", 1000)
    assert "64 x 64 pixels is too large" in refusal(tmp_path, sound)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "too short"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS"),
        (box_glb((0, 0, 0), (1, 1, 1))[:-7], "cut short"),
        (packed(b"{", b""), "not JSON"),
        (packed(b"[" * 100_000, b""), "malformed"),
        (packed(b"[]", b""), "not an object"),
        (packed(b"{}", b""), "no triangles"),
        (struct.pack("<III", 0x46546C67, 1, 20) + bytes(8), "version 1"),
        (struct.pack("<IIIII", 0x46546C67, 2, 20, 2**32 - 1, 0x4E4F534A), "beyond its end"),
    ],
)
def test_broken_files_are_refused(tmp_path: Path, data: bytes, why: str):
    assert why in refusal(tmp_path, data)


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(UserError, match=r"gone\.glb is missing: is the download complete"):
        read_glb(tmp_path / "gone.glb")
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(UserError, match=r"folder\.glb cannot be read"):
        read_glb(tmp_path / "folder.glb")


def _mutations(data: bytes, count: int, seed: int) -> list[bytes]:
    """Damaged copies: bits and words changed, pieces cut out, cut short, numbers in the description replaced."""
    rng = np.random.default_rng(seed)
    length = struct.unpack_from("<I", data, 12)[0]
    text, found = data[20 : 20 + length].decode(), []
    digits = [i for i, c in enumerate(text) if c.isdigit()]
    for _ in range(count):
        damaged = bytearray(data)
        match rng.integers(5):
            case 0:
                for _ in range(rng.integers(1, 6)):
                    damaged[rng.integers(len(damaged))] ^= 1 << int(rng.integers(8))
            case 1:
                at = int(rng.integers(len(damaged) - 4))
                damaged[at : at + 4] = struct.pack("<I", int(rng.choice([0, 1, 2**31, 2**32 - 1, 255])))
            case 2:
                at = int(rng.integers(len(damaged)))
                del damaged[at : at + int(rng.integers(1, 64))]
            case 3:
                del damaged[int(rng.integers(len(damaged))) :]
            case _:
                at = int(rng.choice(digits))
                new = rng.choice(["-1", "99999999999", "1e30", "null", '"a"', "[]", "{}", "true", "0.5", "9"])
                changed = (text[:at] + str(new) + text[at + 1 :]).encode()
                damaged = bytearray(packed(changed, data[28 + length :]))
        found.append(bytes(damaged))
    return found


def _whole() -> bytes:
    made = Glb()
    base = {"baseColorTexture": {"index": made.picture(np.arange(3072, dtype=np.uint8).reshape(32, 32, 3))}}
    made.mesh(TRIANGLE, (0, 1, 2), UV, {"pbrMetallicRoughness": base})
    made.mesh(TRIANGLE, (0, 1, 2), material={"pbrMetallicRoughness": {"baseColorFactor": [0, 0.5, 1, 1]}})
    made.gltf["scenes"], made.gltf["scene"] = [{"nodes": [0, 1]}], 0
    return made.bytes([{"mesh": 0, "children": [2]}, {"mesh": 1, "rotation": [0, 0, 0, 1]}, {"mesh": 0}])


@pytest.mark.filterwarnings("error")
def test_damaged_files_are_read_or_refused(tmp_path: Path):
    refused = 0
    for i, damaged in enumerate(_mutations(_whole(), 1500, seed=3)):
        try:
            model = read(tmp_path, damaged)
        except UserError as error:
            assert "\n" not in str(error), i
            refused += 1
        else:
            for patch in model.patches:
                assert np.isfinite(patch.vertices).all() and patch.faces.max() < len(patch.vertices), i
    assert 300 < refused < 1500


@pytest.mark.shared_data
@pytest.mark.parametrize(
    "name",
    ["objects/frl_apartment_tvstand", "objects/frl_apartment_refrigerator", "urdf/kitchen_counter/kitchen_counter"],
)
def test_replica_cad_reads_as_trimesh_reads_it(shared: Path, name: str):
    trimesh = pytest.importorskip("trimesh")
    file = shared / "replica_cad" / f"{name}.glb"
    theirs = trimesh.load_scene(file, process=False).to_mesh()
    patches = read_glb(file).patches
    ours = np.concatenate([p.vertices[p.faces] for p in patches])
    assert len(ours) == len(theirs.faces)
    order = [np.lexsort(np.round(t.mean(1), 4).T) for t in (ours, theirs.triangles)]
    np.testing.assert_allclose(ours[order[0]].mean(1), theirs.triangles[order[1]].mean(1), atol=2e-4)
    area = np.linalg.norm(np.cross(ours[:, 1] - ours[:, 0], ours[:, 2] - ours[:, 0]), axis=1).sum() / 2
    assert area == pytest.approx(theirs.area, rel=1e-4)
