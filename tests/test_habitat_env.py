"""The Habitat backend keeps the contract of the embedded one, on published episodes with ReplicaCAD."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from conftest import shared_folder
from gymnasium.utils.env_checker import check_env as gymnasium_check_env

from llarp.envs.checker import check_env
from llarp.envs.episode_source import asset_notes, load_episodes
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.planners import Oracle

pytestmark = [pytest.mark.habitat, pytest.mark.shared_data]

MakeEnv = Callable[..., LanguageRearrangementVectorEnv]


def settings(**others: Any) -> dict[str, Any]:
    """Keyword arguments of an environment over published episodes."""
    shared: Path = shared_folder()
    return {
        "backend": "habitat",
        "dataset": str(shared / "language_rearrangement" / "new_scenes.pickle"),
        "scenes": str(shared / "replica_cad"),
        "robot": str(shared / "robots" / "hab_fetch"),
        "image_size": 64,
        "environment_light": False,  # simulators start faster
    } | others


@pytest.fixture(scope="module")
def kept() -> Iterator[dict[int, Any]]:
    """Worlds by their number: simulators take seconds to start, so environments hand them on."""
    worlds: dict[int, Any] = {}
    yield worlds
    for world in worlds.values():
        world.close()


@pytest.fixture(scope="module")
def few() -> EpisodeSet:
    """Some episodes in each of two scenes."""
    from llarp.envs.config import EnvConfig

    episodes = load_episodes(EnvConfig(**settings()), 0)
    scenes = episodes.scene.unique()[:2]
    return episodes.select(torch.cat([(episodes.scene == s).nonzero()[:8, 0] for s in scenes]))


@pytest.fixture
def make(kept: dict[int, Any], few: EpisodeSet, monkeypatch: pytest.MonkeyPatch) -> MakeEnv:
    """Makes environments over `few` episodes with the simulators at hand, also inside Gymnasium's own functions."""
    from llarp.habitat.episodes import Episodes

    open_new = LanguageRearrangementVectorEnv._open

    def open_kept(env: LanguageRearrangementVectorEnv, task: Any) -> Any:
        env._visibility = env.num_envs == 1
        if env.num_envs not in kept:
            kept[env.num_envs] = open_new(env, task)
        worlds = kept[env.num_envs]
        worlds.source = Episodes(env.config, env.episodes, worlds.source.scenes, worlds.catalog)
        worlds._losses, worlds.set_aside, worlds.log = {}, [], []
        return worlds

    monkeypatch.setattr(LanguageRearrangementVectorEnv, "_open", open_kept)
    monkeypatch.setattr(LanguageRearrangementVectorEnv, "close_extras", lambda self, **kwargs: None)

    def make_one(num_envs: int, **others: Any) -> LanguageRearrangementVectorEnv:
        usual: dict[str, Any] = {"output": "torch", "episode_set": few, "autoreset_mode": "same_step"}
        return LanguageRearrangementVectorEnv(num_envs, **settings(**usual | others))

    return make_one


def solve(env: LanguageRearrangementVectorEnv, most: int = 32) -> tuple:
    """Play world 0 to its end by the oracle; returns what the last step gave."""
    oracle = Oracle()
    oracle.reset(env.planner_views()[0])
    for _ in range(most):
        action = torch.zeros(env.num_envs, dtype=torch.int64)
        action[0] = oracle.act(env.planner_views()[0])
        outcome = env.step(action if env.output == "torch" else action.numpy())
        if outcome[2][0] or outcome[3][0]:
            break
    return outcome


def test_the_contract(make):
    check_env(make)


def test_a_saved_run_goes_on_bit_for_bit_in_another_process(make):
    env = make(1, seed=3)
    env.reset(seed=3)
    actions = [int(env.valid_actions()[0].nonzero()[k, 0]) for k in (0, 5, 9)]
    env.step(torch.tensor(actions[:1]))
    saved = env.state_dict()
    runs = []
    for _ in range(2):
        runs.append([env.step(torch.tensor([a])) for a in actions])
        old = env.world._pool.workers[0].process.pid
        assert env.world._pool.replace(0).process.pid != old
        env.load_state_dict(saved)
        assert torch.equal(env.current_observation()["instruction_id"], runs[0][0][0]["instruction_id"])
    for one, other in zip(*runs, strict=True):
        assert all(torch.equal(a, b) for a, b in zip((*one[0].values(), *one[1:4]), (*other[0].values(), *other[1:4]),
                                                     strict=True))  # fmt: skip


def test_a_killed_process_loses_its_episode_and_nothing_else(make):
    runs = []
    for kill in (False, True):
        env = make(3, seed=2)
        run = [env.reset(seed=2)[0]["rgb"][1:]]
        for step in range(6):
            if kill and step == 3:
                env.world._pool.workers[0].process.kill()
            observation, reward, terminated, truncated, info = env.step(torch.tensor([12, 3 + step, 9 - step]))
            run += [observation["rgb"][1:], reward[1:], terminated[1:], truncated[1:], info["progress"][1:]]
            assert info["dropped"].tolist() == [kill and step == 3, False, False]
            if kill and step == 3:
                assert truncated[0] and reward[0] == 0 and not info["success"][0]
                again = make(1, seed=2, episode_set=env.episodes.select([int(env.world.episode[0])]))
                first, _ = again.reset()
                assert torch.equal(first["rgb"][0], observation["rgb"][0])  # the next episode as it begins
        runs.append(run)
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_gymnasium_make(make):
    env = gymnasium.make("LanguageRearrangement-v0", **settings())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check_env(env.unwrapped)
    observation, info = env.reset(seed=1)
    assert observation["rgb"].shape == (64, 64, 3) and isinstance(observation["instruction"], str)
    _, _, terminated, truncated, info = env.step(12)
    assert not (terminated or truncated or info["dropped"])


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_gymnasium_make_vec(make, mode):
    env = gymnasium.make_vec(
        "LanguageRearrangement-v0", num_envs=3, output="numpy", autoreset_mode=mode, **settings()
    )
    observation, _ = env.reset(seed=1)
    env.action_space.seed(0)
    assert observation in env.observation_space
    ends = 0
    for _ in range(34):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space and isinstance(reward, np.ndarray)
        assert info["dropped"].dtype == bool and not info["dropped"].any()
        if (terminated | truncated).any():
            ends += 1
            assert ("final_obs" in info) == (mode == "same_step")
            for i in np.flatnonzero(terminated | truncated) if mode == "same_step" else ():
                final, now = info["final_obs"][i], {"rgb": observation["rgb"][i]}
                assert final["instruction"] and (final["rgb"] != now["rgb"]).any()
    assert ends


def test_the_final_observation_is_the_last_of_the_old_episode(make):
    env, watched = make(1, seed=1), make(1, seed=1, autoreset_mode="disabled")
    env.reset(seed=1)
    solve(env)
    final, held = env.final_observation()["rgb"], env.final_state().held
    now = env.current_observation()["rgb"]
    assert not torch.equal(final, now)
    watched.reset(seed=1)  # the same simulator: `env` must not be used any more
    observation, _, terminated, _, info = solve(watched)
    assert terminated[0] and info["success"][0] and info["progress"][0] > 0
    assert torch.equal(observation["rgb"], final) and torch.equal(watched.world.state.held, held)


def test_what_the_head_camera_sees(make):
    env = make(1, seed=1)
    env.reset(seed=1)
    seen = 0
    for action in range(10):
        env.step(torch.tensor([action]))
        visible = env.world.visible(min_pixels=1)[0]
        assert not visible[env.world.state.object_model[0] < 0].any()  # no empty slot is seen
        slots = env.world.seen_slots()[0]
        shown = slots[(slots >= 0) & (slots < len(visible))].unique()  # one more is the robot
        assert slots.shape == (64, 64) and set(shown.tolist()) == set(visible.nonzero()[:, 0].tolist())
        seen += int(visible.sum())
    assert seen > 5


def test_the_camera_that_follows_the_robot(make):
    env = make(1, seed=1)
    env.reset(seed=1)
    here = env.world.render_outside()
    env.step(env.valid_actions().nonzero()[3, 1:])
    there = env.world.render_outside()
    assert here.shape == (1, 512, 512, 3) and here.dtype == torch.uint8
    assert here.float().std() > 20 and not torch.equal(here, there)


def test_valid_actions_are_what_the_simulator_accepts(make):
    env = make(3, seed=4)
    env.reset(seed=4)
    generator = torch.Generator().manual_seed(1)
    tried = torch.zeros(2, dtype=torch.int64)
    for _ in range(20):
        valid = env.valid_actions()
        action = torch.multinomial(valid.float() + 0.1, 1, generator=generator)[:, 0]
        *_, info = env.step(action)
        allowed = valid[torch.arange(3), action]
        assert torch.equal(info["invalid_action"], ~allowed)
        tried += torch.stack([allowed.sum(), (~allowed).sum()])
    assert tried.min() > 5


def test_episodes_are_played_scene_by_scene(make):
    env = make(3, seed=5)
    env.reset(seed=5)
    scenes = [env.episodes.scene[env.world.episode].clone()]
    for _ in range(3):
        env.reset()
        scenes.append(env.episodes.scene[env.world.episode].clone())
    assert sum(int((a != b).sum()) for a, b in zip(scenes, scenes[1:], strict=False)) <= 3


def test_a_quota_plays_every_episode_once(make, few):
    from llarp.config import RunConfig
    from llarp.evaluation.agents import make_agent
    from llarp.evaluation.evaluate import run_episodes

    env = make(3, episode_set=few.select([0, 1, 2, 3, 4, 7, 8, 9]), quota=True)
    results = run_episodes(env, make_agent(RunConfig(), None, "oracle", True, False))
    assert results.success.all() and (results.steps > 0).all() and "dropped" not in results.full_summary()


def test_built_in_episodes_in_apartments_of_ours():
    env = LanguageRearrangementVectorEnv(
        1, output="torch", autoreset_mode="disabled", backend="habitat", image_size=32, episodes=40, split="train"
    )
    try:
        observation, _ = env.reset(seed=0)
        assert observation["rgb"].float().std() > 5
        *_, terminated, _, info = solve(env)
        assert terminated[0] and info["success"][0]
        assert any("stand-in" in note for note in asset_notes(env.config))
    finally:
        env.close()


def test_reading_a_state_back_changes_nothing(make):
    env = make(1, seed=6)
    env.reset(seed=6)
    started = env.world._beginning(int(env.world.episode[0]), int(env.world.occurrence[0])).state
    for field in dataclasses.fields(started):
        was, now = getattr(started, field.name), getattr(env.world.state, field.name)
        if field.name not in ("nav_pose", "nav_height") and was.dtype.is_floating_point:
            torch.testing.assert_close(now, was, atol=2e-3, rtol=0, equal_nan=True)
        elif field.name not in ("nav_pose", "nav_height"):
            assert torch.equal(now, was), field.name
