"""What Habitat is to load: models written as .glb files, stand-ins in Habitat's layout, and finding what is there.

That Habitat-Sim loads them: test_habitat_standins.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from glb_files import small_dataset, write_json

from llarp import cli
from llarp.envs.config import EnvConfig
from llarp.errors import UserError
from llarp.habitat import check, standins
from llarp.habitat.apartments import DATASET
from llarp.habitat.assets import DOWNLOAD, find_assets
from llarp.habitat.glb_writer import shaded, to_habitat, write_glb
from llarp.habitat.robot_standin import ARM_RAD, FINGER_TO_GRIPPER_M, HEAD_TILT_RAD, ROBOT, TORSO_M, write_robot
from llarp.sim.assets import Mesh
from llarp.sim.meshes import box, cylinder, merge, transform
from llarp.sim.object_palette import cell, object_material
from llarp.sim.replica_cad.files import open_dataset, read_object_config
from llarp.sim.replica_cad.folder import Folder
from llarp.sim.replica_cad.geometry import HANDLE_MARKERS
from llarp.sim.replica_cad.glb import read_glb
from llarp.sim.replica_cad.objects import load_objects
from llarp.sim.replica_cad.urdf import read_urdf
from llarp.sim.replica_cad.ycb import YCB
from llarp.sim.robot import build_robot
from llarp.sim.world import load_assets
from llarp.tasks.state import GRIPPER_IN_BASE


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of stand-ins."""
    out = tmp_path_factory.mktemp("stand_ins") / "out"
    standins.write_stand_ins(out)
    return out


@pytest.fixture
def no_data(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data folder; stand-ins are those made before."""
    monkeypatch.setenv("LLARP_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(standins, "stand_ins", lambda: made)
    return tmp_path / "data"


# -- writing models ---------------------------------------------------------------------------------------------------


def test_written_models_are_read_back(tmp_path: Path) -> None:
    """Vertices in Habitat's frame, faces the same way round, each part with its own colours."""
    texture = object_material().texture
    other = np.full((8, 4, 3), (10, 200, 30), np.uint8)
    can = transform(cylinder(0.1, 0.2, cell("red")), (1.0, 2.0, 3.0), yaw=0.3)
    cube = box((0.1, 0.2, 0.3), cell("blue"))
    write_glb(tmp_path / "two.glb", [(can, texture), (cube, other)])
    model = read_glb(tmp_path / "two.glb")
    assert len(model.patches) == 2 and model.unread_textures == 0
    for patch, mesh, pixels in zip(model.patches, (can, cube), (texture, other), strict=True):
        wanted = to_habitat(mesh.vertices)[mesh.faces]
        np.testing.assert_allclose(patch.vertices[patch.faces], wanted, atol=1e-6)
        np.testing.assert_allclose(patch.uv[patch.faces], mesh.uv[mesh.faces], atol=1e-6)
        np.testing.assert_array_equal(patch.texture, pixels)
    top = model.patches[0].vertices[:, 1].max()
    assert top == pytest.approx(3.2)  # what is up for us, z, is y


def test_trimesh_reads_what_is_written(tmp_path: Path) -> None:
    """Closed, its volume positive (faces look outward), its normals those of the faces."""
    cube = box((0.1, 0.2, 0.3), cell("blue"))
    write_glb(tmp_path / "box.glb", [(cube, object_material().texture)])
    read = trimesh.load(tmp_path / "box.glb", force="mesh")
    read.merge_vertices(merge_tex=True, merge_norm=True)
    assert read.is_watertight and read.volume == pytest.approx(0.2 * 0.4 * 0.6)
    np.testing.assert_allclose(read.extents, (0.2, 0.6, 0.4), atol=1e-6)


def test_edges_are_sharp_and_round_things_smooth() -> None:
    corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
    faces = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
                      [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]], np.int32)  # fmt: skip
    cube = Mesh("cube", corners, faces, np.zeros((8, 2), np.float32))  # corners shared by three sides
    _, normals, _, index = shaded(cube)
    axes = np.abs(normals[index]).max(-1)
    np.testing.assert_allclose(axes, 1.0, atol=1e-3)  # every corner has its own side's normal
    angle = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    ring = np.column_stack((np.cos(angle), np.sin(angle)))
    points = np.concatenate([np.column_stack((ring, np.full(24, z))) for z in (0, 1)]).astype(np.float32)
    i, j = np.arange(24), (np.arange(24) + 1) % 24
    wall = Mesh("wall", points, np.concatenate((np.stack((i, j, 24 + j), 1), np.stack((i, 24 + j, 24 + i), 1))),
                np.zeros((48, 2), np.float32))  # fmt: skip
    vertices, normals, _, _ = shaded(wall)
    assert len(vertices) == 48  # none doubled
    np.testing.assert_allclose(normals[:, :2], vertices[:, :2], atol=0.06)  # of unit length and outward


def test_a_face_without_an_area_is_left_out(tmp_path: Path) -> None:
    mesh = merge("m", [box((0.1, 0.1, 0.1), 0)])
    faces = np.concatenate((mesh.faces, [[0, 0, 1]])).astype(np.int32)
    write_glb(tmp_path / "m.glb", [(Mesh("m", mesh.vertices, faces, mesh.uv), object_material().texture)])
    assert len(read_glb(tmp_path / "m.glb").patches[0].faces) == len(mesh.faces)


# -- stand-ins --------------------------------------------------------------------------------------------------------


def test_every_ycb_name_has_a_shape_of_its_size(made: Path) -> None:
    folder = Folder(made / "objects/ycb")
    for name, model in YCB.items():
        config = read_object_config(folder, made / f"objects/ycb/configs/{name}.object_config.json")
        assert config.render_asset is not None and config.com is not None and not config.com.any()
        vertices = np.concatenate([p.vertices for p in read_glb(config.render_asset).patches])
        low, high = vertices.min(0), vertices.max(0)
        np.testing.assert_allclose(low, -high, atol=1e-5, err_msg=name)  # the origin is the box's centre
        x, y, z = model.size
        np.testing.assert_allclose(high - low, (x, z, y), rtol=1e-3, err_msg=name)


def test_the_embedded_simulator_reads_them_as_its_own(made: Path, tmp_path: Path) -> None:
    """The same shapes, drawn upright, whether it has a folder of stand-ins or makes its own."""
    dataset = open_dataset(small_dataset(tmp_path / "replica_cad"))
    names = ["013_apple", "035_power_drill", "041_small_marker"]
    own, read = load_objects(dataset, names, None), load_objects(dataset, names, made / "objects/ycb")
    assert read.notes == () and len(own.notes) == 1
    for a, b in zip(own.meshes, read.meshes, strict=True):
        assert a.level and b.level and len(a.faces) == len(b.faces)
        np.testing.assert_allclose(a.vertices[a.faces], b.vertices[b.faces], atol=1e-5)


def test_the_robot_holds_things_where_ours_does(tmp_path: Path) -> None:
    """Our own reader and arithmetic over the URDF; Habitat's are in test_habitat_standins.py."""
    file = write_robot(tmp_path)
    assert file == tmp_path / ROBOT
    made = read_urdf(Folder(tmp_path), file)
    held = dict(zip(["shoulder_pan", "shoulder_lift", "upperarm_roll", "elbow_flex", "forearm_roll", "wrist_flex",
                     "wrist_roll"], ARM_RAD, strict=True))  # fmt: skip
    held |= {"torso_lift": TORSO_M, "head_tilt": HEAD_TILT_RAD}

    def frame(link: str) -> np.ndarray:
        if link not in made.joints:
            return np.eye(4)
        joint = made.joints[link]
        value, moved = held.get(joint.name.removesuffix("_joint"), 0.0), np.eye(4)
        if joint.kind == "prismatic":
            moved[:3, 3] = value * joint.axis
        elif joint.kind != "fixed":
            moved = trimesh.transformations.rotation_matrix(value, joint.axis)
        return frame(joint.parent) @ joint.origin @ moved

    grip = frame("l_gripper_finger_link") @ (FINGER_TO_GRIPPER_M, 0, 0, 1)
    np.testing.assert_allclose(grip[:3], to_habitat(GRIPPER_IN_BASE), atol=1e-6)
    points = []
    for link, visuals in made.links.items():
        for visual in visuals:
            patch = read_glb(visual.mesh).patches[0]
            at = frame(link) @ visual.origin
            points.append(patch.vertices @ at[:3, :3].T + at[:3, 3])
    ours = to_habitat(np.concatenate([mesh.vertices for mesh in build_robot()[0]]))
    both = [{tuple(p) for p in found.round(3) + 0.0} for found in (np.concatenate(points), ours)]
    far = both[0] ^ both[1]
    assert len(far) < 0.02 * len(both[1])  # the same points, but for what rounds differently


def test_apartments_say_what_ours_are(made: Path) -> None:
    """Every scene stands where our tables have it: furniture, and the moving parts of fridge and kitchen."""
    ours = load_assets()
    folder = made / "apartments"
    assert {f.name.split(".")[0] for f in (folder / "configs/scenes").iterdir()} == set(ours.scenes.names)
    row = ours.scenes.names.index("heldout_03")
    scene = json.loads((folder / "configs/scenes/heldout_03.scene_instance.json").read_text())
    placed = {tuple(np.round(i["translation"], 3)) for key in ("object_instances", "articulated_object_instances")
              for i in scene[key]}  # fmt: skip
    layouts = ours.layouts
    fixed = [s for s in range(2, layouts.mesh.shape[1]) if layouts.mesh[row, s] >= 0 and layouts.joint[row, s] < 0]
    assert placed == {tuple(np.round(to_habitat(layouts.position[row, s]), 3)) for s in fixed}
    links = {}
    for instance in scene["articulated_object_instances"]:
        template = instance["template_name"]
        urdf = read_urdf(Folder(folder), folder / f"urdf/{template}.urdf")
        cos, _, sin, _ = instance["rotation"]
        yaw, at = 2 * np.arctan2(sin, cos), np.array(instance["translation"])
        for link, joint in urdf.joints.items():
            x, y, z = joint.origin[:3, 3]
            turned = np.array((x * np.cos(yaw) + z * np.sin(yaw), y, z * np.cos(yaw) - x * np.sin(yaw)))
            axis = joint.axis * (np.cos(yaw), 1, 0) - joint.axis[0] * np.array((0, 0, np.sin(yaw)))
            links[urdf.name, link] = (at + turned, axis, joint.kind)
    assert set(links) == {(name, link) for name, link, _ in HANDLE_MARKERS}
    for handle, (name, link, _) in enumerate(HANDLE_MARKERS):
        slot = int(np.flatnonzero(layouts.joint[row] == handle)[0])
        where, axis, kind = links[name, link]
        np.testing.assert_allclose(where, to_habitat(layouts.position[row, slot]), atol=1e-3)
        if kind == "prismatic":
            np.testing.assert_allclose(axis, to_habitat(layouts.slide[row, slot]), atol=1e-3)
        else:
            np.testing.assert_allclose(axis, (0, layouts.hinge[row, slot], 0), atol=1e-3)


def test_files_that_configs_name_are_there(made: Path) -> None:
    configs = [*made.rglob("*.object_config.json"), *made.rglob("*.stage_config.json")]
    missing = [c for c in configs if not (c.parent / json.loads(c.read_text())["render_asset"]).is_file()]
    assert len(configs) > 900 and not missing
    names = {json.loads(s.read_text())["stage_instance"]["template_name"] for s in made.rglob("*.scene_instance.json")}
    assert names == {c.name.split(".")[0] for c in made.rglob("*.stage_config.json")}


def test_a_folder_with_other_things_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="no folder of stand-ins"):
        standins.write_stand_ins(tmp_path)
    assert [f.name for f in tmp_path.iterdir()] == ["mine.txt"]


def test_an_interrupted_folder_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, assets: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(standins, "write_apartments", full)
    with pytest.raises(UserError, match="out cannot be written: No space left"):
        standins.write_stand_ins(tmp_path / "out")
    assert not any(tmp_path.iterdir())


def test_several_processes_share_one_folder(tmp_path: Path) -> None:
    """Both get the same complete folder, nothing half-written stays; an old generation goes, the newest stay."""
    script = "from llarp.habitat import standins as s; s.write_apartments = s.load_assets = lambda *a: None; "
    script += "print(s.stand_ins())"  # without the apartments, which take seconds
    home = tmp_path / "habitat"
    for i in range(4):
        write_json(home / f"old-{i}" / standins.NOTE_FILE, {})
    env = os.environ | {"LLARP_CACHE": str(tmp_path)}
    two = [subprocess.Popen([sys.executable, "-c", script], env=env, stdout=subprocess.PIPE, text=True) for _ in "ab"]
    said = {process.communicate()[0].strip() for process in two}
    assert len(said) == 1 and [p.returncode for p in two] == [0, 0]
    kept = sorted(f.name for f in home.iterdir())
    assert len(kept) == standins._KEPT and Path(said.pop()).name in kept and not any("partial" in k for k in kept)


# -- finding what is there --------------------------------------------------------------------------------------------


def test_built_in_episodes_are_played_in_our_apartments(no_data: Path, made: Path) -> None:
    found = find_assets(EnvConfig(backend="habitat"))
    assert found.dataset == made / "apartments" / DATASET and found.dataset.is_file() and found.objects == ()
    assert found.robot.is_file() and found.notes == ("the robot is a stand-in with Fetch's joints",)


@pytest.mark.parametrize("place", ["robots/hab_fetch/robots/hab_suction.urdf", "hab_fetch/robots/hab_suction.urdf",
                                   "hab_suction.urdf"])  # fmt: skip
def test_a_robot_is_found_by_any_of_its_folders(no_data: Path, tmp_path: Path, place: str) -> None:
    urdf = tmp_path / "somewhere" / place
    urdf.parent.mkdir(parents=True)
    urdf.write_text("<robot/>")
    top = place.split("/")[0]
    given = tmp_path / "somewhere" / top if "/" in place else tmp_path / "somewhere"
    for robot in (given, urdf):
        found = find_assets(EnvConfig(backend="habitat", robot=str(robot)))
        assert found.robot == urdf and found.notes == ()
    with pytest.raises(UserError, match=r"robot=.*neither"):
        find_assets(EnvConfig(backend="habitat", robot=str(tmp_path / "nowhere")))


def test_the_data_folder_is_looked_into(no_data: Path) -> None:
    urdf = no_data / "robots" / ROBOT
    urdf.parent.mkdir(parents=True)
    urdf.write_text("<robot/>")
    assert find_assets(EnvConfig(backend="habitat")).robot == urdf


def _published(**more: str) -> EnvConfig:
    return EnvConfig(backend="habitat", dataset="new_scenes.pickle", **more)


def test_models_that_a_folder_lacks_are_stand_ins(no_data: Path, made: Path, tmp_path: Path) -> None:
    scenes = small_dataset(tmp_path / "replica_cad")
    mine = tmp_path / "ycb/configs/013_apple.object_config.json"
    write_json(mine, {"render_asset": "../meshes/apple.glb"})
    found = find_assets(_published(scenes=str(scenes), objects=str(tmp_path / "ycb")))
    assert found.dataset == scenes / "replicaCAD.scene_dataset_config.json"
    assert found.objects[0] == mine.parent and len(found.objects) == len(YCB)  # the folder, and all but one name
    assert made / "objects/ycb/configs/013_apple.object_config.json" not in found.objects
    assert all(file.is_file() for file in found.objects[1:])
    assert any(f"{len(YCB) - 1} of {len(YCB)}" in note for note in found.notes)
    without = find_assets(_published(scenes=str(scenes)))
    assert without.objects == (made / "objects/ycb/configs",) and any("all of" in note for note in without.notes)


def test_what_is_missing_is_said_with_the_command_that_gets_it(no_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder") as nowhere:
        find_assets(_published(scenes=str(tmp_path / "nowhere")))
    assert DOWNLOAD in str(nowhere.value)
    scenes = small_dataset(tmp_path / "replica_cad")
    (scenes / "stages/room.glb").unlink()
    with pytest.raises(UserError, match=r"room\.glb: no such stage.*stand-ins OUT"):
        find_assets(_published(scenes=str(scenes)))


def test_check_counts_files_and_names_what_lacks(no_data: Path, tmp_path: Path) -> None:
    scenes = small_dataset(tmp_path / "replica_cad")
    ok, detail, _ = check.replica_cad(str(scenes))
    dataset = open_dataset(scenes)
    named, missing = check.named_files(dataset)
    assert ok and f"all {named} files" in detail and not missing
    assert named == len(list(scenes.rglob("*.glb")))
    drawer = scenes / "urdf/counter/drawer.glb"
    drawer.unlink()
    ok, detail, fix = check.replica_cad(str(scenes))
    assert not ok and str(drawer) in detail and fix == DOWNLOAD


def test_check_of_models(no_data: Path, made: Path) -> None:
    ok, detail, _ = check.ycb(str(made / "objects/ycb"))
    assert ok and f"{len(YCB)} of {len(YCB)}" in detail
    assert not check.ycb("")[0]


@pytest.mark.parametrize(
    ("script", "works", "said"),
    [
        ("print('starting'); print('drew on a device')", True, "drew on a device"),
        ("import sys; sys.exit('no device')", False, "no device (exit code 1)"),
        ("import os; os.abort()", False, "(SIGABRT)"),
    ],
)
def test_a_driver_that_aborts_is_a_finding(
    script: str, works: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -c "{script}"\n')
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    found = check.probe_egl()
    assert found[0] is works and said in found[1]


def test_command_line(
    no_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standins, "write_apartments", lambda folder, assets: None)
    out = tmp_path / "stand_ins"
    assert cli.main(["assets", "stand-ins", str(out)]) == 0
    assert (out / standins.NOTE_FILE).is_file() and (out / "robots" / ROBOT).is_file()
    written = {f.relative_to(out): f.read_bytes() for f in out.rglob("*") if f.is_file()}
    assert cli.main(["assets", "stand-ins", f"out={out}"]) == 0  # written anew, the same to the byte
    assert written == {f.relative_to(out): f.read_bytes() for f in out.rglob("*") if f.is_file()}
    assert cli.main(["assets", "stand-ins"]) == 2
    assert "stand-ins OUT" in capsys.readouterr().err
    result = tmp_path / "check.json"
    places = [f"objects={out / 'objects/ycb'}", f"robot={out / 'robots'}"]
    assert cli.main(["assets", "check", *places, f"out={result}"]) == 0
    rows = {row["name"]: row for row in json.loads(result.read_text())["checks"]}
    assert list(rows) == ["habitat-sim", "habitat-lab", "EGL", "ReplicaCAD", "YCB", "Fetch"]
    assert rows["YCB"]["ok"] and rows["Fetch"]["ok"] and not rows["ReplicaCAD"]["ok"]
    assert all(bool(row["fix"]) != row["ok"] for row in rows.values())
