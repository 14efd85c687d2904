"""What stands in for Habitat's downloads, in Habitat's layout: YCB-named shapes, a robot, plain stages, our apartments.

Everything is made by us, from the same shapes that the embedded simulator draws.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np

from llarp import __version__
from llarp.cache import cache_dir
from llarp.errors import UserError
from llarp.sim.assets import Mesh
from llarp.sim.meshes import merge
from llarp.sim.object_palette import object_material
from llarp.sim.parts import block
from llarp.sim.replica_cad.objects import standin
from llarp.sim.replica_cad.ycb import YCB
from llarp.sim.textures import palettes
from llarp.sim.world import load_assets

from .apartments import write_apartments
from .glb_writer import write_glb, write_json
from .robot_standin import write_robot

OBJECTS, ROBOTS = Path("objects/ycb"), Path("robots")
STAGES, APARTMENTS = Path("replica_cad/stages"), Path("apartments")
"""Where the parts of a folder of stand-ins lie."""
NOTE_FILE = "STAND_INS.json"
"""Marks a folder of stand-ins, and says what they are."""
NOTES = {
    "objects": "YCB's objects are stand-in shapes of the right size",
    "robot": "the robot is a stand-in with Fetch's joints",
    "stages": "ReplicaCAD's stages are plain rooms",
}
"""By part: what a report says where it is in use."""
STAGE_NAMES = (*(f"Stage_v3_sc{i}_staging" for i in range(4)), "frl_apartment_stage")
_ROOM_M = ((-4.0, 6.0), (-9.0, 6.0), 2.8)
"""x and y in our frame, and the height, of the plain room: what ReplicaCAD's layouts furnish, and a metre around."""
_KEPT = 3  # generations in the cache
_MAKERS = ("sim", "habitat/apartments.py", "habitat/glb_writer.py", "habitat/robot_standin.py", "habitat/standins.py",
           "tasks/entities.py", "tasks/state.py")  # fmt: skip


def write_stand_ins(out: Path) -> list[str]:
    """Write all stand-ins as the folder `out`; what they are, in a sentence each. Seconds, 18 MB.

    A new folder appears when it is complete; one with stand-ins is written anew in its place, any other is refused."""
    again = (out / NOTE_FILE).is_file()
    if not again and out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise UserError(f"{out} exists and is no folder of stand-ins: name a new folder")
    partial = out if again else out.with_name(f".{out.name}.{os.getpid()}.partial")
    made = [*NOTES.values(), "the built-in apartments and objects as a scene dataset (these are no stand-ins)"]
    try:
        partial.mkdir(parents=True, exist_ok=True)
        write_objects(partial / OBJECTS)
        write_robot(partial / ROBOTS)
        for name in STAGE_NAMES:
            write_glb(partial / STAGES / f"{name}.glb", [_plain_room()], two_sided=True)
        write_apartments(partial / APARTMENTS, load_assets())
        write_json(partial / NOTE_FILE, {"made_by": f"llarp {__version__}", "what": made})
        if not again:
            os.rename(partial, out)
    except OSError as e:
        raise UserError(f"{out} cannot be written: {e.strerror or e}") from e
    finally:
        if not again:
            shutil.rmtree(partial, ignore_errors=True)
    return made


def stand_ins() -> Path:
    """The folder of stand-ins in the cache, written the first time."""
    home = cache_dir("habitat")
    folder = home / f"{__version__}-{_fingerprint()}"
    if not (folder / NOTE_FILE).is_file():
        try:
            write_stand_ins(folder)
        except UserError:
            if not (folder / NOTE_FILE).is_file():  # else another process was faster
                raise
        _drop_old(home)
    return folder


def write_objects(folder: Path) -> None:
    """YCB-named shapes below `folder` (Habitat's `objects/ycb`).

    `user_defined.level` says that they are drawn upright, however an episode tilts the model (`Mesh.level`).
    """
    texture = object_material().texture
    for name in YCB:
        write_glb(folder / "meshes" / f"{name}.glb", [(standin(name), texture)])
        config = {"render_asset": f"../meshes/{name}.glb", "COM": [0, 0, 0], "mass": 0.2}
        write_json(folder / "configs" / f"{name}.object_config.json", config | {"user_defined": {"level": True}})


def _plain_room() -> tuple[Mesh, np.ndarray]:
    """Floor and four walls."""
    x, y, high = _ROOM_M
    edge = 0.05
    walls = [
        block((x[0] - edge, x[1] + edge), (y[0] - edge, y[1] + edge), (-0.1, 0), "door"),
        *[block((w - edge, w + edge), y, (0, high), "white") for w in x],
        *[block(x, (w - edge, w + edge), (0, high), "white") for w in y],
    ]
    return merge("room", walls), palettes("train")[0].texture


def _fingerprint() -> str:
    """Changes with every line of code that stand-ins are made by."""
    package, digest = Path(__file__).parent.parent, hashlib.sha256()
    import llarp.tasks

    for maker in _MAKERS:
        path = Path(llarp.tasks.__file__).parent.parent / maker if maker.startswith("tasks/") else package / maker
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:12]


def _drop_old(home: Path) -> None:
    with contextlib.suppress(OSError):  # another process may be tidying too
        made = sorted((f for f in home.iterdir() if (f / NOTE_FILE).is_file()), key=lambda f: f.stat().st_mtime)
        for old in made[:-_KEPT]:
            shutil.rmtree(old, ignore_errors=True)
