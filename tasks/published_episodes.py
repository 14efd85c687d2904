"""Published episodes as an `EpisodeSet`: our frame, our indices, goals grounded.

Frame: (x, y, z) in the files (y up) is (x, -z, y) here. Slots are in the order of the objects' published names, in
which the original's pick looks for one; predicates call objects by slot (`goals.slot_name`) instead of by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from .atoms import split_predicate
from .entities import (
    CATEGORIES,
    FRIDGE_HANDLE,
    HANDLE_INDEX,
    JOINT_OPEN_TO,
    NUM_HANDLES,
    RECEPTACLE_INDEX,
    RECEPTACLES,
)
from .episodes import EpisodeSet, PackedStrings
from .goals import Circuit, Circuits, Expression, Predicate, Variable, ground, parse, slot_name
from .published import PublishedEpisode, PublishedFile, PublishedFileError
from .rules import TaskError
from .state import MAX_OBJECTS, ObjectCatalog, SceneSet

HANDLE_OF_LINK = {("fridge_:0000", 2): 4, ("kitchen_counter_:0000", 2): 0, ("kitchen_counter_:0000", 5): 1,
                  ("kitchen_counter_:0000", 7): 2, ("kitchen_counter_:0000", 6): 3}
"""(articulated object, link) in `ao_states` -> handle. Bullet numbers the links of a ReplicaCAD URDF by the alphabet of
their joints' names; joints without a handle are left at 0."""


def published_episodes(file: PublishedFile, scenes: SceneSet, catalog: ObjectCatalog, rules: str) -> EpisodeSet:
    """The episodes of a file over `scenes` and `catalog`, which must hold what the file names.

    Raises PublishedFileError, which names file and episode, for an unknown scene, object, receptacle or predicate, and
    for goals that name what is not there."""
    scene_rows = {name: i for i, name in enumerate(scenes.names)}
    model_rows = {name: i for i, name in enumerate(catalog.names)}
    category = catalog.category.numpy()
    rows = []
    for episode in file.episodes:
        try:
            rows.append(_row(episode, scene_rows, model_rows, category, rules))
        except TaskError as error:
            raise PublishedFileError(f"{file.path}: episode {episode.episode_id!r}: {str(error)[:300]}") from None
    arrays = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0] if name not in _OTHER}
    texts = ("instruction", "instruction_type", "goal", "subgoals")
    return EpisodeSet(
        **arrays,
        episode_id=torch.tensor(_numbers(file), dtype=torch.int64),
        wording=torch.full((len(rows),), -1, dtype=torch.int16),
        **{name: PackedStrings.pack([row[name] for row in rows]) for name in texts},  # type: ignore[arg-type]
        circuits=Circuits.pack([row["circuit"] for row in rows]),
        scene_names=list(scenes.names),
        model_names=list(catalog.names),
        rules=rules,
        split=file.path.stem,
    )


_OTHER = {"instruction", "instruction_type", "goal", "subgoals", "circuit"}


def _numbers(file: PublishedFile) -> list[int]:
    """The episodes' ids, which must be whole numbers."""
    ids = [e.episode_id for e in file.episodes]
    for name in ids:
        if not (name.isascii() and name.isdecimal() and len(name) < 12):
            raise PublishedFileError(f"{file.path}: episode {name!r}: its id is no whole number")
    return [int(name) for name in ids]


def _row(
    episode: PublishedEpisode, scenes: Mapping[str, int], models: Mapping[str, int], category: np.ndarray, rules: str
) -> dict[str, Any]:
    """One row of every array, and the texts and the circuit."""
    if episode.scene not in scenes:
        raise TaskError(f"scene {episode.scene!r} is not among the {len(scenes)} scenes that were loaded")
    objects = episode.objects
    if len(objects) > MAX_OBJECTS:
        raise TaskError(f"{len(objects)} objects, but a room holds {MAX_OBJECTS} at most")
    if unknown := [o for o in objects if o.model not in models]:
        raise TaskError(f"object model {unknown[0].model!r} is unknown")
    model, receptacle, inside = (np.full(MAX_OBJECTS, -1, np.int64) for _ in range(3))
    position, yaw, tilt = (np.zeros((MAX_OBJECTS, *shape), np.float32) for shape in ((3,), (), (2,)))
    for slot, o in enumerate(objects):
        model[slot] = models[o.model]
        x, y, z = o.transform[:3, 3]
        position[slot] = x, -z, y
        if o.receptacle is not None:
            if o.receptacle not in RECEPTACLE_INDEX:
                raise TaskError(f"receptacle {o.receptacle!r} of object {o.name} is unknown")
            receptacle[slot] = RECEPTACLE_INDEX[o.receptacle]
            inside[slot] = receptacle[slot] if RECEPTACLES[receptacle[slot]].joint >= 0 else -1
    if objects:
        yaw[: len(objects)], tilt[: len(objects)] = turns(np.stack([o.transform[:3, :3] for o in objects]))
    slots = {o.name: slot_name(i) for i, o in enumerate(objects)}
    object_category = np.where(model < 0, -1, category[model])
    goal, subgoals, circuit = _goal(episode, slots, object_category, rules)
    return {
        "scene": np.int32(scenes[episode.scene]),
        "object_model": model.astype(np.int16),
        "object_position": position,
        "object_yaw": yaw,
        "object_tilt": tilt,
        "object_inside": inside.astype(np.int8),
        "object_receptacle": receptacle.astype(np.int8),
        "joint": _joint(episode),
        "start_pose": _start_pose(episode),
        "instruction": episode.instruction,
        "instruction_type": kind_of(goal),
        "goal": json.dumps(goal.to_dict()),
        "subgoals": json.dumps(subgoals),
        "circuit": circuit,
    }


def _goal(
    episode: PublishedEpisode, slots: Mapping[str, str], object_category: np.ndarray, rules: str
) -> tuple[Expression, list[list[str]], Circuit]:
    """Goal and subgoals with objects called by slot, and their circuit."""
    goal = _by_slot(parse(episode.goal), slots)
    subgoals = [[str(_by_slot(Predicate(*split_predicate(p)), slots)) for p in ps] for ps in episode.subgoals]
    present = {CATEGORIES[c] for c in object_category if c >= 0} | {"receptacle"}
    for variable in _variables(goal):
        if variable.type.replace("_", " ") not in present:
            raise TaskError(f"the goal speaks of a {variable.type}, but there is none in the room")
    return goal, subgoals, ground(goal, subgoals, object_category, rules)


def _by_slot(term: Any, slots: Mapping[str, str]) -> Any:
    """The same predicate or expression with the objects' names replaced."""
    if isinstance(term, Predicate):
        return Predicate(term.name, tuple(slots.get(a, a) for a in term.arguments))
    return replace(term, terms=tuple(_by_slot(t, slots) for t in term.terms))


def _predicates(expression: Expression) -> set[str]:
    """The names of the predicates in an expression."""
    terms = (_predicates(t) if isinstance(t, Expression) else {t.name} for t in expression.terms)
    return set().union(*terms)


def _variables(expression: Expression) -> list[Variable]:
    inner = [v for term in expression.terms if isinstance(term, Expression) for v in _variables(term)]
    return [*expression.variables, *inner]


def _joint(episode: PublishedEpisode) -> np.ndarray:
    """Where the 5 joints stand at the start, (5,): as saved, then as `start_preds` ask."""
    joint = np.zeros(NUM_HANDLES, np.float32)
    for link, value in episode.joints.items():
        if link in HANDLE_OF_LINK:
            joint[HANDLE_OF_LINK[link]] = value
    for text in episode.start_predicates:
        name, arguments = split_predicate(text)
        if name == "not_holding":  # as every episode starts
            continue
        state, _, thing = name.partition("_")
        handle = HANDLE_INDEX.get(arguments[0], -1) if arguments else -1
        if state not in ("opened", "closed") or handle < 0 or (thing == "fridge") != (handle == FRIDGE_HANDLE):
            raise TaskError(f"start predicate {text!r} cannot be brought about: only furniture is opened or closed")
        joint[handle] = JOINT_OPEN_TO[handle] if state == "opened" else 0.0
    return joint


def _start_pose(episode: PublishedEpisode) -> np.ndarray:
    """x, y, yaw, (3,); NaN where it is drawn at reset."""
    if episode.start is None:
        return np.full(3, np.nan, np.float32)
    x, _, z, yaw = episode.start
    return np.array([x, -z, yaw], np.float32)


def turns(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rotations (K, 3, 3) of Habitat's frame as a tilt and then a yaw in ours: yaw (K,) rad, tilt (K, 2), see
    `EpisodeSet.object_tilt`. An object on its head has yaw 0."""
    r = rotation.transpose(1, 2, 0)
    # The unit quaternion of a rotation is the eigenvector of the largest eigenvalue (Bar-Itzhack 2000, eq. 5)
    k = np.array([
        [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
        [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
        [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ])  # fmt: skip
    x, up, minus_y, w = np.linalg.eigh(k.transpose(2, 0, 1))[1][..., -1].T
    size = np.hypot(w, up)
    level = size < 1e-6
    cos, sin = np.where(level, 1.0, w / np.maximum(size, 1e-9)), np.where(level, 0.0, up / np.maximum(size, 1e-9))
    y = -minus_y
    return np.arctan2(2 * sin * cos, cos * cos - sin * sin), np.stack([cos * x + sin * y, cos * y - sin * x], axis=-1)


def kind_of(goal: Expression) -> str:
    """The type of our own instructions that ask for such a goal; "other" where there is none."""
    text = [t for t in goal.terms if isinstance(t, Predicate)]
    names = sorted(t.name for t in text)
    if goal.quantifier == "FORALL":
        return "place_all"
    if goal.quantifier == "EXISTS" and "robot_at" in names:
        return "find_object"
    if goal.quantifier == "EXISTS" and "on_top" in names and len(goal.variables) <= 3:
        if len(goal.variables) == 2 and len({t.arguments[1] for t in text if t.name == "on_top"}) == 2:
            return "place_two_apart"
        return ("place_one", "place_two", "place_three")[len(goal.variables) - 1]
    if goal.quantifier is None and names == ["not_holding"] and len(goal.terms) == 2:
        return "clear"
    single = {"opened_fridge": "open_fridge", "closed_fridge": "close_fridge", "robot_at": "go_to_receptacle"}
    if len(goal.terms) == 1 and names:
        return single.get(names[0], "other")
    fridge, moved = {"opened_fridge", "closed_fridge"} & _predicates(goal), "on_top" in _predicates(goal)
    return "if_fridge" if fridge and moved else "other"
