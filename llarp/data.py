"""`llarp data`: episode files made, checked and looked into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .envs.episode_source import check_can_be_made, load_assets_for, load_episodes
from .errors import UserError
from .machine import cores
from .progress import Progress
from .sim.world import Assets
from .tasks.episodes import EpisodeSet, save
from .tasks.generator import GeneratorError, generate, room_keys
from .tasks.parallel import spread
from .tasks.splits import SPLITS
from .tasks.state import ObjectCatalog, SceneSet
from .tasks.verify import circuits_fit, solution_steps

if TYPE_CHECKING:
    from .config import RunConfig

TRAIN_EPISODES, TEST_EPISODES = 150_000, 100
"""Sizes of the published training set and of each other split."""
_CHUNK = 1024  # episodes that one process checks at a time


def generate_files(config: RunConfig, path: Path, split: str, episodes: int, processes: int) -> dict[str, Any]:
    """Make `episodes` episodes of a split (0: as many as are published) with the run's seed and write them to `path`;
    with split=all, a file for each split into the folder `path`."""
    if split != "all" and split not in SPLITS:
        raise UserError(f"split={split} is unknown: choose {', '.join(SPLITS)} or all")
    if config.env.published:
        raise UserError(f"dataset={path}: episodes are written in our own format; give the file another ending, as "
                        "in train.safetensors")  # fmt: skip
    if episodes < 0:
        raise UserError(f"episodes={episodes} is out of range: it must be at least 1")
    _check_processes(processes)
    if split == "all" and not path.is_dir():
        raise UserError(f"dataset={path}: with split=all it must be a folder, for a file of each split; make it first")
    if not path.parent.is_dir():
        raise UserError(f"dataset={path}: its folder does not exist; make it first")
    if split != "all" and path.is_dir():
        raise UserError(f"dataset={path} is a folder: name a file, or make all splits with split=all")
    check_can_be_made(split, config.env)
    assets = load_assets_for(config.env)
    if split == "all":
        files = {name: path / f"{name}.safetensors" for name in SPLITS}
        return {"files": {name: _generate_file(config, assets, file, name, episodes, processes)
                          for name, file in files.items()}}  # fmt: skip
    return _generate_file(config, assets, path, split, episodes, processes)


def _check_processes(processes: int) -> None:
    if processes < 0:
        raise UserError(f"processes={processes} is out of range: it must be at least 0")


def _generate_file(
    config: RunConfig, assets: Assets, path: Path, split: str, episodes: int, processes: int
) -> dict[str, Any]:
    count = episodes or (TRAIN_EPISODES if split == "train" else TEST_EPISODES)
    with Progress(count, f"generate {split}", "episodes") as shown:
        try:
            made = generate(
                assets.scenes, assets.catalog, split, count, config.seed,
                progress=lambda done, rejected: shown.update({"episodes": done}), processes=processes or cores(),
            )  # fmt: skip
        except GeneratorError as error:
            raise UserError(str(error)) from error
        save(made, path)
        report = describe(made) | {"solvable": len(made), "file": str(path), "bytes": path.stat().st_size}
        shown.message(f"{path}: {report['bytes'] / 1e6:.1f} MB, {report['unique_goals']} goals and "
                      f"{report['unique_arrangements']} arrangements in {report['scenes']} scenes, "
                      f"{report['rejection_rate']:.1%} of the drafts rejected")  # fmt: skip
    return report


def validate_file(config: RunConfig, path: Path, processes: int, render: int) -> dict[str, Any]:
    """Checks an episode file: the oracle plays every episode by the task semantics, and `render` random ones in the
    rendering environment; no two may share scene, arrangement and goal. UserError for a file of ours that fails; for a
    published one, which may hold infeasible episodes, the report names those not solved."""
    if render < 0:
        raise UserError(f"render={render} is out of range: it must be at least 0")
    _check_processes(processes)
    env = replace(config.env, dataset=str(path))
    episodes, assets = load_episodes(env, config.seed), load_assets_for(env)
    report = describe(episodes)
    with Progress(len(episodes), "validate", "episodes") as shown:
        steps, fits = _check_all(
            episodes, assets, config.seed, processes or cores(), not env.published,
            done=lambda count: shown.update({"episodes": count}),
        )  # fmt: skip
    if not fits.all():
        wrong = int(episodes.episode_id[int(np.flatnonzero(~fits)[0])])
        raise UserError(f"{path}: episode {wrong} stores another goal than its goal expression says")
    unsolved = episodes.episode_id.numpy()[steps == 0].tolist()
    solved = steps[steps > 0]
    report |= {"solvable": len(solved), "oracle_steps": float(solved.mean()) if len(solved) else 0.0}
    alike = len(episodes) - len(set(zip(room_keys(episodes), episodes.goal, strict=True)))
    if env.published:
        report |= {"unsolved": unsolved, "alike": alike}
    elif unsolved:
        raise UserError(f"{path}: the oracle solves only {len(solved)} of {len(episodes)} episodes; episode "
                        f"{unsolved[0]} is the first that it does not")  # fmt: skip
    elif alike:
        raise UserError(f"{path}: {alike} episodes repeat the scene, arrangement and goal of another")
    if render:
        report["rendered"] = _play_rendered(config, path, episodes, render)
    return report


def _check_all(
    episodes: EpisodeSet, assets: Assets, seed: int, processes: int, ours: bool, done: Callable[[int], None]
) -> tuple[np.ndarray, np.ndarray]:
    """Of each episode, steps in which the oracle solves it by the task semantics (0: it does not) and, where they are
    `ours`, whether its circuit is that of its goal; both (E,)."""
    indices = torch.arange(len(episodes)).split(_CHUNK)
    job = partial(_check_some, assets.scenes, assets.catalog, seed, ours)
    steps: list[np.ndarray] = []
    fits: list[np.ndarray] = []
    for found in spread(job, (episodes.select(index) for index in indices), min(processes, len(indices))):
        steps.append(found[0])
        fits.append(found[1])
        done(sum(map(len, steps)))
    return np.concatenate(steps), np.concatenate(fits)


def _check_some(
    scenes: SceneSet, catalog: ObjectCatalog, seed: int, ours: bool, episodes: EpisodeSet
) -> tuple[np.ndarray, np.ndarray]:
    fits = circuits_fit(episodes, catalog) if ours else np.ones(len(episodes), dtype=bool)
    return solution_steps(episodes, scenes, catalog, seed), fits


def _play_rendered(config: RunConfig, path: Path, episodes: EpisodeSet, count: int) -> int:
    """Plays random episodes with the oracle in the rendering environment; how many it solved. UserError for a file of
    ours of which it does not solve all."""
    from .evaluation.agents import PlannerAgent, open_worlds
    from .evaluation.evaluate import run_episodes

    chosen = np.random.default_rng(config.seed).permutation(len(episodes))[:count]
    agent = PlannerAgent("oracle")
    env = replace(config.env, dataset=str(path))
    worlds = open_worlds(agent, episodes.select(chosen.tolist()), min(env.num_envs, len(chosen)), env, config.task,
                         config.seed, config.device)  # fmt: skip
    with Progress(len(chosen), "validate, rendered", "episodes") as shown:
        success = run_episodes(worlds, agent, shown.update).success
    worlds.close()
    if not env.published and not success.all():
        failed = int(episodes.episode_id[int(chosen[np.flatnonzero(~success)[0]])])
        raise UserError(f"{path}: the oracle does not solve episode {failed} in the rendering environment")
    return int(success.sum())


def describe(episodes: EpisodeSet) -> dict[str, Any]:
    """Counts of an episode set."""
    num = len(episodes)
    return {
        "episodes": num,
        "split": episodes.split,
        "rules": episodes.rules,
        "scenes": len(set(episodes.scene.tolist())),
        "instruction_types": dict(Counter(episodes.instruction_type)),
        "unique_instructions": len(set(episodes.instruction)),
        "unique_goals": len(set(episodes.goal)),
        "unique_arrangements": len(set(room_keys(episodes))),
        "objects": float((episodes.object_model >= 0).sum() / num) if num else 0.0,
        "rejected": episodes.rejected,
        "rejection_rate": episodes.rejected / (episodes.rejected + num) if num else 0.0,
    }


def inspect_file(config: RunConfig, path: Path, rows: int, episode: int, picture: Path | None) -> dict[str, Any]:
    """What an episode file holds: counts, a table of its first `rows` episodes, and in `picture`, where one is wanted,
    where episode `episode` (its id; -1: the first) begins."""
    from .data_view import draw_start, print_table, row_of

    if rows < 0:
        raise UserError(f"rows={rows} is out of range: it must be at least 0")
    env = replace(config.env, dataset=str(path))
    episodes = load_episodes(env, config.seed)
    row = 0 if episode < 0 else row_of(episodes, episode)
    print_table(episodes, rows)
    report = describe(episodes)
    if picture is not None and len(episodes):
        draw_start(config, env, episodes, row, picture)
        report["picture"] = str(picture)
    return report
