"""The built-in apartments: complete, reachable, visible, different; checked against the meshes that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llarp.errors import UserError
from llarp.sim import layouts, navigation
from llarp.sim.assets import PALETTE_CELLS
from llarp.sim.layouts import SLOTS, build_layouts, layout_distance
from llarp.sim.rooms import ROOMS, Room
from llarp.sim.textures import CELL
from llarp.tasks.entities import (
    FRIDGE,
    FRIDGE_HANDLE,
    JOINT_OPEN_TO,
    LEFT_DRAWER,
    NUM_HANDLES,
    RECEPTACLE_INDEX,
    RECEPTACLES,
    RIGHT_DRAWER,
)  # fmt: skip
from llarp.tasks.state import SceneSet

ROOM_OF = {room.name: room for rooms in ROOMS.values() for room in rooms}
BODIES = {  # slots by what stands on the floor as one
    "kitchen": ("kitchen", "drawer_0", "drawer_1", "drawer_2", "drawer_3"),
    "fridge": ("fridge", "fridge_door"),
    "tv_stand": ("tv_stand", "tv"),
    **{name: (name,) for name in ("black_table", "brown_table", "sofa", "chair", "plant", "lamp", "shelf")},
}


@pytest.fixture(scope="module")
def built():
    return build_layouts()


def slot_rect(tables, scene: int, slot: str, q: float = 0.0) -> np.ndarray:
    """The rectangle (5,) that a slot's mesh covers on the floor, its joint at q."""
    i = SLOTS.index(slot)
    xy = tables.meshes[tables.mesh[scene, i]].vertices[:, :2].astype(float)
    middle, half = (xy.max(0) + xy.min(0)) / 2, (xy.max(0) - xy.min(0)) / 2
    yaw = tables.yaw[scene, i] + tables.hinge[scene, i] * q
    c, s = np.cos(yaw), np.sin(yaw)
    at = tables.position[scene, i, :2] + tables.slide[scene, i, :2] * q
    return np.array((*(at + np.array([[c, -s], [s, c]]) @ middle), *half, yaw))


def standing(tables, scene: int) -> dict[str, np.ndarray]:
    """Rectangles (n, 5) of what there is, by body."""
    there = {name for name, mesh in zip(SLOTS, tables.mesh[scene], strict=True) if mesh >= 0}
    bodies = {name: slots for name, slots in BODIES.items() if slots[0] in there}
    return {name: np.array([slot_rect(tables, scene, slot) for slot in slots]) for name, slots in bodies.items()}


def room_of(tables, scene: int) -> Room:
    return ROOM_OF[tables.meshes[tables.mesh[scene, 0]].name.removeprefix("floor_")]


def surface_grid(scenes: SceneSet, scene: int, receptacle: int, number: int, slide: float = 0.0) -> np.ndarray:
    """A grid of points (number ** 2, 3) over a receptacle's surface."""
    center, half = (
        scenes.receptacle_center[scene, receptacle].numpy(),
        scenes.receptacle_half[scene, receptacle].numpy(),
    )
    yaw, steps = float(scenes.receptacle_yaw[scene, receptacle]), np.linspace(-1, 1, number)
    x, y = (m.ravel() for m in np.meshgrid(steps * half[0], steps * half[1]))
    points = np.column_stack((x * np.cos(yaw) - y * np.sin(yaw), x * np.sin(yaw) + y * np.cos(yaw), np.zeros_like(x)))
    points[:, :2] += center[:2] + slide * scenes.receptacle_slide[scene, receptacle, :2].numpy()
    points[:, 2] = float(scenes.surface_z[scene, receptacle])
    return points


def test_counts_and_splits(built):
    scenes, tables = built
    assert scenes.splits.count("train") >= 64 and scenes.splits.count("heldout") >= 24
    assert len(set(scenes.names)) == len(scenes) == len(tables.mesh)
    assert scenes.receptacle_center.shape == (len(scenes), 11, 3) and scenes.handle_position.shape == (
        len(scenes),
        5,
        3,
    )
    assert scenes.free_xy.shape == (len(scenes), 256, 2)
    for name in ("receptacle_center", "receptacle_half", "surface_z", "handle_position", "nav_pose", "free_xy"):
        assert torch.isfinite(getattr(scenes, name)).all(), name
    assert (scenes.receptacle_half > 0.05).all()
    assert (tables.mesh[:, : SLOTS.index("chair") + 1] >= 0).all()  # every scene has all its furniture
    assert tables.mesh.shape[1] <= 25 and sum(len(m.faces) for m in tables.meshes) < 10_000


def test_same_seed_same_scenes(built):
    scenes, tables = built
    again, again_tables = build_layouts(0)
    for name in ("receptacle_center", "nav_pose", "free_xy", "handle_position"):
        assert torch.equal(getattr(scenes, name), getattr(again, name)), name
    for name in ("mesh", "material", "position", "yaw", "joint", "slide", "hinge"):
        assert np.array_equal(getattr(tables, name), getattr(again_tables, name)), name


def test_heldout_scenes_differ_from_training(built):
    scenes, tables = built
    train = [i for i, split in enumerate(scenes.splits) if split == "train"]
    heldout = [i for i, split in enumerate(scenes.splits) if split == "heldout"]
    assert min(layout_distance(scenes, a, b) for a in heldout for b in train) >= 0.5
    used = tables.mesh >= 0
    assert not set(tables.material[train][used[train]]) & set(tables.material[heldout][used[heldout]])
    assert not set(tables.mesh[train, 0]) & set(tables.mesh[heldout, 0])  # no room shape in both
    pictures = {m.texture.tobytes() for m in tables.materials}
    assert len(pictures) == len(tables.materials)


def test_layout_distance_by_hand(built):
    scenes = built[0].rows(torch.zeros(3, dtype=torch.int64))
    scenes.receptacle_center = scenes.receptacle_center.clone()
    scenes.receptacle_center[1, :, :2] += torch.tensor([0.03, 0.04])
    x, y = scenes.receptacle_center[0, :, 0].clone(), scenes.receptacle_center[0, :, 1].clone()
    scenes.receptacle_center[2, :, 0], scenes.receptacle_center[2, :, 1] = -y, x
    assert layout_distance(scenes, 0, 1) == pytest.approx(0.05, abs=1e-5)
    assert layout_distance(scenes, 0, 2) == pytest.approx(0.0, abs=1e-5)  # a quarter turn is no difference


def test_targets_in_reach_and_in_the_picture(built):
    scenes, _ = built
    tangent, inside = np.array((0.5, -0.2)) / np.hypot(0.5, 0.2), []
    for scene in range(len(scenes)):
        for receptacle, r in enumerate(RECEPTACLES):
            drawer = receptacle in (LEFT_DRAWER, RIGHT_DRAWER)
            x, y, yaw = scenes.nav_pose[scene, NUM_HANDLES + receptacle].double().tolist()
            for slide in (0.0, JOINT_OPEN_TO[r.joint]) if drawer else (0.0,):
                points = surface_grid(scenes, scene, receptacle, 7, slide)
                delta = points[:, :2] - (x, y)
                ahead = delta @ (np.cos(yaw), np.sin(yaw))
                left = delta @ (-np.sin(yaw), np.cos(yaw))
                assert np.hypot(ahead, left).max() <= 1.45 + 1e-4, (scene, r.name)
                assert np.abs(np.arctan2(left, ahead)).max() <= 0.95 + 1e-4, (scene, r.name)
                depth = (ahead - 0.25) * tangent[0] + (points[:, 2] - 1.2) * tangent[1]
                up = (points[:, 2] - 1.2) * tangent[0] - (ahead - 0.25) * tangent[1]
                seen = (depth > 0) & (np.abs(left) <= depth) & (np.abs(up) <= depth)
                if not drawer or slide:
                    inside.append((receptacle, seen.mean()))
            center = scenes.receptacle_center[scene, receptacle, :2].double().numpy()
            assert np.hypot(*(center - (x, y))) >= 0.3
            bearing = np.arctan2(center[1] - y, center[0] - x) - yaw
            assert abs(np.angle(np.exp(1j * bearing))) < 1e-3  # faces its middle
    assert np.mean([share for _, share in inside]) >= 0.95
    for receptacle, r in enumerate(RECEPTACLES):
        assert min(share for i, share in inside if i == receptacle) >= 0.9, r.name


def test_robot_stands_clear_of_everything_drawn(built):
    scenes, tables = built
    for scene in range(len(scenes)):
        room = room_of(tables, scene)
        solid = np.concatenate([*standing(tables, scene).values(), room.obstacles()])
        spots = np.concatenate((scenes.free_xy[scene], scenes.nav_pose[scene, :, :2])).astype(float)
        assert navigation.distance(spots, solid).min() >= 0.25, scenes.names[scene]
        assert (np.abs(spots) <= np.array(room.half) - 0.25).all(), scenes.names[scene]
        space = navigation.FreeSpace.of(room.half, solid, radius=0.23)  # its cells lie up to 0.035 m off the spots
        assert space.contains(spots).all(), scenes.names[scene]  # one region: the robot could drive between them


def test_furniture_does_not_overlap(built):
    scenes, tables = built
    for scene in range(len(scenes)):
        room, bodies = room_of(tables, scene), list(standing(tables, scene).items())
        for i, (name, rects) in enumerate(bodies):
            reach = np.abs(navigation.corners(rects)).max((0, 1))
            assert (reach <= np.array(room.half) + 0.005).all(), (scenes.names[scene], name)
            assert not navigation.overlap(rects, room.obstacles(), -0.005).any(), (scenes.names[scene], name)
            for other, others in bodies[i + 1 :]:
                assert not navigation.overlap(rects, others, -0.005).any(), (scenes.names[scene], name, other)


def test_surfaces_lie_on_the_meshes(built):
    """A ray straight down from above each surface meets the mesh at surface_z: nothing floats, nothing sinks."""
    scenes, tables = built
    done = set()
    slot_of = {"sink": "kitchen", "left counter": "kitchen", "right counter": "kitchen", "left drawer": "drawer_0"}
    for scene in range(len(scenes)):
        for receptacle, r in enumerate(RECEPTACLES):
            name = slot_of.get(r.name, "drawer_2" if receptacle == RIGHT_DRAWER else r.name.replace(" ", "_").lower())
            slot = SLOTS.index(name)
            mesh = tables.meshes[tables.mesh[scene, slot]]
            if (mesh.name, receptacle) in done:
                continue
            done.add((mesh.name, receptacle))
            yaw, at = tables.yaw[scene, slot], tables.position[scene, slot]
            points = surface_grid(scenes, scene, receptacle, 4)
            local = navigation.local(points[:, :2], np.array([(*at[:2], 0, 0, yaw)], float))[:, 0]
            height = float(scenes.surface_z[scene, receptacle] - at[2])
            a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(float), 1, 0)  # (F, 3) each
            area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
            flat = (area > 1e-9) & (a[:, 2] <= height + 0.05)  # faces that look up, not the shelf above
            a, b, c, area = a[flat], b[flat], c[flat], area[flat]
            for x, y in local:
                u = ((x - a[:, 0]) * (c - a)[:, 1] - (y - a[:, 1]) * (c - a)[:, 0]) / area
                v = ((b - a)[:, 0] * (y - a[:, 1]) - (b - a)[:, 1] * (x - a[:, 0])) / area
                hit = (u >= -1e-6) & (v >= -1e-6) & (u + v <= 1 + 1e-6)
                top = (a[:, 2] + u * (b - a)[:, 2] + v * (c - a)[:, 2])[hit].max(initial=-1)
                assert top == pytest.approx(height, abs=0.01 if name != "sofa" else 0.045), (mesh.name, r.name)
    assert len(done) >= 3 * 4 + 4  # several shapes of each


def test_kitchen_is_in_order(built):
    scenes, tables = built
    kitchen = SLOTS.index("kitchen")
    left, sink, right = (RECEPTACLE_INDEX[n] for n in ("left counter", "sink", "right counter"))
    for scene in range(len(scenes)):
        yaw = float(tables.yaw[scene, kitchen])
        to_right = np.array((-np.sin(yaw), np.cos(yaw)))  # of someone who faces the counters
        along = scenes.receptacle_center[scene, :, :2].double().numpy() @ to_right
        handles = scenes.handle_position[scene, :4].double().numpy()
        assert along[left] < along[sink] < along[right]
        under = [along[i] for i in (left, sink, right, right)]
        assert np.abs(handles[:, :2] @ to_right - under).max() < 0.1
        assert abs(along[LEFT_DRAWER] - along[left]) < 0.1 and abs(along[RIGHT_DRAWER] - along[right]) < 0.1
        assert (handles[:3, 2] > handles[3, 2] + 0.2).all()
        assert (scenes.surface_z[scene, [LEFT_DRAWER, RIGHT_DRAWER]] < scenes.surface_z[scene, left] - 0.1).all()


def test_drawers_and_door_open_into_free_room(built):
    scenes, tables = built
    for scene in range(len(scenes)):
        bodies = standing(tables, scene)
        fixed = np.concatenate([r for n, r in bodies.items() if n != "kitchen"] + [room_of(tables, scene).obstacles()])
        for handle in range(4):
            slot = SLOTS.index(f"drawer_{handle}")
            assert tables.joint[scene, slot] == handle
            opened = slot_rect(tables, scene, f"drawer_{handle}", JOINT_OPEN_TO[handle])
            assert not navigation.overlap(opened[None], fixed).any(), (scenes.names[scene], handle)
            nav = [handle] + [NUM_HANDLES + d for d, j in ((LEFT_DRAWER, 0), (RIGHT_DRAWER, 2)) if j == handle]
            at = scenes.nav_pose[scene, nav, :2].double().numpy()
            assert navigation.distance(at, opened[None]).min() >= 0.25  # not in the robot's way
        for receptacle, handle in ((LEFT_DRAWER, 0), (RIGHT_DRAWER, 2)):
            slide = tables.slide[scene, SLOTS.index(f"drawer_{handle}")]
            assert np.allclose(scenes.receptacle_slide[scene, receptacle], slide, atol=1e-4)
            assert np.linalg.norm(slide) == pytest.approx(1, abs=1e-4)
        door = slot_rect(tables, scene, "fridge_door", JOINT_OPEN_TO[FRIDGE_HANDLE])
        others = np.concatenate([r for n, r in bodies.items() if n != "fridge"])
        assert not navigation.overlap(door[None], others).any()
        at = scenes.nav_pose[scene, [FRIDGE_HANDLE, NUM_HANDLES + FRIDGE], :2].double().numpy()
        assert navigation.distance(at, door[None]).min() >= 0.2  # the racks inside the door reach further
        center = scenes.receptacle_center[scene, FRIDGE, :2].double().numpy()
        assert navigation.segments_clear(at[1:], center, door[None]).all()  # the open door does not hide the inside


def test_colours_that_instructions_name(built):
    _, tables = built
    for material in tables.materials:
        if not material.name.startswith("palette"):
            continue
        step = material.texture.shape[0] // PALETTE_CELLS
        color = {role: material.texture[i // 16 * step + 1, i % 16 * step + 1].astype(int) for role, i in CELL.items()}
        assert color["black_wood"].max() < 40
        red, green, blue = color["brown_wood"]
        assert 100 < red < 160 and green < 0.7 * red and blue < 0.7 * green
        assert np.ptp(color["steel"]) < 20 and color["steel"].min() > 150
        assert color["counter"].min() > 150  # objects stand out from a plain light top
        for role in ("stand", "sofa"):  # neither of the two tables' colours
            assert all(np.abs(color[role] - color[f"{c}_wood"]).sum() > 90 for c in ("black", "brown")), role


def test_meshes_are_not_inside_out(built):
    _, tables = built
    for mesh in tables.meshes:
        a, b, c = np.moveaxis(mesh.vertices[mesh.faces].astype(float), 1, 0)
        normal = np.cross(b - a, c - a)
        assert (np.linalg.norm(normal, axis=1) > 1e-9).all(), mesh.name
        if mesh.name.startswith("walls_"):  # the four outer walls come first and look into the room
            assert (np.einsum("fi,fi->f", normal[:8], -a[:8] * (1, 1, 0)) > 0).all(), mesh.name
        elif not mesh.name.startswith("floor_"):
            assert np.einsum("fi,fi->f", normal, a - mesh.vertices.mean(0)).sum() > 0, mesh.name  # six times the volume


def test_impossible_room_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(layouts, "_TRIES", 2)
    monkeypatch.setattr(layouts, "ROOMS", {"train": (Room("tiny", (0.8, 0.8)),), "heldout": ()})
    with pytest.raises(UserError, match="another seed"):
        build_layouts()


def test_largest_component():
    free = np.array([[int(c) for c in row] for row in ("1100111", "1000101", "0011101", "1100001")], bool)
    expected = np.array([[int(c) for c in row] for row in ("0000111", "0000101", "0011101", "0000001")], bool)
    assert np.array_equal(navigation.largest_component(free), expected)


def test_rectangles():
    unit = np.array([(0, 0, 1, 0.5, 0)], float)
    turned = np.array([(1.8, 0, 1, 0.5, np.pi / 2), (1.4, 0, 1, 0.5, np.pi / 2), (0, 1.3, 0.5, 0.5, np.pi / 4)], float)
    assert navigation.overlap(unit, turned).tolist() == [[False, True, False]]
    assert navigation.overlap(unit, turned, 0.35).all()
    assert navigation.distance(np.array([(2.0, 0.0), (0.5, 0.4), (1.3, 0.9)]), unit)[:, 0] == pytest.approx((1, 0, 0.5))
    rng = np.random.default_rng(0)
    rects = np.column_stack((rng.uniform(-1, 1, (40, 2)), rng.uniform(0.1, 0.6, (40, 2)), rng.uniform(-3, 3, 40)))
    steps = np.linspace(-1, 1, 25)
    grid = np.stack(np.meshgrid(steps, steps), -1).reshape(-1, 2)
    touch = np.zeros((40, 40), bool)
    for i, (x, y, hx, hy, yaw) in enumerate(rects):
        c, s = np.cos(yaw), np.sin(yaw)
        points = grid * (hx, hy) @ np.array([[c, s], [-s, c]]) + (x, y)
        touch[i] = (navigation.distance(points, rects) == 0).any(0)
    assert not (touch & ~navigation.overlap(rects, rects)).any()  # a shared point is an overlap
    assert not (navigation.overlap(rects, rects, -0.05) & ~touch & ~touch.T).any()  # and a deep overlap shares points


def test_in_picture():
    pose = np.array([(1.0, 2.0, np.pi / 2)])  # looks along +y
    seen = [(1.0, 2.75, 1.0), (1.0, 3.25, 0.0), (1.6, 2.75, 1.0), (1.0, 1.5, 1.0), (1.0, 2.35, 0.0), (1.0, 3.25, 1.8)]
    assert navigation.in_picture(pose, np.array(seen)).tolist() == [[True, True, False, False, False, False]]


def test_nav_pose_is_the_nearest_that_will_do():
    cells = np.array([(-0.1, 0.0), (-0.6, 0.0), (-0.8, 0.0), (0.0, 0.9), (-1.3, 0.0)])
    target, nothing = np.zeros(2), np.zeros((0, 5))
    table = np.array([(0.0, 0.0, 0.7)])
    assert navigation.nav_pose(cells, target, table, table[:, :2], nothing, nothing) == pytest.approx((-0.6, 0, 0))
    low = np.array([(0.0, 0.0, 0.1)])  # must step back to see it
    assert navigation.nav_pose(cells, target, low, low[:, :2], nothing, nothing) == pytest.approx((-0.8, 0, 0))
    keep_out = np.array([(-0.6, 0, 0.1, 0.1, 0)])
    pose = navigation.nav_pose(cells, target, table, table[:, :2], keep_out, nothing)
    assert pose == pytest.approx((0, 0.9, -np.pi / 2))
    between = np.array([(0, 0.5, 0.1, 0.1, 0)])
    pose = navigation.nav_pose(cells, target, table, table[:, :2], keep_out, between)
    assert pose == pytest.approx((-1.3, 0, 0))
    assert navigation.nav_pose(cells[:1], target, table, table[:, :2], nothing, nothing) is None
