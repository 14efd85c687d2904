"""One PPO update of any policy on one rollout."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from llarp.policy.base import Policy

from .config import PPOConfig
from .distributed import ALONE, Ranks, explained_over, mean_over, normalize_over
from .ppo import gae, ppo_loss
from .rollout import Piece, Rollout


def trainable_parameters(policy: torch.nn.Module) -> list[Tensor]:
    """What the optimiser moves."""
    return [p for p in policy.parameters() if p.requires_grad]


def fill_of(policy: Policy, config: PPOConfig) -> float:
    """How full micro-batches have to be: as the config says, or at all where padding costs nothing."""
    return config.micro_batch_fill if policy.pads else 0.0


class Ahead(NamedTuple):
    """The update's first micro-batch, evaluated (log-probability, entropy, value) before its loss can be known."""

    piece: Piece
    evaluated: tuple[Tensor, Tensor, Tensor]


@torch.no_grad()
def recompute(
    policy: Policy, rollout: Rollout, config: PPOConfig, ahead: Ahead | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities, values and next values of the rollout, (T, N) each, in the numerics of the update.

    A rollout decodes step by step, an update sees whole segments; in bfloat16 the two differ, and a ratio between
    them would move the policy for no reason. Next values are meaningless where a step has no successor. What `ahead`
    has evaluated, tails and all, is taken from there.
    """
    log_prob, value, next_value = (torch.zeros_like(rollout.data["value"]) for _ in range(3))

    def put(piece: Piece, evaluated: tuple[Tensor, Tensor, Tensor]) -> None:
        segment_log_prob, _, segment_value = evaluated
        piece.put(log_prob, segment_log_prob)
        piece.put(value, segment_value)
        piece.put(next_value, torch.cat([segment_value[:, 1:], torch.zeros_like(segment_value[:, :1])], 1))

    left = torch.ones(len(rollout.world), dtype=torch.bool)
    if ahead is not None:
        put(*ahead)
        left[ahead.piece.segments] = False
    index = left.nonzero().flatten()
    for piece in rollout.pieces(config.micro_batch_tokens, fill_of(policy, config), index, tails=True):
        put(piece, policy.evaluate_segments(piece.batch))
    return log_prob, value, next_value


def returns_of(
    rollout: Rollout, value: Tensor, next_value: Tensor, config: PPOConfig, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of a rollout, (T, N) each, with the ends of episodes as the config wants them.

    They mean nothing where a step was lost; the step before it is worth its reward and the value of what it led to.
    """
    terminated, truncated = rollout.data["terminated"], rollout.data["truncated"]
    final = terminated if config.bootstrap_time_limit else terminated | truncated
    boundary = terminated | truncated
    boundary[:-1] |= ~rollout.kept[1:]
    return gae(rollout.data["reward"], value, next_value, final, boundary, config.gamma, gae_lambda)


def ppo_update(
    policy: Policy,
    optimizer: torch.optim.Optimizer,
    rollout: Rollout,
    config: PPOConfig,
    generator: torch.Generator,
    ranks: Ranks = ALONE,
    beside: Callable[[int], dict[str, Tensor]] | None = None,
) -> dict[str, float]:
    """Trains the policy on every transition of the rollout (not on lost ones), once an epoch; returns means over them.

    `generator` (CPU) shuffles. Of several ranks each brings its own rollout, at least one of them with transitions: the
    k-th mini-batches of all are one (a rank that has fewer brings nothing to the last), means are over all ranks'
    transitions, and all return the same. Raises RuntimeError when the rollout's log-probabilities are not the
    update's, or when a gradient is not finite. `beside` is called for every mini-batch with its number of transitions,
    to add the gradient of another loss; it returns means to report.
    """
    drawing = (config.num_minibatches, generator, config.micro_batch_tokens, fill_of(policy, config))
    minibatches = rollout.minibatches(*drawing, tails=True)
    ahead: Ahead | None = None
    if minibatches and len(minibatches[0]) == 1:  # more would have to be held in memory at once
        (piece,) = minibatches[0]
        ahead = Ahead(piece, policy.evaluate_segments(piece.batch))
    old_log_prob, old_value, next_value = recompute(policy, rollout, config, ahead)
    kept = rollout.kept
    gap = (rollout.data["log_prob"] - old_log_prob).abs()[kept]
    mean_gap, max_gap = mean_over(gap, ranks), max(ranks.gather(float(gap.max()) if len(gap) else 0.0))
    if not mean_gap <= config.max_log_prob_gap:
        raise RuntimeError(
            f"the rollout's log-probabilities are {mean_gap:.3g} off the update's on average "
            f"(ppo.max_log_prob_gap={config.max_log_prob_gap:g}): cache, positions or precision disagree"
        )
    advantage, return_ = returns_of(rollout, old_value, next_value, config, config.gae_lambda)
    if config.normalize_advantage:
        advantage[kept] = normalize_over(advantage[kept], ranks)

    parameters = trainable_parameters(policy)
    totals: dict[str, Tensor] = {}
    transitions = steps = epochs = 0
    grad_norm = torch.zeros(())
    for epoch in range(config.num_epochs):
        epoch_kl = 0.0
        minibatches = rollout.minibatches(*drawing) if epoch else minibatches
        most = max(ranks.gather(len(minibatches)))
        for minibatch in minibatches + [[]] * (most - len(minibatches)):
            size = sum(piece.size for piece in minibatch)
            optimizer.zero_grad(set_to_none=True)
            for piece in minibatch:
                evaluated = policy.evaluate_segments(piece.batch) if ahead is None else ahead.evaluated
                ahead = None
                log_prob, entropy, value = (x[piece.loss_mask] for x in evaluated)
                loss, stats = ppo_loss(
                    log_prob,
                    piece.take(old_log_prob),
                    piece.take(advantage),
                    value,
                    piece.take(return_),
                    entropy,
                    piece.take(old_value),
                    config,
                )
                (loss * (piece.size / size)).backward()
                for name, part in stats.items():
                    totals[name] = totals.get(name, torch.zeros_like(part)) + part * piece.size
                epoch_kl = epoch_kl + stats["approx_kl"] * piece.size
            if beside is not None and size:
                for name, part in beside(size).items():
                    totals[name] = totals.get(name, torch.zeros_like(part)) + part * size
            transitions += ranks.average_gradients(parameters, size)
            norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm, error_if_nonfinite=True)
            optimizer.step()
            grad_norm = grad_norm + norm
            steps += 1
        epochs += 1
        if config.target_kl > 0:
            moved = ranks.total({"kl": float(epoch_kl), "transitions": rollout.num_transitions})
            if moved["kl"] / moved["transitions"] > config.target_kl:
                break
    sums = ranks.total({name: float(total) for name, total in totals.items()})
    return {name: total / transitions for name, total in sums.items()} | {
        "explained_variance": explained_over(old_value[kept], return_[kept], ranks),
        "rollout_log_prob_gap": mean_gap,
        "rollout_log_prob_gap_max": max_gap,
        "grad_norm": float(grad_norm) / steps,
        "epochs": float(epochs),
    }
