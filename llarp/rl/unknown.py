"""Demonstrations of what is to be found without knowing its looks: for `policy.kind=encoder_decoder`."""

from __future__ import annotations

import torch
from torch import Tensor

from llarp.policy.base import SegmentBatch
from llarp.tasks.actions import ACTIONS, NUM_ACTIONS

_PICK = [action.kind == "pick" for action in ACTIONS]
_PLACE = [action.kind == "place" for action in ACTIONS]
_ARRIVE = [action.kind in ("nav", "open") for action in ACTIONS]
"""Afterwards there may be things in reach that were not before."""


def as_unknown(batch: SegmentBatch, rows: Tensor, max_steps: int) -> SegmentBatch:
    """Demonstrations in which the categories that `rows` (B,) bool pick up count as never shown.

    Whoever does not know what a thing looks like has to reach for it wherever it might be. So where the demonstrator
    looked and went on, a reach in vain comes first. It changes nothing, so that the picture after it is the one before.
    An episode that would become longer than `max_steps` stays as it was.
    """
    count = batch.valid.sum(1).tolist()
    unknown = torch.zeros(len(count), NUM_ACTIONS, dtype=torch.bool)
    taken: list[list[int]] = []  # of each row: its steps, one of them twice where a reach comes first
    reaches: list[list[int]] = []  # and what is reached for there, -1: nothing
    for row, steps in enumerate(count):
        own = list(range(steps)), [-1] * steps
        if rows[row]:
            label = batch.action[row, :steps].tolist()
            done = [*batch.previous_action[row, 1:steps].tolist(), label[-1]]
            longer = _with_reaches(label, done, batch.previous_action[row, :steps].tolist())
            picks = [done[t] for t in range(steps) if _picked(label, done, t)]
            if picks and len(longer[0]) <= max_steps:
                own = longer
                unknown[row, picks] = True
        taken.append(own[0])
        reaches.append(own[1])
    longest = max(map(len, taken))
    valid = torch.arange(longest) < torch.tensor([len(steps) for steps in taken])[:, None]
    at = torch.tensor([steps + [0] * (longest - len(steps)) for steps in taken])
    reach = torch.tensor([own + [-1] * (longest - len(own)) for own in reaches])
    before = torch.cat([torch.full((len(count), 1), -1), reach[:, :-1]], 1)
    row_of = torch.arange(len(count))[:, None]
    return SegmentBatch(
        instruction_id=batch.instruction_id,
        features=batch.features[row_of, at],
        previous_action=torch.where(before >= 0, before, batch.previous_action[row_of, at]),
        action=torch.where(reach >= 0, reach, batch.action[row_of, at]),
        valid=valid,
        unknown=unknown,
    )


def _picked(label: list[int], done: list[int], step: int) -> bool:
    """Whether the demonstrator picked something up here, so that it is in the hand."""
    return _PICK[done[step]] and label[step] == done[step]


def _with_reaches(label: list[int], done: list[int], previous: list[int]) -> tuple[list[int], list[int]]:
    """The steps of an episode, those with a reach in vain before them twice, and what is reached for."""
    steps = len(label)
    ahead = [-1] * steps  # what the demonstrator picks up next
    for t in range(steps - 1, -1, -1):
        ahead[t] = done[t] if _picked(label, done, t) else (ahead[t + 1] if t + 1 < steps else -1)
    taken, reaches, empty = [], [], True
    for t in range(steps):
        arrived = t > 0 and _ARRIVE[previous[t]]
        if empty and arrived and ahead[t] >= 0 and not _PICK[label[t]]:
            taken.append(t)
            reaches.append(ahead[t])
        taken.append(t)
        reaches.append(-1)
        if _picked(label, done, t):
            empty = False
        elif _PLACE[done[t]] and label[t] == done[t]:
            empty = True
    return taken, reaches
