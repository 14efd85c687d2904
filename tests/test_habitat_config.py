"""What of the Habitat backend needs no Habitat: versions, settings, YAML, and how a whole test run is judged."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from llarp import habitat
from llarp.cli import main
from llarp.envs.config import EnvConfig
from llarp.errors import UserError
from llarp.habitat import episodes, worlds
from llarp.habitat.pool import Worker

ROOT = Path(__file__).parent.parent
YAML = sorted((ROOT / "habitat_configs" / "habitat_lab").rglob("*.yaml"))


def versions(monkeypatch: pytest.MonkeyPatch, sim: str | None, lab: str | None) -> None:
    found = {"habitat-sim": sim, "habitat-lab": lab}
    monkeypatch.setattr(habitat, "version_of", found.__getitem__)


@pytest.mark.parametrize(
    ("sim", "lab", "says"),
    [
        (None, "0.3.3", "needs habitat-sim, which is not installed: conda install"),
        ("0.3.3", None, "needs habitat-lab, which is not installed: pip install"),
        ("0.2.5", "0.3.3", "habitat-sim 0.2.5 is too old: backend=habitat needs 0.3.3 or later"),
        ("0.3.3", "0.3.220250102", "habitat-lab 0.3.220250102 is too old"),
        ("0.3.2", "0.3.3", "habitat-sim 0.3.2 is too old"),
    ],
)
def test_what_is_missing_or_too_old_is_one_line(monkeypatch, capsys, sim, lab, says):
    versions(monkeypatch, sim, lab)
    code = main(["eval", "policy=oracle", "backend=habitat", "episodes=2", "split=new_scenes", "env.num_envs=1"])
    error = capsys.readouterr().err.strip()
    assert code == 2 and says in error and len(error.splitlines()) == 1


@pytest.mark.parametrize(("sim", "lab"), [("0.3.3", "0.3.320260507"), ("0.4.0", "1.0.0"), ("?", "0.3.3")])
def test_versions_that_will_do(monkeypatch, sim, lab):
    versions(monkeypatch, sim, lab)
    assert habitat.check_installed() == {"habitat-sim": sim, "habitat-lab": lab}


@pytest.mark.skipif(importlib.util.find_spec("habitat_sim") is not None, reason="habitat-sim is installed")
def test_without_habitat_sim_no_environment_is_made():
    from llarp.envs import make

    with pytest.raises(UserError, match="habitat-sim, which is not installed"):
        make(1, backend="habitat", episodes=40)


def test_this_package_needs_no_habitat():
    code = ("import sys, llarp.habitat.worlds, llarp.habitat.worker, llarp.habitat.assets; "
            "sys.exit(any(m.split('.')[0] in ('habitat', 'habitat_sim') for m in sys.modules))")  # fmt: skip
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("seconds", ["0", "-1", "nan"])
def test_a_timeout_has_to_be_some_time(capsys, seconds):
    words = ["eval", "policy=oracle", "backend=habitat", f"env.worker_timeout_s={seconds}"]
    assert main(words) == 2
    error = capsys.readouterr().err.strip()
    assert "env.worker_timeout_s" in error and len(error.splitlines()) == 1


def test_a_backend_that_does_not_exist(capsys):
    assert main(["eval", "policy=oracle", "backend=unity"]) == 2
    error = capsys.readouterr().err.strip()
    assert "backend" in error and "habitat" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("path", YAML, ids=lambda p: p.stem)
def test_yaml_sets_what_the_plugin_knows(path):
    values = OmegaConf.load(path)
    assert path.read_text().startswith("# @package ") and "_self_" in values.get("defaults", ["_self_"])
    source = (ROOT / "llarp" / "habitat" / "plugin.py").read_text()
    named = [v for k, v in _leaves(OmegaConf.to_container(values)) if k == "type"]
    ours = [name for name in named if name.startswith("LanguageRearrangement")]
    assert all(f'"{name}"' in source for name in ours)


def _leaves(values):
    for key, value in values.items():
        yield from _leaves(value) if isinstance(value, dict) else [(key, value)]


def test_the_built_wheel_has_the_yaml(tmp_path):
    done = subprocess.run(
        [sys.executable, "setup.py", "-q", "egg_info", "-e", str(tmp_path), "build_py", "-d", str(tmp_path / "built")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = {p.relative_to(tmp_path / "built" / "llarp") for p in (tmp_path / "built").rglob("*.yaml")}
    assert {p.relative_to(ROOT) for p in YAML} <= built and len(YAML) >= 4


def test_overrides_name_keys_of_our_yaml():
    from llarp.habitat.assets import HabitatAssets

    assets = HabitatAssets(Path("d.json"), Path("r.urdf"), (Path("o"),), ())
    found = dict(o.lstrip("+").split("=", 1) for o in worlds.lab_overrides(EnvConfig(image_size=48), assets, True))
    assert found["habitat.simulator.additional_object_paths"] == "['o']"
    assert [v for k, v in found.items() if k.endswith("head_rgb_sensor.width")] == ["48"]
    main_agent = OmegaConf.load(worlds.lab_config()).habitat.simulator.agents.main_agent
    assert {k.split("sim_sensors.")[1].split(".")[0] for k in found if "rgb_sensor" in k} == set(main_agent.sim_sensors)


def test_a_habitat_dataset_config_becomes_our_settings():
    config = OmegaConf.create({"data_path": "x.pickle", "scenes_dir": "rooms", "objects": "ycb", "rules": "",
                               "split": "new_scenes", "num_episodes": 7})  # fmt: skip
    ours = episodes.env_config(config)
    assert (ours.dataset, ours.scenes, ours.objects, ours.split, ours.episodes) == ("x.pickle", "rooms", "ycb",
                                                                                    "new_scenes", 7)  # fmt: skip
    assert ours.rule_set == "published"


def test_of_a_log_only_what_tells_something_is_quoted(tmp_path):
    worker = object.__new__(Worker)
    worker.log = tmp_path / "log"
    worker.log.write_text("[1:2]:[Error]:[Metadata] x.cpp : not found on disk\nhello\n"
                          "tryCreateContext(): cannot get default EGL display: EGL_BAD_PARAMETER\nbye\n")  # fmt: skip
    said = worker._last_words()
    assert "EGL_BAD_PARAMETER" in said and "Metadata" not in said and "hello" not in said


RUN = """
import pytest
@pytest.mark.habitat
@pytest.mark.parametrize("i", range({count}))
def test_it(i):
    if i < {skipped}:
        pytest.skip("no reason")
"""


@pytest.mark.parametrize(
    ("count", "skipped", "words", "says"),
    [
        (30, 0, [], ""),
        (29, 0, [], "only 29 of its tests passed"),
        (29, 0, ["-m", "habitat"], "only 29 of its tests passed"),
        (29, 0, ["-k", "test_it"], ""),
        (29, 0, ["tests/test_some.py"], ""),
        (31, 1, [], "1 of its tests were skipped, such as tests/test_some.py::test_it[0]"),
    ],
)
def test_whole_runs_with_few_habitat_tests_fail(tmp_path, count, skipped, words, says):
    (tmp_path / "tests").mkdir()
    for name in ("habitat", "habitat_sim"):  # "installed"
        (tmp_path / f"{name}.py").touch()
    (tmp_path / "tests" / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (tmp_path / "tests" / "test_some.py").write_text(RUN.format(count=count, skipped=skipped))
    (tmp_path / "pytest.ini").write_text("[pytest]\ntestpaths = tests\npythonpath = .\nmarkers =\n  habitat\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    complaints = [line for line in done.stdout.splitlines() if line.startswith("ERROR: Habitat")]
    assert done.returncode == (1 if says else 0), done.stdout + done.stderr
    assert len(complaints) == bool(says) and all(says in line for line in complaints)
