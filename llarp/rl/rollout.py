"""What the worlds went through since the last update, cut into episode segments that the policy can be trained on.

Episodes straddle rollout borders: the buffer keeps the earlier steps of every running episode as context, which a
segment shows to the policy without loss. Letters in shapes: C context rows, T steps, N worlds, B segments, L longest.

A simulator may lose a step (`dropped`: its process died or hung; the episode ends there, and nobody knows how it would
have gone on). Such a transition is in no segment; the one before it leads on to the observation in which it was chosen.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import torch
from torch import Tensor

from llarp.policy.base import NO_ACTION, SegmentBatch

CONTEXT_FIELDS = ("features", "instruction_id", "action", "episode_start")
"""What is needed of a step that only serves as context."""


@dataclass
class Piece:
    """Some segments, padded to the same length, and where their transitions lie in the rollout."""

    batch: SegmentBatch
    loss_mask: Tensor  # (B, L) bool: this rollout's transitions; the rest is context, a tail or padding
    step: Tensor  # (B, L) int64 row of (T, N) tensors, negative in the context
    world: Tensor  # (B, L) int64 column of (T, N) tensors
    size: int  # transitions with loss
    segments: Tensor  # (B,) int64 which of the rollout's segments, on the CPU

    def take(self, rollout_tensor: Tensor) -> Tensor:
        """The piece's transitions of a (T, N) tensor, flat, in the order of `x[loss_mask]`."""
        return rollout_tensor[self.step[self.loss_mask], self.world[self.loss_mask]]

    def put(self, rollout_tensor: Tensor, segment_tensor: Tensor) -> None:
        """Writes the transitions of a (B, L) tensor where they belong in a (T, N) tensor."""
        mask = self.loss_mask
        rollout_tensor[self.step[mask], self.world[mask]] = segment_tensor[mask].to(rollout_tensor.dtype)


class Rollout:
    """A finished rollout: (T, N) tensors by name, and its episode segments.

    `data`: log_prob, value, reward float32; action, instruction_id int64; terminated, truncated, episode_start,
    success, invalid_action bool. Features are (C + T + 1, N, num_tokens, dim), the last row the observation after the
    rollout. `kept` (T, N) bool says where a transition happened at all, which is everywhere unless the data has
    `dropped`, bool, true where the step was lost (there `truncated` is true too).
    """

    def __init__(self, rows: list[dict[str, Tensor]], num_context: int, border_features: Tensor) -> None:
        self.num_context = num_context
        fields = rows[num_context].keys()
        self.data = {f: torch.stack([row[f] for row in rows[num_context:]]) for f in fields if f != "features"}
        self._history = {f: torch.stack([row[f] for row in rows]) for f in CONTEXT_FIELDS if f != "features"}
        self._features = torch.stack([row["features"] for row in rows] + [border_features])
        self.kept = ~self.data.get("dropped", torch.zeros_like(self.data["truncated"]))
        # Segments as vectors (S,) on the CPU; rows count from the oldest context row.
        start = self._history["episode_start"].cpu()
        total, num_envs = start.shape
        row = torch.arange(total)[:, None].expand(-1, num_envs)
        begun = torch.where(start, row, -1).cummax(0).values
        opens = start[num_context:].clone()
        opens[0] = True
        world, first = opens.T.nonzero().unbind(1)  # by world, then by row
        first = first + num_context
        begin = begun[first, world]
        if (begin < 0).any():
            raise RuntimeError("an episode began before the rollout's context: its episode_start was never given")
        end = torch.full_like(first, total)
        end[:-1] = torch.where(world[1:] == world[:-1], first[1:], total)
        last = (end - 1 - num_context, world)
        terminated, truncated, kept = (
            x.cpu()[last] for x in (self.data["terminated"], self.data["truncated"], self.kept)
        )
        running = ~terminated & ~truncated & (end == total)
        self.longest_running = int((end - begin)[running].max()) if running.any() else 0  # steps of an episode so far
        end = end - (~kept).long()  # a lost step is no part of its segment
        # Where an observation of the same episode follows: at the rollout's border, before a lost step, or (if stored)
        # at a truncation.
        cut = kept & truncated & ~terminated & ("final_features" in self.data)
        leads_on = ~terminated & ~truncated | ~kept | cut
        there = end > first  # not so where all that the rollout has of an episode is the step lost
        self.world, self._cut, self._leads_on = world[there], cut[there], leads_on[there]
        self.begin = begin[there]  # first row of the episode
        self.first = first[there]  # first row with loss
        self.end = end[there]  # one past the last row with loss

    @property
    def num_steps(self) -> int:
        return self.data["reward"].shape[0]

    @property
    def num_transitions(self) -> int:
        """Steps of all worlds, without those lost."""
        return int(self.kept.sum())

    def pieces(self, max_tokens: int, fill: float, index: Tensor | None = None, tails: bool = False) -> list[Piece]:
        """Every segment (or those of `index`) once, in pieces of at most `max_tokens` padded steps and similar lengths.

        With `tails`, a segment whose last step leads on in the same episode (the rollout's border, a lost step, or a
        truncation whose final observation was stored) ends with that observation as one more step without loss.
        """
        index = torch.arange(len(self.world)) if index is None else index
        length = self.end - self.begin
        index = index[length[index].argsort(descending=True, stable=True)]
        pieces, at = [], 0
        while at < len(index):
            longest = int(length[index[at]]) + tails
            count = max(1, max_tokens // longest)
            similar = int((length[index[at : at + count]] >= fill * (longest - tails)).sum())
            pieces.append(self._piece(index[at : at + similar], tails))
            at += similar
        return pieces

    def minibatches(
        self, count: int, generator: torch.Generator, max_tokens: int, fill: float, tails: bool = False
    ) -> list[list[Piece]]:
        """All segments in `count` random mini-batches (fewer if segments are) of nearly as many transitions each.

        With `tails`, those of the first mini-batch end as `pieces` describes.
        """
        transitions = self.end - self.first
        # Large ones first keeps the sums even; the jitter keeps the same segments from meeting in every epoch.
        order = (transitions * (0.5 + torch.rand(len(transitions), generator=generator))).argsort(descending=True)
        heap: list[tuple[int, int]] = [(0, i) for i in range(min(count, len(order)))]
        members: list[list[int]] = [[] for _ in heap]
        for segment in order.tolist():
            load, lightest = heapq.heappop(heap)
            members[lightest].append(segment)
            heapq.heappush(heap, (load + int(transitions[segment]), lightest))
        shuffled = torch.randperm(len(members), generator=generator).tolist()
        chosen = [torch.tensor(members[i]) for i in shuffled]
        return [self.pieces(max_tokens, fill, index, tails and i == 0) for i, index in enumerate(chosen)]

    def _piece(self, index: Tensor, tails: bool) -> Piece:
        world, begin, first, end = (x[index] for x in (self.world, self.begin, self.first, self.end))
        tail = self._leads_on[index] & tails
        length = end - begin + tail
        at = torch.arange(int(length.max()))[None]  # (1, L)
        rows = begin[:, None] + at  # (B, L)
        valid = at < length[:, None]
        loss_mask = (rows >= first[:, None]) & (rows < end[:, None])
        total = self._features.shape[0] - 1
        device = self._features.device
        columns = world[:, None].expand_as(rows).to(device)
        shown = torch.where(valid, rows, begin[:, None]).to(device)  # padding repeats the first step
        features = self._features[shown, columns]
        action = self._history["action"][shown.clamp(max=total - 1), columns]
        previous = self._history["action"][(shown - 1).clamp(min=0), columns]
        previous[:, 0] = NO_ACTION
        if tails and self._cut.any():
            b = self._cut[index].nonzero().flatten()
            final = self.data["final_features"][(end[b] - 1 - self.num_context).to(device), world[b].to(device)]
            features[b.to(device), (length[b] - 1).to(device)] = final
        batch = SegmentBatch(
            instruction_id=self._history["instruction_id"][begin.to(device), world.to(device)],
            features=features,
            previous_action=previous,
            action=action,
            valid=valid.to(device),
        )
        step = (rows - self.num_context).to(device)
        return Piece(batch, loss_mask.to(device), step, columns, int(loss_mask.sum()), index)


class RolloutBuffer:
    """Collects steps; `finish` hands them out as a `Rollout` and keeps the running episodes as later context."""

    def __init__(self) -> None:
        self._rows: list[dict[str, Tensor]] = []
        self._num_context = 0

    def __len__(self) -> int:
        """Steps added since the last `finish`."""
        return len(self._rows) - self._num_context

    def add(self, **step: Tensor) -> None:
        """One step of all worlds: features (N, num_tokens, dim) and (N,) tensors by the names in `Rollout.data`.

        `final_features` (N, num_tokens, dim), where given at every step, are those of the observation before the reset
        and let truncated episodes bootstrap. `dropped` may be left out where no step is ever lost.
        """
        self._rows.append(step)

    def finish(self, border_features: Tensor) -> Rollout:
        """The steps since the last call, as a rollout. `border_features`: of the observation the last step returned."""
        rollout = Rollout(self._rows, self._num_context, border_features)
        self._num_context = rollout.longest_running
        kept = self._rows[len(self._rows) - self._num_context :]
        self._rows = [{name: row[name] for name in CONTEXT_FIELDS} for row in kept]
        return rollout

    def state_dict(self) -> dict[str, Tensor]:
        """The context of the running episodes, (C, N, ...) by field; only between `finish` and the next `add`."""
        if len(self):
            raise RuntimeError("a rollout buffer is saved between rollouts only")
        return {f: torch.stack([row[f] for row in self._rows]) for f in CONTEXT_FIELDS} if self._rows else {}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Puts the saved context back."""
        self._num_context = len(state["features"]) if state else 0
        self._rows = [{f: state[f][i] for f in CONTEXT_FIELDS} for i in range(self._num_context)]
