"""Warm start: behaviour cloning of a planner's demonstrations."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from llarp.policy.base import NO_ACTION, Policy, SegmentBatch

from .config import BCConfig
from .update import trainable_parameters

Metrics = dict[str, float]
Log = Callable[[Metrics], None]
CALIBRATION_STEPS = 2000  # enough for means and deviations, little memory


class Demonstrator(Protocol):
    """What is asked of a planner (`llarp.tasks.planners`); it sees one world."""

    def reset(self, view: Any) -> None:
        """A new episode begins."""

    def act(self, view: Any) -> int:
        """What should be done now."""

    def slip(self, view: Any, draw: float) -> int:
        """A mistake that might be made now instead; `draw` in [0, 1) chooses."""


@dataclass
class Demonstrations:
    """E episodes, their S steps one after another."""

    instruction_id: Tensor  # (E,) int64
    length: Tensor  # (E,) int64
    features: Tensor  # (S, num_tokens, dim) float16
    action: Tensor  # (S,) int64 what was done
    label: Tensor  # (S,) int64 what the planner would have done
    success: Tensor  # (E,) bool

    def __len__(self) -> int:
        return len(self.length)

    def batch(self, index: Tensor) -> SegmentBatch:
        """The given episodes, on the CPU; `action` holds the labels, `previous_action` what was really done."""
        length = self.length[index]
        begin = (self.length.cumsum(0) - self.length)[index]
        at = torch.arange(int(length.max()))[None]
        valid = at < length[:, None]
        step = begin[:, None] + torch.where(valid, at, 0)
        previous = self.action[(step - 1).clamp(min=0)]
        previous[:, 0] = NO_ACTION
        return SegmentBatch(
            instruction_id=self.instruction_id[index],
            features=self.features[step].float(),
            previous_action=previous,
            action=self.label[step],
            valid=valid,
        )

    def batches(self, index: Tensor, max_tokens: int, generator: torch.Generator) -> list[Tensor]:
        """The given episodes in batches of at most `max_tokens` padded steps and similar lengths, in random order."""
        index = index[torch.randperm(len(index), generator=generator)]
        index = index[self.length[index].argsort(descending=True, stable=True)]
        cut, at = [], 0
        while at < len(index):
            count = max(1, max_tokens // int(self.length[index[at]]))
            cut.append(index[at : at + count])
            at += count
        return [cut[i] for i in torch.randperm(len(cut), generator=generator).tolist()]


@torch.no_grad()
def collect_demonstrations(
    env: Any,
    encode: Callable[[Tensor], Tensor],
    make_planner: Callable[[], Demonstrator],
    config: BCConfig,
    *,
    seed: int,
    log: Log,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Demonstrations:
    """Lets planners act in all worlds of `env` (which shows them `env.planner_views()`), until the configured
    number of episodes is there, the time is up or `stop()` is true; at least one episode.

    At a share `config.noise` of the steps something else is done, half of it any action, half of it what another
    world's planner wanted: the demonstrations then also show how to go on after mistakes. Labels are always the
    planner's. An episode that the simulator lost is no demonstration.
    """
    generator = torch.Generator().manual_seed(seed)
    started = reported = clock()
    observation, _ = env.reset()
    num_envs = env.num_envs
    planners = [make_planner() for _ in range(num_envs)]
    fresh = [True] * num_envs
    running: list[list[tuple[Tensor, int, int]]] = [[] for _ in range(num_envs)]
    episodes: list[tuple[int, bool, list[tuple[Tensor, int, int]]]] = []
    while len(episodes) < config.episodes:
        if episodes and (stop() or clock() - started > 60 * config.collect_minutes):
            break
        features = encode(observation["rgb"]).half().cpu()
        instruction_id = observation["instruction_id"].tolist()
        label, slip = [], []
        for planner, view, is_fresh in zip(planners, env.planner_views(), fresh, strict=True):
            if is_fresh:
                planner.reset(view)
            label.append(planner.act(view))
            slip.append(planner.slip(view, float(torch.rand((), generator=generator))))
        slips = torch.rand(num_envs, generator=generator) < config.noise
        action = torch.where(slips, torch.tensor(slip), torch.tensor(label))
        observation, _, terminated, truncated, info = env.step(action.to(observation["instruction_id"].device))
        fresh = (terminated | truncated).tolist()
        success = info["success"].tolist()
        lost = info["dropped"].tolist() if "dropped" in info else [False] * num_envs
        for i, done in enumerate(fresh):
            running[i].append((features[i], int(action[i]), label[i]))
            if done:
                if not lost[i]:
                    episodes.append((instruction_id[i], success[i], running[i]))
                running[i] = []
        if clock() - reported > 5:
            reported = clock()
            log({"demonstrations": len(episodes), "seconds": reported - started})
    episodes = episodes[: config.episodes]
    steps = [step for _, _, episode in episodes for step in episode]
    return Demonstrations(
        instruction_id=torch.tensor([i for i, _, _ in episodes]),
        length=torch.tensor([len(episode) for _, _, episode in episodes]),
        features=torch.stack([features for features, _, _ in steps]),
        action=torch.tensor([action for _, action, _ in steps]),
        label=torch.tensor([label for _, _, label in steps]),
        success=torch.tensor([success for _, success, _ in episodes]),
    )


def clone(
    policy: Policy,
    demonstrations: Demonstrations,
    config: BCConfig,
    *,
    seed: int,
    log: Log,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> Metrics:
    """Trains the policy to name the labels (cross-entropy), until the epochs or the time are used up.

    The learning rate rises, then falls along a cosine to 0 at whichever end comes first. Returns the held-out metrics.
    """
    device = next(policy.parameters()).device
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(demonstrations), generator=generator)
    num_held_out = int(config.holdout * len(order))
    held_out, used = order[:num_held_out], order[num_held_out:]
    some = torch.randperm(len(demonstrations.features), generator=generator)[:CALIBRATION_STEPS]
    policy.calibrate(demonstrations.features[some].float().to(device))
    blur = config.feature_noise * demonstrations.features.float().std(0)  # (num_tokens, dim)
    parameters = trainable_parameters(policy)
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    total = config.epochs * len(demonstrations.batches(used, config.batch_tokens, generator))
    started = reported = clock()
    step, progress, sums = 0, 0.0, _Sums()
    while progress < 1 and not stop():
        for index in demonstrations.batches(used, config.batch_tokens, generator):
            progress = max(step / total, (clock() - started) / (60 * config.train_minutes + 1e-9))
            if progress >= 1 or stop():
                break
            rising = min(1.0, max(progress, 0.5 / total) / max(config.warmup, 1e-9))
            for group in optimizer.param_groups:
                group["lr"] = config.lr * rising * 0.5 * (1 + math.cos(math.pi * progress))
            optimizer.zero_grad(set_to_none=True)
            batch = demonstrations.batch(index)
            batch.features += blur * torch.randn(batch.features.shape, generator=generator)
            sums.add(loss := _Loss(policy, batch.to(device)))
            loss.mean.backward()
            torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm, error_if_nonfinite=True)
            optimizer.step()
            step += 1
            if clock() - reported > 5:
                reported = clock()
                log({"bc_progress": progress, "bc_steps": step, **sums.metrics("bc")})
                sums = _Sums()
    seconds = clock() - started
    result = {"bc_steps": step, "bc_seconds": seconds, "bc_episodes": len(used), **sums.metrics("bc")}
    if num_held_out:
        sums = _Sums()
        with torch.no_grad():
            for index in demonstrations.batches(held_out, config.batch_tokens, generator):
                sums.add(_Loss(policy, demonstrations.batch(index).to(device)))
        result |= sums.metrics("bc_held_out")
    log(result)
    return result


class _Loss:
    """Cross-entropy of one batch, over its steps."""

    def __init__(self, policy: Policy, batch: SegmentBatch) -> None:
        logits, _ = policy.action_logits(batch)
        logits, label = logits[batch.valid], batch.action[batch.valid]
        self.mean = torch.nn.functional.cross_entropy(logits, label)
        self.right = int((logits.argmax(-1) == label).sum())
        self.count = len(label)


class _Sums:
    """Running means over steps."""

    def __init__(self) -> None:
        self.loss, self.right, self.count = 0.0, 0, 0

    def add(self, loss: _Loss) -> None:
        self.loss += float(loss.mean.detach()) * loss.count
        self.right += loss.right
        self.count += loss.count

    def metrics(self, prefix: str) -> Metrics:
        if self.count == 0:
            return {}
        return {f"{prefix}_loss": self.loss / self.count, f"{prefix}_accuracy": self.right / self.count}
