"""The 70 skills, in the original's order: 16 nav, 33 pick, 11 place, 2 fridge, 8 drawer actions; then own ones."""

from __future__ import annotations

from dataclasses import dataclass

from . import extensions
from .entities import CATEGORIES, FRIDGE_HANDLE, HANDLES, NOVEL_KINDS, NUM_STANDARD_CATEGORIES, RECEPTACLES


@dataclass(frozen=True)
class Action:
    """One skill. `target` indexes nav targets, categories, receptacles or handles, as `kind` says."""

    index: int
    kind: str  # nav | pick | place | open | close, or own
    target: int
    name: str  # "nav(black table)"
    words: str  # "go to the black table": what a language model is shown


_HANDLE_WORDS = ("drawer 7", "drawer 6", "drawer 5", "drawer 4", "fridge door")


def _build() -> tuple[Action, ...]:
    rows: list[tuple[str, int, str, str]] = []
    for i, words in enumerate(_HANDLE_WORDS):
        rows.append(("nav", i, f"nav({words})", f"go to the {words}"))
    for i, r in enumerate(RECEPTACLES):
        rows.append(("nav", len(HANDLES) + i, f"nav({r.name})", f"go to the {r.name}"))
    picks = [("pick", i, f"pick({c})", f"pick up the {c}") for i, c in enumerate(CATEGORIES)]
    rows += picks[:NUM_STANDARD_CATEGORIES]
    for i, r in enumerate(RECEPTACLES):
        rows.append(("place", i, f"place({r.name})", f"put it on the {r.name}"))
    rows.append(("open", FRIDGE_HANDLE, "open(fridge)", "open the fridge"))
    rows.append(("close", FRIDGE_HANDLE, "close(fridge)", "close the fridge"))
    for kind in ("open", "close"):
        for i in range(FRIDGE_HANDLE):
            rows.append((kind, i, f"{kind}({_HANDLE_WORDS[i]})", f"{kind} {_HANDLE_WORDS[i]}"))
    rows += picks[NUM_STANDARD_CATEGORIES:]
    rows += [("own", i, skill.name, skill.words) for i, skill in enumerate(extensions.SKILLS)]
    return tuple(Action(i, *row) for i, row in enumerate(rows))


ACTIONS = _build()
NUM_ACTIONS = len(ACTIONS)
NUM_STANDARD = 70
"""Actions from this index on are own ones (`extensions`): picks of own objects, then own skills."""
ACTION_NAMES: tuple[str, ...] = tuple(a.name for a in ACTIONS)
ACTION_INDEX = {name: i for i, name in enumerate(ACTION_NAMES)}
if len(ACTION_INDEX) < NUM_ACTIONS:
    raise extensions.ExtensionError("a skill of an extension has the name of one of the benchmark's")

NAV_BASE, PICK_BASE, PLACE_BASE = 0, 16, 49
OPEN_FRIDGE, CLOSE_FRIDGE, OPEN_DRAWER_BASE, CLOSE_DRAWER_BASE = 60, 61, 62, 66


def nav_to_receptacle(receptacle: int) -> int:
    """Index of the action that drives to a receptacle (index into RECEPTACLES)."""
    return NAV_BASE + len(HANDLES) + receptacle


def nav_to_handle(handle: int) -> int:
    """Index of the action that drives to a handle (index into HANDLES)."""
    return NAV_BASE + handle


def pick(category: int) -> int:
    """Index of the action that picks up an object of a category (index into CATEGORIES)."""
    own = category - NUM_STANDARD_CATEGORIES
    return PICK_BASE + category if own < 0 else NUM_STANDARD + own


def place(receptacle: int) -> int:
    """Index of the action that puts the held object on a receptacle (index into RECEPTACLES)."""
    return PLACE_BASE + receptacle


def set_handle(handle: int, opened: bool) -> int:
    """Index of the action that opens or closes a handle (index into HANDLES)."""
    if handle == FRIDGE_HANDLE:
        return OPEN_FRIDGE if opened else CLOSE_FRIDGE
    return (OPEN_DRAWER_BASE if opened else CLOSE_DRAWER_BASE) + handle


NOVEL_PICKS = [pick(category) for category in NOVEL_KINDS]
"""Those of the categories that training holds out."""
