"""Success per split: every episode exactly once, fixed seeds, an interval beside every rate."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import asset_notes, check_can_be_made, load_episodes
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.errors import UserError
from llarp.policy.hub import weights_digest
from llarp.progress import Progress
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.exposure import episode_keys
from llarp.tasks.generator import SPLITS
from llarp.tasks.task import TaskConfig

from .agents import Agent, Hears, PolicyAgent, make_agent, open_worlds
from .benchmark_report import write_page
from .failures import FAILURES, Trace, failure, goal_form
from .gallery import Gallery
from .pictures import Pictures, with_hearing, with_pictures
from .published_results import GROUPS, LLARP, NOT_UNSEEN, Results
from .statistics import wilson

if TYPE_CHECKING:
    from llarp.config import RunConfig

PICK_AND_PLACE = ("place_one", "place_from", "place_two", "place_two_apart", "swap")
"""Instruction types that ask to bring objects somewhere."""
BLIND_IMAGE_SIZE = 16
"""Pixels, where nobody looks at the pictures."""


@dataclass
class EpisodeResults:
    """One entry an episode, in the order of the episode set."""

    success: np.ndarray  # (E,) bool
    progress: np.ndarray  # (E,) share of subgoals reached
    steps: np.ndarray  # (E,) int
    invalid: np.ndarray  # (E,) number of invalid actions
    reward: np.ndarray  # (E,) undiscounted return
    instruction_type: np.ndarray  # (E,) str
    traces: list[Trace] = field(default_factory=list)
    reason: np.ndarray | None = None  # (E,) why it failed, "" where it did not
    form: np.ndarray | None = None  # (E,) the goal's form

    @classmethod
    def empty(cls, episodes: EpisodeSet) -> EpisodeResults:
        """Nothing played yet."""
        e = len(episodes)
        types = np.array(episodes.instruction_type, dtype=object)
        return cls(np.zeros(e, bool), np.zeros(e), np.zeros(e, np.int64), np.zeros(e, np.int64), np.zeros(e), types,
                   [Trace() for _ in range(e)])  # fmt: skip

    def explain(self, episodes: EpisodeSet, category: np.ndarray) -> None:
        """Fill in `reason` and `form`; `category` (K,) of the object models."""
        reasons, forms = [], []
        for i, won in enumerate(self.success):
            episode = episodes.episode(i)
            kinds = np.where(episode.object_model < 0, -1, category[episode.object_model]).tolist()
            why = "" if won else failure(self.traces[i], episode.goal, kinds, episode.object_receptacle.tolist())
            reasons.append(why)
            forms.append(goal_form(episode.goal))
        self.reason, self.form = np.array(reasons, dtype=object), np.array(forms, dtype=object)

    def outcomes(self, episodes: EpisodeSet) -> dict[str, Any]:
        """Each episode's own result, and a digest of which episodes these are, for comparisons over the same ones."""
        keys = episode_keys(episodes).astype("<u8").tobytes()
        texts = "\n".join(episodes.instruction).encode()
        return {
            "episodes_sha256": hashlib.sha256(keys + texts).hexdigest(),
            "success": self.success.astype(int).tolist(),
            "steps": self.steps.tolist(),
        }

    def summary(self, chosen: np.ndarray | None = None) -> dict[str, Any]:
        """Rates over the chosen episodes (bool (E,); default: all)."""
        take = np.ones(len(self.success), bool) if chosen is None else chosen
        n, wins = int(take.sum()), int(self.success[take].sum())
        low, high = wilson(wins, n)
        steps = int(self.steps[take].sum())
        rates = {
            "episodes": n,
            "success_rate": wins / n if n else 0.0,
            "ci95": [round(low, 4), round(high, 4)],
            "mean_progress": float(self.progress[take].mean()) if n else 0.0,
            "mean_steps": steps / n if n else 0.0,
            "invalid_rate": float(self.invalid[take].sum() / steps) if steps else 0.0,
        }
        if self.reason is None:
            return rates
        count = Counter(self.reason[take].tolist())
        return rates | {"failures": {why: count[why] for why in FAILURES if count[why]}}

    def full_summary(self) -> dict[str, Any]:
        """Rates over all episodes, with the same by instruction type and by form of goal. `dropped`: how many the
        simulator failed in, if any."""
        types = self.instruction_type
        out = self.summary()
        if dropped := sum(trace.lost for trace in self.traces):
            out["dropped"] = dropped
        out["by_type"] = {str(t): self.summary(types == t) for t in sorted(set(types))}
        if self.form is not None:
            out["by_form"] = {form: self.summary(self.form == form) for form in sorted(set(self.form))}
        out["pick_and_place"] = self.summary(np.isin(types, PICK_AND_PLACE))
        return out


@torch.no_grad()
def run_episodes(
    env: LanguageRearrangementVectorEnv, agent: Agent, progress: Callable[[dict[str, Any]], None] | None = None
) -> EpisodeResults:
    """Play every episode of a quota environment once (torch output, same-step autoreset).

    Where the simulator loses an episode, that one has failed, with the steps it had; so has one that it never began.
    """
    total = len(env.episodes)
    results = EpisodeResults.empty(env.episodes)
    observation, _ = env.reset()
    agent.start(env)
    start = torch.ones(env.num_envs, dtype=torch.bool, device=env.device)
    finished, reported = 0, time.monotonic()
    while bool(env.active.any()):
        # copies: the step that ends an episode also begins the next one, in place
        active, episode = (x.clone().cpu().numpy() for x in (env.active, env.world.episode))
        action = agent.act(observation, start)
        observation, reward, terminated, truncated, info = env.step(action)
        start = terminated | truncated
        happened = active
        if "dropped" in info:
            lost = info["dropped"].cpu().numpy() & active
            happened = active & ~lost
            for e in episode[lost].tolist():
                results.traces[e].lost = True
        playing = episode[happened]
        invalid, share = (info[name].cpu().numpy()[happened] for name in ("invalid_action", "progress"))
        results.steps[playing] += 1
        results.invalid[playing] += invalid
        results.reward[playing] += reward.cpu().numpy()[happened]
        results.progress[playing] = share
        results.success[playing] = info["success"].cpu().numpy()[happened]
        held = env.final_state().held.cpu().numpy()[happened]
        columns = (action.cpu().numpy()[happened].tolist(), invalid.tolist(), held.tolist(), share.tolist())
        for e, *step in zip(playing.tolist(), *columns, strict=True):
            results.traces[e].add(*step)
        ended = start.cpu().numpy() & active
        finished += int(ended.sum())
        if progress is not None and ended.any() and (finished == total or time.monotonic() - reported > 5):
            reported = time.monotonic()
            progress({"episodes": finished, "success_rate": float(results.success.sum()) / max(finished, 1)})
    for e in getattr(env.sampler, "set_aside_episodes", ()):
        results.traces[e].lost |= not results.steps[e]
    results.explain(env.episodes, env.world.catalog.category.cpu().numpy())
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
    """Rates of one split, with the same by instruction type and form of goal, and the episodes' own results."""
    if not agent.needs_pictures:
        config = replace(config, image_size=min(config.image_size, BLIND_IMAGE_SIZE))
    env = open_worlds(agent, episode_set, min(config.num_envs, len(episode_set)), config, task, seed, device)
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):  # the same seed samples the same actions, whatever ran before
        torch.manual_seed(seed)
        results = run_episodes(env, agent, progress)
    env.close()
    return results.full_summary(), results


def evaluate(
    config: RunConfig,
    *,
    checkpoint: Path | None,
    policy: str | None,
    split: str,
    episodes: int,
    sample: bool = True,
    calibrated: bool = False,
    pictures: Pictures = "camera",
    hears: Hears = "named",
    report: Path | None = None,
    beside: Results | None = None,
) -> dict[str, Any]:
    """What `llarp eval` reports: rates per split, per group of splits and over all unseen tasks.

    With `report`, also a page to look at is written there, in which `beside` are the numbers to compare with."""
    names = _splits(config, split)
    agent = with_pictures(make_agent(config, checkpoint, policy, sample, calibrated), pictures)
    agent = with_hearing(agent, hears)
    rows: dict[str, Any] = {}
    outcomes: dict[str, Any] = {}
    gallery = Gallery()
    for name, episode_set in _episode_sets(config, names, episodes):
        with Progress(len(episode_set), f"evaluate {name}", "episodes") as shown:
            rows[name], results = evaluate_split(
                agent, config.env, config.task, episode_set, config.seed, config.device, shown.update
            )
        outcomes[name] = results.outcomes(episode_set)
        if report is not None:
            gallery.add(name, episode_set, results)
    result: dict[str, Any] = {
        "splits": rows,
        **_groups(rows),
        "total": _pooled([row for name, row in rows.items() if name not in NOT_UNSEEN] or list(rows.values())),
        "backend": config.env.backend,
        "dataset": config.env.source,
        "rules": config.env.rule_set,
        "policy": policy or str(checkpoint),
        "seed": config.seed,
        "outcomes": outcomes,
    }
    if isinstance(agent, PolicyAgent):
        digest = weights_digest(agent.policy.trainable_state_dict())
        result |= {"sample": sample, "pictures": pictures, "hears": hears, "weights_sha256": digest}
    if notes := asset_notes(config.env):
        result["notes"] = list(notes)
    if report is not None:
        write_page(report, result, gallery.draw(config), beside or LLARP)
        result["report"] = str(report)
    return result


def _splits(config: RunConfig, split: str) -> list[str]:
    """The names of the splits to evaluate; UserError for an unknown one."""
    if config.env.dataset:
        return [Path(config.env.dataset).stem]
    check_can_be_made(split, config.env)
    if split == "all":
        return [name for name in SPLITS if name != "train"]
    if split in SPLITS:
        return [split]
    raise UserError(f"split={split} is unknown: choose {', '.join(SPLITS)} or all")


def _episode_sets(config: RunConfig, names: list[str], episodes: int) -> Iterator[tuple[str, EpisodeSet]]:
    for name in names:
        episode_set = load_episodes(replace(config.env, split=name, episodes=episodes), config.seed)
        if config.env.dataset and len(episode_set) > episodes:
            episode_set = episode_set.select(range(episodes))
        yield name, episode_set


def _groups(rows: dict[str, Any]) -> dict[str, Any]:
    """Success in each of the paper's groups all of whose splits were evaluated (with as many episodes in each, so that
    this is the mean over the splits)."""
    return {
        group: _pooled([rows[member] for member in members]) | {"splits": list(members)}
        for group, members in GROUPS.items()
        if all(member in rows for member in members)
    }


def _pooled(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Success over the episodes of all the given splits together."""
    wins = sum(round(row["success_rate"] * row["episodes"]) for row in rows)
    count = sum(row["episodes"] for row in rows)
    return {"episodes": count, "success_rate": wins / count, "ci95": wilson(wins, count)}
