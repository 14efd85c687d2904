"""What is trained: projector to visual tokens, previous-action embedding, action MLP, critic. All in float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llarp.tasks.actions import NUM_ACTIONS

from .config import PolicyConfig
from .reader import InstructionReader
from .resampler import CellMLP, PerceiverResampler
from .skill_names import SkillNames, word_directions
from .word_prior import ActionEmbedding, WordPrior

FEATURE_LIMIT = 8.0  # standard deviations; what lies farther out tells no more


class Standardize(nn.Module):
    """Fixed standardisation of features. An untrained ViT's features vary little around their mean; this shows how."""

    mean: Tensor
    scale: Tensor
    fitted: Tensor

    def __init__(self, num_tokens: int, dim: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_tokens, dim))
        self.register_buffer("scale", torch.ones(num_tokens, dim))
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, features: Tensor) -> None:
        """Take mean and deviation over the leading dimensions of (..., num_tokens, dim); only the first time."""
        rows = features.to(self.mean).flatten(0, -3)
        if self.fitted or len(rows) < 2:
            return
        deviation = rows.std(0)
        floor = (0.01 * deviation.mean()).clamp_min(1e-6)  # features that hardly vary are mostly rounding
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(1.0 / deviation.clamp_min(floor))
        self.fitted.fill_(True)

    def forward(self, features: Tensor) -> Tensor:
        return ((features - self.mean) * self.scale).clamp(-FEATURE_LIMIT, FEATURE_LIMIT)


VISUAL_SHARE = 0.5
"""Length at which the picture's part of a visual token begins, as a share of a word embedding's."""


class Heads(nn.Module):
    """Everything around the frozen models.

    `token_norm`: mean length of the language model's token embeddings. `noun_cue` (hidden,): frozen embedding of a word
    after which a noun comes; visual tokens begin as this word plus what the picture says, so that what the frozen model
    expects next, the name of a thing, is in its last hidden state from the start. `action_embeddings` (70, hidden):
    mean frozen embedding of each skill's words: where the previous-action embedding begins, and the action head.
    `instruction_size`: the language model's layers, and numbers of a token's values in one of them. `named`: what
    `WordPrior` asks for, with `word_prior`.
    """

    def __init__(
        self,
        config: PolicyConfig,
        num_tokens: int,
        dim: int,
        hidden: int,
        token_norm: float,
        noun_cue: Tensor,
        action_embeddings: Tensor,
        instruction_size: tuple[int, int],
        named: tuple[Tensor, Tensor] | None = None,
    ):
        super().__init__()
        self.num_visual_tokens, self.hidden, self.temperature = config.num_visual_tokens, hidden, config.temperature
        self.standardize = Standardize(num_tokens, dim)
        last_norm = nn.LayerNorm(hidden)
        with torch.no_grad():
            last_norm.weight.fill_(VISUAL_SHARE * token_norm / hidden**0.5)
            last_norm.bias.copy_(noun_cue)
        if config.resampler == "perceiver":
            count, width = config.num_visual_tokens, config.projector_hidden
            self.projector = nn.Sequential(PerceiverResampler(num_tokens, dim, count, width, hidden), last_norm)
        else:
            self.projector = nn.Sequential(
                *picture_mlp(config, num_tokens, dim, config.num_visual_tokens * hidden),
                nn.Unflatten(-1, (config.num_visual_tokens, hidden)),
                last_norm,
            )
        self.previous_action: nn.Module | None = None
        if config.observe_previous_action and config.word_prior:
            self.previous_action = ActionEmbedding(action_embeddings)
        elif config.observe_previous_action:
            none = action_embeddings.new_zeros(1, hidden)
            self.previous_action = nn.Embedding.from_pretrained(torch.cat([action_embeddings, none]), freeze=False)
        self.reader = InstructionReader(*instruction_size, hidden) if config.instruction_skip else None
        self.prior = WordPrior(hidden, *named) if named is not None else None
        self.trunk = action_mlp(config, hidden)
        by_name = config.head == "skill_names"
        self.actor = SkillNames(hidden, action_embeddings) if by_name else nn.Linear(config.action_hidden, NUM_ACTIONS)
        self.glance: nn.Module | None = None
        if config.visual_skip:
            self.glance = SkillNames(hidden, action_embeddings) if by_name else nn.Sequential(
                nn.LayerNorm(hidden), nn.Linear(hidden, NUM_ACTIONS)
            )  # fmt: skip
            last: Any = self.glance.project if isinstance(self.glance, SkillNames) else self.glance[1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.critic = nn.Linear(config.action_hidden, 1)
        nn.init.zeros_(self.critic.bias)
        if isinstance(self.actor, nn.Linear):
            begin_as_word_scores(self.trunk, self.actor, action_embeddings)

    @property
    def looks_back(self) -> bool:
        """Whether `forward` asks what the instructions are."""
        return self.reader is not None or self.prior is not None

    def see(self, features: Tensor, previous_action: Tensor) -> tuple[Tensor, Tensor | None]:
        """Tokens (..., K, hidden) of features (..., num_tokens, dim) and the actions (...) that led there; what the
        picture adds to the logits (..., 70), if anything."""
        picture = self.projector[:-1](self.standardize(features.float()))
        tokens = self.projector[-1](picture)
        if self.previous_action is not None:
            tokens = tokens + self.previous_action(previous_action)[..., None, :]
        if self.glance is None:
            return tokens, None
        glance = self.glance(picture.mean(-2))
        if self.prior is not None:  # what a category looks like that training never shows cannot be known
            glance = glance.index_fill(-1, self.prior.novel, 0.0)
        return tokens, glance

    def visual_tokens(self, features: Tensor, previous_action: Tensor) -> Tensor:
        """The tokens that `see` gives."""
        return self.see(features, previous_action)[0]

    def forward(
        self, hidden: Tensor, glance: Tensor | None = None, told: tuple[Tensor, Tensor, Tensor, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B, T, 70) and values (B, T) from the language model's last hidden states (B, T, hidden), `glance`,
        what the picture adds, and `told`, the instructions: what an `InstructionReader` reads of U of them, and their
        last hidden states (U, hidden). Of heads that do not look back any leading dimensions do, without `told`."""
        hidden = hidden.float()
        if self.reader is not None and told is not None:
            hidden = self.reader(hidden, *told[:3])
        trunk = self.trunk(hidden)
        logits = self.actor(hidden if isinstance(self.actor, SkillNames) else trunk)
        if glance is not None:
            logits = logits + glance
        if self.prior is not None and told is not None:
            logits = self.prior(logits, hidden, told[3][told[2]])
        return logits / self.temperature, self.critic(trunk)[..., 0]


def picture_mlp(config: PolicyConfig, num_tokens: int, dim: int, out: int) -> list[nn.Module]:
    """Layers from features (..., num_tokens, dim) to (..., out)."""
    if config.resampler == "cells":
        return [CellMLP(num_tokens, dim, config.projector_hidden, out)]
    return [
        nn.Flatten(-2),
        nn.LayerNorm(num_tokens * dim),
        nn.Linear(num_tokens * dim, config.projector_hidden),
        nn.GELU(),
        nn.Linear(config.projector_hidden, out),
    ]


def action_mlp(config: PolicyConfig, width: int) -> nn.Sequential:
    """The action MLP without its last layer, (..., width) to (..., action_hidden)."""
    layers: list[nn.Module] = [nn.LayerNorm(width)]
    for _ in range(config.action_layers):
        layers += [nn.Linear(width, config.action_hidden), nn.LayerNorm(config.action_hidden), nn.ReLU()]
        width = config.action_hidden
    return nn.Sequential(*layers)


@torch.no_grad()
def begin_as_word_scores(trunk: nn.Sequential, actor: nn.Linear, words: Tensor) -> None:
    """Set an action MLP to where it scores skills by how well the hidden state fits their words (A, hidden).

    Units come in pairs relu(z), relu(-z), so that a layer can hand on a vector z whole; z is a random rotation of the
    hidden state cut to half the width. From a usual initialisation the objects' names were not learned in trials.
    An odd width leaves one unit unused at first.
    """
    half = actor.in_features // 2
    turn = nn.init.orthogonal_(torch.empty(half, words.shape[1]))
    whole = torch.cat([torch.eye(half), -torch.eye(half)], 1)  # z again, from relu(z) and relu(-z)
    read = turn
    for layer in trunk:
        if isinstance(layer, nn.Linear):
            layer.weight.zero_()
            layer.bias.zero_()
            layer.weight[: 2 * half, : read.shape[1]] = torch.cat([read, -read])
            read = whole
    actor.weight.zero_()
    actor.weight[:, : 2 * half] = word_directions(words) @ turn.T @ whole
    actor.bias.zero_()
