"""Episodes as Habitat plays them: which scene, which models, where everything is at the start."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch

from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.sim.world import Assets
from llarp.tasks.episodes import EpisodeSet, episode_key
from llarp.tasks.state import MAX_OBJECTS, ObjectCatalog, SceneSet
from llarp.tasks.task import TaskConfig

from .messages import Beginning, EpisodeLabels, TaskSettings


class Episodes:
    """The episodes of an `EpisodeSet`, each with all that a simulator process needs of it."""

    def __init__(self, config: EnvConfig, episodes: EpisodeSet, scenes: SceneSet, catalog: ObjectCatalog):
        self.episodes, self.scenes, self.catalog = episodes, scenes, catalog
        self._config = config
        self._navmesh = functools.cache(self._find_navmesh)

    @classmethod
    def load(cls, config: EnvConfig, seed: int) -> Episodes:
        """Those that a configuration names."""
        assets: Assets = load_assets_for(config)
        return cls(config, load_episodes(config, seed), assets.scenes, assets.catalog)

    def __len__(self) -> int:
        return len(self.episodes)

    def settings(self, task: TaskConfig) -> TaskSettings:
        """What the task needs besides an episode."""
        return TaskSettings(self._config.rule_set, task, self.catalog.half_size)

    def scene(self, row: int) -> str:
        """The name of an episode's scene."""
        return self.episodes.scene_names[int(self.episodes.scene[row])]

    def labels(self, row: int) -> EpisodeLabels:
        """What an episode is called."""
        return EpisodeLabels(
            str(int(self.episodes.episode_id[row])), self.scene(row), self.episodes.instruction[row]
        )

    def beginning(self, row: int, seed: int, occurrence: int = 0) -> Beginning:
        """How episode `row` begins when it is played for the `occurrence`-th time."""
        index, times = torch.tensor([row]), torch.tensor([occurrence])
        state = self.episodes.start_state(index, self.scenes, self.catalog, seed, times)
        names = self.episodes.model_names
        models = ["" if m < 0 else names[m] for m in state.object_model[0].tolist()]
        return Beginning(
            labels=self.labels(row),
            navmesh=self._navmesh(self.scene(row)),
            models=tuple(models + [""] * (MAX_OBJECTS - len(models))),
            key=int(episode_key(self.episodes.episode_id[index], times)),
            seed=seed,
            state=state,
            circuits=self.episodes.circuits.rows(index),
        )

    def _find_navmesh(self, scene: str) -> Path | None:
        if not self._config.published:
            return None
        from llarp.sim.replica_cad.files import open_dataset

        dataset = open_dataset(self._config.scenes)
        return dataset.navmesh(dataset.scene(scene))


def env_config(config: Any) -> EnvConfig:
    """Our settings for those of a Habitat-Lab dataset (`LanguageRearrangementDatasetConfig`)."""
    return EnvConfig(
        dataset=config.data_path, scenes=config.scenes_dir, objects=config.objects, rules=config.rules,
        split=config.split, episodes=config.num_episodes,
    )  # fmt: skip
