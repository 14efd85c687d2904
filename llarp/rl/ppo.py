"""The mathematics of PPO (arXiv 1707.06347) and GAE (arXiv 1506.02438): pure functions on tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from .config import PPOConfig


def gae(
    reward: Tensor, value: Tensor, next_value: Tensor, terminated: Tensor, boundary: Tensor, gamma: float, lam: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, both (T, N), of T consecutive steps in N worlds.

    reward, value (T, N); next_value (T, N): value of what the step led to, in the same episode (at the rollout's border
    the next observation's, at a truncation the final observation's). terminated (T, N) bool: the step leads nowhere, so
    next_value is not read; a truncation that shall not bootstrap belongs here too. boundary (T, N) bool: the
    episode ends here, so nothing flows back from later steps.
    """
    delta = reward + gamma * torch.where(terminated, torch.zeros_like(next_value), next_value) - value
    keep = gamma * lam * (~(boundary | terminated)).to(delta.dtype)
    advantage = torch.empty_like(delta)
    running = torch.zeros_like(delta[0])
    for t in reversed(range(delta.shape[0])):
        running = delta[t] + keep[t] * running
        advantage[t] = running
    return advantage, advantage + value


def normalize(advantage: Tensor) -> Tensor:
    """Advantages scaled to mean 0 and standard deviation 1, any shape."""
    return (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)


def explained_variance(value: Tensor, return_: Tensor) -> float:
    """1 - var(return - value) / var(return): 1 is perfect, 0 no better than a constant; 0 where returns do not vary."""
    variance = return_.var(correction=0)
    return float(1 - (return_ - value).var(correction=0) / variance) if variance > 1e-12 else 0.0


def ppo_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantage: Tensor,
    value: Tensor,
    return_: Tensor,
    entropy: Tensor,
    old_value: Tensor,
    config: PPOConfig,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean loss over the transitions given (all arguments flat, the same length) and its parts, detached.

    loss = -min(ratio A, clip(ratio) A) + value_coef (value - return)^2 / 2 - entropy_coef entropy. `approx_kl` is the
    low-variance estimate mean(ratio - 1 - log ratio) of KL(old, new).
    """
    log_ratio = log_prob - old_log_prob
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip)
    policy_loss = -torch.minimum(ratio * advantage, clipped * advantage).mean()
    error = (value - return_).square()
    if config.clip_value > 0:
        near = old_value + (value - old_value).clamp(-config.clip_value, config.clip_value)
        error = torch.maximum(error, (near - return_).square())
    value_loss = 0.5 * error.mean()
    mean_entropy = entropy.mean()
    loss = policy_loss + config.value_coef * value_loss - config.entropy_coef * mean_entropy
    stats = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "entropy": mean_entropy,
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": ((ratio - 1).abs() > config.clip).float().mean(),
    }
    return loss, {name: part.detach() for name, part in stats.items()}
