"""The one interface of every policy: act step by step, evaluate whole segments, explicit state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from llarp.errors import UserError
from llarp.tasks.actions import NUM_ACTIONS

NO_ACTION = NUM_ACTIONS
"""The "previous action" of an episode's first step."""

State = dict[str, Tensor]


@dataclass
class SegmentBatch:
    """B stretches of episodes, each from its episode's first step; T of the longest, the others padded on the right."""

    instruction_id: Tensor  # (B,) int64
    features: Tensor  # (B, T, num_tokens, dim) what `encode` gave
    previous_action: Tensor  # (B, T) int64, NO_ACTION at an episode's first step
    action: Tensor  # (B, T) int64
    valid: Tensor  # (B, T) bool, False: padding
    unknown: Tensor | None = None  # (B, 70) bool: picks to be treated as if training never showed their category
    expected: Tensor | None = None  # (B, 33) log ratios expected after a vague description; NaN: what is said counts

    def to(self, device: torch.device | str) -> SegmentBatch:
        """The same batch with every tensor on `device`."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return SegmentBatch(**{name: part if part is None else part.to(device) for name, part in parts.items()})


class Policy(nn.Module, ABC):
    """A policy over the 70 skills. N worlds, B segments, T steps.

    State is a dict of tensors made by `initial_state`; `act` may change it in place and returns it. Trainable are
    the parameters with `requires_grad`.
    """

    pads = True
    """Whether padding costs time in `action_logits`: segments are then put together by their lengths."""
    reads_ahead = False
    """Whether `act` makes use of `read_ahead`, so that the host need not wait for a device."""
    unknown_steps = 0
    """Longest episode for which `action_logits` makes use of `SegmentBatch.unknown`; 0: it makes none."""
    _lookup: Callable[[int], str] | None = None

    def bind_instructions(self, lookup: Callable[[int], str]) -> None:
        """Say how to get an instruction's text from its id (`env.instruction_text`)."""
        self._lookup = lookup

    @contextmanager
    def bound_to(self, lookup: Callable[[int], str]) -> Iterator[None]:
        """`bind_instructions` for the length of a `with`."""
        before, self._lookup = self._lookup, lookup
        try:
            yield
        finally:
            self._lookup = before

    def instruction_text(self, instruction_id: int) -> str:
        """The text of an instruction id; RuntimeError before `bind_instructions`."""
        if self._lookup is None:
            raise RuntimeError("instruction ids need bind_instructions(lookup) first")
        return self._lookup(instruction_id)

    def pretended(self, instruction_id: Tensor) -> tuple[Tensor, Tensor] | None:
        """`unknown` and `expected`, as in `SegmentBatch`, of instructions (B,), where what is bound has that to say."""
        pretend: Any = getattr(self._lookup, "pretended", None)
        return None if pretend is None else pretend(instruction_id)

    def prepare_instructions(self, texts: list[str]) -> None:  # noqa: B027 (a policy may have nothing to prepare)
        """Told which instructions will come up soon, a policy can work on them together."""

    def read_into(self, folder: Path, texts: list[str]) -> Iterator[int]:
        """Have instructions read and kept in files of a folder, by a policy that gains from it; yields how many are
        still to be read. Whoever stops asking keeps what was read till then."""
        return iter(())

    def expect_instructions(self, count: int) -> None:  # noqa: B027 (a policy may keep none)
        """Told how many instructions will be in use at a time, a policy need not take memory for many more."""

    def read_ahead(self, instruction_ids: list[int], need: int) -> Any:
        """Have instructions ready for `act`: as many as there is room for, from the first on, at least `need`.

        The result says how many (`count`), goes into `obs["ready"]` with the ids of instructions that are among them,
        and holds until its `intact` is false. Only where `reads_ahead`.
        """
        raise NotImplementedError

    @abstractmethod
    def initial_state(self, num_envs: int) -> State:
        """State of N worlds; every row must begin with `episode_start`."""

    @abstractmethod
    def encode(self, rgb: Tensor) -> Tensor:
        """Frozen features (N, num_tokens, dim) of pictures uint8 (N, H, W, 3): what the rollout stores."""

    @abstractmethod
    def act(
        self,
        obs: dict[str, Any],
        state: State,
        episode_start: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        """One step of N worlds, without gradient: action (N,), its log-probability (N,), value (N,), state.

        `obs` holds "rgb" uint8 (N, H, W, 3) or "features", and "instruction_id" (N,) or "instruction", N strings.
        Rows where `episode_start` (N,) forget what was before. `deterministic` takes the likeliest action;
        else `generator` draws it (default: torch's own).
        """

    @abstractmethod
    def action_logits(self, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        """Logits (B, T, 70) and values (B, T), with gradients to the trainable parameters."""

    @abstractmethod
    def refresh_state(self, state: State) -> State:
        """The state as the present trainable parameters would have made it; to call after every update."""

    def evaluate_segments(self, batch: SegmentBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability of `batch.action`, entropy and value, each (B, T) float32, zero in the padding."""
        logits, value = self.action_logits(batch)
        log_probs = logits.log_softmax(-1)
        log_prob = log_probs.gather(-1, batch.action[..., None])[..., 0]
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        return tuple(x.masked_fill(~batch.valid, 0.0) for x in (log_prob, entropy, value))  # type: ignore[return-value]

    def calibrate(self, features: Tensor) -> None:  # noqa: B027 (a policy may have nothing to calibrate)
        """Fit fixed statistics to features (..., num_tokens, dim), before the first act; only the first call counts."""

    def trainable_state_dict(self) -> dict[str, Tensor]:
        """Everything training changes, by name: what a checkpoint holds."""
        return {name: p.detach().clone() for name, p in self.named_parameters() if p.requires_grad}

    def load_trainable_state_dict(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `trainable_state_dict` gave."""
        own = {name: p for name, p in self.named_parameters() if p.requires_grad}
        check_same_shapes(own, tensors)
        with torch.no_grad():
            for name, parameter in own.items():
                parameter.copy_(tensors[name])

    def frozen_fingerprint(self) -> dict[str, str]:
        """sha256 of each frozen part's weights, by the part's name."""
        return {}

    def unfetchable_weights(self) -> dict[str, Tensor]:
        """Frozen weights that exist nowhere else (a random initialisation): a run keeps them once."""
        return {}

    def load_unfetchable_weights(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `unfetchable_weights` gave."""
        check_same_shapes(self.unfetchable_weights(), tensors)

    def describe(self) -> str:
        """One line for logs: which frozen parts with which weights, and how many parameters are trained."""
        trainable, frozen = self.count_parameters()
        return f"{type(self).__name__}: {trainable:,} trainable and {frozen:,} frozen parameters"

    def count_parameters(self) -> tuple[int, int]:
        """Numbers of trainable and of frozen parameters."""
        trainable = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return trainable, sum(p.numel() for p in self.parameters()) - trainable


def check_same_shapes(own: dict[str, Any], given: dict[str, Tensor]) -> None:
    """UserError unless both dicts have the same names and shapes: a checkpoint of another configuration."""
    different = sorted(own.keys() ^ given.keys()) or [n for n in own if own[n].shape != given[n].shape]
    if different:
        raise UserError(f"the checkpoint does not fit this policy's configuration (differs at {different[0]})")


def grown(policy: Policy, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What `load_trainable_state_dict` takes, of a policy that may lack parts of this one: these stay as they are."""
    own = policy.trainable_state_dict()
    return own | tensors if tensors.keys() <= own.keys() else tensors


def sample(logits: Tensor, deterministic: bool, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
    """Draw actions (N,) from logits (N, A), or take the likeliest; with their log-probabilities (N,)."""
    log_probs = logits.log_softmax(-1)
    if deterministic:
        action = logits.argmax(-1)
    else:
        # as torch.multinomial does it, which also asks the device whether these are probabilities, and waits
        race = torch.empty_like(log_probs).exponential_(generator=generator)
        action = (log_probs.exp() / race).argmax(-1)
    return action, log_probs.gather(-1, action[:, None])[:, 0]
