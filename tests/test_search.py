"""The search that tells episodes nobody can solve from those the oracle misses."""

import json

import numpy as np
import pytest
import torch
from factories import fake_catalog, fake_scenes
from planner_runs import run

from llarp.tasks.actions import ACTION_NAMES
from llarp.tasks.entities import RECEPTACLES
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.generator import generate
from llarp.tasks.goals import ground, parse
from llarp.tasks.planners import Oracle
from llarp.tasks.search import INFEASIBLE, SOLVABLE, UNDECIDED, Verdict, search

SCENES, CATALOG = fake_scenes(4), fake_catalog()
RULES = ("clean", "published")


@pytest.fixture(scope="module")
def episodes() -> EpisodeSet:
    return generate(SCENES, CATALOG, "train", 60, seed=11)


def look(episodes: EpisodeSet, i: int, goal: dict, rules: str = "clean", **limits: int) -> Verdict:
    state = episodes.start_state(torch.tensor([i]), SCENES, CATALOG, 5)
    circuit = ground(parse(goal), [], state.object_category[0].numpy(), rules)
    return search(state, circuit, CATALOG.half_size, rules, **limits)


def conjunction(*parts: object) -> dict:
    return {"expr_type": "AND", "sub_exprs": list(parts)}


def test_the_oracle_takes_no_step_more_than_a_shortest_solution(episodes):
    quick = [k in ("place_one", "place_from", "open_fridge", "find_object") for k in episodes.instruction_type]
    few = np.flatnonzero(quick)[:15].tolist()
    success, _, actions = run(Oracle, episodes, SCENES, CATALOG, seed=5)
    for i in few:
        verdict = look(episodes, i, json.loads(episodes.goal[i]))
        assert verdict.kind == SOLVABLE and success[i]
        assert len(verdict.actions) == len(actions[i]), [ACTION_NAMES[a] for a in verdict.actions]


@pytest.mark.parametrize("rules", RULES)
def test_things_out_of_reach_are_named(episodes, rules):
    slot = int((episodes.object_model[0] >= 0).nonzero()[0])
    away = episodes.select([0])
    away.object_position[0, slot] += 30.0
    for text in (f"on_top(object_{slot}, sofa)", f"holding(object_{slot})"):
        verdict = look(away, 0, conjunction(text), rules)
        assert verdict.kind == INFEASIBLE and f"slot {slot}: nav leads nowhere" in verdict.reason
        either = {"expr_type": "OR", "sub_exprs": [text, "robot_at(sofa)"]}
        assert look(away, 0, either, rules).kind == SOLVABLE
        assert look(away, 0, {"expr_type": "NAND", "sub_exprs": [text]}, rules).kind == SOLVABLE


def test_what_lies_behind_others_can_be_had(episodes):
    """Pick takes the first of a category; the second is to be had once that one is gone."""
    one = episodes.select([0])
    first, second = (one.object_model[0] >= 0).nonzero()[:2, 0].tolist()
    for other in range(56):
        if other not in (first, second):
            one.object_model[0, other] = -1
    one.object_model[0, [first, second]] = CATALOG.names.index("cup_0")
    one.object_position[0, second] = one.object_position[0, first]
    verdict = look(one, 0, conjunction(f"holding(object_{second})"))
    assert verdict.kind == SOLVABLE
    assert [ACTION_NAMES[a] for a in verdict.actions].count("pick(cup)") == 2


def test_all_states_are_looked_at_before_a_goal_is_called_infeasible(episodes):
    everywhere = conjunction(*(f"robot_at({r.name})" for r in RECEPTACLES))
    verdict = look(episodes, 1, everywhere)
    assert verdict.kind == INFEASIBLE and "no state" in verdict.reason
    assert 2 <= verdict.states <= 17  # the start and what nav leads to
    slot = int((episodes.object_model[1] >= 0).nonzero()[0])
    twofold = conjunction(f"on_top(object_{slot}, sofa)", f"on_top(object_{slot}, sink)")
    verdict = look(episodes, 1, twofold)
    assert verdict.kind == INFEASIBLE and verdict.states > 50
    assert look(episodes, 1, twofold, max_states=50).kind == UNDECIDED
    assert look(episodes, 1, twofold, max_steps=2).reason == "no solution within 2 steps"


def test_facts_that_published_rules_keep_for_a_step_count(episodes):
    i = list(episodes.instruction_type).index("clear")
    goal = json.loads(episodes.goal[i])
    clean, published = (look(episodes, i, goal, rules) for rules in RULES)
    assert ACTION_NAMES[clean.actions[-1]].startswith("place(")
    assert ACTION_NAMES[published.actions[-1]].startswith("pick(")
