"""Habitat-Sim loads what stands in for its downloads, and shows our apartments as the embedded simulator does."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from glb_files import write_json

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_episodes
from llarp.habitat import standins, worker
from llarp.habitat.apartments import DATASET
from llarp.habitat.glb_writer import to_habitat
from llarp.habitat.robot_standin import ARM_RAD, ROBOT
from llarp.sim.cameras import HEAD_CAMERA_POSITION, HEAD_CAMERA_TARGET
from llarp.sim.layouts import SLOTS
from llarp.sim.replica_cad.looks import HANDLE_LINKS
from llarp.sim.replica_cad.ycb import YCB
from llarp.sim.world import BatchWorld, load_assets
from llarp.tasks.entities import FRIDGE_HANDLE, JOINT_OPEN_TO
from llarp.tasks.state import GRIPPER_IN_BASE
from llarp.tasks.task import TaskConfig

pytestmark = pytest.mark.habitat

SIZE = 224


@pytest.fixture(scope="module")
def folder() -> Path:
    return standins.stand_ins()


@pytest.fixture(scope="module")
def world() -> BatchWorld:
    """An embedded world at the start of a built-in episode, with everything open."""
    config = EnvConfig(episodes=8)
    made = BatchWorld(load_assets(), load_episodes(config, 0), 1, TaskConfig(), image_size=SIZE, segmentation=True)
    made.state.joint[0] = torch.tensor(JOINT_OPEN_TO)
    return made


@pytest.fixture(scope="module")
def sim(folder: Path, world: BatchWorld) -> Iterator[Any]:
    """A simulator of the same apartment, closed."""
    before = Path.cwd()
    worker.skip_environment_map()
    scene = world.scenes.names[int(world.state.scene[0])]
    made = _simulator(str(folder / standins.APARTMENTS / DATASET), scene)
    yield made
    made.close()
    os.chdir(before)


def _simulator(dataset: str, scene: str) -> Any:
    import habitat_sim

    config = habitat_sim.SimulatorConfiguration()
    config.scene_dataset_config_file, config.scene_id, config.gpu_device_id = dataset, scene, -1
    config.enable_physics = True
    sensors = []
    for name, kind in (("color", habitat_sim.SensorType.COLOR), ("semantic", habitat_sim.SensorType.SEMANTIC)):
        sensor = habitat_sim.CameraSensorSpec()
        sensor.uuid, sensor.sensor_type, sensor.resolution, sensor.hfov = name, kind, [SIZE, SIZE], 90.0
        sensors.append(sensor)
    agent = habitat_sim.AgentConfiguration()
    agent.sensor_specifications = sensors
    return habitat_sim.Simulator(habitat_sim.Configuration(config, [agent]))


def _vector(point: Any) -> Any:
    import magnum

    return magnum.Vector3(*(float(v) for v in to_habitat(point)))


def _picture(sim: Any, eye: Any, target: Any) -> tuple[np.ndarray, np.ndarray]:
    """Colours (H, W, 3) and semantic ids (H, W) seen from a point of our frame."""
    import magnum

    at = magnum.Matrix4.look_at(_vector(eye), _vector(target), magnum.Vector3(0, 1, 0))
    seen = {}
    for name, sensor in sim._sensors.items():
        sensor._sensor_object.node.transformation = sim.get_agent(0).scene_node.transformation.inverted() @ at
        sensor.draw_observation()
        seen[name] = np.array(sensor.get_observation())
    return seen["color"][..., :3].astype(int), seen["semantic"].astype(int)


# -- the robot --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def robot(sim: Any, folder: Path) -> Any:
    from habitat.articulated_agents.robots.fetch_suction import FetchSuctionRobot

    urdf = str(folder / standins.ROBOTS / ROBOT)
    made = FetchSuctionRobot(SimpleNamespace(articulated_agent_urdf=urdf), sim)
    made.sim_obj = sim.get_articulated_object_manager().add_articulated_object_from_urdf(
        urdf, fixed_base=True, light_setup_key="no_lights"
    )
    made.reconfigure()
    made.reset()
    return made


def test_habitat_lab_finds_the_robots_joints_by_number(robot: Any) -> None:
    params, body = robot.params, robot.sim_obj
    names = {i: body.get_link_joint_name(i) for i in body.get_link_ids()}
    assert [names[i] for i in params.arm_joints] == [
        f"{joint}_joint" for joint in ("shoulder_pan", "shoulder_lift", "upperarm_roll", "elbow_flex", "forearm_roll",
                                       "wrist_flex", "wrist_roll")]  # fmt: skip
    assert [names[i] for i in params.wheel_joints] == ["l_wheel_joint", "r_wheel_joint"]
    jointed = (robot.back_joint_id, robot.head_rot_jid, robot.head_tilt_jid)
    assert [names[i] for i in jointed] == ["torso_lift_joint", "head_pan_joint", "head_tilt_joint"]
    assert [body.get_link_name(i) for i in params.ee_links] == ["l_gripper_finger_link"]
    assert params.base_link_names - {"base_link"} <= {body.get_link_name(i) for i in body.get_link_ids()}
    np.testing.assert_allclose(params.arm_init_params, ARM_RAD, atol=1e-6)


def test_the_robot_holds_things_where_ours_does(robot: Any) -> None:
    def grip() -> np.ndarray:
        return np.array(robot.base_transformation.inverted().transform_point(robot.ee_transform().translation))

    robot.reset()
    np.testing.assert_allclose(grip(), GRIPPER_IN_BASE, atol=1e-4)
    lifted = np.array(ARM_RAD)
    lifted[1] -= 0.4  # the shoulder
    robot.arm_joint_pos = lifted
    assert grip()[2] > GRIPPER_IN_BASE[2] + 0.1
    robot.reset()


# -- objects ----------------------------------------------------------------------------------------------------------


def test_every_ycb_stand_in_loads_in_its_size(sim: Any, folder: Path) -> None:
    templates, objects = sim.get_object_template_manager(), sim.get_rigid_object_manager()
    templates.load_configs(str(folder / standins.OBJECTS / "configs"))
    for name, model in YCB.items():
        thing = objects.add_object_by_template_handle(templates.get_template_handles(f"/{name}.object_config")[0])
        x, y, z = model.size
        box = thing.root_scene_node.cumulative_bb
        np.testing.assert_allclose(np.array(box.size()), (x, z, y), rtol=1e-3, err_msg=name)
        np.testing.assert_allclose(np.array(box.center()), 0, atol=1e-4, err_msg=name)
        assert thing.user_attributes.get("level") is True
        objects.remove_object_by_handle(thing.handle)


def test_single_configs_load_too(sim: Any, folder: Path) -> None:
    """As for the models that a folder of YCB's lacks (`find_assets`)."""
    templates = sim.get_object_template_manager()
    before = templates.get_num_templates()
    file = folder / standins.APARTMENTS / "configs/objects/apple_2.object_config.json"
    assert len(templates.load_configs(str(file))) == 1 and templates.get_num_templates() == before


# -- apartments -------------------------------------------------------------------------------------------------------


def test_doors_and_drawers_open_as_ours(sim: Any, world: BatchWorld) -> None:
    """Each handle's link goes where our slot does, and turns as it."""
    import magnum

    layouts, row = load_assets().layouts, int(world.state.scene[0])
    manager = sim.get_articulated_object_manager()
    for (name, link), handle in HANDLE_LINKS.items():
        thing = manager.get_object_by_handle(f"{name}_:0000")
        number = next(i for i in thing.get_link_ids() if thing.get_link_name(i) == link)
        slot = SLOTS.index("fridge_door" if handle == FRIDGE_HANDLE else f"drawer_{handle}")
        for value in (0.0, JOINT_OPEN_TO[handle]):
            joints = thing.joint_positions
            joints[thing.get_link_joint_pos_offset(number)] = value
            thing.joint_positions = joints
            found = thing.get_link_scene_node(number).absolute_transformation()
            where = layouts.position[row, slot] + layouts.slide[row, slot] * value
            np.testing.assert_allclose(np.array(found.translation), to_habitat(where), atol=1e-3)
            yaw = float(layouts.yaw[row, slot] + layouts.hinge[row, slot] * value)
            forward = found.transform_vector(magnum.Vector3(1, 0, 0))
            np.testing.assert_allclose(np.array(forward), to_habitat((np.cos(yaw), np.sin(yaw), 0)), atol=1e-3)


def test_both_simulators_show_the_same_objects(sim: Any, world: BatchWorld, robot: Any) -> None:
    """Wherever the robot goes, every object in view is seen in both, its centre within a pixel, its colours alike.

    All handles are open, see the test before.
    """
    import magnum
    from habitat_sim.physics import MotionType

    templates, objects = sim.get_object_template_manager(), sim.get_rigid_object_manager()
    state, names = world.state, world.catalog.names
    for slot in range(state.object_model.shape[1]):
        model = int(state.object_model[0, slot])
        if model < 0:
            continue
        handle = templates.get_template_handles(f"/{names[model]}.object_config")[0]
        thing = objects.add_object_by_template_handle(handle, light_setup_key="no_lights")
        thing.motion_type = MotionType.KINEMATIC
        thing.translation = _vector(state.object_position[0, slot].tolist())
        up = magnum.Vector3(0, 1, 0)
        thing.rotation = magnum.Quaternion.rotation(magnum.Rad(float(state.object_yaw[0, slot])), up)
        for node in thing.visual_scene_nodes:
            node.semantic_id = slot + 1
    compared = 0
    for target in range(0, state.nav_pose.shape[1], 3):
        x, y, yaw = pose = state.nav_pose[0, target].tolist()
        state.robot[0] = torch.tensor(pose)
        ours = world.render()[0].numpy().astype(int)
        slots = world.renderer.seen_slots()[0].numpy()
        robot.sim_obj.translation = _vector((x, y, 0.0))
        robot.sim_obj.rotation = magnum.Quaternion.rotation(magnum.Rad(yaw), up)
        places = [(x + ahead * np.cos(yaw), y + ahead * np.sin(yaw), high)
                  for ahead, _, high in (HEAD_CAMERA_POSITION, HEAD_CAMERA_TARGET)]  # fmt: skip
        theirs, semantic = _picture(sim, *places)
        for slot in set(np.unique(slots)) & set(range(state.object_model.shape[1])):
            here, there = slots == slot, semantic == slot + 1
            if here.sum() < 30:
                continue
            compared += 1
            assert there.sum() == pytest.approx(here.sum(), rel=0.1), (target, slot)
            assert np.linalg.norm(np.argwhere(here).mean(0) - np.argwhere(there).mean(0)) < 1, (target, slot)
            assert np.abs(ours[here].mean(0) - theirs[there].mean(0)).max() < 50, (target, slot)
        assert np.abs(ours - theirs).mean() < 20
    assert compared > 15


def test_a_plain_stage_is_a_room(folder: Path, sim: Any, tmp_path: Path) -> None:
    """Floor below, walls around, in a config such as ReplicaCAD's; last, as a process has one simulator at a time."""
    sim.close()
    stage = {"render_asset": str(folder / standins.STAGES / "Stage_v3_sc0_staging.glb"), "up": [0, 1, 0]}
    write_json(tmp_path / "configs/room.stage_config.json", stage | {"front": [0, 0, -1], "requires_lighting": True})
    write_json(tmp_path / "d.scene_dataset_config.json", {"stages": {"paths": {".json": ["configs"]}}})
    plain = _simulator(str(tmp_path / "d.scene_dataset_config.json"), "room")
    box = plain.get_active_scene_graph().get_root_node().cumulative_bb
    assert box.min[1] == pytest.approx(-0.1) and box.max[1] == pytest.approx(2.8)
    for spot in ((-2.4, -4.2), (4.4, 7.9)):  # as far as ReplicaCAD's layouts reach, x and z of Habitat
        assert box.min[0] < spot[0] < box.max[0] and box.min[2] < spot[1] < box.max[2]
    colours, _ = _picture(plain, (0, 0, 1.5), (1, 0, 1.3))
    assert (colours[SIZE // 2 :].sum(-1) > 0).all()  # below the horizon nothing is seen through
    plain.close()
