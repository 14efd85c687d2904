"""What would make a goal true: sets of facts about this room, the cheapest first, read from the goal's circuit.

The circuit already says what a rule set makes of quantifiers and negations, so planners need no reading of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from .atoms import (
    FALSE,
    NOT_HOLDING,
    NUM_ATOMS,
    NUM_STANDARD_ATOMS,
    TRUE,
    closed,
    holding,
    inside,
    on_top,
    opened,
    robot_at,
    robot_at_obj,
    robot_at_object,
)
from .entities import NUM_HANDLES, NUM_NAV_TARGETS, NUM_RECEPTACLES
from .goals import AND, NAND, NOR, Circuit
from .state import MAX_OBJECTS

MOST = 24
"""Sets of facts kept at every node of a circuit: the cheapest ones."""


class Fact(NamedTuple):
    """What an atom says: `first` and `second` are slots, receptacles, nav targets or handles, as `kind` has them."""

    kind: str
    first: int = -1
    second: int = -1


def _meanings() -> dict[int, Fact]:
    known = {FALSE: Fact("false"), TRUE: Fact("true"), NOT_HOLDING: Fact("not_holding")}
    for slot in range(MAX_OBJECTS):
        known[holding(slot)] = Fact("holding", slot)
        known[robot_at_object(slot)] = Fact("robot_at_object", slot)
        known[robot_at_obj(slot)] = Fact("robot_at_obj", slot)
        known |= {on_top(slot, r): Fact("on_top", slot, r) for r in range(NUM_RECEPTACLES)}
        known |= {inside(slot, h): Fact("inside", slot, h) for h in range(NUM_HANDLES)}
    known |= {robot_at(t): Fact("robot_at", t) for t in range(NUM_NAV_TARGETS)}
    for handle in range(NUM_HANDLES):
        known[opened(handle)], known[closed(handle)] = Fact("opened", handle), Fact("closed", handle)
    known |= {atom: Fact("own", atom) for atom in range(NUM_STANDARD_ATOMS, NUM_ATOMS)}
    return known


MEANING = _meanings()
"""The fact each atom stands for."""
OF_OBJECTS = ("holding", "on_top", "inside", "robot_at_object", "robot_at_obj")
"""Kinds of facts whose `first` is an object's slot."""

_FIRST_HELD = holding(0)

Facts = Mapping[int, bool]
"""Atoms and the truth they are to have, all together."""


@dataclass(frozen=True)
class Alternative:
    """One way to make a goal true."""

    cost: float
    facts: Facts


def slots_of(circuit: Circuit) -> set[int]:
    """Object slots that the goal itself (not its subgoals) speaks of."""
    seen, todo, slots = {0}, [0], set()
    while todo:
        for source in circuit.sources[todo.pop()]:
            node = source - NUM_ATOMS
            if node >= 0 and node not in seen:
                seen.add(node)
                todo.append(node)
            elif node < 0 and MEANING[source].kind in OF_OBJECTS:
                slots.add(MEANING[source].first)
    return slots


def alternatives(circuit: Circuit, cost: Callable[[int, bool], float]) -> list[Alternative]:
    """Ways to make the goal true, the cheapest first and at most `MOST` of them.

    `cost(atom, truth)` says how far one fact is away; infinity for what cannot be."""
    memory: dict[tuple[int, bool], list[Alternative]] = {}

    def ways(source: int, wanted: bool) -> list[Alternative]:
        if source < NUM_ATOMS:
            price = cost(source, wanted)
            return [] if price == float("inf") else [Alternative(price, {source: wanted})]
        key = (source, wanted)
        if key not in memory:
            node = source - NUM_ATOMS
            op, sources = circuit.ops[node], circuit.sources[node]
            truth = wanted != (op in (NAND, NOR))  # of the AND or OR inside
            parts = [ways(s, truth) for s in sources]
            together = (op in (AND, NAND)) == truth
            memory[key] = _all(parts, cost) if together else _cheapest([way for part in parts for way in part])
        return memory[key]

    return ways(NUM_ATOMS, True)


def _cheapest(ways: list[Alternative]) -> list[Alternative]:
    return sorted(ways, key=lambda way: way.cost)[:MOST]


def _all(parts: list[list[Alternative]], cost: Callable[[int, bool], float]) -> list[Alternative]:
    """Ways to have one of each part at once; those that contradict themselves are left out."""
    found = [Alternative(0.0, {})] if all(parts) else []
    for part in sorted(parts, key=len):  # what has to be in any case comes first
        joined = (_joined(a, b, cost) for a, b in product(found, part))
        found = _cheapest([way for way in joined if way is not None])
    return found


def _joined(a: Alternative, b: Alternative, cost: Callable[[int, bool], float]) -> Alternative | None:
    """Both together, None if that is a contradiction."""
    new = {atom: truth for atom, truth in b.facts.items() if atom not in a.facts}
    if any(a.facts.get(atom, truth) != truth for atom, truth in b.facts.items()):
        return None
    if not new:
        return a
    facts = {**a.facts, **new}
    hands = sum(truth for atom, truth in facts.items() if _FIRST_HELD <= atom < _FIRST_HELD + MAX_OBJECTS)
    if hands + bool(facts.get(NOT_HOLDING)) > 1:  # one hand, and it is empty or holds one thing
        return None
    return Alternative(a.cost + sum(cost(atom, truth) for atom, truth in new.items()), facts)
