"""Episodes for the built-in splits: drawn in batches, each solved by the oracle before it counts."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import torch

from . import drafts
from .arrangements import Arrangement, Arranger
from .drafts import NONE, Draft
from .entities import CATEGORIES, FRIDGE_HANDLE, HANDLES, JOINT_OPEN_TO, TRAINING_KINDS
from .episodes import EpisodeSet, PackedStrings, concat
from .goals import Circuits, ground, parse, slot_name
from .instructions import render, wording_ids
from .parallel import spread
from .spatial import Relation, relations
from .splits import SPLITS, SplitSpec
from .state import ObjectCatalog, SceneSet
from .verify import solution_steps

__all__ = ["SPLITS", "GeneratorError", "generate", "room_keys"]

_CHUNK = 1024  # episodes that share a stream of random numbers: what one process makes at a time
_BATCH = 512
_MAX_BARREN = 20  # batches in a row without one good episode


class GeneratorError(ValueError):
    """A split that cannot be generated from these scenes and models, in one line."""


def generate(
    scenes: SceneSet,
    catalog: ObjectCatalog,
    split: str,
    count: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
    processes: int = 1,
) -> EpisodeSet:
    """`count` episodes of a split, each solved by the oracle within 32 steps; no two share scene, arrangement and goal.

    The shares of the types are exact for any count; the same arguments give the same episodes, however many
    `processes` share the work (more than one: the program's main module must be importable, as for any spawned
    process). `progress(done, rejected)` is called now and then. `GeneratorError` for an unknown split, or scenes and
    models that do not do."""
    if split not in SPLITS:
        raise GeneratorError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")
    if count < 1:
        raise GeneratorError(f"the number of episodes must be at least 1, not {count}")
    spec = SPLITS[split]
    _check_supply(scenes, catalog, split)
    kinds = np.array(_exact_shares(spec.shares, count))
    np.random.default_rng([seed, zlib.crc32(split.encode())]).shuffle(kinds)
    pending, turn = np.arange(count), 0
    taken: set[bytes] = set()
    parts: list[EpisodeSet] = []
    done = rejected = 0
    while len(pending):  # a second turn only replaces episodes that two chunks made alike
        chunks = [pending[i : i + _CHUNK] for i in range(0, len(pending), _CHUNK)]
        work = [(ids, kinds[ids].tolist(), turn) for ids in chunks]
        again: list[np.ndarray] = []
        for made in spread(partial(_chunk, scenes, catalog, split, seed), work, min(processes, len(work))):
            fresh = _fresh(made, taken)
            again.append(made.episode_id.numpy()[~fresh])
            parts.append(made if fresh.all() else made.select(np.flatnonzero(fresh).tolist()))
            done, rejected = done + int(fresh.sum()), rejected + made.rejected + int((~fresh).sum())
            if progress:
                progress(done, rejected)
        pending, turn = np.concatenate(again), turn + 1
    episodes = concat(parts)
    if turn > 1:
        episodes = episodes.select(episodes.episode_id.argsort())
    episodes.rejected = rejected
    return episodes


def room_keys(episodes: EpisodeSet) -> list[bytes]:
    """What names the scene and the arrangement of each episode: equal where both are."""
    keys = []
    arrays = (episodes.object_model.numpy(), episodes.object_position.numpy(), episodes.joint.numpy())
    for scene, *rows in zip(episodes.scene.tolist(), *arrays, strict=True):
        used = rows[0] >= 0
        content = b"".join(r.tobytes() for r in (rows[0][used], rows[1][used], rows[2]))
        keys.append(hashlib.blake2b(f"{scene} ".encode() + content, digest_size=16).digest())
    return keys


def _check_supply(scenes: SceneSet, catalog: ObjectCatalog, split: str) -> None:
    spec = SPLITS[split]
    if spec.scenes not in scenes.splits:
        raise GeneratorError(f"split {split!r} needs {spec.scenes} scenes, and there are none")
    needed = set(TRAINING_KINDS) | set(spec.categories)
    there = {c for c, s in zip(catalog.category.tolist(), catalog.splits, strict=True) if s == spec.models}
    if lacking := needed - there:
        what = f"{spec.models} models of {CATEGORIES[min(lacking)]!r}"
        raise GeneratorError(f"split {split!r} needs {what}, and there are none")


def _exact_shares(shares: Mapping[str, float], count: int) -> list[str]:
    """`count` names in proportion to their shares, by largest remainder."""
    exact = {k: s * count / sum(shares.values()) for k, s in shares.items()}
    number = {k: int(x + 1e-9) for k, x in exact.items()}
    for k in sorted(exact, key=lambda k: number[k] - exact[k])[: count - sum(number.values())]:
        number[k] += 1
    return [k for k, n in number.items() for _ in range(n)]


def _chunk(
    scenes: SceneSet, catalog: ObjectCatalog, split: str, seed: int, work: tuple[np.ndarray, list[str], int]
) -> EpisodeSet:
    """Episodes of the given ids and kinds, in that order; their random numbers depend on the first id and the turn."""
    ids, kinds, turn = work
    spec = SPLITS[split]
    rng = np.random.default_rng([seed, zlib.crc32(split.encode()), int(ids[0]), turn])
    in_split = np.array([i for i, s in enumerate(scenes.splits) if s == spec.scenes])
    models = np.array([i for i, s in enumerate(catalog.splits) if s == spec.models], dtype=np.int64)
    arranger = Arranger(scenes, catalog, models, spec.num_objects)
    facts: dict[int, list[Relation]] = {}

    def facts_of(scene: int) -> list[Relation]:
        if scene not in facts:
            facts[scene] = relations(scenes, scene)
        return facts[scene]

    pending = list(range(len(ids)))
    done: list[int] = []
    parts: list[EpisodeSet] = []
    taken: set[bytes] = set()
    rejected = barren = 0
    while pending:
        now, pending = pending[:_BATCH], pending[_BATCH:]
        scene = in_split[rng.integers(len(in_split), size=len(now))]
        drawn = [drafts.draw(rng, kinds[i], spec.categories, partial(facts_of, int(s)))
                 for i, s in zip(now, scene, strict=True)]
        good = np.array([d is not None for d in drawn])
        about = [d or Draft("none") for d in drawn]
        room = arranger.draw(rng, scene, *_required(about, spec))
        good &= room.complete
        rows = np.flatnonzero(good)
        if len(rows):
            batch = _build(rng, spec, [about[i] for i in rows], scene[rows], room.rows(rows), scenes, catalog)
            batch.episode_id = torch.from_numpy(ids[np.array(now)[rows]])
            batch.split, batch.seed = split, seed
            good[rows] = (solution_steps(batch, scenes, catalog, seed) > 0) & _fresh(batch, taken)
            parts.append(batch.select(np.flatnonzero(good[rows]).tolist()))
        rejected += int((~good).sum())
        barren = 0 if good.any() else barren + 1
        if barren == _MAX_BARREN:
            raise GeneratorError(f"no episode of {split!r} works in these scenes: nothing fits or is in reach")
        done += [now[i] for i in np.flatnonzero(good)]
        pending = [now[i] for i in np.flatnonzero(~good)] + pending
    episodes = concat(parts).select(np.argsort(done).tolist())
    episodes.rejected = rejected
    return episodes


def _required(about: Sequence[Draft], spec: SplitSpec) -> tuple[np.ndarray, np.ndarray]:
    """Category and receptacle (B, R) of the objects that have to be in each room; category -1: none, receptacle -1:
    anywhere. With a split's novel categories, all of them are."""
    needed = [list(d.required) for d in about]
    if spec.novel:
        for row in needed:
            row += [(c, NONE) for c in spec.categories if c not in {category for category, _ in row}]
    category = np.full((len(needed), max(1, *map(len, needed))), NONE)
    receptacle = category.copy()
    for i, row in enumerate(needed):
        for k, (c, r) in enumerate(row):
            category[i, k], receptacle[i, k] = c, r
    return category, receptacle


def _fresh(episodes: EpisodeSet, taken: set[bytes]) -> np.ndarray:
    """Episodes whose scene, arrangement and goal no earlier one has, bool (E,); adds them to `taken`."""
    fresh = np.zeros(len(episodes), dtype=bool)
    for i, (room, goal) in enumerate(zip(room_keys(episodes), episodes.goal, strict=True)):
        key = room + hashlib.blake2b(goal.encode(), digest_size=8).digest()
        fresh[i] = key not in taken
        taken.add(key)
    return fresh


def _build(
    rng: np.random.Generator, spec: SplitSpec, about: Sequence[Draft], scene: np.ndarray, room: Arrangement,
    scenes: SceneSet, catalog: ObjectCatalog,
) -> EpisodeSet:
    """Episodes from drafts and their rooms, not yet verified."""
    batch = len(about)
    joint = np.zeros((batch, len(HANDLES)), np.float32)
    joint[[d.fridge_open for d in about], FRIDGE_HANDLE] = JOINT_OPEN_TO[FRIDGE_HANDLE]
    object_category = np.where(room.model >= 0, catalog.category.numpy()[room.model], -1)
    wording, texts, goals, subgoals, circuits = [], [], [], [], []
    for i, d in enumerate(about):
        ids = wording_ids(d.kind, spec.wordings)
        wording.append(ids[int(rng.integers(len(ids)))])
        texts.append(render(d.kind, wording[-1], drafts.slots(d)))
        goal, steps = drafts.goal(d), drafts.subgoals(d, [slot_name(s) for s in room.slot_of[i]])
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
        instruction_type=PackedStrings.pack([d.kind for d in about]),
        goal=PackedStrings.pack(goals),
        subgoals=PackedStrings.pack(subgoals),
        circuits=Circuits.pack(circuits),
        scene_names=list(scenes.names),
        model_names=list(catalog.names),
    )
