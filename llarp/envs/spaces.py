"""The observation and action spaces of the contract."""

from __future__ import annotations

import string
from typing import Any

import numpy as np
from gymnasium import spaces

from llarp.tasks.actions import NUM_ACTIONS

MAX_INSTRUCTION_LENGTH = 500
"""Characters; the longest published instruction has fewer than 200."""


class InstructionText(spaces.Text):
    """A text of 1 to 500 printable characters of any script; samples are drawn from printable ASCII."""

    def __init__(self, seed: int | np.random.Generator | None = None):
        super().__init__(
            max_length=MAX_INSTRUCTION_LENGTH,
            charset=string.ascii_letters + string.digits + string.punctuation + " ",
            seed=seed,
        )

    def contains(self, x: Any) -> bool:
        return isinstance(x, str) and 1 <= len(x) <= MAX_INSTRUCTION_LENGTH and x.isprintable()

    def __repr__(self) -> str:
        return "InstructionText()"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, InstructionText)


def observation_space(image_size: int) -> spaces.Dict:
    """Head camera picture, uint8 (image_size, image_size, 3), and the instruction."""
    picture = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
    return spaces.Dict({"rgb": picture, "instruction": InstructionText()})


def action_space() -> spaces.Discrete:
    """The 70 skills of `llarp.tasks.actions.ACTIONS`."""
    return spaces.Discrete(NUM_ACTIONS)
