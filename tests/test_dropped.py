"""Steps that a simulator lost: trained on nowhere, counted nowhere, and the episode before them is judged by what was
seen last."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from memory_env import CHOICES, MemoryEnv, RecurrentPolicy
from torch import Tensor

from llarp.policy.base import SegmentBatch
from llarp.rl.collect import Collector
from llarp.rl.config import PPOConfig, TrainConfig
from llarp.rl.critic import fit_critic
from llarp.rl.ppo import gae
from llarp.rl.rollout import Rollout, RolloutBuffer
from llarp.rl.trainer import EpisodeWindow, Trainer
from llarp.rl.update import ppo_update, recompute, returns_of, trainable_parameters

POISON = 250
"""What the picture shows that does not exist: the final one of a lost episode."""


class FlakyEnv(MemoryEnv):
    """Loses the steps `lost`, pairs of (step, world); every episode has its first picture."""

    def __init__(self, num_envs: int, lost: set[tuple[int, int]] | None, **settings: Any) -> None:
        super().__init__(num_envs, **settings)
        self.lost, self.clock, self.completed = lost, 0, 0
        self._age = torch.zeros_like(self._age)

    def step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, dict[str, Tensor]]:
        if self.lost is None:
            return super().step(action)
        lost = torch.tensor([(self.clock, i) in self.lost for i in range(self.num_envs)])
        self.clock += 1
        self._age = torch.where(lost, self.delay, self._age)  # whatever its age, the episode ends
        observation, reward, terminated, truncated, info = super().step(action)
        self._final["rgb"] = torch.where(lost[:, None, None, None], POISON, self._final["rgb"])
        self.completed += int(((terminated | truncated) & ~lost).sum())
        info |= {"success": info["success"] & ~lost, "dropped": lost}
        return observation, torch.where(lost, 0.0, reward), terminated & ~lost, truncated | lost, info

    def planner_views(self) -> list[Any]:
        answers = CHOICES * self._colour + self._instruction
        return [SimpleNamespace(answer=answer) for answer in answers.tolist()]


def collected(lost: set[tuple[int, int]] | None, steps: list[int], final: bool = False, num_envs: int = 3):
    """A policy and its rollouts of so many steps each."""
    torch.manual_seed(0)
    policy = RecurrentPolicy()
    collector = Collector(FlakyEnv(num_envs, lost), policy, final)
    collector.start()
    rollouts = []
    for count in steps:
        for _ in range(count):
            collector.step()
        rollouts.append(collector.finish())
    return policy, rollouts


class Reader:
    """A policy whose value of an observation is its feature."""

    pads = True

    def evaluate_segments(self, batch: SegmentBatch) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros(batch.action.shape), torch.zeros(batch.action.shape), batch.features[..., 0, 0]


def rollout_of(values: list[float], rewards: list[float], border: float, lost: int | None, final: bool) -> Rollout:
    """One world, one episode; from step `lost` + 1 on another one."""
    buffer = RolloutBuffer()
    for t, (value, reward) in enumerate(zip(values, rewards, strict=True)):
        gone = torch.tensor([t == lost])
        extra = {"final_features": torch.full((1, 1, 1), 1000.0)} if final else {}
        buffer.add(
            features=torch.full((1, 1, 1), value), instruction_id=torch.zeros(1, dtype=torch.int64),
            episode_start=torch.tensor([t == 0 or lost is not None and t == lost + 1]),
            action=torch.tensor([t]), log_prob=torch.zeros(1), value=torch.zeros(1), reward=torch.tensor([reward]),
            terminated=torch.tensor([False]), truncated=gone, dropped=gone, success=torch.tensor([False]),
            invalid_action=torch.tensor([False]), **extra,
        )  # fmt: skip
    return buffer.finish(torch.full((1, 1, 1), border))


@pytest.mark.parametrize("bootstrap", [False, True])
def test_the_step_before_a_lost_one_is_worth_what_was_seen_last(bootstrap: bool) -> None:
    config = PPOConfig(gamma=0.5, gae_lambda=0.5, bootstrap_time_limit=bootstrap)
    # Values 2, 6, 4, then the third action is lost; another episode begins, worth 10 and then 20 at the border.
    # delta_1 = 2 + 0.5 * 4 - 6 = -2 = A_1, nothing flows back from later; A_0 = 1 + 0.5 * 6 - 2 + 0.25 * -2 = 1.5
    # A_3 = 5 + 0.5 * 20 - 10 = 5
    rollout = rollout_of([2, 6, 4, 10], [1, 2, 70, 5], 20, lost=2, final=bootstrap)
    _, value, next_value = recompute(Reader(), rollout, config)
    advantage, returns = returns_of(rollout, value, next_value, config, config.gae_lambda)
    assert rollout.kept[:, 0].tolist() == [True, True, False, True] and rollout.num_transitions == 3
    assert advantage[rollout.kept].tolist() == [1.5, -2, 5]
    assert returns[rollout.kept].tolist() == [3.5, 4, 15]
    # The same as if the rollout had ended there, waiting for the third action.
    short = rollout_of([2, 6], [1, 2], 4, lost=None, final=bootstrap)
    _, value, next_value = recompute(Reader(), short, config)
    ended, _ = returns_of(short, value, next_value, config, config.gae_lambda)
    assert torch.equal(ended, advantage[:2])


def test_an_episode_lost_at_its_first_step_leaves_nothing() -> None:
    rollout = rollout_of([2, 10], [1, 5], 20, lost=0, final=False)
    (piece,) = rollout.pieces(100, 0.0, tails=True)
    assert piece.size == 1 and piece.batch.features[0, :, 0, 0].tolist() == [10, 20]
    none = rollout_of([2], [1], 20, lost=0, final=False)
    assert none.num_transitions == 0 and none.pieces(100, 0.0) == []


def expected_advantages(rollout: Rollout, config: PPOConfig) -> Tensor:
    """GAE of each stretch of steps alone, as if the rollout had ended before each lost step; zero at those."""
    data, done = rollout.data, rollout.data["terminated"] | rollout.data["truncated"]
    out = torch.zeros_like(data["reward"])
    for world in range(out.shape[1]):
        stretch: list[int] = []
        for t in range(rollout.num_steps):
            if rollout.kept[t, world]:
                stretch.append(t)
            if done[t, world] and stretch:
                reward, value = (data[name][stretch, world][:, None] for name in ("reward", "value"))
                border = torch.zeros(1) if rollout.kept[t, world] else data["value"][t, world][None]
                after = torch.cat([value[1:], border[None]])
                none = torch.zeros_like(reward, dtype=torch.bool)
                out[stretch, world] = gae(reward, value, after, none, none, config.gamma, config.gae_lambda)[0][:, 0]
            if done[t, world]:
                stretch = []
        out[stretch, world] = float("nan")  # still running at the rollout's border, which other tests look at
    return out


@settings(max_examples=40, deadline=None)
@given(
    lost=st.sets(st.tuples(st.integers(0, 14), st.integers(0, 2)), max_size=12),
    steps=st.lists(st.integers(1, 8), min_size=1, max_size=3),
    max_tokens=st.sampled_from([1, 9, 1000]),
    final=st.booleans(),
)
def test_whatever_is_lost_the_rest_is_trained_on_in_its_own_context(lost, steps, max_tokens, final) -> None:
    policy, rollouts = collected(lost, steps, final)
    config = PPOConfig(micro_batch_tokens=max_tokens)
    generator = torch.Generator().manual_seed(0)
    begun = 0
    for rollout in rollouts:
        gone = torch.tensor([[(begun + t, i) in lost for i in range(3)] for t in range(rollout.num_steps)])
        begun += rollout.num_steps
        assert torch.equal(rollout.kept, ~gone)
        count = torch.zeros(gone.shape)
        for minibatch in rollout.minibatches(2, generator, max_tokens, 0.5):
            for piece in minibatch:
                mask = piece.loss_mask
                assert piece.size == int(mask.sum()) > 0
                count.index_put_((piece.step[mask], piece.world[mask]), torch.ones(piece.size), accumulate=True)
        assert torch.equal(count, (~gone).float())
        log_prob, value, next_value = recompute(policy, rollout, config)
        for seen, acted in ((log_prob, "log_prob"), (value, "value")):
            torch.testing.assert_close(seen[rollout.kept], rollout.data[acted][rollout.kept], atol=1e-5, rtol=0)
        advantage, _ = returns_of(rollout, value, next_value, config, config.gae_lambda)
        expected = expected_advantages(rollout, config)
        checked = rollout.kept & ~expected.isnan()
        torch.testing.assert_close(advantage[checked], expected[checked], atol=1e-5, rtol=0)


LOST = {(2, 0), (5, 0), (6, 1), (8, 2), (11, 0), (12, 0)}


@pytest.mark.parametrize("bootstrap", [False, True])
def test_nothing_about_a_lost_step_reaches_the_update(bootstrap: bool) -> None:
    policy, rollouts = collected(LOST, [7, 8], bootstrap)
    rollout = rollouts[1]
    config = PPOConfig(normalize_advantage=True, bootstrap_time_limit=bootstrap, num_minibatches=2, target_kl=1e-3)
    results = []
    for junk in (0.0, 1e6):
        for name in ("reward", "log_prob", "value"):
            rollout.data[name][~rollout.kept] = junk
        trained = copy.deepcopy(policy)
        optimizer = torch.optim.SGD(trainable_parameters(trained), lr=0.1)
        stats = ppo_update(trained, optimizer, rollout, config, torch.Generator().manual_seed(1))
        results.append((torch.cat([p.flatten() for p in trainable_parameters(trained)]), stats))
    assert (~rollout.kept).sum() == 3 and rollout.num_transitions == 3 * 8 - 3
    assert torch.equal(results[0][0], results[1][0]) and results[0][1] == results[1][1]
    assert not torch.equal(results[0][0], torch.cat([p.flatten() for p in trainable_parameters(policy)]))


def test_an_environment_that_never_loses_a_step_trains_the_same_whether_it_says_so_or_not() -> None:
    weights = []
    for lost in (None, set()):
        policy, rollouts = collected(lost, [7, 8])
        optimizer = torch.optim.SGD(trainable_parameters(policy), lr=0.1)
        ppo_update(policy, optimizer, rollouts[1], PPOConfig(), torch.Generator().manual_seed(1))
        weights.append(torch.cat([p.flatten() for p in trainable_parameters(policy)]))
    assert torch.equal(*weights)


def test_a_lost_episode_counts_neither_as_an_episode_nor_as_steps() -> None:
    window = EpisodeWindow(num_envs=2, size=9)
    flags = {"terminated": [[0, 0], [0, 0], [1, 0]], "truncated": [[0, 1], [1, 0], [0, 1]],
             "dropped": [[0, 0], [1, 0], [0, 0]], "success": [[0, 0], [0, 0], [1, 0]]}  # fmt: skip
    data = {name: torch.tensor(rows, dtype=torch.bool) for name, rows in flags.items()}
    data["reward"] = torch.tensor([[100.0, 2.0], [0.0, 3.0], [5.0, 4.0]])
    window.add(SimpleNamespace(data=data, num_steps=3))
    # World 0 lost an episode that had earned 100, then won 5; world 1 ended with 2 and with 3 + 4.
    expected = {"episodes": 3, "success_rate": pytest.approx(1 / 3), "mean_return": pytest.approx(14 / 3), "dropped": 1}
    assert window.metrics() == expected
    restored = EpisodeWindow(2, 9)
    restored.load_state_dict(window.state_dict())
    assert restored.metrics() == expected


def trainer_of(lost: set[tuple[int, int]], log: list[dict[str, float]]) -> Trainer:
    torch.manual_seed(0)
    ppo = PPOConfig(num_steps=5, num_minibatches=2)
    return Trainer(FlakyEnv(2, lost), RecurrentPolicy(), ppo, TrainConfig(total_steps=25), seed=0, log=log.append)


def test_a_run_goes_on_through_losses_and_counts_the_steps_it_had() -> None:
    log: list[dict[str, float]] = []
    trainer_of({(1, 0), (7, 1), (8, 1)}, log).run()
    assert [row["env_steps"] for row in log] == [9, 17, 27]
    assert [row.get("dropped") for row in log] == [1, 3, 3]
    assert trainer_of(set(), log).summary().keys() == {"env_steps", "updates", "wall_s", "steps_per_s", "episodes",
                                                       "success_rate", "mean_return"}  # fmt: skip


def test_a_rollout_of_which_everything_was_lost_is_passed_over() -> None:
    log: list[dict[str, float]] = []
    trainer = trainer_of({(t, i) for t in range(5) for i in range(2)}, log)
    trainer.run()
    assert [row["env_steps"] for row in log] == [10, 20, 30] and trainer.updates == 3
    assert log[0]["dropped"] == 10


def test_the_critic_is_fitted_to_whole_episodes_only() -> None:
    torch.manual_seed(0)
    env, policy = FlakyEnv(6, {(t, (3 * t) % 6) for t in range(0, 80, 7)}), RecurrentPolicy()
    fitted = fit_critic(env, policy, PPOConfig(), steps=6 * 80)
    assert env.completed > 60 and fitted["critic_transitions"] == 4 * env.completed
