"""What Habitat-Lab itself says of scenes: `python habitat_facts.py DATASET SCENES SCENE...` prints a JSON list.

By scene: boxes of receptacles and places of handles with all joints at 0, where nav leads, and which way a robot looks.
A process of its own, as simulators are never started in that of the tests.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import Any

import magnum as mn
import numpy as np
from habitat.datasets.rearrange.navmesh_utils import get_largest_island_index
from habitat.datasets.rearrange.samplers.receptacle import find_receptacles

from llarp.envs.config import EnvConfig
from llarp.habitat import plugin
from llarp.habitat.assets import find_assets
from llarp.habitat.episodes import Episodes
from llarp.habitat.worker import skip_environment_map
from llarp.habitat.worlds import lab_config, lab_overrides
from llarp.sim.replica_cad.geometry import HANDLE_MARKERS
from llarp.tasks.entities import RECEPTACLES
from llarp.tasks.task import TaskConfig

YAWS = (-3.0, -1.6, -0.01, 0.0, 0.4, 2.3, 3.14)


def facts(sim: Any) -> dict[str, Any]:
    """Of the scene that is loaded; all points in Habitat's frame."""
    for thing in sim.get_articulated_object_manager().get_objects_by_handle_substring("").values():
        if thing.handle.split("_:")[0] in ("kitchen_counter", "fridge"):
            thing.joint_positions = [0.0] * len(thing.joint_positions)
    boxes = {}
    for found in find_receptacles(sim):  # of several with one name the last counts
        frame = found.get_global_transform(sim)
        boxes[found.name] = [list(frame.transform_point(corner)) for corner in (found.bounds.min, found.bounds.max)]
    boxes = {r.published_name: boxes[r.published_name] for r in RECEPTACLES}
    handles = []
    for name, link, place in HANDLE_MARKERS:
        thing = sim.get_articulated_object_manager().get_object_by_handle(f"{name}_:0000")
        links = {thing.get_link_name(i): i for i in thing.get_link_ids()}
        frame = thing.get_link_scene_node(links[link]).absolute_transformation()
        handles.append(list(frame.transform_point(mn.Vector3(*place))))
    island = get_largest_island_index(sim.pathfinder, sim, allow_outdoor=False)
    targets = [*handles, *(np.mean(corners, axis=0) for corners in boxes.values())]
    nav = [list(sim.pathfinder.snap_point(np.array(target, np.float32), island)) for target in targets]
    return {"boxes": boxes, "handles": handles, "nav": nav, "looks": [looks(sim, yaw) for yaw in YAWS]}


def looks(sim: Any, yaw: float) -> tuple[float, float, float]:
    """A yaw, the one that the direction gives in which the robot's base then points, and the one that is read back."""
    state = sim.beginning.state
    state.robot[0, 2] = yaw
    sim.write(state)
    forward = sim.robot.base_transformation.transform_vector(mn.Vector3(1, 0, 0))
    sim.read(state)
    return yaw, math.atan2(-forward[2], forward[0]), float(state.robot[0, 2])


def main(dataset: str, scenes: str, names: list[str]) -> list[dict[str, Any]]:
    config = EnvConfig(backend="habitat", dataset=dataset, scenes=scenes)
    source, assets = Episodes.load(config, 1), find_assets(config)
    overrides = (*lab_overrides(config, assets), "habitat.simulator.habitat_sim_v0.gpu_device_id=-1")
    first = {source.scene(row): row for row in reversed(range(len(source)))}
    env, found = None, []
    for name in names:
        begin = source.beginning(first[name], 1)
        episode = plugin.habitat_episode(lambda b=begin: b, begin.labels, assets.dataset)
        if env is None:
            env = plugin.open_env(plugin.get_config(lab_config(), overrides), source.settings(TaskConfig()), episode)
        env.current_episode = episode
        env.reset()
        found.append(facts(env.sim) | {"scene": name})
    return found


if __name__ == "__main__":
    where = [os.path.abspath(word) for word in sys.argv[1:3]]
    skip_environment_map()
    print("FACTS" + json.dumps(main(*where, sys.argv[3:]), default=float))
    sys.stdout.flush()
    os._exit(0)
