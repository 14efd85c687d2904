"""Policies whose language model reads the instruction and nothing else: what it makes of a text is kept, and something
trained acts on it step by step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor

from .base import NO_ACTION, SegmentBatch, State, sample
from .context import PREFIX_BATCH, tokens_of
from .llm import FrozenLLM
from .policy import LLaRPPolicy


class Readings(ABC):
    """What is kept of texts, some tensors each; every text is read once, and the oldest make room."""

    def __init__(self, llm: FrozenLLM, max_tokens: int, max_bytes: int):
        self.llm, self.max_tokens, self.max_bytes = llm, max_tokens, max_bytes
        self._kept: OrderedDict[str, tuple[Tensor, ...]] = OrderedDict()
        self._bytes = 0

    @abstractmethod
    def read(self, ids: list[list[int]]) -> list[tuple[Tensor, ...]]:
        """What is to be kept of texts, given as token ids."""

    @abstractmethod
    def get(self, texts: list[str]) -> Any:
        """What the policy acts on, of B texts; UserError for a text longer than `max_tokens`."""

    @torch.no_grad()
    def prepare(self, texts: list[str]) -> None:
        """Read what `get` will be asked for, many texts in one pass."""
        wanted = dict.fromkeys(texts)
        missing = {text: tokens_of(self.llm, text, self.max_tokens) for text in wanted if text not in self._kept}
        for text in wanted:
            if text not in missing:
                self._kept.move_to_end(text)
        by_length = sorted(missing, key=lambda text: len(missing[text]))
        for first in range(0, len(by_length), PREFIX_BATCH):
            batch = by_length[first : first + PREFIX_BATCH]
            for text, parts in zip(batch, self.read([missing[text] for text in batch]), strict=True):
                self._kept[text] = parts
                self._bytes += sum(part.nbytes for part in parts)
        while self._bytes > self.max_bytes and len(self._kept) > len(wanted):
            self._bytes -= sum(part.nbytes for part in self._kept.popitem(last=False)[1])

    def _of(self, texts: list[str]) -> tuple[list[Tensor], ...]:
        """The parts kept of B texts, the first of all, then the second of all, ..."""
        self.prepare(texts)
        return tuple(map(list, zip(*(self._kept[text] for text in texts), strict=True)))


class ReadOncePolicy(LLaRPPolicy):
    """A policy that acts on `Readings`.

    State (N worlds): step (N,), features and previous actions as in `LLaRPPolicy`, and what the kind of policy adds.
    """

    pads = True

    def expect_instructions(self, count: int) -> None:
        """What is kept of an instruction is small: all that the budget holds stay."""

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

    def _step(self, state: State, step: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, 70) and values (N,) of all rows at their steps (N,), which the state then remembers."""
        raise NotImplementedError

    def _readings_of(self, batch: SegmentBatch) -> Any:
        return self.instructions.get([self._prompt(self.instruction_text(i)) for i in batch.instruction_id.tolist()])
