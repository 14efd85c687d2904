"""Plausible scenes, object models and worlds for tests, made without a simulator."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from llarp.tasks.entities import CATEGORIES, FRIDGE, LEFT_DRAWER, RECEPTACLES, RIGHT_DRAWER
from llarp.tasks.state import MAX_OBJECTS, ObjectCatalog, SceneSet, WorldState

ROOM = (8.0, 6.0)
"""Room size in x and y (m); its walls stand at x, y = 0 and at these values."""

# One row a receptacle: which wall it stands at (0 south, 1 west, 2 north, 3 east), position along it, half depth, half
# width, height of the surface. A drawer lies under its counter.
_PIECES = (
    (0, 1.5, 0.25, 0.25, 0.45),  # chair
    (1, 2.0, 0.35, 0.50, 0.75),  # black table
    (1, 4.2, 0.35, 0.50, 0.70),  # brown table
    (0, 3.2, 0.25, 0.70, 0.55),  # TV stand
    (2, 4.0, 0.28, 0.35, 0.85),  # sink
    (2, 4.9, 0.30, 0.45, 0.90),  # right counter
    (2, 3.1, 0.30, 0.45, 0.90),  # left counter
    (0, 5.6, 0.40, 0.80, 0.45),  # sofa
    (2, 6.2, 0.25, 0.30, 0.95),  # fridge
    (2, 3.1, 0.25, 0.25, 0.70),  # left drawer
    (2, 4.9, 0.25, 0.25, 0.70),  # right drawer
)
_BOX_HALF_Z = 0.15
_STANDOFF = 0.6


def _into_room(wall: int) -> tuple[float, float]:
    return ((0.0, 1.0), (1.0, 0.0), (0.0, -1.0), (-1.0, 0.0))[wall]


def fake_scenes(num: int = 4) -> SceneSet:
    """`num` rectangular apartments, the last quarter (at least one, if num > 1) held out; furniture shifts a little."""
    shape = (num, len(RECEPTACLES))
    center, half, slide = torch.zeros(*shape, 3), torch.zeros(*shape, 3), torch.zeros(*shape, 3)
    yaw, surface = torch.zeros(shape), torch.zeros(shape)
    handle, nav = torch.zeros(num, 5, 3), torch.zeros(num, 16, 3)
    free = torch.zeros(num, 24, 2)
    for scene in range(num):
        for r, (wall, along, depth, width, height) in enumerate(_PIECES):
            inward = _into_room(wall)
            shift = 0.15 * math.sin(1.7 * scene + (0 if wall == 2 else r))
            reach = depth + 0.02
            x = along + shift if wall in (0, 2) else (reach if wall == 1 else ROOM[0] - reach)
            y = along + shift if wall in (1, 3) else (reach if wall == 0 else ROOM[1] - reach)
            center[scene, r] = torch.tensor([x, y, height + _BOX_HALF_Z - 0.01])
            half[scene, r] = torch.tensor([depth, width, _BOX_HALF_Z])
            yaw[scene, r] = math.atan2(inward[1], inward[0])
            surface[scene, r] = height
            if r in (LEFT_DRAWER, RIGHT_DRAWER):
                center[scene, r, 2] = height + 0.05
                half[scene, r, 2] = 0.07
                slide[scene, r] = torch.tensor([inward[0], inward[1], 0.0])
            stand = depth + _STANDOFF
            nav[scene, 5 + r] = torch.tensor(
                [x + inward[0] * stand, y + inward[1] * stand, math.atan2(-inward[1], -inward[0])]
            )
        # drawers 7, 5 move the two drawer receptacles; 6, 4 are dummies beneath them; then the fridge door
        fronts = ((LEFT_DRAWER, 0.0), (LEFT_DRAWER, 0.3), (RIGHT_DRAWER, 0.0), (RIGHT_DRAWER, 0.3))
        for h, (r, drop) in enumerate(fronts):
            inward = _into_room(_PIECES[r][0])
            front = _PIECES[r][2] + 0.03
            x, y = float(center[scene, r, 0]) + inward[0] * front, float(center[scene, r, 1]) + inward[1] * front
            handle[scene, h] = torch.tensor([x, y, float(center[scene, r, 2]) - drop])
            nav[scene, h] = nav[scene, 5 + r]
        handle[scene, 4] = center[scene, FRIDGE] + torch.tensor([-0.25, -0.3, 0.0])
        nav[scene, 4] = nav[scene, 5 + FRIDGE]
        grid = torch.cartesian_prod(torch.linspace(1.8, 6.2, 6), torch.linspace(2.2, 3.8, 4))
        free[scene] = grid
    held_out = max(1, num // 4) if num > 1 else 0
    return SceneSet(
        names=[f"fake_{i}" for i in range(num)],
        splits=["heldout" if i >= num - held_out else "train" for i in range(num)],
        receptacle_center=center,
        receptacle_half=half,
        receptacle_yaw=yaw,
        receptacle_slide=slide,
        surface_z=surface,
        handle_position=handle,
        nav_pose=nav,
        free_xy=free,
    )


def fake_catalog() -> ObjectCatalog:
    """Three models a category, the third held out; half extents of 2 to 5 cm."""
    names, splits, category, half = [], [], [], []
    for c, name in enumerate(CATEGORIES):
        for variant in range(3):
            names.append(f"{name.replace(' ', '_')}_{variant}")
            splits.append("heldout" if variant == 2 else "train")
            category.append(c)
            half.append([0.02 + 0.001 * (c % 20), 0.02 + 0.01 * variant, 0.02 + 0.001 * (c % 11)])
    return ObjectCatalog(names=names, splits=splits, category=torch.tensor(category), half_size=torch.tensor(half))


def fake_state(num_worlds: int, num_objects: int = 35, seed: int = 0) -> WorldState:
    """Worlds from `fake_scenes(4)` and `fake_catalog()`, joints at 0, hands empty, the robot at a free point.

    The first `num_objects` slots hold objects that rest on a receptacle (all 11 occur), the others are empty."""
    scenes, catalog = fake_scenes(4), fake_catalog()
    g = torch.Generator().manual_seed(seed)
    n, m = num_worlds, MAX_OBJECTS
    scene = torch.randint(len(scenes), (n,), generator=g)
    model = torch.randint(len(catalog), (n, m), generator=g)
    model[:, num_objects:] = -1
    where = torch.randint(len(RECEPTACLES), (n, m), generator=g)
    rows = torch.arange(n)[:, None]
    center, half = scenes.receptacle_center[scene][rows, where], scenes.receptacle_half[scene][rows, where]
    angle = scenes.receptacle_yaw[scene][rows, where]
    local = (torch.rand(n, m, 2, generator=g) * 2 - 1) * 0.8 * half[..., :2]
    position = torch.zeros(n, m, 3)
    position[..., 0] = center[..., 0] + local[..., 0] * angle.cos() - local[..., 1] * angle.sin()
    position[..., 1] = center[..., 1] + local[..., 0] * angle.sin() + local[..., 1] * angle.cos()
    position[..., 2] = scenes.surface_z[scene][rows, where] + catalog.half_size[model.clamp(min=0)][..., 2]
    empty: Tensor = model < 0
    position[empty] = 0.0
    jointed = torch.tensor([r.joint >= 0 for r in RECEPTACLES])
    spot = torch.randint(scenes.free_xy.shape[1], (n,), generator=g)
    robot = torch.zeros(n, 3)
    robot[:, :2] = scenes.free_xy[scene, spot]
    robot[:, 2] = (torch.rand(n, generator=g) * 2 - 1) * math.pi
    return WorldState(
        scene=scene,
        robot=robot,
        joint=torch.zeros(n, 5),
        held=torch.full((n,), -1),
        object_model=model,
        object_category=torch.where(empty, -1, catalog.category[model.clamp(min=0)]),
        object_position=position,
        object_yaw=(torch.rand(n, m, generator=g) * 2 - 1) * math.pi,
        object_inside=torch.where(jointed[where] & ~empty, where, -1),
        receptacle_center=scenes.receptacle_center[scene],
        receptacle_half=scenes.receptacle_half[scene],
        receptacle_yaw=scenes.receptacle_yaw[scene],
        receptacle_slide=scenes.receptacle_slide[scene],
        surface_z=scenes.surface_z[scene],
        handle_position=scenes.handle_position[scene],
        nav_pose=scenes.nav_pose[scene],
    )
