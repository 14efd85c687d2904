"""Why an episode failed, told from what was done in it, and the form of its goal.

A failed episode has exactly one reason: the first in the table that applies. Objects and places that the goal speaks of
are those it "asks for".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from llarp.tasks.actions import ACTIONS
from llarp.tasks.atoms import split_predicate
from llarp.tasks.entities import HANDLE_INDEX, RECEPTACLE_INDEX
from llarp.tasks.planners import PlannerError, wants_of
from llarp.tasks.planners_wants import Wants

STUCK = 10
"""So many impossible actions at the end of an episode count as being stuck."""

FAILURES = {
    "simulator_failed": "the simulator's process died or hung while the episode was played, or could not begin it",
    "stuck": f"the last {STUCK} actions were all impossible",
    "wrong_object": "picked up objects, none of a kind asked for",
    "not_tried": "picked up nothing and never tried to pick up an object of a kind asked for",
    "not_found": "picked up nothing: tried for what is asked for only where it could not be had",
    "undone": "reversed all it had brought about, or left furniture against what is asked for",
    "part_done": "did part of what is asked for, and some of that stood at the end",
    "carrying": "held an object asked for at the end, nothing being in its place yet",
    "wrong_place": "put objects asked for down, but nowhere they are asked for",
    "not_visited": "never stood at the place or object to go to",
    "not_operated": "never opened or closed what is to be opened or closed",
    "other": "none of these: all that the goal names was done, or it is of a form not read here",
}
"""Reason -> what it says of an episode, in the order in which they are tried."""


@dataclass
class Trace:
    """What happened in one episode; lists have one entry a step. `lost`: the simulator failed before its end."""

    actions: list[int] = field(default_factory=list)
    invalid: list[bool] = field(default_factory=list)
    held: list[int] = field(default_factory=list)  # slot in the hand after the step, -1: none
    progress: list[float] = field(default_factory=list)  # share of subgoals ever reached
    lost: bool = False

    def add(self, action: int, invalid: bool, held: int, progress: float) -> None:
        """One more step."""
        self.actions.append(action)
        self.invalid.append(invalid)
        self.held.append(held)
        self.progress.append(progress)


def failure(trace: Trace, goal: Mapping[str, Any], category: Sequence[int], start: Sequence[int]) -> str:
    """The reason, a key of FAILURES, why the episode with this trace did not succeed.

    `category` and `start` give the category and the first receptacle of each object slot, -1 where there is none."""
    if trace.lost:
        return "simulator_failed"
    if len(trace.invalid) >= STUCK and all(trace.invalid[-STUCK:]):
        return "stuck"
    try:
        wants = wants_of(goal)
    except PlannerError:
        return "other"
    done = [ACTIONS[a] for a, invalid in zip(trace.actions, trace.invalid, strict=True) if not invalid]
    switched = {a.target: a.kind == "open" for a in done if a.kind in ("open", "close")}  # how handles were left last
    against = any(switched.get(handle, opened) != opened for handle, opened in wants.handles)
    if wants.moves or wants.every or wants.removals or wants.hold:
        return _of_objects(trace, wants, category, start, against)
    if wants.handles:
        return "undone" if against else "not_operated"
    return "not_visited" if wants.at or wants.at_objects else "other"


def _of_objects(trace: Trace, wants: Wants, category: Sequence[int], start: Sequence[int], undone: bool) -> str:
    """The reason where objects are to be moved; `undone`: furniture stands against what is asked for."""
    asked = {c for c, _ in wants.moves + wants.every + wants.removals} | set(wants.hold)
    placed: dict[int, int] = {}  # slot -> receptacle it was put on last
    picked, good, before = set(), set(), -1
    for index, invalid, held in zip(trace.actions, trace.invalid, trace.held, strict=True):
        action = ACTIONS[index]
        if not invalid and action.kind == "pick":
            picked.add(held)
            placed.pop(held, None)
        elif not invalid and action.kind == "place":
            placed[before] = action.target
            if _in_place(wants, category[before], start[before], action.target):
                good.add(before)
        before = held
    if not any(category[slot] in asked for slot in picked):
        tried = any(ACTIONS[a].kind == "pick" and ACTIONS[a].target in asked for a in trace.actions)
        return "wrong_object" if picked else "not_found" if tried else "not_tried"
    standing = {s for s in good if s in placed and _in_place(wants, category[s], start[s], placed[s])}
    holding = before >= 0 and category[before] in asked
    if undone or (good and not standing):
        return "undone"
    if standing:
        return "other" if _complete(wants, category, standing) and before < 0 else "part_done"
    return "carrying" if holding else "wrong_place"


def _in_place(wants: Wants, category: int, start: int, receptacle: int) -> bool:
    """Whether an object of a category, at first on `start`, serves the goal on `receptacle`."""
    if (category, receptacle) in wants.moves + wants.every:
        return True
    return (category, start) in wants.removals and (category, receptacle) not in wants.removals


def _complete(wants: Wants, category: Sequence[int], standing: set[int]) -> bool:
    """Whether as many objects of each kind were put in their places as the goal names."""
    kinds = [category[slot] for slot in standing]
    asked = [c for c, _ in wants.moves + wants.every + wants.removals]
    return all(kinds.count(c) >= asked.count(c) for c in set(asked))


# -- forms of goals ---------------------------------------------------------------------------------------------------


def goal_form(goal: Mapping[str, Any]) -> str:
    """A goal without its particular objects and places: "EXISTS X: on_top(X, place 1) AND not_holding()".

    A negation stands in front: "NAND EXISTS X: on_top(X, place 1)" (what it means is up to the rules).
    Goals that differ only in which things they name, or in the order of their terms, have the same form."""
    return _Form().of(goal, {})


class _Form:
    """Names things "place 1", "handle 1", ... in the order in which a goal speaks of them."""

    def __init__(self) -> None:
        self.named: dict[str, list[str]] = {}

    def of(self, expression: Mapping[str, Any], outer: Mapping[str, str]) -> str:
        """The form of an expression within the scope of the variables `outer`, name -> letter."""
        free = [letter for letter in "XYZUVW" if letter not in outer.values()]
        inputs = [v["name"] for v in expression.get("inputs") or ()]
        own = {name: free[i] if i < len(free) else f"X{len(outer) + i}" for i, name in enumerate(inputs)}
        variables = {**outer, **own}
        terms, operator = expression["sub_exprs"], expression["expr_type"]
        calls = sorted((split_predicate(t) for t in terms if isinstance(t, str)), key=lambda c: _order(c, variables))
        parts = [f"{name}({', '.join(self._name(a, variables) for a in arguments)})" for name, arguments in calls]
        parts += sorted(f"({self.of(t, variables)})" for t in terms if not isinstance(t, str))
        negated = operator in ("NAND", "NOR")
        text = (", " if negated else f" {operator} ").join(parts)
        if own:
            text = f"{expression['quantifier']} {', '.join(own.values())}: {text}"
            return f"{operator} {text}" if negated else text
        return f"{operator} ({text})" if negated else text

    def _name(self, thing: str, variables: Mapping[str, str]) -> str:
        if thing in variables:
            return variables[thing]
        kind = "place" if thing in RECEPTACLE_INDEX else "handle" if thing in HANDLE_INDEX else "object"
        known = self.named.setdefault(kind, [])
        key = str(RECEPTACLE_INDEX.get(thing, thing))  # a place may be called by either of its names
        if key not in known:
            known.append(key)
        return f"{kind} {known.index(key) + 1}"


def _order(call: tuple[str, Sequence[str]], variables: Mapping[str, str]) -> tuple[bool, str, list[str]]:
    """By name and variables, an empty hand last."""
    name, arguments = call
    return name == "not_holding", name, [variables.get(a, "") for a in arguments]
