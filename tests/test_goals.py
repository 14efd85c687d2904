"""Goals: parsing, grounding and batched evaluation (against a plain recursive evaluator: test_goal_meaning.py)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from llarp.tasks import atoms
from llarp.tasks.entities import CATEGORY_INDEX, NUM_RECEPTACLES
from llarp.tasks.goals import MAX_SUBGOALS, Circuits, domain, evaluate, ground, parse, slot_name
from llarp.tasks.rules import TaskError
from llarp.tasks.state import MAX_OBJECTS

BALL, CAN = CATEGORY_INDEX["ball"], CATEGORY_INDEX["can"]
SOFA = "receptacle_aabb_Sofa_frl_apartment_sofa"
PLACE_BALL: dict[str, Any] = {
    "expr_type": "AND",
    "quantifier": "EXISTS",
    "inputs": [{"name": "X", "expr_type": "ball"}],
    "sub_exprs": [f"on_top(X, {SOFA})", "not_holding()"],
}
CLEAR_CANS = {
    "expr_type": "AND",
    "sub_exprs": [
        "not_holding()",
        {
            "expr_type": "NAND",
            "quantifier": "EXISTS",
            "inputs": [{"name": "X", "expr_type": "can"}],
            "sub_exprs": ["on_top(X, left counter)"],
        },
    ],
}


def slots(**category_slots: list[int]) -> np.ndarray:
    out = np.full(MAX_OBJECTS, -1)
    for name, indices in category_slots.items():
        out[indices] = CATEGORY_INDEX[name.replace("_", " ")]
    return out


def value(source: dict, category: np.ndarray, *true: int) -> bool:
    """The goal's value where exactly the given atoms (and TRUE) hold."""
    table = torch.zeros(1, atoms.NUM_ATOMS, dtype=torch.bool)
    table[0, [atoms.TRUE, *true]] = True
    goal, _, _ = evaluate(Circuits.pack([ground(parse(source), [], category)]), table)
    return bool(goal[0])


def quantified(quantifier: str, op: str, *terms: str, **types: str) -> dict:
    inputs = [{"name": n, "expr_type": t} for n, t in types.items()]
    return {"expr_type": op, "quantifier": quantifier, "inputs": inputs, "sub_exprs": list(terms)}


def test_place_goal():
    category = slots(ball=[3, 5], can=[4])
    assert not value(PLACE_BALL, category, atoms.not_holding())
    assert not value(PLACE_BALL, category, atoms.on_top(5, 7))
    assert not value(PLACE_BALL, category, atoms.not_holding(), atoms.on_top(4, 7))
    assert value(PLACE_BALL, category, atoms.not_holding(), atoms.on_top(5, 7))


def test_nand_exists_means_none():
    category = slots(can=[0, 1])
    assert value(CLEAR_CANS, category, atoms.not_holding())
    assert not value(CLEAR_CANS, category)
    assert not value(CLEAR_CANS, category, atoms.not_holding(), atoms.on_top(1, 6))
    assert value(CLEAR_CANS, category, atoms.not_holding(), atoms.on_top(1, 5))


def test_variables_of_a_quantifier_bind_distinct_objects():
    both = quantified("EXISTS", "AND", "on_top(X, sofa)", "on_top(Y, sofa)", X="ball", Y="ball")
    category = slots(ball=[0, 1])
    assert not value(both, category, atoms.on_top(0, 7))
    assert value(both, category, atoms.on_top(0, 7), atoms.on_top(1, 7))


def test_forall_and_empty_domains():
    every = quantified("FORALL", "AND", "on_top(X, sofa)", X="ball")
    assert not value(every, slots(ball=[0, 1]), atoms.on_top(0, 7))
    assert value(every, slots(ball=[0, 1]), atoms.on_top(0, 7), atoms.on_top(1, 7))
    assert value(every, slots())
    assert not value(quantified("EXISTS", "AND", "on_top(X, sofa)", X="ball"), slots())
    assert value(quantified("EXISTS", "NAND", "on_top(X, sofa)", X="ball"), slots())
    assert not value(quantified("FORALL", "NAND", "on_top(X, sofa)", X="ball"), slots())


def test_quantifier_over_receptacles_and_handles_by_name():
    anywhere = quantified("EXISTS", "AND", "on_top(X, R)", X="toy_airplane", R="receptacle")
    assert value(anywhere, slots(toy_airplane=[2]), atoms.on_top(2, 10))
    assert not value(anywhere, slots(toy_airplane=[2]), atoms.on_top(3, 10))
    shut = {"expr_type": "AND", "sub_exprs": ["closed_fridge(fridge_push_point)"]}
    assert value(shut, slots(), atoms.closed(4)) and not value(shut, slots(), atoms.opened(4))


def test_subgoals_are_conjunctions_and_counted():
    category = slots(ball=[0])
    names = ["053_ball_:0000"] + [f"other_{i}" for i in range(MAX_OBJECTS - 1)]
    subgoals = [["holding(053_ball_:0000)", "robot_at(sofa)"], [f"on_top({names[0]},{SOFA})"]]
    circuit = ground(parse(PLACE_BALL), subgoals, category, object_names=names)
    table = torch.zeros(3, atoms.NUM_ATOMS, dtype=torch.bool)
    table[1, [atoms.holding(0), atoms.robot_at(12)]] = True
    table[2, [atoms.holding(0), atoms.on_top(0, 7)]] = True
    goal, subgoal, number = evaluate(Circuits.pack([circuit]).rows(torch.zeros(3).long()), table)
    assert subgoal.shape == (3, MAX_SUBGOALS) and number.tolist() == [2, 2, 2]
    assert subgoal[:, :2].tolist() == [[False, False], [True, False], [False, True]]
    assert not subgoal[:, 2:].any() and not goal.any()


@pytest.mark.parametrize(
    "broken",
    [
        {"expr_type": "XOR", "sub_exprs": ["not_holding()"]},
        {"expr_type": "AND", "sub_exprs": []},
        {"expr_type": "AND", "sub_exprs": "not_holding()"},
        {"expr_type": "AND", "sub_exprs": ["not_holding()"], "note": 1},
        {"expr_type": "AND", "sub_exprs": [7]},
        {"expr_type": "AND", "sub_exprs": ["on_top(X)"]},
        {"expr_type": "AND", "sub_exprs": ["not_holding()"], "inputs": [{"name": "X", "expr_type": "ball"}]},
        {"expr_type": "AND", "sub_exprs": ["not_holding()"], "quantifier": "EXISTS"},
        {"expr_type": "AND", "sub_exprs": ["not_holding()"], "quantifier": "MOST", "inputs": []},
        quantified("EXISTS", "AND", "holding(X)", X="unicorn"),
        {**PLACE_BALL, "inputs": PLACE_BALL["inputs"] * 2},
        ["not_holding()"],
    ],
)
def test_broken_expressions_are_refused(broken):
    with pytest.raises(TaskError):
        parse(broken)


def test_grounding_refuses_what_it_cannot_place():
    category = slots(ball=list(range(50)))
    goal = parse(PLACE_BALL)
    for bad in ("on_top(X, sofa)", f"holding({slot_name(55)})", "on_top(object_0, cellar)"):
        with pytest.raises(TaskError):
            ground(goal, [[bad]], category)
    with pytest.raises(TaskError, match="13 subgoals"):
        ground(goal, [["not_holding()"]] * 13, category)
    with pytest.raises(TaskError, match="grows beyond"):
        ground(parse(quantified("EXISTS", "AND", "holding(X)", X="ball", Y="ball", Z="ball")), [], category)
    with pytest.raises(TaskError, match="use clean or published"):
        ground(goal, [], category, rules="original")
    deep: dict = {"expr_type": "NAND", "sub_exprs": ["not_holding()"]}
    for _ in range(120):
        deep = {"expr_type": "NAND", "sub_exprs": [deep]}
    with pytest.raises(TaskError, match="deep"):
        ground(parse(deep), [], category)


def test_damaged_circuits_are_refused():
    tensors = Circuits.pack([ground(parse(PLACE_BALL), [["not_holding()"]], slots(ball=[0]))]).tensors()
    for name, value in (("source", 20_000), ("node_end", 999), ("node_op", 4), ("num_subgoals", 13), ("depth", -1)):
        damaged = {k: v.clone() for k, v in tensors.items()}
        damaged[name].view(-1)[0] = value
        with pytest.raises(TaskError, match=name):
            Circuits.from_tensors(damaged)


def test_rows_assign_and_stored_tensors_keep_meaning():
    category = slots(ball=[0, 1, 2], can=[3])
    small = Circuits.pack([ground(parse(CLEAR_CANS), [["not_holding()"]], category)])
    places = ("on_top(X, sofa)", "on_top(Y, sink)", "on_top(Z, sofa)")
    three = parse(quantified("EXISTS", "AND", *places, X="ball", Y="ball", Z="ball"))
    large = Circuits.pack([ground(three, [["not_holding()"]] * 12, category)])
    assert large.node_op.shape[1] > small.node_op.shape[1]
    running = Circuits.none(3)
    running.assign(torch.tensor([2]), small)
    running.assign(torch.tensor([0]), large)
    running.assign(torch.tensor([1]), small)
    stored = Circuits.from_tensors({k: v.clone() for k, v in running.tensors().items()})
    assert stored.max_depth == 2 and len(stored) == 3
    table = torch.rand(3, atoms.NUM_ATOMS, generator=torch.Generator().manual_seed(0)) < 0.8
    table[0, [atoms.on_top(0, 7), atoms.on_top(1, 4), atoms.on_top(2, 7)]] = True
    for circuits in (running, stored):
        goal, subgoal, number = evaluate(circuits, table)
        assert number.tolist() == [12, 1, 1]
        assert goal[0] and subgoal[0].tolist() == [bool(table[0, atoms.not_holding()])] * 12
        for row in (1, 2):
            expected = evaluate(small, table[row : row + 1])
            assert goal[row] == expected[0][0] and torch.equal(subgoal[row], expected[1][0])


def test_receptacle_domain_is_complete():
    (variable,) = parse(quantified("EXISTS", "AND", "robot_at(R)", R="receptacle")).variables
    assert domain(variable, slots()) == [("receptacle", i) for i in range(NUM_RECEPTACLES)]
