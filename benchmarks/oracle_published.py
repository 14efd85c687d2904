"""How many published episodes does the oracle solve, and can anybody solve the others?

    python benchmarks/oracle_published.py scenes=FOLDER FILE.pickle ... [rules=published] [starts=3] [bar=0.9]

Every episode is played from `starts` random starts by the task semantics. Each failure is searched: first whether the
goal could ever come true, then every state within 32 steps. Prints a table, every failure with its verdict, and how
long the oracle takes. Exit code 1 if a file stays below `bar`, or if a failure is not shown to be infeasible.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from words import one_line, read_words

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.errors import UserError
from llarp.evaluation.statistics import wilson
from llarp.sim.world import Assets, BatchWorld
from llarp.tasks.actions import ACTION_NAMES
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.goals import ground, parse
from llarp.tasks.planners import Oracle, views_of
from llarp.tasks.search import INFEASIBLE, Verdict, search
from llarp.tasks.state import WorldState
from llarp.tasks.task import TaskConfig


@dataclass
class Played:
    """E episodes from one random start each."""

    success: np.ndarray  # (E,)
    progress: np.ndarray  # (E,)
    steps: np.ndarray  # (E,) of those solved
    start: WorldState
    seconds: float  # of planning
    actions: list[list[int]] = field(default_factory=list)


def play(world: BatchWorld, episodes: EpisodeSet, occurrence: int) -> Played:
    """All episodes at once, for the `occurrence`-th time."""
    everyone = torch.arange(len(episodes))
    world.reset(torch.ones_like(everyone, dtype=torch.bool), everyone, torch.full_like(everyone, occurrence))
    rows = [episodes.episode(i) for i in everyone.tolist()]
    oracles = [Oracle() for _ in rows]
    unseen = torch.zeros_like(world.state.object_model, dtype=torch.bool)
    played = Played(np.zeros(len(rows), bool), np.zeros(len(rows)), np.zeros(len(rows), int), world.snapshot(), 0.0,
                    [[] for _ in rows])  # fmt: skip
    for step in range(1, 33):
        action = torch.zeros_like(everyone)
        views = views_of(world.state, rows, unseen, world.valid_actions(), world.rules)
        begin = time.perf_counter()
        for i in np.flatnonzero(~played.success).tolist():
            if step == 1:
                oracles[i].reset(views[i])
            action[i] = oracles[i].act(views[i])
            played.actions[i].append(int(action[i]))
        played.seconds += time.perf_counter() - begin
        result = world.judge(world.apply(action))
        running = ~played.success
        played.progress[running] = result.progress.numpy()[running]
        won = result.success.numpy() & running
        played.steps[won], played.success[won] = step, True
    return played


def verdict_of(played: Played, i: int, episodes: EpisodeSet, assets: Assets) -> Verdict:
    """What the search says of an episode the oracle failed."""
    state = played.start.rows(torch.tensor([i]))
    circuit = ground(parse(episodes.episode(i).goal), [], state.object_category[0].numpy(), episodes.rules)
    return search(state, circuit, assets.catalog.half_size, episodes.rules)


@one_line
def main(words: list[str]) -> int:
    """Prints the table; the exit code."""
    defaults = {"scenes": "", "rules": "", "starts": 3, "bar": "0.9"}
    options = read_words([word for word in words if "=" in word], defaults)
    files = [word for word in words if "=" not in word]
    if not files or not options["scenes"]:
        raise UserError("give scenes=FOLDER and episode files: oracle_published.py scenes=FOLDER FILE.pickle ...")
    for file in files:
        if not Path(file).is_file():
            raise UserError(f"{file}: no such file; give published episode files")
    try:
        bar = float(options["bar"])
    except ValueError:
        raise UserError(f"bar={options['bar']}: must be a number") from None
    good = True
    print("file rules episodes oracle success interval progress steps infeasible unexplained plan_ms")
    for file in files:
        config = EnvConfig(dataset=file, scenes=options["scenes"], rules=options["rules"])
        assets, episodes = load_assets_for(config), load_episodes(config, 0)
        world = BatchWorld(assets, episodes, len(episodes), TaskConfig(), rules=episodes.rules, pictures=False)
        rounds = [play(world, episodes, k) for k in range(options["starts"])]
        success = np.concatenate([r.success for r in rounds])
        verdicts: Counter[str] = Counter()
        lines = []
        for k, r in enumerate(rounds):
            for i in np.flatnonzero(~r.success).tolist():
                verdict = verdict_of(r, i, episodes, assets)
                verdicts[verdict.kind] += 1
                done = ", ".join(ACTION_NAMES[a] for a in (verdict.actions or r.actions[i][:8]))
                about = f"episode {int(episodes.episode_id[i])} ({episodes.instruction_type[i]}), start {k}"
                lines.append(f"    {about}: {verdict.kind}, {verdict.reason} ({verdict.states} states); {done}")
        steps = np.concatenate([r.steps[r.success] for r in rounds]).mean()
        low, high = wilson(int(success.sum()), len(success))
        unexplained = sum(verdicts.values()) - verdicts[INFEASIBLE]
        milliseconds = 1000 * sum(r.seconds for r in rounds) / len(success)
        print(f"{Path(file).stem} {episodes.rules} {len(success)} {int(success.sum())} {success.mean():.3f} "
              f"[{low:.3f}, {high:.3f}] {np.mean([r.progress.mean() for r in rounds]):.3f} {steps:.2f} "
              f"{verdicts[INFEASIBLE]} {unexplained} {milliseconds:.2f}")  # fmt: skip
        print("\n".join(lines), end="\n" if lines else "")
        kinds = np.tile([episodes.instruction_type[i] for i in range(len(episodes))], len(rounds))
        for kind in sorted(set(kinds.tolist())):
            print(f"    {kind}: {int(success[kinds == kind].sum())} of {int((kinds == kind).sum())}")
        good &= bool(success.mean() >= bar) and unexplained == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
