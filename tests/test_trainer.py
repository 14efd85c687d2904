"""The training loop: ratios of 1 before the first step, bootstrapping, stopping."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from memory_env import MemoryEnv, RecurrentPolicy

from llarp.policy.base import SegmentBatch
from llarp.rl import trainer as trainer_module
from llarp.rl import update as update_module
from llarp.rl.collect import Collector
from llarp.rl.config import PPOConfig, TrainConfig
from llarp.rl.trainer import EpisodeWindow, Trainer
from llarp.rl.update import ppo_update, recompute, returns_of, trainable_parameters

CONTRACT = "env_steps wall_s steps_per_s episodes success_rate mean_return policy_loss value_loss entropy approx_kl"


def collected(num_steps: int, rollouts: int = 1, ppo: PPOConfig | None = None, num_envs: int = 6):
    """A policy and its last rollout of some, with episodes that start, end and straddle the borders."""
    torch.manual_seed(0)
    policy = RecurrentPolicy()
    collector = Collector(MemoryEnv(num_envs), policy, bool(ppo and ppo.bootstrap_time_limit))
    collector.start()
    for _ in range(rollouts):
        for _ in range(num_steps):
            collector.step()
        rollout = collector.finish()
    return policy, collector, rollout


def trainer_of(log: list | None = None, total_steps: int = 200, **settings: Any) -> Trainer:
    torch.manual_seed(0)
    ppo = PPOConfig(num_steps=7, num_minibatches=2, lr=3e-3)
    train = TrainConfig(total_steps=total_steps, **settings)
    return Trainer(MemoryEnv(4), RecurrentPolicy(), ppo, train, seed=0, log=[].append if log is None else log.append)


def test_the_update_sees_the_rollouts_log_probs_and_values():
    policy, _, rollout = collected(num_steps=7, rollouts=3)
    config = PPOConfig(micro_batch_tokens=20)
    log_prob, value, _ = recompute(policy, rollout, config)
    torch.testing.assert_close(log_prob, rollout.data["log_prob"], atol=1e-5, rtol=0)
    torch.testing.assert_close(value, rollout.data["value"], atol=1e-5, rtol=0)
    assert rollout.num_context > 0 and (rollout.begin < rollout.num_context).any()  # some episodes do straddle


def test_the_ratio_check_sees_a_shifted_context():
    policy, _, rollout = collected(num_steps=7, rollouts=3)
    rollout._features = rollout._features.roll(1, 0)
    log_prob, _, _ = recompute(policy, rollout, PPOConfig())
    assert (log_prob - rollout.data["log_prob"]).abs().max() > 1e-3


def test_borders_bootstrap_from_the_next_observation():
    policy, collector, rollout = collected(num_steps=6, rollouts=2)
    _, value, next_value = recompute(policy, rollout, PPOConfig())
    collector.step()
    upcoming = collector.finish().data["value"][0]
    running = ~(rollout.data["terminated"] | rollout.data["truncated"])[-1]
    assert running.any() and not running.all()
    torch.testing.assert_close(next_value[-1][running], upcoming[running], atol=1e-5, rtol=0)
    inside = ~(rollout.data["terminated"] | rollout.data["truncated"])[:-1]
    assert torch.equal(next_value[:-1][inside], value[1:][inside])


def test_time_limits_bootstrap_from_the_final_observation_when_asked():
    config = PPOConfig(bootstrap_time_limit=True, gamma=0.5)
    policy, _, rollout = collected(num_steps=8, ppo=config)
    _, value, next_value = recompute(policy, rollout, config)
    t, n = rollout.data["truncated"].nonzero()[-1].tolist()
    features = torch.cat([rollout._features[t - 3 : t + 1, n], rollout.data["final_features"][t, n][None]])[None]
    previous = torch.cat([torch.tensor([70]), rollout.data["action"][t - 3 : t + 1, n]])[None]
    instruction = rollout.data["instruction_id"][t, n][None]
    valid = torch.ones(1, 5, dtype=torch.bool)
    batch = SegmentBatch(instruction, features, previous, torch.zeros_like(previous), valid)
    expected = policy.evaluate_segments(batch)[2][0, -1]
    torch.testing.assert_close(next_value[t, n], expected, atol=1e-5, rtol=0)
    advantage, _ = returns_of(rollout, value, next_value, config, 0.9)
    torch.testing.assert_close(advantage[t, n], 0.5 * expected - value[t, n])  # the reward was 0
    paper, _ = returns_of(rollout, value, next_value, PPOConfig(gamma=0.5), 0.9)
    torch.testing.assert_close(paper[t, n], -value[t, n])


def test_micro_batches_change_the_memory_not_the_result():
    policy, _, rollout = collected(num_steps=9, rollouts=2)
    results = []
    for tokens in (1, 12, 10_000):
        trained = copy.deepcopy(policy)
        optimizer = torch.optim.SGD(trainable_parameters(trained), lr=0.1)
        config = PPOConfig(num_minibatches=3, micro_batch_tokens=tokens)
        stats = ppo_update(trained, optimizer, rollout, config, torch.Generator().manual_seed(1))
        results.append((torch.cat([p.flatten() for p in trainable_parameters(trained)]), stats))
    for parameters, stats in results[1:]:
        torch.testing.assert_close(parameters, results[0][0], atol=1e-5, rtol=0)
        assert stats == pytest.approx(results[0][1], abs=1e-4)
    assert not torch.equal(results[0][0], torch.cat([p.flatten() for p in trainable_parameters(policy)]))


def test_the_first_micro_batch_is_evaluated_once(monkeypatch):
    """Its evaluation before the loss is known gives the old values, and then the loss: one pass less, same result."""
    policy, _, rollout = collected(num_steps=9, rollouts=2)
    policy.pads = False  # one piece a mini-batch
    calls = []

    def trained(minibatches, watched):
        learner = copy.deepcopy(policy)
        evaluate = learner.evaluate_segments
        learner.evaluate_segments = lambda batch: calls.append(torch.is_grad_enabled()) or evaluate(batch)
        if not watched:
            monkeypatch.setattr(update_module, "Ahead", lambda *args: None)
        config = PPOConfig(num_minibatches=minibatches, num_epochs=2)
        optimizer = torch.optim.SGD(trainable_parameters(learner), lr=0.1)
        ppo_update(learner, optimizer, rollout, config, torch.Generator().manual_seed(1))
        monkeypatch.undo()
        return torch.cat([p.detach().flatten() for p in trainable_parameters(learner)])

    for minibatches in (1, 2):
        calls.clear()
        ahead = trained(minibatches, watched=True)
        assert sorted(calls) == [False] * (minibatches > 1) + [True] * (2 * minibatches)
        torch.testing.assert_close(ahead, trained(minibatches, watched=False), atol=1e-6, rtol=0)


def test_update_moves_trainable_weights_only_and_reports_what_the_contract_names():
    log: list[dict] = []
    trainer = trainer_of(log)
    before = {name: p.clone() for name, p in trainer.policy.named_parameters()}
    trainer.run()
    assert CONTRACT.split() + ["clip_fraction"] == [k for k in CONTRACT.split() + ["clip_fraction"] if k in log[-1]]
    assert trainer.env_steps == log[-1]["env_steps"] == 224 and trainer.updates == len(log) == 8
    for name, p in trainer.policy.named_parameters():
        assert torch.equal(p, before[name]) != p.requires_grad, name
    assert log[-1]["rollout_log_prob_gap_max"] < 1e-5


def test_a_rollout_that_is_not_the_policys_is_an_error():
    policy, _, rollout = collected(num_steps=4)
    rollout.data["log_prob"] += 1
    optimizer = torch.optim.Adam(trainable_parameters(policy))
    with pytest.raises(RuntimeError, match="max_log_prob_gap"):
        ppo_update(policy, optimizer, rollout, PPOConfig(), torch.Generator())


def test_gradients_that_are_not_finite_are_an_error():
    policy, _, rollout = collected(num_steps=4)
    rollout.data["reward"][0, 0] = float("nan")
    optimizer = torch.optim.Adam(trainable_parameters(policy))
    with pytest.raises(RuntimeError, match="non-finite"):
        ppo_update(policy, optimizer, rollout, PPOConfig(), torch.Generator())


def test_target_kl_ends_the_epochs():
    policy, _, rollout = collected(num_steps=8)
    optimizer = torch.optim.Adam(trainable_parameters(policy), lr=0.01)
    config = PPOConfig(num_epochs=5, target_kl=1e-6)
    assert ppo_update(policy, optimizer, rollout, config, torch.Generator())["epochs"] == 1


def test_stop_ends_at_once_and_time_is_a_limit():
    trainer, asked = trainer_of(total_steps=10**6), []
    trainer.run(stop=lambda: asked.append(1) or len(asked) > 4)
    assert trainer.env_steps == 4 * 4 and trainer.updates == 0 and len(trainer.collector.buffer) == 0
    trainer = trainer_of(total_steps=10**6, max_minutes=1e-6)
    trainer.run()
    assert trainer.updates == 1


def test_window_counts_the_last_episodes():
    window = EpisodeWindow(num_envs=2, size=2)
    data = {
        "reward": torch.tensor([[1.0, 2.0], [3.0, 0.0], [5.0, 4.0]]),
        "terminated": torch.tensor([[False, False], [True, False], [False, False]]),
        "truncated": torch.tensor([[False, True], [False, False], [False, False]]),
        "success": torch.tensor([[False, False], [True, False], [False, False]]),
    }
    window.add(SimpleNamespace(data=data, num_steps=3))
    # World 0 ended with 1 + 3 = 4, world 1 with 2; 5 and 4 belong to running episodes.
    assert window.metrics() == {"episodes": 2, "success_rate": 0.5, "mean_return": 3.0}
    data = {k: v[:1] for k, v in data.items()} | {"terminated": torch.tensor([[True, False]])}
    window.add(SimpleNamespace(data=data | {"success": torch.tensor([[True, False]])}, num_steps=1))
    # World 0: 5 + 1 = 6, success; world 1: 4 + 2 = 6, truncated; the first two have left the window.
    assert window.metrics() == {"episodes": 4, "success_rate": 0.5, "mean_return": 6.0}


def test_pictures_that_no_action_changed_are_not_looked_at_again():
    seen = []

    class Looking(RecurrentPolicy):
        def encode(self, rgb):
            seen.append(len(rgb))
            return super().encode(rgb)

    torch.manual_seed(0)
    policy = Looking()
    collector = Collector(MemoryEnv(6), policy)
    collector.start()
    collector.run(40)
    rollout = collector.finish()
    whole = 6 * 41
    assert whole / 4 < sum(seen) < whole  # an episode's later pictures are all grey: only its first two differ
    torch.testing.assert_close(rollout.data["log_prob"], recompute(policy, rollout, PPOConfig())[0], atol=1e-5, rtol=0)
    env, steps = collector.env, []
    for _ in range(5):
        collector.step()
        steps.append(torch.equal(collector.features, RecurrentPolicy.encode(policy, env.current["rgb"])))
    assert all(steps)


def test_memory_is_kept_between_updates_and_returned_every_eighth(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []
    monkeypatch.setattr(trainer_module, "keep_memory", lambda: calls.append("keep"))
    monkeypatch.setattr(trainer_module, "give_back_memory", lambda: calls.append("give back"))
    trainer = trainer_of([], total_steps=17 * 28)  # 4 worlds x 7 steps an update
    trainer.run()
    assert trainer.updates == 17 and trainer_module.MEMORY_INTERVAL == 8
    assert calls == ["keep", "give back", "give back"]
