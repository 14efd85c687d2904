"""The encoder-decoder with a language model that is trained: from random weights, or by LoRA."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from .base import State, check_same_shapes
from .config import Variant
from .context import read_together, tokens_of
from .encoder_decoder import EncoderDecoderPolicy
from .trained import TrainedLLM, TrainsLanguageModel
from .words import Told, Words


class PresentWords(Words):
    """`Told` of instructions as the present weights make it: with gradient read anew, else kept until the weights
    change."""

    llm: TrainedLLM
    dtype = torch.float32
    _version = -1

    def read(self, ids: list[list[int]]) -> list[tuple[Tensor, ...]]:
        length = [len(tokens) for tokens in ids]
        hidden, _, values = read_together(self.llm, ids)
        parts = zip(self.kept(values).split(length), hidden.split(length), strict=True)
        return [(words, states[-1].float()) for words, states in parts]

    def get(self, texts: list[str]) -> Told:
        if torch.is_grad_enabled():
            row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
            told = self.of_tokens([tokens_of(self.llm, text, self.max_tokens) for text in row])
            index = torch.tensor([row[text] for text in texts], device=told.last.device)
            return Told(*(part[index] for part in told))
        return super().get(texts)

    def of_tokens(self, ids: list[list[int]]) -> Told:
        """Of prompts given as token ids; nothing is kept."""
        words, last = zip(*self.read(ids), strict=True)
        return self.told(list(words), list(last))

    def prepare(self, texts: list[str]) -> None:
        if self._version != self.llm.version():
            self.forget()
            self._version = self.llm.version()
        super().prepare(texts)


class TrainedEncoderDecoderPolicy(TrainsLanguageModel, EncoderDecoderPolicy):
    """The same network as `EncoderDecoderPolicy` with a language model that is trained: every gradient step reads
    each different instruction of its batch once."""

    variant: Variant = "trained_encoder_decoder"

    def _make_cache(self, max_bytes: int) -> PresentWords:
        return PresentWords(self.llm, self.config.max_instruction_tokens, max_bytes)

    def read_into(self, folder: Path, texts: list[str]) -> Iterator[int]:
        """What is read is not the same after the next update."""
        return iter(())

    def _read_anew(self, state: State, rows: Tensor, ids: list[list[int]]) -> None:
        self._start(state, rows, self.instructions.of_tokens(ids))

    def _drawn(self) -> dict[str, Tensor]:
        """What the heads took of random weights when they were drawn: it exists nowhere else."""
        if self.config.llm_weights != "random":
            return {}
        kept, buffers = self.heads.state_dict(), self.heads.named_buffers()
        return {f"drawn.{name}": b for name, b in buffers if name not in kept and b.is_floating_point()}

    def trainable_state_dict(self) -> dict[str, Tensor]:
        return super().trainable_state_dict() | {name: b.clone() for name, b in self._drawn().items()}

    @torch.no_grad()
    def load_trainable_state_dict(self, tensors: dict[str, Tensor]) -> None:
        drawn = self._drawn()
        check_same_shapes(drawn, {name: tensor for name, tensor in tensors.items() if name.startswith("drawn.")})
        super().load_trainable_state_dict({name: t for name, t in tensors.items() if name not in drawn})
        for name, buffer in drawn.items():
            buffer.copy_(tensors[name])
