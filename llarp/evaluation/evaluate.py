"""Success per split: every episode exactly once, fixed seeds, an interval beside every rate."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_episodes
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.errors import UserError
from llarp.progress import Progress
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.generator import SPLITS
from llarp.tasks.task import TaskConfig

from .agents import Agent, make_agent, open_worlds
from .statistics import wilson

if TYPE_CHECKING:
    from llarp.config import RunConfig

PICK_AND_PLACE = ("place_one", "place_from", "place_two", "place_two_apart", "swap")
"""Instruction types that ask to bring objects somewhere."""


@dataclass
class EpisodeResults:
    """One entry an episode, in the order of the episode set."""

    success: np.ndarray  # (E,) bool
    progress: np.ndarray  # (E,) share of subgoals reached
    steps: np.ndarray  # (E,) int
    invalid: np.ndarray  # (E,) number of invalid actions
    reward: np.ndarray  # (E,) undiscounted return
    instruction_type: np.ndarray  # (E,) str

    def summary(self, chosen: np.ndarray | None = None) -> dict[str, Any]:
        """Rates over the chosen episodes (bool (E,); default: all)."""
        take = np.ones(len(self.success), bool) if chosen is None else chosen
        n, wins = int(take.sum()), int(self.success[take].sum())
        low, high = wilson(wins, n)
        steps = int(self.steps[take].sum())
        return {
            "episodes": n,
            "success_rate": wins / n if n else 0.0,
            "ci95": [round(low, 4), round(high, 4)],
            "mean_progress": float(self.progress[take].mean()) if n else 0.0,
            "mean_steps": steps / n if n else 0.0,
            "invalid_rate": float(self.invalid[take].sum() / steps) if steps else 0.0,
        }


@torch.no_grad()
def run_episodes(
    env: LanguageRearrangementVectorEnv, agent: Agent, progress: Callable[[dict[str, Any]], None] | None = None
) -> EpisodeResults:
    """Play every episode of a quota environment once (torch output, same-step autoreset)."""
    total = len(env.episodes)
    results = EpisodeResults(
        success=np.zeros(total, bool),
        progress=np.zeros(total),
        steps=np.zeros(total, np.int64),
        invalid=np.zeros(total, np.int64),
        reward=np.zeros(total),
        instruction_type=np.array(env.episodes.instruction_type, dtype=object),
    )
    observation, _ = env.reset()
    agent.start(env)
    start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    finished, reported = 0, time.monotonic()
    while bool(env.active.any()):
        # copies: the step that ends an episode also begins the next one, in place
        active, episode = (x.clone().cpu().numpy() for x in (env.active, env.world.episode))
        observation, reward, terminated, truncated, info = env.step(agent.act(observation, start))
        start = terminated | truncated
        playing = episode[active]
        results.steps[playing] += 1
        results.invalid[playing] += info["invalid_action"].cpu().numpy()[active]
        results.reward[playing] += reward.cpu().numpy()[active]
        results.progress[playing] = info["progress"].cpu().numpy()[active]
        results.success[playing] = info["success"].cpu().numpy()[active]
        ended = start.cpu().numpy() & active
        finished += int(ended.sum())
        if progress is not None and ended.any() and (finished == total or time.monotonic() - reported > 5):
            reported = time.monotonic()
            progress({"episodes": finished, "success_rate": float(results.success.sum()) / max(finished, 1)})
    return results


def evaluate_split(
    agent: Agent,
    config: EnvConfig,
    task: TaskConfig,
    episode_set: EpisodeSet,
    seed: int,
    device: torch.device | str = "cpu",
    progress: Callable[[dict[str, Any]], None] | None = None,
) -> tuple[dict[str, Any], EpisodeResults]:
    """Rates of one split, with the same by instruction type, and the episodes' own results."""
    env = open_worlds(agent, episode_set, min(config.num_envs, len(episode_set)), config, task, seed, device)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # the same seed samples the same actions, whatever ran before
        torch.manual_seed(seed)
        results = run_episodes(env, agent, progress)
    env.close()
    types = results.instruction_type
    summary = results.summary()
    summary["by_type"] = {str(t): results.summary(types == t) for t in sorted(set(types))}
    summary["pick_and_place"] = results.summary(np.isin(types, PICK_AND_PLACE))
    return summary, results


def evaluate(
    config: RunConfig, *, checkpoint: Path | None, policy: str | None, split: str, episodes: int, sample: bool = True
) -> dict[str, Any]:
    """What `llarp eval` reports: rates per split and over all of them."""
    if config.env.dataset:
        splits = [Path(config.env.dataset).stem]
    elif split == "all":
        splits = [name for name in SPLITS if name != "train"]
    elif split in SPLITS:
        splits = [split]
    else:
        raise UserError(f"split={split} is unknown: choose {', '.join(SPLITS)} or all")
    agent = make_agent(config, checkpoint, policy, sample)
    rows: dict[str, Any] = {}
    for name in splits:
        episode_set = load_episodes(replace(config.env, split=name, episodes=episodes), config.seed)
        if config.env.dataset and len(episode_set) > episodes:
            episode_set = episode_set.select(range(episodes))
        with Progress(len(episode_set), f"evaluate {name}", "episodes") as shown:
            rows[name], _ = evaluate_split(
                agent, config.env, config.task, episode_set, config.seed, config.device, shown.update
            )
    wins = sum(round(row["success_rate"] * row["episodes"]) for row in rows.values())
    count = sum(row["episodes"] for row in rows.values())
    return {
        "splits": rows,
        "total": {"episodes": count, "success_rate": wins / count, "ci95": wilson(wins, count)},
        "backend": config.backend,
        "dataset": config.env.dataset or "built-in",
        "rules": config.env.rule_set,
        "policy": policy or str(checkpoint),
        "seed": config.seed,
    }
