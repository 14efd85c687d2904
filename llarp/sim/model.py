"""The one MuJoCo model behind every scene: a pool of meshes and materials, and slots that any of them can fill.

MuJoCo turns each mesh into its own inertia frame when it compiles. Nothing here moves by physics, so that is undone:
vertices go back to the axes they were made in, with the origin at the centre of their bounding box. A pose is then
position and yaw, and the box the ray caster builds around a mesh (symmetric about its origin) is tight.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from llarp.errors import UserError
from llarp.tasks.state import MAX_OBJECTS

from .assets import LayoutTables, Material, Mesh
from .cameras import CAMERAS
from .robot import build_robot

VIEW_DISTANCE_M = 60.0
LIGHTS = (((0.35, 0.25, -0.9), 0.42), ((-0.6, -0.7, -0.4), 0.2))
"""Directions into which the lights shine, and their brightness."""
AMBIENT, HEADLIGHT = 0.42, 0.22
"""Brightness of the light from everywhere, and of the one that shines where the camera looks."""


@dataclass
class RenderModel:
    """A compiled model and how to address it. Slots, in order: S furniture, 56 objects, R robot parts."""

    mujoco: mujoco.MjModel
    num_furniture: int  # S
    num_robot: int  # R
    furniture_mesh: int  # mesh of layouts.meshes[0]; the next follow
    object_mesh: int  # mesh of object model 0
    robot_mesh: int
    empty_mesh: int  # what an unused slot holds: a speck no ray meets
    furniture_material: int
    object_material: int
    robot_material: int
    mesh_center: NDArray[np.float32]  # (meshes, 3) centre of each mesh's bounding box in the frame it was made in
    mesh_half: NDArray[np.float32]  # (meshes, 3) its half extents
    tilts: NDArray[np.bool_]  # (meshes,) false: drawn upright, see `Mesh.level`

    @property
    def num_slots(self) -> int:
        return self.num_furniture + MAX_OBJECTS + self.num_robot


def build_model(layouts: LayoutTables, object_meshes: Sequence[Mesh], object_material: Material) -> RenderModel:
    """Compile the pool; seconds for some hundred meshes. A mesh that MuJoCo refuses is a UserError."""
    robot_meshes, robot_material = build_robot()
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], np.float32) * 1e-3
    speck = Mesh("empty", corners, np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]], np.int32), corners[:, :2])
    meshes = [speck, *layouts.meshes, *object_meshes, *robot_meshes]
    materials = [*layouts.materials, object_material, robot_material]
    num_furniture = layouts.mesh.shape[1]

    spec = mujoco.MjSpec()
    spec.visual.headlight.active = 1
    spec.visual.headlight.ambient[:] = AMBIENT
    spec.visual.headlight.diffuse[:] = HEADLIGHT
    spec.visual.headlight.specular[:] = 0
    spec.stat.extent = 1.0
    spec.visual.map.zfar = VIEW_DISTANCE_M
    for direction, brightness in LIGHTS:
        light = spec.worldbody.add_light(type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL, dir=direction, castshadow=False)
        light.diffuse[:], light.ambient[:], light.specular[:] = brightness, 0, 0
    for camera, field_of_view in CAMERAS.items():
        spec.worldbody.add_camera(name=camera, fovy=field_of_view)
    for i, mesh in enumerate(meshes):
        _add_mesh(spec, f"mesh{i}", mesh)
    for i, material in enumerate(materials):
        _add_material(spec, f"material{i}", material)
    for _ in range(num_furniture + MAX_OBJECTS + len(robot_meshes)):
        spec.worldbody.add_geom(
            type=mujoco.mjtGeom.mjGEOM_MESH, meshname="mesh0", material="material0", contype=0, conaffinity=0
        )
    try:
        model = spec.compile()
    except ValueError as error:
        names = ", ".join(m.name for i, m in enumerate(meshes) if f"'mesh{i}'" in str(error))
        reason = " ".join(str(error).split())
        raise UserError(f"MuJoCo refuses the scenes' meshes: {reason} ({names or 'no mesh named'})") from error

    center, half = _undo_inertia_frames(model)
    return RenderModel(
        mujoco=model,
        num_furniture=num_furniture,
        num_robot=len(robot_meshes),
        furniture_mesh=1,
        object_mesh=1 + len(layouts.meshes),
        robot_mesh=1 + len(layouts.meshes) + len(object_meshes),
        empty_mesh=0,
        furniture_material=0,
        object_material=len(layouts.materials),
        robot_material=len(layouts.materials) + 1,
        mesh_center=center,
        mesh_half=half,
        tilts=np.array([not mesh.level for mesh in meshes]),
    )


def _add_mesh(spec: mujoco.MjSpec, name: str, mesh: Mesh) -> None:
    added = spec.add_mesh(name=name, inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL)
    added.uservert = np.ascontiguousarray(mesh.vertices, np.float32).ravel()
    added.userface = np.ascontiguousarray(mesh.faces, np.int32).ravel()
    added.usertexcoord = np.ascontiguousarray(mesh.uv, np.float32).ravel()
    added.userfacetexcoord = np.ascontiguousarray(mesh.faces, np.int32).ravel()


def _add_material(spec: mujoco.MjSpec, name: str, material: Material) -> None:
    height, width, channels = material.texture.shape
    texture = spec.add_texture(
        name=f"texture_{name}", type=mujoco.mjtTexture.mjTEXTURE_2D, width=width, height=height, nchannel=channels
    )
    texture.data = np.ascontiguousarray(material.texture, np.uint8).tobytes()
    added = spec.add_material(name=name, specular=0, shininess=0)
    added.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = f"texture_{name}"


def _undo_inertia_frames(model: mujoco.MjModel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Turn vertices and normals back to their own axes, centred on their box; returns centres and half extents."""
    center = np.zeros((model.nmesh, 3), np.float32)
    half = np.zeros((model.nmesh, 3), np.float32)
    rotation = np.zeros(9)
    for i in range(model.nmesh):
        mujoco.mju_quat2Mat(rotation, model.mesh_quat[i])
        turn = rotation.reshape(3, 3).T  # rows are vectors: v @ R^T = (R v)^T
        rows = slice(model.mesh_vertadr[i], model.mesh_vertadr[i] + model.mesh_vertnum[i])
        vertices = model.mesh_vert[rows] @ turn + model.mesh_pos[i]
        low, high = vertices.min(axis=0), vertices.max(axis=0)
        center[i], half[i] = (low + high) / 2, (high - low) / 2
        model.mesh_vert[rows] = vertices - (low + high) / 2
        rows = slice(model.mesh_normaladr[i], model.mesh_normaladr[i] + model.mesh_normalnum[i])
        model.mesh_normal[rows] = model.mesh_normal[rows] @ turn
    return center, half
