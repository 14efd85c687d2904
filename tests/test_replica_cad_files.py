"""ReplicaCAD's JSON and URDF files: what is read, and that whatever is wrong with them is told in one line."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from replica_cad_factory import SCENE, glb, write_dataset

from llarp.errors import UserError
from llarp.sim.replica_cad.folder import Folder
from llarp.sim.replica_cad.geometry import scene_set
from llarp.sim.replica_cad.urdf import read_urdf

CONFIG = "replicaCAD.scene_dataset_config.json"
SCENE_FILE = f"configs/scenes/{SCENE}.scene_instance.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "replica_cad")


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
