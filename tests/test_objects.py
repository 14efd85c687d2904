"""Object models and the mesh builders they are made of."""

from __future__ import annotations

import mujoco
import numpy as np
import pytest

from llarp.errors import UserError
from llarp.sim import meshes
from llarp.sim.assets import PALETTE_CELLS, Mesh
from llarp.sim.object_palette import cell, object_material
from llarp.sim.objects import TRAIN_MODELS, build_objects
from llarp.tasks.entities import CATEGORIES


@pytest.fixture(scope="module")
def objects():
    return build_objects()


def volume(mesh: Mesh) -> float:
    """Signed volume by the divergence theorem: positive when faces look outward."""
    a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(float), 1, 0)
    return float(np.einsum("ij,ij->", a, np.cross(b, c)) / 6)


def open_edges(mesh: Mesh) -> int:
    """Directed edges that no neighbouring face runs along the other way (0: closed); equal positions are one vertex."""
    _, point = np.unique(mesh.vertices.round(6), axis=0, return_inverse=True)
    faces = point.reshape(-1)[mesh.faces]
    edges = [(int(f[i]), int(f[(i + 1) % 3])) for f in faces for i in range(3)]
    return len(set(edges) - {(b, a) for a, b in edges})


CIRCLE = 6 * np.sin(np.pi / 6)  # area of a regular 12-gon in the unit circle
BENT = [(0, 0), (2, 0), (2, 1), (1, 1), (1, 2), (0, 2)]


@pytest.mark.parametrize(
    ("mesh", "expected"),
    [
        (meshes.box((0.1, 0.2, 0.3), 1, (5, 6, 7)), 0.2 * 0.4 * 0.6),
        (meshes.cylinder(0.1, 0.2, 1, segments=12, cap_cell=2), CIRCLE * 0.01 * 0.4),
        (meshes.extrude(BENT, 0.5, 1, side_cell=3), 3.0),
        (meshes.tube([(0, 0, 0), (0, 0, 1), (0, 0, 2)], 0.1, 1, segments=12), CIRCLE * 0.01 * 2),
        (meshes.lathe([(0, 0), (1, 0), (1, 1), (0.5, 1), (0.5, 0.2), (0, 0.2)], 1, 12), CIRCLE * (1 - 0.25 * 0.8)),
        (meshes.transform(meshes.box((1, 1, 1), 1), (1, 2, 3), yaw=1, pitch=2, roll=3, scale=(1, 2, 3)), 48.0),
    ],
)
def test_volume_of_closed_solids(mesh: Mesh, expected: float) -> None:
    assert volume(mesh) == pytest.approx(expected, rel=1e-4)
    assert open_edges(mesh) == 0


def test_round_solids_are_closed_and_face_outward() -> None:
    half = np.array((0.1, 0.2, 0.3))
    ball = meshes.ellipsoid(half, 1, 24, 16)
    assert 0.95 < volume(ball) / (4 / 3 * np.pi * half.prod()) < 1
    rounded = meshes.rounded_box(half, 0.02, 1)
    assert 0.95 < volume(rounded) / (8 * half.prod()) < 1 and len(rounded.faces) == 44
    turn = np.arange(12) * np.pi / 6
    ring = meshes.tube(np.column_stack((np.cos(turn), np.sin(turn), 0 * turn)), 0.1, 1, 8, closed=True)
    assert volume(ring) > 0
    assert open_edges(ball) == open_edges(rounded) == open_edges(ring) == 0


def test_paint_changes_only_the_chosen_faces() -> None:
    cube = meshes.box((1, 1, 1), 3)
    painted = meshes.paint(cube, lambda centre: np.where(centre[:, 2] > 0.9, 200, -1))
    on_top = painted.vertices[painted.faces].mean(1)[:, 2] > 0.9
    assert on_top.sum() == 2
    assert (meshes.face_cells(painted) == np.where(on_top, 200, 3)).all()
    assert volume(painted) == pytest.approx(8) and open_edges(painted) == 0


def test_centered_and_merge() -> None:
    pair = meshes.merge("pair", [meshes.box((1, 1, 1), 0), meshes.box((1, 1, 1), 1, (4, 0, 0))])
    middle = meshes.centered(pair)
    assert middle.name == "pair" and volume(middle) == pytest.approx(16)
    np.testing.assert_allclose(middle.vertices.max(0), (3, 1, 1))
    np.testing.assert_allclose(middle.vertices.min(0), (-3, -1, -1))


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(UserError, match="counter-clockwise"):
        meshes.extrude(BENT[::-1], 1, 0)
    with pytest.raises(UserError, match="bevel"):
        meshes.rounded_box((1, 1, 1), 1.5, 0)
    with pytest.raises(UserError, match="positive"):
        meshes.transform(meshes.box((1, 1, 1), 0), scale=(1, -1, 1))


def test_catalog_covers_every_category_in_both_splits(objects) -> None:
    catalog, models, _ = objects
    assert catalog.names == [m.name for m in models] and len(set(catalog.names)) == len(catalog)
    for index, category in enumerate(CATEGORIES):
        rows = [k for k in range(len(catalog)) if int(catalog.category[k]) == index]
        assert [catalog.names[k] for k in rows] == [f"{category.replace(' ', '_')}_{i}" for i in range(len(rows))]
        splits = [catalog.splits[k] for k in rows]
        assert splits.count("train") == TRAIN_MODELS and splits.count("heldout") >= 2


def test_models_of_a_category_differ(objects) -> None:
    catalog, models, _ = objects
    looks = {(m.vertices.tobytes(), m.uv.tobytes()) for m in models}
    assert len(looks) == len(catalog)


def test_sizes(objects) -> None:
    catalog, models, _ = objects
    for mesh, half in zip(models, catalog.half_size.numpy(), strict=True):
        np.testing.assert_allclose(mesh.vertices.max(0), half, atol=1e-6)
        np.testing.assert_allclose(mesh.vertices.min(0), -half, atol=1e-6)
        assert 2 * half[:2].max() <= 0.3201, f"{mesh.name} is too wide"
        assert 2 * half.max() >= 0.10 and 2 * half[2] <= 0.28, mesh.name
        assert len(mesh.faces) <= 260, f"{mesh.name} costs too many triangles"
    assert np.mean([len(m.faces) for m in models]) < 200


def test_colours_come_from_named_palette_cells(objects) -> None:
    _, models, material = objects
    used = np.unique(np.concatenate([meshes.face_cells(m) for m in models]))
    texture = material.texture[::4, ::4].reshape(-1, 3)
    assert texture.shape == (PALETTE_CELLS**2, 3) and (texture[used].sum(1) > 0).all()
    assert texture[cell("red")].argmax() == 0 and texture[cell("blue")].argmax() == 2
    assert (object_material().texture == material.texture).all()
    for mesh in models:  # all three corners of a face in one cell, or colours would run
        cells = np.floor(mesh.uv[mesh.faces] * PALETTE_CELLS)
        assert (cells == cells[:, :1]).all(), mesh.name


def test_faces_look_outward(objects) -> None:
    _, models, _ = objects
    for mesh in models:
        assert volume(mesh) > 0 and np.isfinite(mesh.vertices).all(), mesh.name


def test_mujoco_compiles_every_model(objects) -> None:
    _, models, _ = objects
    spec = mujoco.MjSpec()
    for mesh in models:
        added = spec.add_mesh(name=mesh.name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
        added.uservert, added.userface = mesh.vertices.ravel(), mesh.faces.ravel()
        added.usertexcoord, added.userfacetexcoord = mesh.uv.ravel(), mesh.faces.ravel()
        spec.worldbody.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=mesh.name)
    model = spec.compile()
    assert model.nmesh == len(models)
    assert model.nmeshface == sum(len(m.faces) for m in models)
