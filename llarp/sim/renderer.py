"""Pictures of N worlds at once with MuJoCo Warp's ray caster, on the CPU (worlds shared out to threads) or on CUDA.

No kinematics run: positions, rotations and bounding boxes of all slots are computed for all worlds together in torch,
straight into memory that the ray caster's arrays alias. The tree over a world's slots is rebuilt for every picture
(0.01 ms a world); a tree merely refitted slows the ray caster down as worlds are rearranged.
"""

from __future__ import annotations

import copy
import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import mujoco_warp
import numpy as np
import torch
import warp as wp
from torch import Tensor

from llarp.errors import UserError
from llarp.tasks.entities import NUM_HANDLES
from llarp.tasks.state import MAX_OBJECTS, WorldState

from . import cameras
from .assets import BACKGROUND_RGBA, LayoutTables, Material, Mesh
from .model import RenderModel, build_model

_BOUNDS_MARGIN_M = 1e-4  # flat meshes get a box of some thickness
_CPU_FLAGS = "-menable-no-nans -fno-signed-zeros -Wno-nan-infinity-disabled"
_EMPTY_Z_M = -30.0  # unused slots lie here, below every floor


@wp.kernel(enable_backward=False)
def _group_roots(bvh: wp.uint64, root: wp.array(dtype=int)):  # type: ignore[valid-type]
    world = wp.tid()
    root[world] = wp.bvh_get_group_root(bvh, world)


def _turned(cos: Tensor, sin: Tensor, tilt: Tensor) -> Tensor:
    """Rotations (N, M, 3, 3): tilts (N, M, 2), see `EpisodeSet.object_tilt`, then turns by yaws (cos, sin)."""
    x, y = tilt.unbind(-1)
    w = (1 - x * x - y * y).clamp(min=0).sqrt()
    forward = (1 - 2 * y * y, 2 * x * y, -2 * w * y)  # the columns of the tilt's matrix
    left = (2 * x * y, 1 - 2 * x * x, 2 * w * x)
    up = (2 * w * y, -2 * w * x, 1 - 2 * x * x - 2 * y * y)
    columns = [torch.stack([cos * a - sin * b, sin * a + cos * b, c], dim=-1) for a, b, c in (forward, left, up)]
    return torch.stack(columns, dim=-1)


class BatchRenderer:
    """Draws N worlds. Call `set_scene` for worlds whose scene or objects changed, `set_poses`, then `render`."""

    def __init__(
        self,
        layouts: LayoutTables,
        object_meshes: Sequence[Mesh],
        object_material: Material,
        num_worlds: int,
        size: int = 128,
        device: torch.device | str = "cpu",
        num_threads: int | None = None,
        segmentation: bool = False,
        camera: str = "head",
        model: RenderModel | None = None,
    ) -> None:
        """size: pixels a side. num_threads: CPU only, None or 0: one a core. camera: "head" or "third_person".

        model: a `build_model(layouts, object_meshes, object_material)` to share between renderers.
        """
        if num_worlds < 1 or size < 1:
            raise UserError(f"cannot draw {num_worlds} worlds at {size}x{size} pixels: both must be at least 1")
        if camera not in cameras.CAMERAS:
            raise UserError(f"unknown camera {camera!r}: use one of {', '.join(cameras.CAMERAS)}")
        self.num_worlds, self.size, self.device = num_worlds, size, torch.device(device)
        self.model = model or build_model(layouts, object_meshes, object_material)
        self._camera = camera
        self._segmentation = segmentation
        start_warp()
        self._allocate(layouts)
        with self._warp_scope():
            self._shards = self._make_shards(num_threads, layouts.two_sided)
        self._pool = ThreadPoolExecutor(len(self._shards), "render") if len(self._shards) > 1 else None

    # -- what worlds look like ------------------------------------------------------------------------------------

    def set_scene(self, rows: Tensor, scene: Tensor, object_model: Tensor) -> None:
        """Furnish worlds `rows` (n,) with layouts `scene` (n,) and object models `object_model` (n, 56), -1: none."""
        mesh = self._mesh_id[rows]
        material = self._material_id[rows]
        furniture, objects = slice(0, self.model.num_furniture), self._objects
        mesh[:, furniture] = self._layout_mesh[scene]
        there = object_model >= 0
        mesh[:, objects] = torch.where(there, object_model + self.model.object_mesh, self.model.empty_mesh).int()
        material[:, furniture] = self._layout_material[scene]
        self._mesh_id[rows] = mesh
        self._material_id[rows] = material
        wide = mesh.long()
        self._center[rows] = self._mesh_center[wide]
        self._half[rows] = self._mesh_half[wide]
        for name, table in self._layout_pose.items():
            self._pose[name][rows] = table[scene]

    def set_poses(self, state: WorldState) -> None:
        """Move furniture (drawers, fridge door), objects, robot and camera of all worlds to where `state` has them."""
        n, pose = self.num_worlds, self._pose
        q = torch.cat([state.joint, torch.zeros_like(state.joint[:, :1])], dim=1).gather(1, pose["joint"])  # (N, S)
        body = torch.cat([state.robot[:, :2], state.robot_height[:, None]], dim=1)[:, None]
        robots = self.model.num_robot
        origin = torch.cat(
            [pose["position"] + pose["slide"] * q[..., None], state.object_position, body.expand(n, robots, 3)], dim=1
        )
        heading = state.robot[:, 2:].expand(n, robots)
        yaw = torch.cat([pose["yaw"] + pose["hinge"] * q, state.object_yaw, heading], dim=1)
        cos, sin = yaw.cos(), yaw.sin()  # (N, slots)
        matrix, position = self._matrix, self._position
        matrix[..., 0, 0] = cos
        matrix[..., 0, 1] = -sin
        matrix[..., 1, 0] = sin
        matrix[..., 1, 1] = cos
        if state.object_tilt.shape[-1]:
            tilt = state.object_tilt * self._tilts[self._mesh_id[:, self._objects].long()][..., None]
            matrix[:, self._objects] = _turned(cos[:, self._objects], sin[:, self._objects], tilt)
        torch.add(origin, torch.einsum("...ij,...j->...i", matrix, self._center), out=position)
        empty = self._mesh_id == self.model.empty_mesh
        position[..., 2].masked_fill_(empty, _EMPTY_Z_M)
        reach = torch.einsum("...ij,...j->...i", matrix.abs(), self._half) + _BOUNDS_MARGIN_M
        torch.sub(position, reach, out=self._lower)
        torch.add(position, reach, out=self._upper)
        camera = list(cameras.CAMERAS).index(self._camera)
        camera_position, camera_matrix = self._camera_position[:, camera], self._camera_matrix[:, camera]
        if self._camera == "head":
            cameras.head(state.robot, state.robot_height, camera_position, camera_matrix)
        else:
            cameras.third_person(state.robot, state.robot_height, pose["room"], camera_position, camera_matrix)

    def render(self) -> Tensor:
        """Pictures at the poses last set: uint8 (N, size, size, 3) RGB on the device, a new tensor each time."""
        with self._warp_scope():
            if self._pool is None:
                self._shards[0].trace()
            else:
                # No torch in these threads: each would start OpenMP workers of its own, and with more of them than
                # cores every later torch operation of the process takes up to twice as long (measured: 0.27 -> 0.54 s).
                list(self._pool.map(_Shard.trace, self._shards))
        blue_first = self._packed.view(torch.uint8).view(self.num_worlds, self.size, self.size, 4)
        return blue_first[..., :3].flip(-1)

    def visible_pixels(self) -> Tensor:
        """How many pixels of the last picture show each object: int64 (N, 56). Needs `segmentation=True`."""
        slot = self.seen_slots().flatten(1)
        slot = torch.where(slot >= 0, slot, MAX_OBJECTS)  # the last bin: all that is no object
        counts = torch.zeros(self.num_worlds, MAX_OBJECTS + 1, dtype=torch.int64, device=self.device)
        return counts.scatter_add_(1, slot, torch.ones_like(slot))[:, :MAX_OBJECTS]

    def seen_slots(self) -> Tensor:
        """What each pixel of the last picture shows: an object's slot, MAX_OBJECTS: the robot, -1: anything else.

        int64 (N, size, size). Needs `segmentation=True`."""
        if not self._segmentation:
            raise UserError("what pixels show needs a BatchRenderer made with segmentation=True")
        slot = (self._seen[..., 0].long() - self._objects.start).clamp(min=-1, max=MAX_OBJECTS)
        return slot.view(self.num_worlds, self.size, self.size)

    # -- memory ---------------------------------------------------------------------------------------------------

    def _allocate(self, layouts: LayoutTables) -> None:
        model, n = self.model, self.num_worlds
        slots = model.num_slots
        to = functools.partial(torch.as_tensor, device=self.device)
        zeros = functools.partial(torch.zeros, device=self.device)

        mesh = np.where(layouts.mesh >= 0, layouts.mesh + model.furniture_mesh, model.empty_mesh)
        self._layout_mesh = to(mesh, dtype=torch.int32)
        self._layout_material = to(layouts.material + model.furniture_material, dtype=torch.int32)
        joint = np.where(layouts.joint >= 0, layouts.joint, NUM_HANDLES)  # an extra joint that is always at 0
        self._layout_pose: dict[str, Tensor] = {
            "position": to(layouts.position, dtype=torch.float32),
            "yaw": to(layouts.yaw, dtype=torch.float32),
            "slide": to(layouts.slide, dtype=torch.float32),
            "hinge": to(layouts.hinge, dtype=torch.float32),
            "joint": to(joint, dtype=torch.int64),
            "room": to(_room_bounds(layouts, mesh, model), dtype=torch.float32),
        }
        self._pose = {name: zeros(n, *t.shape[1:], dtype=t.dtype) for name, t in self._layout_pose.items()}
        self._objects = slice(model.num_furniture, model.num_furniture + MAX_OBJECTS)
        self._mesh_center, self._mesh_half = to(model.mesh_center), to(model.mesh_half)
        self._tilts = to(model.tilts)

        self._mesh_id = torch.full((n, slots), model.empty_mesh, dtype=torch.int32, device=self.device)
        first = model.num_robot - 1 if self._camera == "head" else 0  # the head camera sees only the arm, the last part
        for part in range(first, model.num_robot):
            self._mesh_id[:, self._objects.stop + part] = model.robot_mesh + part
        self._material_id = zeros(n, slots, dtype=torch.int32)
        self._material_id[:, self._objects] = model.object_material
        self._material_id[:, self._objects.stop :] = model.robot_material
        self._center, self._half = self._mesh_center[self._mesh_id.long()], self._mesh_half[self._mesh_id.long()]
        self._position, self._lower, self._upper = zeros(n, slots, 3), zeros(n, slots, 3), zeros(n, slots, 3)
        self._matrix = torch.eye(3, device=self.device).repeat(n, slots, 1, 1)
        self._camera_position = zeros(n, len(cameras.CAMERAS), 3)
        self._camera_matrix = zeros(n, len(cameras.CAMERAS), 3, 3)
        self._packed = zeros(n, self.size * self.size, dtype=torch.int32)
        self._seen = zeros(n, self.size * self.size if self._segmentation else 1, 2, dtype=torch.int32)

    def _make_shards(self, num_threads: int | None, two_sided: bool) -> list[_Shard]:
        count = 1 if self.device.type != "cpu" else min(num_threads or _cores(), self.num_worlds)
        model = mujoco_warp.put_model(self.model.mujoco)
        context = mujoco_warp.create_render_context(
            self.model.mujoco,
            nworld=1,
            cam_active=[self._camera],
            cam_res=(self.size, self.size),
            render_rgb=True,
            render_depth=False,
            render_seg=self._segmentation,
            background_color=BACKGROUND_RGBA,
            # indoors nothing is seen from behind: not to ask saves 1.5 % (18 of 7.9 million pixels differ)
            enable_backface_culling=not (two_sided or self._camera == "head"),
            enable_vertex_normals=self._camera != "head",  # smooth shading costs 5 % and shows only in larger pictures
            enable_specular=False,
            enable_emission=False,
            enable_per_light_ambient=False,
        )
        if self.device.type == "cpu":  # 4 % faster with leaves of 2 than of 4 or 1
            made = context.mesh_registry.values()
            trees = [wp.Mesh(m.points, m.indices, bvh_constructor="sah", bvh_leaf_size=2) for m in made]
            context.mesh_registry = {tree.id: tree for tree in trees}
            context.mesh_bvh_id = wp.array([tree.id for tree in trees], dtype=wp.uint64)
        edges = [self.num_worlds * i // count for i in range(count + 1)]
        shards = [_Shard(self, model, context, slice(a, b)) for a, b in zip(edges, edges[1:], strict=False)]
        shards[0].trace()  # compiles the kernel once, before threads share it
        for shard in shards:
            shard.context._megakernel = shards[0].context._megakernel
        return shards

    def _warp_scope(self) -> AbstractContextManager:
        """Warp works on this device and, on CUDA, in torch's current stream: no synchronisation between the two."""
        scope = ExitStack()
        scope.enter_context(wp.ScopedDevice(wp.device_from_torch(self.device)))
        if self.device.type == "cuda":
            stream = wp.stream_from_torch(torch.cuda.current_stream(self.device))
            scope.enter_context(wp.ScopedStream(stream, sync_enter=False))
        return scope


class _Shard:
    """Some of the worlds: the ray caster's arrays for them, which alias the renderer's tensors."""

    def __init__(self, owner: BatchRenderer, model: mujoco_warp.Model, context: mujoco_warp.RenderContext, rows: slice):
        n, slots = rows.stop - rows.start, owner.model.num_slots
        self._num_worlds = n
        self.model, self.context = copy.copy(model), copy.copy(context)
        self.data = mujoco_warp.make_data(owner.model.mujoco, nworld=n, nconmax=0, njmax=0)

        self.model.geom_dataid = wp.from_torch(owner._mesh_id[rows], dtype=wp.int32)
        self.model.geom_matid = wp.from_torch(owner._material_id[rows], dtype=wp.int32)
        self.data.geom_xpos = wp.from_torch(owner._position[rows], dtype=wp.vec3)
        self.data.geom_xmat = wp.from_torch(owner._matrix[rows], dtype=wp.mat33)
        self.data.cam_xpos = wp.from_torch(owner._camera_position[rows], dtype=wp.vec3)
        self.data.cam_xmat = wp.from_torch(owner._camera_matrix[rows], dtype=wp.mat33)
        directions = torch.as_tensor(owner.model.mujoco.light_dir, dtype=torch.float32, device=owner.device)
        self.data.light_xdir = wp.from_torch(directions.repeat(n, 1, 1), dtype=wp.vec3)
        self.context.rgb_data = wp.from_torch(owner._packed[rows], dtype=wp.uint32)
        self.context.seg_data = wp.from_torch(owner._seen[rows], dtype=wp.vec2i)
        groups = torch.arange(n, dtype=torch.int32, device=owner.device).repeat_interleave(slots)
        self.context.bvh = wp.Bvh(
            wp.from_torch(owner._lower[rows].view(-1, 3), dtype=wp.vec3),
            wp.from_torch(owner._upper[rows].view(-1, 3), dtype=wp.vec3),
            groups=wp.from_torch(groups, dtype=wp.int32),
        )
        self.context.bvh_id = self.context.bvh.id
        self.context.group_root = wp.zeros(n, dtype=wp.int32)

    def trace(self) -> None:
        """Rebuild the trees and cast the rays; pixels land in the renderer's packed tensor."""
        self.context.bvh.rebuild()
        wp.launch(_group_roots, dim=self._num_worlds, inputs=[self.context.bvh_id], outputs=[self.context.group_root])
        mujoco_warp.render(self.model, self.data, self.context)


def start_warp() -> None:
    """Start Warp quietly, with minima and maxima on the CPU as single instructions (no NaN is ever compared).

    The ray caster spends most of its time in them: a picture takes a quarter less, and no pixel changes.
    """
    wp.config.log_level = wp.LOG_WARNING  # no banner, no line for every kernel it compiles
    flags = wp.config.cpu_compiler_flags
    if flags and _CPU_FLAGS not in flags:
        wp.config.cpu_compiler_flags = f"{flags} {_CPU_FLAGS}"
    with nullcontext() if torch.cuda.is_available() else _no_stderr():
        wp.init()  # its native part warns of a missing CUDA driver whatever the log level


@contextmanager
def _no_stderr() -> Iterator[None]:
    """Nothing reaches standard error, not even from native code."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _room_bounds(layouts: LayoutTables, mesh: np.ndarray, model: RenderModel) -> np.ndarray:
    """Box of the floor plan each layout's furniture and walls take up, (L, 2, 2): low and high x, y."""
    cos, sin = np.cos(layouts.yaw), np.sin(layouts.yaw)  # (L, S)
    turn = np.stack([np.stack([cos, -sin], axis=-1), np.stack([sin, cos], axis=-1)], axis=-2)  # (L, S, 2, 2)
    center = layouts.position[..., :2] + np.einsum("lsij,lsj->lsi", turn, model.mesh_center[mesh, :2])
    reach = np.einsum("lsij,lsj->lsi", np.abs(turn), model.mesh_half[mesh, :2])
    used = (layouts.mesh >= 0)[..., None]
    low = np.where(used, center - reach, np.inf).min(axis=1)
    high = np.where(used, center + reach, -np.inf).max(axis=1)
    return np.stack([low, high], axis=1)
