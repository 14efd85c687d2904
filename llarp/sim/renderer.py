"""Pictures of N worlds at once: drawn by worlds' triangles, on the CPU (worlds shared out to threads) or on CUDA.

Positions and rotations of all slots are computed for all worlds together in torch, straight into memory that the Warp
kernels' arrays alias. `Rasteriser` draws; `RayCaster` (MuJoCo Warp's) is the second way, for comparison.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
import torch
import warp as wp
from torch import Tensor

from llarp.errors import UserError
from llarp.machine import cores
from llarp.tasks.entities import NUM_HANDLES
from llarp.tasks.state import MAX_OBJECTS, WorldState

from . import cameras
from .assets import LayoutTables, Material, Mesh
from .model import RenderModel, build_model
from .placement import Placement
from .rasteriser import Rasteriser

if TYPE_CHECKING:
    from .raycaster import RayCaster

_BOUNDS_MARGIN_M = 1e-4  # flat meshes get a box of some thickness
_CPU_FLAGS = "-menable-no-nans -fno-signed-zeros -Wno-nan-infinity-disabled"
_EMPTY_Z_M = -30.0  # unused slots lie here, below every floor


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
        method: str = "triangles",
    ) -> None:
        """size: pixels a side. num_threads: CPU only, None or 0: one a core. camera: "head" or "third_person".

        model: a `build_model(layouts, object_meshes, object_material)` to share between renderers.
        method: "triangles", or "rays": MuJoCo Warp's ray caster.
        """
        if num_worlds < 1 or size < 1:
            raise UserError(f"cannot draw {num_worlds} worlds at {size}x{size} pixels: both must be at least 1")
        if camera not in cameras.CAMERAS:
            raise UserError(f"unknown camera {camera!r}: use one of {', '.join(cameras.CAMERAS)}")
        if method not in ("triangles", "rays"):
            raise UserError(f"unknown way to draw {method!r}: use triangles or rays")
        self.num_worlds, self.size, self.device = num_worlds, size, torch.device(device)
        self.model = model or build_model(layouts, object_meshes, object_material)
        self._camera = camera
        self._segmentation = segmentation
        start_warp()
        self._allocate(layouts)
        threads = 1 if self.device.type != "cpu" else min(num_threads or cores(), self.num_worlds)
        self._boxes = method == "rays"
        with self._warp_scope():
            self._drawer = _drawer(method)(
                self.model,
                self._placed,
                size,
                camera=camera,
                # indoors the head camera sees nothing from behind: not to ask saves rays 1.5 %
                two_sided=layouts.two_sided or (self._boxes and camera == "head"),
                smooth=camera != "head",  # light from vertex normals costs time and shows only in larger pictures
                segmentation=segmentation,
                threads=threads,
            )
        self._pool = ThreadPoolExecutor(threads - 1, "render") if threads > 1 else None
        self._helpers = threads - 1

    # -- what worlds look like ------------------------------------------------------------------------------------

    def set_scene(self, rows: Tensor, scene: Tensor, object_model: Tensor) -> None:
        """Furnish worlds `rows` (n,) with layouts `scene` (n,) and object models `object_model` (n, 56), -1: none."""
        mesh = self._placed.mesh[rows]
        material = self._placed.material[rows]
        furniture, objects = slice(0, self.model.num_furniture), self._objects
        mesh[:, furniture] = self._layout_mesh[scene]
        there = object_model >= 0
        mesh[:, objects] = torch.where(there, object_model + self.model.object_mesh, self.model.empty_mesh).int()
        material[:, furniture] = self._layout_material[scene]
        self._placed.mesh[rows] = mesh
        self._placed.material[rows] = material
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
        matrix, position = self._placed.matrix, self._placed.position
        matrix[..., 0, 0] = cos
        matrix[..., 0, 1] = -sin
        matrix[..., 1, 0] = sin
        matrix[..., 1, 1] = cos
        if state.object_tilt.shape[-1]:
            tilt = state.object_tilt * self._tilts[self._placed.mesh[:, self._objects].long()][..., None]
            matrix[:, self._objects] = _turned(cos[:, self._objects], sin[:, self._objects], tilt)
        torch.add(origin, torch.einsum("...ij,...j->...i", matrix, self._center), out=position)
        if self._boxes:
            position[..., 2].masked_fill_(self._placed.mesh == self.model.empty_mesh, _EMPTY_Z_M)
            reach = torch.einsum("...ij,...j->...i", matrix.abs(), self._half) + _BOUNDS_MARGIN_M
            torch.sub(position, reach, out=self._placed.lower)
            torch.add(position, reach, out=self._placed.upper)
        camera = list(cameras.CAMERAS).index(self._camera)
        camera_position, camera_matrix = self._placed.camera_position[:, camera], self._placed.camera_matrix[:, camera]
        if self._camera == "head":
            cameras.head(state.robot, state.robot_height, camera_position, camera_matrix)
        else:
            cameras.third_person(state.robot, state.robot_height, pose["room"], camera_position, camera_matrix)

    def render(self) -> Tensor:
        """Pictures at the poses last set: uint8 (N, size, size, 3) RGB on the device, a new tensor each time."""
        with self._warp_scope():
            parts = iter(self._drawer.parts)  # whoever is free takes the next

            def work() -> None:
                for part in parts:
                    self._drawer.draw(part)

            # No torch in other threads: each would start OpenMP workers of its own, and with more of them than cores
            # every later torch operation of the process takes up to twice as long (measured: 0.27 -> 0.54 s).
            helpers = [self._pool.submit(work) for _ in range(self._helpers)] if self._pool else []
            work()
            for helper in helpers:
                if not helper.cancel():  # one that has not woken up yet is not waited for
                    helper.result()
        return self._drawer.picture()

    def visible_pixels(self) -> Tensor:
        """How many pixels of the last picture show each object: int64 (N, 56). Needs `segmentation=True`."""
        slot = self.seen_slots().flatten(1)
        slot = torch.where(slot >= 0, slot, MAX_OBJECTS)  # the last bin: all that is no object
        counts = torch.zeros(self.num_worlds, MAX_OBJECTS + 1, dtype=torch.int64, device=self.device)
        return counts.scatter_add_(1, slot, torch.ones_like(slot))[:, :MAX_OBJECTS]

    def seen_slots(self) -> Tensor:
        """What each pixel of the last picture shows: an object's slot, MAX_OBJECTS: the robot, -1: anything else.

        int64 (N, size, size). Needs `segmentation=True`."""
        return (self.shown().long() - self._objects.start).clamp(min=-1, max=MAX_OBJECTS)

    def shown(self) -> Tensor:
        """The slot of `RenderModel` that each pixel of the last picture shows, -1: none; int32 (N, size, size).

        Needs `segmentation=True`."""
        if not self._segmentation:
            raise UserError("what pixels show needs a BatchRenderer made with segmentation=True")
        return self._drawer.seen.view(self.num_worlds, self.size, self.size)

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

        self._placed = Placement.empty(n, slots, model.empty_mesh, self.device)
        first = model.num_robot - 1 if self._camera == "head" else 0  # the head camera sees only the arm, the last part
        for part in range(first, model.num_robot):
            self._placed.mesh[:, self._objects.stop + part] = model.robot_mesh + part
        self._placed.material[:, self._objects] = model.object_material
        self._placed.material[:, self._objects.stop :] = model.robot_material
        wide = self._placed.mesh.long()
        self._center, self._half = self._mesh_center[wide], self._mesh_half[wide]

    def _warp_scope(self) -> AbstractContextManager:
        """Warp works on this device and, on CUDA, in torch's current stream: no synchronisation between the two."""
        scope = ExitStack()
        scope.enter_context(wp.ScopedDevice(wp.device_from_torch(self.device)))
        if self.device.type == "cuda":
            stream = wp.stream_from_torch(torch.cuda.current_stream(self.device))
            scope.enter_context(wp.ScopedStream(stream, sync_enter=False))
        return scope


def _drawer(method: str) -> type[Rasteriser] | type[RayCaster]:
    if method == "rays":
        from .raycaster import RayCaster  # MuJoCo Warp is imported only where it is wanted

        return RayCaster
    return Rasteriser


def start_warp() -> None:
    """Start Warp quietly, with minima and maxima on the CPU as single instructions (no NaN is ever compared).

    Rays take a quarter less time so, and no pixel changes.
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
