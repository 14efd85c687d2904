"""Language Rearrangement as a Habitat-Lab task: dataset, simulator, skills, instruction sensor and measures.

The only module that imports habitat and habitat_sim. Importing it registers everything with Habitat-Lab and puts
`habitat_configs/habitat_lab` on Hydra's search path. The state is Habitat-Sim's: after every skill robot, joints,
objects and grasp are read back, and `llarp.tasks` judges what was read.
"""

from __future__ import annotations

import ctypes.util
import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import attr
import gym.spaces
import habitat
import magnum as mn
import numpy as np
import torch
from habitat.articulated_agents.robots.fetch_suction import FetchSuctionRobot
from habitat.config.default import get_agent_config
from habitat.config.default_structured_configs import DatasetConfig, TaskConfig, register_hydra_plugin
from habitat.config.read_write import read_write
from habitat.core.dataset import Dataset, Episode
from habitat.core.embodied_task import EmbodiedTask, Measure, SimulatorTaskAction
from habitat.core.registry import registry
from habitat.core.simulator import Observations, Sensor, SensorTypes
from habitat.datasets.rearrange.navmesh_utils import get_largest_island_index
from habitat.sims.habitat_simulator.habitat_simulator import HabitatSim
from habitat.tasks.rearrange.rearrange_grasp_manager import RearrangeGraspManager
from habitat_sim import SensorType
from habitat_sim.gfx import DEFAULT_LIGHTING_KEY, NO_LIGHT_KEY
from habitat_sim.physics import MotionType
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from numpy.typing import NDArray
from omegaconf import DictConfig

from llarp.errors import UserError
from llarp.sim.assets import BACKGROUND_RGBA
from llarp.tasks import atoms, semantics
from llarp.tasks import task as rearrangement
from llarp.tasks.actions import NUM_ACTIONS, OPEN_FRIDGE, PICK_BASE, PLACE_BASE
from llarp.tasks.keyed_random import uniform
from llarp.tasks.rules import target_xy
from llarp.tasks.state import MAX_OBJECTS, WorldState

from .frames import Arrays, arrays, changed_objects, habitats, ours, turn
from .messages import Beginning, EpisodeLabels, TaskSettings, Told

HEAD, OUTSIDE, SEGMENTS = "head_rgb", "third_rgb", "head_semantic"
"""Sensors by their names."""
HANDLE_LINKS = (("kitchen_counter", "drawer1_top"), ("kitchen_counter", "drawer2_top"), ("kitchen_counter", "drawer3"),
                ("kitchen_counter", "drawer4"), ("fridge", "top_door"))  # fmt: skip
"""By handle: articulated object and link."""
_GL = ctypes.CDLL(_library) if (_library := ctypes.util.find_library("GL")) else None
_ATTIC = mn.Vector3(0.0, -100.0, 0.0)  # where object models wait that no slot shows
_MAX_WAITING = 64
_FIRST_ID = 1000  # segment of slot 0; ReplicaCAD gives its furniture numbers up to 98


# -- simulator --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Joint:
    """Where a handle's joint is found."""

    thing: Any  # articulated object
    index: int  # into its joint_positions


@registry.register_simulator(name="LanguageRearrangementSim-v0")
class LanguageRearrangementSim(HabitatSim):
    """Habitat-Sim with a Fetch, the objects of an episode and the joints of a room, all moved kinematically.

    `write(state)` brings about what a one-world `WorldState` says, `read(state)` says what is. Within a scene nothing
    is loaded anew: object models are kept and put where they belong."""

    robot: FetchSuctionRobot
    grasp: RearrangeGraspManager
    beginning: Beginning  # of the episode that `reconfigure` was called for last
    joints: list[_Joint]  # by handle

    def create_sim_config(self, _sensor_suite: Any) -> Any:
        """Habitat-Lab's, with the embedded simulator's background above the walls."""
        made = super().create_sim_config(_sensor_suite)
        for sensor in made.agents[0].sensor_specifications:
            if sensor.sensor_type == SensorType.COLOR:
                sensor.clear_color = mn.Color4(*BACKGROUND_RGBA)
        return made

    def __init__(self, config: DictConfig) -> None:
        super().__init__(config)
        self._drawn = {name: s for name, s in self._sensor_suite.sensors.items() if name != OUTSIDE}
        self._scene = ""  # the episode's scene that is set up
        self._models = [""] * MAX_OBJECTS  # by slot
        self.slots: list[Any] = [None] * MAX_OBJECTS  # rigid object by slot
        self._present: dict[int, Any] = {}  # the slots with an object
        self._waiting: list[tuple[str, Any]] = []  # rigid objects that no slot shows, with their models
        self._now: Arrays = {}  # what was last written or read
        self._seen: tuple[Any, ...] | None = None  # what was last read, as Habitat-Sim has it
        self._nav: dict[str, tuple[NDArray, NDArray]] = {}  # nav poses by scene
        self._templates: dict[str, str] = {}  # handles by model
        self._level: set[str] = set()  # models that are drawn upright

    def reconfigure(
        self, habitat_config: DictConfig, ep_info: Any = None, should_close_on_new_scene: bool = False
    ) -> None:
        """Get scene, robot and objects of an episode (a `LanguageRearrangementEpisode`) ready."""
        begin = self.beginning = ep_info.begin()
        if begin.labels.scene != self._scene:
            if self._scene:
                self.grasp.desnap(True)
                for name in list(self.sensors):  # Habitat-Sim makes new ones and would keep these: 2 MB a scene
                    self.remove_sensor(name)
            self._models, self.slots, self._waiting = [""] * MAX_OBJECTS, [None] * MAX_OBJECTS, []
            super().reconfigure(habitat_config, ep_info, should_close_on_new_scene=False)
            self._settle(begin)
        elif self.grasp.is_grasped:
            self.grasp.desnap(True)
        self._fill_slots(begin.models)
        self._now, self._seen = {}, None

    def reset(self) -> Observations:  # type: ignore[override]
        """The pictures: `reconfigure` and `write` have done the work."""
        return self.observe()

    def step(self, action: Any) -> Observations:  # type: ignore[override]
        """The pictures: skills have done the work."""
        return self.observe()

    def step_physics(self, dt: float, scene_id: int = 0) -> None:
        """Nothing moves by itself."""

    def observe(self) -> Observations:
        """What all sensors see, but that outside, which only `draw` gives."""
        self.start_drawing()
        return self.finish_drawing()

    def start_drawing(self) -> None:
        """Let the driver begin on what `finish_drawing` will give; there is time for other things meanwhile."""
        for name in self._drawn:
            self.sensors[name].draw_observation()
        if _GL is not None:
            _GL.glFlush()

    def finish_drawing(self) -> Observations:
        """What the sensors saw when `start_drawing` was called."""
        seen = {name: self.sensors[name].get_observation() for name in self._drawn}
        return Observations(self._drawn, seen)

    def draw(self, name: str) -> NDArray:
        """What one sensor sees."""
        sensor = self.sensors[name]
        sensor.draw_observation()
        return sensor.get_observation()

    # -- state --------------------------------------------------------------------------------------------------------

    def write(self, state: WorldState) -> None:
        """Put robot, joints, objects and grasp where a one-world state has them; what has not changed is left alone."""
        new, old = arrays(state), self._now
        self._now = new
        moved = not old or bool((new["robot"] != old["robot"]).any() or new["robot_height"] != old["robot_height"])
        if moved:
            x, y, yaw = new["robot"].tolist()
            self._stand(x, y, yaw, float(new["robot_height"]))
        for i, joint in enumerate(self.joints):
            if not old or new["joint"][i] != old["joint"][i]:
                positions = joint.thing.joint_positions
                positions[joint.index] = float(new["joint"][i])
                joint.thing.joint_positions = positions
        held, held_before = int(new["held"]), int(old["held"]) if old else -1
        if held != held_before and held_before >= 0:
            self.grasp.desnap(True)
        for slot in changed_objects(new, old):
            if slot != held and self.slots[slot] is not None:
                self._put(slot, new)
        if held >= 0 and (moved or held != held_before):
            if held != held_before:
                self.grasp.snap_to_obj(self.slots[held].object_id)
            self.grasp.update_object_to_grasp()
            self.slots[held].rotation = _quaternion(float(new["robot"][2]), None)

    def read(self, state: WorldState) -> set[str]:
        """Put into a one-world state what Habitat-Sim has: robot, joints, where objects are, what is held.

        Returns what is otherwise than when it was last read (Magnum's `==`: by more than some 1e-5), of "robot",
        "joints" (or what is held) and "objects"."""
        body, now = self.robot.sim_obj, self._now
        at, turn = body.translation, body.rotation
        joints = [joint.thing.joint_positions[joint.index] for joint in self.joints]
        places = [thing.translation for thing in self._present.values()]
        seen = ((at, turn), (joints, self.grasp.snap_idx), places)
        before, self._seen = self._seen, seen
        parts = ("robot", "joints", "objects")
        changed = {name for i, name in enumerate(parts) if before is None or seen[i] != before[i]}
        if "robot" in changed:
            state.robot.numpy()[0] = at[0], -at[2], _yaw(turn)
            state.robot_height.numpy()[0] = at[1]
            now["robot"], now["robot_height"] = state.robot.numpy()[0].copy(), state.robot_height.numpy()[0].copy()
        if "joints" in changed:
            grasped = self.grasp.snap_idx
            holds = (slot for slot, thing in self._present.items() if thing.object_id == grasped)
            state.joint.numpy()[0], state.held.numpy()[0] = joints, -1 if grasped is None else next(holds, -1)
            now["joint"], now["held"] = state.joint.numpy()[0].copy(), state.held.numpy()[0].copy()
        if places and "objects" in changed:
            state.object_position.numpy()[0, list(self._present)] = ours(np.array(places, np.float32))
            now["object_position"] = state.object_position.numpy()[0].copy()
        return changed

    def nav_poses(self, begin: Beginning) -> tuple[NDArray, NDArray]:
        """Where nav leads: (16, 3) x, y, yaw and heights (16,) in our frame, by the scene's navmesh.

        The nearest point of the largest indoor island, turned towards the target; without a navmesh the scene's own
        poses, as the built-in apartments have them."""
        if begin.labels.scene not in self._nav:
            poses, heights = begin.state.nav_pose.numpy()[0].copy(), begin.state.nav_height.numpy()[0].copy()
            if begin.navmesh is not None:
                self._snap(begin.state, poses, heights)
            self._nav[begin.labels.scene] = poses, heights
        return self._nav[begin.labels.scene]

    def visible_pixels(self) -> NDArray[np.int64]:
        """Pixels that each slot's object covers in the head camera's picture, (56,)."""
        return np.bincount(self.seen_slots().ravel() + 1, minlength=MAX_OBJECTS + 2)[1:-1]

    def seen_slots(self) -> NDArray[np.int64]:
        """As `llarp.sim.renderer.BatchRenderer.seen_slots`, of one picture (H, W)."""
        slots = self.draw(SEGMENTS).astype(np.int64) - _FIRST_ID
        return np.where((slots >= 0) & (slots <= MAX_OBJECTS), slots, -1)

    # -- inside -------------------------------------------------------------------------------------------------------

    def _settle(self, begin: Beginning) -> None:
        """Find things in a scene that has just been loaded, and bring in the robot."""
        self._scene = begin.labels.scene
        if begin.navmesh is not None and not self.pathfinder.load_nav_mesh(str(begin.navmesh)):
            raise UserError(f"{begin.navmesh}: no navmesh that this version of Habitat-Sim can read")
        manager = self.get_articulated_object_manager()
        found = {handle.rsplit("_:", 1)[0]: manager.get_object_by_handle(handle)
                 for handle in sorted(manager.get_object_handles(), reverse=True)}  # fmt: skip
        self.joints = [_joint(found, name, link, begin.labels.scene) for name, link in HANDLE_LINKS]
        self._light = DEFAULT_LIGHTING_KEY if self.get_current_light_setup() else NO_LIGHT_KEY
        try:
            self._bring_in_robot()
        except (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError) as error:
            why = f"{type(error).__name__}: {error}".splitlines()[0]
            raise UserError(f"{self.robot.urdf_path}: Habitat-Lab cannot make its Fetch of this ({why}); name another "
                            "robot=, or leave it out for the stand-in") from error  # fmt: skip
        if not self._templates:
            manager = self.get_object_template_manager()
            self._templates = {Path(h).name.split(".object_config.json")[0]: h for h in manager.get_template_handles()}

    def _bring_in_robot(self) -> None:
        self.robot = FetchSuctionRobot(get_agent_config(self.habitat_config), self)
        self.robot.sim_obj = self.get_articulated_object_manager().add_articulated_object_from_urdf(
            self.robot.urdf_path, fixed_base=True, light_setup_key=self._light
        )
        self.robot.reconfigure()
        self.robot.sim_obj.motion_type = MotionType.KINEMATIC
        self.robot.reset()
        self._default_agent.scene_node.transformation = self.robot.sim_obj.transformation
        self.robot.update()  # cameras hang on the agent, where they stay: `_stand` moves that with the robot
        for link in (-1, *self.robot.sim_obj.get_link_ids()):
            for node in self.robot.sim_obj.get_link_visual_nodes(link):
                node.semantic_id = _FIRST_ID + MAX_OBJECTS
        self.grasp = RearrangeGraspManager(self, self.habitat_config, self.robot)
        self.grasp.reset()

    def _stand(self, x: float, y: float, yaw: float, height: float) -> None:
        """Put the robot, and the agent with its cameras, at a place of our frame."""
        place = mn.Matrix4.from_(_quaternion(yaw, None).to_matrix(), mn.Vector3(*habitats(x, y, height)))
        self.robot.sim_obj.transformation = place
        self._default_agent.scene_node.transformation = place

    def _fill_slots(self, models: tuple[str, ...]) -> None:
        """Let every slot show its model, by the rigid objects at hand where there is one."""
        for slot, model in enumerate(models):
            if self._models[slot] and self._models[slot] != model:
                self._waiting.append((self._models[slot], self.slots[slot]))
                self.slots[slot], self._models[slot] = None, ""
        for slot, model in enumerate(models):
            if model and self.slots[slot] is None:
                spare = next((i for i, (kind, _) in enumerate(self._waiting) if kind == model), None)
                self.slots[slot] = self._add(model) if spare is None else self._waiting.pop(spare)[1]
                self._models[slot] = model
                for node in self.slots[slot].visual_scene_nodes:
                    node.semantic_id = _FIRST_ID + slot
        while len(self._waiting) > _MAX_WAITING:
            self.get_rigid_object_manager().remove_object_by_handle(self._waiting.pop(0)[1].handle)
        for _, thing in self._waiting:
            thing.translation = _ATTIC
        self._present = {slot: thing for slot, thing in enumerate(self.slots) if thing is not None}

    def _add(self, model: str) -> Any:
        if model not in self._templates:
            raise UserError(f"no object model {model!r} is known to Habitat-Sim: is the dataset complete? "
                            "(llarp assets check)")  # fmt: skip
        thing = self.get_rigid_object_manager().add_object_by_template_handle(
            self._templates[model], light_setup_key=self._light
        )
        if thing is None or not thing.is_alive:
            raise UserError(f"{self._templates[model]}: Habitat-Sim cannot load this object (llarp assets check)")
        thing.motion_type = MotionType.KINEMATIC
        if thing.user_attributes.has_value("level") and thing.user_attributes.get("level"):
            self._level.add(model)
        return thing

    def _put(self, slot: int, new: Arrays) -> None:
        thing, tilt = self.slots[slot], new.get("object_tilt")
        thing.translation = mn.Vector3(*habitats(*new["object_position"][slot].tolist()))
        tilted = tilt is not None and self._models[slot] not in self._level
        thing.rotation = _quaternion(float(new["object_yaw"][slot]), tilt[slot] if tilted else None)  # type: ignore[index]

    def _snap(self, state: WorldState, poses: NDArray, heights: NDArray) -> None:
        """Fill in the nav poses of the navmesh at hand; one that finds no point nearby keeps what it has."""
        island = get_largest_island_index(self.pathfinder, self, allow_outdoor=False)
        height = torch.cat([state.handle_position[0, :, 2], state.receptacle_center[0, :, 2]]).numpy()
        for i, (x, y) in enumerate(target_xy(state, "published")[0].tolist()):
            target = np.array(habitats(x, y, float(height[i])), np.float32)
            at = np.array(self.pathfinder.snap_point(target, island))
            if np.isfinite(at).all():
                away = target - at
                poses[i] = at[0], -at[2], math.atan2(-away[2], away[0])
                heights[i] = at[1]


def _joint(found: dict[str, Any], name: str, link: str, scene: str) -> _Joint:
    """The joint of a link of an articulated object in the scene."""
    thing = found.get(name)
    links = {thing.get_link_name(i): i for i in thing.get_link_ids()} if thing is not None else {}
    if thing is None or link not in links:
        raise UserError(f"scene {scene} has no {name} with a {link}, so it is none of the benchmark's")
    return _Joint(thing, thing.get_link_joint_pos_offset(links[link]))


def _yaw(turn: mn.Quaternion) -> float:
    """The angle, -pi to pi, of a turn about the upright axis."""
    sin, cos = turn.vector[1], turn.scalar  # of half of it
    return math.atan2(2 * sin * cos, cos * cos - sin * sin)


def _quaternion(yaw: float, tilt: NDArray | None) -> mn.Quaternion:
    vector, scalar = turn(yaw, tilt)
    return mn.Quaternion(mn.Vector3(*vector), scalar)


# -- episodes ---------------------------------------------------------------------------------------------------------


@attr.s(auto_attribs=True, kw_only=True)
class LanguageRearrangementEpisode(Episode):
    """An episode as Habitat-Lab passes it around; `begin` makes what the simulator and the task need of it."""

    instruction: str = ""
    begin: Callable[[], Beginning] = attr.ib(default=None, repr=False)


def habitat_episode(
    begin: Callable[[], Beginning], labels: EpisodeLabels, dataset: Path
) -> LanguageRearrangementEpisode:
    """A Habitat-Lab episode; `begin` is called when it is played."""
    values: dict[str, Any] = {
        "episode_id": labels.episode_id,
        "scene_id": labels.scene,
        "scene_dataset_config": str(dataset),
        "start_position": [0.0, 0.0, 0.0],
        "start_rotation": [0.0, 0.0, 0.0, 1.0],
    }
    return LanguageRearrangementEpisode(**values, instruction=labels.instruction, begin=begin)


@registry.register_dataset(name="LanguageRearrangement-v0")
class LanguageRearrangementDataset(Dataset):
    """The episodes of a published file, of one of our files, or built-in ones: `data_path`, `scenes_dir`, `split`."""

    settings: TaskSettings

    def __init__(self, config: DictConfig | None = None) -> None:
        self.config = config
        self.episodes = []
        if config is None:  # `open_env` fills it
            return
        from .assets import find_assets  # imports the embedded simulator, which worker processes do without
        from .episodes import Episodes, env_config

        env = env_config(config)
        source, assets = Episodes.load(env, config.seed), find_assets(env)
        self.settings = source.settings(rearrangement.TaskConfig())
        for row in range(len(source)):
            begin = functools.partial(source.beginning, row, config.seed)
            self.episodes.append(habitat_episode(begin, source.labels(row), assets.dataset))


# -- task -------------------------------------------------------------------------------------------------------------


@registry.register_task(name="LanguageRearrangementTask-v0")
class LanguageRearrangementTask(EmbodiedTask):
    """70 skills, judged by `llarp.tasks`; ends on success or after the last step.

    After `reset` and every step `state` is what Habitat-Sim has, `result` what the step gave, `invalid` whether its
    precondition failed."""

    settings: TaskSettings

    def __init__(self, config: DictConfig, sim: LanguageRearrangementSim, dataset: Any) -> None:
        self.settings = dataset.settings
        self.tracker = rearrangement.TaskTracker(1, self.settings.task)
        self.invalid = False
        self._before: tuple[torch.Tensor, torch.Tensor] | None = None  # facts that a skill read, and what they were
        self._known: tuple[torch.Tensor, torch.Tensor]  # what is true and possible in `state`
        self._lying: tuple[torch.Tensor, torch.Tensor]  # where objects lie in `state`
        super().__init__(config=config, sim=sim, dataset=dataset)

    def overwrite_sim_config(self, config: DictConfig, episode: Episode) -> DictConfig:
        if config.simulator.scene != episode.scene_id:
            with read_write(config):
                config.simulator.scene = episode.scene_id
                config.simulator.scene_dataset = episode.scene_dataset_config
        return config

    def reset(self, episode: LanguageRearrangementEpisode) -> Observations:
        self._set_up()
        self._sim.start_drawing()
        self._count_anew()
        self._is_episode_active = True
        return self._sense(self._sim.finish_drawing(), episode)

    def begin(self) -> None:
        """Start the episode that the simulator was made ready for, without looking at it."""
        self._set_up()
        self._count_anew()

    @torch.inference_mode()
    def _set_up(self) -> None:
        """Put everything where the episode begins."""
        begin = self.beginning = self._sim.beginning
        self.state, self.key = begin.state, torch.tensor([begin.key])
        poses, heights = self._sim.nav_poses(begin)
        self.state.nav_pose.numpy()[0], self.state.nav_height.numpy()[0] = poses, heights
        self._sim.write(self.state)

    @torch.inference_mode()
    def _count_anew(self) -> None:
        """Nothing has been reached yet but what is true already."""
        self._sim.read(self.state)
        self.tracker.reset(torch.zeros(1, dtype=torch.int64), self.beginning.circuits, self._know({"objects"}))
        self.invalid = False
        none = torch.zeros(1, dtype=torch.bool)
        progress = self.tracker.progress
        self.result = rearrangement.StepResult(
            torch.zeros_like(progress), none, none, none, progress, self.tracker.reached.sum(1)
        )

    @property
    def possible(self) -> torch.Tensor:
        """Skills whose precondition holds in `state`, bool (1, 70)."""
        return self._known[1]

    def truth(self) -> torch.Tensor:
        """The truth of every atom (1, NUM_ATOMS), by what was last read from Habitat-Sim."""
        return atoms.truth(self.state, self.settings.rules)

    def step(self, action: Any, episode: LanguageRearrangementEpisode) -> Observations:
        """`action`: {"action": skill} or {"action": "household_skill", "action_args": {"skill": skill}}."""
        chosen = action["action"]
        skill = action["action_args"]["skill"] if isinstance(chosen, str) else chosen
        self.actions["household_skill"].step(task=self, skill=int(skill))
        self._sim.start_drawing()
        self.judge()
        self._is_episode_active = not bool(self.result.terminated | self.result.truncated)
        return self._sense(self._sim.finish_drawing(), episode)

    @torch.inference_mode()
    def act(self, skill: int, told: Told | None = None) -> None:
        """Use a skill: bring about in Habitat-Sim what it does. `judge` then reads what is, and counts the step."""
        state, rules, sim = self.state, self.settings.rules, self._sim
        if changed := sim.read(state):  # somebody has moved something
            self._know(changed)
        facts, possible = self._known
        action = torch.tensor([skill])
        read = semantics.read_atoms(state, action, rules) if skill >= PICK_BASE else None
        self._before = None if read is None else (read, facts)
        if PLACE_BASE <= skill < OPEN_FRIDGE:
            seed, count = self.beginning.seed, (semantics.NUM_DRAWS,)
            draws = uniform(seed, self.key, self.tracker.steps, semantics.PLACE_STREAM, count)
        else:
            draws = torch.zeros(1, semantics.NUM_DRAWS)
        held = int(state.held)
        self.invalid = bool(semantics.apply(state, action, draws, self.settings.half_size, rules, possible))
        if told is not None:
            self._tell(told, held)
        sim.write(state)

    @torch.inference_mode()
    def judge(self) -> None:
        """Reward, progress and end of the step just made. Facts that published rules keep are those from before it."""
        changed = self._sim.read(self.state)
        facts = self._know(changed) if changed or not self.invalid else self._known[0]
        if self._before is not None:
            facts = torch.where(self._before[0], self._before[1], facts)
        self.result = self.tracker.update(facts, torch.tensor([self.invalid]))

    def _know(self, changed: set[str]) -> torch.Tensor:
        """Work out what is true and which skills are possible now, for the next step too; what is true, (1, ATOMS).

        Where objects lie is worked out again only if more than the robot has `changed`."""
        if changed - {"robot"}:
            self._lying = atoms.lying(self.state, self.settings.rules)
        facts = atoms.truth(self.state, self.settings.rules, self._lying)
        self._known = facts, semantics.valid_actions(self.state, self.settings.rules, facts)
        return facts

    def _tell(self, told: Told, held: int) -> None:
        """What a replay fixes: where the robot is, and where what it held has come to lie."""
        state = self.state
        if told.pose is not None:
            x, y, yaw, height = told.pose
            state.robot.numpy()[0], state.robot_height.numpy()[0] = (x, y, yaw), height
            semantics.refresh(state)
        if told.placed is not None and held >= 0 and int(state.held) < 0:
            state.object_position.numpy()[0, held] = told.placed

    def _sense(self, seen: Observations, episode: Episode) -> Observations:
        """Add what the task's own sensors know."""
        seen.update(self.sensor_suite.get_observations(observations=seen, episode=episode, task=self))
        return seen

    def _check_episode_is_active(self, *args: Any, **kwargs: Any) -> bool:
        return self._is_episode_active


@registry.register_task_action
class HouseholdSkillAction(SimulatorTaskAction):
    """One of the 70 skills."""

    @property
    def action_space(self) -> gym.spaces.Discrete:
        return gym.spaces.Discrete(NUM_ACTIONS)

    def step(self, *args: Any, task: LanguageRearrangementTask, skill: int, **kwargs: Any) -> None:
        if not 0 <= skill < NUM_ACTIONS:
            raise ValueError(f"skill {skill} is none of the {NUM_ACTIONS}")
        task.act(skill)


class _Text(gym.spaces.Space):
    """Any text; the old gym of Habitat-Lab has no space for it."""

    def __init__(self) -> None:
        super().__init__(shape=(), dtype=np.str_)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def sample(self) -> str:
        return "bring me an apple"


@registry.register_sensor(name="LanguageRearrangementInstruction")
class InstructionSensor(Sensor):
    """What the robot is told: a text."""

    cls_uuid = "instruction"

    def __init__(self, config: DictConfig, **kwargs: Any) -> None:
        super().__init__(config=config)

    def _get_uuid(self, *args: Any, **kwargs: Any) -> str:
        return self.cls_uuid

    def _get_sensor_type(self, *args: Any, **kwargs: Any) -> SensorTypes:
        return SensorTypes.TEXT

    def _get_observation_space(self, *args: Any, **kwargs: Any) -> gym.spaces.Space:
        return _Text()

    def get_observation(self, *args: Any, episode: LanguageRearrangementEpisode, **kwargs: Any) -> str:
        return episode.instruction


class _TaskMeasure(Measure):
    """Something that the task knows after every step."""

    cls_uuid = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def _get_uuid(self, *args: Any, **kwargs: Any) -> str:
        return self.cls_uuid

    def reset_metric(self, *args: Any, task: LanguageRearrangementTask, **kwargs: Any) -> None:
        self.update_metric(task=task)

    def update_metric(self, *args: Any, task: LanguageRearrangementTask, **kwargs: Any) -> None:
        value = task.invalid if self.cls_uuid == "invalid_action" else getattr(task.result, self.cls_uuid)
        self._metric = float(value)


@registry.register_measure(name="LanguageRearrangementSuccess")
class Success(_TaskMeasure):
    """1 where the goal holds."""

    cls_uuid = "success"


@registry.register_measure(name="LanguageRearrangementProgress")
class Progress(_TaskMeasure):
    """Share of the subgoals reached so far."""

    cls_uuid = "progress"


@registry.register_measure(name="LanguageRearrangementReward")
class Reward(_TaskMeasure):
    """What the last step paid."""

    cls_uuid = "reward"


@registry.register_measure(name="LanguageRearrangementInvalidAction")
class InvalidAction(_TaskMeasure):
    """1 where the last skill's precondition failed."""

    cls_uuid = "invalid_action"


@registry.register_measure(name="LanguageRearrangementSubgoal")
class Subgoal(_TaskMeasure):
    """Number of subgoals reached so far."""

    cls_uuid = "subgoal"


# -- configuration ----------------------------------------------------------------------------------------------------


@dataclass
class LanguageRearrangementDatasetConfig(DatasetConfig):
    """Which episodes: see `llarp.envs.config.EnvConfig`."""

    type: str = "LanguageRearrangement-v0"
    objects: str = ""  # a folder with YCB's models; empty: stand-ins
    rules: str = ""  # clean or published; empty: published for published files
    num_episodes: int = 100  # of built-in ones
    seed: int = 1


class _SearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="llarp", path="pkg://llarp.habitat_configs.habitat_lab")


_store = ConfigStore.instance()
_store.store(
    group="habitat/dataset", name="language_rearrangement_schema", node=LanguageRearrangementDatasetConfig,
    package="habitat.dataset",
)  # fmt: skip
_store.store(
    group="habitat/task", name="language_rearrangement_schema", node=TaskConfig, package="habitat.task"
)
register_hydra_plugin(_SearchPath)


def get_config(path: str | Path, overrides: tuple[str, ...] = ()) -> DictConfig:
    """A Habitat-Lab configuration, composed from YAML."""
    return habitat.get_config(str(path), list(overrides))


def open_env(config: DictConfig, settings: TaskSettings, first: LanguageRearrangementEpisode) -> habitat.Env:
    """A `habitat.Env` that plays the episodes it is given one by one (`env.current_episode = ...; env.reset()`)."""
    dataset = LanguageRearrangementDataset()
    dataset.settings, dataset.episodes = settings, [first]
    return habitat.Env(config, dataset)


def probe(gpu: int) -> str:
    """Draw an empty scene on a device (-1: Mesa on the CPU), and say what did it."""
    import habitat_sim

    sensor = habitat_sim.CameraSensorSpec()
    sensor.uuid, sensor.resolution = HEAD, [32, 32]
    agent = habitat_sim.AgentConfiguration()
    agent.sensor_specifications = [sensor]
    simulator = habitat_sim.SimulatorConfiguration()
    simulator.scene_id, simulator.gpu_device_id = "NONE", gpu
    with habitat_sim.Simulator(habitat_sim.Configuration(simulator, [agent])) as sim:
        seen = sim.get_sensor_observations()[HEAD]
    device = "Mesa on the CPU" if gpu < 0 else f"GPU {gpu}"
    return f"Habitat-Sim {habitat_sim.__version__} draws {seen.shape[1]}x{seen.shape[0]} on {device}"
