"""Whether episodes can be solved: the oracle plays each by the task semantics."""

from __future__ import annotations

import numpy as np
import torch

from . import keyed_random
from .atoms import truth
from .drafts import FREE_OF_START
from .episodes import EpisodeSet
from .goals import evaluate
from .planners import Oracle, views_of
from .semantics import NUM_DRAWS, apply, read_atoms, valid_actions
from .state import ObjectCatalog, SceneSet

MAX_STEPS = 32
_STREAM = 102


def solution_steps(episodes: EpisodeSet, scenes: SceneSet, catalog: ObjectCatalog, seed: int) -> np.ndarray:
    """Steps in which the oracle reaches each goal from a random start, int64 (E,); 0: not within 32.

    Also 0 where a goal about objects or furniture holds at the start; one about where the robot is may."""
    num, rules = len(episodes), episodes.rules
    running = torch.arange(num)
    state = episodes.start_state(running, scenes, catalog, seed)
    start = truth(state, rules)
    at_start = evaluate(episodes.circuits, start)[0]
    free = torch.tensor([kind in FREE_OF_START for kind in episodes.instruction_type], dtype=torch.bool)
    took = torch.zeros(num, dtype=torch.int64)
    rows = [episodes.episode(i) for i in range(num)]
    oracles = [Oracle() for _ in range(num)]
    atoms = start
    for step in range(MAX_STEPS):
        valid, visible = valid_actions(state, rules), state.object_model >= 0
        views = views_of(state, [rows[e] for e in running.tolist()], visible, valid, rules, atoms)
        action = []
        for e, view in zip(running.tolist(), views, strict=True):
            if step == 0:
                oracles[e].reset(view)
            action.append(oracles[e].act(view))
        steps = torch.full_like(running, step)
        draws = keyed_random.uniform(seed, episodes.episode_id[running], steps, _STREAM, (NUM_DRAWS,))
        chosen = torch.tensor(action)
        read = read_atoms(state, chosen, rules)
        apply(state, chosen, draws, catalog.half_size, rules)
        before, atoms = atoms, truth(state, rules)
        judged = atoms if read is None else torch.where(read, before, atoms)
        reached = evaluate(episodes.circuits.rows(running), judged)[0]
        took[running[reached]] = step + 1
        running, state, atoms = running[~reached], state.rows(~reached), atoms[~reached]
        if not len(running):
            break
    took[at_start & ~free] = 0
    return took.numpy()
