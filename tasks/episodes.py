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

from .atoms import NUM_ATOMS
from .entities import NUM_HANDLES, NUM_RECEPTACLES
from .goals import Circuits
from .keyed_random import uniform
from .rules import RULES
from .state import MAX_OBJECTS, ObjectCatalog, SceneSet, WorldState

FORMAT_VERSION = 1
START_STREAM = 101
"""The keyed random stream that start poses are drawn from."""
_METADATA_KEY = "llarp_episodes"

_M = MAX_OBJECTS
_ARRAYS: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {  # dtype and shape of one row
    "scene": (torch.int32, ()),
    "object_model": (torch.int16, (_M,)),
    "object_position": (torch.float32, (_M, 3)),
    "object_yaw": (torch.float32, (_M,)),
    "object_inside": (torch.int8, (_M,)),
    "object_receptacle": (torch.int8, (_M,)),
    "joint": (torch.float32, (NUM_HANDLES,)),
    "start_pose": (torch.float32, (3,)),
    "wording": (torch.int16, ()),
    "episode_id": (torch.int64, ()),
}
_STRINGS = ("instruction", "instruction_type", "goal", "subgoals")
_CIRCUITS = {"node_op": torch.int8, "node_end": torch.int16, "source": torch.int16, "num_subgoals": torch.int8,
             "depth": torch.int8}


class EpisodeFileError(ValueError):
    """An episode file that cannot be used: one line that names it and what is wrong."""


class PackedStrings(Sequence[str]):
    """E strings as one UTF-8 blob, uint8 (B,), and offsets, int64 (E + 1,)."""

    def __init__(self, blob: Tensor, offsets: Tensor):
        self.blob, self.offsets = blob, offsets

    @classmethod
    def pack(cls, texts: Sequence[str]) -> PackedStrings:
        data = [t.encode() for t in texts]
        offsets = np.zeros(len(data) + 1, np.int64)
        np.cumsum([len(d) for d in data], out=offsets[1:])
        return cls(torch.from_numpy(np.frombuffer(b"".join(data), np.uint8).copy()), torch.from_numpy(offsets))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i):  # type: ignore[no-untyped-def]  # int -> str; slices are not offered
        i = range(len(self))[int(i)]
        return self.blob[int(self.offsets[i]) : int(self.offsets[i + 1])].numpy().tobytes().decode()


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
    object_model: Tensor  # (E, M) int16 index into model_names, -1: empty slot
    object_position: Tensor  # (E, M, 3) float32
    object_yaw: Tensor  # (E, M) float32
    object_inside: Tensor  # (E, M) int8 drawer or fridge the object lies in, -1: none
    object_receptacle: Tensor  # (E, M) int8 receptacle on or in which it starts, -1: empty slot
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

    def __len__(self) -> int:
        return self.scene.shape[0]

    def episode(self, i: int) -> Episode:
        """Row `i`, with goal and subgoals read."""
        arrays = {name: getattr(self, name)[i].numpy() for name in _ARRAYS if _ARRAYS[name][1]}
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
        arrays: dict[str, Any] = {name: getattr(self, name)[index] for name in _ARRAYS}
        for name in _STRINGS:
            texts = getattr(self, name)
            arrays[name] = PackedStrings.pack([texts[i] for i in index.tolist()])
        return EpisodeSet(**arrays, circuits=self.circuits.rows(index), **self._about())

    def _about(self) -> dict[str, Any]:
        names = ("scene_names", "model_names", "rules", "split", "seed", "rejected")
        return {name: getattr(self, name) for name in names}

    def to(self, device: torch.device | str) -> EpisodeSet:
        """The same episodes with what worlds are reset from on `device`; texts stay where they are."""
        arrays: dict[str, Any] = {name: getattr(self, name).to(device) for name in _ARRAYS}
        return replace(self, **arrays, circuits=self.circuits.to(device))

    def start_state(
        self, indices: Tensor, scenes: SceneSet, catalog: ObjectCatalog, seed: int, occurrence: Tensor | None = None
    ) -> WorldState:
        """The worlds in which the given episodes (R,) begin, hands empty; set, scenes and indices on one device.

        Start poses that are NaN are drawn from the scene's free points, yaw uniform, keyed by (seed, episode_id) and by
        `occurrence` (R,), how often the episode has been played before."""
        device = scenes.free_xy.device
        arrays = {name: getattr(self, name)[indices] for name in _ARRAYS}
        scene, model = arrays["scene"].long(), arrays["object_model"].long()
        first = torch.zeros_like(arrays["episode_id"])
        key = episode_key(arrays["episode_id"], first if occurrence is None else occurrence)
        u = uniform(seed, key, first, START_STREAM, (2,))
        free = scenes.free_xy[scene]
        spot = (u[:, 0] * free.shape[1]).long().clamp(max=free.shape[1] - 1)
        drawn = torch.cat([free[torch.arange(len(scene), device=device), spot], (u[:, 1:] * 2 - 1) * math.pi], dim=1)
        empty = model < 0
        furniture = ("receptacle_center", "receptacle_half", "receptacle_yaw", "receptacle_slide", "surface_z",
                     "handle_position", "nav_pose", "receptacle_span")
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
            **{name: getattr(scenes, name)[scene] for name in furniture},
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
    arrays: dict[str, Any] = {name: torch.cat([getattr(s, name) for s in sets]) for name in _ARRAYS}
    for name in _STRINGS:
        arrays[name] = PackedStrings.pack([text for s in sets for text in getattr(s, name)])
    circuits = Circuits.none(sum(map(len, sets)))
    begin = 0
    for s in sets:
        circuits.assign(torch.arange(begin, begin + len(s)), s.circuits)
        begin += len(s)
    about = first._about() | {"rejected": sum(s.rejected for s in sets)}
    return EpisodeSet(**arrays, circuits=circuits, **about)


# -- files -------------------------------------------------------------------------------------------------------------


def save(episodes: EpisodeSet, path: str | Path) -> None:
    """Writes one safetensors file; the path holds either the old file or the whole new one, never a part."""
    tensors = {name: getattr(episodes, name) for name in _ARRAYS}
    tensors |= {f"circuits.{k}": v for k, v in episodes.circuits.tensors().items()}
    for name in _STRINGS:
        texts = getattr(episodes, name)
        packed = texts if isinstance(texts, PackedStrings) else PackedStrings.pack(texts)
        tensors |= {f"{name}.blob": packed.blob, f"{name}.offsets": packed.offsets}
    about = json.dumps({"format_version": FORMAT_VERSION, **episodes._about()})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=path.name, suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        arrays = {k: np.ascontiguousarray(v.cpu().numpy()) for k, v in tensors.items()}
        save_file(arrays, temporary, metadata={_METADATA_KEY: about})
        os.chmod(temporary, 0o644)  # mkstemp makes files only their owner can read
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


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
        about = _check_about(metadata)
        _check_tensors(tensors, about)
    except EpisodeFileError as error:
        raise EpisodeFileError(f"{path}: {error}") from None
    circuits = Circuits.from_tensors({name: tensors[f"circuits.{name}"] for name in _CIRCUITS})
    rows_of: dict[str, Any] = {name: tensors[name] for name in _ARRAYS}
    for name in _STRINGS:
        rows_of[name] = PackedStrings(tensors[f"{name}.blob"], tensors[f"{name}.offsets"])
    episodes = EpisodeSet(**rows_of, circuits=circuits, **about)
    if scenes is not None:
        rows = _rows_of(path, "scene", about["scene_names"], scenes.names)
        if rows is not None:
            episodes.scene, episodes.scene_names = rows[episodes.scene.long()].to(torch.int32), list(scenes.names)
    if catalog is not None:
        rows = _rows_of(path, "object model", about["model_names"], catalog.names)
        if rows is not None:
            rows = torch.cat([rows, torch.tensor([-1])])  # index -1, an empty slot, stays -1
            episodes.object_model = rows[episodes.object_model.long()].to(torch.int16)
            episodes.model_names = list(catalog.names)
    return episodes


def _check_about(metadata: dict[str, str]) -> dict[str, Any]:
    try:
        about = json.loads(metadata[_METADATA_KEY])
        version = about.pop("format_version")
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise EpisodeFileError("not an episode file of llarp (its description is missing)") from None
    if version != FORMAT_VERSION:
        raise EpisodeFileError(f"format version {version!r}, but {FORMAT_VERSION} is read here: generate it again")
    kinds = {"scene_names": list, "model_names": list, "rules": str, "split": str, "seed": int, "rejected": int}
    for name, kind in kinds.items():
        if not isinstance(about.get(name), kind):
            raise EpisodeFileError(f"its description has no proper {name!r}")
    if about["rules"] not in RULES:
        raise EpisodeFileError(f"rules {about['rules']!r} are unknown; known: {', '.join(RULES)}")
    return {name: about[name] for name in kinds}


def _check_tensors(tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    num = tensors["scene"].shape[0] if "scene" in tensors and tensors["scene"].dim() == 1 else -1
    width = {key: tensors[key].shape[-1] if key in tensors and tensors[key].dim() else 0
             for key in ("circuits.node_op", "circuits.source")}
    nodes, edges = width["circuits.node_op"], width["circuits.source"]
    wanted = {name: (dtype, (num, *shape)) for name, (dtype, shape) in _ARRAYS.items()}
    columns = {"node_op": (nodes,), "node_end": (nodes,), "source": (edges,)}
    wanted |= {f"circuits.{name}": (dtype, (num, *columns.get(name, ()))) for name, dtype in _CIRCUITS.items()}
    for name in _STRINGS:
        size = tensors[f"{name}.blob"].numel() if f"{name}.blob" in tensors else 0
        wanted |= {f"{name}.blob": (torch.uint8, (size,)), f"{name}.offsets": (torch.int64, (num + 1,))}
    for name, (dtype, shape) in wanted.items():
        found = tensors.get(name)
        if found is None:
            raise EpisodeFileError(f"array {name!r} is missing")
        if found.dtype != dtype or tuple(found.shape) != shape:
            raise EpisodeFileError(f"array {name!r} is {found.dtype} {tuple(found.shape)}, not {dtype} {shape}")
    limits = {
        "scene": (0, len(about["scene_names"])),
        "object_model": (-1, len(about["model_names"])),
        "object_inside": (-1, NUM_RECEPTACLES),
        "object_receptacle": (-1, NUM_RECEPTACLES),
        "circuits.node_op": (0, 4),
        "circuits.node_end": (0, edges + 1),
        "circuits.source": (0, NUM_ATOMS + nodes),
        "circuits.num_subgoals": (0, min(nodes, 13)),
        "circuits.depth": (0, 127),
    }
    for name, (low, high) in limits.items():
        if num and not bool(((tensors[name] >= low) & (tensors[name] < high)).all()):
            raise EpisodeFileError(f"array {name!r} has indices outside {low}..{high - 1}")
    for name in _STRINGS:
        offsets = tensors[f"{name}.offsets"]
        if offsets[0] != 0 or offsets[-1] != tensors[f"{name}.blob"].numel() or bool((offsets.diff() < 0).any()):
            raise EpisodeFileError(f"offsets of the strings {name!r} do not fit their text")


def _rows_of(path: Path, what: str, wanted: list[str], known: list[str]) -> Tensor | None:
    """Rows of `known` that have the names `wanted`, None if the lists are the same."""
    if wanted == known:
        return None
    index = {name: i for i, name in enumerate(known)}
    missing = [name for name in wanted if name not in index]
    if missing:
        more = f"{len(missing)} of {len(wanted)} names are"
        raise EpisodeFileError(f"{path}: {what} {missing[0]!r} is unknown here ({more})")
    return torch.tensor([index[name] for name in wanted], dtype=torch.int64)
