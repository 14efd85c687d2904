"""The training loop: act, step, store, returns, update."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llarp.machine import give_back_memory, held_memory_mb, keep_memory
from llarp.policy.base import Policy

from . import checkpoint
from .beside import Beside
from .collect import Collector
from .config import BCConfig, PPOConfig, TrainConfig
from .demonstrations import Demonstrations
from .distributed import ALONE, Ranks, pack, unpack
from .preemption import Watch
from .returns import ReturnScale
from .rollout import Rollout
from .update import ppo_update, trainable_parameters

Metrics = dict[str, float]

MEMORY_INTERVAL = 8
"""Updates between two returns of free memory; what is returned the next update has to fault in again."""


class Trainer:
    """PPO on `env` (the contract's `output="torch"`, same-step autoreset) with any `Policy`.

    `log` gets one dict of numbers an update. Checkpoints go to `checkpoint_dir`, if given. `seed` orders the
    mini-batches; actions are drawn from torch's global generator, which the caller seeds.

    Of several `ranks` each (those of a team: together) has its own worlds and makes the same calls (`start`, `run`,
    `save`, `load`, `state_dict`); metrics are over all ranks and the same at each, rank 0 alone logs and writes. With
    `train.preempt_share` a rank that others wait for hands in a shorter rollout.
    """

    def __init__(
        self,
        env: Any,
        policy: Policy,
        ppo: PPOConfig,
        train: TrainConfig,
        *,
        seed: int,
        log: Callable[[Metrics], None],
        checkpoint_dir: Path | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.policy, self.ppo, self.train, self.seed = policy, ppo, train, seed
        self.log, self.checkpoint_dir, self.ranks = log, checkpoint_dir, ranks
        self.collector = Collector(env, policy, ppo.bootstrap_time_limit)
        self.optimizer = torch.optim.Adam(trainable_parameters(policy), lr=ppo.lr, eps=ppo.adam_eps)
        self.generator = torch.Generator().manual_seed(ranks.seed(seed))
        self.window = EpisodeWindow(env.num_envs, train.success_window)
        self.scale = ReturnScale(env.num_envs, ppo.gamma)  # of returns, where they are normalised
        self.beside: Beside | None = None  # demonstrations to learn from as well
        self._drawn = 0  # of them, before a resumed run has them
        self.shown: list[int] | None = None  # their numbers, in a resumed run that has learned from some
        self.env_steps = self.updates = 0
        self.wall_s = 0.0  # spent in the training loop, earlier sessions included

    def start(self) -> None:
        """Resets all worlds; all ranks take over rank 0's weights."""
        self.collector.start()
        self.ranks.share_weights(self.policy)
        self.scale.restart(self.ranks)

    def learn_beside(self, demonstrations: Demonstrations, config: BCConfig) -> None:
        """Add the cross-entropy to demonstrations, shown as cloning does, to the loss, `ppo.bc_coef` times."""
        seed = self.ranks.seed(self.seed)
        sizes = (self.ppo.bc_coef, self.ppo.micro_batch_tokens)
        self.beside = Beside(self.policy, demonstrations, config, *sizes, seed, self._drawn)

    def run(self, stop: Callable[[], bool] = lambda: False) -> None:
        """Trains until the steps or the time are used up or `stop()` is true at any rank, then writes a checkpoint.

        `stop` is asked after every step. An unfinished rollout is then not trained on, but its episodes go on when the
        run is resumed.
        """
        started = time.monotonic() - self.wall_s
        keep_memory()
        if not self.collector.started:
            self.start()
        # Those running, and those that begin in a rollout where episodes take 8 steps.
        self.policy.expect_instructions(self.collector.env.num_envs * (4 + self.ppo.num_steps // 8))
        while not self.ranks.any(stop() or self._used_up()):
            for group in self.optimizer.param_groups:
                group["lr"] = self.ppo.lr * lr_share(self.ppo.lr_schedule, self._progress())
            num_steps, share = self.ppo.num_steps, self.train.preempt_share or 0.0
            watch = Watch(self.ranks, stop, self.collector.buffer, num_steps, share)
            self.collector.run(num_steps, watch)
            watch.finished()
            rollout = self.collector.finish()
            invalid = float(rollout.data["invalid_action"][rollout.kept].sum())
            own = {"steps": rollout.num_transitions, "invalid": invalid, "preempted": float(watch.preempted)}
            counts = self.ranks.total(own)
            self.env_steps += int(counts["steps"])
            self.window.add(rollout, self.ranks)
            if self.ranks.any(watch.stopped and rollout.num_steps < num_steps):
                break
            if not counts["steps"]:  # every step was lost: nothing to learn from
                continue
            if self.ppo.normalize_returns:
                self.scale.normalize(rollout, self.ranks)
            losses = ppo_update(
                self.policy, self.optimizer, rollout, self.ppo, self.generator, self.ranks, self.beside
            )
            self.collector.refresh()
            self.updates += 1
            if self.updates % MEMORY_INTERVAL == 0:
                give_back_memory()
            self.wall_s = time.monotonic() - started
            if self.ranks.leads:
                rates = {"invalid_rate": counts["invalid"] / counts["steps"], "memory_mb": held_memory_mb()}
                rates["lr"] = self.optimizer.param_groups[0]["lr"]
                if self.ppo.normalize_returns:
                    rates["return_deviation"] = self.scale.deviation
                if watch.needed is not None:
                    rates["preempted"] = counts["preempted"]
                self.log(self.summary() | rates | losses)
            if self.updates % self.train.checkpoint_interval == 0:
                self.save()
        self.wall_s = time.monotonic() - started
        self.save()

    def summary(self) -> Metrics:
        """How far the run is: steps (without those the simulator lost), updates, seconds, episodes, success rate and
        mean return of the last ones."""
        return {
            "env_steps": self.env_steps,
            "updates": self.updates,
            "wall_s": self.wall_s,
            "steps_per_s": self.env_steps / max(self.wall_s, 1e-9),
            **self.window.metrics(),
        }

    def _used_up(self) -> bool:
        late = 0 < self.train.max_minutes <= self.wall_s / 60
        return late or self.env_steps >= self.train.total_steps

    def _progress(self) -> float:
        """Share of the run that is done, 0 to 1, at all ranks the same: of its steps, or of its minutes if that is more
        (rank 0's, as of its last update)."""
        minutes = self.train.max_minutes
        late = self.wall_s / (60 * minutes) if minutes and self.ppo.lr_schedule != "constant" else 0.0
        return min(1.0, max(self.env_steps / self.train.total_steps, self.ranks.gather(late)[0] if late else 0.0))

    def save(self) -> Path | None:
        """Writes a checkpoint (between rollouts only) and forgets the oldest; returns its path."""
        if self.checkpoint_dir is None:
            return None
        self.ranks.check_weights(self.policy)
        state = self.state_dict()
        if not self.ranks.leads:
            return None
        path = self.checkpoint_dir / checkpoint.file_name(self.env_steps)
        checkpoint.save(path, self.policy, state)
        checkpoint.prune(self.checkpoint_dir, self.train.keep_checkpoints)
        return path

    def _shown(self) -> Tensor | None:
        """Numbers of the demonstrations that are learned from, once some were."""
        if self.beside is not None and self.beside.drawn:
            return self.beside.demonstrations.number
        return None if self.shown is None else torch.tensor(self.shown)

    def load(self, path: Path) -> bool:
        """Continues from a checkpoint: weights, optimiser, worlds, running episodes, random states.

        False where it was left by another number of teams of ranks: then the worlds begin anew.
        """
        saved = checkpoint.load(path, self.policy)
        self.optimizer.load_state_dict(saved["optimizer"])
        self.env_steps, self.updates, self.wall_s = saved["env_steps"], saved["updates"], saved["wall_s"]
        if "scale" in saved:
            self.scale.load_state_dict(saved["scale"])
        if saved.get("shown") is not None:
            self.shown = saved["shown"].tolist()
        by_team = [saved, *saved.get("others", [])]
        if len(by_team) != self.ranks.num_teams:
            self.window.load_state_dict(saved["window"] | {"running": torch.zeros(self.collector.env.num_envs)})
            return False
        own = by_team[self.ranks.team]
        self.collector.load_state_dict(own["collector"])
        self.window.load_state_dict(own["window"])
        if "scale" in own:
            self.scale.load_state_dict(own["scale"])
        self._drawn = own.get("drawn", 0)
        self.generator.set_state(own["generator"])
        checkpoint.set_random_state(own["random"])
        return True

    def state_dict(self) -> dict[str, Any]:
        """All that `load` needs but the policy's weights: at rank 0 of all teams, elsewhere this team's only."""
        own = {
            "collector": self.collector.state_dict(),
            "window": self.window.state_dict(),
            "generator": self.generator.get_state(),
            "random": checkpoint.random_state(),
            "scale": self.scale.state_dict(),
            "drawn": self._drawn if self.beside is None else self.beside.drawn,
            "shown": self._shown(),
        }
        others = [] if self.ranks.alone else [unpack(state) for state in self.ranks.collect(pack(own))[1:]]
        return {
            "optimizer": self.optimizer.state_dict(),
            "env_steps": self.env_steps,
            "updates": self.updates,
            "wall_s": self.wall_s,
            **own,
            **({"others": others} if others else {}),
        }


def lr_share(schedule: str, progress: float) -> float:
    """The learning rate's share of its first value when `progress` of the run is done."""
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1 - progress if schedule == "linear" else 1.0


class EpisodeWindow:
    """Success rate and mean return over the episodes finished last; one that the simulator lost is none of them."""

    def __init__(self, num_envs: int, size: int) -> None:
        self._running = torch.zeros(num_envs)
        self._success: deque[float] = deque(maxlen=size)
        self._return: deque[float] = deque(maxlen=size)
        self.episodes = 0  # finished so far
        self.dropped = 0  # lost so far

    def add(self, rollout: Rollout, ranks: Ranks = ALONE) -> None:
        """Counts the episodes that ended in a rollout, or in those of all ranks; returns are not discounted."""
        data = rollout.data
        over = (data["terminated"] | data["truncated"]).cpu()
        lost = data["dropped"].cpu() if "dropped" in data else torch.zeros_like(over)
        done = over & ~lost
        reward, success = data["reward"].cpu(), data["success"].cpu()
        returns: list[float] = []
        successes: list[float] = []
        for t in range(rollout.num_steps):
            self._running += reward[t]
            returns += self._running[done[t]].tolist()
            successes += success[t][done[t]].float().tolist()
            self._running[over[t]] = 0
        for their_returns, their_successes, their_lost in ranks.gather((returns, successes, int(lost.sum()))):
            self._return.extend(their_returns)
            self._success.extend(their_successes)
            self.episodes += len(their_returns)
            self.dropped += their_lost

    def metrics(self) -> Metrics:
        """`success_rate` and `mean_return`; 0 while no episode has ended, which `episodes` tells. `dropped`: how many
        episodes were lost, if any."""
        count = max(len(self._success), 1)
        metrics = {
            "episodes": self.episodes,
            "success_rate": sum(self._success) / count,
            "mean_return": sum(self._return) / count,
        }
        return metrics | {"dropped": self.dropped} if self.dropped else metrics

    def state_dict(self) -> dict[str, Any]:
        """Everything, for a checkpoint."""
        return {
            "running": self._running,
            "success": list(self._success),
            "return": list(self._return),
            "episodes": self.episodes,
            "dropped": self.dropped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken."""
        self._running = state["running"]
        self._success.extend(state["success"])
        self._return.extend(state["return"])
        self.episodes, self.dropped = state["episodes"], state.get("dropped", 0)
