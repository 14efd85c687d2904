"""The 70 skills as changes of state, for all worlds at once: when each is possible and what it does."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import atoms, extensions
from .actions import (
    ACTIONS,
    CLOSE_DRAWER_BASE,
    CLOSE_FRIDGE,
    NAV_BASE,
    NUM_ACTIONS,
    NUM_STANDARD,
    OPEN_DRAWER_BASE,
    OPEN_FRIDGE,
    PICK_BASE,
    PLACE_BASE,
)
from .entities import CATEGORIES, FRIDGE_HANDLE, NUM_HANDLES, NUM_NAV_TARGETS, NUM_STANDARD_CATEGORIES
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
    valid[:, NAV_BASE:PICK_BASE].fill_(True)
    # all writes are True, so the order among objects of a category does not matter; the others go past the end
    category = torch.where(pickable(state, rules, facts) & empty, state.object_category, len(CATEGORIES))
    picks = valid.new_zeros(state.num_worlds, len(CATEGORIES) + 1).scatter_(1, category, True)
    valid[:, PICK_BASE:PLACE_BASE] = picks[:, :NUM_STANDARD_CATEGORIES]
    can_place = at_receptacle & ~empty
    valid[:, PLACE_BASE:OPEN_FRIDGE] = can_place if is_published(rules) else can_place & ~is_shut(state.joint)
    can_open, can_close = at_handle & is_closed(state.joint), at_handle & is_opened(state.joint)
    valid[:, OPEN_FRIDGE] = can_open[:, FRIDGE_HANDLE]
    valid[:, CLOSE_FRIDGE] = can_close[:, FRIDGE_HANDLE]
    valid[:, OPEN_DRAWER_BASE:CLOSE_DRAWER_BASE] = can_open[:, :FRIDGE_HANDLE]
    valid[:, CLOSE_DRAWER_BASE:NUM_STANDARD] = can_close[:, :FRIDGE_HANDLE]
    if NUM_ACTIONS > NUM_STANDARD:
        own = [skill.possible(state, rules)[:, None] for skill in extensions.SKILLS]
        valid[:, NUM_STANDARD:] = torch.cat([picks[:, NUM_STANDARD_CATEGORIES:-1], *own], dim=1)
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
    picks |= (action >= NUM_STANDARD) & (action < NUM_STANDARD + len(extensions.OBJECTS))
    places = (action >= PLACE_BASE) & (action < OPEN_FRIDGE)
    handle, opens = _handle(action)
    read[:, atoms.not_holding()] = picks
    read[:, atoms.holding(0) : atoms.holding(MAX_OBJECTS)] = places[:, None]
    each = torch.arange(NUM_HANDLES, device=action.device)
    moves = (each == handle[:, None]) & ((action >= OPEN_FRIDGE) & (action < NUM_STANDARD))[:, None]
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
    whole: bool = False,
) -> Tensor:
    """Takes one skill in every world, in place; returns where it was invalid (nothing changed there), bool (N,).

    `action` int64 (N,); `draws` (N, NUM_DRAWS) uniform in [0, 1), used only where something is put down; `half_size`
    (K, 3) of the object catalogue; `possible` (N, 70) what `valid_actions` gives, where it is known already. `whole`
    computes every kind of skill for every world and keeps what applies, with the same result: more work, but the host
    need not wait for a device to say which worlds do what."""
    if possible is None:
        possible = valid_actions(state, rules)
    valid = possible.gather(1, action[:, None])[:, 0]

    def taken(first: int, last: int) -> Iterator[tuple[_Where, Tensor]]:
        """The worlds that take one of the skills from `first` to before `last`, if any, and which of these each."""
        here = valid & (action >= first) & (action < last)
        rows = torch.arange(len(action), device=action.device) if whole else here.nonzero()[:, 0]
        if len(rows):
            yield _Where(rows, here if whole else None), (action[rows] - first).clamp(0, last - first - 1)

    for where, target in taken(NAV_BASE, PICK_BASE):
        _nav(state, where, target)
    for where, category in taken(PICK_BASE, PLACE_BASE):
        _pick(state, where, category, rules)
    for where, receptacle in taken(PLACE_BASE, OPEN_FRIDGE):
        if is_published(rules):
            _place_anywhere(state, where, receptacle, draws[where.rows])
        else:
            _place(state, where, receptacle, draws[where.rows], half_size)
    for where, _ in taken(OPEN_FRIDGE, NUM_STANDARD):
        _set_joint(state, where, *_handle(action[where.rows]), rules)
    if NUM_ACTIONS > NUM_STANDARD:
        _own(state, action, valid, rules)
    return ~valid


def _own(state: WorldState, action: Tensor, valid: Tensor, rules: str) -> None:
    """Skills of extensions, in the worlds where they are `valid` (N,)."""
    each = torch.arange(state.num_worlds, device=action.device)
    for skill in ACTIONS[NUM_STANDARD:]:
        here = valid & (action == skill.index)
        if skill.kind == "pick":
            slot = (pickable(state, rules) & (state.object_category == skill.target)).int().argmax(1)
            state.held.copy_(torch.where(here, slot, state.held))
            state.object_inside[each, slot] = torch.where(here, -1, state.object_inside[each, slot])
        else:
            extensions.SKILLS[skill.target].effect(state, here)
    slot = state.held.clamp(min=0)
    carried = valid & (action >= NUM_STANDARD) & (state.held >= 0)
    grip, position = gripper_position(state.robot, state.robot_height), state.object_position
    position[each, slot] = torch.where(carried[:, None], grip, position[each, slot])
    state.object_yaw[each, slot] = torch.where(carried, state.robot[:, 2], state.object_yaw[each, slot])
    if state.object_tilt.shape[-1]:
        state.object_tilt[each, slot] = torch.where(carried[:, None], 0.0, state.object_tilt[each, slot])


def refresh(state: WorldState) -> None:
    """Puts held objects where the gripper is, in place; for whoever moved a robot without `apply`."""
    _carry(state, _Where((state.held >= 0).nonzero()[:, 0]))


@dataclass
class _Where:
    """Worlds that something happens in: of `rows` (R,) those that `only` bool (R,) names, None: all of them."""

    rows: Tensor
    only: Tensor | None = None

    def put(self, tensor: Tensor, value: Tensor | float, column: Tensor | None = None) -> None:
        """tensor[rows] = value, or tensor[rows, column] = value."""
        index = self.rows if column is None else (self.rows, column)
        if self.only is None:
            tensor[index] = value
        else:
            old = tensor[index]
            tensor[index] = torch.where(self.only.view(-1, *[1] * (old.dim() - 1)), value, old)

    def with_object(self, state: WorldState) -> _Where:
        """Those with something in the hand."""
        holding = state.held[self.rows] >= 0
        return _Where(self.rows[holding]) if self.only is None else _Where(self.rows, self.only & holding)


def _carry(state: WorldState, where: _Where) -> None:
    """`where`: worlds with an object in the hand."""
    rows = where.rows
    slot, robot = state.held[rows], state.robot[rows]
    where.put(state.object_position, gripper_position(robot, state.robot_height[rows]), slot)
    where.put(state.object_yaw, robot[:, 2], slot)
    if state.object_tilt.shape[-1]:
        where.put(state.object_tilt, 0.0, slot)


def _nav(state: WorldState, where: _Where, target: Tensor) -> None:
    rows = where.rows
    where.put(state.robot, state.nav_pose[rows, target])
    where.put(state.robot_height, state.nav_height[rows, target])
    _carry(state, where.with_object(state))


def _pick(state: WorldState, where: _Where, category: Tensor, rules: str) -> None:
    here = state.rows(where.rows)
    fits = pickable(here, rules) & (here.object_category == category[:, None])
    slot = fits.int().argmax(1)  # the first one
    where.put(state.held, slot)
    where.put(state.object_inside, -1, slot)
    _carry(state, where)


def _handle(action: Tensor) -> tuple[Tensor, Tensor]:
    """Handle and direction (True: opens) of the skills from OPEN_FRIDGE on, each (N,); of others nothing sensible."""
    opens = (action == OPEN_FRIDGE) | ((action >= OPEN_DRAWER_BASE) & (action < CLOSE_DRAWER_BASE))
    handle = torch.where(action < OPEN_DRAWER_BASE, FRIDGE_HANDLE, (action - OPEN_DRAWER_BASE) % FRIDGE_HANDLE)
    return handle, opens


def _set_joint(state: WorldState, where: _Where, handle: Tensor, opens: Tensor, rules: str) -> None:
    """Opens or closes. What lies in a drawer moves with it in clean rules and stays where it is in published ones."""
    rows = where.rows
    target = torch.where(opens, open_to(handle.device)[handle], 0.0)
    moved = target - state.joint[rows, handle]
    where.put(state.joint, target, handle)
    if is_published(rules):
        return
    inside = state.object_inside[rows]
    container = inside.clamp(min=0)
    goes_along = (inside >= 0) & (joint_of(handle.device)[container] == handle[:, None])
    shift = state.receptacle_slide[rows].gather(1, container[..., None].expand(-1, -1, 3)) * moved[:, None, None]
    where.put(state.object_position, state.object_position[rows] + torch.where(goes_along[..., None], shift, 0.0))


def _place_anywhere(state: WorldState, where: _Where, receptacle: Tensor, draws: Tensor) -> None:
    """The published way: a point of the receptacle's box, shrunk, its height included, whatever else is there."""
    rows = where.rows
    slot = state.held[rows]
    center, span = state.receptacle_center[rows, receptacle], state.receptacle_span[rows, receptacle]
    where.put(state.object_position, center + (draws[:, :3] * 2 - 1) * PLACE_SHRINK * span, slot)
    where.put(state.object_yaw, 0.0, slot)
    where.put(state.object_inside, torch.where(joint_of(rows.device)[receptacle] >= 0, receptacle, -1), slot)
    where.put(state.held, -1)


def _place(state: WorldState, where: _Where, receptacle: Tensor, draws: Tensor, half_size: Tensor) -> None:
    """Puts held objects down: of 16 random points, the first that is clear of other objects and in picking reach of
    where nav leads; if none is clear, the clearest in reach; if none is in reach, the nearest."""
    rows = where.rows
    here = state.rows(rows)
    each = torch.arange(len(rows), device=rows.device)
    slot = here.held
    points = _points(here, receptacle, draws[:, :-1].reshape(-1, _CANDIDATES, 2))
    points[..., 2] += half_size[here.object_model[each, slot], 2][:, None]
    slots = torch.arange(MAX_OBJECTS, device=rows.device)
    others = (here.object_category >= 0) & (slots != slot[:, None])
    dx, dy, dz = (points[:, :, None] - here.object_position[:, None]).unbind(-1)
    apart = (dx * dx + dy * dy + dz * dz).sqrt()  # (R, 16, M)
    clearance = torch.where(others[:, None], apart, math.inf).amin(-1)
    stand = here.nav_pose[each, NUM_HANDLES + receptacle]
    distance, _ = polar(stand, points[..., :2])
    score = torch.where(can_pick_from(stand, points[..., :2]), clearance.clamp(max=PLACE_GAP_M), -distance)
    best = points[each, score.argmax(1)]
    where.put(state.object_position, best, slot)
    where.put(state.object_yaw, (draws[:, -1] * 2 - 1) * math.pi, slot)
    where.put(state.object_inside, torch.where(joint_of(rows.device)[receptacle] >= 0, receptacle, -1), slot)
    where.put(state.held, -1)


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
