"""Runs planners on episodes through the task semantics, without pictures: what is near and ahead counts as seen."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from llarp.tasks import keyed_random
from llarp.tasks.actions import NUM_ACTIONS
from llarp.tasks.atoms import truth
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.planners import Planner, PlannerView, views_of
from llarp.tasks.rules import is_shut, polar, within
from llarp.tasks.semantics import NUM_DRAWS, apply, read_atoms, valid_actions
from llarp.tasks.state import ObjectCatalog, SceneSet, WorldState
from llarp.tasks.task import TaskTracker

SEEN_WITHIN_M, SEEN_ANGLE_RAD = 1.7, 0.78


def seen(state: WorldState) -> np.ndarray:
    """Objects near and ahead that no door hides, bool (N, M)."""
    near = within(*polar(state.robot, state.object_position[..., :2]), SEEN_WITHIN_M, SEEN_ANGLE_RAD)
    hidden = is_shut(state.joint).gather(1, state.object_inside.clamp(min=0)) & (state.object_inside >= 0)
    return (near & ~hidden & (state.object_category >= 0)).numpy()


def blinded(view: PlannerView) -> PlannerView:
    """The view with everything poisoned that the explorer may not know."""
    known = view.visible.copy()
    if view.held >= 0:
        known[view.held] = True
    return dataclasses.replace(
        view,
        robot=np.full_like(view.robot, np.nan),
        joint=np.full_like(view.joint, np.nan),
        object_category=np.where(known, view.object_category, -99),
        object_position=np.where(known[:, None], view.object_position, np.nan),
        object_inside=np.where(known, view.object_inside, 99),
        valid=np.zeros(0, dtype=bool),
        atoms=lambda: np.zeros(0, dtype=bool),
    )


def run(
    make: Callable[[], Planner],
    episodes: EpisodeSet,
    scenes: SceneSet,
    catalog: ObjectCatalog,
    change: Callable[[PlannerView], PlannerView] = lambda view: view,
    seed: int = 0,
    rules: str = "clean",
    noise: float = 0.0,
) -> tuple[np.ndarray, np.ndarray, list[list[int]]]:
    """Success (E,), progress (E,) and the actions of each episode; at a share `noise` of the steps somebody else does
    anything instead."""
    meddle = np.random.default_rng(seed)
    index = torch.arange(len(episodes))
    state = episodes.start_state(index, scenes, catalog, seed)
    tracker = TaskTracker(len(episodes))
    tracker.reset(index, episodes.circuits, truth(state, rules))
    rows = [episodes.episode(i) for i in range(len(episodes))]
    planners = [make() for _ in rows]
    actions: list[list[int]] = [[] for _ in rows]
    success, progress = np.zeros(len(rows), dtype=bool), np.zeros(len(rows))
    for step in range(tracker.config.max_steps):
        valid, visible = valid_actions(state, rules).numpy(), seen(state)
        action = torch.zeros(len(rows), dtype=torch.int64)
        for i, view in enumerate(map(change, views_of(state, rows, visible, valid, rules))):
            if success[i]:
                continue
            if step == 0:
                planners[i].reset(view)
            action[i] = planners[i].act(view)
            if meddle.random() < noise:
                action[i] = int(meddle.integers(NUM_ACTIONS))
            actions[i].append(int(action[i]))
        draws = keyed_random.uniform(seed, index, torch.full_like(index, step), 7, (NUM_DRAWS,))
        read, before = read_atoms(state, action, rules), truth(state, rules)
        invalid = apply(state, action, draws, catalog.half_size, rules)
        facts = truth(state, rules)
        result = tracker.update(facts if read is None else torch.where(read, before, facts), invalid)
        running = ~success
        success |= result.success.numpy()
        progress[running] = result.progress.numpy()[running]
    return success, progress, actions
