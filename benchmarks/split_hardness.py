"""Are the built-in splits as hard as the published ones? Goal forms, oracle length and random success of both.

    python benchmarks/split_hardness.py [episodes] [published=FOLDER scenes=FOLDER]

`published` is a folder of the benchmark's own NAME.pickle files and `scenes` a ReplicaCAD download; without them, or
for splits whose file is not there, the built-in side is shown alone. Goal forms are counted in `episodes` (default 500)
episodes, which the oracle plays by the task semantics; random actions (uniform over the 70 skills) are tried once on
each. Exit code 1 if a split that has a published file differs by more than 5 points in the share of a goal form, by
more than 20 % in the oracle's mean steps, or if random success is beyond the 95 % interval of what was recorded on the
original (10 of 100 on train_validation, 2 of 100 at most elsewhere).
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.evaluation.statistics import wilson
from llarp.sim.world import Assets, BatchWorld, load_assets
from llarp.tasks.actions import NUM_ACTIONS
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.generator import generate
from llarp.tasks.keyed_random import uniform
from llarp.tasks.splits import SPLITS
from llarp.tasks.task import TaskConfig
from llarp.tasks.verify import solution_steps

RECORDED_RANDOM = {"train_validation": 10}
"""Successes of 100 random sequences recorded on the original; elsewhere 0 to 2."""
SHARE_POINTS, LENGTH_RATIO = 0.05, 0.2
_RANDOM_STREAM = 301


@dataclass
class Hardness:
    forms: dict[str, float]  # share of each goal form
    subgoals: float  # mean number
    steps: float  # the oracle's, mean over what it solves
    solved: float  # share the oracle solves
    random_wins: int
    episodes: int


def goal_form(goal: Mapping[str, Any] | str) -> str:
    """A goal without the names in it: "EXISTS X, Y: AND(on_top(X), on_top(Y), not_holding())"."""
    if isinstance(goal, str):
        name, inside = re.fullmatch(r"\s*(\w+)\s*\((.*)\)\s*", goal).groups()  # type: ignore[union-attr]
        variables = [a.strip() for a in inside.split(",") if re.fullmatch(r"[A-Z]", a.strip())]
        return f"{name}({', '.join(variables)})"
    head = ""
    if goal.get("quantifier"):
        head = f"{goal['quantifier']} {', '.join(v['name'] for v in goal['inputs'])}: "
    return f"{head}{goal['expr_type']}({', '.join(sorted(goal_form(part) for part in goal['sub_exprs']))})"


def hardness(episodes: EpisodeSet, assets: Assets, seed: int = 0) -> Hardness:
    """Forms, oracle and random success of one set of episodes, by its own rules."""
    num = len(episodes)
    forms = Counter(goal_form(json.loads(goal)) for goal in episodes.goal)
    steps = solution_steps(episodes, assets.scenes, assets.catalog, seed)
    return Hardness(
        forms={form: count / num for form, count in forms.most_common()},
        subgoals=sum(len(json.loads(text)) for text in episodes.subgoals) / num,
        steps=float(steps[steps > 0].mean()),
        solved=float((steps > 0).mean()),
        random_wins=random_wins(episodes, assets, seed),
        episodes=num,
    )


def random_wins(episodes: EpisodeSet, assets: Assets, seed: int) -> int:
    """Episodes that uniformly random actions solve."""
    num = len(episodes)
    world = BatchWorld(assets, episodes, num, TaskConfig(), rules=episodes.rules, pictures=False)
    everyone = torch.arange(num)
    world.reset(torch.ones(num, dtype=torch.bool), everyone, torch.zeros(num, dtype=torch.int64))
    won = torch.zeros(num, dtype=torch.bool)
    for step in range(TaskConfig().max_steps):
        draw = uniform(seed, episodes.episode_id, torch.full_like(everyone, step), _RANDOM_STREAM)
        won |= world.judge(world.apply((draw * NUM_ACTIONS).long())).success
    return int(won.sum())


def differences(name: str, ours: Hardness, theirs: Hardness | None) -> list[str]:
    """What is not as it should be."""
    found = []
    low, high = wilson(RECORDED_RANDOM.get(name, 2), 100)
    mine = wilson(ours.random_wins, ours.episodes)
    if mine[0] > high or (name in RECORDED_RANDOM and mine[1] < low):
        found.append(f"random success {ours.random_wins / ours.episodes:.1%}, recorded {low:.1%} to {high:.1%}")
    if theirs is not None:
        for form in sorted({*ours.forms, *theirs.forms}):
            gap = ours.forms.get(form, 0.0) - theirs.forms.get(form, 0.0)
            if abs(gap) > SHARE_POINTS + 1e-9:
                found.append(f"{gap:+.1%} of {form}")
        if abs(ours.steps / theirs.steps - 1) > LENGTH_RATIO:
            found.append(f"oracle needs {ours.steps:.2f} steps, {theirs.steps:.2f} on the published file")
    return found


def _row(who: str, h: Hardness) -> str:
    low, high = wilson(h.random_wins, h.episodes)
    return (f"    {who:10} {h.episodes:5} episodes  {h.subgoals:5.2f} subgoals  "
            f"oracle {h.solved:6.1%} in {h.steps:5.2f} steps  "
            f"random {h.random_wins / h.episodes:5.1%} ({low:.1%} to {high:.1%})")  # fmt: skip


def main(words: list[str]) -> int:
    """Prints the table; the exit code."""
    options = dict(word.split("=", 1) for word in words if "=" in word)
    count = next((int(word) for word in words if word.isdigit()), 500)
    assets, failed = load_assets(), False
    for name in SPLITS:
        ours = hardness(generate(assets.scenes, assets.catalog, name, count, seed=0), assets)
        theirs = None
        file = Path(options.get("published", ".")) / f"{name}.pickle"
        if "published" in options and "scenes" in options and file.exists():
            config = EnvConfig(dataset=str(file), scenes=options["scenes"])
            theirs = hardness(load_episodes(config, 0), load_assets_for(config))
        print(name)
        print(_row("built-in", ours))
        if theirs is not None:
            print(_row("published", theirs))
        for form in {**ours.forms, **(theirs.forms if theirs else {})}:
            other = f" published {theirs.forms.get(form, 0.0):6.1%}" if theirs else ""
            print(f"        {ours.forms.get(form, 0.0):6.1%}{other}  {form}")
        wrong = differences(name, ours, theirs) if name != "train" else []
        for text in wrong:
            print(f"    NOT AS HARD: {text}")
        failed |= bool(wrong)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
