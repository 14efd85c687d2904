"""ReplicaCAD's files and what the task takes from them: on a small dataset made here, and on a real download."""

from __future__ import annotations

import gzip
import json
import math
import pickle
import random
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from replica_cad_factory import FIRST_CHAIR, SCENE, glb, write_dataset

from llarp.errors import UserError
from llarp.sim.replica_cad.folder import Folder
from llarp.sim.replica_cad.geometry import FREE_POINTS, scene_set
from llarp.sim.replica_cad.urdf import read_urdf
from llarp.tasks.entities import NUM_HANDLES, RECEPTACLE_INDEX
from llarp.tasks.semantics import PLACE_SHRINK
from llarp.tasks.state import SceneSet

CONFIG = "replicaCAD.scene_dataset_config.json"
SCENE_FILE = f"configs/scenes/{SCENE}.scene_instance.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "replica_cad")


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> SceneSet:
    return scene_set(write_dataset(tmp_path_factory.mktemp("data") / "replica_cad"), [SCENE])


def receptacle(scenes: SceneSet, name: str) -> dict[str, list[float]]:
    """What a scene set of one scene says of a receptacle."""
    names = ("center", "half", "yaw", "span", "slide")
    return {k: getattr(scenes, f"receptacle_{k}")[0, RECEPTACLE_INDEX[name]].tolist() for k in names}


def test_boxes_of_furniture(scenes: SceneSet) -> None:
    """The black table is turned by 30 degrees: its box by two corners is far too thin."""
    table = receptacle(scenes, "black table")
    cos, sin = math.cos(math.pi / 6), math.sin(math.pi / 6)
    assert table["center"] == pytest.approx([2 + 0.1 * cos, -(3 - 0.1 * sin), 0.9])
    assert table["half"] == pytest.approx([0.6, 0.3, 0.1])
    assert table["yaw"] == pytest.approx(math.pi / 6)
    assert table["span"] == pytest.approx([0.66962, 0.04019, 0.1], abs=1e-4)
    brown = receptacle(scenes, "brown table")
    assert brown["span"] == pytest.approx([0.3, 0.6, 0.1])
    assert scenes.surface_z[0, RECEPTACLE_INDEX["black table"]] == pytest.approx(0.8)


def test_of_two_chairs_the_last_counts(scenes: SceneSet) -> None:
    assert FIRST_CHAIR == (1.0, 0.5, 1.0)
    assert receptacle(scenes, "chair")["center"] == pytest.approx([4, -4, 0.75])


def test_boxes_on_links(scenes: SceneSet) -> None:
    """The counter is half as large as its URDF says and turned by 90 degrees: its x is our y, its z our x."""
    assert receptacle(scenes, "sink") == {
        "center": pytest.approx([0, -2, 0.8]),
        "half": pytest.approx([0.1, 0.15, 0.05]),
        "yaw": pytest.approx(math.pi / 2),
        "span": pytest.approx([0.15, 0.1, 0.05]),
        "slide": [0, 0, 0],
    }
    drawer = receptacle(scenes, "left drawer")  # its half sizes are written with a minus
    assert drawer["center"] == pytest.approx([0.5, -2, 0.6])
    assert drawer["half"] == pytest.approx([0.2, 0.15, 0.1])
    assert drawer["slide"] == pytest.approx([0, 1, 0])  # not scaled: opened by 0.45 it has moved 0.45 m


def test_a_fridge_defined_lying_down_stands(scenes: SceneSet) -> None:
    fridge = receptacle(scenes, "fridge")
    assert fridge["center"] == pytest.approx([0, -4, 1.4])
    assert fridge["half"] == pytest.approx([0.25, 0.3, 0.15])
    assert fridge["slide"] == [0, 0, 0]


def test_handles_hang_on_links_unscaled(scenes: SceneSet) -> None:
    expected = [[0.5, -1.7, 0.6], [0, -1.7, 0.6], [-0.5, -1.7, 0.6], [-0.5, -1.7, 0.2], [0.4, -3.68, 1.2]]
    torch.testing.assert_close(scenes.handle_position[0], torch.tensor(expected))


def test_what_furniture_holds_is_the_box_about_its_meshes(scenes: SceneSet) -> None:
    torch.testing.assert_close(scenes.container_center[0, 0], torch.tensor([0.5, -2, 0.6]))
    torch.testing.assert_close(scenes.container_half[0, 0], torch.tensor([0.2, 0.25, 0.125]))
    torch.testing.assert_close(scenes.container_slide[0, 0], torch.tensor([0.0, 1, 0]))
    low, high = (scenes.container_center[0, 4] + sign * scenes.container_half[0, 4] for sign in (-1, 1))
    torch.testing.assert_close(low, torch.tensor([-0.3, -4.6, 0.1]))  # body 0.3 x 0.3 x 0.9 m, half sizes, and the
    torch.testing.assert_close(high, torch.tensor([0.6, -3.7, 2.3]))  # door's, 0.3, 0.3 and 0.4 m off its middle


def test_nav_goes_to_the_nearest_floor_and_faces_the_target(scenes: SceneSet) -> None:
    """The floor begins at x = 1; the largest island counts, not the one that comes first in the file."""
    sink, stand = NUM_HANDLES + RECEPTACLE_INDEX["sink"], NUM_HANDLES + RECEPTACLE_INDEX["TV stand"]
    assert scenes.nav_pose[0, sink].abs().tolist() == pytest.approx([1, 2, math.pi])  # -pi is as good as pi
    assert scenes.nav_pose[0, 4].abs().tolist() == pytest.approx([1, 3.68, math.pi])
    assert scenes.nav_pose[0, stand].tolist()[:2] == pytest.approx([1, -5])  # stands on the floor's edge
    assert scenes.nav_height[0].tolist() == pytest.approx([0.1] * 16)


def test_start_positions(scenes: SceneSet, folder: Path) -> None:
    assert scenes.free_xy.shape == (1, FREE_POINTS, 2)
    x, y = scenes.free_xy[0].unbind(-1)
    assert 1 <= x.min() < 1.1 and 5.9 < x.max() <= 6 and -6 <= y.min() < -5.9 and -0.1 < y.max() <= 0
    assert scenes.floor_height.tolist() == pytest.approx([0.1])
    assert torch.equal(scene_set(folder, [SCENE]).free_xy, scenes.free_xy)
    assert not torch.equal(scene_set(folder, [SCENE], seed=1).free_xy, scenes.free_xy)


def test_splits_and_names(folder: Path) -> None:
    for name in ("v3_sc1_staging_07", "apt_3"):
        (folder / "configs/scenes" / f"{name}.scene_instance.json").write_bytes((folder / SCENE_FILE).read_bytes())
    both = scene_set(folder, ["v3_sc1_staging_07", SCENE, "apt_3"])
    assert both.splits == ["train", "heldout", "heldout"]
    assert both.names == ["v3_sc1_staging_07", SCENE, "apt_3"]
    assert torch.equal(both.receptacle_center[0], both.receptacle_center[1])


def test_origin_that_is_not_the_centre_of_mass(folder: Path) -> None:
    """An object placed by its centre of mass, 0.1 above its mesh's origin, hangs 0.1 lower."""
    file = folder / "configs/objects/table_02.object_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"COM": [0, 0.1, 0]}))
    scene = json.loads((folder / SCENE_FILE).read_text())
    for origin, z in (("COM", 0.8), ("asset_local", 0.9)):
        for instance in scene["object_instances"]:
            instance["translation_origin"] = origin
        (folder / SCENE_FILE).write_text(json.dumps(scene))
        assert receptacle(scene_set(folder, [SCENE]), "brown table")["center"] == pytest.approx([4, -1, z])


def test_joints_turn_and_shift(tmp_path: Path) -> None:
    (tmp_path / "arm.urdf").write_text(
        '<robot name="arm"><link name="root"/><link name="upper"/><link name="slider"/>'
        '<joint name="hinge" type="revolute"><parent link="root"/><child link="upper"/>'
        '<origin xyz="1 0 0" rpy="0 0 1.5707963"/><axis xyz="0 0 2"/></joint>'
        '<joint name="rail" type="prismatic"><parent link="upper"/><child link="slider"/>'
        '<origin xyz="0 2 0"/><axis xyz="1 0 0"/></joint></robot>'
    )
    arm = read_urdf(Folder(tmp_path), tmp_path / "arm.urdf")
    assert arm.link_matrix("slider")[:3, 3] == pytest.approx([-1, 0, 0], abs=1e-6)
    assert arm.link_matrix("slider", q={"rail": 0.5})[:3, 3] == pytest.approx([-1, 0.5, 0], abs=1e-6)
    assert arm.link_matrix("slider", 0.5, {"rail": 0.5})[:3, 3] == pytest.approx([-0.5, 0.5, 0], abs=1e-6)
    turned = arm.link_matrix("slider", q={"hinge": math.pi / 2, "rail": 0.5})
    assert turned[:3, 3] == pytest.approx([0.5, -2, 0], abs=1e-6)


def edited(file: str, *changes: tuple[str, str]) -> Callable[[Path], None]:
    """A change of a text file, every pattern once."""

    def change(folder: Path) -> None:
        text = (folder / file).read_text()
        for pattern, by in changes:
            text, count = re.subn(pattern, lambda _, by=by: by, text, count=1)  # type: ignore[misc]
            assert count == 1, pattern
        (folder / file).write_text(text)

    return change


SOFA, COUNTER = "configs/objects/sofa.object_config.json", "urdf/kitchen_counter/kitchen_counter.urdf"


@pytest.mark.parametrize(
    "change, says",
    [
        (edited(SCENE_FILE, (r"\}$", "")), f"{SCENE}.*not a readable scene instance"),
        (edited(SCENE_FILE, (r'"translation": \[1.0', '"translation": [NaN')), "NaN is not a number"),
        (edited(SCENE_FILE, (r'"translation": \[1.0', '"translation": [1e99')), "expected 3 numbers"),
        (edited(SCENE_FILE, (r'"rotation": \[1.0', '"rotation": [0.0')), "expected a quaternion"),
        (edited(SCENE_FILE, ('"template_name": "sofa"', '"template_name": "sopha"')), "no object 'sopha'"),
        (edited(SCENE_FILE, ('"template_name": "sofa"', '"template_name": "table_01"')), "has no receptacle_aabb_Sofa"),
        (edited(SCENE_FILE, ('"template_name": "fridge"', '"template_name": "kitchen_counter"')), "has no receptacle"),
        (edited(SCENE_FILE, ('"uniform_scale": 0.5', '"uniform_scale": -1')), "expected more than 0"),
        (edited(SCENE_FILE, (r"^.*$", "[" * 100_000)), "nested too deeply|not a readable"),
        (edited(SOFA, ("../../objects/sofa.glb", "../../../../etc/passwd")), "leads out of .*: refused"),
        (edited(SOFA, ("../../objects/sofa.glb", "/etc/passwd")), "leads out of .*: refused"),
        (edited(SOFA, ("sofa.glb", "none.glb")), "none.glb"),
        (edited(SOFA, ('"render_asset": "[^"]*", ', "")), "no render_asset"),
        (edited(SOFA, ('"scale": ', '"scales": ')), r"sofa.*scale is 'None': expected 3 numbers"),
        (edited(COUNTER, ("drawer3.glb", "../../../secret.glb")), "leads out of .*: refused"),
        (edited(COUNTER, ("<robot", '<!DOCTYPE a [<!ENTITY b "c">]><robot')), "entity declarations are refused"),
        (edited(COUNTER, ("</robot>", "")), "kitchen_counter.urdf: not a readable URDF"),
        (edited(COUNTER, ('xyz="0 1.2 1"', 'xyz="0 1.2"')), "not three numbers"),
        (edited(COUNTER, ('xyz="0 1.2 1"', 'xyz="0 nan 1"')), "not three numbers"),
        (edited(COUNTER, ('<parent link="root"/>', '<parent link="drawer4"/>')), "hangs on itself"),
        (edited(COUNTER, ('<link name="drawer3">', '<link name="drawer9">')), "'drawer3_joint' has no known child"),
        (edited("urdf/fridge/fridge.ao_config.json", ('"body"', '"bodice"')), "'bodice', which fridge.urdf"),
        (edited(CONFIG, (f'"navmeshes/{SCENE}', '"../navmeshes/x')), "leads out of .*: refused"),
        (lambda f: (f / SOFA).unlink(), "no object 'sofa'"),
        (lambda f: (f / f"navmeshes/{SCENE}.navmesh").unlink(), "no such navmesh"),
        (lambda f: (f / f"navmeshes/{SCENE}.navmesh").write_bytes(b"MSET"), "not a readable navmesh"),
        (lambda f: (f / "objects/sofa.glb").write_bytes(glb((1, 1, 1))[:60]), "sofa.glb"),
        (lambda f: (f / CONFIG).unlink(), "give the folder of a ReplicaCAD download"),
    ],
)
def test_bad_input_is_one_clear_line(folder: Path, change: Callable[[Path], None], says: str) -> None:
    change(folder)
    with pytest.raises(UserError, match=says) as error:
        scene_set(folder, [SCENE])
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def test_unknown_scenes_and_folders(folder: Path) -> None:
    with pytest.raises(UserError, match="no scene '../../x' in .*: is the download complete"):
        scene_set(folder, ["../../x"])
    with pytest.raises(UserError, match="no such folder"):
        scene_set(folder / "none", [SCENE])


def test_links_may_stay_in_the_folder_but_not_leave_it(folder: Path, tmp_path: Path) -> None:
    """As after a download that keeps versions apart: the folder itself and files in it may be symbolic links."""
    (tmp_path / "current").symlink_to(folder)
    sofa = folder / "objects/sofa.glb"
    sofa.rename(folder / "objects/sofa_v2.glb")
    sofa.symlink_to("sofa_v2.glb")
    assert len(scene_set(tmp_path / "current", [SCENE])) == 1
    secret = tmp_path / "secret.glb"
    secret.write_bytes(glb((1, 1, 1)))
    sofa.unlink()
    sofa.symlink_to(secret)
    with pytest.raises(UserError, match="leads out of"):
        scene_set(folder, [SCENE])


def test_any_damage_is_refused_or_harmless(folder: Path) -> None:
    """A short fuzz run over JSON and URDF files: a UserError of one line, or scenes."""
    files = [
        folder / f for f in (SCENE_FILE, CONFIG, SOFA, COUNTER, "urdf/kitchen_counter/kitchen_counter.ao_config.json")
    ]
    whole, rng = {f: f.read_bytes() for f in files}, random.Random(0)
    words = [
        b"null",
        b"1e999",
        b"-1",
        b"[]",
        b"{}",
        b'""',
        b"0",
        b"0.5",
        b"[1, 2, 3]",
        b'"../../../x"',
        b"\xff",
        b"<a>",
    ]
    outcomes = [0, 0]
    for _ in range(150):
        file = rng.choice(files)
        text = whole[file]
        spots = list(re.finditer(rb'-?\d+\.?\d*|"[^"]*"', text))
        for spot in sorted(rng.sample(spots, rng.choice((1, 1, 3))), key=lambda m: -m.start()):
            text = text[: spot.start()] + rng.choice(words) + text[spot.end() :]
        text = text[: rng.randrange(len(text))] if rng.random() < 0.1 else text
        file.write_bytes(text)
        try:
            scene_set(folder, [SCENE])
            outcomes[0] += 1
        except UserError as e:
            assert "\n" not in str(e) and str(folder) in str(e)
            outcomes[1] += 1
        file.write_bytes(whole[file])
    assert min(outcomes) > 5


@pytest.mark.shared_data
@pytest.mark.parametrize("split", ["train_validation", "new_scenes", "rephrasing"])
def test_poses_and_put_down_places_of_the_original(shared: Path, split: str) -> None:
    """Recorded robot poses after nav, and that things are put down within 0.8 of a box: all of them."""
    with gzip.open(shared / "traces" / f"traces_{split}.jsonl.gz", "rt") as lines:
        traces = [json.loads(line) for line in lines]
    names = sorted({Path(t["scene_id"]).name.split(".")[0] for t in traces})
    scenes = scene_set(shared / "replica_cad", names)
    nav, recorded, places, boxes, spans = [], [], [], [], []
    for t in traces:
        row = names.index(Path(t["scene_id"]).name.split(".")[0])
        for action, name, pose, placed in zip(t["actions"], t["action_names"], t["pose"], t["placed"], strict=True):
            if action < 16:
                height = scenes.nav_height[row, action, None]
                nav.append(torch.cat((scenes.nav_pose[row, action], height)))
                recorded.append((pose[0], -pose[2], pose[3], pose[1]))
            if placed:
                r = RECEPTACLE_INDEX[name.removeprefix("place(").removesuffix(")")]
                places.append((placed[1], -placed[3], placed[2]))
                boxes.append(scenes.receptacle_center[row, r])
                spans.append(scenes.receptacle_span[row, r])
    gap = torch.stack(nav) - torch.tensor(recorded)
    gap[:, 2] = torch.atan2(gap[:, 2].sin(), gap[:, 2].cos())
    assert len(gap) > 2000 and gap.abs().max() < 1e-4
    share = (torch.tensor(places) - torch.stack(boxes)).abs() / torch.stack(spans)
    assert share.max() < PLACE_SHRINK + 1e-3
    assert (share.max(0).values > 0.75).all()  # and boxes are not larger than they need be


@pytest.mark.shared_data
def test_objects_of_episodes_rest_on_the_surfaces(shared: Path) -> None:
    """Apples are some 7 cm thick: on every open-air receptacle but the sofa they lie with their middle 3.5 cm above."""
    with open(shared / "language_rearrangement" / "new_scenes.pickle", "rb") as file:
        data = pickle.load(file)  # noqa: S301 (the benchmark's own file)
    text = data["idx_to_name"]
    names = sorted({Path(e["scene_id"]).name.split(".")[0] for e in data["all_eps"]})
    scenes = scene_set(shared / "replica_cad", names)
    found: dict[int, list[float]] = {}
    for e in data["all_eps"]:
        row = names.index(Path(e["scene_id"]).name.split(".")[0])
        where = {text[a]: text[b] for a, b in e["name_to_receptacle"]}
        for model, transform in e["rigid_objs"]:
            if text[model].startswith("013_apple"):
                r = RECEPTACLE_INDEX[where["013_apple_:0000"]]
                height = data["all_transforms"][transform][1, 3] - scenes.surface_z[row, r]
                found.setdefault(r, []).append(float(height))
    assert len(found) >= 6
    for r, heights in found.items():
        if r != RECEPTACLE_INDEX["sofa"]:
            assert np.median(heights) == pytest.approx(0.035, abs=0.015), r
