"""The oracle: any goal that can be reached, few steps, both rule sets."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from factories import fake_catalog, fake_scenes
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_runs import run
from test_goal_meaning import OBJECTS, expressions

from llarp.tasks import keyed_random
from llarp.tasks.actions import ACTION_NAMES, NAV_BASE, PICK_BASE, PLACE_BASE
from llarp.tasks.atoms import FALSE, NUM_ATOMS, TRUE, closed, holding, not_holding, on_top, opened, robot_at, truth
from llarp.tasks.entities import CATEGORY_INDEX, FRIDGE, HANDLES, LEFT_DRAWER, RECEPTACLES, TASK_RECEPTACLES
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.generator import generate
from llarp.tasks.goals import Circuits, evaluate, ground, parse
from llarp.tasks.planners import Oracle
from llarp.tasks.planners_facts import MOST, alternatives
from llarp.tasks.semantics import NUM_DRAWS, apply, valid_actions
from llarp.tasks.state import WorldState
from llarp.tasks.strings import PackedStrings

SCENES, CATALOG = fake_scenes(4), fake_catalog()
RULES = ("clean", "published")
CUP, SOFA, SINK, BLACK, BROWN, RIGHT, LEFT = CATEGORY_INDEX["cup"], 7, 4, 1, 2, 5, 6
CLOSED_FRIDGE = f"closed_fridge({HANDLES[4]})"


@pytest.fixture(scope="module")
def episodes() -> EpisodeSet:
    return generate(SCENES, CATALOG, "train", 120, seed=11)


def with_goals(episodes: EpisodeSet, goals: list[dict], rules: str) -> EpisodeSet:
    """The same rooms with other goals, without subgoals."""
    circuits = []
    for model, goal in zip(episodes.object_model.long(), goals, strict=True):
        category = torch.where(model >= 0, CATALOG.category[model.clamp(min=0)], -1).numpy()
        circuits.append(ground(parse(goal), [], category, rules))
    return dataclasses.replace(
        episodes,
        goal=PackedStrings.pack([json.dumps(goal) for goal in goals]),
        subgoals=PackedStrings.pack(["[]"] * len(goals)),
        circuits=Circuits.pack(circuits),
    )


def room(*cups: tuple[int, float], joint: float = 0.0) -> EpisodeSet:
    """A room whose only objects are cups: slot i lies on or in receptacle `cups[i][0]`, so far (m) along its front."""
    one = generate(SCENES, CATALOG, "train", 1, seed=4)
    scene = int(one.scene[0])
    one.object_model[:] = -1
    for slot, (receptacle, along) in enumerate(cups):
        yaw = SCENES.receptacle_yaw[scene, receptacle]
        front = torch.stack([-yaw.sin(), yaw.cos(), torch.tensor(0.0)])
        one.object_model[0, slot] = CATALOG.names.index("cup_0")
        one.object_position[0, slot] = SCENES.receptacle_center[scene, receptacle] + along * front
        one.object_inside[0, slot] = receptacle if RECEPTACLES[receptacle].joint >= 0 else -1
        one.object_receptacle[0, slot] = receptacle
    one.joint[0, 4] = joint
    return one


def quantified(quantifier: str, op: str, *parts: object, names: str = "X") -> dict:
    inputs = [{"name": name, "expr_type": "cup"} for name in names]
    return {"expr_type": op, "quantifier": quantifier, "inputs": inputs, "sub_exprs": list(parts)}


def both(*parts: object) -> dict:
    return {"expr_type": "AND", "sub_exprs": list(parts)}


def play(one: EpisodeSet, goal: dict, rules: str) -> list[str]:
    success, _, actions = run(Oracle, with_goals(one, [goal], rules), SCENES, CATALOG, seed=2, rules=rules)
    assert success.all(), [ACTION_NAMES[a] for a in actions[0]]
    return [ACTION_NAMES[a] for a in actions[0]]


def wander(state: WorldState, steps: int, rules: str) -> None:
    """Random possible actions in every world, more of them with the hands than on wheels."""
    index = torch.arange(state.num_worlds)
    for step in range(steps):
        weight = valid_actions(state, rules).float()
        weight[:, NAV_BASE:PICK_BASE] *= 0.3
        weight[:, PLACE_BASE:] *= 3
        action = torch.multinomial(weight, 1, generator=torch.Generator().manual_seed(step))[:, 0]
        draws = keyed_random.uniform(1, index, torch.full_like(index, step), 7, (NUM_DRAWS,))
        apply(state, action, draws, CATALOG.half_size, rules)


def goal_of(before: torch.Tensor, after: torch.Tensor, held: int, rng: np.random.Generator) -> dict:
    """Some of what has changed, as a goal: where things lie, furniture, the hand, where the robot stands."""
    parts: list[object] = ["not_holding()"] if held < 0 else [f"holding(object_{held})"]
    for slot in rng.permutation(56)[:40].tolist():
        for r in range(len(RECEPTACLES)):
            atom = on_top(slot, r)
            if slot != held and before[atom] != after[atom] and len(parts) < 4:
                text = f"on_top(object_{slot}, {RECEPTACLES[r].name})"
                parts.append(text if after[atom] else {"expr_type": "NOR", "sub_exprs": [text]})
    for handle, name in enumerate(HANDLES):
        thing = "fridge" if handle == 4 else "cab"
        for word, atom in (("opened", opened(handle)), ("closed", closed(handle))):
            if after[atom] and not before[atom]:
                parts.append(f"{word}_{thing}({name})")
    stands = [t for t in range(16) if after[robot_at(t)]]
    if stands and held < 0:
        target = int(rng.choice(stands))
        parts.append(f"robot_at({(*HANDLES, *(r.name for r in RECEPTACLES))[target]})")
    return both(*parts)


@pytest.mark.parametrize("rules", RULES)
def test_it_brings_about_whatever_random_actions_did(episodes, rules):
    rng = np.random.default_rng(3)
    state = episodes.start_state(torch.arange(len(episodes)), SCENES, CATALOG, 5)
    before = truth(state, rules)
    wander(state, 12, rules)
    after = truth(state, rules)
    assert bool(after[:, holding(0) : holding(56)].any())
    goals = [goal_of(before[i], after[i], int(state.held[i]), rng) for i in range(len(episodes))]
    wanted = with_goals(episodes, goals, rules)
    success, _, actions = run(Oracle, wanted, SCENES, CATALOG, seed=5, rules=rules)
    assert success.all(), [goals[i] for i in np.flatnonzero(~success)]
    assert np.mean([len(a) for a in actions]) < 9  # the random actions were 12


@pytest.mark.parametrize("rules", RULES)
def test_it_goes_on_whatever_others_do_in_between(episodes, rules):
    wanted = with_goals(episodes, [json.loads(goal) for goal in episodes.goal], rules)
    success, _, actions = run(Oracle, wanted, SCENES, CATALOG, seed=5, rules=rules, noise=0.25)
    alone = run(Oracle, wanted, SCENES, CATALOG, seed=5, rules=rules)[2]
    assert success.mean() > 0.98 and sum(map(len, actions)) < 1.55 * sum(map(len, alone))


@pytest.mark.parametrize("rules", RULES)
@pytest.mark.parametrize(
    ("cups", "most"),
    [
        (((BLACK, 0.0), (BROWN, 0.0), (RIGHT, 0.3)), 11),
        (((BLACK, 0.0), (BROWN, 0.0), (3, 0.0), (RIGHT, 0.3), (RIGHT, 0.0)), 20),
        (((LEFT, 0.0), (SOFA, 0.0), (BLACK, 0.0), (RIGHT, 0.1), (RIGHT, -0.1), (SINK, 0.0)), 21),
    ],
)
def test_all_of_a_kind_are_moved_in_an_order_in_which_none_hides_another(cups, most, rules):
    """The later slots lie within reach of the sink: once others are there, pick takes those instead."""
    chosen = play(room(*cups), quantified("FORALL", "AND", "on_top(X, sink)", "not_holding()"), rules)
    assert len(chosen) <= most


@pytest.mark.parametrize("rules", RULES)
def test_what_pick_would_take_instead_is_carried_out_of_reach(rules):
    # slot 0 already lies where it is wanted, beside slot 1
    cups = room((RIGHT, 0.05), (RIGHT, -0.05))
    chosen = play(cups, both("on_top(object_0, right counter)", "on_top(object_1, sofa)", "not_holding()"), rules)
    assert chosen.count("pick(cup)") == 3 and chosen.count("place(right counter)") == 1


def test_what_negated_quantifiers_mean_decides_how_much_is_done():
    cups = room((SOFA, 0.3), (SOFA, 0.0), (SOFA, -0.3))
    none_there = both("not_holding()", quantified("EXISTS", "NAND", "on_top(X, sofa)"))
    assert play(cups, none_there, "clean").count("pick(cup)") == 3
    # some cup is not there: true once one is taken up, and the hand still counts as empty in that step
    assert play(cups, none_there, "published")[-1] == "pick(cup)"
    not_all = both("not_holding()", quantified("FORALL", "NAND", "on_top(X, sofa)"))
    assert play(cups, not_all, "clean").count("pick(cup)") == 1
    assert play(cups, not_all, "published").count("pick(cup)") == 3


def test_a_closed_fridge_stops_pick_and_place_in_clean_rules_only():
    cups = room((FRIDGE, 0.0), (BLACK, 0.0))
    out = both("on_top(object_0, sofa)", "not_holding()")
    into = both("in(object_1, fridge)", "not_holding()", CLOSED_FRIDGE)
    assert "open(fridge)" in play(cups, out, "clean") and "open(fridge)" not in play(cups, out, "published")
    assert play(cups, into, "clean")[-1] == "close(fridge)" and "open(fridge)" not in play(cups, into, "published")


@pytest.mark.parametrize("rules", RULES)
def test_what_is_in_a_closed_drawer_is_taken_out_of_it(rules):
    chosen = play(room((LEFT_DRAWER, 0.0)), quantified("EXISTS", "AND", "on_top(X, sofa)", "not_holding()"), rules)
    assert chosen.index("open(drawer 7)") < chosen.index("pick(cup)")


def test_the_hand_can_be_what_a_goal_is_about():
    cups = room((BLACK, 0.05), (BLACK, -0.05), (SOFA, 0.0))
    assert play(cups, {"expr_type": "NOR", "sub_exprs": ["not_holding()"]}, "clean")[-1] == "pick(cup)"
    chosen = play(cups, both("holding(object_1)"), "clean")  # object_0 is taken first, and put down
    assert chosen.count("pick(cup)") == 2 and chosen[-1] == "pick(cup)"
    chosen = play(cups, both("robot_at_obj(object_2)", "robot_at(black table)"), "clean")
    assert chosen == ["nav(sofa)", "pick(cup)", "nav(black table)"]  # it takes along what it has to be at


@pytest.mark.parametrize("rules", RULES)
def test_of_several_ways_the_shortest_is_taken(rules):
    cups = room((BLACK, 0.0), (SOFA, 0.0))
    either = {"expr_type": "OR", "sub_exprs": [both("on_top(object_0, sink)", "not_holding()"), "robot_at(fridge)"]}
    assert play(cups, either, rules) == ["nav(fridge)"]
    anywhere = [{"name": "X", "expr_type": "cup"}, {"name": "R", "expr_type": "receptacle"}]
    held_off = {"expr_type": "AND", "quantifier": "EXISTS", "inputs": anywhere, "sub_exprs": ["on_top(X, R)"]}
    assert len(play(cups, held_off, rules)) == 1  # it holds already: any step shows it
    if_closed = both(CLOSED_FRIDGE, quantified("EXISTS", "AND", "on_top(X, sink)", "on_top(Y, sofa)", names="XY"))
    chosen = play(cups, both(if_closed, "not_holding()"), rules)
    assert chosen.count("pick(cup)") == 1 and len(chosen) <= 4  # one moved, the other left
    no_opened = {"expr_type": "NOR", "sub_exprs": [CLOSED_FRIDGE, {"expr_type": "NAND", "sub_exprs": [if_closed]}]}
    assert len(run(Oracle, with_goals(cups, [no_opened], rules), SCENES, CATALOG, rules=rules)[2][0]) == 32


@pytest.mark.parametrize("rules", RULES)
def test_what_cannot_be_had_does_not_keep_it_from_the_rest(rules):
    cups = room((BLACK, 0.0), (SOFA, 0.0))
    cups.object_position[0, 1] += 20.0  # through the wall
    wanted = with_goals(cups, [quantified("FORALL", "AND", "on_top(X, sink)", "not_holding()")], rules)
    success, _, actions = run(Oracle, wanted, SCENES, CATALOG, rules=rules)
    assert not success.any() and "place(sink)" in [ACTION_NAMES[a] for a in actions[0]]


def test_things_are_put_down_where_they_are_not_wanted_only_if_need_be(episodes):
    """Nothing is put on or taken from anywhere else than the goal says, in goals that need no more."""
    kinds = np.array([k in ("place_one", "place_two", "swap") for k in episodes.instruction_type])
    few = episodes.select(np.flatnonzero(kinds).tolist())
    _, _, actions = run(Oracle, few, SCENES, CATALOG, seed=5)
    for i, chosen in enumerate(actions):
        targets = {RECEPTACLES[r].name for r in TASK_RECEPTACLES if f", {RECEPTACLES[r].name})" in few.goal[i]}
        placed = {name[6:-1] for name in (ACTION_NAMES[a] for a in chosen) if name.startswith("place(")}
        assert placed == targets


def random_facts(rng: np.random.Generator, rows: int) -> torch.Tensor:
    """Rows of facts, each true half the time; one hand."""
    table = torch.from_numpy(rng.random((rows, NUM_ATOMS)) < 0.5)
    table[:, FALSE], table[:, TRUE] = False, True
    table[:, not_holding()] = False
    table[:, holding(0) : holding(56)] = False
    for row, held in zip(table, rng.integers(-4, 10, rows), strict=True):  # empty in some of them
        row[not_holding() if held < 0 else holding(int(held))] = True
    return table


@settings(max_examples=120, deadline=None, derandomize=True)
@given(expressions(), st.sampled_from(RULES), st.integers(0, 2**31))
def test_every_way_makes_the_goal_true_whatever_else_is_so(source, rules, seed):
    category = np.full(56, -1)
    for name, slots in OBJECTS.items():
        category[list(slots)] = CATEGORY_INDEX[name]
    circuit, rng = ground(parse(source), [], category, rules), np.random.default_rng(seed)
    price = rng.integers(0, 5, (NUM_ATOMS, 2)).astype(float)
    price[FALSE, 1] = price[TRUE, 0] = np.inf
    ways = alternatives(circuit, lambda atom, wanted: price[atom, int(wanted)])
    assert [w.cost for w in ways] == sorted(w.cost for w in ways) and len(ways) <= MOST
    table = random_facts(rng, 64)
    for way in ways:
        assert way.cost == sum(price[atom, int(wanted)] for atom, wanted in way.facts.items())
        other = table.clone()
        for atom, wanted in way.facts.items():
            other[:, atom] = wanted
        assert evaluate(Circuits.pack([circuit] * 64), other)[0].all()
    if not ways:  # nothing makes it true
        assert not evaluate(Circuits.pack([circuit] * 64), table)[0].any()


def test_nobody_holds_two_things_or_one_with_an_empty_hand():
    def ways(*parts: object) -> int:
        category = np.full(56, -1)
        category[:3] = CUP
        circuit = ground(parse(both(*parts)), [], category)
        return len(alternatives(circuit, lambda atom, wanted: 1.0))

    assert ways("holding(object_0)") == 1 and ways(quantified("EXISTS", "AND", "holding(X)")) == 3
    assert ways("holding(object_0)", "holding(object_1)") == ways("holding(object_0)", "not_holding()") == 0
    assert ways("not_holding()", {"expr_type": "NOR", "sub_exprs": ["not_holding()"]}) == 0
