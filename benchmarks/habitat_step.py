"""What a Habitat step and a reset cost over bare drawing: one process, 224x224, valid actions, interleaved.

    python benchmarks/habitat_step.py DATASET.pickle SCENES [ROBOT] [--steps 2000] [--repeats 5] [--threads 1]
        [--environment-light]

Every step (`habitat.Env.step`: skill, reading back, judging, picture) is followed by drawing the same picture of the
same scene, robot and objects alone. Printed: milliseconds and their ratio in every repeat, and the medians; resets
within a scene (`habitat.Env.reset`, its picture included) likewise, without the first ones, which load object models.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import statistics
import sys
import time
from typing import Any

import torch
from words import count, one_line

from llarp.config import load
from llarp.errors import UserError
from llarp.habitat import check_installed
from llarp.habitat.assets import find_assets
from llarp.habitat.episodes import Episodes
from llarp.habitat.worker import skip_environment_map
from llarp.habitat.worlds import lab_config, lab_overrides
from llarp.tasks import semantics
from llarp.tasks.task import TaskConfig


@one_line
def main(words: list[str]) -> int:
    """Measures and prints; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset"), parser.add_argument("scenes"), parser.add_argument("robot", nargs="?", default="")
    parser.add_argument("--steps", type=count, default=2000), parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--environment-light", action="store_true")
    parser.add_argument("--threads", type=count, default=1, help="of Mesa's, to draw with")
    given = parser.parse_args(words)
    check_installed()
    for path in filter(None, (given.dataset, given.scenes, given.robot)):
        if not os.path.exists(path):
            raise UserError(f"{path}: no such file or folder")
    # The working folder changes below.
    dataset, scenes_folder, robot = (p and os.path.abspath(p) for p in (given.dataset, given.scenes, given.robot))
    os.environ |= {"LP_NUM_THREADS": str(given.threads), "MAGNUM_LOG": "quiet", "HABITAT_SIM_LOG": "quiet"}
    if not given.environment_light:
        skip_environment_map()
    from llarp.habitat import plugin

    torch.set_num_threads(1)
    torch.manual_seed(0)
    env_config = load("default", (
        "backend=habitat", f"env.dataset={dataset}", f"env.scenes={scenes_folder}", f"env.robot={robot}",
        "env.image_size=224", "env.num_envs=1",
    )).env  # fmt: skip
    source, assets = Episodes.load(env_config, 1), find_assets(env_config)
    scenes = [source.scene(row) for row in range(len(source))]
    rows = [row for row, scene in enumerate(scenes) if scene == scenes[0]]  # one scene
    config = plugin.get_config(lab_config(), tuple(lab_overrides(env_config, assets)))

    def episode(row: int) -> Any:
        return plugin.habitat_episode(functools.partial(source.beginning, row, 1), source.labels(row), assets.dataset)

    env = plugin.open_env(config, source.settings(TaskConfig()), episode(rows[0]))
    order = itertools.cycle(rows)

    def reset() -> float:
        env.current_episode = episode(next(order))
        begun = time.perf_counter()
        env.reset()
        return 1000 * (time.perf_counter() - begun)

    for _ in range(2 * len(rows)):  # loads every object model
        reset()
    resets: list[float] = []
    results = []
    for _ in range(given.repeats):
        step_s = draw_s = 0.0
        for _ in range(given.steps):
            if env.episode_over:
                resets.append(reset())
            valid = semantics.valid_actions(env.task.state, source.settings(TaskConfig()).rules)
            action = int(torch.multinomial(valid.float(), 1))
            begun = time.perf_counter()
            env.step({"action": "household_skill", "action_args": {"skill": action}})
            between = time.perf_counter()
            env.sim.draw(plugin.HEAD)
            draw_s += time.perf_counter() - between
            step_s += between - begun
        results.append((1000 * step_s / given.steps, 1000 * draw_s / given.steps, step_s / draw_s))
        step_ms, draw_ms, ratio = results[-1]
        print(f"step {step_ms:.2f} ms, bare drawing {draw_ms:.2f} ms, ratio {ratio:.3f}", flush=True)
    medians = [statistics.median(column) for column in zip(*results, strict=True)]
    print(json.dumps({
        "step_ms": round(medians[0], 2), "draw_ms": round(medians[1], 2), "step_over_draw": round(medians[2], 3),
        "reset_ms": round(statistics.median(resets), 2), "resets": len(resets), "steps": given.steps,
        "repeats": given.repeats, "threads": given.threads, "scene": scenes[0],
        "environment_light": given.environment_light,
        "notes": list(assets.notes),
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
