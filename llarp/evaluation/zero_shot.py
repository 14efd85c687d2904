"""A language model without training as the policy: told the instruction, the skills and what it has done so far, it
takes the skill whose words it finds likeliest next. It reads text only: nothing of what the robot sees reaches it, but
each step's line says whether it was possible. It never draws at random.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llarp.tasks.actions import ACTIONS
from llarp.tasks.entities import CATEGORIES, RECEPTACLES

from .skill_scores import PhraseScorer, load_causal

_PLACES = ", ".join(r.name for r in RECEPTACLES)
_OBJECTS = ", ".join(CATEGORIES)

BEGINNING = f"""A household robot does what it is told, one step at a time. It can take these steps:
- go to the <place>
- pick up the <object>, when it is at the place where the object lies and its hand is empty
- put it on the <place>, when it is at that place and holds an object
- open or close the fridge, drawer 4, drawer 5, drawer 6 or drawer 7, when it is there

Places: {_PLACES}, fridge door, drawer 4, drawer 5, drawer 6, drawer 7.
Objects: {_OBJECTS}.

"""
"""What every prompt starts with: all skills, by their parts."""

NEUTRAL = "Do something."
"""An instruction that asks for no skill in particular: what calibrated scores are measured against."""


def task_text(instruction: str) -> str:
    """The episode's part of the prompt, up to its first step."""
    return f"Task: {instruction.strip()}\nSteps:\n1."


def step_text(words: str, possible: bool, number: int) -> str:
    """What a step adds to the prompt, up to the next step, which is the `number`-th."""
    return f" {words}{'' if possible else ' (not possible)'}\n{number}."


class ZeroShotAgent:
    """Acts for N worlds by the likelihood of the 70 skills' words.

    Args:
        model, tokenizer: a causal language model, see `load_causal`.
        calibrated: compare with how likely the words are under an instruction that asks for nothing in particular, so
            that skills that are always likely do not win by that.
    """

    needs_visibility, needs_pictures = False, False

    def __init__(self, model: Any, tokenizer: Any, calibrated: bool = False):
        self.scorer = PhraseScorer(model, tokenizer, BEGINNING, [f" {action.words}" for action in ACTIONS])
        self.calibrated = calibrated

    @classmethod
    def load(cls, llm: str, precision: str, device: str, calibrated: bool = False) -> ZeroShotAgent:
        """The agent of the language model `llm`, named as for `policy.llm`."""
        return cls(*load_causal(llm, precision, device), calibrated)

    def start(self, env: Any) -> None:
        """Read what all prompts share."""
        self.env = env
        self._usual: Tensor | float = 0.0
        if self.calibrated:
            self.scorer.start(1)
            self._usual = self._normalised(self.scorer.extend([task_text(NEUTRAL)]))
        self.scorer.start(env.num_envs)
        self._chosen: list[tuple[int, bool]] = []
        self._number = [0] * env.num_envs

    def act(self, observation: dict[str, Tensor], episode_start: Tensor) -> Tensor:
        """Actions int64 (N,)."""
        texts = []
        instructions = observation["instruction_id"].tolist()
        for i, start in enumerate(episode_start.tolist()):
            self._number[i] = 1 if start else self._number[i] + 1
            if start:
                texts.append(task_text(self.env.instruction_text(instructions[i])))
            else:
                action, possible = self._chosen[i]
                texts.append(step_text(ACTIONS[action].words, possible, self._number[i]))
        if bool(episode_start.any()):
            self.scorer.restart(episode_start.to(self.scorer.device))
        scores = self._normalised(self.scorer.extend(texts)) - self._usual
        action = scores.argmax(1).to(self.env.device)
        possible = self.env.valid_actions().gather(1, action[:, None])[:, 0]
        self._chosen = list(zip(action.tolist(), possible.tolist(), strict=True))
        return action

    def _normalised(self, scores: Tensor) -> Tensor:
        """Log-probabilities a token: long names are not punished for being long."""
        return scores / self.scorer.length
