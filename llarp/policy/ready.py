"""Instructions that lie ready on the device: worlds begin their episodes with them by index, and the host never asks.

What a step costs beside: the slots of all worlds' instructions are read and written once, whoever begins.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
from torch import Tensor

from .base import State
from .context import decode
from .instruction_cache import PAGE, InstructionCache
from .llm import FrozenLLM


class ReadyInstructions:
    """Where the keys and values of some instructions lie in a cache, by instruction id.

    `count`: of the instructions asked for, how many from the first on are ready; `intact` becomes false when the cache
    has had to give the room of one of them away: then none may be used any more.
    """

    def __init__(self, cache: InstructionCache, texts: dict[int, str], count: int):
        """`texts`: instruction ids with texts that the cache holds now."""
        self.cache, self.count, self.intact = cache, count, True
        self._texts = set(texts.values())
        where = {i: found for i, text in texts.items() if (found := cache.where(text))}
        self.num_pages = max(len(own) for own, _ in where.values())
        page = np.zeros((max(texts) + 1, self.num_pages), dtype=np.int64)
        length = np.zeros(max(texts) + 1, dtype=np.int64)
        for i, (own, tokens) in where.items():
            page[i, self.num_pages - len(own) :], length[i] = own, tokens
        device = cache.llm.device
        self._page, self._length = torch.from_numpy(page).to(device), torch.from_numpy(length).to(device)
        cache.watchers.add(self)

    def lost(self, text: str) -> None:
        """To be told of every text that the cache forgets."""
        self.intact = self.intact and text not in self._texts

    def start(self, state: State, start: Tensor, instruction_id: Tensor, prefix_slots: int) -> None:
        """Give the rows where `start` (N,) the instructions `instruction_id` (N,) and set them to step 0.

        An id that is not ready leaves its row without instruction, which `decode` notices.
        """
        page = self._page[instruction_id]  # (N, num_pages)
        width = min(self.num_pages * PAGE, prefix_slots)
        here, only = slice(prefix_slots - width, prefix_slots), start[:, None, None, None]
        for kind, name in enumerate(("keys", "values")):
            for layer, rows in enumerate(state[name]):
                new = self.cache.pages[:, kind, layer].transpose(0, 1)[:, page]  # (H, N, num_pages, PAGE, D)
                new = new.transpose(0, 1).flatten(2, 3)[:, :, -width:]
                torch.where(only, new, rows[:, :, here], out=rows[:, :, here])
        state["last"].copy_(torch.where(start[:, None], self.cache.last[page[:, -1]], state["last"]))
        state["prefix_length"].copy_(torch.where(start, self._length[instruction_id], state["prefix_length"]))
        state["step"].masked_fill_(start, 0)


class DecodeGraph:
    """`decode`; if `wanted`, on CUDA, and shapes are known beforehand, its launches are recorded once and repeated.

    Nobody has run the recording on a GPU so far. Where it fails, one line says so and the launches go one by one.
    """

    def __init__(self, wanted: bool) -> None:
        self._of: tuple | None = None  # what the recording is of: addresses and shapes
        self._wanted = wanted

    def __call__(self, llm: FrozenLLM, state: State, tokens: Tensor, prefix_slots: int, longest: int | None) -> Tensor:
        """As `decode`; a recording's result is overwritten by the next call."""
        if not self._wanted or longest is None or tokens.device.type != "cuda":
            return decode(llm, state, tokens, prefix_slots, longest)
        of = (*(state[name].data_ptr() for name in ("keys", "values", "prefix_length", "step")), tokens.shape, longest)
        if of != self._of:
            try:
                self._record(llm, state, tokens, prefix_slots, longest)
            except RuntimeError as error:
                print(f"llarp: no CUDA graph of the decoding: {str(error).splitlines()[0]}", file=sys.stderr)
                self._wanted = False
                return decode(llm, state, tokens, prefix_slots, longest)
            self._of = of
        self._tokens.copy_(tokens)
        self._graph.replay()
        return self._hidden

    def _record(self, llm: FrozenLLM, state: State, tokens: Tensor, prefix_slots: int, longest: int) -> None:
        self._of, self._tokens, step = None, tokens.clone(), state["step"].clone()
        stream = torch.cuda.Stream(tokens.device)
        stream.wait_stream(torch.cuda.current_stream(tokens.device))
        with torch.cuda.stream(stream):
            for _ in range(2):  # once to compile and allocate, as torch.cuda.graph asks for
                decode(llm, state, self._tokens, prefix_slots, longest)
                state["step"].copy_(step)  # what was written is written again
        torch.cuda.current_stream(tokens.device).wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._hidden = decode(llm, state, self._tokens, prefix_slots, longest)
