"""Keys and values of instructions seen lately, in pages. Letters in shapes as in context.py."""

from __future__ import annotations

import sys
from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from .context import Entry, Prefixes, compute_prefixes, tokens_of
from .llm import FrozenLLM

if TYPE_CHECKING:
    from .ready import ReadyInstructions

PREFIX_BATCH = 32
"""Instructions computed in one pass, of similar lengths."""
GPU_PREFIX_BATCH = 256
PAGE = 8
"""Tokens."""


class InstructionCache:
    """Keys and values of the instructions seen lately, each computed once.

    They lie in pages of one tensor, allocated once: thousands of tensors that come and go between larger ones would
    leave holes several times their size.
    """

    def __init__(self, llm: FrozenLLM, max_tokens: int, max_bytes: int):
        self.llm, self.max_tokens, self.max_bytes = llm, max_tokens, max_bytes
        self.num_computed = 0
        self._entries: OrderedDict[str, tuple[list[int], int]] = OrderedDict()  # text -> its pages, its tokens
        self._pages = torch.empty(0)  # (pages, 2, L, H, PAGE, D)
        self._last = torch.empty(0)  # (pages, hidden)
        self._free: list[int] = []
        self._most = sys.maxsize  # pages, see `limit`
        self.watchers: WeakSet[ReadyInstructions] = WeakSet()
        """Told of every text that is forgotten."""

    @property
    def pages(self) -> Tensor:
        """(pages, 2, L, H, PAGE, D): keys and values; a text's tokens come last in its pages."""
        return self._pages

    @property
    def last(self) -> Tensor:
        """(pages, hidden): a text's last hidden state, beside the last of its pages."""
        return self._last

    def where(self, text: str) -> tuple[list[int], int] | None:
        """The pages of a text and its tokens' number; None where it is not there."""
        return self._entries.get(text)

    def get(self, texts: list[str]) -> Prefixes:
        """Prefixes of B texts; UserError for a text longer than `max_tokens`."""
        row = {text: i for i, text in enumerate(dict.fromkeys(texts))}
        self._want(list(row), need=True)
        return self._read(list(row), torch.tensor([row[text] for text in texts], device=self._pages.device))

    def prepare(self, texts: list[str]) -> None:
        """Compute what `get` will be asked for, many texts in one pass, as many as there is room for."""
        self._want(list(dict.fromkeys(texts)), need=False)

    def prepare_first(self, texts: list[str], need: int) -> int:
        """Compute as many of some texts as there is room for together, from the first on, at least `need`; how many."""
        ids = self._tokens([text for text in dict.fromkeys(texts) if text not in self._entries])
        pages = {text: pages_of(len(tokens)) for text, tokens in ids.items()}
        seen: set[str] = set()
        used = count = 0
        for text in texts:
            if text not in seen:
                used += pages[text] if text in pages else len(self._entries[text][0])
                if used > len(self._pages) and count >= need:
                    break
                seen.add(text)
            count += 1
        self._want(list(seen), need=True, ids=ids)
        return count

    def forget(self) -> None:
        """Everything; the memory stays."""
        for watcher in self.watchers:
            for text in self._entries:
                watcher.lost(text)
        self._entries.clear()
        self._free = list(range(len(self._pages) - 1, -1, -1))

    def _tokens(self, texts: list[str]) -> dict[str, list[int]]:
        return {text: tokens_of(self.llm, text, self.max_tokens) for text in texts}

    def _want(self, texts: list[str], need: bool, ids: dict[str, list[int]] | None = None) -> None:
        for text in texts:
            if text in self._entries:
                self._entries.move_to_end(text)
        missing = [text for text in texts if text not in self._entries]
        ids = ids or self._tokens(missing)
        by_length = sorted(missing, key=lambda text: len(ids[text]))
        size = PREFIX_BATCH if self.llm.device.type == "cpu" else GPU_PREFIX_BATCH
        for first in range(0, len(by_length), size):
            batch = by_length[first : first + size]
            if not (self._make_room(sum(pages_of(len(ids[text])) for text in batch), set(texts)) or need):
                return
            self._write(batch, compute_prefixes(self.llm, [ids[text] for text in batch]))
            self.num_computed += len(batch)

    def limit(self, texts: int) -> None:
        """Take no more memory from now on than so many of the longest texts need, or than has been written to."""
        written = max((page for own, _ in self._entries.values() for page in own), default=-1) + 1
        self._most = room = max(written, texts * pages_of(self.max_tokens))
        self._pages, self._last = self._pages[:room], self._last[:room]
        self._free = [page for page in self._free if page < room]

    def _make_room(self, pages: int, keep: set[str]) -> bool:
        """Forget the texts that were not asked for longest, but none of `keep`; whether there is room for so many."""
        while len(self._free) < pages and self._entries and next(iter(self._entries)) not in keep:
            text, (own, _) = self._entries.popitem(last=False)
            self._free += own
            for watcher in self.watchers:
                watcher.lost(text)
        return len(self._free) >= pages or not len(self._pages)

    def _write(self, texts: list[str], entries: list[Entry]) -> None:
        """Store entries, all in one go."""
        lengths = [entry.keys_values.shape[3] for entry in entries]
        need = sum(map(pages_of, lengths))
        if len(self._free) < need:
            self._grow(entries[0], need - len(self._free))
        taken: list[int] = []
        places: list[np.ndarray] = []  # of tokens: page * PAGE + slot
        for text, length in zip(texts, lengths, strict=True):
            own = [self._free.pop() for _ in range(pages_of(length))]
            slots = np.array(own)[:, None] * PAGE + np.arange(PAGE)
            self._entries[text] = own, length
            taken += own
            places.append(slots.flatten()[-length:])
        device = self._pages.device
        place = torch.from_numpy(np.concatenate(places)).to(device)
        self._pages.index_fill_(0, torch.tensor(taken, device=device), 0)  # what is not written is looked at, masked
        tokens = torch.cat([entry.keys_values for entry in entries], 3).permute(3, 0, 1, 2, 4)  # (tokens, 2, L, H, D)
        self._pages[place // PAGE, :, :, :, place % PAGE] = tokens
        ends = place[torch.tensor(lengths).cumsum(0).to(device) - 1]
        self._last[ends // PAGE] = torch.stack([entry.last for entry in entries])

    def _grow(self, entry: Entry, count: int) -> None:
        """More pages: first as many as the budget allows, then only what one call cannot do without."""
        two, layers, heads, _, size = entry.keys_values.shape
        have, page = len(self._pages), entry.keys_values.element_size() * two * layers * heads * PAGE * size
        more = max(count, have, 0 if have else min(self.max_bytes // page, self._most))
        # memory is taken as it is written
        pages = entry.keys_values.new_empty(have + more, two, layers, heads, PAGE, size)
        last = entry.last.new_empty(have + more, len(entry.last))
        if have:
            pages[:have], last[:have] = self._pages, self._last
        self._pages, self._last = pages, last
        self._free += range(have + more - 1, have - 1, -1)

    def _read(self, texts: list[str], index: Tensor) -> Prefixes:
        """Prefixes from U stored texts, for rows that have text `index` (B,); all in one copy."""
        device = self._pages.device
        _, two, layers, heads, _, size = self._pages.shape
        owned = [self._entries[text] for text in texts]
        longest = max(length for _, length in owned)
        places = np.empty((len(texts), longest), np.int64)  # of tokens: page * PAGE + slot
        for row, (own, length) in zip(places, owned, strict=True):
            slots = (np.array(own)[:, None] * PAGE + np.arange(PAGE)).flatten()[-length:]
            row[: longest - length] = slots[0]  # looked at, masked
            row[longest - length :] = slots
        page, slot = (torch.from_numpy(part).to(device)[:, None] for part in np.divmod(places, PAGE))  # (U, 1, P)
        which = torch.arange(two, device=device)[:, None, None, None]
        layer = torch.arange(layers, device=device)[:, None, None, None, None]
        head = torch.arange(heads, device=device)[:, None]
        vectors = (((page * two + which) * layers + layer) * heads + head) * PAGE + slot  # (L, 2, U, H, P)
        both = self._pages.view(-1, size).index_select(0, vectors.flatten()).view(*vectors.shape, size)
        length = torch.tensor([length for _, length in owned], device=device)[index]
        return Prefixes(both, length, index, self._last[[own[-1] for own, _ in owned]])


def default_cache_mb(device: torch.device) -> int:
    """Room for the demonstrations' instructions, each read again in every epoch; memory not used is not taken."""
    if device.type != "cuda":
        return 1500
    return torch.cuda.get_device_properties(device).total_memory >> 24


def pages_of(tokens: int) -> int:
    """How many pages so many tokens take."""
    return -(-tokens // PAGE)
