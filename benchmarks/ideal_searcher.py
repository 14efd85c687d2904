"""How few steps does it take to find things here? A searcher that is told more than any policy can know.

    python benchmarks/ideal_searcher.py [episodes] [seed=1234] [out=FILE.json]

It is the explorer (goal as a formula, everything in the picture recognised, pixel-perfect) with an ideal order of
search: it knows of every apartment what is to be seen of each place from before each other one, measured in these very
episodes, and drives so that the expected number of drives is least (exact, over all orders; things are as likely on any
of the seven places). Each split is played twice, beginning with the places that the instruction names and without, and
the faster counts. Prints its steps as a multiple of the sweep's in the episodes that both solve (95 %: episodes drawn
anew); `out` is a result file as `llarp eval` writes it, for benchmarks/results_table.py.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llarp.config import load
from llarp.envs.episode_source import load_episodes
from llarp.evaluation.agents import PlannerAgent, open_worlds
from llarp.evaluation.compare import Played, steps_ratio
from llarp.evaluation.evaluate import EpisodeResults, evaluate_split
from llarp.runfolder import to_json, write_atomically
from llarp.tasks.actions import nav_to_receptacle
from llarp.tasks.entities import NUM_RECEPTACLES, TASK_RECEPTACLES
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.generator import SPLITS
from llarp.tasks.planners import Explorer, PlannerView
from llarp.tasks.planners_base import locate

LOOK_AGAIN = 4.0
"""Drives reckoned for what was not seen anywhere."""


class SearchOrder:
    """The best order of search in one apartment; `seen` (7, 7): share of what lies on place q that is seen from before
    place p."""

    def __init__(self, seen: np.ndarray):
        self.seen = seen
        self._best: dict[tuple[frozenset[int], int], tuple[float, int]] = {}

    def next(self, done: frozenset[int], target: int) -> tuple[float, int]:
        """Expected drives (not normalised) until what is wanted is seen from before it, and the place to begin with.

        `done`: where it has been in vain; `target`: where nobody looks, as things are wanted there (-1: nowhere)."""
        if (done, target) not in self._best:
            left = [q for q in TASK_RECEPTACLES if q != target]
            weight = {q: float(np.prod([1 - self.seen[p - 1, q - 1] for p in done])) for q in left}
            options = []
            for p in (q for q in left if q not in done):
                elsewhere = sum(weight[q] * self.seen[p - 1, q - 1] for q in left if q != p)
                options.append((sum(weight.values()) + elsewhere + self.next(done | {p}, target)[0], p))
            self._best[done, target] = min(options) if options else (LOOK_AGAIN * sum(weight.values()), -1)
        return self._best[done, target]


class Searcher(Explorer):
    """The explorer with the best order of search; `named`: after the places that the instruction names."""

    order: SearchOrder  # of the apartment it is in

    def __init__(self, named: bool):
        self.named = named

    def reset(self, view: PlannerView) -> None:
        super().reset(view)
        if not self.named:
            self._named: list[int] = []

    def _search(self, target: int | None) -> int:
        first = [r for r in self._named if r != target and r not in self._visited]
        unseen = [r for r in TASK_RECEPTACLES if r != target and r not in self._visited]
        if self._looked_in_vain or first or not unseen:
            return super()._search(target)
        done = frozenset(TASK_RECEPTACLES) & self._visited
        return self._drive(self.order.next(done, -1 if target is None else target)[1])


class SearcherAgent(PlannerAgent):
    """One searcher a world, each told of the apartment it is in."""

    def __init__(self, orders: list[SearchOrder], named: bool):
        super().__init__("explorer")
        self.orders, self.named = orders, named

    def start(self, env: Any) -> None:
        self.env = env
        self.planners = [Searcher(self.named) for _ in range(env.num_envs)]

    def act(self, observation: dict[str, Tensor], episode_start: Tensor) -> Tensor:
        for planner, scene in zip(self.planners, self.env.world.state.scene.tolist(), strict=True):
            planner.order = self.orders[scene]
        return super().act(observation, episode_start)


def look_around(config: Any, episodes: EpisodeSet, seen: np.ndarray, there: np.ndarray) -> None:
    """Count in `there` (L, 7) what lies on the places of these rooms, in `seen` (L, 7, 7) what is seen of it."""
    env = open_worlds(PlannerAgent("explorer"), episodes, 25, config.env, config.task, config.seed,
                      autoreset_mode="disabled", device="cpu")  # fmt: skip
    while True:
        env.reset()
        if not bool(env.active.any()):
            break
        worlds = [i for i, active in enumerate(env.active.tolist()) if active]
        scene, kinds = env.world.state.scene.tolist(), env.world.state.object_category.numpy()
        slots = {i: np.flatnonzero(kinds[i] >= 0) for i in worlds}
        views = env.planner_views()
        where = {i: np.array(list(locate(views[i], slots[i].tolist()).values())) for i in worlds}
        for i in worlds:
            there[scene[i]] += np.bincount(where[i][where[i] >= 0], minlength=NUM_RECEPTACLES)[1:8]
        for p in TASK_RECEPTACLES:
            env.step(torch.full((env.num_envs,), nav_to_receptacle(p)))
            visible = env.world.visible().numpy()
            for i in worlds:
                found = where[i][visible[i, slots[i]]]
                seen[scene[i], p - 1] += np.bincount(found[found >= 0], minlength=NUM_RECEPTACLES)[1:8]
    env.close()


def ratio(mine: dict[str, EpisodeResults], sweep: dict[str, EpisodeResults]) -> str:
    """Steps as a multiple of the sweep's where both succeed, with their interval."""
    same = {name: name for name in mine}  # both played the same sets
    one, other = (Played("", {n: r[n].success[None] for n in mine}, {n: r[n].steps[None] for n in mine}, same, {})
                  for r in (mine, sweep))  # fmt: skip
    found, _ = steps_ratio(one, other, list(mine))
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def main(words: list[str]) -> int:
    """Prints the table; the exit code."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    count = next((int(word) for word in words if word.isdigit()), 100)
    config = load(None, [f"seed={options.get('seed', '1234')}"])
    names = [name for name, spec in SPLITS.items() if spec.scenes == "heldout"]
    sets = {n: load_episodes(replace(config.env, split=n, episodes=count), config.seed) for n in names}
    layouts = max(int(s.scene.max()) for s in sets.values()) + 1
    seen, there = np.zeros((layouts, 7, 7)), np.zeros((layouts, 7))
    for episodes in sets.values():
        look_around(config, episodes, seen, there)
    orders = [SearchOrder(one) for one in seen / np.maximum(there[:, None], 1)]
    agents = {"sweep": PlannerAgent("sweep"), "explorer": PlannerAgent("explorer"),
              "named": SearcherAgent(orders, True), "free": SearcherAgent(orders, False)}  # fmt: skip
    played: dict[str, dict[str, EpisodeResults]] = {who: {} for who in (*agents, "searcher")}
    print(f"{'steps as multiples of the sweep':32} {'explorer':22} ideal searcher")
    for name, episodes in sets.items():
        for who, agent in agents.items():
            played[who][name] = evaluate_split(agent, config.env, config.task, episodes, config.seed)[1]
        both = [played[who][name] for who in ("named", "free")]
        played["searcher"][name] = min(both, key=lambda r: (-r.success.sum(), r.steps[r.success].sum()))
        one = [ratio({name: played[who][name]}, played["sweep"]) for who in ("explorer", "searcher")]
        print(f"{name:32} {one[0]:22} {one[1]}", flush=True)
    wins = sum(int(r.success.sum()) for r in played["searcher"].values())
    whole = [ratio(played[who], played["sweep"]) for who in ("explorer", "searcher")]
    print(f"{'all':32} {whole[0]:22} {whole[1]}; "
          f"the searcher solves {wins} of {sum(len(r.success) for r in played['searcher'].values())}")  # fmt: skip
    if "out" in options:
        outcomes = {name: r.outcomes(sets[name]) for name, r in played["searcher"].items()}
        result = {"outcomes": outcomes, "policy": "ideal searcher", "seed": config.seed, "backend": config.env.backend,
                  "dataset": config.env.source, "rules": config.env.rule_set}  # fmt: skip
        write_atomically(Path(options["out"]), to_json(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
