"""The renderer against projections worked out by hand, and batches against single worlds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llarp.errors import UserError
from llarp.sim.assets import PALETTE_CELLS, LayoutTables, Material, Mesh, palette_uv
from llarp.sim.model import build_model
from llarp.sim.renderer import BatchRenderer
from llarp.tasks.state import GRIPPER_IN_BASE, MAX_OBJECTS, WorldState

SIZE = 64
RED, GREEN, BLUE, YELLOW = range(4)
COLOURS = np.array([[220, 30, 30], [30, 200, 30], [30, 30, 220], [210, 200, 20]], np.uint8)


def box(name: str, half: tuple, cell: int, origin: tuple = (0.0, 0.0, 0.0)) -> Mesh:
    """A box whose centre lies at `origin` of its own frame."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
    faces = np.array(
        [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6]]
        + [[0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]],
        np.int32,
    )
    vertices = corners * np.array(half, np.float32) + np.array(origin, np.float32)
    return Mesh(name, vertices, faces, np.tile(np.array(palette_uv(cell), np.float32), (8, 1)))


def palette() -> Material:
    texture = np.zeros((PALETTE_CELLS, PALETTE_CELLS, 3), np.uint8)
    texture[0, : len(COLOURS)] = COLOURS
    return Material("palette", texture.repeat(4, 0).repeat(4, 1))


def floor_quad() -> Mesh:
    corners = np.array([[-6, -6, 0], [6, -6, 0], [6, 6, 0], [-6, 6, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]], np.int32)
    return Mesh("floor", corners, faces, np.tile(np.array(palette_uv(BLUE), np.float32), (4, 1)))


def layouts() -> LayoutTables:
    """Scene 0: floor, a cabinet, a drawer on handle 0, a door on the fridge's; scene 1: floor, a turned cabinet."""
    meshes = [
        floor_quad(),
        box("cabinet", (0.2, 0.5, 0.4), RED, (0, 0, 0.4)),
        box("drawer", (0.1, 0.2, 0.1), GREEN),
        box("door", (0.02, 0.3, 0.5), YELLOW, (0, 0.3, 0)),  # its origin is on the hinge
    ]
    mesh = np.array([[0, 1, 2, 3], [0, 1, -1, -1]])
    position = np.zeros((2, 4, 3), np.float32)
    position[0, 1:] = (2.5, -1.5, 0), (2.0, 0.0, 0.9), (2.5, 1.0, 1.0)
    position[1, 1] = (2.2, 0.3, 0)
    yaw = np.zeros((2, 4), np.float32)
    yaw[1, 1] = 0.7
    joint = np.array([[-1, -1, 0, 4], [-1, -1, -1, -1]])
    slide = np.zeros((2, 4, 3), np.float32)
    slide[0, 2, 0] = -1.0
    hinge = np.zeros((2, 4), np.float32)
    hinge[0, 3] = 1.0
    return LayoutTables(meshes, [palette()], mesh, np.zeros_like(mesh), position, yaw, joint, slide, hinge)


def objects() -> list[Mesh]:
    return [box("cube", (0.05, 0.05, 0.05), GREEN), box("bar", (0.15, 0.03, 0.04), YELLOW)]


def make_state(num_worlds: int) -> WorldState:
    """Worlds with three objects each, none like another."""
    draw = torch.Generator().manual_seed(3)
    model = torch.full((num_worlds, MAX_OBJECTS), -1)
    model[:, [0, 7, 55]] = torch.randint(0, 2, (num_worlds, 3), generator=draw)
    low, high = torch.tensor([1.0, -0.6, 0.4]), torch.tensor([2.0, 0.6, 1.2])
    zeros = torch.zeros
    return WorldState(
        scene=torch.arange(num_worlds) % 2,
        robot=torch.rand(num_worlds, 3, generator=draw) * 0.4 - 0.2,
        joint=torch.rand(num_worlds, 5, generator=draw) * 0.4,
        held=torch.full((num_worlds,), -1),
        object_model=model,
        object_category=model.clone(),
        object_position=low + (high - low) * torch.rand(num_worlds, MAX_OBJECTS, 3, generator=draw),
        object_yaw=torch.rand(num_worlds, MAX_OBJECTS, generator=draw) * 6,
        object_inside=torch.full((num_worlds, MAX_OBJECTS), -1),
        receptacle_center=zeros(num_worlds, 11, 3),
        receptacle_half=zeros(num_worlds, 11, 3),
        receptacle_yaw=zeros(num_worlds, 11),
        receptacle_slide=zeros(num_worlds, 11, 3),
        surface_z=zeros(num_worlds, 11),
        handle_position=zeros(num_worlds, 5, 3),
        nav_pose=zeros(num_worlds, 16, 3),
    )


@pytest.fixture(scope="module")
def shared_model():
    return build_model(layouts(), objects(), palette())


@pytest.fixture
def make(shared_model):
    def build(num_worlds: int, **settings) -> BatchRenderer:
        settings = {"num_threads": 1, "segmentation": True, "size": SIZE, **settings}
        return BatchRenderer(layouts(), objects(), palette(), num_worlds, model=shared_model, **settings)

    return build


def draw(renderer: BatchRenderer, state: WorldState) -> torch.Tensor:
    renderer.set_scene(torch.arange(state.num_worlds), state.scene, state.object_model)
    renderer.set_poses(state)
    return renderer.render()


def rays() -> tuple[np.ndarray, np.ndarray]:
    """Origin (3,) and directions (SIZE, SIZE, 3) of the head camera's pixels in the base frame, by hand.

    Camera at (0.25, 0, 1.2), looking at (0.75, 0, 1.0), 90 degrees of view: half the picture is one unit at depth one.
    """
    tilt = math.atan2(0.2, 0.5)
    forward, up = np.array([math.cos(tilt), 0, -math.sin(tilt)]), np.array([math.sin(tilt), 0, math.cos(tilt)])
    across = (np.arange(SIZE) + 0.5) / (SIZE / 2) - 1  # -1 to 1, left to right or top to bottom
    left = np.array([0, 1, 0])
    directions = forward - across[None, :, None] * left - across[:, None, None] * up
    return np.array([0.25, 0, 1.2]), directions


def one_object(position: tuple, model: int = 0) -> WorldState:
    state = make_state(1)
    state.object_model[:] = -1
    state.object_model[0, 5] = model
    state.object_position[0, 5] = torch.tensor(position)
    state.object_yaw[:] = 0
    state.robot[:] = 0
    return state


@pytest.mark.parametrize("center", [(1.203, 0.291, 0.907), (1.013, -0.412, 1.311), (0.917, 0.353, 0.809)])
def test_cube_appears_at_the_pixels_whose_rays_meet_it(make, center):
    renderer = make(1)
    draw(renderer, one_object(center))
    seen = (renderer.seen_slots()[0] == 5).numpy()
    origin, directions = rays()
    sides = (np.array(center) + np.array([[-0.05], [0.05]]) - origin)[:, None, None] / directions  # (2, SIZE, SIZE, 3)
    expected = sides.min(axis=0).max(axis=-1) <= sides.max(axis=0).min(axis=-1)
    assert expected.sum() > 15
    assert (seen != expected).sum() <= 1  # a ray along an edge may fall either way
    assert renderer.visible_pixels()[0, 5] == seen.sum()


def test_the_camera_turns_with_the_robot(make):
    center = (1.1, 0.25, 0.95)
    still = one_object(center)
    turned = one_object(center)
    angle = 2.0
    cos, sin = math.cos(angle), math.sin(angle)
    turned.robot[0] = torch.tensor([0.7, -0.4, angle])
    turned.object_position[0, 5, :2] = torch.tensor(
        [0.7 + cos * center[0] - sin * center[1], -0.4 + sin * center[0] + cos * center[1]]
    )
    turned.object_yaw[0, 5] = angle
    renderer = make(1)
    draw(renderer, still)
    before = renderer.visible_pixels()[0, 5]
    draw(renderer, turned)
    assert abs(renderer.visible_pixels()[0, 5] - before) <= 2 and before > 10


def test_colours_come_from_the_palette(make):
    state = one_object((1.0, 0.0, 1.0))
    renderer = make(1)
    picture = draw(renderer, state)[0].float()
    cube = renderer.seen_slots()[0] == 5
    shade = picture[cube][0] / torch.from_numpy(COLOURS[GREEN]).float()
    assert shade.min() > 0.3 and shade.max() <= 1.0 and shade.max() - shade.min() < 0.06  # darker or lighter, same hue
    red, green, blue = picture[-1, 0]
    assert blue > 3 * red and blue > 3 * green  # the floor


def test_batch_equals_single_worlds(make):
    state = make_state(5)
    batch = draw(make(5), state)
    for i in range(5):
        assert torch.equal(draw(make(1), state.rows(torch.tensor([i])))[0], batch[i])
    assert len({picture.numpy().tobytes() for picture in batch}) == 5


@pytest.mark.parametrize("num_threads", [2, 3, 8])
def test_threads_do_not_change_pictures(make, num_threads):
    state = make_state(5)
    assert torch.equal(draw(make(5, num_threads=num_threads), state), draw(make(5), state))


def test_rearranged_worlds_equal_fresh_ones(make):
    renderer = make(4)
    state = make_state(4)
    first = draw(renderer, state)
    later = make_state(7).rows(torch.tensor([6, 5, 4, 3]))
    second = draw(renderer, later)
    assert torch.equal(second, draw(make(4), later))
    assert not torch.equal(first, second)
    assert torch.equal(first, draw(renderer, state))


def test_set_scene_touches_only_its_rows(make):
    renderer = make(3)
    state = make_state(3)
    first = draw(renderer, state)
    state.scene[1], state.object_model[1] = 0, -1
    renderer.set_scene(torch.tensor([1]), state.scene[1:2], state.object_model[1:2])
    renderer.set_poses(state)
    second = renderer.render()
    assert torch.equal(first[[0, 2]], second[[0, 2]]) and not torch.equal(first[1], second[1])
    assert renderer.visible_pixels()[1].sum() == 0 and renderer.visible_pixels()[0].sum() > 0


def test_empty_slots_do_not_show(make):
    state = one_object((1.0, 0.0, 1.0))
    renderer = make(1)
    draw(renderer, state)
    counts = renderer.visible_pixels()[0]
    assert counts[5] > 0 and counts.sum() == counts[5]
    seen = renderer.shown().unique()
    empty = (renderer._placed.mesh[0] == renderer.model.empty_mesh).nonzero()[:, 0]
    assert len(empty) > 50 and not torch.isin(seen, empty).any()


def test_moved_objects_drawers_and_doors_change_the_picture(make):
    renderer = make(1)
    state = one_object((1.0, 0.0, 1.0))
    state.joint[:] = 0
    before = draw(renderer, state)
    for change in ("object_position", "joint drawer", "joint fridge"):
        moved = one_object((1.0, 0.0, 1.0))
        moved.joint[:] = 0
        if change == "object_position":
            moved.object_position[0, 5, 1] += 0.1
        else:
            moved.joint[0, 0 if change.endswith("drawer") else 4] = 0.45
        renderer.set_poses(moved)
        assert not torch.equal(before, renderer.render()), change
    renderer.set_poses(state)
    assert torch.equal(before, renderer.render())


def test_drawer_slides_and_door_swings(make):
    renderer = make(1)
    state = one_object((1.0, 0.0, 1.0))
    state.joint[:] = 0
    state.joint[0, 0], state.joint[0, 4] = 0.4, 1.2
    draw(renderer, state)
    torch.testing.assert_close(renderer._placed.position[0, 2], torch.tensor([2.0 - 0.4, 0.0, 0.9]))
    swung = torch.tensor([2.5 - 0.3 * math.sin(1.2), 1.0 + 0.3 * math.cos(1.2), 1.0])  # centre about hinge
    torch.testing.assert_close(renderer._placed.position[0, 3], swung)


def test_the_held_object_and_the_gripper_are_in_view(make):
    renderer = make(1)
    draw(renderer, one_object(GRIPPER_IN_BASE))
    assert renderer.visible_pixels()[0, 5] > 30
    arm = renderer.shown()[0] == renderer.model.num_slots - 1
    rows = arm.nonzero()[:, 0]
    assert len(rows) > 60 and rows.min() > SIZE // 2  # in the lower half only


def test_third_person_camera_shows_the_robot_and_stays_in_the_room(make):
    renderer = make(2, camera="third_person")
    state = make_state(2)
    state.robot[:] = torch.tensor([[0.0, 0.0, 0.3], [-5.5, 5.5, 0.0]])  # the second with its back to the wall
    draw(renderer, state)
    robot_slots = renderer.seen_slots() == MAX_OBJECTS
    assert (robot_slots.sum(dim=(1, 2)) > SIZE * SIZE // 100).all()
    assert (renderer._placed.camera_position[:, 1, :2].abs() < 6).all()


def test_bad_settings_are_told(make):
    with pytest.raises(UserError, match="camera"):
        make(1, camera="drone")
    with pytest.raises(UserError, match="at least 1"):
        make(0)
    with pytest.raises(UserError, match="segmentation"):
        make(1, segmentation=False).visible_pixels()


def test_refused_mesh_is_named():
    tables = layouts()
    tables.meshes[1] = Mesh("crooked", tables.meshes[1].vertices[:3], np.array([[0, 1, 2]]), tables.meshes[1].uv[:3])
    with pytest.raises(UserError, match="crooked"):
        build_model(tables, objects(), palette())
