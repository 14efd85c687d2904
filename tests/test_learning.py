"""PPO finds an optimum that needs the instruction and an earlier picture, and not when either is removed."""

from __future__ import annotations

import pytest
import torch
from memory_env import MemoryEnv, RecurrentPolicy
from tiny_llm import make_tiny_llm

from llarp.policy.base import Policy
from llarp.policy.config import PolicyConfig
from llarp.policy.policy import LLaRPPolicy
from llarp.rl.config import PPOConfig, TrainConfig
from llarp.rl.trainer import Trainer

WINDOW = 300  # episodes


def best_success(policy: Policy, env: MemoryEnv, total_steps: int, lr: float) -> float:
    """The highest success rate over WINDOW episodes in a row; training ends early at 96 %."""
    rates = [0.0]

    def log(metrics: dict[str, float]) -> None:
        if metrics["episodes"] >= WINDOW:
            rates.append(metrics["success_rate"])

    ppo = PPOConfig(num_steps=10, num_minibatches=2, num_epochs=4, lr=lr, max_grad_norm=0.5)
    train = TrainConfig(total_steps=total_steps, success_window=WINDOW)
    Trainer(env, policy, ppo, train, seed=0, log=log).run(stop=lambda: rates[-1] >= 0.96)
    return max(rates)


@pytest.fixture
def llarp(tmp_path) -> LLaRPPolicy:
    """LLaRP's policy over a tiny random language model and a tiny random vision model."""
    config = PolicyConfig(
        llm=str(make_tiny_llm(tmp_path)),
        vision="test_vit",
        vision_pool="mean",
        image_size=32,
        projector_hidden=64,
        action_hidden=64,
        max_instruction_tokens=24,
        max_steps=3,
        precision="float32",
    )
    torch.manual_seed(0)
    return LLaRPPolicy(config)


def test_a_recurrent_policy_learns():
    torch.manual_seed(0)
    assert best_success(RecurrentPolicy(), MemoryEnv(32, delay=2), total_steps=60_000, lr=5e-3) >= 0.95


@pytest.mark.parametrize("blind", ["picture", "instruction"])
def test_a_recurrent_policy_needs_both(blind):
    torch.manual_seed(0)
    assert best_success(RecurrentPolicy(), MemoryEnv(32, delay=2, blind=blind), total_steps=30_000, lr=5e-3) < 0.6


def test_llarp_learns(llarp):
    assert best_success(llarp, MemoryEnv(32, delay=2, size=32), total_steps=40_000, lr=3e-3) >= 0.95


@pytest.mark.parametrize("blind", ["picture", "instruction"])
def test_llarp_needs_both(llarp, blind):
    assert best_success(llarp, MemoryEnv(32, delay=2, size=32, blind=blind), total_steps=12_000, lr=3e-3) < 0.6
