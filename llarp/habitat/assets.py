"""What Habitat's files are and where they lie: the downloads where the user has them, else stand-ins of ours."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from llarp.envs.config import EnvConfig
from llarp.errors import UserError
from llarp.sim.replica_cad.files import Dataset, open_dataset
from llarp.sim.replica_cad.objects import ObjectFolder
from llarp.sim.replica_cad.ycb import YCB

from . import standins
from .apartments import DATASET
from .robot_standin import ROBOT

DATA_FOLDER = "LLARP_DATA"
"""Environment variable: the folder with `replica_cad/`, `objects/ycb/` and `robots/`, else `data/` here."""
DOWNLOAD = "python -m habitat_sim.utils.datasets_download --uids rearrange_task_assets --data-path data"
"""The one command that fetches ReplicaCAD, YCB and Fetch."""


@dataclass(frozen=True)
class HabitatAssets:
    """What a Habitat simulator is to load."""

    dataset: Path  # a *.scene_dataset_config.json
    robot: Path  # a URDF for Habitat-Lab's FetchSuctionRobot
    objects: tuple[Path, ...]  # folders of object configs, and single ones, beside the dataset's own
    notes: tuple[str, ...]  # which stand-ins are in use, a sentence each, for reports


def data_folder() -> Path:
    """Where downloads are looked for."""
    return Path(os.environ.get(DATA_FOLDER) or "data").expanduser()


def find_assets(config: EnvConfig) -> HabitatAssets:
    """What the worlds of `config` need; stand-ins are written if need be, other things that lack are a UserError."""
    robot, notes = _robot(config)
    if not config.published:
        return HabitatAssets(standins.stand_ins() / standins.APARTMENTS / DATASET, robot, (), tuple(notes))
    dataset = scene_dataset(Path(config.scenes))
    objects, lacking = _objects(config.objects)
    if lacking:
        count = "all of" if lacking == len(YCB) else f"{lacking} of"
        notes.append(f"{standins.NOTES['objects']} ({count} {len(YCB)}; objects=FOLDER can name a folder with models)")
    return HabitatAssets(dataset.file.resolve(), robot, objects, tuple(notes))


def scene_dataset(folder: Path) -> Dataset:
    """ReplicaCAD in a folder; UserError if it is not there, or a scene's stage is not."""
    try:
        dataset = open_dataset(folder)
        missing = missing_stages(dataset)
    except UserError as e:
        raise UserError(f"{e}; to get it: {DOWNLOAD}") from e
    if missing:
        raise UserError(f"{missing[0]}: no such stage, which scenes of {dataset.file} need; to get it: {DOWNLOAD}, "
                        "or copy plain ones from `llarp assets stand-ins OUT`")  # fmt: skip
    return dataset


def missing_stages(dataset: Dataset) -> list[Path]:
    """Mesh files of stages that are named but absent."""
    named = [dataset.stage(name).render_asset for name in dataset.stages]
    return [file for file in named if file is not None and not file.is_file()]


def find_robot(given: str) -> Path | None:
    """The URDF that `robot=` names, else the one in the data folder; None if there is none there."""
    place = Path(given).expanduser() if given else data_folder() / "robots" / ROBOT.parts[0]
    if place.is_file() and place.suffix == ".urdf":
        return place.resolve()
    below = (ROBOT, Path(*ROBOT.parts[1:]), Path(ROBOT.name))  # of `robots/`, `hab_fetch/` and the URDF's own folder
    found = next((place / end for end in below if (place / end).is_file()), None)
    if found is None and given:
        raise UserError(f"robot={given}: neither a .urdf file nor a folder with {ROBOT.name}; leave it out for the "
                        f"stand-in, or get Fetch: {DOWNLOAD}")  # fmt: skip
    return found.resolve() if found else None


def _robot(config: EnvConfig) -> tuple[Path, list[str]]:
    found = find_robot(config.robot)
    if found is not None:
        return found, []
    return standins.stand_ins() / standins.ROBOTS / ROBOT, [standins.NOTES["robot"]]


def _objects(given: str) -> tuple[tuple[Path, ...], int]:
    """Where the models of YCB's names are: a folder, and stand-ins for what it lacks; and how many those are."""
    if not given:
        return (standins.stand_ins() / standins.OBJECTS / "configs",), len(YCB)
    folder = ObjectFolder(Path(given))
    own = sorted({file.parent.resolve() for file in folder.configs.values()})
    lacking = [name for name in YCB if name not in folder.configs]
    if not lacking:
        return tuple(own), 0
    made = standins.stand_ins() / standins.OBJECTS / "configs"
    return (*own, *(made / f"{name}.object_config.json" for name in lacking)), len(lacking)
