"""A tiny environment whose optimum needs the instruction and an earlier picture, and a tiny policy for it."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from llarp.policy.base import NO_ACTION, Policy, SegmentBatch, State, sample
from llarp.tasks.actions import NUM_ACTIONS

CHOICES = 3
WORDS = ("bring the apple", "close the fridge", "go to the sofa")
COLOURS = torch.tensor([[230, 30, 30], [30, 230, 30], [30, 30, 230]], dtype=torch.uint8)


class MemoryEnv:
    """The first picture of an episode has one of three colours, the later ones are grey; the last action counts.

    Right is an action that leaves 3 colour + instruction when divided by 9: reward 1 and `terminated`; a wrong answer
    is `truncated`. Who knows only one of the two is right one time in three. Episodes begin out of step with each
    other. `blind` hides "picture" or "instruction"; `delay` is how many actions come before the one that counts.
    Speaks `output="torch"` with same-step autoreset.
    """

    def __init__(self, num_envs: int, seed: int = 0, size: int = 4, delay: int = 3, blind: str = "") -> None:
        self.num_envs, self.size, self.delay, self.blind = num_envs, size, delay, blind
        self._generator = torch.Generator().manual_seed(seed)
        self._age = torch.arange(num_envs) % (delay + 1)
        self._colour, self._instruction = self._draw(), self._draw()
        self._final: dict[str, Tensor] = {}

    def upcoming_instructions(self, count: int) -> list[str]:
        """All there are."""
        return list(WORDS)

    def instruction_text(self, instruction_id: int) -> str:
        return WORDS[instruction_id]

    def reset(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return self._observe(torch.ones(self.num_envs, dtype=torch.bool)), {}

    def step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, dict[str, Tensor]]:
        answered = self._age == self.delay
        right = action % CHOICES**2 == CHOICES * self._colour + self._instruction
        terminated, truncated = answered & right, answered & ~right
        self._age = self._age + 1
        self._final = self._observe(torch.zeros(self.num_envs, dtype=torch.bool))
        self._age = torch.where(answered, 0, self._age)
        self._colour = torch.where(answered, self._draw(), self._colour)
        self._instruction = torch.where(answered, self._draw(), self._instruction)
        info = {"success": terminated, "invalid_action": action >= CHOICES**2}
        return self._observe(answered), terminated.float(), terminated, truncated, info

    def final_observation(self) -> dict[str, Tensor]:
        return self._final

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "generator": self._generator.get_state(),
            "age": self._age,
            "colour": self._colour,
            "instruction": self._instruction,
        }

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        self._generator.set_state(state["generator"])
        self._age, self._colour, self._instruction = state["age"], state["colour"], state["instruction"]

    def _draw(self) -> Tensor:
        return torch.randint(CHOICES, (self.num_envs,), generator=self._generator)

    def _observe(self, first: Tensor) -> dict[str, Tensor]:
        grey = torch.full_like(COLOURS[self._colour], 128)
        shown = first & (self.blind != "picture")
        colour = torch.where(shown[:, None], COLOURS[self._colour], grey)
        rgb = colour[:, None, None].expand(-1, self.size, self.size, -1)
        instruction = torch.zeros_like(self._instruction) if self.blind == "instruction" else self._instruction
        self.current = {"rgb": rgb, "instruction_id": instruction}
        return self.current


class RecurrentPolicy(Policy):
    """A GRU over (instruction, mean colour, previous action), with what a language model's cache needs: a rebuild."""

    def __init__(self, hidden: int = 32, max_steps: int = 8) -> None:
        super().__init__()
        self.max_steps = max_steps
        self.instruction = nn.Embedding(CHOICES, 16)
        self.previous = nn.Embedding(NUM_ACTIONS + 1, 4)
        self.frozen = nn.Linear(3, 16).requires_grad_(False)
        self.gru = nn.GRU(36, hidden, batch_first=True)
        self.actor = nn.Sequential(nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, NUM_ACTIONS))
        self.critic = nn.Linear(hidden, 1)

    def initial_state(self, num_envs: int) -> State:
        return {
            "hidden": torch.zeros(num_envs, self.gru.hidden_size),
            "length": torch.zeros(num_envs, dtype=torch.int64),
            "instruction_id": torch.zeros(num_envs, dtype=torch.int64),
            "last_action": torch.full((num_envs,), NO_ACTION),
            "features": torch.zeros(num_envs, self.max_steps, 1, 3),
            "previous_action": torch.full((num_envs, self.max_steps), NO_ACTION),
        }

    def encode(self, rgb: Tensor) -> Tensor:
        return (rgb.float().mean((1, 2)) / 255)[:, None]

    @torch.no_grad()
    def act(
        self,
        obs: dict[str, Any],
        state: State,
        episode_start: Tensor,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor, Tensor, State]:
        features = obs["features"] if "features" in obs else self.encode(obs["rgb"])
        world = torch.arange(len(features))
        state["length"] = torch.where(episode_start, 0, state["length"])
        previous = torch.where(episode_start, NO_ACTION, state["last_action"])
        state["hidden"] = state["hidden"] * ~episode_start[:, None]
        state["features"][world, state["length"]] = features
        state["previous_action"][world, state["length"]] = previous
        state["instruction_id"] = obs["instruction_id"].clone()
        inputs = self._inputs(obs["instruction_id"], features[:, None], previous[:, None])
        out, hidden = self.gru(inputs, state["hidden"][None].contiguous())
        action, log_prob = sample(self.actor(out[:, 0]), deterministic, generator)
        state |= {"hidden": hidden[0], "last_action": action, "length": state["length"] + 1}
        return action, log_prob, self.critic(out[:, 0])[:, 0], state

    def action_logits(self, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        out, _ = self.gru(self._inputs(batch.instruction_id, batch.features, batch.previous_action))
        return self.actor(out), self.critic(out)[..., 0]

    @torch.no_grad()
    def refresh_state(self, state: State) -> State:
        out, _ = self.gru(self._inputs(state["instruction_id"], state["features"], state["previous_action"]))
        last = out[torch.arange(len(out)), (state["length"] - 1).clamp(min=0)]
        return state | {"hidden": last}

    def frozen_fingerprint(self) -> dict[str, str]:
        return {"vision": hashlib.sha256(self.frozen.weight.numpy().tobytes()).hexdigest()}

    def unfetchable_weights(self) -> dict[str, Tensor]:
        return self.frozen.state_dict()

    def load_unfetchable_weights(self, tensors: dict[str, Tensor]) -> None:
        self.frozen.load_state_dict(tensors)

    def _inputs(self, instruction_id: Tensor, features: Tensor, previous_action: Tensor) -> Tensor:
        words = self.instruction(instruction_id)[:, None].expand(-1, features.shape[1], -1)
        return torch.cat([words, self.frozen(features[:, :, 0]), self.previous(previous_action)], -1)
