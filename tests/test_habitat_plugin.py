"""The plug-in as Habitat-Lab's users use it; and the state is Habitat-Sim's: what is moved there, predicates follow."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import shared_folder

from llarp.envs.config import EnvConfig
from llarp.habitat.assets import find_assets
from llarp.tasks import atoms, semantics
from llarp.tasks.actions import ACTIONS
from llarp.tasks.entities import FRIDGE_HANDLE

pytestmark = [pytest.mark.habitat, pytest.mark.shared_data]

NAV_FRIDGE = 4
MEASURES = {"success", "progress", "reward", "invalid_action", "subgoal"}


def env_settings() -> EnvConfig:
    shared: Path = shared_folder()
    return EnvConfig(
        backend="habitat",
        dataset=str(shared / "language_rearrangement" / "new_scenes.pickle"),
        scenes=str(shared / "replica_cad"),
        robot=str(shared / "robots" / "hab_fetch"),
        image_size=64,
    )


def overrides() -> list[str]:
    """What a user of Habitat-Lab sets: where the data lie, how large pictures are."""
    from llarp.habitat.worlds import lab_overrides

    config = env_settings()
    data = [f"habitat.dataset.data_path='{config.dataset}'", f"habitat.dataset.scenes_dir='{config.scenes}'"]
    return [*data, *lab_overrides(config, find_assets(config))]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Simulators start quickly; the working folder is as before afterwards."""
    from llarp.habitat import worker

    before = os.getcwd()
    worker.skip_environment_map()
    yield
    os.chdir(before)


SENSORS = "habitat.simulator.agents.main_agent.sim_sensors"
MINE = f"""# @package _global_
defaults:
  - language_rearrangement
  - /habitat/simulator/sim_sensors@{SENSORS}.head_depth_sensor: head_depth_sensor
  - _self_
habitat:
  environment: {{iterator_options: {{shuffle: False}}}}
  simulator: {{agents: {{main_agent: {{sim_sensors: {{head_depth_sensor: {{width: 32, height: 32}}}}}}}}}}
"""
"""A user's own configuration: ours with one more sensor."""


@pytest.fixture(scope="module")
def env(start: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `habitat.Env` made of a user's YAML, which lists ours, and the registered dataset."""
    import habitat

    import llarp.habitat.plugin  # noqa: F401  (registers)

    mine = tmp_path_factory.mktemp("yaml") / "mine.yaml"
    mine.write_text(MINE)
    with habitat.Env(habitat.get_config(str(mine), overrides())) as made:
        yield made


@pytest.fixture
def begun(env: Any) -> Any:
    """That environment at the start of its first episode."""
    env.current_episode = env.episodes[0]
    env.reset()
    return env


def objects_on(env: Any) -> list[int]:
    return [s for s, thing in enumerate(env.sim.slots) if thing is not None]


def fresh(env: Any) -> torch.Tensor:
    """The truth of every atom, of what Habitat-Sim has now."""
    env.sim.read(env.task.state)
    return env.task.truth()[0]


def skill(env: Any, kind: str, target: int) -> int:
    return next(a.index for a in ACTIONS if (a.kind, a.target) == (kind, target))


def invalid(env: Any, action: int) -> bool:
    env.step({"action": action})
    return bool(env.get_metrics()["invalid_action"])


# -- as a user of Habitat-Lab ------------------------------------------------------------------------------------------


def test_observations_have_the_instruction_and_the_sensors_asked_for(begun):
    observation = begun.reset()
    assert observation["head_rgb"].shape[:2] == (64, 64) and np.asarray(observation["head_rgb"]).std() > 5
    depth = np.asarray(observation["head_depth"])
    assert depth.shape[:2] == (32, 32) and depth.std() > 0.01
    assert observation["instruction"] == begun.current_episode.instruction != ""
    assert set(observation) >= set(begun.observation_space.spaces) - {"third_rgb"}


def test_scenes_that_come_and_go_leave_no_pictures_behind(begun):
    """Habitat-Sim keeps some 0.25 MB of every scene change; with the sensors of the scene before it was 2 MB."""
    firsts = list({episode.scene_id: episode for episode in reversed(begun.episodes)}.values())[:4]

    def changes(count: int) -> float:
        """Memory of our own after so many, MB."""
        for i in range(count):
            begun.current_episode = firsts[i % len(firsts)]
            begun.reset()
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    assert len(firsts) == 4
    before = changes(12)
    assert changes(24) - before < 24 * 0.75


def test_both_forms_of_an_action_do_the_same(begun):
    seen = []
    for action in ({"action": 12}, {"action": "household_skill", "action_args": {"skill": 12}}):
        begun.current_episode = begun.episodes[0]
        before = begun.reset()["head_rgb"]
        seen.append(begun.step(action)["head_rgb"])
        assert (before != seen[-1]).any()
    assert (seen[0] == seen[1]).all()


def test_a_skill_that_does_not_exist_is_an_error(begun):
    with pytest.raises(ValueError, match="70"):
        begun.step({"action": 70})


def test_metrics_are_there_from_the_reset_on(begun):
    assert set(begun.get_metrics()) >= MEASURES
    assert begun.get_metrics()["success"] == begun.get_metrics()["reward"] == 0
    assert invalid(begun, skill(begun, "place", 2))  # nothing is held


def test_an_episode_ends_after_32_steps_and_the_next_one_is_another(begun):
    first = begun.current_episode.episode_id
    steps = 0
    while not begun.episode_over:
        begun.step({"action": steps % 2})
        steps += 1
    assert steps == 32
    with pytest.raises(AssertionError):
        begun.step({"action": 0})
    begun.reset()
    assert begun.current_episode.episode_id != first and not begun.episode_over


def test_the_dataset_is_the_published_file(env):
    assert len(env.episodes) >= 100 and len({e.episode_id for e in env.episodes}) == len(env.episodes)
    assert all(e.instruction for e in env.episodes) and len({e.scene_id for e in env.episodes}) > 1


def test_habitats_gym_makes_an_environment_of_our_yaml(start):
    import habitat
    import habitat.gym

    import llarp.habitat.plugin  # noqa: F401
    from llarp.habitat.worlds import lab_config

    config = habitat.get_config(str(lab_config()), overrides())
    assert set(config.habitat.task.measurements) >= MEASURES
    gym = habitat.gym.make_gym_from_config(config)
    try:
        observation = gym.reset()
        picture = observation["head_rgb"] if isinstance(observation, dict) else observation
        assert picture.shape[:2] == (64, 64)
        assert gym.action_space.contains(gym.action_space.sample())
        _, reward, done, info = gym.step(gym.action_space.sample())[:4]
        assert np.isfinite(reward) and not done and set(info) >= MEASURES
    finally:
        gym.close()


# -- the state is Habitat-Sim's ----------------------------------------------------------------------------------------


def test_an_object_moved_in_habitat_sim_is_on_top_of_where_it_is(begun):
    state, sim = begun.task.state, begun.sim
    slot = objects_on(begun)[0]
    centres = state.receptacle_center[0]
    on = [r for r in range(len(centres)) if fresh(begun)[atoms.on_top(slot, r)]]
    target = next(r for r in (2, 3, 4, 5) if r not in on)
    x, y, z = centres[target].tolist()
    thing = sim.slots[slot]
    was = thing.translation
    thing.translation = type(was)(x, z, -y)
    truth = fresh(begun)
    assert truth[atoms.on_top(slot, target)] and not any(truth[atoms.on_top(slot, r)] for r in on)
    thing.translation = was
    assert [r for r in range(len(centres)) if fresh(begun)[atoms.on_top(slot, r)]] == on


def test_a_door_opened_in_habitat_sim_is_open(begun):
    joint = begun.sim.joints[FRIDGE_HANDLE]
    assert not fresh(begun)[atoms.opened(FRIDGE_HANDLE)]
    positions = joint.thing.joint_positions
    positions[joint.index] = 1.5
    joint.thing.joint_positions = positions
    assert fresh(begun)[atoms.opened(FRIDGE_HANDLE)]
    begun.step({"action": NAV_FRIDGE})
    assert fresh(begun)[atoms.opened(FRIDGE_HANDLE)]  # a skill leaves it so
    assert not invalid(begun, skill(begun, "close", FRIDGE_HANDLE))
    assert not fresh(begun)[atoms.opened(FRIDGE_HANDLE)]
    assert joint.thing.joint_positions[joint.index] < 0.1


def test_a_robot_moved_in_habitat_sim_is_where_it_is(begun):
    begun.step({"action": NAV_FRIDGE})
    at = begun.sim.robot.base_pos
    assert not invalid(begun, skill(begun, "open", FRIDGE_HANDLE))
    assert not invalid(begun, skill(begun, "close", FRIDGE_HANDLE))
    begun.sim.robot.base_pos = at + type(at)(3.0, 0.0, 3.0)
    assert invalid(begun, skill(begun, "open", FRIDGE_HANDLE))
    begun.sim.robot.base_pos = at
    assert not invalid(begun, skill(begun, "open", FRIDGE_HANDLE))


def pick_something(env: Any) -> int:
    """Drive about until something can be picked up, and do so; the slot."""
    for nav in range(16):
        env.step({"action": nav})
        env.sim.read(env.task.state)
        valid = semantics.valid_actions(env.task.state, env.task.settings.rules)[0]
        picks = [a.index for a in ACTIONS if a.kind == "pick" and valid[a.index]]
        if picks:
            assert not invalid(env, picks[0])
            return int(env.task.state.held)
    raise AssertionError("nothing to pick up anywhere")


def test_what_is_held_is_in_the_gripper_and_goes_along(begun):
    slot = pick_something(begun)
    sim = begun.sim
    assert sim.grasp.is_grasped and sim.grasp.snap_idx == sim.slots[slot].object_id
    for nav in (6, 12):
        begun.step({"action": nav})
        gripper = sim.robot.ee_transform().translation
        assert (sim.slots[slot].translation - gripper).length() < 0.3
    assert fresh(begun)[atoms.holding(slot)]


def test_a_grasp_let_go_in_habitat_sim_is_not_held(begun):
    slot = pick_something(begun)
    assert fresh(begun)[atoms.holding(slot)]
    begun.sim.grasp.desnap(True)
    assert not fresh(begun)[atoms.holding(slot)] and int(begun.task.state.held) == -1
    assert invalid(begun, skill(begun, "place", 2))


def test_a_reset_undoes_everything(begun):
    sim = begun.sim
    slots = objects_on(begun)
    start = [sim.slots[s].translation for s in slots]
    begun.current_episode = begun.episodes[0]
    seen = begun.reset()["head_rgb"]
    pick_something(begun)
    sim.slots[slots[-1]].translation = sim.slots[slots[-1]].translation + type(start[0])(0.0, 0.5, 0.0)
    begun.step({"action": 3})
    begun.current_episode = begun.episodes[0]
    again = begun.reset()["head_rgb"]
    assert not sim.grasp.is_grasped
    assert max((sim.slots[s].translation - p).length() for s, p in zip(slots, start, strict=True)) < 1e-5
    assert (seen == again).all()


# -- what cannot be played ---------------------------------------------------------------------------------------------


def run_eval(tmp_path: Path, *words: str, **variables: str) -> tuple[int, list[str]]:
    """`llarp eval` of one published episode in Habitat: exit code and lines of its error output."""
    config = env_settings()
    usual = ["policy=oracle", "backend=habitat", f"dataset={config.dataset}", f"scenes={config.scenes}", "episodes=1"]
    code = "import sys; from llarp.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "eval", *usual, "env.num_envs=1", "env.environment_light=false", *words],
        cwd=tmp_path, env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.returncode, done.stderr.strip().splitlines()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('<robot name="r"><link name="base_link"/></robot>', "cannot make its Fetch of this"),
        ("nonsense", "cannot make its Fetch of this"),
    ],
    ids=["other links", "no XML"],
)
def test_a_robot_that_is_no_fetch_is_one_line(tmp_path, text, says):
    (tmp_path / "robot.urdf").write_text(text)
    code, lines = run_eval(tmp_path, f"robot={tmp_path / 'robot.urdf'}")
    assert code == 2 and len(lines) == 1
    assert str(tmp_path / "robot.urdf") in lines[0] and says in lines[0] and "Traceback" not in lines[0]


def test_without_a_device_to_draw_with_it_is_one_line(tmp_path):
    code, lines = run_eval(tmp_path, __EGL_VENDOR_LIBRARY_FILENAMES="/nonexistent")
    assert code == 2 and len(lines) == 1
    assert "EGL" in lines[0] and "llarp assets check" in lines[0]


def test_a_scene_without_its_furniture_is_one_line(tmp_path):
    rooms = tmp_path / "rooms"
    shutil.copytree(env_settings().scenes, rooms)
    for file in (rooms / "configs" / "scenes").glob("v3_*.scene_instance.json"):
        scene = json.loads(file.read_text())
        scene["articulated_object_instances"] = []
        file.chmod(0o644)
        file.write_text(json.dumps(scene))
    code, lines = run_eval(tmp_path, f"scenes={rooms}")
    assert code == 2 and len(lines) == 1 and "v3_sc" in lines[0]
