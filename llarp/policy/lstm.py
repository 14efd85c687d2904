"""An LSTM over frozen features, for comparison: the language model reads the instruction and nothing else."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from llarp.tasks.actions import NUM_ACTIONS

from .base import NO_ACTION, SegmentBatch, State, sample
from .config import PolicyConfig, Variant
from .context import PREFIX_BATCH, read_padded, tokens_of
from .heads import Standardize, action_mlp, picture_mlp
from .llm import FrozenLLM
from .policy import LLaRPPolicy
from .skill_names import SkillNames


class TextFeatures:
    """Mean and last of the language model's last hidden states of prompts, (2 * hidden,) each, computed once."""

    def __init__(self, llm: FrozenLLM, max_tokens: int, max_bytes: int):
        self.llm, self.max_tokens = llm, max_tokens
        self.max_texts = max(1, max_bytes // (8 * llm.hidden_size))
        self._features: OrderedDict[str, Tensor] = OrderedDict()

    def limit(self, texts: int) -> None:
        """Keep no more than so many from now on."""
        self.max_texts = max(1, texts)

    def get(self, texts: list[str]) -> Tensor:
        """Features (len(texts), 2 * hidden) float32; UserError for a text longer than `max_tokens`."""
        self.prepare(texts)
        return torch.stack([self._features[text] for text in texts])

    @torch.no_grad()
    def prepare(self, texts: list[str]) -> None:
        """Compute what `get` will be asked for, many texts in one pass, the oldest making room."""
        wanted = dict.fromkeys(texts)
        missing = {text: tokens_of(self.llm, text, self.max_tokens) for text in wanted if text not in self._features}
        for text in wanted:
            if text not in missing:
                self._features.move_to_end(text)
        by_length = sorted(missing, key=lambda text: len(missing[text]))
        for first in range(0, len(by_length), PREFIX_BATCH):
            batch = by_length[first : first + PREFIX_BATCH]
            hidden, _ = read_padded(self.llm, [missing[text] for text in batch])
            for text, row in zip(batch, hidden.float(), strict=True):
                row = row[: len(missing[text])]
                self._features[text] = torch.cat([row.mean(0), row[-1]])
        while len(self._features) > max(self.max_texts, len(wanted)):
            self._features.popitem(last=False)


class LSTMHeads(nn.Module):
    """All that is trained, float32: instruction + picture + previous action -> LSTM -> action MLP and critic."""

    def __init__(self, config: PolicyConfig, num_tokens: int, dim: int, hidden: int, words: Tensor):
        """`hidden`: of the language model; `words` (70, hidden): mean embeddings of the skills' words."""
        super().__init__()
        width, self.temperature = config.projector_hidden, config.temperature
        self.standardize = Standardize(num_tokens, dim)
        self.text = nn.Sequential(nn.LayerNorm(2 * hidden), nn.Linear(2 * hidden, width), nn.LayerNorm(width))
        self.projector = nn.Sequential(*picture_mlp(config, num_tokens, dim, width), nn.LayerNorm(width))
        self.previous_action = nn.Embedding(NUM_ACTIONS + 1, width) if config.observe_previous_action else None
        self.lstm = nn.LSTM(width, config.lstm_hidden, config.lstm_layers, batch_first=True)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_hh"):  # gates that keep what there is are open at first
                nn.init.ones_(parameter.data[config.lstm_hidden : 2 * config.lstm_hidden])
        self.trunk = action_mlp(config, config.lstm_hidden)
        named = config.head == "skill_names"
        self.actor = SkillNames(config.lstm_hidden, words) if named else nn.Linear(config.action_hidden, NUM_ACTIONS)
        self.critic = nn.Linear(config.action_hidden, 1)
        nn.init.zeros_(self.critic.bias)
        if isinstance(self.actor, nn.Linear):  # all skills alike at first
            nn.init.orthogonal_(self.actor.weight, 0.01)
            nn.init.zeros_(self.actor.bias)

    def remember(
        self, text: Tensor, features: Tensor, previous_action: Tensor, memory: list[Tensor] | None = None
    ) -> tuple[Tensor, list[Tensor]]:
        """LSTM outputs (B, T, lstm_hidden) and the memory after them, two (layers, B, lstm_hidden).

        `text` (B, 2 * hidden), `features` (B, T, num_tokens, dim), `previous_action` (B, T).
        """
        inputs = self.text(text)[:, None] + self.projector(self.standardize(features.float()))
        if self.previous_action is not None:
            inputs = inputs + self.previous_action(previous_action)
        out, after = self.lstm(inputs, memory)
        return out, list(after)

    def forward(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., 70) and values (...) from the LSTM's outputs (..., lstm_hidden)."""
        trunk = self.trunk(out)
        logits = self.actor(out if isinstance(self.actor, SkillNames) else trunk)
        return logits / self.temperature, self.critic(trunk)[..., 0]


class LSTMPolicy(LLaRPPolicy):
    """The LLaRP policy with an LSTM where that one has the language model.

    State (N worlds): hidden, cell (N, layers, lstm_hidden), text (N, 2 * llm hidden), step (N,), features and previous
    actions as in `LLaRPPolicy`.
    """

    variant: Variant = "lstm"
    pads = True

    def _make_heads(self, words: Tensor) -> LSTMHeads:
        return LSTMHeads(self.config, self.vision.num_tokens, self.vision.dim, self.llm.hidden_size, words)

    def _make_cache(self, max_bytes: int) -> TextFeatures:
        return TextFeatures(self.llm, self.config.max_instruction_tokens, max_bytes)

    def initial_state(self, num_envs: int) -> State:
        config, device = self.config, self.device
        memory = torch.zeros(num_envs, config.lstm_layers, config.lstm_hidden, device=device)
        features = torch.zeros(num_envs, config.max_steps, self.vision.num_tokens, self.vision.dim, device=device)
        return {
            "hidden": memory,
            "cell": memory.clone(),
            "text": torch.zeros(num_envs, 2 * self.llm.hidden_size, device=device),
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
            state["text"][starting] = self.instructions.get(self._texts(obs, starting))
            for name in ("hidden", "cell", "step"):
                state[name][starting] = 0
            state["previous_action"][starting, 0] = NO_ACTION
        rows, step = torch.arange(len(features), device=self.device), state["step"].clone()
        memory = [state[name].transpose(0, 1).contiguous() for name in ("hidden", "cell")]
        previous = state["previous_action"][rows, step]
        out, after = self.heads.remember(state["text"], features[:, None], previous[:, None], memory)
        for name, part in zip(("hidden", "cell"), after, strict=True):
            state[name].copy_(part.transpose(0, 1))
        state["features"][rows, step] = features.to(state["features"].dtype)
        logits, value = self.heads(out[:, 0])
        action, log_prob = sample(logits, deterministic, generator)
        state["previous_action"][rows, step + 1] = action
        state["step"] += 1
        return action, log_prob, value, state

    def action_logits(self, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        text = self.instructions.get([self._prompt(self.instruction_text(i)) for i in batch.instruction_id.tolist()])
        return self.heads(self.heads.remember(text, batch.features, batch.previous_action)[0])

    @torch.no_grad()
    def refresh_state(self, state: State) -> State:
        steps = int(state["step"].max())
        memory = [torch.zeros_like(state[name]).transpose(0, 1).contiguous() for name in ("hidden", "cell")]
        for t in range(steps):  # a row's memory is that after its own last step
            features, previous = state["features"][:, t : t + 1], state["previous_action"][:, t : t + 1]
            _, after = self.heads.remember(state["text"], features, previous, memory)
            going = (state["step"] > t)[None, :, None]
            memory = [torch.where(going, new, old) for new, old in zip(after, memory, strict=True)]
        for name, part in zip(("hidden", "cell"), memory, strict=True):
            state[name].copy_(part.transpose(0, 1))
        return state

    def describe(self) -> str:
        return f"{super().describe()} | an LSTM acts: the llm reads instructions only"
