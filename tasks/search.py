"""Whether an episode can be solved at all: what could ever come true, then every state that can be reached.

For episodes on which the oracle fails. Put-down points are drawn once for each receptacle, so a state that depends on
a lucky point may be missed; what the first part finds impossible is impossible for any points and any number of steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from . import keyed_random
from .actions import ACTIONS, NUM_ACTIONS
from .atoms import NUM_ATOMS, truth
from .entities import CATEGORIES, FRIDGE_HANDLE, HANDLES, RECEPTACLES
from .goals import AND, NAND, NOR, Circuit, Circuits, evaluate
from .planners_facts import MEANING, OF_OBJECTS, Fact
from .rules import can_pick_from, in_container, open_to
from .semantics import NUM_DRAWS, apply, read_atoms, valid_actions
from .state import WorldState

MAX_STEPS = 32
_CHUNK = 1024  # states that are taken one step further at once
_DRAW_STREAM = 103
_METRE = 100  # states are the same where positions agree to the centimetre

SOLVABLE, INFEASIBLE, UNDECIDED = "solvable", "infeasible", "undecided"


@dataclass(frozen=True)
class Verdict:
    """What the search found out about one episode."""

    kind: str  # SOLVABLE, INFEASIBLE or UNDECIDED
    reason: str
    actions: tuple[int, ...] = ()  # of a shortest solution
    states: int = 0  # different states looked at


def search(
    state: WorldState, circuit: Circuit, half_size: Tensor, rules: str, max_steps: int = MAX_STEPS,
    max_states: int = 60_000, seed: int = 0,
) -> Verdict:
    """Judges the one world of `state`, from where it stands; `half_size` (K, 3) of the object catalogue."""
    if missing := impossible(state, circuit, rules):
        return Verdict(INFEASIBLE, missing)
    return _explore(state, circuit, half_size, rules, max_steps, max_states, seed)


# -- what could ever come true -----------------------------------------------------------------------------------------


def impossible(state: WorldState, circuit: Circuit, rules: str) -> str:
    """Why the goal can never hold, "" if that cannot be ruled out.

    Every fact is looked at by itself: whether some sequence of skills could make it true, or false. Where that is not
    certain, it counts as possible."""
    can_be = _Possible(state, rules)
    memory: dict[tuple[int, bool], bool] = {}

    def possible(source: int, wanted: bool) -> bool:
        if source < NUM_ATOMS:
            return can_be(source, wanted)
        key = (source, wanted)
        if key not in memory:
            op, sources = circuit.ops[source - NUM_ATOMS], circuit.sources[source - NUM_ATOMS]
            inner = wanted != (op in (NAND, NOR))
            every = all if (op in (AND, NAND)) == inner else any
            memory[key] = every(possible(s, inner) for s in sources)
        return memory[key]

    def blame(source: int, wanted: bool) -> Iterator[int]:
        """Atoms on which an impossible node fails."""
        if source < NUM_ATOMS:
            yield source
            return
        op, sources = circuit.ops[source - NUM_ATOMS], circuit.sources[source - NUM_ATOMS]
        inner = wanted != (op in (NAND, NOR))
        for s in sources:
            if not possible(s, inner):
                yield from blame(s, inner)

    if possible(NUM_ATOMS, True):
        return ""
    reasons = dict.fromkeys(can_be.why_not(MEANING[atom]) for atom in blame(NUM_ATOMS, True))
    return "; ".join(reasons) or "nothing in the room satisfies the goal"


class _Possible:
    """Whether an atom could ever have a truth value: optimistic, each atom by itself."""

    def __init__(self, state: WorldState, rules: str):
        self.now = truth(state, rules)[0].tolist()
        self.category, self.held = state.object_category[0].tolist(), int(state.held[0])
        poses = torch.cat([state.nav_pose[0], state.robot])
        stands = state.rows(torch.zeros(len(poses), dtype=torch.int64))
        stands.robot = poses
        facts = truth(stands, rules)
        self.ever_here = (facts.any(0)).tolist()  # of facts about where the robot is
        self.ever_away = (~facts.all(0)).tolist()
        reach = can_pick_from(poses, stands.object_position[..., :2]) & (state.object_category >= 0)
        reach |= self._in_drawer(state)  # it moves with the drawer, so wherever it is now, count it as in reach
        self.obtainable = self._obtainable(reach.numpy())

    @staticmethod
    def _in_drawer(state: WorldState) -> Tensor:
        """Objects that a drawer could take along, bool (1, M): those in it, and those it slides over."""
        joints = torch.tensor([r.joint for r in RECEPTACLES])[state.object_inside]  # inside -1 takes the last
        taken = (state.object_inside >= 0) & (joints < FRIDGE_HANDLE)
        for joint in (state.joint, torch.zeros_like(state.joint), open_to(state.joint.device)[None]):
            taken = taken | in_container(replace(state, joint=joint))[..., :FRIDGE_HANDLE].any(-1)
        return taken

    def _obtainable(self, reach: np.ndarray) -> set[int]:
        """Objects that can be picked up once all others of their category that can be have been taken away."""
        found = {self.held} - {-1}
        while True:
            more = set()
            for slot, category in enumerate(self.category):
                first = [s for s in range(slot) if self.category[s] == category and s not in found]
                if category >= 0 and slot not in found and bool((reach[:, slot] & ~reach[:, first].any(1)).any()):
                    more.add(slot)
            if not more:
                return found
            found |= more

    def __call__(self, atom: int, wanted: bool) -> bool:
        kind, first, _ = MEANING[atom]
        if self.now[atom] == wanted:
            return True
        if kind in ("false", "true"):
            return False
        if kind == "own":  # nobody knows
            return True
        if kind == "not_holding":
            return wanted or bool(self.obtainable)
        if kind in OF_OBJECTS and first in self.obtainable:
            return True
        if kind in ("on_top", "inside", "holding"):
            return False
        return True if kind in ("opened", "closed") else (self.ever_here if wanted else self.ever_away)[atom]

    def why_not(self, fact: Fact) -> str:
        kind, first, second = fact
        if kind in OF_OBJECTS:
            name = CATEGORIES[self.category[first]] if self.category[first] >= 0 else "object"
            return f"{name} in slot {first}: nav leads nowhere from where it can be picked up"
        place = (HANDLES + tuple(r.name for r in RECEPTACLES))[first] if kind == "robot_at" else kind
        return f"{kind} {place} never changes"


# -- every state -------------------------------------------------------------------------------------------------------


def _relevant(state: WorldState, circuit: Circuit) -> tuple[list[int], Tensor]:
    """Slots of the categories that the goal speaks of, and the actions that can matter, bool (70,)."""
    facts = [MEANING[s] for sources in circuit.sources for s in sources if s < NUM_ATOMS]
    category = state.object_category[0].tolist()
    kinds = {category[f.first] for f in facts if f.kind in OF_OBJECTS}
    slots = [s for s, c in enumerate(category) if c in kinds and c >= 0]
    handles = {f.first for f in facts if f.kind in ("opened", "closed")}
    inside = {int(state.object_inside[0, s]) for s in slots} | {f.second for f in facts if f.kind == "on_top"}
    handles |= {RECEPTACLES[r].joint for r in inside if r >= 0 and RECEPTACLES[r].joint >= 0}
    useful = torch.zeros(NUM_ACTIONS, dtype=torch.bool)
    for action in ACTIONS:
        useful[action.index] = (
            action.kind in ("nav", "place", "own")
            or (action.kind == "pick" and action.target in kinds)
            or (action.kind in ("open", "close") and action.target in handles)
        )
    if any(f.kind == "not_holding" for f in facts) and not kinds:
        useful |= torch.tensor([action.kind == "pick" for action in ACTIONS])
    return slots, useful


def _explore(
    start: WorldState, circuit: Circuit, half_size: Tensor, rules: str, max_steps: int, max_states: int, seed: int
) -> Verdict:
    """Breadth first, many states at a time."""
    slots, useful = _relevant(start, circuit)
    goal = Circuits.pack([circuit])
    draws = keyed_random.uniform(seed, torch.arange(NUM_ACTIONS), torch.zeros(NUM_ACTIONS, dtype=torch.int64),
                                 _DRAW_STREAM, (NUM_DRAWS,))  # fmt: skip
    layer, seen = start, _keys(start, slots)
    known = set(seen)
    came: list[list[tuple[int, int]]] = []  # of each layer: (row in the layer before, action)
    for _ in range(max_steps):
        parts: list[WorldState] = []
        origin: list[tuple[int, int]] = []
        for begin in range(0, layer.num_worlds, _CHUNK):
            here = layer.rows(torch.arange(begin, min(begin + _CHUNK, layer.num_worlds)))
            row, action = (valid_actions(here, rules) & useful).nonzero().T
            then = here.rows(row)
            before = truth(then, rules)
            kept = read_atoms(then, action, rules)
            apply(then, action, draws[action], half_size, rules)
            after = truth(then, rules)
            if kept is not None:
                after = torch.where(kept, before, after)
            reached = evaluate(goal.rows(torch.zeros_like(row)), after)[0]
            if bool(reached.any()):
                first = int(reached.nonzero()[0])
                path = [int(action[first])]
                at = begin + int(row[first])
                for steps in reversed(came):
                    at, previous = steps[at]
                    path.append(previous)
                return Verdict(SOLVABLE, f"in {len(path)} steps", tuple(reversed(path)), len(known))
            fresh = []
            for i, key in enumerate(_keys(then, slots)):
                if key not in known:
                    known.add(key)
                    fresh.append(i)
            parts.append(then.rows(torch.tensor(fresh, dtype=torch.int64)))
            origin += [(begin + int(row[i]), int(action[i])) for i in fresh]
            if len(known) > max_states:
                return Verdict(UNDECIDED, f"more than {max_states} states within {len(came) + 1} steps", (), len(known))
        if not origin:
            return Verdict(INFEASIBLE, "no state that can be reached satisfies the goal", (), len(known))
        layer = _joined(parts)
        came.append(origin)
    return Verdict(INFEASIBLE, f"no solution within {max_steps} steps", (), len(known))


def _joined(parts: list[WorldState]) -> WorldState:
    names = [name for name, value in vars(parts[0]).items() if isinstance(value, Tensor)]
    return WorldState(**{name: torch.cat([getattr(p, name) for p in parts]) for name in names})


def _keys(state: WorldState, slots: list[int]) -> list[bytes]:
    """What tells states apart: the robot, its hand, joints, and where the objects that matter are."""
    columns = [state.robot * _METRE, state.held[:, None], state.joint * _METRE,
               state.object_position[:, slots].flatten(1) * _METRE, state.object_inside[:, slots]]  # fmt: skip
    table = torch.cat([c.float() for c in columns], dim=1).round().to(torch.int32).numpy()
    return [row.tobytes() for row in table]

