"""What of Habitat is here: the two packages, a device to draw with, and the files it loads. Nothing is imported."""

from __future__ import annotations

import functools
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llarp.errors import UserError
from llarp.sim.replica_cad.files import Dataset, open_dataset
from llarp.sim.replica_cad.objects import ObjectFolder
from llarp.sim.replica_cad.ycb import YCB

from . import INSTALL, check_version, version_of
from .assets import DATA_FOLDER, DOWNLOAD, data_folder, find_robot

PROBE_TIMEOUT_S = 180.0
"""Starting Habitat-Sim takes seconds, on a busy machine a minute."""


@dataclass(frozen=True)
class Row:
    """One thing looked for."""

    name: str
    ok: bool
    detail: str
    fix: str


def check_assets(scenes: str = "", objects: str = "", robot: str = "") -> list[Row]:
    """Everything that backend=habitat can use, in the order in which it is needed.

    Args:
        scenes, objects, robot: where ReplicaCAD, YCB and Fetch lie; "": in the data folder.
    """
    checks: dict[str, Callable[[], tuple[bool, str, str]]] = {
        **{name: functools.partial(installed, name) for name in INSTALL},
        "EGL": egl,
        "ReplicaCAD": functools.partial(replica_cad, scenes),
        "YCB": functools.partial(ycb, objects),
        "Fetch": functools.partial(fetch, robot),
    }
    rows = []
    for name, check in checks.items():
        try:
            ok, detail, fix = check()
        except UserError as e:
            ok, detail, fix = False, str(e), DOWNLOAD
        rows.append(Row(name, ok, detail, "" if ok else fix))
    return rows


def installed(distribution: str) -> tuple[bool, str, str]:
    """habitat-sim or habitat-lab: there, and new enough."""
    remedy = INSTALL[distribution][1]
    version = version_of(distribution)
    if version is None:
        return False, "not installed (only backend=habitat needs it)", remedy
    try:
        check_version(distribution)
    except UserError as e:
        return False, str(e), remedy
    return True, "installed, of unknown version" if version == "?" else version, ""


def egl() -> tuple[bool, str, str]:
    """Whether Habitat-Sim can draw, tried in a process of its own, which a broken driver may abort."""
    missing = [name for name in INSTALL if version_of(name) is None]
    if missing:
        return False, f"not tried without {missing[0]}", INSTALL[missing[0]][1]
    works, said = probe_egl()
    return works, said, ("apt-get install libegl1 libgl1 libopengl0 libegl-mesa0 libgl1-mesa-dri; in a container with "
                         "a GPU also NVIDIA_DRIVER_CAPABILITIES=all")  # fmt: skip


def probe_egl(gpu: int = -1) -> tuple[bool, str]:
    """Let a process draw an empty scene on a device (-1: the CPU): whether it could, and its last line."""
    words = [sys.executable, "-m", "llarp.habitat.worker", "--probe", str(gpu)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return False, f"Habitat-Sim has not drawn a picture within {PROBE_TIMEOUT_S:.0f} s"
    if done.returncode == 0:
        return True, _last_line(done.stdout)
    how = f"exit code {done.returncode}"
    if done.returncode < 0:
        how = signal.Signals(-done.returncode).name
    return False, f"Habitat-Sim cannot draw here: {_last_line(done.stderr) or _last_line(done.stdout)} ({how})"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def replica_cad(scenes: str) -> tuple[bool, str, str]:
    """ReplicaCAD with every file that its configs name."""
    root = Path(scenes or data_folder() / "replica_cad")
    if not root.exists():
        return False, f"nothing at {root} (published episode files are played in its scenes)", _get("scenes")
    dataset = open_dataset(root)
    named, missing = named_files(dataset)
    found = f"{len(dataset.scenes)} scenes and {len(dataset.objects)} object models at {root}"
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        return False, f"{found}, but {missing[0]}{more} of {named} files missing", DOWNLOAD
    return True, f"{found}, all {named} files there", ""


def named_files(dataset: Dataset) -> tuple[int, list[Path]]:
    """How many mesh and navmesh files a dataset's stages, objects, URDFs and scenes name, and which are absent."""
    named: dict[Path, None] = {}
    for file in (*dataset.stages.values(), *dataset.objects.values()):
        values = dataset.folder.read_json(file, "config")
        for key in ("render_asset", "collision_asset"):
            if isinstance(values.get(key), str) and values[key]:
                named[dataset.folder.inside(file.parent / values[key], file)] = None
    for name in dataset.urdfs:
        for visuals in dataset.articulated(name).links.values():
            named |= {visual.mesh: None for visual in visuals}
    named |= {file: None for name, file in dataset.navmeshes.items() if name in dataset.scenes}
    return len(named), [file for file in named if not file.is_file()]


def ycb(objects: str) -> tuple[bool, str, str]:
    """Which of the models that episodes can name are there."""
    root = Path(objects or data_folder() / "objects" / "ycb")
    if not root.exists():
        instead = "published episodes have stand-in shapes of the right size instead"
        return False, f"nothing at {root} ({instead})", _get("objects")
    folder = ObjectFolder(root)
    there = [name for name in YCB if name in folder.configs]
    unread = [name for name in there if not _has_mesh(folder, name)]
    if unread:
        return False, f"{len(unread)} models at {root} name a mesh that is missing: {unread[0]}", DOWNLOAD
    lacking = [name for name in YCB if YCB[name].category and name not in folder.configs]
    rest = f"; {len(lacking)} that tasks can name are stand-ins, such as {lacking[0]}" if lacking else ""
    return bool(there), f"{len(there)} of {len(YCB)} models at {root}{rest}", DOWNLOAD


def _has_mesh(folder: ObjectFolder, name: str) -> bool:
    asset = folder.config(name).render_asset
    return asset is not None and asset.is_file()


def fetch(robot: str) -> tuple[bool, str, str]:
    """The robot's URDF."""
    found = find_robot(robot)
    if found is None:
        return False, f"nothing at {data_folder() / 'robots'} (a stand-in with Fetch's joints is used)", _get("robot")
    return True, str(found), ""


def _get(option: str) -> str:
    return f"{DOWNLOAD}; commands take its folder as {option}=, this one looks in {DATA_FOLDER} too"
