"""Steps a second with two Habitat processes over the best of one, in one run.

    python benchmarks/habitat_workers.py DATASET.pickle SCENES [ROBOT] [--steps 150] [--repeats 5] [--environment-light]

Valid actions, natural resets, pictures. Both are tried with one and with two drawing threads a process; the four take
turns, `steps` vector steps at a time. Printed: steps a second of each, medians, and the ratio of the best ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

from llarp.bench import ChangingActions
from llarp.config import load
from llarp.train import build_env

SETTINGS = {"one process, one thread": (1, 1), "one process, two threads": (1, 2),
            "two processes, one thread": (2, 1), "two processes, two threads": (2, 2)}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset"), parser.add_argument("scenes"), parser.add_argument("robot", nargs="?", default="")
    parser.add_argument("--steps", type=int, default=150), parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--environment-light", action="store_true")
    given = parser.parse_args()
    envs, actions = {}, {}
    for name, (worlds, threads) in SETTINGS.items():
        config = load("default", (
            "backend=habitat", f"env.dataset={given.dataset}", f"env.scenes={given.scenes}",
            f"env.robot={given.robot}", f"env.image_size={given.size}", f"env.num_envs={worlds}",
            f"env.render_threads={threads}", f"env.environment_light={given.environment_light}", "device=cpu",
        ))  # fmt: skip
        envs[name], actions[name] = build_env(config), ChangingActions(worlds, "cpu", 1)
        envs[name].reset()
    rates: dict[str, list[float]] = {name: [] for name in SETTINGS}
    for repeat in range(given.repeats + 1):  # the first loads object models and is not counted
        for name, env in envs.items():
            begun = time.perf_counter()
            for _ in range(given.steps):
                env.step(actions[name].draw(env.valid_actions()))
            if repeat:
                rates[name].append(env.num_envs * given.steps / (time.perf_counter() - begun))
    for env in envs.values():
        env.close()
    medians = {name: statistics.median(values) for name, values in rates.items()}
    one, two = (max(v for name, v in medians.items() if name.startswith(many)) for many in ("one", "two"))
    print(json.dumps({
        "steps_per_s": {name: round(value, 1) for name, value in medians.items()}, "two_over_one": round(two / one, 3),
        "environment_light": given.environment_light, "image_size": given.size, "steps": given.steps,
        "repeats": given.repeats,
    }))  # fmt: skip



if __name__ == "__main__":
    main()
