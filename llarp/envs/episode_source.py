"""The episodes that a configuration names: from a file, or made by the generator once and then kept."""

from __future__ import annotations

import hashlib

from llarp.cache import cache_dir
from llarp.errors import UserError
from llarp.sim.world import Assets, load_assets
from llarp.tasks.episodes import EpisodeSet, load, save
from llarp.tasks.generator import generate

from .config import EnvConfig

GENERATOR_VERSION = 2
"""To be raised when the generator makes other episodes than before from the same scenes and seed."""


def load_episodes(config: EnvConfig, seed: int) -> EpisodeSet:
    """The episodes of `config.dataset`, or `config.episodes` built-in ones of `config.split` made with `seed`."""
    assets = load_assets()
    try:
        if config.dataset:
            return load(config.dataset, assets.scenes, assets.catalog)
        name = f"{config.split}-{config.episodes}-{seed}-{_fingerprint(assets)}.safetensors"
        path = cache_dir("episodes") / name
        if path.exists():
            return load(path, assets.scenes, assets.catalog)
        made = generate(assets.scenes, assets.catalog, config.split, config.episodes, seed)
        save(made, path)
        return made
    except ValueError as e:  # files, splits and scenes that cannot be used: each in one line
        raise UserError(str(e)) from e


def _fingerprint(assets: Assets) -> str:
    """Changes with anything that built-in episodes depend on."""
    digest = hashlib.sha256(str(GENERATOR_VERSION).encode())
    scenes = assets.scenes
    placed = (scenes.receptacle_center, scenes.receptacle_half, scenes.nav_pose, scenes.free_xy)
    for tensor in (*placed, assets.catalog.half_size):
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()[:12]
