"""Policies whose language model reads the instruction and nothing else: what it makes of a text is kept, and something
trained acts on it step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .base import NO_ACTION, SegmentBatch, State, sample
from .policy import LLaRPPolicy


class ReadOncePolicy(LLaRPPolicy):
    """A policy that acts on `Readings`.

    State (N worlds): step (N,), features and previous actions as in `LLaRPPolicy`, and what the kind of policy adds.
    """

    pads = True

    def expect_instructions(self, count: int) -> None:
        """What is kept of an instruction is small: all that the budget holds stay."""

    def read_into(self, folder: Path, texts: list[str]) -> Iterator[int]:
        """See `Policy.read_into`."""
        return self.instructions.read_into(folder, [self._prompt(text) for text in texts])

    def initial_state(self, num_envs: int) -> State:
        config, device = self.config, self.device
        features = torch.zeros(num_envs, config.max_steps, self.vision.num_tokens, self.vision.dim, device=device)
        return {
            "step": torch.zeros(num_envs, dtype=torch.int64, device=device),
            "features": features.half(),
            "previous_action": torch.full((num_envs, config.max_steps + 1), NO_ACTION, device=device),
        }

    @torch.no_grad()
    def act(
        self,
        obs: dict[str, Any],
        state: State,
        episode_start: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        features = obs["features"] if "features" in obs else self.encode(torch.as_tensor(obs["rgb"]))
        starting = torch.as_tensor(episode_start, device=self.device).nonzero().flatten()
        if len(starting):
            self._start(state, starting, self.instructions.get(self._texts(obs, starting)))
            if "instruction_id" in obs:
                self._pretend(state, starting, obs["instruction_id"][starting])
            state["step"][starting] = 0
            state["previous_action"][starting, 0] = NO_ACTION
        rows, step = torch.arange(len(features), device=self.device), state["step"].clone()
        logits, value = self._step(state, step, features)
        state["features"][rows, step] = features.to(state["features"].dtype)
        action, log_prob = sample(logits, deterministic, generator)
        state["previous_action"][rows, step + 1] = action
        state["step"] += 1
        return action, log_prob, value, state

    def _start(self, state: State, rows: Tensor, read: Any) -> None:
        """Begin episodes in some rows (R,), with what `Readings.get` gave of their R instructions."""
        raise NotImplementedError

    def _pretend(self, state: State, rows: Tensor, instruction_id: Tensor) -> None:  # noqa: B027
        """Begin with what `pretended` says of the instructions (R,), in a policy that makes use of it."""

    def _step(self, state: State, step: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 70) and values (N,) of all rows at their steps (N,), which the state then remembers."""
        raise NotImplementedError

    def _readings_of(self, batch: SegmentBatch) -> Any:
        return self.instructions.get([self._prompt(self.instruction_text(i)) for i in batch.instruction_id.tolist()])
