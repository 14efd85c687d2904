"""A goal as a list of things to bring about, without knowing the room: what the explorer and the sweep pursue.

Goals of any form are read: a negation is pushed inwards, of an OR the first branch is taken. Where the words of a goal
leave open which object is meant, the wants name its category only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .entities import (
    CATEGORY_INDEX,
    FRIDGE_HANDLE,
    HANDLE_INDEX,
    HANDLES,
    NUM_HANDLES,
    RECEPTACLE_INDEX,
    TASK_RECEPTACLES,
)


class PlannerError(ValueError):
    """A goal that planners cannot pursue, in one line."""


@dataclass
class Wants:
    """A goal as lists of things to bring about."""

    moves: list[tuple[int, int]] = field(default_factory=list)  # (category, receptacle): an own object for each
    every: list[tuple[int, int]] = field(default_factory=list)  # (category, receptacle): all of them there
    removals: list[tuple[int, int]] = field(default_factory=list)  # (category, receptacle): none of them there
    handles: list[tuple[int, bool]] = field(default_factory=list)  # (handle, opened)
    at: list[int] = field(default_factory=list)  # nav targets
    at_objects: list[int] = field(default_factory=list)  # categories: stand at any one
    hold: list[int] = field(default_factory=list)  # categories: one in the hand at the end

    @property
    def categories(self) -> set[int]:
        return {c for c, _ in self.moves + self.every + self.removals} | set(self.at_objects) | set(self.hold)


_CALL = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*")
_RECEPTACLE = "receptacle"


@dataclass(frozen=True)
class _Variable:
    category: int  # -1: it stands for a receptacle
    every: bool  # all of them, instead of any one


def wants_of(goal: Mapping[str, Any]) -> Wants:
    """Reads a goal expression. `PlannerError` if it quantifies over or speaks of something unknown."""
    wants = Wants()
    _read(goal, {}, wants, True)
    return wants


def _read(expr: Mapping[str, Any] | str, variables: Mapping[str, _Variable], wants: Wants, wanted: bool) -> None:
    """Adds what makes `expr` true, or false if it is not `wanted`."""
    if isinstance(expr, str):
        _read_predicate(expr, variables, wants, wanted)
        return
    kind, parts = expr["expr_type"], expr["sub_exprs"]
    if kind not in ("AND", "OR", "NAND", "NOR"):
        raise PlannerError(f"planners do not pursue goals of the form {kind}")
    if kind in ("NAND", "NOR"):
        kind, wanted = {"NAND": "AND", "NOR": "OR"}[kind], not wanted
    every = (expr.get("quantifier") == "FORALL") == wanted
    variables = {**variables, **{v["name"]: _variable(v["expr_type"], every) for v in expr.get("inputs") or ()}}
    for part in parts if (kind == "AND") == wanted else parts[:1]:
        _read(part, variables, wants, wanted)


def _variable(kind: str, every: bool) -> _Variable:
    name = kind.replace("_", " ")
    if name != _RECEPTACLE and name not in CATEGORY_INDEX:
        raise PlannerError(f"the goal quantifies over {kind!r}, which is no object category")
    return _Variable(CATEGORY_INDEX.get(name, -1), every)


def _read_predicate(text: str, variables: Mapping[str, _Variable], wants: Wants, wanted: bool) -> None:
    match = _CALL.fullmatch(text)
    if match is None:
        raise PlannerError(f"{text!r} is no predicate")
    name, args = match[1], [a.strip() for a in match[2].split(",") if a.strip()]
    first, last = (args[0], args[-1]) if args else ("", "")
    object_ = variables[first] if first in variables and variables[first].category >= 0 else None
    place = RECEPTACLE_INDEX.get(last)
    if last in variables and variables[last].category < 0:
        place = TASK_RECEPTACLES[0]  # any will do: take one
    if name in ("on_top", "in", "at") and object_ is not None and place is not None:
        kinds = wants.removals if not wanted else wants.every if object_.every else wants.moves
        kinds.append((object_.category, place))
    elif name in ("robot_at", "robot_at_obj") and object_ is not None:
        if wanted:
            wants.at_objects.append(object_.category)
    elif name == "robot_at" and (place is not None or first in HANDLES):
        if wanted:
            wants.at.append(HANDLE_INDEX[first] if place is None else NUM_HANDLES + place)
    elif name == "holding" and object_ is not None:
        if wanted:
            wants.hold.append(object_.category)
    elif name.startswith(("opened_", "closed_")):
        wants.handles.append((HANDLE_INDEX.get(first, FRIDGE_HANDLE), name.startswith("opened_") == wanted))
    elif name != "not_holding":  # jobs end with an empty hand anyway
        raise PlannerError(f"planners do not pursue {text!r}")
