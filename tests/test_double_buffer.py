"""Double-buffered sampling: two halves that overlap, give what each would alone, and resume bit for bit."""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
import torch
from memory_env import MemoryEnv, RecurrentPolicy

from llarp.config import load
from llarp.envs.double_buffer import DoubleBuffered
from llarp.envs.vector import LanguageRearrangementVectorEnv
from llarp.errors import UserError
from llarp.rl import checkpoint
from llarp.rl.collect import Collector
from llarp.rl.config import PPOConfig, TrainConfig
from llarp.rl.trainer import Trainer
from llarp.train import build_training_env


class Half(MemoryEnv):
    """A memory world that begins and ends its steps apart, and keeps a diary."""

    episodes = config = device = None

    def __init__(self, num_envs: int, rank: int, world_size: int, diary: list[str], **unused) -> None:
        super().__init__(num_envs, seed=rank)
        self.name, self.diary = f"half {rank} of {world_size}", diary
        self.silent, self.other_end = Pipe()

    def step_async(self, action: torch.Tensor) -> None:
        self.diary.append(f"{self.name} begins")
        self.action = action

    def step_wait(self):
        self.diary.append(f"{self.name} ends")
        return self.step(self.action)

    slow = False

    def unanswered(self) -> list[Connection]:
        return [self.silent] if self.slow else []

    def close(self) -> None:
        self.diary.append(f"{self.name} closed")


class Steady(RecurrentPolicy):
    """Takes the likeliest action, so that nothing depends on who draws random numbers first."""

    def act(self, obs, state, episode_start, deterministic=False, generator=None):
        return super().act(obs, state, episode_start, deterministic=True)


def halves(num_envs: int = 5, diary: list[str] | None = None) -> DoubleBuffered:
    log: list[str] = [] if diary is None else diary
    return DoubleBuffered(lambda **given: Half(diary=log, **given), num_envs)


def steady() -> Steady:
    torch.manual_seed(0)
    return Steady()


def test_one_half_is_simulated_while_the_policy_acts_in_the_other():
    diary: list[str] = []
    env = halves(diary=diary)
    collector = Collector(env, steady())
    collector.start()
    env.halves[0].slow = True
    collector.run(4)
    assert diary[:2] == ["half 0 of 2 begins", "half 1 of 2 begins"]  # both at work at once
    assert diary[2:9] == ["half 1 of 2 ends", "half 1 of 2 begins"] * 3 + ["half 1 of 2 ends"]  # does not wait
    assert diary.count("half 0 of 2 ends") == diary.count("half 1 of 2 ends") == 4
    assert collector.finish().num_steps == 4


def test_a_run_that_is_stopped_ends_with_as_many_steps_in_both_halves():
    diary: list[str] = []
    env = halves(diary=diary)
    collector = Collector(env, steady())
    collector.start()
    env.halves[0].slow = True
    collector.run(9, lambda: diary.count("half 1 of 2 ends") == 3)
    assert diary.count("half 0 of 2 ends") == diary.count("half 1 of 2 ends") == collector.finish().num_steps == 3


def test_each_half_goes_through_what_it_would_alone():
    env = halves(5)
    assert [half.num_envs for half in env.halves] == [3, 2] and env.num_envs == 5
    together = Collector(env, steady(), final_observations=True)
    alone = [Collector(Half(n, i, 2, []), steady(), final_observations=True) for i, n in enumerate((3, 2))]
    for collector in (together, *alone):
        collector.start()
    for _ in range(3):  # rollouts, whose episodes straddle their borders
        for collector in (together, *alone):
            collector.run(6)
        whole, first, second = (collector.finish() for collector in (together, *alone))
        for name, value in whole.data.items():
            torch.testing.assert_close(value, torch.cat([first.data[name], second.data[name]], 1))
        assert len(whole.world) == len(first.world) + len(second.world)


def trainer_of(folder: Path, total_steps: int) -> Trainer:
    torch.manual_seed(0)
    train = TrainConfig(total_steps=total_steps, checkpoint_interval=1)
    ppo = PPOConfig(num_steps=7, num_minibatches=2, lr=3e-3)
    return Trainer(halves(5), RecurrentPolicy(), ppo, train, seed=0, log=lambda _: None, checkpoint_dir=folder)


def test_a_resumed_run_is_the_same_bit_for_bit(tmp_path):
    whole = trainer_of(tmp_path / "whole", 4 * 35)
    whole.run()
    part = trainer_of(tmp_path / "part", 2 * 35)
    part.run()
    resumed = trainer_of(tmp_path / "part", 4 * 35)
    resumed.load(checkpoint.latest_in(tmp_path / "part"))
    resumed.run()
    assert resumed.updates == whole.updates == 4
    for mine, theirs in zip(resumed.policy.parameters(), whole.policy.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    alone = Collector(MemoryEnv(5), RecurrentPolicy())
    with pytest.raises(UserError, match=r"keep it"):
        alone.load_state_dict(resumed.collector.state_dict())


def test_a_run_of_an_older_policy_that_remembered_less_is_refused():
    collector = Collector(MemoryEnv(5), RecurrentPolicy())
    collector.start()
    saved = collector.state_dict()
    collector.load_state_dict(saved)
    del saved["parts"][0]["policy_state"]["hidden"]
    with pytest.raises(UserError, match=r"older llarp, whose policy remembered no hidden: .* train\.init=RUN"):
        collector.load_state_dict(saved)


def test_the_household_worlds_share_the_episodes_among_the_halves():
    config = load("default", ("env.double_buffer=true", "env.num_envs=3", "env.image_size=16", "env.episodes=20"))
    env = build_training_env(config)
    assert isinstance(env, DoubleBuffered) and env.halves[1].episodes is env.halves[0].episodes
    played = [[], []]
    for seen, half in zip(played, env.halves, strict=True):
        half.reset()
        for _ in range(20 // (2 * half.num_envs)):
            seen += half.world.episode.tolist()
            half.reset()
    assert not set(played[0]) & set(played[1]) and len(set(played[0])) > 5  # one pass: each episode in one half only
    upcoming = env.upcoming_instructions(4)
    assert 0 < len(upcoming) <= 4 and all(isinstance(text, str) for text in upcoming)
    env.close()
    with pytest.raises(UserError, match="at least 2 worlds"):
        build_training_env(load("default", ("env.double_buffer=true", "env.num_envs=1", "env.episodes=20")))


def test_a_step_is_begun_and_ended_once():
    env = LanguageRearrangementVectorEnv(2, output="torch", episodes=4, image_size=16)
    action = torch.tensor([3, 4])
    with pytest.raises(RuntimeError, match="before reset"):
        env.step_async(action)
    env.reset(seed=1)
    with pytest.raises(RuntimeError, match="without step_async"):
        env.step_wait()
    env.step_async(action)
    with pytest.raises(RuntimeError, match="step_wait"):
        env.step_async(action)
    with pytest.raises(RuntimeError, match="under way"):
        env.reset()
    apart = env.step_wait()
    env.reset(seed=1)
    at_once = env.step(action)
    assert torch.equal(apart[0]["rgb"], at_once[0]["rgb"]) and torch.equal(apart[1], at_once[1])

