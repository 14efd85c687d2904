"""Every difference between the clean and the published rules, a test each, on tiny states (see docs/rules.md)."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import fake_catalog, fake_scenes, fake_state

from llarp.sim.world import Assets, BatchWorld
from llarp.tasks import actions as act
from llarp.tasks import atoms
from llarp.tasks.entities import (
    CATEGORY_INDEX,
    FRIDGE,
    FRIDGE_HANDLE,
    LEFT_DRAWER,
    NUM_HANDLES,
    RECEPTACLES,
    RIGHT_DRAWER,
)
from llarp.tasks.episodes import EpisodeSet
from llarp.tasks.goals import Circuits, evaluate, ground, parse
from llarp.tasks.rules import RULES
from llarp.tasks.semantics import NUM_DRAWS, apply, pickable, read_atoms, refresh, valid_actions
from llarp.tasks.state import MAX_OBJECTS, WorldState, two_corner_half
from llarp.tasks.strings import PackedStrings
from llarp.tasks.task import TaskConfig

CATALOG = fake_catalog()
BALL = CATEGORY_INDEX["ball"]
SOFA, SINK = 7, 4
both = pytest.mark.parametrize("rules", RULES)


def world(receptacle: int = SOFA, num_worlds: int = 1) -> WorldState:
    """Worlds with one ball, in slot 0, at the middle of a receptacle, and the robot where nav to it leads."""
    state = fake_state(num_worlds, num_objects=1, seed=5)
    state.object_model[:, 0], state.object_category[:, 0] = CATALOG.names.index("ball_0"), BALL
    state.object_position[:, 0] = state.receptacle_center[:, receptacle]
    state.object_inside[:, 0] = receptacle if RECEPTACLES[receptacle].joint >= 0 else -1
    state.robot = state.nav_pose[:, NUM_HANDLES + receptacle].clone()
    return state


def hold(state: WorldState) -> WorldState:
    state.held[:], state.object_inside[:, 0] = 0, -1
    refresh(state)
    return state


def step(state: WorldState, action: int, rules: str, draws: torch.Tensor | None = None) -> bool:
    """Takes a skill in one world; True if it was valid."""
    n = state.num_worlds
    draws = torch.full((n, NUM_DRAWS), 0.5) if draws is None else draws
    return not apply(state, torch.full((n,), action), draws, CATALOG.half_size, rules).any()


def holds(state: WorldState, atom: int, rules: str) -> bool:
    return bool(atoms.truth(state, rules)[0, atom])


# -- boxes -------------------------------------------------------------------------------------------------------------


def test_box_of_turned_furniture():
    half, yaw = torch.tensor([1.0, 0.5, 0.2]), torch.tensor(math.pi / 4)
    root = math.sqrt(0.5)
    torch.testing.assert_close(two_corner_half(half, yaw), torch.tensor([1.5 * root, 0.5 * root, 0.2]))
    torch.testing.assert_close(two_corner_half(half, torch.tensor(math.pi / 2)), torch.tensor([0.5, 1.0, 0.2]))

    state = world(SOFA)
    state.receptacle_half[0, SOFA], state.receptacle_yaw[0, SOFA] = half, yaw
    state.receptacle_span[0, SOFA] = two_corner_half(half, yaw)
    for ahead, left, clean, published in (
        (0.9, 0.0, True, False),  # along its long side: out of the thin box
        (0.0, 0.4, True, True),
        (0.9, -0.55, False, True),  # beside the true box
        (-1.2, 0.0, False, False),
    ):
        move = torch.tensor([(ahead - left) * root, (ahead + left) * root, 0.0])
        state.object_position[0, 0] = state.receptacle_center[0, SOFA] + move
        assert holds(state, atoms.on_top(0, SOFA), "clean") == clean
        assert holds(state, atoms.on_top(0, SOFA), "published") == published


@both
def test_object_in_the_hand(rules):
    state = hold(world(SOFA))
    state.robot_height[:] = 0.1
    refresh(state)
    assert float(state.object_position[0, 0, 2]) == pytest.approx(1.022)
    state.receptacle_center[0, SOFA] = state.object_position[0, 0] + 0.01  # a counter below the hand
    assert holds(state, atoms.on_top(0, SOFA), rules) == (rules == "published")
    assert holds(state, atoms.holding(0), rules)


@both
def test_box_of_an_open_drawer(rules):
    state = world(LEFT_DRAWER)
    state.joint[0, 0] = 0.45
    moved = rules == "clean"
    assert holds(state, atoms.on_top(0, LEFT_DRAWER), rules) != moved
    state.object_position[0, 0] += 0.45 * state.receptacle_slide[0, LEFT_DRAWER]
    assert holds(state, atoms.on_top(0, LEFT_DRAWER), rules) == moved
    # a robot 1.9 m from the open drawer and so 2.35 m from where it was
    ahead = state.receptacle_slide[0, LEFT_DRAWER, :2]
    state.robot[0, :2] = state.receptacle_center[0, LEFT_DRAWER, :2] + 2.35 * ahead
    assert holds(state, atoms.robot_at(NUM_HANDLES + LEFT_DRAWER), rules) == moved
    hold(state)
    assert bool(valid_actions(state, rules)[0, act.place(LEFT_DRAWER)]) == moved


# -- drawers and fridge ------------------------------------------------------------------------------------------------


@both
def test_contents_of_a_drawer(rules):
    state = world(LEFT_DRAWER)
    before = state.object_position[0, 0].clone()
    for opens, distance in ((True, 0.45), (False, 0.0)):
        assert step(state, act.set_handle(0, opens), rules)
        expected = distance if rules == "clean" else 0.0
        torch.testing.assert_close(
            state.object_position[0, 0], before + expected * state.receptacle_slide[0, LEFT_DRAWER]
        )


def test_what_is_in_a_drawer():
    state = world(LEFT_DRAWER)
    assert not pickable(state, "clean")[0, 0] and not pickable(state, "published")[0, 0]
    state.object_position[0, 0, 2] += 2 * state.container_half[0, 0, 2]  # over its rim
    assert not pickable(state, "clean")[0, 0] and pickable(state, "published")[0, 0]
    state.object_position[0, 0] = state.container_center[0, 0]
    state.object_inside[0, 0] = -1  # nobody put it there
    assert pickable(state, "clean")[0, 0] and not pickable(state, "published")[0, 0]
    state.joint[0, 0] = 0.45
    assert pickable(state, "published")[0, 0]
    state.joint[0, 0] = 0.14  # still closed, and its box has moved
    state.object_position[0, 0] = state.container_center[0, 0] + 0.14 * state.container_slide[0, 0]
    state.object_position[0, 0] += 0.99 * state.container_half[0, 0] * state.container_slide[0, 0]  # at its front
    assert not pickable(state, "published")[0, 0]
    state.joint[0, 0] = 0.0
    assert pickable(state, "published")[0, 0]


def test_in_a_handle():
    state = world(RIGHT_DRAWER)
    for rules in RULES:
        assert holds(state, atoms.inside(0, 2), rules) and not holds(state, atoms.inside(0, 0), rules)
    state.container_center[0, 1], state.container_half[0, 1] = state.object_position[0, 0], torch.full((3,), 0.1)
    state.container_center[0, FRIDGE_HANDLE] = state.container_center[0, 1]
    state.receptacle_center[0, RIGHT_DRAWER] += 5
    for rules, handles in (("clean", []), ("published", [1, 2, FRIDGE_HANDLE])):
        assert [h for h in range(NUM_HANDLES) if holds(state, atoms.inside(0, h), rules)] == handles
        assert not holds(state, atoms.inside(1, 1), rules)  # an empty slot


@both
@pytest.mark.parametrize("receptacle", [LEFT_DRAWER, FRIDGE])
def test_pick_from_closed_furniture(rules, receptacle):
    state = world(receptacle)
    may = rules == "published" and receptacle == FRIDGE
    assert bool(valid_actions(state, rules)[0, act.pick(BALL)]) == may
    state.joint[0, RECEPTACLES[receptacle].joint] = 0.2  # neither open nor closed
    assert valid_actions(state, rules)[0, act.pick(BALL)]


@both
@pytest.mark.parametrize("receptacle", [LEFT_DRAWER, FRIDGE])
def test_place_into_closed_furniture(rules, receptacle):
    state = hold(world(receptacle))
    assert step(state, act.place(receptacle), rules) == (rules == "published")
    assert state.held.item() == (-1 if rules == "published" else 0)
    state = hold(world(receptacle))
    state.joint[0] = torch.tensor([0.45, 0.45, 0.45, 0.45, 1.22])
    assert step(state, act.place(receptacle), rules)


def test_where_a_placed_object_goes():
    draws = torch.rand(2000, NUM_DRAWS, generator=torch.Generator().manual_seed(3))
    spread = {}
    for rules in RULES:
        state = hold(world(SOFA, num_worlds=2000))
        state.receptacle_half[:, SOFA], state.receptacle_yaw[:, SOFA] = torch.tensor([0.6, 0.3, 0.2]), 0.5
        state.receptacle_span[:, SOFA] = two_corner_half(state.receptacle_half, state.receptacle_yaw)[:, SOFA]
        assert step(state, act.place(SOFA), rules, draws)
        offset = state.object_position[:, 0] - state.receptacle_center[:, SOFA]
        spread[rules] = offset.abs().amax(0), offset[:, 2].unique(), state.object_yaw[:, 0].unique()
        assert atoms.truth(state, rules)[:, atoms.on_top(0, SOFA)].all() or rules == "clean"
    furthest, heights, yaws = spread["published"]
    limit = 0.8 * two_corner_half(torch.tensor([0.6, 0.3, 0.2]), torch.tensor(0.5))
    assert (furthest <= limit + 1e-5).all() and (furthest > 0.98 * limit).all()
    assert len(heights) > 1000 and yaws.tolist() == [0]
    _, heights, yaws = spread["clean"]
    assert heights.max() - heights.min() < 1e-5 and len(yaws) > 1000


# -- what a step is judged by ------------------------------------------------------------------------------------------


def changed_and_read(state: WorldState, action: int) -> set[int]:
    """Facts that a valid skill changes although they were read before it."""
    read = read_atoms(state, torch.tensor([action]), "published")
    assert read is not None
    before = atoms.truth(state, "published")
    assert step(state, action, "published")
    return set((read & (before != atoms.truth(state, "published")))[0].nonzero()[:, 0].tolist())


def test_facts_read_before_the_step():
    assert read_atoms(world(), torch.tensor([act.pick(BALL)]), "clean") is None
    assert changed_and_read(world(SOFA), act.pick(BALL)) == {atoms.not_holding()}
    assert changed_and_read(hold(world(SOFA)), act.place(SOFA)) == {atoms.holding(0)}
    drawer = world(LEFT_DRAWER)
    drawer.object_position[0, 0, :2] -= 0.1 * drawer.container_slide[0, 0, :2]  # out of the box once that has moved
    assert changed_and_read(drawer, act.set_handle(0, True)) == {atoms.closed(0), atoms.inside(0, 0)}
    assert changed_and_read(drawer, act.set_handle(0, False)) == {atoms.opened(0), atoms.inside(0, 0)}
    fridge = world(FRIDGE)
    assert changed_and_read(fridge, act.set_handle(FRIDGE_HANDLE, True)) == {atoms.closed(FRIDGE_HANDLE)}
    assert changed_and_read(fridge, act.set_handle(FRIDGE_HANDLE, False)) == {atoms.opened(FRIDGE_HANDLE)}
    assert changed_and_read(hold(world(SOFA)), act.nav_to_receptacle(SINK)) == set()
    opened = world(LEFT_DRAWER)
    opened.joint[0, 0], opened.container_slide[0, 0] = 0.45, 0.0
    assert changed_and_read(opened, act.pick(BALL)) == {atoms.not_holding(), atoms.inside(0, 0)}


def episode_of(state: WorldState, goal: dict, subgoals: list[list[str]], rules: str) -> EpisodeSet:
    """A set of one episode that begins in a state of one world."""
    circuit = ground(parse(goal), subgoals, state.object_category[0].numpy(), rules)
    return EpisodeSet(
        scene=torch.zeros(1, dtype=torch.int32),
        object_model=state.object_model.to(torch.int16),
        object_position=state.object_position,
        object_yaw=state.object_yaw,
        object_inside=state.object_inside.to(torch.int8),
        object_receptacle=torch.full((1, MAX_OBJECTS), -1, dtype=torch.int8),
        joint=state.joint,
        start_pose=state.robot,
        wording=torch.zeros(1, dtype=torch.int16),
        episode_id=torch.zeros(1, dtype=torch.int64),
        **dict.fromkeys(("instruction", "instruction_type", "goal", "subgoals"), PackedStrings.pack([""])),
        circuits=Circuits.pack([circuit]),
        scene_names=["fake_3"],
        model_names=CATALOG.names,
        rules=rules,
    )


@both
def test_steps_are_judged_by_stale_facts(rules):
    """ "Clear the ball off the sofa" is done at the pick already where `not_holding` is still true."""
    state = world(SOFA)
    goal = {"expr_type": "AND", "sub_exprs": ["not_holding()", NOT_ON_SOFA]}
    episodes = episode_of(state, goal, [["holding(object_0)"], ["not_holding()"]], rules)
    scenes = fake_scenes(4).rows(state.scene)
    assets = Assets(scenes, None, CATALOG, [], None)  # type: ignore[arg-type]  # nothing is drawn
    worlds = BatchWorld(assets, episodes, 1, TaskConfig(), rules=rules, pictures=False)
    worlds.reset(torch.tensor([True]), torch.tensor([0]), torch.tensor([0]))
    assert torch.equal(worlds.state.robot, state.robot)

    def play(action: int) -> tuple[bool, bool, float]:
        invalid = worlds.apply(torch.tensor([action]))
        result = worlds.judge(invalid)
        return bool(invalid), bool(result.success), float(result.reward)

    assert play(act.pick(BALL)) == (False, rules == "published", 12.5 if rules == "published" else 2.5)
    assert play(act.nav_to_receptacle(SINK)) == (False, False, 0)  # by now the hand is full in both
    assert play(act.pick(BALL)) == (True, False, 0)  # what an invalid pick reads has not changed
    assert play(act.place(SINK)) == (False, True, 10)


# -- goals -------------------------------------------------------------------------------------------------------------

NOT_ON_SOFA = {
    "expr_type": "NAND",
    "quantifier": "EXISTS",
    "inputs": [{"name": "X", "expr_type": "ball"}],
    "sub_exprs": ["on_top(X, sofa)"],
}


def value(source: dict, balls: list[int], true: list[int], rules: str) -> bool:
    category = np.full(MAX_OBJECTS, -1)
    category[balls] = BALL
    table = torch.zeros(1, atoms.NUM_ATOMS, dtype=torch.bool)
    table[0, [atoms.TRUE, *true]] = True
    return bool(evaluate(Circuits.pack([ground(parse(source), [], category, rules)]), table)[0])


@pytest.mark.parametrize(
    ("op", "quantifier", "clean", "published"),
    [  # whether it holds with 0, 1 and 2 of 2 balls on the sofa
        ("NAND", "EXISTS", "T F F", "T T F"),
        ("NAND", "FORALL", "T T F", "T F F"),
        ("NOR", "EXISTS", "T F F", "T T F"),
        ("NOR", "FORALL", "T T F", "T F F"),
        ("AND", "EXISTS", "F T T", "F T T"),
        ("OR", "FORALL", "F F T", "F F T"),
    ],
)
def test_negation_with_a_quantifier(op, quantifier, clean, published):
    source = NOT_ON_SOFA | {"expr_type": op, "quantifier": quantifier}
    placed = [[], [atoms.on_top(1, SOFA)], [atoms.on_top(0, SOFA), atoms.on_top(1, SOFA)]]
    for rules, expected in (("clean", clean), ("published", published)):
        assert " ".join("T" if value(source, [0, 1], true, rules) else "F" for true in placed) == expected


def test_negation_over_an_empty_domain():
    for quantifier, clean, published in (("EXISTS", True, False), ("FORALL", False, True)):
        source = NOT_ON_SOFA | {"quantifier": quantifier}
        assert value(source, [], [], "clean") == clean
        assert value(source, [], [], "published") == published


# -- the table of differences ------------------------------------------------------------------------------------------


def test_every_difference_in_the_docs_has_its_test():
    page = (Path(__file__).parent.parent / "docs" / "rules.md").read_text()
    _, _, *rows = [line for line in page.splitlines() if line.startswith("| ")]
    named = [{name for name in row.split("`") if name.startswith("test_")} for row in rows]
    assert len(rows) >= 12 and all(named) and set().union(*named) <= set(globals())
