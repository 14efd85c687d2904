"""Steps a second of Habitat, with two processes over the best of one, and of the embedded simulator, in one run.

    python benchmarks/habitat_workers.py DATASET.pickle SCENES [ROBOT] [--steps 150] [--repeats 5] [--environment-light]

Valid actions, natural resets, pictures. Two processes step in lockstep (one vector environment), or as halves of a
double buffer (`env.double_buffer`): as in the trainer, whichever has ended its step first begins the next one, until
both have made `steps`. All are tried with one and with two drawing threads a process; the settings take turns, `steps`
vector steps at a time, and so does the embedded simulator with the same episodes, scenes and picture size, in 1 and in
16 worlds. Printed: steps a second of each, medians, the ratios of the best ones, and what this machine allows: two
programs of one Habitat world each that have nothing to do with one another, at the same time ("apart").
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

from words import count, one_line

from llarp.bench import ChangingActions
from llarp.config import load
from llarp.rl.collect import first_ready
from llarp.train import build_training_env

SETTINGS = {
    f"{kind}, {threads} thread{'s' * (threads > 1)}": (worlds, threads, double)
    for kind, worlds, double in (("one", 1, False), ("two", 2, False), ("two double-buffered", 2, True))
    for threads in (1, 2)
}

EMBEDDED = {f"embedded, {worlds} world{'s' * (worlds > 1)}": worlds for worlds in (1, 16)}


class Runner:
    """Steps all worlds of an environment, or of both its halves in turn."""

    def __init__(self, env: Any):
        self.env, self.parts = env, getattr(env, "halves", [env])
        self.actions = [ChangingActions(part.num_envs, "cpu", 1) for part in self.parts]
        for part in self.parts:
            part.reset()

    def run(self, steps: int) -> float:
        """Seconds that so many steps of every world took; none is left under way."""
        begun = time.perf_counter()
        left = [steps] * len(self.parts)
        working = list(range(len(self.parts)))
        for i in working:
            self._begin(i)
        while working:
            i = working.pop(first_ready([self.parts[i] for i in working]))
            self.parts[i].step_wait()
            left[i] -= 1
            if left[i]:
                self._begin(i)
                working.append(i)
        return time.perf_counter() - begun

    def _begin(self, i: int) -> None:
        part = self.parts[i]
        part.step_async(self.actions[i].draw(part.valid_actions()))


def make(given: argparse.Namespace, worlds: int, threads: int, double: bool) -> Runner:
    return _runner(
        given, worlds, f"env.robot={given.robot}", f"env.environment_light={given.environment_light}",
        f"env.render_threads={threads}", f"env.double_buffer={double}", backend="habitat",
    )  # fmt: skip


def _runner(given: argparse.Namespace, worlds: int, *words: str, backend: str) -> Runner:
    config = load("default", (
        f"backend={backend}", f"env.dataset={given.dataset}", f"env.scenes={given.scenes}",
        f"env.image_size={given.size}", f"env.num_envs={worlds}", "device=cpu", *words,
    ))  # fmt: skip
    return Runner(build_training_env(config))


def serve(given: argparse.Namespace, orders: Connection) -> None:
    """A program of one world: as many steps as asked for, again and again; 0 ends it."""
    runner = make(given, 1, 1, False)
    while steps := orders.recv():
        orders.send(runner.run(steps))
    runner.env.close()


class Apart:
    """Two such programs at the same time."""

    def __init__(self, given: argparse.Namespace):
        spawn = multiprocessing.get_context("spawn")
        pipes = [spawn.Pipe() for _ in range(2)]
        self.orders = [own for own, _ in pipes]
        self.programs = [spawn.Process(target=serve, args=(given, other)) for _, other in pipes]
        for program in self.programs:
            program.start()

    def rate(self, steps: int) -> float:
        """Their steps a second together."""
        for orders in self.orders:
            orders.send(steps)
        return sum(steps / orders.recv() for orders in self.orders)

    def close(self) -> None:
        for orders, program in zip(self.orders, self.programs, strict=True):
            orders.send(0)
            program.join()


@one_line
def main(words: list[str]) -> int:
    """Measures and prints; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset"), parser.add_argument("scenes"), parser.add_argument("robot", nargs="?", default="")
    parser.add_argument("--steps", type=count, default=150), parser.add_argument("--repeats", type=count, default=5)
    parser.add_argument("--size", type=count, default=224)
    parser.add_argument("--environment-light", action="store_true")
    given = parser.parse_args(words)
    runners = {name: make(given, *setting) for name, setting in SETTINGS.items()}
    runners |= {name: _runner(given, worlds, backend="mujoco") for name, worlds in EMBEDDED.items()}
    apart = Apart(given)
    rates: dict[str, list[float]] = {name: [] for name in (*runners, "apart")}
    for repeat in range(given.repeats + 1):  # the first loads object models and is not counted
        for name, runner in runners.items():
            seconds = runner.run(given.steps)
            if repeat:
                rates[name].append(runner.env.num_envs * given.steps / seconds)
        together = apart.rate(given.steps)
        if repeat:
            rates["apart"].append(together)
    apart.close()
    for runner in runners.values():
        runner.env.close()
    medians = {name: statistics.median(values) for name, values in rates.items()}

    def best(kind: str) -> float:
        return max(value for name, value in medians.items() if name.startswith(f"{kind},"))

    print(json.dumps({
        "steps_per_s": {name: round(value, 1) for name, value in medians.items()},
        "two_over_one": round(max(best("two"), best("two double-buffered")) / best("one"), 3),
        "lockstep_over_one": round(best("two") / best("one"), 3),
        "apart_over_one": round(medians["apart"] / best("one"), 3),
        "embedded_over_habitat": round(best("embedded") / max(medians[name] for name in SETTINGS), 3),
        "environment_light": given.environment_light, "image_size": given.size, "steps": given.steps,
        "repeats": given.repeats,
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
