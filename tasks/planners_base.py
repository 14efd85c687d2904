"""What planners share: the view of one world, what a goal wants, and the jobs still to do.

Planners read goals of the generated kinds: conjunctions of placements (EXISTS, distinct objects), "none is on r"
(NAND EXISTS), robot_at, robot_at_obj and handle states; of an OR they pursue the first branch.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .actions import NUM_ACTIONS, pick, place
from .entities import CATEGORY_INDEX, FRIDGE_HANDLE, HANDLE_INDEX, HANDLES, NUM_HANDLES, RECEPTACLE_INDEX, RECEPTACLES
from .episodes import Episode
from .state import WorldState

SLIP_PLAUSIBLE = 0.75
"""Share of slips that are premature rather than random."""


class PlannerError(ValueError):
    """A goal that planners cannot pursue, in one line."""


@dataclass
class PlannerView:
    """One world as numpy arrays that share the state's memory: read them at once, do not keep or change them."""

    goal: dict[str, Any]  # the goal expression
    instruction: str
    episode: int  # episode id
    robot: np.ndarray  # (3,) x, y, yaw
    joint: np.ndarray  # (5,)
    held: int  # slot in the hand, -1: none
    object_category: np.ndarray  # (M,)
    object_position: np.ndarray  # (M, 3)
    object_inside: np.ndarray  # (M,)
    receptacle_center: np.ndarray  # (11, 3), joints where they are
    receptacle_half: np.ndarray  # (11, 3)
    receptacle_yaw: np.ndarray  # (11,)
    nav_pose: np.ndarray  # (16, 3)
    visible: np.ndarray  # (M,) bool: in the current head picture
    valid: np.ndarray  # (70,) bool: actions whose precondition holds


_JOINTED = [i for i, r in enumerate(RECEPTACLES) if r.joint >= 0]
_JOINTS = [RECEPTACLES[i].joint for i in _JOINTED]


def view_of(state: WorldState, episode: Episode, visible: Any, i: int, valid: Any = None) -> PlannerView:
    """World `i` of a state on the CPU (move it there once for all worlds).

    `visible` (N, M) and `valid` (N, 70) are bool arrays or CPU tensors; without `valid`, which only the oracle reads,
    every action counts as valid."""
    joint = state.joint[i].numpy()
    center = state.receptacle_center[i].numpy().copy()
    center[_JOINTED] += state.receptacle_slide[i].numpy()[_JOINTED] * joint[_JOINTS, None]
    return PlannerView(
        goal=episode.goal,
        instruction=episode.instruction,
        episode=episode.episode_id,
        robot=state.robot[i].numpy(),
        joint=joint,
        held=int(state.held[i]),
        object_category=state.object_category[i].numpy(),
        object_position=state.object_position[i].numpy(),
        object_inside=state.object_inside[i].numpy(),
        receptacle_center=center,
        receptacle_half=state.receptacle_half[i].numpy(),
        receptacle_yaw=state.receptacle_yaw[i].numpy(),
        nav_pose=state.nav_pose[i].numpy(),
        visible=np.asarray(visible[i], dtype=bool),
        valid=np.ones(NUM_ACTIONS, dtype=bool) if valid is None else np.asarray(valid[i], dtype=bool),
    )


class Planner(ABC):
    """Chooses actions for one world; `reset` starts an episode and may be called at any time."""

    @abstractmethod
    def reset(self, view: PlannerView) -> None:
        """Forget everything and read the new episode's goal."""

    @abstractmethod
    def act(self, view: PlannerView) -> int:
        """The next action, an index into ACTIONS."""

    def slip(self, view: PlannerView, draw: float) -> int:
        """A mistake somebody might make here; `draw` in [0, 1) chooses it.

        Mostly reaching for something wanted, wherever the robot stands, or putting down what it holds at a place that
        is wanted for something: what a policy that sees badly does too early. Else any action.
        """
        if draw < SLIP_PLAUSIBLE:
            wants = wants_of(view.goal)
            if view.held < 0:
                choices = [pick(c) for c in sorted(wants.categories)]
            else:
                choices = [place(r) for r in sorted({r for _, r in wants.moves})]
            if choices:
                return choices[int(draw / SLIP_PLAUSIBLE * len(choices))]
            draw = draw / SLIP_PLAUSIBLE
        else:
            draw = (draw - SLIP_PLAUSIBLE) / (1 - SLIP_PLAUSIBLE)
        return int(draw * NUM_ACTIONS)


@dataclass
class Wants:
    """A goal as lists of things to bring about."""

    moves: list[tuple[int, int]] = field(default_factory=list)  # (category, receptacle): an own object for each
    removals: list[tuple[int, int]] = field(default_factory=list)  # (category, receptacle): none of them there
    handles: list[tuple[int, bool]] = field(default_factory=list)  # (handle, opened)
    at: list[int] = field(default_factory=list)  # nav targets
    at_objects: list[int] = field(default_factory=list)  # categories: stand at any one

    @property
    def categories(self) -> set[int]:
        return {c for c, _ in self.moves + self.removals} | set(self.at_objects)


_CALL = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*")


def wants_of(goal: Mapping[str, Any]) -> Wants:
    """Reads a goal expression. `PlannerError` for forms that planners do not pursue."""
    wants = Wants()
    _read(goal, {}, wants)
    return wants


def _read(expr: Mapping[str, Any] | str, variables: dict[str, int], wants: Wants) -> None:
    if isinstance(expr, str):
        _read_predicate(expr, variables, wants)
        return
    try:
        variables = variables | {v["name"]: CATEGORY_INDEX[v["expr_type"]] for v in expr.get("inputs", ())}
    except KeyError as error:
        raise PlannerError(f"the goal quantifies over {error.args[0]!r}, which is no object category") from None
    kind, parts = expr["expr_type"], expr["sub_exprs"]
    if kind == "NAND" and expr.get("quantifier") == "EXISTS" and len(parts) == 1 and str(parts[0]).startswith("on_top"):
        inner = Wants()
        _read_predicate(parts[0], variables, inner)
        wants.removals += inner.moves
    elif kind in ("AND", "OR") and expr.get("quantifier", "EXISTS") == "EXISTS":
        for part in parts if kind == "AND" else parts[:1]:
            _read(part, variables, wants)
    else:
        raise PlannerError(f"planners do not pursue goals of the form {kind} {expr.get('quantifier', '')}".rstrip())


def _read_predicate(text: str, variables: Mapping[str, int], wants: Wants) -> None:
    match = _CALL.fullmatch(text)
    if match is None:
        raise PlannerError(f"{text!r} is no predicate")
    name, args = match[1], [a.strip() for a in match[2].split(",") if a.strip()]
    first, last = (args[0], args[-1]) if args else ("", "")
    if name in ("on_top", "in") and first in variables and last in RECEPTACLE_INDEX:
        wants.moves.append((variables[first], RECEPTACLE_INDEX[last]))
    elif name in ("robot_at", "robot_at_obj") and first in variables:
        wants.at_objects.append(variables[first])
    elif name == "robot_at" and first in RECEPTACLE_INDEX:
        wants.at.append(NUM_HANDLES + RECEPTACLE_INDEX[first])
    elif name == "robot_at" and first in HANDLES:
        wants.at.append(HANDLE_INDEX[first])
    elif name.startswith(("opened_", "closed_")):
        wants.handles.append((HANDLE_INDEX.get(first, FRIDGE_HANDLE), name.startswith("opened_")))
    elif name != "not_holding":  # jobs end with an empty hand anyway
        raise PlannerError(f"planners do not pursue {text!r}")


@dataclass(frozen=True)
class Job:
    """Objects to move to a receptacle, or away from one."""

    away: bool
    category: int
    receptacle: int
    slots: tuple[int, ...]  # objects that would do (of `away`: that have to go), as far as known


def open_jobs(wants: Wants, where: Mapping[int, int], category: Mapping[int, int]) -> list[Job]:
    """What is left to move, given on which receptacle each known object is (`where`, slots that are not held)."""
    used: set[int] = set()
    missing: list[tuple[int, int]] = []
    for c, r in wants.moves:
        there = next((s for s, at in where.items() if at == r and category[s] == c and s not in used), None)
        if there is None:
            missing.append((c, r))
        else:
            used.add(there)
    jobs = [Job(False, c, r, tuple(s for s in where if category[s] == c and s not in used)) for c, r in missing]
    for c, r in wants.removals:
        jobs.append(Job(True, c, r, tuple(s for s, at in where.items() if at == r and category[s] == c)))
    return jobs


def locate(view: PlannerView, slots: Collection[int]) -> dict[int, int]:
    """The receptacle each of the given objects is on or in, -1: none. Reads nothing of other objects."""
    index = np.fromiter(slots, dtype=np.int64, count=len(slots))
    offset = view.object_position[index][:, None] - view.receptacle_center  # (k, 11, 3)
    cos, sin = np.cos(view.receptacle_yaw), np.sin(view.receptacle_yaw)
    along = offset[..., 0] * cos + offset[..., 1] * sin
    across = offset[..., 1] * cos - offset[..., 0] * sin
    half = view.receptacle_half
    on = (np.abs(along) <= half[:, 0]) & (np.abs(across) <= half[:, 1]) & (np.abs(offset[..., 2]) <= half[:, 2])
    inside = view.object_inside[index]
    found = np.where(inside >= 0, inside, np.where(on.any(1), on.argmax(1), -1))
    return dict(zip(index.tolist(), found.tolist(), strict=True))
