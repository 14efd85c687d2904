"""Readers of a ReplicaCAD download (Habitat's scene-dataset layout): what its files say, as records.

Everything is in the dataset's own frame: Habitat's (x, y, z), y up, metres; quaternions are (w, x, y, z), as in its
files. No path named in a file may lead out of the dataset's folder. Errors are one line that names the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llarp.errors import UserError

from .folder import Floats, Folder, Reader
from .urdf import Articulated, ReceptacleBox, quaternion_matrix, read_receptacles, read_urdf, rigid

CONFIG_SUFFIX = ".scene_dataset_config.json"


@dataclass(frozen=True, eq=False)
class ObjectConfig:
    """An object or a stage: its picture and how that is turned and placed."""

    name: str
    file: Path
    render_asset: Path | None
    scale: Floats  # (3,)
    up: Floats  # (3,) of the asset; turned to +y
    front: Floats  # (3,) of the asset; turned to -z
    com: Floats | None  # (3,) origin of the object in its asset; None: centre of the asset's bounding box
    receptacles: tuple[ReceptacleBox, ...]
    level: bool = False  # drawn upright however it is tilted, as stand-ins of ours say (`llarp assets stand-ins`)


@dataclass(frozen=True, eq=False)
class Instance:
    """An object, stage or articulated object where a scene puts it."""

    template: str  # name of an ObjectConfig or an Articulated
    translation: Floats  # (3,)
    rotation: Floats  # (4,) unit
    scale: Floats  # (3,), uniform and per-axis factors together
    origin_is_com: bool  # what `translation` places: the centre of mass, else the asset's origin
    fixed: bool  # static, or an articulated object with a fixed base

    @property
    def matrix(self) -> Floats:
        """(4, 4) rotation and translation, without the scale."""
        return rigid(self.translation, quaternion_matrix(self.rotation))


@dataclass(frozen=True, eq=False)
class SceneInstance:
    """One apartment."""

    name: str
    file: Path
    stage: Instance
    objects: tuple[Instance, ...]
    articulated: tuple[Instance, ...]
    navmesh: str  # name to ask `Dataset.navmesh` for


def read_object_config(folder: Folder, file: Path) -> ObjectConfig:
    """An `*.object_config.json` or `*.stage_config.json`."""
    r = Reader(file, folder.read_json(file, "object config"))
    asset = None
    if "render_asset" in r.values:
        asset = folder.inside(file.parent / r.text("render_asset"), file)
    com = r.vector("COM", 3) if "COM" in r.values else None
    up, front = r.vector("up", 3, (0.0, 1.0, 0.0)), r.vector("front", 3, (0.0, 0.0, -1.0))
    scale = r.vector("scale", 3, (1.0, 1.0, 1.0))
    level = r.object("user_defined").values.get("level") is True
    return ObjectConfig(_handle(file), file, asset, scale, up, front, com, read_receptacles(r), level)


def _handle(file: Path) -> str:
    """A template's name: its file without the endings."""
    return file.name.split(".", 1)[0] if file.suffix == ".urdf" else file.name.rsplit(".", 2)[0]


@dataclass(frozen=True)
class Dataset:
    """A ReplicaCAD download. Build it with `open_dataset`."""

    folder: Folder
    file: Path
    scenes: Mapping[str, Path]
    objects: Mapping[str, Path]
    stages: Mapping[str, Path]
    urdfs: Mapping[str, Path]
    navmeshes: Mapping[str, Path]
    _read: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)  # what was read so far

    def _find(self, kind: str, known: Mapping[str, Path], name: str, named_in: Path | None) -> Path:
        if name not in known:
            where = f"{named_in}: " if named_in else ""
            raise UserError(f"{where}no {kind} {name!r} in {self.file}: is the download complete?")
        return known[name]

    def scene(self, name: str) -> SceneInstance:
        """An apartment by its name, such as "apt_0"."""
        file = self._find("scene", self.scenes, name, None)
        r = Reader(file, self.folder.read_json(file, "scene instance"))
        objects = tuple(_instance(o) for o in r.objects("object_instances"))
        articulated = tuple(_instance(o) for o in r.objects("articulated_object_instances"))
        navmesh = r.text("navmesh_instance", name)
        return SceneInstance(name, file, _instance(r.object("stage_instance")), objects, articulated, navmesh)

    def object(self, name: str, named_in: Path | None = None) -> ObjectConfig:
        """The config of an object by its name, such as "frl_apartment_sofa"."""
        return self._config(self._find("object", self.objects, name, named_in))

    def stage(self, name: str, named_in: Path | None = None) -> ObjectConfig:
        """The config of a stage (floor and walls)."""
        return self._config(self._find("stage", self.stages, name, named_in))

    def articulated(self, name: str, named_in: Path | None = None) -> Articulated:
        """An articulated object by its name, such as "fridge"."""
        file = self._find("articulated object", self.urdfs, name, named_in)
        if file not in self._read:
            self._read[file] = read_urdf(self.folder, file)
        return self._read[file]

    def navmesh(self, scene: SceneInstance) -> Path:
        """The file of a scene's navmesh: as in the original the one called like the scene, else the one it names."""
        own = self.folder.root / "navmeshes" / f"{scene.name}.navmesh"
        return own if own.is_file() else self._find("navmesh", self.navmeshes, scene.navmesh, scene.file)

    def _config(self, file: Path) -> ObjectConfig:
        if file not in self._read:
            self._read[file] = read_object_config(self.folder, file)
        return self._read[file]


def _instance(r: Reader) -> Instance:
    uniform = r.number("uniform_scale", 1.0)
    scale = r.vector("non_uniform_scale", 3, (1.0, 1.0, 1.0)) * uniform
    if not (scale > 0).all():
        raise UserError(f"{r.file}: {r.at}scale is {scale.tolist()}: expected more than 0")
    fixed = r.values.get("fixed_base") is True or r.values.get("motion_type") == "STATIC"
    at, template = r.vector("translation", 3, (0.0, 0.0, 0.0)), r.text("template_name").rsplit("/", 1)[-1]
    return Instance(template, at, r.quaternion("rotation"), scale, r.values.get("translation_origin") == "COM", fixed)


def open_dataset(root: str | Path) -> Dataset:
    """The dataset whose `*.scene_dataset_config.json` lies in a folder (or is the given file)."""
    root = Path(root).expanduser()
    if root.is_dir():
        found = sorted(root.glob(f"*{CONFIG_SUFFIX}"))
        found = [f for f in found if f.name.startswith("replicaCAD.")] or found
        if len(found) != 1:
            why = "more than one" if found else "no"
            raise UserError(f"{root}: {why} *{CONFIG_SUFFIX} in it: give the folder of a ReplicaCAD download")
        file = found[0]
    elif root.is_file() and root.name.endswith(CONFIG_SUFFIX):
        file = root
    else:
        raise UserError(f"{root}: no such folder: give that of a ReplicaCAD download")
    folder = Folder(file.parent)
    r = Reader(file, folder.read_json(file, "scene dataset config"))

    def files(key: str, ending: str, kind: str = ".json") -> dict[str, Path]:
        patterns = r.object(key).object("paths").values.get(kind, [])
        if not isinstance(patterns, list) or not all(isinstance(p, str) for p in patterns):
            raise UserError(f"{file}: {key}.paths.{kind} is not a list of folders")
        return {_handle(f): f for p in patterns for f in _matches(folder.root, p, ending)}

    navmeshes = {}
    for name in r.object("navmesh_instances").values:
        navmeshes[name] = folder.inside(folder.root / r.object("navmesh_instances").text(name), file)
    scenes, objects = files("scene_instances", ".scene_instance.json"), files("objects", ".object_config.json")
    stages, urdfs = files("stages", ".stage_config.json"), files("articulated_objects", ".urdf", ".urdf")
    return Dataset(folder, file, scenes, objects, stages, urdfs, navmeshes)


def _matches(root: Path, pattern: str, ending: str) -> Iterator[Path]:
    """Files of a dataset's search pattern: a folder, or a glob. One that leads out (the robot) is skipped."""
    if Path(pattern).is_absolute() or ".." in Path(pattern).parts or not pattern.strip("/. ") or "**" in pattern:
        return
    for found in sorted(root.glob(pattern.rstrip("/"))):
        yield from sorted(found.glob(f"*{ending}")) if found.is_dir() else [found] * found.name.endswith(ending)
