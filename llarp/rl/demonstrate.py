"""Episodes played while a planner says what should be done: its own demonstrations, or a policy's under its eye."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from llarp.policy.base import Policy

from .demonstrations import Played, Store

Metrics = dict[str, float]
Log = Callable[[Metrics], None]
SHARD = 256
"""Episodes in a file: about 20 MB with 16 tokens of 192 numbers."""
AHEAD = 256
"""Episodes whose instructions a policy is told of together."""


class Demonstrator(Protocol):
    """What is asked of a planner (`llarp.tasks.planners`); it sees one world."""

    def reset(self, view: Any) -> None:
        """A new episode begins."""

    def act(self, view: Any) -> int:
        """What should be done now."""

    def overruled(self, action: int) -> None:
        """Something else was done than `act` said."""

    def slip(self, view: Any, draw: float) -> int:
        """A mistake that might be made now instead; `draw` in [0, 1) chooses."""


@dataclass
class Moment:
    """N worlds in which an action is to be chosen; lists have N entries."""

    features: Tensor  # (N, num_tokens, dim)
    instruction_id: Tensor  # (N,)
    episode_start: Tensor  # (N,) bool
    number: list[int]  # the episodes' numbers
    active: list[bool]  # the others play nothing that counts
    planner: list[Demonstrator]
    view: list[Any]
    label: list[int]  # what the planners want


class Noise:
    """The planner acts, but at a share of the steps a mistake is made: what follows shows how to go on after one.

    Mistakes are drawn by (seed, number of the episode), so they do not depend on which worlds play together."""

    def __init__(self, share: float, seed: int) -> None:
        self.share, self.seed = share, seed
        self._random: dict[int, np.random.Generator] = {}  # by world

    def __call__(self, moment: Moment) -> list[int]:
        action = list(moment.label)
        for i, start in enumerate(moment.episode_start.tolist()):
            if start:
                self._random[i] = np.random.default_rng([self.seed, moment.number[i]])
            slips, draw = self._random[i].random(2)
            if moment.active[i] and slips < self.share:
                action[i] = moment.planner[i].slip(moment.view[i], draw)
        return action


class ByPolicy:
    """DAgger (Ross et al. 2011, arXiv 1011.0686): a policy acts where the planner only says what it would have done.

    A share `beta` of the episodes is the planner's own (the paper mixes by steps); 0 from the first round on is what
    the paper found to work as well. Actions are sampled, as in evaluation."""

    def __init__(self, policy: Policy, env: Any, beta: float, seed: int) -> None:
        self.policy, self.env, self.beta, self.seed = policy, env, beta, seed
        policy.bind_instructions(env.instruction_text)
        self.state = policy.initial_state(env.num_envs)
        self.generator = torch.Generator(next(policy.parameters()).device).manual_seed(seed)
        self.begun = self.told = 0

    def __call__(self, moment: Moment) -> list[int]:
        self.begun += int(moment.episode_start.sum())
        if self.begun + len(moment.label) > self.told:
            self.policy.prepare_instructions(self.env.upcoming_instructions(AHEAD))
            self.told = self.begun + AHEAD
        seen = {"features": moment.features, "instruction_id": moment.instruction_id}
        acted = self.policy.act(seen, self.state, moment.episode_start, generator=self.generator)
        self.state = acted[3]
        action: list[int] = acted[0].tolist()
        for i, number in enumerate(moment.number):
            if self.beta > 0 and np.random.default_rng([self.seed, number]).random() < self.beta:
                action[i] = moment.label[i]
        return action


def play(
    env: Any,
    encode: Callable[[Tensor], Tensor],
    make_planner: Callable[[], Demonstrator],
    choose: Callable[[Moment], list[int]],
    numbers: list[int],
) -> Iterator[Played]:
    """The episodes of a quota environment that shows `env.planner_views()`, each as it ends.

    `numbers[i]` is the number of the environment's i-th episode. What a planner says is the label of the step; it is
    told where something else was done. An episode that the simulator lost has no steps.
    """
    observation, _ = env.reset()
    planners = [make_planner() for _ in range(env.num_envs)]
    start = torch.ones_like(env.active)
    running: list[list[tuple[Tensor, int, int]]] = [[] for _ in planners]
    rgb = features = torch.empty(0)
    while bool(env.active.any()):
        # copies: the step that ends an episode also begins the next one, in place
        active, number = env.active.tolist(), [numbers[e] for e in env.world.episode.tolist()]
        with torch.no_grad():
            features, rgb = _encode(encode, observation["rgb"], features, rgb)
        ids = observation["instruction_id"].clone()
        views, label = env.planner_views(), [0] * len(planners)
        for i, fresh in enumerate(start.tolist()):
            if active[i]:
                if fresh:
                    planners[i].reset(views[i])
                label[i] = planners[i].act(views[i])
        action = choose(Moment(features, ids, start, number, active, planners, views, label))
        for i, done in enumerate(action):
            if active[i] and done != label[i]:
                planners[i].overruled(done)
        rows = features.half().cpu()
        observation, _, terminated, truncated, info = env.step(torch.tensor(action, device=ids.device))
        start = terminated | truncated
        success = info["success"].tolist()
        lost = info["dropped"].tolist() if "dropped" in info else [False] * len(planners)
        for i, over in enumerate(start.tolist()):
            if not active[i]:
                continue
            running[i].append((rows[i], action[i], label[i]))
            if over:
                steps, running[i] = ([] if lost[i] else running[i]), []
                shown = torch.stack([row for row, _, _ in steps]) if steps else rows[:0]
                actions, labels = [step[1] for step in steps], [step[2] for step in steps]
                yield Played(number[i], env.instruction_text(int(ids[i])), success[i], shown, actions, labels)


def _encode(
    encode: Callable[[Tensor], Tensor], rgb: Tensor, features: Tensor, before: Tensor
) -> tuple[Tensor, Tensor]:
    """Features of pictures, and the pictures kept; on a CPU only of those that are not as `before` (a sixth is)."""
    if rgb.device.type != "cpu" or before.shape != rgb.shape:
        return encode(rgb), rgb.clone()
    changed = (rgb != before).flatten(1).any(1)
    if bool(changed.any()):
        features = features.clone()
        features[changed] = encode(rgb[changed])
    return features, rgb.clone()


def collect(
    store: Store,
    wanted: range,
    played: Callable[[list[int]], Iterator[Played]],
    *,
    minutes: float,
    log: Log,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Plays those of the `wanted` episodes that the folder lacks and puts them there, shard by shard.

    Ends early when the minutes are used up (0: no limit), with at least one episode, or when `stop()` is true: what has
    been played till then is kept.
    """
    there = store.numbers()
    missing = [n for n in wanted if n not in there]
    if not missing or stop():
        return
    started = reported = clock()
    waiting: list[Played] = []
    count = 0
    try:
        for episode in played(missing):
            waiting.append(episode)
            count += 1
            if len(waiting) >= SHARD:
                store.add(waiting)
                waiting = []
            if clock() - reported > 5:
                reported = clock()
                log({"demonstrations": len(there) + count, "of": len(wanted), "seconds": reported - started})
            if stop() or 0 < 60 * minutes < clock() - started:
                break
    finally:
        if waiting:
            store.add(waiting)
