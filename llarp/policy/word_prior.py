"""What the frozen model itself expects to be named next after the instruction, as a prior on what to pick up.

Training shows the heads how to use it on the categories that training has; it says as much of others, and of
descriptions instead of names ("the sour yellow fruit"), which nothing trained here has read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from llarp.errors import UserError
from llarp.tasks.actions import ACTIONS, NOVEL_PICKS

PICKS = [action.index for action in ACTIONS if action.kind == "pick"]
NAMES = [ACTIONS[index].words.removeprefix("pick up the ") for index in PICKS]
"""Of the categories, in the order of `PICKS`."""
PLAIN = tuple(f"Move the {name}." for name in NAMES)
"""Instructions whose mean scores are taken off: some words are likelier than others whatever was said."""
FLOOR = -8.0

if TYPE_CHECKING:
    from .llm import FrozenLLM


def first_words(llm: FrozenLLM) -> Tensor:
    """Output embeddings (C, hidden) of the categories' first tokens; UserError where the model's are not read."""
    model: Any = llm
    if not model.backbone.config.tie_word_embeddings:
        raise UserError(
            f"policy.word_prior and policy.kind=encoder_decoder ask what is named next: the output layer of {llm.name} "
            "is not its embedding table, and no other is read; leave these out, or choose a policy.llm with tied ones"
        )
    first = [model.tokenizer(f" {name}", add_special_tokens=False)["input_ids"][0] for name in NAMES]
    return llm.embedding_table()[first].detach().float()


class Expected(nn.Module):
    """What the frozen language model expects to be named, from the last hidden states of prompts."""

    words: Tensor
    usual: Tensor
    picks: Tensor
    novel: Tensor

    def __init__(self, words: Tensor, plain: Tensor):
        """`words` (C, hidden): what `first_words` gives; `plain` (S, hidden): last hidden states of the prompts of
        `PLAIN`."""
        super().__init__()
        self.register_buffer("words", words, persistent=False)  # the language model has them
        self.register_buffer("usual", (plain @ words.T).mean(0), persistent=False)
        self.register_buffer("picks", torch.tensor(PICKS), persistent=False)
        self.register_buffer("novel", torch.tensor(NOVEL_PICKS), persistent=False)

    def log_ratios(self, last: Tensor) -> Tensor:
        """log p (..., C) less that of the likeliest, from the last hidden states of prompts (..., hidden), none below
        `FLOOR`: whoever is sure of nothing still has a first choice."""
        scores = last.float() @ self.words.T - self.usual
        return (scores - scores.amax(-1, keepdim=True)).clamp_min(FLOOR)


class WordPrior(Expected):
    """Adds a multiple, which the hidden state decides, of what `log_ratios` gives to the picks' logits."""

    def __init__(self, hidden: int, words: Tensor, plain: Tensor):
        """`words` and `plain` as in `Expected`."""
        super().__init__(words, plain)
        self.norm, self.gate = nn.LayerNorm(hidden), nn.Linear(hidden, 1)
        nn.init.zeros_(self.gate.weight)
        nn.init.ones_(self.gate.bias)

    def forward(self, logits: Tensor, hidden: Tensor, last: Tensor) -> Tensor:
        """`logits` (B, T, A) and `hidden` (B, T, hidden) of rows whose prompts end in `last` (B, hidden)."""
        added = self.gate(self.norm(hidden)) * self.log_ratios(last)[:, None]
        return logits.index_add(-1, self.picks, added)


class ActionEmbedding(nn.Embedding):
    """Trained embeddings (..., hidden) of actions (...), which begin as the frozen ones of their words (A, hidden).
    Those of categories that training holds out are their words, moved as far as the other picks' were on average. The
    action A stands for none yet."""

    words: Tensor
    shown: Tensor
    novel: Tensor

    def __init__(self, words: Tensor):
        words = torch.cat([words, words.new_zeros(1, words.shape[1])])
        super().__init__(*words.shape, _weight=words.clone())
        shown = [index for index in PICKS if index not in NOVEL_PICKS]
        for name, buffer in (("words", words), ("shown", torch.tensor(shown)), ("novel", torch.tensor(NOVEL_PICKS))):
            self.register_buffer(name, buffer, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        moved = (self.weight[self.shown] - self.words[self.shown]).mean(0)
        table = self.weight.index_copy(0, self.novel, self.words[self.novel] + moved)
        return nn.functional.embedding(action, table)
