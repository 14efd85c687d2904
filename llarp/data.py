"""`llarp data`: episode files made, checked and looked into."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .envs.episode_source import load_episodes
from .errors import UserError
from .sim.world import load_assets
from .tasks.episodes import EpisodeSet, save
from .tasks.generator import SPLITS, generate, verify

if TYPE_CHECKING:
    from .config import RunConfig


def generate_file(config: RunConfig, path: Path, split: str, episodes: int) -> dict[str, Any]:
    """Make `episodes` episodes of a split with the run's seed and write them to `path`."""
    if split not in SPLITS:
        raise UserError(f"split={split} is unknown: choose {', '.join(SPLITS)}")
    if episodes < 1:
        raise UserError(f"episodes={episodes} is out of range: it must be at least 1")
    if not path.parent.is_dir():
        raise UserError(f"dataset={path}: its folder does not exist; make it first")
    assets = load_assets()
    made = generate(assets.scenes, assets.catalog, split, episodes, config.seed)
    save(made, path)
    return describe(made) | {"solvable": len(made), "file": str(path)}


def inspect_file(config: RunConfig, path: Path, solve: bool) -> dict[str, Any]:
    """What an episode file holds; `solve` also plays every episode with the oracle and counts the solved ones."""
    episodes = load_episodes(replace(config.env, dataset=str(path)), config.seed)
    report = describe(episodes)
    if solve:
        assets = load_assets()
        report["solvable"] = int(verify(episodes, assets.scenes, assets.catalog, config.seed).sum())
        if report["solvable"] < len(episodes):
            raise UserError(f"{path}: the oracle solves only {report['solvable']} of {len(episodes)} episodes")
    return report


def describe(episodes: EpisodeSet) -> dict[str, Any]:
    """Counts of an episode set."""
    return {
        "episodes": len(episodes),
        "scenes": len(set(episodes.scene.tolist())),
        "instruction_types": dict(Counter(episodes.instruction_type)),
        "unique_instructions": len(set(episodes.instruction)),
        "split": episodes.split,
        "rejected": episodes.rejected,
    }
