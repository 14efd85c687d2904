"""Random goals in random worlds, under both rule sets: the batched circuits against a plain recursive evaluator.

The evaluator here reads positions, joints and the hand with scalar arithmetic, one binding after the other; it shares
with the package only names, limits and the parser.
"""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from factories import fake_state
from hypothesis import given, settings
from hypothesis import strategies as st

from llarp.tasks import atoms
from llarp.tasks.entities import CATEGORY_INDEX, HANDLES, RECEPTACLES
from llarp.tasks.goals import Circuits, Expression, Predicate, evaluate, ground, parse, slot_name
from llarp.tasks.rules import RULES
from llarp.tasks.state import WorldState, two_corner_half

OBJECTS = {"ball": (0, 4), "can": (1, 2, 9), "cup": ()}
NAMED = (slot_name(0), slot_name(9))
PLACES = ("sofa", "sink", "fridge", "left drawer")
VARIABLES = ("X", "Y", "Z", "W")

Entity = tuple[str, int]


# -- the plain evaluator -----------------------------------------------------------------------------------------------


class PlainWorld:
    """One world as plain numbers."""

    def __init__(self, state: WorldState, row: int, published: bool):
        self.published = published
        one = {k: v[row].double().tolist() for k, v in vars(state).items() if isinstance(v, torch.Tensor)}
        self.robot, self.joint, self.held = one["robot"], one["joint"], int(one["held"])
        self.objects, self.handles = one["object_position"], one["handle_position"]
        self.center, self.half, self.yaw = one["receptacle_center"], one["receptacle_half"], one["receptacle_yaw"]
        self.slide, self.box = one["receptacle_slide"], one["container_center"]
        self.box_half, self.box_slide = one["container_half"], one["container_slide"]

    def receptacle(self, r: int) -> list[float]:
        moved = self.joint[RECEPTACLES[r].joint] if RECEPTACLES[r].joint >= 0 and not self.published else 0.0
        return [c + moved * s for c, s in zip(self.center[r], self.slide[r], strict=True)]

    def position(self, entity: Entity) -> list[float]:
        kind, i = entity
        return self.objects[i] if kind == "object" else self.handles[i] if kind == "handle" else self.receptacle(i)

    def near(self, entity: Entity, reach: float, angle: float) -> bool:
        x, y, yaw = self.robot
        dx, dy = self.position(entity)[0] - x, self.position(entity)[1] - y
        return math.hypot(dx, dy) <= reach and abs(math.remainder(math.atan2(dy, dx) - yaw, math.tau)) <= angle

    def on(self, slot: int, r: int) -> bool:
        away = [p - c for p, c in zip(self.objects[slot], self.receptacle(r), strict=True)]
        turn, (hx, hy, hz) = self.yaw[r], self.half[r]
        if self.published:  # the box that the corners (-hx, hy) and (hx, -hy) span when turned
            hx, hy = (
                abs(math.cos(turn) * hx + math.sin(turn) * hy),
                abs(math.sin(turn) * hx - math.cos(turn) * hy),
            )
            turn = 0.0
        elif slot == self.held:
            return False
        along = math.cos(turn) * away[0] + math.sin(turn) * away[1]
        across = math.cos(turn) * away[1] - math.sin(turn) * away[0]
        return abs(along) <= hx and abs(across) <= hy and abs(away[2]) <= hz

    def within(self, slot: int, handle: int) -> bool:
        if not self.published:
            return any(self.on(slot, r) for r, known in enumerate(RECEPTACLES) if known.joint == handle)
        shift = [self.joint[handle] * s for s in self.box_slide[handle]]
        moved = [p - c - s for p, c, s in zip(self.objects[slot], self.box[handle], shift, strict=True)]
        return all(abs(m) <= h for m, h in zip(moved, self.box_half[handle], strict=True))

    def fact(self, name: str, entities: list[Entity]) -> bool:
        if name == "not_holding":
            return self.held < 0
        _, first = entities[0]
        if name == "holding":
            return self.held == first
        if name in ("on_top", "in", "at"):
            kind, where = entities[1]
            return self.within(first, where) if kind == "handle" else self.on(first, where)
        if name == "robot_at":
            return self.near(entities[0], 2.0, 1.57)
        if name == "robot_at_obj":
            return self.near(entities[0], 1.5, 1.0)
        limit = 1.07 if name.endswith("fridge") else 0.35
        return self.joint[first] > limit if name.startswith("opened") else abs(self.joint[first]) < 0.15

    def holds(self, term: Predicate | Expression, bound: dict[str, Entity]) -> bool:
        if isinstance(term, Predicate):
            return self.fact(term.name, [bound.get(a) or entity(a) for a in term.arguments])
        domains = [things(v.type) for v in term.variables]
        names = [v.name for v in term.variables]
        cases = [
            [self.holds(t, bound | dict(zip(names, values, strict=True))) for t in term.terms]
            for values in product(*domains)
            if len(set(values)) == len(values)
        ]
        combine = any if term.op.endswith("OR") else all
        over = all if term.quantifier == "FORALL" else any
        negated = term.op.startswith("N")
        if self.published:
            return over([combine(case) != negated for case in cases])
        return over([combine(case) for case in cases]) != negated


def things(kind: str) -> list[Entity]:
    if kind == "receptacle":
        return [("receptacle", i) for i in range(len(RECEPTACLES))]
    return [("object", slot) for slot in OBJECTS[kind]]


def entity(name: str) -> Entity:
    if name in HANDLES:
        return "handle", HANDLES.index(name)
    if name in NAMED:
        return "object", int(name.removeprefix("object_"))
    return "receptacle", [r.name for r in RECEPTACLES].index(name)


# -- random goals and worlds -------------------------------------------------------------------------------------------


@st.composite
def expressions(draw: st.DrawFn, depth: int = 0, bound: tuple[str, ...] = ()) -> dict[str, Any]:
    """An expression in the files' format; `bound`: object variables in scope (an inner may hide an outer one)."""
    out: dict[str, Any] = {"expr_type": draw(st.sampled_from(["AND", "OR", "NAND", "NOR"]))}
    places: tuple[str, ...] = PLACES
    if draw(st.booleans()):
        fresh = draw(st.lists(st.sampled_from(VARIABLES), min_size=1, max_size=2, unique=True))
        types = [draw(st.sampled_from(list(OBJECTS))) for _ in fresh]
        out["quantifier"] = draw(st.sampled_from(["EXISTS", "FORALL"]))
        out["inputs"] = [{"name": n, "expr_type": t} for n, t in zip(fresh, types, strict=True)]
        bound = (*bound, *fresh)
        if draw(st.integers(0, 3)) == 0:
            places = (*places, "R")
            out["inputs"].append({"name": "R", "expr_type": "receptacle"})
    thing = st.sampled_from([*bound, *NAMED])
    place, handle = st.sampled_from(places), st.sampled_from(HANDLES)
    leaf = st.one_of(
        st.just("not_holding()"),
        st.builds("robot_at({})".format, st.one_of(thing, place, handle)),
        st.builds("{}({})".format, st.sampled_from(["holding", "robot_at_obj"]), thing),
        st.builds("on_top({}, {})".format, thing, place),
        st.builds("{}({}, {})".format, st.sampled_from(["in", "at"]), thing, st.one_of(place, handle)),
        st.builds("{}_cab({})".format, st.sampled_from(["opened", "closed"]), st.sampled_from(HANDLES[:4])),
        st.builds("{}_fridge({})".format, st.sampled_from(["opened", "closed"]), st.just(HANDLES[4])),
    )
    term = leaf if depth >= 2 else st.one_of(leaf, expressions(depth=depth + 1, bound=bound))
    out["sub_exprs"] = draw(st.lists(term, min_size=1, max_size=3))
    return out


def random_worlds(count: int, seed: int) -> WorldState:
    """Worlds of 10 objects in and about the boxes, hands full in half of them, the rest at random."""
    state = fake_state(count, num_objects=10, seed=seed)
    rng = np.random.default_rng(seed)

    def uniform(low: float, high: float, *shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (count, *shape))).float()

    for name, slots in OBJECTS.items():
        state.object_category[:, list(slots)] = CATEGORY_INDEX[name]
    others = [s for s in range(10) if not any(s in slots for slots in OBJECTS.values())]
    state.object_category[:, others] = CATEGORY_INDEX["plum"]
    state.receptacle_yaw += uniform(-0.8, 0.8, len(RECEPTACLES))
    state.receptacle_span = two_corner_half(state.receptacle_half, state.receptacle_yaw)
    state.container_center += uniform(-0.1, 0.1, len(HANDLES), 3)
    state.container_half[:, 1] = 0.4  # a drawer that is no receptacle
    state.joint = torch.where(uniform(0, 1, 5) < 0.5, 0.0, uniform(-0.2, 1.3, 5))
    chosen = torch.from_numpy(rng.choice([PLACES.index(p) for p in PLACES], (count, 10)))
    places = torch.tensor([[r.name for r in RECEPTACLES].index(p) for p in PLACES])[chosen]
    rows = torch.arange(count)[:, None]
    half = state.receptacle_half[rows, places]
    reach = torch.cat([half.amax(-1, keepdim=True).expand(-1, -1, 2), half[..., 2:]], dim=-1)
    state.object_position[:, :10] = state.receptacle_center_now()[rows, places] + reach * uniform(-0.9, 0.9, 10, 3)
    target = torch.from_numpy(rng.integers(0, 16, count))
    state.robot = state.nav_pose[rows[:, 0], target] + uniform(-0.3, 0.3, 3)
    state.held = torch.where(uniform(0, 1) < 0.5, -1, torch.from_numpy(rng.integers(0, 10, count)))
    return state


def test_random_worlds_make_every_kind_of_fact_true_and_false():
    state = random_worlds(200, 0)
    for rules in ("clean", "published"):
        table = atoms.truth(state, rules)
        for slot in (0, 9):
            kinds = [atoms.holding(slot), atoms.robot_at_object(slot), atoms.robot_at_obj(slot), atoms.not_holding()]
            kinds += [atoms.on_top(slot, r) for r in (4, 7, 8, 9)] + [atoms.inside(slot, h) for h in (0, 4)]
            share = table[:, kinds].float().mean(0)
            assert ((share > 0.01) & (share < 0.99)).all()


@pytest.mark.parametrize("rules", RULES)
def test_facts_agree_with_scalar_arithmetic(rules):
    state = random_worlds(60, 1)
    table = atoms.truth(state, rules)
    assert table.shape == (60, atoms.NUM_ATOMS) and table.dtype == torch.bool
    targets: list[Entity] = [("handle", h) for h in range(len(HANDLES))]
    targets += [("receptacle", r) for r in range(len(RECEPTACLES))]
    for row in range(60):
        world = PlainWorld(state, row, rules == "published")
        true = {atoms.TRUE, *([atoms.not_holding()] if world.held < 0 else [atoms.holding(world.held)])}
        true |= {atoms.robot_at(i) for i, t in enumerate(targets) if world.fact("robot_at", [t])}
        for h in range(len(HANDLES)):
            words = "fridge" if h == 4 else "cab"
            true |= {atoms.opened(h)} if world.fact(f"opened_{words}", [("handle", h)]) else set()
            true |= {atoms.closed(h)} if world.fact(f"closed_{words}", [("handle", h)]) else set()
        for slot in range(10):
            true |= {atoms.robot_at_object(slot)} if world.fact("robot_at", [("object", slot)]) else set()
            true |= {atoms.robot_at_obj(slot)} if world.fact("robot_at_obj", [("object", slot)]) else set()
            true |= {atoms.on_top(slot, r) for r in range(len(RECEPTACLES)) if world.on(slot, r)}
            true |= {atoms.inside(slot, h) for h in range(len(HANDLES)) if world.within(slot, h)}
        assert set(table[row].nonzero()[:, 0].tolist()) == true


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.lists(expressions(), min_size=1, max_size=4), st.integers(0, 2**31 - 1), st.booleans())
def test_circuits_mean_what_the_words_say(sources, seed, published):
    rules = "published" if published else "clean"
    parsed = [parse(s) for s in sources]
    assert [parse(p.to_dict()) for p in parsed] == parsed
    state = random_worlds(len(parsed), seed)
    category = state.object_category[0].numpy()
    circuits = Circuits.pack([ground(p, [["not_holding()"]], category, rules) for p in parsed])
    goal, subgoal, _ = evaluate(circuits, atoms.truth(state, rules))
    for row, expression in enumerate(parsed):
        world = PlainWorld(state, row, published)
        assert bool(goal[row]) == world.holds(expression, {})
        assert bool(subgoal[row, 0]) == (world.held < 0)
