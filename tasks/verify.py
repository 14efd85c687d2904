"""Whether episodes can be solved, by the task semantics and the oracle, and whether their circuits are their goals'."""

from __future__ import annotations

import numpy as np
import torch

from . import keyed_random
from .atoms import truth
from .drafts import FREE_OF_START
from .episodes import EpisodeSet
from .goals import NOR, Circuit, Circuits, evaluate, ground, parse
from .planners import Oracle, views_of
from .rules import TaskError
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


def circuits_fit(episodes: EpisodeSet, catalog: ObjectCatalog) -> np.ndarray:
    """Whether the circuit of each episode is that of its goal and subgoals, bool (E,), for objects without names of
    their own."""
    num, circuits = len(episodes), []
    category = torch.cat([catalog.category, torch.tensor([-1])])  # index -1, an empty slot, stays -1
    for i in range(num):
        row = episodes.episode(i)
        objects = category[torch.from_numpy(row.object_model).long()].numpy()
        try:
            circuits.append(ground(parse(row.goal), row.subgoals, objects, episodes.rules))
        except TaskError:
            circuits.append(Circuit((NOR,), ((),), 0, 1))  # like no circuit of an episode
    both = Circuits.none(2 * num)
    both.assign(torch.arange(num), episodes.circuits)
    both.assign(torch.arange(num, 2 * num), Circuits.pack(circuits))
    same = [(t[:num] == t[num:]).reshape(num, -1).all(1) for t in both.tensors().values()]
    return torch.stack(same).all(0).numpy()
