"""What a run has around its training: words for people, a way to stop it, and its own held-out episodes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .config import RunConfig
from .envs.episode_source import load_episodes
from .evaluation.agents import PolicyAgent
from .evaluation.evaluate import evaluate_split
from .policy.policy import LLaRPPolicy

EVAL_SEED = 20_000
"""Held-out episodes of a run's own evaluation: the same for every run."""


class HeldOut:
    """The run's own evaluation: the same episodes of held-out apartments every time."""

    def __init__(self, config: RunConfig, say: Callable[[str], None]):
        self.config, self.say = config, say
        self.chosen = config.env.built_in(split=config.train.eval_split, episodes=config.train.eval_episodes)
        self.episodes = load_episodes(self.chosen, EVAL_SEED)

    def measure(self, policy: LLaRPPolicy, when: str) -> dict[str, Any]:
        """Rates now; binds the policy to these episodes' instructions."""
        config = self.config
        agent = PolicyAgent(policy)
        rates, _ = evaluate_split(agent, self.chosen, config.task, self.episodes, EVAL_SEED, config.device)
        for name, row in (("success", rates), ("pick and place", rates["pick_and_place"])):
            low, high = row["ci95"]
            self.say(f"{config.train.eval_split} {when}: {name} {row['success_rate']:.1%} "
                     f"(95 %: {low:.1%} to {high:.1%}, {row['episodes']} episodes)")  # fmt: skip
        return rates


class Narrator:
    """Says what is going on, each line with the time since the start."""

    def __init__(self, started: float, silent: bool = False):
        self.started = started
        self.show: Callable[[str], None] = (lambda text: None) if silent else (lambda text: print(text, flush=True))

    def __call__(self, text: str) -> None:
        seconds = time.monotonic() - self.started
        self.show(f"[{int(seconds // 60)}:{int(seconds % 60):02}] {text}")


@contextmanager
def stop_on_interrupt(insist: bool = True) -> Iterator[Callable[[], bool]]:
    """A flag that Ctrl-C (or a job scheduler's SIGTERM) raises; a second one interrupts at once, if they may `insist`.

    Under a launcher they may not: it hands on what a scheduler or a terminal has sent to all processes already.
    """
    asked: list[bool] = []

    def ask(number: int, frame: Any) -> None:
        if asked and insist:
            raise KeyboardInterrupt
        asked.append(True)

    before = {s: signal.signal(s, ask) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


def within(minutes: float, started: float, asked: Callable[[], bool]) -> Callable[[], bool]:
    """Whether to stop: somebody has `asked`, or the minutes since `started` are used up (0: no limit)."""
    return lambda: asked() or 0 < 60 * minutes < time.monotonic() - started
