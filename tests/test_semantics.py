"""The 70 skills: preconditions, effects, and independence of the batch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from factories import fake_catalog, fake_state

from llarp.tasks import actions as act
from llarp.tasks import atoms
from llarp.tasks.entities import FRIDGE, LEFT_DRAWER, NUM_HANDLES, RECEPTACLES
from llarp.tasks.keyed_random import uniform
from llarp.tasks.rules import RULES, TaskError, gripper_position
from llarp.tasks.semantics import NUM_DRAWS, PLACE_GAP_M, apply, refresh, valid_actions
from llarp.tasks.state import WorldState

CATALOG = fake_catalog()
SOFA, SINK, LEFT_COUNTER = 7, 4, 6
OPEN_LEFT, CLOSE_LEFT = act.set_handle(0, True), act.set_handle(0, False)


def step(
    state: WorldState,
    action: int | torch.Tensor,
    count: int = 0,
    episode: torch.Tensor | None = None,
    rules: str = "clean",
) -> torch.Tensor:
    """Invalid flags of a step of one action, or of one action a world."""
    n = state.num_worlds
    episode = torch.arange(n) if episode is None else episode
    draws = uniform(1, episode, torch.full((n,), count), 0, (NUM_DRAWS,))
    chosen = torch.full((n,), action) if isinstance(action, int) else action
    return apply(state, chosen, draws, CATALOG.half_size, rules)


def lone_object(receptacle: int, num_worlds: int = 1) -> WorldState:
    """Worlds with one object, in slot 0, at the middle of a receptacle; its category is at object_category[0, 0]."""
    state = fake_state(num_worlds, num_objects=1, seed=5)
    state.object_model[:, 0] = 4
    state.object_category[:, 0] = CATALOG.category[4]
    state.object_position[:, 0] = state.receptacle_center[:, receptacle]
    state.object_inside[:, 0] = receptacle if RECEPTACLES[receptacle].joint >= 0 else -1
    return state


def tensors(state: WorldState) -> dict[str, torch.Tensor]:
    return {k: v for k, v in vars(state).items() if isinstance(v, torch.Tensor)}


def test_nav_moves_to_the_target_with_what_is_held():
    state = lone_object(SOFA)
    step(state, act.nav_to_receptacle(SOFA))
    assert torch.equal(state.robot, state.nav_pose[:, NUM_HANDLES + SOFA])
    assert not step(state, act.pick(int(state.object_category[0, 0])))
    assert torch.equal(state.object_position[:, 0], gripper_position(state.robot, state.robot_height))
    assert not step(state, act.nav_to_handle(4))
    assert torch.equal(state.robot, state.nav_pose[:, 4])
    cos, sin = state.robot[0, 2].cos(), state.robot[0, 2].sin()
    ahead, right = torch.stack([cos, sin]), torch.stack([sin, -cos])
    expected = state.robot[0, :2] + 0.635 * ahead + 0.255 * right  # where the published arm carries things
    torch.testing.assert_close(state.object_position[0, 0, :2], expected)
    assert float(state.object_position[0, 0, 2]) == pytest.approx(0.922)


def test_pick_needs_an_empty_hand_reach_and_the_category():
    state = lone_object(SOFA)
    category = int(state.object_category[0, 0])
    state.robot[0] = state.nav_pose[0, NUM_HANDLES + SINK]
    assert step(state, act.pick(category))  # out of reach
    state.robot[0] = state.nav_pose[0, NUM_HANDLES + SOFA]
    assert step(state, act.pick(category + 1))
    assert state.held.item() == -1
    state.robot[0, 2] += math.pi  # it is behind the robot
    assert step(state, act.pick(category))
    state.robot[0, 2] -= math.pi
    assert not step(state, act.pick(category))
    assert state.held.item() == 0
    table = atoms.truth(state)[0]
    assert table[atoms.holding(0)] and not table[atoms.not_holding()] and not table[atoms.on_top(0, SOFA)]
    assert step(state, act.pick(category))  # the hand is full


def test_pick_takes_the_first_slot_in_reach():
    state = lone_object(SOFA)
    for slot in (3, 8, 20):
        state.object_model[:, slot] = 4
        state.object_category[:, slot] = state.object_category[:, 0]
        state.object_position[:, slot] = state.object_position[:, 0]
    state.object_position[:, 0] = state.receptacle_center[:, SINK]
    step(state, act.nav_to_receptacle(SOFA))
    step(state, act.pick(int(state.object_category[0, 0])))
    assert state.held.item() == 3


def test_place_puts_it_where_it_can_be_picked_again():
    state = fake_state(200, seed=2)
    for receptacle in (1, SOFA, SINK, LEFT_COUNTER):
        slot = (state.object_category >= 0).int().argmax(1)
        state.held = slot.clone()
        each = torch.arange(200)
        category = state.object_category[each, slot]
        step(state, act.nav_to_receptacle(receptacle))
        assert not step(state, act.place(receptacle), receptacle).any()
        assert (state.held == -1).all() and (state.object_inside[each, slot] == -1).all()
        placed = state.object_position[each, slot]
        half_height = CATALOG.half_size[state.object_model[each, slot], 2]
        torch.testing.assert_close(placed[:, 2], state.surface_z[:, receptacle] + half_height)
        assert atoms.truth(state)[each, atoms.on_top(0, receptacle) + 11 * slot].all()
        assert valid_actions(state)[each, act.PICK_BASE + category].all()
        others = state.object_category >= 0
        others[each, slot] = False
        apart = (state.object_position - placed[:, None]).norm(dim=-1)
        crowded = torch.where(others, apart, math.inf).amin(1) < PLACE_GAP_M
        assert crowded.float().mean() < 0.05
        assert placed[:, 0].std() > 0.05 and state.object_yaw[each, slot].std() > 1


def test_crowded_place_takes_the_clearest_point():
    state = lone_object(SINK)
    step(state, act.nav_to_receptacle(SINK))
    step(state, act.pick(int(state.object_category[0, 0])))
    state.object_category[:, 1:] = 3
    state.object_model[:, 1:] = 9
    grid = torch.cartesian_prod(torch.linspace(-1, 1, 7), torch.linspace(-1, 0.2, 7))[:49]  # one part stays empty
    half, yaw = state.receptacle_half[0, SINK], state.receptacle_yaw[0, SINK]
    local = grid * half[:2]
    cos, sin = yaw.cos(), yaw.sin()
    turned = torch.stack([local[:, 0] * cos - local[:, 1] * sin, local[:, 0] * sin + local[:, 1] * cos], dim=1)
    state.object_position[0, 1:50, :2] = state.receptacle_center[0, SINK, :2] + turned
    state.object_position[0, 1:50, 2] = state.surface_z[0, SINK] + 0.03
    state.object_position[0, 50:] = 0
    step(state, act.place(SINK))
    delta = state.object_position[0, 0, :2] - state.receptacle_center[0, SINK, :2]
    along = float(delta[1] * cos - delta[0] * sin)
    assert along > 0.3 * float(half[1])


def test_place_needs_an_object_and_the_place():
    state = lone_object(SOFA)
    step(state, act.nav_to_receptacle(SOFA))
    assert step(state, act.place(SOFA))
    step(state, act.pick(int(state.object_category[0, 0])))
    assert step(state, act.place(1))  # the black table is too far
    assert not step(state, act.place(SOFA))


@pytest.mark.parametrize(("receptacle", "handle"), [(LEFT_DRAWER, 0), (FRIDGE, 4)])
def test_closed_furniture_is_closed(receptacle, handle):
    state = lone_object(receptacle)
    pick = act.pick(int(state.object_category[0, 0]))
    step(state, act.nav_to_receptacle(receptacle))
    before = state.object_position[0, 0].clone()
    assert step(state, pick) and step(state, act.set_handle(handle, False))
    assert not step(state, act.set_handle(handle, True)) and step(state, act.set_handle(handle, True))
    shift = 0.45 * state.receptacle_slide[0, receptacle]
    torch.testing.assert_close(state.object_position[0, 0], before + shift)
    assert not step(state, pick)
    assert not step(state, act.place(receptacle))
    assert state.object_inside[0, 0] == receptacle
    assert atoms.truth(state)[0, atoms.on_top(0, receptacle)]
    placed = state.object_position[0, 0].clone()
    assert not step(state, act.set_handle(handle, False))
    torch.testing.assert_close(state.object_position[0, 0], placed - shift)
    assert atoms.truth(state)[0, [atoms.on_top(0, receptacle), atoms.closed(handle)]].all()
    state.held[0] = 0
    assert step(state, act.place(receptacle))


def test_a_drawer_moves_only_its_own_contents():
    state = lone_object(LEFT_DRAWER)
    step(state, act.nav_to_receptacle(LEFT_DRAWER))
    before = state.object_position.clone()
    assert not step(state, act.set_handle(1, True))  # the drawer beneath
    assert torch.equal(state.object_position, before) and state.joint[0].tolist() == pytest.approx([0, 0.45, 0, 0, 0])


@pytest.mark.parametrize("rules", RULES)
def test_invalid_actions_change_nothing_and_validity_is_exact(rules):
    state = fake_state(40, seed=8)
    generator = torch.Generator().manual_seed(0)
    counts = {True: 0, False: 0}
    for count in range(60):
        valid = valid_actions(state, rules)
        assert valid.shape == (40, act.NUM_ACTIONS) and valid[:, :16].all()
        action = torch.randint(act.NUM_ACTIONS, (40,), generator=generator)
        before = copy.deepcopy(tensors(state))
        invalid = step(state, action, count, rules=rules)
        assert torch.equal(invalid, ~valid[torch.arange(40), action])
        same = [(before[k] == v).reshape(40, -1).all(1) for k, v in tensors(state).items()]
        unchanged = torch.stack(same).all(0)
        assert unchanged[invalid].all()
        counts[True] += int((unchanged & ~invalid).sum())
        counts[False] += int((~invalid).sum())
    assert counts[True] < 0.1 * counts[False]  # valid actions do something, but for nav to where the robot is


def run(state: WorldState, episode: torch.Tensor, rules: str) -> WorldState:
    """30 steps of actions that depend on the episode alone."""
    for count in range(30):
        weight = valid_actions(state, rules).double()
        weight[:, act.PLACE_BASE : act.OPEN_FRIDGE] *= 20
        weight[:, act.PICK_BASE : act.PLACE_BASE] *= 5
        key = uniform(9, episode, torch.full_like(episode, count), 1, (1,)).double()
        action = (weight.cumsum(1) <= key * weight.sum(1, keepdim=True)).sum(1).clamp(max=act.NUM_ACTIONS - 1)
        step(state, action, count, episode, rules)
    return state


@pytest.mark.parametrize("rules", RULES)
def test_a_world_does_not_depend_on_its_batch(rules):
    start = fake_state(37, seed=4)
    whole = run(start.rows(torch.arange(37)), torch.arange(37), rules)
    assert (whole.object_position - start.object_position).abs().sum() > 10
    for chosen in (torch.tensor([5]), torch.tensor([36, 0, 11])):
        alone = run(start.rows(chosen), chosen, rules)
        for name, value in tensors(whole).items():
            assert torch.equal(value[chosen], tensors(alone)[name]), name
        assert torch.equal(atoms.truth(whole, rules)[chosen], atoms.truth(alone, rules))


def test_refresh_carries_held_objects():
    state = fake_state(3)
    state.held[1] = 2
    state.robot[1] = torch.tensor([3.0, 3.0, math.pi / 2])
    before = state.object_position.clone()
    refresh(state)
    torch.testing.assert_close(state.object_position[1, 2], torch.tensor([3.255, 3.635, 0.922]))
    assert (state.object_position != before).any(-1).sum() == 1


def test_unknown_rule_sets_are_refused():
    with pytest.raises(TaskError, match="use clean or published"):
        valid_actions(fake_state(1), rules="original")
