"""Planners behind one interface: `reset(view)`, then `act(view)` every step.

    oracle    knows the state; solves every generated episode
    explorer  knows the goal and what it has seen
    sweep     knows the goal and its own hand
    random    knows nothing
"""

from __future__ import annotations

from collections.abc import Generator

import numpy as np

from .actions import NUM_ACTIONS, nav_to_handle, nav_to_receptacle, pick, place, set_handle
from .entities import TASK_RECEPTACLES
from .planners_base import Planner, PlannerError, PlannerView, Wants, view_of, views_of, wants_of
from .planners_explorer import Explorer
from .planners_oracle import Oracle

__all__ = ["PLANNERS", "Explorer", "Oracle", "Planner", "PlannerError", "PlannerView", "RandomPlanner", "Sweep",
           "make_planner", "view_of", "views_of", "wants_of"]

_HANDFULS = 3
"""Objects that the sweep takes from one place where it is to move all of a kind."""


class Sweep(Planner):
    """Blind: drives to one receptacle after the other and reaches for what the goal wants, without looking."""

    def reset(self, view: PlannerView) -> None:
        self._script = self._run(wants_of(view.goal))
        self._started = False

    def act(self, view: PlannerView) -> int:
        if not self._started:
            self._started = True
            return next(self._script)
        return self._script.send(view.held >= 0)

    @staticmethod
    def _run(wants: Wants) -> Generator[int, bool, None]:
        """Actions; each `yield` gives back whether the hand holds something afterwards."""
        while True:
            for category, target in wants.moves:
                for source in (r for r in TASK_RECEPTACLES if r != target):
                    yield nav_to_receptacle(source)
                    if (yield pick(category)):
                        yield nav_to_receptacle(target)
                        yield place(target)
                        break
            for category, target in wants.every:
                for source in (r for r in TASK_RECEPTACLES if r != target):
                    yield nav_to_receptacle(source)
                    for _ in range(_HANDFULS):  # not for ever: it may be taking what it has just put beside
                        if not (yield pick(category)):
                            break
                        yield nav_to_receptacle(target)
                        yield place(target)
                        yield nav_to_receptacle(source)
            for category, source in wants.removals:
                yield nav_to_receptacle(source)
                if (yield pick(category)):
                    elsewhere = next(r for r in TASK_RECEPTACLES if r != source)
                    yield nav_to_receptacle(elsewhere)
                    yield place(elsewhere)
            for handle, opened in wants.handles:
                yield nav_to_handle(handle)
                yield set_handle(handle, opened)
            for category in wants.hold:
                for source in TASK_RECEPTACLES:
                    yield nav_to_receptacle(source)
                    if (yield pick(category)):
                        break
            for target in wants.at:
                yield target
            if wants.at_objects or wants == Wants():
                for receptacle in TASK_RECEPTACLES:
                    yield nav_to_receptacle(receptacle)


class RandomPlanner(Planner):
    """Uniform over the 70 actions; the same actions for the same seed and episode, wherever it runs."""

    def __init__(self, seed: int = 0):
        self.seed = seed

    def reset(self, view: PlannerView) -> None:
        self._random = np.random.default_rng([self.seed, view.episode])

    def act(self, view: PlannerView) -> int:
        return int(self._random.integers(NUM_ACTIONS))


PLANNERS: dict[str, type[Planner]] = {"random": RandomPlanner, "oracle": Oracle, "explorer": Explorer, "sweep": Sweep}


def make_planner(name: str, seed: int = 0) -> Planner:
    """A planner by name. `PlannerError` for an unknown one; only `random` uses the seed."""
    if name not in PLANNERS:
        raise PlannerError(f"unknown planner {name!r}; known: {', '.join(PLANNERS)}")
    return RandomPlanner(seed) if name == "random" else PLANNERS[name]()
