"""Articulated objects: what a URDF says of links, joints and meshes, in the dataset's own frame."""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from llarp.errors import UserError

from .folder import Floats, Folder, Reader

MAX_LINKS = 256
_LIMIT = 1e6  # no length or angle is larger


@dataclass(frozen=True, eq=False)
class ReceptacleBox:
    """A box that counts as "on it", in the frame of its parent object or link."""

    name: str
    parent_link: str | None  # of an articulated object
    position: Floats  # (3,) centre
    half: Floats  # (3,) half sizes (the files call them scale; a sign there means nothing)
    rotation: Floats  # (4,)


@dataclass(frozen=True, eq=False)
class Visual:
    """A mesh of a link."""

    mesh: Path
    origin: Floats  # (4, 4) in the link's frame
    scale: Floats  # (3,)


@dataclass(frozen=True, eq=False)
class Joint:
    """Where a link hangs on its parent. Moved by q, it adds a turn about, or a shift along, `axis` after `origin`."""

    name: str
    kind: str  # "fixed", "prismatic", "revolute" or "continuous"
    parent: str
    child: str
    origin: Floats  # (4, 4)
    axis: Floats  # (3,) unit, in the joint's frame

    def motion(self, q: float) -> Floats:
        """(4, 4) of the joint at q (m or rad)."""
        if self.kind == "prismatic":
            return rigid(self.axis * q, np.eye(3))
        if self.kind in ("revolute", "continuous"):
            half = np.append(math.cos(q / 2), self.axis * math.sin(q / 2))
            return rigid(np.zeros(3), quaternion_matrix(half))
        return np.eye(4)


@dataclass(frozen=True, eq=False)
class Articulated:
    """An articulated object: a tree of links, as its URDF says, and the boxes its config gives them."""

    name: str
    file: Path
    links: Mapping[str, tuple[Visual, ...]]  # in the file's order, which ends at no parent for the root
    joints: Mapping[str, Joint]  # by child link
    receptacles: tuple[ReceptacleBox, ...]

    def link_matrix(self, link: str, scale: float = 1.0, q: Mapping[str, float] | None = None) -> Floats:
        """(4, 4) of a link in the object's frame, at joint values `q` by joint name, else 0.

        `scale` shrinks the object but not what its joints are moved by: a drawer at 0.45 m has moved 0.45 m.
        """
        out = np.eye(4)
        while (joint := self.joints.get(link)) is not None:
            origin = rigid(joint.origin[:3, 3] * scale, joint.origin[:3, :3])
            out = origin @ joint.motion((q or {}).get(joint.name, 0.0)) @ out
            link = joint.parent
        return out


def rigid(translation: Floats, rotation: Floats) -> Floats:
    """(4, 4) of a translation (3,) and a rotation (3, 3)."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, translation
    return out


def quaternion_matrix(q: Floats) -> Floats:
    """Rotation (3, 3) of a quaternion (w, x, y, z) of any length but 0."""
    w, x, y, z = q / np.linalg.norm(q)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def rpy_matrix(rpy: Floats) -> Floats:
    """Rotation (3, 3) of a URDF's roll, pitch and yaw: about the fixed x, then y, then z axis."""
    (cr, cp, cy), (sr, sp, sy) = np.cos(rpy), np.sin(rpy)
    return np.array(
        [
            [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
            [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
            [-sp, cp * sr, cp * cr],
        ]
    )


def read_receptacles(config: Reader) -> tuple[ReceptacleBox, ...]:
    """The boxes in a config's `user_defined`; other things there are not ours."""
    found = []
    own = config.object("user_defined")
    for key, value in own.values.items():
        if key.startswith("receptacle_aabb") and isinstance(value, dict):
            r = own.object(key)
            link = r.text("parent_link") if "parent_link" in r.values else None
            at, half = r.vector("position", 3), np.abs(r.vector("scale", 3))
            found.append(ReceptacleBox(r.text("name", key), link, at, half, r.quaternion("rotation")))
    return tuple(found)


def read_urdf(folder: Folder, file: Path) -> Articulated:
    """A URDF, and the `NAME.ao_config.json` beside it if there is one."""
    try:
        text = folder.read(file, "URDF").decode("utf-8-sig")
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise ValueError("document type and entity declarations are refused")
        tree = ET.fromstring(text)
        links = _links(folder, file, tree)
        joints = _joints(tree, set(links))
    except (ET.ParseError, ValueError, UnicodeError) as e:
        raise UserError(f"{file}: not a readable URDF: {e}") from e
    config = file.with_name(f"{file.stem}.ao_config.json")
    boxes: tuple[ReceptacleBox, ...] = ()
    if config.is_file():
        boxes = read_receptacles(Reader(config, folder.read_json(config, "articulated object config")))
        for box in boxes:
            if box.parent_link is not None and box.parent_link not in links:
                raise UserError(f"{config}: {box.name} hangs on {box.parent_link!r}, which {file.name} does not have")
    return Articulated(file.stem, file, links, joints, boxes)


def _links(folder: Folder, file: Path, tree: ET.Element) -> dict[str, tuple[Visual, ...]]:
    links: dict[str, tuple[Visual, ...]] = {}
    for link in tree.findall("link"):
        visuals = []
        for visual in link.findall("visual"):
            mesh = visual.find("geometry/mesh")
            if mesh is not None:
                path = folder.inside(file.parent / (mesh.get("filename") or "").removeprefix("package://"), file)
                visuals.append(Visual(path, _origin(visual), _numbers(mesh.get("scale"), "1 1 1")))
        links[_name(link)] = tuple(visuals)
    if not 0 < len(links) <= MAX_LINKS:
        raise ValueError(f"{len(links)} links")
    return links


def _joints(tree: ET.Element, links: set[str]) -> dict[str, Joint]:
    joints: dict[str, Joint] = {}
    for joint in tree.findall("joint"):
        ends = []
        for tag in ("parent", "child"):
            end = joint.find(tag)
            if end is None or end.get("link") not in links:
                raise ValueError(f"joint {_name(joint)!r} has no known {tag} link")
            ends.append(end.get("link") or "")
        parent, child = ends
        if child in joints:
            raise ValueError(f"link {child!r} hangs on two joints")
        found = joint.find("axis")
        axis = _numbers(found.get("xyz") if found is not None else None, "1 0 0")
        kind, length = joint.get("type") or "", float(np.linalg.norm(axis))
        if kind not in ("fixed", "prismatic", "revolute", "continuous") or length < 1e-6:
            raise ValueError(f"joint {_name(joint)!r} of type {kind!r} about {axis.tolist()}")
        joints[child] = Joint(_name(joint), kind, parent, child, _origin(joint), axis / length)
    for link in joints:  # a tree, or following parents would never end
        seen = {link}
        while link in joints:
            link = joints[link].parent
            if link in seen:
                raise ValueError(f"link {link!r} hangs on itself")
            seen.add(link)
    return joints


def _name(element: ET.Element) -> str:
    name = element.get("name")
    if not name:
        raise ValueError(f"a {element.tag} without a name")
    return name


def _origin(element: ET.Element) -> Floats:
    origin = element.find("origin")
    if origin is None:
        return np.eye(4)
    return rigid(_numbers(origin.get("xyz"), "0 0 0"), rpy_matrix(_numbers(origin.get("rpy"), "0 0 0")))


def _numbers(text: str | None, default: str) -> Floats:
    """Three numbers with blanks or commas between."""
    values = np.array([float(v) for v in (text or default).replace(",", " ").split()])
    if values.shape != (3,) or not (np.abs(values) <= _LIMIT).all():
        raise ValueError(f"{text!r} is not three numbers")
    return values
