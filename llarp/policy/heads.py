"""What is trained: projector to visual tokens, previous-action embedding, action MLP, critic. All in float32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from llarp.tasks.actions import NUM_ACTIONS

from .config import PolicyConfig

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


class Heads(nn.Module):
    """Everything around the frozen models.

    `token_norm`: mean length of the language model's token embeddings; visual tokens begin at that length, without
    which the action MLP learned nothing in trials. `action_embeddings` (70, hidden): mean frozen embedding of each
    skill's words, where the previous-action embedding begins.
    """

    def __init__(
        self, config: PolicyConfig, num_tokens: int, dim: int, hidden: int, token_norm: float, action_embeddings: Tensor
    ):
        super().__init__()
        self.num_visual_tokens, self.hidden = config.num_visual_tokens, hidden
        self.standardize = Standardize(num_tokens, dim)
        last_norm = nn.LayerNorm(hidden)
        nn.init.constant_(last_norm.weight, token_norm / hidden**0.5)
        self.projector = nn.Sequential(
            nn.Flatten(-2),
            nn.LayerNorm(num_tokens * dim),
            nn.Linear(num_tokens * dim, config.projector_hidden),
            nn.GELU(),
            nn.Linear(config.projector_hidden, config.num_visual_tokens * hidden),
            nn.Unflatten(-1, (config.num_visual_tokens, hidden)),
            last_norm,
        )
        self.previous_action: nn.Embedding | None = None
        if config.observe_previous_action:
            none = action_embeddings.new_zeros(1, hidden)
            self.previous_action = nn.Embedding.from_pretrained(torch.cat([action_embeddings, none]), freeze=False)
        width = config.action_hidden
        layers: list[nn.Module] = [nn.LayerNorm(hidden)]
        for i in range(config.action_layers):
            layers += [nn.Linear(width if i else hidden, width), nn.LayerNorm(width), nn.ReLU()]
        self.trunk = nn.Sequential(*layers)
        self.actor = nn.Linear(width, NUM_ACTIONS)
        import os
        if os.environ.get("X_ACTOR"):
            words = action_embeddings - action_embeddings.mean(0)
            words = words / words.norm(dim=1, keepdim=True)
            half = width // 2
            turn = torch.linalg.qr(torch.randn(hidden, half))[0].T if half <= hidden else None  # (half, hidden)
            eye = torch.eye(half)
            with torch.no_grad():
                first = True
                for layer in self.trunk:
                    if isinstance(layer, nn.Linear):
                        w = turn if first else torch.cat([eye, -eye], 1)
                        layer.weight.copy_(torch.cat([w, -w]))
                        layer.bias.zero_()
                        first = False
                scored = float(os.environ["X_ACTOR"]) * words @ turn.T
                self.actor.weight.copy_(torch.cat([scored, -scored], 1))
        else:
            nn.init.orthogonal_(self.actor.weight, 0.01)  # begin near the uniform policy
        nn.init.zeros_(self.actor.bias)
        self.bias_word = nn.Parameter(action_embeddings.new_zeros(hidden))
        self.critic = nn.Linear(width, 1)
        nn.init.zeros_(self.critic.bias)

    def visual_tokens(self, features: Tensor, previous_action: Tensor) -> Tensor:
        """Tokens (..., K, hidden) of features (..., num_tokens, dim) and the actions (...) that led there."""
        tokens = self.projector(self.standardize(features.float()))
        import os
        if os.environ.get("X_BIAS"):
            tokens = float(os.environ["X_BIAS"]) * tokens + self.bias_word
        if self.previous_action is not None:
            tokens = tokens + self.previous_action(previous_action)[..., None, :]
        return tokens

    def forward(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (..., 70) and values (...) from the language model's last hidden states (..., hidden)."""
        trunk = self.trunk(hidden.float())
        return self.actor(trunk), self.critic(trunk)[..., 0]
