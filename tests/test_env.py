"""The embedded environment keeps the contract, the checker finds broken ones, and Gymnasium's own checks pass."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from gymnasium.vector import AutoresetMode

import llarp  # noqa: F401  (registers the environment)
from llarp.envs.checker import ContractViolation, check_env
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.errors import UserError

SETTINGS: dict[str, Any] = {"image_size": 32, "episodes": 40}


class Embedded(LanguageRearrangementVectorEnv):
    def __init__(self, num_envs: int, **settings: Any):
        super().__init__(num_envs, output="torch", **SETTINGS, **settings)


def test_the_embedded_environment_keeps_the_contract():
    check_env(Embedded)


# -- environments broken in one way each -------------------------------------------------------------------------------


class WrongPictureType(Embedded):
    def _observation(self):
        observation = super()._observation()
        return observation | {"rgb": observation["rgb"].float()}


class NoProgressInInfo(Embedded):
    def _info(self, *args):
        info = super()._info(*args)
        del info["progress"]
        return info


class ReusedBuffer(Embedded):
    def _observation(self):
        observation = super()._observation()
        if not hasattr(self, "_buffer"):
            self._buffer = torch.zeros_like(observation["rgb"])
        self._buffer.copy_(observation["rgb"])
        return observation | {"rgb": self._buffer}


class TruncatesEarly(Embedded):
    def __init__(self, num_envs: int, **settings: Any):
        from llarp.tasks.task import TaskConfig

        super().__init__(num_envs, task=TaskConfig(max_steps=31), **settings)


class BothFlags(Embedded):
    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        return observation, reward, terminated, truncated | terminated, info


class SuccessIsNotTermination(Embedded):
    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        return observation, reward, torch.zeros_like(terminated), truncated | terminated, info


class NotANumber(Embedded):
    def step(self, actions):
        observation, reward, terminated, truncated, info = super().step(actions)
        return observation, reward / 0, terminated, truncated, info


class HidesInvalidActions(Embedded):
    def _info(self, result, invalid, action):
        return super()._info(result, torch.zeros_like(invalid), action)


class WorldsDependOnTheirNumber(Embedded):
    def _start(self, seed):
        super()._start(seed + 1000 * self.num_envs)


class ForgetsItsState(Embedded):
    def load_state_dict(self, state):
        super().load_state_dict(state)
        self.sampler.drawn += 1


class WrongModeDeclared(Embedded):
    def __init__(self, num_envs: int, **settings: Any):
        super().__init__(num_envs, **settings)
        self.metadata = self.metadata | {"autoreset_mode": AutoresetMode.DISABLED}


class UnseededWorlds(Embedded):
    def _start(self, seed):
        super()._start(int(torch.randint(10**6, ())))


BROKEN = [
    (WrongPictureType, "rgb is uint8"),
    (NoProgressInInfo, "info has progress"),
    (ReusedBuffer, "not overwritten"),
    (TruncatesEarly, "truncated at 32 steps"),
    (BothFlags, "exclude each other"),
    (SuccessIsNotTermination, "terminated says success"),
    (NotANumber, "finite"),
    (HidesInvalidActions, "invalid_action says"),
    (WorldsDependOnTheirNumber, "every number of worlds"),
    (ForgetsItsState, "bit for bit"),
    (WrongModeDeclared, "declares the autoreset mode"),
    (UnseededWorlds, "same seed and actions"),
]


@pytest.mark.parametrize(("broken", "rule"), BROKEN, ids=lambda x: getattr(x, "__name__", ""))
def test_the_checker_rejects(broken, rule):
    with pytest.raises(ContractViolation, match=rule):
        check_env(broken)


# -- Gymnasium ---------------------------------------------------------------------------------------------------------


def test_gymnasium_checks_the_single_environment():
    env = gymnasium.make("LanguageRearrangement-v0", **SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gymnasium_check_env(env.unwrapped)


@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_make_vec_gives_spaces_that_hold_what_comes_back(mode):
    env = gymnasium.make_vec("LanguageRearrangement-v0", num_envs=3, output="numpy", autoreset_mode=mode, **SETTINGS)
    observation, _ = env.reset(seed=1)
    env.action_space.seed(0)
    assert observation in env.observation_space
    finals = 0
    for _ in range(70):
        observation, reward, terminated, truncated, info = env.step(env.action_space.sample())
        assert observation in env.observation_space
        assert reward.shape == terminated.shape == truncated.shape == (3,)
        done = terminated | truncated
        if mode == "same_step" and done.any():
            assert list(info["_final_obs"]) == list(done)
            for i in np.flatnonzero(done):
                assert info["final_obs"][i] in env.single_observation_space
                finals += 1
    assert finals > 0 or mode == "next_step"
    env.close()


def test_same_episode_same_pictures_whatever_the_neighbours():
    runs = []
    for num_envs in (1, 4):
        env = Embedded(num_envs, autoreset_mode="same_step", seed=2)
        pictures = [env.reset(seed=2)[0]["rgb"][0]]
        for action in (5, 16, 8, 30, 12, 56):  # within the first episode
            pictures.append(env.step(torch.full((num_envs,), action))[0]["rgb"][0])
        runs.append(torch.stack(pictures))
    assert torch.equal(*runs)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"output": "jax"}, "choose numpy or torch"),
        ({"autoreset_mode": "never"}, "choose next_step"),
        ({"image_sise": 32}, "unknown environment setting 'image_sise'"),
        ({"image_size": 0}, "at least 16"),
        ({"split": "nowhere"}, "unknown split 'nowhere'"),
        ({"dataset": "missing.safetensors"}, "missing.safetensors"),
        ({"dataset": "published.pickle"}, "add scenes=FOLDER"),
        ({"scenes": "replica_cad"}, "scenes=replica_cad: no such folder: give a ReplicaCAD download"),
        ({"objects": "ycb"}, "objects=ycb goes with ReplicaCAD: add scenes=FOLDER"),
        ({"dataset": "none.pickle", "scenes": "replica_cad"}, "dataset=none.pickle cannot be read"),
        ({"rules": "folklore"}, "choose clean or published"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, words):
    with pytest.raises(UserError, match=words) as error:
        LanguageRearrangementVectorEnv(2, **(SETTINGS | settings))
    assert "\n" not in str(error.value)


def test_a_state_of_other_worlds_is_refused():
    env = Embedded(2, autoreset_mode="same_step", seed=2)
    env.reset(seed=2)
    saved = env.state_dict()
    with pytest.raises(UserError, match="2 saved worlds, not 3"):
        Embedded(3, autoreset_mode="same_step", seed=2).load_state_dict(saved)
    with pytest.raises(UserError, match="other episodes"):
        Embedded(2, autoreset_mode="same_step", seed=3).load_state_dict(saved)


def test_actions_out_of_range_and_wrong_shapes_are_refused():
    env = LanguageRearrangementVectorEnv(2, **SETTINGS)
    with pytest.raises(RuntimeError, match="reset"):
        env.step(np.zeros(2, np.int64))
    env.reset(seed=0)
    with pytest.raises(ValueError, match="70"):
        env.step(np.array([70, 0]))
    with pytest.raises(ValueError, match="shape"):
        env.step(np.zeros(3, np.int64))
