"""Episodes for the built-in splits: drawn in batches, each solved by the oracle before it counts."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import keyed_random
from .arrangements import Arrangement, Arranger
from .atoms import truth
from .entities import (
    CATEGORIES,
    FRIDGE_HANDLE,
    HANDLES,
    JOINT_OPEN_TO,
    NUM_TRAIN_CATEGORIES,
    RECEPTACLES,
    TASK_RECEPTACLES,
)
from .episodes import EpisodeSet, PackedStrings, concat
from .goals import Circuits, evaluate, ground, parse, slot_name
from .instructions import Part, render, wording_ids
from .planners import Oracle, view_of
from .semantics import NUM_DRAWS, apply, valid_actions
from .state import ObjectCatalog, SceneSet

MAX_STEPS = 32
_BATCH = 512
_MAX_BARREN = 20  # batches in a row without one good episode
_TWICE = 0.15  # share of target categories that have a second object in the room
_VERIFY_STREAM = 102


class GeneratorError(ValueError):
    """A split that cannot be generated from these scenes and models, in one line."""


@dataclass(frozen=True)
class SplitSpec:
    """What episodes of a split are made of."""

    scenes: str  # "train" or "heldout"
    models: str  # the same, of object models
    wordings: Part
    shares: Mapping[str, float]  # instruction types; sums to 1


_PUBLISHED_TRAIN = {
    "place_one": 0.29, "place_two": 0.15, "close_fridge": 0.15, "place_from": 0.15, "go_to_receptacle": 0.14,
    "clear": 0.12,
}
_TRAIN = {
    "place_one": 0.27, "place_from": 0.15, "place_two": 0.12, "place_two_apart": 0.04, "swap": 0.05, "clear": 0.11,
    "close_fridge": 0.09, "open_fridge": 0.04, "go_to_receptacle": 0.10, "find_object": 0.03,
}
_NEW_SCENES = {
    "place_one": 0.22, "place_from": 0.22, "place_two": 0.18, "swap": 0.14, "clear": 0.14, "open_fridge": 0.05,
    "close_fridge": 0.05,
}
_REPHRASING = {"place_two": 0.16, "place_one": 0.15, "clear": 0.25, "place_from": 0.29, "close_fridge": 0.15}

SPLITS: dict[str, SplitSpec] = {
    "train": SplitSpec("train", "train", "train", _TRAIN),  # all ten types, near the published shares
    "train_validation": SplitSpec("train", "train", "train", _PUBLISHED_TRAIN),
    "new_scenes": SplitSpec("heldout", "heldout", "train", _NEW_SCENES),
    "rephrasing": SplitSpec("heldout", "heldout", "eval", _REPHRASING),
}
"""The splits, with the shares of the published files (but `train`)."""

_NONE = -1
_FRIDGE_STATE = {
    "open_fridge": f"opened_fridge({HANDLES[FRIDGE_HANDLE]})",
    "close_fridge": f"closed_fridge({HANDLES[FRIDGE_HANDLE]})",
}


@dataclass
class _Draft:
    """What an episode is about. Object i of `categories` starts on `sources[i]`; `targets[i]` is where it is wanted."""

    kind: str
    categories: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()
    targets: tuple[int, ...] = ()
    doubles: tuple[int, ...] = ()  # receptacle of a second object of each category, -1: none
    fridge_open: bool = False


def generate(
    scenes: SceneSet,
    catalog: ObjectCatalog,
    split: str,
    count: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> EpisodeSet:
    """`count` episodes of a split, each solved by the oracle within 32 steps; no two share scene, arrangement and goal.

    The shares of the types are exact for any count; the same arguments give the same episodes. `progress(done,
    rejected)` is called after every batch. `GeneratorError` for an unknown split, or scenes and models that do not do.
    """
    if split not in SPLITS:
        raise GeneratorError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if count < 1:
        raise GeneratorError(f"the number of episodes must be at least 1, not {count}")
    spec = SPLITS[split]
    in_split = np.array([i for i, s in enumerate(scenes.splits) if s == spec.scenes])
    models = np.array([i for i, s in enumerate(catalog.splits) if s == spec.models], dtype=np.int64)
    if not len(in_split):
        raise GeneratorError(f"split {split!r} needs {spec.scenes} scenes, and there are none")
    lacking = set(range(NUM_TRAIN_CATEGORIES)) - set(catalog.category[torch.from_numpy(models)].tolist())
    if lacking:
        what = f"{spec.models} models of {CATEGORIES[min(lacking)]!r}"
        raise GeneratorError(f"split {split!r} needs {what}, and there are none")
    rng = np.random.default_rng([seed, zlib.crc32(split.encode())])
    arranger = Arranger(scenes, catalog, models)
    kinds = _exact_shares(spec.shares, count)
    rng.shuffle(kinds)
    pending = list(range(count))
    done: list[int] = []
    parts: list[EpisodeSet] = []
    taken: set[bytes] = set()
    rejected = barren = 0
    while pending:
        now, pending = pending[:_BATCH], pending[_BATCH:]
        drafts = [_draft(rng, kinds[i]) for i in now]
        scene = in_split[rng.integers(len(in_split), size=len(now))]
        room = arranger.draw(rng, scene, *_required(drafts))
        good = room.complete.copy()
        rows = np.flatnonzero(good)  # of the drafts
        if len(rows):
            batch = _build(rng, spec, [drafts[i] for i in rows], scene[rows], room.rows(rows), scenes, catalog)
            batch.episode_id = torch.tensor(now)[rows]
            good[rows] = verify(batch, scenes, catalog, seed) & _unseen(batch, taken)
            parts.append(batch.select(np.flatnonzero(good[rows]).tolist()))
        rejected += int((~good).sum())
        barren = 0 if good.any() else barren + 1
        if barren == _MAX_BARREN:
            raise GeneratorError(f"no episode of {split!r} works in these scenes: nothing fits or is in reach")
        done += [now[i] for i in np.flatnonzero(good)]
        pending = [now[i] for i in np.flatnonzero(~good)] + pending
        if progress:
            progress(len(done), rejected)
    episodes = concat(parts).select(np.argsort(done).tolist())
    episodes.split, episodes.seed, episodes.rejected = split, seed, rejected
    return episodes


def _exact_shares(shares: Mapping[str, float], count: int) -> list[str]:
    """`count` names in proportion to their shares, by largest remainder."""
    exact = {k: s * count / sum(shares.values()) for k, s in shares.items()}
    number = {k: int(x + 1e-9) for k, x in exact.items()}
    for k in sorted(exact, key=lambda k: number[k] - exact[k])[: count - sum(number.values())]:
        number[k] += 1
    return [k for k, n in number.items() for _ in range(n)]


def _draft(rng: np.random.Generator, kind: str) -> _Draft:
    """Draws categories and receptacles of a task. Nothing wanted on a receptacle starts there."""
    if kind in ("open_fridge", "close_fridge"):
        return _Draft(kind, fridge_open=kind == "close_fridge")
    a, b, c, d = rng.permutation(TASK_RECEPTACLES)[:4].tolist()
    if kind == "go_to_receptacle":
        return _Draft(kind, targets=(a,))
    num = 2 if kind in ("place_two", "place_two_apart", "swap") else 1
    categories = tuple(rng.permutation(NUM_TRAIN_CATEGORIES)[:num].tolist())
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    if kind == "place_two":
        sources, targets = (b, b if rng.random() < 0.25 else c), (a, a)
    elif kind == "place_two_apart":
        sources, targets = (c, c if rng.random() < 0.25 else d), (a, b)
    elif kind == "swap":
        sources, targets = (a, b), (b, a)
    else:  # place_one, place_from, clear, find_object
        sources, targets = (a,), (b if kind.startswith("place") else _NONE,)
    doubles = []
    for source, target in zip(sources, targets, strict=True):
        others = [r for r in TASK_RECEPTACLES if r not in (source, target)]
        place = source if kind == "clear" and rng.random() < 0.5 else others[int(rng.integers(len(others)))]
        doubles.append(place if rng.random() < _TWICE else _NONE)
    return _Draft(kind, categories, sources, targets, tuple(doubles))


def _required(drafts: list[_Draft]) -> tuple[np.ndarray, np.ndarray]:
    """Category and receptacle (B, 4) of the objects that drafts are about, then of their doubles; -1: none."""
    category, receptacle = np.full((len(drafts), 4), _NONE), np.full((len(drafts), 4), _NONE)
    for i, d in enumerate(drafts):
        for k, c in enumerate(d.categories):
            category[i, k], receptacle[i, k] = c, d.sources[k]
            if d.doubles[k] != _NONE:
                category[i, 2 + k], receptacle[i, 2 + k] = c, d.doubles[k]
    return category, receptacle


def _unseen(episodes: EpisodeSet, taken: set[bytes]) -> np.ndarray:
    """Episodes whose scene, arrangement and goal no earlier one has, bool (E,); adds them to `taken`."""
    fresh = np.zeros(len(episodes), dtype=bool)
    for i in range(len(episodes)):
        room = episodes.object_model[i].numpy().tobytes() + episodes.object_position[i].numpy().tobytes()
        key = hashlib.blake2b(f"{int(episodes.scene[i])} {episodes.goal[i]}".encode() + room, digest_size=16).digest()
        fresh[i] = key not in taken
        taken.add(key)
    return fresh


def _build(
    rng: np.random.Generator, spec: SplitSpec, drafts: list[_Draft], scene: np.ndarray, room: Arrangement,
    scenes: SceneSet, catalog: ObjectCatalog,
) -> EpisodeSet:
    """Episodes from drafts and their rooms, not yet verified."""
    batch = len(drafts)
    joint = np.zeros((batch, len(HANDLES)), np.float32)
    joint[[d.fridge_open for d in drafts], FRIDGE_HANDLE] = JOINT_OPEN_TO[FRIDGE_HANDLE]
    object_category = np.where(room.model >= 0, catalog.category.numpy()[room.model], -1)
    wording, texts, goals, subgoals, circuits = [], [], [], [], []
    for i, d in enumerate(drafts):
        ids = wording_ids(d.kind, spec.wordings)
        wording.append(ids[int(rng.integers(len(ids)))])
        texts.append(render(d.kind, wording[-1], _slots(d)))
        goal, steps = _goal(d), _subgoals(d, [slot_name(s) for s in room.slot_of[i]])
        goals.append(json.dumps(goal))
        subgoals.append(json.dumps(steps))
        circuits.append(ground(parse(goal), steps, object_category[i]))
    as_tensor = torch.from_numpy
    return EpisodeSet(
        scene=as_tensor(scene.astype(np.int32)),
        object_model=as_tensor(room.model.astype(np.int16)),
        object_position=as_tensor(room.position),
        object_yaw=as_tensor(room.yaw),
        object_inside=as_tensor(room.inside.astype(np.int8)),
        object_receptacle=as_tensor(room.receptacle.astype(np.int8)),
        joint=as_tensor(joint),
        start_pose=torch.full((batch, 3), float("nan")),
        wording=torch.tensor(wording, dtype=torch.int16),
        episode_id=torch.zeros(batch, dtype=torch.int64),
        instruction=PackedStrings.pack(texts),
        instruction_type=PackedStrings.pack([d.kind for d in drafts]),
        goal=PackedStrings.pack(goals),
        subgoals=PackedStrings.pack(subgoals),
        circuits=Circuits.pack(circuits),
        scene_names=list(scenes.names),
        model_names=list(catalog.names),
    )


def _slots(d: _Draft) -> dict[str, str | int]:
    """What fills the slots of a draft's wording."""
    slots: dict[str, str | int] = {"target": "fridge"} if d.kind.endswith("fridge") else {}
    for k, name in enumerate(("", "2")):
        if k < len(d.categories):
            slots[f"object{name}"] = CATEGORIES[d.categories[k]]
            slots[f"source{name}"] = RECEPTACLES[d.sources[k]].name
            if d.kind == "clear" and d.doubles[k] == d.sources[k]:
                slots[f"object{name}_count"] = 2
        if k < len(d.targets) and d.targets[k] != _NONE:
            slots[f"target{name}"] = RECEPTACLES[d.targets[k]].name
    return slots


def _goal(d: _Draft) -> dict[str, Any]:
    """The goal expression, in the format of the published files."""
    inputs = [{"name": name, "expr_type": CATEGORIES[c]} for name, c in zip("XY", d.categories, strict=False)]
    exists = {"expr_type": "AND", "quantifier": "EXISTS", "inputs": inputs}
    if d.kind in _FRIDGE_STATE:
        return {"expr_type": "AND", "sub_exprs": [_FRIDGE_STATE[d.kind]]}
    if d.kind == "go_to_receptacle":
        return {"expr_type": "AND", "sub_exprs": [f"robot_at({RECEPTACLES[d.targets[0]].name})"]}
    if d.kind == "find_object":
        return exists | {"sub_exprs": ["robot_at(X)"]}
    if d.kind == "clear":
        none = exists | {"expr_type": "NAND", "sub_exprs": [f"on_top(X, {RECEPTACLES[d.sources[0]].name})"]}
        return {"expr_type": "AND", "sub_exprs": ["not_holding()", none]}
    placed = [f"on_top({v['name']}, {RECEPTACLES[t].name})" for v, t in zip(inputs, d.targets, strict=True)]
    return exists | {"sub_exprs": [*placed, "not_holding()"]}


def _subgoals(d: _Draft, names: list[str]) -> list[list[str]]:
    """Predicates that come true one after the other along a solution, each list together."""
    if d.kind in _FRIDGE_STATE:
        return [[f"robot_at({HANDLES[FRIDGE_HANDLE]})"], [_FRIDGE_STATE[d.kind]]]
    if d.kind == "go_to_receptacle":
        return [[f"robot_at({RECEPTACLES[d.targets[0]].name})"]]
    if d.kind == "find_object":
        return [[f"robot_at({names[0]})"]]
    if d.kind == "clear":
        taken = names[::2] if d.doubles[0] == d.sources[0] else names[:1]  # two objects: the one and its double
        return [[f"robot_at({RECEPTACLES[d.sources[0]].name})"], *([f"holding({name})"] for name in taken)]
    steps: list[list[str]] = []
    placed: list[str] = []
    for name, source, target in zip(names, d.sources, d.targets, strict=False):
        at, there = RECEPTACLES[source].name, RECEPTACLES[target].name
        steps += [[*placed, f"robot_at({at})"], [f"holding({name})"], [f"holding({name})", f"robot_at({there})"]]
        placed.append(f"on_top({name}, {there})")
        steps.append([*placed, "not_holding()"])
    return steps


def verify(episodes: EpisodeSet, scenes: SceneSet, catalog: ObjectCatalog, seed: int) -> np.ndarray:
    """Whether the oracle reaches each goal within 32 steps from a random start, bool (E,).

    Goals about objects or furniture must not hold at the start; those about where the robot is may."""
    num = len(episodes)
    running = torch.arange(num)
    state = episodes.start_state(running, scenes, catalog, seed)
    solved = torch.zeros(num, dtype=torch.bool)
    at_start = evaluate(episodes.circuits, truth(state))[0].numpy()
    changes = np.array([kind not in ("go_to_receptacle", "find_object") for kind in episodes.instruction_type])
    rows = [episodes.episode(i) for i in range(num)]
    oracles = [Oracle() for _ in range(num)]
    for step in range(MAX_STEPS):
        valid, visible = valid_actions(state).numpy(), (state.object_model >= 0).numpy()
        action = []
        for i, e in enumerate(running.tolist()):
            view = view_of(state, rows[e], visible, i, valid)
            if step == 0:
                oracles[e].reset(view)
            action.append(oracles[e].act(view))
        steps = torch.full_like(running, step)
        draws = keyed_random.uniform(seed, episodes.episode_id[running], steps, _VERIFY_STREAM, (NUM_DRAWS,))
        apply(state, torch.tensor(action), draws, catalog.half_size)
        reached = evaluate(episodes.circuits.rows(running), truth(state))[0]
        solved[running[reached]] = True
        running, state = running[~reached], state.rows(~reached)
        if not len(running):
            break
    return solved.numpy() & ~(changes & at_start)
