"""A head that names skills: a trained projection of the last hidden state against frozen embeddings of their words."""

from __future__ import annotations

from torch import Tensor, nn

WORD_SCALE = 0.5
"""Length of an embedding as the heads score it; logits then spread over about half a unit at the beginning."""


def word_directions(words: Tensor) -> Tensor:
    """Embeddings (A, hidden) without what they have in common, each of length `WORD_SCALE`."""
    apart = words - words.mean(0)
    return WORD_SCALE * apart / apart.norm(dim=1, keepdim=True).clamp_min(1e-6)


class SkillNames(nn.Module):
    """Logits (..., A) = projection of (..., width) . frozen words (A, hidden).

    What the projection learns of one skill's words it applies to those of all, also of skills never shown. Where the
    widths are the same it begins as the identity: a score of how well a hidden state fits the words.
    """

    directions: Tensor

    def __init__(self, width: int, words: Tensor):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, words.shape[1])
        if width == words.shape[1]:
            nn.init.eye_(self.project.weight)
            nn.init.zeros_(self.project.bias)
        self.register_buffer("directions", word_directions(words), persistent=False)  # the language model has them

    def forward(self, hidden: Tensor) -> Tensor:
        return self.project(self.norm(hidden)) @ self.directions.T
