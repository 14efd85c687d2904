"""A planner that knows only what it has seen: the demonstrator for behaviour cloning.

Its next action depends on the goal, on the receptacles named in the instruction, on what it remembers to have seen, on
its hand and on where it last drove: all things a policy with the same camera can know. Joints, preconditions, the
robot's coordinates and objects not yet seen are never read.
"""

from __future__ import annotations

from .actions import ACTIONS, nav_to_handle, nav_to_receptacle, pick, place, set_handle
from .entities import FRIDGE, LEFT_DRAWER, RECEPTACLES, RIGHT_DRAWER, TASK_RECEPTACLES
from .planners_base import Job, Planner, PlannerView, Wants, locate, open_jobs, wants_of

_CHAIR = 0
SEARCH_ORDER = (*TASK_RECEPTACLES, _CHAIR, LEFT_DRAWER, RIGHT_DRAWER, FRIDGE)


class Explorer(Planner):
    """Fetches what it remembers, else looks at the next receptacle: those the instruction names, then a fixed order.

    Where it looks in vain it also reaches, once, for what it wants, if the instruction names the place, or once it has
    looked at all the places where tasks happen: an object may be hidden by the arm or by others, and a failed pick
    costs one step. Chair, drawers and fridge come last. A pick that fails, or a goal that should hold and does not,
    makes it forget and look on."""

    def reset(self, view: PlannerView) -> None:
        self._wants: Wants = wants_of(view.goal)
        closed = {handle for handle, opened in self._wants.handles if not opened}  # not to be opened without need
        self._named = [i for i, r in enumerate(RECEPTACLES) if r.name in view.instruction and r.joint not in closed]
        self._where: dict[int, int] = {}  # slot -> receptacle on which it was last seen
        self._category: dict[int, int] = {}  # slot -> category, of all objects ever seen
        self._failed: set[tuple[int, int]] = set()  # (slot, receptacle) where reaching for it did not work
        self._groped: set[tuple[int, int]] = set()  # (category, receptacle) where it reached without seeing one
        self._visited: set[int] = set()  # receptacles looked at
        self._opened: set[int] = set()  # handles opened by it
        self._turned: set[int] = set()  # handles the goal is about, set by it
        self._looked_in_vain = False  # at all task receptacles
        self._here = -1  # nav target it stands at
        self._held = view.held
        self._last = -1  # its last action

    def act(self, view: PlannerView) -> int:
        self._note_outcome(view)
        self._look(view)
        self._last = self._choose(view.held)
        self._held = view.held
        return self._last

    def overruled(self, action: int) -> None:
        self._last = action

    def _note_outcome(self, view: PlannerView) -> None:
        """What the last action did, its own or somebody else's, as far as place and hand show it."""
        if self._last < 0:
            return
        done = ACTIONS[self._last]
        if done.kind == "nav":
            self._here = self._last
            for receptacle in (r for r in SEARCH_ORDER if nav_to_receptacle(r) == self._here):
                if not self._shut(receptacle):
                    self._visited.add(receptacle)
            self._stood_in_vain()
        elif done.kind == "pick" and view.held < 0:
            here = [s for s, r in self._where.items() if nav_to_receptacle(r) == self._here]
            self._give_up([s for s in here if self._category[s] == done.target])
            self._groped |= {(done.target, r) for r in self._visited if nav_to_receptacle(r) == self._here}
        elif done.kind == "place" and view.held < 0 <= self._held:
            self._where[self._held] = done.target
        elif done.kind == "place" and view.held >= 0 and nav_to_receptacle(done.target) == self._here:
            self._here = -1  # not at it after all: drive there again
        elif done.kind in ("open", "close") and nav_to_handle(done.target) == self._here:
            (self._opened.add if done.kind == "open" else self._opened.discard)(done.target)
            self._visited |= {r for r in SEARCH_ORDER if RECEPTACLES[r].joint == done.target}
            as_wanted = (done.target, done.kind == "open") in self._wants.handles
            (self._turned.add if as_wanted else self._turned.discard)(done.target)

    def _stood_in_vain(self) -> None:
        """Still running after driving to an object that was only to be found: that one is out of reach."""
        found = [s for s, r in self._where.items() if self._category[s] in self._wants.at_objects]
        self._give_up([s for s in found if nav_to_receptacle(self._where[s]) == self._here])

    def _give_up(self, slots: list[int]) -> None:
        for slot in slots:
            self._failed.add((slot, self._where.pop(slot)))

    def _look(self, view: PlannerView) -> None:
        if view.held >= 0:
            self._where.pop(view.held, None)
            self._category[view.held] = int(view.object_category[view.held])
        seen = [s for s in view.visible.nonzero()[0].tolist() if s != view.held]
        for slot, receptacle in locate(view, seen).items() if seen else ():
            self._category[slot] = int(view.object_category[slot])
            if receptacle >= 0 and (slot, receptacle) not in self._failed:
                self._where[slot] = receptacle

    def _choose(self, held: int) -> int:
        jobs = open_jobs(self._wants, self._where, self._category)
        pending = any(job.slots or not job.away for job in jobs)
        if held >= 0 and (pending or self._category[held] not in self._wants.hold):
            return self._put_down(self._category[held], jobs)
        known = [job for job in jobs if job.slots]
        for job in known:  # what lies before it comes first
            for slot in job.slots:
                if nav_to_receptacle(self._where[slot]) == self._here and not self._shut(self._where[slot]):
                    return pick(job.category)
        for job in known:
            return self._drive(min((self._where[s] for s in job.slots), key=SEARCH_ORDER.index))
        for job in jobs:
            if self._may_lie_here(job):
                return pick(job.category)
        for job in jobs:
            if not job.away and not self._moved_all(job):
                return self._search(job.receptacle)
            if job.receptacle not in self._visited:
                return self._drive(job.receptacle)
        return self._finish(held)

    def _may_lie_here(self, job: Job) -> bool:
        """Whether to reach for something not seen, once a place: it may lie hidden, or too far to make out."""
        receptacle = next((r for r in self._visited if nav_to_receptacle(r) == self._here), None)
        if receptacle is None or (receptacle == job.receptacle) != job.away:
            return False
        if receptacle not in self._named and not self._looked_in_vain:
            return False
        return (job.category, receptacle) not in self._groped

    def _moved_all(self, job: Job) -> bool:
        """Whether a job about all objects of a category is done, as far as it has seen: it has looked everywhere."""
        return (job.category, job.receptacle) in self._wants.every and self._visited.issuperset(self._places())

    def _places(self) -> tuple[int, ...]:
        """Where to look: first where things lie in sight."""
        return SEARCH_ORDER if self._looked_in_vain else TASK_RECEPTACLES

    def _put_down(self, category: int, jobs: list[Job]) -> int:
        for job in jobs:
            if not job.away and job.category == category:
                return self._deliver(job.receptacle)
        avoid = [r for c, r in self._wants.removals if c == category]
        start = TASK_RECEPTACLES.index(avoid[0]) + 1 if avoid and avoid[0] in TASK_RECEPTACLES else 0
        turn = TASK_RECEPTACLES[start:] + TASK_RECEPTACLES[:start]  # the one after the place it must leave
        return self._deliver(next(r for r in turn if r not in avoid))

    def _deliver(self, receptacle: int) -> int:
        if self._shut(receptacle) or nav_to_receptacle(receptacle) != self._here:
            return self._drive(receptacle)
        return place(receptacle)

    def _search(self, target: int | None) -> int:
        """Looks at the next receptacle; the one that things are wanted on comes last."""
        order = [r for r in (*self._named, *self._places()) if r != target] + [r for r in (target,) if r is not None]
        for receptacle in order:
            if receptacle not in self._visited:
                return self._drive(receptacle)
        return self._start_over(order[0])

    def _drive(self, receptacle: int) -> int:
        """One step nearer to standing before an open receptacle."""
        if not self._shut(receptacle):
            return nav_to_receptacle(receptacle)
        handle = RECEPTACLES[receptacle].joint
        return set_handle(handle, True) if self._here == nav_to_handle(handle) else nav_to_handle(handle)

    def _shut(self, receptacle: int) -> bool:
        handle = RECEPTACLES[receptacle].joint
        return handle >= 0 and handle not in self._opened

    def _finish(self, held: int) -> int:
        """Nothing is left to move: handles, then places to stand at, then things to find."""
        for handle, opened in self._wants.handles:
            if handle not in self._turned:
                return set_handle(handle, opened) if self._here == nav_to_handle(handle) else nav_to_handle(handle)
        for category in self._wants.at_objects:
            found = [r for s, r in self._where.items() if self._category[s] == category]
            return self._drive(min(found, key=SEARCH_ORDER.index)) if found else self._search(None)
        for category in self._wants.hold if held < 0 else ():
            found = [r for s, r in self._where.items() if self._category[s] == category]
            return self._reach_for(category, min(found, key=SEARCH_ORDER.index)) if found else self._search(None)
        if self._wants.at:
            return self._wants.at[0]
        return self._start_over(SEARCH_ORDER[0])

    def _reach_for(self, category: int, receptacle: int) -> int:
        at_it = nav_to_receptacle(receptacle) == self._here and not self._shut(receptacle)
        return pick(category) if at_it else self._drive(receptacle)

    def _start_over(self, receptacle: int) -> int:
        """All looked at and the goal is not reached: memory is wrong, look at everything again."""
        self._where.clear()
        self._visited.clear()
        self._failed.clear()
        self._groped.clear()
        self._turned.clear()
        self._looked_in_vain = True
        return nav_to_receptacle(receptacle)
