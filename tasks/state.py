"""Tensors that describe scenes and worlds. Frame: metres, z up, yaw about z (0 looks along +x).

Habitat's frame (y up) maps to ours by (x, y, z) -> (x, -z, y); its yaw, atan2(-forward_z, forward_x), is our yaw.
Letters in shapes: L scenes, K object models, N worlds, M object slots a world.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from .entities import NUM_HANDLES, RECEPTACLES

MAX_OBJECTS = 56
"""Object slots in a world (about 35 as a rule, 52 in "all of them" tasks)."""

NOT_GIVEN = torch.empty(0)
"""Default of the boxes that are worked out from others."""


class _TensorRecord:
    """Shared behaviour of the records below."""

    def to(self, device: torch.device | str):
        """The same record with every tensor on `device`."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in moved.items()})

    def rows(self, index: Tensor):
        """The same record with only the given rows of every tensor."""
        taken = {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
        return type(self)(**{k: v[index] if isinstance(v, Tensor) else v for k, v in taken.items()})


def two_corner_half(half: Tensor, yaw: Tensor) -> Tensor:
    """Half sizes (..., 3) of the axis-aligned box that two opposite corners of an upright box span once it is turned.

    The published rules take this for the box itself, which is right at multiples of 90 degrees and too thin between.
    `half` (..., 3), `yaw` (...). The corners are those with the lowest and the highest coordinates in Habitat's frame,
    whose z axis is our -y: (-x, y, -z) and (x, -y, z)."""
    cos, sin = yaw.cos(), yaw.sin()
    x, y, z = half.unbind(-1)
    return torch.stack([cos * x + sin * y, sin * x - cos * y, z], dim=-1).abs()


def _containers(center: Tensor, half: Tensor, yaw: Tensor, slide: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Containers of furniture whose hollows are its receptacles: see `SceneSet.container_center`, `_half`, `_slide`.

    A handle without a receptacle has an empty container (half sizes below 0)."""
    shape = (*center.shape[:-2], NUM_HANDLES, 3)
    middle, extent, moved = center.new_zeros(shape), center.new_full(shape, -1.0), center.new_zeros(shape)
    for i, r in enumerate(RECEPTACLES):
        if r.joint >= 0:
            cos, sin = yaw[..., i].cos().abs(), yaw[..., i].sin().abs()
            x, y, z = half[..., i, :].unbind(-1)
            middle[..., r.joint, :] = center[..., i, :]
            extent[..., r.joint, :] = torch.stack([cos * x + sin * y, sin * x + cos * y, z], dim=-1)
            moved[..., r.joint, :] = slide[..., i, :]
    return middle, extent, moved


class _Furnished(_TensorRecord):
    """Boxes that follow from others where they are not given."""

    def __post_init__(self) -> None:
        me: Any = self
        if me.receptacle_span is NOT_GIVEN:
            me.receptacle_span = two_corner_half(me.receptacle_half, me.receptacle_yaw)
        if me.container_center is NOT_GIVEN:
            boxes = _containers(me.receptacle_center, me.receptacle_half, me.receptacle_yaw, me.receptacle_slide)
            me.container_center, me.container_half, me.container_slide = boxes
        if me.nav_height is NOT_GIVEN:
            me.nav_height = torch.zeros_like(me.nav_pose[..., 0])


@dataclass
class SceneSet(_Furnished):
    """What the task needs to know of L furnished scenes; the simulator keeps what they look like."""

    names: list[str]  # unique, L of them
    splits: list[str]  # "train" or "heldout", L of them
    receptacle_center: Tensor  # (L, 11, 3) centre of the box that counts as "on it", joints at 0
    receptacle_half: Tensor  # (L, 11, 3) half sizes in the box's own frame
    receptacle_yaw: Tensor  # (L, 11)
    receptacle_slide: Tensor  # (L, 11, 3) displacement per metre of the receptacle's joint (drawers), else 0
    surface_z: Tensor  # (L, 11) height on which objects rest, joints at 0
    handle_position: Tensor  # (L, 5, 3)
    nav_pose: Tensor  # (L, 16, 3) x, y, yaw after nav to each target (handles first)
    free_xy: Tensor  # (L, F, 2) collision-free robot base positions
    # What published rules use besides; worked out from the rest where not given:
    receptacle_span: Tensor = NOT_GIVEN  # (L, 11, 3) half sizes, see `two_corner_half`
    container_center: Tensor = NOT_GIVEN  # (L, 5, 3) what drawers and fridge can hold, joints
    container_half: Tensor = NOT_GIVEN  # (L, 5, 3) at 0: boxes along the axes; < 0: nothing
    container_slide: Tensor = NOT_GIVEN  # (L, 5, 3) displacement per metre of a drawer's joint
    # Heights of the robot's base; 0 where not given:
    nav_height: Tensor = NOT_GIVEN  # (L, 16) after nav to each target
    floor_height: Tensor = NOT_GIVEN  # (L,) at a start

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.floor_height is NOT_GIVEN:
            self.floor_height = torch.zeros_like(self.nav_pose[:, 0, 0])

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class ObjectCatalog(_TensorRecord):
    """The K object models: several a category, some kept for held-out scenes."""

    names: list[str]  # unique, e.g. "apple_2"
    splits: list[str]  # "train" or "heldout"
    category: Tensor  # (K,) int64 index into CATEGORIES
    half_size: Tensor  # (K, 3) half extents of the bounding box; an object's origin is the box centre, bottom at -z

    def __len__(self) -> int:
        return len(self.names)


@dataclass
class WorldState(_Furnished):
    """N worlds. Skills change these tensors in place; the simulator draws them."""

    scene: Tensor  # (N,) int64 row of the SceneSet
    robot: Tensor  # (N, 3) float32 x, y, yaw
    joint: Tensor  # (N, 5) float32 handle joints: m (drawers), rad (fridge)
    held: Tensor  # (N,) int64 object slot in the gripper, -1: empty
    object_model: Tensor  # (N, M) int64 row of the ObjectCatalog, -1: empty slot
    object_category: Tensor  # (N, M) int64, -1: empty slot
    object_position: Tensor  # (N, M, 3) float32; of a held object: where the gripper is
    object_yaw: Tensor  # (N, M) float32
    object_inside: Tensor  # (N, M) int64 drawer or fridge the object lies in (it moves with drawers), -1: none
    # The scene's rows, gathered at reset:
    receptacle_center: Tensor  # (N, 11, 3)
    receptacle_half: Tensor  # (N, 11, 3)
    receptacle_yaw: Tensor  # (N, 11)
    receptacle_slide: Tensor  # (N, 11, 3)
    surface_z: Tensor  # (N, 11)
    handle_position: Tensor  # (N, 5, 3)
    nav_pose: Tensor  # (N, 16, 3)
    receptacle_span: Tensor = NOT_GIVEN  # (N, 11, 3)
    container_center: Tensor = NOT_GIVEN  # (N, 5, 3)
    container_half: Tensor = NOT_GIVEN  # (N, 5, 3)
    container_slide: Tensor = NOT_GIVEN  # (N, 5, 3)
    nav_height: Tensor = NOT_GIVEN  # (N, 16)
    robot_height: Tensor = NOT_GIVEN  # (N,) float32 of the robot's base, which a navmesh may put on furniture
    object_tilt: Tensor = NOT_GIVEN  # (N, M, 2) see EpisodeSet; (N, M, 0) in worlds where nothing is ever tilted

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.robot_height is NOT_GIVEN:
            self.robot_height = torch.zeros_like(self.robot[:, 0])
        if self.object_tilt is NOT_GIVEN:
            self.object_tilt = self.object_yaw.new_zeros(*self.object_yaw.shape, 0)

    @property
    def num_worlds(self) -> int:
        return self.scene.shape[0]

    def receptacle_center_now(self) -> Tensor:
        """Box centres with the drawers where their joints are, (N, 11, 3)."""
        opened = torch.zeros_like(self.surface_z)
        for i, r in enumerate(RECEPTACLES):
            if r.joint >= 0:
                opened[:, i] = self.joint[:, r.joint]
        return self.receptacle_center + self.receptacle_slide * opened[..., None]

    def container_center_now(self) -> Tensor:
        """Centres of what drawers and fridge hold, with the drawers where their joints are, (N, 5, 3)."""
        return self.container_center + self.container_slide * self.joint[..., None]


GRIPPER_IN_BASE = (0.635, -0.255, 0.922)
"""Where a held object's centre is, in the robot base frame (x forward, y left, z up; m): Fetch's resting gripper."""
