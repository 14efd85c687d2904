"""From facts to actions: which objects to carry where, in which order, standing where."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from .actions import nav_to_receptacle
from .entities import NUM_HANDLES, NUM_NAV_TARGETS, RECEPTACLES, TASK_RECEPTACLES
from .planners_errands import Errands, Stage
from .planners_facts import MEANING, Facts
from .planners_prospect import HERE, Prospect

MAX_NODES = 200
"""Errands that are looked at to find the order of them."""
MAX_RELOCATIONS = 6
_ERRAND = 4  # steps to fetch one thing
_IN_THE_WAY = 10.0  # steps it is worth to put something down where it cannot be grabbed by mistake
_CHAIR = 0
RECEPTACLE_OF = {r.joint: i for i, r in enumerate(RECEPTACLES) if r.joint >= 0}
"""The receptacle in the furniture that each handle opens, where there is one."""


class PlanSearch(Errands):
    """Finds a short plan that makes all `facts` true at its end, or as many of them as can be had."""

    def __init__(self, prospect: Prospect, facts: Facts, now: Iterable[int]):
        """`now`: the atoms of `facts` that are as wanted."""
        super().__init__(prospect)
        fulfilled = set(now)
        self.target: dict[int, int] = {}  # slot -> receptacle it is wanted on
        self.barred: dict[int, set[int]] = {}  # slot -> receptacles it must not be on
        self.hold, self.jobs = -1, []  # type: int, list[int]
        self.empty: bool | None = None  # whether the hand has to be empty in the end
        self.pose_facts: list[tuple[str, int, bool]] = []
        self.open: dict[int, bool] = {}  # handle -> whether it has to be open in the end
        self.as_wanted: set[int] = set()  # handles that are so at the beginning
        for atom, wanted in facts.items():
            kind, first, second = MEANING[atom]
            if kind == "inside":
                kind, second = "on_top", RECEPTACLE_OF.get(second, -1)
            if kind == "on_top":
                if wanted:
                    self.target[first] = second
                else:
                    self.barred.setdefault(first, set()).add(second)
                if atom not in fulfilled:
                    self.jobs.append(first)
            elif kind == "holding" and wanted:
                self.hold = first
            elif kind == "holding" and atom not in fulfilled:
                self.empty = True
            elif kind == "not_holding":
                self.empty = wanted
            elif kind.startswith("robot_at"):
                self.pose_facts.append((kind, first, wanted))
            elif kind in ("opened", "closed"):
                self.open[first] = (kind == "opened") == wanted
                if atom in fulfilled:
                    self.as_wanted.add(first)

    def run(self, held: int, waited: int = 0) -> Stage:
        """The best plan found. If nothing is left to do it drives somewhere, elsewhere for each `waited` (in published
        rules what is in the hand may be on top of something below it)."""
        self.nodes, self.waited = 0, waited
        self.best: Stage | None = None
        start = Stage((), HERE, held, {}, {})
        jobs = tuple(dict.fromkeys(job for job in self.jobs if job != self.hold))
        if held >= 0 and (held in jobs or jobs or self.empty or self.hold not in (-1, held)):
            put = self._put_down(start, held, jobs)
            if put is None:
                return self._go(start, nav_to_receptacle(TASK_RECEPTACLES[0]))._replace(left=len(jobs) + 1)
            start, jobs = put, tuple(s for s in jobs if s != held)
        self._arrange(start, jobs)
        assert self.best is not None
        return self.best

    # -- carrying -----------------------------------------------------------------------------------------------------

    def _arrange(self, stage: Stage, jobs: tuple[int, ...]) -> None:
        """Tries the orders in which the objects `jobs` can be carried, the most promising first."""
        ways: list[tuple[float, Stage, tuple[int, ...]]] = []
        for job in jobs:
            self.nodes += 1
            child, rest = self._deliver(stage, job, jobs), tuple(j for j in jobs if j != job)
            if child is None:
                cleared = self._clear_and_deliver(stage, job, jobs)
                if cleared is None:
                    continue
                child, rest = cleared
            in_the_way = sum(self._blockers(child, j, rest)[1] for j in rest if len(self.world.alike(j)) > 1)
            ways.append((len(child.steps) + 2 * _ERRAND * in_the_way + _ERRAND * len(rest), child, rest))
        if not ways:
            self._offer(self._finish(stage, len(jobs)))
        for _, child, rest in sorted(ways, key=lambda way: way[0]):
            if self.best is not None:
                if self.nodes > MAX_NODES or (0, len(child.steps) + 2 * len(rest)) >= self.best.rank():
                    continue
            self._arrange(child, rest)

    def _clear_and_deliver(
        self, stage: Stage, slot: int, jobs: tuple[int, ...]
    ) -> tuple[Stage, tuple[int, ...]] | None:
        """Carries away what pick would take instead of an object, then the object; and what is left to do then."""
        cleared = self._cleared(stage, slot, jobs)
        delivered = None if cleared is None else self._deliver(cleared[0], slot, jobs)
        if cleared is None or delivered is None:
            return None
        left = [j for j in jobs if j not in (slot, *cleared[1])]
        return delivered, (*left, *(s for s in cleared[1] if delivered.moved[s] != self.target.get(s, -1)
                                    and s in self.target))  # fmt: skip

    def _cleared(self, stage: Stage, slot: int, jobs: tuple[int, ...]) -> tuple[Stage, list[int]] | None:
        """After carrying away what pick would take instead of an object; and which objects that were."""
        stand, _ = self._blockers(stage, slot)
        opened = self._unlocked(stage, slot)
        if stand < 0 or opened is None:
            return None
        stage, away = opened, list[int]()
        while (blocker := self._grabs(stage, stand, slot)) != slot:
            then = self._deliver(stage, blocker, jobs, away_from=stand) if blocker >= 0 else None
            if then is None or len(away) == MAX_RELOCATIONS:
                return None
            if blocker in away:  # whatever is put down stays within reach: perhaps not another time
                self._offer(then._replace(left=len(jobs) - 0.5))
                return None
            stage = then
            away.append(blocker)
        return stage, away

    def _blockers(self, stage: Stage, slot: int, jobs: tuple[int, ...] = ()) -> tuple[int, float]:
        """The pose from where an object is reached with the fewest others that pick would take first, and how many of
        them are to be expected (once `jobs` are done); -1, 0 if it is out of reach."""
        best = (-1, 0.0)
        for pose in self._poses(stage, slot):
            if self._in_reach(stage, pose, slot, ajar=True):
                count = sum(self._chance(stage, pose, s, jobs) for s in self.world.alike(slot) if s < slot)
                if best[0] < 0 or count < best[1]:
                    best = pose, count
                if count == 0:
                    break
        return best

    def _chance(self, stage: Stage, pose: int, slot: int, jobs: tuple[int, ...]) -> float:
        """How likely it is that pick would find an object, once `jobs` are done."""
        if slot in jobs:
            return self.world.chance[pose][self.target[slot]] if slot in self.target else 0.0
        if slot in stage.moved:
            return self.world.chance[pose][stage.moved[slot]]
        return float(self._in_reach(stage, pose, slot))

    def _offer(self, stage: Stage) -> None:
        if self.best is None or stage.rank() < self.best.rank():
            self.best = stage

    def _deliver(self, stage: Stage, slot: int, jobs: tuple[int, ...], away_from: int = -1) -> Stage | None:
        """Fetches an object and puts it where it is wanted (or, of a blocker, away from a pose); None: it cannot."""
        stage_open = self._unlocked(stage, slot)
        if stage_open is None:
            return None
        stage = stage_open
        goals = self._goals(stage, slot, jobs, away_from)
        best: tuple[float, int, int] | None = None  # cost, pose, receptacle
        for pose in self._poses(stage, slot):
            drive = pose != stage.pose
            if best is not None and drive >= best[0]:
                continue
            if self._grabs(stage, pose, slot) == slot:
                for extra, receptacle in goals:
                    cost = drive + extra + (not self.world.at[pose][NUM_HANDLES + receptacle])
                    if best is None or cost < best[0]:
                        best = cost, pose, receptacle
        if best is None:
            return None
        fetched = self._fetch(stage, slot, best[1])
        return self._put(fetched, slot, best[2])

    def _goals(self, stage: Stage, slot: int, jobs: tuple[int, ...], away_from: int) -> list[tuple[float, int]]:
        """Receptacles that will do for an object, with the steps that each is worse than it seems."""
        if slot in self.target and away_from < 0:
            return [(0.0, self.target[slot])]
        if slot in self.target and not self.world.chance[away_from][self.target[slot]]:
            return [(0.0, self.target[slot])]
        stands = [away_from] if away_from >= 0 else []
        category = self.world.category.get(slot)
        stands += [NUM_HANDLES + self.world.on[j] for j in jobs
                   if j != slot and self.world.category[j] == category and self.world.on[j] >= 0]  # fmt: skip
        allowed = [r for r in (*TASK_RECEPTACLES, _CHAIR) if r not in self.barred.get(slot, ())]
        if away_from >= 0:
            allowed = [r for r in allowed if not self.world.chance[away_from][r]] or allowed
        in_the_way = {r for r in allowed if any(self.world.chance[stand][r] for stand in stands)}
        return [(_IN_THE_WAY * (r in in_the_way), r) for r in allowed]

    def _put_down(self, stage: Stage, slot: int, jobs: tuple[int, ...]) -> Stage | None:
        """Puts down what the hand holds at the beginning."""
        goals = self._goals(stage, slot, jobs, -1)
        at = self.world.at[stage.pose]
        _, receptacle = min(goals, key=lambda goal: goal[0] + (not at[NUM_HANDLES + goal[1]]))
        return self._put(stage, slot, receptacle)

    # -- the end ------------------------------------------------------------------------------------------------------

    def _finish(self, stage: Stage, left: float) -> Stage:
        """What the goal wants of the hand, of handles and of where the robot stands, after `left` things undone."""
        if self.hold >= 0 and stage.held != self.hold:
            stage, left = self._take(stage, [self.hold], left)
        elif self.empty is False and self.hold < 0 and stage.held < 0:
            stage, left = self._take(stage, self.world.slots, left)
        for handle, opened in self.open.items():
            if stage.turned.get(handle, opened if handle in self.as_wanted else not opened) != opened:
                turned = self._turn(stage, handle, opened)
                stage, left = (stage, left + 1) if turned is None else (turned, left)
        if self.pose_facts:
            stage, left = self._take_a_stand(stage, left)
        if not stage.steps:
            stands = [p for p in self._stands(stage)[1:] if self._stands_right(stage, p)] or [stage.pose]
            pose = stands[self.waited % len(stands)] % NUM_NAV_TARGETS
            stage = stage.then(pose, pose=pose)._replace(idle=True)
        return stage._replace(left=left)

    def _take_a_stand(self, stage: Stage, left: float) -> tuple[Stage, float]:
        """Drives to where everything is as the goal wants it; if need be with an object, which one then is at."""
        stand = next((p for p in self._stands(stage) if self._stands_right(stage, p)), None)
        if stand is not None:
            return self._go(stage, stand), left
        for kind, slot, wanted in self.pose_facts if stage.held < 0 and not self.empty else ():
            if kind != "robot_at" and wanted:
                taken, missed = self._take(stage, [slot], 0)
                if not missed:
                    return self._take_a_stand(taken, left)
        return stage, left + 1

    def _take(self, stage: Stage, slots: Sequence[int], left: float) -> tuple[Stage, float]:
        """Picks up the first of some objects that can be had."""
        for slot in slots:
            opened = self._unlocked(stage, slot) or stage
            for pose in self._poses(opened, slot):
                if self._grabs(opened, pose, slot) == slot:
                    return self._fetch(opened, slot, pose), left
        for slot in slots:
            if (cleared := self._cleared(stage, slot, ())) is not None:
                return self._take(cleared[0], [slot], left)
        return stage, left + 1

    def _stands(self, stage: Stage) -> list[int]:
        own = [first for kind, first, wanted in self.pose_facts if kind == "robot_at" and wanted]
        own += [NUM_HANDLES + on for kind, slot, wanted in self.pose_facts if kind != "robot_at" and wanted
                and (on := stage.moved.get(slot, self.world.on.get(slot, -1))) >= 0]  # fmt: skip
        return [stage.pose, *own, *range(NUM_NAV_TARGETS - 1, -1, -1)]

    def _stands_right(self, stage: Stage, pose: int) -> bool:
        return all(self._is_at(stage, pose, kind, first) == wanted for kind, first, wanted in self.pose_facts)
