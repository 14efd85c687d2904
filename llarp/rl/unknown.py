"""What is to be found without knowing its looks, or its name, in demonstrations and in PPO: for
`policy.kind=encoder_decoder`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llarp.policy.base import SegmentBatch
from llarp.policy.word_prior import FLOOR, PICKS
from llarp.tasks.actions import ACTIONS, NUM_ACTIONS
from llarp.tasks.entities import CATEGORIES
from llarp.tasks.instructions import SINGULAR, plural

from .config import BCConfig, PPOConfig

_PICK = [action.kind == "pick" for action in ACTIONS]
_PLACE = [action.kind == "place" for action in ACTIONS]
_ARRIVE = [action.kind in ("nav", "open") for action in ACTIONS]
"""Afterwards there may be things in reach that were not before."""
_CATEGORY = {action: i for i, action in enumerate(PICKS)}
_SAID = {
    **{plural(name): (i, "things") for i, name in enumerate(CATEGORIES)},
    **{SINGULAR.get(name, name): (i, "thing") for i, name in enumerate(CATEGORIES)},
}
_NAME = re.compile(rf"\b(?:{'|'.join(map(re.escape, sorted(_SAID, key=len, reverse=True)))})\b", re.IGNORECASE)
_AN = re.compile(r"\b(a)n(?= thing\b)", re.IGNORECASE)
OTHERS, RIGHT = (0.0, 1.6), (2.7, 1.7)
"""Mean and deviation of what a description lets expect of a wrong and of the right category: with them the right one is
the first as often, and as far behind where it is not, as with a language model of 135 M parameters and the descriptions
of benchmarks/named_next.py (37 % first; the quartile 2 nats behind)."""


def varied(
    batch: SegmentBatch, config: BCConfig, max_steps: int, texts: list[str], *generators: torch.Generator
) -> SegmentBatch:
    """Demonstrations, shares of them as if unknown and as if described (`bc.unknown_share`, `bc.described_share`).

    `max_steps` as in `as_unknown`, `texts` as in `as_described`; each share has its own generator."""
    rows = len(batch.valid)
    for_unknown, for_described = generators
    if config.unknown_share > 0:
        batch = as_unknown(batch, torch.rand(rows, generator=for_unknown) < config.unknown_share, max_steps)
    if config.described_share > 0:
        chosen = torch.rand(rows, generator=for_described) < config.described_share
        batch = as_described(batch, chosen, texts, for_described)
    return batch


def text_of(texts: list[str], instruction_id: int) -> str:
    """The words behind an id of such a batch: behind those of the demonstrations come the same, things not named."""
    turn, own = divmod(instruction_id, len(texts))
    return described(texts[own]) if turn else texts[own]


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


def described(text: str) -> str:
    """An instruction that calls its objects things: "Put a thing on the sofa."""
    return _AN.sub(r"\1", _NAME.sub(lambda name: _SAID[name[0].lower()][1], text))


def as_described(batch: SegmentBatch, rows: Tensor, texts: list[str], generator: torch.Generator) -> SegmentBatch:
    """Demonstrations in which `rows` (B,) bool hear of a thing that the instruction describes.

    What it is called is gone from the words (`instruction_id` grows by the number of `texts`), and what can be expected
    from them is vague, drawn from the generator. Only where one category is named and picked up, and was not unknown.
    """
    instruction_id = batch.instruction_id.clone()
    expected = torch.full((len(rows), len(CATEGORIES)), torch.nan)
    drawn = torch.randn(expected.shape, generator=generator)
    for row in rows.nonzero().flatten().tolist():
        steps = int(batch.valid[row].sum())
        label = batch.action[row, :steps].tolist()
        done = [*batch.previous_action[row, 1:steps].tolist(), label[-1]]
        picked = {_CATEGORY[done[t]] for t in range(steps) if _picked(label, done, t)}
        named = _named(texts[int(instruction_id[row])])
        if len(picked) == 1 and picked == named and not (batch.unknown is not None and batch.unknown[row].any()):
            expected[row] = _vague(picked.pop(), drawn[row])
            instruction_id[row] += len(texts)
    return replace(batch, instruction_id=instruction_id, expected=expected)


def _named(text: str) -> set[int]:
    """The categories that a text names."""
    return {_SAID[name.lower()][0] for name in _NAME.findall(text)}


def _vague(right: int, drawn: Tensor) -> Tensor:
    """What a description of a category lets expect (categories,), from standard normal numbers."""
    scores = OTHERS[0] + OTHERS[1] * drawn
    scores[right] = RIGHT[0] + RIGHT[1] * drawn[right]
    return (scores - scores.max()).clamp_min(FLOOR)


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


class Heard:
    """An environment's instructions, by id, of which shares are heard as if what they name was unknown or described.

    Which ones and how follows from the seed and the id. With one category named it may be described, with any number
    all may be unknown.
    """

    def __init__(
        self, text: Callable[[int], str], unknown_share: float, described_share: float, seed: int
    ) -> None:
        self._text, self._shares, self._seed = text, (unknown_share, described_share), seed

    def __call__(self, instruction_id: int) -> str:
        text = self._text(instruction_id)
        return described(text) if self._how(instruction_id)[1] else text

    def pretended(self, instruction_id: Tensor) -> tuple[Tensor, Tensor]:
        """`unknown` (B, 70) and `expected` (B, categories) as in `SegmentBatch`, of ids (B,)."""
        unknown = torch.zeros(len(instruction_id), NUM_ACTIONS, dtype=torch.bool)
        expected = torch.full((len(instruction_id), len(CATEGORIES)), torch.nan)
        for row, own in enumerate(instruction_id.tolist()):
            as_unknown, as_described = self._how(own)
            named = sorted(_named(self._text(own))) if as_unknown or as_described else []
            if as_unknown:
                unknown[row, [PICKS[category] for category in named]] = True
            elif as_described:
                drawn = self._random(own, 1).standard_normal(len(CATEGORIES), dtype=np.float32)
                expected[row] = _vague(named[0], torch.from_numpy(drawn))
        return unknown.to(instruction_id.device), expected.to(instruction_id.device)

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, *key])

    def _how(self, instruction_id: int) -> tuple[bool, bool]:
        """Whether as if unknown, and whether as if described."""
        draw, (as_unknown, as_described) = float(self._random(instruction_id, 0).random()), self._shares
        one = as_unknown <= draw < as_unknown + as_described and len(_named(self._text(instruction_id))) == 1
        return draw < as_unknown, one


class Hearing:
    """An environment whose instructions are `Heard`; all else is its own."""

    def __init__(self, env: Any, config: PPOConfig, seed: int) -> None:
        self._env = env
        self.instruction_text = Heard(env.instruction_text, config.unknown_share, config.described_share, seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)
