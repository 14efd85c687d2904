"""Contexts of the frozen model: instructions computed once, decoding row by row, whole segments in parallel.

Letters in shapes: N worlds, B segments, U different instructions, L layers, H key-value heads, D head size, P prefix
slots, V visual slots, K visual tokens a step, S tokens of a segment. Positions: instruction 0 .. length - 1, the k-th
visual token of step t at length + t * K + k.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from llarp.errors import UserError

from .base import State
from .cache import additive_mask, new_entries, prefix_cache, range_mask, row_cache
from .llm import FrozenLLM
from .packed import Packed, pack_sequences


class Entry(NamedTuple):
    """What the model makes of one instruction."""

    keys_values: Tensor  # (2, L, H, length, D)
    last: Tensor  # (hidden,) last hidden state of its last token


@dataclass
class Prefixes:
    """Keys and values of U instructions, right-aligned in P slots, and which of them each of B rows has."""

    both: Tensor  # (L, 2, U, H, P, D)
    length: Tensor  # (B,) int64 tokens of each row's instruction
    index: Tensor  # (B,) int64 into U
    last: Tensor  # (U, hidden) last hidden states of their last tokens

    @property
    def keys(self) -> Tensor:
        """(L, U, H, P, D)."""
        return self.both[:, 0]

    @property
    def values(self) -> Tensor:
        """(L, U, H, P, D)."""
        return self.both[:, 1]


def tokens_of(llm: FrozenLLM, text: str, max_tokens: int) -> list[int]:
    """Token ids of a prompt; UserError where there are more than `max_tokens`."""
    ids = llm.tokens(text)
    if len(ids) > max_tokens:
        raise UserError(
            f"the instruction {text[:40]!r}... has {len(ids)} tokens; "
            f"shorten it or raise policy.max_instruction_tokens={max_tokens}"
        )
    return ids


@torch.no_grad()
def compute_prefixes(llm: FrozenLLM, ids: list[list[int]]) -> list[Entry]:
    """What the model makes of texts, given as token ids.

    All in one pass, in which no text sees another.
    """
    length = [len(tokens) for tokens in ids]
    if llm.decoder is not None:
        new: list[Tensor] = []
        joint = torch.tensor([token for tokens in ids for token in tokens], device=llm.device)
        hidden = llm.decoder.forward(llm.embed(joint), pack_sequences(length, llm.dtype, llm.device), entries=new)
        both = torch.stack(new).unflatten(2, (2, -1, llm.decoder.head_size))  # (L, tokens, 2, H, D)
        parts = zip(both.split(length, 1), hidden.split(length), strict=True)
        return [Entry(part.permute(2, 0, 3, 1, 4).contiguous(), states[-1]) for part, states in parts]
    return entries_together(llm, ids)


def entries_together(llm: FrozenLLM, ids: list[list[int]]) -> list[Entry]:
    """What `compute_prefixes` gives, as `read_together` has it: with gradient."""
    length = [len(tokens) for tokens in ids]
    hidden, keys, values = read_together(llm, ids)
    parts = zip(torch.stack([keys, values]).split(length, 3), hidden.split(length), strict=True)
    return [Entry(part, states[-1]) for part, states in parts]


def read_together(llm: FrozenLLM, ids: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """Last hidden states (T, hidden), keys and values (L, H, T, D) of all T tokens of texts, one text behind another,
    by transformers' modules. Gradients flow to a model that is trained.

    Texts share rows of the batch, so that little is padded; a mask keeps them apart."""
    length = [len(tokens) for tokens in ids]
    begin, count, width = shelve(length)
    own = [torch.arange(n) for n in length]
    at = torch.cat([first + steps for first, steps in zip(begin, own, strict=True)])
    tokens, position = torch.zeros(2, count * width, dtype=torch.int64)
    text = torch.full((count * width,), -1)
    tokens[at] = torch.tensor([token for row in ids for token in row])
    position[at] = torch.cat(own)
    text[at] = torch.arange(len(ids)).repeat_interleave(torch.tensor(length))
    text = text.view(count, width)
    seen = (text[:, :, None] == text[:, None]).tril()  # padding sees padding, so that no row of the mask is empty
    mask = additive_mask(seen, llm.dtype)
    embeds = llm.embed(tokens.view(count, width).to(llm.device))
    cache = prefix_cache(None, None, llm.num_layers)
    hidden = llm.run(embeds, position.view(count, width).to(llm.device), mask.to(llm.device), cache)
    at = at.to(llm.device)
    new = (x.transpose(1, 2).flatten(2, 3).index_select(2, at) for x in new_entries(cache))  # (L, H, rows * width, D)
    return hidden.flatten(0, 1).index_select(0, at), *new


def shelve(length: list[int]) -> tuple[list[int], int, int]:
    """How texts share rows: where each begins (row * width + slot), the number of rows, their width.

    The longest first, each in the first row that has room (first-fit decreasing)."""
    width = max(64, *length)
    free: list[int] = []
    begin = [0] * len(length)
    for i in sorted(range(len(length)), key=lambda i: -length[i]):
        row = next((r for r, room in enumerate(free) if room >= length[i]), len(free))
        if row == len(free):
            free.append(width)
        begin[i] = row * width + width - free[row]
        free[row] -= length[i]
    return begin, len(free), width


def pack(entries: list[Entry], index: list[int]) -> Prefixes:
    """Prefixes from U entries, for rows that have entry `index`."""
    lengths = [entry.keys_values.shape[3] for entry in entries]
    slots = max(lengths)
    two, layers, heads, _, size = entries[0].keys_values.shape
    packed = entries[0].keys_values.new_zeros(layers, two, len(entries), heads, slots, size)
    for i, entry in enumerate(entries):
        packed[:, :, i, :, slots - lengths[i] :] = entry.keys_values.transpose(0, 1)
    rows = torch.tensor(index)
    last = torch.stack([entry.last for entry in entries])
    return Prefixes(packed, torch.tensor(lengths)[rows].to(packed.device), rows.to(packed.device), last)


def run_parallel(llm: FrozenLLM, prefixes: Prefixes, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All tokens (B, S, hidden) behind their rows' prefixes at once: hidden (B, S, hidden), new keys and values.

    Gradients flow to `tokens` only. Keys and values are (L, B, H, S, D). Padding belongs on the right of a row.
    """
    rows, count = tokens.shape[:2]
    step = torch.arange(count, device=tokens.device)
    slots, length = prefixes.keys.shape[3], prefixes.length
    cache = prefix_cache(prefixes.keys, prefixes.values, llm.num_layers, prefixes.index)
    last = (slots + step).expand(rows, count)
    mask = range_mask(slots - length, last, slice(0, slots + count), llm.dtype)
    hidden = llm.run(tokens, length[:, None] + step, mask, cache)
    return hidden, *new_entries(cache)


def behind(llm: FrozenLLM, prefixes: Prefixes, lengths: list[int]) -> Packed:
    """How sequences of `lengths` lie behind one another, the i-th behind the prefix of row i."""
    return pack_sequences(lengths, llm.dtype, llm.device, prefixes.both, prefixes.length, prefixes.index)


def new_rows(prefixes: Prefixes, num_rows: int, prefix_slots: int, visual_slots: int) -> State:
    """Empty cache rows shaped like `prefixes`: keys, values (L, N, H, P + V, D), prefix_length (N,), step (N,), and
    last (N, hidden), the last hidden state of a row's instruction."""
    layers, _, heads, _, size = prefixes.keys.shape
    shape = (layers, num_rows, heads, prefix_slots + visual_slots, size)
    device = prefixes.keys.device
    return {
        "keys": prefixes.keys.new_zeros(shape),
        "values": prefixes.keys.new_zeros(shape),
        "prefix_length": torch.zeros(num_rows, dtype=torch.int64, device=device),
        "step": torch.zeros(num_rows, dtype=torch.int64, device=device),
        "last": prefixes.last.new_zeros(num_rows, prefixes.last.shape[1]),
    }


def start_rows(state: State, rows: Tensor, prefixes: Prefixes, prefix_slots: int) -> None:
    """Give the rows (R,) the R prefixes and set them to step 0; touches these rows only."""
    width = prefixes.keys.shape[3]
    where = slice(prefix_slots - width, prefix_slots)
    state["keys"][:, rows, :, where] = prefixes.keys[:, prefixes.index]
    state["values"][:, rows, :, where] = prefixes.values[:, prefixes.index]
    state["prefix_length"][rows] = prefixes.length
    state["last"][rows] = prefixes.last[prefixes.index]
    state["step"][rows] = 0


def decode(llm: FrozenLLM, state: State, tokens: Tensor, prefix_slots: int, longest: int | None = None) -> Tensor:
    """One step of every row: hidden states (N, K, hidden) of its K new tokens; writes the cache, counts the step.

    Raises ValueError where a row was never started or its episode is longer than the cache. With `longest`, a bound of
    all rows' instructions in tokens, every shape is known without waiting for the device: as many slots as there are
    steps are looked at, and such an error is found by the device (RuntimeError, some time later).
    """
    rows, count = tokens.shape[:2]
    length, first_new = state["prefix_length"], state["step"] * count
    never, room = "a row was never started: its first act needs episode_start", state["keys"].shape[3] - prefix_slots
    too_long = "an episode is longer than policy.max_steps"
    if longest is None:
        shortest, longest, end = torch.stack([length.min(), length.max(), first_new.max() + count]).tolist()
        if shortest == 0:
            raise ValueError(never)
        if end > room:
            raise ValueError(too_long)
    else:
        end = room
        torch._assert_async(length.min() > 0, never)
        torch._assert_async(first_new.max() + count <= room, too_long)
    visible = slice(prefix_slots - longest, prefix_slots + end)  # slots that some row uses
    new = first_new[:, None] + torch.arange(count, device=tokens.device)
    mask = range_mask(prefix_slots - length, prefix_slots + new, visible, llm.dtype)
    positions, slots = length[:, None] + new, prefix_slots + new
    if llm.decoder is not None:
        cached = (state["keys"], state["values"], slots, visible, mask)
        hidden = llm.decoder.decode(tokens.to(llm.dtype), positions, *cached)
    else:
        hidden = llm.run(tokens, positions, mask, row_cache(state["keys"], state["values"], slots, visible))
    state["step"] += 1
    return hidden


def rewrite(llm: FrozenLLM, state: State, tokens: Tensor, prefix_slots: int) -> None:
    """Make the visual keys and values of all rows anew, in place, from their tokens (N, S, hidden) so far.

    What lies beyond a row's steps is left undefined.
    """
    prefixes = prefixes_of(state, prefix_slots)
    per_step = tokens.shape[1] // max(int(state["step"].max()), 1)
    if llm.decoder is None:
        _, keys, values = run_parallel(llm, prefixes, tokens)
        visual = slice(prefix_slots, prefix_slots + keys.shape[3])
        state["keys"][:, :, :, visual] = keys
        state["values"][:, :, :, visual] = values
        return
    rows = [i for i, steps in enumerate(state["step"].tolist()) if steps]
    lengths = [steps * per_step for steps in state["step"].tolist() if steps]
    chosen = torch.tensor(rows, device=llm.device)
    prefixes = replace(prefixes, length=prefixes.length[chosen], index=prefixes.index[chosen])
    there = torch.arange(tokens.shape[1], device=llm.device) < (state["step"] * per_step)[:, None]
    new: list[Tensor] = []
    llm.decoder.forward(tokens[there].to(llm.dtype), behind(llm, prefixes, lengths), entries=new)
    row, slot = there.nonzero().unbind(1)
    for layer, both in enumerate(new):
        keys, values = both.unflatten(1, (2, -1, llm.decoder.head_size)).unbind(1)  # (tokens, H, D)
        state["keys"][layer][row, :, prefix_slots + slot] = keys
        state["values"][layer][row, :, prefix_slots + slot] = values


def prefixes_of(state: State, prefix_slots: int) -> Prefixes:
    """The rows' own prefixes, a copy."""
    length = state["prefix_length"]
    width = max(int(length.max()), 1)
    where = slice(prefix_slots - width, prefix_slots)
    index = torch.arange(len(length), device=length.device)
    both = torch.stack([state["keys"][:, :, :, where], state["values"][:, :, :, where]], 1)
    return Prefixes(both, length, index, state["last"])


@torch.no_grad()
def check_cache(llm: FrozenLLM) -> float:
    """Largest relative rms error of parallel and of row-by-row decoding against the model's own full forward.

    Three sequences with prefixes of different lengths, read together; in row-by-row decoding row 0 starts anew after
    a step.
    """
    steps, lengths = 4, (5, 2, 7)
    generator = torch.Generator().manual_seed(0)
    vocabulary = llm.embedding_table().shape[0]
    ids = [torch.randint(vocabulary, (n + steps,), generator=generator).to(llm.device) for n in lengths]
    full = torch.stack([llm.run_uncached(llm.embed(i[None]))[0, -steps:] for i in ids]).float()

    visual = torch.stack([llm.embed(i[-steps:]) for i in ids])
    prefixes = pack(compute_prefixes(llm, [i[:-steps].tolist() for i in ids]), [0, 1, 2])
    if llm.decoder is None:
        parallel = run_parallel(llm, prefixes, visual)[0].float()
    else:
        together = llm.decoder.run(visual.flatten(0, 1), behind(llm, prefixes, [steps] * len(ids)))
        parallel = together.view_as(full).float()

    slots, rows = prefixes.keys.shape[3], prefixes.index
    state = new_rows(prefixes, len(ids), slots, steps)
    start_rows(state, rows, prefixes, slots)
    decoded = torch.zeros_like(full)
    for tick in range(steps):
        if tick == 1:
            anew = replace(prefixes, length=prefixes.length[:1], index=rows[:1])
            start_rows(state, rows[:1], anew, slots)
        step = state["step"].clone()
        decoded[rows, step] = decode(llm, state, visual[rows, step][:, None], slots)[:, 0].float()
    pairs = [(parallel, full), (decoded[0, :-1], full[0, :-1]), (decoded[1:], full[1:])]
    return float(torch.stack([(a - b).norm() / b.norm() for a, b in pairs]).max())  # NaN stays NaN
