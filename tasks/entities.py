"""The things of the benchmark: object categories, receptacles, articulated handles (arXiv 2310.17722, app. B).

Orders are those of the original's action list, so an index means the same here and there.
"""

from __future__ import annotations

from dataclasses import dataclass

from . import extensions

extensions.use()
TRAIN_CATEGORIES = (
    "ball clamp hammer screwdriver padlock scissors block drill spatula knife spoon plate sponge cleanser plum pear "
    "peach apple lemon can box banana strawberry lego rubriks_cube book bowl cup"
).split()
NOVEL_CATEGORIES = "mug orange lid toy_airplane wrench".split()
_STANDARD = tuple(name.replace("_", " ") for name in TRAIN_CATEGORIES + NOVEL_CATEGORIES)
NUM_TRAIN_CATEGORIES, NUM_STANDARD_CATEGORIES = len(TRAIN_CATEGORIES), len(_STANDARD)
CATEGORIES: tuple[str, ...] = (*_STANDARD, *(kind.name for kind in extensions.OBJECTS))
"""All 33 categories, in the order of the pick actions, then own ones (`extensions`); "rubriks cube" is spelled as in
the published data."""
if len(set(CATEGORIES)) < len(CATEGORIES):
    raise extensions.ExtensionError("an object of an extension has the name of one of the benchmark's")
_OWN = [(NUM_STANDARD_CATEGORIES + i, kind.training) for i, kind in enumerate(extensions.OBJECTS)]
TRAINING_KINDS: tuple[int, ...] = (*range(NUM_TRAIN_CATEGORIES), *(i for i, training in _OWN if training))
"""Categories that training is about."""
NOVEL_KINDS: tuple[int, ...] = (
    *range(NUM_TRAIN_CATEGORIES, NUM_STANDARD_CATEGORIES), *(i for i, training in _OWN if not training)
)  # fmt: skip
"""Categories that only novel_objects is about."""
CATEGORY_INDEX = {name: i for i, name in enumerate(CATEGORIES)}


@dataclass(frozen=True)
class Receptacle:
    """A place that holds objects."""

    name: str  # what instructions call it: "black table"
    published_name: str  # its identifier in the published episode files
    joint: int = -1  # handle (index into HANDLES) whose joint moves or shuts it; -1: always open


RECEPTACLES: tuple[Receptacle, ...] = (
    Receptacle("chair", "receptacle_aabb_Chr1_Top1_frl_apartment_chair_01"),
    Receptacle("black table", "receptacle_aabb_Tbl1_Top1_frl_apartment_table_01"),
    Receptacle("brown table", "receptacle_aabb_Tbl2_Top1_frl_apartment_table_02"),
    Receptacle("TV stand", "receptacle_aabb_TvStnd1_Top1_frl_apartment_tvstand"),
    Receptacle("sink", "receptacle_aabb_sink_kitchen_counter"),
    Receptacle("right counter", "receptacle_aabb_counter_right_kitchen_counter"),
    Receptacle("left counter", "receptacle_aabb_counter_left_kitchen_counter"),
    Receptacle("sofa", "receptacle_aabb_Sofa_frl_apartment_sofa"),
    Receptacle("fridge", "receptacle_aabb_middle_topfrl_apartment_refrigerator", joint=4),
    Receptacle("left drawer", "receptacle_aabb_drawer_left_top_frl_apartment_kitchen_counter", joint=0),
    Receptacle("right drawer", "receptacle_aabb_drawer_right_top_frl_apartment_kitchen_counter", joint=2),
)
RECEPTACLE_INDEX = {r.name: i for i, r in enumerate(RECEPTACLES)} | {
    r.published_name: i for i, r in enumerate(RECEPTACLES)
}
NUM_RECEPTACLES = len(RECEPTACLES)
TASK_RECEPTACLES: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 7)
"""The seven open-air receptacles between which tasks move objects (the chair is none of them)."""
FRIDGE, LEFT_DRAWER, RIGHT_DRAWER = 8, 9, 10

HANDLES: tuple[str, ...] = (
    "cab_push_point_7", "cab_push_point_6", "cab_push_point_5", "cab_push_point_4", "fridge_push_point"
)  # fmt: skip
"""Articulated handles in the order of their nav actions; 0..3 are drawers (prismatic, m), 4 the fridge door (rad)."""
HANDLE_INDEX = {name: i for i, name in enumerate(HANDLES)}
NUM_HANDLES = len(HANDLES)
FRIDGE_HANDLE = 4

NUM_NAV_TARGETS = NUM_HANDLES + NUM_RECEPTACLES
"""Navigation targets: the 5 handles, then the 11 receptacles."""

JOINT_OPEN_TO = (0.45, 0.45, 0.45, 0.45, 1.22)  # what `open` sets: m for drawers, rad for the fridge door
JOINT_OPEN_ABOVE = (0.35, 0.35, 0.35, 0.35, 1.07)  # counts as open above
JOINT_CLOSED_BELOW = 0.15  # counts as closed when |q| is below
