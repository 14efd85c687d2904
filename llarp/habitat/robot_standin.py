"""A robot of ours for Habitat-Lab's `FetchSuctionRobot`, which addresses joints and links by number.

Habitat-Sim numbers links depth first, those that hang on the same link by the alphabet of their names. The tree and
the names below therefore are those of Fetch; frames and shapes are our own, laid out so that with Habitat-Lab's first
joint angles the robot looks as in the embedded simulator and holds what it carries at the same place.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from llarp.sim.assets import Mesh
from llarp.sim.meshes import rotation
from llarp.sim.robot import ELBOW, PALM, SHOULDER, WRIST, build_robot, robot_pieces
from llarp.tasks.state import GRIPPER_IN_BASE

from .glb_writer import write_glb

ROBOT = Path("hab_fetch/robots/hab_suction.urdf")
"""Where the robot lies below `robots/`, as in Habitat's own download."""
TORSO_M, HEAD_TILT_RAD = 0.15, np.pi / 2
"""How `FetchRobot` holds its back and head."""
ARM_RAD = (-0.45, -1.08, 0.1, 0.935, -0.001, 1.573, 0.005)
"""`FetchRobot`'s first arm angles."""
FINGER_TO_GRIPPER_M = 0.08
"""From link 23 along its x axis to where `FetchSuctionRobot` holds things."""
_AXES = {"x": (1, 0, 0), "y": (0, 1, 0), "z": (0, 0, 1)}


@dataclass(frozen=True)
class _Link:
    """A link and the joint it hangs on, in the base's frame as the robot is held."""

    name: str
    parent: str
    kind: str  # of its joint
    at: tuple[float, float, float]
    axis: str = "z"
    held: float = 0.0  # the joint's value
    towards: tuple[float, float, float] | None = None  # where its x axis points; None: forward
    piece: str = ""  # of `robot_pieces`


def _between(a: tuple[float, ...], b: tuple[float, ...]) -> tuple[float, float, float]:
    x, y, z = (np.array(a) + np.array(b)) / 2
    return float(x), float(y), float(z)


_PAN, _LIFT, _ROLL, _FLEX, _FOREARM, _WRIST, _LAST = ARM_RAD
_FINGER = (GRIPPER_IN_BASE[0] - FINGER_TO_GRIPPER_M, GRIPPER_IN_BASE[1], GRIPPER_IN_BASE[2])
_TORSO, _HEAD, _CAMERA = (-0.08, 0.0, 0.6), (0.0, 0.0, 1.1), (0.2, 0.0, 1.18)
_LINKS = (
    _Link("bellows_link2", "base_link", "fixed", (-0.08, 0.0, 0.36)),
    _Link("estop_link", "base_link", "fixed", (-0.12, 0.24, 0.31)),
    _Link("l_wheel_link", "base_link", "continuous", (0.0, 0.19, 0.055), "y"),
    _Link("laser_link", "base_link", "fixed", (0.26, 0.0, 0.2)),
    _Link("r_wheel_link", "base_link", "continuous", (0.0, -0.19, 0.055), "y"),
    _Link("torso_fixed_link", "base_link", "fixed", (-0.08, 0.0, 0.36)),
    _Link("torso_lift_link", "base_link", "prismatic", _TORSO, "z", TORSO_M, piece="torso"),
    _Link("bellows_link", "torso_lift_link", "prismatic", _TORSO, "z"),
    _Link("head_pan_link", "torso_lift_link", "revolute", _HEAD, "z"),
    _Link("head_tilt_link", "head_pan_link", "revolute", _HEAD, "y", HEAD_TILT_RAD, piece="head"),
    _Link("head_camera_link", "head_tilt_link", "fixed", _CAMERA),
    _Link("head_camera_depth_frame", "head_camera_link", "fixed", _CAMERA),
    _Link("head_camera_depth_optical_frame", "head_camera_depth_frame", "fixed", _CAMERA),
    _Link("head_camera_rgb_frame", "head_camera_link", "fixed", _CAMERA),
    _Link("head_camera_rgb_optical_frame", "head_camera_rgb_frame", "fixed", _CAMERA),
    _Link("shoulder_pan_link", "torso_lift_link", "revolute", (0.0, 0.0, 0.78), "z", _PAN, piece="shoulder"),
    _Link("shoulder_lift_link", "shoulder_pan_link", "revolute", SHOULDER, "y", _LIFT, ELBOW, "upper_arm"),
    _Link("upperarm_roll_link", "shoulder_lift_link", "continuous", _between(SHOULDER, ELBOW), "x", _ROLL, ELBOW),
    _Link("elbow_flex_link", "upperarm_roll_link", "revolute", ELBOW, "y", _FLEX, WRIST, "forearm"),
    _Link("forearm_roll_link", "elbow_flex_link", "continuous", _between(ELBOW, WRIST), "x", _FOREARM, WRIST),
    _Link("wrist_flex_link", "forearm_roll_link", "revolute", WRIST, "y", _WRIST, PALM, "wrist"),
    _Link("wrist_roll_link", "wrist_flex_link", "continuous", _between(WRIST, PALM), "x", _LAST, PALM),
    _Link("gripper_link", "wrist_roll_link", "fixed", PALM, piece="palm"),
    _Link("l_gripper_finger_link", "gripper_link", "prismatic", _FINGER, "y", piece="left_finger"),
    _Link("r_gripper_finger_link", "gripper_link", "prismatic", _FINGER, "y", piece="right_finger"),
)  # fmt: skip
"""In the order in which Habitat-Sim numbers them, from 0."""
_Matrix = NDArray[np.float64]


def write_robot(folder: Path) -> Path:
    """Write the robot below `folder` (Habitat's `robots/`); returns the URDF."""
    pieces, texture = robot_pieces(), build_robot()[1].texture
    frames = {"base_link": np.eye(4)} | {link.name: _frame(link) for link in _LINKS}
    urdf = folder / ROBOT
    meshes = urdf.parent.parent / "meshes"
    lines = ['<?xml version="1.0"?>', '<robot name="llarp_fetch_standin">']
    lines += _link("base_link", "base", "0 0 0")
    write_glb(meshes / "base_link.glb", [(pieces["base"], texture)], lit=True)
    for link in _LINKS:
        if link.piece:
            mesh = pieces[link.piece]
            inverse = np.linalg.inv(frames[link.name])
            points = (mesh.vertices @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.float32)
            write_glb(meshes / f"{link.name}.glb", [(Mesh(link.name, points, mesh.faces, mesh.uv), texture)], lit=True)
        lines += [*_link(link.name, link.piece, f"{np.pi / 2:.9f} 0 0"), *_joint(link, frames)]
    urdf.parent.mkdir(parents=True, exist_ok=True)
    urdf.write_text("\n".join([*lines, "</robot>", ""]))
    return urdf


def _frame(link: _Link) -> _Matrix:
    """(4, 4) of a link in the base's frame as the robot is held."""
    frame = np.eye(4)
    frame[:3, 3] = link.at
    if link.towards is not None:
        forward = np.array(link.towards) - link.at
        forward /= np.linalg.norm(forward)
        left = np.cross((0.0, 0.0, 1.0), forward)
        left /= np.linalg.norm(left)
        frame[:3, :3] = np.column_stack((forward, left, np.cross(forward, left)))
    return frame


def _link(name: str, piece: str, rpy: str) -> list[str]:
    """A link whose origin is its centre of mass, which is where Habitat-Sim's numbers about it refer to."""
    lines = [
        f'  <link name="{name}">',
        '    <inertial><origin xyz="0 0 0" rpy="0 0 0"/><mass value="1.0"/>',
        '      <inertia ixx="0.01" ixy="0" ixz="0" iyy="0.01" iyz="0" izz="0.01"/></inertial>',
    ]
    if piece:
        mesh = f'<geometry><mesh filename="../meshes/{name}.glb"/></geometry>'
        lines.append(f'    <visual><origin xyz="0 0 0" rpy="{rpy}"/>{mesh}</visual>')
    return [*lines, "  </link>"]


def _joint(link: _Link, frames: dict[str, _Matrix]) -> list[str]:
    """The joint of a link, placed so that its held value takes the link to its frame."""
    axis = np.array(_AXES[link.axis], float)
    moved = np.eye(4)
    if link.kind == "prismatic":
        moved[:3, 3] = axis * link.held
    elif link.kind != "fixed":
        moved[:3, :3] = rotation(*(float(axis[i]) * link.held for i in (2, 1, 0)))
    origin = np.linalg.inv(frames[link.parent]) @ frames[link.name] @ np.linalg.inv(moved)
    if link.parent == "base_link":  # the root has Habitat's axes, y up
        upright = np.eye(4)
        upright[:3, :3] = rotation(roll=-np.pi / 2)
        origin = upright @ origin
    name = link.name.replace("_link2", "_joint2").replace("_link", "_joint")
    name = name if name.endswith(("joint", "joint2")) else f"{name}_joint"
    xyz, rpy = (" ".join(f"{v:.9f}" for v in values) for values in (origin[:3, 3], _rpy(origin[:3, :3])))
    lines = [
        f'  <joint name="{name}" type="{link.kind}">',
        f'    <origin xyz="{xyz}" rpy="{rpy}"/>',
        f'    <parent link="{link.parent}"/><child link="{link.name}"/>',
    ]
    if link.kind != "fixed":
        low, high = (0.0, 0.4) if link.kind == "prismatic" else (-3.2, 3.2)
        limits = "" if link.kind == "continuous" else f'lower="{low}" upper="{high}" '
        lines.append(f'    <axis xyz="{" ".join(map(str, _AXES[link.axis]))}"/>')
        lines.append(f'    <limit {limits}effort="100" velocity="2"/><dynamics damping="1.0"/>')
    return [*lines, "  </joint>"]


def _rpy(turn: _Matrix) -> NDArray[np.float64]:
    """Roll, pitch and yaw of a rotation (3, 3), see `replica_cad.urdf.rpy_matrix`."""
    return np.array(
        (
            np.arctan2(turn[2, 1], turn[2, 2]),
            np.arctan2(-turn[2, 0], np.hypot(turn[2, 1], turn[2, 2])),
            np.arctan2(turn[1, 0], turn[0, 0]),
        )
    )
