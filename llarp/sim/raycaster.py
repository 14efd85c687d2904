"""Pictures of N worlds by MuJoCo Warp's ray caster: an independent second way to draw them, slower on a CPU.

No kinematics run: positions, rotations and bounding boxes lie in tensors that its arrays alias. The tree over a world's
slots is rebuilt for every picture (0.01 ms a world): one merely refitted slows it down as worlds are rearranged.
"""

from __future__ import annotations

import copy

import mujoco_warp
import torch
import warp as wp
from torch import Tensor

from .assets import BACKGROUND_RGBA
from .model import RenderModel
from .placement import Placement


@wp.kernel(enable_backward=False)
def _group_roots(bvh: wp.uint64, root: wp.array(dtype=int)):  # type: ignore[valid-type]
    world = wp.tid()
    root[world] = wp.bvh_get_group_root(bvh, world)


class RayCaster:
    """Draws what `placed` says; `parts` are pieces of work that threads may share, one for each."""

    def __init__(
        self,
        model: RenderModel,
        placed: Placement,
        size: int,
        *,
        camera: str,
        two_sided: bool,
        smooth: bool,
        segmentation: bool,
        threads: int,
    ):
        """smooth: light from vertex normals. segmentation: fill `seen`. threads: how many will share the work."""
        self._num_worlds, self._size = len(placed.mesh), size
        self._device = placed.mesh.device
        self._packed = torch.zeros(self._num_worlds, size * size, dtype=torch.int32, device=self._device)
        pixels = size * size if segmentation else 1
        self._seen = torch.zeros(self._num_worlds, pixels, 2, dtype=torch.int32, device=self._device)
        rays = mujoco_warp.put_model(model.mujoco)
        context = mujoco_warp.create_render_context(
            model.mujoco,
            nworld=1,
            cam_active=[camera],
            cam_res=(size, size),
            render_rgb=True,
            render_depth=False,
            render_seg=segmentation,
            background_color=BACKGROUND_RGBA,
            enable_backface_culling=not two_sided,
            enable_vertex_normals=smooth,
            enable_specular=False,
            enable_emission=False,
            enable_per_light_ambient=False,
        )
        if self._device.type == "cpu":  # 4 % faster with leaves of 2 than of 4 or 1
            made = context.mesh_registry.values()
            trees = [wp.Mesh(m.points, m.indices, bvh_constructor="sah", bvh_leaf_size=2) for m in made]
            context.mesh_registry = {tree.id: tree for tree in trees}
            context.mesh_bvh_id = wp.array([tree.id for tree in trees], dtype=wp.uint64)
        edges = [self._num_worlds * i // threads for i in range(threads + 1)]
        rows = [slice(a, b) for a, b in zip(edges, edges[1:], strict=False)]
        self._shards = [self._shard(model, placed, rays, context, r) for r in rows]
        self.draw(0)  # compiles the kernel once, before threads share it
        for _, shard_context, _ in self._shards:
            shard_context._megakernel = self._shards[0][1]._megakernel

    @property
    def parts(self) -> list[int]:
        """Names of the pieces of work for `draw`."""
        return list(range(len(self._shards)))

    def draw(self, part: int) -> None:
        """Draw some of the worlds: rebuild the trees and cast the rays."""
        model, context, data = self._shards[part]
        context.bvh.rebuild()
        wp.launch(_group_roots, dim=data.nworld, inputs=[context.bvh_id], outputs=[context.group_root])
        mujoco_warp.render(model, data, context)

    def picture(self) -> Tensor:
        """What was drawn, uint8 (N, size, size, 3), a new tensor."""
        blue_first = self._packed.view(torch.uint8).view(self._num_worlds, self._size, self._size, 4)
        return blue_first[..., :3].flip(-1)

    @property
    def seen(self) -> Tensor:
        """The slot that each pixel shows, -1: none; int32 (N, size * size)."""
        return self._seen[..., 0].contiguous()

    def _shard(
        self,
        owner: RenderModel,
        placed: Placement,
        model: mujoco_warp.Model,
        context: mujoco_warp.RenderContext,
        rows: slice,
    ) -> tuple[mujoco_warp.Model, mujoco_warp.RenderContext, mujoco_warp.Data]:
        """The ray caster's arrays for some of the worlds, which alias the tensors."""
        n, slots = rows.stop - rows.start, owner.num_slots
        model, context = copy.copy(model), copy.copy(context)
        data = mujoco_warp.make_data(owner.mujoco, nworld=n, nconmax=0, njmax=0)
        model.geom_dataid = wp.from_torch(placed.mesh[rows], dtype=wp.int32)
        model.geom_matid = wp.from_torch(placed.material[rows], dtype=wp.int32)
        data.geom_xpos = wp.from_torch(placed.position[rows], dtype=wp.vec3)
        data.geom_xmat = wp.from_torch(placed.matrix[rows], dtype=wp.mat33)
        data.cam_xpos = wp.from_torch(placed.camera_position[rows], dtype=wp.vec3)
        data.cam_xmat = wp.from_torch(placed.camera_matrix[rows], dtype=wp.mat33)
        directions = torch.as_tensor(owner.mujoco.light_dir, dtype=torch.float32, device=self._device)
        data.light_xdir = wp.from_torch(directions.repeat(n, 1, 1), dtype=wp.vec3)
        context.rgb_data = wp.from_torch(self._packed[rows], dtype=wp.uint32)
        context.seg_data = wp.from_torch(self._seen[rows], dtype=wp.vec2i)
        groups = torch.arange(n, dtype=torch.int32, device=self._device).repeat_interleave(slots)
        context.bvh = wp.Bvh(
            wp.from_torch(placed.lower[rows].view(-1, 3), dtype=wp.vec3),
            wp.from_torch(placed.upper[rows].view(-1, 3), dtype=wp.vec3),
            groups=wp.from_torch(groups, dtype=wp.int32),
        )
        context.bvh_id = context.bvh.id
        context.group_root = wp.zeros(n, dtype=wp.int32)
        return model, context, data
