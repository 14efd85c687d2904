"""How likely a causal language model finds each of a few phrases next, for many growing texts at once.

The texts share a beginning, which is read once, and each row keeps its keys and values, so that a step only costs what
is new. The phrases hang together as a tree of tokens, which a 4-D mask lets the model read in the same pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llarp.errors import UserError
from llarp.policy.cache import additive_mask
from llarp.policy.llm import cache_argument, choose_dtype, find_model, quiet_transformers


@dataclass(frozen=True)
class PhraseTree:
    """P phrases as paths through a tree of K tokens; phrases that begin alike share the nodes of their beginning.

    Only tokens that some phrase goes on from are nodes: the last token of a phrase is looked up, never read."""

    token: tuple[int, ...]  # (K,) parents before children
    parent: tuple[int, ...]  # (K,) node, -1: the text so far
    path: tuple[tuple[tuple[int, int], ...], ...]  # a phrase's (node its token is expected after, token) pairs

    @classmethod
    def of(cls, phrases: Sequence[Sequence[int]]) -> PhraseTree:
        """The tree of phrases given as token ids."""
        nodes: dict[tuple[int, ...], int] = {}
        parents: list[int] = []
        paths = []
        for ids in phrases:
            path, node = [], -1
            for i, token in enumerate(ids):
                path.append((node, token))
                if i + 1 < len(ids):
                    beginning = tuple(ids[: i + 1])
                    if beginning not in nodes:
                        nodes[beginning] = len(parents)
                        parents.append(node)
                    node = nodes[beginning]
            paths.append(tuple(path))
        return cls(tuple(beginning[-1] for beginning in nodes), tuple(parents), tuple(paths))

    def depth(self) -> list[int]:
        """How many nodes lie above each, (K,)."""
        out: list[int] = []
        for parent in self.parent:
            out.append(0 if parent < 0 else out[parent] + 1)
        return out

    def sees(self) -> Tensor:
        """Which nodes each may attend to, bool (K, K): itself and those above it."""
        out = torch.eye(len(self.token), dtype=torch.bool)
        for node, parent in enumerate(self.parent):
            if parent >= 0:
                out[node] |= out[parent]
        return out


class PhraseScorer:
    """Log-probabilities of P phrases after each of N texts that grow in steps.

    Args:
        model, tokenizer: a causal language model of transformers, and its tokenizer.
        beginning: what every text starts with.
        phrases: the P continuations, as they follow the text (a leading space included where there is one).
    """

    def __init__(self, model: Any, tokenizer: Any, beginning: str, phrases: Sequence[str]):
        self.model, self.tokenizer = model.eval().requires_grad_(False), tokenizer
        begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
        self.beginning = begin + self.ids(beginning)
        tree = self.tree = PhraseTree.of([self.ids(phrase) for phrase in phrases])
        self.device = model.device
        self._cache_argument = cache_argument(type(model.base_model))
        self._nodes = torch.tensor(tree.token, dtype=torch.int64, device=self.device)
        self._depth = torch.tensor(tree.depth(), dtype=torch.int64, device=self.device)
        self._sees = tree.sees().to(self.device)
        width = max(map(len, tree.path))
        pairs = [[*path, *[(-1, 0)] * (width - len(path))] for path in tree.path]
        table = torch.tensor(pairs, device=self.device)  # (P, width, 2), padded
        self._after, self._token = table[..., 0] + 1, table[..., 1]
        self.length = torch.tensor([len(path) for path in tree.path], device=self.device)
        """Tokens of each phrase, (P,)."""
        self._used = torch.arange(width, device=self.device) < self.length[:, None]

    def ids(self, text: str) -> list[int]:
        """Token ids of a piece of text."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    @torch.no_grad()
    def start(self, num_rows: int) -> None:
        """Begin `num_rows` texts, each with the common beginning."""
        from transformers import DynamicCache

        self._cache = DynamicCache()
        self._read(torch.tensor([self.beginning], device=self.device), None, None)
        self._cache.batch_repeat_interleave(num_rows)
        self._valid = torch.ones(num_rows, len(self.beginning), dtype=torch.bool, device=self.device)

    def restart(self, rows: Tensor) -> None:
        """Cut the texts of `rows`, bool (N,), back to the common beginning."""
        self._valid[rows, len(self.beginning) :] = False
        width = int(self._valid.sum(1).max())
        order = (~self._valid).to(torch.int8).argsort(dim=1, stable=True)[:, :width]  # what counts to the left
        for layer in self._cache.layers:
            index = order[:, None, :, None].expand(-1, layer.keys.shape[1], -1, layer.keys.shape[3])
            layer.keys, layer.values = layer.keys.gather(2, index), layer.values.gather(2, index)
        self._valid = self._valid.gather(1, order)

    @torch.no_grad()
    def extend(self, texts: Sequence[str]) -> Tensor:
        """Add a piece (not empty) to each text; log-probability of each phrase next, float32 (N, P), summed over its
        tokens."""
        pieces = [self.ids(text) for text in texts]
        n, longest, k = len(pieces), max(map(len, pieces)), len(self._nodes)
        count = torch.tensor([len(piece) for piece in pieces], device=self.device)
        new = torch.tensor([piece + [0] * (longest - len(piece)) for piece in pieces], device=self.device)
        known = self._valid.sum(1)  # tokens of each text so far
        at = torch.arange(longest, device=self.device)
        positions = torch.cat([known[:, None] + at, (known + count)[:, None] + self._depth], dim=1)
        real = at < count[:, None]
        sees = torch.zeros(n, longest + k, self._valid.shape[1] + longest + k, dtype=torch.bool, device=self.device)
        old = self._valid.shape[1]
        sees[:, :, :old] = self._valid[:, None]
        sees[:, :longest, old : old + longest] = at[:, None] >= at  # padding sees itself, so that no row is empty
        sees[:, longest:, old : old + longest] = real[:, None]
        sees[:, longest:, old + longest :] = self._sees
        hidden = self._read(torch.cat([new, self._nodes.expand(n, -1)], dim=1), positions, sees)
        for layer in self._cache.layers:  # the tree is not part of the text
            layer.keys, layer.values = layer.keys[:, :, : old + longest], layer.values[:, :, : old + longest]
        self._valid = torch.cat([self._valid, real], dim=1)
        last = hidden[torch.arange(n, device=self.device), count - 1]
        return self._phrases(torch.cat([last[:, None], hidden[:, longest:]], dim=1))

    def _phrases(self, hidden: Tensor) -> Tensor:
        """Scores (N, P) from the last hidden states (N, 1 + K, hidden) of the text's end and the tree's nodes."""
        scores = []
        for row in hidden:  # one text at a time: a row over a whole vocabulary is large
            logits = self.model.get_output_embeddings()(row).float()
            logp = logits[self._after, self._token] - logits.logsumexp(-1)[self._after]
            scores.append((logp * self._used).sum(1))
        return torch.stack(scores)

    def _read(self, ids: Tensor, positions: Tensor | None, sees: Tensor | None) -> Tensor:
        """Last hidden states (N, Q, hidden) of new tokens (N, Q) after what the cache holds."""
        mask = None if sees is None else additive_mask(sees, self.model.dtype)
        model = self.model.base_model
        named = {self._cache_argument: self._cache}
        output = model(input_ids=ids, position_ids=positions, attention_mask=mask, use_cache=True, **named)
        return output.last_hidden_state


def load_causal(name: str, precision: str = "auto", device: torch.device | str = "cpu") -> tuple[Any, Any]:
    """Model and tokenizer by known name, hub id or folder (as `policy.llm`), with the output layer. UserError if it is
    no causal language model."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder, device = find_model(name), torch.device(device)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=choose_dtype(precision, device), local_files_only=True
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"policy.llm={name}: {folder} is no causal language model that loads ({reason})") from None
    return model.to(device), tokenizer
