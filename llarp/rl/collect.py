"""A policy acting in an environment: the steps go into a rollout buffer."""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llarp.errors import UserError
from llarp.policy.base import Policy, State

from .lookahead import Lookahead
from .rollout import Rollout, RolloutBuffer

PATIENCE_S = 600.0
"""How long a half is waited for; the environment itself gives up on a process earlier."""


class Collector:
    """Steps `env` (the contract's `output="torch"`, same-step autoreset) with the policy's sampled actions.

    An environment with `halves` (`DoubleBuffered`) is stepped half by half: while one is simulated the policy acts in
    the other, whichever is ready first. Each half has its own random numbers, so that runs do not depend on which was.
    `final_observations` also stores the observation before each reset, which bootstrapping truncated episodes needs.
    """

    def __init__(self, env: Any, policy: Policy, final_observations: bool = False) -> None:
        self.env, self.policy = env, policy
        halves = getattr(env, "halves", [])
        self.parts = [_Part(part, policy, final_observations, ahead=bool(halves)) for part in halves or [env]]
        self.buffer = RolloutBuffer()
        policy.bind_instructions(env.instruction_text)

    @property
    def started(self) -> bool:
        """Whether `start` or `load_state_dict` was called."""
        return self.parts[0].state is not None

    @property
    def features(self) -> Tensor:
        """Of the observation at hand, (N, num_tokens, dim)."""
        return torch.cat([part.features for part in self.parts])

    def start(self) -> None:
        """Resets all worlds."""
        self._work_ahead(2 * self.env.num_envs)
        for part in self.parts:
            part.reset()
        self.policy.calibrate(self.features)
        for part in self.parts:
            part.state = self.policy.initial_state(part.env.num_envs)

    def step(self) -> None:
        """One action in every world."""
        self.run(1)

    @torch.no_grad()
    def run(self, num_steps: int, stop: Callable[[], bool] = lambda: False) -> None:
        """So many actions in every world, fewer once `stop()` is true; it is asked after every step.

        Every part goes its own way until all have made the same number of steps.
        """
        rows: list[list[dict[str, Tensor]]] = [[] for _ in self.parts]
        begun = [0] * len(self.parts)
        working: list[int] = []
        target = num_steps
        while True:
            for i, part in enumerate(self.parts):
                if begun[i] < target and i not in working:
                    part.begin()
                    begun[i] += 1
                    working.append(i)
            if not working:
                return
            i = working.pop(first_ready([self.parts[i].env for i in working]))
            rows[i].append(self.parts[i].end())
            while all(rows):
                together = [own.pop(0) for own in rows]
                self.buffer.add(**{name: torch.cat([row[name] for row in together]) for name in together[0]})
            if target == num_steps and stop():
                target = max(begun)

    def finish(self) -> Rollout:
        """What happened since the last call."""
        rollout = self.buffer.finish(self.features)
        begun = int(rollout.data["episode_start"].sum())
        self._work_ahead(begun + begun // 4 + self.env.num_envs)
        return rollout

    def _work_ahead(self, num_episodes: int) -> None:
        """Let the policy read the instructions of about so many next episodes together; one by one costs far more."""
        for part in self.parts:
            if part.lookahead is not None:
                part.lookahead.expected = num_episodes // len(self.parts)
        if any(part.lookahead is not None for part in self.parts):
            return  # they do so themselves, after the update
        self.policy.prepare_instructions(self.env.upcoming_instructions(num_episodes))

    def refresh(self) -> None:
        """To call after every change of the policy."""
        for part in self.parts:
            assert part.state is not None
            part.state = self.policy.refresh_state(part.state)
            if part.lookahead is not None:
                part.lookahead.read(part.instruction_id)

    def state_dict(self) -> dict[str, Any]:
        """Worlds, running episodes and what the policy remembers of them; between rollouts only."""
        return {"parts": [part.state_dict() for part in self.parts], "context": self.buffer.state_dict()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Continues where `state_dict` was taken, the policy's weights being those of that time."""
        parts = saved.get("parts", [saved])  # an older checkpoint has just one
        if len(parts) != len(self.parts):
            raise UserError("the run was left with another env.double_buffer: keep it")
        device = next(self.policy.parameters()).device
        self.buffer.load_state_dict({name: x.to(device) for name, x in saved["context"].items()})
        for part, own in zip(self.parts, parts, strict=True):
            part.load_state_dict(own, device)
        self.refresh()


def first_ready(envs: list[Any]) -> int:
    """Which of some environments, all with a step under way, has ended it; the first if none says so in time."""
    if len(envs) == 1:
        return 0
    while all(pipes := [env.unanswered() for env in envs]):
        waiting = select.poll()  # `multiprocessing.connection.wait` takes several times as long
        for own in pipes:
            waiting.register(own[0].fileno(), select.POLLIN)
        if not waiting.poll(1000 * PATIENCE_S):
            return 0
    return pipes.index([])


class _Part:
    """Worlds that step together, and what the policy remembers of them.

    With `ahead` the environment begins its step in `begin` and gives the outcome in `end`; else it steps in `end`.
    """

    def __init__(self, env: Any, policy: Policy, final_observations: bool, ahead: bool) -> None:
        self.env, self.policy, self.final_observations, self.ahead = env, policy, final_observations, ahead
        self.state: State | None = None  # the policy's; None before the start
        self.features = self.instruction_id = self.episode_start = torch.empty(0)  # (N, ...) of the observation at hand
        self._rgb: Tensor | None = None  # the pictures behind `features`, on a CPU
        self.begun: dict[str, Tensor] = {}  # what is known of a step before its outcome
        self.generator: torch.Generator | None = None  # of its actions; None: torch's own
        self.lookahead: Lookahead | None = None
        if policy.reads_ahead and getattr(env, "episodes_begun", None) is not None:
            self.lookahead = Lookahead(env, policy, env.device)

    def reset(self) -> None:
        observation, _ = self.env.reset()
        if self.lookahead is not None:
            self.lookahead.forget()
        if self.ahead:
            seed = int(torch.randint(2**62, ()))
            self.generator = torch.Generator(observation["rgb"].device).manual_seed(seed)
        self._look(observation, torch.ones_like(observation["instruction_id"], dtype=torch.bool))

    def begin(self) -> None:
        """Choose an action in every world."""
        assert self.state is not None
        seen = {"features": self.features, "instruction_id": self.instruction_id}
        ready = {} if self.lookahead is None else {"ready": self.lookahead.ready(self.instruction_id)}
        acted = self.policy.act(seen | ready, self.state, self.episode_start, generator=self.generator)
        action, log_prob, value, self.state = acted
        chosen = {"action": action.clone(), "log_prob": log_prob.clone(), "value": value.clone()}
        self.begun = seen | {"episode_start": self.episode_start} | chosen
        if self.ahead:
            self.env.step_async(action)

    def end(self) -> dict[str, Tensor]:
        """The step as the buffer stores it."""
        step, self.begun = self.begun, {}
        outcome = self.env.step_wait() if self.ahead else self.env.step(step["action"])
        observation, reward, terminated, truncated, info = outcome
        names = ("success", "invalid_action", "dropped")
        result = {"reward": reward, "terminated": terminated, "truncated": truncated}
        result |= {name: info[name] for name in names if name in info}
        step |= {name: part.clone() for name, part in result.items()}  # an environment may reuse its tensors
        if self.lookahead is not None:
            self.lookahead.stepped()
        if self.final_observations:
            step["final_features"] = self.policy.encode(self.env.final_observation()["rgb"])
        self._look(observation, step["terminated"] | step["truncated"])
        return step

    def _look(self, observation: dict[str, Tensor], episode_start: Tensor) -> None:
        self.features = self._encode(observation["rgb"])
        self.instruction_id = observation["instruction_id"].clone()
        self.episode_start = episode_start

    def _encode(self, rgb: Tensor) -> Tensor:
        """Features of pictures, on a CPU only of those that an action has changed (finding them makes a GPU wait)."""
        keep = rgb.device.type == "cpu" and self.lookahead is None
        before, self._rgb = self._rgb, rgb.clone() if keep else None
        if before is None or self._rgb is None or before.shape != rgb.shape:
            return self.policy.encode(rgb)
        changed = (rgb != before).flatten(1).any(1)
        if bool(changed.all()):
            return self.policy.encode(rgb)
        features = self.features.clone()
        if bool(changed.any()):
            features[changed] = self.policy.encode(rgb[changed])
        return features

    def state_dict(self) -> dict[str, Any]:
        return {
            "env": self.env.state_dict(),
            "policy_state": dict(self.state or {}),
            "features": self.features,
            "instruction_id": self.instruction_id,
            "episode_start": self.episode_start,
            **({"generator": self.generator.get_state()} if self.generator is not None else {}),
            **({"rgb": self._rgb} if self._rgb is not None else {}),
        }

    def load_state_dict(self, saved: dict[str, Any], device: torch.device) -> None:
        self.env.load_state_dict(saved["env"])
        self.features, self.instruction_id, self.episode_start = (
            saved[name].to(device) for name in ("features", "instruction_id", "episode_start")
        )
        if lacking := self.policy.initial_state(1).keys() - saved["policy_state"].keys():
            raise UserError(f"the run was left by an older llarp, whose policy remembered no {min(lacking)}: begin a "
                            "new one from its weights with train.init=RUN")  # fmt: skip
        self.state = {name: part.to(device) for name, part in saved["policy_state"].items()}
        self._rgb = saved.get("rgb")
        if "generator" in saved:
            self.generator = torch.Generator(device)
            self.generator.set_state(saved["generator"])
