"""Before PPO follows a warm start: a linear critic fitted to the policy's own returns, everything else untouched."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from llarp.policy.base import Policy

from .collect import Collector
from .config import PPOConfig
from .ppo import explained_variance
from .returns import ReturnScale
from .rollout import Rollout
from .update import returns_of

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Strengths tried, relative to the mean variance of the critic's inputs."""


@torch.no_grad()
def fit_critic(
    env: Any,
    policy: Policy,
    config: PPOConfig,
    steps: int,
    stop: Callable[[], bool] = lambda: False,
    scale: ReturnScale | None = None,
) -> dict[str, float]:
    """Fits the critic by ridge regression on the discounted returns of at least `steps` fresh environment steps.

    With `ppo.normalize_returns` these count for the `scale`, and the returns are as divided by it.

    The policy must have one `nn.Linear` named "critic" that reads (B, T, dim) features. The strength is chosen on a
    fifth of the worlds (of the steps, where there are fewer than five worlds); returns are of whole episodes only.
    """
    collector = Collector(env, policy)
    collector.start()
    collector.run(math.ceil(steps / env.num_envs), stop)
    rollout = collector.finish()
    if config.normalize_returns and scale is not None:
        scale.normalize(rollout)
    zero = torch.zeros_like(rollout.data["value"])
    _, returns = returns_of(rollout, zero, zero, config, gae_lambda=1.0)
    done = rollout.data["terminated"] | rollout.data["truncated"]
    row = torch.arange(len(done), device=done.device)[:, None]
    end = torch.where(done, row, len(done)).flip(0).cummin(0).values.flip(0)  # (T, N) row of the episode's last step
    seen = torch.cat([done & rollout.kept, torch.zeros_like(done[:1])])
    whole = seen.gather(0, end)  # (T, N) the episode's end, and so its return, was seen
    critic = critic_of(policy)
    inputs, targets, world = _critic_inputs(policy, critic, rollout, config, returns, whole)
    if len(targets) < 10:
        return {"critic_transitions": len(targets), "critic_explained_variance": 0.0}
    group = world if env.num_envs >= 5 else torch.arange(len(world), device=world.device)
    check = group % 5 == 0
    scores = []
    for ridge in RIDGES:
        weight, bias = _ridge(inputs[~check], targets[~check], ridge)
        scores.append(explained_variance(inputs[check] @ weight + bias, targets[check]))
    best = max(range(len(RIDGES)), key=scores.__getitem__)
    weight, bias = _ridge(inputs, targets, RIDGES[best])
    critic.weight.copy_(weight[None])
    critic.bias.copy_(bias)
    return {"critic_transitions": len(targets), "critic_explained_variance": scores[best]}


def critic_of(policy: Policy) -> nn.Linear:
    """The policy's linear critic; TypeError unless there is exactly one module of that name and kind."""
    found = [m for name, m in policy.named_modules() if name.split(".")[-1] == "critic" and isinstance(m, nn.Linear)]
    if len(found) != 1:
        raise TypeError(f"{type(policy).__name__} has {len(found)} linear layers named 'critic', expected one")
    return found[0]


def _critic_inputs(
    policy: Policy, critic: nn.Linear, rollout: Rollout, config: PPOConfig, returns: Tensor, whole: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the critic reads (n, dim), the returns (n,), both float64, and the world (n,) of all whole transitions."""
    seen: list[Tensor] = []
    handle = critic.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    inputs, targets, worlds = [], [], []
    try:
        for piece in rollout.pieces(config.micro_batch_tokens, config.micro_batch_fill):
            seen.clear()
            policy.action_logits(piece.batch)
            keep, read, mask = piece.take(whole), seen[0], piece.loss_mask
            if read.dim() < 3:  # without padding
                mask = mask[piece.batch.valid]
            inputs.append(read[mask][keep].double())
            targets.append(piece.take(returns)[keep].double())
            worlds.append(piece.world[piece.loss_mask][keep])
    finally:
        handle.remove()
    return torch.cat(inputs), torch.cat(targets), torch.cat(worlds)


def _ridge(inputs: Tensor, targets: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Weights (dim,) and bias of the regression that does not punish the bias."""
    mean, target_mean = inputs.mean(0), targets.mean()
    centred = inputs - mean
    covariance = centred.T @ centred / len(inputs)
    strength = ridge * covariance.diagonal().mean().clamp(min=1e-12)
    moment = centred.T @ (targets - target_mean) / len(inputs)
    weight = torch.linalg.solve(covariance + strength * torch.eye(len(covariance)).to(covariance), moment)
    return weight, target_mean - mean @ weight
