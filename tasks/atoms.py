"""The atom table: every fact a goal can ask about, at a fixed index; a world's truths are one row of booleans.

index = offset of the predicate + its arguments
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from . import extensions
from .entities import (
    FRIDGE_HANDLE,
    HANDLE_INDEX,
    NUM_HANDLES,
    NUM_NAV_TARGETS,
    NUM_RECEPTACLES,
    RECEPTACLE_INDEX,
    RECEPTACLES,
)
from .rules import (
    PICK_ANGLE_RAD,
    PICK_REACH_M,
    ROBOT_AT_ANGLE_RAD,
    ROBOT_AT_REACH_M,
    TaskError,
    inside_aligned,
    inside_box,
    is_closed,
    is_opened,
    is_published,
    polar,
    receptacle_center,
    target_xy,
    within,
)
from .state import MAX_OBJECTS, WorldState

FALSE, TRUE, NOT_HOLDING = 0, 1, 2
_HOLDING = 3
_ON_TOP = _HOLDING + MAX_OBJECTS
_ROBOT_AT = _ON_TOP + MAX_OBJECTS * NUM_RECEPTACLES
_ROBOT_AT_OBJECT = _ROBOT_AT + NUM_NAV_TARGETS
_ROBOT_AT_OBJ = _ROBOT_AT_OBJECT + MAX_OBJECTS
_OPENED = _ROBOT_AT_OBJ + MAX_OBJECTS
_CLOSED = _OPENED + NUM_HANDLES
_INSIDE = _CLOSED + NUM_HANDLES
NUM_STANDARD_ATOMS = _INSIDE + MAX_OBJECTS * NUM_HANDLES
_SIZES = {"object": MAX_OBJECTS, "receptacle": NUM_RECEPTACLES, "handle": NUM_HANDLES}
OWN_SIZES = tuple(math.prod(_SIZES[kind] for kind in p.arguments) for p in extensions.PREDICATES)
"""Atoms of each predicate of an extension; they follow the standard ones."""
NUM_ATOMS = NUM_STANDARD_ATOMS + sum(OWN_SIZES)
if NUM_ATOMS > 1 << 14:
    raise extensions.ExtensionError(f"the predicates of extensions need {NUM_ATOMS} facts, 16384 are possible")

_HOLLOWS = tuple((r.joint, i) for i, r in enumerate(RECEPTACLES) if r.joint >= 0)
"""Handles with the receptacles that their joints move or shut."""


def not_holding() -> int:
    """The hand is empty."""
    return NOT_HOLDING


def holding(slot: int) -> int:
    """The object of this slot is in the hand."""
    return _HOLDING + slot


def on_top(slot: int, receptacle: int) -> int:
    """The object's origin lies in the receptacle's box; in clean rules that box moves with its drawer, and an object in
    the hand is on nothing."""
    return _ON_TOP + slot * NUM_RECEPTACLES + receptacle


def robot_at(nav_target: int) -> int:
    """The robot is within 2 m of a nav target (handles 0..4, then receptacles) and has it within 1.57 rad ahead."""
    return _ROBOT_AT + nav_target


def robot_at_object(slot: int) -> int:
    """`robot_at` of an object: the same limits, 2 m and 1.57 rad."""
    return _ROBOT_AT_OBJECT + slot


def robot_at_obj(slot: int) -> int:
    """The object is within picking reach: 1.5 m and 1.0 rad."""
    return _ROBOT_AT_OBJ + slot


def opened(handle: int) -> int:
    """The drawer or the fridge door is open."""
    return _OPENED + handle


def closed(handle: int) -> int:
    """The drawer or the fridge door is closed (between the two it is neither)."""
    return _CLOSED + handle


def inside(slot: int, handle: int) -> int:
    """`in` a drawer or the fridge, named by its handle: its receptacle in clean rules, in published ones any part."""
    return _INSIDE + slot * NUM_HANDLES + handle


def lying(state: WorldState, rules: str = "clean") -> tuple[Tensor, Tensor]:
    """`on_top` (N, M, 11) and `inside` (N, M, 5) of every object: all that does not depend on where the robot is."""
    present = state.object_category >= 0
    if is_published(rules):
        boxes = torch.cat([state.receptacle_center, state.container_center_now()], dim=1)
        halves = torch.cat([state.receptacle_span, state.container_half], dim=1)
        contained = inside_aligned(state.object_position, boxes, halves) & present[..., None]
        return contained[..., :NUM_RECEPTACLES], contained[..., NUM_RECEPTACLES:]
    holding = torch.arange(MAX_OBJECTS, device=state.held.device) == state.held[:, None]
    box = (receptacle_center(state, rules), state.receptacle_half, state.receptacle_yaw)
    on_top = inside_box(state.object_position, *box) & (present & ~holding)[..., None]
    inside = on_top.new_zeros(*present.shape, NUM_HANDLES)
    for handle, receptacle in _HOLLOWS:
        inside[..., handle] = on_top[..., receptacle]
    return on_top, inside


def truth(state: WorldState, rules: str = "clean", where: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """The truth of every atom in every world, bool (N, NUM_ATOMS). Atoms of empty slots are false.

    `where`: what `lying` gives, where it is known already."""
    present = state.object_category >= 0
    holding = torch.arange(MAX_OBJECTS, device=state.held.device) == state.held[:, None]
    on_top, inside = lying(state, rules) if where is None else where
    targets = target_xy(state, rules)
    distance, ahead = polar(state.robot, torch.cat([targets, state.object_position[..., :2]], dim=1))
    robot_at = within(distance, ahead, ROBOT_AT_REACH_M, ROBOT_AT_ANGLE_RAD)
    objects = slice(NUM_NAV_TARGETS, None)
    robot_at[:, objects] &= present
    robot_at_obj = within(distance[:, objects], ahead[:, objects], PICK_REACH_M, PICK_ANGLE_RAD) & present
    hand_empty = (state.held < 0)[:, None]
    never = torch.zeros_like(hand_empty)
    joints = [is_opened(state.joint), is_closed(state.joint)]
    facts = [never, ~never, hand_empty, holding, on_top.flatten(1), robot_at, robot_at_obj, *joints, inside.flatten(1)]
    facts += [p.truth(state, rules).flatten(1) for p in extensions.PREDICATES]
    return torch.cat(facts, dim=1)


# -- predicates as text ------------------------------------------------------------------------------------------------

Entity = tuple[str, int]
"""What an argument of a predicate stands for: ("object", slot), ("receptacle", index) or ("handle", index)."""

_OBJECT, _RECEPTACLE, _HANDLE = ("object",), ("receptacle",), ("handle",)
_ARGUMENTS: dict[str, tuple[tuple[str, ...], ...]] = {
    "on_top": (_OBJECT, _RECEPTACLE),
    "in": (_OBJECT, _RECEPTACLE + _HANDLE),
    "at": (_OBJECT, _RECEPTACLE + _HANDLE),
    "holding": (_OBJECT,),
    "not_holding": (),
    "robot_at": (_OBJECT + _RECEPTACLE + _HANDLE,),
    "robot_at_obj": (_OBJECT,),
    "opened_fridge": (_HANDLE,),
    "closed_fridge": (_HANDLE,),
    "opened_cab": (_HANDLE,),
    "closed_cab": (_HANDLE,),
}
if taken := _ARGUMENTS.keys() & {p.name for p in extensions.PREDICATES}:
    raise extensions.ExtensionError(f"predicate {min(taken)!r} of an extension has the name of one of the benchmark's")
_ARGUMENTS |= {p.name: tuple((kind,) for kind in p.arguments) for p in extensions.PREDICATES}
"""The kinds of thing each argument of a predicate may be."""


def split_predicate(text: str) -> tuple[str, tuple[str, ...]]:
    """Name and arguments of a predicate, e.g. ("on_top", ("X", "black table")).

    Raises TaskError if it is not written so, is unknown, or has the wrong number of arguments."""
    match = re.fullmatch(r"\s*(\w+)\s*\(([^()]*)\)\s*", text)
    if match is None:
        raise TaskError(f"predicate {text!r} is not of the form name(argument, ...)")
    name, inner = match[1], match[2].strip()
    arguments = tuple(a.strip() for a in inner.split(",")) if inner else ()
    if name not in _ARGUMENTS:
        raise TaskError(f"predicate {text!r} is unknown; known: {', '.join(_ARGUMENTS)}")
    if len(arguments) != len(_ARGUMENTS[name]):
        raise TaskError(f"predicate {text!r} needs {len(_ARGUMENTS[name])} arguments, not {len(arguments)}")
    return name, arguments


def fixed_entity(name: str) -> Entity | None:
    """The receptacle (either spelling) or handle of that name; None if it is neither."""
    if name in RECEPTACLE_INDEX:
        return "receptacle", RECEPTACLE_INDEX[name]
    return ("handle", HANDLE_INDEX[name]) if name in HANDLE_INDEX else None


def atom_index(name: str, entities: tuple[Entity, ...]) -> int:
    """Index of the atom of a predicate that `split_predicate` accepts. Raises TaskError if the entities do not fit."""
    for (kind, _), kinds in zip(entities, _ARGUMENTS[name], strict=True):
        if kind not in kinds:
            raise TaskError(f"predicate {name} takes {' or '.join(kinds)} there, not {kind}")
    for number, predicate in enumerate(extensions.PREDICATES):
        if name == predicate.name:
            index = 0
            for kind, which in entities:
                index = index * _SIZES[kind] + which
            return NUM_STANDARD_ATOMS + sum(OWN_SIZES[:number]) + index
    if name == "not_holding":
        return not_holding()
    kind, first = entities[0]
    if name in ("on_top", "in", "at"):
        where, which = entities[1]
        return inside(first, which) if where == "handle" else on_top(first, which)
    if name == "holding":
        return holding(first)
    if name == "robot_at_obj":
        return robot_at_obj(first)
    if name == "robot_at":
        if kind == "object":
            return robot_at_object(first)
        return robot_at(first if kind == "handle" else NUM_HANDLES + first)
    if name.endswith("_fridge") != (first == FRIDGE_HANDLE):
        raise TaskError(f"predicate {name} does not fit handle {first}: _fridge is for the door, _cab for drawers")
    return opened(first) if name.startswith("opened") else closed(first)
