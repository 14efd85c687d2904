"""Pictures drawn by triangles against those of MuJoCo Warp's ray caster, and what only triangles get wrong."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from test_renderer import BLUE, RED, draw, layouts, make_state, objects, palette

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.errors import UserError
from llarp.sim import raster_kernels
from llarp.sim.assets import LayoutTables, Mesh, palette_uv
from llarp.sim.meshes import ellipsoid
from llarp.sim.model import build_model
from llarp.sim.renderer import BatchRenderer
from llarp.sim.world import load_assets
from llarp.tasks.state import MAX_OBJECTS, WorldState

SCENES = 6


def furnished(scene: torch.Tensor, target: int) -> WorldState:
    """Built-in scenes with a dozen objects about, the robot at nav target `target`."""
    assets, n = load_assets(), len(scene)
    state, random = make_state(n), torch.Generator().manual_seed(int(target))
    state.scene = scene
    state.object_model[:, :12] = torch.randint(len(assets.object_meshes), (n, 12), generator=random)
    state.robot = assets.scenes.nav_pose[scene, target].clone()
    ahead = torch.stack([state.robot[:, 2].cos(), state.robot[:, 2].sin()], dim=-1)
    spread = torch.randn(n, MAX_OBJECTS, 2, generator=random) * 0.3
    state.object_position[..., :2] = state.robot[:, None, :2] + 0.9 * ahead[:, None] + spread
    return state


def compare(assets, state: WorldState, size: int, **settings) -> tuple[torch.Tensor, torch.Tensor]:
    """Differences of colours (N, H, W), 0 to 255, and where another slot is shown, of both ways to draw."""
    parts = (assets.layouts, assets.object_meshes, assets.object_material, state.num_worlds, size)
    model = build_model(*parts[:3])
    both = [
        BatchRenderer(*parts, segmentation=True, model=model, method=m, **settings) for m in ("triangles", "rays")
    ]
    pictures = [draw(renderer, state).int() for renderer in both]
    assert pictures[1].float().std() > 10  # something is to be seen
    return (pictures[0] - pictures[1]).abs().amax(-1), both[0].shown() != both[1].shown()


@pytest.mark.parametrize(("camera", "size"), [("head", 128), ("third_person", 192)])
def test_triangles_look_as_rays_do(camera, size):
    for target in (0, 7, 15):
        state = furnished(torch.arange(SCENES) * 15, target)
        difference, elsewhere = compare(load_assets(), state, size, camera=camera)
        assert difference.float().mean() < 0.1  # of 255
        assert (difference > 2).float().mean() < 2e-3 and elsewhere.float().mean() < 1e-3  # rims of things


def test_two_sided_triangles_look_as_rays_do():
    assets = load_assets()
    inside_out = [dataclasses.replace(m, faces=m.faces[:, ::-1].copy()) for m in assets.object_meshes]
    assets = dataclasses.replace(
        assets, object_meshes=inside_out, layouts=dataclasses.replace(assets.layouts, two_sided=True)
    )
    difference, elsewhere = compare(assets, furnished(torch.arange(SCENES), 8), 128)
    assert (difference > 2).float().mean() < 2e-3 and elsewhere.float().mean() < 1e-3


@pytest.mark.shared_data
def test_replica_cad_by_triangles_looks_as_by_rays(shared: Path):
    """Real meshes: sheets without thickness, large textures, some thousand faces in a mesh."""
    path = shared / "language_rearrangement" / "new_scenes.pickle"
    config = EnvConfig(dataset=str(path), scenes=str(shared / "replica_cad"))
    assets, episodes, rows = load_assets_for(config), load_episodes(config, seed=0), torch.arange(4)
    state = episodes.start_state(rows * 7, assets.scenes, assets.catalog, 0, torch.zeros_like(rows))
    for camera, size in (("head", 128), ("third_person", 192)):
        state.robot = state.nav_pose[rows, rows * 4].clone()
        difference, elsewhere = compare(assets, state, size, camera=camera)
        assert difference.float().mean() < 0.1
        assert (difference > 2).float().mean() < 2e-3 and elsewhere.float().mean() < 1e-3


def closed_room(pieces: int) -> Mesh:
    """A box seen from within, each side cut into pieces x pieces squares of two triangles."""
    steps = np.linspace(-1, 1, pieces + 1)
    vertices, faces = [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            first = len(vertices)
            for u in steps:
                for v in steps:
                    vertices.append(np.roll([side, u, v], axis))
            for i in range(pieces):
                for j in range(pieces):
                    a, b = first + i * (pieces + 1) + j, first + (i + 1) * (pieces + 1) + j
                    ring = [a, b, b + 1, a + 1] if side < 0 else [a, a + 1, b + 1, b]
                    faces += [[ring[0], ring[1], ring[2]], [ring[0], ring[2], ring[3]]]
    points = np.array(vertices, np.float32) * np.array([2.3, 1.7, 1.9], np.float32)
    uv = np.tile(np.array(palette_uv(BLUE), np.float32), (len(points), 1))
    return Mesh("room", points, np.array(faces, np.int32)[:, ::-1].copy(), uv)


@pytest.mark.parametrize("pieces", [1, 7, 40])
def test_neighbouring_triangles_leave_no_gap(pieces):
    """Every ray inside a closed room meets it, whether its triangles are tiny or reach behind the camera."""
    tables = layouts()
    room = LayoutTables(
        [closed_room(pieces)], tables.materials, *(getattr(tables, name)[:, :1] * 0 for name in ("mesh", "material")),
        tables.position[:, :1] * 0, tables.yaw[:, :1] * 0, tables.joint[:, :1] * 0 - 1, tables.slide[:, :1] * 0,
        tables.hinge[:, :1] * 0, two_sided=True,
    )  # fmt: skip
    state = make_state(24)
    state.scene[:], state.object_model[:] = 0, -1
    state.robot[:, 2] = torch.arange(24) * 0.2719
    renderer = BatchRenderer(room, objects(), palette(), 24, size=96, segmentation=True)
    draw(renderer, state)
    assert (renderer.shown() >= 0).all()


def test_what_is_behind_the_camera_or_beside_it_is_not_drawn():
    state = make_state(1)
    state.scene[:], state.object_model[:], state.robot[:] = 0, -1, 0.0
    renderer = BatchRenderer(layouts(), objects(), palette(), 1, segmentation=True)
    for position, seen in (((1.0, 0.0, 1.0), True), ((-1.0, 0.0, 1.0), False), ((0.4, 1.5, 1.1), False)):
        state.object_model[0, 5], state.object_position[0, 5] = 0, torch.tensor(position)
        draw(renderer, state)
        assert bool(renderer.visible_pixels()[0, 5] > 0) == seen


def test_smooth_meshes_shade_smoothly_from_outside_only():
    """A ball is lit from its vertex normals in the third person's pictures, facet by facet in the robot's."""
    ball = ellipsoid((0.3, 0.3, 0.3), RED)
    state = make_state(1)
    state.scene[:], state.object_model[:], state.robot[:] = 1, -1, 0.0
    state.object_model[0, 5], state.object_position[0, 5] = 0, torch.tensor((1.2, 0.0, 1.0))
    shades = []
    for camera in ("head", "third_person"):
        renderer = BatchRenderer(layouts(), [ball], palette(), 1, 128, camera=camera, segmentation=True)
        picture = draw(renderer, state)
        shades.append(len(picture[renderer.seen_slots() == 5].unique(dim=0)))
    assert shades[0] < 60 < shades[1]


def test_too_many_slots_are_refused(monkeypatch):
    monkeypatch.setattr(raster_kernels, "SLOT_BITS", 5)
    with pytest.raises(UserError, match="slots"):
        BatchRenderer(layouts(), objects(), palette(), 1)


def test_unknown_way_to_draw_is_told():
    with pytest.raises(UserError, match="triangles or rays"):
        BatchRenderer(layouts(), objects(), palette(), 1, method="crayons")
