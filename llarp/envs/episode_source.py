"""The episodes that a configuration names, and the rooms and objects they are played in.

Episodes come from a file, ours or a published one, or are made by the generator once and then kept.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import torch

from llarp.cache import cache_dir
from llarp.errors import UserError
from llarp.sim.world import Assets, load_assets
from llarp.tasks import extensions, instructions
from llarp.tasks.episodes import EpisodeSet, load, save
from llarp.tasks.generator import generate
from llarp.tasks.goals import Circuits, ground, parse
from llarp.tasks.phrases import all_phrases
from llarp.tasks.published import PublishedFile, read_published
from llarp.tasks.published_episodes import published_episodes
from llarp.tasks.splits import SPLITS

from .config import EnvConfig

GENERATOR_VERSION = 3
"""To be raised when the generator makes other episodes than before from the same scenes, splits, words and seed."""

MADE_IN_REPLICA_CAD = ("train", "train_validation")


def load_assets_for(config: EnvConfig) -> Assets:
    """What the worlds of `config` are built from: the built-in apartments, or ReplicaCAD's; for a published file those
    it names, else all of the benchmark's with all models of known objects."""
    if not config.scenes:
        return load_assets()
    if not config.published:
        return _all_of_replica_cad(config.scenes, config.objects)
    try:
        file = _published_file(config.dataset, _stamp(config.dataset))
    except ValueError as e:  # whatever is wrong with the file, in one line
        raise UserError(str(e)) from e
    try:
        return _replica_cad(config.scenes, tuple(file.scenes), tuple(file.models), config.objects)
    except (UserError, ValueError) as e:
        raise UserError(_who_wants(file, str(e)) + str(e)) from e


def load_episodes(config: EnvConfig, seed: int) -> EpisodeSet:
    """The episodes of `config.dataset`, or `config.episodes` of `config.split` made with `seed`."""
    if not config.dataset:
        check_can_be_made(config.split, config)
    assets = load_assets_for(config)
    try:
        if config.published:
            file = _published_file(config.dataset, _stamp(config.dataset))
            return published_episodes(file, assets.scenes, assets.catalog, config.rule_set)
        if config.dataset:
            return _under(load(config.dataset, assets.scenes, assets.catalog), config.rule_set, assets)
        name = f"{config.split}-{config.episodes}-{seed}-{_fingerprint(assets)}.safetensors"
        path = cache_dir("episodes") / name
        if path.exists():
            return _under(load(path, assets.scenes, assets.catalog), config.rule_set, assets)
        made = generate(assets.scenes, assets.catalog, config.split, config.episodes, seed)
        save(made, path)
        return _under(made, config.rule_set, assets)
    except ValueError as e:  # files, splits and scenes that cannot be used: each in one line
        raise UserError(str(e)) from e


def check_can_be_made(split: str, config: EnvConfig) -> None:
    """UserError for a split (or "all") that is not made in ReplicaCAD, if `config` has its scenes: training shows all
    object models there are, and leaves none for tests."""
    if config.scenes and (split in SPLITS or split == "all") and split not in MADE_IN_REPLICA_CAD:
        made = " or ".join(MADE_IN_REPLICA_CAD)
        raise UserError(f"split={split} is not made in ReplicaCAD: choose {made}, play a published file with "
                        "dataset=FILE.pickle, or say scenes= (nothing) for the built-in apartments")  # fmt: skip


def asset_notes(config: EnvConfig) -> tuple[str, ...]:
    """What of the worlds of `config` is not as it would be with complete data, a sentence each; for reports."""
    if config.backend == "habitat":
        from llarp.habitat.assets import find_assets

        return find_assets(config).notes
    return load_assets_for(config).notes


def _under(episodes: EpisodeSet, rules: str, assets: Assets) -> EpisodeSet:
    """The same episodes with their goals read by `rules`."""
    if episodes.rules == rules:
        return episodes
    circuits = []
    category = torch.cat([assets.catalog.category, torch.tensor([-1])])  # index -1, an empty slot, stays -1
    for i in range(len(episodes)):
        goal, subgoals = json.loads(episodes.goal[i]), json.loads(episodes.subgoals[i])
        circuits.append(ground(parse(goal), subgoals, category[episodes.object_model[i].long()].numpy(), rules))
    return replace(episodes, circuits=Circuits.pack(circuits), rules=rules)


@functools.lru_cache(maxsize=4)
def _published_file(path: str, stamp: tuple[int, int]) -> PublishedFile:
    """A published file, read once as long as it stays as it is."""
    return read_published(path)


def _who_wants(file: PublishedFile, trouble: str) -> str:
    """File and episode that first name a scene or object of which `trouble` speaks, to be put before it."""
    words = set(re.findall(r"[\w\-]+", trouble))
    for episode in file.episodes:
        if words & {episode.scene, *(o.model for o in episode.objects)}:
            return f"{file.path}: episode {episode.episode_id!r}: "
    return ""


def _stamp(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise UserError(f"dataset={path} cannot be read: {error.strerror}") from None
    return status.st_mtime_ns, status.st_size


def _all_of_replica_cad(folder: str, objects: str) -> Assets:
    from llarp.sim.replica_cad import benchmark_names

    try:
        scenes, models = benchmark_names(Path(folder))
        return _replica_cad(folder, tuple(scenes), tuple(models), objects)
    except UserError as e:
        raise UserError(f"scenes={folder}: {e}") from e


@functools.lru_cache(maxsize=2)
def _replica_cad(folder: str, scenes: tuple[str, ...], models: tuple[str, ...], objects: str) -> Assets:
    from llarp.sim.replica_cad import load_replica_cad

    return load_replica_cad(Path(folder), list(scenes), list(models), Path(objects) if objects else None)


def _fingerprint(assets: Assets) -> str:
    """Changes with anything that built-in episodes depend on."""
    said = SPLITS, instructions.TRAIN, instructions.EVAL, sorted(all_phrases())
    digest = hashlib.sha256(f"{GENERATOR_VERSION}{extensions.digest()}{said}".encode())
    scenes = assets.scenes
    placed = (scenes.receptacle_center, scenes.receptacle_half, scenes.nav_pose, scenes.free_xy)
    for tensor in (*placed, assets.catalog.half_size):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]
