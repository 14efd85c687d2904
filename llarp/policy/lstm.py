"""An LSTM over frozen features, for comparison: the language model reads the instruction and nothing else."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llarp.tasks.actions import NUM_ACTIONS

from .base import SegmentBatch, State
from .config import PolicyConfig, Variant
from .context import read_together
from .heads import Standardize, action_mlp, picture_mlp
from .read_once import ReadOncePolicy
from .readings import Readings
from .skill_names import SkillNames


class TextFeatures(Readings):
    """Mean and last of the language model's last hidden states of prompts, (2 * hidden,) each."""

    what = "mean and last hidden state"

    def read(self, ids: list[list[int]]) -> list[tuple[Tensor, ...]]:
        shown = read_together(self.llm, ids)[0].float().split([len(tokens) for tokens in ids])
        return [(torch.cat([row.mean(0), row[-1]]),) for row in shown]

    def get(self, texts: list[str]) -> Tensor:
        """(len(texts), 2 * hidden) float32; UserError for a text longer than `max_tokens`."""
        return torch.stack(*self._of(texts))


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


class LSTMPolicy(ReadOncePolicy):
    """The LLaRP policy with an LSTM where that one has the language model.

    State (N worlds), beside what `ReadOncePolicy` has: hidden, cell (N, layers, lstm_hidden), text (N, 2 * llm hidden).
    """

    variant: Variant = "lstm"

    def _make_heads(self, words: Tensor) -> LSTMHeads:
        return LSTMHeads(self.config, self.vision.num_tokens, self.vision.dim, self.llm.hidden_size, words)

    def _make_cache(self, max_bytes: int) -> TextFeatures:
        return TextFeatures(self.llm, self.config.max_instruction_tokens, max_bytes)

    def initial_state(self, num_envs: int) -> State:
        memory = torch.zeros(num_envs, self.config.lstm_layers, self.config.lstm_hidden, device=self.device)
        text = torch.zeros(num_envs, 2 * self.llm.hidden_size, device=self.device)
        return super().initial_state(num_envs) | {"hidden": memory, "cell": memory.clone(), "text": text}

    def _start(self, state: State, rows: Tensor, read: Tensor) -> None:
        state["text"][rows] = read
        state["hidden"][rows] = state["cell"][rows] = 0

    def _step(self, state: State, step: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        memory = [state[name].transpose(0, 1).contiguous() for name in ("hidden", "cell")]
        previous = state["previous_action"].gather(1, step[:, None])
        out, after = self.heads.remember(state["text"], features[:, None], previous, memory)
        for name, part in zip(("hidden", "cell"), after, strict=True):
            state[name].copy_(part.transpose(0, 1))
        logits, value = self.heads(out)
        return logits[:, 0], value[:, 0]

    def action_logits(self, batch: SegmentBatch) -> tuple[Tensor, Tensor]:
        text = self._readings_of(batch)
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
