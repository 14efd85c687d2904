"""The atom table, predicates as text, and the keyed random numbers."""

from __future__ import annotations

import math

import pytest
import torch
from factories import fake_state

from llarp.tasks import atoms
from llarp.tasks.entities import FRIDGE_HANDLE, LEFT_DRAWER, NUM_HANDLES, NUM_RECEPTACLES
from llarp.tasks.keyed_random import uniform
from llarp.tasks.rules import TaskError
from llarp.tasks.state import MAX_OBJECTS

SOFA = 7


def test_every_atom_has_its_own_index():
    indices = [atoms.FALSE, atoms.TRUE, atoms.not_holding()]
    indices += [f(i) for f in (atoms.holding, atoms.robot_at_object, atoms.robot_at_obj) for i in range(MAX_OBJECTS)]
    indices += [atoms.on_top(s, r) for s in range(MAX_OBJECTS) for r in range(NUM_RECEPTACLES)]
    indices += [atoms.inside(s, h) for s in range(MAX_OBJECTS) for h in range(NUM_HANDLES)]
    indices += [atoms.robot_at(i) for i in range(NUM_HANDLES + NUM_RECEPTACLES)]
    indices += [f(h) for f in (atoms.opened, atoms.closed) for h in range(NUM_HANDLES)]
    assert sorted(indices) == list(range(atoms.NUM_ATOMS))


def test_drawer_box_moves_with_its_drawer():
    state = fake_state(1)
    state.object_position[0, 0] = state.receptacle_center[0, LEFT_DRAWER]
    assert atoms.truth(state)[0, atoms.on_top(0, LEFT_DRAWER)]
    state.joint[0, 0] = 0.45
    assert not atoms.truth(state)[0, atoms.on_top(0, LEFT_DRAWER)]
    state.object_position[0, 0] += 0.45 * state.receptacle_slide[0, LEFT_DRAWER]
    assert atoms.truth(state)[0, atoms.on_top(0, LEFT_DRAWER)]


def test_unknown_rule_sets_are_refused():
    with pytest.raises(TaskError, match="use clean or published"):
        atoms.truth(fake_state(1), rules="original")


@pytest.mark.parametrize(
    ("text", "entities", "index"),
    [
        ("on_top(X, sofa)", [("object", 4), ("receptacle", SOFA)], atoms.on_top(4, SOFA)),
        ("in(X,fridge)", [("object", 4), ("receptacle", 8)], atoms.on_top(4, 8)),
        ("in(X,cab_push_point_5)", [("object", 4), ("handle", 2)], atoms.inside(4, 2)),
        ("at(X, sofa)", [("object", 4), ("receptacle", SOFA)], atoms.on_top(4, SOFA)),
        ("at(X, fridge_push_point)", [("object", 4), ("handle", 4)], atoms.inside(4, 4)),
        ("not_holding()", [], atoms.not_holding()),
        ("robot_at(sofa)", [("receptacle", SOFA)], atoms.robot_at(5 + SOFA)),
        ("robot_at(cab_push_point_6)", [("handle", 1)], atoms.robot_at(1)),
        ("robot_at(056_tennis_ball_:0000)", [("object", 9)], atoms.robot_at_object(9)),
        ("robot_at_obj(X)", [("object", 9)], atoms.robot_at_obj(9)),
        ("opened_fridge(fridge_push_point)", [("handle", 4)], atoms.opened(4)),
        ("closed_cab(cab_push_point_7)", [("handle", 0)], atoms.closed(0)),
    ],
)
def test_predicates_name_their_atoms(text, entities, index):
    name, arguments = atoms.split_predicate(text)
    assert len(arguments) == len(entities)
    assert atoms.atom_index(name, tuple(entities)) == index
    for argument, entity in zip(arguments, entities, strict=True):
        assert atoms.fixed_entity(argument) == (None if entity[0] == "object" else entity)


def test_both_spellings_of_a_receptacle_are_known():
    assert atoms.fixed_entity("receptacle_aabb_Sofa_frl_apartment_sofa") == atoms.fixed_entity("sofa")


@pytest.mark.parametrize(
    "text", ["on_top", "on_top(X)", "fly_to(sofa)", "not_holding(X)", "on_top(X, sofa", "holding((X))"]
)
def test_bad_predicates_are_refused(text):
    with pytest.raises(TaskError):
        atoms.split_predicate(text)


def test_predicates_refuse_wrong_kinds():
    for name, entities in [
        ("on_top", (("receptacle", 1), ("receptacle", 1))),
        ("holding", (("handle", 1),)),
        ("opened_fridge", (("handle", 1),)),
        ("closed_cab", (("handle", FRIDGE_HANDLE),)),
        ("on_top", (("object", 1), ("handle", 1))),
        ("at", (("object", 1), ("object", 2))),
    ]:
        with pytest.raises(TaskError):
            atoms.atom_index(name, entities)


def test_uniform_depends_on_the_key_alone():
    episode, step = torch.arange(100), torch.arange(100) % 7
    whole = uniform(5, episode, step, 3, (4,))
    assert whole.shape == (100, 4) and whole.dtype == torch.float32
    some = torch.tensor([70, 3, 41])
    assert torch.equal(uniform(5, episode[some], step[some], 3, (4,)), whole[some])
    assert torch.equal(uniform(5, episode, step, 3, (2, 3))[:, 0], uniform(5, episode, step, 3, (3,)))
    assert uniform(5, episode, step, 3).shape == (100,)
    for seed, later, stream in ((6, 0, 3), (5, 0, 4), (5, 1, 3)):
        assert (uniform(seed, episode, step + later, stream, (4,)) != whole).float().mean() > 0.99
    assert torch.isfinite(uniform(-1, episode, step, 0)).all()
    assert torch.equal(uniform((1 << 64) - 1, episode, step, 0), uniform(-1, episode, step, 0))  # modulo 2^64


def test_uniform_is_pinned_to_these_numbers():
    got = uniform(1, torch.tensor([0, 1]), torch.tensor([0, 2]), 0, (2,)) * 2**24
    assert got.tolist() == [[9955117, 12022450], [15121437, 12106740]]  # computed in plain Python integers


def test_uniform_is_uniform_and_uncorrelated():
    count = 20_000
    episode, zero = torch.arange(count), torch.zeros(count, dtype=torch.int64)
    columns = [uniform(0, episode, zero, s) for s in range(4)] + [uniform(s, episode, zero, 0) for s in range(1, 5)]
    columns += [uniform(0, zero, episode, 0), uniform(0, episode + 1, zero, 0)]
    columns += list(uniform(0, episode, zero, 9, (6,)).T)
    x = torch.stack(columns).double()
    assert x.min() >= 0 and x.max() < 1
    assert (x.mean(1) - 0.5).abs().max() < 4.5 * math.sqrt(1 / 12 / count)
    assert (x.var(1) - 1 / 12).abs().max() < 4.5 * math.sqrt(1 / 180 / count)
    off_diagonal = torch.corrcoef(x) - torch.eye(len(x))
    assert off_diagonal.abs().max() < 4.5 / math.sqrt(count)
    serial = torch.corrcoef(torch.stack([x[0, :-1], x[0, 1:]]))[0, 1]
    assert abs(serial) < 4.5 / math.sqrt(count)
    for row in x:  # 64 equal bins: chi squared with 63 degrees of freedom, mean 63, deviation 11.2
        chi = ((torch.histc(row, 64, 0, 1) - count / 64) ** 2 / (count / 64)).sum()
        assert 63 - 5 * 11.2 < chi < 63 + 5 * 11.2
