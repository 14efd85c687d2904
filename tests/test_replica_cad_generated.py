"""Episodes of our own in ReplicaCAD's apartments: `scenes=FOLDER` without a published file."""

from __future__ import annotations

from pathlib import Path

import pytest
from glb_files import small_dataset

from llarp import cli
from llarp.envs.config import EnvConfig
from llarp.envs.episode_source import load_assets_for, load_episodes
from llarp.errors import UserError
from llarp.tasks.entities import TRAINING_KINDS
from llarp.tasks.exposure import expose


@pytest.mark.shared_data
def test_training_shows_training_apartments_and_kinds_alone(shared: Path) -> None:
    env = EnvConfig(scenes=str(shared / "replica_cad"), episodes=200)
    episodes, assets = load_episodes(env, seed=3), load_assets_for(env)
    shown = expose(episodes, assets.scenes, assets.catalog, env.source, env.published)
    assert (shown.source, shown.split, env.rule_set) == ("generated in ReplicaCAD", "train", "clean")
    assert shown.layouts == ("v3_sc0", "v3_sc1", "v3_sc2")  # v3_sc3 is what the published files test in
    there = episodes.object_model[episodes.object_model >= 0].long()
    assert set(assets.catalog.category[there].tolist()) <= set(TRAINING_KINDS)
    again, other = load_episodes(env, seed=3), load_episodes(env, seed=4)
    assert again.goal[7] == episodes.goal[7] and list(other.goal) != list(episodes.goal)


@pytest.mark.shared_data
def test_a_file_of_them_is_made_checked_and_played(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "there.safetensors"
    words = [f"scenes={shared / 'replica_cad'}", f"dataset={file}", "processes=1"]
    assert cli.main(["data", "generate", "split=train_validation", "episodes=24", *words]) == 0
    assert cli.main(["data", "validate", "render=3", *words]) == 0
    told = capsys.readouterr().out
    assert "solvable: 24" in told and "rendered: 3" in told
    words = [f"scenes={shared / 'replica_cad'}", "env.num_envs=4", "episodes=8"]
    assert cli.main(["eval", "policy=oracle", "split=train_validation", *words]) == 0
    assert "success 100.0%" in capsys.readouterr().out


@pytest.mark.parametrize("split", ["new_scenes", "all"])
@pytest.mark.parametrize("command", [["data", "generate"], ["eval", "policy=sweep"]])
def test_splits_of_unseen_models_are_refused_there(
    command: list[str], split: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"scenes={small_dataset(tmp_path / 'replica_cad')}", f"split={split}"]
    if command[0] == "data":
        words.append(f"dataset={tmp_path if split == 'all' else tmp_path / 'out.safetensors'}")
    assert cli.main([*command, *words]) == 2
    told = capsys.readouterr().err
    assert "choose train or train_validation" in told and told.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["replica_cad"]


def test_a_download_without_the_benchmarks_scenes_is_named(tmp_path: Path) -> None:
    scenes = small_dataset(tmp_path / "replica_cad")
    with pytest.raises(UserError, match="names none of the benchmark's scenes"):
        load_assets_for(EnvConfig(scenes=str(scenes)))


def test_habitat_plays_there_from_published_files_alone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="goes with a published file where backend=habitat"):
        EnvConfig(backend="habitat", scenes=str(tmp_path))
