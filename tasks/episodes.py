"""Sets of episodes as packed arrays and strings, and their file format: a safetensors file, which can hold no code."""

from __future__ import annotations

import json
import math
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from . import extensions
from .atoms import NUM_ATOMS, OWN_SIZES
from .episode_layout import (
    ABOUT,
    ARRAYS,
    CIRCUITS,
    FORMAT_VERSION,
    METADATA_KEY,
    STRINGS,
    EpisodeFileError,
    check_tensors,
    checksums,
    read_about,
    rows_of,
)
from .goals import Circuits, ground, parse
from .keyed_random import uniform
from .state import MAX_OBJECTS, NOT_GIVEN, ObjectCatalog, SceneSet, WorldState
from .strings import PackedStrings, join

__all__ = ["Episode", "EpisodeFileError", "EpisodeSet", "PackedStrings", "concat", "episode_key", "load", "save"]

START_STREAM = 101
"""The keyed random stream that start poses are drawn from."""
OWN_FACTS: list[Any] = [[p.name, size] for p, size in zip(extensions.PREDICATES, OWN_SIZES, strict=True)]
"""Predicates of extensions and how many facts each is: numbers of facts in a file depend on them."""
_OBJECT_ARRAYS = {"object_model": -1, "object_position": 0, "object_yaw": 0, "object_inside": -1,
                  "object_receptacle": -1}
"""Arrays over object slots, and what empty slots hold."""


@dataclass(frozen=True)
class Episode:
    """One row of an EpisodeSet, for people and planners."""

    episode_id: int
    scene: int
    object_model: np.ndarray  # (M,)
    object_position: np.ndarray  # (M, 3)
    object_yaw: np.ndarray  # (M,)
    object_inside: np.ndarray  # (M,)
    object_receptacle: np.ndarray  # (M,)
    joint: np.ndarray  # (5,)
    start_pose: np.ndarray  # (3,), NaN: drawn at reset
    instruction: str
    instruction_type: str
    wording: int
    goal: dict[str, Any]
    subgoals: list[list[str]]


@dataclass
class EpisodeSet:
    """E episodes over the scenes `scene_names` and the object models `model_names`."""

    scene: Tensor  # (E,) int32 index into scene_names
    object_model: Tensor  # (E, S) int16 index into model_names, -1: empty slot; the slots from S to M are empty
    object_position: Tensor  # (E, S, 3) float32
    object_yaw: Tensor  # (E, S) float32
    object_inside: Tensor  # (E, S) int8 drawer or fridge the object lies in, -1: none
    object_receptacle: Tensor  # (E, S) int8 receptacle on or in which it starts, -1: empty slot
    joint: Tensor  # (E, 5) float32
    start_pose: Tensor  # (E, 3) float32 x, y, yaw; NaN: drawn at reset
    wording: Tensor  # (E,) int16
    episode_id: Tensor  # (E,) int64
    instruction: Sequence[str]
    instruction_type: Sequence[str]
    goal: Sequence[str]  # JSON of the expression
    subgoals: Sequence[str]  # JSON of a list of lists of predicates
    circuits: Circuits  # the goals, grounded
    scene_names: list[str]
    model_names: list[str]
    rules: str = "clean"
    split: str = ""
    seed: int = 0
    rejected: int = field(default=0, compare=False)  # drafts the generator threw away on the way
    object_tilt: Tensor | None = None  # (E, M, 2) x and y of the quaternion (w >= 0, z = 0) that tilts an object before
    # its yaw turns it; published episodes have it, files of ours do not

    def __len__(self) -> int:
        return self.scene.shape[0]

    def episode(self, i: int) -> Episode:
        """Row `i`, with goal and subgoals read."""
        arrays = {name: getattr(self, name)[i : i + 1] for name, (_, shape) in ARRAYS.items() if shape}
        arrays = {name: _all_slots(name, a)[0].numpy() for name, a in arrays.items()}
        return Episode(
            episode_id=int(self.episode_id[i]),
            scene=int(self.scene[i]),
            wording=int(self.wording[i]),
            instruction=self.instruction[i],
            instruction_type=self.instruction_type[i],
            goal=json.loads(self.goal[i]),
            subgoals=json.loads(self.subgoals[i]),
            **arrays,
        )

    def select(self, indices: Tensor | Sequence[int]) -> EpisodeSet:
        """The given rows as a set of their own, in that order."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        arrays: dict[str, Any] = {name: getattr(self, name)[index] for name in ARRAYS}
        for name in STRINGS:
            arrays[name] = PackedStrings.pack(getattr(self, name)).rows(index)
        tilt = None if self.object_tilt is None else self.object_tilt[index]
        return EpisodeSet(**arrays, circuits=self.circuits.rows(index), object_tilt=tilt, **self._about())

    def _about(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ABOUT}

    def to(self, device: torch.device | str) -> EpisodeSet:
        """The same episodes with what worlds are reset from on `device`; texts stay where they are."""
        arrays: dict[str, Any] = {name: getattr(self, name).to(device) for name in ARRAYS}
        tilt = None if self.object_tilt is None else self.object_tilt.to(device)
        return replace(self, **arrays, circuits=self.circuits.to(device), object_tilt=tilt)

    def start_state(
        self, indices: Tensor, scenes: SceneSet, catalog: ObjectCatalog, seed: int, occurrence: Tensor | None = None
    ) -> WorldState:
        """The worlds in which the given episodes (R,) begin, hands empty; set, scenes and indices on one device.

        Start poses that are NaN are drawn from the scene's free points, yaw uniform, keyed by (seed, episode_id) and by
        `occurrence` (R,), how often the episode has been played before."""
        device = scenes.free_xy.device
        arrays = {name: _all_slots(name, getattr(self, name)[indices]) for name in ARRAYS}
        scene, model = arrays["scene"].long(), arrays["object_model"].long()
        first = torch.zeros_like(arrays["episode_id"])
        key = episode_key(arrays["episode_id"], first if occurrence is None else occurrence)
        u = uniform(seed, key, first, START_STREAM, (2,))
        free = scenes.free_xy[scene]
        spot = (u[:, 0] * free.shape[1]).long().clamp(max=free.shape[1] - 1)
        drawn = torch.cat([free[torch.arange(len(scene), device=device), spot], (u[:, 1:] * 2 - 1) * math.pi], dim=1)
        empty = model < 0
        furniture = ("receptacle_center", "receptacle_half", "receptacle_yaw", "receptacle_slide", "surface_z",
                     "handle_position", "nav_pose", "receptacle_span", "container_center", "container_half",
                     "container_slide", "nav_height")
        return WorldState(
            scene=scene,
            robot=torch.where(arrays["start_pose"].isnan(), drawn, arrays["start_pose"]),
            joint=arrays["joint"],
            held=torch.full_like(scene, -1),
            object_model=model,
            object_category=torch.where(empty, -1, catalog.category[model.clamp(min=0)]),
            object_position=arrays["object_position"],
            object_yaw=arrays["object_yaw"],
            object_inside=arrays["object_inside"].long(),
            robot_height=scenes.floor_height[scene],
            object_tilt=NOT_GIVEN if self.object_tilt is None else self.object_tilt[indices],
            **{name: getattr(scenes, name)[scene] for name in furniture},
        )


def with_goal(
    episodes: EpisodeSet,
    catalog: ObjectCatalog,
    instruction: str,
    goal: dict[str, Any],
    subgoals: Sequence[Sequence[str]] = (),
) -> EpisodeSet:
    """The same rooms with another task, the same in all. Raises TaskError for a goal that means nothing there."""
    category = torch.cat([catalog.category, torch.tensor([-1])])  # index -1, an empty slot, stays -1
    expression, num = parse(goal), len(episodes)
    circuits = [ground(expression, subgoals, category[model.long()].numpy(), episodes.rules)
                for model in _all_slots("object_model", episodes.object_model)]  # fmt: skip
    return replace(
        episodes,
        instruction=[instruction] * num,
        instruction_type=["own"] * num,
        wording=torch.full_like(episodes.wording, -1),
        goal=[json.dumps(goal)] * num,
        subgoals=[json.dumps([list(part) for part in subgoals])] * num,
        circuits=Circuits.pack(circuits),
    )


def episode_key(episode_id: Tensor, occurrence: Tensor) -> Tensor:
    """What names an episode and its repetition in keyed random numbers, int64 (R,)."""
    return episode_id + (occurrence << 40)


def concat(sets: Sequence[EpisodeSet]) -> EpisodeSet:
    """The episodes of all sets one after the other; names, rules, split and seed must agree (`ValueError`)."""
    first = sets[0]
    for other in sets[1:]:
        for name in ("scene_names", "model_names", "rules", "split", "seed"):
            if getattr(other, name) != getattr(first, name):
                raise ValueError(f"episode sets with different {name} cannot be joined")
    slots = max(s.object_model.shape[1] for s in sets)
    arrays: dict[str, Any] = {
        name: torch.cat([_all_slots(name, getattr(s, name), slots) for s in sets]) for name in ARRAYS
    }
    arrays |= {name: join([getattr(s, name) for s in sets]) for name in STRINGS}
    about = first._about() | {"rejected": sum(s.rejected for s in sets)}
    return EpisodeSet(**arrays, circuits=_join_circuits([s.circuits for s in sets]), **about)


def _join_circuits(parts: Sequence[Circuits]) -> Circuits:
    def widened(name: str) -> list[Tensor]:
        columns = [part.tensors()[name] for part in parts]
        width = max(c.shape[-1] for c in columns)
        if columns[0].dim() == 1:
            return columns
        tail = [c[:, -1:] if name == "node_end" else c.new_zeros(len(c), 1) for c in columns]  # no sources of its own
        return [torch.cat([c, t.expand(-1, width - c.shape[1])], 1) for c, t in zip(columns, tail, strict=True)]

    return Circuits.from_tensors({name: torch.cat(widened(name)) for name in CIRCUITS})


def _all_slots(name: str, values: Tensor, slots: int = MAX_OBJECTS) -> Tensor:
    """Rows of an array, with empty slots after the last one if it is over fewer than `slots` object slots."""
    if name not in _OBJECT_ARRAYS or values.shape[1] == slots:
        return values
    missing = values.new_full((len(values), slots - values.shape[1], *values.shape[2:]), _OBJECT_ARRAYS[name])
    return torch.cat([values, missing], dim=1)


# -- files -------------------------------------------------------------------------------------------------------------


def save(episodes: EpisodeSet, path: str | Path) -> None:
    """Writes one safetensors file; the path holds either the old file or the whole new one, never a part."""
    tensors, about = _tensors(episodes), episodes._about()
    description = {"format_version": FORMAT_VERSION, "checksums": checksums(tensors, about), **about}
    if OWN_FACTS:
        description["own_facts"] = OWN_FACTS
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        arrays = {name: t.numpy() for name, t in tensors.items()}
        save_file(arrays, temporary, metadata={METADATA_KEY: json.dumps(description)})
        os.chmod(temporary, 0o644)  # mkstemp makes files only their owner can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _tensors(episodes: EpisodeSet) -> dict[str, Tensor]:
    """Everything a file holds, without the object slots that all episodes leave empty."""
    taken = (episodes.object_model >= 0).any(0).nonzero()
    slots = int(taken[-1]) + 1 if len(taken) else 0
    tensors = {name: getattr(episodes, name) for name in ARRAYS}
    tensors |= {name: tensors[name][:, :slots] for name in _OBJECT_ARRAYS}
    tensors |= {f"circuits.{k}": v for k, v in episodes.circuits.tensors().items()}
    for name in STRINGS:
        texts = PackedStrings.pack(getattr(episodes, name)).compact()
        tensors |= {f"{name}.blob": texts.blob, f"{name}.offsets": texts.offsets, f"{name}.which": texts.which}
    return {name: t.cpu().contiguous() for name, t in tensors.items()}


def load(path: str | Path, scenes: SceneSet | None = None, catalog: ObjectCatalog | None = None) -> EpisodeSet:
    """Maps an episode file into memory and checks it. `EpisodeFileError`, one line, for anything it should not hold.

    With `scenes` and `catalog`, the indices are those of their rows afterwards, whatever order the file has."""
    path = Path(path)
    if not path.is_file():
        raise EpisodeFileError(f"{path}: no such episode file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError, ValueError) as error:
        raise EpisodeFileError(f"{path}: no whole safetensors file ({str(error).splitlines()[0]})") from None
    try:
        about, claimed = read_about(metadata)
        shift = _shift(json.loads(metadata[METADATA_KEY]).get("own_facts", []))
        check_tensors(tensors, about, claimed)
        if shift:
            source = tensors["circuits.source"]
            tensors["circuits.source"] = torch.where(source >= NUM_ATOMS - shift, source + shift, source)
        episodes = _episode_set(tensors, about)
        if scenes is not None:
            rows = rows_of("scene", about["scene_names"], scenes.names)
            if rows is not None:
                episodes.scene, episodes.scene_names = rows[episodes.scene.long()].to(torch.int32), list(scenes.names)
        if catalog is not None:
            rows = rows_of("object model", about["model_names"], catalog.names)
            if rows is not None:
                rows = torch.cat([rows, torch.tensor([-1])]).to(torch.int16)  # index -1, an empty slot, stays -1
                episodes.object_model = rows[episodes.object_model.int()]
                episodes.model_names = list(catalog.names)
    except EpisodeFileError as error:
        raise EpisodeFileError(f"{path}: {error}") from None
    return episodes


def _shift(theirs: Any) -> int:
    """How many facts of extensions there are here that a file does not know; EpisodeFileError if it has others."""
    if theirs != OWN_FACTS[: len(theirs) if isinstance(theirs, list) else 0]:
        raise EpisodeFileError(f"made with other predicates of an extension ({str(theirs)[:60]}): name it in "
                               f"{extensions.VARIABLE}, or make the file again")  # fmt: skip
    return sum(int(size) for _, size in OWN_FACTS[len(theirs) :])


def _episode_set(tensors: dict[str, Tensor], about: dict[str, Any]) -> EpisodeSet:
    fields: dict[str, Any] = {name: tensors[name] for name in ARRAYS}
    for name in STRINGS:
        fields[name] = PackedStrings(*(tensors[f"{name}.{part}"] for part in ("blob", "offsets", "which")))
    circuits = Circuits.from_tensors({name: tensors[f"circuits.{name}"] for name in CIRCUITS})
    return EpisodeSet(**fields, circuits=circuits, **about)
