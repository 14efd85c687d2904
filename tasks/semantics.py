"""The 70 skills as changes of state, for all worlds at once: when each is possible and what it does."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import atoms
from .actions import (
    CLOSE_DRAWER_BASE,
    CLOSE_FRIDGE,
    NAV_BASE,
    NUM_ACTIONS,
    OPEN_DRAWER_BASE,
    OPEN_FRIDGE,
    PICK_BASE,
    PLACE_BASE,
)
from .entities import CATEGORIES, FRIDGE_HANDLE, NUM_HANDLES, NUM_NAV_TARGETS
from .rules import (
    ROBOT_AT_ANGLE_RAD,
    ROBOT_AT_REACH_M,
    can_pick_from,
    gripper_position,
    in_container,
    is_closed,
    is_opened,
    is_published,
    is_shut,
    joint_of,
    open_to,
    polar,
    target_xy,
    within,
)
from .state import MAX_OBJECTS, WorldState

_CANDIDATES = 16
NUM_DRAWS = 2 * _CANDIDATES + 1
"""Uniform numbers `apply` needs a world: x and y of the points it tries for a placed object, and its yaw."""
PLACE_STREAM = 2
"""The keyed random stream (`keyed_random`) that these numbers come from, in every simulator."""
PLACE_SHRINK = 0.8
"""Objects are put down within this part of a receptacle's box, as in the original."""
PLACE_GAP_M = 0.12
"""A placed object keeps this distance (between centres) from all others where it can."""


def pickable(state: WorldState, rules: str = "clean", facts: Tensor | None = None) -> Tensor:
    """Objects an empty hand could pick up from where the robot stands: near enough, not shut away; bool (N, M).

    In published rules only closed drawers shut things away, those of which some part lies around the object. `facts`:
    what `atoms.truth` gives, where it is known already."""
    if is_published(rules):
        drawers = slice(0, FRIDGE_HANDLE)
        if facts is None:
            inside = in_container(state)
        else:
            inside = facts[:, atoms.inside(0, 0) : atoms.inside(MAX_OBJECTS, 0)].unflatten(1, (MAX_OBJECTS, -1))
        shut_away = (inside[..., drawers] & is_closed(state.joint)[:, None, drawers]).any(-1)
    else:
        shut_away = is_shut(state.joint).gather(1, state.object_inside.clamp(min=0)) & (state.object_inside >= 0)
    if facts is None:
        near = can_pick_from(state.robot, state.object_position[..., :2])
    else:
        near = facts[:, atoms.robot_at_obj(0) : atoms.robot_at_obj(MAX_OBJECTS)]
    return near & ~shut_away & (state.object_category >= 0)


def valid_actions(state: WorldState, rules: str = "clean", facts: Tensor | None = None) -> Tensor:
    """Which skills' preconditions hold, bool (N, 70). `facts`: what `atoms.truth` gives, where it is known already."""
    empty = (state.held < 0)[:, None]
    if facts is None:
        robot_at = within(*polar(state.robot, target_xy(state, rules)), ROBOT_AT_REACH_M, ROBOT_AT_ANGLE_RAD)
    else:
        robot_at = facts[:, atoms.robot_at(0) : atoms.robot_at(NUM_NAV_TARGETS)]
    at_handle, at_receptacle = robot_at[:, :NUM_HANDLES], robot_at[:, NUM_HANDLES:]
    valid = torch.zeros(state.num_worlds, NUM_ACTIONS, dtype=torch.bool, device=state.held.device)
    valid[:, NAV_BASE:PICK_BASE] = True
    # all writes are True, so the order among objects of a category does not matter; the others go past the end
    category = torch.where(pickable(state, rules, facts) & empty, state.object_category, len(CATEGORIES))
    picks = valid.new_zeros(state.num_worlds, len(CATEGORIES) + 1).scatter_(1, category, True)
    valid[:, PICK_BASE:PLACE_BASE] = picks[:, :-1]
    can_place = at_receptacle & ~empty
    valid[:, PLACE_BASE:OPEN_FRIDGE] = can_place if is_published(rules) else can_place & ~is_shut(state.joint)
    can_open, can_close = at_handle & is_closed(state.joint), at_handle & is_opened(state.joint)
    valid[:, OPEN_FRIDGE] = can_open[:, FRIDGE_HANDLE]
    valid[:, CLOSE_FRIDGE] = can_close[:, FRIDGE_HANDLE]
    valid[:, OPEN_DRAWER_BASE:CLOSE_DRAWER_BASE] = can_open[:, :FRIDGE_HANDLE]
    valid[:, CLOSE_DRAWER_BASE:] = can_close[:, :FRIDGE_HANDLE]
    return valid


def read_atoms(state: WorldState, action: Tensor, rules: str = "clean") -> Tensor | None:
    """Atoms whose truth from before a skill `action` (N,) still counts when its step is judged, bool (N, NUM_ATOMS).

    The original keeps truth values for the length of a step, so what the precondition read stays as it was. Listed here
    is what a skill both reads and can change: `not_holding` and, in drawers, `in` for a pick; `holding` for a place;
    opened or closed and the drawer's contents for its handle. Invalid skills change nothing, so that their rows do not
    matter. None: no atom at all (clean rules)."""
    if not is_published(rules):
        return None
    read = torch.zeros(state.num_worlds, atoms.NUM_ATOMS, dtype=torch.bool, device=action.device)
    picks = (action >= PICK_BASE) & (action < PLACE_BASE)
    places = (action >= PLACE_BASE) & (action < OPEN_FRIDGE)
    handle, opens = _handle(action)
    read[:, atoms.not_holding()] = picks
    read[:, atoms.holding(0) : atoms.holding(MAX_OBJECTS)] = places[:, None]
    each = torch.arange(NUM_HANDLES, device=action.device)
    moves = (each == handle[:, None]) & (action >= OPEN_FRIDGE)[:, None]
    read[:, atoms.closed(0) : atoms.closed(NUM_HANDLES)] = moves & opens[:, None]
    read[:, atoms.opened(0) : atoms.opened(NUM_HANDLES)] = moves & ~opens[:, None]
    contents = moves | (picks[:, None] & (each < FRIDGE_HANDLE))
    read[:, atoms.inside(0, 0) : atoms.inside(MAX_OBJECTS, 0)] = contents.repeat(1, MAX_OBJECTS)
    return read


def apply(
    state: WorldState,
    action: Tensor,
    draws: Tensor,
    half_size: Tensor,
    rules: str = "clean",
    possible: Tensor | None = None,
) -> Tensor:
    """Takes one skill in every world, in place; returns where it was invalid (nothing changed there), bool (N,).

    `action` int64 (N,); `draws` (N, NUM_DRAWS) uniform in [0, 1), used only where something is put down; `half_size`
    (K, 3) of the object catalogue; `possible` (N, 70) what `valid_actions` gives, where it is known already."""
    if possible is None:
        possible = valid_actions(state, rules)
    valid = possible.gather(1, action[:, None])[:, 0]

    def taken(first: int, last: int) -> Tensor:
        return (valid & (action >= first) & (action < last)).nonzero()[:, 0]

    if len(rows := taken(NAV_BASE, PICK_BASE)):
        _nav(state, rows, action[rows] - NAV_BASE)
    if len(rows := taken(PICK_BASE, PLACE_BASE)):
        _pick(state, rows, action[rows] - PICK_BASE, rules)
    if len(rows := taken(PLACE_BASE, OPEN_FRIDGE)):
        if is_published(rules):
            _place_anywhere(state, rows, action[rows] - PLACE_BASE, draws[rows])
        else:
            _place(state, rows, action[rows] - PLACE_BASE, draws[rows], half_size)
    if len(rows := taken(OPEN_FRIDGE, NUM_ACTIONS)):
        _set_joint(state, rows, *_handle(action[rows]), rules)
    return ~valid


def refresh(state: WorldState) -> None:
    """Puts held objects where the gripper is, in place; for whoever moved a robot without `apply`."""
    _carry(state, (state.held >= 0).nonzero()[:, 0])


def _carry(state: WorldState, rows: Tensor) -> None:
    """`rows`: worlds with an object in the hand."""
    slot, robot = state.held[rows], state.robot[rows]
    state.object_position[rows, slot] = gripper_position(robot, state.robot_height[rows])
    state.object_yaw[rows, slot] = robot[:, 2]
    state.object_tilt[rows, slot] = 0.0


def _nav(state: WorldState, rows: Tensor, target: Tensor) -> None:
    state.robot[rows], state.robot_height[rows] = state.nav_pose[rows, target], state.nav_height[rows, target]
    _carry(state, rows[state.held[rows] >= 0])


def _pick(state: WorldState, rows: Tensor, category: Tensor, rules: str) -> None:
    here = state.rows(rows)
    fits = pickable(here, rules) & (here.object_category == category[:, None])
    slot = fits.int().argmax(1)  # the first one
    state.held[rows] = slot
    state.object_inside[rows, slot] = -1
    _carry(state, rows)


def _handle(action: Tensor) -> tuple[Tensor, Tensor]:
    """Handle and direction (True: opens) of the skills from OPEN_FRIDGE on, each (N,); of others nothing sensible."""
    opens = (action == OPEN_FRIDGE) | ((action >= OPEN_DRAWER_BASE) & (action < CLOSE_DRAWER_BASE))
    handle = torch.where(action < OPEN_DRAWER_BASE, FRIDGE_HANDLE, (action - OPEN_DRAWER_BASE) % FRIDGE_HANDLE)
    return handle, opens


def _set_joint(state: WorldState, rows: Tensor, handle: Tensor, opens: Tensor, rules: str) -> None:
    """Opens or closes. What lies in a drawer moves with it in clean rules and stays where it is in published ones."""
    target = torch.where(opens, open_to(handle.device)[handle], 0.0)
    moved = target - state.joint[rows, handle]
    state.joint[rows, handle] = target
    if is_published(rules):
        return
    inside = state.object_inside[rows]
    container = inside.clamp(min=0)
    goes_along = (inside >= 0) & (joint_of(handle.device)[container] == handle[:, None])
    shift = state.receptacle_slide[rows].gather(1, container[..., None].expand(-1, -1, 3)) * moved[:, None, None]
    state.object_position[rows] += torch.where(goes_along[..., None], shift, 0.0)


def _place_anywhere(state: WorldState, rows: Tensor, receptacle: Tensor, draws: Tensor) -> None:
    """The published way: a point of the receptacle's box, shrunk, its height included, whatever else is there."""
    each = torch.arange(len(rows), device=rows.device)
    slot = state.held[rows]
    center, span = (x[rows][each, receptacle] for x in (state.receptacle_center, state.receptacle_span))
    state.object_position[rows, slot] = center + (draws[:, :3] * 2 - 1) * PLACE_SHRINK * span
    state.object_yaw[rows, slot] = 0.0
    state.object_inside[rows, slot] = torch.where(joint_of(rows.device)[receptacle] >= 0, receptacle, -1)
    state.held[rows] = -1


def _place(state: WorldState, rows: Tensor, receptacle: Tensor, draws: Tensor, half_size: Tensor) -> None:
    """Puts held objects down: of 16 random points, the first that is clear of other objects and in picking reach of
    where nav leads; if none is clear, the clearest in reach; if none is in reach, the nearest."""
    here = state.rows(rows)
    each = torch.arange(len(rows), device=rows.device)
    slot = here.held
    points = _points(here, receptacle, draws[:, :-1].reshape(-1, _CANDIDATES, 2))
    points[..., 2] += half_size[here.object_model[each, slot], 2][:, None]
    others = here.object_category >= 0
    others[each, slot] = False
    dx, dy, dz = (points[:, :, None] - here.object_position[:, None]).unbind(-1)
    apart = (dx * dx + dy * dy + dz * dz).sqrt()  # (R, 16, M)
    clearance = torch.where(others[:, None], apart, math.inf).amin(-1)
    stand = here.nav_pose[each, NUM_HANDLES + receptacle]
    distance, _ = polar(stand, points[..., :2])
    score = torch.where(can_pick_from(stand, points[..., :2]), clearance.clamp(max=PLACE_GAP_M), -distance)
    best = points[each, score.argmax(1)]
    state.object_position[rows, slot] = best
    state.object_yaw[rows, slot] = (draws[:, -1] * 2 - 1) * math.pi
    state.object_inside[rows, slot] = torch.where(joint_of(rows.device)[receptacle] >= 0, receptacle, -1)
    state.held[rows] = -1


def _points(here: WorldState, receptacle: Tensor, unit: Tensor) -> Tensor:
    """Points on the surface of a receptacle, where its drawer is now, (R, C, 3), from `unit` (R, C, 2) in [0, 1)."""
    each = torch.arange(len(receptacle), device=receptacle.device)
    center, yaw = here.receptacle_center_now()[each, receptacle], here.receptacle_yaw[each, receptacle]
    risen = center[:, 2] - here.receptacle_center[each, receptacle, 2]
    height = here.surface_z[each, receptacle] + risen
    local = (unit * 2 - 1) * PLACE_SHRINK * here.receptacle_half[each, receptacle, None, :2]
    cos, sin = yaw.cos()[:, None], yaw.sin()[:, None]
    x = center[:, None, 0] + local[..., 0] * cos - local[..., 1] * sin
    y = center[:, None, 1] + local[..., 0] * sin + local[..., 1] * cos
    return torch.stack([x, y, height[:, None].expand_as(x)], dim=-1)
