"""A planner that knows the state: it makes a plan for whatever the goal's circuit asks and carries it out."""

from __future__ import annotations

import math

from .actions import ACTIONS, nav_to_receptacle
from .atoms import NOT_HOLDING
from .entities import TASK_RECEPTACLES
from .goals import ground, parse, slot_name
from .planners_base import Planner, PlannerView
from .planners_errands import Stage, Step
from .planners_facts import MEANING, Alternative, alternatives, slots_of
from .planners_prospect import HERE, Prospect
from .planners_search import RECEPTACLE_OF, PlanSearch
from .rules import PICK_ANGLE_RAD, PICK_REACH_M
from .state import MAX_OBJECTS

MAX_TRIED = 24
"""Ways to reach the goal for which a plan is made, where the cheaper ones prove impossible."""
MAX_COMPARED = 4
"""Ways about as cheap as the cheapest that are compared by their plans."""
_OUT_OF_REACH = 100.0  # steps: such ways come last, for what else they bring about
_NAMES = [slot_name(s) for s in range(MAX_OBJECTS)]
_COS_PICK = math.cos(PICK_ANGLE_RAD)


class Oracle(Planner):
    """Plans once, and anew only where something turns out otherwise: the hand is not as expected (somebody else acted),
    an action is not possible or would take another object, or the plan has ended and the goal is not reached."""

    def reset(self, view: PlannerView) -> None:
        self._circuit = ground(parse(view.goal), [], view.object_category, view.rules, _NAMES)
        self._slots = slots_of(self._circuit)
        self._kinds = {int(view.object_category[s]) for s in self._slots}
        self._steps: list[Step] = []
        self._waited = 0  # plans made that had nothing to do

    def act(self, view: PlannerView) -> int:
        if not self._goes_on(view):
            plan = self._plan(view)
            self._steps = list(reversed(plan.steps))
            self._waited += plan.idle
        return self._steps.pop().action

    def overruled(self, action: int) -> None:
        self._steps = []

    def _goes_on(self, view: PlannerView) -> bool:
        """Whether the next planned step still does what it was planned for."""
        if not self._steps:
            return False
        action, held, then = self._steps[-1]
        if view.held != held or not view.valid[action]:
            return False
        if ACTIONS[action].kind != "pick":
            return True
        return self._first_in_reach(view, ACTIONS[action].target, then)

    def _first_in_reach(self, view: PlannerView, category: int, slot: int) -> bool:
        """Whether picking the category takes hold of that object; it is in reach of something, as pick is valid."""
        earlier = (view.object_category[:slot] == category).nonzero()[0]
        x, y, yaw = view.robot.tolist()
        for s in (*earlier.tolist(), slot):
            dx, dy = float(view.object_position[s, 0]) - x, float(view.object_position[s, 1]) - y
            distance = math.hypot(dx, dy)
            if distance <= PICK_REACH_M and dx * math.cos(yaw) + dy * math.sin(yaw) >= _COS_PICK * distance:
                return s == slot
        return False

    def _plan(self, view: PlannerView) -> Stage:
        kinds = self._kinds if view.held < 0 else self._kinds | {int(view.object_category[view.held])}
        world, atoms = Prospect(view, kinds), view.atoms()
        def now(atom: int) -> bool:
            kind, slot, _ = MEANING[atom]
            return bool(atoms[atom]) and not (kind in ("on_top", "inside") and slot == view.held)

        def cost(atom: int, wanted: bool) -> float:
            kind, slot, where = MEANING[atom]
            if now(atom) == wanted:
                return 0.0
            if kind in ("false", "true", "own") or (kind == "inside" and wanted and where not in RECEPTACLE_OF):
                return math.inf
            if kind in ("on_top", "inside"):
                if slot == view.held:
                    return 2.0
                reached = any(row[world.column[slot]] for row in world.reach)
                return 4.0 if reached else _OUT_OF_REACH
            return 1.0 if kind.startswith("robot_at") else 2.0

        found: Stage | None = None
        tried: list[Alternative] = []
        for way in alternatives(self._circuit, cost)[:MAX_TRIED]:
            done = found is not None and found.left == 0
            if done and (len(tried) >= MAX_COMPARED or way.cost > tried[0].cost):
                break
            tried.append(way)
            fulfilled = [atom for atom, wanted in way.facts.items() if now(atom) == wanted]
            if way.facts.get(NOT_HOLDING) is False and view.held < 0:  # anything will do
                world = Prospect(view, set(view.object_category.tolist()) - {-1})
            stage = PlanSearch(world, way.facts, fulfilled).run(view.held, self._waited)
            if found is None or stage.rank() < found.rank():
                found = stage
        return found or Stage((), HERE, view.held, {}, {}).then(nav_to_receptacle(TASK_RECEPTACLES[0]))
